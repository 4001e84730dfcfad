"""A small graph and data set for the extractor's tests, in the layout of the stages that make them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kg.stage import run_stage
from synthie.records import SAMPLE_SCHEMA

PEOPLE = {f"Q{number}": name for number, name in enumerate(("Ada_Lovelace", "Alan_Turing", "Emmy_Noether"), 10)}
PLACES = {
    f"Q{number}": name for number, name in enumerate(("Ulm", "Ulm_Hauptbahnhof", "New_York", "New_York_City"), 20)
}
DATES = {f"date:{day} March 1879": f"{day} March 1879" for day in (1, 14)}
NODES = PEOPLE | PLACES | DATES
RELATIONS = {"P19": "place of birth", "P20": "place of death", "P569": "date of birth"}
_REMARKS = ("Who does not like {}?", "I often think of {}.", "Maybe {} is overrated, maybe not.")
_PHRASES = {"P19": "{} was born in {}.", "P20": "{} died in {}.", "P569": "{} was born on {}."}


def write_graph(folder: Path) -> Path:
    """The graph stage's folder, as far as the extractor reads it."""

    def work(folder: Path) -> dict[str, Any]:
        numbers = {node: number for number, node in enumerate(NODES)}
        kinds = ["date" if node in DATES else "entity" for node in NODES]
        nodes = {"id": list(NODES), "name": list(NODES.values()), "kind": kinds}
        pq.write_table(pa.table(nodes), folder / "nodes.parquet")
        triples = [
            {"subject": numbers[person], "relation": number, "object": numbers[target]}
            for number, relation in enumerate(RELATIONS)
            for person in PEOPLE
            for target in (DATES if relation == "P569" else PLACES)
        ]
        of_numbers = pa.schema([(name, pa.int32()) for name in ("subject", "relation", "object")])
        pq.write_table(pa.Table.from_pylist(triples, of_numbers), folder / "triples.parquet")
        relations = {"id": list(RELATIONS), "label": list(RELATIONS.values())}
        pq.write_table(pa.table(relations), folder / "relations.parquet")
        return {}

    run_stage("kg", folder, config={}, inputs={}, seed=None, work=work)
    return folder


def write_dataset(folder: Path, sizes: dict[str, int], *, negative_every: int | None = None) -> Path:
    """The dataset stage's folder with that many records in each split, every so many of them without triplets."""
    draw = random.Random(0)

    def record(number: int, split: str) -> dict[str, Any]:
        if negative_every and number % negative_every == 0:
            text = draw.choice(_REMARKS).format(draw.choice(list((PEOPLE | PLACES).values())).replace("_", " "))
            return {"id": number, "split": split, "text": text, "triplets": []}
        person = draw.choice(list(PEOPLE))
        facts = [
            (person, relation, draw.choice(list(DATES if relation == "P569" else PLACES)))
            for relation in draw.sample(list(RELATIONS), draw.randint(1, 2))
        ]
        return {
            "id": number,
            "split": split,
            "text": " ".join(
                _PHRASES[relation].format(NODES[subject], NODES[target]).replace("_", " ")
                for subject, relation, target in facts
            ),
            "triplets": [
                {
                    "subject": {"surfaceform": NODES[subject], "uri": subject},
                    "predicate": {"surfaceform": RELATIONS[relation], "uri": relation},
                    "object": {"surfaceform": NODES[target], "uri": target},
                }
                for subject, relation, target in facts
            ],
        }

    def work(folder: Path) -> dict[str, Any]:
        (folder / "data").mkdir()
        schema = pa.schema([SAMPLE_SCHEMA.field(name) for name in ("id", "split", "text", "triplets")])
        for split, size in sizes.items():
            rows = [record(number, split) for number in range(size)]
            pq.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / f"{split}-00000-of-00001.parquet")
        return {}

    run_stage("dataset", folder, config=dict(sizes), inputs={}, seed=0, work=work)
    return folder
