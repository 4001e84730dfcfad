from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.build import build_graph
from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from synthie.config import QualityConfig
from synthie.llm.facts import Fact
from synthie.llm.remarks import remark
from synthie.llm.unfaithful import corrupt, invent
from synthie.llm.verbalise import verbalise
from synthie.quality import CHECKS, QualityGate, Verdict
from synthie.records import Mention, Triplet
from synthie.surface.cues import CueTable
from synthie.surface.forms import surface_forms

PROPERTIES = {
    "P19": ("place of birth", "wikibase-item", ["born in"]),
    "P20": ("place of death", "wikibase-item", ["died in"]),
    "P57": ("director", "wikibase-item", ["directed by"]),
    "P58": ("screenwriter", "wikibase-item", ["written by"]),
    "P27": ("country of citizenship", "wikibase-item", []),
    "P26": ("spouse", "wikibase-item", ["wife", "husband"]),
    "P31": ("instance of", "wikibase-item", []),
    "P69": ("educated at", "wikibase-item", []),
    "P106": ("occupation", "wikibase-item", []),
    "P112": ("founded by", "wikibase-item", []),
    "P131": ("located in the administrative territorial entity", "wikibase-item", []),
    "P569": ("date of birth", "time", []),
    "P1082": ("population", "quantity", []),
    "P1344": ("participant in", "wikibase-item", []),
}
ITEMS: dict[str, tuple[str, str, list[str], dict[str, list[str]]]] = {
    # id: label, title of the article, aliases, claims
    "Q11": ("Ada Ørsted", "Ada Ørsted", ["A. K. Ørsted"], {"P106": ["Q41"], "P19": ["Q21"], "P27": ["Q31"]}),
    "Q12": (
        "Zoltán Kiss",
        "Zoltán Kiss (physicist)",
        [],
        {"P106": ["Q41"], "P26": ["Q11"], "P69": ["Q51", "Q52"], "P1344": ["Q65"]},
    ),
    "Q13": ("John F. Miller", "John F. Miller", [], {"P19": ["Q22"], "P20": ["Q24"], "P1344": ["Q61"]}),
    "Q14": ("Will", "Will (film)", [], {"P31": ["Q42"], "P57": ["Q13"], "P58": ["Q12"], "P1344": ["Q54"]}),
    "Q21": ("Bern", "Bern", [], {"P131": ["Q32"]}),
    "Q22": ("Austin", "Austin, Texas", [], {"P131": ["Q23"]}),
    "Q23": ("Texas", "Texas", [], {}),
    "Q24": ("Zurich", "Zürich", [], {"P131": ["Q32"]}),
    "Q31": ("Denmark", "Denmark", [], {}),
    "Q32": ("Switzerland", "Switzerland", [], {}),
    "Q33": ("United States of America", "United States", ["US", "USA"], {}),
    "Q41": ("physicist", "Physicist", [], {}),
    "Q42": ("film", "Film", [], {}),
    "Q43": ("capital city", "Capital city", [], {}),
    "Q51": ("University of Bern", "University of Bern", [], {"P131": ["Q21"]}),
    "Q52": ("University of Zurich", "University of Zurich", [], {"P131": ["Q24"]}),
    "Q53": ("Smith & Sons", "Smith & Sons Ltd.", [], {"P112": ["Q13"], "P131": ["Q33"]}),
    "Q54": ("2014–15 Serie A", "2014–15 Serie A", [], {}),
    "Q56": ("C", "C (programming language)", [], {"P131": ["Q57"]}),
    "Q57": ("C++", "C++", [], {}),
    "Q61": ("World War II", "World War II", [], {"P131": ["Q62"]}),
    "Q62": ("1. FC Old Town", "1. FC Old Town", [], {"P106": ["Q63"]}),
    "Q63": ("electric guitar", "Electric guitar", [], {"P131": ["Q64"]}),
    "Q65": ("Opus. Der Tod und das Leben", "Opus. Der Tod und das Leben", [], {}),
    "Q66": ("The Old Will Rises", "The Old Will Rises", [], {"P131": ["Q67"]}),
    "Q67": ("The Old Will", "The Old Will", [], {}),
    "Q64": ("Bern City Council", "Bern City Council", [], {}),
    "Q55": ("The Oaks", "The Oaks", [], {"P31": ["Q43"]}),
}
DESCRIPTIONS = {"Q11": "person who studied light", "Q41": "scientist who does research in physics"}
BIRTH = "date:14 March 1879"
POPULATION = "quantity:133883"


