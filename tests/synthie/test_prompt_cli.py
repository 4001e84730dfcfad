"""`synthie prompt …` as a person meets it: what it prints, what it asks, what it keeps."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import texts_world
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful

from synthie.cli import main
from synthie.config import GenerationConfig
from synthie.llm.journal import Journal, read_journal
from synthie.llm.prompts import load_prompt


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def prompt(command: str) -> Result:
    """Run ``synthie prompt`` with the words of a command line."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch.object(sys, "argv", ["synthie", "prompt", *shlex.split(command)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with graph and sets; not to be written."""
    return texts_world.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """The same, to be written."""
    return shutil.copytree(world, tmp_path / "run")


def scripted(endpoint: ScriptedEndpoint) -> str:
    free = "--set generation.input_usd_per_million=1 --set generation.output_usd_per_million=2"
    return f"--set generation.base_url={endpoint.base_url} --set generation.model=test-model {free}"


def test_the_list_tells_of_every_prompt() -> None:
    out = prompt("list").out
    assert "few-shot/1  4 demonstrations; hash 57aa0a76ca7e" in out
    assert "styles/1  20 demonstrations, 4 a request; hash" in out
    assert "zero-shot/1  no demonstrations; hash" in out
    assert "  The default." in out


def test_an_example_is_shown_as_it_would_be_asked() -> None:
    shown = prompt("show zero-shot/1").out
    assert "prompt   zero-shot/1\n" in shown
    assert f"hash     {load_prompt('zero-shot/1').hash}\n" in shown
    assert "request  temperature 1.0, max_tokens 512; about 184 input tokens" in shown
    assert "style" not in shown
    assert shown.endswith("  3. Pierre Curie | place of burial | Panthéon\n")


def test_another_draw_shows_another_style() -> None:
    told = [json.loads(prompt(f"show styles/1 --draw {draw} --json").out) for draw in (3, 3, 4)]
    assert told[0] == told[1]
    assert told[0]["style"] == ", ".join(f"{axis}: {name}" for axis, name in load_prompt("styles/1").style(3).items())
    assert told[0]["style"] != told[2]["style"]
    assert told[0]["hash"] == told[2]["hash"]
    assert prompt("show styles/1 --draw 3").out.startswith("prompt   styles/1\n")
    assert f"style    {told[0]['style']}\n" in prompt("show styles/1 --draw 3").out


def test_negatives_have_an_example_too() -> None:
    told = json.loads(prompt("show few-shot/2 --negative --json").out)
    assert told["hash"] == load_prompt("few-shot/2").negatives_hash
    assert told["messages"][-1]["content"].endswith("Topic: Marie Curie")


def test_a_set_of_a_run_is_shown_as_the_run_asks_for_it(run: Path) -> None:
    with ScriptedEndpoint(faithful) as endpoint:
        options = f"--run {run} --id 7 {scripted(endpoint)} --set generation.temperature=0.5 --set seed=3"
        told = json.loads(prompt(f"show styles/1 {options} --json").out)
        assert endpoint.seen == []
        prompt(f"try styles/1 {options}")
        [asked] = [dict(seen.body) for seen in endpoint.seen]
    assert told["set"] == 7
    assert told["messages"] == asked.pop("messages")
    assert told["request"] == asked
    assert asked["temperature"] == 0.5
    assert told["style"]


def test_a_trial_tells_answer_cost_and_every_check_and_is_not_paid_twice(run: Path) -> None:
    with ScriptedEndpoint(faithful) as endpoint:
        options = f"--run {run} --id 7 {scripted(endpoint)}"
        first = prompt(f"try few-shot/2 {options}")
        assert first.code == 0
        assert "kept in the run's journal" in first.out
        assert "verdict  accepted" in first.out
        for check in ("empty", "refusal", "markup", "truncated", "length", "missing", "unlinked", "extra_name"):
            assert f"  {check:13}ok\n" in first.out
        again = json.loads(prompt(f"try few-shot/2 {options} --json").out)
        assert (again["stored"], again["accepted"], again["reasons"]) == ("before", True, [])
        assert again["answer"] in first.out.replace("\n  ", "\n")
        assert len(endpoint.seen) == 1
        summary = read_journal(run / "texts" / "journal")
        assert (summary.rows, summary.spent_usd) == (1, again["usd"])
        assert again["usd"] > 0


