"""Exchanged entities change in text and triplets together; triplets follow the text."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from extractor_data import write_graph
from hypothesis import given
from hypothesis import strategies as st

from synthie.extractor.retelling import EntitySwapper, Record, as_arrays, as_records, by_statement
from synthie.records import Mention

NAMES = ["Ada", "Ada_Byron", "Bern_(city)", "Basel", "Chur", "Rome", "1815-12-10", "Ulm"]
PEOPLE, CITIES, DATE = (0, 1), (2, 3, 4, 5, 7), 6
BORN_IN, BORN_ON, TWIN = range(3)
OTHERS = {
    (BORN_IN, 0): np.array(PEOPLE),
    (BORN_ON, 0): np.array(PEOPLE),
    (BORN_IN, 1): np.array(CITIES),
    (TWIN, 0): np.array(CITIES),
    (TWIN, 1): np.array(CITIES),
}


def shown(node: int) -> str:
    return NAMES[node].removesuffix("_(city)").replace("_", " ")


def told(triplets: list[tuple[int, int, int]]) -> Record:
    words = ("was born in", "was born on", "is a twin of")
    text = " ".join(f"{shown(s)} {words[relation]} {shown(o)}." for s, relation, o in triplets)
    return Record(text, tuple(triplets))


triplets_of_one = st.one_of(
    st.tuples(st.sampled_from(PEOPLE), st.just(BORN_IN), st.sampled_from(CITIES)),
    st.tuples(st.sampled_from(PEOPLE), st.just(BORN_ON), st.just(DATE)),
    st.tuples(st.sampled_from(CITIES), st.just(TWIN), st.sampled_from(CITIES)).filter(lambda one: one[0] != one[2]),
)


@given(st.lists(triplets_of_one, min_size=1, max_size=5, unique=True), st.integers(0, 1000))
def test_a_swapped_record_tells_its_own_triplets(triplets: list[tuple[int, int, int]], seed: int) -> None:
    record = told(triplets)

    swapped = EntitySwapper(NAMES.__getitem__, OTHERS).swap(record, Random(seed))

    assert swapped.text == told(list(swapped.triplets)).text
    assert [relation for _, relation, _ in swapped.triplets] == [relation for _, relation, _ in triplets]
    before = [node for subject, _, target in triplets for node in (subject, target)]
    after = [node for subject, _, target in swapped.triplets for node in (subject, target)]
    assert len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after))


def test_other_entities_stand_in_the_same_place_and_literals_stay() -> None:
    record = told([(1, BORN_IN, 7), (1, BORN_ON, DATE)])

    swapped = [EntitySwapper(NAMES.__getitem__, OTHERS).swap(record, Random(seed)) for seed in range(20)]

    assert {one.triplets[0][0] for one in swapped} == {0, 1}
    assert {one.triplets[0][2] for one in swapped} == set(CITIES)
    assert {one.triplets[1][2] for one in swapped} == {DATE}


def test_an_entity_that_the_text_names_otherwise_stays() -> None:
    record = Record("The countess was born in Ulm.", ((1, BORN_IN, 7),))

    swapped = [EntitySwapper(NAMES.__getitem__, OTHERS).swap(record, Random(seed)) for seed in range(20)]

    assert {one.triplets[0][0] for one in swapped} == {1}
    assert len({one.text for one in swapped}) == len(CITIES)


def test_swapping_follows_the_seed() -> None:
    swapper, record = EntitySwapper(NAMES.__getitem__, OTHERS), told([(0, BORN_IN, 3), (3, TWIN, 5)])

    assert swapper.swap(record, Random(4)) == swapper.swap(record, Random(4))


def test_a_graph_tells_which_entities_may_be_exchanged(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "kg")
    nodes = pq.read_table(graph / "nodes.parquet")
    names, kinds = nodes["name"].to_pylist(), nodes["kind"].to_pylist()
    triples = [tuple(row.values()) for row in pq.read_table(graph / "triples.parquet").to_pylist()]
    subject, relation, target = triples[0]
    text = f"{names[subject].replace('_', ' ')} and {names[target].replace('_', ' ')}."

    swapper = EntitySwapper.open(graph, names.__getitem__)
    swapped = [swapper.swap(Record(text, ((subject, relation, target),)), Random(seed)) for seed in range(30)]

    known = {(p, s, 0) for s, p, _ in triples} | {(p, o, 1) for _, p, o in triples}
    for record in swapped:
        ((s, p, o),) = record.triplets
        assert (p, s, 0) in known
        assert (p, o, 1) in known
        assert kinds[o] == "entity" or o == target


def test_triplets_follow_the_text() -> None:
    mentions = [Mention(name, f"Q{number}") for number, name in enumerate(NAMES)]
    text = "Basel is a twin of Rome. Ada Byron was born on 1815-12-10, in Ulm."
    triplets = ((1, BORN_IN, 7), (1, BORN_ON, DATE), (3, TWIN, 5))

    ordered = by_statement(Record(text, triplets), mentions.__getitem__)

    assert ordered == Record(text, ((3, TWIN, 5), (1, BORN_ON, DATE), (1, BORN_IN, 7)))


@pytest.mark.parametrize("text", ["Nobody is named here.", "Ada Byron."])
def test_triplets_that_the_text_does_not_place_stay_in_order_at_the_end(text: str) -> None:
    mentions = [Mention(name, f"Q{number}") for number, name in enumerate(NAMES)]
    triplets = ((3, TWIN, 5), (5, TWIN, 7))

    assert by_statement(Record(text, triplets), mentions.__getitem__).triplets == triplets


def test_records_and_arrays_are_the_same() -> None:
    records = [told([(0, BORN_IN, 3)]), Record("Nothing.", ()), told([(1, BORN_ON, DATE), (3, TWIN, 5)])]

    assert as_records(*as_arrays(records)) == records
