"""Which place belongs to which key, for millions of keys in hardly any memory.

The keys that came last are in a dictionary, all others sorted in temporary files:
keys (16 bytes each) and places (8). Of every block of `_BLOCK` keys the first is in
memory, so looking a key up reads one block, and its place where it is found: some
3 µs. When the dictionary is full, it is merged into the files in one pass.
"""

from __future__ import annotations

import os
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyIndex"]

_KEY = np.dtype("S16")  # compared by bytes; numpy takes no notice of zeros at the end, which are the least anyway
_BLOCK = 64  # keys
_FEWEST, _MOST = 1 << 9, 1 << 14  # keys in the dictionary before a merge …
_SHARE = 8  # … and in between so many times fewer than all
_CHUNK = 1 << 13  # keys merged at once
_ENTRY_BYTES = 200  # of a key and its place in the dictionary


class KeyIndex:
    """Key (16 bytes) -> place (0 ≤ place < 2⁶³).

    Args:
        folder: where the temporary files go.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._count = 0
        self._recent: dict[bytes, int] = {}
        self._rows = 0  # in the files
        self._firsts: list[bytes] = []  # of each block of the files
        self._keys: IO[bytes] | None = None
        self._places: IO[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory are taken."""
        return _ENTRY_BYTES * len(self._recent) + (8 + sys.getsizeof(bytes(_KEY.itemsize))) * len(self._firsts)

    def get(self, key: bytes) -> int:
        """The key's place, or -1."""
        place = self._recent.get(key)
        return self._find(key) if place is None else place

    def put(self, key: bytes, place: int) -> None:
        """Set the key's place, in the stead of an earlier one.

        Raises:
            OSError: a temporary file cannot be written. The key is there all the same.
        """
        self._count += key not in self._recent and self._find(key) < 0
        self._recent[key] = place
        if len(self._recent) >= max(_FEWEST, min(_MOST, self._rows // _SHARE)):
            self._merge(b"".join(self._recent), np.array(list(self._recent.values()), np.uint64))
            self._recent.clear()

    def put_many(self, keys: bytes | bytearray, places: NDArray[np.uint64]) -> None:
        """Set the places of many keys, as if put one after the other.

        Args:
            keys: the keys without anything between them.
            places: [n] uint64, the place of each.

        Raises:
            OSError: a temporary file cannot be written.
        """
        if len(places):
            recent = np.array(list(self._recent.values()), np.uint64)
            self._merge(b"".join(self._recent) + keys, np.concatenate([recent, places]))
            self._recent.clear()
            self._count = self._rows

    def keys(self) -> Iterator[bytes]:
        """All keys, in no particular order."""
        for start in range(0, self._rows, _CHUNK):
            keys, _ = self._stored(start, min(self._rows, start + _CHUNK))
            yield from (key for key in _split(keys) if key not in self._recent)
        yield from self._recent

    def close(self) -> None:
        """Give the temporary files back."""
        for file in (self._keys, self._places):
            if file is not None:
                file.close()

    def _find(self, key: bytes) -> int:
        """The key's place in the files, or -1."""
        block = bisect_right(self._firsts, key) - 1
        if block < 0 or self._keys is None or self._places is None:
            return -1
        size = len(key)
        keys = os.pread(self._keys.fileno(), _BLOCK * size, block * _BLOCK * size)
        at = keys.find(key)
        while at > 0 and at % size:  # across two keys
            at = keys.find(key, at + 1)
        if at < 0:
            return -1
        return int.from_bytes(os.pread(self._places.fileno(), 8, 8 * (block * _BLOCK + at // size)), sys.byteorder)

    def _stored(self, start: int, end: int) -> tuple[NDArray[np.bytes_], NDArray[np.uint64]]:
        """Keys and places of the rows ``start`` to ``end`` of the files."""
        if self._keys is None or self._places is None:
            return np.empty(0, _KEY), np.empty(0, np.uint64)
        size = _KEY.itemsize
        keys = os.pread(self._keys.fileno(), (end - start) * size, start * size)
        return np.frombuffer(keys, _KEY), np.frombuffer(
            os.pread(self._places.fileno(), 8 * (end - start), 8 * start), np.uint64
        )

    def _merge(self, raw: bytes | bytearray, places: NDArray[np.uint64]) -> None:
        """Write the files anew, with these keys; the later of equal keys wins."""
        keys, places = _sorted(np.frombuffer(raw, _KEY), places)
        files = [tempfile.TemporaryFile(dir=self._folder, buffering=0) for _ in range(2)]  # noqa: SIM115
        try:
            rows, firsts, taken = 0, list[bytes](), 0
            for start in range(0, max(self._rows, 1), _CHUNK):
                end = min(self._rows, start + _CHUNK)
                old_keys, old_places = self._stored(start, end)
                to = len(keys) if end == self._rows else int(np.searchsorted(keys, old_keys[-1], "right"))
                merged_keys, merged_places = _sorted(
                    np.concatenate([old_keys, keys[taken:to]]), np.concatenate([old_places, places[taken:to]])
                )
                taken = to
                firsts += _split(merged_keys[-rows % _BLOCK :: _BLOCK])
                rows += len(merged_keys)
                for file, part in zip(files, (merged_keys, merged_places), strict=True):
                    _write(file, part.tobytes())
        except BaseException:
            for file in files:
                file.close()
            raise
        self.close()
        self._keys, self._places = files
        self._rows, self._firsts = rows, firsts


def _sorted(keys: NDArray[np.bytes_], places: NDArray[np.uint64]) -> tuple[NDArray[np.bytes_], NDArray[np.uint64]]:
    """By key; of equal ones the last."""
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    last = np.ones(len(keys), bool)
    last[:-1] = keys[1:] != keys[:-1]
    return keys[last], places[last]


def _split(keys: NDArray[np.bytes_]) -> list[bytes]:
    raw, size = keys.tobytes(), _KEY.itemsize
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
