"""Shares with intervals that respect how the data were drawn.

Texts are drawn at random, but their triplets come in clusters: a text that leaves one out may leave out two. A share
of triplets is therefore a ratio of two totals over texts, and its variance comes from the texts (Cochran 1977,
*Sampling Techniques*, 3rd ed., sections 6.3 and 9A.1). Near 0 and 1, where a good data set lives, the usual symmetric
interval fails, so the variance serves to find the effective number of independent triplets (Korn & Graubard 1998,
*Survey Methodology* 24), with which Wilson's (1927) interval is computed; Dean & Pagano (2015, *Journal of Survey
Statistics and Methodology* 3) found it to hold its level for clustered samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

__all__ = ["CONFIDENCE", "Share", "clustered", "corrected", "posterior", "wilson"]

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_DRAWS = 20_000  # from a posterior


class Share(NamedTuple):
    """An estimated share and its interval; ``value`` is None where nothing was counted."""

    value: float | None
    low: float
    high: float


def wilson(successes: float, trials: float) -> Share:
    """The share of independent trials that succeed, with Wilson's score interval.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.8, 0.49, 0.943]
    """
    if trials <= 0:
        return Share(None, 0.0, 1.0)
    share = successes / trials
    centre = share + _Z**2 / (2 * trials)
    spread = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    return Share(share, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def clustered(successes: np.ndarray, trials: np.ndarray) -> Share:
    """The share of trials that succeed where trials come in clusters.

    Args:
        successes, trials: int[clusters]; clusters without trials do not count.
    """
    held = trials > 0
    successes, trials = successes[held].astype(float), trials[held].astype(float)
    clusters, total = len(trials), float(trials.sum())
    if not clusters:
        return Share(None, 0.0, 1.0)
    share = float(successes.sum() / total)
    interval = wilson(share * (size := _effective_size(successes, trials, share)), size)
    return Share(share, interval.low, interval.high)


def _effective_size(successes: np.ndarray, trials: np.ndarray, share: float) -> float:
    """Independent trials that would tell as much, between one and the number of trials."""
    clusters, total = len(trials), float(trials.sum())
    spread = float(((successes - share * trials) ** 2).sum())
    if clusters < 2 or not spread:
        return float(clusters)  # nothing is known of how alike the trials of a cluster are: as if all were the same
    variance = spread * clusters / (clusters - 1) / total**2
    size = share * (1 - share) / variance
    from scipy.stats import t as student  # a second to load; most shares need it not

    # Few clusters give a poor variance (Korn & Graubard's correction by degrees of freedom).
    size *= (_Z / float(student.ppf(0.5 + CONFIDENCE / 2, clusters - 1))) ** 2
    return min(max(size, 1.0), total)


def corrected(share: Share, sensitivity: float, specificity: float) -> Share:
    """The share that a judge with known error rates would have found without them (Rogan & Gladen 1978, *American
    Journal of Epidemiology* 107); the error rates are taken as exact.

    A judge with these rates finds shares from 1 - ``specificity`` to ``sensitivity``. Where the whole interval lies
    beyond, the rates are not those of this judge on these texts, and ``value`` is None.

    >>> corrected(Share(0.875, 0.8, 0.95), 0.95, 0.8).value
    0.9
    """
    if share.value is None or share.low > sensitivity or share.high < 1 - specificity:
        return Share(None, 0.0, 1.0)
    value, low, high = (
        round(min(1.0, max(0.0, (end + specificity - 1) / (sensitivity + specificity - 1))), 12)
        for end in (share.value, share.low, share.high)
    )
    return Share(value, low, high)


def posterior(counts: list[tuple[int, int]], figure: Callable[..., np.ndarray], seed: int = 0) -> Share:
    """A figure made of several independent shares, with a credible interval from Jeffreys' prior (Brown, Cai &
    DasGupta 2001, *Statistical Science* 16, on why that one).

    Args:
        counts: successes and trials of each.
        figure: takes arrays of each share, returns one of the figure.
        seed: of the draws.
    """
    if not all(trials for _, trials in counts):
        return Share(None, 0.0, 1.0)
    random = np.random.default_rng(seed)
    drawn = figure(*(random.beta(hits + 0.5, trials - hits + 0.5, _DRAWS) for hits, trials in counts))
    low, high = np.quantile(drawn, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(figure(*(np.array(hits / trials) for hits, trials in counts)))
    return Share(None if math.isnan(value) else value, float(low), float(high))
