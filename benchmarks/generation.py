"""What an answer costs the client, and what becomes of answers when something goes wrong: our engine beside others.

    python benchmarks/generation.py [--quick] [--only cpu,edits,kills,storm,limits,budget,memory] [--peers FOLDER]

One server (`peers/endpoint.py`, a process of its own) counts and times every request of all clients: a bare aiohttp
loop, which is the baseline; the openai package's client; our texts stage, all of it, on triplet sets of the bundled
sample; and with ``--peers`` bespokelabs-curator, distilabel and Data Designer, each in a virtual environment under
the folder, made if it is not there. All ask the same questions with the same settings.

* cpu: CPU seconds of the client for each completion, without imports, and its peak memory; with ours, once while
  asking and once with the checks and the Parquet files that follow.
* edits: requests of another run over finished rows, after a change.
* kills: kill -9 at random moments of one run; answered rows that are asked for again.
* storm: 5% of the tries answered with 429 and Retry-After, 2% with 500.
* limits: a server that refuses what exceeds 40 requests a second and tells nothing.
* budget: what the server bills beside the limit that was set, and whether more money completes the run exactly.
* memory: of our engine while asking, and while passing over and checking up to a million answers that were written
  straight into the journal, for which no server need be waited for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.driver import (
    BARE,
    OPENAI,
    OURS,
    PEERS,
    USD_PER_MILLION,
    Client,
    Interpreters,
    Server,
    Told,
    World,
    answers,
    ask,
    kill,
    replay,
    requests,
    start,
    wait,
)

LATENCY_S = 0.02
KILL_LATENCY_S = 0.05
LIMIT_LATENCY_S = 0.1
IN_TIME_S = 0.1  # an answer sent that long before a kill has arrived
RETRY_AFTER_S = 1.0
EARLY_S = 0.01  # the clocks of two processes
PER_SECOND = 40.0
BURST_S = 0.25


@dataclass(frozen=True)
class Sizes:
    """How much is asked in each part."""

    cpu: int = 5_000
    repeats: int = 2
    edits: int = 200
    kills: int = 20
    kill_rows: int = 2_000
    storm: int = 5_000
    limits: int = 1_500
    budget: int = 1_000
    memory: tuple[int, ...] = (5_000, 100_000)
    replayed: tuple[int, ...] = (5_000, 100_000, 1_000_000)

    @property
    def most(self) -> int:
        """Rows that clients other than ours are asked for at most."""
        return max(self.cpu, self.edits + 10, self.kill_rows, self.storm, self.limits)


QUICK = Sizes(
    cpu=1_000, repeats=1, kills=3, kill_rows=400, storm=500, limits=200, budget=200, memory=(1_000,),
    replayed=(1_000, 10_000),
)  # fmt: skip

# --- parts ----------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One run of the benchmark: who is measured, where, how much."""

    server: Server
    world: World
    sizes: Sizes
    clients: Sequence[Client]
    runs: int = 0

    def fresh(self) -> Path:
        self.runs += 1
        return self.world.folder / f"run-{self.runs}"

    def ask(self, client: Client, folder: Path, **job: Any) -> Told:
        return ask(client, self.world, self.server, folder, **job)

    def replay(self, _: Client, folder: Path, **job: Any) -> Told:
        return replay(self.world, self.server, folder, **job)

    def wait_for_answers(self, process: subprocess.Popen[bytes], number: int) -> bool:
        return wait(process, self.server, lambda counts: answers(counts) >= number)


Row = dict[str, Any]


def measure_cpu(bench: Bench) -> Iterator[Row]:
    bare = None
    for client in bench.clients:
        best: Told | None = None
        for _ in range(bench.sizes.repeats):
            bench.server.behave(latency_s=LATENCY_S)
            told = bench.ask(client, bench.fresh(), rows=bench.sizes.cpu)
            if told.error or best is None or told.cpu_s < best.cpu_s:
                best = told
            if told.error:
                break
        assert best
        if best.error:
            yield {"client": client.name, "error": best.error}
            continue
        whole = best.cpu_s / bench.sizes.cpu * 1e3
        asking = best.phase_cpu_s.get("texts", best.cpu_s) / bench.sizes.cpu * 1e3
        bare = bare or whole
        yield {
            "client": client.name,
            "ms a completion": f"{asking:.2f}",
            "× bare": f"{asking / bare:.1f}",
            "MB": f"{best.phase_megabytes.get('texts', best.megabytes):.0f}",
            "ms with checks": f"{whole:.2f}" if best.phase_cpu_s else "–",
            "MB with checks": f"{best.megabytes:.0f}" if best.phase_cpu_s else "–",
            "texts": best.texts,
        }


