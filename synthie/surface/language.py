"""What a text looks like as English prose: phrases of assistants, markup, words of other languages, acronyms."""

from __future__ import annotations

import re
from collections.abc import Iterator

from synthie.surface.english import CHATTER, CHATTER_OPENING, CHATTER_WORDS, FOREIGN_SCRIPT, MARKUP, MARKUP_SIGNS
from synthie.surface.tokens import COMMON_KEYS, FOREIGN_KEYS, POSSESSIVE, Tokens

__all__ = ["find_chatter", "find_markup", "foreign_word", "is_acronym", "long_sentences"]

_FEWEST_FOREIGN_WORDS = 2
_MOST_FOREIGN_LETTERS = 0.3  # share of a text's letters in another alphabet; names may be quoted in theirs
_LONG_SENTENCE = 5  # words; shorter ones may be the same by chance


def find_chatter(tokens: Tokens) -> re.Match[str] | None:
    """Where a text speaks about its task."""
    if match := CHATTER_OPENING.match(tokens.text):
        return match
    return None if CHATTER_WORDS.isdisjoint(tokens.keys) else CHATTER.search(tokens.text)


def find_markup(text: str) -> re.Match[str] | None:
    """Where a text is no running prose."""
    return None if MARKUP_SIGNS.isdisjoint(text) and "www." not in text else MARKUP.search(text)


def foreign_word(tokens: Tokens, covered: bytearray) -> str:
    """A word that gives away another language, quoted; "" if none does.

    Args:
        tokens: the text.
        covered: 1 for each token that belongs to a name of the set, which may be foreign.
    """
    letters = 0 if tokens.text.isascii() else len(FOREIGN_SCRIPT.findall(tokens.text))
    if letters and letters > _MOST_FOREIGN_LETTERS * sum(map(len, tokens.words)):
        i = next((i for i, word in enumerate(tokens.words) if FOREIGN_SCRIPT.search(word)), 0)
        return tokens.span(i, i + 1)
    words = set(tokens.keys)
    if len(words & FOREIGN_KEYS) < _FEWEST_FOREIGN_WORDS:
        return ""
    places = [i for i, key in enumerate(tokens.keys) if key in FOREIGN_KEYS and not covered[i] and tokens.is_lower(i)]
    foreign = {tokens.keys[i] for i in places}
    if len(foreign) < _FEWEST_FOREIGN_WORDS or len(foreign) <= len(words & COMMON_KEYS):
        return ""
    return tokens.span(places[0], places[0] + 1)


def is_acronym(tokens: Tokens, i: int) -> bool:
    """Whether a word is written all in capitals, as no common word is among others that are not: "US", "WHO"."""
    word = POSSESSIVE.sub("", tokens.words[i])
    if len(word) < 2 or not word.isupper():
        return False
    around = tokens.words[max(0, i - 1) : i] + tokens.words[i + 1 : i + 2]
    return not any(len(other) > 1 and other.isupper() for other in around)


def long_sentences(tokens: Tokens) -> Iterator[tuple[tuple[str, ...], int]]:
    """(keys, first token) of each sentence that is long enough to be nobody's by chance."""
    start = 0
    for end in range(1, len(tokens.keys) + 1):
        if end == len(tokens.keys) or tokens.sentences[end] != tokens.sentences[start]:
            if end - start >= _LONG_SENTENCE:
                yield tokens.keys[start:end], start
            start = end
