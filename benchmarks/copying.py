"""Does a small extractor read names, or does it know pairs by heart? The demo's model on pairs that it has never seen.

Some test sets of a run are held out with all their pairs of subject and object: the extractor is trained on the records
that have none of these pairs, in either direction. Reported are micro F1 on these sets and on others of the test split,
with the constraint and without, and how long the training took. Where records are copied with exchanged entities
(extractor.swapped_copies) a copy may have one of these pairs; sets without such a pair are reported by themselves.

    python benchmarks/copying.py [--run data/runs/demo] [--sets 150] [--set steps=2000 swapped_copies=0 …]
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from kg.stage import run_stage
from synthie.config import ExtractorConfig
from synthie.extractor.examples import Examples, split_files
from synthie.extractor.predict import Extractor
from synthie.extractor.prepare import prepare
from synthie.extractor.presets import resolve
from synthie.extractor.train import train_extractor
from synthie.extractor.world import World

SEED = 1
Key = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("data/runs/demo"))
    parser.add_argument("--sets", type=int, default=150, help="held-out sets, and as many others")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of the extractor")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    config = ExtractorConfig.model_validate({"device": "cpu", "trackers": []} | dict(map(_option, args.set)))
    settings = resolve(config)
    test = [*_records(args.run / "dataset", "test")]
    random.Random(SEED).shuffle(test)
    candidates, others = test[: args.sets], test[args.sets : 2 * args.sets]
    held = _pairs(candidates)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kept = without(args.run / "dataset", held, folder / "dataset")
        examples = folder / "examples"
        examples.mkdir()
        prepare(settings, args.run / "kg", folder / "dataset", examples, seed=SEED)  # as training does it
        known = held & _trained_pairs(examples)
        unseen = [record for record in candidates if not _pairs([record]) & known]
        start = time.perf_counter()
        train_extractor(config, args.run / "kg", folder / "dataset", folder / "extractor", seed=SEED)
        minutes = (time.perf_counter() - start) / 60
        print(
            f"{kept:,} records without {len(held) // 2:,} pairs; {settings.steps:,} steps in {minutes:.1f} minutes; "
            f"{len(unseen)} of {len(candidates)} held-out sets have no pair that a copy with exchanged entities has"
        )
        extractor = Extractor.open(folder / "extractor", device="cpu")
        for name, records in (("other test sets", others), ("held-out sets", candidates), ("without copies'", unseen)):
            figures = [micro_f1(extractor, records, constrained=constrained) for constrained in (True, False)]
            print(f"{name:17} micro-F1 {figures[0]:.3f} constrained, {figures[1]:.3f} unconstrained")


def without(dataset: Path, held: set[tuple[str, str]], folder: Path) -> int:
    """Write train and validation without the records that have a held pair; returns how many are left to train on."""

    def work(folder: Path) -> dict[str, Any]:
        (folder / "data").mkdir()
        for split in ("train", "validation"):
            table = pa.concat_tables(pq.read_table(file) for file in split_files(dataset, split))
            free = [not _pairs([("", _keys(triplets))]) & held for triplets in table["triplets"].to_pylist()]
            pq.write_table(table.filter(pa.array(free)), folder / "data" / f"{split}-00000.parquet")
        return {}

    run_stage("dataset", folder, config={}, inputs={}, seed=SEED, work=work)
    return pq.read_metadata(folder / "data" / "train-00000.parquet").num_rows


def micro_f1(extractor: Extractor, records: list[tuple[str, frozenset[Key]]], *, constrained: bool) -> float:
    found = extractor.extract([text for text, _ in records], constrained=constrained, spans=False)
    predicted = [{triplet.key for triplet in prediction.triplets} for prediction in found]
    right = sum(len(gold & said) for (_, gold), said in zip(records, predicted, strict=True))
    return 2 * right / max(1, sum(map(len, predicted)) + sum(len(gold) for _, gold in records))


def _trained_pairs(examples: Path) -> set[tuple[str, str]]:
    """The pairs in the training examples, in both directions."""
    world, targets = World.open(examples), Examples.open(examples / "train").targets
    ids = world.nodes["id"].to_pylist()
    stated = (
        (ids[subject], ids[target])
        for row in range(len(targets))
        for subject, _, target in world.parse(targets[row].tolist())
    )
    return {pair for one, other in stated for pair in ((one, other), (other, one))}


def _records(dataset: Path, split: str) -> Iterator[tuple[str, frozenset[Key]]]:
    for file in split_files(dataset, split):
        table = pq.read_table(file, columns=["text", "triplets"])
        for text, triplets in zip(table["text"].to_pylist(), table["triplets"].to_pylist(), strict=True):
            if triplets:
                yield text, _keys(triplets)


def _keys(triplets: list[dict[str, Any]]) -> frozenset[Key]:
    return frozenset((each["subject"]["uri"], each["predicate"]["uri"], each["object"]["uri"]) for each in triplets)


def _pairs(records: Iterable[tuple[str, frozenset[Key]]]) -> set[tuple[str, str]]:
    """Subject and object of all triplets, in both directions."""
    return {pair for _, keys in records for one, _, other in keys for pair in ((one, other), (other, one))}


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, yaml.safe_load(value)


if __name__ == "__main__":
    main()
