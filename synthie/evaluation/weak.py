"""What the extractor gets wrong, as the tables of factors that the sampler reads.

``weak_relations.txt`` and ``weak_entities.txt`` have lines ``id factor F1 triplets name`` for
``sampling.relation_factors`` and ``sampling.entity_factors``. With c, p, g the
correct, predicted and gold triplets of a relation (or with an entity), F the
micro F1 over all, and k = 10,

    F1' = (2c + k·F) / (p + g + k),   factor = (1 − F1') / (1 − F), from 1 to the most allowed:

the shrunken error as a multiple of the average one. What was seen little stays near
the average; what is better than it keeps the factor 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kg.stage import write_atomic
from synthie.evaluation.corpus import Corpus, Predicted, is_known
from synthie.evaluation.triplets import Floats, Ints, find_correct

__all__ = ["WEAK_ENTITIES", "WEAK_RELATIONS", "write_weak"]

WEAK_RELATIONS, WEAK_ENTITIES = "weak_relations.txt", "weak_entities.txt"
# What a line can hold; dates, quantities and coordinates are no entities, and nobody needs to draw more of them.
_ID = re.compile(r"(?!(?:date|quantity|coordinate|string):)[^\s,;#][^\s,;]*")
_PRIOR = 10.0
_SHOWN = 15


@dataclass(frozen=True)
class _Table:
    """Keys by code, int64[n, 3] counts, and their factors."""

    keys: list[str]
    counts: Ints
    factors: Floats


def write_weak(corpus: Corpus, system: Predicted, folder: Path, *, most: float) -> dict[str, Any]:
    """Write both tables to ``folder``; returns the weakest rows of each and how many are weak.

    Ids that a line cannot hold (with white space, commas or semicolons) are left out,
    and so are literals and names without an id.

    Args:
        most: largest factor.
    """
    gold, predicted = corpus.gold, system.sets
    correct = find_correct(gold, predicted)
    overall = _f1(np.array([[correct.sum(), len(predicted), len(gold)]]), 0.0, 0.0)[0]

    def counted(of_gold: Ints, of_predicted: Ints, right: np.ndarray, keys: Any) -> _Table:
        columns = [np.bincount(rows, minlength=len(keys)) for rows in (of_predicted[right], of_predicted, of_gold)]
        counts = np.stack(columns, axis=1)
        error = 1 - _f1(counts, _PRIOR, overall)
        factors = np.clip(error / (1 - overall), 1.0, most) if overall < 1 else np.ones(len(counts))
        return _Table(list(keys), counts, factors)

    loops = [sets.subject == sets.object for sets in (gold, predicted)]  # a node that is both counts once
    gold_ends, predicted_ends = (
        np.concatenate([sets.subject, sets.object[~loop]]) for sets, loop in zip((gold, predicted), loops, strict=True)
    )
    tables = {
        WEAK_RELATIONS: counted(gold.relation, predicted.relation, correct, gold.relations),
        WEAK_ENTITIES: counted(gold_ends, predicted_ends, np.concatenate([correct, correct[~loops[1]]]), gold.nodes),
    }
    return {name: _write(corpus, table, folder / name) for name, table in tables.items()}


def _write(corpus: Corpus, table: _Table, path: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "id": key,
            "label": corpus.label(key),
            "factor": round(float(factor), 3),
            "f1": round(float(f1), 4),
            "correct": int(counts[0]),
            "predicted": int(counts[1]),
            "gold": int(counts[2]),
        }
        for key, counts, factor, f1 in zip(
            table.keys, table.counts, table.factors, _f1(table.counts, 0.0, 0.0), strict=True
        )
        if counts[1:].any() and is_known(key) and _ID.fullmatch(key)
    ]
    rows.sort(key=lambda row: (-row["factor"], -row["gold"], row["id"]))
    lines = [f"# id factor F1 gold-triplets name; {path.stem.split('_')[1]}, weakest first"]
    lines += [f"{row['id']} {row['factor']:g} {row['f1']:.4f} {row['gold']} {row['label']}" for row in rows]
    if rows:
        write_atomic(path, "\n".join(" ".join(line.split()) for line in lines) + "\n")
    weak = [row for row in rows if row["factor"] > 1]
    return {"listed": len(rows), "weak": len(weak), "weakest": weak[:_SHOWN]}


def _f1(counts: Ints, prior: float, mean: float) -> Floats:
    total = counts[:, 1] + counts[:, 2] + prior
    return np.divide(2 * counts[:, 0] + prior * mean, total, out=np.zeros(len(counts)), where=total > 0)
