"""How many triplets the sets shall have.

Only basic arithmetic is used, which IEEE 754 defines to the last bit: the
probabilities are the same on every machine.
"""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kg.errors import ConfigError
from kg.sampling.config import SamplingConfig

__all__ = ["size_distribution"]

_BISECTIONS = 200


def size_distribution(config: SamplingConfig) -> NDArray[np.float64]:
    """Probabilities of the sizes ``min_size``…``max_size``.

    Raises:
        ConfigError: ``sizes_from`` cannot be read or has no set of such a size.
    """
    low, high = config.min_size, config.max_size
    if config.sizes == "uniform":
        weights = [1.0] * (high - low + 1)
    elif config.sizes == "like":
        assert config.sizes_from is not None
        weights = _observed(Path(config.sizes_from), low, high)
    else:
        weights = _with_mean(config.mean_size, low, high, poisson=config.sizes == "poisson")
    total = math.fsum(weights)
    return np.array([weight / total for weight in weights])


def _with_mean(mean: float, low: int, high: int, *, poisson: bool) -> list[float]:
    """Weights of the truncated distribution with this mean; it grows with the rate, so bisection finds the rate."""
    if mean in (low, high):
        return [float(size == mean) for size in range(low, high + 1)]
    small, large = 2.0**-60, 2.0**60
    for _ in range(_BISECTIONS):
        rate = (small + large) / 2 if large < 2 * small else _middle(small, large)
        weights = _weights(rate, low, high, poisson=poisson)
        if math.fsum(w * size for size, w in enumerate(weights, low)) < mean * math.fsum(weights):
            small = rate
        else:
            large = rate
    return _weights(small, low, high, poisson=poisson)


def _middle(small: float, large: float) -> float:
    """A power of two about half-way between two magnitudes."""
    exponents = [int(np.frexp(value)[1]) for value in (small, large)]
    return 2.0 ** (sum(exponents) // 2 - 1) if exponents[1] - exponents[0] > 1 else (small + large) / 2


def _weights(rate: float, low: int, high: int, *, poisson: bool) -> list[float]:
    """rate^k / k! or rate^k up to a constant factor, from the end that keeps all of them at 1 or below."""
    ratios = [rate / size if poisson else rate for size in range(low + 1, high + 1)]  # w(k) / w(k - 1)
    weights = [1.0]
    for ratio in ratios:
        weights.append(weights[-1] * ratio)
        if weights[-1] > 1.0:
            weights = [weight / weights[-1] for weight in weights]
    return weights


def _observed(path: Path, low: int, high: int) -> list[float]:
    try:
        counts = Counter(size for size in _sizes(path) if low <= size <= high)
    except (OSError, EOFError, pa.ArrowException, msgspec.MsgspecError, KeyError) as error:
        raise ConfigError(
            f"Cannot take set sizes from {path}: {str(error).rstrip('.')}. 'sampling.sizes_from' names a data set with "
            "a list 'triplets' in each record: JSONL, Parquet, or a folder of Parquet files."
        ) from error
    if not counts:
        raise ConfigError(
            f"{path} has no set of {low} to {high} triplets. Correct 'sampling.sizes_from', or widen "
            "'sampling.min_size' and 'sampling.max_size'."
        )
    return [float(counts[size]) for size in range(low, high + 1)]


def _sizes(path: Path) -> Iterator[int]:
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise OSError("the folder has no Parquet file")
        for file in files:
            yield from _sizes(file)
    elif path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["triplets"]):
                yield from pc.list_value_length(batch.column("triplets")).to_pylist()
    else:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            yield from _sizes_of_lines(lines)


class _Record(msgspec.Struct):
    triplets: list[msgspec.Raw]


def _sizes_of_lines(lines: Iterable[bytes]) -> Iterator[int]:
    decoder = msgspec.json.Decoder(_Record)
    for line in lines:
        if line.strip():
            yield len(decoder.decode(line).triplets)
