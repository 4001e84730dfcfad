"""Texts and judge as they go on, in Prefect: their cost as an artifact, their events for the feed and automations.

Both are read from the files that the stages write anyway: ``progress.json`` and ``events.jsonl``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.events import emit_event

from flows.costs import COSTS, cost_of_the_run, cost_so_far
from synthie.texts.snapshot import Snapshot, read_snapshot
from synthie.texts.status import RunWatch

__all__ = ["AskingWatch"]

_SECONDS_BETWEEN_COSTS = 30.0


class AskingWatch:
    """Called every few seconds, shows what has changed in the folder of a stage that asks an LLM."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = RunWatch(folder.parent)
        self._started = time.time()
        self._artifact: UUID | None = None
        self._shown = 0.0  # time of the snapshot that is shown
        events = folder / "events.jsonl"
        self._events_seen = events.stat().st_size if events.exists() else 0  # bytes

    def __call__(self, *, last: bool = False) -> None:
        for event in self._new_events():
            self._emit(event)
        snapshot = self._snapshot()
        pause = 0.0 if last else _SECONDS_BETWEEN_COSTS
        if snapshot is not None and snapshot.time > self._shown + pause:
            self._show(snapshot)

    def _snapshot(self) -> Snapshot | None:
        try:
            snapshot = read_snapshot(self._folder / "progress.json")
        except FileNotFoundError:
            return None
        return snapshot if snapshot.pid == os.getpid() and snapshot.time >= self._started else None

    def _show(self, snapshot: Snapshot) -> None:
        key, title = COSTS[self._folder.name]
        parts = [f"# {title} so far", f"Files: `{self._folder}`", cost_so_far(snapshot)]
        markdown = "\n\n".join([*parts, *cost_of_the_run(self._run.look())])
        if self._artifact is None:
            created = create_markdown_artifact(markdown, key=key, description=f"{title} so far")
            assert isinstance(created, UUID), "a thread without an event loop gets the synchronous result"
            self._artifact = created
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._artifact, ArtifactUpdate(data=markdown))
        self._shown = snapshot.time

    def _new_events(self) -> Iterator[dict[str, Any]]:
        """The lines that have come since the last call; half a line waits for its end."""
        try:
            with (self._folder / "events.jsonl").open("rb") as file:
                file.seek(self._events_seen)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._events_seen += len(line)
                    yield json.loads(line)
        except FileNotFoundError:
            return

    def _emit(self, event: dict[str, Any]) -> None:
        run = self._folder.parent
        emit_event(
            f"synthie.{self._folder.name}.{event.pop('event')}",
            resource={"prefect.resource.id": f"synthie.run.{run.name}", "prefect.resource.name": str(run)},
            occurred=datetime.fromisoformat(event.pop("time")),
            payload=event,
        )
