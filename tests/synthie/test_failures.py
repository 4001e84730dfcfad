"""What becomes of texts that cannot be had: in the failures file, in the bill, and in the next run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful
from texts_world import SETS, generate, make_world, rows, settings

from synthie.errors import EndpointError, IncompleteError
from synthie.generate import ask_pilot
from synthie.llm.client import RequestFailedError
from synthie.texts.failures import Failures, any_failures

REFUSED = RequestFailedError("no", 400, 1, permanent=True)
UNLUCKY = RequestFailedError("8 tries failed", 500, 8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def server() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as endpoint:
        yield endpoint


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_bytes().split(b"\n") if line]


def asked(seen: Seen) -> str:
    return seen.body["messages"][-1]["content"].split("\n\n")[-1]


def failing(*names: str, status: int = 500) -> Callable[[Seen], Reply]:
    """Answers with ``status`` where the facts are about one of ``names``."""

    def respond(seen: Seen) -> Reply:
        if not any(name in asked(seen) for name in names):
            return faithful(seen)
        code = "content_filter" if status == 400 else None
        return Reply.error(status, code=code, retry_after_ms="1")

    return respond


# --- The file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b\x1c", "\ud800"])
def test_no_character_of_a_request_breaks_its_line(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "failures.jsonl"
    body = json.dumps({"content": odd}).encode()
    Failures(path).add(7, b"k" * 16, body, RequestFailedError(f"no {odd}", 400, 1, permanent=True))
    assert Failures(path).is_refused(b"k" * 16)
    assert any_failures(path)


def test_half_a_line_left_by_a_crash_costs_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "failures.jsonl"
    path.write_bytes(b'{"key": "00", "permanent": tr')
    Failures(path).add(7, b"k" * 16, b"{}", REFUSED)
    assert Failures(path).is_refused(b"k" * 16)


def test_what_was_refused_before_the_endpoint_failed_as_a_whole_is_doubted_back_to_its_last_answer(
    tmp_path: Path,
) -> None:
    path = tmp_path / "failures.jsonl"
    failures = Failures(path)
    failures.add(1, b"a" * 16, b"{}", REFUSED)
    failures.answered()
    failures.add(2, b"b" * 16, b"{}", REFUSED)
    failures.doubt()
    again = Failures(path)
    assert again.is_refused(b"a" * 16)
    assert not again.is_refused(b"b" * 16)


def test_a_request_that_failed_is_not_sent_again_in_the_same_run(tmp_path: Path) -> None:
    failures = Failures(tmp_path / "failures.jsonl")
    assert not failures.has_failed(b"a" * 16)
    failures.add(1, b"a" * 16, b"{}", UNLUCKY)
    assert failures.has_failed(b"a" * 16)
    assert not failures.is_refused(b"a" * 16)
    assert not Failures(tmp_path / "failures.jsonl").has_failed(b"a" * 16)


# --- Through the stage ------------------------------------------------------------------------------------------------


def test_the_file_holds_what_failed_in_the_last_run_once_each(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = failing("Ada Weiss", "Bruno Rossi")
    for _ in range(2):
        with pytest.raises(IncompleteError, match="2 of 60 texts"):
            generate(world, tmp_path, settings(server))
        assert sorted(line["id"] for line in lines(tmp_path)) == [0, 1]
    server.respond = failing("Bruno Rossi")
    with pytest.raises(IncompleteError, match="1 of 60 texts"):
        generate(world, tmp_path, settings(server))
    assert [line["id"] for line in lines(tmp_path)] == [1]


def test_a_stage_that_is_short_of_texts_leaves_the_whole_bill(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = failing("Ada Weiss")
    with pytest.raises(IncompleteError):
        generate(world, tmp_path, settings(server))
    bill = json.loads((tmp_path / "cost.json").read_text())
    assert bill["texts"]["samples"] == SETS - 1
    assert bill["this_run"]["failed"] == 1
    assert bill["relations"]


def test_a_pilot_forgets_no_refusal_of_a_text_that_it_does_not_ask_for(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = failing("Bruno Rossi", status=400)
    with pytest.raises(IncompleteError):
        generate(world, tmp_path, settings(server))
    ask_pilot(settings(server), world / "kg", world / "sets", tmp_path, texts=20, seed=0, max_usd=1)
    assert [line["id"] for line in lines(tmp_path)] == [1]
    with pytest.raises(IncompleteError):
        generate(world, tmp_path, settings(server))
    assert len(server.seen) == SETS


def test_an_endpoint_that_fails_as_a_whole_takes_back_no_refusal_that_an_answer_has_followed(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    def respond(seen: Seen) -> Reply:
        is_late = len(server.seen) > 40
        return Reply.error(401, "the key has expired") if is_late else failing("Bruno Rossi", status=400)(seen)

    server.respond = respond
    with pytest.raises(EndpointError):
        generate(world, tmp_path, settings(server, concurrency=1))
    assert [line["permanent"] for line in lines(tmp_path)] == [True]


def test_another_try_that_is_refused_leaves_the_set_with_its_rejected_text(
    world: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    def respond(seen: Seen) -> Reply:
        if "Ada Weiss" not in asked(seen):
            return faithful(seen)
        if seen.body["max_tokens"] > 600:
            return Reply.error(400, "max_tokens is too large")
        return Reply("Ada Weiss was", finish_reason="length")

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server, tries=2))
    assert (manifest.counts["samples"], manifest.counts["rejected"], manifest.counts["failed"]) == (SETS - 1, 1, 0)
    assert manifest.counts["reasons"]["truncated"] == 1


def test_a_set_whose_other_try_fails_counts_once(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    def respond(seen: Seen) -> Reply:
        if "Ada Weiss" not in asked(seen):
            return faithful(seen)
        return Reply.error(500, retry_after_ms="1") if seen.body["seed"] else Reply("Nobody knows.")

    server.respond = respond
    counts = generate(world, tmp_path, settings(server, tries=2, max_failed_share=0.1)).counts
    assert (counts["samples"], counts["rejected"], counts["failed"]) == (SETS - 1, 0, 1)
    assert rows(tmp_path, "rejected") == []
