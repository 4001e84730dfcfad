"""How evenly counts are distributed, and how evenly the graph lets the relations be.

`gini` and `normalised_entropy` measure evenness, `spread` gathers the usual
figures. The sets per relation are compared with `most_even_sets`: the most even way
to deal out the same number of (set, relation) occurrences that the graph has
room for. What it leaves uneven, no sampler can mend: some relations must be in
many sets, for there are entities that have no other (`forced_sets`); and some
have few triplets, which would have to be drawn again and again (`fewest_uses`).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "MostEven",
    "fewest_uses",
    "forced_sets",
    "gini",
    "most_even_sets",
    "normalised_entropy",
    "sole_relations",
    "spread",
    "water_fill",
]

Counts = NDArray[np.integer[Any]]

NO_RELATION, SEVERAL_RELATIONS = -1, -2


def normalised_entropy(counts: Counts) -> float:
    """Shannon entropy of ``counts`` divided by that of a uniform distribution: 1 is even, 0 is all in one.

    >>> normalised_entropy(np.array([5, 5, 5, 5]))
    1.0
    >>> normalised_entropy(np.array([9, 0, 0]))
    0.0
    """
    total = counts.sum()
    if total == 0 or len(counts) < 2:
        return 0.0
    shares = counts[counts > 0] / total
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts))) + 0.0


def gini(counts: Counts) -> float:
    """Gini coefficient of ``counts``: 0 is even, towards 1 is all in one.

    >>> gini(np.array([3, 3, 3]))
    0.0
    >>> gini(np.array([0, 0, 0, 8]))
    0.75
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    n = len(counts)
    ranks = np.arange(1, n + 1)
    return float(((2 * ranks - n - 1) * np.sort(counts)).sum() / (n * total))


