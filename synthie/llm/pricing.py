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

from synthie.errors import BudgetError, ConfigError

__all__ = [
    "PICODOLLARS",
    "Ledger",
    "Price",
    "Usage",
    "batch_discount_of",
    "budget_error",
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

    def discounted(self, share: float) -> Price:
        """This price less ``share`` (0 to 1) of it, each figure rounded up to whole picodollars."""
        rest = 1 - Decimal(str(share))
        return Price(*(_whole(figure * rest) for figure in (self.input, self.cached_input, self.output)))


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

    def commit(self, amount: int) -> None:
        """Set ``amount`` aside for what is under way already and will be billed, whether it fits or not."""
        self.reserved += amount

    def settle(self, reserved: int, actual: int) -> None:
        """Replace a reservation by what the call did cost (0 if it was not billed)."""
        self.reserved -= reserved
        self.spent += actual


def budget_error(ledger: Ledger, worst: int) -> BudgetError:
    """Why a call that could cost ``worst`` picodollars is not made, and how to go on."""
    return BudgetError(
        f"The budget is used up: {ledger.spent / PICODOLLARS:.6f} of {ledger.limit / PICODOLLARS:.6f} USD are spent, "
        f"and the next call could cost up to {worst / PICODOLLARS:.6f} USD. Everything paid for is stored. Run again "
        "with a higher max_usd to go on from here; no stored text is asked for or paid again."
    )


def price_of(
    model: str,
    input_usd_per_million: float | None,
    output_usd_per_million: float | None,
    cached_input_usd_per_million: float | None = None,
) -> Price:
    """The price of ``model``: the given figures, else the price table's.

    Cached input has the given price, else the table's where the input's is the table's, else the input's.

    Raises:
        ConfigError: the model is not in the table and no price is given.
    """
    listed = _listed(model)
    if listed is None and (input_usd_per_million is None or output_usd_per_million is None):
        raise ConfigError(
            f"The price of the model {model!r} is not known, so the budget cannot be kept. Set "
            "generation.input_usd_per_million and generation.output_usd_per_million (USD per million tokens; "
            f"0 for a model that costs nothing). Models with a known price: {', '.join(sorted(_table()))}."
        )
    cached = cached_input_usd_per_million
    if input_usd_per_million is not None:
        paid = input_usd_per_million
    else:
        assert listed is not None
        paid = listed.input
        cached = listed.cached_input if cached is None else cached
    output = output_usd_per_million if output_usd_per_million is not None else listed.output if listed else 0.0
    return Price(
        input=_per_token(paid), cached_input=_per_token(paid if cached is None else cached), output=_per_token(output)
    )


def batch_discount_of(model: str, given: float | None) -> float:
    """Share of the price of ``model`` that the Batch API saves: the given one, else the price table's.

    Raises:
        ConfigError: the table does not tell it and none is given.
    """
    if given is not None:
        return given
    listed = _listed(model)
    if listed is None or listed.batch_discount is None:
        raise ConfigError(
            f"What the Batch API saves on the model {model!r} is not known, so the budget cannot be kept. Set "
            "generation.batch_discount (0.5 for half price, 0 for none)."
        )
    return listed.batch_discount


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
    batch_discount: float | None = Field(default=None, ge=0, le=1)
    date: date
    source: str


@functools.cache
def _table() -> dict[str, _Row]:
    data: Any = yaml.safe_load(resources.files("synthie.llm").joinpath("prices.yaml").read_text(encoding="utf-8"))
    return {row.model: row for row in TypeAdapter(list[_Row]).validate_python(data)}


def _listed(model: str) -> _Row | None:
    return _table().get(model) or _table().get(_DATED.sub("", model))


def _per_token(usd_per_million: float) -> int:
    return _whole(Decimal(str(usd_per_million)) * (PICODOLLARS // 10**6))


def _whole(picodollars: Decimal) -> int:
    return int(picodollars.to_integral_value(ROUND_CEILING))
