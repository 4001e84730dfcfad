"""The demo: the flow ``synthie`` with its default parameters, and what a newcomer looks at afterwards."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

__all__ = ["run_demo", "summary"]

_TEXTS_SHOWN = 2
_EXAMPLE = "Albert Einstein, a physicist, was born in Ulm and received the Nobel Prize in Physics."


def run_demo(server_url: str) -> None:
    """Run the flow on the bundled sample against the Prefect server at ``server_url``; print what it made.

    Raises:
        SynthieError: a stage failed; the message names the cause and the mend.
    """
    from prefect.logging.handlers import APILogHandler

    from flows.synthie import synthie

    print(f"Watch it in the browser: {server_url}/runs", flush=True)
    clock = time.monotonic()
    state = synthie(return_state=True)
    APILogHandler().flush()  # while the server still runs
    if not state.is_completed():
        state.result(raise_on_failure=True)
    print(f"\n{state.message} ({time.monotonic() - clock:.0f} s)\n")
    print(summary(Path("data/runs/demo")))


def summary(run: Path) -> str:
    """What a complete run made and where to look, as text for the terminal."""
    graph = _json(run / "kg/manifest.json")["counts"]
    nodes = graph["nodes"]
    dataset = _json(run / "dataset/statistics.json")
    modes = _json(run / "report/metrics.json")["modes"]
    cost = _json(run / "texts/cost.json")
    lines = [
        f"  graph       {nodes['total']:,} nodes, {graph['relations']} relations, {graph['triples']:,} triples",
        f"  data set    {_sizes(dataset)}; {dataset['quality']['rejected']:,} texts rejected by the checks",
        f"  cost        ${cost['spent_usd']:.2f}",
        f"  extractor   micro-F1 {_f1(modes['constrained'])} constrained, {_f1(modes['unconstrained'])} unconstrained",
        "",
        *_samples(run),
        f"Report:    {run}/report/report.html",
        f"Data set:  {run}/dataset/README.md",
        "Prefect:   make ui",
        f'Try it:    .venv/bin/synthie extract "{_EXAMPLE}"',
    ]
    return "\n".join(lines)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def _sizes(dataset: dict[str, Any]) -> str:
    return ", ".join(f"{split['records']:,} {name}" for name, split in dataset["splits"].items())


def _f1(mode: dict[str, Any]) -> str:
    return f"{mode['micro']['f1']['value']:.3f}"


def _samples(run: Path) -> list[str]:
    path = next((run / "dataset/data").glob("test-*.parquet"))
    rows = next(pq.ParquetFile(path).iter_batches(_TEXTS_SHOWN, columns=["text", "triplets"])).to_pylist()
    lines = []
    for row in rows:
        lines.append(f"  “{row['text']}”")
        for triplet in row["triplets"]:
            names = (triplet[part]["surfaceform"].replace("_", " ") for part in ("subject", "predicate", "object"))
            lines.append("     " + " | ".join(names))
        lines.append("")
    return lines
