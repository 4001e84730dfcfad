"""What the calls in flight may cost at most, on disk, so that a killed process leaves no bill unaccounted for.

A file of 8-byte slots: a call takes one before it is sent and frees it when its answer or its charge is stored.
What a dead process has left in the slots are the calls whose end nobody saw. A slot is handed to the operating
system before the call is, so it survives the death of the process; like the newest records of the journal, it may
not survive a power cut.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

__all__ = ["Holds"]

_SLOT = struct.Struct("<Q")


class Holds:
    """The slots of one journal; its owner holds the journal's lock.

    Args:
        path: the file; created if absent.

    Attributes:
        left: sum of what a dead process has left, in picodollars.
        calls: number of its calls.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        amounts = [amount for (amount,) in _SLOT.iter_unpack(data[: len(data) // _SLOT.size * _SLOT.size]) if amount]
        self.left, self.calls = sum(amounts), len(amounts)
        self._free: list[int] = []
        self._slots = 0

    def clear(self) -> None:
        """Forget what was left, once it is charged."""
        os.ftruncate(self._file, 0)
        self.left = self.calls = 0

    def take(self, amount: int) -> int:
        """Note a call that may cost ``amount`` picodollars; returns the slot for `free`."""
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
        os.pwrite(self._file, _SLOT.pack(amount), slot * _SLOT.size)
        return slot

    def free(self, slot: int) -> None:
        """The call has ended, and what it cost is stored."""
        os.pwrite(self._file, _SLOT.pack(0), slot * _SLOT.size)
        self._free.append(slot)

    def close(self) -> None:
        os.close(self._file)
