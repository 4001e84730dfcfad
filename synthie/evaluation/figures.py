"""The figures of the evaluation report, from the content of ``metrics.json``.

Each function draws one figure, small enough to be read on a phone and in one
style, for light and for dark pages. Whiskers are percentile intervals.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from kg.stage import write_atomic

__all__ = ["FIGURES", "draw_figures"]


@dataclass(frozen=True)
class _Theme:
    """Colours of a page."""

    paper: str
    ink: str
    quiet: str
    axis: str
    grid: str
    systems: tuple[str, ...]


_LIGHT = _Theme(
    "#ffffff", "#1f2933", "#52606d", "#9aa5b1", "#e4e7eb",
    ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#718096"),
)  # fmt: skip
_DARK = _Theme(
    "#14181d", "#e6eaee", "#a3afbb", "#5c6874", "#2a323a",
    ("#63a4e8", "#f0915a", "#5fc08f", "#b79cf5", "#ee7bb5", "#a0aec0"),
)  # fmt: skip
_theme: ContextVar[_Theme] = ContextVar("theme", default=_LIGHT)
_ERROR_LABELS = {
    "swapped": "subject and object\nexchanged",
    "wrong_relation": "wrong relation",
    "merged": "merged entities",
    "wrong_object": "wrong object",
    "wrong_subject": "wrong subject",
    "invented": "invented",
    "missed": "missed",
}


def draw_figures(metrics: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """Draw what the metrics have data for to ``folder``; returns the same figures for a dark page, as PNG."""
    folder.mkdir(exist_ok=True)
    drawn = {}
    for name in FIGURES:
        if _has_data(name, metrics):
            write_atomic(folder / f"{name}.png", _draw(name, metrics, _LIGHT))
            drawn[name] = _draw(name, metrics, _DARK)
    return drawn


def _draw(name: str, metrics: dict[str, Any], theme: _Theme) -> bytes:
    chosen = _theme.set(theme)
    try:
        figure = Figure(figsize=(5.0, 3.3), dpi=200, layout="constrained", facecolor=theme.paper)
        axes = figure.subplots()
        FIGURES[name](axes, metrics)
        _style(axes)
        data = io.BytesIO()
        figure.savefig(data, metadata={"Software": None})
        return data.getvalue()
    finally:
        _theme.reset(chosen)


def _has_data(name: str, metrics: dict[str, Any]) -> bool:
    modes = list(metrics["modes"].values())
    if name == "training":
        return metrics["training"] is not None
    if name in ("calibration", "curve"):
        return any(mode["confidence"] for mode in modes)
    if name == "relations":
        return any(row["training_records"] is not None and row["gold"] for row in modes[0]["by_relation"])
    table = {"frequency": "by_frequency", "size": "by_size"}.get(name)
    return table is None or any(mode[table] for mode in modes)


def _systems(metrics: dict[str, Any], width: float) -> list[tuple[float, str, str, dict[str, Any]]]:
    """(shift, colour, name, figures) of the systems; shifts spread them evenly over ``width``."""
    modes = metrics["modes"]
    colours = _theme.get().systems
    step = width / len(modes)
    return [
        (step * (place - (len(modes) - 1) / 2), colours[place % len(colours)], name, figures)
        for place, (name, figures) in enumerate(modes.items())
    ]


def _comparison(axes: Axes, metrics: dict[str, Any]) -> None:
    """Micro and macro precision, recall and F1 of all systems."""
    places = [(level, measure) for level in ("micro", "macro") for measure in ("precision", "recall", "f1")]
    middles = [0.0, 1.0, 2.0, 3.5, 4.5, 5.5]
    for shift, colour, name, figures in _systems(metrics, 0.8):
        estimates = [figures[level][measure] for level, measure in places]
        axes.bar([middle + shift for middle in middles], [100 * e["value"] for e in estimates],
                 0.76 / len(metrics["modes"]), yerr=_whiskers(estimates), color=colour, label=name,
                 error_kw={"elinewidth": 1.1, "ecolor": _theme.get().ink, "capsize": 2})  # fmt: skip
    axes.set_xticks(middles, ["P", "R", "F1"] * 2)
    for middle, level in ((1.0, "micro"), (4.5, "macro")):
        axes.annotate(level, (middle, 0), xycoords=("data", "axes fraction"), xytext=(0, -30),
                      textcoords="offset points", ha="center", color=_theme.get().quiet)  # fmt: skip
    axes.set_xlabel(" ")
    _percent(axes)
    _legend(axes)


def _frequency(axes: Axes, metrics: dict[str, Any]) -> None:
    """F1 by how often the relation occurs in training."""
    buckets = sorted({bucket["from"] for mode in metrics["modes"].values() for bucket in mode["by_frequency"]})
    labels = {bucket["from"]: _range(bucket) for mode in metrics["modes"].values() for bucket in mode["by_frequency"]}
    _lines(axes, metrics, "by_frequency", "from", buckets)
    axes.set_xticks(range(len(buckets)), [labels[bucket] for bucket in buckets], rotation=45, ha="right")
    axes.set_xlabel("training records with the relation")


def _size(axes: Axes, metrics: dict[str, Any]) -> None:
    """F1 by the number of gold triplets of the record."""
    sizes = sorted({bucket["triplets"] for mode in metrics["modes"].values() for bucket in mode["by_size"]})
    _lines(axes, metrics, "by_size", "triplets", sizes)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("gold triplets of the record")


def _relations(axes: Axes, metrics: dict[str, Any]) -> None:
    """F1 of each relation against its frequency in training; area grows with the gold triplets."""
    name, figures = next(iter(metrics["modes"].items()))
    rows = [row for row in figures["by_relation"] if row["gold"] and row["training_records"] is not None]
    most = max(row["gold"] for row in rows)
    axes.scatter([max(row["training_records"], 0.5) for row in rows], [100 * row["f1"]["value"] for row in rows],
                 [8 + 110 * row["gold"] / most for row in rows], color=_theme.get().systems[0], alpha=0.55,
                 linewidths=0, label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "0")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training records with the relation")
    axes.set_ylabel("F1")
    weakest = sorted(rows, key=lambda row: (row["f1"]["value"], -row["gold"]))[:3]
    for row in weakest if weakest[-1]["f1"]["value"] < 0.7 else ():
        axes.annotate(row["label"][:28], (max(row["training_records"], 0.5), 100 * row["f1"]["value"]), xytext=(5, -3),
                      textcoords="offset points", fontsize=8, color=_theme.get().quiet)  # fmt: skip
    _percent(axes)


def _errors(axes: Axes, metrics: dict[str, Any]) -> None:
    """How many errors of each kind."""
    kinds = list(reversed(_ERROR_LABELS))
    most = 0
    for shift, colour, name, figures in _systems(metrics, 0.8):
        counts = [figures["errors"][kind]["count"] for kind in kinds]
        most = max(most, *counts)
        bars = axes.barh(
            [i - shift for i in range(len(kinds))], counts, 0.76 / len(metrics["modes"]), color=colour, label=name
        )
        if len(metrics["modes"]) <= 3:
            axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8, color=_theme.get().quiet)
    axes.set_yticks(range(len(kinds)), [_ERROR_LABELS[kind] for kind in kinds])
    axes.set_xlim(0, max(most, 1) * 1.12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("triplets")
    _legend(axes)


def _calibration(axes: Axes, metrics: dict[str, Any]) -> None:
    """Share of exact sets against the mean confidence, in bins of as many records each."""
    axes.plot([0, 100], [0, 100], color=_theme.get().axis, linewidth=1, linestyle=(0, (4, 3)))
    for _, colour, name, figures in _systems(metrics, 0):
        if figures["confidence"]:
            bins = figures["confidence"]["calibration"]["bins"]
            axes.plot([100 * part["confidence"] for part in bins], [100 * part["exact"] for part in bins], color=colour,
                      marker="o", markersize=5, linewidth=1.5, label=name)  # fmt: skip
    axes.set_xlim(0, 104)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    axes.set_xlabel("confidence, exp(score)")
    axes.set_ylabel("sets exactly right")
    _percent(axes)
    _legend(axes)


def _curve(axes: Axes, metrics: dict[str, Any]) -> None:
    """Precision against recall, the best-scored records first."""
    for _, colour, name, figures in _systems(metrics, 0):
        if figures["confidence"]:
            points = figures["confidence"]["curve"]["points"]
            axes.plot([100 * point["recall"] for point in points], [100 * point["precision"] for point in points],
                      color=colour, linewidth=1.8, label=name)  # fmt: skip
    axes.set_xlim(0, 104)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _percent(axes)
    _legend(axes)


def _training(axes: Axes, metrics: dict[str, Any]) -> None:
    """Loss against steps."""
    training = metrics["training"]
    for name, colour, marker in (("train", _theme.get().axis, ""), ("validation", _theme.get().systems[0], "o")):
        points = training[name]
        axes.plot([point["step"] for point in points], [point["loss"] for point in points], color=colour,
                  marker=marker, markersize=4, linewidth=1.8, label=name)  # fmt: skip
    axes.axvline(training["best_step"], color=_theme.get().quiet, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(f"kept: step {training['best_step']:,}", (training["best_step"], 0.97),
                  xycoords=("data", "axes fraction"), xytext=(-5, 0), textcoords="offset points", ha="right", va="top",
                  rotation=90, fontsize=8.5, color=_theme.get().quiet)  # fmt: skip
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
    "relations": _relations,
    "size": _size,
    "errors": _errors,
    "calibration": _calibration,
    "curve": _curve,
    "training": _training,
}


def _lines(axes: Axes, metrics: dict[str, Any], table: str, key: str, values: list[int]) -> None:
    """F1 with intervals over buckets at 0, 1, …; the systems stand a little apart."""
    for shift, colour, name, figures in _systems(metrics, 0.28):
        rows = [row for row in figures[table] if row[key] in values]
        places = [values.index(row[key]) + shift for row in rows]
        estimates = [row["f1"] for row in rows]
        axes.errorbar(places, [100 * e["value"] for e in estimates], yerr=_whiskers(estimates), color=colour,
                      marker="o", markersize=5, linewidth=1.5, elinewidth=1.2, label=name)  # fmt: skip
    axes.set_xlim(-0.5, len(values) - 0.5)
    _percent(axes)
    axes.set_ylabel("F1")
    _legend(axes)


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
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(-0.01, 1.0), fontsize=9,
                labelcolor=_theme.get().ink, handlelength=1.2, columnspacing=1.4, borderaxespad=0.2)  # fmt: skip


def _style(axes: Axes) -> None:
    theme = _theme.get()
    axes.set_facecolor(theme.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.axis)
    axes.tick_params(which="both", colors=theme.quiet, labelsize=9.5, length=3)
    axes.xaxis.label.set_color(theme.quiet)
    axes.yaxis.label.set_color(theme.quiet)
    axes.grid(color=theme.grid, linewidth=0.8, axis="x" if axes.get_xlabel() == "triplets" else "y")
    axes.set_axisbelow(True)
