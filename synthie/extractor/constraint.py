"""Constrained decoding: a logits processor that only lets through what the world can write.

The automaton of `World` runs on tensors, all beams at once: a step is one binary search for the children of up
to three trie nodes of each beam, and the penalty, nothing or minus infinity, is scattered from their tokens; the
few nodes with very many children have a stored row of it. Beams are reordered between two calls, so each takes
over the state of its parent, found by comparing prefixes within its text. Nothing is read back to the host.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import LogitsProcessor

from synthie.config import DecodingRules
from synthie.extractor.linearization import END
from synthie.extractor.rules import RuleTables
from synthie.extractor.world import NIL, World

__all__ = ["Automaton", "TrieConstraint", "prefix_allowed_tokens_fn"]

# Children of a name gathered for each beam and step; a node with more has a stored row. At 64 a million names have
# 1,500 such nodes (200 MB for T5's vocabulary), at 256 they have 260, and the step costs the same.
_NARROW = 256
_PLAIN = 3  # columns of a state that `World` has too; those of the rules follow


class Automaton:
    """The states and steps of a world as tensors; a state is int64[3] as `synthie.extractor.world.State`.

    With rules, a state has more columns: what they remember of the sequence (see `synthie.extractor.rules`).

    Args:
        world: names and linearization.
        device: where the model decodes. On the CPU the trie stays memory-mapped.
        rules: what else must hold of the triplets; None: nothing.

    Raises:
        InputError: the world does not know what the rules need.
    """

    def __init__(self, world: World, device: torch.device | str = "cpu", rules: DecodingRules | None = None) -> None:
        trie = world.trie
        self._vocabulary, self._roots = trie.vocabulary, trie.roots
        self._keys, self._offsets, self._terminal = (
            torch.from_numpy(array).to(device) for array in (trie.keys, trie.offsets, trie.terminal)
        )
        self._content_roots = torch.tensor(world.content_roots, device=device)
        self._exit_roots = torch.tensor(world.exit_roots, device=device)
        self._exit_nodes = torch.tensor(list(world.exits), device=device)
        self._exit_slots = torch.tensor(list(world.exits.values()), device=device)
        degrees = np.diff(trie.offsets)
        wide = np.flatnonzero(degrees > _NARROW)
        penalties = torch.full((len(wide) + 1, trie.vocabulary + 1), -torch.inf)
        for row, node in enumerate(wide.tolist()):
            penalties[row, torch.from_numpy(trie.children(node))] = 0.0
        self._wide = torch.from_numpy(np.append(wide, trie.nodes)).to(device)
        self._wide_penalties = penalties.to(device)  # the last row, for narrow nodes, forbids everything
        self._places = torch.arange(min(_NARROW, max(1, int(degrees.max()))), device=device)
        self._marker_places = torch.arange(max(1, world.most_marker_children), device=device)
        self.padding = [world.pad, *world.markers[END]]
        self._rules = RuleTables(rules, world, device) if rules and rules.any else None
        start = torch.tensor(world.start, device=device)
        self.start = torch.cat((start, self._rules.start)) if self._rules else start

    def step(self, state: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """The states after one token each; without rules the same as `World.step`.

        Args:
            state: int64[rows, columns].
            token: int64[rows].
        """
        wanted = self._sources(state) * self._vocabulary + token[:, None]
        edge = torch.searchsorted(self._keys, wanted).clamp_(max=len(self._keys) - 1)
        child = torch.where(self._keys[edge] == wanted, edge + self._roots, NIL)
        # One of the two marker columns is NIL, the smallest number: no marker begins inside another.
        marker = torch.maximum(child[:, 1], child[:, 2])
        at_exit = marker[:, None] == self._exit_nodes
        slot = torch.where(at_exit, self._exit_slots, 0).sum(-1)
        entered = torch.stack((slot, self._content_roots[slot], torch.full_like(slot, NIL)), dim=1)
        stayed = torch.stack((state[:, 0], child[:, 0], marker), dim=1)
        following = torch.where(at_exit.any(-1, keepdim=True), entered, stayed)
        if self._rules is None:
            return following
        return torch.cat((following, self._rules.step(state, following, begun=child[:, 2] != NIL)), dim=1)

    def allowed(self, state: torch.Tensor) -> torch.Tensor:
        """Which tokens may follow each state: bool[rows, vocabulary]; without rules the same as `World.allowed`."""
        return self.penalty(state) == 0

    def penalty(self, state: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        """What to add to scores: 0 for the tokens that may follow each state, else -inf.

        Args:
            state: int64[rows, columns].
            room: float[rows, vocabulary + 1] to write to. New memory in each step costs as much as all the rest.

        Returns:
            float[rows, vocabulary].
        """
        sources = self._sources(state)
        penalty = torch.index_select(self._wide_penalties, 0, self._penalty_rows(sources[:, 0]), out=room)
        penalty.scatter_(1, self._children(sources[:, :1], self._places), 0.0)
        if self._rules is not None:
            self._rules.withhold(penalty, state)
        penalty.scatter_(1, self._children(sources[:, 1:], self._marker_places), 0.0)
        if self._rules is not None:
            self._rules.rescue(penalty)
        return penalty[:, :-1]

    def _penalty_rows(self, names: torch.Tensor) -> torch.Tensor:
        """int64[rows]: the stored penalty of each trie node; the last one for narrow nodes."""
        wide = torch.searchsorted(self._wide, names.contiguous())
        return torch.where(self._wide[wide] == names, wide, len(self._wide) - 1)

    def _children(self, nodes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Tokens of the first children of each row's nodes int64[rows, n]: int64[rows, n * places].

        Places beyond the last child hold the number after the vocabulary, whose column swallows them.
        """
        first = self._offsets[nodes].long()
        count = self._offsets[nodes + 1] - first
        edge = (first[..., None] + places).clamp_(max=len(self._keys) - 1)
        token = self._keys[edge] - (nodes * self._vocabulary)[..., None]
        return torch.where(places < count[..., None], token, self._vocabulary).flatten(1)

    def _sources(self, state: torch.Tensor) -> torch.Tensor:
        """The trie nodes whose children may follow: name, marker begun, markers that may begin: int64[rows, 3]."""
        slot, name, marker = state[:, 0], state[:, 1], state[:, 2]
        roots, may_end = self._exit_roots[slot], self._terminal[name]
        if self._rules is not None:
            roots, may_end = self._rules.exits(state, roots, may_end)
        return torch.stack((name, marker, torch.where(may_end, roots, NIL)), dim=1)


