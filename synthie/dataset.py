"""Accepted samples → a published data set: Parquet, JSONL, statistics, card.

In: the texts folder with its samples, and the folders it came from. Out: a
folder that `datasets.load_dataset` reads as it is, with the same records in
SynthIE's JSONL form, ``statistics.json``, and a card that says how the data
were made. Rows stream by batches; figures over all rows are computed on Arrow
columns. A triplet set that occurs in two splits is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq
import yaml
from isal import igzip

from kg.sampling.tables import report_table
from kg.stage import Manifest, read_manifest, run_stage, write_atomic
from synthie.config import DatasetConfig
from synthie.errors import ConfigError, InputError
from synthie.llm.prompts import Prompt, load_prompt
from synthie.llm.service import MODEL as BUILT_IN_MODEL
from synthie.records import SAMPLE_SCHEMA, SPLITS

__all__ = ["DATASET_SCHEMA", "build_dataset"]

# Latency and attempts tell of the hour of the call, not of the text: with them no data set could be made again.
_NOT_PUBLISHED = ("verdict", "reasons", "latency_s", "attempts")
DATASET_SCHEMA = pa.schema([field for field in SAMPLE_SCHEMA if field.name not in _NOT_PUBLISHED])

_PARTS = ("subject", "predicate", "object")
_ROWS_PER_FILE = 250_000
_ROWS_PER_GROUP = 10_000
_READ_ROWS = 8_192
_TOLD_ELSEWHERE = ("model", "models", "base_url", "prompt")  # of the settings of the texts
_CARD_RELATIONS = 100  # longest table of relations on the card
_QUANTILES = (0, 0.25, 0.5, 0.75, 1)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def build_dataset(config: DatasetConfig, graph: Path, sets: Path, texts: Path, folder: Path) -> Manifest:
    """Publish the accepted samples of ``texts`` in ``folder``.

    Leaves ``data/<split>-<i>-of-<n>.parquet`` (`DATASET_SCHEMA`), ``<split>.jsonl.gz`` (one
    ``{id, text, triplets, entities, relations}`` a line, names and ids as ``surfaceform`` and ``uri``),
    ``statistics.json``, ``README.md`` and ``coverage.png``. Files do not depend on the clock, except for
    what the card tells of the texts' manifest.

    Args:
        config: name and licence.
        graph, sets, texts: folders of the earlier stages.
        folder: where the data set goes.

    Raises:
        InputError: an earlier stage is not finished, a split has no accepted text, or two splits share a set.
        StorageError: ``folder`` cannot be written.
    """
    manifests = {name: read_manifest(path) for name, path in (("graph", graph), ("sets", sets), ("texts", texts))}

    def work(folder: Path) -> dict[str, Any]:
        splits = _splits(sets)
        quality = _quality(texts)
        files = _write_records(texts, folder, splits)
        _require_records(files, splits, quality)
        _require_disjoint(files)
        statistics = _statistics(folder, splits, sets, quality)
        write_atomic(folder / "statistics.json", json.dumps(statistics, indent=1, ensure_ascii=False) + "\n")
        shutil.copyfile(sets / "coverage.png", folder / "coverage.png")
        write_atomic(folder / "README.md", _card(config, manifests, statistics, graph))
        return {
            "records": {split: statistics["splits"][split]["records"] for split in splits},
            "checked": quality["checked"],
            "rejected": quality["rejected"],
        }

    return run_stage(
        "dataset",
        folder,
        config=config.fingerprinted(),
        inputs={name: manifest.output_hash for name, manifest in manifests.items()},
        seed=None,
        work=work,
    )


# --- Records --------------------------------------------------------------------------------------------------------


class _SplitFiles:
    """Writes one split: Parquet files of limited size, a JSONL file, and a digest of each set.

    Attributes:
        count: rows so far.
        digests: 16 bytes for each row, equal where the sets are equal.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.split = split
        self.count = 0
        self.digests = bytearray()
        self._folder = folder / "data"
        self._raw = (folder / f"{split}.jsonl.gz").open("wb")
        self._jsonl = igzip.IGzipFile("", "wb", fileobj=self._raw, mtime=0)  # no clock in the file
        self._encoder = msgspec.json.Encoder()
        self._waiting: list[pa.RecordBatch] = []
        self._writer: pq.ParquetWriter | None = None
        self._files: list[Path] = []
        self._rows_in_file = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows (`DATASET_SCHEMA`)."""
        self.count += batch.num_rows
        for row in batch.select(["id", "text", "triplets", "entities", "relations", "topic"]).to_pylist():
            self.digests += _set_digest(row["triplets"], row.pop("topic"))
            for entity in row["entities"]:
                del entity["mention_start_index"]
            self._jsonl.write(self._encoder.encode(row) + b"\n")
        self._waiting.append(batch)
        if sum(waiting.num_rows for waiting in self._waiting) >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left, and give the Parquet files their final names."""
        self._flush()
        self._end_file()
        self._jsonl.close()
        self._raw.close()
        for number, path in enumerate(self._files):
            path.rename(self._folder / f"{self.split}-{number:05d}-of-{len(self._files):05d}.parquet")

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            self._files.append(self._folder / f"{self.split}-{len(self._files):05d}.parquet")
            self._writer = pq.ParquetWriter(self._files[-1], DATASET_SCHEMA, compression="zstd")
        table = pa.Table.from_batches(self._waiting)
        self._writer.write_table(table)
        self._waiting = []
        self._rows_in_file += table.num_rows
        if self._rows_in_file >= _ROWS_PER_FILE:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._rows_in_file = None, 0


