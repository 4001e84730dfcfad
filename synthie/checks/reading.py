"""A text beside the set that it should state, as every check sees it, and what a check finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from synthie.config import Check
from synthie.records import Mention, Triplet
from synthie.surface.forms import Forms
from synthie.surface.tokens import Tokens

__all__ = ["Reading", "Reason", "triplet_name"]


class Reason(NamedTuple):
    """One fault: the check that found it, and where and what it is."""

    check: Check
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A text, and where it states what.

    Attributes:
        tokens: the text.
        triplets: the set.
        topic: for a text that should state no triplet, the entity that it should name.
        forms: node id -> its forms, of the nodes of the set and the topic.
        places: node id -> first tokens of all its statements, ascending.
        covered: 1 for each token that belongs to a form of the set.
    """

    tokens: Tokens
    triplets: Sequence[Triplet]
    topic: Mention | None
    forms: Mapping[str, Forms]
    places: Mapping[str, list[int]]
    covered: bytearray

    def numbered(self) -> Iterator[tuple[int, Triplet]]:
        """The triplets as the complaints count them."""
        return enumerate(self.triplets, start=1)

    def places_of(self, triplet: Triplet) -> tuple[list[int], list[int]]:
        """First tokens of the statements of subject and object."""
        return self.places[triplet.subject.uri], self.places[triplet.object.uri]

    def sentences_of(self, uri: str) -> set[int]:
        """The sentences that state a node."""
        sentences = self.tokens.sentences
        return {sentences[place] for place in self.places[uri]}


def triplet_name(number: int, triplet: Triplet) -> str:
    """How a complaint names a triplet."""
    names = (part.surfaceform.replace("_", " ") for part in (triplet.subject, triplet.predicate, triplet.object))
    return f"Triplet {number} ({' | '.join(names)})"
