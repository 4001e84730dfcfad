"""The journal: every paid response, on disk before anything else happens with it.

An append-only log in numbered segment files. A record is a fixed header (magic,
CRC-32, length, key, cost, running total of all costs) and a JSON payload, so
that opening needs headers only and a person can read a segment with ``strings``.

* A record is handed to the operating system before `Journal.append` returns: a
  killed process loses none. It is forced to the disk (``fdatasync``) by a
  committer thread within `SYNC_SECONDS`: a power cut loses at most that much.
* Opening scans all segments. A torn tail is copied to ``<segment>.damaged-<offset>``
  and cut off; a damaged record in the middle is skipped and left in place.
* The index is one open-addressing hash table in flat arrays: 24 bytes a slot,
  at most `_MAX_LOAD` full, so 36 to 72 bytes a row.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from synthie.errors import BusyError, StorageError, storage_error

__all__ = ["KEY_BYTES", "SYNC_SECONDS", "Journal", "Record"]

log = logging.getLogger(__name__)

KEY_BYTES = 16
SYNC_SECONDS = 0.5  # longest time that a record waits for fdatasync
SEGMENT_BYTES = 256 << 20  # a new segment file is begun beyond this size

_MAGIC = b"\xf5SJ1"  # 0xF5 occurs in no UTF-8 text, so never in a payload
_HEADER = struct.Struct("<4sIIB3x16sqq")  # magic, crc, payload length, kind, key, cost, spent after this record
_CRC_FROM = 8  # the checksum covers everything behind itself
_MAX_PAYLOAD = 64 << 20
_RESPONSE, _CHARGE = 1, 2
_NO_KEY = bytes(KEY_BYTES)
_OFFSET_BITS = 40  # a location is segment number << 40 | offset
_MAX_LOAD = 2 / 3


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One response of the endpoint.

    Attributes:
        key: what the response answers: a hash of endpoint and request body (`KEY_BYTES` bytes).
        cost: what it cost, in picodollars (10⁻¹² USD).
        text: the text, exactly as it came.
        finish_reason: the endpoint's reason to stop, such as "stop", "length", "content_filter".
        model: the model that the endpoint says it used.
        input_tokens, cached_input_tokens, output_tokens: as billed; cached ones are part of input_tokens.
        latency_s: seconds of the successful try.
        attempts: tries that it took, 1 if the first succeeded.
        time: seconds since the epoch, when the response arrived.
    """

    key: bytes
    cost: int
    text: str
    finish_reason: str | None = None
    model: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    latency_s: float = 0.0
    attempts: int = 1
    time: float = 0.0


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
        self._index = _Index()
        self._spent = 0
        self._files: list[int] = []  # descriptor of segment number i + 1
        self._end = 0  # bytes in the last segment
        self._mutex = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._failure: OSError | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise _as_storage_error(error, folder) from error
        try:
            self._open()
        except BaseException as error:
            self._close_files()
            if isinstance(error, OSError):
                raise _as_storage_error(error, folder) from error
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
        location = self._index.get(key)
        if location < 0:
            return None
        segment, offset = location >> _OFFSET_BITS, location & ((1 << _OFFSET_BITS) - 1)
        try:
            header = os.pread(self._files[segment - 1], _HEADER.size, offset)
            _, crc, length, _, _, cost, _ = _HEADER.unpack(header)
            payload = os.pread(self._files[segment - 1], length, offset + _HEADER.size)
            if zlib.crc32(payload, zlib.crc32(header[_CRC_FROM:])) != crc:
                raise ValueError("its checksum is wrong")
            stored = _decoder.decode(payload)
        except (OSError, ValueError, struct.error) as error:
            raise StorageError(
                f"The record at byte {offset} of {self._path(segment)} cannot be read any more ({error}). "
                "Check the disk, then run the same command again: a damaged record is asked for anew."
            ) from error
        return Record(key=key, cost=cost, **msgspec.structs.asdict(stored))

    def append(self, record: Record) -> None:
        """Store a response; on return it survives the death of this process.

        Raises:
            StorageError: the disk is full or fails. Earlier records are intact.
        """
        stored = _Stored(*(getattr(record, name) for name in _Stored.__struct_fields__))
        location = self._write(_RESPONSE, record.key, record.cost, msgspec.json.encode(stored))
        self._index.put(record.key, location)

    def charge(self, cost: int, reason: str) -> None:
        """Account for ``cost`` picodollars that no response stands for, such as a try that timed out."""
        self._write(_CHARGE, _NO_KEY, cost, msgspec.json.encode({"reason": reason}))

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
            raise _as_storage_error(error, self._folder) from error

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

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:06d}.journal"

    def _write(self, kind: int, key: bytes, cost: int, payload: bytes) -> int:
        if self._failure is not None:
            raise _as_storage_error(self._failure, self._folder) from self._failure
        spent = self._spent + cost
        header = _HEADER.pack(_MAGIC, 0, len(payload), kind, key, cost, spent)
        crc = zlib.crc32(payload, zlib.crc32(header[_CRC_FROM:]))
        data = header[:4] + crc.to_bytes(4, "little") + header[_CRC_FROM:] + payload
        with self._mutex:
            try:
                if self._end and self._end + len(data) > self._segment_bytes:
                    self._begin_segment()
                _write_whole(self._files[-1], data, self._end)
            except OSError as error:
                raise _as_storage_error(error, self._folder) from error
            location = len(self._files) << _OFFSET_BITS | self._end
            self._end += len(data)
            self._spent = spent
        if not self._dirty.is_set():
            self._dirty.set()
        return location

    def _begin_segment(self) -> None:
        if self._files:
            os.fdatasync(self._files[-1])
        path = self._path(len(self._files) + 1)
        self._files.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
        self._end = 0
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the file's name survives a power cut, too
        finally:
            os.close(folder)

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
        for path in sorted(self._folder.glob("*.journal")):
            self._load(path)
        if not self._files:
            self._begin_segment()

    def _load(self, path: Path) -> None:
        expected = self._path(len(self._files) + 1)
        if path != expected:
            raise StorageError(
                f"The journal lacks the segment {expected.name} but has {path.name}. Put the missing file back from "
                "a copy, or rename the later ones so that the numbers have no gap."
            )
        descriptor = os.open(path, os.O_RDWR)
        self._files.append(descriptor)
        size = os.fstat(descriptor).st_size
        self._end = self._scan(path, descriptor, size) if size else 0
        if self._end < size:
            _set_tail_aside(path, descriptor, self._end, size)

    def _scan(self, path: Path, descriptor: int, size: int) -> int:
        """Index the records of one segment; return the byte behind its last sound record."""
        base = len(self._files) << _OFFSET_BITS
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as data:
            end = offset = 0
            while 0 <= offset < size:
                found = _record_at(data, offset, size)
                if found is None:
                    offset = data.find(_MAGIC, offset + 1)
                    continue
                if offset > end:
                    log.warning(
                        "%s: %d bytes from byte %d on are damaged; the responses in them are lost and will be "
                        "asked for again, all others are intact",
                        path,
                        offset - end,
                        end,
                    )
                kind, key, spent, length = found
                if kind == _RESPONSE:
                    self._index.put(key, base | offset)
                self._spent = max(self._spent, spent)
                end = offset = offset + length
        return end


