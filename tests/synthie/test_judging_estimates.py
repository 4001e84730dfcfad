"""The estimates: intervals that hold what they promise on simulated data, and figures that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthie.config import JudgeConfig
from synthie.intervals import Share, clustered, corrected, posterior, wilson
from synthie.judging.estimates import PUBLISHED, estimate_quality
from synthie.judging.judgements import JUDGEMENT_SCHEMA
from synthie.judging.tables import estimates_page

TRIALS = 600


def row(number: int, verdicts: list[str], extras: list[str] | None = None, **other: Any) -> dict[str, Any]:
    """A judgement; the relations of its triplets are R0, R1, …"""
    return {
        "request_key": f"{number:04d}",
        "id": number,
        "gate": "accepted",
        "style": "",
        "judge": "llm",
        "model": "m",
        "problem": None,
        "triplets": [
            {"subject": "Q1", "relation": f"R{place}", "object": "Q2", "words": f"a | r{place} | b", "verdict": verdict}
            for place, verdict in enumerate(verdicts)
        ],
        "extras": [] if extras is None else extras,
        **other,
    }


def estimated(rows: list[dict[str, Any]], config: JudgeConfig | None = None, **available: int) -> dict[str, Any]:
    table = pa.Table.from_pylist(rows, JUDGEMENT_SCHEMA)
    return estimate_quality(
        config or JudgeConfig(judges=["llm"]), [table], {"accepted": 100, "rejected": 0, **available}
    )


def clusters(random: np.random.Generator, count: int, share: float, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Stated triplets and triplets of texts, with a correlation ``alike`` within a text (beta-binomial)."""
    triplets = random.integers(1, 7, count)
    scale = 1 / alike - 1
    return random.binomial(triplets, random.beta(share * scale, (1 - share) * scale, count)), triplets


def covered(interval: Share, truth: float) -> bool:
    return interval.low <= truth <= interval.high


# --- Intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "alike"), [(0.78, 0.4), (0.95, 0.3), (0.98, 0.6), (0.5, 0.01)])
@pytest.mark.parametrize("count", [60, 400])
def test_intervals_of_clustered_triplets_cover_the_truth_as_often_as_they_say(
    share: float, alike: float, count: int
) -> None:
    random = np.random.default_rng(1)
    intervals = [clustered(*clusters(random, count, share, alike)) for _ in range(TRIALS)]
    assert 0.925 <= np.mean([covered(interval, share) for interval in intervals]) <= 0.99


def test_intervals_that_take_triplets_for_independent_do_not() -> None:
    """Why the clusters matter."""
    random = np.random.default_rng(1)
    drawn = [clusters(random, 400, 0.78, 0.4) for _ in range(TRIALS)]
    assert np.mean([covered(wilson(stated.sum(), triplets.sum()), 0.78) for stated, triplets in drawn]) < 0.9


def test_intervals_of_independent_trials_are_wilsons() -> None:
    random = np.random.default_rng(2)
    ones = np.ones(500, int)
    hits = random.binomial(1, 0.9, 500)
    assert clustered(hits, ones).low == pytest.approx(wilson(hits.sum(), 500).low, abs=0.002)
    assert clustered(hits, ones).value == hits.mean()


def test_where_all_is_stated_the_interval_knows_as_many_trials_as_there_are_texts() -> None:
    triplets = np.array([3, 4, 5] * 10)
    assert clustered(triplets, triplets) == wilson(30, 30)
    assert clustered(triplets * 0, triplets) == wilson(0, 30)
    assert clustered(np.array([2]), np.array([3])).low == pytest.approx(wilson(2 / 3, 1).low)
    assert clustered(np.array([0, 0]), np.array([0, 0])) == Share(None, 0.0, 1.0)
    assert wilson(0, 0) == Share(None, 0.0, 1.0)


def test_texts_without_triplets_do_not_count() -> None:
    stated, triplets = np.array([1, 2, 0, 3, 0]), np.array([2, 2, 0, 3, 0])
    assert clustered(stated, triplets) == clustered(stated[triplets > 0], triplets[triplets > 0])


