"""Segment files, the form in which the journal grows, and the lock of its folder.

A segment is a row of records: a fixed header (magic, CRC-32, length, kind, key,
cost, running total of all costs) and a JSON payload, so that opening needs no
decoding and a person can read a segment with ``strings``. `scan` finds the
sound records of a segment whatever has happened to the bytes between them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from synthie.errors import BusyError, StorageError, storage_error

__all__ = [
    "CHARGE",
    "DAMAGE",
    "KEY_BYTES",
    "NO_KEY",
    "RESPONSE",
    "Entry",
    "Record",
    "as_storage_error",
    "cut_tail_off",
    "encode_entry",
    "encode_record",
    "lock_folder",
    "read_charge",
    "read_record",
    "scan",
    "set_aside",
    "sync_folder",
    "warn_of_damage",
]

log = logging.getLogger(__name__)

KEY_BYTES = 16
NO_KEY = bytes(KEY_BYTES)
DAMAGE, RESPONSE, CHARGE = 0, 1, 2

Entry = tuple[int, int, bytes, int, int, int]
"""What `scan` finds: byte offset, kind, key, cost, running total with it, length in bytes."""

_MAGIC = b"\xf5SJ1"  # 0xF5 occurs in no UTF-8 text, so never in a payload
_HEADER = struct.Struct("<4sIIB3x16sqq")  # magic, crc, payload length, kind, key, cost, spent after this record
_CRC_FROM = 8  # the checksum covers everything behind itself
_MAX_PAYLOAD = 64 << 20
_CHUNK = 4 << 20  # read at once; memory-mapped files would count as the process's memory


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
        endpoint: base URL of who answered, "" where that was not noted.
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
    endpoint: str = ""


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
    endpoint: str = ""


_decoder = msgspec.json.Decoder(_Stored)


def encode_record(record: Record) -> bytes:
    """The payload of a response."""
    return msgspec.json.encode(
        _Stored(
            record.text,
            record.finish_reason,
            record.model,
            record.input_tokens,
            record.cached_input_tokens,
            record.output_tokens,
            record.latency_s,
            record.attempts,
            record.time,
            record.endpoint,
        )
    )


def encode_entry(kind: int, key: bytes, cost: int, spent: int, payload: bytes) -> bytes:
    """The bytes of one record."""
    header = _HEADER.pack(_MAGIC, 0, len(payload), kind, key, cost, spent)
    crc = zlib.crc32(payload, zlib.crc32(header[_CRC_FROM:]))
    return header[:4] + crc.to_bytes(4, "little") + header[_CRC_FROM:] + payload


def read_record(descriptor: int, offset: int) -> Record:
    """The response at ``offset``.

    Raises:
        OSError, ValueError: it cannot be read, or is not what was written.
    """
    key, cost, payload = _read(descriptor, offset)
    return Record(key=key, cost=cost, **msgspec.structs.asdict(_decoder.decode(payload)))


def read_charge(descriptor: int, offset: int) -> str:
    """The reason of the charge at ``offset``. Errors: see `read_record`."""
    return msgspec.json.decode(_read(descriptor, offset)[2])["reason"]


def scan(descriptor: int, start: int = 0) -> Iterator[Entry]:
    """The sound records from byte ``start`` on, in order, and the damaged stretches between them (`DAMAGE`).

    What follows the last sound record is not told: it may be a record that is just being written.
    """
    end, wanted = start, _CHUNK  # end: behind the last entry
    while data := os.pread(descriptor, wanted, end):
        base, size, offset = end, len(data), 0
        while 0 <= offset < size:
            found = _record_at(data, offset, size)
            if found is None:
                offset = data.find(_MAGIC, offset + 1)
                continue
            if base + offset > end:
                yield end, DAMAGE, NO_KEY, 0, 0, base + offset - end
            kind, key, cost, spent, length = found
            yield base + offset, kind, key, cost, spent, length
            offset += length
            end = base + offset
        if end > base:
            wanted = _CHUNK
        elif base + size >= os.fstat(descriptor).st_size:
            return
        else:
            wanted *= 2  # a record, or a damaged stretch, that is longer than what was read


def set_aside(path: Path, descriptor: int, start: int, end: int) -> Path:
    """Copy a stretch that is no record to a file beside the segment, for who wants to look at it."""
    side = path.with_name(f"{path.name}.damaged-{start}")
    with side.open("wb") as file:
        for position in range(start, end, 1 << 20):
            file.write(os.pread(descriptor, min(1 << 20, end - position), position))
        file.flush()
        os.fsync(file.fileno())
    return side


def cut_tail_off(path: Path, descriptor: int, end: int) -> None:
    """Remove what follows the last sound record, an interrupted write, after copying it beside the segment."""
    size = os.fstat(descriptor).st_size
    if end == size:
        return
    side = set_aside(path, descriptor, end, size)
    os.ftruncate(descriptor, end)
    log.warning(
        "%s: the last %d bytes are no whole record (an interrupted write); moved to %s, all earlier records are intact",
        path,
        size - end,
        side.name,
    )


def warn_of_damage(path: Path, start: int, length: int) -> None:
    log.warning(
        "%s: %d bytes from byte %d on are damaged; the responses in them are lost and will be asked for again, all "
        "others are intact",
        path,
        length,
        start,
    )


def lock_folder(folder: Path) -> int:
    """Become the only writer of the journal in ``folder``; returns the descriptor that holds the lock.

    Raises:
        BusyError: another process is.
        OSError: the folder cannot be written.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(
            f"Another process writes to the journal {folder}. Wait until it ends or stop it, then run again."
        ) from None
    return descriptor


def sync_folder(folder: Path) -> None:
    """Force the names of the folder's files to the disk, so that they survive a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_storage_error(error: OSError, folder: Path) -> StorageError:
    return storage_error(error, folder) or StorageError(
        f"Cannot write the journal in {folder}: {error.strerror}. Mend the disk or choose another run folder and run "
        "the same command again; the responses stored so far are intact."
    )


def _read(descriptor: int, offset: int) -> tuple[bytes, int, bytes]:
    header = os.pread(descriptor, _HEADER.size, offset)
    if len(header) < _HEADER.size:
        raise ValueError("the file ends before it")
    _, crc, length, _, key, cost, _ = _HEADER.unpack(header)
    payload = os.pread(descriptor, length, offset + _HEADER.size)
    if zlib.crc32(payload, zlib.crc32(header[_CRC_FROM:])) != crc:
        raise ValueError("its checksum is wrong")
    return key, cost, payload


def _record_at(data: bytes, offset: int, size: int) -> tuple[int, bytes, int, int, int] | None:
    """Kind, key, cost, running total and length of the record at ``offset``, or None if there is no sound one."""
    if size - offset < _HEADER.size:
        return None
    header: tuple[Any, ...] = _HEADER.unpack_from(data, offset)
    magic, crc, length, kind, key, cost, spent = header
    whole = _HEADER.size + length
    if magic != _MAGIC or length > _MAX_PAYLOAD or offset + whole > size:
        return None
    if zlib.crc32(data[offset + _CRC_FROM : offset + whole]) != crc:
        return None
    return kind, key, cost, spent, whole