def _write_dump(path: Path) -> None:
    def text(value: str) -> dict[str, Any]:
        return {"en": {"language": "en", "value": value}}

    def claim(relation: str, datatype: str, kind: str, value: Any) -> dict[str, Any]:
        snak = {"snaktype": "value", "property": relation, "datatype": datatype}
        return {"mainsnak": snak | {"datavalue": {"type": kind, "value": value}}, "rank": "normal", "type": "statement"}

    lines = []
    for relation, (label, datatype, aliases) in PROPERTIES.items():
        names = [{"language": "en", "value": alias} for alias in aliases]
        entity = {"type": "property", "id": relation, "datatype": datatype, "labels": text(label)}
        lines.append(entity | {"aliases": {"en": names}, "claims": {}})
    for item, (label, title, aliases, facts) in ITEMS.items():
        claims: dict[str, list[Any]] = {
            relation: [
                claim(relation, "wikibase-item", "wikibase-entityid", {"entity-type": "item", "id": target})
                for target in targets
            ]
            for relation, targets in facts.items()
        }
        if item == "Q11":
            time = {"time": "+1879-03-14T00:00:00Z", "precision": 11, "timezone": 0, "before": 0, "after": 0}
            claims["P569"] = [
                claim("P569", "time", "time", time | {"calendarmodel": "http://www.wikidata.org/entity/Q1985727"})
            ]
        if item == "Q21":
            claims["P1082"] = [claim("P1082", "quantity", "quantity", {"amount": "+133883", "unit": "1"})]
        lines.append(
            {
                "type": "item",
                "id": item,
                "labels": text(label),
                "descriptions": text(DESCRIPTIONS.get(item, "thing of the world")),
                "aliases": {"en": [{"language": "en", "value": alias} for alias in aliases]},
                "claims": claims,
                "sitelinks": {"enwiki": {"site": "enwiki", "title": title}},
            }
        )
    path.write_text("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n", encoding="utf-8")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    folder = tmp_path_factory.mktemp("quality")
    _write_dump(folder / "dump.json")
    build_graph(GraphConfig(dump=str(folder / "dump.json")), folder / "kg")
    return KnowledgeGraph.open(folder / "kg")


@pytest.fixture(scope="module")
def gate(graph: KnowledgeGraph) -> QualityGate:
    return QualityGate(QualityConfig(), graph)


def _facts(graph: KnowledgeGraph, *keys: tuple[str, str, str]) -> list[Triplet]:
    return [
        Triplet(
            Mention(graph.node(subject).name, subject),
            Mention(graph.relation(relation).label, relation),
            Mention(graph.node(object_).name, object_),
        )
        for subject, relation, object_ in keys
    ]


BORN = ("Q11", "P19", "Q21")
BORN_ON = ("Q11", "P569", BIRTH)
CITIZEN = ("Q11", "P27", "Q31")
WORKS_AS = ("Q11", "P106", "Q41")
POPULATED = ("Q21", "P1082", POPULATION)
STUDIED = ("Q12", "P69", "Q51")
DIRECTED = ("Q14", "P57", "Q13")
WRITTEN = ("Q14", "P58", "Q12")
FOUGHT = ("Q13", "P1344", "Q61")


