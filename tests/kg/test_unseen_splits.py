"""The test splits of unseen entities and unseen relation combinations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from pydantic import ValidationError
from wikidata_documents import build, item, property_document, to_item

from kg.errors import ConfigError
from kg.sampling.config import SamplingConfig
from kg.sampling.draw import DrawnSets, draw_sets
from kg.sampling.splits import SPLITS
from kg.sampling.stage import sample_sets

Triple = tuple[str, str, str]


def people_of_towns() -> nx.MultiDiGraph:
    """Many people with up to five facts; most live in the first of the towns, which are hubs."""
    graph = nx.MultiDiGraph()
    for person in range(300):
        name, town = f"person {person}", f"town {person % 20 % 13}"
        graph.add_edge(name, town, key="born in")
        graph.add_edge(name, f"town {person % 9}", key="lives in")
        graph.add_edge(name, f"trade {person % 17}", key="works as")
        graph.add_edge(name, f"person {(person * 7 + 1) % 300}", key="friend of")
        if person % 3 == 0:
            graph.add_edge(name, f"person {(person + 100) % 300}", key="married to")
    for town in range(13):
        graph.add_edge(f"town {town}", f"country {town % 3}", key="in")
    return graph


GRAPH = people_of_towns()
HUBS = {node for node, degree in GRAPH.in_degree() if degree > 8}


def of_split(drawn: DrawnSets) -> dict[str, list[list[Triple]]]:
    sets: dict[str, list[list[Triple]]] = {split: [] for split in SPLITS}
    for number, split in enumerate(drawn.splits):
        sets[SPLITS[split]].append(drawn.triplets(number))
    return sets


def entities(sets: Iterable[list[Triple]]) -> set[str]:
    return {end for triplets in sets for s, _, o in triplets for end in (s, o)} - HUBS


def combinations(sets: Iterable[list[Triple]]) -> set[frozenset[str]]:
    return {frozenset(r for _, r, _ in triplets) for triplets in sets}


@pytest.mark.parametrize("held_out", ["sets", "triplets"])
def test_the_entities_of_their_split_are_in_no_other_and_every_set_has_some(held_out: str) -> None:
    config = SamplingConfig(n_sets=300, held_out=held_out, unseen_entities_share=0.1, round_size=20)
    sets = of_split(draw_sets(config, GRAPH, seed=3))
    unseen = sets.pop("test_unseen_entities")
    assert len(unseen) == 30
    assert all(entities([triplets]) for triplets in unseen)
    assert not entities(unseen) & entities(one for others in sets.values() for one in others)
    assert {split: len(of) for split, of in sets.items() if of} == {"train": 242, "validation": 14, "test": 14}


def test_runs_that_continue_each_other_keep_entities_apart_also_if_only_one_has_such_a_split() -> None:
    config = SamplingConfig(n_sets=150, unseen_entities_share=0.1, round_size=20)
    first = draw_sets(config, GRAPH, seed=1)
    second = draw_sets(config, GRAPH, seed=2, earlier=first.state)
    third = draw_sets(config.model_copy(update={"unseen_entities_share": 0.0}), GRAPH, seed=3, earlier=second.state)
    runs = [of_split(run) for run in (first, second, third)]
    unseen = [triplets for run in runs for triplets in run.pop("test_unseen_entities")]
    assert len(unseen) == 30
    assert not entities(unseen) & entities(one for run in runs for others in run.values() for one in others)


def test_negatives_of_unseen_entities_have_topics_that_no_other_set_has() -> None:
    config = SamplingConfig(n_sets=300, unseen_entities_share=0.2, negative_share=0.2, round_size=20)
    drawn = draw_sets(config, GRAPH, seed=1)
    sets = of_split(drawn)
    unseen = SPLITS.index("test_unseen_entities")
    topics = {drawn.ids.nodes[node] for node in drawn.topics[drawn.topic_splits == unseen]} - HUBS
    assert topics
    assert not topics & entities(one for split, others in sets.items() if split != SPLITS[unseen] for one in others)


@pytest.mark.parametrize("held_out", ["sets", "triplets", "entities"])
def test_combinations_of_their_split_are_in_no_training_set_but_each_relation_is(held_out: str) -> None:
    config = SamplingConfig(n_sets=600, held_out=held_out, unseen_combinations_share=0.3, test_share=0.1)
    sets = of_split(draw_sets(config, GRAPH, seed=3))
    unseen = combinations(sets["test_unseen_combinations"])
    assert unseen
    assert min(map(len, unseen)) >= 2
    assert not unseen & combinations(sets["train"])
    assert not unseen & combinations(sets["validation"])
    assert frozenset.union(*unseen) <= frozenset.union(*combinations(sets["train"]))


def test_the_share_is_that_of_the_combinations() -> None:
    config = SamplingConfig(n_sets=1_000, unseen_combinations_share=0.3)
    sets = of_split(draw_sets(config, GRAPH, seed=3))
    of_several = {one for others in sets.values() for one in combinations(others) if len(one) > 1}
    unseen = combinations(sets["test_unseen_combinations"])
    assert 0.2 < len(unseen) / len(of_several) < 0.4


def test_which_combinations_are_unseen_does_not_depend_on_the_seed_or_the_run() -> None:
    config = SamplingConfig(n_sets=500, unseen_combinations_share=0.3)
    first = draw_sets(config, GRAPH, seed=1)
    runs = [of_split(first), of_split(draw_sets(config, GRAPH, seed=2, earlier=first.state))]
    for one, other in (runs, runs[::-1]):
        assert not combinations(one["test_unseen_combinations"]) & combinations(other["train"])


def test_without_such_splits_nothing_changes() -> None:
    drawn = draw_sets(SamplingConfig(n_sets=200), GRAPH, seed=1)
    assert set(np.unique(drawn.splits).tolist()) == {0, 1, 2}
    assert not len(drawn.state.node_owners)


def test_unseen_entities_and_a_test_split_of_them_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="the test split is one of unseen entities"):
        SamplingConfig(held_out="entities", unseen_entities_share=0.1)


def test_the_stage_reports_both_splits_and_refuses_another_share_later(tmp_path: Path) -> None:
    people = [
        item(n, f"P{n}", claims=[to_item(19, 1 + n % 7), to_item(20, 1 + n % 5), to_item(26, 60 + n)])
        for n in range(10, 60)
    ]
    spouses = [item(n, f"S{n}") for n in range(70, 120)]
    towns_ = [item(n, f"T{n}", claims=[to_item(17, 8)]) for n in range(1, 9)]
    relations = [property_document(number, f"r{number}") for number in (17, 19, 20, 26)]
    build(tmp_path, [*people, *spouses, *towns_, *relations])
    config = SamplingConfig(n_sets=100, unseen_combinations_share=0.4, unseen_entities_share=0.1)
    first = tmp_path / "first"
    manifest = sample_sets(config, tmp_path / "kg", first, seed=1)
    assert manifest.counts["splits"]["test_unseen_entities"] == 10
    later = config.model_copy(update={"unseen_combinations_share": 0.1, "continue_from": str(first)})
    with pytest.raises(ConfigError, match=r"Set it to 0\.4"):
        sample_sets(later, tmp_path / "kg", tmp_path / "second", seed=1)
