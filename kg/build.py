"""The stage that turns a Wikidata dump into a knowledge graph.

One pass over the dump decodes every document (`kg.dump`, `kg.wikidata`) and
writes what is kept as Parquet parts in a hidden folder; then the parts are
joined into the graph's files (`kg.store`). Nothing is lost unsaid: lines that
cannot be decoded are set aside in ``quarantine.jsonl``, and the manifest's
counts add up, documents read = entities + properties + redirects + dropped by
reason, statements read = triples + dropped by reason.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.config import GraphConfig
from kg.dump import Dump, dump_digest
from kg.errors import ConfigError, InputError
from kg.stage import Manifest, Progress, no_progress, run_stage
from kg.store import ENTITY_PART, ITEM_CLAIM_PART, LABEL_PART, LITERAL_CLAIM_PART, IngestTables, write_graph
from kg.wikidata import BadLineError, Entity, Ignored, Property, Redirect, WikidataReader, property_number

__all__ = ["build_graph", "selected_relations"]

log = logging.getLogger(__name__)

_PARTS = ".parts"
_PART_ROWS = 50_000
_PROGRESS_DOCUMENTS = 500
_HOPELESS_LINES = 100  # if not one of the first so many lines is a document, the file is no dump
_QUARANTINED_CHARACTERS = 100_000
_STRING_DATATYPES = frozenset({"string"})

_MENDS = {
    "no_article": "Set 'kg.entities' to 'labelled', or 'kg.language' to a language whose Wikipedia has the articles.",
    "no_label": "Set 'kg.language' to a language that the dump has labels in.",
    "dropped_class": "Shorten 'kg.drop_classes'.",
    "relation_not_selected": "Extend 'kg.relations' or 'kg.relations_file', or leave both empty to keep all relations.",
    "datatype_not_kept": "Extend 'kg.literals'.",
    "object_not_kept": "Use a dump that holds the objects too, or set 'kg.entities' to 'labelled'.",
    "unit_without_label": "Use a dump that holds the items of the units.",
    "other_language": "Set 'kg.language' to the language of the texts.",
}
_OTHER_MEND = "Use a Wikidata dump that holds items with statements."


def build_graph(config: GraphConfig, folder: Path, *, progress: Progress = no_progress) -> Manifest:
    """Build the graph of ``config.dump`` in ``folder``.

    Args:
        config: which part of the dump to keep.
        folder: the stage's folder; its files are described in `kg.store`.
        progress: called with the bytes of the stored dump read so far.

    Raises:
        ConfigError: a relation id is malformed or the relations file is unusable.
        InputError: the dump is missing, truncated, corrupt or no dump, has too many undecodable
            lines, lacks a selected relation, or nothing of it passes the filters.
    """
    relations = selected_relations(config)
    settings = config.fingerprinted() | {"relations": relations}
    del settings["relations_file"]  # its ids are among the relations
    return run_stage(
        "kg",
        folder,
        config=settings,
        inputs={"dump": dump_digest(config.dump)},
        seed=None,
        work=lambda place: _build(config, relations, place, progress),
    )


def selected_relations(config: GraphConfig) -> list[str]:
    """The ids of ``config.relations`` and ``config.relations_file``, sorted by number; empty for all.

    Raises:
        ConfigError: the file cannot be read, has a malformed id or none at all.
    """
    relations = set(config.relations)
    if config.relations_file is not None:
        relations.update(_read_relations(Path(config.relations_file)))
    return sorted(relations, key=property_number)


def _read_relations(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Cannot read the relations file {path}: {reason}. Check 'kg.relations_file'.") from error
    found = []
    for number, line in enumerate(lines, 1):
        word = re.split(r"[\s,;]", line.strip(), maxsplit=1)[0]
        if not word or word.startswith("#"):
            continue
        if not re.fullmatch(r"P[1-9]\d{0,8}", word):
            likely = re.search(r"[Pp]?0*([1-9]\d{0,8})\b", word)
            hint = f" Did you mean P{likely[1]}?" if likely else ""
            raise ConfigError(
                f"{path}, line {number}: {word!r} is not a relation id of the form P17.{hint} Each line begins with "
                "one id; blank lines and lines that begin with # are skipped."
            )
        found.append(word)
    if not found:
        raise ConfigError(
            f"The relations file {path} holds no id. Write one on each line, or unset 'kg.relations_file'."
        )
    return found


def _build(config: GraphConfig, relations: list[str], folder: Path, progress: Progress) -> dict[str, Any]:
    parts = folder / _PARTS
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    try:
        with _Ingest(config, relations, parts, folder / "quarantine.jsonl") as ingest:
            ingest.run(progress)
        ingest.check()
        graph = write_graph(ingest.tables(), folder)
        counts = ingest.counts(graph)
        if graph["triples"] == 0:
            statements = counts["statements"]
            raise _nothing_left(config.dump, "statement", statements["read"], statements["dropped"])
        return counts
    finally:
        shutil.rmtree(parts, ignore_errors=True)


class _Part:
    """A Parquet file that grows row by row; rows wait in memory until there are enough for a row group."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)

    def extend(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._rows.extend(rows)
        if len(self._rows) >= _PART_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            self._rows.clear()


class _Ingest:
    """One pass over a dump: decode, count, write the parts."""

    def __init__(self, config: GraphConfig, relations: list[str], parts: Path, quarantine: Path) -> None:
        self._config = config
        self._relations = relations
        self._dump = Dump(config.dump)
        self._reader = WikidataReader(
            language=config.language,
            wikipedia_only=config.entities == "wikipedia",
            drop_classes=config.drop_classes,
            literals=config.literals,
            relations=relations or None,
        )
        self._entities = _Part(parts / "entities.parquet", ENTITY_PART)
        self._items = _Part(parts / "items.parquet", ITEM_CLAIM_PART)
        self._literals = _Part(parts / "literals.parquet", LITERAL_CLAIM_PART)
        self._labels = _Part(parts / "labels.parquet", LABEL_PART)
        self._quarantine = quarantine.open("w", encoding="utf-8")
        self._properties: dict[int, tuple[int, int, Property]] = {}
        self._redirects: list[tuple[int, int]] = []
        self._datatypes: dict[int, str] = {}
        self._seen: set[str] = set()  # ids of the properties that occur, while relations are selected
        self._documents: Counter[str] = Counter()
        self._dropped_documents: Counter[str] = Counter()
        self._statements = 0
        self._dropped_statements: Counter[str] = Counter()

    def __enter__(self) -> _Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in (self._entities, self._items, self._literals, self._labels):
            part.close()
        self._quarantine.close()

    def run(self, progress: Progress) -> None:
        """Read the dump to its end."""
        for offset, line in self._dump.lines():
            self._documents["lines"] += 1
            try:
                document, properties = self._reader.read(line)
            except BadLineError as error:
                self._set_aside(offset, line, str(error))
                continue
            if self._relations:
                self._seen.update(properties)
            self._documents["read"] += 1
            self._take(document, line)
            if self._documents["read"] % _PROGRESS_DOCUMENTS == 0:
                self._report(progress)
        self._report(progress)
        if not self._dump.closed:
            log.warning(
                "%s opens a JSON array with '[' and does not close it; every line of it was read, but the dump may "
                "have been cut",
                self._dump.path,
            )

    def check(self) -> None:
        """Refuse a dump that holds nothing usable, and relations that it does not hold."""
        if not self._documents["read"]:
            raise self._no_dump()
        self._check_relations()
        if not self._documents["entities"]:
            dropped = self._dropped_documents + Counter(
                property=self._documents["properties"], redirect=self._documents["redirects"]
            )
            raise _nothing_left(self._dump.path, "document", self._documents["read"], dropped)

    def tables(self) -> IngestTables:
        """What was written and found."""
        return IngestTables(
            entities=self._entities.path,
            items=self._items.path,
            literals=self._literals.path,
            labels=self._labels.path,
            properties={number: entry[2] for number, entry in self._properties.items()},
            datatypes=self._datatypes,
            redirects=np.array(self._redirects, dtype=np.int32).reshape(-1, 2),
            string_datatypes=_STRING_DATATYPES,
        )

    def counts(self, graph: dict[str, Any]) -> dict[str, Any]:
        """The manifest's counts, from those of the ingest and of `write_graph`."""
        documents = self._dropped_documents + Counter(duplicate=graph["duplicates"])
        statements = self._dropped_statements + Counter(graph["dropped"])
        return {
            "lines": self._documents["lines"],
            "undecodable": self._documents["undecodable"],
            "array_left_open": int(not self._dump.closed),
            "documents": {
                "read": self._documents["read"],
                "entities": self._documents["entities"] - graph["duplicates"],
                "properties": self._documents["properties"],
                "redirects": self._documents["redirects"],
                "dropped": dict(sorted(documents.items())),
            },
            "statements": {
                "read": self._statements,
                "triples": graph["triples"],
                "dropped": dict(sorted(statements.items())),
            },
            "nodes": graph["nodes"],
            "relations": graph["relations"],
            "relations_without_label": graph["relations_without_label"],
            "triples": graph["triples"],
        }

    def _take(self, document: Entity | Property | Redirect | Ignored, line: bytes) -> None:
        if isinstance(document, Entity):
            self._take_entity(document, line)
        elif isinstance(document, Ignored):
            self._dropped_documents[document.reason] += 1
            if document.number and document.label:
                self._labels.extend([(document.number, document.revision, document.label)])
        elif isinstance(document, Property):
            self._documents["properties"] += 1
            self._seen.add(f"P{document.number}")
            version = document.revision, zlib.crc32(line), document
            if document.number not in self._properties or version[:2] > self._properties[document.number][:2]:
                self._properties[document.number] = version
        else:
            self._documents["redirects"] += 1
            self._redirects.append((document.source, document.target))

    def _take_entity(self, entity: Entity, line: bytes) -> None:
        row = self._documents["entities"]
        self._documents["entities"] += 1
        self._statements += entity.statements
        self._dropped_statements.update(entity.dropped)
        for number, datatype in entity.datatypes.items():
            self._datatypes[number] = min(self._datatypes.get(number, datatype), datatype)
        self._entities.extend(
            [
                (
                    entity.number,
                    entity.revision,
                    zlib.crc32(line),
                    entity.title,
                    entity.label,
                    entity.description,
                    entity.aliases,
                    entity.types,
                )
            ]
        )
        self._items.extend((row, *claim) for claim in entity.items)
        self._literals.extend((row, *claim) for claim in entity.literals)

    def _set_aside(self, offset: int, line: bytes, reason: str) -> None:
        text = line[:_QUARANTINED_CHARACTERS].decode("utf-8", "backslashreplace")
        json.dump({"offset": offset, "line": text, "reason": reason}, self._quarantine, ensure_ascii=False)
        self._quarantine.write("\n")
        self._documents["undecodable"] += 1
        bad = self._documents["undecodable"]
        if not self._documents["read"]:
            if bad >= _HOPELESS_LINES:
                raise self._no_dump()
        elif bad > self._config.max_bad_lines:
            raise InputError(
                f"{self._dump.path} has more than {self._config.max_bad_lines} undecodable lines; the last one is at "
                f"offset {offset} of the decompressed stream: {reason}. All are in {self._quarantine.name}. Fetch the "
                "dump again, or raise 'kg.max_bad_lines' to set more of them aside."
            )

    def _report(self, progress: Progress) -> None:
        progress(
            self._dump.position,
            self._dump.size,
            "bytes",
            documents=self._documents["read"],
            entities=self._documents["entities"],
        )

    def _no_dump(self) -> InputError:
        lines = self._documents["lines"]
        if not lines:
            return InputError(f"{self._dump.path} holds no document. Fetch or write the dump again.")
        start = self._dump.start[:40].decode("utf-8", "backslashreplace")
        return InputError(
            f"{self._dump.path} is not a Wikidata JSON dump: none of its first {lines} lines is a document with an "
            f"'id'; it begins with {start!r}. Set 'kg.dump' to a dump with one JSON document a line."
        )

    def _check_relations(self) -> None:
        missing = [name for name in self._relations if name not in self._seen]
        if not missing:
            return
        near = dict.fromkeys(
            found for name in missing[:3] for found in difflib.get_close_matches(name, sorted(self._seen), n=3)
        )
        labels = {f"P{number}": f" ({entry[2].label})" for number, entry in self._properties.items() if entry[2].label}
        known = ", ".join(name + labels.get(name, "") for name in near)
        raise InputError(
            f"No document of {self._dump.path} has the selected relation{'s' if len(missing) > 1 else ''} "
            f"{', '.join(missing[:20])}{' and more' if len(missing) > 20 else ''}."
            f"{f' Near ones that it has: {known}.' if near else ''} Correct 'kg.relations' or 'kg.relations_file'."
        )


def _nothing_left(dump: str, unit: str, read: int, dropped: Counter[str] | dict[str, int]) -> InputError:
    reasons = sorted(((count, reason) for reason, count in dropped.items() if count), reverse=True)
    what = "entity" if unit == "document" else "triple"
    if not reasons:
        return InputError(f"No {what} of {dump} is left: it holds no {unit} that could be one. {_OTHER_MEND}")
    told = ", ".join(f"{reason.replace('_', ' ')} {count}" for count, reason in reasons)
    return InputError(
        f"No {what} of {dump} passes the filters. Of {read} {unit}s these were dropped: {told}. "
        f"{_MENDS.get(reasons[0][1], _OTHER_MEND)}"
    )
