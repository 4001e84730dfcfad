"""A client of OpenAI's protocols that is hard to stop and cheap to run, for one endpoint or many.

`Client.complete` sends one request body, as often as it takes: the least loaded
lane, a turn from its limiter, a reservation from the ledger, the call, the
settlement. What comes of a try is one of four things:

* a completion;
* try again: 429 (as often as the endpoint likes), 408, 409, 5xx, timeouts and
  broken connections (``max_attempts`` times), not before Retry-After, else
  after a random exponential pause, or at once at another endpoint;
* this request fails for good (`RequestFailedError`): 400, 413, 422, the content
  filter, a text that is too long;
* all requests would fail (`EndpointError` and its kin): wrong key, unknown
  model, no credit left, nobody at any endpoint. The caller should stop the run.

An endpoint that nobody answers at is set aside and probed at growing intervals
while the others do its work; connections that cannot be made cost no request a try.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from synthie.errors import EndpointError
from synthie.llm.lane import Lane, Reply, Request, SetAsideError, Trouble
from synthie.llm.limits import StoppedError
from synthie.llm.pricing import PICODOLLARS, Ledger, Usage, budget_error
from synthie.llm.refusals import HOPELESS, hopeless_error

__all__ = [
    "Client",
    "ClientStatistics",
    "Completion",
    "Request",
    "RequestFailedError",
    "StoppedError",
]

log = logging.getLogger(__name__)

_FIRST_TRIES = 4  # to connect where nothing has ever answered
_LONGEST_PAUSE_S = 30.0
_SPREAD = 0.2  # of Retry-After: those who were told the same do not all come back at the same moment
_NOTABLE_WAIT_S = 60.0


class RequestFailedError(Exception):
    """This request will not succeed; others may.

    Attributes:
        status: HTTP status of the last try, or None if there was no response.
        attempts: tries made.
        permanent: the endpoint refused the request itself; False if tries ran out.
    """

    def __init__(self, reason: str, status: int | None, attempts: int, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.attempts = attempts
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Completion:
    """A successful answer.

    Attributes:
        text: the text, exactly as it came; empty if the model answered with nothing.
        finish_reason: as chat completions name it.
        model: the model that the endpoint says it used.
        usage: tokens as billed; the request's bounds where the endpoint does not say.
        cost: picodollars.
        latency_s: seconds of the successful try.
        attempts: tries made, refusals included.
        endpoint: base URL of the endpoint that answered.
        hold: what ``on_hold`` returned for the try; the caller frees it once the answer is stored.
    """

    text: str
    finish_reason: str | None
    model: str
    usage: Usage
    cost: int
    latency_s: float
    attempts: int
    endpoint: str = ""
    hold: int = 0


@dataclass(slots=True)
class ClientStatistics:
    """What a client has done: tries sent, completions, tries to be repeated by class, completions by base URL."""

    requests: int = 0
    completions: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    by_endpoint: Counter[str] = field(default_factory=Counter)


class Client:
    """Sends requests to one or several endpoints. Use as an asynchronous context manager.

    Args:
        lanes: the endpoints, each with its price and limiter.
        ledger: the budget.
        max_attempts: tries of one request, refusals (429) and connections that cannot be made not counted; and
            looks at an endpoint that nobody answers at, before it is given up.
        timeout_s: seconds until a try is given up.
        backoff_s: upper end of the first random pause; doubles with each try.
        on_presumed: told the picodollars of a try whose bill is not known (it timed out or broke
            off after the request was sent); they are counted at the worst case.
        on_hold: told the picodollars that a try can cost at most, before it is sent; what it returns is handed to
            on_free when the try has ended without an answer, or to the caller with the completion.
        on_free: see on_hold.
        on_event: told what is worth a line in a log: ``lane_down`` (endpoint, reason), ``lane_up`` (endpoint, down_s),
            ``slow_down`` (endpoint, limit) for the first refusal there, ``long_wait`` (endpoint, seconds).
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        ledger: Ledger,
        max_attempts: int = 8,
        timeout_s: float = 120.0,
        backoff_s: float = 0.5,
        on_presumed: Callable[[int, str], None] = lambda cost, reason: None,
        on_hold: Callable[[int], int] = lambda cost: 0,
        on_free: Callable[[int], None] = lambda hold: None,
        on_event: Callable[..., None] = lambda kind, **details: None,
    ) -> None:
        self.statistics = ClientStatistics()
        self._lanes = list(lanes)
        self._ledger = ledger
        self._max_attempts = max_attempts
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._on_presumed = on_presumed
        self._on_hold = on_hold
        self._on_free = on_free
        self._on_event = on_event
        self._by_model: dict[str, list[Lane]] = {}
        self._random = random.Random()
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        self._probed = asyncio.Event()
        self._probes: dict[Lane, asyncio.Task[None]] = {}
        self._down_since: dict[Lane, float] = {}
        self._slowed: set[Lane] = set()
        self._waits_until: dict[Lane, float] = {}
        self._failures_in_a_row = 0

    async def __aenter__(self) -> Client:
        for lane in self._lanes:
            await lane.open(self._timeout_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return sum(lane.limiter.in_flight for lane in self._lanes)

    @property
    def limit(self) -> int:
        """Calls that may be under way now."""
        return sum(lane.limiter.limit for lane in self._lanes)

    def stop(self) -> None:
        """Send nothing any more. Calls in flight go on; requests that wait raise `StoppedError`."""
        self._stop.set()
        for lane in self._lanes:
            lane.limiter.stop()
        self._settled.set()
        self._probed.set()

    async def complete(self, request: Request) -> Completion:
        """Send ``request`` until it is answered.

        Raises:
            RequestFailedError: this request failed for good.
            EndpointError: no request can succeed: `AuthenticationError`, `ModelNotFoundError`, `QuotaError`, or
                the endpoints cannot be reached or refuse everything.
            BudgetError: the try could exceed the budget.
            StoppedError: `stop` was called.
        """
        lanes = self._lanes_of(request.model)
        attempts = failures = refusals = 0
        lane: Lane | None = None
        while True:
            lane = await self._choose(lanes, lane)
            try:
                outcome, hold = await self._try(lane, request)
            except SetAsideError:
                continue
            finally:
                self._note_health(lane, lanes)
            attempts += 1
            if isinstance(outcome, Reply):
                return self._completion(outcome, lane, attempts, hold)
            if outcome.kind == "refused":
                self._fail(lane, outcome, outcome.reason, attempts)
            self.statistics.retries[outcome.kind] += 1
            if outcome.is_unreachable:
                continue
            if outcome.status == 429:
                refusals += 1
                self._note_refusal(lane, outcome)
                pause = self._pause(outcome.retry_after, refusals)
            else:
                failures += 1
                if failures >= self._max_attempts:
                    reason = f"{failures} tries failed, the last with {outcome.reason}"
                    self._fail(lane, outcome, reason, attempts)
                is_elsewhere = failures == 1 and outcome.retry_after is None and _others(lanes, lane)
                pause = 0.0 if is_elsewhere else self._pause(outcome.retry_after, failures)
            await self._sleep(pause)

    # --- Lanes ---

    def _lanes_of(self, model: str) -> list[Lane]:
        lanes = self._by_model.get(model)
        if lanes is None:
            lanes = [lane for lane in self._lanes if lane.endpoint.model in ("", model) or not model]
            if not lanes:
                raise ValueError(f"no endpoint has the model {model!r}")
            self._by_model[model] = lanes
        return lanes

    async def _choose(self, lanes: list[Lane], last: Lane | None) -> Lane:
        """The least loaded lane that answers, preferably another than ``last``, where the request just failed."""
        if len(lanes) == 1 and not lanes[0].health.is_unreachable:
            return lanes[0]
        while not self._stop.is_set():
            reachable = [lane for lane in lanes if not lane.health.is_unreachable]
            if reachable:
                return min(reachable, key=lambda lane: (_rank(lane), lane is last, *lane.load))
            if all(lane.health.setbacks >= self._patience(lane) for lane in lanes):
                raise _nobody(lanes)
            await self._probed.wait()
        raise StoppedError

    def _patience(self, lane: Lane) -> int:
        """Probes of an unreachable lane after which it is given up."""
        return (self._max_attempts if lane.health.was_reached else min(_FIRST_TRIES, self._max_attempts)) - 1

    def _note_health(self, lane: Lane, lanes: list[Lane]) -> None:
        """Do what follows from a change of the lane's health."""
        health = lane.health
        if health.is_aside and lane not in self._down_since:
            self._down_since[lane] = time.monotonic()
            self._on_event("lane_down", endpoint=lane.endpoint.base_url, reason=health.reason)
        elif lane in self._down_since and not health.is_doubtful:
            down_s = round(time.monotonic() - self._down_since.pop(lane), 3)
            self._on_event("lane_up", endpoint=lane.endpoint.base_url, down_s=down_s)
        if health.is_aside and lane not in self._probes and (health.is_unreachable or len(lanes) > 1):
            self._probes[lane] = asyncio.create_task(self._probe(lane))
            lane.drive_away()

    async def _probe(self, lane: Lane) -> None:
        """Look at a lane at growing intervals until it answers."""
        health = lane.health
        while health.is_aside:
            await asyncio.sleep(self._random.uniform(0.5, 1.0) * self._longest_pause(health.setbacks))
            health.probed(await lane.is_answering())
            self._probed.set()
            self._probed = asyncio.Event()
        del self._probes[lane]

    # --- One try ---

    async def _try(self, lane: Lane, request: Request) -> tuple[Reply | Trouble, int]:
        tokens = request.input_bound // 4 + request.output_bound  # a token is about four bytes
        ticket = await lane.acquire(tokens)
        outcome: Reply | Trouble | None = None
        try:
            worst = lane.price.worst_cost(request.input_bound, request.output_bound)
            await self._reserve(worst)
            outcome, hold = await self._call(lane, request, worst)
            return outcome, hold
        finally:
            if isinstance(outcome, Reply):
                used = outcome.usage.input_tokens + outcome.usage.output_tokens
                lane.limiter.release(ticket, outcome="answered", used_tokens=used)
            elif outcome is not None and outcome.status == 429:
                lane.limiter.release(ticket, outcome="refused", retry_after=outcome.retry_after)
            else:
                lane.limiter.release(ticket, outcome="other")

    async def _reserve(self, worst: int) -> None:
        """Set ``worst`` picodollars aside, waiting for calls in flight to give back what they do not use."""
        while not self._stop.is_set():
            if self._ledger.reserve(worst):
                return
            if not self._ledger.reserved:
                raise budget_error(self._ledger, worst)
            await self._settled.wait()
        raise StoppedError

    async def _call(self, lane: Lane, request: Request, worst: int) -> tuple[Reply | Trouble, int]:
        """Make one try under a reservation of ``worst`` picodollars and settle it; returns the hold of a reply too."""
        self.statistics.requests += 1
        hold = self._on_hold(worst)
        outcome: Reply | Trouble | None = None
        cost, presumed = 0, ""
        try:
            outcome = await lane.post(request)
            if isinstance(outcome, Reply):
                cost = outcome.cost
                if cost > worst:
                    log.warning(
                        "A call cost %.6f USD although %.6f USD was the most expected: the endpoint counts tokens "
                        "that the request does not show. Lower max_usd if the budget must hold exactly.",
                        cost / PICODOLLARS,
                        worst / PICODOLLARS,
                    )
            elif outcome.may_be_billed:
                cost, presumed = worst, outcome.reason
            return outcome, hold
        except asyncio.CancelledError:
            cost, presumed = worst, "cancelled while in flight"
            raise
        finally:
            self._ledger.settle(worst, cost)
            self._settled.set()
            self._settled = asyncio.Event()
            if presumed and cost:
                self._on_presumed(cost, presumed)
            if not isinstance(outcome, Reply):
                self._on_free(hold)

    # --- After a try ---

    def _completion(self, reply: Reply, lane: Lane, attempts: int, hold: int) -> Completion:
        self._failures_in_a_row = 0
        self.statistics.completions += 1
        self.statistics.by_endpoint[lane.endpoint.base_url] += 1
        answer = reply.answer
        return Completion(
            answer.text,
            answer.finish_reason,
            answer.model,
            reply.usage,
            reply.cost,
            reply.latency_s,
            attempts,
            lane.endpoint.base_url,
            hold,
        )

    def _fail(self, lane: Lane, trouble: Trouble, reason: str, attempts: int) -> None:
        self._failures_in_a_row += not trouble.is_its_own
        if self._failures_in_a_row >= HOPELESS:
            raise hopeless_error(lane.endpoint.url, reason)
        raise RequestFailedError(reason, trouble.status, attempts, permanent=trouble.kind == "refused")

    def _note_refusal(self, lane: Lane, trouble: Trouble) -> None:
        if lane not in self._slowed:
            self._slowed.add(lane)
            self._on_event("slow_down", endpoint=lane.endpoint.base_url, limit=lane.limiter.limit)
        seconds, now = trouble.retry_after or 0.0, time.monotonic()
        if seconds > _NOTABLE_WAIT_S and now + seconds > self._waits_until.get(lane, 0.0) + _NOTABLE_WAIT_S:
            self._waits_until[lane] = now + seconds
            self._on_event("long_wait", endpoint=lane.endpoint.base_url, seconds=round(seconds, 3))

    def _pause(self, retry_after: float | None, tries: int) -> float:
        """Seconds until the next try: never before Retry-After, and not all at the same moment."""
        if retry_after is None:
            return self._random.uniform(0.0, self._longest_pause(tries - 1))
        return retry_after * self._random.uniform(1.0, 1.0 + _SPREAD)

    def _longest_pause(self, doublings: int) -> float:
        return min(_LONGEST_PAUSE_S, self._backoff_s * 2.0 ** min(doublings, 16))

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0.0 and not self._stop.is_set():
            return
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise StoppedError


def _rank(lane: Lane) -> int:
    """0 for a lane that answers, 1 for one that is set aside or busy with its trial."""
    health = lane.health
    return int(health.is_aside or (health.is_on_trial and lane.limiter.in_flight + lane.limiter.waiting > 0))


def _others(lanes: Iterable[Lane], lane: Lane) -> bool:
    """Whether another lane answers."""
    return any(other is not lane and not other.health.is_doubtful for other in lanes)


def _nobody(lanes: Sequence[Lane]) -> EndpointError:
    told = ", nor at ".join(f"{lane.endpoint.url} ({lane.health.reason})" for lane in lanes)
    where = "generation.base_url" if len(lanes) == 1 else "the URLs in generation.endpoints"
    return EndpointError(
        f"Nobody answers at {told}. Start the server there or correct {where}, then run the same command again; "
        "what is stored is not asked for again."
    )
