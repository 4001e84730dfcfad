"""The evaluation stage: from files to metrics, errors, counts, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx
import pyarrow.parquet as pq
import pytest
from evaluation_run import Key, write_dataset, write_extractor, write_predictions

from kg.sampling.config import SamplingConfig
from kg.sampling.draw import draw_sets
from kg.sampling.weights import MOST_FACTOR, read_numbers
from kg.stage import run_stage
from synthie.config import EvaluationConfig
from synthie.errors import InputError
from synthie.evaluate import evaluate_predictions
from synthie.evaluation.scores import macro, micro
from synthie.evaluation.triplets import triplet_sets

CONFIG = EvaluationConfig(bootstrap=20, significance=50)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; test_report.py looks at figures."""
    monkeypatch.setattr("synthie.evaluation.report.draw_figures", lambda metrics, folder: {})


TRAIN: dict[int, list[Key]] = {
    0: [("Q1", "P1", "Q2"), ("Q1", "P2", "Q3")],
    1: [("Q4", "P1", "Q5")],
    2: [("Q4", "P1", "Q6")],
    3: [("Q7", "P1", "date:1 May 1900"), ("Q7", "P1", "Q5")],
}
TEST: dict[int, list[Key]] = {
    10: [("Q1", "P1", "Q2"), ("Q2", "P2", "Q3")],
    11: [("Q4", "P1", "Q5")],
    12: [("Q8", "P3", "Q9")],
    13: [("Q8", "P1", "Q1"), ("Q9", "P2", "Q1")],
}
CONSTRAINED: dict[int, list[Key]] = {
    10: [("Q1", "P1", "Q2"), ("Q3", "P2", "Q2")],  # one right, one swapped
    11: [("Q4", "P2", "Q5")],  # wrong relation
    12: [("Q8", "P3", "Q9")],  # all right
    13: [("Q8", "P1", "Q4")],  # wrong object, one missed
}
UNCONSTRAINED: dict[int, list[Key]] = {
    10: [("Q1", "P1", "?Somewhere"), ("Q1", "P1", "?Elsewhere")],
    11: [("Q4", "?lived in", "Q5")],
    12: [],
    13: [("Q8", "P1", "Q1"), ("Q9", "P2", "Q1")],
}


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    dataset = write_dataset(tmp_path / "dataset", {"train": TRAIN, "validation": {5: TEST[10]}, "test": TEST})
    return dataset, write_predictions(tmp_path / "predictions", CONSTRAINED, UNCONSTRAINED)


def evaluated(inputs: tuple[Path, Path], folder: Path, **options: Any) -> dict[str, Any]:
    evaluate_predictions(CONFIG, *inputs, folder, seed=3, **options)
    return json.loads((folder / "metrics.json").read_text())


