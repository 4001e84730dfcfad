"""The compiled kernels of `kg.rdf.ntriples`: the scan of a block, and tables of byte strings.

In and out: numpy arrays, written in place. Data end in a line feed, at which every
reader of a term stops, so none reads beyond them. The functions carry no type
hints, because numba infers the types from what they are called with; they run
without the interpreter's lock.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "BLANK",
    "ESCAPED",
    "IRI",
    "IRREGULAR",
    "LANGUAGE",
    "PLAIN",
    "TYPED",
    "Table",
    "copy_spans",
    "find_many",
    "intern_many",
    "match_prefix",
    "new_table",
    "refill",
    "scan_rows",
]

# What an object is. BLANK: subject or object is a blank node. IRREGULAR: a line for `regular_line`.
IRI, PLAIN, LANGUAGE, TYPED, BLANK, IRREGULAR = range(6)
ESCAPED = 8  # added to the kind of a literal with a backslash

_compiled = njit(cache=True, nogil=True)
# Inlined before numba counts references to the arrays: calls in the inner loop took a third of the time.
_inlined = njit(cache=True, nogil=True, inline="always")

_QUOTE, _HASH, _DOT, _LESS, _GREATER, _AT, _BACKSLASH, _CARET, _UNDERSCORE, _COLON = (ord(c) for c in '"#.<>@\\^_:')
_SHORT, _LONG, _ZERO, _ONE = (ord(c) for c in "uU01")
_NEWLINE, _RETURN, _TAB, _SPACE, _HYPHEN = 10, 13, 9, 32, 45
_END_IRI = np.zeros(256, np.bool_)  # bytes that end an IRI, rightly or not
_END_IRI[: _SPACE + 1] = True
_END_IRI[[_QUOTE, _LESS, _GREATER, _BACKSLASH]] = True
_END_STRING = np.zeros(256, np.bool_)  # bytes that end the plain part of a string
_END_STRING[[_QUOTE, _BACKSLASH, _NEWLINE, _RETURN]] = True
_LETTER = np.zeros(256, np.bool_)
_LETTER[ord("a") : ord("z") + 1] = _LETTER[ord("A") : ord("Z") + 1] = True
_ALPHANUMERIC = _LETTER.copy()
_ALPHANUMERIC[ord("0") : ord("9") + 1] = True
_IN_BLANK = _ALPHANUMERIC.copy()
_IN_BLANK[[_UNDERSCORE, _COLON, _DOT, _HYPHEN]] = True
_IN_BLANK[128:] = True
_HIGH_DIGIT = np.zeros(256, np.bool_)  # after "\ud": a surrogate
_HIGH_DIGIT[[ord(c) for c in "89abcdefABCDEF"]] = True

_MULTIPLIER, _SHIFT, _EIGHT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29), np.uint64(8)
_LOW, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)  # lowest and highest bit of each byte


class Table(NamedTuple):
    """A hash table from byte strings to numbers in order of appearance, as the kernels see it."""

    slots: NDArray[np.int32]  # power of two; -1 where free
    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]  # of the strings in ``pool``
    pool: NDArray[np.uint8]
    used: NDArray[np.int64]  # [1]: how many there are


def new_table(capacity: int, pool_bytes: int) -> Table:
    slots = 1 << (2 * capacity - 1).bit_length()
    return Table(
        np.full(slots, -1, np.int32),
        np.empty(capacity, np.uint64),
        np.zeros(capacity + 1, np.int64),
        np.empty(pool_bytes, np.uint8),
        np.zeros(1, np.int64),
    )


@intrinsic
def _word(context: Any, data: Any, place: Any) -> Any:
    """The eight bytes from ``place`` on as one uint64; they must lie within ``data``.

    numba has no load across the borders of its types, and byte by byte, hashing takes four times as long.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.int64), generate


@_compiled
def _hash(data, start, end):
    """A 64-bit hash of the bytes."""
    length = end - start
    value = np.uint64(length) * _MULTIPLIER
    place = start
    while place + 8 <= end:
        value = (value ^ _word(data, place)) * _MULTIPLIER
        value ^= value >> _SHIFT
        place += 8
    if length >= 8:
        value = (value ^ _word(data, end - 8)) * _MULTIPLIER  # overlaps what has been hashed
    else:
        word = np.uint64(0)
        while place < end:
            word = (word << _EIGHT) | np.uint64(data[place])
            place += 1
        value = (value ^ word) * _MULTIPLIER
    return value ^ (value >> _SHIFT)


@_compiled
def _same(one, start, other, begin, length):
    """Whether ``length`` bytes are the same; the last ones, in which strings differ most often, are compared first."""
    k = length
    while k >= 8:
        k -= 8
        if _word(one, start + k) != _word(other, begin + k):
            return False
    while k > 0:
        k -= 1
        if one[start + k] != other[begin + k]:
            return False
    return True


