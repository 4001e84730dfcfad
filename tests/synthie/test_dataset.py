from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.sampling.report import GraphColumns, SampledSets, coverage_report
from kg.stage import run_stage
from synthie.config import DatasetConfig, GenerationConfig, QualityConfig
from synthie.dataset import DATASET_SCHEMA, build_dataset
from synthie.errors import InputError
from synthie.llm.prompts import load_prompt
from synthie.records import SAMPLE_SCHEMA, Triplet

NAMES = {"Q1": "Ada_Ørsted", "Q2": "Bern", "Q3": "Zoltán_Kiss", "date:1879": "1879"}
RELATIONS = {"P19": "place of birth", "P26": "spouse", "P569": "date of birth"}
Key = tuple[str, str, str]
# Of three triplets, P0 twice and P1, two are in a set.
COVERAGE = coverage_report(
    GraphColumns(
        *np.array([[0, 1, 2], [0, 0, 1], [1, 2, 3]], np.int32), np.ones(4, np.bool_), ["P0", "P1"], ["of", "or | and"]
    ),
    SampledSets(np.array([0, 1, 3]), np.array([0, 0, 2])),
)


class Folders:
    """A run's folders up to the texts, with the rows that a test wants."""

    def __init__(self, folder: Path, model: str = "synthie-rules") -> None:
        self.graph, self.sets, self.texts, self.dataset = (folder / name for name in ("kg", "sets", "texts", "dataset"))
        self._model = model
        self._rows: list[dict[str, Any]] = []
        self._lost: list[str] = []

    def add(self, split: str, keys: Sequence[Key], reasons: Sequence[str] = (), text: str = "Ada was born.") -> None:
        self._rows.append(_sample(len(self._rows), split, keys, reasons, text))

    def add_negative(self, split: str, topic: str) -> None:
        self._rows.append(_sample(len(self._rows), split, [], (), f"Who likes {topic}?") | {"topic": topic})

    def lose(self, split: str) -> None:
        """A set whose text was never written."""
        self._lost.append(split)

    def build(self, **config: Any) -> dict[str, Any]:
        """Write the folders, build the data set, return the manifest's counts."""
        _stage("kg", self.graph, {}, _write_graph)
        _stage("sets", self.sets, {"n_sets": len(self._rows)}, self._write_sets)
        generation = GenerationConfig(model=self._model).fingerprinted()
        settings = {"generation": generation, "quality": QualityConfig().fingerprinted()}
        prompt = load_prompt(generation["prompt"])
        used = {"prompt": prompt.hash}
        if any(row["topic"] for row in self._rows):
            used["negatives"] = prompt.negatives_hash
        _stage("texts", self.texts, settings, self._write_texts, **used)
        return build_dataset(DatasetConfig(**config), self.graph, self.sets, self.texts, self.dataset).counts

    def _write_sets(self, folder: Path) -> None:
        splits = [row["split"] for row in self._rows] + self._lost
        pq.write_table(pa.table({"id": list(range(len(splits))), "split": splits}), folder / "sets.parquet")
        (folder / "coverage.json").write_text(json.dumps(COVERAGE))
        (folder / "coverage.png").write_bytes(b"\x89PNG")

    def _write_texts(self, folder: Path) -> None:
        for name, verdict in (("samples", "accepted"), ("rejected", "rejected")):
            (folder / name).mkdir()
            rows = [row for row in self._rows if row["verdict"] == verdict]
            for part, start in enumerate(range(0, len(rows), 3)):
                table = pa.Table.from_pylist(rows[start : start + 3], SAMPLE_SCHEMA)
                pq.write_table(table, folder / name / f"part-{part:05d}.parquet")


def _stage(name: str, folder: Path, config: Mapping[str, Any], write: Any, **inputs: str) -> None:
    def work(folder: Path) -> dict[str, Any]:
        write(folder)
        return {}

    run_stage(name, folder, config=config, inputs=inputs, seed=7, work=work)


def _write_graph(folder: Path) -> None:
    pq.write_table(pa.table({"id": list(NAMES)}), folder / "nodes.parquet")
    pq.write_table(pa.table({"subject": [0, 0]}), folder / "triples.parquet")
    pq.write_table(pa.table({"id": list(RELATIONS), "label": list(RELATIONS.values())}), folder / "relations.parquet")


