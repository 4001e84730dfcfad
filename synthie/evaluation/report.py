"""The evaluation as a report: Markdown for artifacts and diffs, one HTML file for people.

In: the content of ``metrics.json``. Out: ``figures/*.png``, ``report.md`` (which
refers to them) and ``report.html`` (self-contained: style and figures inside).
The words are in the two templates beside this file; here are the numbers' forms
and the published results that they are set beside.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2

from kg.stage import write_atomic
from synthie.evaluation.figures import draw_figures
from synthie.llm.service import MODEL as BUILT_IN_MODEL

__all__ = ["PUBLISHED", "write_report"]

# Micro and macro precision, recall and F1 in percent, from the EMNLP 2023 paper.
PUBLISHED = (
    ("text", "GenIE T5-base", (49.10, 26.69, 34.58), (29.82, 11.14, 13.94)),
    ("text", "SynthIE T5-base FE", (92.08, 90.75, 91.41), (94.10, 92.42, 93.05)),
    ("text", "SynthIE T5-base SC", (92.79, 90.50, 91.63), (94.35, 92.39, 93.15)),
    ("text", "SynthIE T5-large FE", (93.38, 92.69, 93.04), (95.27, 94.95, 94.99)),
    ("code", "GenIE T5-base", (41.56, 23.94, 30.38), (25.78, 9.81, 12.12)),
    ("code", "SynthIE T5-base FE", (79.99, 70.47, 74.93), (83.76, 74.05, 77.91)),
    ("code", "SynthIE T5-base SC", (81.58, 69.48, 75.05), (84.32, 73.57, 77.88)),
    ("code", "SynthIE T5-large FE", (82.60, 73.15, 77.59), (86.43, 78.78, 81.95)),
)

ERROR_TITLES = {
    "swapped": ("Subject and object exchanged", "the right pair and relation, in the wrong direction"),
    "wrong_relation": ("Wrong relation", "the right pair of nodes, another relation"),
    "merged": ("Merged entities", "a fact of another node of the record, told of this one"),
    "wrong_object": ("Wrong object", "the right subject and relation, another object"),
    "wrong_subject": ("Wrong subject", "the right relation and object, another subject"),
    "invented": ("Invented", "predicted, and like no missed triplet of the record"),
    "missed": ("Missed", "in the gold set, and like no wrong prediction of the record"),
}

CAPTIONS = {
    "comparison": "Precision, recall and F1 with percentile intervals.",
    "frequency": "F1 of the triplets whose relation occurs in so many training records.",
    "relations": "F1 of each relation against the training records that have it; larger dots have more gold triplets.",
    "size": "F1 of the records with so many gold triplets.",
    "errors": "Errors by kind. Each wrong prediction and each missed triplet is counted once.",
    "calibration": "Share of exact sets against confidence, in ten bins of equal size; the dashed line is perfect.",
    "curve": "Precision against recall if only the best-scored records’ predictions are kept.",
    "training": "Loss of the extractor during training, on a logarithmic scale.",
}


def write_report(metrics: dict[str, Any], folder: Path) -> None:
    """Write figures, ``report.md`` and ``report.html`` for the content of ``metrics.json`` to ``folder``."""
    dark = draw_figures(metrics, folder / "figures")
    modes = metrics["modes"]
    context = {
        **{name: metrics[name] for name in ("data", "settings", "training", "modes", "comparisons", "throughput")},
        "weak": metrics.get("weak", {}),
        "first": next(iter(modes)),
        "main": next(iter(modes.values())),
        "of_run": "constrained" in modes and "unconstrained" in modes,
        "rule_made": BUILT_IN_MODEL in metrics["data"]["models"],
        "built_in_model": BUILT_IN_MODEL,
        "published": PUBLISHED,
        "errors": ERROR_TITLES,
        "captions": CAPTIONS,
        "drawn": dark,
        "measures": {"micro_f1": "micro F1", "macro_f1": "macro F1", "exact": "exact sets"},
        "by_frequency": _paired(metrics, "by_frequency", "from", "gold", _range),
        "by_size": _paired(metrics, "by_size", "triplets", "records", lambda row: str(row["triplets"])),
        "seen": [
            (title, _paired(metrics, table, key, "gold", itemgetter(key)))
            for title, table, key in (
                ("the triplet itself", "by_triplet", "triplet"),
                ("its subject and object together", "by_pair", "pair"),
                ("its entities: both, one, neither", "by_entities", "seen"),
            )
        ],
    }
    for name, autoescape in (("report.md", False), ("report.html", True)):
        environment = _environment(autoescape, folder / "figures", dark)
        template = environment.get_template(f"{name}.jinja")
        write_atomic(folder / name, template.render(context))


def _paired(
    metrics: dict[str, Any], table: str, key: str, size: str, label: Callable[[dict[str, Any]], str]
) -> list[dict[str, Any]]:
    """One row a bucket, with the figures of each system or None where the system has no such bucket."""
    modes = {mode: {row[key]: row for row in figures[table]} for mode, figures in metrics["modes"].items()}
    examples = {bucket: row for rows in reversed(modes.values()) for bucket, row in rows.items()}
    return [
        {
            "label": label(examples[bucket]),
            "size": examples[bucket][size],
            "modes": {mode: rows.get(bucket) for mode, rows in modes.items()},
        }
        for bucket in sorted(examples)
    ]


def _range(bucket: dict[str, Any]) -> str:
    first, last = bucket["from"], bucket["to"]
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f}".replace("-", "−")


def _environment(autoescape: bool, figures: Path, dark: dict[str, bytes]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": lambda value: f"{100 * value:.1f}",
        "points": lambda value: f"{100 * value:+.1f}".replace("-", "−"),
        "interval": lambda estimate: _interval(estimate["low"], estimate["high"]),
        "normal": lambda estimate: _interval(estimate["normal_low"], estimate["normal_high"]),
        "thousands": lambda value: "–" if value is None else f"{value:,}",
        "rate": lambda value: "–" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}",
        "usd": lambda value: "–" if value is None else f"${value:,.2f}" if value >= 1 or not value else f"${value:.6f}",
        "cell": lambda text: " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;"),
        "image": lambda name: base64.b64encode((figures / f"{name}.png").read_bytes()).decode(),
        "dark": lambda name: base64.b64encode(dark[name]).decode(),
    }
    return environment