@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.9, 0.8), (0.97, 0.6)])
def test_correction_recovers_the_truth_from_a_judge_that_errs(sensitivity: float, specificity: float) -> None:
    random = np.random.default_rng(3)
    plain, mended = [], []
    for _ in range(TRIALS):
        stated, triplets = clusters(random, 300, 0.8, 0.3)
        told = random.binomial(stated, sensitivity) + random.binomial(triplets - stated, 1 - specificity)
        plain.append(clustered(told, triplets))
        mended.append(corrected(plain[-1], sensitivity, specificity))
    assert np.mean([interval.value for interval in mended]) == pytest.approx(0.8, abs=0.005)
    assert np.mean([covered(interval, 0.8) for interval in mended]) >= 0.925
    assert np.mean([covered(interval, 0.8) for interval in plain]) < 0.9


def test_corrected_shares_stay_shares() -> None:
    high = corrected(Share(0.96, 0.94, 0.98), 0.95, 0.9)
    assert (high.value, high.high) == (1.0, 1.0)
    assert high.low == pytest.approx(0.84 / 0.85)
    assert corrected(Share(0.05, 0.02, 0.2), 0.95, 0.9).value == 0.0
    assert corrected(Share(None, 0.0, 1.0), 0.95, 0.9).value is None


def test_error_rates_that_do_not_fit_correct_nothing() -> None:
    """A judge that is said to miss a fifth of what is stated cannot find 97% stated or more."""
    assert corrected(Share(0.99, 0.97, 1.0), 0.8, 0.9).value is None
    assert corrected(Share(0.02, 0.01, 0.05), 0.8, 0.9).value is None
    config = JudgeConfig(judges=["llm"], sensitivity={"llm": 0.8}, specificity={"llm": 0.9})
    content = estimated([row(number, ["stated"]) for number in range(200)], config)
    assert content["judges"]["llm"]["gates"]["accepted"]["precision_corrected"] is None
    assert "| accepted texts, corrected | llm |  |  | error rates do not fit |" in estimates_page(content)


def test_credible_intervals_of_the_gates_errors_cover_the_truth() -> None:
    """9,000 accepted texts of which 5% are faulty, 1,000 rejected of which 20% are faithful."""
    random = np.random.default_rng(4)
    truth = 9_000 * 0.05 / (9_000 * 0.05 + 1_000 * 0.8)

    def figure(a: np.ndarray, r: np.ndarray) -> np.ndarray:
        return 9_000 * (1 - a) / (9_000 * (1 - a) + 1_000 * (1 - r))

    drawn = zip(random.binomial(300, 0.95, 150), random.binomial(100, 0.2, 150), strict=True)
    intervals = [posterior([(int(a), 300), (int(r), 100)], figure) for a, r in drawn]
    assert 0.925 <= np.mean([covered(interval, truth) for interval in intervals]) <= 0.985


# --- Figures --------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_judged_texts() -> None:
    rows = [
        row(1, ["stated", "stated"], style="tone: dry, length: short"),
        row(2, ["stated", "absent", "contradicted"], ["a | b | c"], style="tone: dry, length: long"),
        row(3, ["stated"], ["x", "y"], style="tone: warm, length: long"),
        row(4, [], []),
        row(5, ["stated"], problem="no answer"),
    ]
    group = estimated(rows)["judges"]["llm"]["gates"]["accepted"]
    assert (group["judged"], group["unjudged"]) == (4, 1)
    assert {name: group[name] for name in ("triplets", "stated", "absent", "contradicted", "extras")} == {
        "triplets": 6,
        "stated": 4,
        "absent": 1,
        "contradicted": 1,
        "extras": 3,
    }
    assert group["precision"]["value"] == pytest.approx(4 / 6)
    assert group["recall"]["value"] == pytest.approx(4 / 7)
    assert group["faithful"]["value"] == pytest.approx(2 / 4)
    assert [(part["size"], part["judged"]) for part in group["by_size"]] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    styles = {(part["axis"], part["value"]): part["judged"] for part in group["by_style"]}
    assert styles == {("tone", "dry"): 2, ("tone", "warm"): 1, ("length", "short"): 1, ("length", "long"): 2}


