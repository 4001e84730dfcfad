"""The commands ``synthie dataset …``: build the data set of a run, export it, import others' data, push to the hub."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthie.commands.command import (
    DEFAULT_RUN,
    ConfigOption,
    QuietGroup,
    RunFolder,
    RunOption,
    SetOption,
    do_stage,
    find_stage,
    plan_run,
    progress_bar,
)

if TYPE_CHECKING:
    from kg.stage import Manifest

__all__ = ["dataset_app"]

dataset_app = typer.Typer(
    cls=QuietGroup,
    help="Publish the accepted texts as a data set (Parquet, JSONL, card); export it, import others' data, push to the "
    "hub.",
    invoke_without_command=True,
    rich_markup_mode="rich",
)


class ExportForm(StrEnum):
    chat = "chat"
    synthie = "synthie"
    rebel = "rebel"


class ImportForm(StrEnum):
    synthie = "synthie"
    rebel = "rebel"


class Target(StrEnum):
    json = "json"
    fully_expanded = "fully_expanded"
    subject_collapsed = "subject_collapsed"


class Unknown(StrEnum):
    triplet = "triplet"
    record = "record"


DatasetFolder = Annotated[
    Path | None, typer.Option("--dataset", help="Folder of the data set (default: that of the run).")
]


@dataset_app.callback()
def _build(context: typer.Context, config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Publish the accepted texts as a data set (Parquet, JSONL, card).

    Example: synthie dataset --set dataset.withheld_share=0.1
    """
    if context.invoked_subcommand is None:
        do_stage(plan_run(config, set_, run), find_stage("dataset"))


@dataset_app.command("export")
def _export(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    form: Annotated[ExportForm, typer.Option("--form", help="chat: messages for fine-tuning.")] = ExportForm.chat,
    run: RunFolder = DEFAULT_RUN,
    dataset: DatasetFolder = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")] = None,
    target: Annotated[
        Target, typer.Option("--target", help="How the assistant of a chat writes triplets: JSON lines, or a sequence.")
    ] = Target.json,
    system: Annotated[
        Path | None, typer.Option("--system", help="File with the system message of the chats.", dir_okay=False)
    ] = None,
    compress: Annotated[bool, typer.Option("--gzip", help="Write .jsonl.gz.")] = False,
) -> None:
    """Write a data set in a form of others, one JSONL file a split.

    Example: synthie dataset export --form chat --out data/chat
    """
    from synthie.errors import InputError
    from synthie.exchange.exporting import export

    told = None
    if system is not None:
        try:
            told = system.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InputError(f"Cannot read the system message {system}: {error.strerror}.") from error
        if not told:
            raise InputError(f"The system message {system} is empty. Write one, or leave out --system.")
    counts = export(
        dataset or run / "dataset",
        out,
        form.value,
        target=target.value,
        system=told,
        splits=split or (),
        compress=compress,
    )
    for name, count in counts.items():
        typer.echo(f"{out / name}: {count:,} records")


@dataset_app.command("import")
def _import(
    files: Annotated[list[Path], typer.Argument(help="JSONL files, plain or .gz.", dir_okay=False)],
    form: Annotated[ImportForm, typer.Option("--form", help="Form of the files.")],
    run: Annotated[Path, typer.Option("--run", "-r", help="Folder of the run that shall have the data set.")],
    kg: Annotated[Path | None, typer.Option("--kg", help="Folder of the graph (default: that of the run).")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the data set (default: the run's).")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name on the card (default: the form).")] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence identifier for the card.")] = "unknown",
    split: Annotated[str | None, typer.Option("--split", help="Split of all files; else their names tell.")] = None,
    unknown: Annotated[
        Unknown,
        typer.Option("--unknown", help="What is left out where the graph lacks an id: the triplet or the record."),
    ] = Unknown.triplet,
) -> None:
    """Make a data set of SynthIE's or REBEL's files, to train on and predict.

    Example: synthie dataset import train.jsonl.gz val.jsonl.gz --form synthie --run data/runs/original
    """
    from synthie.errors import ConfigError
    from synthie.exchange.importing import import_records
    from synthie.records import SPLITS

    if split is not None and split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; --split is one of {', '.join(SPLITS)}.")
    target = out or run / "dataset"
    with progress_bar("import") as progress:
        manifest = import_records(
            files,
            form.value,
            kg or run / "kg",
            target,
            name=name or form.value,
            licence=licence,
            split=split,
            unknown=unknown.value,
            progress=progress,
        )
    _tell_import(manifest, target)


@dataset_app.command("push")
def _push(
    repository: Annotated[str, typer.Argument(help="NAME/DATASET on the hub.")],
    run: RunFolder = DEFAULT_RUN,
    dataset: DatasetFolder = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; else it is private.")] = False,
) -> None:
    """Upload a data set to the Hugging Face hub, with the token in HF_TOKEN.

    Files that the hub has already are not uploaded again. HF_ENDPOINT names another hub.

    Example: HF_TOKEN=… synthie dataset push me/my-data
    """
    from synthie.exchange.hub import push

    pushed = push(dataset or run / "dataset", repository, private=not public)
    version = f"version {pushed.version}, " if pushed.version else ""
    typer.echo(f"{pushed.url}: {version}{pushed.files:,} files, {pushed.uploaded:,} of them new")


def _tell_import(manifest: Manifest, target: Path) -> None:
    counts = manifest.counts
    records = ", ".join(f"{split} {count:,}" for split, count in counts["records"].items())
    typer.echo(f"import: {records} records, in {target}{' (already done)' if manifest.reused else ''}")
    if counts["bad_lines"]:
        typer.echo(
            f"{counts['bad_lines']:,} lines could not be read: {target / 'bad_lines.jsonl'} names them.", err=True
        )
    if counts["unknown_triplets"]:
        typer.echo(
            f"{counts['unknown_triplets']:,} triplets are not of the graph; {counts['left_out']:,} records were left "
            f"out. {target / 'statistics.json'} tells why, under 'import'.",
            err=True,
        )
