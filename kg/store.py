"""From the records of an ingest to the folder of a graph.

An ingest (`kg.build`) leaves its records as Parquet parts in the order of the
dump. `GraphWriter` joins them into dense node and relation numbers, unique
sorted triples and the adjacency arrays, column by column in numpy and Arrow:
memory grows with the graph that results, not with the dump. The same set of
records gives the same bytes in whatever order the dump had them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.tables import (
    NODE_SCHEMA,
    RELATION_SCHEMA,
    Triples,
    unique_literals,
    unique_names,
    unique_triples,
    write_graph_files,
)
from kg.wikidata import Property

__all__ = [
    "ENTITY_PART",
    "ITEM_CLAIM_PART",
    "LABEL_PART",
    "LITERAL_CLAIM_PART",
    "IngestTables",
    "write_graph",
]

# The parts of an ingest. "document" is the row of the statement's subject in the entity part.
ENTITY_PART = pa.schema(
    [
        ("number", pa.int32()),
        ("revision", pa.int64()),
        ("checksum", pa.uint32()),  # of the document's line; decides between versions of one revision
        ("title", pa.string()),
        ("label", pa.string()),
        ("description", pa.string()),
        ("aliases", pa.list_(pa.string())),
        ("types", pa.list_(pa.int32())),
    ]
)
ITEM_CLAIM_PART = pa.schema(
    [("document", pa.int32()), ("property", pa.int32()), ("object", pa.int32()), ("preferred", pa.bool_())]
)
LITERAL_CLAIM_PART = pa.schema(
    [
        ("document", pa.int32()),
        ("property", pa.int32()),
        ("datatype", pa.string()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("unit", pa.int32()),
        ("value", pa.string()),
        ("preferred", pa.bool_()),
    ]
)
LABEL_PART = pa.schema([("number", pa.int32()), ("revision", pa.int64()), ("label", pa.string())])

_MAX_REDIRECTS = 5  # in a row; Wikidata resolves chains, so more than one is rare and more than five a cycle


@dataclass(frozen=True)
class IngestTables:
    """What an ingest has found.

    Attributes:
        entities, items, literals, labels: Parquet files in the form of the four part schemas.
        properties: number of the P id -> its document.
        datatypes: number of the P id -> datatype that its statements tell.
        redirects: int32[k, 2], numbers of the Q ids (merged item, item it was merged into).
        string_datatypes: kept datatypes for strings whose statement does not tell the datatype.
    """

    entities: Path
    items: Path
    literals: Path
    labels: Path
    properties: Mapping[int, Property]
    datatypes: Mapping[int, str]
    redirects: np.ndarray
    string_datatypes: frozenset[str]


@dataclass(frozen=True)
class _Claims:
    """Statements as columns: subject and object are node numbers, property is the number of a P id."""

    subject: np.ndarray
    property: np.ndarray
    object: np.ndarray
    preferred: np.ndarray


def write_graph(tables: IngestTables, folder: Path) -> dict[str, Any]:
    """Join the parts and write the files of a graph.

    Returns:
        ``duplicates`` (documents of an item that was kept from another document), ``nodes`` by
        kind, ``relations``, ``triples``, ``relations_without_label``, and ``dropped``: statements
        of the parts that are no triple, by reason.
    """
    dropped: Counter[str] = Counter()
    resolve = _Redirection(tables.redirects)
    entities = pq.read_table(tables.entities)
    rows, node_of_row = _one_row_an_item(entities)
    entities = entities.take(rows).combine_chunks()
    numbers = entities["number"].to_numpy()

    literal_claims, literals = _literal_claims(tables, entities, node_of_row, resolve, dropped)
    item_claims = _item_claims(tables.items, numbers, node_of_row, resolve, dropped)
    claims = _Claims(
        *(
            np.concatenate([getattr(item_claims, name), getattr(literal_claims, name)])
            for name in ("subject", "property", "object", "preferred")
        )
    )
    properties, relation = np.unique(claims.property, return_inverse=True)
    triples = unique_triples(Triples(claims.subject, relation.astype(np.int32), claims.object, claims.preferred))
    dropped["duplicate"] += len(claims.subject) - len(triples)

    nodes = _nodes(entities, literals, resolve)
    relations, without_label = _relations(properties, np.bincount(triples.relation), tables)
    write_graph_files(nodes, relations, triples, numbers, folder)
    kinds = Counter({"entity": len(numbers)})
    kinds.update(dict(zip(*_value_counts(literals["kind"]), strict=True)))
    return {
        "duplicates": len(node_of_row) - len(numbers),
        "nodes": {"total": len(nodes), **dict(sorted(kinds.items()))},
        "relations": len(relations),
        "triples": len(triples),
        "relations_without_label": without_label,
        "dropped": {reason: count for reason, count in dropped.items() if count},
    }


def _one_row_an_item(entities: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Choose one document for each item, the latest: (its rows by item number, node number of each row or -1)."""
    number, revision, checksum = (entities[name].to_numpy() for name in ("number", "revision", "checksum"))
    order = np.lexsort((checksum, revision, number))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = number[order[1:]] != number[order[:-1]]
    rows = order[last]
    node_of_row = np.full(len(order), -1, dtype=np.int32)
    node_of_row[rows] = np.arange(len(rows), dtype=np.int32)
    return rows, node_of_row


