"""The wire forms, held against the openai package: what its client sends and what its types say."""

from __future__ import annotations

import contextlib
import email.utils
import json
import time
from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from scripted_endpoint import Reply, ScriptedEndpoint

from synthie.llm.pricing import Usage
from synthie.llm.protocol import (
    PATHS,
    Answer,
    Api,
    FailedAnswerError,
    MalformedError,
    decode_answer,
    decode_models,
    encode_body,
    error_of,
    rate_limits,
    retry_after,
)

MESSAGES: Any = [{"role": "system", "content": "Write “texts”."}, {"role": "user", "content": "1. A | is | B"}]
FIELDS = {"temperature": 0.7, "max_tokens": 256, "seed": 7}


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint(lambda seen: Reply()) as endpoint:
        yield endpoint


@pytest.fixture
def client(server: ScriptedEndpoint) -> Iterator[openai.OpenAI]:
    """The openai package's own client."""
    with openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0) as client:
        yield client


# --- Requests ---


def test_a_chat_body_is_model_messages_and_fields_in_a_fixed_order() -> None:
    body = encode_body("chat", "m", MESSAGES, FIELDS)
    ordered = {"max_tokens": 256, "messages": [{"content": m["content"], "role": m["role"]} for m in MESSAGES]}
    ordered |= {"model": "m", "seed": 7, "temperature": 0.7}
    assert body == json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
    assert body == encode_body("chat", "m", MESSAGES, dict(reversed(FIELDS.items())))


def test_the_openai_client_sends_the_same_chat_request(server: ScriptedEndpoint, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="m", messages=MESSAGES, temperature=0.7, max_tokens=256, seed=7)
    assert server.seen[-1].url == server.base_url + PATHS["chat"]
    assert server.seen[-1].body == json.loads(encode_body("chat", "m", MESSAGES, FIELDS))


def test_the_openai_client_sends_the_same_responses_request(server: ScriptedEndpoint, client: openai.OpenAI) -> None:
    client.responses.create(model="m", input=MESSAGES, temperature=0.7, max_output_tokens=256, store=False)
    assert server.seen[-1].url == server.base_url + PATHS["responses"]
    assert server.seen[-1].body == json.loads(encode_body("responses", "m", MESSAGES, FIELDS))


def test_every_field_of_a_responses_request_is_known_to_the_openai_package() -> None:
    body = json.loads(encode_body("responses", "m", MESSAGES, {**FIELDS, "reasoning": {"effort": "low"}}))
    assert body.keys() <= get_type_hints(ResponseCreateParamsNonStreaming).keys()


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_output_tokens": 3}, 3),
        ({}, None),
    ],
)
def test_the_limit_on_tokens_has_one_name_in_responses(fields: dict[str, int], limit: int | None) -> None:
    body = json.loads(encode_body("responses", "m", MESSAGES, fields))
    assert body.get("max_output_tokens") == limit
    assert not {"max_tokens", "max_completion_tokens"} & body.keys()


# --- Answers ---


def chat(**changes: Any) -> bytes:
    message = {"role": "assistant", "content": "A text."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    usage |= {"prompt_tokens_details": {"cached_tokens": 60}}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage}
    return ChatCompletion.model_validate(whole | changes).model_dump_json().encode()


def part(text: str, kind: str = "output_text") -> dict[str, Any]:
    return {"type": kind, "text": text, "annotations": []} if kind == "output_text" else {"type": kind, "refusal": text}


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": list(parts)}


REASONING = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "I think."}], "content": None}
USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 0},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 120,
}


def response(*output: dict[str, Any], **changes: Any) -> Response:
    whole = {
        "id": "resp",
        "object": "response",
        "created_at": 1.0,
        "model": "m-1",
        "status": "completed",
        "output": list(output),
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "usage": USAGE,
    }
    return Response.model_validate(whole | changes)


def decoded(told: Response) -> Answer:
    return decode_answer("responses", told.model_dump_json().encode())


def test_a_chat_completion_is_decoded() -> None:
    assert decode_answer("chat", chat()) == Answer("A text.", "stop", "m-1", Usage(100, 20, 60))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": 2**31},
    ],
)
def test_usage_that_does_not_tell_the_tokens_is_none(usage: Any) -> None:
    raw = json.dumps({"choices": [{"message": {"content": "A"}}], "usage": usage}).encode()
    assert decode_answer("chat", raw).usage is None


@pytest.mark.parametrize(
    ("content", "text"), [(None, ""), ([{"type": "text", "text": "In "}, {"text": "two."}], "In two.")]
)
def test_content_may_be_null_or_in_parts(content: Any, text: str) -> None:
    assert decode_answer("chat", json.dumps({"choices": [{"message": {"content": content}}]}).encode()).text == text


def test_a_response_of_the_responses_api_is_decoded() -> None:
    told = response(REASONING, message(part("In "), part("two.")), message(part(" And more.")))
    assert decoded(told) == Answer("In two. And more.", "stop", "m-1", Usage(100, 20, 60))
    assert decoded(told).text == told.output_text


def test_a_refusal_has_no_text() -> None:
    assert decoded(response(message(part("I cannot.", "refusal")))).text == ""


@pytest.mark.parametrize(
    ("reason", "finish_reason"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("steered", "steered"), (None, None)],
)
def test_an_incomplete_response_says_why(reason: str | None, finish_reason: str | None) -> None:
    told = response(message(part("Half")), status="incomplete", incomplete_details={"reason": reason})
    assert (decoded(told).text, decoded(told).finish_reason) == ("Half", finish_reason)


