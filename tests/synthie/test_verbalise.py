"""The rule-made model: faithful when it should be, unfaithful when told to, always the same."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.literal_forms import literal_forms
from synthie.llm.facts import Fact, parse_triplets
from synthie.llm.lexicon import lexicon, mid_sentence, undisambiguated, with_article
from synthie.llm.unfaithful import corrupt
from synthie.llm.verbalise import verbalise

CONTRACTED = """
country; place of birth; place of death; father; mother; spouse; country of citizenship; continent; instance of;
capital; official language; currency; position held; child; shares border with; author; director; screenwriter;
discoverer or inventor; educated at; architect; composer; field of work; native language; occupation; employer;
founded by; place of burial; owned by; located in the administrative territorial entity; movement; genre; named after;
religion or worldview; headquarters location; cast member; award received; creator; performer; manufacturer; developer;
doctoral advisor; located in or next to body of water; record label; location; part of; parent astronomical body;
platform; mouth of the watercourse; language of work or name; member of; country of origin; date of birth;
date of death; inception; publication date; highest point; coordinate location; sport; characters; influenced by;
location of formation; parent organization; notable work; narrative location; population; instrument;
languages spoken, written or signed; length; elevation above sea level; area; height; sibling
"""
RELATIONS = [label.strip() for label in CONTRACTED.replace("\n", " ").split(";")]
NAMES = {
    "person": ["Albert Einstein", "Mileva Marić", "Fritz Lang", "Leonardo da Vinci", "John Smith (footballer)"],
    "thing": ["Ulm", "Paris, Texas", "Trinidad and Tobago", "Mercury (planet)", "United States", "Danube", "iPhone"],
    "noun": ["Physicist", "science fiction film", "Association football", "French horn", "U.S. state", "Euro"],
    "date": ["14 March 1879", "March 1879", "1879", "79", "15 March 44 BC", "1870s", "18th century"],
    "currency": ["Euro", "Singapore dollar", "Pound sterling"],
    "quantity": ["83149300", "891.7 square kilometre", "1 metre", "-3.5 metre", "3500000"],
    "coordinate": ["52°31′N 13°23′E", "40°26′46″N 79°58′56″W"],
}
NAMES["any"] = NAMES["person"] + NAMES["thing"]


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    label = draw(st.sampled_from([*RELATIONS, "head of government", "based on", "subclass of", "has part(s)"]))
    wording = lexicon().wording(label)
    subject = draw(st.sampled_from(NAMES[wording.subject]))
    return Fact(subject, label, draw(st.sampled_from([name for name in NAMES[wording.object] if name != subject])))


def is_named(name: str, kind: str, text: str) -> bool:
    forms = literal_forms(name, kind) if kind in ("date", "quantity", "coordinate") else [name, undisambiguated(name)]
    # A form may begin a sentence or, being a common noun, stand inside one.
    return any(re.search(rf"(?i:{re.escape(form[0])}){re.escape(form[1:])}", text) for form in forms)


def text_of(*lines: str, seed: int = 0) -> str:
    return verbalise([Fact(*line.split(" | ")) for line in lines], Random(seed))


def texts_of(*lines: str) -> set[str]:
    return {text_of(*lines, seed=seed) for seed in range(60)}


@pytest.mark.parametrize("label", RELATIONS)
def test_every_relation_has_three_phrasings_that_name_both_sides(label: str) -> None:
    phrasings = lexicon().relations[label].phrasings
    assert len({phrasing.text for phrasing in phrasings}) >= 3
    for phrasing in phrasings:
        assert "{subject}" in phrasing.text
        assert re.search(r"\{(a |the |on )?object\}", phrasing.text)


def test_no_two_relations_share_a_wording() -> None:
    seen: dict[str, str] = {}
    for label, wording in lexicon().relations.items():
        for phrasing in wording.phrasings:
            text = re.sub(r"\{(a |the )object\}", "{object}", phrasing.text)
            # "X is a city", "X is an actor": told apart by what the noun means.
            told_apart = {seen.setdefault(text, label), label}
            assert told_apart in ({label}, {"instance of", "occupation"})


@pytest.mark.parametrize("label", ["spouse", "sibling", "shares border with"])
def test_a_symmetric_relation_is_told_from_its_subject(label: str) -> None:
    for phrasing in lexicon().relations[label].phrasings:
        assert phrasing.text.index("{subject}") < phrasing.text.index("{object}")


@settings(max_examples=300, deadline=None)
@given(st.lists(facts(), min_size=1, max_size=8, unique=True), st.integers(0, 2**32))
def test_a_faithful_text_names_every_subject_and_object(triplets: list[Fact], seed: int) -> None:
    text = verbalise(triplets, Random(seed))
    for fact in triplets:
        assert is_named(fact.subject, "entity", text), text
        assert is_named(fact.object, lexicon().wording(fact.relation).object, text), text
    assert not re.search(r"[{}\[\]|~]|  | ,|\.\.", text), text
    assert text[-1] == "."


@settings(max_examples=100, deadline=None)
@given(st.lists(facts(), min_size=1, max_size=6, unique=True), st.integers(0, 2**32))
def test_equal_facts_and_seed_give_equal_texts(triplets: list[Fact], seed: int) -> None:
    assert verbalise(triplets, Random(seed)) == verbalise(triplets, Random(seed))


@settings(max_examples=300, deadline=None)
@given(st.lists(facts(), min_size=1, max_size=6, unique=True), st.integers(0, 2**32))
def test_an_unfaithful_text_differs_in_the_way_it_says(triplets: list[Fact], seed: int) -> None:
    changed, way = corrupt(triplets, [Fact("Bern", "country", "Switzerland")], Random(seed))
    missing, added = set(triplets) - set(changed), set(changed) - set(triplets)
    assert {"dropped": (1, 0), "invented": (0, 1)}.get(way, (1, 1)) == (len(missing), len(added))
    if way in ("swapped", "changed"):
        (before,), (after,) = missing, added
        assert before[:2] == after[:2]
    if way == "changed":
        assert re.sub(r"\d", "0", before.object) == re.sub(r"\d", "0", after.object)
    if way == "invented":
        assert next(iter(added)).subject in {fact.subject for fact in triplets}


def test_all_ways_of_being_unfaithful_occur() -> None:
    triplets = [Fact("Ulm", "population", "126329"), Fact("Ulm", "country", "Germany")]
    assert {corrupt(triplets, [], Random(seed))[1] for seed in range(60)} == {
        "dropped",
        "swapped",
        "invented",
        "changed",
    }


def test_the_last_run_of_numbered_lines_is_what_is_asked_for() -> None:
    text = "1. A | r | B\n\nNow this:\n\n1. Ulm | country | Germany\n2) AC/DC | genre | Hard rock\n\nText:"
    assert parse_triplets(text) == [Fact("Ulm", "country", "Germany"), Fact("AC/DC", "genre", "Hard rock")]


def test_two_runs_without_a_gap_are_told_apart_by_their_numbers() -> None:
    assert parse_triplets("1. A | r | B\n2. C | r | D\n1. E | r | F") == [Fact("E", "r", "F")]


@pytest.mark.parametrize("text", ["", "Write a text.", "1. Ulm | country", "Ulm | country | Germany", "1. a|b|c"])
def test_text_without_triplet_lines_has_none(text: str) -> None:
    assert parse_triplets(text) == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Ulm | country | Germany"], "Ulm is in Germany."),
        (["Albert Einstein | place of birth | Ulm"], "Ulm is the birthplace of Albert Einstein."),
        (["Albert Einstein | occupation | Physicist"], "Albert Einstein worked as a physicist."),
        (["Victoria | occupation | Actor"], "Victoria is an actor."),
        (["Hesse | instance of | States of Germany"], "Hesse is one of the states of Germany."),
        (["Ulm | located in or next to body of water | Danube"], "Ulm lies on the waters of the Danube."),
        (["Rome | inception | 8th century BC"], "Rome was founded in the 8th century BC."),
        (["M | publication date | 11 May 1931"], "M was released on May 11, 1931."),
        (["M | publication date | May 1931"], "M was published in May 1931."),
        (["Ulm | area | 118.69 square kilometre"], "Ulm covers an area of 118.69 km²."),
        (["Ulm | population | 126329"], "Ulm has 126,329 inhabitants."),
        (["The Beatles | location of formation | Liverpool"], "The Beatles were formed in Liverpool."),
        (["Spain | currency | Euro"], "Spain uses the euro as its currency."),
        (["Germany | head of government | Olaf Scholz"], "Olaf Scholz is the head of government of Germany."),
        (["Alien | followed by | Aliens"], "Alien is followed by Aliens."),
        (
            ["Peru | shares border with | Chile", "Peru | shares border with | Brazil"],
            "Peru shares borders with Chile and Brazil.",
        ),
        (
            ["Peru | shares border with | Chile", "Chile | shares border with | Peru"],
            "Peru and Chile share a border.",
        ),
        (
            ["Franz Kafka | place of birth | Prague", "Franz Kafka | date of birth | 3 July 1883"],
            "Franz Kafka was born in Prague on 3 July 1883.",
        ),
        (
            ["Franz Kafka | place of birth | Prague", "Prague | country | Czech Republic"],
            "Franz Kafka was born in Prague, which is in the Czech Republic.",
        ),
        (["M | instance of | Film", "M | director | Fritz Lang"], "M is a film directed by Fritz Lang."),
        (
            ["Fritz Lang | occupation | Film director", "Fritz Lang | place of death | Beverly Hills"],
            "Fritz Lang, a film director, died in Beverly Hills.",
        ),
        (["M (1931 film) | director | Fritz Lang"], "M was directed by Fritz Lang."),
        (["City | subclass of | Human settlement"], "A city is a kind of human settlement."),
        (["Japan | currency | Japanese yen"], "The currency of Japan is the Japanese yen."),
        (["Nikola Tesla | date of death | 7 January 1943"], "Nikola Tesla died on 7 January 1943."),
        (["Lyon | inception | 43 BC"], "Lyon was founded in 43 BC."),
        (["Arizona | capital | Phoenix, Arizona"], "Arizona has Phoenix, Arizona, as its capital."),
        (
            ["Nikola Tesla | place of death | New York City", "Nikola Tesla | date of death | 7 January 1943"],
            "Nikola Tesla died in New York City on 7 January 1943.",
        ),
        (["Google | owned by | Alphabet Inc."], "The owner of Google is Alphabet Inc."),
    ],
)
def test_a_text_reads_as_people_write(lines: list[str], expected: str) -> None:
    assert expected in texts_of(*lines)


def test_two_names_that_differ_in_their_parentheses_keep_them() -> None:
    for text in texts_of("Mercury (planet) | named after | Mercury (mythology)"):
        assert "Mercury (planet)" in text
        assert "Mercury (mythology)" in text


def test_a_pronoun_is_used_only_where_one_thing_can_be_meant() -> None:
    clear = texts_of(*["M | director | Fritz Lang", "M | publication date | 1931", "M | composer | Edvard Grieg"])
    assert any(". It " in text for text in clear)
    unclear = texts_of("Ulm | country | Germany", "Ulm | shares border with | Neu-Ulm", "Ulm | part of | Swabia")
    assert not any(re.search(r"\b(It|They)\b", text) for text in unclear)


def test_a_name_in_parentheses_is_mostly_dropped_but_not_always() -> None:
    texts = texts_of("Titan (moon) | parent astronomical body | Saturn")
    assert any("Titan (moon)" in text for text in texts)
    assert any("Titan (moon)" not in text for text in texts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("United States", "the United States"),
        ("Danube", "the Danube"),
        ("Black Sea", "the Black Sea"),
        ("Nobel Prize in Physics", "the Nobel Prize in Physics"),
        ("German language", "the German language"),
        ("University of Vienna", "the University of Vienna"),
        ("Berlin", "Berlin"),
        ("The Beatles", "The Beatles"),
        ("London Bridge", "London Bridge"),
        ("Harvard University", "Harvard University"),
    ],
)
def test_a_name_takes_the_article_that_english_gives_it(name: str, expected: str) -> None:
    assert with_article(name) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("Sovereign state", "sovereign state"),
        ("French horn", "French horn"),
        ("DVD", "DVD"),
        ("film", "film"),
        ("Nobel Prize", "Nobel Prize"),
    ],
)
def test_only_common_nouns_lose_their_capital(noun: str, expected: str) -> None:
    assert mid_sentence(noun) == expected
