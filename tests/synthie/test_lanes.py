"""Several endpoints that share the work, and the way to them: proxies, certificates, keys that must not be shown."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import logging
import math
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from scripted_endpoint import Reply, ScriptedEndpoint, Seen

from synthie.config import EndpointConfig, GenerationConfig
from synthie.errors import AuthenticationError, ConfigError, EndpointError
from synthie.llm.client import Client, Completion, RequestFailedError
from synthie.llm.endpoint import Endpoint
from synthie.llm.lane import Health, Lane, Request
from synthie.llm.limits import Limiter
from synthie.llm.pricing import Ledger, Price

PRICE = Price(input=2, cached_input=1, output=10)
KEY = "sk-very-secret-0123456789"
SLOW = 0.01  # seconds that an endpoint takes, where calls shall overlap


@pytest.fixture
def replicas() -> Iterator[list[ScriptedEndpoint]]:
    """Three endpoints with the same model, slow enough for calls to overlap."""
    with ExitStack() as stack:
        yield [stack.enter_context(ScriptedEndpoint(lambda seen: Reply(delay_s=SLOW))) for _ in range(3)]


@pytest.fixture
def nobody() -> Iterator[str]:
    """A base URL where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/v1"


def request(number: int = 0, model: str = "") -> Request:
    body = {"model": model or "m", "messages": [{"role": "user", "content": f"Number {number}"}], "max_tokens": 50}
    return Request(json.dumps(body).encode(), 200, 50, model)


def lane(base_url: str, model: str = "m", *, concurrency: int = 8, weight: float = 1.0, **options: Any) -> Lane:
    endpoint = Endpoint(base_url, model, **options)
    return Lane(endpoint, price=PRICE, limiter=Limiter(concurrency), weight=weight)


