"""Texts as sequences of folded tokens, the common ground on which texts and names are compared.

Folding removes what writers vary freely: case, diacritics, apostrophes, plural
and possessive endings, the dots of initials, thousands separators, trailing
zeros. Punctuation between tokens is not compared at all.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from synthie.surface.english import (
    ABBREVIATIONS,
    COMMON_WORDS,
    FOREIGN_WORDS,
    MONTHS,
    NEGATIONS,
    NEUTRAL_NAMES,
    NUMBER_WORDS,
    REFERRING_WORDS,
    REMARK_OPENERS,
)

__all__ = [
    "COMMON_KEYS",
    "FOREIGN_KEYS",
    "NEGATION_KEYS",
    "NEUTRAL_KEYS",
    "NUMBER_KEYS",
    "POSSESSIVE",
    "REFERRING_KEYS",
    "REMARK_KEYS",
    "Tokens",
    "fold",
    "fold_all",
    "quote",
]

_CACHED_WORDS = 1 << 17
# What most tokens are comes late, but each alternative begins with a set of characters, so that it is left at once.
_TOKEN = re.compile(
    r"""
      [A-Z](?<![\w°′″][\s\S])\.(?:[A-Z]\b\.?|\ ?[A-Z]\.)+                                # initials: U.S., J. R. R.
    | [A-Z](?<![\w°′″][\s\S])(?:\ [A-Z]\b(?!['’.]))+                                     # and T S without dots
    | [^\W\d_][^\W_]*(?:[\u0300-\u036f]+[^\W_]*)*                                        # words: O'Brien, C++
      (?:['’ʼʻ`´](?:[^\W\d_]|[\u0300-\u036f])+|\+\+|\#)*
    | &
    | \d{1,3}(?:[,\u00a0\u202f\u2009]\d{3})+(?!\d)(?:\.\d+)?                              # 83,149,300
    | \d+(?:\.\d+)?(?:(?:st|nd|rd|th|s)\b)?                                               # 891.7, 5th, 1920s
    """,
    re.VERBOSE,
)
_OPENS = re.compile(r"""[.!?:;]["'”’)]*\s|\n""")
_STOP = re.compile(r"""[.!?…]["'”’)\]]*\s+["'“‘(\[]*(?=[^\W_])(?![a-zß-öø-ÿ])""")
_JOINS = re.compile(r"[\s.\-‐‑–'’&/]{0,3}")
_SPECIAL = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
_APOSTROPHES = re.compile("['’ʼʻ`´]")
POSSESSIVE = re.compile("['’ʼʻ`´]s\\Z", re.IGNORECASE)


class Tokens:
    """The words and numbers of a text: ``words`` as written, ``keys`` folded, ``starts`` and ``ends`` in characters."""

    __slots__ = ("_reach", "ends", "keys", "sentences", "starts", "text", "words")

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = _TOKEN.findall(text)
        self.keys = tuple([fold(word) for word in self.words])
        self.starts, self.ends = self._locate()
        self.sentences = self._number_sentences()
        self._reach: list[int] | None = None

    def _locate(self) -> tuple[list[int], list[int]]:
        """Where the words are: each at its next occurrence, since no character with which one may begin is left out."""
        starts, ends, end, find = [], [], 0, self.text.find
        for word in self.words:
            start = find(word, end)
            end = start + len(word)
            starts.append(start)
            ends.append(end)
        return starts, ends

    def _number_sentences(self) -> list[int]:
        """For each token the number of its sentence."""
        numbers, number, words = [], 0, self.words
        stops = {match.end() for match in _STOP.finditer(self.text)}
        if not stops:
            return [0] * len(words)
        for i, start in enumerate(self.starts):
            if start in stops and i:
                before = words[i - 1]
                number += len(before) > 1 and before[-1] != "." and self.keys[i - 1] not in ABBREVIATIONS
            numbers.append(number)
        return numbers

    def join(self, start: int, end: int) -> None:
        """Let no sentence end inside these tokens: what stands there is one name, with full stops of its own."""
        inside = self.sentences[end - 1] - self.sentences[start]
        if inside:
            self.sentences[start:end] = [self.sentences[start]] * (end - start)
            self.sentences[end:] = [number - inside for number in self.sentences[end:]]

    def gap(self, i: int) -> str:
        """What stands between token ``i - 1`` and token ``i``."""
        return self.text[self.ends[i - 1] : self.starts[i]]

    def opens_sentence(self, i: int) -> bool:
        return i == 0 or _OPENS.search(self.gap(i)) is not None

    def is_lower(self, i: int) -> bool:
        return i < len(self.words) and self.words[i][0].islower()

    def is_capital(self, i: int) -> bool:
        return i < len(self.words) and self.words[i][0].isupper()

    def joined(self, start: int, end: int) -> bool:
        """Whether only spaces, hyphens and dots stand between the tokens."""
        return self.reach[start] >= end

    @property
    def reach(self) -> list[int]:
        """For each token one more than the last that is joined to it by nothing but spaces, hyphens and dots."""
        if self._reach is None:
            self._reach = self._find_reach()
        return self._reach

    def _find_reach(self) -> list[int]:
        last, text = len(self.words), self.text
        reach = [last] * last
        gaps = [text[end:start] for end, start in zip(self.ends, self.starts[1:], strict=False)]
        for i in range(last - 1, 0, -1):
            gap = gaps[i - 1]
            if gap != " " and not _JOINS.fullmatch(gap):
                last = i
            reach[i - 1] = last
        return reach

    def span(self, start: int, end: int) -> str:
        return quote(self.text, self.starts[start], self.ends[end - 1])


@lru_cache(_CACHED_WORDS)
def fold(word: str) -> str:
    """Fold a token so that the usual spellings of one word become equal."""
    if word[0].isdigit():
        return _number_key(word)
    if word == "&":
        return "and"
    word = _APOSTROPHES.sub("", POSSESSIVE.sub("", word)).replace(".", "").replace(" ", "")
    folded = word.casefold()
    if not folded.isascii():
        decomposed = unicodedata.normalize("NFKD", folded.translate(_SPECIAL))
        folded = "".join(character for character in decomposed if not unicodedata.combining(character))
    return _singular(folded)


def _number_key(number: str) -> str:
    digits = re.sub(r"[,\u00a0\u202f\u2009]", "", number)
    if digits[-1] != "s":
        digits = digits.rstrip("stndrh")
    whole, _, fraction = digits.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def _singular(word: str) -> str:
    if len(word) < 4 or word[-1] != "s" or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")):
        return word[:-2]
    return word[:-1]


def fold_all(text: str) -> tuple[str, ...]:
    return tuple([fold(word) for word in _TOKEN.findall(text)])


def quote(text: str, start: int, end: int) -> str:
    """A part of a text, without spaces around it, and where it is."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    part = part.strip()
    return f"'{part}' (characters {start}–{start + len(part)})"


COMMON_KEYS = frozenset(map(fold, COMMON_WORDS | NUMBER_WORDS)) - MONTHS
NUMBER_KEYS = frozenset(map(fold, NUMBER_WORDS)) - {"one"}  # which is a pronoun too
REFERRING_KEYS = frozenset(map(fold, REFERRING_WORDS))
REMARK_KEYS = frozenset(map(fold, REMARK_OPENERS))
NEUTRAL_KEYS = frozenset(map(fold, NEUTRAL_NAMES))
NEGATION_KEYS = frozenset(map(fold, NEGATIONS))
FOREIGN_KEYS = frozenset(map(fold, FOREIGN_WORDS)) - COMMON_KEYS - {"den", "van", "var", "do"}  # words of English too
