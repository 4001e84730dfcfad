"""What filters and figures need of every record, in memory; the texts stay on disk.

A record is a row number. `Library` reads each Parquet file once, by batches, and keeps per row a few numbers
(about 100 bytes): codes of prompt, model, style and split, the number of words, the relations, the failed checks.
Files that a run adds, replaces or removes are noticed. Texts are read where they are shown or searched, a row group
at a time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synthie.browse.sources import Source
from synthie.errors import InputError

__all__ = ["CATEGORIES", "Codes", "Index", "Library", "Lists", "Names", "StaleRowsError"]

CATEGORIES = ("split", "prompt", "model", "style")
_BATCH_ROWS = 8_192
_FAULTS = ("reasons", "faults")  # of a run, of a data set
_LOOK_S = 1.0  # between looks for new files
_CACHED_SEARCHES = 16
_CACHED_GROUPS = 8
_SCALARS = ("id", *CATEGORIES, "request_key", "input_tokens", "output_tokens", "usd", "verdict", "text", "topic")


class StaleRowsError(InputError):
    """The files have changed under a reader; what it knows of rows is void."""


class Codes:
    """Strings as small numbers, the same for all files. Missing strings are the empty one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def encode(self, strings: pa.Array) -> np.ndarray:
        """int32 codes, one a string."""
        encoded = pc.dictionary_encode(pc.fill_null(strings, ""))
        numbers = np.fromiter((self.add(name) for name in encoded.dictionary.to_pylist()), np.int32)
        return numbers[encoded.indices.to_numpy()] if len(numbers) else np.empty(0, np.int32)

    def add(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number

    def number(self, name: str) -> int:
        """-1 for a string that no record has."""
        return self._numbers.get(name, -1)


@dataclass(frozen=True)
class Lists:
    """Different codes for each row: those of row i are ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, sizes: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Lists:
        lengths = np.concatenate([np.zeros(1, np.int64), *sizes])
        return cls(np.cumsum(lengths), np.concatenate([np.empty(0, np.int32), *values]))

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def having(self, code: int) -> np.ndarray:
        """For each row whether its list has the code."""
        mask = np.zeros(len(self.offsets) - 1, bool)
        mask[np.searchsorted(self.offsets, np.flatnonzero(self.values == code), "right") - 1] = True
        return mask

    def counts(self, rows: np.ndarray, codes: int) -> np.ndarray:
        """For each code, how many of the rows marked in ``rows`` (bool) have it."""
        return np.bincount(self.values[np.repeat(rows, self.sizes)], minlength=codes)


@dataclass(frozen=True, eq=False)
class _Segment:
    """One file's share of the index; the fields are those of `Index`."""

    path: Path
    stamp: tuple[int, int, int]
    groups: np.ndarray  # first row of each row group, and the end
    columns: dict[str, np.ndarray]
    relations: tuple[np.ndarray, np.ndarray]  # sizes, values
    checks: tuple[np.ndarray, np.ndarray]
    keys: pa.Array


@dataclass(frozen=True)
class Index:
    """All records at one moment; arrays have an item a row.

    Attributes:
        revision: another one, another state of the files.
        keys: request keys (Arrow strings).
        columns: ``id``, ``words``, ``triplets``, ``usd``, ``input_tokens``, ``output_tokens``, ``accepted``, ``set``
            (equal where the triplet sets are), and the codes of `CATEGORIES`.
        relations, checks: what each row's triplets and rejection have, as codes.
        unreadable: names of files that cannot be read at present, mostly because they are being written.
    """

    revision: int
    segments: tuple[_Segment, ...]
    starts: np.ndarray  # first row of each segment, and the end
    keys: pa.Array
    columns: dict[str, np.ndarray]
    relations: Lists
    checks: Lists
    unreadable: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def find(self, keys: Iterable[str]) -> np.ndarray:
        """The rows with one of these keys, in order."""
        wanted = pa.array(list(keys), pa.string())
        if not len(wanted) or not self.rows:
            return np.empty(0, np.int64)
        return np.flatnonzero(pc.is_in(self.keys, wanted).to_numpy(zero_copy_only=False))


class Library:
    """The records of one source. Safe among threads.

    Args:
        source: where they are.
        names: the codes; sources that are compared share them.
        progress: told the rows read and those of all files.
    """

    def __init__(
        self,
        source: Source,
        names: Names | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.source = source
        self.names = names or Names()
        self._progress = progress
        self._lock = threading.RLock()
        self._looked = float("-inf")
        self._index: Index | None = None
        self._searches: OrderedDict[tuple[Path, tuple[int, int, int], str], dict[int, np.ndarray]] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, tuple[int, int, int], int], pa.Table] = OrderedDict()

    def index(self) -> Index:
        """The records at present; looks for changed files at most once a second."""
        with self._lock:
            now = time.monotonic()
            if self._index is None or now - self._looked >= _LOOK_S:
                self._index = self._look(self._index)
                self._looked = time.monotonic()
            return self._index

    def texts_with(self, index: Index, words: str, candidates: np.ndarray) -> np.ndarray:
        """Of the rows marked in ``candidates`` (bool), mark those whose text contains ``words``, in any case.

        Raises:
            StaleRowsError: a file has changed since ``index`` was made.
        """
        found = np.zeros(index.rows, bool)
        for number, segment in enumerate(index.segments):
            known = self._known_search(segment, words)
            for group in range(len(segment.groups) - 1):
                first, end = (int(row) for row in index.starts[number] + segment.groups[group : group + 2])
                if not candidates[first:end].any():
                    continue
                if group not in known:
                    text = self._read(segment, group, ["text"])["text"]
                    match = pc.fill_null(pc.match_substring(text, words, ignore_case=True), False)
                    known[group] = match.to_numpy()
                found[first:end] = known[group]
        return found & candidates

    def records(self, index: Index, rows: Iterable[int]) -> list[dict[str, Any]]:
        """The whole records of the rows, in the order given; columns that the files lack are missing.

        Raises:
            StaleRowsError: a file has changed since ``index`` was made.
        """
        wanted = [int(row) for row in rows]
        found: dict[int, dict[str, Any]] = {}
        for row in sorted(set(wanted)):
            number = int(np.searchsorted(index.starts, row, "right")) - 1
            segment, place = index.segments[number], row - int(index.starts[number])
            group = int(np.searchsorted(segment.groups, place, "right")) - 1
            table = self._group(segment, group)
            found[row] = table.slice(place - int(segment.groups[group]), 1).to_pylist()[0]
        return [found[row] | {"request_key": index.keys[row].as_py()} for row in wanted]

    def _known_search(self, segment: _Segment, words: str) -> dict[int, np.ndarray]:
        with self._lock:
            known = self._searches.setdefault((segment.path, segment.stamp, words), {})
            self._searches.move_to_end((segment.path, segment.stamp, words))
            while len({key[2] for key in self._searches}) > _CACHED_SEARCHES:
                self._searches.popitem(last=False)
            return known

    def _group(self, segment: _Segment, group: int) -> pa.Table:
        key = (segment.path, segment.stamp, group)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        table = self._read(segment, group, None)
        with self._lock:
            self._groups[key] = table
            while len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        return table

    def _read(self, segment: _Segment, group: int, columns: list[str] | None) -> pa.Table:
        try:
            with pq.ParquetFile(segment.path) as file:
                table = file.read_row_group(group, columns=columns)
            if _stamp(segment.path) == segment.stamp:
                return table
        except (OSError, pa.ArrowException):
            pass
        with self._lock:
            self._looked = float("-inf")
        raise StaleRowsError(f"{segment.path} has just been changed. Load the page again.")

    def _look(self, old: Index | None) -> Index:
        paths = self.source.files()
        known = {(segment.path, segment.stamp): segment for segment in (old.segments if old else ())}
        total = 0 if old else _count_rows(paths)  # told the first time only; later looks are short
        segments: list[_Segment] = []
        unreadable: list[str] = []
        done = 0
        for path in paths:
            try:
                stamp = _stamp(path)
                segment = known.get((path, stamp)) or self._segment(path, stamp, done, total)
            except (OSError, pa.ArrowException):  # being written, or removed
                unreadable.append(path.name)
                continue
            segments.append(segment)
            done += int(segment.groups[-1])
        if old and tuple(segments) == old.segments and tuple(unreadable) == old.unreadable:
            return old
        return _joined(old.revision + 1 if old else 1, segments, unreadable)

    def _segment(self, path: Path, stamp: tuple[int, int, int], before: int, total: int) -> _Segment:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            shares = []
            for batch in file.iter_batches(_BATCH_ROWS, columns=_columns(file, path)):
                shares.append(self.names.digest(batch))
                before += batch.num_rows
                self._progress(before, total)
        if not shares:
            shares = [self.names.digest(pa.RecordBatch.from_pylist([], file.schema_arrow))]
        return _Segment(
            path,
            stamp,
            np.cumsum([0, *sizes]),
            {name: np.concatenate([share.columns[name] for share in shares]) for name in shares[0].columns},
            _end_to_end([share.relations for share in shares]),
            _end_to_end([share.checks for share in shares]),
            pa.concat_arrays([share.keys for share in shares]),
        )