def _checks(verdict: Verdict) -> list[str]:
    return [reason.check for reason in verdict.reasons]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("Ada Ørsted was born in Bern.", [BORN]),
        ("Bern is where Ada Ørsted's life began.", [BORN]),
        ("Bern is the birthplace of Ada Orsted.", [BORN]),  # without diacritics
        ("ADA ØRSTED was born in bern.", [BORN]),
        ("A.K. Ørsted was born in Bern.", [BORN]),  # an alias, initials written together
        ("Ada Ørsted was born in Bern on March 14, 1879.", [BORN, BORN_ON]),
        ("Born on the 14th of March 1879, Ada Ørsted comes from Bern.", [BORN, BORN_ON]),
        ("Ada Ørsted is a Danish physicist.", [CITIZEN, WORKS_AS]),  # a demonym, a common noun
        ("Zoltán Kiss and Ada Ørsted are physicists.", [WORKS_AS, ("Q12", "P106", "Q41")]),  # a plural
        ("Bern has 133,883 inhabitants.", [POPULATED]),
        ("Bern has 133883 inhabitants.", [POPULATED]),
        ("Kiss, that is Zoltan Kiss, studied at the University of Bern.", [STUDIED]),  # a part of a name
        ("John Miller was born in Austin, Texas.", [("Q13", "P19", "Q22")]),  # no initial, with the disambiguator
        ("John F. Miller was born in Austin.", [("Q13", "P19", "Q22")]),
        ("Austin, Texas, is a city.", [("Q22", "P131", "Q23")]),  # two nodes side by side are also a name of one
        ("Smith and Sons was founded by John F. Miller in the US.", [("Q53", "P112", "Q13"), ("Q53", "P131", "Q33")]),
        ("Will is a film.", [("Q14", "P31", "Q42")]),
        ("Oaks is a capital city.", [("Q55", "P31", "Q43")]),
        ("Ada Ørsted's husband is Zoltán Kiss.", [("Q12", "P26", "Q11")]),  # a word of the relation
        ("Ada Ørsted is alive. She was born in Bern.", [BORN]),  # a pronoun links the sentences
        ("Bern is a city. Ada Ørsted was born in the old city.", [BORN]),
        ("Ada Ørsted, a Dane, was born in Bern. Ørsted is a physicist.", [BORN, CITIZEN, WORKS_AS]),
        ("Ada Ørsted of Bern was born on 14/03/1879.", [BORN, BORN_ON]),  # a date in digits
        ("Ada Ørsted of Bern was born on 3/14/1879.", [BORN, BORN_ON]),
        ("John F. Miller fought in World War Two.", [FOUGHT]),  # another numeral
        ("John F. Miller fought in world war 2.", [FOUGHT]),
        ("John F. Miller was born in Austin, TX.", [("Q13", "P19", "Q22")]),  # a state's code
        ("Zoltán Kiss studied at the University in Zurich.", [("Q12", "P69", "Q52")]),  # another linking word
        ("Ada Ørsted is a Bernese.", [BORN]),  # a regular adjective
        ("Ada Orstedt was born in Bern.", [BORN]),  # misspelt by a letter
        ("Ada Ørsted was born in Bern. Ms Orstedt is alive.", [BORN]),
        ("Old Town fought in World War II.", [("Q61", "P131", "Q62")]),  # a club without its rank and legal form
        ("Old Town Football Club fought in World War II.", [("Q61", "P131", "Q62")]),
        ("An electric guitarist is at FC Old Town.", [("Q62", "P106", "Q63")]),  # who plays it
        ("The City Council is in Bern and has an electric guitar.", [("Q63", "P131", "Q64")]),  # the place apart
        ("Will, which John F. Miller directed, was written by Zoltán Kiss.", [DIRECTED, WRITTEN]),
        ("Will, a film of John F. Miller, is a work of Zoltán Kiss.", [DIRECTED, WRITTEN]),  # no rival's word
        ("Ada Ørsted was not only born in Bern, she is a physicist.", [BORN, WORKS_AS]),
        ("Ada Ørsted was born in Bern. Will is a film.", [BORN, ("Q14", "P31", "Q42")]),  # two things apart
        ("Ada Ørsted told us of Bern.", [BORN]),  # no country
        ("Zoltán Kiss plays Opus. Der Tod und das Leben.", [("Q12", "P1344", "Q65")]),  # full stops inside a name
        ("Ada Ørsted was born in Aus tin.", [("Q11", "P19", "Q22")]),  # words joined or parted otherwise
        ("C was before C++.", [("Q56", "P131", "Q57")]),
        ("Studied at by Zoltán Kiss, the University of Bern is old.", [STUDIED]),  # a sentence opens with a capital
    ],
)
def test_a_text_that_states_exactly_its_triplets_is_accepted(
    gate: QualityGate, graph: KnowledgeGraph, text: str, keys: list[tuple[str, str, str]]
) -> None:
    verdict = gate.check(text, _facts(graph, *keys))
    assert verdict.accepted, verdict.reasons


