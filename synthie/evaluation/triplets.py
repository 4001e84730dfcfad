"""Sets of triplets of many records as flat arrays of codes, so that corpora can be compared without loops.

In: strings (ids or names) of subjects, relations and objects. Out: `TripletSets`
whose equal strings have equal codes in all corpora that were encoded together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Floats", "Ints", "Key", "TripletSets", "encode", "find_correct", "parts", "row_codes", "triplet_sets"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class TripletSets:
    """One set of triplets for each of ``records`` records, as flat arrays of codes.

    Attributes:
        records: number of records; some may have no triplet.
        record, subject, relation, object: int64[t], sorted by record, no row twice.
        nodes, relations: the strings that the codes stand for.
    """

    records: int
    record: Ints
    subject: Ints
    relation: Ints
    object: Ints
    nodes: Sequence[str]
    relations: Sequence[str]

    def __len__(self) -> int:
        return len(self.record)

    def key(self, row: int) -> Key:
        """The strings (subject, relation, object) of one row."""
        return self.nodes[self.subject[row]], self.relations[self.relation[row]], self.nodes[self.object[row]]

    def columns(self) -> Ints:
        """int64[t, 4]: record, subject, relation, object."""
        return np.stack([self.record, self.subject, self.relation, self.object], axis=1)


def triplet_sets(*corpora: Sequence[Iterable[Key]]) -> list[TripletSets]:
    """Encode corpora of keys (one iterable of keys a record) with common codes.

    >>> gold, predicted = triplet_sets([{("Q64", "P17", "Q183")}], [set()])
    >>> len(gold), len(predicted), gold.records
    (1, 0, 1)
    """
    columns = []
    for corpus in corpora:
        sets = [list(triplets) for triplets in corpus]
        flat = [key for triplets in sets for key in triplets]
        strings = [pa.array([key[part] for key in flat], pa.string()) for part in range(3)]
        columns.append((np.array([len(triplets) for triplets in sets], np.int64), *strings))
    return encode(columns)


def encode(corpora: Sequence[tuple[Ints, pa.Array, pa.Array, pa.Array]]) -> list[TripletSets]:
    """Encode corpora given as columns with common codes; duplicates inside a record are dropped.

    Args:
        corpora: for each the triplets of each record, int64[records], and the flat string
            arrays of subjects, relations and objects.
    """
    nodes = pc.unique(pa.chunked_array([part for _, s, _, o in corpora for part in (s, o)], pa.string()))
    relations = pc.unique(pa.chunked_array([r for _, _, r, _ in corpora], pa.string()))
    node_names, relation_names = nodes.to_pylist(), relations.to_pylist()
    encoded = []
    for lengths, subjects, predicates, objects in corpora:
        columns = [np.repeat(np.arange(len(lengths)), lengths)]
        for values, names in ((subjects, nodes), (predicates, relations), (objects, nodes)):
            columns.append(pc.index_in(values, value_set=names).to_numpy(zero_copy_only=False).astype(np.int64))
        record, subject, relation, target = _distinct(np.stack(columns, axis=1)).T
        encoded.append(TripletSets(len(lengths), record, subject, relation, target, node_names, relation_names))
    return encoded


def parts(sets: TripletSets, kind: str) -> TripletSets:
    """The sets of the records' ``"nodes"``, ``"relations"`` or ``"pairs"`` alone, as degenerate triplets.

    A pair is a subject and an object, in this order.
    """
    if kind == "pairs":
        rows = _distinct(np.stack([sets.record, sets.subject, sets.object], axis=1))
        return replace(
            sets, record=rows[:, 0], subject=rows[:, 1], relation=np.zeros(len(rows), np.int64), object=rows[:, 2]
        )
    if kind == "nodes":
        record, code = np.tile(sets.record, 2), np.concatenate([sets.subject, sets.object])
    else:
        record, code = sets.record, sets.relation
    rows = _distinct(np.stack([record, code], axis=1))
    zeros = np.zeros(len(rows), np.int64)
    return replace(sets, record=rows[:, 0], subject=rows[:, 1], relation=zeros, object=zeros)


def find_correct(gold: TripletSets, predicted: TripletSets) -> NDArray[np.bool_]:
    """bool[t]: which rows of ``predicted`` are rows of ``gold``."""
    codes = row_codes(np.concatenate([gold.columns(), predicted.columns()]))
    return np.isin(codes[len(gold) :], codes[: len(gold)])


def row_codes(rows: Ints) -> Ints:
    """int64[n], equal where rows of non-negative numbers are equal; np.unique over an axis is ten times slower."""
    codes = rows[:, 0]
    for column in rows.T[1:]:
        span = int(column.max(initial=0)) + 1
        if int(codes.max(initial=0)) >= (1 << 62) // span:
            codes = np.unique(codes, return_inverse=True)[1]
        codes = codes * span + column
    return codes


def _distinct(rows: Ints) -> Ints:
    """The different rows, sorted by their first column."""
    rows = rows[np.unique(row_codes(rows), return_index=True)[1]]
    return rows[np.argsort(rows[:, 0], kind="stable")]
