"""The compiled kernels of the sampler: streams, starts, steps, admission, counts.

They do what `kg.sampling.reference` describes, on CSR arrays; "step" refers to
its list. The functions carry no type hints, because numba infers the types from
what they are called with: the named tuples of `kg.sampling.arrays` and
`kg.sampling.state`. They run without the interpreter's lock, so threads may draw
rows of one round side by side. Sums are taken in the order that the reference
takes them in, without reassociation, so both round alike.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

from kg.sampling.weights import count_codes

__all__ = [
    "BLOCK",
    "HUB_FACTOR",
    "HUB_PROPOSALS",
    "PROPOSALS",
    "START_PROPOSALS",
    "add_contents",
    "admit",
    "block_sums",
    "close_edges",
    "count_sets",
    "draw_rows",
    "has_open_edge",
    "split_keys",
    "swap_into_training",
]

BLOCK = 32
START_PROPOSALS = 4
PROPOSALS = 16
HUB_PROPOSALS, HUB_FACTOR = 4, 0.1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), np.uint64(1)
_UNIT = 1.0 / (1 << 53)
_SPLIT_STREAM = 1 << 20  # no try has this number

_compiled = njit(cache=True, nogil=True)


# A set while it grows, int32[6, max_size + 1]: its triplets, and the entities it has visited.
_EDGE, _SUBJECT, _RELATION, _OBJECT, _ENTITY, _DISTANCE = range(6)
# How many of each there are, int64[3]: triplets, entities, and those of them whose triplets are in the pool.
_TRIPLETS, _ENTITIES, _SEEN = range(3)
# The candidates for the next triplet, int32[3, room]: the position of the entity that each extends; the edge number of
# an out-edge, or -1 - the place of an in-edge; the node at the far end.
_OWNER, _PLACE, _FAR = range(3)


@_compiled
def draw_rows(positions, numbers, attempt, seed, away_from_hubs, arrays, walk, frozen, rows):
    """Steps 3 to 7 for the set numbers ``numbers[positions]``; a walk that fails gets length 0.

    What is called for every entity or triplet takes single arrays: a tuple of arrays is copied for each call.
    """
    out_offsets, out_relations, out_objects = arrays.out_offsets, arrays.out_relations, arrays.out_objects
    in_offsets, in_relations, in_subjects = arrays.in_offsets, arrays.in_relations, arrays.in_subjects
    in_edges, is_entity = arrays.in_edges, arrays.is_entity
    inverse_offsets, inverses = arrays.inverse_offsets, arrays.inverses
    node_codes, node_table, node_factors = frozen.node_codes, frozen.node_table, frozen.node_factors
    relation_weights, edge_closed = frozen.relation_weights, frozen.edge_closed
    subjects, lone_edges, lone_objects = arrays.subjects, arrays.lone_edges, arrays.lone_objects
    relation_offsets, relation_edges = arrays.relation_offsets, arrays.relation_edges
    block_ends, can_start, floor_ends = frozen.block_ends, frozen.can_start, frozen.floor_ends
    relation_ends, size_ends = frozen.relation_ends, walk.size_ends
    row_edges, lengths, asked_sizes = rows.edges, rows.lengths, rows.asked
    strategies, row_relations = rows.strategies, rows.relations
    size = walk.max_size
    grown, n = np.empty((6, size + 1), np.int32), np.zeros(3, np.int64)
    room = max(2 * PROPOSALS * (size + 1) + PROPOSALS, START_PROPOSALS)
    pool, weights, ends = np.empty((3, room), np.int32), np.empty(room), np.empty(room)
    hub = walk.hub_degree if away_from_hubs else np.inf
    stream = np.empty(1, np.uint64)
    for position in positions:
        stream[0] = _stream(seed, numbers[position], 0 if away_from_hubs else attempt)
        asked = walk.min_size + _pick(stream, size_ends, len(size_ends))
        stream[0] = _stream(seed, numbers[position], attempt)
        n[_TRIPLETS] = n[_ENTITIES] = n[_SEEN] = n_pool = 0
        relation = _choose_relation(stream, walk.relation_share, frozen.floor_share, floor_ends, relation_ends)
        edge = np.int64(-1)
        if relation < 0:
            start = _start_entity(stream, block_ends, can_start, node_codes, node_table, node_factors)
        else:
            edge = _start_edge(
                stream,
                relation,
                relation_offsets,
                relation_edges,
                subjects,
                out_objects,
                can_start,
                node_codes,
                node_table,
                node_factors,
                edge_closed,
                pool,
                ends,
            )
            start = np.int64(subjects[edge]) if edge >= 0 else edge
        if start >= 0:
            _visit(grown, n, start, 0)
            if edge >= 0:
                _add(edge, start, relation, out_objects[edge], 0, is_entity, grown, n)
        last = np.int32(-1)
        while start >= 0 and n[_TRIPLETS] < asked:
            while n[_SEEN] < n[_ENTITIES]:
                n_pool = _look_around(
                    stream,
                    out_offsets,
                    out_relations,
                    out_objects,
                    in_offsets,
                    in_relations,
                    in_subjects,
                    in_edges,
                    node_codes,
                    node_table,
                    node_factors,
                    relation_weights,
                    edge_closed,
                    hub,
                    walk.max_distance,
                    walk.cycles,
                    grown,
                    n,
                    pool,
                    weights,
                    n_pool,
                )
                lone = n[_SEEN] == 2 and n[_TRIPLETS] == 1 and relation < 0 and grown[_SUBJECT, 0] == start
                if lone and walk.max_distance > 1:
                    n_pool = _meet_the_lone(
                        stream,
                        out_relations,
                        subjects,
                        lone_edges,
                        lone_objects,
                        node_codes,
                        node_table,
                        node_factors,
                        relation_weights,
                        edge_closed,
                        grown,
                        pool,
                        weights,
                        n_pool,
                    )
            total = 0.0
            for i in range(n_pool):
                total += weights[i] * walk.stay if pool[_OWNER, i] == last else weights[i]
                ends[i] = total
            if total <= 0.0:
                break
            choice = _pick(stream, ends, n_pool)
            weights[choice] = 0.0
            place = np.int64(pool[_PLACE, choice])
            entity, far = grown[_ENTITY, pool[_OWNER, choice]], pool[_FAR, choice]
            if place < 0:
                subject, of, target = far, in_relations[-1 - place], entity
            elif out_offsets[entity] <= place < out_offsets[entity + 1]:
                subject, of, target = entity, out_relations[place], far
            else:
                subject, of, target = far, out_relations[place], entity  # one of those that `_meet_the_lone` found
            if not _fits(subject, of, target, inverse_offsets, inverses, walk.max_per_subject, walk.inverses, grown, n):
                continue
            last = pool[_OWNER, choice]
            edge = place if place >= 0 else in_edges[-1 - place]
            new = _add(edge, subject, of, target, grown[_DISTANCE, last] + 1, is_entity, grown, n)
            if new >= 0 and walk.cycles != 1.0:
                for i in range(n_pool):
                    if pool[_FAR, i] == new:
                        weights[i] *= walk.cycles
            _grow_aloof(target, in_offsets, hub, grown, n, pool, weights, n_pool)
        length = n[_TRIPLETS]
        for i in range(length):
            row_edges[position, i] = grown[_EDGE, i]
        lengths[position] = length if length >= walk.min_size else 0
        asked_sizes[position] = asked
        strategies[position] = relation >= 0
        row_relations[position] = relation


@_compiled
def _choose_relation(stream, relation_share, floor_share, floor_ends, relation_ends):
    """Step 4: the relation that the set starts from, or -1 for a start at an entity."""
    if floor_share > 0.0 and _uniform(stream) < floor_share:
        return _pick(stream, floor_ends, len(floor_ends))
    if _uniform(stream) < relation_share and relation_ends[-1] > 0.0:
        return _pick(stream, relation_ends, len(relation_ends))
    return np.int64(-1)


@_compiled
def _start_edge(
    stream,
    relation,
    relation_offsets,
    relation_edges,
    subjects,
    objects,
    can_start,
    codes,
    table,
    factors,
    edge_closed,
    pool,
    ends,
):
    """Step 4, a relation: one of its proposed edges by the weights of its ends, or -1."""
    first = relation_offsets[relation]
    count = relation_offsets[relation + 1] - first
    n, total = 0, 0.0
    for i in range(min(count, START_PROPOSALS)):
        edge = relation_edges[first + (i if count <= START_PROPOSALS else _below(stream, count))]
        subject, target = subjects[edge], objects[edge]
        weight = _node_weight(codes, table, factors, subject) * _node_weight(codes, table, factors, target)
        # Where some nodes may not start a set, a triplet starts one only at a subject that may.
        if weight > 0.0 and can_start[subject] and not (len(edge_closed) > 0 and edge_closed[edge]):
            total += weight
            pool[_PLACE, n], ends[n] = edge, total
            n += 1
    return np.int64(pool[_PLACE, _pick(stream, ends, n)]) if n > 0 else np.int64(-1)


@_compiled
def _start_entity(stream, block_ends, can_start, codes, table, factors):
    """Step 4, an entity: a block by its sum, then an entity inside it; -1 if none may start a set."""
    if block_ends[-1] <= 0.0:
        return np.int64(-1)
    block = _pick(stream, block_ends, len(block_ends))
    first, last = block * BLOCK, min((block + 1) * BLOCK, len(can_start))
    total = 0.0
    for node in range(first, last):
        if can_start[node]:
            total += _node_weight(codes, table, factors, node)
    point = _uniform(stream) * total
    chosen = np.int64(-1)
    for node in range(first, last):
        if can_start[node]:
            weight = _node_weight(codes, table, factors, node)
            if weight > 0.0:
                chosen = np.int64(node)
                point -= weight
                if point < 0.0:
                    break
    return chosen


@_compiled
def _look_around(
    stream,
    out_offsets,
    out_relations,
    out_objects,
    in_offsets,
    in_relations,
    in_subjects,
    in_edges,
    codes,
    table,
    factors,
    relation_weights,
    edge_closed,
    hub,
    max_distance,
    cycles,
    grown,
    n,
    pool,
    weights,
    n_pool,
):
    """Steps 5 and 6: put what may extend the next of the visited entities into the pool; returns its new length."""
    owner = n[_SEEN]
    n[_SEEN] += 1
    entity = np.int64(grown[_ENTITY, owner])
    first_out, n_out = out_offsets[entity], out_offsets[entity + 1] - out_offsets[entity]
    first_in, n_in = in_offsets[entity], in_offsets[entity + 1] - in_offsets[entity]
    further = grown[_DISTANCE, owner] < max_distance
    factor = 1.0
    for inward in range(2):
        first, count = (first_in, n_in) if inward else (first_out, n_out)
        if inward:
            factor = _aloofness(n_in, _with_object(grown, n, entity), hub)
        most = HUB_PROPOSALS if factor < HUB_FACTOR else PROPOSALS
        for i in range(min(count, most)):
            place = first + (i if count <= most else _below(stream, count))
            if inward:
                far, relation = in_subjects[place], in_relations[place]
            else:
                far, relation = out_objects[place], out_relations[place]
            weight = relation_weights[relation] * _node_weight(codes, table, factors, far) * factor
            if weight <= 0.0 or (len(edge_closed) > 0 and edge_closed[in_edges[place] if inward else place]):
                continue
            if not further or cycles != 1.0:
                known = _is_known(grown, n, far)
                if not (known or further):
                    continue
                if known:
                    weight *= cycles
            pool[_OWNER, n_pool], pool[_PLACE, n_pool], pool[_FAR, n_pool] = owner, -1 - place if inward else place, far
            weights[n_pool] = weight
            n_pool += 1
    return n_pool


@_compiled
def _meet_the_lone(
    stream,
    out_relations,
    subjects,
    lone_edges,
    lone_objects,
    codes,
    table,
    factors,
    relation_weights,
    edge_closed,
    grown,
    pool,
    weights,
    n_pool,
):
    """Step 4: where the only triplet of the start's subject is in the set, put others of its kind into the pool."""
    entity = grown[_OBJECT, 0]
    first = _first_not_below(lone_objects, entity)
    last = _first_not_below(lone_objects, entity + 1)
    place = first + _first_not_below(lone_edges[first:last], grown[_EDGE, 0])
    if place >= last or lone_edges[place] != grown[_EDGE, 0]:
        return n_pool
    count = last - first
    for i in range(min(count, PROPOSALS)):
        edge = lone_edges[first + (i if count <= PROPOSALS else _below(stream, count))]
        subject, relation = subjects[edge], out_relations[edge]
        weight = _node_weight(codes, table, factors, subject)
        if (
            weight > 0.0
            and edge != grown[_EDGE, 0]
            and relation == grown[_RELATION, 0]
            and relation_weights[relation] > 0.0
            and not (len(edge_closed) > 0 and edge_closed[edge])
        ):
            pool[_OWNER, n_pool], pool[_PLACE, n_pool], pool[_FAR, n_pool] = 1, edge, subject
            weights[n_pool] = weight
            n_pool += 1
    return n_pool


