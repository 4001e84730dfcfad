"""One budget for a run: the stages that pay take turns, and each gets what the other has left.

``max_usd`` limits the texts and their judging together, while each stage keeps a journal of its own. So who pays holds
the run's purse, a lock on its folder: nobody else can spend what it was given.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthie.errors import BusyError
from synthie.llm.batch_files import stored_batches
from synthie.llm.journal import Journal
from synthie.llm.pricing import PICODOLLARS
from synthie.llm.segments import as_storage_error, lock_folder

__all__ = ["purse"]


@contextmanager
def purse(run: Path, max_usd: float, *, other: Path) -> Iterator[float]:
    """Hold the run's purse; gives what may be spent in all, in US dollars, beside what the ``other`` stage has spent.

    Args:
        run: folder of the run. Where there is none yet, nothing can have been spent.
        max_usd: the run's budget.
        other: folder of the other stage that pays.

    Raises:
        BusyError: another process holds the purse, or works with the other stage's journal.
        StorageError: ``run`` cannot be written.
    """
    if not run.is_dir():
        yield max_usd
        return
    with _held(run):
        yield max(0.0, max_usd - _taken(other) / PICODOLLARS)


@contextmanager
def _held(run: Path) -> Iterator[None]:
    try:
        lock = lock_folder(run)
    except BusyError:
        owner = (run / ".lock").read_text(errors="replace") or "unknown"
        raise BusyError(
            f"Another process spends from the budget of {run} ({owner}): texts and judging take turns, so that they "
            "never cost more than max_usd together. Wait until it ends or stop it, then run again."
        ) from None
    except OSError as error:
        raise as_storage_error(error, run) from error
    try:
        try:
            os.ftruncate(lock, 0)
            os.write(lock, f"pid {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise as_storage_error(error, run) from error
        yield
    finally:
        os.close(lock)


def _taken(stage: Path) -> int:
    """What a stage has spent, and the most that its batches under way can still cost, in picodollars.

    The journal is opened, not merely read, so that what was in flight when a process died is counted.
    """
    if not (stage / "journal").exists():
        return 0
    with Journal(stage / "journal") as journal:
        under_way = (one for one in stored_batches(stage / "batches") if one.state.step not in ("planned", "collected"))
        reserved = (batch.worst_cost(line) for batch in under_way for line in batch.lines() if line.key not in journal)
        return journal.spent + sum(reserved)
