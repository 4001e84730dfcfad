"""Which part of a graph to export: some relations, the surroundings of a node, entities only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from kg.graph import KnowledgeGraph
from kg.query.ranges import expand, runs

__all__ = ["Part"]


class Part:
    """A part of a graph: triples of some relations between some nodes.

    Args:
        relations: numbers of the relations to keep; None: all.
        around: number of a node; only nodes at most ``hops`` of these triples away, in whatever direction, are kept.
        entities_only: leave literals out.

    Without ``around``, a choice of relations leaves out the nodes that no triple of them has.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        relations: Sequence[int] | None = None,
        around: int | None = None,
        hops: int = 1,
        entities_only: bool = False,
    ) -> None:
        self.graph = graph
        self._relations: np.ndarray | None = None  # bool[relations]
        self._nodes: np.ndarray | None = None  # bool[nodes]
        if relations is not None:
            self._relations = np.zeros(graph.relation_count, dtype=bool)
            self._relations[list(relations)] = True
        if entities_only:
            self._nodes = pc.equal(graph.node_table["kind"], "entity").to_numpy()
        if around is not None:
            self._nodes = self._ball(around, hops)
        elif relations is not None:
            self._nodes = self._touched()

    def relation_numbers(self) -> np.ndarray:
        """int64: the relations that are kept."""
        if self._relations is None:
            return np.arange(self.graph.relation_count)
        return np.flatnonzero(self._relations)

    def node_chunks(self, size: int) -> Iterator[np.ndarray]:
        """The numbers of the nodes, int64[≤ size] at a time, ascending."""
        for start in range(0, self.graph.node_count, size):
            numbers = np.arange(start, min(start + size, self.graph.node_count))
            if self._nodes is not None:
                numbers = numbers[self._nodes[numbers]]
            if len(numbers):
                yield numbers

    def edge_chunks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(edges looked at so far, int64[≤ size] the edges of the part among the last of them), ascending."""
        for start in range(0, self.graph.triple_count, size):
            end = min(start + size, self.graph.triple_count)
            edges = self._kept(np.arange(start, end))
            if len(edges):
                yield end, edges

    def subjects(self, edges: np.ndarray) -> np.ndarray:
        """int64[edges]: the subjects' numbers."""
        return np.searchsorted(self.graph.out_offsets, edges, side="right") - 1

    def _kept(self, edges: np.ndarray) -> np.ndarray:
        if self._relations is not None:
            edges = edges[self._relations[self.graph.out_relations[edges]]]
        if self._nodes is not None:
            edges = edges[self._nodes[self.graph.out_objects[edges]]]
            edges = edges[self._nodes[self.subjects(edges)]]
        return edges

    def _touched(self) -> np.ndarray:
        touched = np.zeros(self.graph.node_count, dtype=bool)
        for _, edges in self.edge_chunks(1 << 20):
            touched[self.graph.out_objects[edges]] = True
            touched[self.subjects(edges)] = True
        return touched

    def _ball(self, centre: int, hops: int) -> np.ndarray:
        """bool[nodes]: those at most ``hops`` triples of the part from the centre."""
        graph, allowed = self.graph, self._nodes
        inside = np.zeros(graph.node_count, dtype=bool)
        inside[centre] = True
        frontier = np.array([centre])
        directions = (
            (graph.out_offsets, graph.out_relations, graph.out_objects),
            (graph.in_offsets, graph.in_relations, graph.in_subjects),
        )
        for _ in range(hops):
            before = inside.copy()
            for offsets, relations, ends in directions:
                for _, places in expand(*runs(offsets, frontier)):
                    if self._relations is not None:
                        places = places[self._relations[relations[places]]]
                    inside[ends[places]] = True
            if allowed is not None:
                inside &= allowed
                inside[centre] = True
            frontier = np.flatnonzero(inside & ~before)
        return inside
