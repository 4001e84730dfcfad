"""The training loop: examples in, a transformers folder with its world out.

Loaded only when training really runs, for it imports torch, transformers and accelerate. Whatever an interrupted
run needs (tokenizer, examples, checkpoints, best weights) lies in a work folder and is moved into place by a
rename, so a run that is killed at any moment continues from its last checkpoint, with the same results as one
that was not.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration, set_seed

from kg.stage import Progress, write_atomic
from synthie.extractor.examples import BatchPlan, Examples
from synthie.extractor.optimizer import make_optimizer, set_learning_rate
from synthie.extractor.prepare import architecture, prepare
from synthie.extractor.presets import Preset
from synthie.extractor.runtime import from_pretrained, pick_device, prepare_runtime
from synthie.extractor.world import World

__all__ = ["fit", "learning_rate"]

_NO_TOKEN = -100  # label of padded positions
_CURVE_POINTS = 100  # training losses kept
_VALIDATION_BATCH = 64


@dataclass
class Curve:
    """What a run has measured so far; part of every checkpoint.

    Attributes:
        step: optimiser steps done.
        tokens: source and target tokens seen, padding excluded.
        seconds: time in the training loop, over all restarts, validation and checkpoints included.
        train: (step, loss per target token since the last entry, learning rate).
        validation: (step, loss per target token).
        best_step, best_loss: of the validation.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train: list[tuple[int, float, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = float("inf")


def fit(
    settings: Preset,
    *,
    graph: Path,
    dataset: Path,
    folder: Path,
    work: Path,
    device: str,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train, and fill ``folder``.

    Args:
        work: folder for what an interrupted run needs; the caller deletes it when the stage is done.
        settings, graph, dataset, folder, device, seed, progress: as for `train_extractor`.

    Returns:
        counts for the manifest.
    """
    prepare_runtime()
    chosen = pick_device(device)
    bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    accelerator = Accelerator(cpu=chosen.type == "cpu", mixed_precision="bf16" if bf16 else "no")
    # First what may fail: a base model that cannot be loaded should not cost the time to tokenise the data.
    base = from_pretrained(AutoModelForSeq2SeqLM, settings.base_model) if settings.base_model else None
    prepared = work / "prepared"
    if accelerator.is_main_process and not prepared.exists():
        temporary = _fresh(work / "prepared.tmp")
        prepare(settings, graph, dataset, temporary)
        temporary.rename(prepared)
    accelerator.wait_for_everyone()
    tokenizer = AutoTokenizer.from_pretrained(prepared, local_files_only=True)
    set_seed(seed)
    model = base or _make_model(settings, tokenizer)
    model.generation_config.num_beams = settings.beams
    model.generation_config.length_penalty = settings.length_penalty
    train, validation = (Examples.open(prepared / split) for split in ("train", "validation"))
    curve = _train(settings, model, train, validation, work=work, accelerator=accelerator, seed=seed, progress=progress)
    counts = json.loads((prepared / "counts.json").read_bytes()) | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": curve.step,
        "epochs": round(curve.step * settings.sequences_per_step / len(train), 2),
        "tokens": curve.tokens,
        "best_step": curve.best_step,
    }
    if accelerator.is_main_process:
        shutil.copytree(_best(work, curve), folder, dirs_exist_ok=True)
        tokenizer.save_pretrained(folder)
        World.open(prepared).save(folder)
        _report(folder, settings, curve, counts, str(accelerator.device))
    return counts


def learning_rate(settings: Preset, step: int) -> float:
    """Learning rate of optimiser step ``step`` (the first is 0): linear warm-up, then linear decay."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps)
    return settings.learning_rate + (settings.final_learning_rate - settings.learning_rate) * share


def _make_model(settings: Preset, tokenizer: Any) -> Any:
    """The preset's architecture with random weights."""
    shape = architecture(settings)
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": shape.width,
        "d_kv": shape.width // shape.heads,
        "d_ff": shape.feed_forward,
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "dropout_rate": shape.dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    return T5ForConditionalGeneration(T5Config(**options))


def _train(
    settings: Preset,
    model: Any,
    train: Examples,
    validation: Examples,
    *,
    work: Path,
    accelerator: Accelerator,
    seed: int,
    progress: Progress,
) -> Curve:
    objective = _Objective(model.config, settings.label_smoothing, accelerator.device)
    model, optimizer = accelerator.prepare(model, make_optimizer(settings.optimizer, model, settings.weight_decay))
    curve = _resume(work, accelerator)
    clock = time.perf_counter() - curve.seconds
    log_every = max(1, settings.steps // _CURVE_POINTS)
    loss_sum, loss_targets = torch.zeros((), device=accelerator.device), 0
    model.train()
    for batches in _steps(train, settings, accelerator.num_processes, seed, curve.step):
        rate = learning_rate(settings, curve.step)
        set_learning_rate(settings.optimizer, optimizer, rate)
        targets = sum(int(batch.targets.offsets[-1]) for batch in batches)
        for batch in batches[accelerator.process_index :: accelerator.num_processes]:
            loss = objective(model, batch)
            # All target tokens of the step weigh the same; accelerate averages over processes, hence the factor.
            accelerator.backward(loss * (accelerator.num_processes / targets))
            loss_sum += loss.detach()
        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        curve.step += 1
        curve.tokens += targets + sum(int(batch.sources.offsets[-1]) for batch in batches)
        curve.seconds = time.perf_counter() - clock
        loss_targets += targets
        last = curve.step == settings.steps
        if last or curve.step % log_every == 0:
            mean, speed = float(accelerator.reduce(loss_sum)) / loss_targets, curve.tokens / curve.seconds
            curve.train.append((curve.step, round(mean, 5), rate))
            progress(curve.step, settings.steps, "steps", loss=round(mean, 4), tokens_per_second=round(speed))
            loss_sum.zero_()
            loss_targets = 0
        validates = last or curve.step % settings.validate_every == 0
        if validates:
            loss_now = _validate(model, validation, settings.validation_records, objective, accelerator)
            curve.validation.append((curve.step, round(loss_now, 5)))
            if loss_now < curve.best_loss:
                curve.best_loss, curve.best_step = loss_now, curve.step
                _keep_weights(work, curve, model, accelerator)
        if validates or curve.step % settings.checkpoint_every == 0:
            curve.seconds = time.perf_counter() - clock
            _checkpoint(work, curve, accelerator)
    return curve


def _steps(train: Examples, settings: Preset, processes: int, seed: int, first: int) -> Iterator[list[Examples]]:
    """The batches of each optimiser step from number ``first`` on, all processes together."""
    plan = BatchPlan(train, settings.batch_size, seed)
    batches = -(-settings.sequences_per_step // (settings.batch_size * processes)) * processes
    for step in range(first, settings.steps):
        yield [train.take(plan[step * batches + number]) for number in range(batches)]


class _Objective:
    """Cross-entropy with label smoothing over the whole vocabulary, summed over target tokens."""

    def __init__(self, config: Any, smoothing: float, device: torch.device) -> None:
        self._start, self._pad = config.decoder_start_token_id, config.pad_token_id
        self._smoothing, self._device = smoothing, device

    def __call__(self, model: Any, batch: Examples) -> torch.Tensor:
        rows = np.arange(len(batch))
        source = torch.from_numpy(batch.sources.padded(rows, self._pad)).to(self._device)
        target = torch.from_numpy(batch.targets.padded(rows, _NO_TOKEN)).to(self._device)
        lengths = torch.from_numpy(batch.sources.lengths).to(self._device)
        start = torch.full_like(target[:, :1], self._start)
        written = torch.cat((start, target[:, :-1]), dim=1)
        logits = model(
            input_ids=source,
            attention_mask=(torch.arange(source.shape[1], device=self._device) < lengths[:, None]).long(),
            decoder_input_ids=written.masked_fill(written == _NO_TOKEN, self._pad),
            use_cache=False,
        ).logits
        return cross_entropy(
            logits.flatten(0, 1).float(),
            target.flatten(),
            ignore_index=_NO_TOKEN,
            label_smoothing=self._smoothing,
            reduction="sum",
        )


@torch.no_grad()
def _validate(model: Any, validation: Examples, limit: int, objective: _Objective, accelerator: Accelerator) -> float:
    """Loss per target token of the first ``limit`` examples."""
    model.eval()
    lengths = validation.targets.lengths[:limit]
    order = np.argsort(lengths, kind="stable")
    batches = np.split(order, range(_VALIDATION_BATCH, len(order), _VALIDATION_BATCH))
    total = torch.zeros((), device=accelerator.device)
    for rows in batches[accelerator.process_index :: accelerator.num_processes]:
        total += objective(model, validation.take(rows))
    model.train()
    return float(accelerator.reduce(total)) / int(lengths.sum())


def _best(work: Path, curve: Curve) -> Path:
    return work / "best" / f"{curve.best_step:08d}"


def _keep_weights(work: Path, curve: Curve, model: Any, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        temporary = _fresh(work / "best" / "new")
        accelerator.unwrap_model(model).save_pretrained(temporary)
        _move(temporary, _best(work, curve))


def _checkpoint(work: Path, curve: Curve, accelerator: Accelerator) -> None:
    """Save what `_resume` needs; older checkpoints and weights go once the new ones stand."""
    temporary, final = work / "checkpoints" / "new", work / "checkpoints" / f"{curve.step:08d}"
    if accelerator.is_main_process:
        _fresh(temporary)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (temporary / "curve.json").write_text(json.dumps(asdict(curve)))
        _move(temporary, final)
        for kept in (final, _best(work, curve)):
            for other in set(kept.parent.glob("*")) - {kept}:
                shutil.rmtree(other)


def _resume(work: Path, accelerator: Accelerator) -> Curve:
    """Load the latest checkpoint, if there is one."""
    checkpoints = sorted((work / "checkpoints").glob("[0-9]*"))
    if not checkpoints:
        return Curve()
    accelerator.load_state(str(checkpoints[-1]))
    return Curve(**json.loads((checkpoints[-1] / "curve.json").read_bytes()))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _move(temporary: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)


def _report(folder: Path, settings: Preset, curve: Curve, counts: dict[str, Any], device: str) -> None:
    report = {
        "settings": settings.model_dump(mode="json"),
        "counts": counts,
        "device": device,
        "threads": torch.get_num_threads(),
        "seconds": round(curve.seconds, 1),
        "tokens_per_second": round(curve.tokens / curve.seconds, 1),
        "best_step": curve.best_step,
        "best_validation_loss": round(curve.best_loss, 5),
        "train": [dict(zip(("step", "loss", "learning_rate"), entry, strict=True)) for entry in curve.train],
        "validation": [dict(zip(("step", "loss"), entry, strict=True)) for entry in curve.validation],
    }
    write_atomic(folder / "training.json", json.dumps(report, indent=2) + "\n")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([step for step, _, _ in curve.train], [loss for _, loss, _ in curve.train], label="train")
    axes.plot(*zip(*curve.validation, strict=True), marker="o", label="validation")
    axes.axvline(curve.best_step, linestyle=":", color="grey", label=f"kept: step {curve.best_step:,}")
    axes.set(xlabel="optimiser steps", ylabel="loss per target token", yscale="log", title="Extractor training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / "training_curve.png", dpi=120)
