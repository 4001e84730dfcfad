"""The limiter before simulated endpoints, on a simulated clock: an event loop that never sleeps."""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.llm.congestion import CongestionControl, Quota
from synthie.llm.limits import Gate, Limiter, Outcome, RateLimits, StoppedError

T = TypeVar("T")


class _NoSleep(selectors.DefaultSelector):
    """Lets time pass on a loop's clock instead of waiting."""

    now = 1_000.0
    stalls: random.Random | None = None  # lets the loop stand still for 50 to 100 ms about once a second
    next_stall = now + 1.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everybody waits for ever")
        self.now += max(timeout, 0.0)
        if self.stalls is not None and self.now >= self.next_stall:
            self.now += self.stalls.uniform(0.05, 0.1)
            self.next_stall = self.now + self.stalls.expovariate(1.0)
        return super().select(0)


def simulate(main: Callable[[Callable[[], float]], Coroutine[Any, Any, T]], *, stalls: bool = False) -> T:
    """Run ``main``, given the clock, in an event loop whose clock jumps to the next event."""
    selector = _NoSleep()
    selector.stalls = random.Random(2) if stalls else None
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(main(loop.time))
    finally:
        loop.close()


@dataclass
class Endpoint:
    """A server that refuses what is too much; a request takes about 5 ms to get there.

    Attributes:
        rate: calls a second that it accepts at a number of seconds since its start, with a burst of 50 ms.
        slots: calls that it accepts at a time; with ``queues``, more wait for a slot instead.
        latency_s: mean of an answer, spread evenly over half to one and a half of it.
        tokens_per_second: with a burst of 2 s.
        window: calls that it accepts in each so many seconds.
        random_429: share of calls refused for no reason.
        random_wait_s: what these are told to wait.
        arrival_s: mean time that a request takes to get there, spread evenly over half to one and a half of it.
        refusal_s: mean time that a refusal takes to come back, spread likewise.
        tells: whether refusals have a Retry-After.
    """

    rate: Callable[[float], float] = lambda seconds: math.inf
    slots: float = math.inf
    queues: bool = False
    latency_s: float = 0.2
    tokens_per_second: float = math.inf
    window: tuple[int, float] | None = None
    random_429: float = 0.0
    random_wait_s: float = 1.0
    arrival_s: float = 0.005
    refusal_s: float = 0.0
    tells: bool = True
    seed: int = 0
    answered: int = 0
    refused: int = 0
    starts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._began: float | None = None
        self._busy = 0
        self._levels: dict[str, float] = {"requests": math.inf, "tokens": math.inf}
        self._filled: dict[str, float] = {}
        self._free = [0.0] * int(self.slots) if self.queues else []
        self._used_in: dict[int, int] = {}

    async def answer(self, tokens: int) -> float | None:
        """Whether and when to come again: None for an answer, seconds after a refusal."""
        clock = asyncio.get_running_loop().time
        self._began = clock() if self._began is None else self._began
        self.starts.append(clock() - self._began)
        await asyncio.sleep(self._random.uniform(0.5, 1.5) * self.arrival_s)
        wait = self._refusal(clock() - self._began, tokens)
        if wait is not None:
            self.refused += 1
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self.refusal_s)
            return wait
        seconds = self.latency_s * self._random.uniform(0.5, 1.5)
        if self.queues:
            slot = min(range(len(self._free)), key=self._free.__getitem__)
            self._free[slot] = max(self._free[slot], clock()) + seconds
            seconds = self._free[slot] - clock()
        self._busy += 1
        await asyncio.sleep(seconds)
        self._busy -= 1
        await asyncio.sleep(self._random.uniform(0.25, 0.75) * self.arrival_s)
        self.answered += 1
        return None

    def _refusal(self, seconds: float, tokens: int) -> float | None:
        rate = self.rate(seconds)
        requests = self._fill("requests", seconds, rate, max(1.0, 0.05 * rate))
        paid = self._fill("tokens", seconds, self.tokens_per_second, 2 * self.tokens_per_second)
        limit, window_s = self.window or (math.inf, 1.0)
        window = int(seconds / window_s)
        if requests < 1:
            return (1 - requests) / rate
        if paid < tokens:
            return (tokens - paid) / self.tokens_per_second
        if self._used_in.get(window, 0) >= limit:
            return (window + 1) * window_s - seconds
        if (self._busy >= self.slots and not self.queues) or self._random.random() < self.random_429:
            return self.random_wait_s
        self._levels["requests"] -= 1
        self._levels["tokens"] -= tokens
        self._used_in[window] = self._used_in.get(window, 0) + 1
        return None

    def _fill(self, name: str, seconds: float, rate: float, burst: float) -> float:
        if rate < math.inf:
            level = self._levels[name] + (seconds - self._filled.get(name, 0.0)) * rate
            self._levels[name], self._filled[name] = min(burst, level), seconds
        return self._levels[name]


