"""Kill -9 in every stage, start again: nothing is lost, repeated or paid twice; nobody works in a busy folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import psutil
import pytest

from kg.stage import read_manifest
from synthie.config import load_config
from synthie.llm.journal import Journal
from synthie.pipeline import STAGES, Run

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
SETS = 200
WORKING = ("kg", "sets", "texts", "dataset", "extractor", "predictions", "report")  # stages with something to do here
TRIES = 5
TINY = {
    "sampling.n_sets": SETS,
    "sampling.round_size": 100,
    "extractor.steps": 6,
    "extractor.batch_size": 8,
    "prediction.max_records": 6,
    "prediction.beams": 2,
    "prediction.max_new_tokens": 48,
    "evaluation.bootstrap": 5,
}
SLOW_TEXTS = {"generation.local.latency_s": 1, "generation.concurrency": 16}
WAIT_S = 600
KEPT = ("cost.json", "events.jsonl", "failures.jsonl", "journal/000001.journal", "journal/in-flight", "progress.json")


def start(command: str, run: Path, **options: Any) -> subprocess.Popen[str]:
    settings = [part for name, value in (TINY | options).items() for part in ("--set", f"{name}={value}")]
    return subprocess.Popen(
        [sys.executable, "-m", "synthie.cli", command, "--run", str(run), *settings],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(fact: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and not fact():
        assert time.monotonic() < deadline, "the process neither ended nor got that far"
        time.sleep(0.002)


def kill(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Kill -9; returns the child processes of the killed one that are still there when they have had time to end."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.communicate(timeout=WAIT_S)
    return psutil.wait_procs(children, timeout=WAIT_S)[1]


def finished(run: Path) -> dict[str, tuple[int, int]]:
    """Stage -> identity of its manifest; a manifest that is written again has another."""
    states = {stage.name: run / stage.name / "manifest.json" for stage in STAGES}
    found = {name: path.stat() for name, path in states.items() if path.exists()}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in found.items()}


def answered_before(run: Path) -> int:
    return json.loads((run / "texts/cost.json").read_bytes())["this_run"]["answered_before"]


@dataclass
class Killed:
    """What was there when a run was killed in a stage; ``reached`` if that was at work."""

    reached: bool
    manifests: dict[str, tuple[int, int]]
    left_processes: list[psutil.Process]
    answers: int = 0


@dataclass
class Chain:
    """One run that was killed once in every stage and then ran to its end."""

    folder: Path
    kills: dict[str, Killed] = field(default_factory=dict)
    last_output: str = ""


def begun(run: Path, stage: str) -> bool:
    """The stage has begun its work: there is more than its lock."""
    if stage == "texts":  # in the middle of the answers
        journal = run / "texts/journal/000001.journal"
        return journal.exists() and journal.stat().st_size > 0
    if stage == "extractor":  # in the middle of the training
        return (run / "extractor/.training/prepared").exists()
    return (run / stage / ".fingerprint").exists()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(tmp_path_factory.mktemp("killed"))
    for stage in WORKING:
        made.kills[stage] = _killed_in(made.folder, stage)
    process = start("demo", made.folder)
    made.last_output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    return made


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, up to the data set."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    plan = Run(load_config(None, [f"{name}={value}" for name, value in (TINY | {"run": folder}).items()]))
    for stage in takewhile(lambda stage: stage.name != "extractor", STAGES):
        stage.run(plan)
    return folder


def _killed_in(run: Path, stage: str) -> Killed:
    """Kill a run in a stage; where the stage was over before anybody saw it, undo it and try again."""
    for _ in range(TRIES):
        killed = _run_into_kill(run, stage)
        if killed.reached:
            return killed
        for undone in dropwhile(lambda each: each.name != stage, STAGES):
            shutil.rmtree(run / undone.name, ignore_errors=True)
    raise AssertionError(f"{TRIES} times nobody saw the stage {stage} at work")


def _run_into_kill(run: Path, stage: str) -> Killed:
    process = start("demo", run, **SLOW_TEXTS if stage == "texts" else {})
    try:
        wait_for(lambda: begun(run, stage), process)
        reached = begun(run, stage)
    finally:
        left = kill(process)
    answers = 0
    if stage == "texts":
        with Journal(run / "texts/journal") as journal:
            answers = len(journal)
    return Killed(reached, finished(run), left, answers)


@pytest.fixture
def sampled(uninterrupted: Path, tmp_path: Path) -> Path:
    """A run with graph and sets."""
    for stage in ("kg", "sets"):
        shutil.copytree(uninterrupted / stage, tmp_path / stage)
    return tmp_path


def test_every_stage_was_under_way_when_it_was_killed(chain: Chain) -> None:
    for stage, killed in chain.kills.items():
        assert killed.reached, stage
    assert "texts" not in chain.kills["texts"].manifests
    assert 0 < chain.kills["texts"].answers < SETS


def test_finished_stages_are_not_repeated(chain: Chain) -> None:
    last = finished(chain.folder)
    assert last.keys() >= set(WORKING)
    for stage, killed in chain.kills.items():
        assert killed.manifests.items() <= last.items(), f"killed in {stage}"
    assert chain.last_output.count("already done in") >= len(WORKING) - 1


def test_no_stored_answer_is_asked_for_again(chain: Chain) -> None:
    assert answered_before(chain.folder) == chain.kills["texts"].answers


def test_the_server_of_a_killed_run_ends_with_it(chain: Chain) -> None:
    assert [process for killed in chain.kills.values() for process in killed.left_processes] == []


def test_the_killed_run_makes_the_same_data_set_as_the_uninterrupted_one(chain: Chain, uninterrupted: Path) -> None:
    for stage in ("kg", "sets", "dataset"):
        killed, whole = (read_manifest(run / stage) for run in (chain.folder, uninterrupted))
        assert killed.output_hash == whole.output_hash, stage


def test_kills_leave_no_temporary_file_behind(chain: Chain) -> None:
    for stage in WORKING:
        names = {path.relative_to(chain.folder).as_posix() for path in (chain.folder / stage).rglob("*")}
        hidden = {name for name in names if "/." in name and not name.endswith(".lock")}
        assert hidden == set()
        listed = {f"{stage}/{name}" for name in read_manifest(chain.folder / stage).outputs}
        kept = {f"{stage}/{name}" for name in ("manifest.json", *KEPT)}
        kept.add("dataset/versions.json")
        files = {name for name in names if (chain.folder / name).is_file() and not name.endswith(".lock")}
        assert files - kept == listed


def test_a_second_process_on_a_busy_folder_is_refused_with_the_name_of_the_first(sampled: Path) -> None:
    first = start("generate", sampled, **SLOW_TEXTS)
    try:
        wait_for(lambda: begun(sampled, "texts"), first)
        second = start("generate", sampled)
        _, message = second.communicate(timeout=WAIT_S)
        assert second.returncode == 1
        assert message.startswith(f"Error: Another process spends from the budget of {sampled} (pid {first.pid} on ")
        assert "\n" not in message.strip()
        assert first.poll() is None
    finally:
        kill(first)


def test_sigterm_stores_what_is_in_flight_and_leaves_no_process(sampled: Path) -> None:
    process = start("generate", sampled, **SLOW_TEXTS)
    wait_for(lambda: begun(sampled, "texts"), process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in message
    assert children
    assert psutil.wait_procs(children, timeout=WAIT_S)[1] == []
