from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from dataset_world import BORN, BORN_IN, COVERAGE, NAMES, RELATIONS, SPOUSE, Folders, Key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthie.config import DatasetConfig, GenerationConfig
from synthie.dataset import DATASET_SCHEMA, build_dataset
from synthie.errors import InputError
from synthie.llm.prompts import load_prompt
from synthie.records import Triplet


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
    assert counts == {
        "records": {"train": 4, "validation": 1, "test": 1},
        "published": 6,
        "checked": 7,
        "rejected": 1,
    }
    table = pq.read_table(folders.dataset / "data/train-00000.parquet")
    assert table.schema.equals(DATASET_SCHEMA)
    assert table["id"].to_pylist() == [0, 2, 5, 6]
    assert table["request_key"].to_pylist()[0] == "0" * 32
    assert pq.read_table(folders.dataset / "data/test-00000.parquet")["id"].to_pylist() == [3]


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
    assert statistics["leakage"]["test"] == {
        "shared_sets": 0,
        "triplets_in_train": 1.0,
        "entities_in_train": 1.0,
        "relations_in_train": 1.0,
        "combinations_in_train": 1.0,
        "records_of_seen_triplets": 1.0,
        "records_without_seen_triplet": 0.0,
        "records_with_unseen_entity": 0.0,
        "records_of_unseen_combination": 0.0,
    }
    # Born in Bern, and in 1879, are known apart, not together.
    assert statistics["leakage"]["validation"]["triplets_in_train"] == 1.0
    assert statistics["leakage"]["validation"]["combinations_in_train"] == 0.0
    assert statistics["leakage"]["validation"]["records_of_unseen_combination"] == 1.0
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
        "$1.75",
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
    assert counts["published"] == 8
    train = pq.read_table(folders.dataset / "data/train-00000.parquet")
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
    assert set(statistics["leakage"]["test"].values()) == {0}


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
    assert sorted(path.name for path in (folders.dataset / "data").iterdir()) == ["train-00000.parquet"]


