"""Predictions come in order, constrained ones with ids only, and nothing predicted is lost."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from extractor_data import NODES, RELATIONS, write_dataset, write_graph
from typer.testing import CliRunner

from synthie.cli import app
from synthie.config import ExtractorConfig, PredictionConfig
from synthie.errors import ConfigError, InputError
from synthie.evaluation.readers import read_records
from synthie.extractor import predict
from synthie.extractor.predict import Extractor, predict_split
from synthie.extractor.presets import PRESETS, Architecture
from synthie.extractor.serving.server import ExtractorServer, listen
from synthie.extractor.train import train_extractor
from synthie.records import PREDICTION_SCHEMA, Triplet

SMALL = Architecture(vocabulary=300, width=64, heads=2, feed_forward=128, layers=2, dropout=0.0)
CONFIG = PredictionConfig(device="cpu", beams=2, max_new_tokens=64)


def train(folder: Path, *, negative_every: int | None = None) -> Path:
    """A folder with graph, data set and an extractor trained on them."""
    graph = write_graph(folder / "kg")
    sizes = {"train": 400, "validation": 20, "test": 30}
    dataset = write_dataset(folder / "dataset", sizes, negative_every=negative_every)
    preset = PRESETS["demo"].model_copy(update={"architecture": SMALL, "warmup_steps": 10, "learning_rate": 0.03})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "demo", preset)
        config = ExtractorConfig(steps=250, batch_size=16, device="cpu")
        train_extractor(config, graph, dataset, folder / "extractor", seed=0)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def extractor(run: Path) -> Extractor:
    return Extractor.open(run / "extractor", device="cpu")


@pytest.fixture(scope="module")
def records(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "dataset" / "data" / "test-00000-of-00001.parquet").to_pylist()


def test_a_trained_extractor_finds_what_the_texts_state(extractor: Extractor, records: list[dict[str, Any]]) -> None:
    predictions = extractor.extract([record["text"] for record in records])
    found = stated = right = 0
    for record, prediction in zip(records, predictions, strict=True):
        gold = {tuple(item[part]["uri"] for part in ("subject", "predicate", "object")) for item in record["triplets"]}
        keys = {triplet.key for triplet in prediction.triplets}
        found, stated, right = found + len(keys), stated + len(gold), right + len(keys & gold)
    assert 2 * right / (found + stated) > 0.8


def test_an_extractor_that_has_seen_negatives_finds_nothing_in_them(tmp_path: Path) -> None:
    seen = train(tmp_path, negative_every=3)
    predict_split(CONFIG, seen / "dataset", seen / "extractor", tmp_path / "predictions")
    gold = pq.read_table(seen / "dataset" / "data" / "test-00000-of-00001.parquet")["triplets"].to_pylist()
    for mode in ("constrained", "unconstrained"):
        found = pq.read_table(tmp_path / "predictions" / f"{mode}.parquet")["triplets"].to_pylist()
        agree = [bool(of_text) == bool(of_gold) for of_text, of_gold in zip(found, gold, strict=True)]
        assert sum(agree) >= 0.9 * len(gold)
        assert any(not of_text for of_text in found)


def test_constrained_predictions_are_ids_of_the_world_for_any_text(extractor: Extractor) -> None:
    texts = ["", "Zürich is in Switzerland.", "Ada Lovelace " * 200, "[s] Nobody [r] knows [o] Łódź [e]", "1879 1879"]
    for prediction in extractor.extract(texts, beams=3, max_new_tokens=40):
        assert prediction.score <= 0
        for triplet in prediction.triplets:
            assert NODES[triplet.subject.uri] == triplet.subject.surfaceform
            assert RELATIONS[triplet.predicate.uri] == triplet.predicate.surfaceform
            assert NODES[triplet.object.uri] == triplet.object.surfaceform


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_predictions_follow_the_order_of_the_texts_for_any_batch_size(
    extractor: Extractor, records: list[dict[str, Any]], constrained: bool, beams: int
) -> None:
    texts = [record["text"] for record in records[:9]]
    together, apart = (
        extractor.extract(texts, beams=beams, batch_size=size, constrained=constrained) for size in (4, 1)
    )
    assert [prediction.triplets for prediction in together] == [prediction.triplets for prediction in apart]
    assert [prediction.score for prediction in together] == pytest.approx(
        [prediction.score for prediction in apart], abs=1e-3
    )
    assert extractor.extract([]) == []


def test_triplets_have_scores_and_the_places_of_their_names(
    extractor: Extractor, records: list[dict[str, Any]]
) -> None:
    for constrained in (True, False):
        found = 0
        texts = [record["text"] for record in records[:9]]
        for text, prediction in zip(texts, extractor.extract(texts, constrained=constrained), strict=True):
            assert len(prediction.scores) == len(prediction.spans) == len(prediction.triplets)
            assert all(score is not None and 0 < score <= 1 for score in prediction.scores)
            for triplet, spans in zip(prediction.triplets, prediction.spans, strict=True):
                for node, span in zip((triplet.subject, triplet.object), spans, strict=True):
                    name = node.surfaceform.replace("_", " ")
                    assert (None if span is None else text[slice(*span)]) == (name if name in text else None)
                    found += span is not None
            (record,) = json.loads(json.dumps([prediction.to_record()]))
            assert [Triplet.from_record(triplet) for triplet in record["triplets"]] == list(prediction.triplets)
        assert found > 9
    assert all(not prediction.spans for prediction in extractor.extract(texts, spans=False))


def test_candidates_are_the_best_outputs_each_once(extractor: Extractor, records: list[dict[str, Any]]) -> None:
    texts = [record["text"] for record in records[:5]]
    single = extractor.extract(texts, beams=4)
    for alone, several in zip(single, extractor.extract(texts, beams=4, candidates=3), strict=True):
        assert several.triplets == alone.triplets
        outputs = [several.output, *(alternative.output for alternative in several.alternatives)]
        assert len(set(outputs)) == len(outputs) == 3
        scores = [several.score, *(alternative.score for alternative in several.alternatives)]
        assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-3)
        assert [alternative["score"] for alternative in several.to_record()["alternatives"]] == pytest.approx(
            scores[1:], abs=1e-3
        )
    with pytest.raises(InputError, match="3 candidates"):
        extractor.extract(texts, beams=2, candidates=3)


def test_a_text_whose_end_is_not_read_is_told(extractor: Extractor) -> None:
    short, long = extractor.extract(["Ada Lovelace died in Ulm.", "Ada Lovelace died in Ulm. " * 200])
    assert (short.truncated, long.truncated) == (False, True)
    assert "truncated" not in short.to_record()
    assert long.to_record()["truncated"]


def test_the_command_writes_what_the_class_finds(
    run: Path, extractor: Extractor, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "triplets.jsonl"
    texts.write_text("".join(json.dumps({"id": f"a{row['id']}", "text": row["text"]}) + "\n" for row in records))
    arguments = ["extract", "--run", str(run), "--file", str(texts), "--device", "cpu"]
    told = CliRunner().invoke(app, [*arguments, "--output", str(out)])
    assert told.exit_code == 0, told.output
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    predictions = extractor.extract([row["text"] for row in records])
    expected = [
        {"id": f"a{row['id']}", "text": row["text"], **prediction.to_record()}
        for row, prediction in zip(records, predictions, strict=True)
    ]
    for text in (out.read_text(), printed.stdout):
        assert [json.loads(line) for line in text.splitlines()] == json.loads(json.dumps(expected))
    assert [record.id for record in read_records(out)] == sorted(row["id"] for row in expected)


def test_the_command_keeps_to_rules(run: Path, records: list[dict[str, Any]]) -> None:
    text = next(row["text"] for row in records if len(row["triplets"]) == 2)
    arguments = ["extract", text, "--run", str(run), "--device", "cpu", "--json"]
    found = [
        len(json.loads(CliRunner().invoke(app, [*arguments, *rule]).stdout)["triplets"])
        for rule in ([], ["--max-triplets", "1"])
    ]
    assert found == [2, 1]
    refused = CliRunner().invoke(app, [*arguments, "--max-triplets", "1", "--no-constrained"])
    assert isinstance(refused.exception, ConfigError)


def test_another_world_names_other_entities(run: Path, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "triplets.jsonl"
    texts.write_text("Ada Lovelace was born in Ulm.\n" * 2)
    people, relations = tmp_path / "people.tsv", tmp_path / "relations.tsv"
    people.write_text("Q1\tAda Lovelace\nQ2\tUlm\n")
    relations.write_text("P19\tplace of birth\n")
    few = tmp_path / "few"
    lists = ["--entities", str(people), "--relations", str(relations)]
    built = CliRunner().invoke(app, ["world", "build", str(few), *lists, "--extractor", str(run / "extractor")])
    assert built.exit_code == 0, built.output
    arguments = ["extract", "--run", str(run), "--file", str(texts), "--device", "cpu", "--output", str(out)]
    found = []
    for world in ([], ["--world", str(few)]):
        told = CliRunner().invoke(app, [*arguments, *world])
        assert told.exit_code == 0, told.output
        found.append({triplet["subject"]["uri"] for line in out.open() for triplet in json.loads(line)["triplets"]})
    assert found == [{"Q10"}, {"Q1"}]


def test_the_server_answers_what_the_class_finds(extractor: Extractor, records: list[dict[str, Any]]) -> None:
    texts = [row["text"] for row in records[:3]]
    server = ExtractorServer(
        lambda texts, options: extractor.extract(texts, **options._asdict()), listen(0), beams=extractor.beams
    )
    with server, urllib.request.urlopen(f"{server.url}/extract", json.dumps({"texts": texts}).encode()) as response:
        answer = json.loads(response.read())
    expected = [prediction.to_record() for prediction in extractor.extract(texts)]
    assert answer == json.loads(json.dumps({"predictions": expected}))


def test_a_longer_search_never_scores_below_greedy(extractor: Extractor, records: list[dict[str, Any]]) -> None:
    texts = [record["text"] for record in records]
    greedy, searched = (extractor.extract(texts, beams=beams, length_penalty=0.0) for beams in (1, 4))
    worse = sum(beam.score < single.score - 1e-4 for beam, single in zip(searched, greedy, strict=True))
    assert worse <= 1  # beam search may prune the greedy path, but hardly ever does


def test_a_split_is_predicted_in_both_modes_in_the_order_of_its_records(run: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    manifest = predict_split(
        CONFIG.model_copy(update={"max_records": 20}),
        run / "dataset",
        run / "extractor",
        tmp_path,
        progress=lambda done, total, unit, **details: seen.append((done, total)),
    )
    assert manifest.counts["records"] == 20
    assert seen[-1] == (40, 40)
    for mode in ("constrained", "unconstrained"):
        table = pq.read_table(tmp_path / f"{mode}.parquet")
        assert table.schema.equals(PREDICTION_SCHEMA)
        assert table["id"].to_pylist() == list(range(20))
    uris = [
        triplet[part]["uri"]
        for row in pq.read_table(tmp_path / "constrained.parquet")["triplets"].to_pylist()
        for triplet in row
        for part in ("subject", "predicate", "object")
    ]
    assert uris
    assert set(uris) <= set(NODES) | set(RELATIONS)
    assert not (tmp_path / ".parts").exists()


def test_an_interrupted_prediction_continues_where_it_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_PART_RECORDS", 8)
    asked: list[int] = []
    original = Extractor.extract

    def counting(self: Extractor, texts: list[str], **options: Any) -> Any:
        asked.append(len(texts))
        return original(self, texts, **options)

    monkeypatch.setattr(Extractor, "extract", counting)

    def stop(done: int, total: int | None, unit: str, **details: Any) -> None:
        if done == 46:
            raise KeyboardInterrupt

    arguments = (CONFIG, run / "dataset", run / "extractor")
    with pytest.raises(KeyboardInterrupt):
        predict_split(*arguments, tmp_path / "stopped", progress=stop)
    assert asked == [8, 8, 8, 6, 8, 8]
    predict_split(*arguments, tmp_path / "stopped")
    assert asked[6:] == [8, 6]
    assert predict_split(*arguments, tmp_path / "stopped").reused
    predict_split(*arguments, tmp_path / "unbroken")
    for mode in ("constrained", "unconstrained"):
        stopped, unbroken = (pq.read_table(tmp_path / name / f"{mode}.parquet") for name in ("stopped", "unbroken"))
        assert stopped.equals(unbroken)


def test_a_folder_without_an_extractor_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no trained extractor"):
        Extractor.open(tmp_path, device="cpu")


def test_an_empty_split_is_refused(run: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"test": 0})
    with pytest.raises(InputError, match=r"test split .* is empty"):
        predict_split(CONFIG, dataset, run / "extractor", tmp_path / "predictions")
