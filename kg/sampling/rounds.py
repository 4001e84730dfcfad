"""Rounds as map-reduce: sets are drawn in parallel against frozen weights, then admitted in order.

Who draws does not matter: a set depends on its number and on the frozen weights
alone. `Threads` shares a round among threads of this process, `Mapped` among the
tasks of a caller's mapper (processes, Dask, Ray), whose workers map the graph's
arrays from its folder. `Alone` walks over an ordinary networkx graph.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kg.graph import KnowledgeGraph
from kg.parallel import Mapper
from kg.sampling.arrays import Arrays, graph_arrays
from kg.sampling.kernels import admit, draw_rows
from kg.sampling.reference import Reference
from kg.sampling.state import Frozen, Rows, Walk

__all__ = ["Alone", "DrawTask", "Drawer", "Mapped", "Threads", "draw_round"]

_TRIES = 32
_TRIES_AWAY_FROM_HUBS = 16
_LEAST_SHARE = 64  # sets worth a thread
_LEAST_TASK = 10_000  # sets worth a task, which takes the weights of all nodes along


class Round(NamedTuple):
    """Sets while they are drawn: row i is that of the set number ``numbers[i]``."""

    numbers: NDArray[np.int64]
    walk: Walk
    frozen: Frozen
    rows: Rows


class Drawer(Protocol):
    """Steps 3 to 7 for the rows at ``positions``, in place."""

    def __call__(self, positions: NDArray[np.int64], attempt: int, drawn: Round) -> None: ...


def draw_round(
    draw: Drawer,
    numbers: NDArray[np.int64],
    walk: Walk,
    frozen: Frozen,
    contents: NDArray[np.uint64],
    n_relations: int,
) -> tuple[Rows, NDArray[np.int64]]:
    """Steps 2 to 8 for the set numbers ``numbers``; rows that found no new set have length 0.

    Returns:
        the rows, and int64[R]: how many tries that started from each relation found no new set.
    """
    failed_starts = np.zeros(n_relations, np.int64)
    rows = Rows.empty(len(numbers), walk.max_size)
    drawn = Round(numbers, walk, frozen, rows)
    pending = np.arange(len(numbers))
    for attempt in range(_TRIES):
        draw(pending, attempt, drawn)
        pending = pending[~admit(pending, rows, contents)]
        rows.lengths[pending] = 0
        relations = rows.relations[pending]
        failed_starts += np.bincount(relations[relations >= 0], minlength=n_relations)
        if len(pending) == 0:
            break
    return rows, failed_starts


class Threads:
    """Threads that each take a share of a round; the kernels run without the interpreter's lock."""

    def __init__(self, arrays: Arrays, seed: int, workers: int | None) -> None:
        self._arrays = arrays
        self._seed = np.uint64(seed)
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(max_workers=self._workers)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def __call__(self, positions: NDArray[np.int64], attempt: int, drawn: Round) -> None:
        shares = np.array_split(positions, max(1, min(self._workers, len(positions) // _LEAST_SHARE)))
        away = attempt < _TRIES_AWAY_FROM_HUBS

        def draw(share: NDArray[np.int64]) -> None:
            draw_rows(
                share, drawn.numbers, attempt, self._seed, away, self._arrays, drawn.walk, drawn.frozen, drawn.rows
            )

        if len(shares) == 1:
            draw(positions)
        else:
            list(self._pool.map(draw, shares))


class Alone:
    """One thread and an ordinary graph."""

    def __init__(self, reference: Reference, seed: int) -> None:
        self._reference = reference
        self._seed = seed

    def __call__(self, positions: NDArray[np.int64], attempt: int, drawn: Round) -> None:
        away = attempt < _TRIES_AWAY_FROM_HUBS
        self._reference.draw_rows(
            positions.tolist(),
            drawn.numbers.tolist(),
            attempt,
            self._seed,
            away,
            drawn.walk,
            drawn.frozen,
            drawn.rows,
        )


@dataclass(frozen=True)
class DrawTask:
    """A share of a round, for a worker that has the graph's folder."""

    title: str
    folder: str
    content: str  # digest of the graph
    seed: int
    attempt: int
    positions: NDArray[np.int64]
    numbers: NDArray[np.int64]
    walk: Walk
    frozen: Frozen


class Mapped(Threads):
    """The tasks of a mapper take the shares of large rounds, threads of this process all others.

    Args:
        graph: the graph; its folder must be readable where the tasks run.
        content: the digest of the graph's files, so that no worker keeps a graph that was built anew.
    """

    def __init__(
        self, arrays: Arrays, seed: int, workers: int | None, graph: KnowledgeGraph, content: str, mapper: Mapper
    ) -> None:
        super().__init__(arrays, seed, workers)
        self._folder = str(graph.folder.absolute())
        self._content = content
        self._mapper = mapper

    def __call__(self, positions: NDArray[np.int64], attempt: int, drawn: Round) -> None:
        if len(positions) < 2 * _LEAST_TASK:
            super().__call__(positions, attempt, drawn)
            return
        shares = np.array_split(positions, len(positions) // _LEAST_TASK)
        tasks = [
            DrawTask(
                f"draw sets {drawn.numbers[share[0]]:,} to {drawn.numbers[share[-1]]:,}",
                self._folder,
                self._content,
                int(self._seed),
                attempt,
                share,
                drawn.numbers[share],
                drawn.walk,
                drawn.frozen,
            )
            for share in shares
        ]
        for share, rows in self._mapper(_draw_share, tasks):
            drawn.rows.put(share, rows)


def _draw_share(task: DrawTask) -> tuple[NDArray[np.int64], Rows]:
    rows = Rows.empty(len(task.positions), task.walk.max_size)
    away = task.attempt < _TRIES_AWAY_FROM_HUBS
    arrays = _arrays_of(task.folder, task.content)
    frozen = Frozen._make(map(_writable, task.frozen))
    draw_rows(
        np.arange(len(rows.lengths)),
        _writable(task.numbers),
        task.attempt,
        np.uint64(task.seed),
        away,
        arrays,
        Walk._make(map(_writable, task.walk)),
        frozen,
        rows,
    )
    return task.positions, rows


def _writable(value: Any) -> Any:
    """The kernels are compiled for writable weights and numbers; some clusters hand over read-only ones."""
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value


@lru_cache(maxsize=1)
def _arrays_of(folder: str, content: str) -> Arrays:
    """A worker's arrays, kept from task to task."""
    del content
    return graph_arrays(KnowledgeGraph.open(Path(folder)))
