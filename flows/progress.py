"""A stage's progress as a progress bar in Prefect's UI.

The stage reports as often as it likes and is never held up: a thread of its
own sends the latest report every few seconds. If Prefect cannot be reached the
stage goes on; the run's log says so once.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from synthie.pipeline import Stage

__all__ = ["ArtifactProgress"]

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_UPDATES = 3.0


class ArtifactProgress:
    """A `kg.stage.Progress` receiver; a stage that finds its work done never creates the bar."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
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
        words = [f"{self._stage.title}: {done:,}{f' of {total:,}' if total else ''} {unit}"]
        words += [f"{name} {_readable(value)}" for name, value in details.items()]
        self._latest = percent, ", ".join(words)

    def _work(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_UPDATES):
            self._send()
        self._send()

    def _send(self) -> None:
        report, self._latest = self._latest, None
        if report is None:
            return
        percent, description = report
        try:
            if self._artifact is None:
                key = f"progress-{self._stage.name}"
                created = create_progress_artifact(percent, key=key, description=description)
                assert isinstance(created, UUID), "a thread without an event loop gets the synchronous result"
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, percent, description=description)
        except Exception as error:
            # Whatever Prefect's client raises: showing progress must not end paid work.
            if not self._warned:
                log.warning("progress cannot be shown: %s", error)
                self._warned = True


def _readable(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
