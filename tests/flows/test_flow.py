"""The flow "synthie" against a real Prefect server: it runs, shows what it made, repeats nothing, resumes."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.flows import Flow
from prefect.states import State

from flows.automations import described
from flows.synthie import synthie
from synthie.config import EvaluationConfig, ExtractorConfig, GraphConfig, PredictionConfig, SamplingConfig

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = {
    "synthie": ["generate", "nightly"],
    "kg": ["build"],
    "sets": ["sample"],
    "texts": ["write"],
    "judge": ["judge"],
    "dataset": ["publish"],
    "extractor": ["train"],
    "predictions": ["predict"],
    "report": ["evaluate"],
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parameters of a run that takes seconds."""
    monkeypatch.chdir(ROOT)
    return {
        "run": str(tmp_path / "run"),
        "sampling": SamplingConfig(n_sets=120, round_size=60),
        "extractor": ExtractorConfig(steps=4),
        "prediction": PredictionConfig(max_records=4, beams=2, max_new_tokens=48),
        "evaluation": EvaluationConfig(bootstrap=5),
    }


def run(parameters: dict[str, Any]) -> State[Any]:
    return synthie(**parameters, return_state=True)


def artifacts() -> dict[str | None, str]:
    with get_client(sync_client=True) as client:
        return {artifact.key: str(artifact.data) for artifact in client.read_artifacts()}


def sub_flow_names(run_folder: str) -> set[str]:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"like_": run_folder}))
    return {flow_run.name for flow_run in runs}


def times_of_results(folder: Path) -> dict[Path, int]:
    """Without the list of calls in flight, which is emptied whenever the journal is opened, as for an estimate."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "in-flight")))
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_run_makes_everything_and_repeating_it_does_nothing(prefect_server: None, small: dict[str, Any]) -> None:
    state = run(small)
    assert state.is_completed(), state.message
    folder = Path(small["run"])
    assert (folder / "report/report.html").stat().st_size > 1_000
    assert {"graph", "coverage", "estimate", "cost", "texts", "dataset", "training", "metrics"} <= set(
        shown := artifacts()
    )
    assert f"`{folder.resolve()}/report/report.html`" in shown["metrics"]
    assert f"texts of {folder}" in sub_flow_names(small["run"])

    before = times_of_results(folder)
    state = run(small)
    assert state.message is not None
    assert "Nothing to do" in state.message
    assert before == times_of_results(folder)


def test_a_failed_run_says_why_and_goes_on_after_the_mend(prefect_server: None, small: dict[str, Any]) -> None:
    state = run({**small, "max_usd": 0.0, "kg": GraphConfig(dump="nowhere.json.gz")})
    assert state.is_failed()
    assert state.message is not None
    assert "nowhere.json.gz" in state.message
    assert not (Path(small["run"]) / "report").exists()


def test_the_deployments_are_importable_and_their_defaults_are_valid() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    found: dict[str, list[str]] = {}
    for deployment in deployments:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert isinstance(flow, Flow)
        assert flow.validate_parameters(deployment["parameters"]) is not None
        assert deployment["description"]
        assert not any(schedule["active"] for schedule in deployment.get("schedules", []))
        found.setdefault(flow.name, []).append(deployment["name"])
    assert found == DEPLOYMENTS


def test_the_automations_are_ones_that_prefect_takes() -> None:
    assert [automation.name for automation in described()] == ["synthie-mark-dead-runs"]


def test_the_form_describes_every_parameter_and_refuses_typos() -> None:
    schema = synthie.parameters.model_dump()
    definitions = schema["definitions"]
    for name, parameter in schema["properties"].items():
        section = definitions[parameter["$ref"].rsplit("/", 1)[-1]] if "$ref" in parameter else {}
        assert parameter.get("description") or section.get("description"), name
    for name, section in definitions.items():
        assert section["additionalProperties"] is False, name
        assert all(option.get("description") or "$ref" in option for option in section["properties"].values()), name
    with pytest.raises(Exception, match="n_set"):
        synthie.validate_parameters({"sampling": {"n_set": 3}})