@pytest.mark.parametrize(
    ("text", "keys", "check", "detail"),
    [
        ("Will was directed by Zoltán Kiss.", [WRITTEN], "relation", "Triplet 1 .*'directed'.*'director'"),
        ("Will was written by John F. Miller.", [DIRECTED], "relation", "'written'.*'screenwriter'"),
        ("Ada Ørsted died in Bern.", [BORN], "relation", "'died'.*'place of death'"),
        ("Ada Ørsted was not born in Bern.", [BORN], "negated", "Triplet 1 .*'not'"),
        ("Ada Ørsted wasn't born in Bern.", [BORN], "negated", "Triplet 1 .*'wasn't'"),
        ("Ada Ørsted is a physicist. She was never in Bern.", [WORKS_AS, BORN], "negated", "Triplet 2 .*'never'"),
        ("Ada Ørsted was born in Bern and Will is a film.", [BORN, ("Q14", "P31", "Q42")], "extra_link", "Will"),
        ("Ada Ørsted was born in Bern, US.", [BORN], "extra_name", "'US'"),
        ("Anna Kiss was born in Bern.", [BORN], "missing", "subject 'Ada_Ørsted'"),  # two letters are another name
        ("Ada Ørsted was born in Zurich.", [BORN], "missing", "object 'Bern'"),
        ("Old Will Rises is the work.", [("Q66", "P131", "Q67")], "missing", "'The_Old_Will'"),  # within the other
        ("Ada Ørsted was born somewhere.", [BORN], "missing", "Triplet 1 .*object 'Bern' \\(Q21\\)"),
        ("She was born in Bern.", [BORN], "missing", "subject 'Ada_Ørsted' \\(Q11\\)"),
        ("Ada Ørsted was born in Bern in March 1879.", [BORN, BORN_ON], "missing", "Triplet 2 .*14 March 1879"),
        ("Ada Ørsted was born in Bernau.", [BORN], "missing", "Q21"),  # word boundaries
        ("Will you see the film?", [("Q14", "P31", "Q42")], "", ""),
        ("This film will please.", [("Q14", "P31", "Q42")], "missing", "Q14"),  # a word is not the name it looks like
        ("Zoltán Kiss studied at the University of Bern.", [("Q51", "P131", "Q21")], "missing", "'Bern'"),
        ("Ada Ørsted was born in Bern, Switzerland.", [BORN], "extra_name", "'Switzerland'.*Q32"),
        ("Ada Ørsted, born in Bern, met Xaver Zwiebel.", [BORN], "extra_name", "'Xaver Zwiebel'"),
        ("Ada Ørsted was born in Bern in 1879.", [BORN], "extra_number", "'1879'"),
        ("Ada Ørsted was born in Bern in May.", [BORN], "extra_name", "'May'.*a date"),
        ("The physicist Ada Ørsted was born in Bern.", [BORN], "extra_name", "'physicist'.*Q41"),
        ("Zoltán Kiss studied at the University of Zurich, not of Bern.",
         [STUDIED, ("Q52", "P131", "Q24")], "missing", "Q51"),
        ("Bern and Zurich are in Switzerland, as is the University of Zurich and the University of Bern.",
         [("Q21", "P131", "Q32"), ("Q24", "P131", "Q32"), ("Q51", "P131", "Q21")],
         "extra_name", "University of Zurich, Q52"),
        ("C was before D.", [("Q56", "P131", "Q57")], "missing", "C\\+\\+"),
        ("Bern has 133,884 inhabitants.", [POPULATED], "extra_number", "'133,884'"),
        ("Ada Ørsted is a physicist. Bern has 133,883 inhabitants.",
         [WORKS_AS, POPULATED, BORN], "unlinked", "Triplet 3 .*Bern"),
        ("Native Danish people know Ada Ørsted. Zoltán Kiss is alive.", [CITIZEN], "extra_name", "Zoltán Kiss"),
    ],
)  # fmt: skip
def test_a_text_that_says_less_or_more_is_rejected_with_the_triplet_or_the_span(
    gate: QualityGate, graph: KnowledgeGraph, text: str, keys: list[tuple[str, str, str]], check: str, detail: str
) -> None:
    verdict = gate.check(text, _facts(graph, *keys))
    if not check:
        assert verdict.accepted, verdict.reasons
        return
    assert any(re.search(detail, reason.detail) for reason in verdict.reasons if reason.check == check), verdict.reasons


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("I have always liked Bern.", "Q21"),
        ("Maybe Bern is overrated. Maybe I am.", "Q21"),  # words that open remarks
        ("Please, who does not miss Ørsted from time to time, A. K. Ørsted?", "Q11"),  # an alias
        ("Would you trust Austin?", "Q22"),  # without its disambiguator
        ("Everybody talks about Austin, Texas.", "Q22"),
        ("One can get used to Danish manners.", "Q31"),
        ("No one forgets the 2014–15 Serie A.", "Q54"),  # its own number
        ("Physicists make me smile, I admit.", "Q41"),
    ],
)
def test_a_text_that_mentions_its_topic_and_nothing_else_is_accepted(
    gate: QualityGate, graph: KnowledgeGraph, text: str, topic: str
) -> None:
    verdict = gate.check(text, [], topic=Mention(graph.node(topic).name, topic))
    assert verdict.accepted, verdict.reasons
    assert verdict.mentions[topic] >= 0


