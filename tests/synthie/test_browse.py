"""The page's interface, over HTTP from a real server: what can be read, what can be changed, and by whom."""

from __future__ import annotations

import csv
import gzip
import io
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browse_run import HOSTILE, TEXTS, ids, make_run, record, served, write_texts
from typer.testing import CliRunner

from synthie.browse.desk import Desk
from synthie.browse.figures import share
from synthie.browse.server import BrowseServer, listen
from synthie.browse.sources import open_source
from synthie.browse.verdicts import FILE, hand_verdicts
from synthie.cli import app
from synthie.errors import ConfigError, InputError, SynthieError
from synthie.judging.reading import Fault
from synthie.records import SAMPLE_SCHEMA


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("browse") / "run")


@pytest.fixture(scope="module")
def reader(run: Path) -> Any:
    with served(run) as client:
        yield client


@pytest.fixture
def judge(tmp_path: Path) -> Any:
    with served(make_run(tmp_path / "run")) as client:
        yield client


def key(number: int) -> str:
    return f"{number:032x}"


def verdict(client: httpx.Client, number: int, word: str | None, **fields: Any) -> httpx.Response:
    return client.post("/api/verdicts", json={"key": key(number), "verdict": word} | fields)


# --- Reading -----------------------------------------------------------------------------------------------------


def test_accepted_and_rejected_texts_are_read_together_in_the_order_of_their_sets(reader: httpx.Client) -> None:
    answer = reader.get("/api/records", params={"limit": 100})
    assert ids(answer) == list(range(TEXTS))
    assert answer.json()["total"] == TEXTS


def test_a_page_is_cut_from_the_whole(reader: httpx.Client) -> None:
    assert ids(reader.get("/api/records", params={"offset": 40, "limit": 5})) == [40, 41, 42, 43, 44]
    assert ids(reader.get("/api/records", params={"offset": 1_000})) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"verdict": "rejected"}, [n for n in range(TEXTS) if n % 3 == 0]),
        ({"relation": ["P19", "P20"]}, [n for n in range(TEXTS) if n % 2]),
        ({"relation": "P999"}, []),
        ({"reason": "extra_name"}, [n for n in range(1, TEXTS) if n % 3 == 0]),
        ({"min_triplets": 2, "max_triplets": 2}, [n for n in range(TEXTS) if n % 2]),
        ({"min_words": 15}, [n for n in range(1, TEXTS) if n % 6 == 3]),
        ({"max_words": 7}, [n for n in range(1, TEXTS) if n % 6 in (2, 4)]),
        ({"model": "model-0", "split": "train"}, [n for n in range(TEXTS) if n % 2 == 0]),
        ({"split": "test"}, [9, 19, 29, 39, 49, 59]),
        ({"style": "genre: tale"}, [n for n in range(TEXTS) if n % 2]),
        ({"search": "rossi 4"}, [4, 40, 43, 46, 49]),
        ({"search": "WEISS", "verdict": "accepted"}, []),
        ({"search": "#17"}, [17]),
        ({"search": "#x"}, []),
        ({"sort": "-words", "search": "#3"}, [3]),
    ],
)
def test_filters_leave_the_texts_they_name(reader: httpx.Client, query: dict[str, Any], expected: list[int]) -> None:
    assert ids(reader.get("/api/records", params={"limit": 100} | query)) == expected


def test_sorting_by_length_puts_the_longest_first(reader: httpx.Client) -> None:
    answer = reader.get("/api/records", params={"limit": 100, "sort": "-words"}).json()
    words = [row["words"] for row in answer["records"]]
    assert words == sorted(words, reverse=True)


