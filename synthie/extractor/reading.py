"""Reading the tokens that a model wrote: which triplets they state, and how sure the model was of each.

A triplet's score is the geometric mean of the probabilities of its tokens: of subject, relation and object, with the
marker before each and the one after the object. Where a linearization writes a subject once for a run of triplets,
its tokens count for each of them. It lies in (0, 1] and compares triplets; it is no calibrated probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from synthie.extractor.linearization import MARKERS
from synthie.extractor.world import NIL, World

__all__ = ["Numbers", "read_numbers", "score_names"]

Numbers = tuple[int, int, int]  # subject, relation, object; rows of the world's tables
Names = tuple[str, str, str]


class _Part(NamedTuple):
    """The tokens of a name: ``[first, last)``, with its markers ``[opened, closed)``."""

    opened: int
    first: int
    last: int
    closed: int


def read_numbers(world: World, tokens: Sequence[int], chances: Sequence[float]) -> dict[Numbers, float]:
    """The triplets in a constrained output, as `World.parse` finds them, with their scores.

    Args:
        world: names and linearization.
        tokens: the output, without start token and padding.
        chances: log-probability of each token.

    Returns:
        numbers -> score, in the order of the output; of a repeated triplet the first.
    """
    found: dict[Numbers, float] = {}
    parts: dict[str, _Part] = {}
    roots = dict(zip(world.form.slots, world.content_roots, strict=True))

    def number(slot: str) -> int:
        part = parts[slot]
        return int(world.trie.at(world.trie.find(tokens[part.first : part.last], roots[slot]))[0])

    for slot, part in _walk(world, tokens):
        parts[slot] = part
        if slot == "object":
            numbers = number("subject"), number("relation"), number("object")
            found.setdefault(numbers, _score(chances, parts["subject"], parts["relation"], part))
    return found


def score_names(
    world: World, tokens: Sequence[int], chances: Sequence[float], decode: Callable[[Sequence[int]], str]
) -> dict[Names, float]:
    """Scores of the triplets in an output that a model wrote freely, by the names that they state.

    Args:
        world: the linearization and its markers.
        tokens, chances: as for `read_numbers`.
        decode: tokens -> string.

    Returns:
        (subject, relation, object) -> score. A triplet is missing whose markers the model wrote in other tokens than
        training has them.
    """
    found: dict[Names, float] = {}
    marks = [*_marks(world, tokens)]
    subject = relation = None
    for position, (marker, opened, first) in enumerate(marks[:-1]):
        _, last, closed = marks[position + 1]
        part = _Part(opened, first, last, closed)
        if marker == "[s]":
            subject, relation = part, None
        elif marker == "[r]":
            relation = part
        elif marker == "[o]":
            if subject and relation:
                names = tuple(
                    " ".join(decode(tokens[name.first : name.last]).split()) for name in (subject, relation, part)
                )
                found.setdefault(names, _score(chances, subject, relation, part))  # type: ignore[arg-type]
            relation = None
        else:
            subject = relation = None
    return found


def _walk(world: World, tokens: Sequence[int]) -> Iterator[tuple[str, _Part]]:
    """(slot, part) of every slot that the output left through a complete marker, up to the first impossible token."""
    slots = list(world.form.slots)
    state, opened, first = world.start, 0, 0
    for position, token in enumerate(tokens):
        following = world.step(state, int(token))
        if following.name == NIL and following.marker == NIL:
            return
        if following.slot != state.slot:
            left, target = slots[state.slot], slots[following.slot]
            last = position + 1 - _marker_length(world, left, target, tokens[first : position + 1])
            yield left, _Part(opened, first, last, position + 1)
            opened, first = last, position + 1
        state = following


def _marker_length(world: World, slot: str, target: str, tokens: Sequence[int]) -> int:
    """Tokens of the marker that led from one slot to the next; ``tokens`` end with it."""
    markers = (world.markers[marker] for marker, leads_to in world.form.slots[slot].exits.items() if leads_to == target)
    return next(len(marker) for marker in markers if list(tokens[-len(marker) :]) == marker)


def _marks(world: World, tokens: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """(marker, first token, one more than the last) of every marker in the output."""
    position = 0
    while position < len(tokens):
        for marker in MARKERS:
            end = position + len(world.markers[marker])
            if list(tokens[position:end]) == world.markers[marker]:
                yield marker, position, end
                position = end
                break
        else:
            position += 1


def _score(chances: Sequence[float], subject: _Part, relation: _Part, target: _Part) -> float:
    counted = [*chances[subject.opened : subject.last], *chances[relation.opened : target.closed]]
    return math.exp(sum(counted) / len(counted))
