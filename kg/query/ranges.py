"""Finding edges in the sorted adjacency arrays, many nodes at a time.

The edges of a node are a run of the arrays, sorted by relation and then by the
other end. A run, or what of it has one relation or one end, is a half-open range
``low:high``; ranges of many nodes are found by one binary search over all of
them, and turned into edges piece by piece, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["expand", "narrow", "runs"]


def runs(offsets: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """low and high, int64[nodes]: the runs of these nodes."""
    return offsets[nodes], offsets[nodes.astype(np.int64) + 1]


def narrow(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of each range in which ``values``, ascending within every range, equals ``wanted`` (of each)."""
    return _first(values, low, high, wanted, above=False), _first(values, low, high, wanted, above=True)


def _first(values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray | int, above: bool) -> np.ndarray:
    """int64[ranges]: the first place whose value is ≥ ``wanted``, or > if ``above``; ``high`` if there is none."""
    low, high = low.copy(), high.copy()
    while True:
        open_ = low < high
        if not open_.any():
            return low
        middle = (low + high) >> 1
        found = values[np.where(open_, middle, 0)]
        right = open_ & (found <= wanted if above else found < wanted)
        low = np.where(right, middle + 1, low)
        high = np.where(open_ & ~right, middle, high)


def expand(
    low: np.ndarray, high: np.ndarray, smallest: int = 1 << 10, largest: int = 1 << 18
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of all ranges one after the other: (number of the range, place), int64[piece] both.

    Pieces grow from ``smallest`` to ``largest`` places, so that who needs only the first does not wait.
    """
    ends = np.cumsum(high - low)
    total = int(ends[-1]) if len(ends) else 0
    start, size = 0, smallest
    while start < total:
        places = np.arange(start, min(start + size, total))
        ranges = np.searchsorted(ends, places, side="right")
        yield ranges, high[ranges] - (ends[ranges] - places)
        start, size = start + size, min(2 * size, largest)
