"""The Batch API: every line asked once and paid half, whatever fails, expires or is killed in between."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from batch_world import MODEL, Stop, World, key_of, line_of, lines, worst_of
from texts_world import SETS, generate, make_world, rows

from synthie.config import BatchConfig, EndpointConfig, GenerationConfig, LocalServerConfig, RunConfig
from synthie.errors import (
    AuthenticationError,
    BudgetError,
    ConfigError,
    EndpointError,
    ModelNotFoundError,
    QuotaError,
    StorageError,
)
from synthie.llm import batch_files, batch_provider
from synthie.llm.batch import batches_under_way, cancel_batches
from synthie.llm.batch_files import StoredBatch, stored_batches
from synthie.llm.batch_provider import Provider
from synthie.llm.endpoint import Endpoint
from synthie.llm.journal import Journal
from synthie.llm.local import LocalServer
from synthie.llm.protocol import Api
from synthie.llm.service_batches import BatchRules
from synthie.pipeline import Run

openai = pytest.importorskip("openai", reason="batches go through the official client: pip install openai")

FAITHFUL = LocalServerConfig(unfaithful=0)


def endpoint_of(server: LocalServer, **fields: Any) -> Endpoint:
    return Endpoint(server.base_url, MODEL, **fields)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file that keeps a server with the rules `held_by` from answering any line until it is gone."""
    path = tmp_path / "hold"
    path.write_text("0")
    return path


def held_by(hold: Path, **rules: Any) -> BatchRules:
    return BatchRules(held_by=str(hold), **rules)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(FAITHFUL) as running:
        yield running


