"""Triplets written as a sequence come back as the same triplets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.errors import InputError
from synthie.extractor.linearization import Form, linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.tokenizer import tokenize, tokenize_world, train_tokenizer
from synthie.extractor.world import World, WorldTokens
from synthie.records import Mention

steady = settings(deadline=None)
FORMS: tuple[Form, ...] = ("fully_expanded", "subject_collapsed")
PAD, END = 0, 1
MARKERS = [[2, 3], [2, 4], [2, 5], [2, 6], [END]]

names = st.text(alphabet="abc xyz", min_size=1, max_size=8).map(lambda name: " ".join(name.split())).filter(bool)
# Names may hold the markers' first token (2), but none of the tokens that complete a marker.
token_names = st.lists(st.sampled_from([2, 7, 8, 9]), min_size=1, max_size=4)
token_sets = st.lists(token_names, min_size=1, max_size=6)
numbers = st.integers(0, 100)
records = st.lists(st.lists(st.tuples(numbers, numbers, numbers), max_size=4, unique=True), max_size=5)


def make_world(form: Form, nodes: list[list[int]], relations: list[list[int]]) -> tuple[World, WorldTokens]:
    tokens = WorldTokens(Ragged.from_rows(nodes), Ragged.from_rows(relations), Ragged.from_rows(MARKERS))
    tables = [
        pa.table({"id": [f"{kind}{row}" for row in range(size)], "name": [f"{kind}_{row}" for row in range(size)]})
        for kind, size in (("Q", len(nodes)), ("P", len(relations)))
    ]
    return World.build(linearization(form, "spaces"), tokens, *tables, vocabulary=10, pad=PAD), tokens


@pytest.mark.parametrize("form", FORMS)
@steady
@given(triplets=st.lists(st.tuples(names, names, names), max_size=5, unique=True))
def test_a_written_string_is_read_back(form: Form, triplets: list[tuple[str, str, str]]) -> None:
    form_of = linearization(form, "spaces")
    assert form_of.read(form_of.write(triplets)) == triplets


@steady
@given(st.lists(st.sampled_from(["[s]", "[r]", "[o]", "[e]", " a ", "b", " ", "[x]"])).map("".join))
def test_reading_never_fails_and_never_invents_empty_names(text: str) -> None:
    for triplet in linearization("fully_expanded", "spaces").read(text):
        assert all(part and part in text for part in triplet)


def test_the_two_forms_of_one_record() -> None:
    triplets = [("Ada_L", "born in", "New_York"), ("Ada_L", "died in", "Ulm"), ("Ulm", "country", "D")]
    assert linearization("fully_expanded", "underscores").write(triplets) == (
        "[s] Ada_L [r] born in [o] New_York [e] [s] Ada_L [r] died in [o] Ulm [e] [s] Ulm [r] country [o] D [e]"
    )
    assert linearization("subject_collapsed", "spaces").write(triplets) == (
        "[s] Ada L [r] born in [o] New York [r] died in [o] Ulm [e] [s] Ulm [r] country [o] D [e]"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("nothing here", []),
        ("[s] a [r] b [o] c", []),  # cut: the object may go on
        ("[s] a [r] b [o] c [e] [s] a [r] b [o] c [e]", [("a", "b", "c")]),
        ("[s] a [r] b [o] c [r] d [o] e [e]", [("a", "b", "c"), ("a", "d", "e")]),
        ("[r] b [o] c [e] [s] x [r] y [o] z [e]", [("x", "y", "z")]),
        ("[s] a [o] c [e]", []),
        ("[s] a [r] b [o] c [o] d [e]", [("a", "b", "c")]),
    ],
)
def test_reading_is_tolerant(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert linearization("fully_expanded", "spaces").read(text) == expected


@pytest.mark.parametrize("form", FORMS)
@steady
@given(nodes=token_sets, relations=token_sets, sets=records)
def test_targets_are_the_parts_one_after_the_other_with_one_end(
    form: Form, nodes: list[list[int]], relations: list[list[int]], sets: list[list[tuple[int, int, int]]]
) -> None:
    _, tokens = make_world(form, nodes, relations)
    sets = [_within(record, nodes, relations) for record in sets]
    written = tokens.write(linearization(form, "spaces"), *_flat(sets))
    start, relation_marker, object_marker, close, end = MARKERS
    for row, record in enumerate(sets):
        expected: list[int] = []
        for position, (subject, relation, target) in enumerate(record):
            if form == "subject_collapsed" and position and record[position - 1][0] == subject:
                del expected[-len(close) :]
            else:
                expected += start + nodes[subject]
            expected += relation_marker + relations[relation] + object_marker + nodes[target] + close
        assert written[row].tolist() == expected + end


@pytest.mark.parametrize("form", FORMS)
@steady
@given(nodes=token_sets, relations=token_sets, sets=records)
def test_tokens_resolve_to_the_lowest_number_with_that_name(
    form: Form, nodes: list[list[int]], relations: list[list[int]], sets: list[list[tuple[int, int, int]]]
) -> None:
    world, tokens = make_world(form, nodes, relations)
    sets = [_within(record, nodes, relations) for record in sets]
    written = tokens.write(world.form, *_flat(sets))
    for row, record in enumerate(sets):
        expected = [
            (nodes.index(nodes[subject]), relations.index(relations[relation]), nodes.index(nodes[target]))
            for subject, relation, target in record
        ]
        assert world.parse(written[row]) == list(dict.fromkeys(expected))


@pytest.mark.parametrize("form", FORMS)
def test_no_triplets_are_the_end_alone_and_come_back_as_none(form: Form) -> None:
    world, tokens = make_world(form, [[7], [7, 8]], [[9]])
    written = tokens.write(world.form, *_flat([[], [(0, 0, 1)], []]))
    assert [written[row].tolist() for row in (0, 2)] == [[END], [END]]
    assert world.parse([END]) == world.form.read(world.form.write([])) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_sequence_loses_its_last_triplet_only(form: Form) -> None:
    world, tokens = make_world(form, [[7], [7, 8]], [[9]])
    sequence = tokens.write(world.form, *_flat([[(0, 0, 1), (0, 0, 0)]]))[0]
    whole = world.parse(sequence)
    assert whole == [(0, 0, 1), (0, 0, 0)]
    parsed = [world.parse(sequence[:length]) for length in range(len(sequence) + 1)]
    assert all(found in ([], whole[:1], whole) for found in parsed)
    assert world.parse(sequence[:-2]) == whole[:1]  # the closing marker is incomplete


def test_triplets_have_names_and_ids_and_unknown_names_have_none() -> None:
    world, _ = make_world("fully_expanded", [[7], [8]], [[9]])
    (known,) = world.triplets([(0, 0, 1)])
    assert known.key == ("Q0", "P0", "Q1")
    ((found, missing),) = world.resolve([[("Q 0", "P_0", "Q 1"), ("Q 0", "P_0", "Zanzibar")]])
    assert found == known
    assert missing.object == Mention("Zanzibar", "")
    assert missing.key == ("Q0", "P0", "")


def test_a_saved_world_opens_with_the_same_answers(tmp_path: Path) -> None:
    world, tokens = make_world("subject_collapsed", [[7], [7, 8], [2]], [[9]])
    world.save(tmp_path)
    opened = World.open(tmp_path)
    sequence = tokens.write(world.form, *_flat([[(2, 0, 1), (2, 0, 0)]]))[0].tolist()
    assert opened.parse(sequence) == [(2, 0, 1), (2, 0, 0)]
    assert all(opened.allowed(sequence[:end]) == world.allowed(sequence[:end]) for end in range(len(sequence)))
    with pytest.raises(InputError, match="holds no trained extractor"):
        World.open(tmp_path / "elsewhere")


def test_names_that_cannot_be_written_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    world, _ = make_world("fully_expanded", [[7], [], [8, END, 9]], [[9]])
    assert "2 node names cannot be written" in caplog.text
    assert world.allowed(MARKERS[0]) == {7}


def test_markers_that_cannot_be_told_apart_are_refused() -> None:
    tokens = WorldTokens(
        Ragged.from_rows([[7]]), Ragged.from_rows([[8]]), Ragged.from_rows([[2], [2], [3], [4], [END]])
    )
    table = pa.table({"id": ["Q1"], "name": ["a"]})
    with pytest.raises(InputError, match="cannot be told apart"):
        World.build(linearization("fully_expanded", "spaces"), tokens, table, table, vocabulary=10, pad=PAD)


def test_a_trained_tokenizer_writes_names_alone_as_in_a_text_and_splits_digits() -> None:
    text = "Ada Lovelace was born on 14 March 1879 in New York, at 52°31′N."
    tokenizer = train_tokenizer([text, "Ada Lovelace", "New York"] * 3, 200)
    in_text = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert "".join(in_text).count("▁New▁York") == 1
    assert tokenizer.tokenize("New York") == ["▁New", "▁York"]
    assert tokenizer.tokenize("14 March 1879") == ["▁1", "4", "▁March", "▁1", "8", "7", "9"]
    assert tokenizer.tokenize("[s] Ada [r]")[0] == "[s]"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.decode(tokenizer("  New\n York ")["input_ids"], skip_special_tokens=True) == "New York"


@pytest.fixture(scope="module")
def t5_tokenizer() -> Any:
    shared = Path(os.environ.get("SYNTHIE_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not (shared / "t5-tokenizer").is_dir():
        pytest.skip("the T5 tokenizer is not at hand (SYNTHIE_SHARED_DATA)")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "t5-tokenizer", local_files_only=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_t5_vocabulary_reaches_every_name_even_those_it_cannot_decode(form: Form, t5_tokenizer: Any) -> None:
    linear = linearization(form, "underscores")
    nodes = ["Łódź", "New_York", "New_York_City", "Foo", "Foo_[remix]", "Foo [r", "[s", "Wałęsa_{x}", "14 March 1879"]
    relations = ["country", "country of citizenship"]
    tokens = tokenize_world(t5_tokenizer, linear, nodes, relations)
    tables = [pa.table({"id": rows, "name": rows}) for rows in (nodes, relations)]
    world = World.build(linear, tokens, *tables, vocabulary=32_128, pad=t5_tokenizer.pad_token_id)
    triplets = [(row, row % 2, (row + 1) % len(nodes)) for row in range(len(nodes))]
    sequence = tokens.write(linear, *_flat([triplets]))[0]
    assert world.parse(sequence) == triplets
    assert t5_tokenizer.unk_token_id in tokens.nodes[0]
    assert tokens.markers[0].tolist() == tokenize(t5_tokenizer, ["[s]"])[0].tolist()
    for end in range(len(sequence)):
        assert int(sequence[end]) in world.allowed(sequence[:end])


def _within(
    record: list[tuple[int, int, int]], nodes: list[list[int]], relations: list[list[int]]
) -> list[tuple[int, int, int]]:
    return [
        (subject % len(nodes), relation % len(relations), target % len(nodes)) for subject, relation, target in record
    ]


def _flat(sets: list[list[tuple[int, int, int]]]) -> tuple[np.ndarray, np.ndarray]:
    triplets = [triplet for record in sets for triplet in record]
    return np.array(triplets, dtype=np.int64).reshape(-1, 3), np.array([len(record) for record in sets], dtype=np.int64)
