"""Requests answered by the Batch API: within a day, at a discount, into the same journal as live calls.

Requests are gathered into batches as large as the limits and the budget allow: the most that a batch can cost is
reserved before it is created, and what its lines did cost is settled, line by line, when they come back. What a batch
leaves unanswered for a reason that may pass (server errors, expiry, cancellation) goes into a later one.

A batch under way is money spent, so what is known of it is on disk (`synthie.llm.batch_files`) before the step that
makes it matter: after a kill at any moment the next run adopts the batches that exist, takes their reservations again
and asks for nothing that they will answer.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthie.config import BatchConfig
from synthie.errors import ConfigError, EndpointError
from synthie.llm.batch_files import Line, Plan, StoredBatch, remove_unfinished_plans, request_line, stored_batches
from synthie.llm.batch_provider import ENDED, News, Provider
from synthie.llm.batch_results import Collector
from synthie.llm.client import Request, RequestFailedError
from synthie.llm.endpoint import Endpoint
from synthie.llm.journal import Journal, Record
from synthie.llm.pricing import Ledger, Price, budget_error
from synthie.llm.refusals import HOPELESS, hopeless_error, meaning_of, not_found_error, quota_error

__all__ = ["BatchLine", "batches_under_way", "cancel_batches", "run_batches"]

log = logging.getLogger(__name__)

_FIRST_POLL_S = 1.0
_POLLS_GROW = 1.5
_TICK_S = 1.0  # between two calls of on_progress while waiting
_LINES_PER_TICK = 1_000  # likewise while planning
_QUEUE_FULL = "token_limit_exceeded"

_OnFailure = Callable[[bytes, bytes, RequestFailedError], None]


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request, and the key under which the journal shall keep its answer."""

    key: bytes
    request: Request


