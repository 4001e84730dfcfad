"""The compiled conversion of literals to what `kg.wikidata.wikibase.LiteralValue` holds of them: `put_literal`.

Of each datatype the form is known in which Wikibase writes it, and of that the
values of which text, unit and compact JSON are certain; the same as by `kg.literals`
and msgspec. All others are left to those.
No type hints, and -1 for what is left to the reader, as in `kg.wikidata.jsonbytes`.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from kg.wikidata.columns import TEXTS, USED
from kg.wikidata.jsonbytes import (
    CHARACTERS,
    after,
    after_code,
    after_escape,
    after_integer,
    after_number,
    after_text,
    compiled,
    constant,
    copy_text,
    number_of,
)

__all__ = ["COORDINATE", "ITEM", "MONOLINGUAL", "QUANTITY", "STRING", "TIME", "put_literal"]

ITEM, TIME, QUANTITY, COORDINATE, MONOLINGUAL, STRING = range(6)  # what datatypes are alike in

_LITERALS = USED.index("literals")
_TEXT, _VALUE = (len(USED) + TEXTS.index(name) for name in ("text", "value"))
_QUOTE, _BACKSLASH, _SLASH, _PLUS, _MINUS, _DOT, _COMMA, _ZERO, _NINE, _SMALL_E, _SPACE, _TILDE = (
    ord(c) for c in '"\\/+-.,09e ~'
)
_TEN_THOUSAND_YEARS, _MILLENNIUM, _CENTURY, _DECADE, _YEAR, _MONTH, _DAY, _SECOND = 5, 6, 7, 8, 9, 10, 11, 14
_MILLION = 1_000_000
_EARTH = 2
_DIGITS = 15  # of a decimal number that as a binary one keeps them all
_GREATEST = 10**_DIGITS


@compiled
def _put(pool, at, text, size):
    for place in range(size):
        pool[at + place] = text[place]
    return at + size


@compiled
def _put_number(pool, at, number):
    size = 1
    rest = number // 10
    while rest:
        size += 1
        rest //= 10
    for place in range(size - 1, -1, -1):
        pool[at + place] = _ZERO + number % 10
        number //= 10
    return at + size


@compiled
def _put_json(data, first, last, pool, at):
    r"""Write JSON whose only escape is \/."""
    for place in range(first, last):
        if data[place] != _BACKSLASH:
            pool[at] = data[place]
            at += 1
    return at


@compiled
def _put_escaped(text, first, last, pool, at):
    """Write a text as within a JSON string."""
    for place in range(first, last):
        if text[place] == _QUOTE or text[place] == _BACKSLASH:
            pool[at] = _BACKSLASH
            at += 1
        pool[at] = text[place]
        at += 1
    return at


@compiled
def _after_plain(data, place):
    r"""Read an ASCII string whose only escape is \/ from behind its first quote."""
    if place < 0:
        return -1
    while data[place] != _QUOTE:
        if data[place] < _SPACE or data[place] > _TILDE:
            return -1
        if data[place] == _BACKSLASH:
            place += 1
            if data[place] != _SLASH:
                return -1
        place += 1
    return place + 1


@compiled
def _after_digits(data, place):
    if place < 0:
        return -1
    while _ZERO <= data[place] <= _NINE:
        place += 1
    return place


@compiled
def _two(data, place):
    """The number that two digits make, or -1."""
    if place < 0 or _after_digits(data, place) < place + 2:
        return -1
    return 10 * (data[place] - _ZERO) + data[place + 1] - _ZERO


@compiled
def _after_signed(data, place):
    """Read an integer."""
    if place < 0:
        return -1
    if data[place] != _MINUS:
        return after_integer(data, place)[0]
    place, number = after_integer(data, place + 1)
    return place if number else -1


@compiled
def _after_item_url(data, place):
    """Read the address of an item; and its number."""
    start = max(after(data, place, "http:\\/\\/"), after(data, place, "http://"))
    return after_number(
        data, max(after(data, start, "www.wikidata.org\\/entity\\/Q"), after(data, start, "www.wikidata.org/entity/Q"))
    )


@compiled
def _put_ordinal(pool, at, number):
    at = _put_number(pool, at, number)
    if 11 <= number % 100 <= 13:
        return _put(pool, at, constant("th"), 2)
    if number % 10 == 1:
        return _put(pool, at, constant("st"), 2)
    if number % 10 == 2:
        return _put(pool, at, constant("nd"), 2)
    if number % 10 == 3:
        return _put(pool, at, constant("rd"), 2)
    return _put(pool, at, constant("th"), 2)


@compiled
def _put_period(pool, at, year, precision):
    """Write a span of years without its era."""
    if precision == _DECADE:
        return _put(pool, _put_number(pool, at, year // 10 * 10), constant("s"), 1)
    if precision == _CENTURY:
        return _put(pool, _put_ordinal(pool, at, (year + 99) // 100), constant(" century"), 8)
    if precision == _MILLENNIUM:
        return _put(pool, _put_ordinal(pool, at, (year + 999) // 1000), constant(" millennium"), 11)
    step = 10 ** (_YEAR - precision)
    rounded = (year + step // 2) // step * step
    if rounded >= _MILLION and rounded % _MILLION == 0:
        return _put(pool, _put_number(pool, at, rounded // _MILLION), constant(" million years"), 14)
    return _put(pool, _put_number(pool, at, rounded if rounded else year), constant(" years"), 6)


@compiled
def _put_date(data, first, last, rules, pool, at):
    sign = after(data, first, '{"time":"')
    start = sign + 1
    place = _after_digits(data, start)
    if sign < 0 or (data[sign] != _PLUS and data[sign] != _MINUS) or not start < place <= start + 16:
        return -1
    year = 0
    for digit in range(start, place):
        year = 10 * year + data[digit] - _ZERO
    month = _two(data, after(data, place, "-"))
    day = _two(data, after(data, place + 3, "-"))
    hour = _two(data, after(data, place + 6, "T"))
    minute = _two(data, after(data, place + 9, ":"))
    second = _two(data, after(data, place + 12, ":"))
    if year == 0 or not 0 <= month <= 12 or not 0 <= day <= 31 or min(hour, minute, second) < 0:
        return -1
    place = _after_signed(data, after(data, place + 15, 'Z","timezone":'))
    place = _after_signed(data, after(data, place, ',"before":'))
    place = _after_signed(data, after(data, place, ',"after":'))
    place, precision = after_integer(data, after(data, place, ',"precision":'))
    place = after(data, _after_plain(data, after(data, place, ',"calendarmodel":"')), "}")
    if place != last or precision > _SECOND:
        return -1
    if precision >= _DAY and month and day:
        at = _put_number(pool, at, day)
        pool[at] = _SPACE
        at += 1
    if precision >= _MONTH and month:
        name = rules.month_ends[month - 1]
        for letter in range(name, rules.month_ends[month]):
            pool[at] = rules.months[letter]
            at += 1
        pool[at] = _SPACE
        at += 1
    at = _put_number(pool, at, year) if precision >= _YEAR else _put_period(pool, at, year, precision)
    return _put(pool, at, constant(" BC"), 3) if data[sign] == _MINUS else at


@compiled
def _put_quantity(data, first, last, pool, at):
    """Write an amount; the offset behind it and the number of its unit."""
    sign = after(data, first, '{"amount":"')
    start = sign + (sign > 0 and (data[sign] == _PLUS or data[sign] == _MINUS))
    point = _after_digits(data, start)
    if sign < 0 or not start < point <= start + 100:
        return -1, 0
    behind = point
    if data[point] == _DOT:
        behind = _after_digits(data, point + 1)
        if not point + 1 < behind <= point + 101:
            return -1, 0
    place = after(data, behind, '","unit":"')
    unit = 0
    alone = after(data, place, '1"')
    if alone > 0:
        place = alone
    else:
        place, unit = _after_item_url(data, place)
        place = after(data, place, '"')
    upper = after(data, place, ',"upperBound":"')
    if upper > 0:
        place = _after_plain(data, after(data, _after_plain(data, upper), ',"lowerBound":"'))
    if after(data, place, "}") != last:
        return -1, 0
    while start < point - 1 and data[start] == _ZERO:
        start += 1
    zero = True
    for digit in range(start, behind):
        zero = zero and (data[digit] == _ZERO or digit == point)
    if data[sign] == _MINUS and not zero:
        pool[at] = _MINUS
        at += 1
    for digit in range(start, behind):
        pool[at] = data[digit]
        at += 1
    return at, unit


@compiled
def _after_decimal(data, place):
    """Read a decimal number without exponent that is written again without one.

    Returns:
        The offset behind it, and behind the last digit that is written again; whether it is negative; its digits as
        an integer, and how many of them are of the fraction.
    """
    bad = -1, -1, False, 0, 0
    if place < 0:
        return bad
    negative = data[place] == _MINUS
    start = place + negative
    point = end = place = _after_digits(data, start)
    if point == start or (place > start + 1 and data[start] == _ZERO):
        return bad
    if data[point] == _DOT:
        end = place = _after_digits(data, point + 1)
        if place == point + 1:
            return bad
        while data[end - 1] == _ZERO and end > point + 2:
            end -= 1
    if end - start > 18 + (end > point) or data[place] == _SMALL_E:
        return bad
    digits = 0
    for digit in range(start, end):
        if digit != point:
            digits = 10 * digits + data[digit] - _ZERO
    scale = max(0, end - point - 1)
    exponential = scale > 5 and digits < 10 ** (scale - 5)
    if digits >= _GREATEST or exponential or (negative and digits == 0):
        return bad
    return place, end, negative, digits, scale


@compiled
def _put_exponential(data, place, pool, at):
    """Write a small number with an exponent again; the offsets behind it and behind what is written, or -1."""
    point = place + 1
    last = point
    if not _ZERO < data[place] <= _NINE:
        return -1, at
    if data[point] == _DOT:
        last = _after_digits(data, point + 1)
        if last == point + 1 or last > point + _DIGITS or (data[last - 1] == _ZERO and last > point + 2):
            return -1, at
    start = after(data, last, "e-")
    if start > 0 and data[start] == _ZERO:
        start += 1
    behind, exponent = after_number(data, start)
    if behind < 0 or not 3 <= exponent <= 99:
        return -1, at
    if last == point + 2 and data[point + 1] == _ZERO:
        last = point
    if exponent < 6:
        at = _put(pool, at, constant("0.0000"), exponent + 1)
    for digit in range(place, last):
        if digit != point or exponent >= 6:
            pool[at] = data[digit]
            at += 1
    if exponent >= 6:
        at = _put_number(pool, _put(pool, at, constant("e-"), 2), exponent)
    return behind, at


@compiled
def _put_angle(pool, at, digits, scale, steps):
    """Write an angle, rounded half to even, in degrees and as many parts of them as the steps of a degree tell."""
    whole = 10**scale
    total = digits * steps // whole
    rest = digits * steps - total * whole
    if 2 * rest > whole or (2 * rest == whole and total % 2 == 1):
        total += 1
    at = _put(pool, _put_number(pool, at, total // steps), constant("°"), 2)
    if steps >= 60:
        at = _put(pool, _put_number(pool, at, total * 60 // steps % 60), constant("′"), 3)
    if steps == 3600:
        at = _put(pool, _put_number(pool, at, total % 60), constant("″"), 3)
    return at


@compiled
def _put_coordinate(data, first, last, text, at, value, value_at):
    """Write a position's text and JSON; the offsets behind them and the number of the item that it is on."""
    bad = -1, value_at, 0
    start = after(data, first, '{"latitude":')
    place, end, south, latitude, latitude_scale = _after_decimal(data, start)
    start = after(data, place, ',"longitude":')
    if start < 0:
        return bad
    value_at = _put_json(data, place, start, value, _put_json(data, first, end, value, value_at))
    place, end, west, longitude, longitude_scale = _after_decimal(data, start)
    value_at = _put_json(data, start, end, value, value_at)
    start = after(data, place, ',"altitude":null,"precision":')
    if start < 0 or max(latitude_scale, longitude_scale) > _DIGITS:
        return bad
    if latitude > 90 * 10**latitude_scale or longitude > 360 * 10**longitude_scale:
        return bad
    steps = 3600
    value_at = _put_json(data, place, start, value, value_at)
    place = end = after(data, start, "null")
    if place < 0:
        place, end, negative, precision, scale = _after_decimal(data, start)
        size = precision / 10**scale
        if size > 360:
            return bad
        if place > 0 and not negative and size > 0.99 / 60:
            steps = 1 if size > 0.99 else 60
    if place > 0:
        value_at = _put_json(data, start, end, value, value_at)
    else:
        place, value_at = _put_exponential(data, start, value, value_at)
    behind, globe = _after_item_url(data, after(data, place, ',"globe":"'))
    if after(data, behind, '"}') != last:
        return bad
    value_at = _put_json(data, place, last, value, value_at)
    at = _put_angle(text, at, latitude, latitude_scale, steps)
    at = _put(text, at, constant("S ") if south else constant("N "), 2)
    at = _put_angle(text, at, longitude, longitude_scale, steps)
    at = _put(text, at, constant("W") if west else constant("E"), 1)
    if globe == _EARTH:
        return at, value_at, 0
    return _put(text, at, constant(" on"), 3), value_at, globe


