"""What a person sees of a run in Prefect's UI: tables, plots and sample texts, as artifacts.

Everything is read back from the run's folder, so that a resumed or repeated
run shows the same. Artifacts are small; the files they name hold the rest.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from prefect.artifacts import create_markdown_artifact

from flows.costs import COSTS, bill_page, cost_of_the_run
from flows.wording import table
from kg.graph import KnowledgeGraph
from kg.plots import plot_graph
from kg.sampling.tables import headline, report_table
from kg.summary import graph_summary
from synthie.judging.reading import estimates
from synthie.judging.tables import estimates_page
from synthie.pipeline import Run
from synthie.texts.status import status

__all__ = [
    "show_card",
    "show_cost",
    "show_coverage",
    "show_estimates",
    "show_graph",
    "show_metrics",
    "show_texts",
    "show_training",
]

_SAMPLE_TEXTS = 20
_REJECTED_TEXTS = 5
_TABLE_ROWS = 20


def show_graph(run: Run) -> None:
    """Size, connectivity, relations and classes of the graph, with the plot."""
    summary = graph_summary(KnowledgeGraph.open(run.kg))
    plot = io.BytesIO()
    plot_graph(summary, plot)
    _show("graph", run.kg, "Knowledge graph", _embedded("graph", plot.getvalue()), *_tables(summary))


def show_coverage(run: Run) -> None:
    """How evenly the sets cover entities and relations, what the splits share, with the plot."""
    report = json.loads((run.sets / "coverage.json").read_bytes())
    tables = (table.markdown() for table in report_table(report))
    _show(
        "coverage",
        run.sets,
        "Coverage of the triplet sets",
        headline(report),
        _image(run.sets / "coverage.png"),
        *tables,
    )


def show_cost(run: Run, stage: Literal["texts", "judge"] = "texts") -> None:
    """Tokens, dollars and rejections of the texts, or what judging them took, as far as it came."""
    folder = run.folder / stage
    key, title = COSTS[stage]
    if (folder / "cost.json").exists():
        bill = json.loads((folder / "cost.json").read_bytes())
        _show(key, folder, title, bill_page(bill), *cost_of_the_run(status(run.folder)))


def show_texts(run: Run) -> None:
    """Twenty accepted texts with their triplets, and a few rejected ones with the reasons."""
    accepted = _records(run.texts / "samples", _SAMPLE_TEXTS)
    rejected = _records(run.texts / "rejected", _REJECTED_TEXTS)
    lines = ["## Accepted", *(_text_with_triplets(record) for record in accepted), "## Rejected"]
    for record in rejected:
        reasons = "; ".join(f"**{reason['check']}**: {reason['detail']}" for reason in record["reasons"])
        lines.append(f"{_text_with_triplets(record)}\n\n{reasons}")
    _show("texts", run.texts, "Sample texts", *lines)


def show_estimates(run: Run) -> None:
    """What the judges say about the texts; nothing where there are none."""
    told = estimates(run.judge)
    if told is not None:
        _show("estimates", run.judge, "What the data are worth", estimates_page(told))


def show_card(run: Run) -> None:
    """The data set's card, without its metadata block."""
    card = (run.dataset / "README.md").read_text(encoding="utf-8")
    body = _with_images(card.split("\n---\n", 1)[-1], run.dataset)
    create_markdown_artifact(key="dataset", markdown=body, description=f"Data set in {run.dataset}")


def show_training(run: Run) -> None:
    """The training curve."""
    _show("training", run.extractor, "Training of the extractor", _image(run.extractor / "training_curve.png"))


def show_metrics(run: Run) -> None:
    """The evaluation report, with its figures inside and the paths of its files at its end."""
    report = (run.report / "report.md").read_text(encoding="utf-8")
    markdown = "\n\n".join([_with_images(report, run.report).rstrip(), "## Files", _paths(run.report)])
    create_markdown_artifact(key="metrics", markdown=markdown, description=f"Report in {run.report}/report.html")


def _paths(folder: Path) -> str:
    """The files of a folder as a list. Not as links: browsers follow no ``file:`` link from a page of a server."""
    paths = sorted(path for path in folder.resolve().rglob("*") if path.is_file() and not path.name.startswith("."))
    return "\n".join(f"- `{path}`" for path in paths)


def _show(key: str, folder: Path, title: str, *parts: str) -> None:
    markdown = "\n\n".join([f"# {title}", f"Files: `{folder}`", *parts])
    create_markdown_artifact(key=key, markdown=markdown, description=title)


def _tables(data: dict[str, Any]) -> Iterator[str]:
    """One table of all single figures, then one for each list of records (its first rows)."""
    yield table(("figure", "value"), _figures(data))
    for name, rows in data.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            yield f"### {_words(name)}" + (f" (first {_TABLE_ROWS} of {len(rows)})" if len(rows) > _TABLE_ROWS else "")
            yield table(
                [_words(column) for column in rows[0]],
                ([_cell(value) for value in row.values()] for row in rows[:_TABLE_ROWS]),
            )


def _figures(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{prefix}{_words(name)} · ")
        elif not isinstance(value, list):
            yield prefix + _words(name), _cell(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _records(folder: Path, count: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(count - len(records)):
            records += batch.to_pylist()
            if len(records) >= count:
                return records
    return records


def _text_with_triplets(record: dict[str, Any]) -> str:
    triplets = " · ".join(
        f"*{t['subject']['surfaceform']}* {t['predicate']['surfaceform']} *{t['object']['surfaceform']}*"
        for t in record["triplets"]
    ).replace("_", " ")
    return f"> {record['text']}\n\n{triplets}"


def _with_images(markdown: str, folder: Path) -> str:
    """The same text with its image files inside: the UI cannot read the run's folder."""
    return re.sub(r"!\[[^]]*\]\(([^):]+\.png)\)", lambda link: _image(folder / link[1]), markdown)


def _image(path: Path) -> str:
    return _embedded(path.stem, path.read_bytes())


def _embedded(name: str, image: bytes) -> str:
    return f"![{name}](data:image/png;base64,{base64.b64encode(image).decode()})"
