"""Judging as a part of a run: one budget for two stages, and no data set without the judgements that belong to it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from batch_world import PRICE, Stop, lines, worst_of
from judging_world import judging, literal_judge, make_texts
from scripted_endpoint import ScriptedEndpoint
from texts_world import SETS, generate, settings
from typer.testing import CliRunner

from synthie.cli import app
from synthie.commands.command import find_stage
from synthie.config import JudgeConfig, RunConfig
from synthie.errors import BudgetError, BusyError, ConfigError, InputError
from synthie.judging.reading import require_current
from synthie.llm.batch import batches_under_way
from synthie.llm.batch_files import Line, Plan
from synthie.llm.journal import Journal, read_journal
from synthie.llm.local import LocalServer
from synthie.llm.pricing import PICODOLLARS
from synthie.llm.service_batches import BatchRules
from synthie.pipeline import Run
from synthie.spending import purse
from synthie.texts.trial import find_question, try_question


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_texts(tmp_path_factory.mktemp("judging"))


def run_of(world: Path, folder: Path, config: JudgeConfig, *, max_usd: float = 1.0, **options: Any) -> Run:
    """A run in ``folder`` with the world's graph, sets and texts."""
    for name in ("kg", "sets", "texts"):
        if not (folder / name).exists():
            (folder / name).symlink_to(world / name)
    return Run(RunConfig(run=str(folder), max_usd=max_usd, judge=config, **options))


# --- One budget -----------------------------------------------------------------------------------------------------


def test_texts_and_judging_share_one_budget(world: Path, tmp_path: Path) -> None:
    spent = read_journal(world / "texts" / "journal").spent_usd
    assert spent > 0
    room = 0.002
    with ScriptedEndpoint(literal_judge) as server:
        with pytest.raises(BudgetError, match="budget is used up"):
            run_of(world, tmp_path, judging(server, concurrency=4), max_usd=spent).judge_texts()
        assert server.completions == 0
        with pytest.raises(BudgetError):
            run_of(world, tmp_path, judging(server, concurrency=4), max_usd=spent + room).judge_texts()
        assert 0 < server.completions < SETS
        assert 0 < read_journal(tmp_path / "judge" / "journal").spent_usd <= room
        run_of(world, tmp_path, judging(server, concurrency=4), max_usd=1.0).judge_texts()
        assert server.completions == SETS


def test_a_run_gives_each_stage_what_the_other_has_left_and_lets_one_spend_at_a_time(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, float] = {}

    def paying(name: str) -> Any:
        def work(*args: Any, max_usd: float, **options: Any) -> None:
            given[name] = max_usd
            for other in (run.generate_texts, run.judge_texts, lambda: run.estimate_cost(pilot=5)):
                with pytest.raises(BusyError, match=rf"pid {os.getpid()} on .*take turns"):
                    other()

        return work

    with ScriptedEndpoint(literal_judge) as server:
        run = run_of(world, tmp_path, judging(server), max_usd=3.0)
        run.judge_texts()
    monkeypatch.setattr("synthie.generate.generate_texts", paying("texts"))
    monkeypatch.setattr("synthie.generate.ask_pilot", paying("pilot"))
    monkeypatch.setattr("synthie.judging.stage.judge_texts", paying("judge"))
    run.generate_texts()
    run.estimate_cost(pilot=5)
    run.judge_texts()
    texts, judged = (read_journal(folder / "journal").spent_usd for folder in (run.texts, run.judge))
    assert texts > 0
    assert judged > 0
    assert given == {"texts": 3.0 - judged, "pilot": 3.0 - judged, "judge": 3.0 - texts}


