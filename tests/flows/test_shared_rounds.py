"""Rounds of the sampler that are shared out as task runs give the same sets as threads."""

from pathlib import Path

import numpy as np
from distributed import LocalCluster
from prefect import flow

from flows.runners import TaskMapper
from kg.build import build_graph
from kg.graph import KnowledgeGraph
from kg.sampling.config import SamplingConfig
from kg.sampling.draw import DrawnSets, draw_sets
from synthie.config import GraphConfig, RunnerConfig

ROOT = Path(__file__).resolve().parents[2]


@flow
def draw_on(address: str, folder: str, options: dict[str, int]) -> list[DrawnSets]:
    runner = RunnerConfig.model_validate({"kind": "dask", "address": address})
    with TaskMapper(runner, 2) as mapper:
        return [draw_sets(SamplingConfig(**options), KnowledgeGraph.open(Path(folder)), seed=7, mapper=mapper)]


def test_a_round_that_is_shared_out_on_dask_gives_the_same_sets(prefect_server: None, tmp_path: Path) -> None:
    build_graph(GraphConfig(dump=str(ROOT / "data/sample/wikidata.json.gz")), tmp_path)
    options = {"n_sets": 20_000, "round_size": 20_000, "workers": 1}
    alone = draw_sets(SamplingConfig(**options), KnowledgeGraph.open(tmp_path), seed=7)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        (shared,) = draw_on(cluster.scheduler_address, str(tmp_path), options)
    for field in ("offsets", "edges", "numbers", "strategies", "asked_sizes"):
        assert np.array_equal(getattr(alone, field), getattr(shared, field)), field
