from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wikidata_documents import (
    COMPRESSORS,
    adds_up,
    build,
    coordinate,
    date,
    dump_text,
    item,
    monolingual,
    property_document,
    quantity,
    statement,
    string,
    to_item,
    triples,
    write_dump,
)

from kg.build import build_graph, selected_relations
from kg.config import GraphConfig
from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph

ALL_LITERALS = ["time", "quantity", "globe-coordinate", "monolingualtext", "string"]


def documents() -> list[dict[str, Any]]:
    """A little of everything: 5 kept items, 2 properties, units, literals, ranks, a redirect, a lexeme."""
    return [
        property_document(17, "country"),
        item(
            64,
            "Berlin",
            claims=[
                to_item(17, 183),
                to_item(31, 515),
                coordinate(625, 52.5166, 13.3833),
                quantity(2046, "+891.7", unit=712226),
                date(571, "+1237-00-00T00:00:00Z", 9),
            ],
        ),
        item(183, "Germany", claims=[to_item(36, 64, rank="preferred"), to_item(36, 586)]),
        property_document(36, "capital"),
        item(586, "Bonn", claims=[to_item(17, 999), to_item(17, 183, rank="deprecated")]),
        item(515, "city", claims=[to_item(31, 12345)]),
        item(712226, "square kilometre", article=False, claims=[quantity(2370, "+1000000", unit=25343)]),
        {"entity": "Q999", "redirect": "Q183"},
        {"type": "lexeme", "id": "L1", "lemmas": {}},
        item(5, "human"),
    ]


def test_a_dump_becomes_nodes_relations_and_triples(tmp_path: Path) -> None:
    manifest, graph = build(tmp_path, documents())
    assert triples(graph) == {
        ("Q64", "P17", "Q183"),
        ("Q64", "P31", "Q515"),
        ("Q64", "P625", "coordinate:52°31′N 13°23′E"),
        ("Q64", "P2046", "quantity:891.7 square kilometre"),
        ("Q64", "P571", "date:1237"),
        ("Q183", "P36", "Q64"),
        ("Q586", "P17", "Q183"),
    }
    assert adds_up(manifest)
    assert manifest.counts["documents"] == {
        "read": 10,
        "entities": 5,
        "properties": 2,
        "redirects": 1,
        "dropped": {"lexeme": 1, "no_article": 1},
    }
    assert manifest.counts["statements"]["dropped"] == {"deprecated": 1, "not_best_rank": 1, "object_not_kept": 1}
    assert manifest.counts["nodes"] == {"total": 8, "entity": 5, "coordinate": 1, "date": 1, "quantity": 1}


def test_the_tables_hold_what_the_documents_say(tmp_path: Path) -> None:
    build(tmp_path, documents())
    nodes = pq.read_table(tmp_path / "kg" / "nodes.parquet").to_pylist()
    assert [node["id"] for node in nodes] == [
        *("Q5", "Q64", "Q183", "Q515", "Q586"),
        *("coordinate:52°31′N 13°23′E", "date:1237", "quantity:891.7 square kilometre"),
    ]
    assert nodes[1] == {
        "id": "Q64",
        "name": "Berlin",
        "label": "Berlin",
        "description": "",
        "aliases": [],
        "types": ["Q515"],
        "kind": "entity",
        "value": None,
    }
    assert nodes[-1] == {
        "id": "quantity:891.7 square kilometre",
        "name": "891.7 square kilometre",
        "label": "891.7 square kilometre",
        "description": "",
        "aliases": [],
        "types": [],
        "kind": "quantity",
        "value": '{"amount":"+891.7","unit":"http://www.wikidata.org/entity/Q712226"}',
    }
    relations = pq.read_table(tmp_path / "kg" / "relations.parquet").to_pylist()
    assert [relation["id"] for relation in relations] == ["P17", "P31", "P36", "P571", "P625", "P2046"]
    assert relations[0] == {
        "id": "P17",
        "label": "country",
        "description": "what country means",
        "aliases": ["country alias"],
        "datatype": "wikibase-item",
        "count": 2,
    }
    assert (relations[1]["label"], relations[4]["datatype"]) == ("P31", "globe-coordinate")
    table = pq.read_table(tmp_path / "kg" / "triples.parquet")
    assert table.schema.names == ["subject", "relation", "object", "rank"]
    keys = list(zip(*(table[name].to_pylist() for name in ("subject", "relation", "object")), strict=True))
    assert keys == sorted(set(keys))
    assert table["rank"].to_pylist().count("preferred") == 1


