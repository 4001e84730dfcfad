"""Before money is spent: the estimate, a person's approval, and one budget a day for all runs."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter
from scripted_endpoint import ScriptedEndpoint
from texts_world import SETS, make_world

from flows import approval
from flows.allowance import PER_DAY, day_allowance
from flows.stages import texts_flow
from synthie.config import GenerationConfig, RunConfig
from synthie.errors import BudgetError, ConfigError
from synthie.texts.status import status

ENOUGH_FOR_SOME = 0.0012  # USD


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def paid_run(folder: Path, server: ScriptedEndpoint, max_usd: float = 1.0) -> RunConfig:
    folder.mkdir(exist_ok=True)
    generation = GenerationConfig(base_url=server.base_url, model="gpt-4o-mini")
    return RunConfig(run=str(make_world(folder)), max_usd=max_usd, generation=generation)


def resume(client: SyncPrefectClient, run: Path, form: dict[str, Any]) -> str:
    """Answer the form of the paused run; returns the text that it shows."""
    deadline = time.monotonic() + 240
    named = FlowRunFilter.model_validate(
        {"name": {"any_": [f"texts of {run}"]}, "state": {"name": {"any_": ["Paused"]}}}
    )
    while not (paused := client.read_flow_runs(flow_run_filter=named)):
        assert time.monotonic() < deadline, "the run does not pause"
        time.sleep(0.1)
    flow_run = paused[0]
    assert flow_run.state is not None
    keys = flow_run.state.state_details.run_input_keyset
    assert keys is not None
    shown = client.request("GET", f"/flow_runs/{flow_run.id}/input/{keys['description']}").json()
    answer = client.request("POST", f"/flow_runs/{flow_run.id}/resume", json={"run_input": form}).json()
    assert answer["status"] == "ACCEPT", answer
    return str(shown)


def test_a_run_above_the_threshold_waits_for_approval_with_the_estimate_in_the_form(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "_LOOK_S", 0.2)
    with ScriptedEndpoint() as server, ThreadPoolExecutor(1) as threads:
        running = threads.submit(texts_flow, paid_run(tmp_path, server), approve_above_usd=0.0)
        asked = len(server.seen)
        shown = resume(client, tmp_path, {"max_usd": ENOUGH_FOR_SOME})
        assert asked == 0
        with pytest.raises(BudgetError):
            running.result(240)
        assert 0 < len(server.seen) < SETS, "the amount in the form is the budget"
    assert f"| texts | {SETS} |" in shown
    assert "the run's budget | $1.00" in shown
    estimates = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["estimate"])),
        flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [f"texts of {tmp_path}"]}}),
    )
    assert [str(artifact.data) in shown for artifact in estimates] == [True]


def test_a_run_below_the_threshold_does_not_wait(client: SyncPrefectClient, tmp_path: Path) -> None:
    with ScriptedEndpoint() as server:
        assert texts_flow(paid_run(tmp_path, server), approve_above_usd=0.5).counts["samples"]


@contextmanager
def day_of(client: SyncPrefectClient, amount: Any) -> Iterator[None]:
    """The budget of the day while the context lasts."""
    client.create_variable(VariableCreate(name=PER_DAY, value=amount))
    try:
        yield
    finally:
        client.delete_variable_by_name(PER_DAY)
        for name in (v.name for v in client.read_variables(limit=50) if v.name.startswith("synthie_spent_")):
            client.delete_variable_by_name(name)


def free_run(folder: Path, max_usd: float) -> RunConfig:
    (folder / "kg").mkdir(parents=True)
    return RunConfig(run=str(folder), max_usd=max_usd)


def test_the_day_leaves_a_run_what_the_others_have_not_taken(client: SyncPrefectClient, tmp_path: Path) -> None:
    one, other = free_run(tmp_path / "one", 1.5), free_run(tmp_path / "other", 1.0)
    with day_of(client, "2"):
        with day_allowance(one) as limited, day_allowance(other) as rest:
            assert limited.max_usd == 1.5
            assert rest.max_usd == pytest.approx(0.5)
        with day_allowance(other) as all_given_back:
            assert all_given_back.max_usd == 1.0


def test_a_run_that_spends_the_day_says_so_and_leaves_the_next_one_the_rest(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    with ScriptedEndpoint() as server, day_of(client, ENOUGH_FOR_SOME):
        run = paid_run(tmp_path / "one", server)
        with pytest.raises(BudgetError, match=r"budget of the day for all runs \(\$0\.0012"):
            texts_flow(run)
        spent = float(status(Path(run.run))["spent_usd"])
        with day_allowance(free_run(tmp_path / "other", 1.0)) as rest:
            assert 0 < spent <= ENOUGH_FOR_SOME
            assert rest.max_usd == pytest.approx(ENOUGH_FOR_SOME - spent, abs=1e-6)


def test_a_budget_that_is_no_amount_is_refused(client: SyncPrefectClient, tmp_path: Path) -> None:
    with day_of(client, "a lot"), pytest.raises(ConfigError, match="which is no amount"), day_allowance(RunConfig()):
        pass
