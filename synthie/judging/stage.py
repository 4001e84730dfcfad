"""The judge stage: a sample of the texts is read again by judges, whose verdicts are kept and counted.

The judges (`synthie.judging.config`) say of each triplet whether its text states it, and what the text states
beyond the set. `synthie.judging.estimates` makes of that what the whole data set is likely to be worth. Without
judges the stage has nothing to do and leaves an empty folder with a manifest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage, write_atomic
from synthie.errors import InputError
from synthie.judging.config import JudgeConfig
from synthie.judging.estimates import estimate_quality
from synthie.judging.judgements import ESTIMATES_FILE, read_judgements
from synthie.judging.llm import LlmJudge, check_judge, in_words_of_the_judge
from synthie.judging.local import judge_by_entailment, judge_by_extractor
from synthie.judging.prompt import JudgePrompt, load_judge_prompt
from synthie.judging.sampled import SampledTexts
from synthie.judging.tables import estimates_page
from synthie.llm.endpoint import Secrets
from synthie.llm.limits import Gate
from synthie.texts.failures import any_failures
from synthie.texts.questions import endpoint_identity, models_of

__all__ = ["judge_texts"]

_KEPT = ("batches", "cost.json", "events.jsonl", "failures.jsonl", "journal", "progress.json")


def judge_texts(
    config: JudgeConfig,
    graph: Path,
    texts: Path,
    folder: Path,
    *,
    seed: int,
    max_usd: float,
    progress: Progress = no_progress,
    secrets: Secrets | None = None,
    gate: Gate | None = None,
) -> Manifest:
    """Have a sample of the texts judged.

    Leaves ``judgements/<judge>-*.parquet`` (`JUDGEMENT_SCHEMA`), ``estimates.json``, ``estimates.md`` and, for the LLM
    judge, the journal with ``cost.json``, ``events.jsonl`` and ``failures.jsonl`` in ``folder``; nothing but the
    manifest where there are no judges.

    Args:
        config: who judges what.
        graph, texts: folders of the earlier stages.
        folder: where the judgements go.
        seed: of the run; decides about the sample.
        max_usd: what all judging in ``folder`` together may cost, in US dollars.
        progress: told the texts judged.
        secrets, gate: see `synthie.generate.generate_texts`.

    Raises:
        BudgetError: the next call could exceed ``max_usd``.
        ConfigError: prompt, price, URL or a header is unusable, or a local model cannot be loaded.
        EndpointError: the endpoint cannot be used (see its subclasses).
        IncompleteError: too many texts have no answer.
        InputError: there are no texts or no extractor.
        StorageError: the disk is full.
    """
    prompt = load_judge_prompt(config.llm.prompt)

    def work(folder: Path) -> dict[str, Any]:
        if not config.judges:
            return {}
        sizes = {"accepted": config.n_samples or None, "rejected": config.n_rejected}
        sampled = SampledTexts(graph, texts, sizes, seed=seed)
        if not sampled.count:
            raise InputError(f"{texts} holds no text to judge. Generate texts first, or raise judge.n_rejected.")
        for name in config.judges:
            if name == "llm":
                check_judge(config.llm, sampled)
                llm = LlmJudge(config.llm, prompt, sampled, folder, seed=seed, max_usd=max_usd)
                llm.judge(progress, secrets, gate)
            elif name == "extractor":
                judge_by_extractor(config, sampled, folder, progress)
            else:
                judge_by_entailment(config, sampled, folder, progress)
        estimates = estimate_quality(config, read_judgements(folder), sampled.available)
        write_atomic(folder / ESTIMATES_FILE, json.dumps(estimates, indent=2, ensure_ascii=False) + "\n")
        write_atomic(folder / "estimates.md", estimates_page(estimates))
        return _counts(estimates)

    with in_words_of_the_judge():
        return run_stage(
            "judge",
            folder,
            config=_settings(config),
            inputs=_inputs(config, prompt, graph, texts),
            seed=seed if config.judges else None,
            work=work,
            keep=_KEPT,
            redo="llm" in config.judges and config.llm.retry_failed and any_failures(folder / "failures.jsonl"),
        )


def _settings(config: JudgeConfig) -> dict[str, Any]:
    """What decides about the judgements and the estimates: the settings of the judges that are asked."""
    if not config.judges:
        return {"judges": []}
    settings = config.fingerprinted()
    settings["deciding"] = config.deciding or config.judges[:1]
    del settings["llm"]
    if "llm" in config.judges:
        model = config.llm
        settings["llm"] = model.fingerprinted() | {"local": model.local.fingerprinted() if model.is_built_in else None}
        if model.endpoints:
            settings["llm"]["models"] = models_of(model)
    return settings


def _inputs(config: JudgeConfig, prompt: JudgePrompt, graph: Path, texts: Path) -> dict[str, str]:
    if not config.judges:
        return {}
    told = read_manifest(texts)
    inputs = {"graph": read_manifest(graph).output_hash, "texts": told.output_hash}
    if told.inputs["graph"] != inputs["graph"]:
        raise InputError(
            f"The texts in {texts} tell of another graph than the one in {graph}. Run the stages between them again: "
            "texts that are paid for are not asked for again where their sets stay the same."
        )
    if "llm" in config.judges:
        inputs |= {"prompt": prompt.hash, "endpoint": endpoint_identity(config.llm)}
    if "extractor" in config.judges and config.extractor:
        inputs["extractor"] = read_manifest(Path(config.extractor)).output_hash
    return inputs


def _counts(estimates: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{name}_{what}": sum(group[what] for group in judge["gates"].values())
        for name, judge in estimates["judges"].items()
        for what in ("judged", "unjudged")
    }
