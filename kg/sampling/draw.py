"""Drawing triplet sets: `draw_sets`, the one function, for any graph.

`kg.sampling.reference` lists the steps of the algorithm. Here are the rounds: weights
are frozen, sets drawn, admitted and counted, until there are enough.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph
from kg.parallel import Mapper
from kg.sampling.arrays import Arrays, GraphIds, excluded_nodes, excluded_relations, graph_arrays, graph_ids
from kg.sampling.config import SamplingConfig
from kg.sampling.kernels import BLOCK, add_contents, block_sums, count_sets, has_open_edge, split_keys
from kg.sampling.reference import Reference
from kg.sampling.rounds import Alone, Drawer, Mapped, Threads, draw_round
from kg.sampling.sizes import size_distribution
from kg.sampling.splits import SPLITS, Phase, Reserve, deal_open_sets, phases
from kg.sampling.state import CoverageState, Frozen, Rows, Walk
from kg.sampling.weights import (
    CLOSED,
    COVERED,
    MOST_FACTOR,
    RelationWeights,
    count_codes,
    node_weight_table,
    power,
    read_numbers,
    relation_targets,
    tell_unknown,
)
from kg.stage import Progress, no_progress, read_manifest

__all__ = ["STRATEGIES", "DrawnSets", "draw_sets"]

log = logging.getLogger(__name__)

STRATEGIES = ("entity", "relation", "negative")
_LEAST_YIELD = 0.01
_BARREN = 100  # set numbers in a row that yield less
_FAILED_STARTS = 100  # in a row, from one relation
_SEEDS = 1 << 64
_NO_LIMIT = 1 << 30
_NEARLY_ALL = 0.01  # all but this share
_FLOOR_MARGIN = 8.0  # most starts from a relation with few triplets may find no new set


@dataclass(frozen=True)
class DrawnSets:
    """The sets in the order in which they were drawn, and what is known of them.

    Attributes:
        offsets: int64[k+1]; set i holds ``edges[offsets[i]:offsets[i+1]]``.
        edges: int64, edge numbers in the order of the walk.
        splits: int64[k], index into `SPLITS`.
        rounds: int32[k], round in which each set was drawn, from 0.
        strategies: uint8[k], index into `STRATEGIES`: how it was started.
        asked_sizes: int32[k], the size that was drawn for it.
        numbers: int64[k], the set number whose stream drew it.
        topics, topic_splits: int64[j], node number and split of each negative set.
        exhausted: bool[R], relations from which no more different sets could be started.
        closed_relations, closed_nodes: bool[R], bool[n], what the settings exclude.
        state: the counts after the last set, earlier runs included.
        arrays, ids: the graph, by number, and the ids of its numbers.
    """

    offsets: NDArray[np.int64]
    edges: NDArray[np.int64]
    splits: NDArray[np.int64]
    rounds: NDArray[np.int32]
    strategies: NDArray[np.uint8]
    asked_sizes: NDArray[np.int32]
    numbers: NDArray[np.int64]
    topics: NDArray[np.int64]
    topic_splits: NDArray[np.int64]
    exhausted: NDArray[np.bool_]
    closed_relations: NDArray[np.bool_]
    closed_nodes: NDArray[np.bool_]
    state: CoverageState
    arrays: Arrays
    ids: GraphIds

    def __len__(self) -> int:
        return len(self.rounds)

    def triplets(self, position: int) -> list[tuple[Any, Any, Any]]:
        """The (subject, relation, object) ids of one set."""
        edges = self.edges[self.offsets[position] : self.offsets[position + 1]]
        nodes, relations = self.ids.nodes, self.ids.relations
        return [
            (
                _id(nodes, self.arrays.subjects[edge]),
                relations[self.arrays.out_relations[edge]],
                _id(nodes, self.arrays.out_objects[edge]),
            )
            for edge in edges
        ]


def draw_sets(
    config: SamplingConfig,
    graph: nx.MultiDiGraph,
    *,
    seed: int,
    earlier: CoverageState | None = None,
    mapper: Mapper | None = None,
    progress: Progress = no_progress,
) -> DrawnSets:
    """Draw triplet sets that cover the graph; writes nothing.

    The sets depend on the graph, the settings, the seed and ``earlier`` alone. A `KnowledgeGraph` is drawn from by
    compiled kernels, any other graph by the reference implementation: its nodes may have the attributes ``kind``
    ("entity" unless it is a literal) and ``types`` (ids of classes); the keys of its edges are the relations.

    Args:
        earlier: what earlier runs have drawn from this graph; it is gone on from, and changed.
        mapper: takes shares of large rounds, for a `KnowledgeGraph`; None for threads of this process.

    Raises:
        InputError: the graph has no triplet, or yields not one set of the wanted size.
        ConfigError: a setting does not fit the graph, or a file that it names cannot be used.
    """
    seed %= _SEEDS
    arrays, ids = graph_arrays(graph), graph_ids(graph)
    n_nodes, n_relations, n_edges = len(arrays.is_entity), len(ids.relations), len(arrays.out_objects)
    state = earlier or CoverageState.fresh(n_nodes, n_relations, n_edges)
    negatives = min(round(config.n_sets * config.negative_share), config.n_sets - 1)
    state.contents = _contents_table(state.contents, state.sets + config.n_sets)
    rounds = _Rounds(config, graph, arrays, ids, state, seed)
    planned = phases(config, config.n_sets - negatives)
    sizes: list[int] = []
    parts: list[_Part] = []
    topics: list[tuple[Phase, NDArray[np.int64]]] = []
    with _drawer(config, graph, arrays, seed, mapper) as draw:
        for phase in planned:
            rounds.begin(phase)
            parts += rounds.draw(phase, draw, progress)
            sizes.append(rounds.admitted - sum(sizes))
            share = _share_of_negatives(negatives, planned, len(topics))
            topics.append((phase, rounds.topics(phase, share)))
            _tell_missing_topics(share, len(topics[-1][1]))
    _tell_shortage(config, arrays, planned, sizes)
    return _joined(config, seed, parts, topics, rounds)


@dataclass(frozen=True)
class _Part:
    """The sets that one round admitted, by ascending number."""

    split: int | None
    round: int
    numbers: NDArray[np.int64]
    rows: Rows


class _Rounds:
    """The weights, renewed after each round as far as it touched them."""

    def __init__(
        self,
        config: SamplingConfig,
        graph: nx.MultiDiGraph,
        arrays: Arrays,
        ids: GraphIds,
        state: CoverageState,
        seed: int,
    ) -> None:
        self._config = config
        self.arrays = arrays
        self.ids = ids
        self.state = state
        self._seed = seed
        triplets = np.diff(arrays.relation_offsets)
        targets, alpha = relation_targets(config, ids.relations, triplets)
        factors = _factors(config.relation_factors, "relation_factors", ids.relations)
        self._relation_weights = RelationWeights(alpha, targets, factors)
        self.closed_relations = excluded_relations(ids.relations, config.exclude_relations) | (targets * factors == 0)
        self.closed_nodes = excluded_nodes(graph, config.exclude_types)
        self._node_factors = _node_factors(config, graph)
        if len(self._node_factors):
            self.closed_nodes |= self._node_factors == 0
        self._walk = _walk(config)
        self._reserve = Reserve(config, arrays, state)
        self.exhausted = np.zeros(len(ids.relations), np.bool_)
        self._failed_starts = np.zeros(len(ids.relations), np.int64)
        seen = state.node_counts > 0
        self._covered = np.array(
            [(seen & arrays.is_entity).sum(), (state.relation_counts > 0).sum(), (state.edge_counts > 0).sum()]
        )
        self.admitted = 0

    def begin(self, phase: Phase) -> None:
        """What may be drawn in a phase."""
        self._edge_closed = self._reserve.closed_edges(phase.split)
        self._node_codes = count_codes(self.state.node_counts)
        self._node_codes[~self.arrays.is_entity] = COVERED
        self._node_codes[self.closed_nodes | self._reserve.closed_nodes(phase.split)] = CLOSED
        has_edge, self._relation_open = has_open_edge(
            self.arrays, self._node_codes, ~self.closed_relations, self._edge_closed, CLOSED
        )
        self._can_start = has_edge & self.arrays.is_entity & ~self._reserve.no_start(phase.split)
        self._histogram = np.bincount(self._node_codes[self._can_start], minlength=CLOSED + 1)
        self._touched = np.zeros(-(-len(self._node_codes) // BLOCK), np.bool_)
        self._sums = np.zeros(len(self._touched))
        self._cap = -1
        # What one split may not use, another one may.
        self.exhausted[:] = False
        self._failed_starts[:] = 0

    def draw(self, phase: Phase, draw: Drawer, progress: Progress) -> list[_Part]:
        """Rounds until the phase has its sets, or there are hardly any more."""
        parts: list[_Part] = []
        missing, barren = phase.n_sets, 0
        round_size = self._config.round_size or _round_size(self._config.n_sets)
        while missing > 0:
            wanted = min(round_size, missing)
            frozen = self._freeze(missing, floor=phase.split in (None, SPLITS.index("train")))
            numbers = np.arange(self.state.next_number, self.state.next_number + wanted)
            rows, failed_starts = draw_round(
                draw, numbers, self._walk, frozen, self.state.contents, len(self.exhausted)
            )
            more_exhausted = self._exhaust(rows, failed_starts)
            part = self._count(phase, numbers, rows)
            parts.append(part)
            missing -= len(part.numbers)
            self.admitted += len(part.numbers)
            entities, _, triplets = self._covered.tolist()
            progress(self.admitted, self._config.n_sets, "sets", entities=entities, triplets=triplets)
            # A round may fail for starting from exhausted relations only; the next one will not.
            fails = len(part.numbers) < _LEAST_YIELD * wanted and not more_exhausted
            barren = barren + wanted if fails else 0
            if barren >= _BARREN:
                break
        return parts

    def topics(self, phase: Phase, n: int) -> NDArray[np.int64]:
        """Entities that may be drawn in a phase and are no topic yet, in an order drawn from the seed."""
        if n == 0:
            return np.zeros(0, np.int64)
        free = self._can_start.copy()
        free[self.state.topics] = False
        candidates = np.flatnonzero(free)
        order = np.lexsort((candidates, split_keys(np.uint64((self._seed + 1) % _SEEDS), candidates)))
        topics = candidates[order[:n]]
        self.state.topics = np.concatenate([self.state.topics, topics])
        self._reserve.take_topics(phase.split, topics)
        return topics

    def _exhaust(self, rows: Rows, failed_starts: NDArray[np.int64]) -> bool:
        """Step 8: whether relations turn out to be exhausted."""
        self._failed_starts += failed_starts
        self._failed_starts[rows.relations[(rows.lengths > 0) & (rows.relations >= 0)]] = 0
        exhausted = self.exhausted | (self._failed_starts >= _FAILED_STARTS)
        more = bool((exhausted & ~self.exhausted).any())
        self.exhausted = exhausted
        return more

    def _freeze(self, missing: int, *, floor: bool) -> Frozen:
        """Step 1.

        Args:
            missing: sets that are still to be drawn.
            floor: whether relations below the floor come first.
        """
        self._renew_sums()
        starts, steps = self._relation_weights(self.state.relation_counts)
        ready = self._relation_open & ~self.exhausted
        lacking = np.maximum(self._config.relation_floor - self.state.relation_counts, 0) * ready * floor
        return Frozen(
            node_codes=self._node_codes,
            node_table=self._node_table,
            node_factors=self._node_factors,
            can_start=self._can_start,
            block_ends=np.cumsum(self._sums),
            relation_weights=steps * self._relation_open,
            relation_ends=np.cumsum(starts * ready),
            floor_ends=np.cumsum(lacking.astype(np.float64)),
            floor_share=min(1.0, _FLOOR_MARGIN * int(lacking.sum()) / missing),
            edge_closed=self._edge_closed,
        )

    def _renew_sums(self) -> None:
        """The start weights, summed over blocks of nodes; all anew where nearly all nodes are in one set more."""
        lacking = np.searchsorted(np.cumsum(self._histogram), _NEARLY_ALL * self._histogram.sum(), side="right")
        if self._cap != lacking + 1:
            self._cap = int(lacking) + 1
            self._node_table = node_weight_table(self._config.entity_alpha, self._cap)
            self._touched[:] = True
        block_sums(self._node_codes, self._node_table, self._node_factors, self._can_start, self._touched, self._sums)

    def _count(self, phase: Phase, numbers: NDArray[np.int64], rows: Rows) -> _Part:
        """Step 9."""
        state = self.state
        kept = np.flatnonzero(rows.lengths > 0)
        part = _Part(phase.split, state.next_round, numbers[kept], rows.take(kept))
        edges = _edges(part.rows)
        count_sets(
            part.rows.lengths,
            edges,
            self.arrays,
            (state.node_counts, state.relation_counts, state.edge_counts),
            self._can_start,
            self._node_codes,
            self._histogram,
            self._touched,
            self._covered,
        )
        self._reserve.take(phase.split, edges)
        state.sets += len(kept)
        state.next_number += len(numbers)
        state.next_round += 1
        return part


def _share_of_negatives(negatives: int, planned: Sequence[Phase], place: int) -> int:
    """The negative sets of one phase; those of all phases add up to ``negatives``."""
    ends = np.cumsum([0, *(phase.n_sets for phase in planned)])
    shares = negatives * ends // ends[-1]
    return int(shares[place + 1] - shares[place])


def _round_size(n_sets: int) -> int:
    """Weights that are renewed some 200 times cover as well as weights that are renewed after every set."""
    return min(max(n_sets // 200, 500), 10_000)


def _edges(rows: Rows) -> NDArray[np.int32]:
    """The edges of all rows, one after the other."""
    return rows.edges[np.arange(rows.edges.shape[1]) < rows.lengths[:, None]]


def _joined(
    config: SamplingConfig,
    seed: int,
    parts: Sequence[_Part],
    topics: Sequence[tuple[Phase, NDArray[np.int64]]],
    rounds: _Rounds,
) -> DrawnSets:
    lengths = np.concatenate([part.rows.lengths for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    edges = np.concatenate([_edges(part.rows) for part in parts]).astype(np.int64)
    numbers = np.concatenate([part.numbers for part in parts])
    sizes = [len(part.numbers) for part in parts]
    relations = rounds.arrays.out_relations[edges].astype(np.int64)
    splits = np.repeat(np.array([-1 if part.split is None else part.split for part in parts], np.int64), sizes)
    splits = deal_open_sets(config, seed, splits, numbers, offsets, relations, len(rounds.ids.relations))
    return DrawnSets(
        offsets=offsets,
        edges=edges,
        splits=splits,
        rounds=np.repeat(np.array([part.round for part in parts], np.int32), sizes),
        strategies=np.concatenate([part.rows.strategies for part in parts]),
        asked_sizes=np.concatenate([part.rows.asked for part in parts]),
        numbers=numbers,
        topics=np.concatenate([nodes for _, nodes in topics]),
        topic_splits=np.concatenate([_topic_splits(config, phase, len(nodes)) for phase, nodes in topics]),
        exhausted=rounds.exhausted,
        closed_relations=rounds.closed_relations,
        closed_nodes=rounds.closed_nodes,
        state=rounds.state,
        arrays=rounds.arrays,
        ids=rounds.ids,
    )


def _topic_splits(config: SamplingConfig, phase: Phase, n: int) -> NDArray[np.int64]:
    """The order of topics is random, so the first ones may be held out."""
    splits = np.full(n, phase.split or 0, np.int64)
    if phase.split is None:
        validation, test = round(n * config.validation_share), round(n * config.test_share)
        splits[:validation] = SPLITS.index("validation")
        splits[validation : validation + test] = SPLITS.index("test")
    return splits


def _drawer(
    config: SamplingConfig, graph: nx.MultiDiGraph, arrays: Arrays, seed: int, mapper: Mapper | None
) -> AbstractContextManager[Drawer]:
    if not isinstance(graph, KnowledgeGraph):
        return nullcontext(Alone(Reference(graph, arrays), seed))
    if mapper is None:
        return Threads(arrays, seed, config.workers)
    return Mapped(arrays, seed, config.workers, graph, read_manifest(graph.folder).output_hash, mapper)


def _walk(config: SamplingConfig) -> Walk:
    return Walk(
        min_size=config.min_size,
        max_size=config.max_size,
        size_ends=np.cumsum(size_distribution(config)),
        relation_share=config.relation_share,
        stay=config.stay,
        max_distance=config.max_distance or _NO_LIMIT,
        max_per_subject=config.max_per_subject or _NO_LIMIT,
        cycles=config.cycles,
        hub_degree=math.inf if config.hub_degree is None else config.hub_degree,
        inverses=config.inverses,
    )


def _contents_table(contents: NDArray[np.uint64], sets: int) -> NDArray[np.uint64]:
    """An open-addressed table with room for twice as many sets."""
    table = np.zeros(1 << (2 * sets).bit_length(), np.uint64)
    add_contents(contents, table)
    return table


def _factors(path: str | None, field: str, identifiers: Sequence[Any]) -> NDArray[np.float64]:
    """float64[len(identifiers)]: the factors that a file gives, else 1."""
    given = {} if path is None else read_numbers(Path(path), field, MOST_FACTOR)
    known = {identifier: number for number, identifier in enumerate(identifiers)}
    _tell_unknown(path, field, given, sum(identifier in known for identifier in given))
    factors = np.ones(len(identifiers))
    for identifier, factor in given.items():
        if identifier in known:
            factors[known[identifier]] = factor
    return factors


def _node_factors(config: SamplingConfig, graph: nx.MultiDiGraph) -> NDArray[np.float64]:
    """float64[n]: factor^(1 + alpha) of the nodes, as `RelationWeights` has it; empty where all are 1."""
    if config.entity_factors is None:
        return np.ones(0)
    given = read_numbers(Path(config.entity_factors), "entity_factors", MOST_FACTOR)
    if isinstance(graph, KnowledgeGraph):
        numbers = {identifier: graph.find_number(identifier) for identifier in given}
    else:
        known = {node: number for number, node in enumerate(graph)}
        numbers = {identifier: known.get(identifier, -1) for identifier in given}
    _tell_unknown(config.entity_factors, "entity_factors", given, sum(number >= 0 for number in numbers.values()))
    factors = np.ones(graph.number_of_nodes())
    for identifier, factor in given.items():
        if numbers[identifier] >= 0:
            factors[numbers[identifier]] = power(factor, 1 + config.entity_alpha)
    return factors


def _tell_unknown(path: str | None, field: str, given: dict[str, float], known: int) -> None:
    if given and not known:
        raise ConfigError(
            f"None of the {len(given):,} ids in {path} is in the graph; the first one is {next(iter(given))!r}. "
            f"Correct 'sampling.{field}'."
        )
    if path is not None:
        tell_unknown(path, len(given), known)


def _tell_shortage(config: SamplingConfig, arrays: Arrays, wanted: Sequence[Phase], sizes: Sequence[int]) -> None:
    triplets = f"{len(arrays.out_objects):,}"
    if not sum(sizes):
        raise InputError(
            f"The graph with its {triplets} triplets yields not one connected set of {config.min_size} or more "
            "triplets that is new. Lower sampling.min_size, exclude less, or build a larger graph."
        )
    for phase, drawn in zip(wanted, sizes, strict=True):
        if drawn == phase.n_sets:
            continue
        sets = "sets" if phase.split is None else f"sets of the {SPLITS[phase.split]} split"
        log.warning(
            "Only %s of the %s wanted %s were drawn: the graph's %s triplets hold hardly any more different sets of "
            "%d to %d triplets%s. Build a larger graph, raise sampling.max_size or lower sampling.n_sets.",
            f"{drawn:,}",
            f"{phase.n_sets:,}",
            sets,
            triplets,
            config.min_size,
            config.max_size,
            "" if phase.split is None else f" whose {config.held_out} no other split has",
        )


def _tell_missing_topics(wanted: int, found: int) -> None:
    if found < wanted:
        log.warning(
            "Only %s of %s wanted negative sets have a topic of their own: the graph has no more entities for them. "
            "Lower sampling.negative_share.",
            f"{found:,}",
            f"{wanted:,}",
        )


def _id(nodes: Any, number: int) -> Any:
    node = nodes[int(number)]
    return node.as_py() if hasattr(node, "as_py") else node
