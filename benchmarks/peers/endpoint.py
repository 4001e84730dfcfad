"""The chat completions endpoint that every client of `generation.py` is measured against, a process of its own.

    python benchmarks/peers/endpoint.py

Prints its port and serves until its parent ends. ``POST /behave`` (JSON, fields of `Behaviour`) forgets all that was
counted and sets how it answers; ``GET /counts`` tells what it counted, ``GET /seen`` also every request. Whether a try
is refused is drawn from the row and the number of the try at it, so every client meets the same refusals.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn

_LINE = re.compile(r"^\d+\. (.+?) \| (.+?) \| (.+)$", re.MULTILINE)
_CHARACTERS_PER_TOKEN = 4
_PARENT_S = 1.0  # between two looks whether the parent is still there


@dataclass
class Behaviour:
    """How requests are answered.

    Attributes:
        latency_s: seconds before an answer; refusals come at once.
        rate_429, rate_500: share of the tries that are refused, with ``retry_after_s`` told for a 429.
        per_second: tries a second beyond which the answer is 429 and tells nothing; None for no such limit.
        burst_s: seconds' worth of tries that ``per_second`` lets through at once.
        records: note every request; else they are only counted.
        bodies: keep the last request body of every row, for ``GET /seen``.
    """

    latency_s: float = 0.0
    rate_429: float = 0.0
    rate_500: float = 0.0
    retry_after_s: float = 1.0
    per_second: float | None = None
    burst_s: float = 0.25
    records: bool = True
    bodies: bool = False


class Endpoint:
    """The ASGI application."""

    def __init__(self) -> None:
        self._behave(Behaviour())

    def _behave(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._by_status: Counter[int] = Counter()
        self._tries: Counter[bytes] = Counter()
        self._events: list[tuple[str, float, float, int]] = []  # row, asked at, answered at, status
        self._bodies: dict[bytes, Any] = {}
        self._tokens = (0, 0)
        self._level = (behaviour.per_second or 0.0) * behaviour.burst_s
        self._filled = time.monotonic()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/v1/chat/completions":
            status, headers, answer = await self._chat(body)
        elif scope["path"] == "/behave":
            self._behave(Behaviour(**json.loads(body)))
            status, headers, answer = 200, [], {}
        elif scope["path"] == "/counts":
            status, headers, answer = 200, [], self._counts()
        elif scope["path"] == "/seen":
            status, headers, answer = 200, [], self._counts() | self._records()
        else:
            status, headers, answer = 404, [], _error("unknown URL")
        raw = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})

    def _counts(self) -> dict[str, Any]:
        by_status = {str(status): count for status, count in self._by_status.items()}
        return {"by_status": by_status, "rows": len(self._tries), "tokens": self._tokens}

    def _records(self) -> dict[str, Any]:
        return {"events": self._events, "bodies": list(self._bodies.values())}

    async def _chat(self, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], Any]:
        asked, behaviour = time.time(), self._behaviour
        request = msgspec.json.decode(body)
        if not request["messages"]:  # some look at an empty request's headers first
            return 400, [], _error("There are no messages.")
        said = request["messages"][-1]["content"]
        question = said if isinstance(said, str) else "".join(part["text"] for part in said)
        row = hashlib.blake2b(question.encode(), digest_size=8).digest()
        status = self._status(row)
        if status == 200 and behaviour.latency_s:
            await asyncio.sleep(behaviour.latency_s)
        if behaviour is not self._behaviour:
            return status, [], _error("asked before a change of behaviour")
        self._by_status[status] += 1
        if behaviour.records:
            self._tries[row] += 1
            self._events.append((row.hex(), asked, time.time(), status))
        if behaviour.bodies:
            self._bodies[row] = request
        if status == 429:
            told = behaviour.per_second is None
            headers = [(b"retry-after", f"{behaviour.retry_after_s:g}".encode())] if told else []
            return 429, headers, _error("Rate limit reached.", "rate_limit_exceeded")
        if status == 500:
            return 500, [], _error("The server had an error.", "server_error")
        return 200, [], self._completion(request["model"], len(body), question)

    def _status(self, row: bytes) -> int:
        behaviour = self._behaviour
        if behaviour.per_second is not None and not self._take():
            return 429
        if not behaviour.rate_429 and not behaviour.rate_500:
            return 200
        drawn = hashlib.blake2b(row + self._tries[row].to_bytes(4, "big"), digest_size=8).digest()
        fraction = int.from_bytes(drawn, "big") / 2**64
        if fraction < behaviour.rate_429:
            return 429
        return 500 if fraction < behaviour.rate_429 + behaviour.rate_500 else 200

    def _take(self) -> bool:
        """Take one try from the bucket, if there is one."""
        rate, now = self._behaviour.per_second or 0.0, time.monotonic()
        self._level = min(max(1.0, rate * self._behaviour.burst_s), self._level + (now - self._filled) * rate)
        self._filled = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def _completion(self, model: str, body_bytes: int, question: str) -> dict[str, Any]:
        facts = _LINE.findall(question)
        text = " ".join(f"The {relation} of {subject} is {what}." for subject, relation, what in facts) or "A text."
        usage = (body_bytes // _CHARACTERS_PER_TOKEN, len(text) // _CHARACTERS_PER_TOKEN)
        self._tokens = (self._tokens[0] + usage[0], self._tokens[1] + usage[1])
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
        }


def _error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


async def _serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    options = {"lifespan": "off", "access_log": False, "log_level": "warning", "timeout_keep_alive": 600}
    server = uvicorn.Server(uvicorn.Config(Endpoint(), **options))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    print(listener.getsockname()[1], flush=True)
    parent = os.getppid()
    while os.getppid() == parent and not serving.done():
        await asyncio.sleep(_PARENT_S)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(_serve())
