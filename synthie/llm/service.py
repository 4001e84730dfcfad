"""What the built-in server answers: the Chat Completions protocol over the rule-made model, as an ASGI application.

Requests, responses and errors have OpenAI's form
(https://platform.openai.com/docs/api-reference/chat); a token counts as four
characters. The text of a response depends on the request and the server's seed
alone. The switches of `LocalServerConfig` make it late, refuse, break off or
lie at given rates; whether one attempt at a request is refused is drawn from
the request and the number of the attempt, so a client that repeats gets through.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from synthie.config import LocalServerConfig
from synthie.llm.facts import Fact, parse_topic, parse_triplets
from synthie.llm.lexicon import lexicon
from synthie.llm.remarks import remark
from synthie.llm.unfaithful import corrupt, invent
from synthie.llm.verbalise import verbalise

__all__ = ["MAX_REQUEST_BYTES", "MODEL", "create_app", "identity"]

MODEL = "synthie-rules"
MAX_REQUEST_BYTES = 1 << 20
_DISCARDED_BYTES = 16 << 20  # a body that is too large is read up to here, so that the client sees the 413
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4
_RETRY_AFTER_S = 0.05
_BURST_S = 0.05
_REMEMBERED_REFUSALS = 1 << 16
_VERSION = 1  # of the rules: texts of another version may differ


def identity(config: LocalServerConfig, seed: int) -> str:
    """Name of the model that a configuration and seed make: equal names, equal texts."""
    decisive = {"switches": config.fingerprinted(), "seed": seed, "phrasings": lexicon().digest, "version": _VERSION}
    return "local:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def create_app(config: LocalServerConfig, *, api_key: str | None = None, seed: int = 0) -> Starlette:
    """The server as an ASGI application: /v1/chat/completions, /v1/models, /health and /stats."""
    service = _Service(config, api_key, seed)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/models", service.models, methods=["GET"]),
            Route("/v1/models/{model}", service.models, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/stats", service.statistics, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _unknown_url},
    )


# --- What a request says -------------------------------------------------------------------------------------------


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


_Limit = Annotated[int, msgspec.Meta(ge=1)] | None


class _ChatRequest(msgspec.Struct):
    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    def digest(self) -> bytes:
        """Of whatever decides about the text."""
        content = msgspec.json.encode((self.messages, self.seed, self.temperature))
        return hashlib.blake2b(content, digest_size=16).digest()


_decode = msgspec.json.Decoder(_ChatRequest).decode
_encode = msgspec.json.Encoder().encode


class _Refused(Exception):  # noqa: N818 - an answer, not a failure of this program
    """An error response in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = headers

    def response(self) -> Response:
        return Response(_encode(self.body), self.status, self.headers, media_type="application/json")


# --- The service ---------------------------------------------------------------------------------------------------


