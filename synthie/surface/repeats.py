"""Texts that nearly repeat an earlier one, found without comparing all pairs and without holding the texts in memory.

Two texts are near-duplicates if the Jaccard similarity of their word 3-shingles is at least the threshold. Where their
names or numbers differ, they state other facts in the same words, and only half that distance is allowed. Three steps
find them, each of which loses none:

1. Texts that similar share at least one of the rarest shingles of either (the prefix filter of Bayardo, Ma and
   Srikant, WWW 2007); texts that do are candidates.
2. Every text has 128 bits, each telling whether an odd number of its shingles falls on it. Texts differ in at least as
   many shingles as in bits (the bitmap filter of Sandes, Teodoro and Melo, Information Systems 2020), which rules out
   nearly all candidates, hundreds of thousands at once.
3. The few that are left are compared exactly.

Shingles and the rarest ones of each text lie in temporary files, about 500 and 150 bytes a text; memory holds two
blocks of the latter, and how frequent shingles are by 21 bits of their hash. That only the order "rarest first" is
approximate leaves the result exact: the first filter holds for any order, as long as it is the same for all texts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from synthie.surface.tokens import COMMON_KEYS, Tokens

__all__ = ["Repeat", "find_repeats"]

_SHINGLE = 3
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
_BATCH = 1 << 9  # texts hashed at once, and compared with one another at once
_BLOCK = 1 << 15  # texts whose rarest shingles are in memory
_BUCKETS = 1 << 21
_MOST = 2**16 - 1
_PAIRS = 1 << 16  # candidates looked at together
_BITS = 64  # of one of the two words of a text's bits

_HEAD = np.dtype([("label", "i8"), ("names", "i8"), ("text", "i8"), ("end", "i8"), ("bits", "u8", 2)])
"""Of a text: hash of its names, hash of all of it, where its shingles end, its bits."""

_POSTING = np.dtype([("shingle", "u8"), ("number", "u4"), ("size", "u4"), ("bits", "u8", 2)])
"""One of the rarest shingles of a text, with the text's number, number of shingles and bits."""


class Repeat(NamedTuple):
    """A text that repeats an earlier one, which is itself no repetition.

    Attributes:
        number: of the text, from 0.
        of: label of the earlier one.
        is_same: the texts are equal to the letter.
    """

    number: int
    of: int
    is_same: bool


