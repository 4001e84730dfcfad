"""Builders of small Wikidata dumps: documents, statements, files in every compression."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zstandard

from kg.build import build_graph
from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from kg.stage import Manifest

COMPRESSORS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.compress,
}


def item(
    number: int,
    label: str | None = None,
    *,
    title: str | None = None,
    article: bool = True,
    claims: Iterable[dict[str, Any]] = (),
    **fields: Any,
) -> dict[str, Any]:
    """An item with an English label and, unless ``article`` is false, an English Wikipedia article of that title."""
    label = f"item {number}" if label is None else label
    grouped: dict[str, list[dict[str, Any]]] = {}
    for statement in claims:
        grouped.setdefault(statement["mainsnak"]["property"], []).append(statement)
    sitelinks = {"enwiki": {"site": "enwiki", "title": title or label, "badges": []}} if article else []
    return {
        "type": "item",
        "id": f"Q{number}",
        "labels": {"en": {"language": "en", "value": label}} if label else [],
        "descriptions": {},
        "aliases": [],
        "claims": grouped or [],
        "sitelinks": sitelinks,
        **fields,
    }


def property_document(number: int, label: str, datatype: str = "wikibase-item", **fields: Any) -> dict[str, Any]:
    return {
        "type": "property",
        "id": f"P{number}",
        "datatype": datatype,
        "labels": {"en": {"language": "en", "value": label}},
        "descriptions": {"en": {"language": "en", "value": f"what {label} means"}},
        "aliases": {"en": [{"language": "en", "value": f"{label} alias"}]},
        "claims": [],
        **fields,
    }


def statement(
    property_number: int,
    value: Any,
    value_type: str,
    datatype: str | None,
    *,
    rank: str = "normal",
    snaktype: str = "value",
) -> dict[str, Any]:
    snak: dict[str, Any] = {"snaktype": snaktype, "property": f"P{property_number}", "hash": "0"}
    if snaktype == "value":
        snak["datavalue"] = {"value": value, "type": value_type}
    if datatype is not None:
        snak["datatype"] = datatype
    return {"mainsnak": snak, "type": "statement", "id": "x", "rank": rank, "references": []}


def to_item(property_number: int, target: int, **options: Any) -> dict[str, Any]:
    value = {"entity-type": "item", "numeric-id": target, "id": f"Q{target}"}
    return statement(property_number, value, "wikibase-entityid", "wikibase-item", **options)


def date(property_number: int, time: str, precision: int = 11, **options: Any) -> dict[str, Any]:
    value = {"time": time, "timezone": 0, "before": 0, "after": 0, "precision": precision, "calendarmodel": "Q1985727"}
    return statement(property_number, value, "time", "time", **options)


def quantity(property_number: int, amount: str, unit: int = 0, **options: Any) -> dict[str, Any]:
    url = f"http://www.wikidata.org/entity/Q{unit}" if unit else "1"
    return statement(property_number, {"amount": amount, "unit": url}, "quantity", "quantity", **options)


def coordinate(
    property_number: int, latitude: float, longitude: float, precision: float | None = 1 / 60
) -> dict[str, Any]:
    value = {"latitude": latitude, "longitude": longitude, "altitude": None, "precision": precision, "globe": "Q2"}
    return statement(property_number, value, "globecoordinate", "globe-coordinate")


def string(property_number: int, text: str, datatype: str | None = "string") -> dict[str, Any]:
    return statement(property_number, text, "string", datatype)


def monolingual(property_number: int, text: str, language: str) -> dict[str, Any]:
    return statement(property_number, {"text": text, "language": language}, "monolingualtext", "monolingualtext")


def dump_text(documents: Iterable[dict[str, Any] | bytes]) -> bytes:
    """The documents in the form of the official dump; bytes are taken as lines."""
    lines = [
        document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        for document in documents
    ]
    return b"[\n" + b",\n".join(lines) + b"\n]\n"


def write_dump(path: Path, documents: Iterable[dict[str, Any] | bytes], compression: str = "plain") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESSORS[compression](dump_text(documents)))
    return path


def build(folder: Path, documents: Iterable[dict[str, Any] | bytes], **options: Any) -> tuple[Manifest, KnowledgeGraph]:
    """Write a dump of the documents to ``folder``, build its graph in ``folder/kg`` and open it."""
    dump = write_dump(folder / "dump.json", documents)
    manifest = build_graph(GraphConfig(dump=str(dump), **options), folder / "kg")
    return manifest, KnowledgeGraph.open(folder / "kg")


def adds_up(manifest: Manifest) -> bool:
    """Whether the counts account for every line, document and statement that was read."""
    counts = manifest.counts
    documents, statements = counts["documents"], counts["statements"]
    entities = documents["entities"] + documents["properties"] + documents["redirects"]
    return (
        documents["read"] == entities + sum(documents["dropped"].values())
        and counts["lines"] == documents["read"] + counts["undecodable"]
        and statements["read"] == statements["triples"] + sum(statements["dropped"].values())
        and counts["nodes"]["total"] == sum(count for kind, count in counts["nodes"].items() if kind != "total")
        and counts["nodes"]["entity"] == documents["entities"]
        and counts["triples"] == statements["triples"]
    )


def triples(graph: KnowledgeGraph) -> set[tuple[str, str, str]]:
    """The triples as ids."""
    return {(subject, relation, target) for subject, target, relation in graph.edges(keys=True)}


def qualified(claim: dict[str, Any], *qualifiers: dict[str, Any]) -> dict[str, Any]:
    """The statement with the main snaks of other statements as its qualifiers."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for qualifier in qualifiers:
        grouped.setdefault(qualifier["mainsnak"]["property"], []).append(qualifier["mainsnak"])
    return claim | {"qualifiers": grouped or []}


