"""From the parts of an ingest to the folder of a graph.

`kg.wikidata.ingest` leaves its records as Parquet parts, slice by slice. `join_parts`
chooses one document for each item, follows redirects, drops statements whose
object is not kept, gives nodes and relations dense numbers and writes the
graph's files (`kg.tables`). Statements are columns of numbers in memory; names
are read last, a range of nodes at a time, so memory grows with the graph that
results and not with the dump. The same set of records gives the same bytes in
whatever slices and order they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.config import GraphConfig
from kg.tables import (
    NODE_SCHEMA,
    QUALIFIERS,
    RELATION_SCHEMA,
    Triples,
    unique_literals,
    unique_names,
    unique_triples,
    write_graph_files,
    write_subproperties,
)
from kg.wikidata.ingest import PARTS, part_files
from kg.wikidata.wikibase import item_number

__all__ = ["join_parts"]

_MAX_REDIRECTS = 5  # in a row; Wikidata resolves chains, so more than one is rare and more than five a cycle
_ROWS_AT_ONCE = 1 << 21  # entities whose names are in memory together
_DUPLICATE, _OTHER_CLASS = -1, -2  # instead of the node number, of documents that were left out
_ENTITIES = PARTS["entities"]
_LITERALS = pa.schema([(name, pa.large_string()) for name in ("id", "name", "kind", "value")])
_WAITING_LITERALS = 1 << 21


def join_parts(
    config: GraphConfig, parts: Path, slices: int, datatypes: dict[int, str], folder: Path
) -> dict[str, Any]:
    """Join the parts of all slices and write the files of a graph.

    Args:
        config: the selection, as far as it needs all parts: classes, degrees, datatypes of strings.
        parts: folder of the parts.
        slices: number of slices.
        datatypes: number of the P id -> datatype that the statements tell.
        folder: where the graph goes.

    Returns:
        ``duplicates`` (documents of an item that was kept from another document), ``not_in_classes``
        and ``low_degree`` (entities), ``nodes`` by kind, ``relations``, ``triples``,
        ``relations_without_label``, and by reason ``dropped`` and ``dropped_qualifiers``: statements of the
        parts that are no triple, and qualifiers of triples that are not kept.
    """
    return _Join(config, parts, slices, datatypes).write(folder)


@dataclass(frozen=True)
class _Claims:
    """Statements as columns: subject and object are node numbers, property is the number of a P id."""

    subject: np.ndarray
    property: np.ndarray
    object: np.ndarray
    preferred: np.ndarray
    qualifiers: pa.ChunkedArray | None


class _Join:
    def __init__(self, config: GraphConfig, parts: Path, slices: int, datatypes: dict[int, str]) -> None:
        self._config = config
        self._folder = parts
        self._files = {
            kind: part_files(parts, kind, range(slices))
            for kind in ("entities", "items", "literals", "labels", "subclasses", "redirects", "properties")
        }
        self._datatypes = datatypes
        self._dropped: Counter[str] = Counter()
        self._dropped_qualifiers: Counter[str] = Counter()
        self._resolve = _Redirection(self._table("redirects"))
        self._properties = _latest_rows(self._table("properties"))
        rows = [pq.read_metadata(path).num_rows for path in self._files["entities"]]
        self._first_rows = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)  # of each segment

    def write(self, folder: Path) -> dict[str, Any]:
        numbers, node_of_row, counts = self._chosen_entities()
        units = _Units(self._unit_labels(node_of_row))
        items = self._item_claims(numbers, node_of_row, units)
        literal_claims, literals = self._literal_claims(len(numbers), node_of_row, units)
        properties, triples = self._triples(items, literal_claims)
        del items, literal_claims
        triples, kept = self._well_connected(triples, len(numbers), len(literals))
        if not kept.all():
            counts["low_degree"] = int((~kept[: len(numbers)]).sum())
            node_of_row = _renumbered(node_of_row, kept[: len(numbers)])
            literals = literals.filter(pa.array(kept[len(numbers) :]))
            numbers = numbers[kept[: len(numbers)]]
        used, relation = np.unique(triples.relation, return_inverse=True)
        triples = replace(triples, relation=relation.astype(np.int32))
        relations, without_label = self._relations(properties[used], np.bincount(relation, minlength=len(used)))
        nodes = self._nodes(numbers, node_of_row, literals)
        write_graph_files(nodes, relations, triples, numbers, folder)
        write_subproperties(self._subproperties(), folder)
        kinds = Counter({"entity": len(numbers)})
        kinds.update({row["values"]: row["counts"] for row in literals["kind"].value_counts().to_pylist()})
        return {
            **counts,
            "nodes": {"total": len(numbers) + len(literals), **dict(sorted(kinds.items()))},
            "relations": len(relations),
            "triples": len(triples),
            "relations_without_label": without_label,
            "dropped": {reason: count for reason, count in self._dropped.items() if count},
            "dropped_qualifiers": {reason: count for reason, count in self._dropped_qualifiers.items() if count},
        }

    def _table(self, kind: str, columns: Sequence[str] | None = None) -> pa.Table:
        return pa.concat_tables([pq.read_table(path, columns=columns) for path in self._files[kind]])

    def _batches(self, kind: str) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """The rows of a kind of statements, with the row of each one's subject among all entities."""
        for path, first in zip(self._files[kind], self._first_rows, strict=False):
            for batch in pq.ParquetFile(path).iter_batches():
                yield batch["document"].to_numpy() + first, batch

    def _chosen_entities(self) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Numbers of the Q ids by node, node of each row or why it has none, and how many documents were left out."""
        keys = self._table("entities", ["number", "revision", "checksum"])
        rows = _latest(keys)
        duplicates, others = len(keys) - len(rows), 0
        node_of_row = np.full(len(keys), _DUPLICATE, dtype=np.int32)
        if self._config.classes:
            among = self._in_classes()[rows]
            others = int((~among).sum())
            node_of_row[rows[~among]] = _OTHER_CLASS
            rows = rows[among]
        node_of_row[rows] = np.arange(len(rows), dtype=np.int32)
        numbers = keys["number"].to_numpy()[rows]
        return numbers, node_of_row, {"duplicates": duplicates, "not_in_classes": others, "low_degree": 0}

    def _in_classes(self) -> np.ndarray:
        """bool[rows]: which entities have a wanted class or a subclass of one."""
        pairs = self._table("subclasses")
        classes, above = (self._resolve(pairs[name].to_numpy()) for name in ("class", "superclass"))
        wanted = self._resolve(np.array([item_number(item) for item in self._config.classes], dtype=np.int32))
        while True:
            wider = np.union1d(wanted, classes[np.isin(above, wanted)])
            if len(wider) == len(wanted):
                break
            wanted = wider
        found = []
        for path in self._files["entities"]:
            for batch in pq.ParquetFile(path).iter_batches(columns=["types"]):
                types = batch["types"]
                rows = pc.list_parent_indices(types).to_numpy()
                hits = np.isin(self._resolve(types.flatten().to_numpy()), wanted)
                found.append(np.bincount(rows[hits], minlength=len(types)) > 0)
        return np.concatenate([np.zeros(0, bool), *found])

    def _unit_labels(self, node_of_row: np.ndarray) -> dict[int, str]:
        """Number of the Q id -> label, of the items that serve as units and have one."""
        used = [np.zeros(0, np.int32)]
        for _, batch in self._batches("literals"):
            used.append(np.unique(batch["unit"].to_numpy()))
        for kind in ("literals", "items") if self._config.qualifiers else ():
            used += [np.unique(_flat(batch["qualifiers"], "unit")) for _, batch in self._batches(kind)]
        units = np.unique(self._resolve(np.unique(np.concatenate(used))))
        labels: dict[int, tuple[int, str]] = {}
        for path in self._files["labels"]:
            for batch in pq.ParquetFile(path).iter_batches():
                for row in batch.filter(pa.array(np.isin(batch["number"].to_numpy(), units))).to_pylist():
                    candidate = row["revision"], row["label"]
                    labels[row["number"]] = max(labels.get(row["number"], candidate), candidate)
        for path, first in zip(self._files["entities"], self._first_rows, strict=False):
            table = pq.read_table(path, columns=["number", "label"])
            chosen = node_of_row[first : first + len(table)] != _DUPLICATE  # whatever its class
            for row in table.filter(pa.array(chosen & np.isin(table["number"].to_numpy(), units))).to_pylist():
                labels[row["number"]] = (0, row["label"])  # the document that was chosen has the last word
        return {number: label for number, (_, label) in labels.items() if number}

    def _item_claims(self, numbers: np.ndarray, node_of_row: np.ndarray, units: _Units) -> _Claims:
        found = []
        for row, batch in self._batches("items"):
            subject = node_of_row[row]
            place, known = _find(numbers, self._resolve(batch["object"].to_numpy()))
            self._count_subjects(subject)
            self._dropped["object_not_kept"] += int(((subject >= 0) & ~known).sum())
            found.append(self._claims(batch, subject, place.astype(np.int32), (subject >= 0) & known, units))
        return _concatenated(found, self._config.qualifiers)

    def _count_subjects(self, subject: np.ndarray) -> None:
        """Count the statements of documents that were left out."""
        self._dropped["duplicate_document"] += int((subject == _DUPLICATE).sum())
        self._dropped["not_in_classes"] += int((subject == _OTHER_CLASS).sum())

    def _claims(
        self, batch: pa.RecordBatch, subject: np.ndarray, target: np.ndarray, kept: np.ndarray, units: _Units
    ) -> _Claims:
        """The rows of a batch that are ``kept``."""
        qualifiers = None
        if self._config.qualifiers:
            chosen = batch["qualifiers"].filter(pa.array(kept))
            qualifiers = pa.chunked_array([self._qualifier_ids(chosen, units)])
        preferred = batch["preferred"].to_numpy(zero_copy_only=False)
        return _Claims(subject[kept], batch["property"].to_numpy()[kept], target[kept], preferred[kept], qualifiers)

    def _qualifier_ids(self, qualifiers: pa.ListArray, units: _Units) -> pa.ListArray:
        """The qualifiers of the parts as pairs of ids."""
        flat = qualifiers.flatten()
        untold = pc.equal(flat.field("kind"), "").to_numpy(zero_copy_only=False)
        kept = ~(untold & self._refuses_strings(flat.field("property").to_numpy()))
        self._dropped_qualifiers["datatype_not_kept"] += int((~kept).sum())
        lengths = np.bincount(pc.list_parent_indices(qualifiers).to_numpy()[kept], minlength=len(qualifiers))
        flat = flat.filter(pa.array(kept))
        item = self._resolve(flat.field("item").to_numpy())
        text = units.named(flat.field("text"), self._resolve(flat.field("unit").to_numpy()))
        kind = pc.if_else(pc.equal(flat.field("kind"), ""), "string", flat.field("kind"))
        literal = pc.binary_join_element_wise(kind, text, ":")
        target = pc.if_else(pa.array(item > 0), _prefixed("Q", item), literal)
        pairs = pa.StructArray.from_arrays(
            [_prefixed("P", flat.field("property").to_numpy()), target], fields=list(QUALIFIERS.type.value_type)
        )
        return pa.ListArray.from_arrays(_list_offsets(lengths), pairs, type=QUALIFIERS.type)

    def _literal_claims(self, first_number: int, node_of_row: np.ndarray, units: _Units) -> tuple[_Claims, pa.Table]:
        """The statements with a literal object, and the literals (id, name, kind, value), sorted by id."""
        found, literals = [], _Literals()
        for row, batch in self._batches("literals"):
            subject = node_of_row[row]
            unit = self._resolve(batch["unit"].to_numpy())
            kept = self._literal_filter(batch, subject, units.known(unit))
            chosen = batch.filter(pa.array(kept))
            name = units.named(chosen["text"], unit[kept])
            identifier = pc.binary_join_element_wise(chosen["kind"], name, ":")
            columns = {"id": identifier, "name": name, "kind": chosen["kind"], "value": chosen["value"]}
            literals.add(pa.table(columns))
            found.append(self._claims(batch, subject, np.zeros(len(batch), np.int32), kept, units))
        table, number = literals.unique()
        claims = _concatenated(found, self._config.qualifiers)
        return replace(claims, object=number + np.int32(first_number)), table

    def _refuses_strings(self, properties: np.ndarray) -> np.ndarray:
        """bool[rows]: whose strings of untold datatype are not kept; it is "string" where no document tells it."""
        told = self._properties["datatype"]
        place, found = _find(self._properties["number"].to_numpy(), properties)
        known = np.append(pc.not_equal(told, "").to_numpy(), False)
        kept = np.append(pc.is_in(told, pa.array(self._config.literals, pa.string())).to_numpy(), False)
        return ~np.where(found & known[place], kept[place], "string" in self._config.literals)

    def _literal_filter(self, batch: pa.RecordBatch, subject: np.ndarray, unit_known: np.ndarray) -> np.ndarray:
        """bool[rows]: which statements become triples; the others are counted."""
        self._count_subjects(subject)
        kept = subject >= 0
        untold = pc.equal(batch["datatype"], "").to_numpy(zero_copy_only=False)
        refused = kept & untold & self._refuses_strings(batch["property"].to_numpy())
        self._dropped["datatype_not_kept"] += int(refused.sum())
        kept &= ~refused
        self._dropped["unit_without_label"] += int((kept & ~unit_known).sum())
        return kept & unit_known

    def _triples(self, items: _Claims, literals: _Claims) -> tuple[np.ndarray, Triples]:
        """The numbers of the P ids that occur, sorted, and the triples; their relation is a place among those."""
        subject, name, target, preferred = (
            np.concatenate([getattr(items, column), getattr(literals, column)])
            for column in ("subject", "property", "object", "preferred")
        )
        qualifiers = None
        if items.qualifiers is not None and literals.qualifiers is not None:
            qualifiers = pa.chunked_array([*items.qualifiers.chunks, *literals.qualifiers.chunks], QUALIFIERS.type)
        properties, relation = np.unique(name, return_inverse=True)
        triples = unique_triples(Triples(subject, relation.astype(np.int32), target, preferred, qualifiers))
        self._dropped["duplicate"] += len(subject) - len(triples)
        if qualifiers is not None:
            self._dropped_qualifiers["duplicate"] += _elements(qualifiers) - _elements(triples.qualifiers)
        return properties, triples

    def _well_connected(self, triples: Triples, entities: int, literals: int) -> tuple[Triples, np.ndarray]:
        """Drop entities of too low a degree until none is left: the triples renumbered, and bool[nodes], which stay."""
        nodes = entities + literals
        kept = np.ones(nodes, dtype=bool)
        if self._config.min_degree == 0:
            return triples, kept
        from kg.peeling import peel  # compiled when first used

        kept[:entities] = peel(triples.subject, triples.object, nodes, self._config.min_degree, entities)
        alive = kept[triples.subject] & kept[triples.object]
        self._dropped["low_degree"] += int((~alive).sum())
        kept[entities:] = np.bincount(triples.object[alive], minlength=nodes)[entities:] > 0
        number = np.cumsum(kept, dtype=np.int32) - 1
        qualifiers = None
        if triples.qualifiers is not None:
            qualifiers = triples.qualifiers.filter(pa.array(alive))
            self._dropped_qualifiers["low_degree"] += _elements(triples.qualifiers) - _elements(qualifiers)
        return (
            Triples(
                number[triples.subject[alive]],
                triples.relation[alive],
                number[triples.object[alive]],
                triples.preferred[alive],
                qualifiers,
            ),
            kept,
        )

    def _subproperties(self) -> Iterator[tuple[str, str]]:
        """Also of properties without a triple: two relations may be related by way of them."""
        for row in self._properties.sort_by("number").to_pylist():
            yield from ((f"P{row['number']}", f"P{parent}") for parent in sorted(row["parents"]))

    def _relations(self, properties: np.ndarray, counts: np.ndarray) -> tuple[pa.Table, int]:
        """The relations that occur, and how many of them have their id for want of a label."""
        documents = {row["number"]: row for row in self._properties.to_pylist()}
        nothing = {"label": "", "description": "", "aliases": [], "datatype": ""}
        rows = []
        for number, count in zip(properties.tolist(), counts.tolist(), strict=True):
            row = documents.get(number, nothing)
            datatype = row["datatype"] or self._datatypes.get(number, "string")
            rows.append((f"P{number}", row["label"], row["description"], row["aliases"], datatype, count))
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in RELATION_SCHEMA]
        ids, labels = (pa.chunked_array([column], pa.string()) for column in columns[:2])
        without_label = columns[1].count("")
        named = unique_names(pc.if_else(pc.equal(labels, ""), ids, ""), labels, ids.combine_chunks(), " ")
        columns[1] = named.to_pylist()
        arrays = [pa.array(column, field.type) for column, field in zip(columns, RELATION_SCHEMA, strict=True)]
        return pa.table(arrays, RELATION_SCHEMA), without_label

    def _nodes(self, numbers: np.ndarray, node_of_row: np.ndarray, literals: pa.Table) -> Iterator[pa.Table]:
        """The node table, a range of nodes at a time."""
        names = self._names(numbers, node_of_row)
        start = 0
        for table in self._in_node_order(node_of_row, len(numbers)):
            end = start + len(table)
            columns = {
                "id": _prefixed("Q", numbers[start:end]),
                "name": names.slice(start, end - start).cast(pa.string()),
                "label": table["label"],
                "description": table["description"],
                "aliases": table["aliases"],
                "types": _type_ids(table["types"].combine_chunks(), self._resolve),
                "kind": pa.repeat(pa.scalar("entity"), end - start),
                "value": pa.nulls(end - start, pa.string()),
            }
            yield pa.table([columns[name] for name in NODE_SCHEMA.names], schema=NODE_SCHEMA)
            start = end
        for start in range(0, len(literals), _ROWS_AT_ONCE):
            yield _literal_nodes(literals.slice(start, _ROWS_AT_ONCE))

    def _names(self, numbers: np.ndarray, node_of_row: np.ndarray) -> pa.Array:
        """The unique names of the entities by node number, as large strings: together they may exceed 2 GiB."""
        rows = np.empty(len(numbers), dtype=np.int64)
        rows[node_of_row[node_of_row >= 0]] = np.flatnonzero(node_of_row >= 0)
        large = pa.schema([("title", pa.large_string()), ("label", pa.large_string())])
        table = self._table("entities", large.names).cast(large).take(pa.array(rows))
        return unique_names(table["title"], table["label"], _prefixed("Q", numbers).cast(pa.large_string()), "_")

    def _in_node_order(self, node_of_row: np.ndarray, nodes: int) -> Iterator[pa.Table]:
        """Labels, descriptions, aliases and types by node number; what does not fit in memory waits on disk."""
        columns = ["label", "description", "aliases", "types"]
        schema = pa.schema([*(_ENTITIES.field(name) for name in columns), ("node", pa.int32())])
        paths = [self._folder / f"names-{part:04}.arrow" for part in range(-(-nodes // _ROWS_AT_ONCE))]
        writers = [pa.ipc.new_file(str(path), schema) for path in paths]
        for path, first in zip(self._files["entities"], self._first_rows, strict=False):
            for batch in pq.ParquetFile(path).iter_batches(columns=columns):
                node = node_of_row[first : first + len(batch)]
                first += len(batch)
                batch = pa.record_batch([*batch.columns, pa.array(node)], schema=schema)
                for part in np.unique(node[node >= 0] // _ROWS_AT_ONCE):
                    writers[part].write_batch(batch.filter(pa.array((node >= 0) & (node // _ROWS_AT_ONCE == part))))
        for writer in writers:
            writer.close()
        for path in paths:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            yield table.take(np.argsort(table["node"].to_numpy()))
            path.unlink()


def _literal_nodes(literals: pa.Table) -> pa.Table:
    """The rows of the node table for literals."""
    count = len(literals)
    empty = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()))
    none = pa.repeat(pa.scalar(""), count)
    identifier, name, kind, value = literals.cast(pa.schema([(name, pa.string()) for name in _LITERALS.names])).columns
    return pa.table([identifier, name, name, none, empty, empty, kind, value], schema=NODE_SCHEMA)


class _Literals:
    """The literals of all statements, each kept once: dates and amounts recur, and their raw values are long."""

    def __init__(self) -> None:
        self._tables = [_LITERALS.empty_table()]  # the first one is unique
        self._places = [np.zeros(0, np.int32)]  # of each statement's literal in the tables
        self._rows = 0

    def add(self, found: pa.Table) -> None:
        """Add the literals of the next statements: id, name, kind, value."""
        table, place = unique_literals(found.cast(_LITERALS))
        self._places.append(place + np.int32(self._rows))
        self._tables.append(table)
        self._rows += len(table)
        if self._rows - len(self._tables[0]) > max(_WAITING_LITERALS, len(self._tables[0])):
            self.unique()

    def unique(self) -> tuple[pa.Table, np.ndarray]:
        """The literals, sorted by id, and int32[statements]: each statement's place there."""
        table, number = unique_literals(pa.concat_tables(self._tables))
        places = number[np.concatenate(self._places)]
        self._tables, self._places, self._rows = [table], [places], len(table)
        return table, places


