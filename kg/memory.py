"""Which allocator Arrow takes memory from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

__all__ = ["system_memory"]


@contextmanager
def system_memory() -> Iterator[None]:
    """Have Arrow take memory from the C library: of what Arrow's own allocator is given back, 25 MB stay resident."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
