"""Compaction: the segments of a journal become one Parquet file, a fraction of their size.

1. What is damaged is copied aside.
2. All records are written to a temporary file, forced to the disk, read back
   and compared one by one with where they came from.
3. One rename makes the file the journal's archive; it stands for the segments,
   and for the archive before, from that moment on (see `synthie.llm.layout`).
4. Those are removed.

A crash at any moment leaves the old files in force, or the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import TracebackType

import msgspec

from kg.stage import Progress, no_progress
from synthie.errors import InputError, StorageError
from synthie.llm.archive import Archive, ArchiveWriter, Charges
from synthie.llm.layout import archive_path, read_layout, remove_stale
from synthie.llm.segments import (
    CHARGE,
    DAMAGE,
    RESPONSE,
    Record,
    as_storage_error,
    lock_folder,
    read_charge,
    read_record,
    scan,
    set_aside,
)

__all__ = ["Compaction", "compact", "read_records"]

_TOLD_ROWS = 10_000
_TRIES = 5  # to open files that a compaction replaces at the same time


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction has done.

    Attributes:
        rows: responses in the archive; several answers to one question count each.
        spent: everything the archive accounts for, in picodollars.
        bytes_before, bytes_after: size of the journal's files.
    """

    rows: int
    spent: int
    bytes_before: int
    bytes_after: int


def compact(folder: Path, progress: Progress = no_progress) -> Compaction:
    """Turn the journal in ``folder`` into one Parquet file. Nothing in it changes for those who open it as a `Journal`.

    Args:
        folder: the journal's folder.
        progress: told the responses written, then those compared.

    Raises:
        BusyError: a run writes to the journal.
        InputError: there is no journal.
        StorageError: the disk is full or fails, or what was written reads back differently. The journal is intact.
    """
    if not folder.is_dir():
        raise InputError(f"There is no journal in {folder}. Generate texts first, or name another run with --run.")
    try:
        with ExitStack() as stack:
            lock = lock_folder(folder)
            stack.callback(os.close, lock)
            remove_stale(read_layout(folder))
            files = stack.enter_context(_Files(folder))
            return _compact(folder, files, progress)
    except OSError as error:
        raise as_storage_error(error, folder) from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise _unreadable(folder, error) from error


def read_records(folder: Path) -> Iterator[Record]:
    """Every stored response in the order of storing, also while a run writes; an answer given twice comes twice.

    Raises:
        InputError: there is no journal; at the call, not when the first is read.
        StorageError: a segment is missing, the archive is damaged, or a record has become unreadable meanwhile.
    """
    if not folder.is_dir():
        raise InputError(f"There is no journal in {folder}. Generate texts first, or name another run with --run.")
    return _read_records(folder)


def _read_records(folder: Path) -> Iterator[Record]:
    with _Files(folder) as files:
        try:
            yield from (entry for entry in files.entries() if isinstance(entry, Record))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise _unreadable(folder, error) from error