class Outcome:
    """What came of asking: results in the order of the requests, the client's statistics, and its events."""

    def __init__(self) -> None:
        self.results: list[Completion | BaseException] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.presumed: list[int] = []
        self.client: Client

    @property
    def completions(self) -> list[Completion]:
        return [result for result in self.results if isinstance(result, Completion)]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def ask(
    lanes: list[Lane],
    requests: Iterable[Request],
    *,
    workers: int = 24,
    meanwhile: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> Outcome:
    """Send the requests, ``workers`` at a time; ``meanwhile`` is told the number of those that are done."""
    outcome = Outcome()
    results: dict[int, Completion | BaseException] = {}

    async def work(client: Client, waiting: Iterator[tuple[int, Request]]) -> None:
        for number, one in waiting:
            try:
                results[number] = await client.complete(one)
            except (EndpointError, RequestFailedError) as error:
                results[number] = error
            meanwhile(len(results))

    async def run() -> None:
        outcome.client = Client(
            lanes,
            ledger=Ledger(10**12),
            on_event=lambda kind, **details: outcome.events.append((kind, details)),
            on_presumed=lambda cost, reason: outcome.presumed.append(cost),
            **{"backoff_s": 0.01, **options},
        )
        async with outcome.client as client:
            waiting = iter(enumerate(requests))
            await asyncio.gather(*(work(client, waiting) for _ in range(workers)))

    asyncio.run(run())
    outcome.results = [results[number] for number in sorted(results)]
    return outcome


# --- Who gets a request ---


def all_seen(replicas: list[ScriptedEndpoint]) -> list[tuple[float, int]]:
    """When the requests came, and to whom."""
    return sorted((seen.at, number) for number, one in enumerate(replicas) for seen in one.seen)


def test_replicas_share_the_work_and_each_answer_says_whose_it_is(replicas: list[ScriptedEndpoint]) -> None:
    for one in replicas:
        one.respond = lambda seen: Reply(after=lambda: len(all_seen(replicas)) >= 12)
    outcome = ask([lane(one.base_url) for one in replicas], [request(n) for n in range(300)], workers=12)
    assert len(outcome.completions) == 300
    by_endpoint = Counter(one.endpoint for one in outcome.completions)
    assert by_endpoint == outcome.client.statistics.by_endpoint
    assert by_endpoint == {one.base_url: one.completions for one in replicas}
    assert Counter(number for _, number in all_seen(replicas)[:12]) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("workers", [1, 10])
def test_weights_decide_about_the_shares(replicas: list[ScriptedEndpoint], workers: int) -> None:
    def in_rounds(seen: Seen) -> Reply:
        """Nobody is answered before all workers are at an endpoint."""
        whole = -(-len(all_seen(replicas)) // workers) * workers
        return Reply(after=lambda: len(all_seen(replicas)) >= whole)

    for one in replicas:
        one.respond = in_rounds
    weights = (1.0, 1.0, 4.0)
    lanes = [lane(one.base_url, concurrency=64, weight=w) for one, w in zip(replicas, weights, strict=True)]
    outcome = ask(lanes, [request(n) for n in range(120)], workers=workers)
    assert len(outcome.completions) == 120
    assert 0.5 < replicas[2].completions / 120 < 0.8


def test_a_request_goes_to_endpoints_with_its_model_only(replicas: list[ScriptedEndpoint]) -> None:
    lanes = [lane(one.base_url, model) for one, model in zip(replicas, ("small", "large", "small"), strict=True)]
    outcome = ask(lanes, [request(n, ("small", "large")[n % 2]) for n in range(60)])
    assert len(outcome.completions) == 60
    assert [{seen.body["model"] for seen in one.seen} for one in replicas] == [{"small"}, {"large"}, {"small"}]


def test_a_busy_endpoint_gets_less(replicas: list[ScriptedEndpoint]) -> None:
    replicas[0].respond = lambda seen: Reply(after=lambda: len(replicas[1].seen + replicas[2].seen) >= 300 - 24)
    outcome = ask([lane(one.base_url, concurrency=64) for one in replicas], [request(n) for n in range(300)])
    assert len(outcome.completions) == 300
    assert replicas[0].completions < replicas[1].completions / 2


def test_each_endpoint_has_its_own_limit(replicas: list[ScriptedEndpoint]) -> None:
    most, limits = [0, 0, 0], (1, 2, 3)

    def respond(number: int) -> Callable[[Seen], Reply]:
        def reply(seen: Seen) -> Reply:
            most[number] = max(most[number], replicas[number].in_flight)
            return Reply(delay_s=SLOW, after=lambda: most[number] >= limits[number])

        return reply

    for number, one in enumerate(replicas):
        one.respond = respond(number)
    lanes = [lane(one.base_url, concurrency=n) for one, n in zip(replicas, limits, strict=True)]
    outcome = ask(lanes, [request(n) for n in range(100)])
    assert len(outcome.completions) == 100
    assert most == list(limits)


# --- Endpoints that fail ---


def test_a_replica_that_dies_costs_no_row_and_no_more_than_its_calls_in_flight(
    replicas: list[ScriptedEndpoint],
) -> None:
    def meanwhile(done: int) -> None:
        if done == 60:
            replicas[1].die()

    outcome = ask([lane(one.base_url) for one in replicas], [request(n) for n in range(300)], meanwhile=meanwhile)
    assert len(outcome.completions) == 300
    assert outcome.client.statistics.retries.total() <= 24
    assert len(outcome.presumed) <= 8  # in flight when it died
    assert outcome.kinds == ["lane_down"]
    assert outcome.events[0][1]["endpoint"] == replicas[1].base_url


def test_a_replica_that_comes_back_gets_work_again(replicas: list[ScriptedEndpoint]) -> None:
    enough = math.inf

    def meanwhile(done: int) -> None:
        nonlocal enough
        if done == 60:
            replicas[1].die()
        if done == 120:
            enough = replicas[1].completions + 20
            replicas[1].revive()

    def until_it_has_done_its_share() -> Iterator[Request]:
        for number in range(30_000):
            if replicas[1].completions > enough:
                return
            yield request(number)

    outcome = ask([lane(one.base_url) for one in replicas], until_it_has_done_its_share(), meanwhile=meanwhile)
    assert len(outcome.completions) == len(outcome.results)
    assert outcome.kinds == ["lane_down", "lane_up"]
    assert replicas[1].completions > enough


@pytest.mark.parametrize("reply", [Reply.error(500), Reply(breaks_off=True), Reply(body=b"<html>"), Reply(delay_s=60)])
def test_a_replica_that_answers_nothing_useful_is_set_aside(replicas: list[ScriptedEndpoint], reply: Reply) -> None:
    replicas[1].respond = lambda seen: reply
    lanes = [lane(one.base_url) for one in replicas]
    outcome = ask(lanes, [request(n) for n in range(200)], max_attempts=4, timeout_s=1, backoff_s=0.2)
    assert len(outcome.completions) == 200
    assert replicas[1].completions == 0
    assert "lane_down" in outcome.kinds
    assert len(replicas[1].seen) < 30  # its first calls, then one a trial


def test_requests_that_wait_for_a_turn_go_elsewhere_when_the_replica_is_set_aside(
    replicas: list[ScriptedEndpoint],
) -> None:
    failing, other = replicas[:2]
    lanes = [lane(failing.base_url, concurrency=3, weight=1000), lane(other.base_url)]
    failing.script.extend([Reply(breaks_off=True, after=lambda: lanes[0].limiter.waiting > 30)] * 3)
    failing.respond = lambda seen: Reply(breaks_off=True)
    outcome = ask(lanes, [request(n) for n in range(40)], workers=40, backoff_s=60)
    assert other.completions == 40
    assert len(failing.seen) <= 6  # not the whole queue, three at a time
    assert sum(one.attempts for one in outcome.completions) <= 46


def test_the_run_goes_on_with_any_one_of_several(replicas: list[ScriptedEndpoint], nobody: str) -> None:
    lanes = [lane(nobody), lane("http://no-such-host.invalid/v1"), lane(replicas[0].base_url)]
    outcome = ask(lanes, [request(n) for n in range(50)])
    assert len(outcome.completions) == 50
    assert outcome.presumed == []
    assert all(one.attempts <= 3 for one in outcome.completions)


def test_the_run_stops_when_nobody_is_left_and_all_urls_are_named(
    replicas: list[ScriptedEndpoint], nobody: str
) -> None:
    outcome = ask([lane(nobody), lane("http://no-such-host.invalid/v1")], [request(n) for n in range(5)])
    for error in outcome.results:
        assert type(error) is EndpointError
        assert f"Nobody answers at {nobody}/chat/completions (cannot connect" in str(error)
        assert "nor at http://no-such-host.invalid/v1/chat/completions" in str(error)
        assert "generation.endpoints" in str(error)


def test_the_run_stops_when_nobody_with_the_model_is_left(replicas: list[ScriptedEndpoint], nobody: str) -> None:
    lanes = [lane(nobody, "small"), lane(replicas[0].base_url, "large")]
    outcome = ask(lanes, [request(0, "small"), request(1, "large")])
    assert isinstance(outcome.results[0], EndpointError)
    assert replicas[0].base_url not in str(outcome.results[0])
    assert isinstance(outcome.results[1], Completion)


def test_a_lonely_endpoint_that_restarts_costs_no_row(replicas: list[ScriptedEndpoint]) -> None:
    """Rows do not use up their tries on connections that cannot be made."""
    only = replicas[0]

    def meanwhile(done: int) -> None:
        if done == 30:
            only.die()
            threading.Timer(0.3, only.revive).start()

    lanes = [lane(only.base_url)]
    outcome = ask(lanes, [request(n) for n in range(100)], meanwhile=meanwhile, max_attempts=12)
    assert len(outcome.completions) == 100
    assert outcome.kinds == ["lane_down", "lane_up"]


def test_an_endpoint_that_does_not_come_back_stops_the_run(replicas: list[ScriptedEndpoint]) -> None:
    def meanwhile(done: int) -> None:
        if done == 30:
            replicas[0].die()

    outcome = ask([lane(replicas[0].base_url)], [request(n) for n in range(100)], meanwhile=meanwhile, max_attempts=4)
    failed = [result for result in outcome.results if not isinstance(result, Completion)]
    assert len(failed) >= 60
    assert all(type(error) is EndpointError and "Nobody answers at" in str(error) for error in failed)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_mistake_at_one_of_several_stops_the_run(replicas: list[ScriptedEndpoint], status: int) -> None:
    replicas[1].respond = lambda seen: Reply.error(status, "no")
    outcome = ask([lane(one.base_url) for one in replicas], [request(n) for n in range(3)])
    [error] = [result for result in outcome.results if isinstance(result, EndpointError)]
    assert replicas[1].base_url in str(error)


def test_a_row_that_every_replica_fails_at_is_tried_no_more_often_than_at_one(replicas: list[ScriptedEndpoint]) -> None:
    for one in replicas:
        one.respond = lambda seen: Reply.error(500, "poison") if "Number 7" in str(seen.body) else Reply(delay_s=SLOW)
    outcome = ask([lane(one.base_url) for one in replicas], [request(n) for n in range(60)], max_attempts=4)
    assert len(outcome.completions) == 59
    assert isinstance(outcome.results[7], RequestFailedError)
    assert outcome.results[7].attempts == 4


def test_a_refused_row_waits_also_where_others_are_free(replicas: list[ScriptedEndpoint]) -> None:
    lanes = [lane(one.base_url) for one in replicas]
    replicas[0].script.append(Reply.error(429, retry_after="0.3"))
    outcome = ask(lanes, [request()])
    [result] = outcome.completions
    arrivals = sorted(seen.at for one in replicas for seen in one.seen)
    assert result.attempts == 2
    assert arrivals[1] - arrivals[0] >= 0.3
    assert outcome.events == [("slow_down", {"endpoint": replicas[0].base_url, "limit": outcome.events[0][1]["limit"]})]


def test_a_long_wait_is_told_once(replicas: list[ScriptedEndpoint]) -> None:
    replicas[0].respond = lambda seen: Reply.error(429, retry_after="3600")
    told: list[str] = []

    async def run() -> None:
        client = Client(
            [lane(replicas[0].base_url)], ledger=Ledger(10**9), on_event=lambda kind, **details: told.append(kind)
        )
        async with client:
            tasks = [asyncio.create_task(client.complete(request(n))) for n in range(4)]
            while client.statistics.retries.total() < 4:
                await asyncio.sleep(0.01)
            client.stop()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert sorted(told) == ["long_wait", "slow_down"]


# --- Health ---


def test_three_errors_in_a_row_set_a_lane_aside_and_an_answer_in_between_does_not() -> None:
    health = Health()
    for _ in range(10):
        health.erred("500")
        health.erred("500")
        health.answered()
    assert not health.is_aside
    for _ in range(3):
        health.erred("500: no")
    assert health.is_aside
    assert not health.is_unreachable
    assert health.reason == "500: no"


def test_one_connection_that_cannot_be_made_sets_a_lane_aside_until_a_probe_and_an_answer() -> None:
    health = Health()
    health.unreachable("refused")
    health.probed(False)
    assert (health.is_aside, health.is_unreachable, health.setbacks) == (True, True, 1)
    health.probed(True)
    assert (health.is_aside, health.is_on_trial, health.is_unreachable) == (False, True, False)
    health.unreachable("refused")
    assert (health.is_aside, health.setbacks) == (True, 2)
    health.probed(True)
    health.answered()
    assert (health.is_doubtful, health.setbacks) == (False, 0)


@given(st.lists(st.sampled_from(["answered", "erred", "unreachable", "back", "silent"]), max_size=30))
def test_health_is_sound_whatever_happens(happenings: list[str]) -> None:
    health = Health()
    for happening in happenings:
        match happening:
            case "answered":
                health.answered()
            case "back" | "silent":
                health.probed(happening == "back")
            case "erred" | "unreachable":
                getattr(health, happening)("why")
        assert not (health.is_aside and health.is_on_trial)
        assert health.is_aside or not health.is_unreachable
        assert bool(health.reason) or not health.is_aside
    health.answered()
    assert not health.is_doubtful


# --- Configured endpoints ---


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig(**{"base_url": "http://127.0.0.1:9/v1", "model": "m", **options})


def several(**options: Any) -> GenerationConfig:
    endpoints = [EndpointConfig(base_url="http://a/v1"), EndpointConfig(**{"base_url": "http://b/v1", **options})]
    return GenerationConfig(model="m", endpoints=endpoints)


def test_one_of_several_endpoints_has_its_own_url_model_headers_query_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-common")
    monkeypatch.setenv("OTHER_KEY", KEY)
    generation = several(
        model="n", api_key_env="OTHER_KEY", headers={"x-team": "b", "X-Also": "1"}, query={"api-version": "2"}
    ).model_copy(update={"headers": {"X-Team": "common", "X-All": "1"}, "query": {"api-version": "1", "region": "eu"}})
    first, second = Endpoint.from_config(generation, 0), Endpoint.from_config(generation, 1)
    assert (first.base_url, first.model, second.base_url, second.model) == ("http://a/v1", "m", "http://b/v1", "n")
    assert first.headers == {"X-Team": "common", "X-All": "1", "Authorization": "Bearer sk-common"}
    assert second.headers == {"X-All": "1", "x-team": "b", "X-Also": "1", "Authorization": f"Bearer {KEY}"}
    assert first.query == {"api-version": "1", "region": "eu"}
    assert second.query == {"api-version": "2", "region": "eu"}
    assert second.key_env == "OTHER_KEY"


def test_a_faulty_url_among_several_is_named_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"generation\.endpoints\[1\]\.base_url must be"):
        Endpoint.from_config(several(base_url="b/v1"), 1)


def test_the_key_comes_from_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    endpoint = Endpoint.from_config(config(api_key_block="openai"), secrets={"openai": f"{KEY}\n"}.__getitem__)
    assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
    assert endpoint.redact(f"Bearer {KEY}") == "Bearer ***"


def test_an_endpoint_with_a_key_of_its_own_does_not_ask_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", KEY)
    generation = several(api_key_env="OTHER_KEY").model_copy(update={"api_key_block": "openai"})
    endpoint = Endpoint.from_config(generation, 1, {}.__getitem__)
    assert endpoint.headers["Authorization"] == f"Bearer {KEY}"


def test_a_block_is_for_flow_runs_unless_the_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"'openai'.*flow runs alone.*OPENAI_API_KEY"):
        Endpoint.from_config(config(api_key_block="openai"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Endpoint.from_config(config(api_key_block="openai")).headers["Authorization"] == f"Bearer {KEY}"


def test_a_refused_key_from_a_block_is_told_by_the_block(replicas: list[ScriptedEndpoint]) -> None:
    replicas[0].respond = lambda seen: Reply.error(401, "bad key")
    generation = config(base_url=replicas[0].base_url, api_key_block="openai")
    endpoint = Endpoint.from_config(generation, secrets={"openai": KEY}.__getitem__)
    [error] = ask([Lane(endpoint, price=PRICE, limiter=Limiter(1))], [request()]).results
    assert isinstance(error, AuthenticationError)
    assert "Check the key in the block 'openai'" in str(error)


# --- Proxies ---


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


PASSWORD = "p@ss/w:rd %é"
LOGIN = base64.b64encode(f"me:{PASSWORD}".encode("latin-1")).decode()


def through(proxy: ScriptedEndpoint, **options: Any) -> GenerationConfig:
    port = proxy.base_url.split(":")[2].removesuffix("/v1")
    return config(base_url="http://llm.invalid/v1", proxy=f"http://me:${{PROXY_PASSWORD}}@127.0.0.1:{port}", **options)


def test_requests_go_through_the_proxy_with_its_password(
    replicas: list[ScriptedEndpoint], no_proxies: pytest.MonkeyPatch
) -> None:
    no_proxies.setenv("PROXY_PASSWORD", PASSWORD)
    endpoint = Endpoint.from_config(through(replicas[0]))
    [result] = ask([Lane(endpoint, price=PRICE, limiter=Limiter(1))], [request()]).results
    assert isinstance(result, Completion)
    [seen] = replicas[0].seen
    assert seen.url == "http://llm.invalid/v1/chat/completions"
    assert seen.headers["Proxy-Authorization"] == f"Basic {LOGIN}"


def test_a_proxy_that_refuses_the_password_stops_the_run(
    replicas: list[ScriptedEndpoint], no_proxies: pytest.MonkeyPatch
) -> None:
    no_proxies.setenv("PROXY_PASSWORD", PASSWORD)
    replicas[0].respond = lambda seen: Reply.error(407, f"Not {seen.headers['Proxy-Authorization']}")
    endpoint = Endpoint.from_config(through(replicas[0]))
    [error] = ask([Lane(endpoint, price=PRICE, limiter=Limiter(1))], [request()]).results
    assert isinstance(error, AuthenticationError)
    assert "The proxy on the way to http://llm.invalid/v1 refuses access (407: Not Basic ***)" in str(error)


@pytest.mark.parametrize(("status", "message"), [(407, "refuses access"), (502, "Nobody answers")])
def test_a_proxy_that_makes_no_tunnel_is_told_without_its_password(
    no_proxies: pytest.MonkeyPatch, status: int, message: str
) -> None:
    no_proxies.setenv("PROXY_PASSWORD", PASSWORD)

    async def run() -> BaseException:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readuntil(b"\r\n\r\n")
            assert asked.startswith(b"CONNECT llm.invalid:443")
            assert LOGIN.encode() in asked
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            generation = config(
                base_url="https://llm.invalid/v1", proxy=f"http://me:${{PROXY_PASSWORD}}@127.0.0.1:{port}"
            )
            only = Lane(Endpoint.from_config(generation), price=PRICE, limiter=Limiter(1))
            async with Client([only], ledger=Ledger(10**9), backoff_s=0.001) as client:
                [error] = await asyncio.gather(client.complete(request()), return_exceptions=True)
                assert isinstance(error, EndpointError)
                return error

    error = asyncio.run(run())
    assert message in str(error)
    assert_hidden(f"{error!r} {error.__cause__!r} {error.__context__!r}")


def test_the_proxies_of_the_environment_are_used_but_not_for_loopback(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("HTTPS_PROXY", f"http://me:{quote(PASSWORD, safe='')}@proxy:3128")
    no_proxies.setenv("NO_PROXY", "inside.example")
    used = Endpoint.from_config(config(base_url="https://api.example/v1"))
    assert used.proxy == f"http://me:{quote(PASSWORD, safe='')}@proxy:3128"
    assert_hidden(repr(used) + used.redact(f"{used.proxy} {PASSWORD} {LOGIN}"))
    for base_url in (
        "https://inside.example/v1",
        "http://api.example/v1",
        "https://127.0.0.1:1/v1",
        "https://[::1]/v1",
    ):
        assert Endpoint.from_config(config(base_url=base_url)).proxy is None


def test_a_proxy_may_be_a_variable_alone(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("MY_PROXY", "http://me:p%40ss@proxy:3128")
    endpoint = Endpoint.from_config(config(proxy="${MY_PROXY}"))
    assert endpoint.proxy == "http://me:p%40ss@proxy:3128"
    assert endpoint.redact("at http://proxy:3128 with p@ss") == "at http://proxy:3128 with ***"


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        (f"http://me:{KEY}@proxy:3128", "holds a password in clear"),
        ("http://me:${NOT_SET_ANYWHERE}@proxy:3128", "NOT_SET_ANYWHERE"),
        ("socks5://proxy:1080", "must be an http or https URL"),
        ("proxy:3128", "must be an http or https URL"),
        ("http://proxy:99999", "must hold an http or https URL"),
    ],
)
def test_an_unusable_proxy_is_refused_without_showing_secrets(
    no_proxies: pytest.MonkeyPatch, proxy: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Endpoint.from_config(config(proxy=proxy))
    assert KEY not in str(caught.value)


def test_a_proxy_of_another_kind_in_the_environment_is_refused(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("ALL_PROXY", f"socks5://me:{KEY}@proxy:1080")
    with pytest.raises(ConfigError, match="ALL_PROXY must hold an http or https URL") as caught:
        Endpoint.from_config(config(base_url="https://api.example/v1"))
    assert KEY not in str(caught.value)


# --- Certificates ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself, as a PEM file, and the server's side of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "synthie test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("authority")
    pem, private = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return pem, context


def test_a_certificate_of_an_own_authority_is_trusted_where_it_is_named(
    authority: tuple[Path, ssl.SSLContext],
) -> None:
    pem, context = authority
    with ScriptedEndpoint(tls=context) as server:
        trusting = Endpoint.from_config(config(base_url=server.base_url, ca_file=str(pem)))
        [result] = ask([Lane(trusting, price=PRICE, limiter=Limiter(1))], [request()]).results
        assert isinstance(result, Completion)
        [error] = ask([lane(server.base_url)], [request()]).results
    assert type(error) is EndpointError
    assert "no certificate that can be trusted" in str(error)
    assert "generation.ca_file" in str(error)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), ("plain", "no certificate in PEM form"), ("", "no certificate")]
)
def test_a_file_without_certificates_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Endpoint.from_config(config(ca_file=str(path)))
    assert f"generation.ca_file {str(path)!r}" in str(caught.value)


def test_a_folder_is_no_file_of_certificates(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot use generation\.ca_file"):
        Endpoint.from_config(config(ca_file=str(tmp_path)))


# --- Secrets ---


def assert_hidden(text: str, *secrets: str) -> None:
    for secret in secrets or (PASSWORD, quote(PASSWORD, safe=""), LOGIN):
        assert secret not in text


def escapes(secret: str) -> list[str]:
    """Forms in which servers and libraries repeat what they were sent."""
    return [
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret))[3:-3],
        "".join(f"\\u{ord(character):04X}" for character in secret),
        "".join(f"\\\\u{ord(character):04x}" for character in secret),
        quote(secret),
        quote(secret, safe=""),
        quote(secret, safe="").lower(),
        quote(quote(secret, safe=""), safe=""),
        "".join(f"%{byte:02x}" for byte in secret.encode()),
        "".join(f"&#{ord(character)};" for character in secret),
        secret.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"),
        repr(secret)[1:-1],
    ]


