"""Records as a small model learns them best: triplets in the order in which they are told, and entities exchanged.

A small model that sees a pair of entities often writes the pair from memory and fails on pairs that it has not seen.
Where the names in text and target change together, only copying helps. And a target that follows the text clause by
clause is easier to write than the paper's order, which jumps back to each subject's other triplets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from synthie.extractor.spans import find_places
from synthie.records import Mention

__all__ = ["EntitySwapper", "Record", "as_arrays", "as_records", "by_statement"]

_QUALIFIER = re.compile(r"[ _]\([^()]*\)$")
_PLACEHOLDER = 0xE000  # the first code point of Unicode's private use area


@dataclass(frozen=True, slots=True)
class Record:
    """A text and its triplets (subject, relation, object), as numbers of nodes and relations."""

    text: str
    triplets: tuple[tuple[int, int, int], ...]


def by_statement(record: Record, mention: Callable[[int], Mention]) -> Record:
    """The record with its triplets in the order in which the text states them.

    A triplet counts as stated where a mention of its subject and one of its object are closest, at the later of the
    two. Those of which the text mentions only one stand there; the others stand last, in their old order.

    Args:
        record: the record.
        mention: node number -> name and id.
    """
    mentions = {node: mention(node) for subject, _, target in record.triplets for node in (subject, target)}
    found = find_places(record.text, mentions.values())
    places = {node: found[named] for node, named in mentions.items()}

    def stated(triplet: tuple[int, int, int]) -> float:
        subject, target = places[triplet[0]], places[triplet[2]]
        if not subject or not target:
            return min(subject + target, default=float("inf"))
        return min((abs(one - other), max(one, other)) for one in subject for other in target)[1]

    return Record(record.text, tuple(sorted(record.triplets, key=stated)))


class EntitySwapper:
    """Exchanges entities of records for others that stand in the same place of the same relation.

    Args:
        name: node number -> name.
        others: (relation, 0 for subjects and 1 for objects) -> numbers of the entities that stand there.
    """

    def __init__(self, name: Callable[[int], str], others: Mapping[tuple[int, int], NDArray[np.int64]]) -> None:
        self._name, self._others = name, others

    @classmethod
    def open(cls, graph: Path, name: Callable[[int], str]) -> EntitySwapper:
        """That of the graph in a folder, with its entities; literals stay."""
        kinds = pq.read_table(graph / "nodes.parquet", columns=["kind"])["kind"]
        is_entity = pc.equal(kinds, "entity").to_numpy()
        triples = pq.read_table(graph / "triples.parquet", columns=["subject", "relation", "object"])
        subjects, relations, objects = (triples[name].to_numpy() for name in triples.column_names)
        others: dict[tuple[int, int], NDArray[np.int64]] = {}
        for place, column in enumerate((subjects, objects)):
            chosen = is_entity[column]
            pairs = np.unique(np.stack([relations[chosen], column[chosen]], axis=1), axis=0)
            groups, starts = np.unique(pairs[:, 0], return_index=True)
            parts = np.split(pairs[:, 1], starts[1:])
            others |= {(int(group), place): part for group, part in zip(groups, parts, strict=True)}
        return cls(name, others)

    def swap(self, record: Record, random: Random) -> Record:
        """The record told of other entities; no two become one, and those that the text names otherwise stay."""
        text, triplets = record.text, record.triplets
        stands: dict[int, list[tuple[int, int]]] = {}
        for subject, relation, target in triplets:
            stands.setdefault(subject, []).append((relation, 0))
            stands.setdefault(target, []).append((relation, 1))
        swapped: dict[int, int] = {}
        written: list[str] = []
        # Long names first, for a name may be part of another. Placeholders keep new names from being replaced again.
        for node in sorted(stands, key=lambda node: (-len(self._name(node)), node)):
            choice = self._others.get(random.choice(stands[node]), ())
            if not len(choice):
                continue
            other = int(random.choice(choice))
            if other in stands or other in swapped.values():
                continue
            text, count = _replace(text, self._written(node), chr(_PLACEHOLDER + len(written)))
            if count:
                swapped[node] = other
                written.append(self._written(other))
        for number, name in enumerate(written):
            text = text.replace(chr(_PLACEHOLDER + number), name)
        return Record(text, tuple((swapped.get(s, s), relation, swapped.get(o, o)) for s, relation, o in triplets))

    def _written(self, node: int) -> str:
        """The name as texts write it: without underscores and without what distinguishes it from others."""
        return _QUALIFIER.sub("", self._name(node)).replace("_", " ")


def as_records(texts: Iterable[str], triplets: NDArray[np.int64], counts: NDArray[np.int64]) -> list[Record]:
    """Records from arrays.

    Args:
        texts: one a record.
        triplets: int64[total, 3], record after record.
        counts: int64[records], triplets in each.
    """
    ends = np.cumsum(counts).tolist()
    rows = [tuple(row) for row in triplets.tolist()]
    return [
        Record(text, tuple(rows[end - count : end]))
        for text, end, count in zip(texts, ends, counts.tolist(), strict=True)
    ]


def as_arrays(records: Sequence[Record]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Texts, triplets and counts, as `as_records` takes them."""
    triplets = np.array([triplet for record in records for triplet in record.triplets], np.int64).reshape(-1, 3)
    counts = np.array([len(record.triplets) for record in records], np.int64)
    return [record.text for record in records], triplets, counts


def _replace(text: str, name: str, marker: str) -> tuple[str, int]:
    """The text with ``marker`` for each whole occurrence of a name, and their number."""
    return re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", marker, text) if name in text else (text, 0)
