"""Precision, recall and F1 of extracted triplet sets, as the SynthIE paper computes them.

A predicted triplet is correct if the same record has a gold triplet with the
same subject, relation and object. With TP, P, G the numbers of correct,
predicted and gold triplets of some records,

    precision = TP / P,   recall = TP / G,   F1 = 2 · precision · recall / (precision + recall),

each 0 where its denominator is 0. Every figure here comes from the same three
steps: count TP, P, G for each pair (group, record) (`Counts`), sum them over
the records of a group, turn the sums into scores. The micro figures are one
group with all records; the macro figures are the mean over one group for each
relation; buckets are groups too, and so is the bootstrap's resample of a group
(`synthie.evaluation.resampling`).

Protocol: M. Josifoski et al., "Exploiting Asymmetry for Synthetic Training Data
Generation: SynthIE and the Case of Information Extraction", EMNLP 2023, and its
released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthie.evaluation.triplets import Floats, Ints, TripletSets, find_correct, row_codes

__all__ = [
    "Counts",
    "Scores",
    "count_by_record",
    "count_by_triplet",
    "count_exact",
    "count_false_alarms",
    "count_items",
    "frequency_bucket",
    "macro",
    "micro",
    "scores",
]


class Scores(NamedTuple):
    """Precision, recall and F1 in [0, 1]."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Counts:
    """Correct, predicted and gold triplets of each pair of a group and one of its records.

    Attributes:
        groups: int64[g], what the groups stand for, ascending.
        offsets: int64[g+1]; group i has the pairs ``offsets[i]:offsets[i+1]``.
        pairs: int64[p, 3], correct, predicted and gold triplets.
        records: int64[p], the record of each pair. Inside a group they are in the order in which the original's
            code lists them, which decides what a resample of the group holds (see `_as_listed`).
    """

    groups: Ints
    offsets: Ints
    pairs: Ints
    records: Ints

    def sums(self) -> Ints:
        """int64[g, 3]: the counts of each group over its records."""
        running = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(self.pairs, axis=0)])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


# --- Counts ---------------------------------------------------------------------------------------------------------


def count_by_record(gold: TripletSets, predicted: TripletSets, group_of_record: Ints | None = None) -> Counts:
    """Counts of the records in groups; None puts all in one group.

    Args:
        gold, predicted: sets of the same records with common codes.
        group_of_record: int64[records].
    """
    pairs = _by_record(gold, predicted)
    if group_of_record is None:
        return count_items(pairs)
    order = np.concatenate(
        [
            np.array(list(set(np.flatnonzero(group_of_record == group).tolist())), np.int64)
            for group in np.unique(group_of_record)
        ]
        or [np.empty(0, np.int64)]
    )
    return _grouped(group_of_record[order], pairs[order], order)


def count_by_triplet(gold: TripletSets, predicted: TripletSets, of_gold: Ints, of_predicted: Ints) -> Counts:
    """Counts of the triplets in groups, over the records in which a group occurs in gold or prediction.

    Args:
        gold, predicted: sets of the same records with common codes.
        of_gold, of_predicted: int64[t], group of each triplet; equal triplets must have equal groups.
    """
    group = np.concatenate([of_predicted, of_gold])
    record = np.concatenate([predicted.record, gold.record])
    relation = np.concatenate([predicted.relation, gold.relation])
    keys, pair_of_row = np.unique(group * gold.records + record, return_inverse=True)
    in_prediction, in_gold = pair_of_row[: len(predicted)], pair_of_row[len(predicted) :]
    counts = np.stack(
        [
            np.bincount(in_prediction[find_correct(gold, predicted)], minlength=len(keys)),
            np.bincount(in_prediction, minlength=len(keys)),
            np.bincount(in_gold, minlength=len(keys)),
        ],
        axis=1,
    ).astype(np.int64)
    records = max(gold.records, 1)
    listed = _as_listed(group, relation, record)
    order = np.searchsorted(keys, listed[:, 0] * records + listed[:, 1])
    return _grouped(keys[order] // records, counts[order], listed[:, 1])


def count_exact(gold: TripletSets, predicted: TripletSets) -> Counts:
    """One group in which a record counts as one correct item if its sets are equal; precision is the share."""
    counts = _by_record(gold, predicted)
    exact = (counts[:, 0] == counts[:, 1]) & (counts[:, 0] == counts[:, 2])
    ones = np.ones(len(exact), np.int64)
    return count_items(np.stack([exact, ones, ones], axis=1).astype(np.int64))


def count_false_alarms(gold: TripletSets, predicted: TripletSets) -> Counts:
    """One group of the records without gold triplets, none if all have some.

    A record counts as one correct item if anything is predicted for it; precision is the share.
    """
    counts = _by_record(gold, predicted)
    alarms = (counts[counts[:, 2] == 0, 1] > 0).astype(np.int64)
    ones = np.ones_like(alarms)
    return count_items(np.stack([alarms, ones, ones], axis=1))


def count_items(pairs: Ints) -> Counts:
    """One group of records with these counts, int64[records, 3]."""
    return _grouped(np.zeros(len(pairs), np.int64), pairs, np.arange(len(pairs)))


def frequency_bucket(frequency: Ints) -> Ints:
    """Bucket k of a relation that occurs f times in training: 2^(k-1) ≤ f < 2^k, and 0 for f = 0.

    >>> frequency_bucket(np.array([0, 1, 2, 3, 4, 1023, 1024])).tolist()
    [0, 1, 2, 2, 3, 10, 11]
    """
    return np.array([int(value).bit_length() for value in frequency], np.int64)


# --- Scores ---------------------------------------------------------------------------------------------------------


def scores(sums: NDArray[np.int64] | Floats) -> Floats:
    """Precision, recall and F1 of counts (correct, predicted, gold): float64[…, 3] from number[…, 3]."""
    correct, predicted, gold = (sums[..., column].astype(np.float64) for column in range(3))
    precision, recall = _ratio(correct, predicted), _ratio(correct, gold)
    return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)], axis=-1)


