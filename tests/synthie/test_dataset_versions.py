from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dataset_world import BORN, BORN_IN, SPOUSE, Folders

from synthie.errors import ConfigError, InputError


@pytest.fixture
def monday(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "monday")
    folders.add("train", [BORN, SPOUSE])
    folders.add("train", [BORN_IN])
    folders.add("test", [SPOUSE])
    folders.build()
    return folders


def tuesday_after(monday: Folders, tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "tuesday", first=3)
    folders.add("train", [BORN, BORN_IN])
    folders.add("train", [("Q3", "P19", "Q2")], reasons=["missing"])
    folders.add("validation", [("Q3", "P26", "Q1")])
    return folders


def files(folders: Folders) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folders.dataset / "data").iterdir())}


def test_a_continued_data_set_has_new_shards_beside_the_old_ones_which_stay_as_they_are(
    monday: Folders, tmp_path: Path
) -> None:
    before = files(monday)
    tuesday = tuesday_after(monday, tmp_path)
    counts = tuesday.build(continue_from=str(monday.dataset))
    after = files(tuesday)
    assert before.items() < after.items()
    assert set(after) - set(before) == {"train-00001.parquet", "validation-00000.parquet"}
    assert files(monday) == before
    assert counts["records"] == {"train": 3, "validation": 1, "test": 1}
    assert [row["id"] for row in tuesday.rows()] == [0, 1, 3]
    jsonl = (tuesday.dataset / "train.jsonl.gz").read_bytes()
    assert jsonl.startswith((monday.dataset / "train.jsonl.gz").read_bytes())
    assert [json.loads(line)["id"] for line in gzip.decompress(jsonl).splitlines()] == [0, 1, 3]


def test_card_and_statistics_follow(monday: Folders, tmp_path: Path) -> None:
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.build(continue_from=str(monday.dataset))
    statistics = tuesday.statistics()
    assert statistics["version"] == "1.1"
    first, second = statistics["versions"]
    assert (first["version"], first["change"], first["records"]) == ("1.0", "first version", {"train": 2, "test": 1})
    assert (second["change"], second["sets"], second["usd"]) == ("2 records added", 3, 0.75)
    assert second["records"] == {"train": 3, "validation": 1, "test": 1}
    assert statistics["splits"]["train"]["sets"] == 4
    assert (statistics["quality"]["checked"], statistics["quality"]["rejected"]) == (6, 1)
    assert statistics["quality"]["tokens"] == {"input": 60, "cached": 12, "output": 30, "usd": 1.5}
    card = tuesday.card()
    assert f"| 1.1 | {second['date']} | 2 records added | 3 | 5 | $0.75 |" in card
    assert f"| 1.0 | {first['date']} | first version | 3 | 3 | $0.75 |" in card
    assert "Version 1.1 of" in card
    assert "for $1.50" in card


def test_a_continued_data_set_loads_whole(monday: Folders, tmp_path: Path) -> None:
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.build(continue_from=str(monday.dataset))
    program = (
        "import sys, datasets\n"
        "print({split: data.num_rows for split, data in datasets.load_dataset(sys.argv[1]).items()})\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-c", program, str(tuesday.dataset)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'train': 3, 'validation': 1, 'test': 1}"


def test_the_same_records_are_the_same_version_whatever_else_changes(monday: Folders) -> None:
    monday.publish(licence="cc-by-4.0")
    statistics = monday.statistics()
    assert statistics["version"] == "1.0"
    assert len(statistics["versions"]) == 1
    assert "license: cc-by-4.0" in monday.card()


def test_changed_records_make_a_new_major_version(monday: Folders) -> None:
    before = monday.rows()
    monday.publish(withheld_share=1.0)
    assert monday.rows() != before
    assert monday.statistics()["version"] == "2.0"
    assert monday.statistics()["versions"][-1]["change"] == "records of the version before changed"


def test_what_was_spent_for_an_earlier_major_version_is_not_told_as_the_cost_of_this_one(monday: Folders) -> None:
    monday.publish(withheld_share=1.0)
    assert "for $0.75" in monday.card()