@compiled
def _put_monolingual(data, first, last, rules, text, at, value, value_at):
    """Write a text and its JSON; the offsets behind them, and whether its language is wanted."""
    start = after(data, first, '{"text":"')
    end = after_text(data, start)
    language = after(data, end, ',"language":"')
    behind = after_code(data, language)
    if after(data, behind, "}") != last:
        return -1, value_at, False
    names, ends = rules.text_language, rules.text_language_ends
    if number_of(data, language, behind - 1, rules.text_languages, names, ends) < 0:
        first = after_escape(data, start + 2)[1] if after(data, start, "\\u") > 0 else np.int64(data[start])
        known = _SPACE < first < CHARACTERS and rules.printable[first] and first != _QUOTE
        return at if known else -1, value_at, False
    behind = copy_text(data, start, end - 1, rules.printable, text, at)
    if behind <= at:
        return -1, value_at, False
    value_at = _put(value, value_at, constant('{"text":"'), 9)
    value_at = _put_escaped(text, at, behind, value, value_at)
    return behind, _put_json(data, end - 1, last, value, value_at), True


@compiled
def _put_string(data, first, last, rules, text, at, value, value_at):
    """Write a string and its JSON; the offsets behind them."""
    if data[first] != _QUOTE:
        return -1, value_at
    behind = copy_text(data, first + 1, last - 1, rules.printable, text, at)
    if behind <= at:
        return -1, value_at
    value_at = _put_escaped(text, at, behind, value, _put(value, value_at, constant('"'), 1))
    return behind, _put(value, value_at, constant('"'), 1)


