"""Which token sequences are names in a graph.

An index in flat arrays, built in one pass over the node table and searched for
all candidates of a text at once, never by going through names.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthie.surface.forms import DISAMBIGUATOR
from synthie.surface.tokens import fold, fold_all

__all__ = ["CLASS", "COMMON", "LONGEST_NAME", "LONGEST_NOUN", "PROPER", "NameIndex"]

PROPER, COMMON, CLASS = 0, 1, 2
LONGEST_NAME = 6  # tokens
LONGEST_NOUN = 3
_INDEX_BATCH = 1 << 14
_LOWER_WORD = re.compile(r"(?<![^\W\d_])[a-zß-öø-ÿ]{2,}(?![^\W\d_])")
_SENTENCE_CASE = re.compile(r"[A-Z][a-zß-öø-ÿ]+(?: [a-zß-öø-ÿ]{3,})+")
_NAME_OF_SEVERAL_WORDS = re.compile(r"(?!\s)[^a-z]\S* (?:.* )?[^\Wa-zß-öø-ÿ]")


class NameIndex:
    """Which token sequences are names in the graph.

    Holds a 64-bit hash and a node number for each name, so that a million names take about 13 MB each million, and
    a lookup is a binary search, vectorised over all the candidates of a text. Three kinds are kept apart: proper names
    (name, label and aliases, capitalised), common nouns (labels in lower case), and those of them that are classes,
    because "city" or "film" say no more than what kind of thing a subject is.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        hashes, numbers = array("q"), array("i")
        self._words: set[str] = set()
        classes = _classes(table)
        columns = ["id", "name", "label", "aliases", "description", "kind"]
        number = -1
        for batch in table.select(columns).to_batches(max_chunksize=_INDEX_BATCH):
            for uri, name, label, aliases, description, kind in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                number += 1
                if kind != "entity":
                    continue
                self._words.update(fold(word) for word in _LOWER_WORD.findall(f"{label} {description or ''}"))
                for entry in _index_entries(name, label, aliases or (), uri in classes):
                    hashes.append(hash(entry))
                    numbers.append(number)
        order_by = np.frombuffer(hashes, dtype=np.int64)
        order = np.argsort(order_by, kind="stable")
        self._hashes = order_by[order]
        self._numbers = np.frombuffer(numbers, dtype=np.int32)[order]

    def search(self, candidates: Sequence[tuple[int, tuple[str, ...]]]) -> list[tuple[int, int]]:
        """(place among the candidates, node number) of those that are names.

        Args:
            candidates: pairs of a kind and a phrase, which is a tuple of token keys.
        """
        if not candidates or not len(self._hashes):
            return []
        wanted = np.array(list(map(hash, candidates)), dtype=np.int64)
        at = self._hashes.searchsorted(wanted)
        places = np.flatnonzero(self._hashes.take(at, mode="clip") == wanted)
        return list(zip(places.tolist(), self._numbers[at[places]].tolist(), strict=True)) if len(places) else []

    def is_name(self, phrase: tuple[str, ...]) -> bool:
        """Whether a phrase is a proper name."""
        return bool(self.search([(PROPER, phrase)]))

    def find_one(self, phrase: tuple[str, ...]) -> str:
        """Description of the node that a proper name belongs to, "" if there is none."""
        found = self.search([(PROPER, phrase)])
        return self.describe(found[0][1]) if found else ""

    def describe(self, number: int) -> str:
        """Label and id of a node, for a message."""
        row = self._table.slice(number, 1).select(["label", "id"]).to_pylist()[0]
        return f"{row['label']}, {row['id']}"

    def is_word(self, key: str) -> bool:
        """Whether a label or description of the graph has the word in lower case."""
        return key in self._words


def _classes(table: pa.Table) -> frozenset[str]:
    types = table.column("types")
    return frozenset(pc.unique(pc.list_flatten(types)).to_pylist())


def _index_entries(
    name: str, label: str, aliases: Sequence[str], is_class: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(kind, keys) under which a node is found."""
    title = name.replace("_", " ")
    names = {alias for alias in aliases if _NAME_OF_SEVERAL_WORDS.match(alias)}
    if label[:1].islower():
        keys = fold_all(label)
        if 0 < len(keys) <= LONGEST_NOUN:
            yield CLASS if is_class else COMMON, keys
        names |= {text for text in (title,) if _NAME_OF_SEVERAL_WORDS.match(text)}
    else:
        names |= {label, title, DISAMBIGUATOR.sub("", title)}
        if _SENTENCE_CASE.fullmatch(label) and len(keys := fold_all(label)) <= LONGEST_NOUN:
            yield COMMON, keys  # "Gram flour", a common noun written like a title
    for text in names:
        keys = fold_all(text)
        if 0 < len(keys) <= LONGEST_NAME:
            yield PROPER, keys
