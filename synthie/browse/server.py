"""The page over HTTP, for this machine alone.

Other web pages that the user has open must neither read the records nor give verdicts: the server listens on
loopback, answers only to loopback names (a foreign name that resolves to 127.0.0.1 is turned away), takes a verdict
only with the token that its own page carries, and forbids the page everything but its own script and style.
"""

from __future__ import annotations

import contextlib
import csv
import hmac
import io
import json
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synthie.browse.desk import LARGEST_PAGE, Desk
from synthie.browse.index import StaleRowsError
from synthie.browse.query import Filters, whole_number
from synthie.browse.verdicts import StaleVerdictError, Word
from synthie.errors import ConfigError, InputError, SynthieError

__all__ = ["BrowseServer", "create_app", "export_lines", "listen"]

_STATIC = Path(__file__).parent / "static"
_FILES = {"/style.css": "text/css", "/app.js": "text/javascript"}
_TOKEN_PLACE = "{{token}}"
_TOKEN_HEADER = "x-browse-token"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_LARGEST_BODY = 16 << 10
_LONGEST_NOTE = 2_000
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_EXPORTED = ("request_key", "id", "verdict", "gate", "note", "time", "text")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Order(msgspec.Struct):
    """A verdict as the page sends it."""

    key: str
    verdict: Word | None
    side: int = 0
    note: str = ""
    expected: Word | Literal["any"] | None = "any"


def create_app(desk: Desk, token: str | None = None) -> ASGIApp:
    """The page and its interface.

    Args:
        desk: what is browsed.
        token: what a request that changes something must carry; None draws one.
    """
    key = token or secrets.token_urlsafe(24)
    page = (_STATIC / "index.html").read_text(encoding="utf-8").replace(_TOKEN_PLACE, key)

    def index(request: Request) -> Response:
        return Response(page, media_type="text/html")

    def static(request: Request) -> Response:
        kind = _FILES[request.url.path]
        return Response((_STATIC / request.url.path[1:]).read_bytes(), media_type=kind)

    def overview(request: Request) -> Response:
        return _json(desk.overview())

    def state(request: Request) -> Response:
        return _json({"state": desk.state()})

    def records(request: Request) -> Response:
        return _json(desk.page(Filters.from_query(request.query_params), *_window(request)))

    def pairs(request: Request) -> Response:
        query = request.query_params
        only = [(query.get(f"prompt_{side}", ""), query.get(f"model_{side}", "")) for side in ("a", "b")]
        return _json(desk.pairs(Filters.from_query(query), only, query.get("outcome", ""), *_window(request)))

    async def judge(request: Request) -> Response:
        _require_own_page(request, key)
        try:
            order = msgspec.json.decode(await _body(request), type=_Order)
        except msgspec.MsgspecError as error:
            raise HTTPException(400, f"The request is no verdict: {error}") from None
        if len(order.note) > _LONGEST_NOTE:
            raise HTTPException(400, f"A note has at most {_LONGEST_NOTE:,} characters.")
        arguments = (order.side, order.key, order.verdict, order.note.strip(), order.expected)
        return _json(await run_in_threadpool(desk.judge, *arguments))

    def export(request: Request) -> Response:
        ending = request.path_params["ending"]
        if ending not in ("csv", "jsonl"):
            raise HTTPException(404, "Verdicts are exported as csv or jsonl.")
        side = whole_number(request.query_params, "side", 0)
        name = f"hand-verdicts{f'-{side + 1}' if len(desk.sides) > 1 else ''}.{ending}"
        kind = {"csv": "text/csv", "jsonl": "application/x-ndjson"}[ending]
        return StreamingResponse(
            export_lines(desk.export(side), ending),
            media_type=kind,
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    app = Starlette(
        routes=[
            Route("/", index),
            *(Route(path, static) for path in _FILES),
            Route("/api/overview", overview),
            Route("/api/state", state),
            Route("/api/records", records),
            Route("/api/pairs", pairs),
            Route("/api/verdicts", judge, methods=["POST"]),
            Route("/api/verdicts.{ending}", export),
        ],
        exception_handlers={HTTPException: _told, SynthieError: _failed},  # type: ignore[dict-item]
    )
    return _Guard(app)


class _Guard:
    """Turns away who calls this machine by a foreign name, and sets the protective headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        if name in _LOOPBACK:
            await self._app(scope, receive, guarded)
        else:
            turned_away = JSONResponse({"error": "This page is served to this machine only."}, 421)
            await turned_away(scope, receive, guarded)


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1.

    Raises:
        ConfigError: the port is taken or none.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"Cannot listen on 127.0.0.1 port {port}: {reason}. Choose another with --port, or 0 for any free one."
        ) from None


class BrowseServer:
    """The page, served on a listening socket: `run` in the foreground, or in a thread for the length of a block.

    Attributes:
        url: where the page is.
    """

    def __init__(self, desk: Desk, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self._listener = listener
        config = uvicorn.Config(
            create_app(desk),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until interrupted."""
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._listener])

    def __enter__(self) -> BrowseServer:
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


def export_lines(rows: Iterable[dict[str, Any]], ending: str) -> Iterator[str]:
    """Exported verdicts as lines of "csv" or "jsonl".

    A CSV has no triplets, and an apostrophe in front of what a spreadsheet would take for a formula.
    """
    if ending == "csv":
        yield _csv_line(_EXPORTED)
    for row in rows:
        if ending == "csv":
            yield _csv_line([_cell(row[name]) for name in _EXPORTED])
        else:
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _window(request: Request) -> tuple[int, int]:
    """(offset, limit) of a page."""
    offset, limit = (whole_number(request.query_params, *each) for each in (("offset", 0), ("limit", 20)))
    return offset, min(limit, LARGEST_PAGE)


def _require_own_page(request: Request, token: str) -> None:
    origin, host = request.headers.get("origin"), request.headers.get("host")
    given = request.headers.get(_TOKEN_HEADER, "")
    if (origin is not None and origin != f"http://{host}") or not hmac.compare_digest(given.encode(), token.encode()):
        raise HTTPException(403, "Verdicts are taken from the page itself only. Load it again.")


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise HTTPException(413, f"A request has at most {_LARGEST_BODY:,} bytes.")
    return body


def _json(data: Any) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json")


async def _told(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)


async def _failed(request: Request, error: SynthieError) -> Response:
    is_stale = isinstance(error, StaleVerdictError | StaleRowsError)
    return JSONResponse({"error": str(error)}, 409 if is_stale else 400 if isinstance(error, InputError) else 500)
