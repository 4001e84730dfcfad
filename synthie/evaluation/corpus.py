"""What is evaluated: gold sets and the predictions of any number of systems for the same records, in common codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthie.evaluation.triplets import Floats, Ints, TripletSets

__all__ = ["UNKNOWN", "Columns", "Corpus", "Predicted", "Training", "is_known", "known_from_training"]

UNKNOWN = "?"  # stands before the name of what has no id; no id begins so
Columns = tuple[Ints, pa.Array, pa.Array, pa.Array]  # triplets of each record; flat subjects, relations, objects


@dataclass(frozen=True)
class Predicted:
    """What a system predicted: its sets, and its score of each record, float64[records] or None."""

    sets: TripletSets
    scores: Floats | None = None


@dataclass(frozen=True)
class Training:
    """What training states of the evaluated nodes and relations, in their codes.

    Attributes:
        records: how many records training has.
        frequency: int64[relations], training records in which the relation occurs.
        triplets: int64[relations], training triplets with the relation.
        nodes: int64[k], nodes that occur, sorted.
        pairs: int64[k], subject · nodes + object of the pairs that occur, sorted.
        facts: int64[k], pair · relations + relation of the triplets that occur, sorted.
    """

    records: int
    frequency: Ints
    triplets: Ints
    nodes: Ints
    pairs: Ints
    facts: Ints


@dataclass(frozen=True)
class Corpus:
    """The evaluated records.

    Attributes:
        name: of the data set.
        split: name of the split.
        records_in_split: how many records it has.
        ids, texts: of the evaluated records; a text may be empty.
        models: model that wrote the texts -> evaluated records.
        gold: the gold sets.
        systems: name -> predictions; the first one is shown in detail.
        training: None where it is not known.
        names: id -> name, of nodes and relations.
        ancestors: relation -> relations above it; None where no such links are given.
    """

    name: str
    split: str
    records_in_split: int
    ids: list[Any]
    texts: list[str]
    models: dict[str, int]
    gold: TripletSets
    systems: dict[str, Predicted]
    training: Training | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    ancestors: Mapping[str, set[str]] | None = None

    def label(self, key: str) -> str:
        """A name for reading: spaces for underscores."""
        name = self.names.get(key, key) if is_known(key) else key.removeprefix(UNKNOWN)
        return name.replace("_", " ")


def is_known(key: str) -> bool:
    """Whether a key is an id or name of the world, and not what a model invented."""
    return not key.startswith(UNKNOWN)


def known_from_training(batches: Iterable[Columns], gold: TripletSets) -> Training:
    """What of the codes of ``gold`` occurs in training, read batch by batch."""
    nodes, relations = pa.array(gold.nodes, pa.string()), pa.array(gold.relations, pa.string())
    frequency = np.zeros(len(relations), np.int64)
    triplets = np.zeros(len(relations), np.int64)
    seen = [np.empty(0, np.int64) for _ in range(3)]
    records = 0
    for lengths, subjects, predicates, objects in batches:
        subject, target = (_codes(values, nodes) for values in (subjects, objects))
        relation = _codes(predicates, relations)
        known = relation >= 0
        record = np.repeat(np.arange(len(lengths)), lengths)
        in_record = np.unique(record[known] * len(relations) + relation[known]) % max(len(relations), 1)
        frequency += np.bincount(in_record, minlength=len(relations))
        triplets += np.bincount(relation[known], minlength=len(relations))
        both = (subject >= 0) & (target >= 0)
        pairs = subject * len(nodes) + target
        found = (
            np.concatenate([subject[subject >= 0], target[target >= 0]]),
            pairs[both],
            pairs[both & known] * len(relations) + relation[both & known],
        )
        seen = [np.union1d(old, new) for old, new in zip(seen, found, strict=True)]
        records += len(lengths)
    return Training(records, frequency, triplets, *seen)


def _codes(values: pa.Array, names: pa.Array) -> Ints:
    """int64[t]: places in ``names``, -1 where there is none."""
    return pc.index_in(values, value_set=names).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
