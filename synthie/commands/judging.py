"""The command ``synthie judge``: has the texts judged, and shows the estimates as tables."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from synthie.commands.command import (
    ConfigOption,
    RunOption,
    SetOption,
    cancel_batches_of,
    do_stage,
    find_stage,
    plan_run,
)

__all__ = ["judge"]


def judge(
    config: ConfigOption = None,
    set_: SetOption = None,
    run: RunOption = None,
    cancel_batches: Annotated[
        bool, typer.Option("--cancel-batches", help="Cancel the judge's batches under way, and ask for nothing.")
    ] = False,
) -> None:
    r"""Have a sample of the texts judged (an LLM, an extractor, an NLI model), and show what the data are worth.

    Example: synthie judge --set judge.judges=\[llm]
    """
    from synthie.judging.reading import estimates

    plan = plan_run(config, set_, run)
    if cancel_batches:
        cancel_batches_of(plan, "judge")
        return
    do_stage(plan, find_stage("judge"))
    _print_estimates(estimates(plan.judge))


def _print_estimates(estimates: dict[str, Any] | None) -> None:
    """The content of ``estimates.json``; None: nobody has judged."""
    if estimates is None:
        typer.echo("Nobody is asked to judge. Name judges, such as --set judge.judges=[llm].")
        return
    from synthie.commands.kg_output import print_tables
    from synthie.judging.tables import estimates_tables, headline

    print_tables(headline(estimates), estimates_tables(estimates))
