"""The limit that runs on all machines share: kept to by two runs at once, and clear words where it cannot be."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from scripted_endpoint import ScriptedEndpoint
from texts_world import SETS, make_world

from flows.limits import GlobalLimit
from flows.stages import texts_flow
from synthie.config import GenerationConfig, RunConfig
from synthie.errors import ConfigError, EndpointError
from synthie.pipeline import Run


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


Create = Callable[..., str]


@pytest.fixture
def create(client: SyncPrefectClient, request: pytest.FixtureRequest) -> Create:
    """Makes a limit of the test's own; returns its name."""

    def create(limit: int, decay: float) -> str:
        name = str(request.node.name)
        options = {"name": name, "limit": limit, "slot_decay_per_second": decay}
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate.model_validate(options))
        return name

    return create


def test_two_runs_at_once_keep_to_one_limit(create: Create, tmp_path: Path) -> None:
    name = create(20, 20.0)

    def run(world: Path) -> int:
        generation = GenerationConfig(base_url=server.base_url, model="gpt-4o-mini", global_limit=name)
        with GlobalLimit(name) as gate:
            return Run(RunConfig(run=str(world), generation=generation), gate=gate).generate_texts().counts["samples"]

    worlds = [make_world(tmp_path / name) for name in ("one", "other") if not (tmp_path / name).mkdir()]
    with ScriptedEndpoint() as server, ThreadPoolExecutor(2) as threads:
        assert all(threads.map(run, worlds))
    arrivals = sorted(seen.at for seen in server.seen)
    assert len(arrivals) == 2 * SETS
    # Slots that a run has taken may be used a moment later, so that one second may see more than 20 and its burst.
    assert arrivals[-1] - arrivals[0] >= (2 * SETS - 2 * 20) / 20


def test_a_flow_run_asks_the_limit_that_its_configuration_names(prefect_server: None, tmp_path: Path) -> None:
    make_world(tmp_path)
    with ScriptedEndpoint() as server:
        generation = GenerationConfig(base_url=server.base_url, model="gpt-4o-mini", global_limit="absent")
        with pytest.raises(ConfigError, match=r"no Prefect global concurrency limit 'absent'.*gcl create absent"):
            texts_flow(RunConfig(run=str(tmp_path), generation=generation))
        assert not server.seen


def pass_through(name: str, *requests: int) -> None:
    async def wait() -> None:
        for n in requests:
            await gate(n)

    with GlobalLimit(name) as gate:
        asyncio.run(wait())


def test_a_limit_without_slot_decay_is_refused(create: Create) -> None:
    with pytest.raises(ConfigError, match=r"do not decay.*gcl update .* --slot-decay-per-second"):
        pass_through(create(5, 0.0), 1)


def test_more_requests_than_slots_pass_in_parts(create: Create) -> None:
    pass_through(create(3, 1_000.0), 1, 50)


def test_a_limit_that_is_switched_off_lets_everything_pass(create: Create, client: SyncPrefectClient) -> None:
    name = create(1, 0.001)
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=False))
    pass_through(name, 10, 10)


def test_a_limit_that_is_changed_or_deleted_meanwhile_counts_as_it_is_now(
    create: Create, client: SyncPrefectClient
) -> None:
    name = create(10, 1_000.0)

    async def wait() -> None:
        await gate(5)
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=2))
        await gate(5)
        client.delete_global_concurrency_limit_by_name(name)
        await gate(1)

    with GlobalLimit(name) as gate, pytest.raises(ConfigError, match="There is no Prefect global concurrency limit"):
        asyncio.run(wait())


def test_waiting_ends_when_the_run_is_cancelled(create: Create) -> None:
    async def wait() -> None:
        await gate(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gate(1), 0.5)

    with GlobalLimit(create(1, 0.001)) as gate:  # the next slot is there only in a quarter of an hour
        asyncio.run(wait())


def test_a_server_that_stays_away_ends_the_run(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.limits._PAUSE_S", 0.01)
    monkeypatch.setattr("flows.limits._AWAY_S", 0.05)
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(EndpointError, match="has not answered"),
    ):
        pass_through("any", 1)
