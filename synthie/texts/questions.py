"""What is asked: the triplet sets of a run, with names from the graph, and the request body of each.

A negative, a set without triplets, has a topic instead: the entity that its text
shall mention and state nothing about. Sets are read in batches, so memory does
not grow with their number. A request's key hashes the endpoint and the exact
body: it finds the answer in the journal.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.catalogue import Catalogue
from synthie.config import GenerationConfig
from synthie.errors import ConfigError, InputError
from synthie.llm.client import Request
from synthie.llm.endpoint import Endpoint
from synthie.llm.journal import KEY_BYTES, Journal
from synthie.llm.pricing import input_token_bound
from synthie.llm.prompts import Fact, Prompt, Relation
from synthie.llm.protocol import encode_body
from synthie.records import Mention, Triplet
from synthie.surface.forms import usable_aliases

__all__ = [
    "FIRST_TRY",
    "Complaint",
    "Questions",
    "TripletSet",
    "TripletSets",
    "Try",
    "count_negatives",
    "endpoint_identity",
    "models_of",
]


@dataclass(frozen=True, slots=True)
class TripletSet:
    """A set of triplets; a negative has none, but a topic."""

    id: int
    split: str
    triplets: list[Triplet]
    topic: Mention | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """Which text of a set is asked for.

    Attributes:
        number: 0 for the first; each has its own seed, style and demonstrations.
        doublings: how often the limit of tokens is doubled.
        repairs: key of the rejected text that is shown with its faults, to be written anew; None: a text afresh.
    """

    number: int = 0
    doublings: int = 0
    repairs: bytes | None = None


FIRST_TRY = Try()
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")  # of output, as the protocols name them


class Complaint(NamedTuple):
    """A rejected text and what is wrong with it, one sentence a fault."""

    text: str
    faults: list[str]


class TripletSets:
    """The sets of a run, read in batches, with names from the graph.

    Attributes:
        count: number of sets.
        negatives: how many of them are negatives.
    """

    def __init__(self, graph: Path, sets: Path) -> None:
        self.graph = Catalogue.open(graph)
        self._path = sets / "sets.parquet"
        try:
            self.count: int = pq.read_metadata(self._path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self._path, error) from error
        self.negatives = count_negatives(sets)
        self.node = lru_cache(1 << 16)(self._node)
        self.aliases = lru_cache(1 << 16)(self._aliases)
        self.relation = lru_cache(None)(self._relation)

    def batches(self, rows: int, chosen: np.ndarray | None = None) -> Iterator[list[tuple[int, TripletSet]]]:
        """The sets in order with their positions in the file, from ``rows`` of them at a time.

        Args:
            rows: positions behind one batch; batch number n holds those from n × rows on.
            chosen: bool[count], the sets to read; None for all. A batch may be empty.

        Raises:
            InputError: the file cannot be read or does not fit the graph.
        """
        first, pairs = 0, list[tuple[int, TripletSet]]()
        try:
            for batch in self._pieces(rows):
                count = batch.num_rows
                places: Iterable[int] = range(first, first + count)
                if chosen is not None:
                    mask = chosen[first : first + count]
                    places, batch = np.flatnonzero(mask) + first, batch.filter(_bits(mask))
                found = zip(places, batch.to_pylist(), strict=True)
                pairs += [(int(position), self._triplet_set(row)) for position, row in found]
                first += count
                if first % rows == 0 or first == self.count:
                    yield pairs
                    pairs = []
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self._path, error) from error
        except KeyError as error:
            raise InputError(
                f"{self._path} does not fit the graph in {self.graph.folder}: {error.args[0]}. "
                "Run the sampling stage again."
            ) from error

    def _pieces(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of the file, none of the pieces across a multiple of ``rows``.

        One row group after the other is opened: together, each takes a megabyte as long as the file is read.
        """
        columns = ["id", "split", "triplets", *(["topic"] if self.negatives else [])]
        first = 0
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    split = -first % rows
                    yield from (piece for piece in (batch.slice(0, split), batch.slice(split)) if piece.num_rows)
                    first += batch.num_rows

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

    def _aliases(self, uri: str) -> list[str]:
        """Names that prompts may show instead."""
        return usable_aliases(self.graph.node(uri))

    def _relation(self, uri: str) -> tuple[Mention, Relation]:
        relation = self.graph.relation(uri)
        return Mention(relation.label, uri), Relation(relation.label, relation.description or "")


