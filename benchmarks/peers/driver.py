"""What `generation.py` drives: the endpoint's process, the questions, and the clients that ask them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from kg.build import build_graph
from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from kg.sampling.stage import SETS_SCHEMA
from kg.stage import run_stage
from synthie.llm.prompts import load_prompt

SCRIPTS = Path(__file__).parent
ROOT = SCRIPTS.parents[1]
MAX_TOKENS = 512
RETRIES = 8
USD_PER_MILLION = 1_000.0
EDITED_ROW = 7
PROMPT, OTHER_PROMPT = "zero-shot/1", "other.yaml"
QUIET_S, QUIET_CPU_S = 45, 5  # a client that sends nothing for so long and hardly works hangs
POLL_S = 0.01
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # as `synthie generate` has it
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "TELEMETRY_ENABLED": "false",
    "NEMO_TELEMETRY_ENABLED": "false",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
}

# --- server and world -----------------------------------------------------------------------------------------------


class Server:
    """The endpoint's process, for the length of a ``with`` block."""

    def __enter__(self) -> Server:
        command = [sys.executable, str(SCRIPTS / "endpoint.py")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self._url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.base_url = self._url + "/v1"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def behave(self, **behaviour: Any) -> None:
        """Forget what was counted and answer in this way: see `peers.endpoint.Behaviour`."""
        self._call("/behave", json.dumps(behaviour).encode())

    def counts(self) -> dict[str, Any]:
        return self._call("/counts")

    def seen(self) -> dict[str, Any]:
        return self._call("/seen")

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        with urllib.request.urlopen(self._url + path, data=body, timeout=60) as response:
            return json.loads(response.read())


class World:
    """Graph, triplet sets and questions of the bundled sample, made as they are wanted."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self._server = server
        self._users: list[str] = []
        build_graph(GraphConfig(), folder / "kg")
        prompt = ROOT / "prompts" / f"{PROMPT}.yaml"
        self.system = load_prompt(PROMPT).messages([], [])[0]["content"].strip()
        changed = prompt.read_text(encoding="utf-8").replace("You turn facts", "You gladly turn facts")
        (folder / OTHER_PROMPT).write_text(changed, encoding="utf-8")

    def sets(self, count: int, *, edited: bool = False) -> Path:
        """Folder with ``count`` different sets of three triplets; the sets of a smaller count are the first of it."""
        name = f"sets-{count}{'-edited' * edited}"

        def write(target: Path) -> dict[str, Any]:
            graph = KnowledgeGraph.open(self.folder / "kg")
            columns = [pa.array(column) for column in zip(*graph.edges(keys=True), strict=True)]
            n, numbers = len(columns[0]), np.arange(count)
            first = numbers % n
            second = (first + 1 + numbers // n) % n  # a pair of triplets occurs in one set only
            third = (first + n // 2 + (edited & (numbers == EDITED_ROW))) % n
            chosen = pa.array(np.column_stack([first, second, third]).ravel())
            subjects, objects, relations = (column.take(chosen) for column in columns)
            triplets = pa.StructArray.from_arrays([subjects, relations, objects], ["subject", "relation", "object"])
            lists = pa.ListArray.from_arrays(np.arange(0, 3 * count + 1, 3, dtype=np.int32), triplets)
            constant = {"split": "train", "round": 0, "strategy": "entity", "topic": None}
            rows = {"id": numbers, "triplets": lists} | {name: [value] * count for name, value in constant.items()}
            pq.write_table(pa.table(rows, SETS_SCHEMA), target / "sets.parquet", row_group_size=50_000)
            return {}

        run_stage("sets", self.folder / name, config={"edited": edited}, inputs={}, seed=None, work=write)
        return self.folder / name

    def users(self, count: int) -> list[str]:
        """The user messages that our engine sends for so many sets, as the server saw them."""
        if len(self._users) < count:
            self._server.behave(bodies=True)
            told = ask(OURS, self, self._server, self.folder / f"rendered-{count}", rows=count)
            bodies = self._server.seen()["bodies"]
            if told.error or len(bodies) != count:
                raise SystemExit(f"Our engine asked {len(bodies)} of {count} different questions: {told.error}")
            self._users = sorted(body["messages"][-1]["content"] for body in bodies)
        return self._users[:count]


# --- clients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """A way to have texts written: the script that runs it, and what must be installed for it."""

    name: str
    script: str
    options: dict[str, Any] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    stores: bool = True


BARE = Client("bare aiohttp", "with_aiohttp.py", stores=False)
OPENAI = (
    Client("openai, httpx", "with_openai.py", stores=False),
    Client("openai, aiohttp", "with_openai.py", {"aiohttp": True}, stores=False),
)
OURS = Client("ours", "with_synthie.py")
ANSWERS = Client("answers", "answered.py")
PEERS = (
    Client("curator", "with_curator.py", requirements=("bespokelabs-curator",)),
    Client("distilabel", "with_distilabel.py", requirements=("distilabel[openai]", "requests")),
    Client("data-designer", "with_data_designer.py", requirements=("data-designer",)),
)


class Interpreters:
    """The Python that runs a client: this one, or that of a virtual environment made for it."""

    folder: Path | None = None

    @classmethod
    def install(cls, client: Client) -> str:
        """Make the client's environment unless it is there; returns why that failed, or nothing."""
        home = cls.home(client)
        if home is None or (home / "installed").exists():
            return ""
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *client.requirements],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                return last_line(done.stderr)
        (home / "installed").touch()
        return ""

    @classmethod
    def home(cls, client: Client) -> Path | None:
        return cls.folder / client.name if client.requirements and cls.folder else None

    @classmethod
    def of(cls, client: Client) -> str:
        home = cls.home(client)
        return str(home / "bin" / "python") if home else sys.executable


