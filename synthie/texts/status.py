"""What a run is doing, seen from outside: for another terminal, while the run writes or long after.

Reads manifests, the owners of locks, the journals, and what the stages that ask
LLMs, texts and judge, tell of themselves (``progress.json``, ``events.jsonl``,
``failures.jsonl``); writes nothing, and takes no lock, so that a run that starts
at the same moment is not turned away. What is missing or damaged is reported,
never an error.
"""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

from kg.stage import MANIFEST, lock_owner, read_manifest
from synthie.errors import InputError, SynthieError
from synthie.llm.journal import JournalSummary, read_journal
from synthie.texts.snapshot import Snapshot, read_snapshot

__all__ = ["RunWatch", "status"]

_QUIET_S = 30.0  # without news, a run on another machine is taken to be gone
_TRACES = ("journal", "progress.json", "events.jsonl")
_SHOWN_EVENTS = 5
_TAIL_BYTES = 16 << 10
_READ_BYTES = 1 << 20


def status(run: Path) -> dict[str, Any]:
    """Look at a run; the result is JSON-ready.

    Returns:
        ``run``, ``time`` (UTC, ISO 8601); ``stages``: for each its ``name``, ``title`` and ``state`` ("not started",
        "running", "stopped", "finished", "damaged", or "elsewhere" if only another machine can tell), and as far as
        it applies ``pid``, ``host``, ``since``, ``finished``, ``seconds``, ``counts`` and ``problem``; ``texts`` and
        ``judge``: see `RunWatch._asking`, None where nothing was asked. A pilot or trial leaves texts although the
        stage has not been started. ``spent_usd``: by both.

    Raises:
        InputError: there is no such run.
    """
    return RunWatch(run).look()


class RunWatch:
    """A run that is looked at again and again; each time only what is new in the journals is read."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._journals = {"texts": JournalSummary(), "judge": JournalSummary()}

    def look(self) -> dict[str, Any]:
        """See `status`."""
        from synthie.pipeline import STAGES

        if not any((self._run / stage.name).is_dir() for stage in STAGES):
            raise InputError(
                f"No run has been started in {self._run}. Start one, such as synthie demo --run {self._run}, or name "
                "the folder of another with --run."
            )
        stages = [{"name": stage.name, "title": stage.title} | _stage(self._run / stage.name) for stage in STAGES]
        asked = {stage["name"]: self._asking(stage) for stage in stages if stage["name"] in self._journals}
        return {
            "run": str(self._run),
            "time": _iso(time.time()),
            "stages": stages,
            **asked,
            "spent_usd": sum(journal.spent_usd for journal in self._journals.values()),
        }

    def _asking(self, stage: dict[str, Any]) -> dict[str, Any] | None:
        """How far a stage that asks an LLM is; None where it never did.

        ``rows``, ``spent_usd``, ``bytes`` of the journal, whatever became of the run; ``progress``: the fields of
        `Snapshot` or None; ``news_s``: its age in seconds; ``failures``: lines in failures.jsonl; ``events``: the
        last few; ``problems``: what could not be read.
        """
        name = stage["name"]
        folder = self._run / name
        if not any((folder / trace).exists() for trace in _TRACES):
            return None
        problems: list[str] = []
        try:
            self._journals[name] = read_journal(folder / "journal", self._journals[name])
        except (SynthieError, OSError) as error:
            problems.append(f"The journal cannot be read: {error}")
        snapshot = _snapshot(folder / "progress.json", problems)
        news = None if snapshot is None else round(max(0.0, time.time() - snapshot.time), 1)
        if stage["state"] == "elsewhere" and news is not None:
            stage["state"] = "running" if news < _QUIET_S else "stopped"
        journal = self._journals[name]
        return {
            "rows": journal.rows,
            "spent_usd": journal.spent_usd,
            "bytes": journal.bytes,
            "progress": None if snapshot is None else msgspec.structs.asdict(snapshot),
            "news_s": news,
            "failures": _count_lines(folder / "failures.jsonl", problems),
            "events": _last_events(folder / "events.jsonl", problems),
            "problems": problems,
        }


def _stage(folder: Path) -> dict[str, Any]:
    owner = lock_owner(folder)
    if owner and owner.host == socket.gethostname() and _has_open(owner.pid, owner.lock):
        return {"state": "running", "pid": owner.pid, "host": owner.host, "since": owner.since}
    if (folder / MANIFEST).exists():
        try:
            manifest = read_manifest(folder)
        except InputError as error:
            return {"state": "damaged", "problem": str(error)}
        return {
            "state": "finished",
            "finished": manifest.finished,
            "seconds": manifest.seconds,
            "counts": manifest.counts,
        }
    if owner is None:
        return {"state": "not started"}
    if not owner.host:
        return {"state": "stopped"}
    state = "stopped" if owner.host == socket.gethostname() else "elsewhere"
    return {"state": state, "pid": owner.pid, "host": owner.host, "since": owner.since}


def _has_open(pid: int, lock: Path) -> bool:
    """True if the process lives and has the lock's file open, which a stage has as long as it holds the lock.

    Trying the lock would tell for sure, but turn away a run that starts at that instant.
    """
    try:
        return any(Path(file.path) == lock.resolve() for file in psutil.Process(pid).open_files())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's process
        return True


def _snapshot(path: Path, problems: list[str]) -> Snapshot | None:
    try:
        return read_snapshot(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        problems.append(f"{path} is damaged ({error}); a running stage replaces it within seconds.")
        return None


def _count_lines(path: Path, problems: list[str]) -> int:
    lines = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                lines += block.count(b"\n")
    except FileNotFoundError:
        return 0
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}.")
    return lines


def _last_events(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The last events, oldest first; lines that are none, such as half of one, are passed over."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}.")
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and {"time", "event"} <= event.keys():
            events.append(event)
    return events[-_SHOWN_EVENTS:]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
