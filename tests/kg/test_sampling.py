"""The sampler: what every set is, that all sets differ, that nothing but seed and settings decides about them."""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.build import build_graph
from kg.config import GraphConfig
from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph
from kg.parallel import in_processes
from kg.sampling.config import SamplingConfig
from kg.sampling.draw import STRATEGIES, DrawnSets, draw_sets
from kg.sampling.sizes import size_distribution
from kg.sampling.splits import SPLITS
from kg.sampling.stage import SETS_SCHEMA, sample_sets
from kg.sampling.state import CoverageState
from kg.sampling.weights import CLOSED, count_codes, node_weight_table

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


def triplets_of(graph: nx.MultiDiGraph, drawn: DrawnSets) -> list[list[Triple]]:
    """The sets, with labels in place of ids where the graph has labels."""
    label = labels(graph) if isinstance(graph, KnowledgeGraph) else {}
    sets = map(drawn.triplets, range(len(drawn)))
    return [[(label.get(s, s), label.get(r, r), label.get(o, o)) for s, r, o in triplets] for triplets in sets]


def plain_graph(triples: Iterable[Triple], types: dict[str, list[str]] | None = None) -> nx.MultiDiGraph:
    """An ordinary networkx graph; nodes that begin with "string:" are literals."""
    graph = nx.MultiDiGraph()
    for subject, relation, target in triples:
        for node in (subject, target):
            kind = "string" if node.startswith("string:") else "entity"
            graph.add_node(node, kind=kind, types=(types or {}).get(node, []))
        graph.add_edge(subject, target, key=relation)
    return graph


def entities_of(triplet: Triple) -> set[str]:
    return {end for end in triplet[::2] if ":" not in end}


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
    n_sets=st.integers(1, 40),
    round_size=st.integers(1, 20),
    sizes=st.sampled_from(["poisson", "geometric", "uniform"]),
    entity_alpha=st.sampled_from([0.0, 1.0, 12.0]),
    relation_alpha=st.sampled_from([0.0, 1.0, 2.5]),
    relation_target=st.sampled_from(["uniform", "proportional", "natural"]),
    relation_floor=st.sampled_from([0, 10]),
    relation_share=st.sampled_from([0.0, 0.5, 1.0]),
    stay=st.sampled_from([0.0, 0.5, 3.0]),
    max_distance=st.sampled_from([None, 1, 2]),
    max_per_subject=st.sampled_from([None, 1, 2]),
    cycles=st.sampled_from([0.0, 1.0, 4.0]),
    hub_degree=st.sampled_from([None, 0.0, 2.0]),
    inverses=st.booleans(),
    held_out=st.sampled_from(["sets", "triplets", "entities"]),
    validation_share=st.just(0.1),
    test_share=st.sampled_from([0.0, 0.2]),
    negative_share=st.sampled_from([0.0, 0.3]),
    workers=st.just(1),
)
graph_property = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def draw_or_none(config: SamplingConfig, graph: nx.MultiDiGraph, seed: int) -> DrawnSets | None:
    """None where the graph has no set of the wanted size."""
    try:
        return draw_sets(config, graph, seed=seed)
    except InputError:
        return None


@graph_property
@given(triples=small_graphs, config=any_config, seed=st.integers(0, 2**32))
def test_the_compiled_sampler_and_the_reference_draw_the_same_sets(
    tmp_path_factory: pytest.TempPathFactory, triples: list[Triple], config: SamplingConfig, seed: int
) -> None:
    graph = KnowledgeGraph.open(write_graph(tmp_path_factory.mktemp("graph") / "kg", triples))
    compiled, reference = draw_or_none(config, graph, seed), draw_or_none(config, graph.to_networkx(), seed)
    if compiled is None or reference is None:
        assert compiled is reference
        return
    for field in (
        "offsets",
        "edges",
        "splits",
        "rounds",
        "strategies",
        "asked_sizes",
        "numbers",
        "topics",
        "exhausted",
    ):
        assert np.array_equal(getattr(compiled, field), getattr(reference, field)), field
    assert list(map(compiled.triplets, range(len(compiled)))) == list(map(reference.triplets, range(len(reference))))


