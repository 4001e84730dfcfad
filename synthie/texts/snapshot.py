"""How far the texts stage is, written every few seconds for who asks from outside (``synthie status``).

The file is replaced as a whole, so a reader never sees half of one. It is
news, not a record: the journal alone knows what was paid.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

__all__ = ["Snapshot", "read_snapshot", "write_snapshot"]

log = logging.getLogger(__name__)


class Snapshot(msgspec.Struct, kw_only=True, frozen=True):
    """The state of the texts stage at one moment.

    Attributes:
        time: when, in seconds since the epoch.
        pid, host: the process that tells.
        done, total: sets that need no further call, of all.
        answered: answers that this run has received.
        failed: sets that failed for good.
        in_flight: calls under way.
        limit: calls that may be under way at present.
        rate_per_s: sets done a second, lately.
        eta_s: seconds until all are done at that rate; None if that cannot be told.
        usd: what all runs in the folder have spent.
        projected_usd: what they will have spent when all is done; None if that cannot be told.
        max_usd: what they may spend.
        input_tokens, output_tokens: of the answers of this run.
        errors: tries that failed in this run, by class.
    """

    time: float
    pid: int
    host: str
    done: int
    total: int
    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    limit: int = 0
    rate_per_s: float = 0.0
    eta_s: float | None = None
    usd: float = 0.0
    projected_usd: float | None = None
    max_usd: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    errors: dict[str, int] = {}


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file. A failure is logged, never raised: the work matters more than the news of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(msgspec.json.encode(snapshot))
        temporary.replace(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_snapshot(path: Path) -> Snapshot:
    """Read what the stage has last told.

    Raises:
        FileNotFoundError: it has told nothing yet.
        ValueError: the file is not one that `write_snapshot` has written.
    """
    return msgspec.json.decode(path.read_bytes(), type=Snapshot)