def run_batches(
    lines: Iterator[BatchLine],
    *,
    endpoint: Endpoint,
    price: Price,
    ledger: Ledger,
    journal: Journal,
    folder: Path,
    config: BatchConfig,
    max_attempts: int,
    on_failure: _OnFailure,
    on_answer: Callable[[Record], None] = lambda record: None,
    on_event: Callable[..., None] = lambda kind, **details: None,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Have all ``lines`` answered, and collect the batches that an earlier run has left under way.

    Lines whose key the journal has, or that a batch under way will answer, are passed over.

    Args:
        lines: what to ask; read as batches are made.
        endpoint: where.
        price: of a token, with the discount.
        ledger: the budget; its ``spent`` is the journal's.
        journal: where answers go.
        folder: where batches under way are noted.
        config: sizes and intervals.
        max_attempts: tries of a line.
        on_failure: told key, body and reason of every line of ``lines`` that failed for good. After a kill it may be
            told of a line again.
        on_answer: told of every answer to one of ``lines`` that the journal has been given.
        on_event: told what happened: ``batch_created``, ``batch_adopted``, ``batch_status``, ``batch_collected``,
            ``batch_queue_full``.
        on_progress: called every second or so; what it raises ends the run like an interruption.

    Raises:
        BudgetError: not even one more line fits the budget, and no batch is under way.
        ConfigError: batches are under way at another endpoint.
        EndpointError: the endpoint cannot be used (see its subclasses), or has no Batch API.
        StorageError: the disk is full.
        KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM; batches under way go on.
    """
    with Provider(endpoint) as provider, _stopping_on_sigterm():
        collector = Collector(
            endpoint,
            journal,
            ledger,
            max_attempts=max_attempts,
            models=provider.models,
            on_progress=on_progress,
        )
        run = _Run(lines, provider, collector, endpoint, price, ledger, journal, folder, config)
        run.on_failure, run.on_answer, run.on_event, run.on_progress = on_failure, on_answer, on_event, on_progress
        try:
            run.run()
        except BaseException:
            if run.under_way:
                log.warning(
                    "batches under way at %s: %d; the same command collects them, with --cancel-batches cancels them",
                    endpoint.base_url,
                    len(run.under_way),
                )
            raise


def batches_under_way(folder: Path) -> int:
    """How many batches the endpoint has that are not collected yet."""
    return sum(batch.state.step in ("uploaded", "created", "finished") for batch in stored_batches(folder))


def cancel_batches(endpoint: Endpoint, folder: Path) -> int:
    """Ask the endpoint to cancel all batches under way; returns how many it was asked to.

    What they have answered until then is paid; the next run collects it.

    Raises:
        ConfigError: batches are under way at another endpoint.
        EndpointError: the endpoint cannot be used.
    """
    cancelled = 0
    with Provider(endpoint) as provider:
        for batch in stored_batches(folder):
            if batch.state.step in ("uploaded", "created"):
                _require_same_endpoint(batch, endpoint)
                batch_id = _id_of(batch, provider)
                cancelled += batch_id is not None and provider.cancel(batch_id)
    return cancelled


@dataclass(slots=True)
class _UnderWay:
    """A batch that exists at the endpoint.

    Attributes:
        stored: what is on disk.
        keys: of its lines.
        reserved: picodollars set aside for them.
        wanted: keys of the lines that this run asks for; None for all.
        status: the last that the endpoint told.
    """

    stored: StoredBatch
    keys: set[bytes]
    reserved: int
    wanted: set[bytes] | None = None
    status: str = ""

    def wants(self, key: bytes) -> bool:
        return self.wanted is None or key in self.wanted


class _Run:
    """One call of `run_batches`."""

    on_failure: _OnFailure
    on_answer: Callable[[Record], None]
    on_event: Callable[..., None]
    on_progress: Callable[[], None]

    def __init__(
        self,
        lines: Iterator[BatchLine],
        provider: Provider,
        collector: Collector,
        endpoint: Endpoint,
        price: Price,
        ledger: Ledger,
        journal: Journal,
        folder: Path,
        config: BatchConfig,
    ) -> None:
        self.under_way: list[_UnderWay] = []
        self._provider = provider
        self._collector = collector
        self._endpoint = endpoint
        self._price = price
        self._ledger = ledger
        self._journal = journal
        self._folder = folder
        self._poll_s = config.poll_s
        self._max_batches = config.max_batches  # these two become smaller when the endpoint's queue is full
        self._max_lines = config.max_requests
        self._lines = lines
        self._planned: set[bytes] = set()  # keys of the batch in the making
        self._repeats: deque[tuple[StoredBatch, dict[bytes, int]]] = deque()  # with the next try of each key
        self._source = self._requests()
        self._held: tuple[Line, bytes] | None = None  # taken from the source, and put back
        self._pause_s = 0.0

    def run(self) -> None:
        """Make batches and collect them until there is nothing more to ask."""
        self._adopt()
        while True:
            self._submit()
            if not self.under_way:
                return
            if not self._collect_ended():
                self._wait()

    # --- Batches of earlier runs ---

    def _adopt(self) -> None:
        """Take up the batches that an earlier run left; forget what never came to be one."""
        remove_unfinished_plans(self._folder)
        for batch in stored_batches(self._folder):
            step = batch.state.step
            if step == "collected":
                batch.discard_files()
                continue
            if step == "planned":
                batch.remove()
                continue
            _require_same_endpoint(batch, self._endpoint)
            batch_id = _id_of(batch, self._provider)
            if batch_id is None:
                batch.remove()
                continue
            if step == "uploaded":
                batch.save(step="created", batch_id=batch_id)
            lines = list(batch.lines())
            reserved = sum(batch.worst_cost(line) for line in lines if line.key not in self._journal)
            self._ledger.commit(reserved)
            self.under_way.append(_UnderWay(batch, {line.key for line in lines}, reserved, wanted=set()))
            self._tell("batch_adopted", batch, lines=len(lines))

    # --- New batches ---

    def _submit(self) -> None:
        while len(self.under_way) < self._max_batches:
            planned = self._plan()
            if planned is None:
                return
            batch = planned.stored
            file_id = self._provider.upload(batch.input, f"synthie-{batch.state.token}.jsonl")
            batch.save(step="uploaded", file_id=file_id)
            news = self._provider.create(file_id, batch.state.token)
            batch.save(step="created", batch_id=news.id)
            self.under_way.append(planned)
            self._pause_s = 0.0
            self._tell("batch_created", batch, lines=batch.state.lines)
            self.on_progress()

    def _plan(self) -> _UnderWay | None:
        """The next batch, on disk and with its reservation; None if there is nothing to ask or no budget for now.

        Raises:
            BudgetError: there is no budget and no batch that might give some back.
        """
        taken = self._take()
        if taken is None:
            return None
        if not self._ledger.reserve(self._worst(taken[0])):
            self._held = taken
            if self.under_way:
                return None
            raise budget_error(self._ledger, self._worst(taken[0]))
        reserved = 0
        with Plan(self._folder, self._max_lines) as plan:
            while True:
                line, request = taken
                plan.add(line, request)
                if plan.lines % _LINES_PER_TICK == 0:
                    self.on_progress()
                self._planned.add(line.key)
                reserved += self._worst(line)
                taken = self._take()
                if taken is None:
                    break
                if not plan.fits(taken[1]) or not self._ledger.reserve(self._worst(taken[0])):
                    self._held = taken
                    break
            batch = plan.finish(base_url=self._endpoint.base_url, api=self._endpoint.api, price=self._price)
        keys, self._planned = self._planned, set()
        return _UnderWay(batch, keys, reserved)

    def _worst(self, line: Line) -> int:
        return self._price.worst_cost(line.input_bound, line.output_bound)

    def _take(self) -> tuple[Line, bytes] | None:
        """The next request; None if there is none for now."""
        taken, self._held = self._held, None
        return taken or next(self._source)

    def _requests(self) -> Iterator[tuple[Line, bytes] | None]:
        """Requests to repeat, then new ones; None, again and again, where there are none."""
        while True:
            while self._repeats:
                batch, again = self._repeats[0]
                for line, request in batch.requests():
                    attempt = again.pop(line.key, None)
                    if attempt is not None and line.key not in self._journal:
                        yield line._replace(attempt=attempt), request
                self._repeats.popleft()
                batch.discard_files()
            new = next((line for line in self._lines if self._is_to_ask(line.key)), None)
            yield self._first_try(new) if new else None

    def _first_try(self, new: BatchLine) -> tuple[Line, bytes]:
        line = Line(new.key, new.request.input_bound, new.request.output_bound, attempt=1)
        return line, request_line(self._provider.path, new.key, new.request.body)

    def _is_to_ask(self, key: bytes) -> bool:
        if key in self._journal or key in self._planned or any(key in again for _, again in self._repeats):
            return False
        for batch in self.under_way:
            if key in batch.keys:
                if batch.wanted is not None:
                    batch.wanted.add(key)
                return False
        return True

    # --- Results ---

    def _collect_ended(self) -> bool:
        """Collect the batches that have ended; False if none has."""
        has_ended = False
        for batch in list(self.under_way):
            state = batch.stored.state
            assert state.batch_id is not None
            if state.step == "created":
                news = self._provider.look(state.batch_id)
                if news is None or not self._note(batch, news):
                    continue
            has_ended = True
            if batch.stored.state.step == "finished":
                self._collect(batch)
        return has_ended

    def _note(self, batch: _UnderWay, news: News) -> bool:
        """Note what the endpoint tells of a batch; whether it has ended."""
        if news.status != batch.status:
            batch.status = news.status
            counts = {"completed": news.completed, "failed": news.failed, "total": news.total}
            self._tell("batch_status", batch.stored, status=news.status, **counts)
        if news.status not in ENDED:
            return False
        if news.status == "failed":
            self._repeat_failed(batch, news)
        else:
            batch.stored.save(
                step="finished",
                status=news.status,
                output_file_id=news.output_file_id,
                error_file_id=news.error_file_id,
            )
        return True

    def _collect(self, batch: _UnderWay) -> None:
        stored = batch.stored
        files = []
        for file_id, path in (
            (stored.state.output_file_id, stored.output),
            (stored.state.error_file_id, stored.errors),
        ):
            if file_id is not None:
                self._provider.download(file_id, path)
                files.append(path)

        def tell(record: Record) -> None:
            if batch.wants(record.key):
                self.on_answer(record)

        outcome = self._collector.collect(stored, files, tell)
        self._ledger.settle(batch.reserved - outcome.settled, outcome.presumed)
        if outcome.presumed:  # a kill before the batch is noted as collected charges this twice, rather than never
            self._journal.charge(outcome.presumed, f"unreadable results of the batch {stored.name}")
        is_hopeless = outcome.unfit >= HOPELESS and not outcome.answered
        failed = {key: error for key, error in outcome.failed.items() if batch.wants(key)}
        if failed and not is_hopeless:
            for key, body in stored.bodies(failed):
                self.on_failure(key, body, failed[key])
        again = {key: attempt for key, attempt in outcome.again.items() if batch.wants(key)}
        counts = {"answered": outcome.answered, "refused": len(failed), "repeated": len(again)}
        self._journal.sync()  # before what a power cut could bring the answers back from is given up
        stored.save(step="collected", **counts)
        self.under_way.remove(batch)
        self._tell("batch_collected", stored, status=stored.state.status, **counts)
        self.on_progress()
        if outcome.doom is not None:
            raise outcome.doom
        if is_hopeless:
            *_, last = outcome.failed.values()
            raise hopeless_error(self._endpoint.url, str(last))
        if again:
            self._repeats.append((stored, again))
        else:
            stored.discard_files()

    def _repeat_failed(self, batch: _UnderWay, news: News) -> None:
        """A batch did not pass the endpoint's check, so nothing in it was tried.

        Raises:
            EndpointError: for another reason than that the queue is full, or one line is too many for it.
        """
        stored = batch.stored
        stored.save(step="collected", status="failed", repeated=stored.state.lines)
        self._ledger.settle(batch.reserved, 0)
        self.under_way.remove(batch)
        told = news.reason or ", ".join(sorted(news.codes)) or "without a reason"
        match meaning_of(400, news.codes):
            case "credit":
                raise quota_error(self._endpoint, told)
            case "missing":
                raise not_found_error(self._endpoint, told, self._provider.models())
        if _QUEUE_FULL not in news.codes or (stored.state.lines == 1 and not self.under_way):
            raise EndpointError(
                f"{self._endpoint.base_url} refuses the batch {stored.name}: {told}. Mend what it says, then run the "
                "same command again; what is stored is not asked for again."
            )
        if self.under_way:
            self._max_batches = len(self.under_way)
        else:
            self._max_lines = max(1, stored.state.lines // 2)
        self._tell("batch_queue_full", stored, reason=told, max_batches=self._max_batches, max_lines=self._max_lines)
        self._repeats.append((stored, {line.key: line.attempt for line in stored.lines() if batch.wants(line.key)}))

    def _wait(self) -> None:
        """Wait a little longer than the last time."""
        self._pause_s = min(self._poll_s, self._pause_s * _POLLS_GROW or _FIRST_POLL_S)
        end = time.monotonic() + self._pause_s
        while (rest := end - time.monotonic()) > 0:
            self.on_progress()
            time.sleep(min(rest, _TICK_S))

    def _tell(self, kind: str, batch: StoredBatch, **details: Any) -> None:
        self.on_event(kind, batch=batch.state.batch_id, folder=str(batch.folder), **details)


def _id_of(batch: StoredBatch, provider: Provider) -> str | None:
    """The endpoint's name of a batch, None if it was not created."""
    if batch.state.batch_id is not None:
        return batch.state.batch_id
    news = provider.find(batch.state.token, batch.state.planned_at)
    return news.id if news else None


def _require_same_endpoint(batch: StoredBatch, endpoint: Endpoint) -> None:
    state = batch.state
    if (state.base_url, state.api) != (endpoint.base_url, endpoint.api):
        raise ConfigError(
            f"The batch {batch.name} is under way at {state.base_url} ({state.api}), not at {endpoint.base_url} "
            f"({endpoint.api}). Set generation.base_url and generation.api to what they were to collect it; or remove "
            f"{batch.folder}, then what it answers is paid and lost."
        )


@contextlib.contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Make SIGTERM end the run in good order, unless the host program has its own way with it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
