"""Triplet sets by coverage-weighted random walks on the graph's CSR arrays.

In: the graph folder. Out: ``sets.parquet``, ``coverage.json``, ``coverage.png``
and ``coverage_state.npz`` (how often each node, relation and triplet was drawn).
The one idea: whatever was drawn rarely becomes more likely, and because the
weights are frozen for a round and every set has its own random stream, the
sets are the same for any number of threads.

The algorithm. c(x) is the number of sets so far that contain the node or
relation x, and w(x) = (1 + c(x))^-alpha its weight.

1.  Freeze the weights for a round of K = ``round_size`` set numbers.
2.  Give each set number its own stream, SplitMix64 seeded by a hash of
    (seed, set number, try); no draw depends on another set's draws.
3.  Draw the size from a Poisson distribution truncated to
    ``min_size``…``max_size``, its rate solved so that the mean is ``mean_size``.
4.  Start. With probability ``relation_share`` from a relation, drawn by its
    weight: 16 of its triplets are proposed uniformly and one is taken by the
    product of the weights of its two ends. Otherwise from an entity that has a
    triplet, drawn by its weight. Literals never start a set.
5.  Extend. With probability ``stay`` extend the entity extended last, else any
    entity of the set, by 1 / sqrt(1 + in-degree), so that classes and countries
    lead the walk away less often than persons and works do. The candidates are
    its triplets as subject and as object that are not yet in the set, each
    weighted by w(relation) · w(node at the far end). Where an entity has more
    than 64 of a direction, 64 are proposed uniformly with replacement, so a
    step costs the same at any degree.
6.  Keep away from hubs. Many subjects share an object such as *human* or
    *Germany* and have nothing else in common. So the triplets in which an
    entity is the object are open to a step only with probability
    min(1, (8 / (d + d·u))²), d its in-degree, u how many of them the set holds:
    always for a mother's first child, hardly ever for a country's citizens.
    They are open too at a start that is the subject of nothing.
7.  Backtrack. An entity without candidates is passed over for another of the
    set; when none has any, the set ends early if it holds ``min_size`` triplets,
    else it is dropped and drawn again.
8.  When all of the round are drawn, admit them in the order of their numbers;
    a set whose triplets equal those of an admitted one is drawn again with the
    stream of the next try, at most 32 times. It keeps its size for 16 tries, so
    that the sizes stay true; after that the size is drawn anew and step 6 does
    not apply: better a set with a hub than none.
9.  Add the admitted sets to the counts, and begin the next round until
    ``n_sets`` are admitted or a round yields less than 1% of its sets: then
    the graph holds hardly any more, and what was drawn is the result.
10. Deal the sets to the splits by a permutation drawn from the seed, in exact
    shares; then swap sets so that each drawn relation occurs in training.

After V. Josifoski et al., "Exploiting Asymmetry for Synthetic Training Data
Generation: SynthIE and the Case of Information Extraction", EMNLP 2023, which
describes rounds, re-estimated weights and the two kinds of start.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kg.config import SamplingConfig
from kg.coverage import CoverageInput, CurvePoint, coverage_report, plot_coverage
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage, write_atomic
from kg.walks import (
    BLOCK,
    TRIES,
    Arrays,
    Frozen,
    Rows,
    State,
    Walk,
    admit,
    draw_rows,
    group_by_relation,
    merge,
    split_keys,
    swap_into_training,
)

__all__ = ["SETS_SCHEMA", "SPLITS", "DrawnSets", "deal_splits", "draw_sets", "sample_sets", "size_distribution"]

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_TRIPLET = pa.struct([("subject", pa.string()), ("relation", pa.string()), ("object", pa.string())])
SETS_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("triplets", pa.list_(_TRIPLET)),
        ("split", pa.string()),
        ("round", pa.int32()),
        ("strategy", pa.string()),
    ]
)

_STRATEGIES = ("entity", "relation")
_TRIES_AWAY_FROM_HUBS = 16
_LEAST_YIELD = 0.01
_LEAST_SHARE = 64
_ROWS_PER_GROUP = 50_000
_CURVE_POINTS = 200


@dataclass(frozen=True)
class DrawnSets:
    """The admitted sets, in drawing order, and the counts after the last.

    Attributes:
        offsets: int64[n+1]; set i holds ``edges[offsets[i]:offsets[i+1]]``.
        edges: int64, edge numbers (rows of triples.parquet) in the order of the walk.
        rounds: int32[n], round in which each set was drawn, from 0.
        strategies: uint8[n], 0 for a start at an entity, 1 at a relation.
        numbers: int64[n], the set number whose stream drew it.
        node_counts, relation_counts, edge_counts: int64[nodes], int64[relations], int64[edges],
            number of sets that contain each.
        next_number: the first set number not yet used.
        curve: what was covered after each round.
    """

    offsets: NDArray[np.int64]
    edges: NDArray[np.int64]
    rounds: NDArray[np.int32]
    strategies: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    node_counts: NDArray[np.int64]
    relation_counts: NDArray[np.int64]
    edge_counts: NDArray[np.int64]
    next_number: int
    curve: list[CurvePoint]

    def __len__(self) -> int:
        return len(self.rounds)


def sample_sets(
    config: SamplingConfig, graph: Path, folder: Path, *, seed: int, progress: Progress = no_progress
) -> Manifest:
    """Draw triplet sets from the graph in ``graph`` and write them to ``folder``.

    Raises:
        InputError: the graph is not finished, has no triplet, or yields not one set of the wanted size.
    """

    def work(target: Path) -> dict[str, Any]:
        knowledge_graph = KnowledgeGraph.open(graph)
        drawn = draw_sets(config, knowledge_graph, seed=seed, progress=progress)
        splits = deal_splits(config, knowledge_graph, drawn, seed=seed)
        _write_sets(target / "sets.parquet", knowledge_graph, drawn, splits)
        _write_state(target / "coverage_state.npz", drawn)
        report = coverage_report(_coverage_input(knowledge_graph, drawn, splits))
        write_atomic(target / "coverage.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        plot_coverage(report, target / "coverage.png")
        return _counts(config, report)

    return run_stage(
        "sets",
        folder,
        config=config.fingerprinted(),
        inputs={"kg": read_manifest(graph).output_hash},
        seed=seed,
        work=work,
    )


def draw_sets(
    config: SamplingConfig, graph: KnowledgeGraph, *, seed: int, progress: Progress = no_progress
) -> DrawnSets:
    """Steps 1 to 9 of the algorithm; writes nothing.

    Raises:
        InputError: the graph has no triplet, or yields not one set of the wanted size.
    """
    if graph.triple_count == 0:
        raise InputError(
            f"The graph {graph.folder} has no triplets, so there is nothing to sample. "
            "Check which relations and entities kg.relations and kg.entities select."
        )
    arrays = _prepare(graph)
    walk = Walk(np.cumsum(size_distribution(config)), config.min_size, config.relation_share, config.stay)
    state = _fresh_state(arrays, config)
    rounds: list[_Round] = []
    curve: list[CurvePoint] = []
    admitted, number = 0, 0
    with _Threads(config.workers or os.cpu_count() or 1) as threads:
        while admitted < config.n_sets:
            wanted = min(config.round_size, config.n_sets - admitted)
            drawn = _draw_round(arrays, walk, state, config.max_size, seed, range(number, number + wanted), threads)
            merge(drawn.lengths, drawn.edges, config.max_size, arrays, config.alpha, state)
            rounds.append(drawn)
            number += wanted
            admitted += len(drawn.numbers)
            curve.append(CurvePoint(admitted, *state.covered.tolist()))
            progress(admitted, config.n_sets, "sets", entities=curve[-1].entities, triplets=curve[-1].triplets)
            if len(drawn.numbers) < _LEAST_YIELD * wanted:
                break
    _tell_shortage(config, graph, admitted)
    lengths = np.concatenate([drawn.lengths for drawn in rounds])
    return DrawnSets(
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        edges=np.concatenate([drawn.edges for drawn in rounds]),
        rounds=np.repeat(np.arange(len(rounds), dtype=np.int32), [len(drawn.numbers) for drawn in rounds]),
        strategies=np.concatenate([drawn.strategies for drawn in rounds]),
        numbers=np.concatenate([drawn.numbers for drawn in rounds]),
        node_counts=state.node_counts,
        relation_counts=state.relation_counts,
        edge_counts=state.edge_counts,
        next_number=number,
        curve=curve,
    )


def size_distribution(config: SamplingConfig) -> NDArray[np.float64]:
    """Probabilities of the sizes ``min_size``…``max_size``: a truncated Poisson whose mean is ``mean_size``.

    The mean of the truncated distribution grows with the rate, so the rate is found by bisection.
    """
    sizes = np.arange(config.min_size, config.max_size + 1)
    log_factorials = np.cumsum(np.log(np.arange(1, config.max_size + 1)))[sizes - 1]
    low, high = -40.0, 40.0
    for _ in range(200):
        log_rate = (low + high) / 2
        logits = sizes * log_rate - log_factorials
        weights = np.exp(logits - logits.max())
        probabilities = weights / weights.sum()
        if probabilities @ sizes < config.mean_size:
            low = log_rate
        else:
            high = log_rate
    return probabilities


def deal_splits(config: SamplingConfig, graph: KnowledgeGraph, drawn: DrawnSets, *, seed: int) -> NDArray[np.int64]:
    """Step 10: for each set the index into `SPLITS`, int64[n].

    The shares are exact to rounding. Each drawn relation occurs in a training set, unless
    there are too few training sets to hold them all.
    """
    n = len(drawn)
    held_out = [round(n * config.validation_share), round(n * config.test_share)]
    keys = split_keys(np.uint64(seed), drawn.numbers)
    order = np.lexsort((drawn.numbers, keys))
    splits = np.zeros(n, np.int64)
    splits[order[: held_out[0]]] = SPLITS.index("validation")
    splits[order[held_out[0] : sum(held_out)]] = SPLITS.index("test")
    relations = np.asarray(graph.out_relations)[drawn.edges].astype(np.int64)
    missing = swap_into_training(splits, order, drawn.offsets, relations, graph.relation_count)
    if missing:
        log.warning(
            "%d of the drawn relations have no training set: there are too few sets to hold them all. "
            "Draw more sets (sampling.n_sets) to train on every relation.",
            missing,
        )
    return splits


# --- rounds ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Round:
    """The sets that one round admitted, by ascending number."""

    numbers: NDArray[np.int64]  # [k]
    lengths: NDArray[np.int64]  # [k]
    edges: NDArray[np.int64]  # [sum of lengths]
    strategies: NDArray[np.uint8]  # [k]


def _prepare(graph: KnowledgeGraph) -> Arrays:
    is_entity = pc.equal(graph.node_table.column("kind"), "entity").to_numpy().astype(np.bool_)
    out_offsets, in_offsets = _plain(graph.out_offsets), _plain(graph.in_offsets)
    out_relations = _plain(graph.out_relations)
    relation_offsets, relation_edges = group_by_relation(out_relations, graph.relation_count)
    has_triplet = (np.diff(out_offsets) > 0) | (np.diff(in_offsets) > 0)
    return Arrays(
        out_offsets=out_offsets,
        out_relations=out_relations,
        out_objects=_plain(graph.out_objects),
        in_offsets=in_offsets,
        in_relations=_plain(graph.in_relations),
        in_subjects=_plain(graph.in_subjects),
        in_edges=_plain(graph.in_edge_numbers),
        relation_offsets=relation_offsets,
        relation_edges=relation_edges,
        is_entity=is_entity,
        can_start=is_entity & has_triplet,
    )


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only plain view: the kernels are compiled once, for memory-mapped and ordinary arrays alike."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _fresh_state(arrays: Arrays, config: SamplingConfig) -> State:
    n, m, r = len(arrays.is_entity), len(arrays.out_objects), len(arrays.relation_offsets) - 1
    starts = np.append(arrays.can_start.astype(np.float64), np.zeros(-n % BLOCK))
    return State(
        node_counts=np.zeros(n, np.int64),
        relation_counts=np.zeros(r, np.int64),
        edge_counts=np.zeros(m, np.int64),
        node_weights=np.ones(n),
        relation_weights=(np.diff(arrays.relation_offsets) > 0).astype(np.float64),
        block_sums=starts.reshape(-1, BLOCK).sum(axis=1),
        covered=np.zeros(3, np.int64),
        seen=np.zeros(1 << (2 * config.n_sets).bit_length(), np.uint64),
    )


def _draw_round(
    arrays: Arrays, walk: Walk, state: State, max_size: int, seed: int, numbers: range, threads: _Threads
) -> _Round:
    """Steps 2 to 8 for the set numbers ``numbers``."""
    k = len(numbers)
    rows = Rows(np.full((k, max_size), -1, np.int64), np.zeros(k, np.int64), np.zeros(k, np.uint8))
    frozen = Frozen(
        state.node_weights, state.relation_weights, np.cumsum(state.block_sums), np.cumsum(state.relation_weights)
    )
    pending = np.arange(k)
    for attempt in range(TRIES):
        fixed = (numbers.start, attempt, np.uint64(seed), arrays, walk, frozen, attempt < _TRIES_AWAY_FROM_HUBS, rows)
        threads.each_share(pending, draw_rows, fixed)
        admitted = admit(pending, rows.edges, rows.lengths, state.seen)
        pending = pending[~admitted]
        rows.lengths[pending] = 0
        if len(pending) == 0:
            break
    kept = rows.lengths > 0
    inside = np.arange(max_size) < rows.lengths[kept, None]
    return _Round(
        numbers=numbers.start + np.flatnonzero(kept),
        lengths=rows.lengths[kept],
        edges=rows.edges[kept][inside],
        strategies=rows.strategies[kept],
    )


class _Threads:
    """Threads that each take a share of a round; the kernels run without the interpreter's lock."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(max_workers=workers)

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def each_share(self, rows: NDArray[np.int64], draw: Callable[..., None], fixed: tuple[Any, ...]) -> None:
        """Call ``draw(share, *fixed)`` for each share of ``rows``; small rounds are not worth a second thread."""
        shares = min(self._workers, -(-len(rows) // _LEAST_SHARE))
        list(self._pool.map(lambda share: draw(share, *fixed), np.array_split(rows, shares)))


def _tell_shortage(config: SamplingConfig, graph: KnowledgeGraph, admitted: int) -> None:
    if admitted == 0:
        raise InputError(
            f"The graph {graph.folder} with its {graph.triple_count:,} triplets yields not one connected set of "
            f"{config.min_size} or more triplets. Lower sampling.min_size or build a larger graph."
        )
    if admitted < config.n_sets:
        log.warning(
            "Only %s of the %s wanted sets were drawn: the graph's %s triplets hold hardly any more different sets of "
            "%d to %d triplets. Build a larger graph, raise sampling.max_size or lower sampling.n_sets.",
            f"{admitted:,}",
            f"{config.n_sets:,}",
            f"{graph.triple_count:,}",
            config.min_size,
            config.max_size,
        )


# --- outputs --------------------------------------------------------------------------------------------------------


def _write_sets(path: Path, graph: KnowledgeGraph, drawn: DrawnSets, splits: NDArray[np.int64]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, SETS_SCHEMA, compression="zstd") as writer:
        for batch in _batches(graph, drawn, splits):
            writer.write_batch(batch)
    temporary.replace(path)


def _batches(graph: KnowledgeGraph, drawn: DrawnSets, splits: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    node_ids = graph.node_table.column("id").combine_chunks()
    relation_ids = graph.relation_table.column("id").combine_chunks()
    for first in range(0, len(drawn), _ROWS_PER_GROUP):
        last = min(first + _ROWS_PER_GROUP, len(drawn))
        offsets = drawn.offsets[first : last + 1]
        edges = drawn.edges[offsets[0] : offsets[-1]]
        subjects = np.searchsorted(graph.out_offsets, edges, side="right") - 1
        triplets = pa.StructArray.from_arrays(
            [
                node_ids.take(pa.array(subjects)),
                relation_ids.take(pa.array(np.asarray(graph.out_relations)[edges])),
                node_ids.take(pa.array(np.asarray(graph.out_objects)[edges])),
            ],
            names=["subject", "relation", "object"],
        )
        yield pa.record_batch(
            [
                pa.array(np.arange(first, last)),
                pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), triplets),
                pa.array(SPLITS).take(pa.array(splits[first:last])),
                pa.array(drawn.rounds[first:last]),
                pa.array(_STRATEGIES).take(pa.array(drawn.strategies[first:last])),
            ],
            schema=SETS_SCHEMA,
        )


def _write_state(path: Path, drawn: DrawnSets) -> None:
    """All that a later run needs to go on from here."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            node_counts=drawn.node_counts,
            relation_counts=drawn.relation_counts,
            triplet_counts=drawn.edge_counts,
            next_number=np.int64(drawn.next_number),
            sets=np.int64(len(drawn)),
        )
    temporary.replace(path)


def _coverage_input(graph: KnowledgeGraph, drawn: DrawnSets, splits: NDArray[np.int64]) -> CoverageInput:
    arrays = _prepare(graph)
    literals = ~arrays.is_entity & (np.diff(arrays.in_offsets) > 0)
    lengths = np.diff(drawn.offsets)
    set_of_edge = np.repeat(np.arange(len(drawn)), lengths)
    relations = arrays.out_relations[drawn.edges].astype(np.int64)
    pairs = np.unique(set_of_edge * graph.relation_count + relations)
    split_of_pair, relation_of_pair = splits[pairs // graph.relation_count], pairs % graph.relation_count
    seen = drawn.node_counts > 0
    return CoverageInput(
        relation_ids=graph.relation_table.column("id").to_pylist(),
        relation_labels=graph.relation_table.column("label").to_pylist(),
        relation_triplets=np.diff(arrays.relation_offsets),
        relation_sets=drawn.relation_counts,
        relation_sets_by_split={
            split: np.bincount(relation_of_pair[split_of_pair == number], minlength=graph.relation_count)
            for number, split in enumerate(SPLITS)
        },
        entities=(int((seen & arrays.can_start).sum()), int(arrays.can_start.sum())),
        literals=(int((seen & literals).sum()), int(literals.sum())),
        triplets=(int((drawn.edge_counts > 0).sum()), graph.triple_count),
        set_sizes=lengths,
        split_of_set=splits,
        splits=SPLITS,
        duplicates=_duplicates(drawn),
        curve=_thin(drawn.curve),
    )


def _duplicates(drawn: DrawnSets) -> int:
    """Sets whose triplets equal another's, by comparing contents, not hashes."""
    lengths = np.diff(drawn.offsets)
    rows = np.full((len(drawn), lengths.max()), -1, np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = drawn.edges
    rows.sort(axis=1)
    return len(rows) - len(np.unique(rows, axis=0))


def _thin(curve: list[CurvePoint]) -> list[CurvePoint]:
    step = -(-len(curve) // _CURVE_POINTS)
    return curve[step - 1 :: step] + ([curve[-1]] if len(curve) % step else [])


def _counts(config: SamplingConfig, report: dict[str, Any]) -> dict[str, Any]:
    coverage, spread = report["coverage"], report["sets_per_relation"]
    return {
        "sets": report["sets"],
        "requested": config.n_sets,
        "duplicates": report["duplicates"],
        "mean_size": report["set_size"]["mean"],
        **{f"{what}_covered": part["covered"] for what, part in coverage.items()},
        **{f"{what}_share": part["share"] for what, part in coverage.items()},
        "relation_max_over_median": spread["max_over_median"],
        "relation_normalised_entropy": spread["normalised_entropy"],
        "relation_gini": spread["gini"],
        "splits": {split: part["sets"] for split, part in report["splits"].items()},
    }