def test_the_compiled_sampler_and_the_reference_agree_around_hubs(tmp_path: Path) -> None:
    villages = [(f"village{i}", "instance of", f"kind{i % 60}") for i in range(400)]
    villages += [(f"town{i}", "instance of", f"kind{i % 60}") for i in range(120)]
    villages += [(f"town{i}", "twin", f"town{i * 7 % 120}") for i in range(120)]
    graph = KnowledgeGraph.open(write_graph(tmp_path / "kg", villages))
    for share in (0.0, 0.45):
        config = SamplingConfig(n_sets=1000, round_size=100, relation_share=share)
        compiled, reference = (draw_sets(config, each, seed=0) for each in (graph, graph.to_networkx()))
        assert np.array_equal(compiled.edges, reference.edges)


@graph_property
@given(triples=small_graphs, config=any_config, seed=st.integers(0, 2**32))
def test_each_set_is_a_walk_over_entities_and_no_two_sets_are_equal(
    triples: list[Triple], config: SamplingConfig, seed: int
) -> None:
    graph = plain_graph(triples)
    drawn = draw_or_none(config, graph, seed)
    if drawn is None:
        assert config.min_size > 1 or config.held_out != "sets" or config.cycles == 0
        return
    sets = triplets_of(graph, drawn)
    assert 1 <= len(sets) + len(drawn.topics) <= config.n_sets
    assert len({frozenset(triplets) for triplets in sets}) == len(sets)
    for triplets, asked in zip(sets, drawn.asked_sizes, strict=True):
        assert set(triplets) <= set(triples)
        assert len(set(triplets)) == len(triplets)
        assert config.min_size <= len(triplets) <= asked <= config.max_size
        visited: set[str] = set()
        for triplet in triplets:
            assert not visited or visited & entities_of(triplet), "it must share an entity, not a literal, with others"
            visited |= entities_of(triplet)


@graph_property
@given(triples=small_graphs, config=any_config, seed=st.integers(0, 2**32))
def test_limits_of_a_walk_hold(triples: list[Triple], config: SamplingConfig, seed: int) -> None:
    graph = plain_graph(triples)
    drawn = draw_or_none(config, graph, seed)
    if drawn is None:
        return
    for triplets, strategy in zip(triplets_of(graph, drawn), drawn.strategies, strict=True):
        if config.max_per_subject is not None:
            assert max(Counter(s for s, _, _ in triplets).values()) <= config.max_per_subject
        if config.max_distance is not None:
            pairs = nx.Graph((s, o) for s, _, o in triplets)
            starts = sorted(entities_of(triplets[0]))
            groups = [starts] if STRATEGIES[strategy] == "relation" else [[start] for start in starts]
            reach = [max(nx.multi_source_dijkstra_path_length(pairs, set(group)).values()) for group in groups]
            assert min(reach) <= config.max_distance
        if config.cycles == 0:
            known: set[str] = set()
            for triplet in triplets:
                assert not (len(known) and entities_of(triplet) <= known and ":" not in triplet[2])
                known |= entities_of(triplet)


@graph_property
@given(triples=small_graphs, config=any_config, seed=st.integers(0, 2**32))
def test_counts_tell_in_how_many_sets_each_thing_occurs(
    triples: list[Triple], config: SamplingConfig, seed: int
) -> None:
    graph = plain_graph(triples)
    drawn = draw_or_none(config, graph, seed)
    if drawn is None:
        return
    sets, state = triplets_of(graph, drawn), drawn.state
    nodes = Counter(node for triplets in sets for node in {end for s, _, o in triplets for end in (s, o)})
    relations = Counter(relation for triplets in sets for relation in {r for _, r, _ in triplets})
    assert dict(zip(graph, state.node_counts.tolist(), strict=True)) == {node: nodes[node] for node in graph}
    assert state.relation_counts.tolist() == [relations[r] for r in drawn.ids.relations]
    assert state.edge_counts.sum() == sum(map(len, sets))
    assert (state.sets, state.negatives) == (len(sets), len(drawn.topics))