class _Stored(msgspec.Struct, omit_defaults=True, frozen=True):
    """The payload of a response: `Record` without what the header holds."""

    text: str
    finish_reason: str | None = None
    model: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    latency_s: float = 0.0
    attempts: int = 1
    time: float = 0.0


_decoder = msgspec.json.Decoder(_Stored)


class _Index:
    """Key (16 bytes, uniformly distributed) -> location, by linear probing in three flat arrays."""

    def __init__(self) -> None:
        self._count = 0
        self._allocate(1 << 10)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return 3 * 8 * len(self._locations)

    def get(self, key: bytes) -> int:
        """The location, or -1."""
        return self._locations[self._slot(int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"))] - 1

    def put(self, key: bytes, location: int) -> None:
        first, second = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
        slot = self._slot(first, second)
        if not self._locations[slot]:
            if self._count >= _MAX_LOAD * len(self._locations):
                self._grow()
                slot = self._slot(first, second)
            self._count += 1
        self._firsts[slot], self._seconds[slot], self._locations[slot] = first, second, location + 1

    def keys(self) -> Iterator[bytes]:
        for first, second, location in zip(self._firsts, self._seconds, self._locations, strict=True):
            if location:
                yield first.to_bytes(8, "little") + second.to_bytes(8, "little")

    def _slot(self, first: int, second: int) -> int:
        firsts, seconds, locations, mask = self._firsts, self._seconds, self._locations, self._mask
        slot = first & mask
        while locations[slot] and (firsts[slot] != first or seconds[slot] != second):
            slot = (slot + 1) & mask
        return slot

    def _allocate(self, slots: int) -> None:
        self._mask = slots - 1
        self._firsts, self._seconds, self._locations = (array("Q", bytes(8 * slots)) for _ in range(3))

    def _grow(self) -> None:
        old = self._firsts, self._seconds, self._locations
        self._allocate(2 * len(self._locations))
        for first, second, location in zip(*old, strict=True):
            if location:
                slot = self._slot(first, second)
                self._firsts[slot], self._seconds[slot], self._locations[slot] = first, second, location


def _record_at(data: mmap.mmap, offset: int, size: int) -> tuple[int, bytes, int, int] | None:
    """Kind, key, running total and length of the record at ``offset``, or None if there is no sound one."""
    if size - offset < _HEADER.size:
        return None
    magic, crc, length, kind, key, _, spent = _HEADER.unpack_from(data, offset)
    whole = _HEADER.size + length
    if magic != _MAGIC or length > _MAX_PAYLOAD or offset + whole > size:
        return None
    if zlib.crc32(data[offset + _CRC_FROM : offset + whole]) != crc:
        return None
    return kind, key, spent, whole


def _set_tail_aside(path: Path, descriptor: int, end: int, size: int) -> None:
    side = path.with_name(f"{path.name}.damaged-{end}")
    with side.open("wb") as file:
        for position in range(end, size, 1 << 20):
            file.write(os.pread(descriptor, min(1 << 20, size - position), position))
        file.flush()
        os.fsync(file.fileno())
    os.ftruncate(descriptor, end)
    log.warning(
        "%s: the last %d bytes are no whole record (an interrupted write); moved to %s, all earlier records are intact",
        path,
        size - end,
        side.name,
    )


def _write_whole(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset`` or nothing: what was written in part is cut off again."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)
    except OSError:
        os.ftruncate(descriptor, offset)
        raise


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(
            f"Another process writes to the journal {folder}. Wait until it ends or stop it, then run again."
        ) from None
    return descriptor


def _as_storage_error(error: OSError, folder: Path) -> StorageError:
    return storage_error(error, folder) or StorageError(
        f"Cannot write the journal in {folder}: {error.strerror}. Mend the disk or choose another run folder and run "
        "the same command again; the responses stored so far are intact."
    )
