"""The flow "synthie": graph, sets, texts, judgements, data set, extractor, predictions, report.

Each stage is a sub-flow with one long task; what it made is shown as artifacts.
All work happens in the stage functions of `synthie.pipeline`: they recognise
finished work, so a run that died is started again with the same parameters and
goes on where it stopped.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from flows import artifacts
from flows.asking import AskingWatch
from flows.keys import load_secret
from flows.limits import GlobalLimit
from flows.progress import ArtifactProgress, Watch
from flows.runners import TaskMapper, with_absolute_paths
from kg.stage import Manifest
from synthie.config import (
    DatasetConfig,
    EvaluationConfig,
    ExtractorConfig,
    GenerationConfig,
    GraphConfig,
    JudgeConfig,
    PredictionConfig,
    QualityConfig,
    RunConfig,
    RunnerConfig,
    SamplingConfig,
)
from synthie.errors import SynthieError
from synthie.pipeline import STAGES, Run

__all__ = [
    "dataset_flow",
    "extractor_flow",
    "judge_flow",
    "kg_flow",
    "predictions_flow",
    "report_flow",
    "sets_flow",
    "synthie",
    "texts_flow",
]


@flow(name="synthie", flow_run_name="{run}")
def synthie(
    run: str = "data/runs/demo",
    seed: int = 0,
    max_usd: float = 5.0,
    kg: GraphConfig = GraphConfig(),
    sampling: SamplingConfig = SamplingConfig(),
    generation: GenerationConfig = GenerationConfig(),
    quality: QualityConfig = QualityConfig(),
    judge: JudgeConfig = JudgeConfig(),
    dataset: DatasetConfig = DatasetConfig(),
    extractor: ExtractorConfig = ExtractorConfig(),
    prediction: PredictionConfig = PredictionConfig(),
    evaluation: EvaluationConfig = EvaluationConfig(),
    runner: RunnerConfig = RunnerConfig(),
) -> State[Any]:
    """Turn a knowledge graph into a checked data set, a trained extractor and a report.

    Args:
        run: Folder of the run; the same folder and parameters continue an interrupted run.
        seed: Seed of everything random.
        max_usd: Hard limit on what the run may cost, in US dollars, over all its restarts.
        kg: Which part of a Wikidata dump becomes the knowledge graph.
        sampling: How triplet sets are drawn from the graph.
        generation: Which LLM writes the texts, with which prompt, how hard it is driven.
        quality: What a text must fulfil to enter the data set.
        judge: Who reads a sample of the texts a second time, to say what the data are worth.
        dataset: How the accepted samples are published.
        extractor: The model that learns text to triplets, and its training.
        prediction: How the extractor decodes the evaluated split.
        evaluation: What the report computes.
        runner: Where the slices of the dump are read.
    """
    config = RunConfig(
        run=run,
        seed=seed,
        max_usd=max_usd,
        kg=kg,
        sampling=sampling,
        generation=generation,
        quality=quality,
        judge=judge,
        dataset=dataset,
        extractor=extractor,
        prediction=prediction,
        evaluation=evaluation,
        runner=runner,
    )
    manifests = [
        kg_flow(config),
        sets_flow(config),
        texts_flow(config),
        judge_flow(config),
        dataset_flow(config),
        extractor_flow(config),
        predictions_flow(config),
        report_flow(config),
    ]
    if all(manifest.reused for manifest in manifests):
        return Completed(message=f"Nothing to do: {run} is complete. See {run}/report/report.html.")
    done = [stage.name for stage, manifest in zip(STAGES, manifests, strict=True) if not manifest.reused]
    return Completed(message=f"Done: {', '.join(done)}. See {run}/report/report.html.")


@flow(name="kg", flow_run_name="kg of {config.run}")
def kg_flow(config: RunConfig) -> Manifest:
    """Build the knowledge graph from the dump.

    Args:
        config: The run, of which this stage reads 'run', 'kg' and 'runner'.
    """
    manifest = _stage("kg", config)
    artifacts.show_graph(Run(config))
    return manifest


@flow(name="sets", flow_run_name="sets of {config.run}")
def sets_flow(config: RunConfig) -> Manifest:
    """Sample triplet sets that cover the graph."""
    manifest = _stage("sets", config)
    artifacts.show_coverage(Run(config))
    return manifest


@flow(name="texts", flow_run_name="texts of {config.run}")
def texts_flow(config: RunConfig) -> Manifest:
    """Have the LLM write a text for each set and check it."""
    try:
        manifest = _stage("texts", config)
    except SynthieError:
        artifacts.show_cost(Run(config))  # of what there is
        raise
    artifacts.show_cost(Run(config))
    artifacts.show_texts(Run(config))
    return manifest


@flow(name="judge", flow_run_name="judge of {config.run}")
def judge_flow(config: RunConfig) -> Manifest:
    """Have a sample of the texts judged, and estimate what the data are worth."""
    try:
        manifest = _stage("judge", config)
    except SynthieError:
        artifacts.show_cost(Run(config), "judge")  # of what there is
        raise
    artifacts.show_cost(Run(config), "judge")
    artifacts.show_estimates(Run(config))
    return manifest


@flow(name="dataset", flow_run_name="dataset of {config.run}")
def dataset_flow(config: RunConfig) -> Manifest:
    """Publish the accepted texts as a data set with its card."""
    manifest = _stage("dataset", config)
    artifacts.show_card(Run(config))
    return manifest


@flow(name="extractor", flow_run_name="extractor of {config.run}")
def extractor_flow(config: RunConfig) -> Manifest:
    """Train the extractor on the data set."""
    manifest = _stage("extractor", config)
    artifacts.show_training(Run(config))
    return manifest


@flow(name="predictions", flow_run_name="predictions of {config.run}")
def predictions_flow(config: RunConfig) -> Manifest:
    """Extract the triplets of the evaluated split, with and without the constraint."""
    return _stage("predictions", config)


@flow(name="report", flow_run_name="report of {config.run}")
def report_flow(config: RunConfig) -> Manifest:
    """Evaluate the predictions."""
    manifest = _stage("report", config)
    artifacts.show_metrics(Run(config))
    return manifest


def _stage(name: str, config: RunConfig) -> Manifest:
    title = next(stage.title for stage in STAGES if stage.name == name)
    return run_stage.with_options(name=title)(name, config)


@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(name: str, config: RunConfig) -> Manifest:
    """Run one stage of the pipeline; its progress is an artifact of the task run."""
    stage = next(stage for stage in STAGES if stage.name == name)
    mapper: TaskMapper | None = None
    gate: GlobalLimit | None = None
    watches: list[Watch] = []
    with ExitStack() as stack:
        if config.runner.kind != "local":
            mapper = stack.enter_context(TaskMapper(config.runner, config.kg.workers))
            config = with_absolute_paths(config)
        if name == "texts":
            watches.append(AskingWatch(Run(config).texts))
            if config.generation.global_limit:
                gate = stack.enter_context(GlobalLimit(config.generation.global_limit))
        if name == "judge" and "llm" in config.judge.judges:
            watches.append(AskingWatch(Run(config).judge))
            if config.judge.llm.global_limit:
                gate = stack.enter_context(GlobalLimit(config.judge.llm.global_limit))
        progress = stack.enter_context(ArtifactProgress(stage, watches))
        return stage.run(Run(config, mapper, load_secret, gate), progress)
