"""One model thread for many callers: what waits together is extracted together.

While the model works, requests gather; then it takes the oldest, and with it others with the same options, up to a
batch. Nothing waits for company, so a lone request is answered at once. What may wait is bounded; above that, callers
are told when to come again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from synthie.records import Prediction

__all__ = ["ClosedError", "MicroBatcher", "Options", "OverloadedError"]

log = logging.getLogger(__name__)

_RECENT = 0.3  # weight of the last batch in the mean time a text


class Options(NamedTuple):
    """What a request may choose; see `synthie.extractor.predict.Extractor.extract`."""

    beams: int | None = None
    constrained: bool = True
    candidates: int = 1


class OverloadedError(Exception):
    """Too many texts wait already.

    Attributes:
        retry_after_s: seconds after which there will be room.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too many texts wait; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The model thread has ended or is about to."""


@dataclass(eq=False, slots=True)
class _Job:
    texts: Sequence[str]
    options: Options
    future: Future[list[Prediction]] = field(default_factory=Future)


class MicroBatcher:
    """Joins requests.

    Args:
        extract: finds the triplets of several texts; called in one thread only.
        batch_texts: once a batch has so many texts, no further request joins it.
        queued_texts: most texts that may wait.
    """

    def __init__(
        self,
        extract: Callable[[list[str], Options], list[Prediction]],
        *,
        batch_texts: int,
        queued_texts: int,
    ) -> None:
        self._extract, self._batch_texts, self._queued_texts = extract, batch_texts, queued_texts
        self._jobs: deque[_Job] = deque()
        self._seconds_per_text = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="extractor", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that no batch has taken yet, and that somebody still waits for."""
        with self._changed:
            return self._count()

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._closed

    def submit(self, texts: Sequence[str], options: Options) -> Future[list[Prediction]]:
        """Line up; the result is a prediction a text. A future that is cancelled before its turn costs nothing.

        Raises:
            ClosedError: the batcher is closed.
            OverloadedError: there is no room for so many texts.
        """
        job = _Job(texts, options)
        with self._changed:
            if not self.is_alive:
                raise ClosedError
            waiting = self._count()
            if waiting + len(texts) > self._queued_texts:
                raise OverloadedError(max(1, math.ceil(waiting * self._seconds_per_text)))
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """End after the batch in work; who still waits gets a `ClosedError`."""
        with self._changed:
            self._closed = True
            left, self._jobs = self._jobs, deque()
            self._changed.notify()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(ClosedError())
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            wanted = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _next(self) -> list[_Job]:
        """The oldest job and those that can join it; [] when closed."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            taken: list[_Job] = []
            left: deque[_Job] = deque()
            size = 0
            for job in self._jobs:
                joins = not taken or (job.options == taken[0].options and size + len(job.texts) <= self._batch_texts)
                (taken if joins else left).append(job)
                size += len(job.texts) if joins else 0
            self._jobs = left
            return taken

    def _count(self) -> int:
        return sum(len(job.texts) for job in self._jobs if not job.future.cancelled())

    def _answer(self, jobs: list[_Job]) -> None:
        texts = [text for job in jobs for text in job.texts]
        started = time.monotonic()
        try:
            predictions = iter(self._extract(texts, jobs[0].options))
            answers = [[next(predictions) for _ in job.texts] for job in jobs]
        except Exception as error:  # whatever the model raises must not end the thread
            if len(jobs) > 1:
                log.warning("A batch of %d requests failed (%s); each is tried alone", len(jobs), error)
                for job in jobs:
                    self._answer([job])
            else:
                jobs[0].future.set_exception(error)
            return
        seconds = (time.monotonic() - started) / max(1, len(texts))
        self._seconds_per_text += (seconds - self._seconds_per_text) * (_RECENT if self._seconds_per_text else 1)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