@compiled
def put_literal(data, first, last, kind, rules, columns):
    """Write the text and the JSON of the value [first, last) of a datatype of some kind as the next ones.

    Returns:
        The number of its unit; -1 for a value that is left to the reader, -2 for one in another language.
    """
    used, text, value = columns.used, columns.text, columns.value
    at, value_at = used[_TEXT], used[_VALUE]
    end, value_end, unit = -1, value_at, 0
    if kind == TIME:
        end = _put_date(data, first, last, rules, text, at)
        value_end = _put_json(data, first, last, value, value_at)
    elif kind == QUANTITY:
        end, unit = _put_quantity(data, first, last, text, at)
        value_end = _put_json(data, first, last, value, value_at)
    elif kind == COORDINATE:
        end, value_end, unit = _put_coordinate(data, first, last, text, at, value, value_at)
    elif kind == MONOLINGUAL:
        end, value_end, wanted = _put_monolingual(data, first, last, rules, text, at, value, value_at)
        if end >= 0 and not wanted:
            return -2
    else:
        end, value_end = _put_string(data, first, last, rules, text, at, value, value_at)
    if end < 0:
        return -1
    row = used[_LITERALS]
    used[_TEXT], used[_VALUE] = end, value_end
    columns.text_ends[row + 1], columns.value_ends[row + 1] = end, value_end
    return unit
