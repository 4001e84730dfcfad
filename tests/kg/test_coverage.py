"""The coverage report, against its definitions spelled out naively; the bounds, by exhaustive search; the pictures."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_coverage import PlainCoverage, plain_entropy, plain_gini, plain_report, plain_shape
from plain_graphs import write_graph

from kg.sampling import bounds, plots, shapes, tables
from kg.sampling.bounds import fewest_uses, forced_sets, gini, normalised_entropy, water_fill
from kg.sampling.plots import plot_coverage
from kg.sampling.report import EarlierCounts, GraphColumns, SampledSets, coverage_report
from kg.sampling.shapes import SHAPES, first_equal_sets
from kg.sampling.tables import ReportTable, headline, report_table

count_lists = st.lists(st.integers(0, 10_000), min_size=2, max_size=40).filter(any)


def graph_of(triplets: list[tuple[int, int, int]], literals: set[int] | None = None, nodes: int = 0) -> GraphColumns:
    columns = np.array(sorted(triplets), np.int32).reshape(-1, 3)
    n = max(nodes, int(columns[:, [0, 2]].max(initial=-1)) + 1)
    relations = int(columns[:, 1].max(initial=-1)) + 1
    return GraphColumns(
        *np.ascontiguousarray(columns.T),
        is_entity=np.array([node not in (literals or ()) for node in range(n)], bool),
        relation_ids=[f"P{number}" for number in range(relations)],
        relation_labels=[f"relation {number}" for number in range(relations)],
    )


def sets_of(rows: list[list[int]], **more: Any) -> SampledSets:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return SampledSets(offsets, np.array([edge for row in rows for edge in row], np.int64), **more)


@st.composite
def cases(draw: st.DrawFn) -> tuple[GraphColumns, SampledSets]:
    """Small graphs with literals, loops and parallel triplets; any sets of their triplets, equal ones included."""
    n = draw(st.integers(1, 6))
    r = draw(st.integers(1, 3))
    triplet = st.tuples(st.integers(0, n - 1), st.integers(0, r - 1), st.integers(0, n - 1))
    triplets = draw(st.lists(triplet, min_size=1, max_size=12, unique=True))
    graph = graph_of(triplets, draw(st.sets(st.integers(0, n - 1))), n)
    m, r = len(triplets), len(graph.relation_ids)
    row = st.lists(st.integers(0, m - 1), min_size=1, max_size=5, unique=True)
    rows = draw(st.lists(row, min_size=1, max_size=9))
    k = len(rows)

    def maybe(length: int, values: st.SearchStrategy[Any], dtype: Any) -> Any:
        lists = st.lists(values, min_size=length, max_size=length)
        return draw(st.none() | lists.map(lambda values: np.array(values, dtype)))

    earlier = maybe(m, st.integers(0, 3), np.int64)
    return graph, sets_of(
        rows,
        splits=maybe(k, st.integers(0, 2), np.int64),
        asked_sizes=maybe(k, st.integers(1, 5), np.int64),
        negatives=draw(st.integers(0, 3)),
        relation_floor=draw(st.integers(0, 4)),
        exhausted=maybe(r, st.booleans(), bool),
        excluded_relations=maybe(r, st.booleans(), bool),
        excluded_nodes=maybe(n, st.sampled_from([False, False, True]), bool),
        earlier=None if earlier is None else earlier_counts(graph, earlier),
    )


def earlier_counts(graph: GraphColumns, edge_counts: np.ndarray) -> EarlierCounts:
    nodes, relations = np.zeros(len(graph.is_entity), np.int64), np.zeros(len(graph.relation_ids), np.int64)
    np.maximum.at(nodes, graph.subjects, edge_counts)
    np.maximum.at(nodes, graph.objects, edge_counts)
    np.maximum.at(relations, graph.relations, edge_counts)
    return EarlierCounts(nodes, relations, edge_counts, int(edge_counts.max()))


def assert_same(found: Any, expected: Any, place: str = "report") -> None:
    """Equal but for the rounding of floats."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_same(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{place}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=6e-4 if "distance" in place or "median" in place else 6e-5), place
    else:
        assert type(found) is type(expected) or {type(found), type(expected)} == {int, float}, place
        assert found == expected, place


