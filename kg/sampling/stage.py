"""The sampling stage: graph folder → ``sets.parquet`` with report, plot and the state to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.errors import ConfigError, InputError
from kg.graph import KnowledgeGraph
from kg.parallel import Mapper
from kg.sampling.config import SamplingConfig
from kg.sampling.draw import STRATEGIES, DrawnSets, draw_sets
from kg.sampling.plots import plot_coverage
from kg.sampling.report import EarlierCounts, GraphColumns, SampledSets, coverage_report
from kg.sampling.splits import SPLITS
from kg.sampling.state import CoverageState
from kg.stage import Manifest, Progress, file_digest, no_progress, read_manifest, run_stage, write_atomic

__all__ = ["SETS_SCHEMA", "sample_sets"]

_TRIPLET = pa.struct([("subject", pa.string()), ("relation", pa.string()), ("object", pa.string())])
SETS_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("triplets", pa.list_(_TRIPLET)),
        ("split", pa.string()),
        ("round", pa.int32()),
        ("strategy", pa.string()),
        ("topic", pa.string()),
    ]
)

_STATE = "coverage_state.npz"
_ROWS_PER_GROUP = 50_000
_FILES = ("sizes_from", "relation_target_file", "relation_factors", "entity_factors")


def sample_sets(
    config: SamplingConfig,
    graph: Path,
    folder: Path,
    *,
    seed: int,
    mapper: Mapper | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Draw triplet sets from the graph in ``graph`` and write them to ``folder``.

    Writes ``sets.parquet``, ``coverage.json`` (see `kg.sampling.report`), ``coverage.png`` and
    ``coverage_state.npz``, from which ``continue_from`` goes on.

    Args:
        mapper: takes shares of large rounds; None for threads of this process.

    Raises:
        InputError: the graph is not finished, has no triplet, or yields not one set of the wanted size.
        ConfigError: a setting does not fit the graph, or a file or folder that it names cannot be used.
    """
    graph_hash = read_manifest(graph).output_hash

    def work(target: Path) -> dict[str, Any]:
        knowledge_graph = KnowledgeGraph.open(graph)
        earlier = None if config.continue_from is None else CoverageState.load(Path(config.continue_from) / _STATE)
        before = None if earlier is None else _counts_of(earlier)
        first_id = 0 if earlier is None else earlier.sets + earlier.negatives
        drawn = draw_sets(config, knowledge_graph, seed=seed, earlier=earlier, mapper=mapper, progress=progress)
        _write_sets(target / "sets.parquet", drawn, first_id)
        drawn.state.save(target / _STATE)
        report = coverage_report(GraphColumns.of(knowledge_graph), _sampled(config, drawn, before))
        write_atomic(target / "coverage.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        plot_coverage(report, target / "coverage.png")
        return _counts(config, report)

    return run_stage(
        "sets",
        folder,
        config=config.fingerprinted(),
        inputs={"kg": graph_hash, **_inputs(config, graph_hash, folder)},
        seed=seed,
        work=work,
    )


def _inputs(config: SamplingConfig, graph_hash: str, folder: Path) -> dict[str, str]:
    """The digests of all files that the settings name."""
    inputs = {}
    for name in _FILES:
        path = getattr(config, name)
        if path is not None and Path(path).is_file():
            inputs[name] = file_digest(Path(path))
        elif path is not None:
            inputs[name] = "\n".join(map(file_digest, sorted(Path(path).rglob("*.parquet"))))
    if config.continue_from is not None:
        inputs["continue_from"] = _earlier_hash(config, Path(config.continue_from), graph_hash, folder)
    return inputs


def _earlier_hash(config: SamplingConfig, earlier: Path, graph_hash: str, folder: Path) -> str:
    if earlier.resolve() == folder.resolve():
        raise ConfigError(
            f"'sampling.continue_from' is {earlier}, the folder that this run writes to. Give the new sets a run of "
            "their own: --run."
        )
    try:
        manifest = read_manifest(earlier)
    except InputError as error:
        meant = f" Did you mean {earlier / 'sets'}?" if (earlier / "sets").is_dir() else ""
        raise ConfigError(f"'sampling.continue_from' names no finished sampling stage: {error}{meant}") from error
    if manifest.stage != "sets" or manifest.inputs.get("kg") != graph_hash:
        raise ConfigError(
            f"The sets in {earlier} were not drawn from this graph, so they cannot be continued. Correct "
            "'sampling.continue_from', or unset it to begin anew."
        )
    share = manifest.config.get("unseen_combinations_share", 0.0)
    if share != config.unseen_combinations_share:
        raise ConfigError(
            f"The sets in {earlier} were drawn with 'sampling.unseen_combinations_share: {share}', so their training "
            f"sets may hold combinations that {config.unseen_combinations_share} would promise to be new, or the "
            f"other way round. Set it to {share}."
        )
    return manifest.output_hash


def _counts_of(state: CoverageState) -> EarlierCounts:
    """A copy: drawing changes the state."""
    return EarlierCounts(
        node_counts=state.node_counts.astype(np.int64),
        relation_counts=state.relation_counts.copy(),
        edge_counts=state.edge_counts.astype(np.int64),
        sets=state.sets,
    )


def _sampled(config: SamplingConfig, drawn: DrawnSets, earlier: EarlierCounts | None) -> SampledSets:
    return SampledSets(
        offsets=drawn.offsets,
        edges=drawn.edges,
        splits=drawn.splits,
        asked_sizes=drawn.asked_sizes.astype(np.int64),
        negatives=len(drawn.topics),
        relation_floor=config.relation_floor,
        exhausted=drawn.exhausted,
        excluded_relations=drawn.closed_relations,
        excluded_nodes=drawn.closed_nodes,
        earlier=earlier,
    )


def _write_sets(path: Path, drawn: DrawnSets, first_id: int) -> None:
    """Negative sets lie evenly among the others, so that any stretch of the file has its share of them."""
    temporary = path.with_name(f".{path.name}.tmp")
    rows = _Rows(drawn)
    with pq.ParquetWriter(temporary, SETS_SCHEMA, compression="zstd") as writer:
        for first in range(0, len(rows), _ROWS_PER_GROUP):
            writer.write_batch(rows.batch(first, min(first + _ROWS_PER_GROUP, len(rows)), first_id))
    temporary.replace(path)


class _Rows:
    """The rows of ``sets.parquet``: all sets as columns, those without triplets as empty lists."""

    def __init__(self, drawn: DrawnSets) -> None:
        self._drawn = drawn
        self._node_ids = pa.array(drawn.ids.nodes, pa.string())
        self._relation_ids = pa.array(drawn.ids.relations, pa.string())
        negatives, sets = len(drawn.topics), len(drawn)
        before = np.arange(negatives) * sets // max(negatives, 1)  # how many sets come before each
        self._offsets = np.concatenate([[0], np.cumsum(np.insert(np.diff(drawn.offsets), before, 0))])
        self._splits = np.insert(drawn.splits, before, drawn.topic_splits)
        self._rounds = np.insert(drawn.rounds, before, -1)
        self._strategies = np.insert(drawn.strategies, before, STRATEGIES.index("negative"))
        self._topics = np.insert(np.full(sets, -1, np.int64), before, drawn.topics)

    def __len__(self) -> int:
        return len(self._splits)

    def batch(self, first: int, last: int, first_id: int) -> pa.RecordBatch:
        offsets = self._offsets[first : last + 1]
        edges, arrays = self._drawn.edges[offsets[0] : offsets[-1]], self._drawn.arrays
        triplets = pa.StructArray.from_arrays(
            [
                self._node_ids.take(pa.array(arrays.subjects[edges])),
                self._relation_ids.take(pa.array(arrays.out_relations[edges])),
                self._node_ids.take(pa.array(arrays.out_objects[edges])),
            ],
            names=["subject", "relation", "object"],
        )
        topics, rounds = self._topics[first:last], self._rounds[first:last]
        return pa.record_batch(
            [
                pa.array(np.arange(first_id + first, first_id + last)),
                pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), triplets),
                pa.array(SPLITS).take(pa.array(self._splits[first:last])),
                pa.array(rounds, mask=rounds < 0),
                pa.array(STRATEGIES).take(pa.array(self._strategies[first:last])),
                self._node_ids.take(pa.array(topics, mask=topics < 0)),
            ],
            schema=SETS_SCHEMA,
        )


def _counts(config: SamplingConfig, report: dict[str, Any]) -> dict[str, Any]:
    coverage, spread = report["coverage"], report["sets_per_relation"]
    return {
        "sets": report["sets"],
        "negatives": report["negatives"],
        "requested": config.n_sets,
        "duplicates": report["duplicates"],
        "mean_size": report["set_size"]["mean"],
        **{f"{what}_covered": part["covered"] for what, part in coverage.items()},
        **{f"{what}_share": part["share"] for what, part in coverage.items()},
        "relation_max_over_median": spread["max_over_median"],
        "relation_normalised_entropy": spread["normalised_entropy"],
        "relation_gini": spread["gini"],
        "splits": {split: part["sets"] for split, part in report["splits"].items()},
    }
