"""What a graph of Wikipedia's size costs: opening it, looking at it, and its algorithms beside networkx's own.

    python benchmarks/graph.py [--cache FOLDER] [--nodes 2700000] [--edges 15000000]

The graph is drawn, not read from a dump: four nodes in five are items, the others literals; in-degrees and relations
follow Zipf's law, so one node has a million in-edges. With ``--cache`` it is written once and kept. Opening and looking
are measured in fresh processes; algorithms on a smaller graph that networkx can hold, too, and on the whole one.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.graph import KnowledgeGraph
from kg.stage import run_stage
from kg.tables import NODE_SCHEMA, RELATION_SCHEMA, Triples, unique_triples, write_graph_files

NODES, EDGES, RELATIONS = 2_700_000, 15_000_000, 1_000
SMALL = 14  # the graph that networkx holds, too, is this much smaller
ITEM_SHARE, GREATEST_ITEM = 0.8, 130_000_000
OPENINGS = 7
LOOKS, LOOKUPS = 1_000, 20_000
BLOCK = 1 << 18


def draw_graph(folder: Path, nodes: int, edges: int) -> None:
    """Write a graph of this size, unless it is there."""

    def work(place: Path) -> dict[str, int]:
        random = np.random.default_rng(nodes)
        items = int(nodes * ITEM_SHARE)
        numbers = np.sort(random.choice(GREATEST_ITEM, items, replace=False) + 1).astype(np.int32)
        triples = draw_triples(random, nodes, items, edges)
        write_graph_files(node_tables(numbers, nodes), relation_table(triples), triples, numbers, place)
        return {}

    run_stage("kg", folder, config={"nodes": nodes, "edges": edges}, inputs={}, seed=nodes, work=work)


def draw_triples(random: np.random.Generator, nodes: int, items: int, edges: int) -> Triples:
    """Statements of items about all nodes."""
    drawn = int(edges * 1.1)  # some are drawn twice
    popular = random.permutation(nodes).astype(np.int32)
    triples = unique_triples(
        Triples(
            random.integers(0, items, drawn, dtype=np.int32),
            zipf(random, RELATIONS, drawn),
            popular[zipf(random, nodes, drawn)],
            random.random(drawn) < 0.05,
        )
    )
    kept = np.sort(random.choice(len(triples), edges, replace=False))
    columns = (triples.subject, triples.relation, triples.object, triples.preferred)
    return Triples(*(column[kept] for column in columns))


def relation_table(triples: Triples) -> pa.Table:
    rows = [
        {"id": f"P{number + 1}", "label": f"relation {number}", "description": "", "aliases": [], "datatype": ""}
        | {"count": int(count)}
        for number, count in enumerate(np.bincount(triples.relation, minlength=RELATIONS))
    ]
    return pa.Table.from_pylist(rows, RELATION_SCHEMA)


def zipf(random: np.random.Generator, size: int, count: int) -> np.ndarray:
    """int32[count]: numbers below ``size``, number r about 1 / (r + 1) as often as 0."""
    return ((size + 1.0) ** random.random(count) - 1).astype(np.int32)


def node_tables(items: np.ndarray, nodes: int) -> Iterator[pa.Table]:
    """The nodes: items by number, then literals by id, each with about the text that Wikidata has."""
    for start in range(0, nodes, BLOCK):
        rows = np.arange(start, min(start + BLOCK, nodes))
        of_items = rows[rows < len(items)]
        ids = pa.concat_arrays([
            joined("Q", items[of_items]),
            joined("quantity:", (10**9 + rows[len(of_items) :])),
        ])  # fmt: skip
        one_each = pa.array(np.arange(len(rows) + 1, dtype=np.int32))
        yield pa.table(
            [
                ids,
                joined("Name_of_", rows),
                joined("name of ", rows),
                joined("a thing that somebody described as number ", rows),
                pa.ListArray.from_arrays(one_each, joined("also called ", rows)),
                pa.ListArray.from_arrays(one_each, joined("Q", rows % 1000)),
                pa.array(["entity"] * len(of_items) + ["quantity"] * (len(rows) - len(of_items))),
                pa.nulls(len(rows), pa.string()),
            ],
            schema=NODE_SCHEMA,
        )


def joined(text: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(text, pa.array(numbers).cast(pa.string()), "")


def resident() -> float:
    """Resident memory of this process now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def look(folder: Path) -> None:
    """In a fresh process: print milliseconds of opening, MB resident then, after looking at the neighbours of random
    nodes, and after reading the labels of the edges to them; look-ups of items and of other ids per second."""
    before = time.perf_counter()
    graph = KnowledgeGraph.open(folder)
    figures = [(time.perf_counter() - before) * 1e3, resident()]
    random = np.random.default_rng(1)
    looked_at = list(map(graph.node_id, random.integers(0, graph.node_count, LOOKS).tolist()))
    for identifier in looked_at:
        list(graph.successors(identifier)), list(graph.predecessors(identifier))
    figures.append(resident())
    for identifier in looked_at:
        for edges in (graph.out_edges, graph.in_edges):
            list(edges(identifier, keys=True, data="label"))
    figures.append(resident())
    items = len(graph.item_numbers)
    for first, end in ((0, items), (items, graph.node_count)):
        ids = [graph.node_id(number) for number in random.integers(first, end, LOOKUPS).tolist()]
        before = time.perf_counter()
        for identifier in ids:
            graph.find_number(identifier)
        figures.append(LOOKUPS / (time.perf_counter() - before))
    print(*figures)