class _Files:
    """The archive and segments of a journal, open for reading. Removing them does not matter: they stay readable."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        for tries in range(_TRIES):
            try:
                self.layout = read_layout(folder)
                self._open()
                return
            except FileNotFoundError:  # a compaction has just removed it
                self._stack.close()
                if tries == _TRIES - 1:
                    raise

    def __enter__(self) -> _Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def bytes(self) -> int:
        sizes = [os.fstat(descriptor).st_size for _, descriptor in self.segments]
        return sum(sizes) + (self.archive.path.stat().st_size if self.archive is not None else 0)

    def entries(self) -> Iterator[Record | tuple[str, int]]:
        """All responses, and the charges (reason, picodollars) of the segments, in the order of the log.

        ``spent`` is the total of what has been passed, damaged records included.
        """
        if self.archive is not None:
            self.spent = self.archive.spent
            yield from self.archive.records()
        for _, descriptor in self.segments:
            for offset, kind, _, cost, spent, _ in scan(descriptor):
                self.spent = max(self.spent, spent)
                if kind == RESPONSE:
                    yield read_record(descriptor, offset)
                elif kind == CHARGE:
                    yield read_charge(descriptor, offset), cost

    def set_damage_aside(self) -> None:
        """Copy what is damaged to files that compaction leaves alone."""
        if self.archive is not None and not self.archive.is_sound:
            side = self.archive.path.with_name(f"{self.archive.path.name}.damaged")
            if not side.exists():
                side.hardlink_to(self.archive.path)
        for path, descriptor in self.segments:
            end = 0
            for offset, kind, _, _, _, length in scan(descriptor):
                end = offset + length
                if kind == DAMAGE:
                    set_aside(path, descriptor, offset, end)
            size = os.fstat(descriptor).st_size
            if end < size:
                set_aside(path, descriptor, end, size)

    def _open(self) -> None:
        self.archive: Archive | None = None
        self.segments: list[tuple[Path, int]] = []  # with descriptors
        self.spent = 0
        if self.layout.archive is not None:
            self.archive = self._stack.enter_context(Archive(self.layout.archive, self.layout.checksum))
        for path in self.layout.segments:
            descriptor = os.open(path, os.O_RDONLY)
            self._stack.callback(os.close, descriptor)
            self.segments.append((path, descriptor))


def _unreadable(folder: Path, error: Exception) -> StorageError:
    return StorageError(
        f"A record of the journal {folder} cannot be read ({error}). Check the disk, then run the same command again; "
        "nothing in the journal has been changed."
    )


def _compact(folder: Path, files: _Files, progress: Progress) -> Compaction:
    before = files.bytes
    if not any(os.fstat(descriptor).st_size for _, descriptor in files.segments):
        rows, spent = (len(files.archive), files.archive.spent) if files.archive is not None else (0, 0)
        return Compaction(rows, spent, before, before)
    files.set_damage_aside()
    last = files.layout.archived + len(files.segments)
    temporary = folder / f".000001-{last:06d}.parquet.tmp"
    try:
        rows, checksum = _write(files, temporary, progress)
        _compare(files, temporary, checksum, rows, progress)
        target = archive_path(folder, last, checksum)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    remove_stale(read_layout(folder))
    return Compaction(rows, files.spent, before, target.stat().st_size)


def _write(files: _Files, path: Path, progress: Progress) -> tuple[int, int]:
    """Returns the number of rows and the checksum of the footer."""
    charges: Charges = dict(files.archive.charges) if files.archive is not None else {}
    rows = 0
    with ArchiveWriter(path) as writer:
        for entry in files.entries():
            if isinstance(entry, Record):
                writer.add(entry)
                rows += 1
                if rows % _TOLD_ROWS == 0:
                    progress(rows, None, "written")
            else:
                reason, cost = entry
                count, total = charges.get(reason, (0, 0))
                charges[reason] = [count + 1, total + cost]
        checksum = writer.finish(files.spent, charges)
    return rows, checksum


def _compare(files: _Files, path: Path, checksum: int, rows: int, progress: Progress) -> None:
    """Read the new archive back: each response must be the one that was stored, and the total the same."""
    with Archive(path, checksum) as archive:
        stored = (entry for entry in files.entries() if isinstance(entry, Record))
        for row, (wanted, found) in enumerate(zip_longest(stored, archive.records())):
            if wanted != found:
                raise StorageError(
                    f"Row {row} of {path} reads back differently from what was written. Check the disk, then compact "
                    "again; the journal is as it was."
                )
            if row % _TOLD_ROWS == 0:
                progress(row, rows, "compared")
        if (len(archive), archive.spent) != (rows, files.spent):
            raise StorageError(
                f"{path} holds {len(archive)} rows and {archive.spent} picodollars, but {rows} and {files.spent} were "
                "written. Check the disk, then compact again; the journal is as it was."
            )
