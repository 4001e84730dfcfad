"""The texts that are judged: a uniform random sample of the accepted ones, and one of the rejected ones.

A text is drawn by a hash of the seed and its request, so the sample stays the same while texts are added or checked
anew, a greater one contains a smaller one, and what was judged need not be judged again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.catalogue import Catalogue
from synthie.errors import InputError
from synthie.records import Mention, Triplet
from synthie.texts.questions import TripletSet, TripletSets

__all__ = ["GATES", "SampledTexts", "Text"]

GATES = {"accepted": "samples", "rejected": "rejected"}  # verdict of the quality checks -> folder of the texts stage
_COLUMNS = ("id", "split", "text", "triplets", "topic", "style", "endpoint", "request_key")
_MOST_ALIASES = 5


@dataclass(frozen=True, slots=True)
class Text(TripletSet):
    """A text with the triplets that it should state.

    Attributes:
        text: the text.
        gate: accepted or rejected, by the quality checks.
        style: as drawn for its prompt.
        endpoint: who wrote it.
        request_key: of the request that it answers.
    """

    text: str = ""
    gate: str = "accepted"
    style: str = ""
    endpoint: str = ""
    request_key: str = ""


class SampledTexts(TripletSets):
    """The texts to judge, in the order of the files, read in batches.

    Args:
        graph, texts: folders of the earlier stages.
        sizes: accepted or rejected -> how many to draw; None for all.
        seed: decides which.

    Attributes:
        count: number of texts drawn.
        available: accepted or rejected -> number of texts there are.
        drawn: the same -> number of texts drawn.
        negatives: 0; a text without triplets is asked about like any other.
    """

    def __init__(self, graph: Path, texts: Path, sizes: dict[str, int | None], *, seed: int) -> None:
        self.graph = Catalogue.open(graph)
        self.node = lru_cache(1 << 16)(self._node)
        self.negatives = 0
        self._parts: list[tuple[str, Path, np.ndarray]] = []  # gate, file, bool[rows]
        self.available: dict[str, int] = {}
        self.drawn: dict[str, int] = {}
        for gate, size in sizes.items():
            self._draw(gate, texts / GATES[gate], size, seed)
        self.count = sum(self.drawn.values())

    def batches(self, rows: int, chosen: np.ndarray | None = None) -> Iterator[list[tuple[int, TripletSet]]]:
        """The `Text`s with their positions among those drawn; see `TripletSets.batches`. No batch is empty."""
        batch: list[tuple[int, TripletSet]] = []
        position = 0
        for gate, read in self._drawn(rows):
            places = np.arange(position, position + read.num_rows)
            position += read.num_rows
            if chosen is not None:
                read, places = read.filter(pa.array(chosen[places])), places[chosen[places]]
            for place, row in zip(places.tolist(), read.to_pylist(), strict=True):
                if batch and place // rows > batch[0][0] // rows:
                    yield batch
                    batch = []
                batch.append((place, _text(row, gate)))
        if batch:
            yield batch

    def texts(self, rows: int, chosen: np.ndarray | None = None) -> Iterator[list[tuple[int, Text]]]:
        """`batches`, for who wants the texts."""
        for batch in self.batches(rows, chosen):
            yield [(position, text) for position, text in batch if isinstance(text, Text)]

    def names_in(self, text: Text) -> dict[str, list[str]]:
        """Name of a node of the set -> its aliases that the text holds, where it does not hold the name."""
        names: dict[str, list[str]] = {}
        for uri in dict.fromkeys(m.uri for t in text.triplets for m in (t.subject, t.object)):
            name = self.node(uri)[1]
            if not _holds(text.text, name):
                aliases = [alias for alias in self.graph.node(uri).aliases if _holds(text.text, alias)]
                if aliases:
                    names[name] = aliases[:_MOST_ALIASES]
        return names

    def _drawn(self, rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows that were drawn, with what the quality checks said of them, from ``rows`` rows at a time."""
        for gate, path, mask in self._parts:
            first = 0
            with pq.ParquetFile(path) as file:
                columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
                for read in file.iter_batches(batch_size=rows, columns=columns):
                    drawn = mask[first : first + read.num_rows]
                    first += read.num_rows
                    yield gate, read.filter(pa.array(drawn))

    def _draw(self, gate: str, folder: Path, size: int | None, seed: int) -> None:
        paths = sorted(folder.glob("part-*.parquet"))
        lots = [_lots(path, seed) for path in paths]
        everything = np.concatenate([np.empty(0, np.uint64), *lots])
        count = len(everything)
        wanted = count if size is None else min(size, count)
        mask = np.zeros(count, bool)
        mask[np.argsort(everything, kind="stable")[:wanted]] = True
        first = 0
        for path, lot in zip(paths, lots, strict=True):
            self._parts.append((gate, path, mask[first : first + len(lot)]))
            first += len(lot)
        self.available[gate], self.drawn[gate] = count, wanted


def _holds(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def _lots(path: Path, seed: int) -> np.ndarray:
    """uint64[rows]: where each text stands in the random order."""
    try:
        keys = pq.read_table(path, columns=["request_key"])["request_key"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"Cannot read {path}: {str(error).rstrip('.')}. Run the texts stage again.") from error
    digests = (hashlib.blake2b(f"{seed}:judge:{key}".encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), np.uint64)


def _text(row: dict[str, Any], gate: str) -> Text:
    topic = row.get("topic")
    return Text(
        id=row["id"],
        split=row["split"],
        triplets=[Triplet.from_record(triplet) for triplet in row["triplets"]],
        topic=Mention(topic, topic) if topic else None,
        text=row["text"],
        gate=gate,
        style=row.get("style") or "",
        endpoint=row.get("endpoint") or "",
        request_key=row["request_key"],
    )