@_compiled
def _first_not_below(ascending, value):
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@_compiled
def _fits(subject, relation, target, inverse_offsets, inverses, max_per_subject, with_inverses, grown, n):
    """Whether a triplet is not in the set, nor the inverse of one that is, nor one too many with its subject."""
    with_subject = 0
    for i in range(n[_TRIPLETS]):
        theirs, of, their_target = grown[_SUBJECT, i], grown[_RELATION, i], grown[_OBJECT, i]
        with_subject += theirs == subject
        if theirs == subject and of == relation and their_target == target:
            return False
        opposite = theirs == target and their_target == subject
        if opposite and not with_inverses and _are_inverse(relation, of, inverse_offsets, inverses):
            return False
    return with_subject < max_per_subject


@_compiled
def _grow_aloof(target, in_offsets, hub, grown, n, pool, weights, n_pool):
    """Step 6, after a triplet with this object has been added: its other subjects, if candidates, count less."""
    for owner in range(n[_SEEN]):
        if grown[_ENTITY, owner] != target:
            continue
        in_degree, held = in_offsets[target + 1] - in_offsets[target], _with_object(grown, n, target)
        before, after = _aloofness(in_degree, held - 1, hub), _aloofness(in_degree, held, hub)
        for i in range(n_pool):
            if pool[_OWNER, i] == owner and pool[_PLACE, i] < 0 and after < before:
                weights[i] *= after / before


