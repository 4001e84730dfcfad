"""The compiled kernels of the sampler: streams, starts, steps, admission, counts.

`kg.sampling` describes the algorithm and calls these; "step" refers to its list.
In: CSR arrays and frozen weights; out: rows of edge numbers, written in place.
The functions carry no type hints, because numba infers the types from what they
are called with: the named tuples below. They run without the interpreter's lock,
so threads may draw rows of one round side by side.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "TRIES",
    "Arrays",
    "Frozen",
    "Rows",
    "State",
    "Walk",
    "admit",
    "draw_rows",
    "group_by_relation",
    "merge",
    "split_keys",
    "swap_into_training",
]

BLOCK = 256
TRIES = 32
_START_PROPOSALS = 16
_STEP_PROPOSALS = 64
_OPEN_IN_DEGREE = 8.0

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), np.uint64(1)
_UNIT = 1.0 / (1 << 53)

_compiled = njit(cache=True, nogil=True)


class Arrays(NamedTuple):
    """The graph as the kernels see it: CSR in both directions, and the edges of each relation."""

    out_offsets: NDArray[np.int64]
    out_relations: NDArray[np.int32]
    out_objects: NDArray[np.int32]
    in_offsets: NDArray[np.int64]
    in_relations: NDArray[np.int32]
    in_subjects: NDArray[np.int32]
    in_edges: NDArray[np.int64]
    relation_offsets: NDArray[np.int64]  # [R+1] into relation_edges
    relation_edges: NDArray[np.int64]  # [m] edge numbers, grouped by relation
    is_entity: NDArray[np.bool_]  # [n] False for literals
    can_start: NDArray[np.bool_]  # [n] entities with a triplet


class Walk(NamedTuple):
    """The settings of a walk."""

    size_ends: NDArray[np.float64]  # cumulative probabilities of the sizes from min_size on
    min_size: int
    relation_share: float
    stay: float


class State(NamedTuple):
    """Counts, the weights that follow from them, and the contents seen so far; the kernels update it in place.

    The start entity is found through sums over blocks of 256 nodes, so that a round renews
    only the blocks it touched. Contents are kept as 64-bit hashes: two different sets with
    one hash (1 in 10^7 among a million sets) cost a redraw, no more.
    """

    node_counts: NDArray[np.int64]
    relation_counts: NDArray[np.int64]
    edge_counts: NDArray[np.int64]
    node_weights: NDArray[np.float64]
    relation_weights: NDArray[np.float64]
    block_sums: NDArray[np.float64]
    covered: NDArray[np.int64]  # entities, relations, triplets
    seen: NDArray[np.uint64]  # open addressing, 0 is empty


class Frozen(NamedTuple):
    """The weights of one round, with the cumulative sums to draw starts by."""

    nodes: NDArray[np.float64]
    relations: NDArray[np.float64]
    block_ends: NDArray[np.float64]
    relation_ends: NDArray[np.float64]


class Rows(NamedTuple):
    """The sets of one round while they are drawn, one row each."""

    edges: NDArray[np.int64]  # [k, max_size]
    lengths: NDArray[np.int64]  # [k], 0 where there is no set
    strategies: NDArray[np.uint8]  # [k]


class _Pool(NamedTuple):
    """The candidates of one step."""

    edges: NDArray[np.int64]
    nodes: NDArray[np.int64]  # far ends
    ends: NDArray[np.float64]  # cumulative weights


@_compiled
def group_by_relation(relations, n_relations):
    """Counting sort: (offsets int64[R+1], edge numbers int64[m]), ascending inside a relation."""
    offsets = np.zeros(n_relations + 1, np.int64)
    for relation in relations:
        offsets[relation + 1] += 1
    for relation in range(n_relations):
        offsets[relation + 1] += offsets[relation]
    cursor = offsets[:-1].copy()
    edges = np.empty(len(relations), np.int64)
    for edge in range(len(relations)):
        edges[cursor[relations[edge]]] = edge
        cursor[relations[edge]] += 1
    return offsets, edges


@_compiled
def draw_rows(positions, first_number, attempt, seed, arrays, walk, frozen, away_from_hubs, rows):
    """Steps 2 to 7 for the rows ``positions`` of a round; a walk that ends below ``min_size`` gets length 0."""
    max_size = rows.edges.shape[1]
    visited = np.empty(max_size + 1, np.int64)
    untried = np.empty(max_size + 1, np.bool_)
    pool = _Pool(
        np.empty(2 * _STEP_PROPOSALS, np.int64),
        np.empty(2 * _STEP_PROPOSALS, np.int64),
        np.empty(2 * _STEP_PROPOSALS, np.float64),
    )
    stream = np.empty(1, np.uint64)
    for row in positions:
        stream[0] = _stream(seed, first_number + row, 0 if away_from_hubs else attempt)
        size = walk.min_size + _pick(stream, walk.size_ends, len(walk.size_ends))
        stream[0] = _stream(seed, first_number + row, attempt)
        drawn = rows.edges[row]
        n_drawn, n_visited, last = 0, 1, 0
        rows.strategies[row] = _uniform(stream) < walk.relation_share
        if rows.strategies[row]:
            edge = _start_edge(stream, arrays, frozen, pool)
            drawn[0], n_drawn = edge, 1
            visited[0], far = _subject(arrays, edge), np.int64(arrays.out_objects[edge])
            if arrays.is_entity[far] and far != visited[0]:
                visited[1], n_visited = far, 2
        else:
            visited[0] = _start_entity(stream, arrays, frozen)
        untried[:] = True
        while n_drawn < size:
            turn = _choose_entity(stream, arrays, visited, untried, n_visited, last, walk.stay, pool)
            if turn < 0:
                break
            n = _candidates(stream, arrays, frozen, visited[turn], drawn, n_drawn, away_from_hubs, pool)
            if n == 0:
                untried[turn] = False
                continue
            choice = _pick(stream, pool.ends, n)
            drawn[n_drawn], far = pool.edges[choice], pool.nodes[choice]
            n_drawn += 1
            if arrays.is_entity[far] and not _contains(visited, n_visited, far):
                visited[n_visited] = far
                n_visited += 1
            last = turn
            untried[:] = True
        rows.lengths[row] = n_drawn if n_drawn >= walk.min_size else 0


@_compiled
def _start_edge(stream, arrays, frozen, pool):
    """Step 4, first half: a relation by its weight, then one of the proposed edges by the weights of its ends."""
    relation = _pick(stream, frozen.relation_ends, len(frozen.relation_ends))
    first = arrays.relation_offsets[relation]
    count = arrays.relation_offsets[relation + 1] - first
    proposals = min(count, _START_PROPOSALS)
    total = 0.0
    for i in range(proposals):
        edge = arrays.relation_edges[first + (i if count <= _START_PROPOSALS else _below(stream, count))]
        total += frozen.nodes[_subject(arrays, edge)] * frozen.nodes[arrays.out_objects[edge]]
        pool.edges[i], pool.ends[i] = edge, total
    return pool.edges[_pick(stream, pool.ends, proposals)]


@_compiled
def _start_entity(stream, arrays, frozen):
    """Step 4, second half: a block by its sum, then an entity inside it."""
    block = _pick(stream, frozen.block_ends, len(frozen.block_ends))
    first, last = block * BLOCK, min((block + 1) * BLOCK, len(arrays.can_start))
    point = _uniform(stream) * _block_sum(arrays.can_start, frozen.nodes, block)
    chosen = np.int64(-1)
    for node in range(first, last):
        if arrays.can_start[node]:
            chosen = node
            point -= frozen.nodes[node]
            if point < 0:
                break
    return chosen


@_compiled
def _block_sum(can_start, node_weights, block):
    total = 0.0
    for node in range(block * BLOCK, min((block + 1) * BLOCK, len(can_start))):
        if can_start[node]:
            total += node_weights[node]
    return total


@_compiled
def _choose_entity(stream, arrays, visited, untried, n_visited, last, stay, pool):
    """Step 5, who is extended: a position in ``visited``, or -1 when all have been tried."""
    if untried[last] and _uniform(stream) < stay:
        return last
    total = 0.0
    for i in range(n_visited):
        if untried[i]:
            total += 1.0 / np.sqrt(1.0 + arrays.in_offsets[visited[i] + 1] - arrays.in_offsets[visited[i]])
        pool.ends[i] = total
    return _pick(stream, pool.ends, n_visited) if total > 0.0 else -1


@_compiled
def _candidates(stream, arrays, frozen, entity, drawn, n_drawn, away_from_hubs, pool):
    """Steps 5 and 6, by what: fill the pool with the entity's triplets not yet drawn; return their number."""
    n, total = 0, 0.0
    first, n_out = arrays.out_offsets[entity], arrays.out_offsets[entity + 1] - arrays.out_offsets[entity]
    for i in range(min(n_out, _STEP_PROPOSALS)):
        edge = first + (i if n_out <= _STEP_PROPOSALS else _below(stream, n_out))
        if not _contains(drawn, n_drawn, edge):
            total += frozen.relations[arrays.out_relations[edge]] * frozen.nodes[arrays.out_objects[edge]]
            pool.edges[n], pool.nodes[n], pool.ends[n] = edge, arrays.out_objects[edge], total
            n += 1
    first, n_in = arrays.in_offsets[entity], arrays.in_offsets[entity + 1] - arrays.in_offsets[entity]
    if away_from_hubs and (n_drawn > 0 or n_out > 0):
        crowd = n_in
        for i in range(n_drawn):
            crowd += n_in * (arrays.out_objects[drawn[i]] == entity)
        if _uniform(stream) * crowd * crowd >= _OPEN_IN_DEGREE * _OPEN_IN_DEGREE:
            return n
    for i in range(min(n_in, _STEP_PROPOSALS)):
        position = first + (i if n_in <= _STEP_PROPOSALS else _below(stream, n_in))
        edge = arrays.in_edges[position]
        if not _contains(drawn, n_drawn, edge):
            total += frozen.relations[arrays.in_relations[position]] * frozen.nodes[arrays.in_subjects[position]]
            pool.edges[n], pool.nodes[n], pool.ends[n] = edge, arrays.in_subjects[position], total
            n += 1
    return n