def test_judges_that_cost_nothing_need_not_wait_for_their_turn(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthie.judging.stage.judge_texts", lambda *args, max_usd, **options: max_usd)
    run = run_of(world, tmp_path, JudgeConfig(judges=["nli"], nli="some/model"))
    with purse(tmp_path, 1.0, other=run.judge):
        assert run.judge_texts() == 0.0


def test_a_trial_of_the_writers_prompt_cannot_spend_what_judging_has_spent(world: Path, tmp_path: Path) -> None:
    with Journal(tmp_path / "judge" / "journal") as journal:
        journal.charge(PICODOLLARS, "judging")
    with ScriptedEndpoint() as server:
        config = RunConfig(run=str(tmp_path), generation=settings(server), max_usd=1.0)
        question = find_question(config, world / "kg", world / "sets")
        with pytest.raises(BudgetError):
            try_question(config, question, tmp_path / "texts")
        try_question(config.model_copy(update={"max_usd": 2.0}), question, tmp_path / "texts")
        assert server.completions == 1


def test_batches_under_way_of_one_stage_are_not_left_for_the_other(tmp_path: Path) -> None:
    """They go on at the endpoint when their process is gone, and will be paid."""
    judge = tmp_path / "judge"
    asked = lines(20)
    with Journal(judge / "journal") as journal:
        journal.charge(PICODOLLARS, "an earlier call")
    with Plan(judge / "batches", max_lines=20) as plan:
        for line in asked:
            plan.add(Line(line.key, line.request.input_bound, line.request.output_bound, attempt=1), b"{}\n")
        batch = plan.finish(base_url="http://127.0.0.1:9/v1", api="chat", price=PRICE)
    left = {}
    for step in ("planned", "uploaded", "created", "finished", "collected"):
        batch.save(step=step)
        with purse(tmp_path, 3.0, other=judge) as max_usd:
            left[step] = max_usd
    reserved = worst_of(asked) / PICODOLLARS
    assert reserved > 0
    assert left["planned"] == left["collected"] == 2.0
    assert left["uploaded"] == left["created"] == left["finished"] == pytest.approx(2.0 - reserved)
    with purse(tmp_path, 0.5, other=judge) as max_usd:
        assert max_usd == 0.0


def test_the_judges_batches_are_cancelled_by_the_judges_command(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="batches go through the official client")
    hold = tmp_path / "hold"
    hold.write_text("0")
    with LocalServer(batches=BatchRules(held_by=str(hold))) as server:
        llm = {"base_url": server.base_url, "mode": "batch"}
        config = JudgeConfig.model_validate({"judges": ["llm"], "n_samples": 5, "n_rejected": 0, "llm": llm})
        run = run_of(world, tmp_path, config)

        def stop_when_created(*figures: Any, **details: Any) -> None:
            if batches_under_way(run.judge / "batches"):
                raise Stop

        with pytest.raises(Stop):
            run.judge_texts(stop_when_created)
        arguments = ["judge", "--cancel-batches", "--run", str(tmp_path)]
        told = CliRunner().invoke(app, arguments)
        assert isinstance(told.exception, ConfigError)
        assert "judge.llm.base_url" in str(told.exception)
        told = CliRunner().invoke(app, [*arguments, "--set", f"judge.llm.base_url={server.base_url}"])
        assert told.output == "1 batch cancelled; what they have answered is fetched by the next run.\n"
        assert run.cancel_batches() == 0  # the texts have none


# --- What may be published ------------------------------------------------------------------------------------------


def test_nothing_is_published_before_the_judges_that_are_asked_for_have_judged(world: Path, tmp_path: Path) -> None:
    config = JudgeConfig(judges=["llm"])
    with pytest.raises(InputError, match="judge holds no finished stage"):
        run_of(world, tmp_path, config).build_dataset()
    run_of(world, tmp_path, JudgeConfig()).judge_texts()
    with pytest.raises(InputError, match=r"names 'llm', but that judge has not judged.*synthie judge"):
        run_of(world, tmp_path, config).build_dataset()


def test_judging_that_was_begun_is_finished_before_anything_is_published(world: Path, tmp_path: Path) -> None:
    """Also where the judges were named to the command 'judge' alone."""
    nobody = run_of(world, tmp_path, JudgeConfig())
    require_current(nobody.judge, nobody.texts)
    with pytest.raises(ConfigError, match="names no finished data set"):  # nothing about a judge that nobody wants
        find_stage("dataset").run(run_of(world, tmp_path, JudgeConfig(), dataset={"continue_from": "nowhere"}))
    with ScriptedEndpoint(literal_judge) as server:
        with pytest.raises(BudgetError):
            run_of(world, tmp_path, judging(server), max_usd=0.0).judge_texts()
        with pytest.raises(InputError, match=r"begun and not finished.*synthie judge"):
            find_stage("dataset").run(nobody)
        nobody.judge_texts()
        require_current(nobody.judge, nobody.texts)
        run_of(world, tmp_path, judging(server)).judge_texts()
        require_current(nobody.judge, nobody.texts)
        with pytest.raises(BudgetError):
            run_of(world, tmp_path, judging(server, model="gpt-4o"), max_usd=0.0).judge_texts()
    with pytest.raises(InputError, match="begun and not finished"):
        nobody.build_dataset()


def test_judgements_of_texts_that_have_changed_are_not_published(world: Path, tmp_path: Path) -> None:
    with ScriptedEndpoint(literal_judge) as server:
        run_of(world, tmp_path, judging(server)).judge_texts()
        asked = server.completions
        run = run_of(world, tmp_path, JudgeConfig())
        shutil.copytree(world / "texts", changed := tmp_path / "changed")
        with ScriptedEndpoint() as writer:
            generate(world, changed, settings(writer))
        (tmp_path / "texts").unlink()
        (tmp_path / "texts").symlink_to(changed)
        with pytest.raises(InputError, match=r"have changed since they were judged.*synthie judge"):
            run.build_dataset()
        run_of(world, tmp_path, judging(server)).judge_texts()
        require_current(run.judge, run.texts)
        assert server.completions == asked + 6  # the others are told as before
