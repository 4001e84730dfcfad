"""What happens to a run as events of Prefect, for the event feed and for automations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
from prefect.events import emit_event

from synthie.texts.snapshot import Snapshot, read_snapshot

__all__ = ["ErrorRate", "tell"]

_WINDOW_S = 30.0
_FEWEST_TRIES = 20  # in a window, to judge by
_HIGH, _LOW = 0.5, 0.2  # shares of the tries


def tell(kind: str, run: Path, **payload: Any) -> None:
    """Emit the event ``synthie.<kind>`` about a run; Prefect relates it to the flow run at work."""
    emit_event(
        f"synthie.{kind}",
        resource={"prefect.resource.id": f"synthie.run.{run.name}", "prefect.resource.name": str(run)},
        payload=payload,
    )


class ErrorRate:
    """A `flows.progress.Watch` of a stage that asks an LLM: tells when half of its tries fail, and when few do again.

    Refusals for want of capacity (429) are no errors here: the stage looks for the endpoint's limit by them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._since: tuple[float, int, int] | None = None  # time, answers, errors at the beginning of the window
        self._is_high = False
        self._started = time.time()

    def __call__(self, *, last: bool = False) -> None:
        try:
            snapshot = read_snapshot(self._folder / "progress.json")
        except (FileNotFoundError, ValueError, msgspec.MsgspecError):
            return
        if snapshot.time >= self._started:  # not what an earlier run has left
            self._look(snapshot)

    def _look(self, snapshot: Snapshot) -> None:
        errors = sum(count for kind, count in snapshot.errors.items() if kind not in ("429", "failed"))
        if self._since is None:
            self._since = self._started, 0, 0
        begun, answered_before, errors_before = self._since
        failed = errors - errors_before
        tries = snapshot.answered - answered_before + failed
        if snapshot.time - begun < _WINDOW_S or tries < _FEWEST_TRIES:
            return
        self._since = snapshot.time, snapshot.answered, errors
        share = failed / tries
        if share >= _HIGH and not self._is_high:
            self._is_high = True
            self._tell("errors_high", share, snapshot)
        elif share <= _LOW and self._is_high:
            self._is_high = False
            self._tell("errors_low", share, snapshot)

    def _tell(self, kind: str, share: float, snapshot: Snapshot) -> None:
        tell(f"{self._folder.name}.{kind}", self._folder.parent, share=round(share, 3), errors=snapshot.errors)