def _splits(sets: Path) -> dict[str, int]:
    """Splits that the sets have, in the usual order -> number of sets."""
    column = pq.read_table(sets / "sets.parquet", columns=["split"])["split"]
    counts = {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
    return {split: counts[split] for split in SPLITS if split in counts}


def _write_records(texts: Path, folder: Path, splits: Iterable[str]) -> dict[str, _SplitFiles]:
    shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "data").mkdir()
    files = {split: _SplitFiles(folder, split) for split in splits}
    for batch in _batches(texts / "samples", DATASET_SCHEMA.names):
        for split, file in files.items():
            chosen = batch.filter(pc.equal(batch["split"], split))
            if chosen.num_rows:
                file.add(chosen)
    for file in files.values():
        file.close()
    return files


def _batches(folder: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of the folder's parts, in order; nothing where it has none."""
    paths = [str(path) for path in sorted(folder.glob("part-*.parquet"))]
    if paths:
        source = arrow_dataset.dataset(paths, schema=SAMPLE_SCHEMA, format="parquet")
        yield from source.to_batches(columns=columns, batch_size=_READ_ROWS)


def _set_digest(triplets: list[dict[str, dict[str, str]]], topic: str | None) -> bytes:
    """Of the triplets, or of a negative's topic."""
    keys = sorted("\t".join(triplet[part]["uri"] for part in _PARTS) for triplet in triplets) or [topic or ""]
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=16).digest()


def _require_records(files: Mapping[str, _SplitFiles], splits: Mapping[str, int], quality: Mapping[str, Any]) -> None:
    for split, file in files.items():
        if file.count:
            continue
        rejected = quality["splits"].get(split, {"rejected": 0, "reasons": {}})
        reasons = ", ".join(f"{check} {count:,}" for check, count in rejected["reasons"].items()) or "none"
        count = rejected["rejected"]
        raise InputError(
            f"The {split} split has no accepted text: of {splits[split]:,} triplet sets, {count:,} texts "
            f"were rejected (reasons: {reasons}) and {splits[split] - count:,} were not written. Read "
            "the details in texts/rejected, then mend the prompt, choose another model, loosen the quality options or "
            "draw more sets (sampling.n_sets). Texts that are paid for are not asked for again."
        )


