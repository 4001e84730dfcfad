"""The nodes and relations of a knowledge graph on disk: everything but its edges.

`Catalogue.open` maps the two tables of a graph's folder (`kg.tables` describes
them) into memory and reads nothing else. Who wants names and descriptions only
needs no more, and is spared networkx, which `kg.graph` loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from kg.columns import SortedIds
from kg.errors import InputError
from kg.stage import read_manifest
from kg.tables import NODE_SCHEMA, RELATION_SCHEMA

__all__ = ["Catalogue", "Node", "Relation", "UnknownIdError", "map_array"]

_SHOWN = 80  # characters of an id in a message


class UnknownIdError(InputError, KeyError):
    """No node or relation of the graph has the id; a `KeyError`, as networkx expects of its mappings."""

    __str__ = Exception.__str__  # KeyError's would quote the message


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph; ``value`` is a literal's value as compact JSON, None for an entity."""

    id: str
    name: str
    label: str
    description: str
    aliases: tuple[str, ...]
    types: tuple[str, ...]
    kind: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation of the graph; ``count`` is the number of its triples."""

    id: str
    label: str
    description: str
    aliases: tuple[str, ...]
    datatype: str
    count: int


class Catalogue:
    """The nodes and relations of a finished ``kg`` stage; open it with `Catalogue.open`.

    Node number i is row i of ``node_table``, relation number r is row r of ``relation_table``.

    Attributes:
        folder: where the graph lies.
        node_table, relation_table: pyarrow tables, memory-mapped.
        item_numbers: int32[items], numbers of the Q ids, whose nodes come first; the ids of all others are sorted.
    """

    folder: Path
    node_table: pa.Table
    relation_table: pa.Table
    item_numbers: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the graph in ``folder``.

        Raises:
            InputError: the folder is missing, its stage is not finished, or a file is damaged.
        """
        folder = Path(folder)
        read_manifest(folder)
        catalogue: Self = object.__new__(cls)
        catalogue.folder = folder
        try:
            catalogue._map_files(folder / "csr")
        except (OSError, ValueError, EOFError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise InputError(
                f"The graph in {folder} is damaged: {' '.join(str(error).split())}. "
                f"Delete {folder} and build the graph again."
            ) from error
        return catalogue

    def _map_files(self, csr: Path) -> None:
        """Map the files; `ValueError` where they do not fit together."""
        self.item_numbers = map_array(csr / "item_numbers.npy", np.int32)
        self.node_table = pa.ipc.open_file(pa.memory_map(str(csr / "nodes.arrow"))).read_all()
        self.relation_table = pa.ipc.open_file(pa.memory_map(str(csr / "relations.arrow"))).read_all()
        if not (self.node_table.schema.equals(NODE_SCHEMA) and self.relation_table.schema.equals(RELATION_SCHEMA)):
            raise ValueError("nodes.arrow or relations.arrow has other columns than expected")
        if len(self.item_numbers) > self.node_count:
            raise ValueError("item_numbers.npy is longer than nodes.arrow")

    @property
    def node_count(self) -> int:
        """Number of nodes."""
        return len(self.node_table)

    @property
    def relation_count(self) -> int:
        """Number of relations."""
        return len(self.relation_table)

    def node_number(self, identifier: str) -> int:
        """The number of the node with this id.

        Raises:
            UnknownIdError: no node has it.
        """
        number = self.find_number(identifier)
        if number < 0:
            raise UnknownIdError(
                f"{_shown(identifier)} is no node of the graph in {self.folder}. Its ids look like "
                f"{self._example_ids()}; nodes.parquet lists them all."
            )
        return number

    def find_number(self, identifier: object) -> int:
        """The number of the node with this id, or -1: a binary search, by number among items, by id among the rest."""
        if not isinstance(identifier, str):
            hash(identifier)  # networkx expects TypeError for what cannot be a node
            return -1
        digits = identifier[1:]
        if (
            len(self.item_numbers)
            and identifier[:1] == "Q"
            and digits.isascii()
            and digits.isdigit()
            and len(digits) < 10
            and digits[0] != "0"
        ):
            wanted = np.int32(digits)
            place = int(self.item_numbers.searchsorted(wanted))
            return place if place < len(self.item_numbers) and self.item_numbers[place] == wanted else -1
        return self._ids.find(identifier)

    def node_id(self, number: int) -> str:
        """The id of the node with this number; `IndexError` if there is no such number."""
        if 0 <= number < len(self.item_numbers):
            return f"Q{self.item_numbers[number]}"
        return self._ids[number]

    def node_row(self, number: int) -> dict[str, Any]:
        """The row of the node table with this number."""
        return self.node_table.slice(number, 1).to_pylist()[0]

    def node(self, identifier: str) -> Node:
        """Everything known of a node; `UnknownIdError` if no node has the id."""
        row = self.node_row(self.node_number(identifier))
        return Node(**row | {"aliases": tuple(row["aliases"]), "types": tuple(row["types"])})

    def relation_number(self, identifier: str) -> int:
        """The number of the relation with this id.

        Raises:
            UnknownIdError: no relation of the graph has it.
        """
        try:
            return self._relation_numbers[identifier]
        except KeyError:
            raise UnknownIdError(
                f"{_shown(identifier)} is no relation of the graph in {self.folder}. {self._example_relation()}"
            ) from None

    def relation(self, identifier: str) -> Relation:
        """Everything known of a relation; `UnknownIdError` if the graph has none with the id."""
        row = self.relation_table.slice(self.relation_number(identifier), 1).to_pylist()[0]
        return Relation(**row | {"aliases": tuple(row["aliases"])})

    @cached_property
    def relation_ids(self) -> list[str]:
        """The ids of the relations by number."""
        return self.relation_table["id"].to_pylist()

    @cached_property
    def relation_labels(self) -> list[str]:
        """The labels of the relations by number."""
        return self.relation_table["label"].to_pylist()

    @cached_property
    def _ids(self) -> SortedIds:
        return SortedIds(self.node_table["id"], len(self.item_numbers))

    def _example_ids(self) -> str:
        numbers = sorted({0, min(len(self.item_numbers), self.node_count - 1)}) if self.node_count else []
        return " or ".join(_shown(self.node_id(number)) for number in numbers) or "nothing, it is empty"

    def _example_relation(self) -> str:
        if not self.relation_ids:
            return "It has no relations."
        return f"Its ids look like {_shown(self.relation_ids[0])}; relations.parquet lists them all."

    @cached_property
    def _relation_numbers(self) -> dict[str, int]:
        return {identifier: number for number, identifier in enumerate(self.relation_ids)}


def map_array(path: Path, dtype: type[np.generic]) -> np.ndarray:
    """Map a one-dimensional array file; `ValueError` if it holds something else."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{path.name} holds {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}[…]")
    return np.asarray(array)  # still mapped, without memmap's slow indexing


def _shown(identifier: object) -> str:
    text = repr(identifier)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
