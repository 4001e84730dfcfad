"""The native algorithms against networkx's own, called the way a user calls them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_graph import MemoryGraph
from plain_graphs import write_graph

from kg import algorithms, backend

ROOT = Path(__file__).resolve().parents[2]
NAME = "knowledge_graph"
NATIVE = sorted(backend.get_info()["functions"])


@pytest.fixture(autouse=True, scope="module")
def _installed() -> Iterator[None]:
    """The backend as the package's entry points make it known, also where the package is not installed."""
    known, information = nx.utils.backends.backends, nx.utils.backends.backend_info
    dispatch = nx.utils.backends._dispatchable
    with pytest.MonkeyPatch.context() as patch:
        if NAME not in known:
            patch.setitem(known, NAME, EntryPoint(NAME, "kg.backend", "networkx.backends"))
            patch.setitem(information, NAME, backend.get_info())
            patch.setattr(dispatch, "__call__", dispatch._call_if_any_backends_installed)
        backend.prefer()
        yield
        for name in NATIVE:
            del nx.config.backend_priority[name]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[MemoryGraph, nx.MultiDiGraph]:
    """A small graph with loops and parallel edges, as arrays and as networkx has it."""
    nodes = draw(st.permutations(range(draw(st.integers(0, 9)))))
    ends = st.sampled_from(nodes) if nodes else st.nothing()
    ordinary = nx.MultiDiGraph()
    ordinary.add_nodes_from(nodes)
    if nodes:
        ordinary.add_edges_from(draw(st.lists(st.tuples(ends, ends, st.sampled_from("rs")), max_size=25)))
    return MemoryGraph.of(ordinary), ordinary


def outcome(call: Callable[[], Any]) -> Any:
    """What the call gives, generators and dictionaries in their order, or the error it ends with."""
    try:
        result = call()
        if isinstance(result, dict):
            return list(result.items())
        return list(result) if isinstance(result, Iterator) else result
    except (nx.NetworkXException, ZeroDivisionError) as error:
        return type(error), str(error)


@settings(max_examples=100, deadline=None)
@given(pair=graphs(), data=st.data())
@pytest.mark.parametrize(
    "name",
    [
        *("weakly_connected_components", "number_weakly_connected_components", "is_weakly_connected"),
        *("strongly_connected_components", "number_strongly_connected_components", "is_strongly_connected"),
        *("single_source_shortest_path_length", "descendants", "ancestors", "bidirectional_shortest_path", "has_path"),
    ],
)
def test_native_functions_give_what_networkx_gives_in_the_same_order(
    pair: tuple[MemoryGraph, nx.MultiDiGraph], name: str, data: st.DataObject
) -> None:
    graph, ordinary = pair
    node = st.sampled_from([*ordinary, "absent"])
    arguments: list[Any] = []
    if name in ("descendants", "ancestors", "bidirectional_shortest_path", "has_path"):
        arguments = [data.draw(node)]
    if name in ("bidirectional_shortest_path", "has_path"):
        arguments += [data.draw(node)]
    if name == "single_source_shortest_path_length":
        arguments = [data.draw(node), data.draw(st.sampled_from([None, -1, 0, 1, 1.5, 2]))]
    function = getattr(nx, name)
    assert outcome(lambda: function(graph, *arguments)) == outcome(lambda: function(ordinary, *arguments))


shares = st.dictionaries(st.sampled_from([*range(9), "absent"]), st.sampled_from([0, 1, 2.5]), min_size=1)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # networkx's, where weights are all 0
@settings(max_examples=150, deadline=None)
@given(
    pair=graphs(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "alpha": st.sampled_from([0.1, 0.85, 0.99]),
            "personalization": shares,
            "nstart": shares,
            "dangling": st.dictionaries(st.integers(0, 8), st.sampled_from([1, 2.5]), min_size=9),
            "max_iter": st.sampled_from([1, 3, 100]),
            "tol": st.sampled_from([1e-3, 1e-6, 1e-9]),
            "weight": st.sampled_from([None, "weight"]),
        },
    ),
)
def test_pagerank_is_networkxs_to_rounding(pair: tuple[MemoryGraph, nx.MultiDiGraph], options: dict[str, Any]) -> None:
    ours, theirs = (outcome(lambda graph=graph: nx.pagerank(graph, **options)) for graph in pair)
    if not isinstance(theirs, list):
        assert ours == theirs
        return
    assert [node for node, _ in ours] == [node for node, _ in theirs]
    assert all(type(rank) is float for _, rank in ours)
    np.testing.assert_allclose([rank for _, rank in ours], [rank for _, rank in theirs], rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    pair=graphs(), dtype=st.sampled_from([None, float, "int32", bool]), format=st.sampled_from(["csr", "csc", "coo"])
)
def test_the_adjacency_matrix_is_networkxs(
    pair: tuple[MemoryGraph, nx.MultiDiGraph],
    dtype: Any,
    format: str,  # noqa: A002
) -> None:
    matrices = []
    for graph in pair:
        try:
            matrices.append(nx.to_scipy_sparse_array(graph, dtype=dtype, format=format))
        except nx.NetworkXError as error:
            matrices.append(str(error))
    ours, theirs = matrices
    if isinstance(theirs, str):
        assert ours == theirs
        return
    assert (ours.format, ours.dtype, ours.shape) == (theirs.format, theirs.dtype, theirs.shape)
    assert (ours.toarray() == theirs.toarray()).all()


