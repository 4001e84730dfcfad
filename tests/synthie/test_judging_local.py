"""The judges that run here: a trained extractor, and a model of textual entailment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judging_world import judgements, make_texts
from texts_world import rows

from kg.stage import run_stage
from synthie.config import ExtractorConfig, JudgeConfig
from synthie.errors import ConfigError, InputError
from synthie.judging import local
from synthie.judging.reading import estimates, faults
from synthie.judging.sampled import SampledTexts
from synthie.judging.stage import judge_texts
from synthie.records import SAMPLE_SCHEMA

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_texts(tmp_path_factory.mktemp("local"))


def judge(world: Path, folder: Path, config: JudgeConfig) -> dict[str, Any]:
    judge_texts(config, world / "kg", world / "texts", folder, seed=0, max_usd=0.0)
    told = estimates(folder)
    assert told is not None
    return told


# --- Extractor ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extractor(world: Path) -> Path:
    """An extractor that has seen little, so that it finds something else in many texts."""
    from synthie.extractor.presets import PRESETS, Architecture
    from synthie.extractor.train import train_extractor

    def work(folder: Path) -> dict[str, Any]:
        (folder / "data").mkdir()
        schema = pa.schema([SAMPLE_SCHEMA.field(name) for name in ("id", "split", "text", "triplets")])
        samples = [{name: row[name] for name in schema.names} for row in rows(world / "texts")]
        for split in ("train", "validation"):
            pq.write_table(pa.Table.from_pylist(samples, schema), folder / "data" / f"{split}-00000-of-00001.parquet")
        return {}

    run_stage("dataset", world / "dataset", config={}, inputs={}, seed=None, work=work)
    small = Architecture(vocabulary=200, width=32, heads=2, feed_forward=64, layers=1, dropout=0.0)
    with pytest.MonkeyPatch.context() as patch:
        changes = {"architecture": small, "warmup_steps": 5, "learning_rate": 0.03}
        patch.setitem(PRESETS, "demo", PRESETS["demo"].model_copy(update=changes))
        train_extractor(
            ExtractorConfig(steps=30, batch_size=8, device="cpu"),
            world / "kg",
            world / "dataset",
            world / "extractor",
            seed=0,
        )
    return world / "extractor"


def test_what_the_extractor_finds_is_stated_what_it_misses_absent_and_the_rest_extra(
    world: Path, extractor: Path, tmp_path: Path
) -> None:
    from synthie.extractor.predict import Extractor

    config = JudgeConfig(judges=["extractor"], n_samples=12, n_rejected=2, extractor=str(extractor), device="cpu")
    told = judge(world, tmp_path, config)
    texts = {row["request_key"]: row for name in ("samples", "rejected") for row in rows(world / "texts", name)}
    judged = judgements(tmp_path)
    assert len(judged) == 14
    found = Extractor.open(extractor, device="cpu").extract([texts[row["request_key"]]["text"] for row in judged])
    extras = 0
    for row, prediction in zip(judged, found, strict=True):
        keys = {triplet.key for triplet in prediction.triplets}
        label = {(t["subject"], t["relation"], t["object"]): t["verdict"] for t in row["triplets"]}
        assert label == {key: "stated" if key in keys else "absent" for key in label}
        assert len(row["extras"]) == len(keys - label.keys())
        extras += len(row["extras"])
    assert extras
    assert told["judges"]["extractor"]["gates"]["accepted"]["judged"] == 12
    assert told["judges"]["extractor"]["models"] == [str(extractor)]
    assert all(
        "says the judge 'extractor'" in fault.detail for of_text in faults(tmp_path).values() for fault in of_text
    )


def test_an_interrupted_reading_goes_on_where_it_stopped(
    world: Path, extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synthie.extractor.predict import Extractor

    monkeypatch.setattr(local, "_PART_ROWS", 4)
    read: list[int] = []
    extract = Extractor.extract

    def counted(self: Extractor, texts: list[str], **options: Any) -> Any:
        if len(read) == 2:
            read.append(0)
            raise KeyboardInterrupt
        read.append(len(texts))
        return extract(self, texts, **options)

    monkeypatch.setattr(Extractor, "extract", counted)
    config = JudgeConfig(judges=["extractor"], n_samples=12, n_rejected=0, extractor=str(extractor), device="cpu")
    with pytest.raises(KeyboardInterrupt):
        judge(world, tmp_path, config)
    judge(world, tmp_path, config)
    assert read == [4, 4, 0, 4]
    assert len(judgements(tmp_path)) == 12


def test_a_folder_without_an_extractor_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished stage"):
        judge(world, tmp_path, JudgeConfig(judges=["extractor"], extractor=str(world / "nowhere")))


# --- Entailment -----------------------------------------------------------------------------------------------------

MNLI = ("CONTRADICTION", "neutral", "Entailment")


def write_nli(folder: Path, texts: list[str], *, labels: tuple[str, ...] = MNLI, says: str = "Entailment") -> Path:
    """A tiny model that says the same of every pair: its last layer knows only its bias."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = sorted({word for text in texts for word in text.lower().replace(".", " .").split()})
    vocabulary = folder / "vocab.txt"
    folder.mkdir()
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    BertTokenizerFast(vocab=str(vocabulary), model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words) + 5,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([float(label == says) for label in labels]))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("says", "verdict"), [("Entailment", "stated"), ("CONTRADICTION", "contradicted"), ("neutral", "absent")]
)
def test_labels_of_the_model_become_verdicts(world: Path, tmp_path: Path, says: str, verdict: str) -> None:
    texts = [row["text"] for row in rows(world / "texts")]
    model = write_nli(tmp_path / "model", texts, says=says)
    config = JudgeConfig(judges=["nli"], n_samples=10, n_rejected=0, nli=str(model), device="cpu", batch_size=4)
    told = judge(world, tmp_path / "judge", config)
    judged = judgements(tmp_path / "judge")
    assert len(judged) == 10
    assert {triplet["verdict"] for row in judged for triplet in row["triplets"]} == {verdict}
    assert {row["extras"] for row in judged} == {None}
    group = told["judges"]["nli"]["gates"]["accepted"]
    assert group["precision"]["value"] == (verdict == "stated")
    assert group["recall"] is None


