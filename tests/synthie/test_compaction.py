"""Compaction: the same journal in less space, whatever happens on the way."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_data import RECORDS, content, fill, flip, key_of, record_of, segment
from typer.testing import CliRunner

from synthie.cli import app
from synthie.errors import BusyError, InputError, StorageError
from synthie.llm import archive, compaction
from synthie.llm.compaction import compact, read_records
from synthie.llm.journal import Journal, Record, read_journal


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of three rows, of which one is kept in memory."""
    monkeypatch.setattr(archive, "_GROUP_ROWS", 3)
    monkeypatch.setattr(archive, "_CACHE_BYTES", 1)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock", "in-flight"}


def archive_in(folder: Path) -> Path:
    (path,) = folder.glob("*.parquet")
    return path


# --- What is kept ---------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    records=st.lists(RECORDS, max_size=12),
    charges=st.lists(st.integers(0, 10**12), max_size=3),
    split=st.integers(0, 12),
)
def test_a_compacted_journal_holds_what_it_held(records: list[Record], charges: list[int], split: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive, "_GROUP_ROWS", 5)
            for part in (records[:split], records[split:]):  # the second compaction merges
                with Journal(folder, segment_bytes=400) as journal:
                    for record in part:
                        journal.append(record)
                    for cost in charges:
                        journal.charge(cost, "timed out")
                before, told = content(folder), read_journal(folder)
                done = compact(folder)
                assert content(folder) == before
                assert list(read_records(folder)) == records[: done.rows]
                after = read_journal(folder)
                assert (after.rows, after.charges, after.spent) == (told.rows, told.charges, told.spent)
        assert done.rows == len(records)
        assert done.spent == sum(record.cost for record in records) + 2 * sum(charges)


def test_one_parquet_file_takes_the_place_of_all_segments(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=1_000) as journal:
        for number in range(40):
            journal.append(record_of(number))
        journal.charge(5, "timed out")
        journal.charge(7, "timed out")
    last = len(list(tmp_path.glob("*.journal")))
    done = compact(tmp_path)
    assert last > 3
    path = archive_in(tmp_path)
    assert files(tmp_path) == {path.name}
    assert path.name.startswith(f"000001-{last:06d}-")
    assert (done.rows, done.bytes_after) == (40, path.stat().st_size)
    table = pq.read_table(path)
    assert [Record(**row) for row in table.to_pylist()] == [record_of(number) for number in range(40)]
    metadata = json.loads(pq.read_metadata(path).metadata[b"synthie.journal"])
    assert metadata["charges"] == {"timed out": [2, 12]}
    assert metadata["spent"] == sum(1_000 + number for number in range(40)) + 12


def test_every_field_of_a_record_has_a_column() -> None:
    assert archive.ARCHIVE_SCHEMA.names == list(Record.__struct_fields__)


