"""Which documents and statements of a dump become the graph: small dumps, and a plain reading of random ones."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_reading import PlainReading
from wikidata_documents import (
    adds_up,
    build,
    coordinate,
    date,
    item,
    property_document,
    qualified,
    quantity,
    random_documents,
    statement,
    string,
    to_item,
    triples,
    write_dump,
)

from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph

ALL_LITERALS = ["time", "quantity", "globe-coordinate", "monolingualtext", "string", "external-id", "url"]


def dropped(manifest: Any, unit: str = "documents") -> dict[str, int]:
    assert adds_up(manifest)
    return manifest.counts[unit]["dropped"]


# --- Entities --------------------------------------------------------------------------------------------------------


def test_any_entity_is_kept_under_a_label_of_any_language_or_its_id(tmp_path: Path) -> None:
    many = [
        item(1, "", article=False, claims=[to_item(6, 2)]),
        item(2, "", article=False, labels={code: {"value": code} for code in ("fr", "cs", "zh")}),
        item(3, "", title="Three"),
        item(4, labels={"mul": {"value": "four"}, "cs": {"value": "čtyři"}}, article=False),
    ]
    manifest, graph = build(tmp_path, many, entities="any")
    assert [graph.node(f"Q{number}").label for number in (1, 2, 3, 4)] == ["Q1", "cs", "Three", "four"]
    assert dropped(manifest) == {}


@pytest.mark.parametrize(("wiki", "found"), [("dewiki", {"Q2"}), ("commonswiki", {"Q3"}), (None, {"Q1"})])
def test_any_site_may_decide_about_articles(tmp_path: Path, wiki: str | None, found: set[str]) -> None:
    many = [
        item(number, sitelinks={site: {"title": f"On {site}"}}, claims=[to_item(6, number)])
        for number, site in enumerate(("enwiki", "dewiki", "commonswiki"), 1)
    ]
    manifest, graph = build(tmp_path, many, wiki=wiki)
    assert set(graph) == found
    assert {graph.node(name).name for name in found} == {f"On_{wiki or 'enwiki'}"}
    assert dropped(manifest) == {"no_article": 2}


def test_a_mention_of_the_site_is_no_article(tmp_path: Path) -> None:
    many = [item(1, claims=[to_item(6, 1)]), item(2, article=False, claims=[string(8, "enwiki")])]
    manifest, graph = build(tmp_path, many)
    assert set(graph) == {"Q1"}
    assert dropped(manifest) == {"no_article": 1}


LISTED = [item(number, claims=[to_item(6, 1)]) for number in (1, 2, 3, (1 << 23) + 5, 999_999_999)]


def listing(folder: Path, text: str) -> dict[str, Any]:
    (folder / "ids.txt").write_text(text)
    return {"entities_file": str(folder / "ids.txt")}


@pytest.mark.parametrize("entities", ["wikipedia", "labelled"])
def test_a_list_restricts_the_entities_to_its_ids(tmp_path: Path, entities: str) -> None:
    chosen = listing(tmp_path, f"\ufeffQ1 one\n\n# two\nQ3,three\nQ{(1 << 23) + 5}\nQ999999999\nQ77\r\n")
    many = [*LISTED, item(77, article=False)]
    manifest, graph = build(tmp_path, many, entities=entities, **chosen)
    labelled = {"Q77"} if entities == "labelled" else set()
    assert set(graph) == {"Q1", "Q3", "Q8388613", "Q999999999"} | labelled
    assert dropped(manifest) == {"not_listed": 1} | ({} if labelled else {"no_article": 1})


def test_a_changed_list_builds_anew_and_one_of_the_same_content_does_not(tmp_path: Path) -> None:
    build(tmp_path, LISTED, **listing(tmp_path, "Q1\nQ2\n"))
    manifest, graph = build(tmp_path, LISTED, **listing(tmp_path, "Q1\nQ3\n"))
    assert not manifest.reused
    assert set(graph) == {"Q1", "Q3"}
    (tmp_path / "other").mkdir()
    assert build(tmp_path, LISTED, **listing(tmp_path / "other", "Q1\nQ3\n"))[0].reused


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Q1\nQ02\n", r"line 2: 'Q02' is not an entity id of the form Q64"),
        ("Q1\n\nP31\n", "line 3: 'P31'"),
        ("Q1000000000", "line 1: 'Q1000000000'"),
        ("\n# Q1\n", "holds no id"),
        (None, "Cannot read the list of entities .*: No such file.*kg.entities_file"),
    ],
)
def test_an_unusable_list_is_a_configuration_error(tmp_path: Path, text: str | None, problem: str) -> None:
    options = {"entities_file": str(tmp_path / "absent")} if text is None else listing(tmp_path, text)
    with pytest.raises(ConfigError, match=problem):
        build(tmp_path, LISTED, **options)


TAXONOMY = [
    item(1, claims=[to_item(31, 10), to_item(6, 1)]),  # of a class three steps below the wanted one
    item(2, claims=[to_item(31, 13), to_item(6, 2)]),  # of the wanted one
    item(3, claims=[to_item(31, 40), to_item(6, 3)]),  # of another
    item(4, claims=[to_item(31, 20), to_item(6, 4)]),  # of one that was merged into 11
    item(5, claims=[to_item(31, 13), to_item(31, 40, rank="preferred"), to_item(6, 5)]),
    item(6, claims=[to_item(279, 13)]),  # itself a subclass, not an instance
    item(10, article=False, claims=[to_item(279, 11)]),
    item(11, article=False, claims=[to_item(279, 40, rank="deprecated"), to_item(279, 21)]),
    item(12, article=False, claims=[to_item(279, 13)]),
    item(13, article=False, claims=[to_item(279, 10)]),  # a cycle
    {"entity": "Q20", "redirect": "Q11"},
    {"entity": "Q21", "redirect": "Q12"},
]


@pytest.mark.parametrize("wanted", [["Q13"], ["Q99", "Q12"], ["Q21"]])
def test_classes_keep_instances_of_their_subclasses_by_way_of_items_without_article(
    tmp_path: Path, wanted: list[str]
) -> None:
    manifest, graph = build(tmp_path, TAXONOMY, classes=wanted)
    assert set(graph) == {"Q1", "Q2", "Q4"}
    assert dropped(manifest) == {"no_article": 4, "not_in_classes": 3}
    assert dropped(manifest, "statements")["not_in_classes"] == 5


def test_classes_work_on_any_entities_and_within_a_list(tmp_path: Path) -> None:
    _, graph = build(tmp_path / "a", TAXONOMY, classes=["Q13"], entities="any")
    assert set(graph) == {"Q1", "Q2", "Q4"}
    manifest, graph = build(tmp_path, TAXONOMY, classes=["Q13"], **listing(tmp_path, "Q1\nQ3\n"))
    assert set(graph) == {"Q1"}
    assert dropped(manifest) == {"not_listed": 8, "not_in_classes": 1}


def test_units_keep_their_labels_though_they_are_of_no_wanted_class(tmp_path: Path) -> None:
    many = [
        item(1, claims=[to_item(31, 5), quantity(2048, "+2", unit=2), quantity(2049, "+3", unit=3)]),
        item(2, "metre"),
        item(3, "gramme", article=False, claims=[quantity(2370, "+1", unit=3)]),
        item(5, "human"),
    ]
    manifest, graph = build(tmp_path, many, classes=["Q5"])
    assert {target for _, _, target in triples(graph)} == {"quantity:2 metre", "quantity:3 gramme"}
    assert dropped(manifest, "statements") == {"object_not_kept": 1}


def test_nothing_left_in_the_classes_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not in classes 6, no article 4.*Extend 'kg.classes'"):
        build(tmp_path, TAXONOMY, classes=["Q7777"])


def test_entities_of_low_degree_are_dropped_until_none_is_left(tmp_path: Path) -> None:
    chain = [item(number, claims=[to_item(6, number + 1)]) for number in range(1, 6)]
    ring = [item(number, claims=[to_item(6, 10 + (number - 9) % 3), to_item(7, 5)]) for number in (10, 11, 12)]
    lone = item(20, claims=[to_item(6, 20), date(571, "+1237-00-00T00:00:00Z", 9)])
    manifest, graph = build(tmp_path, [*chain, *ring, item(6), lone], min_degree=3)
    assert set(graph) == {"Q5", "Q10", "Q11", "Q12"}
    assert graph.number_of_edges() == 6
    assert manifest.counts["nodes"] == {"total": 4, "entity": 4}
    assert dropped(manifest) == {"low_degree": 6}
    assert dropped(manifest, "statements") == {"low_degree": 7}


def test_a_triple_from_an_entity_to_itself_is_one(tmp_path: Path) -> None:
    many = [item(1, claims=[to_item(6, 1)]), item(2, claims=[to_item(6, 2), to_item(7, 2)])]
    assert set(build(tmp_path, many, min_degree=2)[1]) == {"Q2"}


def test_nothing_left_of_so_high_a_degree_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"low degree 5.*Lower 'kg.min_degree'"):
        build(tmp_path, LISTED, min_degree=100)


# --- Languages -------------------------------------------------------------------------------------------------------


def test_labels_and_descriptions_come_from_the_first_language_that_has_one(tmp_path: Path) -> None:
    def texts(**of_language: str) -> dict[str, Any]:
        return {code.replace("_", "-"): {"language": code, "value": text} for code, text in of_language.items()}

    many = [
        item(1, labels=texts(en="1en", mul="1mul", de="1de"), descriptions=texts(de="d1"), claims=[to_item(6, 1)]),
        item(2, labels=texts(mul="2mul", en="2en"), descriptions=texts(fr="d2")),
        item(3, labels=texts(en="3en", mul="\u0007 "), descriptions=texts(en="d3", pt_br="d3pt")),
        item(4, labels=texts(pt_br="4pt"), aliases={"pt-br": [{"value": "a"}], "en": [{"value": "b"}]}),
        item(5, labels=texts(fr="5fr")),
    ]
    options: dict[str, Any] = {"entities": "labelled", "wiki": "enwiki", "language": "de"}
    _, graph = build(tmp_path, many, **options, fallback_languages=["mul", "pt-br", "en"])
    labels = [graph.node(f"Q{number}").label for number in (1, 2, 3, 4, 5)]
    assert labels == ["1de", "2mul", "3en", "4pt", "item 5"]
    assert [graph.node(f"Q{number}").description for number in (1, 2, 3, 4)] == ["d1", "", "d3pt", ""]
    assert graph.node("Q4").aliases == ("a",)
    _, graph = build(tmp_path, many, **options, fallback_languages=[])
    assert [graph.node(f"Q{number}").label for number in (1, 2)] == ["1de", "item 2"]


# --- Statements ------------------------------------------------------------------------------------------------------


def test_each_datatype_is_kept_on_its_own(tmp_path: Path) -> None:
    claims = {
        "external-id": string(1, "id", "external-id"),
        "url": string(2, "http://example.org", "url"),
        "commonsMedia": string(3, "A.jpg", "commonsMedia"),
        "string": string(4, "a"),
        "globe-coordinate": coordinate(5, 1, 2),
    }
    for datatype, claim in claims.items():
        many = [item(1, claims=claims.values())]
        manifest, graph = build(tmp_path / datatype, many, literals=[datatype])
        assert [relation for _, relation, _ in triples(graph)] == [claim["mainsnak"]["property"]]
        assert dropped(manifest, "statements") == {"datatype_not_kept": 4}


@pytest.mark.parametrize("kept", ["string", "external-id"])
def test_a_string_of_untold_datatype_is_what_the_document_of_its_property_says(tmp_path: Path, kept: str) -> None:
    claims = [string(number, "x", None) for number in (11, 12, 13)]
    many = [item(1, claims=[qualified(to_item(6, 1), *claims), *claims])]
    documents = [property_document(11, "motto", "string"), property_document(12, "identifier", "external-id")]
    manifest, graph = build(tmp_path, [*many, *documents], literals=[kept], qualifiers=True)
    found = {"string": {"P11", "P13"}, "external-id": {"P12"}}[kept]
    assert {relation for _, relation, _ in triples(graph)} == {"P6"} | found
    assert dropped(manifest, "statements") == {"datatype_not_kept": 3 - len(found)}
    assert {relation for relation, _ in graph.edges["Q1", "Q1", "P6"]["qualifiers"]} == found
    assert manifest.counts["qualifiers_dropped"] == {"datatype_not_kept": 3 - len(found)}


def test_qualifiers_are_a_column_on_demand(tmp_path: Path) -> None:
    nothing = statement(582, None, "", "time", snaktype="novalue")
    qualifiers = [
        to_item(1, 20),
        to_item(1, 404),
        date(580, "+1990-10-03T00:00:00Z"),
        quantity(1114, "+5", unit=20),
        quantity(1115, "+6", unit=404),
        nothing,
        string(12, "id", "external-id"),
        date(581, "+0000-00-00T00:00:00Z"),
    ]
    many = [
        item(1, claims=[qualified(to_item(6, 2), *qualifiers), to_item(7, 2), qualified(to_item(7, 1))]),
        item(2, "metre"),
        {"entity": "Q20", "redirect": "Q2"},
    ]
    manifest, graph = build(tmp_path, many, qualifiers=True)
    assert graph.edges["Q1", "Q2", "P6"]["qualifiers"] == [
        ("P1", "Q2"),
        ("P1", "Q404"),
        ("P580", "date:3 October 1990"),
        ("P1114", "quantity:5 metre"),
        ("P1115", "quantity:6 Q404"),
    ]
    assert graph.edges["Q1", "Q2", "P7"]["qualifiers"] == graph.edges["Q1", "Q1", "P7"]["qualifiers"] == []
    assert manifest.counts["qualifiers_dropped"] == {"datatype_not_kept": 1, "novalue": 1, "unreadable_value": 1}
    assert adds_up(manifest)

    manifest, graph = build(tmp_path, many)
    assert not manifest.reused
    assert "qualifiers" not in graph.edges["Q1", "Q2", "P6"]
    assert "qualifiers" not in pq.read_schema(tmp_path / "kg" / "triples.parquet").names
    assert "qualifiers_dropped" not in manifest.counts


def test_of_equal_triples_the_preferred_one_has_the_qualifiers(tmp_path: Path) -> None:
    times = [date(580, f"+{year}-00-00T00:00:00Z", 9) for year in (1990, 1991, 1992, 1993)]
    claims = [
        qualified(to_item(6, 2), times[0]),
        qualified(to_item(7, 2), times[0]),
        qualified(to_item(7, 20, rank="preferred"), times[1]),
        qualified(to_item(7, 2, rank="preferred"), times[2]),
        qualified(to_item(6, 20), times[3]),
    ]
    many = [item(1, claims=claims), item(2), {"entity": "Q20", "redirect": "Q2"}]
    _, graph = build(tmp_path, many, qualifiers=True)
    assert graph.edges["Q1", "Q2", "P6"]["qualifiers"] == [("P580", "date:1990")]
    assert graph.edges["Q1", "Q2", "P7"]["qualifiers"] == [("P580", "date:1991")]


# --- The same as a plain reading -------------------------------------------------------------------------------------

FORMS = ["compact", "spaced", "id first", "shuffled"]


def form(document: dict[str, Any], name: str, draw: random.Random) -> bytes:
    """A document as JSON in one of several spellings; of these only the first is that of the official dump."""
    fields = list(document.items())
    if name == "shuffled":
        draw.shuffle(fields)
    elif name == "id first":
        fields.sort(key=lambda field: field[0] != "id")
    separators = (", ", ": ") if name == "spaced" else (",", ":")
    return json.dumps(dict(fields), separators=separators).encode()


def options(draw: random.Random) -> dict[str, Any]:
    """A selection in which one thing or another is set."""
    return {
        "entities": draw.choice(["wikipedia", "wikipedia", "labelled", "any"]),
        "wiki": draw.choice([None, None, "commonswiki"]),
        "language": draw.choice(["en", "en", "de"]),
        "fallback_languages": draw.choice([["mul"], [], ["fr", "mul"]]),
        "classes": draw.choice([[], [], ["Q7"], ["Q20", "Q5"]]),
        "drop_classes": draw.choice([[], [], ["Q6"]]),
        "min_degree": draw.choice([0, 0, 1, 2, 3]),
        "relations": draw.choice([[], [], ["P6", "P571", "P12"]]),
        "literals": draw.choice([[], ALL_LITERALS, draw.sample(ALL_LITERALS, 3)]),
        "qualifiers": draw.random() < 0.5,
    }


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_every_selection_of_every_dump_is_that_of_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("graph")
    documents = random_documents(draw)
    selection = options(draw)
    listed = draw.choice([None, None, [f"Q{number}" for number in draw.sample(range(1, 11), 6)]])
    if listed is not None:
        selection |= listing(folder, "\n".join(listed))
    expected = PlainReading(documents, GraphConfig(**selection), listed).graph()
    outputs = []
    for name in ("compact", draw.choice(FORMS)):
        dump = write_dump(folder / name, [*(form(document, name, draw) for document in documents), b"{bad"])
        config = GraphConfig(dump=str(dump), workers=1, slice_mb=draw.choice([128, 0.002]), **selection)
        if not expected.triples:
            with pytest.raises(InputError, match=r"of .* (passes the filters|is left)"):
                build_graph(config, folder / "kg")
            return
        manifest = build_graph(config, folder / "kg" / name)
        assert adds_up(manifest)
        assert manifest.counts["undecodable"] == 1
        outputs.append({file: digest for file, digest in manifest.outputs.items() if file != "quarantine.jsonl"})
    assert outputs[0] == outputs[1]
    graph = KnowledgeGraph.open(folder / "kg" / "compact")
    assert set(graph) == expected.nodes
    found = {(subject, relation, target): edge for subject, target, relation, edge in graph.edges(keys=True, data=True)}
    assert {triple: edge["rank"] for triple, edge in found.items()} == expected.triples
    if selection["qualifiers"]:
        assert {triple: edge["qualifiers"] for triple, edge in found.items()} == expected.qualifiers


def test_labels_of_skipped_units_are_known_where_they_have_conversions(tmp_path: Path) -> None:
    def documents(*claims: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            item(1, claims=[quantity(2048, "+2", unit=2), to_item(6, 1)]),
            item(2, "ell", article=False, claims=claims),
        ]

    for number, claims in enumerate([[], [quantity(2370, "+1", unit=2)]]):
        many = documents(*claims)
        plain = [json.dumps(document).encode() for document in many]
        _, skimmed = build(tmp_path / f"a{number}", many)
        _, decoded = build(tmp_path / f"b{number}", plain)
        assert skimmed.has_edge("Q1", "quantity:2 ell") == bool(claims)
        assert decoded.has_edge("Q1", "quantity:2 ell") == bool(claims)


# --- Real documents --------------------------------------------------------------------------------------------------


def test_facts_of_real_documents_are_found_in_the_graph(tmp_path: Path) -> None:
    shared = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    dump = shared / "wikidata" / "entities-49.dump.json.gz"
    if not dump.exists():
        pytest.skip(f"no reference dump at {dump}; set SYNTHIE_SHARED_DATA to the folder that holds it")
    config = GraphConfig(dump=str(dump), entities="labelled", literals=ALL_LITERALS, qualifiers=True)
    manifest = build_graph(config, tmp_path / "kg")
    assert adds_up(manifest)
    graph = KnowledgeGraph.open(tmp_path / "kg")
    lines = gzip.decompress(dump.read_bytes()).decode().splitlines()
    documents = [json.loads(line.strip("[],")) for line in lines if line.strip("[], ")]
    expected = PlainReading(documents, config).graph()
    assert set(graph) == expected.nodes
    found = {(subject, relation, target): edge for subject, target, relation, edge in graph.edges(keys=True, data=True)}
    assert {triple: edge["rank"] for triple, edge in found.items()} == expected.triples
    assert {triple: edge["qualifiers"] for triple, edge in found.items()} == expected.qualifiers
    assert ("Q64", "P190", "Q84") in found  # Berlin, twinned with London
    assert {target.split(":")[0] for target in graph if ":" in target} == {"date", "quantity", "coordinate", "string"}
    assert len(found) > 1000
