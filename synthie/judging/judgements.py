"""The records of the judge stage: what a judge said about a text, and their Arrow schema.

One row for each judge and judged text. A text that a judge was asked about and gave no usable answer for has a row
too, with ``problem`` set and no verdicts: it is not judged, which is neither good nor bad.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthie.judging.sampled import Text

__all__ = [
    "ESTIMATES_FILE",
    "JUDGEMENT_SCHEMA",
    "VERDICTS",
    "Opinion",
    "part_path",
    "read_judgements",
    "row_of",
    "write_part",
]

ESTIMATES_FILE = "estimates.json"
_FOLDER = "judgements"
VERDICTS = ("stated", "contradicted", "absent")

_JUDGED = pa.struct(
    [
        ("subject", pa.string()),
        ("relation", pa.string()),
        ("object", pa.string()),  # ids
        ("words", pa.string()),  # the names, "subject | relation | object"
        ("verdict", pa.string()),  # one of VERDICTS; null where the text is not judged
    ]
)

JUDGEMENT_SCHEMA = pa.schema(
    [
        ("request_key", pa.string()),  # of the text
        ("id", pa.int64()),  # number of the triplet set
        ("gate", pa.string()),  # accepted | rejected, by the quality checks
        ("style", pa.string()),
        ("judge", pa.string()),  # llm | extractor | nli
        ("model", pa.string()),  # who that is
        ("problem", pa.string()),  # why the text is not judged; null where it is
        ("triplets", pa.list_(_JUDGED)),
        ("extras", pa.list_(pa.string())),  # facts beyond the set, in words; null where the judge cannot tell
    ]
)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge says about one text.

    Attributes:
        verdicts: one of `VERDICTS` for each triplet.
        extras: facts beyond the set, in words; None if the judge cannot tell.
    """

    verdicts: list[str]
    extras: list[str] | None


def row_of(text: Text, judge: str, model: str, opinion: Opinion | None, problem: str | None = None) -> dict[str, Any]:
    """The row of one judgement; without an ``opinion`` the text is not judged, and ``problem`` says why."""
    verdicts: list[str | None] = [None] * len(text.triplets)
    if opinion is not None:
        verdicts = [*opinion.verdicts]
    return {
        "request_key": text.request_key,
        "id": text.id,
        "gate": text.gate,
        "style": text.style,
        "judge": judge,
        "model": model,
        "problem": problem,
        "triplets": [
            {
                **dict(zip(("subject", "relation", "object"), triplet.key, strict=True)),
                "words": _words(triplet.subject.surfaceform, triplet.predicate.surfaceform, triplet.object.surfaceform),
                "verdict": verdict,
            }
            for triplet, verdict in zip(text.triplets, verdicts, strict=True)
        ],
        "extras": opinion.extras if opinion else None,
    }


def part_path(folder: Path, judge: str, number: int) -> Path:
    """Where the judge's part of that number is, in the folder of the judge stage."""
    return folder / _FOLDER / f"{judge}-{number:05d}.parquet"


def write_part(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a part, as a whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, JUDGEMENT_SCHEMA), temporary, compression="zstd")
    temporary.rename(path)


def read_judgements(judge: Path) -> Iterator[pa.Table]:
    """The judgements in the folder of the judge stage, a part at a time."""
    for path in sorted((judge / _FOLDER).glob("*.parquet")):
        yield pq.read_table(path, schema=JUDGEMENT_SCHEMA)


def _words(*names: str) -> str:
    return " | ".join(name.replace("_", " ") for name in names)
