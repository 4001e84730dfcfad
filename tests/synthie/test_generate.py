"""The texts stage: against a scripted endpoint, the built-in server, and after kill -9."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, Reply, ScriptedEndpoint, Seen, faithful
from texts_world import SETS, TOPICS, generate, make_world, remark_or_facts, rows, settings, write_sets_with_negatives

from kg.stage import Manifest, run_stage
from synthie.config import GenerationConfig, LocalServerConfig, QualityConfig
from synthie.errors import AuthenticationError, BudgetError, ConfigError, EndpointError, IncompleteError, InputError
from synthie.generate import generate_texts
from synthie.llm.journal import Journal
from synthie.llm.prompts import load_prompt
from synthie.records import SAMPLE_SCHEMA
from synthie.texts.estimate import estimate_cost

KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def server() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as endpoint:
        yield endpoint


def test_every_set_becomes_a_checked_sample_in_order(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    manifest = generate(world, tmp_path, settings(server))
    samples = rows(tmp_path)
    assert [row["id"] for row in samples] == list(range(SETS))
    assert pq.read_schema(tmp_path / "samples" / "part-00000.parquet").equals(SAMPLE_SCHEMA)
    assert manifest.counts["samples"] == SETS
    assert manifest.counts["rejected"] == manifest.counts["failed"] == 0
    assert manifest.counts["splits"] == {"train": 40, "test": 20}
    first = samples[1]
    assert first["text"] == "The place of birth of Bruno Rossi is Bern. The place of death of Bruno Rossi is Ulm."
    assert [triplet["object"] for triplet in first["triplets"]] == [
        {"surfaceform": "Bern", "uri": "Q101"},
        {"surfaceform": "Ulm", "uri": "Q100"},
    ]
    assert first["entities"][0] == {"surfaceform": "Bruno_Rossi", "uri": "Q1001", "mention_start_index": 22}
    assert first["relations"] == [
        {"surfaceform": "place of birth", "uri": "P19"},
        {"surfaceform": "place of death", "uri": "P20"},
    ]
    assert (first["model"], first["endpoint"], first["prompt"]) == ("gpt-4o-mini", server.base_url, "few-shot/1")
    assert (first["input_tokens"], first["output_tokens"], first["attempts"]) == (PROMPT_TOKENS, COMPLETION_TOKENS, 1)
    assert first["usd"] == pytest.approx((PROMPT_TOKENS * 0.15 + COMPLETION_TOKENS * 0.6) / 1e6, rel=1e-9)


def test_the_request_holds_model_prompt_parameters_and_seed(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 77, "top_p": 0.5}
    generate(world, tmp_path, settings(server, prompt="zero-shot/1", temperature=0.25, extra_body=extra))
    body = min(server.seen, key=lambda seen: seen.body["messages"][-1]["content"]).body
    assert body["messages"][-1]["content"].endswith("\n\n1. Ada Larsen | place of birth | Ulm")
    del body["messages"]
    assert body == {
        "model": "gpt-4o-mini", "temperature": 0.25, "max_completion_tokens": 77, "top_p": 0.5, "seed": 0
    }  # fmt: skip


def test_a_finished_stage_is_not_run_again(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    generate(world, tmp_path, settings(server))
    again = generate(world, tmp_path, settings(server, concurrency=3))
    assert again.reused
    assert len(server.seen) == SETS


def test_a_changed_check_costs_no_call_and_gives_the_same_samples(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    first = generate(world, tmp_path, settings(server))
    other = generate(world, tmp_path, settings(server), min_words=12)
    assert other.counts["reasons"]["length"] == other.counts["rejected"] > 0
    back = generate(world, tmp_path, settings(server))
    assert len(server.seen) == SETS
    assert back.output_hash == first.output_hash


def test_another_prompt_asks_anew_and_the_old_answers_stay(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    generate(world, tmp_path, settings(server))
    generate(world, tmp_path, settings(server, prompt="definitions/1"))
    assert len(server.seen) == 2 * SETS
    generate(world, tmp_path, settings(server))
    assert len(server.seen) == 2 * SETS
    spent = json.loads((tmp_path / "cost.json").read_text())["spent_usd"]
    assert spent == pytest.approx(2 * SETS * (PROMPT_TOKENS * 0.15 + COMPLETION_TOKENS * 0.6) / 1e6, rel=1e-9)


def test_unfaithful_and_repeated_texts_are_rejected_with_reasons(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    def respond(seen: Seen) -> Reply:
        last = seen.body["messages"][-1]["content"]
        if "Ada Weiss" in last:
            return Reply("Paris is a city.")
        if "Ines Duarte" in last:
            return Reply("  \n")
        if "Clara Moreau" in last:
            return Reply(faithful(seen).content, finish_reason="length")
        return faithful(seen)

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server))
    rejected = {row["id"]: {reason["check"] for reason in row["reasons"]} for row in rows(tmp_path, "rejected")}
    assert "missing" in rejected[0]
    assert "empty" in rejected[8]
    assert rejected[2] == {"truncated"}
    assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS
    assert all(row["verdict"] == "rejected" for row in rows(tmp_path, "rejected"))


def test_a_text_that_repeats_an_earlier_one_is_rejected_as_its_duplicate(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = lambda seen: Reply("One and the same text about nothing at all.")
    manifest = generate(world, tmp_path, settings(server), check_entities=False, check_extra=False)
    assert manifest.counts["samples"] == 1
    assert manifest.counts["reasons"] == {"duplicate": SETS - 1}
    assert rows(tmp_path, "rejected")[0]["reasons"] == [
        {"check": "duplicate", "detail": "The same text as that of set 0."}
    ]


def test_a_storm_of_refusals_and_errors_loses_nothing(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    calls = 0

    def respond(seen: Seen) -> Reply:
        nonlocal calls
        calls += 1
        if calls % 2:
            return Reply.error(429, retry_after_ms="1")
        return Reply.error(500, retry_after_ms="1") if calls % 6 == 0 else faithful(seen)

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server, max_attempts=12))
    assert manifest.counts["samples"] == SETS
    assert server.completions == SETS
    bill = json.loads((tmp_path / "cost.json").read_text())["this_run"]
    assert bill["requests"] == len(server.seen)
    assert bill["retries"]["429"] + bill["retries"]["500"] == len(server.seen) - SETS


def test_rows_that_fail_for_good_are_listed_and_asked_for_again_when_told(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    def respond(seen: Seen) -> Reply:
        is_bad = "Ada Weiss" in seen.body["messages"][-1]["content"]
        return Reply.error(400, "content filter", code="content_filter") if is_bad else faithful(seen)

    server.respond = respond
    with pytest.raises(IncompleteError, match="1 of 60 texts"):
        generate(world, tmp_path, settings(server))
    [failure] = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert (failure["id"], failure["status"], failure["attempts"]) == (0, 400, 1)
    assert "content filter" in failure["reason"]
    assert "Ada Weiss" in failure["request"]["messages"][-1]["content"]
    tolerant = generate(world, tmp_path, settings(server, max_failed_share=0.05))
    assert tolerant.counts["failed"] == 1
    assert tolerant.counts["samples"] == SETS - 1
    assert len(server.seen) == SETS  # what was refused for good is not asked for again
    server.respond = faithful
    again = generate(world, tmp_path, settings(server, max_failed_share=0.05, retry_failed=True))
    assert (again.counts["samples"], again.counts["failed"]) == (SETS, 0)
    assert len(server.seen) == SETS + 1
    assert (tmp_path / "failures.jsonl").read_text() == ""


def test_what_failed_for_want_of_luck_is_asked_for_again_without_being_told(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    def respond(seen: Seen) -> Reply:
        is_bad = "Ada Weiss" in seen.body["messages"][-1]["content"]
        return Reply.error(500, retry_after_ms="1") if is_bad else faithful(seen)

    server.respond = respond
    with pytest.raises(IncompleteError, match="1 of 60 texts"):
        generate(world, tmp_path, settings(server))
    assert json.loads((tmp_path / "failures.jsonl").read_text())["permanent"] is False
    assert len(rows(tmp_path)) == SETS - 1
    server.respond = faithful
    assert generate(world, tmp_path, settings(server)).counts["samples"] == SETS
    assert server.completions == SETS


def test_the_budget_stops_the_run_and_a_higher_one_goes_on(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    config = settings(server, input_usd_per_million=1_000, output_usd_per_million=1_000, max_tokens=100)
    with pytest.raises(BudgetError, match="higher max_usd"):
        generate(world, tmp_path, config, max_usd=6)
    served = server.completions
    assert 0 < served * (PROMPT_TOKENS + COMPLETION_TOKENS) / 1_000 <= 6
    with pytest.raises(BudgetError):
        generate(world, tmp_path, config, max_usd=6)
    assert server.completions == served
    assert generate(world, tmp_path, config, max_usd=100).counts["samples"] == SETS
    assert server.completions == len(server.seen) == SETS
    assert json.loads((tmp_path / "cost.json").read_text())["spent_usd"] == pytest.approx(SETS * 0.12)


def test_a_budget_below_one_call_is_refused_before_any_call(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    with pytest.raises(BudgetError, match=r"0\.000000 of 0\.000001 USD are spent"):
        generate(world, tmp_path, settings(server), max_usd=1e-6)
    assert server.seen == []


def test_a_wrong_key_stops_the_run_and_is_found_nowhere(
    world: Path,
    tmp_path: Path,
    server: ScriptedEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.respond = lambda seen: Reply.error(401, f"Incorrect API key provided: {seen.headers['Authorization']}")
    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationError, match="OPENAI_API_KEY") as caught:
        generate(world, tmp_path, settings(server))
    server.respond = lambda seen: Reply.error(400, f"You are {seen.headers['Authorization']}")
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError):
        generate(world, tmp_path, settings(server))
    server.respond = faithful
    with caplog.at_level(logging.DEBUG):
        generate(world, tmp_path, settings(server))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written
    assert KEY not in caplog.text + str(caught.value)


def test_an_unknown_price_is_refused_before_any_call(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    with pytest.raises(ConfigError, match="input_usd_per_million"):
        generate(world, tmp_path, settings(server, model="llama-9"))
    assert server.seen == []


def test_a_model_without_a_url_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base_url is empty"):
        generate(world, tmp_path, GenerationConfig(model="gpt-4o-mini"))


def test_sets_of_another_graph_are_refused(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    def write(target: Path) -> dict[str, Any]:
        table = pq.read_table(world / "sets" / "sets.parquet").slice(0, 1)
        alien = pa.array(
            [[{"subject": "Q9", "relation": "P19", "object": "Q100"}]], table.schema.field("triplets").type
        )
        place = table.schema.get_field_index("triplets")
        pq.write_table(table.set_column(place, table.schema.field(place), alien), target / "sets.parquet")
        return {}

    run_stage("sets", tmp_path / "sets", config={}, inputs={}, seed=0, work=write)
    with pytest.raises(InputError, match="does not fit the graph"):
        generate_texts(
            settings(server),
            QualityConfig(),
            world / "kg",
            tmp_path / "sets",
            tmp_path / "texts",
            seed=0,
            max_usd=1,
        )


def test_the_estimate_names_a_range_that_holds_what_the_prompt_takes(world: Path) -> None:
    config = GenerationConfig(base_url="https://api.openai.com/v1", model="gpt-4o-mini")
    estimate = estimate_cost(config, world / "kg", world / "sets")
    assert estimate.rows == SETS
    assert 300 * SETS < estimate.input_tokens_low < estimate.input_tokens_high < 900 * SETS
    assert estimate.usd_low == pytest.approx(
        (estimate.input_tokens_low * 0.15 + estimate.output_tokens_low * 0.6) / 1e6, rel=1e-3
    )
    assert str(estimate).startswith("60 texts by gpt-4o-mini: ")


def test_the_stage_runs_in_a_thread(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    manifests: list[Manifest] = []
    thread = threading.Thread(target=lambda: manifests.append(generate(world, tmp_path, settings(server))))
    thread.start()
    thread.join()
    assert manifests[0].counts["samples"] == SETS


def test_progress_tells_texts_and_cost(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    told: list[tuple[int, int | None, str, dict[str, Any]]] = []
    generate_texts(
        settings(server),
        QualityConfig(),
        world / "kg",
        world / "sets",
        tmp_path,
        seed=0,
        max_usd=1,
        progress=lambda done, total, unit, **details: told.append((done, total, unit, details)),
    )
    done, total, _, details = [entry for entry in told if entry[2] == "texts"][-1]
    assert (done, total) == (SETS, SETS)
    assert details["usd"] > 0
    assert "errors" not in details


def test_negatives_become_samples_without_triplets(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = remark_or_facts
    sets = write_sets_with_negatives(world, tmp_path / "sets")
    manifest = generate_texts(
        settings(server), QualityConfig(), world / "kg", sets, tmp_path / "texts", seed=0, max_usd=1
    )
    prompt = load_prompt("few-shot/1")
    assert manifest.counts["samples"] == SETS + len(TOPICS) - 2
    assert (manifest.inputs["prompt"], manifest.inputs["negatives"]) == (prompt.hash, prompt.negatives_hash)
    *ordinary, graz = rows(tmp_path / "texts")[: SETS + 1]
    assert {(row["topic"], row["prompt_hash"]) for row in ordinary} == {(None, prompt.hash)}
    assert (graz["id"], graz["text"], graz["topic"]) == (SETS + 2, "Who likes Graz?", "Q102")
    assert graz["triplets"] == graz["entities"] == graz["relations"] == []
    assert (graz["prompt_hash"], graz["split"], graz["output_tokens"]) == (
        prompt.negatives_hash,
        "train",
        COMPLETION_TOKENS,
    )
    rejected = {
        row["topic"]: [reason["check"] for reason in row["reasons"]] for row in rows(tmp_path / "texts", "rejected")
    }
    assert rejected == {"Q100": ["extra_name"], "Q101": ["missing"]}


def test_negatives_ask_nothing_anew_of_the_other_sets(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = remark_or_facts
    before = generate(world, tmp_path / "texts", settings(server))
    assert "negatives" not in before.inputs
    sets = write_sets_with_negatives(world, tmp_path / "sets")
    generate_texts(settings(server), QualityConfig(), world / "kg", sets, tmp_path / "texts", seed=0, max_usd=1)
    assert len(server.seen) == SETS + len(TOPICS)
    assert all("Topic: " in seen.body["messages"][-1]["content"] for seen in server.seen[SETS:])


def test_a_prompt_that_cannot_ask_for_negatives_is_refused_before_any_call(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    (tmp_path / "mine.yaml").write_text('user: "{{ triplets }}"')
    config = settings(server, prompt=str(tmp_path / "mine.yaml"))
    sets = write_sets_with_negatives(world, tmp_path / "sets")
    with pytest.raises(ConfigError, match="Add 'negatives'"):
        generate_texts(config, QualityConfig(), world / "kg", sets, tmp_path / "texts", seed=0, max_usd=1)
    with pytest.raises(ConfigError, match="Add 'negatives'"):
        estimate_cost(config, world / "kg", sets)
    assert server.seen == []
    assert generate(world, tmp_path / "texts", config).counts["samples"] == SETS


@pytest.mark.parametrize(
    "odd", [{"topic": None}, {"triplets": [{"subject": "Q1000", "relation": "P19", "object": "Q100"}]}]
)
def test_a_set_with_neither_triplets_nor_topic_or_with_both_is_refused(
    world: Path, tmp_path: Path, server: ScriptedEndpoint, odd: dict[str, Any]
) -> None:
    sets = write_sets_with_negatives(world, tmp_path / "sets", **odd)
    with pytest.raises(InputError, match=f"Set {SETS} in .* either triplets or a topic"):
        generate_texts(settings(server), QualityConfig(), world / "kg", sets, tmp_path / "texts", seed=0, max_usd=1)


def test_the_estimate_counts_negatives(world: Path, tmp_path: Path) -> None:
    config = GenerationConfig(base_url="https://api.openai.com/v1", model="gpt-4o-mini")
    sets = write_sets_with_negatives(world, tmp_path / "sets")
    without, estimate = (estimate_cost(config, world / "kg", folder) for folder in (world / "sets", sets))
    assert estimate.rows == SETS + len(TOPICS)
    assert estimate.output_tokens_low == without.output_tokens_low + 10 * len(TOPICS)
    assert estimate.input_tokens_low > without.input_tokens_low + 100 * len(TOPICS)


def test_the_built_in_server_writes_negatives_and_its_unfaithful_ones_are_caught(world: Path, tmp_path: Path) -> None:
    sets = write_sets_with_negatives(world, tmp_path / "sets")
    for rate, accepted in ((0.0, len(TOPICS)), (1.0, 0)):
        config = GenerationConfig(local=LocalServerConfig(unfaithful=rate))
        generate_texts(config, QualityConfig(), world / "kg", sets, tmp_path / f"{rate}", seed=0, max_usd=0)
        assert sum(row["topic"] is not None for row in rows(tmp_path / f"{rate}")) == accepted


def test_the_built_in_server_makes_faithful_and_a_few_unfaithful_texts(world: Path, tmp_path: Path) -> None:
    config = GenerationConfig(local=LocalServerConfig(unfaithful=0.3))
    manifest = generate(world, tmp_path, config, max_usd=0)
    assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS
    assert manifest.counts["samples"] > SETS / 2
    assert manifest.counts["rejected"] > 0
    assert manifest.counts["usd"] == 0


_RUN = """
import sys
from pathlib import Path
from synthie.config import GenerationConfig, QualityConfig
from synthie.generate import generate_texts
world, folder, base_url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
config = GenerationConfig(base_url=base_url, model="gpt-4o-mini", concurrency=4)
generate_texts(config, QualityConfig(), world / "kg", world / "sets", folder, seed=0, max_usd=1)
"""


def start(world: Path, folder: Path, server: ScriptedEndpoint) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _RUN, str(world), str(folder), server.base_url]
    # A script's background processes ignore SIGINT, and so would their children.
    not_ignored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, preexec_fn=not_ignored)


def wait_for_completions(count: int, server: ScriptedEndpoint, process: subprocess.Popen[bytes]) -> None:
    while server.completions < count:
        if process.poll() is not None:
            raise AssertionError(process.stderr.read().decode() if process.stderr else "the run ended")
        time.sleep(0.01)


def test_after_kill_minus_nine_only_what_was_in_flight_is_asked_for_again(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.02)
    server.pause_after = 30
    process = start(world, tmp_path, server)
    wait_for_completions(20, server, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.pause_after = math.inf
    server.settle()
    asked_before = len(server.seen)
    with Journal(tmp_path / "journal") as journal:
        stored = len(journal)
    assert stored >= asked_before - 4  # at most the four calls in flight are lost
    server.respond = faithful
    assert generate(world, tmp_path, settings(server)).counts["samples"] == SETS
    assert len(server.seen) == asked_before + SETS - stored


@pytest.mark.parametrize(
    ("signal_number", "status", "reason"),
    [(signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, 143, "SystemExit")],
)
def test_an_interrupt_stores_what_is_in_flight_and_stops(
    world: Path, tmp_path: Path, server: ScriptedEndpoint, signal_number: int, status: int, reason: str
) -> None:
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.05)
    server.pause_after = 12
    process = start(world, tmp_path, server)
    wait_for_completions(8, server, process)
    process.send_signal(signal_number)
    server.pause_after = math.inf
    process.wait()
    assert process.returncode == status, process.stderr.read() if process.stderr else ""
    assert len(server.seen) < SETS
    with Journal(tmp_path / "journal") as journal:
        assert len(journal) == len(server.seen)
    assert not (tmp_path / "manifest.json").exists()
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["reason"].partition(":")[0]) == ("stopped", reason)
