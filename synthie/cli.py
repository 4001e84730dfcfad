"""The command line ``synthie``: one command a stage, the same functions as the flows.

Every command that belongs to a run takes ``--config FILE`` (YAML), ``--set
section.field=value`` and ``--run FOLDER``; errors are one paragraph on standard
error and a non-zero exit code. Stages are imported when they run, so that
``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthie.errors import InputError, SynthieError

if TYPE_CHECKING:
    from kg.stage import Progress
    from synthie.pipeline import Run, Stage
    from synthie.records import Prediction

__all__ = ["app", "main"]

app = typer.Typer(
    help="Knowledge graph → triplet sets → texts by an LLM → checked data set → extractor → report.\n\n"
    "Start with [bold]synthie demo[/bold], or one stage at a time: kg build, sample, estimate, generate, dataset, "
    "train, predict, evaluate, extract. All commands of one run share its folder (--run) and configuration (--config).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
kg_app = typer.Typer(help="Build and look at the knowledge graph.", no_args_is_help=True)
app.add_typer(kg_app, name="kg")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file with the run's options; see data/configs/.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="SECTION.FIELD=VALUE", help="Override one option; may be repeated."),
]
RunOption = Annotated[str | None, typer.Option("--run", "-r", help="Folder of the run (default: the configuration's).")]
RunFolder = Annotated[Path, typer.Option("--run", "-r", help="Folder of the run.")]
DEFAULT_RUN = Path("data/runs/demo")
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


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

    plan = _run(config, set_, run)
    for stage in STAGES:
        _do(plan, stage)
    typer.echo(f"Report: {plan.report / 'report.html'}")


@kg_app.command("build")
def kg_build(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Turn a Wikidata dump into a graph folder.

    Example: synthie kg build --set kg.dump=latest-all.json.gz --run data/runs/wikidata
    """
    _do(_run(config, set_, run), _stage("kg"))


@kg_app.command("info")
def kg_info(run: RunFolder = DEFAULT_RUN) -> None:
    """Print counts, degrees and the most frequent relations of a run's graph."""
    from kg.graph import KnowledgeGraph, graph_summary

    typer.echo(json.dumps(graph_summary(KnowledgeGraph.open(run / "kg")), indent=2, ensure_ascii=False))


@kg_app.command("show")
def kg_show(
    node_id: Annotated[str, typer.Argument(metavar="ID", help="Such as Q64.")], run: RunFolder = DEFAULT_RUN
) -> None:
    """Print what the graph knows of one node: its names and its triplets."""
    from kg.graph import KnowledgeGraph

    graph = KnowledgeGraph.open(run / "kg")
    node = graph.node(node_id)
    typer.secho(f"{node.id}  {node.label}", bold=True)
    typer.echo(f"{node.description or '(no description)'}\nalso: {', '.join(node.aliases) or '–'}")
    for _, target, relation in graph.out_edges(node_id, keys=True):
        typer.echo(f"  {graph.relation(relation).label} → {graph.node(target).label} ({relation}, {target})")
    for source, _, relation in graph.in_edges(node_id, keys=True):
        typer.echo(f"  ← {graph.relation(relation).label} of {graph.node(source).label} ({relation}, {source})")


