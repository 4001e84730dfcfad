"""The graph as the sampler sees it: plain arrays, with what may not be drawn.

A `KnowledgeGraph` has them; any other `networkx.MultiDiGraph`
is numbered here: nodes in the graph's order, relations (the keys of the edges) by
the number of their P id, or by name if they have none. Edges are numbered by
(subject, relation, object). The same graph gives the same numbers either way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph

__all__ = ["Arrays", "GraphIds", "excluded_nodes", "excluded_relations", "graph_arrays", "graph_ids"]

log = logging.getLogger(__name__)

_compiled = njit(cache=True, nogil=True)


class Arrays(NamedTuple):
    """n nodes, m edges, R relations; the in-edges of a node are sorted by (relation, subject)."""

    out_offsets: NDArray[np.int64]  # [n+1]
    out_relations: NDArray[np.int32]  # [m]
    out_objects: NDArray[np.int32]  # [m]
    in_offsets: NDArray[np.int64]  # [n+1]
    in_relations: NDArray[np.int32]  # [m]
    in_subjects: NDArray[np.int32]  # [m]
    in_edges: NDArray[np.int64]  # [m]
    subjects: NDArray[np.int32]  # [m] of the edges by number
    relation_offsets: NDArray[np.int64]  # [R+1] into relation_edges
    relation_edges: NDArray[np.int32]  # [m] edge numbers, grouped by relation
    is_entity: NDArray[np.bool_]  # [n] False for literals
    inverse_offsets: NDArray[np.int32]  # [R+1] into inverses
    inverses: NDArray[np.int32]  # the relations inverse to each
    lone_edges: NDArray[np.int32]  # whose subject has no other triplet, by (object, edge)
    lone_objects: NDArray[np.int32]  # of each of these


class GraphIds(NamedTuple):
    """The ids that the numbers stand for."""

    nodes: pa.Array | Sequence[Any]
    relations: Sequence[Any]


def graph_arrays(graph: nx.MultiDiGraph) -> Arrays:
    """The arrays of a graph.

    Raises:
        InputError: the graph is no `networkx.MultiDiGraph`, has no edge, or more than 2^31.
    """
    if not (graph.is_directed() and graph.is_multigraph()):
        raise InputError(f"Sets are drawn from a networkx.MultiDiGraph, not from a {type(graph).__name__}.")
    columns = _mapped(graph) if isinstance(graph, KnowledgeGraph) else _numbered(graph)
    edges = len(columns["out_objects"])
    if not 0 < edges < 1 << 31:
        place = f"graph {graph.folder}" if isinstance(graph, KnowledgeGraph) else "graph"
        raise InputError(
            f"The {place} has {edges:,} triplets; the sampler takes from 1 to 2,147,483,647. Check which relations "
            "and entities kg.relations and kg.entities select."
        )
    n_relations = columns.pop("n_relations")
    columns["subjects"] = np.repeat(
        np.arange(len(columns["is_entity"]), dtype=np.int32), np.diff(columns["out_offsets"])
    )
    columns["relation_offsets"], columns["relation_edges"] = _by_relation(columns["out_relations"], n_relations)
    columns = {name: _plain(column) for name, column in columns.items()}
    offsets, inverses = _inverse_relations(columns)
    lone = _lone_edges(columns)
    others = (offsets, inverses, lone, columns["out_objects"][lone])
    return Arrays(**columns, **dict(zip(Arrays._fields[-4:], map(_plain, others), strict=True)))


def graph_ids(graph: nx.MultiDiGraph) -> GraphIds:
    """The ids of the nodes and relations by the numbers of `graph_arrays`."""
    if isinstance(graph, KnowledgeGraph):
        return GraphIds(graph.node_table.column("id").combine_chunks(), graph.relation_ids)
    return GraphIds(list(graph), _relation_order(graph))


def excluded_relations(relations: Sequence[Any], identifiers: Sequence[str]) -> NDArray[np.bool_]:
    """bool[R]: which relations ``identifiers`` name.

    Raises:
        ConfigError: the graph has none of that id.
    """
    numbers = {identifier: number for number, identifier in enumerate(relations)}
    excluded = np.zeros(len(relations), np.bool_)
    for identifier in identifiers:
        if identifier not in numbers:
            raise ConfigError(
                f"'sampling.exclude_relations' names {identifier!r}, which is no relation of the graph. "
                f"Its ids look like {relations[0]!r}."
            )
        excluded[numbers[identifier]] = True
    return excluded


def excluded_nodes(graph: nx.MultiDiGraph, classes: Sequence[str]) -> NDArray[np.bool_]:
    """bool[n]: which nodes are an instance of one of ``classes``, by their attribute ``types``."""
    if not classes:
        return np.zeros(graph.number_of_nodes(), np.bool_)
    excluded = _instances(graph, classes)
    if not excluded.any():
        log.warning("No entity of the graph is an instance of %s (sampling.exclude_types).", " or ".join(classes))
    return excluded


def _instances(graph: nx.MultiDiGraph, classes: Sequence[str]) -> NDArray[np.bool_]:
    if not isinstance(graph, KnowledgeGraph):
        unwanted = set(classes)
        return np.array([not unwanted.isdisjoint(types or ()) for _, types in graph.nodes(data="types")], np.bool_)
    types = graph.node_table.column("types").combine_chunks()
    hits = pc.is_in(types.flatten(), pa.array(classes, pa.string())).to_numpy(zero_copy_only=False)
    excluded = np.zeros(len(types), np.bool_)
    excluded[pc.list_parent_indices(types).to_numpy()[hits]] = True
    return excluded


def _mapped(graph: KnowledgeGraph) -> dict[str, Any]:
    """What every step reads is copied: walks over copies, which lie in huge pages, are an eighth faster."""
    return {
        "out_offsets": np.array(graph.out_offsets),
        "out_relations": np.array(graph.out_relations),
        "out_objects": np.array(graph.out_objects),
        "in_offsets": np.array(graph.in_offsets),
        "in_relations": np.array(graph.in_relations),
        "in_subjects": np.array(graph.in_subjects),
        "in_edges": graph.in_edge_numbers,
        "is_entity": pc.equal(graph.node_table.column("kind"), "entity").to_numpy().astype(np.bool_),
        "n_relations": graph.relation_count,
    }


def _numbered(graph: nx.MultiDiGraph) -> dict[str, Any]:
    nodes = {node: number for number, node in enumerate(graph)}
    relations = {relation: number for number, relation in enumerate(_relation_order(graph))}
    rows = sorted((nodes[s], relations[r], nodes[o]) for s, o, r in graph.edges(keys=True))
    table = np.array(rows, np.int32).reshape(-1, 3)
    order = np.lexsort((table[:, 0], table[:, 1], table[:, 2]))

    def offsets(column: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.bincount(column, minlength=len(nodes)))]).astype(np.int64)

    kinds = [kind for _, kind in graph.nodes(data="kind", default="entity")]
    return {
        "out_offsets": offsets(table[:, 0]),
        "out_relations": table[:, 1].copy(),
        "out_objects": table[:, 2].copy(),
        "in_offsets": offsets(table[:, 2]),
        "in_relations": table[order, 1],
        "in_subjects": table[order, 0],
        "in_edges": order.astype(np.int64),
        "is_entity": np.array([kind == "entity" for kind in kinds], np.bool_),
        "n_relations": len(relations),
    }


def _relation_order(graph: nx.MultiDiGraph) -> list[Any]:
    keys = {key for _, _, key in graph.edges(keys=True)}
    if all(isinstance(key, str) and key[:1] == "P" and key[1:].isdecimal() for key in keys):
        return sorted(keys, key=lambda key: (int(key[1:]), key))
    return sorted(keys, key=lambda key: (str(key), type(key).__name__))


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only plain view: the kernels are compiled once, for memory-mapped and ordinary arrays alike."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


@_compiled
def _by_relation(relations, n_relations):  # type: ignore[no-untyped-def]
    """Counting sort: (offsets int64[R+1], edge numbers int32[m]), ascending inside a relation."""
    offsets = np.zeros(n_relations + 1, np.int64)
    for relation in relations:
        offsets[relation + 1] += 1
    for relation in range(n_relations):
        offsets[relation + 1] += offsets[relation]
    cursor = offsets[:-1].copy()
    edges = np.empty(len(relations), np.int32)
    for edge in range(len(relations)):
        edges[cursor[relations[edge]]] = edge
        cursor[relations[edge]] += 1
    return offsets, edges


def _inverse_relations(columns: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The relations that are inverse to each other, as (int32[R+1], int32[pairs]).

    Two relations are inverse if, of the one with fewer triplets, at least half come with the other the opposite way
    round; a relation that is inverse to itself is symmetric, such as *spouse*.
    """
    n_relations = len(columns["relation_offsets"]) - 1
    pairs = _reversed_pairs(
        columns["subjects"],
        columns["out_relations"],
        columns["out_objects"],
        columns["out_offsets"],
        columns["in_offsets"],
        columns["in_relations"],
        columns["in_subjects"],
        np.int64(n_relations),
    )
    codes, found = np.unique(pairs, return_counts=True)
    first, second = codes // n_relations, codes % n_relations
    triplets = np.diff(columns["relation_offsets"])
    inverse = 2 * found >= np.minimum(triplets[first], triplets[second])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(first[inverse], minlength=n_relations))])
    return offsets.astype(np.int32), second[inverse].astype(np.int32)


