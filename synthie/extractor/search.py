"""Beam search in which texts that are done cost nothing.

The search is that of transformers' ``generate`` (``early_stopping=False``): the same candidates, scores and stopping
rule, so the same outputs. But ``generate`` computes every text of a batch until the last one is done, and outputs
differ in length far more than texts do: of 128 texts, sorted by length and decoded 32 at a time, with the demo's model,
it computed 2.4 to 2.9 times as many steps as the texts needed. Here the texts that are done leave the batch as soon as
they are half of it. The encoder's keys and values stay where they are when beams change places, for they are equal
within a text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["encoder_output", "search"]

_NEVER = -1.0e9  # added to what must not be chosen

Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def search(
    model: Any,
    states: torch.Tensor,
    mask: torch.Tensor,
    *,
    start: int,
    end: int,
    pad: int,
    beams: int,
    candidates: int,
    length_penalty: float,
    max_new_tokens: int,
    processor: Callable[[], Processor] | None = None,
) -> torch.Tensor:
    """The best outputs of an encoder-decoder model.

    Args:
        model: from transformers.
        states: float[texts, length, width], what the encoder found.
        mask: int[texts, length], 1 for tokens, 0 for padding.
        start, end, pad: the decoder's first token, that of the end, and what fills up.
        beams: 1 is greedy.
        candidates: outputs a text.
        length_penalty: exponent of the length in an output's score.
        max_new_tokens: most tokens in an output.
        processor: makes what changes the scores of a step (`transformers.LogitsProcessor`); called anew when texts
            leave the batch, and must then find its state from the sequences.

    Returns:
        int64[texts * candidates, length], the best of each text first, with the start token; a text with too few
        outputs has padding alone for the others.
    """
    texts, device = len(states), states.device
    found = torch.full((texts, candidates, max_new_tokens + 1), pad, device=device)
    alive = torch.arange(texts, device=device)
    running = found.new_full((texts, beams, max_new_tokens + 1), pad)
    running[:, :, 0] = start
    scores = states.new_full((texts, beams), _NEVER, dtype=torch.float32)
    best, best_scores = running.clone(), scores.clone()
    scores[:, 0] = 0.0  # the beams are equal at first, so only one of them counts
    ended = torch.zeros_like(scores, dtype=torch.bool)
    improvable = torch.ones(texts, dtype=torch.bool, device=device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    states, mask = states.repeat_interleave(beams, 0), mask.repeat_interleave(beams, 0)
    change = processor() if processor else None
    among_best = torch.arange(2 * beams, device=device) < beams
    for length in range(1, max_new_tokens + 1):
        sequences = running[:, :, :length].flatten(0, 1)
        chances = _step(model, sequences, cache, states, mask)
        chances = change(sequences, chances) if change else chances
        vocabulary = chances.shape[1]
        total = (chances.view(len(alive), beams, vocabulary) + scores[..., None]).flatten(1)
        # An output ends at most once from each beam, so among twice as many candidates there are enough to go on.
        top, place = total.topk(2 * beams)
        parent, token = place // vocabulary, place % vocabulary
        grown = _take(running, parent)
        grown[:, :, length] = token
        ends = (token == end) | (length == max_new_tokens)

        normal = top / length**length_penalty + _NEVER * ~(ends & among_best & improvable[:, None])
        best_scores, order = torch.cat((best_scores, normal), 1).topk(beams)
        best = _take(torch.cat((best, grown), 1), order)
        ended = torch.cat((ended, ends & among_best), 1).gather(1, order)

        going = top + _NEVER * ends
        order = going.topk(beams).indices
        running, scores = _take(grown, order), going.gather(1, order)
        first_row = torch.arange(len(alive), device=device)[:, None] * beams
        cache.self_attention_cache.reorder_cache((parent.gather(1, order) + first_row).flatten())  # type: ignore[arg-type]

        worst = torch.where(ended, best_scores.amin(1, keepdim=True), _NEVER)
        improvable &= (scores[:, :1] / length**length_penalty > worst).any(1)
        if beams == 1:
            improvable &= ~ended[:, 0]
        left = int(improvable.sum())
        if left == 0:
            break
        if 2 * left <= len(alive):
            found[alive[~improvable]] = best[~improvable, :candidates]
            rows = (improvable.nonzero() * beams + torch.arange(beams, device=device)).flatten()
            cache.batch_select_indices(rows)
            states, mask = states[rows], mask[rows]
            alive, running, scores, best, best_scores, ended = (
                tensor[improvable] for tensor in (alive, running, scores, best, best_scores, ended)
            )
            improvable = improvable[improvable]
            change = processor() if processor else None
    found[alive] = best[:, :candidates]
    return found[:, :, : length + 1].flatten(0, 1)


def encoder_output(states: torch.Tensor) -> BaseModelOutput:
    """What the encoder found, as models take it."""
    return BaseModelOutput(last_hidden_state=states)


def _step(
    model: Any, sequences: torch.Tensor, cache: EncoderDecoderCache, states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities of the next token, float32[rows, vocabulary]."""
    output = model(
        encoder_outputs=encoder_output(states),
        attention_mask=mask,
        decoder_input_ids=sequences[:, -1:],
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits[:, -1].float().log_softmax(-1)


def _take(sequences: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Sequences [texts, some, length] in another order [texts, others]."""
    return sequences.gather(1, order[..., None].expand(-1, -1, sequences.shape[2]))
