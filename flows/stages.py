"""The stages as flows, each with one long task; what a stage made is shown as artifacts, told as an event and an asset.

All work happens in the stage functions of `synthie.pipeline`: they recognise finished work, so a run that died is
started again with the same parameters and goes on where it stopped.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import Flow, Task, flow, task
from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import artifacts
from flows.allowance import day_allowance
from flows.approval import approve_texts
from flows.asking import AskingWatch
from flows.events import ErrorRate, tell
from flows.keys import load_secret
from flows.limits import GlobalLimit
from flows.progress import ArtifactProgress, Watch
from flows.runners import TaskMapper, with_absolute_paths
from kg.stage import Manifest
from synthie.config import RunConfig
from synthie.errors import BudgetError, EndpointError, SynthieError
from synthie.pipeline import STAGES, Run, Stage

__all__ = [
    "STAGE_FLOWS",
    "dataset_flow",
    "extractor_flow",
    "judge_flow",
    "kg_flow",
    "predictions_flow",
    "report_flow",
    "sets_flow",
    "texts_flow",
]

_STAGES = {stage.name: stage for stage in STAGES}
_NOT_IN_ASSET_KEYS = re.compile(r"[^\w./-]")


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
    """Sample triplet sets that cover the graph.

    Args:
        config: The run, of which this stage reads 'run', 'seed', 'sampling' and 'runner'.
    """
    manifest = _stage("sets", config)
    artifacts.show_coverage(Run(config))
    return manifest


@flow(name="texts", flow_run_name="texts of {config.run}")
def texts_flow(config: RunConfig, approve_above_usd: float | None = None) -> Manifest:
    """Have the LLM write a text for each set and check it.

    Args:
        config: The run, of which this stage reads 'run', 'seed', 'max_usd', 'generation' and 'quality'.
        approve_above_usd: If the texts may cost more US dollars than this, the run waits for a person's approval.
            Empty: never.
    """
    config = approve_texts(config, approve_above_usd)
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
    """Have a sample of the texts judged, and estimate what the data are worth.

    Args:
        config: The run, of which this stage reads 'run', 'seed', 'max_usd' and 'judge'.
    """
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
    """Publish the accepted texts as a data set with its card.

    Args:
        config: The run, of which this stage reads 'run', 'seed', 'dataset' and 'judge.judges'.
    """
    manifest = _stage("dataset", config)
    artifacts.show_card(Run(config))
    return manifest


@flow(name="extractor", flow_run_name="extractor of {config.run}")
def extractor_flow(config: RunConfig) -> Manifest:
    """Train the extractor on the data set.

    Args:
        config: The run, of which this stage reads 'run', 'seed' and 'extractor'.
    """
    manifest = _stage("extractor", config)
    artifacts.show_training(Run(config))
    return manifest


@flow(name="predictions", flow_run_name="predictions of {config.run}")
def predictions_flow(config: RunConfig) -> Manifest:
    """Extract the triplets of the evaluated split, with and without the constraint.

    Args:
        config: The run, of which this stage reads 'run' and 'prediction'.
    """
    return _stage("predictions", config)


@flow(name="report", flow_run_name="report of {config.run}")
def report_flow(config: RunConfig) -> Manifest:
    """Evaluate the predictions.

    Args:
        config: The run, of which this stage reads 'run', 'seed' and 'evaluation'.
    """
    manifest = _stage("report", config)
    artifacts.show_metrics(Run(config))
    return manifest


STAGE_FLOWS: dict[str, Flow[..., Manifest]] = {
    "kg": kg_flow,
    "sets": sets_flow,
    "texts": texts_flow,
    "judge": judge_flow,
    "dataset": dataset_flow,
    "extractor": extractor_flow,
    "predictions": predictions_flow,
    "report": report_flow,
}


def _stage(name: str, config: RunConfig) -> Manifest:
    stage = _STAGES[name]
    manifest = run_stage.with_options(name=stage.title, tags={name})(name, config)
    if not manifest.reused:
        _register(stage, Run(config).folder, manifest)
        tell(f"{name}.done", Run(config).folder, seconds=manifest.seconds, counts=manifest.counts)
    return manifest


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """An endpoint that is away may come back; a wrong key, a missing model, an empty account or budget does not."""
    return type(state.result(raise_on_failure=False)) is EndpointError


@task(
    retries=2, retry_delay_seconds=[60, 300], retry_condition_fn=_may_pass, cache_policy=NO_CACHE, persist_result=False
)
def run_stage(name: str, config: RunConfig) -> Manifest:
    """Run one stage of the pipeline; its progress is an artifact of the task run."""
    stage = _STAGES[name]
    mapper: TaskMapper | None = None
    gate: GlobalLimit | None = None
    watches: list[Watch] = []
    asks = {"texts": config.generation} | ({"judge": config.judge.llm} if "llm" in config.judge.judges else {})
    with ExitStack() as stack:
        if config.runner.kind != "local":
            mapper = stack.enter_context(TaskMapper(config.runner, config.kg.workers))
            config = with_absolute_paths(config)
        if name in asks:
            folder = Run(config).folder / name
            watches += AskingWatch(folder), ErrorRate(folder)
            config = stack.enter_context(day_allowance(config))
            if limit := asks[name].global_limit:
                gate = stack.enter_context(GlobalLimit(limit))
        progress = stack.enter_context(ArtifactProgress(stage, watches))
        try:
            return stage.run(Run(config, mapper, load_secret, gate), progress)
        except BudgetError:
            tell(f"{name}.budget", Run(config).folder, share=1.0, max_usd=config.max_usd)
            raise


def _register(stage: Stage, run: Path, manifest: Manifest) -> None:
    """Note the stage's folder as an asset made from those that it read."""
    asset = _asset(run, stage.name)

    @materialize(
        asset,
        name=f"register {stage.name}",
        asset_deps=[_asset(run, name) for name in stage.reads],
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def register() -> None:
        add_asset_metadata(asset, {"counts": manifest.counts, "fingerprint": manifest.fingerprint})

    register()


def _asset(run: Path, stage: str) -> Asset:
    folder = (run / stage).absolute()
    return Asset(
        key=f"file://{_NOT_IN_ASSET_KEYS.sub('_', str(folder))}",
        properties=AssetProperties(name=f"{run.name}/{stage}", description=str(folder)),
    )
