"""Queries: triple patterns and SPARQL find exactly what a search through all triples finds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdflib import Graph
from wikidata_documents import build, date, item, property_document, quantity, to_item

from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph, UnknownIdError
from kg.query.describe import describe_node, describe_relation
from kg.query.lookup import AmbiguousNameError, find_nodes, resolve_node, resolve_relation
from kg.query.pattern import count_solutions, parse_query, solutions
from kg.query.sparql import open_sparql

SAMPLE = Path(__file__).parents[2] / "data/sample/wikidata.json.gz"
TERMS = ["Q64", "Q183", "Q90", "?a", "?b", "?c", "_"]
RELATIONS = ["P17", "P36", "P47", "?r", "_"]


def documents() -> list[dict[str, Any]]:
    aliases = {"en": [{"language": "en", "value": "Deutschland"}]}
    born = date(571, "+1237-00-00T00:00:00Z", 9)
    return [
        property_document(17, "country"),
        property_document(36, "capital"),
        property_document(47, "shares border with"),
        item(64, "Berlin", claims=[to_item(17, 183), to_item(47, 64), quantity(1082, "+5"), born]),
        item(183, "Germany", claims=[to_item(36, 64, rank="preferred"), to_item(47, 142)], aliases=aliases),
        item(142, "France", claims=[to_item(36, 90), to_item(47, 183)]),
        item(90, "Paris", claims=[to_item(17, 142), quantity(1082, "+5")]),
        item(830, "Paris", title="Paris, Texas"),
        item(831, "Springfield", title="Springfield, Ohio"),
        item(832, "Springfield", title="Springfield, Texas"),
    ]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    return build(tmp_path_factory.mktemp("graph"), documents())[1]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    folder = tmp_path_factory.mktemp("sample") / "kg"
    build_graph(GraphConfig(dump=str(SAMPLE), workers=1), folder)
    return KnowledgeGraph.open(folder)


def answers(graph: KnowledgeGraph, *patterns: str) -> list[tuple[str, ...]]:
    query = parse_query(graph, patterns)
    rows = []
    for batch in solutions(graph, query):
        names = [
            [graph.relation_ids[n] if name in query.relations else graph.node_id(n) for n in batch[name].tolist()]
            for name in query.variables
        ]
        rows += list(zip(*names, strict=True)) if names else [()] * len(batch[""])
    return sorted(rows)


def searched(graph: KnowledgeGraph, patterns: list[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """The same by trying every combination of triples."""
    triples = [(s, r, o) for s, o, r in graph.edges(keys=True)]
    names = list(dict.fromkeys(term for pattern in patterns for term in pattern if term.startswith("?")))
    found = []
    for chosen in product(triples, repeat=len(patterns)):
        values: dict[str, str] = {}
        if all(
            term == "_" or values.setdefault(term, value) == value if term[0] in "?_" else term == value
            for pattern, triple in zip(patterns, chosen, strict=True)
            for term, value in zip(pattern, triple, strict=True)
        ):
            found.append(tuple(values[name] for name in names))
    return sorted(found)


# --- patterns -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*map(st.sampled_from, (TERMS, RELATIONS, TERMS))), min_size=1, max_size=3))
def test_joined_patterns_find_what_a_search_through_all_triples_finds(
    graph: KnowledgeGraph, patterns: list[tuple[str, str, str]]
) -> None:
    texts = [" ".join(pattern) for pattern in patterns]
    expected = searched(graph, patterns)
    assert answers(graph, *texts) == expected
    assert count_solutions(graph, parse_query(graph, texts)) == len(expected)


def test_terms_may_be_labels_aliases_prefixed_ids_and_iris(graph: KnowledgeGraph) -> None:
    expected = answers(graph, "?x P17 Q183")
    assert expected == [("Q64",)]
    for text in (
        "?x country Germany",
        "?x 'country' \"germany\"",
        "?x wdt:P17 wd:Q183",
        "?x P17 Deutschland .",
        "?x P17 Deutschland. ?x P47 ?x",
        "?x <http://www.wikidata.org/prop/direct/P17> <http://www.wikidata.org/entity/Q183>",
    ):
        assert answers(graph, text) == expected
    assert answers(graph, "?x 'shares border with' France . ?x P36 ?y") == [("Q183", "Q64")]
    assert answers(graph, "?x P1082 'quantity:5'") == [("Q64",), ("Q90",)]


def test_a_relation_alone_is_searched_only_as_far_as_is_asked(sample: KnowledgeGraph) -> None:
    batches: Iterator[dict[str, np.ndarray]] = solutions(sample, parse_query(sample, ["?a ?r ?b", "?c ?s ?d"]))
    assert len(next(batches)["?a"]) <= 1 << 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no pattern"),
        ("?x P17", "2 terms where three are needed"),
        ("?x P17 Q183 Q64", "more than three terms"),
        ("?x shares border with Q64", "quotation marks"),
        ('?x P17 "Germany', "not closed"),
        ("?1 P17 Q183", "no variable"),
        ("?x ?x Q183", "relation in one place"),
    ],
)
def test_what_is_no_pattern_is_explained(graph: KnowledgeGraph, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_query(graph, [text])


def test_unknown_and_ambiguous_names_are_answered_with_what_is_near(graph: KnowledgeGraph) -> None:
    with pytest.raises(UnknownIdError, match=r"'Berln'.*Q64 \(Berlin\)"):
        resolve_node(graph, "Berln")
    with pytest.raises(UnknownIdError, match=r"'Q184'.*Q183 \(Germany\)"):
        resolve_node(graph, "Q184")
    with pytest.raises(UnknownIdError, match=r"'captal'.*P36 \(capital\)"):
        resolve_relation(graph, "captal")
    with pytest.raises(AmbiguousNameError, match=r"stands for 2 nodes: Q831.*Q832"):
        resolve_node(graph, "springfield")
    assert resolve_node(graph, "Paris") == graph.node_number("Q90")  # the one whose name it is
    assert [graph.node_id(hit.number) for hit in find_nodes(graph, "paris")] == ["Q90", "Q830"]
    assert find_nodes(graph, " ") == []


# --- SPARQL ---------------------------------------------------------------------------------------------------------


def ask(graph: Graph, text: str) -> list[tuple[str, ...]]:
    return sorted(tuple(map(str, row)) for row in graph.query(text))  # type: ignore[union-attr]


def test_sparql_joins_triples_names_and_values(graph: KnowledgeGraph) -> None:
    opened = open_sparql(graph)
    assert ask(opened, "SELECT ?label WHERE { wd:Q64 wdt:P17 ?c . ?c rdfs:label ?label }") == [("Germany",)]
    assert ask(opened, 'SELECT ?x { ?x rdfs:label "Berlin"@en }') == ask(opened, 'SELECT ?x { ?x rdfs:label "Berlin" }')
    assert ask(opened, 'SELECT ?x { ?x skos:altLabel "Deutschland"@en }') == [("http://www.wikidata.org/entity/Q183",)]
    assert ask(opened, "SELECT ?l { ?p rdfs:label ?l . wd:Q64 ?p wd:Q183 }") == [("country",)]
    assert len(ask(opened, "SELECT ?x { ?x wdt:P1082 5 }")) == 2
    assert len(ask(opened, "SELECT ?x { ?x wdt:P1082 ?n . FILTER(?n > 4) }")) == 2
    assert len(ask(opened, 'SELECT ?x { ?x wdt:P571 "1237-01-01T00:00:00Z"^^xsd:dateTime }')) == 1
    assert ask(opened, "SELECT (YEAR(?d) AS ?y) { ?x wdt:P571 ?d }") == [("1237",)]
    assert opened.query("ASK { wd:Q183 wdt:P36/wdt:P17 wd:Q183 }").askAnswer


def test_sparql_over_the_arrays_answers_as_over_an_exported_graph(graph: KnowledgeGraph) -> None:
    opened = open_sparql(graph)
    copied = Graph()
    for triple in opened:
        copied.add(triple)
    for prefix, namespace in opened.namespaces():
        copied.bind(prefix, namespace)
    for text in (
        "SELECT * { ?s ?p ?o }",
        "SELECT ?s ?n { ?s wdt:P47 ?t . OPTIONAL { ?t wdt:P1082 ?n } }",
        "SELECT ?s (COUNT(?o) AS ?n) { ?s ?p ?o } GROUP BY ?s",
        "SELECT ?s { ?s wdt:P47+ wd:Q142 . MINUS { ?s wdt:P36 wd:Q64 } }",
        "SELECT ?x ?y { ?x wdt:P1082 ?n . ?y wdt:P1082 ?n }",
    ):
        assert ask(opened, text) == ask(copied, text)


def test_the_store_says_what_it_does_not_have_and_is_not_written(graph: KnowledgeGraph) -> None:
    opened = open_sparql(graph)
    assert ask(opened, "SELECT ?x { wd:Q64 wdt:P9999 ?x . ?x wdt:P17 wd:Q183 }") == []
    assert {str(iri).rsplit("/", 1)[1] for iri in opened.store.unknown} == {"P9999"}  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="read-only"):
        opened.add(next(iter(opened)))


# --- description ----------------------------------------------------------------------------------------------------


def test_a_description_shares_the_limit_among_the_relations(sample: KnowledgeGraph) -> None:
    whole = describe_node(sample, sample.node_number("Q183"), 10_000)
    assert sum(len(group["nodes"]) for group in whole["in"]) == whole["triples"]["in"] == sample.in_degree("Q183")
    assert sum(len(group["nodes"]) for group in whole["out"]) == sample.out_degree("Q183")
    few = describe_node(sample, sample.node_number("Q183"), 20)
    assert sum(len(group["nodes"]) for group in few["in"]) == 20
    assert [group["triples"] for group in few["in"]] == [group["triples"] for group in whole["in"]]
    assert min(len(group["nodes"]) for group in few["in"]) >= 1


def test_a_relation_is_described_by_its_ends(graph: KnowledgeGraph) -> None:
    found = describe_relation(graph, graph.relation_number("P36"), 1)
    assert (found["count"], found["subjects"], found["objects"]) == (2, 2, 2)
    assert found["examples"][0]["subject"]["label"] in ("Germany", "France")
    assert len(found["examples"]) == 1
