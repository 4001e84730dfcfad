"""The metrics against the paper's formulas spelled out with Python sets, record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.metrics import (
    ERRORS,
    Key,
    bootstrap,
    count_by_record,
    count_by_triplet,
    count_exact,
    count_false_alarms,
    estimate,
    find_errors,
    frequency_bucket,
    macro,
    micro,
    parts,
    scores,
    triplet_sets,
)

Corpus = Sequence[frozenset[Key]]

keys = st.tuples(st.sampled_from("abcd"), st.sampled_from(["r", "s", "t"]), st.sampled_from("abcd"))
records = st.tuples(st.frozensets(keys, max_size=5), st.frozensets(keys, max_size=5))
corpora = st.lists(records, min_size=1, max_size=12).map(
    lambda pairs: ([gold for gold, _ in pairs], [predicted for _, predicted in pairs])
)
thorough = settings(max_examples=60, deadline=None, derandomize=True)


def reference(gold: Corpus, predicted: Corpus) -> tuple[float, float, float]:
    """Pooled precision, recall and F1."""
    correct = sum(len(g & p) for g, p in zip(gold, predicted, strict=True))
    in_prediction, in_gold = sum(map(len, predicted)), sum(map(len, gold))
    precision = correct / in_prediction if in_prediction else 0.0
    recall = correct / in_gold if in_gold else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if correct else 0.0


def filtered(gold: Corpus, predicted: Corpus, keep: Callable[[Key], bool]) -> tuple[list, list]:
    """The records in which a kept triplet is in gold or prediction, with the kept triplets alone."""
    pairs = [
        (frozenset(filter(keep, g)), frozenset(filter(keep, p)))
        for g, p in zip(gold, predicted, strict=True)
        if any(map(keep, g | p))
    ]
    return [g for g, _ in pairs], [p for _, p in pairs]


def relations_of(*corpora: Corpus) -> list[str]:
    return sorted({r for corpus in corpora for triplets in corpus for _, r, _ in triplets})


def resampled(gold: Corpus, predicted: Corpus, seed: int) -> tuple[float, float, float]:
    draws = np.random.RandomState(seed).choice(len(gold), len(gold), replace=True)
    return reference([gold[i] for i in draws], [predicted[i] for i in draws])


@thorough
@given(corpora)
def test_micro_pools_the_counts_of_all_records(corpus: tuple[Corpus, Corpus]) -> None:
    assert micro(*triplet_sets(*corpus)) == pytest.approx(reference(*corpus))


@thorough
@given(corpora)
def test_macro_is_the_mean_over_the_relations_in_gold_or_prediction(corpus: tuple[Corpus, Corpus]) -> None:
    each = [reference(*filtered(*corpus, lambda key, r=r: key[1] == r)) for r in relations_of(*corpus)]  # type: ignore[misc]
    expected = tuple(np.mean(each, axis=0)) if each else (0.0, 0.0, 0.0)
    assert macro(*triplet_sets(*corpus)) == pytest.approx(expected)


@thorough
@given(corpora, st.integers(0, 2**31))
def test_bootstrap_of_micro_resamples_the_records(corpus: tuple[Corpus, Corpus], seed: int) -> None:
    samples = bootstrap(count_by_record(*triplet_sets(*corpus)), resamples=4, seed=seed)
    assert samples[:, 0] == pytest.approx(np.array([resampled(*corpus, seed + i) for i in range(4)]))


@thorough
@given(corpora, st.integers(0, 2**31))
def test_bootstrap_of_macro_resamples_inside_each_relations_own_records(
    corpus: tuple[Corpus, Corpus], seed: int
) -> None:
    gold, predicted = triplet_sets(*corpus)
    counts = count_by_triplet(gold, predicted, gold.relation, predicted.relation)
    samples = bootstrap(counts, resamples=3, seed=seed)
    for column, relation in enumerate(counts.groups):
        name = gold.relations[relation]
        own = filtered(*corpus, lambda key, name=name: key[1] == name)  # type: ignore[misc]
        assert samples[:, column] == pytest.approx(np.array([resampled(*own, seed + i) for i in range(3)]))


@thorough
@given(corpora, st.dictionaries(st.sampled_from(["r", "s", "t"]), st.integers(0, 9)))
def test_frequency_buckets_pool_their_relations_over_the_records_where_one_occurs(
    corpus: tuple[Corpus, Corpus], frequency: dict[str, int]
) -> None:
    gold, predicted = triplet_sets(*corpus)
    buckets = frequency_bucket(np.array([frequency.get(r, 0) for r in gold.relations], np.int64))
    counts = count_by_triplet(gold, predicted, buckets[gold.relation], buckets[predicted.relation])
    assert counts.groups.tolist() == sorted({int(frequency.get(r, 0)).bit_length() for r in relations_of(*corpus)})
    for row, bucket in enumerate(counts.groups):
        own = filtered(*corpus, lambda key, bucket=bucket: frequency.get(key[1], 0).bit_length() == bucket)  # type: ignore[misc]
        assert scores(counts.sums())[row] == pytest.approx(reference(*own))
        assert counts.offsets[row + 1] - counts.offsets[row] == len(own[0])


@thorough
@given(corpora)
def test_size_buckets_hold_the_records_with_so_many_gold_triplets(corpus: tuple[Corpus, Corpus]) -> None:
    sizes = [len(triplets) for triplets in corpus[0]]
    counts = count_by_record(*triplet_sets(*corpus), np.array(sizes, np.int64))
    assert counts.groups.tolist() == sorted(set(sizes))
    for row, size in enumerate(counts.groups):
        chosen = [i for i, of_record in enumerate(sizes) if of_record == size]
        expected = reference([corpus[0][i] for i in chosen], [corpus[1][i] for i in chosen])
        assert scores(counts.sums())[row] == pytest.approx(expected)


@thorough
@given(corpora)
def test_exact_counts_the_records_whose_sets_are_equal(corpus: tuple[Corpus, Corpus]) -> None:
    equal = sum(gold == predicted for gold, predicted in zip(*corpus, strict=True))
    assert count_exact(*triplet_sets(*corpus)).sums().tolist() == [[equal, len(corpus[0]), len(corpus[0])]]


@thorough
@given(corpora)
def test_false_alarms_are_the_records_without_gold_for_which_something_is_predicted(
    corpus: tuple[Corpus, Corpus],
) -> None:
    alarms = [bool(predicted) for gold, predicted in zip(*corpus, strict=True) if not gold]
    counts = count_false_alarms(*triplet_sets(*corpus))
    assert counts.sums().tolist() == ([[sum(alarms), len(alarms), len(alarms)]] if alarms else [])
    assert counts.pairs[:, 0].tolist() == alarms


@thorough
@given(corpora)
def test_parts_compare_the_nodes_and_the_relations_alone(corpus: tuple[Corpus, Corpus]) -> None:
    gold, predicted = triplet_sets(*corpus)
    nodes = [[frozenset((n, "", "") for s, _, o in t for n in (s, o)) for t in side] for side in corpus]
    relations = [[frozenset((r, "", "") for _, r, _ in t) for t in side] for side in corpus]
    assert micro(parts(gold, "nodes"), parts(predicted, "nodes")) == pytest.approx(reference(*nodes))
    assert micro(parts(gold, "relations"), parts(predicted, "relations")) == pytest.approx(reference(*relations))


@thorough
@given(corpora)
def test_every_wrong_and_every_missed_triplet_is_one_error_of_the_kind_it_shows(
    corpus: tuple[Corpus, Corpus],
) -> None:
    gold, predicted = triplet_sets(*corpus)
    errors = find_errors(gold, predicted)
    assert tuple(errors) == ERRORS
    used_gold = Counter(row for pairs in errors.values() for row in pairs.gold.tolist() if row >= 0)
    used_predicted = Counter(row for pairs in errors.values() for row in pairs.predicted.tolist() if row >= 0)
    wrong = [row for row in range(len(predicted)) if predicted.key(row) not in corpus[0][predicted.record[row]]]
    missed = [row for row in range(len(gold)) if gold.key(row) not in corpus[1][gold.record[row]]]
    assert used_gold == Counter(missed)
    assert used_predicted == Counter(wrong)
    agrees = {
        "swapped": lambda g, p: (p[2], p[1], p[0]) == g,
        "wrong_relation": lambda g, p: (g[0], g[2]) == (p[0], p[2]),
        "wrong_object": lambda g, p: (g[0], g[1]) == (p[0], p[1]),
        "wrong_subject": lambda g, p: (g[1], g[2]) == (p[1], p[2]),
    }
    for kind, agree in agrees.items():
        for in_gold, in_predicted in zip(errors[kind].gold, errors[kind].predicted, strict=True):
            assert gold.record[in_gold] == predicted.record[in_predicted]
            assert agree(gold.key(in_gold), predicted.key(in_predicted))
    # What is left over could not have been paired any more.
    for in_gold in errors["missed"].gold:
        for in_predicted in errors["invented"].predicted:
            if gold.record[in_gold] == predicted.record[in_predicted]:
                assert not any(agree(gold.key(in_gold), predicted.key(in_predicted)) for agree in agrees.values())


def test_scores_without_a_denominator_are_zero() -> None:
    for corpus in ([[set()], [set()]], [[{("a", "r", "b")}], [set()]], [[set()], [{("a", "r", "b")}]]):
        sets = triplet_sets(*corpus)
        assert micro(*sets) == (0, 0, 0)
        assert macro(*sets) == (0, 0, 0)


def test_macro_f1_is_the_mean_of_f1_not_the_f1_of_means() -> None:
    gold = [{("a", "r", "b"), ("a", "r", "c"), ("a", "s", "b")}]
    predicted = [{("a", "r", "b"), ("a", "s", "b"), ("a", "s", "c"), ("a", "s", "d")}]
    # r: P 1, R 1/2, F1 2/3; s: P 1/3, R 1, F1 1/2
    assert macro(*triplet_sets(gold, predicted)) == pytest.approx((2 / 3, 3 / 4, 7 / 12))


def test_a_triplet_given_twice_counts_once() -> None:
    gold, predicted = triplet_sets([[("a", "r", "b")]], [[("a", "r", "b"), ("a", "r", "b")]])
    assert micro(gold, predicted) == (1, 1, 1)


def test_the_same_triplet_in_another_record_is_no_match() -> None:
    gold, predicted = triplet_sets([{("a", "r", "b")}, set()], [set(), {("a", "r", "b")}])
    assert micro(gold, predicted) == (0, 0, 0)
    assert {kind: len(pairs) for kind, pairs in find_errors(gold, predicted).items() if len(pairs)} == {
        "invented": 1,
        "missed": 1,
    }


def test_intervals_are_percentiles_and_1_96_standard_deviations_around_the_resamples() -> None:
    samples = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    figures = estimate(0.35, samples, 0.9)
    assert (figures.low, figures.high) == pytest.approx(tuple(np.percentile(samples, [5, 95])))
    assert figures.value == 0.35
    assert figures.mean == pytest.approx(0.38)
    spread = 1.96 * np.sqrt(np.mean((samples - 0.38) ** 2))
    assert (figures.normal_low, figures.normal_high) == pytest.approx((0.38 - spread, 0.38 + spread))


def test_buckets_begin_at_powers_of_two() -> None:
    assert frequency_bucket(np.array([0, 1, 2, 3, 4, 7, 8, 499_783])).tolist() == [0, 1, 2, 2, 3, 3, 4, 19]
