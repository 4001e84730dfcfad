"""What the judges say is shown in Prefect; where nobody judges, nothing is."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from flows import artifacts
from synthie.config import JudgeConfig, RunConfig
from synthie.judging.estimates import estimate_quality
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
