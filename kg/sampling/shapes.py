"""What single sets look like, and which are equal: compiled loops over the triplets of each set.

In: sets as ``offsets`` (int64[k + 1]) into a flat array of edge numbers or nodes.
Nothing here knows how the sets were drawn.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["SHAPES", "count_sets", "first_equal_sets", "shapes"]

SHAPES = ("single", "pair", "star", "chain", "tree", "cycle", "disconnected")
_SINGLE, _PAIR, _STAR, _CHAIN, _TREE, _CYCLE, _DISCONNECTED = range(len(SHAPES))


def shapes(
    offsets: NDArray[np.int64], subjects: NDArray[np.int32], objects: NDArray[np.int32]
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """The shape of each set, seen as an undirected multigraph, and its number of distinct subjects.

    Every set has one shape, the first that fits of:

    - disconnected: not all of its triplets hang together (the sampler draws none);
    - single: one triplet;
    - cycle: it has an undirected cycle, such as two triplets between the same two nodes
      or, with others, a triplet from a node to itself;
    - pair: two triplets that share a node, star and chain both;
    - star: three or more triplets that all share one node;
    - chain: a path of three or more triplets, in whatever directions;
    - tree: any other.

    Args:
        offsets: int64[k + 1]; set i holds the triplets ``offsets[i]:offsets[i + 1]``, at least one, all different.
        subjects, objects: int32, node numbers of the triplets.

    Returns:
        int8[k], index into `SHAPES`, and int32[k].
    """
    found = np.empty(len(offsets) - 1, np.int8)
    distinct = np.empty(len(offsets) - 1, np.int32)
    longest = int(np.diff(offsets).max(initial=0))
    _find_shapes(offsets, subjects, objects, longest, found, distinct)
    return found, distinct


def count_sets(
    offsets: NDArray[np.int64], items: NDArray[np.int32], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """In how many sets each item occurs, and how many ``counted`` items each set is the first to hold.

    Args:
        offsets: int64[k + 1]; set i holds ``items[offsets[i]:offsets[i + 1]]``; an item may stand there repeatedly.
        items: int32, numbers below n.
        counted: bool[n].

    Returns:
        int32[n] and int64[k].

    >>> counts, new = count_sets(np.array([0, 3, 5]), np.array([2, 0, 2, 2, 1], np.int32), np.array([True] * 4))
    >>> counts.tolist(), new.tolist()
    ([1, 1, 2, 0], [2, 1])
    """
    counts = np.zeros(len(counted), np.int32)
    new = np.zeros(len(offsets) - 1, np.int64)
    _count_sets(offsets, items, counted, counts, new)
    return counts, new


def first_equal_sets(offsets: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[k]: for each set the first one with the same triplets, which may be itself.

    Sets with equal hashes are compared triplet by triplet.

    >>> first_equal_sets(np.array([0, 2, 3, 5]), np.array([7, 4, 4, 4, 7])).tolist()
    [0, 1, 0]
    """
    edges = edges.copy()
    hashes = np.zeros(len(offsets) - 1, np.uint64)
    _sort_and_hash(offsets, edges, hashes)
    first = np.arange(len(hashes))
    _link_equal(offsets, edges, hashes, np.argsort(hashes, kind="stable"), first)
    return first


_compiled = njit(cache=True, nogil=True)


@_compiled
def _find_shapes(
    offsets: np.ndarray,
    subjects: np.ndarray,
    objects: np.ndarray,
    longest: int,
    found: np.ndarray,
    distinct: np.ndarray,
) -> None:
    nodes = np.empty(2 * longest, np.int32)
    degrees = np.empty(2 * longest, np.int32)
    parents = np.empty(2 * longest, np.int32)
    is_subject = np.empty(2 * longest, np.bool_)
    for number in range(len(found)):
        n_nodes = 0
        joins = 0
        size = offsets[number + 1] - offsets[number]
        for place in range(offsets[number], offsets[number + 1]):
            ends = (subjects[place], objects[place])
            roots = [0, 0]
            for side in range(2):
                position = 0
                while position < n_nodes and nodes[position] != ends[side]:
                    position += 1
                if position == n_nodes:
                    nodes[position], degrees[position], parents[position] = ends[side], 0, position
                    is_subject[position] = False
                    n_nodes += 1
                degrees[position] += 1
                is_subject[position] |= side == 0
                while parents[position] != position:
                    position = parents[position]
                roots[side] = position
            if roots[0] != roots[1]:
                parents[roots[0]] = roots[1]
                joins += 1
        highest = degrees[:n_nodes].max()
        distinct[number] = is_subject[:n_nodes].sum()
        if n_nodes - joins > 1:
            found[number] = _DISCONNECTED
        elif size == 1:
            found[number] = _SINGLE
        elif joins < size:
            found[number] = _CYCLE
        elif size == 2:
            found[number] = _PAIR
        elif highest == size:
            found[number] = _STAR
        elif highest == 2:
            found[number] = _CHAIN
        else:
            found[number] = _TREE


@_compiled
def _count_sets(
    offsets: np.ndarray, items: np.ndarray, counted: np.ndarray, counts: np.ndarray, new: np.ndarray
) -> None:
    for number in range(len(new)):
        start = offsets[number]
        for place in range(start, offsets[number + 1]):
            item = items[place]
            before = start
            while items[before] != item:
                before += 1
            if before < place:
                continue
            if counts[item] == 0 and counted[item]:
                new[number] += 1
            counts[item] += 1


@_compiled
def _sort_and_hash(offsets: np.ndarray, edges: np.ndarray, hashes: np.ndarray) -> None:
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    shift = np.uint64(29)
    for number in range(len(hashes)):
        own = edges[offsets[number] : offsets[number + 1]]
        own.sort()
        value = np.uint64(len(own))
        for edge in own:
            value = (value ^ np.uint64(edge)) * multiplier
            value ^= value >> shift
        hashes[number] = value


@_compiled
def _link_equal(
    offsets: np.ndarray, edges: np.ndarray, hashes: np.ndarray, order: np.ndarray, first: np.ndarray
) -> None:
    """Link each set to the first equal one among those with its hash, which stand together in ``order``."""
    start = 0
    for place in range(len(order)):
        number = order[place]
        if hashes[order[start]] != hashes[number]:
            start = place
        for before in range(start, place):
            other = order[before]
            if first[other] == other and np.array_equal(
                edges[offsets[other] : offsets[other + 1]], edges[offsets[number] : offsets[number + 1]]
            ):
                first[number] = other
                break
