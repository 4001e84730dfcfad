"""The gate before every call: how many may be in flight, how fast they may start, and what others let through.

Nobody has to tell the limits of an endpoint: `CongestionControl` finds them, `Quota` keeps to those that the
configuration or the endpoint's headers tell, a `Gate` counts beyond this process. `Limiter` puts all of them before
every call in asyncio.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from synthie.llm.congestion import CongestionControl, Outcome, Quota, Ticket

__all__ = ["Gate", "Limiter", "Outcome", "RateLimits", "StoppedError", "Ticket"]

Gate = Callable[[int], Awaitable[None]]
"""Waits until that many more requests may start, counted beyond this process."""

_SHORTEST_ALARM_S = 1e-4
_BLOCK_S = 1.0  # how long a block of permits should last


class StoppedError(Exception):
    """The run was told to stop before this request was answered."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What the x-ratelimit-* headers of a response tell; None where they do not.

    Attributes:
        requests_per_minute, tokens_per_minute: the limits.
        remaining_requests, remaining_tokens: what is left of them now.
        reset_requests_s, reset_tokens_s: seconds until all of it is there again.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests_s: float | None = None
    reset_tokens_s: float | None = None


class Limiter:
    """The gate before every try: `acquire`, make the call, `release`.

    Args:
        maximum: most calls in flight.
        requests_per_minute, tokens_per_minute: hard limits; None for what the endpoint tells or enforces.
        gate: a further limit, shared with other processes. It is asked for a block of requests at a time, as
            many as start in about a second.
        clock: seconds on a monotonic clock.
    """

    def __init__(
        self,
        maximum: int,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        gate: Gate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = clock()
        self._clock = clock
        self._congestion = CongestionControl(maximum)
        self._requests = Quota(requests_per_minute, now)
        self._tokens = Quota(tokens_per_minute, now)
        self._permits = None if gate is None else _Permits(gate, clock, self._advance, self._fail)
        self._waiting: deque[tuple[asyncio.Future[Ticket], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._is_stopped = False

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return self._congestion.limit

    @property
    def in_flight(self) -> int:
        """Calls between `acquire` and `release`."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Calls that wait in `acquire`."""
        return len(self._waiting)

    @property
    def rate(self) -> float | None:
        """Calls a second that are started at most; None if there is no such limit now."""
        rate = min(self._congestion.rate or math.inf, self._requests.rate(self._clock()))
        return None if rate == math.inf else rate

    async def acquire(self, tokens: int) -> Ticket:
        """Wait until a request of up to ``tokens`` tokens may start; returns what `release` wants.

        Raises:
            StoppedError: `stop` was called.
        """
        if self._is_stopped:
            raise StoppedError
        if not self._waiting and self._delay(tokens) <= 0.0:
            return self._begin(tokens)
        place: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        entry = (place, tokens)
        self._waiting.append(entry)
        self._advance()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.release(place.result(), outcome="other")  # granted to a caller that is gone
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._advance()
            raise

    def release(
        self, ticket: Ticket, *, outcome: Outcome, used_tokens: int = 0, retry_after: float | None = None
    ) -> None:
        """A call has ended: answered, refused for want of capacity (429), or in another way.

        Args:
            used_tokens: tokens that an answer used; what was taken beyond is given back.
            retry_after: seconds that a refusal asks to wait.
        """
        now = self._clock()
        self._in_flight -= 1
        self._congestion.end(ticket, now, outcome, retry_after)
        if ticket.tokens:
            self._tokens.take(now, used_tokens - ticket.tokens)
        self._advance()

    def learn(self, limits: RateLimits) -> None:
        """Obey limits that a response told."""
        now = self._clock()
        self._requests.learn(now, limits.requests_per_minute, limits.remaining_requests, limits.reset_requests_s)
        self._tokens.learn(now, limits.tokens_per_minute, limits.remaining_tokens, limits.reset_tokens_s)
        self._advance()

    def stop(self) -> None:
        """Start nothing any more: whoever waits, or comes to wait, gets `StoppedError`."""
        self._is_stopped = True
        if self._permits is not None:
            self._permits.stop()
        self._fail(StoppedError())

    def _delay(self, tokens: int) -> float:
        """Seconds until a request of ``tokens`` tokens may start; infinite if something has to happen first."""
        now = self._clock()
        delay = self._congestion.wait(now, self._in_flight)
        if delay == math.inf:
            return delay
        delay = max(delay, self._requests.wait(now, 1), self._tokens.wait(now, tokens))
        if delay <= 0.0 and self._permits is not None and not self._permits.ready():
            return math.inf
        return delay

    def _begin(self, tokens: int) -> Ticket:
        now = self._clock()
        self._in_flight += 1
        ticket = self._congestion.begin(now, self._in_flight)
        ticket.tokens = tokens
        self._requests.take(now, 1)
        self._tokens.take(now, tokens)
        if self._permits is not None:
            self._permits.use()
        return ticket

    def _advance(self) -> None:
        """Start whoever may start, in the order they came, and set the alarm for the next."""
        while self._waiting:
            place, tokens = self._waiting[0]
            if not place.done():
                delay = self._delay(tokens)
                if delay > 0.0:
                    self._call_in(delay)
                    return
                place.set_result(self._begin(tokens))
            self._waiting.popleft()

    def _call_in(self, delay: float) -> None:
        if delay == math.inf:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay:
                return  # it looks again in time
            self._timer.cancel()
        self._timer = loop.call_later(max(delay, _SHORTEST_ALARM_S), self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self._advance()

    def _fail(self, error: Exception) -> None:
        for place, _ in self._waiting:
            if not place.done():
                place.set_exception(error)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Permits:
    """Permits of a gate, fetched in blocks; those not used yet are kept."""

    def __init__(
        self, gate: Gate, clock: Callable[[], float], on_more: Callable[[], None], on_error: Callable[[Exception], None]
    ) -> None:
        self._gate = gate
        self._clock = clock
        self._on_more = on_more
        self._on_error = on_error
        self._left = 0
        self._block = 1
        self._asked_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        """Whether a permit is there; asks for more if not."""
        if self._left == 0:
            self._ask()
        return self._left > 0

    def use(self) -> None:
        """Use one permit; asks for more before the last is gone."""
        self._left -= 1
        if self._left < self._block / 4:
            self._ask()

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        if self._asking is not None:
            return
        lasted = max(self._clock() - self._asked_at, 1e-3)
        self._asked_at = self._clock()
        self._block = max(1, min(2 * self._block, round(self._block * _BLOCK_S / lasted)))
        self._asking = asyncio.get_running_loop().create_task(self._fetch(self._block))

    async def _fetch(self, n: int) -> None:
        try:
            await self._gate(n)
        except Exception as error:
            self._asking = None
            self._on_error(error)
        else:
            self._asking = None
            self._left += n
            self._on_more()
