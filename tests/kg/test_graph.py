from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_graphs import write_graph
from wikidata_documents import build, coordinate, date, item, property_document, quantity, to_item, write_dump

from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import InputError
from kg.graph import KnowledgeGraph, Node, Relation, UnknownIdError

LITERALS = ("date:1237", "quantity:5", "coordinate:1°0′N 2°0′E")


def documents() -> list[dict[str, Any]]:
    return [
        property_document(17, "country"),
        property_document(36, "capital"),
        item(
            64,
            "Berlin",
            claims=[to_item(17, 183), to_item(131, 183), to_item(47, 64), coordinate(625, 1, 2), quantity(1082, "+5")],
            aliases={"en": [{"language": "en", "value": "Berlin, Germany"}]},
        ),
        item(183, "Germany", claims=[to_item(36, 64, rank="preferred"), date(571, "+1237-00-00T00:00:00Z", 9)]),
        item(1000, "alone"),
    ]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    return build(tmp_path_factory.mktemp("graph"), documents())[1]


@pytest.fixture(scope="module")
def ordinary(graph: KnowledgeGraph) -> nx.MultiDiGraph:
    """The same graph, made by networkx from the numbers and tables."""
    other = nx.MultiDiGraph()
    for row in graph.node_table.to_pylist():
        other.add_node(row.pop("id"), **row)
    for subject in range(graph.node_count):
        for edge in range(graph.out_offsets[subject], graph.out_offsets[subject + 1]):
            relation = graph.relation_table.slice(graph.out_relations[edge], 1).to_pylist()[0]
            other.add_edge(
                graph.node_id(subject),
                graph.node_id(int(graph.out_objects[edge])),
                relation["id"],
                label=relation["label"],
                rank="preferred" if graph.out_preferred[edge] else "normal",
            )
    return other


def test_a_graph_on_disk_is_a_networkx_graph(graph: KnowledgeGraph, ordinary: nx.MultiDiGraph) -> None:
    assert isinstance(graph, nx.MultiDiGraph)
    assert nx.utils.graphs_equal(graph, ordinary)
    assert nx.utils.graphs_equal(ordinary, graph)
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (6, 7)
    assert (graph.node_count, graph.triple_count, graph.relation_count) == (6, 7, 7)
    assert str(graph) == "KnowledgeGraph with 6 nodes and 7 edges"


def test_edges_are_reached_by_id_neighbour_and_relation(graph: KnowledgeGraph) -> None:
    assert graph["Q64"]["Q183"]["P17"] == {"label": "country", "rank": "normal"}
    assert graph.edges["Q183", "Q64", "P36"]["rank"] == "preferred"
    assert graph.pred["Q183"]["Q64"]["P17"] == {"label": "country", "rank": "normal"}
    assert set(graph["Q64"]["Q183"]) == {"P17", "P131"}
    assert list(graph.in_edges("date:1237", keys=True)) == [("Q183", "date:1237", "P571")]
    assert graph.number_of_edges("Q64", "Q183") == 2
    assert graph.has_edge("Q64", "Q64", "P47")
    assert not graph.has_edge("Q64", "Q1000")
    assert graph.get_edge_data("Q64", "nobody", default=0) == 0
    with pytest.raises(KeyError):
        graph["Q64"]["Q1000"]
    with pytest.raises(KeyError):
        graph["Q64"]["Q183"]["P36"]


def test_nodes_and_relations_tell_what_the_tables_hold(graph: KnowledgeGraph) -> None:
    assert graph.node("Q64") == Node("Q64", "Berlin", "Berlin", "", ("Berlin, Germany",), (), "entity", None)
    assert graph.node("quantity:5").value == '{"amount":"+5","unit":"1"}'
    assert graph.relation("P36") == Relation(
        "P36", "capital", "what capital means", ("capital alias",), "wikibase-item", 1
    )
    assert graph.nodes["Q64"]["name"] == "Berlin"
    assert dict(graph.nodes(data="kind"))["date:1237"] == "date"


def test_ids_and_numbers_are_inverse(graph: KnowledgeGraph) -> None:
    assert [graph.node_number(graph.node_id(number)) for number in range(6)] == list(range(6))
    assert list(graph) == [graph.node_id(number) for number in range(6)]
    assert list(graph) == ["Q64", "Q183", "Q1000", *sorted(LITERALS)]
    assert [graph.relation_number(graph.relation_ids[number]) for number in range(7)] == list(range(7))
    for number in (-1, 6):
        with pytest.raises(IndexError):
            graph.node_id(number)


