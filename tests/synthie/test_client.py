"""The client against a scripted endpoint on loopback, and against llmock as an independent witness."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_endpoint import Reply, ScriptedEndpoint

from synthie.config import GenerationConfig
from synthie.errors import (
    AuthenticationError,
    BudgetError,
    ConfigError,
    EndpointError,
    ModelNotFoundError,
    QuotaError,
)
from synthie.llm.client import Client, Completion, Request, RequestFailedError, StoppedError
from synthie.llm.endpoint import Endpoint
from synthie.llm.lane import Lane
from synthie.llm.limits import Limiter
from synthie.llm.pricing import Ledger, Price, Usage
from synthie.llm.protocol import encode_body

PRICE = Price(input=2, cached_input=1, output=10)
REQUEST = Request(
    json.dumps({"model": "m", "messages": [{"role": "user", "content": "1. A | is | B"}], "max_tokens": 50}).encode(),
    input_bound=200,
    output_bound=50,
)
WORST = 2 * 200 + 10 * 50
COST = 2 * 100 + 10 * 20
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as endpoint:
        yield endpoint


def ask(
    server: Any,
    count: int = 1,
    *,
    endpoint: Endpoint | None = None,
    ledger: Ledger | None = None,
    concurrency: int = 8,
    requests: list[Request] | None = None,
    **options: Any,
) -> list[Completion | BaseException]:
    """What comes of ``count`` simultaneous requests; an error in the place of a completion that was not had."""

    async def run() -> list[Completion | BaseException]:
        client = Client(
            [Lane(endpoint or Endpoint(server.base_url, "m"), price=PRICE, limiter=Limiter(concurrency))],
            ledger=ledger or Ledger(10**12),
            **{"backoff_s": 0.001, **options},
        )
        async with client:
            asked = (client.complete(request) for request in requests or [REQUEST] * count)
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


def completion(server: Any, **options: Any) -> Completion:
    [result] = ask(server, **options)
    assert isinstance(result, Completion), result
    return result


def failure(server: Any, **options: Any) -> BaseException:
    [result] = ask(server, **options)
    assert isinstance(result, BaseException)
    return result


def test_a_completion_carries_text_usage_and_cost(server: ScriptedEndpoint) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 60}}
    server.script.append(Reply("Grüße.", usage=usage, finish_reason="length"))
    result = completion(server)
    assert (result.text, result.finish_reason, result.model, result.attempts) == ("Grüße.", "length", "m-2024", 1)
    assert result.usage == Usage(100, 20, 60)
    assert result.cost == 40 * 2 + 60 * 1 + 20 * 10
    assert server.seen[0].body == json.loads(REQUEST.body)


@pytest.mark.parametrize(("content", "text"), [(None, ""), ([{"type": "text", "text": "In parts."}], "In parts.")])
def test_content_may_be_null_or_in_parts(server: ScriptedEndpoint, content: Any, text: str) -> None:
    server.script.append(Reply(content))
    assert completion(server).text == text


def test_the_responses_api_is_spoken_where_it_is_configured(server: ScriptedEndpoint) -> None:
    server.script.append(Reply("Grüße.", finish_reason="length"))
    messages = [{"role": "user", "content": "1. A | is | B"}]
    request = Request(encode_body("responses", "m", messages, {"max_tokens": 50}), 200, 50)
    endpoint = Endpoint.from_config(config(base_url=server.base_url, api="responses"))
    result = completion(server, endpoint=endpoint, requests=[request])
    assert (result.text, result.finish_reason, result.model) == ("Grüße.", "length", "m-2024")
    assert (result.usage, result.cost, result.endpoint) == (Usage(100, 20), COST, server.base_url)
    assert server.seen[0].url.endswith("/v1/responses")


def test_a_failed_response_is_treated_like_the_status_that_says_the_same(server: ScriptedEndpoint) -> None:
    def failed(code: str) -> Reply:
        return Reply(body={"status": "failed", "output": [], "error": {"code": code, "message": "Sorry."}})

    endpoint = Endpoint(server.base_url, "m", api="responses")
    server.script.extend(map(failed, ["server_error", "rate_limit_exceeded", "rate_limit_exceeded"]))
    request = Request(b'{"model": "m", "input": [{"content": "1. A | is | B"}]}', 200, 50)
    assert completion(server, endpoint=endpoint, requests=[request], max_attempts=2).attempts == 4
    server.script.append(failed("invalid_prompt"))
    error = failure(server, endpoint=endpoint, requests=[request])
    assert isinstance(error, RequestFailedError)
    assert error.permanent
    assert "Sorry." in str(error)


def test_an_answer_without_usage_is_reckoned_at_the_bounds(server: ScriptedEndpoint) -> None:
    server.script.append(Reply("Sixteen letters.", usage=None))
    assert completion(server).usage == Usage(200, 17)


def test_refusals_for_want_of_capacity_never_use_up_the_tries(server: ScriptedEndpoint) -> None:
    server.script.extend(Reply.error(429, retry_after_ms="1") for _ in range(10))
    assert completion(server, max_attempts=1).attempts == 11


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
def test_transient_errors_are_tried_again(server: ScriptedEndpoint, status: int) -> None:
    server.script.extend(Reply.error(status) for _ in range(3))
    assert completion(server, max_attempts=4).attempts == 4


def test_a_request_fails_when_its_tries_are_used_up(server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply.error(500, "broken disk")
    error = failure(server, max_attempts=3)
    assert isinstance(error, RequestFailedError)
    assert (error.status, error.attempts, error.permanent, len(server.seen)) == (500, 3, False, 3)
    assert "broken disk" in str(error)


def test_a_malformed_answer_is_tried_again(server: ScriptedEndpoint) -> None:
    server.script.append(Reply(body={"choices": []}))
    server.script.append(Reply(body="plain"))
    assert completion(server).attempts == 3


@pytest.mark.parametrize("header", [{"retry_after": "0.3"}, {"retry_after_ms": "300"}])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(server: ScriptedEndpoint, status: int, header: dict[str, str]) -> None:
    server.script.append(Reply.error(status, **header))
    completion(server)
    assert server.seen[1].at - server.seen[0].at >= 0.3


def test_retry_after_may_be_a_date(server: ScriptedEndpoint) -> None:
    date = int(time.time()) + 2
    server.script.append(Reply.error(429, retry_after=email.utils.formatdate(date, usegmt=True)))
    completion(server)
    assert server.seen[1].at >= date


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_cannot_succeed_fails_at_once(server: ScriptedEndpoint, status: int) -> None:
    server.script.append(Reply.error(status, "maximum context length is 8192", code="context_length_exceeded"))
    error = failure(server)
    assert isinstance(error, RequestFailedError)
    assert (error.status, error.permanent, len(server.seen)) == (status, True, 1)
    assert "maximum context length" in str(error)
    assert "generation.max_tokens" in str(error)


@pytest.mark.parametrize("status", [400, 403])
def test_the_content_filter_fails_its_rows_and_never_the_run(server: ScriptedEndpoint, status: int) -> None:
    server.respond = lambda seen: Reply.error(status, "Flagged.", code="content_filter")
    results = ask(server, 30)
    assert all(isinstance(result, RequestFailedError) and result.permanent for result in results)
    assert f"the endpoint's content filter refuses the request ({status}: Flagged.)" in str(results[0])
    assert len(server.seen) == 30


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_and_names_the_variable(server: ScriptedEndpoint, status: int) -> None:
    server.respond = lambda seen: Reply.error(status, "bad key")
    error = failure(server, endpoint=Endpoint(server.base_url, "m", key_env="MY_KEY"))
    assert isinstance(error, AuthenticationError)
    assert "No key was sent: put it in the environment variable MY_KEY" in str(error)


@pytest.mark.parametrize("reply", [Reply.error(429, "quota", code="insufficient_quota"), Reply.error(402, "pay")])
def test_an_empty_account_stops_the_run(server: ScriptedEndpoint, reply: Reply) -> None:
    server.respond = lambda seen: reply
    assert isinstance(failure(server), QuotaError)


def test_an_unknown_model_stops_the_run_and_names_near_ones(server: ScriptedEndpoint) -> None:
    server.models = ["gpt-4o-mini", "whisper-1"]
    server.respond = lambda seen: Reply.error(404, "no such model", code="model_not_found")
    error = failure(server, endpoint=Endpoint(server.base_url, "gpt-4-mini"))
    assert isinstance(error, ModelNotFoundError)
    assert "'gpt-4-mini'" in str(error)
    assert "such as: gpt-4o-mini." in str(error)


def test_a_wrong_path_is_told_with_the_url(server: ScriptedEndpoint) -> None:
    error = failure(server, endpoint=Endpoint(server.base_url.removesuffix("/v1"), "m"))
    assert isinstance(error, ModelNotFoundError)
    assert "it usually ends in /v1" in str(error)


def test_nobody_listening_stops_the_run_and_names_the_url() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        error = failure(None, endpoint=Endpoint(base_url, "m"))
    assert type(error) is EndpointError
    assert f"Nobody answers at {base_url}/chat/completions" in str(error)


def test_twenty_failures_in_a_row_stop_the_run(server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply.error(400, "Unsupported parameter: 'max_tokens'")
    results = ask(server, 20)
    assert sum(isinstance(result, RequestFailedError) for result in results) == 19
    [error] = [result for result in results if isinstance(result, EndpointError)]
    assert "Unsupported parameter" in str(error)
    assert "generation.extra_body" in str(error)


def test_a_timed_out_try_counts_as_paid_in_full(server: ScriptedEndpoint) -> None:
    server.script.append(Reply(delay_s=60))
    ledger, presumed = Ledger(10**6), []
    result = completion(server, ledger=ledger, timeout_s=1, on_presumed=lambda cost, reason: presumed.append(cost))
    assert result.attempts > 1
    assert presumed == [WORST] * (result.attempts - 1)
    assert (ledger.spent, ledger.reserved) == (WORST * (result.attempts - 1) + COST, 0)


@pytest.mark.parametrize(("limit", "served"), [(WORST - 1, 0), (WORST, 1), (10 * COST + WORST, 11), (WORST + COST, 2)])
def test_the_budget_is_used_as_far_as_it_is_safe_and_never_exceeded(
    server: ScriptedEndpoint, limit: int, served: int
) -> None:
    ledger = Ledger(limit)
    results = ask(server, 40, ledger=ledger)
    assert server.completions == len(server.seen) == served
    assert sum(isinstance(result, Completion) for result in results) == served
    assert all(isinstance(result, Completion | BudgetError) for result in results)
    assert ledger.spent == served * COST <= limit
    assert ledger.reserved == 0


def test_a_budget_error_names_what_is_spent_and_the_mend(server: ScriptedEndpoint) -> None:
    error = failure(server, ledger=Ledger(5 * 10**11, 5 * 10**11))
    assert isinstance(error, BudgetError)
    assert "0.500000 of 0.500000 USD are spent" in str(error)
    assert "higher max_usd" in str(error)


def test_a_cancelled_call_counts_as_paid_in_full_and_frees_its_place(server: ScriptedEndpoint) -> None:
    server.script.append(Reply(delay_s=60))
    ledger, presumed = Ledger(10**6), []

    async def run() -> None:
        lane = Lane(Endpoint(server.base_url), price=PRICE, limiter=Limiter(1))
        async with Client([lane], ledger=ledger, on_presumed=lambda cost, reason: presumed.append(cost)) as client:
            task, waiting = (asyncio.create_task(client.complete(REQUEST)) for _ in range(2))
            while not server.seen:
                await asyncio.sleep(0.01)
            assert (client.in_flight, client.limit) == (1, 1)
            task.cancel()
            await waiting
            assert client.in_flight == 0

    asyncio.run(run())
    assert presumed == [WORST]
    assert (ledger.spent, ledger.reserved) == (WORST + COST, 0)


def test_stop_lets_calls_in_flight_end_and_sends_nothing_more(server: ScriptedEndpoint) -> None:
    is_stopped = threading.Event()
    server.respond = lambda seen: Reply(after=is_stopped.is_set)

    async def run() -> list[Completion | BaseException]:
        lane = Lane(Endpoint(server.base_url), price=PRICE, limiter=Limiter(2))
        async with Client([lane], ledger=Ledger(10**9)) as client:
            tasks = [asyncio.create_task(client.complete(REQUEST)) for _ in range(6)]
            while len(server.seen) < 2:
                await asyncio.sleep(0.01)
            client.stop()
            is_stopped.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(run())
    assert len(server.seen) == 2
    assert sum(isinstance(result, Completion) for result in results) == 2
    assert sum(isinstance(result, StoppedError) for result in results) == 4


def test_stop_ends_a_long_wait_for_retry_after(server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply.error(429, retry_after="3600")

    async def run() -> None:
        lane = Lane(Endpoint(server.base_url), price=PRICE, limiter=Limiter(2))
        async with Client([lane], ledger=Ledger(10**9)) as client:
            task = asyncio.create_task(client.complete(REQUEST))
            while not client.statistics.retries:
                await asyncio.sleep(0.01)
            client.stop()
            with pytest.raises(StoppedError):
                await task

    asyncio.run(run())


def test_the_number_of_calls_in_flight_follows_the_endpoint(server: ScriptedEndpoint) -> None:
    """An endpoint that takes 3 calls at once and refuses more still answers everything."""

    def respond(seen: Any) -> Reply:
        return Reply.error(429, retry_after_ms="5") if server.in_flight > 3 else Reply(delay_s=0.01)

    server.respond = respond
    results = ask(server, 60, concurrency=32, max_attempts=1)
    assert all(isinstance(result, Completion) for result in results)


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig(**{"base_url": "http://127.0.0.1:9/v1", "model": "m", **options})


def test_the_key_comes_from_the_named_variable(server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    completion(server, endpoint=Endpoint.from_config(config(base_url=server.base_url, api_key_env="MY_KEY")))
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"


def test_an_endpoint_that_needs_no_key_gets_none(server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    completion(server, endpoint=Endpoint.from_config(config(base_url=server.base_url)))
    assert "Authorization" not in server.seen[0].headers


def test_azure_gets_its_header_and_version_and_no_other_key(
    server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-somebody-else")
    monkeypatch.setenv("AZURE_KEY", KEY)
    azure = config(base_url=server.base_url, headers={"api-key": "${AZURE_KEY}"}, query={"api-version": "2024-10-21"})
    completion(server, endpoint=Endpoint.from_config(azure))
    assert server.seen[0].headers["api-key"] == KEY
    assert server.seen[0].query == {"api-version": "2024-10-21"}
    assert "Authorization" not in server.seen[0].headers


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_an_endpoint_that_echoes_the_key_does_not_make_it_known(
    server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.respond = lambda seen: Reply.error(status, f"You sent {seen.headers['Authorization']}", retry_after="0")
    endpoint = Endpoint.from_config(config(base_url=server.base_url))
    with caplog.at_level(logging.DEBUG):
        error = failure(server, endpoint=endpoint, max_attempts=2)
    assert "You sent Bearer ***" in str(error)
    assert KEY not in f"{error!r} {error.__cause__!r} {error.__context__!r} {endpoint!r} {caplog.text}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "api.openai.com/v1"}, "must be an http or https URL"),
        ({"base_url": "http://host:99999/v1"}, "must be an http or https URL"),
        ({"base_url": f"http://user:{KEY}@host/v1"}, "must not hold a password"),
        ({"base_url": f"http://host/v1?key={KEY}"}, "must not hold a password"),
        ({"headers": {"api-key": KEY}}, "credential for api-key in clear"),
        ({"headers": {"x": "${NOT_SET_ANYWHERE}"}}, "NOT_SET_ANYWHERE"),
    ],
)
def test_an_unusable_endpoint_is_refused_without_showing_secrets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Endpoint.from_config(config(**options))
    assert KEY not in str(caught.value)


def test_a_credential_among_the_query_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"generation\.query holds 'key'") as caught:
        Endpoint.identity(config(query={"key": KEY}))
    assert KEY not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"“{KEY}”")
    with pytest.raises(ConfigError, match="Authorization") as caught:
        Endpoint.from_config(config())
    assert KEY not in str(caught.value)


def test_the_path_of_the_protocol_may_be_part_of_the_url() -> None:
    assert Endpoint.from_config(config(base_url="https://h/v1/chat/completions/")).base_url == "https://h/v1"


@pytest.fixture
def witness(llmock: Any) -> Any:
    """llmock's server, as an endpoint with a ``base_url``."""

    class Witness:
        mock = llmock
        base_url = llmock.base_url("openai")

    return Witness


