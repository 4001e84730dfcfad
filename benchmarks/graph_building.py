"""Memory and time of joining what an ingest has found into a graph.

    python benchmarks/graph_building.py [--nodes 2.7] [--triples 15]

Writes the parts of an ingest with made-up entities and statements, as many as
give a graph of that size (in millions; the defaults are the size of the graph
that SynthIE was drawn from), and joins them in a new process: its peak of
resident memory and its seconds, beside the size of the files that it wrote.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.config import GraphConfig
from kg.wikidata.ingest import PARTS, Segment
from kg.wikidata.join import join_parts

MILLION = 1_000_000
SLICES = 64
RELATIONS = 800
LITERAL_NODES = 0.15  # of all nodes
LITERAL_TRIPLES = 0.13  # of all triples
LOST = 0.1  # of the statements: the object is not kept
WORDS = np.array(
    [first + last for first in ("Ba", "De", "Fi", "Go", "Lu", "Ma", "Ne", "Ro") for last in ("berg", "ton")]
)


class Parts:
    """Writes the parts of an ingest slice by slice.

    Args:
        folder: where they go.
        nodes, triples: of the graph that they give, about.
    """

    def __init__(self, folder: Path, nodes: int, triples: int) -> None:
        self._folder = folder
        self._draw = np.random.default_rng(0)
        self._entities = round(nodes * (1 - LITERAL_NODES))
        self._literals = nodes - self._entities
        self._items = round(triples * (1 - LITERAL_TRIPLES) / (1 - LOST))
        self._values = round(triples * LITERAL_TRIPLES)
        # Items come in no order, and every ninth number of an item is one that is not kept.
        self._numbers = self._draw.permutation(np.arange(1, self._entities + 1, dtype=np.int32) * 9)

    def write(self) -> None:
        for number, rows in enumerate(np.array_split(np.arange(self._entities), SLICES)):
            self._write_slice(number, self._numbers[rows])

    def _write_slice(self, number: int, entities: np.ndarray) -> None:
        segment = Segment(last=True)
        segment.documents["entities"] = len(entities)
        self._write(number, "entities", self._names(entities))
        self._write(number, "items", self._item_claims(len(entities)))
        self._write(number, "literals", self._literal_claims(len(entities)))
        for kind in PARTS.keys() - {"entities", "items", "literals"}:
            self._write(number, kind, {})
        (self._folder / f"{number:06}-000.json").write_bytes(msgspec.json.encode(segment))

    def _write(self, number: int, kind: str, columns: dict[str, Any]) -> None:
        rows = max((len(column) for column in columns.values()), default=0)
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
            for field in PARTS[kind]
        ]
        pq.write_table(pa.table(arrays, schema=PARTS[kind]), self._folder / f"{number:06}-000.{kind}.parquet")

    def _names(self, numbers: np.ndarray) -> dict[str, Any]:
        """About 60 characters of text an entity; one in twenty shares its label with others."""
        count = len(numbers)
        shared = self._draw.random(count) < 0.05
        words = self._draw.choice(WORDS, (2, count))
        suffix = np.where(shared, "", np.char.add(" ", numbers.astype(str)))
        labels = np.char.add(np.char.add(np.char.add(words[0], " "), words[1]), suffix)
        return {
            "number": numbers,
            "revision": numbers.astype(np.int64),
            "checksum": numbers.astype(np.uint32),
            "title": np.where(self._draw.random(count) < 0.5, labels, ""),
            "label": labels,
            "description": np.char.add("something from the town of ", words[1]),
            "aliases": [[alias] if one else [] for alias, one in zip(words[0].tolist(), shared.tolist(), strict=True)],
            "types": [[9 * kind] for kind in self._draw.integers(1, 500, count).tolist()],
        }

    def _item_claims(self, entities: int) -> dict[str, Any]:
        count = round(self._items / SLICES)
        # Half of the statements point to a few hubs, as Wikidata's do.
        uniform = self._draw.random(count) * self._entities
        hubs = self._entities ** self._draw.random(count)
        target = np.where(self._draw.random(count) < 0.5, uniform, hubs).astype(np.int32) % self._entities + 1
        lost = self._draw.random(count) < LOST
        return self._claims(count, entities) | {"object": 9 * target + lost}

    def _literal_claims(self, entities: int) -> dict[str, Any]:
        count = round(self._values / SLICES)
        number = self._draw.integers(0, self._literals, count)
        text = np.char.add(number.astype(str), ".25")
        return self._claims(count, entities) | {
            "datatype": np.full(count, "quantity"),
            "kind": np.full(count, "quantity"),
            "text": text,
            "unit": np.zeros(count, np.int32),
            "value": np.char.add(np.char.add('{"amount":"+', text), '","unit":"1"}'),
        }

    def _claims(self, count: int, entities: int) -> dict[str, Any]:
        return {
            "document": np.sort(self._draw.integers(0, entities, count)).astype(np.int32),
            "property": (RELATIONS ** self._draw.random(count)).astype(np.int32),
            "preferred": self._draw.random(count) < 0.02,
        }


def join(parts: Path, graph: Path) -> tuple[dict[str, Any], float, float, float]:
    """Join the parts; counts of the graph, seconds, MB resident before and at most. For a new process."""
    before = _peak_megabytes()
    clock = time.perf_counter()
    counts = join_parts(GraphConfig(entities="labelled"), parts, SLICES, {}, graph)
    return counts, time.perf_counter() - clock, before, _peak_megabytes()


def _peak_megabytes() -> float:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise OSError("Linux's /proc/self/status does not tell VmHWM here.")
    return int(match[1]) * 1024 / MILLION


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=float, default=2.7, help="millions")
    parser.add_argument("--triples", type=float, default=15, help="millions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        parts, graph = Path(place) / "parts", Path(place) / "graph"
        parts.mkdir()
        graph.mkdir()
        Parts(parts, round(arguments.nodes * MILLION), round(arguments.triples * MILLION)).write()
        # Spawned, so that the memory is that of the join alone.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            counts, seconds, before, peak = pool.submit(join, parts, graph).result()
        size = sum(path.stat().st_size for path in graph.rglob("*") if path.is_file()) / MILLION
    print(f"nodes           {counts['nodes']['total']:12,}   {counts['nodes']}")
    print(f"triples         {counts['triples']:12,}   not in the graph: {counts['dropped']}")
    print(f"seconds         {seconds:12.1f}")
    print(f"peak memory     {peak:12,.0f} MB   (target 2,000; {before:,.0f} MB of it before the join)")
    print(f"the graph's files {size:10,.0f} MB")


if __name__ == "__main__":
    main()