@_compiled
def _are_inverse(relation, other, inverse_offsets, inverses):
    for place in range(inverse_offsets[relation], inverse_offsets[relation + 1]):  # noqa: SIM110
        if inverses[place] == other:
            return True
    return False


@_compiled
def _aloofness(in_degree, held, hub):
    """Step 6: the factor on triplets whose object is an entity of this in-degree, in a set that holds some of them."""
    crowd = in_degree * (1.0 + held)
    return (hub / crowd) * (hub / crowd) if crowd > hub else 1.0


@_compiled
def _with_object(grown, n, entity):
    """Triplets of the set with this object."""
    found = 0
    for i in range(n[_TRIPLETS]):
        found += grown[_OBJECT, i] == entity
    return found


@_compiled
def _add(edge, subject, relation, target, distance, is_entity, grown, n):
    """Add a triplet to the set, and its new end to the entities; returns that, or -1."""
    place = n[_TRIPLETS]
    grown[_EDGE, place], grown[_SUBJECT, place] = edge, subject
    grown[_RELATION, place], grown[_OBJECT, place] = relation, target
    n[_TRIPLETS] += 1
    new = np.int64(-1)
    for node in (np.int64(subject), np.int64(target)):
        if is_entity[node] and not _is_known(grown, n, node):
            _visit(grown, n, node, distance)
            new = node
    return new