@graph_property
@given(
    triples=small_graphs,
    config=any_config,
    held_out=st.sampled_from(["triplets", "entities"]),
    seed=st.integers(0, 2**32),
)
def test_held_out_triplets_and_entities_occur_in_no_other_split(
    triples: list[Triple], config: SamplingConfig, held_out: str, seed: int
) -> None:
    graph = plain_graph(triples)
    config = config.model_copy(update={"held_out": held_out, "test_share": 0.3, "n_sets": 60, "min_size": 1})
    drawn = draw_or_none(config, graph, seed)
    if drawn is None:
        return
    of_split: dict[str, list[list[Triple]]] = {split: [] for split in SPLITS}
    for triplets, split in zip(triplets_of(graph, drawn), drawn.splits, strict=True):
        of_split[SPLITS[split]].append(triplets)
    if held_out == "triplets":
        seen = [{t for triplets in of_split[split] for t in triplets} for split in SPLITS]
        # Each relation keeps a triplet for training.
        assert {r for _, r, _ in set(triples) - seen[1] - seen[2]} == {r for _, r, _ in triples}
    else:
        hubs = {node for node, degree in graph.in_degree() if degree > 8}
        seen = [
            {node for triplets in of_split[split] for t in triplets for node in entities_of(t)} - hubs
            for split in SPLITS
        ]
        assert all({node for t in triplets for node in entities_of(t)} - hubs for triplets in of_split["test"])
    assert len(seen[0] | seen[1] | seen[2]) == sum(map(len, seen))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_the_sets_do_not_depend_on_the_number_of_threads(skewed: Path, workers: int) -> None:
    graph = KnowledgeGraph.open(skewed)
    config = SamplingConfig(n_sets=1500, round_size=700)
    alone = draw_sets(config.model_copy(update={"workers": 1}), graph, seed=5)
    together = draw_sets(config.model_copy(update={"workers": workers}), graph, seed=5)
    for field in ("offsets", "edges", "rounds", "strategies", "numbers"):
        assert np.array_equal(getattr(alone, field), getattr(together, field))


