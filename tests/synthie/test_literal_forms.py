"""Written forms of literals: usual, exact, the canonical name first."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthie.literal_forms import (
    MONTHS,
    coordinate_forms,
    date_forms,
    literal_forms,
    prose_forms,
    quantity_forms,
)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("14 March 1879", ["March 14, 1879", "14th of March 1879", "1879-03-14", "14 Mar 1879", "March 14th, 1879"]),
        ("3 September 1939", ["3rd September 1939", "Sept. 3, 1939", "03 September 1939", "1939-09-03"]),
        ("3 October 1983", ["03/10/1983", "10/03/1983", "3.10.1983", "10-3-1983", "1983.10.03"]),
        ("March 1879", ["March of 1879", "March, 1879", "1879-03"]),
        ("79", ["AD 79", "79 AD", "79 CE"]),
        ("44 BC", ["44 BCE", "44 B.C."]),
        ("15 March 44 BC", ["March 15, 44 BC", "15 March 44 BCE"]),
        ("10000 BC", ["10,000 BC", "10,000 BCE"]),
        ("1870s", ["1870s", "1870’s"]),
        ("18th century", ["eighteenth century", "18th-century"]),
        ("5th century BC", ["fifth century BCE", "5th century B.C."]),
        ("2nd millennium", ["second millennium"]),
        ("13798 million years BC", ["13,798 million years BC"]),
    ],
)
def test_dates_are_known_in_their_usual_forms(name: str, written: list[str]) -> None:
    assert set(written) <= set(date_forms(name))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("83149300", ["83,149,300", "83 149 300", "83.1493 million"]),
        ("3", ["three"]),
        ("3 kilogram", ["3 kgs", "three kilograms"]),
        ("891.7 square kilometre", ["891.7 square kilometres", "891.7 km²", "891.7 square kilometers", "891.7 sq km"]),
        ("891.70 square kilometre", ["891.7 square kilometres", "891.70 km2"]),
        ("8848 metre", ["8,848 metres", "8848 m", "8,848 meters", "8,848-metre"]),
        ("6 foot", ["6 feet", "six feet", "6 ft"]),
        ("-3.5 degree Celsius", ["−3.5 degrees Celsius", "minus 3.5 °C", "-3.5 °C"]),
        ("120 kilometre per hour", ["120 kilometres per hour", "120 km/h"]),
        ("100 United States dollar", ["US$100", "$100", "100 dollars", "100 US dollars"]),
        ("7 Martian sol", ["7 Martian sols", "seven Martian sols"]),
    ],
)
def test_quantities_are_known_in_their_usual_forms(name: str, written: list[str]) -> None:
    assert set(written) <= set(quantity_forms(name))


def test_coordinates_are_known_in_their_usual_forms() -> None:
    written = {
        "52°31′N, 13°23′E",
        "52°31'N 13°23'E",
        "52° 31′ N, 13° 23′ E",
        "latitude 52°31′N and longitude 13°23′E",
        "52 degrees 31 minutes north, 13 degrees 23 minutes east",
    }
    assert written <= set(coordinate_forms("52°31′N 13°23′E"))


@pytest.mark.parametrize("kind", ["date", "quantity", "coordinate", "string", "entity"])
@given(name=st.text(min_size=1, max_size=40))
def test_any_name_is_its_own_first_form(kind: str, name: str) -> None:
    forms = literal_forms(name, kind)
    assert forms[0] == name
    assert len(forms) == len(set(forms))


@given(number=st.integers(0, 10**15), decimals=st.sampled_from(["", ".5", ".25", ".125"]))
def test_no_form_of_a_number_is_rounded(number: int, decimals: str) -> None:
    scales = {"million": 6, "billion": 9, "trillion": 12}
    for form in quantity_forms(f"{number}{decimals}"):
        digits, _, scale = re.sub(r"[,\u2009\u202f\u00a0]", "", form).partition(" ")
        if scale in scales:
            whole, _, rest = digits.partition(".")
            assert int(whole + rest.ljust(scales[scale], "0")) == number
        elif form[0].isdigit():
            assert re.sub(r"[^\d.]", "", form) == f"{number}{decimals}"


@given(day=st.integers(1, 28), month=st.sampled_from(MONTHS), year=st.integers(1, 2100))
def test_what_reads_well_is_among_all_forms(day: int, month: str, year: int) -> None:
    name = f"{day} {month} {year}"
    assert set(prose_forms(name, "date")) <= set(date_forms(name))
    assert all(month in form and str(day) in form and str(year) in form for form in prose_forms(name, "date"))
