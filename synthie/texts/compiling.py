"""From answers to samples: the journal's answers, in the order of the sets, through the quality gate into Parquet.

Depends on the journal only and asks nobody, so changing a check costs no call. A wave's answers are checked when
the wave is over; the rows wait in ``.checked/``, a file for every thousand sets, until all waves are. Memory holds
the rows of one such file.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.stage import Progress
from synthie.config import Action
from synthie.llm.journal import Journal, Record
from synthie.llm.pricing import PICODOLLARS
from synthie.quality import QualityGate, Reason, Verdict
from synthie.records import SAMPLE_SCHEMA, Mention, Triplet
from synthie.surface.cues import CueTable, Retold, TripletCues
from synthie.surface.repeats import Repeat
from synthie.texts.columns import as_table, bits, column, numbers, read_parquet
from synthie.texts.questions import Questions, TripletSet
from synthie.texts.roster import Roster

__all__ = ["Compiled", "Compiler"]

_CHECKED_ROWS = 1_000  # triplet sets behind one file of ``.checked/``, which becomes a row group of a Parquet part
_FILES_PER_PART = 10
_CHECKED_PER_REPORT = 500
_CUES = pa.list_(
    pa.struct(
        [
            ("relation", pa.int64()),
            ("subject", pa.int64()),
            ("object", pa.int64()),
            ("words", pa.list_(pa.int64())),
        ]
    )
)
_ROW_SCHEMA = SAMPLE_SCHEMA.append(pa.field("position", pa.int64())).append(pa.field("cues", _CUES))


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
        self._repeats: dict[int, Reason] = {}  # position of a set -> whose text its text repeats
        self._for_writers: dict[bytes, int] = {}  # key of a text with a late fault that is to be repaired -> position
        self._retold: dict[int, Retold] = {}  # position of a set -> how its text tells another relation
        shutil.rmtree(self._checked, ignore_errors=True)
        self._checked.mkdir()

    def check(self) -> None:
        """Check the answers of the wave, and tell the roster."""
        pending = self._roster.pending
        done, total = 0, int(np.count_nonzero(pending))
        for number, batch in enumerate(self._questions.sets.batches(_CHECKED_ROWS, pending)):
            rows = []
            for position, triplet_set in batch:
                rows.append(self._row(position, triplet_set))
                done += 1
                if done % _CHECKED_PER_REPORT == 0:
                    self._progress(done, total, "checked")
            if rows:
                self._put(number, as_table(rows, _ROW_SCHEMA))
        self._progress(done, total, "checked")

    def check_repeats(self) -> None:
        """Find the accepted texts that repeat an earlier one, and tell the roster unless they are only flagged."""
        accepted = self._roster.accepted
        positions = np.flatnonzero(accepted)
        for repeat in self._gate.near_duplicates(self._texts(accepted), self._checked):
            position = int(positions[repeat.number])
            self._repeats[position] = _repeated(repeat)
            self._judge(position, self._gate.action([self._repeats[position]]))

    def check_relations(self) -> None:
        """Find the accepted texts that tell a relation in another's words, and tell the roster unless only flagged."""
        learned = self._gate.learned_cues()
        accepted = self._roster.accepted  # others keep the fault that they were rejected for
        self._retold = {position: retold for position, retold in self._retold.items() if not accepted[position]}
        for _, cues in self._cues():
            learned.add(cues)
        for _, cues in self._cues():
            learned.settle(cues)
        action = self._gate.action([Reason("relation", "")])
        for positions, cues in self._cues():
            for retold in learned.judge(cues):
                position = int(positions[retold.text])
                self._retold[position] = retold
                self._judge(position, action)

    def write(self) -> Compiled:
        """Write the samples and the rejected texts of each set's last try; nothing of a set whose last try failed."""
        for name in ("samples", "rejected"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir()
        compiled = Compiled()
        given_up = self._roster.given_up
        for number, paths in groupby(self._files(), lambda path: int(path.stem) // _FILES_PER_PART):
            with _Parts(self._folder, f"part-{number:05d}.parquet") as parts:
                for path in paths:
                    table = read_parquet(path)
                    table = table.filter(bits(~given_up[numbers(table["position"])])).drop_columns("cues")
                    table = self._with_late_faults(table)
                    compiled.add(table)
                    parts.write(table)
        shutil.rmtree(self._checked)
        return compiled

    def late_faults(self, key: bytes, text: str, triplets: Sequence[Triplet]) -> list[Reason]:
        """What is wrong with a text beside others, for its writer to mend: it repeats one, or tells another relation.

        Args:
            key: of the text in the journal.
            text, triplets: the text and its set.
        """
        return self._faults_at(self._for_writers[key], text, triplets) if key in self._for_writers else []

    def _judge(self, position: int, action: Action | None) -> None:
        """Tell the roster of a fault that is found late."""
        if action != "flag":
            self._roster.judge(position, accepted=False, repairable=action == "repair")
        if action == "repair":
            self._for_writers[self._roster.key(position)] = position

    def _texts(self, chosen: np.ndarray) -> Iterator[tuple[int, str]]:
        """(id of the set, text) where ``chosen``, by position."""
        for path in self._files():
            table = read_parquet(path, ["position", "id", "text"])
            table = table.filter(bits(chosen[numbers(table["position"])]))
            yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)

    def _cues(self) -> Iterator[tuple[np.ndarray, CueTable]]:
        """(positions, cues) of the accepted texts, a file at a time."""
        accepted = self._roster.accepted
        for path in self._files():
            table = read_parquet(path, ["position", "cues"])
            table = table.filter(bits(accepted[numbers(table["position"])]))
            cues = [[TripletCues(**triplet) for triplet in text] for text in table["cues"].to_pylist()]
            yield numbers(table["position"]), CueTable.of(cues)

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
        self._retold.pop(position, None)
        origin = self._questions.origin(triplet_set, which)
        if self._questions.config.endpoints:
            origin["endpoint"] = record.endpoint
        return _row(triplet_set, text, record, verdict) | origin | {"position": position}

    def _put(self, number: int, rows: pa.Table) -> None:
        """Put rows in the place of those of the same sets in file ``number``."""
        path = self._checked / f"{number:07d}.parquet"
        if path.exists():
            old = read_parquet(path)
            stays = np.isin(numbers(old["position"]), numbers(rows["position"]), invert=True)
            rows = pa.concat_tables([old.filter(bits(stays)), rows])
            rows = rows.take(pc.sort_indices(rows["position"]))
        pq.write_table(rows, path)

    def _files(self) -> list[Path]:
        return sorted(self._checked.glob("*.parquet"))

    def _with_late_faults(self, table: pa.Table) -> pa.Table:
        """The table with what is wrong with texts beside others: those that repeat one, or tell another relation."""
        late = {row: faults for row in range(table.num_rows) if (faults := self._late_faults(table, row))}
        if not late:
            return table
        verdicts, reasons = table["verdict"].to_pylist(), table["reasons"].to_pylist()
        for row, faults in late.items():
            reasons[row] += [fault._asdict() for fault in faults]
            if self._gate.action(faults) != "flag":
                verdicts[row] = "rejected"
        for name, values in (("verdict", verdicts), ("reasons", reasons)):
            place, kind = SAMPLE_SCHEMA.get_field_index(name), SAMPLE_SCHEMA.field(name)
            table = table.set_column(place, kind, column(values, kind.type))
        return table

    def _late_faults(self, table: pa.Table, row: int) -> list[Reason]:
        position = table["position"][row].as_py()
        if position not in self._repeats and position not in self._retold:
            return []
        triplets = [Triplet.from_record(triplet) for triplet in table["triplets"][row].as_py()]
        return self._faults_at(position, table["text"][row].as_py(), triplets)

    def _faults_at(self, position: int, text: str, triplets: Sequence[Triplet]) -> list[Reason]:
        faults = [self._repeats[position]] if position in self._repeats else []
        if retold := self._retold.get(position):
            faults.append(self._gate.retold(text, triplets, retold))
        return faults


class _Parts:
    """A pair of Parquet parts, written a row group at a time; one that gets no row is not made."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._stack = ExitStack()
        self._writers: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, table: pa.Table) -> None:
        """Add the rows to the samples or the rejected texts."""
        for verdict, kind in (("accepted", "samples"), ("rejected", "rejected")):
            chosen = table.filter(bits(_has(table, verdict))).drop_columns("position")
            if chosen.num_rows:
                if kind not in self._writers:
                    path = self._folder / kind / self._name
                    writer = pq.ParquetWriter(path, SAMPLE_SCHEMA, compression="zstd")
                    self._writers[kind] = self._stack.enter_context(writer)
                self._writers[kind].write_table(chosen)


@dataclass(slots=True)
class Compiled:
    """What has come of the sets.

    Attributes:
        samples, rejected: texts by verdict.
        splits: accepted texts by split.
        reasons, flagged: rejected texts by check, and accepted ones; a text may have several.
        input_tokens, cached_input_tokens, output_tokens, usd: of these texts; earlier tries are not among them.
        relations: id -> [accepted texts with it, US dollars], a text's cost shared evenly among its triplets.
    """

    samples: int = 0
    rejected: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    flagged: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    relations: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def texts(self) -> int:
        return self.samples + self.rejected

    def add(self, table: pa.Table) -> None:
        is_accepted = _has(table, "accepted")
        accepted, rejected = table.filter(bits(is_accepted)), table.filter(bits(~is_accepted))
        self.samples += accepted.num_rows
        self.rejected += rejected.num_rows
        self.splits = dict(Counter(self.splits) + Counter(accepted["split"].to_pylist()))
        self.reasons = _add_faults(self.reasons, rejected)
        self.flagged = _add_faults(self.flagged, accepted)
        self.input_tokens += pc.sum(table["input_tokens"], min_count=0).as_py()
        self.cached_input_tokens += pc.sum(table["cached_input_tokens"], min_count=0).as_py()
        self.output_tokens += pc.sum(table["output_tokens"], min_count=0).as_py()
        self.usd = round(self.usd + pc.sum(table["usd"], min_count=0).as_py(), 12)
        self._add_relations(table, is_accepted)

    def _add_relations(self, table: pa.Table, is_accepted: np.ndarray) -> None:
        triplets = table["triplets"].combine_chunks()
        sizes = numbers(pc.list_value_length(triplets))
        predicates = pc.struct_field(pc.struct_field(pc.list_flatten(triplets), "predicate"), "uri")
        texts = np.repeat(np.arange(table.num_rows), sizes)
        shares = (numbers(table["usd"]) / np.maximum(sizes, 1))[texts]
        seen: set[tuple[int, str]] = set()
        for text, relation, share in zip(texts.tolist(), predicates.to_pylist(), shares.tolist(), strict=True):
            count, usd = self.relations.get(relation, (0, 0.0))
            is_first = (text, relation) not in seen
            seen.add((text, relation))
            self.relations[relation] = count + bool(is_accepted[text] and is_first), usd + share


def _has(table: pa.Table, verdict: str) -> np.ndarray:
    """bool[rows]: where the verdict is this one."""
    return np.array([found == verdict for found in table["verdict"].to_pylist()], bool)


def _add_faults(faults: dict[str, int], texts: pa.Table) -> dict[str, int]:
    found = Counter(check for reasons in texts["reasons"].to_pylist() for check in {r["check"] for r in reasons})
    return dict(sorted((Counter(faults) + found).items()))


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
        "cues": [cues._asdict() for cues in verdict.cues],
    }


def _by_mention(triplets: list[Triplet], mentions: dict[str, int]) -> list[Triplet]:
    """Order by the subject's first mention, its name, then the object's first mention; not found goes last."""

    def place(node: Mention) -> float:
        start = mentions.get(node.uri, -1)
        return start if start >= 0 else float("inf")

    return sorted(triplets, key=lambda t: (place(t.subject), t.subject.surfaceform, place(t.object)))


def _repeated(repeat: Repeat) -> Reason:
    """What is wrong with a text that repeats another."""
    if repeat.is_same:
        return Reason("duplicate", f"The same text as that of set {repeat.of}.")
    return Reason("near_duplicate", f"Nearly the same text as that of set {repeat.of}.")
