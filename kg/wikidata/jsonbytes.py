"""Compiled readers of compact JSON: searching, strings, numbers, values, texts.

Each takes the offset of the first byte of what it reads and returns that of the
first byte behind it, or -1 for what it does not know for sure; that need not be
wrong JSON. Data are pointers to bytes, with a line feed at which every reader
stops, and behind it `MARGIN` bytes more that may be read. For the offset -1 all
return -1, so that they can be chained. The functions carry no type hints, because
numba infers the types from what they are called with; they run without the
interpreter's lock.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = [
    "CHARACTERS",
    "MARGIN",
    "after",
    "after_code",
    "after_escape",
    "after_flat_value",
    "after_integer",
    "after_number",
    "after_string",
    "after_text",
    "compiled",
    "constant",
    "copy_text",
    "find",
    "line_end",
    "number_of",
    "pointer",
    "pointers",
    "same",
]

MARGIN = 128
CHARACTERS = 1 << 18  # a text with one of this code point or a greater one is left to the reader

# Called by one another only: without what Python needs to call them, they are compiled in two thirds of the time.
_OPTIONS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
compiled = njit(nogil=True, error_model="numpy", **_OPTIONS)

_QUOTE, _BACKSLASH, _SPACE, _NEWLINE, _ZERO, _NINE, _DELETE = 34, 92, 32, 10, 48, 57, 127
_OPEN, _CLOSE, _COMMA, _SLASH, _PLUS, _MINUS, _DOT, _U, _SMALL_E, _LARGE_E = (ord(c) for c in "{},/+-.ueE")
_HEX = np.full(256, -1, np.int64)  # value of a hexadecimal digit
for _value, _digit in enumerate("0123456789abcdef"):
    _HEX[ord(_digit)] = _HEX[ord(_digit.upper())] = _value

_IN_CODE = np.zeros(256, np.bool_)  # of languages, sites, datatypes
_IN_CODE[[*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1), *range(ord("0"), ord("9") + 1)]] = True
_IN_CODE[[ord("-"), ord("_")]] = True

_LANES = 64  # bytes that are compared at once
_BYTE, _LONG = ir.IntType(8), ir.IntType(64)
_BYTES, _MASK = ir.VectorType(_BYTE, _LANES), ir.IntType(_LANES)


@intrinsic
def pointers(context: Any, record: Any) -> Any:
    """A named tuple with pointers in the place of its arrays: of arrays, numba counts references all the time."""
    members = [types.CPointer(each.dtype) if isinstance(each, types.Array) else each for each in record]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = [builder.extract_value(arguments[0], place) for place in range(len(record))]
        for place, kind in enumerate(record):
            if isinstance(kind, types.Array):
                values[place] = context.make_array(kind)(context, builder, values[place]).data
        return context.make_tuple(builder, signature.return_type, values)

    return types.NamedTuple(members, record.instance_class)(record), generate


@intrinsic
def pointer(context: Any, array: Any) -> Any:
    """The same of an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(array)(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


def _load(builder: Any, kind: Any, data: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(data, [place]), kind.as_pointer()), align=1)


