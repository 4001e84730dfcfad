"""Verdicts that people give by hand, in ``<run>/texts/hand_verdicts.jsonl``.

The file only grows: each verdict is a line, as is its change or withdrawal, and of
a text's lines the last one holds. A line has ``time`` (UTC, ISO 8601), ``request_key``
and ``id`` of the text, ``verdict`` ("accept", "reject", or null: withdrawn), ``was``
(the hand's verdict before), ``gate`` (what the checks said then) and ``note``.

A line is on the disk before it is confirmed. Several processes may write: each line
is written under the file's lock, and half a line that a crash has left was never
confirmed, so that readers pass over it and the next writer cuts it off.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from synthie.errors import InputError, SynthieError, storage_error

__all__ = ["FILE", "HandVerdict", "HandVerdicts", "StaleVerdictError", "Word", "hand_verdicts"]

FILE = "hand_verdicts.jsonl"
Word = Literal["accept", "reject"]


class HandVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file."""

    time: str
    request_key: str
    id: int
    verdict: Word | None
    was: Word | None = None
    gate: Literal["accepted", "rejected"] | None = None
    note: str = ""


class StaleVerdictError(SynthieError):
    """Somebody else has judged the text in the meantime."""


def hand_verdicts(texts: Path) -> dict[str, str]:
    """Request key -> "accept" or "reject", for the texts of a texts folder that were judged by hand.

    Raises:
        InputError: the file is damaged.
    """
    return {key: str(held.verdict) for key, held in HandVerdicts(texts / FILE).current().items()}


class HandVerdicts:
    """The verdicts in one file; safe among threads, and among processes on one machine.

    Args:
        path: the file; it is made by the first verdict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._held: dict[str, HandVerdict] = {}
        self._seen = (0, 0)  # inode, bytes read
        self._lines = 0

    def current(self) -> dict[str, HandVerdict]:
        """Request key -> the verdict that holds; those withdrawn are left out.

        Raises:
            InputError: a line is damaged.
        """
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    self._read(file.fileno())
            except FileNotFoundError:
                self._forget(0)
            return dict(self._held)

    @property
    def lines(self) -> int:
        """How many lines have been read; another number, another state."""
        return self._lines

    def add(
        self,
        key: str,
        verdict: Word | None,
        *,
        id: int,  # noqa: A002 - the record's field
        gate: Literal["accepted", "rejected"] | None,
        note: str = "",
        expected: Word | Literal["any"] | None = "any",
    ) -> HandVerdict:
        """Append a verdict; it is on the disk on return.

        Args:
            key: request key of the text.
            verdict: None withdraws the hand's verdict.
            id, gate, note: see `HandVerdict`.
            expected: the verdict that must hold at present; "any" for whatever holds.

        Raises:
            InputError: the file is damaged.
            StaleVerdictError: another verdict holds than ``expected``.
            StorageError: the file cannot be written.
        """
        with self._lock, self._writing() as file:
            self._read(file)
            held = self._held.get(key)
            was = held.verdict if held else None
            if expected not in ("any", was):
                raise StaleVerdictError(f"Somebody else has judged this text meanwhile: {was or 'withdrawn'}.")
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = HandVerdict(time=now, request_key=key, id=id, verdict=verdict, was=was, gate=gate, note=note)
            data = msgspec.json.encode(line) + b"\n"
            _append(file, self._seen[1], data)
            self._read(file)
            return line

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """The file, locked for appending."""
        try:
            is_new = not self.path.exists()
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
                if is_new:
                    _sync_folder(self.path.parent)
            finally:
                os.close(file)
        except OSError as error:
            raise storage_error(error, self.path) or error from error

    def _read(self, file: int) -> None:
        """Take in the whole lines that are new."""
        state = os.fstat(file)
        if state.st_ino != self._seen[0] or state.st_size < self._seen[1]:
            self._forget(state.st_ino)
        offset = self._seen[1]
        data = os.pread(file, state.st_size - offset, offset)
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._lines += 1
            self._take(line)
        self._seen = (state.st_ino, offset + len(whole))

    def _take(self, line: bytes) -> None:
        try:
            verdict = msgspec.json.decode(line, type=HandVerdict)
        except msgspec.MsgspecError as error:
            number = self._lines
            self._forget(0)
            raise InputError(
                f"Line {number} of {self.path} is no verdict ({error}). Mend or delete the line; the others stand for "
                "themselves."
            ) from error
        self._held.pop(verdict.request_key, None)  # so that the newest is the last
        if verdict.verdict is not None:
            self._held[verdict.request_key] = verdict

    def _forget(self, inode: int) -> None:
        self._held, self._seen, self._lines = {}, (inode, 0), 0


def _append(file: int, end: int, data: bytes) -> None:
    """Put the line behind the last whole one, on the disk; a line that cannot be confirmed is taken back."""
    try:
        os.ftruncate(file, end)
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, end)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a new file's name as durable as its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
