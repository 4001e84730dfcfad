"""Queries as triple patterns: "?city P17 Q183" joined with "?city P31 ?class", answered from the arrays.

A pattern has three terms: an id, a name or label (in quotes where it has
spaces), a ``?variable``, or ``_`` for anything. Patterns are joined on the variables that they share.
The most selective one goes first, then always the one that the bound variables
narrow most; each looks up the solutions so far, many at a time, by binary search
in the adjacency arrays. Solutions come in batches: a limit stops the search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kg.errors import ConfigError
from kg.graph import KnowledgeGraph
from kg.query.lookup import resolve_node, resolve_relation
from kg.query.ranges import expand, narrow, runs

__all__ = ["Pattern", "Query", "count_solutions", "parse_query", "solutions"]

_TOKEN = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(\S+))""")
_VARIABLE = re.compile(r"\?[^\W\d]\w*")
_SMALLEST, _LARGEST = 1 << 12, 1 << 20  # edges looked at in one go where all of them must be
_FORM = "A pattern is subject, relation and object, such as '?city P17 Q183' or \"?city 'located in' Germany\""

Term = int | str  # a number, or the name of a variable with its question mark
Batch = dict[str, np.ndarray]  # variable -> int64[solutions]; the empty key holds as many zeros


@dataclass(frozen=True, slots=True)
class Pattern:
    """Terms: the number of a node, a relation, a node; or a variable's name."""

    subject: Term
    relation: Term
    object: Term

    @property
    def terms(self) -> tuple[Term, Term, Term]:
        return self.subject, self.relation, self.object


@dataclass(frozen=True, slots=True)
class Query:
    """Patterns to join; ``variables`` in order of appearance, ``relations`` those that stand for relations."""

    patterns: tuple[Pattern, ...]
    variables: tuple[str, ...]
    relations: frozenset[str]


def parse_query(graph: KnowledgeGraph, texts: Sequence[str]) -> Query:
    """Read patterns; several may stand in one text, with a full stop between them.

    Raises:
        ConfigError: a text is no pattern, or a variable stands for a node here and for a relation there.
        UnknownIdError, AmbiguousNameError: a term is not, or not only, one node or relation of the graph.
    """
    split = [terms for text in texts for terms in _split(text)]
    read = [_pattern(graph, terms, number) for number, terms in enumerate(split)]
    if not read:
        raise ConfigError(f"There is no pattern to look for. {_FORM}.")
    named = [[term for term in pattern.terms if isinstance(term, str)] for pattern in read]
    variables = dict.fromkeys(name for names in named for name in names if name[1:2] != " ")
    relations = {pattern.relation for pattern in read if isinstance(pattern.relation, str)}
    nodes = {end for pattern in read for end in (pattern.subject, pattern.object) if isinstance(end, str)}
    if relations & nodes:
        name = sorted(map(str, relations & nodes))[0]
        raise ConfigError(f"{name} stands for a relation in one place and for a node in another. Give one a new name.")
    return Query(tuple(read), tuple(variables), frozenset(map(str, relations)))


def solutions(graph: KnowledgeGraph, query: Query) -> Iterator[Batch]:
    """All solutions, a batch at a time: variable -> int64[batch], numbers of nodes or relations."""
    batches: Iterator[Batch] = iter([{"": np.zeros(1, dtype=np.int64)}])
    for pattern in _plan(graph, query.patterns):
        batches = _join(graph, batches, pattern)
    for batch in batches:
        yield {name: batch[name] for name in query.variables} if query.variables else {"": batch[""]}


def count_solutions(graph: KnowledgeGraph, query: Query) -> int:
    """The number of solutions."""
    names = [term for pattern in query.patterns for term in pattern.terms if isinstance(term, str)]
    if len(query.patterns) == 1 and len(set(names)) == len(names):
        return _size(graph, query.patterns[0])
    return sum(len(next(iter(batch.values()))) for batch in solutions(graph, query))


def _split(text: str) -> Iterator[list[tuple[str, bool]]]:
    """The terms of each pattern in a text, and whether they were quoted."""
    terms: list[tuple[str, bool]] = []
    for match in _TOKEN.finditer(text):
        quoted = match[3] is None
        term = re.sub(r"\\(.)", r"\1", match[1] or match[2] or "") if quoted else match[3]
        if not quoted and term[0] in "\"'":
            raise ConfigError(f"The quotation mark in {text!r} is not closed. {_FORM}.")
        if quoted or term != ".":
            closed = not quoted and len(terms) == 2 and term.endswith(".") and len(term) > 1
            terms.append((term[:-1] if closed else term, quoted))
        if len(terms) > 3:
            raise ConfigError(f"{text!r} has more than three terms. {_FORM}; labels with spaces need quotation marks.")
        if terms and not quoted and (term == "." or (len(terms) == 3 and term.endswith("."))):
            yield _three(terms, text)
            terms = []
    if terms:
        yield _three(terms, text)


def _three(terms: list[tuple[str, bool]], text: str) -> list[tuple[str, bool]]:
    if len(terms) != 3:
        raise ConfigError(f"{text!r} has {len(terms)} term{'s'[: len(terms) != 1]} where three are needed. {_FORM}.")
    return terms


def _pattern(graph: KnowledgeGraph, terms: list[tuple[str, bool]], number: int) -> Pattern:
    read: list[Term] = []
    for place, (term, quoted) in enumerate(terms):
        if not quoted and term == "_":
            read.append(f"? {number} {place}")  # a variable of its own that no one can write
        elif not quoted and term.startswith("?"):
            if not _VARIABLE.fullmatch(term):
                raise ConfigError(f"{term!r} is no variable: write a question mark and a word, such as ?city.")
            read.append(term)
        else:
            read.append(resolve_relation(graph, term) if place == 1 else resolve_node(graph, term))
    return Pattern(*read)