def _require_disjoint(files: Mapping[str, _SplitFiles]) -> None:
    digests = {split: np.unique(np.frombuffer(file.digests, dtype="V16")) for split, file in files.items()}
    for first, second in _pairs(digests):
        shared = len(np.intersect1d(digests[first], digests[second], assume_unique=True))
        if shared:
            raise InputError(
                f"The splits {first} and {second} share {shared:,} triplet sets, so the evaluation would test what was "
                "trained on. The sets folder is damaged or was edited; delete it and sample again."
            )


def _pairs(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    names = list(names)
    yield from ((first, second) for i, first in enumerate(names) for second in names[i + 1 :])


# --- Statistics -----------------------------------------------------------------------------------------------------


def _quality(texts: Path) -> dict[str, Any]:
    """How many texts were checked, accepted and rejected, why, and what they took."""
    totals: Counter[str] = Counter()
    usd = 0.0
    splits: dict[str, Any] = {}
    for name, count in (("samples", "accepted"), ("rejected", "rejected")):
        for batch in _batches(texts / name, ["split", "reasons", *_SUMS]):
            totals[count] += batch.num_rows
            for column in _SUMS[:-1]:
                totals[column] += pc.sum(batch[column], min_count=0).as_py()
            usd += pc.sum(batch["usd"], min_count=0).as_py()
            for split, reasons in zip(batch["split"].to_pylist(), batch["reasons"].to_pylist(), strict=True):
                entry = splits.setdefault(split, {"accepted": 0, "rejected": 0, "reasons": Counter()})
                entry[count] += 1
                entry["reasons"].update({reason["check"] for reason in reasons or ()})
    reasons = sum((entry["reasons"] for entry in splits.values()), Counter())
    for entry in splits.values():
        entry["reasons"] = _by_frequency(entry["reasons"])
    return {
        "checked": totals["accepted"] + totals["rejected"],
        "accepted": totals["accepted"],
        "rejected": totals["rejected"],
        "reasons": _by_frequency(reasons),
        "splits": splits,
        "tokens": {
            "input": totals["input_tokens"],
            "cached": totals["cached_input_tokens"],
            "output": totals["output_tokens"],
            "usd": round(usd, 6),
        },
    }


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


_SUMS = ["input_tokens", "cached_input_tokens", "output_tokens", "usd"]


def _statistics(folder: Path, splits: Mapping[str, int], sets: Path, quality: dict[str, Any]) -> dict[str, Any]:
    """The content of ``statistics.json``."""
    figures, nodes, triplets, relations = {}, {}, {}, {}
    for split in splits:
        paths = [str(path) for path in sorted((folder / "data").glob(f"{split}-*.parquet"))]
        table = arrow_dataset.dataset(paths).to_table(columns=["text", "triplets", "relations", "topic"])
        flat = pc.list_flatten(table["triplets"])
        subjects, predicates, objects = (_uris(flat, part).combine_chunks() for part in _PARTS)
        nodes[split] = pc.unique(pa.chunked_array([subjects, objects]))
        keys = pc.binary_join_element_wise(subjects, predicates, objects, "\t")
        triplets[split] = pc.unique(keys)
        relations[split] = _value_counts(pc.struct_field(pc.list_flatten(table["relations"]), "uri"))
        figures[split] = _split_figures(table, len(flat), nodes[split], relations[split]) | {"sets": splits[split]}
    totals = sum((Counter(counts) for counts in relations.values()), Counter())
    by_frequency = sorted(totals, key=lambda relation: (-totals[relation], relation))
    return {
        "splits": figures,
        "quality": quality,
        "records_per_relation": _quantiles(list(totals.values())),
        "relations": {
            relation: {split: relations[split].get(relation, 0) for split in splits} for relation in by_frequency
        },
        "shared": {
            f"{later}_in_{earlier}": {
                "sets": 0,  # verified before
                "triplets": _share_in(triplets[later], triplets[earlier]),
                "nodes": _share_in(nodes[later], nodes[earlier]),
            }
            for earlier, later in _pairs(splits)
        },
        "coverage": json.loads((sets / "coverage.json").read_text(encoding="utf-8")),
    }


def _uris(triplets: pa.ChunkedArray, part: str) -> pa.ChunkedArray:
    return pc.struct_field(triplets, [part, "uri"])


def _split_figures(table: pa.Table, triplets: int, nodes: pa.Array, relations: dict[str, int]) -> dict[str, Any]:
    sizes = pc.list_value_length(table["triplets"]).to_numpy()
    words = pc.count_substring_regex(table["text"], r"\S+").to_numpy()
    entities = pc.sum(pc.match_substring_regex(nodes, r"^[A-Z]"), min_count=0).as_py()
    return {
        "records": table.num_rows,
        "negatives": table.num_rows - table["topic"].null_count,
        "triplets": triplets,
        "entities": entities,
        "literals": len(nodes) - entities,
        "relations": len(relations),
        "triplets_per_record": round(float(sizes.mean()), 4),
        "records_by_size": {
            str(size): int(count) for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)
        },
        "words_per_record": round(float(words.mean()), 4),
        "words": int(words.sum()),
        "records_per_relation": _quantiles(list(relations.values())),
    }


