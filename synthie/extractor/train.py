"""The training stage: data set and graph → extractor.

Writes a transformers folder (the best model and its tokenizer), the last model in ``last/``, ``linearization.json``
and ``world/`` (see `world`), ``training.json`` (settings, curve, speed) and ``training_curve.png``, and what trackers
write in ``logs/``. The loop itself is in `fit`, which is loaded only when something is left to train.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kg.stage import Manifest, Progress, file_digest, no_progress, read_manifest, run_stage
from synthie.config import ExtractorConfig
from synthie.extractor.presets import resolve
from synthie.extractor.runtime import require_libraries

__all__ = ["train_extractor"]

_WORK = ".training"  # hidden, so no part of the stage's outputs


def train_extractor(
    config: ExtractorConfig,
    graph: Path,
    dataset: Path,
    folder: Path,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> Manifest:
    """Train an extractor on the train split; keep the weights that are best on the validation split, and the last.

    A run that was interrupted, even by kill -9, continues from its last checkpoint (in ``.training/`` until the
    stage is done). The random streams (initial weights, dropout, order of the data) follow from ``seed``. Started
    by ``accelerate launch``, the processes share the batches of each step.

    Args:
        config: preset and what departs from it.
        graph: folder of the graph stage; its nodes and relations become the extractor's world.
        dataset: folder of the dataset stage.
        folder: where the extractor goes.
        seed: seed of all random streams.
        progress: told about optimiser steps, with loss and tokens_per_second.

    Raises:
        ConfigError: a library of the extra ``train`` is missing, the base model cannot be loaded or used, the
            configuration asks for what this machine does not have, or the training diverges.
        InputError: graph or data set cannot be used.
    """
    settings = resolve(config)
    inputs = {"graph": read_manifest(graph).output_hash, "dataset": read_manifest(dataset).output_hash}
    if settings.base_model is not None and Path(settings.base_model).is_dir():
        files = sorted(path for path in Path(settings.base_model).iterdir() if path.is_file())
        inputs |= {f"base_model/{path.name}": file_digest(path) for path in files}

    def work(folder: Path) -> dict[str, Any]:
        require_libraries()
        from synthie.extractor.fit import fit

        return fit(
            settings,
            config,
            graph=graph,
            dataset=dataset,
            folder=folder,
            work=folder / _WORK,
            seed=seed,
            progress=progress,
        )

    def stage(work: Callable[[Path], dict[str, Any]]) -> Manifest:
        manifest = run_stage(
            "extractor",
            folder,
            config=config.fingerprinted() | {"settings": settings.model_dump(mode="json")},
            inputs=inputs,
            seed=seed,
            work=work,
        )
        # Only now: had the run been killed before the manifest stood, this would be what it continues from.
        shutil.rmtree(folder / _WORK, ignore_errors=True)
        return manifest

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _with_all_processes(stage, work, folder, config.device)
    return stage(work)


def _with_all_processes(
    stage: Callable[[Callable[[Path], dict[str, Any]]], Manifest],
    work: Callable[[Path], dict[str, Any]],
    folder: Path,
    device: str,
) -> Manifest:
    """Run the stage in the first process of ``accelerate launch``; the others join in if there is work to do."""
    require_libraries()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState(cpu=device == "cpu")
    if not state.is_main_process:
        if broadcast_object_list([None])[0]:
            work(folder)
        state.wait_for_everyone()
        return read_manifest(folder)
    called = False

    def joint_work(folder: Path) -> dict[str, Any]:
        nonlocal called
        called = True
        broadcast_object_list([True])
        return work(folder)

    try:
        manifest = stage(joint_work)
    finally:
        if not called:
            broadcast_object_list([False])
    state.wait_for_everyone()
    return manifest