@pytest.mark.parametrize("unknown", ["Q65", "Q064", "Q", "q64", "64", "", "date:1238", "zzz", "Q" + "9" * 30, 64, None])
def test_what_is_no_node_is_found_nowhere(graph: KnowledgeGraph, unknown: Any) -> None:
    assert unknown not in graph
    assert not graph.has_node(unknown)
    assert unknown not in graph["Q64"]
    with pytest.raises(KeyError):
        graph[unknown]
    with pytest.raises(UnknownIdError, match=r"is no node of the graph.*nodes.parquet lists them all\.$"):
        graph.node(unknown)
    with pytest.raises(UnknownIdError, match="is no relation of the graph"):
        graph.relation(unknown)


WRITES: list[Callable[[nx.MultiDiGraph], Any]] = [
    lambda graph: graph.add_node("Q1"),
    lambda graph: graph.add_nodes_from(["Q1"]),
    lambda graph: graph.remove_node("Q64"),
    lambda graph: graph.remove_nodes_from(["Q64"]),
    lambda graph: graph.add_edge("Q64", "Q1"),
    lambda graph: graph.add_edges_from([("Q64", "Q1")]),
    lambda graph: graph.add_weighted_edges_from([("Q64", "Q1", 1)]),
    lambda graph: graph.remove_edge("Q64", "Q183"),
    lambda graph: graph.remove_edges_from([("Q64", "Q183")]),
    lambda graph: graph.update(edges=[("Q64", "Q1")]),
    lambda graph: graph.clear(),
    lambda graph: graph.clear_edges(),
    lambda graph: graph.nodes["Q64"].update(name="x"),
    lambda graph: graph.nodes["Q64"].__setitem__("name", "x"),
    lambda graph: graph["Q64"]["Q183"]["P17"].__setitem__("weight", 1),
    lambda graph: graph.edges["Q64", "Q183", "P17"].clear(),
    lambda graph: nx.set_node_attributes(graph, 1, "weight"),
]


@pytest.mark.parametrize("write", WRITES)
def test_every_write_is_refused_with_the_way_out(
    graph: KnowledgeGraph, ordinary: nx.MultiDiGraph, write: Callable[[nx.MultiDiGraph], Any]
) -> None:
    with pytest.raises(nx.NetworkXError, match=r"read-only.*to_networkx\(\)"):
        write(graph)
    assert nx.is_frozen(graph)
    assert nx.utils.graphs_equal(graph, ordinary)


COPIES: list[Callable[[KnowledgeGraph], nx.MultiDiGraph]] = [
    lambda graph: graph.to_networkx(),
    lambda graph: graph.copy(),
    lambda graph: copy.deepcopy(graph),
    lambda graph: nx.MultiDiGraph(graph),
    lambda graph: graph.to_directed(),
    lambda graph: graph.subgraph(list(graph)).copy(),
    lambda graph: graph.reverse().reverse(),
]


@pytest.mark.parametrize("copied", COPIES)
def test_copies_are_ordinary_graphs_that_can_be_written(
    graph: KnowledgeGraph, ordinary: nx.MultiDiGraph, copied: Callable[[KnowledgeGraph], nx.MultiDiGraph]
) -> None:
    other = copied(graph)
    assert type(other) is nx.MultiDiGraph
    assert nx.utils.graphs_equal(other, ordinary)
    other.add_edge("Q64", "new")
    other.nodes["Q64"]["name"] = "changed"
    other["Q64"]["Q183"]["P17"]["weight"] = 3
    assert graph.nodes["Q64"]["name"] == "Berlin"
    assert "new" not in graph


def test_a_subgraph_is_a_view(graph: KnowledgeGraph) -> None:
    part = graph.subgraph(["Q64", "Q183", "absent"])
    assert set(part.edges(keys=True)) == {
        ("Q64", "Q183", "P17"),
        ("Q64", "Q183", "P131"),
        ("Q64", "Q64", "P47"),
        ("Q183", "Q64", "P36"),
    }
    assert set(graph.edge_subgraph([("Q183", "Q64", "P36")])) == {"Q64", "Q183"}
    assert graph.reverse(copy=False).has_edge("Q183", "Q64", "P17")


def test_a_pickled_graph_opens_its_folder_again(graph: KnowledgeGraph) -> None:
    data = pickle.dumps(graph)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert type(again) is KnowledgeGraph
    assert nx.utils.graphs_equal(again, graph)
    assert pickle.loads(pickle.dumps(graph.adj["Q64"])) == graph.adj["Q64"]
    assert pickle.loads(pickle.dumps(graph.nodes["Q64"])) == graph.nodes["Q64"]


