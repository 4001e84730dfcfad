"""Which relations fit the names at and below the nodes of a world's trie: what the types rule looks up in each step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from synthie.extractor.classes import TypeTable
from synthie.extractor.trie import Trie
from synthie.extractor.world import NODES, RELATIONS

__all__ = ["TypeSets"]


class TypeSets:
    """For trie nodes: which relations fit some name at or below them. A set is uint8[bytes].

    Below relations' nodes a set holds the relations themselves. Equal sets are kept once.
    """

    def __init__(self, table: TypeTable, trie: Trie, device: torch.device | str) -> None:
        meant = np.full(trie.nodes, -1, np.int64)
        meant[trie.ends] = trie.values[trie.value_offsets[:-1]]
        parents, levels = trie.keys // trie.vocabulary, trie.levels
        trees = trie.trees
        nodes, relations = ((meant >= 0) & (trees == root) for root in (NODES, RELATIONS))
        width = table.as_subject.shape[1]
        single = np.packbits(np.eye(width * 8, dtype=np.bool_), axis=1)
        own = np.zeros((trie.nodes, width), np.uint8)
        own[nodes] = table.as_object[table.kinds[meant[nodes]]]
        own[relations] = single[meant[relations]]
        below = own.copy()
        for start, stop in levels[:0:-1]:
            above = parents[start - trie.roots : stop - trie.roots]
            eldest = np.flatnonzero(np.diff(above, prepend=-1))
            below[above[eldest]] |= np.bitwise_or.reduceat(below[start:stop], eldest)
        kinds = np.zeros(trie.nodes, np.int64)
        kinds[nodes] = table.kinds[meant[nodes]]
        self._own, self._below = _shared(own, device), _shared(below, device)
        self._kinds = torch.from_numpy(kinds).to(device)
        self._as_subject = torch.from_numpy(np.array(table.as_subject)).to(device)
        self._numbers = torch.from_numpy(np.where(relations, meant, 0)).to(device)
        self._single = torch.from_numpy(single).to(device)

    def of_subject(self, end: torch.Tensor) -> torch.Tensor:
        """The relations that fit the names that end in trie nodes int64[rows]: uint8[rows, bytes]."""
        return self._as_subject[self._kinds[end]]

    def of_relation(self, end: torch.Tensor) -> torch.Tensor:
        """The set of one relation, by the trie node where it ends."""
        return self._single[self._numbers[end]]

    def fit_name(self, node: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Whether the name that ends in each node has a relation of the set in common: bool[rows]."""
        sets, number = self._own
        return (sets[number[node]] & wanted != 0).any(-1)

    def fit_below(self, node: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The same for any name at or below each node."""
        sets, number = self._below
        return (sets[number[node]] & wanted != 0).any(-1)


def _shared(sets: NDArray[np.uint8], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """The different rows, and for each row which of them it is."""
    rows = np.ascontiguousarray(sets).view(np.dtype((np.void, sets.shape[1]))).ravel()
    different, numbers = np.unique(rows, return_inverse=True)
    unique = different.view(np.uint8).reshape(len(different), sets.shape[1])
    return torch.from_numpy(unique.copy()).to(device), torch.from_numpy(numbers).to(device)
