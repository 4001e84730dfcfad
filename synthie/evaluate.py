"""Predictions against the data set: metrics with intervals, errors with examples, the report.

In: the data set and the predictions of one of its splits, with and without the
constraint. Out: ``metrics.json`` (everything), ``report.md``, ``report.html`` and
``figures/*.png``. Ids decide about equality; names are for reading. Only the
records that have predictions are evaluated. The metrics are in
`synthie.metrics`, what the report looks like in `synthie.report`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq

from kg.stage import Manifest, read_manifest, run_stage, write_atomic
from synthie.config import EvaluationConfig
from synthie.errors import InputError
from synthie.metrics import (
    ERRORS,
    Counts,
    Estimate,
    Floats,
    Ints,
    TripletSets,
    bootstrap,
    count_by_record,
    count_by_triplet,
    count_exact,
    count_false_alarms,
    encode,
    estimate,
    find_errors,
    frequency_bucket,
    parts,
    scores,
)
from synthie.records import PREDICTION_SCHEMA
from synthie.report import write_report

__all__ = ["MODES", "evaluate_predictions"]

MODES = ("constrained", "unconstrained")

_PARTS = ("subject", "predicate", "object")
_EXAMPLES = 3
_BATCH_ROWS = 50_000
_MEASURES = ("precision", "recall", "f1")


def evaluate_predictions(
    config: EvaluationConfig,
    dataset: Path,
    predictions: Path,
    folder: Path,
    *,
    seed: int,
    extractor: Path | None = None,
) -> Manifest:
    """Compare predictions with the split they were made for and write the report to ``folder``.

    Args:
        config: resamples and confidence of the intervals.
        dataset, predictions: finished folders of these stages.
        folder: where the report goes.
        seed: the first resample's seed.
        extractor: folder of the extractor; its training curve enters the report.

    Raises:
        InputError: an input is not finished, a file is missing or not what it should be, there are no
            predictions, or they are of other records than the data set's.
    """
    inputs = {"dataset": dataset, "predictions": predictions} | ({"extractor": extractor} if extractor else {})
    manifests = {name: read_manifest(path) for name, path in inputs.items()}

    def work(folder: Path) -> dict[str, Any]:
        metrics = _metrics(config, _read(dataset, predictions), seed)
        metrics["data"] |= {"name": str(manifests["dataset"].config.get("name", dataset.name))}
        metrics["training"] = _training(extractor)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
        write_report(metrics, folder)
        return _counts(metrics)

    return run_stage(
        "report",
        folder,
        config=config.fingerprinted(),
        inputs={name: manifest.output_hash for name, manifest in manifests.items()},
        seed=seed,
        work=work,
    )


# --- Inputs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inputs:
    """What is evaluated, with common codes.

    Attributes:
        split: name of the split.
        records_in_split: how many records it has.
        ids, texts: of the evaluated records.
        models: model that wrote the texts -> evaluated records.
        gold, predicted: their triplet sets, predicted by mode.
        frequency: int64[relations], training triplets with the relation.
        seen: int64[pairs], subject · nodes + object of the pairs of nodes that occur in training, sorted.
        names: id -> name, of nodes and relations.
        training_records: how many records the training split has.
    """

    split: str
    records_in_split: int
    ids: list[int]
    texts: list[str]
    models: dict[str, int]
    gold: TripletSets
    predicted: dict[str, TripletSets]
    frequency: Ints
    seen: Ints
    names: dict[str, str]
    training_records: int


def _read(dataset: Path, predictions: Path) -> _Inputs:
    tables = {mode: _read_predictions(predictions / f"{mode}.parquet") for mode in MODES}
    ids = tables["constrained"]["id"]
    if not ids.equals(tables["unconstrained"]["id"]):
        raise InputError(
            f"The two files in {predictions} hold predictions for different records, so they cannot be compared. "
            "Delete the folder and predict again."
        )
    split, gold_table = _find_split(dataset, predictions, ids)
    records_in_split = gold_table.num_rows
    gold_table = gold_table.take(pc.index_in(ids, value_set=gold_table["id"]))
    columns = [_flat(table["triplets"]) for table in (gold_table, *tables.values())]
    gold, *predicted = encode(columns)
    training = _read_training(dataset, gold)
    names = dict(training.names)
    for table in (*tables.values(), gold_table):
        names |= _names(table["triplets"])
    return _Inputs(
        split=split,
        records_in_split=records_in_split,
        ids=ids.to_pylist(),
        texts=gold_table["text"].to_pylist(),
        models=dict(Counter(gold_table["model"].to_pylist()).most_common()),
        gold=gold,
        predicted=dict(zip(MODES, predicted, strict=True)),
        frequency=training.frequency,
        seen=training.seen,
        names=names,
        training_records=training.records,
    )


def _read_predictions(path: Path) -> pa.Table:
    """The predictions sorted by id."""
    try:
        table = pq.read_table(path, columns=["id", "triplets"])
        table = table.cast(pa.schema([PREDICTION_SCHEMA.field("id"), PREDICTION_SCHEMA.field("triplets")]))
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Predict the split again.") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a file of predictions ({error}). Predict the split again.") from error
    if table.num_rows == 0:
        raise InputError(f"{path} holds no predictions, so there is nothing to evaluate. Predict at least one record.")
    if pc.count_distinct(table["id"]).as_py() != table.num_rows:
        raise InputError(f"{path} holds several predictions for one record. Delete the folder and predict again.")
    return table.sort_by("id")


def _find_split(dataset: Path, predictions: Path, ids: pa.ChunkedArray) -> tuple[str, pa.Table]:
    """The split that has all the ids, and its records."""
    for split in ("test", "validation"):
        paths = sorted((dataset / "data").glob(f"{split}-*.parquet"))
        if paths:
            table = arrow_dataset.dataset([str(path) for path in paths]).to_table(
                columns=["id", "text", "triplets", "model"]
            )
            if pc.all(pc.is_in(ids, value_set=table["id"])).as_py():
                return split, table
    raise InputError(
        f"The predictions in {predictions} are for records that neither the test nor the validation split of {dataset} "
        "has: they were made from another data set. Predict again."
    )


@dataclass(frozen=True)
class _Training:
    records: int
    frequency: Ints
    seen: Ints
    names: dict[str, str]


def _read_training(dataset: Path, gold: TripletSets) -> _Training:
    """What of the evaluated records is known from training; reads the training split batch by batch."""
    nodes, relations = pa.array(gold.nodes, pa.string()), pa.array(gold.relations, pa.string())
    frequency = np.zeros(len(gold.relations), np.int64)
    seen = np.empty(0, np.int64)
    names: dict[str, str] = {}
    records = 0
    for batch in _training_batches(dataset):
        _, subjects, predicates, objects = _flat(batch["triplets"])
        codes = [pc.index_in(values, value_set=nodes).fill_null(-1).to_numpy() for values in (subjects, objects)]
        known = (codes[0] >= 0) & (codes[1] >= 0)
        pairs = codes[0][known].astype(np.int64) * len(gold.nodes) + codes[1][known]
        seen = np.union1d(seen, pairs)
        relation = pc.index_in(predicates, value_set=relations).fill_null(-1).to_numpy()
        frequency += np.bincount(relation[relation >= 0], minlength=len(frequency))
        names |= _names(batch["triplets"], parts=("predicate",))
        records += len(batch)
    return _Training(records, frequency, seen, names)


def _training_batches(dataset: Path) -> Iterator[pa.Table]:
    paths = sorted((dataset / "data").glob("train-*.parquet"))
    if not paths:
        raise InputError(f"{dataset} has no training split (data/train-*.parquet). Build the data set again.")
    source = arrow_dataset.dataset([str(path) for path in paths])
    for batch in source.to_batches(columns=["triplets"], batch_size=_BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _flat(triplets: pa.ChunkedArray) -> tuple[Ints, pa.Array, pa.Array, pa.Array]:
    """Lengths of the lists, and the flat ids of subjects, relations and objects.

    What an unconstrained model invented has no id and is told apart by its name.
    """
    lengths = pc.fill_null(pc.list_value_length(triplets), 0).to_numpy().astype(np.int64)
    flat = pc.list_flatten(triplets).combine_chunks()
    ids = []
    for part in _PARTS:
        uri = pc.fill_null(pc.struct_field(flat, [part, "uri"]), "")
        name = pc.fill_null(pc.struct_field(flat, [part, "surfaceform"]), "")
        ids.append(pc.if_else(pc.equal(uri, ""), pc.binary_join_element_wise(_UNKNOWN, name, ""), uri))
    return lengths, *ids


_UNKNOWN = "?"  # no id begins so


def _names(triplets: pa.ChunkedArray, parts: tuple[str, ...] = _PARTS) -> dict[str, str]:
    """Id -> name, of what has an id."""
    flat = pc.list_flatten(triplets).combine_chunks()
    names: dict[str, str] = {}
    for part in parts:
        pairs = pa.table({column: pc.struct_field(flat, [part, column]) for column in ("uri", "surfaceform")})
        unique = pairs.group_by("uri").aggregate([("surfaceform", "min")])
        names |= dict(zip(unique["uri"].to_pylist(), unique["surfaceform_min"].to_pylist(), strict=True))
    return names


def _training(extractor: Path | None) -> dict[str, Any] | None:
    """The curve and the speed from the extractor's ``training.json``."""
    if extractor is None:
        return None
    try:
        training = json.loads((extractor / "training.json").read_bytes())
        return {
            "train": [{"step": point["step"], "loss": point["loss"]} for point in training["train"]],
            "validation": [{"step": point["step"], "loss": point["loss"]} for point in training["validation"]],
            "best_step": training["best_step"],
            "preset": training["settings"],
            "device": training["device"],
            "seconds": training["seconds"],
            "tokens_per_second": training["tokens_per_second"],
        }
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{extractor / 'training.json'} is damaged ({type(error).__name__}: {error}). Train the extractor again."
        ) from error


