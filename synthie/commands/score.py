"""The command ``synthie score``: prediction files of any systems against gold, in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["score"]


def score(
    pred: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]FILE", help="Predictions; may be repeated to compare systems."),
    ],
    gold: Annotated[Path | None, typer.Option(help="Gold sets; not needed where the predictions hold them.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    train: Annotated[Path | None, typer.Option(help="Training records: frequency buckets, seen and unseen.")] = None,
    related: Annotated[
        Path | None, typer.Option(help="Lines with a relation and its parent: credit for related relations.")
    ] = None,
    by: Annotated[str, typer.Option(help="What makes nodes equal: auto, id or name.")] = "auto",
    form: Annotated[
        str, typer.Option(help="Linearized strings: auto, fully_expanded, fully_expanded_et or subject_collapsed.")
    ] = "auto",
    missing: Annotated[str, typer.Option(help="Records that predictions lack: refuse, empty or skip.")] = "refuse",
    bootstrap: Annotated[int, typer.Option(min=2, help="Bootstrap resamples for the intervals.")] = 50,
    confidence: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    significance: Annotated[int, typer.Option(min=0, help="Resamples of the paired test; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first resample.")] = 0,
) -> None:
    """Score files of predictions against gold, and write a report that compares them.

    Reads our predictions, the original's (id, input, target, prediction), triplet lists of any system, REBEL and
    WebNLG. Example: synthie score --gold test.jsonl --pred ours=a.jsonl --pred theirs=b.jsonl --out comparison
    """
    from synthie.config import EvaluationConfig
    from synthie.errors import ConfigError
    from synthie.evaluate import read_links
    from synthie.evaluation.linearized import FORMS
    from synthie.evaluation.scoring import score_files

    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence is {confidence:g}, but must lie between 0 and 1, such as 0.95.")
    metrics = score_files(
        EvaluationConfig(bootstrap=bootstrap, confidence=confidence, significance=significance),
        _systems(pred),
        out,
        gold=gold,
        training=train,
        links=read_links(related) if related else None,
        by=_choice("by", by, ("id", "name")),
        form=_choice("form", form, FORMS),
        missing=_choice("missing", missing, ("refuse", "empty", "skip"), auto=False),
        seed=seed,
    )
    _print(metrics)
    typer.echo(f"Report: {out / 'report.html'}")


def _systems(given: list[str]) -> dict[str, Path]:
    """Name -> file; a folder of our predictions stands for both of its files."""
    from synthie.errors import ConfigError

    systems: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        file = Path(path if equals else text)
        label = name if equals else file.name.split(".")[0]
        both = [file / f"{mode}.parquet" for mode in ("constrained", "unconstrained")]
        new = (
            {part.stem if not equals else f"{label} {part.stem}": part for part in both}
            if all(part.exists() for part in both)
            else {label: file}
        )
        for system, place in new.items():
            if system in systems:
                raise ConfigError(f"Two files are called {system!r}. Name them: --pred one={systems[system]} …")
            systems[system] = place
    return systems


def _choice(option: str, value: str, choices: tuple[str, ...], *, auto: bool = True) -> Any:
    """The value, or None for auto."""
    from synthie.errors import ConfigError

    if auto and value == "auto":
        return None
    if value not in choices:
        allowed = ", ".join((*(("auto",) if auto else ()), *choices))
        raise ConfigError(f"--{option} is {value!r}; choose one of {allowed}.")
    return value


def _print(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "micro P", "R", "F1", "macro P", "R", "F1", "exact sets", box=None)
    for name, figures in metrics["modes"].items():
        cells = [
            figures[level][part]["value"] for level in ("micro", "macro") for part in ("precision", "recall", "f1")
        ]
        table.add_row(name, *(f"{100 * value:.2f}" for value in (*cells, figures["exact"]["value"])))
    console = Console()
    console.print(table)
    for row in metrics["comparisons"]:
        if row["measure"] != "exact":
            console.print(
                f"{row['second']} − {row['first']}, {row['measure'].replace('_f1', ' F1')}: "
                f"{100 * row['difference']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}), "
                f"p {row['p']:.3f}",
                highlight=False,
            )