@pytest.mark.parametrize(
    ("code", "status"), [("server_error", 500), ("rate_limit_exceeded", 429), ("invalid_prompt", 400)]
)
def test_a_failed_response_tells_the_status_that_says_the_same(code: str, status: int) -> None:
    with pytest.raises(FailedAnswerError, match="We are sorry") as caught:
        decoded(response(status="failed", error={"code": code, "message": "We are sorry"}))
    assert (caught.value.status, caught.value.codes) == (status, frozenset({code}))


def test_a_response_that_is_still_under_way_is_no_answer() -> None:
    with pytest.raises(MalformedError, match="'in_progress'"):
        decoded(response(status="in_progress"))


def test_an_error_in_the_body_of_a_success_is_told_by_its_code() -> None:
    with pytest.raises(FailedAnswerError, match="Upstream is busy") as caught:
        decode_answer("chat", b'{"error": {"code": 429, "message": "Upstream is busy"}}')
    assert caught.value.status == 429


def test_an_error_in_the_body_of_a_success_without_a_status_is_the_servers_and_keeps_its_words() -> None:
    with pytest.raises(FailedAnswerError, match="Pay first") as caught:
        decode_answer("chat", b'{"error": {"code": "insufficient_quota", "message": "Pay first"}}')
    assert (caught.value.status, caught.value.codes) == (500, {"insufficient_quota"})


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("raw", [b"", b"plain", b"[]", b"{}", b'{"choices": []}', b'{"output": 1}', b"\xff", b"null"])
def test_what_is_no_answer_is_malformed(api: Api, raw: bytes) -> None:
    with pytest.raises(MalformedError, match="the response is not"):
        decode_answer(api, raw)


NAMES = st.sampled_from(["choices", "message", "content", "output", "status", "type", "text", "error", "code", "usage"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.just("completed") | st.just("message")


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=12))
def test_any_json_is_an_answer_or_malformed(value: Any) -> None:
    raw = msgspec.json.encode(value)
    for api in PATHS:
        with contextlib.suppress(MalformedError):
            assert isinstance(decode_answer(api, raw), Answer)


def test_model_names_are_listed_or_not() -> None:
    assert decode_models(b'{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}') == ["a", "b"]
    assert decode_models(b"<html>") is None


# --- Errors and headers ---


@pytest.mark.parametrize(
    ("body", "message", "codes"),
    [
        ({"error": {"message": "No.", "code": "content_filter", "type": "bad"}}, "No.", {"content_filter", "bad"}),
        ({"error": {"message": "No.", "code": None, "type": None}}, "No.", set()),
        ({"error": "No."}, "No.", set()),
        ({"object": "error", "message": "No.", "code": 400}, "No.", {"400"}),
        ([{"error": {"message": "No.", "code": 429}}], "No.", {"429"}),
        ({"detail": "Not Found"}, "Not Found", set()),
        ("plain", "plain", set()),
    ],
)
def test_the_message_and_codes_of_an_error_are_found(body: Any, message: str, codes: set[str]) -> None:
    assert error_of(json.dumps(body).encode()) == (message, codes)


def test_an_error_that_is_not_json_is_its_own_message() -> None:
    assert error_of(b"<html>Bad gateway \xff</html>") == ("<html>Bad gateway \ufffd</html>", frozenset())


def test_the_openai_client_reads_the_same_from_an_error(server: ScriptedEndpoint, client: openai.OpenAI) -> None:
    body = {"error": {"message": "No credit.", "type": "billing", "param": None, "code": "insufficient_quota"}}
    server.script.append(Reply(status=429, body=body))
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="m", input="x")
    message, codes = error_of(json.dumps(body).encode())
    assert message in str(caught.value)
    assert caught.value.code in codes
    assert caught.value.type in codes


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"Retry-After": "7", "retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "-1"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    seconds = retry_after({"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)})
    assert seconds is not None
    assert 90 < seconds <= 100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("6m0s", 360.0),
        ("17ms", 0.017),
        ("1s", 1.0),
        ("2m59.56s", 179.56),
        ("1h0m0s", 3600.0),
        ("1d2h", 93600.0),
        ("0s", 0.0),
        ("12.5", 12.5),
        ("1767225600", None),
        ("2026-01-01T00:00:00Z", None),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
def test_the_time_until_a_reset_is_read(value: str, seconds: float | None) -> None:
    limits = rate_limits({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": value})
    assert limits is not None
    assert limits.reset_requests_s == (None if seconds is None else pytest.approx(seconds))


def test_rate_limits_are_read_from_the_headers() -> None:
    limits = rate_limits(
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-remaining-tokens": "29990",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-reset-tokens": "20ms",
        }
    )
    assert limits is not None
    assert (limits.requests_per_minute, limits.remaining_requests, limits.reset_requests_s) == (500, 499, 0.12)
    assert (limits.tokens_per_minute, limits.remaining_tokens, limits.reset_tokens_s) == (30000, 29990, 0.02)


def test_a_limit_per_day_is_not_taken_for_one_per_minute() -> None:
    headers = {"x-ratelimit-limit-requests": "1000", "x-ratelimit-remaining-requests": "10"}
    limits = rate_limits(headers | {"x-ratelimit-reset-requests": "23h59m0s"})
    assert limits is not None
    assert (limits.requests_per_minute, limits.remaining_requests) == (None, 10)


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-limit-requests": "5"}, {"Retry-After": "1"}])
def test_headers_that_tell_no_remaining_calls_tell_nothing(headers: dict[str, str]) -> None:
    assert rate_limits(headers) is None


def test_unlimited_is_no_limit() -> None:
    limits = rate_limits({"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1"})
    assert limits is not None
    assert (limits.tokens_per_minute, limits.remaining_tokens) == (None, None)
