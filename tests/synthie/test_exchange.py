from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dataset_world import BORN, BORN_IN, SPOUSE, Folders
from texts_world import entity, relation
from typer.testing import CliRunner

from kg.build import build_graph
from kg.config import GraphConfig
from synthie.cli import app
from synthie.errors import ConfigError, InputError, StorageError
from synthie.exchange.exporting import export
from synthie.exchange.forms import TARGETS, Target, read_chat_target
from synthie.exchange.importing import import_records, split_of
from synthie.exchange.mentions import find_mention
from synthie.extractor.examples import read_texts

NODES = {"Q1": "Ada_Ørsted", "Q2": "Bern", "Q3": "Zoltán_Kiss", "date:1879": "1879"}
TEXT = "Ada Ørsted, born in Bern, married Zoltán Kiss."


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    year = {"time": "+1879-00-00T00:00:00Z", "precision": 9, "calendarmodel": "http://www.wikidata.org/entity/Q1985727"}
    snak = {"snaktype": "value", "property": "P569", "datatype": "time", "datavalue": {"type": "time", "value": year}}
    ada = entity(1, "Ada Ørsted", {"P19": [2], "P26": [3]})
    ada["claims"]["P569"] = [{"mainsnak": snak, "rank": "normal", "type": "statement"}]
    documents = [
        relation("P19", "place of birth"),
        relation("P26", "spouse"),
        relation("P569", "date of birth") | {"datatype": "time"},
        ada,
        entity(2, "Bern", {}),
        entity(3, "Zoltán Kiss", {}),
    ]
    (tmp_path / "dump.json").write_text("[\n" + ",\n".join(map(json.dumps, documents)) + "\n]\n")
    build_graph(GraphConfig(dump=str(tmp_path / "dump.json")), tmp_path / "graph")
    return tmp_path / "graph"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "run")
    folders.add("train", [BORN, SPOUSE], text=TEXT, mentions={"Q1": 0, "Q2": 20, "Q3": 34})
    folders.add("train", [BORN_IN], text="Ada Ørsted was born in 1879.", mentions={"Q1": 0, "date:1879": 23})
    folders.add_negative("train", "Q2")
    folders.add("test", [SPOUSE], text="Zoltán Kiss is the spouse of Ada Ørsted.", mentions={"Q1": 29, "Q3": 0})
    folders.build()
    return folders


def lines(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


# --- Exports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_chat_has_a_task_the_text_and_triplets_that_can_be_read_back(
    folders: Folders, tmp_path: Path, target: Target
) -> None:
    counts = export(folders.dataset, tmp_path / "chat", "chat", target=target)
    assert counts == {"train.jsonl": 3, "test.jsonl": 1}
    chats = lines(tmp_path / "chat" / "train.jsonl")
    assert [list(chat) for chat in chats] == [["messages"]] * 3
    for chat in chats:
        assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant"]
        assert all(message["content"] for message in chat["messages"])
    assert chats[0]["messages"][1]["content"] == TEXT
    assert [read_chat_target(chat["messages"][2]["content"], target) for chat in chats] == [
        [("Ada Ørsted", "place of birth", "Bern"), ("Ada Ørsted", "spouse", "Zoltán Kiss")],
        [("Ada Ørsted", "date of birth", "1879")],
        [],
    ]


def test_the_system_message_of_chats_may_be_ones_own(folders: Folders, tmp_path: Path) -> None:
    export(folders.dataset, tmp_path, "chat", system="Find the facts.", splits=["test"])
    (chat,) = lines(tmp_path / "test.jsonl")
    assert chat["messages"][0]["content"] == "Find the facts."
    assert not (tmp_path / "train.jsonl").exists()


def test_the_synthie_form_has_the_fields_of_the_original_and_no_others(folders: Folders, tmp_path: Path) -> None:
    export(folders.dataset, tmp_path, "synthie", compress=True)
    record = lines(tmp_path / "train.jsonl.gz")[0]
    assert record == {
        "id": 0,
        "text": TEXT,
        "triplets": [
            {
                "subject": {"surfaceform": "Ada_Ørsted", "uri": "Q1"},
                "predicate": {"surfaceform": "place of birth", "uri": "P19"},
                "object": {"surfaceform": "Bern", "uri": "Q2"},
            },
            {
                "subject": {"surfaceform": "Ada_Ørsted", "uri": "Q1"},
                "predicate": {"surfaceform": "spouse", "uri": "P26"},
                "object": {"surfaceform": "Zoltán_Kiss", "uri": "Q3"},
            },
        ],
        "entities": [
            {"surfaceform": "Ada_Ørsted", "uri": "Q1"},
            {"surfaceform": "Bern", "uri": "Q2"},
            {"surfaceform": "Zoltán_Kiss", "uri": "Q3"},
        ],
        "relations": [{"surfaceform": "place of birth", "uri": "P19"}, {"surfaceform": "spouse", "uri": "P26"}],
    }
    assert lines(tmp_path / "train.jsonl.gz") == lines(folders.dataset / "train.jsonl.gz")


