"""What becomes of a text with a fault: rejected, sent back to its writer, or flagged; and names by alias."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful
from texts_world import (
    FIRST,
    LAST,
    SETS,
    TOWNS,
    asked,
    dump_lines,
    entity,
    generate,
    relation,
    rows,
    settings,
)

from kg.build import build_graph
from kg.config import GraphConfig
from kg.graph import KnowledgeGraph
from kg.stage import run_stage
from synthie.config import load_config
from synthie.errors import ConfigError
from synthie.llm.prompts import load_prompt

FAULT = "Nobody knows anything."


def is_sent_back(seen: Seen) -> bool:
    return FAULT in [message["content"] for message in seen.body["messages"] if message["role"] == "assistant"]


def careless(seen: Seen) -> Reply:
    """Writes well of Ada and Bruno Weiss only when told what was wrong."""
    is_hard = any(name in asked(seen) for name in ("Ada Weiss", "Bruno Rossi"))
    return Reply(FAULT) if is_hard and not is_sent_back(seen) else faithful(seen)


def test_a_text_goes_back_to_its_writer_with_its_faults(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = careless
    manifest = generate(world, tmp_path, settings(server, tries=2), action="repair")
    assert (manifest.counts["samples"], manifest.counts["rejected"]) == (SETS, 0)
    assert len(server.seen) == SETS + 2
    back = [seen.body["messages"] for seen in server.seen if is_sent_back(seen)]
    assert len(back) == 2
    for messages in back:
        question, answer, complaint = messages[-3:]
        assert (question["role"], answer["role"], complaint["role"]) == ("user", "assistant", "user")
        assert answer["content"] == FAULT
        assert "- Triplet 1 (" in complaint["content"]
        assert complaint["content"].endswith(question["content"])
    told = {row["id"]: (row["tries"], row["repaired"]) for row in rows(tmp_path)}
    assert {number for number, how in told.items() if how == (2, True)} == {0, 1}
    assert {how for number, how in told.items() if number > 1} == {(1, False)}


def test_a_repaired_text_is_not_paid_for_again(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = careless
    generate(world, tmp_path, settings(server, tries=3), action="repair")
    first = rows(tmp_path)
    generate(world, tmp_path, settings(server, tries=3), action="repair", max_words_per_triplet=61)  # works anew
    assert len(server.seen) == SETS + 2
    assert rows(tmp_path) == first


def test_repairs_end_with_the_tries(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = lambda seen: Reply(FAULT) if "Ada Weiss" in asked(seen) else faithful(seen)
    manifest = generate(world, tmp_path, settings(server, tries=4), action="repair")
    assert (manifest.counts["samples"], manifest.counts["rejected"]) == (SETS - 1, 1)
    assert len(server.seen) == SETS + 3
    assert max(len(seen.body["messages"]) for seen in server.seen) == 2 + min(
        len(seen.body["messages"]) for seen in server.seen
    )  # only the last text goes back


def test_a_fault_that_rejects_outweighs_one_that_repairs(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = careless
    quality: dict[str, Any] = {"action": "repair", "actions": {"missing": "reject"}}
    manifest = generate(world, tmp_path, settings(server, tries=2), **quality)
    assert manifest.counts["rejected"] == 2
    assert not any(is_sent_back(seen) for seen in server.seen)


def test_a_text_cut_off_is_not_sent_back(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    def respond(seen: Seen) -> Reply:
        is_long = "Ada Weiss" in asked(seen) and seen.body["max_tokens"] < 1_000
        return Reply(FAULT, finish_reason="length") if is_long else faithful(seen)

    server.respond = respond
    manifest = generate(world, tmp_path, settings(server, tries=2), action="repair")
    assert manifest.counts["samples"] == SETS
    assert not any(is_sent_back(seen) for seen in server.seen)


def test_what_is_flagged_is_accepted_with_its_faults(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = careless
    manifest = generate(world, tmp_path, settings(server), actions={"missing": "flag", "duplicate": "flag"})
    assert (manifest.counts["samples"], manifest.counts["rejected"]) == (SETS, 0)
    assert {row["id"] for row in rows(tmp_path) if row["reasons"]} == {0, 1}
    assert {reason["check"] for row in rows(tmp_path) for reason in row["reasons"]} == {"missing", "duplicate"}
    bill = json.loads((tmp_path / "cost.json").read_text())
    assert manifest.counts["reasons"] == {}
    assert manifest.counts["flagged"] == {"missing": 2, "duplicate": 1}
    assert bill["texts"]["samples"] == SETS


@pytest.mark.parametrize("action", ["flag", "reject"])
def test_repeats_have_an_action_too(world: Path, tmp_path: Path, server: ScriptedEndpoint, action: str) -> None:
    same = "The place of birth of Ada Weiss is Ulm, the place of death of Bruno Rossi is Bern."
    loose = {"check_entities": False, "check_extra": False}
    server.respond = lambda seen: Reply(same) if asked(seen).count("| place") == 1 else faithful(seen)
    manifest = generate(world, tmp_path, settings(server), actions={"duplicate": action}, **loose)
    flagged = [row for row in rows(tmp_path) if row["reasons"]]
    singles = sum(asked(seen).count("| place") == 1 for seen in server.seen)
    assert singles > 10
    if action == "flag":
        assert manifest.counts["samples"] == SETS
        assert manifest.counts["flagged"] == {"duplicate": singles - 1}
        assert len(flagged) == singles - 1
    else:
        assert manifest.counts["samples"] == SETS - singles + 1
        assert manifest.counts["reasons"]["duplicate"] == singles - 1


def test_a_repeat_that_is_sent_back_tells_why(world: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    usual = len(load_prompt("few-shot/1").messages([], []))
    same = "Ada Weiss has Ulm as place of birth and Bruno Rossi has Bern as place of death."
    server.respond = lambda seen: (
        Reply(same)
        if any(name in asked(seen) for name in ("Bruno Rossi", "Clara Moreau")) and len(seen.body["messages"]) == usual
        else faithful(seen)
    )
    loose = {"check_entities": False, "check_extra": False}
    manifest = generate(world, tmp_path, settings(server, tries=2), actions={"duplicate": "repair"}, **loose)
    back = [seen for seen in server.seen if len(seen.body["messages"]) > usual]
    assert len(back) == 1
    assert "The same text as that of set" in back[0].body["messages"][-1]["content"]
    assert manifest.counts["samples"] == SETS


def test_repairs_without_a_second_try_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tries"):
        load_config(None, ["quality.action=repair"])
    assert load_config(None, ["quality.action=repair", "generation.tries=2"]).quality.repairs
    with pytest.raises(ConfigError, match="actions"):
        load_config(None, ["quality.actions={nonsense: flag}"])


def test_a_prompt_may_have_words_of_its_own_for_sending_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('user: "{{ triplets }}"\nrepair: "{{ faults | length }} faults.\\n{{ question }}"\n')
    asked = [{"role": "user", "content": "1. A | b | C"}]
    messages = load_prompt(str(path)).repair_messages(asked, "A text.", ["No.", "Wrong."])
    assert [message["content"] for message in messages] == ["1. A | b | C", "A text.", "2 faults.\n1. A | b | C"]
    path.write_text('user: "{{ triplets }}"\nrepair: "{{ question }} Again!"\n')
    with pytest.raises(ConfigError, match="repair template"):
        load_prompt(str(path))


# --- Names by alias ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aliased(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with two aliases for every person, one of them in another script, and one for each town."""

    def alias(line: dict[str, Any]) -> None:
        name = line["labels"]["en"]["value"]
        first, _, last = name.partition(" ")
        others = [f"{first[0]}. {last} of Europe", "Ада"] if last else [f"{name} City"]
        line["aliases"] = {"en": [{"language": "en", "value": other} for other in others]}

    return changed(world, tmp_path_factory.mktemp("aliased"), alias)