def test_the_sets_do_not_depend_on_who_draws_the_shares_of_a_round(skewed: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    config = SamplingConfig(n_sets=22_500, round_size=22_500, max_size=16, mean_size=10.0, workers=1)
    alone = draw_sets(config, graph, seed=5)
    mapped = draw_sets(config, graph, seed=5, mapper=in_processes(2))
    for field in ("offsets", "edges", "rounds", "strategies", "numbers", "asked_sizes"):
        assert np.array_equal(getattr(alone, field), getattr(mapped, field))


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


def test_coverage_pressure_covers_more_and_more_evenly() -> None:
    graph = plain_graph(towns())
    settings = SamplingConfig(n_sets=300, round_size=20)
    indifferent = draw_sets(settings.model_copy(update={"entity_alpha": 0.0, "relation_alpha": 0.0}), graph, seed=0)
    pressed = draw_sets(settings, graph, seed=0)
    assert (pressed.state.node_counts > 0).sum() > 1.1 * (indifferent.state.node_counts > 0).sum()
    before, after = (drawn.state.relation_counts for drawn in (indifferent, pressed))
    assert after[before.argmin()] > before.min()
    assert after.max() / np.sort(after)[1] < 0.8 * before.max() / np.sort(before)[1]


def relation_counts(graph: KnowledgeGraph, drawn: DrawnSets) -> dict[str, int]:
    return dict(zip(graph.relation_labels, drawn.state.relation_counts.tolist(), strict=True))


def test_each_relation_reaches_the_floor_that_it_can_reach(tmp_path: Path) -> None:
    triples = [*towns(), ("lonely", "seen once", "alone")]
    graph = KnowledgeGraph.open(write_graph(tmp_path / "kg", triples))
    natural = SamplingConfig(n_sets=600, round_size=50, relation_target="natural", relation_share=0.0, entity_alpha=0.0)
    before = relation_counts(graph, draw_sets(natural, graph, seed=0))
    assert before["discovered"] < 40
    drawn = draw_sets(natural.model_copy(update={"relation_floor": 40}), graph, seed=0)
    after = relation_counts(graph, drawn)
    assert after.pop("seen once") == 1
    assert min(after.values()) >= 40
    assert [graph.relation_labels[i] for i in np.flatnonzero(drawn.exhausted)] == ["seen once"]


def test_relations_follow_their_targets(skewed: Path, tmp_path: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    settings = SamplingConfig(n_sets=1500, min_size=1, max_size=2, mean_size=1.5, round_size=100)
    targets = tmp_path / "targets.tsv"
    number = {label: f"P{place}" for place, label in enumerate(sorted({r for _, r, _ in towns()}), 1)}
    targets.write_text(
        f"# shares\n{number['capital']} 1\n{number['child']}\t3 twice as often\n{number['born on']},6\n\n"
    )
    counts = relation_counts(
        graph, draw_sets(settings.model_copy(update={"relation_target_file": str(targets)}), graph, seed=0)
    )
    assert sum(count == 0 for count in counts.values()) == len(counts) - 3, "what the file lacks is not drawn"
    assert counts["capital"] < counts["child"] < counts["born on"]

    uniform = relation_counts(graph, draw_sets(settings, graph, seed=0))
    factors = tmp_path / "factors.txt"
    factors.write_text(f"{number['child']} 3\n{number['capital']} 0\n")
    weighted = relation_counts(
        graph, draw_sets(settings.model_copy(update={"relation_factors": str(factors)}), graph, seed=0)
    )
    assert weighted["capital"] == 0
    assert weighted["child"] > 1.3 * uniform["child"]


def test_entities_with_a_factor_are_drawn_more_often(skewed: Path, tmp_path: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    settings = SamplingConfig(n_sets=1500, round_size=100, entity_alpha=1.0)
    wanted = [f"Q{number}" for number in (100, 200, 300)]
    factors = tmp_path / "factors.txt"
    factors.write_text("".join(f"{identifier} 4\n" for identifier in wanted))
    plain = draw_sets(settings, graph, seed=0).state.node_counts
    weighted = draw_sets(settings.model_copy(update={"entity_factors": str(factors)}), graph, seed=0).state.node_counts
    places = [graph.node_number(identifier) for identifier in wanted]
    assert weighted[places].sum() > 1.5 * plain[places].sum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P1 two\n", r"factors\.txt, line 1: 'P1 two' is not an id and a number"),
        ("P1 1\nP2 -3\n", r"factors\.txt, line 2"),
        ("P1 1\nP2\n", r"line 2: 'P2'"),
        ("# nothing\n", "holds no line"),
        ("P999 2\n", r"None of the 1 ids in .*factors\.txt is in the graph"),
    ],
)
def test_files_that_cannot_be_used_are_refused(skewed: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "factors.txt").write_text(text)
    config = SamplingConfig(n_sets=10, relation_factors=str(tmp_path / "factors.txt"))
    with pytest.raises((ConfigError, InputError), match=message):
        draw_sets(config, KnowledgeGraph.open(skewed), seed=0)
    with pytest.raises(ConfigError, match=r"Cannot read .*missing.*relation_factors"):
        draw_sets(config.model_copy(update={"relation_factors": "missing"}), KnowledgeGraph.open(skewed), seed=0)


def test_excluded_relations_and_types_occur_in_no_set() -> None:
    triples = towns()
    types = {f"person{i}": ["Q5"] for i in range(1, 400, 2)}
    graph = plain_graph(triples, types)
    config = SamplingConfig(n_sets=300, exclude_relations=["instance of"], exclude_types=["Q5"])
    sets = triplets_of(graph, draw_sets(config, graph, seed=0))
    assert {r for triplets in sets for _, r, _ in triplets} == {r for _, r, _ in triples} - {"instance of"}
    assert not {node for triplets in sets for t in triplets for node in entities_of(t)} & set(types)
    with pytest.raises(ConfigError, match=r"exclude_relations.*'nothing'"):
        draw_sets(SamplingConfig(exclude_relations=["nothing"]), graph, seed=0)


def test_a_triplet_and_its_inverse_come_together_only_if_wanted() -> None:
    triples = [t for i in range(30) for t in ((f"c{i}", "capital", f"t{i}"), (f"t{i}", "capital of", f"c{i}"))]
    triples += [
        t for i in range(30) for t in ((f"c{i}", "borders", f"c{i * 7 % 30}"), (f"c{i * 7 % 30}", "borders", f"c{i}"))
    ]
    triples += [(f"c{i}", "ally", f"t{i * 11 % 30}") for i in range(30)]
    graph = plain_graph(triples)

    def opposed(config: SamplingConfig) -> int:
        sets = triplets_of(graph, draw_sets(config, graph, seed=0))
        return sum((o, r, s) in triplets or (r == "capital" and (o, "capital of", s) in triplets)
                   for triplets in sets for s, r, o in triplets if s != o)  # fmt: skip

    config = SamplingConfig(n_sets=300, min_size=2, mean_size=4)
    assert opposed(config) == 0
    assert opposed(config.model_copy(update={"inverses": True})) > 30


def test_a_run_that_is_continued_draws_what_one_run_had_drawn(skewed: Path, tmp_path: Path) -> None:
    graph = KnowledgeGraph.open(skewed)
    config = SamplingConfig(n_sets=600, round_size=200)
    whole = draw_sets(config.model_copy(update={"n_sets": 1200}), graph, seed=5)
    first = draw_sets(config, graph, seed=5)
    first.state.save(tmp_path / "state.npz")
    second = draw_sets(config, graph, seed=5, earlier=CoverageState.load(tmp_path / "state.npz"))
    assert triplets_of(graph, first) + triplets_of(graph, second) == triplets_of(graph, whole)
    assert [*first.rounds, *second.rounds] == whole.rounds.tolist()


def test_the_stage_continues_sets_of_the_same_graph_only(skewed: Path, tmp_path: Path) -> None:
    config = SamplingConfig(n_sets=600, negative_share=0.05)
    sample_sets(config, skewed, tmp_path / "one", seed=5)
    more = config.model_copy(update={"continue_from": str(tmp_path / "one")})
    manifest = sample_sets(more, skewed, tmp_path / "two", seed=5)
    one, two = (pq.read_table(tmp_path / name / "sets.parquet").to_pylist() for name in ("one", "two"))
    assert [row["id"] for row in one + two] == list(range(1200))
    contents = [frozenset(tuple(t.values()) for t in row["triplets"]) for row in one + two if row["triplets"]]
    assert len(set(contents)) == len(contents) == 1140
    topics = [row["topic"] for row in one + two if row["topic"]]
    assert len(set(topics)) == len(topics) == 60
    report = json.loads((tmp_path / "two" / "coverage.json").read_text())
    assert report["sets"] == 570
    assert manifest.inputs["continue_from"]

    other = write_graph(tmp_path / "other" / "kg", towns(n_persons=40))
    with pytest.raises(ConfigError, match="not drawn from this graph"):
        sample_sets(more, other, tmp_path / "three", seed=5)
    with pytest.raises(ConfigError, match="writes to"):
        sample_sets(more, skewed, tmp_path / "one", seed=5)
    with pytest.raises(ConfigError, match="no finished sampling stage"):
        sample_sets(more.model_copy(update={"continue_from": str(skewed.parent)}), skewed, tmp_path / "three", seed=5)


def test_negative_sets_have_a_topic_and_no_triplet(skewed: Path, tmp_path: Path) -> None:
    config = SamplingConfig(n_sets=400, negative_share=0.2)
    sample_sets(config, skewed, tmp_path / "sets", seed=1)
    rows = pq.read_table(tmp_path / "sets" / "sets.parquet").to_pylist()
    negatives = [row for row in rows if row["strategy"] == "negative"]
    assert (len(rows), len(negatives)) == (400, 80)
    assert all(row["triplets"] == [] and row["topic"] in labels(KnowledgeGraph.open(skewed)) for row in negatives)
    assert all(row["triplets"] and row["topic"] is None for row in rows if row["strategy"] != "negative")
    assert Counter(row["split"] for row in negatives) == {"train": 72, "validation": 4, "test": 4}
    assert len({row["topic"] for row in negatives}) == 80
    assert [sum(row["topic"] is not None for row in rows[i : i + 100]) for i in range(0, 400, 100)] == [20] * 4


def test_sets_seldom_join_persons_who_share_only_a_country_or_a_class() -> None:
    triples = [(f"person{i}", "instance of", "human") for i in range(300)]
    triples += [(f"person{i}", "citizen of", f"country{i % 5}") for i in range(300)]
    triples += [(f"person{i}", "author of", f"book{10 * i + j}") for i in range(300) for j in range(4)]
    graph = plain_graph(triples)

    def joined(hub_degree: float | None) -> float:
        config = SamplingConfig(n_sets=600, mean_size=4.0, hub_degree=hub_degree)
        sets = triplets_of(graph, draw_sets(config, graph, seed=0))
        return sum(len({subject for subject, _, _ in triplets}) > 1 for triplets in sets) / len(sets)

    assert joined(0) < joined(8) < 0.1
    assert joined(None) > 0.4


def test_entities_with_a_single_triplet_share_their_sets() -> None:
    villages = [(f"village{i}", "instance of", "village") for i in range(400)]
    graph = plain_graph([*villages, *towns(n_persons=100)])
    config = SamplingConfig(n_sets=300, round_size=10)
    drawn = draw_sets(config, graph, seed=0)
    named = [sum("village" in s for s, _, _ in triplets) for triplets in triplets_of(graph, drawn)]
    assert sum(named) / sum(number > 0 for number in named) > 2


@pytest.mark.parametrize("held_out", ["sets", "triplets", "entities"])
def test_no_two_negative_sets_have_one_topic_whatever_split_run_or_seed(held_out: str) -> None:
    graph = plain_graph(towns(n_persons=200))
    config = SamplingConfig(n_sets=150, negative_share=0.3, held_out=held_out, test_share=0.3, validation_share=0.3)
    first = draw_sets(config, graph, seed=5)
    drawn = [first, draw_sets(config, graph, seed=6, earlier=first.state)]
    assert all(len(run) + len(run.topics) == 150 for run in drawn)
    topics = np.concatenate([run.topics for run in drawn])
    assert len(topics) == len(set(topics)) == 90
    if held_out == "entities":
        hubs = {node for node, degree in graph.in_degree() if degree > 8}
        for run in drawn:
            tested = {run.ids.nodes[node] for node in run.topics[run.topic_splits == SPLITS.index("test")]} - hubs
            sets = triplets_of(graph, run)
            trained = [s for s, split in zip(sets, run.splits, strict=True) if SPLITS[split] == "train"]
            assert tested
            assert not tested & {node for triplets in trained for t in triplets for node in entities_of(t)}


def test_each_held_out_triplet_has_an_entity_that_training_lacks() -> None:
    hubs = [(f"hub{i}", "borders", f"hub{j}") for i in range(12) for j in range(12) if i != j]
    graph = plain_graph([*hubs, *((f"leaf{i}", "in", f"hub{i % 12}") for i in range(300))])
    config = SamplingConfig(n_sets=300, held_out="entities", test_share=0.3, relation_share=0.3)
    drawn = draw_sets(config, graph, seed=1)
    sets = triplets_of(graph, drawn)
    tested = [t for triplets, split in zip(sets, drawn.splits, strict=True) if split == 2 for t in triplets]
    assert tested
    assert all(s.startswith("leaf") for s, _, _ in tested)


def test_a_relation_that_one_split_exhausts_is_drawn_in_the_others() -> None:
    """Test may use half of a relation's triplets, and validation none that test has taken."""
    graph = plain_graph([*towns(n_persons=100), *((f"a{i}", "seldom", f"b{i}") for i in range(5))])
    config = SamplingConfig(n_sets=600, held_out="triplets", test_share=0.3, max_size=1, mean_size=1.0, round_size=50)
    drawn = draw_sets(config, graph, seed=0)
    of_seldom = [split for (t,), split in zip(triplets_of(graph, drawn), drawn.splits, strict=True) if t[1] == "seldom"]
    assert Counter(of_seldom)[SPLITS.index("train")] >= 3
    assert sum(Counter(of_seldom).values()) == 5


def test_a_floor_that_a_rare_relation_cannot_reach_does_not_end_the_drawing() -> None:
    graph = plain_graph([*((f"a{i}", "many", f"b{i % 50}") for i in range(300)), ("x", "once", "y")])
    drawn = draw_sets(SamplingConfig(n_sets=2000, relation_floor=900, round_size=100), graph, seed=0)
    assert len(drawn) == 2000
    assert [drawn.ids.relations[i] for i in np.flatnonzero(drawn.exhausted)] == ["once"]


def test_a_relation_that_seldom_starts_a_set_is_not_given_up() -> None:
    """One in ten of its triplets has a second one beside it."""
    pairs = [(f"a{i}", "rare", f"b{i}") for i in range(100)]
    more = [(f"b{i}", "next", f"c{i}_{j}") for i in range(0, 100, 10) for j in range(10)]
    graph = plain_graph([*pairs, *more, *towns(n_persons=60)])
    config = SamplingConfig(
        n_sets=300, min_size=2, mean_size=2.5, max_size=3, round_size=2, relation_floor=60, entity_alpha=0.0
    )
    drawn = draw_sets(config, graph, seed=0)
    counts = dict(zip(drawn.ids.relations, drawn.state.relation_counts.tolist(), strict=True))
    assert counts["rare"] >= 60
    assert not drawn.exhausted[drawn.ids.relations.index("rare")]


@pytest.mark.parametrize("held_out", ["triplets", "entities"])
def test_what_earlier_runs_did_not_hold_out_is_in_no_later_test_split(held_out: str) -> None:
    graph = plain_graph(towns(n_persons=300))
    first = draw_sets(SamplingConfig(n_sets=60), graph, seed=0)
    before = {t for triplets in triplets_of(graph, first) for t in triplets}
    config = SamplingConfig(n_sets=100, held_out=held_out, test_share=0.2)
    second = draw_sets(config, graph, seed=0, earlier=first.state)
    tested = [
        t for triplets, split in zip(triplets_of(graph, second), second.splits, strict=True) if split for t in triplets
    ]
    assert tested
    assert not before & set(tested)
    if held_out == "entities":
        hubs = {node for node, degree in graph.in_degree() if degree > 8}
        seen = {node for t in before for node in entities_of(t)} - hubs
        assert not seen & {node for t in tested for node in entities_of(t)}


@pytest.mark.parametrize(("earlier", "now"), [("triplets", "sets"), ("triplets", "entities"), ("entities", "sets")])
def test_a_run_that_would_train_on_earlier_test_splits_is_refused(earlier: str, now: str) -> None:
    graph = plain_graph(towns(n_persons=100))
    state = draw_sets(SamplingConfig(n_sets=60, held_out=earlier), graph, seed=0).state
    with pytest.raises(ConfigError, match=rf"held_out: {earlier}'.*Set it to '{earlier}'"):
        draw_sets(SamplingConfig(n_sets=60, held_out=now), graph, seed=0, earlier=state)


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, 2**70, -1])
def test_any_whole_number_is_a_seed(skewed: Path, seed: int) -> None:
    graph = KnowledgeGraph.open(skewed)
    config = SamplingConfig(n_sets=50, negative_share=0.1)
    compiled, reference = draw_sets(config, graph, seed=seed), draw_sets(config, graph.to_networkx(), seed=seed)
    assert np.array_equal(compiled.edges, reference.edges)
    assert np.array_equal(compiled.topics, reference.topics)


