"""How fast a Wikidata dump is read, beside mere inflating and beside the same written with gzip and json.

    python benchmarks/ingest.py [--megabytes 400] [--cache FOLDER] [--rounds 3]

Reads a made-up dump (`dump_synthesis`) with the form and the proportions of the
official one. All readers run in worker processes that have started and imported
before, in turns, round after round; a reader's figure is its best round. Rates
are in MB of uncompressed JSON a second: of CPU time where one process reads, by
the clock where two workers are beside one. Reading means from the stored bytes
to the parts on disk; what joins the parts into a graph is given apart. Before
that, our reader and the one written with gzip and json must find the same graph.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow.parquet as pq
from dump_synthesis import MEGABYTE, cached_dump
from isal import igzip_lib

from kg.build import build_graph
from kg.config import GraphConfig
from kg.dump import plan_slices
from kg.literals import coordinate_text, date_text, plain_text, quantity_text, unit_id
from kg.wikidata.ingest import SliceTask, ingest_slice

Entities = Literal["wikipedia", "labelled"]
MODES: tuple[Entities, ...] = ("wikipedia", "labelled")
T = TypeVar("T")
R = TypeVar("R")

SLICES = 8  # of the dump that is timed
NAIVE_SHARE = 10  # the reader with gzip and json gets a dump so many times smaller
MEMORY_FACTOR = 4  # memory is measured on the dump and on one so many times larger


# --- What is timed, each in a worker process ------------------------------------------------------------------


def inflate(path: Path) -> int:
    """Inflate all members, one after another, and do nothing else; the number of bytes."""
    size = 0
    with path.open("rb") as file:
        data = file.read(1 << 16)
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while data or not member.needs_input:
            size += len(member.decompress(data, 1 << 18))
            data = b""
            if member.eof:
                data = member.unused_data
                member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            if not data and member.needs_input:
                data = file.read(1 << 16)
    return size


def read_slice(task: SliceTask) -> int:
    """Read a slice as a build does; the number of entities."""
    return ingest_slice(task).entities


def read_all(tasks: Sequence[SliceTask]) -> None:
    for task in tasks:
        read_slice(task)


@dataclass
class NaiveReader:
    """The same selection, ranks, literals and names, a statement at a time, with gzip and json.

    Writes a JSON line for each kept item. ``labels`` are those of all items, for the ones that serve as units.
    """

    entities: Entities
    drop_classes: frozenset[str] = frozenset(GraphConfig().drop_classes)
    labels: dict[str, str] = field(default_factory=dict)

    def read(self, path: Path, output: Path) -> None:
        with gzip.open(path) as file, output.open("w") as target:
            for line in file:
                if line.startswith(b"{"):
                    entity = self._entity(json.loads(line.rstrip(b",\n")))
                    if entity is not None:
                        target.write(json.dumps(entity) + "\n")

    def graph(self, output: Path) -> tuple[set[str], set[tuple[str, str, str]]]:
        """Ids of the nodes, and triples, from what was written."""
        with output.open() as file:
            entities = {entity["id"]: entity["claims"] for entity in map(json.loads, file)}
        triples = {
            (subject, name, f"{kind}:{text} {self.labels.get(unit, '')}".strip() if kind else text)
            for subject, claims in entities.items()
            for name, kind, text, unit, _, _ in claims
            if (not unit or unit in self.labels if kind else text in entities)
        }
        return entities.keys() | {target for _, _, target in triples}, triples

    def _entity(self, document: dict[str, Any]) -> dict[str, Any] | None:
        if document["type"] != "item":
            return None
        label = next(iter(_texts(document["labels"])), "")
        title = plain_text(document["sitelinks"]["enwiki"]["title"]) if "enwiki" in document["sitelinks"] else ""
        claims = document["claims"] or {}
        types = [
            statement["mainsnak"]["datavalue"]["value"]["id"]
            for statement in _best(claims.get("P31", []))
            if statement["mainsnak"]["snaktype"] == "value"
        ]
        if label or title:
            self.labels[document["id"]] = label or title
        if not (title if self.entities == "wikipedia" else label or title) or self.drop_classes & set(types):
            return None
        return {
            "id": document["id"],
            "title": title,
            "label": label or title,
            "description": next(iter(_texts(document["descriptions"])), ""),
            "aliases": _texts(document["aliases"]),
            "types": types,
            "claims": [
                claim
                for statements in claims.values()
                for statement in _best(statements)
                if (claim := _claim(statement)) is not None
            ],
        }


def _texts(terms: dict[str, Any] | list[Any]) -> list[str]:
    """The texts in English, then those for all languages."""
    found = [terms[language] for language in ("en", "mul") if language in terms] if isinstance(terms, dict) else []
    return [plain_text(term["value"]) for each in found for term in (each if isinstance(each, list) else [each])]


def _claim(statement: dict[str, Any]) -> tuple[str, str, str, str, Any, str] | None:
    """Property; kind or "" of the object; its text or id; unit; value; rank."""
    snak = statement["mainsnak"]
    if snak["snaktype"] != "value":
        return None
    value, name, rank = snak["datavalue"]["value"], snak["property"], statement["rank"]
    try:
        if snak["datatype"] == "wikibase-item":
            return name, "", value["id"], "", None, rank
        if snak["datatype"] == "time":
            return name, "date", date_text(value), "", value, rank
        if snak["datatype"] == "quantity":
            unit = unit_id(value)
            return name, "quantity", quantity_text(value), f"Q{unit}" if unit else "", value, rank
        if snak["datatype"] == "globe-coordinate":
            return name, "coordinate", coordinate_text(value), "", value, rank
    except ValueError:
        pass  # a value of an unknown form
    return None


def _best(statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    preferred = [statement for statement in statements if statement["rank"] == "preferred"]
    return preferred or [statement for statement in statements if statement["rank"] == "normal"]


def read_naively(path: Path, entities: Entities) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        NaiveReader(entities).read(path, Path(folder) / "entities.jsonl")


# --- Measuring ---------------------------------------------------------------------------------------------------


def timed(function: Callable[..., object], *arguments: Any) -> tuple[float, float]:
    """Seconds of a call by the clock and of CPU time; in the worker, so that sending the task does not count."""
    clock, used = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - clock, time.process_time() - used


def peak_memory(function: Callable[..., object], *arguments: Any) -> float:
    """MB of resident memory that a new process with this one call has taken at most."""
    function(*arguments)
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    if match is None:
        raise OSError("Linux's /proc/self/status does not tell VmHWM here.")
    return int(match[1]) * 1024 / MEGABYTE


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """So many processes that are up and have imported what they need, with Arrow's memory as in a build's workers."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # these import pyarrow before an initializer runs
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.5] * count))
        yield pool


