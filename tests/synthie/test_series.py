"""A series of runs: which is next, and what it goes on with."""

import json
from pathlib import Path

import pytest
from texts_world import dump_lines

from synthie.config import GraphConfig, RunConfig, SamplingConfig
from synthie.errors import StorageError
from synthie.pipeline import Run
from synthie.series import next_run


@pytest.fixture
def series(tmp_path: Path) -> RunConfig:
    dump = tmp_path / "dump.json"
    dump.write_text("[\n" + ",\n".join(map(json.dumps, dump_lines())) + "\n]\n")
    return RunConfig(
        run=str(tmp_path),
        kg=GraphConfig(dump=str(dump), workers=1),
        sampling=SamplingConfig(n_sets=30, max_size=2, mean_size=1.5, workers=1),
    )


def night(series: RunConfig) -> Run:
    run = Run(next_run(series, "dataset"))
    for stage in (run.build_graph, run.sample_sets, run.generate_texts, run.judge_texts, run.build_dataset):
        stage()
    return run


def test_each_run_adds_to_what_the_earlier_ones_have_made(series: RunConfig, tmp_path: Path) -> None:
    first, second = night(series), night(series)
    assert [first.folder, second.folder] == [tmp_path / "0001", tmp_path / "0002"]
    assert second.kg.resolve() == first.kg.resolve() == tmp_path / "kg", "the graph is built once"
    published = json.loads((second.dataset / "statistics.json").read_bytes())
    before = json.loads((first.dataset / "statistics.json").read_bytes())
    assert published["last_id"] == before["last_id"] + 30
    assert {path.name for path in (first.dataset / "data").iterdir()} < {
        path.name for path in (second.dataset / "data").iterdir()
    }


def test_an_unfinished_run_is_gone_on_with(series: RunConfig, tmp_path: Path) -> None:
    run = Run(next_run(series, "sets"))
    run.build_graph()
    assert next_run(series, "sets").run == str(tmp_path / "0001")
    run.sample_sets()
    assert next_run(series, "sets").run == str(tmp_path / "0002")
    assert next_run(series, "dataset").run == str(tmp_path / "0002"), "the last one, whatever the earlier ones lack"


def test_a_run_without_an_earlier_data_set_begins_one(series: RunConfig, tmp_path: Path) -> None:
    run = Run(next_run(series, "sets"))
    run.build_graph()
    run.sample_sets()
    config = next_run(series, "sets")
    assert config.sampling.continue_from == str(tmp_path / "0001/sets")
    assert config.dataset.continue_from is None


def test_a_folder_that_cannot_be_written_is_named(series: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        next_run(series.model_copy(update={"run": str(tmp_path / "file")}), "dataset")
