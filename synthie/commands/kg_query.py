"""Answers of ``synthie kg query`` as rows of cells, from triple patterns or from SPARQL.

A cell is the id and label of a node or relation, or a mere value (a literal of
SPARQL, a number that it computed) with an empty id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from kg.graph import KnowledgeGraph
from synthie.errors import ConfigError

__all__ = ["Answer", "Cell", "pattern_rows", "sparql_rows"]


class Cell(NamedTuple):
    """A node or relation by id and label; of a value, only the label."""

    id: str
    label: str


@dataclass(frozen=True)
class Answer:
    """``columns``: names of the variables; ``rows`` streams the rows, ``count`` counts them; ``hint``: why none."""

    columns: Sequence[str]
    rows: Callable[[], Iterator[list[Cell]]]
    count: Callable[[], int]
    hint: Callable[[], str]


def pattern_rows(graph: KnowledgeGraph, patterns: Sequence[str]) -> Answer:
    """The solutions of triple patterns; without variables, a row without cells for each triple that fits."""
    from kg.query.pattern import count_solutions, parse_query, solutions

    query = parse_query(graph, patterns)

    def rows() -> Iterator[list[Cell]]:
        for batch in solutions(graph, query):
            columns = [
                _cells(graph.relation_table if name in query.relations else graph.node_table, batch[name])
                for name in query.variables
            ]
            if columns:
                yield from map(list, zip(*columns, strict=True))
            else:
                yield from ([Cell("", "yes")] for _ in batch[""])

    columns = [name[1:] for name in query.variables] or ["holds"]
    return Answer(columns, rows, lambda: count_solutions(graph, query), lambda: "")


def sparql_rows(graph: KnowledgeGraph, text: str) -> Answer:
    """The rows of a SELECT, the triples of a CONSTRUCT or DESCRIBE, the truth of an ASK.

    Raises:
        ConfigError: the text is no SPARQL query.
    """
    from rdflib.plugins.sparql import prepareQuery

    from kg.query.sparql import open_sparql

    logging.getLogger("rdflib.term").setLevel(logging.CRITICAL)  # it complains of every date before the year 1
    opened = open_sparql(graph)
    try:
        prepared = prepareQuery(text, initNs=dict(opened.namespaces()))
        result = opened.query(prepared)
    except Exception as error:  # of pyparsing and rdflib, of whatever class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"The SPARQL query is not understood: {reason}. The prefixes wd, wdt, rdf, rdfs, schema, skos, xsd and geo "
            "are declared; others need a PREFIX line."
        ) from error
    columns = [str(name) for name in result.vars or []] or (
        ["holds"] if result.type == "ASK" else ["subject", "predicate", "object"]
    )

    def rows() -> Iterator[list[Cell]]:
        if result.type == "ASK":
            yield [Cell("", "yes" if result.askAnswer else "no")]
            return
        try:
            for row in result:
                yield [_term_cell(graph, opened.store, term) for term in row]  # type: ignore[union-attr]
        except (TypeError, NotImplementedError, ValueError) as error:
            raise ConfigError(f"The SPARQL query cannot be answered: {' '.join(str(error).split())}.") from error

    def hint() -> str:
        unknown = sorted(opened.namespace_manager.normalizeUri(iri) for iri in opened.store.unknown)  # type: ignore[attr-defined]
        return f" Not in this graph: {', '.join(unknown[:5])}." if unknown else ""

    return Answer(columns, rows, lambda: sum(1 for _ in rows()), hint)


def _cells(table: pa.Table, numbers: Any) -> list[Cell]:
    found = table.select(["id", "label"]).take(pa.array(numbers))
    return list(map(Cell, found["id"].to_pylist(), found["label"].to_pylist()))


def _term_cell(graph: KnowledgeGraph, store: Any, term: Any) -> Cell:
    from rdflib import URIRef

    if not isinstance(term, URIRef):
        return Cell("", "" if term is None else str(term))
    found = store.describe(term)
    return Cell(*found) if found else Cell(str(term), "")
