"""Which texts are published: the gate's verdicts, then the judges', then a person's, who has the last word.

The rows of one part of the texts (ten thousand sets) are in memory at a time, in the order of the sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset

from kg.stage import MANIFEST, file_digest, read_manifest
from synthie.records import REASON, SAMPLE_SCHEMA, TRIPLET

__all__ = ["DATASET_SCHEMA", "Verdicts", "part_tables", "published_rows", "verdict_inputs"]

# Latency and attempts tell of the hour of the call, not of the text: with them no data set could be made again.
_NOT_PUBLISHED = ("verdict", "reasons", "latency_s", "attempts")
_ADDED = (
    pa.field("faults", pa.list_(REASON)),  # of a record that is kept all the same: what gate and judges object to
    pa.field("withheld", pa.list_(TRIPLET)),  # stated by the text and left out of the label
)
DATASET_SCHEMA = pa.schema([*(field for field in SAMPLE_SCHEMA if field.name not in _NOT_PUBLISHED), *_ADDED])

_FROM_SAMPLES = [*(name for name in DATASET_SCHEMA.names if name in SAMPLE_SCHEMA.names), "reasons"]
_HAND = "hand_verdicts.jsonl"


@dataclass(slots=True)
class Verdicts:
    """What judges and people say of the texts, by request key, and what has come of it so far.

    Attributes:
        faults: text -> what the judges object to.
        hand: text -> ``accept`` or ``reject``.
        brought_back, removed: texts that a person accepted though the gate had not; that a person rejected.
        faulty: texts that a judge objects to and no person accepted.
    """

    faults: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)
    hand: Mapping[str, str] = field(default_factory=dict)
    brought_back: int = 0
    removed: int = 0
    faulty: int = 0

    @classmethod
    def read(cls, texts: Path, judge: Path | None) -> Verdicts:
        """Those of the texts in ``texts``; none where nobody judged."""
        found = cls()
        if judge is not None and (judge / MANIFEST).exists():
            from synthie.judging.reading import faults

            found.faults = {key: [_as_reason(reason) for reason in reasons] for key, reasons in faults(judge).items()}
        if (texts / _HAND).exists():
            from synthie.browse.verdicts import hand_verdicts

            found.hand = hand_verdicts(texts)
        return found

    @property
    def accepted_by_hand(self) -> pa.Array:
        """Request keys."""
        return pa.array([key for key, verdict in self.hand.items() if verdict == "accept"], pa.string())


def verdict_inputs(texts: Path, judge: Path | None) -> dict[str, str]:
    """Digests of the verdicts that there are, for the stage's inputs."""
    inputs = {}
    if judge is not None and (judge / MANIFEST).exists():
        inputs["judge"] = read_manifest(judge).output_hash
    if (texts / _HAND).exists():
        inputs["hand"] = file_digest(texts / _HAND)
    return inputs


def published_rows(texts: Path, verdicts: Verdicts, faulty: Literal["drop", "flag"]) -> Iterator[pa.Table]:
    """The rows to publish (`DATASET_SCHEMA`), a part of the texts at a time; counts in ``verdicts``.

    Args:
        texts: folder of the texts stage.
        faulty: what becomes of texts that a judge objects to.
    """
    by_hand = verdicts.accepted_by_hand
    names = {path.name for name in ("samples", "rejected") for path in (texts / name).glob("part-*.parquet")}
    for name in sorted(names):
        rows = _read(texts / "samples" / name)
        if len(by_hand):
            back = _read(texts / "rejected" / name)
            back = back.filter(pc.is_in(back["request_key"], value_set=by_hand))
            verdicts.brought_back += len(back)
            rows = pa.concat_tables([rows, back]).sort_by("id")
        yield _judged(rows, verdicts, faulty)


def part_tables(folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    """The parts of ``samples/`` or ``rejected/`` in order; nothing where there is none."""
    for path in sorted(folder.glob("part-*.parquet")):
        yield _read(path, columns)


def _read(path: Path, columns: list[str] = _FROM_SAMPLES) -> pa.Table:
    """A part; columns that it lacks, for it was written before they came, are null."""
    if not path.exists():
        return pa.schema([SAMPLE_SCHEMA.field(name) for name in columns]).empty_table()
    return arrow_dataset.dataset([str(path)], schema=SAMPLE_SCHEMA, format="parquet").to_table(columns=columns)


def _judged(rows: pa.Table, verdicts: Verdicts, faulty: str) -> pa.Table:
    """The rows that are left, with the columns that the gate's rows lack."""
    keys = rows["request_key"].to_pylist()
    flags = [reasons or [] for reasons in rows["reasons"].to_pylist()]
    said = [verdicts.hand.get(key) for key in keys]
    objections = [
        [] if hand == "accept" else verdicts.faults.get(key, []) for key, hand in zip(keys, said, strict=True)
    ]
    removed = np.array([hand == "reject" for hand in said], np.bool_)
    objected = np.array([bool(found) for found in objections], np.bool_) & ~removed
    verdicts.removed += int(removed.sum())
    verdicts.faulty += int(objected.sum())
    faults = [
        [] if hand == "accept" else [*flag, *objection]
        for hand, flag, objection in zip(said, flags, objections, strict=True)
    ]
    rows = rows.drop_columns("reasons").append_column(_field("faults"), pa.array(faults, _field("faults").type))
    nothing = pa.array([[]] * len(rows), _field("withheld").type)
    rows = rows.append_column(_field("withheld"), nothing).select(DATASET_SCHEMA.names)
    return rows.filter(pa.array(~(removed | objected) if faulty == "drop" else ~removed))


def _field(name: str) -> pa.Field:
    return DATASET_SCHEMA.field(name)


def _as_reason(reason: Any) -> dict[str, str]:
    return {"check": reason.check, "detail": reason.detail}
