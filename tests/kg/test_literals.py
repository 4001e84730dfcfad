from __future__ import annotations

import doctest
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kg.literals
import kg.wikidata.wikibase
from kg.literals import coordinate_text, date_text, plain_text, quantity_text, unit_id


@pytest.mark.parametrize(
    ("time", "precision", "text"),
    [
        ("+1879-03-14T00:00:00Z", 11, "14 March 1879"),
        ("+00000001879-03-14T00:00:00Z", 11, "14 March 1879"),
        ("+1879-03-14T10:11:12Z", 14, "14 March 1879"),
        ("+1879-03-00T00:00:00Z", 10, "March 1879"),
        ("+1879-03-14T00:00:00Z", 9, "1879"),
        ("+1879-00-00T00:00:00Z", 11, "1879"),
        ("+1879-03-00T00:00:00Z", 11, "March 1879"),
        ("+1879-00-00T00:00:00Z", 8, "1870s"),
        ("+0079-08-24T00:00:00Z", 11, "24 August 79"),
        ("-0044-03-15T00:00:00Z", 11, "15 March 44 BC"),
        ("-0044-00-00T00:00:00Z", 9, "44 BC"),
        ("-0044-00-00T00:00:00Z", 8, "40s BC"),
        ("+1701-00-00T00:00:00Z", 7, "18th century"),
        ("+1800-00-00T00:00:00Z", 7, "18th century"),
        ("+1801-00-00T00:00:00Z", 7, "19th century"),
        ("+2000-00-00T00:00:00Z", 7, "20th century"),
        ("+2001-00-00T00:00:00Z", 7, "21st century"),
        ("+0001-00-00T00:00:00Z", 7, "1st century"),
        ("+1100-00-00T00:00:00Z", 7, "11th century"),
        ("-0100-00-00T00:00:00Z", 7, "1st century BC"),
        ("-0101-00-00T00:00:00Z", 7, "2nd century BC"),
        ("+1000-00-00T00:00:00Z", 6, "1st millennium"),
        ("+1500-00-00T00:00:00Z", 6, "2nd millennium"),
        ("-3000-00-00T00:00:00Z", 6, "3rd millennium BC"),
        ("-38000-00-00T00:00:00Z", 5, "40000 years BC"),
        ("-13798000000-00-00T00:00:00Z", 3, "13798 million years BC"),
        ("-4540000000-00-00T00:00:00Z", 0, "5000 million years BC"),
        ("-9007199254740993-00-00T00:00:00Z", 9, "9007199254740993 BC"),
    ],
)
def test_a_date_is_told_as_far_as_its_precision_goes(time: str, precision: int, text: str) -> None:
    assert date_text({"time": time, "precision": precision, "calendarmodel": "x"}) == text


@given(century=st.integers(1, 10**12))
def test_a_century_begins_with_its_year_one_and_ends_with_its_year_hundred(century: int) -> None:
    first, last = 100 * (century - 1) + 1, 100 * century
    texts = {
        date_text({"time": f"+{year}-00-00T00:00:00Z", "precision": 7}) for year in (first, (first + last) // 2, last)
    }
    assert len(texts) == 1
    assert texts.pop().startswith(str(century))


@pytest.mark.parametrize(
    "value",
    [
        {"time": "+0000-00-00T00:00:00Z", "precision": 9},
        {"time": "+1879-13-14T00:00:00Z", "precision": 11},
        {"time": "+1879-03-32T00:00:00Z", "precision": 11},
        {"time": "1879", "precision": 9},
        {"time": "+1879-03-14T00:00:00Z", "precision": 15},
        {"time": "+1879-03-14T00:00:00Z", "precision": True},
        {"time": "+1879-03-14T00:00:00Z"},
        {"time": 1879, "precision": 9},
        "1879",
        None,
        [],
    ],
)
def test_what_is_no_date_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a"):
        date_text(value)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("+891.7", "891.7"),
        ("891.70", "891.70"),
        ("-12", "-12"),
        ("+0007", "7"),
        ("-0", "0"),
        ("-0.0", "0.0"),
        ("+880000000000000000000000", "880000000000000000000000"),
        ("+0.000000000000000000000000000000000000001", "0.000000000000000000000000000000000000001"),
    ],
)
def test_a_quantity_is_its_exact_decimal(amount: str, text: str) -> None:
    assert quantity_text({"amount": amount, "unit": "1"}) == text


@pytest.mark.parametrize("amount", ["", "1e9", "NaN", "+-1", "1.", "٣", 5, None, "1" * 101])
def test_what_is_no_decimal_is_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="not a"):
        quantity_text({"amount": amount, "unit": "1"})


def test_a_unit_is_the_number_of_its_item() -> None:
    assert unit_id({"unit": "1"}) == 0
    assert unit_id({"unit": "http://www.wikidata.org/entity/Q712226"}) == 712226
    for bad in ("2", "http://example.org/Q5", None):
        with pytest.raises(ValueError, match="not a"):
            unit_id({"unit": bad})


@pytest.mark.parametrize(
    ("latitude", "longitude", "precision", "text"),
    [
        (52.516666666667, 13.383333333333, 0.016666666666667, "52°31′N 13°23′E"),
        (52.516666666667, 13.383333333333, 1, "53°N 13°E"),
        (52.516666666667, 13.383333333333, 0.1, "52°31′N 13°23′E"),
        (52.516666666667, 13.383333333333, None, "52°31′0″N 13°23′0″E"),
        (52.516666666667, 13.383333333333, 0, "52°31′0″N 13°23′0″E"),
        (-33.8688, 151.2093, 1 / 3600, "33°52′8″S 151°12′33″E"),
        (-22.9083, -43.1964, 1e-6, "22°54′30″S 43°11′47″W"),
        (59.99999, 0, 1 / 60, "60°0′N 0°0′E"),
        (57, -5, 1e-05, "57°0′0″N 5°0′0″W"),
    ],
)
def test_a_coordinate_is_told_as_far_as_its_precision_goes(
    latitude: float, longitude: float, precision: float | None, text: str
) -> None:
    assert coordinate_text({"latitude": latitude, "longitude": longitude, "precision": precision}) == text


@given(
    latitude=st.floats(-90, 90),
    longitude=st.floats(-360, 360),
    precision=st.sampled_from([None, 1, 0.1, 1 / 60, 0.01, 1 / 3600, 1e-9]),
)
def test_minutes_and_seconds_stay_below_sixty(latitude: float, longitude: float, precision: float | None) -> None:
    text = coordinate_text({"latitude": latitude, "longitude": longitude, "precision": precision})
    for part in text.replace("°", " ").replace("′", " ′ ").replace("″", " ″ ").split():
        if part.isdigit():
            assert int(part) <= 360
    assert "60′" not in text
    assert "60″" not in text


@pytest.mark.parametrize(
    "value",
    [
        {"latitude": 91, "longitude": 0},
        {"latitude": 0, "longitude": 361},
        {"latitude": "1", "longitude": 0},
        {"latitude": True, "longitude": 0},
        {"latitude": 1, "longitude": 0, "precision": "1"},
        {},
        3,
    ],
)
def test_what_is_no_position_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a"):
        coordinate_text(value)


def test_white_space_and_control_characters_become_single_spaces() -> None:
    assert plain_text(" The\t\x00 Hague\u00a0\n") == "The Hague"
    for bad in ("", " \n", None, 3):
        with pytest.raises(ValueError, match="not a text"):
            plain_text(bad)


@pytest.mark.parametrize("module", [kg.literals, kg.wikidata.wikibase])
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