@pytest.mark.parametrize(
    ("text", "check", "detail"),
    [
        ("I have always liked it there.", "missing", "topic 'Bern' \\(Q21\\) is not named"),
        ("I prefer Bern to Zurich.", "extra_name", "'Zurich'.*Q24"),
        ("Bern, said Xaver Zwiebel, is not for everyone.", "extra_name", "'Xaver Zwiebel'"),
        ("Xaver likes Bern.", "extra_name", "'Xaver'"),
        ("A physicist would like Bern.", "extra_name", "physicist, Q41"),
        ("There is a film about Bern, I believe.", "extra_name", "film, Q42"),  # a class, which others may name
        ("Bern is a capital city, after all.", "extra_name", "capital city, Q43"),
        ("I have liked Bern since 1990.", "extra_number", "'1990'"),
        ("I have liked Bern for twenty years.", "extra_number", "'twenty'"),
        ("I like Bern best in May.", "extra_name", "a date"),
        ("Sure! I have always liked Bern.", "refusal", ""),
        ("I have always liked Bern", "truncated", ""),
        ("I like Bern" + " and I like Bern" * 20 + ".", "length", "a text without triplets may have at most 60"),
        ("", "empty", ""),
    ],
)
def test_a_text_without_triplets_is_rejected_for_whatever_else_it_states(
    gate: QualityGate, graph: KnowledgeGraph, text: str, check: str, detail: str
) -> None:
    verdict = gate.check(text, [], topic=Mention(graph.node("Q21").name, "Q21"))
    assert any(re.search(detail, reason.detail) for reason in verdict.reasons if reason.check == check), verdict.reasons


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("Sure! Ada Ørsted was born in Bern.", "refusal"),
        ("Here is the text: Ada Ørsted was born in Bern.", "refusal"),
        ("As an AI language model, I cannot say where Ada Ørsted, born in Bern, was born.", "refusal"),
        ("I'm sorry, but Ada Ørsted was born in Bern.", "refusal"),
        ("Based on the provided triplets, Ada Ørsted was born in Bern.", "refusal"),
        ("Text: Ada Ørsted was born in Bern.", "refusal"),
        ("**Ada Ørsted** was born in Bern.", "markup"),
        ("- Ada Ørsted was born.\n- She was born in Bern.", "markup"),
        ("1. Ada Ørsted was born.\n2. She was born in Bern.", "markup"),
        ("# Ada Ørsted\nShe was born in Bern.", "markup"),
        ("<p>Ada Ørsted was born in Bern.</p>", "markup"),
        ("Ada Ørsted was born in Bern.<|im_end|>.", "markup"),
        ("Ada Ørsted | place of birth | Bern.", "markup"),
        ("Ada_Ørsted was born in Bern.", "markup"),
        ('{"text": "Ada Ørsted was born in Bern."}', "markup"),
        ("Ada Ørsted was born in Bern", "truncated"),
        ("Ada Ørsted was born in Bern and then she", "truncated"),
        ("Ada Ørsted, Bern.", "length"),
        ("Ada Ørsted was born in Bern" + " and was born in Bern" * 20 + ".", "length"),
    ],
)
def test_what_is_no_finished_prose_is_rejected(graph: KnowledgeGraph, text: str, check: str) -> None:
    gate = QualityGate(QualityConfig(min_words=4), graph)
    assert check in _checks(gate.check(text, _facts(graph, BORN)))


@pytest.mark.parametrize(
    "text",
    [
        "Ada Ørsted wurde in Bern geboren und ist eine Physikerin.",
        "Ada Ørsted est née dans la ville de Bern avec sa sœur.",
        "Ada Ørsted nació en Bern y es una de las físicas del país.",
        "Ада Эрстед родилась в городе Берн (Bern).",
    ],
)
def test_a_text_in_another_language_is_rejected_with_a_word_of_it(
    gate: QualityGate, graph: KnowledgeGraph, text: str
) -> None:
    details = [reason.detail for reason in gate.check(text, _facts(graph, BORN)).reasons if reason.check == "language"]
    assert len(details) == 1
    quoted = re.match(r"'(.+)' \(characters (\d+)–(\d+)\)", details[0])
    assert quoted is not None
    assert text[int(quoted[2]) : int(quoted[3])] == quoted[1]


