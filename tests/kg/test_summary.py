"""A graph at a glance: its figures are networkx's, and its plot is a picture."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from wikidata_documents import build, coordinate, date, item, property_document, quantity, to_item

from kg.graph import KnowledgeGraph
from kg.plots import plot_graph
from kg.summary import graph_summary


def documents() -> list[dict[str, Any]]:
    return [
        property_document(17, "country"),
        item(
            64,
            "Berlin",
            claims=[to_item(31, 515), to_item(17, 183), to_item(47, 64), coordinate(625, 1, 2), quantity(1082, "+5")],
            aliases={"en": [{"language": "en", "value": "Berlin, Germany"}]},
            descriptions={"en": {"language": "en", "value": "a city"}},
        ),
        item(183, "Germany", claims=[to_item(36, 64, rank="preferred"), date(571, "+1237-00-00T00:00:00Z", 9)]),
        item(515, "city"),
        item(727, "Amsterdam", claims=[to_item(31, 515)]),
        item(1000, "alone"),
        item(1001, "one of two", claims=[to_item(47, 1002)]),
        item(1002, "the other"),
    ]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeGraph:
    return build(tmp_path_factory.mktemp("graph"), documents())[1]


@pytest.fixture(scope="module")
def summary(graph: KnowledgeGraph) -> dict[str, Any]:
    return graph_summary(graph)


def test_the_summary_counts_what_networkx_counts(graph: KnowledgeGraph, summary: dict[str, Any]) -> None:
    ordinary = graph.to_networkx()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["nodes"], summary["triples"]) == (ordinary.number_of_nodes(), ordinary.number_of_edges())
    assert summary["kinds"] == {"coordinate": 1, "date": 1, "entity": 7, "quantity": 1}
    assert sum(summary["triples_by_kind"].values()) == summary["triples"]
    parts = sorted(map(len, nx.weakly_connected_components(ordinary)), reverse=True)
    assert summary["components"]["count"] == len(parts) == 3
    assert summary["components"]["sizes"] == parts
    assert summary["components"]["largest_share"] == round(parts[0] / len(ordinary), 6)
    assert summary["isolated"] == nx.number_of_isolates(ordinary) == 1
    assert summary["preferred_triples"] == 1
    for name, view in (("degree", ordinary.degree), ("out_degree", ordinary.out_degree)):
        degrees = [degree for _, degree in view]
        assert summary[name]["q100"] == max(degrees)
        assert summary[name]["q50"] == float(np.median(degrees))


def test_relations_come_by_frequency_and_their_shares_add_up(summary: dict[str, Any]) -> None:
    counts = [row["count"] for row in summary["relation_counts"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == summary["triples"]
    assert sum(row["share"] for row in summary["relation_counts"]) == pytest.approx(1, abs=1e-4)


def test_every_node_with_a_triple_is_in_one_bin_of_the_histogram(summary: dict[str, Any]) -> None:
    bins = summary["degree"]["histogram"]
    assert sum(row["nodes"] for row in bins) == summary["nodes"] - summary["isolated"]
    assert all(row["low"] <= row["high"] for row in bins)
    assert all(before["high"] < after["low"] for before, after in pairwise(bins))
    assert sum(row["components"] for row in summary["components"]["histogram"]) == summary["components"]["count"]


def test_classes_and_hubs_have_labels_and_missing_names_are_counted(summary: dict[str, Any]) -> None:
    assert summary["classes"] == [{"id": "Q515", "label": "city", "entities": 2}]
    assert summary["hubs"][0] == {"id": "Q64", "label": "Berlin", "triples": 7}
    assert summary["missing"]["entities"] == {"label": 0, "description": 6, "aliases": 6, "types": 5}
    assert summary["missing"]["relations"]["label"] == summary["relations"] - 1


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_a_picture_and_equal_for_equal_graphs(summary: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    plot_graph(summary, tmp_path / f"graph.{suffix}")
    assert (tmp_path / f"graph.{suffix}").stat().st_size > 5_000
    if suffix == "png":
        buffer = io.BytesIO()
        plot_graph(summary, buffer)
        assert buffer.getvalue() == (tmp_path / "graph.png").read_bytes()