# --- Metrics --------------------------------------------------------------------------------------------------------


def _metrics(config: EvaluationConfig, inputs: _Inputs, seed: int) -> dict[str, Any]:
    """The content of ``metrics.json`` but for the training curve."""
    gold = inputs.gold
    return {
        "data": {
            "split": inputs.split,
            "records": gold.records,
            "records_in_split": inputs.records_in_split,
            "negatives": gold.records - len(np.unique(gold.record)),
            "gold_triplets": len(gold),
            "relations": len(np.unique(gold.relation)),
            "training_records": inputs.training_records,
            "models": inputs.models,
        },
        "settings": {"resamples": config.bootstrap, "confidence": config.confidence, "seed": seed},
        "modes": {mode: _mode_metrics(config, inputs, mode, seed) for mode in MODES},
    }


def _mode_metrics(config: EvaluationConfig, inputs: _Inputs, mode: str, seed: int) -> dict[str, Any]:
    gold, predicted = inputs.gold, inputs.predicted[mode]

    def judged(counts: Counts) -> _Judged:
        return _Judged(counts, config, seed)

    buckets = frequency_bucket(inputs.frequency)
    by_relation = count_by_triplet(gold, predicted, gold.relation, predicted.relation)
    by_frequency = count_by_triplet(gold, predicted, buckets[gold.relation], buckets[predicted.relation])
    by_size = count_by_record(gold, predicted, np.bincount(gold.record, minlength=gold.records))
    by_pair = count_by_triplet(gold, predicted, _seen(inputs, gold), _seen(inputs, predicted))
    false_alarms = count_false_alarms(gold, predicted)
    relations = judged(by_relation)
    return {
        "predicted_triplets": len(predicted),
        "unknown": int(_unknown(predicted).sum()),
        "micro": judged(count_by_record(gold, predicted)).groups()[0],
        "macro": relations.mean() | {"relations": len(by_relation.groups)},
        "exact": judged(count_exact(gold, predicted)).groups()[0]["precision"],
        "false_alarms": next((group["precision"] for group in judged(false_alarms).groups()), None),
        "entities": judged(count_by_record(parts(gold, "nodes"), parts(predicted, "nodes"))).groups()[0],
        "relations": judged(count_by_record(parts(gold, "relations"), parts(predicted, "relations"))).groups()[0],
        "by_frequency": [
            {"from": int(2 ** (bucket - 1)) if bucket else 0, "to": int(2**bucket) - 1} | figures
            for bucket, figures in zip(by_frequency.groups.tolist(), judged(by_frequency).groups(), strict=True)
        ],
        "by_size": [
            {"triplets": size} | figures
            for size, figures in zip(by_size.groups.tolist(), judged(by_size).groups(), strict=True)
            if size  # the scores of records without gold triplets are 0 whatever is predicted: see false_alarms
        ],
        "by_pair": [
            {"pair": "seen" if seen else "unseen"} | figures
            for seen, figures in zip(by_pair.groups.tolist(), judged(by_pair).groups(), strict=True)
        ],
        "errors": _errors(inputs, predicted),
        "by_relation": _relation_table(inputs, by_relation.groups, relations),
    }


