"""The failures file: what could not be had, why, and the request; never part of the data.

One JSON line a text: ``id`` of the set, ``key``, ``reason``, ``status``, ``attempts``, ``permanent``, ``time`` and
``request``. ``permanent`` means that the endpoint refused the request itself: asking again is pointless until something
changes there, so the same request is not sent again unless the run is told to. Lines are appended as the
failures happen; the end of a run leaves those of its own requests only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kg.stage import write_atomic
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
        self._current: dict[str, dict[str, Any]] = {}  # key -> line, for what has failed in this run
        self._added: list[dict[str, Any]] = []
        self._refused = {} if retry else {line["key"]: line for line in _read(path) if line["permanent"]}

    def is_refused(self, key: bytes) -> bool:
        """The endpoint has refused this request for good in an earlier run; the failure then counts for this one."""
        line = self._refused.get(key.hex())
        if line is None:
            return False
        self._current[key.hex()] = line
        return True

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
        self._current[line["key"]] = line
        self._added.append(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_encode(line))

    def doubt(self) -> None:
        """The endpoint as a whole has failed: that it refused these requests says nothing about them."""
        for line in self._added:
            line["permanent"] = False
        self._write(self._refused | self._current)

    def close(self) -> None:
        """Leave the lines of this run's failures only."""
        self._write(self._current)

    def _write(self, lines: dict[str, dict[str, Any]]) -> None:
        write_atomic(self._path, "".join(map(_encode, lines.values())))


def any_failures(path: Path) -> bool:
    """Whether the file tells of any."""
    return next(_read(path), None) is not None


def _encode(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of the file; a torn last one is left out, and that request asked for again."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and {"key", "permanent"} <= line.keys():
            yield line