def test_a_random_sample_is_the_same_for_the_same_seed_only(reader: httpx.Client) -> None:
    draws = [ids(reader.get("/api/records", params={"sample": 10, "seed": seed})) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 10


def test_facets_count_what_each_choice_would_leave(reader: httpx.Client) -> None:
    facets = reader.get("/api/records", params={"verdict": "rejected", "model": "model-1"}).json()["facets"]
    assert facets["verdict"] == {"accepted": 20, "rejected": 10}
    assert facets["model"] == {"model-0": 10, "model-1": 10}
    assert facets["reason"] == {"extra_name": 10, "unlinked": 10}
    assert facets["relation"] == {"P19": 10, "P20": 10}


def test_facets_of_a_search_count_texts_that_have_the_words(reader: httpx.Client) -> None:
    facets = reader.get("/api/records", params={"search": "Paris", "verdict": "accepted"}).json()["facets"]
    assert facets["verdict"] == {"rejected": 19}


@pytest.mark.parametrize(
    "query", [{"verdict": "maybe"}, {"sort": "colour"}, {"min_words": "-1"}, {"sample": "1e3"}, {"offset": "x"}]
)
def test_a_filter_that_makes_no_sense_is_named(reader: httpx.Client, query: dict[str, str]) -> None:
    answer = reader.get("/api/records", params=query)
    assert answer.status_code == 400
    assert next(iter(query)) in answer.json()["error"]


def test_pieces_of_a_text_make_up_the_text_and_mark_mentions_and_faults(reader: httpx.Client) -> None:
    (row,) = reader.get("/api/records", params={"search": "#3"}).json()["records"]
    assert "".join(piece["text"] for piece in row["pieces"]) == record(3)["text"]
    marked = {piece["text"]: piece for piece in row["pieces"] if len(piece) > 1}
    assert marked["Ada Weiss 3"]["entities"] == [0]
    assert marked["Bern"]["entities"] == [1]
    assert marked["Paris"] == {"text": "Paris", "faults": [0]}
    assert sum(piece["text"] == "Ada Weiss 3" for piece in row["pieces"]) == 3


def test_a_fault_names_its_triplet_whatever_number_it_was_asked_for_under(reader: httpx.Client) -> None:
    (row,) = reader.get("/api/records", params={"search": "#3"}).json()["records"]
    faults = {reason["check"]: reason for reason in row["reasons"]}
    assert faults["unlinked"]["triplets"] == [0]
    assert faults["unlinked"]["detail"] == "place of birth: no sentence tells of both."
    assert faults["extra_name"]["detail"] == "'Paris' is a name that no triplet gives."


def test_characters_beyond_the_basic_plane_do_not_shift_the_marks(tmp_path: Path) -> None:
    text = "𝔘𝔩𝔪 and Ada Weiss 1 and Bern"
    start = text.index("Ada")
    nodes = [("Ada_Weiss_1", "Q1", start), ("Bern", "Q2", -1)]
    entities = [{"surfaceform": name, "uri": uri, "mention_start_index": at} for name, uri, at in nodes]
    with served(write_texts(tmp_path / "run", [record(1, text=text, entities=entities)])) as client:
        (row,) = client.get("/api/records").json()["records"]
    assert [piece["text"] for piece in row["pieces"] if "entities" in piece] == ["Ada Weiss 1", "Bern"]


def test_a_mention_that_no_form_of_the_name_explains_is_marked_where_the_record_says(tmp_path: Path) -> None:
    text = "The Iron Lady was born in Ulm."
    nodes = [("Ada_Weiss_0", "Q1000", 4), ("Ulm", "Q100", 26)]
    entities = [{"surfaceform": name, "uri": uri, "mention_start_index": at} for name, uri, at in nodes]
    with served(write_texts(tmp_path / "run", [record(2, text=text, entities=entities)])) as client:
        (row,) = client.get("/api/records").json()["records"]
    assert {"text": "Iron", "entities": [0]} in row["pieces"]


def test_records_without_optional_columns_are_read(tmp_path: Path) -> None:
    names = ["id", "text", "triplets"]
    table = pa.Table.from_pylist([{name: record(n)[name] for name in names} for n in range(3)])
    (tmp_path / "set" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "set" / "data" / "train-00000.parquet")
    with served(tmp_path / "set") as client:
        answer = client.get("/api/records")
        assert ids(answer) == [0, 1, 2]
        assert answer.json()["records"][2]["key"] == "id:2"
        assert {row["verdict"] for row in answer.json()["records"]} == {"accepted"}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_synthie_jsonl_is_read(tmp_path: Path, ending: str) -> None:
    names = ("id", "text", "triplets", "entities", "relations")
    lines = []
    for number in range(1, 4):
        row = {name: record(number)[name] for name in names}
        row["entities"] = [{"surfaceform": e["surfaceform"], "uri": e["uri"]} for e in row["entities"]]
        lines.append(json.dumps(row).encode())
    data = b"\n".join(lines) + b"\n"
    path = tmp_path / f"train.{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    with served(path) as client:
        answer = client.get("/api/records")
        assert ids(answer) == [1, 2, 3]
        assert {entity["found"] for row in answer.json()["records"] for entity in row["entities"]} == {True}
        assert client.post("/api/verdicts", json={"key": "id:2", "verdict": "reject"}).status_code == 200
    assert (tmp_path / f"train.{ending}.{FILE}").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"id": 1}\n', "Line 1 of .*a.jsonl"),
        ("a.txt", b"", "no file of records"),
        ("a.jsonl.gz", b"x", ""),
        ("b.jsonl.gz", gzip.compress(b"\n" * 9, mtime=0)[:-9], "b.jsonl.gz is damaged behind line"),
        ("c.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "c.jsonl.gz is damaged behind line 0"),
        ("d.jsonl", b'{"id": 1, "text": "\xff", "triplets": []}', "Line 1 of .*d.jsonl"),
    ],
)
def test_a_file_that_holds_no_records_is_an_error_with_its_name(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told or name):
        open_source(tmp_path / name)


