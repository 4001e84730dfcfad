"""What the sampler remembers from round to round, and from run to run.

`Frozen` is what a round draws against; `CoverageState` is what has been drawn.
Saved beside the sets, it lets a later run go on as if it were the same run.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kg.errors import ConfigError

__all__ = ["CoverageState", "Frozen", "Rows", "Walk"]

_FIELDS = ("node_counts", "relation_counts", "edge_counts", "contents", "node_owners", "edge_owners", "topics")
_NUMBERS = ("sets", "next_number", "next_round")


class Walk(NamedTuple):
    """The settings of a walk, with numbers in place of "no limit"."""

    min_size: int
    max_size: int
    size_ends: NDArray[np.float64]  # cumulative probabilities of the sizes from min_size on
    relation_share: float
    stay: float  # factor
    max_distance: int
    max_per_subject: int
    cycles: float
    hub_degree: float
    inverses: bool


class Frozen(NamedTuple):
    """The weights of one round, with the cumulative sums to draw starts by."""

    node_codes: NDArray[np.uint8]  # [n] into node_table; CLOSED for what may not be drawn
    node_table: NDArray[np.float64]  # [256]
    node_factors: NDArray[np.float64]  # [n], or empty where all are 1
    can_start: NDArray[np.bool_]  # [n]
    block_ends: NDArray[np.float64]  # sums of start weights over blocks of nodes
    relation_weights: NDArray[np.float64]  # [R] for steps
    relation_ends: NDArray[np.float64]  # [R] for starts
    floor_ends: NDArray[np.float64]  # [R] for starts from relations below the floor
    floor_share: float  # of the sets that start so
    edge_closed: NDArray[np.bool_]  # [m], or empty where every edge is open


class Rows(NamedTuple):
    """The sets of one round while they are drawn, one row each."""

    edges: NDArray[np.int32]  # [k, max_size]
    lengths: NDArray[np.int32]  # [k], 0 where there is no set
    asked: NDArray[np.int32]  # [k] the size that was drawn for it
    strategies: NDArray[np.uint8]  # [k] 0 for a start at an entity, 1 at a relation
    relations: NDArray[np.int32]  # [k] the relation it starts from, or -1

    @classmethod
    def empty(cls, k: int, max_size: int) -> Rows:
        """Rows for k sets."""
        return cls(
            np.full((k, max_size), -1, np.int32),
            np.zeros(k, np.int32),
            np.zeros(k, np.int32),
            np.zeros(k, np.uint8),
            np.full(k, -1, np.int32),
        )

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """A copy of some rows."""
        return Rows._make(column[positions] for column in self)

    def put(self, positions: NDArray[np.int64], rows: Rows) -> None:
        """Replace some rows."""
        for name, column in rows._asdict().items():
            getattr(self, name)[positions] = column


@dataclass
class CoverageState:
    """Counts and contents of all sets so far, over all runs that continue each other.

    Attributes:
        node_counts, relation_counts, edge_counts: int32[n], int64[R], int32[m]: sets that contain each.
        contents: uint64, hashes of the sets, in open addressing, 0 is empty; at least half of the places are.
            Two different sets with one hash (1 in 10^7 among a million sets) cost a redraw, no more.
        node_owners, edge_owners: uint8[n], uint8[m], or empty: 1 + the split that alone may use each, 0 for none.
        sets: sets with triplets so far.
        next_number: the first set number not yet used.
        next_round: the first round not yet used.
        topics: int64[j], node numbers of the topics of the negative sets so far.
    """

    node_counts: NDArray[np.int32]
    relation_counts: NDArray[np.int64]
    edge_counts: NDArray[np.int32]
    contents: NDArray[np.uint64]
    node_owners: NDArray[np.uint8]
    edge_owners: NDArray[np.uint8]
    topics: NDArray[np.int64]
    sets: int = 0
    next_number: int = 0
    next_round: int = 0

    @property
    def negatives(self) -> int:
        """Negative sets so far."""
        return len(self.topics)

    @classmethod
    def fresh(cls, nodes: int, relations: int, edges: int) -> CoverageState:
        """Nothing has been drawn."""
        return cls(
            np.zeros(nodes, np.int32),
            np.zeros(relations, np.int64),
            np.zeros(edges, np.int32),
            np.zeros(2, np.uint64),
            np.zeros(0, np.uint8),
            np.zeros(0, np.uint8),
            np.zeros(0, np.int64),
        )

    def save(self, path: Path) -> None:
        """Write the state to an .npz file; the hashes without their empty places."""
        temporary = path.with_name(f".{path.name}")
        arrays = {name: np.asarray(getattr(self, name)) for name in (*_FIELDS, *_NUMBERS)}
        arrays["contents"] = np.sort(self.contents[self.contents != 0])
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> CoverageState:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read or is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in _FIELDS}
                state = cls(**values | {name: int(file[name]) for name in _NUMBERS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(
                f"Cannot continue from {path}: {str(error).rstrip('.')}. 'sampling.continue_from' names the folder of "
                "a finished sampling stage."
            ) from error
        return state
