"""Writes the answers to a job's questions straight into the journal, as `endpoint.py` would have given them.

    python answered.py JOB.json

With them, `with_synthie.py` has a million texts to pass over and to check without a server that takes as long.
"""

from __future__ import annotations

from pathlib import Path

from client import read_job
from config import generation

from synthie.llm.journal import Journal, Record
from synthie.llm.prompts import load_prompt
from synthie.texts.questions import FIRST_TRY, Questions, TripletSet, TripletSets

TOKENS = (200, 40)  # input and output of every answer
READ_ROWS = 1_000


def text(triplet_set: TripletSet) -> str:
    return " ".join(
        f"The {triplet.predicate.surfaceform} of {triplet.subject.surfaceform.replace('_', ' ')} is "
        f"{triplet.object.surfaceform.replace('_', ' ')}."
        for triplet in triplet_set.triplets
    )


job = read_job()
settings, sets = generation(job), Path(job.options["sets"])
questions = Questions(settings, load_prompt(settings.prompt), TripletSets(sets.parent / "kg", sets), seed=0)
with Journal(Path(job.folder) / "journal") as journal:
    for batch in questions.sets.batches(READ_ROWS):
        for _, triplet_set in batch:
            key = questions.find(questions.request(triplet_set).body, FIRST_TRY, journal)
            answer = text(triplet_set)
            journal.append(
                Record(
                    key=key,
                    cost=sum(TOKENS),
                    text=answer,
                    finish_reason="stop",
                    model=job.model,
                    input_tokens=TOKENS[0],
                    output_tokens=TOKENS[1],
                    latency_s=0.02,
                )
            )
