"""The command ``synthie browse``: read, compare and judge texts on a page of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthie.commands.command import DEFAULT_RUN, progress_bar
from synthie.errors import ConfigError, storage_error

__all__ = ["browse"]

_PORT = 8020


def browse(
    what: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run or data set, or a .parquet or .jsonl file.")
    ] = DEFAULT_RUN,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OTHER", help="Another one, to read the same sets side by side.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 chooses a free one.")] = _PORT,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the verdicts given by hand (.csv or .jsonl), and end."),
    ] = None,
) -> None:
    """Read the texts of a run, search and compare them, and accept or reject them by hand.

    The page is served to this machine alone; verdicts are kept in the run, and the data set heeds them.

    Examples: synthie browse data/runs/demo · synthie browse RUN --compare OTHER · synthie browse RUN --export mine.csv
    """
    if export is not None:
        if compare is not None:
            raise ConfigError("--export writes the verdicts on one run or file; name the other in a call of its own.")
        _export(what, export)
        return
    from synthie.browse.desk import Desk
    from synthie.browse.server import BrowseServer, listen
    from synthie.browse.sources import open_source

    listener = listen(port)
    source, other = open_source(what), open_source(compare) if compare else None
    with progress_bar("read the records") as progress:
        desk = Desk(source, other, lambda done, total: progress(done, total, "records"))
    server = BrowseServer(desk, listener)
    typer.echo(f"Browse {what} at {server.url} (Ctrl-C stops)")
    if open_:
        typer.launch(server.url)
    server.run()


def _export(what: Path, file: Path) -> None:
    from synthie.browse.desk import Desk
    from synthie.browse.server import export_lines
    from synthie.browse.sources import open_source

    ending = file.suffix.removeprefix(".")
    if ending not in ("csv", "jsonl"):
        raise ConfigError(f"{file} has no ending that tells the form. Name a .csv or .jsonl file.")
    desk = Desk(open_source(what))
    try:
        with file.open("w", encoding="utf-8", newline="") as out:
            out.writelines(export_lines(desk.export(), ending))
    except OSError as error:
        raise storage_error(error, file.parent) or error from error
    count = len(desk.sides[0].verdicts.current())
    typer.echo(f"{file}: {count:,} verdict{'' if count == 1 else 's'}")
