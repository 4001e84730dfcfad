"""The commands ``synthie journal …``: make the store of paid responses small, or hand it out."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from synthie.commands.command import DEFAULT_RUN, RunFolder, progress_bar
from synthie.errors import storage_error
from synthie.money import usd

if TYPE_CHECKING:
    from synthie.llm.journal import Record

__all__ = ["journal_app"]

journal_app = typer.Typer(help="Compact or export the paid responses of a run.", no_args_is_help=True)


@journal_app.command("compact")
def compact(run: RunFolder = DEFAULT_RUN) -> None:
    """Pack the stored responses into one Parquet file that runs and data tools read alike.

    Example: synthie journal compact --run data/runs/wikidata
    """
    from rich.filesize import decimal

    from synthie.llm.compaction import compact

    with progress_bar("compact the journal") as progress:
        done = compact(run / "texts" / "journal", progress)
    typer.echo(
        f"{done.rows:,} responses, {usd(done.spent / 1e12)} in all: {decimal(done.bytes_before)} became "
        f"{decimal(done.bytes_after)}."
    )


@journal_app.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write (JSON lines); - is standard output.")],
    run: RunFolder = DEFAULT_RUN,
) -> None:
    """Write every stored response as a JSON line, in the order in which they came; also while a run writes.

    Examples: synthie journal export responses.jsonl · synthie journal export - | jq -r .text
    """
    from synthie.llm.compaction import read_records

    records = read_records(run / "texts" / "journal")
    count = 0
    try:
        with nullcontext(sys.stdout.buffer) if str(out) == "-" else out.open("wb") as file:
            for record in records:
                _write(file, record)
                count += 1
    except BrokenPipeError:
        raise
    except OSError as error:
        raise storage_error(error, out.parent) or error from error
    typer.echo(f"{out}: {count:,} responses", err=str(out) == "-")


def _write(file: BinaryIO, record: Record) -> None:
    import msgspec

    fields = msgspec.structs.asdict(record)
    line = {"key": record.key.hex(), "usd": record.cost / 1e12} | {
        name: value for name, value in fields.items() if name not in ("key", "cost")
    }
    file.write(msgspec.json.encode(line) + b"\n")