@_compiled
def _visit(grown, n, node, distance):
    grown[_ENTITY, n[_ENTITIES]], grown[_DISTANCE, n[_ENTITIES]] = node, distance
    n[_ENTITIES] += 1


@_compiled
def _is_known(grown, n, node):
    for i in range(n[_ENTITIES]):  # noqa: SIM110
        if grown[_ENTITY, i] == node:
            return True
    return False


@_compiled
def _node_weight(codes, table, factors, node):
    return table[codes[node]] * factors[node] if len(factors) > 0 else table[codes[node]]


@_compiled
def block_sums(codes, table, factors, can_start, touched, sums):
    """Renew the sums of start weights of the blocks of nodes that have been touched, and forget that they were."""
    for block in range(len(sums)):
        if not touched[block]:
            continue
        touched[block] = False
        total = 0.0
        for node in range(block * BLOCK, min((block + 1) * BLOCK, len(can_start))):
            if can_start[node]:
                total += _node_weight(codes, table, factors, node)
        sums[block] = total


@_compiled
def has_open_edge(arrays, node_codes, relation_open, edge_closed, closed_code):
    """bool[n]: nodes, and bool[R]: relations with a triplet that may be drawn."""
    nodes = np.zeros(len(node_codes), np.bool_)
    relations = np.zeros(len(relation_open), np.bool_)
    for edge in range(len(arrays.out_objects)):
        subject, target, relation = arrays.subjects[edge], arrays.out_objects[edge], arrays.out_relations[edge]
        if (
            relation_open[relation]
            and node_codes[subject] != closed_code
            and node_codes[target] != closed_code
            and not (len(edge_closed) > 0 and edge_closed[edge])
        ):
            nodes[subject] = nodes[target] = relations[relation] = True
    return nodes, relations


