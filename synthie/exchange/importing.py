"""Data of others as a data set of ours: SynthIE's or REBEL's lines in, a folder that training and prediction read out.

Every subject, relation and object is looked up in a graph by its id. Triplets that the graph does not have leave the
label, and stand in the column ``withheld``, or their records are left out; either is counted by reason. Lines that
cannot be read are passed over and named with file and line in ``bad_lines.jsonl``. Records stream.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import pyarrow as pa

from kg.graph import KnowledgeGraph
from kg.stage import Manifest, Progress, file_digest, no_progress, read_manifest, run_stage, write_atomic
from synthie.errors import ConfigError, InputError
from synthie.exchange.mentions import by_mention, find_mention
from synthie.publishing.card import front_matter, render
from synthie.publishing.rows import DATASET_SCHEMA
from synthie.publishing.shards import ShardWriter, clear_shards
from synthie.publishing.statistics import split_statistics
from synthie.records import SPLITS

__all__ = ["ImportForm", "import_records", "split_of"]

ImportForm = Literal["synthie", "rebel"]

_BAD_LINES = "bad_lines.jsonl"
_BATCH = 5_000
_CACHED = 1 << 18
_SPLIT_WORDS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"} | {
    "dev": "validation",
    "test": "test",
}
_ID = re.compile(r"[QPL]\d+$")  # what a Wikidata address ends with
_LITERAL_KINDS = ("date", "quantity", "coordinate", "string")


class _Named(msgspec.Struct):
    """A subject, predicate or object as either form has it."""

    surfaceform: str | None = None
    uri: str | None = None
    boundaries: list[int] | None = None


class _Triple(msgspec.Struct):
    subject: _Named
    predicate: _Named
    object: _Named


class _SynthieLine(msgspec.Struct):
    text: str
    triplets: list[_Triple]


class _RebelLine(msgspec.Struct):
    text: str
    triples: list[_Triple]

    @property
    def triplets(self) -> list[_Triple]:
        return self.triples


_LINES: dict[ImportForm, type[_SynthieLine] | type[_RebelLine]] = {"synthie": _SynthieLine, "rebel": _RebelLine}


@dataclass(slots=True)
class _Counts:
    """What was read, and what could not be used.

    Attributes:
        lines: records read, bad lines included.
        bad: bad lines.
        first_bad: file, number, and what is wrong with it.
        unknown: reason -> triplets that the graph does not have.
        left_out: reason -> records.
        examples: reason -> some of the ids that the graph lacks.
    """

    lines: int = 0
    bad: int = 0
    first_bad: str = ""
    unknown: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def miss(self, reason: str, identifier: str) -> None:
        self.unknown[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < 5 and identifier not in examples:
            examples.append(identifier)


def import_records(
    files: Sequence[Path],
    form: ImportForm,
    graph: Path,
    folder: Path,
    *,
    name: str,
    licence: str = "unknown",
    split: str | None = None,
    unknown: Literal["triplet", "record"] = "triplet",
    progress: Progress = no_progress,
) -> Manifest:
    """Make a data set of files of others in ``folder``.

    Args:
        files: JSONL, plain or gzip.
        form: theirs.
        graph: folder of a finished graph; names are taken from it.
        folder: where the data set goes.
        name, licence: for the card.
        split: of all files; None: each file's name tells (`split_of`).
        unknown: what is left out where the graph lacks an id: the ``triplet``, or the whole ``record``.
        progress: told the lines read.

    Raises:
        ConfigError: a file's split is not known.
        InputError: a file cannot be read, or no record is left.
    """
    of_file = {path: split or split_of(path) for path in files}
    inputs = {f"file {number}": file_digest(path) for number, path in enumerate(files)}

    def work(target: Path) -> dict[str, Any]:
        clear_shards(target)
        counts = _Counts()
        resolve = _Resolver(KnowledgeGraph.open(graph), counts, unknown)
        splits = sorted(set(of_file.values()), key=SPLITS.index)
        writers = {one: ShardWriter(target, one) for one in splits}
        number = 0
        with (target / _BAD_LINES).open("w", encoding="utf-8") as bad_lines:
            for path in files:
                lines = _lines(path, form, counts, bad_lines)
                for table in _tables(lines, resolve, of_file[path], number, counts, progress):
                    number += len(table)
                    writers[of_file[path]].add(table)
        for writer in writers.values():
            writer.close()
        if not number:
            raise InputError(_nothing(files, counts))
        shards = [shard for writer in writers.values() for shard in writer.shards]
        statistics = split_statistics(target, shards, dict.fromkeys(splits, 0), of_others=True)
        statistics |= {
            "import": {
                "form": form,
                "files": [path.name for path in files],
                "lines": counts.lines,
                "bad_lines": counts.bad,
                "left_out": dict(counts.left_out),
                "unknown_triplets": dict(counts.unknown),
                "examples": counts.examples,
                "unknown_are": "in the column withheld" if unknown == "triplet" else "a reason to leave the record out",
            },
            "shards": [shard.to_json() for shard in shards],
        }
        write_atomic(target / "statistics.json", json.dumps(statistics, indent=1, ensure_ascii=False) + "\n")
        card = render(
            "import.md.jinja",
            front_matter=front_matter(name, licence, statistics["splits"], []),
            name=name,
            licence=licence,
            statistics=statistics,
            splits=[{"name": one, **figures} for one, figures in statistics["splits"].items()],
        )
        write_atomic(target / "README.md", card)
        return {
            "records": {one: writer.records for one, writer in writers.items()},
            "bad_lines": counts.bad,
            "left_out": sum(counts.left_out.values()),
            "unknown_triplets": sum(counts.unknown.values()),
        }

    return run_stage(
        "dataset",
        folder,
        config={
            "name": name,
            "licence": licence,
            "form": form,
            "unknown": unknown,
            "splits": list(of_file.values()),
            "files": [path.name for path in files],
        },
        inputs={"graph": read_manifest(graph).output_hash, **inputs},
        seed=None,
        work=work,
    )


def split_of(path: Path) -> str:
    """The split that a file's name tells.

    >>> split_of(Path("en_val.jsonl"))
    'validation'

    Raises:
        ConfigError: it tells none.
    """
    stem = path.name.split(".")[0]
    if stem in SPLITS:
        return stem
    for word in re.split(r"[^a-z]+", path.name.lower()):
        if word in _SPLIT_WORDS:
            return _SPLIT_WORDS[word]
    raise ConfigError(
        f"The name of {path} does not tell its split: it has none of the words {', '.join(_SPLIT_WORDS)}. Rename the "
        "file, or give the split of all files with --split."
    )


class _Resolver:
    """Turns triples of others into records of ours."""

    def __init__(self, graph: KnowledgeGraph, counts: _Counts, unknown: str) -> None:
        self._graph, self._counts, self._unknown = graph, counts, unknown
        self._names = graph.node_table["name"]
        self._relations = dict(zip(graph.relation_ids, graph.relation_labels, strict=True))
        self.node = lru_cache(_CACHED)(self._find_node)

    def record(self, line: _SynthieLine | _RebelLine) -> dict[str, Any] | None:
        """Text, triplets and so on; None if the record is left out."""
        text = line.text.strip()
        shift = len(line.text) - len(line.text.lstrip())
        known: dict[tuple[str, str, str], dict[str, Any]] = {}
        withheld: list[dict[str, Any]] = []
        mentions: dict[str, int] = {}
        for triple in line.triplets:
            found, lacks = self._triplet(triple)
            if lacks:
                self._counts.miss(*lacks)
                withheld.append(found)
                continue
            known.setdefault((found["subject"]["uri"], found["predicate"]["uri"], found["object"]["uri"]), found)
            for node, theirs in ((found["subject"], triple.subject), (found["object"], triple.object)):
                start = theirs.boundaries[0] - shift if theirs.boundaries else find_mention(text, node["surfaceform"])
                if start >= 0 and start < mentions.get(node["uri"], len(text)):
                    mentions[node["uri"]] = start
        if not text or (withheld and self._unknown == "record") or (withheld and not known):
            reason = "no text" if not text else "a triplet is unknown" if known else "all triplets are unknown"
            self._counts.left_out[reason] += 1
            return None
        triplets = by_mention(list(known.values()), mentions)
        nodes = {t[part]["uri"]: t[part] for t in triplets for part in ("subject", "object")}
        return {
            "text": text,
            "triplets": triplets,
            "entities": [node | {"mention_start_index": mentions.get(uri, -1)} for uri, node in nodes.items()],
            "relations": list({t["predicate"]["uri"]: t["predicate"] for t in triplets}.values()),
            "withheld": withheld,
            "faults": [],
        }

    def _triplet(self, triple: _Triple) -> tuple[dict[str, Any], tuple[str, str] | None]:
        """Our form, and why the graph does not have it: (reason, id)."""
        ends = {part: self.node(*_id_and_name(getattr(triple, part))) for part in ("subject", "object")}
        relation, label = _id_and_name(triple.predicate)
        named = {"surfaceform": self._relations.get(relation, label), "uri": relation}
        reason = None if relation in self._relations else ("relation", relation or label)
        for part, (name, identifier, kind) in ends.items():
            if kind:
                reason = reason or (kind, identifier or name)
            ends[part] = (name, identifier, kind)
        found = {part: {"surfaceform": name, "uri": identifier} for part, (name, identifier, _) in ends.items()}
        return {"subject": found["subject"], "predicate": named, "object": found["object"]}, reason

    def _find_node(self, identifier: str, name: str) -> tuple[str, str, str]:
        """Name, id, and where the graph lacks it what it is: ``entity`` or ``literal``; else ""."""
        candidates = [identifier] if identifier else []
        is_entity = bool(_ID.fullmatch(identifier))
        if not is_entity:
            candidates += [f"{kind}:{name}" for kind in _LITERAL_KINDS]
        for candidate in candidates:
            number = self._graph.find_number(candidate)
            if number >= 0:
                return self._names[number].as_py(), candidate, ""
        return name, identifier, "entity" if is_entity else "literal or value without an id"


def _id_and_name(named: _Named) -> tuple[str, str]:
    uri, name = named.uri or "", named.surfaceform or ""
    tail = uri.rstrip(">").rsplit("/", 1)[-1]
    return (tail if _ID.fullmatch(tail) else uri), name


def _tables(
    lines: Iterable[_SynthieLine | _RebelLine],
    resolve: _Resolver,
    split: str,
    number: int,
    counts: _Counts,
    progress: Progress,
) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for line in lines:
        record = resolve.record(line)
        if record is not None:
            rows.append({"id": number, "split": split, **record})
            number += 1
        if len(rows) >= _BATCH:
            yield pa.Table.from_pylist(rows, DATASET_SCHEMA)
            rows = []
            progress(counts.lines, None, "lines")
    if rows:
        yield pa.Table.from_pylist(rows, DATASET_SCHEMA)


def _lines(path: Path, form: ImportForm, counts: _Counts, bad_lines: IO[str]) -> Iterator[_SynthieLine | _RebelLine]:
    decoder = msgspec.json.Decoder(_LINES[form])
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                counts.lines += 1
                try:
                    yield decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    counts.bad += 1
                    counts.first_bad = counts.first_bad or f"line {number} of {path.name}: {error}"
                    bad_lines.write(json.dumps({"file": path.name, "line": number, "error": str(error)}) + "\n")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read {path}: {reason}. It must be JSONL, plain or gzip (.gz).") from error


def _nothing(files: Sequence[Path], counts: _Counts) -> str:
    reasons = [f"{count:,} because {reason}" for reason, count in counts.left_out.items()]
    if counts.bad:
        reasons.append(f"{counts.bad:,} lines cannot be read, the first is {counts.first_bad}")
    names = ", ".join(str(path) for path in files)
    examples = [identifier for some in counts.examples.values() for identifier in some[:2]]
    told = f" The graph lacks, for example, {', '.join(examples)}." if examples else ""
    return (
        f"No record of {names} can be used: {'; '.join(reasons) or 'there are no lines'}.{told} Check --form, and that "
        "the graph is the one that the data speak of."
    )
