"""What can be browsed, and where its records lie: a run, a data set folder, a Parquet file, or SynthIE's JSONL.

Everything is read as Parquet files of (a part of) `SAMPLE_SCHEMA`; JSONL becomes such a file in a temporary
folder first, so that the rest need not know of it.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from kg.stage import MANIFEST
from synthie.browse.verdicts import FILE
from synthie.errors import InputError
from synthie.records import SAMPLE_SCHEMA

__all__ = ["Source", "open_source"]

_GROUP_ROWS = 5_000
_JSONL_ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz", ".ndjson")
_JSONL_COLUMNS = ("id", "text", "triplets", "entities", "relations")
_JSONL_SCHEMA = pa.schema([SAMPLE_SCHEMA.field(name) for name in _JSONL_COLUMNS])
_MENTION_UNKNOWN = -1


@dataclass(frozen=True)
class Source:
    """One thing to browse.

    Attributes:
        path: as the user named it.
        kind: "run", "data set" or "file".
        verdicts: where hand verdicts on it are kept.
        graph: folder of the graph, which knows more forms of the names; None where there is none.
        judgements: folder of a judge's findings; None where there cannot be one.
    """

    path: Path
    kind: str
    verdicts: Path
    graph: Path | None = None
    judgements: Path | None = None
    _files: tuple[Path, ...] = ()
    _temporary: Any = None  # deleted when the source is

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def files(self) -> list[Path]:
        """The Parquet files at present, in order; while a run writes, those of the texts that are checked so far."""
        if self.kind != "run":
            return list(self._files)
        texts = self.path / "texts"
        checked = sorted((texts / ".checked").glob("*.parquet"))
        if checked and not (texts / MANIFEST).exists():
            return checked
        return [file for name in ("samples", "rejected") for file in sorted((texts / name).glob("*.parquet"))]


def open_source(path: Path) -> Source:
    """Find out what ``path`` is.

    Raises:
        InputError: nothing that can be browsed.
    """
    if (path / "texts").is_dir():
        graph = path / "kg"
        return Source(
            path, "run", path / "texts" / FILE, graph if (graph / MANIFEST).exists() else None, path / "judge"
        )
    if path.is_dir():
        return _data_set(path)
    if path.is_file():
        return _file(path)
    raise InputError(
        f"{path} is neither a run with texts, nor a data set, nor a file of records. Name the folder of a run that "
        "has generated texts, of a data set, or a .parquet or .jsonl file."
    )


def _data_set(path: Path) -> Source:
    files = sorted((path / "data").glob("*.parquet")) or sorted(path.glob("*.parquet"))
    if not files:
        raise InputError(
            f"{path} holds nothing to browse: neither texts/ as a run has, nor Parquet files as a data set has. "
            "Generate texts first (synthie generate), or name another folder."
        )
    run = path.parent
    is_of_run = (run / "texts").is_dir() and path.name == "dataset"
    graph = run / "kg"
    return Source(
        path,
        "data set",
        run / "texts" / FILE if is_of_run else path / FILE,
        graph if is_of_run and (graph / MANIFEST).exists() else None,
        run / "judge" if is_of_run else None,
        tuple(files),
    )


def _file(path: Path) -> Source:
    verdicts = path.with_name(f"{path.name}.{FILE}")
    if path.suffix == ".parquet":
        return Source(path, "file", verdicts, _files=(path,))
    if not path.name.endswith(_JSONL_ENDINGS):
        raise InputError(f"{path} is no file of records. Name a .parquet, .jsonl or .jsonl.gz file.")
    folder = tempfile.TemporaryDirectory(prefix="synthie-browse-")
    file = Path(folder.name) / "records.parquet"
    with pq.ParquetWriter(file, _JSONL_SCHEMA, compression="zstd") as writer:
        records = _records(path)
        while rows := list(islice(records, _GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, _JSONL_SCHEMA))
    return Source(path, "file", verdicts, _files=(file,), _temporary=folder)


class _Named(msgspec.Struct):
    surfaceform: str
    uri: str


class _Entity(_Named):
    mention_start_index: int = _MENTION_UNKNOWN


class _Triplet(msgspec.Struct):
    subject: _Named
    predicate: _Named
    object: _Named


class _Record(msgspec.Struct):
    id: int
    text: str
    triplets: list[_Triplet]
    entities: list[_Entity] = []
    relations: list[_Named] = []


def _records(path: Path) -> Iterator[dict[str, Any]]:
    decoder = msgspec.json.Decoder(_Record)
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):  # noqa: B007 - told on error
                if not line.isspace():
                    yield msgspec.to_builtins(decoder.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"Line {number} of {path} is no record of SynthIE's form ({error}); it needs id, text and triplets with "
            "subject, predicate and object, each with surfaceform and uri."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged behind line {number}: {error}.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
