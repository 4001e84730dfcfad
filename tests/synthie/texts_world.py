"""A small world for tests of the texts stage: a graph, sixty sets of triplets, and how to generate and read texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful

from kg.build import build_graph
from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from kg.stage import Manifest, run_stage
from synthie.config import GenerationConfig, QualityConfig
from synthie.generate import generate_texts

TOWNS = ("Ulm", "Bern", "Graz", "Lille", "Turin", "Porto", "Delft", "Uppsala", "Aarhus", "Krakow")
FIRST = ("Ada", "Bruno", "Clara", "Dmitri", "Elena", "Fritz", "Greta", "Hugo", "Ines", "Jakob")
LAST = ("Weiss", "Rossi", "Moreau", "Novak", "Larsen", "Silva", "Bakker", "Keller", "Duarte", "Lindholm")
SETS = 60


def entity(number: int, label: str, claims: dict[str, list[int]]) -> dict[str, Any]:
    def statement(relation: str, target: int) -> dict[str, Any]:
        value = {
            "type": "wikibase-entityid",
            "value": {"entity-type": "item", "numeric-id": target, "id": f"Q{target}"},
        }
        snak = {"snaktype": "value", "property": relation, "datatype": "wikibase-item", "datavalue": value}
        return {"mainsnak": snak, "rank": "normal", "type": "statement"}

    return {
        "type": "item",
        "id": f"Q{number}",
        "labels": {"en": {"language": "en", "value": label}},
        "descriptions": {},
        "aliases": {},
        "claims": {name: [statement(name, target) for target in targets] for name, targets in claims.items()},
        "sitelinks": {"enwiki": {"site": "enwiki", "title": label}},
    }


def relation(name: str, label: str) -> dict[str, Any]:
    return {
        "type": "property",
        "id": name,
        "datatype": "wikibase-item",
        "labels": {"en": {"language": "en", "value": label}},
        "descriptions": {"en": {"language": "en", "value": f"meaning of {label}"}},
        "aliases": {},
        "claims": {},
    }


def dump_lines() -> Iterator[dict[str, Any]]:
    yield relation("P19", "place of birth")
    yield relation("P20", "place of death")
    for number, town in enumerate(TOWNS):
        yield entity(100 + number, town, {})
    for number in range(SETS):
        name = f"{FIRST[number % 10]} {LAST[(number // 10 + number) % 10]}"
        claims = {"P19": [100 + number % 10], "P20": [100 + (number * 7 + 3) % 10]}
        yield entity(1_000 + number, name, claims)


def make_world(folder: Path) -> Path:
    """Make a small graph under ``kg`` and `SETS` sets of one or two triplets under ``sets``; returns the folder."""
    dump = folder / "dump.json"
    dump.write_text("[\n" + ",\n".join(map(json.dumps, dump_lines())) + "\n]\n")
    build_graph(GraphConfig(dump=str(dump)), folder / "kg")
    graph = KnowledgeGraph.open(folder / "kg")
    rows = []
    for number in range(SETS):
        person = f"Q{1_000 + number}"
        triplets = [{"subject": s, "relation": r, "object": o} for s, o, r in graph.out_edges(person, keys=True)]
        split = ("train", "train", "test")[number % 3]
        rows.append({"id": number, "triplets": triplets[: 1 + number % 2], "split": split})

    def write(target: Path) -> dict[str, Any]:
        table = pa.Table.from_pylist(rows).append_column("round", pa.array([0] * SETS, pa.int32()))
        pq.write_table(table.append_column("strategy", pa.array(["entity"] * SETS)), target / "sets.parquet")
        return {}

    run_stage("sets", folder / "sets", config={}, inputs={}, seed=0, work=write)
    return folder


TOPICS = {SETS + number: f"Q{100 + number}" for number in range(len(TOWNS))}


def write_sets_with_negatives(world: Path, folder: Path, **odd: Any) -> Path:
    """The sets of ``world``, then a negative about each town, changed as told; returns the folder."""
    table = pq.read_table(world / "sets" / "sets.parquet")
    negative = {"triplets": [], "split": "train", "round": 0, "strategy": "negative"}
    rows = [*table.to_pylist(), *(negative | {"id": number, "topic": topic} | odd for number, topic in TOPICS.items())]

    def write(target: Path) -> dict[str, Any]:
        schema = table.schema.append(pa.field("topic", pa.string()))
        pq.write_table(pa.Table.from_pylist(rows, schema), target / "sets.parquet")
        return {}

    run_stage("sets", folder, config={}, inputs={}, seed=1, work=write)
    return folder


def remark_or_facts(seen: Seen) -> Reply:
    """What `faithful` answers, or a remark on the topic; Ulm's states a fact, Bern's forgets the name."""
    _, is_negative, topic = seen.body["messages"][-1]["content"].rpartition("Topic: ")
    if not is_negative:
        return faithful(seen)
    return Reply(
        {"Ulm": "I heard that Ulm lies near Graz.", "Bern": "I like it there."}.get(topic, f"Who likes {topic}?")
    )


def asked(seen: Seen) -> str:
    """The triplets of a request, as its prompt lists them."""
    return seen.body["messages"][-1]["content"].split("\n\n")[-1]


def settings(server: ScriptedEndpoint, **options: Any) -> GenerationConfig:
    return GenerationConfig(**{"base_url": server.base_url, "model": "gpt-4o-mini", "max_attempts": 2, **options})


def generate(world: Path, folder: Path, config: GenerationConfig, *, max_usd: float = 1.0, **quality: Any) -> Manifest:
    return generate_texts(
        config, QualityConfig(**quality), world / "kg", world / "sets", folder, seed=0, max_usd=max_usd
    )


def rows(folder: Path, name: str = "samples") -> list[dict[str, Any]]:
    return [row for path in sorted((folder / name).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