@settings(max_examples=50, deadline=None)
@given(pair=graphs())
def test_the_array_forms_agree_with_networkx(pair: tuple[MemoryGraph, nx.MultiDiGraph]) -> None:
    graph, ordinary = pair
    simple = nx.Graph(ordinary)
    simple.remove_edges_from(list(nx.selfloop_edges(simple)))
    cores = algorithms.core_numbers(graph)
    assert cores.dtype == np.int32
    assert dict(zip(ordinary, cores.tolist(), strict=True)) == nx.core_number(simple)
    assert algorithms.degree_histogram(graph).tolist() == nx.degree_histogram(ordinary)
    labels = algorithms.weak_components(graph)
    assert labels.dtype == np.int32
    nodes = np.array(ordinary, dtype=int)
    parts = [set(nodes[labels == label].tolist()) for label in range(int(labels.max(initial=-1)) + 1)]
    assert parts == sorted(nx.weakly_connected_components(ordinary), key=len, reverse=True)
    assert np.isclose(algorithms.pagerank(graph).sum(), 1) or not len(ordinary)
    found, distances = algorithms.breadth_first(graph, 0, reverse=True) if len(ordinary) else ((), ())
    assert len(found) == len(distances)


def test_arguments_that_are_not_native_are_left_to_networkx(tmp_path: Path) -> None:
    ordinary = nx.MultiDiGraph([("a", "b", {"weight": 2}), ("b", "a", {"weight": 5}), ("b", "c", {"weight": 1})])
    graph = MemoryGraph.of(ordinary)
    assert nx.pagerank(graph) == nx.pagerank(ordinary)
    assert (nx.to_scipy_sparse_array(graph) != nx.to_scipy_sparse_array(ordinary)).nnz == 0
    part = nx.to_scipy_sparse_array(graph, nodelist=["c", "b"], weight=None)
    assert part.toarray().tolist() == [[0, 0], [1, 0]]
    with pytest.raises(nx.NetworkXError, match="Unknown sparse matrix format"):
        nx.to_scipy_sparse_array(graph, weight=None, format="none")
    on_disk = write_graph(tmp_path / "kg", "ab", [("a", "best", "b")])
    with pytest.raises(ValueError, match="could not convert string to float"):
        nx.pagerank(on_disk, weight="label")


def test_a_call_may_ask_for_either_code(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = MemoryGraph.of(nx.MultiDiGraph([(0, 1)]))
    monkeypatch.setattr(backend, "is_weakly_connected", lambda graph: "native")
    assert nx.is_weakly_connected(graph) == "native"
    assert nx.is_weakly_connected(G=graph) == "native"
    assert nx.is_weakly_connected(graph, backend=NAME) == "native"
    assert nx.is_weakly_connected(graph, backend="networkx") is True
    assert nx.is_weakly_connected(graph.to_networkx()) is True


def test_ordinary_graphs_may_stand_beside_one_on_disk(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    graph = write_graph(tmp_path / "kg", "ab", [("a", "r", "b")])
    other = nx.MultiDiGraph([("b", "c", "r")])
    for _ in range(2):
        assert set(nx.compose(graph, other)) == {"a", "b", "c"}
        assert set(nx.compose_all([other, graph])) == {"a", "b", "c"}
        assert nx.is_isomorphic(graph, other)
    assert not recwarn


def no_priorities() -> Any:
    present = nx.config.backend_priority
    return type(present)(**{kind: [] for kind in ("algos", "generators", "classes") if kind in present})


def test_priorities_of_others_stay_behind_it_and_own_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nx.utils.backends.backends, "other", None)
    monkeypatch.setitem(nx.utils.backends.backend_info, "other", {})
    priority = no_priorities()
    priority["algos"], priority["pagerank"] = ["other"], []
    with nx.config(backend_priority=priority):
        backend.prefer()
        assert nx.config.backend_priority["descendants"] == [NAME, "other"]
        assert nx.config.backend_priority["pagerank"] == []
        assert nx.config.backend_priority.get("betweenness_centrality") is None


def test_where_networkx_does_not_know_the_backend_nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(nx.utils.backends.backends, NAME)
    with nx.config(backend_priority=no_priorities()):
        backend.prefer()
        assert not set(NATIVE) & set(nx.config.backend_priority)


PROGRAM = """
import sys, warnings
warnings.simplefilter("error")
import networkx as nx
assert not {"kg.graph", "numba", "pyarrow"} & set(sys.modules), "importing networkx must stay light"
from pathlib import Path
from kg.graph import KnowledgeGraph
graph = KnowledgeGraph.open(Path(sys.argv[1]))
assert "kg.algorithms" not in sys.modules
assert [sorted(part) for part in nx.weakly_connected_components(graph)] == [["a", "b"], ["c"]]
print("kg.algorithms" in sys.modules, nx.shortest_path(graph, "a", "b"), "knowledge_graph" in nx.pagerank.__doc__)
"""


def run_program(folder: Path, *path: Path) -> str:
    environment = {"PYTHONPATH": ":".join(map(str, [*path, ROOT]))}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_an_installed_package_needs_no_configuration(tmp_path: Path) -> None:
    write_graph(tmp_path / "kg", "abc", [("a", "r", "b")])
    information = tmp_path / "site" / "synthie-0.dist-info"  # in front of the installed one, if there is one
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: synthie\nVersion: 0\n")
    assert run_program(tmp_path / "kg", tmp_path / "site") == "False ['a', 'b'] False"
    (information / "entry_points.txt").write_text(
        f"[networkx.backends]\n{NAME} = kg.backend\n[networkx.backend_info]\n{NAME} = kg.backend:get_info\n"
    )
    assert run_program(tmp_path / "kg", tmp_path / "site") == "True ['a', 'b'] True"
