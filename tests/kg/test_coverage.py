"""The coverage figures, against their definitions spelled out naively, and the plot."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.coverage import CoverageInput, CurvePoint, coverage_report, gini, normalised_entropy, plot_coverage

count_lists = st.lists(st.integers(0, 10_000), min_size=2, max_size=40).filter(any)


def figures(**changes: Any) -> CoverageInput:
    values: dict[str, Any] = {
        "relation_ids": ["P1", "P2", "P3", "P4"],
        "relation_labels": ["capital", "country", "a label much too long to be printed in a plot", "unused"],
        "relation_triplets": np.array([10, 90, 100, 5]),
        "relation_sets": np.array([3, 2, 4, 0]),
        "relation_sets_by_split": {"train": np.array([2, 2, 2, 0]), "test": np.array([1, 0, 2, 0])},
        "entities": (50, 200),
        "literals": (0, 0),
        "triplets": (9, 205),
        "set_sizes": np.array([1, 2, 2, 4]),
        "split_of_set": np.array([0, 0, 1, 0]),
        "splits": ("train", "test"),
        "duplicates": 0,
        "curve": [CurvePoint(2, 20, 2, 3), CurvePoint(4, 50, 3, 9)],
    }
    return CoverageInput(**(values | changes))


@given(count_lists)
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    differences = sum(abs(a - b) for a in counts for b in counts)
    assert gini(np.array(counts)) == pytest.approx(differences / (2 * len(counts) * sum(counts)))


@given(count_lists)
def test_entropy_is_relative_to_the_uniform_distribution(counts: list[int]) -> None:
    shares = [count / sum(counts) for count in counts if count]
    entropy = -sum(share * log(share) for share in shares) / log(len(counts))
    assert normalised_entropy(np.array(counts)) == pytest.approx(entropy, abs=1e-12)


def test_nothing_drawn_has_neither_entropy_nor_inequality() -> None:
    assert normalised_entropy(np.zeros(3, np.int64)) == gini(np.zeros(3, np.int64)) == 0.0


def test_the_report_states_what_is_covered_of_what_can_be_reached() -> None:
    report = coverage_report(figures())
    assert report["coverage"] == {
        "entities": {"covered": 50, "reachable": 200, "share": 0.25},
        "literals": {"covered": 0, "reachable": 0, "share": 0.0},
        "relations": {"covered": 3, "reachable": 4, "share": 0.75},
        "triplets": {"covered": 9, "reachable": 205, "share": 0.043902},
    }
    spread = report["sets_per_relation"]
    assert [spread[name] for name in ("min", "q1", "median", "q3", "max")] == [0, 1.5, 2.5, 3.25, 4]
    assert spread["max_over_median"] == 1.6
    assert spread["max_share"] == 1.0
    assert report["set_size"] == {"mean": 2.25, "histogram": {"1": 1, "2": 2, "4": 1}}
    assert report["splits"]["test"] == {
        "sets": 1,
        "share": 0.25,
        "relations": 2,
        "set_size": {"mean": 2.0, "histogram": {"2": 1}},
    }
    assert report["curve"][-1] == {"sets": 4, "entities": 50, "relations": 3, "triplets": 9}


def test_relations_are_listed_from_the_most_to_the_least_frequent() -> None:
    rows = coverage_report(figures())["relations"]
    assert [row["id"] for row in rows] == ["P3", "P1", "P2", "P4"]
    assert rows[1] == {
        "id": "P1",
        "label": "capital",
        "triplets_in_graph": 10,
        "sets": 3,
        "share_of_sets": 0.75,
        "train": 2,
        "test": 1,
    }


def test_the_plot_is_an_image_that_depends_on_the_figures_alone(tmp_path: Path) -> None:
    report = coverage_report(figures())
    for name in ("one.png", "two.png"):
        plot_coverage(report, tmp_path / name)
    image = (tmp_path / "one.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert image == (tmp_path / "two.png").read_bytes()


def test_a_single_set_of_one_relation_can_be_plotted(tmp_path: Path) -> None:
    report = coverage_report(
        figures(
            relation_ids=["P1"],
            relation_labels=["capital"],
            relation_triplets=np.array([1]),
            relation_sets=np.array([1]),
            relation_sets_by_split={"train": np.array([1]), "test": np.array([0])},
            set_sizes=np.array([1]),
            split_of_set=np.array([0]),
            curve=[CurvePoint(1, 2, 1, 1)],
        )
    )
    plot_coverage(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000