@settings(max_examples=200, deadline=None)
@given(cases())
def test_every_figure_is_what_its_definition_says(case: tuple[GraphColumns, SampledSets]) -> None:
    report = coverage_report(*case)
    curve = report.pop("curve")
    assert_same(report, plain_report(*case))
    plain = PlainCoverage(*case)
    first = 1 if case[1].earlier is None else 0
    assert curve == [plain.curve_point(sets) for sets in range(first, len(case[1]) + 1)]


@settings(deadline=None)
@given(cases())
def test_a_report_is_json_and_has_a_table_of_equally_long_rows(case: tuple[GraphColumns, SampledSets]) -> None:
    report = coverage_report(*case)
    assert json.loads(json.dumps(report)) == report
    for table in report_table(report):
        assert all(len(row) == len(table.header) for row in table.rows), table
        assert all(isinstance(cell, str) for row in table.rows for cell in row), table


def test_the_curve_has_at_most_200_points_and_ends_at_the_last_set() -> None:
    graph = graph_of([(0, 0, 1), (1, 0, 2), (2, 1, 3)])
    sets = sets_of([[0], [1]] * 700 + [[2]])
    curve = coverage_report(graph, sets)["curve"]
    assert 190 <= len(curve) <= 200
    assert curve[0]["sets"] < 10
    assert curve[-2] == {"sets": curve[-2]["sets"], "entities": 3, "relations": 1, "triplets": 2}
    assert curve[-1] == {"sets": 1401, "entities": 4, "relations": 2, "triplets": 3}
    longer = coverage_report(graph, replace(sets, earlier=earlier_counts(graph, np.array([0, 5, 0]))))["curve"]
    assert len(longer) <= 200
    assert longer[0] == {"sets": 5, "entities": 2, "relations": 1, "triplets": 1}
    assert longer[-1]["sets"] == 1406


def test_what_may_not_be_drawn_is_not_counted_as_missed() -> None:
    graph = graph_of([(0, 0, 1), (1, 1, 2), (2, 0, 3)], literals={3}, nodes=5)
    excluded = {"excluded_relations": np.array([False, True]), "excluded_nodes": np.array([0, 0, 1, 0, 0], bool)}
    coverage = coverage_report(graph, sets_of([[0]], **excluded))["coverage"]
    assert coverage == {
        "entities": {"covered": 2, "reachable": 2, "share": 1.0, "total": 4},
        "literals": {"covered": 0, "reachable": 0, "share": 0.0, "total": 1},
        "relations": {"covered": 1, "reachable": 1, "share": 1.0, "total": 2},
        "triplets": {"covered": 1, "reachable": 1, "share": 1.0, "total": 3},
    }


def test_no_sets_at_all_make_a_report_too(tmp_path: Path) -> None:
    report = coverage_report(graph_of([(0, 0, 1)]), sets_of([]))
    assert report["sets"] == report["duplicates"] == report["coverage"]["triplets"]["covered"] == 0
    assert report["curve"] == []
    plot_coverage(report, tmp_path / "plot.png")
    assert report_table(report)


def test_columns_of_a_graph_are_its_triplets_in_order(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "kg", ["a", "b", "c"], [("c", "p", "a"), ("a", "q", "c"), ("a", "p", "b")])
    columns = GraphColumns.of(graph)
    assert (columns.subjects.tolist(), columns.relations.tolist(), columns.objects.tolist()) == (
        [0, 0, 2],
        [0, 1, 0],
        [1, 2, 0],
    )
    assert columns.subjects.dtype == columns.relations.dtype == columns.objects.dtype == np.int32
    assert columns.is_entity.tolist() == [True] * 3
    assert (columns.relation_ids, columns.relation_labels) == (["p", "q"], ["the p", "the q"])
    assert coverage_report(columns, sets_of([[0, 2]]))["coverage"]["entities"]["covered"] == 3


# --- evenness and bounds --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(count_lists)
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    assert gini(np.array(counts)) == pytest.approx(plain_gini(counts))


@settings(deadline=None)
@given(count_lists)
def test_entropy_is_relative_to_the_uniform_distribution(counts: list[int]) -> None:
    assert normalised_entropy(np.array(counts)) == pytest.approx(plain_entropy(counts), abs=1e-12)


def test_nothing_drawn_has_neither_entropy_nor_inequality() -> None:
    assert normalised_entropy(np.zeros(3, np.int64)) == gini(np.zeros(3, np.int64)) == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5), st.data())