class Counted:
    """What a server has done since the block began."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._before = server.stats()

    @property
    def batches(self) -> int:
        return self._server.stats()["batches"] - self._before["batches"]

    @property
    def answered(self) -> int:
        """Lines of batches that were answered, and billed."""
        return self._server.stats()["batch_lines"].get("200", 0) - self._before["batch_lines"].get("200", 0)


# --- Asking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_lines_are_answered_at_the_discounted_price_under_their_live_keys(
    world: World, server: LocalServer, api: Api
) -> None:
    asked, counted = lines(30, api=api), Counted(server)
    world.ask(endpoint_of(server, api=api), asked)
    world.check_all_answered_and_paid_once(asked)
    assert (counted.batches, counted.answered) == (1, 30)
    assert sorted(world.told) == sorted(line.key for line in asked)
    assert "Town 7" in world.records(asked)[7].text
    assert {record.endpoint for record in world.records(asked)} == {server.base_url}
    assert [kind for kind in world.events if kind != "batch_status"] == ["batch_created", "batch_collected"]


def test_the_uploaded_bodies_are_those_of_live_calls_byte_for_byte(world: World, server: LocalServer) -> None:
    asked = lines(5)
    world.ask(endpoint_of(server), asked)
    (receipt,) = stored_batches(world.batches)
    client = openai.OpenAI(base_url=server.base_url, api_key="any")
    uploaded = client.files.content(receipt.state.file_id).content.splitlines()
    for line, raw in zip(asked, uploaded, strict=True):
        assert raw.endswith(b',"method":"POST","url":"/v1/chat/completions","body":' + line.request.body + b"}")
        assert json.loads(raw)["custom_id"] == line.key.hex()
        assert key_of(line.request.body) == line.key


def test_stored_and_equal_lines_are_not_asked(world: World, server: LocalServer) -> None:
    asked = lines(10)
    world.ask(endpoint_of(server), asked[:4])
    counted = Counted(server)
    world.ask(endpoint_of(server), [*asked, *asked[5:]])
    assert counted.answered == 6
    world.check_all_answered_and_paid_once(asked)


def test_nothing_to_ask_makes_no_batch(world: World, server: LocalServer) -> None:
    asked = lines(2)
    world.ask(endpoint_of(server), asked)
    counted = Counted(server)
    world.ask(endpoint_of(server), asked)
    world.ask(endpoint_of(server), [])
    assert (counted.batches, world.events) == (0, [])


def test_batches_keep_within_the_number_of_requests(world: World, server: LocalServer) -> None:
    asked, counted = lines(23), Counted(server)
    world.ask(endpoint_of(server), asked, max_requests=10, max_batches=2)
    assert (counted.batches, counted.answered) == (3, 23)
    assert sorted(batch.state.lines for batch in stored_batches(world.batches)) == [3, 10, 10]


def test_batches_keep_within_the_size_of_a_file(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, counted = lines(10), Counted(server)
    length = len(batch_files.request_line("/v1/chat/completions", asked[0].key, asked[0].request.body))
    monkeypatch.setattr(batch_files, "MAX_BYTES", 4 * length)
    world.ask(endpoint_of(server), asked)
    assert counted.batches == 3
    world.check_all_answered_and_paid_once(asked)


def test_collected_batches_leave_nothing_but_a_receipt(world: World, server: LocalServer) -> None:
    world.ask(endpoint_of(server), lines(3))
    assert [path.name for path in world.batches.glob("*/*")] == ["state.json"]


# --- Lines that fail -----------------------------------------------------------------------------------------------


def test_refused_lines_are_reported_with_their_bodies_and_the_others_stored(world: World, server: LocalServer) -> None:
    asked, bad = lines(5), [line_of(0, prompt="Hello!"), line_of(0, prompt="Good bye!")]
    world.ask(endpoint_of(server), [*bad, *asked])
    assert {key: body for key, (body, _) in world.failures.items()} == {line.key: line.request.body for line in bad}
    _, error = world.failures[bad[0].key]
    assert str(error).startswith("400: The last user message must end with triplets")
    assert (error.status, error.attempts, error.permanent) == (400, 1, True)
    assert all(world.records(asked))
    assert world.ledger.reserved == 0


def test_where_every_line_is_refused_the_run_stops(world: World, server: LocalServer) -> None:
    bad = [line_of(0, prompt=f"Hello {number}!") for number in range(25)]
    with pytest.raises(EndpointError, match=r"20 requests in a row failed.*extra_body"):
        world.ask(endpoint_of(server), bad)
    assert world.failures == {}  # the fault is not theirs


def test_only_failed_lines_are_repeated(world: World) -> None:
    asked = lines(60)
    with LocalServer(LocalServerConfig(unfaithful=0, rate_500=0.2, rate_429=0.2)) as server:
        world.ask(endpoint_of(server), asked)
        statuses = server.stats()["batch_lines"]
    world.check_all_answered_and_paid_once(asked)
    assert statuses["200"] == 60
    assert statuses["500"] > 0
    assert statuses["429"] > 0
    attempts = Counter(record.attempts for record in world.records(asked))
    tries = sum(attempt * count for attempt, count in attempts.items())
    assert tries == sum(statuses.values())


def test_a_line_fails_when_its_tries_are_used_up(world: World) -> None:
    asked = lines(3)
    with LocalServer(LocalServerConfig(rate_500=0.9999)) as server:
        world.ask(endpoint_of(server), asked, max_attempts=2)
        assert server.stats()["batch_lines"] == {"500": 6}
    assert {key: body for key, (body, _) in world.failures.items()} == {line.key: line.request.body for line in asked}
    _, error = world.failures[asked[0].key]
    assert str(error).startswith("2 tries failed, the last with 500: The server had an error")
    assert (error.status, error.attempts, error.permanent) == (500, 2, False)
    assert (world.ledger.reserved, world.ledger.spent) == (0, 0)


def test_lines_that_expire_are_asked_again_and_only_they(world: World) -> None:
    asked = lines(12)
    with LocalServer(FAITHFUL, batches=BatchRules(expire_after=5)) as server:
        counted = Counted(server)
        world.ask(endpoint_of(server), asked)
        assert (counted.batches, counted.answered) == (3, 12)
    world.check_all_answered_and_paid_once(asked)
    statuses = [batch.state.status for batch in stored_batches(world.batches)]
    assert statuses == ["expired", "expired", "completed"]
    assert [record.attempts for record in world.records(asked)] == [1] * 5 + [2] * 5 + [3] * 2


def test_unreadable_and_lost_results_are_charged_or_asked_again(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, download, damaged = lines(4), Provider.download, []

    def damage(provider: Provider, file_id: str, path: Path) -> None:
        download(provider, file_id, path)
        if not damaged:
            torn, lost, *rest = path.read_bytes().splitlines(keepends=True)
            damaged.extend([torn, lost])
            path.write_bytes(b"".join([torn.replace(b'"choices"', b'"voices"'), lost[:-20] + b"\n", *rest]))

    monkeypatch.setattr(Provider, "download", damage)
    world.ask(endpoint_of(server), asked)
    records = world.records(asked)
    assert [record.attempts for record in records] == [2, 2, 1, 1]
    unreadable = worst_of(asked[:1])  # it was answered, so it is billed
    assert world.ledger.spent == sum(record.cost for record in records) + unreadable
    assert world.ledger.reserved == 0


# --- Batches that fail ---------------------------------------------------------------------------------------------


def test_a_full_queue_makes_batches_smaller_until_they_fit(world: World) -> None:
    asked = lines(16)
    tokens = sum(len(line.request.body) for line in asked) // 4
    with LocalServer(FAITHFUL, batches=BatchRules(max_enqueued_tokens=tokens // 3)) as server:
        world.ask(endpoint_of(server), asked)
        assert server.stats()["batch_lines"] == {"200": 16}
    world.check_all_answered_and_paid_once(asked)
    assert "batch_queue_full" in world.events
    assert {batch.state.lines for batch in stored_batches(world.batches)} == {16, 8, 4}


def test_a_full_queue_makes_batches_wait_for_the_others(world: World, hold: Path) -> None:
    asked = lines(12)
    tokens = sum(len(line.request.body) for line in asked) // 4

    def go_on_when_it_is_full() -> None:
        if "batch_queue_full" in world.events:
            hold.unlink(missing_ok=True)

    with LocalServer(FAITHFUL, batches=held_by(hold, max_enqueued_tokens=tokens // 2)) as server:
        world.ask(endpoint_of(server), asked, max_requests=4, max_batches=3, on_progress=go_on_when_it_is_full)
        assert server.stats()["batch_lines"] == {"200": 12}
    world.check_all_answered_and_paid_once(asked)
    assert "batch_queue_full" in world.events
    assert {batch.state.lines for batch in stored_batches(world.batches)} == {4}  # none had to be made smaller


def test_a_line_too_long_for_the_queue_is_an_error(world: World) -> None:
    with (
        LocalServer(FAITHFUL, batches=BatchRules(max_enqueued_tokens=1)) as server,
        pytest.raises(EndpointError, match=r"refuses the batch .*Limit: 1 enqueued tokens"),
    ):
        world.ask(endpoint_of(server), lines(2))
    assert world.ledger.reserved == 0


def test_a_batch_that_fails_otherwise_ends_the_run_with_its_message_and_can_be_made_again(world: World) -> None:
    asked = lines(3)
    with LocalServer(FAITHFUL, batches=BatchRules(max_requests=2)) as server:
        with pytest.raises(EndpointError, match=r"refuses the batch 000001 \(batch_\w+\): .*at most 2 requests"):
            world.ask(endpoint_of(server), asked)
        world.ask(endpoint_of(server), asked, max_requests=2)
    world.check_all_answered_and_paid_once(asked)


def test_a_model_that_does_not_exist_is_named_with_those_that_do(world: World, server: LocalServer) -> None:
    asked = lines(2, model="synthie-rulez")
    with pytest.raises(ModelNotFoundError, match=r"no model 'synthie-rulez'.*synthie-rules"):
        world.ask(Endpoint(server.base_url, "synthie-rulez"), asked)


def test_no_credit_in_a_line_ends_the_run_once_the_others_are_stored(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, download = lines(4), Provider.download

    def without_credit(provider: Provider, file_id: str, path: Path) -> None:
        download(provider, file_id, path)
        first, *rest = path.read_bytes().splitlines(keepends=True)
        refusal = {"status_code": 429, "body": {"error": {"message": "pay!", "code": "insufficient_quota"}}}
        first = json.dumps({"custom_id": json.loads(first)["custom_id"], "response": refusal}).encode() + b"\n"
        path.write_bytes(b"".join([first, *rest]))

    monkeypatch.setattr(Provider, "download", without_credit)
    with pytest.raises(QuotaError, match=r"no credit left \(429: pay!\)"):
        world.ask(endpoint_of(server), asked)
    assert [record is not None for record in world.records(asked)] == [False, True, True, True]
    monkeypatch.undo()
    world.ask(endpoint_of(server), asked)
    world.check_all_answered_and_paid_once(asked)


# --- Budget --------------------------------------------------------------------------------------------------------


def test_the_budget_is_never_exceeded_and_a_higher_one_goes_on_from_there(world: World, server: LocalServer) -> None:
    asked, counted = lines(40), Counted(server)
    worst = max(worst_of([line]) for line in asked)
    limit = 2 * worst
    with pytest.raises(BudgetError, match=r"The budget is used up: .*Run again with a higher max_usd"):
        world.ask(endpoint_of(server), asked, limit=limit)
    assert 0 < counted.answered < 40
    assert counted.batches > 1  # what a batch did not use paid for another
    assert limit - worst < world.ledger.spent <= limit
    world.ask(endpoint_of(server), asked)
    assert counted.answered == 40
    world.check_all_answered_and_paid_once(asked)


def test_a_budget_below_one_line_asks_nothing(world: World, server: LocalServer) -> None:
    counted = Counted(server)
    with pytest.raises(BudgetError):
        world.ask(endpoint_of(server), lines(3), limit=worst_of(lines(1)) - 1)
    assert counted.batches == 0
    assert list(world.batches.glob("*")) == []


def test_batches_under_way_hold_their_reservation_also_in_the_next_run(world: World, hold: Path) -> None:
    asked = lines(8)
    limit = worst_of(asked[:4])
    with LocalServer(FAITHFUL, batches=held_by(hold)) as server:
        with pytest.raises(Stop):
            world.ask(endpoint_of(server), asked, limit=limit, on_progress=stop_when(world, "created"))
        most = 0

        def watch() -> None:
            nonlocal most
            most = max(most, world.ledger.spent + world.ledger.reserved)
            hold.unlink(missing_ok=True)

        with contextlib.suppress(BudgetError):
            world.ask(endpoint_of(server), asked, limit=limit, on_progress=watch)
        assert most == limit
        assert world.ledger.spent <= limit


# --- Kills ---------------------------------------------------------------------------------------------------------


def stop_when(world: World, step: str) -> Callable[[], None]:
    def look() -> None:
        if any(batch.state.step == step for batch in stored_batches(world.batches)):
            raise Stop

    return look


def stopping(original: Callable[..., Any], nth: int, *, before: bool) -> Callable[..., Any]:
    """``original``, whose ``nth`` call raises `Stop` before or after it does its work."""
    calls = 0

    def stopped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and before:
            raise Stop
        result = original(*arguments, **options)
        if calls == nth:
            raise Stop
        return result

    return stopped


KILLS = [
    (batch_files.Plan, "add", 4),
    (batch_files.Plan, "finish", 1),
    (Provider, "upload", 1),
    (StoredBatch, "save", 1),  # uploaded
    (Provider, "create", 1),
    (StoredBatch, "save", 2),  # created
    (Provider, "look", 1),
    (StoredBatch, "save", 3),  # finished
    (Provider, "download", 1),
    (Journal, "append", 3),
    (Journal, "append", 8),
    (StoredBatch, "save", 4),  # collected
    (StoredBatch, "discard_files", 1),
]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("place", "name", "nth"), KILLS, ids=[f"{p.__name__}.{n}-{t}" for p, n, t in KILLS])
def test_a_kill_at_any_step_makes_no_second_batch_of_the_same_lines(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, nth: int, before: bool
) -> None:
    asked, counted = lines(8), Counted(server)
    monkeypatch.setattr(place, name, stopping(getattr(place, name), nth, before=before))
    with pytest.raises(Stop):
        world.ask(endpoint_of(server), asked)
    monkeypatch.undo()
    world.ask(endpoint_of(server), asked)
    world.check_all_answered_and_paid_once(asked)
    assert (counted.batches, counted.answered) == (1, 8)


def test_a_batch_is_known_by_name_on_the_disk_before_it_is_created(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, create = [], Provider.create

    def created(provider: Provider, *arguments: Any) -> Any:
        assert {world.batches, world.batches / "000001", world.folder} <= set(synced)
        assert synced[-1] == world.batches / "000001"  # after its state became "uploaded"
        return create(provider, *arguments)

    sync_folder = batch_files.sync_folder
    monkeypatch.setattr(batch_files, "sync_folder", lambda folder: (sync_folder(folder), synced.append(folder)))
    monkeypatch.setattr(Provider, "create", created)
    world.ask(endpoint_of(server), lines(2))


def test_answers_are_on_the_disk_before_the_batch_that_gave_them_is_done_with(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, sync, append, happened = StoredBatch.save, os.fdatasync, Journal.append, []

    def saved(batch: StoredBatch, **changes: Any) -> None:
        happened.append(changes["step"])
        save(batch, **changes)

    monkeypatch.setattr("synthie.llm.journal.SYNC_SECONDS", 1_000.0)
    monkeypatch.setattr(StoredBatch, "save", saved)
    monkeypatch.setattr(os, "fdatasync", lambda file: (sync(file), happened.append("sync")))
    monkeypatch.setattr(Journal, "append", lambda journal, one: (append(journal, one), happened.append("append")))
    world.ask(endpoint_of(server), lines(2))
    assert happened[: happened.index("collected")][-3:] == ["append", "append", "sync"]


def test_what_fails_in_an_adopted_batch_is_asked_again(world: World) -> None:
    asked = lines(12)
    with LocalServer(FAITHFUL, batches=BatchRules(expire_after=5, line_s=0.05)) as server:
        with pytest.raises(Stop):
            world.ask(endpoint_of(server), asked, on_progress=stop_when(world, "created"))
        world.ask(endpoint_of(server), asked)
        assert server.stats()["batch_lines"] == {"200": 12}
    world.check_all_answered_and_paid_once(asked)
    assert world.events[0] == "batch_adopted"


def test_an_adopted_batch_is_paid_and_stored_but_not_repeated_where_nobody_asks_for_it_any_more(world: World) -> None:
    old, new = lines(6), [line_of(number) for number in range(100, 103)]
    bad = line_of(0, prompt="Hello!")
    with LocalServer(FAITHFUL, batches=BatchRules(expire_after=4, line_s=0.05)) as server:
        with pytest.raises(Stop):
            world.ask(endpoint_of(server), [bad, *old], on_progress=stop_when(world, "created"))
        world.ask(endpoint_of(server), new)
        assert server.stats()["batch_lines"] == {"200": 6, "400": 1}
    assert all(world.records(new))
    assert [record is not None for record in world.records(old)] == [True] * 3 + [False] * 3
    assert world.failures == {}
    assert set(world.told) == {line.key for line in new}


def test_a_creation_that_was_not_confirmed_is_looked_for_before_it_is_repeated(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openai.resources.batches import Batches

    create, counted, asked = Batches.create, Counted(server), lines(3)
    failures = iter([True])

    def unconfirmed(*arguments: Any, **options: Any) -> Any:
        batch = create(*arguments, **options)
        if next(failures, False):
            raise openai.APITimeoutError(request=None)
        return batch

    monkeypatch.setattr(Batches, "create", unconfirmed)
    monkeypatch.setattr(batch_provider, "_FIRST_PAUSE_S", 0.01)
    world.ask(endpoint_of(server), asked)
    assert counted.batches == 1
    world.check_all_answered_and_paid_once(asked)


RUN = """
import sys
from pathlib import Path
from batch_world import MODEL, Endpoint, World, lines
world = World(Path(sys.argv[1]))
def tell():
    print(*world.events, flush=True)
