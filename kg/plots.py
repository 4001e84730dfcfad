"""A graph at a glance, drawn: the figure that `synthie kg info --plot` and the flow show.

Four panels from the data of `kg.summary.graph_summary`: how unevenly the
relations and the degrees are distributed, how large the connected components
are, and what kinds of nodes there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["plot_graph"]

_BLUE, _ORANGE, _GREEN, _GREY, _DARK = "#2b6cb0", "#c05621", "#2f855a", "#4a5560", "#1f2933"
_NAMED_RELATIONS = 3


def plot_graph(summary: dict[str, Any], target: Path | BinaryIO) -> None:
    """Draw a summary of `kg.summary.graph_summary`.

    Args:
        target: a path, whose suffix decides the format (.png, .svg, .pdf), or a binary file for a PNG.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib knows no format of that name.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(wspace=0.06, hspace=0.08)
    figure = Figure(figsize=(11, 8), dpi=150, layout=layout)
    (relations, degrees), (components, kinds) = figure.subplots(2, 2)
    figure.suptitle(
        f"{summary['nodes']:,} nodes, {summary['triples']:,} triples of {summary['relations']:,} relations",
        x=0.01,
        ha="left",
        fontsize=13,
        color=_DARK,
    )
    _plot_relations(relations, summary["relation_counts"])
    _plot_degrees(degrees, summary)
    _plot_components(components, summary["components"])
    _plot_kinds(kinds, summary["kinds"])
    for axes in (relations, degrees, components, kinds):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa3ad")
        axes.tick_params(which="both", colors=_GREY, labelsize=9)
        axes.grid(color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
    kinds.grid(visible=False)
    # Nothing of the machine goes into the file, so that equal graphs give equal files.
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    suffix = target.suffix[1:].lower() if isinstance(target, Path) else "png"
    figure.savefig(target, format=suffix, metadata=metadata.get(suffix))


def _plot_relations(axes: Any, rows: list[dict[str, Any]]) -> None:
    counts = np.array([row["count"] for row in rows])
    _title(axes, "Relations by frequency", "rank of the relation", "triples")
    if not len(counts):
        return
    axes.plot(np.arange(1, len(counts) + 1), counts, color=_BLUE, linewidth=1.5, marker="o", markersize=3.5)
    for rank, row in enumerate(rows[:_NAMED_RELATIONS], 1):
        axes.annotate(
            _short(row["label"] or row["id"]),
            (rank, row["count"]),
            xytext=(7, 2),
            textcoords="offset points",
            fontsize=8.5,
            color=_DARK,
        )
    _logarithmic(axes, x_limits=(0.85, max(len(counts), 10) * 1.2), y_limits=(0.8, counts[0] * 2))


def _plot_degrees(axes: Any, summary: dict[str, Any]) -> None:
    _title(axes, "Degrees", "triples of the node, as subject or as object", "nodes per degree")
    highest = [1.0]
    for name, label, colour in (("out_degree", "subject", _BLUE), ("in_degree", "object", _ORANGE)):
        centres, heights = _densities(summary[name]["histogram"], "nodes")
        if len(centres):
            axes.plot(centres, heights, color=colour, linewidth=1.5, marker="o", markersize=3.5, label=label)
            highest += [centres[-1]]
    if len(highest) > 1:
        _logarithmic(axes, x_limits=(0.85, max(highest) * 1.5))
        axes.legend(frameon=False, fontsize=9, labelcolor=_DARK)


def _plot_components(axes: Any, components: dict[str, Any]) -> None:
    _title(axes, "Weakly connected components", "nodes of the component", "components")
    rows = components["histogram"]
    if not rows:
        return
    lows, highs = np.array([row["low"] for row in rows]), np.array([row["high"] for row in rows])
    counts = np.array([row["components"] for row in rows])
    centres = np.sqrt(lows * highs.astype(float))
    axes.vlines(centres, 0.5, counts, color=_GREEN, linewidth=2)
    axes.plot(centres, counts, "o", color=_GREEN, markersize=5)
    _logarithmic(axes, x_limits=(0.7, centres[-1] * 3), y_limits=(0.5, max(counts.max() * 3, 10)))
    axes.annotate(
        f"the largest: {components['largest']:,} nodes, {100 * components['largest_share']:.1f}%",
        (centres[-1], counts[-1]),
        xytext=(0, 9),
        textcoords="offset points",
        ha="right" if len(rows) > 1 else "center",
        fontsize=8.5,
        color=_DARK,
    )


def _plot_kinds(axes: Any, kinds: dict[str, int]) -> None:
    _title(axes, "Nodes by kind", "", "")
    rows = sorted(kinds.items(), key=lambda row: row[1])
    total = max(sum(kinds.values()), 1)
    bars = axes.barh([name for name, _ in rows], [count for _, count in rows], color=_BLUE, height=0.62)
    texts = [f"{count:,}  ({100 * count / total:.1f}%)" for _, count in rows]
    axes.bar_label(bars, texts, padding=5, fontsize=9, color=_DARK)
    axes.set_xlim(0, max([count for _, count in rows], default=1) * 1.3)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _densities(rows: list[dict[str, int]], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Geometric centre of each bin, and its count a whole number in it: so bins of any width fit one curve."""
    centres = np.array([np.sqrt(row["low"] * row["high"]) for row in rows])
    heights = np.array([row[unit] / (row["high"] - row["low"] + 1) for row in rows])
    return centres, heights


def _title(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_DARK)
    axes.set_xlabel(x, color=_GREY)
    axes.set_ylabel(y, color=_GREY)


def _logarithmic(axes: Any, x_limits: tuple[float, float], y_limits: tuple[float, float] | None = None) -> None:
    axes.set(xscale="log", yscale="log", xlim=x_limits)
    if y_limits is not None:
        axes.set_ylim(y_limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.minorticks_off()


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "…"
