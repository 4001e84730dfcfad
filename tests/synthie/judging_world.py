"""Texts to judge, and an endpoint that judges them: what the tests of the judge stage share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful
from texts_world import generate, make_world, settings

from kg.stage import Manifest
from synthie.config import JudgeConfig, JudgeModelConfig
from synthie.judging.stage import judge_texts
from synthie.llm.rule_judge import JudgeQuestion, parse_question

FAULTY_EVERY = 10  # every so many texts leave out the last fact


def make_texts(folder: Path) -> Path:
    """A world whose 60 sets have texts under ``texts``: 54 accepted, 6 rejected."""
    make_world(folder)
    numbers: dict[str, int] = {}

    def write(seen: Seen) -> Reply:
        told = faithful(seen)
        number = numbers.setdefault(told.content, len(numbers))
        return Reply("Nothing is known.") if number % FAULTY_EVERY == 0 else told

    with ScriptedEndpoint(write) as writer:
        generate(folder, folder / "texts", settings(writer, concurrency=1))
    return folder


def question_of(seen: Seen) -> JudgeQuestion:
    """What the judge is asked."""
    question = parse_question(seen.body["messages"][-1]["content"])
    assert question is not None
    return question


def answer(verdicts: list[str], extra: list[list[str]] | None = None) -> str:
    told = {str(number): verdict for number, verdict in enumerate(verdicts, 1)}
    return json.dumps({"verdicts": told, "extra": extra or []})


def literal_judge(seen: Seen) -> Reply:
    """A fact is stated if the text names its object."""
    question = question_of(seen)
    return Reply(answer(["stated" if fact.object in question.text else "absent" for fact in question.facts]))


def judging(server: ScriptedEndpoint, *, n_samples: int = 0, n_rejected: int = 100, **options: Any) -> JudgeConfig:
    """The endpoint as only judge, of everything."""
    llm = JudgeModelConfig(**{"base_url": server.base_url, "model": "gpt-4o-mini", "max_attempts": 2, **options})
    return JudgeConfig(judges=["llm"], n_samples=n_samples, n_rejected=n_rejected, llm=llm)


def judge(world: Path, folder: Path, config: JudgeConfig, *, seed: int = 0, max_usd: float = 1.0) -> Manifest:
    return judge_texts(config, world / "kg", world / "texts", folder, seed=seed, max_usd=max_usd)


def judgements(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("judgements/*.parquet")) for row in pq.read_table(path).to_pylist()]


Respond = Callable[[Seen], Reply]
