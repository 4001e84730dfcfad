"""Whether a text is finished, running English prose of its own, whatever it states."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from synthie.checks.reading import Reason
from synthie.config import QualityConfig
from synthie.surface.language import find_chatter, find_markup, foreign_word, long_sentences
from synthie.surface.tokens import COMMON_KEYS, Tokens, quote

__all__ = ["copied", "most_words", "prose_faults"]

_SENTENCE_END = re.compile(r"""[.!?…]["'”’»)\]]*\s*\Z""")


def prose_faults(
    config: QualityConfig, tokens: Tokens, covered: bytearray, size: int, finish_reason: str | None
) -> Iterator[Reason]:
    """Faults of a text as such.

    Args:
        config: what a text must fulfil.
        tokens: the text.
        covered: 1 for each token that belongs to a name of the set.
        size: number of triplets.
        finish_reason: why the model stopped, as the endpoint reported it.
    """
    text = tokens.text
    if not tokens.keys:
        yield Reason("empty", "The text holds no word.")
        return
    if match := find_chatter(tokens):
        yield Reason("refusal", f"{quote(text, *match.span())} speaks about the task instead of doing it.")
    if match := find_markup(text):
        yield Reason("markup", f"{quote(text, *match.span())} is markup, not prose.")
    if finish_reason == "length":
        yield Reason("truncated", "The model stopped at the token limit (finish_reason 'length').")
    elif not _SENTENCE_END.search(text):
        yield Reason("truncated", f"The text ends without a full stop: '…{text.rstrip()[-30:]}'.")
    if foreign := foreign_word(tokens, covered):
        yield Reason("language", f"{foreign} shows that the text is not English.")
    words, most = len(tokens.keys), most_words(config, size)
    if words < config.min_words:
        yield Reason("length", f"The text has {words} words; at least {config.min_words} are asked for.")
    elif words > most:
        what = f"{size} triplets" if size else "a text without triplets"
        yield Reason("length", f"The text has {words} words; {what} may have at most {most}.")


def most_words(config: QualityConfig, size: int) -> int:
    """How many words a text for so many triplets may have."""
    return config.max_words_per_triplet * max(1, size)


def copied(tokens: Tokens, covered: bytearray, demonstrated: Set[tuple[str, ...]]) -> Iterator[Reason]:
    """Sentences of the prompt's demonstrations that name what is not in the set."""
    if not demonstrated:
        return
    for keys, start in long_sentences(tokens):
        end = start + len(keys)
        if keys in demonstrated and any(
            not covered[i] and not tokens.is_lower(i) and tokens.keys[i] not in COMMON_KEYS for i in range(start, end)
        ):
            yield Reason("demonstration", f"{tokens.span(start, end)} is copied from a demonstration.")
