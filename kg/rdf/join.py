"""From the units of all slices to the files of a graph.

Four passes over the units (`kg.rdf.slices`), each holding no more than what the
graph keeps: which ids may be entities; which of them their classes rule out;
which statements join two of them or one and a literal; what the texts say about
those that are left. The order of units and rows leaves no trace in the graph.
Every statement that is no triple is counted under its use or a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.config import GraphConfig
from kg.rdf.ntriples import Terms
from kg.rdf.terms import Prefixes, local_name
from kg.rdf.texts import Texts, lists
from kg.rdf.units import (
    LABEL,
    OTHER_LANGUAGES,
    RELATION,
    SUBCLASS,
    TITLE,
    TYPE,
    UNSELECTED,
    Roles,
    read_unit,
)
from kg.tables import (
    NODE_SCHEMA,
    RELATION_SCHEMA,
    Triples,
    unique_literals,
    unique_names,
    unique_triples,
    write_graph_files,
)

__all__ = ["Source", "join_units"]

_ITEM = r"^Q[1-9]\d{0,8}$"
_PROPERTY = r"^P[1-9]\d{0,8}$"
# Of these classes are words and relations, not things.
_NO_ENTITIES = [
    "http://www.w3.org/ns/lemon/ontolex#LexicalEntry",
    "http://www.w3.org/ns/lemon/ontolex#Form",
    "http://www.w3.org/ns/lemon/ontolex#LexicalSense",
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#Property",
    "http://www.w3.org/2002/07/owl#ObjectProperty",
    "http://www.w3.org/2002/07/owl#DatatypeProperty",
    "http://www.w3.org/2002/07/owl#AnnotationProperty",
    "http://www.w3.org/2002/07/owl#Ontology",
]
_REASONS = ["", "dropped_class", "not_an_entity", "not_in_classes", "not_listed", "low_degree"]
_DROPPED_CLASS, _NOT_AN_ENTITY, _NOT_IN_CLASSES, _NOT_LISTED, _LOW_DEGREE = range(1, 6)


@dataclass(frozen=True)
class Source:
    """What is joined: options, selected relations, whether it is about Wikidata's entities, units and their folder.

    ``listed`` are the ids of the allow-list of entities, None for all; ``entities`` is `GraphConfig.entities`, or
    "labelled" where a source has no articles at all.
    """

    config: GraphConfig
    relations: tuple[str, ...]
    wikidata: bool
    entities: str
    listed: pa.Array | None
    folder: Path
    units: Sequence[tuple[int, int]]


def join_units(source: Source, folder: Path) -> dict[str, Any]:
    """Join the units and write the files of a graph.

    Returns:
        ``nodes`` by kind, ``relations``, ``relations_without_label``, ``triples``; ``used``: statements by use
        (labels, descriptions, aliases, types, articles); ``dropped``: the others by reason; ``seen``: id of each
        relation that occurs -> whether it is selected. Where no triple is left, no file is written and only the
        last four are there, ``used`` and ``dropped`` as far as known.
    """
    return _Join(source).write(folder)


class _Predicates:
    """The predicates of all units, numbered by sorted IRI."""

    def __init__(self, source: Source) -> None:
        prefixes = Prefixes(source.config.rdf)
        roles = Roles(source.config.rdf, source.relations, source.wikidata)
        self._of_unit = {unit: read_unit(source.folder, unit, "predicates")["iri"] for unit in source.units}
        iris = sorted({iri for column in self._of_unit.values() for iri in column.to_pylist()})
        self._numbers = pa.array(iris, pa.string())
        self.roles = np.array([roles.role(iri) for iri in iris], np.int32)
        relations = np.flatnonzero(self.roles & RELATION)
        ids = prefixes.relation_ids(self._numbers).to_pylist()
        ordered = sorted(relations.tolist(), key=lambda number: _relation_key(ids[number]))
        self.relation_ids = [ids[number] for number in ordered]
        self.relation_of = np.full(len(iris) + 1, -1, np.int32)
        self.relation_of[ordered] = np.arange(len(ordered), dtype=np.int32)
        self.describing = dict(prefixes.describing_ids([iris[number] for number in ordered]))
        self.node_ids = prefixes.node_ids(self._numbers)
        known = RELATION | UNSELECTED
        self.seen = {ids[n]: bool(self.roles[n] & RELATION) for n in np.flatnonzero(self.roles & known).tolist()}

    def numbers(self, unit: tuple[int, int], column: np.ndarray) -> np.ndarray:
        """The numbers of the predicates that a column of a unit names."""
        found = pc.index_in(self._of_unit[unit], self._numbers).combine_chunks().to_numpy(zero_copy_only=False)
        return found.astype(np.int32)[column] if len(column) else np.empty(0, np.int32)


class _Join:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._dropped: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._predicates = _Predicates(source)
        self._entities = Terms()  # whatever may be an entity
        self._missing = {"wikipedia": "no_article", "labelled": "no_label"}.get(source.entities, "not_an_entity")

    def write(self, folder: Path) -> dict[str, Any]:
        """Do the passes and write the files."""
        self._find_candidates()
        reason = self._judge()
        numbers, ids, order = self._ordered(reason)
        claims, literals = self._statements(reason, numbers, len(ids))
        triples, low = self._with_degree(claims, len(ids), len(literals))
        if not len(triples):
            return {"triples": 0, "used": self._used, "dropped": self._dropped, "seen": self._predicates.seen}
        reason[order[low[: len(ids)]]] = _LOW_DEGREE
        kept = ~low
        position = np.cumsum(kept, dtype=np.int32) - 1
        final = np.where(numbers >= 0, np.where(kept[numbers], position[numbers], -1), -1).astype(np.int32)
        final[-1] = -1
        ids = ids.filter(pa.array(kept[: len(ids)]))
        literals = literals.filter(pa.array(kept[len(kept) - len(literals) :]))
        counts = np.bincount(triples.relation, minlength=len(self._predicates.relation_ids))
        texts = self._texts(reason, final, len(ids))
        types = self._types(reason, final, len(ids))
        relations, place, without_label = self._relations(counts, texts, triples, literals, len(ids))
        nodes, number, items = self._nodes(ids, literals, texts, types)
        triples = Triples(number[triples.subject], place[triples.relation], number[triples.object], triples.preferred)
        write_graph_files(nodes, relations, unique_triples(triples), items, folder)
        kinds = {row["values"]: row["counts"] for row in pc.value_counts(nodes["kind"]).to_pylist()}
        return {
            "nodes": {"total": len(nodes), **dict(sorted(kinds.items()))},
            "relations": len(relations),
            "relations_without_label": without_label,
            "triples": len(triples),
            "used": self._used,
            "dropped": self._dropped,
            "seen": self._predicates.seen,
        }

    # First pass: which ids may be entities.

    def _find_candidates(self) -> None:
        for unit in self._source.units:
            ids = self._ids(unit)
            found = np.zeros(len(ids), dtype=bool)
            texts = self._read(unit, "texts", "subject", "role", "rank")
            wanted = texts["role"] == TITLE
            if self._source.entities != "wikipedia":
                wanted |= (texts["role"] == LABEL) & (texts["rank"] < OTHER_LANGUAGES)
            found[texts["subject"][wanted]] = True
            if self._source.entities == "any":
                found[texts["subject"]] = True
                links = self._read(unit, "links", "subject", "predicate", "object")
                related = self._role(unit, links["predicate"]) & RELATION > 0
                found[links["subject"]] = found[links["object"][related]] = True
                found[self._read(unit, "values", "subject")["subject"]] = True
            found &= self._eligible(ids)
            self._entities.intern_array(ids.filter(pa.array(found)))

    def _eligible(self, ids: pa.Array) -> np.ndarray:
        if self._source.wikidata:
            return _mask(pc.match_substring_regex(ids, _ITEM))
        return ~_mask(pc.is_in(ids, self._predicates.node_ids))

    # Second pass: which of them are kept, by class and list.

    def _judge(self) -> np.ndarray:
        """int8[entities + 1]: why each is left out, as a number of `_REASONS`; 0 for the kept."""
        config, count = self._source.config, len(self._entities)
        reason = np.zeros(count + 1, np.int8)
        of_class = np.zeros(count + 1, dtype=bool)
        wanted = self._subclasses(config.classes) if config.classes else None
        no_entities = Prefixes(self._source.config.rdf).node_ids(pa.array(_NO_ENTITIES))
        dropped = pa.array(config.drop_classes, pa.string())
        for unit in self._source.units:
            ids, links = self._ids(unit), self._read(unit, "links", "subject", "predicate", "object")
            typed = self._role(unit, links["predicate"]) & TYPE > 0
            node, classes = self._entities.find(ids)[links["subject"][typed]], links["object"][typed]
            if wanted is not None:
                of_class[node[_mask(pc.is_in(ids, wanted))[classes]]] = True
            for number, refused in ((_NOT_AN_ENTITY, no_entities), (_DROPPED_CLASS, dropped)):
                found = node[_mask(pc.is_in(ids, refused))[classes]]
                reason[found] = np.where(reason[found] == _NOT_AN_ENTITY, _NOT_AN_ENTITY, number)
        if wanted is not None:
            reason[(reason == 0) & ~of_class] = _NOT_IN_CLASSES
        if self._source.listed is not None:
            listed = _mask(pc.is_in(self._entities.strings(), self._source.listed))
            reason[:-1][(reason[:-1] == 0) & ~listed] = _NOT_LISTED
        return reason

    def _subclasses(self, classes: Sequence[str]) -> pa.Array:
        """The ids of the classes and of all that are below them."""
        below: dict[str, list[str]] = {}
        for unit in self._source.units:
            links = self._read(unit, "links", "subject", "predicate", "object")
            narrower = self._role(unit, links["predicate"]) & SUBCLASS > 0
            if narrower.any():
                ids = self._ids(unit)
                ends = (ids.take(pa.array(links[end][narrower])).to_pylist() for end in ("subject", "object"))
                for child, parent in zip(*ends, strict=True):
                    below.setdefault(parent, []).append(child)
        found, waiting = set(classes), list(classes)
        while waiting:
            for child in below.get(waiting.pop(), ()):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return pa.array(sorted(found), pa.string())

    def _ordered(self, reason: np.ndarray) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        """Each entity's place among the kept (-1: left out), the kept ids in order, and the entities they are."""
        entities = self._entities.strings()
        kept = np.flatnonzero(reason[:-1] == 0)
        ids = entities.take(pa.array(kept))
        order = kept[_id_order(ids)]
        numbers = np.full(len(reason), -1, np.int32)
        numbers[order] = np.arange(len(order), dtype=np.int32)
        return numbers, entities.take(pa.array(order)), order

    # Third pass: the statements.

    def _statements(self, reason: np.ndarray, numbers: np.ndarray, entities: int) -> tuple[Triples, pa.Table]:
        """The triples, not yet unique, with literals numbered behind the entities; and the literals."""
        parts: list[tuple[np.ndarray, ...]] = []
        found: list[pa.Table] = []
        rows_found = 0
        for unit in self._source.units:
            place = self._entities.find(self._ids(unit))
            parts.append(self._links(unit, place, reason, numbers))
            rows = self._read(unit, "values", "subject", "predicate", "literal")
            subject = self._subjects(place[rows["subject"]], reason, numbers)
            kept = subject >= 0
            used, number = np.unique(rows["literal"][kept], return_inverse=True)
            found.append(read_unit(self._source.folder, unit, "literals").take(pa.array(used)))
            predicate = self._predicates.numbers(unit, rows["predicate"][kept])
            target = entities + rows_found + number
            parts.append((subject[kept], self._predicates.relation_of[predicate], target.astype(np.int64)))
            rows_found += len(used)
        subject, relation, target = (np.concatenate([part[k] for part in parts]) for k in range(3))
        table = pa.concat_tables(found).combine_chunks()
        self._note_datatypes(table, relation, target - entities)
        literals, place = unique_literals(table.drop_columns(["datatype"]))
        literal = target >= entities
        target[literal] = place[target[literal] - entities] + entities
        everything = Triples(subject, relation, target.astype(np.int32), np.zeros(len(subject), dtype=bool))
        triples = unique_triples(everything)
        self._dropped["duplicate"] += len(everything) - len(triples)
        return triples, literals

    def _links(
        self, unit: tuple[int, int], place: np.ndarray, reason: np.ndarray, numbers: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        rows = self._read(unit, "links", "subject", "predicate", "object")
        predicate = self._predicates.numbers(unit, rows["predicate"])
        role = self._predicates.roles[predicate]
        self._dropped["relation_not_selected"] += int((role & UNSELECTED > 0).sum())
        self._dropped["not_a_relation"] += int((role & (RELATION | UNSELECTED | TYPE) == 0).sum())
        related = role & RELATION > 0
        subject = self._subjects(place[rows["subject"][related]], reason, numbers)
        target = numbers[place[rows["object"][related]]]
        self._dropped["object_not_kept"] += int(((subject >= 0) & (target < 0)).sum())
        kept = (subject >= 0) & (target >= 0)
        relation = self._predicates.relation_of[predicate[related][kept]]
        return subject[kept], relation, target[kept].astype(np.int64)

    def _subjects(self, place: np.ndarray, reason: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The numbers of the subjects at these places among the entities; those left out are counted."""
        subject = numbers[place]
        self._count_left_out(place[subject < 0], reason, np.ones(int((subject < 0).sum()), np.int64))
        return subject

    def _count_left_out(self, place: np.ndarray, reason: np.ndarray, copies: np.ndarray) -> None:
        why = np.where(place < 0, 0, reason[place])
        for number in np.unique(why).tolist():
            self._dropped[_REASONS[number] or self._missing] += int(copies[why == number].sum())

    def _note_datatypes(self, table: pa.Table, relation: np.ndarray, literal: np.ndarray) -> None:
        """Remember each relation's datatype: that of items if it has any, else the least of its literals'."""
        names = sorted(pc.unique(table["datatype"]).to_pylist())
        codes = pc.index_in(table["datatype"], pa.array(names, pa.string())).to_numpy().astype(np.int64)
        least = np.full(len(self._predicates.relation_ids), len(names), np.int64)
        valued = literal >= 0
        np.minimum.at(least, relation[valued], codes[literal[valued]])
        least[relation[~valued]] = -1
        self._datatypes = [
            "wikibase-item" if code < 0 else names[code] if code < len(names) else "" for code in least.tolist()
        ]

    def _with_degree(self, triples: Triples, entities: int, literals: int) -> tuple[Triples, np.ndarray]:
        """Drop entities of too low a degree until none is left: the triples renumbered, and which nodes are dropped."""
        nodes, least = entities + literals, self._source.config.min_degree
        low = np.zeros(nodes, dtype=bool)
        alive = np.ones(len(triples), dtype=bool)
        while least:
            ends = np.concatenate([triples.subject[alive], triples.object[alive]])
            fewer = ~low & (np.bincount(ends, minlength=nodes) < least)
            fewer[entities:] = False
            if not fewer.any():
                break
            low |= fewer
            alive = ~(low[triples.subject] | low[triples.object])
        self._dropped["low_degree"] += int((~alive).sum())
        low[entities:] = np.bincount(triples.object[alive], minlength=nodes)[entities:] == 0
        number = np.cumsum(~low, dtype=np.int32) - 1
        columns = triples.subject[alive], triples.relation[alive], triples.object[alive], triples.preferred[alive]
        return Triples(number[columns[0]], columns[1], number[columns[2]], columns[3]), low

    # Fourth pass: texts and types.

    def _texts(self, reason: np.ndarray, final: np.ndarray, entities: int) -> Texts:
        """What the texts say about entities (by number) and relations (numbered behind them)."""
        describing = Terms()
        targets = np.array([*self._predicates.describing.values(), -1], np.int32)
        describing.intern_array(pa.array(list(self._predicates.describing), pa.string()))
        targets[:-1] += entities
        parts = []
        for unit in self._source.units:
            ids = self._ids(unit)
            table = read_unit(self._source.folder, unit, "texts")
            subject = table["subject"].to_numpy()
            place = self._entities.find(ids)[subject]
            target = np.maximum(final[place], targets[describing.find(ids)][subject])
            out = target < 0
            self._count_left_out(place[out], reason, table["copies"].to_numpy()[out])
            table = table.set_column(0, "subject", pa.array(target))
            parts.append(table.filter(pa.array(~out)))
        return Texts(pa.concat_tables(parts), entities + len(self._predicates.relation_ids), self._used, self._dropped)

    def _types(self, reason: np.ndarray, final: np.ndarray, entities: int) -> pa.ListArray:
        """The classes of each entity."""
        classes = Terms()
        parts = [(np.empty(0, np.int32), np.empty(0, np.int32))]
        pure = 0
        for unit in self._source.units:
            ids, rows = self._ids(unit), self._read(unit, "links", "subject", "predicate", "object")
            role = self._role(unit, rows["predicate"])
            typed = role & TYPE > 0
            place = self._entities.find(ids)[rows["subject"][typed]]
            node, class_ = final[place], rows["object"][typed]
            only = role[typed] & (RELATION | UNSELECTED) == 0  # the others are counted as relations
            self._count_left_out(place[only & (node < 0)], reason, np.ones(int((only & (node < 0)).sum()), np.int64))
            pure += int((only & (node >= 0)).sum())
            kept = node >= 0
            if self._source.wikidata:
                kept &= _mask(pc.match_substring_regex(ids, _ITEM))[class_]
            used, number = np.unique(class_[kept], return_inverse=True)
            parts.append((node[kept], classes.intern_array(ids.take(pa.array(used)))[number]))
        node, code = (np.concatenate(column) for column in zip(*parts, strict=True))
        names = classes.strings()
        order = _id_order(names)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        pairs = np.unique(node.astype(np.int64) * max(1, len(names)) + rank[code])
        self._used["types"] += pure
        return lists(pairs // max(1, len(names)), names.take(pa.array(order[pairs % max(1, len(names))])), entities)

    # The tables.

    def _nodes(
        self, ids: pa.Array, literals: pa.Table, texts: Texts, types: pa.ListArray
    ) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """The table of the nodes, the number of each (entities and literals as numbered so far), the items' numbers."""
        count, more = len(ids), len(literals)
        titles, labels = texts.titles.slice(0, count), texts.labels.slice(0, count)
        local = pa.array([local_name(name) for name in ids.filter(pc.equal(labels, "")).to_pylist()], pa.string())
        labels = pc.replace_with_mask(labels, pc.equal(labels, ""), local)
        names = unique_names(pa.chunked_array([titles]), pa.chunked_array([labels]), ids, "_")
        empty = pa.array([""] * more, pa.string())
        nothing = lists(np.empty(0, np.int64), pa.array([], pa.string()), more)
        columns = [
            [ids, literals["id"]],
            [names, literals["name"]],
            [labels, literals["name"]],
            [texts.descriptions.slice(0, count), empty],
            [texts.aliases(0, count), nothing],
            [types, nothing],
            [pa.array(["entity"] * count, pa.string()), literals["kind"]],
            [pa.nulls(count, pa.string()), literals["value"]],
        ]
        arrays = [
            pa.concat_arrays([_whole(part).cast(field.type) for part in column])
            for column, field in zip(columns, NODE_SCHEMA, strict=True)
        ]
        table = pa.table(arrays, schema=NODE_SCHEMA)
        if _mask(pc.match_substring_regex(ids, _ITEM)).all():
            items = pc.utf8_slice_codeunits(ids, 1).cast(pa.int32()).to_numpy()
            return table, np.arange(count + more, dtype=np.int32), items
        order = pc.sort_indices(table["id"]).to_numpy()
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        return table.take(pa.array(order)).combine_chunks(), number, np.empty(0, np.int32)

    def _relations(
        self, counts: np.ndarray, texts: Texts, triples: Triples, literals: pa.Table, entities: int
    ) -> tuple[pa.Table, np.ndarray, int]:
        """The relations with a triple, the number of each, and how many of them have no label."""
        used = np.flatnonzero(counts)
        place = np.cumsum(counts > 0, dtype=np.int32) - 1
        ids = [self._predicates.relation_ids[number] for number in used.tolist()]
        behind = pa.array(used + entities)
        labels = texts.labels.take(behind)
        without = int(pc.sum(pc.equal(labels, "")).as_py() or 0)
        local = pa.array([local_name(name) for name in ids], pa.string())
        titles = pc.if_else(pc.equal(labels, ""), local, "")
        names = unique_names(pa.chunked_array([titles]), pa.chunked_array([labels]), pa.array(ids, pa.string()), " ")
        columns = [
            pa.array(ids, pa.string()),
            _whole(names),
            texts.descriptions.take(behind),
            texts.aliases(entities, len(counts)).take(pa.array(used)),
            pa.array([self._datatypes[number] for number in used.tolist()], pa.string()),
            pa.array(counts[used], pa.int64()),
        ]
        return pa.table(columns, schema=RELATION_SCHEMA), place, without

    # Reading.

    def _ids(self, unit: tuple[int, int]) -> pa.Array:
        return _whole(read_unit(self._source.folder, unit, "ids")["id"])

    def _read(self, unit: tuple[int, int], name: str, *columns: str) -> dict[str, np.ndarray]:
        table = read_unit(self._source.folder, unit, name, list(columns))
        return {column: table[column].to_numpy() for column in columns}

    def _role(self, unit: tuple[int, int], predicate: np.ndarray) -> np.ndarray:
        return self._predicates.roles[self._predicates.numbers(unit, predicate)]


def _id_order(ids: pa.Array) -> np.ndarray:
    """int64[ids]: the order of ids: Wikidata's items by number if all are, else by code points."""
    if len(ids) and _mask(pc.match_substring_regex(ids, _ITEM)).all():
        return np.argsort(pc.utf8_slice_codeunits(ids, 1).cast(pa.int32()).to_numpy(), kind="stable")
    return pc.sort_indices(ids).to_numpy().astype(np.int64)


def _relation_key(identifier: str) -> tuple[int, int, str]:
    number = identifier[1:]
    direct = identifier[:1] == "P" and number.isascii() and number.isdigit() and number[0] != "0"
    return (0, int(number), "") if direct else (1, 0, identifier)


def _whole(column: Any) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _mask(array: Any) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)
