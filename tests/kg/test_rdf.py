"""Graphs from RDF: Wikidata's truthy dump, DBpedia, ontologies of one's own."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kg.rdf.build
import kg.rdf.slices
from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph
from kg.parallel import in_processes, in_this_process
from kg.rdf.build import build_rdf
from kg.rdf.config import RdfConfig
from kg.rdf.terms import LiteralForm, Prefixes, local_name
from kg.stage import no_progress
from tests.kg.rdf_documents import (
    ABOUT,
    LABEL,
    PACKERS,
    WD,
    WDT,
    XSD,
    aside,
    build,
    check_sum,
    claim,
    config,
    content,
    graph_of,
    item,
    property_label,
    triples_of,
    truthy,
)

EX = "https://example.org/"
TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
SUBCLASS = "<http://www.w3.org/2000/01/rdf-schema#subClassOf>"
SHARED = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def ex(name: str) -> str:
    return f"<{EX}{name}>"


ONTOLOGY = f"""
@prefix ex: <{EX}> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix xsd: <{XSD}> .

ex:worksFor a owl:ObjectProperty ; rdfs:label "works for"@en ; rdfs:comment "is employed by"@en .
ex:Person a owl:Class ; rdfs:label "person" .
ex:Employee rdfs:subClassOf ex:Person ; rdfs:label "employee" .
ex:ada a ex:Employee ; rdfs:label "Ada \\"the first\\" Löwe" ; ex:worksFor ex:acme ; ex:born "1815-12-10"^^xsd:date ;
    ex:knows [ rdfs:label "somebody" ] , ex:nobody .
ex:acme rdfs:label "Acme"@en , "ACME Inc."@en , "Acmé"@fr ; ex:staff 12 ; ex:share 0.5 ; ex:founded "1999"^^xsd:gYear ;
    ex:motto "Quality first" ; ex:partner ex:ada .
