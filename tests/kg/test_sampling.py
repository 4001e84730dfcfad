"""The sampler: what every set is, that all sets differ, that nothing but seed and settings decides about them."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.build import build_graph
from kg.config import GraphConfig, SamplingConfig
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.sampling import SETS_SCHEMA, SPLITS, DrawnSets, deal_splits, draw_sets, sample_sets, size_distribution

Triple = tuple[str, str, str]

SHARED = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write_graph(folder: Path, triples: Iterable[Triple]) -> Path:
    """The graph that `kg.build` makes of a dump with these triples; each name becomes a label.

    Objects that begin with "string:" become literals.
    """
    unique = sorted(set(triples))
    names = sorted({end for s, _, o in unique for end in (s, o) if not end.startswith("string:")})
    items = {name: number for number, name in enumerate(names, 1)}
    properties = {name: number for number, name in enumerate(sorted({r for _, r, _ in unique}), 1)}
    claims: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in names}
    for subject, relation, target in unique:
        identifier = f"P{properties[relation]}"
        claims[subject].setdefault(identifier, []).append(_statement(identifier, target, items))
    documents = [_document(f"P{number}", name, {}) for name, number in properties.items()]
    documents += [_document(f"Q{number}", name, claims[name]) for name, number in items.items()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    dump = folder.parent / "dump.json"
    dump.write_text("[\n" + ",\n".join(json.dumps(document) for document in documents) + "\n]\n")
    build_graph(GraphConfig(dump=str(dump), entities="labelled", literals=["string"]), folder)
    return folder


def _document(identifier: str, label: str, claims: dict[str, Any]) -> dict[str, Any]:
    kind = {"type": "property", "datatype": "wikibase-item"} if identifier[0] == "P" else {"type": "item"}
    return {"id": identifier, **kind, "labels": {"en": {"language": "en", "value": label}}, "claims": claims}


def _statement(relation: str, target: str, items: dict[str, int]) -> dict[str, Any]:
    if target.startswith("string:"):
        datatype, value = "string", {"type": "string", "value": target.removeprefix("string:")}
    else:
        number = items[target]
        entity = {"entity-type": "item", "numeric-id": number, "id": f"Q{number}"}
        datatype, value = "wikibase-item", {"type": "wikibase-entityid", "value": entity}
    snak = {"snaktype": "value", "property": relation, "datavalue": value, "datatype": datatype}
    return {"mainsnak": snak, "type": "statement", "rank": "normal"}


def labels(graph: KnowledgeGraph) -> dict[str, str]:
    """Id -> label of nodes and relations; literals keep their ids, such as "string:1800"."""
    rows = graph.node_table.to_pylist() + graph.relation_table.to_pylist()
    return {row["id"]: row["id"] if row["id"].startswith("string:") else row["label"] for row in rows}


def triplets_of(graph: KnowledgeGraph, drawn: DrawnSets) -> list[list[Triple]]:
    """The sets, with labels in place of ids."""
    label = labels(graph)
    nodes = [label[identifier] for identifier in graph.node_table.column("id").to_pylist()]
    relations = graph.relation_table.column("label").to_pylist()
    subjects = np.searchsorted(graph.out_offsets, drawn.edges, side="right") - 1
    triplets = [
        (nodes[s], relations[graph.out_relations[e]], nodes[graph.out_objects[e]])
        for s, e in zip(subjects, drawn.edges, strict=True)
    ]
    return [triplets[a:b] for a, b in zip(drawn.offsets[:-1], drawn.offsets[1:], strict=True)]


def towns(n_countries: int = 12, n_persons: int = 400) -> list[Triple]:
    """A skewed graph: all persons are humans and most live in the first countries; a few facts are rare."""
    triples = []
    for person in range(n_persons):
        country = int((person * 7919 % n_persons) / n_persons * 0.999 * n_countries * (person % 5 == 0))
        triples += [
            (f"person{person}", "instance of", "human"),
            (f"person{person}", "citizen of", f"country{country}"),
            (f"person{person}", "born on", f"string:{1800 + person % 90}"),
            (f"person{person}", "child", f"person{person * 13 % n_persons}"),
        ]
        if person % 100 == 0:
            triples.append((f"person{person}", "discovered", f"comet{person}"))
    for country in range(n_countries):
        triples += [
            (f"country{country}", "instance of", "country"),
            (f"country{country}", "capital", f"city{country}"),
            (f"city{country}", "located in", f"country{country}"),
        ]
    return triples


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("skewed") / "kg", towns())


small_graphs = st.lists(
    st.tuples(
        st.sampled_from([f"e{i}" for i in range(8)]),
        st.sampled_from(["r1", "r2", "r3"]),
        st.sampled_from([f"e{i}" for i in range(8)] + ["string:1", "string:2"]),
    ),
    min_size=1,
    max_size=40,
)
any_config = st.builds(
    lambda low, spread, **rest: SamplingConfig(min_size=low, max_size=low + spread, mean_size=low + spread / 2, **rest),
    low=st.integers(1, 3),
    spread=st.integers(0, 5),
    n_sets=st.integers(1, 80),
    round_size=st.integers(1, 40),
    alpha=st.sampled_from([0.0, 1.0, 4.0]),
    relation_share=st.sampled_from([0.0, 0.5, 1.0]),
    stay=st.sampled_from([0.0, 0.6, 1.0]),
    workers=st.just(1),
)
graph_property = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@graph_property
@given(triples=small_graphs, config=any_config, seed=st.integers(0, 2**32))
def test_each_set_is_a_walk_over_entities_and_no_two_sets_are_equal(
    tmp_path_factory: pytest.TempPathFactory, triples: list[Triple], config: SamplingConfig, seed: int
) -> None:
    graph = KnowledgeGraph.open(write_graph(tmp_path_factory.mktemp("graph") / "kg", triples))
    try:
        drawn = draw_sets(config, graph, seed=seed)
    except InputError:
        assert config.min_size > 1
        return
    sets = triplets_of(graph, drawn)
    assert 1 <= len(sets) <= config.n_sets
    assert len({frozenset(triplets) for triplets in sets}) == len(sets)
    for triplets in sets:
        assert set(triplets) <= set(triples)
        assert len(set(triplets)) == len(triplets)
        assert config.min_size <= len(triplets) <= config.max_size
        visited: set[str] = set()
        for subject, _, target in triplets:
            entities = {end for end in (subject, target) if ":" not in end}
            assert not visited or visited & entities, "a triplet must share an entity, not a literal, with an earlier"
            visited |= entities


@graph_property
@given(triples=small_graphs, config=any_config, seed=st.integers(0, 2**32))
def test_counts_tell_in_how_many_sets_each_thing_occurs(
    tmp_path_factory: pytest.TempPathFactory, triples: list[Triple], config: SamplingConfig, seed: int
) -> None:
    graph = KnowledgeGraph.open(write_graph(tmp_path_factory.mktemp("graph") / "kg", triples))
    try:
        drawn = draw_sets(config, graph, seed=seed)
    except InputError:
        return
    sets = triplets_of(graph, drawn)
    nodes = Counter(node for triplets in sets for node in {end for s, _, o in triplets for end in (s, o)})
    relations = Counter(relation for triplets in sets for relation in {r for _, r, _ in triplets})
    assert sorted(drawn.node_counts[drawn.node_counts > 0]) == sorted(nodes.values())
    assert drawn.relation_counts.tolist() == [relations[r] for r in graph.relation_table.column("label").to_pylist()]
    assert drawn.edge_counts.sum() == sum(map(len, sets))
    assert drawn.curve[-1].sets == len(sets)
    assert drawn.curve[-1].entities == sum(":" not in name for name in nodes)
    assert drawn.curve[-1].relations == len(relations)
    assert drawn.curve[-1].triplets == len({triplet for triplets in sets for triplet in triplets})


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_the_sets_do_not_depend_on_the_number_of_threads(skewed: Path, workers: int) -> None:
    graph = KnowledgeGraph.open(skewed)
    config = SamplingConfig(n_sets=1500, round_size=700)
    alone = draw_sets(config.model_copy(update={"workers": 1}), graph, seed=5)
    together = draw_sets(config.model_copy(update={"workers": workers}), graph, seed=5)
    for field in ("offsets", "edges", "rounds", "strategies", "numbers", "node_counts"):
        assert np.array_equal(getattr(alone, field), getattr(together, field))


def test_a_longer_run_begins_with_the_sets_of_a_shorter_one(skewed: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    short = draw_sets(SamplingConfig(n_sets=600, round_size=200), graph, seed=5)
    long = draw_sets(SamplingConfig(n_sets=1400, round_size=200), graph, seed=5)
    assert triplets_of(graph, long)[: len(short)] == triplets_of(graph, short)


def test_another_seed_draws_other_sets(skewed: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    config = SamplingConfig(n_sets=200)
    first, second = (triplets_of(graph, draw_sets(config, graph, seed=seed)) for seed in (0, 1))
    assert len({frozenset(s) for s in first} & {frozenset(s) for s in second}) < 60


def test_coverage_pressure_covers_more_and_more_evenly(skewed: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    indifferent, pressed = (
        draw_sets(SamplingConfig(n_sets=400, round_size=50, alpha=alpha), graph, seed=0) for alpha in (0.0, 2.0)
    )
    assert pressed.curve[-1].entities > indifferent.curve[-1].entities
    rare = graph.relation_table.column("label").to_pylist().index("discovered")
    assert pressed.relation_counts[rare] > indifferent.relation_counts[rare]


def test_sets_seldom_join_persons_who_share_only_a_country_or_a_class(tmp_path: Path) -> None:
    triples = [(f"person{i}", "instance of", "human") for i in range(300)]
    triples += [(f"person{i}", "citizen of", f"country{i % 5}") for i in range(300)]
    triples += [(f"person{i}", "author of", f"book{10 * i + j}") for i in range(300) for j in range(4)]
    graph = KnowledgeGraph.open(write_graph(tmp_path / "kg", triples))
    sets = triplets_of(graph, draw_sets(SamplingConfig(n_sets=2000, mean_size=4.0), graph, seed=0))
    joined = sum(len({subject for subject, _, _ in triplets}) > 1 for triplets in sets)
    assert joined < 0.02 * len(sets)


def test_a_walk_does_reach_over_the_objects_that_few_share(tmp_path: Path) -> None:
    family = [(f"child{i}", "mother", f"mother{i // 3}") for i in range(90)]
    graph = KnowledgeGraph.open(write_graph(tmp_path / "kg", family))
    config = SamplingConfig(n_sets=100, min_size=2, max_size=3, mean_size=2.5)
    assert len(draw_sets(config, graph, seed=0)) == 100


@pytest.mark.parametrize(("low", "high", "mean"), [(1, 6, 3.34), (2, 9, 2.2), (1, 50, 30.0), (3, 3, 3.0), (1, 4, 1.0)])
def test_sizes_follow_a_truncated_poisson_distribution_with_the_given_mean(low: int, high: int, mean: float) -> None:
    sizes = np.arange(low, high + 1)
    probabilities = size_distribution(SamplingConfig(min_size=low, max_size=high, mean_size=mean))
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities @ sizes == pytest.approx(mean, abs=1e-6)
    if low < mean < high:
        # A Poisson distribution with rate λ: p(k + 1) / p(k) = λ / (k + 1).
        rates = probabilities[1:] / probabilities[:-1] * sizes[1:]
        assert rates == pytest.approx(np.full(len(rates), rates[0]))


def test_drawn_sizes_have_the_mean_of_the_settings(skewed: Path) -> None:
    drawn = draw_sets(SamplingConfig(n_sets=3000, mean_size=3.34), KnowledgeGraph.open(skewed), seed=0)
    assert np.diff(drawn.offsets).mean() == pytest.approx(3.34, abs=0.1)


@graph_property
@given(
    triples=small_graphs, config=any_config, shares=st.sampled_from([(0.0, 0.0), (0.1, 0.2), (0.3, 0.3), (0.0, 0.5)])
)
def test_splits_have_exact_shares_and_training_has_every_relation_it_can(
    tmp_path_factory: pytest.TempPathFactory,
    triples: list[Triple],
    config: SamplingConfig,
    shares: tuple[float, float],
) -> None:
    graph = KnowledgeGraph.open(write_graph(tmp_path_factory.mktemp("graph") / "kg", triples))
    config = config.model_copy(update={"min_size": 1, "validation_share": shares[0], "test_share": shares[1]})
    drawn = draw_sets(config, graph, seed=3)
    splits = deal_splits(config, graph, drawn, seed=3)
    assert np.bincount(splits, minlength=3)[1:].tolist() == [round(len(drawn) * share) for share in shares]
    sets = triplets_of(graph, drawn)
    trained = {r for triplets, split in zip(sets, splits, strict=True) if split == 0 for _, r, _ in triplets}
    wanted = {r for triplets in sets for _, r, _ in triplets}
    if (splits == 0).sum() >= len(wanted):
        assert trained == wanted


def test_a_graph_that_holds_fewer_sets_than_wanted_gives_all_it_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = [("a", "r", "b"), ("b", "r", "c"), ("c", "r", "d")]
    graph = write_graph(tmp_path / "kg", path)
    with caplog.at_level(logging.WARNING):
        manifest = sample_sets(SamplingConfig(n_sets=5000), graph, tmp_path / "sets", seed=0)
    assert manifest.counts["sets"] == 6  # three of one triplet, two of two, one of three
    assert manifest.counts["requested"] == 5000
    assert "Only 6 of the 5,000 wanted sets" in caplog.text


def test_sizes_that_no_walk_can_reach_are_refused(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "kg", [("a", "r", "b"), ("c", "r", "d")])
    with pytest.raises(InputError, match=r"not one connected set of 3 or more triplets.*min_size"):
        sample_sets(SamplingConfig(min_size=3), graph, tmp_path / "sets", seed=0)


def test_an_unfinished_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished stage"):
        sample_sets(SamplingConfig(), tmp_path / "kg", tmp_path / "sets", seed=0)


@pytest.mark.parametrize("wrong", [{"mean_size": 7.0}, {"min_size": 4}, {"min_size": 7}, {"test_share": 0.95}])
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mean_size|min_size|train on"):
        SamplingConfig(**wrong)


def test_the_stage_writes_sets_coverage_plot_and_state(skewed: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    folder = tmp_path / "sets"
    config = SamplingConfig(n_sets=900, round_size=300)
    manifest = sample_sets(config, skewed, folder, seed=1, progress=lambda done, *_, **__: seen.append(done))
    assert seen == [300, 600, 900]
    table = pq.read_table(folder / "sets.parquet")
    assert table.schema.equals(SETS_SCHEMA)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == list(range(900))
    assert [row["round"] for row in rows] == [i // 300 for i in range(900)]
    assert Counter(row["split"] for row in rows) == {"train": 810, "validation": 45, "test": 45}
    assert {row["strategy"] for row in rows} == {"entity", "relation"}
    label = labels(KnowledgeGraph.open(skewed))
    graph_triples = set(towns())
    sets = [frozenset(tuple(map(label.__getitem__, t.values())) for t in row["triplets"]) for row in rows]
    assert all(triplets <= graph_triples for triplets in sets)

    report = json.loads((folder / "coverage.json").read_text())
    entities = {end for s, _, o in graph_triples for end in (s, o) if ":" not in end}
    drawn = {end for triplets in sets for s, _, o in triplets for end in (s, o)}
    assert report["coverage"]["entities"]["reachable"] == len(entities)
    assert report["coverage"]["entities"]["covered"] == len(entities & drawn)
    assert report["coverage"]["triplets"]["covered"] == len(frozenset.union(*sets))
    assert report["duplicates"] == 900 - len(set(sets)) == 0
    for row in report["relations"]:
        assert row["sets"] == sum(any(r == row["label"] for _, r, _ in triplets) for triplets in sets)
        assert row["sets"] == sum(row[split] for split in SPLITS)
    assert (folder / "coverage.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "coverage_state.npz") as state:
        assert state["triplet_counts"].sum() == sum(map(len, sets))
        assert (state["node_counts"] > 0).sum() == len(drawn)
        assert state["next_number"] == state["sets"] == 900
    assert manifest.counts["entities_covered"] == len(entities & drawn)


def test_the_same_stage_on_other_threads_makes_the_same_files_and_finished_work_is_not_repeated(
    skewed: Path, tmp_path: Path
) -> None:
    config = SamplingConfig(n_sets=300)
    one = sample_sets(config.model_copy(update={"workers": 1}), skewed, tmp_path / "one", seed=1)
    two = sample_sets(config.model_copy(update={"workers": 2}), skewed, tmp_path / "two", seed=1)
    assert one.output_hash == two.output_hash
    assert sample_sets(config, skewed, tmp_path / "one", seed=1).reused


def test_codex_m_is_covered_with_balanced_relations(tmp_path: Path) -> None:
    files = [SHARED / "codex-m" / f"{part}.tsv.gz" for part in ("train", "valid", "test")]
    if not files[0].exists():
        pytest.skip("CoDEx-M is not present; set SYNTHIE_SHARED_DATA to the folder that holds codex-m")
    lines = [line for file in files for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
    triples: list[Triple] = [tuple(line.split()) for line in lines]  # type: ignore[misc]
    manifest = sample_sets(
        SamplingConfig(n_sets=60_000, max_size=8), write_graph(tmp_path / "kg", triples), tmp_path / "sets", seed=0
    )
    assert manifest.counts["sets"] == 60_000
    assert manifest.counts["duplicates"] == 0
    assert manifest.counts["entities_share"] > 0.99
    assert manifest.counts["relations_share"] == 1
    assert manifest.counts["relation_max_over_median"] < 20
