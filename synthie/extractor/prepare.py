"""What training needs before its first step: tokenizer, examples as arrays, and the world.

Loaded only when training really runs, for it imports transformers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from transformers import AutoConfig, AutoTokenizer

from synthie.errors import ConfigError
from synthie.extractor.examples import make_examples, read_texts
from synthie.extractor.names import names_of_graph
from synthie.extractor.presets import Architecture, Preset
from synthie.extractor.retelling import EntitySwapper, Record, by_statement
from synthie.extractor.runtime import from_pretrained
from synthie.extractor.tokenizer import tokenize, tokenize_world, train_tokenizer
from synthie.extractor.world import World
from synthie.records import Mention

__all__ = ["architecture", "prepare"]

log = logging.getLogger(__name__)


def prepare(settings: Preset, graph: Path, dataset: Path, folder: Path, *, seed: int) -> dict[str, Any]:
    """Fill ``folder`` with the tokenizer, the world, and the examples of each split in ``train`` and ``validation``.

    Args:
        settings: the preset.
        graph: folder of the graph stage.
        dataset: folder of the dataset stage.
        folder: an empty folder.
        seed: decides which entities are exchanged for which.

    Returns:
        counts for the manifest; also in ``counts.json``.

    Raises:
        ConfigError: the base model cannot be loaded or used.
        InputError: graph and data set do not belong together, or hold nothing to train on.
    """
    form = settings.linearization
    names = names_of_graph(graph)
    nodes, relations = names.nodes, names.relations
    node_names, relation_names = nodes["name"].to_pylist(), relations["name"].to_pylist()
    if settings.base_model is None:
        written = (form.present(name) for name in node_names)
        texts = chain(read_texts(dataset, "train"), written, relation_names)
        tokenizer = train_tokenizer(texts, architecture(settings).vocabulary)
        vocabulary = len(tokenizer)
    else:
        tokenizer = from_pretrained(AutoTokenizer, settings.base_model)
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            raise ConfigError(
                f"The tokenizer of {settings.base_model} lacks a padding or end token, which an encoder-decoder needs."
            )
        # A model may have more output columns than its tokenizer has tokens.
        vocabulary = from_pretrained(AutoConfig, settings.base_model).vocab_size
    tokenizer.model_max_length = settings.max_source_tokens
    tokenizer.save_pretrained(folder)
    tokens = tokenize_world(tokenizer, form, node_names, relation_names)
    World.build(
        form,
        tokens,
        nodes,
        relations,
        vocabulary=vocabulary,
        pad=tokenizer.pad_token_id,
        degrees=names.degrees,
        types=names.types,
    ).save(folder)
    counts: dict[str, Any] = {"vocabulary": vocabulary, "nodes": nodes.num_rows, "relations": relations.num_rows}
    for split in ("train", "validation"):
        examples, too_long = make_examples(
            dataset,
            split,
            tokens=tokens,
            form=form,
            tokenize=lambda texts: tokenize(tokenizer, texts, end=True),
            node_ids=nodes["id"].combine_chunks(),
            relation_ids=relations["id"].combine_chunks(),
            max_source=settings.max_source_tokens,
            max_target=settings.max_target_tokens,
            retell=_retelling(
                settings, graph, nodes, copies=settings.swapped_copies if split == "train" else 0, seed=seed
            ),
        )
        examples.save(folder / split)
        counts |= {f"{split}_examples": len(examples), f"{split}_too_long": too_long.examples}
        counts |= {f"{split}_too_long_texts": too_long.texts, f"{split}_too_long_targets": too_long.targets}
        if too_long.examples:
            log.warning(
                "%d of %d examples of the %s split are left out: %d have a text of more than %d tokens, %d a target of "
                "more than %d (extractor.max_source_tokens and max_target_tokens)",
                too_long.examples,
                too_long.examples + len(examples),
                split,
                too_long.texts,
                settings.max_source_tokens,
                too_long.targets,
                settings.max_target_tokens,
            )
    (folder / "counts.json").write_text(json.dumps(counts))
    return counts


def _retelling(
    settings: Preset, graph: Path, nodes: pa.Table, *, copies: int, seed: int
) -> Callable[[list[Record]], list[Record]] | None:
    """How records are changed before they are tokenised; None: not at all."""
    by_text = settings.triplet_order == "statement"
    if not by_text and not copies:
        return None
    ids, names = nodes["id"].combine_chunks(), nodes["name"].combine_chunks()

    def name(node: int) -> str:
        return names[node].as_py()

    def mention(node: int) -> Mention:
        return Mention(name(node), ids[node].as_py())

    swapper = EntitySwapper.open(graph, name) if copies else None
    random = Random(seed)

    def retell(records: list[Record]) -> list[Record]:
        told = [by_statement(record, mention) for record in records] if by_text else records
        swapped = [swapper.swap(record, random) for _ in range(copies) for record in told] if swapper else []
        return told + swapped

    return retell


def architecture(settings: Preset) -> Architecture:
    """The model to start from random weights.

    Raises:
        ConfigError: the settings name neither that nor a base model.
    """
    if settings.architecture is None:
        raise ConfigError("The settings name neither a base_model nor an architecture to train.")
    return settings.architecture
