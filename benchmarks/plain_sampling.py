"""Two ways to draw triplet sets without coverage in mind, compiled as the sampler is: what it is compared with.

`walk_sets` is the plain random walk: it starts at an entity drawn uniformly from those with a triplet, at each step
follows a triplet drawn uniformly from those of the entity it stands on, in either direction, and collects the
different triplets it has followed. `grow_sets` draws triplets uniformly: the first from all of the graph, each further
one from all that touch an entity of the set. Neither counts, weighs or looks for duplicates. Where a set does not reach
its size within eight draws a triplet, it stays smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kg.graph import KnowledgeGraph

__all__ = ["PlainGraph", "draw_plain", "grow_sets", "walk_sets"]

_DRAWS = 8  # a triplet, at most

_compiled = njit(cache=True, nogil=True)


class PlainGraph(NamedTuple):
    """The arrays of a graph, and the subject of each edge."""

    out_offsets: NDArray[np.int64]
    out_objects: NDArray[np.int32]
    in_offsets: NDArray[np.int64]
    in_subjects: NDArray[np.int32]
    in_edges: NDArray[np.int64]
    subjects: NDArray[np.int32]
    starts: NDArray[np.int64]  # nodes with a triplet

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> PlainGraph:
        out_offsets, in_offsets = np.asarray(graph.out_offsets), np.asarray(graph.in_offsets)
        degrees = np.diff(out_offsets)
        return cls(
            out_offsets,
            np.asarray(graph.out_objects),
            in_offsets,
            np.asarray(graph.in_subjects),
            np.asarray(graph.in_edge_numbers),
            np.repeat(np.arange(graph.node_count, dtype=np.int32), degrees),
            np.flatnonzero(degrees + np.diff(in_offsets)),
        )


def draw_plain(
    draw: Callable[..., None], graph: PlainGraph, sizes: NDArray[np.int64], seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sets of these sizes at most by `walk_sets` or `grow_sets`: offsets int64[k+1] and edge numbers int64."""
    edges = np.full((len(sizes), sizes.max()), -1, np.int64)
    draw(graph, sizes, seed, edges)
    drawn = edges >= 0
    return np.append(0, np.cumsum(drawn.sum(axis=1))), edges[drawn]


@_compiled
def walk_sets(graph, sizes, seed, edges):
    """Fill the rows of ``edges`` (int64[k, greatest size], -1 where there is none) by random walks."""
    np.random.seed(seed)
    for row in range(len(sizes)):
        node = graph.starts[np.random.randint(len(graph.starts))]
        n = 0
        for _ in range(_DRAWS * sizes[row]):
            edge, node = _incident(graph, node, np.random.randint(_degree(graph, node)))
            if not _contains(edges[row], n, edge):
                edges[row, n] = edge
                n += 1
                if n == sizes[row]:
                    break


@_compiled
def grow_sets(graph, sizes, seed, edges):
    """Fill the rows of ``edges`` (int64[k, greatest size], -1 where there is none) by triplets drawn uniformly."""
    np.random.seed(seed)
    nodes = np.empty(edges.shape[1] + 1, np.int64)
    for row in range(len(sizes)):
        edge = np.random.randint(len(graph.subjects))
        edges[row, 0] = edge
        nodes[0], nodes[1] = graph.subjects[edge], graph.out_objects[edge]
        n, n_nodes = 1, 1 + (nodes[0] != nodes[1])
        for _ in range(_DRAWS * sizes[row]):
            if n == sizes[row]:
                break
            edge, far = _touching(graph, nodes, n_nodes)
            if _contains(edges[row], n, edge):
                continue
            edges[row, n] = edge
            n += 1
            if not _contains(nodes, n_nodes, far):
                nodes[n_nodes] = far
                n_nodes += 1


@_compiled
def _touching(graph, nodes, n_nodes):
    """A triplet drawn uniformly from the places at these nodes, and the node at its far end."""
    total = 0
    for i in range(n_nodes):
        total += _degree(graph, nodes[i])
    place = np.random.randint(total)
    turn = 0
    while place >= _degree(graph, nodes[turn]):
        place -= _degree(graph, nodes[turn])
        turn += 1
    return _incident(graph, nodes[turn], place)


@_compiled
def _degree(graph, node):
    out = graph.out_offsets[node + 1] - graph.out_offsets[node]
    return out + graph.in_offsets[node + 1] - graph.in_offsets[node]


@_compiled
def _incident(graph, node, place):
    """The triplet at this place of a node's, those as subject first, and the node at its far end."""
    edge = graph.out_offsets[node] + place
    if edge < graph.out_offsets[node + 1]:
        return edge, np.int64(graph.out_objects[edge])
    position = graph.in_offsets[node] + edge - graph.out_offsets[node + 1]
    return graph.in_edges[position], np.int64(graph.in_subjects[position])


@_compiled
def _contains(items, n, item):
    for i in range(n):  # noqa: SIM110 (numba has no any() over a generator)
        if items[i] == item:
            return True
    return False
