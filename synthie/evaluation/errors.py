"""What is wrong: each wrong prediction and each missed triplet sorted into one kind, and credit for near misses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from synthie.evaluation.triplets import Ints, TripletSets, find_correct, row_codes

__all__ = ["ERRORS", "ErrorPairs", "find_errors", "find_related", "related_relations"]

ERRORS = ("swapped", "wrong_relation", "merged", "wrong_object", "wrong_subject", "invented", "missed")


@dataclass(frozen=True)
class ErrorPairs:
    """The errors of one kind: rows of the gold and the predicted sets, -1 where there is none."""

    gold: Ints
    predicted: Ints

    def __len__(self) -> int:
        return len(self.gold)


def find_errors(gold: TripletSets, predicted: TripletSets) -> dict[str, ErrorPairs]:
    """Sort the wrong predictions and the missed gold triplets into the kinds of `ERRORS`.

    A wrong prediction is paired with a missed gold triplet of its record, each at most once, if it
    has subject and object exchanged (swapped), else if it differs in the relation, the object or the
    subject alone. A wrong object or subject that is a node of the record's gold set is merged: a fact of one
    node is told of another one, as if they were the same. Predictions left over are invented, gold triplets
    left over missed. So

        predicted = correct + swapped + wrong_* + merged + invented,
        gold = correct + swapped + wrong_* + merged + missed.
    """
    wrong = np.flatnonzero(~find_correct(gold, predicted))
    missed = np.flatnonzero(~find_correct(predicted, gold))
    found: dict[str, list[tuple[Ints, Ints]]] = {kind: [] for kind in ERRORS}
    subject_known, object_known = _known_nodes(gold, predicted)
    swapped = (predicted.object, predicted.relation, predicted.subject)
    same_subject = ((predicted.subject, predicted.relation), (gold.subject, gold.relation))
    same_object = ((predicted.relation, predicted.object), (gold.relation, gold.object))
    everything = np.ones(len(predicted), bool)
    for kind, candidates, of_predicted, of_gold in (
        ("swapped", everything, swapped, (gold.subject, gold.relation, gold.object)),
        ("wrong_relation", everything, (predicted.subject, predicted.object), (gold.subject, gold.object)),
        ("merged", object_known, *same_subject),
        ("merged", subject_known, *same_object),
        ("wrong_object", everything, *same_subject),
        ("wrong_subject", everything, *same_object),
    ):
        tried = wrong[candidates[wrong]]
        left = np.stack([predicted.record, *of_predicted], axis=1)[tried]
        right = np.stack([gold.record, *of_gold], axis=1)[missed]
        in_tried, in_missed = _pair_off(left, right)
        found[kind].append((missed[in_missed], tried[in_tried]))
        wrong = np.setdiff1d(wrong, tried[in_tried], assume_unique=True)
        missed = np.delete(missed, in_missed)
    found["invented"].append((np.full(len(wrong), -1), wrong))
    found["missed"].append((missed, np.full(len(missed), -1)))
    return {
        kind: ErrorPairs(*(np.concatenate(rows) for rows in zip(*pairs, strict=True))) for kind, pairs in found.items()
    }


def related_relations(links: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Relation -> its direct and indirect parents, from pairs (relation, parent); cycles do no harm.

    >>> related_relations([("mother", "parent"), ("parent", "relative")])["mother"] == {"parent", "relative"}
    True
    """
    parents: dict[str, set[str]] = defaultdict(set)
    for relation, parent in links:
        parents[relation].add(parent)
    closed = {}
    for relation in list(parents):
        seen: set[str] = set()
        waiting = list(parents[relation])
        while waiting:
            parent = waiting.pop()
            if parent not in seen:
                seen.add(parent)
                waiting += parents.get(parent, ())
        closed[relation] = seen - {relation}
    return closed


def find_related(gold: TripletSets, predicted: TripletSets, ancestors: Mapping[str, set[str]]) -> Ints:
    """Rows of ``predicted`` that are wrong but for a relation above or below the gold one; each gold row serves once.

    Args:
        gold, predicted: sets of the same records with common codes.
        ancestors: relation -> the relations above it, see `related_relations`.
    """
    missed: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    for row in np.flatnonzero(~find_correct(predicted, gold)).tolist():
        place = (int(gold.record[row]), int(gold.subject[row]), int(gold.object[row]))
        missed[place].append(gold.relations[gold.relation[row]])
    related = []
    nothing: set[str] = set()
    for row in np.flatnonzero(~find_correct(gold, predicted)).tolist():
        place = (int(predicted.record[row]), int(predicted.subject[row]), int(predicted.object[row]))
        name = predicted.relations[predicted.relation[row]]
        for other in missed.get(place, ()):
            if other in ancestors.get(name, nothing) or name in ancestors.get(other, nothing):
                missed[place].remove(other)
                related.append(row)
                break
    return np.array(related, np.int64)


def _known_nodes(gold: TripletSets, predicted: TripletSets) -> tuple[np.ndarray, np.ndarray]:
    """bool[t] twice: whether the subject, and the object, of each predicted row is a node of the record's gold set."""
    nodes = max(len(gold.nodes), 1)
    known = np.concatenate([gold.record * nodes + gold.subject, gold.record * nodes + gold.object])
    subject = np.isin(predicted.record * nodes + predicted.subject, known)
    return subject, np.isin(predicted.record * nodes + predicted.object, known)


def _pair_off(left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """Positions of rows of ``left`` and of ``right`` that are equal, each used once, in order."""
    codes = np.unique(row_codes(np.concatenate([left, right])), return_inverse=True)[1]
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