def test_attributes_of_edges_are_ordinary_dictionaries_once_copied(graph: KnowledgeGraph) -> None:
    attributes = graph["Q64"]["Q183"]["P17"]
    expected = {"label": "country", "rank": "normal"}
    for copied in (attributes.copy(), copy.copy(attributes), copy.deepcopy(attributes), dict(attributes)):
        assert type(copied) is dict
        assert copied == expected == attributes
    assert attributes.get("weight", 1) == 1
    with pytest.raises(KeyError):
        attributes["weight"]


def test_the_triples_are_a_table_of_pandas(graph: KnowledgeGraph) -> None:
    frame = graph.to_pandas()
    assert list(frame.columns) == [
        "subject", "relation", "object", "subject_label", "relation_label", "object_label", "rank"
    ]  # fmt: skip
    assert {str(dtype) for dtype in frame.dtypes} == {"category"}
    rows = list(frame.itertuples(index=False, name=None))
    assert rows == sorted(rows, key=lambda row: [graph.node_number(row[0]), graph.relation_number(row[1])])
    assert set(rows) == {
        (s, r, o, graph.nodes[s]["label"], values["label"], graph.nodes[o]["label"], values["rank"])
        for s, o, r, values in graph.edges(keys=True, data=True)
    }
    assert len(rows) == graph.triple_count


