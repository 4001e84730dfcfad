"""Whatever a model writes and a graph holds: the checks end soon, never fail, and explain themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.config import QualityConfig
from synthie.quality import QualityGate, Verdict
from synthie.records import Mention, Triplet
from synthie.surface.english import MARKUP
from synthie.surface.language import find_chatter, find_markup
from synthie.surface.tokens import Tokens, fold

NAMES = [
    *(
        "(.*)+[a-z]",
        "[a](b)",
        "$^",
        "\\",
        "A",
        "I",
        "a",
        "the",
        "of",
        "The",
        "not",
        "1",
        "2001",
        "-5",
        "1st",
        "'s",
        "s",
    ),
    *("", " ", "...", "_", "C++", "C#", "A.", "U.S.", "J. R. R. Tolkien", "York", "New York", "New York City"),
    *(
        "Will",
        "Will Will",
        "مرحبا",
        "e\u0301clair",
        "\u200b",
        "\u202eabc",
        "東京",
        "😀",
        "ß",
        "İstanbul",
        "ﬁ",
        "½",
        "²",
    ),
    *("٣", "Ⅷ", "ǅ", "ª", "１９"),
]
LITERALS = ["14 March 1879", "31 February 2000", "0", "-0", "000", "1,,2", "9" * 30, "5 metre", "52°31′N 13°23′E"]
RELATIONS = ["", " ", "(", "father", "place of birth", "date of birth", "directed by", "screenwriter", "A", "1", "東京"]
GAPS = [" ", ", ", ". ", "-", "", "\n", " not ", " of the ", "'s ", "\u202e", "\u0301", "\u00a0", "\x00", "1"]


@dataclass
class Named:
    """A node or a relation."""

    id: str
    label: str
    kind: str = "entity"
    aliases: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.label


class OddGraph:
    """Nodes and relations with names that nobody expects."""

    def __init__(self) -> None:
        nodes = [Named(f"Q{i}", name, aliases=NAMES[i - 1 : i]) for i, name in enumerate(NAMES)]
        kinds = ("date", "quantity", "coordinate", "string")
        nodes += [Named(f"{kind}:{name}", name, kind) for kind in kinds for name in (*NAMES, *LITERALS)]
        self.nodes = {node.id: node for node in nodes}
        self.relation_ids = [f"P{i}" for i in range(len(RELATIONS))]

    def node(self, identifier: str) -> Named:
        return self.nodes[identifier]

    def relation(self, identifier: str) -> Named:
        number = int(identifier[1:])
        return Named(identifier, RELATIONS[number], aliases=RELATIONS[:number])

    @cached_property
    def node_table(self) -> pa.Table:
        nodes = list(self.nodes.values())
        columns = {key: [getattr(node, key) for node in nodes] for key in ("id", "name", "label", "kind")}
        lists = {
            key: pa.array([getattr(node, key) for node in nodes], pa.list_(pa.string())) for key in ("aliases", "types")
        }
        return pa.table(columns | lists | {"description": [""] * len(nodes)})


GRAPH = OddGraph()
GATE = QualityGate(QualityConfig(), GRAPH, demonstrations=[*NAMES, "Will is the name of five."], learns=True)
IDS = st.sampled_from(list(GRAPH.nodes))


def _mention(identifier: str) -> Mention:
    return Mention(GRAPH.nodes[identifier].name, identifier)


TRIPLETS = st.builds(
    lambda subject, relation, object_: Triplet(_mention(subject), Mention("relation", relation), _mention(object_)),
    IDS,
    st.sampled_from(GRAPH.relation_ids),
    IDS,
)
FRAGMENTS = st.one_of(IDS.map(lambda identifier: GRAPH.nodes[identifier].name), st.text(max_size=8))


def _explains(verdict: Verdict, text: str) -> None:
    assert verdict.accepted == (not verdict.reasons)
    assert all(-1 <= start < max(1, len(text)) for start in verdict.mentions.values())
    for reason in verdict.reasons:
        spans = re.findall(r"\(characters (\d+)–(\d+)\)", reason.detail)
        for first, last in spans:
            assert 0 <= int(first) < int(last) <= len(text)
            assert f"'{text[int(first) : int(last)]}' (characters" in reason.detail
        if reason.check == "missing":
            assert "is not stated" in reason.detail or "is not named" in reason.detail
        elif reason.check in ("relation", "negated", "extra_name", "extra_number", "extra_link", "markup", "refusal"):
            assert spans


@settings(max_examples=300)
@given(st.data(), st.lists(TRIPLETS, max_size=3), st.lists(FRAGMENTS, max_size=8), st.sampled_from(GAPS))
def test_odd_texts_about_odd_names_get_a_verdict_that_explains_itself(
    data: st.DataObject, triplets: list[Triplet], fragments: list[str], gap: str
) -> None:
    named = [mention.surfaceform for triplet in triplets for mention in (triplet.subject, triplet.object)]
    text = gap.join(data.draw(st.permutations([*fragments, *named]))) + data.draw(st.sampled_from(["", ".", "!"]))
    topic = None if triplets else _mention(data.draw(IDS))
    _explains(GATE.check(text, triplets, topic=topic), text)


@pytest.mark.parametrize(
    "name", ["(.*)+[a-z]", "A", "1", "2001", "New York", "東京", "مرحبا", "e\u0301clair", "C++", "I"]
)
def test_a_triplet_may_have_one_node_twice(name: str) -> None:
    same = _mention(f"Q{NAMES.index(name)}")
    text = f"The father of {name} is {name}."
    verdict = GATE.check(text, [Triplet(same, Mention("father", "P3"), same)])
    _explains(verdict, text)
    assert "missing" not in [reason.check for reason in verdict.reasons]
    assert text[verdict.mentions[same.uri] :].startswith(name[:1] if name[0].isalnum() else "a-z")


def test_a_name_inside_another_is_not_stated_by_it() -> None:
    part = Triplet(
        _mention(f"Q{NAMES.index('New York City')}"), Mention("A", "P8"), _mention(f"Q{NAMES.index('York')}")
    )
    details = [reason.detail for reason in GATE.check("New York City is large.", [part]).reasons]
    assert any("'York'" in detail and "not stated" in detail for detail in details)
    assert GATE.check("New York City is near York.", [part]).accepted


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "word ",
        "A. ",
        "1,000",
        "\n",
        " ",
        "x [",
        "[a](",
        "x [a](",
        "<a",
        "- x\n",
        "1. a\n",
        "given ",
        "here is ",
        ".'",
        "東",
    ],
)
def test_a_text_of_a_megabyte_is_judged_in_linear_time(part: str) -> None:
    """Quadratic time would be hours."""
    text = "x" + part * (1_000_000 // len(part))
    york = _mention(f"Q{NAMES.index('York')}")
    _explains(GATE.check(text, [Triplet(york, Mention("father", "P3"), york)]), text)


def test_a_word_repeated_without_end_is_judged_in_linear_time_where_length_is_only_flagged() -> None:
    gate = QualityGate(QualityConfig(actions={"length": "flag"}), GRAPH, learns=True)
    york, will = (_mention(f"Q{NAMES.index(name)}") for name in ("York", "Will"))
    text = "Will likes York. " * 20_000
    verdict = gate.check(text, [Triplet(will, Mention("A", "P8"), york)])
    assert [reason.check for reason in verdict.reasons] == ["length"]
    assert verdict.accepted
    assert len(verdict.cues) == 1


@given(st.text(st.one_of(st.characters(), st.sampled_from("aB1.,'’ &_-\u0301\u00a0°")), max_size=60))
def test_tokens_stand_where_they_say_and_nothing_between_them_is_a_letter_or_digit(text: str) -> None:
    tokens = Tokens(text)
    after = 0
    for i, (word, key) in enumerate(zip(tokens.words, tokens.keys, strict=True)):
        assert text[tokens.starts[i] : tokens.ends[i]] == word
        assert key == fold(word)
        assert not re.search(r"[^\W_]|&", text[after : tokens.starts[i]])
        assert tokens.joined(i, i + 1)
        after = tokens.ends[i]
    assert not re.search(r"[^\W_]|&", text[after:])


@pytest.mark.parametrize(
    "phrase",
    [
        *("as an AI", "as a large language model", "As an assistant", "as an artificial intelligence"),
        *("I'm sorry", "I am unable", "I’m not able", "I am an AI", "I cannot", "I can't", "I can not", "I won’t"),
        *("I apologize", "I apologise", "I do not have", "I don't have", "I hope this", "I would be happy"),
        *("let me know", "feel free to", "hope that helps", "please note", "the provided triplets", "these triples"),
        *("the following facts given", "given input", "the prompt", "information you provided", "data given"),
        *("details I was provided", "this text states", "the sentence above", "the paragraph describes"),
        *("this passage includes", "the text conveys", "the paragraph mentions", "facts I have been given"),
    ],
)
def test_phrases_of_assistants_are_found_wherever_they_stand(phrase: str) -> None:
    for text in (f"Will is old, {phrase}.", f"Will is old; {phrase.upper()}: Will."):
        assert find_chatter(Tokens(text))


@given(st.text(st.sampled_from("a1 \n|-*•#>_`[](){}<&;:/.\"'w"), max_size=25))
def test_markup_is_found_by_its_signs_alone(text: str) -> None:
    assert bool(find_markup(text)) == bool(MARKUP.search(text))
