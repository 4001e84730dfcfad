"""One slice of a Wikidata JSON dump becomes Parquet parts: the work that runs in parallel.

`ingest_slice` reads the lines that start in a slice (`kg.dump`), decodes them
(`kg.wikidata.reader`) and writes what is kept. It is a function of its task alone, so
threads, processes and machines with a common folder may run it. The parts are
written in segments; a segment is finished when its report is there, written
last and atomically. A slice that is run again begins after its last finished
segment, so what a crash costs is bounded also where a file is one single slice.
"""

from __future__ import annotations

import gc
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.arrays import mask, numbers, strings
from kg.config import GraphConfig
from kg.dump import Fault, Slice, SliceReader
from kg.errors import ConfigError, InputError
from kg.stage import write_atomic
from kg.wikidata.reader import Entity, Ignored, Property, Redirect, WikidataReader
from kg.wikidata.wikibase import BadLineError, item_number

if TYPE_CHECKING:
    from kg.wikidata.scan import Scanner

__all__ = [
    "PARTS",
    "Segment",
    "SliceResult",
    "SliceTask",
    "ingest_slice",
    "listed_items",
    "part_files",
    "read_segments",
    "too_many_bad_lines",
]

_SEGMENT_BYTES = 2 << 30  # decompressed; about what a slice of the official dump has
_WAITING_ROWS = 10_000  # more are out of the processor's cache before they are written
_SCANNED_BYTES = 4 << 20  # stored; of less, the reader alone is done before the compiled scan is loaded
_HOPELESS_LINES = 100  # if not one of so many lines is a document, the rest of the slice is not worth reading
_QUARANTINED_CHARACTERS = 100_000

# "document" is the row of the statement's subject in the entities of the same segment.
PARTS = {
    "entities": pa.schema(
        [
            ("number", pa.int32()),
            ("revision", pa.int64()),
            ("checksum", pa.uint32()),  # of the document's line; decides between versions of one revision
            ("title", pa.string()),
            ("label", pa.string()),
            ("description", pa.string()),
            ("aliases", pa.list_(pa.string())),
            ("types", pa.list_(pa.int32())),
        ]
    ),
    "items": pa.schema(
        [
            ("document", pa.int32()),
            ("property", pa.int32()),
            ("object", pa.int32()),
            ("preferred", pa.bool_()),
        ]
    ),
    "literals": pa.schema(
        [
            ("document", pa.int32()),
            ("property", pa.int32()),
            ("preferred", pa.bool_()),
            ("datatype", pa.string()),
            ("kind", pa.string()),
            ("text", pa.string()),
            ("unit", pa.int32()),
            ("value", pa.string()),
        ]
    ),
    "labels": pa.schema([("number", pa.int32()), ("revision", pa.int64()), ("label", pa.string())]),
    "subclasses": pa.schema([("class", pa.int32()), ("superclass", pa.int32())]),
    "redirects": pa.schema([("source", pa.int32()), ("target", pa.int32())]),
    "properties": pa.schema(
        [
            ("number", pa.int32()),
            ("revision", pa.int64()),
            ("checksum", pa.uint32()),
            ("label", pa.string()),
            ("description", pa.string()),
            ("aliases", pa.list_(pa.string())),
            ("datatype", pa.string()),
            ("parents", pa.list_(pa.int32())),
        ]
    ),
}

# The last column of items and literals where qualifiers are kept.
_QUALIFIERS = pa.field(
    "qualifiers",
    pa.list_(
        pa.struct(
            [
                ("property", pa.int32()),
                ("item", pa.int32()),
                ("kind", pa.string()),
                ("text", pa.string()),
                ("unit", pa.int32()),
            ]
        )
    ),
)
_ROW_PARTS = ("labels", "subclasses", "redirects", "properties")

Report = Callable[[int, int, int], None]
"""Called with the stored bytes of the slice that are read, and documents and entities so far."""