def test_the_arrays_are_mapped_and_cannot_be_written(graph: KnowledgeGraph) -> None:
    assert isinstance(graph.out_objects.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        graph.out_objects[0] = 1


# --- ids of any vocabulary --------------------------------------------------------------------------------------------

identifiers = st.one_of(
    st.integers(0, 10**12).map(lambda number: f"Q{number}"),
    st.sampled_from(["Q", "dbr:Berlin", "dbr:Äpfel", "", "date:1237", "\U0001f600", "\ufffd"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)


@settings(max_examples=30, deadline=None)
@given(present=st.sets(identifiers, max_size=40), asked=st.sets(identifiers, max_size=20))
def test_every_id_is_found_in_a_graph_without_items(
    tmp_path_factory: pytest.TempPathFactory, present: set[str], asked: set[str]
) -> None:
    graph = write_graph(tmp_path_factory.mktemp("graph"), present)
    assert list(graph) == sorted(present)
    assert [graph.node_number(identifier) for identifier in graph] == list(range(len(present)))
    assert [graph.node_id(number) for number in range(len(present))] == list(graph)
    assert {identifier for identifier in asked if identifier in graph} == asked & present


@settings(max_examples=30, deadline=None)
@given(items=st.sets(st.integers(1, 999_999_999), min_size=1), others=st.sets(st.text("abQ:1", max_size=3)))
def test_items_come_first_and_other_ids_are_sorted_behind_them(
    tmp_path_factory: pytest.TempPathFactory, items: set[int], others: set[str]
) -> None:
    others = {f"date:{name}" for name in others}
    graph = write_graph(tmp_path_factory.mktemp("graph"), others, items=items)
    expected = [*(f"Q{number}" for number in sorted(items)), *sorted(others)]
    assert list(graph) == expected
    assert [graph.find_number(identifier) for identifier in expected] == list(range(len(expected)))
    assert graph.find_number("Q0") == graph.find_number("date") == graph.find_number("zzz") == -1


def test_an_id_is_found_in_every_record_batch_of_the_table(tmp_path: Path) -> None:
    ids = [f"dbr:{number:06}" for number in range(70_000)]  # the table is written in batches of 65,536 rows
    graph = write_graph(tmp_path, ids)
    for number in (0, 65_535, 65_536, 69_999):
        assert graph.find_number(ids[number]) == number
        assert graph.node_id(number) == ids[number]
    assert graph.find_number("dbr:065535x") == graph.find_number("dbr:") == graph.find_number("dbr:070000") == -1


def test_the_message_for_an_unknown_id_shows_ids_of_this_graph(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "rdf", ["dbr:Berlin", "dbr:Germany"], [("dbr:Berlin", "dbo:country", "dbr:Germany")])
    with pytest.raises(UnknownIdError, match=r"'Q64' is no node .* ids look like 'dbr:Berlin'; nodes.parquet"):
        graph.node("Q64")
    with pytest.raises(UnknownIdError, match=r"'P17' is no relation .* ids look like 'dbo:country'; relations.parquet"):
        graph.relation("P17")
    items = write_graph(tmp_path / "items", ["date:1237"], items=[64])
    with pytest.raises(UnknownIdError, match=r"ids look like 'Q64' or 'date:1237'; nodes.parquet"):
        items.node("Q1")
    with pytest.raises(UnknownIdError, match="It has no relations"):
        items.relation("P17")
    with pytest.raises(UnknownIdError, match=r"'x{79}… is no node"):
        items.node("x" * 1000)
    empty = write_graph(tmp_path / "empty", [])
    with pytest.raises(UnknownIdError, match="it is empty"):
        empty.node("Q1")


# --- qualifiers -----------------------------------------------------------------------------------------------------

STATED = {
    ("a", "was", "b"): [("since", "date:1990"), ("until", "date:1995")],
    ("b", "best", "c"): [("of", "c")],
}


@pytest.fixture
def qualified(tmp_path: Path) -> KnowledgeGraph:
    triples = [*STATED, ("a", "was", "c"), ("c", "was", "a"), ("c", "was", "b")]
    graph = write_graph(tmp_path / "kg", "abc", triples, qualifiers=STATED)
    path = tmp_path / "kg" / "triples.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=2)  # as a graph of millions has several
    return graph


def test_qualifiers_are_attributes_of_the_edges(qualified: KnowledgeGraph) -> None:
    for edges in (qualified.edges, qualified.in_edges):
        found = {(s, r, o): values["qualifiers"] for s, o, r, values in edges(keys=True, data=True)}
        assert {triple: pairs for triple, pairs in found.items() if pairs} == STATED
        assert len(found) == 5
    assert qualified["b"]["c"]["best"] == {"label": "the best", "rank": "preferred", "qualifiers": [("of", "c")]}
    assert qualified.to_networkx()["a"]["b"]["was"]["qualifiers"] == STATED["a", "was", "b"]


def test_qualifiers_are_read_only_when_they_are_looked_at(qualified: KnowledgeGraph) -> None:
    assert list(qualified["a"]["b"]["was"]) == ["label", "rank", "qualifiers"]
    path = qualified.folder / "triples.parquet"
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:4] + bytes(footer - 4) + content[footer:])
    damaged = KnowledgeGraph.open(qualified.folder)
    assert damaged["a"]["b"]["was"]["label"] == "the was"
    assert nx.shortest_path(damaged, "a", "c") == ["a", "c"]
    with pytest.raises(InputError, match=r"triples.parquet is damaged: .* build the graph again"):
        damaged["a"]["b"]["was"]["qualifiers"]


def test_a_graph_without_qualifiers_has_no_such_attribute(graph: KnowledgeGraph) -> None:
    assert "qualifiers" not in graph["Q64"]["Q183"]["P17"]
    with pytest.raises(KeyError):
        graph["Q64"]["Q183"]["P17"]["qualifiers"]


def test_triples_of_another_graph_are_refused(qualified: KnowledgeGraph) -> None:
    path = qualified.folder / "triples.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(InputError, match=r"triples.parquet is damaged: it holds 4 triples, csr/ 5"):
        list(KnowledgeGraph.open(qualified.folder)["a"]["b"]["was"])


# --- networkx algorithms --------------------------------------------------------------------------------------------

ALGORITHMS: list[Callable[[nx.MultiDiGraph], Any]] = [
    lambda g: sorted(sorted(part) for part in nx.weakly_connected_components(g)),
    lambda g: sorted(sorted(part) for part in nx.strongly_connected_components(g)),
    lambda g: {node: round(rank, 9) for node, rank in nx.pagerank(g).items()},
    lambda g: dict(nx.all_pairs_shortest_path_length(g)),
    lambda g: {node: len(list(nx.bfs_edges(g, node))) for node in g},
    lambda g: {node: set(nx.descendants(g, node)) for node in g},
    lambda g: {node: set(nx.ancestors(g, node)) for node in g},
    lambda g: nx.is_directed_acyclic_graph(g),
    lambda g: nx.number_of_selfloops(g),
    lambda g: nx.in_degree_centrality(g),
    lambda g: nx.reciprocity(nx.DiGraph(g)) if g.size() else None,
    lambda g: nx.to_scipy_sparse_array(g, nodelist=sorted(g)).toarray().tolist() if len(g) else None,
    lambda g: nx.to_numpy_array(g, nodelist=sorted(g)).tolist(),
    lambda g: nx.to_dict_of_dicts(g),
    lambda g: sorted(map(json.dumps, nx.node_link_data(g)["links" if "links" in nx.node_link_data(g) else "edges"])),
    lambda g: set(g.edges(keys=True)),
    lambda g: sorted(map(str, g.edges(data=True, keys=True))),
    lambda g: sorted(map(str, g.in_edges(data=True, keys=True))),
    lambda g: dict(g.degree),
    lambda g: dict(g.in_degree()),
    lambda g: dict(g.out_degree(list(g)[:2])),
    lambda g: dict(g.degree(weight="absent")),
    lambda g: {node: g.degree(node) for node in g},
    lambda g: {
        node: (set(g.successors(node)), set(g.predecessors(node)), set(nx.all_neighbors(g, node))) for node in g
    },
    lambda g: {(u, v): g.number_of_edges(u, v) for u in g for v in g},
    lambda g: (g.size(), g.order(), len(g), g.size(weight="absent"), nx.density(g)),
    lambda g: sorted(map(sorted, nx.connected_components(g.to_undirected(as_view=True)))),
    lambda g: set(g.to_undirected().edges(keys=True)),
    lambda g: sorted(nx.degree_histogram(g)),
    lambda g: nx.core_number(nx.Graph(nx.create_empty_copy(g))),
    lambda g: set(nx.compose(g, g).edges(keys=True)),
]


@settings(max_examples=20, deadline=None)
@given(
    edges=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 8)), min_size=1, max_size=25),
    years=st.lists(st.tuples(st.integers(1, 7), st.integers(1900, 1903)), max_size=5),
)
def test_networkx_finds_the_same_as_on_an_ordinary_graph(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int, int]], years: list[tuple[int, int]]
) -> None:
    edges = [*edges, (1, 1, 1)]
    many = [
        item(
            node,
            claims=[to_item(relation, target) for source, relation, target in edges if source == node]
            + [date(10, f"+{year}-00-00T00:00:00Z", 9) for source, year in years if source == node],
        )
        for node in range(1, 9)
    ]
    _, graph = build(tmp_path_factory.mktemp("graph"), many)
    ordinary = nx.MultiDiGraph()
    ordinary.add_nodes_from(graph)
    ordinary.add_edges_from((f"Q{s}", f"Q{o}", f"P{p}") for s, p, o in edges)
    ordinary.add_edges_from((f"Q{node}", f"date:{year}", "P10") for node, year in years)
    for *edge, attributes in graph.edges(keys=True, data=True):
        ordinary.edges[tuple(edge)].update(attributes)
    nx.set_node_attributes(ordinary, dict(graph.nodes.items()))
    assert nx.utils.graphs_equal(graph, ordinary)
    for algorithm in ALGORITHMS:
        assert algorithm(graph) == algorithm(ordinary)


