"""Run folders up to the texts, with the rows that a test wants, and the data set made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.sampling.report import GraphColumns, SampledSets, coverage_report
from kg.stage import run_stage
from synthie.browse.verdicts import FILE, HandVerdicts
from synthie.config import DatasetConfig, GenerationConfig, QualityConfig
from synthie.dataset import build_dataset
from synthie.judging.config import JudgeConfig
from synthie.judging.estimates import estimate_quality
from synthie.judging.judgements import ESTIMATES_FILE, part_path, read_judgements, write_part
from synthie.llm.prompts import load_prompt
from synthie.records import SAMPLE_SCHEMA

NAMES = {"Q1": "Ada_Ørsted", "Q2": "Bern", "Q3": "Zoltán_Kiss", "date:1879": "1879"}
RELATIONS = {"P19": "place of birth", "P26": "spouse", "P569": "date of birth"}
Key = tuple[str, str, str]
# Of three triplets, P0 twice and P1, two are in a set.
COVERAGE = coverage_report(
    GraphColumns(
        *np.array([[0, 1, 2], [0, 0, 1], [1, 2, 3]], np.int32), np.ones(4, np.bool_), ["P0", "P1"], ["of", "or | and"]
    ),
    SampledSets(np.array([0, 1, 3]), np.array([0, 0, 2])),
)


class Folders:
    """A run's folders up to the texts, with the rows that a test wants."""

    def __init__(
        self, folder: Path, model: str = "synthie-rules", first: int = 0, quality: Mapping[str, Any] | None = None
    ) -> None:
        self.graph, self.sets, self.texts, self.dataset = (folder / name for name in ("kg", "sets", "texts", "dataset"))
        self.judge = folder / "judge"
        self._model = model
        self._quality = QualityConfig(**(quality or {}))
        self._first = first  # number of the first set
        self._rows: list[dict[str, Any]] = []
        self._lost: list[str] = []

    def add(
        self,
        split: str,
        keys: Sequence[Key],
        reasons: Sequence[str] = (),
        text: str | None = None,
        mentions: Mapping[str, int] | None = None,
    ) -> None:
        number = self._first + len(self._rows)
        row = _sample(number, split, keys, reasons, f"Text {number} tells {number}." if text is None else text)
        for entity in row["entities"] if mentions else ():
            entity["mention_start_index"] = mentions[entity["uri"]]
        self._rows.append(row)

    def add_negative(self, split: str, topic: str) -> None:
        self._rows.append(
            _sample(self._first + len(self._rows), split, [], (), f"Who likes {topic}?") | {"topic": topic}
        )

    def lose(self, split: str) -> None:
        """A set whose text was never written."""
        self._lost.append(split)

    def say(self, key: int, verdict: str) -> None:
        """A person's verdict on the text of a set; only after `write`."""
        HandVerdicts(self.texts / FILE).add(f"{key:032x}", verdict, id=key, gate=None)  # type: ignore[arg-type]

    def judge_as(self, verdicts: Mapping[int, str]) -> None:
        """A judge's verdict on the only triplet of each of some sets."""

        def work(folder: Path) -> dict[str, Any]:
            rows = [_judgement(key, verdict) for key, verdict in verdicts.items()]
            write_part(rows, part_path(folder, "llm", 0))
            tables, config = read_judgements(folder), JudgeConfig(judges=["llm"])
            told = estimate_quality(config, tables, {"accepted": len(self._rows)})
            (folder / ESTIMATES_FILE).write_text(json.dumps(told))
            (folder / "cost.json").write_text(json.dumps({"spent_usd": 0.03 * len(rows)}))
            return {}

        run_stage("judge", self.judge, config={"verdicts": list(verdicts.items())}, inputs={}, seed=7, work=work)

    def build(self, **config: Any) -> dict[str, Any]:
        """Write the folders, build the data set, return the manifest's counts."""
        self.write()
        return self.publish(**config)

    def write(self) -> None:
        """The folders up to the texts."""
        _stage("kg", self.graph, {}, _write_graph)
        _stage("sets", self.sets, {"n_sets": len(self._rows), "first": self._first}, self._write_sets)
        generation = GenerationConfig(model=self._model).fingerprinted()
        settings = {"generation": generation, "quality": self._quality.fingerprinted()}
        prompt = load_prompt(generation["prompt"])
        used = {"prompt": prompt.hash}
        if any(row["topic"] for row in self._rows):
            used["negatives"] = prompt.negatives_hash
        _stage("texts", self.texts, settings, self._write_texts, **used)

    def publish(self, *, seed: int = 0, **config: Any) -> dict[str, Any]:
        """Build the data set of what is written; return the manifest's counts."""
        return build_dataset(
            DatasetConfig(**config), self.graph, self.sets, self.texts, self.dataset, judge=self.judge, seed=seed
        ).counts

    def statistics(self) -> dict[str, Any]:
        return json.loads((self.dataset / "statistics.json").read_text())

    def card(self) -> str:
        return (self.dataset / "README.md").read_text(encoding="utf-8")

    def rows(self, split: str = "train") -> list[dict[str, Any]]:
        """The published records of a split, shard after shard."""
        paths = sorted((self.dataset / "data").glob(f"{split}-*.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()]

    def _write_sets(self, folder: Path) -> None:
        splits = [row["split"] for row in self._rows] + self._lost
        ids = list(range(self._first, self._first + len(splits)))
        pq.write_table(pa.table({"id": ids, "split": splits}), folder / "sets.parquet")
        (folder / "coverage.json").write_text(json.dumps(COVERAGE))
        (folder / "coverage.png").write_bytes(b"\x89PNG")

    def _write_texts(self, folder: Path) -> None:
        for name, verdict in (("samples", "accepted"), ("rejected", "rejected")):
            (folder / name).mkdir()
            rows = [row for row in self._rows if row["verdict"] == verdict]
            for part, start in enumerate(range(0, len(rows), 3)):
                table = pa.Table.from_pylist(rows[start : start + 3], SAMPLE_SCHEMA)
                pq.write_table(table, folder / name / f"part-{part:05d}.parquet")


def _stage(name: str, folder: Path, config: Mapping[str, Any], write: Any, **inputs: str) -> None:
    def work(folder: Path) -> dict[str, Any]:
        write(folder)
        return {}

    run_stage(name, folder, config=config, inputs=inputs, seed=7, work=work)


def _write_graph(folder: Path) -> None:
    pq.write_table(pa.table({"id": list(NAMES)}), folder / "nodes.parquet")
    pq.write_table(pa.table({"subject": [0, 0]}), folder / "triples.parquet")
    pq.write_table(pa.table({"id": list(RELATIONS), "label": list(RELATIONS.values())}), folder / "relations.parquet")


def _judgement(key: int, verdict: str) -> dict[str, Any]:
    return {
        "request_key": f"{key:032x}",
        "id": key,
        "gate": "accepted",
        "style": "",
        "judge": "llm",
        "model": "some-judge",
        "problem": None,
        "triplets": [
            {
                "subject": "Q1",
                "relation": "P19",
                "object": "Q2",
                "words": "Ada | place of birth | Bern",
                "verdict": verdict,
            }
        ],
        "extras": [],
    }


def _sample(number: int, split: str, keys: Sequence[Key], reasons: Sequence[str], text: str) -> dict[str, Any]:
    def node(uri: str) -> dict[str, str]:
        return {"surfaceform": NAMES.get(uri, uri), "uri": uri}

    nodes = list(dict.fromkeys(uri for subject, _, object_ in keys for uri in (subject, object_)))
    return {
        "id": number,
        "split": split,
        "text": text,
        "triplets": [
            {"subject": node(s), "predicate": {"surfaceform": RELATIONS[p], "uri": p}, "object": node(o)}
            for s, p, o in keys
        ],
        "entities": [node(uri) | {"mention_start_index": place} for place, uri in enumerate(nodes)],
        "relations": [{"surfaceform": RELATIONS[p], "uri": p} for p in dict.fromkeys(p for _, p, _ in keys)],
        "topic": None,
        "model": "m",
        "endpoint": "built-in",
        "prompt": "few-shot/1",
        "prompt_hash": "abc",
        "request_key": f"{number:032x}",
        "input_tokens": 10,
        "cached_input_tokens": 2,
        "output_tokens": 5,
        "usd": 0.25,
        "latency_s": 0.5,
        "attempts": 1,
        "finish_reason": "stop",
        "verdict": "rejected" if reasons else "accepted",
        "reasons": [{"check": check, "detail": "because"} for check in reasons],
    }


BORN, BORN_IN, SPOUSE = ("Q1", "P19", "Q2"), ("Q1", "P569", "date:1879"), ("Q1", "P26", "Q3")
