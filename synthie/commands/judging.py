"""What the command ``synthie judge`` shows: the estimates as tables."""

from __future__ import annotations

from typing import Any

import typer

__all__ = ["print_estimates"]


def print_estimates(estimates: dict[str, Any] | None) -> None:
    """The content of ``estimates.json``; None: nobody has judged."""
    if estimates is None:
        typer.echo("Nobody is asked to judge. Name judges, such as --set judge.judges=[llm].")
        return
    from synthie.commands.kg_output import print_tables
    from synthie.judging.tables import estimates_tables, headline

    print_tables(headline(estimates), estimates_tables(estimates))
