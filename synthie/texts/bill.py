"""The bill of the texts stage, ``cost.json``: what was expected, what this run did, what everything has cost so far."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kg.catalogue import Catalogue
from kg.stage import write_atomic
from synthie.llm.journal import Journal
from synthie.texts.asking import Asking
from synthie.texts.compiling import Compiled
from synthie.texts.estimate import Estimate

__all__ = ["Bill"]


class Bill:
    """Writes ``cost.json``.

    Args:
        path: the file.
        estimate: what was expected before this run.
        journal: knows what all runs in the folder have spent, whatever the prompt or model.
        max_usd: the budget, in US dollars.
    """

    def __init__(self, path: Path, estimate: Estimate, journal: Journal, max_usd: float) -> None:
        self._path = path
        self._estimate = estimate
        self._journal = journal
        self._max_usd = max_usd

    def write(self, asking: Asking, compiled: Compiled | None = None, graph: Catalogue | None = None) -> None:
        """Bring the file up to date; with what became of the answers once that is known."""
        bill: dict[str, Any] = {
            "max_usd": self._max_usd,
            "spent_usd": self._journal.spent_usd,
            "estimate": asdict(self._estimate),
            "this_run": self._this_run(asking),
        }
        if compiled is not None and graph is not None:
            bill["texts"] = _texts(compiled, self._journal.spent_usd)
            bill["relations"] = _relations(compiled, graph)
        write_atomic(self._path, json.dumps(bill, indent=2) + "\n")

    def _this_run(self, asking: Asking) -> dict[str, Any]:
        statistics, seconds = asking.statistics, asking.seconds
        return {
            "answered_before": asking.stored,
            "answered": asking.monitor.answered,
            "failed": asking.failed,
            "requests": statistics.requests,
            "retries": dict(sorted(statistics.retries.items())),
            "endpoints": dict(sorted(statistics.by_endpoint.items())),
            "seconds": round(seconds, 3),
            "texts_per_second": round(asking.monitor.answered / seconds, 1) if seconds else 0.0,
        }


def _texts(compiled: Compiled, spent_usd: float) -> dict[str, Any]:
    return {
        "samples": compiled.samples,
        "rejected": compiled.rejected,
        "input_tokens": compiled.input_tokens,
        "cached_input_tokens": compiled.cached_input_tokens,
        "output_tokens": compiled.output_tokens,
        "usd": compiled.usd,
        "usd_per_text": compiled.usd / compiled.texts if compiled.texts else None,
        # All that was spent in the folder, rejected texts, earlier tries and lost calls included.
        "usd_per_sample": spent_usd / compiled.samples if compiled.samples else None,
    }


def _relations(compiled: Compiled, graph: Catalogue) -> list[dict[str, Any]]:
    """The relations, the dearest first; a text's cost is shared evenly among its triplets."""
    dearest_first = sorted(compiled.relations.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))
    return [
        {
            "relation": relation,
            "label": graph.relation(relation).label,
            "samples": samples,
            "usd": round(usd, 9),
            "usd_per_sample": usd / samples if samples else None,
        }
        for relation, (samples, usd) in dearest_first
    ]