def _sample(number: int, split: str, keys: Sequence[Key], reasons: Sequence[str], text: str) -> dict[str, Any]:
    def node(uri: str) -> dict[str, str]:
        return {"surfaceform": NAMES.get(uri, uri), "uri": uri}

    nodes = list(dict.fromkeys(uri for subject, _, object_ in keys for uri in (subject, object_)))
    return {
        "id": number,
        "split": split,
        "text": text,
        "triplets": [
            {"subject": node(s), "predicate": {"surfaceform": RELATIONS[p], "uri": p}, "object": node(o)}
            for s, p, o in keys
        ],
        "entities": [node(uri) | {"mention_start_index": place} for place, uri in enumerate(nodes)],
        "relations": [{"surfaceform": RELATIONS[p], "uri": p} for p in dict.fromkeys(p for _, p, _ in keys)],
        "topic": None,
        "model": "m",
        "endpoint": "built-in",
        "prompt": "few-shot/1",
        "prompt_hash": "abc",
        "request_key": f"{number:032x}",
        "input_tokens": 10,
        "cached_input_tokens": 2,
        "output_tokens": 5,
        "usd": 0.25,
        "latency_s": 0.5,
        "attempts": 1,
        "finish_reason": "stop",
        "verdict": "rejected" if reasons else "accepted",
        "reasons": [{"check": check, "detail": "because"} for check in reasons],
    }


BORN, BORN_IN, SPOUSE = ("Q1", "P19", "Q2"), ("Q1", "P569", "date:1879"), ("Q1", "P26", "Q3")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path)
    folders.add("train", [BORN, SPOUSE], text="Ada Ørsted, born in Bern, married Zoltán Kiss.")
    folders.add("train", [BORN], reasons=["missing", "extra_name"])
    folders.add("train", [BORN_IN], text="Ada Ørsted was born in 1879.")
    folders.add("test", [SPOUSE], text="Ada Ørsted's spouse is Zoltán Kiss.")
    folders.add("validation", [BORN, BORN_IN])
    folders.add("train", [("Q3", "P19", "Q2")])
    folders.add("train", [("Q3", "P26", "Q1")])
    return folders


def test_accepted_samples_are_split_and_keep_their_order_and_provenance(folders: Folders) -> None:
    counts = folders.build()
    assert counts == {"records": {"train": 4, "validation": 1, "test": 1}, "checked": 7, "rejected": 1}
    table = pq.read_table(folders.dataset / "data/train-00000-of-00001.parquet")
    assert table.schema.equals(DATASET_SCHEMA)
    assert table["id"].to_pylist() == [0, 2, 5, 6]
    assert table["request_key"].to_pylist()[0] == "0" * 32
    assert pq.read_table(folders.dataset / "data/test-00000-of-00001.parquet")["id"].to_pylist() == [3]


