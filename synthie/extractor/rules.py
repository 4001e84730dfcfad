"""Rules that triplets must obey beyond having names of the world: optional, and off unless asked for.

They run beside the name automaton, on the same tensors: columns of the state remember what was written, and each
rule takes away tokens before the scores are masked. A token goes if every way to finish the name that is being
written breaks the rule; a name that breaks it cannot be closed by a marker.

* ``max_triplets``: after so many triplets the output must end.
* ``no_repeats``: no triplet twice.
* ``fitting_types``: a relation must have been seen with a class of the subject, an object must have a class that was
  seen with the relation (see `synthie.extractor.classes`). On a GPU this one waits for the device in each step.

Rules together, or a world in which a relation has no other object left, can forbid every way on; such an output
ends there, and its open triplet is dropped.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from synthie.config import DecodingRules
from synthie.errors import InputError
from synthie.extractor.linearization import END
from synthie.extractor.trie import Trie
from synthie.extractor.type_sets import TypeSets
from synthie.extractor.world import NIL, World

__all__ = ["RuleTables"]

_SLOT, _NAME, _MARKER, _ENDED, _SUBJECT, _RELATION, _COUNT, _TRIPLETS = range(8)  # columns of a state
_REMEMBERED = 64  # latest triplets that are not repeated; outputs of 256 tokens have no more than 51


class RuleTables:
    """The rules of one world as tensors; nodes are those of its trie, and names stand for themselves by their ends.

    Raises:
        InputError: the types rule is asked for, but the world knows no classes.
    """

    def __init__(self, rules: DecodingRules, world: World, device: torch.device | str) -> None:
        slots = list(world.form.slots)
        self._rules = rules
        self._subject, self._relation, self._object = (slots.index(name) for name in ("subject", "relation", "object"))
        self._last_roots = torch.tensor(world.last_exit_roots, device=device)
        self._roots, self._vocabulary = world.trie.roots, world.trie.vocabulary
        self._end = world.markers[END][0]
        self._keys, self._offsets = (torch.from_numpy(a).to(device) for a in (world.trie.keys, world.trie.offsets))
        remembered = _REMEMBERED if rules.no_repeats else 0
        self.start = torch.full((_TRIPLETS - _ENDED + 3 * remembered,), NIL, device=device)
        if rules.no_repeats:
            first, last = name_ranges(world.trie)
            self._first, self._last = torch.from_numpy(first).to(device), torch.from_numpy(last).to(device)
            self._names = int(last.max()) + 1
            # Children in order of their tokens are in order of their names, so these are sorted like the edges.
            parents = world.trie.keys // world.trie.vocabulary
            self._ordered = torch.from_numpy(parents * self._names + first[self._roots :]).to(device)
            self._parents = torch.from_numpy(parents).to(device)
        if rules.fitting_types:
            if world.types is None:
                raise InputError(
                    "The rule that types must fit needs the classes of the nodes, which this world does not know. "
                    "Build it from a graph that has classes, or leave the rule off."
                )
            self._types = TypeSets(world.types, world.trie, device)

    def step(self, before: torch.Tensor, following: torch.Tensor, *, begun: torch.Tensor) -> torch.Tensor:
        """The columns of the rules after a token.

        Args:
            before: int64[rows, columns], the whole state before it.
            following: int64[rows, 3], slot, name and marker after it.
            begun: bool[rows], whether the token begins a marker, so that the name may end before it.
        """
        slot = before[:, _SLOT]
        left = following[:, 0] != slot
        ended = torch.where(begun, before[:, _NAME], before[:, _ENDED])
        subject = torch.where(left & (slot == self._subject), ended, before[:, _SUBJECT])
        relation = torch.where(left & (slot == self._relation), ended, before[:, _RELATION])
        stated = left & (slot == self._object)
        triplets = before[:, _TRIPLETS:]
        if self._rules.no_repeats:
            longer = torch.cat((torch.stack((subject, relation, ended), dim=1), triplets[:, :-3]), dim=1)
            triplets = torch.where(stated[:, None], longer, triplets)
        counted = before[:, _COUNT] + stated
        return torch.cat((torch.stack((ended, subject, relation, counted), dim=1), triplets), dim=1)

    def exits(
        self, state: torch.Tensor, roots: torch.Tensor, may_end: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the markers that may follow begin, int64[rows], and whether a marker may follow, bool[rows]."""
        slot, name = state[:, _SLOT], state[:, _NAME]
        if self._rules.max_triplets is not None:
            full = state[:, _COUNT] + (slot == self._object) >= self._rules.max_triplets
            roots = torch.where(full, self._last_roots[slot], roots)
        if self._rules.no_repeats:
            may_end = may_end & ~((self._used(state) == name[:, None]) & (name[:, None] != NIL)).any(1)
        if self._rules.fitting_types:
            may_end = may_end & (~self._typed(state) | self._types.fit_name(name, self._wanted(state)))
        return roots, may_end

    def withhold(self, penalty: torch.Tensor, state: torch.Tensor) -> None:
        """Take away, in float[rows, vocabulary + 1], the tokens with which the name must break a rule."""
        if self._rules.no_repeats:
            penalty.scatter_(1, self._exhausted(state), -torch.inf)
        if self._rules.fitting_types:
            name = torch.where(self._typed(state), state[:, _NAME], NIL)
            first = self._offsets[name].long()
            count = self._offsets[name + 1] - first
            row = torch.repeat_interleave(count)
            edge = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count - first)[row]
            unfit = ~self._types.fit_below(edge + self._roots, self._wanted(state)[row])
            token = self._keys[edge] - name[row] * self._vocabulary
            penalty[row[unfit], token[unfit]] = -torch.inf

    def rescue(self, penalty: torch.Tensor) -> None:
        """Let a row without any token end."""
        dead = (penalty[:, :-1] < 0).all(1)
        penalty[:, self._end] = torch.where(dead, 0.0, penalty[:, self._end])

    def _used(self, state: torch.Tensor) -> torch.Tensor:
        """The ends of the objects that must not follow the present subject and relation, else NIL: int64[rows, n]."""
        triplets = state[:, _TRIPLETS:].unflatten(1, (-1, 3))
        same = (triplets[..., :2] == state[:, None, _SUBJECT : _RELATION + 1]).all(-1)
        return torch.where(same & (state[:, _SLOT, None] == self._object), triplets[..., 2], NIL)

    def _exhausted(self, state: torch.Tensor) -> torch.Tensor:
        """Tokens below which all names are used up, else the number after the vocabulary: int64[rows, n]."""
        used, name = self._used(state), state[:, _NAME, None]
        rank = torch.where(used == NIL, -1, self._first[used])
        edge = (torch.searchsorted(self._ordered, name * self._names + rank, right=True) - 1).clamp_(min=0)
        child = edge + self._roots
        first, last = self._first[child], self._last[child]
        below = (first <= rank) & (rank < last) & (self._parents[edge] == name)
        spent = ((first[..., None] <= rank[:, None]) & (rank[:, None] < last[..., None])).sum(-1)
        gone = below & (spent >= last - first)
        return torch.where(gone, self._keys[edge] - name * self._vocabulary, self._vocabulary)

    def _typed(self, state: torch.Tensor) -> torch.Tensor:
        return (state[:, _SLOT] == self._relation) | (state[:, _SLOT] == self._object)

    def _wanted(self, state: torch.Tensor) -> torch.Tensor:
        """Sets of relations: those of the subject before a relation, the relation itself before an object."""
        of_subject = self._types.of_subject(state[:, _SUBJECT])
        itself = self._types.of_relation(state[:, _RELATION])
        return torch.where(state[:, _SLOT, None] == self._object, itself, of_subject)


def name_ranges(trie: Trie) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Names in depth-first order: those at or below node n have the numbers first[n]…last[n]-1; int64[nodes] both.

    Nodes are numbered breadth-first, so the levels are walked up to count and down to number.
    """
    parents, levels = trie.keys // trie.vocabulary, trie.levels
    count = trie.terminal.astype(np.int64)
    for (top, start), (_, stop) in zip(levels[-2::-1], levels[:0:-1], strict=True):
        above = parents[start - trie.roots : stop - trie.roots] - top
        count[top:start] += np.bincount(above, weights=count[start:stop], minlength=start - top).astype(np.int64)
    first = np.cumsum(count) - count  # right for the roots
    for start, stop in levels[1:]:
        above = parents[start - trie.roots : stop - trie.roots]
        before = np.cumsum(count[start:stop]) - count[start:stop]
        eldest = before[trie.offsets[above] + trie.roots - start]
        first[start:stop] = first[above] + trie.terminal[above] + before - eldest
    return first, first + count
