"""Training makes a usable folder, survives kill -9, and says what is wrong in one paragraph."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor_data import NODES, RELATIONS, write_dataset, write_graph

from synthie.config import ExtractorConfig
from synthie.errors import ConfigError, InputError
from synthie.extractor import presets
from synthie.extractor.examples import BatchPlan, Examples
from synthie.extractor.presets import PRESETS, resolve
from synthie.extractor.ragged import Ragged
from synthie.extractor.runtime import from_pretrained
from synthie.extractor.train import train_extractor
from synthie.extractor.world import World

STEPS = 24
CONFIG = ExtractorConfig(steps=STEPS, batch_size=8, device="cpu")
SMALL = presets.Architecture(vocabulary=300, width=32, heads=2, feed_forward=32, layers=1, dropout=0.1)
QUICK = PRESETS["demo"].model_copy(
    update={"architecture": SMALL, "warmup_steps": 4, "validate_every": 8, "checkpoint_every": 4}
)
STILL = QUICK.model_copy(update={"architecture": SMALL.model_copy(update={"dropout": 0.0}), "warmup_steps": 0})


@pytest.fixture(autouse=True)
def _quick_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "demo", QUICK)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return write_graph(folder / "kg"), write_dataset(folder / "dataset", {"train": 100, "validation": 20, "test": 10})


@pytest.fixture(scope="module")
def trained(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "demo", QUICK)
        train_extractor(CONFIG, *inputs, folder, seed=1)
    return folder


def _environment() -> dict[str, str]:
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_folder_is_a_transformers_model_with_its_world(trained: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(trained, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.num_beams == QUICK.beams
    world = World.open(trained)
    assert world.nodes["id"].to_pylist() == list(NODES)
    assert world.relations["name"].to_pylist() == list(RELATIONS.values())
    tokens = tokenizer("[s] Ulm [r] place of birth [o] New York City [e]")["input_ids"]
    assert world.parse(tokens) == [(3, 0, 6)]


def test_the_report_tells_the_course_of_the_training(trained: Path) -> None:
    report = json.loads((trained / "training.json").read_text())
    assert [entry["step"] for entry in report["train"]] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in report["validation"]] == [8, 16, 24]
    assert report["train"][-1]["loss"] < report["train"][0]["loss"] / 2
    best = min(report["validation"], key=lambda entry: entry["loss"])
    assert (report["best_step"], report["best_validation_loss"]) == (best["step"], best["loss"])
    assert report["tokens_per_second"] > 0
    assert report["settings"]["steps"] == STEPS
    assert report["counts"]["train_records"] == 100
    assert (trained / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (trained / ".training").exists()


def test_a_finished_training_is_not_repeated(trained: Path, inputs: tuple[Path, Path]) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert train_extractor(CONFIG, *inputs, trained, seed=1).reused
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


KILLED = """
import os, signal, sys
from pathlib import Path
from test_train import CONFIG, PRESETS, QUICK, train_extractor

PRESETS["demo"] = QUICK

def progress(done, total, unit, **details):
    if done == 15:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    graph, dataset, folder = map(Path, sys.argv[1:])
    train_extractor(CONFIG, graph, dataset, folder, seed=1, progress=progress)
"""


def test_a_killed_training_continues_to_the_same_weights(
    trained: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), *map(str, inputs), str(tmp_path / "extractor")]
    assert subprocess.run(command, env=_environment(), check=False).returncode == -signal.SIGKILL
    steps: list[int] = []
    train_extractor(CONFIG, *inputs, tmp_path / "extractor", seed=1, progress=lambda done, *_, **__: steps.append(done))
    assert steps == list(range(13, STEPS + 1))  # the last checkpoint was after step 12
    assert weights(tmp_path / "extractor") == weights(trained)
    report, unbroken = (
        json.loads((folder / "training.json").read_text()) for folder in (tmp_path / "extractor", trained)
    )
    assert report["train"] == unbroken["train"]
    assert report["validation"] == unbroken["validation"]


SHARED = """
import sys
from pathlib import Path
from test_train import PRESETS, SMALL, STILL, ExtractorConfig, train_extractor

PRESETS["demo"] = STILL
graph, dataset, folder = map(Path, sys.argv[1:])
config = ExtractorConfig(steps=4, batch_size=25, gradient_accumulation=4, device="cpu")
for reused in (False, True):
    assert train_extractor(config, graph, dataset, folder, seed=0).counts["steps"] == 4
