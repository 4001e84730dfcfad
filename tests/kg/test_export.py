"""Exported files open elsewhere and lead back to the same graph, whatever the names hold."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rdflib import RDFS, Graph, URIRef
from wikidata_documents import build, coordinate, date, item, monolingual, property_document, quantity, to_item

from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import ConfigError, StorageError
from kg.exports.export import FORMATS, Format, export_graph
from kg.exports.part import Part
from kg.exports.text import csv_lines, graphml_edges, graphml_head, graphml_nodes, ntriples_lines, ntriples_names
from kg.graph import KnowledgeGraph
from kg.query.sparql import open_sparql

SAMPLE = Path(__file__).parents[2] / "data/sample/wikidata.json.gz"
NASTY = 'a "b"\t<c> & \\d\\ Ünïcode 日本, 🙂'


def documents() -> list[dict[str, Any]]:
    return [
        property_document(17, "country"),
        property_document(36, 'the "capital", <so> & so'),
        item(64, NASTY, claims=[to_item(17, 183), quantity(1082, "+5"), coordinate(625, 1, 2)]),
        item(183, "Germany", claims=[to_item(36, 64, rank="preferred"), date(571, "+1871-01-18T00:00:00Z")]),
        item(90, "Paris", claims=[to_item(17, 142), monolingual(1448, "Lutèce", "en")]),
        item(142, "France", claims=[date(571, "-0480-00-00T00:00:00Z", 9), date(580, "+0843-08-00T00:00:00Z", 10)]),
        item(1000, "alone"),
    ]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    folder = tmp_path_factory.mktemp("graph")
    return build(folder, documents(), literals=["time", "quantity", "globe-coordinate", "monolingualtext"])[1]


def exported(part: Part, file_format: Format) -> bytes:
    buffer = io.BytesIO()
    export_graph(part, file_format, buffer)
    return buffer.getvalue()


def rows_of(content: bytes, delimiter: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter=delimiter))


# --- what is written ------------------------------------------------------------------------------------------------


def test_graphml_opens_in_networkx_as_the_same_graph(graph: KnowledgeGraph, tmp_path: Path) -> None:
    assert export_graph(Part(graph), "graphml", tmp_path / "g.graphml.gz") == {
        "nodes": graph.node_count,
        "triples": graph.triple_count,
    }
    read = nx.read_graphml(tmp_path / "g.graphml.gz", force_multigraph=True)
    assert set(read.edges(keys=True)) == set(graph.edges(keys=True))
    assert set(read) == set(graph)
    for node, row in read.nodes(data=True):
        assert row == {name: graph.nodes[node][name] for name in ("label", "description", "kind")}
    assert read["Q183"]["Q64"]["P36"] == {"key": "P36", "label": 'the "capital", <so> & so', "rank": "preferred"}


@pytest.mark.parametrize(("file_format", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_tables_hold_each_triple_with_its_labels(graph: KnowledgeGraph, file_format: Format, delimiter: str) -> None:
    rows = rows_of(exported(Part(graph), file_format), delimiter)
    assert [(row["subject"], row["object"], row["relation"]) for row in rows] == list(graph.edges(keys=True))
    for row in rows:
        assert row["subject_label"] == graph.node(row["subject"]).label
        assert row["object_label"] == graph.node(row["object"]).label
        assert row["relation_label"] == graph.relation(row["relation"]).label
    assert [row["object"] for row in rows if row["rank"] == "preferred"] == ["Q64"]


def test_parquet_holds_the_same_table(graph: KnowledgeGraph) -> None:
    table = pq.read_table(io.BytesIO(exported(Part(graph), "parquet")))
    assert table.to_pylist() == rows_of(exported(Part(graph), "csv"), ",")


def test_ntriples_are_wikidatas_with_typed_literals(graph: KnowledgeGraph) -> None:
    text = exported(Part(graph), "ntriples").decode()
    entity, direct = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
    xsd = "http://www.w3.org/2001/XMLSchema#"
    for line in (
        f"<{entity}Q183> <{direct}P36> <{entity}Q64> .",
        f'<{entity}Q183> <{direct}P571> "1871-01-18T00:00:00Z"^^<{xsd}dateTime> .',
        f'<{entity}Q142> <{direct}P571> "-0479"^^<{xsd}gYear> .',
        f'<{entity}Q142> <{direct}P580> "0843-08"^^<{xsd}gYearMonth> .',
        f'<{entity}Q64> <{direct}P1082> "5"^^<{xsd}decimal> .',
        f'<{entity}Q64> <{direct}P625> "Point(2 1)"^^<http://www.opengis.net/ont/geosparql#wktLiteral> .',
        f'<{entity}Q90> <{direct}P1448> "Lutèce"@en .',
    ):
        assert line in text.splitlines()
    read = Graph().parse(data=text, format="nt")
    assert str(read.value(URIRef(entity + "Q64"), RDFS.label)) == graph.node("Q64").label
    assert str(read.value(URIRef(direct + "P36"), RDFS.label)) == graph.relation("P36").label


def test_ntriples_read_back_are_the_same_graph_of_entities(tmp_path: Path) -> None:
    build_graph(GraphConfig(dump=str(SAMPLE), workers=1), tmp_path / "first")
    first = KnowledgeGraph.open(tmp_path / "first")
    export_graph(Part(first), "ntriples", tmp_path / "graph.nt.gz")
    config = GraphConfig(dump=str(tmp_path / "graph.nt.gz"), entities="any", workers=1)
    build_graph(config, tmp_path / "second")
    second = KnowledgeGraph.open(tmp_path / "second")
    between = [
        {edge for edge in graph.edges(keys=True) if ":" not in edge[1]} for graph in (first, second)
    ]  # literals have a colon in their ids
    assert between[0] == between[1]
    for identifier in ("Q64", "Q183", "Q42"):
        if identifier in first:
            nodes = [graph.node(identifier) for graph in (first, second)]
            assert nodes[0].label == nodes[1].label
            assert set(nodes[0].aliases) == set(nodes[1].aliases)
    dates = [{edge for edge in graph.edges(keys=True) if edge[1].startswith("date:")} for graph in (first, second)]
    vague = {edge for edge in dates[0] if "century" in edge[1]}  # XML Schema has no type for it
    assert dates[0] - vague == dates[1]


def test_a_graph_of_another_vocabulary_leads_back_to_itself(tmp_path: Path) -> None:
    (tmp_path / "data.ttl").write_text(
        """@prefix dbr: <http://dbpedia.org/resource/> . @prefix dbo: <http://dbpedia.org/ontology/> .
        @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix ex: <https://example.org/x#> .
        @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
        dbr:Berlin a dbo:City ; rdfs:label "Berlin"@en ; dbo:country dbr:Germany ; dbo:population 3669491 ;
            dbo:founded "1237"^^xsd:gYear ; dbo:motto "Be\\nBerlin"@en ; ex:near ex:Ort .
        dbr:Germany a dbo:Country ; rdfs:label "Germany"@en ; dbo:capital dbr:Berlin .
        ex:Ort rdfs:label "Ort"@en ; dbo:country dbr:Germany .""",
        encoding="utf-8",
    )
    written = []
    for source, folder in (("data.ttl", "first"), ("first.nt", "second")):
        config = GraphConfig(
            dump=str(tmp_path / source),
            entities="labelled",
            literals=["time", "quantity", "string", "monolingualtext"],
            workers=1,
        )
        build_graph(config, tmp_path / folder)
        graph = KnowledgeGraph.open(tmp_path / folder)
        export_graph(Part(graph), "ntriples", tmp_path / f"{folder}.nt")
        written.append((tmp_path / f"{folder}.nt").read_bytes())
    assert written[0] == written[1]
    assert graph.node("dbr:Berlin").types == ("dbo:City",)
    found = open_sparql(graph).query("SELECT ?x { ?x a dbo:City ; dbo:country dbr:Germany }")
    assert [str(row[0]) for row in found] == ["http://dbpedia.org/resource/Berlin"]  # type: ignore[index]


# --- which part -----------------------------------------------------------------------------------------------------


def edges_of(part: Part) -> set[tuple[str, str, str]]:
    return {(row["subject"], row["object"], row["relation"]) for row in rows_of(exported(part, "csv"), ",")}


def nodes_of(part: Part) -> set[str]:
    return set(nx.parse_graphml(exported(part, "graphml").decode(), force_multigraph=True))


def test_relations_surroundings_and_entities_are_chosen(graph: KnowledgeGraph) -> None:
    country, berlin = graph.relation_number("P17"), graph.node_number("Q64")
    assert edges_of(Part(graph, [country])) == {("Q64", "Q183", "P17"), ("Q90", "Q142", "P17")}
    assert nodes_of(Part(graph, [country])) == {"Q64", "Q183", "Q90", "Q142"}
    assert nodes_of(Part(graph, [country], around=berlin, hops=5)) == {"Q64", "Q183"}
    assert nodes_of(Part(graph, around=berlin, hops=0)) == {"Q64"}
    assert "Q1000" in nodes_of(Part(graph, entities_only=True))
    assert not any(":" in node for node in nodes_of(Part(graph, entities_only=True)))
    assert {edge[2] for edge in edges_of(Part(graph, entities_only=True))} == {"P17", "P36"}


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_surroundings_are_networkxs_ball(graph: KnowledgeGraph, hops: int) -> None:
    ball = nx.ego_graph(graph.to_undirected(), "Q64", radius=hops)
    part = Part(graph, around=graph.node_number("Q64"), hops=hops)
    assert nodes_of(part) == set(ball)
    assert edges_of(part) == set(graph.subgraph(ball).edges(keys=True))


# --- any name -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        '"',
        "\t",
        "\n",
        "\r",
        "\r\n",
        "a\tb",
        '""',
        "<&>",
        "]]>",
        "\\",
        "\\n",
        "'",
        " x ",
        "日本",
        "\x1f",
        "\ufffe",
        "\x00",
    ]
)
# What XML cannot hold, and what Python's csv cannot read
storable = texts.map(lambda text: "".join(c for c in text if (c >= " " and c not in "\ufffe\uffff") or c in "\t\r\n"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(storable, storable), min_size=1, max_size=4), st.sampled_from("\t,"))
def test_any_value_survives_a_table(rows: list[tuple[str, str]], delimiter: str) -> None:
    table = pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names=["a", "b"])
    text = "".join(csv_lines(table, delimiter).to_pylist())
    assert [tuple(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)] == rows


@settings(max_examples=100, deadline=None)
@given(storable.filter(bool), storable.filter(bool), storable)
def test_any_name_survives_graphml(first: str, second: str, label: str) -> None:
    assume(first != second)
    nodes = pa.table(
        {"id": [first, second], "label": [label, second], "description": [label, ""], "kind": ["entity", "entity"]}
    )
    edge = pa.table(
        {"subject": [first], "object": [second], "relation": ["P1"], "relation_label": [label], "rank": [""]}
    )
    lines = [*graphml_nodes(nodes).to_pylist(), *graphml_edges(edge).to_pylist()]
    text = graphml_head() + "".join(lines).encode() + b"</graph></graphml>"
    read = nx.read_graphml(io.BytesIO(text), force_multigraph=True)
    assert read.nodes[first]["description"] == label
    assert read[first][second]["P1"]["label"] == label


@settings(max_examples=100, deadline=None)
@given(texts.filter(bool))
def test_any_name_survives_ntriples(name: str) -> None:
    row = pa.table({"label": [name], "description": [""], "aliases": pa.array([[name, ""]], pa.list_(pa.string()))})
    term = pa.array(["<urn:x>"])
    lines = [line for lines in ntriples_names(term, row, "en") for line in lines.to_pylist()]
    lines += ntriples_lines(term, term, term).to_pylist()
    assert len(lines) == 3
    read = Graph().parse(data="".join(lines).encode(), format="nt")
    assert str(read.value(URIRef("urn:x"), RDFS.label)) == name


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_packed_file_is_the_plain_one_packed(graph: KnowledgeGraph, tmp_path: Path) -> None:
    for name in ("one.nt.gz", "two.nt.gz"):
        export_graph(Part(graph), "ntriples", tmp_path / name)
    assert gzip.decompress((tmp_path / "one.nt.gz").read_bytes()) == exported(Part(graph), "ntriples")
    assert (tmp_path / "one.nt.gz").read_bytes() == (tmp_path / "two.nt.gz").read_bytes()


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(
    graph: KnowledgeGraph, tmp_path: Path, file_format: Format
) -> None:
    with pytest.raises(StorageError, match=r"absent does not exist: make it first"):
        export_graph(Part(graph), file_format, tmp_path / "absent" / "g")
    with pytest.raises(StorageError, match="It is a folder"):
        export_graph(Part(graph), file_format, tmp_path)
    if Path("/dev/full").exists():
        with pytest.raises(StorageError, match="The disk is full"):
            export_graph(Part(graph), file_format, Path("/dev/full"))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_file_of_before(graph: KnowledgeGraph, tmp_path: Path) -> None:
    target = tmp_path / "g.tsv"
    target.write_text("mine")

    def stop(*figures: Any, **details: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_graph(Part(graph), "tsv", target, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["g.tsv"]
    assert target.read_text() == "mine"


def test_parquet_is_not_packed_twice(graph: KnowledgeGraph, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave \.gz off"):
        export_graph(Part(graph), "parquet", tmp_path / "g.parquet.gz")


def test_memory_is_that_of_a_chunk_not_of_the_graph(graph: KnowledgeGraph) -> None:
    largest = 0

    class Sink(io.BytesIO):
        def write(self, data: Any) -> int:
            nonlocal largest
            largest = max(largest, len(data))
            return len(data)

    part = Part(graph)
    part.edge_chunks = lambda size: Part.edge_chunks(part, 2)  # type: ignore[method-assign]
    export_graph(part, "tsv", cast(BinaryIO, Sink()))
    assert 0 < largest < len(exported(Part(graph), "tsv")) / 2
    assert sum(len(edges) for _, edges in Part(graph).edge_chunks(3)) == graph.triple_count
    assert np.concatenate(list(Part(graph).node_chunks(2))).tolist() == list(range(graph.node_count))
