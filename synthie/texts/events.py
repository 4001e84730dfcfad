"""The log of what a stage met on its way: one JSON object a line, for people on call and for programs.

A line has ``time`` (UTC, ISO 8601), ``event`` (its kind) and the event's own
fields. Events are for changes worth a line, such as an endpoint that went
down, never for every call.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["EventLog"]

log = logging.getLogger(__name__)


class EventLog:
    """Appends events to a file and to the program's log. Use as a context manager.

    An event must not end the work that it tells of: where the file cannot be
    written, that is logged once and later events go to the program's log only.

    Args:
        path: the file; earlier lines in it are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._is_open = True

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, kind: str, /, **details: Any) -> None:
        """Tell of an event; the line is with the operating system on return. Values that JSON lacks become text."""
        log.info("%s %s", kind, " ".join(f"{name}={value}" for name, value in details.items()))
        if not self._is_open:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": kind} | details, ensure_ascii=False, default=str)
        try:
            if self._file < 0:
                self._file = _open_for_lines(self._path)
            data = line.encode(errors="replace") + b"\n"
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            log.warning("%s cannot be written (%s); further events are logged only", self._path, error.strerror)
            self.close()

    def close(self) -> None:
        """Close the file; what is told afterwards is logged only. Closing twice is harmless."""
        self._is_open = False
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _open_for_lines(path: Path) -> int:
    """Open for appending, behind a line end: a crash may have left half a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")
    return file