class _Units:
    """The items that serve as units and have a label."""

    def __init__(self, labels: dict[int, str]) -> None:
        known = sorted(labels)
        self._numbers = np.array(known, dtype=np.int32)
        self._labels = pa.array([labels[number] for number in known], pa.string())

    def known(self, units: np.ndarray) -> np.ndarray:
        """bool[rows]: whether there is no unit or one with a label."""
        return (units == 0) | _find(self._numbers, units)[1]

    def named(self, texts: pa.Array, units: np.ndarray) -> pa.Array:
        """The texts with the labels of their units; a unit without a label has its id."""
        place, known = _find(self._numbers, units)
        labels = self._labels.take(pa.array(place, mask=~known))
        labels = pc.coalesce(labels, pc.if_else(pa.array(units == 0), None, _prefixed("Q", units)))
        return pc.binary_join_element_wise(texts, labels, " ", null_handling="skip")


class _Redirection:
    """A function from numbers of items, merged ones among them, to those they were merged into."""

    def __init__(self, redirects: pa.Table) -> None:
        source, target = redirects["source"].to_numpy(), redirects["target"].to_numpy()
        order = np.lexsort((target, source))
        self._sources, first = np.unique(source[order], return_index=True)
        self._targets = target[order][first]

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        for _ in range(_MAX_REDIRECTS if len(self._sources) else 0):
            place, found = _find(self._sources, numbers)
            if not found.any():
                break
            numbers = np.where(found, self._targets[place], numbers)
        return numbers