def test_the_adjacency_arrays_mirror_the_triples(tmp_path: Path) -> None:
    build(tmp_path, documents())
    csr = {path.stem: np.load(path) for path in (tmp_path / "kg" / "csr").glob("*.npy")}
    table = pq.read_table(tmp_path / "kg" / "triples.parquet").to_pydict()
    out_subjects = np.repeat(np.arange(8), np.diff(csr["out_offsets"]))
    in_objects = np.repeat(np.arange(8), np.diff(csr["in_offsets"]))
    assert out_subjects.tolist() == table["subject"]
    assert csr["out_relations"].tolist() == table["relation"]
    assert csr["out_objects"].tolist() == table["object"]
    in_keys = list(zip(in_objects.tolist(), csr["in_relations"].tolist(), csr["in_subjects"].tolist(), strict=True))
    assert in_keys == sorted(in_keys)
    edges = csr["in_edge_numbers"]
    assert (out_subjects[edges] == csr["in_subjects"]).all()
    assert (csr["out_objects"][edges] == in_objects).all()
    assert (csr["out_relations"][edges] == csr["in_relations"]).all()


def test_every_compression_gives_the_same_bytes(tmp_path: Path) -> None:
    outputs = []
    for compression in COMPRESSORS:
        dump = write_dump(tmp_path / compression, documents(), compression)
        outputs.append(build_graph(GraphConfig(dump=str(dump)), tmp_path / f"kg-{compression}").outputs)
    assert all(output == outputs[0] for output in outputs)
    assert "nodes.parquet" in outputs[0]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_documents_does_not_matter(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    many = [
        *documents(),
        item(64, "Berlin, older", title="Old Berlin", claims=[to_item(17, 586)], lastrevid=1),
        item(64, "Berlin, latest", title="Berlin", claims=[to_item(17, 183)], lastrevid=2),
        item(712226, "sq km", article=False, lastrevid=3),
        property_document(17, "country of old", lastrevid=1),
        item(700, "Bonn", article=False),
    ]
    config = {"entities": "labelled", "literals": ALL_LITERALS}
    expected = build(tmp_path_factory.mktemp("graph"), many, **config)[0]
    random.Random(seed).shuffle(many)
    assert build(tmp_path_factory.mktemp("graph"), many, **config)[0].outputs == expected.outputs


def test_a_finished_graph_is_not_built_again_and_a_changed_dump_is(tmp_path: Path) -> None:
    first, _ = build(tmp_path, documents())
    assert build(tmp_path, documents())[0].reused
    changed, graph = build(tmp_path, [*documents(), item(6, "new", claims=[to_item(17, 183)])])
    assert not changed.reused
    assert changed.output_hash != first.output_hash
    assert ("Q6", "P17", "Q183") in triples(graph)


def test_a_killed_build_is_done_again_and_gives_the_same_bytes(tmp_path: Path) -> None:
    many = [*documents(), *(item(1000 + number, claims=[to_item(17, 183)]) for number in range(2000))]
    dump = write_dump(tmp_path / "dump.json", many)
    program = (
        "import os, sys; from pathlib import Path\n"
        "from kg.build import build_graph; from kg.config import GraphConfig\n"
        "def die(done, total, unit, **details): os.kill(os.getpid(), 9)\n"
        "build_graph(GraphConfig(dump=sys.argv[1]), Path(sys.argv[2]), progress=die)"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program, dump, tmp_path / "kg"], cwd=root, check=False)
    assert killed.returncode == -9
    with pytest.raises(InputError, match="no finished stage"):
        KnowledgeGraph.open(tmp_path / "kg")
    again = build_graph(GraphConfig(dump=str(dump)), tmp_path / "kg")
    assert not list((tmp_path / "kg").glob(".parts*"))
    assert again.outputs == build_graph(GraphConfig(dump=str(dump)), tmp_path / "other").outputs


