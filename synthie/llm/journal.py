"""The journal: every paid response, on disk before anything else happens with it.

An append-only log in numbered segment files (`synthie.llm.segments`), the older
part of which may have been compacted into a Parquet file (`synthie.llm.archive`).

* A record is handed to the operating system before `Journal.append` returns: a
  killed process loses none. It is forced to the disk (``fdatasync``) by a
  committer thread within `SYNC_SECONDS`: a power cut loses at most that much.
* What calls in flight may cost is noted before they are sent (`synthie.llm.holds`);
  if the process dies, whoever opens the journal next charges it.
* Opening scans all segments. A torn tail is copied to ``<segment>.damaged-<offset>``
  and cut off; a damaged record in the middle is skipped and left in place.
* Which record answers which key is sorted in temporary files; memory holds the
  latest keys and one byte a row (`synthie.llm.key_index`).
"""

from __future__ import annotations

import logging
import os
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from synthie.errors import StorageError
from synthie.llm.holds import Holds
from synthie.llm.key_index import KeyIndex
from synthie.llm.layout import read_layout, remove_stale, segment_path
from synthie.llm.segments import (
    CHARGE,
    DAMAGE,
    KEY_BYTES,
    NO_KEY,
    RESPONSE,
    Record,
    as_storage_error,
    cut_tail_off,
    encode_entry,
    encode_record,
    lock_folder,
    read_record,
    scan,
    sync_folder,
    warn_of_damage,
)

if TYPE_CHECKING:
    from synthie.llm.archive import Archive

__all__ = ["KEY_BYTES", "SYNC_SECONDS", "Journal", "JournalSummary", "Record", "read_journal"]

log = logging.getLogger(__name__)

SYNC_SECONDS = 0.5  # longest time that a record waits for fdatasync
SEGMENT_BYTES = 256 << 20  # a new segment file is begun beyond this size

_OFFSET_BITS = 40  # a place is segment number << 40 | offset; with number 0, a row of the archive
_INDEXED_ROWS = 1 << 17  # put into the index at once
_IN_FLIGHT = "in-flight"
_TRIES = 5  # to read files that a compaction replaces at the same time


