"""Prefix trees over token sequences as flat, memory-mapped arrays.

One `Trie` holds several trees (a root for each kind of sequence). Nodes are
numbered breadth-first, roots first, so the edges in order of (node, token) have
the numbers of their child nodes: edge ``e`` leads to node ``roots + e``. A step
is one binary search for ``node * vocabulary + token``. That is 13 bytes a node,
built level by level without a Python loop over sequences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthie.errors import InputError
from synthie.extractor.ragged import Ragged

__all__ = ["NO_NODE", "Trie"]

NO_NODE = -1
_ARRAYS = ("keys", "offsets", "terminal", "ends", "value_offsets", "values")


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """Trees whose paths from a root spell token sequences; the last node carries the sequence's values.

    A sequence may be a prefix of another one, and several values may share one sequence.

    Attributes:
        vocabulary: number of tokens; every token is below it.
        roots: number of trees; root ``r`` is node ``r``.
        keys: int64[edges], ``node * vocabulary + token``, sorted; edge ``e`` leads to node ``roots + e``.
        offsets: int32[nodes + 1]; the edges out of node ``n`` are ``offsets[n]:offsets[n + 1]``.
        terminal: bool[nodes]; whether a sequence ends there.
        ends: int32[ends], the terminal nodes, sorted.
        value_offsets: int32[ends + 1]; the values of node ``ends[i]`` are ``value_offsets[i]:value_offsets[i + 1]``.
        values: int32[sequences]; those of one node ascending, or in the order that `ranked` gave them.
    """

    vocabulary: int
    roots: int
    keys: NDArray[np.int64]
    offsets: NDArray[np.int32]
    terminal: NDArray[np.bool_]
    ends: NDArray[np.int32]
    value_offsets: NDArray[np.int32]
    values: NDArray[np.int32]

    @classmethod
    def build(
        cls,
        sequences: Ragged,
        *,
        vocabulary: int,
        groups: NDArray[np.int64] | None = None,
        roots: int = 1,
        values: NDArray[np.int32] | None = None,
    ) -> Trie:
        """Build from token sequences.

        Args:
            sequences: the token sequences, tokens in 0…vocabulary-1; an empty one makes its root terminal.
            vocabulary: number of tokens.
            groups: int[sequences], root of each sequence; None: all in tree 0.
            roots: number of trees.
            values: int32[sequences], what the end of each sequence stands for; None: its number.

        Raises:
            InputError: a token is outside the vocabulary.
        """
        count = len(sequences)
        if sequences.values.size and not 0 <= sequences.values.min() <= sequences.values.max() < vocabulary:
            raise InputError(
                f"A name has token {sequences.values.max()}, but the model's vocabulary has {vocabulary} tokens. "
                "The tokenizer and the model do not belong together; take both from one folder."
            )
        node = np.zeros(count, np.int64) if groups is None else groups.astype(np.int64)
        lengths, starts = sequences.lengths, sequences.offsets[:-1]
        levels, nodes = [], roots
        depth, alive = 0, np.flatnonzero(lengths)
        while alive.size:
            level, child = np.unique(
                node[alive] * vocabulary + sequences.values[starts[alive] + depth], return_inverse=True
            )
            node[alive] = nodes + child
            nodes += level.size
            levels.append(level)
            depth += 1
            alive = alive[lengths[alive] > depth]
        keys = np.concatenate(levels) if levels else np.empty(0, np.int64)
        offsets = np.zeros(nodes + 1, np.int32)
        np.cumsum(np.bincount(keys // vocabulary, minlength=nodes), out=offsets[1:])
        terminal = np.zeros(nodes, np.bool_)
        terminal[node] = True
        labels = np.arange(count, dtype=np.int32) if values is None else values.astype(np.int32)
        order = np.lexsort((labels, node))
        ends, counts = np.unique(node, return_counts=True)
        value_offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(
            vocabulary,
            roots,
            keys,
            offsets,
            terminal,
            ends.astype(np.int32),
            value_offsets.astype(np.int32),
            labels[order],
        )

    def ranked(self, ranks: NDArray[np.int64]) -> Trie:
        """The same trie, with the values of each node in the order of ``ranks``, int64[sequences] beside `values`."""
        owner = np.repeat(np.arange(len(self.ends)), np.diff(self.value_offsets))
        return replace(self, values=self.values[np.lexsort((self.values, ranks, owner))])

    @classmethod
    def open(cls, folder: Path) -> Trie:
        """Map what `save` wrote; nothing is read until it is needed.

        Raises:
            InputError: a file is missing or damaged.
        """
        try:
            shape = json.loads((folder / "trie.json").read_bytes())
            # Copy-on-write rather than read-only: torch wraps writable arrays without a warning or a copy.
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in _ARRAYS}
            return cls(shape["vocabulary"], shape["roots"], **arrays)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder} holds no usable trie ({error}). Train the extractor again.") from error

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file for each array, and ``trie.json`` with the two sizes."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "trie.json").write_text(json.dumps({"vocabulary": self.vocabulary, "roots": self.roots}) + "\n")

    @property
    def nodes(self) -> int:
        """Number of nodes, roots included."""
        return len(self.offsets) - 1

    @property
    def levels(self) -> list[tuple[int, int]]:
        """[first node, one more than the last) of each depth that has nodes; the roots are depth 0."""
        levels = [(0, self.roots)]
        while (after := self.roots + int(self.offsets[levels[-1][1]])) > levels[-1][1]:
            levels.append((levels[-1][1], after))
        return levels

    @property
    def trees(self) -> NDArray[np.int64]:
        """int64[nodes], the root above each node."""
        roots = np.arange(self.nodes)
        parents = self.keys // self.vocabulary
        for start, stop in self.levels[1:]:
            roots[start:stop] = roots[parents[start - self.roots : stop - self.roots]]
        return roots

    def children(self, node: int) -> NDArray[np.int64]:
        """The tokens that may follow, ascending: int64[children]."""
        return self.keys[self.offsets[node] : self.offsets[node + 1]] - node * self.vocabulary

    def child(self, node: int, token: int) -> int:
        """The node after ``token``, or `NO_NODE`."""
        key = node * self.vocabulary + token
        first, last = int(self.offsets[node]), int(self.offsets[node + 1])
        edge = first + int(np.searchsorted(self.keys[first:last], key))
        return self.roots + edge if edge < last and self.keys[edge] == key else NO_NODE

    def find(self, tokens: Iterable[int], root: int = 0) -> int:
        """The node that ``tokens`` lead to, terminal or not, or `NO_NODE`."""
        node = root
        for token in tokens:
            node = self.child(node, int(token))
            if node == NO_NODE:
                break
        return node

    def at(self, node: int) -> NDArray[np.int32]:
        """The values of the sequences that end in ``node``; empty if none does."""
        end = int(np.searchsorted(self.ends, node))
        if end == len(self.ends) or self.ends[end] != node:
            return self.values[:0]
        return self.values[self.value_offsets[end] : self.value_offsets[end + 1]]