@dataclass(frozen=True)
class _Share:
    """What the index keeps of one batch."""

    columns: dict[str, np.ndarray]
    relations: tuple[np.ndarray, np.ndarray]
    checks: tuple[np.ndarray, np.ndarray]
    keys: pa.Array


class Names:
    """The codes that all records share, also those of sources that are compared.

    Attributes:
        categories: column -> codes of its values.
        relations: codes of the relations' ids.
        labels: relation's id -> its name.
        checks: codes of the checks that rejected texts have failed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # sources that are compared add at the same time
        self.categories = {name: Codes() for name in CATEGORIES}
        self.relations = Codes()
        self.labels: dict[str, str] = {}
        self.checks = Codes()

    def digest(self, batch: pa.RecordBatch) -> _Share:
        """What the index keeps of a batch of records."""
        with self._lock:
            return self._digest(batch)

    def _digest(self, batch: pa.RecordBatch) -> _Share:
        rows, names = batch.num_rows, set(batch.schema.names)

        def column(name: str, kind: pa.DataType) -> pa.Array:
            return batch[name] if name in names else pa.nulls(rows, kind)

        def numbers(name: str, kind: Any) -> np.ndarray:
            return pc.fill_null(column(name, pa.int64()), 0).to_numpy(zero_copy_only=False).astype(kind)

        triplets, sizes, keys = _triplets(batch["triplets"])
        withheld = [_triplets(batch["withheld"])] if "withheld" in names else []
        topics = pc.fill_null(column("topic", pa.string()), "")
        columns = {
            "id": numbers("id", np.int64),
            "words": pc.count_substring_regex(pc.fill_null(batch["text"], ""), r"\S+").to_numpy().astype(np.int32),
            "usd": numbers("usd", np.float64),
            "input_tokens": numbers("input_tokens", np.int32),
            "output_tokens": numbers("output_tokens", np.int32),
            "accepted": pc.fill_null(pc.equal(column("verdict", pa.string()), "accepted"), True).to_numpy(
                zero_copy_only=False
            ),
            "set": _set_hashes([(keys, sizes), *((more, counts) for _, counts, more in withheld)], topics),
        }
        for name, codes in self.categories.items():
            columns[name] = codes.encode(column(name, pa.string()))
        columns["triplets"] = sizes.astype(np.int32)
        relations = _distinct(sizes, self._relations(triplets))
        checks = np.zeros(rows, np.int64), np.empty(0, np.int32)
        if lists := names & set(_FAULTS):
            faults = batch[lists.pop()]
            lengths = pc.fill_null(pc.list_value_length(faults), 0).to_numpy().astype(np.int64)
            checks = _distinct(lengths, self.checks.encode(pc.struct_field(pc.list_flatten(faults), "check")))
        by_id = pc.binary_join_element_wise("id", pc.cast(pa.array(columns["id"]), pa.string()), ":")
        given = column("request_key", pa.string())
        has_key = pc.fill_null(pc.greater(pc.utf8_length(given), 0), False)
        return _Share(columns, relations, checks, pc.if_else(has_key, given, by_id))

    def _relations(self, triplets: pa.Array) -> np.ndarray:
        uris = pc.fill_null(pc.struct_field(triplets, ["predicate", "uri"]), "")
        names = pc.struct_field(triplets, ["predicate", "surfaceform"])
        known = len(self.relations.names)
        codes = self.relations.encode(uris)
        for code in np.unique(codes[codes >= known]):
            self.labels[self.relations.names[code]] = names[int(np.argmax(codes == code))].as_py() or ""
        return codes


def _end_to_end(lists: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, values) of one batch's lists after the other's."""
    sizes, values = zip(*lists, strict=True)
    return np.concatenate(sizes), np.concatenate(values)


