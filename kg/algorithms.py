"""Graph algorithms over the arrays of a `kg.graph.KnowledgeGraph`, by node number.

Every function takes an open graph and gives numpy arrays; ids appear nowhere.
The kernels are compiled by numba at their first call and read the memory-mapped
arrays where they lie; beside them they need a few numbers a node, nothing an
edge. `kg.backend` gives the same results to networkx, by id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from numba import njit

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from kg.graph import KnowledgeGraph

__all__ = [
    "adjacency_matrix",
    "breadth_first",
    "core_numbers",
    "degree_histogram",
    "pagerank",
    "shortest_path",
    "strong_components",
    "weak_components",
    "weak_roots",
]

_compiled = njit(cache=True, nogil=True)


def weak_components(graph: KnowledgeGraph) -> np.ndarray:
    """The weakly connected component of every node.

    Returns:
        int32[nodes]: component 0 is the largest; of equally large ones the one with the least node number comes
        first. `numpy.bincount` of it gives the sizes.
    """
    roots = weak_roots(graph)
    sizes = np.bincount(roots)
    first = np.flatnonzero(sizes)
    rank = np.empty(len(sizes), dtype=np.int32)
    rank[first[np.argsort(-sizes[first], kind="stable")]] = np.arange(len(first), dtype=np.int32)
    return rank[roots]


def weak_roots(graph: KnowledgeGraph) -> np.ndarray:
    """int32[nodes]: the least node number of each node's weakly connected component."""
    return _weak_roots(graph.out_offsets, graph.out_objects)


def strong_components(graph: KnowledgeGraph) -> np.ndarray:
    """The strongly connected component of every node.

    Tarjan's algorithm (SIAM Journal on Computing 1:146-160, 1972), with an own stack for Python's.

    Returns:
        int32[nodes]: numbered in the order in which the search completes them, so every edge leads to a component of
        the same or a smaller number.
    """
    return _strong_components(graph.out_offsets, graph.out_objects)


def pagerank(
    graph: KnowledgeGraph,
    alpha: float = 0.85,
    tol: float = 1e-6,
    max_iter: int = 100,
    personalization: np.ndarray | None = None,
    start: np.ndarray | None = None,
    dangling: np.ndarray | None = None,
) -> np.ndarray:
    """PageRank by power iteration, every triple a link of weight 1.

    Args:
        graph: the graph; an empty one gives an empty array.
        alpha: probability of following a link.
        tol: stop when the ranks change by less than this in all (`networkx.pagerank` multiplies its own by the
            number of nodes).
        max_iter: most iterations.
        personalization, start, dangling: float64[nodes] that sum to 1: where a jump leads, the ranks to begin with,
            where a node without links leads. Uniform; uniform; as ``personalization``.

    Returns:
        float64[nodes] that sum to 1.

    Raises:
        networkx.PowerIterationFailedConvergence: ``max_iter`` iterations were not enough.
    """
    if not graph.node_count:
        return np.empty(0)
    uniform = np.full(graph.node_count, 1 / graph.node_count)
    jump = uniform if personalization is None else personalization
    sink = jump if dangling is None else dangling
    links = np.diff(graph.out_offsets)
    ends = links == 0
    ranks = uniform if start is None else start
    for _ in range(max_iter):
        flow = ranks / np.maximum(links, 1)
        following = _gather(graph.in_offsets, graph.in_subjects, flow)
        following += ranks[ends].sum() * sink
        following *= alpha
        following += (1 - alpha) * jump
        change = np.abs(following - ranks).sum()
        ranks = following
        if change < tol:
            return ranks
    raise nx.PowerIterationFailedConvergence(max_iter)


def core_numbers(graph: KnowledgeGraph) -> np.ndarray:
    """The core number of every node: the largest k such that it is in a part where all nodes have k neighbours.

    Counts neighbours, whatever the direction and number of the edges between two nodes; loops do not count. That
    is `networkx.core_number` of the simple undirected graph. Algorithm of Batagelj and Zaveršnik (2003,
    arXiv:cs/0310049).

    Returns:
        int32[nodes].
    """
    return _core_numbers(graph.out_offsets, graph.out_objects, graph.in_offsets, graph.in_subjects)


