"""Building a world for an extractor or a base model, and telling what a world holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synthie.errors import ConfigError
from synthie.extractor.linearization import Form, Linearization, Names, linearization
from synthie.extractor.names import WorldNames
from synthie.extractor.runtime import from_pretrained, require_libraries
from synthie.extractor.world import NODES, RELATIONS, World

__all__ = ["build_like", "build_with", "world_summary"]

_SHOWN = 5  # examples of names that cannot be written


def build_like(extractor: Path, names: WorldNames, folder: Path) -> World:
    """Build a world that a trained extractor can write, in its tokens and its linearization.

    Raises:
        InputError: the folder holds no trained extractor, or no name can be written.
    """
    trained = World.open(extractor)
    return _build(str(extractor), trained.form, trained.trie.vocabulary, names, folder)


def build_with(model: str, form: Form, written: Names, names: WorldNames, folder: Path) -> World:
    """Build a world for a base model.

    Args:
        model: folder or hub name of a model with its tokenizer.
        form: the linearization's.
        written: how node names are written.
        names: what may be written.
        folder: where the world goes.

    Raises:
        ConfigError: the model cannot be loaded or has no padding or end token.
        InputError: no name can be written.
    """
    require_libraries()
    from transformers import AutoConfig

    vocabulary = from_pretrained(AutoConfig, model).vocab_size
    return _build(model, linearization(form, written), vocabulary, names, folder)


def _build(tokenizer: str, form: Linearization, vocabulary: int, names: WorldNames, folder: Path) -> World:
    require_libraries()
    from transformers import AutoTokenizer

    from synthie.extractor.tokenizer import tokenize_world

    loaded = from_pretrained(AutoTokenizer, tokenizer)
    if loaded.pad_token_id is None or loaded.eos_token_id is None:
        raise ConfigError(f"The tokenizer of {tokenizer} lacks a padding or end token; use a T5 model.")
    tokens = tokenize_world(loaded, form, names.nodes["name"].to_pylist(), names.relations["name"].to_pylist())
    world = World.build(
        form,
        tokens,
        names.nodes,
        names.relations,
        vocabulary=vocabulary,
        pad=loaded.pad_token_id,
        degrees=names.degrees,
        types=names.types,
    )
    folder.mkdir(parents=True, exist_ok=True)
    world.save(folder)
    return world


def world_summary(world: World) -> dict[str, Any]:
    """What a world holds, as figures and, of names that cannot be written, some examples."""
    trie = world.trie
    trees = trie.trees[trie.ends]
    counts = np.diff(trie.value_offsets)
    owners = np.repeat(trees, counts)
    written = np.isin(np.arange(world.nodes.num_rows), trie.values[owners == NODES])
    sizes = counts[trees == NODES]
    arrays = (trie.keys, trie.offsets, trie.terminal, trie.ends, trie.value_offsets, trie.values)
    return {
        "linearization": world.form.form,
        "names_written_with": world.form.names,
        "markers": [f"{marker} {tokens}" for marker, tokens in world.markers.items()],
        "vocabulary": trie.vocabulary,
        "nodes": world.nodes.num_rows,
        "relations": world.relations.num_rows,
        "token_sequences_of_nodes": len(sizes),
        "shared_sequences": int((sizes > 1).sum()),
        "nodes_that_share_one": int(sizes[sizes > 1].sum()),
        "nodes_not_writable": int((~written).sum()),
        "examples_not_writable": world.nodes["name"].take(np.flatnonzero(~written)[:_SHOWN]).to_pylist(),
        "relations_not_writable": world.relations.num_rows - int((owners == RELATIONS).sum()),
        "degrees_known": "yes" if world.degrees is not None else "no",
        "classes_known": "yes" if world.types is not None else "no",
        "trie_nodes": trie.nodes,
        "trie_bytes": sum(array.nbytes for array in arrays),
        "bytes_of_names": world.nodes.nbytes + world.relations.nbytes,
    }