def measure_edits(bench: Bench) -> Iterator[Row]:
    rows = bench.sizes.edits
    changes: dict[str, dict[str, Any]] = {
        "unchanged": {},
        "1 edited": {"change": "edited"},
        "10 added": {"rows": rows + 10},
        "system prompt": {"change": "system"},
        "max_tokens": {"change": "max_tokens"},
    }
    yield {"client": "(right)", **dict(zip(changes, (0, 1, 10, rows, rows), strict=True))}
    for client in storing(bench):
        folder, found = bench.fresh(), {}
        bench.server.behave()
        first = bench.ask(client, folder, rows=rows)
        for name, change in changes.items():
            bench.server.behave()
            told = bench.ask(client, folder, **{"rows": rows, **change})
            found[name] = told.error or requests(bench.server.counts())
        yield {"client": client.name, **found} | ({"error": first.error} if first.error else {})


def measure_kills(bench: Bench) -> Iterator[Row]:
    rows, kills, concurrency = bench.sizes.kill_rows, bench.sizes.kills, 32
    for client in storing(bench):
        draw, folder = random.Random(0), bench.fresh()
        bench.server.behave(latency_s=KILL_LATENCY_S)
        moments: list[float] = []
        for _ in range(kills):
            before = answers(bench.server.counts())
            wanted = before + draw.randint(1, round(1.5 * rows / kills))
            process = start(client, bench.world, bench.server, folder, rows=rows, concurrency=concurrency)
            goes_on = bench.wait_for_answers(process, wanted)
            moments.append(time.time())
            kill(process)
            time.sleep(2 * KILL_LATENCY_S)  # what was in flight has been answered to nobody
            if not goes_on:
                break
        told = bench.ask(client, folder, rows=rows, concurrency=concurrency)
        if told.error:
            yield {"client": client.name, "error": told.error}
            continue
        events = bench.server.seen()["events"]
        finished, most = asked_again(events, moments)
        yield {
            "client": client.name,
            "kills": len(moments),
            "answered rows asked again": finished,
            "requests beyond the rows": len(events) - rows,
            "most after one kill": most,
            "in flight": concurrency,
            "texts": f"{told.texts} of {rows}",
        }


def asked_again(events: Sequence[Sequence[Any]], moments: Sequence[float]) -> tuple[int, int]:
    """Requests for rows that had been answered well before their asker was killed; most repeats after one kill."""
    arrived: dict[str, bool] = {}
    finished, after = 0, [0] * (len(moments) + 1)
    for row, asked, answered, _ in sorted(events, key=lambda event: event[1]):
        kills = bisect(moments, asked)
        finished += arrived.get(row, False)
        after[kills] += row in arrived
        is_in_time = kills == len(moments) or answered < moments[kills] - IN_TIME_S
        arrived[row] = arrived.get(row, False) or is_in_time
    return finished, max(after)


def measure_storm(bench: Bench) -> Iterator[Row]:
    rows = bench.sizes.storm
    for client in careful(bench):
        bench.server.behave(latency_s=LATENCY_S, rate_429=0.05, rate_500=0.02, retry_after_s=RETRY_AFTER_S)
        told = bench.ask(client, bench.fresh(), rows=rows)
        seen = bench.server.seen()
        refusals = sum(count for status, count in seen["by_status"].items() if status != "200")
        waits = list(waits_after_429(seen["events"]))
        yield {
            "client": client.name,
            "texts": f"{told.texts} of {rows}",
            "not a text": told.bad,
            "requests beyond rows and refusals": requests(seen) - rows - refusals,
            "before Retry-After": sum(wait < RETRY_AFTER_S - EARLY_S for wait in waits),
            "median wait / Retry-After": f"{statistics.median(waits) / RETRY_AFTER_S:.2f}" if waits else "–",
            "longest": f"{max(waits) / RETRY_AFTER_S:.1f}" if waits else "–",
            "seconds": f"{span(seen['events']):.0f}",
        } | ({"error": told.error} if told.error else {})