"""


@pytest.mark.slow
def test_processes_share_the_batches_and_reach_the_same_losses(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    command += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    command += [str(script), *map(str, inputs), str(tmp_path / "shared")]
    subprocess.run(command, env=_environment(), check=True)
    monkeypatch.setitem(PRESETS, "demo", STILL)
    config = ExtractorConfig(steps=4, batch_size=100, device="cpu")
    train_extractor(config, *inputs, tmp_path / "alone", seed=0)
    shared, alone = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("shared", "alone"))
    for kind in ("train", "validation"):
        assert [entry["loss"] for entry in shared[kind]] == pytest.approx(
            [entry["loss"] for entry in alone[kind]], rel=1e-3
        )


def test_a_local_base_model_is_continued_with_accumulated_batches(
    trained: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={
            "base_model": str(trained),
            "steps": 2,
            "batch_size": 4,
            "gradient_accumulation": 3,
            "linearization": "subject_collapsed",
        }
    )
    manifest = train_extractor(config, *inputs, tmp_path, seed=0)
    assert any(name.startswith("base_model/") for name in manifest.inputs)
    assert manifest.counts["epochs"] == 0.24
    assert World.open(tmp_path).form.form == "subject_collapsed"


def test_accumulated_batches_give_the_gradient_of_one_large_batch(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "demo", STILL)
    losses = []
    for size, passes in ((100, 1), (25, 4)):  # each step sees the whole epoch of 100 records
        config = ExtractorConfig(steps=4, batch_size=size, gradient_accumulation=passes, device="cpu")
        train_extractor(config, *inputs, tmp_path / str(passes), seed=0)
        report = json.loads((tmp_path / str(passes) / "training.json").read_text())
        losses.append([entry["loss"] for entry in report["train"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_data_set_of_another_graph_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    graph = write_graph(tmp_path / "kg")
    nodes = pq.read_table(graph / "nodes.parquet")
    pq.write_table(nodes.slice(1), graph / "nodes.parquet")
    with pytest.raises(InputError, match="The data set names Q10, which the graph does not have"):
        train_extractor(CONFIG, graph, inputs[1], tmp_path / "extractor", seed=0)


def test_an_empty_split_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 5, "validation": 0})
    with pytest.raises(InputError, match=r"validation split .* holds no record"):
        train_extractor(CONFIG, inputs[0], dataset, tmp_path / "extractor", seed=0)


def test_a_folder_that_is_no_model_is_named_in_one_paragraph(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = ExtractorConfig(base_model=str(tmp_path / "model"), device="cpu")
    with pytest.raises(ConfigError, match=r"The base model .* cannot be loaded\. The folder must hold") as caught:
        train_extractor(config, *inputs, tmp_path / "extractor", seed=0)
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_cannot_be_loaded_is_named_with_the_mend() -> None:
    class Unreachable:
        @staticmethod
        def from_pretrained(source: str, **options: Any) -> None:
            raise OSError("We couldn't connect to 'https://huggingface.co'\nto load the files")

    with pytest.raises(ConfigError, match=r"'google/flan-t5-base' cannot be loaded.*network.*extractor\.preset=demo"):
        from_pretrained(Unreachable, "google/flan-t5-base")


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"torch.*pip install 'synthie\[train\]'"):
        train_extractor(CONFIG, *inputs, tmp_path, seed=0)


def test_importing_the_stages_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, synthie.extractor.train, synthie.extractor.predict\n"
        "assert not {'torch', 'transformers', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def test_the_hub_presets_are_the_papers() -> None:
    base, collapsed, large = (
        resolve(ExtractorConfig(preset=f"synthie-{name}")) for name in ("base-fe", "base-sc", "large-fe")
    )
    assert (base.base_model, base.form, base.length_penalty) == ("google/flan-t5-base", "fully_expanded", 0.8)
    assert (collapsed.form, collapsed.length_penalty) == ("subject_collapsed", 0.6)
    assert (large.base_model, large.sequences_per_step) == ("google/flan-t5-large", 2_560)
    for preset in (base, collapsed, large):
        assert (preset.steps, preset.learning_rate, preset.final_learning_rate) == (8_000, 3e-4, 3e-5)
        assert (preset.label_smoothing, preset.clip_norm, preset.beams, preset.names) == (0.1, 0.1, 10, "underscores")


def test_the_configuration_overrides_its_preset() -> None:
    config = ExtractorConfig(preset="synthie-base-fe", steps=5, batch_size=2, learning_rate=1.0, base_model="here")
    settings = resolve(config)
    assert (settings.steps, settings.batch_size, settings.learning_rate, settings.base_model) == (5, 2, 1.0, "here")
    assert settings.sequences_per_step == 2_568
    assert resolve(config.model_copy(update={"gradient_accumulation": 3})).sequences_per_step == 6


def test_the_learning_rate_warms_up_and_decays_linearly() -> None:
    from synthie.extractor.fit import learning_rate

    settings = PRESETS["synthie-base-fe"]
    rates = [learning_rate(settings, step) for step in range(settings.steps)]
    assert rates[0] == pytest.approx(3e-4 / 1_000)
    assert max(rates) == rates[1_000] == pytest.approx(3e-4)
    assert rates[-1] == pytest.approx(3e-5)
    assert np.diff(rates[1_000:], n=2) == pytest.approx(0, abs=1e-12)


def test_an_epoch_sees_every_example_once_in_batches_of_similar_length() -> None:
    draw = np.random.default_rng(0)
    rows = Ragged.from_rows([[0] * length for length in draw.integers(1, 60, 1_003)])
    examples = Examples(rows, rows)
    plan = BatchPlan(examples, 10, seed=4)
    assert plan.batches_per_epoch == 101
    epochs = [[plan[epoch * 101 + position] for position in range(101)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(1_003))
    assert [batch.tolist() for batch in epochs[0]] != [batch.tolist() for batch in epochs[1]]
    padding = sum(int((rows.lengths[batch].max() - rows.lengths[batch]).sum()) for batch in epochs[0])
    assert padding < 0.1 * rows.lengths.sum()
    assert BatchPlan(examples, 10, seed=4)[150].tolist() == epochs[1][49].tolist()
