"""A record as the page shows it: its text in pieces, each with the entities and faults that it belongs to.

The pieces are cut here, where a character is a character (JavaScript counts UTF-16 units). Where an entity is
mentioned is what the record says, and, as it tells only where the first mention begins, what the quality gate's
own forms of the name find.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from kg.errors import SynthieError
from kg.graph import KnowledgeGraph
from synthie.browse.verdicts import HandVerdict
from synthie.surface.forms import Forms, compile_forms, find_forms
from synthie.surface.tokens import Tokens

__all__ = ["Reader"]

_CACHED_NODES = 1 << 14
_LITERALS = ("date", "quantity", "coordinate", "string")
_SPAN = re.compile(r"\(characters (\d+)–(\d+)\)")
_TRIPLET = re.compile(r"\ATriplet \d+ (?=\()")
_DETAILS = (
    *("prompt", "model", "endpoint", "style", "input_tokens", "cached_input_tokens", "output_tokens", "usd"),
    *("latency_s", "attempts", "finish_reason", "request_key", "prompt_hash"),
)


@dataclass(frozen=True)
class _Named:
    """A node as far as a record knows it."""

    id: str
    name: str
    kind: str
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")


class Reader:
    """Turns records into what the page shows. Safe among threads.

    Args:
        graph: folder of the graph, for the names' other forms; None to do with what the records tell.
    """

    def __init__(self, graph: Path | None) -> None:
        self._graph = KnowledgeGraph.open(graph) if graph else None
        self._forms = lru_cache(_CACHED_NODES)(self._compile)

    def show(self, record: Mapping[str, Any], hand: HandVerdict | None, judged: Iterable[Any] = ()) -> dict[str, Any]:
        """The record, JSON-ready; entities and triplets are named by their position in its lists.

        Args:
            record: as of `SAMPLE_SCHEMA`; what the file lacks is missing.
            hand: the verdict given by hand.
            judged: faults that a judge has found, with ``check`` and ``detail``.
        """
        text = record["text"] or ""
        triplets = record["triplets"] or []
        entities = _entities(record)
        numbers = {uri: number for number, uri in enumerate(entities)}
        given = record.get("reasons") or record.get("faults") or ()
        told = [("checks", reason["check"], reason["detail"]) for reason in given]
        told += [("judge", fault.check, fault.detail) for fault in judged]
        reasons = [_reason(by, check, detail or "", text, triplets) for by, check, detail in told]
        marks = self._mentions(text, entities)
        spans = [reason.pop("span") for reason in reasons]
        return {
            "key": record["request_key"],
            "id": record["id"],
            "split": record.get("split"),
            "verdict": record.get("verdict") or "accepted",
            "words": len(text.split()),
            "pieces": _pieces(text, marks, spans),
            "entities": [
                {"name": name.replace("_", " "), "uri": uri, "found": any(mark[2] == number for mark in marks)}
                for number, (uri, (name, _)) in enumerate(entities.items())
            ],
            "triplets": [
                {
                    "subject": numbers[triplet["subject"]["uri"]],
                    "relation": {"name": triplet["predicate"]["surfaceform"], "uri": triplet["predicate"]["uri"]},
                    "object": numbers[triplet["object"]["uri"]],
                }
                for triplet in triplets
            ],
            "withheld": [_names(triplet) for triplet in record.get("withheld") or ()],
            "topic": record.get("topic"),
            "reasons": reasons,
            "hand": {"verdict": hand.verdict, "note": hand.note, "time": hand.time} if hand else None,
            "details": {name: record[name] for name in _DETAILS if record.get(name) not in (None, "")},
        }

    def _mentions(self, text: str, entities: Mapping[str, tuple[str, int]]) -> list[tuple[int, int, int]]:
        """(first character, end, number of the entity) of all mentions; they may overlap."""
        tokens = Tokens(text)
        forms = {uri: self._forms(uri, name) for uri, (name, _) in entities.items()}
        places = find_forms(tokens, forms).places
        marks = []
        for number, (uri, (_, start)) in enumerate(entities.items()):
            # The token that the record names counts, also where the forms do not find it.
            told = [i for i, first in enumerate(tokens.starts) if first <= start < tokens.ends[i]]
            covered = find_forms(Tokens(text), {uri: forms[uri]}).covered
            for place in sorted({*places[uri], *told}):
                size = _longest(tokens, place, forms[uri])
                end = place + (size or 1)
                while not size and end < len(covered) and covered[end]:  # a variant of a form
                    end += 1
                marks.append((tokens.starts[place], tokens.ends[end - 1], number))
        return marks

    def _compile(self, uri: str, name: str) -> Forms:
        if self._graph is not None:
            try:
                return compile_forms(self._graph.node(uri))
            except SynthieError:  # of another graph
                pass
        kind = uri.partition(":")[0]
        return compile_forms(_Named(uri, name, kind if kind in _LITERALS else "entity"))


def _longest(tokens: Tokens, place: int, forms: Forms) -> int:
    """Tokens of the longest form that stands at ``place``; 0 if none does to the letter."""
    for phrase in forms.by_first.get(tokens.keys[place], ()):
        if tokens.keys[place : place + len(phrase.keys)] == phrase.keys:
            return len(phrase.keys)
    return 0


def _entities(record: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Id -> name and where the record says that it is first mentioned (-1: it does not say)."""
    found = {}
    for entity in record.get("entities") or ():
        start = entity.get("mention_start_index")
        found[entity["uri"]] = entity["surfaceform"], -1 if start is None else start
    for triplet in record["triplets"] or ():
        for part in ("subject", "object"):
            found.setdefault(triplet[part]["uri"], (triplet[part]["surfaceform"], -1))
    return found


