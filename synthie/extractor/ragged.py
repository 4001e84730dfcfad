"""Many short token sequences in two flat arrays.

A million names or texts as Python lists cost gigabytes; here they are one
array of values and one of offsets, which numpy can gather, save and map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Ragged"]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: int32[total].
        offsets: int64[rows + 1], from 0 to ``total``, not falling.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """Build from token sequences.

        >>> Ragged.from_rows([[5, 6], [], [7]]).offsets.tolist()
        [0, 2, 2, 3]
        """
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        lengths = np.fromiter((array.size for array in arrays), dtype=np.int64, count=len(arrays))
        values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(values.astype(np.int32, copy=False), _offsets(lengths))

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """All rows of ``parts``, in order."""
        if not parts:
            return cls(np.empty(0, np.int32), np.zeros(1, np.int64))
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.values for part in parts]), _offsets(lengths))

    @classmethod
    def open(cls, folder: Path, name: str) -> Ragged:
        """Map what `save` wrote."""
        return cls(
            np.load(folder / f"{name}.values.npy", mmap_mode="r"),
            np.load(folder / f"{name}.offsets.npy", mmap_mode="r"),
        )

    def save(self, folder: Path, name: str) -> None:
        """Write ``<name>.values.npy`` and ``<name>.offsets.npy``."""
        np.save(folder / f"{name}.values.npy", self.values)
        np.save(folder / f"{name}.offsets.npy", self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[rows]."""
        return np.diff(self.offsets)

    def take(self, rows: ArrayLike) -> Ragged:
        """The given rows, in the given order, repeats allowed.

        >>> Ragged.from_rows([[5, 6], [], [7]]).take([2, 0]).values.tolist()
        [7, 5, 6]
        """
        chosen = np.asarray(rows, dtype=np.int64)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        offsets = _offsets(lengths)
        index = np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[index], offsets)

    def join(self, counts: NDArray[np.int64]) -> Ragged:
        """Merge neighbours: row ``i`` of the result is the concatenation of the next ``counts[i]`` rows."""
        return Ragged(self.values, self.offsets[_offsets(counts)])

    def padded(self, rows: ArrayLike, fill: int) -> NDArray[np.int64]:
        """The given rows as one matrix int64[len(rows), longest], filled up with ``fill``."""
        taken = self.take(rows)
        lengths = taken.lengths
        matrix = np.full((len(taken), int(lengths.max(initial=0))), fill, dtype=np.int64)
        matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = taken.values
        return matrix


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
