"""What a call costs, and the ledger that keeps a run within its budget.

Money is counted in whole picodollars (10⁻¹² USD): a price per million tokens
with up to six decimals is a whole number of them per token, so sums are exact
and a limit means what it says. Before every try the ledger reserves the most
that the try can cost; afterwards it settles what it did cost.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from synthie.errors import ConfigError

__all__ = [
    "PICODOLLARS",
    "Ledger",
    "Price",
    "Usage",
    "input_token_bound",
    "price_of",
    "to_picodollars",
]

PICODOLLARS = 10**12  # in one US dollar

_MESSAGE_OVERHEAD = 16  # tokens of a chat template around one message; 3 to 10 in published templates
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call as the endpoint bills them; cached input is part of the input."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one model, in picodollars per token."""

    input: int
    cached_input: int
    output: int

    @property
    def is_free(self) -> bool:
        return not (self.input or self.cached_input or self.output)

    def cost(self, usage: Usage) -> int:
        """Cost of a call in picodollars."""
        fresh = usage.input_tokens - usage.cached_input_tokens
        return fresh * self.input + usage.cached_input_tokens * self.cached_input + usage.output_tokens * self.output

    def worst_cost(self, input_tokens: int, output_tokens: int) -> int:
        """Most that a call with at most these tokens can cost, in picodollars."""
        return input_tokens * max(self.input, self.cached_input) + output_tokens * self.output


class Ledger:
    """Spent plus reserved never exceeds the limit, as long as no call costs more than its reservation.

    Args:
        limit: the budget in picodollars.
        spent: what earlier runs have spent of it.
    """

    def __init__(self, limit: int, spent: int = 0) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = 0

    def reserve(self, amount: int) -> bool:
        """Set ``amount`` aside; False, and nothing set aside, if it does not fit any more."""
        if self.spent + self.reserved + amount > self.limit:
            return False
        self.reserved += amount
        return True

    def settle(self, reserved: int, actual: int) -> None:
        """Replace a reservation by what the call did cost (0 if it was not billed)."""
        self.reserved -= reserved
        self.spent += actual


def price_of(model: str, input_usd_per_million: float | None, output_usd_per_million: float | None) -> Price:
    """The price of ``model``: the given figures, else the price table's.

    Raises:
        ConfigError: the model is not in the table and no price is given.
    """
    listed = _table().get(model) or _table().get(_DATED.sub("", model))
    if listed is None and (input_usd_per_million is None or output_usd_per_million is None):
        raise ConfigError(
            f"The price of the model {model!r} is not known, so the budget cannot be kept. Set "
            "generation.input_usd_per_million and generation.output_usd_per_million (USD per million tokens; "
            f"0 for a model that costs nothing). Models with a known price: {', '.join(sorted(_table()))}."
        )
    if input_usd_per_million is not None:
        paid = cached = _per_token(input_usd_per_million)
    else:
        assert listed is not None
        paid = _per_token(listed.input)
        cached = paid if listed.cached_input is None else _per_token(listed.cached_input)
    output = output_usd_per_million if output_usd_per_million is not None else listed.output if listed else 0.0
    return Price(input=paid, cached_input=cached, output=_per_token(output))


def to_picodollars(usd: float) -> int:
    """A sum in US dollars as whole picodollars, rounded down."""
    return int((Decimal(str(usd)) * PICODOLLARS).to_integral_value(ROUND_FLOOR))


def input_token_bound(body: bytes, messages: int) -> int:
    """A number of input tokens that no tokenizer exceeds for a request body with that many messages.

    Every token stands for at least one UTF-8 byte, and a chat template adds a
    few tokens a message. The bound is three to five times the real number; it
    serves reservations, which are given back after each call, not estimates.
    """
    return len(body) + _MESSAGE_OVERHEAD * (messages + 1)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    input: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    output: float = Field(ge=0)
    date: date
    source: str


@functools.cache
def _table() -> dict[str, _Row]:
    data: Any = yaml.safe_load(resources.files("synthie.llm").joinpath("prices.yaml").read_text(encoding="utf-8"))
    return {row.model: row for row in TypeAdapter(list[_Row]).validate_python(data)}


def _per_token(usd_per_million: float) -> int:
    return int((Decimal(str(usd_per_million)) * (PICODOLLARS // 10**6)).to_integral_value(ROUND_CEILING))
