"""Which relations fit which classes, as a graph shows it; the tables behind the types rule (`synthie.extractor.rules`).

A relation fits a subject if a triple of the graph has it with a subject of a class in common, and likewise an
object. Nodes whose classes were seen with no relation, or that have none, fit all. Nodes of equal classes share a
row of the tables, so millions of nodes need some thousand rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["TypeTable"]

_ARRAYS = ("kinds", "as_subject", "as_object")


@dataclass(frozen=True, slots=True, eq=False)
class TypeTable:
    """Sets of relations for nodes.

    Attributes:
        kinds: int32[nodes], the row of a node in the other two.
        as_subject, as_object: uint8[kinds, bytes], the relations that fit, a bit each as `numpy.packbits` sets them.
    """

    kinds: NDArray[np.int32]
    as_subject: NDArray[np.uint8]
    as_object: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        classes: pa.ListArray | pa.ChunkedArray,
        triples: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
        relations: int,
    ) -> TypeTable:
        """From each node's list of classes and the numbers of the triples' subjects, relations and objects."""
        joined = pc.fill_null(pc.binary_join(classes, "\n"), "")
        joined = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
        encoded = joined.dictionary_encode()
        kinds = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        sets = [text.split("\n") if text else [] for text in encoded.dictionary.to_pylist()]
        names = {name: number for number, name in enumerate(sorted({name for of_kind in sets for name in of_kind}))}
        rows = np.repeat(np.arange(len(sets)), [len(of_kind) for of_kind in sets])
        columns = np.array([names[name] for of_kind in sets for name in of_kind], np.int64)
        members = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(sets), len(names)))
        subject, relation, target = triples
        tables = []
        for node in (subject, target):
            pairs = np.unique(relation.astype(np.int64) * len(sets) + kinds[node])
            seen = sparse.csr_matrix(
                (np.ones(len(pairs)), (pairs // len(sets), pairs % len(sets))), shape=(relations, len(sets))
            )
            fits = (members @ (seen @ members).T).toarray() > 0
            fits[~fits.any(1)] = True
            tables.append(np.packbits(fits, axis=1))
        return cls(kinds, *tables)

    @classmethod
    def from_graph(cls, graph: Path) -> TypeTable | None:
        """From a graph folder; None if it has no classes or no triples."""
        if "types" not in pq.read_schema(graph / "nodes.parquet").names or not (graph / "triples.parquet").exists():
            return None
        classes = pq.read_table(graph / "nodes.parquet", columns=["types"])["types"]
        triples = pq.read_table(graph / "triples.parquet", columns=["subject", "relation", "object"])
        relations = pq.read_metadata(graph / "relations.parquet").num_rows
        return cls.of(classes, tuple(column.to_numpy() for column in triples.columns), relations)

    @classmethod
    def open(cls, folder: Path) -> TypeTable:
        """Map what `save` wrote."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS))

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file for each array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