@dataclass(frozen=True, slots=True)
class SliceTask:
    """What `ingest_slice` needs: the options, the selected relations (empty: all), the slice, where parts go."""

    config: GraphConfig
    relations: tuple[str, ...]
    part: Slice
    folder: Path


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What a caller watches: the slice, what was read of it, and what could not be."""

    part: Slice
    documents: int
    entities: int
    undecodable: int
    faults: tuple[Fault, ...]


class Segment(msgspec.Struct):
    """The report of a finished segment.

    Attributes:
        end: offset in the slice's decompressed stream up to which it was read.
        sizes: bytes of each of its files.
        lines, undecodable: lines with something in them, and those that are no document.
        documents: entities, properties, redirects.
        dropped: documents that are none of these, by reason.
        statements: of the entities.
        dropped_statements, dropped_qualifiers: those that are in no part, by reason.
        datatypes: number of a P id -> datatype that statements tell.
        seen: P ids that occur, where relations are selected.
        last: True in the last segment, which alone has the rest.
        raw_bytes, first_member, next_member, opened, ended, faults: see `kg.dump.SliceReader`.
    """

    end: int = 0
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    lines: int = 0
    undecodable: int = 0
    documents: Counter[str] = msgspec.field(default_factory=Counter)
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    statements: int = 0
    dropped_statements: Counter[str] = msgspec.field(default_factory=Counter)
    dropped_qualifiers: Counter[str] = msgspec.field(default_factory=Counter)
    datatypes: dict[int, str] = msgspec.field(default_factory=dict)
    seen: list[str] = msgspec.field(default_factory=list)
    last: bool = False
    raw_bytes: int = 0
    first_member: int | None = None
    next_member: int | None = None
    opened: bool = False
    ended: bytes = b""
    faults: list[Fault] = msgspec.field(default_factory=list)


def ingest_slice(task: SliceTask, report: Report | None = None) -> SliceResult:
    """Read one slice and write its parts to ``task.folder``; what is finished there is not done again.

    Raises:
        InputError: the file cannot be read, is truncated or no dump, or has too many undecodable lines.
        OSError: the folder cannot be written.
    """
    segments = read_segments(task.folder, task.part.number)
    if not (segments and segments[-1].last):
        with _no_garbage_collection():
            segments = _SliceIngest(task, segments, report).run()
    return SliceResult(
        part=task.part,
        documents=sum(sum(segment.documents.values(), segment.dropped.total()) for segment in segments),
        entities=sum(segment.documents["entities"] for segment in segments),
        undecodable=sum(segment.undecodable for segment in segments),
        faults=tuple(segments[-1].faults),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Documents are trees, which reference counts free; searching them for cycles takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_segments(folder: Path, number: int) -> list[Segment]:
    """The reports of a slice's finished segments, in order, up to one that is missing or damaged or lacks a file."""
    segments: list[Segment] = []
    while not (segments and segments[-1].last):
        place = len(segments)
        try:
            segment = _decoder.decode((_path(folder, number, place, "json")).read_bytes())
            if any(_path(folder, number, place, name).stat().st_size != size for name, size in segment.sizes.items()):
                break
        except (FileNotFoundError, msgspec.MsgspecError, ValueError):
            break
        segments.append(segment)
    return segments


def part_files(folder: Path, kind: str, slices: Iterable[int]) -> list[Path]:
    """The files of one kind of `PARTS`, or the quarantines ("quarantine"), of the slices with these numbers."""
    suffix = "jsonl" if kind == "quarantine" else "parquet"
    return [
        _path(folder, number, segment, f"{kind}.{suffix}")
        for number in slices
        for segment in range(len(read_segments(folder, number)))
    ]


_decoder = msgspec.json.Decoder(Segment, dec_hook=lambda kind, value: Counter(value))


def _path(folder: Path, number: int, segment: int, name: str) -> Path:
    return folder / f"{number:06}-{segment:03}.{name}"


def _synced_size(path: Path) -> int:
    """The bytes of a file, once they are safe from a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _scanner(task: SliceTask, listed: bytes | None) -> Scanner | None:
    """What reads most of the slice's lines, if it can and pays."""
    if task.part.end - task.part.start < _SCANNED_BYTES:
        return None
    from kg.wikidata.scan import Scanner  # compiled when first used

    return Scanner(task.config, task.relations or None, listed) if Scanner.suits(task.config) else None


