"""The commands ``synthie kg …``: build a graph, look at it, ask it, take it elsewhere.

What they print is made in `synthie.commands.kg_output`, what they say is found in `kg/`;
here are only the options.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthie.commands.command import (
    DEFAULT_RUN,
    ConfigOption,
    RunFolder,
    RunOption,
    SetOption,
    do_stage,
    find_stage,
    plan_run,
)
from synthie.errors import ConfigError, InputError

if TYPE_CHECKING:
    from kg.graph import KnowledgeGraph

__all__ = ["kg_app"]

_SHOWN_ROWS = 20  # of a query's table, unless --limit says otherwise


kg_app = typer.Typer(help="Build, look at, query and export the knowledge graph.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
LimitOption = Annotated[int, typer.Option(min=0, help="Triples of each direction to print.")]


@kg_app.command("build")
def build(config: ConfigOption = None, set_: SetOption = None, run: RunOption = None) -> None:
    """Turn a Wikidata dump, or other RDF, into a graph folder.

    Example: synthie kg build --set kg.dump=latest-all.json.gz --run data/runs/wikidata
    """
    do_stage(plan_run(config, set_, run), find_stage("kg"))


@kg_app.command("info")
def info(
    run: RunFolder = DEFAULT_RUN,
    as_json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it all to this file too: .png, .svg or .pdf.")] = None,
) -> None:
    """Print counts, degrees, relations, classes and components of a run's graph.

    Example: synthie kg info --plot graph.png
    """
    from kg.summary import graph_summary
    from synthie.commands.kg_output import print_summary

    graph = _open(run)
    summary = graph_summary(graph)
    if as_json:
        _print_json(summary)
    else:
        print_summary(summary, graph.folder)
    if plot is not None:
        _plot(summary, plot)


@kg_app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="An id (Q64, P36) or a name, label or alias (Berlin).")],
    run: RunFolder = DEFAULT_RUN,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Print what the graph knows of a node or relation: names, classes, triples.

    Examples: synthie kg show Q64 · synthie kg show berlin · synthie kg show P36 --limit 5
    """
    from kg.query.describe import describe_node, describe_relation
    from kg.query.lookup import find_nodes, find_relations, resolve_node
    from synthie.commands.kg_output import print_hits, print_node, print_relation

    graph = _open(run)
    nodes = find_nodes(graph, name)
    relations = [] if nodes and nodes[0].how == "id" else find_relations(graph, name)
    if relations and (relations[0].how == "id" or not nodes):
        relation = describe_relation(graph, relations[0].number, limit)
        _print_json(relation) if as_json else print_relation(relation)
        return
    if not nodes:
        resolve_node(graph, name)  # raises, and names what is near
    alone = len(nodes) == 1 or nodes[0].how != nodes[1].how
    if alone:
        node = describe_node(graph, nodes[0].number, limit)
        _print_json(node) if as_json else print_node(node)
        nodes = nodes[1:]
    if not alone or not as_json:
        print_hits(graph, name, nodes, relations, limit, as_json, others=alone)


