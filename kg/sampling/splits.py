"""Step 10: which sets train, which are held out.

``held_out: sets`` deals finished sets. For ``triplets`` and ``entities`` the sets of
a split are drawn as a phase of their own, test first, training last; what a phase
draws belongs to its split from then on, and the other phases keep away from it.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kg.errors import ConfigError
from kg.sampling.arrays import Arrays
from kg.sampling.config import SamplingConfig
from kg.sampling.kernels import close_edges, split_keys, swap_into_training
from kg.sampling.state import CoverageState

__all__ = ["SPLITS", "Phase", "Reserve", "deal", "deal_sets", "phases"]

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_TRAIN, _VALIDATION, _TEST = range(3)
_HUB_DEGREE = 8


class Phase(NamedTuple):
    """Sets that are drawn one after the other under the same conditions.

    ``split`` is an index into `SPLITS`, or None where sets of all splits are drawn together.
    """

    split: int | None
    n_sets: int


def phases(config: SamplingConfig, n_sets: int) -> list[Phase]:
    """What is drawn in which order, ``n_sets`` in all; the shares are exact to rounding."""
    if config.held_out == "sets":
        return [Phase(None, n_sets)]
    test, validation = round(n_sets * config.test_share), round(n_sets * config.validation_share)
    planned = [Phase(_TEST, test), Phase(_VALIDATION, validation), Phase(_TRAIN, n_sets - test - validation)]
    return [phase for phase in planned if phase.n_sets]


def deal(config: SamplingConfig, seed: int, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The split of each set number, and the permutation: int64[k] each.

    Args:
        numbers: ascending.
    """
    k = len(numbers)
    held_out = [round(k * config.validation_share), round(k * config.test_share)]
    order = np.argsort(split_keys(np.uint64(seed), numbers), kind="stable")
    splits = np.full(k, _TRAIN, np.int64)
    splits[order[: held_out[0]]] = _VALIDATION
    splits[order[held_out[0] : sum(held_out)]] = _TEST
    return splits, order


def deal_sets(
    config: SamplingConfig,
    seed: int,
    numbers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    relations: NDArray[np.int64],
    n_relations: int,
) -> NDArray[np.int64]:
    """For each set the index into `SPLITS`, int64[k].

    The shares are exact to rounding. Each drawn relation occurs in a training set, unless
    there are too few training sets to hold them all.

    Args:
        relations: int64[offsets[-1]], those of the sets' triplets.
    """
    splits, order = deal(config, seed, numbers)
    missing = swap_into_training(splits, order, offsets, relations, n_relations)
    if missing:
        log.warning(
            "%d of the drawn relations have no training set: there are too few sets to hold them all. "
            "Draw more sets (sampling.n_sets) to train on every relation.",
            missing,
        )
    return splits


class Reserve:
    """Keeps the splits apart where their triplets or entities must differ.

    Hubs, entities that are the object of more than 8 triplets, belong to nobody: no text could do without them.
    Validation and test have no triplet between two of these, so all of their triplets are new. They never take the
    first triplet of a relation, so that training has some of each. What earlier runs drew without holding it out
    may be in their training sets, so it belongs to training.
    """

    def __init__(self, config: SamplingConfig, arrays: Arrays, state: CoverageState) -> None:
        self._kind = config.held_out
        self._arrays = arrays
        self._state = state
        _refuse_to_mix(self._kind, state)
        if self._kind == "triplets" and not len(state.edge_owners):
            state.edge_owners = np.where(state.edge_counts > 0, _TRAIN + 1, 0).astype(np.uint8)
        if self._kind == "entities":
            self._common = (np.diff(arrays.in_offsets) > _HUB_DEGREE) | ~arrays.is_entity
            if not len(state.node_owners):
                seen = (state.node_counts > 0) & ~self._common
                state.node_owners = np.where(seen, _TRAIN + 1, 0).astype(np.uint8)
            first = arrays.relation_edges[arrays.relation_offsets[:-1][np.diff(arrays.relation_offsets) > 0]]
            self._for_training = np.zeros(len(arrays.is_entity), np.bool_)
            self._for_training[arrays.subjects[first]] = True
            self._for_training[arrays.out_objects[first]] = True

    def closed_edges(self, split: int | None) -> NDArray[np.bool_]:
        """bool[m]: edges that the sets of a split may not use; empty if all are open."""
        if self._kind == "entities" and split != _TRAIN:
            common_ends: NDArray[np.bool_] = (
                self._common[self._arrays.subjects] & self._common[self._arrays.out_objects]
            )
            return common_ends
        if self._kind != "triplets" or split is None:
            return np.zeros(0, np.bool_)
        closed: NDArray[np.bool_] = close_edges(self._arrays, self._state.edge_owners, split + 1)
        return closed

    def closed_nodes(self, split: int | None) -> NDArray[np.bool_]:
        """bool[n]: nodes that the sets of a split may not use."""
        if self._kind != "entities" or split is None:
            return np.zeros(len(self._arrays.is_entity), np.bool_)
        owners = self._state.node_owners
        closed = (owners != 0) & (owners != split + 1)
        return closed if split == _TRAIN else closed | (self._for_training & ~self._common)

    def no_start(self, split: int | None) -> NDArray[np.bool_]:
        """bool[n]: nodes from which no set of a split may start."""
        if self._kind != "entities" or split in (None, _TRAIN):
            return np.zeros(len(self._arrays.is_entity), np.bool_)
        return self._common

    def take(self, split: int | None, edges: NDArray[np.int32]) -> None:
        """What the sets of a split have drawn is theirs."""
        if split is None:
            return
        if self._kind == "triplets":
            self._state.edge_owners[edges] = split + 1
        elif self._kind == "entities":
            nodes = np.concatenate([self._arrays.subjects[edges], self._arrays.out_objects[edges]])
            self._state.node_owners[nodes[~self._common[nodes]]] = split + 1

    def take_topics(self, split: int | None, nodes: NDArray[np.int64]) -> None:
        """The topics of the negative sets of a split are its own, too."""
        if self._kind == "entities" and split is not None:
            self._state.node_owners[nodes[~self._common[nodes]]] = split + 1


def _refuse_to_mix(kind: str, state: CoverageState) -> None:
    for earlier, owners in (("triplets", state.edge_owners), ("entities", state.node_owners)):
        if len(owners) and kind != earlier:
            raise ConfigError(
                f"The earlier sets were drawn with 'sampling.held_out: {earlier}', these shall be with '{kind}': their "
                f"training sets might hold what the earlier test sets promise to be new. Set it to '{earlier}'."
            )
