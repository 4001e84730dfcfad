"""Prefect on this machine: server and worker as background processes.

``python -m flows.local up`` starts the server, prepares it (work pool, deployments)
and starts a worker; ``down`` stops both; ``ui`` starts only the server; ``demo`` runs
the flow on the bundled sample while the server shows it. Everything is kept
under the project's own Prefect home (``.prefect/``: database, logs, pids; another
one: SYNTHIE_PREFECT_HOME) and listens on the loopback interface only, on port
4200 (another one: SYNTHIE_PREFECT_PORT). Each command may be repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from synthie.errors import EndpointError, SynthieError

__all__ = ["demo", "down", "environment", "main", "start_server", "up"]

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
WORK_POOL = "synthie"
_START_SECONDS = 180
_STOP_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands ``up``, ``down``, ``ui``, ``demo``; returns the exit code."""
    commands = {"up": up, "down": down, "ui": ui, "demo": demo}
    names = list(sys.argv[1:] if arguments is None else arguments)
    if len(names) != 1 or names[0] not in commands:
        print(f"usage: python -m flows.local {{{'|'.join(commands)}}}", file=sys.stderr)
        return 2
    os.chdir(ROOT)  # prefect.toml and the relative paths of configurations are found from here
    os.environ.update(environment())
    try:
        commands[names[0]]()
    except SynthieError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def up() -> None:
    """Start server and worker, create the work pool and the deployments, mark runs that died with their worker."""
    start_server()
    _prefect("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
    _prefect("deploy", "--all")
    from flows.recovery import mark_dead_runs

    if dead := mark_dead_runs():
        print(f"{dead} flow runs, sub-flows included, died with their worker; they are marked as crashed.")
    _start("worker", ["worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", "local"])
    print(f"Prefect is ready: {_url()}\nRun the pipeline:  .venv/bin/prefect deployment run synthie/generate --watch")


def down() -> None:
    """Stop the worker and the server that `up`, `ui` or `demo` started."""
    for name in ("worker", "server"):
        print(f"{name}: {'stopped' if _stop(name) else 'was not running'}")


def ui() -> None:
    """Start the server so that its UI shows all runs made here."""
    start_server()
    print(f"Prefect's UI shows your runs at {_url()}/runs\nStop it with: make stop")


def demo() -> None:
    """Run the flow ``synthie`` on the bundled sample, visible in the UI while it runs."""
    started = start_server()
    try:
        from flows.demo import run_demo

        run_demo(_url())
    finally:
        if started:
            _stop("server")


def environment() -> dict[str, str]:
    """The environment variables that keep Prefect local, private and in the project's folder."""
    port = os.environ.get("SYNTHIE_PREFECT_PORT", "4200")
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": os.environ.get("SYNTHIE_PREFECT_HOME", str(ROOT / ".prefect")),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def start_server() -> bool:
    """Start the Prefect server unless it answers already, and wait until it does.

    Returns:
        True if this call started it.

    Raises:
        EndpointError: another program holds the port, or the server does not come up.
    """
    if _healthy():
        return False
    _start("server", ["server", "start", "--host", HOST, "--port", os.environ["PREFECT_SERVER_API_PORT"]])
    deadline = time.monotonic() + _START_SECONDS
    while not _healthy():
        if not _process("server") or time.monotonic() > deadline:
            _stop("server")
            raise EndpointError(
                f"The Prefect server did not start on {_url()}; the reason is in {_log('server')}. If another "
                "program uses that port, choose another: SYNTHIE_PREFECT_PORT=4299 make demo."
            )
        time.sleep(0.3)
    return True


def _url() -> str:
    return os.environ["PREFECT_API_URL"].removesuffix("/api")


def _healthy() -> bool:
    try:
        with urllib.request.urlopen(f"{_url()}/api/health", timeout=5) as response:
            return response.status == 200 and response.read().strip() == b"true"
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _prefect(*arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        raise EndpointError(f"prefect {' '.join(arguments)} failed: {(result.stdout + result.stderr).strip()}")


def _start(name: str, arguments: list[str]) -> None:
    if _process(name):
        return
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with _log(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _pid_file(name).write_text(str(process.pid))


def _stop(name: str) -> bool:
    process = _process(name)
    _pid_file(name).unlink(missing_ok=True)
    if process is None:
        return False
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
    return True


def _process(name: str) -> psutil.Process | None:
    """The background process ``name``, or None if it ended (a recycled pid of another program is not it)."""
    try:
        process = psutil.Process(int(_pid_file(name).read_text()))
        alive = process.status() != psutil.STATUS_ZOMBIE and "prefect" in process.cmdline()
        return process if alive else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def _pid_file(name: str) -> Path:
    return Path(os.environ["PREFECT_HOME"]) / f"{name}.pid"


def _log(name: str) -> Path:
    return Path(os.environ["PREFECT_HOME"]) / f"{name}.log"


if __name__ == "__main__":
    sys.exit(main())
