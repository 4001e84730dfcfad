"""A stage's progress as a progress bar in Prefect's UI.

The stage reports as often as it likes and is never held up: a thread of its
own sends the latest report every few seconds, and calls who else shows
something of the stage. If Prefect cannot be reached the stage goes on; the
run's log says so once.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.wording import progress_line
from synthie.pipeline import Stage

__all__ = ["ArtifactProgress", "Watch"]

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_UPDATES = 3.0


class Watch(Protocol):
    """Shows what has changed since the last call; ``last``: there will be no further one."""

    def __call__(self, *, last: bool = False) -> None: ...


class ArtifactProgress:
    """A `kg.stage.Progress` receiver; a stage that finds its work done never creates the bar.

    Args:
        stage: whose progress is shown.
        watches: called every few seconds, and once after the stage has ended, however it did.
    """

    def __init__(self, stage: Stage, watches: Sequence[Watch] = ()) -> None:
        self._stage = stage
        self._watches = watches
        self._artifact: UUID | None = None
        self._latest: tuple[float, str] | None = None
        self._warned = False
        self._stop = threading.Event()
        # The artifact belongs to the task run whose context the thread inherits.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._work,), daemon=True)

    def __enter__(self) -> ArtifactProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __call__(self, done: int, total: int | None, unit: str, **details: Any) -> None:
        percent = 100.0 * min(1.0, done / total) if total else 0.0
        self._latest = percent, progress_line(self._stage.title, done, total, unit, details)

    def _work(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_UPDATES):
            self._show()
        self._show(last=True)

    def _show(self, *, last: bool = False) -> None:
        for watch in (self._show_bar, *self._watches):
            try:
                watch(last=last)
            except Exception as error:
                # Whatever Prefect's client raises: showing progress must not end paid work.
                if not self._warned:
                    log.warning("progress cannot be shown: %s", error)
                    self._warned = True

    def _show_bar(self, *, last: bool = False) -> None:
        report, self._latest = self._latest, None
        if report is None:
            return
        percent, description = report
        if self._artifact is None:
            key = f"progress-{self._stage.name}"
            created = create_progress_artifact(percent, key=key, description=description)
            assert isinstance(created, UUID), "a thread without an event loop gets the synchronous result"
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, percent, description=description)
