"""The bundled sample: the dump is what its script makes of the tables, and it is rich enough to learn from."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
SHARED = Path(os.environ.get("SYNTHIE_SHARED_DATA", ROOT.parent / "shared" / "data"))
SYMMETRIC = {"P26": "spouse", "P47": "shares border with", "P3373": "sibling"}
DROPPED_CLASSES = {"Q4167410": "Wikimedia disambiguation page", "Q13406463": "Wikimedia list article"}


@cache
def make_dump() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dump", SAMPLE / "make_dump.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_dump"] = module
    spec.loader.exec_module(module)
    return module


@cache
def documents() -> dict[str, dict[str, Any]]:
    lines = gzip.decompress((SAMPLE / "wikidata.json.gz").read_bytes()).decode().splitlines()
    assert lines[0] == "["
    assert lines[-1] == "]"
    parsed = [json.loads(line.removesuffix(",")) for line in lines[1:-1]]
    assert all(line.endswith(",") for line in lines[1:-2])
    assert len({document["id"] for document in parsed}) == len(parsed)
    return {document["id"]: document for document in parsed}


@cache
def items() -> dict[str, dict[str, Any]]:
    return {id_: document for id_, document in documents().items() if document["type"] == "item"}


def statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [claim for claims in document["claims"].values() for claim in claims]


@cache
def all_statements() -> list[dict[str, Any]]:
    return [claim for item in items().values() for claim in statements(item)]


@cache
def entity_edges() -> list[tuple[str, str, str]]:
    return [
        (id_, relation, claim["mainsnak"]["datavalue"]["value"]["id"])
        for id_, item in items().items()
        for relation, claims in item["claims"].items()
        for claim in claims
        if claim["mainsnak"]["snaktype"] == "value" and claim["mainsnak"]["datatype"] == "wikibase-item"
    ]


@cache
def made_text() -> str:
    text: str = make_dump().dump_text(make_dump().read_tables(SAMPLE / "tables"))
    return text


# --- the dump that is checked in ------------------------------------------------------------------------------------


def test_the_checked_in_dump_is_exactly_what_the_script_makes_of_the_tables() -> None:
    assert gzip.decompress((SAMPLE / "wikidata.json.gz").read_bytes()).decode() == made_text()


def test_every_gzip_member_of_the_checked_in_dump_begins_on_a_line() -> None:
    rest, members = (SAMPLE / "wikidata.json.gz").read_bytes(), 0
    while rest:
        inflater = zlib.decompressobj(wbits=31)
        assert inflater.decompress(rest).endswith(b"\n")
        rest, members = inflater.unused_data, members + 1
    assert members > 1


def test_the_sample_is_large_enough_to_learn_from() -> None:
    relations = {relation for _, relation, _ in entity_edges()}
    assert len(items()) >= 400
    assert len(relations) >= 40
    assert len(entity_edges()) >= 2_000


def test_ids_are_well_formed_and_every_entity_and_relation_that_is_mentioned_has_a_document() -> None:
    assert all(re.fullmatch(r"Q[1-9]\d*", id_) for id_ in items())
    assert all(re.fullmatch(r"P[1-9]\d*", id_) for id_ in documents().keys() - items().keys())
    for subject, relation, object_ in entity_edges():
        assert {subject, relation, object_} <= documents().keys()
    qualifiers = {qualifier for claim in all_statements() for qualifier in claim.get("qualifiers", {})}
    assert qualifiers <= documents().keys()


def test_every_quantity_refers_to_a_unit_of_the_sample() -> None:
    for claim in all_statements():
        if claim["mainsnak"]["datatype"] == "quantity" and claim["mainsnak"]["snaktype"] == "value":
            unit = claim["mainsnak"]["datavalue"]["value"]["unit"]
            assert unit == "1" or unit.removeprefix("http://www.wikidata.org/entity/") in items()


def test_statement_ids_are_unique_and_begin_with_their_entity() -> None:
    counts = Counter(claim["id"] for claim in all_statements())
    assert max(counts.values()) == 1
    assert all(claim["id"].startswith(f"{id_}$") for id_, item in items().items() for claim in statements(item))


def test_every_entity_has_a_label_and_a_description() -> None:
    for id_, item in items().items():
        assert {"en", "mul"} & item["labels"].keys(), id_
        assert item["descriptions"].get("en", {}).get("value"), id_


def test_nearly_every_entity_is_an_instance_of_a_class_or_a_class_itself() -> None:
    instances = {subject for subject, relation, _ in entity_edges() if relation == "P31"}
    classes = {object_ for _, relation, object_ in entity_edges() if relation in ("P31", "P279")}
    assert len(items().keys() - instances - classes) <= 0.02 * len(items())


def test_english_wikipedia_titles_are_unique_and_nearly_all_entities_have_one() -> None:
    titles = Counter(item["sitelinks"]["enwiki"]["title"] for item in items().values() if "enwiki" in item["sitelinks"])
    assert max(titles.values()) == 1
    assert len(titles) >= 0.9 * len(items())


def test_the_sample_shows_every_feature_that_a_reader_of_dumps_must_handle() -> None:
    claims = all_statements()
    assert {claim["rank"] for claim in claims} == {"preferred", "normal", "deprecated"}
    assert {claim["mainsnak"]["snaktype"] for claim in claims} == {"value", "somevalue", "novalue"}
    datatypes = {"wikibase-item", "time", "quantity", "globe-coordinate", "external-id", "monolingualtext"}
    assert datatypes <= {claim["mainsnak"]["datatype"] for claim in claims}
    assert {"P580", "P582", "P585"} <= {qualifier for claim in claims for qualifier in claim.get("qualifiers", {})}
    assert any("references" in claim for claim in claims)
    snaks = [claim["mainsnak"] for claim in claims if claim["mainsnak"]["snaktype"] == "value"]
    times = [snak["datavalue"]["value"] for snak in snaks if snak["datatype"] == "time"]
    assert {7, 9, 11} <= {time["precision"] for time in times}
    assert any(time["time"].startswith("-") for time in times)
    assert any(len(item["sitelinks"]) > 1 for item in items().values())
    labels = Counter(label["value"] for item in items().values() for label in item["labels"].values())
    assert max(labels.values()) > 1


@pytest.mark.parametrize("class_", DROPPED_CLASSES)
def test_the_sample_holds_a_page_that_is_no_entity_of_the_world(class_: str) -> None:
    pages = [subject for subject, relation, object_ in entity_edges() if (relation, object_) == ("P31", class_)]
    assert pages
    assert not set(pages) & {object_ for _, _, object_ in entity_edges()}


def test_the_entities_form_one_connected_graph_apart_from_pages_and_units() -> None:
    neighbours = defaultdict(set)
    for subject, _, object_ in entity_edges():
        neighbours[subject].add(object_)
        neighbours[object_].add(subject)
    kinds = set(DROPPED_CLASSES) | {"Q1978718", "Q1371562"}  # unit of length, unit of area
    apart = kinds | {subject for subject, relation, object_ in entity_edges() if relation == "P31" and object_ in kinds}
    reached, waiting = set(), ["Q64"]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(neighbours[node])
    assert items().keys() - reached <= apart


@pytest.mark.parametrize("relation", SYMMETRIC)
def test_symmetric_relations_are_stated_on_both_sides(relation: str) -> None:
    edges = {(subject, object_) for subject, relation_, object_ in entity_edges() if relation_ == relation}
    assert edges
    assert not {(subject, object_) for subject, object_ in edges if (object_, subject) not in edges}


def test_parents_and_children_agree() -> None:
    edges = set(entity_edges())
    children = {(subject, object_) for subject, relation, object_ in edges if relation == "P40"}
    parents = {(object_, subject) for subject, relation, object_ in edges if relation in ("P22", "P25")}
    assert parents <= children


def test_the_script_finds_the_checked_in_dump_up_to_date() -> None:
    assert _run("--check").returncode == 0


# --- the script -----------------------------------------------------------------------------------------------------

RELATIONS = "id\tlabel\tdatatype\tunit\tdescription\taliases\n"
RELATIONS += "P31\tinstance of\twikibase-item\t\tclass\tis a\n"
RELATIONS += "P17\tcountry\twikibase-item\t\tstate\t\n"
RELATIONS += "P571\tinception\ttime\t\tbeginning\t\n"
RELATIONS += "P2044\televation\tquantity\tmetre\theight\t\n"
RELATIONS += "P625\tcoordinate location\tglobe-coordinate\t\tplace\t\n"
RELATIONS += "P1705\tnative label\tmonolingualtext\t\tname\t\n"
RELATIONS += "P582\tend time\ttime\t\tend\t\n"
HEADER = "id\tlabel\tdescription\taliases\ttitle\t"
CLASSES = HEADER + "\nQ6256\tcountry\ta class\t\tCountry\nQ11573\tmetre\ta unit\tmeter; m\tMetre\n"


def write_tables(folder: Path, columns: str, *lines: str) -> Path:
    folder.mkdir()
    (folder / "relations.tsv").write_text(RELATIONS)
    (folder / "classes.tsv").write_text(CLASSES.replace("\t\n", "\n", 1))
    (folder / "places.tsv").write_text("# places\n" + HEADER + "\n".join([columns, *lines]) + "\n")
    return folder


def read_claims(folder: Path, entity: str) -> dict[str, Any]:
    lines = make_dump().dump_text(make_dump().read_tables(folder)).splitlines()[1:-1]
    by_id = {document["id"]: document for document in (json.loads(line.removesuffix(",")) for line in lines)}
    return by_id[entity]["claims"]


def test_times_of_every_precision_are_written_as_wikidata_writes_them(tmp_path: Path) -> None:
    cells = "1879-03-14; 1879-03; 1879; 1870s; 18. century; 5. century BCE; -0044-03-15; 1500-02-29"
    folder = write_tables(tmp_path / "tables", "inception", f"Q64\tBerlin\ta city\t\t\t{cells}")
    values = [claim["mainsnak"]["datavalue"]["value"] for claim in read_claims(folder, "Q64")["P571"]]
    assert [(value["time"], value["precision"]) for value in values] == [
        ("+1879-03-14T00:00:00Z", 11),
        ("+1879-03-00T00:00:00Z", 10),
        ("+1879-00-00T00:00:00Z", 9),
        ("+1870-00-00T00:00:00Z", 8),
        ("+1701-00-00T00:00:00Z", 7),
        ("-0500-00-00T00:00:00Z", 7),
        ("-0044-03-15T00:00:00Z", 11),
        ("+1500-02-29T00:00:00Z", 11),
    ]
    assert values[0]["calendarmodel"].endswith("Q1985727")
    assert values[-1]["calendarmodel"].endswith("Q1985786")


def test_quantities_coordinates_and_texts_are_written_as_wikidata_writes_them(tmp_path: Path) -> None:
    row = "Q64\tBerlin\ta city\t\t\t34; -4.5 metre\t52.5167, 13.38\tBerlin@de"
    folder = write_tables(tmp_path / "tables", "elevation\tcoordinate location\tnative label", row)
    claims = read_claims(folder, "Q64")
    amounts = [claim["mainsnak"]["datavalue"]["value"] for claim in claims["P2044"]]
    assert amounts == [
        {"amount": "+34", "unit": "http://www.wikidata.org/entity/Q11573"},
        {"amount": "-4.5", "unit": "http://www.wikidata.org/entity/Q11573"},
    ]
    coordinate = claims["P625"][0]["mainsnak"]["datavalue"]
    assert coordinate["type"] == "globecoordinate"
    assert (coordinate["value"]["latitude"], coordinate["value"]["longitude"]) == (52.5167, 13.38)
    assert coordinate["value"]["precision"] == 0.0001
    assert claims["P1705"][0]["mainsnak"]["datavalue"]["value"] == {"text": "Berlin", "language": "de"}


def test_marks_give_ranks_qualifiers_and_missing_values(tmp_path: Path) -> None:
    rows = ["Q183\tGermany\ta country\t\t\tcountry", "Q43287\tGerman Empire\ta country\t\t\tcountry"]
    rows.append(
        "Q64\tBerlin\ta city\t\t\tunknown\tGermany [preferred]; German Empire [deprecated, end time: 1918-11-09]; none"
    )
    folder = write_tables(tmp_path / "tables", "instance of\tcountry", *rows)
    claims = read_claims(folder, "Q64")
    assert [claim["rank"] for claim in claims["P17"]] == ["preferred", "deprecated", "normal"]
    assert claims["P17"][1]["qualifiers"]["P582"][0]["datavalue"]["value"]["time"] == "+1918-11-09T00:00:00Z"
    assert claims["P17"][1]["qualifiers-order"] == ["P582"]
    assert claims["P17"][2]["mainsnak"]["snaktype"] == "novalue"
    assert claims["P31"][0]["mainsnak"]["snaktype"] == "somevalue"


def test_an_entity_with_a_shared_label_is_named_by_label_and_id(tmp_path: Path) -> None:
    rows = ["Q230\tGeorgia\ta country\t\tGeorgia (country)", "Q1428\tGeorgia\ta state\t\tGeorgia (U.S. state)"]
    folder = write_tables(
        tmp_path / "tables", "country", *rows, "Q994\tTbilisi\ta city\t\t\tGeorgia (Q230)", "Q1\tx\tx\t\t\tmetre"
    )
    assert read_claims(folder, "Q994")["P17"][0]["mainsnak"]["datavalue"]["value"]["id"] == "Q230"


@pytest.mark.parametrize(
    ("row", "column", "cell", "problem"),
    [
        ("64\tBerlin\ta city", "id", "64", "not an entity id"),
        ("Q064\tBerlin\ta city", "id", "Q064", "not an entity id"),
        ("Q6256\tBerlin\ta city", "id", "Q6256", "the id occurs twice"),
        ("Q64\t\ta city", "label", "", "the label is missing"),
        ("Q64\tcountry\ta city\t\tCountry", "title", "Country", "the same English article"),
        ("Q64\tmetre\ta city\t\tmetre (x)\tmetre", "instance of", "metre", "several entities have this label"),
        ("Q64\tBerlin\ta city\t\t\tcity", "instance of", "city", "no table has an entity with this label"),
        ("Q64\tBerlin\ta city\t\t\tcountry (Q5)", "instance of", "country (Q5)", "no table has an entity"),
        ("Q64\tBerlin\ta city\t\t\tcountry; country", "instance of", "country", "occurs twice in the cell"),
        ("Q64\tBerlin\ta city\t\t\t\t1237-13", "inception", "1237-13", "no such day"),
        ("Q64\tBerlin\ta city\t\t\t\t1900-02-29", "inception", "1900-02-29", "no such day"),
        ("Q64\tBerlin\ta city\t\t\t\t0000", "inception", "0000", "no such day"),
        ("Q64\tBerlin\ta city\t\t\t\tabout 1237", "inception", "about 1237", "not a date such as"),
        ("Q64\tBerlin\ta city\t\t\t\t\t3,664", "elevation", "3,664", "not a number such as"),
        ("Q64\tBerlin\ta city\t\t\t\t\t34 feet", "elevation", "34 feet", "no table has an entity"),
        ("Q64\tBerlin\ta city\t\t\t\t\t\t52.5 13.4", "coordinate location", "52.5 13.4", "not a latitude"),
        ("Q64\tBerlin\ta city\t\t\t\t\t\t91, 13.4", "coordinate location", "91, 13.4", "latitude must lie in"),
        ("Q64\tBerlin\ta city\t\t\t\t\t\t\tBerlin", "native label", "Berlin", "not a text with its language"),
        ("Q64\tBerlin\ta city\t\t\tcountry [best]", "instance of", "country [best]", "the mark 'best' is none of"),
        ("Q64\tBerlin\ta city\t\t\tcountry [until: 1]", "instance of", "country [until: 1]", "the mark 'until: 1'"),
        ("Q64\tBerlin\ta city\t\t\tcountry [end time: x]", "instance of", "country [end time: x]", "not a date"),
        ("Q64\tBerlin\ta city\t\t\tcountry [preferred", "instance of", "country [preferred", "one pair of brackets"),
        ("Q64\tBerlin\ta city" + 8 * "\tx", None, "x", "11 cells under 10 columns"),
    ],
)
def test_a_mistake_in_a_row_is_named_with_file_line_column_and_cell(
    row: str, column: str | None, cell: str, problem: str, tmp_path: Path
) -> None:
    columns = "instance of\tinception\televation\tcoordinate location\tnative label"
    folder = write_tables(tmp_path / "tables", columns, row)
    with pytest.raises(make_dump().TablesError) as caught:
        make_dump().read_tables(folder)
    place = "places.tsv:3" + (f", column {column!r}" if column else "")
    message = str(caught.value)
    assert f"{place}, cell {cell!r}: " in message
    assert problem in message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("31\tinstance of\twikibase-item", "not a property id such as P17"),
        ("P17\tsovereign state\twikibase-item", "the id occurs twice"),
        ("P1\tcountry\twikibase-item", "the label occurs twice"),
        ("P1\tshape\tgeo-shape", "the datatype is none of"),
        ("P1\tpart of\twikibase-item\tmetre", "only a quantity has a unit"),
        ("P1\twidth\tquantity\tfoot", "no table has an entity with this label"),
    ],
)
def test_a_mistake_in_the_relations_is_named(line: str, problem: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables", "instance of")
    with (folder / "relations.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(make_dump().TablesError, match=problem):
        make_dump().read_tables(folder)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("instance off", "relations.tsv has no relation with this label"),
        ("country\tcountry", "the column occurs twice"),
    ],
)
def test_a_column_that_is_no_relation_is_named(columns: str, problem: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables", columns, "Q64\tBerlin\ta city")
    with pytest.raises(make_dump().TablesError, match=problem):
        make_dump().read_tables(folder)


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables", "country", "Q64\tBerlin\t\t\t\tPrussia", "Q90\tParis\t\t\t\tGaul")
    with pytest.raises(make_dump().TablesError, match=r"(?s)'Prussia'.*'Gaul'.*2 mistakes"):
        make_dump().read_tables(folder)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(make_dump().TablesError, match=r"holds no relations\.tsv"):
        make_dump().read_tables(tmp_path)


def test_the_same_tables_give_the_same_bytes_without_time_stamps(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables", "instance of", "Q64\tBerlin\ta city\t\t\tcountry")
    made = make_dump().dump_bytes(make_dump().read_tables(folder))
    assert made == make_dump().dump_bytes(make_dump().read_tables(folder))
    assert made[4:8] == bytes(4)


def test_check_tells_when_the_dump_is_out_of_date_and_writing_mends_it(tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "tables", "instance of", "Q64\tBerlin\ta city\t\t\tcountry")
    dump = tmp_path / "wikidata.json.gz"
    arguments = ["--tables", str(tables), "--output", str(dump)]
    missing = _run("--check", *arguments)
    assert missing.returncode == 1
    assert "cannot be read" in missing.stderr
    assert _run(*arguments).returncode == 0
    assert dump.read_bytes() == make_dump().dump_bytes(make_dump().read_tables(tables))
    assert _run("--check", *arguments).returncode == 0
    places = tables / "places.tsv"
    places.write_text(places.read_text().replace("a city", "a capital"))
    outdated = _run("--check", *arguments)
    assert outdated.returncode == 1
    assert "differs from the tables" in outdated.stderr


def test_the_script_exits_with_1_and_names_the_mistake_when_a_table_is_broken(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables", "country", "Q64\tBerlin\t\t\t\tPrussia")
    broken = _run("--tables", str(folder), "--output", str(tmp_path / "dump"))
    assert broken.returncode == 1
    assert "places.tsv:3, column 'country', cell 'Prussia'" in broken.stderr
    assert not (tmp_path / "dump").exists()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE / "make_dump.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- against real data ----------------------------------------------------------------------------------------------


def test_ids_agree_with_real_wikidata_items() -> None:
    path = SHARED / "wikidata" / "entities-49.dump.json.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent; set SYNTHIE_SHARED_DATA to the folder of the reference data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        real = [json.loads(line.rstrip().removesuffix(",")) for line in file if len(line) > 3]
    titles = {
        item["sitelinks"]["enwiki"]["title"]: id_ for id_, item in items().items() if "enwiki" in item["sitelinks"]
    }
    met = [(item["sitelinks"]["enwiki"]["title"], item["id"]) for item in real if "enwiki" in item["sitelinks"]]
    known = [(title, id_) for title, id_ in met if title in titles]
    assert len(known) >= 10
    assert [(title, titles[title]) for title, _ in known] == known


def test_labels_agree_with_labelled_real_triples() -> None:
    path = SHARED / "codex-m" / "labelled-subset.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent; set SYNTHIE_SHARED_DATA to the folder of the reference data")
    real: dict[str, str] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            subject, subject_label, _, _, object_, object_label, *_ = line.rstrip("\n").split("\t")
            real |= {subject: subject_label.lower(), object_: object_label.lower()}
    shared = items().keys() & real.keys()
    assert len(shared) >= 100
    agreeing = {id_ for id_ in shared if real[id_] in _names(items()[id_])}
    # The real labels are those of another day, so a few differ: "republic of china", "the 33rd president".
    assert len(agreeing) >= 0.9 * len(shared), sorted((id_, real[id_]) for id_ in shared - agreeing)


def _names(item: dict[str, Any]) -> set[str]:
    labels = [label["value"] for label in item["labels"].values()]
    aliases = [alias["value"] for alias in item["aliases"].get("en", [])]
    titles = [sitelink["title"] for sitelink in item["sitelinks"].values()]
    return {name.lower() for name in [*labels, *aliases, *titles]}