class _Redirection:
    """A function from numbers of items, merged ones among them, to those they were merged into."""

    def __init__(self, redirects: np.ndarray) -> None:
        pairs = redirects[np.lexsort((redirects[:, 1], redirects[:, 0]))]
        self._sources, first = np.unique(pairs[:, 0], return_index=True)
        self._targets = pairs[first, 1]

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        for _ in range(_MAX_REDIRECTS if len(self._sources) else 0):
            place, found = _find(self._sources, numbers)
            if not found.any():
                break
            numbers = np.where(found, self._targets[place], numbers)
        return numbers


def _find(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each value in the sorted ``keys`` (any valid place if absent), and whether it is there."""
    if not len(keys):
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return place, keys[place] == values


def _item_claims(
    path: Path, numbers: np.ndarray, node_of_row: np.ndarray, resolve: _Redirection, dropped: Counter[str]
) -> _Claims:
    parts = []
    for batch in pq.ParquetFile(path).iter_batches():
        document, name, target, preferred = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        subject = node_of_row[document]
        place, found = _find(numbers, resolve(target))
        dropped["duplicate_document"] += int((subject < 0).sum())
        dropped["object_not_kept"] += int(((subject >= 0) & ~found).sum())
        kept = (subject >= 0) & found
        parts.append((subject[kept], name[kept], place[kept].astype(np.int32), preferred[kept]))
    return _concatenated(parts)


def _literal_claims(
    tables: IngestTables, entities: pa.Table, node_of_row: np.ndarray, resolve: _Redirection, dropped: Counter[str]
) -> tuple[_Claims, pa.Table]:
    """The statements with a literal object, and the literals (id, name, kind, value), sorted by id."""
    units, unit_labels = _unit_labels(tables, entities, resolve)
    parts, found = [], []
    for batch in pq.ParquetFile(tables.literals).iter_batches():
        kept = _literal_filter(batch, tables, node_of_row, units, resolve, dropped)
        batch = batch.filter(pa.array(kept))
        unit = resolve(batch["unit"].to_numpy())
        place, _ = _find(units, unit)
        label = unit_labels.take(pa.array(place, mask=unit == 0))
        name = pc.binary_join_element_wise(batch["text"], label, " ", null_handling="skip")
        identifier = pc.binary_join_element_wise(batch["kind"], name, ":")
        found.append(pa.table({"id": identifier, "name": name, "kind": batch["kind"], "value": batch["value"]}))
        subject = node_of_row[batch["document"].to_numpy()]
        preferred = batch["preferred"].to_numpy(zero_copy_only=False)
        parts.append((subject, batch["property"].to_numpy(), np.zeros(len(subject), np.int32), preferred))
    claims = _concatenated(parts)
    literals, number = unique_literals(pa.concat_tables(found) if found else _no_literals())
    np.add(number, len(entities), out=claims.object, casting="same_kind")
    return claims, literals


def _literal_filter(
    batch: pa.RecordBatch,
    tables: IngestTables,
    node_of_row: np.ndarray,
    units: np.ndarray,
    resolve: _Redirection,
    dropped: Counter[str],
) -> np.ndarray:
    """bool[rows]: which statements become triples; the others are counted."""
    kept = node_of_row[batch["document"].to_numpy()] >= 0
    dropped["duplicate_document"] += int((~kept).sum())

    unknown = pc.equal(batch["datatype"], "").to_numpy(zero_copy_only=False)
    if unknown.any():
        no_string = [
            number
            for number, document in tables.properties.items()
            if document.datatype and document.datatype not in tables.string_datatypes
        ]
        refused = kept & unknown & np.isin(batch["property"].to_numpy(), no_string)
        dropped["datatype_not_kept"] += int(refused.sum())
        kept &= ~refused

    unit = resolve(batch["unit"].to_numpy())
    nameless = kept & (unit != 0) & ~_find(units, unit)[1]
    dropped["unit_without_label"] += int(nameless.sum())
    return kept & ~nameless


def _unit_labels(tables: IngestTables, entities: pa.Table, resolve: _Redirection) -> tuple[np.ndarray, pa.Array]:
    """The units that have a label: numbers of their items (sorted) and the labels."""
    used = [np.zeros(1, np.int32)]
    used += [
        np.unique(batch["unit"].to_numpy()) for batch in pq.ParquetFile(tables.literals).iter_batches(columns=["unit"])
    ]
    units = np.unique(resolve(np.unique(np.concatenate(used))))
    labels: dict[int, tuple[int, str]] = {}
    for batch in pq.ParquetFile(tables.labels).iter_batches():
        wanted = batch.filter(pa.array(np.isin(batch["number"].to_numpy(), units)))
        for row in wanted.to_pylist():
            candidate = row["revision"], row["label"]
            labels[row["number"]] = max(labels.get(row["number"], candidate), candidate)
    place, found = _find(entities["number"].to_numpy(), units)
    for number, label in zip(units[found], entities["label"].take(place[found]).to_pylist(), strict=True):
        labels[int(number)] = (0, label)  # the document that was kept has the last word
    known = sorted(labels)
    return np.array(known, dtype=np.int32), pa.array([labels[number][1] for number in known], pa.string())


def _no_literals() -> pa.Table:
    return pa.schema([(name, pa.string()) for name in ("id", "name", "kind", "value")]).empty_table()


def _concatenated(parts: Sequence[tuple[np.ndarray, ...]]) -> _Claims:
    types = (np.int32, np.int32, np.int32, np.bool_)
    return _Claims(
        *(
            np.concatenate([np.empty(0, dtype), *(part[column] for part in parts)]).astype(dtype)
            for column, dtype in enumerate(types)
        )
    )


def _nodes(entities: pa.Table, literals: pa.Table, resolve: _Redirection) -> pa.Table:
    ids = _prefixed("Q", entities["number"].combine_chunks())
    types = entities["types"].combine_chunks()
    count = len(literals)
    columns = {
        "id": [ids, literals["id"]],
        "name": [unique_names(entities["title"], entities["label"], ids, "_"), literals["name"]],
        "label": [entities["label"], literals["name"]],
        "description": [entities["description"], pa.repeat(pa.scalar(""), count)],
        "aliases": [entities["aliases"], _empty_lists(count)],
        "types": [_type_ids(types, resolve), _empty_lists(count)],
        "kind": [pa.repeat(pa.scalar("entity"), len(entities)), literals["kind"]],
        "value": [pa.nulls(len(entities), pa.string()), literals["value"]],
    }
    arrays = [_chunked(columns[field.name], field.type) for field in NODE_SCHEMA]
    return pa.table(arrays, schema=NODE_SCHEMA).combine_chunks()


def _empty_lists(count: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()))


def _chunked(parts: list[pa.Array | pa.ChunkedArray], dtype: pa.DataType) -> pa.ChunkedArray:
    chunks: list[pa.Array] = []
    for part in parts:
        chunks += part.chunks if isinstance(part, pa.ChunkedArray) else [part]
    return pa.chunked_array(chunks, type=dtype)


def _type_ids(types: pa.ListArray, resolve: _Redirection) -> pa.ListArray:
    lengths = pc.list_value_length(types).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = resolve(types.flatten().to_numpy())
    return pa.ListArray.from_arrays(pa.array(offsets), _prefixed("Q", pa.array(values, pa.int32())))


def _prefixed(letter: str, numbers: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(letter), numbers.cast(pa.string()), "")


def _relations(properties: np.ndarray, counts: np.ndarray, tables: IngestTables) -> tuple[pa.Table, int]:
    """The relations that occur, and how many of them have their id for want of a label."""
    rows = []
    for number, count in zip(properties.tolist(), counts.tolist(), strict=True):
        name = f"P{number}"
        document = tables.properties.get(number) or Property(number, 0, "", "", [], "")
        datatype = document.datatype or tables.datatypes.get(number, "string")
        rows.append((name, document.label, document.description, document.aliases, datatype, count))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in RELATION_SCHEMA]
    ids, labels = (pa.chunked_array([column], pa.string()) for column in columns[:2])
    without_label = columns[1].count("")
    columns[1] = unique_names(pc.if_else(pc.equal(labels, ""), ids, ""), labels, ids.combine_chunks(), " ").to_pylist()
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, RELATION_SCHEMA, strict=True)], RELATION_SCHEMA
    ), without_label


def _value_counts(column: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counted = pc.value_counts(column.combine_chunks())
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()