def test_a_folder_without_texts_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds nothing to browse"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="neither a run"):
        open_source(tmp_path / "none")


def test_a_data_set_of_a_run_shares_the_verdicts_of_its_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "dataset" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([record(1)], SAMPLE_SCHEMA), run / "dataset" / "data" / "train-00000.parquet")
    with served(run / "dataset") as client:
        assert verdict(client, 1, "reject").status_code == 200
    assert hand_verdicts(run / "texts") == {key(1): "reject"}


def test_what_a_label_leaves_out_is_shown_and_is_of_the_set(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    whole = record(1)
    cut = whole | {"triplets": whole["triplets"][:1], "withheld": whole["triplets"][1:]}
    schema = SAMPLE_SCHEMA.append(pa.field("withheld", SAMPLE_SCHEMA.field("triplets").type))
    rows = [cut, record(2) | {"withheld": []}]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "cut.parquet")
    with served(tmp_path / "cut.parquet", run) as client:
        pairs = client.get("/api/pairs").json()["pairs"]
    assert [(left["id"], right["id"], left["withheld"]) for left, right in pairs] == [
        (1, 1, ["Bruno Rossi 1 | place of death | Bern"]),
        (2, 2, []),
    ]


# --- While a run writes ------------------------------------------------------------------------------------------


def test_texts_that_a_run_adds_are_seen_and_half_a_file_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthie.browse.index._LOOK_S", 0.0)
    run = tmp_path / "run"
    (run / "texts").mkdir(parents=True)
    with served(run) as client:
        assert ids(client.get("/api/records")) == []
        before = client.get("/api/state").json()
        (run / "texts" / "samples").mkdir()
        (run / "texts" / "samples" / "part-00000.parquet").write_bytes(b"PAR1 half")
        assert ids(client.get("/api/records")) == []
        assert client.get("/api/overview").json()["sides"][0]["unreadable"] == ["part-00000.parquet"]
        write_texts(run, [record(number) for number in range(3)])
        assert ids(client.get("/api/records")) == [0, 1, 2]
        assert client.get("/api/state").json() != before
        write_texts(run, [record(number) for number in range(3, 5)], part=1)
        assert ids(client.get("/api/records")) == [0, 1, 2, 3, 4]


def test_texts_that_are_checked_but_not_yet_written_are_read(tmp_path: Path) -> None:
    checked = tmp_path / "run" / "texts" / ".checked"
    checked.mkdir(parents=True)
    schema = SAMPLE_SCHEMA.append(pa.field("position", pa.int64()))
    pq.write_table(pa.Table.from_pylist([record(1), record(3)], schema), checked / "00000.parquet")
    with served(tmp_path / "run") as client:
        assert ids(client.get("/api/records")) == [1, 3]