def test_water_filling_is_majorised_by_every_other_allocation(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    ranges = [range(low, low + room + 1) for low, room in rows]
    least, most = (np.array([values[end] for values in ranges]) for end in (0, -1))
    total = data.draw(st.integers(int(least.sum()), int(most.sum())))
    filled = water_fill(least, most, total)
    assert filled.sum() == total
    assert ((least <= filled) & (filled <= most)).all()
    largest_first = np.cumsum(np.sort(filled)[::-1])
    others = [allocation for allocation in product(*ranges) if sum(allocation) == total]
    assert tuple(filled.tolist()) in others
    for other in others:
        assert (largest_first <= np.cumsum(np.sort(other)[::-1])).all(), other


def test_water_filling_refuses_a_total_without_room() -> None:
    with pytest.raises(ValueError, match="6 cannot be dealt out between 1 and 5"):
        water_fill(np.array([1, 0]), np.array([2, 3]), 6)


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 50), st.data())
def test_the_fewest_uses_leave_room_and_one_less_does_not(
    triplets: list[int], n_sets: int, data: st.DataObject
) -> None:
    total = data.draw(st.integers(0, len(triplets) * n_sets))
    uses = fewest_uses(np.array(triplets), n_sets, total)
    assert sum(min(uses * t, n_sets) for t in triplets) >= total
    assert uses == 1 or sum(min((uses - 1) * t, n_sets) for t in triplets) < total


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 12))
def test_no_choice_of_fewer_sets_could_cover_the_entities(sizes: list[int], entities: int) -> None:
    enough = [
        sum(chosen)
        for chosen in product((0, 1), repeat=len(sizes))
        if sum(used * (size + 1) for used, size in zip(chosen, sizes, strict=True)) >= entities
    ]
    if enough:
        assert forced_sets(np.array([entities]), np.array(sizes)).tolist() == [min(enough)]


@st.composite
def connected_cases(draw: st.DrawFn) -> tuple[GraphColumns, SampledSets]:
    """Sets whose triplets hang together, drawn from a graph in which many entities have one relation only."""
    n = draw(st.integers(2, 12))
    triplet = st.tuples(st.integers(0, n - 1), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, n - 1))
    graph = graph_of(draw(st.lists(triplet, min_size=1, max_size=20, unique=True)), nodes=n)
    ends = list(zip(graph.subjects.tolist(), graph.objects.tolist(), strict=True))
    rows = []
    for size in draw(st.lists(st.integers(1, 6), min_size=1, max_size=10)):
        row = [draw(st.integers(0, len(ends) - 1))]
        for _ in range(size - 1):
            visited = {end for edge in row for end in ends[edge]}
            open_ = [edge for edge, pair in enumerate(ends) if edge not in row and visited & set(pair)]
            row += [draw(st.sampled_from(open_))] if open_ else []
        rows.append(row)
    return graph, sets_of(rows)


@settings(deadline=None)
@given(connected_cases())
def test_connected_sets_hold_a_relation_as_often_as_its_own_entities_force_them_to(
    case: tuple[GraphColumns, SampledSets],
) -> None:
    graph, sets = case
    report = coverage_report(graph, sets)
    entities = report["coverage"]["entities"]
    uncovered = entities["reachable"] - entities["covered"]
    relations_of: dict[int, set[int]] = {}
    for subject, relation, target in zip(graph.subjects, graph.relations, graph.objects, strict=True):
        relations_of.setdefault(int(subject), set()).add(int(relation))
        relations_of.setdefault(int(target), set()).add(int(relation))
    for row in report["relations"]:
        own = sum(relations == {int(row["id"][1:])} for relations in relations_of.values())
        forced = forced_sets(np.array([max(own - uncovered, 0)]), np.diff(sets.offsets))
        assert row["sets"] >= forced[0]


@settings(deadline=None)
@given(cases())
def test_nothing_drawn_is_more_even_than_the_bound(case: tuple[GraphColumns, SampledSets]) -> None:
    report = coverage_report(*case)
    drawn, bound = report["sets_per_relation"], report["bound"]
    assert bound["max"] <= drawn["max"]
    assert bound["min"] >= drawn["min"]
    assert bound["gini"] <= drawn["gini"]
    assert bound["normalised_entropy"] >= drawn["normalised_entropy"]