world.ask(Endpoint(sys.argv[2], MODEL), lines(40), max_requests=20, on_progress=tell)
"""


@contextlib.contextmanager
def running(world: World, server: LocalServer) -> Iterator[subprocess.Popen[str]]:
    """A process that asks 40 lines in two batches, has created both and noted it."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(world.folder), server.base_url],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert any(line.count("batch_created") == 2 for line in process.stdout)
            yield process
        finally:
            process.kill()


def test_a_process_killed_while_batches_are_under_way_loses_and_repeats_nothing(world: World) -> None:
    asked = lines(40)
    with LocalServer(FAITHFUL, batches=BatchRules(line_s=0.02)) as server:
        with running(world, server) as process:
            process.send_signal(signal.SIGKILL)
            process.wait(240)
        world.ask(endpoint_of(server), asked)
        assert (server.stats()["batches"], server.stats()["batch_lines"]) == (2, {"200": 40})
    world.check_all_answered_and_paid_once(asked)


def test_a_terminated_process_leaves_its_batches_under_way_and_says_so(world: World, hold: Path) -> None:
    with LocalServer(FAITHFUL, batches=held_by(hold)) as server, running(world, server) as process:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"batches under way at {server.base_url}: 2; " in told
    assert "the same command collects them" in told


# --- Cancelling ----------------------------------------------------------------------------------------------------


