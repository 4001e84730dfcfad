"""The built-in server as a judge: it reads what its own rules write, and errs as often as it is told to."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from synthie.llm.facts import Fact
from synthie.llm.remarks import remark
from synthie.llm.rule_judge import JudgeQuestion, judge, parse_question
from synthie.llm.unfaithful import corrupt, invent
from synthie.llm.verbalise import verbalise

SETS = [
    [
        Fact("Marie Curie", "place of birth", "Warsaw"),
        Fact("Marie Curie", "date of birth", "7 November 1867"),
        Fact("Marie Curie", "spouse", "Pierre Curie"),
        Fact("Pierre Curie", "place of death", "Paris"),
    ],
    [
        Fact("Casablanca (film)", "instance of", "Film"),
        Fact("Casablanca (film)", "director", "Michael Curtiz"),
        Fact("Casablanca (film)", "screenwriter", "Howard Koch"),
        Fact("Casablanca (film)", "cast member", "Ingrid Bergman"),
    ],
    [Fact("Ulm", "country", "Germany"), Fact("Ulm", "population", "126329"), Fact("Germany", "capital", "Berlin")],
    [Fact("Erik Satie", "occupation", "Composer"), Fact("Erik Satie", "instrument", "Piano")],
    [Fact("Linux", "developer", "Linus Torvalds"), Fact("Linux", "inception", "1991")],
    [Fact("Emmy Noether", "head of government", "Nobody Else"), Fact("Emmy Noether", "field of work", "Mathematics")],
]
SEEDS = range(25)


def judged(text: str, facts: list[Fact], names: dict[str, list[str]] | None = None) -> tuple[list[str], list[Any]]:
    told = json.loads(judge(JudgeQuestion(text, facts, names or {}), 0.0, Random(0)))
    assert list(told["verdicts"]) == [str(number) for number in range(1, len(facts) + 1)]
    return list(told["verdicts"].values()), told["extra"]


def test_faithful_texts_of_its_own_are_found_faithful() -> None:
    verdicts: Counter[str] = Counter()
    extras = 0
    for facts in SETS:
        for seed in SEEDS:
            told, extra = judged(verbalise(facts, Random(seed)), facts)
            verdicts.update(told)
            extras += len(extra)
    assert verdicts["stated"] >= 0.98 * verdicts.total()
    assert extras <= 0.02 * len(SETS) * len(SEEDS)


def test_facts_that_were_changed_on_purpose_are_noticed() -> None:
    lost: Counter[str] = Counter()
    found = invented = 0
    for facts in SETS:
        for seed in SEEDS:
            changed, _ = corrupt(facts, [], Random(seed))
            told, extra = judged(verbalise(changed, Random(seed)), facts)
            lost.update(verdict for fact, verdict in zip(facts, told, strict=True) if fact not in changed)
            invented += (added := any(fact not in facts for fact in changed))
            found += added and bool(extra)
    assert lost["stated"] <= 0.03 * lost.total()
    assert lost["contradicted"] > 0
    assert found >= 0.9 * invented


def test_texts_without_facts_state_none_unless_one_was_invented() -> None:
    for seed in SEEDS:
        for topic in ("Mercury (planet)", "Ulm", "Marie Curie"):
            plain = remark(topic, Random(seed))
            assert judged(plain, []) == ([], [])
    invented = [f"{remark('Ulm', Random(s))} {verbalise([invent('Ulm', Random(s))], Random(s))}" for s in SEEDS]
    assert sum(bool(judged(text, [])[1]) for text in invented) >= 0.9 * len(invented)


@pytest.mark.parametrize(
    ("text", "verdict", "extra"),
    [
        ("Marie Curie was born in Warsaw.", "stated", []),
        ("Warsaw is the birthplace of Marie Curie.", "stated", []),
        ("The place of birth of Marie Curie is Warsaw.", "stated", []),
        ("Born in Warsaw, Marie Curie died in 1934.", "stated", [["Marie Curie", "date of death", "1934"]]),
        ("Marie Curie was born in Kyoto.", "contradicted", [["Marie Curie", "place of birth", "Kyoto"]]),
        ("Marie Curie died in Warsaw.", "absent", []),
        ("Warsaw likes Marie Curie.", "absent", []),
        ("Maria Skłodowska was born in Warsaw.", "stated", []),
    ],
)
def test_a_fact_is_stated_contradicted_or_absent(text: str, verdict: str, extra: list[list[str]]) -> None:
    fact = Fact("Marie Curie", "place of birth", "Warsaw")
    assert judged(text, [fact], {"Marie Curie": ["Maria Skłodowska"]}) == ([verdict], extra)


@pytest.mark.parametrize(
    "text",
    [
        "⟦x⟧ was born in ⟦1⟧.",
        "",
        "?!",
        "(" * 50,
        "A " * 3_000,
        "born in born in Warsaw, Warsaw and Warsaw",
        "1 2 3.4 -5",
    ],
)
def test_any_text_gets_a_judgement(text: str) -> None:
    for facts in SETS:
        told, extra = judged(text, facts)
        assert len(told) == len(facts)
        assert all(len(fact) == 3 for fact in extra)
    strange = [Fact("a (b", "[c|", "*"), Fact("*", "{subject}", "a (b"), Fact("1", "%s", "2")]
    assert len(judged(text, strange)[0]) == 3


def test_noise_turns_that_share_of_the_verdicts() -> None:
    facts, text = SETS[0][:1], "Marie Curie was born in Warsaw."
    turned = sum("absent" in judge(JudgeQuestion(text, facts, {}), 0.25, Random(seed)) for seed in range(2_000))
    assert 420 < turned < 580  # four standard deviations
    assert "absent" in judge(JudgeQuestion(text, facts, {}), 1.0, Random(0))


def test_a_question_is_known_by_its_end() -> None:
    question = parse_question(
        "Judge.\n\nOther names:\n- A (x): also a; b c\n\n"
        "Text: A is in B.\n\nFacts:\n1. A (x) | country | B\n2. B | r | C"
    )
    assert question == JudgeQuestion(
        "A is in B.", [Fact("A (x)", "country", "B"), Fact("B", "r", "C")], {"A (x)": ["a", "b c"]}
    )
    nothing = parse_question("Text: Who likes A?\n\nFacts:\n(none)")
    assert nothing == JudgeQuestion("Who likes A?", [], {})
    for other in ("1. A | country | B", "Text: A\n\nFacts:\nnone", "Topic: A", "Text: A\nFacts:\n1. A | r | B", ""):
        assert parse_question(other) is None