class _Service:
    """Answers requests; holds the counters and what the deliberate failures need to remember."""

    def __init__(self, config: LocalServerConfig, api_key: str | None, seed: int) -> None:
        self._config = config
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._salt = str(seed).encode()
        self._fingerprint = identity(config, seed)
        self._bucket = None if config.requests_per_second is None else _Bucket(config.requests_per_second)
        self._refusals: OrderedDict[bytes, int] = OrderedDict()  # digest of a request -> times refused in a row
        self._by_status: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()

    async def chat(self, request: Request) -> Response:
        try:
            response = await self._chat(request)
        except _Refused as refused:
            response = refused.response()
        self._by_status[response.status_code] += 1
        return response

    async def models(self, request: Request) -> Response:
        try:
            self._authorise(request)
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "synthie"}
            wanted = request.path_params.get("model")
            if wanted is None:
                return _json({"object": "list", "data": [model]})
            _require_model(wanted)
            return _json(model)
        except _Refused as refused:
            return refused.response()

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def statistics(self, request: Request) -> Response:
        """Counters since the start: chat requests by status, completions and their faults, tokens."""
        names = ("completions", "unfaithful", "truncated", "prompt_tokens", "completion_tokens")
        return _json(
            {
                "requests": self._by_status.total(),
                "by_status": {str(status): count for status, count in sorted(self._by_status.items())},
                **{name: self._counts[name] for name in names},
            }
        )

    async def _chat(self, request: Request) -> Response:
        self._authorise(request)
        chat = _parse(await _body(request))
        _require_model(chat.model)
        asked = _last_user_text(chat)
        wanted = parse_triplets(asked) or parse_topic(asked)
        if not wanted:
            raise _Refused(
                400,
                "The last user message must end with triplets, one a line: '1. subject | relation | object'; or, for a "
                "text without any, with 'Topic: name'.",
                param="messages",
                code="invalid_prompt",
            )
        digest = chat.digest()
        self._refuse_at_random(digest)
        if self._config.latency_s:
            # Evenly spread over half to one and a half of the mean.
            await asyncio.sleep(self._config.latency_s * (0.5 + self._fraction(b"latency", digest)))
        choices = [self._choice(chat, wanted, digest, index) for index in range(chat.n or 1)]
        usage = self._usage(chat, choices)
        head = {
            "id": f"chatcmpl-{digest.hex()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "system_fingerprint": self._fingerprint,
        }
        if chat.stream:
            with_usage = chat.stream_options is not None and chat.stream_options.include_usage
            events = _events(head | {"object": "chat.completion.chunk"}, choices, usage if with_usage else None)
            return StreamingResponse(events, media_type="text/event-stream")
        return _json(head | {"choices": choices, "usage": usage})

    def _authorise(self, request: Request) -> None:
        if self._authorization is None:
            return
        given = request.headers.get("authorization")
        if given is None:
            raise _Refused(401, "You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
        if not hmac.compare_digest(given.encode(), self._authorization):
            raise _Refused(401, "Incorrect API key provided.", code="invalid_api_key")

    def _refuse_at_random(self, digest: bytes) -> None:
        """Answer 429 or 500 at the configured rates, decided anew for each attempt at the same request."""
        if self._bucket is not None:
            wait = self._bucket.take()
            if wait:
                raise _rate_limited(wait)
        if not (self._config.rate_429 or self._config.rate_500):
            return
        attempt = self._refusals.get(digest, 0)
        fraction = self._fraction(b"refusal", digest, attempt.to_bytes(4, "big"))
        if fraction >= self._config.rate_429 + self._config.rate_500:
            self._refusals.pop(digest, None)
            return
        self._refusals[digest] = attempt + 1
        if len(self._refusals) > _REMEMBERED_REFUSALS:
            self._refusals.popitem(last=False)
        if fraction < self._config.rate_429:
            raise _rate_limited(_RETRY_AFTER_S)
        raise _Refused(500, "The server had an error while processing your request.", kind="server_error")

    def _choice(self, chat: _ChatRequest, wanted: list[Fact] | str, digest: bytes, index: int) -> dict[str, Any]:
        """A text on the facts, or one that mentions a topic and states nothing."""
        random = Random(self._hash(b"text", digest, index.to_bytes(4, "big")))
        unfaithful = random.random() < self._config.unfaithful
        truncated = random.random() < self._config.truncated
        self._counts["unfaithful"] += unfaithful
        if isinstance(wanted, str):
            text = remark(wanted, random)
            if unfaithful:
                text = f"{text} {verbalise([invent(wanted, random)], random)}"
        else:
            text = verbalise(corrupt(wanted, _demonstrated(chat), random)[0] if unfaithful else wanted, random)
        reason = "stop"
        limits = [limit for limit in (chat.max_tokens, chat.max_completion_tokens) if limit is not None]
        if truncated:
            limits.append(max(1, int(_tokens(text) * (0.3 + 0.5 * random.random()))))
        if limits and _tokens(text) > min(limits):
            text, reason = text[: min(limits) * _CHARACTERS_PER_TOKEN], "length"
            self._counts["truncated"] += 1
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def _usage(self, chat: _ChatRequest, choices: list[dict[str, Any]]) -> dict[str, Any]:
        prompt = sum(_tokens(message.text) + _TOKENS_PER_MESSAGE for message in chat.messages)
        completion = sum(_tokens(choice["message"]["content"]) for choice in choices)
        self._counts["completions"] += len(choices)
        self._counts["prompt_tokens"] += prompt
        self._counts["completion_tokens"] += completion
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _hash(self, *parts: bytes) -> int:
        digest = hashlib.blake2b(b"\0".join(parts), digest_size=8, key=self._salt)
        return int.from_bytes(digest.digest(), "big")

    def _fraction(self, *parts: bytes) -> float:
        return self._hash(*parts) / 2**64


class _Bucket:
    """Lets ``rate`` calls a second through, and a small burst."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * _BURST_S)
        self._level = self._capacity
        self._filled = time.monotonic()

    def take(self) -> float:
        """Take one call; 0 if there was one, else the seconds until there will be."""
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


# --- Helpers -------------------------------------------------------------------------------------------------------


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _DISCARDED_BYTES:
            break
        if size <= MAX_REQUEST_BYTES:
            chunks.append(chunk)
    if size > MAX_REQUEST_BYTES:
        raise _Refused(413, f"The request is larger than {MAX_REQUEST_BYTES:,} bytes.", code="request_too_large")
    return b"".join(chunks)


def _parse(body: bytes) -> _ChatRequest:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise _Refused(400, f"Invalid request: {reason}.", param=path.strip(".`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Refused(400, f"The body of the request is not valid JSON: {error}.") from None


def _require_model(name: str) -> None:
    if name != MODEL:
        raise _Refused(404, f"The model `{name}` does not exist; this server offers `{MODEL}`.", code="model_not_found")


def _last_user_text(chat: _ChatRequest) -> str:
    return next((message.text for message in reversed(chat.messages) if message.role == "user"), "")


def _demonstrated(chat: _ChatRequest) -> list[Fact]:
    """The facts in the other user messages: a prompt's demonstrations."""
    *before, _ = [message.text for message in chat.messages if message.role == "user"]
    return [fact for text in before for fact in parse_triplets(text)]


def _rate_limited(seconds: float) -> _Refused:
    headers = {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
    return _Refused(
        429,
        f"Rate limit reached for {MODEL}. Please try again in {math.ceil(seconds * 1000)}ms.",
        kind="requests",
        code="rate_limit_exceeded",
        headers=headers,
    )


def _tokens(text: str) -> int:
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def _json(data: Any) -> Response:
    return Response(_encode(data), media_type="application/json")


async def _events(
    head: dict[str, Any], choices: list[dict[str, Any]], usage: dict[str, Any] | None
) -> AsyncIterator[bytes]:
    """The response as server-sent events: role, pieces of text, finish reason; usage if asked for; the end mark."""
    for choice in choices:
        for delta, reason in _deltas(choice):
            chunk = {"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": reason}
            yield _event(head | {"choices": [chunk]})
    if usage is not None:
        yield _event(head | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _deltas(choice: dict[str, Any]) -> Iterator[tuple[dict[str, str], str | None]]:
    text, step = choice["message"]["content"], 4 * _CHARACTERS_PER_TOKEN
    yield {"role": "assistant", "content": ""}, None
    for start in range(0, len(text), step):
        yield {"content": text[start : start + step]}, None
    yield {}, choice["finish_reason"]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"


async def _unknown_url(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _Refused(status, f"Unknown request URL: {request.method} {request.url.path}.", code="unknown_url").response()
