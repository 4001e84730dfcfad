"""The figures of the evaluation report, from the content of ``metrics.json``.

Each function draws one PNG, small enough to be read on a phone and in one
style. Whiskers are percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["FIGURES", "draw_figures"]

_INK, _QUIET, _GRID = "#1f2933", "#52606d", "#e4e7eb"
_COLOURS = {"constrained": "#2b6cb0", "unconstrained": "#c05621"}
_ERROR_LABELS = {
    "swapped": "subject and object\nexchanged",
    "wrong_relation": "wrong relation",
    "wrong_object": "wrong object",
    "wrong_subject": "wrong subject",
    "invented": "invented",
    "missed": "missed",
}


def draw_figures(metrics: dict[str, Any], folder: Path) -> list[str]:
    """Draw what the metrics have data for; returns the names in `FIGURES`, in its order."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, draw in FIGURES.items():
        if not _has_data(name, metrics):
            continue
        figure = Figure(figsize=(5.0, 3.3), dpi=220, layout="constrained")
        axes = figure.subplots()
        draw(axes, metrics)
        _style(axes)
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        drawn.append(name)
    return drawn


def _has_data(name: str, metrics: dict[str, Any]) -> bool:
    if name == "training":
        return metrics["training"] is not None
    table = {"frequency": "by_frequency", "size": "by_size"}.get(name)
    return table is None or any(mode[table] for mode in metrics["modes"].values())


def _comparison(axes: Axes, metrics: dict[str, Any]) -> None:
    """Micro and macro precision, recall and F1 of both modes."""
    places = [(level, measure) for level in ("micro", "macro") for measure in ("precision", "recall", "f1")]
    middles = [0.0, 1.0, 2.0, 3.5, 4.5, 5.5]
    for side, (mode, figures) in zip((-0.2, 0.2), metrics["modes"].items(), strict=True):
        estimates = [figures[level][measure] for level, measure in places]
        _bars(axes, [middle + side for middle in middles], estimates, 0.38, mode)
    axes.set_xticks(middles, ["P", "R", "F1"] * 2)
    for middle, level in ((1.0, "micro"), (4.5, "macro")):
        axes.annotate(level, (middle, 0), xycoords=("data", "axes fraction"), xytext=(0, -30),
                      textcoords="offset points", ha="center", color=_QUIET)  # fmt: skip
    axes.set_xlabel(" ")
    _percent(axes)
    _legend(axes)


def _frequency(axes: Axes, metrics: dict[str, Any]) -> None:
    """F1 by how often the relation occurs in training."""
    buckets = sorted({bucket["from"] for mode in metrics["modes"].values() for bucket in mode["by_frequency"]})
    labels = {bucket["from"]: _range(bucket) for mode in metrics["modes"].values() for bucket in mode["by_frequency"]}
    _lines(axes, metrics, "by_frequency", "from", buckets)
    axes.set_xticks(range(len(buckets)), [labels[bucket] for bucket in buckets], rotation=45, ha="right")
    axes.set_xlabel("training triplets of the relation")


def _size(axes: Axes, metrics: dict[str, Any]) -> None:
    """F1 by the number of gold triplets of the record."""
    sizes = sorted({bucket["triplets"] for mode in metrics["modes"].values() for bucket in mode["by_size"]})
    _lines(axes, metrics, "by_size", "triplets", sizes)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("gold triplets of the record")


def _errors(axes: Axes, metrics: dict[str, Any]) -> None:
    """How many errors of each kind."""
    kinds = list(reversed(_ERROR_LABELS))
    most = 0
    for side, (mode, figures) in zip((0.2, -0.2), metrics["modes"].items(), strict=True):
        counts = [figures["errors"][kind]["count"] for kind in kinds]
        most = max(most, *counts)
        bars = axes.barh([i + side for i in range(len(kinds))], counts, 0.38, color=_COLOURS[mode], label=mode)
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8.5, color=_QUIET)
    axes.set_yticks(range(len(kinds)), [_ERROR_LABELS[kind] for kind in kinds])
    axes.set_xlim(0, max(most, 1) * 1.12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("triplets")
    _legend(axes)


def _training(axes: Axes, metrics: dict[str, Any]) -> None:
    """Loss against steps."""
    training = metrics["training"]
    for name, colour, marker in (("train", "#7b8794", ""), ("validation", _COLOURS["constrained"], "o")):
        points = training[name]
        axes.plot([point["step"] for point in points], [point["loss"] for point in points], color=colour,
                  marker=marker, markersize=4, linewidth=1.8, label=name)  # fmt: skip
    axes.axvline(training["best_step"], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(f"kept: step {training['best_step']:,}", (training["best_step"], 0.97),
                  xycoords=("data", "axes fraction"), xytext=(-5, 0), textcoords="offset points", ha="right", va="top",
                  rotation=90, fontsize=8.5, color=_QUIET)  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("loss per target token")
    _legend(axes)


FIGURES: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "comparison": _comparison,
    "frequency": _frequency,
    "size": _size,
    "errors": _errors,
    "training": _training,
}


def _lines(axes: Axes, metrics: dict[str, Any], table: str, key: str, values: list[int]) -> None:
    """F1 with intervals over buckets at 0, 1, …; the modes stand a little apart."""
    for side, (mode, figures) in zip((-0.07, 0.07), metrics["modes"].items(), strict=True):
        rows = [row for row in figures[table] if row[key] in values]
        places = [values.index(row[key]) + side for row in rows]
        estimates = [row["f1"] for row in rows]
        axes.errorbar(places, [100 * e["value"] for e in estimates], yerr=_whiskers(estimates), color=_COLOURS[mode],
                      marker="o", markersize=5, linewidth=1.5, elinewidth=1.2, label=mode)  # fmt: skip
    axes.set_xlim(-0.5, len(values) - 0.5)
    _percent(axes)
    axes.set_ylabel("F1")
    _legend(axes)


def _bars(axes: Axes, places: list[float], estimates: list[dict[str, float]], width: float, mode: str) -> None:
    axes.bar(places, [100 * e["value"] for e in estimates], width, yerr=_whiskers(estimates), color=_COLOURS[mode],
             error_kw={"elinewidth": 1.1, "ecolor": _INK, "capsize": 2}, label=mode)  # fmt: skip


def _whiskers(estimates: list[dict[str, float]]) -> list[list[float]]:
    # A score may lie outside its percentile interval, where a whisker of negative length would be an error.
    return [
        [100 * max(0.0, e["value"] - e["low"]) for e in estimates],
        [100 * max(0.0, e["high"] - e["value"]) for e in estimates],
    ]


def _range(bucket: dict[str, Any]) -> str:
    first, last = bucket["from"], bucket["to"]
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def _percent(axes: Axes) -> None:
    axes.set_ylim(0, 104)
    axes.set_yticks(range(0, 101, 20))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(-0.01, 1.0), fontsize=9.5, labelcolor=_INK,
                handlelength=1.2, columnspacing=1.4, borderaxespad=0.2)  # fmt: skip


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa5b1")
    axes.tick_params(colors=_QUIET, labelsize=9.5, length=3)
    axes.xaxis.label.set_color(_QUIET)
    axes.yaxis.label.set_color(_QUIET)
    axes.grid(color=_GRID, linewidth=0.8, axis="x" if axes.get_xlabel() == "triplets" else "y")
    axes.set_axisbelow(True)
