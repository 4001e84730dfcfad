"""Prompt files: what they render to, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.build import build_graph
from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from synthie.config import QualityConfig
from synthie.errors import ConfigError
from synthie.llm.prompts import Fact, Prompt, Relation, format_topic, format_triplets, load_prompt, prompt_names
from synthie.quality import QualityGate
from synthie.records import Mention, Triplet

FACTS = [Fact("Albert Einstein", "place of birth", "Ulm"), Fact("Ulm", "country", "Germany")]
RELATIONS = [Relation("place of birth", "where a person was born"), Relation("country", "sovereign state")]
ALL = ["definitions/1", "definitions/2", "few-shot/1", "few-shot/2", "styles/1", "zero-shot/1"]
DRAWS = st.integers(0, 2**64 - 1)
LINES = "1. Albert Einstein | place of birth | Ulm\n2. Ulm | country | Germany"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_these_prompts_are_shipped() -> None:
    assert prompt_names() == ALL


@pytest.mark.parametrize("name", ALL)
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


@pytest.mark.parametrize("name", ALL)
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


def digest_of(messages: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "hashes", "messages"),
    [
        ("zero-shot/1", ("06e6bafd", "b195c099"), ("e39fd8d415b09556", "aff5397c750472c2")),
        ("few-shot/1", ("57aa0a76", "2ad3f530"), ("6eff7308e7191cfd", "796eaa6d2823b574")),
        ("definitions/1", ("2999c2d0", "2ad3f530"), ("18c964842ab99134", "796eaa6d2823b574")),
    ],
)
def test_published_prompts_ask_in_the_same_words_whatever_is_drawn(
    name: str, hashes: tuple[str, str], messages: tuple[str, str]
) -> None:
    prompt = load_prompt(name)
    assert (prompt.hash[:8], prompt.negatives_hash[:8]) == hashes
    for draw in (0, 1, 2**63, 2**64 - 1):
        assert digest_of(prompt.messages(FACTS, RELATIONS, draw)) == messages[0]
        assert digest_of(prompt.negative_messages("Mercury (planet)", draw)) == messages[1]
        assert prompt.style(draw) == {}


@pytest.mark.parametrize(
    ("name", "hashes", "messages"),
    [
        ("definitions/2", ("a4e0f649", "8a633bbb"), ("6f522de655ad85cf", "9b22c1b54210bb30")),
        ("few-shot/2", ("f7c94a1c", "8a633bbb"), ("46246fc9042827d5", "9b22c1b54210bb30")),
        ("styles/1", ("44fb339d", "374f57d8"), ("661e022c174884f1", "eb4474e15725ae86")),
    ],
)
def test_published_prompts_ask_in_the_same_words_for_the_same_draw(
    name: str, hashes: tuple[str, str], messages: tuple[str, str]
) -> None:
    prompt = load_prompt(name)
    assert (prompt.hash[:8], prompt.negatives_hash[:8]) == hashes
    assert digest_of(prompt.messages(FACTS, RELATIONS, 7)) == messages[0]
    assert digest_of(prompt.negative_messages("Mercury (planet)", 7)) == messages[1]


def test_a_prompt_without_negatives_says_what_to_add(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, 'user: "{{ triplets }}"'))
    for ask in (lambda: prompt.negative_messages("Ulm"), lambda: prompt.negatives_hash):
        with pytest.raises(ConfigError, match=r"prompt 'mine' .* Add 'negatives' .* 'Topic: \{\{ topic \}\}'"):
            ask()


@pytest.mark.parametrize(
    ("name", "near"),
    [("few-shot/99", "few-shot/2 or few-shot/1"), ("zeroshot", "zero-shot/1 or few-shot/2"), ("style/1", "styles/1")],
)
def test_an_unknown_prompt_is_refused_with_the_near_ones_and_all(name: str, near: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"no prompt '{name}'.* Did you mean {near}\? Prompts in .*: {', '.join(ALL)}"
    ):
        load_prompt(name)


def test_a_prompt_like_no_other_is_refused_with_all() -> None:
    with pytest.raises(ConfigError, match=rf"No such file or directory\)\. Prompts in .*: {', '.join(ALL)}"):
        load_prompt("qqq")


def test_a_prompt_can_be_a_file_anywhere(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, 'user: "{{ triplets }}"\nmax_tokens: 7\n'))
    assert prompt.messages(FACTS, RELATIONS) == [{"role": "user", "content": LINES}]
    assert (prompt.name, prompt.max_tokens) == ("mine", 7)


def test_the_hash_changes_with_what_is_sent_and_not_with_the_notes(tmp_path: Path) -> None:
    plain = load_prompt(write(tmp_path, 'user: "{{ triplets }}"')).hash
    assert load_prompt(write(tmp_path, '# a comment\nuser: "{{ triplets }}"\nnotes: mine')).hash == plain
    assert load_prompt(write(tmp_path, 'user: "{{ triplets }}"\ntemperature: 0.5')).hash != plain


SHOWN = "user: '{{ triplets }}'\ndemonstrations:\n- text: x\n  triplets: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: '{{ triplets }} Now write.'", "does not end with the triplets"),
        ("user: '{{ triplets'", "not valid Jinja2"),
        ("user: '{{ unknown }} {{ triplets }}'", "'unknown' is undefined"),
        ("user: '{{ triplets.__class__.__mro__ }}'", "cannot be rendered"),
        ("user: '{{ triplets }}'\nusre: x", "'usre' is not a known field; did you mean 'user'?"),
        ("user: '{{ triplets }}'\nxyz: x", "a prompt has system, user, axes"),
        ("user: '{{ triplets }}'\ntemperature: 9", "'temperature': .* found 9"),
        ("user: '{{ triplets }}'\nsystem: 2024", "'system': .* found 2024. Put it in quotation marks"),
        (f"{SHOWN}[[A, population, 525]]", "'demonstrations.1.triplets.1.3': .* found 525. A triplet is"),
        (f"{SHOWN}[[A, author, B], [A, educated at, King's College, Cambridge]]", "triplets.2': .* with a comma need"),
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
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("?", r"\?")):
        load_prompt(write(tmp_path, text))


# --- Style -----------------------------------------------------------------------------------------------------------

STYLED = """
user: "{{ style.genre }}, {{ style['size'] }}\\n{{ triplets }}"
axes:
  genre: {news: 3, letter: {weight: 1, text: a private letter}}
  size: {short: 1, long: 1, middling: 2}
