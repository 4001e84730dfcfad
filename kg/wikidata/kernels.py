"""The compiled scan of a block of a Wikidata JSON dump, for `kg.wikidata.scan`.

A document is taken if it has the form of the official dump, byte for byte: a
line with one item, compact, its keys in Wikibase's order. What is verified of it:
terms, claims and sitelinks to the last byte, but for what strings hold that nobody
reads; of qualifiers and references that strings, brackets, commas and colons stand
where they may. A line that nothing is wanted of is not looked into: only its
beginning and its end are. Any other line is left to `kg.wikidata.reader`, and so is
one with a detail that is not certain, such as a property that occurs twice or a
text that must be tidied.
No type hints, and -1 for what is left to the reader, as in `kg.wikidata.jsonbytes`.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kg.wikidata import claims, columns, jsonbytes, structure, values
from kg.wikidata.claims import UNIT_TOLD, is_empty, read_claims
from kg.wikidata.columns import DOCUMENTS, TEXTS, USED, Columns, Document, Rules
from kg.wikidata.jsonbytes import (
    MARGIN,
    after,
    after_code,
    after_integer,
    after_number,
    after_string,
    compiled,
    copy_text,
    find,
    line_end,
    number_of,
    pointer,
    pointers,
    same,
)

__all__ = ["scan_block"]

(
    _ENTITIES,
    _ALIASES,
    _TYPES,
    _,
    _,
    _LABELS,
    _SUBCLASSES,
    _LEFT,
    _TITLE,
    _LABEL,
    _DESCRIPTION,
    _ALIAS,
    _OTHER_LABEL,
    _,
    _,
) = range(len(USED) + len(TEXTS))
_KEPT, _NOT_LISTED, _NO_ARTICLE, _NO_LABEL, _DROPPED_CLASS = range(len(DOCUMENTS))
_QUOTE, _COMMA, _CLOSE, _CLOSE_LIST, _Q, _ZERO, _NINE = (ord(c) for c in '",}]Q09')


@compiled
def _after_terms(data, place, rules, terms):
    """Read labels or descriptions."""
    for at in range(2 * rules.languages):
        terms[at] = -1
    if place < 0 or is_empty(data, place):
        return place + 2 if place > 0 else -1
    place = after(data, place, "{")
    while True:
        name = after(data, place, '"')
        place = after_code(data, name)
        language = -1
        if place > 0:
            language = number_of(data, name, place - 1, rules.languages, rules.language, rules.language_ends)
        value = after(data, after_string(data, after(data, place, ':{"language":"')), ',"value":"')
        place = after(data, after_string(data, value), "}")
        if place < 0:
            return -1
        if language >= 0:
            if terms[2 * language] >= 0:
                return -1
            terms[2 * language], terms[2 * language + 1] = value, place - 2
        if data[place] == _CLOSE:
            return place + 1
        place = after(data, place, ",")


@compiled
def _after_aliases(data, place, rules, document):
    """Read the aliases; and how many of them there are in wanted languages."""
    count = 0
    for language in range(rules.languages):
        document.had[language] = False
    if place < 0 or is_empty(data, place):
        return place + 2 if place > 0 else -1, count
    place = after(data, place, "{")
    while True:
        name = after(data, place, '"')
        place = after(data, after_code(data, name), ":[")
        if place < 0:
            return -1, count
        language = number_of(data, name, place - 3, rules.languages, rules.language, rules.language_ends)
        if language >= 0:
            if document.had[language]:
                return -1, count
            document.had[language] = True
        while True:
            value = after(data, after_string(data, after(data, place, '{"language":"')), ',"value":"')
            place = after(data, after_string(data, value), "}")
            if place < 0:
                return -1, count
            if language >= 0:
                document.aliases[3 * count] = language
                document.aliases[3 * count + 1], document.aliases[3 * count + 2] = value, place - 2
                count += 1
            if data[place] == _CLOSE_LIST:
                break
            place = after(data, place, ",")
        place += 1
        if data[place] == _CLOSE:
            return place + 1, count
        place = after(data, place, ",")


@compiled
def _after_sitelinks(data, place, rules):
    """Read the sitelinks; and beginning and end of the wanted title."""
    first, last = 0, 0
    if place < 0 or is_empty(data, place):
        return place + 2 if place > 0 else -1, first, last
    place = after(data, place, "{")
    while True:
        name = after(data, place, '"')
        place = after_code(data, name)
        wanted = (
            place - 1 - name == rules.site_bytes and place > 0 and same(data, name, rules.site, 0, rules.site_bytes)
        )
        title = after(data, after_string(data, after(data, place, ':{"site":"')), ',"title":"')
        place = after(data, after_string(data, title), ',"badges":[')
        if place < 0 or (wanted and first):
            return -1, first, last
        if wanted:
            first, last = title, place - 12
        while data[place] == _QUOTE:
            place = after_code(data, place + 1)
            if place < 0:
                return -1, first, last
            if data[place] == _COMMA and data[place + 1] == _QUOTE:
                place += 1
        place = after(data, place, "]}")
        if place < 0 or data[place] == _CLOSE:
            return after(data, place, "}"), first, last
        place = after(data, place, ",")


@compiled
def _after_document(data, place):
    """Read what stands behind the sitelinks; and the revision."""
    revision, told = 0, False
    while place > 0 and data[place] == _COMMA:
        number = after(data, place, ',"lastrevid":')
        if number > 0:
            if told:
                return -1, revision
            told = True
            place, revision = after_integer(data, number)
            continue
        number = max(after(data, place, ',"pageid":'), after(data, place, ',"ns":'))
        if number > 0:
            place, _ = after_integer(data, number)
            continue
        place = after_string(data, max(after(data, place, ',"title":"'), after(data, place, ',"modified":"')))
    return after(data, place, "}"), revision


@compiled
def _copy_first(data, terms, rules, pool, at):
    """Write the first text of terms to a pool; the offset behind it there, or -1, and its language, or -1."""
    for language in range(rules.languages):
        if terms[2 * language] < terms[2 * language + 1]:
            return copy_text(data, terms[2 * language], terms[2 * language + 1], rules.printable, pool, at), language
    return at, -1


@compiled
def _put_aliases(data, count, language, label, label_end, rules, columns, document):
    """Append the aliases in the first language, in that of the label and those for all; False if one is odd."""
    used, pool = columns.used, columns.alias
    first_alias = used[_ALIASES]
    for wanted in range(rules.languages):
        if not document.had[wanted] or not (wanted == 0 or wanted == language or rules.universal[wanted]):
            continue
        for row in range(count):
            if document.aliases[3 * row] != wanted:
                continue
            start, first, last = used[_ALIAS], document.aliases[3 * row + 1], document.aliases[3 * row + 2]
            end = copy_text(data, first, last, rules.printable, pool, start)
            if end < 0:
                return False
            size = end - start
            again = size == 0 or (size == label_end - label and same(pool, start, columns.label, label, size))
            for other in range(first_alias, used[_ALIASES]):
                first = columns.alias_ends[other]
                again |= columns.alias_ends[other + 1] - first == size and same(pool, start, pool, first, size)
            if not again:
                used[_ALIAS] = end
                used[_ALIASES] += 1
                columns.alias_ends[used[_ALIASES]] = end
    return True


@compiled
def _put_id(number, pool, at):
    """Write the id of an item to a pool."""
    pool[at] = _Q
    digits = 1
    while 10**digits <= number:
        digits += 1
    for digit in range(digits, 0, -1):
        pool[at + digit] = _ZERO + number % 10
        number //= 10
    return at + digits + 1


@compiled
def _is_listed(number, rules):
    if rules.list_bytes < 0:
        return True
    return number >> 3 < rules.list_bytes and rules.listed[number >> 3] >> (number & 7) & 1 == 1


@compiled
def _refusal(number, has_title, has_label, first_type, rules, columns):
    """Why an item is not kept, or 0."""
    if not _is_listed(number, rules):
        return _NOT_LISTED
    if rules.articles_only and not has_title:
        return _NO_ARTICLE
    if not (has_label or has_title):
        return _NO_LABEL
    for row in range(first_type, columns.used[_TYPES]):
        for dropped in range(rules.dropped):
            if columns.type[row] == rules.drop_classes[dropped]:
                return _DROPPED_CLASS
    return _KEPT


@compiled
def _put_other(number, revision, first, last, columns):
    """Append an item that is not kept, with the label that is [first, last) of their pool."""
    used = columns.used
    at, text = used[_LABELS], used[_OTHER_LABEL]
    columns.other[2 * at], columns.other[2 * at + 1] = number, revision
    for byte in range(first, last):
        columns.other_label[text] = columns.label[byte]
        text += 1
    columns.other_label_ends[at + 1] = text
    used[_LABELS], used[_OTHER_LABEL] = at + 1, text


@compiled
def _read_document(data, start, place, end, number, rules, columns, document):
    """Read a document from its labels on; False if it is left to the reader."""
    used = columns.used
    row = used[_ENTITIES]
    place = _after_terms(data, place, rules, document.labels)
    place = _after_terms(data, after(data, place, ',"descriptions":'), rules, document.descriptions)
    place, aliases = _after_aliases(data, after(data, place, ',"aliases":'), rules, document)
    place = read_claims(data, after(data, place, ',"claims":'), end, number, row, rules, columns, document)
    place, title_first, title_last = _after_sitelinks(data, after(data, place, ',"sitelinks":'), rules)
    place, revision = _after_document(data, place)
    if place != end:
        return False
    title, label = used[_TITLE], used[_LABEL]
    title_end = copy_text(data, title_first, title_last, rules.printable, columns.title, title)
    label_end, language = _copy_first(data, document.labels, rules, columns.label, label)
    if title_end < 0 or label_end < 0:
        return False
    if label_end == label:
        for at in range(title, title_end):
            columns.label[label_end] = columns.title[at]
            label_end += 1
    reason = _refusal(number, title_end > title, language >= 0, document.saved[_TYPES], rules, columns)
    columns.documents[reason] += 1
    if reason != _KEPT:
        superclasses = used[_SUBCLASSES]
        _restore(columns, document)
        used[_SUBCLASSES] = superclasses
        if label_end > label and (reason == _DROPPED_CLASS or document.tally[UNIT_TOLD]):
            _put_other(number, revision, label, label_end, columns)
        return True
    if label_end == label:
        label_end = _put_id(number, columns.label, label)
    description_end, _ = _copy_first(data, document.descriptions, rules, columns.description, used[_DESCRIPTION])
    if description_end < 0 or not _put_aliases(data, aliases, language, label, label_end, rules, columns, document):
        columns.documents[reason] -= 1
        return False
    used[_ENTITIES], used[_TITLE], used[_LABEL], used[_DESCRIPTION] = row + 1, title_end, label_end, description_end
    columns.number[row], columns.revision[row] = number, revision
    columns.line[2 * row], columns.line[2 * row + 1] = start, end
    columns.title_ends[row + 1], columns.label_ends[row + 1] = title_end, label_end
    columns.description_ends[row + 1] = description_end
    columns.aliases_ends[row + 1], columns.types_ends[row + 1] = used[_ALIASES], used[_TYPES]
    for at in range(UNIT_TOLD):
        columns.statements[at] += document.tally[at]
    return True


@compiled
def _begin(columns, document):
    """Forget the document before."""
    for at in range(len(USED) + len(TEXTS)):
        document.saved[at] = columns.used[at]
    for at in range(UNIT_TOLD + 1):
        document.tally[at] = 0
    document.state[0] += 1
    document.state[1] = 0


@compiled
def _restore(columns, document):
    """Take back all rows of the document."""
    for at in range(len(USED) + len(TEXTS)):
        columns.used[at] = document.saved[at]


@compiled
def _is_marked(data, start, end, size, mark, mark_bytes, next_places, which):
    """Whether a mark lies in [start, end); where the next one is, is remembered, as one line follows another."""
    if next_places[which] < start:
        place = size
        if mark_bytes:
            place = find(data, start, size, mark, mark_bytes, max(0, mark_bytes - 5), mark_bytes - 3)
        next_places[which] = size if place < 0 else place
    return next_places[which] < end


@compiled
def _unseen_refusal(data, start, end, size, number, rules, document):
    """Why the item of a line is not kept if nothing is needed of it, or 0."""
    if rules.list_bytes < 0 and not rules.articles_only:
        return _KEPT
    places = document.next_marks
    for_units = _is_marked(data, start, end, size, rules.unit_mark, rules.unit_mark_bytes, places, 0)
    if for_units or _is_marked(data, start, end, size, rules.class_mark, rules.class_mark_bytes, places, 1):
        return _KEPT
    if not _is_listed(number, rules):
        return _NOT_LISTED
    has_article = not rules.articles_only or _is_marked(
        data, start, end, size, rules.article_mark, rules.article_mark_bytes, places, 2
    )
    return _KEPT if has_article else _NO_ARTICLE


@compiled
def _leave(start, end, columns):
    """Leave a line to the reader."""
    at = columns.used[_LEFT]
    if at and columns.left[2 * at - 1] == start:
        columns.left[2 * at - 1] = end
    else:
        columns.left[2 * at], columns.left[2 * at + 1] = start, end
        columns.used[_LEFT] = at + 1


@compiled
def _read_line(data, start, line, size, rules, columns, document):
    """Read the line [start, line); False if it is left to the reader."""
    end = line - (line > start and data[line - 1] == _COMMA)
    place, number = after_number(data, after(data, start, '{"type":"item","id":"Q'))
    place = after(data, place, '","labels":')
    if place < 0 or data[end - 1] != _CLOSE:
        return False
    reason = _unseen_refusal(data, start, line, size, number, rules, document)
    if reason != _KEPT:
        columns.documents[reason] += 1
        return True
    _begin(columns, document)
    if not _read_document(data, start, place, end, number, rules, columns, document):
        _restore(columns, document)
        return False
    for at in range(document.state[1]):
        columns.seen[document.properties[at]] = True
    return True


@compiled
def _scan(data, size, rules, columns, document):
    columns.used[_LEFT] = 0
    for which in range(3):
        document.next_marks[which] = -1
    start = 0
    while start < size:
        line = line_end(data, start)
        if not _read_line(data, start, line, size, rules, columns, document):
            _leave(start, min(line + 1, size), columns)
        start = line + 1


def _cached_scan(sources: int) -> Any:
    """The scan as kept on disk: numba sees when this file or ``sources`` change, but not the other files."""

    @njit(cache=True, nogil=True)
    def scan_block(block, size, rules, columns, document):
        _scan(pointer(block), size, pointers(rules), pointers(columns), pointers(document))
        return sources

    return scan_block


_FILES = (jsonbytes, structure, values, claims, columns)
_scan_block = _cached_scan(crc32(b"".join(Path(str(module.__file__)).read_bytes() for module in _FILES)))


def scan_block(block: NDArray[np.uint8], rules: Rules, columns: Columns, document: Document) -> None:
    """Append what is found in a block's lines to columns with room enough.

    Args:
        block: whole lines, and behind them `MARGIN` line feeds that belong to none.
    """
    _scan_block(block, len(block) - MARGIN, rules, columns, document)