def count_negatives(sets: Path) -> int:
    """How many sets of the sampling stage's folder are negatives; none where the file lacks the column for topics."""
    path = sets / "sets.parquet"
    try:
        if "topic" not in pq.read_schema(path).names:
            return 0
        with pq.ParquetFile(path) as file:  # pq.read_table would load pyarrow's dataset library, 20 MB
            topics = file.read(columns=["topic"])["topic"]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return len(topics) - topics.null_count


def _bits(mask: np.ndarray) -> pa.BooleanArray:
    """bool[n] for Arrow; `pa.array` would load pandas, 30 MB."""
    packed = pa.py_buffer(np.packbits(mask, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, packed])


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"Cannot read {path}: {str(error).rstrip('.')}. Run the sampling stage again.")


class Questions:
    """The request body of each set.

    Args:
        config: model, prompt parameters, endpoints.
        prompt: how to ask.
        sets: what to ask for.
        seed: decides about styles, demonstrations and models, and is sent along.

    Attributes:
        output_bound: most tokens of a first text.
        complain: finds the text behind `Try.repairs` and its faults; needed for such tries only.

    Raises:
        ConfigError: the request has no limit, or there are negatives and the prompt cannot ask for them.
    """

    def __init__(self, config: GenerationConfig, prompt: Prompt, sets: TripletSets, *, seed: int) -> None:
        self.sets = sets
        self.config = config
        self._identities = [endpoint_identity(config), *_replicas(config)]
        self._prompt = prompt
        self._seed = seed
        shares = models_of(config)
        self._models = list(shares)
        total = sum(shares.values())
        self._bounds = [bound / total for bound in accumulate(shares.values())]
        fields: dict[str, Any] = {
            "temperature": prompt.temperature if config.temperature is None else config.temperature,
            "max_tokens": config.max_tokens or prompt.max_tokens,
            "seed": seed,
            **config.extra_body,
        }
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._limits: list[str] = [name for name in _LIMITS if name in self._fields]
        limits = [self._fields[name] for name in self._limits]
        if not limits or not all(isinstance(limit, int) and limit > 0 for limit in limits):
            raise ConfigError(
                "The request needs max_tokens or max_completion_tokens, a positive whole number: budget and limits "
                "reckon with it. Set generation.max_tokens, or one of them in generation.extra_body."
            )
        self.output_bound: int = max(limits)
        self.complain: Callable[[TripletSet, bytes], Complaint] | None = None
        if sets.negatives:
            prompt.require_negatives()

    @property
    def demonstrated(self) -> list[str]:
        """The texts that the prompt shows; no answer should repeat one."""
        return [demonstration.text for demonstration in self._prompt.demonstrations]

    def model(self, triplet_set: TripletSet) -> str:
        """The model that writes the set's text: drawn by the endpoints' weights, the same for all its tries."""
        if len(self._models) == 1:
            return self._models[0]
        fraction = self._draw("model", triplet_set.id) / 2**64
        return self._models[bisect.bisect_right(self._bounds[:-1], fraction)]

    def messages(self, triplet_set: TripletSet, which: Try = FIRST_TRY) -> list[dict[str, str]]:
        """The chat messages of a try."""
        messages = self._asked(triplet_set, which)
        if which.repairs is None:
            return messages
        assert self.complain is not None, "only the texts stage repairs"
        return self._prompt.repair_messages(messages, *self.complain(triplet_set, which.repairs))

    def _asked(self, triplet_set: TripletSet, which: Try) -> list[dict[str, str]]:
        draw = self._draw("prompt", triplet_set.id, which.number)
        if triplet_set.topic:
            return self._prompt.negative_messages(self._spoken(triplet_set.topic.uri, triplet_set.id), draw)
        facts = [
            Fact(
                self._spoken(t.subject.uri, triplet_set.id),
                t.predicate.surfaceform,
                self._spoken(t.object.uri, triplet_set.id),
            )
            for t in triplet_set.triplets
        ]
        relations = dict.fromkeys(self.sets.relation(t.predicate.uri)[1] for t in triplet_set.triplets)
        return self._prompt.messages(facts, list(relations), draw)

    def _spoken(self, uri: str, number: int) -> str:
        """What the prompt calls a node in set ``number``: its name, or in a share of the sets one of its aliases."""
        share = self.config.alias_share
        if share and self._draw("alias", number, uri) < share * 2**64 and (aliases := self.sets.aliases(uri)):
            return aliases[self._draw("which alias", number, uri) % len(aliases)]
        return self.sets.node(uri)[1]

    def request(self, triplet_set: TripletSet, which: Try = FIRST_TRY) -> Request:
        messages, model = self.messages(triplet_set, which), self.model(triplet_set)
        body = encode_body(self.config.api, model, messages, self._fields_of(which))
        bound = self.output_bound << which.doublings
        return Request(body, input_token_bound(body, len(messages)), bound, model)

    def find(self, body: bytes, which: Try, stored: Journal) -> bytes:
        """Key of the answer (`KEY_BYTES` bytes): one that is in ``stored`` if there is any, else that of a new answer.

        What a replica answered while it was the only endpoint counts as an answer of the replicas.
        """
        keys = (_hash(identity, body, which.number) for identity in self._identities)
        first = next(keys)
        if first in stored:
            return first
        return next((key for key in keys if key in stored), first)

    def origin(self, triplet_set: TripletSet, which: Try = FIRST_TRY) -> dict[str, Any]:
        """What a sample tells about who was asked, and how."""
        draw = self._draw("prompt", triplet_set.id, which.number)
        style = self._prompt.negative_style(draw) if triplet_set.topic else self._prompt.style(draw)
        return {
            "model": self.model(triplet_set),
            "endpoint": self.config.base_url or "built-in",
            "prompt": self._prompt.name,
            "prompt_hash": self._prompt.negatives_hash if triplet_set.topic else self._prompt.hash,
            "style": ", ".join(f"{axis}: {value}" for axis, value in style.items()),
            "tries": which.number + 1,
            "repaired": which.repairs is not None,
        }

    def _fields_of(self, which: Try) -> dict[str, Any]:
        if which == FIRST_TRY:
            return self._fields
        changed: dict[str, Any] = {name: self._fields[name] << which.doublings for name in self._limits}
        if isinstance(seed := self._fields.get("seed"), int):  # extra_body may hold anything
            changed["seed"] = seed + which.number
        return self._fields | changed

    def _draw(self, *parts: str | int) -> int:
        """64 random bits that depend on the run's seed and ``parts`` alone."""
        told = ":".join(map(str, (self._seed, *parts)))
        return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=8).digest(), "big")


