"""The wire forms of chat completions and of OpenAI's Responses API: requests, answers, errors, and what headers tell.

Nothing here knows of endpoints or connections: bytes and headers go in, plain values come out. The references are
https://platform.openai.com/docs/api-reference/chat and https://platform.openai.com/docs/api-reference/responses.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from synthie.llm.limits import RateLimits
from synthie.llm.pricing import Usage

__all__ = [
    "PATHS",
    "Answer",
    "Api",
    "FailedAnswerError",
    "MalformedError",
    "decode_answer",
    "decode_models",
    "encode_body",
    "error_of",
    "rate_limits",
    "retry_after",
]

Api = Literal["chat", "responses"]

PATHS: dict[Api, str] = {"chat": "/chat/completions", "responses": "/responses"}  # below the base URL

_LIMITS = ("max_completion_tokens", "max_tokens")  # chat's names for what is max_output_tokens in responses
_MOST_TOKENS = 2**31 - 1  # of one call; what tells of more, or of fewer than none, tells nothing
_LONGEST_WINDOW_S = 61.0  # of a limit that may be taken for one per minute
_LONGEST_RESET_S = 86_400.0  # a greater number is not a duration but a moment


class MalformedError(Exception):
    """The body of a response with status 200 is not an answer."""


class FailedAnswerError(MalformedError):
    """The body of a response with status 200 says that there is no answer.

    Attributes:
        status: the HTTP status that says the same.
        codes: as of `error_of`.
    """

    def __init__(self, message: str, status: int, codes: frozenset[str]) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered.

    Attributes:
        text: the text, exactly as it came; empty if the model answered with nothing.
        finish_reason: as chat completions name it: stop, length, content_filter, or whatever the endpoint says.
        model: the model that the endpoint says it used.
        usage: tokens as billed, None if the endpoint does not say.
    """

    text: str
    finish_reason: str | None
    model: str
    usage: Usage | None


# --- Requests -------------------------------------------------------------------------------------------------------


def encode_body(api: Api, model: str, messages: list[dict[str, str]], fields: Mapping[str, Any]) -> bytes:
    """The body of a request; equal arguments give equal bytes.

    Args:
        api: the protocol.
        model: model name.
        messages: dicts of ``role`` and ``content``.
        fields: further fields by chat's names. The Responses API has no ``seed``, so it is left out there, and one
            limit on tokens: ``max_output_tokens`` if it is given, else the greater of chat's two.
    """
    if api == "chat":
        return _encoder.encode({"model": model, "messages": messages, **fields})
    rest = {name: value for name, value in fields.items() if name not in (*_LIMITS, "seed")}
    limits = [fields[name] for name in _LIMITS if name in fields]
    limit = {"max_output_tokens": max(limits)} if limits else {}
    return _encoder.encode({"model": model, "input": messages, "store": False, **limit, **rest})


_encoder = msgspec.json.Encoder(order="deterministic")


# --- Answers --------------------------------------------------------------------------------------------------------


