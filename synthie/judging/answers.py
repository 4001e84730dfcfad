"""What an LLM answers when it is asked to judge, read with patience: fences and chatter around the JSON do no harm.

The last object with verdicts counts: models that think aloud try others before. Anything that does not give exactly
one verdict for each triplet is not a judgement: None, never a guess.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from synthie.judging.judgements import VERDICTS, Opinion

__all__ = ["read_answer"]

_MOST_OBJECTS = 50  # places where an object may begin that are looked at


def read_answer(answer: str, triplets: int) -> Opinion | None:
    """The judgement in an answer about a text with so many triplets; None if there is none that can be relied on.

    >>> read_answer('Sure: {"verdicts": {"1": "stated"}, "extra": []}', 1)
    Opinion(verdicts=['stated'], extras=[])
    """
    told = [data for data in _objects(answer) if "verdicts" in data]
    if not told:
        return None
    verdicts = _verdicts(told[-1]["verdicts"], triplets)
    extras = _extras(told[-1].get("extra", told[-1].get("extras")))
    return None if verdicts is None or extras is None else Opinion(verdicts, extras)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in ``text``, whatever is around them."""
    decoder = json.JSONDecoder()
    place, tries = text.find("{"), 0
    while place >= 0 and tries < _MOST_OBJECTS:
        tries += 1
        try:
            data, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place = text.find("{", place + 1)
            continue
        if isinstance(data, dict):
            yield data
        place = text.find("{", end)


def _verdicts(data: Any, triplets: int) -> list[str] | None:
    """A verdict for each triplet from a mapping by number, or a list in their order."""
    if isinstance(data, list):
        data = {str(number): verdict for number, verdict in enumerate(data, 1)}
    if not isinstance(data, dict) or data.keys() != {str(number) for number in range(1, triplets + 1)}:
        return None
    verdicts = [data[str(number)] for number in range(1, triplets + 1)]
    verdicts = [verdict.strip().lower() if isinstance(verdict, str) else "" for verdict in verdicts]
    return verdicts if all(verdict in VERDICTS for verdict in verdicts) else None


def _extras(data: Any) -> list[str] | None:
    """Extra facts in words; an empty list is told, a missing one is not."""
    if not isinstance(data, list):
        return None
    extras: list[str] = []
    for fact in data:
        if isinstance(fact, dict):
            fact = list(fact.values())
        if isinstance(fact, list) and len(fact) == 3 and all(isinstance(part, str | int | float) for part in fact):
            fact = " | ".join(" ".join(str(part).split()) for part in fact)
        if not isinstance(fact, str) or not fact.strip():
            return None
        extras.append(" ".join(fact.split()))
    return list(dict.fromkeys(extras))