def test_cancelled_batches_give_what_they_have_answered_and_the_rest_is_asked_again(world: World, hold: Path) -> None:
    asked = lines(48)
    hold.write_text("16")
    with LocalServer(FAITHFUL, batches=held_by(hold)) as server:
        endpoint = endpoint_of(server)

        def stop_when_something_is_answered() -> None:
            if server.stats()["batch_lines"]:
                raise Stop

        with pytest.raises(Stop):
            world.ask(endpoint, asked, on_progress=stop_when_something_is_answered)
        assert cancel_batches(endpoint, world.batches) == 1
        hold.unlink()
        world.ask(endpoint, asked)
        first, *_ = stored_batches(world.batches)
        assert first.state.status == "cancelled"
        assert 0 < first.state.answered < 48
        assert server.stats()["batch_lines"] == {"200": 48}
        assert cancel_batches(endpoint, world.batches) == 0
    world.check_all_answered_and_paid_once(asked)


def test_a_batch_that_was_created_just_before_a_kill_is_cancelled_too(
    world: World, hold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalServer(FAITHFUL, batches=held_by(hold)) as server:
        monkeypatch.setattr(Provider, "create", stopping(Provider.create, 1, before=False))
        with pytest.raises(Stop):
            world.ask(endpoint_of(server), lines(20))
        assert cancel_batches(endpoint_of(server), world.batches) == 1


def test_batches_are_cancelled_also_where_a_list_names_their_endpoint(tmp_path: Path, hold: Path) -> None:
    world = World(tmp_path / "texts")
    with LocalServer(FAITHFUL, batches=held_by(hold)) as server:
        with pytest.raises(Stop):
            world.ask(endpoint_of(server), lines(20), on_progress=stop_when(world, "created"))
        generation = GenerationConfig(endpoints=[EndpointConfig(base_url=server.base_url)], mode="batch")
        assert Run(RunConfig(run=str(tmp_path), generation=generation)).cancel_batches() == 1


# --- Endpoints -----------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_with_the_mend_and_without_the_key(world: World) -> None:
    secret = "sk-wrong-and-secret"
    with LocalServer(FAITHFUL, api_key="right") as server:
        headers = {"Authorization": f"Bearer {secret}"}
        endpoint = endpoint_of(server, headers=headers, secrets=(secret,), key_env="MY_KEY")
        with pytest.raises(AuthenticationError, match=r"refuses access \(401.*Check the key .*MY_KEY") as caught:
            world.ask(endpoint, lines(1))
        assert secret not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None  # the client's errors hold the request's headers
        with pytest.raises(AuthenticationError, match="No key was sent"):
            world.ask(endpoint_of(server), lines(1))
        world.ask(endpoint_of(server, headers={"authorization": "Bearer right"}), lines(1))
    world.check_all_answered_and_paid_once(lines(1))


def test_an_endpoint_without_a_batch_api_is_told_apart(world: World, server: LocalServer) -> None:
    with pytest.raises(EndpointError, match=r"has no Batch API.*generation\.mode to live"):
        world.ask(Endpoint(server.base_url + "/elsewhere", MODEL), lines(1))


class Page(http.server.BaseHTTPRequestHandler):
    """Answers everything with status 200 and the same body, as do proxies and other programs."""

    body: ClassVar[bytes] = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if self.body.startswith(b"{") else "text/html")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named so by the base
        pass


