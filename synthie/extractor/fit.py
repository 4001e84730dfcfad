"""The training loop: examples in, a transformers folder with its world out.

Loaded only when training really runs, for it imports torch, transformers and accelerate. Whatever an interrupted
run needs (tokenizer, examples, checkpoints, best weights) lies in a work folder and is moved into place by a
rename, so a run that is killed at any moment continues from its last checkpoint, with the same results as one
that was not. What depends on the kind of model is in `seq2seq`.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from numpy.typing import NDArray
from transformers import AutoTokenizer, set_seed

from kg.stage import Progress, no_progress
from synthie.config import ExtractorConfig
from synthie.errors import ConfigError
from synthie.extractor.checkpoints import best_weights, fresh, keep_weights, resume, save_checkpoint
from synthie.extractor.curve import Curve, Trained, Validated, write_report
from synthie.extractor.examples import BatchPlan, Examples
from synthie.extractor.optimizer import make_optimizer, set_learning_rate
from synthie.extractor.prepare import architecture, prepare
from synthie.extractor.presets import Preset
from synthie.extractor.runtime import pick_device, prepare_runtime
from synthie.extractor.seq2seq import Seq2Seq, load_base, make_model
from synthie.extractor.tracking import choose_trackers, start_trackers
from synthie.extractor.validation import Validator
from synthie.extractor.world import World

__all__ = ["fit", "learning_rate", "train_network"]

log = logging.getLogger(__name__)

_CURVE_POINTS = 100  # training losses kept


def fit(
    settings: Preset,
    config: ExtractorConfig,
    *,
    graph: Path,
    dataset: Path,
    folder: Path,
    work: Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train, and fill ``folder``: the best weights in it, the last in ``last/``.

    Args:
        settings: what is trained.
        config: how it runs here: device, trackers, compilation, memory.
        work: folder for what an interrupted run needs; the caller deletes it when the stage is done.
        graph, dataset, folder, seed, progress: as for `train_extractor`.

    Returns:
        counts for the manifest.

    Raises:
        ConfigError: the configuration asks for what is not there, or the loss is no longer a number.
    """
    prepare_runtime()
    trackers = choose_trackers(config.trackers)
    accelerator = _accelerator(settings, config, trackers, logs=folder / "logs")
    # First what may fail: a base model that cannot be loaded should not cost the time to tokenise the data.
    base = load_base(settings) if settings.base_model else None
    prepared = work / "prepared"
    if accelerator.is_main_process and not prepared.exists():
        temporary = fresh(work / "prepared.tmp")
        prepare(settings, graph, dataset, temporary, seed=seed)
        temporary.rename(prepared)
    accelerator.wait_for_everyone()
    counts = json.loads((prepared / "counts.json").read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(prepared, local_files_only=True)
    set_seed(seed)
    network = Seq2Seq(base or make_model(architecture(settings), tokenizer), tokenizer, settings, accelerator.device)
    if config.gradient_checkpointing:
        network.recompute_activations()
    set_seed(seed + accelerator.process_index)  # from here on, each process has a dropout of its own
    train, validation = (Examples.open(prepared / split) for split in ("train", "validation"))
    world = World.open(prepared)
    start_trackers(accelerator, settings, config.trackers)
    curve = train_network(
        settings,
        network,
        train,
        Validator(settings, network, validation, world, accelerator),
        work=work,
        accelerator=accelerator,
        compiled=config.compile,
        seed=seed,
        progress=progress if accelerator.is_main_process else no_progress,
    )
    for tracker in accelerator.trackers:
        tracker.finish()
    best = curve.best(settings.best_by)
    sequences = _batches_per_step(settings, accelerator.num_processes) * settings.batch_size
    counts |= {
        "parameters": sum(parameter.numel() for parameter in network.model.parameters()),
        "steps": curve.step,
        "sequences_per_step": sequences,
        "epochs": round(curve.step * sequences / len(train), 2),
        "tokens": curve.tokens,
        "best_step": best.step,
    }
    if accelerator.is_main_process:
        shutil.copytree(best_weights(work, best.step), folder, dirs_exist_ok=True)
        network.model.save_pretrained(folder / "last")
        for place in (folder, folder / "last"):
            tokenizer.save_pretrained(place)
        world.save(folder)
        facts = {
            "settings": settings.model_dump(mode="json"),
            "counts": counts,
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "precision": accelerator.mixed_precision.replace("no", "float32"),
            "trackers": trackers,
            "stopped_early": curve.step < settings.steps,
        }
        write_report(folder, curve, settings.best_by, facts)
    return counts


def learning_rate(settings: Preset, step: int) -> float:
    """Learning rate of optimiser step ``step`` (the first is 0): linear warm-up, then linear decay."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps)
    return settings.learning_rate + (settings.final_learning_rate - settings.learning_rate) * share


def _accelerator(settings: Preset, config: ExtractorConfig, trackers: list[str], *, logs: Path) -> Accelerator:
    device = pick_device(config.device)
    has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if settings.precision == "bf16" and not has_bf16:
        raise ConfigError("extractor.precision=bf16 is configured, but this GPU has no bfloat16. Use float32 or auto.")
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda" and has_bf16)
    # accelerate keeps the device and precision of the first accelerator of a process, and refuses any other.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        log_with=trackers or None,
        project_config=ProjectConfiguration(logging_dir=str(logs)),
    )


def train_network(
    settings: Preset,
    network: Seq2Seq,
    train: Examples,
    validator: Validator,
    *,
    work: Path,
    accelerator: Accelerator,
    compiled: bool,
    seed: int,
    progress: Progress,
) -> Curve:
    """Run the steps that are not done yet, leaving the last weights in ``network`` and the best in ``work``.

    Args:
        settings, work, seed, progress: as for `fit`.
        network: the model.
        train: what to train on.
        validator: measures it now and then.
        accelerator: device, precision, processes, trackers.
        compiled: whether to train with torch.compile.
    """
    optimizer = make_optimizer(settings.optimizer, network.model, settings.weight_decay)
    model, optimizer = accelerator.prepare(network.model, optimizer)
    forward = _compile(model, accelerator.device) if compiled else model
    curve = resume(work, accelerator)
    clock = time.perf_counter() - curve.seconds
    log_every = max(1, settings.steps // _CURVE_POINTS)
    loss_sum = torch.zeros((), device=accelerator.device)
    plan = BatchPlan(train, settings.batch_size, seed)
    model.train()
    for batches in _steps(plan, settings, accelerator.num_processes, curve.step):
        if curve.has_stalled(settings.best_by, settings.patience):
            if accelerator.is_main_process:
                log.warning("training ends at step %d: no new best in %d validations", curve.step, settings.patience)
            break
        rate = learning_rate(settings, curve.step)
        set_learning_rate(settings.optimizer, optimizer, rate)
        sizes = [plan.size(rows) for rows in batches]
        targets = sum(size.targets for size in sizes)
        own = batches[accelerator.process_index :: accelerator.num_processes]
        for number, rows in enumerate(own, 1):
            # Only with the last batch do the processes exchange gradients.
            with nullcontext() if number == len(own) else accelerator.no_sync(model):
                loss = network.loss(forward, train.take(rows))
                # All target tokens of the step weigh the same; accelerate averages over processes, hence the factor.
                accelerator.backward(loss * (accelerator.num_processes / targets))
            loss_sum += loss.detach()
        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        curve.step += 1
        curve.targets += targets
        curve.tokens += sum(size.tokens for size in sizes)
        curve.positions += sum(size.positions for size in sizes)
        last = curve.step == settings.steps
        validates = last or curve.step % settings.validate_every == 0
        logs = last or curve.step % log_every == 0
        saves = validates or curve.step % settings.checkpoint_every == 0
        if logs or saves:  # what is summed so far must be in the checkpoint
            curve.loss += float(accelerator.reduce(loss_sum))
            loss_sum.zero_()
            curve.seconds = time.perf_counter() - clock
        if logs:
            entry = Trained(curve.step, round(curve.loss / curve.targets, 5), rate)
            curve.train.append(entry)
            curve.loss, curve.targets = 0.0, 0
            speed = curve.tokens / curve.seconds
            progress(curve.step, settings.steps, "steps", loss=round(entry.loss, 4), tokens_per_second=round(speed))
            figures = {"train/loss": entry.loss, "train/learning_rate": rate, "train/tokens_per_second": speed}
            accelerator.log(figures, step=curve.step)
        if validates:
            measured = _validate(curve.step, validator, forward, accelerator)
            curve.validation.append(measured)
            if curve.best(settings.best_by) is measured:
                keep_weights(work, curve.step, network.model, accelerator)
        if saves:
            curve.seconds = time.perf_counter() - clock
            best_step = curve.best(settings.best_by).step if curve.validation else 0
            save_checkpoint(work, curve, best_step, accelerator)
    return curve


def _batches_per_step(settings: Preset, processes: int) -> int:
    """Batches of all processes together; each has as many as any other."""
    return -(-settings.sequences_per_step // (settings.batch_size * processes)) * processes


def _steps(plan: BatchPlan, settings: Preset, processes: int, first: int) -> Iterator[list[NDArray[np.int64]]]:
    """The rows of each batch of each optimiser step from number ``first`` on, all processes together."""
    batches = _batches_per_step(settings, processes)
    for step in range(first, settings.steps):
        yield [plan[step * batches + number] for number in range(batches)]


def _validate(step: int, validator: Validator, forward: Any, accelerator: Accelerator) -> Validated:
    loss, f1 = validator.loss(forward), validator.f1()
    if not math.isfinite(loss):
        raise ConfigError(
            f"Training has diverged: after step {step:,} the validation loss is {loss}. Lower extractor.learning_rate."
        )
    figures = {"validation/loss": loss} | ({} if f1 is None else {"validation/f1": f1})
    accelerator.log(figures, step=step)
    return Validated(step, round(loss, 5), None if f1 is None else round(f1, 5))


def _compile(model: Any, device: torch.device) -> Any:
    """``model`` compiled for batches of any shape.

    Raises:
        ConfigError: torch.compile does not work here.
    """
    try:
        torch.compile(lambda tensor: tensor + 1)(torch.ones(2, device=device))
    except Exception as error:  # whatever compiler, driver or Python is missing has an exception of its own
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"extractor.compile is set, but torch.compile does not work on this machine's {device.type}: {reason} "
            "Leave extractor.compile out, or install what is missing (a C++ compiler on the CPU)."
        ) from error
    return torch.compile(model, dynamic=True)