@contextmanager
def sliced(path: Path, entities: Entities, slices: int = SLICES) -> Iterator[list[SliceTask]]:
    """The slices of a dump, and a folder for their parts that is deleted afterwards."""
    config = GraphConfig(dump=str(path), entities=entities)
    folder = Path(tempfile.mkdtemp(prefix="parts-", dir=path.parent))
    try:
        parts = plan_slices(str(path), -(-path.stat().st_size // slices))
        yield [SliceTask(config, (), part, folder) for part in parts]
    finally:
        shutil.rmtree(folder)


def check_same_graph(path: Path) -> None:
    """Our build and the naive reader must find the same nodes and triples."""
    for entities in MODES:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            build_graph(GraphConfig(dump=str(path), entities=entities, workers=1), Path(folder))
            ids = pq.read_table(Path(folder) / "nodes.parquet")["id"].to_numpy()
            relations = pq.read_table(Path(folder) / "relations.parquet")["id"].to_numpy()
            triples = pq.read_table(Path(folder) / "triples.parquet")
            reader = NaiveReader(entities)
            reader.read(path, Path(folder) / "entities.jsonl")
            nodes, statements = reader.graph(Path(folder) / "entities.jsonl")
        subject, relation, object_ = (triples[name].to_numpy() for name in ("subject", "relation", "object"))
        other_nodes = nodes ^ set(ids)
        others = statements ^ set(zip(ids[subject], relations[relation], ids[object_], strict=True))
        if other_nodes or others:
            raise SystemExit(f"{entities}: {len(other_nodes)} nodes and {len(others)} triples are in one graph only.")
        print(f"{entities}: both readers find the same {len(nodes):,} nodes and {len(statements):,} triples")


def rates(path: Path, small: Path, rounds: int) -> dict[str, float]:
    """MB a second of each reader, the best of all rounds."""
    best: defaultdict[str, float] = defaultdict(float)

    def note(reader: str, megabytes: float, seconds: float) -> None:
        best[reader] = max(best[reader], megabytes / seconds)

    with workers(1) as one, workers(2) as two:
        size = one.submit(inflate, path).result() / MEGABYTE
        small_size = one.submit(inflate, small).result() / MEGABYTE
        for _ in range(rounds):
            note("inflate", size, one.submit(timed, inflate, path).result()[1])
            for entities in MODES:
                with sliced(path, entities) as tasks:
                    clock, used = one.submit(timed, read_all, tasks).result()
                note(entities, size, used)
                note(f"{entities}, 1 worker", size, clock)
                with sliced(path, entities) as tasks:
                    clock, _ = timed(list, two.map(read_slice, tasks))
                note(f"{entities}, 2 workers", size, clock)
                _, used = one.submit(timed, read_naively, small, entities).result()
                note(f"{entities}, naive", small_size, used)
    return best


def print_rates(best: dict[str, float]) -> None:
    def row(name: str, rate: float, *ratios: tuple[float, str, float]) -> None:
        told = "   ".join(f"{rate / base:5.2f} × {what} (target {target})" for base, what, target in ratios)
        print(f"{name:38} {rate:7.0f} MB/s   {told}")

    row("inflate only (isal)", best["inflate"])
    for entities, target in (("wikipedia", 0.5), ("labelled", 0.2)):
        naive, ours = best[f"{entities}, naive"], best[entities]
        row(f"{entities}, gzip + json", naive)
        row(f"{entities}", ours, (best["inflate"], "inflate", target), (naive, "gzip + json", 10))
        one, two = best[f"{entities}, 1 worker"], best[f"{entities}, 2 workers"]
        row(f"{entities}, 2 workers, by the clock", two, (one, "one worker", 1.7))


def print_memory(path: Path, large: Path) -> None:
    for entities in MODES:
        for dump in (path, large):
            # As few slices as the official dump would have of this size: memory must not grow with a slice.
            with sliced(dump, entities, slices=1) as tasks, workers(1) as pool:
                peak = pool.submit(peak_memory, read_all, tasks).result()
            print(f"resident memory of a worker, {entities:9}, {dump.name:22} {peak:5.0f} MB (target 250)")


def print_join(path: Path) -> None:
    """Times of a whole build with one worker, reading and joining apart."""
    for entities in MODES:
        seconds = 0.0

        def in_turn(function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
            nonlocal seconds
            for task in tasks:
                clock = time.perf_counter()
                result = function(task)
                seconds += time.perf_counter() - clock
                yield result

        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            config = GraphConfig(dump=str(path), entities=entities)
            clock = time.perf_counter()
            counts = build_graph(config, Path(folder) / "kg", mapper=in_turn).counts
            total = time.perf_counter() - clock
        print(
            f"whole build, {entities:9} {counts['nodes']['total']:9,} nodes {counts['triples']:9,} triples: "
            f"reading {seconds:5.2f} s, all else {total - seconds:5.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=400, help="size of the dump, uncompressed")
    parser.add_argument("--cache", type=Path, help="folder that keeps the dumps for the next run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or Path(temporary)
        small = cached_dump(cache, arguments.megabytes / NAIVE_SHARE)
        dump = cached_dump(cache, arguments.megabytes)
        check_same_graph(small)
        print_rates(rates(dump, small, arguments.rounds))
        print_memory(dump, cached_dump(cache, arguments.megabytes * MEMORY_FACTOR))
        print_join(dump)


if __name__ == "__main__":
    main()
