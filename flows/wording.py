"""Figures of a run in words, for who reads them in Prefect's UI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from synthie.money import usd

__all__ = ["duration", "progress_line", "table"]

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def progress_line(title: str, done: int, total: int | None, unit: str, details: Mapping[str, Any]) -> str:
    """What a `kg.stage.Progress` was told, as one line.

    >>> progress_line("write texts", 1_200, 5_000, "texts", {"rate": 40.0, "usd": 0.4, "errors": {"429": 8}})
    'write texts: 1,200 of 5,000 texts, 40 a second, 2 min left, $0.40 spent; 8 errors (8 × 429)'
    """
    line = f"{title}: {done:,}{f' of {total:,}' if total else ''} {unit}"
    rate = details.get("rate")
    if rate:
        line += f", {rate:,.3g} a second"
        if total and done < total:
            line += f", {duration(details.get('eta_s') or (total - done) / rate)} left"
    for name, value in details.items():
        if name == "projected_usd" and done == total:
            continue
        if name in _WORDS:
            line += f", {_WORDS[name](value)}"
        elif name not in ("rate", "eta_s", "errors"):
            line += f", {name.replace('_', ' ')} {_readable(value)}"
    errors = details.get("errors")
    if errors:
        kinds = ", ".join(f"{count:,} × {kind}" for kind, count in errors.items())
        number = sum(errors.values())
        line += f"; {number:,} {'error' if number == 1 else 'errors'} ({kinds})"
    return line


def duration(seconds: float) -> str:
    """A time span, rounded to what a person wants to know.

    >>> [duration(seconds) for seconds in (0.4, 59, 125, 5_400, 200_000)]
    ['1 s', '59 s', '2 min', '1 h 30 min', '2 d 7 h']
    """
    if seconds < _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
    return f"{seconds // _DAY:.0f} d {seconds % _DAY // _HOUR:.0f} h"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


_WORDS: dict[str, Callable[[Any], str]] = {
    "usd": lambda value: f"{usd(value)} spent",
    "projected_usd": lambda value: f"about {usd(value)} in the end",
    "tokens": lambda value: f"{value:,} tokens",
}
