"""The command line ``synthie``: one command a stage, the same functions as the flows.

Every command that belongs to a run takes ``--config FILE`` (YAML), ``--set
section.field=value`` and ``--run FOLDER``; errors are one paragraph on standard
error and a non-zero exit code. Stages are imported when they run, so that
``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Annotated

import typer

from synthie.commands.browse import browse
from synthie.commands.command import (
    ConfigOption,
    QuietGroup,
    RunOption,
    SetOption,
    cancel_batches_of,
    do_stage,
    find_stage,
    plan_run,
    progress_bar,
)
from synthie.commands.dataset import dataset_app
from synthie.commands.extract import extract, serve_extractor
from synthie.commands.journal import journal_app
from synthie.commands.judging import judge
from synthie.commands.kg import kg_app
from synthie.commands.prompt import prompt_app
from synthie.commands.score import score
from synthie.commands.status import show_status
from synthie.commands.world import world_app
from synthie.errors import InputError, SynthieError

__all__ = ["app", "main"]

app = typer.Typer(
    cls=QuietGroup,
    help="Knowledge graph → triplet sets → texts by an LLM → checked data set → extractor → report.\n\n"
    "Start with [bold]synthie demo[/bold], or one stage at a time: kg build, sample, estimate, generate, dataset, "
    "train, predict, evaluate, extract. All commands of one run share its folder (--run) and configuration (--config).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(kg_app, name="kg")
app.add_typer(dataset_app, name="dataset")
app.add_typer(journal_app, name="journal")
app.add_typer(prompt_app, name="prompt")
app.add_typer(world_app, name="world")


def main() -> None:
    """Entry point: turns the project's errors into a paragraph and an exit code."""
    try:
        app()
    except SynthieError as error:
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(error.exit_code)


@app.callback()
def _configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the stages do.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s", force=True
    )


@app.command()
def demo(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Run all stages, one after the other, on the bundled sample (or on what --config says)."""
    from synthie.pipeline import STAGES

    plan = plan_run(config, set_, run)
    for stage in STAGES:
        do_stage(plan, stage)
    typer.echo(f"Report: {plan.report / 'report.html'}")


@app.command()
def sample(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Draw triplet sets that cover the graph, and show how well they do.

    Example: synthie sample --set sampling.n_sets=5000
    """
    from synthie.commands.kg_output import print_coverage

    plan = plan_run(config, set_, run)
    do_stage(plan, find_stage("sets"))
    print_coverage(json.loads((plan.sets / "coverage.json").read_bytes()))


@app.command()
def estimate(
    config: ConfigOption = None,
    set_: SetOption = None,
    run: RunOption = None,
    pilot: Annotated[
        int, typer.Option(min=0, max=1_000, help="Ask for about this many texts first, and measure; they are kept.")
    ] = 0,
) -> None:
    """Say what generating the texts will cost, before anything is spent.

    Example: synthie estimate --pilot 20
    """
    from synthie.money import usd

    plan = plan_run(config, set_, run)
    with progress_bar("ask for a few texts") as progress:
        told = plan.estimate_cost(pilot, progress)
    typer.echo(str(told))
    typer.echo(f"The run's limit is {usd(plan.config.max_usd)} (--set max_usd=…).")


@app.command()
def generate(
    config: ConfigOption = None,
    set_: SetOption = None,
    run: RunOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again also for texts that the endpoint refused for good.")
    ] = False,
    cancel_batches: Annotated[
        bool, typer.Option("--cancel-batches", help="Cancel the batches under way, and ask for nothing.")
    ] = False,
) -> None:
    """Have the LLM write a text for each set, and check it.

    Stop it at any time and start it again: paid responses are kept and never asked for twice.
    """
    # Arrow's own allocators keep 30 MB more; they are chosen when it is loaded.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    plan = plan_run(config, [*(set_ or []), *(["generation.retry_failed=true"] if retry_failed else [])], run)
    if cancel_batches:
        cancel_batches_of(plan, "texts")
        return
    do_stage(plan, find_stage("texts"))


app.command("status")(show_status)
app.command("browse")(browse)
app.command("judge")(judge)


@app.command()
def train(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Train the extractor on the data set.

    Example: synthie train --config data/configs/flan-t5-base.yaml
    """
    do_stage(plan_run(config, set_, run), find_stage("extractor"))


@app.command()
def predict(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Extract the triplets of the test split, with and without the constraint."""
    do_stage(plan_run(config, set_, run), find_stage("predictions"))


@app.command()
def evaluate(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Compare the predictions with the test split and write the report."""
    plan = plan_run(config, set_, run)
    do_stage(plan, find_stage("report"))
    typer.echo(f"Report: {plan.report / 'report.html'}")


app.command("score")(score)
app.command("extract")(extract)
app.command("serve-extractor")(serve_extractor)


@app.command()
def config() -> None:
    """Print every option of a run, with its default and meaning (Markdown)."""
    from synthie.config import describe_options

    typer.echo(describe_options())


@app.command("llm-server")
def llm_server(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8010,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Serve the built-in rule-made "model" through the OpenAI protocol, to try pipelines without an LLM.

    Example: synthie llm-server --set generation.local.rate_429=0.1
    """
    from synthie.llm.local import serve

    key = None
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise InputError(f"The environment variable {api_key_env} is empty. Set it to the key clients must send.")
    serve(plan_run(config, set_, None).config.generation.local, host=host, port=port, api_key=key)


if __name__ == "__main__":
    main()
