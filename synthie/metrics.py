"""Precision, recall and F1 of extracted triplet sets, as the SynthIE paper computes them.

A predicted triplet is correct if the same record has a gold triplet with the
same subject, relation and object (ids). With TP, P, G the numbers of correct,
predicted and gold triplets of some records,

    precision = TP / P,   recall = TP / G,   F1 = 2 · precision · recall / (precision + recall),

each 0 where its denominator is 0. Every figure here comes from the same three
steps: count TP, P, G for each pair (group, record) (`Counts`), sum them over
the records of a group, turn the sums into scores. The micro figures are one
group with all records; the macro figures are the mean over one group for each
relation; buckets are groups too, and so is the bootstrap's resample of a group.

Protocol: M. Josifoski et al., "Exploiting Asymmetry for Synthetic Training Data
Generation: SynthIE and the Case of Information Extraction", EMNLP 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = [
    "ERRORS",
    "Counts",
    "ErrorPairs",
    "Estimate",
    "Key",
    "Scores",
    "TripletSets",
    "bootstrap",
    "count_by_record",
    "count_by_triplet",
    "count_exact",
    "count_false_alarms",
    "encode",
    "estimate",
    "find_errors",
    "frequency_bucket",
    "macro",
    "micro",
    "parts",
    "scores",
    "triplet_sets",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Key = tuple[str, str, str]

ERRORS = ("swapped", "wrong_relation", "wrong_object", "wrong_subject", "invented", "missed")


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
        offsets: int64[g+1]; group i has the pairs ``offsets[i]:offsets[i+1]``, by ascending record.
        pairs: int64[p, 3], correct, predicted and gold triplets.
    """

    groups: Ints
    offsets: Ints
    pairs: Ints

    def sums(self) -> Ints:
        """int64[g, 3]: the counts of each group over its records."""
        running = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(self.pairs, axis=0)])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


@dataclass(frozen=True)
class Estimate:
    """A score with its bootstrap intervals.

    Attributes:
        value: the score on the records as they are.
        mean: mean over the resamples.
        low, high: percentile interval.
        normal_low, normal_high: mean ± 1.96 standard deviations of the resamples.
    """

    value: float
    mean: float
    low: float
    high: float
    normal_low: float
    normal_high: float


@dataclass(frozen=True)
class ErrorPairs:
    """The errors of one kind: rows of the gold and the predicted sets, -1 where there is none."""

    gold: Ints
    predicted: Ints

    def __len__(self) -> int:
        return len(self.gold)


# --- Triplet sets ---------------------------------------------------------------------------------------------------


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
    """The sets of the records' ``"nodes"`` or ``"relations"`` alone, as degenerate triplets."""
    if kind == "nodes":
        record, code = np.tile(sets.record, 2), np.concatenate([sets.subject, sets.object])
    else:
        record, code = sets.record, sets.relation
    rows = _distinct(np.stack([record, code], axis=1))
    zeros = np.zeros(len(rows), np.int64)
    return TripletSets(sets.records, rows[:, 0], rows[:, 1], zeros, zeros, sets.nodes, sets.relations)


# --- Counts ---------------------------------------------------------------------------------------------------------


def count_by_record(gold: TripletSets, predicted: TripletSets, group_of_record: Ints | None = None) -> Counts:
    """Counts of the records in groups; None puts all in one group.

    Args:
        gold, predicted: sets of the same records with common codes.
        group_of_record: int64[records].
    """
    groups = np.zeros(gold.records, np.int64) if group_of_record is None else group_of_record
    correct = np.bincount(predicted.record[_correct(gold, predicted)], minlength=gold.records)
    in_prediction = np.bincount(predicted.record, minlength=gold.records)
    in_gold = np.bincount(gold.record, minlength=gold.records)
    order = np.argsort(groups, kind="stable")
    return _grouped(groups[order], np.stack([correct, in_prediction, in_gold], axis=1)[order])


