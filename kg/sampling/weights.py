"""Coverage weights: (1 + count)^-alpha, targets and factors, the same to the last bit on every machine.

Powers are taken in decimal arithmetic and rounded once, not by the machine's
mathematical library. Counts are looked up in tables: those of nodes as codes of
one byte, so that the weights of millions of nodes stay in the processor's cache;
those of relations as codes of ten significant bits.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
from numba import vectorize
from numpy.typing import NDArray

from kg.errors import ConfigError, InputError
from kg.sampling.config import SamplingConfig

__all__ = [
    "CLOSED",
    "COVERED",
    "MOST_FACTOR",
    "RelationWeights",
    "count_codes",
    "node_weight_table",
    "power",
    "read_numbers",
    "relation_targets",
    "tell_unknown",
]

log = logging.getLogger(__name__)

CLOSED = 255  # the code of a node that may not be drawn
COVERED = 254  # the code of literals, which nobody needs to cover
MOST_FACTOR = 1e6  # what is raised to the 25th power and multiplied must stay a number
_MOST_SHARE = 1e15
_EXACT = 128  # counts below are their own code
_PER_OCTAVE = 8
_RELATION_BITS = 10
_RELATION_CODES = 1 << 15
_PRECISION = 25


def power(base: float | int, exponent: float) -> float:
    """base^exponent, correctly rounded: decimal arithmetic does not depend on the machine."""
    with localcontext() as context:
        context.prec = _PRECISION
        return float(Decimal(base) ** Decimal(exponent))


@vectorize(cache=True)
def count_codes(count):  # type: ignore[no-untyped-def]
    """uint8: the code of a count ≥ 0: below 128 the count, above in eight steps an octave, at most 254."""
    if count < _EXACT:
        return np.uint8(count)
    shift = 0
    while count >> shift >= 2 * _PER_OCTAVE:
        shift += 1
    return np.uint8(min(_EXACT + (shift - 4) * _PER_OCTAVE + (count >> shift) - _PER_OCTAVE, COVERED))


def node_weight_table(alpha: float, cap: int) -> NDArray[np.float64]:
    """float64[256]: (1 + min(count, cap))^-alpha for the count of each code; 0 for `CLOSED`."""
    table = np.zeros(256)
    for code in range(CLOSED):
        count = code
        if code >= _EXACT:
            octave, step = divmod(code - _EXACT, _PER_OCTAVE)
            count = (_PER_OCTAVE + step) << (octave + 4)
        table[code] = table[code - 1] if count > cap else power(1 + count, -alpha)
    return table


class RelationWeights:
    """Weights of the relations by count: for starts (factor · target)^(1 + alpha) · (1 + count)^-alpha, for steps
    factor^(1 + alpha) · (target / (1 + count))^alpha.

    With starts so weighted, counts settle in proportion to the targets: where the chance to be drawn falls with
    count^-alpha, it must grow with target^(1 + alpha).

    Args:
        targets: float64[R], mean 1; 0 keeps a relation out.
        factors: float64[R].
    """

    def __init__(self, alpha: float, targets: NDArray[np.float64], factors: NDArray[np.float64]) -> None:
        self._alpha = alpha
        raised = [power(factor, 1 + alpha) for factor in factors]
        self._starts = np.array([f * power(t, 1 + alpha) for f, t in zip(raised, targets, strict=True)])
        self._steps = np.array([f * (power(t, alpha) if t else 0.0) for f, t in zip(raised, targets, strict=True)])
        self._powers = np.full(_RELATION_CODES, np.nan)

    def __call__(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(start weights, step weights), float64[R] each."""
        shifts = np.maximum(np.frexp(counts.astype(np.float64))[1] - _RELATION_BITS, 0)
        codes = (shifts << (_RELATION_BITS - 1)) + (counts >> shifts)
        for place in np.flatnonzero(np.isnan(self._powers[codes])):
            self._powers[codes[place]] = power(1 + int(counts[place] >> shifts[place] << shifts[place]), -self._alpha)
        return self._starts * self._powers[codes], self._steps * self._powers[codes]


def relation_targets(
    config: SamplingConfig, identifiers: Sequence[Any], triplets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """(targets float64[R] with mean 1, alpha) of the relations.

    Raises:
        ConfigError: the file of targets cannot be used.
    """
    if config.relation_target_file is not None:
        shares = read_numbers(Path(config.relation_target_file), "relation_target_file", _MOST_SHARE)
        tell_unknown(config.relation_target_file, len(shares), sum(identifier in shares for identifier in identifiers))
        targets = np.array([shares.get(identifier, 0.0) for identifier in identifiers])
        if not targets.any():
            raise ConfigError(
                f"{config.relation_target_file} gives none of the graph's relations a share, such as "
                f"{identifiers[0]!r}. Correct 'sampling.relation_target_file'."
            )
    elif config.relation_target == "uniform":
        targets = np.ones(len(identifiers))
    else:
        targets = triplets.astype(np.float64)
    natural = config.relation_target_file is None and config.relation_target == "natural"
    return targets * (len(targets) / math.fsum(targets)), 0.0 if natural else config.relation_alpha


def tell_unknown(path: str, given: int, known: int) -> None:
    """Warn of the ids in a file that the graph does not have, unless it has none of them."""
    if 0 < known < given:
        log.warning("%s of the %s ids in %s are not in the graph.", f"{given - known:,}", f"{given:,}", path)


def read_numbers(path: Path, field: str, most: float) -> dict[str, float]:
    """The (id, number) pairs at the starts of the lines of a text file; blank lines and # lines are skipped.

    Raises:
        ConfigError: the file cannot be read, or a line does not begin with an id and a number that is 0 or lies
            between 1 / ``most`` and ``most``.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Cannot read {path}: {reason}. Check 'sampling.{field}'.") from error
    numbers: dict[str, float] = {}
    for place, line in enumerate(lines, 1):
        words = re.split(r"[\s,;]+", line.strip(), maxsplit=2)
        if not words[0] or words[0].startswith("#"):
            continue
        try:
            number = float(words[1])
        except (IndexError, ValueError):
            number = math.nan
        if not (number == 0 or 1 / most <= number <= most):
            raise ConfigError(
                f"{path}, line {place}: {line.strip()[:60]!r} is not an id and a number, 0 or from {1 / most:g} to "
                f"{most:g}, such as 'P36 2.5'. Correct it, or unset 'sampling.{field}'."
            )
        numbers[words[0]] = number
    if not numbers:
        raise InputError(f"{path} holds no line with an id and a number. Unset 'sampling.{field}' or fill the file.")
    return numbers