def test_a_relation_that_entities_have_alone_keeps_the_bound_high() -> None:
    """Nine entities have P0 alone, and no set holds more than three nodes: P0 must be in three sets."""
    graph = graph_of([*((node, 0, 9) for node in range(9)), (9, 1, 10), (9, 2, 11), (9, 3, 12)])
    report = coverage_report(graph, sets_of([[0, 1], [2, 3], [4, 5], [6, 7], [8], [9], [10], [11]]))
    assert report["sets_per_relation"]["max_over_median"] == 5.0
    bound, without_repeats = report["bound"], report["bound_without_repeats"]
    assert bound["most_forced"] == {"id": "P0", "label": "relation 0", "sets": 3}
    assert (bound["max_over_median"], bound["distance"]) == (1.5, 3.333)  # 3, 2, 2, 1
    assert (without_repeats["max_over_median"], without_repeats["distance"]) == (5.0, 1.0)  # 5, 1, 1, 1
    assert without_repeats["uses_of_a_triplet"] == 1


# --- sets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "ends"),
    [
        ("single", [(0, 1)]),
        ("single", [(0, 0)]),
        ("pair", [(0, 1), (0, 2)]),
        ("pair", [(0, 1), (1, 2)]),
        ("star", [(0, 1), (0, 2), (3, 0)]),
        ("chain", [(0, 1), (2, 1), (2, 3)]),
        ("chain", [(2, 3), (0, 1), (2, 1), (4, 3)]),
        ("tree", [(0, 1), (0, 2), (0, 3), (3, 4)]),
        ("cycle", [(0, 1), (0, 1)]),
        ("cycle", [(0, 1), (1, 0)]),
        ("cycle", [(0, 1), (1, 2), (2, 0)]),
        ("cycle", [(0, 1), (1, 1)]),
        ("cycle", [(0, 1), (0, 2), (0, 3), (0, 3)]),
        ("disconnected", [(0, 1), (2, 3)]),
        ("disconnected", [(0, 1), (1, 0), (2, 2)]),
    ],
)
def test_shapes_are_told_apart(shape: str, ends: list[tuple[int, int]]) -> None:
    triplets = [(subject, number, target) for number, (subject, target) in enumerate(ends)]
    assert plain_shape(triplets) == shape
    subjects, objects = np.array(ends, np.int32).T
    found, distinct = shapes.shapes(np.array([0, len(ends)]), subjects.copy(), objects.copy())
    assert SHAPES[found[0]] == shape
    assert distinct[0] == len({subject for subject, _ in ends})


@settings(deadline=None)
@given(connected_cases())
def test_connected_sets_have_the_shapes_that_networkx_tells(case: tuple[GraphColumns, SampledSets]) -> None:
    assert_same(coverage_report(*case)["shapes"], PlainCoverage(*case).shapes())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True), min_size=1, max_size=12))
def test_equal_sets_are_found_by_their_contents(rows: list[list[int]]) -> None:
    sets = sets_of(rows)
    expected = [next(i for i, other in enumerate(rows) if set(other) == set(row)) for row in rows]
    assert first_equal_sets(sets.offsets, sets.edges).tolist() == expected


def test_sets_whose_hashes_collide_are_not_taken_for_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    def sort_only(offsets: np.ndarray, edges: np.ndarray, hashes: np.ndarray) -> None:
        for start, end in pairwise(offsets):
            edges[start:end].sort()

    monkeypatch.setattr(shapes, "_sort_and_hash", sort_only)
    sets = sets_of([[1, 2], [2, 3], [2, 1], [1], [3, 2]])
    assert first_equal_sets(sets.offsets, sets.edges).tolist() == [0, 1, 0, 3, 1]


# --- for people -----------------------------------------------------------------------------------------------------


def small_report(**more: Any) -> dict[str, Any]:
    graph = graph_of([(0, 0, 1), (1, 0, 2), (2, 1, 3), (3, 1, 4), (4, 2, 5)], literals={5})
    sets = sets_of(
        [[0, 1], [1, 2, 3], [2], [1, 2], [0, 1]],
        splits=np.array([0, 0, 1, 0, 2]),
        asked_sizes=np.array([2, 3, 2, 2, 2]),
        **more,
    )
    return coverage_report(graph, sets)


