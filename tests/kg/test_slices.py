"""The graph is the same however a dump is packed, cut and read, and however often its reading was interrupted."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import zstandard
from wikidata_documents import adds_up, dump_text, item, random_documents, to_item

import kg.build
import kg.dump
import kg.lines
import kg.stage
import kg.wikidata.build
import kg.wikidata.ingest
from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import InputError, StorageError
from kg.parallel import Mapper
from kg.stage import Manifest

WHOLE = 1 << 20  # bytes, more than any dump here
BAD_LINES = [b'{"type":"item","id":"Q9"', "{\u2028 \u0085 bad".encode(), b"\xff\xfe", b"\x00" * 30, b"{}"]


def lines_of_dump() -> list[bytes]:
    draw = random.Random(7)
    documents = [
        item(50, claims=[to_item(31, 51), to_item(6, 50)]),
        *random_documents(draw, 60),
        item(51, article=False, claims=[to_item(279, 52)]),
    ]
    lines = [json.dumps(document, separators=(",", ":")).encode() for document in documents]
    for place, bad in enumerate(BAD_LINES):
        lines.insert(3 + 13 * place, bad)
    return lines


LINES = lines_of_dump()
TEXT = dump_text(LINES)


def pieces(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def members(compress: Callable[[bytes], bytes], by_line: bool = False) -> bytes:
    """The dump in many members, that begin on lines or anywhere."""
    parts = TEXT.splitlines(keepends=True) if by_line else pieces(TEXT, 1700)
    return b"".join(map(compress, parts))


FORMS: dict[str, bytes] = {
    "plain": TEXT,
    "no brackets": b",\n".join(LINES) + b",\n",
    "no commas": b"\n".join(LINES),
    "carriage returns": TEXT.replace(b"\n", b"\r\n"),
    "gzip": gzip.compress(TEXT),
    "gzip, a member a line": members(gzip.compress, by_line=True),
    "gzip, members anywhere": members(gzip.compress),
    "bzip2": bz2.compress(TEXT),
    "bzip2, streams anywhere": members(bz2.compress),
    "zstd": zstandard.compress(TEXT),
    "zstd, frames anywhere": members(zstandard.compress),
}
OPTIONS: dict[str, Any] = {
    "entities": "labelled",
    "literals": ["time", "quantity", "globe-coordinate", "monolingualtext", "string"],
    "qualifiers": True,
    "workers": 1,
}


SELECTIONS = [{"entities": "wikipedia"}, {"entities": "any", "classes": ["Q52"]}, {"min_degree": 1}]


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of the graph's files, without what names the dump."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    named = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: data for name, data in named.items() if name not in ("manifest.json", "quarantine.jsonl", ".lock")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    (folder / "dump").write_bytes(TEXT)
    assert adds_up(build_graph(config(folder / "dump"), folder / "kg"))
    return files_of(folder / "kg")


def config(dump: Path | str, slice_bytes: float = WHOLE, **options: Any) -> GraphConfig:
    return GraphConfig(dump=str(dump), slice_mb=slice_bytes / (1 << 20), **OPTIONS | options)


def backwards(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """A mapper that does the last slice first."""
    yield from map(function, reversed(tasks))


# --- Forms and slices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_the_graph_is_the_same_for_every_form_of_the_dump_and_every_slice_size(
    tmp_path: Path, expected: dict[str, bytes], name: str
) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(FORMS[name])
    aside: list[bytes] = []
    for number, slice_bytes in enumerate([WHOLE, len(FORMS[name]) / 3, len(FORMS[name]) / 9]):
        folder = tmp_path / f"kg{number}"
        manifest = build_graph(config(dump, slice_bytes), folder, mapper=backwards if number == 2 else None)
        assert adds_up(manifest)
        assert files_of(folder) == expected
        aside.append((folder / "quarantine.jsonl").read_bytes())
    assert aside == aside[:1] * 3
    records = [json.loads(line) for line in aside[0].split(b"\n")[:-1]]
    assert len(records) == len(BAD_LINES)
    text = TEXT if name not in ("no brackets", "no commas", "carriage returns") else FORMS[name]
    for record, bad in zip(records, BAD_LINES, strict=True):
        assert record["file"] == str(dump)
        assert text[record["offset"] :].startswith(bad)


def test_slices_of_a_few_bytes_give_the_same_graph(tmp_path: Path, expected: dict[str, bytes]) -> None:
    (tmp_path / "dump").write_bytes(TEXT)
    build_graph(config(tmp_path / "dump", 900), tmp_path / "kg")
    assert files_of(tmp_path / "kg") == expected


@pytest.mark.parametrize("selection", SELECTIONS)
def test_every_selection_is_the_same_for_every_slice_size(tmp_path: Path, selection: dict[str, Any]) -> None:
    built = []
    for number, (name, slices) in enumerate([("plain", 1), ("plain", 12), ("gzip, members anywhere", 7)]):
        (tmp_path / name).write_bytes(FORMS[name])
        settings = config(tmp_path / name, len(FORMS[name]) / slices, **selection)
        assert adds_up(build_graph(settings, tmp_path / f"kg{number}"))
        built.append(files_of(tmp_path / f"kg{number}"))
    assert built == built[:1] * 3


@pytest.mark.parametrize("pattern", ["", "*.json*", "part-1.json.gz"])
def test_the_parts_of_a_folder_make_one_graph(tmp_path: Path, expected: dict[str, bytes], pattern: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, start in enumerate(range(0, len(LINES), 25), 1):
        part = LINES[start : start + 25] if pattern != "part-1.json.gz" else LINES
        text = dump_text(part)
        data = gzip.compress(text) if number % 2 else text
        (folder / f"part-{number}.json{'.gz' if number % 2 else ''}").write_bytes(data)
    for number, slice_bytes in enumerate([WHOLE, 3000]):
        manifest = build_graph(config(folder / pattern, slice_bytes), tmp_path / f"kg{number}")
        assert files_of(tmp_path / f"kg{number}") == expected
        assert manifest.counts["undecodable"] == len(BAD_LINES)
    aside = [(tmp_path / f"kg{number}" / "quarantine.jsonl").read_text() for number in (0, 1)]
    assert aside[0] == aside[1]


@pytest.mark.parametrize("workers", [2, 3])
def test_the_graph_is_the_same_for_every_number_of_workers(
    tmp_path: Path, expected: dict[str, bytes], workers: int
) -> None:
    (tmp_path / "dump").write_bytes(FORMS["gzip, members anywhere"])
    calls: list[tuple[int, dict[str, Any]]] = []

    def listen(done: int, total: int | None, unit: str, **details: Any) -> None:
        calls.append((done, details))

    build_graph(config(tmp_path / "dump", 4000, workers=workers), tmp_path / "kg", progress=listen)
    assert files_of(tmp_path / "kg") == expected
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == (tmp_path / "dump").stat().st_size


# --- Interruptions ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a build as a kill would, but for this process."""


