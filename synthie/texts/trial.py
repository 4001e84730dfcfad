"""One set of a run asked for ahead of the others, to see what a prompt makes of it.

The question is the one that the run would ask, so the answer belongs into the run's
journal: whoever generates the texts afterwards does not pay for it again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.stage import no_progress, read_manifest
from synthie.config import RunConfig
from synthie.errors import BusyError, IncompleteError, InputError
from synthie.llm.journal import Journal, Record, read_journal
from synthie.llm.prompts import load_prompt
from synthie.quality import QualityGate, Verdict
from synthie.texts.asking import Asking
from synthie.texts.questions import FIRST_TRY, Questions, TripletSet, TripletSets
from synthie.texts.roster import Roster

__all__ = ["Question", "Trial", "find_question", "try_question"]

_MESSAGES = ("messages", "input")  # by protocol


@dataclass(frozen=True, slots=True)
class Question:
    """What a run would ask about one of its sets.

    Attributes:
        questions: of the run.
        position: of the set in the file.
        triplet_set: the set.
        messages: what is asked, in chat messages.
        fields: all else that is sent, such as the temperature.
        style: as records have it, "axis: value, …"; empty where the prompt has no axes.
    """

    questions: Questions
    position: int
    triplet_set: TripletSet
    messages: list[dict[str, str]]
    fields: dict[str, Any]
    style: str


@dataclass(frozen=True, slots=True)
class Trial:
    """An answer, and what the quality gate says about it.

    Attributes:
        record: the answer.
        verdict: of the quality gate.
        stored: "before" the trial, "now", or "not": another process had the journal.
    """

    record: Record
    verdict: Verdict
    stored: Literal["before", "now", "not"]


def find_question(config: RunConfig, kg: Path, sets: Path, number: int | None = None) -> Question:
    """What is asked about the set with an id; None for the run's first set.

    Raises:
        InputError: there are no sets, or none with that id.
        ConfigError: the prompt does not exist or does not fit the run.
    """
    read_manifest(kg)
    read_manifest(sets)
    position = 0 if number is None else _position(sets / "sets.parquet", number)
    triplet_sets = TripletSets(kg, sets)
    questions = Questions(config.generation, load_prompt(config.generation.prompt), triplet_sets, seed=config.seed)
    chosen = np.arange(triplet_sets.count) == position
    for batch in triplet_sets.batches(1_000, chosen):
        for _, triplet_set in batch:
            body = json.loads(questions.request(triplet_set).body)
            return Question(
                questions,
                position,
                triplet_set,
                questions.messages(triplet_set),
                {name: value for name, value in body.items() if name not in _MESSAGES},
                questions.origin(triplet_set)["style"],
            )
    raise InputError(f"There are no sets in {sets}. Run the sampling stage again.")


def _position(path: Path, number: int) -> int:
    try:
        ids = pq.read_table(path, columns=["id"])["id"]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"Cannot read {path}: {str(error).rstrip('.')}. Run the sampling stage again.") from error
    position = pc.index(ids, number).as_py()
    if position < 0:
        lowest, highest = pc.min_max(ids).as_py().values()
        raise InputError(f"There is no set {number} in {path}; its ids go from {lowest} to {highest}.")
    return position


def try_question(config: RunConfig, question: Question, texts: Path) -> Trial:
    """Ask the configured endpoint, unless the journal of ``texts`` has the answer; check what it says.

    Batch mode is set aside: the answer comes at once, and a batch would find it in the journal.

    Raises:
        BudgetError: the call could exceed what is left of ``max_usd``.
        IncompleteError: the endpoint gave no answer; the message says why.
        ConfigError, EndpointError: as for the texts stage.
    """
    generation = config.generation.model_copy(update={"mode": "live", "n_texts": None, "tries": 1})
    questions = Questions(generation, load_prompt(generation.prompt), question.questions.sets, seed=config.seed)
    only = np.arange(questions.sets.count) == question.position
    body = questions.request(question.triplet_set).body
    judged_usd = read_journal(texts.parent / "judge" / "journal").spent_usd
    with _journal(texts, max(0.0, config.max_usd - judged_usd)) as (journal, is_the_runs, max_usd):
        key = questions.find(body, FIRST_TRY, journal)
        stored: Literal["before", "now", "not"] = "before" if key in journal else "now" if is_the_runs else "not"
        if stored != "before":
            _ask(questions, Roster(questions.sets.count, generation, only), journal, max_usd)
        record = journal.get(key)
    assert record is not None, "asking raises where there is no answer"
    gate = QualityGate(config.quality, questions.sets.graph, questions.demonstrated)
    set_ = question.triplet_set
    verdict = gate.check(record.text.strip(), set_.triplets, record.finish_reason, topic=set_.topic)
    return Trial(record, verdict, stored)


@contextmanager
def _journal(texts: Path, max_usd: float) -> Iterator[tuple[Journal, bool, float]]:
    """The run's journal and budget; where another process has it, one for the moment, and what is left to spend."""
    try:
        journal = Journal(texts / "journal")
    except BusyError:
        left = max(0.0, max_usd - read_journal(texts / "journal").spent_usd)
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
            yield journal, False, left
        return
    with journal:
        yield journal, True, max_usd


def _ask(questions: Questions, roster: Roster, journal: Journal, max_usd: float) -> None:
    """Ask for the one pending set; events and failures of a trial are not those of the run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Asking(questions, roster, journal, folder=folder, max_usd=max_usd, progress=no_progress) as asking:
            asking.run()
        if asking.failed:
            reason = json.loads((folder / "failures.jsonl").read_text(encoding="utf-8").splitlines()[0])["reason"]
            raise IncompleteError(f"The endpoint wrote no text: {reason}")
