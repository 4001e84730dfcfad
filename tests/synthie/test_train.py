"""Training makes a usable folder, survives kill -9, and says what is wrong in one paragraph."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from extractor_data import NODES, RELATIONS, write_dataset, write_graph

from synthie.config import ExtractorConfig
from synthie.errors import ConfigError, InputError
from synthie.extractor import fit, presets, tracking
from synthie.extractor.examples import BatchPlan, Examples
from synthie.extractor.optimizer import make_optimizer
from synthie.extractor.presets import PRESETS, resolve
from synthie.extractor.ragged import Ragged
from synthie.extractor.runtime import from_pretrained
from synthie.extractor.seq2seq import Seq2Seq
from synthie.extractor.train import train_extractor
from synthie.extractor.validation import Validator
from synthie.extractor.world import World

STEPS = 24
CONFIG = ExtractorConfig(steps=STEPS, batch_size=8, device="cpu", trackers=[])
SMALL = presets.Architecture(vocabulary=300, width=32, heads=2, feed_forward=32, layers=1, dropout=0.1)
QUICK = PRESETS["demo"].model_copy(
    update={
        "architecture": SMALL,
        "swapped_copies": 0,
        "warmup_steps": 4,
        "validate_every": 8,
        "checkpoint_every": 4,
        "max_target_tokens": 40,
        "validation_f1_records": 5,
    }
)
STILL = QUICK.model_copy(update={"architecture": SMALL.model_copy(update={"dropout": 0.0}), "warmup_steps": 0})


@pytest.fixture(autouse=True)
def _quick_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "demo", QUICK)
    monkeypatch.setattr(fit, "_CURVE_POINTS", 8)  # a loss every three steps, so not with every checkpoint


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return write_graph(folder / "kg"), write_dataset(folder / "dataset", {"train": 100, "validation": 20, "test": 10})


@pytest.fixture(scope="module")
def trained(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "demo", QUICK)
        patch.setattr(fit, "_CURVE_POINTS", 8)
        train_extractor(CONFIG, *inputs, folder, seed=1)
    return folder


def _environment() -> dict[str, str]:
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_bytes())


def losses(folder: Path, kind: str = "train") -> list[float]:
    return [entry["loss"] for entry in report_of(folder)[kind]]


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
    report = report_of(trained)
    assert [entry["step"] for entry in report["train"]] == list(range(3, STEPS + 1, 3))
    assert [entry["step"] for entry in report["validation"]] == [8, 16, 24]
    assert all(0 <= entry["f1"] <= 1 for entry in report["validation"])
    assert report["train"][-1]["loss"] < report["train"][0]["loss"] / 2
    best = min(report["validation"], key=lambda entry: entry["loss"])
    assert (report["best_step"], report["best_validation_loss"]) == (best["step"], best["loss"])
    assert report["tokens_per_second"] > 0
    assert 0 < report["padding"] < 0.2
    assert (report["precision"], report["trackers"], report["stopped_early"]) == ("float32", [], False)
    assert report["settings"]["steps"] == STEPS
    assert (report["counts"]["train_examples"], report["counts"]["validation_examples"]) == (100, 20)
    assert (trained / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (trained / ".training").exists()


def test_a_finished_training_is_not_repeated(trained: Path, inputs: tuple[Path, Path]) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert train_extractor(CONFIG, *inputs, trained, seed=1).reused
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


KILLED = """
import os, signal, sys
from pathlib import Path
from test_train import CONFIG, PRESETS, QUICK, fit, train_extractor

PRESETS["demo"] = QUICK
fit._CURVE_POINTS = 8

def progress(done, total, unit, **details):
    if done == 18:
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
    assert steps == [18, 21, 24]  # the last checkpoint was after step 16, one step after a loss
    assert weights(tmp_path / "extractor") == weights(trained)
    assert weights(tmp_path / "extractor" / "last") == weights(trained / "last")
    report, unbroken = report_of(tmp_path / "extractor"), report_of(trained)
    for kind in ("train", "validation", "padding", "counts"):
        assert report[kind] == unbroken[kind]