@_inlined
def _slot(table, data, start, end, value):
    """The slot where the string is or would be."""
    length = end - start
    mask = np.int64(len(table.slots) - 1)
    slot = np.int64(value & np.uint64(mask))
    while True:
        number = table.slots[slot]
        if number < 0:
            return slot
        if table.hashes[number] == value:
            begin = table.offsets[number]
            if table.offsets[number + 1] - begin == length and _same(data, start, table.pool, begin, length):
                return slot
        slot = (slot + 1) & mask


@_inlined
def _intern(table, data, start, end):
    """The number of the string, which is appended if new; -1 if there is no room for it."""
    value = _hash(data, start, end)
    slot = _slot(table, data, start, end, value)
    number = table.slots[slot]
    if number >= 0:
        return number
    count = table.used[0]
    begin = table.offsets[count]
    if count >= len(table.hashes) or begin + end - start > len(table.pool):
        return np.int32(-1)
    for k in range(end - start):
        table.pool[begin + k] = data[start + k]
    table.offsets[count + 1] = begin + end - start
    table.hashes[count] = value
    table.slots[slot] = count
    table.used[0] = count + 1
    return np.int32(count)


@_compiled
def intern_many(table, data, starts, ends, numbers, done):
    """Intern spans from number ``done`` on; how many have been, all unless the table is full."""
    for row in range(done, len(starts)):
        start, end = np.int64(starts[row]), np.int64(ends[row])
        if row > done:
            before, length = np.int64(starts[row - 1]), end - start
            if np.int64(ends[row - 1]) - before == length and _same(data, before, data, start, length):
                numbers[row] = numbers[row - 1]  # statements of one subject stand together
                continue
        numbers[row] = _intern(table, data, start, end)
        if numbers[row] < 0:
            return row
    return len(starts)


@_compiled
def find_many(table, data, starts, ends, numbers):
    for row in range(len(starts)):
        start, end = np.int64(starts[row]), np.int64(ends[row])
        numbers[row] = table.slots[_slot(table, data, start, end, _hash(data, start, end))]


@_compiled
def refill(table):
    mask = np.int64(len(table.slots) - 1)
    for number in range(table.used[0]):
        slot = np.int64(table.hashes[number] & np.uint64(mask))
        while table.slots[slot] >= 0:
            slot = (slot + 1) & mask
        table.slots[slot] = number


@_compiled
def copy_spans(data, starts, offsets, pool):
    for row in range(len(starts)):
        place, start = offsets[row], np.int64(starts[row])
        for k in range(offsets[row + 1] - place):
            pool[place + k] = data[start + k]


@_compiled
def match_prefix(data, starts, ends, prefix):
    found = np.zeros(len(starts), np.bool_)
    for row in range(len(starts)):
        if ends[row] - starts[row] >= len(prefix):
            found[row] = _same(data, np.int64(starts[row]), prefix, 0, len(prefix))
    return found


# The readers of one term take the offset of its first byte and return that of the first byte behind it, or -1 for
# what is not regular. Every one stops at the line feed that ends the data, so none reads beyond it.


@_compiled
def _after_gap(data, place):
    while data[place] == _SPACE or data[place] == _TAB:
        place += 1
    return place


@_compiled
def _below(word, limit):
    """Whether a byte of the word is below ``limit`` (at most 128), as a word that is not 0.

    After Bit Twiddling Hacks, https://graphics.stanford.edu/~seander/bithacks.html#HasLessInWord
    """
    return (word - _LOW * np.uint64(limit)) & ~word & _HIGH


@_inlined
def _after_iri(data, place):
    first = place = place + 1
    while place + 8 <= len(data):
        word = _word(data, place)
        brackets = (word | (_LOW << np.uint64(1))) ^ (_LOW * np.uint64(_GREATER))  # which differ in one bit
        odd = _below(brackets, 1) | _below(word ^ (_LOW * np.uint64(_QUOTE)), 1)
        if odd | _below(word ^ (_LOW * np.uint64(_BACKSLASH)), 1) | _below(word, _SPACE + 1):
            break
        place += 8
    while not _END_IRI[data[place]]:
        place += 1
    colon = first
    while data[colon] != _COLON and colon < place:
        colon += 1
    return place + 1 if data[place] == _GREATER and first < colon < place else -1


@_compiled
def _after_blank(data, place):
    if data[place + 1] != _COLON:
        return -1
    place += 2
    if data[place] == _DOT or data[place] == _HYPHEN or not _IN_BLANK[data[place]]:
        return -1
    while _IN_BLANK[data[place]]:
        place += 1
    return -1 if data[place - 1] == _DOT else place


