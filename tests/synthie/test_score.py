"""Prediction files of any system: what is read, what is refused, and that the report is the same as a run's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_run import Key, write_dataset, write_predictions
from typer.testing import CliRunner

from synthie.cli import app
from synthie.config import EvaluationConfig
from synthie.errors import InputError, SynthieError
from synthie.evaluate import evaluate_predictions
from synthie.evaluation.linearized import guess_form, read_linearized
from synthie.evaluation.readers import read_records
from synthie.evaluation.scoring import score_files

CONFIG = EvaluationConfig(bootstrap=10, significance=30)

GOLD: dict[int, list[Key]] = {
    1: [("Q1", "P1", "Q2"), ("Q2", "P2", "Q3")],
    2: [("Q4", "P1", "Q5")],
    3: [("Q4", "P2", "Q1")],
    10: [("Q5", "P1", "Q1")],
}
PREDICTED: dict[int, list[Key]] = {
    1: [("Q1", "P1", "Q2"), ("Q3", "P2", "Q2")],
    2: [("Q4", "P2", "Q5")],
    3: [("Q4", "P2", "Q1"), ("Q4", "P1", "?Atlantis")],
    10: [],
}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthie.evaluation.report.draw_figures", lambda metrics, folder: {})


def lines(path: Path, *rows: Any) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lists(path: Path, sets: dict[int, list[Key]]) -> Path:
    return lines(path, *({"id": number, "triplets": triplets} for number, triplets in sets.items()))


def linearized(triplets: list[Key]) -> str:
    return " ".join(f"[s] {s} [r] {r} [o] {o} [e]" for s, r, o in triplets)


def counts(metrics: dict[str, Any], name: str = "a") -> tuple[int, int, int]:
    micro = metrics["modes"][name]["micro"]
    return micro["correct"], micro["predicted"], micro["gold"]


def test_a_runs_folders_score_as_in_the_run(tmp_path: Path) -> None:
    training: dict[int, list[Key]] = {0: [("Q1", "P1", "Q2")], 5: [("Q4", "P1", "Q1")]}
    dataset = write_dataset(tmp_path / "dataset", {"train": training, "test": GOLD})
    predictions = write_predictions(tmp_path / "predictions", PREDICTED, GOLD)
    evaluate_predictions(CONFIG, dataset, predictions, tmp_path / "report", seed=4)
    expected = json.loads((tmp_path / "report/metrics.json").read_text())
    files = {mode: predictions / f"{mode}.parquet" for mode in ("constrained", "unconstrained")}
    train = lines(
        tmp_path / "train.jsonl.gz",
        *(
            {
                "id": number,
                "triplets": [
                    {
                        part: {"uri": key, "surfaceform": key}
                        for part, key in zip(("subject", "predicate", "object"), t, strict=True)
                    }
                    for t in triplets
                ],
            }
            for number, triplets in training.items()
        ),
    )
    found = score_files(CONFIG, files, tmp_path / "score", gold=dataset, training=train, seed=4)
    assert found["settings"]["by"] == "id"
    assert found["modes"] == expected["modes"]
    assert found["comparisons"] == expected["comparisons"]
    assert (tmp_path / "score/weak_relations.txt").read_text() == (tmp_path / "report/weak_relations.txt").read_text()


@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.jsonl.gz"])
def test_the_originals_predictions_hold_gold_and_are_sorted_by_id(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": i, "input": f"text {i}", "target": linearized(GOLD[i]), "prediction": [linearized(PREDICTED[i]), "[s]"]}
        for i in (10, 3, 1, 2)
    ]
    twice = {**rows[0], "prediction": linearized(GOLD[10])}  # of what is written twice the last counts
    path = lines(tmp_path / name, *rows, twice)
    assert [record.id for record in read_records(path)] == [1, 2, 3, 10]
    metrics = score_files(CONFIG, {"a": path}, tmp_path / "score")
    assert counts(metrics) == (3, 6, 5)
    assert metrics["settings"]["by"] == "name"


def test_a_folder_of_the_originals_outputs_is_one_system(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    folder.mkdir()
    for i in (1, 2):
        lines(folder / f"{i}.jsonl.gz", {"id": i, "target": linearized(GOLD[i]), "prediction": linearized(GOLD[i])})
    assert counts(score_files(CONFIG, {"a": folder}, tmp_path / "score")) == (3, 3, 3)


def test_collapsed_subjects_are_recognised_by_the_targets() -> None:
    collapsed = "[s] A [r] x [o] B [r] y [o] C [e] [s] D [r] x [o] E [e]"
    assert guess_form([collapsed]) == "subject_collapsed"
    assert guess_form(["[s] A [r] x [o] B [et]"]) == "fully_expanded_et"
    assert read_linearized(collapsed, "subject_collapsed") == [("A", "x", "B"), ("A", "y", "C"), ("D", "x", "E")]
    assert read_linearized("[s] A [r] x [o] B [et] [s] A", "fully_expanded_et") == [("A", "x", "B")]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        # An empty part is dropped, and what follows moves up.
        ("fully_expanded", "[s] A [r]  [o] B [e] [s] C [r] x [o] D [e]", [("A", "B", "C"), ("x", "D", "")][:1]),
        ("fully_expanded", "A [r] x [o] B", [("A", "x", "B")]),
        ("fully_expanded", "[s] A [r] x [o] B [e] [s] A [r] x [o] B [e]", [("A", "x", "B")]),
        ("subject_collapsed", "[s] A [r] x [o] B [r] y [e] [s] C [e]", [("A", "x", "B")]),
        ("fully_expanded", "", []),
    ],
)
def test_malformed_strings_are_misread_as_the_original_misreads_them(form: Any, text: str, expected: list[Key]) -> None:
    assert read_linearized(text, form) == expected


@pytest.mark.parametrize(
    "triplet",
    [
        ["Berlin", "country", "Germany"],
        {"subject": "Berlin", "predicate": "country", "object": "Germany"},
        {"head": "Berlin", "type": "country", "tail": "Germany"},
        {"subject": {"name": "Berlin"}, "relation": {"label": "country"}, "object": {"surfaceform": "Germany"}},
    ],
)
def test_triplet_lists_of_many_shapes_are_understood(tmp_path: Path, triplet: Any) -> None:
    path = lines(tmp_path / "a.jsonl", {"gold": [triplet], "predicted": [triplet]}, {"gold": [], "predicted": []})
    assert [(record.id, record.gold) for record in read_records(path)] == [
        (0, [(("", "Berlin"), ("", "country"), ("", "Germany"))]),
        (1, []),
    ]


def test_ids_decide_where_gold_has_them_and_names_else(tmp_path: Path) -> None:
    def named(*keys: tuple[str, str]) -> dict[str, Any]:
        parts = zip(("subject", "predicate", "object"), keys, strict=True)
        return {part: {"uri": uri, "surfaceform": name} for part, (uri, name) in parts}

    gold = lines(
        tmp_path / "gold.jsonl",
        {"id": 1, "triplets": [named(("Q64", "Berlin"), ("P17", "country"), ("Q183", "Germany"))]},
    )
    ids = lists(tmp_path / "ids.jsonl", {1: [("Q64", "P17", "Q183")]})
    names = lists(tmp_path / "names.jsonl", {1: [("Berlin", "country", "Germany")]})
    spaced = lines(
        tmp_path / "spaced.jsonl", {"id": 1, "triplets": [named(("Q64", "berlin"), ("P17", "x"), ("Q183", "y"))]}
    )
    for path, by in ((ids, "id"), (spaced, "id"), (names, "name")):
        metrics = score_files(CONFIG, {"a": path}, tmp_path / "score", gold=gold)
        assert (metrics["settings"]["by"], counts(metrics)) == (by, (1, 1, 1))
    with pytest.raises(InputError, match=r"No node that .*ids\.jsonl predicts occurs in gold, compared by name"):
        score_files(CONFIG, {"a": ids}, tmp_path / "score", gold=gold, by="name")


def test_a_bad_system_that_names_other_nodes_is_scored_all_the_same(tmp_path: Path) -> None:
    def saying(name: str, *ids: str) -> Path:
        parts = zip(("subject", "predicate", "object"), ids, strict=True)
        return lines(tmp_path / name, {"id": 1, "triplets": [{part: {"uri": uri} for part, uri in parts}]})

    gold = saying("gold.jsonl", "Q64", "P17", "Q183")
    bad = saying("bad.jsonl", "Q90", "P17", "Q142")
    assert counts(score_files(CONFIG, {"a": bad}, tmp_path / "score", gold=gold)) == (0, 1, 1)
    foreign = saying("foreign.jsonl", "Q90", "dbo:country", "Q142")
    with pytest.raises(InputError, match="compared by id"):
        score_files(CONFIG, {"a": foreign}, tmp_path / "score", gold=gold)


def test_underscores_in_names_are_spaces(tmp_path: Path) -> None:
    gold = lists(tmp_path / "gold.jsonl", {1: [("New_York_City", "country", "United States")]})
    path = lists(tmp_path / "a.jsonl", {1: [("New York City", "country", "United_States")]})
    assert counts(score_files(CONFIG, {"a": path}, tmp_path / "score", gold=gold)) == (1, 1, 1)


def test_rebel_is_read_as_published_and_as_on_the_hub(tmp_path: Path) -> None:
    item = {"uri": "Q64", "boundaries": [0, 6], "surfaceform": "Berlin"}
    published = {
        "docid": "12",
        "text": "Berlin …",
        "triples": [
            {
                "subject": item,
                "predicate": {"uri": "P17", "surfaceform": "country"},
                "object": {"uri": "Q183", "surfaceform": "Germany"},
            }
        ],
    }
    hub = {"id": "12-0", "context": "Berlin …", "triplets": "<triplet> Berlin <subj> Germany <obj> country"}
    for row, identity in ((published, "12"), (hub, "12-0")):
        (record,) = read_records(lines(tmp_path / "rebel.jsonl", row))
        assert (record.id, record.text) == (identity, "Berlin …")
        assert [tuple(name for _, name in triplet) for triplet in record.gold or []] == [
            ("Berlin", "country", "Germany")
        ]


WEBNLG = """<benchmark><entries><entry category="City" eid="Id7" size="1">
<modifiedtripleset><mtriple>Aarhus | head of government | Jacob Bundsgaard{code}</mtriple></modifiedtripleset>
<lex comment="good" lid="Id1">The leader of Aarhus is Jacob Bundsgaard.</lex><lex lid="Id2">He leads Aarhus.</lex>
</entry></entries></benchmark>"""


def test_webnlg_has_a_record_for_each_text_with_ids_where_it_has_them(tmp_path: Path) -> None:
    path = tmp_path / "dev.xml"
    path.write_text(WEBNLG.format(code="<mtriple_code>Q25319 | P6 | ##F_Literal</mtriple_code>"))
    first, second = read_records(path)
    assert (first.id, second.id, second.text) == ("City/1/Id7/Id1", "City/1/Id7/Id2", "He leads Aarhus.")
    assert first.gold == [(("Q25319", "Aarhus"), ("P6", "head of government"), ("", "Jacob Bundsgaard"))]
    path.write_text(WEBNLG.format(code=""))
    assert read_records(path)[0].gold == [(("", "Aarhus"), ("", "head of government"), ("", "Jacob Bundsgaard"))]


def test_records_without_a_prediction_are_refused_counted_empty_or_left_out(tmp_path: Path) -> None:
    gold = lists(tmp_path / "gold.jsonl", GOLD)
    path = lists(tmp_path / "a.jsonl", {1: PREDICTED[1], 2: PREDICTED[2]})
    with pytest.raises(InputError, match=r"lacks 2 of the 4 records .* the id 3\. Say --missing empty"):
        score_files(CONFIG, {"a": path}, tmp_path / "score", gold=gold)
    assert counts(score_files(CONFIG, {"a": path}, tmp_path / "score", gold=gold, missing="empty")) == (1, 3, 5)
    skipped = score_files(CONFIG, {"a": path}, tmp_path / "score", gold=gold, missing="skip")
    assert counts(skipped) == (1, 3, 3)
    assert (skipped["data"]["records"], skipped["data"]["records_in_split"]) == (2, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1, "triplets": []}\n{"id": 2,\n', r"a\.jsonl, line 2: not JSON .* one JSON object"),
        ("[1, 2]\n", r"a\.jsonl, line 1: expected a JSON object"),
        ('\n{"id": 1, "answer": []}\n', r"a\.jsonl, line 2: there are no triplets\. .* found 'id', 'answer'"),
        ('{"id": 1, "triplets": [["a", "b"]]}\n', r"line 1: \['a', 'b'\] is not a triplet\. Write"),
        ('{"id": 1, "triplets": [["a", "b", 3]]}\n', r"line 1: 3 is no name"),
        ('{"id": 1, "triplets": {"a": 1}}\n', r"line 1: expected a list of triplets"),
        ('{"id": 1, "triplets": []}\n{"id": 1, "triplets": []}\n', r"line 2: the id 1 occurs a second time"),
        ('{"id": [1], "triplets": []}\n', r"line 1: the id \[1\] is neither"),
        ('{"id": 1, "triplets": [], "score": "high"}\n', r"line 1: the score 'high' is not a number"),
        (
            '{"id": 1, "target": "", "prediction": "Berlin is in Germany"}\n',
            r"line 1: 'Berlin is in Germany' has no markers",
        ),
        ("", r"a\.jsonl holds no records"),
    ],
)
def test_bad_lines_are_named_with_the_mend(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_records(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("a.xml", b"<benchmark><entry>", "not readable XML"),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1}\n' * 1000, mtime=0)[:40], "breaks off after line"),
        ("a.txt", b"x", "the extension says nothing"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_records(tmp_path / name)
    with pytest.raises(InputError, match=r"b\.jsonl is missing"):
        read_records(tmp_path / "b.jsonl")


def test_predictions_alone_are_not_taken_for_their_own_gold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl has no gold triplets\. Give the gold file with --gold"):
        score_files(CONFIG, {"a": lists(tmp_path / "a.jsonl", PREDICTED)}, tmp_path / "score")


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    gold = lists(tmp_path / "gold.jsonl", {1: GOLD[1]})
    with pytest.raises(InputError, match=r"has 3 records that .*gold\.jsonl lacks; the first has the id 2"):
        score_files(CONFIG, {"a": lists(tmp_path / "a.jsonl", GOLD)}, tmp_path / "score", gold=gold)
    one = lines(tmp_path / "one.jsonl", {"id": 1, "gold": [["a", "r", "b"]], "predicted": []})
    two = lines(tmp_path / "two.jsonl", {"id": 1, "gold": [["a", "r", "c"]], "predicted": []})
    with pytest.raises(InputError, match="different gold triplets for the record 1"):
        score_files(CONFIG, {"one": one, "two": two}, tmp_path / "score")


def test_the_command_compares_any_number_of_files(tmp_path: Path) -> None:
    gold = lists(tmp_path / "gold.jsonl", GOLD)
    first, second = lists(tmp_path / "first.jsonl", PREDICTED), lists(tmp_path / "second.jsonl", GOLD)
    files = ["--pred", str(first), "--pred", f"best={second}", "--pred", f"again={second}"]
    result = CliRunner().invoke(app, ["score", "--gold", str(gold), *files, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "100.00" in result.output
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert list(metrics["modes"]) == ["first", "best", "again"]
    assert len(metrics["comparisons"]) == 9
    assert "best − first" in (tmp_path / "out/report.md").read_text()
    for options in (["--by", "rank"], ["--confidence", "2"], ["--pred", str(first)]):
        refused = CliRunner().invoke(app, ["score", "--gold", str(gold), *files, *options])
        assert isinstance(refused.exception, SynthieError)
