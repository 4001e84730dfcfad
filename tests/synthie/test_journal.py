"""The journal: what `append` has accepted is there again, whatever happens to the process or the file."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import resource
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.errors import BusyError, StorageError
from synthie.llm.journal import KEY_BYTES, Journal, Record


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=KEY_BYTES).digest()


def record_of(number: int, text: str = "") -> Record:
    return Record(
        key=key_of(number),
        cost=1_000 + number,
        text=text or f"Text {number} — Zürich.",
        finish_reason="stop",
        model="m",
        input_tokens=number,
        output_tokens=2,
        latency_s=0.25,
        attempts=3,
        time=1.5,
    )


def segment(folder: Path) -> Path:
    return folder / "000001.journal"


def fill(folder: Path, count: int) -> list[int]:
    """Append ``count`` records; returns the file's size after each."""
    sizes = []
    with Journal(folder) as journal:
        for number in range(count):
            journal.append(record_of(number))
            sizes.append(segment(folder).stat().st_size)
    return sizes


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
        data = bytearray(segment(folder).read_bytes())
        position %= len(data)
        data[position] ^= flipped
        segment(folder).write_bytes(data)
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
    data = bytearray(segment(tmp_path).read_bytes())
    data[sizes[1] + 60] ^= 0xFF
    segment(tmp_path).write_bytes(data)
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
