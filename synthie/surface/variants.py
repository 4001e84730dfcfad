"""Freer ways in which a text may state a name, tried only where it states none of the name's forms.

A name may be pulled apart, joined, told without its "of" and "the", turned into
an adjective or an agent noun, or misspelt. Each finder returns the first tokens
of what it found, [] if nothing, and covers what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from synthie.surface.english import ADJECTIVE_ENDINGS, AGENT_ENDINGS, DEMONYMS, LINKING_WORDS
from synthie.surface.tokens import COMMON_KEYS, Tokens, fold_all

__all__ = [
    "find_derived",
    "find_gist",
    "find_joined",
    "find_loose",
    "find_misspelt",
    "find_parts",
    "is_derived",
    "is_misspelt",
]

_SHORTEST_JOINED = 5  # characters
_SHORTEST_STEM = 4
_SHORTEST_AGENT = 5
_SHORTEST_MISSPELT = 6
_SHORTEST_MISSPELT_PART = 5
_MOST_LINKS = 2
_GIST = 0.75  # share of a free text's words, where it has at least four

Key = tuple[str, ...]
_DEMONYM_KEYS = frozenset(key for people in DEMONYMS.values() for text in people for key in fold_all(text))


def find_parts(tokens: Tokens, parts: tuple[Key, ...], covered: bytearray) -> list[int]:
    """The parts, in any order and anywhere, if the text has them all and the longest is not part of other names."""
    places = []
    for part in parts:
        size = len(part)
        place = next((i for i in range(len(tokens.keys) - size + 1) if tokens.keys[i : i + size] == part), -1)
        if place < 0:
            return []
        places.append((place, size))
    place, size = max(places, key=lambda found: found[1])
    if all(covered[place : place + size]):
        return []
    for place, size in places:
        covered[place : place + size] = b"\x01" * size
    return sorted(place for place, _ in places)


def find_joined(tokens: Tokens, phrases: Iterable[Key], covered: bytearray) -> list[int]:
    """A form whose words are joined or parted otherwise: "air base" for "airbase"."""
    for phrase in phrases:
        joined = "".join(phrase)
        if len(joined) < _SHORTEST_JOINED or joined.isdigit():
            continue
        for i, key in enumerate(tokens.keys):
            end, text = i + 1, key
            while joined.startswith(text) and text != joined and end < len(tokens.keys):
                text += tokens.keys[end]
                end += 1
            if text == joined and not any(covered[i:end]) and tokens.joined(i, end):
                return _cover(covered, i, end)
    return []


def find_loose(tokens: Tokens, phrases: Iterable[Key], covered: bytearray) -> list[int]:
    """A form with other linking words: "Erasmus University in Rotterdam" for "Erasmus University Rotterdam"."""
    for phrase in phrases:
        words = [key for key in phrase if key not in LINKING_WORDS]
        if len(words) < 2:
            continue
        for i, key in enumerate(tokens.keys):
            if key == words[0] and (end := _end_of_loose(tokens, words, i)) and not all(covered[i:end]):
                return _cover(covered, i, end)
    return []


def _end_of_loose(tokens: Tokens, words: Sequence[str], start: int) -> int:
    """One more than the last token if the words stand there with linking words at most between them, else 0."""
    i = start + 1
    for word in words[1:]:
        links = 0
        while i < len(tokens.keys) and tokens.keys[i] != word and tokens.keys[i] in LINKING_WORDS:
            i, links = i + 1, links + 1
        if i >= len(tokens.keys) or tokens.keys[i] != word or links > _MOST_LINKS:
            return 0
        i += 1
    return i if tokens.joined(start, i) else 0


def find_derived(tokens: Tokens, phrases: Iterable[Key], covered: bytearray) -> list[int]:
    """The adjective of a name of one word ("Javanese"), or the agent noun of a common noun ("electric guitarist")."""
    for phrase in phrases:
        last, size = phrase[-1], len(phrase)
        for i, key in enumerate(tokens.keys):
            if covered[i]:
                continue
            if size == 1 and tokens.is_capital(i) and is_derived(key, phrase, 2) and key not in _DEMONYM_KEYS:
                return _cover(covered, i, i + 1)
            if len(last) >= _SHORTEST_AGENT and key.startswith(last) and key[len(last) :] in AGENT_ENDINGS:
                start = i + 1 - size
                if start >= 0 and tokens.keys[start:i] == phrase[:-1]:
                    return _cover(covered, start, i + 1)
    return []


def is_derived(key: str, names: Iterable[str], most: int = 3) -> bool:
    """Whether a word is the adjective or demonym of a name by a regular ending: Parisian, Chicagoan.

    Args:
        key: the word.
        names: single keys.
        most: how many letters of the name the adjective may lack.
    """
    for ending in ADJECTIVE_ENDINGS:
        stem = key.removesuffix(ending)
        if stem != key and len(stem) >= _SHORTEST_STEM:
            return any(name.startswith(stem) and len(name) - len(stem) <= most for name in names)
    return False


def find_misspelt(
    tokens: Tokens, phrases: Iterable[Key], covered: bytearray, is_name: Callable[[Key], bool]
) -> list[int]:
    """A form of which one word is misspelt by one letter, unless what is written is a name of its own."""
    for phrase in phrases:
        size = len(phrase)
        shortest = _SHORTEST_MISSPELT if size == 1 else _SHORTEST_MISSPELT_PART
        if not any(len(key) >= shortest for key in phrase):
            continue
        for i in range(len(tokens.keys) - size + 1):
            if all(covered[i : i + size]):
                continue
            other = [k for k in range(size) if tokens.keys[i + k] != phrase[k]]
            if len(other) != 1 or covered[i + other[0]] or not tokens.is_capital(i + other[0]):
                continue
            written = tokens.keys[i + other[0]]
            if (
                _one_letter_off(written, phrase[other[0]], shortest)
                and tokens.joined(i, i + size)
                and not is_name((written,))
                and not is_name(tokens.keys[i : i + size])
            ):
                return _cover(covered, i, i + size)
    return []


def is_misspelt(key: str, names: Iterable[str]) -> bool:
    """Whether a word is one of the names with one letter wrong, missing, doubled or in the wrong place."""
    return any(_one_letter_off(key, name, _SHORTEST_MISSPELT) for name in names)


def _one_letter_off(written: str, name: str, shortest: int) -> bool:
    if abs(len(written) - len(name)) > 1 or min(len(written), len(name)) < shortest or written[0] != name[0]:
        return False
    if not (written.isalpha() and name.isalpha()) or written == name:
        return False
    i = next((i for i, pair in enumerate(zip(written, name, strict=False)) if pair[0] != pair[1]), -1)
    if i < 0:  # one begins with the other
        return True
    if len(written) == len(name):
        swapped = written[i : i + 2] == name[i : i + 2][::-1] and written[i + 2 :] == name[i + 2 :]
        return swapped or written[i + 1 :] == name[i + 1 :]
    longer, shorter = (written, name) if len(written) > len(name) else (name, written)
    return longer[i + 1 :] == shorter[i:]


def find_gist(tokens: Tokens, keys: Key, covered: bytearray) -> list[int]:
    """A free text told in other order or with other small words: all its words, or most of many."""
    wanted = set(keys) - COMMON_KEYS
    if len(wanted) < 2:
        return []
    places = [i for i, key in enumerate(tokens.keys) if key in wanted]
    found = len({tokens.keys[i] for i in places})
    if found < (len(wanted) if len(wanted) < 4 else _GIST * len(wanted)):
        return []
    for i in places:
        covered[i] = 1
    return places[:1]


def _cover(covered: bytearray, start: int, end: int) -> list[int]:
    covered[start:end] = b"\x01" * (end - start)
    return [start]
