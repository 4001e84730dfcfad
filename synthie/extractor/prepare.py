"""What training needs before its first step: tokenizer, examples as arrays, and the world.

Loaded only when training really runs, for it imports transformers.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers import AutoConfig, AutoTokenizer

from synthie.errors import ConfigError
from synthie.extractor.examples import make_examples, read_texts
from synthie.extractor.presets import Architecture, Preset
from synthie.extractor.runtime import from_pretrained
from synthie.extractor.tokenizer import tokenize, tokenize_world, train_tokenizer
from synthie.extractor.world import World

__all__ = ["architecture", "prepare"]


def prepare(settings: Preset, graph: Path, dataset: Path, folder: Path) -> dict[str, Any]:
    """Fill ``folder`` with the tokenizer, the world, and the examples of each split in ``train`` and ``validation``.

    Args:
        settings: the preset.
        graph: folder of the graph stage.
        dataset: folder of the dataset stage.
        folder: an empty folder.

    Returns:
        counts for the manifest; also in ``counts.json``.

    Raises:
        ConfigError: the base model cannot be loaded or used.
        InputError: graph and data set do not belong together, or hold nothing to train on.
    """
    form = settings.linearization
    nodes = pq.read_table(graph / "nodes.parquet", columns=["id", "name"])
    relations = pq.read_table(graph / "relations.parquet", columns=["id", "label"]).rename_columns(["id", "name"])
    node_names, relation_names = nodes["name"].to_pylist(), relations["name"].to_pylist()
    if settings.base_model is None:
        names = (form.present(name) for name in node_names)
        texts = chain(read_texts(dataset, "train"), names, relation_names)
        tokenizer = train_tokenizer(texts, architecture(settings).vocabulary)
        vocabulary = len(tokenizer)
    else:
        tokenizer = from_pretrained(AutoTokenizer, settings.base_model)
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            raise ConfigError(f"The tokenizer of {settings.base_model} lacks a padding or end token; use a T5 model.")
        # A model may have more output columns than its tokenizer has tokens.
        vocabulary = from_pretrained(AutoConfig, settings.base_model).vocab_size
    tokenizer.model_max_length = settings.max_source_tokens
    tokenizer.save_pretrained(folder)
    tokens = tokenize_world(tokenizer, form, node_names, relation_names)
    World.build(form, tokens, nodes, relations, vocabulary=vocabulary, pad=tokenizer.pad_token_id).save(folder)
    counts: dict[str, Any] = {"vocabulary": vocabulary, "nodes": nodes.num_rows, "relations": relations.num_rows}
    for split in ("train", "validation"):
        examples, dropped = make_examples(
            dataset,
            split,
            tokens=tokens,
            form=form,
            tokenize=lambda texts: tokenize(tokenizer, texts, end=True),
            node_ids=nodes["id"].combine_chunks(),
            relation_ids=relations["id"].combine_chunks(),
            max_source=settings.max_source_tokens,
            max_target=settings.max_target_tokens,
        )
        examples.save(folder / split)
        counts |= {f"{split}_records": len(examples), f"{split}_too_long": dropped}
    (folder / "counts.json").write_text(json.dumps(counts))
    return counts


def architecture(settings: Preset) -> Architecture:
    """The model to start from random weights.

    Raises:
        ConfigError: the settings name neither that nor a base model.
    """
    if settings.architecture is None:
        raise ConfigError("The settings name neither a base_model nor an architecture to train.")
    return settings.architecture