def test_a_sentence_of_a_demonstration_is_found_unless_the_set_gives_all_that_it_names(graph: KnowledgeGraph) -> None:
    shown = "Ada Ørsted was born in the city of Bern. She lives."
    gate = QualityGate(QualityConfig(), graph, demonstrations=[shown])
    assert gate.check(shown, _facts(graph, BORN)).accepted
    copied = gate.check(f"Zoltán Kiss is a physicist. {shown}", _facts(graph, ("Q12", "P106", "Q41")))
    reason = next(reason for reason in copied.reasons if reason.check == "demonstration")
    assert "'Ada Ørsted was born in the city of Bern'" in reason.detail
    other = gate.check("Ada Ørsted was born in the city of Ulm. She lives.", _facts(graph, BORN))
    assert "demonstration" not in _checks(other)


def test_every_fault_is_of_a_known_check(graph: KnowledgeGraph) -> None:
    gate = QualityGate(QualityConfig(), graph)
    for text in ("", "Sure! **Xaver** was not born in Bern in 1900", "Ada died in Bern. US"):
        assert set(_checks(gate.check(text, _facts(graph, BORN, BORN_ON)))) <= set(CHECKS)


def test_a_response_cut_off_at_the_token_limit_is_rejected_even_after_a_full_stop(
    gate: QualityGate, graph: KnowledgeGraph
) -> None:
    text, facts = "Ada Ørsted was born in Bern.", _facts(graph, BORN)
    assert gate.check(text, facts, "stop").accepted
    assert _checks(gate.check(text, facts, "length")) == ["truncated"]


def test_prose_that_resembles_markup_or_chatter_is_accepted(gate: QualityGate, graph: KnowledgeGraph) -> None:
    for text in (
        "Ada Ørsted (here called A. K. Ørsted) was born in Bern!",
        'Ada Ørsted was born in "Bern."',
        "Bern\nis where Ada Ørsted was born – in Bern, of course.",
    ):
        verdict = gate.check(text, _facts(graph, BORN))
        assert verdict.accepted, verdict.reasons


def test_mentions_are_characters_of_the_first_statement(gate: QualityGate, graph: KnowledgeGraph) -> None:
    text = "In Bern, Ada Ørsted was born; Ørsted loved Bern."
    mentions = gate.check(text, _facts(graph, BORN, BORN_ON)).mentions
    assert mentions == {"Q11": text.index("Ada"), "Q21": 3, BIRTH: -1}


def test_checks_can_be_switched_off(graph: KnowledgeGraph) -> None:
    lenient = QualityGate(QualityConfig(check_entities=False, check_extra=False), graph)
    assert lenient.check("Xaver Zwiebel died in 1900.", _facts(graph, BORN)).accepted
    strict = QualityGate(QualityConfig(check_entities=False), graph)
    assert _checks(strict.check("Xaver Zwiebel died.", _facts(graph, BORN))) == ["extra_name"]


def test_a_season_may_be_told_in_pieces(gate: QualityGate, graph: KnowledgeGraph) -> None:
    facts = _facts(graph, ("Q14", "P1344", "Q54"))
    assert gate.check("Will was in Serie A in 2014–15.", facts).accepted
    assert "missing" in _checks(gate.check("Will was in Serie A in 2013–14.", facts))


def test_forms_of_a_node_start_with_its_name(graph: KnowledgeGraph) -> None:
    assert surface_forms(graph.node("Q22"))[0] == "Austin, Texas"
    assert "Austin" in surface_forms(graph.node("Q22"))
    assert "Smith & Sons" in surface_forms(graph.node("Q53"))
    assert "March 14, 1879" in surface_forms(graph.node(BIRTH))


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict_with_mentions_inside_the_text(graph: KnowledgeGraph, text: str) -> None:
    verdict = QualityGate(QualityConfig(), graph).check(text, _facts(graph, BORN, POPULATED))
    assert verdict.accepted == (not verdict.reasons)
    assert all(-1 <= start < max(1, len(text)) for start in verdict.mentions.values())


@given(st.permutations([BORN, BORN_ON, WORKS_AS, POPULATED]))
def test_the_order_of_the_triplets_does_not_matter(gate: QualityGate, graph: KnowledgeGraph, keys: list[Any]) -> None:
    text = "The physicist Ada Ørsted was born on 14 March 1879 in Bern, which has 133,883 inhabitants."
    assert gate.check(text, _facts(graph, *keys)).accepted