def timed(call: Callable[[], Any], runs: int = 5) -> float:
    """Least seconds of some calls."""
    return min(timeit.repeat(call, number=1, repeat=runs))


CALLS: dict[str, Callable[[nx.MultiDiGraph], Any]] = {
    "weakly_connected_components": lambda graph: list(nx.weakly_connected_components(graph)),
    "pagerank": nx.pagerank,
    "pagerank, tol=1e-10": lambda graph: nx.pagerank(graph, tol=1e-10),
    "strongly_connected_components": lambda graph: list(nx.strongly_connected_components(graph)),
    "descendants": lambda graph: nx.descendants(graph, next(iter(graph))),
}


def array_forms() -> dict[str, Callable[[KnowledgeGraph], Any]]:
    """The same algorithms by node number; numba is loaded here, because it would count as memory of a look."""
    from kg import algorithms

    return {
        "weakly_connected_components": algorithms.weak_components,
        "strongly_connected_components": algorithms.strong_components,
        "pagerank": lambda graph: algorithms.pagerank(graph, tol=1e-6 * graph.node_count),
        "pagerank, tol=1e-10": lambda graph: algorithms.pagerank(graph, tol=1e-10 * graph.node_count),
    }


def compare(small: KnowledgeGraph) -> None:
    """Print the seconds of each algorithm on the same graph as ours and as networkx's."""
    forms = array_forms()
    ordinary = nx.MultiDiGraph()
    ordinary.add_nodes_from(small)
    ordinary.add_edges_from(small.edges(keys=True))
    print(f"\n{small.node_count:,} nodes, {small.triple_count:,} edges: the same networkx call on either graph")
    for name, call in CALLS.items():
        call(small)  # compiles
        ours, theirs = timed(lambda call=call: call(small)), timed(lambda call=call: call(ordinary))
        line = f"  {name:30} {ours:8.3f} s   networkx {theirs:8.2f} s   {theirs / ours:6.1f} ×"
        if name in forms:
            arrays = timed(lambda name=name: forms[name](small))
            line += f"   as arrays {arrays:6.3f} s  {theirs / arrays:6.1f} ×"
        print(line)


def whole(graph: KnowledgeGraph) -> None:
    """Print the seconds on the whole graph: as arrays by number, and as networkx gives it, by id."""
    print(f"\n{graph.node_count:,} nodes, {graph.triple_count:,} edges: arrays by number, and the networkx call")
    for name, arrays in array_forms().items():
        ours, by_id = timed(lambda arrays=arrays: arrays(graph), 2), timed(lambda call=CALLS[name]: call(graph), 1)
        print(f"  {name:30} {ours:8.2f} s   {by_id:8.2f} s")
    from kg import algorithms

    print(f"  {'core_numbers':30} {timed(lambda: algorithms.core_numbers(graph), 1):8.2f} s")
    print(f"  {'to_pandas':30} {timed(lambda: graph.to_pandas(), 1):8.2f} s")


def in_fresh_process(*arguments: object) -> list[float]:
    command = [sys.executable, __file__, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()]


def main() -> None:
    """Draw the graphs if they are not there, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder that keeps the graphs for the next run")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--edges", type=int, default=EDGES)
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        draw_graph(options.draw, options.nodes, options.edges)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
        return
    if options.look:
        look(options.look)
        return
    if "knowledge_graph" not in nx.utils.backends.backends:
        sys.exit("networkx does not know the backend knowledge_graph. Install the package first: make .venv")
    with tempfile.TemporaryDirectory() as temporary:
        folders = []
        for part in (1, SMALL):
            nodes, edges = options.nodes // part, options.edges // part
            folder = (options.cache or Path(temporary)) / f"{nodes}-{edges}"
            before = time.perf_counter()
            [peak] = in_fresh_process("--draw", folder, "--nodes", nodes, "--edges", edges)
            print(f"{folder}: {time.perf_counter() - before:.0f} s, peak {peak:.0f} MB")
            folders.append(folder)
        looks = [in_fresh_process("--look", folders[0]) for _ in range(OPENINGS)]
        opened, at_first, neighbours, labels, items, others = map(statistics.median, zip(*looks, strict=True))
        print(f"\nopen {opened:.1f} ms (median of {OPENINGS} fresh processes)")
        print(
            f"resident {at_first:.0f} MB; {neighbours:.0f} MB after the neighbours of {LOOKS:,} random nodes, ", end=""
        )
        print(f"{labels:.0f} MB with the labels of the edges (all but about 50 MB are pages of files)")
        print(f"lookups {items:,.0f} items/s, {others:,.0f} other ids/s")
        compare(KnowledgeGraph.open(folders[1]))
        whole(KnowledgeGraph.open(folders[0]))


if __name__ == "__main__":
    main()
