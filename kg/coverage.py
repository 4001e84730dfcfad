"""How well the drawn sets cover the graph: figures, frequency table, plot.

`coverage_report` turns plain count arrays into one JSON-ready table:
what is covered of what can be reached, how evenly the relations occur, how
large the sets are, how the splits compare. `plot_coverage` draws it. Both
know nothing of how the sets were drawn, so they also judge foreign data.

Counts are numbers of sets in which a node, relation or triplet occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CoverageInput", "CurvePoint", "coverage_report", "gini", "normalised_entropy", "plot_coverage"]

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Distinct entities, relations and triplets seen after the first ``sets`` sets."""

    sets: int
    entities: int
    relations: int
    triplets: int


@dataclass(frozen=True)
class CoverageInput:
    """What a report is made from.

    Attributes:
        relation_ids, relation_labels: of each of the R relations.
        relation_triplets: int64[R], triplets of the relation in the graph.
        relation_sets: int64[R], sets that contain the relation.
        relation_sets_by_split: split -> int64[R].
        entities, literals, triplets: (covered, reachable); reachable are nodes with a triplet.
        set_sizes: int64[n], triplets in each set.
        split_of_set: int64[n], index into ``splits``.
        splits: names of the splits.
        duplicates: sets whose triplets equal another's.
        curve: coverage after each round, in order.
    """

    relation_ids: Sequence[str]
    relation_labels: Sequence[str]
    relation_triplets: Counts
    relation_sets: Counts
    relation_sets_by_split: dict[str, Counts]
    entities: tuple[int, int]
    literals: tuple[int, int]
    triplets: tuple[int, int]
    set_sizes: Counts
    split_of_set: Counts
    splits: Sequence[str]
    duplicates: int
    curve: Sequence[CurvePoint]


def normalised_entropy(counts: Counts) -> float:
    """Shannon entropy of ``counts`` divided by that of a uniform distribution: 1 is even, 0 is all in one.

    >>> normalised_entropy(np.array([5, 5, 5, 5]))
    1.0
    >>> normalised_entropy(np.array([9, 0, 0]))
    0.0
    """
    total = counts.sum()
    if total == 0 or len(counts) < 2:
        return 0.0
    shares = counts[counts > 0] / total
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts))) + 0.0


