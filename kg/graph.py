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
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import networkx as nx
import numpy as np

from kg import backend
from kg.catalogue import Catalogue, Node, Relation, UnknownIdError, map_array
from kg.columns import Qualifiers
from kg.tables import QUALIFIERS
from kg.views import Adjacency, DiMultiDegreeView, InMultiDegreeView, Nodes, OutMultiDegreeView

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KnowledgeGraph", "Node", "Relation", "UnknownIdError"]

_ID_BLOCK = 1 << 16


class KnowledgeGraph(Catalogue, nx.MultiDiGraph):
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

    out_offsets: np.ndarray
    out_relations: np.ndarray
    out_objects: np.ndarray
    out_preferred: np.ndarray
    in_offsets: np.ndarray
    in_relations: np.ndarray
    in_subjects: np.ndarray
    in_edge_numbers: np.ndarray
    frozen = True  # as networkx marks graphs that cannot be written

    def __new__(cls, *args: Any, **attributes: Any) -> Any:
        return nx.MultiDiGraph(*args, **attributes)

    @classmethod
    def open(cls, folder: Path) -> KnowledgeGraph:
        """Map the graph in ``folder``.

        Raises:
            InputError: the folder is missing, its stage is not finished, or a file is damaged.
        """
        graph = super().open(folder)
        backend.prefer()
        graph.graph = {}
        graph.__networkx_cache__ = None  # nothing is ever converted
        graph._node = Nodes(graph)
        graph._adj = Adjacency(graph, "out")  # networkx keeps _succ the same object
        graph._pred = Adjacency(graph, "in")
        return graph

    def _map_files(self, csr: Path) -> None:
        super()._map_files(csr)
        for name, dtype in _ARRAYS.items():
            setattr(self, name, map_array(csr / f"{name}.npy", dtype))
        edges = len(self.out_objects)
        lengths = {len(getattr(self, name)) for name in _ARRAYS if not name.endswith("offsets")}
        offsets = [self.out_offsets, self.in_offsets]
        if lengths != {edges} or any(len(array) != self.node_count + 1 or array[-1] != edges for array in offsets):
            raise ValueError("the arrays under csr/ do not fit together")

    @property
    def triple_count(self) -> int:
        """Number of triples, that is of edges."""
        return len(self.out_objects)

    def node_ids(self) -> Iterator[str]:
        """The ids of all nodes by number."""
        blocks = self.node_table.select(["id"]).to_batches(max_chunksize=_ID_BLOCK)
        return chain.from_iterable(block["id"].to_pylist() for block in blocks)

    def node_id_array(self) -> np.ndarray:
        """The ids of all nodes by number, as Python objects: object[nodes]."""
        return self.node_table["id"].to_numpy(zero_copy_only=False)

    def node_attributes(self, number: int) -> dict[str, Any]:
        """What networkx sees of the node with this number: its row without the id."""
        row = self.node_row(number)
        del row["id"]
        return row

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
    def _qualifiers(self) -> Qualifiers:
        return Qualifiers(self.folder / "triples.parquet", self.triple_count)


_ARRAYS = {
    "out_offsets": np.int64,
    "out_relations": np.int32,
    "out_objects": np.int32,
    "out_preferred": np.bool_,
    "in_offsets": np.int64,
    "in_relations": np.int32,
    "in_subjects": np.int32,
    "in_edge_numbers": np.int64,
}
