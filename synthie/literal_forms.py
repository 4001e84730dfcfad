"""How people write the dates, quantities and coordinates that the graph names in one canonical way.

A literal's name in the graph is canonical ("14 March 1879", "891.7 square
kilometre", "52°31′N 13°23′E"); a text may say "March 14, 1879" or "891.7 km²".
`literal_forms` lists every usual written form of a name, the name itself first:
the quality checks look for any of them. `prose_forms` is the part of them that
reads well inside a sentence, the most usual first: the rule-made texts use
those. All forms are exact; a rounded number is another number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

__all__ = ["coordinate_forms", "date_forms", "literal_forms", "prose_forms", "quantity_forms"]

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_CACHED_NAMES = 1 << 12  # a coordinate has some 180 forms: at most about 60 MB in all


def literal_forms(name: str, kind: str) -> list[str]:
    """Every usual written form of a literal.

    Args:
        name: the literal's name in the graph.
        kind: ``date``, ``quantity``, ``coordinate`` or ``string``; other kinds have their name as only form.

    Returns:
        Distinct forms, ``name`` first. A name that does not have its kind's canonical shape is its own only form.

    >>> literal_forms("March 1879", "date")[:2]
    ['March 1879', 'March, 1879']
    """
    return list(dict.fromkeys((name, *_prose(name, kind), *_other(name, kind))))


def prose_forms(name: str, kind: str) -> list[str]:
    """The forms of a literal that read well in a sentence, the most usual first.

    >>> prose_forms("891.7 square kilometre", "quantity")
    ['891.7 square kilometres', '891.7 km²', '891.7 square kilometers']
    """
    return list(_prose(name, kind) or (name,))


def date_forms(name: str) -> list[str]:
    """Every usual form of a date of any precision: "14 March 1879", "1870s", "5th century BC"."""
    return literal_forms(name, "date")


def quantity_forms(name: str) -> list[str]:
    """Every usual form of a number with or without a unit: "83149300", "891.7 square kilometre"."""
    return literal_forms(name, "quantity")


def coordinate_forms(name: str) -> list[str]:
    """Every usual form of a position in degrees, minutes and seconds: "52°31′N 13°23′E"."""
    return literal_forms(name, "coordinate")


@lru_cache(_CACHED_NAMES)
def _prose(name: str, kind: str) -> tuple[str, ...]:
    if kind == "date":
        return _date_prose(name)
    if kind == "quantity":
        return _quantity_prose(name)
    if kind == "coordinate":
        return _coordinate_prose(name)
    return ()


@lru_cache(_CACHED_NAMES)
def _other(name: str, kind: str) -> tuple[str, ...]:
    if kind == "date":
        return _date_other(name)
    if kind == "quantity":
        return _quantity_other(name)
    if kind == "coordinate":
        return _coordinate_other(name)
    return ()


# --- Dates ---------------------------------------------------------------------------------------------------------

_DATE = re.compile(rf"(?:(?:(\d{{1,2}}) )?({'|'.join(MONTHS)}) )?(\d[\d,]*)( BCE?)?")
_PERIOD = re.compile(r"(\d+)(s|(?:st|nd|rd|th) (?:century|millennium))( BCE?)?")
_SPAN = re.compile(r"(\d+)( million)? years( BCE?)?")
_ORDINALS = (
    *("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth"),
    *("nineteenth", "twentieth", "twenty-first", "twenty-second"),
)
_FIRST_PLAIN_YEAR = 1000  # an earlier year is often written with its era: AD 79


def _date_prose(name: str) -> tuple[str, ...]:
    if match := _DATE.fullmatch(name):
        day, month, year, era = match.groups()
        return tuple(f"{date}{year}" for year in _years(year, bool(era)) for date in _day_and_month(day, month))
    if match := _PERIOD.fullmatch(name):
        number, period, era = match.groups()
        return tuple(f"{number}{period}{end}" for end in ((" BC", " BCE") if era else ("",)))
    if match := _SPAN.fullmatch(name):
        number, million, era = match.groups()
        return tuple(f"{int(number):,}{million or ''} years{end}" for end in ((" BC", " BCE") if era else ("",)))
    return ()


def _date_other(name: str) -> tuple[str, ...]:
    if match := _DATE.fullmatch(name):
        day, month, year, era = match.groups()
        return _further_dates(day, month, year, bool(era))
    if match := _PERIOD.fullmatch(name):
        number, period, era = match.groups()
        return _further_periods(int(number), period, bool(era))
    return ()


def _day_and_month(day: str | None, month: str | None) -> tuple[str, ...]:
    """What stands before the year in prose, European order first."""
    if month is None:
        return ("",)
    return (f"{month} ",) if day is None else (f"{day} {month} ", f"{month} {day}, ")


def _years(year: str, before_christ: bool) -> tuple[str, ...]:
    """A year in prose; from 10,000 on with a separator."""
    number = int(year.replace(",", ""))
    text = f"{number:,}" if number >= 10_000 else str(number)
    if before_christ:
        return f"{text} BC", f"{text} BCE"
    if number < _FIRST_PLAIN_YEAR:
        return text, f"AD {text}", f"{text} AD"
    return (text,)


def _further_dates(day: str | None, month: str | None, year: str, before_christ: bool) -> tuple[str, ...]:
    number = int(year.replace(",", ""))
    digits = list(dict.fromkeys((str(number), f"{number:,}" if number >= 10_000 else str(number))))
    years = [text + era for text in digits for era in ((" BC", " BCE", " B.C.", " B.C.E.") if before_christ else ("",))]
    if number < _FIRST_PLAIN_YEAR and not before_christ:
        years += [f"{digits[0]} {era}" for era in ("AD", "CE", "A.D.")] + [
            f"{era} {digits[0]}" for era in ("AD", "A.D.")
        ]
    if month is None:
        return tuple(years)
    short = [month, month[:3], f"{month[:3]}.", *(("Sept", "Sept.") if month == "September" else ())]
    if day is None:
        before = [f"{name}{between}" for name in short for between in (" ", ", ", " of ")]
        iso = f"{number:04d}-{MONTHS.index(month) + 1:02d}"
    else:
        ordinal = day + _suffix(int(day))
        days = (day, ordinal, f"{int(day):02d}")
        before = [f"{d} {name}{between}" for d in days for name in short for between in (" ", ", ")]
        before += [f"{name} {d}{between}" for d in days for name in short for between in (", ", " ")]
        before += [f"{ordinal} of {month}{between}" for between in (" ", ", ")]
        iso = f"{number:04d}-{MONTHS.index(month) + 1:02d}-{int(day):02d}"
    if before_christ:
        return tuple(f"{date}{year}" for date in before for year in years)
    return (*(f"{date}{year}" for date in before for year in years), iso, *_numeric_dates(day, month, number))


def _numeric_dates(day: str | None, month: str, year: int) -> Iterator[str]:
    """A date in digits, with the day or the month first: 10/03/1983, 3.10.1983, 1983.10.03."""
    if day is None:
        return
    d, m = int(day), MONTHS.index(month) + 1
    for first, second in ((d, m), (m, d)):
        for mark in "/.-":
            yield f"{first}{mark}{second}{mark}{year}"
            yield f"{first:02d}{mark}{second:02d}{mark}{year}"
    yield from (f"{year}{mark}{m:02d}{mark}{d:02d}" for mark in "/.")


def _further_periods(number: int, period: str, before_christ: bool) -> tuple[str, ...]:
    eras = (" BC", " BCE", " B.C.", " B.C.E.") if before_christ else ("",)
    if period == "s":
        forms = [f"{number}s", f"{number}'s", f"{number}’s"]
    else:
        noun = period.split(" ")[1]
        written = [f"{number}{period.split(' ')[0]}"]
        if number < len(_ORDINALS):
            written += [_ORDINALS[number], _ORDINALS[number].capitalize()]
        forms = [f"{which}{joint}{noun}" for which in written for joint in (" ", "-")]
    return tuple(form + era for form in forms for era in eras)


def _suffix(number: int) -> str:
    if 10 <= number % 100 <= 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


# --- Quantities ----------------------------------------------------------------------------------------------------

_QUANTITY = re.compile(r"([+\-−]?)(\d[\d,]*)(\.\d+)?(?: (.+))?")
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))
_SYMBOLS = {
    "square kilometre": ("km²", "km2", "km^2", "sq km", "sq. km"),
    "square metre": ("m²", "m2", "m^2", "sq m", "sq. m"),
    "square mile": ("mi²", "sq mi", "sq. mi", "sq. miles", "sq miles"),
    "square foot": ("ft²", "sq ft", "sq. ft"),
    "cubic metre": ("m³", "m3"),
    "cubic kilometre": ("km³", "km3"),
    "kilometre": ("km", "kms"),
    "metre": ("m",),
    "centimetre": ("cm",),
    "millimetre": ("mm",),
    "hectare": ("ha",),
    "mile": ("mi",),
    "foot": ("ft",),
    "inch": ("in", "″", '"'),
    "nautical mile": ("nmi",),
    "astronomical unit": ("AU", "au"),
    "light-year": ("ly",),
    "kilogram": ("kg", "kgs"),
    "gram": ("g",),
    "tonne": ("t",),
    "pound": ("lb", "lbs"),
    "second": ("s",),
    "minute": ("min",),
    "hour": ("h",),
    "kilometre per hour": ("km/h", "kph"),
    "metre per second": ("m/s",),
    "degree Celsius": ("°C",),
    "degree": ("°",),
    "percent": ("%", "per cent"),
    "watt": ("W",),
    "kilowatt": ("kW",),
    "megawatt": ("MW",),
    "litre": ("L", "l"),
}
_PREFIXES = {
    "United States dollar": ("US$", "$", "USD "),
    "dollar": ("$",),
    "euro": ("€", "EUR "),
    "pound sterling": ("£", "GBP "),
    "yen": ("¥", "JPY "),
}
_PLURALS = {"foot": "feet", "inch": "inches", "percent": "percent", "yen": "yen", "hertz": "hertz", "lux": "lux"}


def _quantity_prose(name: str) -> tuple[str, ...]:
    match = _QUANTITY.fullmatch(name)
    if match is None:
        return ()
    sign, whole, fraction, unit = match.groups()
    number = _grouped(sign, whole, fraction)
    if unit is None:
        scaled = _scaled(sign, whole, fraction, most_decimals=2)
        return (number, *scaled)
    plural = unit if number == "1" else _plural(unit)
    forms = [f"{number} {plural}"]
    if unit in _SYMBOLS:
        symbol = _SYMBOLS[unit][0]
        forms.append(f"{number}{'' if symbol in '°%' else ' '}{symbol}")
    return (*forms, *(f"{number} {american}" for american in _american(plural)))


def _quantity_other(name: str) -> tuple[str, ...]:
    match = _QUANTITY.fullmatch(name)
    if match is None:
        return ()
    sign, whole, fraction, unit = match.groups()
    numbers = _numbers(sign, whole, fraction)
    if unit is None:
        return tuple(numbers)
    words = [unit, _plural(unit)]
    words += [american for word in words for american in _american(word)]
    words += [f"{short} {word[7:]}" for word in words if word.startswith("square ") for short in ("sq.", "sq")]
    forms = [f"{number} {word}" for number, word in product(numbers, words)]
    forms += [f"{number}-{word.replace(' ', '-')}" for number, word in product(numbers, words)]
    for symbol, number in product(_SYMBOLS.get(unit, ()), numbers):
        forms += [f"{number} {symbol}", f"{number}\u00a0{symbol}", f"{number}{symbol}"]
    forms += [f"{prefix}{number}" for prefix, number in product(_PREFIXES.get(unit, ()), numbers)]
    if unit in _PREFIXES:
        word = unit.split(" ")[-1]
        forms += [f"{number} {text}" for number in numbers for text in (word, _plural(word), f"US {_plural(word)}")]
    return tuple(forms)


def _grouped(sign: str, whole: str, fraction: str | None) -> str:
    minus = "−" if sign in ("-", "−") else ""
    return f"{minus}{int(whole.replace(',', '')):,}{fraction or ''}"


def _scaled(sign: str, whole: str, fraction: str | None, *, most_decimals: int) -> tuple[str, ...]:
    """The number in millions or more, where that is exact with at most ``most_decimals`` decimals."""
    number = int(whole.replace(",", ""))
    if fraction:
        return ()
    for scale, word in _SCALES:
        if number >= scale:
            decimals = str(number % scale).zfill(len(str(scale)) - 1).rstrip("0")
            if len(decimals) > most_decimals:
                return ()
            minus = "−" if sign in ("-", "−") else ""
            return (f"{minus}{number // scale:,}{'.' if decimals else ''}{decimals} {word}",)
    return ()


def _numbers(sign: str, whole: str, fraction: str | None) -> list[str]:
    """Every spelling of a number: plain, grouped by comma or (thin, no-break) space, in millions, as a word."""
    number = int(whole.replace(",", ""))
    fraction = fraction or ""
    spellings = [str(number), *(f"{number:,}".replace(",", mark) for mark in (",", " ", "\u202f", "\u00a0", "\u2009"))]
    spellings = [text + fraction for text in spellings]
    spellings += _scaled("", whole, fraction, most_decimals=9)
    if number < len(_SMALL) and not fraction:
        spellings += [_SMALL[number], _SMALL[number].capitalize()]
    shorter = fraction.rstrip("0").rstrip(".")
    if shorter != fraction:
        spellings += [text.removesuffix(fraction) + shorter for text in list(spellings)]
    if sign in ("-", "−"):
        spellings = [minus + text for text in spellings for minus in ("−", "-", "–", "minus ")]
    return list(dict.fromkeys(spellings))


def _plural(unit: str) -> str:
    """Plural of a unit's name: the head is the last word before "per" or the "degree" of a scale."""
    head, per, rest = unit.partition(" per ")
    if head.startswith("degree "):
        return f"degrees {head.removeprefix('degree ')}{per}{rest}"
    *before, last = head.split(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif not last.endswith("s") and last[-1:].isalpha():
        last += "s"
    return " ".join((*before, last)) + per + rest


def _american(unit: str) -> tuple[str, ...]:
    spelled = re.sub(r"(met|lit)re(s?)\b", r"\1er\2", unit)
    return () if spelled == unit else (spelled,)


# --- Coordinates ---------------------------------------------------------------------------------------------------

_NUMBER = r"\d+(?:\.\d+)?"
_ANGLE = rf"({_NUMBER})°(?:({_NUMBER})′)?(?:({_NUMBER})″)?"
_COORDINATE = re.compile(rf"{_ANGLE}([NS]),? {_ANGLE}([EW])")
_SIDES = {"N": "north", "S": "south", "E": "east", "W": "west"}


def _coordinate_prose(name: str) -> tuple[str, ...]:
    match = _COORDINATE.fullmatch(name)
    if match is None:
        return ()
    latitude, longitude = _angle(match.groups()[:3]), _angle(match.groups()[4:7])
    north, east = match[4], match[8]
    return f"{latitude}{north} {longitude}{east}", f"{latitude}{north}, {longitude}{east}"


def _coordinate_other(name: str) -> tuple[str, ...]:
    match = _COORDINATE.fullmatch(name)
    if match is None:
        return ()
    groups = match.groups()
    latitudes = _angle_forms(groups[:3], groups[3])
    longitudes = _angle_forms(groups[4:7], groups[7])
    forms = []
    for latitude, longitude in zip(latitudes, longitudes, strict=True):
        forms += [f"{latitude}{between}{longitude}" for between in (" ", ", ", " and ", "; ", " / ", ",")]
        forms += [
            f"{latitude} latitude and {longitude} longitude",
            f"{latitude} latitude, {longitude} longitude",
            f"latitude {latitude} and longitude {longitude}",
            f"latitude {latitude}, longitude {longitude}",
            f"latitude of {latitude} and longitude of {longitude}",
            f"latitude of {latitude} and a longitude of {longitude}",
        ]
    return tuple(forms)


def _angle(parts: tuple[str | None, ...]) -> str:
    return "".join(f"{part}{mark}" for part, mark in zip(parts, "°′″", strict=True) if part is not None)


def _angle_forms(parts: tuple[str | None, ...], side: str) -> list[str]:
    """One angle in every style, always in the same order, so that both angles of a position can be paired."""
    given = [part for part in parts if part is not None]
    texts = []
    for marks in ("°′″", "°'\""):
        texts.append("".join(f"{part}{mark}" for part, mark in zip(given, marks, strict=False)))
        texts.append(" ".join(f"{part}{mark}" for part, mark in zip(given, marks, strict=False)))
    words = ("degrees", "minutes", "seconds")
    texts.append(" ".join(f"{part} {word}" for part, word in zip(given, words, strict=False)))
    ends = (side, f" {side}", f" {_SIDES[side]}")
    return [text + end for text in texts for end in ends]
