"""The failures file: what could not be had, why, and the request; never part of the data.

One JSON line a text: ``id`` of the set, ``key``, ``reason``, ``status``, ``attempts``, ``permanent``, ``time`` and
``request``. ``permanent`` means that the endpoint refused the request itself: asking again is pointless until something
changes there, so the same request is not sent again unless the run is told to. Lines are appended as the
failures happen; the end of a run leaves those of its own requests only. Memory holds keys, not requests.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from synthie.llm.client import RequestFailedError

__all__ = ["Failures", "any_failures"]


class Failures:
    """The failures file of a run.

    Args:
        path: the file; may hold the failures of earlier runs.
        retry: forget the permanent ones.
    """

    def __init__(self, path: Path, *, retry: bool = False) -> None:
        self._path = path
        self._refused = set() if retry else {_key(line) for line in _read(path) if line["permanent"]}
        self._failed: set[bytes] = set()  # in this run
        self._doubtful: set[bytes] = set()  # refused since the last answer

    def is_refused(self, key: bytes) -> bool:
        """The endpoint has refused this request for good, in this run or an earlier one."""
        return key in self._refused

    def has_failed(self, key: bytes) -> bool:
        """There is no sense in sending this request in this run; that counts as a failure of this run."""
        if key in self._refused:
            self._failed.add(key)
        return key in self._failed

    def add(self, number: int, key: bytes, body: bytes, error: RequestFailedError) -> None:
        """Write down that the request for set ``number`` has failed for good."""
        line = {
            "id": number,
            "key": key.hex(),
            "reason": str(error),
            "status": error.status,
            "attempts": error.attempts,
            "permanent": error.permanent,
            "time": round(time.time(), 3),
            "request": json.loads(body),
        }
        self._failed.add(key)
        if error.permanent:
            self._refused.add(key)
            self._doubtful.add(key)
        with self._path.open("ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # a crash has left half a line
            file.write(_encode(line))

    def answered(self) -> None:
        """The endpoint has answered: what it refuses, it refuses for a reason of its own."""
        self._doubtful.clear()

    def doubt(self) -> None:
        """The endpoint as a whole has failed: what it refused since its last answer says nothing about the requests."""
        if self._doubtful:
            self._rewrite(lambda line: line | {"permanent": line["permanent"] and _key(line) not in self._doubtful})

    def close(self, *, keep: Callable[[bytes], bool] = lambda key: False) -> None:
        """Leave the lines of this run's failures, each once, and those of other requests whose key is to ``keep``."""
        if self._path.exists():
            self._rewrite(lambda line: line if _key(line) in self._failed or keep(_key(line)) else None)

    def _rewrite(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """Replace the file by the latest line of each request, changed; None leaves it out."""
        latest = {line["key"]: number for number, line in enumerate(_read(self._path))}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                for number, line in enumerate(_read(self._path)):
                    changed = change(line) if latest[line["key"]] == number else None
                    if changed is not None:
                        file.write(_encode(changed))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)


def any_failures(path: Path) -> bool:
    """Whether the file tells of any."""
    return next(_read(path), None) is not None


def _key(line: dict[str, Any]) -> bytes:
    return bytes.fromhex(line["key"])


def _encode(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of the file; a torn one is left out, and that request asked for again."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"key", "permanent"} <= line.keys():
                yield line
