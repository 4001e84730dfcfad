"""Finding nodes and relations by what a person calls them: an id, an IRI, a name, a label, an alias.

Names are compared where they lie, a batch of the memory-mapped tables at a
time, without regard to case. What is not found is answered with what is near.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import InputError
from kg.exports.rdf import graph_prefixes
from kg.graph import KnowledgeGraph, UnknownIdError

__all__ = ["AmbiguousNameError", "Hit", "find_nodes", "find_relations", "resolve_node", "resolve_relation"]

_CURIE = re.compile(r"(?:wd|wdt|p|ps):([QP]\d+)")
_LISTED = 5
_COMPARED = 20_000  # labels that are compared letter by letter to find near ones


class AmbiguousNameError(InputError):
    """A name stands for several nodes or relations."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A node or relation that is called so; ``how``: id, name, label or alias."""

    number: int
    how: str


def find_nodes(graph: KnowledgeGraph, text: str) -> list[Hit]:
    """The nodes that ``text`` may stand for, the best first: by id, name, label, alias; then those with most triples.

    An id is a node's id, ``wd:Q64`` or an IRI. If one fits, or a name as it is written, it comes first; labels and
    aliases count whatever their case.
    """
    text = text.strip()
    if not text:
        return []
    number = graph.find_number(_plain_id(graph, text, of_relations=False))
    if number >= 0:
        return [Hit(number, "id")]
    table, wanted = graph.node_table, _lower(text)
    found = {"name": _rows(table["name"], pa.array([text.replace(" ", "_"), text]), lower=False)}
    found["label"] = _rows(table["label"], wanted, lower=True)
    found["alias"] = _rows(table["aliases"], wanted, lower=True)
    hits: dict[int, Hit] = {}
    for how, rows in found.items():
        for row in _by_degree(graph, rows).tolist():
            hits.setdefault(row, Hit(row, how))
    return list(hits.values())


def find_relations(graph: KnowledgeGraph, text: str) -> list[Hit]:
    """The relations that ``text`` may stand for, the best first: by id, label, alias; then the most frequent."""
    text = text.strip()
    try:
        return [Hit(graph.relation_number(_plain_id(graph, text, of_relations=True)), "id")]
    except UnknownIdError:
        pass
    counts = graph.relation_table["count"].to_numpy()
    hits: dict[int, Hit] = {}
    for how in ("label", "alias"):
        column = graph.relation_table["label" if how == "label" else "aliases"]
        rows = _rows(column, _lower(text), lower=True)
        for row in rows[np.argsort(-counts[rows], kind="stable")].tolist():
            hits.setdefault(row, Hit(row, how))
    return list(hits.values())


def resolve_node(graph: KnowledgeGraph, text: str) -> int:
    """The number of the one node that ``text`` stands for.

    Raises:
        UnknownIdError: there is none.
        AmbiguousNameError: there are several, and none has it for its id or unique name.
    """
    hits = find_nodes(graph, text)
    if not hits:
        advice = _advice(near_nodes(graph, text), "nodes.parquet lists all nodes.")
        raise UnknownIdError(f"No node of the graph in {graph.folder} has the id, name or label {text!r}. {advice}")
    names = (f"{graph.node_id(hit.number)} ({_described(graph, hit.number)})" for hit in hits)
    return _only(hits, text, "nodes", names)


def resolve_relation(graph: KnowledgeGraph, text: str) -> int:
    """The number of the one relation that ``text`` stands for; errors as of `resolve_node`."""
    hits = find_relations(graph, text)
    if not hits:
        advice = _advice(near_relations(graph, text), "relations.parquet lists all relations.")
        raise UnknownIdError(f"No relation of the graph in {graph.folder} has the id or label {text!r}. {advice}")
    names = (f"{graph.relation_ids[hit.number]} ({graph.relation_labels[hit.number]})" for hit in hits)
    return _only(hits, text, "relations", names)


def near_nodes(graph: KnowledgeGraph, text: str) -> list[str]:
    """Up to five nodes, as "Q64 (Berlin)", whose ids or labels are near ``text``."""
    match = re.fullmatch(r"\W*[QqPp]?0*([1-9]\d{0,8})\W*", text)
    if match and len(graph.item_numbers):
        place = int(graph.item_numbers.searchsorted(np.int32(match[1])))
        rows = np.arange(max(place - 1, 0), min(place + 2, len(graph.item_numbers)))
    else:
        rows = _near_rows(graph, text)
    return [f"{graph.node_id(row)} ({graph.node_table['label'][row].as_py()})" for row in rows.tolist()]