def micro(gold: TripletSets, predicted: TripletSets) -> Scores:
    """Scores of the counts pooled over all records.

    >>> from synthie.evaluation.triplets import triplet_sets
    >>> gold, predicted = triplet_sets(
    ...     [{("Q64", "P17", "Q183"), ("Q64", "P31", "Q515")}], [{("Q64", "P17", "Q183")}])
    >>> micro(gold, predicted)
    Scores(precision=1.0, recall=0.5, f1=0.6666666666666666)
    """
    return Scores(*scores(_by_record(gold, predicted).sum(axis=0)).tolist())


def macro(gold: TripletSets, predicted: TripletSets) -> Scores:
    """Mean over the relations in gold or prediction of the scores of the triplets with that relation.

    Macro F1 is the mean of the relations' F1, not the F1 of the mean precision and recall.
    Without any triplet all are 0.
    """
    counts = count_by_triplet(gold, predicted, gold.relation, predicted.relation)
    if len(counts.groups) == 0:
        return Scores(0.0, 0.0, 0.0)
    return Scores(*(float(np.mean(column)) for column in np.ascontiguousarray(scores(counts.sums()).T)))


# --- Helpers --------------------------------------------------------------------------------------------------------


def _by_record(gold: TripletSets, predicted: TripletSets) -> Ints:
    """int64[records, 3]: correct, predicted and gold triplets of each record."""
    columns = (predicted.record[find_correct(gold, predicted)], predicted.record, gold.record)
    return np.stack([np.bincount(rows, minlength=gold.records) for rows in columns], axis=1).astype(np.int64)


def _as_listed(group: Ints, relation: Ints, record: Ints) -> Ints:
    """int64[p, 2]: the different (group, record), groups ascending, records in the original's order.

    The original collects the records of each relation in a Python set, joins the sets of a group's relations by
    ``set().union(…)``, and walks that set. Its order is ascending for most large sets, not for small ones, and as
    resamples draw places in it, intervals depend on it. So the same sets are made here. Where a group has several
    relations the original takes them in the order of a set of strings, which differs from run to run; here they
    are taken by code.
    """
    rows = np.stack([group, relation, record], axis=1)
    rows = rows[np.unique(row_codes(rows), return_index=True)[1]]  # sorted
    bounds = np.flatnonzero(np.any(rows[1:, :2] != rows[:-1, :2], axis=1)) + 1
    sets: dict[int, list[set[int]]] = {}
    for part in np.split(rows, bounds) if len(rows) else ():
        sets.setdefault(int(part[0, 0]), []).append(set(part[:, 2].tolist()))
    listed = {number: list(set().union(*members)) for number, members in sets.items()}
    groups = np.repeat(np.array(list(listed), np.int64), [len(members) for members in listed.values()])
    return np.stack([groups, np.array([r for members in listed.values() for r in members], np.int64)], axis=1)


def _grouped(groups: Ints, pairs: Ints, records: Ints) -> Counts:
    """Counts from rows sorted by group."""
    values, first = np.unique(groups, return_index=True)
    return Counts(values, np.append(first, len(groups)).astype(np.int64), pairs, records)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