def test_the_folder_loads_with_the_datasets_library_without_a_network(folders: Folders, tmp_path: Path) -> None:
    folders.build()
    program = (
        "import json, sys, datasets\n"
        "data = datasets.load_dataset(sys.argv[1])\n"
        "print(json.dumps({'splits': {k: v.num_rows for k, v in data.items()}, 'row': data['train'][0],\n"
        "                  'features': str(data['train'].features['triplets'])}))\n"
    )
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_CACHE": str(tmp_path / "hf/datasets"),
        "HF_HUB_OFFLINE": "1",
    }
    arguments = [sys.executable, "-c", program, str(folders.dataset)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert loaded["splits"] == {"train": 4, "validation": 1, "test": 1}
    assert [Triplet.from_record(triplet).key for triplet in loaded["row"]["triplets"]] == [BORN, SPOUSE]
    assert loaded["row"]["entities"][0] == {"surfaceform": "Ada_Ørsted", "uri": "Q1", "mention_start_index": 0}
    assert "surfaceform" in loaded["features"]  # structs, not strings


def test_the_jsonl_files_have_the_form_of_the_original_data(folders: Folders) -> None:
    folders.build()
    with gzip.open(folders.dataset / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert [record["id"] for record in records] == [0, 2, 5, 6]
    assert list(records[0]) == ["id", "text", "triplets", "entities", "relations"]
    assert records[0]["text"] == "Ada Ørsted, born in Bern, married Zoltán Kiss."
    assert records[0]["triplets"][0] == {
        "subject": {"surfaceform": "Ada_Ørsted", "uri": "Q1"},
        "predicate": {"surfaceform": "place of birth", "uri": "P19"},
        "object": {"surfaceform": "Bern", "uri": "Q2"},
    }
    assert records[0]["entities"][1] == {"surfaceform": "Bern", "uri": "Q2"}
    assert records[0]["relations"][1] == {"surfaceform": "spouse", "uri": "P26"}


def test_the_statistics_count_what_is_in_the_data(folders: Folders) -> None:
    folders.build()
    statistics = json.loads((folders.dataset / "statistics.json").read_text())
    train = statistics["splits"]["train"]
    assert {key: train[key] for key in ("sets", "records", "triplets", "entities", "literals", "relations")} == {
        "sets": 5,
        "records": 4,
        "triplets": 5,
        "entities": 3,
        "literals": 1,
        "relations": 3,
    }
    assert train["triplets_per_record"] == 1.25
    assert train["records_by_size"] == {"1": 3, "2": 1}
    assert train["records_per_relation"] == [1, 1.5, 2, 2, 2]
    assert statistics["relations"] == {
        "P26": {"train": 2, "validation": 0, "test": 1},
        "P19": {"train": 2, "validation": 1, "test": 0},
        "P569": {"train": 1, "validation": 1, "test": 0},
    }
    assert statistics["shared"]["test_in_train"] == {"sets": 0, "triplets": 1.0, "nodes": 1.0}
    assert statistics["shared"]["test_in_validation"] == {"sets": 0, "triplets": 0.0, "nodes": 0.5}
    assert statistics["quality"]["reasons"] == {"missing": 1, "extra_name": 1}
    assert statistics["quality"]["tokens"] == {"input": 70, "cached": 14, "output": 35, "usd": 1.75}
    assert statistics["coverage"] == COVERAGE


def test_the_card_has_valid_metadata_and_tells_how_the_data_were_made(folders: Folders) -> None:
    folders.build(name="My data: a trial", licence="cc-by-4.0")
    card = (folders.dataset / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pretty_name"] == "My data: a trial"
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["size_categories"] == ["n<1K"]
    assert {item["split"] for item in metadata["configs"][0]["data_files"]} == {"train", "validation", "test"}
    prompt = load_prompt(GenerationConfig().prompt)
    for expected in (
        "# My data: a trial",
        "Rule-made text",
        "| records | 4 | 1 | 1 |",
        "| accepted | 6 | 85.7% |",
        "| rejected: missing | 1 | 14.3% |",
        "| P19 | place of birth | 2 | 1 | 0 |",
        "1.75 USD",
        prompt.hash,
        prompt.user.strip().splitlines()[0],
        "66.67% of the triplets",
        r"| P1 | or \| and | 1 | 50.00% |",
        "coverage.png",
        "10.18653/v1/2023.emnlp-main.96",
        "seed 7",
    ):
        assert expected in body, expected
    assert not re.search(r"\{\{|\{%|None", body.replace(prompt.user.strip(), ""))
    assert (folders.dataset / "coverage.png").read_bytes() == b"\x89PNG"


def test_negatives_are_in_their_splits_marked_by_their_topic(folders: Folders) -> None:
    folders.add_negative("train", "Q2")
    folders.add_negative("test", "Q3")
    counts = folders.build()
    assert counts["records"] == {"train": 5, "validation": 1, "test": 2}
    train = pq.read_table(folders.dataset / "data/train-00000-of-00001.parquet")
    assert train["topic"].to_pylist() == [None, None, None, None, "Q2"]
    with gzip.open(folders.dataset / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        *_, negative = map(json.loads, file)
    assert negative == {"id": 8, "text": "Who likes Q3?", "triplets": [], "entities": [], "relations": []}
    statistics = json.loads((folders.dataset / "statistics.json").read_text())
    assert {split: figures["negatives"] for split, figures in statistics["splits"].items()} == {
        "train": 1,
        "validation": 0,
        "test": 1,
    }
    assert statistics["splits"]["train"]["records_by_size"] == {"0": 1, "1": 3, "2": 1}
    card = (folders.dataset / "README.md").read_text(encoding="utf-8")
    assert "| records without triplets | 1 | 0 | 1 |" in card
    assert "2 records have no triplets" in card
    prompt = load_prompt(GenerationConfig().prompt)
    assert prompt.negatives is not None
    assert prompt.negatives.user.strip() in card


def test_without_negatives_the_card_does_not_speak_of_them(folders: Folders) -> None:
    folders.build()
    card = (folders.dataset / "README.md").read_text(encoding="utf-8")
    assert "records without triplets" not in card
    assert "Negatives" not in card


def test_a_split_of_negatives_alone_is_published(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN])
    folders.add_negative("test", "Q2")
    assert folders.build()["records"] == {"train": 1, "test": 1}
    statistics = json.loads((folders.dataset / "statistics.json").read_text())
    assert statistics["splits"]["test"]["records_per_relation"] == [0, 0, 0, 0, 0]
    assert statistics["shared"]["test_in_train"] == {"sets": 0, "triplets": 0.0, "nodes": 0.0}


def test_samples_from_before_there_were_topics_are_published(folders: Folders) -> None:
    folders.build()
    for path in folders.texts.glob("samples/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["topic"]), path)
    (folders.dataset / "manifest.json").unlink()
    assert folders.build()["records"] == {"train": 4, "validation": 1, "test": 1}
    assert "topic" not in pq.read_schema(folders.texts / "samples" / "part-00000.parquet").names


def test_the_hub_library_accepts_the_metadata(folders: Folders) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folders.build()
    card = hub.DatasetCard.load(folders.dataset / "README.md")
    assert card.data.license == "cc0-1.0"
    assert card.data.to_dict()["configs"][0]["config_name"] == "default"


def test_only_rule_made_texts_carry_the_notice(tmp_path: Path) -> None:
    folders = Folders(tmp_path, model="some-llm")
    folders.add("train", [BORN])
    folders.build()
    assert "Rule-made text" not in (folders.dataset / "README.md").read_text(encoding="utf-8")


def test_a_split_without_accepted_texts_is_an_error_that_says_why(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN])
    folders.add("test", [SPOUSE], reasons=["missing"])
    folders.add("test", [BORN_IN], reasons=["missing", "markup"])
    folders.lose("test")
    message = (
        r"test split has no accepted text: of 3 .* 2 texts were rejected \(reasons: missing 2, markup 1\) and 1 were"
    )
    with pytest.raises(InputError, match=message):
        folders.build()
    assert not (folders.dataset / "manifest.json").exists()


def test_a_run_without_any_accepted_text_is_an_error(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN], reasons=["refusal"])
    with pytest.raises(InputError, match="train split has no accepted text"):
        folders.build()


def test_a_set_in_two_splits_is_an_error_whatever_the_order_of_its_triplets(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN, SPOUSE])
    folders.add("test", [SPOUSE, BORN])
    with pytest.raises(InputError, match="splits train and test share 1 triplet sets"):
        folders.build()


def test_splits_that_were_not_drawn_are_left_out(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN])
    assert folders.build()["records"] == {"train": 1}
    assert sorted(path.name for path in (folders.dataset / "data").iterdir()) == ["train-00000-of-00001.parquet"]


