"""The extractor as a JSON service on loopback.

``POST /extract`` takes ``{"texts": […], "beams": …, "constrained": …, "candidates": …}``, of which only the texts must
be there, and answers ``{"predictions": […]}``, one a text in their order. ``GET /health`` tells whether it works and
how many texts wait. Errors are ``{"error": "…"}`` with 400 (no JSON), 401 (key), 413 (body too large), 422 (not a
valid request, or beyond the limits), 429 with Retry-After (queue full), 500 (the model failed) or 503 (closing).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from synthie.errors import ConfigError
from synthie.extractor.serving.batching import ClosedError, MicroBatcher, Options, OverloadedError
from synthie.records import Prediction

__all__ = ["ExtractorServer", "Limits", "create_app", "listen"]

log = logging.getLogger(__name__)

_DISCARDED_BYTES = 16 << 20  # a body that is too large is read up to here, so that the client sees the 413
_CLIENT_LEFT = 499  # nobody reads it
_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for, and what may wait.

    Attributes:
        texts: in a request.
        characters: in a text.
        body_bytes: of a request.
        beams: of its search.
        queued_texts: of all requests that wait.
    """

    texts: int = 64
    characters: int = 20_000
    body_bytes: int = 4 << 20
    beams: int = 10
    queued_texts: int = 1_024


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[str]
    beams: int | None = None
    constrained: bool = True
    candidates: int = 1


def create_app(
    batcher: MicroBatcher,
    *,
    limits: Limits = Limits(),
    beams: int,
    api_key: str | None = None,
) -> Starlette:
    """The service as an ASGI application.

    Args:
        batcher: what answers.
        limits: see `Limits`.
        beams: of a request that does not say.
        api_key: what clients must send as bearer token; None accepts any.
    """

    async def extract(request: Request) -> Response:
        _authorise(request, api_key)
        question = _parse(await _body(request, limits.body_bytes), limits, beams)
        options = Options(question.beams, question.constrained, question.candidates)
        try:
            predictions = await _result(request, batcher.submit(question.texts, options))
        except OverloadedError as error:
            raise HTTPException(429, str(error), {"Retry-After": str(error.retry_after_s)}) from None
        except ClosedError:
            raise HTTPException(503, "The server is closing.", {"Retry-After": "5"}) from None
        if predictions is None:
            return Response(status_code=_CLIENT_LEFT)
        return _json({"predictions": [prediction.to_record() for prediction in predictions]})

    async def health(request: Request) -> Response:
        told = {"status": "ok" if batcher.is_alive else "closing", "waiting_texts": batcher.waiting}
        return _json(told, 200 if batcher.is_alive else 503)

    return Starlette(
        routes=[Route("/extract", extract, methods=["POST"]), Route("/health", health, methods=["GET"])],
        exception_handlers={HTTPException: _refused, Exception: _failed},  # type: ignore[dict-item]
    )


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1.

    Raises:
        ConfigError: the port is taken or none.
    """
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"Cannot listen on 127.0.0.1 port {port}: {reason}. Choose another with --port, or 0 for any free one."
        ) from None


class ExtractorServer:
    """The service on a listening socket: `run` in the foreground, or in a thread for the length of a block.

    Either ends gracefully: requests in work are answered, for at most 30 s.

    Args:
        extract: finds the triplets of several texts; called in one thread only.
        listener: from `listen`.
        batch_texts: texts that are extracted together.
        beams, limits, api_key: as for `create_app`.

    Attributes:
        url: where the service is.
    """

    def __init__(
        self,
        extract: Callable[[list[str], Options], list[Prediction]],
        listener: socket.socket,
        *,
        batch_texts: int = 32,
        beams: int,
        limits: Limits = Limits(),
        api_key: str | None = None,
    ) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self._batcher = MicroBatcher(extract, batch_texts=batch_texts, queued_texts=limits.queued_texts)
        config = uvicorn.Config(
            create_app(self._batcher, limits=limits, beams=beams, api_key=api_key),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until interrupted."""
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self._server.run(sockets=[self._listener])
        finally:
            self._batcher.close()

    def __enter__(self) -> ExtractorServer:
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


# --- A request ------------------------------------------------------------------------------------------------------


def _authorise(request: Request, api_key: str | None) -> None:
    given = request.headers.get("authorization", "")
    if api_key is not None and not hmac.compare_digest(given.encode("latin-1"), f"Bearer {api_key}".encode()):
        raise HTTPException(401, "Send the key as 'Authorization: Bearer KEY'.", {"WWW-Authenticate": "Bearer"})


async def _body(request: Request, most: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _DISCARDED_BYTES:
            break
        if size <= most:
            chunks.append(chunk)
    if size > most:
        raise HTTPException(413, f"The request is larger than {most:,} bytes. Send fewer texts at once.")
    return b"".join(chunks)


def _parse(body: bytes, limits: Limits, beams: int) -> _Question:
    """The request, within the limits, with beams."""
    try:
        question = msgspec.json.decode(body, type=_Question)
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"The request is not valid: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"The body is not valid JSON: {error}.") from None
    if question.beams is None:
        question.beams = max(beams, question.candidates)
    _require(0 < len(question.texts) <= limits.texts, f"A request has 1 to {limits.texts} texts.")
    _require(0 < question.beams <= limits.beams, f"beams must be 1 to {limits.beams}.")
    _require(0 < question.candidates <= question.beams, "candidates must be 1 to the number of beams.")
    for number, text in enumerate(question.texts):
        _require(
            len(text) <= limits.characters,
            f"texts[{number}] has {len(text):,} characters, and {limits.characters:,} are the most. Divide it.",
        )
    return question


def _require(is_met: bool, reason: str) -> None:
    if not is_met:
        raise HTTPException(422, reason)


async def _result(request: Request, future: Future[list[Prediction]]) -> list[Prediction] | None:
    """What the future brings, or None if the client left first: then its turn is given up."""
    answer = asyncio.wrap_future(future)
    left = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {answer, left}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        left.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- Answers --------------------------------------------------------------------------------------------------------


def _json(data: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(data), status, headers, media_type="application/json")


async def _refused(request: Request, error: HTTPException) -> Response:
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": "The extractor failed on this request; the server's log tells why."}, 500)