def test_progress_tells_the_bytes_read_and_what_was_found(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump.json", documents())
    calls: list[tuple[int, int | None, str, dict[str, Any]]] = []

    def listen(done: int, total: int | None, unit: str, **details: Any) -> None:
        calls.append((done, total, unit, details))

    build_graph(GraphConfig(dump=str(dump)), tmp_path / "kg", progress=listen)
    size = dump.stat().st_size
    assert calls[-1] == (size, size, "bytes", {"documents": 10, "entities": 5})


def test_nothing_but_the_graph_is_left_in_the_folder(tmp_path: Path) -> None:
    build(tmp_path, documents())
    names = {path.name for path in (tmp_path / "kg").iterdir()}
    assert names - {".lock"} == {
        *("manifest.json", "nodes.parquet", "relations.parquet", "triples.parquet", "csr", "quarantine.jsonl"),
    }


def test_the_best_ranked_subproperty_links_of_properties_are_written(tmp_path: Path) -> None:
    def parent(number: int, rank: str = "normal") -> dict[str, Any]:
        value = {"entity-type": "property", "numeric-id": number, "id": f"P{number}"}
        return statement(1647, value, "wikibase-entityid", "wikibase-property") | {"rank": rank}

    properties = [
        property_document(36, "capital", claims={"P1647": [parent(1376), parent(17)]}),
        property_document(9, "unused", claims={"P1647": [parent(8, "deprecated"), parent(7), parent(6, "preferred")]}),
        property_document(17, "country", claims={"P1647": [to_item(1647, 5)]}),
    ]
    items = [each for each in documents() if each.get("type") != "property"]
    build(tmp_path, [*properties, *items])
    assert (tmp_path / "kg/subproperties.txt").read_text() == "P9\tP6\nP36\tP17\nP36\tP1376\n"


# --- what is kept ---------------------------------------------------------------------------------------------------


def kept(tmp_path: Path, claims: list[dict[str, Any]], **options: Any) -> tuple[set[tuple[str, str]], dict[str, int]]:
    """Build one subject with these claims: ({(relation, object)}, dropped statements by reason)."""
    anchor = to_item(9999, 1)
    manifest, graph = build(tmp_path, [item(1, claims=[anchor, *claims]), item(2), item(3)], **options)
    assert adds_up(manifest)
    found = {(relation, target) for _, relation, target in triples(graph)} - {("P9999", "Q1")}
    return found, manifest.counts["statements"]["dropped"]


def test_all_preferred_statements_hide_all_normal_ones(tmp_path: Path) -> None:
    claims = [to_item(6, 1, rank="preferred"), to_item(6, 2, rank="preferred"), to_item(6, 3)]
    assert kept(tmp_path, claims) == ({("P6", "Q1"), ("P6", "Q2")}, {"not_best_rank": 1})


def test_a_preferred_no_value_hides_normal_values(tmp_path: Path) -> None:
    claims = [statement(26, None, "", "wikibase-item", rank="preferred", snaktype="novalue"), to_item(26, 2)]
    assert kept(tmp_path, claims) == (set(), {"not_best_rank": 1, "novalue": 1})


def test_deprecated_and_valueless_statements_are_dropped_and_counted(tmp_path: Path) -> None:
    claims = [
        to_item(6, 2, rank="deprecated"),
        statement(6, None, "", "wikibase-item", snaktype="novalue"),
        statement(6, None, "", "wikibase-item", snaktype="somevalue"),
        to_item(6, 3),
        to_item(6, 3),
        to_item(6, 4),
    ]
    found, dropped = kept(tmp_path, claims)
    assert found == {("P6", "Q3")}
    assert dropped == {"deprecated": 1, "novalue": 1, "somevalue": 1, "duplicate": 1, "object_not_kept": 1}


def test_datatypes_are_kept_by_the_configuration(tmp_path: Path) -> None:
    claims = [
        string(1, "a string"),
        string(2, "an id", "external-id"),
        string(3, "http://example.org", "url"),
        monolingual(4, "a text", "en"),
        monolingual(4, "ein Text", "de"),
        monolingual(4, "any", "mul"),
        date(5, "+1879-03-14T00:00:00Z"),
        statement(7, {"entity-type": "property", "numeric-id": 31, "id": "P31"}, "wikibase-entityid", None),
    ]
    found, dropped = kept(tmp_path / "few", claims)
    assert found == {("P5", "date:14 March 1879")}
    assert dropped == {"datatype_not_kept": 7}
    found, dropped = kept(tmp_path / "all", claims, literals=ALL_LITERALS)
    assert found == {
        ("P1", "string:a string"),
        ("P4", "string:a text"),
        ("P4", "string:any"),
        ("P5", "date:14 March 1879"),
    }
    assert dropped == {"datatype_not_kept": 3, "other_language": 1}


def test_a_missing_datatype_is_inferred_from_value_and_property(tmp_path: Path) -> None:
    def bare(claim: dict[str, Any]) -> dict[str, Any]:
        del claim["mainsnak"]["datatype"]
        return claim

    claims = [
        bare(to_item(6, 2)),
        bare(date(571, "+1237-00-00T00:00:00Z", 9)),
        bare(quantity(1082, "+5")),
        bare(coordinate(625, 1, 2)),
        bare(string(11, "kept")),
        bare(string(12, "an external id")),
        bare(string(13, "of an unknown property")),
    ]
    many = [
        item(1, claims=claims),
        item(2),
        property_document(11, "motto", "string"),
        property_document(12, "identifier", "external-id"),
    ]
    manifest, graph = build(tmp_path, many, literals=ALL_LITERALS)
    assert {target for _, _, target in triples(graph)} == {
        *("Q2", "date:1237", "quantity:5", "coordinate:1°0′N 2°0′E"),
        *("string:kept", "string:of an unknown property"),
    }
    assert manifest.counts["statements"]["dropped"] == {"datatype_not_kept": 1}
    datatypes = {name: graph.relation(name).datatype for name in ("P6", "P571", "P11", "P13")}
    assert datatypes == {"P6": "wikibase-item", "P571": "time", "P11": "string", "P13": "string"}


def test_the_numeric_id_form_of_old_dumps_is_read(tmp_path: Path) -> None:
    claim = statement(6, {"entity-type": "item", "numeric-id": 2}, "wikibase-entityid", None)
    assert kept(tmp_path, [claim]) == ({("P6", "Q2")}, {})


def test_a_value_that_cannot_be_read_costs_its_statement_only(tmp_path: Path) -> None:
    claims = [
        date(571, "+0000-00-00T00:00:00Z"),
        quantity(1082, "many"),
        statement(625, {"latitude": 100, "longitude": 0}, "globecoordinate", "globe-coordinate"),
        statement(17, "Germany", "string", "wikibase-item"),
        statement(18, {"entity-type": "item", "id": "Q0"}, "wikibase-entityid", "wikibase-item"),
        statement(19, {"error": "x"}, "bad", "time"),
        to_item(6, 2),
    ]
    assert kept(tmp_path, claims) == ({("P6", "Q2")}, {"unreadable_value": 6})


def test_a_quantity_whose_unit_has_no_label_is_dropped_and_counted(tmp_path: Path) -> None:
    claims = [quantity(2048, "+1.8", unit=11573), quantity(2049, "+2", unit=3), to_item(6, 2)]
    assert kept(tmp_path, claims) == ({("P6", "Q2"), ("P2049", "quantity:2 item 3")}, {"unit_without_label": 1})


def test_only_selected_relations_are_kept_and_types_stay(tmp_path: Path) -> None:
    (tmp_path / "relations.txt").write_text("# my relations\n\nP36 capital\n")
    manifest, graph = build(tmp_path, documents(), relations=["P17"], relations_file=str(tmp_path / "relations.txt"))
    assert {relation for _, relation, _ in triples(graph)} == {"P17", "P36"}
    assert manifest.counts["statements"]["dropped"]["relation_not_selected"] == 5
    assert adds_up(manifest)
    assert graph.node("Q64").types == ("Q515",)
    assert manifest.config["relations"] == ["P17", "P36"]


def test_items_are_dropped_by_their_best_ranked_class_and_not_by_a_mention(tmp_path: Path) -> None:
    many = [
        item(1, claims=[to_item(31, 4167410)]),
        item(2, claims=[to_item(31, 4167410), to_item(31, 5, rank="preferred")]),
        item(3, claims=[to_item(361, 4167410), to_item(6, 2)]),
        item(4, claims=[to_item(31, 77)]),
    ]
    manifest, graph = build(tmp_path, many, drop_classes=["Q4167410", "Q77"])
    assert set(graph) == {"Q2", "Q3"}
    assert manifest.counts["documents"]["dropped"] == {"dropped_class": 2}
    assert adds_up(manifest)


def test_wikipedia_articles_decide_or_labels_do(tmp_path: Path) -> None:
    many = [
        item(1, "one", claims=[to_item(6, 1)]),
        item(2, "two", article=False),
        item(3, "", title="Three"),
        item(4, "", article=False),
    ]
    manifest, graph = build(tmp_path / "a", many)
    assert set(graph) == {"Q1", "Q3"}
    assert manifest.counts["documents"]["dropped"] == {"no_article": 2}
    assert graph.node("Q3").label == "Three"
    manifest, graph = build(tmp_path / "b", many, entities="labelled")
    assert set(graph) == {"Q1", "Q2", "Q3"}
    assert manifest.counts["documents"]["dropped"] == {"no_label": 1}


def test_labels_of_all_languages_stand_in_for_missing_ones(tmp_path: Path) -> None:
    many = [
        item(1, labels={"mul": {"language": "mul", "value": "Any"}}, claims=[to_item(6, 2)]),
        item(2, labels={"mul": {"language": "mul", "value": "Any"}, "en": {"language": "en", "value": "Own"}}),
        item(
            3,
            aliases={
                "en": [{"language": "en", "value": text} for text in ("a", "b", "a", "item 3")],
                "mul": [{"language": "mul", "value": "c"}],
                "de": [{"language": "de", "value": "d"}],
            },
            descriptions={"en": {"language": "en", "value": "third"}},
        ),
    ]
    _, graph = build(tmp_path, many)
    assert (graph.node("Q1").label, graph.node("Q2").label) == ("Any", "Own")
    assert graph.node("Q3").aliases == ("a", "b", "c")
    assert graph.node("Q3").description == "third"


def test_another_language_gives_its_own_names(tmp_path: Path) -> None:
    german = {"de": {"language": "de", "value": "Köln"}}
    many = [
        item(365, "Cologne", labels=german, sitelinks={"dewiki": {"title": "Köln"}}, claims=[to_item(6, 365)]),
        item(2, "elsewhere"),
    ]
    _, graph = build(tmp_path, many, language="de")
    assert [graph.node(name).name for name in graph] == ["Köln"]


def test_names_are_titles_with_underscores_and_unique(tmp_path: Path) -> None:
    many = [
        item(1, "Paris, the city", title="Paris", claims=[to_item(6, 2)]),
        item(2, "Paris", article=False),
        item(3, "Paris", article=False),
        item(4, "New  York", article=False),
        item(5, "x", title="Paris (Q2)"),
    ]
    _, graph = build(tmp_path, many, entities="labelled")
    names = [graph.node(name).name for name in ("Q1", "Q2", "Q3", "Q4", "Q5")]
    assert names == ["Paris", "Paris_(Q2)_(Q2)", "Paris_(Q3)", "New_York", "Paris_(Q2)"]


def test_relations_with_one_label_are_told_apart(tmp_path: Path) -> None:
    many = [
        item(1, claims=[to_item(6, 1), to_item(7, 1)]),
        property_document(6, "head"),
        property_document(7, "head"),
    ]
    _, graph = build(tmp_path, many)
    assert [graph.relation(name).label for name in ("P6", "P7")] == ["head (P6)", "head (P7)"]


def test_one_literal_has_the_least_of_its_values(tmp_path: Path) -> None:
    first, second = date(571, "+1237-00-00T00:00:00Z", 9), date(571, "+1237-01-01T00:00:00Z", 9)
    many = [item(1, claims=[second]), item(2, claims=[first])]
    _, graph = build(tmp_path, many)
    assert json.loads(graph.node("date:1237").value or "")["time"] == "+1237-00-00T00:00:00Z"
    assert graph.in_degree("date:1237") == 2


def test_redirects_are_followed_for_objects_types_and_units(tmp_path: Path) -> None:
    many = [
        item(1, claims=[to_item(31, 20), to_item(6, 20), quantity(2046, "+3", unit=20)]),
        item(2, "kilometre"),
        {"entity": "Q20", "redirect": "Q21"},
        {"entity": "Q21", "redirect": "Q2"},
        {"entity": "Q30", "redirect": "Q31"},
        {"entity": "Q31", "redirect": "Q30"},
    ]
    manifest, graph = build(tmp_path, many)
    assert {(r, o) for _, r, o in triples(graph)} == {("P31", "Q2"), ("P6", "Q2"), ("P2046", "quantity:3 kilometre")}
    assert graph.node("Q1").types == ("Q2",)
    assert manifest.counts["documents"]["redirects"] == 4


def test_of_two_documents_of_an_item_the_later_revision_counts(tmp_path: Path) -> None:
    many = [
        item(1, "new", claims=[to_item(6, 2)], lastrevid=9),
        item(1, "old", claims=[to_item(6, 1), date(571, "+1237-00-00T00:00:00Z", 9)], lastrevid=8),
        item(2),
    ]
    manifest, graph = build(tmp_path, many)
    assert triples(graph) == {("Q1", "P6", "Q2")}
    assert graph.node("Q1").label == "new"
    assert manifest.counts["documents"]["dropped"] == {"duplicate": 1}
    assert manifest.counts["statements"]["dropped"] == {"duplicate_document": 2}
    assert adds_up(manifest)


# --- damage ---------------------------------------------------------------------------------------------------------


def test_undecodable_lines_are_set_aside_with_their_offset(tmp_path: Path) -> None:
    bad = [b'{"type":"item","id":"Q7"', b"\xff\xfe", b'{"id":"Q0x","type":"item"}', b'{"a":1}', b"[[[[", b"42"]
    lines: list[dict[str, Any] | bytes] = [*documents(), *bad]
    manifest, graph = build(tmp_path, lines)
    text = dump_text(lines)
    aside = [json.loads(line) for line in (tmp_path / "kg" / "quarantine.jsonl").read_text().splitlines()]
    assert len(aside) == manifest.counts["undecodable"] == 5  # mere brackets are no line
    for entry in aside:
        line = entry["line"].encode() if "\\x" not in entry["line"] else b"\xff\xfe"
        assert text[entry["offset"] :].startswith(line)
        assert entry["reason"]
    assert ("Q64", "P17", "Q183") in triples(graph)
    assert adds_up(manifest)


def test_too_many_undecodable_lines_end_the_stage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"more than 2 undecodable lines.*offset \d+.*kg.max_bad_lines"):
        build(tmp_path, [*documents(), b"{x", b"{y", b"{z"], max_bad_lines=2)
    assert not (tmp_path / "kg" / "manifest.json").exists()


