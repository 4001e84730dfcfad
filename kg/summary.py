"""A graph at a glance: what a person wants to know of it, as JSON-ready data.

`graph_summary` counts nodes, relations, triples, classes and components and
says where names are missing, column by column: nothing loops over nodes, so
millions of them take seconds. `kg.plots` draws the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.algorithms import weak_components
from kg.graph import KnowledgeGraph

__all__ = ["graph_summary"]

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_LARGEST = 10  # components, classes and hubs that are listed
_BINS_PER_DOUBLING = 2


def graph_summary(graph: KnowledgeGraph) -> dict[str, Any]:
    """What a person wants to know of a graph at a glance, as JSON-ready data.

    Returns:
        ``nodes``, ``relations``, ``triples``, ``preferred_triples``: counts. ``kinds``: nodes by kind;
        ``triples_by_kind``: triples by the kind of their object. ``degree``, ``out_degree``, ``in_degree``:
        quantiles, mean, and ``histogram``: nodes with ``low`` ≤ degree ≤ ``high``, bins of growing width, degree 0
        left out. ``isolated``: nodes without a triple. ``components``: number of weakly connected components,
        nodes and share of the largest, ``sizes`` of the ten largest, ``histogram``: components by size.
        ``relation_counts``: id, label, triples and their share of each relation, most frequent first.
        ``classes``: the ten classes with most entities (``types`` of the nodes), ``hubs``: the ten nodes with most
        triples. ``missing``: how many entities and relations lack a label, a description and so on.
    """
    out_degree, in_degree = np.diff(graph.out_offsets), np.diff(graph.in_offsets)
    degree = out_degree + in_degree
    kinds = graph.node_table["kind"].combine_chunks().dictionary_encode()
    return {
        "nodes": graph.node_count,
        "relations": graph.relation_count,
        "triples": graph.triple_count,
        "preferred_triples": int(np.count_nonzero(graph.out_preferred)),
        "kinds": _by_kind(kinds, None),
        "triples_by_kind": _by_kind(kinds, in_degree),
        "degree": _distribution(degree),
        "out_degree": _distribution(out_degree),
        "in_degree": _distribution(in_degree),
        "isolated": int(np.count_nonzero(degree == 0)),
        "components": _components(graph),
        "relation_counts": _relation_counts(graph),
        "classes": _classes(graph),
        "hubs": _hubs(graph, degree),
        "missing": _missing(graph, kinds),
    }


def _by_kind(kinds: pa.DictionaryArray, weights: np.ndarray | None) -> dict[str, int]:
    """Kind -> number of nodes, or sum of ``weights`` (int64[nodes])."""
    names = kinds.dictionary.to_pylist()
    counts = np.bincount(kinds.indices.to_numpy(), weights=weights, minlength=len(names))
    return {name: int(count) for name, count in sorted(zip(names, counts.tolist(), strict=True))}


def _distribution(degrees: np.ndarray) -> dict[str, Any]:
    values = np.quantile(degrees, _QUANTILES) if len(degrees) else np.zeros(len(_QUANTILES))
    named: dict[str, Any] = {
        f"q{round(100 * share)}": float(value) for share, value in zip(_QUANTILES, values, strict=True)
    }
    named["mean"] = round(float(degrees.mean()), 3) if len(degrees) else 0.0
    named["histogram"] = _histogram(degrees, "nodes")
    return named


def _histogram(values: np.ndarray, unit: str) -> list[dict[str, int]]:
    """How many of the positive ``values`` lie in each bin, from the first to the last that is not empty."""
    if not len(values) or not values.max():
        return []
    doublings = int(values.max()).bit_length() + 1
    edges = np.unique(np.floor(2 ** (np.arange(doublings * _BINS_PER_DOUBLING) / _BINS_PER_DOUBLING)).astype(np.int64))
    edges = edges[: np.searchsorted(edges, values.max(), side="right") + 1]
    counts = np.diff(np.concatenate([[0], np.cumsum(np.bincount(values))])[np.minimum(edges, values.max() + 1)])
    return [
        {"low": int(low), "high": int(high) - 1, unit: int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]


def _components(graph: KnowledgeGraph) -> dict[str, Any]:
    sizes = np.bincount(weak_components(graph)) if graph.node_count else np.zeros(0, dtype=np.int64)
    largest = int(sizes[0]) if len(sizes) else 0
    return {
        "count": len(sizes),
        "largest": largest,
        "largest_share": round(largest / max(graph.node_count, 1), 6),
        "sizes": sizes[:_LARGEST].tolist(),
        "histogram": _histogram(sizes, "components"),
    }


def _relation_counts(graph: KnowledgeGraph) -> list[dict[str, Any]]:
    rows = graph.relation_table.select(["id", "label", "count"]).to_pylist()
    for row in rows:
        row["share"] = round(row["count"] / max(graph.triple_count, 1), 6)
    return sorted(rows, key=lambda row: -row["count"])


def _classes(graph: KnowledgeGraph) -> list[dict[str, Any]]:
    """The classes with most entities; one that is not in the graph has no label."""
    counted = pc.value_counts(pc.list_flatten(graph.node_table["types"]))
    order = np.lexsort((np.arange(len(counted)), -counted.field("counts").to_numpy()))[:_LARGEST]
    rows = counted.take(pa.array(order)).to_pylist()
    return [{"id": row["values"], "label": _label(graph, row["values"]), "entities": row["counts"]} for row in rows]


def _label(graph: KnowledgeGraph, identifier: str) -> str:
    number = graph.find_number(identifier)
    return "" if number < 0 else graph.node_table["label"][number].as_py()


def _hubs(graph: KnowledgeGraph, degree: np.ndarray) -> list[dict[str, Any]]:
    most = np.argpartition(-degree, _LARGEST)[:_LARGEST] if len(degree) > _LARGEST else np.arange(len(degree))
    order = most[np.lexsort((most, -degree[most]))]
    rows = graph.node_table.select(["id", "label"]).take(pa.array(order)).to_pylist()
    return [row | {"triples": int(count)} for row, count in zip(rows, degree[order], strict=True)]


def _missing(graph: KnowledgeGraph, kinds: pa.DictionaryArray) -> dict[str, dict[str, int]]:
    """What -> column -> rows where it is empty; a label that only repeats the id counts as empty."""
    entities = pc.equal(kinds.cast(pa.string()), "entity")
    return {
        "entities": _empty(graph.node_table, ("label", "description", "aliases", "types"), entities),
        "relations": _empty(graph.relation_table, ("label", "description", "aliases"), None),
    }


def _empty(table: pa.Table, columns: tuple[str, ...], wanted: pa.Array | None) -> dict[str, int]:
    counts = {}
    for name in columns:
        column = table[name]
        if pa.types.is_list(column.type):
            empty = pc.equal(pc.list_value_length(column), 0)
        elif name == "label":
            empty = pc.or_(pc.equal(column, ""), pc.equal(column, table["id"]))
        else:
            empty = pc.equal(column, "")
        counts[name] = int(pc.sum(empty if wanted is None else pc.and_(empty, wanted)).as_py() or 0)
    return counts
