"""The compiled scan of a dump says of every document that it takes what the reader says of it."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib
from wikidata_documents import (
    coordinate,
    date,
    dump_text,
    item,
    monolingual,
    quantity,
    random_documents,
    string,
    to_item,
)

import kg.wikidata.ingest
from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import InputError
from kg.wikidata.ingest import PARTS
from kg.wikidata.reader import Entity, Ignored, WikidataReader
from kg.wikidata.scan import Scanner
from kg.wikidata.wikibase import BadLineError

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "wikidata.json.gz"
SHARED = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = SHARED / "wikidata" / "entities-49.dump.json.gz"
ALL_LITERALS = ["time", "quantity", "globe-coordinate", "monolingualtext", "string", "external-id", "url"]
SELECTIONS: list[dict[str, Any]] = [
    {"entities": "wikipedia"},
    {"entities": "labelled", "literals": ALL_LITERALS},
    {
        "entities": "labelled",
        "relations": ["P6", "P31", "P571"],
        "classes": ["Q5"],
        "fallback_languages": ["mul", "de"],
    },
]


def need(dump: Path) -> None:
    if not dump.exists():
        pytest.skip(f"no reference dump at {dump}; set SYNTHIE_SHARED_DATA to the folder that holds it")


class Both:
    """Reads single lines with the scan and with the reader."""

    def __init__(self, selection: dict[str, Any], listed: bytes | None = None) -> None:
        config = GraphConfig(**selection)
        relations = selection.get("relations")
        self.scanner = Scanner(config, relations, listed)
        self.reader = WikidataReader(config, relations, listed)
        self.selects = relations is not None

    def scanned(self, line: bytes) -> dict[str, Any] | None:
        """What the scan says of a line; None if it leaves it to the reader."""
        block = line + b",\n"
        left = self.scanner.read(block + b"\n" * Scanner.margin)
        parts = {kind: rows(kind, columns) for kind, columns in self.scanner.take(0).items()}
        documents, statements = self.scanner.take_counts()
        told = {
            "documents": +documents,
            "statements": +statements,
            "seen": self.scanner.take_seen(),
            "datatypes": self.scanner.take_datatypes(),
        }
        if left:
            assert left == [[0, len(block)]]
            assert not parts
            assert not any(told.values())
            return None
        return parts | told

    def read(self, line: bytes) -> dict[str, Any]:
        """What the reader says of a line.

        Raises:
            BadLineError: it is no document.
        """
        reader = self.reader
        reader.reset()
        parts: dict[str, list[tuple[Any, ...]]] = {}
        documents: Counter[str] = Counter()
        for _, content in reader.lines(line + b",\n"):
            document = reader.read(content)
            if isinstance(document, Entity):
                documents["entities"] += 1
                parts["entities"] = [tuple(getattr(document, field.name) for field in PARTS["entities"])]
                triples = zip(*[iter(document.items)] * 3, strict=True)
                parts["items"] = [(0, number, target, bool(best)) for number, target, best in triples]
                parts["literals"] = [(0, number, best, *value[:5]) for number, best, value in document.literals]
                parts["subclasses"] = [(document.number, above) for above in document.superclasses]
            elif isinstance(document, Ignored):
                documents[document.reason] += 1
                if document.label:
                    parts["labels"] = [(document.number, document.revision, document.label)]
                parts["subclasses"] = [(document.number, above) for above in document.superclasses]
            else:
                documents[type(document).__name__] += 1
        statements = Counter(reader.dropped_statements)
        statements["statements"] = reader.statements
        return {kind: rows for kind, rows in parts.items() if rows} | {
            "documents": documents + reader.skipped,
            "statements": +statements,
            "seen": reader.seen,
            "datatypes": reader.datatypes,
        }


def rows(kind: str, columns: list[pa.Array]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pa.RecordBatch.from_arrays(columns, schema=PARTS[kind]).to_pylist()]


def without_checksum(told: dict[str, Any]) -> dict[str, Any]:
    return told | {"entities": [row[:2] + row[3:] for row in told.get("entities", [])]}


def compact(document: dict[str, Any]) -> bytes:
    """A document in the order and form of the official dump."""
    if document.get("type") == "item":
        keys = ("type", "id", "labels", "descriptions", "aliases", "claims", "sitelinks")
        document = {key: document.get(key, []) for key in keys} | document
    return json.dumps(document, separators=(",", ":")).replace("/", "\\/").encode()


def rich_item() -> dict[str, Any]:
    """An item with everything that the official form has."""
    source = {"hash": "1", "snaks": {"P143": [to_item(143, 328)["mainsnak"]]}, "snaks-order": ["P143"]}
    claims = [
        to_item(31, 5),
        to_item(31, 5, rank="preferred"),
        to_item(6, 7, rank="deprecated"),
        to_item(6, 7, snaktype="novalue"),
        to_item(6, 8),
        to_item(6, 8, snaktype="somevalue"),
        date(571, "+1879-03-14T00:00:00Z"),
        date(571, "-0044-00-00T00:00:00Z", 9),
        date(571, "+1801-00-00T00:00:00Z", 6, rank="deprecated"),
        quantity(2046, "+0891.70", unit=3),
        quantity(2370, "-1", unit=0),
        coordinate(625, 52.516666, -13.3833, 1e-06),
        monolingual(1476, "Ein Titel", "de"),
        monolingual(1477, "A “title”", "en"),
        string(373, 'a "b" \\ c'),
        string(487, "\U0001f5a8"),
        string(214, "123", "external-id"),
        to_item(279, 9),
    ]
    for number, claim in enumerate(claims):
        claim["mainsnak"].pop("hash")
        claim["id"] = f"Q42$00000000-{number}"
        claim.pop("references")
        rank = claim.pop("rank")
        if number % 3 == 0:
            claim.pop("id")
            claim |= {"qualifiers": {"P580": [quantity(580, "+1")["mainsnak"]]}, "qualifiers-order": ["P580", "P1"]}
            claim["id"] = f"Q42$00000000-{number}"
        claim["rank"] = rank
        if number % 2 == 0:
            claim["references"] = [source, source]
    for claim in claims:
        if (value := claim["mainsnak"].get("datavalue")) and value["type"] in ("time", "globecoordinate"):
            key = "calendarmodel" if value["type"] == "time" else "globe"
            value["value"][key] = "http://www.wikidata.org/entity/Q2"
    terms = {code: {"language": code, "value": f"é {code} & ü"} for code in ("de", "en", "mul")}
    return item(42, "x", claims=claims) | {
        "labels": terms,
        "descriptions": {"fr": {"language": "fr", "value": "chose"}, "mul": {"language": "mul", "value": "thing"}},
        "aliases": {
            "mul": [{"language": "mul", "value": "A"}, {"language": "mul", "value": "é en & ü"}],
            "en": [{"language": "en", "value": "B"}, {"language": "en", "value": "\U0001f1e9\U0001f1ea \U00020000"}],
        },
        "sitelinks": {
            "dewiki": {"site": "dewiki", "title": "T", "badges": ["Q17437796", "Q1"]},
            "enwiki": {"site": "enwiki", "title": "“T” 中", "badges": []},
        },
        "pageid": 1,
        "ns": 0,
        "title": "Q42",
        "lastrevid": 2_000_000_000,
        "modified": "2025-06-10T10:20:30Z",
    }


def corpus() -> list[bytes]:
    """Documents in official form of every kind; of the real ones, where they are at hand, the shorter ones."""
    draw = random.Random(3)
    lines = [compact(rich_item())] * 3 + [compact(document) for document in random_documents(draw, 60)]
    lines += draw.sample([line.rstrip(b",") for line in gzip.decompress(SAMPLE.read_bytes()).split(b"\n")[1:-2]], 60)
    if REAL.exists():
        real = [line.rstrip(b",") for line in gzip.decompress(REAL.read_bytes()).splitlines() if len(line) > 10]
        lines += sorted(real, key=len)[:12]
    return lines


def replace_byte(draw: random.Random, line: bytes) -> bytes:
    at = draw.randrange(len(line))
    return line[:at] + bytes([draw.choice(b'"\\{}[],:0159aeQP$ \x00\x1f\x7f\x80\xc3\n')]) + line[at + 1 :]


def remove_stretch(draw: random.Random, line: bytes) -> bytes:
    at = draw.randrange(len(line))
    return line[:at] + line[at + draw.choice([1, 2, 3, 10, 100, 1000]) :]


def join_references(draw: random.Random, line: bytes) -> bytes:
    """Remove what lies between two places in references or qualifiers, mostly of two statements."""
    stretches = [match.span() for match in re.finditer(rb'"(references|qualifiers)":.*?-order":', line)]
    if not stretches:
        return line
    first = draw.randrange(len(stretches))
    second = draw.randrange(first, min(first + 4, len(stretches)))
    start, end = sorted((draw.randrange(*stretches[first]), draw.randrange(*stretches[second])))
    return line[:start] + line[end:]


def repeat_stretch(draw: random.Random, line: bytes) -> bytes:
    at = draw.randrange(len(line))
    return line[: at + draw.choice([1, 2, 20, 300])] + line[at:]


def change_word(draw: random.Random, line: bytes) -> bytes:
    words = [b'"rank":"normal"', b'"preferred"', b'"value"', b'"en"', b'"mul"', b'"P31"', b'"P6"', b'"wikibase-item"']
    words += [b'"enwiki"', b'"item"', b"[]", b"{}", b'"time"', b'"string"', b"null", b'"references"', b"-", b"+", b"1"]
    return line.replace(draw.choice(words), draw.choice(words), draw.choice([1, 2]))


MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    replace_byte,
    replace_byte,
    remove_stretch,
    join_references,
    join_references,
    repeat_stretch,
    change_word,
]


@pytest.mark.parametrize("number", range(len(SELECTIONS)))
def test_scan_and_reader_say_the_same_of_every_document_that_the_scan_takes(number: int) -> None:
    for listed in (None, b"\xff" * 9):
        both = Both(SELECTIONS[number], listed)
        lines = corpus()
        taken = [line for line in lines if (told := both.scanned(line)) is not None and told == both.read(line)]
        left = [line for line in lines if both.scanned(line) is None]
        assert len(taken) + len(left) == len(lines)
        assert len(taken) > len(lines) / 3
        assert compact(rich_item()) in taken


def has_spoilt_number(line: bytes) -> bool:
    """Whether there is something outside of strings that is neither structure nor a number or constant of JSON."""
    words = re.findall(rb"[^][{},:\s]+", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", line))
    return not all(re.fullmatch(rb"null|true|false|-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", word) for word in words)


@pytest.mark.parametrize("number", range(len(SELECTIONS)))
def test_of_a_damaged_line_that_the_scan_takes_it_says_what_the_reader_says_of_it_or_of_the_sound_one(
    number: int,
) -> None:
    draw, lines, both = random.Random(number), corpus(), Both(SELECTIONS[number])
    taken = unseen = 0
    for _ in range(6000):
        line = draw.choice(lines)
        mutation = draw.choice(MUTATIONS)
        mutated = mutation(draw, line)
        if b"\n" in mutated or (told := both.scanned(mutated)) is None:
            continue
        taken += 1
        try:
            expected = both.read(mutated)
        except BadLineError:
            if has_spoilt_number(mutated):
                continue
            unseen += 1
            assert without_checksum(told) == without_checksum(both.read(line))
        else:
            assert told == expected
    assert taken > 300
    assert unseen


def test_a_cut_line_is_never_taken_for_a_whole_one() -> None:
    both, line = Both(SELECTIONS[1]), compact(rich_item())
    assert both.scanned(line) is not None
    for size in range(len(line)):
        assert both.scanned(line[:size]) is None
        closed = both.scanned(line[:size] + b"}")
        assert closed is None or closed == both.read(line[:size] + b"}")  # it ended between two keys


def test_the_checksum_is_that_of_the_line() -> None:
    line = compact(rich_item())
    told = Both(SELECTIONS[1]).scanned(line)
    assert told is not None
    assert told["entities"][0][2] == isal_zlib.crc32(line)


def graph(dump: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Counts and files of a build."""
    manifest = build_graph(GraphConfig(dump=str(dump), workers=1, **options), folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("manifest.json", ".lock")]
    return manifest.counts, {str(path.relative_to(folder)): path.read_bytes() for path in files}


