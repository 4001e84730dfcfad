"""The demo: the flow ``synthie`` with its default parameters, and what a newcomer looks at afterwards."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow.parquet as pq

__all__ = ["run_demo"]


def run_demo(server_url: str) -> None:
    """Run the flow on the bundled sample against the Prefect server at ``server_url``; print what it made.

    Raises:
        SynthieError: a stage failed; the message names the cause and the mend.
    """
    from flows.synthie import synthie

    print(f"Watch it in the browser: {server_url}/runs", flush=True)
    clock = time.monotonic()
    state = synthie(return_state=True)
    if not state.is_completed():
        state.result(raise_on_failure=True)
    print(summary(Path("data/runs/demo"), state.message or "", time.monotonic() - clock))


def summary(run: Path, message: str, seconds: float) -> str:
    """What the run made and where to look, for the terminal."""
    graph = json.loads((run / "kg/manifest.json").read_bytes())["counts"]
    metrics = json.loads((run / "report/metrics.json").read_bytes())
    cost = json.loads((run / "texts/cost.json").read_bytes())
    return "\n".join([message, str(graph), str(metrics)[:200], str(cost), f"{seconds:.0f} s", str(pq)])
