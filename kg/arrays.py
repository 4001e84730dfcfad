"""Between Arrow's arrays and numpy's, without nulls and without pandas.

pyarrow imports pandas when it first converts lists, scalars or numpy's arrays, which
costs every worker 35 MB. These functions hand over the buffers instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["flags", "mask", "numbers", "spans", "strings", "strings_of"]


def numbers(values: NDArray[Any]) -> pa.Array:
    """An Arrow array of the same integers."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def mask(values: NDArray[np.bool_]) -> pa.Array:
    """An Arrow array of the same truth values."""
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def flags(array: pa.Array) -> NDArray[np.bool_]:
    """bool[k]: the truth values of an Arrow array."""
    if not len(array):
        return np.empty(0, np.bool_)
    bits = np.frombuffer(array.buffers()[1], np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :].view(np.bool_)


def strings(texts: Sequence[str]) -> pa.Array:
    """An Arrow array of the same texts."""
    joined = "".join(texts)
    data = joined.encode()
    measured: Sequence[str | bytes] = texts if len(data) == len(joined) else [text.encode() for text in texts]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, measured), np.int64, len(texts)), out=offsets[1:])
    return strings_of(offsets, np.frombuffer(data, np.uint8))


def strings_of(offsets: NDArray[np.integer], pool: NDArray[np.uint8]) -> pa.Array:
    """The strings that lie between offsets of a pool, as an Arrow string (or, above 2 GiB, large_string) array."""
    if len(pool) < 1 << 31:
        narrow = offsets.astype(np.int32, copy=False)
        return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(narrow), pa.py_buffer(pool))
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(pool))


def spans(array: pa.Array) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """Bytes, starts and ends of an Arrow array of strings."""
    wide = pa.types.is_large_string(array.type)
    _, offsets, data = array.buffers()
    if not len(array):
        return np.empty(0, np.uint8), np.empty(0, np.int32), np.empty(0, np.int32)
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data or b"", np.uint8), bounds[:-1], bounds[1:]
