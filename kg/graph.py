"""A knowledge graph on disk that is a read-only `networkx.MultiDiGraph`.

`KnowledgeGraph.open` maps the arrays of a graph's folder (`kg.tables` describes
them) into memory and reads nothing else, so opening costs the same for a
hundred nodes and for millions. Nodes are ids ("Q64"), the key of an edge is its
relation's id ("P36"), attributes are looked up when asked for. What networkx
takes for dictionaries of dictionaries are views of the arrays: every networkx
algorithm that does not write runs on them. Code that wants speed uses the
arrays themselves, by node number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import networkx as nx
import numpy as np
import pyarrow as pa

from kg.errors import InputError
from kg.stage import read_manifest
from kg.tables import NODE_SCHEMA, RELATION_SCHEMA
from kg.views import Adjacency, DegreeView, InDegreeView, Nodes, OutDegreeView

__all__ = ["KnowledgeGraph", "Node", "Relation", "UnknownIdError", "graph_summary"]

_ID_BLOCK = 1 << 16
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


class UnknownIdError(InputError, KeyError):
    """No node or relation of the graph has the id; a `KeyError`, as networkx expects of its mappings."""

    __str__ = Exception.__str__  # KeyError's would quote the message


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph; ``value`` is a literal's value as compact JSON, None for an entity."""

    id: str
    name: str
    label: str
    description: str
    aliases: tuple[str, ...]
    types: tuple[str, ...]
    kind: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation of the graph; ``count`` is the number of its triples."""

    id: str
    label: str
    description: str
    aliases: tuple[str, ...]
    datatype: str
    count: int


class KnowledgeGraph(nx.MultiDiGraph):
    """The graph of a finished ``kg`` stage; open it with `KnowledgeGraph.open`.

    Node number i is row i of ``node_table``, relation number r is row r of
    ``relation_table``, edge number e is row e of ``triples.parquet``; the edges of
    node i are ``out_offsets[i]:out_offsets[i + 1]``, and ``in_offsets`` likewise.

    Attributes:
        folder: where the graph lies.
        node_table, relation_table: pyarrow tables, memory-mapped.
        out_offsets, in_offsets: int64[nodes + 1].
        out_relations, out_objects, in_relations, in_subjects: int32[triples].
        in_edge_numbers: int64[triples].
        out_preferred: bool[triples], rank of the statement.
        item_numbers: int32[items], numbers of the Q ids; items come first among the nodes.

    Calling the class gives an ordinary empty `networkx.MultiDiGraph`: that is how
    networkx makes copies, reversals and subgraphs, and those can be written.
    """

    folder: Path
    node_table: pa.Table
    relation_table: pa.Table
    out_offsets: np.ndarray
    out_relations: np.ndarray
    out_objects: np.ndarray
    out_preferred: np.ndarray
    in_offsets: np.ndarray
    in_relations: np.ndarray
    in_subjects: np.ndarray
    in_edge_numbers: np.ndarray
    item_numbers: np.ndarray
    frozen = True  # as networkx marks graphs that cannot be written

    def __new__(cls, *args: Any, **attributes: Any) -> Any:
        return nx.MultiDiGraph(*args, **attributes)

    @classmethod
    def open(cls, folder: Path) -> KnowledgeGraph:
        """Map the graph in ``folder``.

        Raises:
            InputError: the folder is missing, its stage is not finished, or a file is damaged.
        """
        folder = Path(folder)
        read_manifest(folder)
        graph: KnowledgeGraph = object.__new__(cls)
        graph.folder = folder
        graph._map_files(folder / "csr")
        graph.graph = {}
        graph.__networkx_cache__ = {}
        graph._node = Nodes(graph)
        graph._adj = Adjacency(graph, "out")  # networkx keeps _succ the same object
        graph._pred = Adjacency(graph, "in")
        return graph

    def _map_files(self, csr: Path) -> None:
        try:
            for name, dtype in _ARRAYS.items():
                array = np.load(csr / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                if array.dtype != dtype or array.ndim != 1:
                    raise ValueError(f"{name}.npy holds {array.dtype}{list(array.shape)}, expected {dtype}[…]")
                setattr(self, name, np.asarray(array))  # still mapped, without memmap's slow indexing
            self.node_table = pa.ipc.open_file(pa.memory_map(str(csr / "nodes.arrow"))).read_all()
            self.relation_table = pa.ipc.open_file(pa.memory_map(str(csr / "relations.arrow"))).read_all()
            self._check_shapes()
        except (OSError, ValueError, EOFError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise InputError(
                f"The graph in {csr.parent} is damaged: {' '.join(str(error).split())}. "
                f"Delete {csr.parent} and build the graph again."
            ) from error

    def _check_shapes(self) -> None:
        if not (self.node_table.schema.equals(NODE_SCHEMA) and self.relation_table.schema.equals(RELATION_SCHEMA)):
            raise ValueError("nodes.arrow or relations.arrow has other columns than expected")
        edges = len(self.out_objects)
        lengths = {name: len(getattr(self, name)) for name in _ARRAYS if not name.endswith("offsets")}
        del lengths["item_numbers"]
        offsets = [self.out_offsets, self.in_offsets]
        if set(lengths.values()) != {edges} or any(
            len(array) != self.node_count + 1 or array[-1] != edges for array in offsets
        ):
            raise ValueError("the arrays under csr/ do not fit together")
        if len(self.item_numbers) > self.node_count:
            raise ValueError("item_numbers.npy is longer than nodes.arrow")

    @property
    def node_count(self) -> int:
        """Number of nodes."""
        return len(self.node_table)

    @property
    def relation_count(self) -> int:
        """Number of relations."""
        return len(self.relation_table)

    @property
    def triple_count(self) -> int:
        """Number of triples, that is of edges."""
        return len(self.out_objects)

    def node_number(self, identifier: str) -> int:
        """The number of the node with this id.

        Raises:
            UnknownIdError: no node has it.
        """
        number = self.find_number(identifier)
        if number < 0:
            raise UnknownIdError(
                f"{identifier!r} is no node of the graph in {self.folder}. Ids look like Q64 or date:14 March 1879; "
                "nodes.parquet lists them all."
            )
        return number

    def find_number(self, identifier: object) -> int:
        """The number of the node with this id, or -1: a binary search, by number among items, by id among literals."""
        if not isinstance(identifier, str):
            hash(identifier)  # networkx expects TypeError for what cannot be a node
            return -1
        items = len(self.item_numbers)
        digits = identifier[1:]
        if identifier[:1] == "Q" and digits.isascii() and digits.isdigit() and len(digits) < 10 and digits[0] != "0":
            wanted = np.int32(digits)
            place = int(np.searchsorted(self.item_numbers, wanted))
            return place if place < items and self.item_numbers[place] == wanted else -1
        ids = self._ids
        place = bisect_left(range(items, self.node_count), identifier, key=lambda number: ids[number].as_py()) + items
        return place if place < self.node_count and ids[place].as_py() == identifier else -1

    def node_id(self, number: int) -> str:
        """The id of the node with this number; `IndexError` if there is no such number."""
        if 0 <= number < len(self.item_numbers):
            return f"Q{self.item_numbers[number]}"
        if number < 0:
            raise IndexError(f"{number} is no node number")
        return self._ids[number].as_py()

    def node_ids(self) -> Iterator[str]:
        """The ids of all nodes by number."""
        for start in range(0, self.node_count, _ID_BLOCK):
            yield from self._ids.slice(start, _ID_BLOCK).to_pylist()

    def node_row(self, number: int) -> dict[str, Any]:
        """The row of the node table with this number."""
        return self.node_table.slice(number, 1).to_pylist()[0]

    def node(self, identifier: str) -> Node:
        """Everything known of a node; `UnknownIdError` if no node has the id."""
        row = self.node_row(self.node_number(identifier))
        return Node(**row | {"aliases": tuple(row["aliases"]), "types": tuple(row["types"])})

    def relation_number(self, identifier: str) -> int:
        """The number of the relation with this id.

        Raises:
            UnknownIdError: no relation of the graph has it.
        """
        try:
            return self._relation_numbers[identifier]
        except KeyError:
            raise UnknownIdError(
                f"{identifier!r} is no relation of the graph in {self.folder}. Ids look like P36; relations.parquet "
                "lists them all."
            ) from None

    def relation(self, identifier: str) -> Relation:
        """Everything known of a relation; `UnknownIdError` if the graph has none with the id."""
        row = self.relation_table.slice(self.relation_number(identifier), 1).to_pylist()[0]
        return Relation(**row | {"aliases": tuple(row["aliases"])})

    @cached_property
    def relation_ids(self) -> list[str]:
        """The ids of the relations by number."""
        return self.relation_table["id"].to_pylist()

    @cached_property
    def relation_labels(self) -> list[str]:
        """The labels of the relations by number."""
        return self.relation_table["label"].to_pylist()

    def to_networkx(self) -> nx.MultiDiGraph:
        """An ordinary graph in memory with all nodes, edges and attributes; it can be written."""
        return self.copy()

    # What networkx computes from the dictionaries, taken from the arrays.

    def number_of_nodes(self) -> int:
        return self.node_count

    def order(self) -> int:
        return self.node_count

    def __len__(self) -> int:
        return self.node_count

    def size(self, weight: str | None = None) -> Any:
        return self.triple_count if weight is None else super().size(weight)

    @cached_property
    def degree(self) -> Any:
        return DegreeView(self)

    @cached_property
    def in_degree(self) -> Any:
        return InDegreeView(self)

    @cached_property
    def out_degree(self) -> Any:
        return OutDegreeView(self)

    def to_directed_class(self) -> type[nx.MultiDiGraph]:
        return nx.MultiDiGraph

    def to_undirected_class(self) -> type[nx.MultiGraph]:
        return nx.MultiGraph

    def __reduce__(self) -> tuple[Any, ...]:
        return KnowledgeGraph.open, (self.folder,)

    def __deepcopy__(self, memo: dict[int, Any]) -> nx.MultiDiGraph:
        return self.to_networkx()

    def _refuse(self, *arguments: Any, **attributes: Any) -> NoReturn:
        raise nx.NetworkXError(
            f"The graph in {self.folder} is read-only. Take an ordinary graph to change: graph.to_networkx(), "
            "or graph.subgraph(nodes).copy() for a part of it."
        )

    add_node = add_nodes_from = remove_node = remove_nodes_from = _refuse
    add_edge = add_edges_from = add_weighted_edges_from = remove_edge = remove_edges_from = _refuse
    clear = clear_edges = update = _refuse

    @cached_property
    def _ids(self) -> pa.ChunkedArray:
        return self.node_table["id"]

    @cached_property
    def _relation_numbers(self) -> dict[str, int]:
        return {identifier: number for number, identifier in enumerate(self.relation_ids)}


_ARRAYS = {
    "out_offsets": np.dtype(np.int64),
    "out_relations": np.dtype(np.int32),
    "out_objects": np.dtype(np.int32),
    "out_preferred": np.dtype(np.bool_),
    "in_offsets": np.dtype(np.int64),
    "in_relations": np.dtype(np.int32),
    "in_subjects": np.dtype(np.int32),
    "in_edge_numbers": np.dtype(np.int64),
    "item_numbers": np.dtype(np.int32),
}


def graph_summary(graph: KnowledgeGraph) -> dict[str, Any]:
    """What a person wants to know of a graph at a glance, as JSON-ready data.

    Returns:
        ``nodes``, ``relations``, ``triples``: counts; ``kinds``: nodes by kind; ``degree``,
        ``out_degree``, ``in_degree``: quantiles; ``components``: number of weakly connected
        components, and nodes and share of the largest; ``isolated``: nodes without a triple;
        ``relation_counts``: id, label and triples of each relation, most frequent first.
    """
    out_degree, in_degree = np.diff(graph.out_offsets), np.diff(graph.in_offsets)
    components, largest = _weak_components(graph)
    counted = graph.node_table["kind"].value_counts().to_pylist()
    relations = graph.relation_table.select(["id", "label", "count"]).to_pylist()
    return {
        "nodes": graph.node_count,
        "relations": graph.relation_count,
        "triples": graph.triple_count,
        "kinds": {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda entry: entry["values"])},
        "degree": _quantiles(out_degree + in_degree),
        "out_degree": _quantiles(out_degree),
        "in_degree": _quantiles(in_degree),
        "isolated": int((out_degree + in_degree == 0).sum()),
        "components": {
            "count": components,
            "largest": largest,
            "largest_share": round(largest / max(graph.node_count, 1), 6),
        },
        "relation_counts": sorted(relations, key=lambda row: -row["count"]),
    }


def _weak_components(graph: KnowledgeGraph) -> tuple[int, int]:
    """Number of weakly connected components, and nodes of the largest."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not graph.node_count:
        return 0, 0
    ones = np.ones(graph.triple_count, dtype=np.int8)
    adjacency = csr_array((ones, graph.out_objects, graph.out_offsets), shape=(graph.node_count, graph.node_count))
    count, labels = connected_components(adjacency, directed=True, connection="weak")
    return int(count), int(np.bincount(labels).max())


def _quantiles(degrees: np.ndarray) -> dict[str, float]:
    values = np.quantile(degrees, _QUANTILES) if len(degrees) else np.zeros(len(_QUANTILES))
    named = {f"q{round(100 * share)}": float(value) for share, value in zip(_QUANTILES, values, strict=True)}
    return named | {"mean": round(float(degrees.mean()), 3) if len(degrees) else 0.0}
