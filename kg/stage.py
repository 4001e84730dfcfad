"""What makes a function a stage: idempotent, locked, described by a manifest.

A stage turns a configuration and inputs on disk into the files of one folder.
`run_stage` gives every stage the same promises:

* the same configuration, inputs and seed are never computed twice: a finished
  folder is recognised by the fingerprint in its ``manifest.json`` and returned;
* ``manifest.json`` is written last and atomically, so a folder without one is
  unfinished, and the work function may pick up what it finds there;
* results of an older configuration are set aside until the new ones are complete,
  so that a mistake in the configuration destroys nothing; what the stage names in
  ``keep`` stays for good (paid responses are never thrown away);
* two processes never work in one folder (an advisory lock, freed by the
  operating system even after kill -9).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kg.errors import BusyError, InputError, StorageError, SynthieError, storage_error

__all__ = [
    "MANIFEST",
    "LockOwner",
    "Manifest",
    "Progress",
    "Settings",
    "file_digest",
    "find_damage",
    "lock_owner",
    "no_progress",
    "read_manifest",
    "run_stage",
    "write_atomic",
]

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_LOCK = ".lock"
_OWNER = re.compile(r"pid (\d+) on (\S+) since (\S+)")
_PARTIAL = ".fingerprint"
_PREVIOUS = ".previous"
_REPORTED_LIBRARIES = (
    "synthie",
    "numpy",
    "pyarrow",
    "networkx",
    "numba",
    "msgspec",
    "aiohttp",
    "torch",
    "transformers",
    "accelerate",
)
_FULL_DIGEST_BYTES = 1 << 30
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 1 << 20


class Settings(BaseModel):
    """Base of all configuration models: immutable data, unknown fields refused.

    Fields named in ``NOT_FINGERPRINTED`` change how a stage runs (workers,
    concurrency), never what it produces; changing them repeats no work.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset()

    def fingerprinted(self) -> dict[str, Any]:
        """The settings that decide about the result, as JSON-ready data."""
        return self.model_dump(mode="json", exclude=set(self.NOT_FINGERPRINTED))


class Progress(Protocol):
    """Receives how far a stage is; called often, so it must be cheap."""

    def __call__(self, done: int, total: int | None, unit: str, **details: Any) -> None: ...


def no_progress(done: int, total: int | None, unit: str, **details: Any) -> None:
    """The progress receiver that ignores everything."""


class Manifest(BaseModel):
    """The record that a finished stage leaves in ``manifest.json``.

    Attributes:
        stage: name of the stage.
        fingerprint: SHA-256 over stage, configuration, inputs and seed.
        config: the settings that decided about the result.
        inputs: name of each input -> digest of its content.
        outputs: path of each output file, relative to the folder -> SHA-256.
        output_hash: SHA-256 over ``outputs``; the input digest of the next stage.
        seed: seed of the run, or None where nothing is random.
        counts: what was read, made, dropped; numbers or nested tables of numbers.
        versions: Python and the libraries that took part.
        started, finished: UTC, ISO 8601.
        seconds: wall-clock seconds of this run of the stage.
        peak_memory_mb: peak resident memory of the process so far, in MiB.
        reused: True if the folder was already finished and nothing was done.
    """

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    output_hash: str
    seed: int | None
    counts: dict[str, Any]
    versions: dict[str, str]
    started: str
    finished: str
    seconds: float
    peak_memory_mb: float
    reused: bool = Field(default=False, exclude=True)


def run_stage(
    stage: str,
    folder: Path,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int | None,
    work: Callable[[Path], Mapping[str, Any]],
    keep: tuple[str, ...] = (),
    redo: bool = False,
) -> Manifest:
    """Run ``work`` in ``folder`` unless it has been done, and describe the result.

    Args:
        stage: name of the stage, part of the fingerprint.
        folder: where the results go; created if absent.
        config: JSON-ready settings that decide about the result.
        inputs: name -> digest of each input (see `file_digest`, `Manifest.output_hash`).
        seed: seed that ``work`` uses, or None.
        work: does the stage's work in the folder it is given and returns the counts.
            It may find results of an earlier, interrupted call with the same
            fingerprint there.
        keep: names in ``folder`` that survive a change of configuration; they
            are left out of ``outputs``.
        redo: do the work although it has been done.

    Raises:
        BusyError: another process works in ``folder``.
        StorageError: ``folder`` cannot be written or the disk is full.
    """
    fingerprint = _digest({"stage": stage, "config": config, "inputs": inputs, "seed": seed})
    _make_folder(folder)
    try:
        with _locked(folder):
            done = None if redo else _finished(folder, fingerprint, keep)
            if done is not None:
                log.info("%s: already done in %s", stage, folder)
                return done
            _prepare(folder, fingerprint, keep)
            started, clock = datetime.now(UTC), time.perf_counter()
            counts = dict(work(folder))
            outputs = _outputs(folder, keep)
            manifest = Manifest(
                stage=stage,
                fingerprint=fingerprint,
                config=dict(config),
                inputs=dict(inputs),
                outputs=outputs,
                output_hash=_digest(outputs),
                seed=seed,
                counts=counts,
                versions=_versions(),
                started=started.isoformat(timespec="seconds"),
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
                seconds=round(time.perf_counter() - clock, 3),
                peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            )
            write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
            (folder / _PARTIAL).unlink(missing_ok=True)
            shutil.rmtree(folder / _PREVIOUS, ignore_errors=True)
            return manifest
    except OSError as error:
        mended = storage_error(error, folder)
        if mended is None:
            raise
        raise mended from error


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished stage.

    Raises:
        InputError: the folder has none (the stage did not finish), it is not readable, or a file that it lists
            is gone.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        kept = ""
        if (folder / _PREVIOUS / MANIFEST).exists():
            kept = " What was there before is set aside; run the stage with its old settings to have it back."
        raise InputError(
            f"{folder} holds no finished stage: {path} is missing. Run the stage that makes it first, "
            f"or run it again if it was interrupted.{kept}"
        ) from None
    except (OSError, ValueError) as error:
        reason = f"{error.error_count()} errors" if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path} is damaged ({reason}). Delete it and run its stage again.") from error
    for name in manifest.outputs:
        if not (folder / name).exists():
            raise InputError(
                f"{folder / name} is missing, though {path} lists it. Run the stage that makes it again: "
                "it notices that the file is gone."
            )
    return manifest


