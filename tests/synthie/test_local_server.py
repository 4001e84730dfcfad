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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from synthie.config import LocalServerConfig
from synthie.errors import ConfigError, EndpointError
from synthie.llm.local import MODEL, LocalServer, identity, serve
from synthie.llm.service_batches import BatchRules

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
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc, timeout=240)
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
            "batches": 0,
            "batch_lines": {},
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


# --- Responses -----------------------------------------------------------------------------------------------------


def test_a_response_has_the_text_of_the_chat_completion(client: Any) -> None:
    response = client.responses.create(model=MODEL, input=PROMPT, store=False)
    assert response.output_text == text_of(client)
    assert (response.object, response.status, response.model) == ("response", "completed", MODEL)
    usage = ask(client).usage
    assert (response.usage.input_tokens, response.usage.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert response.usage.total_tokens == usage.total_tokens


def test_instructions_are_the_system_message_and_messages_are_input(client: Any) -> None:
    system, user = "1. Paris | country | France", {"role": "user", "content": PROMPT}
    response = client.responses.create(model=MODEL, instructions=system, input=[user])
    completion = client.chat.completions.create(model=MODEL, messages=[{"role": "system", "content": system}, user])
    assert response.output_text == completion.choices[0].message.content
    parts = [{"type": "input_text", "text": PROMPT}]
    response = client.responses.create(model=MODEL, instructions=system, input=[{"role": "user", "content": parts}])
    assert "Ulm" in response.output_text
    assert "Paris" not in response.output_text


def test_a_response_over_the_limit_is_incomplete(client: Any) -> None:
    response = client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=3)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 3
    assert text_of(client).startswith(response.output_text)


def test_responses_are_not_streamed(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=PROMPT, stream=True)
    assert caught.value.param == "stream"


# --- Files ---------------------------------------------------------------------------------------------------------


def upload(client: Any, content: bytes, name: str = "lines.jsonl") -> Any:
    return client.files.create(file=(name, content), purpose="batch")


@pytest.mark.parametrize("content", [b"{}\n", b"", b"\r\n--\r\n\r\n\0\xff", b"x" * 3_000_000])
def test_a_file_comes_back_as_it_was_uploaded(client: Any, content: bytes) -> None:
    file = upload(client, content, 'a "strange" name – ö.jsonl')
    assert (file.object, file.bytes, file.purpose) == ("file", len(content), "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content


def test_files_are_listed_and_deleted(client: Any) -> None:
    first, second = upload(client, b"1"), upload(client, b"2")
    assert {first.id, second.id} <= {file.id for file in client.files.list(purpose="batch", limit=1)}
    assert client.files.list(purpose="fine-tune").data == []
    assert client.files.delete(first.id).deleted
    assert first.id not in {file.id for file in client.files.list()}
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(first.id)


def test_what_is_no_upload_of_a_batch_is_a_bad_request(server: LocalServer, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a", b"1"), purpose="fine-tune")
    assert caught.value.param == "purpose"
    status, content = post(server, b"{}", "/v1/files")
    assert (status, content["error"]["type"]) == (400, "invalid_request_error")
    with pytest.raises(openai.AuthenticationError):
        upload(client_of(server, key="wrong"), b"1")


# --- Batches -------------------------------------------------------------------------------------------------------


def batch_line(number: int, *, name: str | None = None, prompt: str | None = None, **fields: Any) -> str:
    message = {"role": "user", "content": prompt or f"1. Town {number} | country | Peru"}
    body = {"model": MODEL, "messages": [message]}
    line = {"custom_id": name or f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line | fields)


def create(client: Any, lines: list[str], **options: Any) -> Any:
    file = upload(client, "\n".join(lines).encode())
    endpoint = options.pop("endpoint", "/v1/chat/completions")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def ended(client: Any, batch: Any) -> Any:
    deadline = time.monotonic() + 240
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        batch = client.batches.retrieve(batch.id)
    return batch


def results(client: Any, file_id: str | None) -> dict[str, dict[str, Any]]:
    lines = client.files.content(file_id).text.splitlines() if file_id else []
    return {result["custom_id"]: result for result in map(json.loads, lines)}


def test_a_batch_is_answered_like_live_calls(client: Any) -> None:
    batch = create(client, [batch_line(number) for number in range(40)], metadata={"run": "7"})
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"run": "7"})
    batch = ended(client, batch)
    assert (batch.status, batch.error_file_id, batch.errors, batch.model) == ("completed", None, None, MODEL)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    assert batch.request_counts.to_dict() == {"total": 40, "completed": 40, "failed": 0}
    answers = results(client, batch.output_file_id)
    assert len(answers) == 40
    for number in (0, 17, 39):
        answer = answers[f"line-{number}"]
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        text = answer["response"]["body"]["choices"][0]["message"]["content"]
        assert text == text_of(client, f"1. Town {number} | country | Peru")


