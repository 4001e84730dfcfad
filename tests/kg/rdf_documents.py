"""Small RDF sources and their graphs."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zstandard

from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from kg.parallel import in_this_process
from kg.rdf.build import build_rdf
from kg.stage import Manifest, no_progress, run_stage

WD = "http://www.wikidata.org/entity/"
WDT = "http://www.wikidata.org/prop/direct/"
XSD = "http://www.w3.org/2001/XMLSchema#"
LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
ABOUT = "<http://schema.org/about>"
PACKERS = {"nt": bytes, "nt.gz": gzip.compress, "nt.bz2": bz2.compress, "nt.zst": zstandard.compress}


def item(number: int, label: str, *, article: bool = True) -> list[str]:
    """What the truthy dump says of an item beside its claims."""
    page = f"<https://en.wikipedia.org/wiki/{label.replace(' ', '_')}>"
    entity = f"<{WD}Q{number}>"
    lines = [
        f"<https://www.wikidata.org/wiki/Special:EntityData/Q{number}> {ABOUT} {entity} .",
        f"{entity} <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://wikiba.se/ontology#Item> .",
        f'{entity} {LABEL} "{label}"@en .',
        f'{entity} <http://www.w3.org/2004/02/skos/core#prefLabel> "{label}"@en .',
        f'{entity} <http://schema.org/name> "{label}"@en .',
        f'{entity} {LABEL} "{label} auf Deutsch"@de .',
        f'{entity} <http://schema.org/description> "what {label} is"@en .',
        f'{entity} <http://www.w3.org/2004/02/skos/core#altLabel> "{label} alias"@en .',
    ]
    return lines + [f"{page} {ABOUT} {entity} ."] * article


def claim(subject: int, relation: int, target: int | str) -> str:
    """A direct claim; a text is the object as N-Triples write it."""
    written = f"<{WD}Q{target}>" if isinstance(target, int) else target
    return f"<{WD}Q{subject}> <{WDT}P{relation}> {written} ."


def property_label(number: int, label: str) -> str:
    return f'<{WD}P{number}> {LABEL} "{label}"@en .'


def truthy() -> list[str]:
    """A little of Wikidata's truthy dump."""
    return [
        *item(64, "Berlin"),
        claim(64, 31, 515),
        claim(64, 17, 183),
        claim(64, 1376, 183),
        claim(64, 1082, f'"+3755251"^^<{XSD}decimal>'),
        claim(64, 571, f'"1237-10-28T00:00:00Z"^^<{XSD}dateTime>'),
        claim(64, 625, '"Point(13.38333 52.51667)"^^<http://www.opengis.net/ont/geosparql#wktLiteral>'),
        claim(64, 227, '"4005728-8"'),
        claim(64, 18, "<http://commons.wikimedia.org/wiki/Special:FilePath/Berlin.jpg>"),
        claim(64, 6, "<http://www.wikidata.org/.well-known/genid/0123>"),
        claim(64, 17, 99999),
        *item(183, "Germany"),
        claim(183, 36, 64),
        *item(515, "city"),
        *item(1, "no article", article=False),
        claim(1, 17, 183),
        property_label(36, "capital"),
        property_label(17, "country"),
    ]


def config(dump: Path | str, **settings: Any) -> GraphConfig:
    return GraphConfig(dump=str(dump), **settings)


def build(options: GraphConfig, folder: Path, kind: str = "ntriples", relations: Iterable[str] = ()) -> Manifest:
    """The graph of a source, built as the stage builds it."""

    def work(place: Path) -> dict[str, Any]:
        return build_rdf(options, kind, list(relations), place, mapper=in_this_process, progress=no_progress)

    settings = options.fingerprinted() | {"relations": list(relations)}
    return run_stage("kg", folder, config=settings, inputs={"dump": options.dump}, seed=None, work=work)


def graph_of(lines: Iterable[str], folder: Path, **settings: Any) -> tuple[KnowledgeGraph, dict[str, Any]]:
    """The graph of some N-Triples and the counts of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    dump = folder / "dump.nt"
    dump.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    manifest = build(config(dump, **settings), folder / "kg")
    check_sum(manifest.counts)
    return KnowledgeGraph.open(folder / "kg"), manifest.counts


def check_sum(counts: dict[str, Any]) -> None:
    """Every statement read has exactly one fate."""
    statements = dict(counts["statements"])
    assert statements.pop("read") == sum(statements.pop("dropped").values()) + sum(statements.values())
    assert counts["lines"] == counts["statements"]["read"] + counts["undecodable"]


def aside(folder: Path) -> list[dict[str, Any]]:
    """What the stage in a folder set aside."""
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_bytes().splitlines()]


def triples_of(graph: KnowledgeGraph) -> set[tuple[str, str, str]]:
    return {(subject, relation, target) for subject, target, relation in graph.edges(keys=True)}


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of a graph's files, but those that tell of time and place."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "/." not in f"/{path.relative_to(folder)}"
        and path.name not in ("manifest.json", "quarantine.jsonl")
    }