def random_documents(draw: random.Random, count: int = 14) -> list[dict[str, Any]]:
    """Documents of every kind about the same few items, in which much is odd and all is valid."""
    documents: list[dict[str, Any]] = [
        property_document(11, "motto", "string"),
        property_document(12, "identifier", "external-id"),
        property_document(13, "website", "url"),
        {"entity": "Q20", "redirect": "Q1"},
        {"entity": "Q21", "redirect": "Q20"},
        {"type": "lexeme", "id": "L1", "lemmas": {}, "claims": []},
        {"type": "mediainfo", "id": "M1", "labels": [], "statements": {}},
    ]
    documents += [_random_item(draw, draw.randint(1, 10), revision) for revision in range(1, count + 1)]
    draw.shuffle(documents)
    return documents


def _random_item(draw: random.Random, number: int, revision: int) -> dict[str, Any]:
    claims = [_random_claim(draw) for _ in range(draw.randint(0, 7))]
    claims = [qualified(claim, *(_random_claim(draw) for _ in range(draw.randint(0, 2)))) for claim in claims]
    if number in (3, 4):  # the units
        claims.append(quantity(2370, "+1000", unit=3))
    languages = draw.sample(["en", "mul", "de", "fr"], draw.choice([0, 1, 2]))
    labels = {code: {"language": code, "value": draw.choice(["Ann", "Bo", "C\td", "\u0007"])} for code in languages}
    sites = draw.sample(["enwiki", "dewiki", "commonswiki"], draw.choice([0, 1, 2]))
    sitelinks = {site: {"site": site, "title": f"Title {number}", "badges": []} for site in sites}
    return item(number, "", claims=claims, lastrevid=revision, labels=labels or [], sitelinks=sitelinks or [])


def _random_claim(draw: random.Random) -> dict[str, Any]:
    target = draw.choice([1, 2, 3, 4, 5, 6, 7, 20, 21, 99])
    claim = draw.choice(
        [
            *(to_item(draw.choice([6, 7]), target) for _ in range(4)),
            to_item(31, draw.choice([5, 6, 7, 20])),
            to_item(279, draw.choice([5, 6, 7, 21])),
            date(571, f"+{draw.choice([0, 1237, 1879])}-00-00T00:00:00Z", 9),
            quantity(2046, f"+{draw.randint(1, 2)}", unit=draw.choice([0, 3, 4, 98])),
            coordinate(625, draw.choice([52, 100]), 13),
            monolingual(1476, draw.choice(["one", " "]), draw.choice(["en", "de", "mul"])),
            string(11, draw.choice(["a", "b"])),
            string(12, "id", "external-id"),
            string(13, "http://example.org", "url"),
        ]
    )
    claim["rank"] = draw.choice(["normal", "normal", "normal", "preferred", "deprecated"])
    if draw.random() < 0.3:
        del claim["mainsnak"]["datatype"]
    if draw.random() < 0.1:
        claim["mainsnak"] |= {"snaktype": draw.choice(["novalue", "somevalue"])}
        del claim["mainsnak"]["datavalue"]
    return claim
