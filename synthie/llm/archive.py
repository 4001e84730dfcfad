"""The archive: the journal's records as one Parquet file, small on disk and open to every data tool.

A row is a response (`ARCHIVE_SCHEMA`), in the order in which they were stored.
What is no response stands in the file's metadata under ``synthie.journal``
(JSON): ``spent``, the exact total in picodollars; ``charges``, reason ->
[number, picodollars]; ``groups``, the end and CRC-32 of each row group. The
CRC-32 of the footer itself stands in the file's name. All checksums are looked
at when the file is opened: a damaged row group is left out, a file with a
damaged footer is refused, and nothing damaged is ever handed out.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from synthie.errors import StorageError
from synthie.llm.segments import KEY_BYTES, Record

__all__ = ["ARCHIVE_SCHEMA", "Archive", "ArchiveWriter", "Charges"]

log = logging.getLogger(__name__)

Charges = dict[str, list[int]]
"""Reason -> number of charges, picodollars."""

ARCHIVE_SCHEMA = pa.schema(
    [
        ("key", pa.binary(KEY_BYTES)),
        ("cost", pa.int64()),  # picodollars
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        ("input_tokens", pa.int64()),
        ("cached_input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("latency_s", pa.float64()),
        ("attempts", pa.int32()),
        ("time", pa.float64()),  # seconds since the epoch
        ("endpoint", pa.string()),
    ]
)
_NAMES = ARCHIVE_SCHEMA.names
_REPEATED = ["finish_reason", "model", "endpoint"]  # few different values: stored by dictionary
_METADATA = b"synthie.journal"
_MAGIC_BYTES = 4  # of a Parquet file, before the first row group
_GROUP_ROWS = 2_000
_GROUP_BYTES = 8 << 20  # of text; a group of long texts has fewer rows
_CACHE_BYTES = 32 << 20
_CHECKED_BYTES = 4 << 20  # read at once to check a row group


class ArchiveWriter:
    """Writes an archive record by record; the file is whole after `finish` only. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._sink = _Sink(path.open("wb"))
        self._writer = pq.ParquetWriter(
            self._sink,
            ARCHIVE_SCHEMA,
            compression="zstd",
            use_dictionary=_REPEATED,
            write_statistics=False,
            write_page_checksum=True,
        )
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._groups: list[tuple[int, int]] = []
        self._sink.take_checksum()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.file.close()

    def add(self, record: Record) -> None:
        self._pending.append(record)
        self._pending_bytes += len(record.text)
        if len(self._pending) >= _GROUP_ROWS or self._pending_bytes >= _GROUP_BYTES:
            self._write_group()

    def finish(self, spent: int, charges: Charges) -> int:
        """Write what is left and force it to the disk; returns the footer's checksum.

        Args:
            spent: everything the archive accounts for, in picodollars.
            charges: what of it no row stands for.
        """
        if self._pending:
            self._write_group()
        metadata = {"spent": spent, "charges": charges, "groups": self._groups}
        self._writer.add_key_value_metadata({_METADATA: json.dumps(metadata)})
        self._writer.close()
        self._sink.file.flush()
        os.fsync(self._sink.file.fileno())
        return self._sink.take_checksum()

    def _write_group(self) -> None:
        columns = [[getattr(record, name) for record in self._pending] for name in _NAMES]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, ARCHIVE_SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=ARCHIVE_SCHEMA))
        self._groups.append((self._sink.tell(), self._sink.take_checksum()))
        self._pending.clear()
        self._pending_bytes = 0