def cells_by_title(report: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Title without remarks -> first cell of a row -> its other cells."""
    return {table.title.split(" (")[0]: {row[0]: list(row[1:]) for row in table.rows} for table in report_table(report)}


def test_the_tables_state_the_main_figures() -> None:
    cells = cells_by_title(small_report(relation_floor=2))
    assert cells["Covered of what may be drawn"]["entities"] == ["5", "5", "100.00%", "5"]
    assert cells["Covered of what may be drawn"]["triplets"] == ["4", "5", "80.00%", "5"]
    assert cells["Sets per relation and entity"]["relation"][:7] == ["0", "1.5", "3", "3.5", "4", "1.3", "80.00%"]
    assert cells["Relations in most sets"]["P0"] == ["relation 0", "4", "80.00%", "2", "40.00%"]
    assert cells["2 of 3 relations are in 2 or more sets; these are not"]["P2"][1] == "too few sets were drawn"
    assert cells["Sizes of the sets"] == {"asked": ["0", "4", "1", "2.200"], "reached": ["1", "3", "1", "2.000"]}
    assert cells["Shapes of the sets"]["of all sets"][:4] == ["20.00%", "60.00%", "0.00%", "20.00%"]
    assert cells["Overlap of the sets"]["triplets drawn"] == ["2.50", "25.00%", "4", "60.00%"]
    assert cells["Splits"]["triplets"] == ["7", "1", "2"]
    assert cells["Splits"]["sets also in train"] == ["", "0", "1"]
    assert cells["Splits"]["triplets also in train"] == ["", "100.00%", "100.00%"]


def test_a_continued_run_is_shown_together_with_the_earlier_ones() -> None:
    graph = graph_of([(0, 0, 1), (1, 0, 2), (2, 1, 3)])
    report = coverage_report(graph, sets_of([[0]], earlier=earlier_counts(graph, np.array([0, 3, 0]))))
    cells = cells_by_title(report)
    assert cells["Covered of what may be drawn"]["entities"] == ["2", "4", "50.00%", "4"]
    assert cells["Together with earlier runs, 4 sets"]["entities"] == ["3", "4", "75.00%", "4"]
    assert cells["Sets per relation and entity"]["… with earlier runs"][:5] == ["0", "1", "2", "3", "4"]


def test_the_headline_tells_of_negatives_and_equal_sets() -> None:
    report = small_report(negatives=7)
    assert headline(report) == ("5 sets of 2.00 triplets on average, and 7 without triplets; 1 repeat an earlier one.")
    assert headline(report | {"duplicates": 0, "negatives": 0}) == (
        "5 sets of 2.00 triplets on average; no two are equal."
    )


def test_a_table_in_markdown_keeps_its_columns_whatever_a_label_holds() -> None:
    table = ReportTable("Relations", ["relation", "label", "sets"], [["P1", "a|b", "3"], ["P2", "c", "1"]], texts=2)
    assert table.markdown().splitlines() == [
        "### Relations",
        "",
        "| relation | label | sets |",
        "| --- | --- | ---: |",
        "| P1 | a\\|b | 3 |",
        "| P2 | c | 1 |",
    ]
    assert ReportTable("All are in 3 or more sets", ["relation"], []).markdown() == "All are in 3 or more sets."


def test_many_sizes_share_the_last_column() -> None:
    graph = graph_of([(node, 0, node + 1) for node in range(20)])
    report = coverage_report(graph, sets_of([list(range(size)) for size in range(1, 15)]))
    table = next(table for table in report_table(report) if table.title == "Sizes of the sets")
    assert table.header == ["triplets", *map(str, range(1, 10)), "10 or more", "mean"]
    assert table.rows == [["sets", *["1"] * 9, "5", "7.500"]]


@pytest.mark.parametrize("module", [bounds, plots, shapes, tables], ids=lambda module: module.__name__)
def test_the_examples_in_the_documentation_hold(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


@pytest.mark.parametrize("asked", [None, np.array([2, 3])])
def test_the_plot_is_an_image_that_depends_on_the_figures_alone(tmp_path: Path, asked: np.ndarray | None) -> None:
    graph = graph_of([(0, 0, 1), (1, 0, 2), (2, 1, 3)])
    report = coverage_report(graph, sets_of([[0, 1], [1, 2]], asked_sizes=asked))
    for name in ("one.png", "two.png"):
        plot_coverage(report, tmp_path / name)
    image = (tmp_path / "one.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) > 20_000
    assert image == (tmp_path / "two.png").read_bytes()


def test_a_single_set_of_one_relation_and_a_continued_run_can_be_plotted(tmp_path: Path) -> None:
    graph = graph_of([(0, 0, 1)])
    for number, earlier in enumerate((None, earlier_counts(graph, np.array([2])))):
        plot_coverage(coverage_report(graph, sets_of([[0]], earlier=earlier)), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 20_000