def spread(counts: Counts, n_sets: int) -> dict[str, Any]:
    """Quartiles and evenness of numbers of sets, of ``n_sets`` in all.

    ``max_over_median`` is None where the median is 0.
    """
    quartiles = np.quantile(counts, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(counts) else [0.0] * 5
    _, _, median, _, most = quartiles
    return {
        **{name: round(value, 3) for name, value in zip(_QUARTILES, quartiles, strict=True)},
        "max_over_median": round(most / median, 3) if median else None,
        "max_share": round(most / n_sets, 6) if n_sets else 0.0,
        "normalised_entropy": round(normalised_entropy(counts), 6),
        "gini": round(gini(counts), 6),
    }


_QUARTILES = ("min", "q1", "median", "q3", "max")


@dataclass(frozen=True)
class MostEven:
    """The most even numbers of sets for R relations, all int64[R].

    Attributes:
        forced: sets that each relation must be in.
        freely: where triplets may be drawn again and again.
        without_repeats: where no triplet may be in more than ``uses`` sets.
        uses: the least number that leaves room for all occurrences.
    """

    forced: NDArray[np.int64]
    freely: NDArray[np.int64]
    without_repeats: NDArray[np.int64]
    uses: int


def most_even_sets(
    counts: Counts, triplets: Counts, own_entities: Counts, uncovered: int, sizes: NDArray[np.int64]
) -> MostEven:
    """How evenly sets of the same sizes that cover as many entities could hold the R relations.

    The occurrences (a relation in a set) that were drawn are dealt out anew, as evenly as possible. No set
    of the same number of them has a smaller maximum, variance or Gini coefficient. Max/median alone could be
    pressed further where a relation is forced into many sets: by starving the rarer half of the others for the
    sake of the median, which can be at most twice the mean.

    What was drawn is never more even than ``freely``, but it may be more even than ``without_repeats``, namely
    where the triplets of rare relations were drawn more than ``uses`` times, each time beside others.

    Args:
        counts: [R], sets that hold the relation.
        triplets: [R], triplets that may be drawn, at least 1.
        own_entities: [R], entities all of whose triplets have the relation.
        uncovered: entities that are in no set; at worst they all are a relation's own.
        sizes: [k], triplets of each set.
    """
    # Sets that do not hang together hold more entities than forced_sets expects; what was drawn shows it.
    forced = np.minimum(forced_sets(np.maximum(own_entities - uncovered, 0), sizes), counts)
    n_sets, total = len(sizes), int(counts.sum())
    uses = fewest_uses(triplets, n_sets, total)
    freely = water_fill(forced, np.full(len(counts), n_sets), total)
    return MostEven(forced, freely, water_fill(forced, np.minimum(triplets * uses, n_sets), total), uses)


def sole_relations(
    subjects: NDArray[np.int32],
    relations: NDArray[np.int32],
    objects: NDArray[np.int32],
    drawable: NDArray[np.bool_],
    n_nodes: int,
) -> NDArray[np.int32]:
    """int32[n_nodes]: the relation that all of a node's triplets have.

    Only triplets that are ``drawable`` (bool[m]) count. `NO_RELATION` where a node has none,
    `SEVERAL_RELATIONS` where they have different ones.
    """
    found = np.full(n_nodes, NO_RELATION, np.int32)
    _find_sole_relations(subjects, relations, objects, drawable, found)
    return found


def forced_sets(entities: Counts, sizes: Counts) -> NDArray[np.int64]:
    """int64[R]: in how many sets each relation must occur for so many of its own entities to be covered.

    An entity of relation r's own is one all of whose triplets have r: a set that holds the entity holds r.
    A connected set of k triplets holds at most k + 1 entities, so the fewest sets that can
    cover them are the largest ones.

    Args:
        entities: [R], own entities of each relation that are to be covered.
        sizes: [k], triplets of each set.

    >>> forced_sets(np.array([0, 5, 7, 8]), np.array([1, 4, 1, 4])).tolist()
    [0, 1, 2, 2]
    """
    room = np.cumsum(np.sort(sizes)[::-1] + 1)
    return np.where(entities > 0, np.searchsorted(room, entities) + 1, 0)


def water_fill(least: Counts, most: Counts, total: int) -> NDArray[np.int64]:
    """The most even whole numbers between ``least`` and ``most`` (int64[R] each) whose sum is ``total``.

    That is clip(level, least, most) for the one level that reaches the sum; what is left below the
    next level goes to the first that have room. Every other such allocation has an equal or
    larger maximum, variance and Gini coefficient and an equal or smaller minimum and entropy (this
    one is majorised by all others).

    Raises:
        ValueError: ``total`` does not lie between the sums of ``least`` and ``most``.

    >>> water_fill(np.array([0, 0, 9]), np.array([2, 50, 50]), 20).tolist()
    [2, 9, 9]
    """
    if not least.sum() <= total <= most.sum():
        raise ValueError(f"{total} cannot be dealt out between {least.sum()} and {most.sum()}")
    levels = range(int(most.max(initial=0)) + 1)
    level = bisect_left(levels, True, key=lambda level: np.clip(level, least, most).sum() > total) - 1
    filled = np.clip(level, least, most).astype(np.int64)
    room = np.flatnonzero((filled == level) & (filled < most))
    filled[room[: total - filled.sum()]] += 1
    return filled


def fewest_uses(triplets: Counts, n_sets: int, total: int) -> int:
    """In how many sets u a triplet must be allowed to occur for ``total`` (set, relation) occurrences.

    A relation with t triplets then occurs in no more than min(u·t, ``n_sets``) sets.

    Args:
        triplets: [R], triplets of each relation, at least 1.
        n_sets: number of sets.
        total: at most ``R * n_sets``.

    >>> fewest_uses(np.array([2, 3]), 100, 5), fewest_uses(np.array([2, 3]), 100, 6)
    (1, 2)
    """
    return 1 + bisect_left(range(1, n_sets + 1), total, key=lambda uses: int(np.minimum(triplets * uses, n_sets).sum()))


@njit(cache=True, nogil=True)
def _find_sole_relations(
    subjects: np.ndarray, relations: np.ndarray, objects: np.ndarray, drawable: np.ndarray, found: np.ndarray
) -> None:
    for edge in range(len(subjects)):
        if not drawable[edge]:
            continue
        for node in (subjects[edge], objects[edge]):
            if found[node] == NO_RELATION:
                found[node] = relations[edge]
            elif found[node] != relations[edge]:
                found[node] = SEVERAL_RELATIONS