class Journal:
    """An open journal; the only writer of its folder. Use as a context manager.

    Args:
        folder: where the segment files are; created if absent.
        segment_bytes: size beyond which a new segment is begun.

    Raises:
        BusyError: another process has the journal open.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._index = KeyIndex(folder)
        self._spent = 0
        self._archive: Archive | None = None
        self._archived = 0  # segments in the archive
        self._files: list[int] = []  # descriptors of the segments that follow
        self._end = 0  # bytes in the last segment
        self._mutex = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._failure: OSError | None = None
        self._holds: Holds | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(folder)
        except OSError as error:
            raise as_storage_error(error, folder) from error
        try:
            self._open()
        except BaseException as error:
            self._close_files()
            if isinstance(error, OSError):
                raise as_storage_error(error, folder) from error
            raise
        self._committer = threading.Thread(target=self._commit, name="journal-committer", daemon=True)
        self._committer.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of different keys."""
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return self._index.get(key) >= 0

    @property
    def spent(self) -> int:
        """Everything the journal accounts for, in picodollars: responses and charges, lost records included."""
        return self._spent

    @property
    def spent_usd(self) -> float:
        """`spent` in US dollars."""
        return self._spent / 1e12

    @property
    def index_bytes(self) -> int:
        """Bytes that the index occupies in memory."""
        return self._index.nbytes

    def keys(self) -> Iterator[bytes]:
        """All keys, in no particular order."""
        return self._index.keys()

    def get(self, key: bytes) -> Record | None:
        """The response stored under ``key``, the latest if there are several; None if there is none.

        Raises:
            StorageError: the record has become unreadable since the journal was opened.
        """
        place = self._index.get(key)
        if place < 0:
            return None
        segment, offset = place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)
        try:
            if segment == 0 and self._archive is not None:
                return self._archive.get(offset)
            return read_record(self._files[segment - self._archived - 1], offset)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            where = f"byte {offset} of {self._path(segment).name}" if segment else f"row {offset} of the archive"
            raise StorageError(
                f"The record at {where} in {self._folder} cannot be read any more ({error}). "
                "Check the disk, then run the same command again: a damaged record is asked for anew."
            ) from error

    def append(self, record: Record) -> None:
        """Store a response; on return it survives the death of this process.

        Raises:
            StorageError: the disk is full or fails. Earlier records are intact.
        """
        place = self._write(RESPONSE, record.key, record.cost, encode_record(record))
        try:
            self._index.put(record.key, place)
        except OSError as error:
            raise as_storage_error(error, self._folder) from error

    def charge(self, cost: int, reason: str) -> None:
        """Account for ``cost`` picodollars that no response stands for, such as a try that timed out."""
        self._write(CHARGE, NO_KEY, cost, msgspec.json.encode({"reason": reason}))

    def hold(self, cost: int) -> int:
        """Note a call that may cost up to ``cost`` picodollars, before it is sent; returns what `free` wants.

        If this process dies before it is freed, whoever opens the journal next charges it.

        Raises:
            StorageError: the disk is full or fails.
        """
        assert self._holds is not None
        try:
            return self._holds.take(cost)
        except OSError as error:
            raise as_storage_error(error, self._folder) from error

    def free(self, hold: int) -> None:
        """The call has ended, and its answer or its charge is stored."""
        assert self._holds is not None
        try:
            self._holds.free(hold)
        except OSError as error:
            raise as_storage_error(error, self._folder) from error

    def sync(self) -> None:
        """Force everything appended so far to the disk.

        Raises:
            StorageError: the disk refuses, now or earlier in the background.
        """
        self._dirty.clear()
        try:
            if self._failure is not None:
                raise self._failure
            os.fdatasync(self._files[-1])
        except OSError as error:
            raise as_storage_error(error, self._folder) from error

    def close(self) -> None:
        """Force everything to the disk and let others open the journal. Closing twice is harmless."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._committer.join()
        try:
            self.sync()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        for descriptor in (*self._files, self._lock):
            os.close(descriptor)
        self._index.close()
        if self._holds is not None:
            self._holds.close()
        if self._archive is not None:
            self._archive.close()

    def _path(self, segment: int) -> Path:
        return segment_path(self._folder, segment)

    def _write(self, kind: int, key: bytes, cost: int, payload: bytes) -> int:
        if self._failure is not None:
            raise as_storage_error(self._failure, self._folder) from self._failure
        with self._mutex:
            spent = self._spent + cost
            data = encode_entry(kind, key, cost, spent, payload)
            try:
                if self._end and self._end + len(data) > self._segment_bytes:
                    self._begin_segment()
                _write_whole(self._files[-1], data, self._end)
            except OSError as error:
                raise as_storage_error(error, self._folder) from error
            place = (self._archived + len(self._files)) << _OFFSET_BITS | self._end
            self._end += len(data)
            self._spent = spent
        if not self._dirty.is_set():
            self._dirty.set()
        return place

    def _begin_segment(self) -> None:
        if self._files:
            os.fdatasync(self._files[-1])
        path = self._path(self._archived + len(self._files) + 1)
        self._files.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
        self._end = 0
        sync_folder(self._folder)

    def _commit(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(SYNC_SECONDS)  # gather the records of this interval under one fdatasync
            self._dirty.clear()
            with self._mutex:
                descriptor = self._files[-1]
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self._failure = error
                return

    def _open(self) -> None:
        layout = read_layout(self._folder)
        if layout.archive is not None:
            self._load_archive(layout.archive, layout.checksum)
            self._archived = layout.archived
        remove_stale(layout)
        for path in layout.segments:
            self._load(path)
        if not self._files:
            self._begin_segment()
        self._holds = Holds(self._folder / _IN_FLIGHT)
        if self._holds.left:
            log.warning(
                "%s: %d calls were in flight when the last run died; they are counted at the most that they can have "
                "cost, %.6f USD",
                self._folder,
                self._holds.calls,
                self._holds.left / 1e12,
            )
            self.charge(self._holds.left, "in flight when the process died")
        self._holds.clear()

    def _load_archive(self, path: Path, checksum: int) -> None:
        from synthie.llm.archive import Archive  # pyarrow, for the few who need it

        self._archive = Archive(path, checksum)
        self._spent = self._archive.spent
        for first, keys in self._archive.row_keys():
            rows = np.arange(first, first + len(keys) // KEY_BYTES, dtype=np.uint64)
            self._index.put_many(keys, rows)

    def _load(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR)
        self._files.append(descriptor)
        base = (self._archived + len(self._files)) << _OFFSET_BITS
        keys, places, end, total = bytearray(), array("Q"), 0, 0
        for offset, kind, key, _, spent, length in scan(descriptor):
            if kind == RESPONSE:
                keys += key
                places.append(base | offset)
                if len(places) == _INDEXED_ROWS:
                    self._index.put_many(keys, np.frombuffer(places, np.uint64))
                    keys, places = bytearray(), array("Q")
            elif kind == DAMAGE:
                warn_of_damage(path, offset, length)
            if spent > total:
                total = spent
            end = offset + length
        self._spent = max(self._spent, total)
        self._end = end
        self._index.put_many(keys, np.frombuffer(places, np.uint64))
        cut_tail_off(path, descriptor, end)


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """What a journal holds.

    Attributes:
        rows: responses stored; several answers to one question count each.
        charges: costs that no response stands for.
        spent: everything it accounts for, in picodollars.
        bytes: size of its files.
        position: archived segments, segment and byte up to which it has been read, for `read_journal`.
    """

    rows: int = 0
    charges: int = 0
    spent: int = 0
    bytes: int = 0
    position: tuple[int, int, int] = (0, 1, 0)

    @property
    def spent_usd(self) -> float:
        """`spent` in US dollars."""
        return self.spent / 1e12


def read_journal(folder: Path, since: JournalSummary | None = None) -> JournalSummary:
    """Look at a journal, also while another process writes to it; changes nothing and locks nobody out.

    Args:
        folder: the journal's folder; one that does not exist holds nothing.
        since: an earlier summary of the same folder: only what came after it is read.

    Raises:
        StorageError: a segment is missing, or the archive is damaged.
        OSError: the folder cannot be read.
    """
    for tries in range(_TRIES):
        try:
            return _summarise(folder, since or JournalSummary())
        except FileNotFoundError:  # a compaction has just removed a segment
            if not folder.exists():
                return JournalSummary()
            if tries == _TRIES - 1:
                raise
    raise AssertionError


def _summarise(folder: Path, since: JournalSummary) -> JournalSummary:
    layout = read_layout(folder)
    if layout.archived != since.position[0]:
        since = JournalSummary()
    rows, charges, spent = since.rows, since.charges, since.spent
    _, segment, end = since.position
    size = 0
    if layout.archive is not None:
        size = layout.archive.stat().st_size
        if since.position[0] != layout.archived:
            rows, charges, spent = _count_archive(layout.archive, layout.checksum)
            segment = layout.archived + 1
    for number, path in enumerate(layout.segments, layout.archived + 1):
        size += path.stat().st_size
        if number < segment:
            continue
        if number > segment:
            segment, end = number, 0
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for offset, kind, _, _, total, length in scan(descriptor, end):
                rows += kind == RESPONSE
                charges += kind == CHARGE
                spent = max(spent, total)
                end = offset + length
        finally:
            os.close(descriptor)
    return JournalSummary(rows, charges, spent, size, (layout.archived, segment, end))


def _count_archive(path: Path, checksum: int) -> tuple[int, int, int]:
    from synthie.llm.archive import Archive

    with Archive(path, checksum) as archive:
        return len(archive), sum(count for count, _ in archive.charges.values()), archive.spent


def _write_whole(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset`` or nothing: what was written in part is cut off again."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)
    except OSError:
        os.ftruncate(descriptor, offset)
        raise
