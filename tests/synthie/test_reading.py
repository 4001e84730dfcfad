"""Outputs are read as triplets with the probability of their own tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pyarrow as pa
import pytest

from synthie.extractor.linearization import Form, linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.reading import read_numbers, score_names
from synthie.extractor.world import World, WorldTokens

FORMS: tuple[Form, ...] = ("fully_expanded", "subject_collapsed")
START, RELATION, OBJECT, CLOSE, END = MARKERS = [[2, 3], [2, 4], [2, 5], [2, 6], [1]]
NODES = [[7], [7, 8], [2, 7], [8, 2], [7]]  # names that begin other names, hold a marker's first token, or are equal
RELATIONS = [[9], [9, 9]]


def make_world(form: Form) -> World:
    tokens = WorldTokens(Ragged.from_rows(NODES), Ragged.from_rows(RELATIONS), Ragged.from_rows(MARKERS))
    tables = [
        pa.table({"id": [f"{kind}{row}" for row in range(size)], "name": [f"{kind} {row}" for row in range(size)]})
        for kind, size in (("Q", len(NODES)), ("P", len(RELATIONS)))
    ]
    return World.build(linearization(form, "spaces"), tokens, *tables, vocabulary=10, pad=0)


def decode(tokens: Sequence[int]) -> str:
    return " ".join(f"t{token}" for token in tokens)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_is_what_the_world_parses(form: Form) -> None:
    world, random = make_world(form), Random(0)
    several = 0
    for _ in range(20):
        sequence: list[int] = []
        while len(sequence) < 60 and (allowed := world.allowed(sequence) - {0}) and END[0] not in sequence:
            sequence.append(random.choice(sorted(allowed - set(END) or allowed)))
        cut = sequence[: random.randrange(len(sequence) + 1)]
        for tokens in (sequence, cut, [*cut, 5, 5]):
            found = read_numbers(world, tokens, [-0.1] * len(tokens))
            assert list(found) == world.parse(tokens)
            assert all(score == pytest.approx(math.exp(-0.1)) for score in found.values())
            several += len(found) > 1
    assert several > 10


def test_a_triplet_is_scored_by_its_own_tokens_only() -> None:
    one = [*START, 7, *RELATION, 9, *OBJECT, 7, 8, *CLOSE]
    other = [*START, 8, 2, *RELATION, 9, 9, *OBJECT, 7, *CLOSE]
    world = make_world("fully_expanded")
    chances = [math.log(0.9)] * len(one) + [math.log(0.5)] * len(other) + [math.log(0.1)]
    found = read_numbers(world, one + other + END, chances)
    assert found == {(0, 0, 1): pytest.approx(0.9), (3, 1, 0): pytest.approx(0.5)}
    names = score_names(world, one + other + END, chances, decode)
    assert list(names.values()) == list(found.values())
    assert list(names) == [("t7", "t9", "t7 t8"), ("t8 t2", "t9 t9", "t7")]


def test_a_subject_that_is_written_once_counts_for_each_of_its_triplets() -> None:
    subject, first, second = [*START, 7], [*RELATION, 9, *OBJECT, 8, 2], [*RELATION, 9, 9, *OBJECT, 7]
    tokens = [*subject, *first, *second, *CLOSE, *END]
    chances = [-0.6] * len(subject) + [-0.2] * len(first) + [0.0] * (len(second) + len(CLOSE) + 1)
    found = read_numbers(make_world("subject_collapsed"), tokens, chances)
    marker = len(RELATION)  # which closes the first triplet, and belongs to the second
    assert found == {
        (0, 0, 3): pytest.approx(math.exp(-(0.6 * 3 + 0.2 * len(first)) / (3 + len(first) + marker))),
        (0, 1, 0): pytest.approx(math.exp(-0.6 * 3 / (3 + len(second) + len(CLOSE)))),
    }


def test_a_repeated_triplet_keeps_its_first_score() -> None:
    triplet = [*START, 7, *RELATION, 9, *OBJECT, 7, *CLOSE]
    chances = [-0.1] * len(triplet) + [-0.9] * len(triplet)
    world = make_world("fully_expanded")
    assert list(read_numbers(world, triplet * 2, chances).values()) == [pytest.approx(math.exp(-0.1))]
    assert list(score_names(world, triplet * 2, chances, decode).values()) == [pytest.approx(math.exp(-0.1))]


def test_free_outputs_are_read_as_tolerantly_as_their_strings() -> None:
    world = make_world("fully_expanded")
    pieces = {"[s]": START, "[r]": RELATION, "[o]": OBJECT, "[e]": CLOSE, "t7": [7], "t9": [9]}
    random = Random(0)
    found = 0
    for _ in range(500):
        words = [random.choice(list(pieces)) for _ in range(20)]
        tokens = [token for word in words for token in pieces[word]]
        names = score_names(world, tokens, [-0.1] * len(tokens), decode)
        assert set(world.form.read(" ".join(words))) == {triplet for triplet in names if all(triplet)}
        found += len(names)
    assert found > 20
