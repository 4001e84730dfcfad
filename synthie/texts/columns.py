"""Arrow tables without what Arrow loads for them: `pa.array` pandas (30 MB), `pq.read_table` and filters by expressions
its data set library (20 MB)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["as_table", "bits", "column", "give_back", "numbers", "read_parquet"]

_DTYPES = {"double": "f8", "float": "f4"}  # Arrow's names that numpy reads otherwise


def give_back() -> None:
    """Give memory that is free but still held back to the operating system."""
    pa.default_memory_pool().release_unused()  # of the C library's allocator: all of it, not Arrow's alone


def bits(mask: np.ndarray) -> pa.BooleanArray:
    """bool[n] for Arrow."""
    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, _packed(mask)])


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole file."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=columns, use_threads=False)


def numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of numbers without nulls; Arrow's ``to_numpy`` would load pandas, too."""
    return np.array(values.to_pylist(), _dtype(values.type))


def as_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows as a table; a name that a row lacks is null."""
    return pa.Table.from_arrays([column([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema)


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values (None: null) as an array of strings, numbers, booleans, or lists and structs of these."""
    missing = np.array([value is None for value in values], bool)
    validity = _packed(~missing) if missing.any() else None
    buffers: list[pa.Buffer | None] = [validity]
    children = None
    if pa.types.is_struct(kind):
        children = [column([value and value[field.name] for value in values], field.type) for field in kind]
    elif pa.types.is_list(kind):
        lists = [value or () for value in values]
        buffers.append(_offsets(list(map(len, lists))))
        children = [column([element for elements in lists for element in elements], kind.value_type)]
    elif pa.types.is_string(kind):
        texts = [(value or "").encode() for value in values]
        buffers += [_offsets(list(map(len, texts))), pa.py_buffer(b"".join(texts))]
    elif pa.types.is_boolean(kind):
        buffers.append(_packed(np.array([bool(value) for value in values], bool)))
    else:
        buffers.append(pa.py_buffer(np.array([value or 0 for value in values], _dtype(kind))))
    return pa.Array.from_buffers(kind, len(values), buffers, children=children)


def _dtype(kind: pa.DataType) -> np.dtype:
    return np.dtype(_DTYPES.get(str(kind), str(kind)))


def _packed(mask: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(mask, bitorder="little"))


def _offsets(lengths: list[int]) -> pa.Buffer:
    return pa.py_buffer(np.cumsum([0, *lengths], dtype=np.int64).astype(np.int32))
