"""The figures of a coverage report from their definitions: plain loops over sets of triplets, and networkx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from math import log
from typing import Any

import networkx as nx

from kg.sampling.report import GraphColumns, SampledSets
from kg.sampling.splits import SPLITS

Triplet = tuple[int, int, int]


def plain_report(graph: GraphColumns, sets: SampledSets) -> dict[str, Any]:
    return PlainCoverage(graph, sets).report()


class PlainCoverage:
    def __init__(self, graph: GraphColumns, sets: SampledSets) -> None:
        self.given = sets
        self.labels = [
            {"id": identifier, "label": label}
            for identifier, label in zip(graph.relation_ids, graph.relation_labels, strict=True)
        ]
        columns = (graph.subjects, graph.relations, graph.objects)
        self.graph: list[Triplet] = list(zip(*(column.tolist() for column in columns), strict=True))
        self.is_entity = graph.is_entity.tolist()
        edges, offsets = sets.edges.tolist(), sets.offsets.tolist()
        self.sets = [[self.graph[edge] for edge in edges[a:b]] for a, b in pairwise(offsets)]
        self.splits = [0] * len(self.sets) if sets.splits is None else sets.splits.tolist()
        no_relations, no_nodes = [False] * len(self.labels), [False] * len(self.is_entity)
        bad = no_relations if sets.excluded_relations is None else sets.excluded_relations.tolist()
        worse = no_nodes if sets.excluded_nodes is None else sets.excluded_nodes.tolist()
        self.drawable = [t for t in self.graph if not (bad[t[1]] or worse[t[0]] or worse[t[2]])]

    def report(self) -> dict[str, Any]:
        per_relation = [self.holding(self.sets, relation) for relation in self.reachable_relations()]
        entities = sorted(node for node in nodes(self.drawable) if self.is_entity[node])
        contents = Counter(frozenset(drawn) for drawn in self.sets)
        spread = plain_spread(per_relation, len(self.sets))
        return {
            "sets": len(self.sets),
            "negatives": self.given.negatives,
            "duplicates": sum(contents.values()) - len(contents),
            "coverage": self.coverage(self.drawn()),
            "sets_per_relation": spread,
            **self.bounds(per_relation, spread),
            "sets_per_entity": plain_spread(
                [sum(entity in nodes(drawn) for drawn in self.sets) for entity in entities], len(self.sets)
            ),
            "triplets_per_relation_in_graph": plain_spread(
                [of_relation(self.drawable, relation) for relation in self.reachable_relations()], len(self.drawable)
            ),
            "floor": self.floor() if self.given.relation_floor else None,
            "set_size": self.sizes(),
            "shapes": self.shapes(),
            "overlap": self.overlap(),
            "splits": {SPLITS[split]: self.split(split) for split in sorted(set(self.splits))},
            "leakage": {SPLITS[split]: self.leakage(split) for split in sorted(set(self.splits)) if split},
            "relations": self.relations(per_relation),
            "cumulative": None if self.given.earlier is None else self.cumulative(),
        }

    def drawn(self) -> set[Triplet]:
        return {triplet for drawn in self.sets for triplet in drawn}

    def reachable_relations(self) -> list[int]:
        return sorted({relation for _, relation, _ in self.drawable})

    def holding(self, sets: Iterable[Sequence[Triplet]], relation: int) -> int:
        return sum(any(triplet[1] == relation for triplet in drawn) for drawn in sets)

    def coverage(
        self, triplets: set[Triplet], more_nodes: Iterable[int] = (), more_relations: Iterable[int] = ()
    ) -> dict[str, Any]:
        seen = nodes(triplets) | set(more_nodes)
        relations = {relation for _, relation, _ in triplets} | set(more_relations)
        reachable = nodes(self.drawable)
        every = range(len(self.is_entity))
        return {
            "entities": covered(seen, reachable, every, lambda node: self.is_entity[node]),
            "literals": covered(seen, reachable, every, lambda node: not self.is_entity[node]),
            "relations": covered(relations, self.reachable_relations(), range(len(self.labels))),
            "triplets": covered(triplets, self.drawable, self.graph),
        }

    def bounds(self, per_relation: list[int], ours: dict[str, Any]) -> dict[str, Any]:
        self.forced = self.forced_sets(per_relation)
        triplets = [of_relation(self.drawable, relation) for relation in self.reachable_relations()]
        n_sets, total = len(self.sets), sum(per_relation)
        uses = next(u for u in count(1) if sum(min(t * u, n_sets) for t in triplets) >= total)
        self.even = deal_out(self.forced, [n_sets] * len(triplets), total)
        self.even_uses = deal_out(self.forced, [min(t * uses, n_sets) for t in triplets], total)
        bound, bound_uses = plain_spread(self.even, n_sets), plain_spread(self.even_uses, n_sets)
        most = max(range(len(self.forced)), key=lambda place: self.forced[place], default=0)
        return {
            "bound": bound
            | {
                "distance": distance(ours, bound),
                "most_forced": self.labels[self.reachable_relations()[most]] | {"sets": self.forced[most]}
                if any(self.forced)
                else None,
            },
            "bound_without_repeats": bound_uses | {"distance": distance(ours, bound_uses), "uses_of_a_triplet": uses},
        }

    def forced_sets(self, per_relation: list[int]) -> list[int]:
        entities = {node for node in nodes(self.drawable) if self.is_entity[node]}
        left_out = len(entities - nodes(self.drawn()))
        forced = []
        for relation, drawn in zip(self.reachable_relations(), per_relation, strict=True):
            own = [
                entity for entity in entities if {t[1] for t in self.drawable if entity in (t[0], t[2])} == {relation}
            ]
            needed, sets = len(own) - left_out, 0
            for size in sorted(map(len, self.sets), reverse=True):
                if needed > 0:
                    needed, sets = needed - size - 1, sets + 1
            forced.append(min(sets, drawn))
        return forced

    def floor(self) -> dict[str, Any]:
        rows = []
        in_graph = {relation for _, relation, _ in self.graph}
        exhausted = [] if self.given.exhausted is None else self.given.exhausted.nonzero()[0].tolist()
        for relation in sorted(in_graph):
            sets = self.holding(self.sets, relation)
            if self.given.earlier is not None:
                sets += int(self.given.earlier.relation_counts[relation])
            if sets < self.given.relation_floor:
                reason = "too few sets were drawn"
                if relation in exhausted:
                    reason = "its triplets form no more different sets"
                if relation not in self.reachable_relations():
                    reason = "excluded"
                row = {"sets": sets, "triplets_in_graph": of_relation(self.graph, relation), "reason": reason}
                rows.append(self.labels[relation] | row)
        rows.sort(key=lambda row: row["sets"])
        reached = len(in_graph) - len(rows)
        return {"sets": self.given.relation_floor, "relations": len(in_graph), "reached": reached, "below": rows}

    def sizes(self) -> dict[str, Any]:
        sizes = [len(drawn) for drawn in self.sets]
        figures: dict[str, Any] = histogram(sizes) | {"asked": None, "smaller_than_asked": None}
        if self.given.asked_sizes is not None:
            asked = self.given.asked_sizes.tolist()
            figures["asked"] = histogram(asked)
            figures["smaller_than_asked"] = share(sum(a < b for a, b in zip(sizes, asked, strict=True)), len(sizes))
        return figures

    def shapes(self) -> dict[str, Any]:
        found = Counter(plain_shape(drawn) for drawn in self.sets)
        names = ("single", "pair", "star", "chain", "tree", "cycle", "disconnected")
        return {
            "shares": {name: share(found[name], len(self.sets)) for name in names},
            "subjects_per_set": mean([len({t[0] for t in drawn}) for drawn in self.sets]),
        }

    def overlap(self) -> dict[str, Any]:
        sets_of = Counter(triplet for drawn in self.sets for triplet in drawn)
        occurrences = sum(sets_of.values())
        return {
            "sets_per_drawn_triplet": mean(list(sets_of.values())),
            "triplets_in_one_set": share(sum(sets == 1 for sets in sets_of.values()), len(sets_of)),
            "repeated_occurrences": share(sum(sets - 1 for sets in sets_of.values()), occurrences),
            "most_sets_of_a_triplet": max(sets_of.values(), default=0),
        }

    def of_split(self, wanted: int) -> list[list[Triplet]]:
        return [drawn for drawn, split in zip(self.sets, self.splits, strict=True) if split == wanted]

    def entities(self, sets: Iterable[Sequence[Triplet]]) -> set[int]:
        return {node for drawn in sets for node in nodes(drawn) if self.is_entity[node]}

    def split(self, number: int) -> dict[str, Any]:
        own = self.of_split(number)
        flat = [triplet for drawn in own for triplet in drawn]
        return {
            "sets": len(own),
            "share": share(len(own), len(self.sets)),
            "triplets": len(flat),
            "distinct_triplets": len(set(flat)),
            "entities": len(self.entities(own)),
            "relations": len({relation for _, relation, _ in flat}),
            "triplets_per_set": mean([len(drawn) for drawn in own]),
        }

    def leakage(self, number: int) -> dict[str, Any]:
        own, train = self.of_split(number), self.of_split(0)
        known = {triplet for drawn in train for triplet in drawn}
        triplets = {triplet for drawn in own for triplet in drawn}
        entities = self.entities(own)
        return {
            "shared_sets": sum(any(set(drawn) == set(other) for other in train) for drawn in own),
            "triplets_in_train": share(len(triplets & known), len(triplets)),
            "entities_in_train": share(len(entities & self.entities(train)), len(entities)),
            "sets_of_seen_triplets": share(sum(set(drawn) <= known for drawn in own), len(own)),
            "sets_without_seen_triplet": share(sum(not set(drawn) & known for drawn in own), len(own)),
        }

    def relations(self, per_relation: list[int]) -> list[dict[str, Any]]:
        even, even_uses = (
            dict(zip(self.reachable_relations(), values, strict=True)) for values in (self.even, self.even_uses)
        )
        rows = []
        for relation, label in enumerate(self.labels):
            sets = self.holding(self.sets, relation)
            row = label | {
                "triplets_in_graph": of_relation(self.graph, relation),
                "sets": sets,
                "share_of_sets": share(sets, len(self.sets)),
                "most_even_sets": even.get(relation, 0),
                "most_even_sets_without_repeats": even_uses.get(relation, 0),
            }
            for split in sorted(set(self.splits)):
                row[SPLITS[split]] = self.holding(self.of_split(split), relation)
            rows.append(row)
        return sorted(rows, key=lambda row: -row["sets"])

    def cumulative(self) -> dict[str, Any]:
        earlier = self.given.earlier
        assert earlier is not None
        triplets = self.drawn() | {self.graph[edge] for edge in earlier.edge_counts.nonzero()[0].tolist()}
        more_nodes, more_relations = (
            counts.nonzero()[0].tolist() for counts in (earlier.node_counts, earlier.relation_counts)
        )
        sets = earlier.sets + len(self.sets)
        counts = [
            self.holding(self.sets, relation) + int(earlier.relation_counts[relation])
            for relation in self.reachable_relations()
        ]
        return {
            "sets": sets,
            "coverage": self.coverage(triplets, more_nodes, more_relations),
            "sets_per_relation": plain_spread(counts, sets),
        }

    def curve_point(self, sets: int) -> dict[str, int]:
        """What the first ``sets`` sets cover, together with the earlier runs."""
        triplets = {triplet for drawn in self.sets[:sets] for triplet in drawn}
        earlier = self.given.earlier
        more_nodes: list[int] = []
        more_relations: list[int] = []
        if earlier is not None:
            triplets |= {self.graph[edge] for edge in earlier.edge_counts.nonzero()[0].tolist()}
            more_nodes, more_relations = (
                counts.nonzero()[0].tolist() for counts in (earlier.node_counts, earlier.relation_counts)
            )
        found = self.coverage(triplets, more_nodes, more_relations)
        before = 0 if earlier is None else earlier.sets
        return {"sets": before + sets} | {
            what: found[what]["covered"] for what in ("entities", "relations", "triplets")
        }


def plain_shape(triplets: Sequence[Triplet]) -> str:
    graph = nx.MultiGraph()
    graph.add_edges_from((subject, target) for subject, _, target in triplets)
    size = len(triplets)
    if not nx.is_connected(graph):
        return "disconnected"
    if size == 1:
        return "single"
    if not nx.is_tree(graph):
        return "cycle"
    if size == 2:
        return "pair"
    simple = nx.Graph(graph)
    if nx.is_isomorphic(simple, nx.star_graph(size)):
        return "star"
    return "chain" if nx.is_isomorphic(simple, nx.path_graph(size + 1)) else "tree"


def plain_spread(counts: list[int], n_sets: int) -> dict[str, Any]:
    quartiles = [quantile(counts, place) for place in (0, 0.25, 0.5, 0.75, 1)]
    _, _, median, _, most = quartiles
    return dict(zip(("min", "q1", "median", "q3", "max"), quartiles, strict=True)) | {
        "max_over_median": most / median if median else None,
        "max_share": share(most, n_sets),
        "normalised_entropy": plain_entropy(counts),
        "gini": plain_gini(counts),
    }


def plain_gini(counts: list[int]) -> float:
    """Half the relative mean difference."""
    differences = sum(abs(a - b) for a in counts for b in counts)
    return share(differences, 2 * len(counts) * sum(counts))


def plain_entropy(counts: list[int]) -> float:
    if len(counts) < 2 or not any(counts):
        return 0.0
    shares = [count / sum(counts) for count in counts if count]
    return -sum(share * log(share) for share in shares) / log(len(counts))


def quantile(values: list[int], place: float) -> float:
    if not values:
        return 0.0
    low, rest = divmod(place * (len(values) - 1), 1)
    ordered = [*sorted(values), 0]
    return ordered[int(low)] + rest * (ordered[int(low) + 1] - ordered[int(low)])


def deal_out(least: list[int], most: list[int], total: int) -> list[int]:
    """One by one to whoever has the fewest and has room."""
    dealt = list(least)
    for _ in range(total - sum(least)):
        dealt[min((n, place) for place, n in enumerate(dealt) if n < most[place])[1]] += 1
    return dealt


def distance(ours: dict[str, Any], bound: dict[str, Any]) -> float | None:
    if not ours["max_over_median"] or not bound["max_over_median"]:
        return None
    return ours["max_over_median"] / bound["max_over_median"]


def covered(drawn: Iterable[Any], reachable: Iterable[Any], every: Iterable[Any], wanted: Any = None) -> dict[str, Any]:
    drawn, reachable, every = (set(filter(wanted or (lambda _: True), what)) for what in (drawn, reachable, every))
    part = len(drawn & reachable)
    return {"covered": part, "reachable": len(reachable), "share": share(part, len(reachable)), "total": len(every)}


def nodes(triplets: Iterable[Triplet]) -> set[int]:
    return {end for subject, _, target in triplets for end in (subject, target)}


def of_relation(triplets: Iterable[Triplet], relation: int) -> int:
    return sum(triplet[1] == relation for triplet in triplets)


def histogram(sizes: list[int]) -> dict[str, Any]:
    return {"mean": mean(sizes), "histogram": {str(size): n for size, n in sorted(Counter(sizes).items())}}


def mean(values: list[int]) -> float:
    return share(sum(values), len(values))


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
