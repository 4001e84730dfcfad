"""What a prompt draws for one set: the values of its style, and the demonstrations that it shows.

A draw is a 64-bit number that stands for a set and the run's seed; everything
here is a function of it. Both kinds of choice hash the draw with what is chosen
from, never with its place in a file: a new axis leaves the others as they are,
and a new demonstration changes only those requests that now show it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

__all__ = ["Axes", "Pool", "Value"]

_WORD = (1 << 64) - 1


class Value(Protocol):
    """One value of an axis."""

    @property
    def weight(self) -> float: ...
    @property
    def text(self) -> str: ...


class Axes:
    """Weighted axes of style, ready to draw from.

    Args:
        axes: axis -> name of a value -> the value. The order of neither counts.
    """

    def __init__(self, axes: Mapping[str, Mapping[str, Value]]) -> None:
        self._axes: list[tuple[str, list[str], list[float]]] = []
        for axis, values in sorted(axes.items()):
            names = sorted(values)
            bounds = list(accumulate(values[name].weight for name in names))
            self._axes.append((axis, names, [bound / bounds[-1] for bound in bounds[:-1]]))

    def draw(self, draw: int) -> dict[str, str]:
        """Axis -> name of the value drawn, each axis apart from the others, in proportion to the weights."""
        return {axis: names[bisect(bounds, _fraction(axis, draw))] for axis, names, bounds in self._axes}


class Pool:
    """Demonstrations of which each request shows a few: those that share its relations, else at random.

    To show each relation of a set at least once matters more than to show many
    near copies of one (Levy et al. 2023, "Diverse Demonstrations Improve
    In-context Compositional Generalization"), so the choice is greedy: again and
    again the demonstration that shows most relations not yet shown.

    Args:
        relations: of each demonstration, the labels of its relations.
        contents: of each demonstration, what it says; decides among equals, together with the draw.
        size: how many a request shows.
    """

    def __init__(self, relations: Sequence[Iterable[str]], contents: Sequence[bytes], size: int) -> None:
        self._size = size
        self._numbers = [int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) for content in contents]
        self._showing: defaultdict[str, list[int]] = defaultdict(list)
        for index, labels in enumerate(relations):
            for label in labels:
                self._showing[label].append(index)

    def choose(self, labels: Iterable[str], draw: int) -> list[int]:
        """Indices of the demonstrations to show, the nearest to the set last.

        Models lean on what stands near the end of a prompt (Zhao et al. 2021, "Calibrate Before Use"); the nearest
        demonstration is to be leant on, so it stands next to the question.

        Args:
            labels: the set's relations, each once.
            draw: 64-bit.
        """
        shown: dict[int, int] = {}  # demonstration -> the set's relations that it shows, as bits
        for place, label in enumerate(labels):
            for index in self._showing.get(label, ()):
                shown[index] = shown.get(index, 0) | 1 << place
        ranks = _ranks(self._numbers, draw)
        near = sorted(shown, key=lambda index: (-shown[index].bit_count(), ranks[index]))
        chosen: list[int] = []
        missing = -1
        while near and len(chosen) < self._size:
            best = max(near, key=lambda index: (shown[index] & missing).bit_count())
            if not shown[best] & missing:
                break
            chosen.append(best)
            near.remove(best)
            missing &= ~shown[best]
        chosen += near
        if len(chosen) < self._size:
            chosen += sorted(set(range(len(ranks))).difference(chosen), key=ranks.__getitem__)
        return chosen[: self._size][::-1]


def _fraction(axis: str, draw: int) -> float:
    digest = hashlib.blake2b(draw.to_bytes(8) + axis.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _ranks(numbers: Sequence[int], draw: int) -> list[int]:
    """The numbers in an order of their own for each draw: multiplied by an odd number that is made of it.

    Multiplicative hashing (Dietzfelbinger et al. 1997); the odd number is the draw through SplitMix64's finalizer
    (Steele, Lea & Flood 2014), so that neighbouring draws have nothing in common.
    """
    draw = (draw ^ draw >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    draw = (draw ^ draw >> 27) * 0x94D049BB133111EB & _WORD
    factor = draw ^ draw >> 31 | 1
    return [number * factor & _WORD for number in numbers]
