"""Figures about records: what each prompt and model achieves, and how far the checks agree with people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthie.browse.index import Index, Names
from synthie.browse.verdicts import HandVerdict
from synthie.intervals import wilson

__all__ = ["agreement", "by_prompt", "share"]

_SHOWN_CHECKS = 5


def share(part: int, whole: int) -> dict[str, float] | None:
    """``part / whole`` with Wilson's (1927) 95% interval, which also holds near 0 and 1; None of nothing.

    >>> {name: round(value, 3) for name, value in share(8, 10).items()}
    {'value': 0.8, 'low': 0.49, 'high': 0.943}
    """
    return wilson(part, whole)._asdict() if whole else None


def by_prompt(index: Index, names: Names, rows: np.ndarray) -> list[dict[str, Any]]:
    """For each prompt and model among the rows marked in ``rows`` (bool): how many texts, accepted, at what cost.

    ``usd_per_accepted`` divides the cost of all texts by the number of the accepted; None if there are none.
    """
    chosen = np.flatnonzero(rows)
    prompts, models = (index.columns[name][chosen].astype(np.int64) for name in ("prompt", "model"))
    known = max(1, len(names.categories["model"].names))
    groups, members = np.unique(prompts * known + models, return_inverse=True)
    figures = []
    for number, group in enumerate(groups.tolist()):
        of_group = chosen[members == number]
        accepted = int(np.count_nonzero(index.columns["accepted"][of_group]))
        usd = float(index.columns["usd"][of_group].sum())
        mask = np.zeros(index.rows, bool)
        mask[of_group] = True
        checks = zip(names.checks.names, index.checks.counts(mask, len(names.checks.names)).tolist(), strict=True)
        figures.append(
            {
                "prompt": names.categories["prompt"].names[group // known],
                "model": names.categories["model"].names[group % known],
                "texts": len(of_group),
                "accepted": accepted,
                "rate": share(accepted, len(of_group)),
                "usd": usd,
                "usd_per_accepted": usd / accepted if accepted else None,
                "words": float(index.columns["words"][of_group].mean()),
                "output_tokens": float(index.columns["output_tokens"][of_group].mean()),
                "checks": [pair for pair in sorted(checks, key=lambda pair: -pair[1])[:_SHOWN_CHECKS] if pair[1]],
            }
        )
    return sorted(figures, key=lambda figure: -figure["texts"])


def agreement(index: Index, hand: Mapping[str, HandVerdict]) -> dict[str, Any]:
    """How the verdicts of the checks ("gate") compare with those given by hand, on the texts that have both.

    ``counts``: gate's verdict -> hand's -> texts; ``precision``: share of the texts accepted by the gate that the hand
    accepts too; ``wrongly_rejected``: share of those rejected by the gate that the hand accepts; ``agree``: of all.
    """
    words = {key: verdict.verdict == "accept" for key, verdict in hand.items()}
    rows = index.find(words)
    gate = index.columns["accepted"][rows]
    mine = np.array([words[key] for key in index.keys.take(rows).to_pylist()], bool)
    counts = {
        verdict: {
            "accept": int(np.count_nonzero(mine[gate == accepted])),
            "reject": int(np.count_nonzero(~mine[gate == accepted])),
        }
        for verdict, accepted in (("accepted", True), ("rejected", False))
    }
    right, wrong = counts["accepted"], counts["rejected"]
    return {
        "judged": len(rows),
        "counts": counts,
        "precision": share(right["accept"], right["accept"] + right["reject"]),
        "wrongly_rejected": share(wrong["accept"], wrong["accept"] + wrong["reject"]),
        "agree": share(right["accept"] + wrong["reject"], len(rows)),
    }
