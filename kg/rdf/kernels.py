"""The compiled kernels of `kg.rdf.ntriples`: the scan of a block, and tables of byte strings.

In and out: numpy arrays, written in place. Inside, text is an address, not an array:
an array that is handed around has its references counted, a third of the time. Data
end in a line feed, at which every reader of a term stops, so none reads beyond
them. The functions carry no type hints, because numba infers the types from what
they are called with; they run without the interpreter's lock.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import mmap
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
    "match_namespaces",
    "match_prefix",
    "new_table",
    "refill",
    "scan_rows",
    "write_joined",
]

# What an object is. BLANK: subject or object is a blank node. IRREGULAR: a line for `regular_line`.
IRI, PLAIN, LANGUAGE, TYPED, BLANK, IRREGULAR = range(6)
ESCAPED = 8  # added to the kind of a literal with a backslash

_compiled = njit(cache=True, nogil=True)
# What takes a table is inlined before numba counts references to its arrays.
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

_MULTIPLIER, _SHIFT, _EIGHT, _TAG = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 29, 8, 33))
_NUMBER_BITS, _NUMBER = 32, (1 << 32) - 1
_PAGED_BYTES = 1 << 20
_LANES = 32  # bytes looked at together


class Table(NamedTuple):
    """A hash table from byte strings to numbers in order of appearance, as the kernels see it."""

    slots: NDArray[np.int64]  # power of two; 31 bits of the hash above the number + 1; 0 where free
    offsets: NDArray[np.int64]  # of the strings in ``pool``
    pool: NDArray[np.uint8]
    used: NDArray[np.int64]  # [1]: how many there are


def new_table(capacity: int, pool_bytes: int) -> Table:
    slots = 1 << (capacity + capacity // 2).bit_length()
    return Table(
        _room(slots, np.int64),
        _room(capacity + 1, np.int64),
        _room(pool_bytes, np.uint8),
        np.zeros(1, np.int64),
    )


def _room(length: int, dtype: type) -> NDArray[Any]:
    """An array of zeros; one of some MB has pages of its own, which go back to the system with it."""
    size = length * np.dtype(dtype).itemsize
    return np.zeros(length, dtype) if size < _PAGED_BYTES else np.frombuffer(mmap.mmap(-1, size), dtype)


def _load(builder: Any, kind: ir.Type, text: Any, place: Any) -> Any:
    return builder.load(builder.inttoptr(builder.add(text, place), kind.as_pointer()), align=1)


@intrinsic
def _byte(context: Any, text: Any, place: Any) -> Any:
    """The byte at ``place``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(builder, ir.IntType(8), *arguments)

    return types.uint8(types.int64, types.int64), generate