@pytest.mark.parametrize(
    ("triples", "sets"),
    [
        ([("a", "r", "b")], 1),
        ([("a", "r", "a")], 1),
        ([("a", "r", "a"), ("a", "q", "a"), ("b", "r", "b")], 4),
        ([("a", "r", "string:1")], 1),
    ],
)
def test_the_smallest_graphs_give_all_their_sets(triples: list[Triple], sets: int) -> None:
    assert len(draw_sets(SamplingConfig(n_sets=20), plain_graph(triples), seed=0)) == sets


@pytest.mark.parametrize("triples", [[], [("string:a", "r", "string:b")]])
def test_a_graph_without_triplets_of_entities_is_refused(triples: list[Triple]) -> None:
    with pytest.raises(InputError, match=r"0 triplets|not one connected set"):
        draw_sets(SamplingConfig(), plain_graph(triples), seed=0)


@pytest.mark.parametrize("option", ["stay", "cycles", "entity_alpha", "relation_alpha"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 1e300, -1.0])
def test_weights_stay_numbers(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        SamplingConfig(**{option: value})


def test_ids_that_the_graph_does_not_have_are_told(
    skewed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    targets, factors = tmp_path / "targets", tmp_path / "factors"
    targets.write_text("P1 1\nP999 2\n")
    factors.write_text("Q1 2\nstring:1800 3\nQ999999 2\n")
    config = SamplingConfig(
        n_sets=20, exclude_types=["Q77"], relation_target_file=str(targets), entity_factors=str(factors)
    )
    draw_sets(config, KnowledgeGraph.open(skewed), seed=0)
    for message in (
        f"1 of the 2 ids in {targets}",
        f"1 of the 3 ids in {factors}",
        "No entity of the graph is an inst",
    ):
        assert message in caplog.text


def test_the_content_of_a_folder_of_sizes_is_an_input_not_its_place(skewed: Path, tmp_path: Path) -> None:
    for name, sizes in (("one", [1, 2]), ("same", [1, 2]), ("other", [3])):
        (tmp_path / name).mkdir()
        pq.write_table(
            pa.table({"triplets": [[{"subject": "a"}] * size for size in sizes]}), tmp_path / name / "a.parquet"
        )

    def sample(name: str) -> bool:
        config = SamplingConfig(n_sets=20, sizes="like", sizes_from=str(tmp_path / name))
        return sample_sets(config, skewed, tmp_path / "sets", seed=0).reused

    assert [sample(name) for name in ("one", "same", "other")] == [False, True, False]


def test_a_damaged_state_is_refused(skewed: Path, tmp_path: Path) -> None:
    draw_sets(SamplingConfig(n_sets=200), KnowledgeGraph.open(skewed), seed=0).state.save(tmp_path / "state.npz")
    content = (tmp_path / "state.npz").read_bytes()
    for place in range(0, len(content), len(content) // 60):
        (tmp_path / "state.npz").write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with suppress(ConfigError):
            CoverageState.load(tmp_path / "state.npz")
    (tmp_path / "state.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="Cannot continue from"):
        CoverageState.load(tmp_path / "state.npz")


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


@pytest.mark.parametrize(("mean", "ratio"), [(3.5, 1.0), (2.0, None), (5.9, None)])
def test_geometric_sizes_fall_by_a_constant_ratio(mean: float, ratio: float | None) -> None:
    sizes = np.arange(1, 7)
    probabilities = size_distribution(SamplingConfig(sizes="geometric", mean_size=mean))
    assert probabilities @ sizes == pytest.approx(mean, abs=1e-6)
    ratios = probabilities[1:] / probabilities[:-1]
    assert ratios == pytest.approx(np.full(5, ratios[0]))
    assert ratio is None or ratios[0] == pytest.approx(ratio)


@pytest.mark.parametrize("form", ["sizes.jsonl", "sizes.jsonl.gz", "sizes.parquet", "folder"])
def test_sizes_like_those_of_a_data_set(tmp_path: Path, form: str) -> None:
    records = [{"triplets": [{"subject": "a"}] * size} for size in (1, 2, 2, 4, 9)]
    path = tmp_path / form
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    if form == "folder":
        path.mkdir()
    if form.startswith("sizes.jsonl"):
        path.write_bytes(gzip.compress(lines) if form.endswith("gz") else lines)
    else:
        pq.write_table(pa.Table.from_pylist(records), path / "part.parquet" if form == "folder" else path)
    probabilities = size_distribution(SamplingConfig(sizes="like", sizes_from=str(path), max_size=5))
    assert probabilities.tolist() == [0.25, 0.5, 0.0, 0.25, 0.0]


def test_sizes_that_cannot_be_taken_from_a_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sizes.jsonl").write_text('{"triplets": [1]}\n{"text": "none"}\n')
    for path in (tmp_path / "sizes.jsonl", tmp_path / "missing.parquet", tmp_path):
        with pytest.raises(ConfigError, match="Cannot take set sizes from"):
            size_distribution(SamplingConfig(sizes="like", sizes_from=str(path)))


def test_codes_of_counts_grow_with_the_counts_and_weights_fall() -> None:
    counts = np.array([0, 1, 127, 128, 143, 144, 1000, 5000, 70_000, 1_000_000, 2**40])
    codes = count_codes(counts)
    assert codes[:4].tolist() == [0, 1, 127, 128]
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert codes.max() < CLOSED
    table = node_weight_table(2.0, 1 << 60)
    assert table[codes[:10]] == pytest.approx((1.0 + counts[:10]) ** -2.0, rel=0.3)
    assert table[CLOSED] == 0
    capped = node_weight_table(2.0, 3)
    assert capped[:6].tolist() == [1.0, 1 / 4, 1 / 9, 1 / 16, 1 / 16, 1 / 16]


def test_drawn_sizes_have_the_mean_of_the_settings(skewed: Path) -> None:
    drawn = draw_sets(SamplingConfig(n_sets=3000, mean_size=3.34), KnowledgeGraph.open(skewed), seed=0)
    assert np.diff(drawn.offsets).mean() == pytest.approx(3.34, abs=0.1)


@graph_property
@given(
    triples=small_graphs, config=any_config, shares=st.sampled_from([(0.0, 0.0), (0.1, 0.2), (0.3, 0.3), (0.0, 0.5)])
)
def test_splits_have_exact_shares_and_training_has_every_relation_it_can(
    triples: list[Triple], config: SamplingConfig, shares: tuple[float, float]
) -> None:
    graph = plain_graph(triples)
    new = {"min_size": 1, "validation_share": shares[0], "test_share": shares[1], "held_out": "sets", "cycles": 1.0}
    drawn = draw_sets(config.model_copy(update=new), graph, seed=3)
    splits = drawn.splits
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
        assert row["sets"] == sum(row.get(split, 0) for split in SPLITS)
    assert (folder / "coverage.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "coverage_state.npz") as state:
        assert state["edge_counts"].sum() == sum(map(len, sets))
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
