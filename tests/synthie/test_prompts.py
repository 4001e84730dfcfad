"""Prompt files: what they render to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthie.errors import ConfigError
from synthie.llm.prompts import Fact, Relation, format_topic, format_triplets, load_prompt

FACTS = [Fact("Albert Einstein", "place of birth", "Ulm"), Fact("Ulm", "country", "Germany")]
RELATIONS = [Relation("place of birth", "where a person was born"), Relation("country", "sovereign state")]
LINES = "1. Albert Einstein | place of birth | Ulm\n2. Ulm | country | Germany"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["zero-shot/1", "few-shot/1", "definitions/1"])
def test_every_bundled_prompt_ends_with_the_numbered_triplets(name: str) -> None:
    messages = load_prompt(name).messages(FACTS, RELATIONS)
    assert messages[0]["role"] == "system"
    assert messages[-1]["role"] == "user"
    assert messages[-1]["content"].endswith("\n\n" + LINES)


def test_demonstrations_are_earlier_exchanges_with_the_same_template() -> None:
    messages = load_prompt("few-shot/1").messages(FACTS, RELATIONS)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 4, "user"]
    assert messages[3]["content"].endswith(
        "1. Casablanca (film) | director | Michael Curtiz\n"
        "2. Casablanca (film) | screenwriter | Howard Koch\n"
        "3. Casablanca (film) | cast member | Ingrid Bergman"
    )


def test_the_definitions_prompt_tells_what_the_relations_mean() -> None:
    messages = load_prompt("definitions/1").messages(FACTS, RELATIONS)
    assert "- place of birth: where a person was born\n- country: sovereign state" in messages[-1]["content"]
    assert "- screenwriter: person who wrote the script" in messages[1]["content"]


@given(st.lists(st.tuples(*[st.text(min_size=1)] * 3), min_size=1, max_size=5))
def test_formatted_triplets_are_one_line_each_with_two_bars(names: list[tuple[str, str, str]]) -> None:
    lines = format_triplets([Fact(*triplet) for triplet in names]).split("\n")
    assert len(lines) == len(names)
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"{number}. ")
        assert line.count("|") == 2
        assert line.splitlines() == [line]


@pytest.mark.parametrize("name", ["zero-shot/1", "few-shot/1", "definitions/1"])
def test_every_bundled_prompt_asks_for_negatives_in_words_of_their_own(name: str) -> None:
    prompt = load_prompt(name)
    messages = prompt.negative_messages("Mercury (planet)")
    assert messages[0]["role"] == "system"
    assert messages[0] != prompt.messages(FACTS, RELATIONS)[0]
    assert messages[-1]["content"].endswith("\n\nTopic: Mercury (planet)")
    assert not any("|" in message["content"] for message in messages)


def test_demonstrations_of_negatives_are_earlier_exchanges() -> None:
    messages = load_prompt("few-shot/1").negative_messages("Ulm")
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 4, "user"]
    assert messages[1]["content"].endswith("\nTopic: Reykjavík")
    assert "Reykjavík" in messages[2]["content"]


@given(st.text(min_size=1))
def test_a_topic_is_one_line(name: str) -> None:
    assert format_topic(name).splitlines() == [format_topic(name)]


def test_negatives_leave_the_hash_of_the_rest_alone_and_have_their_own(tmp_path: Path) -> None:
    plain = 'user: "{{ triplets }}"\n'
    without = load_prompt(write(tmp_path, plain))
    first, second = (
        load_prompt(write(tmp_path, f'{plain}negatives:\n  user: "{words}Topic: {{{{ topic }}}}"\n'))
        for words in ("", "Please.\\n")
    )
    assert without.hash == first.hash == second.hash
    assert first.negatives_hash != second.negatives_hash
    hotter = load_prompt(write(tmp_path, f'{plain}temperature: 0.5\nnegatives:\n  user: "Topic: {{{{ topic }}}}"\n'))
    assert hotter.negatives_hash != first.negatives_hash


@pytest.mark.parametrize(
    ("name", "digest"), [("zero-shot/1", "06e6bafd"), ("few-shot/1", "57aa0a76"), ("definitions/1", "2999c2d0")]
)
def test_texts_of_published_prompts_stay_valid(name: str, digest: str) -> None:
    assert load_prompt(name).hash.startswith(digest)


def test_a_prompt_without_negatives_says_what_to_add(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, 'user: "{{ triplets }}"'))
    for ask in (lambda: prompt.negative_messages("Ulm"), lambda: prompt.negatives_hash):
        with pytest.raises(ConfigError, match=r"prompt 'mine' .* Add 'negatives' .* 'Topic: \{\{ topic \}\}'"):
            ask()


def test_an_unknown_prompt_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="definitions/1, few-shot/1, zero-shot/1"):
        load_prompt("few-shot/99")


def test_a_prompt_can_be_a_file_anywhere(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, 'user: "{{ triplets }}"\nmax_tokens: 7\n'))
    assert prompt.messages(FACTS, RELATIONS) == [{"role": "user", "content": LINES}]
    assert (prompt.name, prompt.max_tokens) == ("mine", 7)


def test_the_hash_changes_with_what_is_sent_and_not_with_the_notes(tmp_path: Path) -> None:
    plain = load_prompt(write(tmp_path, 'user: "{{ triplets }}"')).hash
    assert load_prompt(write(tmp_path, '# a comment\nuser: "{{ triplets }}"\nnotes: mine')).hash == plain
    assert load_prompt(write(tmp_path, 'user: "{{ triplets }}"\ntemperature: 0.5')).hash != plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: '{{ triplets }} Now write.'", "does not end with the triplets"),
        ("user: '{{ triplets'", "not valid Jinja2"),
        ("user: '{{ unknown }} {{ triplets }}'", "'unknown' is undefined"),
        ("user: '{{ triplets.__class__.__mro__ }}'", "cannot be rendered"),
        ("user: '{{ triplets }}'\nusre: x", "'usre'"),
        ("user: '{{ triplets }}'\ntemperature: 9", "'temperature'"),
        ("system: hello", "'user': Field required"),
        ("user: '{{ triplets }}'\nnegatives: {system: x}", "'negatives.user': Field required"),
        ("user: '{{ triplets }}'\nnegatives: {user: 'About {{ topic }}'}", "does not end with the topic"),
        (
            "user: '{{ triplets }}'\nnegatives: {user: 'Topic: {{ topic'}",
            "negatives' user template .* not valid Jinja2",
        ),
        ("user: '{{ triplets }}'\nnegatives: {user: '{{ facts }} Topic: {{ topic }}'}", "'facts' is undefined"),
        ("- a list", "must be a mapping"),
        ("user: [", "not valid YAML"),
    ],
)
def test_a_bad_prompt_file_is_refused_by_what_is_wrong_with_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_prompt(write(tmp_path, text))
