"""What all commands share: their options, and how a stage is run in front of a person.

A command takes ``--config``, ``--set`` and ``--run``, `plan_run` makes a run of
them, `do_stage` runs one stage of it with a progress bar and a closing line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from kg.stage import Progress
    from synthie.pipeline import Run, Stage

__all__ = [
    "DEFAULT_RUN",
    "ConfigOption",
    "QuietGroup",
    "RunFolder",
    "RunOption",
    "SetOption",
    "cancel_batches_of",
    "do_stage",
    "find_stage",
    "plan_run",
    "progress_bar",
]

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
_TELL_SECONDS = 60  # between lines on how far a stage is, where there is no bar
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_STOPPED_READING = 141  # 128 + SIGPIPE


class QuietGroup(TyperGroup):
    """Commands that end without a word when nobody reads the output any more (``| head``)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # What is still in the buffer would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_STOPPED_READING) from None


def plan_run(config: Path | None, overrides: list[str] | None, run: str | None) -> Run:
    from synthie.config import load_config
    from synthie.pipeline import Run

    return Run(load_config(config, [*(overrides or []), *([f"run={json.dumps(run)}"] if run else [])]))


def find_stage(name: str) -> Stage:
    from synthie.pipeline import STAGES

    return next(stage for stage in STAGES if stage.name == name)


def do_stage(plan: Run, stage: Stage) -> None:
    try:
        with progress_bar(stage.title) as progress:
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
        totals = {
            name: value.get("total") if isinstance(value, dict) else value for name, value in manifest.counts.items()
        }
        figures = [f"{name} {value:,}" for name, value in totals.items() if isinstance(value, int) and value]
        told = ", ".join([f"{manifest.seconds:.1f} s", *figures])
        typer.echo(f"{stage.title}: {told}, in {plan.folder / stage.name}")


def cancel_batches_of(plan: Run, stage: Literal["texts", "judge"]) -> None:
    """Cancel a stage's batches under way, and say how many there were."""
    count = plan.cancel_batches(stage)
    kept = "; what they have answered is fetched by the next run" if count else ""
    typer.echo(f"{count or 'No'} batch{'es' if count != 1 else ''} cancelled{kept}.")


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        "[bold]{task.description}",
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[details]}"),
    )
    console = Console(stderr=True)
    # Slices finish minutes apart, so the speed is that of the last five minutes.
    # Where nobody watches, such as in a log, a bar would only leave empty lines.
    with Bar(
        *columns, console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=300
    ) as bar:
        task = bar.add_task(title, total=None, details="", count="")
        told = time.monotonic()

        def show(done: int, total: int | None, unit: str, **details: Any) -> None:
            if console.is_terminal:
                details.pop("eta_s", None)  # the bar tells it
            words = "  ".join(_shown(name, value) for name, value in details.items())
            count = " of ".join(_amount(number, unit) for number in (done, total) if number is not None)
            bar.update(task, completed=done, total=total, count=count, details=words)
            nonlocal told
            if not console.is_terminal and time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                typer.echo(f"{title}: {count}  {words}", err=True)

        yield show


def _shown(name: str, value: Any) -> str:
    from synthie.money import usd

    if name == "usd":
        return usd(value)
    if name == "projected_usd":
        return f"of about {usd(value)}"
    if name == "eta_s":
        return f"{value / 60:,.0f} min left"
    if isinstance(value, dict):
        return f"{name} " + ", ".join(f"{count:,} × {kind}" for kind, count in value.items())
    if isinstance(value, float):
        return f"{name} {value:.4g}"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"


def _amount(number: int, unit: str) -> str:
    from rich.filesize import decimal

    return decimal(number) if unit == "bytes" else f"{number:,} {unit}"
