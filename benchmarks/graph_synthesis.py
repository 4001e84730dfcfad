"""A knowledge graph of any size, made up in the likeness of Wikidata, for benchmarks to sample from.

    python benchmarks/graph_synthesis.py [FOLDER] [--scale 1] [--seed 0]

writes a graph that `kg.graph.KnowledgeGraph.open` takes and prints its degrees. At scale 1 it has the size of the graph
that SynthIE was drawn from: 2.7 million entities, 888 relations, 15 million triples; ``--scale 0.1`` gives a tenth of
the entities and triples, with all relations.

What is kept of Wikidata, because a sampler feels it:

* Every entity is of one of 1,000 kinds, whose sizes follow a power law; a kind uses a few dozen relations of its own
  and some that most kinds use. How often each kind uses each is fitted so that relations follow Zipf's law: the most
  frequent one has two million triples, the 888th about 2,200.
* The most frequent relation is "instance of": most entities are the subject of one triple of it, and its objects are
  the 1,000 kinds, so one entity has half a million in-edges.
* The objects of every other relation come from one kind, by a power law of the relation's own: half of the relations
  have 20 to 1,000 objects (countries, occupations, genders), the others any of the kind.
* One entity in 16 occurs only as an object; one in 12 has nothing but its "instance of". The other out-degrees are
  lognormal, up to 60. Every entity has a triple. There are no literals.

Degrees at scale 1, at the quantiles 1, 25, 50, 75, 99, 99.99 and 100%:

    out-degree   0  2  4  7  26     55       60      6% have none
    in-degree    0  0  0  1  69  3,044  476,895     60% have none

All but one entity in 5,000 hang together.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from graph import GREATEST_ITEM, node_tables

from kg.graph import KnowledgeGraph
from kg.stage import run_stage
from kg.tables import RELATION_SCHEMA, Triples, unique_triples, write_graph_files

__all__ = ["relation_table", "write_graph"]

ENTITIES, RELATIONS, TRIPLES = 2_700_000, 888, 15_000_000
KINDS, KIND_EXPONENT = 1_000, 1.2
CLASSES = 1  # the kind whose first entities are the classes, one a kind
OBJECTS_ONLY, INSTANCES_ONLY = 1 / 16, 1 / 12  # of the entities
GREATEST_OUT_DEGREE, SPREAD = 60, 0.8  # of the lognormal out-degrees
SPARE = 1.08  # so many triples are drawn for one that is kept, since some are drawn twice
COMMON_RELATIONS = 20  # which half of the kinds use
FITTINGS = 60


def write_graph(folder: Path, scale: float = 1.0, seed: int = 0) -> None:
    """Write the graph of this scale and seed, unless it is there."""

    def work(place: Path) -> dict[str, int]:
        random = np.random.default_rng(seed)
        entities = round(ENTITIES * scale)
        triples = _draw_triples(random, entities, round(TRIPLES * scale))
        numbers = np.sort(random.choice(GREATEST_ITEM, entities, replace=False) + 1).astype(np.int32)
        ids = [f"P{number + 1}" for number in range(RELATIONS)]
        relations = relation_table(ids, [f"relation {number}" for number in range(RELATIONS)], triples)
        write_graph_files(node_tables(numbers, entities), relations, triples, numbers, place)
        return {}

    run_stage("kg", folder, config={"scale": scale}, inputs={}, seed=seed, work=work)


def _draw_triples(random: np.random.Generator, entities: int, wanted: int) -> Triples:
    """Entities are numbered kind by kind while triples are drawn, the popular ones of a kind first."""
    sizes = _kind_sizes(entities)
    kinds = np.repeat(np.arange(KINDS), sizes)
    degrees, instances = _out_degrees(random, entities, round(wanted * SPARE))
    subjects = np.repeat(np.arange(entities, dtype=np.int32), degrees)
    relations = _draw_relations(random, kinds, degrees)
    objects = _draw_objects(random, relations, sizes)
    _give_each_an_in_edge(random, np.flatnonzero((degrees == 0) & ~instances), objects)
    first = np.cumsum(sizes) - sizes
    instances = np.flatnonzero(instances).astype(np.int32)
    name = random.permutation(entities).astype(np.int32)
    triples = Triples(
        name[np.concatenate([instances, subjects])],
        np.concatenate([np.zeros(len(instances), np.int32), relations]),
        name[np.concatenate([(first[CLASSES] + kinds[instances]).astype(np.int32), objects])],
        random.random(len(instances) + len(subjects)) < 0.05,
    )
    return _trimmed(random, unique_triples(triples), wanted)


def _kind_sizes(entities: int) -> np.ndarray:
    """int64[KINDS]: entities of each kind, one at least; they sum up to ``entities``."""
    shares = np.arange(1.0, KINDS + 1) ** -KIND_EXPONENT
    sizes = np.maximum(1, entities * shares / shares.sum()).astype(np.int64)
    sizes[0] += entities - sizes.sum()
    return sizes


def _out_degrees(random: np.random.Generator, entities: int, triples: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each entity: number of its triples without that of "instance of", and whether it has one of that."""
    role = random.random(entities)
    alone = role < INSTANCES_ONLY
    free = role >= INSTANCES_ONLY + OBJECTS_ONLY
    of_instances = _zipf_shares()[0] * triples / SPARE
    instances = alone | (free & (random.random(entities) < (of_instances - alone.sum()) / free.sum()))
    drawn = random.lognormal(0.0, SPREAD, entities)
    drawn *= (triples - instances.sum()) / drawn[free].sum() * 1.02  # as much as clipping takes away
    degrees = np.where(free, np.clip(np.rint(drawn), 1, GREATEST_OUT_DEGREE - 1), 0).astype(np.int64)
    return degrees, instances


