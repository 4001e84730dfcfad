"""Prices and the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthie.errors import ConfigError
from synthie.llm.pricing import (
    Ledger,
    Price,
    Usage,
    batch_discount_of,
    input_token_bound,
    price_of,
    to_picodollars,
)


def test_a_listed_model_has_its_price() -> None:
    price = price_of("gpt-4o-mini", None, None)
    assert price == Price(input=150_000, cached_input=75_000, output=600_000)
    assert price.cost(Usage(1_000_000, 1_000_000)) == to_picodollars(0.75)


def test_a_dated_name_has_the_price_of_its_model_unless_listed_itself() -> None:
    assert price_of("gpt-4o-mini-2024-07-18", None, None) == price_of("gpt-4o-mini", None, None)
    assert price_of("gpt-4o-2024-05-13", None, None).input == 5_000_000


def test_cached_input_is_charged_at_its_own_price() -> None:
    price = Price(input=10, cached_input=1, output=100)
    assert price.cost(Usage(input_tokens=50, output_tokens=2, cached_input_tokens=40)) == 10 * 10 + 40 + 200


def test_the_built_in_model_is_free() -> None:
    assert price_of("synthie-rules", None, None).is_free


def test_an_unknown_model_is_refused_with_the_way_to_set_its_price() -> None:
    with pytest.raises(ConfigError, match=r"input_usd_per_million and generation\.output_usd_per_million") as caught:
        price_of("llama-9", None, None)
    assert "'llama-9'" in str(caught.value)
    with pytest.raises(ConfigError):
        price_of("llama-9", 1.0, None)


def test_given_prices_override_the_table_and_zero_means_free() -> None:
    assert price_of("llama-9", 0, 0).is_free
    assert price_of("gpt-4o-mini", 1.0, None) == Price(input=1_000_000, cached_input=1_000_000, output=600_000)


def test_a_given_price_of_cached_input_goes_before_the_table_and_the_input() -> None:
    assert price_of("gpt-4o-mini", None, None, 0.01) == Price(input=150_000, cached_input=10_000, output=600_000)
    assert price_of("llama-9", 1.0, 2.0, 0) == Price(input=1_000_000, cached_input=0, output=2_000_000)


def test_the_batch_api_halves_the_price_of_a_listed_model() -> None:
    share = batch_discount_of("gpt-4o-mini-2024-07-18", None)
    assert price_of("gpt-4o-mini", None, None).discounted(share) == Price(75_000, 37_500, 300_000)


def test_a_discounted_price_is_exact_and_rounded_up() -> None:
    assert Price(input=10**15 + 1, cached_input=3, output=0).discounted(0.3) == Price(7 * 10**14 + 1, 3, 0)
    assert Price(7, 5, 3).discounted(0) == Price(7, 5, 3)
    assert Price(7, 5, 3).discounted(1).is_free


def test_a_given_batch_discount_goes_before_the_table_and_an_unknown_one_is_refused() -> None:
    assert batch_discount_of("gpt-4o-mini", 0.25) == 0.25
    assert batch_discount_of("llama-9", 0.0) == 0
    with pytest.raises(ConfigError, match=r"'llama-9' is not known.*generation\.batch_discount"):
        batch_discount_of("llama-9", None)


def test_a_sum_in_dollars_is_rounded_down_exactly() -> None:
    assert to_picodollars(0.1) + to_picodollars(0.2) == to_picodollars(0.3)
    assert to_picodollars(1e-13) == 0


@given(st.text(max_size=200))
def test_no_text_has_more_tokens_than_the_bound(text: str) -> None:
    """The finest byte-level tokenizer makes one token of each byte."""
    assert input_token_bound(text.encode(), 1) >= len(text.encode()) + 2 * 4


@given(
    limit=st.integers(0, 1_000),
    spent=st.integers(0, 500),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 300), st.integers(0, 100)), max_size=80),
)
def test_no_order_of_reserving_and_settling_exceeds_the_limit(
    limit: int, spent: int, steps: list[tuple[bool, int, int]]
) -> None:
    ledger, open_reservations = Ledger(limit, spent), []
    for is_reservation, amount, percent in steps:
        if is_reservation:
            fits = ledger.spent + sum(open_reservations) + amount <= limit
            assert ledger.reserve(amount) == fits
            if fits:
                open_reservations.append(amount)
        elif open_reservations:
            reserved = open_reservations.pop(amount % len(open_reservations))
            ledger.settle(reserved, reserved * percent // 100)
        assert ledger.reserved == sum(open_reservations)
        assert ledger.spent + ledger.reserved <= max(limit, spent)
