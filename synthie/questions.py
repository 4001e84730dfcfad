"""What is asked: the triplet sets of a run, with names from the graph, and the request body of each.

A negative, a set without triplets, has a topic instead: the entity that its text
shall mention and state nothing about. Sets are read in batches, so memory does
not grow with their number. A request's key hashes the endpoint and the exact
body: it finds the answer in the journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from kg.graph import KnowledgeGraph
from synthie.config import GenerationConfig
from synthie.errors import ConfigError, InputError
from synthie.llm.client import Request
from synthie.llm.journal import KEY_BYTES
from synthie.llm.pricing import input_token_bound
from synthie.llm.prompts import Fact, Prompt, Relation
from synthie.records import Mention, Triplet

__all__ = ["Questions", "TripletSet", "TripletSets", "answer_key", "count_negatives"]


@dataclass(frozen=True, slots=True)
class TripletSet:
    """A set of triplets; a negative has none, but a topic."""

    id: int
    split: str
    triplets: list[Triplet]
    topic: Mention | None = None


class TripletSets:
    """The sets of a run, read in batches, with names from the graph.

    Attributes:
        count: number of sets.
        negatives: how many of them are negatives.
    """

    def __init__(self, graph: Path, sets: Path) -> None:
        self.graph = KnowledgeGraph.open(graph)
        self._path = sets / "sets.parquet"
        try:
            self.count: int = pq.read_metadata(self._path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self._path, error) from error
        self.negatives = count_negatives(sets)
        self.node = lru_cache(1 << 16)(self._node)
        self.relation = lru_cache(None)(self._relation)

    def batches(self, rows: int) -> Iterator[list[TripletSet]]:
        """All sets in order, ``rows`` at a time."""
        columns = ["id", "split", "triplets", *(["topic"] if self.negatives else [])]
        try:
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(batch_size=rows, columns=columns):
                    yield [self._triplet_set(row) for row in batch.to_pylist()]
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self._path, error) from error
        except KeyError as error:
            raise InputError(
                f"{self._path} does not fit the graph in {self.graph.folder}: {error.args[0]}. "
                "Run the sampling stage again."
            ) from error

    def _triplet_set(self, row: dict[str, Any]) -> TripletSet:
        triplets = [
            Triplet(
                self.node(triplet["subject"])[0],
                self.relation(triplet["relation"])[0],
                self.node(triplet["object"])[0],
            )
            for triplet in row["triplets"]
        ]
        topic = row.get("topic")
        if bool(triplets) == bool(topic):
            raise InputError(
                f"Set {row['id']} in {self._path} must have either triplets or a topic. Run the sampling stage again."
            )
        return TripletSet(row["id"], row["split"], triplets, self.node(topic)[0] if topic else None)

    def _node(self, uri: str) -> tuple[Mention, str]:
        """A node, and its name as prompts show it: spaces for underscores, no id that only makes it unique."""
        node = self.graph.node(uri)
        spoken = node.name.removesuffix(f"_({uri})").replace("_", " ") if node.kind == "entity" else node.name
        return Mention(node.name, uri), spoken

    def _relation(self, uri: str) -> tuple[Mention, Relation]:
        relation = self.graph.relation(uri)
        return Mention(relation.label, uri), Relation(relation.label, relation.description or "")


def count_negatives(sets: Path) -> int:
    """How many sets of the sampling stage's folder are negatives; none where the file lacks the column for topics."""
    path = sets / "sets.parquet"
    try:
        if "topic" not in pq.read_schema(path).names:
            return 0
        topics = pq.read_table(path, columns=["topic"])["topic"]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return len(topics) - topics.null_count


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"Cannot read {path}: {str(error).rstrip('.')}. Run the sampling stage again.")


class Questions:
    """The request body of each set.

    Raises:
        ConfigError: the request has no limit, or there are negatives and the prompt cannot ask for them.
    """

    def __init__(self, config: GenerationConfig, prompt: Prompt, sets: TripletSets, *, seed: int) -> None:
        self.sets = sets
        self.config = config
        self._prompt = prompt
        fields: dict[str, Any] = {
            "temperature": prompt.temperature if config.temperature is None else config.temperature,
            "max_tokens": config.max_tokens or prompt.max_tokens,
            "seed": seed,
            **config.extra_body,
        }
        self._fields = {name: value for name, value in fields.items() if value is not None}
        limits = [self._fields[name] for name in ("max_completion_tokens", "max_tokens") if name in self._fields]
        if not limits or not all(isinstance(limit, int) and limit > 0 for limit in limits):
            raise ConfigError(
                "The request needs max_tokens or max_completion_tokens, a positive whole number: budget and limits "
                "reckon with it. Set generation.max_tokens, or one of them in generation.extra_body."
            )
        self.output_bound: int = max(limits)
        if sets.negatives:
            prompt.require_negatives()

    def messages(self, triplet_set: TripletSet) -> list[dict[str, str]]:
        if triplet_set.topic:
            return self._prompt.negative_messages(self.sets.node(triplet_set.topic.uri)[1])
        facts = [
            Fact(self.sets.node(t.subject.uri)[1], t.predicate.surfaceform, self.sets.node(t.object.uri)[1])
            for t in triplet_set.triplets
        ]
        relations = dict.fromkeys(self.sets.relation(t.predicate.uri)[1] for t in triplet_set.triplets)
        return self._prompt.messages(facts, list(relations))

    def request(self, triplet_set: TripletSet) -> Request:
        messages = self.messages(triplet_set)
        body = _encoder.encode({"model": self.config.model, "messages": messages, **self._fields})
        return Request(body, input_token_bound(body, len(messages)), self.output_bound)

    def origin(self, triplet_set: TripletSet) -> dict[str, str]:
        """What a sample tells about who was asked, and how."""
        return {
            "model": self.config.model,
            "endpoint": self.config.base_url or "built-in",
            "prompt": self._prompt.name,
            "prompt_hash": self._prompt.negatives_hash if triplet_set.topic else self._prompt.hash,
        }


_encoder = msgspec.json.Encoder(order="deterministic")


def answer_key(identity: str, body: bytes) -> bytes:
    return hashlib.blake2b(identity.encode() + b"\0" + body, digest_size=KEY_BYTES).digest()