def _zipf_shares() -> np.ndarray:
    shares = 1.0 / np.arange(1, RELATIONS + 1)
    return shares / shares.sum()


def _draw_relations(random: np.random.Generator, kinds: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """int32[triples]: the relation of each triple, in the order of the subjects."""
    per_kind = np.bincount(kinds, weights=degrees, minlength=KINDS).astype(np.int64)
    shares = _relation_shares(random, per_kind)
    drawn = [
        1 + np.searchsorted(np.cumsum(of_kind)[:-1], random.random(count)).astype(np.int32)
        for of_kind, count in zip(shares, per_kind, strict=True)
    ]
    return np.concatenate(drawn)


def _relation_shares(random: np.random.Generator, per_kind: np.ndarray) -> np.ndarray:
    """float64[KINDS, RELATIONS - 1]: how often the subjects of a kind use each relation but the first.

    Rows and columns of random affinities are scaled in turn until rows sum up to 1 and columns to Zipf's law
    (R. Sinkhorn, "A relationship between arbitrary positive matrices and doubly stochastic matrices", 1964).
    """
    wanted = _zipf_shares()[1:]
    wanted = wanted / wanted.sum() * per_kind.sum()
    affinity = np.zeros((KINDS, RELATIONS - 1))
    attraction = np.sqrt(per_kind + 1.0)
    for relation in range(RELATIONS - 1):
        order = np.argsort(random.exponential(size=KINDS) / attraction)
        enough = 1 + np.searchsorted(np.cumsum(per_kind[order]), 4 * wanted[relation])
        breadth = KINDS // 2 if relation < COMMON_RELATIONS else int(200 ** random.random())
        chosen = order[: max(enough, breadth)]
        affinity[chosen, relation] = random.lognormal(0.0, 1.0, len(chosen))
    affinity[:, 0] += 0.1  # no kind is without a relation
    rows = np.maximum(per_kind, 1e-9)
    for _ in range(FITTINGS):
        affinity *= wanted / affinity.sum(axis=0)
        affinity *= (rows / affinity.sum(axis=1))[:, None]
    return affinity / affinity.sum(axis=1, keepdims=True)


def _draw_objects(random: np.random.Generator, relations: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int32[triples]: the object of each triple, one of the kind that its relation points to."""
    first = np.cumsum(sizes) - sizes
    objects = np.empty(len(relations), np.int32)
    order = np.argsort(relations.astype(np.int16), kind="stable")
    attraction = np.sqrt(sizes)
    for rows in np.split(order, np.cumsum(np.bincount(relations, minlength=RELATIONS))[:-1]):
        kind = random.choice(KINDS, p=attraction / attraction.sum())
        greatest = sizes[kind] if random.random() < 0.5 else min(sizes[kind], int(20 * 50 ** random.random()))
        objects[rows] = first[kind] + _power_law(random, greatest, random.uniform(0.3, 0.95), len(rows))
    return objects


def _power_law(random: np.random.Generator, size: int, exponent: float, count: int) -> np.ndarray:
    """int32[count]: numbers below ``size``, number r about (r + 1) ** -exponent as often as 0."""
    rest = 1 - exponent
    drawn = (random.random(count) * ((size + 1.0) ** rest - 1) + 1) ** (1 / rest) - 1
    return np.minimum(drawn, size - 1).astype(np.int32)


def _give_each_an_in_edge(random: np.random.Generator, nodes: np.ndarray, objects: np.ndarray) -> None:
    """Let each of these be the object of a triple drawn at random."""
    objects[random.choice(len(objects), len(nodes), replace=False)] = nodes


def _trimmed(random: np.random.Generator, triples: Triples, wanted: int) -> Triples:
    """As many triples as are wanted; each entity's first one as subject and as object stays."""
    stays = np.zeros(len(triples), bool)
    for column in (triples.subject, triples.object):
        stays[np.unique(column, return_index=True)[1]] = True
    dropped = random.choice(np.flatnonzero(~stays), len(triples) - wanted, replace=False)
    kept = np.ones(len(triples), bool)
    kept[dropped] = False
    return Triples(triples.subject[kept], triples.relation[kept], triples.object[kept], triples.preferred[kept])


def relation_table(ids: Sequence[str], labels: Sequence[str], triples: Triples) -> pa.Table:
    """The table of the relations of these ids, by number, as far as triples tell."""
    rows = [
        {"id": identifier, "label": label, "description": "", "aliases": [], "datatype": "", "count": count}
        for identifier, label, count in zip(
            ids, labels, np.bincount(triples.relation, minlength=len(ids)).tolist(), strict=True
        )
    ]
    return pa.Table.from_pylist(rows, RELATION_SCHEMA)


def describe(graph: KnowledgeGraph) -> list[str]:
    """Lines about the graph's size, degrees and relations."""
    from kg import algorithms

    counts = np.sort(np.bincount(graph.out_relations))[::-1]
    components = np.bincount(algorithms.weak_components(graph))
    lines = [
        f"{graph.node_count:,} nodes, {graph.relation_count:,} relations, {graph.triple_count:,} triples; "
        f"the largest component has {components.max() / graph.node_count:.2%} of the nodes",
        f"triples a relation: {counts[0]:,} at most, {int(np.median(counts)):,} in the middle, {counts[-1]:,} at least",
    ]
    for name, offsets in (("out-degree", graph.out_offsets), ("in-degree", graph.in_offsets)):
        degrees = np.diff(offsets)
        quantiles = np.quantile(degrees, (0.01, 0.25, 0.5, 0.75, 0.99, 0.9999, 1)).astype(int).tolist()
        lines.append(f"{name}: {'  '.join(f'{value:,}' for value in quantiles)}; none {np.mean(degrees == 0):.1%}")
    return lines


def main() -> None:
    """Write the graph, and print what it is like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where to; nothing is kept without one")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        before = time.perf_counter()
        write_graph(folder, options.scale, options.seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        print(f"{time.perf_counter() - before:.0f} s, peak {peak:,.0f} MB")
        print(*describe(KnowledgeGraph.open(folder)), sep="\n")


if __name__ == "__main__":
    main()
