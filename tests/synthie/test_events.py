"""The log of events, the file that tells how far a stage is, and money for people."""

from __future__ import annotations

import doctest
import json
import logging
import multiprocessing
import os
import resource
import signal
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthie import money
from synthie.money import usd
from synthie.texts.events import EventLog
from synthie.texts.snapshot import Snapshot, read_snapshot, write_snapshot


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- Events ---------------------------------------------------------------------------------------------------------


def test_an_event_is_a_line_at_once_and_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "texts/events.jsonl"
    with EventLog(path) as events, caplog.at_level(logging.INFO):
        events.write("lane_down", endpoint="http://10.0.0.7:8000/v1", reason="kein Anschluß", after_s=2.5)
        (line,) = lines_of(path)
        assert datetime.fromisoformat(str(line.pop("time"))).tzinfo is not None
        assert line == {
            "event": "lane_down",
            "endpoint": "http://10.0.0.7:8000/v1",
            "reason": "kein Anschluß",
            "after_s": 2.5,
        }
        events.write("lane_up")
    assert [line["event"] for line in lines_of(path)] == ["lane_down", "lane_up"]
    assert "lane_down endpoint=http://10.0.0.7:8000/v1 reason=kein Anschluß after_s=2.5" in caplog.text


def test_events_of_later_runs_follow_also_behind_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": "2026-01-01T00:00:00+00:00", "event": "start"}\n{"time": "2026-0')
    with EventLog(path) as events:
        events.write("start")
        events.write("end", path=path)
    whole, half, *new = path.read_text().splitlines()
    assert json.loads(whole)["event"] == "start"
    assert half == '{"time": "2026-0'
    assert [json.loads(line)["event"] for line in new] == ["start", "end"]
    assert json.loads(new[1])["path"] == str(path)


def test_a_file_that_cannot_be_written_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with caplog.at_level(logging.INFO), EventLog(tmp_path / "events.jsonl") as events:
        for _ in range(3):
            events.write("slow_down", limit=4)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert caplog.text.count("slow_down limit=4") == 3


def _tell_on_a_full_disk(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
    with EventLog(Path(path)) as events:
        for _ in range(10):
            events.write("slow_down", limit=4)
    write_snapshot(Path(path), Snapshot(time=0, pid=1, host="h" * 300, done=0, total=1))
    os._exit(7)


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_tell_on_a_full_disk, args=(str(path),))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert path.stat().st_size == 200
    assert {file.name for file in tmp_path.iterdir()} == {"events.jsonl"}


def test_what_is_told_after_closing_is_logged_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    events.close()
    events.close()
    with caplog.at_level(logging.INFO):
        events.write("end")
    assert "end" in caplog.text
    assert not (tmp_path / "events.jsonl").exists()


# --- Snapshot -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_read_as_it_was_written_and_replaces_the_last(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with pytest.raises(FileNotFoundError):
        read_snapshot(path)
    for done in (1, 2):
        snapshot = Snapshot(time=1.5, pid=7, host="h", done=done, total=9, eta_s=3.0, errors={"429": 2})
        write_snapshot(path, snapshot)
        assert read_snapshot(path) == snapshot
    assert {file.name for file in tmp_path.iterdir()} == {"progress.json"}


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"time": 1, "pid": "x"}', b"\xff"])
def test_a_file_that_is_no_snapshot_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "progress.json").write_bytes(data)
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        read_snapshot(tmp_path / "progress.json")


# --- Money ----------------------------------------------------------------------------------------------------------


def test_the_examples_of_sums_are_right() -> None:
    failed, tried = doctest.testmod(money)
    assert not failed
    assert tried


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0.99999, "$1.00"),
        (0.01, "$0.01"),
        (1, "$1.00"),
        (-3.5, "-$3.50"),
        (1e-12, "$0.000000000001"),
        (1e6, "$1,000,000.00"),
    ],
)
def test_sums_are_shown_as_people_write_them(amount: float, shown: str) -> None:
    assert usd(amount) == shown


@given(st.floats(1e-9, 1e9))
def test_a_sum_that_is_shown_is_near_the_sum(amount: float) -> None:
    shown = float(usd(amount).replace("$", "").replace(",", ""))
    assert abs(shown - amount) <= max(0.005 if amount >= 0.99995 else 0.00005, 1e-15)
    assert shown > 0
