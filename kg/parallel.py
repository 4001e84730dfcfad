"""Where the slices of a stage are run, in this process, in several or by a caller's mapper, and where their parts go.

A stage that works in slices calls a `Mapper` with a picklable function and its
tasks and takes the results as they come. The stage knows nothing of threads,
processes or clusters; a flow hands in a mapper over its task runner. A slice
writes files and returns counts, so results are small and their order is free.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from kg.errors import StorageError

__all__ = ["SOURCE_FOLDER", "Mapper", "in_processes", "in_this_process", "parts_folder", "remove_parts"]

SOURCE_FOLDER = ".source"  # in the stage's folder, for a source that must be converted or fetched before it is read

T = TypeVar("T")
R = TypeVar("R")


class Mapper(Protocol):
    """Calls a function on each task and yields the results in any order; closed early, it ends the work."""

    def __call__(self, function: Callable[[T], R], tasks: Sequence[T]) -> Generator[R, None, None]: ...


def in_this_process(function: Callable[[T], R], tasks: Sequence[T]) -> Generator[R, None, None]:
    """One task after the other."""
    yield from map(function, tasks)


def in_processes(workers: int | None = None) -> Mapper:
    """A mapper over ``workers`` processes (default: one per core), but this process where one suffices.

    The mapper raises what a task raises, after the running tasks have ended, and
    `StorageError` if a process dies, for which lack of memory is the usual cause.
    """

    def mapper(function: Callable[[T], R], tasks: Sequence[T]) -> Generator[R, None, None]:
        processes = min(workers or len(os.sched_getaffinity(0)), len(tasks))
        if processes <= 1:
            yield from in_this_process(function, tasks)
            return
        # Spawned, not forked: the parent may have threads (Arrow, Prefect), which forking does not survive.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker) as pool:
            waiting = iter(tasks)
            running: set[Future[R]] = set()
            try:
                while True:
                    # Few tasks at a time, so that an error does not leave a queue to work through.
                    while len(running) < processes + 1 and (task := next(waiting, None)) is not None:
                        running.add(pool.submit(function, task))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except BrokenProcessPool as error:
                raise StorageError(
                    "A worker process was killed, most likely for want of memory. Set 'kg.workers' lower and run the "
                    "same command again; finished slices are kept."
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    return mapper


def _prepare_worker() -> None:
    """Let Arrow take memory from the system's allocator, and end with the parent.

    Arrow's own allocator keeps what it has freed, 25 MB in a worker that reads a dump; it is chosen when pyarrow is
    imported. A worker whose parent is killed would wait for tasks for ever, or write to finished work.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parts_folder(folder: Path, *identity: Any) -> Path:
    """Make the folder in ``folder`` where the parts of a run's slices wait to be joined; those of other runs go.

    Args:
        folder: the stage's folder.
        identity: what the parts depend on, as data that msgspec encodes. It is in the folder's name, so that a worker
            of an earlier run that nobody could end does not write among these parts.
    """
    digest = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:12]
    parts = folder / f".parts-{digest}"
    remove_parts(folder, but=parts)
    parts.mkdir(exist_ok=True)
    return parts


def remove_parts(folder: Path, but: Path | None = None) -> None:
    """Remove the folders that `parts_folder` made in ``folder``, except one."""
    for parts in folder.glob(".parts-*"):
        if parts != but:
            shutil.rmtree(parts)
