"""From answers to samples: the journal's answers, in the order of the sets, through the quality gate into Parquet.

Depends on the journal only and asks nobody, so changing a check costs no call. A wave's answers are checked when
the wave is over; the rows wait in ``.checked/``, a file for every ten thousand sets, until all waves are.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.stage import Progress
from synthie.llm.journal import Journal, Record
from synthie.llm.pricing import PICODOLLARS
from synthie.quality import QualityGate, Reason, Verdict
from synthie.records import SAMPLE_SCHEMA, Mention, Triplet
from synthie.texts.questions import Questions, TripletSet
from synthie.texts.roster import Roster

__all__ = ["Compiled", "Compiler"]

_PART_ROWS = 10_000  # triplet sets behind one pair of Parquet parts
_CHECKED_PER_REPORT = 500
_ROW_SCHEMA = SAMPLE_SCHEMA.append(pa.field("position", pa.int64()))


class Compiler:
    """Turns the journal's answers into the Parquet parts of accepted and rejected samples.

    Args:
        folder: where ``samples/`` and ``rejected/`` go.
        questions, roster, journal: what was asked, where each set stands, the answers.
        gate: the checks.
        progress: told the texts checked.
    """

    def __init__(
        self,
        folder: Path,
        questions: Questions,
        roster: Roster,
        journal: Journal,
        gate: QualityGate,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._checked = folder / ".checked"
        self._questions = questions
        self._roster = roster
        self._journal = journal
        self._gate = gate
        self._progress = progress
        self._repeats: dict[int, Reason] = {}  # position of a set whose text repeats an earlier one -> why rejected
        shutil.rmtree(self._checked, ignore_errors=True)
        self._checked.mkdir()

    def check(self) -> None:
        """Check the answers of the wave, and tell the roster."""
        pending = self._roster.pending
        done, total = 0, int(np.count_nonzero(pending))
        for number, batch in enumerate(self._questions.sets.batches(_PART_ROWS, pending)):
            rows = []
            for position, triplet_set in batch:
                rows.append(self._row(position, triplet_set))
                done += 1
                if done % _CHECKED_PER_REPORT == 0:
                    self._progress(done, total, "checked")
            if rows:
                self._put(number, pa.Table.from_pylist(rows, _ROW_SCHEMA))
        self._progress(done, total, "checked")

    def check_repeats(self) -> None:
        """Reject the accepted texts that repeat an earlier one, and tell the roster."""
        positions: list[int] = []
        ids: list[int] = []
        texts: list[str] = []
        for path in self._parts():
            table = pq.read_table(path, columns=["position", "id", "text"])
            table = table.filter(pa.array(self._roster.accepted[table["position"].to_numpy()]))
            positions += table["position"].to_pylist()
            ids += table["id"].to_pylist()
            texts += table["text"].to_pylist()
        for number, earlier in enumerate(self._gate.near_duplicates(texts)):
            if earlier is not None:
                is_same = texts[number] == texts[earlier]
                self._repeats[positions[number]] = Reason(
                    "duplicate" if is_same else "near_duplicate",
                    f"{'The same text' if is_same else 'Nearly the same text'} as that of set {ids[earlier]}.",
                )
                self._roster.judge(positions[number], accepted=False)

    def write(self) -> Compiled:
        """Write the samples and the rejected texts of each set's last try; nothing of a set whose last try failed."""
        for name in ("samples", "rejected"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir()
        compiled = Compiled()
        for path in self._parts():
            table = pq.read_table(path)
            table = table.filter(pa.array(~self._roster.given_up[table["position"].to_numpy()]))
            table = _with_repeats(table, self._repeats)
            compiled.add(table)
            for verdict, name in (("accepted", "samples"), ("rejected", "rejected")):
                chosen = table.filter(pc.field("verdict") == verdict).drop_columns("position")
                if chosen.num_rows:
                    pq.write_table(chosen, self._folder / name / path.name, compression="zstd")
        shutil.rmtree(self._checked)
        return compiled

    def _row(self, position: int, triplet_set: TripletSet) -> dict[str, Any]:
        which = self._roster.which(position)
        record = self._journal.get(self._roster.key(position))
        assert record is not None, "sets without an answer are not pending any more"
        text = record.text.strip()
        verdict = self._gate.check(text, triplet_set.triplets, record.finish_reason, topic=triplet_set.topic)
        self._roster.judge(
            position,
            verdict.accepted,
            truncated=record.finish_reason == "length",
            repairable=verdict.repairable,
        )
        self._repeats.pop(position, None)
        origin = self._questions.origin(triplet_set, which)
        if self._questions.config.endpoints:
            origin["endpoint"] = record.endpoint
        return _row(triplet_set, text, record, verdict) | origin | {"position": position}

    def _put(self, number: int, rows: pa.Table) -> None:
        """Put rows in the place of those of the same sets in part ``number``."""
        path = self._checked / f"part-{number:05d}.parquet"
        if path.exists():
            old = pq.read_table(path)
            stays = pc.invert(pc.is_in(old["position"], value_set=rows["position"].combine_chunks()))
            rows = pa.concat_tables([old.filter(stays), rows]).sort_by("position")
        pq.write_table(rows, path)

    def _parts(self) -> Iterator[Path]:
        yield from sorted(self._checked.glob("part-*.parquet"))


@dataclass(slots=True)
class Compiled:
    """What has come of the sets.

    Attributes:
        samples, rejected: texts by verdict.
        splits: accepted texts by split.
        reasons: rejected texts by check; a text may have several.
        input_tokens, cached_input_tokens, output_tokens, usd: of these texts; earlier tries are not among them.
        relations: id -> [accepted texts with it, US dollars], a text's cost shared evenly among its triplets.
    """

    samples: int = 0
    rejected: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    relations: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def texts(self) -> int:
        return self.samples + self.rejected

    def add(self, table: pa.Table) -> None:
        accepted = table.filter(pc.field("verdict") == "accepted")
        self.samples += accepted.num_rows
        self.rejected += table.num_rows - accepted.num_rows
        self.splits = dict(Counter(self.splits) + Counter(accepted["split"].to_pylist()))
        faults = Counter(check for reasons in table["reasons"].to_pylist() for check in {r["check"] for r in reasons})
        self.reasons = dict(sorted((Counter(self.reasons) + faults).items()))
        self.input_tokens += pc.sum(table["input_tokens"], min_count=0).as_py()
        self.cached_input_tokens += pc.sum(table["cached_input_tokens"], min_count=0).as_py()
        self.output_tokens += pc.sum(table["output_tokens"], min_count=0).as_py()
        self.usd = round(self.usd + pc.sum(table["usd"], min_count=0).as_py(), 12)
        self._add_relations(table)

    def _add_relations(self, table: pa.Table) -> None:
        triplets = table["triplets"].combine_chunks()
        sizes = pc.fill_null(pc.list_value_length(triplets), 0).to_numpy(zero_copy_only=False)
        predicates = pc.struct_field(pc.struct_field(pc.list_flatten(triplets), "predicate"), "uri")
        texts = np.repeat(np.arange(table.num_rows), sizes)
        shares = (table["usd"].to_numpy() / np.maximum(sizes, 1))[texts]
        accepted = pc.equal(table["verdict"], "accepted").to_numpy()[texts]
        seen: set[tuple[int, str]] = set()
        for text, relation, share, is_accepted in zip(texts, predicates.to_pylist(), shares, accepted, strict=True):
            count, usd = self.relations.get(relation, (0, 0.0))
            is_first = (int(text), relation) not in seen
            seen.add((int(text), relation))
            self.relations[relation] = count + bool(is_accepted and is_first), usd + float(share)


def _row(triplet_set: TripletSet, text: str, record: Record, verdict: Verdict) -> dict[str, Any]:
    triplets = _by_mention(triplet_set.triplets, verdict.mentions)
    nodes = dict.fromkeys(node for triplet in triplets for node in (triplet.subject, triplet.object))
    return {
        "id": triplet_set.id,
        "split": triplet_set.split,
        "text": text,
        "triplets": [triplet.to_record() for triplet in triplets],
        "entities": [
            {
                "surfaceform": node.surfaceform,
                "uri": node.uri,
                "mention_start_index": verdict.mentions.get(node.uri, -1),
            }
            for node in nodes
        ],
        "relations": [
            {"surfaceform": relation.surfaceform, "uri": relation.uri}
            for relation in dict.fromkeys(triplet.predicate for triplet in triplets)
        ],
        "topic": triplet_set.topic.uri if triplet_set.topic else None,
        "request_key": record.key.hex(),
        "input_tokens": record.input_tokens,
        "cached_input_tokens": record.cached_input_tokens,
        "output_tokens": record.output_tokens,
        "usd": record.cost / PICODOLLARS,
        "latency_s": record.latency_s,
        "attempts": record.attempts,
        "finish_reason": record.finish_reason,
        "verdict": "accepted" if verdict.accepted else "rejected",
        "reasons": [{"check": reason.check, "detail": reason.detail} for reason in verdict.reasons],
    }


def _by_mention(triplets: list[Triplet], mentions: dict[str, int]) -> list[Triplet]:
    """Order by the subject's first mention, its name, then the object's first mention; not found goes last."""

    def place(node: Mention) -> float:
        start = mentions.get(node.uri, -1)
        return start if start >= 0 else float("inf")

    return sorted(triplets, key=lambda t: (place(t.subject), t.subject.surfaceform, place(t.object)))


def _with_repeats(table: pa.Table, repeats: dict[int, Reason]) -> pa.Table:
    """The table with the rows at the positions in ``repeats`` rejected."""
    positions = table["position"].to_pylist()
    if not any(position in repeats for position in positions):
        return table
    verdicts = [
        "rejected" if position in repeats else old
        for position, old in zip(positions, table["verdict"].to_pylist(), strict=True)
    ]
    reasons = [
        [repeats[position]._asdict()] if position in repeats else old
        for position, old in zip(positions, table["reasons"].to_pylist(), strict=True)
    ]
    for name, values in (("verdict", verdicts), ("reasons", reasons)):
        index = SAMPLE_SCHEMA.get_field_index(name)
        table = table.set_column(index, SAMPLE_SCHEMA.field(index), pa.array(values, SAMPLE_SCHEMA.field(index).type))
    return table
