"""Where every set stands on its way to an accepted text: a few bytes of state and counts a set; keys are on disk.

Sets begin as pending, those beyond ``n_texts`` in reserve. A wave asks for what is
pending and checks the answers; `Roster.advance` then makes rejected sets with tries
left pending again and calls sets up from the reserve, until nothing is pending. All
of it follows from the answers alone, so a run that is started again walks the same way.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from synthie.config import GenerationConfig
from synthie.llm.journal import KEY_BYTES
from synthie.texts.questions import Try

__all__ = ["Roster"]

_RESERVE, _PENDING, _ACCEPTED, _REJECTED, _FAILED = range(5)


class Roster:
    """The sets by their position in the file.

    Args:
        count: number of sets.
        config: ``n_texts``, ``tries`` and what to do with truncated texts.
        only: bool[count], the sets to ask for; None for what ``config`` says.
        folder: where a temporary file goes.

    Attributes:
        wanted: accepted texts to have: ``n_texts``, or one for every set.
        wave: number of the wave under way, from 0.
        is_part: only some of the sets that ``config`` says are asked for.
    """

    def __init__(
        self, count: int, config: GenerationConfig, only: np.ndarray | None = None, folder: Path | None = None
    ) -> None:
        chosen = np.arange(count) < (config.n_texts or count) if only is None else only
        self.wanted = int(np.count_nonzero(chosen))
        self.wave = 0
        self.is_part = only is not None
        self._config = config
        self._keys = _Keys(folder)  # of each set's present try
        self._state = np.where(chosen, _PENDING, _RESERVE).astype(np.uint8)
        self._called = self.wanted  # positions below have been called up
        self._tries = np.zeros(count, np.uint8)
        self._doublings = np.zeros(count, np.uint8)
        self._truncated = np.zeros(count, bool)
        self._repairable = np.zeros(count, bool)
        self._repairs = np.zeros(count, bool)  # the present try repairs an earlier text …
        self._faulty = _Keys(folder)  # … with this key

    @property
    def pending(self) -> np.ndarray:
        """bool[count]: sets whose present try has no verdict yet."""
        return self._state == _PENDING

    @property
    def accepted(self) -> np.ndarray:
        """bool[count]: sets with an accepted text."""
        return self._state == _ACCEPTED

    @property
    def given_up(self) -> np.ndarray:
        """bool[count]: sets without an answer to their present try."""
        return self._state == _FAILED

    @property
    def failed(self) -> int:
        """Number of sets without an answer to their present try."""
        return int(np.count_nonzero(self.given_up))

    @property
    def rejected(self) -> int:
        """Number of sets whose last text was rejected."""
        return int(np.count_nonzero(self._state == _REJECTED))

    @property
    def missing(self) -> int:
        """Accepted texts that are still to be had; without ``n_texts``, sets without an answer."""
        if self._config.n_texts is None:
            return self.failed
        return self._config.n_texts - int(np.count_nonzero(self.accepted))

    def which(self, position: int) -> Try:
        """The present try of a set."""
        faulty = self._faulty.get(position) if self._repairs[position] else None
        return Try(int(self._tries[position]), int(self._doublings[position]), faulty)

    def key(self, position: int) -> bytes:
        """Key of the answer to the present try, as `set_key` was told."""
        return self._keys.get(position)

    def set_key(self, position: int, key: bytes) -> None:
        self._keys.set(position, key)

    def fail(self, position: int, *, refused: bool = False) -> None:
        """There is no answer. ``refused`` for good, a further try leaves the set with its earlier text: rejected."""
        if refused and self._tries[position]:
            self.judge(position, accepted=False)
        else:
            self._state[position] = _FAILED

    def judge(self, position: int, accepted: bool, *, truncated: bool = False, repairable: bool = False) -> None:
        """The text was accepted, or not.

        Args:
            position: of the set.
            accepted: the verdict.
            truncated: the text was cut off at the limit of tokens.
            repairable: a further try shall show the text and its faults.
        """
        self._state[position] = _ACCEPTED if accepted else _REJECTED
        self._truncated[position] = truncated
        self._repairable[position] = repairable and not truncated

    def advance(self) -> bool:
        """Begin the next wave; False if there is nothing more to ask for."""
        again = (self._state == _REJECTED) & (self._tries + 1 < self._config.tries)
        if self._config.truncated == "reject":
            again &= ~self._truncated
        self._tries[again] += 1
        if self._config.truncated == "longer":
            self._doublings[again & self._truncated] += 1
        self._repairs[again] = self._repairable[again]
        for position in map(int, np.flatnonzero(again & self._repairs)):
            self._faulty.set(position, self._keys.get(position))
        self._state[again] = _PENDING
        if self._config.n_texts is not None:
            under_way = int(np.count_nonzero(self.accepted | self.pending))
            called = self._called + max(0, self.wanted - under_way)
            self._state[self._called : called] = _PENDING
            self._called = min(called, len(self._state))
        is_on = bool(self.pending.any())
        self.wave += is_on
        return is_on


class _Keys:
    """Position -> key, in a temporary file, which is there as long as this object is."""

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def get(self, position: int) -> bytes:
        return os.pread(self._file.fileno(), KEY_BYTES, position * KEY_BYTES)

    def set(self, position: int, key: bytes) -> None:
        os.pwrite(self._file.fileno(), key, position * KEY_BYTES)
