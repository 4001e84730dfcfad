"""The commands ``synthie world …``: the names that an extractor may write, built and looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthie.errors import ConfigError, InputError

if TYPE_CHECKING:
    from synthie.extractor.names import WorldNames

__all__ = ["world_app"]

world_app = typer.Typer(help="Build and look at the names that an extractor may write.", no_args_is_help=True)

_ENTITY_MAPPING, _RELATION_MAPPING = "entity_mapping.jsonl", "relation_mapping.jsonl"


@world_app.command("build")
def build(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the world goes.")],
    graph: Annotated[Path | None, typer.Option(help="Take the names of this graph folder (a run's kg/).")] = None,
    entities: Annotated[
        Path | None, typer.Option(help="List of entities: .tsv (id, tab, name), .jsonl, or .json (ids alone).")
    ] = None,
    relations: Annotated[Path | None, typer.Option(help="List of relations, in the same forms.")] = None,
    names: Annotated[
        Path | None,
        typer.Option(help=f"Folder with {_ENTITY_MAPPING} and {_RELATION_MAPPING}, the names of ids in .json lists."),
    ] = None,
    extractor: Annotated[
        Path | None, typer.Option(help="Trained extractor that shall write the names: its tokenizer, form and markers.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Instead of an extractor: folder or hub name of a base model.")
    ] = None,
    form: Annotated[
        Literal["fully_expanded", "subject_collapsed"], typer.Option(help="With --tokenizer: the linearization.")
    ] = "fully_expanded",
    written: Annotated[
        Literal["underscores", "spaces"], typer.Option(help="With --tokenizer: how names are written.")
    ] = "underscores",
) -> None:
    """Build a world from a graph or from lists of ids and names, for `synthie extract --world`.

    Example: synthie world build my-world --graph data/runs/demo/kg --extractor data/runs/demo/extractor

    Example: synthie world build my-world --entities people.tsv --relations relations.tsv --extractor my-extractor

    Example, with SynthIE's files: synthie world build genie --entities constrained_worlds/genie/entities.json
    --relations constrained_worlds/genie/relations.json --names id2name_mappings --tokenizer google/flan-t5-base
    """
    from synthie.extractor.building import build_like, build_with

    found = _names(graph, entities, relations, names)
    if (extractor is None) == (tokenizer is None):
        raise ConfigError("A world is written in some model's tokens: give --extractor or --tokenizer, one of the two.")
    if extractor is not None:
        world = build_like(extractor, found, folder)
    else:
        assert tokenizer is not None
        world = build_with(tokenizer, form, written, found, folder)
    typer.echo(f"World: {world.nodes.num_rows:,} nodes, {world.relations.num_rows:,} relations, in {folder}")


@world_app.command("info")
def info(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A world's or an extractor's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Print what a world holds: names, how many share their tokens, which cannot be written, sizes.

    Example: synthie world info data/runs/demo/extractor
    """
    from synthie.extractor.building import world_summary
    from synthie.extractor.world import World

    summary = world_summary(World.open(folder))
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False, indent=2))
        return
    for name, value in summary.items():
        shown = f"{value:,}" if isinstance(value, int) else ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"{name.replace('_', ' '):28} {shown}")


def _names(graph: Path | None, entities: Path | None, relations: Path | None, names: Path | None) -> WorldNames:
    from synthie.extractor.names import names_of_graph, names_of_lists

    if graph is not None and entities is None and relations is None and names is None:
        return names_of_graph(graph)
    if graph is not None or entities is None or relations is None:
        raise InputError("The names come from --graph, or from --entities and --relations. Give the one or the others.")
    if names is None:
        return names_of_lists(entities, relations)
    return names_of_lists(entities, relations, names / _ENTITY_MAPPING, names / _RELATION_MAPPING)
