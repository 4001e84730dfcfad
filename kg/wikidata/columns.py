"""What passes between `kg.wikidata.scan` and its compiled kernels: rules, columns, and what is known of a document.

Flat arrays of numbers throughout. Texts are pools of bytes with the end of each
text; ends of texts and of lists begin with a 0 for what comes before the first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DOCUMENTS", "PROPERTIES", "SLOTS", "STATEMENTS", "TEXTS", "USED", "Columns", "Document", "Rules"]

PROPERTIES = 1 << 17  # a document with a property of this number or a greater one is left to the reader
SLOTS = 1 << 13  # of a hash table; a document with half as many properties is left to the reader

# How much of the columns is filled: rows, or bytes of texts.
USED = ("entities", "aliases", "types", "items", "literals", "labels", "subclasses", "left")
TEXTS = ("title", "label", "description", "alias", "other_label", "text", "value")
# What becomes of documents, and what of the statements of entities.
DOCUMENTS = ("entities", "not_listed", "no_article", "no_label", "dropped_class")
STATEMENTS = (
    "statements",
    "relation_not_selected",
    "datatype_not_kept",
    "deprecated",
    "not_best_rank",
    "novalue",
    "somevalue",
    "other_language",
)


class Rules(NamedTuple):
    """What is wanted."""

    printable: NDArray[np.uint8]  # [CHARACTERS]: whether a character may stand in a text
    languages: int
    language: NDArray[np.uint8]
    language_ends: NDArray[np.int32]
    universal: NDArray[np.uint8]  # of each language: whether its aliases hold in all
    site_bytes: int
    site: NDArray[np.uint8]
    article_mark_bytes: int
    article_mark: NDArray[np.uint8]  # a line without it holds no article
    unit_mark_bytes: int
    unit_mark: NDArray[np.uint8]  # a line with it may be that of a unit
    class_mark_bytes: int
    class_mark: NDArray[np.uint8]  # a line with it tells superclasses
    datatypes: int
    datatype: NDArray[np.uint8]  # those that are kept; the first is wikibase-item
    datatype_ends: NDArray[np.int32]
    datatype_kinds: NDArray[np.uint8]  # ITEM, TIME, … of `kg.wikidata.values`
    text_languages: int
    text_language: NDArray[np.uint8]  # of texts that are kept
    text_language_ends: NDArray[np.int32]
    months: NDArray[np.uint8]
    month_ends: NDArray[np.int32]  # [13], from a 0 on
    selected: NDArray[np.uint8]  # [PROPERTIES]
    dropped: int
    drop_classes: NDArray[np.int32]
    list_bytes: int  # -1 if all items may be kept
    listed: NDArray[np.uint8]  # a bit for each item
    articles_only: int
    classes: int  # whether superclasses are wanted


class Columns(NamedTuple):
    """What is found."""

    used: NDArray[np.int64]  # [USED + TEXTS]
    documents: NDArray[np.int64]  # [DOCUMENTS]: counts
    statements: NDArray[np.int64]  # [STATEMENTS]: counts
    seen: NDArray[np.uint8]  # [PROPERTIES]
    number: NDArray[np.int32]
    revision: NDArray[np.int64]
    line: NDArray[np.int64]  # of each entity the beginning and the end in its block
    title: NDArray[np.uint8]
    title_ends: NDArray[np.int32]
    label: NDArray[np.uint8]
    label_ends: NDArray[np.int32]
    description: NDArray[np.uint8]
    description_ends: NDArray[np.int32]
    alias: NDArray[np.uint8]
    alias_ends: NDArray[np.int32]
    aliases_ends: NDArray[np.int32]  # of each entity, in the aliases
    type: NDArray[np.int32]
    types_ends: NDArray[np.int32]  # of each entity, in the types
    item: NDArray[np.int32]  # of each statement entity, property, object
    item_rank: NDArray[np.uint8]  # in the end whether it is preferred
    literal: NDArray[np.int32]  # of each statement entity, property, datatype, unit
    literal_rank: NDArray[np.uint8]
    text: NDArray[np.uint8]
    text_ends: NDArray[np.int32]
    value: NDArray[np.uint8]
    value_ends: NDArray[np.int32]
    other: NDArray[np.int64]  # number and revision of an item that is not kept
    other_label: NDArray[np.uint8]
    other_label_ends: NDArray[np.int32]
    subclass: NDArray[np.int32]  # class and superclass
    left: NDArray[np.int64]  # beginning and end of each stretch of lines that the reader must read

    @classmethod
    def with_room(cls, rows: int, text_bytes: int) -> Columns:
        """Columns for so many rows of each kind, and so many bytes of each kind of text."""
        sizes = {"used": len(USED) + len(TEXTS), "documents": len(DOCUMENTS), "statements": len(STATEMENTS)}
        sizes |= dict.fromkeys(TEXTS, text_bytes) | {"seen": PROPERTIES}
        sizes |= dict.fromkeys(("line", "other", "subclass", "left"), 2 * rows) | {
            "item": 3 * rows,
            "literal": 4 * rows,
        }
        counted = ("used", "documents", "statements", "seen")
        numbers = ("used", "documents", "statements", "revision", "line", "other", "left")
        arrays: dict[str, NDArray[Any]] = {}
        for name in cls._fields:
            bytes_ = (*TEXTS, "seen", "item_rank", "literal_rank")
            kind = np.int64 if name in numbers else np.uint8 if name in bytes_ else np.int32
            make = np.zeros if name in counted or name.endswith("_ends") else np.empty
            arrays[name] = make(sizes.get(name, rows + 1), kind)
        return cls(**arrays)


class Document(NamedTuple):
    """What is known of the document at hand."""

    saved: NDArray[np.int64]  # what was used before it
    tally: NDArray[np.int64]  # its STATEMENTS, and behind them whether it tells a unit's conversion
    ranks: NDArray[np.int64]  # statements of a group by rank (deprecated, normal, preferred) and kind of main snak
    values: NDArray[np.int64]  # of the group's literals the beginning and the end
    labels: NDArray[np.int64]  # of each language the beginning and the end, or -1
    descriptions: NDArray[np.int64]
    aliases: NDArray[np.int64]  # of each alias language, beginning and end
    had: NDArray[np.uint8]  # of each language: whether there are aliases
    slots: NDArray[np.int64]  # the properties, hashed, each with the serial number of the document
    properties: NDArray[np.int64]
    state: NDArray[np.int64]  # serial number of the document, number of its properties
    next_marks: NDArray[np.int64]  # where the next marks of units, classes, articles are in the block

    @classmethod
    def with_room(cls, languages: int, rows: int) -> Document:
        """What is known of a document in these languages, with so many aliases and literals."""
        sizes = {"saved": len(USED) + len(TEXTS), "tally": len(STATEMENTS) + 1, "ranks": 9, "values": 2 * rows}
        sizes |= {"labels": 2 * languages, "descriptions": 2 * languages, "aliases": 3 * rows, "had": languages}
        sizes |= {"slots": SLOTS, "properties": SLOTS // 2, "state": 2, "next_marks": 3}
        arrays: dict[str, NDArray[Any]] = {}
        for name in cls._fields:
            arrays[name] = np.zeros(sizes[name], np.uint8 if name == "had" else np.int64)
        return cls(**arrays)
