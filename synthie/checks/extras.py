"""What a text names beyond its set: names and numbers that no form accounts for, and names of other nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from synthie.checks.reading import Reading, Reason
from synthie.surface.english import MONTHS, looks_inflected
from synthie.surface.language import is_acronym
from synthie.surface.names import CLASS, COMMON, LONGEST_NAME, LONGEST_NOUN, PROPER, NameIndex
from synthie.surface.tokens import COMMON_KEYS, NEUTRAL_KEYS, NUMBER_KEYS, REMARK_KEYS, Tokens
from synthie.surface.variants import is_derived, is_misspelt

__all__ = ["Extras"]

Span = tuple[int, int]  # first token, last + 1


class Extras:
    """What one text has beyond its set.

    Args:
        reading: the text and its set.
        licensed: the keys that the set's nodes and relations give.
        names: of the whole graph.
    """

    def __init__(self, reading: Reading, licensed: set[str], names: NameIndex) -> None:
        self._reading = reading
        self._tokens = reading.tokens
        self._covered = reading.covered
        self._licensed = licensed
        self._names = names
        # Numbers that nothing gives; words that nothing gives, written like names; words written like names that the
        # set gives or all texts have, of which a name may be put together; other words.
        self._numbers: list[int] = []
        self._foreign: list[int] = []
        self._familiar: list[int] = []
        self._nouns: list[int] = []

    def reasons(self) -> Iterator[Reason]:
        """Names and numbers beyond the set; where there are no triplets, numbers in words too."""
        tokens = self._tokens
        self._sort()
        for i in self._numbers:
            yield Reason("extra_number", f"{tokens.span(i, i + 1)} is a number that no triplet gives.")
        for start, end in _runs([i for i in self._foreign if self._is_name(i)], tokens):
            what = "a date" if tokens.keys[start] in MONTHS else "a name"
            known = self._names.find_one(tokens.keys[start:end])
            known = f" ({known})" if known else ""
            yield Reason("extra_name", f"{tokens.span(start, end)} is {what}{known} that no triplet gives.")
        for (start, end), number in self._graph_names():
            if not self._is_part(tokens.keys[start:end]):
                node = self._names.describe(number)
                yield Reason("extra_name", f"{tokens.span(start, end)} is the name of {node}, in no triplet.")

    def _sort(self) -> None:
        """Put each token that no form covers in its list."""
        tokens, licensed, is_remark = self._tokens, self._licensed, not self._reading.triplets
        for i, (key, word, covered) in enumerate(zip(tokens.keys, tokens.words, self._covered, strict=True)):
            if covered:
                continue
            if word[0].islower() and not is_remark:
                if key not in COMMON_KEYS and key not in licensed:
                    self._nouns.append(i)
            elif word[0].isdigit() or (is_remark and key in NUMBER_KEYS):
                if key not in licensed:
                    self._numbers.append(i)
            elif key in COMMON_KEYS:
                self._sort_common(i, key, word)
            elif word[0].isupper():
                self._sort_capital(i, key, is_remark)
            elif key not in licensed:
                self._nouns.append(i)

    def _sort_common(self, i: int, key: str, word: str) -> None:
        """A word that every text needs is an acronym at most ("US"), or part of a name ("New")."""
        tokens = self._tokens
        if word[:2].isupper() and key not in self._licensed and is_acronym(tokens, i):
            self._foreign.append(i)
        elif word[0].isupper() and key != "the" and (tokens.is_capital(i + 1) or not tokens.opens_sentence(i)):
            self._familiar.append(i)

    def _sort_capital(self, i: int, key: str, is_remark: bool) -> None:
        if key in self._licensed:
            self._familiar.append(i)
        elif self._opens_plainly(i) or (is_remark and key in REMARK_KEYS and self._tokens.opens_sentence(i)):
            self._nouns.append(i)
        elif key not in NEUTRAL_KEYS and not is_derived(key, self._licensed):
            self._foreign.append(i)

    def _opens_plainly(self, i: int) -> bool:
        """Whether a word is capitalised only because it opens a sentence."""
        tokens, word = self._tokens, self._tokens.words[i]
        if not tokens.opens_sentence(i) or not word[1:].islower():
            return False
        if looks_inflected(word.lower()) and (not tokens.is_capital(i + 1) or self._covered[i + 1]):
            return True
        return self._names.is_word(tokens.keys[i])

    def _is_name(self, i: int) -> bool:
        """Whether a word that nothing gives is a name indeed, and no slip in one that the set gives."""
        if self._is_lone_word(i):
            return False
        key = self._tokens.keys[i]
        return not is_misspelt(key, self._licensed) or self._names.is_name((key,))

    def _is_lone_word(self, i: int) -> bool:
        """Whether a single capitalised word is a common noun written large ("the Institute"), not a name."""
        key = self._tokens.keys[i]
        return (
            i - 1 not in self._foreign
            and i + 1 not in self._foreign
            and not self._tokens.words[i].isupper()
            and self._names.is_word(key)
            and not self._names.is_name((key,))
        )

    def _graph_names(self) -> Iterator[tuple[Span, int]]:
        """Where names of other nodes stand that no single word gives away, and the nodes' numbers.

        These are names put together from words of the set ("University of Zurich" where the set has the
        University of Bern, and Zurich) and common nouns ("physicist"); where there are no triplets, classes as well.
        """
        kinds = (COMMON,) if self._reading.triplets else (COMMON, CLASS)
        nouns = list(self._noun_spans())
        spans = [(PROPER, span) for span in sorted(set(self._name_spans()))]
        spans += [(kind, span) for kind in kinds for span in nouns]
        keys = self._tokens.keys
        found: defaultdict[int, list[tuple[Span, int]]] = defaultdict(list)
        for place, number in self._names.search([(kind, keys[start:end]) for kind, (start, end) in spans]):
            kind, span = spans[place]
            found[kind].append((span, number))
        for kind in (PROPER, *kinds):
            yield from _longest(found[kind])

    def _name_spans(self) -> Iterator[Span]:
        """Tokens around a familiar word that begin and end like a name of several words."""
        words, reach = self._tokens.words, self._tokens.reach
        for i in self._familiar:
            for start in range(max(0, i - LONGEST_NAME + 1), i + 1):
                last = min(reach[start], start + LONGEST_NAME)
                if last > i and not words[start][0].islower():
                    for end in range(max(i + 1, start + 2), last + 1):
                        if not words[end - 1][0].islower():
                            yield start, end

    def _noun_spans(self) -> Iterator[Span]:
        """Up to three tokens from an ordinary word on, none of them the set's."""
        covered, reach = self._covered, self._tokens.reach
        for i in self._nouns:
            for end in range(i + 1, min(reach[i], i + LONGEST_NOUN) + 1):
                if covered[end - 1]:
                    break
                yield i, end

    def _is_part(self, keys: tuple[str, ...]) -> bool:
        """Whether a form of the set has these words."""
        size = len(keys)
        return any(
            phrase.keys[i : i + size] == keys
            for forms in self._reading.forms.values()
            for phrase in forms.phrases
            for i in range(len(phrase.keys) - size + 1)
        )


def _longest(names: Sequence[tuple[Span, int]]) -> Iterator[tuple[Span, int]]:
    """Of names that overlap the first, the longest of those that begin with it."""
    after = 0
    for (start, end), number in sorted(names, key=lambda name: (name[0][0], -name[0][1])):
        if start >= after:
            after = end
            yield (start, end), number


def _runs(positions: list[int], tokens: Tokens) -> Iterator[Span]:
    """Join neighbouring positions, across one word such as "of" or "de"."""
    i = 0
    while i < len(positions):
        start = end = positions[i]
        while i + 1 < len(positions) and positions[i + 1] - end <= 2 and tokens.joined(end, positions[i + 1] + 1):
            i += 1
            end = positions[i]
        yield start, end + 1
        i += 1
