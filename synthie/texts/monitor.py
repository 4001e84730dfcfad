"""How far the asking is: the caller's progress, a snapshot for other processes, and events for the log.

``progress.json`` is written every two seconds for ``synthie status``; it holds what the run's process knows and
the journal does not: speed, calls in flight, errors by class, what the whole will cost.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from kg.stage import Progress
from synthie.llm.client import Client, ClientStatistics
from synthie.llm.journal import Journal, Record
from synthie.llm.pricing import PICODOLLARS
from synthie.texts.events import EventLog
from synthie.texts.snapshot import Snapshot, write_snapshot

__all__ = ["Monitor"]

_SNAPSHOT_S = 2.0
_RATE_S = 30.0  # the speed shown is that of the last so many seconds
_PROJECTED_FROM = 20  # answers of this run from which the cost of the rest is projected
_SHOWN = ("usd", "projected_usd", "rate", "eta_s", "tokens", "errors")
_BUDGET_SHARES = (0.5, 0.8)  # worth an event; the end of the budget is one by itself


class Monitor:
    """Keeps the figures of a run and tells them.

    Args:
        path: the snapshot file.
        events, progress: who is told.
        journal: knows what is spent.
        wanted: texts to have.
        max_usd: the budget, in US dollars.

    Attributes:
        stored: questions that had an answer already, of this wave.
        failed: questions that got none, of this wave.
        answered: answers of this run.
        input_tokens, output_tokens: of these.
    """

    def __init__(
        self, path: Path, events: EventLog, progress: Progress, journal: Journal, *, wanted: int, max_usd: float
    ) -> None:
        self.stored = self.failed = self.answered = 0
        self.input_tokens = self.output_tokens = 0
        self._path = path
        self._events = events
        self._progress = progress
        self._journal = journal
        self._wanted = wanted
        self._max_usd = max_usd
        self._before = 0  # texts at hand when the wave began
        self._answered_before = 0  # when the wave began
        self._usd = 0.0  # cost of this run's answers
        self._shares_told = sum(share * max_usd <= journal.spent_usd for share in _BUDGET_SHARES)
        self._marks = deque([(time.monotonic(), 0)])
        self._written = 0.0

    @property
    def done(self) -> int:
        """Texts at hand, and those that will not come."""
        return self._before + self.stored + self.failed + self.answered - self._answered_before

    def begin_wave(self, pending: int) -> None:
        """A wave begins to ask for ``pending`` of the wanted texts."""
        self._before = self._wanted - pending
        self.stored = self.failed = 0
        self._answered_before = self.answered

    def count(self, record: Record) -> None:
        """An answer has come."""
        self.answered += 1
        self.input_tokens += record.input_tokens
        self.output_tokens += record.output_tokens
        self._usd += record.cost / PICODOLLARS

    def tell(self, statistics: ClientStatistics, client: Client | None = None, *, last: bool = False) -> None:
        """Bring everybody up to date; the snapshot if it is due, or the ``last``."""
        now = time.monotonic()
        self._marks.append((now, self.answered))
        while self._marks[0][0] < now - _RATE_S:
            self._marks.popleft()
        self._tell_budget()
        figures = self._figures(statistics)
        self._progress(
            self.done,
            self._wanted,
            "texts",
            **{name: figures[name] for name in _SHOWN if figures[name]},
        )
        if last or now - self._written >= _SNAPSHOT_S:
            self._written = now
            write_snapshot(self._path, self._snapshot(figures, client))

    def _figures(self, statistics: ClientStatistics) -> dict[str, Any]:
        (since, before), (now, answered) = self._marks[0], self._marks[-1]
        rate = (answered - before) / (now - since) if now > since else 0.0
        left = max(0, self._wanted - self.done)
        spent = self._journal.spent_usd
        projected = spent + left * self._usd / self.answered if self.answered >= _PROJECTED_FROM else None
        errors = dict(sorted(statistics.retries.items())) | ({"failed": self.failed} if self.failed else {})
        return {
            "usd": round(spent, 6),
            "projected_usd": None if projected is None else round(projected, 6),
            "rate": round(rate, 2),
            "eta_s": round(left / rate, 1) if rate else None,
            "tokens": self.input_tokens + self.output_tokens,
            "errors": errors,
        }

    def _tell_budget(self) -> None:
        if not self._max_usd:
            return
        for share in _BUDGET_SHARES[self._shares_told :]:
            if self._journal.spent_usd >= share * self._max_usd:
                self._shares_told += 1
                self._events.write("budget", share=share, usd=self._journal.spent_usd, max_usd=self._max_usd)

    def _snapshot(self, figures: dict[str, Any], client: Client | None) -> Snapshot:
        return Snapshot(
            time=time.time(),
            pid=os.getpid(),
            host=socket.gethostname(),
            done=self.done,
            total=self._wanted,
            answered=self.answered,
            failed=self.failed,
            in_flight=client.in_flight if client else 0,
            limit=client.limit if client else 0,
            rate_per_s=figures["rate"],
            eta_s=figures["eta_s"],
            usd=figures["usd"],
            projected_usd=figures["projected_usd"],
            max_usd=self._max_usd,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            errors=figures["errors"],
        )