def gini(counts: Counts) -> float:
    """Gini coefficient of ``counts``: 0 is even, towards 1 is all in one.

    >>> gini(np.array([3, 3, 3]))
    0.0
    >>> gini(np.array([0, 0, 0, 8]))
    0.75
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    n = len(counts)
    ranks = np.arange(1, n + 1)
    return float(((2 * ranks - n - 1) * np.sort(counts)).sum() / (n * total))


def coverage_report(data: CoverageInput) -> dict[str, Any]:
    """The figures as JSON-ready data; relations sorted by number of sets, most frequent first."""
    in_graph = data.relation_triplets > 0
    drawn = int((data.relation_sets[in_graph] > 0).sum())
    return {
        "sets": len(data.set_sizes),
        "duplicates": data.duplicates,
        "coverage": {
            "entities": _covered(*data.entities),
            "literals": _covered(*data.literals),
            "relations": _covered(drawn, int(in_graph.sum())),
            "triplets": _covered(*data.triplets),
        },
        "sets_per_relation": _spread(data.relation_sets[in_graph], len(data.set_sizes)),
        "triplets_per_relation_in_graph": _spread(data.relation_triplets[in_graph], int(data.relation_triplets.sum())),
        "set_size": _sizes(data.set_sizes),
        "splits": {
            split: {
                "sets": int((data.split_of_set == number).sum()),
                "share": round(float((data.split_of_set == number).mean()), 6),
                "relations": int((data.relation_sets_by_split[split] > 0).sum()),
                "set_size": _sizes(data.set_sizes[data.split_of_set == number]),
            }
            for number, split in enumerate(data.splits)
        },
        "curve": [
            {"sets": point.sets, "entities": point.entities, "relations": point.relations, "triplets": point.triplets}
            for point in data.curve
        ],
        "relations": _relation_table(data),
    }


def plot_coverage(report: dict[str, Any], path: Path) -> None:
    """Draw a report of `coverage_report` as a PNG of two panels.

    Left: share of entities, relations and triplets covered against the number of sets.
    Right: each relation's share of the graph's triplets against its share of the sets.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot_curve(left, report)
    _plot_relations(right, report)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa3ad")
        axes.tick_params(colors="#4a5560", labelsize=9)
        axes.grid(color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.savefig(path, metadata={"Software": None})


_COLOURS = {"entities": "#2b6cb0", "relations": "#c05621", "triplets": "#2f855a"}


def _plot_curve(axes: Any, report: dict[str, Any]) -> None:
    sets = [0] + [point["sets"] for point in report["curve"]]
    ends = []
    for what, colour in _COLOURS.items():
        reachable = report["coverage"][what]["reachable"]
        shares = [0.0] + [100 * point[what] / reachable if reachable else 0.0 for point in report["curve"]]
        axes.plot(sets, shares, color=colour, linewidth=2)
        ends.append((shares[-1], what, colour))
    # The labels stand at the ends of the lines, pushed apart where the lines meet.
    height = 110.0
    for share, what, colour in sorted(ends, reverse=True):
        height = min(share, height - 6.5)
        axes.annotate(
            f"{what} {share:.1f}%",
            (sets[-1], height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )
    axes.set_xlim(0, sets[-1])
    axes.set_ylim(0, 104)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    axes.set_xlabel("sets drawn", color="#4a5560")
    axes.set_title("Covered of what the graph holds", loc="left", fontsize=11, color="#1f2933")


def _plot_relations(axes: Any, report: dict[str, Any]) -> None:
    rows = [row for row in report["relations"] if row["sets"] > 0]
    graph = np.array([row["triplets_in_graph"] for row in rows], dtype=float)
    total = sum(row["triplets_in_graph"] for row in report["relations"])
    graph = 100 * graph / max(total, 1)
    sets = np.array([100 * row["share_of_sets"] for row in rows])
    axes.scatter(graph, sets, s=26, color="#2b6cb0", alpha=0.65, linewidth=0)
    x_limits, y_limits = (graph.min() / 2, graph.max() * 2), (sets.min() / 2, sets.max() * 2)
    low, high = max(x_limits[0], y_limits[0]), min(x_limits[1], y_limits[1])
    axes.plot([low, high], [low, high], color="#9aa3ad", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("same share", (low, low), xytext=(8, 2), textcoords="offset points", fontsize=8, color="#7b8794")
    for position in sorted({int(graph.argmax()), int(graph.argmin()), int(sets.argmax())}):
        label = rows[position]["label"]
        on_the_right = graph[position] > np.sqrt(x_limits[0] * x_limits[1])
        axes.annotate(
            label if len(label) <= 28 else label[:27] + "…",
            (graph[position], sets[position]),
            xytext=(0, 6 if sets[position] == sets.max() or position == graph.argmin() else -13),
            textcoords="offset points",
            ha="right" if on_the_right else "left",
            fontsize=8.5,
            color="#1f2933",
        )
    axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.minorticks_off()
    axes.set_xlabel("share of the graph's triplets", color="#4a5560")
    axes.set_ylabel("share of the sets that contain it", color="#4a5560")
    axes.set_title("Each relation, in the graph and in the sets", loc="left", fontsize=11, color="#1f2933")


def _covered(covered: int, reachable: int) -> dict[str, float]:
    return {
        "covered": covered,
        "reachable": reachable,
        "share": round(covered / reachable, 6) if reachable else 0.0,
    }


def _spread(counts: Counts, total: int) -> dict[str, float]:
    quartiles = np.quantile(counts, [0, 0.25, 0.5, 0.75, 1]) if len(counts) else np.zeros(5)
    names = ("min", "q1", "median", "q3", "max")
    spread = {name: round(float(value), 3) for name, value in zip(names, quartiles, strict=True)}
    median = spread["median"]
    return spread | {
        "max_over_median": round(spread["max"] / median, 3) if median else 0.0,
        "max_share": round(spread["max"] / total, 6) if total else 0.0,
        "normalised_entropy": round(normalised_entropy(counts), 6),
        "gini": round(gini(counts), 6),
    }


def _sizes(sizes: Counts) -> dict[str, Any]:
    numbers, counts = np.unique(sizes, return_counts=True)
    return {
        "mean": round(float(sizes.mean()), 4) if len(sizes) else 0.0,
        "histogram": {str(number): int(count) for number, count in zip(numbers, counts, strict=True)},
    }


def _relation_table(data: CoverageInput) -> list[dict[str, Any]]:
    n_sets = max(len(data.set_sizes), 1)
    order = np.lexsort((np.arange(len(data.relation_sets)), -data.relation_sets))
    return [
        {
            "id": data.relation_ids[number],
            "label": data.relation_labels[number],
            "triplets_in_graph": int(data.relation_triplets[number]),
            "sets": int(data.relation_sets[number]),
            "share_of_sets": round(int(data.relation_sets[number]) / n_sets, 6),
            **{split: int(data.relation_sets_by_split[split][number]) for split in data.splits},
        }
        for number in order
    ]
