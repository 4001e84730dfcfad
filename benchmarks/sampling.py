"""How fast triplet sets are drawn, and how well they cover the graph.

    python benchmarks/sampling.py [--cache FOLDER] [--scale 1] [--json FILE] [--plot FILE]

Two graphs: one made up with the size and the likeness of the one that SynthIE was drawn from (`graph_synthesis.py`;
``--scale 0.1`` for a tenth of it), and CoDEx-M, 206,205 real triples of Wikidata, where $SYNTHIE_SHARED_DATA has it.

Speed and memory are measured in a fresh process on the first one: sets per CPU second of one thread, all from the
opened graph to the dealt sets, beside the bare kernel of a plain random walk of the same sizes (`plain_sampling.py`);
two threads beside one, by the clock; memory beyond that of the opened graph, all of whose pages have been read. The
reference implementation draws the same sets from a small graph, as a networkx graph, in how many times the seconds.

Coverage and evenness are measured with `kg.sampling.report`, the same for all: the sampler as it is set by default,
without pressure towards what was rarely drawn, the plain random walk, and triplets drawn uniformly. The last row of
the first table is what SynthIE's authors published about their data; that is another graph.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from graph import node_tables
from graph_synthesis import relation_table, write_graph
from plain_sampling import PlainGraph, draw_plain, grow_sets, walk_sets

from kg.graph import KnowledgeGraph
from kg.sampling.config import SamplingConfig
from kg.sampling.draw import draw_sets
from kg.sampling.report import GraphColumns, SampledSets, coverage_report
from kg.sampling.sizes import size_distribution
from kg.sampling.tables import ReportTable
from kg.stage import file_digest, run_stage
from kg.tables import Triples, unique_triples, write_graph_files

SETS_PER_ENTITY = 2 / 3  # as SynthIE: 1.8 million of a graph with 2.7 million
REFERENCE_SCALE = 0.01  # of the graph that networkx holds, too
WARM_SETS = 2_000
TIMINGS = 2
CODEX = Path(os.environ.get("SYNTHIE_SHARED_DATA", "../shared/data")) / "codex-m"

# --- graphs ---------------------------------------------------------------------------------------------------------


def write_codex(source: Path, folder: Path) -> None:
    """Write the triples of CoDEx-M as a graph, unless it is there."""
    parts = [source / f"{part}.tsv.gz" for part in ("train", "valid", "test")]

    def work(place: Path) -> dict[str, int]:
        lines = b"".join(gzip.decompress(part.read_bytes()) for part in parts)
        columns = np.array(re.findall(rb"Q(\d+)\tP(\d+)\tQ(\d+)", lines), np.int32).T
        items, ends = np.unique(columns[[0, 2]], return_inverse=True)
        numbers, relations = np.unique(columns[1], return_inverse=True)
        subjects, objects = ends.reshape(2, -1).astype(np.int32)
        triples = unique_triples(
            Triples(subjects, relations.astype(np.int32), objects, np.zeros(len(subjects), np.bool_))
        )
        ids = [f"P{number}" for number in numbers.tolist()]
        known = json.loads((source / "relations.json").read_bytes())
        table = relation_table(ids, [known[identifier]["label"] for identifier in ids], triples)
        write_graph_files(node_tables(items, len(items)), table, triples, items, place)
        return {}

    inputs = {part.name: file_digest(part) for part in parts}
    run_stage("kg", folder, config={}, inputs=inputs, seed=None, work=work)


# --- speed and memory, in a fresh process ---------------------------------------------------------------------------


def measure_speed(folder: Path, n_sets: int) -> dict[str, float]:
    """Sets per second and MB; for a fresh process that has done nothing else."""
    graph = KnowledgeGraph.open(folder)
    draw_sets(SamplingConfig(n_sets=WARM_SETS, workers=1), graph, seed=1)
    touch(graph)
    before = resident("VmRSS")
    config = SamplingConfig(n_sets=n_sets, workers=1)
    drawn, ours, wall = timed(lambda: draw_sets(config, graph, seed=0))
    beyond = resident("VmHWM") - before
    sizes = np.diff(drawn.offsets)
    for _ in range(TIMINGS - 1):
        _, *again = timed(lambda: draw_sets(config, graph, seed=0))
        ours, wall = min(ours, again[0]), min(wall, again[1])
    two = config.model_copy(update={"workers": 2})
    both = min(timed(lambda: draw_sets(two, graph, seed=0))[2] for _ in range(TIMINGS))
    arrays = PlainGraph.of(graph)
    draw_plain(walk_sets, arrays, sizes[:WARM_SETS])
    plain = min(timed(lambda: draw_plain(walk_sets, arrays, sizes))[1] for _ in range(TIMINGS))
    return {
        "sets": len(drawn),
        "sets_per_second": len(drawn) / ours,
        "plain_sets_per_second": len(drawn) / plain,
        "two_threads": wall / both,
        "megabytes_beyond_graph": beyond,
        "megabytes_of_graph": before,
    }


def measure_reference(folder: Path, n_sets: int) -> dict[str, float]:
    """Sets per second from the same graph as ours and as networkx's, and whether they are the same sets."""
    graph = KnowledgeGraph.open(folder)
    ordinary = nx.MultiDiGraph()
    ordinary.add_nodes_from(graph)
    ordinary.add_edges_from(graph.edges(keys=True))
    config = SamplingConfig(n_sets=n_sets, workers=1)
    draw_sets(config, graph, seed=1)
    compiled = [timed(lambda: draw_sets(config, graph, seed=0)) for _ in range(TIMINGS)]
    plain, seconds, _ = timed(lambda: draw_sets(config, ordinary, seed=0))
    return {
        "sets": n_sets,
        "sets_per_second": n_sets / min(seconds for _, seconds, _ in compiled),
        "reference_sets_per_second": n_sets / seconds,
        "same_sets": np.array_equal(compiled[0][0].edges, plain.edges),
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, its CPU seconds and its wall-clock seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def touch(graph: KnowledgeGraph) -> None:
    """Read the adjacency arrays, so that their pages count as resident."""
    outward, inward = ("out_offsets", "out_relations", "out_objects"), ("in_offsets", "in_relations", "in_subjects")
    for name in (*outward, *inward, "in_edge_numbers"):
        getattr(graph, name).max()


def resident(field: str) -> float:
    """MB of resident memory of this process: "VmRSS" now, "VmHWM" at most so far."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise OSError(f"Linux's /proc/self/status does not tell {field} here.")
    return int(match[1]) * 1024 / 1e6


def in_fresh_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


# --- coverage -------------------------------------------------------------------------------------------------------

Draw = Callable[[KnowledgeGraph, int], tuple[np.ndarray, np.ndarray]]  # offsets and edges of so many sets


def ours(**settings: Any) -> Draw:
    def draw(graph: KnowledgeGraph, n_sets: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = draw_sets(SamplingConfig(n_sets=n_sets, **settings), graph, seed=0)
        return drawn.offsets, drawn.edges

    return draw


def plain(kernel: Callable[..., None]) -> Draw:
    def draw(graph: KnowledgeGraph, n_sets: int) -> tuple[np.ndarray, np.ndarray]:
        config = SamplingConfig()
        probabilities = size_distribution(config)
        sizes = np.arange(config.min_size, config.max_size + 1)
        drawn = np.random.default_rng(0).choice(sizes, n_sets, p=probabilities)
        return draw_plain(kernel, PlainGraph.of(graph), drawn)

    return draw


SAMPLERS: dict[str, Draw] = {
    "default": ours(),
    "no coverage pressure": ours(entity_alpha=0, relation_target="natural"),
    "plain random walk": plain(walk_sets),
    "uniform triplets": plain(grow_sets),
}
PUBLISHED = {
    "sampler": "SynthIE, published (another graph)",
    "sets": 1_800_000,
    "entities": 0.67,
    "min": 61,
    "q1": 1043,
    "median": 1691,
    "q3": 3944,
    "max": 499_783,
    "max_over_median": 296,
    "max_share": 0.275,
    "mean_size": 3.34,
}
OPTIONS: dict[str, Draw] = {
    "default": ours(),
    "entity_alpha 0": ours(entity_alpha=0),
    "relation_alpha 0": ours(relation_alpha=0),
    "relation_share 0": ours(relation_share=0),
    "relation_share 1": ours(relation_share=1),
    "hubs open": ours(hub_degree=None),
}
COLUMNS = {
    "entities": ("entities", "{:.1%}"),
    "relations": ("relations", "{:.1%}"),
    "min": ("min", "{:,.0f}"),
    "q1": ("Q1", "{:,.0f}"),
    "median": ("median", "{:,.0f}"),
    "q3": ("Q3", "{:,.0f}"),
    "max": ("max", "{:,.0f}"),
    "max_over_median": ("max/median", "{:.1f}"),
    "bound": ("bound", "{:.1f}"),
    "distance": ("distance", "{:.1f} ×"),
    "bound_without_repeats": ("bound, no repeats", "{:.1f}"),
    "max_share": ("of all sets", "{:.1%}"),
    "normalised_entropy": ("entropy", "{:.3f}"),
    "gini": ("Gini", "{:.3f}"),
    "duplicates": ("duplicates", "{:,.0f}"),
    "mean_size": ("mean size", "{:.2f}"),
    "triplets": ("triplets", "{:.1%}"),
}


def measure_coverage(graph: KnowledgeGraph, n_sets: int, samplers: dict[str, Draw]) -> Iterator[dict[str, Any]]:
    """The report's figures for so many sets by each sampler, one after the other."""
    columns = GraphColumns.of(graph)
    for name, draw in samplers.items():
        offsets, edges = draw(graph, n_sets)
        report = coverage_report(columns, SampledSets(offsets, edges))
        per_relation, bound = report["sets_per_relation"], report["bound"]
        yield {
            "sampler": name,
            "sets": report["sets"],
            **{what: report["coverage"][what]["share"] for what in ("entities", "relations", "triplets")},
            **per_relation,
            "bound": bound["max_over_median"],
            "distance": bound["distance"],
            "bound_without_repeats": report["bound_without_repeats"]["max_over_median"],
            "duplicates": report["duplicates"],
            "mean_size": report["set_size"]["mean"],
            "curve": report["curve"],
            "reachable": {what: part["reachable"] for what, part in report["coverage"].items()},
            "sets_of_relations": [relation["sets"] for relation in report["relations"]],
        }


def markdown_table(title: str, rows: list[dict[str, Any]]) -> str:
    header = ["sampler", *(name for name, _ in COLUMNS.values())]
    lines = [
        [
            row["sampler"],
            *("–" if row.get(key) is None else form.format(row[key]) for key, (_, form) in COLUMNS.items()),
        ]
        for row in rows
    ]
    return "\n" + ReportTable(title, header, lines).markdown()


# --- picture --------------------------------------------------------------------------------------------------------

COLOURS = ("#1f5fa8", "#d1742f", "#2f855a", "#8456a8", "#2a9d9d", "#b23a48", "#8a94a0")
INK, FAINT = "#1f2933", "#5a6672"


def plot_options(rows: list[dict[str, Any]], path: Path) -> None:
    """Left: entities covered against sets drawn. Right: sets of each relation, the relations by their rank."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = []
    for place, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        look = {"color": colour, "linewidth": 1.8 if place else 2.6, "zorder": 3 - place / 10}
        sets = [0] + [point["sets"] / 1e6 for point in row["curve"]]
        shares = [0.0] + [100 * point["entities"] / row["reachable"]["entities"] for point in row["curve"]]
        left.plot(sets, shares, **look)
        ends.append((shares[-1], -place, row["sampler"], colour))
        counts = row["sets_of_relations"]
        label = f"{row['sampler']}: max/median {row['max_over_median']:,.0f}"
        right.plot(range(1, len(counts) + 1), counts, label=label, **look)
    # The labels stand at the ends of the lines, pushed apart where the lines meet.
    height = 200.0
    for share, _, name, colour in sorted(ends, reverse=True):
        height = min(share, height - 5.5)
        left.annotate(
            f"{name} {share:.1f}%",
            (rows[0]["sets"] / 1e6, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )
    left.set(xlim=(0, rows[0]["sets"] / 1e6), ylim=(0, 102))
    left.set_xlabel("million sets drawn", color=FAINT)
    left.set_title("Entities covered", loc="left", fontsize=11, color=INK)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    right.set(xscale="log", yscale="log", xlim=(1, len(rows[0]["sets_of_relations"])))
    right.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.set_xlabel("relations, the one in most sets first", color=FAINT)
    right.set_title("Sets per relation", loc="left", fontsize=11, color=INK)
    right.legend(frameon=False, fontsize=9, labelcolor="linecolor", loc="lower left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa3ad")
        axes.tick_params(colors=FAINT, labelsize=9)
        axes.grid(color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.minorticks_off()
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Make the graphs if they are not there, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder that keeps the graphs for the next run")
    parser.add_argument("--scale", type=float, default=1.0, help="of the made-up graph and of the number of sets")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--plot", type=Path, help="file for a picture of what the options do (PNG)")
    parser.add_argument("--speed", nargs=2, metavar=("GRAPH", "SETS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.speed:
        print(json.dumps(measure_speed(Path(options.speed[0]), int(options.speed[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options.cache or Path(temporary), options.scale, options.plot)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def measure(cache: Path, scale: float, plot: Path | None) -> dict[str, Any]:
    """Print all figures and return them."""
    made_up, codex = cache / f"made-up-{scale:g}", cache / "codex-m"
    write_graph(made_up, scale)
    graph = KnowledgeGraph.open(made_up)
    print(
        f"{graph.node_count:,} entities, {graph.relation_count} relations, {graph.triple_count:,} triples", flush=True
    )
    n_sets = round(SETS_PER_ENTITY * graph.node_count)
    figures: dict[str, Any] = {"speed": in_fresh_process("--speed", made_up, n_sets)}
    print_speed(figures["speed"])
    small = cache / f"made-up-{REFERENCE_SCALE:g}"
    write_graph(small, REFERENCE_SCALE)
    figures["reference"] = measure_reference(small, round(KnowledgeGraph.open(small).node_count * SETS_PER_ENTITY))
    print_reference(figures["reference"])
    figures["coverage"] = {"made up": print_coverage("Made-up graph", graph, n_sets, SAMPLERS, [PUBLISHED])}
    if CODEX.exists():
        write_codex(CODEX, codex)
        graph = KnowledgeGraph.open(codex)
        for ratio in (SETS_PER_ENTITY, 2):
            title = f"CoDEx-M, {ratio:.2g} sets an entity"
            figures["coverage"][title] = print_coverage(title, graph, round(ratio * graph.node_count), SAMPLERS)
    else:
        print(
            f"\n{CODEX} is missing, so nothing is measured on CoDEx-M. Set SYNTHIE_SHARED_DATA to the folder with it."
        )
    if plot:
        title = "What the options do, on the made-up graph"
        figures["options"] = print_coverage(title, KnowledgeGraph.open(made_up), n_sets, OPTIONS)
        walk = next(row for row in figures["coverage"]["made up"] if row["sampler"] == "plain random walk")
        plot_options([*figures["options"], walk], plot)
    return figures


def print_speed(speed: dict[str, float]) -> None:
    ours, plain = speed["sets_per_second"], speed["plain_sets_per_second"]
    print(f"{speed['sets']:,.0f} sets: {ours:,.0f} sets/s of one thread, plain random walk {plain:,.0f}", end="")
    print(f" ({ours / plain:.2f} of it); two threads {speed['two_threads']:.2f} × one")
    print(
        f"memory {speed['megabytes_beyond_graph']:,.0f} MB beyond the {speed['megabytes_of_graph']:,.0f} MB of before"
    )


def print_reference(speed: dict[str, float]) -> None:
    ours, reference = speed["sets_per_second"], speed["reference_sets_per_second"]
    print(
        f"{speed['sets']:,} sets of the small graph: {ours:,.0f} sets/s, the reference on networkx {reference:,.0f} "
        f"({ours / reference:.0f} ×), {'the same' if speed['same_sets'] else 'DIFFERENT'} sets",
        flush=True,
    )


def print_coverage(
    title: str,
    graph: KnowledgeGraph,
    n_sets: int,
    samplers: dict[str, Draw],
    published: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    rows = [*measure_coverage(graph, n_sets, samplers), *published]
    print(markdown_table(f"{title}, {n_sets:,} sets", rows), flush=True)
    return rows


if __name__ == "__main__":
    main()