def test_the_run_does_not_ask_again_for_what_was_tried(run: Path) -> None:
    assert prompt(f"try few-shot/2 --run {run} --id 7").code == 0
    texts_world.generate(run, run / "texts", GenerationConfig(prompt="few-shot/2"), max_usd=5.0)
    bill = json.loads((run / "texts" / "cost.json").read_text())
    assert (bill["this_run"]["answered_before"], bill["this_run"]["answered"]) == (1, texts_world.SETS - 1)


def test_a_bad_answer_is_told_with_its_faults(run: Path) -> None:
    def lie(seen: Seen) -> Reply:
        return Reply("Sure! Somebody was born in Atlantis in 1912.")

    with ScriptedEndpoint(lie) as endpoint:
        shown = prompt(f"try few-shot/2 --run {run} --id 7 {scripted(endpoint)} --set quality.check_entities=false")
    assert shown.code == 0
    assert "verdict  rejected" in shown.out
    assert "  refusal      'Sure!'" in shown.out
    assert "'1912' (characters 39–43) is a number that no triplet gives." in shown.out
    assert "  missing      off (quality.check_entities)\n" in shown.out


def test_a_trial_leaves_what_a_busy_run_writes_alone_and_says_so(run: Path) -> None:
    with Journal(run / "texts" / "journal") as journal:
        shown = prompt(f"try few-shot/2 --run {run} --id 7")
        assert shown.code == 0
        assert "not kept, nor counted in the run's budget: another process works in the run's folder" in shown.out
        assert len(journal) == 0
    assert read_journal(run / "texts" / "journal").rows == 0


def test_a_trial_leaves_the_failures_and_figures_of_the_run_alone(run: Path) -> None:
    texts = run / "texts"
    texts.mkdir()
    for name in ("failures.jsonl", "progress.json", "events.jsonl"):
        (texts / name).write_text('{"permanent": true, "key": "00"}\n')
    assert prompt(f"try few-shot/2 --run {run}").code == 0
    for name in ("failures.jsonl", "progress.json", "events.jsonl"):
        assert (texts / name).read_text() == '{"permanent": true, "key": "00"}\n'


def test_a_refused_trial_tells_why(run: Path) -> None:
    def refuse(seen: Seen) -> Reply:
        return Reply.error(400, "Something about this request.")

    with ScriptedEndpoint(refuse) as endpoint:
        shown = prompt(f"try few-shot/2 --run {run} {scripted(endpoint)}")
    assert shown.code != 0
    assert "The endpoint wrote no text: " in shown.err
    assert "Something about this request." in shown.err


def test_a_trial_keeps_to_the_budget(run: Path) -> None:
    with ScriptedEndpoint(faithful) as endpoint:
        shown = prompt(f"try few-shot/2 --run {run} {scripted(endpoint)} --set max_usd=0.000001")
        assert endpoint.seen == []
    assert shown.code != 0
    assert "max_usd" in shown.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("show few-shot/9", "Did you mean few-shot/2 or few-shot/1?"),
        ("show few-shot/2 --id 3", "--id names a set of a run. Say which run with --run."),
        ("show few-shot/2 --run {world} --draw 3", "--draw and --negative are for the example"),
        ("try few-shot/2 --run {world} --id 99", "There is no set 99 in .*; its ids go from 0 to 59."),
        ("try few-shot/2 --run {world}/nowhere", "holds no finished stage"),
        ("try few-shot/9 --run {world}", "Did you mean few-shot/2 or few-shot/1?"),
    ],
)
def test_mistakes_are_told_with_the_mend(world: Path, command: str, message: str) -> None:
    result = prompt(command.format(world=world))
    assert result.code != 0
    assert re.search(message.replace("?", r"\?"), result.err)
