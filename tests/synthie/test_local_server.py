"""The built-in server, seen by the official client: protocol, deliberate failures, life and death of the process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from synthie.config import LocalServerConfig
from synthie.errors import ConfigError, EndpointError
from synthie.llm.local import MODEL, LocalServer, identity, serve

openai = pytest.importorskip("openai", reason="the protocol is checked with the official client: pip install openai")

KEY = "test-key"
PROMPT = "Write a text.\n\n1. Albert Einstein | place of birth | Ulm\n2. Ulm | country | Germany"
FAITHFUL = LocalServerConfig(unfaithful=0)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(FAITHFUL, api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Any:
    return client_of(server)


def client_of(server: LocalServer, key: str = KEY, retries: int = 0) -> Any:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=retries)


def ask(client: Any, prompt: str = PROMPT, **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}], **options)


def text_of(client: Any, prompt: str = PROMPT, **options: Any) -> str:
    return ask(client, prompt, **options).choices[0].message.content


def post(server: LocalServer, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc, timeout=30)
    connection.request("POST", path, body, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def test_a_chat_completion_states_the_triplets(client: Any) -> None:
    completion = ask(client)
    choice = completion.choices[0]
    assert (completion.object, completion.model, choice.index) == ("chat.completion", MODEL, 0)
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert all(name in choice.message.content for name in ("Albert Einstein", "Ulm", "Germany"))
    usage = completion.usage
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_only_the_last_user_message_is_put_into_words(client: Any) -> None:
    messages = [
        {"role": "system", "content": "1. Paris | country | France"},
        {"role": "user", "content": "1. Rome | country | Italy"},
        {"role": "assistant", "content": "Rome is in Italy."},
        {"role": "user", "content": [{"type": "text", "text": "1. Ulm | country | Germany"}]},
    ]
    text = client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content
    assert "Ulm" in text
    assert "Rome" not in text
    assert "Paris" not in text


def test_equal_requests_get_equal_texts_and_the_seed_varies_them(client: Any) -> None:
    assert text_of(client, seed=3) == text_of(client, seed=3)
    assert len({text_of(client, seed=seed) for seed in range(20)}) > 3


def test_texts_survive_a_restart_and_change_with_the_servers_seed(client: Any) -> None:
    texts = [text_of(client, seed=seed) for seed in range(10)]
    with LocalServer(FAITHFUL) as again, LocalServer(FAITHFUL, seed=1) as other:
        assert [text_of(client_of(again), seed=seed) for seed in range(10)] == texts
        assert [text_of(client_of(other), seed=seed) for seed in range(10)] != texts


def test_n_gives_as_many_choices(client: Any) -> None:
    choices = ask(client, n=8).choices
    assert [choice.index for choice in choices] == list(range(8))
    assert len({choice.message.content for choice in choices}) > 1


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_text_over_the_limit_is_cut(client: Any, limit: str) -> None:
    completion = ask(client, **{limit: 3})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3
    assert text_of(client).startswith(completion.choices[0].message.content)


def test_a_stream_brings_the_same_text_in_pieces(client: Any) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == text_of(client)
    assert len(pieces) > 2
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == ask(client).usage


def test_the_model_is_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_wrong_key_is_refused(server: LocalServer) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(client_of(server, key="wrong"))
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client_of(server, key="wrong").models.list()


def test_another_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": PROMPT}])
    assert caught.value.code == "model_not_found"


def test_a_topic_gets_varied_remarks_that_mention_it(client: Any) -> None:
    texts = {text_of(client, "Write a sentence.\n\nTopic: Mercury (planet)", seed=seed) for seed in range(40)}
    assert len(texts) > 30
    assert all("Mercury" in text and text[0].isupper() and text[-1] in ".?!" for text in texts)
    assert not any("Topic" in text for text in texts)


def test_an_unfaithful_remark_states_a_fact() -> None:
    topic = "Topic: Ulm"
    with LocalServer(FAITHFUL) as faithful, LocalServer(LocalServerConfig(unfaithful=1)) as unfaithful:
        remarks, lies = ({text_of(client_of(s), topic, seed=n) for n in range(10)} for s in (faithful, unfaithful))
        assert unfaithful.stats()["unfaithful"] == 10
    assert not remarks & lies
    assert all(lie.startswith(tuple(remarks)) for lie in lies)


def test_triplets_go_before_a_topic(client: Any) -> None:
    text = text_of(client, "Topic: Rome\n1. Ulm | country | Germany")
    assert "Germany" in text
    assert "Rome" not in text


def test_a_prompt_without_triplets_or_topic_is_a_bad_request(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"subject \| relation \| object.*Topic: name") as caught:
        ask(client, "Hello!")
    assert (caught.value.code, caught.value.param) == ("invalid_prompt", "messages")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"model": "synthie-rules"}', None),
        (b'{"model": "synthie-rules", "messages": []}', "messages"),
        (b'{"model": "synthie-rules", "messages": [{"role": 1}]}', "messages[0].role"),
        (b'{"model": "synthie-rules", "messages": [{"role": "user"}], "temperature": 9}', "temperature"),
        (b'{"model": "synthie-rules", "messages": [{"role": "user"}], "n": 0}', "n"),
        (b'{"model": "\xff"}', None),
    ],
)
def test_a_malformed_body_is_a_bad_request(server: LocalServer, body: bytes, param: str | None) -> None:
    status, content = post(server, body)
    assert status == 400
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["type"] == "invalid_request_error"
    assert content["error"]["param"] == param


def test_a_body_over_one_mebibyte_is_too_large(client: Any) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "x" * (1 << 20))
    assert caught.value.status_code == 413


def test_an_unknown_url_is_answered_in_the_same_form(server: LocalServer) -> None:
    assert post(server, b"{}", "/v2/none")[0] == 404
    status, content = post(server, b"{}", "/v1/models")
    assert (status, content["error"]["code"]) == (405, "unknown_url")


def test_the_counters_tell_what_was_answered() -> None:
    with LocalServer(FAITHFUL) as server:
        client = client_of(server)
        usage = ask(client, n=2).usage
        with pytest.raises(openai.BadRequestError):
            ask(client, "Hello!")
        assert server.stats() == {
            "requests": 2,
            "by_status": {"200": 1, "400": 1},
            "completions": 2,
            "unfaithful": 0,
            "truncated": 0,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }


def test_unfaithful_and_truncated_texts_come_at_their_rates(client: Any) -> None:
    prompts = [
        f"1. Town {number} | country | Germany\n2. Town {number} | population | {number}" for number in range(60)
    ]
    with LocalServer(LocalServerConfig(unfaithful=1)) as server:
        lying = client_of(server)
        assert all(text_of(lying, prompt) != text_of(client, prompt) for prompt in prompts)
        assert server.stats()["unfaithful"] == 60
    with LocalServer(LocalServerConfig(unfaithful=0, truncated=0.5)) as server:
        halting = client_of(server)
        whole = [text_of(client, prompt) for prompt in prompts]
        choices = [ask(halting, prompt).choices[0] for prompt in prompts]
        reasons = [choice.finish_reason for choice in choices]
        assert 10 < reasons.count("length") < 50
        for choice, text in zip(choices, whole, strict=True):
            cut = choice.finish_reason == "length"
            assert text.startswith(choice.message.content)
            assert cut == (choice.message.content != text)


def test_refusals_are_the_same_every_time_and_end_with_success() -> None:
    config = LocalServerConfig(unfaithful=0, rate_429=0.5, rate_500=0.3)
    with LocalServer(config) as server:
        client = client_of(server)
        outcomes = [[attempt(client, f"1. Town {number} | country | Peru") for _ in range(60)] for number in range(5)]
    assert {status for row in outcomes for status in row} == {200, 429, 500}
    assert all(200 in row for row in outcomes)
    with LocalServer(config) as server:
        client = client_of(server)
        again = [[attempt(client, f"1. Town {number} | country | Peru") for _ in range(60)] for number in range(5)]
    assert again == outcomes


def attempt(client: Any, prompt: str) -> int:
    try:
        ask(client, prompt)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def test_refusals_have_the_form_that_clients_know() -> None:
    with LocalServer(LocalServerConfig(rate_429=0.999)) as server, pytest.raises(openai.RateLimitError) as caught:
        ask(client_of(server))
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert float(caught.value.response.headers["retry-after-ms"]) > 0
    with LocalServer(LocalServerConfig(rate_500=0.999)) as server, pytest.raises(openai.InternalServerError) as failed:
        ask(client_of(server))
    assert failed.value.type == "server_error"


def test_the_official_client_gets_through_a_storm_by_itself() -> None:
    with LocalServer(LocalServerConfig(unfaithful=0, rate_429=0.5)) as server:
        client = client_of(server, retries=20)
        assert all("Peru" in text_of(client, f"1. Town {number} | country | Peru") for number in range(10))


def test_calls_over_the_allowed_rate_are_told_how_long_to_wait() -> None:
    with LocalServer(LocalServerConfig(requests_per_second=0.01)) as server:
        client = client_of(server)
        ask(client)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 100


def test_latency_delays_the_answer() -> None:
    with LocalServer(LocalServerConfig(latency_s=0.2)) as server:
        started = time.monotonic()
        ask(client_of(server))
        assert time.monotonic() - started >= 0.1  # half the mean is the least


def test_the_identity_names_what_decides_about_texts() -> None:
    name = identity(LocalServerConfig(), 0)
    assert name.startswith("local:")
    assert name == identity(LocalServerConfig(latency_s=1, rate_429=0.5, rate_500=0.1, requests_per_second=5), 0)
    assert len({name, identity(LocalServerConfig(), 1), identity(LocalServerConfig(unfaithful=0.5), 0)}) == 3


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"did not start: Cannot listen on 127.0.0.1 port {port}"):
            LocalServer(FAITHFUL, port=port).__enter__()
        with pytest.raises(ConfigError, match="Choose another port"):
            serve(FAITHFUL, port=port)


def test_a_server_that_cannot_start_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EndpointError, match="did not start"):
        LocalServer(FAITHFUL).__enter__()


def test_the_server_ends_with_its_block() -> None:
    with LocalServer(FAITHFUL) as server:
        pid = server.pid
        assert is_running(pid)
    assert not is_running(pid)
    with pytest.raises(EndpointError, match="not running"):
        _ = server.pid


def test_a_server_started_by_a_thread_outlives_that_thread() -> None:
    server = LocalServer(FAITHFUL)
    thread = threading.Thread(target=server.__enter__)
    thread.start()
    thread.join()
    try:
        assert "Ulm" in text_of(client_of(server))
    finally:
        server.__exit__(None, None, None)


def test_a_killed_parent_takes_the_server_with_it() -> None:
    code = (
        "import time; from synthie.llm.local import LocalServer\n"
        "with LocalServer() as server: print(server.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 60
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(pid)


def test_the_server_in_the_foreground_says_where_it_is_and_stops_on_interrupt() -> None:
    code = "from synthie.llm.local import *; from synthie.config import *; serve(LocalServerConfig(), port=0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split(" at ")[1].split(" ")[0]
        assert "Ulm" in text_of(openai.OpenAI(base_url=url, api_key="any", max_retries=3))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie that only waits to be reaped."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
