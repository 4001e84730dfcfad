"""What ``synthie kg`` and ``synthie sample`` print for people: tables and lists, by rich, on standard output."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kg.graph import KnowledgeGraph
    from kg.query.lookup import Hit
    from kg.sampling.tables import ReportTable
    from synthie.commands.kg_query import Cell

__all__ = [
    "print_coverage",
    "print_hits",
    "print_node",
    "print_relation",
    "print_rows",
    "print_summary",
    "print_tables",
]

_RELATIONS = 15  # most frequent ones that are listed
_LITERALS = ("date", "quantity", "coordinate", "string")
_PIPE_WIDTH = 120  # columns where no terminal says how many


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """The data of `kg.summary.graph_summary` as tables."""
    console = _console()
    console.print(
        f"[bold]{summary['nodes']:,} nodes, {summary['triples']:,} triples of {summary['relations']:,} relations"
        f"[/bold] in {folder}\n",
    )
    total = max(summary["nodes"], 1)
    kinds = _table("kind", "nodes", "share", "triples to them")
    for kind, count in sorted(summary["kinds"].items(), key=lambda row: -row[1]):
        kinds.add_row(kind, f"{count:,}", _share(count / total), f"{summary['triples_by_kind'][kind]:,}")
    degrees = _table("triples a node", "mean", "least", "median", "90%", "99%", "most")
    for name, title in (("degree", "all"), ("out_degree", "as subject"), ("in_degree", "as object")):
        found = summary[name]
        quantiles = [f"{found[quantile]:,.0f}" for quantile in ("q0", "q50", "q90", "q99", "q100")]
        degrees.add_row(title, f"{found['mean']:,.2f}", *quantiles)
    relations = _table("relation", "label", "triples", "share", texts=2)
    for row in summary["relation_counts"][:_RELATIONS]:
        relations.add_row(row["id"], row["label"], f"{row['count']:,}", _share(row["share"]))
    classes = _table("class", "label", "entities", texts=2)
    for row in summary["classes"]:
        classes.add_row(row["id"], row["label"] or "[dim](not in the graph)[/dim]", f"{row['entities']:,}")
    hubs = _table("node", "label", "triples", texts=2)
    for row in summary["hubs"]:
        hubs.add_row(row["id"], _plain(row["label"]), f"{row['triples']:,}")
    missing = _table("without", "label", "description", "aliases", "class")
    for what, counts in summary["missing"].items():
        missing.add_row(what, *(f"{counts[name]:,}" if name in counts else "" for name in _MISSING))
    rest = len(summary["relation_counts"]) - _RELATIONS
    for title, table in (
        ("Nodes", kinds),
        ("Degrees", degrees),
        ("Relations" + (f" (the most frequent; {rest:,} more)" if rest > 0 else ""), relations),
        ("Classes with most entities", classes),
        ("Nodes with most triples", hubs),
        ("Missing names", missing),
    ):
        _section(console, title, table)
    components = summary["components"]
    sizes = ", ".join(f"{size:,}" for size in components["sizes"][:5])
    console.print(
        f"[bold]Components[/bold]  {components['count']:,} weakly connected; the largest have {sizes} nodes "
        f"({_share(components['largest_share'])} in the largest). Nodes without a triple: {summary['isolated']:,}. "
        f"Preferred statements: {summary['preferred_triples']:,}.",
    )


_MISSING = ("label", "description", "aliases", "types")


def print_coverage(report: dict[str, Any]) -> None:
    """The main figures of `kg.sampling.report.coverage_report` as tables."""
    from kg.sampling.tables import headline, report_table

    print_tables(headline(report), report_table(report))


def print_tables(headline: str, tables: Iterable[ReportTable]) -> None:
    """A sentence and tables below it."""
    console = _console()
    console.print(Text(f"\n{headline}\n", "bold"))
    for found in tables:
        if not found.rows:
            console.print(Text(f"{found.title}\n", "bold"))
            continue
        table = _table(*found.header, texts=found.texts)
        for row in found.rows:
            table.add_row(*map(_plain, row))
        _section(console, found.title, table)


def print_node(node: dict[str, Any]) -> None:
    """The data of `kg.query.describe.describe_node`."""
    console = _console()
    console.print(
        Text.assemble((node["id"], "bold cyan"), "  ", (_one_line(node["label"]), "bold"), f"  ({node['kind']})")
    )
    console.print(_plain(node["description"]) or "[dim](no description)[/dim]")
    if node["aliases"]:
        console.print(Text.assemble(("also: ", "dim"), ", ".join(node["aliases"])))
    if node["types"]:
        types = ", ".join(f"{kind['label']} ({kind['id']})" if kind["label"] else kind["id"] for kind in node["types"])
        console.print(Text.assemble(("is a: ", "dim"), types))
    if node["value"]:
        console.print(Text.assemble(("value: ", "dim"), node["value"]), soft_wrap=True)
    for direction, title in (("out", "as subject"), ("in", "as object")):
        count = node["triples"][direction]
        console.print(Text(f"\n{count:,} triple{'s'[: count != 1]} {title}", "bold"))
        for group in node[direction]:
            console.print(_group_title(group, direction))
            for target in group["nodes"]:
                console.print(Text.assemble("    ", _node_text(target), _marks(target)))
            hidden = group["triples"] - len(group["nodes"])
            if hidden:
                console.print(Text(f"    … {hidden:,} more", "dim"))


def print_relation(relation: dict[str, Any]) -> None:
    """The data of `kg.query.describe.describe_relation`."""
    console = _console()
    console.print(Text.assemble((relation["id"], "bold cyan"), "  ", (relation["label"], "bold"), "  (relation)"))
    console.print(_plain(relation["description"]) or "[dim](no description)[/dim]")
    if relation["aliases"]:
        console.print(Text.assemble(("also: ", "dim"), ", ".join(relation["aliases"])))
    console.print(
        f"{relation['datatype']}; {relation['count']:,} triples ({_share(relation['share'])} of all), "
        f"{relation['subjects']:,} subjects, {relation['objects']:,} objects\n",
    )
    for example in relation["examples"]:
        ends = [_node_text(example[end]) for end in ("subject", "object")]
        console.print(Text.assemble("  ", ends[0], (" → ", "dim"), ends[1], _marks(example)))
    hidden = relation["count"] - len(relation["examples"])
    if hidden:
        console.print(Text(f"  … {hidden:,} more", "dim"))


def print_hits(
    graph: KnowledgeGraph,
    name: str,
    nodes: Sequence[Hit],
    relations: Sequence[Hit],
    limit: int,
    as_json: bool,
    others: bool,
) -> None:
    """The nodes and relations with a name, or the other ones beside the one that was shown."""
    rows = []
    for hit in islice(nodes, limit):
        row = graph.node_row(hit.number)
        triples = sum(
            int(offsets[hit.number + 1] - offsets[hit.number]) for offsets in (graph.out_offsets, graph.in_offsets)
        )
        rows.append({"id": row["id"], "label": row["label"], "description": row["description"], "found_by": hit.how,
                     "triples": triples})  # fmt: skip
    for hit in islice(relations, limit):
        row = graph.relation_table.slice(hit.number, 1).to_pylist()[0]
        rows.append({"id": row["id"], "label": row["label"], "description": row["description"], "found_by": hit.how,
                     "triples": row["count"]})  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps({"matches": rows}, indent=2, ensure_ascii=False) + "\n")
        return
    if not rows:
        return
    console = _console()
    table = _table("id", "label", "description", "found by", "triples", texts=4)
    for found in rows:
        table.add_row(*(_plain(f"{found[key]:,}" if key == "triples" else found[key]) for key in found))
    count = len(nodes) + len(relations)
    title = f"{count:,} more with the name {name!r}" if others else f"{count:,} have the name {name!r}; show one by id"
    console.print()
    _section(console, title, table)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Cell]], form: Literal["json", "tsv", "table"]) -> int:
    """Print rows as they come (JSON, TSV), or all of them as a table; the number of rows."""
    count = 0
    table = _table(*columns, texts=len(columns))
    writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    if form == "tsv":
        writer.writerow([name for column in columns for name in (column, f"{column}_label")])
    for row in rows:
        count += 1
        if form == "tsv":
            writer.writerow([part for cell in row for part in cell])
        elif form == "json":
            named = {name: _json_cell(cell) for name, cell in zip(columns, row, strict=True)}
            sys.stdout.write(json.dumps(named, ensure_ascii=False) + "\n")
        else:
            table.add_row(*(_node_text(cell._asdict()) for cell in row))
    if form == "table" and count:
        _console().print(table)
    return count


def _json_cell(cell: Cell) -> Any:
    return {"id": cell.id, "label": cell.label} if cell.id else cell.label


def _group_title(group: dict[str, Any], direction: str) -> Text:
    arrow = "→" if direction == "out" else "←"
    label = group["label"] or group["relation"]
    return Text.assemble("  ", (label, "bold"), (f" ({group['relation']}) {arrow}", "dim"))


def _node_text(target: dict[str, Any]) -> Text:
    """The label with the id after it, unless the id says no more (a literal's, or where there is no label)."""
    identifier, label = target["id"], _one_line(target["label"])
    kind, _, name = identifier.partition(":")
    if not identifier or (kind in _LITERALS and name == target["label"]):
        return Text(label)
    return Text.assemble(label or "", " " if label else "", (f"({identifier})" if label else identifier, "cyan"))


def _one_line(text: str) -> str:
    """The text without line breaks and the control characters that would change the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _marks(statement: dict[str, Any]) -> Text:
    marks = Text()
    if statement.get("rank") == "preferred":
        marks.append("  preferred", "green")
    for qualifier in statement.get("qualifiers") or []:
        relation = qualifier["relation_label"] or qualifier["relation"]
        value = qualifier["label"] or qualifier["id"].partition(":")[2] or qualifier["id"]
        marks.append(f"  [{relation}: {value}]", "dim")
    return marks


def _section(console: Console, title: str, table: Table) -> None:
    console.print(Text(title, "bold"))
    console.print(table)
    console.print()


def _table(*columns: str, texts: int = 1) -> Table:
    """A plain table whose first ``texts`` columns are text and the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < texts else "right", overflow="fold")
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _share(share: float) -> str:
    return f"{100 * share:.1f}%"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich itself would exit with 1


def _console() -> Console:
    """On a terminal its width, elsewhere COLUMNS or a width at which tables stay whole."""
    console = _Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = int(os.environ.get("COLUMNS", _PIPE_WIDTH))
    return console
