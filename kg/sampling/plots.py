"""A coverage report, drawn: what the sets reach, how evenly the relations occur, how large the sets are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kg.sampling.tables import drawn_at_most

__all__ = ["plot_coverage"]

_BLUE, _ORANGE, _GREEN, _GREY, _LIGHT, _DARK = "#2b6cb0", "#c05621", "#2f855a", "#4a5560", "#b6bfc9", "#1f2933"
_COLOURS = {"entities": _BLUE, "relations": _ORANGE, "triplets": _GREEN}
_LABEL = 28  # letters of a relation's label
_LABEL_HEIGHT = 6.5  # percent of the axis between two labels


def plot_coverage(report: dict[str, Any], path: Path) -> None:
    """Draw a report of `kg.sampling.report.coverage_report` as a PNG of three panels.

    Left: share of entities, relations and triplets covered against the number of sets.
    Middle: relations by rank, their share of the graph's triplets against that of the sets, and the most even.
    Right: sets by size, asked for and reached.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(15, 4.6), dpi=130, layout=ConstrainedLayoutEngine(wspace=0.05))
    curve, relations, sizes = figure.subplots(1, 3, width_ratios=[1.15, 1.25, 0.8])
    _plot_curve(curve, report)
    _plot_relations(relations, report)
    _plot_sizes(sizes, report["set_size"])
    for axes in (curve, relations, sizes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa3ad")
        axes.tick_params(which="both", colors=_GREY, labelsize=9)
        axes.grid(color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
    sizes.grid(visible=False, axis="x")
    figure.savefig(path, metadata={"Software": None})  # equal reports give equal files


def _plot_curve(axes: Any, report: dict[str, Any]) -> None:
    earlier = report["cumulative"] is not None
    points = report["curve"] if earlier else [{"sets": 0, **dict.fromkeys(_COLOURS, 0)}, *report["curve"]]
    sets = [point["sets"] for point in points]
    ends = []
    for what, colour in _COLOURS.items():
        reachable = report["coverage"][what]["reachable"]
        shares = [100 * point[what] / max(reachable, 1) for point in points]
        axes.plot(sets, shares, color=colour, linewidth=2)
        ends.append((shares[-1], what, colour))
    # The labels stand at the ends of the lines, pushed apart where the lines meet.
    height = 104 + _LABEL_HEIGHT
    for share, what, colour in sorted(ends, reverse=True):
        height = min(share, height - _LABEL_HEIGHT)
        _note(axes, f"{what} {_shown_percent(share)}", (sets[-1], height), (6, 0), colour, va="center")
    axes.set_xlim(sets[0], max(sets[-1], sets[0] + 1))
    axes.set_ylim(0, 104)
    axes.xaxis.set_major_formatter(_thousands)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    axes.locator_params(axis="x", nbins=6)
    _title(axes, "Covered of what may be drawn", "sets drawn" + (", earlier runs included" if earlier else ""), "")


def _plot_relations(axes: Any, report: dict[str, Any]) -> None:
    rows = [row for row in report["relations"] if row["most_even_sets"] or row["sets"]]
    _title(axes, "Relations by rank, before and after", "rank of the relation", "share of all occurrences")
    if not rows:
        return
    bound = f"… {drawn_at_most(report['bound_without_repeats'])}"
    lines = (
        (_with_first("graph", rows, "triplets_in_graph"), "triplets_in_graph", _LIGHT, "-", 2.2),
        ("most even", "most_even_sets", _DARK, (0, (1, 1.6)), 1.4),
        (bound, "most_even_sets_without_repeats", _ORANGE, (0, (4, 2)), 1.4),
        (_with_first("sets", rows, "sets"), "sets", _BLUE, "-", 2.2),
    )
    for name, key, colour, style, width in lines:
        shares = _shares(rows, key)
        ranks = np.arange(1, len(rows) + 1)[shares > 0]
        axes.plot(
            ranks, shares[shares > 0], color=colour, linestyle=style, linewidth=width, label=name,
            marker="o" if len(ranks) == 1 else None, markersize=4,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(0.9, len(rows) * 1.1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(_thousands)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.legend(frameon=False, fontsize=9, labelcolor=_GREY, loc="lower left")


def _shares(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    """Percent of the sum over the relations, largest first."""
    values = np.sort([row[key] for row in rows])[::-1]
    return 100 * values / max(values.sum(), 1)


def _with_first(name: str, rows: list[dict[str, Any]], key: str) -> str:
    first = max(rows, key=lambda row: row[key])
    label = first["label"] if len(first["label"]) <= _LABEL else first["label"][: _LABEL - 1] + "…"
    return f"{name} (first: {label}, {_shown_percent(_shares(rows, key)[0])})"


def _plot_sizes(axes: Any, found: dict[str, Any]) -> None:
    lines = [("reached", found, _BLUE)]
    if found["asked"] is not None:
        lines.insert(0, ("asked", found["asked"], _LIGHT))
    width = 0.8 / len(lines)
    for place, (name, line, colour) in enumerate(lines):
        sizes = np.array([int(size) for size in line["histogram"]])
        shares = 100 * np.array(list(line["histogram"].values())) / max(sum(line["histogram"].values()), 1)
        shift = (place - (len(lines) - 1) / 2) * width
        axes.bar(sizes + shift, shares, width, color=colour, label=f"{name}, mean {line['mean']:.2f}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.legend(frameon=False, fontsize=9, labelcolor=_GREY, loc="upper right")
    _title(axes, "Sets by size", "triplets in the set", "")


def _title(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_DARK)
    axes.set_xlabel(x_label, color=_GREY)
    axes.set_ylabel(y_label, color=_GREY)


def _note(axes: Any, text: str, at: tuple[float, float], offset: tuple[int, int], colour: str, **options: Any) -> None:
    axes.annotate(
        text, at, xytext=offset, textcoords="offset points", color=colour, fontsize=9, annotation_clip=False, **options
    )


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _shown_percent(percent: float) -> str:
    """As few decimals as keep what is not all from looking like all.

    >>> _shown_percent(99.97), _shown_percent(100.0), _shown_percent(3.26)
    ('99.97%', '100.0%', '3.3%')
    """
    return f"{percent:.2f}%" if 99.95 <= percent < 100 else f"{percent:.1f}%"