@kg_app.command("query")
def query(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="Triple patterns to join, such as '?city P17 Q183'."),
    ] = None,
    sparql: Annotated[str | None, typer.Option(help="A SPARQL query instead of patterns.")] = None,
    run: RunFolder = DEFAULT_RUN,
    limit: Annotated[
        int | None, typer.Option(min=0, help=f"Most rows to print; a table has {_SHOWN_ROWS} without it.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many rows there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
    tsv: Annotated[bool, typer.Option("--tsv", help="Print ids and labels separated by tabs.")] = False,
) -> None:
    """Find what fits triple patterns with ?variables, or a SPARQL query.

    A term is an id, a name or label (in quotation marks where it has spaces), a ?variable, or _ for anything.

    Examples: synthie kg query "?city P17 Q183" "?city P31 ?class" · synthie kg query "?x 'place of birth' Berlin"
    · synthie kg query --sparql "SELECT ?label { wd:Q64 wdt:P17 ?c . ?c rdfs:label ?label }"
    """
    from synthie.commands.kg_output import print_rows
    from synthie.commands.kg_query import pattern_rows, sparql_rows

    if bool(patterns) == (sparql is not None):
        raise ConfigError("Give either triple patterns, such as '?city P17 Q183', or --sparql with a query.")
    if as_json and tsv:
        raise ConfigError("Choose one of --json and --tsv.")
    graph = _open(run)
    found = pattern_rows(graph, patterns) if patterns else sparql_rows(graph, sparql or "")
    if count:
        typer.echo(found.count())
        return
    machine = as_json or tsv
    most = limit if limit is not None else None if machine else _SHOWN_ROWS
    rows = iter(found.rows())
    form: Literal["json", "tsv", "table"] = "json" if as_json else "tsv" if tsv else "table"
    printed = print_rows(found.columns, rows if most is None else islice(rows, most), form)
    if not machine and most is not None and next(rows, None) is not None:
        typer.echo(f"There are more than {printed}: --count counts them, --limit prints more.", err=True)
    if not printed and most != 0:
        typer.echo(f"Nothing fits.{found.hint()}", err=True)


@kg_app.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; .gz packs it, - is standard output.")],
    file_format: Annotated[
        Literal["graphml", "ntriples", "tsv", "csv", "parquet"] | None,
        typer.Option("--format", "-f", help="Default: what OUT ends in (.graphml, .nt, .tsv, .csv, .parquet)."),
    ] = None,
    run: RunFolder = DEFAULT_RUN,
    relations: Annotated[
        str | None, typer.Option(metavar="P36,P17", help="Only triples of these relations (ids or labels).")
    ] = None,
    around: Annotated[str | None, typer.Option(metavar="ID", help="Only nodes near this one.")] = None,
    hops: Annotated[int, typer.Option(min=0, help="How near, with --around: triples in any direction.")] = 1,
    entities_only: Annotated[bool, typer.Option("--entities-only", help="Leave literals out.")] = False,
) -> None:
    """Write the graph, or a part of it, for other programs.

    Examples: synthie kg export graph.graphml · synthie kg export graph.nt.gz
    · synthie kg export berlin.tsv --around Q64 --hops 2 --relations P17,P36
    """
    from kg.exports.export import export_graph
    from kg.exports.part import Part
    from kg.query.lookup import resolve_node, resolve_relation
    from synthie.commands.command import progress_bar

    chosen = file_format or _format_of(out)
    graph = _open(run)
    numbers = None
    if relations is not None:
        numbers = [resolve_relation(graph, name) for name in relations.split(",") if name.strip()]
    centre = None if around is None else resolve_node(graph, around)
    part = Part(graph, numbers, centre, hops, entities_only)
    with progress_bar("export") as progress:
        written = export_graph(part, chosen, sys.stdout.buffer if str(out) == "-" else out, progress)
    counts = ", ".join(f"{number:,} {what}" for what, number in written.items())
    typer.echo(f"{out}: {counts}", err=str(out) == "-")


def _open(run: Path) -> KnowledgeGraph:
    from kg.graph import KnowledgeGraph

    return KnowledgeGraph.open(run / "kg")


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _plot(summary: dict[str, Any], path: Path) -> None:
    from kg.plots import plot_graph

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"A plot is a .png, .svg or .pdf file; {path.name} ends in neither.")
    try:
        plot_graph(summary, path)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose another place for the plot.") from error
    typer.echo(f"Plot: {path}", err=True)


def _format_of(out: Path) -> Any:
    suffix = out.with_suffix("").suffix if out.suffix == ".gz" else out.suffix
    formats = {".graphml": "graphml", ".nt": "ntriples", ".tsv": "tsv", ".csv": "csv", ".parquet": "parquet"}
    if suffix not in formats:
        raise ConfigError(
            f"What should {out} become? Its name ends in none of {', '.join(formats)}; say it with --format."
        )
    return formats[suffix]