class _Parts:
    """The Parquet files of one segment; each call adds a row group."""

    def __init__(self, folder: Path, number: int, segment: int, qualifiers: bool) -> None:
        self._entities = 0
        self._writers = {}
        for kind, schema in PARTS.items():
            if qualifiers and kind in ("items", "literals"):
                schema = schema.append(_QUALIFIERS)
            path = _path(folder, number, segment, f"{kind}.parquet")
            # Read once and whole, so statistics and most dictionaries are in vain, and half of the time to write.
            repeating = [name for name in schema.names if name in ("datatype", "kind")]
            self._writers[kind] = pq.ParquetWriter(
                path, schema, compression="zstd", compression_level=1, write_statistics=False, use_dictionary=repeating
            )

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def add_rows(self, kind: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows; a sequence without any writes nothing."""
        self._write(kind, list(zip(*rows, strict=True)))

    def add_entities(self, entities: Sequence[Entity]) -> None:
        """Write entities with their statements and superclasses."""
        if not entities:
            return
        rows = np.arange(self._entities, self._entities + len(entities), dtype=np.int32)
        self._entities += len(entities)
        names = [field.name for field in PARTS["entities"]]
        self._write("entities", [[getattr(entity, name) for entity in entities] for name in names])
        items = np.array(list(chain.from_iterable(entity.items for entity in entities)), dtype=np.int32).reshape(-1, 3)
        documents = np.repeat(rows, [len(entity.items) // 3 for entity in entities])
        qualifiers = list(chain.from_iterable(entity.item_qualifiers for entity in entities))
        self._write("items", [documents, items[:, 0], items[:, 1], items[:, 2].astype(bool), qualifiers])
        literals = list(chain.from_iterable(entity.literals for entity in entities))
        if literals:
            documents = np.repeat(rows, [len(entity.literals) for entity in entities])
            properties, preferred, values = zip(*literals, strict=True)
            qualifiers = list(chain.from_iterable(entity.literal_qualifiers for entity in entities))
            self._write(
                "literals", [documents, properties, preferred, *list(zip(*values, strict=True))[:5], qualifiers]
            )
        self.add_rows("subclasses", [(entity.number, above) for entity in entities for above in entity.superclasses])

    def add_scanned(self, scanner: Scanner) -> None:
        """Write what the scanner has found."""
        for kind, arrays in scanner.take(self._entities).items():
            schema = self._writers[kind].schema
            self._writers[kind].write_batch(pa.record_batch(arrays, schema=schema))
            self._entities += len(arrays[0]) * (kind == "entities")

    def _write(self, kind: str, columns: Sequence[Any]) -> None:
        """Write columns; those beyond the schema's are left out."""
        if columns:
            schema = self._writers[kind].schema
            arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=False)]
            self._writers[kind].write_batch(pa.record_batch(arrays, schema=schema))


def _array(column: Any, kind: pa.DataType) -> pa.Array:
    if kind == _QUALIFIERS.type:
        names = [field.name for field in kind.value_type]
        return pa.array([[dict(zip(names, each, strict=True)) for each in qualifiers] for qualifiers in column], kind)
    if pa.types.is_list(kind):
        offsets = np.cumsum([0, *map(len, column)], dtype=np.int32)
        values = _array(list(chain.from_iterable(column)), kind.value_type)
        return pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(offsets)], children=[values])
    if pa.types.is_string(kind):
        return strings(column)
    if pa.types.is_boolean(kind):
        return mask(np.asarray(column, np.bool_))
    return numbers(np.asarray(column, kind.to_pandas_dtype()))