def both_graphs(dump: Path, folder: Path, **options: Any) -> list[Any]:
    """What is built with and without the scan; an error counts as what is built."""
    graphs: list[Any] = []
    for scanned_bytes in (0, 1 << 60):
        with mock.patch.object(kg.wikidata.ingest, "_SCANNED_BYTES", scanned_bytes):
            try:
                graphs.append(graph(dump, folder / f"kg{scanned_bytes}", **options))
            except InputError as error:
                graphs.append(str(error))
    return graphs


@pytest.mark.parametrize("number", range(len(SELECTIONS)))
@pytest.mark.parametrize("dump", [SAMPLE, REAL], ids=["sample", "real"])
def test_the_graph_of_a_dump_is_the_same_with_and_without_the_scan(tmp_path: Path, dump: Path, number: int) -> None:
    need(dump)
    options = SELECTIONS[number]
    if "relations" in options:
        options = options | {"relations": ["P31", "P17", "P571"], "classes": ["Q515", "Q6256"]}
    with_scan, without = both_graphs(dump, tmp_path, **options)
    assert with_scan == without
    assert with_scan[0]["triples"] > 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_every_selection_of_every_dump_is_the_same_with_and_without_the_scan(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("graph")
    lines = [*map(compact, random_documents(draw, 40)), compact(rich_item())]
    bad = [b'{"type":"item","id":"Q9"', b'{"type":"item","id":"Q9","labels":{', b"\xff\xfe", b"{}"]
    (folder / "dump.json").write_bytes(dump_text([*lines, *draw.sample(bad, 2), draw.choice(lines)]))
    options = {
        "entities": draw.choice(["wikipedia", "labelled"]),
        "language": draw.choice(["en", "de"]),
        "fallback_languages": draw.choice([["mul"], [], ["fr", "mul"]]),
        "classes": draw.choice([[], [], ["Q7"], ["Q20", "Q5"]]),
        "drop_classes": draw.choice([[], ["Q6"]]),
        "relations": draw.choice([[], [], ["P6", "P571", "P12"]]),
        "literals": draw.choice([[], ALL_LITERALS, draw.sample(ALL_LITERALS, 3)]),
        "slice_mb": draw.choice([128, 0.01]),
    }
    with_scan, without = both_graphs(folder / "dump.json", folder, **options)
    assert with_scan == without


@pytest.mark.parametrize("number", range(len(SELECTIONS)))
def test_real_documents_are_all_taken(number: int) -> None:
    need(REAL)
    both = Both(SELECTIONS[number])
    lines = [line for line in gzip.decompress(REAL.read_bytes()).splitlines() if len(line) > 10]
    assert len(lines) == 49
    assert not [line[:40] for line in lines if both.scanned(line.rstrip(b",")) is None]