SHARED = """
import os
import sys
from pathlib import Path
from test_train import PRESETS, SHARED_CONFIG, STILL, train_extractor

PRESETS["demo"] = STILL
graph, dataset, folder = map(Path, sys.argv[1:])
if "RANK" not in os.environ:  # without the launcher: its two processes, at the price of one start
    rank = "1" if os.fork() else "0"
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
for reused in (False, True):
    assert train_extractor(SHARED_CONFIG, graph, dataset, folder, seed=0).counts["steps"] == 4
"""
SHARED_CONFIG = CONFIG.model_copy(update={"steps": 4, "batch_size": 25, "gradient_accumulation": 4})


def _launch(arguments: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
    ]
    command += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", *arguments]
    subprocess.run(command, env=_environment(), check=True)


def _fork(arguments: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *arguments], env=_environment() | shared, check=True)


@pytest.mark.parametrize("start", [_fork, pytest.param(_launch, marks=pytest.mark.slow)])
def test_processes_share_the_batches_and_reach_the_same_losses(
    start: Callable[[list[str]], None], inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    start([str(script), *map(str, inputs), str(tmp_path / "shared")])
    monkeypatch.setitem(PRESETS, "demo", STILL)
    config = CONFIG.model_copy(update={"steps": 4, "batch_size": 100})
    train_extractor(config, *inputs, tmp_path / "alone", seed=0)
    assert report_of(tmp_path / "shared")["processes"] == 2
    for kind in ("train", "validation"):
        assert losses(tmp_path / "shared", kind) == pytest.approx(losses(tmp_path / "alone", kind), rel=1e-3)


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
    for size, passes in ((100, 1), (25, 4)):  # each step sees the whole epoch of 100 records
        config = CONFIG.model_copy(update={"steps": 4, "batch_size": size, "gradient_accumulation": passes})
        train_extractor(config, *inputs, tmp_path / str(passes), seed=0)
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "4"), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 1e-4),
        ({"precision": "bf16"}, 1e-2),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
    ids=["gradient checkpointing", "bf16", "compiled"],
)
def test_the_losses_hardly_depend_on_how_a_training_runs(
    options: dict[str, Any],
    tolerance: float,
    inputs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.t5.modeling_t5 import T5LayerFF

    layers = {"plain": 0, "other": 0}
    forward = T5LayerFF.forward

    def counted(self: T5LayerFF, states: Any) -> Any:
        layers[name] += self.training
        return forward(self, states)

    if "compile" not in options:
        monkeypatch.setattr(T5LayerFF, "forward", counted)
    monkeypatch.setitem(PRESETS, "demo", STILL)
    for name, update in (("plain", {}), ("other", options)):
        config = CONFIG.model_copy(update={"steps": 3, "batch_size": 25} | update)
        train_extractor(config, *inputs, tmp_path / name, seed=0)
    plain, other = losses(tmp_path / "plain"), losses(tmp_path / "other")
    assert other == pytest.approx(plain, rel=tolerance)
    assert report_of(tmp_path / "other")["precision"] == options.get("precision", "float32")
    if "precision" in options:
        assert other != plain
    assert layers["other"] == layers["plain"] * (2 if "gradient_checkpointing" in options else 1)


def test_a_machine_that_cannot_compile_is_told_so(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no C++\ncompiler")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ConfigError, match=r"torch\.compile does not work on this machine's cpu: no C\+\+ compiler"):
        train_extractor(CONFIG.model_copy(update={"compile": True}), *inputs, tmp_path, seed=0)


def test_training_ends_when_no_better_weights_come_and_keeps_the_best_and_the_last(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.5, 0.4, 0.9])
    monkeypatch.setattr(Validator, "f1", lambda self: next(scores))
    config = CONFIG.model_copy(update={"best_by": "f1", "patience": 2, "validate_every": 2})
    assert train_extractor(config, *inputs, tmp_path, seed=0).counts["steps"] == 8
    report = report_of(tmp_path)
    assert [entry["f1"] for entry in report["validation"]] == [0.2, 0.6, 0.5, 0.4]
    assert (report["stopped_early"], report["best_step"], report["best_validation_f1"]) == (True, 4, 0.6)
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    best, last = (AutoModelForSeq2SeqLM.from_pretrained(place) for place in (tmp_path, tmp_path / "last"))
    assert (best.shared.weight != last.shared.weight).any()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "last")) == last.config.vocab_size