def test_large_splits_are_written_in_several_files(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthie.dataset._ROWS_PER_FILE", 1)
    monkeypatch.setattr("synthie.dataset._ROWS_PER_GROUP", 1)
    monkeypatch.setattr("synthie.dataset._READ_ROWS", 1)
    folders.build()
    names = sorted(path.name for path in (folders.dataset / "data").glob("train-*"))
    assert names == [f"train-{number:05d}-of-00004.parquet" for number in range(4)]
    statistics = json.loads((folders.dataset / "statistics.json").read_text())
    assert statistics["splits"]["train"]["records"] == 4


def test_building_again_changes_no_byte_but_those_that_tell_the_time(folders: Folders, tmp_path: Path) -> None:
    folders.build()
    first = {path: path.read_bytes() for path in sorted(folders.dataset.rglob("*")) if path.is_file()}
    (folders.dataset / "manifest.json").unlink()
    folders.build()
    for path, content in first.items():
        assert path.name in ("manifest.json", ".lock") or path.read_bytes() == content, path


def test_a_missing_stage_is_named(folders: Folders, tmp_path: Path) -> None:
    folders.build()
    with pytest.raises(InputError, match="holds no finished stage"):
        build_dataset(DatasetConfig(), folders.graph, folders.sets, tmp_path / "nothing", tmp_path / "other")


keys = st.lists(
    st.tuples(st.sampled_from(["Q1", "Q3"]), st.sampled_from(sorted(RELATIONS)), st.sampled_from(sorted(NAMES))),
    min_size=1,
    max_size=4,
    unique=True,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(keys, st.text(st.characters(codec="utf-8"), max_size=20)), min_size=1, max_size=6))
def test_every_record_survives_the_jsonl_and_parquet_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[list[Key], str]]
) -> None:
    folders = Folders(tmp_path_factory.mktemp("run"))
    for triplets, text in rows:
        folders.add("train", triplets, text=text)
    folders.build()
    with gzip.open(folders.dataset / "train.jsonl.gz", "rt", encoding="utf-8", newline="\n") as file:
        records = [json.loads(line) for line in file]
    table = pq.read_table(folders.dataset / "data").to_pylist()
    for (triplets, text), record, row in zip(rows, records, table, strict=True):
        assert record["text"] == row["text"] == text
        assert [Triplet.from_record(triplet).key for triplet in record["triplets"]] == triplets
        assert row["triplets"] == record["triplets"]