def test_the_cost_of_texts_counts_once_however_many_versions_are_made_of_them(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.add("train", [SPOUSE])
    folders.add("test", [BORN, BORN_IN])
    folders.build()
    folders.publish(withheld_test=True)
    assert folders.statistics()["version"] == "1.1"
    assert folders.statistics()["spent_usd"] == 0.5


def test_what_judging_cost_adds_up_over_versions(monday: Folders, tmp_path: Path) -> None:
    assert "Having texts judged" not in monday.card()
    monday.judge_as({0: "stated"})
    monday.publish()
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.write()
    tuesday.judge_as({7: "stated", 8: "stated"})
    tuesday.publish(continue_from=str(monday.dataset))
    assert "Having texts judged took $0.09 more." in tuesday.card()


def test_a_new_major_version_of_continued_data_tells_what_the_earlier_run_cost_too(
    monday: Folders, tmp_path: Path
) -> None:
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.build(continue_from=str(monday.dataset))
    tuesday.publish(continue_from=str(monday.dataset), withheld_share=1.0)
    assert tuesday.statistics()["version"] == "2.0"
    assert tuesday.statistics()["spent_usd"] == 1.5
    assert "for $1.50" in tuesday.card()


def test_sets_that_do_not_continue_the_earlier_ones_are_an_error(monday: Folders, tmp_path: Path) -> None:
    other = Folders(tmp_path / "other")
    other.add("train", [BORN])
    with pytest.raises(ConfigError, match=r"numbers begin at 0, and 2 is taken\. Set 'sampling\.continue_from'"):
        other.build(continue_from=str(monday.dataset))


def test_a_set_of_an_earlier_version_in_another_split_is_an_error(monday: Folders, tmp_path: Path) -> None:
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.add("train", [SPOUSE])
    with pytest.raises(InputError, match="splits train and test share 1 triplet sets"):
        tuesday.build(continue_from=str(monday.dataset))


@pytest.mark.parametrize("wrong", ["nothing", "run", "itself"])
def test_what_cannot_be_continued_is_named(monday: Folders, tmp_path: Path, wrong: str) -> None:
    tuesday = tuesday_after(monday, tmp_path)
    places = {"nothing": tmp_path / "nothing", "run": tmp_path / "monday", "itself": tuesday.dataset}
    told = {"nothing": "no finished data set", "run": "Did you mean .*monday/dataset", "itself": "writes to"}
    with pytest.raises(ConfigError, match=told[wrong]):
        tuesday.build(continue_from=str(places[wrong]))


def change_statistics(folders: Folders, **changes: Any) -> None:
    path = folders.dataset / "statistics.json"
    kept = {name: value for name, value in (folders.statistics() | changes).items() if value is not None}
    path.write_text(json.dumps(kept))


def test_data_of_a_time_when_the_whole_cost_was_not_kept_are_continued_and_the_card_says_so(
    monday: Folders, tmp_path: Path
) -> None:
    change_statistics(monday, spent_usd=None, spent_usd_is_all=None)
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.build(continue_from=str(monday.dataset))
    assert tuesday.statistics()["spent_usd"] == 0.75
    assert "for at least $0.75" in tuesday.card()
    assert "What all tries took for the first of the versions is not on record." in tuesday.card()
    wednesday = Folders(tmp_path / "wednesday", first=6)
    wednesday.add("train", [("Q2", "P26", "Q1")])
    wednesday.build(continue_from=str(tuesday.dataset))
    assert "for at least $1.00" in wednesday.card()


def test_the_cost_of_data_that_kept_it_is_told_without_reserve(monday: Folders) -> None:
    assert "at least $" not in monday.card()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"quality": None},
            r"statistics\.json lacks 'quality', so an earlier version .* has made it\. Delete its mani",
        ),
        ({"import": {"form": "rebel"}}, "its records are imported"),
    ],
)
def test_what_a_data_set_lacks_to_be_continued_is_named(
    monday: Folders, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    change_statistics(monday, **changes)
    with pytest.raises(ConfigError, match=f"monday/dataset cannot be continued: .*{told}"):
        tuesday_after(monday, tmp_path).build(continue_from=str(monday.dataset))


def test_a_data_set_of_another_graph_is_not_continued(monday: Folders, tmp_path: Path) -> None:
    path = monday.dataset / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": {"graph": "another"}}))
    with pytest.raises(ConfigError, match="cannot be continued: it was made from another graph"):
        tuesday_after(monday, tmp_path).build(continue_from=str(monday.dataset))


TOLD = "Ada Ørsted, who was born in Bern in the year of 1879, later married a man by the name of Zoltán Kiss."


def told_twice(tmp_path: Path, **quality: Any) -> tuple[Folders, Folders]:
    """A data set, and a run that tells one of its texts to the letter, one nearly so, and one anew."""
    monday = Folders(tmp_path / "monday")
    monday.add("train", [SPOUSE])
    monday.add("test", [BORN, SPOUSE], text=TOLD)
    monday.build()
    tuesday = Folders(tmp_path / "tuesday", first=2, quality=quality)
    tuesday.add("train", [BORN, BORN_IN], text=TOLD)
    tuesday.add("train", [BORN_IN], text=TOLD.replace("later", "then"))
    tuesday.add("train", [BORN])
    return monday, tuesday


def test_new_texts_that_repeat_earlier_ones_are_left_out(tmp_path: Path) -> None:
    monday, tuesday = told_twice(tmp_path, near_duplicate=0.6)
    tuesday.build(continue_from=str(monday.dataset))
    assert [row["id"] for row in tuesday.rows()] == [0, 4]
    assert tuesday.statistics()["verdicts"]["repeats_left_out"] == 2
    assert "| repeats a text of an earlier version, so left out | 2 | 40.0% |" in tuesday.card()


def test_only_texts_as_similar_as_the_quality_gate_says_are_repetitions(tmp_path: Path) -> None:
    monday, tuesday = told_twice(tmp_path, near_duplicate=1.0)
    tuesday.build(continue_from=str(monday.dataset))
    assert [row["id"] for row in tuesday.rows()] == [0, 3, 4]


def test_repetitions_of_earlier_texts_are_flagged_where_the_quality_gate_only_flags_them(tmp_path: Path) -> None:
    monday, tuesday = told_twice(tmp_path, near_duplicate=0.6, actions={"near_duplicate": "flag"})
    tuesday.build(continue_from=str(monday.dataset))
    faults = {row["id"]: row["faults"] for row in tuesday.rows()}
    assert faults == {
        0: [],
        3: [{"check": "near_duplicate", "detail": "Nearly the same text as that of set 1 of an earlier version."}],
        4: [],
    }
    assert "| repeats a text of an earlier version, so flagged | 1 | 20.0% |" in tuesday.card()


def test_a_person_may_keep_a_text_that_repeats_an_earlier_one(tmp_path: Path) -> None:
    monday, tuesday = told_twice(tmp_path)
    tuesday.write()
    tuesday.say(2, "accept")
    tuesday.publish(continue_from=str(monday.dataset))
    assert [row["id"] for row in tuesday.rows()] == [0, 2, 3, 4]


def test_a_run_that_adds_only_repetitions_is_an_error_that_says_so(tmp_path: Path) -> None:
    monday, _ = told_twice(tmp_path)
    tuesday = Folders(tmp_path / "other", first=2)
    tuesday.add("train", [BORN, BORN_IN], text=TOLD)
    with pytest.raises(InputError, match="1 texts repeat those of the data set that is continued"):
        tuesday.build(continue_from=str(monday.dataset))


def test_negatives_are_continued_too(monday: Folders, tmp_path: Path) -> None:
    tuesday = tuesday_after(monday, tmp_path)
    tuesday.add_negative("train", "Q2")
    tuesday.build(continue_from=str(monday.dataset))
    wednesday = Folders(tmp_path / "wednesday", first=7)
    wednesday.add_negative("train", "Q3")
    wednesday.build(continue_from=str(tuesday.dataset))
    assert wednesday.statistics()["splits"]["train"]["negatives"] == 2
    assert [row["topic"] for row in wednesday.rows()] == [None, None, None, "Q2", "Q3"]


def test_a_damaged_history_is_named(monday: Folders) -> None:
    (monday.dataset / "versions.json").write_text("{")
    with pytest.raises(InputError, match=r"versions\.json is damaged"):
        monday.publish(name="another")