def _value_counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(values).to_pylist()}


def _quantiles(counts: list[int]) -> list[float]:
    """Minimum, quartiles and maximum; zeros of nothing."""
    return [round(float(value), 1) for value in np.quantile(counts or [0], _QUANTILES)]


def _share_in(later: pa.Array, earlier: pa.Array) -> float:
    """Share of the distinct values of ``later`` that ``earlier`` has too; 0 of nothing."""
    return round(pc.mean(pc.is_in(later, value_set=earlier)).as_py(), 4) if len(later) else 0.0


# --- Card -----------------------------------------------------------------------------------------------------------


def _card(config: DatasetConfig, manifests: Mapping[str, Manifest], statistics: dict[str, Any], graph: Path) -> str:
    """The text of ``README.md``."""
    generation = manifests["texts"].config["generation"]
    models = list(generation.get("models") or [generation["model"]])
    rule_made = BUILT_IN_MODEL in models
    splits = [{"name": name} | figures for name, figures in statistics["splits"].items()]
    relations = list(statistics["relations"].items())
    labels = _relation_labels(graph)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters |= {"share": _percent, "thousands": lambda value: f"{value:,g}", "cell": _cell}
    environment.globals["settings"] = _settings
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        front_matter=_front_matter(config, statistics, rule_made=rule_made),
        name=config.name,
        licence=config.licence,
        models=models,
        endpoint=generation.get("base_url") or ("several endpoints" if generation.get("models") else "built-in"),
        rule_made=rule_made,
        generation={key: value for key, value in generation.items() if key not in _TOLD_ELSEWHERE},
        splits=splits,
        quantiles=statistics["records_per_relation"],
        shared=_shared_sentence(statistics["shared"]),
        graph={
            "nodes": pq.read_metadata(graph / "nodes.parquet").num_rows,
            "triples": pq.read_metadata(graph / "triples.parquet").num_rows,
            "relations": len(labels),
            "dump": manifests["graph"].inputs.get("dump", "unknown"),
            "config": manifests["graph"].config,
        },
        sampling=manifests["sets"],
        coverage=statistics["coverage"],
        coverage_tables=[table.markdown() for table in report_table(statistics["coverage"])],
        coverage_plot="coverage.png",
        texts=manifests["texts"],
        tokens=statistics["quality"]["tokens"],
        negatives=sum(split["negatives"] for split in splits),
        prompt=_prompt(generation["prompt"], manifests["texts"].inputs),
        quality=statistics["quality"],
        quality_config=manifests["texts"].config["quality"],
        relations=[
            {"id": relation, "label": labels[relation], "counts": list(count.values())}
            for relation, count in relations[:_CARD_RELATIONS]
        ],
        relations_left=max(0, len(relations) - _CARD_RELATIONS),
    )


