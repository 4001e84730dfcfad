"""Wikidata's literal values as the text that names them.

A date becomes "14 March 1879" or "18th century" by its precision, a quantity
its exact decimal, a coordinate "52°31′N 13°23′E", a string itself. The calendar
model of a date is left as written: "4 February 1732" in the Julian calendar
stays so. Everything is computed on integers and decimals, never on binary
fractions, so a value has one name on every machine.

Each function takes the ``value`` of a snak's ``datavalue`` and raises
`ValueError` if it is not of the form that Wikibase documents
(https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

__all__ = ["MONTHS", "coordinate_text", "date_text", "globe_id", "plain_text", "quantity_text", "unit_id"]

MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)
_TIME = re.compile(r"([+-])(\d{1,16})-(\d\d)-(\d\d)T\d\d:\d\d:\d\dZ", re.ASCII)
_AMOUNT = re.compile(r"[+-]?\d{1,100}(\.\d{1,100})?", re.ASCII)
_GAPS = re.compile(r"[\s\x00-\x1f\x7f]+")
_ENTITY_URL = re.compile(r"https?://www\.wikidata\.org/entity/Q([1-9]\d{0,8})", re.ASCII)

_EARTH = "2"

# Wikibase's numbers for how exact a date is; 0 … 5 stand for 10^9 … 10^4 years.
_TEN_THOUSAND_YEARS, _MILLENNIUM, _CENTURY, _DECADE, _YEAR, _MONTH, _DAY, _SECOND = 5, 6, 7, 8, 9, 10, 11, 14


def date_text(value: Any) -> str:
    """Name a point in time by its precision.

    >>> date_text({"time": "+1879-03-14T00:00:00Z", "precision": 11})
    '14 March 1879'
    >>> date_text({"time": "+1800-00-00T00:00:00Z", "precision": 7})
    '18th century'
    >>> date_text({"time": "-0044-03-15T00:00:00Z", "precision": 11})
    '15 March 44 BC'
    >>> date_text({"time": "-13798000000-00-00T00:00:00Z", "precision": 3})
    '13798 million years BC'
    """
    match = _TIME.fullmatch(_text(value, "time"))
    precision = _field(value, "precision")
    if match is None or type(precision) is not int or not 0 <= precision <= _SECOND:
        raise ValueError("not a point in time")
    year, month, day = int(match[2]), int(match[3]), int(match[4])
    if year == 0 or month > 12 or day > 31:
        raise ValueError("not a date of the calendar")  # the year before 1 is 1 BC
    era = " BC" if match[1] == "-" else ""
    if precision >= _DAY and month and day:
        return f"{day} {MONTHS[month - 1]} {year}{era}"
    if precision >= _MONTH and month:
        return f"{MONTHS[month - 1]} {year}{era}"
    if precision >= _YEAR:
        return f"{year}{era}"
    return _period(year, precision) + era


def quantity_text(value: Any) -> str:
    """The exact decimal of a quantity's amount, without its unit.

    >>> quantity_text({"amount": "+0891.70", "unit": "1"})
    '891.70'
    """
    amount = _text(value, "amount")
    if _AMOUNT.fullmatch(amount) is None:
        raise ValueError("not a decimal number")
    number = Decimal(amount)
    return format(abs(number) if number.is_zero() else number, "f")


def unit_id(value: Any) -> int:
    """The number of the item that is a quantity's unit; 0 for a mere number.

    >>> unit_id({"amount": "+891.7", "unit": "http://www.wikidata.org/entity/Q712226"})
    712226
    """
    unit = _text(value, "unit")
    if unit == "1":
        return 0
    match = _ENTITY_URL.fullmatch(unit)
    if match is None:
        raise ValueError("not a unit")
    return int(match[1])


def coordinate_text(value: Any) -> str:
    """Latitude and longitude in degrees, minutes and seconds as far as the precision goes.

    >>> coordinate_text({"latitude": 52.5166, "longitude": 13.3833, "precision": 0.016666666666667})
    '52°31′N 13°23′E'
    >>> coordinate_text({"latitude": -33.8688, "longitude": 151.2093, "precision": 0.0001})
    '33°52′8″S 151°12′33″E'
    """
    latitude, longitude, precision = (_field(value, name) for name in ("latitude", "longitude", "precision"))
    if not all(type(angle) in (int, float) for angle in (latitude, longitude)):
        raise ValueError("not a position")
    if not (-90 <= latitude <= 90 and -360 <= longitude <= 360):
        raise ValueError("not a position")
    if precision is not None and type(precision) not in (int, float):
        raise ValueError("not a precision")
    # Stored precisions are rounded decimals, so 1/60 may read 0.016666666666667 or 0.01667.
    steps = 3600
    if precision and precision > 0.99:
        steps = 1
    elif precision and precision > 0.99 / 60:
        steps = 60
    north_south, east_west = "S" if latitude < 0 else "N", "W" if longitude < 0 else "E"
    return f"{_angle(latitude, steps)}{north_south} {_angle(longitude, steps)}{east_west}"


def globe_id(value: Any) -> int:
    """The number of the item that a position is on, such as Mars; 0 for the Earth.

    >>> globe_id({"latitude": -4.59, "longitude": 137.44, "globe": "http://www.wikidata.org/entity/Q111"})
    111
    """
    match = _ENTITY_URL.fullmatch(str(_field(value, "globe")))
    return int(match[1]) if match and match[1] != _EARTH else 0


def plain_text(text: Any) -> str:
    """A string with its white space and control characters made single spaces.

    >>> plain_text(" The  Hague ")
    'The Hague'
    """
    if not isinstance(text, str):
        raise ValueError("not a text")
    if text and text.isprintable() and "  " not in text and text[0] != " " != text[-1]:
        return text  # as nearly all are, and 5 times as fast
    words = _GAPS.sub(" ", text).strip()
    if not words:
        raise ValueError("not a text")
    return words


def _period(year: int, precision: int) -> str:
    """A span of years without its era: decade, century, millennium, or a round number of years."""
    if precision == _DECADE:
        return f"{year // 10 * 10}s"
    if precision == _CENTURY:
        return f"{_ordinal((year + 99) // 100)} century"
    if precision == _MILLENNIUM:
        return f"{_ordinal((year + 999) // 1000)} millennium"
    step = 10 ** (_YEAR - precision)
    rounded = (year + step // 2) // step * step
    if rounded >= 1_000_000 and rounded % 1_000_000 == 0:
        return f"{rounded // 1_000_000} million years"
    return f"{rounded or year} years"


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _angle(degrees: float, steps: int) -> str:
    total = round(abs(Decimal(repr(degrees))) * steps)
    if steps == 1:
        return f"{total}°"
    if steps == 60:
        return f"{total // 60}°{total % 60}′"
    return f"{total // 3600}°{total // 60 % 60}′{total % 60}″"


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"not a value with {name!r}")
    return value.get(name)


def _text(value: Any, name: str) -> str:
    text = _field(value, name)
    if not isinstance(text, str):
        raise ValueError(f"not a value with {name!r}")
    return text
