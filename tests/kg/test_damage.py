"""Damaged dumps, lines and folders: what can be read is, the rest is told, nothing passes for whole that is not."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from wikidata_documents import (
    COMPRESSORS,
    adds_up,
    build,
    date,
    dump_text,
    item,
    property_document,
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
from kg.errors import InputError, StorageError
from kg.graph import KnowledgeGraph
from kg.stage import Manifest
from kg.wikidata.reader import WikidataReader
from kg.wikidata.wikibase import BadLineError

WHOLE = 1 << 20
MEMBERS, DOCUMENTS_OF_MEMBER = 30, 4


def many_items(count: int) -> list[dict[str, Any]]:
    draw = random.Random(3)
    return [
        item(number, f"{number} {draw.randbytes(60).hex()}", claims=[to_item(6, number), to_item(7, 1)])
        for number in range(1, count + 1)
    ]


def members_of_dump() -> list[bytes]:
    lines = [json.dumps(each).encode() + b",\n" for each in many_items(MEMBERS * DOCUMENTS_OF_MEMBER)]
    starts = range(0, len(lines), DOCUMENTS_OF_MEMBER)
    return [b"".join(lines[start : start + DOCUMENTS_OF_MEMBER]) for start in starts]


def damaged(data: bytes) -> bytes:
    """The middle of a member overwritten; its first bytes stay."""
    middle = len(data) // 2
    return data[:middle] + bytes(20) + data[middle + 20 :]


def build_file(dump: Path, folder: Path, slice_bytes: float = WHOLE, **options: Any) -> Manifest:
    options = {"workers": 1, "slice_mb": slice_bytes / (1 << 20)} | options
    return build_graph(GraphConfig(dump=str(dump), **options), folder)


def aside(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_bytes().split(b"\n")[:-1]]


def graph_outputs(manifest: Manifest) -> dict[str, str]:
    return {name: digest for name, digest in manifest.outputs.items() if name != "quarantine.jsonl"}


# --- Members ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
def test_a_corrupt_member_costs_its_documents_and_is_told_with_file_and_byte(tmp_path: Path, compression: str) -> None:
    texts = members_of_dump()
    for number in (5, 13, 25):
        texts[number] += b"{bad %d,\n" % number
    packed = [COMPRESSORS[compression](text) for text in texts]
    packed[12] = damaged(packed[12])
    packed[20] = damaged(packed[20])
    lost = [12, 20]
    dump, sound = tmp_path / "dump", tmp_path / "sound"
    dump.write_bytes(b"".join(packed))
    sound.write_bytes(b"".join(text for number, text in enumerate(texts) if number not in lost))
    expected = build_file(sound, tmp_path / "expected")
    quarantines = []
    for number, slices in enumerate([1, 4, 11]):
        manifest = build_file(dump, tmp_path / f"kg{number}", dump.stat().st_size / slices)
        assert adds_up(manifest)
        assert manifest.counts["corrupt_members"] == 2
        assert manifest.counts["documents"]["entities"] == (MEMBERS - 2) * DOCUMENTS_OF_MEMBER
        assert graph_outputs(manifest) == graph_outputs(expected)
        quarantines.append(aside(tmp_path / f"kg{number}"))
    assert quarantines == quarantines[:1] * 3
    told = [record.get("byte", record.get("line")) for record in quarantines[0]]
    first, second = (len(b"".join(packed[:number])) for number in lost)
    assert told == ["{bad 5", first, "{bad 13", second, "{bad 25"]
    assert {record["file"] for record in quarantines[0]} == {str(dump)}
    assert all(record["reason"] for record in quarantines[0])


def test_too_many_corrupt_members_end_the_stage_and_a_raised_limit_goes_on(tmp_path: Path) -> None:
    packed = [gzip.compress(text) for text in members_of_dump()]
    packed[9] = damaged(packed[9])
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(packed))
    size = dump.stat().st_size / 6
    with pytest.raises(InputError, match=r"more than 0 parts that cannot be unpacked.*kg\.max_corrupt_members"):
        build_file(dump, tmp_path / "kg", size, max_corrupt_members=0)
    reports = {path: path.stat().st_mtime_ns for path in (tmp_path / "kg").glob(".parts*/0*.json")}
    assert reports
    seen: dict[Path, int] = {}

    def watch(*arguments: Any, **details: Any) -> None:
        seen.update({path: path.stat().st_mtime_ns for path in reports if path.exists()})

    config = GraphConfig(dump=str(dump), workers=1, slice_mb=size / (1 << 20), max_corrupt_members=1)
    assert build_graph(config, tmp_path / "kg", progress=watch).counts["corrupt_members"] == 1
    assert seen == reports


@pytest.mark.parametrize("slices", [1, 9])
@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
def test_a_truncated_file_is_an_error_whatever_the_limits(tmp_path: Path, compression: str, slices: int) -> None:
    data = b"".join(map(COMPRESSORS[compression], members_of_dump()))
    (tmp_path / "dump").write_bytes(data[:-9])
    with pytest.raises(InputError, match=r"is truncated.*Fetch the file again"):
        build_file(tmp_path / "dump", tmp_path / "kg", len(data) / slices, max_corrupt_members=9, max_bad_lines=9)
    assert not (tmp_path / "kg" / "manifest.json").exists()


# --- Lines -----------------------------------------------------------------------------------------------------------

SOUND = item(1000, "sound", claims=[to_item(1001, 1000)])


def aside_of(folder: Path, *lines: bytes, **options: Any) -> tuple[KnowledgeGraph, list[str]]:
    """Build a dump with these lines: the graph and the reasons for which lines were set aside."""
    manifest, graph = build(folder, [SOUND, *lines], **options)
    assert adds_up(manifest)
    assert ("Q1000", "P1001", "Q1000") in triples(graph)
    records = aside(folder / "kg")
    assert all(dump_text([SOUND, *lines])[record["offset"] :][:1] for record in records)
    return graph, [record["reason"] for record in records]


def encoded(document: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(document | fields).encode()


BAD = {
    "nothing but zero bytes": b"\0" * 4000,
    "bytes that are no UTF-8": encoded(item(2, "xyz")).replace(b"xyz", b"\xff\xfe"),
    "half a surrogate pair": encoded(item(2, "xyz")).replace(b"xyz", rb"\ud800"),
    "nested without end": b'{"id":"Q2","type":"item","claims":' + b"[" * 100_000,
    "nested and closed": b'{"type":"item","claims":' + b'{"P1":' * 5000 + b"1" + b"}" * 5000 + b',"id":"Q2"}',
    "a list with elements for a map": encoded(item(2), claims=[1]),
    "a list with elements for the descriptions": encoded(item(2, claims=[to_item(6, 2)]), descriptions=[1]),
    "a list with elements for the aliases": encoded(item(2, claims=[to_item(6, 2)]), aliases=[1]),
    "a relation without a number": encoded(item(2), claims={"P6": [to_item(6, 2)], "Px": [to_item(6, 2)]}),
    "a number for a text": encoded(item(2), labels={"en": {"value": 3}}),
    "a revision beyond all numbers": encoded(item(2), lastrevid=10**30),
    "an id beyond all numbers": encoded(item(2), id="Q1000000000"),
    "a rank of its own": encoded(item(2, claims=[to_item(6, 1, rank="best")])),
    "separators of lines in its text": "{\u2028\u2029\u0085\x0b\x0c\x1c bad".encode(),
    "two documents": encoded(item(2)) + b"," + encoded(item(3)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_is_no_document_is_set_aside(tmp_path: Path, name: str) -> None:
    graph, reasons = aside_of(tmp_path, BAD[name])
    assert len(reasons) == 1
    assert set(graph) == {"Q1000"}


def test_what_is_odd_but_a_document_is_read(tmp_path: Path) -> None:
    maps = dict.fromkeys(("labels", "descriptions", "aliases", "claims", "sitelinks"))
    odd = [
        encoded(item(2), **{name: [] for name in maps}),
        encoded(item(3), **maps),
        b'{"type":"item","id":"Q4"}',
        b'{"id":"Q5","redirect":"Q1000"}',
        b'{"type":"lexeme","id":"L1","claims":{"P1":[]},"lemmas":{"en":{"value":"x"}}}',
        b'{"type":"mediainfo","id":"M1","labels":{"en":{"value":"x"}},"statements":[]}',
        b'{"type":"entity-schema","id":"E1"}',
        encoded(item(6, "a\x00b\x1f\x7f\n c\u2028d", claims=[to_item(6, 5)])),
        encoded(
            item(7, claims=[statement(8, {"entity-type": "item", "numeric-id": 10**30}, "wikibase-entityid", None)])
        ),
        encoded(item(8, claims=[statement(9, {"amount": 10**30, "x": 10**400}, "quantity", "quantity")])),
    ]
    manifest, graph = build(tmp_path, [SOUND, *odd])
    assert manifest.counts["undecodable"] == 0
    dropped = {"entity-schema": 1, "lexeme": 1, "mediainfo": 1, "no_article": 3}
    dropped["other_kind"] = dropped.pop("entity-schema")
    assert manifest.counts["documents"]["dropped"] == dropped
    assert manifest.counts["documents"]["redirects"] == 1
    assert manifest.counts["statements"]["dropped"] == {"unreadable_value": 2}
    assert graph.node("Q6").label == "a b c d"
    assert graph.has_edge("Q6", "Q1000", "P6")


def test_a_line_of_forty_megabytes_is_a_document_like_any_other(tmp_path: Path) -> None:
    long = item(1, descriptions={"en": {"value": "x" * 40_000_000}}, claims=[to_item(6, 2)])
    manifest = build_file(write_dump(tmp_path / "dump", [long, item(2)], "gzip"), tmp_path / "kg")
    assert manifest.counts["undecodable"] == 0
    assert len(KnowledgeGraph.open(tmp_path / "kg").node("Q1").description) == 40_000_000


LIMIT = 5


@pytest.mark.parametrize("slices", [1, 3, 20])
@pytest.mark.parametrize("place", [0, 10, 20])
def test_the_limit_of_bad_lines_holds_for_the_whole_dump(tmp_path: Path, place: int, slices: int) -> None:
    lines = [encoded(each) for each in many_items(20)]
    verdicts = []
    for bad in (LIMIT, LIMIT + 1):
        text = (
            b"\n".join(lines[:place] + [b"{no document %d" % number for number in range(bad)] + lines[place:]) + b"\n"
        )
        (tmp_path / "dump").write_bytes(text)
        try:
            build_file(tmp_path / "dump", tmp_path / f"kg{bad}", len(text) / slices, max_bad_lines=LIMIT)
            verdicts.append("")
        except InputError as error:
            verdicts.append(str(error))
    assert verdicts[0] == ""
    assert "more than 5 undecodable lines" in verdicts[1]
    assert "begins with '{no document" in verdicts[1]


def test_a_stretch_of_bad_lines_within_the_limit_does_not_make_it_another_kind_of_file(tmp_path: Path) -> None:
    lines = [encoded(each) for each in many_items(20)]
    text = b"\n".join([*lines[:10], *([b'{"some":"thing"}'] * 300), *lines[10:]])
    (tmp_path / "dump").write_bytes(text)
    outputs = []
    for number, slices in enumerate([1, 4, 9]):
        manifest = build_file(tmp_path / "dump", tmp_path / f"kg{number}", len(text) / slices)
        assert manifest.counts["undecodable"] == 300
        outputs.append(manifest.outputs)
    assert outputs == outputs[:1] * 3


# --- Files and folders -----------------------------------------------------------------------------------------------


def test_a_dump_that_is_replaced_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", many_items(20))
    config = GraphConfig(dump=str(dump), workers=1, slice_mb=0.001)

    def replace(done: int, *arguments: Any, **details: Any) -> None:
        if 0 < done < dump.stat().st_size / 2:
            write_dump(tmp_path / "new", many_items(20)[::-1]).rename(dump)

    with pytest.raises(InputError, match="was changed while it was read"):
        build_graph(config, tmp_path / "kg", progress=replace)
    assert adds_up(build_graph(config, tmp_path / "kg"))


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "brackets.json").write_bytes(b"[\n]\n")
    for name, problem in {
        "empty.json": r"empty\.json is empty \(0 bytes\)",
        "folder": "There is no dump file in",
        "*.nt": "Cannot open the dump|There is no dump file",
        "brackets.json": "holds no document",
    }.items():
        with pytest.raises(InputError, match=problem):
            build_file(tmp_path / name, tmp_path / "kg")


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_a_clear_error_and_the_next_build_goes_on(tmp_path: Path, workers: int) -> None:
    dump = write_dump(tmp_path / "dump", many_items(400), "gzip")
    two = tmp_path / "two"
    two.mkdir()
    for number in range(2):
        (two / str(number)).write_bytes(dump.read_bytes())
    with small_disk(20_000), pytest.raises(StorageError, match=r"Cannot write .*run the same command again"):
        build_file(two, tmp_path / "kg", workers=workers)
    assert adds_up(build_file(two, tmp_path / "kg"))


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", many_items(3))
    tmp_path.chmod(0o500)
    folder = tmp_path if os.geteuid() else Path("/sys/kernel")  # root may write to any ordinary folder
    with pytest.raises(StorageError, match=r"Cannot write"):
        build_file(dump, folder / "kg")


# --- The decoder under mutations -------------------------------------------------------------------------------------

VALUES = (b"null", b"[]", b"{}", b"-1", b'""', b'"\\ud800"', b"1e999", b"9" * 25, b"[" * 3000, b"true", b'"Q0"', b"0.5")
KEYS = (b"id", b"type", b"claims", b"labels", b"redirect", b"mainsnak", b"datavalue", b"value", b"rank", b"P31")

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def flip(draw: random.Random, line: bytes, other: bytes) -> bytes:
    place = draw.randrange(len(line))
    return line[:place] + draw.randbytes(1) + line[place + 1 :]


def cut(draw: random.Random, line: bytes, other: bytes) -> bytes:
    start, end = sorted(draw.sample(range(len(line) + 1), 2))
    return line[:start] if draw.random() < 0.5 else line[:start] + line[end:]


def splice(draw: random.Random, line: bytes, other: bytes) -> bytes:
    return line[: draw.randrange(len(line))] + other[draw.randrange(len(other)) :]


def retype(draw: random.Random, line: bytes, other: bytes) -> bytes:
    pieces = line.split(b":")
    place = draw.randrange(len(pieces))
    end = pieces[place].find(b",")
    pieces[place] = draw.choice(VALUES) + (pieces[place][end:] if end >= 0 else b"}")
    return b":".join(pieces)


def repeat_key(draw: random.Random, line: bytes, other: bytes) -> bytes:
    place = draw.choice([place for place, byte in enumerate(line) if byte == ord("{")] or [0]) + 1
    return line[:place] + b'"%b":%b,' % (draw.choice(KEYS), draw.choice(VALUES)) + line[place:]


def swap(draw: random.Random, line: bytes, other: bytes) -> bytes:
    pieces = line.split(b",")
    one, two = draw.randrange(len(pieces)), draw.randrange(len(pieces))
    pieces[one], pieces[two] = pieces[two], pieces[one]
    return b",".join(pieces)


MUTATIONS: tuple[Mutation, ...] = (flip, cut, splice, retype, repeat_key, swap)


def corpus() -> list[bytes]:
    """Documents of every kind, and where they are at hand the shortest of the real ones."""
    documents = [*random_documents(random.Random(5), 30), property_document(31, "is"), SOUND]
    documents.append(item(9, claims=[quantity(1, "+1", unit=3), date(2, "+1990-01-01T00:00:00Z"), string(3, "\u2028")]))
    lines = [json.dumps(each, separators=(",", ":")).encode() for each in documents]
    shared = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    dump = shared / "wikidata" / "entities-49.dump.json.gz"
    if dump.exists():
        real = [line.rstrip(b",") for line in gzip.decompress(dump.read_bytes()).splitlines() if len(line) > 10]
        lines += sorted(real, key=len)[:4]
    return lines


READERS: list[dict[str, Any]] = [
    {},
    {"entities": "any", "literals": ["time", "quantity", "globe-coordinate", "monolingualtext", "string", "url"]},
    {"classes": ["Q5"], "relations": ["P6", "P31"]},
]


@pytest.mark.parametrize("number", range(len(READERS)))
def test_of_mutated_documents_only_bad_line_errors_come_and_they_count_nothing(number: int) -> None:
    draw, lines = random.Random(number), corpus()
    reader = WikidataReader(
        GraphConfig(qualifiers=number != 0, **READERS[number]), READERS[number].get("relations"), b"\xff" * (number + 1)
    )
    counted_of_bad_lines = 0
    for _ in range(40):
        mutated = []
        for _ in range(50):
            line = draw.choice(lines)
            for _ in range(draw.randint(1, 3)):
                line = draw.choice(MUTATIONS)(draw, line or b"?", draw.choice(lines))
            mutated.append(line)
        block = b",\n".join(mutated) + draw.choice([b"", b"\n", b"\r\n"])
        reader.reset()
        found = list(reader.lines(block))
        contents = [line.strip(b"[], \t\r\n\x0b\x0c\xef\xbb\xbf") for line in block.split(b"\n")]
        assert len(found) + reader.skipped.total() == sum(map(bool, contents))
        at = -1
        for offset, line in found:
            assert offset > at
            at = offset
            assert block[offset : offset + len(line)] == line
            before = reader.statements, +reader.dropped_statements
            try:
                reader.read(line)
            except BadLineError:
                after = reader.statements, +reader.dropped_statements
                counted_of_bad_lines += before != after
    assert counted_of_bad_lines == 0
