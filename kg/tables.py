"""The files of a graph, and what every builder of one needs to write them.

A builder (`kg.build` for Wikidata's dumps, `kg.rdf.build` for RDF) brings nodes,
relations and triples as columns; here triples become sorted and unique, names
unique, and the tables and adjacency arrays go to disk. The same graph gives the
same bytes, whoever built it.

Files, for n nodes, r relations, m triples:

    nodes.parquet      row = node number: items by number of their Q id, then all other nodes by id
    relations.parquet  row = relation number: those with a triple only; Wikidata's by number, others by id
    triples.parquet    subject, relation, object (int32), rank; unique, sorted; optional qualifiers
    csr/               what `kg.graph.KnowledgeGraph` maps into memory:
        out_offsets int64[n+1], out_relations int32[m], out_objects int32[m], out_preferred bool[m]
        in_offsets int64[n+1], in_relations int32[m], in_subjects int32[m], in_edge_numbers int64[m]
        item_numbers int32[items], nodes.arrow, relations.arrow (the two tables, uncompressed)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = [
    "NODE_SCHEMA",
    "QUALIFIERS",
    "RELATION_SCHEMA",
    "SUBPROPERTIES",
    "TRIPLE_SCHEMA",
    "Triples",
    "unique_literals",
    "unique_names",
    "unique_triples",
    "write_graph_files",
    "write_subproperties",
]

NODE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("label", pa.string()),
        ("description", pa.string()),
        ("aliases", pa.list_(pa.string())),
        ("types", pa.list_(pa.string())),
        ("kind", pa.string()),
        ("value", pa.string()),
    ]
)
RELATION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("description", pa.string()),
        ("aliases", pa.list_(pa.string())),
        ("datatype", pa.string()),
        ("count", pa.int64()),
    ]
)
TRIPLE_SCHEMA = pa.schema(
    [("subject", pa.int32()), ("relation", pa.int32()), ("object", pa.int32()), ("rank", pa.string())]
)
# The optional last column of the triples: (relation id, node id) pairs; the ids need not be in the graph.
QUALIFIERS = pa.field("qualifiers", pa.list_(pa.struct([("relation", pa.string()), ("object", pa.string())])))

SUBPROPERTIES = "subproperties.txt"

_MAPPED_ROWS = 1 << 16  # rows of a record batch in the memory-mapped tables
_GROUP_ROWS = 1 << 18  # rows of a row group in the Parquet files


@dataclass(frozen=True)
class Triples:
    """Triples as columns: int32[m] node number, relation number, node number; bool[m]; optionally `QUALIFIERS`."""

    subject: np.ndarray
    relation: np.ndarray
    object: np.ndarray
    preferred: np.ndarray
    qualifiers: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.subject)


def unique_triples(triples: Triples) -> Triples:
    """Sort by (subject, relation, object) and keep each triple once, as preferred if any of its rows is.

    Of equal triples' qualifiers those of the first preferred row count, in the order given.
    """
    keys = [triples.subject, triples.relation, triples.object, ~triples.preferred]
    order = _order(keys, stable=triples.qualifiers is not None)
    first = np.ones(len(order), dtype=bool)
    if len(order):
        first[1:] = False
    for column in keys[:3]:
        column = column[order]
        first[1:] |= column[1:] != column[:-1]
    order = order[first]
    qualifiers = None if triples.qualifiers is None else triples.qualifiers.take(pa.array(order))
    return Triples(
        triples.subject[order], triples.relation[order], triples.object[order], triples.preferred[order], qualifiers
    )


def unique_literals(found: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """One row an id, sorted by id, with the least of its values; and int32[rows]: each row's number there.

    Args:
        found: strings "id", "name", "kind", "value", a row a literal of a statement.
    """
    found = found.combine_chunks()
    order = pc.sort_indices(found, sort_keys=[("id", "ascending"), ("value", "ascending")])
    sorted_ids = found["id"].take(order)
    first = np.ones(len(order), dtype=bool)
    if len(order) > 1:
        first[1:] = pc.not_equal(sorted_ids[1:], sorted_ids[:-1]).to_numpy()
    number = np.empty(len(order), dtype=np.int32)
    number[order.to_numpy()] = np.cumsum(first, dtype=np.int32) - 1
    return found.take(order.filter(pa.array(first))).combine_chunks(), number


def unique_names(titles: pa.ChunkedArray, labels: pa.ChunkedArray, ids: pa.Array, gap: str) -> pa.Array:
    """A name for each item: the title, else the label, with ``gap`` for spaces; the id is added where names collide.

    Of items with one name, a single one with a title keeps it as it is. All arrays are strings or all large strings.
    """
    titled = pc.not_equal(titles, "")
    plain = pc.if_else(titled, titles, labels)
    names = pc.replace_substring(plain, " ", gap).combine_chunks()
    fixed = titled.combine_chunks().to_numpy(zero_copy_only=False)
    opening, closing, nothing = (pa.scalar(text, names.type) for text in ("(", ")", ""))
    bracketed = pc.binary_join_element_wise(opening, ids, closing, nothing)
    while True:
        codes = names.dictionary_encode().indices.to_numpy()
        shared = np.bincount(codes)[codes] > 1
        if not shared.any():
            return names
        titles_with_name = np.bincount(codes, weights=fixed)[codes]
        changed = shared & ~(fixed & (titles_with_name == 1))
        longer = pc.binary_join_element_wise(names, bracketed, pa.scalar(gap, names.type))
        names = pc.if_else(pa.array(changed), longer, names)


def write_graph_files(
    nodes: pa.Table | Iterable[pa.Table],
    relations: pa.Table,
    triples: Triples,
    item_numbers: np.ndarray,
    folder: Path,
) -> None:
    """Write all files of a graph.

    Args:
        nodes: `NODE_SCHEMA`, by node number, in one table or as many as are convenient.
        relations: `RELATION_SCHEMA`, by relation number.
        triples: sorted and unique, as `unique_triples` gives them.
        item_numbers: int32[items], numbers of the Q ids that the first rows of ``nodes`` have; empty where ids
            are not Wikidata's, and then all nodes are sorted by id.
        folder: where to; exists.
    """
    csr = folder / "csr"
    csr.mkdir(exist_ok=True)
    tables = [nodes] if isinstance(nodes, pa.Table) else nodes
    node_count = _write_table(tables, NODE_SCHEMA, folder / "nodes.parquet", csr / "nodes.arrow")
    _write_table([relations], RELATION_SCHEMA, folder / "relations.parquet", csr / "relations.arrow")
    _write_triples(triples, folder / "triples.parquet")
    _write_adjacency(triples, node_count, csr)
    np.save(csr / "item_numbers.npy", item_numbers.astype(np.int32))


def write_subproperties(links: Iterable[tuple[str, str]], folder: Path) -> None:
    """Write ``subproperties.txt``: a relation's id and, behind a tab, that of a parent of it; no file without links."""
    if lines := [f"{relation}\t{parent}\n" for relation, parent in links]:
        (folder / SUBPROPERTIES).write_text("".join(lines), encoding="utf-8")


