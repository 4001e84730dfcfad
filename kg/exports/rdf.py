"""Nodes and relations of a graph as RDF terms: what `kg.rdf.terms` reads, written.

Entities and relations become IRIs by the prefixes that the graph was built
with. Literals become typed literals from their raw value: days xsd:dateTime,
months xsd:gYearMonth, years xsd:gYear, quantities xsd:decimal, coordinates
geo:wktLiteral, texts plain or tagged with their language. What XML Schema has
no type for (a century, a unit) is told by the literal's name instead, as text.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.exports.text import joined
from kg.graph import KnowledgeGraph
from kg.rdf.config import RdfConfig
from kg.rdf.terms import Prefixes
from kg.stage import read_manifest

__all__ = [
    "LiteralTerm",
    "absolute_iri",
    "graph_language",
    "graph_prefixes",
    "graph_rdf_config",
    "literal_term",
    "node_terms",
    "ntriples_literal",
    "relation_terms",
]

XSD = "http://www.w3.org/2001/XMLSchema#"
WKT = "http://www.opengis.net/ont/geosparql#wktLiteral"

_TIME = re.compile(r"([+-])(\d{1,16})-(\d\d)-(\d\d)T(\d\d:\d\d:\d\d)Z", re.ASCII)
_MONTH, _DAY, _YEAR = 10, 11, 9  # Wikibase's numbers for how exact a date is
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_NO_IRI = re.compile(r'[\x00-\x20<>"{}|^`\\]')


class LiteralTerm(NamedTuple):
    """A literal's text with its datatype's IRI or its language; both None: a plain string."""

    text: str
    datatype: str | None = None
    language: str | None = None


def graph_prefixes(graph: KnowledgeGraph) -> Prefixes:
    """How the graph's ids and IRIs lead to each other."""
    return Prefixes(graph_rdf_config(graph))


def graph_rdf_config(graph: KnowledgeGraph) -> RdfConfig:
    """The RDF options that the graph was built with."""
    return RdfConfig.model_validate(read_manifest(graph.folder).config.get("rdf", {}))


def graph_language(graph: KnowledgeGraph) -> str:
    """The language of the graph's labels."""
    return str(read_manifest(graph.folder).config.get("language", "en"))


def absolute_iri(iri: str) -> str:
    """The IRI with what may not stand in one percent-encoded; a bare word becomes one of a ``urn:``.

    >>> absolute_iri("http://example.org/a b")
    'http://example.org/a%20b'
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", iri):
        iri = f"urn:name:{iri}"
    return _NO_IRI.sub(lambda found: quote(found[0], safe=""), iri)


def literal_term(kind: str, name: str, value: str | None, whole_days: bool = False) -> LiteralTerm:
    """The term of a literal node.

    Args:
        kind, name, value: the node's columns.
        whole_days: give months and years as their first day in xsd:dateTime, as Wikidata does, so that queries can
            compare them.

    >>> literal_term("date", "1879", '{"time":"+1879-00-00T00:00:00Z","precision":9}').text
    '1879'
    >>> literal_term("quantity", "5 metre", '{"amount":"+5","unit":"http://www.wikidata.org/entity/Q11573"}').text
    '5'
    """
    try:
        raw: Any = json.loads(value) if value else None
        if isinstance(raw, dict) and "value" in raw:  # from RDF: already a term
            return LiteralTerm(str(raw["value"]), raw.get("datatype"), raw.get("language"))
        if kind == "date":
            return _date_term(raw, name, whole_days)
        if kind == "quantity":
            return LiteralTerm(raw["amount"].removeprefix("+"), XSD + "decimal")
        if kind == "coordinate":
            return LiteralTerm(f"Point({raw['longitude']!r} {raw['latitude']!r})", WKT)
        if isinstance(raw, dict):
            return LiteralTerm(raw["text"], None, raw["language"])
        return LiteralTerm(raw if isinstance(raw, str) else name)
    except (KeyError, TypeError, ValueError, AttributeError):
        return LiteralTerm(name)


def _date_term(raw: dict[str, Any], name: str, whole_days: bool) -> LiteralTerm:
    match, precision = _TIME.fullmatch(raw["time"]), raw["precision"]
    if match is None:
        return LiteralTerm(name)
    number = int(match[2]) if match[1] == "+" else 1 - int(match[2])  # in XML Schema 1.1 the year 0 is 1 BC
    year = f"{'-' if number < 0 else ''}{abs(number):04d}"
    month, day = match[3], match[4]
    if precision >= _DAY and "00" not in (month, day):
        return LiteralTerm(f"{year}-{month}-{day}T{match[5]}Z", XSD + "dateTime")
    if whole_days:
        first = [part if part != "00" else "01" for part in (month, day)]
        return LiteralTerm(f"{year}-{first[0]}-{first[1]}T00:00:00Z", XSD + "dateTime")
    if precision >= _MONTH and month != "00":
        return LiteralTerm(f"{year}-{month}", XSD + "gYearMonth")
    return LiteralTerm(year, XSD + "gYear") if precision >= _YEAR else LiteralTerm(name)


def ntriples_literal(term: LiteralTerm) -> str:
    """The term in N-Triples.

    >>> print(ntriples_literal(LiteralTerm('say "hi"', None, "en")))
    "say \\"hi\\""@en
    """
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04X}", term.text.translate(_ESCAPES))
    if term.language:
        return f'"{text}"@{term.language}'
    return f'"{text}"^^<{term.datatype}>' if term.datatype else f'"{text}"'


def node_terms(graph: KnowledgeGraph, prefixes: Prefixes, numbers: np.ndarray) -> pa.Array:
    """The terms in N-Triples of the nodes with these numbers: large strings, as many.

    Wikidata's items are written column-wise, all others one by one.
    """
    is_item = numbers < len(graph.item_numbers)
    space = prefixes.node_iri("Q1").removesuffix("Q1")
    digits = pa.array(graph.item_numbers[np.where(is_item, numbers, 0)]) if is_item.any() else pa.array(is_item)
    terms = joined(f"<{space}Q", digits, ">")
    if is_item.all():
        return terms
    rows = graph.node_table.select(["id", "kind", "name", "value"]).take(pa.array(numbers[~is_item])).to_pylist()
    written = [
        f"<{absolute_iri(prefixes.node_iri(row['id']))}>"
        if row["kind"] == "entity"
        else ntriples_literal(literal_term(row["kind"], row["name"], row["value"]))
        for row in rows
    ]
    return pc.replace_with_mask(terms, pa.array(~is_item), pa.array(written, pa.large_string()))


def relation_terms(graph: KnowledgeGraph, prefixes: Prefixes) -> pa.Array:
    """The terms in N-Triples of all relations, by number."""
    terms = [f"<{absolute_iri(prefixes.relation_iri(identifier))}>" for identifier in graph.relation_ids]
    return pa.array(terms, pa.large_string())
