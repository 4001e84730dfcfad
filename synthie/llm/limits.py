"""How many calls may be in flight, and how fast they may start.

`AdaptiveLimit` finds the endpoint's capacity without being told: it adds one
call per round of successes and multiplies by `DECREASE` when the endpoint
refuses (429), at most once per round, since all calls of a round meet the same
congestion. It begins by doubling each round until the first refusal.
`TokenBucket` spaces out starts to a rate per minute. Both are plain state
machines on a clock that is handed in, so a simulation can test them alone;
`Limiter` puts them together for asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["DECREASE", "AdaptiveLimit", "Limiter", "TokenBucket"]

# The saw-tooth between DECREASE × capacity and capacity averages (1 + DECREASE) / 2 = 0.94 of the capacity.
DECREASE = 0.88
_FIRST_LIMIT = 8.0


class AdaptiveLimit:
    """Additive increase, multiplicative decrease of the number of calls in flight.

    Args:
        maximum: never allow more than this.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = float(maximum)
        self._limit = min(_FIRST_LIMIT, self._maximum)
        self._doubling = True
        self._round = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, at least 1."""
        return int(self._limit)

    def begin(self) -> int:
        """A call starts; hand the result to `succeeded` or `refused` when it ends."""
        return self._round

    def succeeded(self, in_flight: int) -> None:
        """A call ended well while ``in_flight`` calls, itself included, were under way."""
        if in_flight + 1 < self._limit:
            return  # the limit was not in use, so this success says nothing about a higher one
        step = 1.0 if self._doubling else 1.0 / self._limit
        self._limit = min(self._limit + step, self._maximum)

    def refused(self, begun: int) -> None:
        """The endpoint refused a call that started in round ``begun`` for want of capacity."""
        if begun < self._round:
            return  # started before the last decrease: old news
        self._round += 1
        self._doubling = False
        self._limit = max(1.0, min(self._limit * DECREASE, self._limit - 1.0))


class TokenBucket:
    """A rate per minute with at most one second's worth of burst.

    Args:
        per_minute: units (requests or tokens) per minute.
        clock: seconds on a monotonic clock.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60.0
        self._burst = max(1.0, self._rate)
        self._level = self._burst
        self._clock = clock
        self._at = clock()

    def take(self, units: float = 1.0) -> float:
        """Take ``units`` now and return the seconds to wait before using them.

        The level may go below zero, so a request above the burst is delayed, never refused.
        """
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        self._level -= units
        return max(0.0, -self._level / self._rate)

    def give_back(self, units: float) -> None:
        """Return units that were taken but not used."""
        self._level = min(self._burst, self._level + units)


class Limiter:
    """The gate before every try: `acquire`, make the call, `release`.

    Args:
        maximum: most calls in flight.
        requests_per_minute, tokens_per_minute: further limits; None for none.
    """

    def __init__(
        self, maximum: int, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self._adaptive = AdaptiveLimit(maximum)
        self._requests = TokenBucket(requests_per_minute) if requests_per_minute else None
        self._tokens = TokenBucket(tokens_per_minute) if tokens_per_minute else None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._in_flight = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return self._adaptive.limit

    @property
    def in_flight(self) -> int:
        """Calls between `acquire` and `release`."""
        return self._in_flight

    async def acquire(self) -> int:
        """Wait for a free place; returns the ticket that `release` wants."""
        while self._in_flight >= self._adaptive.limit:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._wake()  # the place was given to a caller that is gone: pass it on
                raise
        self._in_flight += 1
        return self._adaptive.begin()

    def delay(self, tokens: int) -> float:
        """Book one request of ``tokens`` tokens; returns the seconds until it may be sent."""
        seconds = self._requests.take() if self._requests else 0.0
        return max(seconds, self._tokens.take(tokens)) if self._tokens else seconds

    def release(self, ticket: int, *, succeeded: bool = False, refused: bool = False, unused_tokens: int = 0) -> None:
        """A call has ended: well, refused for want of capacity (429), or in another way that says nothing."""
        if succeeded:
            self._adaptive.succeeded(self._in_flight)
        elif refused:
            self._adaptive.refused(ticket)
        if self._tokens and unused_tokens > 0:
            self._tokens.give_back(unused_tokens)
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        free = self._adaptive.limit - self._in_flight
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1