def test_the_rebel_form_has_boundaries_that_hold_the_surface_form(folders: Folders, tmp_path: Path) -> None:
    export(folders.dataset, tmp_path, "rebel")
    record = lines(tmp_path / "train.jsonl")[0]
    for node in record["entities"]:
        start, end = node["boundaries"]
        assert record["text"][start:end] == node["surfaceform"] == NODES[node["uri"]].replace("_", " ")
    assert [triple["predicate"]["uri"] for triple in record["triples"]] == ["P19", "P26"]
    assert record["triples"][1]["object"] == record["entities"][2]


def test_a_split_that_is_not_there_is_named(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'validation'; it has train, test"):
        export(folders.dataset, tmp_path, "chat", splits=["validation"])


def test_a_data_set_is_not_exported_over_itself(folders: Folders) -> None:
    before = (folders.dataset / "train.jsonl.gz").read_bytes()
    with pytest.raises(ConfigError, match="the data set itself"):
        export(folders.dataset, folders.dataset / "data" / "..", "chat", compress=True)
    assert (folders.dataset / "train.jsonl.gz").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write .*file/out"):
        export(folders.dataset, tmp_path / "file" / "out", "chat")


def test_damaged_statistics_are_named(folders: Folders, tmp_path: Path) -> None:
    (folders.dataset / "statistics.json").write_text("{")
    with pytest.raises(InputError, match=r"statistics\.json is damaged"):
        export(folders.dataset, tmp_path / "out", "chat")


def test_an_unfinished_data_set_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished stage"):
        export(tmp_path / "nothing", tmp_path / "out", "chat")


# --- Imports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["synthie", "rebel"])
def test_what_is_exported_can_be_imported(folders: Folders, graph: Path, tmp_path: Path, form: Any) -> None:
    export(folders.dataset, tmp_path / "out", form, compress=True)
    files = sorted((tmp_path / "out").iterdir())
    manifest = import_records(files, form, graph, tmp_path / "import", name="again")
    assert manifest.counts["records"] == {"train": 3, "test": 1}
    for split in ("train", "test"):
        (path,) = (tmp_path / "import" / "data").glob(f"{split}-*.parquet")
        for before, after in zip(folders.rows(split), pq.read_table(path).to_pylist(), strict=True):
            for name in ("text", "triplets", "relations", "withheld", "split"):
                assert after[name] == before[name]
            assert sorted(after["entities"], key=str) == sorted(before["entities"], key=str)
    assert list(read_texts(tmp_path / "import", "test")) == ["Zoltán Kiss is the spouse of Ada Ørsted."]


def rebel_line(text: str, *triples: tuple[str, str, str], start: int = 0) -> str:
    def node(uri: str) -> dict[str, Any]:
        return {"uri": uri, "boundaries": [start, start + 3], "surfaceform": uri, "annotator": "Me"}

    found = [
        {"subject": node(s), "predicate": {"uri": p, "boundaries": None, "surfaceform": p}, "object": node(o)}
        for s, p, o in triples
    ]
    return json.dumps({"docid": "7", "title": "Ada", "uri": "Q1", "text": text, "entities": [], "triples": found})


def test_unknown_ids_are_withheld_and_counted_by_reason(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "en_val.jsonl"
    path.write_text(
        "\n".join(
            [
                rebel_line("Ada of Bern", ("http://www.wikidata.org/entity/Q1", "P19", "Q2"), ("Q1", "P999", "Q2")),
                rebel_line("Ada", ("Q1", "P26", "Q77")),
                rebel_line("Ada, 1879", ("Q1", "P569", "1879"), ("Q1", "P569", "+5^^decimal")),
                rebel_line("", ("Q1", "P19", "Q2")),
            ]
        )
    )
    manifest = import_records([path], "rebel", graph, tmp_path / "import", name="trial")
    rows = pq.read_table(tmp_path / "import" / "data" / "validation-00000.parquet").to_pylist()
    assert manifest.counts == {"records": {"validation": 2}, "bad_lines": 0, "left_out": 2, "unknown_triplets": 3}
    assert [[t["predicate"]["uri"] for t in row["triplets"]] for row in rows] == [["P19"], ["P569"]]
    assert rows[0]["triplets"][0]["subject"] == {"surfaceform": "Ada_Ørsted", "uri": "Q1"}
    assert rows[1]["triplets"][0]["object"] == {"surfaceform": "1879", "uri": "date:1879"}
    assert [[t["predicate"]["uri"] for t in row["withheld"]] for row in rows] == [["P999"], ["P569"]]
    told = json.loads((tmp_path / "import" / "statistics.json").read_text())["import"]
    assert told["unknown_triplets"] == {"relation": 1, "entity": 1, "literal or value without an id": 1}
    assert told["left_out"] == {"all triplets are unknown": 1, "no text": 1}
    assert told["examples"]["entity"] == ["Q77"]
    assert (
        "1 triplets have a relation that the graph lacks, such as `P999`"
        in (tmp_path / "import" / "README.md").read_text()
    )


def test_records_with_an_unknown_id_may_be_left_out_whole(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(
        rebel_line("Ada of Bern", ("Q1", "P19", "Q2"), ("Q1", "P999", "Q2"))
        + "\n"
        + rebel_line("A", ("Q1", "P19", "Q2"))
    )
    manifest = import_records([path], "rebel", graph, tmp_path / "import", name="trial", unknown="record")
    assert manifest.counts["records"] == {"train": 1}
    assert manifest.counts["left_out"] == 1


def test_bad_lines_are_named_by_file_and_line(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{rebel_line("A", ("Q1", "P19", "Q2"))}\n\n{{"text": 3}}\nno JSON\n')
    manifest = import_records([path], "rebel", graph, tmp_path / "import", name="trial")
    assert manifest.counts["bad_lines"] == 2
    bad = lines(tmp_path / "import" / "bad_lines.jsonl")
    assert [(one["file"], one["line"]) for one in bad] == [("train.jsonl", 3), ("train.jsonl", 4)]
    assert "Expected `str`" in bad[0]["error"]


def test_a_file_of_another_form_is_an_error_that_names_a_line(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(rebel_line("A", ("Q1", "P19", "Q2")))
    with pytest.raises(InputError, match=r"line 1 of train\.jsonl.*triplets.*Check --form"):
        import_records([path], "synthie", graph, tmp_path / "import", name="trial")


def test_a_damaged_file_is_named(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 100_000)[:-20])
    with pytest.raises(InputError, match=r"Cannot read .*train\.jsonl\.gz"):
        import_records([path], "synthie", graph, tmp_path / "import", name="trial")


def test_a_file_with_damage_inside_is_named(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    content = bytearray(gzip.compress(rebel_line("A", ("Q1", "P19", "Q2")).encode()))
    content[10] = 0xFF  # no kind of block that there is
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"Cannot read .*train\.jsonl\.gz"):
        import_records([path], "rebel", graph, tmp_path / "import", name="trial")


def test_an_interrupted_import_leaves_no_record_twice(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(rebel_line("A", ("Q1", "P19", "Q2")))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("synthie.exchange.importing.split_statistics", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_records([path], "rebel", graph, tmp_path / "import", name="trial")
    assert (tmp_path / "import" / "train.jsonl.gz").exists()
    import_records([path], "rebel", graph, tmp_path / "import", name="trial")
    assert len(lines(tmp_path / "import" / "train.jsonl.gz")) == 1


def test_equal_sets_in_two_imported_splits_are_counted_and_no_error(graph: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(rebel_line("A", ("Q1", "P19", "Q2")))
    files = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    import_records(files, "rebel", graph, tmp_path / "import", name="trial")
    leakage = json.loads((tmp_path / "import" / "statistics.json").read_text())["leakage"]
    assert leakage["test"]["shared_sets"] == 1


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl.gz", "train"),
        ("sdg_text_val.jsonl", "validation"),
        ("en-dev.jsonl", "validation"),
        ("test.jsonl", "test"),
        ("test_withheld.jsonl.gz", "test_withheld"),
        ("test_unseen_entities.jsonl", "test_unseen_entities"),
    ],
)
def test_the_name_of_a_file_tells_its_split(name: str, split: str) -> None:
    assert split_of(Path(name)) == split


def test_a_file_whose_name_tells_no_split_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--split"):
        split_of(Path("contest.jsonl"))


@pytest.mark.parametrize(
    ("text", "name", "start"),
    [
        ("In bern, Ada", "Bern", 3),
        ("The Bernese met Bern.", "Bern", 16),
        ("A film, Alien.", "Alien_(film)", 8),
        ("It was Kiss who came.", "Zoltán_Kiss", 7),
        ("Nobody.", "Zoltán_Kiss", -1),
        ("Anna de Vries met de Boer.", "Jan_de_Vries", 5),
    ],
)
def test_a_mention_is_the_first_place_of_the_longest_part_of_the_name(text: str, name: str, start: int) -> None:
    assert find_mention(text, name) == start


def test_the_commands_export_and_import(folders: Folders, graph: Path, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "out"
    done = runner.invoke(
        app, ["dataset", "export", "--dataset", str(folders.dataset), "--form", "synthie", "-o", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "train.jsonl: 3 records" in done.output.replace("\n", "")
    arguments = [str(out / "train.jsonl"), "--form", "synthie", "--kg", str(graph), "--run", str(tmp_path / "new")]
    done = runner.invoke(app, ["dataset", "import", *arguments])
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "new" / "dataset" / "data").num_rows == 3
