"""The metrics against the paper's formulas spelled out with Python sets, record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.evaluation import resampling
from synthie.evaluation.confidence import calibration, precision_recall
from synthie.evaluation.errors import ERRORS, find_errors, find_related, related_relations
from synthie.evaluation.resampling import System, bootstrap, compare, estimate
from synthie.evaluation.scores import (
    count_by_record,
    count_by_triplet,
    count_exact,
    count_false_alarms,
    count_items,
    frequency_bucket,
    macro,
    micro,
    scores,
)
from synthie.evaluation.triplets import Key, parts, triplet_sets

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


def filtered_as_listed(gold: Corpus, predicted: Corpus, kept: Sequence[str]) -> tuple[list, list]:
    """The same for relations, with the records in the order of the sets in which the original collects them."""
    where: dict[str, set[int]] = {}
    for place, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        for _, relation, _ in [*g, *p]:
            where.setdefault(relation, set()).add(place)
    places = list(set().union(*(where[relation] for relation in kept)))
    sides = [[frozenset(key for key in side[i] if key[1] in kept) for i in places] for side in (gold, predicted)]
    return sides[0], sides[1]


def resampled(gold: Corpus, predicted: Corpus, seed: int) -> tuple[float, float, float]:
    draws = np.random.RandomState(seed).choice(len(gold), len(gold), replace=True)
    return reference([gold[i] for i in draws], [predicted[i] for i in draws])


@thorough
@given(corpora)
def test_micro_pools_the_counts_of_all_records(corpus: tuple[Corpus, Corpus]) -> None:
    assert micro(*triplet_sets(*corpus)) == reference(*corpus)


@thorough
@given(corpora)
def test_macro_is_the_mean_over_the_relations_in_gold_or_prediction(corpus: tuple[Corpus, Corpus]) -> None:
    sets = triplet_sets(*corpus)
    each = [reference(*filtered(*corpus, lambda key, r=r: key[1] == r)) for r in sets[0].relations]  # type: ignore[misc]
    expected = tuple(float(np.mean(list(column))) for column in zip(*each, strict=True)) if each else (0.0, 0.0, 0.0)
    assert macro(*sets) == expected


@thorough
@given(corpora, st.integers(0, 2**31))
def test_bootstrap_of_micro_resamples_the_records(corpus: tuple[Corpus, Corpus], seed: int) -> None:
    samples = bootstrap(count_by_record(*triplet_sets(*corpus)), resamples=4, seed=seed)
    assert samples[:, 0].tolist() == [list(resampled(*corpus, seed + i)) for i in range(4)]


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
        own = filtered_as_listed(*corpus, [name])
        assert samples[:, column].tolist() == [list(resampled(*own, seed + i)) for i in range(3)]


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
        assert scores(counts.sums())[row].tolist() == list(reference(*own))
        assert counts.offsets[row + 1] - counts.offsets[row] == len(own[0])
        relations = [r for r in gold.relations if frequency.get(r, 0).bit_length() == bucket]
        samples = bootstrap(counts, resamples=2, seed=5)[:, row].tolist()
        assert samples == [list(resampled(*filtered_as_listed(*corpus, relations), 5 + i)) for i in range(2)]


@thorough
@given(corpora)
def test_size_buckets_hold_the_records_with_so_many_gold_triplets(corpus: tuple[Corpus, Corpus]) -> None:
    sizes = [len(triplets) for triplets in corpus[0]]
    counts = count_by_record(*triplet_sets(*corpus), np.array(sizes, np.int64))
    assert counts.groups.tolist() == sorted(set(sizes))
    for row, size in enumerate(counts.groups):
        places: set[int] = set()
        for place, of_record in enumerate(sizes):
            if of_record == size:
                places.add(place)
        own = [corpus[0][i] for i in places], [corpus[1][i] for i in places]
        assert scores(counts.sums())[row].tolist() == list(reference(*own))
        samples = bootstrap(counts, resamples=2, seed=9)[:, row].tolist()
        assert samples == [list(resampled(*own, 9 + i)) for i in range(2)]


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
    merged = errors["merged"]
    for in_gold, in_predicted in zip(merged.gold, merged.predicted, strict=True):
        g, p = gold.key(in_gold), predicted.key(in_predicted)
        (place,) = (i for i in range(3) if g[i] != p[i])
        assert place != 1
        assert p[place] in {node for s, _, o in corpus[0][gold.record[in_gold]] for node in (s, o)}
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


def test_records_of_a_rare_relation_are_drawn_in_the_originals_order() -> None:
    """Places 8 and 1 of a Python set come out as 8, 1; taken in ascending order the resamples would differ."""
    gold = [{("a", "r", "b")} if place in (1, 8) else {("a", "s", "b")} for place in range(10)]
    predicted = [{("a", "r", "b")} if place == 8 else set() for place in range(10)]
    sets = triplet_sets(gold, predicted)
    counts = count_by_triplet(*sets, sets[0].relation, sets[1].relation)
    rare = sets[0].relations.index("r")
    assert counts.records[counts.offsets[rare] : counts.offsets[rare + 1]].tolist() == [8, 1]
    draws = [np.random.RandomState(i).choice(2, 2, replace=True) for i in range(20)]
    expected = [sum(place == 0 for place in draw) / 2 for draw in draws]  # recall: the first listed is right
    assert bootstrap(counts, resamples=20, seed=0)[:, rare, 1].tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9, 64, 65, 1000, 4097])
def test_resamples_are_those_of_numpys_choice(size: int) -> None:
    """Record k has the weight of a digit, so that the sums of a resample tell how often each record was drawn."""
    rng = np.random.default_rng(size)
    pairs = rng.integers(1, 1_000_000, (size, 3))
    found = bootstrap(count_items(pairs), resamples=12, seed=2**32 - 5)
    for i in range(12):
        draws = np.random.RandomState((2**32 - 5 + i) % 2**32).choice(size, size, replace=True)
        assert found[i, 0].tolist() == scores(pairs[draws].sum(axis=0)).tolist()


def test_a_stream_that_is_too_short_is_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_items(np.random.default_rng(0).integers(1, 99, (300, 3)))
    expected = bootstrap(counts, resamples=5, seed=1)
    monkeypatch.setattr(resampling, "_stream_length", lambda size: 20)
    assert bootstrap(counts, resamples=5, seed=1).tolist() == expected.tolist()


def test_chunks_of_resamples_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_items(np.random.default_rng(0).integers(1, 99, (300, 3)))
    expected = bootstrap(counts, resamples=7, seed=1)
    monkeypatch.setattr(resampling, "_CHUNK", 2000)
    assert bootstrap(counts, resamples=7, seed=1).tolist() == expected.tolist()


@thorough
@given(corpora, corpora, st.integers(0, 1000))
def test_differences_are_those_of_both_systems_on_the_same_resamples(
    one: tuple[Corpus, Corpus], other: tuple[Corpus, Corpus], seed: int
) -> None:
    size = min(len(one[0]), len(other[0]))
    gold, predictions = one[0][:size], {"one": one[1][:size], "other": other[1][:size]}
    systems = {}
    for name, predicted in predictions.items():
        sets = triplet_sets(gold, predicted)
        systems[name] = System(
            count_by_record(*sets).pairs,
            count_by_triplet(*sets, sets[0].relation, sets[1].relation),
            count_exact(*sets).pairs[:, 0],
        )

    def figures(places: Sequence[int], name: str) -> list[float]:
        g, p = [gold[i] for i in places], [predictions[name][i] for i in places]
        each = [reference(*filtered(g, p, lambda key, r=r: key[1] == r))[2] for r in relations_of(g, p)]  # type: ignore[misc]
        exact = sum(a == b for a, b in zip(g, p, strict=True)) / size
        return [reference(g, p)[2], sum(each) / max(len(each), 1), exact]

    draws = [np.random.RandomState(seed + i).choice(size, size, replace=True).tolist() for i in range(6)]
    differences = np.array(
        [[b - a for a, b in zip(figures(d, "one"), figures(d, "other"), strict=True)] for d in [range(size), *draws]]
    )
    rows = compare(systems, resamples=6, confidence=0.9, seed=seed)
    assert [row["measure"] for row in rows] == ["micro_f1", "macro_f1", "exact"]
    for column, row in enumerate(rows):
        assert row["difference"] == pytest.approx(differences[0, column])
        low, high = np.percentile(differences[1:, column], [5, 95])
        assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


def test_a_system_that_is_better_on_every_resample_differs_and_an_equal_one_does_not() -> None:
    gold = [{("a", "r", str(i))} for i in range(30)]
    half = [triplets if i % 2 else set() for i, triplets in enumerate(gold)]
    systems = {}
    for name, predicted in (("half", half), ("all", gold), ("again", half)):
        sets = triplet_sets(gold, predicted)
        by_relation = count_by_triplet(*sets, sets[0].relation, sets[1].relation)
        systems[name] = System(count_by_record(*sets).pairs, by_relation, count_exact(*sets).pairs[:, 0])
    rows = {
        (row["first"], row["second"], row["measure"]): row
        for row in compare(systems, resamples=199, confidence=0.95, seed=0)
    }
    assert rows["half", "all", "exact"]["difference"] == 0.5
    assert rows["half", "all", "micro_f1"]["p"] == 0.01
    assert rows["half", "all", "micro_f1"]["low"] > 0
    assert rows["half", "again", "macro_f1"]["p"] == 1
    assert len(rows) == 9


@thorough
@given(corpora)
def test_pairs_compare_subject_and_object_whatever_the_relation(corpus: tuple[Corpus, Corpus]) -> None:
    gold, predicted = triplet_sets(*corpus)
    pairs = [[frozenset((s, "", o) for s, _, o in t) for t in side] for side in corpus]
    assert micro(parts(gold, "pairs"), parts(predicted, "pairs")) == reference(*pairs)


def test_a_relation_above_or_below_the_right_one_is_found_and_gold_serves_once() -> None:
    ancestors = related_relations(
        [("mother", "parent"), ("father", "parent"), ("parent", "relative"), ("relative", "parent")]
    )
    gold, predicted = triplet_sets(
        [{("a", "mother", "b")}, {("a", "relative", "b")}, {("a", "mother", "b")}],
        [
            {("a", "parent", "b"), ("a", "relative", "b")},
            {("a", "mother", "b")},
            {("a", "father", "b"), ("a", "mother", "c")},
        ],
    )
    found = [predicted.key(row) for row in find_related(gold, predicted, ancestors)]
    assert sorted(predicted.record[find_related(gold, predicted, ancestors)].tolist()) == [0, 1]
    assert found[0][1] in ("parent", "relative")
    assert found[1] == ("a", "mother", "b")


def test_a_fact_of_another_gold_node_is_merged_and_a_strangers_is_not() -> None:
    gold, predicted = triplet_sets(
        [{("a", "born", "1"), ("b", "born", "2")}, {("a", "born", "1")}],
        [{("a", "born", "2"), ("b", "born", "2")}, {("a", "born", "9")}],
    )
    errors = find_errors(gold, predicted)
    assert [predicted.key(row) for row in errors["merged"].predicted] == [("a", "born", "2")]
    assert [predicted.key(row) for row in errors["wrong_object"].predicted] == [("a", "born", "9")]


def test_calibration_bins_hold_as_many_records_each_and_errors_are_their_mean_gap() -> None:
    confidence = np.array([0.1, 0.9] * 10)
    exact = np.array([0, 1] * 10)
    by_record = np.stack([exact, np.ones(20, int), np.ones(20, int)], axis=1)
    found = calibration(confidence, by_record, exact)
    assert [part["records"] for part in found["bins"]] == [2] * 10
    assert found["error"] == pytest.approx(0.1)
    assert [part["exact"] for part in found["bins"]] == [0.0] * 5 + [1.0] * 5


def test_the_curve_keeps_the_best_scored_records_first_and_ties_together() -> None:
    by_record = np.array([[1, 1, 1], [0, 1, 1], [1, 2, 2], [1, 1, 1]])
    found = precision_recall(np.array([-0.1, -0.3, -0.2, -0.2]), by_record)
    kept = [(point["records"], point["precision"], point["recall"]) for point in found["points"]]
    assert kept == [(1, 1.0, 0.2), (3, 0.75, 0.6), (4, 0.6, 0.6)]
    assert found["area"] == pytest.approx(0.2 * 1 + 0.4 * 0.75)


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
