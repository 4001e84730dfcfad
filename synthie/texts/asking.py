"""Asking: the questions of a wave that the journal has no answer to are sent, each answer is stored at once.

Live, a bounded number of workers draw from the questions and hand each to the
client; in batch mode `synthie.llm.batch` takes them. Both write to the same
journal under the same keys.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kg.stage import Progress
from synthie.errors import ConfigError, EndpointError, IncompleteError
from synthie.llm.client import Client, ClientStatistics, Completion, Request, RequestFailedError, StoppedError
from synthie.llm.endpoint import Endpoint, Secrets
from synthie.llm.journal import Journal, Record
from synthie.llm.lane import Lane
from synthie.llm.limits import Gate, Limiter
from synthie.llm.pricing import Ledger, to_picodollars
from synthie.texts.columns import give_back
from synthie.texts.estimate import price_at
from synthie.texts.events import EventLog
from synthie.texts.failures import Failures
from synthie.texts.monitor import Monitor
from synthie.texts.questions import Questions
from synthie.texts.roster import Roster

__all__ = ["Asking"]

log = logging.getLogger(__name__)

_READ_ROWS = 1_000
_TELL_S = 0.5
_GRACE_S = 5.0  # after Ctrl-C: how long calls in flight may still arrive
_SKIPS_PER_TURN = 200  # stored rows passed over before the event loop gets a turn


@dataclass(slots=True)
class _Question:
    key: bytes
    request: Request


class Asking:
    """Sends what is pending in the roster. Use as a context manager; the endpoint stays open between waves.

    Args:
        questions, roster, journal: what to ask, where each set stands, where answers go.
        folder: where ``failures.jsonl``, ``events.jsonl``, ``progress.json`` and, in batch mode, ``batches/`` are.
        max_usd: what all runs in ``folder`` together may cost, in US dollars.
        progress: told the texts at hand, of all, with cost, speed, tokens and errors.
        secrets, gate: see `synthie.generate.generate_texts`.

    Attributes:
        stored: questions of this run that had an answer already.
        seconds: spent asking.
        statistics: what the client did.
        monitor: the figures of the run.
    """

    def __init__(
        self,
        questions: Questions,
        roster: Roster,
        journal: Journal,
        *,
        folder: Path,
        max_usd: float,
        progress: Progress,
        secrets: Secrets | None = None,
        gate: Gate | None = None,
    ) -> None:
        config = questions.config
        self.stored = 0
        self.seconds = 0.0
        self.statistics = ClientStatistics()
        self._events = EventLog(folder / "events.jsonl")
        self.monitor = Monitor(
            folder / "progress.json", self._events, progress, journal, wanted=roster.wanted, max_usd=max_usd
        )
        self._config = config
        self._questions = questions
        self._roster = roster
        self._journal = journal
        self._failures = Failures(folder / "failures.jsonl", retry=config.retry_failed)
        self._folder = folder
        self._ledger = Ledger(to_picodollars(max_usd), journal.spent)
        self._secrets = secrets
        self._gate = gate
        self._stack = ExitStack()
        self._runner: asyncio.Runner | None = None
        self._client: Client | None = None
        self._batch_endpoint: Endpoint | None = None
        self._under_way: dict[bytes, int] = {}  # key -> id of the set
        self._drawing = asyncio.Lock()
        self._deadline = None if config.run_timeout_s is None else time.monotonic() + config.run_timeout_s
        self._timed_out = self._terminated = False

    def __enter__(self) -> Asking:
        self._stack.enter_context(self._events)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self.monitor.tell(self.statistics, last=True)
        if kind is None:
            others = (lambda key: key not in self._journal) if self._roster.is_part else (lambda key: False)
            self._failures.close(keep=others)

    @property
    def failed(self) -> int:
        """Sets without an answer."""
        return self._roster.failed

    def run(self) -> None:
        """Ask until every pending set has an answer or has failed.

        Raises:
            BudgetError, EndpointError, ConfigError, StorageError: all that was answered until then is stored.
            IncompleteError: the time for the run is over.
            KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, likewise.
        """
        started = time.perf_counter()
        try:
            self._run_wave()
        except BaseException as error:
            if isinstance(error, EndpointError):
                self._failures.doubt()
            self._tell()
            told = f"{type(error).__name__}: {error}".removesuffix(": ")
            self._events.write("stopped", reason=self._config.worded(told))
            raise
        finally:
            self.seconds += time.perf_counter() - started
            self._tell()

    def _run_wave(self) -> None:
        pending = int(np.count_nonzero(self._roster.pending))
        self.monitor.begin_wave(pending)
        self._await_batches()
        questions = self._unanswered()
        first = next((question for question in questions if question), None)
        if first:  # nobody is troubled, and no server started, where everything is stored
            self._events.write("asking", wave=self._roster.wave, pending=pending)
            self._send(chain([first], questions))
            self._events.write("asked", wave=self._roster.wave, answered=self.monitor.answered)
        self._mark_failed()

    def _send(self, questions: Iterator[_Question | None]) -> None:
        if self._config.mode == "batch":
            self._send_batches(questions)
            return
        if self._runner is None:
            self._runner = self._stack.enter_context(asyncio.Runner())
        try:
            self._runner.run(self._send_live(questions))
        except asyncio.CancelledError:
            if not self._terminated:
                raise
            theirs = signal.getsignal(signal.SIGTERM)
            if callable(theirs):
                theirs(signal.SIGTERM, None)  # Prefect's raises an exception of its own
            raise SystemExit(128 + signal.SIGTERM) from None
        self._check_time()

    def _unanswered(self) -> Iterator[_Question | None]:
        """Questions to ask; None now and then, so that passing over stored ones does not hold up the event loop."""
        skipped = 0
        for batch in self._questions.sets.batches(_READ_ROWS, self._roster.pending):
            for position, triplet_set in batch:
                which = self._roster.which(position)
                request = self._questions.request(triplet_set, which)
                key = self._questions.find(request.body, which, self._journal)
                self._roster.set_key(position, key)
                is_stored = key in self._journal or key in self._under_way
                if is_stored or self._failures.has_failed(key):
                    self.stored += is_stored
                    self.monitor.stored += is_stored
                    self.monitor.failed += not is_stored
                    skipped += 1
                    if skipped % _SKIPS_PER_TURN == 0:
                        yield None
                    continue
                self._under_way[key] = triplet_set.id
                yield _Question(key, request)

    def _mark_failed(self) -> None:
        """Equal questions fail together, so the journal decides."""
        for position in map(int, np.flatnonzero(self._roster.pending)):
            key = self._roster.key(position)
            if key not in self._journal:
                self._roster.fail(position, refused=self._failures.is_refused(key))

    def _fail(self, key: bytes, body: bytes, error: RequestFailedError) -> None:
        self.monitor.failed += 1
        self._failures.add(self._under_way.pop(key), key, body, error)

    def _note_answer(self, record: Record) -> None:
        self._under_way.pop(record.key, None)
        self.monitor.count(record)
        self._failures.answered()

    def _tell(self) -> None:
        self.monitor.tell(self.statistics, self._client)

    def _check_time(self) -> None:
        if self._deadline is not None and (self._timed_out or time.monotonic() > self._deadline):
            raise IncompleteError(
                f"The time for asking is over (generation.run_timeout_s, {self._config.run_timeout_s:g} s). All that "
                "was answered is stored; run the same again to go on from there."
            )

    # --- Live ---------------------------------------------------------------------------------------------------

    async def _send_live(self, questions: Iterator[_Question | None]) -> None:
        client = self._client or await self._open()
        timer = None
        if self._deadline is not None:
            left = max(0.0, self._deadline - time.monotonic())
            timer = asyncio.get_running_loop().call_later(left, self._time_out, client)
        workers = [asyncio.create_task(self._work(client, questions)) for _ in range(self._places())]
        reporter = asyncio.create_task(self._report())
        reporter.add_done_callback(lambda task: None if task.cancelled() else client.stop())  # progress has raised
        try:
            with self._stopping_on_sigterm():
                await _finish(workers, client)
            if reporter.done():
                await reporter
        finally:
            reporter.cancel()
            if timer:
                timer.cancel()

    def _places(self) -> int:
        """Workers that can be busy at one time."""
        most = self._config.concurrency
        places = sum(one.concurrency or most for one in self._config.endpoints) or most
        return min(places, int(np.count_nonzero(self._roster.pending)))

    async def _open(self) -> Client:
        """The client; behind it the built-in server where no endpoint is configured."""
        client = Client(
            [self._lane(number, endpoint) for number, endpoint in self._endpoints()],
            ledger=self._ledger,
            max_attempts=self._config.max_attempts,
            timeout_s=self._config.timeout_s,
            on_presumed=self._journal.charge,
            on_hold=self._journal.hold,
            on_free=self._journal.free,
            on_event=self._events.write,
        )
        self._client, self.statistics = await client.__aenter__(), client.statistics
        assert self._runner is not None
        runner = self._runner
        self._stack.callback(lambda: runner.run(client.__aexit__(None, None, None)))
        return client

    def _endpoints(self) -> Iterator[tuple[int | None, Endpoint]]:
        if self._config.endpoints:
            for number in range(len(self._config.endpoints)):
                yield number, Endpoint.from_config(self._config, number, self._secrets)
        elif not self._config.is_built_in:
            yield None, Endpoint.from_config(self._config, None, self._secrets)
        else:
            from synthie.llm.local import LocalServer

            server = self._stack.enter_context(LocalServer(self._config.local, seed=0))
            yield None, Endpoint(server.base_url, self._config.model, api=self._config.api)

    def _lane(self, number: int | None, endpoint: Endpoint) -> Lane:
        config = self._config
        one = None if number is None else config.endpoints[number]
        limiter = Limiter(
            (one and one.concurrency) or config.concurrency,
            requests_per_minute=(one and one.requests_per_minute) or config.requests_per_minute,
            tokens_per_minute=(one and one.tokens_per_minute) or config.tokens_per_minute,
            gate=self._gate,
        )
        return Lane(endpoint, price=price_at(config, number), limiter=limiter, weight=one.weight if one else 1.0)

    async def _work(self, client: Client, questions: Iterator[_Question | None]) -> None:
        while question := await self._next(questions):
            try:
                completion = await client.complete(question.request)
            except RequestFailedError as error:
                self._fail(question.key, question.request.body, error)
                continue
            except StoppedError:
                return
            record = _record(question.key, completion)
            self._journal.append(record)
            self._journal.free(completion.hold)
            self._note_answer(record)

    async def _next(self, questions: Iterator[_Question | None]) -> _Question | None:
        """The next question, None after the last; one worker draws at a time, or all would pass over stored ones."""
        async with self._drawing:
            for question in questions:
                if question is not None:
                    return question
                await asyncio.sleep(0)
        return None

    async def _report(self) -> None:
        while True:
            self._tell()
            give_back()  # requests and answers of all sizes leave gaps: 6 MB after 100,000 of them
            await asyncio.sleep(_TELL_S)

    def _time_out(self, client: Client) -> None:
        self._timed_out = True
        client.stop()

    def _stopping_on_sigterm(self) -> AbstractContextManager[None]:
        """Make SIGTERM stop the asking in good order; what the host program does on it comes afterwards."""
        is_main = threading.current_thread() is threading.main_thread()
        return _Sigterm(self) if is_main and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN else nullcontext()

    def terminate(self) -> None:
        self._terminated = True

    # --- Batches ------------------------------------------------------------------------------------------------

    def _await_batches(self) -> None:
        """Where batches are under way and the rest is asked live: what they answer must not be paid twice."""
        from synthie.llm.batch import batches_under_way

        if self._config.mode == "batch" or self._config.is_built_in or not batches_under_way(self._folder / "batches"):
            return
        if len(self._config.endpoints) > 1:
            raise ConfigError(
                f"Batches that an earlier run made are under way (see {self._folder / 'batches'}), and with several "
                "generation.endpoints it is not known where. Name the one that has them in generation.base_url, and "
                "run again with generation.mode=batch to fetch them, or with --cancel-batches first."
            )
        self._events.write("waiting_for_batches", mend="--cancel-batches cancels them")
        self._send_batches(iter(()))

    def _send_batches(self, questions: Iterator[_Question | None]) -> None:
        from synthie.llm.batch import BatchLine, run_batches

        folder = self._folder / "batches"
        if self._batch_endpoint is None:
            [(_, self._batch_endpoint)] = self._endpoints()
        number = 0 if self._config.endpoints else None
        if self._config.is_built_in:  # its batches end with it
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        run_batches(
            (BatchLine(question.key, question.request) for question in questions if question),
            endpoint=self._batch_endpoint,
            price=price_at(self._config.model_copy(update={"mode": "batch"}), number),
            ledger=self._ledger,
            journal=self._journal,
            folder=folder,
            config=self._config.batch,
            max_attempts=self._config.max_attempts,
            on_failure=self._fail,
            on_answer=self._note_answer,
            on_event=self._events.write,
            on_progress=self._look_after_batches,
        )

    def _look_after_batches(self) -> None:
        self._tell()
        self._check_time()


class _Sigterm:
    """Cancels the current task on SIGTERM for the length of a ``with`` block."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._theirs = signal.getsignal(signal.SIGTERM)

    def __enter__(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self._cancel)

    def __exit__(self, *error: Any) -> None:
        self._loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._theirs)

    def _cancel(self) -> None:
        self._asking.terminate()
        if self._task:
            self._task.cancel()


async def _finish(workers: list[asyncio.Task[None]], client: Client) -> None:
    """Wait for all workers. After the first error, and after a cancellation, only calls in flight are awaited."""
    if not workers:
        return
    try:
        _, unfinished = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        if unfinished:
            client.stop()
            await asyncio.wait(workers)
    except asyncio.CancelledError:
        client.stop()
        log.warning("interrupted: waiting up to %g s for the calls in flight; all that is answered is stored", _GRACE_S)
        await asyncio.wait(workers, timeout=_GRACE_S)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        raise
    errors = [error for worker in workers if (error := worker.exception()) is not None]
    if errors:
        raise errors[0]


def _record(key: bytes, completion: Completion) -> Record:
    return Record(
        key=key,
        cost=completion.cost,
        text=completion.text,
        finish_reason=completion.finish_reason,
        model=completion.model,
        endpoint=completion.endpoint,
        input_tokens=completion.usage.input_tokens,
        cached_input_tokens=completion.usage.cached_input_tokens,
        output_tokens=completion.usage.output_tokens,
        latency_s=round(completion.latency_s, 6),
        attempts=completion.attempts,
        time=round(time.time(), 3),
    )