def test_a_judge_that_cannot_tell_extra_facts_says_nothing_about_recall() -> None:
    group = estimated([row(1, ["stated"], extras=None) | {"extras": None}])["judges"]["llm"]["gates"]["accepted"]
    assert group["recall"] is None
    assert group["extras"] is None
    assert group["precision"]["value"] == 1.0


def test_relations_are_listed_by_how_certain_it_is_that_they_are_told_badly() -> None:
    rows = [row(i, ["stated" if i % 2 else "absent", "stated" if i else "absent", "stated"]) for i in range(40)]
    rows += [row(99, ["stated", "stated", "stated", "absent"])]  # R3 occurs too rarely to be listed
    worst = estimated(rows)["judges"]["llm"]["gates"]["accepted"]["worst_relations"]
    assert [(found["relation"], found["label"], found["triplets"]) for found in worst] == [
        ("R0", "r0", 41),
        ("R1", "r1", 41),
    ]


def test_the_gates_errors_are_weighed_with_the_texts_behind_the_samples() -> None:
    accepted = [row(i, ["stated" if i else "absent"]) for i in range(10)]
    rejected = [row(100 + i, ["stated" if i < 2 else "absent"], gate="rejected") for i in range(10)]
    errors = estimated(accepted + rejected, accepted=9_000, rejected=1_000)["judges"]["llm"]["gate_errors"]
    assert errors["table"] == {"accepted": {"faithful": 9, "faulty": 1}, "rejected": {"faithful": 2, "faulty": 8}}
    assert errors["faithful_rejected"]["value"] == pytest.approx(200 / 8_300)
    assert errors["faulty_accepted"]["value"] == pytest.approx(900 / 1_700)


def test_two_judges_are_compared_on_what_both_judged() -> None:
    config = JudgeConfig(judges=["llm", "extractor"], extractor="somewhere", deciding=["extractor"])
    first = [row(1, ["stated", "absent"]), row(2, ["stated", "stated"]), row(3, ["absent"], problem="no answer")]
    second = [
        row(number, verdicts, judge="extractor", model="e")
        for number, verdicts in ((1, ["stated", "stated"]), (2, ["absent", "stated"]), (3, ["stated"]))
    ]
    content = estimated(first + second, config)
    [pair] = content["agreement"]
    assert (pair["texts"], pair["triplets"]) == (2, 4)
    assert (pair["both_stated"], pair["only_llm"], pair["only_extractor"], pair["neither"]) == (2, 1, 1, 0)
    assert pair["agreement"]["value"] == 0.5
    assert pair["kappa"] == pytest.approx((0.5 - 0.625) / 0.375)
    assert content["deciding"] == ["extractor"]


def test_the_page_shows_ours_beside_what_is_published() -> None:
    rows = [row(i, ["stated", "stated" if i else "absent"], ["a | b | c"] if i == 1 else []) for i in range(50)]
    page = estimates_page(estimated(rows))
    assert "50 of 100 accepted texts were judged by the judge 'llm' (m): 99.0% (" in page
    assert "| accepted texts | llm | 50 | 0 | 1.0% (" in page
    assert "| SynthIE, as published | people |  |  | 22% | 15% |" in page
    assert "| REBEL, as published | people |  |  | 56% | 70% |" in page
    assert {known["data"] for known in PUBLISHED} == {"SynthIE", "REBEL"}


def test_a_sample_of_which_nothing_could_be_judged_has_no_figures() -> None:
    content = estimated([row(1, ["stated"], problem="no answer")])
    group = content["judges"]["llm"]["gates"]["accepted"]
    assert (group["judged"], group["unjudged"], group["precision"], group["faithful"]) == (0, 1, None, None)
    assert "0 of 100 accepted texts were judged" in estimates_page(content)