def test_texts_of_the_built_in_server_pass_and_its_unfaithful_ones_are_caught(tmp_path: Path) -> None:
    dump = Path(__file__).resolve().parents[2] / "data/sample/wikidata.json.gz"
    build_graph(GraphConfig(dump=str(dump)), tmp_path / "kg")
    sample = KnowledgeGraph.open(tmp_path / "kg")
    gate, draw = QualityGate(QualityConfig(), sample), random.Random(0)
    sets = [_random_set(sample, draw) for _ in range(600)]
    facts = [
        [Fact(*(part.surfaceform.replace("_", " ") for part in (t.subject, t.predicate, t.object))) for t in triplets]
        for triplets in sets
    ]
    accepted = caught = 0
    for number, (triplets, own) in enumerate(zip(sets, facts, strict=True)):
        accepted += gate.check(verbalise(own, draw), triplets).accepted
        changed, _ = corrupt(own, facts[number - 1], draw)
        caught += not gate.check(verbalise(changed, draw), triplets).accepted
    assert accepted > 0.98 * len(sets)
    assert caught > 0.95 * len(sets)
    accepted = caught = 0
    entities = [node for node in sample if sample.node(node).kind == "entity"]
    for uri in draw.choices(entities, k=600):
        topic = Mention(sample.node(uri).name, uri)
        name = topic.surfaceform.removesuffix(f"_({uri})").replace("_", " ")
        text = remark(name, draw)
        accepted += gate.check(text, [], topic=topic).accepted
        lie = verbalise([invent(name, draw)], draw)
        caught += not gate.check(f"{text} {lie}", [], topic=topic).accepted
    assert accepted > 0.98 * 600
    assert caught > 0.98 * 600


def _random_set(graph: KnowledgeGraph, draw: random.Random) -> list[Triplet]:
    """Up to four facts, each about the subject or the object of the one before."""
    starts = [node for node, degree in graph.out_degree() if degree]
    node = draw.choice(starts)
    keys: list[tuple[str, str, str]] = []
    while len(keys) < 4 and graph.out_degree(node) and draw.random() < 0.8 ** len(keys):
        subject, object_, relation = draw.choice(list(graph.out_edges(node, keys=True)))
        if (subject, relation, object_) not in keys:
            keys.append((subject, relation, object_))
        node = draw.choice([subject, subject, object_])
    return _facts(graph, *keys)


# --- Near-duplicates ------------------------------------------------------------------------------------------------

LONG = (
    "The old bridge over the river was built by masons who came from the north, and it has carried carts, cattle and "
    "travellers from one bank to the other ever since the day it was opened to the people of Bern"
)


def repeats(gate: QualityGate, texts: Sequence[str]) -> list[int | None]:
    """For each text the earlier one that it nearly repeats."""
    found: list[int | None] = [None] * len(texts)
    for number, of, is_same in gate.near_duplicates(enumerate(texts)):
        found[number] = of
        assert is_same == (texts[number] == texts[of])
    return found


def test_a_text_that_repeats_an_earlier_one_is_found_whatever_its_case_and_punctuation(gate: QualityGate) -> None:
    texts = [LONG + ".", "Something else entirely.", LONG.replace(",", "") + "!", LONG + ", it seems."]
    assert repeats(gate, texts) == [None, None, 0, 0]


def test_texts_in_the_same_words_about_other_names_or_numbers_are_no_duplicates(gate: QualityGate) -> None:
    texts = [
        "Ada Ørsted was born in Bern in 1879.",
        "Ada Ørsted was born in Bern in 1880.",
        "Zoltán Kiss was born in Bern in 1879.",
    ]
    assert repeats(gate, texts) == [None, None, None]


def test_one_other_name_in_a_long_text_is_a_near_duplicate(gate: QualityGate) -> None:
    assert repeats(gate, [LONG + ".", LONG.replace("Bern", "Ulm") + "."]) == [None, 0]


