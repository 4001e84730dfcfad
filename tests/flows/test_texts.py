"""What Prefect shows of the texts stage: while it runs, when it is done, and when it was stopped."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter
from prefect.client.schemas.objects import Artifact
from prefect.events.worker import EventsWorker
from scripted_endpoint import Reply, ScriptedEndpoint
from texts_world import SETS, make_world

from flows.costs import cost_so_far
from flows.events import ErrorRate
from flows.stages import texts_flow
from flows.wording import progress_line
from synthie.config import GenerationConfig, RunConfig
from synthie.errors import BudgetError
from synthie.money import usd
from synthie.texts.snapshot import Snapshot, write_snapshot


def artifacts(run: Path, key: str) -> list[Artifact]:
    """Those of the flow runs on a folder, oldest first."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [f"texts of {run}"]}}),
        )
    return sorted(found, key=lambda artifact: str(artifact.created))


def event(run: Path, name: str) -> dict[str, Any]:
    """An event of the texts stage, once the server has stored it."""
    return stored(name, f"synthie.run.{run.name}")


def asset_made(folder: Path) -> set[str]:
    """The assets that a folder was made from, once the server has stored that it was made."""
    made = stored("prefect.asset.materialization.succeeded", f"file://{folder}")
    roles = (related for related in made["related"] if related["prefect.resource.role"] == "asset")
    return {related["prefect.resource.id"] for related in roles}


def stored(name: str, resource: str) -> dict[str, Any]:
    EventsWorker.drain_all()
    wanted = {"filter": {"event": {"name": [name]}, "resource": {"id": [resource]}}}
    deadline = time.monotonic() + 240
    with get_client(sync_client=True) as client:
        while not (found := client.request("POST", "/events/filter", json=wanted).json()["events"]):
            assert time.monotonic() < deadline, f"there is no event {name}"
            time.sleep(0.2)
    return found[0]


def texts_run(run: Path, server: ScriptedEndpoint, max_usd: float = 1.0, **generation: Any) -> RunConfig:
    options = {"base_url": server.base_url, "model": "gpt-4o-mini", **generation}
    return RunConfig(run=str(run), max_usd=max_usd, generation=GenerationConfig.model_validate(options))


def test_a_run_shows_its_cost_as_it_goes_on_and_the_bill_at_its_end(prefect_server: None, tmp_path: Path) -> None:
    make_world(tmp_path)
    with ScriptedEndpoint() as server:
        server.script.extend([Reply.error(500), Reply.error(500)])
        texts_flow(texts_run(tmp_path, server))
    live, bill = (str(artifact.data) for artifact in artifacts(tmp_path, "cost"))
    assert f"| texts | {SETS} of {SETS} (100.0%) |" in live
    assert "of $1.00" in live
    assert f"| tokens of this run | {SETS * 100:,} in, {SETS * 20:,} out |" in live
    assert "| errors: 500 Internal Server Error | 2 |" in live
    spent = json.loads((tmp_path / "texts/cost.json").read_bytes())["spent_usd"]
    assert f"| spent, all runs in the folder | {usd(spent)} of $1.00 (" in bill
    assert f"| this run | {SETS} answers to {SETS + 2} calls in " in bill
    assert "| errors: 500 Internal Server Error | 2 |" in bill
    assert "| P19 | place of birth |" in bill
    assert event(tmp_path, "synthie.texts.done")["payload"]["counts"]["sets"] == SETS
    assert asset_made(tmp_path / "texts") == {f"file://{tmp_path}/kg", f"file://{tmp_path}/sets"}
    (progress,) = artifacts(tmp_path, "progress-texts")
    assert progress.description is not None
    assert f"{SETS} of {SETS}" in progress.description


def test_a_run_that_its_budget_stops_leaves_its_bill_and_an_event(prefect_server: None, tmp_path: Path) -> None:
    make_world(tmp_path)
    with ScriptedEndpoint() as server, pytest.raises(BudgetError):
        texts_flow(texts_run(tmp_path, server, max_usd=0.0005))
    assert " of $0.0005 (" in str(artifacts(tmp_path, "cost")[-1].data)
    stopped = event(tmp_path, "synthie.texts.stopped")
    assert "BudgetError" in stopped["payload"]["reason"]
    assert "texts of" in json.dumps(stopped["related"]), "an automation finds the flow run"
    assert event(tmp_path, "synthie.texts.budget")["payload"] == {"share": 1.0, "max_usd": 0.0005}


def test_a_run_that_finds_its_work_done_shows_the_bill_only(prefect_server: None, tmp_path: Path) -> None:
    make_world(tmp_path)
    with ScriptedEndpoint() as server:
        texts_flow(texts_run(tmp_path, server))
        texts_flow(texts_run(tmp_path, server))
    assert [artifact.description for artifact in artifacts(tmp_path, "cost")] == [
        "Cost of the texts so far",
        "Cost of the texts",
        "Cost of the texts",
    ]
    assert len(artifacts(tmp_path, "progress-texts")) == 1


def test_many_errors_are_an_event_and_so_is_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []
    monkeypatch.setattr("flows.events.tell", lambda kind, run, share, errors: told.append((kind, share)))
    (tmp_path / "texts").mkdir()
    watch, start = ErrorRate(tmp_path / "texts"), time.time()
    for minute, answered, errors in (
        (1, 10, {"500": 2}),  # too few to judge by
        (2, 100, {"500": 30, "429": 5_000}),
        (3, 110, {"500": 60}),
        (4, 120, {"500": 90}),
        (5, 220, {"500": 90}),
    ):
        snapshot = Snapshot(
            time=start + 60 * minute, pid=1, host="h", done=0, total=1, answered=answered, errors=errors
        )
        write_snapshot(tmp_path / "texts/progress.json", snapshot)
        watch()
    assert told == [("texts.errors_high", 0.75), ("texts.errors_low", 0.0)]


def test_what_is_done_is_not_expected_any_more() -> None:
    figures = {"usd": 0.42, "projected_usd": 0.42}
    assert progress_line("write texts", 60, 60, "texts", figures) == "write texts: 60 of 60 texts, $0.42 spent"
    snapshot = Snapshot(time=0, pid=1, host="h", done=60, total=60, usd=0.42, projected_usd=0.42)
    assert "expected" not in cost_so_far(snapshot)


@pytest.mark.parametrize(
    ("details", "line"),
    [
        ({}, "write texts: 1,200 of 5,000 texts"),
        ({"entities": "92%"}, "write texts: 1,200 of 5,000 texts, entities 92%"),
        (
            {"usd": 0.42, "projected_usd": 1.7, "rate": 39.96, "tokens": 812_345, "errors": {"rate": 8, "failed": 1}},
            "write texts: 1,200 of 5,000 texts, 40 a second, 2 min left, $0.42 spent, about $1.70 in the end, "
            "812,345 tokens; 9 errors (8 × rate, 1 × failed)",
        ),
        ({"errors": {"500": 1}}, "write texts: 1,200 of 5,000 texts; 1 error (1 × 500)"),
        ({"rate": 0.012, "eta_s": 200_000.0}, "write texts: 1,200 of 5,000 texts, 0.012 a second, 2 d 7 h left"),
    ],
)
def test_progress_is_told_in_a_readable_line(details: dict[str, Any], line: str) -> None:
    assert progress_line("write texts", 1_200, 5_000, "texts", details) == line
