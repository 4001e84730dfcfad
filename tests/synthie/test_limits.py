"""The limiter, mostly on a simulated clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthie.llm.limits import AdaptiveLimit, Limiter, TokenBucket


def simulate(capacity: int, maximum: int, calls: int) -> tuple[float, int]:
    """Drive a server that answers ``capacity`` calls at once in 1 s each and refuses all others in 0.05 s.

    Returns the share of the capacity used over the second half, and the refusals in it.
    """
    limit, order = AdaptiveLimit(maximum), itertools.count()
    running: list[tuple[float, int, int, bool]] = []
    now, served, refused, in_service = 0.0, 0, 0, 0
    marks: list[tuple[float, int, int]] = []
    while served < calls:
        while len(running) < limit.limit:
            accepted = in_service < capacity
            in_service += accepted
            heapq.heappush(running, (now + (1.0 if accepted else 0.05), next(order), limit.begin(), accepted))
        now, _, begun, accepted = running[0]
        if accepted:
            limit.succeeded(len(running))
            in_service, served = in_service - 1, served + 1
            if served == calls // 2:
                marks.append((now, served, refused))
        else:
            limit.refused(begun)
            refused += 1
        heapq.heappop(running)
    (then, before, refused_before) = marks[0]
    return (served - before) / ((now - then) * capacity), refused - refused_before


@pytest.mark.parametrize("capacity", [3, 20, 100, 400])
def test_the_limit_finds_the_capacity_within_ten_percent(capacity: int) -> None:
    used, refused = simulate(capacity, maximum=2_000, calls=200 * capacity)
    assert used > 0.9
    assert refused <= 100  # one in each of the 100 rounds at most


def test_the_limit_reaches_the_maximum_where_nothing_is_refused() -> None:
    limit = AdaptiveLimit(64)
    for _ in range(100):
        limit.succeeded(limit.limit)
    assert limit.limit == 64


def test_refusals_of_one_round_decrease_the_limit_once() -> None:
    limit = AdaptiveLimit(64)
    for _ in range(100):
        limit.succeeded(limit.limit)
    tickets = [limit.begin() for _ in range(64)]
    for ticket in tickets:
        limit.refused(ticket)
    assert limit.limit == 56


def test_successes_below_the_limit_do_not_raise_it() -> None:
    limit = AdaptiveLimit(64)
    for _ in range(100):
        limit.succeeded(1)
    assert limit.limit == 8


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 50))
def test_the_limit_stays_between_one_and_the_maximum(outcomes: list[bool], maximum: int) -> None:
    limit = AdaptiveLimit(maximum)
    for succeeded in outcomes:
        if succeeded:
            limit.succeeded(limit.limit)
        else:
            limit.refused(limit.begin())
        assert 1 <= limit.limit <= maximum


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 300)), min_size=1, max_size=60),
    st.integers(60, 6_000),
)
def test_a_bucket_lets_no_more_through_than_rate_times_time_and_one_second(
    takes: list[tuple[float, int]], per_minute: int
) -> None:
    now = 0.0
    bucket = TokenBucket(per_minute, clock=lambda: now)
    used: list[tuple[float, int]] = []
    for gap, units in takes:
        now += gap
        used.append((now + bucket.take(units), units))
    rate = per_minute / 60
    for i, (start, _) in enumerate(used):
        for end, _ in used[i:]:
            # What was granted after ``start`` up to ``end``; the grant at ``start`` itself may be the tail of a debt.
            granted = sum(units for at, units in used if start < at <= end)
            assert granted <= rate * (end - start) + max(1.0, rate) + 1e-6


def test_a_bucket_takes_back_what_was_not_used() -> None:
    bucket = TokenBucket(60, clock=lambda: 0.0)
    assert bucket.take(31) == 30
    bucket.give_back(30)
    assert bucket.take(1) == 1


def test_no_more_calls_are_in_flight_than_the_limit_allows() -> None:
    async def run() -> int:
        limiter, most = Limiter(5), 0

        async def call() -> None:
            nonlocal most
            ticket = await limiter.acquire()
            most = max(most, limiter.in_flight)
            await asyncio.sleep(0)
            limiter.release(ticket, succeeded=True)

        await asyncio.gather(*(call() for _ in range(100)))
        assert limiter.in_flight == 0
        return most

    assert asyncio.run(run()) == 5


def test_a_cancelled_waiter_passes_its_place_on() -> None:
    async def run() -> None:
        limiter = Limiter(1)
        ticket = await limiter.acquire()
        first, second = asyncio.create_task(limiter.acquire()), asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.release(ticket)
        first.cancel()
        await asyncio.wait_for(second, 5)

    asyncio.run(run())