@_compiled
def close_edges(arrays, owners, split):
    """bool[m]: edges that another split owns and, if this is not training (1), every other one of each relation.

    Of each relation the first triplet and half of the others stay open to training only.
    """
    closed = np.zeros(len(owners), np.bool_)
    for relation in range(len(arrays.relation_offsets) - 1):
        first = arrays.relation_offsets[relation]
        for place in range(first, arrays.relation_offsets[relation + 1]):
            edge = arrays.relation_edges[place]
            if owners[edge] != 0:
                closed[edge] = owners[edge] != split
            else:
                closed[edge] = split != 1 and (place - first) % 2 == 0
    return closed


@_compiled
def admit(pending, rows, contents):
    """Step 8: bool[len(pending)], which of the rows hold a set whose content has not been seen; remembers it."""
    admitted = np.zeros(len(pending), np.bool_)
    for i in range(len(pending)):
        length = rows.lengths[pending[i]]
        if length > 0:
            admitted[i] = _remember(_content_hash(rows.edges[pending[i], :length]), contents)
    return admitted


@_compiled
def add_contents(hashes, contents):
    """Put hashes into a table of contents."""
    for content in hashes:
        if content != np.uint64(0):
            _remember(content, contents)


@_compiled
def _remember(content, contents):
    """Put a hash into the table; False if it is there."""
    mask = np.uint64(len(contents) - 1)
    slot = content & mask
    while contents[slot] != np.uint64(0) and contents[slot] != content:
        slot = (slot + _ONE) & mask
    new = contents[slot] == np.uint64(0)
    contents[slot] = content
    return new


@_compiled
def _content_hash(edges):
    """Hash of a set of edges that does not depend on their order; never 0."""
    content = np.uint64(len(edges))
    for edge in edges:
        content += _mix(np.uint64(edge) + _GOLDEN)
    content = _mix(content)
    return content if content != np.uint64(0) else _ONE


