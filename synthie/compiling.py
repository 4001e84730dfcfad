"""From answers to samples: the journal's answers, in the order of the sets, through the quality gate into Parquet.

Depends on the journal only and asks nobody, so changing a check costs no call.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.stage import Progress
from synthie.llm.journal import KEY_BYTES, Journal, Record
from synthie.llm.pricing import PICODOLLARS
from synthie.quality import QualityGate, Reason, Verdict
from synthie.questions import Questions, TripletSet
from synthie.records import SAMPLE_SCHEMA, Mention, Triplet

__all__ = ["Compiler"]

_PART_ROWS = 10_000  # triplet sets behind one pair of Parquet parts
_CHECKED_PER_REPORT = 500


class Compiler:
    """Turns the journal's answers into the Parquet parts of accepted and rejected samples."""

    def __init__(self, folder: Path, questions: Questions, gate: QualityGate, journal: Journal) -> None:
        self._folder = folder
        self._questions = questions
        self._sets = questions.sets
        self._gate = gate
        self._journal = journal

    def run(self, keys: bytearray, progress: Progress) -> dict[str, Any]:
        """Check every answer, then find duplicates among the accepted ones, then write; returns the counts."""
        checked = self._folder / ".checked"
        for name in (".checked", "samples", "rejected"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir()
        ids: list[int] = []
        texts: list[str] = []
        parts = 0
        for batch in self._sets.batches(_PART_ROWS):
            rows = self._check(batch, keys, parts * _PART_ROWS, progress)
            accepted = [row for row in rows if row["verdict"] == "accepted"]
            ids += [row["id"] for row in accepted]
            texts += [row["text"] for row in accepted]
            table = pa.Table.from_pylist(rows, SAMPLE_SCHEMA)
            pq.write_table(table, checked / f"part-{parts:05d}.parquet")
            parts += 1
        repeats = self._repeats(ids, texts)
        counts = _Counts()
        for part in range(parts):
            table = _with_repeats(pq.read_table(checked / f"part-{part:05d}.parquet"), repeats)
            counts.add(table)
            for verdict, name in (("accepted", "samples"), ("rejected", "rejected")):
                chosen = table.filter(pc.field("verdict") == verdict)
                if chosen.num_rows:
                    pq.write_table(chosen, self._folder / name / f"part-{part:05d}.parquet", compression="zstd")
        shutil.rmtree(checked)
        return {"sets": self._sets.count, **asdict(counts)}

    def _check(self, batch: list[TripletSet], keys: bytearray, first: int, progress: Progress) -> list[dict[str, Any]]:
        """The rows of the sets number ``first`` and following that have an answer."""
        rows = []
        for number, triplet_set in enumerate(batch, first):
            record = self._journal.get(bytes(keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]))
            if record is not None:
                text = record.text.strip()
                verdict = self._gate.check(text, triplet_set.triplets, record.finish_reason, topic=triplet_set.topic)
                rows.append(_row(triplet_set, text, record, verdict) | self._questions.origin(triplet_set))
            if (number + 1) % _CHECKED_PER_REPORT == 0:
                progress(number + 1, self._sets.count, "checked")
        progress(first + len(batch), self._sets.count, "checked")
        return rows

    def _repeats(self, ids: list[int], texts: list[str]) -> dict[int, Reason]:
        """Set id of each text that repeats an earlier one -> the reason to reject it."""
        found = {}
        for number, earlier in enumerate(self._gate.near_duplicates(texts)):
            if earlier is not None:
                is_same = texts[number] == texts[earlier]
                found[ids[number]] = Reason(
                    "duplicate" if is_same else "near_duplicate",
                    f"{'The same text' if is_same else 'Nearly the same text'} as that of set {ids[earlier]}.",
                )
        return found


@dataclass(slots=True)
class _Counts:
    """What the manifest says about the compiled texts."""

    samples: int = 0
    rejected: int = 0
    splits: dict[str, int] = field(default_factory=dict)  # accepted
    reasons: dict[str, int] = field(default_factory=dict)  # rejected texts by check; a text may have several
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

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
    """The table with the rows in ``repeats`` rejected."""
    ids = table["id"].to_pylist()
    if not any(row in repeats for row in ids):
        return table
    verdicts = [
        "rejected" if row in repeats else old for row, old in zip(ids, table["verdict"].to_pylist(), strict=True)
    ]
    reasons = [
        [repeats[row]._asdict()] if row in repeats else old
        for row, old in zip(ids, table["reasons"].to_pylist(), strict=True)
    ]
    for name, values in (("verdict", verdicts), ("reasons", reasons)):
        index = SAMPLE_SCHEMA.get_field_index(name)
        table = table.set_column(index, SAMPLE_SCHEMA.field(index), pa.array(values, SAMPLE_SCHEMA.field(index).type))
    return table
