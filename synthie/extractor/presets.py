"""Training presets: every number that decides how an extractor is trained and decoded.

The hub presets repeat the settings of the SynthIE paper (https://arxiv.org/abs/2303.04132, appendix on
training): FLAN-T5, 8,000 steps of about 2,560 sequences whatever the number of devices, AdamW, linear decay
after warm-up, label smoothing 0.1. ``demo`` trains a small T5 from random weights on a CPU. What the paper leaves
open (how often and on how many records to validate) is chosen here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kg.stage import Settings
from synthie.config import ExtractorConfig
from synthie.errors import ConfigError
from synthie.extractor.linearization import Form, Linearization, Names, linearization

__all__ = ["PRESETS", "Architecture", "Preset", "resolve"]


class Architecture(Settings):
    """A T5 to start from random weights, with a vocabulary of its own."""

    vocabulary: int = Field(description="Most tokens in the vocabulary.")
    width: int = Field(description="Size of the hidden states.")
    heads: int = Field(description="Attention heads; each has width / heads dimensions.")
    feed_forward: int = Field(description="Inner size of the feed-forward layers.")
    layers: int = Field(description="Layers of the encoder, and of the decoder.")
    dropout: float = Field(description="Dropout rate.")


class Preset(Settings):
    """Complete settings of a training run."""

    base_model: str | None = Field(description="Hub name or folder to start from; None: `architecture`.")
    architecture: Architecture | None = None
    form: Form
    names: Names
    steps: int = Field(description="Optimiser steps.")
    batch_size: int = Field(description="Sequences per device and forward pass.")
    sequences_per_step: int = Field(description="Sequences per optimiser step, over all devices and passes.")
    optimizer: Literal["adamw", "relative_adam"]
    learning_rate: float = Field(description="Peak, reached after the warm-up.")
    final_learning_rate: float = Field(description="Reached linearly in the last step.")
    warmup_steps: int
    weight_decay: float = Field(description="AdamW's; never on biases and layer norms.")
    clip_norm: float = Field(description="Greatest norm of the gradient.")
    label_smoothing: float
    max_source_tokens: int = Field(description="Records with longer texts are not trained on.")
    max_target_tokens: int = Field(description="Records with longer targets are not trained on.")
    triplet_order: Literal["mention", "statement"] = "mention"
    swapped_copies: int = Field(default=0, description="Copies of each training record with other entities.")
    precision: Literal["auto", "float32", "bf16"] = "auto"
    validate_every: int = Field(description="Steps between two validations.")
    validation_records: int = Field(description="Most records whose loss a validation measures.")
    validation_f1_records: int = Field(description="Most records whose F1 a validation measures.")
    best_by: Literal["loss", "f1"] = "loss"
    patience: int | None = Field(default=None, description="Validations without a new best that end the training.")
    checkpoint_every: int = Field(description="Steps between two checkpoints.")
    beams: int = Field(description="Beams of the search.")
    length_penalty: float = Field(description="Exponent of the length in a beam's score.")

    @property
    def linearization(self) -> Linearization:
        """The linearization to train and decode with."""
        return linearization(self.form, self.names)


_BASE_FE = Preset(
    base_model="google/flan-t5-base",
    form="fully_expanded",
    names="underscores",
    steps=8_000,
    batch_size=6,
    sequences_per_step=2_568,  # 4 GPUs × 6 sequences × 107 batches
    optimizer="adamw",
    learning_rate=3e-4,
    final_learning_rate=3e-5,
    warmup_steps=1_000,
    weight_decay=0.05,
    clip_norm=0.1,
    label_smoothing=0.1,
    max_source_tokens=256,
    max_target_tokens=256,
    validate_every=200,
    validation_records=10_000,
    validation_f1_records=1_000,
    checkpoint_every=100,
    beams=10,
    length_penalty=0.8,
)

_LARGE_FE = _BASE_FE.model_copy(
    update={
        "base_model": "google/flan-t5-large",
        "batch_size": 8,
        "sequences_per_step": 2_560,  # 8 GPUs × 8 sequences × 40 batches
    }
)
_COLLAPSED = {"form": "subject_collapsed", "length_penalty": 0.6}

PRESETS: dict[str, Preset] = {
    "demo": Preset(
        base_model=None,
        architecture=Architecture(vocabulary=3_000, width=128, heads=4, feed_forward=512, layers=2, dropout=0.0),
        form="fully_expanded",
        names="spaces",
        triplet_order="statement",
        swapped_copies=2,
        steps=4_000,
        batch_size=16,
        sequences_per_step=16,
        optimizer="relative_adam",
        learning_rate=0.04,
        final_learning_rate=0.0004,
        warmup_steps=100,
        weight_decay=0.0,
        clip_norm=1.0,
        label_smoothing=0.0,
        max_source_tokens=256,
        max_target_tokens=256,
        validate_every=1_000,
        validation_records=500,
        validation_f1_records=100,
        checkpoint_every=300,
        beams=3,
        length_penalty=0.8,
    ),
    "synthie-base-fe": _BASE_FE,
    "synthie-base-sc": _BASE_FE.model_copy(update=_COLLAPSED),
    "synthie-large-fe": _LARGE_FE,
    "synthie-large-sc": _LARGE_FE.model_copy(update=_COLLAPSED),
    # The same model and settings; what makes it GenIE is the data set that it is trained on (REBEL).
    "genie-base-fe": _BASE_FE,
}

_OVERRIDABLE = (
    "base_model",
    "steps",
    "batch_size",
    "learning_rate",
    "max_source_tokens",
    "max_target_tokens",
    "triplet_order",
    "swapped_copies",
    "precision",
    "validate_every",
    "validation_f1_records",
    "best_by",
    "patience",
)


def resolve(config: ExtractorConfig) -> Preset:
    """The preset that the configuration names, with the fields that the configuration sets.

    Raises:
        ConfigError: there is no such preset, or the best weights cannot be told as asked.
    """
    preset = PRESETS.get(config.preset)
    if preset is None:
        raise ConfigError(f"extractor.preset={config.preset!r} does not exist; choose one of {', '.join(PRESETS)}.")
    changes: dict[str, object] = {"form": config.linearization}
    changes |= {name: getattr(config, name) for name in _OVERRIDABLE}
    changes = {name: value for name, value in changes.items() if value is not None}
    batch_size = config.batch_size or preset.batch_size
    if config.gradient_accumulation is not None:
        changes["sequences_per_step"] = batch_size * config.gradient_accumulation
    elif preset.sequences_per_step == preset.batch_size:  # without accumulation, a step is a batch
        changes["sequences_per_step"] = batch_size
    if config.base_model is not None:
        changes["architecture"] = None
    settings = preset.model_copy(update=changes)
    if settings.best_by == "f1" and not settings.validation_f1_records:
        raise ConfigError(
            "extractor.best_by=f1 needs an F1 to go by: set extractor.validation_f1_records to 1 or more."
        )
    return settings
