"""The slices of a dump as task runs: every runner builds the same graph, and errors come through as themselves."""

import gzip
import os
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import LocalCluster
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TaskRun
from prefect.events.worker import EventsWorker

from flows.runners import TaskMapper, with_absolute_paths
from flows.stages import kg_flow
from kg.dump import Slice, plan_slices
from kg.wikidata.ingest import ingest_slice
from synthie.config import GraphConfig, RunConfig, RunnerConfig, load_config
from synthie.errors import ConfigError, StorageError

ROOT = Path(__file__).resolve().parents[2]
MEMBER_LINES = 100
SLICE_MB = 0.06


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled sample as a gzip file of many members, so that there are slices."""
    lines = gzip.decompress((ROOT / "data/sample/wikidata.json.gz").read_bytes()).splitlines(keepends=True)
    members = (b"".join(lines[start : start + MEMBER_LINES]) for start in range(0, len(lines), MEMBER_LINES))
    path = tmp_path_factory.mktemp("dump") / "dump.json.gz"
    path.write_bytes(b"".join(gzip.compress(member, mtime=0) for member in members))
    return path


def run_of(folder: Path, dump: Path, **runner: str) -> RunConfig:
    kg = GraphConfig(dump=str(dump), slice_mb=SLICE_MB, workers=2)
    return RunConfig(run=str(folder), kg=kg, runner=RunnerConfig.model_validate(runner))


@pytest.fixture(scope="module")
def expected(prefect_server: None, tmp_path_factory: pytest.TempPathFactory, dump: Path) -> dict[str, str]:
    """The digests of the graph's files as the stage's own processes build it."""
    return kg_flow(run_of(tmp_path_factory.mktemp("local"), dump)).outputs


def slice_runs(folder: Path, *awaited: str, beside: Collection[TaskRun] = ()) -> list[TaskRun]:
    """The task runs of slices in flow runs on this folder, once the server has stored those that are awaited."""
    EventsWorker.drain_all()
    known, deadline = {run.id for run in beside}, time.monotonic() + 240
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(name={"any_": [f"kg of {folder}"]}))
            runs = [run for run in found if "slice" in run.tags and run.id not in known]
            if set(awaited) <= {run.name for run in runs}:
                return runs
            assert time.monotonic() < deadline, "the server lacks task runs"
            time.sleep(0.2)


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow), "dask"])
def test_every_runner_builds_the_same_graph(kind: str, tmp_path: Path, dump: Path, expected: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if "THREADS" in name}
    assert kg_flow(run_of(tmp_path, dump, kind=kind)).outputs == expected
    assert {name: value for name, value in os.environ.items() if "THREADS" in name} == environment
    slices = len(plan_slices(str(dump), int(SLICE_MB * (1 << 20))))
    assert slices > 3
    names = {f"read slice {number} of dump.json.gz" for number in range(1, slices + 1)}
    assert {run.name for run in slice_runs(tmp_path, *names)} == names


def test_a_running_dask_cluster_builds_the_same_graph(
    tmp_path: Path, dump: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        config = run_of(Path("run"), dump, kind="dask", address=cluster.scheduler_address)
        assert kg_flow(config).outputs == expected
        assert len(cluster.workers) == 2


class Reader:
    """`ingest_slice`, but for one slice it raises ``errors`` first, one a call; ``finished`` are the slices read."""

    def __init__(self, slice_number: int, *errors: Exception) -> None:
        self.slice_number = slice_number
        self.errors = list(errors)
        self.finished: list[int] = []

    def __call__(self, task: Any) -> Any:
        if task.part.number == self.slice_number and self.errors:
            raise self.errors.pop(0)
        result = ingest_slice(task)
        self.finished.append(task.part.number)
        return result


def test_a_slice_that_fails_for_a_moment_is_tried_again(
    tmp_path: Path, dump: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(1, OSError("connection reset"))
    monkeypatch.setattr("kg.wikidata.build.ingest_slice", reader)
    assert kg_flow(run_of(tmp_path, dump, kind="threads")).outputs == expected
    assert not reader.errors


def test_a_failed_run_says_why_and_reads_only_what_is_missing_after_the_mend(
    tmp_path: Path, dump: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(2, ConfigError("The list of entities is unreadable."))
    monkeypatch.setattr("kg.wikidata.build.ingest_slice", reader)
    config = run_of(tmp_path, dump, kind="threads")
    with pytest.raises(ConfigError, match="list of entities"):
        kg_flow(config)
    assert set(reader.finished) >= {0, 1}

    # Building asks for the result of a finished slice again; its task run does not.
    first, second, failed = (f"read slice {number} of dump.json.gz" for number in (1, 2, 3))
    before = slice_runs(tmp_path, first, second, failed)
    assert kg_flow(config).outputs == expected
    again = {run.name for run in slice_runs(tmp_path, failed, beside=before)}
    assert not {first, second} & again


@dataclass(frozen=True)
class Task:
    part: Slice


TASKS = [Task(Slice("dump", number, 0, 1)) for number in range(2)]


def spoilt(task: Task) -> None:
    raise ConfigError("It is spoilt.")


def unknown(task: Task) -> None:
    raise ModuleNotFoundError("No module named 'synthie'")


def die(task: Task) -> None:
    os._exit(1)


@flow
def read(function: Any, kind: str) -> list[Any]:
    with TaskMapper(RunnerConfig.model_validate({"kind": kind}), 1) as mapper:
        return list(mapper(function, TASKS))


def test_an_error_in_another_process_keeps_its_class_and_words(prefect_server: None) -> None:
    with pytest.raises(ConfigError, match=r"It is spoilt\."):
        read(spoilt, "processes")


def test_a_dead_worker_is_named_as_the_cause(prefect_server: None) -> None:
    with pytest.raises(StorageError, match="A worker died"):
        read(die, "processes")


def test_workers_without_the_package_are_named_as_the_cause(prefect_server: None) -> None:
    with pytest.raises(ConfigError, match=r"Install the same version of synthie there"):
        read(unknown, "threads")


def refused(**runner: str) -> Iterator[Any]:
    with TaskMapper(RunnerConfig.model_validate(runner), 2) as mapper:
        yield from mapper(spoilt, TASKS)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"prefect_{kind}", None)
    with pytest.raises(ConfigError, match=rf"pip install 'synthie\[{kind}\]'"):
        list(refused(kind=kind))


def test_a_cluster_that_does_not_answer_is_named() -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match=r"No Dask cluster answers at tcp://127\.0\.0\.1:9"),
    ):
        list(refused(kind="dask", address="tcp://127.0.0.1:9"))


def test_an_address_belongs_to_a_cluster() -> None:
    with pytest.raises(ConfigError, match="'threads' leave it empty"):
        load_config(overrides=["runner.kind=threads", "runner.address=tcp://127.0.0.1:8786"])


def test_workers_elsewhere_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(run="run", kg=GraphConfig(dump="parts/*.nt", entities_file="/lists/people.txt"))
    moved = with_absolute_paths(config)
    assert moved.run == str(tmp_path / "run")
    assert moved.kg.dump == str(tmp_path / "parts/*.nt")
    assert moved.kg.entities_file == "/lists/people.txt"
    remote = RunConfig(kg=GraphConfig(dump="s3://bucket/dump.json.gz"))
    assert with_absolute_paths(remote).kg.dump == "s3://bucket/dump.json.gz"