def _flip(line: bytes, place: int, byte: int) -> bytes:
    return line[: place % len(line)] + bytes([byte]) + line[place % len(line) + 1 :]


def _cut(line: bytes, place: int, byte: int) -> bytes:
    return line[: place % len(line)]


def _swap(line: bytes, place: int, byte: int) -> bytes:
    pieces = line.split(b",")
    pieces[place % len(pieces)], pieces[byte % len(pieces)] = pieces[byte % len(pieces)], pieces[place % len(pieces)]
    return b",".join(pieces)


def _retype(line: bytes, place: int, byte: int) -> bytes:
    values = (b"null", b"[]", b"{}", b"-1", b'"\\ud800"', b"1e999", b"99999999999999999999", b"[[[[[[")
    pieces = line.split(b":")
    if len(pieces) == 1:
        return values[byte % len(values)]
    place = 1 + place % (len(pieces) - 1)
    end = pieces[place].find(b",")
    pieces[place] = values[byte % len(values)] + (pieces[place][end:] if end >= 0 else b"}")
    return b":".join(pieces)


@settings(max_examples=30, deadline=None)
@given(
    damages=st.lists(
        st.tuples(
            st.integers(0, 9), st.sampled_from([_flip, _cut, _swap, _retype]), st.integers(0, 5000), st.integers(0, 255)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_damaged_line_kills_the_build(
    tmp_path_factory: pytest.TempPathFactory,
    damages: list[tuple[int, Callable[[bytes, int, int], bytes], int, int]],
) -> None:
    lines = [json.dumps(document).encode() for document in documents()]
    for number, damage, place, byte in damages:
        lines[number] = damage(lines[number], place, byte).replace(b"\n", b" ") or b"?"
    sound = item(1000, "sound", claims=[to_item(1001, 1000)])
    manifest, graph = build(tmp_path_factory.mktemp("graph"), [*lines, sound], literals=ALL_LITERALS)
    assert adds_up(manifest)
    assert ("Q1000", "P1001", "Q1000") in triples(graph)


# --- inputs that cannot be used -------------------------------------------------------------------------------------


def refused(tmp_path: Path, data: bytes, **options: Any) -> str:
    (tmp_path / "dump").write_bytes(data)
    with pytest.raises(InputError) as caught:
        build_graph(GraphConfig(dump=str(tmp_path / "dump"), **options), tmp_path / "kg")
    message = str(caught.value)
    assert "\n" not in message
    assert not (tmp_path / "kg" / "manifest.json").exists()
    return message


@pytest.mark.parametrize(
    "data",
    [b"id,label\nQ1,universe\n", b"id,label", b'{"entities":\n{}}\n', b"[1,2,3]\n", b"x,y\n" * 1000, bytes(1000)],
)
def test_a_file_without_a_document_is_no_dump(tmp_path: Path, data: bytes) -> None:
    message = refused(tmp_path, data, max_bad_lines=0)
    assert "dump is not a Wikidata JSON dump" in message or "holds no document" in message
    assert "kg.dump" in message or "again" in message


def test_a_truncated_dump_leaves_no_graph(tmp_path: Path) -> None:
    data = COMPRESSORS["gzip"](dump_text(documents()))
    assert "is truncated: its gzip stream ends in the middle" in refused(tmp_path, data[:-20])


def test_a_missing_dump_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot open the dump .*absent\.json: No such file.*kg\.dump"):
        build_graph(GraphConfig(dump=str(tmp_path / "absent.json")), tmp_path / "kg")


def test_a_dump_without_an_entity_tells_the_filter(tmp_path: Path) -> None:
    message = refused(tmp_path, dump_text([item(1, article=False), item(2, article=False), property_document(1, "x")]))
    assert "Of 3 documents these were dropped: no article 2, property 1." in message
    assert "Set 'kg.entities' to 'labelled'" in message


def test_a_graph_without_a_triple_tells_the_filter(tmp_path: Path) -> None:
    claims = [string(1, "x"), string(2, "y", "external-id"), to_item(3, 99)]
    message = refused(tmp_path, dump_text([item(1, claims=claims)]))
    assert "No triple of" in message
    assert "Of 3 statements these were dropped: datatype not kept 2, object not kept 1." in message
    assert "Extend 'kg.literals'" in message


def test_a_selected_relation_that_does_not_occur_is_named_with_near_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, _ = build(tmp_path, documents(), relations=["P17", "P171"])
    assert "has the selected relation P171." in caplog.text
    assert "P17 (country)" in caplog.text
    assert manifest.counts["relations_not_found"] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("P17\np36\n", r"line 2: 'p36' is not a relation id of the form P17. Did you mean P36\?"),
        ("P17\n36,capital\n", "line 2: '36' is not a relation id"),
        ("# nothing\n\n", "holds no id"),
        (None, "Cannot read the relations file .*: No such file"),
    ],
)
def test_an_unusable_relations_file_is_a_configuration_error(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "relations.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        selected_relations(GraphConfig(relations_file=str(path)))


@pytest.mark.parametrize("options", [{"relations": ["p17"]}, {"relations": [" "]}, {"drop_classes": ["P5"]}])
def test_mistyped_ids_in_the_configuration_are_refused(options: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="is not a Wikidata"):
        GraphConfig(**options)


@pytest.mark.parametrize("options", [{"relations": ["P0"]}, {"relations": ["dbo:capital"]}, {"classes": ["city"]}])
def test_ids_of_other_vocabularies_are_refused_for_a_wikidata_dump(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is no id of Wikidata such as [PQ]\d+"):
        build(tmp_path, documents(), **options)


# --- real data ------------------------------------------------------------------------------------------------------


def test_the_bundled_sample_builds_with_every_statement_accounted_for(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "data" / "sample" / "wikidata.json.gz"
    if not sample.exists():
        pytest.skip(f"the sample {sample} has not been written; run data/sample/make_dump.py")
    manifest = build_graph(GraphConfig(dump=str(sample)), tmp_path / "kg")
    assert adds_up(manifest)
    assert manifest.counts["undecodable"] == 0
    assert manifest.counts["relations_without_label"] == 0
    assert "unreadable_value" not in manifest.counts["statements"]["dropped"]
    assert "unit_without_label" not in manifest.counts["statements"]["dropped"]
    assert manifest.counts["triples"] > 1000


def test_real_wikidata_documents_build_with_every_statement_accounted_for(tmp_path: Path) -> None:
    shared = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    dump = shared / "wikidata" / "entities-49.dump.json.gz"
    if not dump.exists():
        pytest.skip(f"no reference dump at {dump}; set SYNTHIE_SHARED_DATA to the folder that holds it")
    config = GraphConfig(dump=str(dump), literals=ALL_LITERALS)
    manifest = build_graph(config, tmp_path / "kg")
    assert adds_up(manifest)
    counts = manifest.counts
    assert (counts["documents"]["read"], counts["documents"]["entities"]) == (49, 49)
    assert counts["statements"]["read"] == 4282
    assert counts["statements"]["dropped"]["deprecated"] == 11  # of 12; one is an external id
    graph = KnowledgeGraph.open(tmp_path / "kg")
    assert graph.has_edge("Q64", "Q84", "P190")  # Berlin, twinned with London
    assert graph.has_edge("Q255", "date:16 December 1770") or graph.has_edge("Q255", "date:17 December 1770")
    assert graph.has_edge("Q64", "coordinate:52°31′N 13°23′E", "P625")
    shutil.rmtree(tmp_path / "kg")