@intrinsic
def _word(context: Any, text: Any, place: Any) -> Any:
    """The eight bytes from ``place`` on as one uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(builder, ir.IntType(64), *arguments)

    return types.uint64(types.int64, types.int64), generate


def _finder(stops: bytes, below: int = 0) -> Any:
    """A function for kernels: how many of the 32 bytes from ``place`` on come before the first that is one of ``stops``
    or less than ``below``; one vector instruction for each."""

    @intrinsic
    def find(context: Any, text: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.VectorType(ir.IntType(8), _LANES)
            lanes = _load(builder, vector, *arguments)
            found = builder.icmp_unsigned("<", lanes, ir.Constant(vector, [below] * _LANES))
            for stop in stops:
                equal = builder.icmp_unsigned("==", lanes, ir.Constant(vector, [stop] * _LANES))
                found = builder.or_(found, equal)
            bits = builder.zext(builder.bitcast(found, ir.IntType(_LANES)), ir.IntType(64))
            bits = builder.or_(bits, ir.Constant(ir.IntType(64), 1 << _LANES))
            return builder.cttz(bits, ir.Constant(ir.IntType(1), 0))

        return types.int64(types.int64, types.int64), generate

    return find


_to_iri_end = _finder(b'"<>\\', _SPACE + 1)
_to_string_end = _finder(b'"\\\n\r')
_to_colon = _finder(b":")


@_compiled
def _address(array):
    return np.int64(array.ctypes.data)


@_compiled
def _hash(text, start, end):
    """A 64-bit hash of the bytes."""
    length = end - start
    value = np.uint64(length) * _MULTIPLIER
    place = start
    while place + 8 <= end:
        value = (value ^ _word(text, place)) * _MULTIPLIER
        value ^= value >> _SHIFT
        place += 8
    if length >= 8:
        value = (value ^ _word(text, end - 8)) * _MULTIPLIER  # overlaps what has been hashed
    else:
        word = np.uint64(0)
        while place < end:
            word = (word << _EIGHT) | np.uint64(_byte(text, place))
            place += 1
        value = (value ^ word) * _MULTIPLIER
    return value ^ (value >> _SHIFT)


@_compiled
def _same(one, other, length):
    """Whether ``length`` bytes are the same; the last ones, in which strings differ most often, are compared first."""
    k = length
    while k >= 8:
        k -= 8
        if _word(one, k) != _word(other, k):
            return False
    while k > 0:
        k -= 1
        if _byte(one, k) != _byte(other, k):
            return False
    return True


@_inlined
def _slot(table, text, start, end, tag):
    """The slot where the string is or would be."""
    mask = len(table.slots) - 1
    slot = tag & mask
    while table.slots[slot] != 0:
        if table.slots[slot] >> _NUMBER_BITS == tag and _is(
            table, (table.slots[slot] & _NUMBER) - 1, text + start, end - start
        ):
            break
        slot = (slot + 1) & mask
    return slot


@_inlined
def _is(table, number, text, length):
    """Whether the string with this number is this one."""
    begin = table.offsets[number]
    return table.offsets[number + 1] - begin == length and _same(text, _address(table.pool) + begin, length)


@_inlined
def _find(table, text, start, end):
    """The number of the string, or -1."""
    tag = np.int64(_hash(text, start, end) >> _TAG)
    return np.int32((table.slots[_slot(table, text, start, end, tag)] & _NUMBER) - 1)


@_inlined
def _intern(table, text, start, end):
    """The number of the string, which is appended if new; -1 if there is no room for it."""
    tag = np.int64(_hash(text, start, end) >> _TAG)
    slot = _slot(table, text, start, end, tag)
    if table.slots[slot] != 0:
        return np.int32((table.slots[slot] & _NUMBER) - 1)
    count = table.used[0]
    begin = table.offsets[count]
    if count + 1 >= len(table.offsets) or begin + end - start > len(table.pool):
        return np.int32(-1)
    for k in range(end - start):
        table.pool[begin + k] = _byte(text, start + k)
    table.offsets[count + 1] = begin + end - start
    table.slots[slot] = tag << _NUMBER_BITS | (count + 1)
    table.used[0] = count + 1
    return np.int32(count)


@_compiled
def intern_many(table, data, starts, ends, numbers, done):
    """Intern spans from number ``done`` on; how many have been, all unless the table is full."""
    text = _address(data)
    for row in range(done, len(starts)):
        start, end = np.int64(starts[row]), np.int64(ends[row])
        if row > done and start == starts[row - 1] and end == ends[row - 1]:
            numbers[row] = numbers[row - 1]  # statements of one subject stand together
            continue
        numbers[row] = _intern(table, text, start, end)
        if numbers[row] < 0:
            return row
    return len(starts)


@_compiled
def find_many(table, data, starts, ends, numbers):
    text = _address(data)
    for row in range(len(starts)):
        numbers[row] = _find(table, text, np.int64(starts[row]), np.int64(ends[row]))


@_compiled
def refill(table, slots):
    """Fill the empty slots of a table with those of a smaller one that had the same strings."""
    mask = len(table.slots) - 1
    for place in range(len(slots)):
        if slots[place] != 0:
            slot = (slots[place] >> _NUMBER_BITS) & mask
            while table.slots[slot] != 0:
                slot = (slot + 1) & mask
            table.slots[slot] = slots[place]


@_compiled
def copy_spans(data, starts, offsets, pool):
    for row in range(len(starts)):
        place, start = offsets[row], np.int64(starts[row])
        for k in range(offsets[row + 1] - place):
            pool[place + k] = data[start + k]


@_compiled
def match_prefix(data, starts, ends, prefix):
    text, beginning = _address(data), _address(prefix)
    found = np.zeros(len(starts), np.bool_)
    for row in range(len(starts)):
        if ends[row] - starts[row] >= len(prefix):
            found[row] = _same(text + starts[row], beginning, len(prefix))
    return found


@_compiled
def match_namespaces(data, starts, ends, namespaces, bounds, bare, found):
    """The first namespace that each IRI begins with, -1 for none; ``bounds`` are theirs in the bytes ``namespaces``.

    Nor is it one if nothing follows or, where local names stand ``bare``, a colon or bracket does.
    """
    text, beginning = _address(data), _address(namespaces)
    for row in range(len(starts)):
        start, end = np.int64(starts[row]), np.int64(ends[row])
        found[row] = -1
        for k in range(len(bounds) - 1):
            length = bounds[k + 1] - bounds[k]
            if end - start >= length and _same(text + start, beginning + bounds[k], length):
                place = start + length
                while bare[k] and place < end and _byte(text, place) != _COLON and _byte(text, place) != _LESS:
                    place += 1
                if end - start > length and (not bare[k] or place == end):
                    found[row] = k
                break


@_compiled
def write_joined(data, starts, ends, heads, bounds, which, offsets, pool):
    """Write each span behind one of the ``heads``, and a byte of ">" behind it where there is room for that."""
    for row in range(len(starts)):
        place, end = offsets[row], offsets[row + 1]
        for k in range(bounds[which[row]], bounds[which[row] + 1]):
            pool[place] = heads[k]
            place += 1
        for k in range(np.int64(starts[row]), np.int64(ends[row])):
            pool[place] = data[k]
            place += 1
        if place < end:
            pool[place] = _GREATER


# The readers of one term take the offset of its first byte and return that of the first byte behind it, or -1 for
# what is not regular. Every one stops at the line feed that ends the data, so none reads beyond it.


@_compiled
def _after_gap(text, place):
    while _byte(text, place) == _SPACE or _byte(text, place) == _TAB:
        place += 1
    return place


@_compiled
def _after_iri(text, place, limit):
    first = colon = place = place + 1
    if place + _LANES <= limit:
        colon += _to_colon(text, place)
    while place + _LANES <= limit:
        step = _to_iri_end(text, place)
        place += step
        if step < _LANES:
            break
    while not _END_IRI[_byte(text, place)]:
        place += 1
    while colon < place and _byte(text, colon) != _COLON:
        colon += 1
    return place + 1 if _byte(text, place) == _GREATER and first < colon < place else -1


@_compiled
def _after_blank(text, place):
    if _byte(text, place + 1) != _COLON:
        return -1
    place += 2
    if _byte(text, place) == _DOT or _byte(text, place) == _HYPHEN or not _IN_BLANK[_byte(text, place)]:
        return -1
    while _IN_BLANK[_byte(text, place)]:
        place += 1
    return -1 if _byte(text, place - 1) == _DOT else place


@_compiled
def _after_string(text, place, limit):
    """The offset behind the closing quote, and whether there was an escape."""
    place += 1
    escaped = False
    while True:
        while place + _LANES <= limit:
            step = _to_string_end(text, place)
            place += step
            if step < _LANES:
                break
        while not _END_STRING[_byte(text, place)]:
            place += 1
        if _byte(text, place) == _QUOTE:
            return place + 1, escaped
        if _byte(text, place) != _BACKSLASH or _byte(text, place + 1) < _SPACE or _is_odd_escape(text, place + 1):
            return -1, escaped
        escaped = True
        place += 2


@_compiled
def _is_odd_escape(text, place):
    r"""Whether an escape by number may stand for what is no character: half of one, or a number above U+10FFFF."""
    if _byte(text, place) == _LONG:
        for k in range(1, 3):
            if _byte(text, place + k) != _ZERO:
                return True
        if _byte(text, place + 3) == _ONE:
            return _byte(text, place + 4) != _ZERO
        if _byte(text, place + 3) != _ZERO or _byte(text, place + 4) != _ZERO:
            return _byte(text, place + 3) != _ZERO
        place += 4
    elif _byte(text, place) != _SHORT:
        return False
    return (_byte(text, place + 1) == 68 or _byte(text, place + 1) == 100) and _HIGH_DIGIT[_byte(text, place + 2)]


@_compiled
def _after_language(text, place):
    place += 1
    if not _LETTER[_byte(text, place)]:
        return -1
    while _LETTER[_byte(text, place)]:
        place += 1
    while _byte(text, place) == _HYPHEN:
        place += 1
        if not _ALPHANUMERIC[_byte(text, place)]:
            return -1
        while _ALPHANUMERIC[_byte(text, place)]:
            place += 1
    return place


@_compiled
def _line_end(text, place):
    while _byte(text, place) != _NEWLINE:
        place += 1
    return place


@_compiled
def _after_statement(text, place):
    """The offset of the line feed if nothing but a full stop and blanks is left, else -1."""
    place = _after_gap(text, place)
    if _byte(text, place) != _DOT:
        return -1
    place = _after_gap(text, place + 1)
    if _byte(text, place) == _RETURN:
        place += 1
    return place if _byte(text, place) == _NEWLINE else -1


@_compiled
def scan_rows(
    data, place, predicates, qualifiers, kinds, predicate, qualifier, subject, subject_end, target, target_end, tail
):
    """Fill the columns; (rows found, offset of the next line, 0 or which table is full)."""
    text, limit = _address(data), len(data)
    row = 0
    # What repeats is compared instead of read: the last subject, the last qualifier, and the predicate that came last
    # time after the predicate before.
    last = last_end = place
    following = np.zeros(len(predicates.offsets), np.int32)
    before = known = np.int32(0)
    while place < limit and row < len(kinds):
        start = place
        first = _byte(text, place)
        if first == _NEWLINE:
            place += 1
            continue
        if first == _HASH:
            place = _line_end(text, place) + 1
            continue
        blank = first == _UNDERSCORE
        after = -1
        if first == _LESS:
            after = place + 2 + last_end - last
            if last == last_end or after > limit or not _same(text + place, text + last - 1, last_end - last + 2):
                after = _after_iri(text, place, limit)
                last, last_end = place + 1, max(after - 1, place + 1)
            subject[row], subject_end[row] = last, last_end
        elif blank:
            after = _after_blank(text, place)
            subject[row], subject_end[row] = place + 1, after - 1
        name = name_end = 0
        if after >= 0:
            name = _after_gap(text, after)
            name_end = _after_iri(text, name, limit) if name > after and _byte(text, name) == _LESS else -1
            after = name_end
        mark = mark_end = 0
        kind = IRI
        if after >= 0:
            place = _after_gap(text, after)
            first = _byte(text, place)
            if place == after:
                after = -1
            elif first == _LESS:
                after = _after_iri(text, place, limit)
                target[row], target_end[row] = place + 1, after - 1
            elif first == _UNDERSCORE:
                after = _after_blank(text, place)
                blank = True
            elif first == _QUOTE:
                after, escaped = _after_string(text, place, limit)
                kind = PLAIN
                target[row], target_end[row] = place + 1, after - 1
                if after >= 0 and _byte(text, after) == _AT:
                    kind, mark = LANGUAGE, after
                    after = mark_end = _after_language(text, mark)
                elif after >= 0 and _byte(text, after) == _CARET:
                    kind, mark = TYPED, after
                    regular = _byte(text, after + 1) == _CARET and _byte(text, after + 2) == _LESS
                    after = mark_end = _after_iri(text, mark + 2, limit) if regular else -1
                if escaped:
                    kind |= ESCAPED
            else:
                after = -1
            tail[row] = after
        if after >= 0:
            after = _after_statement(text, after)
        if after < 0:
            place = _line_end(text, start)
            kinds[row], predicate[row], qualifier[row] = IRREGULAR, -1, -1
            subject[row], subject_end[row] = start, place
            target[row] = target_end[row] = tail[row] = place
        else:
            place = after
            number = following[before]
            if not _is(predicates, number, text + name + 1, name_end - name - 2):
                number = _intern(predicates, text, name + 1, name_end - 1)
                if number < 0:
                    return row, start, 1
                following[before] = number
            predicate[row] = before = number
            qualifier[row] = -1
            if mark:
                if not _is(qualifiers, known, text + mark, mark_end - mark):
                    known = _intern(qualifiers, text, mark, mark_end)
                    if known < 0:
                        return row, start, 2
                qualifier[row] = known
            kinds[row] = BLANK if blank else kind
        row += 1
        place += 1
    return row, place, 0