def find_damage(folder: Path) -> InputError | None:
    """The error to raise for a finished stage of which a file is missing or no longer what the stage wrote.

    Reads everything that `file_digest` digests, so this is for finding the cause of a failure.
    """
    try:
        manifest = read_manifest(folder)
        damaged = [name for name, digest in manifest.outputs.items() if file_digest(folder / name) != digest]
    except InputError as error:
        return error
    if not damaged:
        return None
    return InputError(
        f"{folder / damaged[0]} is damaged: its content is not what its stage wrote. Delete the file and run the "
        "stage that makes it again."
    )


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who has last locked a stage's folder.

    Attributes:
        lock: the file that is locked; a stage has it open as long as it holds the lock.
        pid, host: the process; 0 and "" where the file does not tell.
        since: UTC, ISO 8601; likewise "".
    """

    lock: Path
    pid: int = 0
    host: str = ""
    since: str = ""


def lock_owner(folder: Path) -> LockOwner | None:
    """Who works in a stage's folder, or was the last to; None if no stage ever did. Takes no lock."""
    lock = folder / _LOCK
    try:
        told = _OWNER.match(lock.read_text(errors="replace"))
    except OSError:
        return None
    return LockOwner(lock, int(told[1]), told[2], told[3]) if told else LockOwner(lock)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` so that a crash leaves the old or the new file, never a part."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """Digest of a local file's content; above 1 GiB of its size and 64 evenly spaced blocks of 1 MiB.

    Raises:
        InputError: the file does not exist or cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= _FULL_DIGEST_BYTES:
                return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            digest = hashlib.sha256(str(size).encode())
            for block in range(_SAMPLED_BLOCKS):
                file.seek(block * (size - _BLOCK_BYTES) // (_SAMPLED_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
            return "sampled-sha256:" + digest.hexdigest()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path in the configuration.") from error


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) or StorageError(
            f"Cannot make the folder {folder}: {error.strerror}. Choose another run folder."
        ) from error


def _finished(folder: Path, fingerprint: str, keep: tuple[str, ...]) -> Manifest | None:
    for place in (folder, folder / _PREVIOUS):
        try:
            manifest = read_manifest(place)
        except SynthieError:
            continue
        if manifest.fingerprint == fingerprint:
            if place != folder:
                log.info("%s: taking back the results that were set aside", folder)
                _clear(folder, keep)
                _move(place, folder, keep)
                shutil.rmtree(place, ignore_errors=True)
            manifest.reused = True
            return manifest
    return None


def _prepare(folder: Path, fingerprint: str, keep: tuple[str, ...]) -> None:
    marker = folder / _PARTIAL
    if marker.exists() and marker.read_text() == fingerprint:
        return
    if (folder / MANIFEST).exists():
        log.warning(
            "%s holds results of other settings or inputs; they are set aside until the new ones are complete",
            folder,
        )
        shutil.rmtree(folder / _PREVIOUS, ignore_errors=True)
        (folder / _PREVIOUS).mkdir()
        _move(folder, folder / _PREVIOUS, keep)
    _clear(folder, keep)
    write_atomic(marker, fingerprint)


def _results(folder: Path, keep: tuple[str, ...]) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name not in (*keep, _LOCK, _PREVIOUS)]


def _move(source: Path, target: Path, keep: tuple[str, ...]) -> None:
    for entry in _results(source, keep):
        entry.rename(target / entry.name)


def _clear(folder: Path, keep: tuple[str, ...]) -> None:
    for entry in _results(folder, keep):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _outputs(folder: Path, keep: tuple[str, ...]) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in keep and not any(part.startswith(".") for part in name.parts):
            digests[name.as_posix()] = file_digest(path)
    return digests


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise BusyError(
                f"Another process works in {folder} ({owner}). Wait until it ends or stop it, then run again."
            ) from None
        file.truncate(0)
        file.write(
            f"pid {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"
        )
        file.flush()
        yield


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for library in _REPORTED_LIBRARIES:
        if library in sys.modules:
            try:
                versions[library] = metadata.version(library)
            except metadata.PackageNotFoundError:
                continue
    return versions