def count_by_triplet(gold: TripletSets, predicted: TripletSets, of_gold: Ints, of_predicted: Ints) -> Counts:
    """Counts of the triplets in groups, over the records in which a group occurs in gold or prediction.

    Args:
        gold, predicted: sets of the same records with common codes.
        of_gold, of_predicted: int64[t], group of each triplet; equal triplets must have equal groups.
    """
    group = np.concatenate([of_predicted, of_gold])
    record = np.concatenate([predicted.record, gold.record])
    pairs, pair_of_row = np.unique(group * gold.records + record, return_inverse=True)
    counts = np.zeros((len(pairs), 3), np.int64)
    np.add.at(counts[:, 0], pair_of_row[: len(predicted)], _correct(gold, predicted))
    np.add.at(counts[:, 1], pair_of_row[: len(predicted)], 1)
    np.add.at(counts[:, 2], pair_of_row[len(predicted) :], 1)
    return _grouped(pairs // max(gold.records, 1), counts)


def count_exact(gold: TripletSets, predicted: TripletSets) -> Counts:
    """One group in which a record counts as one correct item if its sets are equal; precision is the share."""
    counts = count_by_record(gold, predicted).pairs
    exact = (counts[:, 0] == counts[:, 1]) & (counts[:, 0] == counts[:, 2])
    ones = np.ones(len(exact), np.int64)
    return _grouped(np.zeros(len(exact), np.int64), np.stack([exact, ones, ones], axis=1).astype(np.int64))


def count_false_alarms(gold: TripletSets, predicted: TripletSets) -> Counts:
    """One group of the records without gold triplets, none if all have some.

    A record counts as one correct item if anything is predicted for it; precision is the share.
    """
    counts = count_by_record(gold, predicted).pairs
    alarms = (counts[counts[:, 2] == 0, 1] > 0).astype(np.int64)
    ones = np.ones_like(alarms)
    return _grouped(np.zeros_like(alarms), np.stack([alarms, ones, ones], axis=1))


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

    >>> gold, predicted = triplet_sets(
    ...     [{("Q64", "P17", "Q183"), ("Q64", "P31", "Q515")}], [{("Q64", "P17", "Q183")}])
    >>> micro(gold, predicted)
    Scores(precision=1.0, recall=0.5, f1=0.6666666666666666)
    """
    counts = count_by_record(gold, predicted).pairs.sum(axis=0)
    return Scores(*scores(counts).tolist())


def macro(gold: TripletSets, predicted: TripletSets) -> Scores:
    """Mean over the relations in gold or prediction of the scores of the triplets with that relation.

    Macro F1 is the mean of the relations' F1, not the F1 of the mean precision and recall.
    Without any triplet all are 0.
    """
    counts = count_by_triplet(gold, predicted, gold.relation, predicted.relation)
    if len(counts.groups) == 0:
        return Scores(0.0, 0.0, 0.0)
    return Scores(*scores(counts.sums()).mean(axis=0).tolist())


def bootstrap(counts: Counts, *, resamples: int, seed: int) -> Floats:
    """Scores of each group on resamples of its own records: float64[resamples, g, 3].

    Resample i of a group with n records takes n of them with replacement, drawn by
    ``numpy.random.RandomState(seed + i)``, so groups of one size share their draws.
    """
    sizes = np.diff(counts.offsets)
    sums = np.zeros((resamples, len(counts.groups), 3))
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        rows = counts.offsets[chosen][:, None] + np.arange(size)
        times = np.stack([_times_drawn(size, seed + i) for i in range(resamples)])
        sums[:, chosen] = np.tensordot(times, counts.pairs[rows].astype(np.float64), axes=(1, 1))
    return scores(sums)


def estimate(value: float, resampled: Floats, confidence: float) -> Estimate:
    """The intervals of a score from its resamples, float64[resamples].

    The percentile interval holds the share ``confidence`` of the resamples; the other one is their
    mean ± 1.96 standard deviations (of the population), as the paper reports it.
    """
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    mean, spread = resampled.mean(), 1.96 * resampled.std()
    return Estimate(value, *(float(figure) for figure in (mean, low, high, mean - spread, mean + spread)))


# --- Errors ---------------------------------------------------------------------------------------------------------


def find_errors(gold: TripletSets, predicted: TripletSets) -> dict[str, ErrorPairs]:
    """Sort the wrong predictions and the missed gold triplets into the kinds of `ERRORS`.

    A wrong prediction is paired with a missed gold triplet of its record, each at most once, if it
    has subject and object exchanged (swapped), else if it differs in the relation, the object or the
    subject alone. Predictions left over are invented, gold triplets left over missed. So

        predicted = correct + swapped + wrong_* + invented,   gold = correct + swapped + wrong_* + missed.
    """
    wrong = np.flatnonzero(~_correct(gold, predicted))
    missed = np.flatnonzero(~_correct(predicted, gold))
    errors = {}
    for kind, of_predicted, of_gold in (
        ("swapped", (predicted.object, predicted.relation, predicted.subject), _columns(gold)),
        ("wrong_relation", (predicted.subject, predicted.object), (gold.subject, gold.object)),
        ("wrong_object", (predicted.subject, predicted.relation), (gold.subject, gold.relation)),
        ("wrong_subject", (predicted.relation, predicted.object), (gold.relation, gold.object)),
    ):
        left = np.stack([predicted.record, *of_predicted], axis=1)[wrong]
        right = np.stack([gold.record, *of_gold], axis=1)[missed]
        in_wrong, in_missed = _pair_off(left, right)
        errors[kind] = ErrorPairs(missed[in_missed], wrong[in_wrong])
        wrong, missed = np.delete(wrong, in_wrong), np.delete(missed, in_missed)
    errors["invented"] = ErrorPairs(np.full(len(wrong), -1), wrong)
    errors["missed"] = ErrorPairs(missed, np.full(len(missed), -1))
    return errors


# --- Helpers --------------------------------------------------------------------------------------------------------


def _columns(sets: TripletSets) -> tuple[Ints, Ints, Ints]:
    return sets.subject, sets.relation, sets.object


def _correct(gold: TripletSets, predicted: TripletSets) -> NDArray[np.bool_]:
    """bool[t]: which rows of ``predicted`` are rows of ``gold``."""
    rows = [np.stack([sets.record, *_columns(sets)], axis=1) for sets in (gold, predicted)]
    codes = _row_codes(np.concatenate(rows))
    return np.isin(codes[len(gold) :], codes[: len(gold)])


def _row_codes(rows: Ints) -> Ints:
    """int64[n], equal where rows of non-negative numbers are equal; np.unique over an axis is ten times slower."""
    codes = rows[:, 0]
    for column in rows.T[1:]:
        span = int(column.max(initial=0)) + 1
        if int(codes.max(initial=0)) >= (1 << 62) // span:
            codes = np.unique(codes, return_inverse=True)[1]
        codes = codes * span + column
    return codes


def _grouped(groups: Ints, pairs: Ints) -> Counts:
    """Counts from rows sorted by group."""
    values, first = np.unique(groups, return_index=True)
    return Counts(values, np.append(first, len(groups)).astype(np.int64), pairs)


def _distinct(rows: Ints) -> Ints:
    """The different rows, sorted by their first column."""
    rows = rows[np.unique(_row_codes(rows), return_index=True)[1]]
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _times_drawn(size: int, seed: int) -> Floats:
    """float64[size]: how often each of ``size`` records is in the resample."""
    # The same numbers as choice(size, size, replace=True), without its checks.
    draws = np.random.RandomState(seed % (1 << 32)).randint(0, size, size)
    return np.bincount(draws, minlength=size).astype(np.float64)


def _pair_off(left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """Positions of rows of ``left`` and of ``right`` that are equal, each used once, in order."""
    codes = np.unique(_row_codes(np.concatenate([left, right])), return_inverse=True)[1]
    of_left, of_right = _with_rank(codes[: len(left)]), _with_rank(codes[len(left) :])
    _, in_left, in_right = np.intersect1d(of_left, of_right, assume_unique=True, return_indices=True)
    order = np.argsort(in_left)
    return in_left[order], in_right[order]


def _with_rank(codes: Ints) -> Ints:
    """Make codes unique: the k-th occurrence of a code gets the number code · n + k."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first = np.searchsorted(ordered, ordered)
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - first
    # 2^31 occurrences of one code do not happen, and codes are below 2^31 too.
    return (codes.astype(np.int64) << 31) + ranks
