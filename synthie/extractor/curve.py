"""The course of a training run: what was measured at which step, as data, as ``training.json`` and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from kg.stage import write_atomic

__all__ = ["Curve", "Trained", "Validated", "write_report"]


class Trained(NamedTuple):
    """Loss per target token since the last entry, and the learning rate of the last step."""

    step: int
    loss: float
    learning_rate: float


class Validated(NamedTuple):
    """Loss per target token, and constrained F1 if it is measured."""

    step: int
    loss: float
    f1: float | None


@dataclass
class Curve:
    """What a run has measured so far; part of every checkpoint.

    Attributes:
        step: optimiser steps done.
        tokens: source and target tokens seen, padding excluded.
        positions: the same with padding.
        seconds: time in the training loop, over all restarts, validation and checkpoints included.
        loss, targets: summed loss and target tokens since the last entry of ``train``, as of the checkpoint.
        train, validation: the entries.
    """

    step: int = 0
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    targets: int = 0
    train: list[Trained] = field(default_factory=list)
    validation: list[Validated] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Curve:
        """What `write` wrote."""
        data = json.loads(path.read_bytes())
        data["train"] = [Trained(*entry) for entry in data["train"]]
        data["validation"] = [Validated(*entry) for entry in data["validation"]]
        return cls(**data)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @property
    def padding(self) -> float:
        """Share of the positions that are padding."""
        return 1 - self.tokens / self.positions

    def best(self, by: Literal["loss", "f1"]) -> Validated:
        """The entry with the lowest loss, or with the highest F1 (of equal ones the lowest loss); the first of them."""
        if by == "loss":
            return min(self.validation, key=lambda entry: entry.loss)
        return max(self.validation, key=lambda entry: (entry.f1 or 0.0, -entry.loss))

    def has_stalled(self, by: Literal["loss", "f1"], patience: int | None) -> bool:
        """Whether the last ``patience`` validations brought no new best."""
        if patience is None or not self.validation:
            return False
        return len(self.validation) - 1 - self.validation.index(self.best(by)) >= patience


def write_report(folder: Path, curve: Curve, by: Literal["loss", "f1"], facts: dict[str, Any]) -> None:
    """Write ``training.json``, beginning with ``facts``, and ``training_curve.png``."""
    best = curve.best(by)
    report = facts | {
        "seconds": round(curve.seconds, 1),
        "tokens_per_second": round(curve.tokens / curve.seconds, 1),
        "padding": round(curve.padding, 4),
        "best_step": best.step,
        "best_validation_loss": best.loss,
        "best_validation_f1": best.f1,
        "train": [entry._asdict() for entry in curve.train],
        "validation": [entry._asdict() for entry in curve.validation],
    }
    write_atomic(folder / "training.json", json.dumps(report, indent=2) + "\n")
    _draw(curve, best.step).savefig(folder / "training_curve.png", dpi=120)


def _draw(curve: Curve, kept: int) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    lines = axes.plot([entry.step for entry in curve.train], [entry.loss for entry in curve.train], label="train")
    steps = [entry.step for entry in curve.validation]
    lines += axes.plot(steps, [entry.loss for entry in curve.validation], marker="o", label="validation")
    lines.append(axes.axvline(kept, linestyle=":", color="grey", label=f"kept: step {kept:,}"))
    axes.set(xlabel="optimiser steps", ylabel="loss per target token", yscale="log", title="Extractor training")
    axes.grid(alpha=0.3)
    scores = [entry.f1 for entry in curve.validation if entry.f1 is not None]
    if scores:
        right = axes.twinx()
        lines += right.plot(steps, scores, marker="s", color="tab:green", label="validation F1 (right)")
        right.set(ylabel="constrained micro F1", ylim=(0, 1.02))
    axes.legend(handles=lines, loc="center right")
    return figure
