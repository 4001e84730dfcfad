"""The journal: what `append` has accepted is there again, whatever happens to the process or the file."""

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
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_data import RECORDS, content, fill, flip, key_of, record_of, segment

from synthie.errors import BusyError, StorageError
from synthie.llm import segments
from synthie.llm.compaction import compact
from synthie.llm.journal import Journal, Record, read_journal
from synthie.llm.key_index import KeyIndex
from synthie.llm.segments import DAMAGE, RESPONSE, Entry, encode_entry, encode_record, scan


def test_a_reopened_journal_returns_every_record_as_it_was_appended(tmp_path: Path) -> None:
    fill(tmp_path, 50)
    with Journal(tmp_path) as journal:
        assert [journal.get(key_of(n)) for n in range(50)] == [record_of(n) for n in range(50)]
        assert set(journal.keys()) == {key_of(n) for n in range(50)}
        assert journal.get(key_of(99)) is None
        assert key_of(99) not in journal
        assert len(journal) == 50


def test_spending_is_the_exact_sum_over_runs_with_charges(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    with Journal(tmp_path) as journal:
        journal.charge(7, "timed out")
        assert journal.spent == sum(1_000 + n for n in range(10)) + 7
    with Journal(tmp_path) as journal:
        assert journal.spent == sum(1_000 + n for n in range(10)) + 7
        assert len(journal) == 10


def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for number in range(5):
            before = segment(tmp_path).stat().st_size
            journal.append(record_of(number))
            assert segment(tmp_path).stat().st_size > before


def test_the_latest_of_several_answers_under_one_key_counts(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record_of(1, "old"))
        journal.append(record_of(1, "new"))
    with Journal(tmp_path) as journal:
        found = journal.get(key_of(1))
        assert found is not None
        assert found.text == "new"
        assert len(journal) == 1


def test_records_spread_over_segments_are_all_found(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=1_000) as journal:
        for number in range(40):
            journal.append(record_of(number))
    assert len(list(tmp_path.glob("*.journal"))) > 3
    with Journal(tmp_path, segment_bytes=1_000) as journal:
        assert all(journal.get(key_of(n)) == record_of(n) for n in range(40))


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), texts=st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_any_prefix_of_the_bytes_reopens_to_a_prefix_of_the_records(cut: float, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = []
        with Journal(folder) as journal:
            for number, text in enumerate(texts):
                journal.append(record_of(number, text))
                sizes.append(segment(folder).stat().st_size)
        length = round(cut * sizes[-1])
        os.truncate(segment(folder), length)
        whole = sum(size <= length for size in sizes)
        with Journal(folder) as journal:
            assert len(journal) == whole
            assert [journal.get(key_of(n)) for n in range(whole)] == [record_of(n, t) for n, t in enumerate(texts)][
                :whole
            ]
            journal.append(record_of(1_000))
        with Journal(folder) as journal:
            assert len(journal) == whole + 1
            assert journal.spent == sum(1_000 + n for n in range(whole)) + 2_000


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10**6), flipped=st.integers(1, 255))
def test_a_flipped_byte_costs_one_record_at_most(position: int, flipped: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = fill(folder, 8)
        position %= sizes[-1]
        flip(segment(folder), position, flipped)
        hit = sum(size <= position for size in sizes)
        with Journal(folder) as journal:
            assert [n for n in range(8) if key_of(n) not in journal] == [hit]
            assert all(journal.get(key_of(n)) == record_of(n) for n in range(8) if n != hit)


def test_a_torn_tail_is_kept_in_a_side_file_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = fill(tmp_path, 3)
    with segment(tmp_path).open("ab") as file:
        file.write(b"\xf5SJ1 torn")
    with caplog.at_level(logging.WARNING), Journal(tmp_path) as journal:
        assert len(journal) == 3
    assert (tmp_path / f"000001.journal.damaged-{sizes[-1]}").read_bytes() == b"\xf5SJ1 torn"
    assert "the last 9 bytes are no whole record" in caplog.text
    assert segment(tmp_path).stat().st_size == sizes[-1]


def test_a_damaged_record_in_the_middle_is_reported_and_its_cost_still_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = fill(tmp_path, 5)
    flip(segment(tmp_path), sizes[1] + 60)
    with caplog.at_level(logging.WARNING), Journal(tmp_path) as journal:
        assert [key_of(n) in journal for n in range(5)] == [True, True, False, True, True]
        assert journal.spent == sum(1_000 + n for n in range(5))
    assert f"{sizes[2] - sizes[1]} bytes from byte {sizes[1]} on are damaged" in caplog.text


def test_a_missing_segment_is_refused_by_name(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=500) as journal:
        for number in range(20):
            journal.append(record_of(number))
    segment(tmp_path).unlink()
    with pytest.raises(StorageError, match=r"lacks the segment 000001\.journal"):
        Journal(tmp_path)


def test_only_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(BusyError, match="Another process"):
        Journal(tmp_path)
    with Journal(tmp_path) as journal:
        assert len(journal) == 0


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    journal.close()


def _append_until_killed(folder: str) -> None:
    journal = Journal(Path(folder))
    for number in range(200):
        journal.append(record_of(number))
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_minus_nine_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_append_until_killed, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Journal(tmp_path) as journal:
        assert len(journal) == 200


def _append_on_a_full_disk(folder: str, stored: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(Path(folder)) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (stored + 100, resource.RLIM_INFINITY))
        try:
            journal.append(record_of(1_000, "x" * 1_000))
        except StorageError as error:
            os._exit(7 if "finished work is kept" in str(error) else 8)
    os._exit(9)


def test_a_write_that_does_not_fit_is_an_error_and_leaves_the_rest_intact(tmp_path: Path) -> None:
    stored = fill(tmp_path, 5)[-1]
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_append_on_a_full_disk, args=(str(tmp_path), stored))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert segment(tmp_path).stat().st_size == stored
    with Journal(tmp_path) as journal:
        assert len(journal) == 5


