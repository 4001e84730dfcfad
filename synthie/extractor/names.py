"""Where the names of a world come from: a graph folder, or lists of ids and names.

Lists are TSV (id, tab, name), JSON Lines (``id`` and ``name``, or ``en_label`` as in SynthIE's mappings), or a JSON
array of ids, as in SynthIE's ``constrained_worlds/*/entities.json``, whose names stand in a mapping from id to name.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from synthie.errors import InputError
from synthie.extractor.classes import TypeTable

__all__ = ["WorldNames", "degrees", "names_of_graph", "names_of_lists"]


@dataclass(frozen=True, slots=True)
class WorldNames:
    """What a world is built from.

    Attributes:
        nodes, relations: tables with columns id and name.
        degrees: int32[nodes], triples of each node; None: not known.
        types: which relations fit which nodes; None: not known.
    """

    nodes: pa.Table
    relations: pa.Table
    degrees: NDArray[np.int32] | None = None
    types: TypeTable | None = None


def names_of_graph(graph: Path) -> WorldNames:
    """The names of a graph folder, with what its triples tell of the nodes.

    Raises:
        InputError: the folder holds no graph.
    """
    try:
        nodes = pq.read_table(graph / "nodes.parquet", columns=["id", "name"])
        relations = pq.read_table(graph / "relations.parquet", columns=["id", "label"]).rename_columns(["id", "name"])
        return WorldNames(nodes, relations, degrees(graph, nodes.num_rows), TypeTable.from_graph(graph))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{graph} holds no graph ({error}). Build one first: synthie kg build") from error


def degrees(graph: Path, nodes: int) -> NDArray[np.int32] | None:
    """Triples of each node of a graph folder, int32[nodes]; None if it has no triples."""
    if not (graph / "triples.parquet").exists():
        return None
    triples = pq.read_table(graph / "triples.parquet", columns=["subject", "object"])
    return sum(np.bincount(column.to_numpy(), minlength=nodes) for column in triples.columns).astype(np.int32)  # type: ignore[union-attr]


def names_of_lists(
    entities: Path, relations: Path, entity_names: Path | None = None, relation_names: Path | None = None
) -> WorldNames:
    """The names in two lists.

    Args:
        entities, relations: the lists; the order of the entities decides which of equal names is meant.
        entity_names, relation_names: mappings from id to name, for lists of ids alone.

    Raises:
        InputError: a list cannot be read, names an id twice, or has an id without a name.
    """
    tables = []
    for path, mapping in ((entities, entity_names), (relations, relation_names)):
        found: dict[str, str] = {}
        for number, (identity, name) in enumerate(_rows(path, mapping), 1):
            if not identity or not name:
                raise InputError(f"{path}, entry {number}: id or name is missing. Give both, or a mapping with names.")
            if found.setdefault(identity, name) != name:
                raise InputError(f"{path} has two names for {identity}: {found[identity]!r} and {name!r}. Keep one.")
        if not found:
            raise InputError(f"{path} has no entry. Give one 'id<TAB>name' a line, or JSON Lines.")
        tables.append(
            pa.table({"id": pa.array(found.keys(), pa.string()), "name": pa.array(found.values(), pa.string())})
        )
    return WorldNames(*tables)


def _rows(path: Path, mapping: Path | None) -> Iterator[tuple[str, str]]:
    try:
        if path.suffix != ".json":
            yield from _pairs(path)
            return
        ids: list[str] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a list of ids and names: {error}.") from error
    if mapping is None:
        raise InputError(f"{path} lists ids alone. Give the mapping with their names, such as entity_mapping.jsonl.")
    wanted = set(ids)
    names = {identity: name for identity, name in _rows(mapping, None) if identity in wanted}
    # The array has no order that means something; ids in order of length and letters are those in order of numbers.
    yield from ((identity, names.get(identity, "")) for identity in sorted(wanted, key=lambda own: (len(own), own)))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    structured = ".jsonl" in path.suffixes
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            if structured:
                row: dict[str, Any] = json.loads(line)
                yield str(row.get("id") or ""), str(row.get("name") or row.get("en_label") or "")
            else:
                identity, _, name = line.rstrip("\r\n").partition("\t")
                yield identity.strip(), name.strip()