"""


def test_the_template_sees_one_value_of_each_axis(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, STYLED))
    for draw in range(20):
        style = prompt.style(draw)
        assert style.keys() == {"genre", "size"}
        assert style["genre"] in ("news", "letter")
        genre = {"news": "news", "letter": "a private letter"}[style["genre"]]
        assert prompt.messages(FACTS, RELATIONS, draw)[-1]["content"] == f"{genre}, {style['size']}\n{LINES}"


def test_values_are_drawn_by_weight_and_the_axes_apart_from_one_another(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, STYLED))
    count = 40_000
    drawn = Counter(tuple(prompt.style(draw).values()) for draw in range(count))
    expected = {
        (genre, size): count * of_genre * of_size
        for genre, of_genre in {"news": 3 / 4, "letter": 1 / 4}.items()
        for size, of_size in {"short": 1 / 4, "long": 1 / 4, "middling": 1 / 2}.items()
    }
    assert drawn.keys() == expected.keys()
    chi_square = sum((drawn[style] - number) ** 2 / number for style, number in expected.items())
    assert chi_square < 20.5  # 5 degrees of freedom: exceeded once in a thousand


def test_a_further_axis_leaves_the_others_as_they_are_and_the_order_does_not_count(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, STYLED))
    longer = load_prompt(
        write(tmp_path, STYLED.replace("{{ style.genre }}", "{{ style.genre }} {{ style.a }}") + "  a: {b: 1, c: 1}")
    )
    turned = load_prompt(
        write(tmp_path, STYLED.replace("short: 1, long: 1, middling: 2", "middling: 2, long: 1, short: 1"))
    )
    assert turned.hash == prompt.hash != longer.hash
    for draw in range(50):
        assert (
            prompt.style(draw)
            == turned.style(draw)
            == {"size": longer.style(draw)["size"], "genre": longer.style(draw)["genre"]}
        )


def test_demonstrations_are_shown_in_their_own_style(tmp_path: Path) -> None:
    shown = "demonstrations: [{triplets: [[A, b, C]], text: A b C., style: {genre: letter, size: short}}]"
    prompt = load_prompt(write(tmp_path, f"{STYLED}{shown}"))
    assert [prompt.messages(FACTS, RELATIONS, draw)[0]["content"] for draw in range(9)] == [
        "a private letter, short\n1. A | b | C"
    ] * 9


def test_negatives_have_axes_of_their_own(tmp_path: Path) -> None:
    negatives = 'negatives:\n  user: "{{ style.mood }}\\nTopic: {{ topic }}"\n  axes: {mood: {gay: 1, sad: 1}}\n'
    prompt = load_prompt(write(tmp_path, STYLED + negatives))
    moods = {prompt.negative_style(draw)["mood"] for draw in range(20)}
    assert moods == {"gay", "sad"}
    assert {prompt.negative_messages("Ulm", draw)[0]["content"] for draw in range(20)} == {
        f"{mood}\nTopic: Ulm" for mood in moods
    }
    assert prompt.hash == load_prompt(write(tmp_path, STYLED)).hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: '{{ style.genre }}\n\n  {{ triplets }}'", "uses 'style', but there are no 'axes'"),
        (
            "user: '{{ triplets }}'\naxes: {genre: {news: 1}}",
            "never uses the axis 'genre'. Put {{ style.genre }} into it",
        ),
        ("user: '{{ style.gnre }} {{ triplets }}'\naxes: {genre: {news: 1}}", "never uses the axis 'genre'"),
        (
            "user: '{{ style.genre }}{{ style.x }} {{ triplets }}'\naxes: {genre: {news: 1}}",
            "It may use .* style (genre)",
        ),
        (
            "user: '{{ style.genre }} {{ triplets }}'\naxes: {genre: {news: 0}}",
            "'axes.genre.news.weight': .* greater than 0; found 0",
        ),
        (
            "user: '{{ style.genre }} {{ triplets }}'\naxes: {genre: {news: {text: x}}}",
            "'axes.genre.news.weight': Field required",
        ),
        ("user: '{{ style.genre }} {{ triplets }}'\naxes: {genre: {}}", "the axis 'genre' has no values"),
        ("user: '{{ style.items }} {{ triplets }}'\naxes: {items: {news: 1}}", "the axis 'items' needs a name"),
        (
            "user: '{{ style.genre }} {{ triplets }}'\naxes: {genre: [news]}",
            "'axes.genre': Input should be a valid dict",
        ),
        ("user: '{{ style.genre }} {{ triplets }}'\naxes: [genre]", "'axes': Input should be a valid dict"),
        (
            "user: '{{ style.genre }} {{ triplets }}'\naxes: {genre: {news: 1}}\n"
            "demonstrations: [{triplets: [[A, b, C]], text: A b C., style: {genre: nwes}}]",
            "demonstration 1 needs a 'style' that names one value of each (genre: news); found {'genre': 'nwes'}",
        ),
        (f"{SHOWN}[[A, b, C]]\n  style: {{genre: news}}", "has no axes, so demonstration 1 must not have a 'style'"),
        (
            "user: '{{ triplets }}'\nnegatives: {user: '{{ style.x }}\n\n  Topic: {{ topic }}'}",
            "The negatives' user template of 'mine' uses 'style'",
        ),
    ],
)
def test_a_style_that_cannot_work_is_refused(tmp_path: Path, text: str, message: str) -> None:
    pattern = re.sub(r"[()\[\]{}]", lambda match: f"\\{match[0]}", message)
    with pytest.raises(ConfigError, match=pattern):
        load_prompt(write(tmp_path, text))


def test_a_template_may_go_through_all_axes(tmp_path: Path) -> None:
    template = "{% for axis, text in style.items() %}{{ axis }}: {{ text }}. {% endfor %}\n{{ triplets }}"
    content = {"user": template, "axes": {"b": {"x": 1}, "a": {"y": 1}}}
    prompt = load_prompt(write(tmp_path, json.dumps(content)))
    assert prompt.messages(FACTS, [])[0]["content"] == f"a: y. b: x. \n{LINES}"


# --- Demonstrations --------------------------------------------------------------------------------------------------


def pool(tmp_path: Path, relations: list[list[str]], size: int) -> str:
    shown = [
        {"triplets": [[f"S{n}", label, f"O{place}"] for place, label in enumerate(labels)], "text": f"Text {n}."}
        for n, labels in enumerate(relations)
    ]
    content = {"user": "{{ triplets }}", "demonstrations_per_request": size, "demonstrations": shown}
    return write(tmp_path, json.dumps(content))


def shown_by(prompt_path: str, relations: list[str], draw: int = 0) -> list[int]:
    """Numbers of the demonstrations in the order of the messages."""
    facts = [Fact("A", label, "B") for label in relations]
    messages = load_prompt(prompt_path).messages(facts, [], draw)
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
    return [int(message["content"].removeprefix("Text ").rstrip(".")) for message in messages[1::2]]


@given(draw=DRAWS)
def test_demonstrations_with_the_relations_of_the_set_come_first_and_the_nearest_last(
    tmp_path_factory: pytest.TempPathFactory, draw: int
) -> None:
    path = pool(tmp_path_factory.mktemp("prompt"), [["a"], ["b", "c"], ["x"], ["b"], ["c"], ["y", "z"]], 3)
    assert shown_by(path, ["a", "b", "c"], draw)[1:] == [0, 1]
    assert shown_by(path, ["a", "b", "c"], draw)[0] in (3, 4)
    assert shown_by(path, ["b", "x"], draw)[0] in (1, 3)
    assert set(shown_by(path, ["b", "x"], draw)) == {1, 2, 3}
    assert shown_by(path, ["y"], draw)[2] == 5


def test_every_relation_is_shown_once_before_any_is_shown_twice(tmp_path: Path) -> None:
    path = pool(tmp_path, [["a", "b"], ["a", "b"], ["a", "b"], ["c"]], 2)
    for draw in range(20):
        assert shown_by(path, ["a", "b", "c"], draw)[0] == 3


def test_equals_are_chosen_alike_often_and_always_the_same_for_the_same_draw(tmp_path: Path) -> None:
    path = pool(tmp_path, [["a"] for _ in range(5)], 2)
    prompt = load_prompt(path)
    count = 5_000
    chosen = Counter(
        tuple(message["content"] for message in prompt.messages([Fact("A", "z", "B")], [], draw)[1::2])
        for draw in range(count)
    )
    assert len(chosen) == 20
    assert sum((number - count / 20) ** 2 / (count / 20) for number in chosen.values()) < 43.8  # 19 degrees, 0.1%
    assert shown_by(path, ["z"], 99) == shown_by(path, ["z"], 99)


def test_a_further_demonstration_changes_only_the_requests_that_show_it(tmp_path: Path) -> None:
    labels = [["a"], ["b"], ["c"], ["a", "b"], ["d"], ["e"]]
    before = [shown_by(pool(tmp_path, labels, 2), ["a", "q"], draw) for draw in range(60)]
    after = [shown_by(pool(tmp_path, [*labels, ["a"]], 2), ["a", "q"], draw) for draw in range(60)]
    assert all(new == old or 6 in new for old, new in zip(before, after, strict=True))
    assert before != after


@pytest.mark.parametrize(
    ("size", "message"),
    [(3, "shall show 3 demonstrations a request .* but there are 2"), (0, "greater than or equal to 1; found 0")],
)
def test_a_pool_that_cannot_be_drawn_from_is_refused(tmp_path: Path, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prompt(pool(tmp_path, [["a"], ["b"]], size))


def test_negatives_are_shown_some_of_their_demonstrations() -> None:
    prompt = load_prompt("few-shot/2")
    assert prompt.negatives
    topics: Counter[str] = Counter()
    for draw in range(200):
        messages = prompt.negative_messages("Ulm", draw)
        assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 4, "user"]
        topics.update(message["content"].splitlines()[-1] for message in messages[1:-1:2])
    assert len(topics) == len(prompt.negatives.demonstrations)


@pytest.mark.parametrize("name", ["few-shot/2", "definitions/2", "styles/1"])
def test_pools_show_four_and_cover_what_they_can(name: str) -> None:
    prompt = load_prompt(name)
    facts = [Fact("A", "place of birth", "B"), Fact("A", "place of death", "C"), Fact("D", "shares border with", "E")]
    for draw in range(30):
        messages = prompt.messages(facts, [], draw)
        assert len(messages) == 2 + 2 * 4
        shown = "".join(message["content"] for message in messages[1:-1])
        assert all(f"| {fact.relation} |" in shown for fact in facts)


def test_definitions_2_defines_all_its_relations() -> None:
    prompt = load_prompt("definitions/2")
    labels = {relation for demonstration in prompt.demonstrations for _, relation, _ in demonstration.triplets}
    assert prompt.definitions.keys() == labels
    asked = prompt.messages(FACTS, [RELATIONS[0], Relation("country", "")], 3)[-1]["content"]
    assert asked.startswith("What the relations mean:\n- place of birth: where a person was born\n\nWrite a text")
    assert prompt.messages(FACTS, [Relation("country", "")], 3)[-1]["content"].startswith("Write a text")


# --- What the demonstrations say -------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "date": {"date of birth", "date of death", "inception", "publication date", "time of discovery or invention"},
    "quantity": {"area", "atomic number", "elevation above sea level", "height", "length", "melting point"}
    | {"number of episodes", "population"},
    "coordinate": {"coordinate location"},
    "string": {"element symbol"},
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    folder = tmp_path_factory.mktemp("sample")
    build_graph(GraphConfig(dump=str(ROOT / "data" / "sample" / "wikidata.json.gz")), folder)
    return KnowledgeGraph.open(folder)


class Demonstrated:
    """The sample's graph, and a node for every name in a prompt's demonstrations; ids are the names."""

    def __init__(self, prompt: Prompt, sample: KnowledgeGraph) -> None:
        self._nodes: dict[str, Any] = {}
        for demonstration in prompt.demonstrations:
            for subject, relation, object_ in demonstration.triplets:
                kind = next((kind for kind, relations in KINDS.items() if relation in relations), "entity")
                self._add(subject, "entity", demonstration.text)
                self._add(object_, kind, demonstration.text)
        for remark in prompt.negatives.demonstrations if prompt.negatives else ():
            self._add(remark.topic, "entity", remark.text)
        known = set(sample.node_table["name"].to_pylist())
        rows = [
            vars(node) | {"description": None, "types": [], "value": None}
            for node in self._nodes.values()
            if node.name not in known
        ]
        self.node_table = pa.concat_tables([sample.node_table, pa.Table.from_pylist(rows, sample.node_table.schema)])
        self._relations = {row["label"]: row["aliases"] for row in sample.relation_table.to_pylist()}
        self.relation_ids = list(self._relations)

    def _add(self, name: str, kind: str, text: str) -> None:
        """Common nouns, which the text writes small, have a label in lower case, as in Wikidata."""
        bare = re.sub(r" \([^()]*\)$", "", name)
        small = bare[0].lower() + bare[1:]
        label = small if kind == "entity" and small in text and bare not in text else bare
        node = SimpleNamespace(id=name, name=name.replace(" ", "_"), label=label, aliases=[], kind=kind)
        if kind != "entity":
            node.name = name
        if label == small or name not in self._nodes:
            self._nodes[name] = node

    def node(self, identifier: str) -> Any:
        return self._nodes[identifier]

    def relation(self, identifier: str) -> Any:
        return SimpleNamespace(label=identifier, aliases=self._relations.get(identifier, []))


# definitions/1 says "writers", which is another node of the sample; published prompts stay as they are.
@pytest.mark.parametrize("name", [name for name in ALL if name != "definitions/1"])
def test_demonstrations_pass_the_quality_gate(name: str, sample: KnowledgeGraph) -> None:
    prompt = load_prompt(name)
    gate = QualityGate(QualityConfig(), Demonstrated(prompt, sample))
    faults = {}
    for demonstration in prompt.demonstrations:
        triplets = [
            Triplet(*(Mention(part.replace(" ", "_"), part) for part in triplet)) for triplet in demonstration.triplets
        ]
        faults[demonstration.text] = gate.check(demonstration.text, triplets, "stop").reasons
    for remark in prompt.negatives.demonstrations if prompt.negatives else ():
        faults[remark.text] = gate.check(remark.text, [], "stop", topic=Mention(remark.topic, remark.topic)).reasons
    assert {text: reasons for text, reasons in faults.items() if reasons} == {}


def test_the_gate_would_find_a_demonstration_that_says_more_or_less(sample: KnowledgeGraph) -> None:
    prompt = load_prompt("few-shot/2")
    gate = QualityGate(QualityConfig(), Demonstrated(prompt, sample))
    triplets = [Triplet(*(Mention(part, part) for part in triplet)) for triplet in prompt.demonstrations[0].triplets]
    for text in (
        "Tartu lies in Estonia, a country in Europe.",
        "Tartu lies far to the north of Estonia, at 58 degrees.",
        "Tartu lies there.",
    ):
        assert not gate.check(text, triplets, "stop").accepted