@_inlined
def _after_string(data, place):
    """The offset behind the closing quote, and whether there was an escape."""
    place += 1
    escaped = False
    while True:
        while place + 8 <= len(data):
            word = _word(data, place)
            odd = _below(word ^ (_LOW * np.uint64(_QUOTE)), 1) | _below(word ^ (_LOW * np.uint64(_BACKSLASH)), 1)
            if odd | _below(word, _SPACE):
                break
            place += 8
        while not _END_STRING[data[place]]:
            place += 1
        if data[place] == _QUOTE:
            return place + 1, escaped
        if data[place] != _BACKSLASH or data[place + 1] < _SPACE or _is_odd_escape(data, place + 1):
            return -1, escaped
        escaped = True
        place += 2


@_compiled
def _is_odd_escape(data, place):
    r"""Whether an escape by number may stand for what is no character: half of one, or a number above U+10FFFF."""
    if data[place] == _LONG:
        for k in range(1, 3):
            if data[place + k] != _ZERO:
                return True
        if data[place + 3] == _ONE:
            return data[place + 4] != _ZERO
        if data[place + 3] != _ZERO or data[place + 4] != _ZERO:
            return data[place + 3] != _ZERO
        place += 4
    elif data[place] != _SHORT:
        return False
    return (data[place + 1] == 68 or data[place + 1] == 100) and _HIGH_DIGIT[data[place + 2]]


@_compiled
def _after_language(data, place):
    place += 1
    if not _LETTER[data[place]]:
        return -1
    while _LETTER[data[place]]:
        place += 1
    while data[place] == _HYPHEN:
        place += 1
        if not _ALPHANUMERIC[data[place]]:
            return -1
        while _ALPHANUMERIC[data[place]]:
            place += 1
    return place


@_compiled
def _line_end(data, place):
    while data[place] != _NEWLINE:
        place += 1
    return place


@_compiled
def _after_statement(data, place):
    """The offset of the line feed if nothing but a full stop and blanks is left, else -1."""
    place = _after_gap(data, place)
    if data[place] != _DOT:
        return -1
    place = _after_gap(data, place + 1)
    if data[place] == _RETURN:
        place += 1
    return place if data[place] == _NEWLINE else -1


@_compiled
def scan_rows(
    data, place, predicates, qualifiers, kinds, predicate, qualifier, subject, subject_end, target, target_end, tail
):
    """Fill the columns; (rows found, offset of the next line, 0 or which table is full)."""
    row = 0
    while place < len(data) and row < len(kinds):
        start = place
        if data[place] == _NEWLINE:
            place += 1
            continue
        if data[place] == _HASH:
            place = _line_end(data, place) + 1
            continue
        blank = data[place] == _UNDERSCORE
        after = -1
        if data[place] == _LESS:
            after = _after_iri(data, place)
        elif blank:
            after = _after_blank(data, place)
        name = name_end = 0
        if after >= 0:
            subject[row], subject_end[row] = place + 1, after - 1
            name = _after_gap(data, after)
            name_end = _after_iri(data, name) if name > after and data[name] == _LESS else -1
            after = name_end
        mark = mark_end = 0
        kind = IRI
        if after >= 0:
            place = _after_gap(data, after)
            first = data[place]
            if place == after:
                after = -1
            elif first == _LESS:
                after = _after_iri(data, place)
                target[row], target_end[row] = place + 1, after - 1
            elif first == _UNDERSCORE:
                after = _after_blank(data, place)
                blank = True
            elif first == _QUOTE:
                after, escaped = _after_string(data, place)
                kind = PLAIN
                target[row], target_end[row] = place + 1, after - 1
                if after >= 0 and data[after] == _AT:
                    kind, mark = LANGUAGE, after
                    after = mark_end = _after_language(data, mark)
                elif after >= 0 and data[after] == _CARET:
                    kind, mark = TYPED, after
                    regular = data[after + 1] == _CARET and data[after + 2] == _LESS
                    after = mark_end = _after_iri(data, mark + 2) if regular else -1
                if escaped:
                    kind |= ESCAPED
            else:
                after = -1
            tail[row] = after
        if after >= 0:
            after = _after_statement(data, after)
        if after < 0:
            place = _line_end(data, start)
            kinds[row], predicate[row], qualifier[row] = IRREGULAR, -1, -1
            subject[row], subject_end[row] = start, place
            target[row] = target_end[row] = tail[row] = place
        else:
            place = after
            predicate[row] = _intern(predicates, data, name + 1, name_end - 1)
            if predicate[row] < 0:
                return row, start, 1
            qualifier[row] = -1
            if mark:
                qualifier[row] = _intern(qualifiers, data, mark, mark_end)
                if qualifier[row] < 0:
                    return row, start, 2
            kinds[row] = BLANK if blank else kind
        row += 1
        place += 1
    return row, place, 0