def breadth_first(
    graph: KnowledgeGraph, source: int, cutoff: float = np.inf, reverse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The nodes that can be reached from a node, nearest first.

    Args:
        graph: the graph.
        source: node number.
        cutoff: nodes that are this far away or farther are not searched from.
        reverse: follow edges from object to subject.

    Returns:
        int32[found] node numbers in the order of their discovery, ``source`` first, and int32[found] their distances.
    """
    if reverse:
        return _breadth_first(graph.in_offsets, graph.in_subjects, source, float(cutoff))
    return _breadth_first(graph.out_offsets, graph.out_objects, source, float(cutoff))


def shortest_path(graph: KnowledgeGraph, source: int, target: int) -> np.ndarray:
    """The nodes on a shortest path along the edges' direction, both ends included; searched from both.

    Returns:
        int64[nodes on the path]; empty if there is no path.
    """
    return _shortest_path(graph.out_offsets, graph.out_objects, graph.in_offsets, graph.in_subjects, source, target)


def degree_histogram(graph: KnowledgeGraph) -> np.ndarray:
    """int64[largest degree + 1]: how many nodes have each degree, in- and out-edges together."""
    return np.bincount(np.diff(graph.out_offsets) + np.diff(graph.in_offsets))


def adjacency_matrix(graph: KnowledgeGraph) -> csr_array:
    """Sparse int64[nodes, nodes]: the number of triples from one node to another."""
    from scipy.sparse import csr_array

    shape = (graph.node_count, graph.node_count)
    ones = np.ones(graph.triple_count, dtype=np.int64)
    matrix = csr_array((ones, graph.out_objects.copy(), graph.out_offsets.copy()), shape=shape)
    matrix.sum_duplicates()
    return matrix


@_compiled
def _weak_roots(offsets: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Union-find: sets are joined under their least node, and paths halved on the way to it."""
    nodes = len(offsets) - 1
    parent = np.arange(nodes).astype(np.int32)
    for node in range(nodes):
        root = node
        for position in range(offsets[node], offsets[node + 1]):
            other = neighbours[position]
            if parent[other] == root:
                continue
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            while parent[root] != root:
                parent[root] = parent[parent[root]]
                root = parent[root]
            if other < root:
                parent[root] = other
                root = other
            else:
                parent[other] = root
    for node in range(nodes):  # a parent is never greater than its child, so it is a root by now
        parent[node] = parent[parent[node]]
    return parent


@_compiled
def _strong_components(offsets: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    nodes = len(offsets) - 1
    labels = np.full(nodes, -1, np.int32)
    seen_as = np.zeros(nodes, np.int32)  # 1.. in the order of discovery, 0: not seen
    low = np.zeros(nodes, np.int32)
    cursor = offsets[:-1].copy()
    path = np.empty(nodes, np.int32)
    waiting = np.empty(nodes, np.int32)  # nodes whose component is not complete
    held = seen = found = 0
    for start in range(nodes):
        depth = 0
        if seen_as[start] == 0:
            path[0] = start
            depth = 1
        while depth > 0:
            node = path[depth - 1]
            if seen_as[node] == 0:
                seen += 1
                seen_as[node] = low[node] = seen
                waiting[held] = node
                held += 1
            while cursor[node] < offsets[node + 1]:
                other = neighbours[cursor[node]]
                if seen_as[other] == 0:
                    break
                if labels[other] < 0:
                    low[node] = min(low[node], low[other])
                cursor[node] += 1
            if cursor[node] < offsets[node + 1]:
                path[depth] = neighbours[cursor[node]]
                depth += 1
                continue
            depth -= 1
            if low[node] == seen_as[node]:
                while labels[node] < 0:
                    held -= 1
                    labels[waiting[held]] = found
                found += 1
    return labels


@_compiled
def _gather(offsets: np.ndarray, neighbours: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64[nodes]: the sum of the values of each node's neighbours."""
    total = np.empty(len(offsets) - 1)
    for node in range(len(total)):
        value = 0.0
        for position in range(offsets[node], offsets[node + 1]):
            value += values[neighbours[position]]
        total[node] = value
    return total


@_compiled
def _core_numbers(
    out_offsets: np.ndarray, out_objects: np.ndarray, in_offsets: np.ndarray, in_subjects: np.ndarray
) -> np.ndarray:
    nodes = len(out_offsets) - 1
    degree = np.zeros(nodes, np.int32)
    marks = np.full(nodes, -1, np.int32)
    near = np.empty(nodes, np.int32)
    for node in range(nodes):
        found = _mark(node, out_offsets, out_objects, marks, near, 0)
        degree[node] = _mark(node, in_offsets, in_subjects, marks, near, found)
    # order: nodes by what remains of their degree; those of degree d from starts[d] on.
    starts = np.zeros(nodes + 1, np.int64)
    starts[1:] = np.cumsum(np.bincount(degree, minlength=nodes))
    order = np.argsort(degree, kind="mergesort")
    place = np.empty(nodes, np.int64)
    place[order] = np.arange(nodes)
    marks[:] = -1
    for step in range(nodes):
        node = order[step]
        found = _mark(node, out_offsets, out_objects, marks, near, 0)
        found = _mark(node, in_offsets, in_subjects, marks, near, found)
        for other in near[:found]:
            if degree[other] > degree[node]:
                first = starts[degree[other]]
                swapped = order[first]
                order[place[other]], order[first] = swapped, other
                place[swapped], place[other] = place[other], first
                starts[degree[other]] += 1
                degree[other] -= 1
    return degree


@_compiled
def _mark(
    node: int, offsets: np.ndarray, neighbours: np.ndarray, marks: np.ndarray, near: np.ndarray, found: int
) -> int:
    """Append the neighbours of a node that do not bear its mark yet to ``near[:found]``; how many there are now."""
    for position in range(offsets[node], offsets[node + 1]):
        other = neighbours[position]
        if other != node and marks[other] != node:
            marks[other] = node
            near[found] = other
            found += 1
    return found


@_compiled
def _breadth_first(
    offsets: np.ndarray, neighbours: np.ndarray, source: int, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    distance = np.full(len(offsets) - 1, -1, np.int32)
    queue = np.empty(len(distance), np.int32)
    distance[source] = 0
    queue[0] = source
    head, tail = 0, 1
    while head < tail and distance[queue[head]] < cutoff:
        node = queue[head]
        head += 1
        for position in range(offsets[node], offsets[node + 1]):
            other = neighbours[position]
            if distance[other] < 0:
                distance[other] = distance[node] + 1
                queue[tail] = other
                tail += 1
    return queue[:tail].copy(), distance[queue[:tail]]


@_compiled
def _shortest_path(
    out_offsets: np.ndarray,
    out_objects: np.ndarray,
    in_offsets: np.ndarray,
    in_subjects: np.ndarray,
    source: int,
    target: int,
) -> np.ndarray:
    nodes = len(out_offsets) - 1
    before = np.full(nodes, -1, np.int32)  # the node before each one, on the way from the source; itself there
    after = np.full(nodes, -1, np.int32)
    before[source], after[target] = source, target
    ahead, behind = np.empty(nodes, np.int32), np.empty(nodes, np.int32)
    ahead[0], behind[0] = source, target
    ahead_start, behind_start = 0, 0
    ahead_end, behind_end = 1, 1
    middle = source if source == target else -1
    while middle < 0 and ahead_start < ahead_end and behind_start < behind_end:
        if ahead_end - ahead_start <= behind_end - behind_start:
            end, middle = _advance(out_offsets, out_objects, ahead, ahead_start, ahead_end, before, after)
            ahead_start, ahead_end = ahead_end, end
        else:
            end, middle = _advance(in_offsets, in_subjects, behind, behind_start, behind_end, after, before)
            behind_start, behind_end = behind_end, end
    if middle < 0:
        return np.empty(0, np.int64)
    path = [np.int64(middle)]
    while path[-1] != source:
        path.append(np.int64(before[path[-1]]))
    path.reverse()
    while path[-1] != target:
        path.append(np.int64(after[path[-1]]))
    return np.array(path)


@_compiled
def _advance(
    offsets: np.ndarray,
    neighbours: np.ndarray,
    queue: np.ndarray,
    start: int,
    end: int,
    parents: np.ndarray,
    others: np.ndarray,
) -> tuple[int, int]:
    """Search on from ``queue[start:end]``: the end of the queue, and the node that the search from the other end has
    seen too, or -1."""
    tail = end
    for node in queue[start:end]:
        for position in range(offsets[node], offsets[node + 1]):
            neighbour = neighbours[position]
            if parents[neighbour] < 0:
                parents[neighbour] = node
                queue[tail] = neighbour
                tail += 1
            if others[neighbour] >= 0:
                return tail, neighbour
    return tail, -1