def _lone_edges(columns: dict[str, NDArray[Any]]) -> NDArray[np.int32]:
    """int32[]: the edges whose subject has no other triplet and whose object is an entity, by (object, edge)."""
    alone = (np.diff(columns["out_offsets"]) == 1) & (np.diff(columns["in_offsets"]) == 0)
    edges = columns["out_offsets"][:-1][alone]
    edges = edges[columns["is_entity"][columns["out_objects"][edges]]]
    order: NDArray[np.int64] = edges[np.lexsort((edges, columns["out_objects"][edges]))]
    return order.astype(np.int32)


@_compiled
def _reversed_pairs(subjects, relations, objects, out_offsets, in_offsets, in_relations, in_subjects, n_relations):  # type: ignore[no-untyped-def]
    """int64[pairs]: relation * R + relation' for each edge (s, relation, o) with an edge (o, relation', s)."""
    found = np.empty(1024, np.int64)
    n = 0
    for edge in range(len(objects)):
        subject, target = subjects[edge], objects[edge]
        first, last = in_offsets[subject], in_offsets[subject + 1]
        if first == last or subject == target or out_offsets[target] == out_offsets[target + 1]:
            continue
        into = last - first <= out_offsets[target + 1] - out_offsets[target]
        if not into:
            first, last = out_offsets[target], out_offsets[target + 1]
        for place in range(first, last):
            if into and in_subjects[place] == target:
                other = in_relations[place]
            elif not into and objects[place] == subject:
                other = relations[place]
            else:
                continue
            if n == len(found):
                found = np.concatenate((found, np.empty(n, np.int64)))
            found[n] = relations[edge] * n_relations + other
            n += 1
    return found[:n]
