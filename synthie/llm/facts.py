"""Facts as a prompt writes them, and what their relations tell about the names in them.

A prompt's user message ends with one triplet a line, ``1. subject | relation |
object``, or, where the text shall state none, with ``Topic: name``. Only names
are given, so the kind of an object (a person, a thing, a common noun, a date)
follows from the relation's entry in the lexicon, or from the shape of the name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from synthie.llm.lexicon import lexicon

__all__ = ["LITERAL_KINDS", "MERE_CLASSES", "Fact", "entity_classes", "object_kind", "parse_topic", "parse_triplets"]

LITERAL_KINDS = ("date", "quantity", "coordinate")
MERE_CLASSES = ("human", "person")  # say that something is a person, not which one
_LINE = re.compile(r"\s*(\d+)[.)]\s+(.*?\S)\s+\|\s+(\S.*?)\s+\|\s+(\S.*?)\s*")
_TOPIC = re.compile(r"\s*Topic:\s+(\S.*?)\s*")


class Fact(NamedTuple):
    """One triplet by its names, as in the line ``1. subject | relation | object`` of a prompt."""

    subject: str
    relation: str
    object: str


def parse_triplets(text: str) -> list[Fact]:
    """The triplets of the last run of lines ``1. subject | relation | object`` in ``text``; empty if there is none.

    >>> parse_triplets("Write a text.\\n1. Ulm | country | Germany")
    [Fact(subject='Ulm', relation='country', object='Germany')]
    """
    facts: list[Fact] = []
    for line in reversed(text.splitlines()):
        match = _LINE.fullmatch(line)
        if match:
            facts.append(Fact(match[2], match[3], match[4]))
            if match[1] == "1":
                break
        elif facts:
            break
    return facts[::-1]


def parse_topic(text: str) -> str | None:
    """The name in ``text``'s last line if that is ``Topic: name``.

    >>> parse_topic("Write a text.\\n\\nTopic: Mercury (planet)")
    'Mercury (planet)'
    """
    match = _TOPIC.fullmatch(text.rstrip().rsplit("\n", 1)[-1])
    return match[1] if match else None


def object_kind(fact: Fact) -> str:
    """Class of the object: as the relation says, else by the shape of the name."""
    kind = lexicon().wording(fact.relation).object
    if kind == "any":
        return _shape(fact.object)
    return kind


_MONTH = "(January|February|March|April|May|June|July|August|September|October|November|December)"
_SHAPES = {
    "coordinate": re.compile(r"\d[\d.]*°.*[NS],? \d[\d.]*°.*[EW]"),
    "date": re.compile(rf"(\d{{1,2}} )?{_MONTH} \d+( BCE?)?|\d+(s|(st|nd|rd|th) (century|millennium))( BCE?)?"),
    "quantity": re.compile(r"-?\d+(\.\d+)? (square |cubic )?\w*(metre|mile|foot|gram|tonne|hectare|percent)"),
}


def _shape(name: str) -> str:
    """Kind of a literal that only its name tells; a mere number may be a year, an amount or a title."""
    return next((kind for kind, shape in _SHAPES.items() if shape.fullmatch(name)), "any")


def entity_classes(facts: Sequence[Fact]) -> dict[str, str]:
    """Entity -> person or thing, as far as the relations tell."""
    classes: dict[str, str] = {}
    for fact in facts:
        wording = lexicon().wording(fact.relation)
        if wording.subject != "any":
            classes[fact.subject] = wording.subject
        elif fact.relation == "instance of":
            classes.setdefault(fact.subject, "person" if fact.object.lower() in MERE_CLASSES else "thing")
        if wording.object in ("person", "thing"):
            classes.setdefault(fact.object, wording.object)
    return classes