def changed(world: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The world with each entity changed."""
    lines = list(dump_lines())
    for line in lines:
        if line["id"].startswith("Q"):
            change(line)
    dump = folder / "dump.json"
    dump.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")
    build_graph(GraphConfig(dump=str(dump)), folder / "kg")
    (folder / "sets").symlink_to(world / "sets")
    return folder


def test_a_share_of_the_entities_is_called_by_an_alias(aliased: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    manifest = generate(aliased, tmp_path, settings(server, alias_share=0.5))
    assert manifest.counts["samples"] == SETS
    texts = [row["text"] for row in rows(tmp_path)]
    assert 15 < sum(" of Europe" in text for text in texts) < 45
    assert 15 < sum(" City" in text for text in texts) < 60
    assert "Ада" not in "".join(texts)
    for row in rows(tmp_path):
        assert all(entity["mention_start_index"] >= 0 for entity in row["entities"])
        assert all("of Europe" not in entity["surfaceform"] for entity in row["entities"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_are_called_by_an_alias(
    aliased: Path, tmp_path: Path, server: ScriptedEndpoint, share: float
) -> None:
    generate(aliased, tmp_path, settings(server, alias_share=share))
    assert all((" of Europe" in row["text"]) == bool(share) for row in rows(tmp_path))


def test_an_entity_has_one_name_in_a_set(aliased: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    generate(aliased, tmp_path, settings(server, alias_share=0.5))
    for seen in server.seen:
        subjects = [line.split(" | ")[0].split(". ", 1)[1] for line in asked(seen).splitlines()]
        assert len(set(subjects)) == 1


# --- Relations told in the words of others ----------------------------------------------------------------------------


VERBS = (
    "mends",
    "paints",
    "sweeps",
    "guards",
    "films",
    "maps",
    "praises",
    "leaves",
    "seeks",
    "feeds",
    "wires",
    "rents",
)
PEOPLE = 12


@pytest.fixture(scope="module")
def crafts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve people who each have twelve relations to towns, and a set of each triplet."""
    folder = tmp_path_factory.mktemp("crafts")
    relations = {f"P{100 + number}": f"craft {number}" for number in range(len(VERBS))}
    lines = [relation(name, label) for name, label in relations.items()]
    lines += [entity(100 + number, town, {"P31": [515]}) for number, town in enumerate(TOWNS)]
    claims = {name: [100 + number % len(TOWNS)] for number, name in enumerate(relations)}
    people = [f"{first} {last}" for first, last in zip(FIRST + FIRST, LAST + LAST[1:], strict=False)][:PEOPLE]
    lines += [entity(1_000 + number, name, claims | {"P31": [5]}) for number, name in enumerate(people)]
    dump = folder / "dump.json"
    dump.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")
    build_graph(GraphConfig(dump=str(dump)), folder / "kg")
    graph = KnowledgeGraph.open(folder / "kg")
    triplets = [
        {"subject": subject, "relation": name, "object": place}
        for number in range(PEOPLE)
        for subject, place, name in graph.out_edges(f"Q{1_000 + number}", keys=True)
        if name in relations
    ]

    def write(target: Path) -> dict[str, Any]:
        table = {
            "id": range(len(triplets)),
            "triplets": [[one] for one in triplets],
            "split": ["train"] * len(triplets),
        }
        pq.write_table(pa.table(table), target / "sets.parquet")
        return {}

    run_stage("sets", folder / "sets", config={}, inputs={}, seed=0, work=write)
    return folder


USUAL = len(load_prompt("few-shot/1").messages([], []))


def in_other_words(seen: Seen) -> Reply:
    """Each craft has a verb of its own; the first person's first is told with the second's, unless it is sent back."""
    subject, craft, place = asked(seen).split(". ", 1)[1].split(" | ")
    number = int(craft.removeprefix("craft "))
    is_wrong = (subject, number) == ("Ada Weiss", 0) and len(seen.body["messages"]) == USUAL
    return Reply(f"{subject} {VERBS[number + is_wrong]} {place}.")


def test_a_relation_told_in_the_words_that_others_have_for_another_is_rejected(
    crafts: Path, tmp_path: Path, server: ScriptedEndpoint
) -> None:
    server.respond = in_other_words
    manifest = generate(crafts, tmp_path, settings(server), near_duplicate=1.0)
    assert manifest.counts["reasons"] == {"relation": 1}
    (row,) = rows(tmp_path, "rejected")
    told = "'paints' (characters 10–16) is how the texts tell of 'craft 1', not of 'craft 0'."
    assert row["reasons"][0]["detail"] == f"Triplet 1 (Ada Weiss | craft 0 | Ulm): {told}"


def test_the_writer_hears_of_the_wrong_words(crafts: Path, tmp_path: Path, server: ScriptedEndpoint) -> None:
    server.respond = in_other_words
    manifest = generate(crafts, tmp_path, settings(server, tries=2), action="repair", near_duplicate=1.0)
    assert (manifest.counts["samples"], manifest.counts["rejected"]) == (PEOPLE * len(VERBS), 0)
    (back,) = (seen.body["messages"] for seen in server.seen if len(seen.body["messages"]) > USUAL)
    assert "is how the texts tell of 'craft 1', not of 'craft 0'" in back[-1]["content"]
