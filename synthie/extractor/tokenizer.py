"""Tokenizers: a base model's own, or a small one trained on the data set.

A model that starts from nothing does best with few tokens that are words of the texts and names at hand. Digits
stand alone so that dates and numbers can be copied, and the markers are tokens of their own. Nothing here asks
the hub when a local folder is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from synthie.extractor.linearization import MARKERS, Linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.world import WorldTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenize", "tokenize_world", "train_tokenizer"]

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # tokens 0, 1 and 2, as in T5
_CHUNK = 20_000  # strings tokenised at once


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Byte-pair encoding over words, with single digits and the markers as tokens.

    Args:
        texts: what the vocabulary shall fit: running texts and names.
        size: most tokens in the vocabulary.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            # A digit or a sign takes along only the space before it.
            pre_tokenizers.Split(Regex(r"▁?(?!▁)[\d\p{P}\p{S}]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(MARKERS), special_tokens=[PAD, END, UNKNOWN], show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    tokenizer.add_tokens([AddedToken(marker, lstrip=True, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], *, end: bool = False) -> Ragged:
    """Token sequences of many strings.

    Args:
        tokenizer: the tokenizer.
        strings: what to tokenise, each on its own.
        end: whether to close each with the end-of-sequence token.
    """
    parts = []
    for start in range(0, len(strings), _CHUNK):
        encoded = tokenizer(
            list(strings[start : start + _CHUNK]), add_special_tokens=end, return_attention_mask=False, verbose=False
        )
        parts.append(Ragged.from_rows(encoded["input_ids"]))
    return Ragged.concatenate(parts)


def tokenize_world(
    tokenizer: PreTrainedTokenizerBase, form: Linearization, nodes: Sequence[str], relations: Sequence[str]
) -> WorldTokens:
    """Token sequences of node names (as the graph has them), relation names and markers."""
    markers = tokenize(tokenizer, MARKERS)
    end = Ragged.from_rows([[tokenizer.eos_token_id]])
    return WorldTokens(
        nodes=tokenize(tokenizer, [form.present(name) for name in nodes]),
        relations=tokenize(tokenizer, relations),
        markers=Ragged.concatenate([markers, end]),
    )