def test_each_triplet_is_put_as_a_sentence_beside_its_text(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the model that tells the truth: the answers must belong to their pairs, whatever the batches."""
    from synthie.extractor.entailment import EntailmentModel

    pairs: list[tuple[str, str]] = []

    def classify(self: EntailmentModel, asked: list[tuple[str, str]], **options: Any) -> list[str]:
        pairs.extend(asked)
        return ["entailment" if claim.split()[-1] in text else "neutral" for text, claim in asked]

    monkeypatch.setattr(EntailmentModel, "classify", classify)
    model = write_nli(tmp_path / "model", ["a"])
    config = JudgeConfig(judges=["nli"], n_samples=0, nli=str(model), device="cpu")
    told = judge(world, tmp_path / "judge", config)["judges"]["nli"]["gates"]
    assert all(claim.endswith(".") and " " in claim for _, claim in pairs)
    assert told["rejected"]["precision"]["value"] == 0.0
    assert told["accepted"]["precision"]["value"] > 0.0


def test_batches_do_not_mix_up_the_answers(tmp_path: Path) -> None:
    import torch

    from synthie.extractor.entailment import EntailmentModel

    words = [f"w{number}" for number in range(30)]
    folder = write_nli(tmp_path / "model", words)
    model = EntailmentModel.open(str(folder), device="cpu")
    torch.manual_seed(0)
    for parameter in model._model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_()
    random = np.random.default_rng(0)
    pairs = [(" ".join(random.choice(words, random.integers(1, 30))), str(random.choice(words))) for _ in range(40)]
    apart = [label for pair in pairs for label in model.classify([pair])]
    assert model.classify(pairs, batch_size=7) == apart
    assert len(set(apart)) > 1
    assert model.classify([]) == []
    assert model.classify([("w1 " * 500, "w2")])


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1", "LABEL_2"), ("entailment", "other")])
def test_a_model_without_the_labels_is_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    from synthie.extractor.entailment import EntailmentModel

    folder = write_nli(tmp_path / "model", ["a"], labels=labels, says=labels[0])
    with pytest.raises(ConfigError, match="does not say which of its outputs"):
        EntailmentModel.open(str(folder), device="cpu")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        EntailmentModel.open(str(tmp_path), device="cpu")


def test_hypotheses_are_plain_sentences(world: Path) -> None:
    texts = SampledTexts(world / "kg", world / "texts", {"accepted": None, "rejected": 0}, seed=0)
    claims = {
        local.hypothesis(texts, triplet) for batch in texts.texts(100) for _, text in batch for triplet in text.triplets
    }
    assert claims
    names = json.dumps(sorted(claims))
    assert "|" not in names
    assert all(claim[0].isupper() and claim.endswith(".") for claim in claims)