def waits_after_429(events: Sequence[Sequence[Any]]) -> Iterator[float]:
    """Seconds from each 429 to the next request of its row."""
    refused: dict[str, float] = {}
    for row, asked, answered, status in sorted(events, key=lambda event: event[1]):
        if row in refused:
            yield asked - refused.pop(row)
        if status == 429:
            refused[row] = answered


def measure_limits(bench: Bench) -> Iterator[Row]:
    rows = bench.sizes.limits
    ideal = (rows - PER_SECOND * BURST_S) / PER_SECOND
    for concurrency in (64, 200):
        for client in careful(bench):
            bench.server.behave(latency_s=LIMIT_LATENCY_S, per_second=PER_SECOND, burst_s=BURST_S)
            told = bench.ask(client, bench.fresh(), rows=rows, concurrency=concurrency)
            seen = bench.server.seen()
            wasted = seen["by_status"].get("429", 0)
            yield {
                "client": client.name,
                "concurrency": concurrency,
                "texts": f"{told.texts} of {rows}",
                "time / ideal": f"{span(seen['events']) / ideal:.2f}",
                "wasted 429s": wasted,
                "of the rows": f"{wasted / rows:.0%}",
            } | ({"error": told.error} if told.error else {})


def measure_budget(bench: Bench) -> Iterator[Row]:
    rows = bench.sizes.budget
    bench.server.behave()
    bench.ask(OURS, bench.fresh(), rows=rows)
    limit = round(usd(bench.server.counts()) / 2, 3)
    for concurrency in (1, 16, 64, 200):
        yield budget_row(bench, rows, concurrency, limit, kills=0)
    yield budget_row(bench, rows, 64, limit, kills=5)


