"""A graph from a Wikidata JSON dump: run its slices, add up what they tell, join their parts.

The source is cut into slices (`kg.dump`); each is read on its own, here or
wherever a mapper runs it (`kg.wikidata.ingest`); then the parts are joined into the
graph's files (`kg.wikidata.join`). Nothing is lost unsaid: lines that cannot be decoded
are set aside in ``quarantine.jsonl``, and the counts add up, documents read =
entities + properties + redirects + dropped by reason, statements read =
triples + dropped by reason.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from kg.config import GraphConfig
from kg.dump import Slice, check_faults, plan_slices
from kg.errors import InputError
from kg.parallel import Mapper, in_processes, in_this_process, parts_folder
from kg.stage import Progress
from kg.wikidata.ingest import (
    Segment,
    SliceResult,
    SliceTask,
    ingest_slice,
    part_files,
    read_segments,
    too_many_bad_lines,
)
from kg.wikidata.join import join_parts

__all__ = ["build_wikidata"]

log = logging.getLogger(__name__)

_PARTS_FORM = 2  # to be raised when other code would write other parts for the same options

_MENDS = {
    "no_article": "Set 'kg.entities' to 'labelled', 'kg.language' to a language whose Wikipedia has the articles, or "
    "'kg.wiki' to the name of its site.",
    "not_listed": "Extend 'kg.entities_file'.",
    "not_in_classes": "Extend 'kg.classes', and use a dump that holds their subclasses too.",
    "low_degree": "Lower 'kg.min_degree'.",
    "no_label": "Set 'kg.language' or 'kg.fallback_languages' to languages that the dump has labels in.",
    "dropped_class": "Shorten 'kg.drop_classes'.",
    "relation_not_selected": "Extend 'kg.relations' or 'kg.relations_file', or leave both empty to keep all relations.",
    "datatype_not_kept": "Extend 'kg.literals'.",
    "object_not_kept": "Use a dump that holds the objects too, or set 'kg.entities' to 'labelled'.",
    "unit_without_label": "Use a dump that holds the items of the units, or set 'kg.entities' to 'labelled'.",
    "other_language": "Set 'kg.language' to the language of the texts.",
}
_OTHER_MEND = "Use a Wikidata dump that holds items with statements."


def build_wikidata(
    config: GraphConfig, relations: list[str], folder: Path, *, mapper: Mapper | None, progress: Progress
) -> dict[str, Any]:
    """Build the graph of a Wikidata JSON dump; the work of a stage.

    Args:
        config: which part of the dump to keep.
        relations: ids of the relations to keep; empty for all.
        folder: the stage's folder; its files are described in `kg.tables`.
        mapper: runs the slices; None: as many processes as ``config.workers``.
        progress: called with the stored bytes read so far.

    Returns:
        The manifest's counts.

    Raises:
        InputError: the dump cannot be read, has too many undecodable lines or corrupt members, or nothing of it is
            left.
    """
    slices = plan_slices(config.dump, max(1, int(config.slice_mb * (1 << 20))))
    parts = parts_folder(folder, _PARTS_FORM, config.fingerprinted(), relations, slices)
    ingest = _Ingest(config, relations, slices, parts)
    ingest.run(mapper, progress)
    ingest.write_quarantine(folder / "quarantine.jsonl")
    ingest.check()
    graph = join_parts(config, parts, len(slices), ingest.datatypes, folder)
    counts = ingest.counts(graph)
    statements, documents = counts["statements"], counts["documents"]
    if documents["entities"] == 0:
        others = {"property": documents["properties"], "redirect": documents["redirects"]}
        raise _nothing_left(config.dump, "document", documents["read"], documents["dropped"] | others)
    if graph["triples"] == 0:
        error = _nothing_left(config.dump, "statement", statements["read"], statements["dropped"])
        raise InputError(f"{error} {ingest.missing_relations()}".rstrip())
    ingest.warn()
    return counts


class _Ingest:
    """The slices of one dump: run them, then add up what they tell."""

    def __init__(self, config: GraphConfig, relations: list[str], slices: list[Slice], parts: Path) -> None:
        self._config = config
        self._relations = relations
        self._slices = slices
        self._parts = parts
        self._segments: list[list[Segment]] = []
        self._bytes = sum(part.end - part.start for part in slices)
        self._finished_bytes = self._documents = self._entities = 0
        self._undecodable = self._faults = 0
        self._last_spoilt: Slice | None = None  # of those taken, the last with an undecodable line

    def run(self, mapper: Mapper | None, progress: Progress) -> None:
        """Read all slices that are not finished.

        Raises:
            InputError: see `build_graph`.
        """
        tasks = []
        for part in self._slices:
            task = SliceTask(self._config, tuple(self._relations), part, self._parts)
            segments = read_segments(self._parts, part.number)
            if segments and segments[-1].last:
                self._take(ingest_slice(task))
            else:
                tasks.append(task)
        if self._finished_bytes:
            log.info(
                "%s: %d of %d slices were read before",
                self._config.dump,
                len(self._slices) - len(tasks),
                len(self._slices),
            )

        def tell(position: int = 0, documents: int = 0, entities: int = 0) -> None:
            details = {"documents": self._documents + documents, "entities": self._entities + entities}
            progress(self._finished_bytes + position, self._bytes, "bytes", **details)

        tell()
        with closing(self._results(tasks, mapper, tell)) as results:
            for result in results:
                self._take(result)
                tell()
        self._segments = [read_segments(self._parts, part.number) for part in self._slices]
        self._check_chain()

    def _results(
        self, tasks: Sequence[SliceTask], mapper: Mapper | None, tell: Any
    ) -> Generator[SliceResult, None, None]:
        if mapper is not None:
            return mapper(ingest_slice, tasks)
        if len(tasks) == 1 or self._config.workers == 1:
            return in_this_process(partial(ingest_slice, report=tell), tasks)
        return in_processes(self._config.workers)(ingest_slice, tasks)

    def _take(self, result: SliceResult) -> None:
        self._finished_bytes += result.part.end - result.part.start
        self._documents += result.documents
        self._entities += result.entities
        self._undecodable += result.undecodable
        self._faults += len(result.faults)
        if result.undecodable:
            self._last_spoilt = result.part
        if self._last_spoilt is not None and self._undecodable > self._config.max_bad_lines and self._documents:
            last = self._bad_lines(self._last_spoilt.number)[-1]
            raise too_many_bad_lines(self._last_spoilt, self._config.max_bad_lines, last)
        check_faults(self._config.dump, self._config.max_corrupt_members, self._faults, result.faults)

    def _bad_lines(self, number: int) -> list[dict[str, Any]]:
        """What quarantine holds of a slice."""
        files = part_files(self._parts, "quarantine", [number])
        return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]

    def _check_chain(self) -> None:
        """Every slice must begin with the member at which the one before ended."""
        expected: dict[str, int | None] = {}
        for part, segments in zip(self._slices, self._segments, strict=True):
            last = segments[-1]
            if last.first_member is None:
                continue
            if part.file in expected and expected[part.file] != last.first_member:
                raise InputError(
                    f"{part.file} is corrupt: a member ends before byte {expected[part.file]}, where none begins; the "
                    f"next one is at byte {last.first_member}. Fetch the file again."
                )
            expected[part.file] = last.next_member

    @property
    def datatypes(self) -> dict[int, str]:
        """Number of the P id -> datatype that the statements tell."""
        found: dict[int, str] = {}
        for segment in self._all():
            for number, datatype in segment.datatypes.items():
                found[number] = min(found.get(number, datatype), datatype)
        return found

    def write_quarantine(self, path: Path) -> None:
        """Gather what was set aside: undecodable lines and members, by file and offset in its decompressed stream."""
        with path.open("w", encoding="utf-8") as target:
            base, file = 0, ""
            for part, segments in zip(self._slices, self._segments, strict=True):
                if part.file != file:
                    base, file = 0, part.file
                records = self._bad_lines(part.number) + [msgspec.to_builtins(each) for each in segments[-1].faults]
                for record in sorted(records, key=itemgetter("offset")):
                    json.dump(record | {"offset": base + record["offset"]}, target, ensure_ascii=False)
                    target.write("\n")
                base += segments[-1].raw_bytes

    def check(self) -> None:
        """Refuse a dump that holds nothing."""
        if not self._documents:
            raise self._no_document()

    def warn(self) -> None:
        """Warn of a dump that looks cut and of relations that it does not have."""
        for file in self._open_arrays():
            log.warning(
                "%s opens a JSON array with '[' and does not close it; every line of it was read, but the dump may "
                "have been cut",
                file,
            )
        if told := self.missing_relations():
            log.warning("%s The graph is built without.", told)

    def counts(self, graph: dict[str, Any]) -> dict[str, Any]:
        """The manifest's counts, from those of the ingest and of `join_parts`."""
        segments = list(self._all())
        documents = sum((segment.documents for segment in segments), Counter())
        dropped = sum((segment.dropped for segment in segments), Counter())
        left_out = Counter(
            duplicate=graph["duplicates"], not_in_classes=graph["not_in_classes"], low_degree=graph["low_degree"]
        )
        statements = sum((segment.dropped_statements for segment in segments), Counter(graph["dropped"]))
        qualifiers = sum((segment.dropped_qualifiers for segment in segments), Counter(graph["dropped_qualifiers"]))
        undecodable = sum(segment.undecodable for segment in segments)
        lines = sum(segment.lines for segment in segments)
        return {
            "lines": lines,
            "undecodable": undecodable,
            "corrupt_members": self._faults,
            "array_left_open": len(self._open_arrays()),
            "documents": {
                "read": lines - undecodable,
                "entities": documents["entities"] - left_out.total(),
                "properties": documents["properties"],
                "redirects": documents["redirects"],
                "dropped": _sorted(dropped + left_out),
            },
            "statements": {
                "read": sum(segment.statements for segment in segments),
                "triples": graph["triples"],
                "dropped": _sorted(statements),
            },
            **({"qualifiers_dropped": _sorted(qualifiers)} if self._config.qualifiers else {}),
            "nodes": graph["nodes"],
            "relations": graph["relations"],
            "relations_without_label": graph["relations_without_label"],
            "relations_not_found": len(self._missing_relations()),
            "triples": graph["triples"],
        }

    def _all(self) -> Iterator[Segment]:
        return (segment for segments in self._segments for segment in segments)

    def _open_arrays(self) -> list[str]:
        opened: set[str] = set()
        ended: dict[str, bytes] = {}
        for part, segments in zip(self._slices, self._segments, strict=True):
            if segments[-1].opened:
                opened.add(part.file)
            ended[part.file] = segments[-1].ended or ended.get(part.file, b"")
        return sorted(file for file in opened if ended[file] != b"]")

    def _no_document(self) -> InputError:
        lines = sum(segment.lines for segment in self._all())
        if not lines:
            return InputError(f"{self._config.dump} holds no document. Fetch or write the dump again.")
        assert self._last_spoilt is not None
        bad = self._bad_lines(self._last_spoilt.number)[-1]
        return InputError(
            f"{self._config.dump} is not a Wikidata JSON dump: none of its {lines} lines is a document with an 'id'; "
            f"the last one begins with {bad['line'][:40]!r}. Set 'kg.dump' to a dump with one JSON document a line."
        )

    def _missing_relations(self) -> list[str]:
        seen = {name for segment in self._all() for name in segment.seen} | self._property_labels().keys()
        return [name for name in self._relations if name not in seen]

    def _property_labels(self) -> dict[str, str]:
        if not self._relations:
            return {}
        tables = [pq.read_table(path) for path in part_files(self._parts, "properties", range(len(self._slices)))]
        rows = pa.concat_tables(tables).select(["number", "label"]).to_pylist()
        return {f"P{row['number']}": row["label"] for row in rows}

    def missing_relations(self) -> str:
        """A sentence on the selected relations that occur nowhere; "" if there are none."""
        missing = self._missing_relations()
        if not missing:
            return ""
        labels = self._property_labels()
        seen = sorted({name for segment in self._all() for name in segment.seen} | labels.keys())
        near = dict.fromkeys(found for name in missing[:3] for found in difflib.get_close_matches(name, seen, n=3))
        known = ", ".join(name + (f" ({labels[name]})" if labels.get(name) else "") for name in near)
        return (
            f"No document of {self._config.dump} that was looked into has the selected "
            f"relation{'s' if len(missing) > 1 else ''} {', '.join(missing[:20])}"
            f"{' and more' if len(missing) > 20 else ''}."
            f"{f' Near ones that it has: {known}.' if near else ''}"
        )


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _nothing_left(dump: str, unit: str, read: int, dropped: dict[str, int]) -> InputError:
    reasons = sorted(((count, reason) for reason, count in dropped.items() if count), reverse=True)
    what = "entity" if unit == "document" else "triple"
    if not reasons:
        return InputError(f"No {what} of {dump} is left: it holds no {unit} that could be one. {_OTHER_MEND}")
    told = ", ".join(f"{reason.replace('_', ' ')} {count}" for count, reason in reasons)
    mend = next((_MENDS[reason] for _, reason in reasons if reason in _MENDS), _OTHER_MEND)
    return InputError(f"No {what} of {dump} passes the filters. Of {read} {unit}s these were dropped: {told}. {mend}")
