"""Graph folders written directly, without a dump: any ids, any triples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from kg.graph import KnowledgeGraph
from kg.stage import run_stage
from kg.tables import NODE_SCHEMA, QUALIFIERS, RELATION_SCHEMA, Triples, unique_triples, write_graph_files

Triple = tuple[str, str, str]


def write_graph(
    folder: Path,
    nodes: Iterable[str],
    triples: Iterable[Triple] = (),
    items: Iterable[int] = (),
    qualifiers: Mapping[Triple, list[tuple[str, str]]] | None = None,
) -> KnowledgeGraph:
    """Write and open a graph: items (numbers of Q ids) come first, other nodes by id; "x" is labelled "the x"."""
    item_numbers = sorted(items)
    ids = [*(f"Q{number}" for number in item_numbers), *sorted(nodes)]
    triples = list(triples)
    relations = sorted({relation for _, relation, _ in triples})
    node, relation_number = ({name: number for number, name in enumerate(names)} for names in (ids, relations))
    numbers = np.array([(node[s], relation_number[r], node[o]) for s, r, o in triples], np.int32).reshape(-1, 3)
    column = None
    if qualifiers is not None:
        pairs = [[{"relation": r, "object": o} for r, o in qualifiers.get(triple, [])] for triple in triples]
        column = pa.array(pairs, QUALIFIERS.type)
    preferred = np.array([relation == "best" for _, relation, _ in triples], bool)

    def work(place: Path) -> dict[str, int]:
        rows = unique_triples(Triples(numbers[:, 0], numbers[:, 1], numbers[:, 2], preferred, column))
        node_rows = [_row(name) | {"name": name, "types": [], "kind": "entity", "value": None} for name in ids]
        relation_rows = [
            _row(name) | {"datatype": "", "count": int((numbers[:, 1] == number).sum())}
            for number, name in enumerate(relations)
        ]
        write_graph_files(
            pa.Table.from_pylist(node_rows, NODE_SCHEMA),
            pa.Table.from_pylist(relation_rows, RELATION_SCHEMA),
            rows,
            np.array(item_numbers, np.int32),
            place,
        )
        return {}

    run_stage("kg", folder, config={}, inputs={}, seed=None, work=work)
    return KnowledgeGraph.open(folder)


def _row(name: str) -> dict[str, object]:
    return {"id": name, "label": f"the {name}", "description": "", "aliases": []}