def test_texts_too_short_for_a_shingle_are_compared_whole(gate: QualityGate) -> None:
    assert repeats(gate, ["Bern.", "", "bern", "Bern Ulm", "", "."]) == [None, None, 0, None, None, None]
    assert repeats(gate, ["Bern grows", "Bern grows.", "Bern shrinks"]) == [None, 0, None]
    assert repeats(gate, []) == []


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**9),
    st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]),
    st.sampled_from([1, 3, 16, 1 << 14]),
    st.sampled_from([1, 4, 1 << 18]),
    st.sampled_from([1, 64, 1 << 22]),
)
def test_near_duplicates_are_exactly_those_that_comparing_all_pairs_finds(
    graph: KnowledgeGraph, seed: int, threshold: float, block: int, pairs: int, buckets: int
) -> None:
    """Whatever fits into memory at once, and however coarse the frequencies are."""
    draw = random.Random(seed)
    words = ["ah", "be", "ce", "de", "ef"]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 14))) for _ in range(40)]
    expected: list[int | None] = []
    shingles = [_shingles(text) for text in texts]
    for number, own in enumerate(shingles):
        candidates = (
            other
            for other in range(number)
            if expected[other] is None
            and own
            and shingles[other]
            and len(own & shingles[other]) / len(own | shingles[other]) >= threshold
        )
        expected.append(min(candidates, default=None))
    gate = QualityGate(QualityConfig(near_duplicate=threshold), graph)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_BLOCK", block), ("_BATCH", min(block, 512)), ("_PAIRS", pairs), ("_BUCKETS", buckets)):
            patch.setattr(f"synthie.surface.repeats.{name}", value)
        assert repeats(gate, texts) == expected


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    words += [""] * (3 - len(words)) if words else []
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


# --- Texts that people wrote ----------------------------------------------------------------------------------------


def test_human_texts_pass_and_corrupted_ones_are_caught() -> None:
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("SYNTHIE_SHARED_DATA", root / "../shared/data")) / "webnlg-wikidata/dev.xml.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing; set SYNTHIE_SHARED_DATA to the folder of the shared data")
    spec = importlib.util.spec_from_file_location("quality_benchmark", root / "benchmarks/quality.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    for figures in benchmark.measure(path).values():
        assert figures["faithful pass"] > 0.92
        assert figures["dropped caught"] > 0.87
        assert figures["  with a node"] > 0.87
        assert figures["added caught"] > 0.95
        for kind in ("swapped", "renumbered", "exchanged"):
            assert figures[f"{kind} caught"] > 0.99
    votes = benchmark.compare_with_votes(path.parents[1] / "wdv/claims.csv.gz")
    assert votes["area under ROC"] > 0.6


def test_a_relation_told_in_the_words_of_another_is_learned_from_the_texts(graph: KnowledgeGraph) -> None:
    gate = QualityGate(QualityConfig(), graph, learns=True)
    written = _facts(graph, ("Q14", "P58", "Q12"))
    directed = _facts(graph, ("Q14", "P57", "Q12"))
    texts = [
        ("The film Will was helmed by Zoltán Kiss.", directed),
        ("The film Will was penned by Zoltán Kiss.", written),
    ]
    others = [
        ("Ada Ørsted was reared in Bern.", _facts(graph, ("Q11", "P19", "Q21"))),
        ("Zoltán Kiss trained at the University of Bern.", _facts(graph, ("Q12", "P69", "Q51"))),
        ("Bern lies within Switzerland.", _facts(graph, ("Q21", "P131", "Q32"))),
        ("John F. Miller fought in World War II.", _facts(graph, ("Q13", "P1344", "Q61"))),
    ]
    run = [*[*texts, *others] * 40, ("The film Will was helmed by Zoltán Kiss.", written)]
    verdicts = [gate.check(text, triplets) for text, triplets in run]
    assert all(verdict.accepted for verdict in verdicts)
    learned, table = gate.learned_cues(), CueTable.of([verdict.cues for verdict in verdicts])
    learned.add(table)
    learned.settle(table)
    [retold] = learned.judge(table)
    assert retold.text == len(run) - 1
    reason = gate.retold(*run[-1], retold)
    assert reason.check == "relation"
    assert reason.detail == (
        "Triplet 1 (Will (film) | screenwriter | Zoltán Kiss (physicist)): 'helmed' (characters 18–24) is how the "
        "texts tell of 'director', not of 'screenwriter'."
    )


def test_a_rejected_text_teaches_nothing(graph: KnowledgeGraph) -> None:
    gate = QualityGate(QualityConfig(), graph, learns=True)
    verdict = gate.check("Will was written by Ada Ørsted.", _facts(graph, ("Q14", "P58", "Q12")))
    assert not verdict.accepted
    assert not verdict.cues
