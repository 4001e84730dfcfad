"""Columns of a graph on disk, read a value at a time.

`SortedIds` finds ids in the memory-mapped node table, `Qualifiers` fetches the
qualifiers of an edge from the Parquet file of the triples. Both keep nothing in
memory that grows with the graph.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kg.errors import InputError
from kg.tables import QUALIFIERS

__all__ = ["Qualifiers", "SortedIds"]

_CACHED_GROUPS = 2


class SortedIds:
    """A column of ids by number, of which those from number ``first`` on are sorted by code points.

    Compares the UTF-8 bytes where they are mapped, which sort like code points: 3 times as fast as through
    pyarrow's scalars.
    """

    def __init__(self, column: pa.ChunkedArray, first: int) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._ends = list(accumulate(map(len, chunks)))
        self._starts = [end - len(chunk) for end, chunk in zip(self._ends, chunks, strict=True)]
        self._first = first
        self._offsets: list[memoryview] = []
        self._bytes: list[memoryview] = []
        for chunk in chunks:
            _, offsets, data = chunk.buffers()
            self._offsets.append(memoryview(offsets).cast("b").cast("i")[chunk.offset :])
            self._bytes.append(memoryview(data or b""))

    def __getitem__(self, number: int) -> str:
        chunk = bisect_right(self._ends, number)
        if number < 0 or chunk == len(self._ends):
            raise IndexError(f"{number} is no node number")
        return str(self._at(chunk, number - self._starts[chunk]), "utf-8")

    def find(self, identifier: str) -> int:
        """The number of this id among the sorted ones, or -1."""
        try:
            wanted = identifier.encode()
        except UnicodeEncodeError:  # a lone surrogate is in no id
            return -1
        low, high = self._first, self._ends[-1] if self._ends else 0
        while low < high:
            middle = (low + high) // 2
            chunk = bisect_right(self._ends, middle)
            found = self._at(chunk, middle - self._starts[chunk])
            if found == wanted:
                return middle
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        return -1

    def _at(self, chunk: int, row: int) -> bytes:
        offsets = self._offsets[chunk]
        return bytes(self._bytes[chunk][offsets[row] : offsets[row + 1]])


class Qualifiers:
    """The qualifiers of the edges, by edge number.

    The column is read a row group at a time, and the last two are kept: one of 2^18 edges, as `kg.tables` writes them,
    takes about 50 ms and 5 MB. So edges in their order cost some microseconds each, a jump to a far edge a row group.
    """

    def __init__(self, triples: Path, edges: int) -> None:
        self._path = triples
        self._groups: dict[int, pa.ChunkedArray] = {}
        try:
            self._file = pq.ParquetFile(triples)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        metadata = self._file.metadata
        self._ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
        if metadata.num_rows != edges:
            raise self._damaged(f"it holds {metadata.num_rows} triples, csr/ {edges}")

    @property
    def present(self) -> bool:
        """Whether the graph was built with qualifiers."""
        return QUALIFIERS.name in self._file.schema_arrow.names

    def __getitem__(self, edge: int) -> list[tuple[str, str]]:
        group = bisect_right(self._ends, edge)
        row = edge - (self._ends[group - 1] if group else 0)
        pairs = self._group(group)[row].as_py() or []
        return [(pair["relation"], pair["object"]) for pair in pairs]

    def _group(self, number: int) -> pa.ChunkedArray:
        rows = self._groups.get(number)
        if rows is None:
            try:
                rows = self._file.read_row_group(number, columns=[QUALIFIERS.name])[QUALIFIERS.name]
            except (OSError, ValueError) as error:
                raise self._damaged(error) from error
            if len(self._groups) >= _CACHED_GROUPS:
                self._groups.pop(next(iter(self._groups)), None)
            self._groups[number] = rows
        return rows

    def _damaged(self, reason: object) -> InputError:
        return InputError(
            f"{self._path} is damaged: {' '.join(str(reason).split())}. Delete {self._path.parent} and build the "
            "graph again."
        )
