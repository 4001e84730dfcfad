"""The proof of the engine, in small sizes, through `generate_texts` and the command line.

Edits, kills, storms, unknown limits, budgets, keys: what each may cost is counted at the server. The same questions in
full sizes, beside other clients, are in ``benchmarks/generation.py``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, Reply, ScriptedEndpoint, Seen, faithful

from kg.sampling.stage import SETS_SCHEMA
from kg.stage import Manifest, run_stage
from synthie.config import GenerationConfig, QualityConfig, load_config
from synthie.errors import BudgetError, SynthieError
from synthie.generate import generate_texts
from synthie.llm.journal import Journal
from synthie.pipeline import Run

ROOT = Path(__file__).parents[2]
KEY = "sk-proof-7f3a9c1e5b"
SETS, ADDED = 120, 10
USD_A_CALL = (PROMPT_TOKENS + COMPLETION_TOKENS) * 1_000 / 1e6  # at 1,000 USD per million tokens
PRICES: dict[str, Any] = {"input_usd_per_million": 1_000, "output_usd_per_million": 1_000, "max_tokens": 100}
WAIT_S = 240


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with graph and sets of the bundled sample; ``more`` and ``edited`` hold changed sets."""
    folder = tmp_path_factory.mktemp("drawn")
    run = Run(load_config(None, [f"run={folder}", f"sampling.n_sets={SETS + ADDED}", "sampling.negative_share=0"]))
    run.build_graph()
    run.sample_sets()
    rows = pq.read_table(folder / "sets/sets.parquet").to_pylist()
    write_sets(folder / "more", rows)
    shutil.rmtree(folder / "sets")
    write_sets(folder / "sets", rows[:SETS])
    edited = [row | {"triplets": rows[SETS]["triplets"]} if row["id"] == 7 else row for row in rows[:SETS]]
    write_sets(folder / "edited", edited)
    return folder


def write_sets(folder: Path, rows: list[dict[str, Any]]) -> None:
    def write(target: Path) -> dict[str, Any]:
        pq.write_table(pa.Table.from_pylist(rows, SETS_SCHEMA), target / "sets.parquet")
        return {}

    run_stage("sets", folder, config={"name": folder.name}, inputs={}, seed=0, work=write)


@pytest.fixture
def server() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as endpoint:
        yield endpoint


def generate(
    drawn: Path, folder: Path, server: ScriptedEndpoint, *, sets: str = "sets", max_usd: float = 100.0, **options: Any
) -> Manifest:
    config = GenerationConfig(**{"base_url": server.base_url, "model": "gpt-4o-mini", **options})
    return generate_texts(config, QualityConfig(), drawn / "kg", drawn / sets, folder, seed=0, max_usd=max_usd)


def question(seen: Seen) -> str:
    return seen.body["messages"][-1]["content"]


