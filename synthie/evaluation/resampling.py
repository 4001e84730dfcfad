"""The bootstrap: what resamples of the records would have scored.

Resamples follow the original's code to the last digit: resample i draws places
in the list of a group's records with ``numpy.random.RandomState(seed + i)``,
and macro scores and buckets are resampled inside each group. Sums come from
how often a record was drawn, times its counts, so no record is looked at
again. Differences between systems are tested on common draws of the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import sparse

from synthie.evaluation.scores import Counts, scores
from synthie.evaluation.triplets import Floats, Ints

__all__ = ["MEASURES", "Estimate", "Judged", "System", "bootstrap", "compare", "estimate"]

MEASURES = ("precision", "recall", "f1")
_CHUNK = 4_000_000  # draws held at a time


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


def estimate(value: float, resampled: Floats, confidence: float) -> Estimate:
    """The intervals of a score from its resamples, float64[resamples].

    The percentile interval holds the share ``confidence`` of the resamples; the other one is their
    mean ± 1.96 standard deviations (of the population), as the paper reports it.
    """
    resampled = np.ascontiguousarray(resampled)
    alpha = (1 - confidence) / 2
    low, high = np.percentile(resampled, [alpha * 100, (1 - alpha) * 100])
    mean, spread = resampled.mean(), 1.96 * resampled.std()
    return Estimate(value, *(float(figure) for figure in (mean, low, high, mean - spread, mean + spread)))


def bootstrap(counts: Counts, *, resamples: int, seed: int) -> Floats:
    """Scores of each group on resamples of its own records: float64[resamples, g, 3].

    Resample i of a group with n records takes the records at
    ``RandomState(seed + i).choice(n, n, replace=True)``, so groups of one size share their draws.
    """
    sizes = np.diff(counts.offsets)
    sums = np.zeros((resamples, len(counts.groups), 3))
    for start, draws in _draws(np.unique(sizes), resamples, seed):
        for size, times in draws:
            chosen = np.flatnonzero(sizes == size)
            rows = counts.offsets[chosen][:, None] + np.arange(size)
            part = np.tensordot(times, counts.pairs[rows].astype(np.float64), axes=(1, 1))
            sums[start : start + len(times), chosen] = part
    return scores(sums)


class Judged:
    """The scores of groups with their intervals, as JSON-ready data."""

    def __init__(self, counts: Counts, *, resamples: int, confidence: float, seed: int) -> None:
        self._counts = counts
        self._confidence = confidence
        self._resampled = bootstrap(counts, resamples=resamples, seed=seed)

    def groups(self) -> list[dict[str, Any]]:
        """For each group its records, counts and scores."""
        sums, records = self._counts.sums(), np.diff(self._counts.offsets)
        values = scores(sums)
        return [
            {
                "records": int(records[group]),
                **dict(zip(("correct", "predicted", "gold"), sums[group].tolist(), strict=True)),
                **self._estimates(values[group], self._resampled[:, group]),
            }
            for group in range(len(records))
        ]

    def only(self) -> dict[str, Any]:
        """The figures of the one group; zeros where there is none."""
        return next(iter(self.groups()), None) or self.mean()

    def mean(self) -> dict[str, Any]:
        """Mean scores over the groups; the resamples were taken inside each group."""
        if len(self._counts.groups) == 0:
            return {measure: asdict(Estimate(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)) for measure in MEASURES}
        return self._estimates(_means(scores(self._counts.sums())), _means(self._resampled))

    def _estimates(self, values: Floats, resampled: Floats) -> dict[str, Any]:
        return {
            measure: asdict(estimate(float(values[column]), resampled[:, column], self._confidence))
            for column, measure in enumerate(MEASURES)
        }


# --- Differences between systems ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """What a comparison needs of a system, for the same records in the same order.

    Attributes:
        by_record: int64[records, 3], correct, predicted and gold triplets.
        by_relation: the same for each relation in gold or prediction.
        exact: int64[records], 1 where the sets are equal.
    """

    by_record: Ints
    by_relation: Counts
    exact: Ints


def compare(systems: Mapping[str, System], *, resamples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Differences of each two systems in micro F1, macro F1 and exact sets: the paired bootstrap.

    Resample i draws whole records, the same ones for all systems. ``p`` is two-sided: twice the smaller of the
    shares of the resamples in which the difference is not positive and not negative, at most 1; one resample is
    counted to either side, so it is never 0.
    """
    values = {name: _figures(system, np.ones((1, len(system.exact))))[:, 0] for name, system in systems.items()}
    records = len(next(iter(systems.values())).exact)
    drawn: dict[str, list[Floats]] = {name: [] for name in systems}
    for _, draws in _draws(np.array([records]), resamples, seed):
        for _, times in draws:
            for name, system in systems.items():
                drawn[name].append(_figures(system, times))
    resampled = {name: np.concatenate(chunks, axis=1) for name, chunks in drawn.items()}
    names = list(systems)
    alpha = (1 - confidence) / 2
    rows = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            for row, measure in enumerate(("micro_f1", "macro_f1", "exact")):
                differences = np.ascontiguousarray(resampled[second][row] - resampled[first][row])
                low, high = np.percentile(differences, [alpha * 100, (1 - alpha) * 100])
                tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
                rows.append(
                    {
                        "first": first,
                        "second": second,
                        "measure": measure,
                        "difference": float(values[second][row] - values[first][row]),
                        "low": float(low),
                        "high": float(high),
                        "p": min(1.0, 2 * (tail + 1) / (resamples + 1)),
                    }
                )
    return rows