def _plan(graph: KnowledgeGraph, patterns: Sequence[Pattern]) -> list[Pattern]:
    """The patterns in the order in which to join them."""
    waiting = {place: (pattern, _size(graph, pattern)) for place, pattern in enumerate(patterns)}
    bound: set[str] = set()
    order = []
    while waiting:
        costs = {place: _expected(graph, *entry, bound) for place, entry in waiting.items()}
        best = min(costs, key=lambda place: (costs[place], place))
        pattern, _ = waiting.pop(best)
        order.append(pattern)
        bound |= {term for term in pattern.terms if isinstance(term, str)}
    return order


def _expected(graph: KnowledgeGraph, pattern: Pattern, size: int, bound: set[str]) -> float:
    """Triples that fit if the bound variables' values were spread evenly."""
    for term, values in zip(pattern.terms, (graph.node_count, graph.relation_count, graph.node_count), strict=True):
        if term in bound:
            size = size / max(values, 1)  # type: ignore[assignment]
    return size


def _size(graph: KnowledgeGraph, pattern: Pattern) -> int:
    """Triples with the constants of a pattern, exactly."""
    subject, relation, target = (None if isinstance(term, str) else np.array([term]) for term in pattern.terms)
    if subject is None and target is None:
        if relation is None:
            return graph.triple_count
        return int(graph.relation_table["count"][int(relation[0])].as_py())
    low, high, filtered = _ranges(graph, subject, relation, target)
    if not filtered:
        return int((high - low).sum())
    return sum(len(places) for _, places in _matches(graph, subject, relation, target))


def _join(graph: KnowledgeGraph, batches: Iterator[Batch], pattern: Pattern) -> Iterator[Batch]:
    for batch in batches:
        length = len(batch[""])
        known = [
            batch.get(term) if isinstance(term, str) else np.full(length, term, dtype=np.int64)
            for term in pattern.terms
        ]
        for rows, edges in _matches(graph, known[0], known[1], known[2], length):
            found = _bind(graph, pattern, batch, rows, edges)
            if len(found[""]):
                yield found


def _bind(graph: KnowledgeGraph, pattern: Pattern, batch: Batch, rows: np.ndarray, edges: np.ndarray) -> Batch:
    """The solutions of ``rows`` with what the edges add; rows whose new variable would have two values are left out."""
    found = {name: values[rows] for name, values in batch.items()}
    fits = np.ones(len(rows), dtype=bool)
    columns = (_subjects(graph, edges), graph.out_relations[edges], graph.out_objects[edges])
    for term, column in zip(pattern.terms, columns, strict=True):
        if isinstance(term, str):
            if term in found:
                fits &= found[term] == column
            else:
                found[term] = column.astype(np.int64)
    return found if fits.all() else {name: values[fits] for name, values in found.items()}


def _subjects(graph: KnowledgeGraph, edges: np.ndarray) -> np.ndarray:
    return np.searchsorted(graph.out_offsets, edges, side="right") - 1


def _matches(
    graph: KnowledgeGraph,
    subject: np.ndarray | None,
    relation: np.ndarray | None,
    target: np.ndarray | None,
    length: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, edge number) of every edge that fits the row's known ends and relation; None: unknown in all rows."""
    if subject is None and target is None:
        yield from _scan(graph, relation, length)
        return
    low, high, _ = _ranges(graph, subject, relation, target)
    outward = _outward(graph, subject, target)
    for rows, places in expand(low, high):
        if subject is not None and target is not None and relation is None:
            ends, wanted = (graph.out_objects, target) if outward else (graph.in_subjects, subject)
            fits = ends[places] == wanted[rows]
            rows, places = rows[fits], places[fits]
        yield rows, places if outward else graph.in_edge_numbers[places]


def _ranges(
    graph: KnowledgeGraph, subject: np.ndarray | None, relation: np.ndarray | None, target: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The range of each row in the direction of `_outward`, and whether its edges must still be compared."""
    if _outward(graph, subject, target):
        offsets, relations, ends, node, other = (
            graph.out_offsets,
            graph.out_relations,
            graph.out_objects,
            subject,
            target,
        )
    else:
        offsets, relations, ends, node, other = graph.in_offsets, graph.in_relations, graph.in_subjects, target, subject
    assert node is not None
    low, high = runs(offsets, node)
    if relation is not None:
        low, high = narrow(relations, low, high, relation)
        if other is not None:
            low, high = narrow(ends, low, high, other)
    return low, high, relation is None and other is not None


def _outward(graph: KnowledgeGraph, subject: np.ndarray | None, target: np.ndarray | None) -> bool:
    """Whether to go from the subjects: if only they are known, or have fewer edges than the objects."""
    if subject is None or target is None:
        return target is None
    outward, inward = runs(graph.out_offsets, subject), runs(graph.in_offsets, target)
    return bool((outward[1] - outward[0]).sum() <= (inward[1] - inward[0]).sum())


def _scan(graph: KnowledgeGraph, relation: np.ndarray | None, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All edges, or those of each row's relation, for every row."""
    key = np.zeros(length, dtype=np.int64) if relation is None else relation
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    start, size = 0, _SMALLEST
    while start < graph.triple_count:
        found = graph.out_relations[start : start + size]
        wanted = np.zeros(len(found), dtype=np.int64) if relation is None else found
        low, high = (np.searchsorted(ordered, wanted, side=side) for side in ("left", "right"))
        for edges, places in expand(low, high):
            yield order[places], edges + start
        start, size = start + size, min(2 * size, _LARGEST)