def _reason(by: str, check: str, detail: str, text: str, triplets: list[Any]) -> dict[str, Any]:
    """With the span of the text and the triplets that the detail names; what the page marks is left out of the words.

    The detail numbers the triplets as they were asked for, the record has them by first mention: they are
    recognised by their names.
    """
    match = _SPAN.search(detail)
    span = (int(match[1]), int(match[2])) if match and int(match[2]) <= len(text) else None
    words, named = _SPAN.sub("", detail).replace("  ", " ").replace(" ,", ","), []
    if head := _TRIPLET.match(words):
        rest = words[head.end() :]
        named = [number for number, triplet in enumerate(triplets) if rest.startswith(f"({_names(triplet)})")]
        if named:
            triplet = triplets[named[0]]
            rest = rest.removeprefix(f"({_names(triplet)})").lstrip(": ")
            words = f"{triplet['predicate']['surfaceform']}: {_read(rest, triplet)}"
    return {
        "by": by,
        "check": check,
        "detail": words,
        "triplets": named,
        "span": span,
        "marked": span is not None,
    }


def _read(words: str, triplet: Mapping[str, Any]) -> str:
    """With the names as one reads them, and without their ids."""
    for part in ("subject", "object"):
        name, uri = triplet[part]["surfaceform"], triplet[part]["uri"]
        words = words.replace(f"'{name}' ({uri})", f"'{name.replace('_', ' ')}'")
    return words


def _names(triplet: Mapping[str, Any]) -> str:
    return " | ".join(triplet[part]["surfaceform"].replace("_", " ") for part in ("subject", "predicate", "object"))


def _pieces(
    text: str, marks: Iterable[tuple[int, int, int]], spans: list[tuple[int, int] | None]
) -> list[dict[str, Any]]:
    """The text, cut wherever a mention or a fault begins or ends.

    ``text``; ``entities``, ``faults``: numbers of those that the piece belongs to, left out where none.
    """
    layers = [("entities", start, end, number) for start, end, number in marks]
    layers += [("faults", *span, number) for number, span in enumerate(spans) if span]
    cuts = sorted({0, len(text), *(cut for _, start, end, _ in layers for cut in (start, end))})
    pieces = []
    for start, end in pairwise(cuts):
        piece: dict[str, Any] = {"text": text[start:end]}
        for layer, first, last, number in layers:
            if first <= start and end <= last and number not in piece.setdefault(layer, []):
                piece[layer].append(number)
        pieces.append({name: value for name, value in piece.items() if value})
    return pieces