@app.command()
def sample(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Draw triplet sets that cover the graph.

    Example: synthie sample --set sampling.n_sets=5000
    """
    _do(_run(config, set_, run), _stage("sets"))


@app.command()
def estimate(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Say what generating the texts will cost, before anything is spent."""
    from synthie.generate import estimate_cost

    plan = _run(config, set_, run)
    typer.echo(str(estimate_cost(plan.config.generation, plan.kg, plan.sets)))
    typer.echo(f"The run's limit is ${plan.config.max_usd:,.2f} (--set max_usd=…).")


@app.command()
def generate(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Have the LLM write a text for each set, and check it.

    Stop it at any time and start it again: paid responses are kept and never asked for twice.
    """
    _do(_run(config, set_, run), _stage("texts"))


@app.command()
def dataset(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Publish the accepted texts as a data set (Parquet, JSONL, card)."""
    _do(_run(config, set_, run), _stage("dataset"))


@app.command()
def train(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Train the extractor on the data set.

    Example: synthie train --config data/configs/flan-t5-base.yaml
    """
    _do(_run(config, set_, run), _stage("extractor"))


@app.command()
def predict(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Extract the triplets of the test split, with and without the constraint."""
    _do(_run(config, set_, run), _stage("predictions"))


@app.command()
def evaluate(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Compare the predictions with the test split and write the report."""
    plan = _run(config, set_, run)
    _do(plan, _stage("report"))
    typer.echo(f"Report: {plan.report / 'report.html'}")


@app.command()
def extract(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; none: one text a line from standard input.")] = None,
    run: RunFolder = DEFAULT_RUN,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
    beams: Annotated[int, typer.Option(min=1, max=100, help="Beams of the search.")] = 5,
    constrained: Annotated[
        bool, typer.Option(help="Allow only the graph's entities and relations in the output.")
    ] = True,
) -> None:
    """Find the triplets that a text states, with the trained extractor of a run.

    Example: synthie extract "Albert Einstein was born in Ulm."
    """
    from synthie.extractor.predict import Extractor

    inputs = [text.strip() for text in texts or sys.stdin if text.strip()]
    if not inputs:
        raise InputError("There is no text to extract from. Give one as an argument or on standard input.")
    extractor = Extractor.open(run / "extractor")
    for text, prediction in zip(inputs, extractor.extract(inputs, beams=beams, constrained=constrained), strict=True):
        typer.echo(_as_json(text, prediction) if json_lines else _as_lines(text, prediction))


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
    import os

    from synthie.llm.local import serve

    key = None
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise InputError(f"The environment variable {api_key_env} is empty. Set it to the key clients must send.")
    serve(_run(config, set_, None).config.generation.local, host=host, port=port, api_key=key)


def _run(config: Path | None, overrides: list[str] | None, run: str | None) -> Run:
    from synthie.config import load_config
    from synthie.pipeline import Run

    return Run(load_config(config, [*(overrides or []), *([f"run={json.dumps(run)}"] if run else [])]))


def _stage(name: str) -> Stage:
    from synthie.pipeline import STAGES

    return next(stage for stage in STAGES if stage.name == name)


def _do(plan: Run, stage: Stage) -> None:
    try:
        with _progress_bar(stage.title) as progress:
            manifest = stage.run(plan, progress)
    except KeyboardInterrupt:
        typer.secho(
            f"Interrupted: {stage.title}. Finished stages, paid responses and checkpoints are kept in {plan.folder}; "
            "run the same command again to go on from there.",
            err=True,
        )
        raise typer.Exit(_INTERRUPTED) from None
    if manifest.reused:
        typer.echo(f"{stage.title}: already done in {plan.folder / stage.name}")
    else:
        figures = ", ".join(f"{name} {value:,}" for name, value in manifest.counts.items() if isinstance(value, int))
        typer.echo(f"{stage.title}: {manifest.seconds:.1f} s, {figures}")


@contextmanager
def _progress_bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        "[bold]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    details_column = TextColumn("{task.fields[details]}")
    # Where nobody watches, such as in a log, a bar would only leave empty lines.
    with Bar(*columns, details_column, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, details="")

        def show(done: int, total: int | None, unit: str, **details: Any) -> None:
            words = " ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in details.items()
            )
            bar.update(task, completed=done, total=total, description=f"{title} ({unit})", details=words)

        yield show


def _as_json(text: str, prediction: Prediction) -> str:
    triplets = [triplet.to_record() for triplet in prediction.triplets]
    return json.dumps({"text": text, "triplets": triplets, "score": round(prediction.score, 4)}, ensure_ascii=False)


def _as_lines(text: str, prediction: Prediction) -> str:
    lines = [text]
    for triplet in prediction.triplets:
        parts = (triplet.subject, triplet.predicate, triplet.object)
        lines.append("  " + " | ".join(f"{part.surfaceform} ({part.uri or 'not in the graph'})" for part in parts))
    if not prediction.triplets:
        lines.append("  (no triplets)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