def ask(endpoint: Endpoint, rows: int, concurrency: int, *, stalls: bool = False, **limits: Any) -> float:
    """Ask for ``rows`` answers as a client does that repeats what is refused; returns the seconds."""
    draw = random.Random(1)

    async def main(clock: Callable[[], float]) -> float:
        limiter = Limiter(concurrency, clock=clock, **limits)
        numbers = iter(range(rows))
        began = clock()

        async def work() -> None:
            for _ in numbers:
                tokens, tries, wait = draw.randint(100, 500), 0, 0.0
                while True:
                    ticket = await limiter.acquire(tokens)
                    assert limiter.in_flight <= concurrency
                    wait = await endpoint.answer(tokens)
                    told = wait if endpoint.tells else None
                    outcome: Outcome = "answered" if wait is None else "refused"
                    limiter.release(ticket, outcome=outcome, used_tokens=tokens, retry_after=told)
                    if wait is None:
                        break
                    tries += 1
                    pause = draw.uniform(0, min(30.0, 0.25 * 2**tries))
                    await asyncio.sleep(pause if told is None else told + min(pause, max(0.25, told)))

        await asyncio.gather(*(work() for _ in range(concurrency)))
        assert limiter.in_flight == limiter.waiting == 0
        return clock() - began

    seconds = simulate(main, stalls=stalls)
    assert endpoint.answered == rows
    return seconds


def changing(seconds: float) -> float:
    return 40 if seconds < 10 else 10 if seconds < 30 else 80


# --- Limits that nobody tells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("concurrency", [64, 200])
@pytest.mark.parametrize("latency_s", [0.02, 0.2, 1.0])
def test_a_rate_that_nobody_told_is_found_with_few_refusals(latency_s: float, concurrency: int, tells: bool) -> None:
    endpoint = Endpoint(rate=lambda _: 40, latency_s=latency_s, tells=tells)
    assert ask(endpoint, 1_500, concurrency) <= 1.25 * 1_500 / 40
    assert endpoint.refused <= 0.1 * 1_500


@pytest.mark.parametrize("concurrency", [64, 200])
@pytest.mark.parametrize(
    ("endpoint", "stalls"),
    [
        pytest.param({"arrival_s": 0.025, "refusal_s": 0.025}, False, id="25 to 75 ms, half of it on the way"),
        pytest.param({"arrival_s": 0.05}, False, id="25 to 75 ms, all on the way"),
        pytest.param({"arrival_s": 0.05, "refusal_s": 0.05}, False, id="50 to 150 ms"),
        pytest.param({"refusal_s": 0.5}, False, id="slow refusals"),
        pytest.param({}, True, id="a machine that stalls"),
    ],
)
def test_a_rate_is_found_where_times_vary(endpoint: dict[str, Any], stalls: bool, concurrency: int) -> None:
    server = Endpoint(rate=lambda _: 40, **endpoint)
    assert ask(server, 1_500, concurrency, stalls=stalls) <= 1.35 * 1_500 / 40
    assert server.refused <= 0.25 * 1_500


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("endpoint", "rows", "ideal_s", "wasted"),
    [
        pytest.param({"rate": lambda _: 300}, 6_000, 20, 0.1, id="300 a second"),
        pytest.param({"rate": lambda _: 2}, 300, 150, 0.25, id="2 a second"),
        pytest.param({"rate": lambda _: 2, "latency_s": 2}, 300, 150, 0.25, id="2 a second, slow"),
        pytest.param({"rate": changing, "latency_s": 0.02}, 1_500, 41.25, 0.1, id="40, 10, 80 a second"),
        pytest.param({"rate": changing, "latency_s": 1.0}, 1_500, 41.25, 0.1, id="40, 10, 80 a second, slow"),
        pytest.param({"slots": 32, "latency_s": 1.0}, 1_500, 47, 0.25, id="32 slots"),
        pytest.param({"slots": 32, "latency_s": 20.0}, 900, 562, 0.35, id="32 slots, slow"),
        pytest.param({"slots": 4, "latency_s": 1.0}, 400, 100, 0.2, id="4 slots"),
        pytest.param({"tokens_per_second": 10_000}, 1_500, 45, 0.35, id="600,000 tokens a minute"),
        pytest.param({"window": (600, 30.0)}, 3_000, 120, 0.2, id="600 in each 30 s"),
    ],
)
def test_limits_of_every_kind_are_found(
    endpoint: dict[str, Any], rows: int, ideal_s: float, wasted: float, tells: bool
) -> None:
    server = Endpoint(tells=tells, **endpoint)
    assert ask(server, rows, 200) <= 1.5 * ideal_s
    assert server.refused <= wasted * rows


