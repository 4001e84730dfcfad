"""What records hold, as 64-bit digests: sets, triplets, nodes, relation combinations; for counting and comparing.

A million records keep some fifty megabytes of digests in place of their strings. Two different things have the same
digest about once in 10^6 data sets of that size. All hashing is vectorised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synthie.records import LITERAL

__all__ = ["Content", "Distinct", "sums"]

Digests = NDArray[np.uint64]
_PARTS = ("subject", "predicate", "object")
_MERGE_AT = 1 << 19


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What k records hold: what their labels say and what is withheld from them, since the texts state both.

    Attributes:
        sets: uint64[k], of each record's triplets in whatever order, or of a negative's topic.
        combinations: uint64[k], of each record's different relations.
        sizes: int64[k], triplets of each record.
        subjects, relations, objects, triplets: uint64[m], one record's after the other's.
        is_entity: bool[m, 2], whether subject and object are entities and no literals.
        relation_counts: int64[k], different relations of each record.
    """

    sets: Digests
    combinations: Digests
    sizes: NDArray[np.int64]
    subjects: Digests
    relations: Digests
    objects: Digests
    triplets: Digests
    is_entity: NDArray[np.bool_]
    relation_counts: NDArray[np.int64]

    @classmethod
    def of(cls, records: pa.RecordBatch | pa.Table) -> Content:
        """Of records with the columns ``triplets``, ``withheld`` and ``topic``."""
        rows, flat = _stated(records)
        uris = [pc.struct_field(flat, [part, "uri"]) for part in _PARTS]
        subjects, relations, objects = map(_hashed, uris)
        triplets = _mixed(_mixed(_mixed(subjects) + relations) + objects)
        k = len(records)
        first = _first_of_each(rows, relations)
        topics = records.column("topic") if "topic" in records.schema.names else pa.nulls(k, pa.string())
        return cls(
            sets=sums(_mixed(triplets), rows, k) + _hashed(pc.fill_null(topics, "")) * _is_empty(rows, k),
            combinations=_mixed(sums(_mixed(relations[first]), rows[first], k)),
            sizes=np.bincount(rows, minlength=k),
            subjects=subjects,
            relations=relations,
            objects=objects,
            triplets=triplets,
            is_entity=np.stack([_are_entities(uris[0]), _are_entities(uris[2])], axis=1),
            relation_counts=np.bincount(rows[first], minlength=k),
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64[m]: the record of each triplet."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def nodes(self) -> Digests:
        """uint64[2m]: subjects, then objects."""
        return np.concatenate([self.subjects, self.objects])


class Distinct:
    """A growing set of digests."""

    def __init__(self) -> None:
        self._known: Digests = np.zeros(0, np.uint64)
        self._new: list[Digests] = []
        self._waiting = 0

    def add(self, digests: Digests) -> None:
        self._new.append(np.unique(digests))
        self._waiting += len(self._new[-1])
        if self._waiting > max(_MERGE_AT, len(self._known) // 2):
            self._merge()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def values(self) -> Digests:
        """uint64, ascending."""
        if self._new:
            self._merge()
        return self._known

    def has(self, digests: Digests) -> NDArray[np.bool_]:
        """bool[k]: which of them are in it."""
        values = self.values
        if not len(values):
            return np.zeros(len(digests), np.bool_)
        places = np.minimum(values.searchsorted(digests), len(values) - 1)
        return values[places] == digests

    def count_in(self, other: Distinct) -> int:
        """How many ``other`` has too."""
        return int(np.count_nonzero(other.has(self.values)))

    def _merge(self) -> None:
        self._known = np.unique(np.concatenate([self._known, *self._new]))
        self._new, self._waiting = [], 0


def sums(values: Any, rows: NDArray[np.int64], k: int) -> Any:
    """[k]: the sum of the values of each row; ``rows`` need not be sorted. Wraps around."""
    totals = np.zeros(k, values.dtype)
    np.add.at(totals, rows, values)
    return totals


def _stated(records: pa.RecordBatch | pa.Table) -> tuple[NDArray[np.int64], pa.StructArray]:
    """Labelled and withheld triplets, those of one record together, and the record of each."""
    labels = _array(records.column("triplets"))
    withheld = _array(records.column("withheld")) if "withheld" in records.schema.names else None
    rows = pc.list_parent_indices(labels).to_numpy()
    flat = pc.list_flatten(labels)
    if withheld is not None and len(more := pc.list_flatten(withheld)):
        rows = np.concatenate([rows, pc.list_parent_indices(withheld).to_numpy()])
        order = np.argsort(rows, kind="stable")
        rows, flat = rows[order], pa.concat_arrays([flat, more]).take(pa.array(order))
    return rows.astype(np.int64), flat


def _array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _hashed(strings: pa.Array | pa.ChunkedArray) -> Digests:
    return np.asarray(pd.util.hash_array(strings.to_numpy(zero_copy_only=False)), np.uint64)


def _are_entities(uris: pa.Array) -> NDArray[np.bool_]:
    return ~pc.match_substring_regex(uris, f"^{LITERAL.pattern}").to_numpy(zero_copy_only=False).astype(np.bool_)


def _first_of_each(rows: NDArray[np.int64], values: Digests) -> NDArray[np.int64]:
    """Places of the different values of each row."""
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    return order[new]


def _is_empty(rows: NDArray[np.int64], k: int) -> Digests:
    return (np.bincount(rows, minlength=k) == 0).astype(np.uint64)


def _mixed(values: Digests) -> Digests:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
