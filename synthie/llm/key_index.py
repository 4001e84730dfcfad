"""Which place belongs to which key, for millions of keys in little memory.

One open-addressing hash table with linear probing in flat arrays: 24 bytes a
slot, at most `_MAX_LOAD` of the slots taken, so 36 to 72 bytes a key. Single
keys go through plain Python, many at once (opening, growing) through numpy
views of the same arrays.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyIndex"]

_MAX_LOAD = 2 / 3
_BATCH = 1 << 16  # keys put at once; bounds the memory that putting takes


class KeyIndex:
    """Key (16 bytes, uniformly distributed) -> place (0 ≤ place < 2⁶³)."""

    def __init__(self) -> None:
        self._count = 0
        self._allocate(1 << 10)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return 3 * 8 * len(self._places)

    def get(self, key: bytes) -> int:
        """The key's place, or -1."""
        return self._places[self._slot(int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"))] - 1

    def put(self, key: bytes, place: int) -> None:
        """Set the key's place, in the stead of an earlier one."""
        first, second = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
        slot = self._slot(first, second)
        if not self._places[slot]:
            if self._count >= _MAX_LOAD * len(self._places):
                self._grow(self._count + 1)
                slot = self._slot(first, second)
            self._count += 1
        self._firsts[slot], self._seconds[slot], self._places[slot] = first, second, place + 1

    def put_many(self, keys: bytes | bytearray, places: NDArray[np.uint64]) -> None:
        """Set the places of many keys, as if put one after the other.

        Args:
            keys: the keys without anything between them.
            places: [n] uint64, the place of each.
        """
        halves = np.frombuffer(keys, "<u8").reshape(-1, 2)
        for start in range(0, len(places), _BATCH):
            part = slice(start, start + _BATCH)
            wanted = self._count + len(places[part])
            if wanted > _MAX_LOAD * len(self._places):
                self._grow(wanted)
            self._insert(halves[part, 0], halves[part, 1], places[part] + np.uint64(1))

    def keys(self) -> Iterator[bytes]:
        """All keys, in no particular order."""
        for first, second, place in zip(self._firsts, self._seconds, self._places, strict=True):
            if place:
                yield first.to_bytes(8, "little") + second.to_bytes(8, "little")

    def _slot(self, first: int, second: int) -> int:
        firsts, seconds, places, mask = self._firsts, self._seconds, self._places, self._mask
        slot = first & mask
        while places[slot] and (firsts[slot] != first or seconds[slot] != second):
            slot = (slot + 1) & mask
        return slot

    def _insert(self, first: NDArray[np.uint64], second: NDArray[np.uint64], place: NDArray[np.uint64]) -> None:
        """Put a batch for which there is room; all keys take one step of their probing at a time.

        Equal keys of a batch probe in step, and of several values for one slot numpy keeps the last: so the last
        of equal keys wins, as it must.
        """
        firsts, seconds, places = (np.frombuffer(part, np.uint64) for part in self._arrays())
        slot = first & np.uint64(self._mask)
        while len(slot):
            free = places[slot] == 0
            taken = slot[free]
            firsts[taken], seconds[taken], places[taken] = first[free], second[free], place[free]
            at_home = (firsts[slot] == first) & (seconds[slot] == second)
            known = at_home & ~free
            places[slot[known]] = place[known]
            away = ~at_home
            first, second, place = first[away], second[away], place[away]
            slot = (slot[away] + np.uint64(1)) & np.uint64(self._mask)
        self._count = int(np.count_nonzero(places))

    def _arrays(self) -> tuple[array[int], array[int], array[int]]:
        return self._firsts, self._seconds, self._places

    def _allocate(self, slots: int) -> None:
        self._mask = slots - 1
        self._firsts, self._seconds, self._places = (array("Q", bytes(8 * slots)) for _ in range(3))

    def _grow(self, count: int) -> None:
        old = [np.frombuffer(part, np.uint64) for part in self._arrays()]
        slots = len(self._places)
        while count > _MAX_LOAD * slots:
            slots *= 2
        self._allocate(slots)
        for start in range(0, len(old[0]), _BATCH):
            first, second, place = (part[start : start + _BATCH] for part in old)
            full = place != 0
            self._insert(first[full], second[full], place[full])
