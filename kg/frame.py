"""The triples of a graph as a pandas table, as `kg.graph.KnowledgeGraph.to_pandas` gives it.

Every column is categorical: a small integer a triple, and each id and label
once, so that millions of triples take a fraction of what strings would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from kg.graph import KnowledgeGraph

__all__ = ["triple_frame"]


def triple_frame(graph: KnowledgeGraph) -> pd.DataFrame:
    """A row an edge, by edge number: ids, labels and rank of the statement."""
    subjects = np.repeat(np.arange(graph.node_count, dtype=np.int32), np.diff(graph.out_offsets))
    numbers = {"subject": subjects, "relation": graph.out_relations, "object": graph.out_objects}
    nodes, relations = _ids_and_labels(graph.node_table), _ids_and_labels(graph.relation_table)
    columns: dict[str, pd.Categorical] = {}
    labels: dict[str, pd.Categorical] = {}
    for name, rows in numbers.items():
        ids, codes, texts = relations if name == "relation" else nodes
        columns[name] = pd.Categorical.from_codes(rows, dtype=ids)
        labels[f"{name}_label"] = pd.Categorical.from_codes(codes[rows], dtype=texts)
    ranks = pd.Categorical.from_codes(graph.out_preferred.astype(np.int8), categories=["normal", "preferred"])
    return pd.DataFrame(columns | labels | {"rank": ranks}, copy=False)


def _ids_and_labels(table: pa.Table) -> tuple[pd.CategoricalDtype, np.ndarray, pd.CategoricalDtype]:
    """The ids; int32[rows] which of the different labels each row has, and those labels."""
    labels = table["label"].combine_chunks().dictionary_encode()
    ids, texts = (pd.CategoricalDtype(pd.Index(column.to_pandas())) for column in (table["id"], labels.dictionary))
    return ids, labels.indices.to_numpy(), texts