def budget_row(bench: Bench, rows: int, concurrency: int, limit: float, *, kills: int) -> Row:
    """Spend up to the limit, killed so many times before; then go on with enough money."""
    folder, draw = bench.fresh(), random.Random(concurrency)
    job = {"rows": rows, "concurrency": concurrency, "priced": True}
    bench.server.behave(latency_s=LATENCY_S)
    for _ in range(kills):
        wanted = answers(bench.server.counts()) + draw.randint(1, rows // 3 // kills)
        process = start(OURS, bench.world, bench.server, folder, max_usd=limit, **job)
        bench.wait_for_answers(process, wanted)
        kill(process)
    stopped = bench.ask(OURS, folder, max_usd=limit, **job)
    billed = usd(bench.server.counts())
    ledger = spent(folder)
    done = bench.ask(OURS, folder, max_usd=1e6, **job)
    seen = bench.server.counts()
    return {
        "concurrency": concurrency,
        "kills": kills,
        "limit USD": f"{limit:.3f}",
        "billed": f"{billed:.6f}",
        "ledger": f"{ledger:.6f}",
        "overshoot": f"{max(0.0, billed - limit):.6f}",
        "stopped by": stopped.error or "nothing",
        "texts with more money": f"{done.texts} of {rows}",
        "requests": requests(seen),
        "ledger − billed in the end": f"{spent(folder) - usd(seen):+.6f}",
    } | ({"error": done.error} if done.error else {})


def measure_memory(bench: Bench) -> Iterator[Row]:
    for rows, is_asked in [(rows, True) for rows in bench.sizes.memory] + [
        (rows, False) for rows in bench.sizes.replayed
    ]:
        bench.server.behave(records=False)
        run = bench.ask if is_asked else bench.replay
        told = run(OURS, bench.fresh(), rows=rows)
        yield {
            "rows": f"{rows:,}",
            "answers": "asked for" if is_asked else "in the journal",
            "MB of imports": f"{told.phase_megabytes.get('imports', 0):.0f}",
            "MB while asking": f"{told.phase_megabytes.get('texts', 0):.0f}",
            "MB while checking": f"{told.phase_megabytes.get('checked', 0):.0f}",
            "peak MB": f"{told.megabytes:.0f}",
            "ms a row asking": f"{told.phase_cpu_s.get('texts', 0) / rows * 1e3:.2f}",
            "texts": told.texts,
        } | ({"error": told.error} if told.error else {})


def storing(bench: Bench) -> list[Client]:
    return [client for client in bench.clients if client.stores]


def careful(bench: Bench) -> list[Client]:
    """All but the bare loop, which does not repeat a request."""
    return [client for client in bench.clients if client is not BARE]


def usd(seen: dict[str, Any]) -> float:
    """What the server would bill."""
    return sum(seen["tokens"]) * USD_PER_MILLION / 1e6


def spent(folder: Path) -> float:
    return json.loads((folder / "state" / "cost.json").read_bytes())["spent_usd"]


def span(events: Sequence[Sequence[Any]]) -> float:
    """Seconds from the first request to the last answer."""
    return max(event[2] for event in events) - min(event[1] for event in events) if events else 0.0


@dataclass(frozen=True)
class Part:
    """A question: how it is measured, and how a row of its figures is told in a few words."""

    question: str
    measure: Callable[[Bench], Iterator[Row]]
    told: str


PARTS = {
    "cpu": Part(
        "client CPU a completion, × the bare loop, peak memory",
        measure_cpu,
        "{ms a completion} ms, {× bare} ×, {MB} MB",
    ),
    "edits": Part(
        "requests of a re-run: unchanged / 1 edited / 10 added / system prompt / max_tokens",
        measure_edits,
        "{unchanged} / {1 edited} / {10 added} / {system prompt} / {max_tokens}",
    ),
    "kills": Part(
        "kill -9: answered rows asked again, all requests made twice, texts",
        measure_kills,
        "{answered rows asked again}, {requests beyond the rows}, {texts}",
    ),
    "storm": Part(
        "5% 429, 2% 500: texts, needless requests, before Retry-After, median wait",
        measure_storm,
        "{texts}, {requests beyond rows and refusals}, {before Retry-After}, {median wait / Retry-After} × Retry-After",
    ),
    "limits": Part(
        "unknown limit: texts, time, wasted 429s",
        measure_limits,
        "at {concurrency}: {texts}, {time / ideal} × ideal, {of the rows}",
    ),
    "budget": Part(
        "hard limit: overshoot",
        measure_budget,
        "{overshoot} USD at {concurrency}, {kills} kills",
    ),
    "memory": Part("memory", measure_memory, "{rows} rows: {peak MB} MB"),
}


def print_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Print a Markdown table row by row, as the figures come, and pass them on."""
    header: list[str] = []
    for row in rows:
        cells = {name: value for name, value in row.items() if name != "error"}
        if not header and len(cells) > 1:
            header = list(cells)
            print_row(header)
            print_row(["---"] * len(header))
        print_row([str(cells.get(name, "–")) for name in header or cells], row.get("error", ""))
        yield row


def print_row(cells: Sequence[str], error: str = "") -> None:
    print("| " + " | ".join(cells) + " |" + (f"  broke off: {error}" if error else ""), flush=True)


def print_summary(found: dict[str, list[Row]], clients: Sequence[Client]) -> None:
    """Print a row for each question and a column for each client."""
    print("\n### all\n")
    print_row(["question", *(client.name for client in clients)])
    print_row(["---"] * (1 + len(clients)))
    for name, rows in found.items():
        told: defaultdict[str, list[str]] = defaultdict(list)
        for row in rows:
            words = "broke off" if row.get("error") else PARTS[name].told.format_map(row)
            told[row.get("client", OURS.name)].append(words)
        print_row([PARTS[name].question, *("; ".join(told[client.name]) or "–" for client in clients)])


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look")
    parser.add_argument("--only", help=f"parts, with commas between them: {', '.join(PARTS)}")
    parser.add_argument("--clients", help="clients, with commas between them, such as 'ours,curator'; default: all")
    parser.add_argument("--peers", type=Path, help="folder for the virtual environments of the other projects")
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    clients = [BARE, *OPENAI, *(PEERS if options.peers else ()), OURS]
    if options.clients:
        clients = [client for client in clients if client.name in options.clients.split(",")]
    Interpreters.folder = options.peers and options.peers.resolve()
    for client in list(clients):
        if trouble := Interpreters.install(client):
            print(f"{client.name} does not install and is left out: {trouble}")
            clients.remove(client)
    with tempfile.TemporaryDirectory() as temporary, Server() as server:
        bench = Bench(server, World(Path(temporary), server), QUICK if options.quick else Sizes(), clients)
        if clients != [OURS]:
            bench.world.users(bench.sizes.most)
        found = {}
        for part in parts:
            print(f"\n### {part}\n", flush=True)
            found[part] = list(print_rows(PARTS[part].measure(bench)))
        print_summary(found, clients)


if __name__ == "__main__":
    main()
