"""A world is built from a graph or from lists, keeps all ids of a shared name, and serves a trained extractor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_constraint import CLOSE, END, OBJECT, RELATION, SUBJECT, VOCABULARY, make_world
from transformers import T5Config
from typer.testing import CliRunner

from synthie.cli import app
from synthie.errors import InputError
from synthie.extractor.building import build_like, build_with, world_summary
from synthie.extractor.names import WorldNames, names_of_graph, names_of_lists
from synthie.extractor.tokenizer import train_tokenizer
from synthie.extractor.world import World

TEXTS = ["Ada Lovelace was born in London", "Ulm is in Germany", "place of birth", "country"] * 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder, as far as a world needs it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(TEXTS, 120)
    tokenizer.save_pretrained(folder)
    T5Config(vocab_size=len(tokenizer) + 8).save_pretrained(folder)
    return folder


def write_graph(folder: Path) -> Path:
    """Two towns that share a name, the second with more triples; countries and towns have classes."""
    folder.mkdir()
    names = {"Q1": "Ulm", "Q2": "Germany", "Q3": "Ulm", "Q4": "Ada_Lovelace"}
    classes = [["town"], ["country"], ["town"], ["human"]]
    nodes = {"id": list(names), "name": list(names.values()), "types": classes}
    pq.write_table(pa.table(nodes), folder / "nodes.parquet")
    pq.write_table(
        pa.table({"id": ["P17", "P19"], "label": ["country", "place of birth"]}), folder / "relations.parquet"
    )
    triples = np.array([(0, 0, 1), (2, 0, 1), (3, 1, 2)], np.int32).T
    pq.write_table(
        pa.table(dict(zip(("subject", "relation", "object"), triples, strict=True))), folder / "triples.parquet"
    )
    return folder


def sequence(world: World, base: Path, subject: str, relation: str, target: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (subject, relation, target)]
    pieces = zip(("[s]", "[r]", "[o]"), parts, strict=True)
    return [token for mark, part in pieces for token in [*world.markers[mark], *part]] + world.markers["[e]"]


def test_ids_that_share_a_name_are_all_found_and_the_setting_says_which_is_meant(base: Path, tmp_path: Path) -> None:
    names = names_of_graph(write_graph(tmp_path / "kg"))
    build_with(str(base), "fully_expanded", "spaces", names, tmp_path / "world")
    lowest, linked = World.open(tmp_path / "world"), World.open(tmp_path / "world", meant="most_linked")
    tokens = sequence(lowest, base, "Ulm", "country", "Germany")
    assert lowest.parse(tokens) == [(0, 0, 1)]
    assert linked.parse(tokens) == [(2, 0, 1)]
    assert lowest.candidates(tokens) == [([0, 2], [0], [1])]
    assert linked.candidates(tokens) == [([2, 0], [0], [1])]
    summary = world_summary(lowest)
    assert (summary["nodes"], summary["shared_sequences"], summary["nodes_that_share_one"]) == (4, 1, 2)


def test_names_that_the_tokenizer_cannot_read_are_written_and_found_by_their_ids(base: Path, tmp_path: Path) -> None:
    nodes = pa.table({"id": ["Q1", "Q2"], "name": ["Łódź", "Ulm"]})
    relations = pa.table({"id": ["P17"], "name": ["country"]})
    world = build_with(str(base), "fully_expanded", "spaces", WorldNames(nodes, relations), tmp_path)
    tokens = sequence(world, base, "Łódź", "country", "Ulm")
    assert 2 in tokens  # <unk>
    assert all(token in world.allowed(tokens[:place]) for place, token in enumerate(tokens))
    [triplet] = world.triplets(world.parse(tokens))
    assert triplet.key == ("Q1", "P17", "Q2")


def test_without_triples_the_most_linked_is_not_known() -> None:
    with pytest.raises(InputError, match="most triples is not known"):
        make_world("fully_expanded", [[7], [7]], [[8]]).preferring_linked()


def test_lists_of_every_form_give_the_same_names(tmp_path: Path) -> None:
    rows = {"Q10": "Ulm", "Q9": "Ada Lovelace"}
    tsv, jsonl, ids, mapping = (tmp_path / name for name in ("a.tsv", "a.jsonl", "entities.json", "mapping.jsonl"))
    tsv.write_text("".join(f"{key}\t{name}\n" for key, name in sorted(rows.items(), reverse=True)))
    jsonl.write_text("".join(json.dumps({"id": key, "name": rows[key]}) + "\n" for key in ("Q9", "Q10")))
    ids.write_text(json.dumps(list(rows)))
    mapping.write_text("".join(json.dumps({"id": key, "en_label": name}) + "\n" for key, name in rows.items()))
    found = [
        names_of_lists(tsv, tsv),
        names_of_lists(jsonl, jsonl),
        names_of_lists(ids, ids, mapping, mapping),
    ]
    assert all(each.nodes.to_pydict() == {"id": ["Q9", "Q10"], "name": ["Ada Lovelace", "Ulm"]} for each in found)
    with pytest.raises(InputError, match="lists ids alone"):
        names_of_lists(ids, tsv)
    mapping.write_text(json.dumps({"id": "Q9", "en_label": "Ada"}))
    with pytest.raises(InputError, match="id or name is missing"):
        names_of_lists(ids, tsv, mapping)
    tsv.write_text("Q1\tUlm\nQ1\tBerlin\n")
    with pytest.raises(InputError, match="two names for Q1"):
        names_of_lists(tsv, tsv)


def test_the_commands_build_a_world_and_tell_about_it(base: Path, tmp_path: Path) -> None:
    graph, folder = write_graph(tmp_path / "kg"), tmp_path / "world"
    built = CliRunner().invoke(app, ["world", "build", str(folder), "--graph", str(graph), "--tokenizer", str(base)])
    assert "4 nodes, 2 relations" in built.output
    told = CliRunner().invoke(app, ["world", "info", str(folder), "--json"])
    summary = json.loads(told.output)
    assert (summary["nodes"], summary["classes_known"], summary["names_written_with"]) == (4, "yes", "underscores")


def test_a_world_for_an_extractor_is_written_like_its_own(base: Path, tmp_path: Path) -> None:
    names = names_of_graph(write_graph(tmp_path / "kg"))
    own = build_with(str(base), "subject_collapsed", "spaces", names, tmp_path / "extractor")
    for file in base.iterdir():
        (tmp_path / "extractor" / file.name).write_bytes(file.read_bytes())
    few = WorldNames(names.nodes.slice(1, 1), names.relations)
    other = build_like(tmp_path / "extractor", few, tmp_path / "other")
    assert other.is_like(own)
    assert other.nodes["id"].to_pylist() == ["Q2"]
    assert not build_with(str(base), "fully_expanded", "spaces", few, tmp_path / "third").is_like(own)


def test_a_world_of_an_earlier_layout_is_refused(tmp_path: Path) -> None:
    world = make_world("fully_expanded", [[7]], [[8]])
    world.save(tmp_path)
    shape = {"vocabulary": VOCABULARY, "roots": world.trie.roots - len(world.form.slots)}
    (tmp_path / "world" / "trie.json").write_text(json.dumps(shape))
    with pytest.raises(InputError, match="earlier version"):
        World.open(tmp_path)


def test_what_names_cannot_be_written_is_told(tmp_path: Path) -> None:
    world = make_world("fully_expanded", [[7], [END], [], [8, 7]], [[8]])
    summary = world_summary(world)
    assert (summary["nodes"], summary["nodes_not_writable"], summary["examples_not_writable"]) == (4, 2, ["[1]", "[]"])
    assert world.allowed(SUBJECT) == {7, 8}
    assert world.parse([*SUBJECT, 8, 7, *RELATION, 8, *OBJECT, 7, *CLOSE]) == [(3, 0, 0)]
