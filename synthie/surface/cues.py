"""Which words tell which relation, as the accepted texts of a run teach it.

`find_cues` takes from a text the words that stand around a triplet's object and
between it and the subject. `LearnedCues` goes through those of all accepted texts
three times: it counts them by relation, it sees how much of its usual words a
relation mostly has, and it names the triplets that have hardly any of them, but
those of another relation that links such nodes. Texts and relations are counted,
never kept, so that a million texts take no more memory than a thousand; the order
of the texts makes no difference.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self
from zlib import crc32

import numpy as np

from synthie.surface.tokens import Tokens

__all__ = ["CueTable", "LearnedCues", "Retold", "TripletCues", "find_cues", "stable_hash"]

_ARTICLES = frozenset(("the", "a", "an", "and"))
# A name behind them stands in one row with the object, and the relation's words before it.
_JOINERS = _ARTICLES | {"or"}
_LONGEST_RUN = 8  # words on either side of the object
_CACHED_WORDS = 1 << 16

_PAIR_BITS = 22
_PAIRS = 1 << _PAIR_BITS  # counters for words by relation, found by a hash of both
_WORDS = 1 << 20  # counters for words
_CLASSES = 1 << 10  # classes of subjects, and of objects, that are kept of a relation
_RIVALS = 32
_JUDGED = 256  # triplets at a time
_FEWEST_TEXTS = 8  # a relation with fewer is not judged, and is no rival
_FEWEST_OTHERS = 2  # texts beside the one judged that must have a word
_SMOOTHING = 15.0
_STRONGEST = 4.0  # most that one word counts
_FARTHEST = 3.0  # most standard deviations that count
_SPREAD = 1.0  # standard deviation of a relation of which nothing is known, as good as that of three texts
_SPREAD_TEXTS = 3.0
# Chosen on the development half of benchmarks/quality.py, where texts of each fifth of the sets were judged by those of
# the others: at 3.25, 36 percent of the relabelled texts are caught and 0.35 percent of the faithful ones lost; at 3.0,
# 38 and 0.5. A little more than that, since a good text is worth more than a bad one caught.
_CLEAR = 3.5


class TripletCues(NamedTuple):
    """What a text tells a triplet with.

    Attributes:
        relation: number of the relation.
        subject, object: `stable_hash` of a class of the node.
        words: of each word around the mentions, none twice.
    """

    relation: int
    subject: int
    object: int
    words: tuple[int, ...]


class Retold(NamedTuple):
    """A triplet that is told in the words of another relation.

    Attributes:
        text: number of the text in the table.
        relation, rival: numbers of the triplet's relation and of the one that the text tells.
        word: the rival's word.
    """

    text: int
    relation: int
    rival: int
    word: int


@lru_cache(_CACHED_WORDS)
def stable_hash(word: str) -> int:
    """32 bits, the same in every process."""
    return crc32(word.encode())


def find_cues(tokens: Tokens, covered: bytearray, subjects: Sequence[int], objects: Sequence[int]) -> list[int]:
    """The tokens that may tell how an object belongs to a subject: [] where one of them is not mentioned.

    They are those between the nearest two mentions, and the runs of words on both sides of the object up to the next
    name. Where no sentence has both, the sentence of the object counts from its beginning.

    Args:
        tokens: the text.
        covered: 1 for each token that belongs to a name.
        subjects, objects: first tokens of the mentions of both, ascending.
    """
    sentences, keys = tokens.sentences, tokens.keys
    pair = _nearest(sentences, subjects, objects)
    if pair is None:
        return []
    subject, object_ = pair
    first = bisect_left(sentences, sentences[object_])
    last = bisect_right(sentences, sentences[object_])
    after = object_
    while after < last and covered[after]:
        after += 1
    begin = _last_of_run(keys, covered, range(object_ - 1, first - 1, -1), object_)
    end = _last_of_run(keys, covered, range(after, last), after - 1) + 1
    if sentences[subject] == sentences[object_]:
        begin, end = min(begin, subject), max(end, subject)
    else:
        begin = first
    return [i for i in range(begin, end) if not covered[i] and keys[i] not in _ARTICLES]


def _nearest(sentences: Sequence[int], subjects: Sequence[int], objects: Sequence[int]) -> tuple[int, int] | None:
    """The mentions of both that are next to each other, in one sentence if possible; None if there are no two."""
    if len(subjects) == len(objects) == 1:
        return (subjects[0], objects[0]) if subjects[0] != objects[0] else None
    pairs = []
    for subject in subjects:
        before, after = bisect_left(objects, subject), bisect_right(objects, subject)
        around = (*objects[max(0, before - 1) : before], *objects[after : after + 1])
        pairs += [(subject, object_) for object_ in around]
    if not pairs:
        return None
    return min(pairs, key=lambda pair: (sentences[pair[0]] != sentences[pair[1]], abs(pair[0] - pair[1])))


def _last_of_run(keys: Sequence[str], covered: bytearray, places: range, last: int) -> int:
    """Where the words end that go on from the object to a name that more than an "and" parts from it.

    Args:
        keys, covered: of the text.
        places: where they may be.
        last: what to return if there are none.
    """
    length, tells = 0, False
    for i in places:
        if covered[i]:
            if tells:
                break
        else:
            last = i
            length += 1
            if length == _LONGEST_RUN:
                break
            tells = tells or keys[i] not in _JOINERS
    return last


@dataclass(frozen=True, slots=True)
class CueTable:
    """The `TripletCues` of many texts, in flat arrays.

    Attributes:
        texts: int64[triplets], number of the text, ascending.
        relations: int64[triplets].
        subjects, objects: int64[triplets], hashes of classes.
        offsets: int64[triplets + 1], where the words of a triplet begin.
        words: int64[words], hashes.
    """

    texts: np.ndarray
    relations: np.ndarray
    subjects: np.ndarray
    objects: np.ndarray
    offsets: np.ndarray
    words: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[TripletCues]]) -> Self:
        """The table of the cues of some texts."""
        rows = [(number, cues) for number, text in enumerate(texts) for cues in text]
        head = [(number, cues.relation, cues.subject, cues.object) for number, cues in rows]
        numbers, relations, subjects, objects = np.array(head, np.int64).reshape(-1, 4).T
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(cues.words) for _, cues in rows], out=offsets[1:])
        words = np.array([word for _, cues in rows for word in cues.words], np.int64)
        return cls(numbers, relations, subjects, objects, offsets, words)

    @property
    def owners(self) -> np.ndarray:
        """int64[words], the triplet of each word."""
        return np.repeat(np.arange(len(self.texts)), np.diff(self.offsets))

    def told(self) -> np.ndarray:
        """int64[texts, triplets], the relations of each text, then -1."""
        place = np.arange(len(self.texts)) - np.searchsorted(self.texts, self.texts)
        told = np.full((self.texts.max(initial=-1) + 1, place.max(initial=0) + 1), -1)
        told[self.texts, place] = self.relations
        return told

    def padded_words(self, rows: np.ndarray) -> np.ndarray:
        """int64[rows, words], the words of some triplets, then -1."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        place = np.arange(lengths.max(initial=1))
        at = np.minimum(self.offsets[rows, None] + place, len(self.words) - 1)
        return np.where(place < lengths[:, None], self.words[at], -1)