class Counting:
    """A mapper that notes which slices it is asked for, and may end the build after some of them."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.asked: list[int] = []

    def __call__(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        self.asked = [task.part.number for task in tasks]
        for number, task in enumerate(tasks):
            if number == self.last:
                raise Killed
            yield function(task)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump"
    path.write_bytes(TEXT)
    return path


def part(folder: Path, name: str) -> Path:
    """A file among the parts of an unfinished build."""
    (found,) = folder.glob(f".parts-*/{name}")
    return found


def interrupt(settings: GraphConfig, folder: Path, mapper: Mapper) -> None:
    with pytest.raises(Killed):
        build_graph(settings, folder, mapper=mapper)


def finished(settings: GraphConfig, folder: Path) -> tuple[Manifest, list[int]]:
    """Build to the end: the manifest and the slices that were read."""
    mapper = Counting()
    manifest = build_graph(settings, folder, mapper=mapper)
    assert not list(folder.glob(".parts*"))
    return manifest, mapper.asked


def test_finished_slices_are_not_read_again(tmp_path: Path, dump: Path, expected: dict[str, bytes]) -> None:
    settings = config(dump, len(TEXT) / 8)
    interrupt(settings, tmp_path / "kg", Counting(last=3))
    interrupt(settings, tmp_path / "kg", Counting(last=2))
    manifest, read = finished(settings, tmp_path / "kg")
    assert read == [5, 6, 7]
    assert files_of(tmp_path / "kg") == expected
    assert adds_up(manifest)


def test_slices_cut_otherwise_are_read_anew(tmp_path: Path, dump: Path, expected: dict[str, bytes]) -> None:
    interrupt(config(dump, len(TEXT) / 8), tmp_path / "kg", Counting(last=5))
    _, read = finished(config(dump, len(TEXT) / 4), tmp_path / "kg")
    assert read == [0, 1, 2, 3]
    assert files_of(tmp_path / "kg") == expected


def test_limits_may_be_raised_without_reading_again(tmp_path: Path, dump: Path, expected: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match="more than 3 undecodable lines"):
        build_graph(config(dump, len(TEXT) / 8, max_bad_lines=3), tmp_path / "kg")
    _, read = finished(config(dump, len(TEXT) / 8), tmp_path / "kg")
    assert read[-1] == 7
    assert read[0] > 3
    assert files_of(tmp_path / "kg") == expected


@pytest.mark.parametrize("name", ["000002-000.json", "000002-000.items.parquet", "000002-000.quarantine.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_a_slice_with_a_damaged_part_or_report_is_not_finished(
    tmp_path: Path, dump: Path, expected: dict[str, bytes], name: str, damage: str
) -> None:
    settings = config(dump, len(TEXT) / 5)
    interrupt(settings, tmp_path / "kg", Counting(last=4))
    path = part(tmp_path / "kg", name)
    assert path.stat().st_size
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7] if damage == "cut" else b"")
    _, read = finished(settings, tmp_path / "kg")
    assert read == [2, 4]
    assert files_of(tmp_path / "kg") == expected


@pytest.mark.parametrize("kept", [0, 100])
def test_a_part_with_other_content_is_an_error_and_then_all_is_read_anew(
    tmp_path: Path, dump: Path, expected: dict[str, bytes], kept: int
) -> None:
    settings = config(dump, len(TEXT) / 3)
    interrupt(settings, tmp_path / "kg", Counting(last=2))
    path = part(tmp_path / "kg", "000001-000.items.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:kept] + bytes(len(data) - 2 * kept) + data[len(data) - kept :])
    with pytest.raises(StorageError, match=r"is damaged: .*run the same command again"):
        build_graph(settings, tmp_path / "kg")
    _, read = finished(settings, tmp_path / "kg")
    assert read == [0, 1, 2]
    assert files_of(tmp_path / "kg") == expected


def test_a_build_killed_while_joining_reads_nothing_again(
    tmp_path: Path, dump: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, join = config(dump, len(TEXT) / 3), kg.wikidata.build.join_parts

    def die(*arguments: Any) -> None:
        join(*arguments)
        (tmp_path / "kg" / "triples.parquet").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kg.wikidata.build, "join_parts", die)
        interrupt(settings, tmp_path / "kg", Counting())
    _, read = finished(settings, tmp_path / "kg")
    assert read == []
    assert files_of(tmp_path / "kg") == expected


@pytest.mark.parametrize("removed", [1, 9, 20])
def test_a_build_killed_while_clearing_up_can_be_done_again(
    tmp_path: Path, dump: Path, expected: dict[str, bytes], removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path) -> None:
        (parts,) = folder.glob(".parts-*")
        for path in sorted(parts.iterdir(), reverse=True)[:removed]:
            path.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kg.build, "remove_parts", die)
        interrupt(config(dump, len(TEXT) / 3), tmp_path / "kg", Counting())
    assert build_graph(config(dump, len(TEXT) / 3), tmp_path / "kg").reused
    assert files_of(tmp_path / "kg") == expected
    assert not list((tmp_path / "kg").glob(".parts-*"))


def test_a_build_killed_before_its_manifest_is_written_reads_nothing_again(
    tmp_path: Path, dump: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kg.stage, "_outputs", die)
        interrupt(config(dump, len(TEXT) / 3), tmp_path / "kg", Counting())
    _, read = finished(config(dump, len(TEXT) / 3), tmp_path / "kg")
    assert read == []
    assert files_of(tmp_path / "kg") == expected


@pytest.fixture
def many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kg.dump, "TEXT_BYTES", 3000)
    monkeypatch.setattr(kg.lines, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(kg.wikidata.ingest, "_SEGMENT_BYTES", 5000)


@pytest.mark.usefixtures("many_segments")
@pytest.mark.parametrize("damage", [None, "000000-002.json", "000000-001.entities.parquet"])
def test_a_slice_goes_on_after_its_last_finished_segment(
    tmp_path: Path, dump: Path, expected: dict[str, bytes], damage: str | None
) -> None:
    folder, calls = tmp_path / "kg", 0

    def die_late(*arguments: Any, **details: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= 12 and len(list(folder.glob(".parts-*/*-00[0-9].json"))) >= 4:
            raise Killed

    with pytest.raises(Killed):
        build_graph(config(dump), tmp_path / "kg", progress=die_late)
    first = part(folder, "000000-000.json")
    written = first.stat().st_mtime_ns
    if damage:
        part(folder, damage).write_bytes(b"")
    seen: set[int] = set()

    def watch(*arguments: Any, **details: Any) -> None:
        if first.exists():
            seen.add(first.stat().st_mtime_ns)

    manifest = build_graph(config(dump), tmp_path / "kg", progress=watch)
    assert seen == {written}
    assert files_of(tmp_path / "kg") == expected
    assert adds_up(manifest)
    aside = [json.loads(line) for line in (tmp_path / "kg" / "quarantine.jsonl").read_bytes().splitlines()]
    assert all(TEXT[entry["offset"] :].startswith(bad) for entry, bad in zip(aside, BAD_LINES, strict=True))


PROGRAM = """
import os, sys, time
from pathlib import Path
import kg.wikidata.build
from kg.build import build_graph
from kg.config import GraphConfig
kg.wikidata.build.join_parts = lambda *arguments, **options: time.sleep(600)  # it is killed while it reads
build_graph(GraphConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_build_killed_at_any_moment_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, dump: Path, expected: dict[str, bytes]
) -> None:
    settings, folder = config(dump, len(TEXT) / 40), tmp_path / "kg"
    draw = random.Random(1)
    reports = 0
    for wanted, workers in ((1, 1), (17, 2), (39, 1)):
        told = settings.model_copy(update={"workers": workers}).model_dump_json()
        program = [sys.executable, "-c", PROGRAM, told, str(folder)]
        with subprocess.Popen(program, cwd=Path(__file__).parents[2]) as process:
            while process.poll() is None and len(list(folder.glob(".parts*/*.json"))) < wanted + 1:
                time.sleep(0.01)  # one of the files is the plan of the slices
            time.sleep(draw.random() / 50)
            workers_at_work = psutil.Process(process.pid).children()
            process.kill()
        assert process.returncode == -9
        assert not psutil.wait_procs(workers_at_work, timeout=240)[1]
        reports = len(list(folder.glob(".parts*/0*.json")))
    _, read = finished(settings, folder)
    assert len(read) == 40 - reports
    assert files_of(folder) == expected
    assert not [path for path in folder.rglob("*.tmp") if os.path.lexists(path)]
