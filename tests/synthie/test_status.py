"""The status of a run, as another process sees it: running, finished, killed, damaged."""

from __future__ import annotations

import doctest
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from journal_data import fill, record_of, segment
from typer.testing import CliRunner

from kg.stage import run_stage
from synthie.cli import app
from synthie.commands import status as status_command
from synthie.commands.status import status_text
from synthie.errors import InputError
from synthie.llm.journal import Journal
from synthie.texts.events import EventLog
from synthie.texts.snapshot import Snapshot, write_snapshot
from synthie.texts.status import RunWatch, status


def snapshot(**changes: Any) -> Snapshot:
    fields = {
        "time": time.time(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "done": 250,
        "total": 1_000,
        "answered": 240,
        "failed": 2,
        "in_flight": 31,
        "limit": 32,
        "rate_per_s": 12.5,
        "eta_s": 60.0,
        "usd": 0.5,
        "projected_usd": 1.998,
        "max_usd": 1_250.0,
        "input_tokens": 123_456,
        "output_tokens": 7_890,
        "errors": {"500": 3, "429": 17},
    }
    return Snapshot(**(fields | changes))


def stage(run: Path, name: str, work: Any = lambda folder: {"things": 3}) -> None:
    run_stage(
        name, run / name, config={}, inputs={}, seed=1, work=work, keep=("journal", "progress.json", "events.jsonl")
    )


def state_of(seen: dict[str, Any], name: str) -> str:
    return next(stage["state"] for stage in seen["stages"] if stage["name"] == name)


def shown(run: Path) -> str:
    return status_text(status(run)).plain


def _write_texts(folder: Path, told: Any = None) -> dict[str, Any]:
    """What the texts stage does, as far as others see it, up to the moment when ``told`` is set."""
    write_snapshot(folder / "progress.json", snapshot(pid=os.getpid()))
    with EventLog(folder / "events.jsonl") as events, Journal(folder / "journal") as journal:
        events.write("lane_down", endpoint="http://10.0.0.7:8000/v1")
        for number in range(5):
            journal.append(record_of(number))
        if told is not None:
            told.set()
            time.sleep(600)
    return {"samples": 5}


def _run_for_ever(run: str, told: Any) -> None:
    stage(Path(run), "texts", lambda folder: _write_texts(folder, told))


@pytest.fixture
def killed(tmp_path: Path) -> tuple[dict[str, Any], str, Path]:
    """What was seen of a run while it ran; its folder after kill -9."""
    context = multiprocessing.get_context("fork")
    told = context.Event()
    process = context.Process(target=_run_for_ever, args=(str(tmp_path), told), daemon=True)
    process.start()
    assert told.wait(60)
    seen, text = status(tmp_path), shown(tmp_path)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert seen["stages"][2]["pid"] == process.pid
    return seen, text, tmp_path


# --- States ---------------------------------------------------------------------------------------------------------


def test_a_run_that_was_never_started_is_told_from_one_that_was(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No run has been started in"):
        status(tmp_path / "nowhere")
    stage(tmp_path, "kg")
    seen = status(tmp_path)
    assert [stage["state"] for stage in seen["stages"]] == ["finished", *["not started"] * 7]
    assert seen["stages"][0]["counts"] == {"things": 3}
    assert seen["texts"] is None
    assert "Texts" not in shown(tmp_path)


def test_a_running_stage_is_seen_from_another_process(killed: tuple[dict[str, Any], str, Path]) -> None:
    seen, text, _ = killed
    assert state_of(seen, "texts") == "running"
    assert seen["texts"]["rows"] == 5
    assert seen["texts"]["spent_usd"] == pytest.approx(5_010e-12)
    assert seen["texts"]["progress"]["errors"] == {"500": 3, "429": 17}
    assert [event["event"] for event in seen["texts"]["events"]] == ["lane_down"]
    json.dumps(seen)
    for words in (
        "Texts: 250 of 1,000 texts (25.0%) · 12.5 a second · 1 min 00 s left",
        "spent     $0.000000005 of at most $1,250.00 · likely $2.00 in all",
        "answered 240 · failed 2 · in flight 31 of at most 32",
        "123,456 in · 7,890 out",
        "429 17 · 500 3",
        "lane_down  endpoint=http://10.0.0.7:8000/v1",
    ):
        assert words in text
    assert "gone" not in text


def test_a_killed_run_is_said_to_be_gone_and_how_it_goes_on(killed: tuple[dict[str, Any], str, Path]) -> None:
    run = killed[2]
    seen = status(run)
    assert state_of(seen, "texts") == "stopped"
    assert seen["texts"]["rows"] == 5
    text = shown(run)
    assert "The process is gone" in text
    assert "Start the same command again to go on: all paid responses are stored" in text
    assert "left" not in text
    assert "in flight" not in text


def test_a_process_that_lives_on_after_its_stage_is_not_taken_for_running(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        assert state_of(status(tmp_path), "texts") == "running"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stage(tmp_path, "texts", fail)
    assert state_of(status(tmp_path), "texts") == "stopped"


def test_a_finished_run_shows_what_it_cost(tmp_path: Path) -> None:
    stage(tmp_path, "texts", _write_texts)
    write_snapshot(tmp_path / "texts/progress.json", snapshot(done=1_000))
    assert state_of(status(tmp_path), "texts") == "finished"
    text = shown(tmp_path)
    assert "Texts: 1,000 of 1,000 texts (100.0%)\n" in text
    assert "spent     $0.000000005 of at most $1,250.00\n" in text
    assert "process" not in text


def test_what_judging_costs_is_shown_beside_the_texts_and_added_up(tmp_path: Path) -> None:
    stage(tmp_path, "texts", _write_texts)
    assert status(tmp_path)["judge"] is None
    assert "Spent in all" not in shown(tmp_path)

    def work(folder: Path) -> dict[str, Any]:
        with Journal(folder / "journal") as journal:
            journal.charge(2 * 10**12, "an expensive verdict")
        write_snapshot(folder / "progress.json", snapshot(done=100, total=400, max_usd=3.0, projected_usd=8.0))
        (folder / "failures.jsonl").write_text('{"id": 1}\n')
        text = shown(tmp_path)
        assert "Judge: 100 of 400 texts (25.0%) · 12.5 a second" in text
        assert "spent     $2.00 of at most $3.00 · likely $8.00 in all" in text
        assert "1 texts got no judgement: judge/failures.jsonl has the reasons" in text
        return {}

    stage(tmp_path, "judge", work)
    seen = status(tmp_path)
    assert seen["judge"]["spent_usd"] == 2.0
    assert seen["spent_usd"] == pytest.approx(2.0 + seen["texts"]["spent_usd"], abs=1e-12)
    assert shown(tmp_path).endswith("\nSpent in all: $2.00")


def test_news_of_an_earlier_process_is_not_taken_for_that_of_the_one_that_runs(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, Any]:
        write_snapshot(folder / "progress.json", snapshot(pid=1, time=time.time() - 3_700))
        assert state_of(status(tmp_path), "texts") == "running"
        text = shown(tmp_path)
        assert "Texts: 250 of 1,000 texts (25.0%)\n" in text
        for words in ("in flight", "left", "hangs"):
            assert words not in text
        return {}

    stage(tmp_path, "texts", work)


def test_a_finished_stage_that_works_again_is_running(tmp_path: Path) -> None:
    stage(tmp_path, "texts")
    with (tmp_path / "texts/.lock").open("r+"):
        assert state_of(status(tmp_path), "texts") == "running"
    assert state_of(status(tmp_path), "texts") == "finished"


@pytest.mark.parametrize(("age", "state"), [(5, "running"), (300, "stopped")])
def test_a_run_on_another_machine_is_judged_by_its_news(tmp_path: Path, age: int, state: str) -> None:
    folder = tmp_path / "texts"
    fill(folder / "journal", 1)
    (folder / ".lock").write_text(f"pid {os.getpid()} on some-other-host since 2026-01-02T03:04:05+00:00")
    assert state_of(status(tmp_path), "texts") == "elsewhere"
    assert "some-other-host" in shown(tmp_path)
    write_snapshot(folder / "progress.json", snapshot(time=time.time() - age))
    assert state_of(status(tmp_path), "texts") == state


def test_texts_of_a_pilot_are_not_taken_for_a_stage_that_stopped(tmp_path: Path) -> None:
    stage(tmp_path, "sets")
    (tmp_path / "texts").mkdir()
    _write_texts(tmp_path / "texts")
    seen = status(tmp_path)
    assert state_of(seen, "texts") == "not started"
    assert (seen["texts"]["rows"], seen["texts"]["progress"]["done"]) == (5, 250)
    text = shown(tmp_path)
    assert "Texts: 5 responses stored\n" in text
    assert "The stage has not been run. A pilot or trial has asked for these texts" in text
    assert "stopped" not in text
    assert "250" not in text  # the pilot's own figures would be taken for the stage's


def test_a_stage_killed_before_it_told_who_it_is_has_stopped(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/.lock").touch()
    assert state_of(status(tmp_path), "sets") == "stopped"
    assert "sets        stopped" in shown(tmp_path)


def test_a_running_stage_without_news_is_said_to_be_alive(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, Any]:
        write_snapshot(folder / "progress.json", snapshot(time=time.time() - 3_700))
        assert "The process is alive, but its last news is 1 h 01 min old" in shown(tmp_path)
        return {}

    stage(tmp_path, "texts", work)


def test_looking_takes_no_lock(killed: tuple[dict[str, Any], str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("a run that starts now would be turned away"))
    before = {path: path.stat().st_mtime_ns for path in killed[2].rglob("*")}
    status(killed[2])
    assert {path: path.stat().st_mtime_ns for path in killed[2].rglob("*")} == before


def test_looking_again_sees_what_is_new(tmp_path: Path) -> None:
    journal = tmp_path / "texts/journal"
    fill(journal, 2)
    watch = RunWatch(tmp_path)
    assert watch.look()["texts"]["rows"] == 2
    fill(journal, 3, first=2)
    assert watch.look()["texts"]["rows"] == 5


# --- Damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b'{"done": 1', b"[]", b"\xff\xfe", b'{"time": "x"}'])
def test_damaged_files_are_told_and_hide_nothing_else(tmp_path: Path, data: bytes) -> None:
    fill(tmp_path / "texts/journal", 4)
    for name in ("progress.json", "events.jsonl"):
        (tmp_path / "texts" / name).write_bytes(data)
    (tmp_path / "texts/failures.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\n' + data)
    seen = status(tmp_path)
    assert (seen["texts"]["rows"], seen["texts"]["failures"], seen["texts"]["events"]) == (4, 2, [])
    assert "progress.json is damaged" in seen["texts"]["problems"][0]
    text = shown(tmp_path)
    assert "progress.json is damaged" in text
    assert "Texts: 4 responses stored" in text
    assert "2 texts could not be had" in text


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "texts/journal", 4)
    segment(tmp_path / "texts/journal").rename(segment(tmp_path / "texts/journal", 3))
    assert "lacks the segment 000001.journal" in shown(tmp_path)


def test_a_stage_whose_file_is_gone_is_damaged(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, Any]:
        (folder / "nodes").write_text("1")
        return {}

    stage(tmp_path, "kg", work)
    (tmp_path / "kg/nodes").unlink()
    assert state_of(status(tmp_path), "kg") == "damaged"
    assert "kg/nodes is missing" in shown(tmp_path)


def test_the_last_events_are_shown_also_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with EventLog(tmp_path / "texts/events.jsonl") as events:
        for number in range(2_000):
            events.write("slow_down", number=number)
    assert [event["number"] for event in status(tmp_path)["texts"]["events"]] == list(range(1_995, 2_000))


# --- Command line ---------------------------------------------------------------------------------------------------


def test_the_command_prints_for_people_and_for_machines(tmp_path: Path) -> None:
    stage(tmp_path, "texts", _write_texts)
    told = CliRunner().invoke(app, ["status", "--run", str(tmp_path)])
    assert told.exit_code == 0
    assert "texts       finished" in told.stdout
    data = json.loads(CliRunner().invoke(app, ["status", "--run", str(tmp_path), "--json"]).stdout)
    assert data["texts"]["rows"] == 5


def test_the_command_refuses_a_run_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--run", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, InputError)


def test_watching_looks_again_until_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "texts/journal", 1)
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt
        fill(tmp_path / "texts/journal", 1, first=looks)

    monkeypatch.setattr(status_command.time, "sleep", sleep)
    result = CliRunner().invoke(app, ["status", "--run", str(tmp_path), "--watch"])
    assert result.exit_code == 0
    assert "Texts: 3 responses stored" in result.stdout


def test_lengths_of_time_are_shown_as_in_the_examples() -> None:
    failed, tried = doctest.testmod(status_command)
    assert not failed
    assert tried
