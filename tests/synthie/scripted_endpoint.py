"""An endpoint on loopback, of both protocols, that follows a script and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 20
PATIENCE_S = 60.0  # with what a test waits for; a machine may be slow
_LINE = re.compile(r"^\d+\. (.+?) \| (.+?) \| (.+)$", re.MULTILINE)


@dataclass
class Reply:
    """What the endpoint answers: ``content`` in a completion, or any ``body`` with any ``status``.

    A ``body`` of bytes is sent as it is. ``breaks_off`` closes the connection without an answer. It is sent once
    ``after`` is true.
    """

    content: Any = "A text."
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish_reason: str = "stop"
    breaks_off: bool = False
    after: Callable[[], bool] = lambda: True
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    )

    @classmethod
    def error(cls, status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status=status, body={"error": {"message": message, "code": code}}, headers=names)


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    body: dict[str, Any]
    headers: dict[str, str]
    query: dict[str, str]
    at: float
    url: str = ""


def faithful(seen: Seen) -> Reply:
    """States the triplets of the last message, one sentence each."""
    messages = seen.body.get("messages") or seen.body["input"]
    facts = _LINE.findall(messages[-1]["content"].split("\n\n")[-1])
    return Reply(" ".join(f"The {relation} of {subject} is {obj}." for subject, relation, obj in facts))


class ScriptedEndpoint:
    """Serves for the length of a ``with`` block.

    Attributes:
        script: replies to give first, one a request.
        respond: makes the reply to any other request.
        seen: all requests, in order of arrival.
        completions: number of completions served.
        in_flight: requests being answered now.
        pause_after: completions after which requests wait, until it is raised.
        models: names under /models, or None to answer it with 404.
    """

    def __init__(
        self,
        respond: Callable[[Seen], Reply] = faithful,
        models: list[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script: deque[Reply] = deque()
        self.respond = respond
        self.models = models
        self.seen: list[Seen] = []
        self.completions = 0
        self.in_flight = 0
        self.pause_after = math.inf
        self._tls = tls
        self._port = 0
        self._connections: set[asyncio.BaseTransport] = set()
        self._started = threading.Event()

    def __enter__(self) -> ScriptedEndpoint:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)

    def die(self) -> None:
        """Break off all connections and take no more, as when the process is killed."""
        asyncio.run_coroutine_threadsafe(self._die(), self._loop).result(PATIENCE_S)

    def revive(self) -> None:
        """Listen again where it did before."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE_S)

    def settle(self) -> None:
        """Wait until nobody is connected any more and all that had arrived is answered."""
        asyncio.run_coroutine_threadsafe(self._settle(), self._loop).result(PATIENCE_S)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/responses", self._chat)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        scheme = "https" if self._tls else "http"
        self.base_url = f"{scheme}://127.0.0.1:{self._port}/v1"
        self._started.set()
        await self._end.wait()
        await self._runner.cleanup()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]

    async def _die(self) -> None:
        await self._site.stop()
        for transport in self._connections:
            transport.abort()  # type: ignore[attr-defined]
        self._connections.clear()

    async def _settle(self) -> None:
        quiet = 0
        while quiet < 3:  # a request that came with the end of its connection begins a turn of the loop later
            await asyncio.sleep(0.005)
            quiet = 0 if self.in_flight or self._runner.server.connections else quiet + 1  # type: ignore[union-attr]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self._connections.add(request.transport)
        self.in_flight += 1
        try:
            body = json.loads(await request.read())
            seen = Seen(body, dict(request.headers), dict(request.query), time.time(), str(request.url))
            self.seen.append(seen)
            reply = self.script.popleft() if self.script else self.respond(seen)
            await asyncio.sleep(reply.delay_s)
            await _until(reply.after)
            await _until(lambda: self.completions < self.pause_after)
        finally:
            self.in_flight -= 1
        if reply.breaks_off:
            request.transport.abort()
            return web.Response()
        if isinstance(reply.body, bytes):
            return web.Response(body=reply.body, status=reply.status, headers=reply.headers)
        if reply.body is not None or reply.status != 200:
            return web.json_response(reply.body, status=reply.status, headers=reply.headers)
        self.completions += 1
        form = _completion if "messages" in seen.body else _response
        return web.json_response(form(seen.body["model"] + "-2024", reply), headers=reply.headers)

    async def _list(self, request: web.Request) -> web.Response:
        if self.models is None:
            return web.json_response({"error": {"message": "unknown"}}, status=404)
        return web.json_response({"data": [{"id": name} for name in self.models]})


async def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact() and time.monotonic() < deadline:
        await asyncio.sleep(0.002)


def _completion(model: str, reply: Reply) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": reply.content}, "finish_reason": reply.finish_reason}
    return {"model": model, "choices": [choice]} | ({} if reply.usage is None else {"usage": reply.usage})


def _response(model: str, reply: Reply) -> dict[str, Any]:
    """The same answer in the form of the Responses API."""
    status, reason = {"stop": ("completed", None), "length": ("incomplete", "max_output_tokens")}[reply.finish_reason]
    message = {"type": "message", "content": [{"type": "output_text", "text": reply.content}]}
    usage = reply.usage and {
        "input_tokens": reply.usage["prompt_tokens"],
        "output_tokens": reply.usage["completion_tokens"],
    }
    details = reason and {"reason": reason}
    return {"model": model, "status": status, "output": [message], "usage": usage, "incomplete_details": details}