def chance(seen: Seen, number: int) -> float:
    """A number from 0 to 1 that belongs to a question and the number of the try at it."""
    digest = blake2b(f"{question(seen)}{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def spent(folder: Path) -> float:
    return json.loads((folder / "cost.json").read_bytes())["spent_usd"]


def billed(server: ScriptedEndpoint) -> float:
    return server.completions * USD_A_CALL


# --- edits ----------------------------------------------------------------------------------------------------------


def unchanged(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    generate(drawn, folder, server)


def begun_anew(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    (folder / "manifest.json").unlink()
    generate(drawn, folder, server)


def one_edited(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    generate(drawn, folder, server, sets="edited")


def ten_added(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    generate(drawn, folder, server, sets="more")


def other_system_prompt(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    text = (ROOT / "prompts/few-shot/1.yaml").read_text(encoding="utf-8")
    (folder.parent / "mine.yaml").write_text(text.replace("You turn facts", "You gladly turn facts"), encoding="utf-8")
    generate(drawn, folder, server, prompt=str(folder.parent / "mine.yaml"))


def other_max_tokens(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    generate(drawn, folder, server, max_tokens=300)


def other_key_and_speed(drawn: Path, folder: Path, server: ScriptedEndpoint) -> None:
    generate(drawn, folder, server, concurrency=3, max_attempts=2, timeout_s=30, headers={"OpenAI-Project": "other"})


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (unchanged, 0),
        (begun_anew, 0),
        (other_key_and_speed, 0),
        (one_edited, 1),
        (ten_added, ADDED),
        (other_system_prompt, SETS),
        (other_max_tokens, SETS),
    ],
)
def test_another_run_asks_for_what_the_change_makes_new_and_nothing_else(
    drawn: Path,
    tmp_path: Path,
    server: ScriptedEndpoint,
    change: Callable[[Path, Path, ScriptedEndpoint], None],
    asked: int,
) -> None:
    generate(drawn, tmp_path / "texts", server)
    assert len(server.seen) == SETS
    change(drawn, tmp_path / "texts", server)
    assert len(server.seen) == SETS + asked


# --- kills ----------------------------------------------------------------------------------------------------------


def run_folder(drawn: Path, folder: Path) -> Path:
    """A run of its own with the graph and the sets."""
    for stage in ("kg", "sets"):
        shutil.copytree(drawn / stage, folder / stage)
    return folder


def start(
    run: Path, server: ScriptedEndpoint, *flags: str, max_usd: float = 5.0, **options: Any
) -> subprocess.Popen[str]:
    chosen = {"base_url": server.base_url, "model": "gpt-4o-mini", **options}
    settings = [part for name, value in chosen.items() for part in ("--set", f"generation.{name}={json.dumps(value)}")]
    settings += ["--set", f"max_usd={max_usd}", *flags[1:]]
    command = [sys.executable, "-m", "synthie.cli", *flags[:1], "generate", "--run", str(run), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENAI_API_KEY": KEY}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill_after(completions: int, process: subprocess.Popen[str], server: ScriptedEndpoint) -> None:
    """Kill the run at some moment after so many completions, while it goes on; a few later the server would wait."""
    deadline = time.monotonic() + WAIT_S
    server.pause_after = completions + 8
    while process.poll() is None and server.completions < completions:
        assert time.monotonic() < deadline, "the run neither ended nor got that far"
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=WAIT_S)
    server.pause_after = math.inf
    server.settle()


def stored(run: Path) -> int:
    with Journal(run / "texts/journal") as journal:
        return len(journal)


def test_kills_at_random_moments_lose_at_most_what_is_in_flight(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    concurrency, draw = 6, random.Random(5)
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.02)
    run, answers, asked = run_folder(drawn, tmp_path), 0, 0
    for _ in range(4):
        process = start(run, server, concurrency=concurrency)
        kill_after(server.completions + draw.randint(1, SETS // 5), process, server)
        asked_now, new = len(server.seen) - asked, stored(run) - answers
        # Had a stored row been asked for again, its answer would not be a new one.
        assert 0 <= asked_now - new <= concurrency
        asked, answers = len(server.seen), answers + new
    assert 0 < answers < SETS
    last = start(run, server, concurrency=concurrency)
    _, errors = last.communicate(timeout=WAIT_S)
    assert last.returncode == 0, errors
    assert len(server.seen) - asked == SETS - answers
    tries = Counter(map(question, server.seen))
    assert len(tries) == SETS
    assert stored(run) == SETS


def test_a_killed_run_ends_with_the_texts_of_one_that_nobody_disturbed(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    whole = generate(drawn, tmp_path / "whole", server)
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.01)
    run = run_folder(drawn, tmp_path / "run")
    kill_after(SETS + 40, start(run, server, concurrency=4), server)
    again = generate(drawn, run / "texts", server)
    assert again.counts["samples"] == whole.counts["samples"]
    texts = [sorted(row["text"] for row in samples(folder)) for folder in (tmp_path / "whole", run / "texts")]
    assert texts[0] == texts[1]


def samples(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "samples").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


# --- storms and limits ----------------------------------------------------------------------------------------------


def test_a_storm_costs_the_refusals_themselves_and_nothing_is_sent_before_its_time(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    tries: Counter[str] = Counter()
    given: list[tuple[str, float, float]] = []  # question, when it was refused, seconds it was told to wait

    def respond(seen: Seen) -> Reply:
        name = question(seen)
        tries[name] += 1
        fraction = chance(seen, tries[name])
        if fraction < 0.2:
            wait = 0.3 if fraction < 0.15 else 1.0
            given.append((name, time.time(), wait))
            return Reply.error(429, retry_after_ms="300") if wait < 1 else Reply.error(429, Retry_After="1")
        if fraction < 0.3:
            given.append((name, time.time(), 0.0))
            return Reply.error(500)
        return faithful(seen)

    server.respond = respond
    manifest = generate(drawn, tmp_path, server, max_attempts=8)
    assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS
    assert {wait for _, _, wait in given} == {0.0, 0.3, 1.0}
    assert len(server.seen) == SETS + len(given)
    moments = defaultdict(list)
    for seen in server.seen:
        moments[question(seen)].append(seen.at)
    for name, refused, wait in given:
        assert min(at for at in moments[name] if at > refused) - refused > wait - 0.01


@pytest.mark.parametrize("concurrency", [16, 100])
def test_a_limit_that_nobody_told_is_found_and_no_row_is_lost_to_it(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint, concurrency: int
) -> None:
    rate, burst = 60.0, 6.0
    level, filled, refused = burst, time.monotonic(), 0
    lock = threading.Lock()

    def respond(seen: Seen) -> Reply:
        nonlocal level, filled, refused
        with lock:
            now = time.monotonic()
            level, filled = min(burst, level + (now - filled) * rate), now
            if level < 1:
                refused += 1
                return Reply.error(429)
            level -= 1
            return Reply(faithful(seen).content, delay_s=0.05)

    server.respond = respond
    # One try a row: a refusal for want of capacity must not use it up.
    manifest = generate(drawn, tmp_path, server, concurrency=concurrency, max_attempts=1)
    assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS
    assert server.completions == SETS
    assert refused <= SETS


# --- budget ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_the_budget_is_never_overshot_and_more_money_completes_the_run_exactly(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint, concurrency: int
) -> None:
    limit = 0.5 * SETS * USD_A_CALL
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.002)
    with pytest.raises(BudgetError):
        generate(drawn, tmp_path, server, max_usd=limit, concurrency=concurrency, **PRICES)
    assert 0 < billed(server) <= limit
    assert spent(tmp_path) == pytest.approx(billed(server), abs=1e-9)
    generate(drawn, tmp_path, server, concurrency=concurrency, **PRICES)
    assert len(server.seen) == server.completions == SETS
    assert spent(tmp_path) == pytest.approx(SETS * USD_A_CALL, abs=1e-9)


def test_after_kills_the_budget_still_holds_and_the_ledger_lacks_no_call(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    prices = PRICES | {"input_usd_per_million": 0}
    usd_a_call, worst, limit, concurrency, kills = COMPLETION_TOKENS / 1e3, 0.1, 1.6, 4, 2
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.02)
    run = run_folder(drawn, tmp_path)
    for _ in range(kills):
        process = start(run, server, max_usd=limit, concurrency=concurrency, **prices)
        kill_after(server.completions + 10, process, server)
    with pytest.raises(BudgetError):
        generate(drawn, run / "texts", server, max_usd=limit, concurrency=concurrency, **prices)
    assert server.completions * usd_a_call <= spent(run / "texts") <= limit
    generate(drawn, run / "texts", server, concurrency=concurrency, **prices)
    bill = server.completions * usd_a_call
    assert bill <= spent(run / "texts") + 1e-9
    assert spent(run / "texts") <= SETS * usd_a_call + kills * concurrency * worst + 1e-9


# --- keys -----------------------------------------------------------------------------------------------------------


def telling(seen: Seen) -> str:
    return f"You are {seen.headers.get('Authorization')}, {seen.headers.get('X-Team')}"


def test_the_key_is_in_no_file_and_no_output_whatever_the_server_says(
    drawn: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    tries: Counter[str] = Counter()

    def respond(seen: Seen) -> Reply:
        tries[question(seen)] += 1
        if chance(seen, 0) < 0.1:
            return Reply.error(400, telling(seen), code=KEY)
        if tries[question(seen)] == 1 and chance(seen, 1) < 0.5:
            return Reply.error(429 if chance(seen, 2) < 0.5 else 500, telling(seen), retry_after_ms="10")
        return faithful(seen)

    run = run_folder(drawn, tmp_path)
    options = {"headers": {"X-Team": "${OPENAI_API_KEY}"}}
    outputs = []
    for responds in (lambda seen: Reply.error(401, telling(seen)), respond, faithful):
        server.respond = responds
        process = start(run, server, "--verbose", **options)
        outputs.append("".join(process.communicate(timeout=WAIT_S)))
    assert any(KEY in header for seen in server.seen for header in seen.headers.values())
    assert "OPENAI_API_KEY" in outputs[0]
    assert (run / "texts/failures.jsonl").exists()
    assert KEY not in "".join(outputs)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def refusing(status: int) -> Callable[[Seen], Reply]:
    return lambda seen: Reply.error(status, telling(seen))


def refusing_at_first(status: int) -> Callable[[Seen], Reply]:
    """Answers with the status five times, then with one that ends the run."""
    statuses = chain([status] * 5, repeat(401))
    return lambda seen: Reply.error(next(statuses), telling(seen), retry_after_ms="1")


ANSWERS: dict[str, Callable[[Seen], Reply]] = {
    **{f"status {status}": refusing(status) for status in (400, 401, 402, 403, 404, 500)},
    "status 429": refusing_at_first(429),
    "a page": lambda seen: Reply(status=502, body=f"<html>{telling(seen)}</html>".encode()),
    "no completion": lambda seen: Reply(body={"choices": telling(seen)}),
    "a list of details": lambda seen: Reply(status=422, body={"detail": [{"msg": telling(seen)}]}),
    "an escaped key": lambda seen: Reply(status=400, body=(r'{"error": "\u0073' + KEY[1:] + '"}').encode()),
    "another place": lambda seen: Reply(status=307, body={}, headers={"Location": f"/{KEY}"}),
    "the key at the end of a long message": lambda seen: Reply.error(400, "x" * (490 - len(KEY) // 2) + KEY),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_answer_of_the_server_brings_the_key_into_errors_logs_or_files(
    drawn: Path,
    tmp_path: Path,
    server: ScriptedEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.respond = ANSWERS[answer]
    with caplog.at_level(logging.DEBUG), pytest.raises(SynthieError) as caught:
        generate(drawn, tmp_path, server, max_attempts=1)
    assert any(KEY in seen.headers["Authorization"] for seen in server.seen)
    assert KEY[:12] not in "".join(traceback.format_exception(caught.value))
    assert KEY[:12] not in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY[:12].encode() in path.read_bytes()] == []
