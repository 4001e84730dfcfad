"""How well triplet sets cover the graph: all figures, as JSON-ready data.

`coverage_report` judges sets by the triplets that they hold and knows nothing
of how they were drawn, so it also judges foreign data: what is covered of what
may be drawn, how evenly relations and entities occur and how evenly they could,
sizes and shapes of the sets, what they share, what the splits give away.
`kg.sampling.plots` draws the result, `kg.sampling.tables` puts it in tables.

Everything follows from the edge numbers of the sets: arrays over nodes, edges
or sets at a time, in compiled loops where one triplet after the other matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from kg.graph import KnowledgeGraph
from kg.sampling.bounds import NO_RELATION, MostEven, most_even_sets, sole_relations, spread
from kg.sampling.plots import plot_coverage
from kg.sampling.shapes import SHAPES, count_sets, first_equal_sets, shapes
from kg.sampling.splits import SPLITS
from kg.sampling.tables import report_table

__all__ = [
    "EarlierCounts",
    "GraphColumns",
    "SampledSets",
    "coverage_report",
    "plot_coverage",
    "report_table",
]

_CURVE_POINTS = 200

Counts = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class GraphColumns:
    """A graph of n nodes, m triplets and R relations as plain arrays.

    Attributes:
        subjects, relations, objects: int32[m], sorted; edge number e is row e.
        is_entity: bool[n], False for literals.
        relation_ids, relation_labels: of each of the R relations.
    """

    subjects: NDArray[np.int32]
    relations: NDArray[np.int32]
    objects: NDArray[np.int32]
    is_entity: Flags
    relation_ids: Sequence[str]
    relation_labels: Sequence[str]

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> GraphColumns:
        return cls(
            subjects=np.repeat(np.arange(graph.node_count, dtype=np.int32), np.diff(graph.out_offsets)),
            relations=graph.out_relations,
            objects=graph.out_objects,
            is_entity=pc.equal(graph.node_table.column("kind"), "entity").to_numpy().astype(np.bool_),
            relation_ids=graph.relation_ids,
            relation_labels=graph.relation_labels,
        )


@dataclass(frozen=True)
class EarlierCounts:
    """In how many sets of earlier runs each node (int64[n]), relation (int64[R]) and edge (int64[m]) occurs."""

    node_counts: NDArray[np.int64]
    relation_counts: NDArray[np.int64]
    edge_counts: NDArray[np.int64]
    sets: int


@dataclass(frozen=True)
class SampledSets:
    """The k sets to judge.

    Attributes:
        offsets: int64[k + 1]; set i holds ``edges[offsets[i]:offsets[i + 1]]``, at least one edge, all different.
        edges: int64, edge numbers.
        splits: int64[k], index into `SPLITS`; None: all are training sets.
        asked_sizes: int64[k], the number of triplets each set was meant to have; None: unknown.
        negatives: sets without triplets, which are not among the k.
        relation_floor: in how many sets every relation should occur, those of earlier runs included; 0: no such wish.
        exhausted: bool[R], relations whose triplets were found to form no more different sets.
        excluded_relations, excluded_nodes: bool[R], bool[n], what may not be drawn.
        earlier: counts of the runs that these sets continue.
    """

    offsets: NDArray[np.int64]
    edges: NDArray[np.int64]
    splits: NDArray[np.int64] | None = None
    asked_sizes: NDArray[np.int64] | None = None
    negatives: int = 0
    relation_floor: int = 0
    exhausted: Flags | None = None
    excluded_relations: Flags | None = None
    excluded_nodes: Flags | None = None
    earlier: EarlierCounts | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


def coverage_report(graph: GraphColumns, sets: SampledSets) -> dict[str, Any]:
    """The figures of ``sets`` as JSON-ready data.

    Reachable is what may be drawn: triplets without an excluded relation or node, and the nodes and
    relations that have such a triplet. Only reachable ones count as covered, so that shares reach 1.

    Returns:
        ``sets``, ``negatives``, ``duplicates`` (sets with the same triplets as an earlier one). ``coverage``: of
        entities, literals, relations and triplets, ``covered``, of these ``reachable`` (``share``), of ``total`` in
        the graph. ``sets_per_relation``, ``sets_per_entity``: quartiles and evenness over the reachable ones.
        ``bound``, ``bound_without_repeats``: the same for the most even sets per relation that are possible
        (`kg.sampling.bounds.most_even_sets`), ``distance``: our max/median divided by theirs.
        ``triplets_per_relation_in_graph``. ``floor``: relations below the wished number of sets, and why; None
        without a wish. ``set_size``: triplets per set, reached and asked. ``shapes``: shares of the sets by
        `kg.sampling.shapes.shapes`. ``overlap``: triplets in several sets. ``splits``: figures of each split that
        has sets; ``leakage``: what the others share with train. ``curve``: distinct entities, relations and
        triplets after the first sets. ``relations``: a row for each, most sets first. ``cumulative``: sets,
        coverage and sets per relation together with earlier runs; None without.
    """
    reach = _reach(graph, sets)
    tally = _tally(graph, sets, reach)
    even = _most_even(graph, sets, reach, tally)
    per_relation = spread(tally.relations[reach.relations], len(sets))
    equal = first_equal_sets(sets.offsets, sets.edges)
    by_split = _relations_by_split(graph, sets)
    return {
        "sets": len(sets),
        "negatives": sets.negatives,
        "duplicates": _count(equal != np.arange(len(sets))),
        "coverage": _coverage(graph, reach, tally.nodes > 0, tally.relations > 0, tally.edges > 0),
        "sets_per_relation": per_relation,
        **_bounds(graph, reach, even, per_relation, len(sets)),
        "sets_per_entity": spread(tally.nodes[reach.nodes & graph.is_entity], len(sets)),
        "triplets_per_relation_in_graph": spread(reach.triplets[reach.relations], int(reach.triplets.sum())),
        "floor": _floor(graph, sets, reach, tally) if sets.relation_floor else None,
        "set_size": _sizes(sets),
        "shapes": _shapes(graph, sets),
        "overlap": _overlap(tally.edges),
        **_splits(graph, sets, by_split, equal),
        "curve": _curve(sets, tally.curve),
        "relations": _relation_table(graph, sets, reach, tally, by_split, even),
        "cumulative": _cumulative(graph, sets, reach, tally),
    }


# --- what may be drawn, and what was --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reach:
    """What may be drawn."""

    edges: Flags  # [m]
    nodes: Flags  # [n]
    relations: Flags  # [R]
    in_graph: Counts  # [R], triplets of each relation
    triplets: Counts  # [R], those that may be drawn
    own_entities: Counts  # [R], entities all of whose triplets have the relation


@dataclass(frozen=True)
class _Tally:
    """In how many sets each occurs, and what is reached by how many sets."""

    nodes: Counts  # [n]
    relations: Counts  # [R]
    edges: Counts  # [m]
    curve: dict[str, Counts]  # entities, relations, triplets -> [k + 1], distinct reachable ones after so many sets


def _reach(graph: GraphColumns, sets: SampledSets) -> _Reach:
    n_relations = len(graph.relation_ids)
    edges = np.ones(len(graph.subjects), np.bool_)
    if sets.excluded_relations is not None:
        edges &= ~sets.excluded_relations[graph.relations]
    if sets.excluded_nodes is not None:
        edges &= ~sets.excluded_nodes[graph.subjects]
        edges &= ~sets.excluded_nodes[graph.objects]
    triplets = np.bincount(graph.relations[edges], minlength=n_relations)
    sole = sole_relations(graph.subjects, graph.relations, graph.objects, edges, len(graph.is_entity))
    return _Reach(
        edges=edges,
        nodes=sole != NO_RELATION,
        relations=triplets > 0,
        in_graph=np.bincount(graph.relations, minlength=n_relations),
        triplets=triplets,
        own_entities=np.bincount(sole[(sole >= 0) & graph.is_entity], minlength=n_relations),
    )


def _tally(graph: GraphColumns, sets: SampledSets, reach: _Reach) -> _Tally:
    earlier = sets.earlier
    before = (None,) * 3 if earlier is None else (earlier.node_counts, earlier.relation_counts, earlier.edge_counts)
    ends = np.stack([graph.subjects[sets.edges], graph.objects[sets.edges]], axis=1).ravel()
    nodes, entity_curve = _counts_and_curve(2 * sets.offsets, ends, reach.nodes & graph.is_entity, before[0])
    relations, relation_curve = _counts_and_curve(sets.offsets, graph.relations[sets.edges], reach.relations, before[1])
    edges, triplet_curve = _counts_and_curve(sets.offsets, sets.edges.astype(np.int32), reach.edges, before[2])
    curve = {"entities": entity_curve, "relations": relation_curve, "triplets": triplet_curve}
    return _Tally(nodes, relations, edges, curve)


def _counts_and_curve(
    offsets: NDArray[np.int64], items: NDArray[np.int32], reachable: Flags, earlier: NDArray[np.int64] | None
) -> tuple[Counts, Counts]:
    unseen = reachable if earlier is None else reachable & (earlier == 0)
    counts, new = count_sets(offsets, items, unseen)
    before = _count(reachable) - _count(unseen)
    return counts, before + np.append(0, np.cumsum(new))


def _coverage(graph: GraphColumns, reach: _Reach, nodes: Flags, relations: Flags, edges: Flags) -> dict[str, Any]:
    """What of nodes (bool[n]), relations and edges in sets is reachable, of all that are, of all in the graph."""
    literals = ~graph.is_entity
    return {
        "entities": _covered(nodes & graph.is_entity, reach.nodes & graph.is_entity, _count(graph.is_entity)),
        "literals": _covered(nodes & literals, reach.nodes & literals, _count(literals)),
        "relations": _covered(relations, reach.relations, len(relations)),
        "triplets": _covered(edges, reach.edges, len(edges)),
    }


def _covered(drawn: Flags, reachable: Flags, total: int) -> dict[str, float]:
    covered, possible = _count(drawn & reachable), _count(reachable)
    return {"covered": covered, "reachable": possible, "share": _share(covered, possible), "total": total}


def _count(flags: Flags) -> int:
    return int(np.count_nonzero(flags))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _cumulative(graph: GraphColumns, sets: SampledSets, reach: _Reach, tally: _Tally) -> dict[str, Any] | None:
    earlier = sets.earlier
    if earlier is None:
        return None
    relations = tally.relations + earlier.relation_counts
    n_sets = earlier.sets + len(sets)
    nodes, edges = (tally.nodes > 0) | (earlier.node_counts > 0), (tally.edges > 0) | (earlier.edge_counts > 0)
    return {
        "sets": n_sets,
        "coverage": _coverage(graph, reach, nodes, relations > 0, edges),
        "sets_per_relation": spread(relations[reach.relations], n_sets),
    }


def _curve(sets: SampledSets, curve: dict[str, Counts]) -> list[dict[str, int]]:
    """Points of the curve, evenly spaced; the first is where the earlier runs ended, if there are any."""
    marks = np.unique(np.linspace(0, len(sets), _CURVE_POINTS).astype(np.int64))
    before = sets.earlier.sets if sets.earlier is not None else 0
    if sets.earlier is None:
        marks = marks[1:]
    return [
        {"sets": before + mark} | {name: int(line[mark]) for name, line in curve.items()} for mark in marks.tolist()
    ]


# --- relations ------------------------------------------------------------------------------------------------------


def _most_even(graph: GraphColumns, sets: SampledSets, reach: _Reach, tally: _Tally) -> MostEven:
    """`most_even_sets` of the reachable relations, scattered to all R; the others have 0."""
    own = reach.relations
    even = most_even_sets(
        counts=tally.relations[own],
        triplets=reach.triplets[own],
        own_entities=reach.own_entities[own],
        uncovered=_count(reach.nodes & graph.is_entity & (tally.nodes == 0)),
        sizes=np.diff(sets.offsets),
    )
    scattered = np.zeros((3, len(own)), np.int64)
    scattered[:, own] = even.forced, even.freely, even.without_repeats
    return MostEven(scattered[0], scattered[1], scattered[2], even.uses)


def _bounds(
    graph: GraphColumns, reach: _Reach, even: MostEven, per_relation: dict[str, Any], n_sets: int
) -> dict[str, Any]:
    most = int(even.forced.argmax()) if even.forced.any() else None
    freely = spread(even.freely[reach.relations], n_sets)
    without_repeats = spread(even.without_repeats[reach.relations], n_sets)
    return {
        "bound": freely
        | {
            "distance": _distance(per_relation, freely),
            "most_forced": None if most is None else _relation(graph, most) | {"sets": int(even.forced[most])},
        },
        "bound_without_repeats": without_repeats
        | {"distance": _distance(per_relation, without_repeats), "uses_of_a_triplet": even.uses},
    }


def _distance(ours: dict[str, Any], bound: dict[str, Any]) -> float | None:
    """How many times the bound our max/median is; None where a median is 0."""
    if not (ours["median"] and bound["median"]):
        return None
    return round(ours["max"] * bound["median"] / (ours["median"] * bound["max"]), 3)


def _relation(graph: GraphColumns, number: int) -> dict[str, Any]:
    return {"id": graph.relation_ids[number], "label": graph.relation_labels[number]}


def _floor(graph: GraphColumns, sets: SampledSets, reach: _Reach, tally: _Tally) -> dict[str, Any]:
    counts = tally.relations if sets.earlier is None else tally.relations + sets.earlier.relation_counts
    below = np.flatnonzero((reach.in_graph > 0) & (counts < sets.relation_floor))
    rows = []
    for number in below[np.argsort(counts[below], kind="stable")].tolist():
        if not reach.relations[number]:
            reason = "excluded"
        elif sets.exhausted is not None and sets.exhausted[number]:
            reason = "its triplets form no more different sets"
        else:
            reason = "too few sets were drawn"
        rows.append(
            _relation(graph, number)
            | {"sets": int(counts[number]), "triplets_in_graph": int(reach.in_graph[number]), "reason": reason}
        )
    n_relations = _count(reach.in_graph > 0)
    return {
        "sets": sets.relation_floor,
        "relations": n_relations,
        "reached": n_relations - len(rows),
        "below": rows,
    }


def _relations_by_split(graph: GraphColumns, sets: SampledSets) -> NDArray[np.int64]:
    """int64[R, splits]: sets of each split that hold the relation."""
    n_splits = len(SPLITS)
    split_of_edge = np.repeat(_split_of_set(sets), np.diff(sets.offsets)).astype(np.int32)
    pairs = graph.relations[sets.edges] * n_splits + split_of_edge
    counts, _ = count_sets(sets.offsets, pairs.astype(np.int32), np.ones(len(graph.relation_ids) * n_splits, np.bool_))
    return counts.reshape(-1, n_splits).astype(np.int64)


def _split_of_set(sets: SampledSets) -> NDArray[np.int64]:
    return np.zeros(len(sets), np.int64) if sets.splits is None else sets.splits


def _relation_table(
    graph: GraphColumns,
    sets: SampledSets,
    reach: _Reach,
    tally: _Tally,
    by_split: NDArray[np.int64],
    even: MostEven,
) -> list[dict[str, Any]]:
    used = _used_splits(sets)
    return [
        _relation(graph, number)
        | {
            "triplets_in_graph": int(reach.in_graph[number]),
            "sets": int(tally.relations[number]),
            "share_of_sets": _share(int(tally.relations[number]), len(sets)),
            "most_even_sets": int(even.freely[number]),
            "most_even_sets_without_repeats": int(even.without_repeats[number]),
            **{SPLITS[split]: int(by_split[number, split]) for split in used},
        }
        for number in np.argsort(-tally.relations.astype(np.int64), kind="stable").tolist()
    ]


def _used_splits(sets: SampledSets) -> list[int]:
    return np.flatnonzero(np.bincount(_split_of_set(sets), minlength=len(SPLITS))).tolist()


# --- sets -----------------------------------------------------------------------------------------------------------


def _sizes(sets: SampledSets) -> dict[str, Any]:
    sizes, asked = np.diff(sets.offsets), sets.asked_sizes
    return {
        **_histogram(sizes),
        "asked": None if asked is None else _histogram(asked),
        "smaller_than_asked": None if asked is None else _share(_count(sizes < asked), len(sets)),
    }


def _histogram(sizes: NDArray[np.int64]) -> dict[str, Any]:
    numbers, counts = np.unique(sizes, return_counts=True)
    return {
        "mean": _mean(sizes),
        "histogram": {str(number): int(count) for number, count in zip(numbers, counts, strict=True)},
    }


def _mean(values: Counts) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0


def _shapes(graph: GraphColumns, sets: SampledSets) -> dict[str, Any]:
    found, subjects = shapes(sets.offsets, graph.subjects[sets.edges], graph.objects[sets.edges])
    counts = np.bincount(found, minlength=len(SHAPES)).tolist()
    return {
        "shares": {name: _share(count, len(sets)) for name, count in zip(SHAPES, counts, strict=True)},
        "subjects_per_set": _mean(subjects),
    }


def _overlap(edge_counts: Counts) -> dict[str, float]:
    counts = edge_counts[edge_counts > 0]
    occurrences = int(counts.sum())
    return {
        "sets_per_drawn_triplet": _mean(counts),
        "triplets_in_one_set": _share(_count(counts == 1), len(counts)),
        "repeated_occurrences": _share(occurrences - len(counts), occurrences),
        "most_sets_of_a_triplet": int(counts.max(initial=0)),
    }


# --- splits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    """The sets of one split, and what they hold."""

    sets: Flags  # [k]
    edges: NDArray[np.int64]  # one set after the other
    distinct_edges: Flags  # [m]
    entities: Flags  # [n]


def _split(graph: GraphColumns, sets: SampledSets, own: Flags) -> _Split:
    edges = sets.edges[np.repeat(own, np.diff(sets.offsets))]
    distinct_edges, nodes = np.zeros(len(graph.subjects), np.bool_), np.zeros(len(graph.is_entity), np.bool_)
    distinct_edges[edges] = True
    nodes[graph.subjects[edges]] = True
    nodes[graph.objects[edges]] = True
    return _Split(own, edges, distinct_edges, nodes & graph.is_entity)


def _splits(
    graph: GraphColumns, sets: SampledSets, by_split: NDArray[np.int64], equal: NDArray[np.int64]
) -> dict[str, Any]:
    """``splits`` and ``leakage``; ``equal`` (int64[k]) is the same for sets with the same triplets."""
    split_of_set = _split_of_set(sets)
    train = _split(graph, sets, split_of_set == 0)
    figures, leakage = {}, {}
    for number in _used_splits(sets):
        split = _split(graph, sets, split_of_set == number) if number else train
        n_sets = _count(split.sets)
        figures[SPLITS[number]] = {
            "sets": n_sets,
            "share": _share(n_sets, len(sets)),
            "triplets": len(split.edges),
            "distinct_triplets": _count(split.distinct_edges),
            "entities": _count(split.entities),
            "relations": _count(by_split[:, number] > 0),
            "triplets_per_set": round(len(split.edges) / n_sets, 4),
        }
        if number:
            leakage[SPLITS[number]] = _leakage(sets, split, train, equal)
    return {"splits": figures, "leakage": leakage}


def _leakage(sets: SampledSets, split: _Split, train: _Split, equal: NDArray[np.int64]) -> dict[str, float]:
    """What ``split`` shares with ``train``."""
    sizes = np.diff(sets.offsets)[split.sets]
    set_of_edge = np.repeat(np.arange(len(sizes)), sizes)
    known = np.bincount(set_of_edge[train.distinct_edges[split.edges]], minlength=len(sizes))
    in_train = np.zeros(len(sets), np.bool_)
    in_train[equal[train.sets]] = True
    return {
        "shared_sets": _count(in_train[equal[split.sets]]),
        "triplets_in_train": _share_of(train.distinct_edges, split.distinct_edges),
        "entities_in_train": _share_of(train.entities, split.entities),
        "sets_of_seen_triplets": _share(_count(known == sizes), len(sizes)),
        "sets_without_seen_triplet": _share(_count(known == 0), len(sizes)),
    }


def _share_of(part: Flags, whole: Flags) -> float:
    return _share(_count(part & whole), _count(whole))
