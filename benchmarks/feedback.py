"""Do sets drawn for what an extractor gets wrong help it more than as many sets drawn without that knowledge?

One loop from a finished run: its extractor reads the validation split; the report's weak relations and entities weigh
the draw of more sets; texts are generated for them, added to the data set, and an extractor is trained on all of it.
Beside it the same with as many sets drawn without weights. Both are told on the test records of the finished run, which
neither the tables nor the trainings have seen.

    python benchmarks/feedback.py [--run data/runs/demo] [--config FILE] [--sets 1000] [--seeds 1]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from synthie.config import RunConfig, load_config
from synthie.evaluation.scores import macro, micro
from synthie.evaluation.triplets import triplet_sets
from synthie.extractor.examples import split_files
from synthie.extractor.predict import Extractor
from synthie.pipeline import Run

Key = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("data/runs/demo"))
    parser.add_argument("--config", type=Path, help="the configuration of the run, if it has one")
    parser.add_argument("--sets", type=int, default=1000, help="sets that are added")
    parser.add_argument("--seeds", type=int, default=1, help="how often both arms are drawn and trained")
    parser.add_argument("--records", type=int, default=1500, help="most test records")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    base = args.run.resolve()
    config = load_config(args.config)
    texts, gold = _test(base / "dataset", args.records)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _tell("before", gold, _read(base / "extractor", texts))
        tables = _weak(config, base, folder / "validation")
        for seed in range(1, args.seeds + 1):
            for arm, factors in (("without factors", {}), ("with factors", tables)):
                start = time.perf_counter()
                run = _added(config, base, folder / f"{arm}-{seed}", args.sets, seed, factors)
                records = sum(pq.read_metadata(file).num_rows for file in split_files(run.dataset, "train"))
                _tell(f"{arm}, seed {seed}", gold, _read(run.extractor, texts))
                print(f"    {records:,} training records, {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


def _weak(config: RunConfig, base: Path, folder: Path) -> dict[str, str]:
    """The options of the sampler that name the tables of what the run's extractor gets wrong in validation."""
    prediction = config.prediction.model_copy(update={"split": "validation"})
    run = _linked(config.model_copy(update={"prediction": prediction}), base, folder, "dataset", "extractor")
    run.predict_split()
    run.evaluate_predictions()
    return {f"{what}_factors": str(run.report / f"weak_{many}.txt") for what, many in _TABLES.items()}


_TABLES = {"relation": "relations", "entity": "entities"}


def _added(config: RunConfig, base: Path, folder: Path, sets: int, seed: int, factors: dict[str, str]) -> Run:
    sampling = {"n_sets": sets, "continue_from": str(base / "sets"), **factors}
    parts = {
        "seed": seed,
        "sampling": config.sampling.model_copy(update=sampling),
        "dataset": config.dataset.model_copy(update={"continue_from": str(base / "dataset")}),
    }
    run = _linked(config.model_copy(update=parts), base, folder)
    run.sample_sets()
    run.generate_texts()
    if config.judge.judges:
        run.judge_texts()
    run.build_dataset()
    run.train_extractor()
    return run


def _linked(config: RunConfig, base: Path, folder: Path, *stages: str) -> Run:
    """A new run on the graph of the finished one, with its results of other stages where they are named."""
    folder.mkdir()
    for stage in ("kg", *stages):
        (folder / stage).symlink_to(base / stage)
    return Run(config.model_copy(update={"run": str(folder)}))


def _test(dataset: Path, most: int) -> tuple[list[str], list[set[Key]]]:
    tables = [pq.read_table(file, columns=["text", "triplets"]) for file in split_files(dataset, "test")]
    rows = [row for table in tables for row in table.to_pylist()][:most]
    return [row["text"] for row in rows], [{_key(triplet) for triplet in row["triplets"]} for row in rows]


def _key(triplet: dict[str, Any]) -> Key:
    return triplet["subject"]["uri"], triplet["predicate"]["uri"], triplet["object"]["uri"]


def _read(extractor: Path, texts: list[str]) -> list[set[Key]]:
    found = Extractor.open(extractor, device="cpu").extract(texts, spans=False)
    return [{triplet.key for triplet in prediction.triplets} for prediction in found]


def _tell(name: str, gold: list[set[Key]], predicted: list[set[Key]]) -> None:
    truth, said = triplet_sets(gold, predicted)
    print(f"{name:24} macro-F1 {macro(truth, said).f1:.4f}, micro-F1 {micro(truth, said).f1:.4f}", flush=True)


if __name__ == "__main__":
    main()
