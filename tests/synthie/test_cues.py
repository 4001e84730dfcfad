from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from synthie.surface.cues import CueTable, LearnedCues, Retold, TripletCues, find_cues, stable_hash
from synthie.surface.tokens import Tokens

DIRECTOR, WRITER, BIRTH = 0, 1, 2
PERSON, FILM, CITY = 7, 8, 9
TELLING = {DIRECTOR: "direct", WRITER: "write", BIRTH: "born"} | {number: f"tell{number}" for number in range(3, 12)}


def _cues(relation: int, *words: str) -> TripletCues:
    subject, object_ = (FILM, PERSON) if relation in (DIRECTOR, WRITER) else (PERSON, CITY)
    return TripletCues(relation, subject, object_, tuple(stable_hash(word) for word in words))


def _texts(count: int = 30) -> list[list[TripletCues]]:
    """As many texts of each relation, all with a word of their own among words of no relation."""
    draw = random.Random(0)
    fillers = ["was", "by", "in", "film", "who", "it", "then"]
    return [
        [_cues(relation, TELLING[relation], *draw.sample(fillers, 3))] for _ in range(count) for relation in TELLING
    ]


def _learned(
    texts: Sequence[Sequence[TripletCues]], parts: int = 1, named: Sequence[tuple[int, int]] = ()
) -> tuple[LearnedCues, list[CueTable]]:
    learned = LearnedCues(len(TELLING), named)
    tables = [CueTable.of(texts[part::parts]) for part in range(parts)]
    for table in tables:
        learned.add(table)
    for table in tables:
        learned.settle(table)
    return learned, tables


def _places(text: str, *names: str) -> tuple[Tokens, bytearray, list[list[int]]]:
    tokens = Tokens(text)
    places = [[i for i, word in enumerate(tokens.words) if word == name] for name in names]
    covered = bytearray(len(tokens.words))
    for i, word in enumerate(tokens.words):
        covered[i] = word[0].isupper()
    return tokens, covered, places


@pytest.mark.parametrize(
    ("text", "subject", "object_", "expected"),
    [
        ("Opus was written by Ada in Bern.", "Opus", "Ada", "was written by in"),
        ("Opus was written by Ada and Will.", "Opus", "Will", "was written by"),
        ("Opus was seen in Bern and directed by Ada.", "Opus", "Ada", "was seen in directed by"),
        ("Opus is old. Later Ada wrote it in Bern.", "Opus", "Ada", "wrote it in"),
        ("Ada is Ada. She saw Ada write Opus.", "Ada", "Opus", "write"),
        ("Ada likes Ada.", "Ada", "Ada", "likes"),
        ("Opus was written by Ada.", "Opus", "Will", ""),
    ],
)
def test_cues_stand_between_the_mentions_and_around_the_object(
    text: str, subject: str, object_: str, expected: str
) -> None:
    tokens, covered, places = _places(text, subject, object_)
    assert " ".join(tokens.words[i] for i in find_cues(tokens, covered, *places)) == expected


def test_a_triplet_in_the_words_of_another_relation_is_found_with_the_word() -> None:
    texts = [*_texts(), [_cues(WRITER, "was", "direct", "by")]]
    learned, tables = _learned(texts)
    assert learned.judge(tables[0]) == [Retold(len(texts) - 1, WRITER, DIRECTOR, stable_hash("direct"))]


def test_texts_that_were_not_learned_from_are_judged_too() -> None:
    learned, _ = _learned(_texts())
    table = CueTable.of([[_cues(WRITER, "was", "write", "by")], [_cues(WRITER, "was", "direct", "by")]])
    assert [retold.text for retold in learned.judge(table, added=False)] == [1]


def test_a_word_of_a_relations_name_tells_of_it_though_no_text_has_shown_it() -> None:
    wrong = CueTable.of([[_cues(WRITER, "was", "helm", "by")]])
    learned, _ = _learned(_texts())
    assert not learned.judge(wrong, added=False)
    learned, _ = _learned(_texts(), named=[(DIRECTOR, stable_hash("helm"))])
    assert learned.judge(wrong, added=False) == [Retold(0, WRITER, DIRECTOR, stable_hash("helm"))]
    learned, _ = _learned(_texts(), named=[(relation, stable_hash("helm")) for relation in TELLING])
    assert not learned.judge(wrong, added=False)


def test_words_of_a_relation_of_the_set_are_no_fault() -> None:
    texts = [*_texts(), [_cues(WRITER, "direct"), _cues(DIRECTOR, "direct")]]
    learned, tables = _learned(texts)
    assert not learned.judge(tables[0])


def test_words_of_a_relation_that_links_other_kinds_of_nodes_are_no_fault() -> None:
    texts = [*_texts(), [_cues(WRITER, "was", "born", "in")]]
    learned, tables = _learned(texts)
    assert not learned.judge(tables[0])


def test_a_relation_of_few_texts_is_not_judged_and_is_no_rival() -> None:
    plenty = [text for text in _texts() if text[0].relation != WRITER]
    few = [[_cues(WRITER, "write", "by")]] * 6
    learned, tables = _learned([*plenty, *few, [_cues(WRITER, "direct", "by")], [_cues(DIRECTOR, "write", "by")]])
    assert not learned.judge(tables[0])


def test_a_small_run_changes_nothing() -> None:
    learned, tables = _learned([[_cues(WRITER, "direct")], [_cues(DIRECTOR, "direct")]] * 3)
    assert not learned.judge(tables[0])
    assert not LearnedCues(3).judge(CueTable.of([]))


def test_a_text_does_not_vouch_for_itself() -> None:
    """The odd word that a wrong text has in common with no other one must not count as its relation's."""
    odd = [_cues(WRITER, "direct", *(f"odd{i}" for i in range(5)))]
    learned, tables = _learned([*_texts(), odd])
    assert [retold.rival for retold in learned.judge(tables[0])] == [DIRECTOR]


def test_the_order_of_the_texts_and_the_parts_make_no_difference() -> None:
    texts = [*_texts(), *([_cues(WRITER, "direct", f"odd{i}")] for i in range(4))]
    shuffled = random.Random(1).sample(texts, len(texts))
    found = []
    for order, parts in ((texts, 1), (shuffled, 1), (shuffled, 5)):
        learned, tables = _learned(order, parts)
        found.append(
            sorted(
                order[part::parts][retold.text][0].words
                for part, table in enumerate(tables)
                for retold in learned.judge(table)
            )
        )
    assert len(found[0]) == 4
    assert found[0] == found[1] == found[2]


def test_only_the_clearest_fault_of_a_text_is_told() -> None:
    learned, tables = _learned([*_texts(), [_cues(WRITER, "direct"), _cues(WRITER, "direct", "by")]])
    assert len(learned.judge(tables[0])) == 1


def test_memory_does_not_grow_with_the_texts() -> None:
    learned = LearnedCues(888)
    draw = np.random.default_rng(0)
    held = []
    for _ in range(3):
        rows = draw.integers(0, 1 << 32, (200, 4))
        texts = [[TripletCues(int(a) % 888, int(b), int(c), (int(d),))] for a, b, c, d in rows]
        learned.add(CueTable.of(texts * 20))
        held.append(sum(array.nbytes for array in vars(learned).values() if isinstance(array, np.ndarray)))
    assert held[0] == held[2] < 100 << 20