def test_a_file_that_changes_between_index_and_reading_is_no_silent_mixture(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with served(run) as client:
        write_texts(run, [record(1), record(3)])
        assert client.get("/api/records").status_code in (200, 409)
        assert ids(client.get("/api/records")) == [1, 3]


# --- With a judge ------------------------------------------------------------------------------------------------


def test_what_a_judge_finds_stands_beside_the_text_and_is_a_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    words = "Bruno Rossi 1 | place of death | Bern"
    fault = Fault("contradicted", f"Triplet 4 ({words}) is contradicted, says the judge 'llm'.")
    monkeypatch.setattr("synthie.judging.reading.faults", lambda folder: {key(1): [fault]})
    with served(run) as client:
        assert client.get("/api/records").json()["facets"]["judge"] == {"faulty": 0}
        (run / "judge").mkdir()
        (run / "judge" / "manifest.json").write_text("{}")
        answer = client.get("/api/records", params={"judge": "faulty"})
    assert ids(answer) == [1]
    (reason,) = answer.json()["records"][0]["reasons"]
    assert (reason["by"], reason["check"], reason["triplets"]) == ("judge", "contradicted", [1])
    assert reason["detail"] == "place of death: is contradicted, says the judge 'llm'."


# --- Comparing ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    other = tmp_path_factory.mktemp("browse") / "other"
    changed = {"prompt": "styles/1", "usd": 0.002}
    rows = [record(number, **changed, verdict="accepted" if number % 4 else "rejected") for number in range(TEXTS // 2)]
    for row in rows:  # the same sets under other numbers, their triplets in another order
        row["id"] += 500
        row["triplets"] = row["triplets"][::-1]
    write_texts(other, rows)
    with served(run, other) as client:
        yield client


def test_the_same_sets_stand_side_by_side_whatever_their_numbers(compared: httpx.Client) -> None:
    answer = compared.get("/api/pairs", params={"limit": 100}).json()
    assert answer["total"] == TEXTS // 2
    assert [(left["id"], right["id"]) for left, right in answer["pairs"]] == [(n, n + 500) for n in range(TEXTS // 2)]


def test_outcomes_say_which_side_passes(compared: httpx.Client) -> None:
    outcomes = compared.get("/api/pairs").json()["outcomes"]
    expected = {"both": 0, "left": 0, "right": 0, "neither": 0}
    for number in range(TEXTS // 2):
        left, right = number % 3 > 0, number % 4 > 0
        expected["both" if left and right else "left" if left else "right" if right else "neither"] += 1
    assert outcomes == expected
    only = compared.get("/api/pairs", params={"outcome": "left", "limit": 100}).json()
    assert {(left["verdict"], right["verdict"]) for left, right in only["pairs"]} == {("accepted", "rejected")}
    assert only["total"] == expected["left"]


def test_each_prompt_has_its_rate_and_its_cost_per_accepted_text(compared: httpx.Client) -> None:
    figures = compared.get("/api/pairs").json()["prompts"][1]
    assert [(figure["prompt"], figure["texts"]) for figure in figures] == [("styles/1", 15), ("styles/1", 15)]
    assert sum(figure["accepted"] for figure in figures) == 22
    for figure in figures:
        assert figure["rate"]["value"] == figure["accepted"] / 15
        assert figure["usd_per_accepted"] == pytest.approx(15 * 0.002 / figure["accepted"])


def test_a_side_may_be_narrowed_to_a_model(compared: httpx.Client) -> None:
    answer = compared.get("/api/pairs", params={"model_a": "model-1", "limit": 100}).json()
    assert {left["details"]["model"] for left, _ in answer["pairs"]} == {"model-1"}
    assert answer["total"] == TEXTS // 4


def test_a_search_keeps_a_pair_if_one_of_its_texts_has_the_words(compared: httpx.Client) -> None:
    answer = compared.get("/api/pairs", params={"search": "Bruno Rossi 1", "limit": 100}).json()
    assert {left["id"] for left, _ in answer["pairs"]} == {1, 10, 13, 16, 19}


def test_a_page_without_a_second_side_has_no_pairs(reader: httpx.Client) -> None:
    answer = reader.get("/api/pairs")
    assert answer.status_code == 400
    assert "--compare" in answer.json()["error"]


def test_unknown_outcomes_are_refused(compared: httpx.Client) -> None:
    assert compared.get("/api/pairs", params={"outcome": "draw"}).status_code == 400


# --- Judging -----------------------------------------------------------------------------------------------------


def test_a_verdict_is_on_disk_when_it_is_confirmed_and_shown_with_its_text(judge: httpx.Client, tmp_path: Path) -> None:
    answer = verdict(judge, 1, "reject", note="wrong town")
    assert answer.json()["hand"]["verdict"] == "reject"
    assert hand_verdicts(tmp_path / "run" / "texts") == {key(1): "reject"}
    (row,) = judge.get("/api/records", params={"hand": "reject"}).json()["records"]
    assert (row["id"], row["hand"]["note"]) == (1, "wrong town")


def test_hand_filters_tell_judged_from_open_and_against_the_checks(judge: httpx.Client) -> None:
    verdict(judge, 1, "accept")
    verdict(judge, 2, "reject")
    verdict(judge, 3, "accept")
    assert ids(judge.get("/api/records", params={"hand": "judged"})) == [1, 2, 3]
    assert ids(judge.get("/api/records", params={"hand": "against"})) == [2, 3]
    assert judge.get("/api/records", params={"hand": "open"}).json()["total"] == TEXTS - 3
    assert judge.get("/api/records").json()["facets"]["hand"] == {
        "judged": 3, "open": TEXTS - 3, "accept": 2, "reject": 1, "against": 2,
    }  # fmt: skip


def test_undo_is_another_verdict_and_is_refused_if_somebody_else_was_faster(
    judge: httpx.Client, tmp_path: Path
) -> None:
    verdict(judge, 1, "accept")
    assert verdict(judge, 1, None, expected="accept").json()["hand"] is None
    verdict(judge, 1, "reject")
    answer = verdict(judge, 1, None, expected="accept")
    assert answer.status_code == 409
    assert "Somebody else" in answer.json()["error"]
    assert len((tmp_path / "run" / "texts" / FILE).read_text().splitlines()) == 3


def test_another_browser_learns_of_a_verdict_from_the_state(judge: httpx.Client) -> None:
    before = judge.get("/api/state").json()["state"]
    verdict(judge, 1, "accept")
    assert judge.get("/api/state").json()["state"] != before


def test_agreement_compares_the_hand_with_the_checks(judge: httpx.Client) -> None:
    for number, word in ((1, "accept"), (2, "accept"), (4, "reject"), (3, "reject"), (6, "accept")):
        answer = verdict(judge, number, word)
    agreement = answer.json()["agreement"]
    assert agreement["counts"] == {"accepted": {"accept": 2, "reject": 1}, "rejected": {"accept": 1, "reject": 1}}
    assert agreement["precision"]["value"] == pytest.approx(2 / 3)
    assert agreement["wrongly_rejected"]["value"] == 0.5
    assert agreement["agree"]["value"] == 0.6


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, and 0 of 20.
    for part, whole, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        found = share(part, whole)
        assert found is not None
        assert (round(found["low"], 4), round(found["high"], 4)) == (low, high)
    assert share(0, 0) is None


def test_a_verdict_on_a_text_that_is_not_there_is_refused(judge: httpx.Client) -> None:
    assert verdict(judge, 99_999, "accept").status_code == 400
    assert verdict(judge, 1, "accept", side=1).status_code == 400


@pytest.mark.parametrize(
    "order", [{"key": "x"}, {"key": 3, "verdict": "accept"}, {"key": "x", "verdict": "perhaps"}, [], "x"]
)
def test_a_verdict_of_a_wrong_form_is_refused(reader: httpx.Client, order: Any) -> None:
    assert reader.post("/api/verdicts", json=order).status_code == 400


def test_verdicts_are_exported_as_csv_and_jsonl(judge: httpx.Client) -> None:
    verdict(judge, 0, "reject", note="=1+1")
    verdict(judge, 2, "accept")
    table = list(csv.DictReader(io.StringIO(judge.get("/api/verdicts.csv").text)))
    assert [(row["id"], row["verdict"], row["gate"], row["note"]) for row in table] == [
        ("0", "reject", "rejected", "'=1+1"),  # no formula in a spreadsheet
        ("2", "accept", "accepted", ""),
    ]
    assert table[0]["text"] == HOSTILE
    lines = [json.loads(line) for line in judge.get("/api/verdicts.jsonl").text.splitlines()]
    assert [line["note"] for line in lines] == ["=1+1", ""]
    assert lines[1]["triplets"] == record(2)["triplets"]
    assert judge.get("/api/verdicts.xml").status_code == 404


def test_each_of_two_sides_has_an_export_of_its_own(tmp_path: Path) -> None:
    with served(make_run(tmp_path / "one"), make_run(tmp_path / "two")) as client:
        verdict(client, 1, "accept")
        verdict(client, 2, "reject", side=1)
        sides = [client.get("/api/verdicts.jsonl", params={"side": side}) for side in range(3)]
        assert [json.loads(side.text)["verdict"] for side in sides[:2]] == ["accept", "reject"]
        assert "hand-verdicts-2.jsonl" in sides[1].headers["content-disposition"]
        assert (sides[2].status_code, sides[2].json()) == (400, {"error": "There is no side 2."})


# --- Safety ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil:1"])
def test_a_foreign_name_for_this_machine_is_turned_away(reader: httpx.Client, host: str) -> None:
    for path in ("/", "/api/records", "/app.js"):
        answer = reader.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "Ada" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:9999", "localhost", "LOCALHOST:80", "[::1]:8020"])
def test_loopback_names_are_let_in_also_through_a_tunnel(reader: httpx.Client, host: str) -> None:
    assert reader.get("/api/state", headers={"host": host}).status_code == 200


def test_a_verdict_needs_the_token_of_the_page_and_its_origin(reader: httpx.Client, run: Path) -> None:
    order = {"key": key(1), "verdict": "reject"}
    for headers in (
        {"x-browse-token": ""},
        {"x-browse-token": "wé".encode()},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ):
        assert reader.post("/api/verdicts", json=order, headers=headers).status_code == 403  # type: ignore[arg-type]
    assert not (run / "texts" / FILE).exists()
    assert reader.get("/api/verdicts").status_code == 405


def test_a_large_body_is_refused_before_it_is_read_whole(reader: httpx.Client) -> None:
    order = {"key": key(1), "verdict": "reject", "note": "x" * 100_000}
    assert reader.post("/api/verdicts", json=order).status_code == 413
    assert reader.post("/api/verdicts", json=order | {"note": "x" * 3_000}).status_code == 400


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/server.py", "/static/../../cli.py", "//etc/passwd", "/index.html"]
)
def test_nothing_but_the_page_is_served(reader: httpx.Client, path: str) -> None:
    with socket.create_connection((reader.base_url.host, reader.base_url.port or 0), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert raw.makefile("rb").readline().split()[1] == b"404"


@pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/api/records", "/api/nothing"])
def test_every_answer_forbids_foreign_script_and_frames(reader: httpx.Client, path: str) -> None:
    headers = reader.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_the_page_loads_nothing_from_elsewhere(reader: httpx.Client) -> None:
    for path in ("/", "/app.js", "/style.css"):
        text = reader.get(path).text
        for foreign in ('src="http', 'href="http', "@import", "url(http", "innerHTML", "insertAdjacentHTML", "eval("):
            assert foreign not in text


def test_a_hostile_text_travels_as_data_only(reader: httpx.Client) -> None:
    answer = reader.get("/api/records", params={"search": "#0"})
    assert answer.headers["content-type"] == "application/json"
    assert "".join(piece["text"] for piece in answer.json()["records"][0]["pieces"]) == HOSTILE
    assert HOSTILE not in reader.get("/").text


def test_the_server_listens_on_loopback_only(run: Path) -> None:
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ConfigError, match="--port"):
            listen(listener.getsockname()[1])


# --- The command -------------------------------------------------------------------------------------------------


def test_the_command_exports_verdicts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    Desk(open_source(run)).judge(0, key(2), "accept", "good", "any")
    for name in ("mine.csv", "mine.jsonl"):
        result = CliRunner().invoke(app, ["browse", str(run), "--export", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert "1 verdict" in result.output
        assert key(2) in (tmp_path / name).read_text()


def test_the_command_exports_no_comparison(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["browse", "a", "--compare", "b", "--export", str(tmp_path / "mine.csv")])
    assert isinstance(result.exception, SynthieError)
    assert "in a call of its own" in str(result.exception)


def test_the_command_refuses_an_export_without_a_form(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["browse", str(tmp_path), "--export", "mine.xls"])
    assert isinstance(result.exception, SynthieError)


def test_the_command_tells_where_the_page_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served_at = []
    monkeypatch.setattr(BrowseServer, "run", lambda server: served_at.append(server.url))
    result = CliRunner().invoke(app, ["browse", str(run), "--compare", str(run), "--port", "0"])
    assert result.exit_code == 0, result.output
    assert served_at[0] in result.output
