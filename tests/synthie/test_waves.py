"""More than one text for a set, exact counts, replicas and several models: through the texts stage."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful
from texts_world import SETS, asked, generate, rows, settings

from synthie.config import GenerationConfig, LocalServerConfig, QualityConfig
from synthie.errors import BudgetError, IncompleteError
from synthie.generate import generate_texts
from synthie.llm.local import LocalServer


def every_third_is_bad_at_first(seen: Seen) -> Reply:
    """Texts for sets about people born in Ulm, Lille, Delft or Krakow are wrong unless the seed is another one."""
    is_bad = any(f"place of birth | {town}" in asked(seen) for town in ("Ulm", "Lille", "Delft", "Krakow"))
    return Reply("Nobody knows.") if is_bad and seen.body["seed"] == 0 else faithful(seen)


def test_a_rejected_text_is_asked_for_again_with_another_seed(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = every_third_is_bad_at_first
    once = generate(world, tmp_path / "once", settings(server))
    bad = once.counts["rejected"]
    assert 10 < bad < 40
    manifest = generate(world, tmp_path / "twice", settings(server, tries=2))
    assert (manifest.counts["samples"], manifest.counts["rejected"]) == (SETS, 0)
    assert [row["id"] for row in rows(tmp_path / "twice")] == list(range(SETS))
    assert len(server.seen) == SETS + SETS + bad
    assert Counter(seen.body["seed"] for seen in server.seen) == {0: 2 * SETS, 1: bad}
    bill = json.loads((tmp_path / "twice" / "cost.json").read_text())
    assert bill["texts"]["usd_per_sample"] == pytest.approx(bill["spent_usd"] / SETS)
    assert bill["texts"]["usd_per_text"] == pytest.approx(bill["spent_usd"] / (SETS + bad))


def test_tries_added_later_ask_for_the_rejected_sets_only(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = every_third_is_bad_at_first
    bad = generate(world, tmp_path, settings(server)).counts["rejected"]
    generate(world, tmp_path, settings(server, tries=3))
    assert len(server.seen) == SETS + bad
    again = generate(world, tmp_path, settings(server, tries=3, concurrency=1))
    assert again.reused


def test_tries_end(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply("Nobody knows.") if "Ada Weiss" in asked(seen) else faithful(seen)
    manifest = generate(world, tmp_path, settings(server, tries=4))
    assert (manifest.counts["samples"], manifest.counts["rejected"]) == (SETS - 1, 1)
    assert len(server.seen) == SETS + 3


def test_without_a_seed_in_the_request_another_try_is_still_another_question(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    counts: Counter[str] = Counter()

    def respond(seen: Seen) -> Reply:
        counts[asked(seen)] += 1
        return faithful(seen) if counts[asked(seen)] > 1 else Reply("Nobody knows.")

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server, tries=2, extra_body={"seed": None}))
    assert manifest.counts["samples"] == SETS
    assert set(counts.values()) == {2}
    assert all("seed" not in seen.body for seen in server.seen)


@pytest.mark.parametrize(("policy", "limits"), [("longer", [512, 1024, 2048]), ("again", [512, 512, 512])])
def test_a_text_cut_off_is_asked_for_by_policy(
    world: Path, tmp_path: Path, server: ScriptedEndpoint, policy: str, limits: list[int]
) -> None:
    def respond(seen: Seen) -> Reply:
        is_long = "Ada Weiss" in asked(seen) and seen.body["max_tokens"] < 2_000
        return Reply("Ada Weiss was", finish_reason="length") if is_long else faithful(seen)

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server, tries=3, truncated=policy))
    tried = [seen.body["max_tokens"] for seen in server.seen if "Ada Weiss" in asked(seen)]
    assert tried == limits
    assert manifest.counts["samples"] == (SETS if policy == "longer" else SETS - 1)


def test_a_seed_that_is_no_number_is_sent_as_it_is(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply("Nobody knows.") if len(server.seen) <= 3 else faithful(seen)
    manifest = generate(world, tmp_path, settings(server, tries=2, extra_body={"seed": "x"}))
    assert manifest.counts["samples"] == SETS
    assert {seen.body["seed"] for seen in server.seen} == {"x"}


def test_a_text_cut_off_is_let_be_where_that_is_the_policy(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = lambda seen: Reply("Ada is", finish_reason="length") if "Ada" in asked(seen) else faithful(seen)
    manifest = generate(world, tmp_path, settings(server, tries=3, truncated="reject"))
    assert manifest.counts["reasons"]["truncated"] == manifest.counts["rejected"] > 0
    assert len(server.seen) == SETS


def test_exactly_so_many_texts_come_of_a_reserve_of_sets(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    def respond(seen: Seen) -> Reply:
        if "Ada" in asked(seen):
            return Reply.error(400, "no", code="content_filter")
        return Reply("One text for all of them.") if "Bruno" in asked(seen) else faithful(seen)

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server, n_texts=30))
    samples = [row["id"] for row in rows(tmp_path)]
    assert manifest.counts["samples"] == len(samples) == 30
    assert samples == [number for number in range(SETS) if number % 10 > 1][:30]
    assert len(server.seen) == samples[-1] + 1  # no set beyond the last that was needed


def test_a_repeated_text_is_made_up_for_too(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply("One text for all.") if "Ada" in asked(seen) else faithful(seen)
    config = settings(server, n_texts=20)
    manifest = generate(world, tmp_path, config, check_entities=False, check_extra=False)
    assert manifest.counts["samples"] == 20
    assert manifest.counts["reasons"] == {"duplicate": manifest.counts["rejected"]}


def test_too_few_sets_for_the_texts_wanted_are_told_and_what_there_is_can_be_looked_at(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = every_third_is_bad_at_first
    with pytest.raises(IncompleteError, match=r"of 50 texts .*\(sampling.n_sets\)") as caught:
        generate(world, tmp_path, settings(server, n_texts=50))
    assert f" 0 failed (see {tmp_path / 'failures.jsonl'}), {len(rows(tmp_path, 'rejected'))} were " in str(
        caught.value
    )
    assert caught.value.exit_code != 0
    assert not (tmp_path / "manifest.json").exists()
    accepted = len(rows(tmp_path))
    tolerant = settings(server, n_texts=50, max_failed_share=0.5)
    assert generate(world, tmp_path, tolerant).counts["samples"] == accepted
    assert len(server.seen) == SETS


def test_the_cost_of_a_relation_is_its_share_of_the_texts_that_state_it(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    generate(world, tmp_path, settings(server))
    bill = json.loads((tmp_path / "cost.json").read_text())
    assert {row["label"]: row["samples"] for row in bill["relations"]} == {
        "place of birth": SETS,
        "place of death": SETS // 2,
    }
    assert sum(row["usd"] for row in bill["relations"]) == pytest.approx(bill["texts"]["usd"])
    assert bill["relations"][0]["usd"] == pytest.approx(bill["texts"]["usd"] * 0.75)


def test_a_run_out_of_time_goes_on_where_it_stopped(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply(faithful(seen).content, delay_s=0.2)  # 12 s for all
    with pytest.raises(IncompleteError, match="run_timeout_s"):
        generate(world, tmp_path, settings(server, concurrency=1, run_timeout_s=1))
    assert server.completions < SETS
    server.respond = faithful
    assert generate(world, tmp_path, settings(server)).counts["samples"] == SETS
    assert server.completions == SETS


# --- Several endpoints -----------------------------------------------------------------------------------------------


def replicas(*urls: str, **options: Any) -> GenerationConfig:
    endpoints = [{"base_url": url} for url in urls]
    return GenerationConfig(**{"endpoints": endpoints, "model": "gpt-4o-mini", "max_attempts": 2, **options})


def test_replicas_share_the_calls_and_the_record_says_which_answered(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    with ScriptedEndpoint() as other:

        def is_not_far_ahead() -> bool:
            return server.completions <= other.completions + 20 or len(server.seen + other.seen) == SETS

        server.respond = lambda seen: Reply(faithful(seen).content, after=is_not_far_ahead)
        manifest = generate(world, tmp_path, replicas(server.base_url, other.base_url, concurrency=4))
        assert manifest.counts["samples"] == SETS
        by_endpoint = Counter(row["endpoint"] for row in rows(tmp_path))
        assert by_endpoint == {server.base_url: server.completions, other.base_url: other.completions}
        assert min(by_endpoint.values()) > 5
        bill = json.loads((tmp_path / "cost.json").read_text())
        assert sum(bill["this_run"]["endpoints"].values()) == SETS


def test_a_replica_more_or_less_asks_for_nothing_again(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    with ScriptedEndpoint() as other:
        generate(world, tmp_path, replicas(server.base_url))
        assert generate(world, tmp_path, replicas(server.base_url, other.base_url)).reused
        again = generate(world, tmp_path, replicas(other.base_url), min_words=4)
        assert not again.reused
        assert again.counts["samples"] == SETS
        assert (server.completions, other.completions) == (SETS, 0)


def test_what_the_only_endpoint_answered_counts_when_it_becomes_a_replica(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    generate(world, tmp_path, settings(server))
    with ScriptedEndpoint() as other:
        assert generate(world, tmp_path, replicas(server.base_url, other.base_url)).counts["samples"] == SETS
        assert (server.completions, other.completions) == (SETS, 0)


def test_a_replica_that_dies_costs_no_text(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    with ScriptedEndpoint() as other, socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # and nobody listens
        endpoints = [server.base_url, other.base_url, f"http://127.0.0.1:{dead.getsockname()[1]}/v1"]
        config = replicas(*endpoints, concurrency=4)
        assert generate(world, tmp_path, config).counts["samples"] == SETS
        assert server.completions + other.completions == SETS


def test_models_share_the_texts_by_weight_and_each_record_names_its_own(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    endpoints = [
        {"base_url": server.base_url, "model": "gpt-4o-mini", "weight": 3},
        {"base_url": server.base_url, "model": "gpt-4.1-mini", "weight": 1},
    ]
    config = GenerationConfig(endpoints=endpoints)
    generate(world, tmp_path, config)
    models = Counter(row["model"] for row in rows(tmp_path))
    assert models.total() == SETS
    assert 5 <= models["gpt-4.1-mini"] <= 25
    assert Counter(seen.body["model"] for seen in server.seen) == models
    small, large = (0.15, 0.6), (0.4, 1.6)
    for row in rows(tmp_path):
        price = small if row["model"] == "gpt-4o-mini" else large
        assert row["usd"] == pytest.approx((100 * price[0] + 20 * price[1]) / 1e6)
    assert generate(world, tmp_path, config, min_words=4).counts["samples"] == SETS
    assert len(server.seen) == SETS


def test_the_order_of_the_endpoints_asks_for_nothing_again(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    endpoints = [{"base_url": server.base_url, "model": name} for name in ("gpt-4o-mini", "gpt-4.1-mini")]
    generate(world, tmp_path, GenerationConfig(endpoints=endpoints))
    generate(world, tmp_path, GenerationConfig(endpoints=endpoints[::-1]), min_words=4)
    assert len(server.seen) == SETS


def test_a_batch_is_paid_at_the_price_of_its_endpoint(world: Path, tmp_path: Path) -> None:
    with LocalServer(LocalServerConfig()) as server:
        prices = {"input_usd_per_million": 10, "output_usd_per_million": 20}
        one = {"base_url": server.base_url, "model": "synthie-rules", **prices}
        config = GenerationConfig(
            model="gpt-4o-mini", endpoints=[one], mode="batch", batch_discount=0.5, batch={"poll_s": 0.1}
        )
        with pytest.raises(BudgetError):
            generate(world, tmp_path, config, max_usd=0)
        generate(world, tmp_path, config)
    assert all(
        row["usd"] == pytest.approx((5 * row["input_tokens"] + 10 * row["output_tokens"]) / 1e6)
        for row in rows(tmp_path)
    )


# --- What is told while it runs and afterwards -----------------------------------------------------------------------


def test_a_stop_leaves_a_snapshot_events_and_the_bill(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    config = settings(server, input_usd_per_million=1_000, output_usd_per_million=1_000, max_tokens=100)
    with pytest.raises(BudgetError):
        generate(world, tmp_path, config, max_usd=6)
    snapshot = json.loads((tmp_path / "progress.json").read_text())
    assert (snapshot["done"], snapshot["total"]) == (server.completions, SETS)
    assert snapshot["usd"] == pytest.approx(server.completions * 0.12)
    assert snapshot["projected_usd"] == pytest.approx(SETS * 0.12)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [(event["event"], event.get("share")) for event in events]
    assert told == [("asking", None), ("budget", 0.5), ("stopped", None)]
    assert "budget is used up" in events[-1]["reason"]
    assert json.loads((tmp_path / "cost.json").read_text())["this_run"]["answered"] == server.completions


def test_the_figures_of_the_run_do_not_make_it_another_result(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    first = generate(world, tmp_path / "a", settings(server, concurrency=1))
    second = generate(world, tmp_path / "b", settings(server, concurrency=8))
    names = {Path(name).parts[0] for name in first.outputs}
    assert names == {"samples"}
    assert first.counts == second.counts


def test_a_progress_that_raises_ends_the_run_and_loses_no_answer(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    def progress(done: int, total: int | None, unit: str, **details: Any) -> None:
        if done:
            server.pause_after = SETS
            raise RuntimeError("nobody listens any more")

    server.pause_after = 6
    folders = (world / "kg", world / "sets", tmp_path)
    with pytest.raises(RuntimeError, match="nobody listens"):
        generate_texts(settings(server, concurrency=2), QualityConfig(), *folders, seed=0, max_usd=1, progress=progress)
    assert 6 <= len(server.seen) < SETS
    assert generate(world, tmp_path, settings(server, concurrency=60)).counts["samples"] == SETS
    assert len(server.seen) == SETS


def test_a_live_run_fetches_the_batches_that_are_under_way_and_pays_for_nothing_twice(
    world: Path, tmp_path: Path
) -> None:
    with LocalServer(LocalServerConfig(latency_s=0.2)) as server:
        config = GenerationConfig(base_url=server.base_url, batch_discount=0.5, batch={"poll_s": 0.1})
        batch = config.model_copy(update={"mode": "batch", "run_timeout_s": 0.5})
        with pytest.raises(IncompleteError, match="run_timeout_s"):
            generate(world, tmp_path, batch, max_usd=0)
        manifest = generate(world, tmp_path, config, max_usd=0)
        assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS
        stats = server.stats()
        assert (stats["completions"], stats["batches"]) == (SETS, 1)


def test_an_independent_server_finds_no_fault_with_the_whole_stage(world: Path, tmp_path: Path, llmock: Any) -> None:
    llmock.rate_limit(times=4, retry_after=0.05).fail(500, times=3)
    prices: dict[str, Any] = {"input_usd_per_million": 1, "output_usd_per_million": 1}
    config = GenerationConfig(base_url=llmock.base_url("openai"), model="m", concurrency=8, **prices)
    manifest = generate(world, tmp_path, config)
    assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS  # it writes anything, so most are rejected
    llmock.assert_resilient()
    asked = len(llmock.requests)
    assert asked >= SETS + 7
    assert generate(world, tmp_path, config, min_words=4).counts["input_tokens"] == manifest.counts["input_tokens"]
    assert len(llmock.requests) == asked
