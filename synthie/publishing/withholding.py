"""Records of which one entity is "not in the world": the text states its facts, the label leaves them out.

From such records an extractor learns to pass over what its graph does not have. Of a chosen record one entity is
drawn; every triplet with it leaves the label and goes into the column ``withheld``, with it the entities and
relations that the label has no more. Which records and entities are chosen follows from the seed and the record's
request alone, so that it never changes when records come or go. In other records the entity may be labelled.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthie.publishing.rows import DATASET_SCHEMA
from synthie.records import LITERAL

__all__ = ["withhold"]

_CHANGED = ("triplets", "entities", "relations", "withheld")
_RANGE = 1 << 64


def withhold(rows: pa.Table, share: float, seed: int, *, only: bool = False) -> pa.Table:
    """Withhold an entity from a share of the rows.

    Args:
        rows: `DATASET_SCHEMA`.
        share: of the rows that stay with at least one triplet, expected.
        seed: decides which, and which entity.
        only: return the changed rows alone.

    Returns:
        the rows in their order.
    """
    draws = np.array([_draw(seed, key) for key in rows["request_key"].to_pylist()], np.float64)
    several = pc.greater(pc.list_value_length(rows["triplets"]), 1).to_numpy()
    chosen = np.flatnonzero((draws < share) & several)
    changes: dict[int, dict[str, Any]] = {}
    for place, row in zip(chosen.tolist(), rows.take(chosen).to_pylist(), strict=True):
        change = _without_an_entity(row, seed)
        if change is not None:
            changes[place] = change
    if only:
        rows, changes = rows.take(pa.array(list(changes), pa.int64())), dict(enumerate(changes.values()))
    return _with_changes(rows, changes)


def _with_changes(rows: pa.Table, changes: dict[int, dict[str, Any]]) -> pa.Table:
    """The table with the rows at some places replaced in the columns `_CHANGED`."""
    if not changes:
        return rows
    order = np.arange(len(rows))
    order[list(changes)] = len(rows) + np.arange(len(changes))
    for name in _CHANGED:
        field = DATASET_SCHEMA.field(name)
        new = pa.array([change[name] for change in changes.values()], field.type)
        column = pa.chunked_array([*rows[name].chunks, new], field.type).take(pa.array(order))
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows


def _without_an_entity(row: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """The changed columns of a row; None if each of its entities is in all triplets."""
    triplets = row["triplets"]
    ends = [{triplet["subject"]["uri"], triplet["object"]["uri"]} for triplet in triplets]
    candidates = sorted(
        uri for uri in set().union(*ends) if not LITERAL.match(uri) and not all(uri in pair for pair in ends)
    )
    if not candidates:
        return None
    entity = candidates[int(_draw(seed + 1, row["request_key"]) * len(candidates))]
    kept = [triplet for triplet, pair in zip(triplets, ends, strict=True) if entity not in pair]
    nodes = {triplet[part]["uri"] for triplet in kept for part in ("subject", "object")}
    relations = {triplet["predicate"]["uri"] for triplet in kept}
    return {
        "triplets": kept,
        "entities": [one for one in row["entities"] if one["uri"] in nodes],
        "relations": [one for one in row["relations"] if one["uri"] in relations],
        "withheld": [triplet for triplet, pair in zip(triplets, ends, strict=True) if entity in pair],
    }


def _draw(seed: int, key: str) -> float:
    """From 0 to below 1."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=seed.to_bytes(16, "big", signed=False)).digest()
    return (int.from_bytes(digest, "big") >> 11) / (_RANGE >> 11)