def _distinct(sizes: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists of codes, given as their sizes and all their values, without repetitions."""
    known = int(codes.max(initial=0)) + 1
    pairs = np.unique(np.repeat(np.arange(len(sizes)), sizes) * known + codes)
    return np.bincount(pairs // known, minlength=len(sizes)), (pairs % known).astype(np.int32)


def _triplets(lists: pa.Array) -> tuple[pa.Array, np.ndarray, pa.Array]:
    """The triplets of all rows one behind the other, how many each row has, and a string for each."""
    flat = pc.list_flatten(lists)
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    parts = [pc.fill_null(pc.struct_field(flat, [part, "uri"]), "") for part in ("subject", "predicate", "object")]
    return flat, sizes, pc.binary_join_element_wise(*parts, "\t")


def _set_hashes(lists: Sequence[tuple[pa.Array, np.ndarray]], topics: pa.Array) -> np.ndarray:
    """A 64-bit number for each row, equal where the sets are, whatever the order of their triplets.

    Args:
        lists: (strings, sizes) of the triplets of all rows; those that a label leaves out are of the set, too.
        topics: of the rows without triplets.
    """
    sets = np.zeros(len(topics), np.uint64)
    negatives = np.ones(len(topics), bool)
    for triplets, sizes in lists:
        hashes = pd.util.hash_array(triplets.to_numpy(zero_copy_only=False), categorize=False)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])
        ends = np.cumsum(sizes)
        sets += sums[ends] - sums[ends - sizes]
        negatives &= sizes == 0
    if negatives.any():
        named = pc.filter(topics, pa.array(negatives)).to_numpy(zero_copy_only=False)
        sets[negatives] = pd.util.hash_array(named, categorize=False)
    return sets


def _columns(file: pq.ParquetFile, path: Path) -> list[str]:
    names = set(file.schema_arrow.names)
    if missing := {"text", "triplets"} - names:
        raise InputError(
            f"{path} has no column {' nor '.join(sorted(missing))}, so its rows are no records of texts with triplets."
        )
    leaves = [file.schema.column(number).path for number in range(len(file.schema))]
    inner = [leaf for leaf in leaves if leaf.startswith("triplets.") and leaf.endswith((".uri", "te.surfaceform"))]
    inner += [leaf for leaf in leaves if leaf.startswith("withheld.") and leaf.endswith(".uri")]
    faults = tuple(f"{name}." for name in _FAULTS)
    checks = [leaf for leaf in leaves if leaf.startswith(faults) and leaf.endswith(".check")]
    return [*(name for name in _SCALARS if name in names), *inner, *checks]


def _joined(revision: int, segments: list[_Segment], unreadable: list[str]) -> Index:
    lengths = [int(segment.groups[-1]) for segment in segments]
    names = segments[0].columns if segments else _no_columns()
    keys = [segment.keys for segment in segments]
    return Index(
        revision,
        tuple(segments),
        np.cumsum([0, *lengths]),
        pa.concat_arrays([pa.array([], pa.string()), *(key.cast(pa.string()) for key in keys)]),
        {name: np.concatenate([empty[:0], *(s.columns[name] for s in segments)]) for name, empty in names.items()},
        Lists.of([segment.relations[0] for segment in segments], [segment.relations[1] for segment in segments]),
        Lists.of([segment.checks[0] for segment in segments], [segment.checks[1] for segment in segments]),
        tuple(unreadable),
    )


def _no_columns() -> dict[str, np.ndarray]:
    empty = pa.RecordBatch.from_pylist([], pa.schema([("text", pa.string()), ("triplets", _TRIPLETS)]))
    return Names().digest(empty).columns


_NAMED = pa.struct([("surfaceform", pa.string()), ("uri", pa.string())])
_TRIPLETS = pa.list_(pa.struct([(part, _NAMED) for part in ("subject", "predicate", "object")]))


def _stamp(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _count_rows(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException):
            continue
    return total