def test_a_validation_counts_the_triplets_that_are_written_under_the_constraint(trained: Path) -> None:
    from accelerate import Accelerator
    from transformers import AutoTokenizer

    tokenizer, world = AutoTokenizer.from_pretrained(trained, local_files_only=True), World.open(trained)
    born, died = (f"[s] Ada Lovelace [r] {relation} [o] Ulm [e]" for relation in ("place of birth", "place of death"))
    pairs = [(born, born), (f"{born} {died}", died), ("", born), (died, f"{died} [s] Ada")]
    gold, written = (tokenizer([pair[side] for pair in pairs])["input_ids"] for side in (0, 1))

    class Scripted:
        class model:  # noqa: N801
            eval = train = staticmethod(lambda: None)

        @staticmethod
        def write(sources: Ragged, constraint: Any, max_new_tokens: int) -> list[list[int]]:
            return [written[sources[row][0]] for row in range(len(sources))]

    examples = Examples(Ragged.from_rows([[row] for row in range(len(pairs))]), Ragged.from_rows(gold))
    validator = Validator(QUICK, Scripted, examples, world, Accelerator(cpu=True))  # type: ignore[arg-type]
    assert validator.f1() == 2 * 3 / (4 + 4)


def test_a_training_that_diverges_says_so(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Validator, "loss", lambda *_: float("nan"))
    with pytest.raises(ConfigError, match=r"diverged: after step 8 .* Lower extractor\.learning_rate"):
        train_extractor(CONFIG, *inputs, tmp_path, seed=0)


def test_records_are_trained_on_with_other_entities_too(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 1, "swapped_copies": 2})
    counts = train_extractor(config, *inputs, tmp_path, seed=0).counts
    assert (counts["train_examples"], counts["validation_examples"]) == (300, 20)


def test_records_that_are_too_long_are_left_out_and_counted(
    inputs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = CONFIG.model_copy(update={"steps": 1, "max_source_tokens": 12, "max_target_tokens": 14})
    counts = train_extractor(config, *inputs, tmp_path, seed=0).counts
    assert counts["train_examples"] + counts["train_too_long"] == 100
    texts, targets = counts["train_too_long_texts"], counts["train_too_long_targets"]
    assert 0 < max(texts, targets) <= counts["train_too_long"] <= min(100, texts + targets)
    told = f"{counts['train_too_long']} of 100 examples of the train split are left out: {texts} have a text of more"
    assert told in caplog.text


def _tiny(kind: str, tokenizer: Any) -> Any:
    import transformers

    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64} | layers
    if kind == "MT5":
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    # As in BART, the decoder starts from the token that ends a sequence.
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    start = {"Bart": 1, "MBart": None, "MT5": 0}[kind]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer) + 3, dropout=0.0, decoder_start_token_id=start, **special, **shape
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


@pytest.mark.parametrize(("kind", "start"), [("Bart", 1), ("MBart", 2), ("MT5", 0)])
def test_other_encoder_decoders_are_trained_and_write_under_the_constraint(
    kind: str, start: int, trained: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    model = _tiny(kind, tokenizer)
    model.generation_config.forced_bos_token_id = 2  # as in BART's: our outputs do not begin with it
    model.generation_config.no_repeat_ngram_size = 3
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = CONFIG.model_copy(
        update={"base_model": str(tmp_path / "base"), "steps": 2, "max_source_tokens": 60, "max_target_tokens": 60}
    )
    train_extractor(config, *inputs, tmp_path / "extractor", seed=0)
    assert report_of(tmp_path / "extractor")["validation"][0]["f1"] is not None
    saved = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "extractor", local_files_only=True).generation_config
    assert (saved.decoder_start_token_id, saved.eos_token_id, saved.pad_token_id) == (start, 1, 0)
    assert (saved.forced_bos_token_id, saved.forced_eos_token_id) == (None, None)
    assert not saved.no_repeat_ngram_size


