"""The search finds what transformers' ``generate`` finds, and computes less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from synthie.extractor.search import encoder_output, search

START, END, PAD, VOCABULARY = 0, 1, 0, 30
LENGTH = 14


class Forbid:
    """Forbids what a sequence's tokens add up to; so it depends on the whole sequence, not on its last token."""

    def __call__(self, sequences: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        forbidden = 2 + (sequences.sum(1, keepdim=True) + torch.arange(12)) % (VOCABULARY - 2)
        return scores.scatter_(1, forbidden, -torch.inf)


def t5(seed: int) -> Any:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=START
    )
    return sharpened(T5ForConditionalGeneration(config).eval())


def bart(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {
        f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (("layers", 1), ("ffn_dim", 16))
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": START, "decoder_start_token_id": START}
    config = BartConfig(vocab_size=VOCABULARY, d_model=16, forced_eos_token_id=None, **sizes, **heads, **tokens)
    model = sharpened(BartForConditionalGeneration(config).eval())
    model.final_logits_bias[0, END] = 4.0
    return model


def sharpened(model: Any) -> Any:
    """Random weights that differ enough for outputs of many lengths."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.6 if parameter.dim() > 1 else 1.0))
    return model


@pytest.mark.parametrize("make", [t5, bart])
@pytest.mark.parametrize(("beams", "candidates"), [(1, 1), (2, 1), (4, 3)])
@pytest.mark.parametrize("constrained", [False, True])
def test_the_outputs_are_those_of_generate(
    make: Callable[[int], Any], beams: int, candidates: int, constrained: bool
) -> None:
    lengths = set()
    for seed in range(3):
        model = make(seed)
        torch.manual_seed(seed)
        ids = torch.randint(2, VOCABULARY, (8, 6))
        mask = (torch.arange(6) < torch.randint(2, 7, (8, 1))).long()
        for length_penalty in (0.0, 0.8, 1.5):
            with torch.inference_mode():
                expected = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    logits_processor=[Forbid()] if constrained else [],
                    num_beams=beams,
                    num_return_sequences=candidates,
                    length_penalty=length_penalty,
                    max_new_tokens=LENGTH,
                    do_sample=False,
                )
                states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
                found = search(
                    model,
                    states,
                    mask,
                    start=START,
                    end=END,
                    pad=PAD,
                    beams=beams,
                    candidates=candidates,
                    length_penalty=length_penalty,
                    max_new_tokens=LENGTH,
                    processor=Forbid if constrained else None,
                )
            assert [cut(row) for row in found.tolist()] == [cut(row) for row in expected.tolist()]
            lengths |= {len(cut(row)) for row in found.tolist()}
    assert len(lengths) > 1


def test_texts_that_are_done_leave_the_batch() -> None:
    """A model that ends after as many tokens as the text's first state says, and counts the rows that it computes."""
    rows: list[int] = []

    class Ending:
        def __call__(self, *, encoder_outputs: Any, decoder_input_ids: Any, past_key_values: Any, **_: Any) -> Any:
            states = encoder_outputs.last_hidden_state
            rows.append(len(states))
            step = len(rows)
            logits = torch.zeros(len(states), 1, VOCABULARY)
            logits[states[:, 0, 0] <= step, :, END] = 50.0
            logits[states[:, 0, 0] > step, :, 7] = 50.0
            return type("Output", (), {"logits": logits})

    ends = [3, 9, 1, 5]
    states = torch.tensor(ends, dtype=torch.float32)[:, None, None]
    options: dict[str, Any] = {"length_penalty": 1.0, "max_new_tokens": LENGTH, "beams": 1, "candidates": 1}
    found = search(Ending(), states, torch.ones(4, 1), start=START, end=END, pad=PAD, **options)
    assert [len(cut(row)) for row in found.tolist()] == [length + 1 for length in ends]
    assert rows == [4, 4, 4, 2, 2, 1, 1, 1, 1]


def test_what_the_encoder_found_is_wrapped() -> None:
    states = torch.ones(1, 2, 3)
    assert encoder_output(states).last_hidden_state is states


def cut(row: list[int]) -> list[int]:
    """Without what stands behind the end, or fills up."""
    return row[: row.index(END) + 1] if END in row else row
