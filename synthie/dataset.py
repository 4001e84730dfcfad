"""Accepted samples → a published data set: Parquet shards, JSONL, statistics, card.

In: the texts folder with its samples and what judges and people say of them, the folders it came from, and the data
set that it continues, if any. Out: a folder that `datasets.load_dataset` reads as it is, with the same records in
SynthIE's JSONL form, ``statistics.json``, and a card that says how the data were made. Rows stream; the rooms of
`synthie.publishing` do the work.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.stage import Manifest, read_manifest, run_stage, write_atomic
from synthie.config import DatasetConfig
from synthie.errors import InputError
from synthie.judging.reading import estimates, require_current
from synthie.publishing.card import Origin, write_card
from synthie.publishing.earlier import Earlier, RepeatPolicy, Repeats
from synthie.publishing.rows import DATASET_SCHEMA, Verdicts, published_rows, verdict_inputs
from synthie.publishing.shards import Shard, ShardWriter, clear_shards, link_shards
from synthie.publishing.statistics import gate_figures, merge_gate_figures, split_statistics
from synthie.publishing.versions import VERSIONS, next_versions, read_versions, write_versions
from synthie.publishing.withholding import withhold
from synthie.records import SPLITS, WITHHELD

__all__ = ["DATASET_SCHEMA", "build_dataset"]


def build_dataset(
    config: DatasetConfig,
    graph: Path,
    sets: Path,
    texts: Path,
    folder: Path,
    *,
    judge: Path | None = None,
    seed: int = 0,
) -> Manifest:
    """Publish the accepted samples of ``texts`` in ``folder``.

    Leaves ``data/<split>-<number>.parquet`` (`DATASET_SCHEMA`), ``<split>.jsonl.gz`` (one ``{id, text, triplets,
    entities, relations}`` a line, names and ids as ``surfaceform`` and ``uri``), ``statistics.json``, ``README.md``,
    ``coverage.png``, and ``versions.json`` for the next build. Files do not depend on the clock, except for what the
    card tells of the texts' manifest.

    Args:
        config: name, licence, what is withheld, what becomes of faulty texts, what is continued.
        graph, sets, texts: folders of the earlier stages.
        folder: where the data set goes.
        judge: folder of the judge stage, which may not have run.
        seed: decides what is withheld.

    Raises:
        ConfigError: ``config.continue_from`` names no data set of this graph, or one whose sets these do not continue.
        InputError: an earlier stage is not finished, judging was begun and is not or is behind the texts, a split has
            no accepted text, two splits share a set, or a split of unseen things has seen ones.
        StorageError: ``folder`` cannot be written.
    """
    manifests = {name: read_manifest(path) for name, path in (("graph", graph), ("sets", sets), ("texts", texts))}
    earlier = None
    if config.continue_from is not None:
        earlier = Earlier.read(Path(config.continue_from), manifests["graph"].output_hash, folder)
    if judge is not None:
        require_current(judge, texts)

    def work(folder: Path) -> dict[str, Any]:
        origin = Origin(graph=graph, sets=sets, texts=texts, manifests=manifests, judge=judge)
        return _build(config, origin, earlier, folder, seed)

    return run_stage(
        "dataset",
        folder,
        config=config.fingerprinted() | (RepeatPolicy.of(manifests["texts"]).settings() if earlier else {}),
        inputs={
            **{name: manifest.output_hash for name, manifest in manifests.items()},
            **verdict_inputs(texts, judge),
            **({"continue_from": earlier.output_hash} if earlier else {}),
        },
        seed=seed if config.withheld_share or config.withheld_test else None,
        work=work,
        keep=(VERSIONS,),
    )


def _build(config: DatasetConfig, origin: Origin, earlier: Earlier | None, folder: Path, seed: int) -> dict[str, Any]:
    verdicts, quality = Verdicts.read(origin.texts, origin.judge), gate_figures(origin.texts)
    drawn = _drawn(origin.sets)
    clear_shards(folder)
    old = earlier.shards if earlier else []
    repeats = Repeats()
    if earlier:
        earlier.require_new(origin.sets)
        link_shards(earlier.folder, old, folder)
        repeats = Repeats.find(earlier, origin.texts, RepeatPolicy.of(origin.manifests["texts"]), folder)
    writers = _write_records(config, origin.texts, verdicts, repeats, folder, drawn, old, seed)
    _require_records(writers, drawn, quality, verdicts, repeats, has_earlier=earlier is not None)
    new = [shard for writer in writers.values() for shard in writer.shards]
    shards = sorted([*old, *new], key=lambda shard: (SPLITS.index(shard.split), shard.number))
    if config.withheld_test:
        _require_withheld(shards)
    before = earlier.statistics if earlier else None
    told = _told(origin, quality, verdicts, drawn, {split: writer.records for split, writer in writers.items()})
    history, last = read_versions(folder, before)
    versions = next_versions(history, last, shards, told)
    if before:
        quality = merge_gate_figures([before["quality"], quality])
        drawn = dict(Counter({split: figures["sets"] for split, figures in before["splits"].items()}) + Counter(drawn))
    statistics: dict[str, Any] = {
        "version": versions[-1]["version"],
        "versions": versions,
        **split_statistics(folder, shards, drawn | {WITHHELD: 0}),
        "quality": quality,
        "spent_usd": told["usd"] + (earlier.spent_usd if earlier else 0.0),
        "judged_usd": origin.judged_usd + (earlier.statistics.get("judged_usd", 0.0) if earlier else 0.0),
        "spent_usd_is_all": earlier is None or earlier.is_cost_known,
        "verdicts": _verdict_figures(verdicts, repeats, before, faulty=config.judged_faulty),
        "estimates": _estimates(origin.judge),
        "coverage": json.loads((origin.sets / "coverage.json").read_text(encoding="utf-8")),
        "last_id": max(writer.last_id for writer in writers.values()),
        "shards": [shard.to_json() for shard in shards],
    }
    write_atomic(folder / "statistics.json", json.dumps(statistics, indent=1, ensure_ascii=False) + "\n")
    shutil.copyfile(origin.sets / "coverage.png", folder / "coverage.png")
    write_card(config, origin, statistics, folder)
    write_versions(folder, versions, shards)
    return {
        "records": {split: figures["records"] for split, figures in statistics["splits"].items()},
        "published": sum(figures["records"] for figures in statistics["splits"].values()),
        "checked": quality["checked"],
        "rejected": quality["rejected"],
    }


def _write_records(
    config: DatasetConfig,
    texts: Path,
    verdicts: Verdicts,
    repeats: Repeats,
    folder: Path,
    drawn: Mapping[str, int],
    old: list[Shard],
    seed: int,
) -> dict[str, ShardWriter]:
    splits = [*drawn, *([WITHHELD] if config.withheld_test and "test" in drawn else [])]
    first = {split: sum(shard.split == split for shard in old) for split in splits}
    writers = {split: ShardWriter(folder, split, first[split]) for split in splits}
    for rows in published_rows(texts, verdicts, config.judged_faulty):
        for split, part in _routed(config, repeats.sift(rows, verdicts.accepted_by_hand), splits, seed):
            writers[split].add(part)
    for writer in writers.values():
        writer.close()
    return writers


def _routed(config: DatasetConfig, rows: pa.Table, splits: list[str], seed: int) -> Iterator[tuple[str, pa.Table]]:
    for split in splits:
        part = rows.filter(pc.equal(rows["split"], "test" if split == WITHHELD else split))
        if split == WITHHELD:
            part = withhold(part, 1.0, seed, only=True)
            index = part.schema.get_field_index("split")
            part = part.set_column(index, part.schema.field(index), pa.array([WITHHELD] * len(part), pa.string()))
        elif split == "train" and config.withheld_share:
            part = withhold(part, config.withheld_share, seed)
        yield split, part


def _drawn(sets: Path) -> dict[str, int]:
    """Splits that the sets have, in the usual order -> number of sets."""
    column = pq.read_table(sets / "sets.parquet", columns=["split"])["split"]
    counts = {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
    return {split: counts[split] for split in SPLITS if split in counts}


def _require_records(
    writers: Mapping[str, ShardWriter],
    drawn: Mapping[str, int],
    quality: Mapping[str, Any],
    verdicts: Verdicts,
    repeats: Repeats,
    *,
    has_earlier: bool,
) -> None:
    """Every split has a record; where earlier data are continued it is enough that one has."""
    empty = [split for split, writer in writers.items() if not writer.records and split != WITHHELD]
    if not empty or (has_earlier and len(empty) < len(drawn)):
        return
    split = empty[0]
    rejected = quality["splits"].get(split, {"rejected": 0, "reasons": {}})
    reasons = ", ".join(f"{check} {count:,}" for check, count in rejected["reasons"].items()) or "none"
    count = rejected["rejected"]
    others = ""
    if verdicts.faulty or verdicts.removed:
        others = f"Of all splits, judges objected to {verdicts.faulty:,} texts and people to {verdicts.removed:,}. "
    if repeats.left_out:
        others += f"{repeats.left_out:,} texts repeat those of the data set that is continued. "
    raise InputError(
        f"The {split} split has no accepted text: of {drawn[split]:,} triplet sets, {count:,} texts "
        f"were rejected (reasons: {reasons}) and {drawn[split] - count:,} were not written or not kept. {others}Read "
        "the details in texts/rejected, then mend the prompt, choose another model, loosen the quality options or "
        "draw more sets (sampling.n_sets). Texts that are paid for are not asked for again."
    )


def _require_withheld(shards: Sequence[Shard]) -> None:
    if not any(shard.split == WITHHELD for shard in shards):
        raise InputError(
            f"The split {WITHHELD} would be empty: no text of test has several triplets of which some lack an entity "
            "of the others. Draw more or larger sets (sampling), or unset dataset.withheld_test."
        )


def _told(
    origin: Origin, quality: Mapping[str, Any], verdicts: Verdicts, drawn: Mapping[str, int], added: dict[str, int]
) -> dict[str, Any]:
    """What the history says of this build."""
    return {
        "date": origin.manifests["texts"].finished[:10],
        "sets": sum(drawn.values()),
        "added": added,
        "checked": quality["checked"],
        "usd": origin.spent_usd(quality["tokens"]["usd"]),
        "models": origin.models,
        "prompt": origin.generation["prompt"],
        "prompt_hash": origin.manifests["texts"].inputs["prompt"],
        "removed_by_hand": verdicts.removed,
    }


def _verdict_figures(
    verdicts: Verdicts, repeats: Repeats, before: Mapping[str, Any] | None, *, faulty: str
) -> dict[str, Any]:
    figures = {
        "judged_faulty": verdicts.faulty,
        "accepted_by_hand": verdicts.brought_back,
        "rejected_by_hand": verdicts.removed,
        "repeats_left_out": repeats.left_out,
        "repeats_flagged": repeats.kept,
    }
    earlier = before["verdicts"] if before else {}
    return {name: count + earlier.get(name, 0) for name, count in figures.items()} | {"faulty_are": faulty}


def _estimates(judge: Path | None) -> dict[str, Any] | None:
    """The judges' word on this run's texts; None where none was given."""
    if judge is None or not (judge / "manifest.json").exists():
        return None
    return estimates(judge)
