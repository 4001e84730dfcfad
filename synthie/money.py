"""Sums of money as people expect to read them."""

from __future__ import annotations

import math

__all__ = ["usd"]

_CENTS = 2
_DECIMALS_BELOW_ONE = 4


def usd(amount: float) -> str:
    """A sum of US dollars: cents from one dollar up, four decimals below, two digits of what is smaller still.

    >>> usd(1234.56), usd(12.3), usd(0.0123), usd(0.5), usd(0.0000123), usd(0)
    ('$1,234.56', '$12.30', '$0.0123', '$0.50', '$0.000012', '$0.00')
    """
    size = abs(amount)
    decimals = _CENTS
    if 0 < size < 1:
        decimals = max(_DECIMALS_BELOW_ONE, 1 - math.floor(math.log10(size)))
        size = round(size, decimals)
        shown = f"{size:.{decimals}f}".rstrip("0")
        decimals = max(_CENTS, len(shown) - shown.index(".") - 1)
    return f"{'-' if amount < 0 else ''}${size:,.{decimals}f}"
