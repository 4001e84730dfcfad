"""Texts that nearly repeat an earlier one, found without comparing all pairs."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from synthie.surface.tokens import COMMON_KEYS, Tokens

__all__ = ["near_duplicates"]

_SHINGLE = 3
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))


def near_duplicates(texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the index of an earlier text that it nearly repeats (itself no repetition), or None.

    Two texts are near-duplicates if the Jaccard similarity of their word 3-shingles is at least ``threshold``.
    Where their names or numbers differ, they state other facts in the same words, and only half that distance is
    allowed. Texts that similar share at least one of the rarest shingles of either (the prefix filter of Bayardo,
    Ma and Srikant, WWW 2007), so few pairs are candidates; those are compared exactly.
    """
    shingles, offsets, names = _shingles(texts)
    ranks = _by_rarity(shingles)
    result: list[int | None] = [None] * len(texts)
    posting: defaultdict[int, list[int]] = defaultdict(list)
    exact: dict[bytes, int] = {}

    def members(number: int) -> np.ndarray:
        return np.unique(ranks[offsets[number] : offsets[number + 1]])

    for number in range(len(texts)):
        own = members(number)
        if not len(own):
            continue
        twin = exact.setdefault(own.tobytes(), number)
        if twin != number and names[twin] == names[number]:
            result[number] = twin if result[twin] is None else result[twin]
            continue
        # A pair at the threshold shares a shingle among the first `prefix` of both, in any common order.
        prefix = len(own) - math.ceil(threshold * len(own) - 1e-9) + 1
        rare = [rank for rank in own[:prefix].tolist() if rank >= 0]
        for other in sorted({other for rank in rare for other in posting[rank]}):
            theirs = members(other)
            shared = len(np.intersect1d(own, theirs, assume_unique=True))
            similarity = shared / (len(own) + len(theirs) - shared)
            if similarity >= (threshold if names[number] == names[other] else (1 + threshold) / 2):
                result[number] = other
                break
        else:
            for rank in rare:
                posting[rank].append(number)
    return result


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Hashes of all shingles (uint64), offsets by text (int64, one more than texts), a hash of each text's names."""
    vocabulary: dict[str, int] = {}
    words, counts, names = array("Q"), array("q"), []
    for text in texts:
        tokens = Tokens(text)
        padding = max(0, _SHINGLE - len(tokens.keys)) if tokens.keys else 0
        words.extend([vocabulary.setdefault(key, len(vocabulary) + 1) for key in tokens.keys] + [0] * padding)
        counts.append(len(tokens.keys) + padding)
        capitalised = {key for key, word in zip(tokens.keys, tokens.words, strict=True) if not word[0].islower()}
        names.append(hash(frozenset(capitalised - COMMON_KEYS)))
    ids, lengths = np.array(words, dtype=np.uint64), np.array(counts, dtype=np.int64)
    mixed = np.zeros(max(0, len(ids) - _SHINGLE + 1), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for k, factor in enumerate(_MIX):
            mixed = (mixed ^ (ids[k : len(ids) - _SHINGLE + 1 + k] * factor)) * _MIX[0]
            mixed ^= mixed >> np.uint64(29)
    ends = np.cumsum(lengths)
    inside = np.ones(len(ids), dtype=bool)
    for back in range(1, _SHINGLE):  # shingles that would reach into the next text
        inside[(ends - back)[lengths > 0]] = False
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - _SHINGLE + 1, 0))])
    return mixed[inside[: len(mixed)]], offsets, names


def _by_rarity(shingles: np.ndarray) -> np.ndarray:
    """Replace each shingle by its rank, rarest first; -1 - rank where it occurs once, and so in no other text."""
    _, inverse, counts = np.unique(shingles, return_inverse=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    rank = np.empty(len(counts), dtype=np.int64)
    rank[order] = np.arange(len(counts))
    rank[counts == 1] = -1 - rank[counts == 1]
    return rank[inverse]
