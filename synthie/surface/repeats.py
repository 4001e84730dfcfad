"""Texts that nearly repeat an earlier one, found without comparing all pairs and without holding the texts in memory.

Two texts are near-duplicates if the Jaccard similarity of their word 3-shingles is at least the threshold. Where their
names or numbers differ, they state other facts in the same words, and only half that distance is allowed. Texts that
similar share at least one of the rarest shingles of either (the prefix filter of Bayardo, Ma and Srikant, WWW 2007),
so few pairs are candidates; those are compared exactly.

Shingles and the rarest ones of each text lie in temporary files, about 500 and 100 bytes a text; memory holds one block
of texts, and how frequent shingles are by 16 bits of their hash's bucket. That only the order "rarest first" is
approximate leaves the result exact: the filter holds for any order, as long as it is the same for all texts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from synthie.surface.tokens import COMMON_KEYS, Tokens

__all__ = ["Repeat", "find_repeats"]

_SHINGLE = 3
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
_BATCH = 1 << 9  # texts hashed at once
_BLOCK = 1 << 14  # texts whose rarest shingles are in memory
_BUCKETS = 1 << 21
_MOST = 2**16 - 1
_PAIRS = 1 << 18  # candidates looked at together
_HEAD = 4  # numbers in the head of a text: label, hash of its names, hash of the text, end of its shingles


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
        self._add(batch)
        self._heads.flush()
        self._shingles.flush()

    def heads(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """int64[count, 4]: the heads of so many texts; int64[count + 1]: where their shingles begin and end."""
        before = min(first, 1)
        heads = _read(self._heads, np.int64, (first - before) * _HEAD, (count + before) * _HEAD).reshape(-1, _HEAD)
        ends = heads[:, 3] if before else np.concatenate([[0], heads[:, 3]])
        return heads[before:], ends

    def shingles(self, start: int, end: int) -> np.ndarray:
        """uint64: a stretch of the shingles."""
        return _read(self._shingles, np.uint64, start, end - start)

    def frequency(self, shingles: np.ndarray) -> np.ndarray:
        """uint16: about how often each occurs; 1 only if it occurs once."""
        return self._frequency[_bucket(shingles)]

    def _add(self, batch: Sequence[tuple[int, str]]) -> None:
        heads = np.empty((len(batch), _HEAD), np.int64)
        members = []
        for head, (label, text) in zip(heads, batch, strict=True):
            tokens = Tokens(text)
            capitalised = {key for key, word in zip(tokens.keys, tokens.words, strict=True) if not word[0].islower()}
            members.append(_shingles(tokens.keys))
            self._end += len(members[-1])
            head[:] = label, hash(frozenset(capitalised - COMMON_KEYS)), hash(text), self._end
        if not batch:
            return
        shingles = np.concatenate(members)
        buckets, times = np.unique(_bucket(shingles), return_counts=True)
        self._frequency[buckets] = np.minimum(self._frequency[buckets] + times, _MOST)
        self._heads.write(heads.tobytes())
        self._shingles.write(shingles.tobytes())
        self.count += len(batch)


class _Search:
    """Compares the texts block by block, each with those before it that are no repetitions.

    The rarest shingles of the texts of a block, sorted by hash with the texts' numbers, make a run; the runs of earlier
    blocks are on disk.
    """

    def __init__(self, shingled: _Shingled, threshold: float, runs: IO[bytes]) -> None:
        self._all = shingled
        self._threshold = threshold
        self._file = runs
        self._runs: list[tuple[int, int]] = []  # offset in the file, number of shingles

    def repeats(self) -> Iterator[Repeat]:
        for first in range(0, self._all.count, _BLOCK):
            count = min(_BLOCK, self._all.count - first)
            self._first = first
            self._heads, self._ends = self._all.heads(first, count)
            hashes, owners = self._rarest()
            found = np.full(count, -1, np.int64)  # number of the earlier text
            for run in self._runs:
                self._search_run(run, hashes, owners, found)
            self._search_block(hashes, owners, found)
            stays = found[owners] < 0
            self._write_run(hashes[stays], owners[stays])
            for number in np.flatnonzero(found >= 0).tolist():
                (other,), _ = self._all.heads(int(found[number]), 1)
                is_same = bool(other[2] == self._heads[number, 2])
                yield Repeat(first + number, int(other[0]), is_same)

    def _rarest(self) -> tuple[np.ndarray, np.ndarray]:
        """The rarest shingles of each text that another text may have, with its number in the block, by hash."""
        hashes, owners = [], []
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
            hashes.append(shingles[chosen])
            owners.append((texts[chosen] + start).astype(np.int32))
        rarest, numbers = np.concatenate(hashes), np.concatenate(owners)
        order = np.argsort(rarest, kind="stable")
        return rarest[order], numbers[order]

    def _search_run(self, run: tuple[int, int], hashes: np.ndarray, owners: np.ndarray, found: np.ndarray) -> None:
        """Compare with the texts of an earlier block what repeats none of those before it."""
        offset, count = run
        theirs = np.frombuffer(os.pread(self._file.fileno(), 8 * count, offset), np.uint64)
        low, high = np.searchsorted(theirs, hashes, "left"), np.searchsorted(theirs, hashes, "right")
        hits = np.flatnonzero((high > low) & (found[owners] < 0))
        hits = hits[np.argsort(owners[hits], kind="stable")]
        pairs = np.cumsum(high[hits] - low[hits])
        numbers = np.frombuffer(os.pread(self._file.fileno(), 4 * count, offset + 8 * count), np.uint32)
        start = 0
        while start < len(hits):
            before = pairs[start - 1] if start else 0
            end = max(int(np.searchsorted(pairs, before + _PAIRS)), start + 1)
            end = int(np.searchsorted(owners[hits], owners[hits[end - 1]], "right"))  # all of one text together
            part = hits[start:end]
            sizes = high[part] - low[part]
            inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            others = numbers[np.repeat(low[part], sizes) + inside]
            both = np.unique(np.repeat(owners[part], sizes).astype(np.uint64) << np.uint64(32) | others)
            text = both >> np.uint64(32)
            for candidates in np.split(both, np.flatnonzero(np.diff(text)) + 1):
                number = int(candidates[0]) >> 32
                found[number] = self._first_similar(number, (candidates & np.uint64(2**32 - 1)).tolist())
            start = end

    def _search_block(self, hashes: np.ndarray, owners: np.ndarray, found: np.ndarray) -> None:
        """Compare the texts of the block with one another, in their order."""
        begins = np.flatnonzero(np.concatenate([np.ones(len(hashes[:1]), bool), hashes[1:] != hashes[:-1]]))
        sizes = np.diff(np.append(begins, len(hashes)))
        group = np.repeat(np.arange(len(begins)), sizes)
        shared = np.flatnonzero((sizes > 1)[group])
        shared = shared[np.argsort(owners[shared], kind="stable")]
        if not len(shared):
            return
        texts, starts = np.unique(owners[shared], return_index=True)
        posting = np.empty(len(hashes), np.int32)  # of each group, the texts that are no repetitions, from its begin on
        posted = np.zeros(len(begins), np.int64)
        for number, own in zip(texts.tolist(), np.split(group[shared], starts[1:]), strict=True):
            if found[number] >= 0:
                continue
            candidates: set[int] = set()
            for begin, count in zip(begins[own].tolist(), posted[own].tolist(), strict=True):
                candidates.update(posting[begin : begin + count].tolist())
            found[number] = self._first_similar(number, [self._first + other for other in sorted(candidates)])
            if found[number] < 0:
                posting[begins[own] + posted[own]] = number
                posted[own] += 1

    def _first_similar(self, number: int, others: Sequence[int]) -> int:
        """The first of the other texts that text ``number`` of the block nearly repeats, or -1."""
        start, end = self._ends[number : number + 2].tolist()
        own = None
        for other in others:
            (head,), (their_start, their_end) = self._all.heads(other, 1)
            same_names = head[1] == self._heads[number, 1]
            needed = self._threshold if same_names else (1 + self._threshold) / 2
            lengths = end - start, int(their_end - their_start)
            if min(lengths) / max(lengths) < needed:
                continue
            own = self._all.shingles(start, end) if own is None else own
            theirs = self._all.shingles(int(their_start), int(their_end))
            shared = len(np.intersect1d(own, theirs, assume_unique=True))
            if shared / (sum(lengths) - shared) >= needed:
                return other
        return -1

    def _write_run(self, hashes: np.ndarray, owners: np.ndarray) -> None:
        self._runs.append((self._file.tell(), len(hashes)))
        self._file.write(hashes.tobytes())
        self._file.write((owners + self._first).astype(np.uint32).tobytes())
        self._file.flush()


def _shingles(keys: Sequence[str]) -> np.ndarray:
    """uint64: the hashes of a text's shingles, sorted, each once; a text of fewer words is filled up."""
    if not keys:
        return np.empty(0, np.uint64)
    words = [*map(hash, keys), *[0] * (_SHINGLE - len(keys))]
    ids = np.array(words, np.int64).view(np.uint64)
    mixed = np.zeros(len(ids) - _SHINGLE + 1, np.uint64)
    for k, factor in enumerate(_MIX):
        mixed = (mixed ^ (ids[k : len(ids) - _SHINGLE + 1 + k] * factor)) * _MIX[0]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _bucket(shingles: np.ndarray) -> np.ndarray:
    return (shingles & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _read(file: IO[bytes], dtype: type[np.generic], first: int, count: int) -> np.ndarray:
    size = np.dtype(dtype).itemsize
    return np.frombuffer(os.pread(file.fileno(), size * count, size * first), dtype)
