"""Shards: the files that hold the records, written once and never changed.

A shard is ``data/<split>-<number>.parquet`` (`DATASET_SCHEMA`). Numbers count on when a data set is continued, so that
the earlier shards stay what they are, byte for byte, and a copy on the hub takes over the new ones only. The same
records in SynthIE's form are a gzip member of ``<split>.jsonl.gz`` each shard: that file grows at its end.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from isal import igzip

from synthie.errors import InputError
from synthie.exchange.forms import as_synthie
from synthie.publishing.rows import DATASET_SCHEMA

__all__ = ["Shard", "ShardWriter", "clear_shards", "link_shards", "read_shards", "shards_of"]

_ROWS_PER_FILE = 250_000
_ROWS_PER_GROUP = 10_000
_ROWS_AS_OBJECTS = 1_000
_READ_ROWS = 8_192
_NAME = re.compile(r"data/(?P<split>\w+)-(?P<number>\d{5})(?:-of-\d{5})?\.parquet")
_DIGESTED = (
    *("id", "text", "triplets", "entities", "relations"),
    *("topic", "request_key", "faults", "withheld"),
)


@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard.

    Attributes:
        path: of the Parquet file in the data set's folder.
        records: how many it holds.
        digest: of the records' content; the same whichever library wrote the file.
    """

    path: str
    records: int
    digest: str

    @property
    def split(self) -> str:
        return self._parts["split"]

    @property
    def number(self) -> int:
        return int(self._parts["number"])

    @property
    def _parts(self) -> re.Match[str]:
        found = _NAME.fullmatch(self.path)
        assert found is not None, self.path
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ShardWriter:
    """Writes the records of one split, beginning with shard ``first``.

    Attributes:
        shards: those that are finished; all of them after `close`.
        last_id: the greatest id so far, -1 before the first record.
    """

    def __init__(self, folder: Path, split: str, first: int = 0) -> None:
        self.shards: list[Shard] = []
        self.last_id = -1
        self._folder = folder
        self._split = split
        self._first = first
        self._encoder = msgspec.json.Encoder()
        self._parquet: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Append rows (`DATASET_SCHEMA`)."""
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            self._waiting.append(rows.slice(start, _ROWS_PER_GROUP))
            if sum(map(len, self._waiting)) >= _ROWS_PER_GROUP:
                self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._end_shard()

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting) if self._waiting else DATASET_SCHEMA.empty_table()
        self._waiting = []
        if not len(table):
            return
        if self._parquet is None:
            self._begin_shard()
        assert self._parquet is not None
        self._parquet.write_table(table)
        for batch in table.select(list(_DIGESTED)).to_batches(max_chunksize=_ROWS_AS_OBJECTS):
            for row in batch.to_pylist():
                self.last_id = max(self.last_id, row["id"])
                self._digest.update(self._encoder.encode(row))
                self._jsonl.write(self._encoder.encode(as_synthie(row)) + b"\n")
        self._rows += len(table)
        if self._rows >= _ROWS_PER_FILE:
            self._end_shard()

    def _begin_shard(self) -> None:
        self._path = f"data/{self._split}-{self._first + len(self.shards):05d}.parquet"
        (self._folder / "data").mkdir(exist_ok=True)
        self._parquet = pq.ParquetWriter(self._folder / self._path, DATASET_SCHEMA, compression="zstd")
        self._raw = (self._folder / f"{self._split}.jsonl.gz").open("ab")
        self._jsonl = igzip.IGzipFile("", "wb", fileobj=self._raw, mtime=0)  # no clock in the file
        self._digest = hashlib.blake2b(digest_size=16)
        self._rows = 0

    def _end_shard(self) -> None:
        if self._parquet is None:
            return
        self._parquet.close()
        self._jsonl.close()
        self._raw.close()
        self.shards.append(Shard(self._path, self._rows, self._digest.hexdigest()))
        self._parquet = None


def shards_of(statistics: Mapping[str, Any]) -> list[Shard]:
    """The shards that a data set's ``statistics.json`` lists."""
    return [Shard(**shard) for shard in statistics["shards"]]


def clear_shards(folder: Path) -> None:
    """Delete what a build that was interrupted has left: a ``<split>.jsonl.gz`` would grow on behind its records."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    for path in folder.glob("*.jsonl.gz"):
        path.unlink()


def link_shards(source: Path, shards: Iterable[Shard], folder: Path) -> None:
    """Have the shards of another data set in ``folder`` too: linked where the disk can, else copied."""
    (folder / "data").mkdir()
    shards = list(shards)
    for shard in shards:
        try:
            os.link(source / shard.path, folder / shard.path)
        except OSError:
            shutil.copyfile(source / shard.path, folder / shard.path)
    for split in {shard.split for shard in shards}:
        shutil.copyfile(source / f"{split}.jsonl.gz", folder / f"{split}.jsonl.gz")


def read_shards(folder: Path, shards: Iterable[Shard], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The records of some shards in order.

    Raises:
        InputError: a file is missing or damaged.
    """
    for shard in shards:
        try:
            yield from pq.ParquetFile(folder / shard.path).iter_batches(_READ_ROWS, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"Cannot read {folder / shard.path}: {error}. Build the data set again.") from error
