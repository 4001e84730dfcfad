"""Files of any systems → the same report as a run's: which records they share, and what makes two triplets equal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from kg.stage import write_atomic
from synthie.config import EvaluationConfig
from synthie.errors import InputError
from synthie.evaluation.analysis import analyse
from synthie.evaluation.corpus import UNKNOWN, Columns, Corpus, Predicted, is_known, known_from_training
from synthie.evaluation.errors import related_relations
from synthie.evaluation.linearized import Form
from synthie.evaluation.readers import FileRecord, Item, Stated, read_records
from synthie.evaluation.report import write_report
from synthie.evaluation.triplets import Floats, Ints, encode
from synthie.evaluation.weak import write_weak

__all__ = ["By", "Missing", "score_files"]

By = Literal["id", "name"]
Missing = Literal["refuse", "empty", "skip"]
_BATCH = 50_000


def score_files(
    config: EvaluationConfig,
    predictions: Mapping[str, Path],
    folder: Path,
    *,
    gold: Path | None = None,
    training: Path | None = None,
    links: Iterable[tuple[str, str]] | None = None,
    by: By | None = None,
    form: Form | None = None,
    missing: Missing = "refuse",
    seed: int = 0,
) -> dict[str, Any]:
    """Write the report of one or more prediction files to ``folder``; returns the content of ``metrics.json``.

    Args:
        config: resamples, confidence, largest factor.
        predictions: name of the system -> file; see `synthie.evaluation.readers`.
        folder: where the report goes.
        gold: file with the gold sets; None: the prediction files have them.
        training: file with the training records, for frequency buckets and what is seen.
        links: (relation, parent) pairs, by the same keys.
        by: what makes nodes and relations equal; None: ids if gold has them throughout and predictions have some.
        form: how linearized strings are written; None finds out.
        missing: records of gold that a file lacks: an error, empty sets, or left out for all systems.
        seed: the first resample's seed.

    Raises:
        InputError: a file is not what it should be, or the files do not belong together.
    """
    files = {name: read_records(path, form) for name, path in predictions.items()}
    gold_records = _gold_records(next(iter(files.values())) if gold is None else read_records(gold, form))
    if gold is None:
        _agree_on_gold(files, predictions)
    source = gold or next(iter(predictions.values()))
    if not gold_records or (gold is None and any(record.alike for record in gold_records)):
        raise InputError(f"{source} has no gold triplets. Give the gold file with --gold.")
    chosen = _shared(gold_records, files, predictions, source, missing)
    by = by or _find_key(chosen, files)
    key = _keys(by, chosen)
    ids = [record.id for record in chosen]
    systems = {name: {record.id: record for record in records} for name, records in files.items()}
    sets = [[systems[name][i].predicted or [] if i in systems[name] else [] for i in ids] for name in files]
    encoded = encode([_columns(corpus, key) for corpus in ([record.gold or [] for record in chosen], *sets)])
    corpus = Corpus(
        name=source.name,
        split="",
        records_in_split=len(gold_records),
        ids=ids,
        texts=[record.text for record in chosen],
        models={},
        gold=encoded[0],
        systems={
            name: Predicted(columns, _scores(systems[name], ids))
            for name, columns in zip(files, encoded[1:], strict=True)
        },
        training=known_from_training(_batches(read_records(training, form), key), encoded[0]) if training else None,
        names=_names([record.gold or [] for record in chosen], *sets, key=key),
        ancestors=None if links is None else related_relations(links),
    )
    _refuse_strangers(corpus, by, predictions)
    metrics = analyse(config, corpus, seed)
    metrics["settings"] |= {"by": by, "files": {name: path.name for name, path in predictions.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    metrics["weak"] = write_weak(corpus, next(iter(corpus.systems.values())), folder, most=config.weak_factor)
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    write_report(metrics, folder)
    return metrics


# --- Records --------------------------------------------------------------------------------------------------------


def _gold_records(records: list[FileRecord]) -> list[FileRecord]:
    return [record for record in records if record.gold is not None]


def _agree_on_gold(files: Mapping[str, list[FileRecord]], paths: Mapping[str, Path]) -> None:
    """Each prediction file brings its own gold: it must be the same."""
    first, *others = files
    expected = {record.id: record.gold for record in files[first]}
    for name in others:
        for record in files[name]:
            gold = expected.get(record.id, record.gold)
            if set(record.gold or []) != set(gold or []):
                raise InputError(
                    f"{paths[first]} and {paths[name]} have different gold triplets for the record {record.id!r}. "
                    "Name the gold file with --gold, or correct one of them."
                )


def _shared(
    gold: list[FileRecord],
    files: Mapping[str, list[FileRecord]],
    paths: Mapping[str, Path],
    source: Path,
    missing: Missing,
) -> list[FileRecord]:
    known = {record.id for record in gold}
    for name, records in files.items():
        strangers = [record.id for record in records if record.id not in known]
        if strangers:
            raise InputError(
                f"{paths[name]} has {len(strangers):,} records that {source} lacks; the first has the id "
                f"{strangers[0]!r}. Give the gold file that the predictions were made for."
            )
        if any(record.predicted is None for record in records):
            raise InputError(f"{paths[name]} has no predictions. Is it a gold file?")
        present = {record.id for record in records}
        absent = [record.id for record in gold if record.id not in present]
        if absent and missing == "refuse":
            raise InputError(
                f"{paths[name]} lacks {len(absent):,} of the {len(gold):,} records of {source}; the first has the id "
                f"{absent[0]!r}. Say --missing empty to count them as predicted empty, or --missing skip to leave "
                "them out for all systems."
            )
        if missing == "skip":
            gold = [record for record in gold if record.id in present]
    if not gold:
        raise InputError(f"No record of {source} is in all files of predictions, so there is nothing to evaluate.")
    return gold


def _scores(records: Mapping[Any, FileRecord], ids: list[Any]) -> Floats | None:
    scores = [records[i].score if i in records else None for i in ids]
    return None if any(score is None for score in scores) else np.array(scores, np.float64)


# --- Keys -----------------------------------------------------------------------------------------------------------

_Key = Callable[[Item], str]


def _items(sets: Iterable[list[Stated]]) -> Iterator[Item]:
    return (item for triplets in sets for triplet in triplets for item in triplet)


def _find_key(gold: list[FileRecord], files: Mapping[str, list[FileRecord]]) -> By:
    """Ids if all of gold has them, and predictions have some, or have strings that are such ids."""
    items = list(_items(record.gold or [] for record in gold))
    ids = {identity for identity, _ in items}
    predicted = _items(record.predicted or [] for records in files.values() for record in records)
    usable = "" not in ids and any(identity or name in ids for identity, name in predicted)
    return "id" if items and usable else "name"


def _keys(by: By, gold: list[FileRecord]) -> _Key:
    ids = {identity for identity, _ in _items(record.gold or [] for record in gold)}

    def of_id(item: Item) -> str:
        identity, name = item
        return identity or (name if name in ids else UNKNOWN + name)

    def of_name(item: Item) -> str:
        return " ".join((item[1] or item[0]).replace("_", " ").split())

    return of_id if by == "id" else of_name


def _columns(sets: list[list[Stated]], key: _Key) -> Columns:
    lengths: Ints = np.array([len(triplets) for triplets in sets], np.int64)
    flat = [triplet for triplets in sets for triplet in triplets]
    return lengths, *(pa.array([key(triplet[part]) for triplet in flat], pa.string()) for part in range(3))


def _batches(records: list[FileRecord], key: _Key) -> Iterator[Columns]:
    walk = iter(record.gold or record.predicted or [] for record in records)
    while batch := list(islice(walk, _BATCH)):
        yield _columns(batch, key)


def _names(*corpora: list[list[Stated]], key: _Key) -> dict[str, str]:
    """Key -> name; what gold calls it comes first."""
    names: dict[str, str] = {}
    for corpus in corpora:
        for item in _items(corpus):
            if item[1]:
                names.setdefault(key(item), item[1])
    return names


def _refuse_strangers(corpus: Corpus, by: By, paths: Mapping[str, Path]) -> None:
    """Predictions that share no node with gold are ids held against names, or the like.

    A bad extractor shares none either; its nodes have ids and its relations are gold's.
    """
    nodes = set(np.concatenate([corpus.gold.subject, corpus.gold.object]).tolist())
    relations = set(corpus.gold.relation.tolist())
    for name, system in corpus.systems.items():
        found = set(np.concatenate([system.sets.subject, system.sets.object]).tolist())
        is_bad_only = bool(relations & set(system.sets.relation.tolist())) and any(
            is_known(corpus.gold.nodes[node]) for node in found
        )
        if nodes and found and not nodes & found and not (by == "id" and is_bad_only):
            example, other = corpus.gold.nodes[min(nodes)], corpus.gold.nodes[min(found)]
            raise InputError(
                f"No node that {paths[name]} predicts occurs in gold, compared by {by}: it has {other!r}, gold has "
                f"{example!r}. Compare by what both have with --by id or --by name."
            )