class _Judged:
    """The scores of groups with their intervals, as JSON-ready data."""

    def __init__(self, counts: Counts, config: EvaluationConfig, seed: int) -> None:
        self._counts = counts
        self._confidence = config.confidence
        self._resampled = bootstrap(counts, resamples=config.bootstrap, seed=seed)

    def groups(self) -> list[dict[str, Any]]:
        """For each group its records, counts and scores."""
        sums, records = self._counts.sums(), np.diff(self._counts.offsets)
        return [
            {
                "records": int(records[group]),
                **dict(zip(("correct", "predicted", "gold"), sums[group].tolist(), strict=True)),
                **self._estimates(scores(sums[group]), self._resampled[:, group]),
            }
            for group in range(len(records))
        ]

    def mean(self) -> dict[str, Any]:
        """Mean scores over the groups; the resamples were taken inside each group."""
        if len(self._counts.groups) == 0:
            return {measure: asdict(Estimate(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)) for measure in _MEASURES}
        return self._estimates(scores(self._counts.sums()).mean(axis=0), self._resampled.mean(axis=1))

    def _estimates(self, values: Floats, resampled: Floats) -> dict[str, Any]:
        return {
            measure: asdict(estimate(float(values[column]), resampled[:, column], self._confidence))
            for column, measure in enumerate(_MEASURES)
        }


