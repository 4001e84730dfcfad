"""The bootstrap of micro and macro scores beside the obvious loop, which must give the same figures to the last digit.

50,000 records with 3.4 gold triplets of 888 relations, drawn in Zipf's proportions, 80% of them predicted, some with
another object. The loop does what the protocol says: for each resample, each relation's records are filtered to its
triplets, drawn with replacement, and their sets intersected.
It is timed on two of the 50 resamples (``--full``: all).

    python benchmarks/evaluation.py [--full]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np

from synthie.evaluation.resampling import bootstrap
from synthie.evaluation.scores import Counts, count_by_record, count_by_triplet
from synthie.evaluation.triplets import Key, triplet_sets

RECORDS, RELATIONS, RESAMPLES, SEED = 50_000, 888, 50, 7
Corpus = Sequence[set[Key]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="time the loop on all resamples")
    full = parser.parse_args().full
    gold, predicted = make_corpus()
    print(f"{RECORDS:,} records, {sum(map(len, gold)):,} gold triplets, {RELATIONS} relations")

    start = time.process_time()
    sets = triplet_sets(gold, predicted)
    counts = count_by_record(*sets), count_by_triplet(*sets, sets[0].relation, sets[1].relation)
    counting = time.process_time() - start

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best, ours = np.inf, []
    for _ in range(3):
        start = time.process_time()
        ours = [bootstrap(each, resamples=RESAMPLES, seed=SEED) for each in counts]
        best = min(best, time.process_time() - start)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    looped = RESAMPLES if full else 2
    start = time.process_time()
    theirs = loop(gold, predicted, sets[0].relations, looped)
    seconds = (time.process_time() - start) / looped * RESAMPLES
    assert_equal(ours, theirs, counts[1], sets[0].relations)

    print(f"loop        {seconds:8.1f} s CPU for {RESAMPLES} resamples, measured on {looped}")
    print(f"vectorised  {best:8.3f} s CPU, {seconds / best:,.0f} times as fast, {memory:,.0f} MiB more at the peak")
    print(
        f"  … with encoding and counting, done once: {best + counting:.2f} s, {seconds / (best + counting):,.0f} times"
    )
    print(f"equal to the last digit: {looped} resamples, micro and {len(counts[1].groups)} relations")


def make_corpus() -> tuple[list[set[Key]], list[set[Key]]]:
    rng = np.random.default_rng(SEED)
    chance = 1 / np.arange(1, RELATIONS + 1)
    sizes = 1 + rng.poisson(2.4, RECORDS)
    relations = rng.choice(RELATIONS, sizes.sum(), p=chance / chance.sum())
    nodes = rng.integers(0, 100_000, (sizes.sum(), 3))
    fate = rng.random(sizes.sum())
    gold: list[set[Key]] = []
    predicted: list[set[Key]] = []
    place = 0
    for size in sizes:
        gold.append(set())
        predicted.append(set())
        for row in range(place, place + size):
            subject, target, other = (f"Q{number}" for number in nodes[row])
            relation = f"P{relations[row]}"
            gold[-1].add((subject, relation, target))
            if fate[row] < 0.8:
                predicted[-1].add((subject, relation, target if fate[row] < 0.72 else other))
        place += size
    return gold, predicted


def loop(
    gold: Corpus, predicted: Corpus, relations: Sequence[str], resamples: int
) -> tuple[list[tuple[float, float, float]], dict[str, list[tuple[float, float, float]]]]:
    """Scores of each resample: micro, and of each relation."""
    where: dict[str, set[int]] = {relation: set() for relation in relations}
    for place, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        for _, relation, _ in [*g, *p]:
            where[relation].add(place)
    micro, by_relation = [], {relation: [] for relation in relations if where[relation]}
    for i in range(resamples):
        micro.append(resample(list(zip(gold, predicted, strict=True)), SEED + i))
        for relation in by_relation:
            own = [
                tuple({key for key in side[place] if key[1] == relation} for side in (gold, predicted))
                for place in set().union(where[relation])
            ]
            by_relation[relation].append(resample(own, SEED + i))
    return micro, by_relation


def resample(pairs: list[tuple[set[Key], ...]], seed: int) -> tuple[float, float, float]:
    correct = in_prediction = in_gold = 0
    for place in np.random.RandomState(seed).choice(len(pairs), len(pairs), replace=True):
        gold, predicted = pairs[place]
        correct += len(gold & predicted)
        in_prediction += len(predicted)
        in_gold += len(gold)
    precision = correct / in_prediction if in_prediction else 0.0
    recall = correct / in_gold if in_gold else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if correct else 0.0


def assert_equal(
    ours: list[np.ndarray],
    theirs: tuple[list[tuple[float, float, float]], dict[str, list[tuple[float, float, float]]]],
    counts: Counts,
    names: Sequence[str],
) -> None:
    micro, by_relation = theirs
    looped = len(micro)
    assert ours[0][:looped, 0].tolist() == [list(row) for row in micro]
    assert len(counts.groups) == len(by_relation)
    for column, relation in enumerate(counts.groups):
        assert ours[1][:looped, column].tolist() == [list(row) for row in by_relation[names[relation]]]


if __name__ == "__main__":
    main()
