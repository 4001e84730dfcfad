"""What the built-in server answers: OpenAI's protocols over the rule-made model, as an ASGI application.

Chat completions, responses, files and batches have OpenAI's form
(`synthie.llm.service_protocol`, `synthie.llm.service_batches`); a token counts
as four characters. The text of an answer depends on the request and the
server's seed alone. The switches of `LocalServerConfig` make it late, refuse,
break off or lie at given rates; whether one attempt at a request is refused is
drawn from the request and the number of the attempt, so a client that repeats
gets through.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from random import Random

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from synthie.config import LocalServerConfig
from synthie.llm.facts import Fact, parse_topic, parse_triplets
from synthie.llm.lexicon import lexicon
from synthie.llm.remarks import remark
from synthie.llm.rule_judge import JudgeQuestion, judge, parse_question
from synthie.llm.service_batches import Batches, BatchRules
from synthie.llm.service_protocol import (
    PROTOCOLS,
    Answer,
    ChatRequest,
    Refused,
    Text,
    chat_events,
    cut,
    encode,
    json_response,
    tokens,
)
from synthie.llm.unfaithful import corrupt, invent
from synthie.llm.verbalise import verbalise

__all__ = ["MAX_REQUEST_BYTES", "MODEL", "create_app", "identity"]

MODEL = "synthie-rules"
MAX_REQUEST_BYTES = 1 << 20
_DISCARDED_BYTES = 16 << 20  # a body that is too large is read up to here, so that the client sees the 413
_RETRY_AFTER_S = 0.05
_BURST_S = 0.05
_REMEMBERED_REFUSALS = 1 << 16
_VERSION = 1  # of the rules: texts of another version may differ


def identity(config: LocalServerConfig, seed: int) -> str:
    """Name of the model that a configuration and seed make: equal names, equal texts."""
    decisive = {"switches": config.fingerprinted(), "seed": seed, "phrasings": lexicon().digest, "version": _VERSION}
    return "local:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def create_app(
    config: LocalServerConfig,
    *,
    api_key: str | None = None,
    seed: int = 0,
    batches: BatchRules = BatchRules(),  # noqa: B008 - immutable
) -> Starlette:
    """The server as an ASGI application: the paths of `PROTOCOLS`, files, batches, /v1/models, /health and /stats."""
    service = _Service(config, api_key, seed, batches)
    guarded = service.guarded
    return Starlette(
        routes=[
            *(Route(path, service.live, methods=["POST"]) for path in PROTOCOLS),
            Route("/v1/models", guarded(service.models), methods=["GET"]),
            Route("/v1/models/{model}", guarded(service.models), methods=["GET"]),
            *service.batches.routes(guarded),
            Route("/health", service.health, methods=["GET"]),
            Route("/stats", service.statistics, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _unknown_url},
    )


_Handler = Callable[[Request], Awaitable[Response]]


class _Service:
    """Answers requests; holds the counters and what the deliberate failures need to remember."""

    def __init__(self, config: LocalServerConfig, api_key: str | None, seed: int, rules: BatchRules) -> None:
        self.batches = Batches(self._answer_line, rules, MODEL)
        self._config = config
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._salt = str(seed).encode()
        self._fingerprint = identity(config, seed)
        self._bucket = None if config.requests_per_second is None else _Bucket(config.requests_per_second)
        self._refusals: OrderedDict[bytes, int] = OrderedDict()  # digest of a request -> times refused in a row
        self._by_status: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()

    def guarded(self, handler: _Handler) -> _Handler:
        """``handler`` for those who have the key, with refusals as responses."""

        async def guard(request: Request) -> Response:
            try:
                self._authorise(request)
                return await handler(request)
            except Refused as refused:
                return refused.response()

        return guard

    async def live(self, request: Request) -> Response:
        """One of the `PROTOCOLS`, answered at once."""
        response = await self.guarded(self._live)(request)
        self._by_status[response.status_code] += 1
        return response

    async def models(self, request: Request) -> Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "synthie"}
        wanted = request.path_params.get("model")
        if wanted is None:
            return json_response({"object": "list", "data": [model]})
        _require_model(wanted)
        return json_response(model)

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def statistics(self, request: Request) -> Response:
        """Counters since the start: live requests by status, batches and their lines, completions and their faults."""
        names = ("completions", "unfaithful", "truncated", "prompt_tokens", "completion_tokens")
        return json_response(
            {
                "requests": self._by_status.total(),
                "by_status": {str(status): count for status, count in sorted(self._by_status.items())},
                **self.batches.statistics(),
                **{name: self._counts[name] for name in names},
            }
        )

    async def _live(self, request: Request) -> Response:
        protocol = PROTOCOLS[request.url.path]
        asked = protocol.parse(await _body(request))
        answer = await self._answer(asked, self._bucket)
        if asked.stream:
            return StreamingResponse(chat_events(answer), media_type="text/event-stream")
        return json_response(protocol.body(answer))

    async def _answer_line(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a line of a batch."""
        protocol = PROTOCOLS[url]
        try:
            asked = protocol.parse(body)
            if asked.stream:
                raise Refused(400, "A batch cannot stream.", param="stream")
            return 200, encode(protocol.body(await self._answer(asked, None)))
        except Refused as refused:
            return refused.status, encode(refused.body)

    async def _answer(self, asked: ChatRequest, bucket: _Bucket | None) -> Answer:
        _require_model(asked.model)
        texts = asked.user_texts or [""]
        wanted = parse_question(texts[-1]) or parse_triplets(texts[-1]) or parse_topic(texts[-1])
        if not wanted:
            raise Refused(
                400,
                "The last user message must end with triplets, one a line: '1. subject | relation | object'; or, for a "
                "text without any, with 'Topic: name'; or, to have a text judged, with 'Text: …', an empty line, "
                "'Facts:' and its triplets.",
                param="messages",
                code="invalid_prompt",
            )
        if bucket is not None:
            bucket.take()
        digest = asked.digest()
        self._refuse_at_random(digest)
        if self._config.latency_s:
            # Evenly spread over half to one and a half of the mean.
            await asyncio.sleep(self._config.latency_s * (0.5 + self._fraction(b"latency", digest)))
        demonstrated = [fact for text in texts[:-1] for fact in parse_triplets(text)]
        answer = Answer(
            asked,
            digest.hex(),
            self._fingerprint,
            [self._text(asked, wanted, demonstrated, digest, index) for index in range(asked.n or 1)],
        )
        self._counts["completions"] += len(answer.texts)
        self._counts["prompt_tokens"] += asked.tokens
        self._counts["completion_tokens"] += answer.output_tokens
        return answer

    def _authorise(self, request: Request) -> None:
        if self._authorization is None:
            return
        given = request.headers.get("authorization")
        if given is None:
            raise Refused(401, "You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
        if not hmac.compare_digest(given.encode(), self._authorization):
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")

    def _refuse_at_random(self, digest: bytes) -> None:
        """Answer 429 or 500 at the configured rates, decided anew for each attempt at the same request."""
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
        raise Refused(500, "The server had an error while processing your request.", kind="server_error")

    def _text(
        self,
        asked: ChatRequest,
        wanted: list[Fact] | str | JudgeQuestion,
        demonstrated: list[Fact],
        digest: bytes,
        index: int,
    ) -> Text:
        """A text on the facts, one that mentions a topic and states nothing, or a judgement."""
        random = Random(self._hash(b"text", digest, index.to_bytes(4, "big")))
        unfaithful = random.random() < self._config.unfaithful and not isinstance(wanted, JudgeQuestion)
        truncated = random.random() < self._config.truncated
        self._counts["unfaithful"] += unfaithful
        if isinstance(wanted, JudgeQuestion):
            text = judge(wanted, self._config.judge_noise, random)
        elif isinstance(wanted, str):
            text = remark(wanted, random)
            if unfaithful:
                text = f"{text} {verbalise([invent(wanted, random)], random)}"
        else:
            text = verbalise(corrupt(wanted, demonstrated, random)[0] if unfaithful else wanted, random)
        limits = [] if asked.limit is None else [asked.limit]
        if truncated:
            limits.append(max(1, int(tokens(text) * (0.3 + 0.5 * random.random()))))
        if not limits or tokens(text) <= min(limits):
            return Text(text, is_cut=False)
        self._counts["truncated"] += 1
        return Text(cut(text, min(limits)), is_cut=True)

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

    def take(self) -> None:
        """Take one call.

        Raises:
            Refused: there is none; tells when there will be.
        """
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            raise _rate_limited((1 - self._level) / self._rate)
        self._level -= 1


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
        raise Refused(413, f"The request is larger than {MAX_REQUEST_BYTES:,} bytes.", code="request_too_large")
    return b"".join(chunks)


def _require_model(name: str) -> None:
    if name != MODEL:
        raise Refused(404, f"The model `{name}` does not exist; this server offers `{MODEL}`.", code="model_not_found")


def _rate_limited(seconds: float) -> Refused:
    headers = {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
    return Refused(
        429,
        f"Rate limit reached for {MODEL}. Please try again in {math.ceil(seconds * 1000)}ms.",
        kind="requests",
        code="rate_limit_exceeded",
        headers=headers,
    )


async def _unknown_url(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return Refused(status, f"Unknown request URL: {request.method} {request.url.path}.", code="unknown_url").response()