def _latest(keys: pa.Table) -> np.ndarray:
    """int64[items]: the row of the latest document of each item, by item number."""
    number, revision, checksum = (keys[name].to_numpy() for name in ("number", "revision", "checksum"))
    order = np.lexsort((checksum, revision, number))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = number[order[1:]] != number[order[:-1]]
    return order[last]


def _latest_rows(table: pa.Table) -> pa.Table:
    return table.take(pa.array(_latest(table)))


def _find(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each value in the sorted ``keys`` (0 if it is absent), and whether it is there."""
    if not len(keys):
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    found = keys[place] == values
    return np.where(found, place, 0), found


def _renumbered(node_of_row: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The nodes of the rows when only those ``kept`` remain."""
    number = np.where(kept, np.cumsum(kept, dtype=np.int32) - 1, -1)
    return np.append(number, [-1, -1])[node_of_row].astype(np.int32)


def _concatenated(found: Sequence[_Claims], with_qualifiers: bool) -> _Claims:
    types = {"subject": np.int32, "property": np.int32, "object": np.int32, "preferred": np.bool_}
    columns = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(claims, name) for claims in found)])
        for name, dtype in types.items()
    }
    chunks = [chunk for claims in found if claims.qualifiers is not None for chunk in claims.qualifiers.chunks]
    qualifiers = pa.chunked_array(chunks, QUALIFIERS.type) if with_qualifiers else None
    return _Claims(**columns, qualifiers=qualifiers)


def _flat(qualifiers: pa.ListArray, name: str) -> np.ndarray:
    return qualifiers.flatten().field(name).to_numpy()


def _elements(lists: pa.ChunkedArray) -> int:
    """Elements of all lists together."""
    return pc.sum(pc.list_value_length(lists)).as_py() or 0


def _list_offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _type_ids(types: pa.ListArray, resolve: _Redirection) -> pa.ListArray:
    offsets = _list_offsets(pc.list_value_length(types).to_numpy())
    return pa.ListArray.from_arrays(offsets, _prefixed("Q", resolve(types.flatten().to_numpy())))


def _prefixed(letter: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(letter), pa.array(numbers, pa.int32()).cast(pa.string()), "")
