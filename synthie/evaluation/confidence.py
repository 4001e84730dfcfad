"""Do the beams' scores say how good a prediction is? Calibration, and precision against recall by score.

A record's confidence is exp(score), where the score is the length-normalised
log-probability of its best beam. It is the confidence that the whole set is right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from synthie.evaluation.scores import scores
from synthie.evaluation.triplets import Floats, Ints

__all__ = ["calibration", "precision_recall"]

_BINS = 10
_POINTS = 60


def calibration(confidence: Floats, by_record: Ints, exact: Ints) -> dict[str, Any]:
    """Ten bins of as many records each by confidence, and the expected calibration error.

    Args:
        confidence: float64[records] in [0, 1].
        by_record: int64[records, 3], correct, predicted and gold triplets.
        exact: int64[records], 1 where the sets are equal.

    Returns:
        ``error``: mean over the records of |mean confidence − share of exact sets| of their bin (ECE with
        bins of equal mass); ``bins``: for each its records, mean confidence, share of exact sets, and pooled
        precision.
    """
    order = np.argsort(confidence, kind="stable")
    bins = []
    for rows in np.array_split(order, min(_BINS, len(order))):
        pooled = scores(by_record[rows].sum(axis=0))
        bins.append(
            {
                "records": len(rows),
                "confidence": float(confidence[rows].mean()),
                "exact": float(exact[rows].mean()),
                "precision": float(pooled[0]),
            }
        )
    gaps = sum(part["records"] * abs(part["confidence"] - part["exact"]) for part in bins)
    return {"error": gaps / max(len(order), 1), "bins": bins}


def precision_recall(score: Floats, by_record: Ints) -> dict[str, Any]:
    """Pooled precision and recall if only the predictions of the best-scored records are kept.

    Args:
        score: float64[records].
        by_record: int64[records, 3], correct, predicted and gold triplets; gold counts whether kept or not.

    Returns:
        ``area``: average precision, Σ (recall_k − recall_{k−1}) · precision_k over the different scores, best first;
        ``points``: up to 60 of them, evenly spaced, with their threshold, precision, recall, F1 and records kept.
    """
    order = np.argsort(-score, kind="stable")
    kept = np.cumsum(by_record[order, :2], axis=0)
    ends = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True]) if len(order) else np.empty(0, np.int64)
    gold = np.full(len(ends), by_record[:, 2].sum())
    figures = scores(np.column_stack([kept[ends], gold]))
    area = float(np.sum(np.diff(figures[:, 1], prepend=0.0) * figures[:, 0]))
    chosen = np.unique(np.linspace(0, len(ends) - 1, min(_POINTS, len(ends))).round().astype(np.int64))
    points = [
        {
            "threshold": float(score[order][ends[place]]),
            "records": int(ends[place]) + 1,
            **dict(zip(("precision", "recall", "f1"), figures[place].tolist(), strict=True)),
        }
        for place in chosen
    ]
    return {"area": area, "points": points}
