"""Encoder-decoder models of transformers: made or loaded, trained by a loss, asked to write.

All that `fit` and `validation` know about the kind of model is here: `load_base` or `make_model`, and `Seq2Seq`.
T5, mT5, BART, mBART and their like differ only in what their configuration says (the token that the decoder starts
from, how many positions there are), so nothing here asks for a model's name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, LogitsProcessor, T5Config, T5ForConditionalGeneration

from synthie.errors import ConfigError
from synthie.extractor.examples import Examples
from synthie.extractor.presets import Architecture, Preset
from synthie.extractor.ragged import Ragged
from synthie.extractor.runtime import from_pretrained

__all__ = ["Seq2Seq", "load_base", "make_model"]

_NO_TOKEN = -100  # label of padded positions


def load_base(settings: Preset) -> Any:
    """The base model, in single precision whatever it is stored in.

    Raises:
        ConfigError: it cannot be loaded, or is too small for the longest sequences.
    """
    model = from_pretrained(AutoModelForSeq2SeqLM, str(settings.base_model), dtype=torch.float32)
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(settings.max_source_tokens, settings.max_target_tokens)
    if positions is not None and positions < longest:
        raise ConfigError(
            f"The base model {settings.base_model!r} has {positions} positions, too few for sequences of {longest} "
            f"tokens. Set extractor.max_source_tokens and extractor.max_target_tokens to at most {positions}."
        )
    return model


def make_model(shape: Architecture, tokenizer: Any) -> Any:
    """A T5 of that shape with random weights."""
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


class Seq2Seq:
    """A model with what it takes to train it and to have it write.

    Its settings for generation are replaced: those of a base model, such as a first token that is forced or n-grams
    that must not come twice, are for other outputs than ours.

    Args:
        model: the model, as loaded or made.
        tokenizer: its tokenizer.
        settings: smoothing of the loss; beams and length penalty that the saved model decodes with.
        device: where batches go.

    Raises:
        ConfigError: the model does not say which token its decoder starts from.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: Preset, device: torch.device) -> None:
        self.model = model
        self._pad, self._start = tokenizer.pad_token_id, _start_token(model)
        self._smoothing, self._device = settings.label_smoothing, device
        model.generation_config = GenerationConfig(
            decoder_start_token_id=self._start,
            pad_token_id=self._pad,
            eos_token_id=tokenizer.eos_token_id,
            num_beams=settings.beams,
            length_penalty=settings.length_penalty,
        )

    def recompute_activations(self) -> None:
        """From now on compute the activations of each layer again for the gradients instead of keeping them."""
        # The first is transformers' newer name for the second.
        for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
            if hasattr(self.model, name):
                getattr(self.model, name)({"use_reentrant": False})
                break

    def loss(self, forward: Any, batch: Examples) -> torch.Tensor:
        """Cross-entropy with label smoothing over the whole vocabulary, summed over target tokens.

        Args:
            forward: the model, or what accelerate or torch.compile have wrapped it in.
            batch: examples.
        """
        source, mask = self._sources(batch.sources)
        target = torch.from_numpy(batch.targets.padded(np.arange(len(batch)), _NO_TOKEN)).to(self._device)
        start = torch.full_like(target[:, :1], self._start)
        written = torch.cat((start, target[:, :-1]), dim=1)
        logits = forward(
            input_ids=source,
            attention_mask=mask,
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

    def write(self, sources: Ragged, constraint: LogitsProcessor, max_new_tokens: int) -> list[list[int]]:
        """What the model writes greedily for each source; without the start token, padded at the end."""
        source, mask = self._sources(sources)
        sequences = self.model.generate(
            input_ids=source,
            attention_mask=mask,
            logits_processor=[constraint],
            num_beams=1,
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        return sequences[:, 1:].tolist()

    def _sources(self, sources: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and attention mask, both int64[rows, longest]."""
        tokens = torch.from_numpy(sources.padded(np.arange(len(sources)), self._pad)).to(self._device)
        lengths = torch.from_numpy(sources.lengths).to(self._device)
        return tokens, (torch.arange(tokens.shape[1], device=self._device) < lengths[:, None]).long()


def _start_token(model: Any) -> int:
    for name in ("decoder_start_token_id", "bos_token_id"):  # in the order in which transformers looks
        for config in (model.generation_config, model.config):
            token = getattr(config, name, None)
            if token is not None:
                return token
    raise ConfigError(
        "The base model does not say which token its decoder starts from. Set decoder_start_token_id in its "
        "config.json, as in the models that transformers can train to translate."
    )