def _seen(inputs: _Inputs, sets: TripletSets) -> Ints:
    """1 for triplets whose pair of subject and object occurs in training, in this order; else 0."""
    return np.isin(sets.subject * len(sets.nodes) + sets.object, inputs.seen).astype(np.int64)


def _unknown(sets: TripletSets) -> np.ndarray:
    """bool[t]: triplets with a part that the graph does not have."""
    nodes = np.array([name.startswith(_UNKNOWN) for name in sets.nodes], bool)
    relations = np.array([name.startswith(_UNKNOWN) for name in sets.relations], bool)
    return nodes[sets.subject] | relations[sets.relation] | nodes[sets.object]


def _relation_table(inputs: _Inputs, relations: Ints, judged: _Judged) -> list[dict[str, Any]]:
    """One row a relation in gold or prediction, by training triplets, most frequent first."""
    rows = [
        {
            "id": _id(inputs.gold.relations[relation]),
            "label": _name(inputs, inputs.gold.relations[relation]),
            "training_triplets": int(inputs.frequency[relation]),
            **figures,
        }
        for relation, figures in zip(relations.tolist(), judged.groups(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-row["training_triplets"], row["label"]))


def _errors(inputs: _Inputs, predicted: TripletSets) -> dict[str, Any]:
    """For each kind of error how many there are, and examples from different records."""
    found = find_errors(inputs.gold, predicted)
    return {kind: {"count": len(found[kind]), "examples": _examples(inputs, predicted, found[kind])} for kind in ERRORS}


def _examples(inputs: _Inputs, predicted: TripletSets, pairs: Any) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = []
    shown: set[int] = set()
    for in_gold, in_predicted in zip(pairs.gold.tolist(), pairs.predicted.tolist(), strict=True):
        record = int(inputs.gold.record[in_gold] if in_gold >= 0 else predicted.record[in_predicted])
        if record in shown:
            continue
        shown.add(record)
        examples.append(
            {
                "id": inputs.ids[record],
                "text": inputs.texts[record],
                "gold": _readable(inputs, inputs.gold, in_gold),
                "predicted": _readable(inputs, predicted, in_predicted),
            }
        )
        if len(examples) == _EXAMPLES:
            break
    return examples


def _readable(inputs: _Inputs, sets: TripletSets, row: int) -> list[str] | None:
    return [_name(inputs, part) for part in sets.key(row)] if row >= 0 else None


def _id(key: str) -> str:
    return "" if key.startswith(_UNKNOWN) else key


def _name(inputs: _Inputs, key: str) -> str:
    """A name for reading: spaces for underscores."""
    name = key.removeprefix(_UNKNOWN) if key.startswith(_UNKNOWN) else inputs.names.get(key, key)
    return name.replace("_", " ")


def _counts(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "records": metrics["data"]["records"],
        "gold_triplets": metrics["data"]["gold_triplets"],
        **{
            mode: {
                "micro_f1": round(figures["micro"]["f1"]["value"], 6),
                "macro_f1": round(figures["macro"]["f1"]["value"], 6),
                "exact": round(figures["exact"]["value"], 6),
                **({"false_alarms": round(alarms["value"], 6)} if (alarms := figures["false_alarms"]) else {}),
            }
            for mode, figures in metrics["modes"].items()
        },
    }