def test_answers_stored_later_go_to_new_segments_and_count_before_the_archived_ones(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    compact(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append(record_of(3, "a new text"))
        journal.append(record_of(10))
    assert files(tmp_path) == {archive_in(tmp_path).name, "000002.journal"}
    found, spent = content(tmp_path)
    assert found[key_of(3)] == record_of(3, "a new text")
    assert len(found) == 11
    assert spent == sum(1_000 + number for number in range(11)) + 1_003
    compact(tmp_path)
    assert files(tmp_path) == {archive_in(tmp_path).name}
    assert content(tmp_path) == (found, spent)


@pytest.mark.usefixtures("small_groups")
def test_archived_answers_are_found_in_any_order(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    compact(tmp_path)
    with Journal(tmp_path) as journal:
        for number in (0, 19, 7, 8, 7, 0, 2, 3, 18):
            assert journal.get(key_of(number)) == record_of(number)
        assert journal.get(key_of(20)) is None


def test_compacting_twice_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    first = compact(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = compact(tmp_path)
    assert second == replace(first, bytes_before=first.bytes_after)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_journal_stays_one(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    assert compact(tmp_path).rows == 0
    assert files(tmp_path) == {"000001.journal"}


def test_the_index_of_an_archive_takes_at_most_100_bytes_a_row(tmp_path: Path) -> None:
    fill(tmp_path, 5_000)
    compact(tmp_path)
    with Journal(tmp_path) as journal:
        assert len(journal) == 5_000
        assert journal.index_bytes <= 100 * len(journal)


# --- Who else is there ----------------------------------------------------------------------------------------------


def test_a_journal_that_a_run_writes_to_is_left_alone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record_of(1))
        with pytest.raises(BusyError, match="Another process"):
            compact(tmp_path)
    assert files(tmp_path) == {"000001.journal"}


def test_without_a_journal_there_is_nothing_to_compact(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no journal"):
        compact(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


def test_who_reads_the_responses_is_not_disturbed_by_a_compaction(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    reading = read_records(tmp_path)
    found = [next(reading)]
    compact(tmp_path)
    assert [*found, *reading] == [record_of(number) for number in range(10)]


# --- Crashes --------------------------------------------------------------------------------------------------------


def _photograph(monkeypatch: pytest.MonkeyPatch, folder: Path, states: Path) -> None:
    """Keep what a kill would leave, before and after everything that `compact` does to files."""

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any, **options: Any) -> Any:
            shutil.copytree(folder, states / f"{len(list(states.iterdir())):03d}")
            result = work(*arguments, **options)
            shutil.copytree(folder, states / f"{len(list(states.iterdir())):03d}")
            return result

        return watch

    for owner, names in (
        (os, ("fsync", "unlink", "replace", "link")),
        (archive.ArchiveWriter, ("finish", "_write_group")),
        (compaction, ("remove_stale", "set_aside")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, watched(getattr(owner, name)))


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("archived", [False, True])
def test_a_kill_between_any_two_steps_leaves_the_same_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archived: bool
) -> None:
    folder, states = tmp_path / "journal", tmp_path / "states"
    states.mkdir()
    if archived:
        fill(folder, 8, first=100)
        compact(folder)
    with Journal(folder, segment_bytes=400) as journal:
        for number in range(10):
            journal.append(record_of(number))
            journal.charge(3, "timed out")
    flip(max(folder.glob("*.journal")), 5)
    before = content(folder)
    with pytest.MonkeyPatch.context() as patch:
        _photograph(patch, folder, states)
        compact(folder)
    seen = [files(state) for state in sorted(states.iterdir())]
    assert len({frozenset(names) for names in seen}) > 5  # the kills have struck at different moments
    for state in states.iterdir():
        told = read_journal(state)
        assert {record.key for record in read_records(state)} == before[0].keys()
        assert content(state) == before
        assert (read_journal(state).rows, told.spent) == (told.rows, before[1])
        compact(state)
        assert content(state) == before
        assert archive_in(state).name[:13] == archive_in(folder).name[:13]
        assert not any(path.stat().st_size for path in state.glob("*.journal"))


def _compact_on_a_full_disk(folder: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    try:
        compact(Path(folder))
    except StorageError:
        os._exit(7)
    os._exit(9)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    before = content(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_compact_on_a_full_disk, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert files(tmp_path) == {"000001.journal"}
    assert content(tmp_path) == before


@pytest.mark.parametrize("fault", ["text", "row"])
def test_an_archive_that_reads_back_differently_is_not_put_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    fill(tmp_path, 5)
    before = content(tmp_path)
    add = archive.ArchiveWriter.add

    def add_wrongly(writer: archive.ArchiveWriter, record: Record) -> None:
        if record.key == key_of(3):
            if fault == "row":
                return
            record = msgspec.structs.replace(record, text=record.text + "?")
        add(writer, record)

    monkeypatch.setattr(archive.ArchiveWriter, "add", add_wrongly)
    with pytest.raises(StorageError, match=r"Row 3 .* reads back differently"):
        compact(tmp_path)
    assert files(tmp_path) == {"000001.journal"}
    assert content(tmp_path) == before


# --- Damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archived")
    fill(folder, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "_GROUP_ROWS", 3)
        compact(folder)
    return folder


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10**6), flipped=st.integers(1, 255))
def test_a_flipped_byte_of_an_archive_costs_one_row_group_or_is_refused(
    archived: Path, position: int, flipped: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(archived, Path(name, "journal"))
        flip(archive_in(folder), position, flipped)
        try:
            found, spent = content(folder)
        except StorageError as error:
            assert "is damaged" in str(error)  # noqa: PT017
            assert "from a copy" in str(error)  # noqa: PT017
            return
        assert spent == sum(1_000 + number for number in range(10))
        lost = [number for number in range(10) if key_of(number) not in found]
        assert lost in ([], [0, 1, 2], [3, 4, 5], [6, 7, 8], [9])
        assert all(found[key_of(number)] == record_of(number) for number in range(10) if number not in lost)


def test_a_damaged_row_group_is_reported_and_kept_aside_by_the_next_compaction(
    archived: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(archived, tmp_path / "journal")
    path = archive_in(folder)
    flip(path, 30)
    damaged = path.read_bytes()
    with caplog.at_level(logging.WARNING), Journal(folder) as journal:
        assert len(journal) == 7
        for number in range(3):
            journal.append(record_of(number))
        spent = journal.spent
    assert "the 3 responses in them are lost" in caplog.text
    compact(folder)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert content(folder) == ({key_of(number): record_of(number) for number in range(10)}, spent)


def test_damaged_stretches_of_segments_are_kept_aside(tmp_path: Path) -> None:
    sizes = fill(tmp_path, 5)
    flip(segment(tmp_path), sizes[1] + 60)
    damaged = segment(tmp_path).read_bytes()[sizes[1] : sizes[2]]
    compact(tmp_path)
    assert files(tmp_path) == {archive_in(tmp_path).name, f"000001.journal.damaged-{sizes[1]}"}
    assert (tmp_path / f"000001.journal.damaged-{sizes[1]}").read_bytes() == damaged
    found, spent = content(tmp_path)
    assert len(found) == 4
    assert spent == sum(1_000 + number for number in range(5))  # the damaged one was paid, too


# --- Command line ---------------------------------------------------------------------------------------------------


def test_the_command_line_compacts_and_exports(tmp_path: Path) -> None:
    journal = tmp_path / "texts/journal"
    fill(journal, 4)
    out = tmp_path / "out.jsonl"
    told = CliRunner().invoke(app, ["journal", "compact", "--run", str(tmp_path)])
    assert told.exit_code == 0
    assert told.output.startswith("4 responses, $0.000000004 in all: ")
    fill(journal, 2, first=4)
    assert CliRunner().invoke(app, ["journal", "export", str(out), "--run", str(tmp_path)]).exit_code == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["key"] for line in lines] == [key_of(number).hex() for number in range(6)]
    assert lines[1] == {
        "key": key_of(1).hex(),
        "usd": 1_001 / 1e12,
        "text": "Text 1 — Zürich.",
        "finish_reason": "stop",
        "model": "m",
        "input_tokens": 1,
        "cached_input_tokens": 0,
        "output_tokens": 2,
        "latency_s": 0.25,
        "attempts": 3,
        "time": 1.5,
        "endpoint": "http://127.0.0.1:1/v1",
    }


def test_an_export_without_a_journal_leaves_an_earlier_one_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("earlier")
    result = CliRunner().invoke(app, ["journal", "export", str(out), "--run", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, InputError)
    assert out.read_text() == "earlier"


def test_an_export_goes_to_standard_output_while_a_run_writes(tmp_path: Path) -> None:
    with Journal(tmp_path / "texts/journal") as journal:
        journal.append(record_of(1))
        result = CliRunner().invoke(app, ["journal", "export", "-", "--run", str(tmp_path)])
    assert json.loads(result.stdout)["text"] == "Text 1 — Zürich."
    assert "1 responses" in result.stderr
