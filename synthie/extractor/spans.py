"""Where a text mentions what was found in it.

A mention is a form in which a text may state the node (`synthie.surface.forms`): its name with or without
disambiguator, legal form or middle initials, demonyms of a country, other ways to write a date or number. Longer
names go first, so that "Ulm" is not found in "Ulm Hauptbahnhof" where that is another of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from synthie.records import LITERAL, Mention, Span
from synthie.surface.forms import Forms, compile_forms, find_forms
from synthie.surface.tokens import Tokens

__all__ = ["find_places", "find_spans"]

_CACHED_NODES = 1 << 12  # a coordinate has some 180 forms


def find_spans(text: str, nodes: Iterable[Mention]) -> dict[Mention, Span | None]:
    """The first mention of each node, as ``[start, end)`` in characters; None where the text has no form of its name.

    >>> find_spans("She was born in Ulm, Germany.", [Mention("Ulm", "Q3012"), Mention("Bonn", "Q586")])
    {Mention(surfaceform='Ulm', uri='Q3012'): (16, 19), Mention(surfaceform='Bonn', uri='Q586'): None}
    """
    tokens = Tokens(text)
    found = _find(tokens, nodes)
    return {node: _extent(tokens, _forms(node), min(places)) if places else None for node, places in found.items()}


def find_places(text: str, nodes: Iterable[Mention]) -> dict[Mention, list[int]]:
    """All mentions of each node, by the number of the word with which they begin."""
    return _find(Tokens(text), nodes)


def _find(tokens: Tokens, nodes: Iterable[Mention]) -> dict[Mention, list[int]]:
    names = {str(number): node for number, node in enumerate(dict.fromkeys(nodes))}
    places = find_forms(tokens, {name: _forms(node) for name, node in names.items()}).places
    return {node: places[name] for name, node in names.items()}


def _extent(tokens: Tokens, forms: Forms, first: int) -> Span:
    """The characters of the mention that begins with a token."""
    phrases = (phrase.keys for phrase in forms.by_first.get(tokens.keys[first], ()))
    size = next((len(keys) for keys in phrases if tokens.keys[first : first + len(keys)] == keys), 0)
    if not size:  # a freer form, whose extent shows when nothing else is looked for
        covered = find_forms(Tokens(tokens.text), {"": forms}).covered
        size = 1
        while covered[first + size : first + size + 1] == b"\x01":
            size += 1
    return tokens.starts[first], tokens.ends[first + size - 1]


@lru_cache(_CACHED_NODES)
def _forms(mention: Mention) -> Forms:
    return compile_forms(_Node(mention.uri, mention.surfaceform))


@dataclass(frozen=True, slots=True)
class _Node:
    """A name of the world as `synthie.surface` sees a node; worlds know no aliases."""

    id: str
    name: str

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    @property
    def aliases(self) -> tuple[str, ...]:
        return ()

    @property
    def kind(self) -> str:
        return self.id.partition(":")[0] if LITERAL.match(self.id) else "entity"
