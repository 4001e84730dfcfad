"""The same triplet sets told twice: by two prompts, models or runs, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthie.browse.index import Index
from synthie.errors import InputError

__all__ = ["OUTCOMES", "Pairs", "pair"]

OUTCOMES = ("both", "left", "right", "neither")
Masks = tuple[np.ndarray, np.ndarray]  # bool, an item a row of the left and of the right


@dataclass(frozen=True)
class Pairs:
    """Rows that tell the same set.

    Attributes:
        left, right: row numbers, one pair a position.
        outcomes: how many pairs both sides accept, only one, or neither.
    """

    left: np.ndarray
    right: np.ndarray
    outcomes: dict[str, int]

    def drawn(self, count: int, seed: int) -> Pairs:
        """So many of them at random."""
        chosen = np.random.default_rng(seed).permutation(len(self.left))[:count]
        return Pairs(self.left[chosen], self.right[chosen], self.outcomes)


def pair(left: Index, right: Index, among: Masks, either: Masks | None = None, outcome: str = "") -> Pairs:
    """Join the two sides on the triplet set, in the order of the left.

    Of a set that a side tells several times, its first text counts.

    Args:
        left, right: the sides.
        among: of each side, the rows that take part.
        either: if given, a pair is kept only if one of its rows is marked here.
        outcome: one of `OUTCOMES` to keep only those pairs, or "" for all.

    Raises:
        InputError: there is no such outcome.
    """
    if outcome and outcome not in OUTCOMES:
        raise InputError(f"outcome is {outcome!r}; choose one of {', '.join(OUTCOMES)}.")
    lefts, of_left = _sets(left, among[0])
    rights, of_right = _sets(right, among[1])
    _, first, second = np.intersect1d(of_left, of_right, assume_unique=True, return_indices=True)
    lefts, rights = lefts[first], rights[second]
    if either is not None:
        kept = either[0][lefts] | either[1][rights]
        lefts, rights = lefts[kept], rights[kept]
    order = np.argsort(left.columns["id"][lefts], kind="stable")
    lefts, rights = lefts[order], rights[order]
    accepted = left.columns["accepted"][lefts], right.columns["accepted"][rights]
    masks = {
        "both": accepted[0] & accepted[1],
        "left": accepted[0] & ~accepted[1],
        "right": ~accepted[0] & accepted[1],
        "neither": ~accepted[0] & ~accepted[1],
    }
    counts = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
    keep = masks[outcome] if outcome else np.ones(len(lefts), bool)
    return Pairs(lefts[keep], rights[keep], counts)


def _sets(index: Index, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each set among those chosen, and the sets."""
    rows = np.flatnonzero(chosen)
    sets, firsts = np.unique(index.columns["set"][rows], return_index=True)
    return rows[firsts], sets
