"""The built-in server as a process: `serve` in the foreground, `LocalServer` as a child for the length of a block.

It lets everything run, from a first try to a trial of limits and failures,
without a key, a network or a cent. A child listens on 127.0.0.1 and a free
port, which it reports through a pipe, and cannot outlive its parent: it ends
when the operating system closes that pipe's other end. What the server answers
is in `synthie.llm.service`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
import uvicorn
from starlette.applications import Starlette

from synthie.config import LocalServerConfig
from synthie.errors import ConfigError, EndpointError
from synthie.llm.service import MODEL, create_app, identity
from synthie.llm.service_batches import BatchRules

__all__ = ["MODEL", "LocalServer", "create_app", "identity", "serve"]

log = logging.getLogger(__name__)

_START_S = 60.0
_STOP_S = 5.0


def serve(
    config: LocalServerConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    seed: int = 0,
) -> None:
    """Serve in the foreground until interrupted.

    Args:
        config: the switches.
        host: address to listen on; anything but loopback lets others in, so give ``api_key`` then.
        port: 0 for any free port.
        api_key: what clients must send as bearer token; None accepts any.
        seed: another seed gives other texts.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("The built-in server listens on %s without a key: whoever reaches it can use it", host)
    shown = f"[{host}]" if ":" in host else host
    print(f"Serving model {MODEL} at http://{shown}:{port}/v1 (Ctrl-C stops)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        _server(create_app(config, api_key=api_key, seed=seed)).run(sockets=[listener])


class LocalServer:
    """The server as a child process on 127.0.0.1 and a free port, for the length of a ``with`` block.

    It ends when the block ends, and also when this process is killed: it watches the
    pipe from its parent, which the operating system closes.

    Attributes:
        base_url: what to give to a client, such as ``http://127.0.0.1:43210/v1``.
        identity: see `identity`.
    """

    def __init__(
        self,
        config: LocalServerConfig | None = None,
        *,
        seed: int = 0,
        api_key: str | None = None,
        port: int = 0,
        batches: BatchRules = BatchRules(),  # noqa: B008 - immutable
    ) -> None:
        self.config = config or LocalServerConfig()
        self.seed = seed
        self.identity = identity(self.config, seed)
        self.base_url = ""
        self._api_key = api_key
        self._port = port
        self._batches = batches
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> LocalServer:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise EndpointError("The built-in server is not running. Use it inside a 'with' block.")
        return self._process.pid

    def stats(self) -> dict[str, Any]:
        """The running server's counters, as of ``GET /stats``."""
        status, body = self._get("/stats")
        if status != 200:
            raise EndpointError(f"The built-in server answered its statistics with status {status}.")
        return json.loads(body)

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "synthie.llm.local"],  # -P: modules of the current folder are not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its child
        )
        order = _Order(self.config.model_dump(mode="json"), self._port, self._api_key, self.seed, self._batches)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a child that died at once is reported below
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + _START_S
        self._port = int(self._first_line(deadline))
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise EndpointError(self._failure())
            time.sleep(0.02)
        self.base_url = f"http://127.0.0.1:{self._port}/v1"

    def _first_line(self, deadline: float) -> bytes:
        """The port that the child reports once it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        line = pipe.readline() if ready else b""
        if not line.strip().isdigit():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            raise EndpointError(self._failure())
        return line

    def _failure(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        told = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = told[-1] if told else f"it did not answer within {_START_S:.0f} s"
        return f"The built-in server did not start: {reason}"

    def _healthy(self) -> bool:
        try:
            return self._get("/health")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()  # the child ends when its standard input does
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None


# --- The child ---------------------------------------------------------------------------------------------------


class _Order(msgspec.Struct):
    """What a parent writes to its child's standard input, as one line of JSON."""

    config: dict[str, Any]
    port: int
    api_key: str | None
    seed: int
    batches: BatchRules


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {reason}. Choose another port, or 0 for any free one."
        ) from None


def _server(app: Starlette) -> uvicorn.Server:
    # Clients keep connections idle between shards; the usual 5 s would close some in the moment of a request.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    return uvicorn.Server(config)


def _watch_parent(parent: int) -> None:
    """End this process when the parent has closed our standard input or is gone."""
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    os._exit(0)


def _run_child() -> None:
    parent = os.getppid()
    try:
        order = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Order)
        listener = _listen("127.0.0.1", order.port)
    except ConfigError as error:
        sys.exit(str(error))
    except msgspec.DecodeError:
        sys.exit("This is the child process of synthie.llm.local.LocalServer; to run a server use: synthie llm-server")
    config = LocalServerConfig(**order.config)
    server = _server(create_app(config, api_key=order.api_key, seed=order.seed, batches=order.batches))
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    _run_child()