def _front_matter(config: DatasetConfig, statistics: dict[str, Any], *, rule_made: bool) -> str:
    """The hub's metadata as YAML."""
    records = sum(split["records"] for split in statistics["splits"].values())
    tags = ["information-extraction", "relation-extraction", "knowledge-graph", "wikidata", "synthetic", "synthie"]
    data = {
        "pretty_name": config.name,
        "license": config.licence,
        "language": ["en"],
        "task_categories": ["token-classification", "text-generation"],
        "size_categories": [next((size for bound, size in _SIZES if records < bound), "10M<n<100M")],
        "tags": [*tags, "rule-made"] if rule_made else tags,
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in statistics["splits"]],
            }
        ],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _relation_labels(graph: Path) -> dict[str, str]:
    table = pq.read_table(graph / "relations.parquet", columns=["id", "label"])
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))


def _prompt(name: str, used: Mapping[str, str]) -> dict[str, Any]:
    """Name, hash and, where the prompt's file still is the one that was used, full text.

    Args:
        name: of the prompt.
        used: hashes of its parts: ``prompt`` and, if there were negatives, ``negatives``.
    """
    parts: list[tuple[str, str]] = []
    with contextlib.suppress(ConfigError):  # the file, or its part for negatives, is no longer there
        prompt = load_prompt(name)
        if prompt.hash == used["prompt"]:
            parts += _prompt_parts(prompt)
        if "negatives" in used and prompt.negatives_hash == used["negatives"]:
            parts += _negative_parts(prompt)
    text = "\n\n".join(f"{title}:\n\n~~~text\n{text.strip()}\n~~~" for title, text in parts if text.strip())
    return {"name": name, "hash": used["prompt"], "text": text}


def _prompt_parts(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """(title, text) of what asks for texts on triplets."""
    sampling = f"temperature {prompt.temperature}, at most {prompt.max_tokens} tokens, unless set otherwise above"
    yield "Sampling", sampling
    yield "System", prompt.system
    yield "User (Jinja2 template)", prompt.user
    yield (
        "Styles, one value of each drawn for a text",
        "\n\n".join(
            "\n".join([f"{axis}:", *(f"  {name} (weight {one.weight:g}): {one.text}" for name, one in values.items())])
            for axis, values in prompt.axes.items()
        ),
    )
    if prompt.demonstrations_per_request:
        yield "Demonstrations in a request", f"{prompt.demonstrations_per_request} of those below, by relation"
    for number, demonstration in enumerate(prompt.demonstrations, start=1):
        lines = (" | ".join(triplet) for triplet in demonstration.triplets)
        yield f"Demonstration {number}", "\n".join((*lines, "", demonstration.text))


def _negative_parts(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """The same for texts without triplets."""
    negatives = prompt.require_negatives()
    yield "Negatives: system", negatives.system
    yield "Negatives: user (Jinja2 template)", negatives.user
    for number, demonstration in enumerate(negatives.demonstrations, start=1):
        yield f"Negatives: demonstration {number}", f"{demonstration.topic}\n\n{demonstration.text}"


def _settings(config: Mapping[str, Any]) -> str:
    """Settings as one paragraph of code spans; empty ones say nothing."""
    spans = [f"`{key}: {json.dumps(value, ensure_ascii=False)}`" for key, value in config.items() if _is_set(value)]
    return f"Settings: {', '.join(spans)}." if spans else ""


def _is_set(value: Any) -> bool:
    return value is not None and value != [] and value != {} and value != ""


def _shared_sentence(shared: Mapping[str, Mapping[str, float]]) -> str:
    """What the later splits have in common with train."""
    return " ".join(
        f"{figures['triplets']:.1%} of the triplets and {figures['nodes']:.1%} of the nodes of "
        f"{name.removesuffix('_in_train')} occur in train too."
        for name, figures in shared.items()
        if name.endswith("_in_train")
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