def test_large_splits_are_written_in_several_files(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthie.publishing.shards._ROWS_PER_FILE", 1)
    monkeypatch.setattr("synthie.publishing.shards._ROWS_PER_GROUP", 1)
    monkeypatch.setattr("synthie.publishing.shards._READ_ROWS", 1)
    folders.build()
    names = sorted(path.name for path in (folders.dataset / "data").glob("train-*"))
    assert names == [f"train-{number:05d}.parquet" for number in range(4)]
    statistics = json.loads((folders.dataset / "statistics.json").read_text())
    assert statistics["splits"]["train"]["records"] == 4


def test_building_again_changes_no_byte_but_those_that_tell_the_time(folders: Folders, tmp_path: Path) -> None:
    folders.build()
    first = {path: path.read_bytes() for path in sorted(folders.dataset.rglob("*")) if path.is_file()}
    (folders.dataset / "manifest.json").unlink()
    folders.build()
    for path, content in first.items():
        assert path.name in ("manifest.json", ".lock") or path.read_bytes() == content, path


def test_an_entity_is_withheld_from_the_label_with_all_its_facts_while_the_text_stays(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    facts = [BORN, BORN_IN, ("Q3", "P19", "Q2"), ("Q3", "P569", "date:1879")]
    folders.add("train", facts)
    folders.add("train", [BORN])  # nothing would be left
    folders.add("train", [BORN, BORN_IN])  # only Bern can go: Ada is in both facts, and dates are no entities
    folders.add("test", [SPOUSE, BORN_IN])
    folders.build(withheld_share=1.0)
    first, alone, third = folders.rows("train")
    labels, withheld = ([_keys(row[name]) for row in (first, third)] for name in ("triplets", "withheld"))
    gone = {"Q1", "Q2", "Q3"} - {uri for subject, _, object_ in labels[0] for uri in (subject, object_)}
    assert len(gone) == 1
    assert withheld[0] == [key for key in facts if gone & set(key)]
    assert sorted(labels[0] + withheld[0]) == sorted(facts)
    assert {entity["uri"] for entity in first["entities"]} == {uri for s, _, o in labels[0] for uri in (s, o)}
    assert {relation["uri"] for relation in first["relations"]} == {relation for _, relation, _ in labels[0]}
    assert (labels[1], withheld[1]) == ([BORN_IN], [BORN])
    assert (_keys(alone["triplets"]), alone["withheld"]) == ([BORN], [])
    assert [row["withheld"] for row in folders.rows("test")] == [[]]
    train = folders.statistics()["splits"]["train"]
    assert (train["withheld_records"], train["withheld_triplets"]) == (2, len(withheld[0]) + 1)
    assert 'Of 2 records one entity is "not in the world"' in folders.card()


def test_what_is_withheld_follows_from_the_seed_and_the_record_alone(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for _ in range(40):
        folders.add("train", [BORN, BORN_IN, SPOUSE])
    folders.build(withheld_share=0.5)
    first = {row["id"]: row["withheld"] for row in folders.rows()}
    assert 8 < sum(map(bool, first.values())) < 32
    folders.add("train", [BORN, SPOUSE])
    folders.build(withheld_share=0.5)
    assert {row["id"]: row["withheld"] for row in folders.rows()}.items() >= first.items()
    folders.publish(withheld_share=0.5, seed=1)
    assert {row["id"]: row["withheld"] for row in folders.rows() if row["id"] < 40} != first


def test_test_records_with_an_entity_withheld_are_a_split_of_their_own_if_asked_for(folders: Folders) -> None:
    folders.add("test", [("Q3", "P19", "Q2"), ("Q3", "P569", "date:1879")])
    counts = folders.build(withheld_test=True)
    assert counts["records"] == {"train": 4, "validation": 1, "test": 2, "test_withheld": 1}
    (row,) = folders.rows("test_withheld")
    assert (_keys(row["triplets"]), _keys(row["withheld"]), row["split"]) == (
        [("Q3", "P569", "date:1879")],
        [("Q3", "P19", "Q2")],
        "test_withheld",
    )
    assert len(folders.rows("test")[-1]["triplets"]) == 2
    assert "| test_withheld |" in folders.card()


def test_the_seed_decides_which_entity_the_withheld_test_records_lack(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN])
    for _ in range(20):
        folders.add("test", [BORN, BORN_IN, SPOUSE])
    folders.build(withheld_test=True)
    first = [row["withheld"] for row in folders.rows("test_withheld")]
    folders.publish(withheld_test=True, seed=1)
    assert [row["withheld"] for row in folders.rows("test_withheld")] != first


def test_withheld_test_records_that_are_asked_for_and_cannot_be_are_an_error(folders: Folders) -> None:
    with pytest.raises(InputError, match="The split test_withheld would be empty"):
        folders.build(withheld_test=True)


def test_texts_that_a_judge_finds_faulty_are_dropped_or_flagged(folders: Folders) -> None:
    folders.write()
    folders.judge_as({5: "contradicted", 6: "stated"})
    assert folders.publish()["records"]["train"] == 3
    card = folders.card()
    assert [row["id"] for row in folders.rows()] == [0, 2, 6]
    assert "| judged faulty, so left out | 1 | 14.3% |" in card
    assert "| llm (`some-judge`) | 2 | 2 | 50.0% (" in card
    assert "| people, of SynthIE | | | 78.0% | 85.0% | |" in card
    assert "Having texts judged took $0.06 more." in card
    assert folders.publish(judged_faulty="flag")["records"]["train"] == 4
    faults = {row["id"]: [fault["check"] for fault in row["faults"]] for row in folders.rows()}
    assert faults == {0: [], 2: [], 5: ["contradicted"], 6: []}
    assert "| records with a flagged fault | 1 | 0 | 0 |" in folders.card()


def test_a_person_has_the_last_word(folders: Folders) -> None:
    folders.write()
    folders.judge_as({5: "absent", 6: "absent"})
    folders.say(0, "reject")
    folders.say(1, "accept")  # the gate had rejected it
    folders.say(5, "accept")
    folders.publish()
    assert [row["id"] for row in folders.rows()] == [1, 2, 5]
    assert all(row["faults"] == [] for row in folders.rows())
    assert "| left out by hand | 1 | 14.3% |" in folders.card()
    assert "| brought back by hand | 1 | 14.3% |" in folders.card()


def test_a_new_verdict_makes_the_data_set_anew(folders: Folders) -> None:
    folders.write()
    assert folders.publish()["records"]["train"] == 4
    folders.say(0, "reject")
    assert folders.publish()["records"]["train"] == 3
    assert folders.statistics()["version"] == "2.0"


def test_a_split_of_unseen_combinations_that_training_has_seen_is_an_error(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN, SPOUSE])
    folders.add("test_unseen_combinations", [("Q3", "P19", "Q1"), ("Q3", "P26", "Q1")])
    with pytest.raises(InputError, match="1 of 1 records of test_unseen_combinations have nothing that train lacks"):
        folders.build()


def test_splits_of_unseen_things_are_published_and_their_promise_is_told(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [BORN, BORN_IN])
    folders.add("test_unseen_combinations", [BORN, SPOUSE])
    folders.add("test_unseen_entities", [("Q3", "P19", "Q2")])
    folders.build()
    leakage = folders.statistics()["leakage"]
    assert leakage["test_unseen_combinations"]["records_of_unseen_combination"] == 1.0
    assert leakage["test_unseen_entities"]["records_with_unseen_entity"] == 1.0
    assert leakage["test_unseen_entities"]["entities_in_train"] == 0.5
    assert "| records with an entity that train lacks | 100.0% | 100.0% |" in folders.card()


def _keys(triplets: list[dict[str, dict[str, str]]]) -> list[Key]:
    return [Triplet.from_record(triplet).key for triplet in triplets]


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
