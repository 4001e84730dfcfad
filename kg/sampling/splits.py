"""Step 10: which sets train, which are held out.

``held_out: sets`` deals finished sets. For ``triplets`` and ``entities`` the sets of
a split are drawn as a phase of their own, test first, training last; what a phase
draws belongs to its split from then on, and the other phases keep away from it. So are
those of test_unseen_entities, before all others. Those of test_unseen_combinations are
picked from finished sets by a hash of their relations alone, so that runs which
continue each other pick the same combinations.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kg.errors import ConfigError
from kg.sampling.arrays import Arrays
from kg.sampling.config import SamplingConfig
from kg.sampling.kernels import close_edges, split_keys, swap_into_training
from kg.sampling.state import CoverageState

__all__ = ["SPLITS", "Phase", "Reserve", "deal", "deal_open_sets", "deal_sets", "phases"]

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test", "test_unseen_entities", "test_unseen_combinations")
_TRAIN, _VALIDATION, _TEST, _UNSEEN_ENTITIES, _UNSEEN_COMBINATIONS = range(5)
_HUB_DEGREE = 8


class Phase(NamedTuple):
    """Sets that are drawn one after the other under the same conditions.

    ``split`` is an index into `SPLITS`, or None where sets of all splits are drawn together.
    """

    split: int | None
    n_sets: int


def phases(config: SamplingConfig, n_sets: int) -> list[Phase]:
    """What is drawn in which order, ``n_sets`` in all; the shares are exact to rounding."""
    unseen = round(n_sets * config.unseen_entities_share)
    others = n_sets - unseen
    planned = [Phase(_UNSEEN_ENTITIES, unseen)]
    if config.held_out == "sets":
        planned += [Phase(None, others)]
    else:
        test, validation = round(others * config.test_share), round(others * config.validation_share)
        planned += [Phase(_TEST, test), Phase(_VALIDATION, validation), Phase(_TRAIN, others - test - validation)]
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


def deal_open_sets(
    config: SamplingConfig,
    seed: int,
    splits: NDArray[np.int64],
    numbers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    relations: NDArray[np.int64],
    n_relations: int,
) -> NDArray[np.int64]:
    """For each set the index into `SPLITS`, int64[k].

    Sets of unseen combinations go into their split, wherever they were, except those of unseen entities, which do not
    train either. One with a relation that no training set has is a test set instead: it could not tell whether the
    relations or their company are hard. What is open then is dealt.

    Args:
        splits: int64[k], those of the phases, -1 where a phase draws sets of all splits.
        numbers, offsets, relations, n_relations: as for `deal_sets`.
    """
    apart = _unseen_combinations(config.unseen_combinations_share, offsets, relations) & (splits != _UNSEEN_ENTITIES)
    splits = np.where(apart, _UNSEEN_COMBINATIONS, splits)
    sizes = np.diff(offsets)
    is_open = splits == -1
    if is_open.any():
        open_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[is_open])])
        open_relations = relations[np.repeat(is_open, sizes)]
        splits[is_open] = deal_sets(config, seed, numbers[is_open], open_offsets, open_relations, n_relations)
    if apart.any():
        trained = np.bincount(relations[np.repeat(splits == _TRAIN, sizes)], minlength=n_relations) > 0
        places = np.repeat(np.arange(len(splits)), sizes)
        lacking = apart & (np.bincount(places[~trained[relations]], minlength=len(splits)) > 0)
        splits[lacking] = _TEST
        if lacking.any():
            log.warning(
                "%d sets of unseen combinations have a relation without a training set; they are test sets.",
                np.count_nonzero(lacking),
            )
    return splits


def _unseen_combinations(share: float, offsets: NDArray[np.int64], relations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool[k]: sets of two relations or more whose combination is among the share that training shall not have."""
    k = len(offsets) - 1
    places = np.repeat(np.arange(k), np.diff(offsets))
    order = np.lexsort((relations, places))
    places, relations = places[order], relations[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (places[1:] != places[:-1]) | (relations[1:] != relations[:-1])
    codes = np.zeros(k, np.uint64)
    np.add.at(codes, places[is_new], split_keys(np.uint64(0), relations[is_new]))
    keys = split_keys(np.uint64(0), codes.view(np.int64)) >> np.uint64(11)  # 53 bits, which a float holds exactly
    several: NDArray[np.bool_] = np.bincount(places[is_new], minlength=k) > 1
    return several & (keys < share * (1 << 53))


class Reserve:
    """Keeps the splits apart where their triplets or entities must differ.

    Hubs, entities that are the object of more than 8 triplets, belong to nobody: no text could do without them.
    Validation and test have no triplet between two of these, so all of their triplets are new. They never take the
    first triplet of a relation, so that training has some of each. What earlier runs drew without holding it out
    may be in their training sets, so it belongs to training. Where only the sets of test_unseen_entities have
    entities of their own, all that other sets draw belongs to training.
    """

    def __init__(self, config: SamplingConfig, arrays: Arrays, state: CoverageState) -> None:
        self._kind = config.held_out
        self._arrays = arrays
        self._state = state
        self._owns_entities = self._kind == "entities" or config.unseen_entities_share > 0 or len(state.node_owners) > 0
        _refuse_to_mix(self._kind, state)
        if self._kind == "triplets" and not len(state.edge_owners):
            state.edge_owners = np.where(state.edge_counts > 0, _TRAIN + 1, 0).astype(np.uint8)
        if self._owns_entities:
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
        arrays = self._arrays
        closed: NDArray[np.bool_] = np.zeros(0, np.bool_)
        if self._kind == "triplets" and split is not None:
            closed = close_edges(arrays, self._state.edge_owners, split + 1)
        if self._has_own_entities(split):
            common_ends = self._common[arrays.subjects] & self._common[arrays.out_objects]
            closed = closed | common_ends if len(closed) else common_ends
        return closed

    def closed_nodes(self, split: int | None) -> NDArray[np.bool_]:
        """bool[n]: nodes that the sets of a split may not use."""
        if not self._owns_entities:
            return np.zeros(len(self._arrays.is_entity), np.bool_)
        owners = self._state.node_owners
        closed: NDArray[np.bool_] = (owners != 0) & (owners != self._owner(split))
        return closed | (self._for_training & ~self._common) if self._has_own_entities(split) else closed

    def no_start(self, split: int | None) -> NDArray[np.bool_]:
        """bool[n]: nodes from which no set of a split may start."""
        return self._common if self._has_own_entities(split) else np.zeros(len(self._arrays.is_entity), np.bool_)

    def take(self, split: int | None, edges: NDArray[np.int32]) -> None:
        """What the sets of a split have drawn is theirs."""
        if self._kind == "triplets" and split is not None:
            self._state.edge_owners[edges] = split + 1
        if self._owns_entities:
            self._take_nodes(split, np.concatenate([self._arrays.subjects[edges], self._arrays.out_objects[edges]]))

    def take_topics(self, split: int | None, nodes: NDArray[np.int64]) -> None:
        """The topics of the negative sets of a split are its own, too."""
        if self._owns_entities:
            self._take_nodes(split, nodes)

    def _take_nodes(self, split: int | None, nodes: NDArray[Any]) -> None:
        self._state.node_owners[nodes[~self._common[nodes]]] = self._owner(split)

    def _has_own_entities(self, split: int | None) -> bool:
        """Whether a split is one of unseen entities."""
        return split == _UNSEEN_ENTITIES or (self._kind == "entities" and split != _TRAIN)

    def _owner(self, split: int | None) -> int:
        """Whose entities the sets of a split use."""
        return 1 + (split if split is not None and self._has_own_entities(split) else _TRAIN)


def _refuse_to_mix(kind: str, state: CoverageState) -> None:
    earlier = kind
    if len(state.edge_owners):
        earlier = "triplets"
    elif np.isin(state.node_owners, (_VALIDATION + 1, _TEST + 1)).any():
        earlier = "entities"
    elif kind == "entities" and np.any(state.node_owners == _UNSEEN_ENTITIES + 1):
        earlier = "sets"
    if kind != earlier:
        raise ConfigError(
            f"The earlier sets were drawn with 'sampling.held_out: {earlier}', these shall be with '{kind}': their "
            f"training sets might hold what the earlier test sets promise to be new. Set it to '{earlier}'."
        )
