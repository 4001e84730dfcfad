"""The texts stage: triplet sets → an LLM's texts, each checked, none paid for twice.

It goes in waves of two phases. *Asking* (`synthie.texts.asking`): every pending set becomes
a request body; those whose answer the journal lacks are sent, and each answer is in the
journal before anything else happens. *Checking* (`synthie.texts.compiling`): the journal's
answers pass the quality gate. What is rejected may be asked for again, and sets held in
reserve may be called up (`synthie.texts.roster`), which makes the next wave; usually there is
one. At the end the texts become Parquet files.

An answer's key is a hash of the endpoint and the exact request body: prompt, model or
parameters changed means a new question, anything else does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kg.memory import system_memory
from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage
from synthie.config import GenerationConfig, QualityConfig
from synthie.errors import IncompleteError, storage_error
from synthie.llm.endpoint import Secrets
from synthie.llm.journal import Journal
from synthie.llm.limits import Gate
from synthie.llm.prompts import load_prompt
from synthie.quality import QualityGate
from synthie.texts.asking import Asking
from synthie.texts.bill import Bill
from synthie.texts.columns import give_back
from synthie.texts.compiling import Compiled, Compiler
from synthie.texts.complaints import Complaints
from synthie.texts.estimate import Estimate, check_model, estimate, sampled
from synthie.texts.failures import any_failures
from synthie.texts.questions import Questions, TripletSets, count_negatives, endpoint_identity, models_of
from synthie.texts.roster import Roster

__all__ = ["ask_pilot", "generate_texts"]

_KEPT = ("batches", "cost.json", "events.jsonl", "failures.jsonl", "hand_verdicts.jsonl", "journal", "progress.json")


def generate_texts(
    config: GenerationConfig,
    quality: QualityConfig,
    graph: Path,
    sets: Path,
    folder: Path,
    *,
    seed: int,
    max_usd: float,
    progress: Progress = no_progress,
    secrets: Secrets | None = None,
    gate: Gate | None = None,
) -> Manifest:
    """Turn the triplet sets into checked texts.

    Leaves ``samples/part-*.parquet`` and ``rejected/part-*.parquet`` (`SAMPLE_SCHEMA`), ``failures.jsonl``,
    ``cost.json``, ``events.jsonl`` and the journal in ``folder``.

    Args:
        config: which model, which prompt, how hard to drive it.
        quality: what a text must fulfil.
        graph, sets: folders of the earlier stages.
        folder: where the texts go.
        seed: sent along as the request's seed; a new seed asks for new texts.
        max_usd: what all runs in ``folder`` together may cost, in US dollars.
        progress: told the texts at hand, of all, and the cost so far.
        secrets: looks up ``config.api_key_block``; None where there are no blocks.
        gate: awaited before requests are sent, with their number; holds several machines to a common limit.

    Raises:
        BudgetError: the next call could exceed ``max_usd``.
        ConfigError: the prompt, price, URL or a header is unusable.
        EndpointError: the endpoint cannot be used (see its subclasses).
        IncompleteError: more than ``max_failed_share`` of the texts are missing, or the time is over.
        StorageError: the disk is full.
    """
    check_model(config)
    prompt = load_prompt(config.prompt)

    @system_memory()
    def work(folder: Path) -> dict[str, Any]:
        triplet_sets = TripletSets(graph, sets)
        questions = Questions(config, prompt, triplet_sets, seed=seed)
        with _opened(questions, folder, max_usd, progress, secrets, gate) as (roster, journal, asking, bill):
            gatekeeper = QualityGate(quality, triplet_sets.graph, questions.demonstrated, learns=quality.check_entities)
            compiler = Compiler(folder, questions, roster, journal, gatekeeper, progress)
            questions.complain = Complaints(journal, gatekeeper, compiler.late_faults)
            while True:
                asking.run()
                compiler.check()
                if not roster.advance():
                    give_back()
                    compiler.check_repeats()
                    compiler.check_relations()
                    if not roster.advance():
                        break
            compiled = compiler.write()
            bill.write(asking, compiled, triplet_sets.graph)
        _check_missing(config, roster, folder / "failures.jsonl")
        return _counts(triplet_sets.count, compiled) | {"failed": roster.failed}

    return run_stage(
        "texts",
        folder,
        config={"generation": _settings(config), "quality": quality.fingerprinted()},
        inputs={
            "graph": read_manifest(graph).output_hash,
            "sets": read_manifest(sets).output_hash,
            "prompt": prompt.hash,
            **({"negatives": prompt.negatives_hash} if count_negatives(sets) else {}),
            "endpoint": endpoint_identity(config),
        },
        seed=seed,
        work=work,
        keep=_KEPT,
        redo=config.retry_failed and any_failures(folder / "failures.jsonl"),
    )


def ask_pilot(
    config: GenerationConfig,
    graph: Path,
    sets: Path,
    folder: Path,
    *,
    texts: int,
    seed: int,
    max_usd: float,
    progress: Progress = no_progress,
    secrets: Secrets | None = None,
    gate: Gate | None = None,
) -> Estimate:
    """Ask for ``texts`` of the texts (at most 1,000), evenly spaced, and estimate the cost of all from their answers.

    The answers are in the journal of ``folder``, so that `generate_texts` does not ask for them again. They come at
    once, also where ``config`` says batch mode. Arguments and errors are those of `generate_texts`.
    """
    check_model(config)
    prompt, triplet_sets = load_prompt(config.prompt), TripletSets(graph, sets)
    questions = Questions(config, prompt, triplet_sets, seed=seed)
    live = Questions(config.model_copy(update={"mode": "live"}), prompt, triplet_sets, seed=seed)
    only = sampled(config, triplet_sets.count, texts)
    try:
        with _opened(live, folder, max_usd, progress, secrets, gate, only) as (_, journal, asking, _):
            asking.run()
            return estimate(questions, journal)
    except OSError as error:
        mended = storage_error(error, folder)
        if mended is None:
            raise
        raise mended from error


@contextmanager
def _opened(
    questions: Questions,
    folder: Path,
    max_usd: float,
    progress: Progress,
    secrets: Secrets | None,
    gate: Gate | None,
    only: np.ndarray | None = None,
) -> Iterator[tuple[Roster, Journal, Asking, Bill]]:
    """What asking needs, the journal locked; whatever happens, the bill is written."""
    with Journal(folder / "journal") as journal:
        roster = Roster(questions.sets.count, questions.config, only, folder)
        bill = Bill(folder / "cost.json", estimate(questions, journal), journal, max_usd)
        give_back()
        with Asking(
            questions, roster, journal, folder=folder, max_usd=max_usd, progress=progress, secrets=secrets, gate=gate
        ) as asking:
            try:
                yield roster, journal, asking, bill
            except BaseException:
                bill.write(asking)
                raise


def _check_missing(config: GenerationConfig, roster: Roster, failures: Path) -> None:
    """Raise `IncompleteError` if too many texts are missing."""
    wanted = config.n_texts or roster.wanted
    if roster.missing <= config.max_failed_share * wanted:
        return
    if config.n_texts is None:
        raise IncompleteError(
            f"{roster.failed} of {wanted} texts could not be had; the reasons are in {failures}. All others are "
            "stored. Run again to ask for the missing ones only (those that the endpoint refused for good, with "
            "generation.retry_failed or --retry-failed), or set generation.max_failed_share to go on without them."
        )
    raise IncompleteError(
        f"{wanted - roster.missing} of {wanted} texts (generation.n_texts) are accepted, and no set is left to ask "
        f"for: {roster.failed} failed (see {failures}), {roster.rejected} were rejected (see "
        f"{failures.parent / 'rejected'}). "
        "Draw more sets (sampling.n_sets), allow more texts a set (generation.tries), or set "
        "generation.max_failed_share to go on with fewer. What is stored is not asked for again."
    )


def _settings(config: GenerationConfig) -> dict[str, Any]:
    """What decides about the texts."""
    settings = config.fingerprinted() | {"local": config.local.fingerprinted() if config.is_built_in else None}
    if config.endpoints:
        shares = models_of(config)
        settings["models"] = shares if len(shares) > 1 else list(shares)
    return settings


def _counts(sets: int, compiled: Compiled) -> dict[str, Any]:
    counts = asdict(compiled)
    del counts["relations"]  # hundreds of them; they are in cost.json
    return {"sets": sets, **counts}