def numbered(count: int) -> list[Request]:
    """Different requests: llmock takes equal ones for tries of one call."""
    return [
        Request(json.dumps({"model": "m", "messages": [{"role": "user", "content": f"Number {n}"}]}).encode(), 200, 50)
        for n in range(count)
    ]


def test_llmock_finds_no_fault_with_the_client_in_a_storm(witness: Any) -> None:
    witness.mock.rate_limit(times=4, retry_after=0.05).fail(500, times=15).fail(503, times=5, retry_after=0.05)
    results = ask(witness, requests=numbered(60), max_attempts=9, backoff_s=0.05)
    assert all(isinstance(result, Completion) for result in results)
    witness.mock.assert_resilient()


def test_llmock_finds_no_fault_with_the_client_of_the_responses_api(witness: Any) -> None:
    witness.mock.rate_limit(times=3, retry_after=0.05).fail(500, times=3)
    messages = [[{"role": "user", "content": f"Number {n}"}] for n in range(12)]
    requests = [Request(encode_body("responses", "m", one, {"max_tokens": 50, "seed": 1}), 200, 50) for one in messages]
    endpoint = Endpoint(witness.base_url, "m", api="responses")
    results = ask(witness, endpoint=endpoint, requests=requests, max_attempts=9, backoff_s=0.05)
    assert all(isinstance(result, Completion) and result.text and result.finish_reason == "stop" for result in results)
    witness.mock.assert_resilient()


def test_llmock_sees_no_second_try_of_what_cannot_succeed(witness: Any) -> None:
    witness.mock.context_overflow()
    error = failure(witness, requests=numbered(1))
    assert isinstance(error, RequestFailedError)
    assert len(witness.mock.requests) == 1
    witness.mock.assert_resilient()
