"""Texts from files of any length to predictions in their order, a window at a time.

Records come from text (one a line) or JSON Lines (``text``, and ``id`` if they have one; else the line's number). What
is predicted is JSON Lines with ``id``, ``text``, ``triplets`` and ``score``. A file of them is written beside its place
and moved there when it is complete. Started again after a crash, the same extractor with the same options goes on
behind the last line whose record is still the same.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from synthie.errors import BusyError, InputError, storage_error
from synthie.extractor.predict import Extractor
from synthie.records import Prediction

__all__ = ["Kept", "TextRecord", "extract_all", "line_of", "read_lines", "read_text_file", "write_file"]

_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
_BATCHES_TOGETHER = 16  # sorted by length together: more lose little padding further, and hold more in memory


class TextRecord(NamedTuple):
    """A text to extract from."""

    id: int | str
    text: str


class Kept(NamedTuple):
    """What `write_file` wrote: texts, those among them that an earlier start had done, and their triplets."""

    texts: int
    before: int
    triplets: int


def read_text_file(path: Path) -> Iterator[TextRecord]:
    """The records of a file, by its ending: .jsonl, .ndjson or .json are JSON Lines, others text; .gz is unpacked.

    Raises:
        InputError: the file cannot be read, or a line is no record; names file and line.
    """
    is_json = path.name.removesuffix(".gz").endswith(_JSON_ENDINGS)
    try:
        packed = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path.") from None
    with packed, gzip.open(packed) if path.suffix == ".gz" else packed as file:
        yield from read_lines(cast(IO[bytes], file), str(path), is_json=is_json)


def read_lines(lines: Iterable[bytes | str], name: str, *, is_json: bool) -> Iterator[TextRecord]:
    """The records in lines; blank lines are passed over, but counted.

    Args:
        lines: in UTF-8.
        name: of their source, for messages.
        is_json: whether they are JSON Lines.

    Raises:
        InputError: the lines break off, or one is no record; names source and line.
    """
    number = 0
    source = iter(lines)
    while True:
        try:
            line = next(source, None)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name} cannot be read after line {number}: {error}. Fetch or write it again.") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: no UTF-8 after line {number} ({error.reason}). Convert it to UTF-8.") from None
        if line is None:
            return
        number += 1
        place = f"{name}, line {number}"
        try:
            text = (line.decode() if isinstance(line, bytes) else line).removeprefix("\ufeff" if number == 1 else "")
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: no UTF-8 ({error.reason}). Convert the file to UTF-8.") from None
        if text.strip():
            record = _record(text, number, place) if is_json else TextRecord(number, text.strip())
            if not _is_utf8(record.text) or not _is_utf8(str(record.id)):
                raise InputError(f"{place}: half a surrogate pair stands where a character should. Correct the line.")
            yield record


def extract_all(
    extractor: Extractor, records: Iterable[TextRecord], *, batch_size: int, **options: Any
) -> Iterator[tuple[TextRecord, Prediction]]:
    """Each record with its prediction, in order; only a window of them is held.

    Args:
        extractor: what to read them with.
        records: the texts.
        batch_size, options: as for `Extractor.extract`.
    """
    source = iter(records)
    while window := list(islice(source, batch_size * _BATCHES_TOGETHER)):
        predictions = extractor.extract([record.text for record in window], batch_size=batch_size, **options)
        yield from zip(window, predictions, strict=True)


def line_of(record: TextRecord, prediction: Prediction) -> str:
    """A prediction as a line of JSON, without line break."""
    return json.dumps({"id": record.id, "text": record.text, **prediction.to_record()}, ensure_ascii=False)


def write_file(
    path: Path,
    records: Iterable[TextRecord],
    predict: Callable[[Iterable[TextRecord]], Iterable[tuple[TextRecord, Prediction]]],
    *,
    identity: Any,
    told: Callable[[int], object] = lambda done: None,
) -> Kept:
    """Write predictions as JSON Lines; ``path`` changes only when all of them are there.

    Args:
        path: the file.
        records: all texts, also those that an earlier start had done.
        predict: texts -> predictions, in order.
        identity: JSON data that decide about the predictions beside the text.
        told: gets the number of texts done.

    Raises:
        BusyError: another process is writing the same file.
        InputError: ``path`` is a folder, or a line is no record; what was predicted before is kept for the next start.
        StorageError: the file cannot be written.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    partial = path.with_name(f"{path.name}.{digest}.partial")
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name a file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as file:
            _lock(file, path)
            before, triplets, rest = _resume(file, iter(records))
            done = before
            for record, prediction in predict(rest):
                file.write(line_of(record, prediction).encode() + b"\n")
                done, triplets = done + 1, triplets + len(prediction.triplets)
                told(done)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise storage_error(error, path.parent) or error from error
    return Kept(done, before, triplets)


def _resume(file: IO[bytes], records: Iterator[TextRecord]) -> tuple[int, int, Iterator[TextRecord]]:
    """Keep the lines whose records come again; returns (their number, their triplets, the records after them)."""
    file.seek(0)
    lines, triplets, kept = 0, 0, 0
    rest: Iterator[TextRecord] = records
    for line in file:
        record = next(records, None)
        if record is None:
            break
        known = _parse(line)
        if (known.get("id"), known.get("text")) != record:
            rest = chain([record], records)
            break
        lines, triplets, kept = lines + 1, triplets + len(known["triplets"]), kept + len(line)
    file.truncate(kept)
    return lines, triplets, rest


def _parse(line: bytes) -> dict[str, Any]:
    """A written line; {} if a crash has cut it."""
    try:
        return json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(f"Another process is writing {path}. Wait for it, or name another file.") from None


def _record(line: str, number: int, place: str) -> TextRecord:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: not JSON ({error}). Each line must be one JSON object.") from None
    if not isinstance(data, dict) or not isinstance(data.get("text"), str):
        raise InputError(f'{place}: expected an object with a text, such as {{"id": 1, "text": "Ulm is a city."}}.')
    identity = number if (given := data.get("id")) is None else given
    if not isinstance(identity, int | str) or isinstance(identity, bool):
        raise InputError(f"{place}: the id {identity!r:.60} is neither a whole number nor a string. Write one.")
    return TextRecord(identity, data["text"])


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
