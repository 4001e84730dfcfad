"""The sampler's algorithm in plain Python, on any `networkx.MultiDiGraph`.

It is written to be read; the compiled kernels of `kg.sampling.kernels` draw the
same sets from the same seed, some dozens of times as fast.

A set is a connected set of triplets, each at most once. c(x) is the number of
sets so far that contain the node or relation x, and w(x) its weight. Whatever was
drawn rarely becomes more likely: w = (target / (1 + c))^alpha for relations, and
(1 + min(c, L + 1))^-alpha for entities, where 99% of the entities are in L sets or
more. So it counts whether an entity is still to be covered, not how often a hub has
been met, which would drown the relations' weights. Literals weigh as entities that
are covered: a date or a number is not worth a detour.

1.  Freeze the weights for a round of K = ``round_size`` set numbers, so that no
    set of a round depends on another one.
2.  Give each set number its own random stream: SplitMix64, seeded by a hash of
    (seed, set number, try).
3.  Draw the size that the set shall have.
4.  Start. With probability ``relation_share`` from a relation, drawn by its
    weight: of its triplets 4 are proposed uniformly, and one is taken by the
    product of the weights of its two ends. Otherwise from an entity that has a
    triplet, drawn by its weight. Literals never start a set. Where that entity has
    but one triplet, up to 16 others whose only triplet has the same relation and
    object become candidates with it, weighted by w(node) alone: one set then says
    of several villages that they are villages. As long as there are
    relations below ``relation_floor``, part of the sets start from one of those,
    drawn by what it lacks.
5.  Look around. When an entity enters the set, its triplets as subject and as
    object become candidates, each weighted by w(relation) · w(node at the far
    end). Where there are more than 16 of a direction, 16 are proposed uniformly
    with replacement, so a step costs the same at any degree. Those that
    lead further than ``max_distance`` from the start are left out.
6.  Keep away from hubs. Many subjects share an object such as *human* or
    *Germany* and have nothing else in common. So a candidate that leads from an
    object on to another of its subjects counts min(1, (``hub_degree`` / (d + d·u))²)
    times, d the object's in-degree, u how many of its triplets the set holds: a
    mother leads to all her children, a country to a citizen only where there is
    hardly anything else. Below 0.1 times, 4 of them are proposed instead of 16.
7.  Extend. Take one of the candidates of all entities of the set by weight; those
    of the entity extended last count ``stay`` times, those whose ends are both in
    the set ``cycles`` times. So the walk goes on, turns back or branches, wherever
    the rarest triplet is. One that is in the set already, or is the inverse of one
    that is, or would exceed ``max_per_subject``, is dropped and another one taken.
    When no candidate is left, the set ends early if it holds ``min_size`` triplets,
    else it is dropped and drawn again.
8.  When all of the round are drawn, admit them in the order of their numbers;
    a set whose triplets equal those of an admitted one is drawn again with the
    stream of the next try, at most 32 times. It keeps its size for 16 tries, so
    that the sizes stay true; after that the size is drawn anew and step 6 does
    not apply: better a set with a hub than none. A relation from which 100 tries in a row
    found no new set is exhausted, and no later set of its split starts from it.
9.  Add the admitted sets to the counts, and begin the next round until
    ``n_sets`` are admitted or rounds of 100 sets or more yield less than 1% of
    them: then the graph holds hardly any more, and what was drawn is the result.
10. Deal the sets to the splits by a permutation drawn from the seed, in exact
    shares; then swap sets so that each drawn relation occurs in training.

Steps 3 to 7 are below; 1, 8 and 9 in `kg.sampling.draw`, 10 in
`kg.sampling.splits`, the weights in `kg.sampling.weights`. After V. Josifoski et
al., "Exploiting Asymmetry for Synthetic Training Data Generation: SynthIE and the
Case of Information Extraction", EMNLP 2023, which describes rounds, re-estimated
weights and the two kinds of start. Its sampler was not released.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from kg.sampling.arrays import Arrays, graph_ids
from kg.sampling.kernels import BLOCK, HUB_FACTOR, HUB_PROPOSALS, PROPOSALS, START_PROPOSALS
from kg.sampling.state import Frozen, Rows, Walk

__all__ = ["Reference"]

_MASK = (1 << 64) - 1


class Reference:
    """Draws the sets of a round by walking over a networkx graph.

    Args:
        graph: the graph; only its nodes and edges are read.
        arrays: the numbers of its nodes, relations and edges.
    """

    def __init__(self, graph: nx.MultiDiGraph, arrays: Arrays) -> None:
        ids = graph_ids(graph)
        numbers = {node: number for number, node in enumerate(graph)}
        relations = {relation: number for number, relation in enumerate(ids.relations)}
        triplets = sorted((numbers[s], relations[r], numbers[o]) for s, o, r in graph.edges(keys=True))
        self.triplets = triplets
        self.out: list[list[int]] = [[] for _ in numbers]  # edge numbers by node
        self.into: list[list[int]] = [[] for _ in numbers]
        self.of_relation: list[list[int]] = [[] for _ in relations]
        for edge, (subject, relation, _) in enumerate(triplets):
            self.out[subject].append(edge)
            self.of_relation[relation].append(edge)
        for edge in sorted(range(len(triplets)), key=lambda edge: triplets[edge][::-1]):
            self.into[triplets[edge][2]].append(edge)
        self.is_entity = arrays.is_entity.tolist()
        self.lone: dict[int, list[int]] = {}  # edges whose subject has no other, by object
        for edge, (subject, _, target) in enumerate(triplets):
            if self.is_entity[target] and len(self.out[subject]) == 1 and not self.into[subject]:
                self.lone.setdefault(target, []).append(edge)
        ends, pairs = arrays.inverse_offsets.tolist(), arrays.inverses.tolist()
        self.inverses = [set(pairs[a:b]) for a, b in pairwise(ends)]

    def draw_rows(
        self,
        positions: Iterable[int],
        numbers: Sequence[int],
        attempt: int,
        seed: int,
        away_from_hubs: bool,
        walk: Walk,
        frozen: Frozen,
        rows: Rows,
    ) -> None:
        """Steps 3 to 7 for the set numbers ``numbers[positions]``; a walk that fails gets length 0."""
        for position in positions:
            sizes = Stream(seed, int(numbers[position]), 0 if away_from_hubs else attempt)
            asked = walk.min_size + sizes.pick(walk.size_ends)
            stream = Stream(seed, int(numbers[position]), attempt)
            growing = _Walk(self, walk, frozen, stream, away_from_hubs)
            relation = growing.start()
            growing.grow(asked)
            n = len(growing.edges)
            rows.edges[position, :n] = growing.edges
            rows.lengths[position] = n if n >= walk.min_size else 0
            rows.asked[position] = asked
            rows.strategies[position] = relation >= 0
            rows.relations[position] = relation


@dataclass
class _Candidate:
    """A triplet that may be the next one: ``owner`` is the position of the visited entity that it extends."""

    edge: int
    owner: int
    inward: bool
    far: int
    weight: float


class _Walk:
    """One set while it grows."""

    def __init__(self, graph: Reference, walk: Walk, frozen: Frozen, stream: Stream, away_from_hubs: bool) -> None:
        self.graph = graph
        self.walk = walk
        self.frozen = frozen
        self.stream = stream
        self.away_from_hubs = away_from_hubs
        self.edges: list[int] = []
        self.visited: list[int] = []  # entities, in the order of the walk
        self.distances: list[int] = []  # from the start, of each of these
        self.looked = 0  # how many of these have looked around
        self.pool: list[_Candidate] = []

    def start(self) -> int:
        """Step 4; the relation that the set starts from, or -1."""
        frozen = self.frozen
        if frozen.floor_share > 0 and self.stream.uniform() < frozen.floor_share:
            relation = self.stream.pick(frozen.floor_ends)
        elif self.stream.uniform() < self.walk.relation_share and frozen.relation_ends[-1] > 0:
            relation = self.stream.pick(frozen.relation_ends)
        else:
            self._start_at_entity()
            return -1
        candidates = []
        for edge in self._proposed(self.graph.of_relation[relation], START_PROPOSALS):
            subject, _, target = self.graph.triplets[edge]
            if frozen.can_start[subject] and not self._is_closed(edge):
                candidates.append((edge, self._node_weight(subject) * self._node_weight(target)))
        chosen = self._pick(candidates)
        if chosen is not None:
            self._visit(self.graph.triplets[chosen][0], 0)
            self._add(chosen, 0)
        return relation

    def _start_at_entity(self) -> None:
        """The weights are summed over blocks of nodes, so that a round renews only the blocks that it touched."""
        frozen = self.frozen
        if frozen.block_ends[-1] <= 0:
            return
        block = self.stream.pick(frozen.block_ends)
        nodes = range(block * BLOCK, min((block + 1) * BLOCK, len(frozen.can_start)))
        weights = [self._node_weight(node) if frozen.can_start[node] else 0.0 for node in nodes]
        point = self.stream.uniform() * _sum(weights)
        chosen = -1
        for node, weight in zip(nodes, weights, strict=True):
            if weight > 0:
                chosen = node
                point -= weight
                if point < 0:
                    break
        self._visit(chosen, 0)

    def grow(self, asked: int) -> None:
        """Steps 5 to 7."""
        if not self.visited:
            return
        starts_with_edge = bool(self.edges)
        last = -1
        while len(self.edges) < asked:
            for owner in range(self.looked, len(self.visited)):
                self._look_around(owner)
                if owner == 1 and not starts_with_edge and len(self.edges) == 1:
                    self._meet_the_lone()
            self.looked = len(self.visited)
            weights = [c.weight * self.walk.stay if c.owner == last else c.weight for c in self.pool]
            ends = list(accumulate(weights))
            if not ends or ends[-1] <= 0:
                return
            choice = self.pool[self.stream.pick(ends)]
            choice.weight = 0.0
            if self._fits(choice.edge):
                last = choice.owner
                self._add(choice.edge, self.distances[last] + 1)

    def _look_around(self, owner: int) -> None:
        """Steps 5 and 6: what may extend one of the visited entities."""
        entity = self.visited[owner]
        for edge in self._proposed(self.graph.out[entity], PROPOSALS):
            self._consider(edge, owner, 1.0, inward=False)
        factor = self._aloofness(entity, self._with_object(entity))
        most = HUB_PROPOSALS if factor < HUB_FACTOR else PROPOSALS
        for edge in self._proposed(self.graph.into[entity], most):
            self._consider(edge, owner, factor, inward=True)

    def _meet_the_lone(self) -> None:
        """Step 4: where the only triplet of the start's subject is in the set, others of its kind are candidates."""
        first = self.edges[0]
        start, relation, target = self.graph.triplets[first]
        others = self.graph.lone.get(target, [])
        if first not in others or start != self.visited[0] or self.walk.max_distance < 2:
            return
        for edge in self._proposed(others, PROPOSALS):
            subject, of, _ = self.graph.triplets[edge]
            weight = self._node_weight(subject)
            if edge != first and of == relation and self.frozen.relation_weights[of] > 0 and not self._is_closed(edge):
                self.pool.append(_Candidate(edge, 1, False, subject, weight))

    def _consider(self, edge: int, owner: int, factor: float, *, inward: bool) -> None:
        """Make a triplet of a visited entity a candidate if it may be taken."""
        subject, relation, target = self.graph.triplets[edge]
        far = subject if inward else target
        weight: float = self.frozen.relation_weights[relation] * self._node_weight(far) * factor
        known = far in self.visited
        near = known or self.distances[owner] < self.walk.max_distance
        if weight > 0 and near and not self._is_closed(edge):
            self.pool.append(_Candidate(edge, owner, inward, far, weight * self.walk.cycles if known else weight))

    def _fits(self, edge: int) -> bool:
        """Whether a triplet is not in the set, nor the inverse of one that is, nor one too many with its subject."""
        return (
            edge not in self.edges
            and not any(self._are_inverse(edge, other) for other in self.edges)
            and self._with_subject(self.graph.triplets[edge][0]) < self.walk.max_per_subject
        )

    def _add(self, edge: int, distance: int) -> None:
        """Add a triplet to the set, and its end that is new to the visited entities."""
        subject, _, target = self.graph.triplets[edge]
        self.edges.append(edge)
        for node in (subject, target):
            if self.graph.is_entity[node] and node not in self.visited:
                self._visit(node, distance)
                for candidate in self.pool:
                    if candidate.far == node:
                        candidate.weight *= self.walk.cycles
        held = self._with_object(target)
        before, after = self._aloofness(target, held - 1), self._aloofness(target, held)
        for candidate in self.pool:
            if candidate.inward and self.visited[candidate.owner] == target and after < before:
                candidate.weight *= after / before

    def _are_inverse(self, one: int, other: int) -> bool:
        """Whether two triplets say the same, the other way round."""
        (s, r, o), (their_s, their_r, their_o) = self.graph.triplets[one], self.graph.triplets[other]
        return not self.walk.inverses and (s, o) == (their_o, their_s) and their_r in self.graph.inverses[r]

    def _aloofness(self, entity: int, held: int) -> float:
        """Step 6: the factor on triplets with this object, in a set that holds some of them."""
        hub = self.walk.hub_degree if self.away_from_hubs else math.inf
        crowd = len(self.graph.into[entity]) * (1.0 + held)
        return (hub / crowd) * (hub / crowd) if crowd > hub else 1.0

    def _visit(self, node: int, distance: int) -> None:
        self.visited.append(node)
        self.distances.append(distance)

    def _with_subject(self, node: int) -> int:
        return sum(self.graph.triplets[edge][0] == node for edge in self.edges)

    def _with_object(self, node: int) -> int:
        return sum(self.graph.triplets[edge][2] == node for edge in self.edges)

    def _proposed(self, edges: list[int], most: int) -> list[int]:
        """All of the edges, or ``most`` of them drawn uniformly with replacement."""
        if len(edges) <= most:
            return edges
        return [edges[self.stream.below(len(edges))] for _ in range(most)]

    def _pick(self, candidates: list[tuple[int, float]]) -> int | None:
        candidates = [(edge, weight) for edge, weight in candidates if weight > 0]
        if not candidates:
            return None
        return candidates[self.stream.pick(list(accumulate(weight for _, weight in candidates)))][0]

    def _node_weight(self, node: int) -> float:
        frozen = self.frozen
        weight = float(frozen.node_table[frozen.node_codes[node]])
        return weight * float(frozen.node_factors[node]) if len(frozen.node_factors) else weight

    def _is_closed(self, edge: int) -> bool:
        return len(self.frozen.edge_closed) > 0 and bool(self.frozen.edge_closed[edge])


class Stream:
    """Step 2: SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014)."""

    _GOLDEN = 0x9E3779B97F4A7C15

    def __init__(self, seed: int, number: int, attempt: int) -> None:
        self._state = _mix(_mix(_mix((seed + self._GOLDEN) & _MASK) ^ number) ^ attempt)

    def uniform(self) -> float:
        """A float in [0, 1) with 53 random bits."""
        self._state = (self._state + self._GOLDEN) & _MASK
        return (_mix(self._state) >> 11) * (1.0 / (1 << 53))

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return min(int(self.uniform() * n), n - 1)

    def pick(self, ends: Sequence[float] | NDArray[np.float64]) -> int:
        """An index by the weights whose cumulative sums are ``ends``; never one of weight 0."""
        position = bisect_right(ends, self.uniform() * ends[-1])
        # The product may round up to the last sum.
        while position >= len(ends) or (position > 0 and ends[position] == ends[position - 1]):
            position -= 1
        return position


def _mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _sum(weights: Iterable[float]) -> float:
    """From left to right, as the kernels add: Python's own sum compensates rounding errors from version 3.12 on."""
    total = 0.0
    for weight in weights:
        total += weight
    return total
