"""Which words tell which relation, as far as the relations' own labels and aliases say.

People tell a relation in more words than any table has, so that a relation's
words are missing proves nothing. That the words of a rival are there instead
does: "directed by" where the set has a screenwriter. Rivals are relations that
one could mistake for each other by their kind: those of makers ("written by",
"architect"), those with one head ("place of birth", "place of death"), and those
of kin.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from synthie.surface.english import COGNATES, KIN, MAKING_WORDS
from synthie.surface.tokens import COMMON_KEYS, fold_all

__all__ = ["RelationCues"]

_ENDINGS = ("ating", "ated", "ator", "ation", "ate", "ing", "ed", "er", "or", "ion", "e")
_MOST_OWNERS = 3  # a word of more relations tells none
_CACHED_STEMS = 1 << 16
_SHORTEST_STEM = 4
_BY = re.compile(r"(?:^|\s)\w+ by\Z")
_MAKER = re.compile(r"(?:^| )\w+(?:er|or|ect)\Z")
_KIN_KINDS = (("parent", {"child", "son", "daughter"}), ("child", {"father", "mother", "parent"}))
_HEAD = re.compile(r"(place|date|start|end) of \w+|(start|end) time\Z")


class RelationCues:
    """The words of every relation of a graph, and of which other relations' words they must not be mistaken.

    Args:
        relations: (id, label, aliases) of every relation.
    """

    def __init__(self, relations: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        self._own: dict[str, frozenset[str]] = {}
        self._kinds: dict[str, frozenset[str]] = {}
        self._labels: dict[str, str] = {}
        owners: defaultdict[str, set[str]] = defaultdict(set)
        for uri, label, aliases in relations:
            self._labels[uri] = label
            self._kinds[uri] = frozenset(_kinds(label, aliases))
            # "son of" may be an alias of father; it tells of a mother just as well.
            inverses = set().union(*(inverse for kind, inverse in _KIN_KINDS if kind in self._kinds[uri]))
            self._own[uri] = frozenset(_cues((label, *aliases))) - {stem(word) for word in inverses}
            for cue in self._own[uri]:
                owners[cue].add(uri)
        heads = {word for kinds in self._kinds.values() for kind in kinds for word in _cues([kind])}
        self._own = {uri: cues - heads for uri, cues in self._own.items()}
        self._owners = {
            cue: sorted(uris) for cue, uris in owners.items() if len(uris) <= _MOST_OWNERS and cue not in heads
        }

    def may_rival(self, uri: str) -> bool:
        """Whether a relation has rivals at all."""
        return bool(self._kinds.get(uri))

    def rivals(self, keys: Iterable[str], uri: str, others: frozenset[str]) -> Iterator[tuple[int, str]]:
        """(place among the keys, label of the relation that it tells) of words of the rivals of a relation.

        Args:
            keys: words of a sentence.
            uri: a relation of the set.
            others: all relations of the set, whose words are no rivals'.
        """
        for place, key in enumerate(keys):
            owners = self._owners.get(stem(key), ()) if _may_tell(key) else ()
            if others.isdisjoint(owners):
                yield from ((place, self._labels[owner]) for owner in owners if self._kinds[owner] & self._kinds[uri])

    def tells(self, keys: Iterable[str], uri: str) -> bool:
        """Whether one of the words is the relation's own."""
        own = self._own[uri]
        return any(stem(key) in own for key in keys)


@lru_cache(_CACHED_STEMS)
def stem(key: str) -> str:
    """What a verb and the nouns made of it have in common: direct(ed), direct(or)."""
    if key in COGNATES:
        return COGNATES[key][0]
    for ending in _ENDINGS:
        rest = key.removesuffix(ending)
        if rest != key and len(rest) >= _SHORTEST_STEM:
            return rest.removesuffix("e")
    return key


def _cues(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (stem(key) for key in fold_all(text) if _may_tell(key))


def _may_tell(key: str) -> bool:
    return key in COGNATES or key not in COMMON_KEYS


def _kinds(label: str, aliases: Sequence[str]) -> Iterator[str]:
    """The kinds of relation among which one may be mistaken for another."""
    keys = fold_all(label)
    if match := _HEAD.fullmatch(label):
        yield match[1] or match[2]
    elif len(keys) == 1 and keys[0] in KIN:
        # One person's father is told with the other's "son", so those two are no rivals.
        yield from (kind for kind, inverse in _KIN_KINDS if keys[0] not in inverse)
    elif MAKING_WORDS.isdisjoint(keys) and (
        _BY.search(label) or (_MAKER.search(label) and any(_BY.search(alias) for alias in aliases))
    ):
        yield "maker"