@pytest.mark.parametrize("secret", [KEY, PASSWORD, "a\"b\\c'd/e<f>&g", "${x}.*+?[]()"])
def test_a_secret_is_blotted_out_in_every_form(secret: str) -> None:
    endpoint = Endpoint("http://h/v1", secrets=(secret, "other"))
    for form in escapes(secret):
        assert endpoint.redact(f"You sent {form}, other things.") == "You sent ***, *** things."


@given(st.text(min_size=4), st.text())
def test_a_secret_is_not_in_what_is_left(secret: str, text: str) -> None:
    endpoint = Endpoint("http://h/v1", secrets=(secret,))
    assert secret not in endpoint.redact(f"{text}{secret}{text}") or secret in "***"


def test_without_secrets_nothing_is_blotted_out() -> None:
    assert Endpoint("http://h/v1", secrets=("",)).redact("All of it.") == "All of it."


@pytest.mark.parametrize("status", [200, 400, 401, 402, 404, 418, 429, 500])
def test_an_endpoint_that_echoes_what_it_got_makes_no_secret_known(
    replicas: list[ScriptedEndpoint],
    no_proxies: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    no_proxies.setenv("OPENAI_API_KEY", KEY)
    no_proxies.setenv("PROXY_PASSWORD", PASSWORD)

    def respond(seen: Seen) -> Reply:
        sent = [seen.headers["Authorization"], seen.headers["Proxy-Authorization"], PASSWORD]
        echoes = [form for one in sent for form in escapes(one)]
        code = "insufficient_quota" if status == 429 else None
        body = json.dumps({"error": {"message": " ".join(echoes), "code": code}}).encode()
        if status == 500:  # nothing that can be parsed, and cut in the midst of the key
            body = b"x" * 480 + b'{"authorization": "' + seen.headers["Authorization"].encode() + b'"'
        return Reply(status=status, body=body)

    replicas[0].respond = respond
    endpoint = Endpoint.from_config(through(replicas[0]))
    with caplog.at_level(logging.DEBUG):
        outcome = ask([Lane(endpoint, price=PRICE, limiter=Limiter(1))], [request()], max_attempts=4)
    [error] = outcome.results
    assert isinstance(error, EndpointError | RequestFailedError)
    shown = f"{error!r} {error.__cause__!r} {error.__context__!r} {endpoint!r} {outcome.events!r} {caplog.text}"
    assert_hidden(shown, KEY, KEY[:12], PASSWORD, quote(PASSWORD, safe=""), LOGIN)
