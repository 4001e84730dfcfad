"""Blocks of a Wikidata JSON dump as columns, by the compiled scan of `kg.wikidata.kernels`.

`Scanner.read` takes what documents of the official form say from a block and
names the stretches of lines that `kg.wikidata.reader` must read; both say the same of
a document. No Python object is made for a document but its checksum.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from isal import isal_zlib
from numpy.typing import NDArray

from kg.arrays import mask, numbers, strings, strings_of
from kg.config import GraphConfig
from kg.literals import MONTHS
from kg.wikidata.columns import DOCUMENTS, PROPERTIES, STATEMENTS, USED, Columns, Document, Rules
from kg.wikidata.jsonbytes import CHARACTERS, MARGIN
from kg.wikidata.kernels import scan_block
from kg.wikidata.values import COORDINATE, ITEM, MONOLINGUAL, QUANTITY, STRING, TIME
from kg.wikidata.wikibase import item_number, kind_of

__all__ = ["Scanner"]

_MOST_ROWS, _MOST_BYTES = 1 << 15, 1 << 22  # that may wait in a column before one more block is read
_BLOCK_BYTES = 1 << 20  # of nearly all blocks
_UNIVERSAL = "mul"
_PLACE = {name: place for place, name in enumerate(USED)}
_WAITING = [_PLACE[kind] for kind in ("entities", "items", "literals", "labels", "subclasses")]
_KINDS = {
    "wikibase-item": ITEM,
    "time": TIME,
    "quantity": QUANTITY,
    "globe-coordinate": COORDINATE,
    "monolingualtext": MONOLINGUAL,
}
_PROPERTY = re.compile(r"P([1-9]\d{0,8})", re.ASCII)


class Scanner:
    """Reads one block after another into columns.

    Args:
        config: the selection, one that the scan `suits`.
        relations: P ids of the relations to keep, or None for all.
        listed: as for `kg.wikidata.reader.WikidataReader`.
    """

    def __init__(
        self, config: GraphConfig, relations: Collection[str] | None = None, listed: bytes | None = None
    ) -> None:
        self._rules = _rules(config, relations, listed)
        self._datatypes = ["wikibase-item", *config.literals]
        self._checksums: list[int] = []
        self._told: dict[int, str] = {}
        self._selects = relations is not None
        self._columns = Columns.with_room(0, 0)
        self._reserve(_BLOCK_BYTES)

    margin = MARGIN

    @staticmethod
    def suits(config: GraphConfig) -> bool:
        """Whether the scan knows what is asked for: no qualifiers, no labels in whatever language."""
        return not config.qualifiers and config.entities != "any"

    @property
    def rows(self) -> int:
        """How many statements and documents are waiting to be taken."""
        return int(self._columns.used[_WAITING].sum())

    def fits(self, block: bytes) -> bool:
        """Whether a block can be read before what is waiting is taken."""
        used = self._columns.used
        return (
            len(block) <= self._block_bytes
            and used[: len(USED)].max() <= _MOST_ROWS
            and used[len(USED) :].max() <= _MOST_BYTES
        )

    def read(self, block: bytes) -> list[list[int]]:
        """Take what documents of the official form say; the other lines are in the stretches that are returned.

        Args:
            block: whole lines and `MARGIN` line feeds, one that `fits` unless nothing is waiting.
        """
        if len(block) > self._block_bytes:
            self._reserve(len(block))
        columns, used = self._columns, self._columns.used
        first_entity = int(used[_PLACE["entities"]])
        scan_block(np.frombuffer(block, np.uint8), self._rules, columns, self._document)
        text = memoryview(block)
        lines = _pairs(columns.line, first_entity, int(used[_PLACE["entities"]]))
        self._checksums += [isal_zlib.crc32(text[start:stop]) for start, stop in lines]
        return _pairs(columns.left, 0, int(used[_PLACE["left"]]))

    def take(self, first_row: int) -> dict[str, list[pa.Array]]:
        """What is waiting, as the columns of the parts of each kind.

        Args:
            first_row: of the entities among those of their part.
        """
        columns = self._columns
        entities, items, literals, labels, subclasses = (
            int(columns.used[_PLACE[kind]]) for kind in ("entities", "items", "literals", "labels", "subclasses")
        )
        taken = {
            "entities": self._entity_columns(entities),
            "items": self._item_columns(items, first_row),
            "literals": self._literal_columns(literals, first_row),
            "labels": [
                numbers(columns.other[: 2 * labels : 2].astype(np.int32)),
                numbers(columns.other[1 : 2 * labels : 2]),
                strings_of(columns.other_label_ends[: labels + 1], columns.other_label),
            ],
            "subclasses": [numbers(columns.subclass[place : 2 * subclasses : 2]) for place in (0, 1)],
        }
        columns.used[:] = 0
        self._checksums.clear()
        return {kind: arrays for kind, arrays in taken.items() if len(arrays[0])}

    def take_counts(self) -> tuple[Counter[str], Counter[str]]:
        """What became of documents and of statements since the last call, by the names of `kg.wikidata.kernels`."""
        columns = self._columns
        documents = Counter(dict(zip(DOCUMENTS, columns.documents.tolist(), strict=True)))
        statements = Counter(dict(zip(STATEMENTS, columns.statements.tolist(), strict=True)))
        columns.documents[:] = columns.statements[:] = 0
        return documents, statements

    def take_datatypes(self) -> dict[int, str]:
        """Number of the P id -> datatype that the statements tell that were taken since the last call."""
        datatypes, self._told = self._told, {}
        return datatypes

    def take_seen(self) -> set[str]:
        """P ids of the documents that were looked into since the last call, as far as relations are selected."""
        seen = {f"P{number}" for number in np.flatnonzero(self._columns.seen).tolist()}
        self._columns.seen[:] = False
        return seen if self._selects else set()

    def _entity_columns(self, count: int) -> list[pa.Array]:
        columns = self._columns
        aliases, types = int(columns.used[_PLACE["aliases"]]), int(columns.used[_PLACE["types"]])
        return [
            numbers(columns.number[:count]),
            numbers(columns.revision[:count]),
            numbers(np.array(self._checksums, np.uint32)),
            strings_of(columns.title_ends[: count + 1], columns.title),
            strings_of(columns.label_ends[: count + 1], columns.label),
            strings_of(columns.description_ends[: count + 1], columns.description),
            _lists(columns.aliases_ends, count, strings_of(columns.alias_ends[: aliases + 1], columns.alias)),
            _lists(columns.types_ends, count, numbers(columns.type[:types])),
        ]

    def _item_columns(self, count: int, first_row: int) -> list[pa.Array]:
        rows = self._columns.item[: 3 * count].reshape(-1, 3)
        self._tell_datatypes(rows[:, 1], "wikibase-item")
        preferred = mask(self._columns.item_rank[:count].view(np.bool_))
        return [numbers(rows[:, 0] + np.int32(first_row)), numbers(rows[:, 1]), numbers(rows[:, 2]), preferred]

    def _literal_columns(self, count: int, first_row: int) -> list[pa.Array]:
        columns = self._columns
        rows = columns.literal[: 4 * count].reshape(-1, 4)
        datatypes = rows[:, 2]
        for place, datatype in enumerate(self._datatypes):
            self._tell_datatypes(rows[datatypes == place, 1], datatype)
        return [
            numbers(rows[:, 0] + np.int32(first_row)),
            numbers(rows[:, 1]),
            mask(columns.literal_rank[:count].view(np.bool_)),
            strings(self._datatypes).take(numbers(datatypes)),
            strings([kind_of(datatype) for datatype in self._datatypes]).take(numbers(datatypes)),
            strings_of(columns.text_ends[: count + 1], columns.text),
            numbers(rows[:, 3]),
            strings_of(columns.value_ends[: count + 1], columns.value),
        ]

    def _tell_datatypes(self, properties: NDArray[np.int32], datatype: str) -> None:
        for number in np.unique(properties).tolist():
            self._told[number] = min(self._told.get(number, datatype), datatype)

    def _reserve(self, block_bytes: int) -> None:
        """Make room for a block of this size; nothing may be waiting."""
        columns = Columns.with_room(_MOST_ROWS + block_bytes // 24, _MOST_BYTES + block_bytes)
        counts = {name: getattr(self._columns, name) for name in ("documents", "statements", "seen")}
        self._columns = columns._replace(**counts)
        self._document = Document.with_room(self._rules.languages, block_bytes // 24)
        self._block_bytes = block_bytes


def _rules(config: GraphConfig, relations: Collection[str] | None, listed: bytes | None) -> Rules:
    selected = np.ones(PROPERTIES, np.bool_)
    if relations is not None:
        found = [int(match[1]) for match in map(_PROPERTY.fullmatch, relations) if match]
        selected[:] = False
        selected[[number for number in found if number < PROPERTIES]] = True
    language, language_ends = _pool(config.languages)
    datatypes = ["wikibase-item", *config.literals]
    datatype, datatype_ends = _pool(datatypes)
    text_languages = [*config.languages, *{_UNIVERSAL}.difference(config.languages)]
    text_language, text_language_ends = _pool(text_languages)
    months, month_ends = _pool(MONTHS)
    article_mark = _bytes(f'"{config.site}"')
    unit_mark = _bytes('"P2370"' if "quantity" in config.literals else "")
    class_mark = _bytes('"P279"' if config.classes else "")
    return Rules(
        printable=_printable(),
        languages=len(config.languages),
        language=language,
        language_ends=language_ends,
        universal=np.array([language == _UNIVERSAL for language in config.languages], np.uint8),
        site_bytes=len(config.site),
        site=_bytes(config.site),
        article_mark_bytes=len(article_mark),
        article_mark=article_mark,
        unit_mark_bytes=len(unit_mark),
        unit_mark=unit_mark,
        class_mark_bytes=len(class_mark),
        class_mark=class_mark,
        datatypes=len(datatypes),
        datatype=datatype,
        datatype_ends=datatype_ends,
        datatype_kinds=np.array([_KINDS.get(name, STRING) for name in datatypes], np.uint8),
        text_languages=len(text_languages),
        text_language=text_language,
        text_language_ends=text_language_ends,
        months=months,
        month_ends=np.append(np.int32(0), month_ends),
        selected=selected.view(np.uint8),
        dropped=len(config.drop_classes),
        drop_classes=np.array([item_number(item) for item in config.drop_classes], np.int32),
        list_bytes=-1 if listed is None else len(listed),
        listed=np.frombuffer(listed or b"", np.uint8),
        articles_only=int(config.entities == "wikipedia"),
        classes=int(bool(config.classes)),
    )


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _pool(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The bytes of names one after another, and the end of each."""
    return _bytes("".join(names)), np.cumsum([len(name) for name in names], dtype=np.int32)


@lru_cache(maxsize=1)
def _printable() -> NDArray[np.uint8]:
    return np.fromiter(map(str.isprintable, map(chr, range(CHARACTERS))), np.uint8, CHARACTERS)


def _pairs(flat: NDArray[np.int64], first: int, last: int) -> list[list[int]]:
    """Pairs ``first`` … ``last`` - 1 of an array that holds one after another."""
    pairs: list[list[int]] = flat[2 * first : 2 * last].reshape(-1, 2).tolist()
    return pairs


def _lists(ends: NDArray[np.int32], count: int, values: pa.Array) -> pa.Array:
    return pa.Array.from_buffers(
        pa.list_(values.type), count, [None, pa.py_buffer(ends[: count + 1])], children=[values]
    )
