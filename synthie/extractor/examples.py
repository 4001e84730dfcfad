"""Training examples as token arrays, and the order in which they are seen.

Texts and targets are tokenised once, to flat arrays on disk that are memory-mapped. Batches hold examples of
similar length; which examples make up batch number n follows from the seed alone, so a run continues anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from synthie.errors import InputError
from synthie.extractor.linearization import Linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.world import WorldTokens

__all__ = ["BatchPlan", "Examples", "make_examples", "read_texts", "split_files"]

_READ_ROWS = 16_384
_POOL = 64  # batches that are sorted by length together; more would save little padding and mix less


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


class BatchPlan:
    """Which examples make up batch 0, 1, 2, … of an endless run over all examples in ever new order.

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

    def _shuffle(self, epoch: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._sources))
        pool = np.arange(len(order)) // (_POOL * self._batch_size)
        order = order[np.lexsort((self._sources[order], self._targets[order], pool))]
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
) -> tuple[Examples, int]:
    """Tokenise a split.

    Args:
        dataset: folder of the dataset stage.
        split: its split.
        tokens: token sequences of the names.
        form: how targets are written; triplets are taken in the order of the data set (first mention).
        tokenize: texts -> token sequences, end of sequence included.
        node_ids, relation_ids: id of each node and relation; position = number.
        max_source, max_target: most tokens; longer examples are dropped.

    Returns:
        the examples, and how many were dropped.

    Raises:
        InputError: the data set names an id that the graph does not have, or is empty.
    """
    parts, dropped = list[Examples](), 0
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
        examples = Examples(tokenize(batch["text"].to_pylist()), tokens.write(form, numbers, counts))
        short = (examples.sources.lengths <= max_source) & (examples.targets.lengths <= max_target)
        dropped += int(np.count_nonzero(~short))
        parts.append(examples.take(np.flatnonzero(short)))
    joined = Examples(
        Ragged.concatenate([part.sources for part in parts]), Ragged.concatenate([part.targets for part in parts])
    )
    if not len(joined):
        raise InputError(
            f"The {split} split of {dataset} holds no record of at most {max_source} text and {max_target} target "
            f"tokens ({dropped} are longer), so the extractor cannot be trained. Draw more or smaller triplet sets."
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
