"""Arrow columns of triplets in the SynthIE form → flat columns of keys, and names for reading."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthie.evaluation.corpus import UNKNOWN, Columns

__all__ = ["flat_columns", "names_of"]

_PARTS = ("subject", "predicate", "object")


def flat_columns(triplets: pa.ChunkedArray) -> Columns:
    """Lengths of the lists, and the flat ids of subjects, relations and objects.

    What an unconstrained model invented has no id and is told apart by its name.
    """
    lengths = pc.fill_null(pc.list_value_length(triplets), 0).to_numpy().astype(np.int64)
    flat = pc.list_flatten(triplets).combine_chunks()
    ids = []
    for part in _PARTS:
        uri = pc.fill_null(pc.struct_field(flat, [part, "uri"]), "")
        name = pc.fill_null(pc.struct_field(flat, [part, "surfaceform"]), "")
        ids.append(pc.if_else(pc.equal(uri, ""), pc.binary_join_element_wise(UNKNOWN, name, ""), uri))
    return lengths, *ids


def names_of(triplets: pa.ChunkedArray) -> dict[str, str]:
    """Id -> name, of what has an id."""
    flat = pc.list_flatten(triplets).combine_chunks()
    names: dict[str, str] = {}
    for part in _PARTS:
        pairs = pa.table({column: pc.struct_field(flat, [part, column]) for column in ("uri", "surfaceform")})
        unique = pairs.group_by("uri").aggregate([("surfaceform", "min")])
        names |= dict(zip(unique["uri"].to_pylist(), unique["surfaceform_min"].to_pylist(), strict=True))
    return names