@pytest.mark.parametrize(("latency_s", "most_s"), [(0.005, 0.18), (20.0, 122.0)])
def test_an_endpoint_without_limits_is_not_slowed_down(latency_s: float, most_s: float) -> None:
    rows, concurrency = (5_000, 200) if latency_s < 1 else (1_000, 200)
    endpoint = Endpoint(latency_s=latency_s, arrival_s=0.0)
    assert ask(endpoint, rows, concurrency) <= most_s
    assert endpoint.refused == 0


def test_an_endpoint_that_only_gets_slower_is_kept_busy() -> None:
    assert ask(Endpoint(slots=32, queues=True, latency_s=1.0), 1_500, 200) <= 1.1 * 1_500 / 32


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_refusals_that_have_nothing_to_do_with_the_load_do_not_slow_it_down(share: float, tells: bool) -> None:
    stormy = Endpoint(latency_s=0.05, random_429=share, tells=tells)
    pauses_s = 3_000 * share / (1 - share) * 1.5 / 64  # in which a row waits and its worker with it
    calls_s = 3_000 * (0.0575 + 0.005 * share / (1 - share)) / 64
    learning_s = 20.0
    ask(stormy, 3_000, 64)
    nearly_all = stormy.starts[int(0.95 * len(stormy.starts))]  # without the last rows' own long pauses
    assert nearly_all <= (calls_s + pauses_s) / 0.7 + learning_s


def test_an_endpoint_that_refuses_every_second_call_is_not_asked_ever_more_slowly() -> None:
    stormy = Endpoint(latency_s=0.001, random_429=0.5, random_wait_s=0.001)
    assert ask(stormy, 120, 64) <= 30


def test_an_outage_ends_when_the_endpoint_answers_again() -> None:
    endpoint = Endpoint(rate=lambda seconds: 1e-9 if 5 < seconds < 65 else 40, latency_s=0.2, tells=False)
    assert ask(endpoint, 1_500, 64) <= 60 + 1.25 * 1_500 / 40 + 30
    assert endpoint.refused <= 0.4 * 1_500


def test_starts_are_paced_evenly_once_the_rate_is_known() -> None:
    endpoint = Endpoint(rate=lambda _: 40)
    ask(endpoint, 1_500, 64)
    per_tenth = [0] * 500
    for start in endpoint.starts:
        per_tenth[min(int(start * 10), 499)] += 1
    assert max(per_tenth[50:]) <= 3 * 4


# --- Limits that are known ------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 300)), min_size=1, max_size=60),
    st.integers(60, 6_000),
)
def test_a_quota_lets_no_more_through_than_rate_times_time_and_one_second(
    takes: list[tuple[float, int]], per_minute: int
) -> None:
    now, quota, used = 0.0, Quota(per_minute, 0.0), []
    for gap, units in takes:
        now += gap
        now += quota.wait(now, units)
        assert quota.wait(now, units) < 1e-6
        quota.take(now, units)
        used.append((now, units))
    rate = per_minute / 60
    for i, (start, _) in enumerate(used):
        for j, (end, _) in enumerate(used[i:], i):
            granted = [units for _, units in used[i : j + 1]]
            assert sum(granted) <= rate * (end - start) + max(1.0, rate, granted[-1]) + 1e-6


def test_a_quota_takes_back_what_was_not_used() -> None:
    quota = Quota(60, 0.0)
    quota.take(0.0, 31)
    assert quota.wait(0.0, 1) == 31
    quota.take(0.0, -30)
    assert quota.wait(0.0, 1) == 1


@pytest.mark.parametrize("limits", [{"requests_per_minute": 600}, {"tokens_per_minute": 180_000}])
def test_a_configured_limit_is_used_but_never_exceeded(limits: dict[str, int]) -> None:
    endpoint = Endpoint(latency_s=0.5)
    seconds = ask(endpoint, 300, 64, **limits)  # type: ignore[arg-type]
    assert 28 <= seconds <= 32
    if "requests_per_minute" in limits:
        assert max(sum(a <= start < a + 1 for start in endpoint.starts) for a in endpoint.starts) <= 21


def test_a_limit_that_a_response_tells_is_obeyed_and_the_configured_one_stays() -> None:
    quota = Quota(600, 0.0)
    quota.learn(0.0, 60, None, None)
    assert quota.rate(0.0) == 1
    quota.learn(0.0, 6_000, None, None)
    assert quota.rate(0.0) == 10


def test_what_is_left_of_a_window_is_spread_over_it() -> None:
    quota = Quota(None, 0.0)
    quota.learn(0.0, 600, 50, 20.0)
    assert quota.rate(19.0) == 2.5
    assert quota.rate(20.0) == 10


def test_an_empty_bucket_that_fills_evenly_stops_nobody() -> None:
    quota = Quota(None, 0.0)
    quota.learn(0.0, 600, 0, 60.0)
    assert quota.rate(0.0) == 10


