"""The slices of a stage as Prefect task runs: in threads, processes, on a Dask or a Ray cluster.

A stage that reads slices calls a `kg.parallel.Mapper`; `TaskMapper` is one that
makes a task run of each slice and hands it to the task runner that the run's
configuration names. Nothing is started before there is a slice to read, and only
as many slices are handed out as keep the workers busy, so that an error leaves
no queue to work through and a cluster that grows is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import CrashedRun
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from kg.dump import Slice
from synthie.config import RunConfig, RunnerConfig
from synthie.errors import ConfigError, StorageError, SynthieError

__all__ = ["TaskMapper", "with_absolute_paths"]

T = TypeVar("T")
R = TypeVar("R")

_SLICES_PER_WORKER = 2  # at once: one is read, one waits


class TaskMapper:
    """A `kg.parallel.Mapper` over one of Prefect's task runners; a context manager, which ends the runner.

    Args:
        config: which task runner, not "local".
        workers: how many workers a runner of this machine has; None for one per core.

    Calling it raises what a slice raises after its retries, once the slices that were handed out have ended, and

        ConfigError: the runner's library or, on the workers, this package is missing, or no cluster answers at the
            address.
        StorageError: a worker died.
    """

    def __init__(self, config: RunnerConfig, workers: int | None) -> None:
        self._config = config
        self._workers = workers or os.cpu_count() or 1
        self._stack = ExitStack()
        self._running: set[PrefectFuture[Any]] = set()
        self._started: tuple[Callable[..., PrefectFuture[Any]], Callable[[], int]] | None = None

    def __enter__(self) -> TaskMapper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A cluster does not stop what it has begun, and the next run must not meet it. Who cancels does not wait.
        if kind is None or issubclass(kind, Exception):
            for future in self._running:
                with suppress(Exception):  # the first error is on its way
                    future.wait()
        self._stack.close()

    def __call__(self, function: Callable[[T], R], tasks: Sequence[T]) -> Generator[R, None, None]:
        if not tasks:
            return
        if self._started is None:
            self._started = self._start()
        submit, count_workers = self._started
        waiting = iter(tasks)
        finished: SimpleQueue[PrefectFuture[R]] = SimpleQueue()
        while True:
            room = _SLICES_PER_WORKER * max(1, count_workers()) - len(self._running)
            for each in islice(waiting, max(0, room)):
                future = submit(_read_slice, {"title": _title(each), "function": function, "each": each})
                self._running.add(future)
                future.add_done_callback(finished.put)
            if not self._running:
                return
            future = finished.get()
            self._running.remove(future)
            yield _result(future)

    def _start(self) -> tuple[Callable[..., PrefectFuture[Any]], Callable[[], int]]:
        """Start the runner; what submits a task to it, and what tells how many workers it has now."""
        kind, address = self._config.kind, self._config.address
        try:
            runner, count_workers = _RUNNERS[kind](address, self._workers)
            self._stack.enter_context(runner)
            count_workers()  # connects
        except ImportError as error:
            raise ConfigError(
                f"'runner.kind' is '{kind}', but {error.name} is not installed here. "
                f"Run: pip install 'synthie[{kind}]', here and on the workers."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"No {kind.capitalize()} cluster answers at {address}: {_line(error)}. Start it, correct "
                "'runner.address', or leave that empty for a cluster on this machine."
            ) from error
        return runner.submit, count_workers


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run for workers whose working folder is another one: paths of the graph's stage made absolute."""
    kg = config.kg
    paths = {name: _absolute(path) for name in ("dump", "entities_file") if (path := getattr(kg, name)) is not None}
    return config.model_copy(update={"run": _absolute(config.run), "kg": kg.model_copy(update=paths)})


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A connection or a disk may recover; a configuration or a missing library does not."""
    return not isinstance(state.result(raise_on_failure=False), (ConfigError, ImportError))


@task(
    name="read slice",
    task_run_name="{title}",
    tags={"slice"},
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _read_slice(title: str, function: Callable[[T], R], each: T) -> R:
    return function(each)


def _title(each: Any) -> str:
    if title := getattr(each, "title", None):
        return str(title)
    part: Slice = each.part
    return f"read slice {part.number + 1} of {part.file.rsplit('/', 1)[-1]}"


def _result(future: PrefectFuture[R]) -> R:
    try:
        return future.result()
    except Exception as error:
        if "No module named" in str(error) and not isinstance(error, SynthieError):
            raise ConfigError(
                f"The workers of the cluster cannot import what reads a slice ({_line(error)[-200:]}). Install the "
                "same version of synthie there, with the extra of the cluster, and start the workers again."
            ) from error
        library = type(error).__module__.partition(".")[0]
        if isinstance(error, (BrokenExecutor, CrashedRun)) or library in ("distributed", "ray"):
            raise StorageError(
                f"A worker died while it read a slice, most likely for want of memory ({_line(error)}). Give the "
                "workers more memory or let fewer run on one machine, and run the same again; finished slices are kept."
            ) from error
        raise


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).removesuffix(".")


def _threads(address: str | None, workers: int) -> tuple[TaskRunner[Any], Callable[[], int]]:
    return ThreadPoolTaskRunner(max_workers=workers), lambda: workers


def _processes(address: str | None, workers: int) -> tuple[TaskRunner[Any], Callable[[], int]]:
    return ProcessPoolTaskRunner(max_workers=workers), lambda: workers


def _dask(address: str | None, workers: int) -> tuple[TaskRunner[Any], Callable[[], int]]:
    import dask.config
    from prefect_dask import DaskTaskRunner

    # Dask would write OMP_NUM_THREADS=1 and the like to the environment of the flow, whose later stages train.
    dask.config.set({"distributed.nanny.pre-spawn-environ": {}})
    # One thread a worker: reading a slice holds Python's lock.
    local = {"n_workers": workers, "threads_per_worker": 1}
    runner = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
    return runner, lambda: sum(runner.client.nthreads().values())


def _ray(address: str | None, workers: int) -> tuple[TaskRunner[Any], Callable[[], int]]:
    import ray
    from prefect_ray import RayTaskRunner

    local = {"address": "local", "num_cpus": workers}
    runner = RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=local)
    return runner, lambda: int(ray.cluster_resources().get("CPU", 0))


_RUNNERS = {"threads": _threads, "processes": _processes, "dask": _dask, "ray": _ray}
