"""How fast N-Triples are read: triples per second of the scanner and of the whole slice, beside rdflib and pyoxigraph.

    python benchmarks/ntriples.py [--lines 1500000] [--peer-lines 100000]

The bytes have the structure of Wikidata's truthy dump: labels, descriptions and aliases in many languages, direct
claims with items, dates, numbers, positions, identifiers and links as objects, articles in many wikis. All readers
read the same bytes on one core in one run; the slow ones read the first ``--peer-lines`` lines, which are alike.

`scan` finds the terms of every line; `slice` also selects the English part, numbers its terms and writes the
parts that a graph is joined from (`kg.rdf.slices.read_slice`, plain file); `rdflib` is its N-Triples parser with a sink
that counts; `pyoxigraph` its parser in Rust, drained without looking at the terms.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kg.config import GraphConfig
from kg.rdf.build import plan_tasks
from kg.rdf.ntriples import Scanner
from kg.rdf.slices import read_slice

LANGUAGES = "en de fr es ru ja zh ar pt it nl pl sv uk cs fi hu ko tr el he fa da nb ro ca".split()  # noqa: SIM905
WD, WDT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
XSD, RDFS = "http://www.w3.org/2001/XMLSchema#", "http://www.w3.org/2000/01/rdf-schema#"
SCHEMA, SKOS = "http://schema.org/", "http://www.w3.org/2004/02/skos/core#"
WORDS = {
    "ru": "город река область озеро",
    "ja": "東京 地区 都市 河川",
    "ar": "مدينة نهر قرية جبل",
    "zh": "城市 河流 村庄 山脉",
}
LATIN = "river village museum battle station journal gene asteroid painting bridge castle"


def truthy(lines: int) -> bytes:
    """At least ``lines`` statements about invented items, ordered by subject as in the dump."""
    random = np.random.default_rng(7)
    found: list[str] = []
    number = 0
    while len(found) < lines:
        number += int(random.integers(1, 60))
        found += _item(number, random)
    return ("\n".join(found) + "\n").encode()


def _item(number: int, random: np.random.Generator) -> list[str]:
    item = f"<{WD}Q{number}>"
    data = f"<https://www.wikidata.org/wiki/Special:EntityData/Q{number}>"
    lines = [
        f"{data} <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <{SCHEMA}Dataset> .",
        f"{data} <{SCHEMA}about> {item} .",
        f'{data} <{SCHEMA}dateModified> "2024-05-{number % 28 + 1:02}T10:00:00Z"^^<{XSD}dateTime> .',
        f"{item} <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://wikiba.se/ontology#Item> .",
    ]
    for language in LANGUAGES[: int(random.geometric(0.15))]:
        words = WORDS.get(language, LATIN).split()
        label = f"{words[number % len(words)].capitalize()} {number}"
        quoted = label if number % 50 else f'the \\"{label}\\"'
        for predicate in (f"{RDFS}label", f"{SKOS}prefLabel", f"{SCHEMA}name"):
            lines.append(f'{item} <{predicate}> "{quoted}"@{language} .')
        lines.append(f'{item} <{SCHEMA}description> "{words[number % 3]} {words[number % 4]}"@{language} .')
        if number % 3 == 0:
            lines.append(f'{item} <{SKOS}altLabel> "{label} ({language})"@{language} .')
        if number % 4 == 0:
            page = f"<https://{language}.wikipedia.org/wiki/{LATIN.split()[number % 11]}_{number}>"
            lines.append(f"{page} <{SCHEMA}about> {item} .")
            lines.append(f'{page} <{SCHEMA}inLanguage> "{language}" .')
            lines.append(f'{page} <{SCHEMA}name> "{label}"@{language} .')
    for target in random.integers(1, number + 60, int(random.poisson(7))):
        lines.append(f"{item} <{WDT}P{target % 700 + 1}> <{WD}Q{target}> .")
    for value in random.integers(1, 1 << 20, int(random.poisson(4))):
        lines.append(f'{item} <{WDT}P{value % 4000 + 1000}> "{value:x}-{number}" .')
    lines.append(f'{item} <{WDT}P577> "{1500 + number % 520}-{number % 12 + 1:02}-01T00:00:00Z"^^<{XSD}dateTime> .')
    if number % 3 == 0:
        lines.append(f'{item} <{WDT}P1082> "+{number}"^^<{XSD}decimal> .')
        point = f"Point({number % 360 - 180}.25 {number % 180 - 90}.5)"
        lines.append(f'{item} <{WDT}P625> "{point}"^^<http://www.opengis.net/ont/geosparql#wktLiteral> .')
    return lines


def scan(block: bytes) -> None:
    """Find the terms of every line, in blocks as a file is read in."""
    scanner = Scanner()
    for part in _blocks(block):
        for _ in scanner.rows(part):
            pass


def whole_slice(path: Path, folder: Path) -> None:
    """Read the file as one slice of an English graph."""
    config = GraphConfig(dump=str(path), slice_mb=1 << 20)
    folder.mkdir()
    read_slice(plan_tasks(config, [], folder, config.dump)[0])


def with_rdflib(block: bytes) -> None:
    """rdflib's parser with a sink that counts."""
    from rdflib.plugins.parsers.ntriples import W3CNTriplesParser

    class Counter:
        length = 0

        def triple(self, subject: object, predicate: object, target: object) -> None:
            self.length += 1

    W3CNTriplesParser(Counter()).parse(io.BytesIO(block))


def with_pyoxigraph(block: bytes) -> None:
    """pyoxigraph's parser, drained."""
    import pyoxigraph

    for _ in pyoxigraph.parse(block, pyoxigraph.RdfFormat.N_TRIPLES):
        pass


def _blocks(block: bytes, size: int = 1 << 22) -> list[bytes]:
    parts, start = [], 0
    while start < len(block):
        end = block.find(b"\n", min(start + size, len(block) - 1)) + 1
        parts.append(block[start:end])
        start = end
    return parts


def _seconds(work: Callable[[], None]) -> float:
    clock = time.process_time()
    work()
    return time.process_time() - clock


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--lines", type=int, default=1_500_000)
    options.add_argument("--peer-lines", type=int, default=100_000)
    given = options.parse_args()
    block = truthy(given.lines)
    lines = block.count(b"\n")
    few = b"\n".join(block.split(b"\n", given.peer_lines)[: given.peer_lines]) + b"\n"
    print(f"{lines:,} lines, {len(block) / 1e6:.0f} MB, {len(block) / lines:.0f} bytes a line")
    rates = {}
    with tempfile.TemporaryDirectory() as place:
        path, warm = Path(place) / "truthy.nt", Path(place) / "warm.nt"
        path.write_bytes(block)
        warm.write_bytes(few)
        scan(few)  # compile, or load what was compiled, before the clock runs
        whole_slice(warm, Path(place) / "warm")
        rates["scan"] = lines / _seconds(lambda: scan(block))
        rates["slice"] = lines / _seconds(lambda: whole_slice(path, Path(place) / "parts"))
    for name, reader in (("pyoxigraph", with_pyoxigraph), ("rdflib", with_rdflib)):
        try:
            rates[name] = given.peer_lines / _seconds(lambda reader=reader: reader(few))
        except ImportError:
            print(f"{name} is not installed")
    for name, rate in rates.items():
        print(f"{name:12} {rate / 1e6:7.2f} M triples/s  {rate / rates['rdflib']:6.1f} × rdflib")
    print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, input included")


if __name__ == "__main__":
    main()
