"""Leaving out nodes of a low degree until none is left, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["peel"]


def peel(subject: np.ndarray, target: np.ndarray, nodes: int, minimum: int, droppable: int) -> np.ndarray:
    """bool[droppable]: which nodes remain when those in fewer triples than ``minimum`` go, again and again.

    The algorithm of Batagelj and Zaveršnik for cores (https://arxiv.org/abs/cs/0310049), in time linear in the triples,
    for one bound. A triple of a node with itself counts once.

    Args:
        subject, target: int32[triples], node numbers.
        nodes: number of nodes.
        minimum: fewest triples of a node that remains.
        droppable: only the nodes below this number may go; the others count as neighbours.
    """
    ends = np.concatenate([subject, target])
    order = np.argsort(ends, kind="stable")
    offsets = np.zeros(nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(ends, minlength=nodes), out=offsets[1:])
    return _peel(subject, target, order % max(len(subject), 1), offsets, minimum, droppable)


@njit(cache=True, nogil=True)
def _peel(
    subject: np.ndarray, target: np.ndarray, triples: np.ndarray, offsets: np.ndarray, minimum: int, droppable: int
) -> np.ndarray:
    degrees = np.zeros(len(offsets) - 1, np.int64)
    for triple in range(len(subject)):
        degrees[subject[triple]] += 1
        if target[triple] != subject[triple]:
            degrees[target[triple]] += 1
    kept = degrees[:droppable] >= minimum
    waiting = np.empty(droppable, np.int64)
    count = 0
    for node in range(droppable):
        if not kept[node]:
            waiting[count] = node
            count += 1
    gone = np.zeros(len(subject), np.bool_)
    while count:
        count -= 1
        node = waiting[count]
        for place in range(offsets[node], offsets[node + 1]):
            triple = triples[place]
            if gone[triple]:
                continue
            gone[triple] = True
            other = target[triple] if subject[triple] == node else subject[triple]
            degrees[other] -= 1
            if other < droppable and kept[other] and degrees[other] < minimum:
                kept[other] = False
                waiting[count] = other
                count += 1
    return kept