def test_a_base_model_with_too_few_positions_is_refused(
    trained: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    _tiny("Bart", tokenizer).save_pretrained(tmp_path / "base")
    config = CONFIG.model_copy(update={"base_model": str(tmp_path / "base")})
    with pytest.raises(ConfigError, match=r"has 64 positions, too few for sequences of 256 tokens\. Set extractor"):
        train_extractor(config, *inputs, tmp_path / "extractor", seed=0)


@pytest.mark.parametrize("kind", ["Bart", "MT5"])
def test_the_loss_is_that_of_transformers_and_smoothed_as_in_the_paper(kind: str, trained: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    model = _tiny(kind, tokenizer)
    batch = Examples(Ragged.from_rows([[5, 6, 7, 1], [8, 1]]), Ragged.from_rows([[9, 10, 1], [11, 12, 13, 14, 1]]))
    source, mask = torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    labels = torch.tensor([[9, 10, 1, -100, -100], [11, 12, 13, 14, 1]])
    theirs = model(input_ids=source, attention_mask=mask, labels=labels)
    chances = theirs.logits.log_softmax(-1)[labels >= 0]
    likelihood = chances.gather(1, labels[labels >= 0][:, None]).sum()
    for smoothing in (0.0, 0.1):
        settings = QUICK.model_copy(update={"label_smoothing": smoothing})
        loss = Seq2Seq(model, tokenizer, settings, torch.device("cpu")).loss(model, batch)
        expected = -(1 - smoothing) * likelihood - smoothing * chances.mean(-1).sum()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        if not smoothing:
            assert loss.item() == pytest.approx(8 * theirs.loss.item(), rel=1e-5)


def test_weights_decay_but_norms_and_biases_do_not() -> None:
    import transformers

    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = (
        {names[id(parameter)] for parameter in group["params"]}
        for group in make_optimizer("adamw", model, 0.05).param_groups
    )
    assert decayed | kept == set(names.values())
    assert kept == {name for name in names.values() if "layer_norm" in name or "relative_attention_bias" in name}


def test_trackers_follow_the_training(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

    logged: dict[int, dict[str, float]] = {}
    told: list[dict[str, Any]] = []

    class Notebook(GeneralTracker):
        name, requires_logging_directory, tracker, start = "notebook", False, None, None

        def __init__(self, run_name: str) -> None:
            super().__init__()

        start = store_init_configuration = log = finish = staticmethod(lambda *_, **__: None)

    Notebook.store_init_configuration = staticmethod(told.append)
    Notebook.log = staticmethod(lambda values, step: logged.setdefault(step, {}).update(values))
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["notebook"])
    train_extractor(CONFIG.model_copy(update={"trackers": ["notebook"]}), *inputs, tmp_path, seed=0)
    report = report_of(tmp_path)
    assert told[0]["architecture/width"] == SMALL.width
    assert {step: values["train/loss"] for step, values in logged.items() if "train/loss" in values} == {
        entry["step"]: entry["loss"] for entry in report["train"]
    }
    assert {step for step, values in logged.items() if {"validation/loss", "validation/f1"} <= set(values)} == {
        entry["step"] for entry in report["validation"]
    }


def test_a_tracker_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ConfigError, match=r"'tensorbored', which accelerate does not know\. Known are: .*tensorboard"):
        tracking.choose_trackers(["tensorbored"])
    with pytest.raises(ConfigError, match="'wandb', whose package is not installed"):
        tracking.choose_trackers(["wandb"])
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    assert tracking.choose_trackers(None) == ["tensorboard"]


def test_a_training_that_no_tracker_follows_says_so(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    caplog.set_level("INFO", "synthie.extractor.tracking")
    for name, trackers in (("asked for none", []), ("asked for nothing", None)):
        assert not caplog.records
        train_extractor(CONFIG.model_copy(update={"steps": 1, "trackers": trackers}), *inputs, tmp_path / name, seed=0)
    assert "no tracker follows this training, for TensorBoard is not installed" in caplog.text


def test_a_data_set_of_another_graph_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    graph = write_graph(tmp_path / "kg")
    nodes = pq.read_table(graph / "nodes.parquet")
    others = pa.array([identifier.replace("Q10", "Q99") for identifier in nodes["id"].to_pylist()])
    pq.write_table(nodes.set_column(0, "id", others), graph / "nodes.parquet")
    with pytest.raises(InputError, match="The data set names Q10, which the graph does not have"):
        train_extractor(CONFIG, graph, inputs[1], tmp_path / "extractor", seed=0)


def test_an_empty_split_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 5, "validation": 0})
    with pytest.raises(InputError, match=r"validation split .* holds no record"):
        train_extractor(CONFIG, inputs[0], dataset, tmp_path / "extractor", seed=0)