# --- folders that cannot be used ------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "name", ["out_objects.npy", "in_offsets.npy", "item_numbers.npy", "nodes.arrow", "relations.arrow"]
)
@pytest.mark.parametrize("damage", [Path.unlink, _truncate, lambda path: path.write_bytes(b"not this")])
def test_a_damaged_graph_is_refused(tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    build(tmp_path, documents())
    damage(tmp_path / "kg" / "csr" / name)
    with pytest.raises(InputError, match=r"is damaged: .* build the graph again|is missing.* Run the stage"):
        KnowledgeGraph.open(tmp_path / "kg")


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    build(tmp_path, documents())
    np.save(tmp_path / "kg" / "csr" / "in_edge_numbers.npy", np.zeros(3, np.int64))
    with pytest.raises(InputError, match="do not fit together"):
        KnowledgeGraph.open(tmp_path / "kg")
    np.save(tmp_path / "kg" / "csr" / "in_edge_numbers.npy", np.zeros(7, np.int32))
    with pytest.raises(InputError, match="in_edge_numbers"):
        KnowledgeGraph.open(tmp_path / "kg")


def test_a_missing_or_unfinished_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished stage"):
        KnowledgeGraph.open(tmp_path / "absent")
    build(tmp_path, documents())
    shutil.move(tmp_path / "kg" / "manifest.json", tmp_path / "manifest.json")
    with pytest.raises(InputError, match="no finished stage"):
        KnowledgeGraph.open(tmp_path / "kg")


def test_a_written_graph_can_be_built_over_an_open_one(tmp_path: Path) -> None:
    _, graph = build(tmp_path, documents())
    dump = write_dump(tmp_path / "dump.json", [*documents(), item(7, claims=[to_item(17, 183)])])
    build_graph(GraphConfig(dump=str(dump)), tmp_path / "kg")
    assert len(KnowledgeGraph.open(tmp_path / "kg")) == len(graph) + 1
    assert graph.has_edge("Q64", "Q183", "P17")