def near_relations(graph: KnowledgeGraph, text: str) -> list[str]:
    """Up to five relations, as "P36 (capital)", whose ids, labels or aliases are near ``text``."""
    names: dict[str, int] = {}
    table = graph.relation_table.select(["id", "label", "aliases"]).to_pylist()
    for number, row in enumerate(table):
        for name in (row["id"], row["label"], *row["aliases"]):
            names.setdefault(name.lower(), number)
    close = difflib.get_close_matches(text.lower(), names, n=2 * _LISTED, cutoff=0.65)
    close += [name for name in names if len(text) > 2 and text.lower() in name]
    numbers = list(dict.fromkeys(names[name] for name in close))[:_LISTED]
    return [f"{table[number]['id']} ({table[number]['label']})" for number in numbers]


def _near_rows(graph: KnowledgeGraph, text: str) -> np.ndarray:
    """int64[≤5]: nodes with a label like ``text``, chosen from the best connected that begin or end alike."""
    wanted = text.strip().lower()
    if len(wanted) < 2:
        return np.zeros(0, dtype=np.int64)
    kept = []
    for start, labels in _batches(graph.node_table["label"]):
        labels = pc.utf8_lower(labels)
        alike = pc.or_(pc.starts_with(labels, wanted[:2]), pc.ends_with(labels, wanted[-2:]))
        length = pc.utf8_length(labels)
        alike = pc.and_(alike, pc.less_equal(pc.abs(pc.subtract(length, len(wanted))), 3))
        alike = pc.or_(alike, pc.starts_with(labels, wanted))
        kept.append(np.flatnonzero(alike.to_numpy(zero_copy_only=False)) + start)
    rows = _by_degree(graph, np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64))[:_COMPARED]
    labels_of: dict[str, int] = {}
    for row, label in zip(rows.tolist(), graph.node_table["label"].take(pa.array(rows)).to_pylist(), strict=True):
        labels_of.setdefault(label.lower(), row)
    close = difflib.get_close_matches(wanted, labels_of, n=_LISTED, cutoff=0.6)
    close += [label for label in labels_of if label.startswith(wanted)]
    return np.array(list(dict.fromkeys(labels_of[label] for label in close))[:_LISTED], dtype=np.int64)


def _plain_id(graph: KnowledgeGraph, text: str, of_relations: bool) -> str:
    """The id in what may be ``wd:Q64``, an IRI, an IRI in angle brackets, or an id in the wrong case."""
    match = _CURIE.fullmatch(text)
    if match:
        return match[1]
    iri = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    if "://" in iri:
        prefixes = graph_prefixes(graph)
        return prefixes.relation_id(iri) if of_relations else prefixes.node_id(iri)
    return text.upper() if re.fullmatch(r"[qp][1-9]\d*", text) else text


def _lower(text: str) -> pa.Array:
    return pc.utf8_lower(pa.array([text]))


def _rows(column: pa.ChunkedArray, wanted: pa.Array, lower: bool) -> np.ndarray:
    """int64[hits]: the rows whose string, or one of whose strings, is one of ``wanted``."""
    found = [np.zeros(0, dtype=np.int64)]
    for start, batch in _batches(column):
        listed = pa.types.is_list(batch.type)
        strings = pc.list_flatten(batch) if listed else batch
        equal = pc.is_in(pc.utf8_lower(strings) if lower else strings, value_set=wanted)
        places = np.flatnonzero(equal.to_numpy(zero_copy_only=False))
        if listed and len(places):
            places = np.unique(pc.list_parent_indices(batch).to_numpy()[places])
        found.append(places + start)
    return np.concatenate(found)


def _batches(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    start = 0
    for chunk in column.chunks:
        yield start, chunk
        start += len(chunk)


def _by_degree(graph: KnowledgeGraph, rows: np.ndarray) -> np.ndarray:
    """The rows with the most triples first."""
    degree = np.zeros(len(rows), dtype=np.int64)
    for offsets in (graph.out_offsets, graph.in_offsets):
        degree += offsets[rows + 1] - offsets[rows]
    return rows[np.argsort(-degree, kind="stable")]


def _only(hits: Sequence[Hit], text: str, what: str, names: Iterator[str]) -> int:
    best = [hit for hit in hits if hit.how == hits[0].how]
    if len(best) == 1:
        return best[0].number
    listed = ", ".join(name for name, _ in zip(names, range(min(len(best), _LISTED)), strict=False))
    more = f" and {len(best) - _LISTED} more" if len(best) > _LISTED else ""
    raise AmbiguousNameError(f"{text!r} stands for {len(best)} {what}: {listed}{more}. Give the id of one of them.")


def _described(graph: KnowledgeGraph, number: int) -> str:
    row = graph.node_row(number)
    return row["description"] or row["label"]


def _advice(near: list[str], otherwise: str) -> str:
    return f"Near it are {', '.join(near)}." if near else otherwise
