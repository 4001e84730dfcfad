"""Batches on disk: what each asks for and how far it has come, so that a run can go on after a kill at any step.

A batch is a numbered folder::

    input.jsonl   the file that is uploaded: one request a line, named by its key
    lines.bin     for each of them the key, the bounds of its tokens and the number of the try
    state.json    how far it has come; written last and atomically, so a folder without it holds an unfinished plan
    output.jsonl, errors.jsonl   the results

A batch is *planned*, *uploaded*, *created*, *finished* (the endpoint will do no more) and *collected* (the journal has
all there is); then its files go and ``state.json`` alone remains, as a receipt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import time
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import msgspec

from kg.stage import write_atomic
from synthie.errors import StorageError, storage_error
from synthie.llm.pricing import Price
from synthie.llm.segments import sync_folder

__all__ = [
    "MAX_BYTES",
    "BatchState",
    "Line",
    "Plan",
    "StoredBatch",
    "remove_unfinished_plans",
    "request_line",
    "stored_batches",
]

MAX_BYTES = 190_000_000  # of an uploaded file; the Batch API takes 200 MB

_LINE = struct.Struct("<16sIIB")  # key, bounds of input and output tokens, number of the try


class Line(NamedTuple):
    """One request of a batch.

    Attributes:
        key: the answer's key in the journal.
        input_bound, output_bound: numbers of tokens that it cannot exceed.
        attempt: number of the try, 1 for the first.
    """

    key: bytes
    input_bound: int
    output_bound: int
    attempt: int


class BatchState(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How far a batch has come.

    Attributes:
        step: the last step that is done.
        token: what the batch is known by at the endpoint before its id is known here.
        base_url, api: where it is.
        price: what its tokens cost: input, cached input and output, in picodollars.
        lines: number of requests.
        planned_at: seconds since the epoch.
        file_id, batch_id: of the uploaded file and the batch, as the endpoint calls them.
        status: what the endpoint said when it had finished.
        output_file_id, error_file_id: its results, None if there are none.
        answered, refused, repeated: what became of the lines, once they are collected: stored in the journal,
            failed for good, to be tried again.
    """

    step: Literal["planned", "uploaded", "created", "finished", "collected"]
    token: str
    base_url: str
    api: Literal["chat", "responses"]
    price: tuple[int, int, int]
    lines: int
    planned_at: float
    file_id: str | None = None
    batch_id: str | None = None
    status: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    answered: int = 0
    refused: int = 0
    repeated: int = 0


class StoredBatch:
    """A batch that has been planned.

    Args:
        folder: its own.

    Raises:
        StorageError: its state cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input = folder / "input.jsonl"
        self.output = folder / "output.jsonl"
        self.errors = folder / "errors.jsonl"
        try:
            self.state = msgspec.json.decode((folder / "state.json").read_bytes(), type=BatchState)
        except (OSError, msgspec.DecodeError) as error:
            raise StorageError(
                f"Cannot read {folder / 'state.json'}: {error}. Put it back from a copy; or remove that folder, then "
                "its requests are asked, and paid, again."
            ) from error

    @property
    def price(self) -> Price:
        return Price(*self.state.price)

    @property
    def name(self) -> str:
        return f"{self.folder.name} ({self.state.batch_id or 'not created yet'})"

    def worst_cost(self, line: Line) -> int:
        """Most that a line can cost, in picodollars."""
        return self.price.worst_cost(line.input_bound, line.output_bound)

    def save(self, **changes: object) -> None:
        """Note how far it has come."""
        state = msgspec.structs.replace(self.state, **changes)
        with _storing(self.folder):
            write_atomic(self.folder / "state.json", msgspec.json.format(msgspec.json.encode(state)))
            sync_folder(self.folder)
        self.state = state

    def lines(self) -> Iterator[Line]:
        """All lines in order."""
        return (Line(*fields) for fields in _LINE.iter_unpack((self.folder / "lines.bin").read_bytes()))

    def requests(self) -> Iterator[tuple[Line, bytes]]:
        """All lines in order, each with its JSON, line break included."""
        with self.input.open("rb") as file:
            yield from zip(self.lines(), file, strict=True)

    def bodies(self, keys: Container[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Key and body, as it was sent, of the lines with these keys."""
        for line, request in self.requests():
            if line.key in keys:
                yield line.key, bytes(_decode_request(request).body)

    def discard_files(self) -> None:
        """Remove all but the state."""
        for path in self.folder.iterdir():
            if path.name != "state.json":
                path.unlink()

    def remove(self) -> None:
        """Remove the batch as if it had never been planned."""
        (self.folder / "state.json").unlink()
        shutil.rmtree(self.folder)


class _Request(msgspec.Struct):
    body: msgspec.Raw


_decode_request = msgspec.json.Decoder(_Request).decode


class Plan:
    """A batch in the making, in a new folder under ``folder``. Use as a context manager.

    Args:
        folder: the folder of all batches.
        max_lines: most requests.
    """

    def __init__(self, folder: Path, max_lines: int) -> None:
        self.lines = 0
        self._max_lines = max_lines
        self._size = 0
        with _storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            number = max((int(path.name) for path in _numbered(folder)), default=0) + 1
            self._folder = folder / f"{number:06d}"
            self._folder.mkdir()
            self._input = (self._folder / "input.jsonl").open("wb")
            self._lines = (self._folder / "lines.bin").open("wb")

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._input.close()
        self._lines.close()
        if not (self._folder / "state.json").exists():
            shutil.rmtree(self._folder)

    def fits(self, request: bytes) -> bool:
        return self.lines < self._max_lines and self._size + len(request) <= MAX_BYTES

    def add(self, line: Line, request: bytes) -> None:
        with _storing(self._folder):
            self._input.write(request)
            self._lines.write(_LINE.pack(*line))
        self.lines += 1
        self._size += len(request)

    def finish(self, *, base_url: str, api: Literal["chat", "responses"], price: Price) -> StoredBatch:
        """Make it a batch that survives this process."""
        state = BatchState(
            step="planned",
            token=uuid.uuid4().hex,
            base_url=base_url,
            api=api,
            price=(price.input, price.cached_input, price.output),
            lines=self.lines,
            planned_at=round(time.time(), 3),
        )
        with _storing(self._folder):
            for file in (self._input, self._lines):
                file.flush()
                os.fsync(file.fileno())
            write_atomic(self._folder / "state.json", msgspec.json.format(msgspec.json.encode(state)))
            for folder in (self._folder, self._folder.parent, self._folder.parent.parent):
                sync_folder(folder)  # a batch that a power cut makes unknown would be paid twice
        return StoredBatch(self._folder)


def request_line(path: str, key: bytes, body: bytes) -> bytes:
    """A line of the uploaded file: ``body``, as it is, for ``path`` (such as ``/v1/responses``), under its key."""
    head = f'{{"custom_id":"{key.hex()}","method":"POST","url":"{path}","body":'
    return head.encode() + body + b"}\n"


def stored_batches(folder: Path) -> list[StoredBatch]:
    """The batches under ``folder`` in the order of their numbers."""
    paths = sorted(_numbered(folder), key=lambda path: int(path.name))
    return [StoredBatch(path) for path in paths if (path / "state.json").exists()]


def remove_unfinished_plans(folder: Path) -> None:
    """Remove what a killed run has left of batches that it did not finish planning."""
    for path in _numbered(folder):
        if not (path / "state.json").exists():
            shutil.rmtree(path)


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdecimal()]


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into the project's."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, folder) or StorageError(
            f"Cannot write the batches in {folder}: {error.strerror}. Mend the disk and run the same command again; "
            "batches under way are not lost."
        ) from error
