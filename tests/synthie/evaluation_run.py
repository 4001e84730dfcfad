"""A data set, predictions and an extractor's training file on disk, as the earlier stages leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kg.stage import run_stage
from synthie.dataset import DATASET_SCHEMA
from synthie.records import PREDICTION_SCHEMA

Key = tuple[str, str, str]
Sets = Mapping[int, Sequence[Key]]


def write_dataset(folder: Path, splits: Mapping[str, Sets], *, model: str = "some-model") -> Path:
    """Split -> record id -> triplets; a name is "name of " and the id, an id "?x" stands for a name without id."""

    def work(target: Path) -> dict[str, Any]:
        (target / "data").mkdir()
        for split, sets in splits.items():
            rows = [
                {
                    "id": number,
                    "split": split,
                    "text": f"Text {number}: " + ", ".join(" ".join(key) for key in triplets) + ".",
                    "triplets": [_record(key) for key in triplets],
                    "entities": [],
                    "relations": [],
                    "model": model,
                }
                for number, triplets in sets.items()
            ]
            table = pa.Table.from_pylist(rows, schema=DATASET_SCHEMA)
            half = max(1, len(table) // 2)
            for part, start in enumerate(range(0, len(table), half)):
                pq.write_table(table.slice(start, half), target / "data" / f"{split}-{part:05d}-of-00009.parquet")
        return {}

    run_stage("dataset", folder, config={"name": "tiny", "model": model}, inputs={}, seed=None, work=work)
    return folder


def write_predictions(
    folder: Path, constrained: Sets, unconstrained: Sets | None = None, *, split: str = "test"
) -> Path:
    """Record id -> predicted triplets, for both modes."""

    def work(target: Path) -> dict[str, Any]:
        modes = {"constrained": constrained, "unconstrained": constrained if unconstrained is None else unconstrained}
        for mode, sets in modes.items():
            rows = [
                {"id": number, "triplets": [_record(key) for key in triplets], "score": -0.5, "output": "…"}
                for number, triplets in sets.items()
            ]
            pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA), target / f"{mode}.parquet")
        return {}

    run_stage("predictions", folder, config={"split": split}, inputs={}, seed=None, work=work)
    return folder


def write_extractor(folder: Path) -> Path:
    """An extractor's folder with nothing but its training curve."""

    def work(target: Path) -> dict[str, Any]:
        training = {
            "settings": {"steps": 300},
            "device": "cpu",
            "seconds": 61.5,
            "tokens_per_second": 8123.4,
            "best_step": 200,
            "best_validation_loss": 0.4,
            "train": [{"step": step, "loss": 300 / step, "learning_rate": 1e-3} for step in range(10, 301, 10)],
            "validation": [{"step": step, "loss": 300 / step + 0.2} for step in (100, 200, 300)],
        }
        (target / "training.json").write_text(json.dumps(training))
        return {}

    run_stage("extractor", folder, config={}, inputs={}, seed=None, work=work)
    return folder


def _record(key: Key) -> dict[str, dict[str, str]]:
    parts = zip(("subject", "predicate", "object"), key, strict=True)
    return {part: _named(identifier) for part, identifier in parts}


def _named(identifier: str) -> dict[str, str]:
    if identifier.startswith("?"):
        return {"uri": "", "surfaceform": identifier[1:]}
    return {"uri": identifier, "surfaceform": f"name_of_{identifier}"}