@pytest.mark.parametrize("body", [b"<html>You sent sk-secret-1234.", b"{oops", b"{}", b""], ids=repr)
def test_another_program_at_the_url_is_told_as_that(world: World, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(batch_provider, "_FIRST_PAUSE_S", 0.01)
    page = type("This", (Page,), {"body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), page) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        endpoint = Endpoint(f"http://127.0.0.1:{other.server_port}/v1", MODEL, secrets=("sk-secret-1234",))
        with pytest.raises(EndpointError, match=r"Nobody takes requests at .*correct generation\.base_url") as caught:
            world.ask(endpoint, lines(1))
        other.shutdown()
    assert "sk-secret" not in "".join(traceback.format_exception(caught.value))
    assert batches_under_way(world.batches) == 0


def test_a_page_in_the_place_of_the_results_is_fetched_again_and_nothing_asked_twice(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openai._response import APIResponse

    asked, counted, pages = lines(4), Counted(server), iter([b"<html>Please log in", b"<"])
    blocks = APIResponse.iter_bytes
    monkeypatch.setattr(batch_provider, "_FIRST_PAUSE_S", 0.01)

    def iter_bytes(response: Any, size: int | None = None) -> Iterator[bytes]:
        page = next(pages, None)
        yield from blocks(response, size) if page is None else [page]

    monkeypatch.setattr(APIResponse, "iter_bytes", iter_bytes)
    world.ask(endpoint_of(server), asked)
    assert next(pages, None) is None
    assert (counted.batches, counted.answered) == (1, 4)
    world.check_all_answered_and_paid_once(asked)


def test_results_that_the_endpoint_has_no_more_are_named_with_the_mend(world: World, server: LocalServer) -> None:
    def forget() -> None:
        for batch in stored_batches(world.batches):
            if batch.state.step == "created":
                batch.save(step="finished", output_file_id="file-gone")
                raise Stop

    with pytest.raises(Stop):
        world.ask(endpoint_of(server), lines(2), on_progress=forget)
    with pytest.raises(EndpointError, match=r"has the results file-gone no more .*or remove the folder .*000001,"):
        world.ask(endpoint_of(server), lines(2))


def test_a_batch_to_cancel_that_the_endpoint_does_not_know_is_named(world: World, server: LocalServer) -> None:
    with pytest.raises(Stop):
        world.ask(endpoint_of(server), lines(2), on_progress=stop_when(world, "created"))
    stored_batches(world.batches)[0].save(batch_id="batch_gone")
    with pytest.raises(EndpointError, match=r"knows no batch batch_gone .*remove its folder"):
        cancel_batches(endpoint_of(server), world.batches)


def test_an_endpoint_where_nobody_answers_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_provider, "_FIRST_PAUSE_S", 0.01)
    with pytest.raises(EndpointError, match=r"Nobody takes requests at http://127\.0\.0\.1:9/v1"):
        world.ask(Endpoint("http://127.0.0.1:9/v1", MODEL), lines(1))


def test_a_proxy_is_used_where_the_endpoint_names_one_and_only_there(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "OPENAI_ORG_ID", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    world.ask(endpoint_of(server), lines(1))
    monkeypatch.setattr(batch_provider, "_FIRST_PAUSE_S", 0.01)
    with pytest.raises(EndpointError, match="Nobody takes requests"):
        world.ask(endpoint_of(server, proxy="http://127.0.0.1:9"), lines(2))


def test_a_proxy_that_refuses_the_password_is_told_apart_and_the_password_kept(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        proxy = f"http://me:s3cret-pass@127.0.0.1:{listener.getsockname()[1]}"
        endpoint = Endpoint("https://llm.example/v1", MODEL, proxy=proxy, secrets=("s3cret-pass",))
        with pytest.raises(AuthenticationError, match=r"The proxy .* refuses access") as caught:
            world.ask(endpoint, lines(1))
    assert "s3cret-pass" not in "".join(traceback.format_exception(caught.value))


def test_an_outage_while_batches_are_under_way_is_waited_for(
    world: World, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openai.resources.batches import Batches

    retrieve, outage = Batches.retrieve, iter([True] * 5)

    def flaky(*arguments: Any, **options: Any) -> Any:
        if next(outage, False):
            raise openai.APIConnectionError(request=None)
        return retrieve(*arguments, **options)

    monkeypatch.setattr(Batches, "retrieve", flaky)
    world.ask(endpoint_of(server), lines(3))
    world.check_all_answered_and_paid_once(lines(3))
    monkeypatch.setattr(batch_provider, "_SILENT_S", -1.0)
    outage = iter([True])
    with pytest.raises(EndpointError, match="batches under way go on"):
        world.ask(endpoint_of(server), lines(5))


def test_batches_at_another_endpoint_are_not_forgotten(world: World) -> None:
    with LocalServer(FAITHFUL, batches=BatchRules(line_s=0.5)) as server:
        with pytest.raises(Stop):
            world.ask(endpoint_of(server), lines(2), on_progress=stop_when(world, "created"))
        elsewhere = Endpoint("http://127.0.0.1:9/v1", MODEL)
        with pytest.raises(ConfigError, match=rf"under way at {server.base_url} .*not at http://127\.0\.0\.1:9/v1"):
            world.ask(elsewhere, lines(2))
        with pytest.raises(ConfigError, match="is under way at"):
            cancel_batches(elsewhere, world.batches)


def test_a_batch_that_the_endpoint_does_not_know_is_an_error_with_a_mend(world: World) -> None:
    with LocalServer(FAITHFUL, batches=BatchRules(line_s=0.5)) as server, pytest.raises(Stop):
        world.ask(endpoint_of(server), lines(2), on_progress=stop_when(world, "created"))
    with LocalServer(FAITHFUL) as server:
        (batch,) = stored_batches(world.batches)
        batch.save(base_url=server.base_url)
        with pytest.raises(EndpointError, match=rf"knows no batch {batch.state.batch_id} .*remove its folder"):
            world.ask(endpoint_of(server), lines(2))


def test_a_state_that_cannot_be_read_is_an_error_with_a_mend(world: World, server: LocalServer) -> None:
    world.ask(endpoint_of(server), lines(1))
    (path,) = world.batches.glob("*/state.json")
    path.write_text("{")
    with pytest.raises(StorageError, match=r"Cannot read .*state\.json.*remove that folder"):
        world.ask(endpoint_of(server), lines(1))


# --- The texts stage -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def test_the_texts_stage_writes_its_texts_by_batch_on_the_built_in_server(small: Path, tmp_path: Path) -> None:
    config = GenerationConfig(mode="batch", batch=BatchConfig(max_requests=25, poll_s=0.05), local=FAITHFUL)
    manifest = generate(small, tmp_path, config)
    assert manifest.counts["samples"] + manifest.counts["rejected"] == SETS
    assert manifest.counts["samples"] > SETS / 2


def test_texts_that_came_by_batch_are_not_asked_for_again_live(
    small: Path, server: LocalServer, tmp_path: Path
) -> None:
    counted, options = Counted(server), {"base_url": server.base_url, "batch": BatchConfig(poll_s=0.05)}
    generate(small, tmp_path, GenerationConfig(mode="batch", **options))
    assert counted.answered == SETS
    live = server.stats()["requests"]
    texts = {row["id"]: row["text"] for row in rows(tmp_path)}
    generate(small, tmp_path, GenerationConfig(mode="live", **options), max_words_per_triplet=59)
    assert server.stats()["requests"] == live
    assert {row["id"]: row["text"] for row in rows(tmp_path)} == texts


# --- Against a server that is not ours -----------------------------------------------------------------------------


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Base URL of llmock, an independent imitation of the API."""
    testing = pytest.importorskip("llmock.testing", reason="an independent server: pip install llmock")
    monkeypatch.setattr("llmock.routers.batch._BATCH_DELAY", 0.3)
    monkeypatch.setattr("llmock.routers.batch._batches", {})
    with testing.LLMockServer() as server:
        yield server.base_url("openai")


def test_an_independent_server_is_understood(world: World, stranger: str) -> None:
    asked = lines(25, model="gpt-4o-mini")
    endpoint = Endpoint(stranger, "gpt-4o-mini", {"Authorization": "Bearer any"})
    with pytest.raises(Stop):
        world.ask(endpoint, asked, max_requests=10, on_progress=stop_when(world, "created"))
    world.ask(endpoint, asked, max_requests=10)
    world.check_all_answered_and_paid_once(asked)
    client = openai.OpenAI(base_url=stranger, api_key="any")
    assert sum(batch.request_counts.total for batch in client.batches.list()) == 25