class _SliceIngest:
    """One pass over a slice, from the end of its finished segments on."""

    def __init__(self, task: SliceTask, segments: list[Segment], report: Report | None) -> None:
        self._task = task
        self._segments = segments
        self._report = report
        config = task.config
        listed = None if config.entities_file is None else listed_items(config.entities_file)
        self._reader = WikidataReader(config, task.relations or None, listed)
        self._scanner = _scanner(task, listed)
        self._margin = 0 if self._scanner is None else self._scanner.margin
        self._source = SliceReader(task.part, self._margin)
        self._segment = Segment()
        self._parts: _Parts | None = None
        self._entities: list[Entity] = []
        self._waiting = 0  # statements of these entities
        self._rows: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in _ROW_PARTS}
        self._quarantine: IO[str] | None = None

    def run(self) -> list[Segment]:
        start = read = self._segments[-1].end if self._segments else 0
        self._open()
        try:
            with closing(self._source.blocks()) as blocks:
                for offset, block in blocks:
                    end = offset + len(block) - self._margin
                    if end > start:
                        self._read(max(offset, start), block[max(start - offset, 0) :])
                        if end - start >= _SEGMENT_BYTES:
                            self._finish(end, last=False)
                            start = end
                            self._open()
                    if self._report is not None:
                        self._tell()
                    read = end
            self._finish(read, last=True)
        finally:
            self._close()
        return self._segments

    def _open(self) -> None:
        number, segment = self._task.part.number, len(self._segments)
        self._parts = _Parts(self._task.folder, number, segment, self._task.config.qualifiers)
        self._quarantine = _path(self._task.folder, number, segment, "quarantine.jsonl").open("w", encoding="utf-8")
        self._segment = Segment()

    def _flush(self) -> None:
        assert self._parts is not None
        if self._scanner is not None:
            self._parts.add_scanned(self._scanner)
        self._parts.add_entities(self._entities)
        self._entities.clear()
        self._waiting = 0
        for kind, rows in self._rows.items():
            self._parts.add_rows(kind, rows)
            rows.clear()

    def _close(self) -> None:
        if self._parts is not None:
            self._parts.close()
            self._parts = None
        if self._quarantine is not None:
            self._quarantine.close()
            self._quarantine = None

    def _finish(self, end: int, last: bool) -> None:
        self._flush()
        self._close()
        segment, reader, source = self._segment, self._reader, self._source
        segment.end = end
        names = ("quarantine.jsonl", *(f"{kind}.parquet" for kind in PARTS))
        number, place = self._task.part.number, len(self._segments)
        segment.sizes = {name: _synced_size(_path(self._task.folder, number, place, name)) for name in names}
        segment.lines += reader.skipped.total()
        segment.dropped += reader.skipped
        segment.statements += reader.statements
        segment.dropped_statements += reader.dropped_statements
        segment.dropped_qualifiers = reader.dropped_qualifiers
        segment.datatypes, seen = reader.datatypes, reader.seen
        if self._scanner is not None:
            for relation, datatype in self._scanner.take_datatypes().items():
                segment.datatypes[relation] = min(segment.datatypes.get(relation, datatype), datatype)
            seen |= self._scanner.take_seen()
        segment.seen = sorted(seen)
        reader.reset()
        if last:
            segment.last = True
            segment.raw_bytes, segment.faults = source.raw_bytes, source.faults
            segment.first_member, segment.next_member = source.first_member, source.next_member
            segment.opened, segment.ended = source.opened, source.ended
        write_atomic(_path(self._task.folder, number, place, "json"), msgspec.json.encode(segment))
        self._segments.append(segment)

    def _read(self, start: int, block: bytes) -> None:
        scanner = self._scanner
        if scanner is None:
            self._read_lines(start, block)
            return
        if not scanner.fits(block):
            self._flush()
        for first, last in scanner.read(block):
            self._read_lines(start + first, block[first:last])
        self._count_scanned(*scanner.take_counts())
        if scanner.rows >= _WAITING_ROWS:
            self._flush()

    def _count_scanned(self, documents: Counter[str], statements: Counter[str]) -> None:
        segment = self._segment
        segment.lines += documents.total()
        segment.documents["entities"] += documents.pop("entities")
        segment.dropped += documents
        segment.statements += statements.pop("statements", 0)
        segment.dropped_statements += statements

    def _read_lines(self, start: int, block: bytes) -> None:
        segment, reader = self._segment, self._reader
        for offset, line in reader.lines(block):
            segment.lines += 1
            try:
                document = reader.read(line)
            except BadLineError as error:
                self._set_aside(start + offset, line, str(error))
                continue
            if isinstance(document, Entity):
                segment.documents["entities"] += 1
                self._entities.append(document)
                self._waiting += len(document.items) + len(document.literals) + 1
            else:
                self._take_other(document)
            if self._waiting >= _WAITING_ROWS:
                self._flush()

    def _take_other(self, document: Property | Redirect | Ignored) -> None:
        segment, rows = self._segment, self._rows
        self._waiting += 1
        if isinstance(document, Property):
            segment.documents["properties"] += 1
            rows["properties"].append(msgspec.structs.astuple(document))
        elif isinstance(document, Redirect):
            segment.documents["redirects"] += 1
            rows["redirects"].append(msgspec.structs.astuple(document))
        else:
            segment.dropped[document.reason] += 1
            if document.number and document.label:
                rows["labels"].append((document.number, document.revision, document.label))
            rows["subclasses"] += [(document.number, above) for above in document.superclasses]

    def _set_aside(self, offset: int, line: bytes, reason: str) -> None:
        assert self._quarantine is not None
        text = line[:_QUARANTINED_CHARACTERS].decode("utf-8", "backslashreplace")
        record = {"file": self._task.part.file, "offset": offset, "line": text, "reason": reason}
        json.dump(record, self._quarantine, ensure_ascii=False)
        self._quarantine.write("\n")
        self._segment.undecodable += 1
        bad = self._segment.undecodable + sum(segment.undecodable for segment in self._segments)
        read = self._segment.lines + self._reader.skipped.total() - self._segment.undecodable
        if bad <= self._task.config.max_bad_lines:
            return
        hopeless = bad >= _HOPELESS_LINES
        if hopeless and not read and not self._segments and self._task.part.number == 0:
            raise InputError(
                f"{self._task.part.file} is not a Wikidata JSON dump: none of {bad} lines in a row is a document with "
                f"an 'id'; the last one begins with {text[:40]!r}. Set 'kg.dump' to a dump with one JSON document a "
                "line."
            )
        if hopeless or read or self._segments:
            raise too_many_bad_lines(self._task.part, self._task.config.max_bad_lines, record)

    def _tell(self) -> None:
        assert self._report is not None
        segments = [*self._segments, self._segment]
        documents = sum(segment.lines - segment.undecodable for segment in segments) + self._reader.skipped.total()
        entities = sum(segment.documents["entities"] for segment in segments)
        self._report(self._source.position, documents, entities)


