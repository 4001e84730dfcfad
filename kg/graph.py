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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import networkx as nx
import numpy as np
import pyarrow as pa

from kg import backend
from kg.columns import Qualifiers, SortedIds
from kg.errors import InputError
from kg.stage import read_manifest
from kg.tables import NODE_SCHEMA, QUALIFIERS, RELATION_SCHEMA
from kg.views import Adjacency, DiMultiDegreeView, InMultiDegreeView, Nodes, OutMultiDegreeView

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KnowledgeGraph", "Node", "Relation", "UnknownIdError"]

_ID_BLOCK = 1 << 16
_SHOWN = 80  # characters of an id in a message


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
        item_numbers: int32[items], numbers of the Q ids, whose nodes come first; the ids of all others are sorted.

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
        backend.prefer()
        graph: KnowledgeGraph = object.__new__(cls)
        graph.folder = folder
        graph._map_files(folder / "csr")
        graph.graph = {}
        graph.__networkx_cache__ = None  # nothing is ever converted
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
                f"{_shown(identifier)} is no node of the graph in {self.folder}. Its ids look like "
                f"{self._example_ids()}; nodes.parquet lists them all."
            )
        return number

    def find_number(self, identifier: object) -> int:
        """The number of the node with this id, or -1: a binary search, by number among items, by id among the rest."""
        if not isinstance(identifier, str):
            hash(identifier)  # networkx expects TypeError for what cannot be a node
            return -1
        digits = identifier[1:]
        if (
            len(self.item_numbers)
            and identifier[:1] == "Q"
            and digits.isascii()
            and digits.isdigit()
            and len(digits) < 10
            and digits[0] != "0"
        ):
            wanted = np.int32(digits)
            place = int(self.item_numbers.searchsorted(wanted))
            return place if place < len(self.item_numbers) and self.item_numbers[place] == wanted else -1
        return self._ids.find(identifier)

    def node_id(self, number: int) -> str:
        """The id of the node with this number; `IndexError` if there is no such number."""
        if 0 <= number < len(self.item_numbers):
            return f"Q{self.item_numbers[number]}"
        return self._ids[number]

    def node_ids(self) -> Iterator[str]:
        """The ids of all nodes by number."""
        blocks = self.node_table.select(["id"]).to_batches(max_chunksize=_ID_BLOCK)
        return chain.from_iterable(block["id"].to_pylist() for block in blocks)

    def node_id_array(self) -> np.ndarray:
        """The ids of all nodes by number, as Python objects: object[nodes]."""
        return self.node_table["id"].to_numpy(zero_copy_only=False)

    def node_row(self, number: int) -> dict[str, Any]:
        """The row of the node table with this number."""
        return self.node_table.slice(number, 1).to_pylist()[0]

    def node_attributes(self, number: int) -> dict[str, Any]:
        """What networkx sees of the node with this number: its row without the id."""
        row = self.node_row(number)
        del row["id"]
        return row

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
                f"{_shown(identifier)} is no relation of the graph in {self.folder}. {self._example_relation()}"
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

    @cached_property
    def edge_attribute_names(self) -> tuple[str, ...]:
        """The attributes of every edge: label, rank and, if the graph was built with them, qualifiers."""
        return ("label", "rank", QUALIFIERS.name) if self._qualifiers.present else ("label", "rank")

    def edge_attribute(self, edge: int, name: str) -> Any:
        """One attribute of the edge with this number; `KeyError` if edges have none of the name.

        Qualifiers are (relation id, node id) pairs. They are read from ``triples.parquet`` a row group at a time, and
        the last two stay in memory: edges in their order cost some microseconds each, a jump to a far one 50 ms.
        """
        if name == "label":
            return self.relation_labels[self.out_relations[edge]]
        if name == "rank":
            return "preferred" if self.out_preferred[edge] else "normal"
        if name not in self.edge_attribute_names:
            raise KeyError(name)
        return self._qualifiers[edge]

    def to_networkx(self) -> nx.MultiDiGraph:
        """An ordinary graph in memory with all nodes, edges and attributes; it can be written."""
        return self.copy()

    def to_pandas(self) -> pd.DataFrame:
        """The triples as a table, by edge number.

        Returns:
            ``subject``, ``relation``, ``object`` (ids), ``subject_label``, ``relation_label``, ``object_label`` and
            ``rank``; all categorical, 21 bytes a triple beside the ids and labels themselves.
        """
        from kg.frame import triple_frame

        return triple_frame(self)

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
        return DiMultiDegreeView(self)

    @cached_property
    def in_degree(self) -> Any:
        return InMultiDegreeView(self)

    @cached_property
    def out_degree(self) -> Any:
        return OutMultiDegreeView(self)

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
    def _ids(self) -> SortedIds:
        return SortedIds(self.node_table["id"], len(self.item_numbers))

    @cached_property
    def _qualifiers(self) -> Qualifiers:
        return Qualifiers(self.folder / "triples.parquet", self.triple_count)

    def _example_ids(self) -> str:
        numbers = sorted({0, min(len(self.item_numbers), self.node_count - 1)}) if self.node_count else []
        return " or ".join(_shown(self.node_id(number)) for number in numbers) or "nothing, it is empty"

    def _example_relation(self) -> str:
        if not self.relation_ids:
            return "It has no relations."
        return f"Its ids look like {_shown(self.relation_ids[0])}; relations.parquet lists them all."

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


def _shown(identifier: object) -> str:
    text = repr(identifier)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