class TrieConstraint(LogitsProcessor):
    """Sets the scores of impossible tokens to minus infinity, for greedy and beam search and for sampling.

    Make a new one for each call of ``generate``; the automaton can be shared.

    Args:
        automaton: what may be written.
        beams: consecutive rows of ``input_ids`` that belong to one text and may change places; 1 without beams,
            however many sequences are sampled for a text.
    """

    def __init__(self, automaton: Automaton, beams: int = 1) -> None:
        self._automaton, self._beams = automaton, beams
        self._seen: torch.Tensor | None = None
        self._room: torch.Tensor | None = None
        self._state = automaton.start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask one step.

        Args:
            input_ids: int64[rows, length], the sequences so far; the first token is the decoder's start token.
            scores: float[rows, vocabulary]; changed in place and returned.
        """
        if self._seen is None:
            self._room = scores.new_empty(len(scores), scores.shape[1] + 1, dtype=torch.float32)
            self._state = self._automaton.start.expand(len(input_ids), -1)
            for position in range(1, input_ids.shape[1]):
                self._state = self._automaton.step(self._state, input_ids[:, position])
        else:
            self._state = self._automaton.step(self._inherit(self._seen, input_ids[:, :-1]), input_ids[:, -1])
        self._seen = input_ids
        return scores.add_(self._automaton.penalty(self._state, self._room))

    def _inherit(self, before: torch.Tensor, prefixes: torch.Tensor) -> torch.Tensor:
        """The state of each row's parent: a row of the previous call with the same tokens, of the same text.

        A row without parent gets the impossible state.
        """
        if self._beams == 1:
            return self._state
        rows, length = prefixes.shape
        old = before.reshape(-1, 1, self._beams, length)
        new = prefixes.reshape(-1, self._beams, 1, length)
        found, parent = (old == new).all(-1).max(-1)
        parent = parent + torch.arange(0, rows, self._beams, device=prefixes.device)[:, None]
        inherited = self._state[parent.view(-1)]
        inherited[:, 1:_PLAIN] = torch.where(found.view(-1, 1), inherited[:, 1:_PLAIN], NIL)
        return inherited


def prefix_allowed_tokens_fn(automaton: Automaton) -> Callable[[int, torch.Tensor], list[int]]:
    """What ``generate(prefix_allowed_tokens_fn=…)`` takes, for code that can pass no logits processor.

    It reads each prefix from the start, one beam after the other: much slower than `TrieConstraint`. After an
    impossible prefix, as a search has in beams that it will drop, it allows what may follow a finished sequence,
    for transformers refuses an empty list.
    """

    def allowed(text: int, prefix: torch.Tensor) -> list[int]:
        state = automaton.start[None]
        for token in prefix[1:]:
            state = automaton.step(state, token[None])
        tokens = automaton.allowed(state)[0].nonzero().flatten().tolist()
        return tokens or automaton.padding

    return allowed