@dataclass(frozen=True)
class Told:
    """What a client reported; ``error`` if it broke off."""

    texts: int = 0
    bad: int = 0
    cpu_s: float = 0.0
    megabytes: float = 0.0
    phase_cpu_s: dict[str, float] = field(default_factory=dict)
    phase_megabytes: dict[str, float] = field(default_factory=dict)
    error: str = ""


def start(
    client: Client,
    world: World,
    server: Server,
    folder: Path,
    *,
    rows: int,
    concurrency: int = 64,
    change: str = "",
    max_usd: float = 1e6,
    priced: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a client on ``rows`` rows with its state in ``folder``. ``change``: edited, system or max_tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    options = client.options | {"retries": RETRIES}
    if client in (OURS, ANSWERS):
        prompt = str(world.folder / OTHER_PROMPT) if change == "system" else PROMPT
        prices = {"input_usd_per_million": USD_PER_MILLION, "output_usd_per_million": USD_PER_MILLION}
        sets = str(world.sets(rows, edited=change == "edited"))
        options |= {"sets": sets, "prompt": prompt, "max_usd": max_usd, "generation": prices if priced else {}}
    else:
        users = list(world.users(rows))
        if change == "edited":
            users[EDITED_ROW] += " Edited."
        (folder / "questions.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
    job = {
        "base_url": server.base_url,
        "folder": str(folder / "state"),
        "report": str(folder / "report.json"),
        "system": world.system.replace("You turn", "You gladly turn") if change == "system" else world.system,
        "questions": str(folder / "questions.jsonl"),
        "concurrency": concurrency,
        "max_tokens": MAX_TOKENS // 2 if change == "max_tokens" else MAX_TOKENS,
        "options": options,
    }
    (folder / "report.json").unlink(missing_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(
            [Interpreters.of(client), str(SCRIPTS / client.script), str(folder / "job.json")],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | ENVIRONMENT,
        )


def ask(client: Client, world: World, server: Server, folder: Path, **job: Any) -> Told:
    """Run a client to its end."""
    process = start(client, world, server, folder, **job)
    return told(process, server, folder)


def replay(world: World, server: Server, folder: Path, **job: Any) -> Told:
    """Run our engine on a journal that has all answers; nobody is asked."""
    written = start(ANSWERS, world, server, folder, **job)
    if written.wait():
        return Told(error=last_line((folder / "output.txt").read_text(errors="replace")))
    process = start(OURS, world, server, folder, **job)
    process.wait()
    return told(process, server, folder)


def told(process: subprocess.Popen[bytes], server: Server, folder: Path) -> Told:
    """Wait for a client's end and read its report."""
    if not wait(process, server, lambda counts: False):
        kill(process)
        return Told(error=f"hangs: not done, and no request for {QUIET_S} s")
    report = folder / "report.json"
    if process.returncode or not report.exists():
        return Told(error=last_line((folder / "output.txt").read_text(errors="replace")) or f"rc {process.returncode}")
    return Told(**json.loads(report.read_text()))


def wait(process: subprocess.Popen[bytes], server: Server, reached: Callable[[dict[str, Any]], bool]) -> bool:
    """Wait until the process has ended or the server's counts are as wanted; False if nothing happens any more."""
    before, since, used = -1, time.monotonic(), 0.0
    while process.poll() is None:
        counts = server.counts()
        if reached(counts):
            return True
        if requests(counts) != before:
            before, since, used = requests(counts), time.monotonic(), cpu_seconds(process)
        elif time.monotonic() - since > QUIET_S:
            if cpu_seconds(process) - used < QUIET_CPU_S:
                return False
            since, used = time.monotonic(), cpu_seconds(process)
        time.sleep(POLL_S)
    return True


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(text: str) -> str:
    return next((line.strip()[:160] for line in reversed(text.splitlines()) if line.strip()), "")


def requests(seen: dict[str, Any]) -> int:
    return sum(seen["by_status"].values())


def answers(seen: dict[str, Any]) -> int:
    return seen["by_status"].get("200", 0)
