"""Training speed beside transformers' Seq2SeqTrainer: same model, data, batches and learning rate.

Both start from the same random weights and run so many optimiser steps with AdamW, a linearly falling rate, no label
smoothing. The Trainer keeps its defaults: batches drawn at random and padded to their longest. Ours are of similar
length, which is where most of the difference comes from. Counted are source and target tokens without padding, and on
a CPU the processor time of the loop (other programs disturb it little), on a GPU the time by the clock; tokenising,
the first steps and validation are left out. The two take turns, each with several orders of the data; the losses are
compared with the spread between these.

    python benchmarks/training.py [--run data/runs/demo] [--steps 40] [--orders 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    set_seed,
)

from synthie.extractor.examples import BatchPlan, Examples
from synthie.extractor.fit import train_network
from synthie.extractor.prepare import architecture, prepare
from synthie.extractor.presets import PRESETS, Preset
from synthie.extractor.runtime import pick_device, prepare_runtime
from synthie.extractor.seq2seq import Seq2Seq, make_model
from synthie.extractor.validation import Validator
from synthie.extractor.world import World

_PARTS = 4  # of the run whose losses are compared


@dataclass
class Race:
    """One training.

    Attributes:
        speed: tokens a second.
        padding: share of the positions.
        losses: training loss per target token in each part of the run.
        validation: loss after the last step.
    """

    speed: float
    padding: float
    losses: list[float]
    validation: float


@dataclass(frozen=True)
class Course:
    """What both trainings share."""

    settings: Preset
    folder: Path
    start: Path
    device: torch.device
    examples: Examples
    tokenizer: Any

    @property
    def part(self) -> int:
        """Steps of a part."""
        return self.settings.steps // _PARTS

    def model(self) -> Any:
        return AutoModelForSeq2SeqLM.from_pretrained(self.start, local_files_only=True)

    def clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def accelerator(self) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=self.device.type == "cpu", mixed_precision="bf16" if self.bf16 else "no")

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    def validation(self, network: Seq2Seq, accelerator: Accelerator) -> Validator:
        examples, world = Examples.open(self.folder / "validation"), World.open(self.folder)
        return Validator(self.settings, network, examples, world, accelerator)


def ours(course: Course, seed: int) -> Race:
    """The loop of the extractor stage."""
    settings, accelerator = course.settings, course.accelerator()
    set_seed(seed)
    network = Seq2Seq(course.model(), course.tokenizer, settings, accelerator.device)
    marks: dict[int, float] = {}
    losses: dict[int, float] = {}

    def progress(done: int, total: int | None, unit: str, **details: Any) -> None:
        marks[done], losses[done] = course.clock(), details["loss"]

    with tempfile.TemporaryDirectory() as work:
        curve = train_network(
            settings,
            network,
            course.examples,
            course.validation(network, accelerator),
            work=Path(work),
            accelerator=accelerator,
            compiled=False,
            seed=seed,
            progress=progress,
        )
    plan, batches = BatchPlan(course.examples, settings.batch_size, seed), _batches(settings)
    sizes = [plan.size(plan[number]) for number in range(settings.steps * batches)]
    per_step = [sum(size.tokens for size in sizes[at : at + batches]) for at in range(0, len(sizes), batches)]
    targets = [sum(size.targets for size in sizes[at : at + batches]) for at in range(0, len(sizes), batches)]
    steps = sorted(marks)
    first, last = steps[0], steps[-1]
    before = dict(zip(steps, [0, *steps], strict=False))
    weights = {step: sum(targets[before[step] : step]) for step in steps}
    return Race(
        speed=sum(per_step[first:last]) / (marks[last] - marks[first]),
        padding=curve.padding,
        losses=_by_part(course, losses, weights),
        validation=curve.validation[-1].loss,
    )


def theirs(course: Course, seed: int) -> Race:
    """transformers' Seq2SeqTrainer with its defaults."""
    settings, model = course.settings, course.model()
    seen: list[tuple[int, int]] = []
    marks: dict[int, float] = {}
    collate = DataCollatorForSeq2Seq(course.tokenizer, model=model)

    def counted(rows: list[dict[str, list[int]]]) -> Any:
        batch = collate(rows)
        tokens = sum(len(row["input_ids"]) + len(row["labels"]) for row in rows)
        seen.append((tokens, batch["input_ids"].numel() + batch["labels"].numel()))
        return batch

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step in (log_every, settings.steps):
                marks[state.global_step] = course.clock()

    examples = [
        {"input_ids": course.examples.sources[row].tolist(), "labels": course.examples.targets[row].tolist()}
        for row in range(len(course.examples))
    ]
    log_every = max(1, settings.steps // 100)
    AcceleratorState._reset_state(reset_partial_state=True)
    with tempfile.TemporaryDirectory() as work:
        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=work,
                max_steps=settings.steps,
                per_device_train_batch_size=settings.batch_size,
                gradient_accumulation_steps=_batches(settings),
                learning_rate=settings.learning_rate,
                seed=seed,
                bf16=course.bf16,
                use_cpu=course.device.type == "cpu",
                logging_steps=log_every,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=examples,
            data_collator=counted,
            callbacks=[Marks()],
        )
        trainer.pop_callback(_printer(trainer))
        trainer.train()
    tokens = [sum(size for size, _ in batches) for batches in _in_steps(seen, settings)]
    # T5 takes the number of tokens of the step but makes no use of it, so the Trainer adds up the batches' means.
    batches = _batches(settings)
    losses = {entry["step"]: entry["loss"] / batches for entry in trainer.state.log_history if "loss" in entry}
    accelerator = course.accelerator()
    network = Seq2Seq(model, course.tokenizer, settings, accelerator.device)
    return Race(
        speed=sum(tokens[log_every : settings.steps]) / (marks[settings.steps] - marks[log_every]),
        padding=1 - sum(size for size, _ in seen) / sum(size for _, size in seen),
        losses=_by_part(course, losses, dict.fromkeys(losses, 1)),
        validation=course.validation(network, accelerator).loss(model),
    )