def test_scores_are_those_of_the_metrics_on_ids(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = evaluated(inputs, tmp_path / "report")
    for mode, predictions in (("constrained", CONSTRAINED), ("unconstrained", UNCONSTRAINED)):
        gold, predicted = triplet_sets(list(TEST.values()), list(predictions.values()))
        for level, expected in (("micro", micro(gold, predicted)), ("macro", macro(gold, predicted))):
            found = [metrics["modes"][mode][level][measure]["value"] for measure in ("precision", "recall", "f1")]
            assert found == pytest.approx(expected)
    constrained = metrics["modes"]["constrained"]
    assert constrained["exact"]["value"] == 0.25
    assert (constrained["micro"]["correct"], constrained["micro"]["predicted"], constrained["micro"]["gold"]) == (
        2,
        5,
        6,
    )


def test_names_without_an_id_are_wrong_and_are_told_apart(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    unconstrained = evaluated(inputs, tmp_path / "report")["modes"]["unconstrained"]
    assert unconstrained["unknown"] == 3
    assert unconstrained["predicted_triplets"] == 5
    assert unconstrained["macro"]["relations"] == 4
    assert ("", "lived in") in [(row["id"], row["label"]) for row in unconstrained["by_relation"]]


def test_relations_are_bucketed_by_the_training_records_that_have_them(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    constrained = evaluated(inputs, tmp_path / "report")["modes"]["constrained"]
    # P1 occurs in 4 training records (in one of them twice), P2 in one, P3 in none.
    buckets = [(row["from"], row["to"], row["gold"], row["records"]) for row in constrained["by_frequency"]]
    assert buckets == [(0, 0, 1, 1), (1, 1, 2, 3), (4, 7, 3, 3)]
    columns = ("id", "label", "training_records", "training_triplets", "gold")
    assert [tuple(row[column] for column in columns) for row in constrained["by_relation"]] == [
        ("P1", "name of P1", 4, 5, 3),
        ("P2", "name of P2", 1, 1, 2),
        ("P3", "name of P3", 0, 0, 1),
    ]


def test_records_are_bucketed_by_size_and_triplets_by_whether_training_has_the_pair(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    constrained = evaluated(inputs, tmp_path / "report")["modes"]["constrained"]
    assert [(row["triplets"], row["records"], row["correct"]) for row in constrained["by_size"]] == [
        (1, 2, 1),
        (2, 2, 1),
    ]
    pairs = {row["pair"]: (row["correct"], row["predicted"], row["gold"]) for row in constrained["by_pair"]}
    # In training: Q1 Q2, Q1 Q3, Q4 Q5, …; the predicted pair (Q4, Q5) has the wrong relation.
    assert pairs == {"seen": (1, 2, 2), "unseen": (1, 3, 4)}


def test_triplets_are_split_by_whether_training_has_them_and_their_entities(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    constrained = evaluated(inputs, tmp_path / "report")["modes"]["constrained"]
    triplets = {row["triplet"]: (row["correct"], row["predicted"], row["gold"]) for row in constrained["by_triplet"]}
    assert triplets == {"seen": (1, 1, 2), "unseen": (1, 4, 4)}
    entities = {row["seen"]: (row["correct"], row["predicted"], row["gold"]) for row in constrained["by_entities"]}
    # Q8 and Q9 are new.
    assert entities == {"neither": (1, 1, 1), "one": (0, 1, 2), "both": (1, 3, 3)}


def test_related_relations_are_credited_where_links_are_given(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    links = tmp_path / "links.txt"
    links.write_text("# child parent\nP2 P1 a comment\n")
    config = EvaluationConfig(bootstrap=5, related_relations=str(links))
    evaluate_predictions(config, *inputs, tmp_path / "report", seed=0)
    constrained = json.loads((tmp_path / "report/metrics.json").read_text())["modes"]["constrained"]
    assert (constrained["related"]["credited"], constrained["related"]["correct"]) == (1, 3)
    assert evaluated(inputs, tmp_path / "without")["modes"]["constrained"]["related"] is None
    links.write_text("P2 P9\n")  # a change of the file is noticed
    assert not evaluate_predictions(config, *inputs, tmp_path / "report", seed=0).reused
    links.write_text("P2\n")
    with pytest.raises(InputError, match=r"links\.txt, line 1: 'P2' is not a relation and its parent"):
        evaluate_predictions(config, *inputs, tmp_path / "report", seed=0)


def test_subproperties_of_the_graph_relate_relations_unless_a_file_does(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "run/kg").mkdir(parents=True)
    (tmp_path / "run/kg/subproperties.txt").write_text("P2\tP1\n")
    constrained = evaluated(inputs, tmp_path / "report", run=tmp_path / "run")["modes"]["constrained"]
    assert constrained["related"]["credited"] == 1
    links = tmp_path / "links.txt"
    links.write_text("P2 P9\n")
    config = EvaluationConfig(bootstrap=5, related_relations=str(links))
    evaluate_predictions(config, *inputs, tmp_path / "other", seed=0, run=tmp_path / "run")
    constrained = json.loads((tmp_path / "other/metrics.json").read_text())["modes"]["constrained"]
    assert constrained["related"]["credited"] == 0


def test_modes_are_compared_on_the_same_resamples(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = evaluated(inputs, tmp_path / "report")
    values = {mode: figures["micro"]["f1"]["value"] for mode, figures in metrics["modes"].items()}
    row = metrics["comparisons"][0]
    assert (row["first"], row["second"], row["measure"]) == ("constrained", "unconstrained", "micro_f1")
    assert row["difference"] == pytest.approx(values["unconstrained"] - values["constrained"])


def test_the_sampler_reads_the_tables_of_weak_relations_and_entities(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "report"
    weak = evaluated(inputs, folder)["weak"]
    factors = read_numbers(folder / "weak_relations.txt", "relation_factors", MOST_FACTOR)
    assert set(factors) == {"P1", "P2", "P3"}
    assert (factors["P1"], factors["P3"]) == (1, 1)  # their F1, 2/5 and 1, are above the micro F1, 4/11
    # (1 − (2·0 + 10·4/11) / (2 + 2 + 10)) / (1 − 4/11)
    assert factors["P2"] == pytest.approx((1 - 10 * 4 / 11 / 14) / (1 - 4 / 11), abs=1e-3)
    assert [row["id"] for row in weak["weak_relations.txt"]["weakest"]] == ["P2"]
    graph = networkx.MultiDiGraph()
    for number in range(60):
        graph.add_edge(f"Q{number % 11}", f"Q{(7 * number + 1) % 13}", key=f"P{1 + number % 3}")
    files = {
        "relation_factors": str(folder / "weak_relations.txt"),
        "entity_factors": str(folder / "weak_entities.txt"),
    }
    drawn = draw_sets(SamplingConfig(n_sets=40, **files), graph, seed=0)
    assert len(drawn) == 40


def test_what_a_line_of_the_table_cannot_hold_is_left_out_of_it(tmp_path: Path) -> None:
    gold: dict[int, list[Key]] = {10: [("Q1", "P1", "date:1 May 1900"), ("Q1", "P2", "Q2")]}
    dataset = write_dataset(tmp_path / "dataset", {"train": TRAIN, "test": gold})
    predictions = write_predictions(tmp_path / "predictions", {10: [("Q1", "?made up", "?Nobody")]})
    evaluated((dataset, predictions), tmp_path / "report")
    assert set(read_numbers(tmp_path / "report/weak_entities.txt", "entity_factors", MOST_FACTOR)) == {"Q1", "Q2"}
    assert set(read_numbers(tmp_path / "report/weak_relations.txt", "relation_factors", MOST_FACTOR)) == {"P1", "P2"}


def test_what_the_stages_took_enters_if_the_run_is_given(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    counts = {"samples": 80, "rejected": 20, "input_tokens": 9000, "output_tokens": 1000, "usd": 0.4}

    def work(folder: Path) -> dict[str, Any]:
        (folder / "cost.json").write_text(json.dumps({"this_run": {"texts_per_second": 50.0}}))
        return counts

    run_stage("texts", tmp_path / "texts", config={}, inputs={}, seed=0, work=work)
    rows = {row["stage"]: row for row in evaluated(inputs, tmp_path / "report", run=tmp_path)["throughput"]}
    assert list(rows) == ["texts", "dataset", "predictions"]
    assert (rows["texts"]["items_per_second"], rows["texts"]["tokens_per_second"]) == (50.0, 5000.0)
    assert rows["texts"]["usd_per_accepted"] == 0.005
    assert rows["predictions"]["seconds"] >= 0
    assert evaluated(inputs, tmp_path / "without")["throughput"] == []


def test_judging_is_paid_for_the_accepted_texts_too(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    def judge(folder: Path) -> dict[str, Any]:
        (folder / "cost.json").write_text(json.dumps({"spent_usd": 0.16}))
        return {"rules_judged": 100, "rules_unjudged": 0, "llm_judged": 40, "llm_unjudged": 2}

    texts = {"samples": 80, "rejected": 20, "usd": 0.4}
    run_stage("texts", tmp_path / "texts", config={}, inputs={}, seed=0, work=lambda _: texts)
    run_stage("judge", tmp_path / "judge", config={}, inputs={}, seed=0, work=judge)
    rows = {row["stage"]: row for row in evaluated(inputs, tmp_path / "report", run=tmp_path)["throughput"]}
    assert (rows["judge"]["items"], rows["judge"]["usd"]) == (140, 0.16)
    assert [rows[stage]["usd_per_accepted"] for stage in ("texts", "judge", "all")] == pytest.approx(
        [0.005, 0.002, 0.007]
    )
    assert "| all |" in (tmp_path / "report/report.md").read_text()


def test_errors_are_counted_by_kind_and_shown_with_the_text(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    errors = evaluated(inputs, tmp_path / "report")["modes"]["constrained"]["errors"]
    assert {kind: error["count"] for kind, error in errors.items()} == {
        "swapped": 1,
        "wrong_relation": 1,
        "merged": 0,
        "wrong_object": 1,
        "wrong_subject": 0,
        "invented": 0,
        "missed": 1,
    }
    assert errors["swapped"]["examples"] == [
        {
            "id": 10,
            "text": "Text 10: Q1 P1 Q2, Q2 P2 Q3.",
            "gold": ["name of Q2", "name of P2", "name of Q3"],
            "predicted": ["name of Q3", "name of P2", "name of Q2"],
        }
    ]
    assert errors["missed"]["examples"][0]["predicted"] is None


def test_only_records_with_predictions_are_evaluated(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    few = write_predictions(tmp_path / "few", {12: CONSTRAINED[12], 11: TEST[11]})
    metrics = evaluated((inputs[0], few), tmp_path / "report")
    assert metrics["data"]["records"] == 2
    assert metrics["data"]["records_in_split"] == 4
    assert metrics["data"]["gold_triplets"] == 2
    assert metrics["modes"]["constrained"]["exact"]["value"] == 1.0


def test_predictions_of_the_validation_split_are_recognised(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    validation = write_predictions(tmp_path / "validation", {5: TEST[10]}, split="validation")
    assert evaluated((inputs[0], validation), tmp_path / "report")["data"]["split"] == "validation"


def test_predicting_nothing_at_all_scores_zero(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    silent = write_predictions(tmp_path / "silent", {number: [] for number in TEST})
    constrained = evaluated((inputs[0], silent), tmp_path / "report")["modes"]["constrained"]
    assert constrained["micro"]["f1"]["value"] == constrained["macro"]["f1"]["value"] == 0
    assert constrained["errors"]["missed"]["count"] == 6


@pytest.fixture
def with_negatives(tmp_path: Path) -> tuple[Path, Path]:
    """The same test split with four texts that state nothing; for one of them something is predicted."""
    silent: dict[int, list[Key]] = {number: [] for number in (14, 15, 16, 17)}
    alarm = {15: [("Q4", "P1", "Q5"), ("Q4", "P1", "Q6")]}
    dataset = write_dataset(tmp_path / "negative", {"train": TRAIN | {4: []}, "test": TEST | silent})
    return dataset, write_predictions(tmp_path / "alarmed", CONSTRAINED | silent | alarm, UNCONSTRAINED | silent)


def test_what_is_predicted_for_negatives_counts_as_wrong(
    inputs: tuple[Path, Path], with_negatives: tuple[Path, Path], tmp_path: Path
) -> None:
    before = evaluated(inputs, tmp_path / "before")["modes"]
    after = evaluated(with_negatives, tmp_path / "after")["modes"]
    micro = {name: after["constrained"]["micro"][name] for name in ("records", "correct", "predicted", "gold")}
    assert micro == {"records": 8, "correct": 2, "predicted": 7, "gold": 6}
    assert after["constrained"]["errors"]["invented"]["count"] == 2
    assert after["constrained"]["exact"]["value"] == 4 / 8  # one as before, and the three that stayed silent
    for name in ("precision", "recall", "f1"):  # silence about nothing changes no score
        assert after["unconstrained"]["micro"][name]["value"] == before["unconstrained"]["micro"][name]["value"]
    assert [row["triplets"] for row in after["constrained"]["by_size"]] == [1, 2]
    assert after["constrained"]["by_size"] == before["constrained"]["by_size"]


def test_the_share_of_negatives_with_a_prediction_is_reported(
    inputs: tuple[Path, Path], with_negatives: tuple[Path, Path], tmp_path: Path
) -> None:
    metrics = evaluated(with_negatives, tmp_path / "report")
    assert metrics["data"]["negatives"] == 4
    alarms = metrics["modes"]["constrained"]["false_alarms"]
    assert alarms["value"] == 0.25
    assert alarms["low"] < 0.25 < alarms["high"]
    assert metrics["modes"]["unconstrained"]["false_alarms"]["value"] == 0
    for name in ("report.md", "report.html"):
        assert (
            "of the 4 texts without a triplet something was predicted constrained"
            in (tmp_path / "report" / name).read_text()
        )
    without = evaluated(inputs, tmp_path / "without")
    assert (without["data"]["negatives"], without["modes"]["constrained"]["false_alarms"]) == (0, None)
    assert "without a triplet" not in (tmp_path / "without" / "report.md").read_text()


def test_negatives_alone_can_be_evaluated(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": TRAIN, "test": {10: [], 11: []}})
    constrained = evaluated((dataset, write_predictions(tmp_path / "silent", {10: [], 11: []})), tmp_path / "report")
    assert constrained["modes"]["constrained"]["false_alarms"]["value"] == 0
    assert constrained["modes"]["constrained"]["micro"]["f1"]["value"] == 0
    assert constrained["modes"]["constrained"]["exact"]["value"] == 1


def test_the_manifest_counts_the_key_figures_and_finished_work_is_not_repeated(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    first = evaluate_predictions(CONFIG, *inputs, tmp_path / "report", seed=3)
    assert first.counts["records"] == 4
    assert first.counts["constrained"]["micro_f1"] == pytest.approx(4 / 11, abs=1e-6)
    assert evaluate_predictions(CONFIG, *inputs, tmp_path / "report", seed=3).reused
    assert evaluate_predictions(CONFIG, *inputs, tmp_path / "again", seed=3).output_hash == first.output_hash


def test_the_training_curve_enters_if_the_extractor_is_given(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    extractor = write_extractor(tmp_path / "extractor")
    assert evaluated(inputs, tmp_path / "without")["training"] is None
    training = evaluated(inputs, tmp_path / "with", extractor=extractor)["training"]
    assert training["best_step"] == 200
    assert training["train"][0] == {"step": 10, "loss": 30.0}


def test_a_damaged_training_curve_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    extractor = write_extractor(tmp_path / "extractor")
    (extractor / "training.json").write_text('{"train": []}')
    with pytest.raises(InputError, match=r"training\.json is damaged"):
        evaluated(inputs, tmp_path / "report", extractor=extractor)


def test_predictions_for_another_data_set_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    foreign = write_predictions(tmp_path / "foreign", {10: [], 99: []})
    with pytest.raises(InputError, match="made from another data set"):
        evaluated((inputs[0], foreign), tmp_path / "report")


def test_modes_with_different_records_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    uneven = write_predictions(tmp_path / "uneven", {10: [], 11: []}, {10: []})
    with pytest.raises(InputError, match="different records"):
        evaluated((inputs[0], uneven), tmp_path / "report")


def test_no_predictions_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    empty = write_predictions(tmp_path / "empty", {})
    with pytest.raises(InputError, match="holds no predictions"):
        evaluated((inputs[0], empty), tmp_path / "report")


def test_a_missing_or_broken_file_is_named(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (inputs[1] / "unconstrained.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"unconstrained\.parquet is not a file of predictions"):
        evaluated(inputs, tmp_path / "report")
    (inputs[1] / "unconstrained.parquet").unlink()
    with pytest.raises(InputError, match=r"unconstrained\.parquet is missing"):
        evaluated(inputs, tmp_path / "report")


def test_several_predictions_for_one_record_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    path = inputs[1] / "constrained.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([0, 0, 1]), path)
    with pytest.raises(InputError, match="several predictions for one record"):
        evaluated(inputs, tmp_path / "report")


def test_unfinished_inputs_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (inputs[1] / "manifest.json").unlink()
    with pytest.raises(InputError, match="no finished stage"):
        evaluated(inputs, tmp_path / "report")