class LearnedCues:
    """How the texts of a run tell each relation.

    First `add` all texts, then `settle` all, then `judge`. How much a word tells of a relation is the logarithm of how
    much more often the relation's texts have it than all texts do (pointwise mutual information; Church and Hanks,
    Computational Linguistics 16(1), 1990), smoothed towards no difference, and nothing if less often. A word of a
    relation's name tells of it anyway, the less the more relations have it. What a text has of a relation is the sum
    over its words. A triplet is told in the words of a rival if ::

        word - own + other > 3.5

    where ``word`` is the most that a word tells of the rival beyond what it tells of the relations of the set, and
    ``own`` and ``other`` are what the text has of the triplet's relation and of the rival, in standard deviations from
    what their own texts have. Rivals are relations that link nodes of the same classes. A text does not vouch for
    itself: where it was added, it is left out of what it is held against.

    Args:
        relations: how many relations there are.
        named: a relation and the `stable_hash` of a word of its label or an alias, for each such word.
    """

    def __init__(self, relations: int, named: Iterable[tuple[int, int]] = ()) -> None:
        pairs = np.array(sorted(set(named)), np.int64).reshape(-1, 2)
        _, owner, owners = np.unique(pairs[:, 1], return_inverse=True, return_counts=True)
        self._named = pairs[:, 0] << 32 | pairs[:, 1]  # ascending
        self._named_tell = _STRONGEST / np.sqrt(owners[owner])
        self._may_be_named = np.zeros(_PAIRS, np.bool_)  # of which an exact search finds those that are
        self._may_be_named[_slots(pairs[:, 0], pairs[:, 1])] = True
        self._pairs = np.zeros(_PAIRS, np.int32)
        self._words = np.zeros(_WORDS, np.int32)
        self._units = 0  # pairs of a text and a relation of it
        self._texts = np.zeros(relations, np.int64)  # of each relation
        self._classes = (np.empty(0, np.int64), np.empty(0, np.int64))  # relation << 32 | class, ascending
        self._evidence = np.zeros((3, relations))  # number, sum, sum of squares of what texts have of their relations
        self._rival_table: np.ndarray | None = None

    def add(self, table: CueTable) -> None:
        """Learn from texts. A word that one has twice for a relation counts once."""
        self._classes = (
            _merge(self._classes[0], table.relations << 32 | table.subjects),
            _merge(self._classes[1], table.relations << 32 | table.objects),
        )
        self._rival_table = None
        owners = table.owners
        units, unit = np.unique(table.texts * len(self._texts) + table.relations, return_inverse=True)
        told = np.unique(unit[owners] << 32 | table.words)
        words = told & 0xFFFFFFFF
        np.add.at(self._pairs, _slots(units[told >> 32] % len(self._texts), words), 1)
        np.add.at(self._words, words % _WORDS, 1)
        telling = np.unique(unit[owners])
        np.add.at(self._texts, units[telling] % len(self._texts), 1)
        self._units += len(telling)

    def settle(self, table: CueTable) -> None:
        """See how much of its usual words each relation has in texts that were added."""
        evidence = _sums(self._tells(table.relations[table.owners], table.words, own=1), table)
        for row, values in zip(self._evidence, (np.ones(len(evidence)), evidence, evidence**2), strict=True):
            np.add.at(row, table.relations, np.where(np.diff(table.offsets) > 0, values, 0))

    def judge(self, table: CueTable, *, added: bool = True) -> list[Retold]:
        """The triplets that are told in the words of another relation, by text, one of each text.

        Args:
            table: the texts.
            added: they are among those learned from.
        """
        evidence = _sums(self._tells(table.relations[table.owners], table.words, own=int(added)), table)
        own = self._deviation(evidence, table.relations)
        known = self._texts[table.relations] - added >= _FEWEST_TEXTS
        rows = np.flatnonzero(known & (np.diff(table.offsets) > 0))
        told = table.told()
        best: dict[int, tuple[float, Retold]] = {}
        for first in range(0, len(rows), _JUDGED):
            some = rows[first : first + _JUDGED]
            score, rivals, words = self._strongest_rivals(table, some, told, int(added))
            score -= own[some]
            for i in np.flatnonzero(score > _CLEAR).tolist():
                text = int(table.texts[some[i]])
                if score[i] > best.get(text, (0.0,))[0]:
                    relation = int(table.relations[some[i]])
                    best[text] = float(score[i]), Retold(text, relation, int(rivals[i]), int(words[i]))
        return [retold for _, retold in best.values()]

    def _strongest_rivals(
        self, table: CueTable, rows: np.ndarray, told: np.ndarray, own: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float64[rows], int64[rows], int64[rows]: what speaks for the strongest rival, that rival, its word."""
        words = table.padded_words(rows)  # int64[rows, words], -1 where there are no more
        told, rivals = told[table.texts[rows]], self._rivals[table.relations[rows]]
        known = self._tells(told[:, :, None], words[:, None], own * (told == table.relations[rows, None])[:, :, None])
        tells = self._tells(rivals[:, :, None], words[:, None])  # float64[rows, rivals, words]
        beyond = np.where(words[:, None] < 0, -np.inf, tells - known.max(axis=1)[:, None])
        score = beyond.max(axis=2) + self._deviation(tells.sum(axis=2), rivals)
        score[(rivals < 0) | (rivals[:, :, None] == told[:, None]).any(axis=2)] = -np.inf
        strongest, at = score.argmax(axis=1), np.arange(len(rows))
        return score[at, strongest], rivals[at, strongest], words[at, beyond[at, strongest].argmax(axis=1)]

    def _tells(self, relations: np.ndarray, words: np.ndarray, own: int | np.ndarray = 0) -> np.ndarray:
        """How much words tell of relations, leaving out ``own`` texts with both; -1 stands for nothing."""
        slots, counts = _slots(relations, words), self._words[words % _WORDS]
        pairs = np.minimum(self._pairs[slots], counts) - own  # more would be another pair's
        tells = np.zeros(pairs.shape)
        known = np.nonzero((pairs >= _FEWEST_OTHERS) & (relations >= 0) & (words >= 0))
        texts, counts = (np.broadcast_to(part, pairs.shape)[known] for part in (self._texts[relations] - own, counts))
        share = counts / self._units
        ratio = (pairs[known] + _SMOOTHING * share) / ((texts + _SMOOTHING) * share)
        tells[known] = np.clip(np.log(ratio), 0, _STRONGEST)
        named = np.nonzero(self._may_be_named[slots])
        if len(named[0]):
            tells[named] = np.maximum(tells[named], self._tells_by_name((relations << 32 | words)[named]))
        return tells

    def _tells_by_name(self, pairs: np.ndarray) -> np.ndarray:
        """float64[pairs], how much words tell of the relations whose names have them."""
        at = np.minimum(np.searchsorted(self._named, pairs), len(self._named) - 1)
        return np.where(self._named[at] == pairs, self._named_tell[at], 0.0)

    def _deviation(self, evidence: np.ndarray, relations: np.ndarray) -> np.ndarray:
        """Standard deviations between what a text has of a relation and what the relation's own texts have."""
        number, total, squares = self._evidence[:, relations]
        mean = total / np.maximum(number, 1)
        spread = np.maximum(squares - number * mean**2, 0) + _SPREAD_TEXTS * _SPREAD**2
        return np.clip((evidence - mean) / np.sqrt(spread / (number + _SPREAD_TEXTS)), -_FARTHEST, _FARTHEST)

    @property
    def _rivals(self) -> np.ndarray:
        """int64[relations, rivals], relations that link nodes of the same classes, the likest first, then -1."""
        if self._rival_table is None:
            likeness = np.minimum(*(_shared(classes, len(self._texts)) for classes in self._classes))
            likeness *= self._texts >= _FEWEST_TEXTS
            np.fill_diagonal(likeness, 0)
            order = np.argsort(-likeness, axis=1, kind="stable")[:, :_RIVALS]
            table = np.where(np.take_along_axis(likeness, order, axis=1) > 0, order, -1)
            self._rival_table = table[:, : max(1, int((table >= 0).sum(axis=1).max(initial=0)))]
        return self._rival_table


def _slots(relations: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The counters of pairs: multiplicative hashing, of which the high bits are the good ones."""
    with np.errstate(over="ignore"):
        mixed = (relations.astype(np.uint64) << np.uint64(32) | words.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ mixed >> np.uint64(32)) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed >> np.uint64(64 - _PAIR_BITS)).astype(np.int64)


def _merge(known: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The union, of each relation the smallest hashes only: the same whatever came first."""
    union = np.union1d(known, new)
    relations = union >> 32
    return union[np.arange(len(union)) - np.searchsorted(relations, relations) < _CLASSES]


def _shared(classes: np.ndarray, relations: int) -> np.ndarray:
    """float32[relations, relations], how many classes two have in common."""
    _, columns = np.unique(classes & 0xFFFFFFFF, return_inverse=True)
    shared = np.zeros((relations, relations), np.float32)
    for first in range(0, int(columns.max(initial=-1)) + 1, _CLASSES):
        inside = (columns >= first) & (columns < first + _CLASSES)
        links = np.zeros((relations, _CLASSES), np.float32)
        links[classes[inside] >> 32, columns[inside] - first] = 1
        shared += links @ links.T
    return shared


def _sums(values: np.ndarray, table: CueTable) -> np.ndarray:
    """float64[triplets], the sums over the words of each triplet."""
    return np.diff(np.concatenate([[0.0], np.cumsum(values)])[table.offsets])
