"""Estimates: before anything is spent, from answers at hand, from a pilot, with a tokenizer."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, ScriptedEndpoint
from texts_world import SETS, generate, make_world, settings

from synthie.config import GenerationConfig
from synthie.errors import BudgetError, ConfigError
from synthie.generate import ask_pilot
from synthie.llm.journal import Journal
from synthie.texts.estimate import Estimate, estimate_cost, sampled

COST = (PROMPT_TOKENS * 0.15 + COMPLETION_TOKENS * 0.6) / 1e6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def server() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as endpoint:
        yield endpoint


def cost(world: Path, config: GenerationConfig, texts: Path | None = None) -> Estimate:
    return estimate_cost(config, world / "kg", world / "sets", texts)


def test_a_pilot_measures_and_its_texts_are_not_paid_twice(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    config = settings(server)
    told = ask_pilot(config, world / "kg", world / "sets", tmp_path, texts=20, seed=0, max_usd=1)
    assert len(server.seen) == 20
    assert (told.basis, told.rows, told.rows_stored) == ("answers", SETS, 20)
    assert 0.8 * 40 * COST < told.usd_low <= 40 * COST <= told.usd_high < 1.2 * 40 * COST
    assert generate(world, tmp_path, config).counts["samples"] == SETS
    assert len(server.seen) == SETS


def test_where_everything_is_stored_nothing_is_to_pay(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    generate(world, tmp_path, settings(server))
    told = cost(world, settings(server), tmp_path)
    assert (told.rows_stored, told.usd_low, told.usd_high) == (SETS, 0, 0)


def test_another_prompt_is_estimated_anew(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    generate(world, tmp_path, settings(server))
    told = cost(world, settings(server, prompt="definitions/1"), tmp_path)
    assert (told.rows_stored, told.basis) == (0, "characters")
    assert told.usd_high > 0


def test_a_pilot_keeps_to_the_budget(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    config = settings(server, input_usd_per_million=1_000, output_usd_per_million=1_000, max_tokens=100)
    with pytest.raises(BudgetError):
        ask_pilot(config, world / "kg", world / "sets", tmp_path, texts=60, seed=0, max_usd=6)
    with Journal(tmp_path / "journal") as journal:
        assert 0 < journal.spent_usd <= 6


def test_a_journal_in_use_does_not_keep_from_estimating(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    with Journal(tmp_path / "journal"):
        assert cost(world, settings(server), tmp_path).basis == "characters"


def test_only_the_texts_that_are_wanted_are_reckoned(world: Path, server: ScriptedEndpoint) -> None:
    whole, part = cost(world, settings(server)), cost(world, settings(server, n_texts=15))
    assert part.rows == 15
    assert part.usd_high == pytest.approx(whole.usd_high / 4, rel=0.1)


def test_batch_mode_is_cheaper_by_its_discount(world: Path, server: ScriptedEndpoint) -> None:
    live, batch = cost(world, settings(server)), cost(world, settings(server, mode="batch"))
    assert batch.usd_high == pytest.approx(live.usd_high / 2)
    free = {"input_usd_per_million": 1, "output_usd_per_million": 1}
    with pytest.raises(ConfigError, match="batch_discount"):
        cost(world, settings(server, model="llama-9", mode="batch", **free))


def test_the_models_tokenizer_counts_the_input_where_it_is_at_hand(
    world: Path, server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = types.SimpleNamespace(encode=lambda text, disallowed_special: text.split())
    module = types.SimpleNamespace(encoding_for_model=lambda model: {"gpt-4o-mini": encoding}[model])
    monkeypatch.setitem(sys.modules, "tiktoken", module)
    told = cost(world, settings(server))
    assert told.basis == "tokenizer"
    assert told.input_tokens_high < cost(world, settings(server, model="gpt-4.1-mini")).input_tokens_low
    assert cost(world, settings(server, model="gpt-4.1-mini")).basis == "characters"


def test_several_models_are_reckoned_at_their_own_prices(world: Path) -> None:
    def config(*models: str) -> GenerationConfig:
        return GenerationConfig(endpoints=[{"base_url": "http://127.0.0.1:9/v1", "model": model} for model in models])

    cheap, dear = cost(world, config("gpt-4o-mini")), cost(world, config("gpt-4o"))
    both = cost(world, config("gpt-4o-mini", "gpt-4o"))
    assert both.model == "gpt-4o, gpt-4o-mini"
    assert cheap.usd_high < both.usd_low < both.usd_high < dear.usd_high


def test_the_sum_is_written_as_people_expect(world: Path, server: ScriptedEndpoint) -> None:
    told = str(cost(world, settings(server)))
    assert told.startswith("60 texts by gpt-4o-mini: ")
    assert "$0.0" in told
    assert "--pilot" in told


# --- Pilots ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("texts", "n_texts"), [(10, None), (13, 37), (20, 50)])
def test_a_pilot_measures_whatever_the_number_of_sets(
    world: Path, tmp_path: Path, server: ScriptedEndpoint, texts: int, n_texts: int | None
) -> None:
    config = settings(server, n_texts=n_texts)
    told = ask_pilot(config, world / "kg", world / "sets", tmp_path, texts=texts, seed=0, max_usd=1)
    assert len(server.seen) == texts
    assert (told.basis, told.rows_stored) == ("answers", texts)
    assert (told.rows - texts) * COST == pytest.approx(told.usd_high, rel=0.35)
    assert generate(world, tmp_path, config).counts["samples"] == (n_texts or SETS)
    assert len(server.seen) == (n_texts or SETS)  # it asked for none of the reserve


@given(count=st.integers(0, 30_000), n_texts=st.none() | st.integers(1, 30_000), most=st.integers(1, 1_000))
def test_what_a_pilot_asks_for_is_a_part_of_what_an_estimate_looks_at(
    count: int, n_texts: int | None, most: int
) -> None:
    config = GenerationConfig(n_texts=n_texts)
    few, many = sampled(config, count, most), sampled(config, count)
    wanted = min(count, n_texts or count)
    assert (few.sum(), many.sum()) == (min(most, wanted), min(1_000, wanted))
    assert not (few & ~many).any()
    assert not many[wanted:].any()


def test_a_pilot_of_all_there_is_leaves_nothing_to_reckon(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    config = settings(server, n_texts=5)
    told = ask_pilot(config, world / "kg", world / "sets", tmp_path, texts=20, seed=0, max_usd=1)
    assert (told.basis, told.rows_stored, told.usd_high) == ("answers", 5, 0)


def test_a_pilot_is_answered_at_once_also_in_batch_mode(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    config = settings(server, mode="batch")  # this server has no Batch API
    told = ask_pilot(config, world / "kg", world / "sets", tmp_path, texts=20, seed=0, max_usd=1)
    assert told.basis == "answers"
    assert 0.8 * 40 * COST / 2 < told.usd_low <= told.usd_high < 1.2 * 40 * COST / 2


def test_stored_texts_of_a_part_are_seen_in_the_estimate_of_that_part(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    generate(world, tmp_path, settings(server, n_texts=20))
    told = cost(world, settings(server, n_texts=20), tmp_path)
    assert (told.rows_stored, told.usd_high) == (20, 0)