def _figures(system: System, times: Floats) -> Floats:
    """float64[3, resamples]: micro F1, macro F1 and the share of exact sets, where record r counts times[i, r]-fold."""
    micro = scores(times @ system.by_record.astype(np.float64))[:, 2]
    counts = system.by_relation
    groups = np.repeat(np.arange(len(counts.groups)), np.diff(counts.offsets))
    columns = []
    for column in range(3):
        cells = (counts.pairs[:, column].astype(np.float64), (groups, counts.records))
        table = sparse.csr_array(cells, shape=(len(counts.groups), times.shape[1]))
        columns.append((table @ times.T).T)
    sums = np.stack(columns, axis=-1)
    present = (sums[:, :, 1:].sum(axis=2) > 0).sum(axis=1)
    macro = scores(sums)[:, :, 2].sum(axis=1) / np.maximum(present, 1)
    return np.stack([micro, macro, times @ system.exact / max(times.shape[1], 1)])


# --- Draws ----------------------------------------------------------------------------------------------------------


def _draws(sizes: Ints, resamples: int, seed: int) -> Iterator[tuple[int, Iterator[tuple[int, Floats]]]]:
    """First resample of a chunk, and for each size how often each of so many records is drawn, float64[chunk, size].

    ``choice`` takes the low bits of the generator's 32-bit numbers, as many as the size needs, and skips what
    exceeds it. So one stream a seed serves all sizes, and seeding, which is slow, is done once a resample.
    """
    longest = _stream_length(int(sizes.max(initial=1)))
    step = max(1, _CHUNK // longest)
    for start in range(0, resamples, step):
        seeds = [(seed + i) % (1 << 32) for i in range(start, min(start + step, resamples))]
        streams = np.stack([_stream(each, longest) for each in seeds])
        yield start, ((int(size), _times_drawn(int(size), seeds, streams)) for size in sizes)


def _times_drawn(size: int, seeds: list[int], streams: np.ndarray, length: int | None = None) -> Floats:
    if size < 2:
        return np.full((len(seeds), size), 1.0)
    length = _stream_length(size) if length is None else length
    places = streams[:, :length] & np.uint32((1 << (size - 1).bit_length()) - 1)
    fits = places < size
    rank = np.cumsum(fits, axis=1, dtype=np.int32)
    if (rank[:, -1] < size).any():  # ten standard deviations are next to impossible, but possible
        return _times_drawn(size, seeds, np.stack([_stream(each, 2 * length) for each in seeds]), 2 * length)
    fits &= rank <= size
    drawn = places[fits].reshape(len(seeds), size) + np.arange(len(seeds))[:, None] * size
    return np.bincount(drawn.ravel(), minlength=len(seeds) * size).reshape(len(seeds), size).astype(np.float64)


def _stream(seed: int, length: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 1 << 32, length, dtype=np.uint32)


def _stream_length(size: int) -> int:
    """Numbers that hold ``size`` fitting ones but for ten standard deviations: at least half of them fit."""
    share = size / (1 << (size - 1).bit_length()) if size > 1 else 1.0
    return int((size + 10 * np.sqrt(size)) / share) + 64


def _means(values: Floats) -> Floats:
    """float64[…, 3]: means over the last axis but one, each as NumPy computes it for a list."""
    return np.mean(np.ascontiguousarray(np.moveaxis(values, -2, -1)), axis=-1)