"""


def test_wikidatas_truthy_dump_needs_no_options(tmp_path: Path) -> None:
    graph, counts = graph_of(truthy(), tmp_path)
    assert list(graph)[:3] == ["Q64", "Q183", "Q515"]
    assert triples_of(graph) == {
        ("Q64", "P31", "Q515"),
        ("Q64", "P17", "Q183"),
        ("Q64", "P1376", "Q183"),
        ("Q183", "P36", "Q64"),
        ("Q64", "P1082", "quantity:3755251"),
        ("Q64", "P571", "date:28 October 1237"),
        ("Q64", "P625", "coordinate:52°31′0″N 13°23′0″E"),
    }
    berlin = graph.node("Q64")
    assert (berlin.name, berlin.label, berlin.description) == ("Berlin", "Berlin", "what Berlin is")
    assert (berlin.aliases, berlin.types) == (("Berlin alias",), ("Q515",))
    assert (graph.relation("P36").label, graph.relation("P1376").label) == ("capital", "P1376")
    statements = counts["statements"]
    assert (statements["articles"], statements["labels"], statements["triples"]) == (3, 5, 7)
    assert statements["dropped"] == {
        "datatype_not_kept": 2,
        "duplicate": 6,
        "no_article": 6,
        "not_a_relation": 4,
        "object_not_kept": 1,
        "other_language": 4,
        "other_page": 4,
        "somevalue": 1,
    }


def test_truthy_ntriples_and_the_json_dump_give_the_same_ids_and_triples(tmp_path: Path) -> None:
    from tests.kg.wikidata_documents import item as document
    from tests.kg.wikidata_documents import property_document, statement

    def to(relation: int, target: int) -> dict[str, Any]:
        value = {"entity-type": "item", "numeric-id": target, "id": f"Q{target}"}
        return statement(relation, value, "wikibase-entityid", "wikibase-item")

    day = {"time": "+1237-10-28T00:00:00Z", "precision": 11, "calendarmodel": f"{WD}Q1985727"}
    documents = [
        document(183, "Germany", claims=[to(36, 64)]),
        document(1000, "big", claims=[to(17, 183), to(31, 9)]),
        document(9, "small"),
        document(
            64,
            "Berlin",
            claims=[
                to(17, 183),
                statement(571, day, "time", "time"),
                statement(1082, {"amount": "+3755251", "unit": "1"}, "quantity", "quantity"),
            ],
        ),
        property_document(36, "capital"),
    ]
    dump = tmp_path / "dump.json"
    dump.write_text("\n".join(json.dumps(document) for document in documents))
    build_graph(GraphConfig(dump=str(dump)), tmp_path / "json")
    expected = KnowledgeGraph.open(tmp_path / "json")
    lines = [
        *item(1000, "big"),
        claim(1000, 17, 183),
        claim(1000, 31, 9),
        *item(64, "Berlin"),
        claim(64, 17, 183),
        claim(64, 571, f'"1237-10-28T00:00:00Z"^^<{XSD}dateTime>'),
        claim(64, 1082, f'"+3755251"^^<{XSD}decimal>'),
        *item(9, "small"),
        *item(183, "Germany"),
        claim(183, 36, 64),
        property_label(36, "capital"),
    ]
    graph, _ = graph_of(lines, tmp_path / "rdf")
    assert list(graph) == list(expected)
    assert triples_of(graph) == triples_of(expected)
    assert [graph.node(name).name for name in graph] == [expected.node(name).name for name in expected]
    for name in ("out_offsets", "out_relations", "out_objects", "in_subjects"):
        assert (getattr(graph, name) == getattr(expected, name)).all()


def test_an_own_ontology_in_turtle_needs_no_options(tmp_path: Path) -> None:
    (tmp_path / "own.ttl").write_text(ONTOLOGY)
    manifest = build(config(tmp_path / "own.ttl", literals=["time", "quantity", "string"]), tmp_path / "kg", "turtle")
    check_sum(manifest.counts)
    graph = KnowledgeGraph.open(tmp_path / "kg")
    assert triples_of(graph) == {
        (f"{EX}ada", f"{EX}worksFor", f"{EX}acme"),
        (f"{EX}ada", f"{EX}born", "date:10 December 1815"),
        (f"{EX}acme", f"{EX}partner", f"{EX}ada"),
        (f"{EX}acme", f"{EX}staff", "quantity:12"),
        (f"{EX}acme", f"{EX}share", "quantity:0.5"),
        (f"{EX}acme", f"{EX}founded", "date:1999"),
        (f"{EX}acme", f"{EX}motto", "string:Quality first"),
        (f"{EX}Employee", "rdfs:subClassOf", f"{EX}Person"),
    }
    assert list(graph) == sorted(graph)
    ada, acme = graph.node(f"{EX}ada"), graph.node(f"{EX}acme")
    assert (ada.name, ada.types) == ('Ada_"the_first"_Löwe', (f"{EX}Employee",))
    assert (acme.label, acme.aliases) == ("ACME Inc.", ("Acme",))
    works_for, staff = graph.relation(f"{EX}worksFor"), graph.relation(f"{EX}staff")
    assert (works_for.label, works_for.description, staff.label) == ("works for", "is employed by", "staff")
    dropped = manifest.counts["statements"]["dropped"]
    assert (dropped["blank_node"], dropped["object_not_kept"]) == (2, 1)
    assert json.loads(graph.node("date:1999").value) == {"value": "1999", "datatype": f"{XSD}gYear"}


def test_dbpedia_is_shortened_and_named_by_its_articles(tmp_path: Path) -> None:
    resource, ontology = "http://dbpedia.org/resource/", "http://dbpedia.org/ontology/"
    page = "<http://xmlns.com/foaf/0.1/isPrimaryTopicOf>"
    lines = [
        f'<{resource}S%C3%A3o_Paulo> {LABEL} "São Paulo"@en .',
        f"<{resource}S%C3%A3o_Paulo> {page} <http://en.wikipedia.org/wiki/S%C3%A3o_Paulo> .",
        f"<{resource}S%C3%A3o_Paulo> <{ontology}country> <{resource}Brazil> .",
        f"<{resource}S%C3%A3o_Paulo> {TYPE} <{ontology}City> .",
        f"<{resource}S%C3%A3o_Paulo> <http://www.w3.org/2002/07/owl#sameAs> <{WD}Q174> .",
        f"<{resource}Brazil> {page} <http://en.wikipedia.org/wiki/Brazil> .",
        f'<{resource}Brazil> <{ontology}areaTotal> "8.515767E12"^^<{XSD}double> .',
        f'<{ontology}country> {LABEL} "country"@en .',
    ]
    graph, counts = graph_of(lines, tmp_path)
    assert triples_of(graph) == {
        ("dbr:S%C3%A3o_Paulo", "dbo:country", "dbr:Brazil"),
        ("dbr:Brazil", "dbo:areaTotal", "quantity:8515767000000"),
    }
    city = graph.node("dbr:S%C3%A3o_Paulo")
    assert (city.name, city.label, city.types) == ("São_Paulo", "São Paulo", ("dbo:City",))
    assert graph.node("dbr:Brazil").label == "Brazil"
    assert counts["statements"]["articles"] == 2


def test_lexemes_are_no_entities(tmp_path: Path) -> None:
    lexical = "<http://www.w3.org/ns/lemon/ontolex#LexicalEntry>"
    word = [f'{ex("word")} {LABEL} "word" .', f"{ex('word')} {TYPE} {lexical} ."]
    thing = [f'{ex("thing")} {LABEL} "thing" .', f"{ex('thing')} {ex('r')} {ex('thing')} ."]
    graph, counts = graph_of([*word, *thing, f"{ex('word')} {ex('r')} {ex('thing')} ."], tmp_path)
    assert list(graph) == [f"{EX}thing"]
    assert counts["statements"]["dropped"] == {"not_an_entity": 3}


@pytest.mark.parametrize("name", ["dump-chunk.ttl", "lexemes.ttl"])
def test_real_turtle_of_wikidata_without_claims_of_items_says_what_is_missing(tmp_path: Path, name: str) -> None:
    source = SHARED / "wikidata" / name
    if not source.exists():
        pytest.skip(f"{source} is absent; it is a chunk of Wikidata's Turtle dump")
    with pytest.raises(InputError, match="passes the filters"):
        build(config(source, entities="labelled"), tmp_path / "kg", "turtle")


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("slice_mb", [128, 0.001])
def test_packing_and_slicing_leave_no_trace(tmp_path: Path, suffix: str, slice_mb: float) -> None:
    lines = truthy()
    (tmp_path / "plain.nt").write_text("\n".join(lines))
    expected = build(config(tmp_path / "plain.nt"), tmp_path / "expected")
    dump = tmp_path / f"dump.{suffix}"
    pieces = ["\n".join(lines[start : start + 7]) + "\n" for start in range(0, len(lines), 7)]
    dump.write_bytes(b"".join(PACKERS[suffix](piece.encode()) for piece in pieces))
    manifest = build(config(dump, slice_mb=slice_mb), tmp_path / "kg")
    assert content(tmp_path / "kg") == content(tmp_path / "expected")
    assert manifest.counts == expected.counts


def test_turtle_and_ntriples_give_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    (tmp_path / "dump.ttl").write_text("@prefix wd: <http://www.wikidata.org/entity/> .\n" + "\n".join(truthy()))
    build(config(tmp_path / "dump.nt"), tmp_path / "nt")
    build(config(tmp_path / "dump.ttl"), tmp_path / "ttl", "turtle")
    assert content(tmp_path / "nt") == content(tmp_path / "ttl")


def test_processes_units_and_the_order_of_lines_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    build(config(tmp_path / "dump.nt"), tmp_path / "expected")
    (tmp_path / "kg").mkdir()
    options = config(tmp_path / "dump.nt", slice_mb=0.002)
    build_rdf(options, "ntriples", [], tmp_path / "kg", mapper=in_processes(2), progress=no_progress)
    assert content(tmp_path / "kg") == content(tmp_path / "expected")
    monkeypatch.setattr(kg.rdf.slices, "_UNIT_BYTES", 0)
    (tmp_path / "turned.nt").write_text("\n".join(reversed(truthy())))
    build(config(tmp_path / "turned.nt", slice_mb=0.002), tmp_path / "turned")
    assert content(tmp_path / "turned") == content(tmp_path / "expected")


def test_finished_slices_are_not_read_again_after_a_crash(tmp_path: Path) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    options = config(tmp_path / "dump.nt", slice_mb=0.001)
    read: list[int] = []

    def crashing(function: Any, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        for task in tasks[:3]:
            read.append(task.part.number)
            yield function(task)
        raise KeyboardInterrupt

    def recording(function: Any, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        for task in tasks:
            read.append(task.part.number)
            yield function(task)

    folder = tmp_path / "kg"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        build_rdf(options, "ntriples", [], folder, mapper=crashing, progress=no_progress)
    build_rdf(options, "ntriples", [], folder, mapper=recording, progress=no_progress)
    assert len(read) > 4
    assert read == list(range(len(read)))
    build(config(tmp_path / "dump.nt"), tmp_path / "expected")
    assert content(folder) == content(tmp_path / "expected")


def _crash_after(count: int, options: GraphConfig, folder: Path, kind: str = "ntriples") -> Path:
    """Read so many slices, crash; the folder of the parts."""

    def crashing(function: Any, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        yield from map(function, tasks[:count])
        raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        build_rdf(options, kind, [], folder, mapper=crashing, progress=no_progress)
    (parts,) = folder.glob(".parts-*")
    return parts


@pytest.mark.parametrize("damage", ["gone", "cut", "report"])
def test_a_slice_of_which_a_file_is_not_whole_is_read_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    build(config(tmp_path / "dump.nt"), tmp_path / "expected")
    options, folder = config(tmp_path / "dump.nt", slice_mb=0.001), tmp_path / "kg"
    parts = _crash_after(3, options, folder)
    name = "000001.json" if damage == "report" else "000001-000-links.arrow"
    if damage == "gone":
        (parts / name).unlink()
    else:
        (parts / name).write_bytes((parts / name).read_bytes()[:-7])
    read: list[int] = []

    def recording(function: Any, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        read.extend(task.part.number for task in tasks)
        yield from map(function, tasks)

    build_rdf(options, "ntriples", [], folder, mapper=recording, progress=no_progress)
    assert read[:2] == [1, 3]
    assert content(folder) == content(tmp_path / "expected")


def test_parts_of_other_settings_have_another_folder_and_go(tmp_path: Path) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    folder = tmp_path / "kg"
    found = [
        _crash_after(1, config(tmp_path / "dump.nt", **options), folder)
        for options in ({}, {"language": "de"}, {"slice_mb": 0.001}, {"workers": 1})
    ]
    assert len(set(found)) == 3
    assert found[0] == found[3]
    build_rdf(config(tmp_path / "dump.nt"), "ntriples", [], folder, mapper=in_this_process, progress=no_progress)
    assert list(folder.glob(".parts-*")) == found[:1]


def test_turtle_is_not_parsed_again_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.ttl").write_text(ONTOLOGY)
    options, folder = config(tmp_path / "own.ttl"), tmp_path / "kg"
    _crash_after(0, options, folder, "turtle")
    monkeypatch.setattr(kg.rdf.build, "write_ntriples", None)
    build_rdf(options, "turtle", [], folder, mapper=in_this_process, progress=no_progress)


def test_an_error_in_between_closes_the_mapper(tmp_path: Path) -> None:
    (tmp_path / "dump.nt").write_text("junk\n" * 9 + "\n".join(truthy()))
    closed: list[bool] = []

    def mapper(function: Any, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        try:
            yield from map(function, tasks)
        finally:
            closed.append(True)

    (tmp_path / "kg").mkdir()
    options = config(tmp_path / "dump.nt", slice_mb=0.00002, max_bad_lines=4)
    with pytest.raises(InputError, match="more than 4 lines") as caught:
        build_rdf(options, "ntriples", [], tmp_path / "kg", mapper=mapper, progress=no_progress)
    assert closed, caught  # whose traceback would keep the generator alive


def test_parts_of_slices_cut_otherwise_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    folder = tmp_path / "kg"
    folder.mkdir()

    def crashing(function: Any, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        yield function(tasks[0])
        raise KeyboardInterrupt

    options = config(tmp_path / "dump.nt", slice_mb=0.001)
    with pytest.raises(KeyboardInterrupt):
        build_rdf(options, "ntriples", [], folder, mapper=crashing, progress=no_progress)
    options = config(tmp_path / "dump.nt", slice_mb=0.002)
    build_rdf(options, "ntriples", [], folder, mapper=in_this_process, progress=no_progress)
    build(config(tmp_path / "dump.nt"), tmp_path / "expected")
    assert content(folder) == content(tmp_path / "expected")


def test_lines_that_are_no_statement_are_set_aside_with_file_and_offset(tmp_path: Path) -> None:
    lines = [line.encode() for line in truthy()]
    bad = {5: b"junk", 20: b'<http://e/a> <http://e/p> "\xff" .', 30: b"<http://e/a> <http://e/p> ."}
    for place, line in bad.items():
        lines.insert(place, line)
    text = b"\n".join(lines) + b"\n"
    (tmp_path / "dump.nt").write_bytes(text)
    counts = build(config(tmp_path / "dump.nt", slice_mb=0.001), tmp_path / "kg").counts
    check_sum(counts)
    assert counts["undecodable"] == 3
    records = aside(tmp_path / "kg")
    assert [record["offset"] for record in records] == [text.index(line) for line in bad.values()]
    assert {record["file"] for record in records} == {str(tmp_path / "dump.nt")}
    assert [record["line"] for record in records] == [line.decode("utf-8", "backslashreplace") for line in bad.values()]
    assert "UTF-8" in records[1]["reason"]
    with pytest.raises(InputError, match=r"more than 2 lines that are no N-Triples.*kg\.max_bad_lines"):
        build(config(tmp_path / "dump.nt", max_bad_lines=2), tmp_path / "strict")


def test_quarantine_is_in_the_order_of_the_file_whatever_the_slices(tmp_path: Path) -> None:
    pieces = ["\n".join(truthy()[start : start + 7]) + "\n" for start in range(0, len(truthy()), 7)]
    pieces[1] += "one\u2028\x85bad\n"
    pieces[5] += "two\n"
    packed = [gzip.compress(piece.encode()) for piece in pieces]
    packed[3] = packed[3][:20] + bytes(20) + packed[3][40:]
    (tmp_path / "dump").write_bytes(b"".join(packed))
    found = []
    for number, slice_mb in enumerate((1, 0.001, 0.0003)):
        build(config(tmp_path / "dump", slice_mb=slice_mb), tmp_path / str(number))
        found.append(aside(tmp_path / str(number)))
    assert found == found[:1] * 3
    told = [record.get("byte", record.get("line")) for record in found[0]]
    assert told == ["one\u2028\x85bad", len(b"".join(packed[:3])), "two"]


@pytest.mark.parametrize("slice_mb", [1, 0.001])
def test_bad_lines_are_many_by_the_limit_alone_wherever_they_stand(tmp_path: Path, slice_mb: float) -> None:
    (tmp_path / "dump.nt").write_text("\u2028junk\x85\n" * 400 + "\n".join(truthy()))
    counts = build(config(tmp_path / "dump.nt", slice_mb=slice_mb), tmp_path / "kg").counts
    assert counts["undecodable"] == 400
    with pytest.raises(InputError, match=r"more than 399 lines|none of its first 400 lines"):
        build(config(tmp_path / "dump.nt", slice_mb=slice_mb, max_bad_lines=399), tmp_path / "strict")
    (tmp_path / "late.nt").write_text("\n".join(truthy()) + "\n" + "\u2028junk\x85\n" * 21)
    with pytest.raises(InputError, match="more than 20 lines"):
        build(config(tmp_path / "late.nt", slice_mb=slice_mb, max_bad_lines=20), tmp_path / "late")


@pytest.mark.parametrize("lines", [3, 2000])
@pytest.mark.parametrize("slice_mb", [1, 0.001])
def test_what_is_no_ntriples_at_all_is_said_to_be_none(tmp_path: Path, lines: int, slice_mb: float) -> None:
    (tmp_path / "dump.nt").write_text("<http://e/s> <http://e/p> object .\n" * lines)
    with pytest.raises(InputError, match=r"dump\.nt is not N-Triples: none of its .*begins with .<http://e/s> <http"):
        build(config(tmp_path / "dump.nt", slice_mb=slice_mb), tmp_path / "kg")


def test_malformed_turtle_is_refused_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "bad.ttl").write_text("@prefix ex: <https://example.org/> .\n\nex:a ex:b ex:c .\nex:a ex:b ] .\n")
    with pytest.raises(InputError, match=r"bad\.ttl is not Turtle: line 4"):
        build(config(tmp_path / "bad.ttl"), tmp_path / "kg", "turtle")
    (tmp_path / "cut.ttl").write_text("@prefix ex: <https://example.org/> .\nex:a ex:b ")
    with pytest.raises(InputError, match=r"cut\.ttl is not Turtle"):
        build(config(tmp_path / "cut.ttl"), tmp_path / "kg", "turtle")


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"language": "fr", "fallback_languages": []}, "'kg.entities' to 'labelled'"),
        ({"classes": ["Q5"]}, r"Extend 'kg\.classes'"),
        ({"min_degree": 50}, r"Lower 'kg\.min_degree'"),
    ],
)
def test_if_nothing_is_left_the_error_names_the_filter(tmp_path: Path, options: dict[str, Any], mend: str) -> None:
    with pytest.raises(InputError, match=mend):
        graph_of(truthy(), tmp_path, **options)


def test_relations_are_chosen_by_their_short_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(truthy()))
    manifest = build(config(tmp_path / "dump.nt"), tmp_path / "kg", relations=["P36", "P31", "P9999"])
    check_sum(manifest.counts)
    graph = KnowledgeGraph.open(tmp_path / "kg")
    assert triples_of(graph) == {("Q183", "P36", "Q64"), ("Q64", "P31", "Q515")}
    assert manifest.counts["relations_not_found"] == 1
    assert "P9999" in caplog.text


def test_classes_keep_instances_of_their_subclasses_too(tmp_path: Path) -> None:
    lines = [f'{ex(name)} {LABEL} "{name}" .' for name in ("ada", "acme", "oslo", "tim")]
    lines += [f"{ex(a)} {ex('knows')} {ex(b)} ." for a in ("ada", "acme", "oslo", "tim") for b in ("ada", "tim")]
    lines += [f"{ex('Boss')} {SUBCLASS} {ex('Employee')} .", f"{ex('Employee')} {SUBCLASS} {ex('Person')} ."]
    lines += [f"{ex('ada')} {TYPE} {ex('Boss')} .", f"{ex('tim')} {TYPE} {ex('Person')} ."]
    lines += [f"{ex('oslo')} {TYPE} {ex('City')} ."]
    graph, counts = graph_of(lines, tmp_path / "a", classes=[f"{EX}Person"])
    assert list(graph) == [f"{EX}ada", f"{EX}tim"]
    assert counts["statements"]["dropped"]["not_in_classes"] == 7
    graph, counts = graph_of(lines, tmp_path / "b", drop_classes=[f"{EX}Boss", f"{EX}City"])
    assert list(graph) == [f"{EX}acme", f"{EX}tim"]


def test_entities_of_low_degree_go_until_all_have_enough(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    lines = [f'{ex(name)} {LABEL} "{name}" .' for name in names]
    lines += [f"{ex(x)} {ex('r')} {ex(y)} ." for x, y in ("ab", "bc", "ca", "cd", "de")]
    graph, counts = graph_of(lines, tmp_path, min_degree=2)
    assert list(graph) == [f"{EX}{name}" for name in "abc"]
    assert counts["statements"]["dropped"] == {"low_degree": 4}


def test_entities_are_those_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# chosen\nQ64,Berlin\nQ183\tGermany\n")
    graph, counts = graph_of(truthy(), tmp_path, entities_file=str(tmp_path / "list.txt"))
    assert [name for name in graph if name.startswith("Q")] == ["Q64", "Q183"]
    assert counts["statements"]["dropped"]["not_listed"] > 0
    (tmp_path / "list.txt").write_text("# nobody\n")
    with pytest.raises(ConfigError, match="holds no id"):
        graph_of(truthy(), tmp_path / "b", entities_file=str(tmp_path / "list.txt"))


def test_any_entity_is_named_by_any_label_or_its_id(tmp_path: Path) -> None:
    lines = [
        f"{ex('people/ada')} {ex('knows')} {ex('people/tim')} .",
        f'{ex("people/tim")} {LABEL} "Timothée"@fr .',
        f'{ex("people/tim")} {LABEL} "Timotheus"@de .',
    ]
    graph, counts = graph_of(lines, tmp_path, entities="any")
    assert {name: graph.node(name).name for name in graph} == {
        f"{EX}people/ada": "ada",
        f"{EX}people/tim": "Timotheus",
    }
    assert counts["statements"]["labels"] == 1


def test_fallback_languages_and_texts_without_a_language_name_what_the_language_does_not(tmp_path: Path) -> None:
    lines = [f"{ex(name)} {ex('r')} {ex(name)} ." for name in "abc"]
    lines += [f'{ex("a")} {LABEL} "A"@mul .', f'{ex("a")} {LABEL} "a"@en-GB .']
    lines += [f'{ex("b")} {LABEL} "B" .', f'{ex("b")} {LABEL} "B de"@de .', f'{ex("b")} {LABEL} "B mul"@MUL .']
    lines += [f'{ex("c")} {LABEL} "  C\\u00A0\\n c "^^<{XSD}string> .', f'{ex("c")} {LABEL} "7"^^<{XSD}integer> .']
    graph, _ = graph_of(lines, tmp_path)
    assert [graph.node(f"{EX}{name}").label for name in "abc"] == ["A", "B mul", "C c"]


def test_relation_namespaces_say_what_is_a_relation(tmp_path: Path) -> None:
    lines = [f'{ex(name)} {LABEL} "{name}" .' for name in "ab"]
    lines += [f"{ex('a')} <{EX}rel/knows> {ex('b')} .", f"{ex('a')} <{EX}meta/source> {ex('b')} ."]
    rdf = RdfConfig(relation_namespaces=[f"{EX}rel/"], prefixes={EX: "", f"{EX}rel/": ""})
    graph, counts = graph_of(lines, tmp_path, rdf=rdf)
    assert triples_of(graph) == {("a", "knows", "b")}
    assert counts["statements"]["dropped"] == {"not_a_relation": 1}


@pytest.mark.parametrize(
    ("prefixes", "reason"),
    [
        ({"http://a/": "x:", "http://b/": "x:"}, "ambiguous"),
        ({"http://a/": "date:"}, "ids of literals"),
        ({"http://a/": "no colon"}, "is not a prefix"),
    ],
)
def test_prefixes_that_would_mix_up_ids_are_refused(prefixes: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RdfConfig(prefixes=prefixes)


_namespaces = st.sampled_from(["http://a/", "http://a/b#", "urn:c:", "x:", "http://www.wikidata.org/entity/"])
_pieces = st.text(st.sampled_from("ab:/#%<QP1é"), max_size=6)


@given(
    st.dictionaries(_namespaces, st.sampled_from(["", "x:", "a:", "dbr:", "urn:"]), max_size=4),
    st.lists(st.builds("{}{}".format, st.sampled_from(["http://a/", "urn:", "x:", "date:", WD, WDT]), _pieces)),
)
@settings(deadline=None)
def test_no_two_iris_have_one_id_and_every_id_leads_back(prefixes: dict[str, str], iris: list[str]) -> None:
    try:
        options = (
            RdfConfig(prefixes=prefixes | {WDT: ""}) if "" not in prefixes.values() else RdfConfig(prefixes=prefixes)
        )
    except ValueError:
        return
    shortened = Prefixes(options)
    iris = [iri.replace("<", "") for iri in iris]
    for identify, back in (
        (shortened.node_id, shortened.node_iri),
        (shortened.relation_id, shortened.relation_iri),
    ):
        ids = {iri: identify(iri) for iri in iris}
        assert {iri: back(name) for iri, name in ids.items()} == {iri: iri for iri in iris}
        assert len(set(ids.values())) == len(set(iris))
        assert not any(name.startswith(("date:", "quantity:", "string:", "coordinate:")) for name in ids.values())


@pytest.mark.parametrize(
    ("text", "datatype", "name"),
    [
        ("1879-03-14T00:00:00Z", "dateTime", "14 March 1879"),
        ("1879-01-01T00:00:00Z", "dateTime", "1 January 1879"),
        ("-0043-03-15T00:00:00Z", "dateTime", "15 March 44 BC"),
        ("0000", "gYear", "1 BC"),
        ("2004-05+02:00", "gYearMonth", "May 2004"),
        ("-13798000000-01-01T00:00:00Z", "dateTime", "1 January 13798000001 BC"),
        ("+007", "integer", "7"),
        ("1.50", "decimal", "1.50"),
        ("-1.5e3", "double", "-1500"),
        (" 3 ", "int", "3"),
    ],
)
def test_literals_have_the_names_of_their_values(text: str, datatype: str, name: str) -> None:
    assert LiteralForm(f"^^<{XSD}{datatype}>").name(text) == name


@pytest.mark.parametrize(
    ("text", "datatype"),
    [
        ("yesterday", "date"),
        ("2004-13-01", "date"),
        ("2004-00-00", "date"),
        ("INF", "double"),
        ("1e99999", "double"),
        ("", "integer"),
        ("1879-03T00:00:00Z", "dateTime"),
    ],
)
def test_a_literal_that_is_none_of_its_datatype_is_unreadable(tmp_path: Path, text: str, datatype: str) -> None:
    lines = [*item(64, "Berlin"), claim(64, 17, 64), claim(64, 571, f'"{text}"^^<{XSD}{datatype}>')]
    _, counts = graph_of(lines, tmp_path)
    assert counts["statements"]["dropped"]["unreadable_value"] == 1


def test_positions_and_texts_are_literals_too(tmp_path: Path) -> None:
    wkt = "^^<http://www.opengis.net/ont/geosparql#wktLiteral>"
    lines = [
        *item(64, "Berlin"),
        claim(64, 625, f'"Point(-200.5 -33.25)"{wkt}'),
        claim(64, 626, f'"<http://www.wikidata.org/entity/Q405> Point(1 2)"{wkt}'),
        claim(64, 1448, '"Berlin"@de'),
        claim(64, 1449, '"Spree \\"Athens\\""@en'),
        claim(64, 856, f'"https://berlin.de"^^<{XSD}anyURI>'),
    ]
    graph, counts = graph_of(lines, tmp_path, literals=["globe-coordinate", "monolingualtext"])
    assert {target for _, _, target in triples_of(graph)} == {
        "coordinate:33°15′0″S 200°30′0″W",
        'string:Spree "Athens"',
    }
    assert json.loads(graph.node('string:Spree "Athens"').value) == {"value": 'Spree "Athens"', "language": "en"}
    dropped = counts["statements"]["dropped"]
    assert (dropped["unreadable_value"], dropped["datatype_not_kept"]) == (1, 1)


def test_the_last_part_of_an_id_names_what_has_no_label() -> None:
    assert [local_name(name) for name in ("Q64", "dbr:Berlin", f"{EX}a#b", "urn:x:", "<date:5>")] == [
        "Q64",
        "Berlin",
        "b",
        "x",
        "5",
    ]


_subjects = st.sampled_from([f"<{WD}Q1>", f"<{WD}Q2>", ex("a"), ex("b"), "_:b", f"<{WD}P17>", f"<{WD}L3>"])
_predicates = st.sampled_from(
    [f"<{WDT}P17>", f"<{WDT}P31>", f"<{WDT}P279>", LABEL, "<http://schema.org/name>", ABOUT, TYPE, SUBCLASS, ex("r")]
)
_predicates |= st.sampled_from(
    [
        "<http://www.w3.org/2004/02/skos/core#altLabel>",
        "<http://schema.org/description>",
        "<http://xmlns.com/foaf/0.1/isPrimaryTopicOf>",
    ]
)
_objects = st.one_of(
    _subjects,
    st.sampled_from(['"x"@en', '"y"@en', '"x"@de', '"x"', '"z"@mul', "<https://en.wikipedia.org/wiki/X>"]),
    st.sampled_from([f'"5"^^<{XSD}integer>', f'"?"^^<{XSD}date>', f'"u"^^<{XSD}anyURI>']),
)
_statements = st.builds("{} {} {} .".format, _subjects, _predicates, _objects) | st.just("junk")
_articles = st.builds(
    "<https://en.wikipedia.org/wiki/{}> {} {} .".format, st.sampled_from("XY"), st.just(ABOUT), _subjects
)


@given(
    st.lists(_statements | _articles, max_size=40),
    st.sampled_from(["wikipedia", "labelled", "any"]),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([[], ["Q2"], [f"{EX}a"]]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_statement_has_one_fate_whatever_the_slices(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], entities: str, degree: int, classes: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("sums")
    # One triple of one entity passes all filters, so that there is a graph.
    kept = [*item(9, "nine"), claim(9, 31, 2), claim(9, 31, 9), claim(9, 17, 9)]
    kept += [f"<{WD}Q9> <{WDT}P31> {ex('a')} .", f"<{WD}Q9> {TYPE} {ex('a')} ."]
    (folder / "dump.nt").write_text("\n".join(kept + lines))
    found = []
    for number, slice_mb in enumerate((1, 0.0005)):
        options = config(
            folder / "dump.nt",
            entities=entities,
            min_degree=degree,
            classes=[] if classes == [f"{EX}a"] else classes,
            drop_classes=[],
            slice_mb=slice_mb,
        )
        counts = build(options, folder / str(number)).counts
        check_sum(counts)
        assert counts["undecodable"] == lines.count("junk")
        found.append((counts, content(folder / str(number))))
    assert found[0] == found[1]