def test_a_folder_that_is_no_model_is_named_in_one_paragraph(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = CONFIG.model_copy(update={"base_model": str(tmp_path / "model")})
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
    names = ("synthie-base-fe", "synthie-base-sc", "synthie-large-fe", "synthie-large-sc", "genie-base-fe")
    base, collapsed, large, large_collapsed, genie = (resolve(ExtractorConfig(preset=name)) for name in names)
    assert (base.base_model, base.form, base.length_penalty) == ("google/flan-t5-base", "fully_expanded", 0.8)
    assert (collapsed.form, collapsed.length_penalty) == ("subject_collapsed", 0.6)
    assert (large.base_model, large.sequences_per_step) == ("google/flan-t5-large", 2_560)
    assert (base.sequences_per_step, large_collapsed.sequences_per_step) == (4 * 6 * 107, 8 * 8 * 40)
    assert large_collapsed == large.model_copy(update={"form": "subject_collapsed", "length_penalty": 0.6})
    assert genie == base
    for preset in (base, collapsed, large):
        assert (preset.steps, preset.learning_rate, preset.final_learning_rate) == (8_000, 3e-4, 3e-5)
        assert (preset.optimizer, preset.warmup_steps, preset.weight_decay) == ("adamw", 1_000, 0.05)
        assert (preset.label_smoothing, preset.clip_norm, preset.beams, preset.names) == (0.1, 0.1, 10, "underscores")
        assert (preset.max_source_tokens, preset.max_target_tokens, preset.best_by) == (256, 256, "loss")


def test_the_configuration_overrides_its_preset() -> None:
    config = ExtractorConfig(preset="synthie-base-fe", steps=5, batch_size=2, learning_rate=1.0, base_model="here")
    settings = resolve(config)
    assert (settings.steps, settings.batch_size, settings.learning_rate, settings.base_model) == (5, 2, 1.0, "here")
    assert settings.sequences_per_step == 2_568
    assert resolve(config.model_copy(update={"gradient_accumulation": 3})).sequences_per_step == 6
    assert resolve(config.model_copy(update={"validation_f1_records": 0})).validation_f1_records == 0
    with pytest.raises(ConfigError, match="best_by=f1 needs an F1"):
        resolve(config.model_copy(update={"validation_f1_records": 0, "best_by": "f1"}))


def test_the_learning_rate_warms_up_and_decays_linearly() -> None:
    from synthie.extractor.fit import learning_rate

    settings = PRESETS["synthie-base-fe"]
    rates = [learning_rate(settings, step) for step in range(settings.steps)]
    assert rates[0] == pytest.approx(3e-4 / 1_000)
    assert max(rates) == rates[1_000] == pytest.approx(3e-4)
    assert rates[-1] == pytest.approx(3e-5)
    assert np.diff(rates[1_000:], n=2) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("batch_size", [6, 16])
def test_an_epoch_sees_every_example_once_in_batches_of_similar_length(batch_size: int) -> None:
    draw = np.random.default_rng(0)
    targets = draw.integers(10, 100, 5_003)
    sources = (targets * draw.lognormal(0, 0.3, len(targets))).astype(int)
    examples = Examples(*(Ragged.from_rows([[0] * length for length in lengths]) for lengths in (sources, targets)))
    plan, size = BatchPlan(examples, batch_size, seed=4), -(-5_003 // batch_size)
    assert plan.batches_per_epoch == size
    epochs = [[plan[epoch * size + position] for position in range(size)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(5_003))
    assert [batch.tolist() for batch in epochs[0]] != [batch.tolist() for batch in epochs[1]]
    measured = [plan.size(batch) for batch in epochs[0]]
    assert sum(batch.tokens for batch in measured) == sources.sum() + targets.sum()
    padded = [len(rows) * (sources[rows].max() + targets[rows].max()) for rows in epochs[0]]
    assert [batch.positions for batch in measured] == padded
    assert sum(padded) * 0.9 < sources.sum() + targets.sum()
    assert BatchPlan(examples, batch_size, seed=4)[size + 49].tolist() == epochs[1][49].tolist()