def _write_table(tables: Iterable[pa.Table], schema: pa.Schema, parquet: Path, mapped: Path) -> int:
    """Write both forms of a table; returns its number of rows."""
    rows = 0
    with (
        pq.ParquetWriter(parquet, schema, compression="zstd") as writer,
        pa.OSFile(str(mapped), "wb") as sink,
        pa.ipc.new_file(sink, schema) as mapped_writer,
    ):
        for table in _regrouped(tables):
            writer.write_table(table)
            mapped_writer.write_table(table, max_chunksize=_MAPPED_ROWS)
            rows += len(table)
    return rows


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `_GROUP_ROWS` and one chunk, however they came."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        for start, end in _slices(len(table), _GROUP_ROWS):
            part = table.slice(start, end - start)
            if rows + len(part) >= _GROUP_ROWS:
                missing = _GROUP_ROWS - rows
                yield pa.concat_tables([*waiting, part.slice(0, missing)]).combine_chunks()
                part, waiting, rows = part.slice(missing), [], 0
            if len(part):
                waiting.append(part)
                rows += len(part)
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _write_triples(triples: Triples, path: Path) -> None:
    schema = TRIPLE_SCHEMA if triples.qualifiers is None else TRIPLE_SCHEMA.append(QUALIFIERS)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start, end in _slices(len(triples), 1 << 20):
            columns = [pa.array(c[start:end]) for c in (triples.subject, triples.relation, triples.object)]
            columns.append(pc.if_else(pa.array(triples.preferred[start:end]), "preferred", "normal"))
            if triples.qualifiers is not None:
                columns.append(triples.qualifiers.slice(start, end - start))
            writer.write_table(pa.table(columns, schema=schema))


def _write_adjacency(triples: Triples, nodes: int, folder: Path) -> None:
    subject, relation, target = triples.subject, triples.relation, triples.object
    order = _order([target, relation, subject])
    arrays = {
        "out_offsets": _offsets(subject, nodes),
        "out_relations": relation,
        "out_objects": target,
        "out_preferred": triples.preferred,
        "in_offsets": _offsets(target, nodes),
        "in_relations": relation[order],
        "in_subjects": subject[order],
        "in_edge_numbers": order.astype(np.int64),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _order(columns: Sequence[np.ndarray], stable: bool = False) -> np.ndarray:
    """int64[rows]: the order by columns of numbers ≥ 0, the first one most significant; equal rows in any order
    unless ``stable``.

    Packed into one integer a row, as nearly always fits, 15M rows sort 6 times as fast as by `numpy.lexsort`.
    """
    sizes = [int(column.max()) + 1 if len(column) else 1 for column in columns]
    if math.prod(sizes) >= 1 << 63:
        return np.lexsort(tuple(reversed(columns)))
    packed = np.zeros(len(columns[0]), dtype=np.int64)
    for column, size in zip(columns, sizes, strict=True):
        packed *= size
        packed += column
    return np.argsort(packed, kind="stable" if stable else None)


def _offsets(numbers: np.ndarray, nodes: int) -> np.ndarray:
    """int64[nodes + 1]: where the run of each number begins in the sorted array."""
    offsets = np.zeros(nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(numbers, minlength=nodes), out=offsets[1:])
    return offsets


def _slices(length: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, size):
        yield start, min(start + size, length)