def test_the_index_takes_at_most_100_bytes_a_row(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for number in range(20_000):
            journal.append(record_of(number))
            if number in (1_000, 5_000, 11_000, 19_999):
                assert journal.index_bytes <= 100 * len(journal)


# --- Form on disk ---------------------------------------------------------------------------------------------------


def test_a_record_without_an_endpoint_is_stored_and_read_as_ever(tmp_path: Path) -> None:
    payload = b'{"text":"Ulm is a city.","finish_reason":"stop","model":"m","input_tokens":3}'
    old = encode_entry(RESPONSE, key_of(1), 7, 7, payload)
    segment(tmp_path).write_bytes(old)
    expected = Record(key=key_of(1), cost=7, text="Ulm is a city.", finish_reason="stop", model="m", input_tokens=3)
    assert content(tmp_path) == ({key_of(1): expected}, 7)
    assert encode_record(expected) == payload
    assert json.loads(encode_record(record_of(1)))["endpoint"] == "http://127.0.0.1:1/v1"


@settings(max_examples=100, deadline=None)
@given(
    records=st.lists(RECORDS, max_size=8), chunk=st.integers(1, 400), flips=st.lists(st.integers(0, 10**4), max_size=3)
)
def test_reading_in_pieces_of_any_size_finds_the_same_records(
    records: list[Record], chunk: int, flips: list[int]
) -> None:
    data, bounds = bytearray(), [0]
    for record in records:
        data += encode_entry(RESPONSE, record.key, record.cost, 0, encode_record(record))
        bounds.append(len(data))
    hit = {flip % len(data) for flip in flips if data}
    for position in hit:
        data[position] ^= 0x5A
    sound = [start for start, end in pairwise(bounds) if not any(start <= at < end for at in hit)]
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        whole = list(scan(file.fileno()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segments, "_CHUNK", chunk)
            pieces = list(scan(file.fileno()))
    assert pieces == whole
    assert [offset for offset, kind, *_ in whole if kind == RESPONSE] == sound
    _check_that_entries_leave_no_gap(whole)


def _check_that_entries_leave_no_gap(entries: list[Entry]) -> None:
    end = 0
    for offset, _, _, _, _, length in entries:
        assert offset == end
        end = offset + length
    kinds = [entry[1] for entry in entries]
    assert (DAMAGE, DAMAGE) not in pairwise(kinds)
    assert not kinds or kinds[-1] != DAMAGE


# --- Crash and resume -----------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 12)),
        st.tuples(st.just("charge"), st.integers(0, 10**6)),
        st.tuples(st.just("crash"), st.integers(0, 10**4)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("compact"), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_however_often_it_crashes_each_answer_is_stored_once_and_the_spending_is_exact(
    steps: list[tuple[str, int]],
) -> None:
    """A crash leaves the files as they are, with a part of what was just being written behind them."""
    with tempfile.TemporaryDirectory() as name:
        lives, asked, spent = 0, {}, 0
        folder = Path(name, "0")
        journal = Journal(folder, segment_bytes=700)
        for step, value in steps:
            if step == "ask" and key_of(value) not in journal:
                assert value not in asked
                asked[value] = record_of(value)
                journal.append(asked[value])
                spent += asked[value].cost
            elif step == "charge":
                journal.charge(value, "timed out")
                spent += value
            elif step == "crash":
                lives += 1
                folder = shutil.copytree(folder, Path(name, str(lives)))
                journal.close()
                torn = encode_entry(RESPONSE, key_of(99), 5, spent + 5, encode_record(record_of(99)))
                with max(folder.glob("*.journal")).open("ab") as file:
                    file.write(torn[: value % len(torn)])
                journal = Journal(folder, segment_bytes=700)
            elif step in ("restart", "compact"):
                journal.close()
                if step == "compact":
                    compact(folder)
                journal = Journal(folder, segment_bytes=700)
            assert (len(journal), journal.spent) == (len(asked), spent)
        journal.close()
        assert content(folder) == ({key_of(number): record for number, record in asked.items()}, spent)
        summary = read_journal(folder)
        assert (summary.rows, summary.spent) == (len(asked), spent)


# --- Looking on -----------------------------------------------------------------------------------------------------


def test_a_journal_is_read_while_another_process_writes_to_it(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=500) as journal:
        summary = read_journal(tmp_path)
        for number in range(20):
            journal.append(record_of(number))
            journal.charge(5, "timed out")
            summary = read_journal(tmp_path, summary)
            assert (summary.rows, summary.charges, summary.spent) == (number + 1, number + 1, journal.spent)
            assert summary.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.journal"))
    assert summary == read_journal(tmp_path)


def test_a_record_that_is_just_being_written_is_neither_counted_nor_touched(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    record = encode_entry(RESPONSE, key_of(3), 1_003, 4_006, encode_record(record_of(3)))
    before = segment(tmp_path).read_bytes()
    summary = read_journal(tmp_path)
    for length in range(len(record)):
        segment(tmp_path).write_bytes(before + record[:length])
        assert read_journal(tmp_path, summary).rows == 3
        assert segment(tmp_path).read_bytes() == before + record[:length]
    segment(tmp_path).write_bytes(before + record)
    assert (read_journal(tmp_path, summary).rows, read_journal(tmp_path).rows) == (4, 4)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "000001.journal", "in-flight"}


def test_a_journal_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal").rows == 0
    assert not (tmp_path / "journal").exists()


def test_who_looks_on_notices_a_compaction(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    before = read_journal(tmp_path)
    compact(tmp_path)
    fill(tmp_path, 5, first=10)
    after = read_journal(tmp_path, before)
    assert (after.rows, after.spent) == (15, sum(1_000 + number for number in range(15)))
    assert after == read_journal(tmp_path)


def test_a_compaction_while_the_folder_is_listed_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 10)
    before = read_journal(tmp_path)
    left = [tmp_path]

    def watched(listed: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any) -> Any:
            found = list(listed(*arguments))
            if left:
                compact(left.pop())
            return iter(found)

        return watch

    for name in ("iterdir", "glob"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    after = read_journal(tmp_path)
    assert not left
    assert (after.rows, after.spent) == (before.rows, before.spent)


# --- Index ----------------------------------------------------------------------------------------------------------

CLUSTERED_KEYS = st.builds(
    lambda low, high, second: (low | high << 40).to_bytes(8, "little") + second.to_bytes(8, "little"),
    st.integers(0, 7),
    st.integers(0, 2),
    st.integers(0, 2),
)


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.tuples(st.booleans(), st.lists(st.tuples(CLUSTERED_KEYS, st.integers(0, 2**62)), max_size=30))),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
)
def test_the_index_holds_what_a_dictionary_would(
    batches: list[tuple[bool, list[tuple[bytes, int]]]], sizes: tuple[int, int, int]
) -> None:
    """The keys share their beginnings, repeat, and come in any number for the sizes of blocks, chunks and merges."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("_BLOCK", "_CHUNK", "_FEWEST"), sizes, strict=True):
            patch.setattr(f"synthie.llm.key_index.{name}", size)
        compare_with_a_dictionary(batches)


def compare_with_a_dictionary(batches: list[tuple[bool, list[tuple[bytes, int]]]]) -> None:
    index, plain = KeyIndex(), {}
    for at_once, rows in batches:
        if at_once:
            index.put_many(b"".join(key for key, _ in rows), np.array([place for _, place in rows], np.uint64))
        else:
            for key, place in rows:
                index.put(key, place)
        plain.update(rows)
        assert len(index) == len(plain)
        assert {key: index.get(key) for key in index.keys()} == plain  # noqa: SIM118
        assert len(list(index.keys())) == len(plain)
        assert all(index.get(key[::-1]) == plain.get(key[::-1], -1) for key in plain)
    index.close()


def test_the_index_grows_alike_by_single_keys_and_by_many() -> None:
    keys = [key_of(number) for number in range(5_000)]
    many, single = KeyIndex(), KeyIndex()
    many.put_many(b"".join(keys), np.arange(len(keys), dtype=np.uint64))
    for number, key in enumerate(keys):
        single.put(key, number)
    assert [many.get(key) for key in keys] == [single.get(key) for key in keys] == list(range(len(keys)))
    assert many.get(key_of(-1)) == -1


def test_opening_indexes_in_batches_of_any_size_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 10)
    with Journal(tmp_path) as journal:
        journal.append(record_of(3, "newer"))
    expected = content(tmp_path)
    for size in (1, 4, 11, 12):
        monkeypatch.setattr("synthie.llm.journal._INDEXED_ROWS", size)
        assert content(tmp_path) == expected
    assert expected[0][key_of(3)] == record_of(3, "newer")


@given(
    kept=st.lists(st.integers(0, 10**15), max_size=8),
    freed=st.lists(st.integers(0, 10**15), max_size=8),
    data=st.data(),
)
def test_calls_that_nobody_saw_the_end_of_are_charged_once(
    kept: list[int], freed: list[int], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dead = Path(folder) / "dead"
        with Journal(Path(folder) / "live") as journal:
            calls = data.draw(st.permutations([(cost, False) for cost in kept] + [(cost, True) for cost in freed]))
            holds = [(journal.hold(cost), is_freed) for cost, is_freed in calls]
            for hold, is_freed in holds:
                if is_freed:
                    journal.free(hold)
            shutil.copytree(Path(folder) / "live", dead)  # what a kill leaves
        with Journal(dead) as journal:
            assert journal.spent == sum(kept)
        with Journal(dead) as journal:
            assert journal.spent == sum(kept)
