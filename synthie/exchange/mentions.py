"""Where a text mentions a node, for records whose makers did not say: the longest run of the name's words.

As in SynthIE's processed files: the earliest place of the longest part of the name, case aside; not found is -1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["by_mention", "find_mention"]

_QUALIFIER = re.compile(r" \([^()]*\)$")
_SHORTEST = 3  # letters of a single word that stands for a name of several


def find_mention(text: str, name: str) -> int:
    """Index of the character at which the mention begins, or -1.

    >>> find_mention("The Casablanca director, Curtiz, was born here.", "Michael_Curtiz")
    25
    """
    name = name.replace("_", " ")
    found, words = _lower(text), _lower(_QUALIFIER.sub("", name) or name).split()
    for length in range(len(words), 0, -1):
        places = []
        for first in range(len(words) - length + 1):
            part = " ".join(words[first : first + length])
            if length == len(words) or length > 1 or len(part) >= _SHORTEST:
                match = re.search(rf"(?<!\w){re.escape(part)}(?!\w)", found)
                places += [match.start()] if match else []
        if places:
            return min(places)
    return -1


def by_mention(triplets: list[dict[str, Any]], mentions: Mapping[str, int]) -> list[dict[str, Any]]:
    """Order by the subject's first mention, its name, then the object's first mention; not found goes last."""

    def place(node: Mapping[str, str]) -> float:
        start = mentions.get(node["uri"], -1)
        return start if start >= 0 else float("inf")

    return sorted(triplets, key=lambda t: (place(t["subject"]), t["subject"]["surfaceform"], place(t["object"])))


def _lower(text: str) -> str:
    """In lower case, unless that would shift its characters."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text
