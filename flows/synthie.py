"""The flow "synthie": graph, sets, texts, judgements, data set, extractor, predictions, report.

The stages are sub-flows (`flows.stages`).
"""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.states import Completed, State

from flows.stages import STAGE_FLOWS, texts_flow
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
from synthie.series import next_run

__all__ = ["synthie"]

StageName = Literal["kg", "sets", "texts", "judge", "dataset", "extractor", "predictions", "report"]


@flow(name="synthie", flow_run_name="{run}: {sampling.n_sets:,} sets, to the {until}")
def synthie(
    run: str = "data/runs/demo",
    seed: int = 0,
    max_usd: float = 5.0,
    approve_above_usd: float | None = None,
    until: StageName = "report",
    series: bool = False,
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
        approve_above_usd: If the texts may cost more US dollars than this, the run waits for a person's approval,
            with the estimate in the form. Empty: never.
        until: The last stage to do.
        series: The folder holds a series of runs, 0001, 0002 and so on. The last one is done to its end, or another
            one made that goes on with its coverage and data set.
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
    if series:
        config = next_run(config, until)
    done = []
    for name, stage_flow in STAGE_FLOWS.items():
        manifest = texts_flow(config, approve_above_usd) if name == "texts" else stage_flow(config)
        if not manifest.reused:
            done.append(name)
        if name == until:
            break
    see = f"See {config.run}/report/report.html." if until == "report" else f"See {config.run}/{until}."
    if not done:
        return Completed(message=f"Nothing to do: {config.run} is complete. {see}")
    return Completed(message=f"Done: {', '.join(done)}. {see}")
