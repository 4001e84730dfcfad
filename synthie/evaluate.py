"""Predictions against the data set: metrics with intervals, errors with examples, the report.

In: the data set and the predictions of one of its splits, with and without the
constraint. Out: ``metrics.json`` (everything), ``report.md``, ``report.html``,
``figures/*.png``, and the tables of weak relations and entities that the sampler
reads. Ids decide about equality; names are for reading. Only the records that
have predictions are evaluated. What is computed, and how, is in
`synthie.evaluation`; this is the stage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq

from kg.stage import Manifest, file_digest, read_manifest, run_stage, write_atomic
from kg.tables import SUBPROPERTIES
from synthie.config import EvaluationConfig
from synthie.errors import InputError
from synthie.evaluation.analysis import analyse
from synthie.evaluation.columns import flat_columns, names_of
from synthie.evaluation.corpus import Columns, Corpus, Predicted, known_from_training
from synthie.evaluation.errors import related_relations
from synthie.evaluation.report import write_report
from synthie.evaluation.throughput import run_rows
from synthie.evaluation.triplets import encode
from synthie.evaluation.weak import write_weak
from synthie.records import PREDICTION_SCHEMA

__all__ = ["MODES", "evaluate_predictions", "read_links"]

MODES = ("constrained", "unconstrained")

_BATCH_ROWS = 50_000


def evaluate_predictions(
    config: EvaluationConfig,
    dataset: Path,
    predictions: Path,
    folder: Path,
    *,
    seed: int,
    extractor: Path | None = None,
    run: Path | None = None,
) -> Manifest:
    """Compare predictions with the split they were made for and write the report to ``folder``.

    Args:
        config: resamples and confidence of the intervals, and what else is computed.
        dataset, predictions: finished folders of these stages.
        folder: where the report goes.
        seed: the first resample's seed.
        extractor: folder of the extractor; its training curve enters the report.
        run: folder of the run; what its stages took enters the report, and the subproperties of its graph say which
            relations are related unless the config names a file.

    Raises:
        InputError: an input is not finished, a file is missing or not what it should be, there are no
            predictions, or they are of other records than the data set's.
    """
    inputs = {"dataset": dataset, "predictions": predictions} | ({"extractor": extractor} if extractor else {})
    manifests = {name: read_manifest(path) for name, path in inputs.items()}
    links = _links(config, run)
    digests = {name: manifest.output_hash for name, manifest in manifests.items()}

    def work(folder: Path) -> dict[str, Any]:
        name = str(manifests["dataset"].config.get("name", dataset.name))
        corpus = _read(name, dataset, predictions, links, split=str(manifests["predictions"].config["split"]))
        metrics = analyse(config, corpus, seed)
        metrics["training"] = _training(extractor)
        metrics["throughput"] = run_rows(run) if run else []
        metrics["weak"] = write_weak(corpus, corpus.systems["constrained"], folder, most=config.weak_factor)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
        write_report(metrics, folder)
        return _counts(metrics)

    return run_stage(
        "report",
        folder,
        config=config.fingerprinted(),
        inputs=digests | ({"related_relations": file_digest(links)} if links else {}),
        seed=seed,
        work=work,
    )


def read_links(path: Path) -> list[tuple[str, str]]:
    """The (relation, parent) pairs at the starts of the lines of a text file; blank lines and # lines are skipped.

    Raises:
        InputError: the file cannot be read, or a line has fewer than two words.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"Cannot read {path}: {reason}. It should name a relation and its parent on each line.") from (
            error
        )
    links = []
    for place, line in enumerate(lines, 1):
        # Tabs part names with spaces in them; ids may be parted by anything.
        words = [word.strip() for word in line.split("\t")] if "\t" in line else line.split()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(words) < 2:
            raise InputError(
                f"{path}, line {place}: {line.strip()[:60]!r} is not a relation and its parent, such as 'P25 P8810'. "
                "Correct the line."
            )
        links.append((words[0], words[1]))
    return links


def _links(config: EvaluationConfig, run: Path | None) -> Path | None:
    """The file that is asked for, or that of the run's graph."""
    if config.related_relations:
        return Path(config.related_relations)
    graph = run / "kg" / SUBPROPERTIES if run else None
    return graph if graph and graph.exists() else None


# --- Inputs ---------------------------------------------------------------------------------------------------------


def _read(name: str, dataset: Path, predictions: Path, links: Path | None, *, split: str) -> Corpus:
    tables = {mode: _read_predictions(predictions / f"{mode}.parquet") for mode in MODES}
    ids = tables["constrained"]["id"]
    if not ids.equals(tables["unconstrained"]["id"]):
        raise InputError(
            f"The two files in {predictions} hold predictions for different records, so they cannot be compared. "
            "Delete the folder and predict again."
        )
    gold_table = _read_gold(dataset, split)
    if not pc.all(pc.is_in(ids, value_set=gold_table["id"])).as_py():
        raise InputError(
            f"The predictions in {predictions} are for records that the {split} split of {dataset} does not have: they "
            "were made from another data set. Predict again."
        )
    records_in_split = gold_table.num_rows
    gold_table = gold_table.take(pc.index_in(ids, value_set=gold_table["id"]))
    gold, *predicted = encode([flat_columns(table["triplets"]) for table in (gold_table, *tables.values())])
    names: dict[str, str] = {}
    for table in (*tables.values(), gold_table):
        names |= names_of(table["triplets"])
    return Corpus(
        name=name,
        split=split,
        records_in_split=records_in_split,
        ids=ids.to_pylist(),
        texts=gold_table["text"].to_pylist(),
        models=dict(Counter(gold_table["model"].to_pylist()).most_common()),
        gold=gold,
        systems={
            mode: Predicted(sets, tables[mode]["score"].to_numpy().astype(float))
            for mode, sets in zip(MODES, predicted, strict=True)
        },
        training=known_from_training(_training_batches(dataset), gold),
        names=names,
        ancestors=related_relations(read_links(links)) if links else None,
    )


def _read_predictions(path: Path) -> pa.Table:
    """The predictions sorted by id."""
    columns = ["id", "triplets", "score"]
    try:
        table = pq.read_table(path, columns=columns)
        table = table.cast(pa.schema([PREDICTION_SCHEMA.field(column) for column in columns]))
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Predict the split again.") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a file of predictions ({error}). Predict the split again.") from error
    if table.num_rows == 0:
        raise InputError(f"{path} holds no predictions, so there is nothing to evaluate. Predict at least one record.")
    if pc.count_distinct(table["id"]).as_py() != table.num_rows:
        raise InputError(f"{path} holds several predictions for one record. Delete the folder and predict again.")
    return table.sort_by("id")


def _read_gold(dataset: Path, split: str) -> pa.Table:
    paths = sorted((dataset / "data").glob(f"{split}-*.parquet"))
    if not paths:
        raise InputError(f"{dataset}/data holds no {split}-*.parquet, which was predicted. Predict again.")
    return arrow_dataset.dataset([str(path) for path in paths]).to_table(columns=["id", "text", "triplets", "model"])


def _training_batches(dataset: Path) -> Iterator[Columns]:
    paths = sorted((dataset / "data").glob("train-*.parquet"))
    if not paths:
        raise InputError(f"{dataset} has no training split (data/train-*.parquet). Build the data set again.")
    source = arrow_dataset.dataset([str(path) for path in paths])
    for batch in source.to_batches(columns=["triplets"], batch_size=_BATCH_ROWS):
        yield flat_columns(pa.Table.from_batches([batch])["triplets"])


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
