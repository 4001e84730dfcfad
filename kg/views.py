"""The mappings that let networkx take the arrays of a graph for dictionaries.

networkx stores a multigraph as node → neighbour → key → attributes, and every
algorithm reads that. Each level is here a small object over the arrays of a
`kg.graph.KnowledgeGraph`, made when it is asked for: a node's neighbours are a
slice of them, and only what an algorithm touches becomes Python objects.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import networkx as nx
import numpy as np
from networkx.classes import reportviews

if TYPE_CHECKING:
    from kg.graph import KnowledgeGraph

__all__ = [
    "Adjacency",
    "Attributes",
    "DiMultiDegreeView",
    "EdgeAttributes",
    "InMultiDegreeView",
    "Nodes",
    "OutMultiDegreeView",
]

_ROW_BLOCK = 1 << 10  # rows turned into dictionaries at a time


def _refuse(self: Any, *arguments: Any, **attributes: Any) -> NoReturn:
    raise nx.NetworkXError("The graph is read-only, and so are its attributes. Change a copy: graph.to_networkx().")


def _detached(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in attributes.items()}


class Attributes(dict[str, Any]):
    """The attributes of a node: made when asked for, so writing to them would be lost and is refused.

    Copies, deep copies and pickles are ordinary dictionaries.
    """

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return _detached(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _View(Mapping[str, Any]):
    """A read-only mapping that shows itself as the dictionary it stands for."""

    __slots__ = ()

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))


class Nodes(_View):
    """Node id -> attributes."""

    __slots__ = ("graph",)

    def __init__(self, graph: KnowledgeGraph) -> None:
        self.graph = graph

    def __len__(self) -> int:
        return self.graph.node_count

    def __iter__(self) -> Iterator[str]:
        return self.graph.node_ids()

    def __contains__(self, identifier: object) -> bool:
        return self.graph.find_number(identifier) >= 0

    def __getitem__(self, identifier: str) -> Attributes:
        return Attributes(self.graph.node_attributes(self.graph.node_number(identifier)))

    def items(self) -> ItemsView[str, Any]:
        return _NodeItems(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Nodes, (self.graph,)


class _NodeItems(ItemsView[str, Any]):
    """All nodes with attributes, converted many rows at a time."""

    _mapping: Nodes

    def __iter__(self) -> Iterator[tuple[str, Attributes]]:
        for batch in self._mapping.graph.node_table.to_batches(max_chunksize=_ROW_BLOCK):
            for row in batch.to_pylist():
                yield row.pop("id"), Attributes(row)


class Adjacency(_View):
    """Node id -> neighbours, in one direction ("out" or "in")."""

    __slots__ = ("direction", "edges", "graph", "neighbours", "offsets", "relations")

    def __init__(self, graph: KnowledgeGraph, direction: str) -> None:
        self.graph = graph
        self.direction = direction
        out = direction == "out"
        self.offsets = graph.out_offsets if out else graph.in_offsets
        self.relations = graph.out_relations if out else graph.in_relations
        self.neighbours = graph.out_objects if out else graph.in_subjects
        self.edges = None if out else graph.in_edge_numbers  # None: positions are edge numbers

    def __len__(self) -> int:
        return self.graph.node_count

    def __iter__(self) -> Iterator[str]:
        return self.graph.node_ids()

    def __contains__(self, identifier: object) -> bool:
        return self.graph.find_number(identifier) >= 0

    def __getitem__(self, identifier: str) -> _Neighbours:
        return self.at(self.graph.node_number(identifier))

    def items(self) -> ItemsView[str, Any]:
        return _AdjacencyItems(self)

    def at(self, number: int) -> _Neighbours:
        """The neighbours of the node with this number."""
        return _Neighbours(self, int(self.offsets[number]), int(self.offsets[number + 1]))

    def attributes(self, position: int) -> Mapping[str, Any]:
        """The attributes of the edge at this position."""
        return EdgeAttributes(self, position)

    def edge_number(self, position: int) -> int:
        """The number of the edge at this position."""
        return position if self.edges is None else int(self.edges[position])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.graph, self.direction)


class _AdjacencyItems(ItemsView[str, Any]):
    """All nodes with their neighbours, without looking up each id."""

    _mapping: Adjacency

    def __iter__(self) -> Iterator[tuple[str, _Neighbours]]:
        for number, identifier in enumerate(self._mapping):
            yield identifier, self._mapping.at(number)


class _Neighbours(_View):
    """Neighbour's id -> edges; the edges of one node at the positions start … end - 1 of a direction's arrays."""

    __slots__ = ("_adjacency", "_end", "_groups", "_start")

    def __init__(self, adjacency: Adjacency, start: int, end: int) -> None:
        self._adjacency = adjacency
        self._start = start
        self._end = end
        self._groups: dict[int, list[int]] | None = None

    def __len__(self) -> int:
        return len(self._grouped())

    def __iter__(self) -> Iterator[str]:
        return map(self._adjacency.graph.node_id, self._grouped())

    def __contains__(self, identifier: object) -> bool:
        return bool(self._positions(identifier))

    def __getitem__(self, identifier: str) -> _Edges:
        positions = self._positions(identifier)
        if not positions:
            raise KeyError(identifier)
        return _Edges(self._adjacency, positions)

    def items(self) -> ItemsView[str, Any]:
        return _NeighbourItems(self)

    def grouped(self) -> Iterator[tuple[str, _Edges]]:
        """Each neighbour with its edges."""
        for number, positions in self._grouped().items():
            yield self._adjacency.graph.node_id(number), _Edges(self._adjacency, positions)

    def _positions(self, identifier: object) -> list[int]:
        number = self._adjacency.graph.find_number(identifier)
        if number < 0:
            return []
        if self._groups is not None:
            return self._groups.get(number, [])
        found = np.flatnonzero(self._adjacency.neighbours[self._start : self._end] == number)
        return (found + self._start).tolist()

    def _grouped(self) -> dict[int, list[int]]:
        if self._groups is None:
            self._groups = {}
            neighbours = self._adjacency.neighbours[self._start : self._end].tolist()
            for position, number in enumerate(neighbours, self._start):
                self._groups.setdefault(number, []).append(position)
        return self._groups


class _NeighbourItems(ItemsView[str, Any]):
    """All neighbours with their edges, without looking up each id."""

    _mapping: _Neighbours

    def __iter__(self) -> Iterator[tuple[str, _Edges]]:
        return self._mapping.grouped()


class _Edges(_View):
    """Relation id -> attributes, of the edges between two nodes."""

    __slots__ = ("_adjacency", "_positions")

    def __init__(self, adjacency: Adjacency, positions: list[int]) -> None:
        self._adjacency = adjacency
        relations, names = adjacency.relations, adjacency.graph.relation_ids
        self._positions = {names[relations[position]]: position for position in positions}

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __contains__(self, relation: object) -> bool:
        return relation in self._positions

    def __getitem__(self, relation: str) -> Mapping[str, Any]:
        return self._adjacency.attributes(self._positions[relation])


class EdgeAttributes(_View):
    """The attributes of the edge at a position of one direction's arrays, each looked up when asked for.

    Writes are refused; copies, deep copies and pickles are ordinary dictionaries.
    """

    __slots__ = ("_adjacency", "_position")
    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __init__(self, adjacency: Adjacency, position: int) -> None:
        self._adjacency = adjacency
        self._position = position

    def __len__(self) -> int:
        return len(self._adjacency.graph.edge_attribute_names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._adjacency.graph.edge_attribute_names)

    def __contains__(self, name: object) -> bool:
        return name in self._adjacency.graph.edge_attribute_names

    def __getitem__(self, name: str) -> Any:
        adjacency = self._adjacency
        if name == "label":  # known without the number of the edge, which is far away in memory
            return adjacency.graph.relation_labels[adjacency.relations[self._position]]
        return adjacency.graph.edge_attribute(adjacency.edge_number(self._position), name)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return _detached(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _ArrayDegrees(reportviews.DiDegreeView):
    """Put before networkx's degree views: degrees without weights come from the offsets of these directions."""

    _directions: tuple[str, ...]
    _graph: KnowledgeGraph
    _nodes: Any
    _weight: str | None

    def __getitem__(self, identifier: str) -> Any:
        if self._weight is not None:
            return super().__getitem__(identifier)
        number = self._graph.node_number(identifier)
        return int(sum(offsets[number + 1] - offsets[number] for offsets in self._offsets()))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        if self._weight is not None:
            return super().__iter__()
        if isinstance(self._nodes, list):
            return ((identifier, self[identifier]) for identifier in self._nodes)
        degrees = np.sum([np.diff(offsets) for offsets in self._offsets()], axis=0)
        return zip(self._nodes, degrees.tolist(), strict=True)

    def _offsets(self) -> list[np.ndarray]:
        return [getattr(self._graph, f"{direction}_offsets") for direction in self._directions]


# The names are networkx's, because the views show them.


class DiMultiDegreeView(_ArrayDegrees, reportviews.DiMultiDegreeView):
    _directions = ("out", "in")


class OutMultiDegreeView(_ArrayDegrees, reportviews.OutMultiDegreeView):
    _directions = ("out",)


class InMultiDegreeView(_ArrayDegrees, reportviews.InMultiDegreeView):
    _directions = ("in",)
