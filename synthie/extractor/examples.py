"""Training examples as token arrays, and the order in which they are seen.

Texts and targets are tokenised once, to flat arrays on disk that are memory-mapped. Batches hold examples of
similar length; which examples make up batch number n follows from the seed alone, so a run continues anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from synthie.errors import InputError
from synthie.extractor.linearization import Linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.retelling import Record, as_arrays, as_records
from synthie.extractor.world import WorldTokens

__all__ = ["BatchPlan", "BatchSize", "Examples", "TooLong", "make_examples", "read_texts", "split_files"]

_READ_ROWS = 16_384
# Batches that are sorted by length together: 128 in 16 strips. Measured on the sample's texts (lengths of source and
# target vary together) and on lengths less alike, 64 or more strips pad more, and so do less than 12.
_POOL, _STRIP = 128, 8


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Token sequences of a split.

    Attributes:
        sources: row i = text of example i, end of sequence included.
        targets: row i = linearized triplets of example i, end of sequence included: of a negative only that.
    """

    sources: Ragged
    targets: Ragged

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def open(cls, folder: Path) -> Examples:
        """Map what `save` wrote."""
        return cls(Ragged.open(folder, "sources"), Ragged.open(folder, "targets"))

    def save(self, folder: Path) -> None:
        """Write the arrays to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.sources.save(folder, "sources")
        self.targets.save(folder, "targets")

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """The given examples."""
        return Examples(self.sources.take(rows), self.targets.take(rows))


class BatchSize(NamedTuple):
    """Tokens of a batch.

    Attributes:
        targets: target tokens.
        tokens: source and target tokens.
        positions: the same with padding.
    """

    targets: int
    tokens: int
    positions: int


class TooLong(NamedTuple):
    """What was left out: texts and targets that are too long, and the examples that have either."""

    texts: int
    targets: int
    examples: int


class BatchPlan:
    """Which examples make up batch 0, 1, 2, … of an endless run over all examples in ever new order.

    Source and target lengths both should be alike in a batch. So a pool of examples is sorted by target length and
    cut into strips, and each strip is sorted by source length, every other downwards.

    Args:
        examples: what to draw from.
        batch_size: examples in a batch; the last of an epoch may have fewer.
        seed: decides about the order.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int) -> None:
        self._sources, self._targets = examples.sources.lengths, examples.targets.lengths
        self._batch_size, self._seed = batch_size, seed
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()
        self.batches_per_epoch = -(-len(examples) // batch_size)

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        """Rows of batch ``number``: int64[batch]."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffle(epoch)
        return self._batches[position]

    def size(self, rows: NDArray[np.int64]) -> BatchSize:
        """Of the batch of these rows."""
        sources, targets = self._sources[rows], self._targets[rows]
        padded = len(rows) * (sources.max() + targets.max())
        return BatchSize(int(targets.sum()), int(sources.sum() + targets.sum()), int(padded))

    def _shuffle(self, epoch: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._sources))
        place = np.arange(len(order))
        order = order[np.lexsort((self._targets[order], place // (_POOL * self._batch_size)))]
        strip = place // (_STRIP * self._batch_size)
        sources = self._sources[order]
        order = order[np.lexsort((np.where(strip % 2, -sources, sources), strip))]
        batches = np.split(order, range(self._batch_size, len(order), self._batch_size))
        return [batches[number] for number in random.permutation(len(batches))]


def split_files(dataset: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order.

    Raises:
        InputError: there are none.
    """
    files = sorted((dataset / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise InputError(f"{dataset}/data holds no {split}-*.parquet. Run the dataset stage first.")
    return files


def read_texts(dataset: Path, split: str) -> Iterator[str]:
    """The texts of a split, one after the other."""
    for batch in _batches(dataset, split, ["text"]):
        yield from batch["text"].to_pylist()


def make_examples(
    dataset: Path,
    split: str,
    *,
    tokens: WorldTokens,
    form: Linearization,
    tokenize: Callable[[list[str]], Ragged],
    node_ids: pa.Array,
    relation_ids: pa.Array,
    max_source: int,
    max_target: int,
    retell: Callable[[list[Record]], list[Record]] | None = None,
) -> tuple[Examples, TooLong]:
    """Tokenise a split.

    Args:
        dataset: folder of the dataset stage.
        split: its split.
        tokens: token sequences of the names.
        form: how targets are written; triplets are taken in the order of the data set (first mention).
        tokenize: texts -> token sequences, end of sequence included.
        node_ids, relation_ids: id of each node and relation; position = number.
        max_source, max_target: most tokens; longer examples are dropped.
        retell: makes of some records those to tokenise.

    Returns:
        the examples, and what was dropped.

    Raises:
        InputError: the data set names an id that the graph does not have, or is empty.
    """
    parts, too_long = list[Examples](), np.zeros(3, np.int64)
    for batch in _batches(dataset, split, ["text", "triplets"]):
        lists = batch["triplets"]
        triplets = lists.flatten()
        numbers = np.stack(
            [
                _numbers(triplets, "subject", node_ids),
                _numbers(triplets, "predicate", relation_ids),
                _numbers(triplets, "object", node_ids),
            ],
            axis=1,
        )
        counts = pc.list_value_length(lists).to_numpy().astype(np.int64)
        told = batch["text"].to_pylist()
        if retell:
            told, numbers, counts = as_arrays(retell(as_records(told, numbers, counts)))
        examples = Examples(tokenize(told), tokens.write(form, numbers, counts))
        texts, targets = examples.sources.lengths > max_source, examples.targets.lengths > max_target
        too_long += [np.count_nonzero(long) for long in (texts, targets, texts | targets)]
        parts.append(examples.take(np.flatnonzero(~(texts | targets))))
    joined = Examples(
        Ragged.concatenate([part.sources for part in parts]), Ragged.concatenate([part.targets for part in parts])
    )
    dropped = TooLong(*too_long.tolist())
    if not len(joined):
        raise InputError(
            f"The {split} split of {dataset} holds no record of at most {max_source} text and {max_target} target "
            f"tokens ({dropped.examples} are longer), so the extractor cannot be trained. Draw more or smaller triplet "
            "sets, or raise extractor.max_source_tokens or extractor.max_target_tokens."
        )
    return joined, dropped


def _batches(dataset: Path, split: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for file in split_files(dataset, split):
        try:
            yield from pq.ParquetFile(file).iter_batches(_READ_ROWS, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"Cannot read {file}: {error}. Run the dataset stage again.") from error


def _numbers(triplets: pa.StructArray, part: str, ids: pa.Array) -> NDArray[np.int64]:
    uris = pc.struct_field(triplets, [part, "uri"])
    numbers = pc.index_in(uris, value_set=ids)
    if numbers.null_count:
        unknown = uris.filter(pc.is_null(numbers))[0].as_py()
        raise InputError(
            f"The data set names {unknown}, which the graph does not have: they do not belong together. "
            "Run the stages from sampling on again, or give the folder of the graph that the data set was made from."
        )
    return numbers.to_numpy().astype(np.int64)