def test_a_batch_of_responses_is_answered_in_their_form(client: Any) -> None:
    body = {"model": MODEL, "input": PROMPT}
    batch = ended(client, create(client, [batch_line(1, url="/v1/responses", body=body)], endpoint="/v1/responses"))
    answer = results(client, batch.output_file_id)["line-1"]["response"]["body"]
    assert answer["output"][0]["content"][0]["text"] == text_of(client)


def test_lines_that_are_refused_are_in_the_error_file(client: Any) -> None:
    batch = ended(client, create(client, [batch_line(1), batch_line(2, prompt="Hello!")]))
    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}
    assert results(client, batch.output_file_id).keys() == {"line-1"}
    refused = results(client, batch.error_file_id)["line-2"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["code"]) == (400, "invalid_prompt")


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        ([], "empty_file", None),
        ([batch_line(1), "{"], "invalid_json_line", 2),
        ([batch_line(1, method="GET")], "invalid_json_line", 1),
        ([batch_line(1), batch_line(2), batch_line(1)], "duplicate_custom_id", 3),
        ([batch_line(1, url="/v1/responses")], "invalid_url", 1),
        ([batch_line(1, body={"model": "gpt-4o"})], "model_not_found", 1),
    ],
)
def test_a_batch_that_is_malformed_fails_with_code_and_line(
    client: Any, lines: list[str], code: str, line: int | None
) -> None:
    batch = ended(client, create(client, lines))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, line)]


def test_batches_are_listed_newest_first_in_pages(client: Any) -> None:
    created = [create(client, [batch_line(number)]).id for number in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)][:5] == created[::-1]
    page = client.batches.list(limit=2, after=created[4])
    assert ([batch.id for batch in page.data], page.has_more) == ([created[3], created[2]], True)


def test_what_cannot_be_a_batch_is_a_bad_request(server: LocalServer, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id="file-none", endpoint="/v1/responses", completion_window="24h")
    assert caught.value.param == "input_file_id"
    with pytest.raises(openai.BadRequestError):
        create(client, [batch_line(1)], endpoint="/v1/embeddings")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.AuthenticationError):
        client_of(server, key="wrong").batches.list()


def test_a_cancelled_batch_keeps_what_it_has_answered(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.write_text("32")
    with LocalServer(FAITHFUL, batches=BatchRules(held_by=str(hold))) as server:
        client = client_of(server)
        batch = create(client, [batch_line(number) for number in range(64)])
        while not client.batches.retrieve(batch.id).request_counts.completed:
            time.sleep(0.01)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch)
        assert batch.status == "cancelled"
        done, rest = results(client, batch.output_file_id), results(client, batch.error_file_id)
        assert len(done) + len(rest) == 64
        assert 0 < len(done) < 64
        assert {result["error"]["code"] for result in rest.values()} == {"batch_cancelled"}
        assert {result["response"] for result in rest.values()} == {None}
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)


def test_a_batch_expires_after_the_lines_that_the_rules_allow() -> None:
    with LocalServer(FAITHFUL, batches=BatchRules(expire_after=20)) as server:
        client = client_of(server)
        batch = ended(client, create(client, [batch_line(number) for number in range(30)]))
        assert batch.status == "expired"
        assert results(client, batch.output_file_id).keys() == {f"line-{number}" for number in range(20)}
        rest = results(client, batch.error_file_id)
        assert {result["error"]["code"] for result in rest.values()} == {"batch_expired"}


def test_unfinished_batches_fill_the_queue(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.write_text("0")
    lines = [batch_line(number) for number in range(4)]
    limit = sum(len(json.dumps(json.loads(line)["body"])) for line in lines) // 4
    with LocalServer(FAITHFUL, batches=BatchRules(max_enqueued_tokens=limit, held_by=str(hold))) as server:
        client = client_of(server)
        first, second = create(client, lines), ended(client, create(client, lines))
        assert [error.code for error in second.errors.data] == ["token_limit_exceeded"]
        hold.unlink()
        assert ended(client, first).status == "completed"
        assert ended(client, create(client, lines)).status == "completed"


def test_lines_of_batches_fail_at_the_rates_of_live_calls() -> None:
    with LocalServer(LocalServerConfig(unfaithful=0, rate_429=0.3, rate_500=0.3)) as server:
        client = client_of(server)
        batch = ended(client, create(client, [batch_line(number) for number in range(100)]))
        failed = results(client, batch.error_file_id)
        assert {result["response"]["status_code"] for result in failed.values()} == {429, 500}
        assert len(failed) + len(results(client, batch.output_file_id)) == 100
        statistics = server.stats()
        assert statistics["batches"] == 1
        assert sum(statistics["batch_lines"].values()) == 100
        assert statistics["requests"] == 0


# --- The process ---------------------------------------------------------------------------------------------------


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
        deadline = time.monotonic() + 240
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
        assert process.wait(240) == 0


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie that only waits to be reaped."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