class Archive:
    """An archive, open for reading; it stays readable when the file is removed. Use as a context manager.

    Args:
        path: the file.
        checksum: of its footer.

    Raises:
        StorageError: the footer is damaged.
    """

    def __init__(self, path: Path, checksum: int) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            if _footer_checksum(self._file) != checksum:
                raise ValueError("the checksum of its footer is wrong")
            self._parquet = pq.ParquetFile(self._file, page_checksum_verification=True)
            metadata: dict[str, Any] = json.loads((self._parquet.metadata.metadata or {})[_METADATA])
            self.spent = int(metadata["spent"])
            self.charges: Charges = metadata["charges"]
            self._groups: list[tuple[int, int]] = metadata["groups"]
        except (OSError, ValueError) as error:
            self._file.close()
            raise StorageError(
                f"{path} is damaged: it is no whole archive of responses ({error}). It holds paid responses: put it "
                "back from a copy, or else move it away together with the rest of its folder to begin anew."
            ) from error
        parts = (self._parquet.metadata.row_group(number) for number in range(len(self._groups)))
        self._first_rows = [0]
        for part in parts:
            self._first_rows.append(self._first_rows[-1] + part.num_rows)
        self._cache: OrderedDict[int, list[pa.Array]] = OrderedDict()
        self._cached_bytes = 0

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of rows, damaged ones included."""
        return self._first_rows[-1]

    def close(self) -> None:
        self._parquet.close()
        self._file.close()

    def row_keys(self) -> Iterator[tuple[int, bytes]]:
        """First row and keys, one behind the other, of each sound row group. Damaged ones are logged."""
        for group in self.sound_groups():
            column = self._read(group, ["key"]).column("key").combine_chunks()
            start = column.offset * KEY_BYTES
            yield self._first_rows[group], column.buffers()[1][start : start + len(column) * KEY_BYTES].to_pybytes()

    def records(self) -> Iterator[Record]:
        """All responses in sound row groups, in order."""
        for group in self.sound_groups():
            columns = [column.to_pylist() for column in self._read(group).itercolumns()]
            for row in zip(*columns, strict=True):
                yield Record(**dict(zip(_NAMES, row, strict=True)))

    def get(self, row: int) -> Record:
        """The response in a row.

        Raises:
            OSError, ValueError: it cannot be read any more.
        """
        group = bisect_right(self._first_rows, row) - 1
        row -= self._first_rows[group]
        return Record(**{name: column[row].as_py() for name, column in zip(_NAMES, self._columns(group), strict=True)})

    def sound_groups(self) -> list[int]:
        """Numbers of the row groups whose bytes are what was written. The others are logged."""
        sound, start = [], _MAGIC_BYTES
        for group, (end, checksum) in enumerate(self._groups):
            if self._checksum(start, end) == checksum:
                sound.append(group)
            else:
                log.warning(
                    "%s: bytes %d to %d are damaged; the %d responses in them are lost and will be asked for again, "
                    "all others are intact",
                    self.path,
                    start,
                    end,
                    self._first_rows[group + 1] - self._first_rows[group],
                )
            start = end
        return sound

    @property
    def is_sound(self) -> bool:
        return len(self.sound_groups()) == len(self._groups)

    def _checksum(self, start: int, end: int) -> int:
        checksum = 0
        for position in range(start, end, _CHECKED_BYTES):
            data = os.pread(self._file.fileno(), min(_CHECKED_BYTES, end - position), position)
            checksum = zlib.crc32(data, checksum)
        return checksum

    def _read(self, group: int, columns: list[str] | None = None) -> pa.Table:
        return self._parquet.read_row_group(group, columns=columns, use_threads=False)

    def _columns(self, group: int) -> list[pa.Array]:
        """The columns of a row group; those used lately are kept."""
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        columns = self._cache[group] = [column.combine_chunks() for column in self._read(group).itercolumns()]
        self._cached_bytes += _size(columns)
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= _size(self._cache.popitem(last=False)[1])
        return columns


def _size(columns: list[pa.Array]) -> int:
    return sum(column.nbytes for column in columns)


def _footer_checksum(file: BinaryIO) -> int:
    """CRC-32 of all that follows the last row group: the footer, its length (4 bytes) and the format's name (4)."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 8))
    length = int.from_bytes(file.read(4), "little") + 8
    file.seek(max(0, end - length))
    return zlib.crc32(file.read())


class _Sink:
    """A file to which Parquet is written, with the checksum of what was written lately."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.closed = False
        self._written = 0
        self._checksum = 0

    def take_checksum(self) -> int:
        """CRC-32 of what was written since the last call."""
        taken, self._checksum = self._checksum, 0
        return taken

    def write(self, data: bytes) -> int:
        self._written += len(data)
        self._checksum = zlib.crc32(data, self._checksum)
        return self.file.write(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.closed = True