def find_repeats(texts: Iterable[tuple[int, str]], threshold: float, folder: Path | None = None) -> Iterator[Repeat]:
    """The texts that nearly repeat an earlier one, in their order; all texts are read before the first is told.

    Args:
        texts: with labels.
        threshold: least similarity of near-duplicates.
        folder: where the temporary files go.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(3)]
        shingled = _Shingled(files[0], files[1])
        shingled.add(texts)
        yield from _Search(shingled, threshold, files[2]).repeats()


class _Shingled:
    """The shingles of all texts, sorted, each once, on disk.

    Attributes:
        count: number of texts.
    """

    def __init__(self, heads: IO[bytes], shingles: IO[bytes]) -> None:
        self.count = 0
        self._heads = heads
        self._shingles = shingles
        self._end = 0
        self._frequency = np.zeros(_BUCKETS, np.uint16)  # of the shingles of each bucket, at most _MOST

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        batch: list[tuple[int, str]] = []
        for text in texts:
            batch.append(text)
            if len(batch) == _BATCH:
                self._add(batch)
                batch = []
        if batch:
            self._add(batch)
        self._heads.flush()
        self._shingles.flush()

    def heads(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """_HEAD[count]: the heads of so many texts; int64[count + 1]: where their shingles begin and end."""
        before = min(first, 1)
        heads = _read(self._heads, _HEAD, first - before, count + before)
        ends = heads["end"] if before else np.concatenate([[0], heads["end"]])
        return heads[before:], ends

    def shingles(self, start: int, end: int) -> np.ndarray:
        """uint64: a stretch of the shingles."""
        return _read(self._shingles, np.dtype(np.uint64), start, end - start)

    def frequency(self, shingles: np.ndarray) -> np.ndarray:
        """uint16: about how often each occurs; 1 only if it occurs once."""
        return self._frequency[_bucket(shingles)]

    def _add(self, batch: Sequence[tuple[int, str]]) -> None:
        heads = np.zeros(len(batch), _HEAD)
        keys = []
        for head, (label, text) in zip(heads, batch, strict=True):
            tokens = Tokens(text)
            capitalised = {key for key, word in zip(tokens.keys, tokens.words, strict=True) if not word[0].islower()}
            keys.append(tokens.keys)
            head["label"], head["names"], head["text"] = label, hash(frozenset(capitalised - COMMON_KEYS)), hash(text)
        shingles, texts = _shingles(keys)
        heads["end"] = self._end + np.searchsorted(texts, np.arange(len(batch)), "right")
        heads["bits"] = _bits(shingles, texts, len(batch))
        self._end += len(shingles)
        buckets, times = np.unique(_bucket(shingles), return_counts=True)
        self._frequency[buckets] = np.minimum(self._frequency[buckets] + times, _MOST)
        self._heads.write(heads.tobytes())
        self._shingles.write(shingles.tobytes())
        self.count += len(batch)


class _Search:
    """Compares the texts block by block, each with those before it that are no repetitions.

    The rarest shingles of the texts of a block, in ascending order, make a run; the runs of earlier blocks are on disk.
    """

    def __init__(self, shingled: _Shingled, threshold: float, runs: IO[bytes]) -> None:
        self._all = shingled
        self._threshold = threshold
        self._file = runs
        self._runs: list[tuple[int, int]] = []  # first posting in the file, number of postings

    def repeats(self) -> Iterator[Repeat]:
        for first in range(0, self._all.count, _BLOCK):
            count = min(_BLOCK, self._all.count - first)
            self._first = first
            self._heads, self._ends = self._all.heads(first, count)
            self._found = np.full(count, -1, np.int64)  # number of the earlier text
            postings = self._rarest()
            for run in self._runs:
                self._search(_read(self._file, _POSTING, *run), self._not_found(postings))
            for start in range(first, first + count, _BATCH):
                until = postings[postings["number"] < start + _BATCH]
                until = self._not_found(until)
                self._search(until, until[until["number"] >= start])
            self._write_run(self._not_found(postings))
            for number in np.flatnonzero(self._found >= 0).tolist():
                (other,), _ = self._all.heads(int(self._found[number]), 1)
                is_same = bool(other["text"] == self._heads["text"][number])
                yield Repeat(first + number, int(other["label"]), is_same)

    def _rarest(self) -> np.ndarray:
        """_POSTING, by shingle: the rarest shingles of each text of the block that another text may have."""
        parts = []
        for start in range(0, len(self._heads), _BATCH):
            ends = self._ends[start : start + _BATCH + 1]
            lengths = np.diff(ends)
            shingles = self._all.shingles(int(ends[0]), int(ends[-1]))
            texts = np.repeat(np.arange(len(lengths)), lengths)
            frequency = self._all.frequency(shingles)
            # Each text's are in ascending order already, so equal keys stay in the order of the whole hash.
            keys = texts.astype(np.uint64) << np.uint64(54) | frequency.astype(np.uint64) << np.uint64(38)
            order = np.argsort(keys | shingles >> np.uint64(26), kind="stable")
            # A pair at the threshold shares a shingle among the first `prefix` of both, in any common order.
            prefix = lengths - np.ceil(self._threshold * lengths - 1e-9).astype(np.int64) + 1
            place = np.arange(len(shingles)) - (ends[:-1] - ends[0])[texts]
            chosen = order[(place < prefix[texts]) & (frequency[order] > 1)]
            postings = np.empty(len(chosen), _POSTING)
            postings["shingle"] = shingles[chosen]
            postings["number"] = self._first + start + texts[chosen]
            postings["size"] = lengths[texts[chosen]]
            postings["bits"] = self._heads["bits"][start + texts[chosen]]
            parts.append(postings)
        postings = np.concatenate(parts)
        return postings[np.argsort(postings["shingle"], kind="stable")]

    def _not_found(self, postings: np.ndarray) -> np.ndarray:
        """Those of the block's postings whose text is no repetition so far."""
        return postings[self._found[postings["number"] - self._first] < 0]

    def _search(self, theirs: np.ndarray, own: np.ndarray) -> None:
        """Compare texts of the block with texts before them.

        Args:
            theirs, own: _POSTING, by shingle.
        """
        shingles = np.ascontiguousarray(theirs["shingle"])
        low = np.searchsorted(shingles, own["shingle"], "left")
        is_hit = low < len(shingles)
        is_hit[is_hit] = shingles[low[is_hit]] == own["shingle"][is_hit]
        own, low = own[is_hit], low[is_hit]
        order = np.argsort(own["number"], kind="stable")
        own, low = own[order], low[order]
        sizes = np.searchsorted(shingles, own["shingle"], "right") - low
        pairs = np.cumsum(sizes)
        start = 0
        while start < len(own):
            before = pairs[start - 1] if start else 0
            end = max(int(np.searchsorted(pairs, before + _PAIRS)), start + 1)
            end = int(np.searchsorted(own["number"], own["number"][end - 1], "right"))  # all of one text together
            part = slice(start, end)
            inside = np.arange(sizes[part].sum()) - np.repeat(pairs[part] - sizes[part] - before, sizes[part])
            others = theirs[np.repeat(low[part], sizes[part]) + inside]
            self._compare(np.repeat(own[part], sizes[part]), others)
            start = end

    def _compare(self, own: np.ndarray, others: np.ndarray) -> None:
        """Find the first of the other texts that each text nearly repeats.

        Args:
            own, others: _POSTING[pairs], all of one text of the block together.
        """
        may_be = (others["number"] < own["number"]) & (_least_distance(own, others) <= self._most_distance(own, others))
        own, others = own["number"][may_be], others["number"][may_be]
        for pair in np.unique(own.astype(np.uint64) << np.uint64(32) | others).tolist():
            number, other = (pair >> 32) - self._first, pair & (2**32 - 1)
            is_repeat = other >= self._first and self._found[other - self._first] >= 0
            if self._found[number] < 0 and not is_repeat and self._is_similar(number, other):
                self._found[number] = other

    def _most_distance(self, own: np.ndarray, others: np.ndarray) -> np.ndarray:
        """float64[pairs]: in how many shingles near-duplicates of these sizes differ at most."""
        share = (1 - self._threshold) / (1 + self._threshold)
        return (own["size"] + others["size"]) * share + 1e-6

    def _is_similar(self, number: int, other: int) -> bool:
        """Whether text ``number`` of the block nearly repeats the other text."""
        (head,), (their_start, their_end) = self._all.heads(other, 1)
        needed = self._threshold if head["names"] == self._heads["names"][number] else (1 + self._threshold) / 2
        own = self._all.shingles(*self._ends[number : number + 2].tolist())
        theirs = self._all.shingles(int(their_start), int(their_end))
        shared = len(np.intersect1d(own, theirs, assume_unique=True))
        return shared / (len(own) + len(theirs) - shared) >= needed

    def _write_run(self, postings: np.ndarray) -> None:
        self._runs.append((self._file.tell() // _POSTING.itemsize, len(postings)))
        self._file.write(postings.tobytes())
        self._file.flush()


def _shingles(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """uint64: the hashes of the shingles, by text and sorted, each once; int64: the text of each.

    Texts of fewer words than a shingle are filled up, except empty ones.
    """
    lengths = np.array([max(len(keys), _SHINGLE) if keys else 0 for keys in texts], np.int64)
    filled = (chain(map(hash, keys), [0] * (_SHINGLE - len(keys))) for keys in texts if keys)
    ids = np.fromiter(chain.from_iterable(filled), np.int64, int(lengths.sum())).view(np.uint64)
    numbers = np.repeat(np.arange(len(texts)), lengths)
    count = max(len(ids) - _SHINGLE + 1, 0)
    mixed = np.zeros(count, np.uint64)
    for k, factor in enumerate(_MIX):
        mixed = (mixed ^ (ids[k : count + k] * factor)) * _MIX[0]
        mixed ^= mixed >> np.uint64(29)
    is_whole = numbers[:count] == numbers[_SHINGLE - 1 :]  # not from one text into the next
    mixed, numbers = mixed[is_whole], numbers[:count][is_whole]
    order = np.lexsort((mixed, numbers))
    mixed, numbers = mixed[order], numbers[order]
    is_first = np.ones(len(mixed), bool)
    is_first[1:] = (mixed[1:] != mixed[:-1]) | (numbers[1:] != numbers[:-1])
    return mixed[is_first], numbers[is_first]


def _bits(shingles: np.ndarray, texts: np.ndarray, count: int) -> np.ndarray:
    """uint64[count, 2]: for every bit of a text whether an odd number of its shingles falls on it."""
    bits = np.zeros((count, 2), np.uint64)
    words = shingles >> np.uint64(63)
    flips = np.uint64(1) << (shingles >> np.uint64(57) & np.uint64(_BITS - 1))
    np.bitwise_xor.at(bits, (texts, words.astype(np.int64)), flips)
    return bits


def _least_distance(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many shingles the texts of each pair of postings differ at least."""
    sizes = np.abs(own["size"].astype(np.int64) - others["size"])
    differing = np.bitwise_count(own["bits"] ^ others["bits"])
    return np.maximum(sizes, differing[:, 0] + differing[:, 1])


def _bucket(shingles: np.ndarray) -> np.ndarray:
    return (shingles & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _read(file: IO[bytes], dtype: np.dtype, first: int, count: int) -> np.ndarray:
    return np.frombuffer(os.pread(file.fileno(), dtype.itemsize * count, dtype.itemsize * first), dtype)