def too_many_bad_lines(part: Slice, limit: int, last: Mapping[str, Any]) -> InputError:
    """The error for more than ``limit`` undecodable lines; ``last`` is what quarantine holds of one in ``part``."""
    since = f" from byte {part.start} of the file on" if part.start else ""
    return InputError(
        f"{part.file} has more than {limit} undecodable lines; the last one is at offset {last['offset']} of the "
        f"decompressed stream{since}, begins with {last['line'][:40]!r} and cannot be decoded: {last['reason']}. Fetch "
        "the dump again, or raise 'kg.max_bad_lines' to set more of them aside."
    )


def listed_items(path: str) -> bytes:
    """The entities of an allow-list: bit n & 7 of byte n >> 3 is set if Qn is listed.

    Each line begins with one id; blank lines and lines that begin with # are skipped.

    Raises:
        ConfigError: the file cannot be read, has a malformed id or none at all.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise _cannot_read(path, error) from error
    return _listed(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _listed(path: str, version: tuple[int, ...]) -> bytes:
    """See `listed_items`; a list is read again only when it has changed."""
    del version
    listed = bytearray()
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                words = re.split(rb"[\s,;]", line.strip().removeprefix(b"\xef\xbb\xbf"), maxsplit=1)
                if not words[0] or words[0].startswith(b"#"):
                    continue
                try:
                    item = item_number(words[0].decode())
                except ValueError:
                    raise ConfigError(
                        f"{path}, line {number}: {words[0][:40].decode('utf-8', 'backslashreplace')!r} is not an "
                        "entity id of the form Q64. Each line begins with one id; blank lines and lines that begin "
                        "with # are skipped."
                    ) from None
                if item >> 3 >= len(listed):
                    listed.extend(bytes((item >> 3) + 1 - len(listed)))
                listed[item >> 3] |= 1 << (item & 7)
    except OSError as error:
        raise _cannot_read(path, error) from error
    if not listed:
        raise ConfigError(f"The list of entities {path} holds no id. Write one on each line, or unset it.")
    return bytes(listed)


def _cannot_read(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"Cannot read the list of entities {path}: {error.strerror}. Check 'kg.entities_file'.")
