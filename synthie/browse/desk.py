"""What the page asks for, without HTTP: the records of one source or two, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kg.stage import MANIFEST
from synthie.browse.figures import agreement, by_prompt
from synthie.browse.index import Index, Library, Names
from synthie.browse.pairs import pair
from synthie.browse.query import Filters, Selection, select
from synthie.browse.reading import Reader
from synthie.browse.sources import Source
from synthie.browse.verdicts import HandVerdict, HandVerdicts, Word
from synthie.errors import InputError

__all__ = ["LARGEST_PAGE", "Desk", "Side"]

LARGEST_PAGE = 100
_PER_SIDE = ("verdict", "hand", "reason", "judge", "words", "search", "style")


@dataclass
class Side:
    """One source with all that belongs to it."""

    source: Source
    library: Library
    reader: Reader
    verdicts: HandVerdicts
    _faults: dict[str, list[Any]] = field(default_factory=dict)
    _faults_stamp: float | None = None

    def faults(self) -> dict[str, list[Any]]:
        """Request key -> what a judge has found wrong with the text."""
        folder = self.source.judgements
        manifest = folder / MANIFEST if folder else None
        stamp = manifest.stat().st_mtime if manifest and manifest.exists() else None
        if stamp != self._faults_stamp:
            from synthie.judging.reading import faults

            self._faults = {**faults(folder)} if stamp and folder else {}
            self._faults_stamp = stamp
        return self._faults

    def select(self, index: Index, filters: Filters) -> Selection:
        return select(self.library, index, filters, self.verdicts.current(), self.faults())

    def show(self, index: Index, rows: Any) -> list[dict[str, Any]]:
        hand, faults = self.verdicts.current(), self.faults()
        return [
            self.reader.show(record, hand.get(record["request_key"]), faults.get(record["request_key"], ()))
            for record in self.library.records(index, rows)
        ]


class Desk:
    """One source to read, or two to compare.

    Args:
        source: what is read.
        other: what it is compared with.
        progress: told the rows indexed and those of all files, for each source.
    """

    def __init__(
        self,
        source: Source,
        other: Source | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        names = Names()
        files: dict[Path, HandVerdicts] = {}

        def side(source: Source) -> Side:
            verdicts = files.setdefault(source.verdicts.resolve(), HandVerdicts(source.verdicts))
            return Side(source, Library(source, names, progress), Reader(source.graph), verdicts)

        self.sides = [side(each) for each in (source, other) if each]
        for each in self.sides:
            each.library.index()

    def overview(self) -> dict[str, Any]:
        """What there is, for the head of the page."""
        names = self.sides[0].library.names
        return {
            "sides": [
                {
                    "name": side.source.name,
                    "path": str(side.source.path),
                    "kind": side.source.kind,
                    "rows": index.rows,
                    "accepted": int(np.count_nonzero(index.columns["accepted"])),
                    "unreadable": list(index.unreadable),
                    "prompts": by_prompt(index, names, np.ones(index.rows, bool)),
                    "agreement": agreement(index, side.verdicts.current()),
                }
                for side, index in self._indexes()
            ],
            "relations": {uri: names.labels[uri] for uri in names.relations.names},
            "state": self.state(),
        }

    def state(self) -> str:
        """Another word, another state of the files or verdicts; for a page that asks whether it is up to date."""
        states = []
        for side, index in self._indexes():
            side.verdicts.current()
            states.append(f"{index.revision}.{side.verdicts.lines}")
        return "-".join(states)

    def page(self, filters: Filters, offset: int, limit: int) -> dict[str, Any]:
        """The records that the filters leave, from ``offset``, with figures of all that they leave.

        Raises:
            StaleRowsError: a file has changed meanwhile.
        """
        side = self.sides[0]
        index = side.library.index()
        chosen = side.select(index, filters)
        return {
            "total": len(chosen.rows),
            "matched": int(np.count_nonzero(chosen.matched)),
            "records": side.show(index, chosen.rows[offset : offset + limit]),
            "facets": chosen.facets,
            "prompts": by_prompt(index, side.library.names, chosen.population),
            "state": self.state(),
        }

    def pairs(
        self, filters: Filters, only: Sequence[tuple[str, str]], outcome: str, offset: int, limit: int
    ) -> dict[str, Any]:
        """The sets that both sides tell, from ``offset``.

        Args:
            filters: relation, triplets and split hold for the set; the others must hold for one of its two texts.
            only: for each side the prompt and the model that take part; "" for all.
            outcome: see `synthie.browse.pairs.pair`.

        Raises:
            InputError: there is nothing to compare with, or no such outcome.
            StaleRowsError: a file has changed meanwhile.
        """
        if len(self.sides) < 2:
            raise InputError("There is nothing to compare with. Start the page with --compare OTHER.")
        of_sets = replace(filters, **{name: getattr(Filters(), name) for name in _PER_SIDE}, sample=0)
        asks_texts = of_sets != replace(filters, sample=0)
        indexes = [index for _, index in self._indexes()]
        chosen = [
            [side.select(index, replace(each, prompt=prompt, model=model)) for each in (of_sets, filters)]
            for side, index, (prompt, model) in zip(self.sides, indexes, only, strict=True)
        ]
        among = (chosen[0][0].matched, chosen[1][0].matched)
        either = (chosen[0][1].matched, chosen[1][1].matched) if asks_texts else None
        found = pair(indexes[0], indexes[1], among, either, outcome)
        if filters.sample:
            found = found.drawn(filters.sample, filters.seed)
        rows = (found.left[offset : offset + limit], found.right[offset : offset + limit])
        shown = [side.show(index, part) for side, index, part in zip(self.sides, indexes, rows, strict=True)]
        return {
            "total": len(found.left),
            "matched": len(found.left),
            "outcomes": found.outcomes,
            "pairs": list(zip(*shown, strict=True)),
            "facets": _merged([part[0].facets for part in chosen]),
            "prompts": [
                by_prompt(index, side.library.names, part[0].population)
                for side, index, part in zip(self.sides, indexes, chosen, strict=True)
            ],
            "state": self.state(),
        }

    def judge(
        self, side: int, key: str, verdict: Word | None, note: str, expected: Word | Literal["any"] | None
    ) -> dict[str, Any]:
        """Keep a verdict given by hand; None withdraws it.

        Raises:
            InputError: no record has the key.
            StaleVerdictError: another verdict holds than the ``expected`` one.
            StorageError: the file cannot be written.
        """
        it = self._side(side)
        index = it.library.index()
        rows = index.find([key])
        if not len(rows):
            raise InputError("This text is not among the records any more. Load the page again.")
        row = int(rows[0])
        line = it.verdicts.add(
            key,
            verdict,
            id=int(index.columns["id"][row]),
            gate="accepted" if index.columns["accepted"][row] else "rejected",
            note=note,
            expected=expected,
        )
        return {
            "hand": {"verdict": verdict, "note": line.note, "time": line.time} if verdict else None,
            "was": line.was,
            "agreement": agreement(index, it.verdicts.current()),
            "state": self.state(),
        }

    def export(self, side: int = 0) -> Iterator[dict[str, Any]]:
        """The hand verdicts that hold, oldest first, each with its text and triplets where the record is there.

        Raises:
            InputError: there is no such side.
        """
        return self._exported(self._side(side))

    def _exported(self, it: Side) -> Iterator[dict[str, Any]]:
        index = it.library.index()
        hand: dict[str, HandVerdict] = it.verdicts.current()
        rows = index.find(hand)
        places = dict(zip(index.keys.take(rows).to_pylist(), rows.tolist(), strict=True))
        for key, verdict in hand.items():
            found = it.library.records(index, [places[key]])[0] if key in places else {}
            yield {
                "request_key": key,
                "id": verdict.id,
                "verdict": verdict.verdict,
                "gate": verdict.gate,
                "note": verdict.note,
                "time": verdict.time,
                "text": found.get("text"),
                "triplets": found.get("triplets"),
            }

    def _side(self, number: int) -> Side:
        if not 0 <= number < len(self.sides):
            raise InputError(f"There is no side {number}.")
        return self.sides[number]

    def _indexes(self) -> list[tuple[Side, Index]]:
        return [(side, side.library.index()) for side in self.sides]


def _merged(facets: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """For a pair of sides, the greater count of each value."""
    merged: dict[str, dict[str, int]] = {}
    for side in facets:
        for name, counts in side.items():
            into = merged.setdefault(name, {})
            for value, count in counts.items():
                into[value] = max(count, into.get(value, 0))
    return merged