def decode_answer(api: Api, raw: bytes) -> Answer:
    """The answer in the body of a response with status 200.

    Raises:
        FailedAnswerError: the body holds an error.
        MalformedError: the body is something else.
    """
    try:
        return _chat_answer(raw) if api == "chat" else _responses_answer(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _raise_told(raw)
        what = "a chat completion" if api == "chat" else "a response of the Responses API"
        raise MalformedError(f"the response is not {what}: {error}") from None


def _raise_told(raw: bytes) -> None:
    """Raise the error that a body with status 200 holds; some gateways answer so. A code may be its HTTP status."""
    message, codes = error_of(raw)
    status = next((int(code) for code in codes if code.isdecimal() and 400 <= int(code) < 600), None)
    if status is None and codes and message:
        status = 500
    if status is not None:
        raise FailedAnswerError(message, status, codes)


class _ChatDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _ChatDetails | None = None


class _ChatPart(msgspec.Struct):
    text: str = ""


class _ChatMessage(msgspec.Struct):
    content: str | list[_ChatPart] | None = None


class _Choice(msgspec.Struct):
    message: _ChatMessage
    finish_reason: str | None = None


class _ChatCompletion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _ChatUsage | None = None


_chat_decoder = msgspec.json.Decoder(_ChatCompletion)


def _chat_answer(raw: bytes) -> Answer:
    completion = _chat_decoder.decode(raw)
    if not completion.choices:
        raise MalformedError("the response is not a chat completion: it has no choices")
    choice = completion.choices[0]
    content = choice.message.content
    text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
    usage = None
    if completion.usage is not None:
        told = completion.usage
        details = told.prompt_tokens_details
        cached = details.cached_tokens if details else None
        usage = _usage(told.prompt_tokens, told.completion_tokens, cached)
    return Answer(text, choice.finish_reason, completion.model or "", usage)


class _ResponsesDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _ResponsesDetails | None = None


class _ResponsesPart(msgspec.Struct):
    type: str = ""
    text: str | None = None


class _ResponsesItem(msgspec.Struct):
    """An output item; those that are not messages have other contents, or none."""

    type: str = ""
    content: Any = None


class _ResponsesError(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    output: list[_ResponsesItem]
    status: str | None = None
    model: str | None = None
    error: _ResponsesError | None = None
    incomplete_details: _Incomplete | None = None
    usage: _ResponsesUsage | None = None


_responses_decoder = msgspec.json.Decoder(_Response)
_REASONS = {"max_output_tokens": "length"}
_STATUS_OF_FAILURE = {"server_error": 500, "vector_store_timeout": 500, "rate_limit_exceeded": 429}  # else 400


def _responses_answer(raw: bytes) -> Answer:
    response = _responses_decoder.decode(raw)
    if response.status == "failed" or response.error is not None:
        error = response.error or _ResponsesError()
        code = error.code or "server_error"
        message = f"the model failed to answer ({code}): {error.message or 'no reason given'}"
        raise FailedAnswerError(message, _STATUS_OF_FAILURE.get(code, 400), frozenset({code}))
    if response.status == "completed":
        finish_reason: str | None = "stop"
    elif response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else None
        finish_reason = _REASONS.get(reason, reason) if reason else None
    else:
        raise MalformedError(f"the response is not complete: its status is {response.status!r}")
    messages = [item.content for item in response.output if item.type == "message" and item.content is not None]
    parts = [part for content in messages for part in msgspec.convert(content, list[_ResponsesPart])]
    text = "".join(part.text for part in parts if part.type == "output_text" and part.text)
    usage = None
    if response.usage is not None:
        told = response.usage
        cached = told.input_tokens_details.cached_tokens if told.input_tokens_details else None
        usage = _usage(told.input_tokens, told.output_tokens, cached)
    return Answer(text, finish_reason, response.model or "", usage)


def _usage(input_tokens: int | None, output_tokens: int | None, cached: int | None) -> Usage | None:
    if input_tokens is None or output_tokens is None:
        return None
    if not (0 <= input_tokens <= _MOST_TOKENS and 0 <= output_tokens <= _MOST_TOKENS):
        return None
    return Usage(input_tokens, output_tokens, min(max(0, cached or 0), input_tokens))


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def decode_models(raw: bytes) -> list[str] | None:
    """The names in an answer to ``GET /models``, None if it is something else."""
    try:
        return [model.id for model in msgspec.json.decode(raw, type=_Models).data]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# --- Errors ---------------------------------------------------------------------------------------------------------


def error_of(raw: bytes) -> tuple[str, frozenset[str]]:
    """The message of an error response, as long as it is, and its ``code`` and ``type``."""
    try:
        data: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw.decode(errors="replace"), frozenset()
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return str(error), frozenset()
    message = error.get("message") or error.get("detail") or ""
    return str(message), frozenset(str(error[name]) for name in ("code", "type") if error.get(name))


# --- Headers --------------------------------------------------------------------------------------------------------


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date), or None."""
    for name, unit in (("retry-after-ms", 1e-3), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if seconds < float("inf") else None
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """What ``x-ratelimit-*`` headers tell, or None if there are none.

    A limit whose window is longer than a minute, as its reset shows, is not taken for one per minute.
    """
    if "x-ratelimit-remaining-requests" not in headers and "x-ratelimit-remaining-tokens" not in headers:
        return None
    requests, remaining_requests, reset_requests_s = _limit(headers, "requests")
    tokens, remaining_tokens, reset_tokens_s = _limit(headers, "tokens")
    return RateLimits(
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        remaining_requests=remaining_requests,
        remaining_tokens=remaining_tokens,
        reset_requests_s=reset_requests_s,
        reset_tokens_s=reset_tokens_s,
    )


def _limit(headers: Mapping[str, str], kind: str) -> tuple[int | None, int | None, float | None]:
    """Units per minute, units left, and seconds until all of them are back."""
    reset_s = _duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
    limit = _count(headers.get(f"x-ratelimit-limit-{kind}", ""))
    is_per_minute = limit and (reset_s is None or reset_s <= _LONGEST_WINDOW_S)
    return limit if is_per_minute else None, _count(headers.get(f"x-ratelimit-remaining-{kind}", "")), reset_s


def _count(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdecimal() else None  # gateways send -1 for "unlimited"


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d*)?)s)?(?:(\d+(?:\.\d*)?)ms)?", re.ASCII)
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 1e-3)


def _duration(value: str) -> float | None:
    """Seconds of a duration such as ``6m0s``, ``17ms``, ``1h2m3.5s``, or of a plain number of seconds."""
    match = _DURATION.fullmatch(value)
    if value and match:
        return sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part)
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0.0 <= seconds <= _LONGEST_RESET_S else None
