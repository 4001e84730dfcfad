"""The judge stage: every answer is paid once, and none that cannot be read counts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging_world import answer, judge, judgements, judging, literal_judge, make_texts, question_of
from scripted_endpoint import Reply, ScriptedEndpoint, Seen
from texts_world import SETS, generate, rows
from typer.testing import CliRunner

from kg.stage import read_manifest
from synthie.cli import app
from synthie.config import GenerationConfig, JudgeConfig, JudgeModelConfig, LocalServerConfig
from synthie.errors import AuthenticationError, ConfigError, IncompleteError, InputError
from synthie.judging.answers import read_answer
from synthie.judging.prompt import judge_prompt_names, load_judge_prompt
from synthie.judging.reading import estimates, faults
from synthie.judging.sampled import SampledTexts
from synthie.judging.stage import judge_texts
from synthie.llm.journal import Journal
from synthie.llm.local import MODEL, LocalServer
from synthie.llm.prompts import Fact

ROOT = Path(__file__).parents[2]
WAIT_S = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_texts(tmp_path_factory.mktemp("judging"))


def told(folder: Path, gate: str = "accepted") -> dict[str, Any]:
    content = estimates(folder)
    assert content is not None
    return content["judges"]["llm"]["gates"][gate]


# --- What comes of it -----------------------------------------------------------------------------------------------


def test_without_judges_the_stage_leaves_nothing_and_asks_nobody(world: Path, tmp_path: Path) -> None:
    manifest = judge(world, tmp_path / "judge", JudgeConfig())
    assert (manifest.outputs, manifest.counts) == ({}, {})
    assert judge(world, tmp_path / "judge", JudgeConfig(n_samples=3), seed=5).reused
    assert faults(tmp_path / "judge") == {}
    assert estimates(tmp_path / "judge") is None


def test_every_text_is_judged_and_the_faulty_ones_are_told(world: Path, tmp_path: Path) -> None:
    with ScriptedEndpoint(literal_judge) as server:
        manifest = judge(world, tmp_path, judging(server))
        assert server.completions == SETS
        assert manifest.counts == {"llm_judged": SETS, "llm_unjudged": 0}
        assert judge(world, tmp_path, judging(server)).reused
        assert server.completions == SETS
    rejected = {row["request_key"] for row in rows(world / "texts", "rejected")}
    assert len(rejected) == 6
    found = faults(tmp_path)
    assert found.keys() == rejected
    assert {fault.check for told in found.values() for fault in told} == {"absent"}
    assert "is not stated, says the judge 'llm'." in next(iter(found.values()))[0].detail
    assert told(tmp_path)["precision"]["value"] == 1.0
    assert told(tmp_path)["faithful"]["value"] == 1.0
    assert told(tmp_path, "rejected")["precision"]["value"] == 0.0
    content = estimates(tmp_path)
    assert content is not None
    errors = content["judges"]["llm"]["gate_errors"]
    assert errors["table"] == {"accepted": {"faithful": 54, "faulty": 0}, "rejected": {"faithful": 0, "faulty": 6}}
    assert errors["faithful_rejected"]["value"] == errors["faulty_accepted"]["value"] == 0.0
    assert 0.0 < errors["faulty_accepted"]["high"] < 0.5
    assert "Triplets that their texts do not state" in (tmp_path / "estimates.md").read_text()


def test_facts_beyond_the_set_count_against_recall_and_the_record(world: Path, tmp_path: Path) -> None:
    def respond(seen: Seen) -> Reply:
        facts = question_of(seen).facts
        extra = [["Ulm", "country", "Germany"]] if len(facts) == 2 else []
        return Reply(answer(["stated"] * len(facts), extra))

    with ScriptedEndpoint(respond) as server:
        judge(world, tmp_path, judging(server, n_rejected=0))
    accepted = told(tmp_path)
    pairs = sum(len(row["triplets"]) == 2 for row in rows(world / "texts"))
    assert accepted["extras"] == pairs > 0
    assert accepted["precision"]["value"] == 1.0
    assert accepted["recall"]["value"] == pytest.approx(accepted["triplets"] / (accepted["triplets"] + pairs))
    assert accepted["faithful"]["value"] == pytest.approx(1 - pairs / 54)
    assert {part["size"]: part["recall"]["value"] for part in accepted["by_size"]} == {1: 1.0, 2: pytest.approx(2 / 3)}
    [[fault], *others] = faults(tmp_path).values()
    assert len(others) == pairs - 1
    assert fault.check == "extra_fact"
    assert "Ulm | country | Germany" in fault.detail
    content = estimates(tmp_path)
    assert content is not None
    assert content["judges"]["llm"]["gate_errors"] is None  # no rejected text was judged


def test_a_greater_sample_contains_a_smaller_one_and_pays_only_for_the_rest(world: Path, tmp_path: Path) -> None:
    with ScriptedEndpoint(literal_judge) as server:
        judge(world, tmp_path, judging(server, n_samples=20, n_rejected=2))
        few = {row["request_key"] for row in judgements(tmp_path)}
        assert server.completions == len(few) == 22
        judge(world, tmp_path, judging(server, n_samples=30, n_rejected=2))
        more = {row["request_key"] for row in judgements(tmp_path)}
        assert few < more
        assert server.completions == len(more) == 32
        judge(world, tmp_path / "other", judging(server, n_samples=20, n_rejected=2), seed=1)
    assert {row["request_key"] for row in judgements(tmp_path / "other")} != few


@pytest.mark.parametrize("rows_at_once", [1, 7, 20, 100])
def test_texts_are_read_in_batches_by_position(world: Path, rows_at_once: int) -> None:
    sampled = SampledTexts(world / "kg", world / "texts", {"accepted": 30, "rejected": 4}, seed=0)
    whole = [pair for batch in sampled.texts(1_000) for pair in batch]
    assert [position for position, _ in whole] == list(range(34))
    assert [text.gate for _, text in whole] == ["accepted"] * 30 + ["rejected"] * 4
    batches = list(sampled.texts(rows_at_once))
    assert [pair for batch in batches for pair in batch] == whole
    assert all(len({position // rows_at_once for position, _ in batch}) == 1 for batch in batches)
    odd = np.arange(34) % 2 == 1
    assert [pair for batch in sampled.texts(rows_at_once, odd) for pair in batch] == whole[1::2]


def test_every_text_is_as_likely_to_be_drawn(world: Path) -> None:
    drawn: Counter[int] = Counter()
    for seed in range(60):
        sampled = SampledTexts(world / "kg", world / "texts", {"accepted": 18, "rejected": 0}, seed=seed)
        drawn.update(text.id for batch in sampled.texts(7) for _, text in batch)
    assert len(drawn) == 54
    assert sum(drawn.values()) == 60 * 18
    assert all(abs(count - 20) < 18 for count in drawn.values())  # five standard deviations


# --- Answers that cannot be relied on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ('{"verdicts": {"1": "stated", "2": "Absent"}, "extra": []}', ["stated", "absent"]),
        ('Sure!\n```json\n{"verdicts": {"1": "stated", "2": "stated"}, "extra": []}\n```\nDone {ok}', ["stated"] * 2),
        ('{"verdicts": ["contradicted", "stated"], "extra": []}', ["contradicted", "stated"]),
        ('{a} {"note": 1} {"verdicts": {"1": "absent", "2": "absent"}, "extra": []}', ["absent"] * 2),
        (
            'Perhaps {"verdicts": {"1": "stated", "2": "stated"}, "extra": []}? No:\n'
            '{"verdicts": {"1": "stated", "2": "absent"}, "extra": []}',
            ["stated", "absent"],
        ),
        ('{"verdicts": {"1": "stated", "2": "stated"}, "extra": []} {"verdicts": {"1": "stated"}, "extra": []}', None),
        ('{"verdicts": {"1": "stated"}, "extra": []}', None),
        ('{"verdicts": {"1": "stated", "2": "stated", "3": "stated"}, "extra": []}', None),
        ('{"verdicts": {"1": "stated", "2": "maybe"}, "extra": []}', None),
        ('{"verdicts": {"1": "stated", "2": null}, "extra": []}', None),
        ('{"verdicts": {"1": "stated", "2": "stated"}}', None),
        ('{"verdicts": {"1": "stated", "2": "stated"}, "extra": [["one", "two"]]}', None),
        ('{"verdicts": {"1": "stated", "2": "sta', None),
        ("All facts are stated.", None),
        ("", None),
        ("{" * 100_000, None),
        ('{"verdicts":' * 5_000, None),
    ],
)
def test_an_answer_counts_only_with_one_verdict_for_each_triplet(text: str, verdicts: list[str] | None) -> None:
    opinion = read_answer(text, 2)
    assert (opinion and opinion.verdicts) == verdicts


def test_extra_facts_are_told_in_words() -> None:
    extra = '[["Ulm", "country", "Germany"], {"s": "Ulm", "r": "population", "o": 126000}, "Ulm is  old", "Ulm is old"]'
    opinion = read_answer(f'{{"verdicts": {{}}, "extra": {extra}}}', 0)
    assert opinion is not None
    assert opinion.extras == ["Ulm | country | Germany", "Ulm | population | 126000", "Ulm is old"]


def test_an_unreadable_answer_is_asked_for_again_and_never_counts(world: Path, tmp_path: Path) -> None:
    """Texts of sets with one triplet are judged at the second try, those with two never."""
    asked: Counter[str] = Counter()

    def respond(seen: Seen) -> Reply:
        question = question_of(seen)
        asked[question.text] += 1
        if len(question.facts) == 2:
            return Reply('{"verdicts": {"1": "stated"}, "extra": []}')
        return Reply("Let me think.") if asked[question.text] == 1 else literal_judge(seen)

    with ScriptedEndpoint(respond) as server:
        judge(world, tmp_path, judging(server, n_rejected=0, tries=3))
        seeds = {seen.body["seed"] for seen in server.seen}
        asked_before = len(server.seen)
        judge(world, tmp_path, judging(server, n_rejected=0, tries=3, concurrency=2))
        assert len(server.seen) == asked_before
    assert seeds == {0, 1, 2}
    accepted = told(tmp_path)
    pairs = sum(len(row["triplets"]) == 2 for row in rows(world / "texts"))
    assert (accepted["judged"], accepted["unjudged"]) == (54 - pairs, pairs)
    assert accepted["triplets"] == 54 - pairs
    unjudged = [row for row in judgements(tmp_path) if row["problem"]]
    assert len(unjudged) == pairs
    assert {row["problem"].split(":")[0] for row in unjudged} == {"unreadable"}
    assert {triplet["verdict"] for row in unjudged for triplet in row["triplets"]} == {None}
    assert faults(tmp_path) == {}


def test_an_answer_that_was_cut_off_is_asked_for_with_more_tokens(world: Path, tmp_path: Path) -> None:
    def respond(seen: Seen) -> Reply:
        whole = literal_judge(seen)
        return whole if seen.body["max_tokens"] > 1024 else Reply(whole.content[:20], finish_reason="length")

    with ScriptedEndpoint(respond) as server:
        judge(world, tmp_path, judging(server, n_samples=5, n_rejected=0))
        assert Counter(seen.body["max_tokens"] for seen in server.seen) == {1024: 5, 2048: 5}
    assert told(tmp_path)["judged"] == 5


def test_texts_without_an_answer_are_not_judged_and_too_many_of_them_are_an_error(world: Path, tmp_path: Path) -> None:
    def respond(seen: Seen) -> Reply:
        return Reply.error(400, "no", "content_filter") if "Bruno" in question_of(seen).text else literal_judge(seen)

    with ScriptedEndpoint(respond) as server:
        with pytest.raises(IncompleteError, match=r"judge\.llm\.max_failed_share"):
            judge(world, tmp_path, judging(server, n_rejected=0, max_failed_share=0.01))
        assert not (tmp_path / "manifest.json").exists()
        judge(world, tmp_path, judging(server, n_rejected=0, max_failed_share=0.5))
    of_bruno = sum("Bruno" in row["text"] for row in rows(world / "texts"))
    assert (told(tmp_path)["judged"], told(tmp_path)["unjudged"]) == (54 - of_bruno, of_bruno)
    assert of_bruno
    assert {row["problem"] for row in judgements(tmp_path)} == {None, "no answer"}


# --- Interruptions --------------------------------------------------------------------------------------------------


def test_kill_9_loses_no_judgement_and_none_is_paid_for_twice(world: Path, tmp_path: Path) -> None:
    def slow(seen: Seen) -> Reply:
        reply = literal_judge(seen)
        reply.delay_s = 0.15
        return reply

    in_flight = 4
    with ScriptedEndpoint(slow) as server:
        config = judging(server, concurrency=in_flight)
        program = (
            "import sys\nfrom pathlib import Path\nfrom synthie.config import JudgeConfig\n"
            "from synthie.judging.stage import judge_texts\n"
            "config, world, folder = JudgeConfig.model_validate_json(sys.argv[1]), *map(Path, sys.argv[2:])\n"
            "judge_texts(config, world / 'kg', world / 'texts', folder, seed=0, max_usd=1.0)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, config.model_dump_json(), str(world), str(tmp_path)], cwd=ROOT
        )
        deadline = time.monotonic() + WAIT_S
        while server.completions < 3 * in_flight:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        with Journal(tmp_path / "journal") as journal:
            stored, spent = len(journal), journal.spent
        assert stored >= 2 * in_flight
        server.respond = literal_judge
        judge(world, tmp_path, config)
        asked = Counter(json.dumps(seen.body) for seen in server.seen)
        assert len(asked) == SETS
        assert sum(asked.values()) <= SETS + in_flight
    bill = json.loads((tmp_path / "cost.json").read_bytes())
    assert bill["this_run"]["answered_before"] == stored
    assert bill["this_run"]["answered"] == SETS - stored
    assert bill["spent_usd"] > spent / 1e12
    assert told(tmp_path)["judged"] == 54


# --- Who judges, and how he is asked --------------------------------------------------------------------------------


def test_the_built_in_server_judges_what_it_has_written(world: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    generate(world, texts, GenerationConfig(local=LocalServerConfig(unfaithful=0.0)))
    config = JudgeConfig(judges=["llm"], n_samples=0)
    judge_texts(config, world / "kg", texts, tmp_path / "judge", seed=0, max_usd=0.0)
    assert (told(tmp_path / "judge")["judged"], told(tmp_path / "judge")["unjudged"]) == (SETS, 0)
    assert told(tmp_path / "judge")["precision"]["value"] == 1.0
    assert told(tmp_path / "judge")["faithful"]["value"] == 1.0
    with pytest.raises(ConfigError, match=r"judge\.llm\.base_url is empty"):
        judge(world, tmp_path / "elsewhere", config)


def test_noise_of_the_built_in_judge_shows_and_is_corrected_for(world: Path, tmp_path: Path) -> None:
    """With a fifth of the verdicts turned, texts that state everything seem to state four fifths of it."""
    with LocalServer(LocalServerConfig(judge_noise=0.2)) as server:
        llm = JudgeModelConfig(base_url=server.base_url, model=MODEL)
        config = JudgeConfig(judges=["llm"], n_samples=0, llm=llm, sensitivity={"llm": 0.8}, specificity={"llm": 0.8})
        judge(world, tmp_path, config)
    accepted = told(tmp_path)
    assert 0.65 < accepted["precision"]["value"] < 0.92
    assert accepted["precision"]["low"] < 0.8 < accepted["precision"]["high"]
    corrected = accepted["precision_corrected"]
    assert corrected["low"] <= 1.0 <= corrected["high"]
    assert corrected["value"] == pytest.approx(min(1.0, (accepted["precision"]["value"] - 0.2) / 0.6))


def test_the_command_shows_what_the_judges_say(world: Path, tmp_path: Path) -> None:
    for name in ("kg", "texts"):
        (tmp_path / name).symlink_to(world / name)
    shown = CliRunner().invoke(app, ["judge", "--run", str(tmp_path)])
    assert "Nobody is asked to judge." in shown.output
    with ScriptedEndpoint(literal_judge) as server:
        config = tmp_path / "run.yaml"
        options = judging(server).model_dump(mode="json", exclude_unset=True)
        config.write_text(json.dumps({"judge": options | {"judges": ["llm"]}}))
        shown = CliRunner().invoke(app, ["judge", "--run", str(tmp_path), "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    assert "54 of 54 accepted texts were judged by the judge 'llm' (gpt-4o-mini): 100.0%" in shown.output
    assert "REBEL, as published" in " ".join(shown.output.split())


def test_the_prompt_shows_the_text_the_triplets_and_the_other_names(world: Path, tmp_path: Path) -> None:
    prompt = load_judge_prompt("faithful/1")
    facts = [Fact("Trinity College, Cambridge", "country", "England")]
    *_, asked = prompt.messages("Trinity is\nin England.", facts, {"Trinity College, Cambridge": ["Trinity"]})
    assert "- Trinity College, Cambridge: also Trinity\n" in asked["content"]
    assert asked["content"].endswith(
        "\nText: Trinity is in England.\n\nFacts:\n1. Trinity College, Cambridge | country | England"
    )
    for answered in prompt.messages("A text.", facts, {})[2::2]:
        question = question_of(Seen({"messages": [prompt.messages("A text.", facts, {})[1]]}, {}, {}, 0.0))
        assert question.facts
        assert answered["role"] == "assistant"
    shown = prompt.messages("A text.", [], {})
    pairs = zip(shown[1:-1:2], shown[2:-1:2], strict=True)
    for asked, answered in pairs:
        question = question_of(Seen({"messages": [asked]}, {}, {}, 0.0))
        assert read_answer(answered["content"], len(question.facts)) is not None


def test_another_prompt_asks_anew_and_its_hash_is_in_the_manifest(world: Path, tmp_path: Path) -> None:
    with ScriptedEndpoint(literal_judge) as server:
        judge(world, tmp_path / "judge", judging(server, n_samples=5, n_rejected=0))
        mine = tmp_path / "mine.yaml"
        mine.write_text('user: "Judge.\\n\\nText: {{ text }}\\n\\nFacts:\\n{{ triplets }}"\n')
        judge(world, tmp_path / "judge", judging(server, n_samples=5, n_rejected=0, prompt=str(mine)))
        assert server.completions == 10
    assert read_manifest(tmp_path / "judge").inputs["prompt"] == load_judge_prompt(str(mine)).hash


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("user: 'Text: {{ text }}'", "must end with the text and the triplets"),
        ("user: '{{ nonsense }}'", "cannot be rendered"),
        ("user: '{{'", "not valid Jinja2"),
        ("user: [", "not valid YAML"),
        ("usr: x", "Field required"),
        ("[]", "must be a mapping"),
        ("user: x\ndemonstrations: [{text: T., triplets: [[a, b, c]], verdicts: []}]", "1 triplets have 0 verdicts"),
    ],
)
def test_an_unusable_prompt_is_refused_with_the_reason(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_judge_prompt(str(path))
    with pytest.raises(ConfigError, match="faithful/1"):
        load_judge_prompt("faithful/0")


def test_all_bundled_prompts_of_judges_are_valid() -> None:
    assert judge_prompt_names() == ["faithful/1"]
    assert len({load_judge_prompt(name).hash for name in judge_prompt_names()}) == 1


def test_texts_of_another_graph_are_not_judged(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another graph"):
        judge_texts(JudgeConfig(judges=["llm"]), world / "sets", world / "texts", tmp_path, seed=0, max_usd=0.0)


def test_errors_and_events_speak_of_the_options_of_the_judge(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, told in (
        ({"model": "nobody-knows"}, r"judge\.llm\.input_usd_per_million"),
        ({"base_url": "ftp://nowhere"}, r"judge\.llm\.base_url must be"),
        ({"base_url": None, "model": "gpt-4o-mini"}, r"judge\.llm\.model is 'gpt-4o-mini'"),
    ):
        model = JudgeModelConfig(**{"base_url": "http://127.0.0.1:9/v1", "model": "gpt-4o-mini", **options})  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=told):
            judge(world, tmp_path, JudgeConfig(judges=["llm"], llm=model))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with (
        ScriptedEndpoint(lambda seen: Reply.error(401)) as server,
        pytest.raises(AuthenticationError, match=r"judge\.llm\.headers"),
    ):
        judge(world, tmp_path, judging(server, n_samples=1))
    assert "judge.llm.headers" in json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["reason"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"judges": ["extractor"]}, "judge.extractor"),
        ({"judges": ["nli"]}, "judge.nli"),
        ({"judges": ["llm", "llm"]}, "twice"),
        ({"judges": ["llm"], "deciding": ["nli"]}, "not among"),
        ({"sensitivity": {"llm": 0.9}}, "belong together"),
        ({"sensitivity": {"llm": 0.3}, "specificity": {"llm": 0.6}}, "worse than a coin"),
        ({"llm": {"n_texts": 5}}, "n_samples"),
    ],
)
def test_a_configuration_that_cannot_judge_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        JudgeConfig.model_validate(options)
