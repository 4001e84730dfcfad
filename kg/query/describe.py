"""All that a graph knows of one node or relation, as JSON-ready data for `synthie kg show`.

A hub has millions of triples: of each direction only some are fetched, shared
out evenly among the relations, and the counts say how many there are.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from kg.graph import KnowledgeGraph

__all__ = ["describe_node", "describe_relation", "node_labels"]


def describe_node(graph: KnowledgeGraph, number: int, limit: int) -> dict[str, Any]:
    """A node with its triples.

    Args:
        limit: triples of each direction that are listed.

    Returns:
        the node's columns, ``types`` as id and label, ``triples`` by direction, and ``out`` and ``in``: for each
        relation its id, label, ``triples`` and, of those listed, ``nodes``: id, label, rank and, if the graph has
        them, qualifiers.
    """
    row = graph.node_row(number)
    row["types"] = [{"id": identifier, "label": _label(graph, identifier)} for identifier in row["types"]]
    directions = {"out": _triples(graph, number, limit, True), "in": _triples(graph, number, limit, False)}
    counts = {name: sum(group["triples"] for group in groups) for name, groups in directions.items()}
    return row | {"triples": counts} | directions


def describe_relation(graph: KnowledgeGraph, number: int, limit: int) -> dict[str, Any]:
    """A relation with its first ``limit`` triples.

    Returns:
        the relation's columns, ``share`` of all triples, ``subjects`` and ``objects``: how many different ones,
        ``examples``: subject and object as id and label, and the rank.
    """
    row = graph.relation_table.slice(number, 1).to_pylist()[0]
    edges = np.flatnonzero(graph.out_relations == number)
    subjects, objects = _subjects(graph, edges), graph.out_objects[edges]
    shown = edges[:limit]
    ends = [node_labels(graph, column[: len(shown)]) for column in (subjects, objects)]
    return row | {
        "share": round(len(edges) / max(graph.triple_count, 1), 6),
        "subjects": len(np.unique(subjects)),
        "objects": len(np.unique(objects)),
        "examples": [
            {"subject": subject, "object": target, **_statement(graph, edge)}
            for subject, target, edge in zip(*ends, shown.tolist(), strict=True)
        ],
    }


def node_labels(graph: KnowledgeGraph, numbers: np.ndarray) -> list[dict[str, str]]:
    """Id and label of each node."""
    return graph.node_table.select(["id", "label"]).take(pa.array(numbers)).to_pylist()


def _triples(graph: KnowledgeGraph, number: int, limit: int, outward: bool) -> list[dict[str, Any]]:
    offsets = graph.out_offsets if outward else graph.in_offsets
    start, end = int(offsets[number]), int(offsets[number + 1])
    relations = (graph.out_relations if outward else graph.in_relations)[start:end]
    ends = graph.out_objects if outward else graph.in_subjects
    firsts = np.flatnonzero(np.diff(relations, prepend=-1))  # sorted by relation
    counts = np.diff(firsts, append=len(relations))
    shares = _fair(counts, limit)
    places = np.concatenate(
        [np.arange(start + first, start + first + share) for first, share in zip(firsts, shares, strict=True)]
        or [np.zeros(0, dtype=np.int64)]
    )
    edges = (places if outward else graph.in_edge_numbers[places]).tolist()
    nodes = node_labels(graph, ends[places])  # of all groups at once: each look-up in the table costs milliseconds
    listed = iter([node | _statement(graph, edge) for node, edge in zip(nodes, edges, strict=True)])
    return [
        {
            "relation": graph.relation_ids[relation],
            "label": graph.relation_labels[relation],
            "triples": count,
            "nodes": list(islice(listed, share)),
        }
        for relation, count, share in zip(relations[firsts].tolist(), counts.tolist(), shares, strict=True)
    ]


def _fair(counts: np.ndarray, limit: int) -> list[int]:
    """How many of each group to take, so that no group gets less than another that has more to give.

    >>> _fair(np.array([1, 50, 3]), 10)
    [1, 6, 3]
    """
    taken = np.zeros(len(counts), dtype=np.int64)
    order = np.argsort(counts, kind="stable")
    for place, group in enumerate(order):
        taken[group] = min(counts[group], -(-limit // (len(order) - place)))
        limit -= int(taken[group])
    return taken.tolist()


def _statement(graph: KnowledgeGraph, edge: int) -> dict[str, Any]:
    """Rank and, if the graph has them, qualifiers of an edge, with labels."""
    names = [name for name in graph.edge_attribute_names if name != "label"]
    found = {name: graph.edge_attribute(edge, name) for name in names}
    if "qualifiers" in found:
        found["qualifiers"] = [
            {
                "relation": relation,
                "relation_label": _relation_label(graph, relation),
                "id": target,
                "label": _label(graph, target),
            }
            for relation, target in found["qualifiers"]
        ]
    return found


def _subjects(graph: KnowledgeGraph, edges: np.ndarray) -> np.ndarray:
    return np.searchsorted(graph.out_offsets, edges, side="right") - 1


def _label(graph: KnowledgeGraph, identifier: str) -> str:
    """The label of a node, "" if it is not in the graph."""
    number = graph.find_number(identifier)
    return "" if number < 0 else graph.node_table["label"][number].as_py()


def _relation_label(graph: KnowledgeGraph, identifier: str) -> str:
    return graph.relation(identifier).label if identifier in graph.relation_ids else ""