def test_the_rate_shown_is_the_least_of_all() -> None:
    limiter = Limiter(8, requests_per_minute=120)
    assert limiter.rate == 2
    limiter.learn(RateLimits(requests_per_minute=60))
    assert limiter.rate == 1
    assert Limiter(8).rate is None


# --- What always holds ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["start", "answered", "refused", "other"]), st.floats(0, 2)), max_size=300),
    st.integers(1, 50),
)
def test_the_limit_stays_between_one_and_the_maximum(events: list[tuple[str, float]], maximum: int) -> None:
    control, now, running = CongestionControl(maximum), 0.0, []
    for event, seconds in events:
        now += seconds
        if event == "start":
            if control.wait(now, len(running)) <= 0:
                assert len(running) < control.limit
                running.append(control.begin(now, len(running) + 1))
        elif running:
            outcome: Any = event
            control.end(running.pop(0), now, outcome, None)
        assert 1 <= control.limit <= maximum
        assert control.rate is None or 0 < control.rate < math.inf


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=40), st.integers(1, 8))
def test_every_place_comes_back_whoever_is_cancelled(calls: list[tuple[float, bool]], maximum: int) -> None:
    async def main(clock: Callable[[], float]) -> None:
        limiter = Limiter(maximum, clock=clock)
        order: list[int] = []

        async def call(number: int) -> None:
            ticket = await limiter.acquire(1)
            order.append(number)
            assert limiter.in_flight <= limiter.limit <= maximum
            try:
                await asyncio.sleep(1)
            finally:
                limiter.release(ticket, outcome="answered")

        tasks = [asyncio.create_task(call(number)) for number in range(len(calls))]
        for task, (seconds, is_cancelled) in zip(tasks, calls, strict=True):
            if is_cancelled:
                asyncio.get_running_loop().call_later(seconds, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == limiter.waiting == 0
        assert order == sorted(order)
        kept = {number for number, (_, is_cancelled) in enumerate(calls) if not is_cancelled}
        assert kept <= set(order)

    simulate(main)


def test_a_place_granted_to_a_caller_that_is_gone_is_passed_on() -> None:
    async def main(clock: Callable[[], float]) -> None:
        limiter = Limiter(1, clock=clock)
        ticket = await limiter.acquire(0)
        first, second = asyncio.create_task(limiter.acquire(0)), asyncio.create_task(limiter.acquire(0))
        await asyncio.sleep(0)
        limiter.release(ticket, outcome="other")
        first.cancel()
        await asyncio.wait_for(second, 5)
        assert limiter.in_flight == 1

    simulate(main)


@pytest.mark.parametrize("why", ["full", "rate", "gate"])
def test_stopping_wakes_everybody(why: Literal["full", "rate", "gate"]) -> None:
    async def closed(n: int) -> None:
        await asyncio.Event().wait()

    async def main(clock: Callable[[], float]) -> None:
        limiter = Limiter(
            1 if why == "full" else 10,
            requests_per_minute=1 if why == "rate" else None,
            gate=closed if why == "gate" else None,
            clock=clock,
        )
        waiting = [asyncio.create_task(limiter.acquire(0)) for _ in range(5)]
        await asyncio.sleep(0.1)
        limiter.stop()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(result, StoppedError) for result in results) == (5 if why == "gate" else 4)
        with pytest.raises(StoppedError):
            await limiter.acquire(0)

    simulate(main)


# --- The gate -------------------------------------------------------------------------------------------------------


def ask_through(gate: Gate, rows: int) -> tuple[float, Endpoint]:
    endpoint = Endpoint(latency_s=0.05)
    return ask(endpoint, rows, 64, gate=gate), endpoint


def test_a_slow_gate_is_asked_for_blocks() -> None:
    blocks: list[int] = []

    async def gate(n: int) -> None:
        blocks.append(n)
        await asyncio.sleep(0.02)

    seconds, _ = ask_through(gate, 5_000)
    assert seconds <= 1.15 * 5_000 * 0.06 / 64
    assert len(blocks) <= 30
    assert sum(blocks) <= 5_000 + 2 * max(blocks)


def test_a_gate_that_lets_few_pass_is_not_asked_for_more_than_a_second_needs() -> None:
    blocks: list[int] = []

    async def gate(n: int) -> None:
        blocks.append(n)
        await asyncio.sleep(n / 10)

    seconds, _ = ask_through(gate, 200)
    assert seconds <= 21
    assert max(blocks) <= 14


def test_an_error_of_the_gate_reaches_those_who_wait() -> None:
    async def gate(n: int) -> None:
        raise OSError("no gate")

    async def main(clock: Callable[[], float]) -> None:
        with pytest.raises(OSError, match="no gate"):
            await Limiter(4, gate=gate, clock=clock).acquire(0)

    simulate(main)
