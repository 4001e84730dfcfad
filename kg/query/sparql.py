"""SPARQL over a graph: an rdflib store that answers from the adjacency arrays.

`open_sparql` gives an `rdflib.Graph` that holds nothing: every triple pattern
that rdflib's query engine asks for is looked up by binary search. Entities and
relations are IRIs, literals typed literals (`kg.exports.rdf`), and names are
triples too: rdfs:label, schema:description and skos:altLabel of entities and
relations, tagged with the graph's language. A label without a tag is looked up
all the same, so ``?x rdfs:label "Berlin"`` finds Berlin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rdflib
from rdflib import RDF, RDFS, SKOS, Literal, Namespace, URIRef
from rdflib.store import Store

from kg.errors import InputError
from kg.exports.rdf import absolute_iri, graph_language, graph_prefixes, graph_rdf_config, literal_term
from kg.graph import KnowledgeGraph, UnknownIdError
from kg.query.pattern import Pattern, Query, solutions

__all__ = ["ArrayStore", "open_sparql"]

SCHEMA = Namespace("http://schema.org/")
PREFIXES = {
    "wd": "http://www.wikidata.org/entity/",
    "wdt": "http://www.wikidata.org/prop/direct/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": str(RDFS),
    "schema": str(SCHEMA),
    "skos": str(SKOS),
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "geo": "http://www.opengis.net/ont/geosparql#",
}
_NAMES = {RDFS.label: "label", SCHEMA.description: "description", SKOS.altLabel: "aliases"}
_CACHED_TERMS = 1 << 16

Triple = tuple[Any, Any, Any]


def open_sparql(graph: KnowledgeGraph) -> rdflib.Graph:
    """The graph for rdflib, with the usual prefixes and those that it was built with bound.

    >>> from pathlib import Path
    >>> graph = open_sparql(KnowledgeGraph.open(Path("data/runs/demo/kg")))  # doctest: +SKIP
    >>> list(graph.query("SELECT ?c WHERE { wd:Q64 wdt:P17 ?c }"))  # doctest: +SKIP
    """
    store = ArrayStore(graph)
    opened = rdflib.Graph(store, bind_namespaces="none")
    for prefix, namespace in (store.own_prefixes() | PREFIXES).items():
        opened.bind(prefix, namespace)
    return opened


class ArrayStore(Store):
    """A read-only store; ``unknown`` collects the IRIs asked for that the graph does not have."""

    context_aware = False
    formula_aware = False
    transaction_aware = False

    def __init__(self, graph: KnowledgeGraph) -> None:
        super().__init__()
        self.graph = graph
        self.unknown: set[Any] = set()
        self.language = graph_language(graph)
        self._iris = graph_prefixes(graph)
        self._namespaces: dict[str, URIRef] = {}
        self.node_term = lru_cache(_CACHED_TERMS)(self._node_term)
        self.relation_term = lru_cache(_CACHED_TERMS)(self._relation_term)
        self._nodes_of = lru_cache(_CACHED_TERMS)(self._find_nodes)
        self._knows = lru_cache(_CACHED_TERMS)(self._find_iri)

    def own_prefixes(self) -> dict[str, str]:
        """Prefix -> namespace of the graph's configuration."""
        prefixes = graph_rdf_config(self.graph).prefixes
        return {prefix[:-1]: namespace for namespace, prefix in prefixes.items() if prefix}

    def describe(self, iri: URIRef) -> tuple[str, str] | None:
        """Id and label of the node or relation with this IRI; None if the graph has none."""
        relation, node = self._relation_number(iri), self._entity_number(iri)
        if node is not None:
            return self.graph.node_id(node), self.graph.node_table["label"][node].as_py()
        return None if relation is None else (self.graph.relation_ids[relation], self.graph.relation_labels[relation])

    def triples(self, triple_pattern: Triple, context: Any = None) -> Iterator[tuple[Triple, Iterator[Any]]]:
        """The triples that fit; None stands for anything."""
        subject, predicate, target = triple_pattern
        self.unknown |= {term for term in triple_pattern if isinstance(term, URIRef) and not self._knows(term)}
        for found in self._statements(subject, predicate, target):
            yield found, iter(())
        if predicate in (None, RDF.type) and not len(self.graph.item_numbers):
            for found in self._types(subject, target):
                yield found, iter(())
        for name, column in _NAMES.items():
            if predicate is None or predicate == name:
                for found in self._names(subject, name, column, target):
                    yield found, iter(())

    def __len__(self, context: Any = None) -> int:
        return self.graph.triple_count

    def bind(self, prefix: str, namespace: URIRef, override: bool = True) -> None:
        if override or prefix not in self._namespaces:
            self._namespaces[prefix] = namespace

    def namespace(self, prefix: str) -> URIRef | None:
        return self._namespaces.get(prefix)

    def prefix(self, namespace: URIRef) -> str | None:
        return next((prefix for prefix, bound in self._namespaces.items() if bound == namespace), None)

    def namespaces(self) -> Iterator[tuple[str, URIRef]]:
        yield from self._namespaces.items()

    def _refuse(self, *arguments: Any, **options: Any) -> NoReturn:
        raise InputError(f"The graph in {self.graph.folder} is read-only; export it to RDF and change that.")

    add = addN = remove = _refuse  # noqa: N815

    def _statements(self, subject: Any, predicate: Any, target: Any) -> Iterator[Triple]:
        relation: int | str = "?r"
        if predicate is not None:
            number = self._relation_number(predicate)
            if number is None:
                return
            relation = number
        for first in self._ends(subject, "?s"):
            for last in self._ends(target, "?o"):
                names = tuple(dict.fromkeys(t for t in (first, relation, last) if isinstance(t, str)))
                query = Query((Pattern(first, relation, last),), names, frozenset({"?r"}))
                for batch in solutions(self.graph, query):
                    length = len(next(iter(batch.values())))
                    columns = [
                        batch[t].tolist() if isinstance(t, str) else [t] * length for t in (first, relation, last)
                    ]
                    for s, r, o in zip(*columns, strict=True):
                        yield (
                            subject if subject is not None else self.node_term(s),
                            predicate if predicate is not None else self.relation_term(r),
                            target if target is not None else self.node_term(o),
                        )

    def _ends(self, term: Any, variable: str) -> list[int | str]:
        return [variable] if term is None else list(self._nodes_of(term))

    def _names(self, subject: Any, predicate: Any, column: str, target: Any) -> Iterator[Triple]:
        if target is not None and not self._is_name(target):
            return
        for table, term_of, number_of in (
            (self.graph.node_table, self.node_term, self._entity_number),
            (self.graph.relation_table, self.relation_term, self._relation_number),
        ):
            if subject is None:
                found = self._named_rows(table, column, target)
            else:
                number = number_of(subject)
                found = iter(()) if number is None else self._names_of_row(table, column, number)
            for number, name in found:
                if target is None or str(target) == name:
                    yield term_of(number), predicate, target if target is not None else Literal(name, self.language)

    def _types(self, subject: Any, target: Any) -> Iterator[Triple]:
        """Classes as rdf:type, which a graph of RDF keeps with its nodes; Wikidata's P31 is a relation."""
        wanted = None if target is None else self._iris.node_id(str(target)) if isinstance(target, URIRef) else ""
        table = self.graph.node_table
        if subject is None:
            found = self._named_rows(table, "types", wanted)
        else:
            number = self._entity_number(subject)
            found = iter(()) if number is None else self._names_of_row(table, "types", number)
        for number, name in found:
            if wanted is None or name == wanted:
                yield self.node_term(number), RDF.type, URIRef(absolute_iri(self._iris.node_iri(name)))

    def _is_name(self, target: Any) -> bool:
        return isinstance(target, Literal) and target.datatype is None and target.language in (None, self.language)

    def _names_of_row(self, table: pa.Table, column: str, number: int) -> Iterator[tuple[int, str]]:
        value = table[column][number].as_py()
        for name in value if isinstance(value, list) else [value]:
            if name:
                yield number, name

    def _named_rows(self, table: pa.Table, column: str, target: Any) -> Iterator[tuple[int, str]]:
        """(row, name) of all rows with a name, or with the name ``target``; of nodes only entities have names."""
        start = 0
        for batch in table.select([column] + ["kind"] * ("kind" in table.column_names)).to_batches():
            values = batch.column(0)
            rows = np.arange(len(values))
            if pa.types.is_list(values.type):
                rows, values = pc.list_parent_indices(values).to_numpy(), pc.list_flatten(values)
            fits = pc.not_equal(values, "") if target is None else pc.equal(values, str(target))
            mask = fits.to_numpy(zero_copy_only=False)
            if batch.num_columns > 1:
                mask = mask & pc.equal(batch.column(1), "entity").to_numpy(zero_copy_only=False)[rows]
            yield from zip((rows[mask] + start).tolist(), values.filter(pa.array(mask)).to_pylist(), strict=True)
            start += len(batch)

    def _node_term(self, number: int) -> Any:
        row = self.graph.node_row(number)
        if row["kind"] == "entity":
            return URIRef(absolute_iri(self._iris.node_iri(row["id"])))
        term = literal_term(row["kind"], row["name"], row["value"], whole_days=True)
        return Literal(term.text, lang=term.language, datatype=term.datatype and URIRef(term.datatype), normalize=False)

    def _relation_term(self, number: int) -> Any:
        return URIRef(absolute_iri(self._iris.relation_iri(self.graph.relation_ids[number])))

    def _entity_number(self, term: Any) -> int | None:
        numbers = self._nodes_of(term) if isinstance(term, URIRef) else ()
        return numbers[0] if numbers else None

    def _relation_number(self, term: Any) -> int | None:
        if not isinstance(term, URIRef):
            return None
        try:
            return self.graph.relation_number(self._iris.relation_id(str(term)))
        except UnknownIdError:
            return None

    def _find_iri(self, term: Any) -> bool:
        return (
            term in _NAMES or term == RDF.type or bool(self._nodes_of(term)) or self._relation_number(term) is not None
        )

    def _find_nodes(self, term: Any) -> tuple[int, ...]:
        if isinstance(term, URIRef):
            number = self.graph.find_number(self._iris.node_id(str(term)))
            return (number,) if number >= 0 else ()
        if not isinstance(term, Literal):
            return ()
        return tuple(number for number in self._candidates(term) if _equal(self.node_term(number), term))

    def _candidates(self, term: Any) -> Iterator[int]:
        """Literals whose raw value, which the term was made of, may give the term."""
        number = _number(term)
        text = str(term) if number is None else format(number.normalize(), "f")
        needle = json.dumps(text, ensure_ascii=False)[1:-1]
        if term.datatype and str(term.datatype) == PREFIXES["xsd"] + "dateTime":
            needle = needle.lstrip("-")[:4].lstrip("0") if not needle.startswith("-") else ""
        elif term.datatype and str(term.datatype) == PREFIXES["geo"] + "wktLiteral":
            needle = needle.removeprefix("Point(").split(" ")[0]
        start = 0
        for chunk in self.graph.node_table["value"].chunks:
            found = pc.fill_null(pc.match_substring(chunk, needle), False)
            yield from (np.flatnonzero(found.to_numpy(zero_copy_only=False)) + start).tolist()
            start += len(chunk)


def _equal(one: Any, other: Any) -> bool:
    """Whether two literals are one, however written: 5 and 5.0, Z and +00:00."""
    if _number(one) is not None:
        return _number(one) == _number(other)
    same = one.datatype == other.datatype and one.value is not None and one.value == other.value
    return one == other or (same and one.language == other.language)


def _number(term: Any) -> Decimal | None:
    return Decimal(term.value) if isinstance(term.value, int | float | Decimal) else None