def _splat(builder: Any, byte: Any) -> Any:
    """A vector of 64 times the same byte."""
    single = builder.insert_element(ir.Constant(_BYTES, ir.Undefined), byte, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
    return builder.shuffle_vector(single, ir.Constant(_BYTES, ir.Undefined), zeros)


@intrinsic
def _pairs(context: Any, data: Any, place: Any, first: Any, distance: Any, second: Any) -> Any:
    """Bit k of the uint64 is set if byte ``place`` + k is ``first`` and the one ``distance`` further is ``second``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, place, first, distance, second = arguments
        here = _load(builder, _BYTES, data, place)
        there = _load(builder, _BYTES, data, builder.add(place, distance))
        equal = builder.icmp_unsigned("==", here, _splat(builder, first))
        both = builder.and_(equal, builder.icmp_unsigned("==", there, _splat(builder, second)))
        return builder.bitcast(both, _MASK)

    return types.uint64(data, types.int64, types.uint8, types.int64, types.uint8), generate


@intrinsic
def _specials(context: Any, data: Any, place: Any) -> Any:
    """Bit k of the uint64 is set if byte ``place`` + k is a quote, a backslash or a control character."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _load(builder, _BYTES, *arguments)
        constant = {byte: ir.Constant(_BYTES, [byte] * _LANES) for byte in (_QUOTE, _BACKSLASH, _SPACE)}
        special = builder.icmp_unsigned("<", lanes, constant[_SPACE])
        for byte in (_QUOTE, _BACKSLASH):
            special = builder.or_(special, builder.icmp_unsigned("==", lanes, constant[byte]))
        return builder.bitcast(special, _MASK)

    return types.uint64(data, types.int64), generate


@intrinsic
def _lowest_bit(context: Any, word: Any) -> Any:
    """The place of the lowest bit that is set in a uint64 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic(prefer_literal=True)
def after(context: Any, data: Any, place: Any, text: Any) -> Any:
    """The offset behind a text, which must be a constant, if that stands at the place; compared a word at a time."""
    if not isinstance(text, types.StringLiteral):
        return None
    wanted = text.literal_value.encode()

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, place, _ = arguments
        zero = ir.Constant(_LONG, 0)
        result = builder.icmp_signed(">=", place, zero)
        place = builder.select(result, place, zero)
        at = 0
        while at < len(wanted):
            size = next(size for size in (8, 4, 2, 1) if size <= len(wanted))
            at = min(at, len(wanted) - size)  # the last words may overlap
            word = ir.IntType(8 * size)
            expected = ir.Constant(word, int.from_bytes(wanted[at : at + size], "little"))
            found = _load(builder, word, data, builder.add(place, ir.Constant(_LONG, at)))
            result = builder.and_(result, builder.icmp_unsigned("==", found, expected))
            at += size
        behind = builder.add(place, ir.Constant(_LONG, len(wanted)))
        return builder.select(result, behind, ir.Constant(_LONG, -1))

    return types.int64(data, types.int64, text), generate


@intrinsic(prefer_literal=True)
def constant(context: Any, text: Any) -> Any:
    """A pointer to the bytes of a text, which must be a constant."""
    if not isinstance(text, types.StringLiteral):
        return None
    name = text.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(context.insert_const_string(builder.module, name), _BYTE.as_pointer())

    return types.CPointer(types.uint8)(text), generate


@compiled
def same(one, start, other, first, size):
    """Whether the same bytes stand at two places."""
    at = 0
    while at < size and one[start + at] == other[first + at]:
        at += 1
    return at == size


@compiled
def find(data, place, end, text, size, first, second):
    """The first place of a text that lies before ``end`` to its last byte, or -1.

    Bytes ``first`` and ``second`` of the text are compared with all data, 64 places at once; a pair should be rare.
    """
    last = end - size
    while place <= last:
        mask = _pairs(data, place + first, text[first], second - first, text[second])
        while mask:
            found = place + _lowest_bit(mask)
            if found > last:
                return -1
            if same(data, found, text, 0, size):
                return found
            mask &= mask - np.uint64(1)
        place += _LANES
    return -1


@compiled
def line_end(data, place):
    """The place of the next line feed."""
    while True:
        mask = _pairs(data, place, _NEWLINE, 0, _NEWLINE)
        if mask:
            return place + _lowest_bit(mask)
        place += _LANES


@compiled
def after_number(data, place):
    """Read an integer from 1 to 999,999,999 without leading zeros: the offset behind it, and the integer."""
    if place < 0:
        return -1, 0
    start, number = place, 0
    while _ZERO <= data[place] <= _NINE and place < start + 10:
        number = 10 * number + data[place] - _ZERO
        place += 1
    if data[start] == _ZERO or not start < place < start + 10:
        return -1, 0
    return place, number


@compiled
def after_integer(data, place):
    """Read an integer of up to 18 digits; and the integer."""
    if place < 0:
        return -1, 0
    start, number = place, 0
    while _ZERO <= data[place] <= _NINE and place < start + 19:
        number = 10 * number + data[place] - _ZERO
        place += 1
    if not start < place < start + 19 or (data[start] == _ZERO and place > start + 1):
        return -1, 0
    return place, number


@compiled
def after_code(data, place):
    """Read a name of letters, digits, hyphens and underscores from behind its first quote."""
    if place < 0:
        return -1
    start = place
    while _IN_CODE[data[place]]:
        place += 1
    return place + 1 if data[place] == _QUOTE and place > start else -1


@compiled
def number_of(data, start, end, count, names, ends):
    """The number of the name that [start, end) is, or -1."""
    first = 0
    for number in range(count):
        if ends[number] - first == end - start and same(data, start, names, first, end - start):
            return number
        first = ends[number]
    return -1


@compiled
def after_string(data, place):
    """Read a string from behind its first quote; what it holds beside control characters does not matter."""
    while place >= 0:
        mask = _specials(data, place)
        while not mask:
            place += _LANES
            mask = _specials(data, place)
        place += _lowest_bit(mask)
        if data[place] == _QUOTE:
            return place + 1
        if data[place] != _BACKSLASH or data[place + 1] < _SPACE:
            return -1
        place += 2
    return -1


@compiled
def after_text(data, place):
    r"""Read an ASCII string from behind its first quote, with no escapes but \\, \", \/ and those of a character."""
    while place >= 0:
        byte = data[place]
        if byte == _QUOTE:
            return place + 1
        if byte < _SPACE or byte > _DELETE:
            return -1
        place += 1
        if byte == _BACKSLASH:
            if data[place] == _U:
                place = after_escape(data, place + 1)[0]
            elif data[place] == _QUOTE or data[place] == _BACKSLASH or data[place] == _SLASH:
                place += 1
            else:
                return -1
    return -1


@compiled
def after_escape(data, place):
    r"""Read an escape of a character, or of both its halves, from behind the first ``\u`` on; and the character."""
    code = _unit(data, place)
    if code < 0 or 0xDC00 <= code < 0xE000:
        return -1, -1
    if code < 0xD800 or code >= 0xE000:
        return place + 4, code
    second = _unit(data, after(data, place + 4, "\\u"))
    if not 0xDC00 <= second < 0xE000:
        return -1, -1
    return place + 10, 0x10000 + ((code - 0xD800) << 10) + second - 0xDC00


@compiled
def _unit(data, place):
    """The UTF-16 unit of four hexadecimal digits; -1 if they are none."""
    if place < 0:
        return -1
    code = 0
    for at in range(place, place + 4):
        digit = _HEX[data[at]]
        if digit < 0:
            return -1
        code = 16 * code + digit
    return code


@compiled
def _after_decimal(data, place):
    """Read a number with at most 18 digits on either side of its point and two in its exponent."""
    if data[place] == _MINUS:
        place += 1
    start = place
    while _ZERO <= data[place] <= _NINE:
        place += 1
    if not start < place <= start + 18 or (data[start] == _ZERO and place > start + 1):
        return -1
    if data[place] == _DOT:
        start = place + 1
        place = start
        while _ZERO <= data[place] <= _NINE:
            place += 1
        if not start < place <= start + 18:
            return -1
    if data[place] == _SMALL_E or data[place] == _LARGE_E:
        place += 1
        if data[place] == _PLUS or data[place] == _MINUS:
            place += 1
        start = place
        while _ZERO <= data[place] <= _NINE:
            place += 1
        if not start < place <= start + 2:
            return -1
    return place


@compiled
def after_flat_value(data, place):
    """Read a string as `after_text` does, or an object whose values are such strings, numbers or constants."""
    if place < 0:
        return -1
    if data[place] == _QUOTE:
        return after_text(data, place + 1)
    if data[place] != _OPEN:
        return -1
    while True:
        place = after(data, after_text(data, after(data, place + 1, '"')), ":")
        if place < 0:
            return -1
        if data[place] == _QUOTE:
            place = after_text(data, place + 1)
        else:
            place = max(
                _after_decimal(data, place),
                after(data, place, "null"),
                after(data, place, "true"),
                after(data, place, "false"),
            )
        if place < 0:
            return -1
        if data[place] == _CLOSE:
            return place + 1
        if data[place] != _COMMA:
            return -1


@compiled
def copy_text(data, place, end, printable, pool, at):
    """Write what a string says, of which [place, end) are the bytes between the quotes, to a pool from ``at`` on.

    Args:
        printable: bool[CHARACTERS]: which characters may stand in a text.

    Returns:
        The offset behind it in the pool; -1 for a text that is not printable or has a space at an end or beside
        another.
    """
    start = at
    space = True  # before what comes
    while place < end:
        code = np.int64(data[place])
        place += 1
        if code == _BACKSLASH:
            code = np.int64(data[place])
            place += 1
            if code == _U:
                place, code = after_escape(data, place)
            elif code != _QUOTE and code != _BACKSLASH and code != _SLASH:
                return -1
        elif code >= _DELETE:
            return -1
        if not 0 <= code < CHARACTERS or not printable[code] or (space and code == _SPACE):
            return -1
        space = code == _SPACE
        if code < 0x80:
            pool[at] = code
            at += 1
        elif code < 0x800:
            pool[at], pool[at + 1] = 0xC0 | code >> 6, 0x80 | code & 0x3F
            at += 2
        elif code < 0x10000:
            pool[at], pool[at + 1], pool[at + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
            at += 3
        else:
            pool[at], pool[at + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
            pool[at + 2], pool[at + 3] = 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
            at += 4
    return -1 if space and at > start else at