def _printer(trainer: Seq2SeqTrainer) -> type:
    """The callback that prints each loss, of which there are too many."""
    return next(type(one) for one in trainer.callback_handler.callbacks if type(one).__name__ == "PrinterCallback")


def _batches(settings: Preset) -> int:
    return settings.sequences_per_step // settings.batch_size


def _in_steps(seen: list[tuple[int, int]], settings: Preset) -> list[list[tuple[int, int]]]:
    size = _batches(settings)
    return [seen[at : at + size] for at in range(0, len(seen), size)]


def _by_part(course: Course, losses: dict[int, float], weights: dict[int, int]) -> list[float]:
    parts = np.minimum((np.array(list(losses)) - 1) // course.part, _PARTS - 1)
    values, shares = np.array(list(losses.values())), np.array([weights[step] for step in losses])
    return [float(np.average(values[parts == part], weights=shares[parts == part])) for part in range(_PARTS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("data/runs/demo"), help="run with a graph and a data set")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--orders", type=int, default=3, help="orders of the data that each is trained with")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences in a forward pass")
    parser.add_argument("--accumulation", type=int, default=8, help="batches in an optimiser step")
    parser.add_argument("--width", type=int, default=128, help="of the T5; its other sizes follow")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    asked = parser.parse_args()
    if not (asked.run / "dataset" / "manifest.json").exists():
        sys.exit(f"{asked.run} has no data set. Make one with make demo, or name another run with --run.")
    prepare_runtime()
    demo = PRESETS["demo"]
    shape = {"width": asked.width, "heads": asked.width // 32, "feed_forward": 4 * asked.width, "layers": asked.layers}
    settings = demo.model_copy(
        update={
            "architecture": architecture(demo).model_copy(update=shape),
            "swapped_copies": 0,
            "triplet_order": "mention",
            "steps": asked.steps,
            "batch_size": asked.batch_size,
            "sequences_per_step": asked.batch_size * asked.accumulation,
            "optimizer": "adamw",
            "learning_rate": asked.learning_rate,
            "final_learning_rate": 0.0,
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "label_smoothing": 0.0,
            "validate_every": asked.steps,
            "validation_f1_records": 0,
            "checkpoint_every": asked.steps,
        }
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder, device = Path(temporary), pick_device(asked.device)
        prepare(settings, asked.run / "kg", asked.run / "dataset", folder, seed=0)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        set_seed(0)
        model = make_model(architecture(settings), tokenizer)
        model.save_pretrained(folder / "start")
        counts = json.loads((folder / "counts.json").read_bytes())
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        print(
            f"{name}, {torch.get_num_threads()} threads; T5 with {model.num_parameters():,} parameters, "
            f"{counts['train_examples']:,} examples, {asked.steps} steps of {asked.batch_size} × {asked.accumulation}\n"
        )
        course = Course(settings, folder, folder / "start", device, Examples.open(folder / "train"), tokenizer)
        races: dict[str, list[Race]] = {"ours": [], "Seq2SeqTrainer": []}
        runs: dict[str, Callable[[Course, int], Race]] = {"ours": ours, "Seq2SeqTrainer": theirs}
        for seed in range(asked.orders):
            for who, run in runs.items():
                races[who].append(run(course, seed))
    report(races)


def report(races: dict[str, list[Race]]) -> None:
    """Print the table."""
    print(f"{'':16}{'tokens/s (best)':>17}{'(median)':>10}{'padding':>9}   loss in each quarter, and validation")
    for who, runs in races.items():
        speeds = [race.speed for race in runs]
        curve = np.array([[*race.losses, race.validation] for race in runs])
        told = "  ".join(f"{mean:.3f}±{sd:.3f}" for mean, sd in zip(curve.mean(0), curve.std(0), strict=True))
        padding = statistics.mean(race.padding for race in runs)
        print(f"{who:16}{max(speeds):17,.0f}{statistics.median(speeds):10,.0f}{padding:9.1%}   {told}")
    first, second = races.values()
    ratios = [one.speed / other.speed for one, other in zip(first, second, strict=True)]
    pairs = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nours / Seq2SeqTrainer: {statistics.median(ratios):.2f} × (each pair: {pairs})")


if __name__ == "__main__":
    main()