def endpoint_identity(config: GenerationConfig) -> str:
    """What stands for the endpoint in keys: its URL, the built-in server's rules, or any of several replicas."""
    if config.is_built_in:
        from synthie.llm import local  # a web server, which others need not load

        return local.identity(config.local, seed=0)
    return "replicas" if config.endpoints else Endpoint.identity(config)  # replicas: the model is in the body


def _replicas(config: GenerationConfig) -> list[str]:
    """What each of several endpoints is called in keys where it is the only one."""
    return [
        Endpoint.identity(config.model_copy(update={"base_url": one.base_url, "query": config.query | one.query}))
        for one in config.endpoints
    ]


def _hash(identity: str, body: bytes, number: int) -> bytes:
    told = identity.encode() + b"\0" + body + (b"\0%d" % number if number else b"")  # some endpoints get no seed
    return hashlib.blake2b(told, digest_size=KEY_BYTES).digest()


def models_of(config: GenerationConfig) -> dict[str, float]:
    """The models that share the texts, by name, each with the sum of its endpoints' weights."""
    shares: dict[str, float] = {}
    for endpoint in config.endpoints:
        model = endpoint.model or config.model
        shares[model] = shares.get(model, 0.0) + endpoint.weight
    return dict(sorted(shares.items())) or {config.model: 1.0}
