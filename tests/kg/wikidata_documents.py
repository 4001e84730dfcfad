"""Builders of small Wikidata dumps: documents, statements, files in every compression."""

from __future__ import annotations

import bz2
import gzip
import json
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


def triples(graph: KnowledgeGraph) -> set[tuple[str, str, str]]:
    """The triples as ids."""
    return {(subject, relation, target) for subject, target, relation in graph.edges(keys=True)}