@_compiled
def count_sets(lengths, edges, arrays, state, can_start, node_codes, histogram, touched, covered):
    """Step 9: count each node, relation and edge once per set.

    Args:
        state: the arrays node_counts, relation_counts, edge_counts.
        node_codes: uint8[n], renewed for entities.
        histogram: int64[256], nodes that can start by code.
        touched: bool[blocks], set for the blocks of nodes that were counted.
        covered: int64[3], entities, relations, triplets counted at least once.
    """
    node_counts, relation_counts, edge_counts = state
    subjects, objects, of, is_entity = arrays.subjects, arrays.out_objects, arrays.out_relations, arrays.is_entity
    longest = 0
    for length in lengths:
        longest = max(longest, length)
    relations, nodes = np.empty(longest, np.int64), np.empty(2 * longest, np.int64)
    first = 0
    for length in lengths:
        n_nodes = n_relations = 0
        for edge in edges[first : first + length]:
            covered[2] += edge_counts[edge] == 0
            edge_counts[edge] += 1
            relation = np.int64(of[edge])
            if not _contains(relations, n_relations, relation):
                relations[n_relations] = relation
                n_relations += 1
            for node in (np.int64(subjects[edge]), np.int64(objects[edge])):
                if not _contains(nodes, n_nodes, node):
                    nodes[n_nodes] = node
                    n_nodes += 1
        first += length
        for relation in relations[:n_relations]:
            covered[1] += relation_counts[relation] == 0
            relation_counts[relation] += 1
        for node in nodes[:n_nodes]:
            covered[0] += node_counts[node] == 0 and is_entity[node]
            node_counts[node] += 1
            code = count_codes(node_counts[node])
            if is_entity[node] and code != node_codes[node]:
                touched[node // BLOCK] = True
                if can_start[node]:
                    histogram[node_codes[node]] -= 1
                    histogram[code] += 1
                node_codes[node] = code


@_compiled
def split_keys(seed, numbers):
    """uint64[n]: the place of each set in the permutation, from a stream that no try uses."""
    keys = np.empty(len(numbers), np.uint64)
    for i in range(len(numbers)):
        keys[i] = _mix(_stream(seed, numbers[i], _SPLIT_STREAM))
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
            _add_to(in_training, relations[offsets[i] : offsets[i + 1]], 1)
    for given in order:
        incoming = relations[offsets[given] : offsets[given + 1]]
        if _least(in_training, incoming) > 0:
            continue
        for taken in order[::-1]:
            if splits[taken] != 0:
                continue
            outgoing = relations[offsets[taken] : offsets[taken + 1]]
            _add_to(in_training, outgoing, -1)
            if _least(in_training, outgoing) > 0:
                _add_to(in_training, incoming, 1)
                splits[given], splits[taken] = splits[taken], splits[given]
                break
            _add_to(in_training, outgoing, 1)
    missing = 0
    for relation in range(n_relations):
        missing += drawn[relation] and in_training[relation] == 0
    return missing


@_compiled
def _add_to(counts, positions, amount):
    for position in positions:
        counts[position] += amount


@_compiled
def _least(counts, positions):
    least = counts[positions[0]]
    for position in positions:
        least = min(least, counts[position])
    return least


@_compiled
def _contains(items, n, item):
    for i in range(n):  # noqa: SIM110 (numba has no any() over a generator)
        if items[i] == item:
            return True
    return False


@_compiled
def _stream(seed, number, attempt):
    """Step 2: first state of the stream of one try at one set."""
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
    point = _uniform(stream) * ends[n - 1]
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if ends[middle] > point:
            high = middle
        else:
            low = middle + 1
    # The product may round up to the last sum.
    while low >= n or (low > 0 and ends[low] == ends[low - 1]):
        low -= 1
    return np.int64(low)


@_compiled
def _mix(value):
    """The finaliser of SplitMix64: a bijection of uint64 without visible structure."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)
