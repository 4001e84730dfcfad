"""Any MultiDiGraph as the arrays of a `KnowledgeGraph`, and a pytest plugin that feeds it to networkx's own tests.

`MemoryGraph` differs from a graph on disk in what ids, keys and attributes are;
the views that networkx reads are the same. With ``-p memory_graph`` and
``NETWORKX_TEST_BACKEND=memory_graph`` networkx's tests get such a graph

* for every MultiDiGraph that a test keeps from its setup, and
* for every MultiDiGraph, and many a DiGraph, handed to a function of networkx.

``MEMORY_GRAPH_REPORT`` names a file for what was done, as JSON.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from kg import backend as native
from kg.graph import KnowledgeGraph
from kg.views import Adjacency, EdgeAttributes, Nodes

NAME = "memory_graph"

# Functions that see no difference between a DiGraph and the MultiDiGraph with the same edges.
DIGRAPH_FUNCTIONS = {
    *native.get_info()["functions"],
    *("attracting_components", "condensation", "is_semiconnected", "kosaraju_strongly_connected_components"),
    *("all_pairs_shortest_path", "all_pairs_shortest_path_length", "all_shortest_paths", "has_path", "shortest_path"),
    *("single_source_shortest_path", "single_target_shortest_path", "single_target_shortest_path_length"),
    *("bfs_edges", "bfs_layers", "bfs_predecessors", "bfs_successors", "bfs_tree", "descendants_at_distance"),
    *("dfs_edges", "dfs_labeled_edges", "dfs_postorder_nodes", "dfs_predecessors", "dfs_preorder_nodes", "dfs_tree"),
    *("betweenness_centrality", "closeness_centrality", "harmonic_centrality", "hits", "in_degree_centrality"),
    *("degree_centrality", "out_degree_centrality", "immediate_dominators", "dominance_frontiers"),
    *("has_cycle", "is_directed_acyclic_graph", "is_aperiodic", "dag_longest_path", "all_simple_paths"),
    *("isolates", "number_of_isolates", "node_boundary", "volume", "simple_cycles"),
    *("google_matrix", "adjacency_matrix", "eigenvector_centrality", "triadic_census"),
    *("is_arborescence", "is_branching", "is_forest", "is_tree"),
}


class MemoryNodes(Nodes):
    """Nodes without a table."""

    def items(self) -> Any:
        return Mapping.items(self)


class MemoryAttributes(EdgeAttributes):
    """Attributes of an edge, whatever they are."""

    def _attributes(self) -> dict[Any, Any]:
        return self._adjacency.graph.attributes_of_edges[self._adjacency.edge_number(self._position)]

    def __len__(self) -> int:
        return len(self._attributes())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._attributes())

    def __contains__(self, name: object) -> bool:
        return name in self._attributes()

    def __getitem__(self, name: Any) -> Any:
        return self._attributes()[name]


class MemoryAdjacency(Adjacency):
    """Adjacency with such edges."""

    def attributes(self, position: int) -> Mapping[Any, Any]:
        return MemoryAttributes(self, position)


class MemoryGraph(KnowledgeGraph):
    """The nodes, keys, attributes and their orders of another graph in arrays."""

    @classmethod
    def of(cls, graph: nx.DiGraph) -> MemoryGraph:
        self = object.__new__(cls)
        self._load(graph)
        return self

    def _load(self, graph: nx.DiGraph) -> None:
        self.__dict__.clear()
        self.folder = Path("memory")
        self.graph = graph.graph
        self.__networkx_cache__ = None
        self.ids: list[Hashable] = list(graph._node)
        self.numbers = {identifier: number for number, identifier in enumerate(self.ids)}
        self.attributes_of_nodes = list(graph._node.values())
        self.item_numbers = np.empty(0, np.int32)
        keys: dict[Hashable, int] = {}
        edges: dict[tuple[int, int, int], int] = {}
        attributes = []
        for number, neighbours in enumerate(graph._adj.values()):
            for neighbour, by_key in neighbours.items():
                for key, values in (by_key if graph.is_multigraph() else {0: by_key}).items():
                    edges[number, self.numbers[neighbour], keys.setdefault(key, len(keys))] = len(edges)
                    attributes.append(values)
        self.attributes_of_edges = attributes
        self.relation_ids = list(keys)
        rows = [
            (self.numbers[neighbour], number, keys[key])
            for number, neighbours in enumerate(graph._pred.values())
            for neighbour, by_key in neighbours.items()
            for key in (by_key if graph.is_multigraph() else (0,))
        ]
        out = np.array(list(edges), dtype=np.int32).reshape(-1, 3)
        into = np.array(rows, dtype=np.int32).reshape(-1, 3)
        self.out_offsets, self.in_offsets = self._offsets(out[:, 0]), self._offsets(into[:, 1])
        self.out_objects, self.out_relations = out[:, 1].copy(), out[:, 2].copy()
        self.in_subjects, self.in_relations = into[:, 0].copy(), into[:, 2].copy()
        self.in_edge_numbers = np.array([edges[row] for row in rows], dtype=np.int64)
        self._node = MemoryNodes(self)
        self._adj = MemoryAdjacency(self, "out")
        self._pred = MemoryAdjacency(self, "in")

    def _offsets(self, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(self.ids)))]).astype(np.int64)

    @property
    def node_count(self) -> int:
        return len(self.ids)

    def find_number(self, identifier: Any) -> int:
        return self.numbers.get(identifier, -1)

    def node_id(self, number: int) -> Any:
        return self.ids[number]

    def node_ids(self) -> Iterator[Any]:
        return iter(self.ids)

    def node_id_array(self) -> np.ndarray:
        return np.fromiter(self.ids, dtype=object, count=len(self.ids))

    def node_attributes(self, number: int) -> dict[Any, Any]:
        return self.attributes_of_nodes[number]

    @cached_property
    def edge_attribute_names(self) -> tuple[Any, ...]:
        return tuple({name for attributes in self.attributes_of_edges for name in attributes})

    def _write(name: str) -> Any:  # noqa: N805
        """The tests that change a graph before they read it are worth having: change a copy and load it."""

        def write(self: MemoryGraph, *arguments: Any, **options: Any) -> Any:
            graph = self.to_networkx()
            try:
                return getattr(graph, name)(*arguments, **options)
            finally:
                self._load(graph)

        return write

    add_node, add_nodes_from = _write("add_node"), _write("add_nodes_from")
    remove_node, remove_nodes_from = _write("remove_node"), _write("remove_nodes_from")
    add_edge, add_edges_from = _write("add_edge"), _write("add_edges_from")
    add_weighted_edges_from = _write("add_weighted_edges_from")
    remove_edge, remove_edges_from = _write("remove_edge"), _write("remove_edges_from")
    clear, clear_edges, update = _write("clear"), _write("clear_edges"), _write("update")

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryGraph.of, (self.to_networkx(),)


class SuiteBackend:
    """The backend under which networkx's tests run: networkx's own functions, or the native ones, on `MemoryGraph`."""

    def __init__(self) -> None:
        self.converted: Counter[str] = Counter()
        self.native: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        try:
            original = nx.utils.backends._registered_algorithms[name].orig_func
        except KeyError:
            raise AttributeError(name) from None
        function = vars(native).get(name)

        def run(*arguments: Any, **options: Any) -> Any:
            if function is not None and native.can_run(name, arguments, options):
                try:
                    result = function(*arguments, **options)
                except NotImplementedError:
                    pass
                else:
                    self.native[name] += 1
                    return result
            return original(*arguments, **options)

        return run

    def can_run(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Only where there is something to convert: networkx checks calls under test at length."""
        graphs = [*arguments, *options.values()]
        graphs += [graph for value in graphs if isinstance(value, list) for graph in value]
        return any(isinstance(graph, MemoryGraph) or self._converts(name, graph) for graph in graphs)

    def convert_from_nx(self, graph: Any, *, name: str, **options: Any) -> Any:
        if not self._converts(name, graph):
            return graph
        self.converted[name] += 1
        return MemoryGraph.of(graph)

    def _converts(self, name: str, graph: Any) -> bool:
        if nx.utils.backends._registered_algorithms[name].mutates_input:
            return False
        return type(graph) is nx.MultiDiGraph or (type(graph) is nx.DiGraph and name in DIGRAPH_FUNCTIONS)

    def convert_to_nx(self, result: Any, **options: Any) -> Any:
        return result


suite_backend = SuiteBackend()
outcomes: dict[str, list[str]] = {"passed": [], "skipped": [], "failed": []}
replaced = 0


def pytest_configure(config: pytest.Config) -> None:
    nx.utils.backends.backends[NAME] = EntryPoint(NAME, "memory_graph:suite_backend", "networkx.backends")
    nx.utils.backends.backend_info[NAME] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    global replaced
    instance = getattr(item, "instance", None)
    if instance is None:
        return
    for name in dir(instance):
        if type(getattr(instance, name, None)) is nx.MultiDiGraph:
            setattr(instance, name, MemoryGraph.of(getattr(instance, name)))
            replaced += 1


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        outcomes[report.outcome].append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    report = {
        "passed": len(outcomes["passed"]),
        "skipped": len(outcomes["skipped"]),
        "failed": outcomes["failed"],
        "kept_from_setup": replaced,
        "handed_to_functions": dict(suite_backend.converted.most_common()),
        "native": dict(suite_backend.native.most_common()),
    }
    Path(os.environ["MEMORY_GRAPH_REPORT"]).write_text(json.dumps(report, indent=2))
