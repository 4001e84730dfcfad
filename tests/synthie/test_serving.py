"""The extractor as a service: requests are joined, bounded, refused clearly, and nobody suffers for another's fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_cli import assert_refused, synthie

from synthie.errors import ConfigError
from synthie.extractor.serving.batching import ClosedError, MicroBatcher, Options, OverloadedError
from synthie.extractor.serving.server import ExtractorServer, Limits, listen
from synthie.records import Mention, Prediction, Triplet

FACT = Triplet(Mention("Ulm", "Q3012"), Mention("country", "P17"), Mention("Germany", "Q183"))
LIMITS = Limits(texts=4, characters=50, body_bytes=1_000, beams=5, queued_texts=6)
WAIT_S = 120.0


class FakeModel:
    """Finds a fact in each text; holds each call until it is let go on, if it is gated."""

    def __init__(self, *, gated: bool = False) -> None:
        self.asked: list[tuple[list[str], Options]] = []
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        if not gated:
            self.gate.set()

    def __call__(self, texts: list[str], options: Options) -> list[Prediction]:
        self.asked.append((texts, options))
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if "poison" in texts:
            raise RuntimeError("secret reason")
        return [Prediction((FACT,), -0.5, text, (0.25,), (((0, 3), None),)) for text in texts]


def serve(model: FakeModel, **options: Any) -> ExtractorServer:
    return ExtractorServer(model, listen(0), **{"beams": 3, "limits": LIMITS, "batch_texts": 8, **options})


@pytest.fixture(scope="module")
def server() -> Iterator[ExtractorServer]:
    with serve(FakeModel()) as running:
        yield running


def ask(
    server: ExtractorServer, body: Any, method: str = "POST", path: str = "/extract", **headers: str
) -> tuple[int, dict[str, Any], HTTPResponse]:
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=WAIT_S)
    connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer, response


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    for _ in range(int(WAIT_S * 100)):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def waiting(server: ExtractorServer) -> int:
    return ask(server, b"", "GET", "/health")[1]["waiting_texts"]


def test_a_request_gets_a_prediction_a_text_in_their_order() -> None:
    model = FakeModel()
    with serve(model) as server:
        status, answer, _ = ask(server, {"texts": ["Łódź", "", "b"], "beams": 2, "constrained": False})
        assert ask(server, b"", "GET", "/health")[:2] == (200, {"status": "ok", "waiting_texts": 0})
    assert status == 200
    assert model.asked == [(["Łódź", "", "b"], Options(2, False, 1))]
    assert len(answer["predictions"]) == 3
    (triplet,) = answer["predictions"][0]["triplets"]
    assert triplet == {
        "subject": {"surfaceform": "Ulm", "uri": "Q3012", "span": [0, 3]},
        "predicate": {"surfaceform": "country", "uri": "P17"},
        "object": {"surfaceform": "Germany", "uri": "Q183", "span": None},
        "score": 0.25,
    }


def test_requests_that_wait_together_are_extracted_together() -> None:
    model = FakeModel(gated=True)
    with serve(model) as server, ThreadPoolExecutor(8) as clients:
        first = clients.submit(ask, server, {"texts": ["first"]})
        assert model.entered.acquire(timeout=WAIT_S)
        others = [clients.submit(ask, server, {"texts": [f"text {n}"]}) for n in range(4)]
        others.append(clients.submit(ask, server, {"texts": ["other beams"], "beams": 1}))
        until(lambda: waiting(server) == 5)
        model.gate.set()
        answers = [future.result() for future in (first, *others)]
    assert [status for status, *_ in answers] == [200] * 6
    together, apart = sorted(model.asked[1:], key=lambda call: -len(call[0]))
    assert sorted(together[0]) == [f"text {n}" for n in range(4)]
    assert apart == (["other beams"], Options(1, True, 1))


def test_what_does_not_fit_into_the_queue_is_told_when_to_come_again() -> None:
    model = FakeModel(gated=True)
    with serve(model) as server, ThreadPoolExecutor(8) as clients:
        first = clients.submit(ask, server, {"texts": ["first"]})
        assert model.entered.acquire(timeout=WAIT_S)
        others = [clients.submit(ask, server, {"texts": ["a", "b"]}) for _ in range(3)]
        until(lambda: waiting(server) == 6)
        status, answer, response = ask(server, {"texts": ["one too many"]})
        assert status == 429
        assert "try again in 1 s" in answer["error"]
        assert response.headers["Retry-After"] == "1"
        model.gate.set()
        assert [future.result()[0] for future in (first, *others)] == [200] * 4
        assert ask(server, {"texts": ["again"]})[0] == 200
    assert not any("one too many" in texts for texts, _ in model.asked)


def test_a_client_that_leaves_gives_up_its_turn() -> None:
    model = FakeModel(gated=True)
    with serve(model) as server, ThreadPoolExecutor(1) as clients:
        first = clients.submit(ask, server, {"texts": ["first"]})
        assert model.entered.acquire(timeout=WAIT_S)
        leaving = HTTPConnection(urlsplit(server.url).netloc, timeout=WAIT_S)
        leaving.request("POST", "/extract", json.dumps({"texts": ["nobody waits for it"]}))
        until(lambda: waiting(server) == 1)
        leaving.close()
        until(lambda: waiting(server) == 0)
        model.gate.set()
        assert first.result()[0] == 200
    assert [texts for texts, _ in model.asked] == [["first"]]


def test_a_request_in_work_is_answered_before_the_server_ends() -> None:
    model = FakeModel(gated=True)
    with ThreadPoolExecutor(1) as clients:
        with serve(model) as server:
            answer = clients.submit(ask, server, {"texts": ["in work"]})
            assert model.entered.acquire(timeout=WAIT_S)
            threading.Timer(0.2, model.gate.set).start()
        assert answer.result()[0] == 200


def test_a_text_that_fails_fails_alone_and_its_reason_stays_here() -> None:
    model = FakeModel(gated=True)
    with serve(model) as server, ThreadPoolExecutor(4) as clients:
        futures = [clients.submit(ask, server, {"texts": ["first"]})]
        assert model.entered.acquire(timeout=WAIT_S)
        futures += [clients.submit(ask, server, {"texts": [text]}) for text in ("good", "poison", "fine")]
        until(lambda: waiting(server) == 3)
        model.gate.set()
        answers = [future.result() for future in futures]
        assert ask(server, {"texts": ["later"]})[0] == 200
    assert [status for status, *_ in answers] == [200, 200, 500, 200]
    assert "secret" not in json.dumps(answers[2][1])
    assert "server's log" in answers[2][1]["error"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b'{"texts": ["a"', 400, "not valid JSON"),
        (b'{"texts": ["\xff"]}', 400, "not valid JSON"),
        (b"", 400, "not valid JSON"),
        (["a"], 422, "Expected `object`"),
        ({}, 422, "missing required field `texts`"),
        ({"texts": "a"}, 422, "Expected `array`"),
        ({"texts": [1]}, 422, "at `$.texts[0]`"),
        ({"texts": ["a"], "beam": 2}, 422, "unknown field `beam`"),
        ({"texts": []}, 422, "1 to 4 texts"),
        ({"texts": ["a"] * 5}, 422, "1 to 4 texts"),
        ({"texts": ["a", "b" * 51]}, 422, "texts[1] has 51 characters"),
        ({"texts": ["a"], "beams": 0}, 422, "beams must be 1 to 5"),
        ({"texts": ["a"], "beams": 6}, 422, "beams must be 1 to 5"),
        ({"texts": ["a"], "beams": 2, "candidates": 3}, 422, "candidates"),
        (b" " * 1_001, 413, "larger than 1,000 bytes"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    server: ExtractorServer, body: Any, status: int, told: str
) -> None:
    given, answer, _ = ask(server, body)
    assert (given, list(answer)) == (status, ["error"])
    assert told in answer["error"]


def test_candidates_widen_the_search_that_nobody_chose() -> None:
    model = FakeModel()
    with serve(model) as server:
        assert ask(server, {"texts": ["a"], "candidates": 5})[0] == 200
    assert model.asked == [(["a"], Options(5, True, 5))]


def test_other_paths_and_methods_are_refused_as_json(server: ExtractorServer) -> None:
    assert ask(server, b"", "GET", "/else")[0] == 404
    assert ask(server, b"", "GET")[0] == 405


def test_only_who_has_the_key_is_served() -> None:
    with serve(FakeModel(), api_key="schlüssel") as server:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "schl"}):
            status, answer, response = ask(server, {"texts": ["a"]}, **headers)
            assert (status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "schl" not in answer["error"]
        right = {"Authorization": "Bearer schlüssel".encode().decode("latin-1")}
        assert ask(server, {"texts": ["a"]}, **right)[0] == 200
        assert ask(server, b"", "GET", "/health")[0] == 200


def test_a_closed_batcher_answers_nobody() -> None:
    model = FakeModel(gated=True)
    batcher = MicroBatcher(model, batch_texts=8, queued_texts=2)
    working = batcher.submit(["in work"], Options())
    assert model.entered.acquire(timeout=WAIT_S)
    left = batcher.submit(["waits"], Options())
    with pytest.raises(OverloadedError):
        batcher.submit(["a", "b"], Options())
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(ClosedError):
        left.result(WAIT_S)
    model.gate.set()
    closing.join()
    assert len(working.result(WAIT_S)) == 1
    with pytest.raises(ClosedError):
        batcher.submit(["late"], Options())


def test_the_command_refuses_what_cannot_work() -> None:
    assert_refused(synthie("serve-extractor", "--api-key-env", "SYNTHIE_NO_SUCH_KEY"), "SYNTHIE_NO_SUCH_KEY", "empty")
    assert_refused(synthie("serve-extractor", "--queue", "3"), "--queue 3", "--max-texts 64")
    with listen(0) as taken, pytest.raises(ConfigError, match="Choose another"):
        listen(taken.getsockname()[1])