@_compiled
def admit(pending, edges, lengths, seen):
    """Step 8: bool[len(pending)], which of the rows hold a set whose content has not been seen; remembers it."""
    admitted = np.zeros(len(pending), np.bool_)
    mask = np.uint64(len(seen) - 1)
    for i in range(len(pending)):
        row = pending[i]
        if lengths[row] == 0:
            continue
        content = _content_hash(edges[row, : lengths[row]])
        slot = content & mask
        while seen[slot] != np.uint64(0) and seen[slot] != content:
            slot = (slot + _ONE) & mask
        if seen[slot] == np.uint64(0):
            seen[slot] = content
            admitted[i] = True
    return admitted


@_compiled
def _content_hash(edges):
    """Hash of a set of edges that does not depend on their order; never 0."""
    content = np.uint64(len(edges))
    for edge in edges:
        content += _mix(np.uint64(edge) + _GOLDEN)
    content = _mix(content)
    return content if content != np.uint64(0) else _ONE


@_compiled
def merge(lengths, edges, max_size, arrays, alpha, state):
    """Step 9: count each node, relation and edge once per set; renew the weights of what was touched."""
    nodes, relations = np.empty(2 * max_size, np.int64), np.empty(max_size, np.int64)
    touched = np.zeros(len(state.block_sums), np.bool_)
    first = 0
    for length in lengths:
        n_nodes = n_relations = 0
        for edge in edges[first : first + length]:
            state.covered[2] += state.edge_counts[edge] == 0
            state.edge_counts[edge] += 1
            relation = arrays.out_relations[edge]
            if not _contains(relations, n_relations, relation):
                relations[n_relations] = relation
                n_relations += 1
            for node in (_subject(arrays, edge), np.int64(arrays.out_objects[edge])):
                if not _contains(nodes, n_nodes, node):
                    nodes[n_nodes] = node
                    n_nodes += 1
        first += length
        for relation in relations[:n_relations]:
            state.covered[1] += state.relation_counts[relation] == 0
            state.relation_counts[relation] += 1
            state.relation_weights[relation] = (1.0 + state.relation_counts[relation]) ** -alpha
        for node in nodes[:n_nodes]:
            state.covered[0] += state.node_counts[node] == 0 and arrays.can_start[node]
            state.node_counts[node] += 1
            state.node_weights[node] = (1.0 + state.node_counts[node]) ** -alpha
            touched[node // BLOCK] = True
    for block in range(len(touched)):
        if touched[block]:
            state.block_sums[block] = _block_sum(arrays.can_start, state.node_weights, block)


@_compiled
def split_keys(seed, numbers):
    """uint64[n]: the place of each set in the permutation, from a stream that no try uses."""
    keys = np.empty(len(numbers), np.uint64)
    for i in range(len(numbers)):
        keys[i] = _mix(_stream(seed, numbers[i], TRIES))
    return keys


@_compiled
def swap_into_training(splits, order, offsets, relations, n_relations):
    """Step 10: exchange sets between training (0) and the rest until each drawn relation occurs in training.

    A held-out set with a relation that training lacks is exchanged for the first training set, from the
    end of the permutation, all of whose relations occur in other training sets too. Returns how many
    relations still lack one.
    """
    in_training = np.zeros(n_relations, np.int64)
    drawn = np.zeros(n_relations, np.bool_)
    for i in range(len(splits)):
        for relation in relations[offsets[i] : offsets[i + 1]]:
            drawn[relation] = True
        if splits[i] == 0:
            _add(in_training, relations[offsets[i] : offsets[i + 1]], 1)
    for given in order:
        incoming = relations[offsets[given] : offsets[given + 1]]
        if _least(in_training, incoming) > 0:
            continue
        for taken in order[::-1]:
            if splits[taken] != 0:
                continue
            outgoing = relations[offsets[taken] : offsets[taken + 1]]
            _add(in_training, outgoing, -1)
            if _least(in_training, outgoing) > 0:
                _add(in_training, incoming, 1)
                splits[given], splits[taken] = splits[taken], splits[given]
                break
            _add(in_training, outgoing, 1)
    missing = 0
    for relation in range(n_relations):
        missing += drawn[relation] and in_training[relation] == 0
    return missing


@_compiled
def _add(counts, positions, amount):
    for position in positions:
        counts[position] += amount


@_compiled
def _least(counts, positions):
    least = counts[positions[0]]
    for position in positions:
        least = min(least, counts[position])
    return least


@_compiled
def _subject(arrays, edge):
    """The node whose slice of the out-edges holds ``edge``."""
    return _first_above(arrays.out_offsets, len(arrays.out_offsets), edge) - 1


@_compiled
def _first_above(ascending, n, value):
    """First position in [0, n] with ``ascending[position] > value``; np.searchsorted takes 2 s to compile."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@_compiled
def _contains(items, n, item):
    for i in range(n):  # noqa: SIM110 (numba has no any() over a generator)
        if items[i] == item:
            return True
    return False


@_compiled
def _stream(seed, number, attempt):
    """First state of the stream of one try at one set."""
    return _mix(_mix(_mix(seed + _GOLDEN) ^ np.uint64(number)) ^ np.uint64(attempt))


@_compiled
def _uniform(stream):
    """Advance ``stream`` (uint64[1]) and return a float64 in [0, 1)."""
    stream[0] += _GOLDEN
    return (_mix(stream[0]) >> _S11) * _UNIT


@_compiled
def _below(stream, n):
    """An int64 in [0, n)."""
    return min(np.int64(_uniform(stream) * n), n - 1)


@_compiled
def _pick(stream, ends, n):
    """Index in [0, n) by the weights whose cumulative sums are ``ends``; never one of weight 0."""
    position = _first_above(ends, n, _uniform(stream) * ends[n - 1])
    # The product may round up to the last sum.
    while position >= n or (position > 0 and ends[position] == ends[position - 1]):
        position -= 1
    return position


@_compiled
def _mix(value):
    """The finaliser of SplitMix64: a bijection of uint64 without visible structure."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)
