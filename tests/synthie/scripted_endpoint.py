"""A chat completions endpoint on loopback that follows a script and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 20
_LINE = re.compile(r"^\d+\. (.+?) \| (.+?) \| (.+)$", re.MULTILINE)


@dataclass
class Reply:
    """What the endpoint answers: ``content`` in a completion, or any ``body`` with any ``status``."""

    content: Any = "A text."
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish_reason: str = "stop"
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


def faithful(seen: Seen) -> Reply:
    """States the triplets of the last message, one sentence each."""
    facts = _LINE.findall(seen.body["messages"][-1]["content"].split("\n\n")[-1])
    return Reply(" ".join(f"The {relation} of {subject} is {obj}." for subject, relation, obj in facts))


class ScriptedEndpoint:
    """Serves for the length of a ``with`` block.

    Attributes:
        script: replies to give first, one a request.
        respond: makes the reply to any other request.
        seen: all requests, in order of arrival.
        completions: number of completions served.
        in_flight: requests being answered now.
        models: names under /models, or None to answer it with 404.
    """

    def __init__(self, respond: Callable[[Seen], Reply] = faithful, models: list[str] | None = None) -> None:
        self.script: deque[Reply] = deque()
        self.respond = respond
        self.models = models
        self.seen: list[Seen] = []
        self.completions = 0
        self.in_flight = 0
        self._started = threading.Event()

    def __enter__(self) -> ScriptedEndpoint:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._started.set()
        await self._end.wait()
        await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.Response:
        self.in_flight += 1
        try:
            seen = Seen(json.loads(await request.read()), dict(request.headers), dict(request.query), time.time())
            self.seen.append(seen)
            reply = self.script.popleft() if self.script else self.respond(seen)
            await asyncio.sleep(reply.delay_s)
        finally:
            self.in_flight -= 1
        if reply.body is not None or reply.status != 200:
            return web.json_response(reply.body, status=reply.status, headers=reply.headers)
        self.completions += 1
        choice = {"index": 0, "message": {"content": reply.content}, "finish_reason": reply.finish_reason}
        body = {"model": seen.body["model"] + "-2024", "choices": [choice]}
        if reply.usage is not None:
            body["usage"] = reply.usage
        return web.json_response(body, headers=reply.headers)

    async def _list(self, request: web.Request) -> web.Response:
        if self.models is None:
            return web.json_response({"error": {"message": "unknown"}}, status=404)
        return web.json_response({"data": [{"id": name} for name in self.models]})
