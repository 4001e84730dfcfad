"""What the judges say and cost is shown in Prefect; where nobody judges, nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from judging_world import judge, judging, literal_judge, make_texts
from scripted_endpoint import ScriptedEndpoint

from flows import artifacts, asking
from synthie.config import JudgeConfig, RunConfig
from synthie.judging.estimates import estimate_quality
from synthie.llm.journal import read_journal
from synthie.money import usd
from synthie.pipeline import Run


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Key -> Markdown of the artifacts made."""
    made: dict[str, str] = {}
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda key, markdown, description: made.update({key: markdown})
    )
    return made


def test_the_estimates_are_an_artifact(tmp_path: Path, shown: dict[str, str]) -> None:
    run = Run(RunConfig(run=str(tmp_path)))
    artifacts.show_estimates(run)
    assert shown == {}
    run.judge.mkdir()
    row = {
        **{"request_key": "a", "id": 1, "gate": "accepted", "style": "", "judge": "llm", "model": "m"},
        **{"problem": None, "triplets": [{"relation": "P1", "words": "a | b | c", "verdict": "stated"}], "extras": []},
    }
    table = pa.Table.from_pylist([row])
    told = estimate_quality(JudgeConfig(judges=["llm"]), [table], {"accepted": 7, "rejected": 0})
    (run.judge / "estimates.json").write_text(json.dumps(told))
    artifacts.show_estimates(run)
    assert shown.keys() == {"estimates"}
    assert "1 of 7 accepted texts were judged by the judge 'llm' (m): 100.0% (" in shown["estimates"]
    assert "| REBEL, as published | people |" in shown["estimates"]


def test_what_judging_costs_is_an_artifact_beside_that_of_the_texts_with_the_sum(
    tmp_path: Path, shown: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live: dict[str, str] = {}
    events: list[str] = []

    def make(markdown: str, *, key: str, description: str) -> UUID:
        live[key] = f"{description}\n{markdown}"
        return UUID(int=0)

    monkeypatch.setattr(asking, "create_markdown_artifact", make)
    monkeypatch.setattr(asking, "emit_event", lambda name, **details: events.append(name))
    make_texts(tmp_path)
    run = Run(RunConfig(run=str(tmp_path)))
    artifacts.show_cost(run)
    artifacts.show_cost(run, "judge")
    assert shown.keys() == {"cost"}
    assert "in all." not in shown["cost"]
    watch = asking.AskingWatch(run.judge)
    with ScriptedEndpoint(literal_judge) as server:
        judge(tmp_path, run.judge, judging(server, n_samples=10, n_rejected=0))
    watch(last=True)
    artifacts.show_cost(run, "judge")
    spent = sum(read_journal(folder / "journal").spent_usd for folder in (run.texts, run.judge))
    assert shown.keys() == {"cost", "cost-judge"}
    assert "| this run | 10 answers to 10 calls in " in shown["cost-judge"]
    assert "| texts | 10 of 10 (100.0%) |" in live["cost-judge"]
    for told in (shown["cost-judge"], live["cost-judge"]):
        assert "# Cost of judging" in told
        assert f"The run has spent {usd(spent)} in all." in told
    assert events == ["synthie.judge.asking", "synthie.judge.asked"]
