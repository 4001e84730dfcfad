"""Constrained decoding allows exactly what the linearization of the world's names allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, T5Config, T5ForConditionalGeneration

from synthie.extractor import constraint
from synthie.extractor.constraint import Automaton, TrieConstraint
from synthie.extractor.linearization import Form, linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.world import World, WorldTokens

PAD, END, VOCABULARY = 0, 1, 12
SUBJECT, RELATION, OBJECT, CLOSE = [2, 3], [2, 4], [2, 5], [2, 6]
steady = settings(deadline=None, max_examples=60)
both_forms = pytest.mark.parametrize("form", ["fully_expanded", "subject_collapsed"])

# Token 2 begins every marker and may stand anywhere in a name, also right after another name.
token_names = st.lists(st.sampled_from([2, 7, 8, 9, 10]), min_size=1, max_size=4)
token_sets = st.lists(token_names, min_size=1, max_size=8)


def make_world(form: Form, nodes: list[list[int]], relations: list[list[int]]) -> World:
    markers = [SUBJECT, RELATION, OBJECT, CLOSE, [END]]
    tokens = WorldTokens(*(Ragged.from_rows(rows) for rows in (nodes, relations, markers)))
    tables = [
        pa.table({"id": [f"{kind}{row}" for row in range(len(rows))], "name": [str(row) for row in rows]})
        for kind, rows in (("Q", nodes), ("P", relations))
    ]
    return World.build(linearization(form, "spaces"), tokens, *tables, vocabulary=VOCABULARY, pad=PAD)


class Definition:
    """What the linearizations mean, written without tries or automata: search over all ways to read a prefix."""

    def __init__(self, form: Form, nodes: list[list[int]], relations: list[list[int]]) -> None:
        self._after_object = {"fully_expanded": ["close"], "subject_collapsed": ["close", "relation mark"]}[form]
        self._pieces = {
            "start": ([SUBJECT], ["subject"]),
            "end": ([[END]], ["padding"]),
            "padding": ([[PAD], [END]], ["padding"]),
            "subject": (nodes, ["relation mark"]),
            "relation mark": ([RELATION], ["relation"]),
            "relation": (relations, ["object mark"]),
            "object mark": ([OBJECT], ["object"]),
            "object": (nodes, self._after_object),
            "close": ([CLOSE], ["start", "end"]),
        }

    def allowed(self, prefix: list[int]) -> set[int]:
        return {token for token in range(VOCABULARY) if self._possible([*prefix, token], ["start", "end"])}

    def _possible(self, rest: list[int], kinds: list[str]) -> bool:
        for kind in kinds:
            pieces, following = self._pieces[kind]
            for piece in pieces:
                if len(rest) <= len(piece):
                    if piece[: len(rest)] == rest:
                        return True
                elif rest[: len(piece)] == piece and self._possible(rest[len(piece) :], following):
                    return True
        return False


@both_forms
@steady
@given(nodes=token_sets, relations=token_sets, data=st.data())
def test_allowed_tokens_equal_the_definition(
    form: Form, nodes: list[list[int]], relations: list[list[int]], data: st.DataObject
) -> None:
    world, definition = make_world(form, nodes, relations), Definition(form, nodes, relations)
    prefix: list[int] = []
    for _ in range(16):
        allowed = world.allowed(prefix)
        assert allowed == definition.allowed(prefix)
        prefix.append(data.draw(st.sampled_from(sorted(allowed))))


@both_forms
@steady
@given(nodes=token_sets, relations=token_sets, prefix=st.lists(st.integers(0, VOCABULARY - 1), max_size=8))
def test_nothing_may_follow_an_impossible_prefix(
    form: Form, nodes: list[list[int]], relations: list[list[int]], prefix: list[int]
) -> None:
    world, definition = make_world(form, nodes, relations), Definition(form, nodes, relations)
    assert world.allowed(prefix) == definition.allowed(prefix)


@both_forms
@pytest.mark.parametrize("narrow", [2, 64])
@steady
@given(nodes=token_sets, relations=token_sets, walk=st.lists(st.lists(st.integers(0, 99), min_size=3, max_size=3)))
def test_tensors_take_the_same_steps(
    form: Form, narrow: int, nodes: list[list[int]], relations: list[list[int]], walk: list[list[int]]
) -> None:
    world = make_world(form, nodes, relations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constraint, "_NARROW", narrow)  # with 2, many nodes are wide
        automaton = Automaton(world)
    state = automaton.start.expand(3, 3)
    prefixes: list[list[int]] = [[], [], []]
    for choices in walk:
        tokens = []
        for row, choice in enumerate(choices):
            allowed = sorted(world.allowed(prefixes[row]))
            # The last row sometimes takes an impossible step.
            tokens.append(allowed[choice % len(allowed)] if allowed and (row < 2 or choice < 90) else choice % 12)
            prefixes[row].append(tokens[-1])
        state = automaton.step(state, torch.tensor(tokens))
        for row, mask in enumerate(automaton.allowed(state)):
            assert set(mask.nonzero().flatten().tolist()) == world.allowed(prefixes[row])


class Checked(LogitsProcessor):
    """Passes on to the constraint, and compares each row's mask with the plain answer for its prefix."""

    def __init__(self, world: World, beams: int) -> None:
        self._world, self._constraint = world, TrieConstraint(Automaton(world), beams)
        self.rows = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        masked = self._constraint(input_ids, scores)
        for prefix, row in zip(input_ids.tolist(), masked, strict=True):
            assert set((row > -torch.inf).nonzero().flatten().tolist()) == self._world.allowed(prefix[1:])
            self.rows += 1
        return masked


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=PAD,
        initializer_factor=4.0,  # far from uniform, so that texts differ and beams cross
    )
    return T5ForConditionalGeneration(config).eval()


WORLD_NODES = [[7], [7, 8], [7, 8, 9], [8, 2, 7], [9], [9, 2], [10, 10], [7, 8]]
WORLD_RELATIONS = [[8], [8, 2], [9, 7]]


@both_forms
@pytest.mark.parametrize("beams", [1, 4])
def test_whatever_a_random_model_generates_parses_to_ids(form: Form, beams: int, model: Any) -> None:
    world = make_world(form, WORLD_NODES, WORLD_RELATIONS)
    checked = Checked(world, beams)
    torch.manual_seed(0)
    texts = torch.randint(2, VOCABULARY, (6, 9))
    output = model.generate(
        input_ids=texts,
        logits_processor=[checked],
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=40,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert checked.rows > 0
    scores = output.sequences_scores if beams > 1 else torch.zeros(len(texts))
    found = 0
    for sequence, score in zip(output.sequences[:, 1:].tolist(), scores.tolist(), strict=True):
        if score < -1e7:  # fewer legal outputs than beams: the rest are copies
            continue
        assert all(token in world.allowed(sequence[:end]) for end, token in enumerate(sequence))
        triplets = world.parse(sequence)
        found += len(triplets)
        assert all(
            subject < len(WORLD_NODES) and relation < len(WORLD_RELATIONS) and target < len(WORLD_NODES)
            for subject, relation, target in triplets
        )
    assert found > 0


def test_the_empty_output_is_legal_and_the_end_stands_between_triplets_only() -> None:
    world = make_world("fully_expanded", WORLD_NODES, WORLD_RELATIONS)
    assert END in world.allowed([])
    sequence = [*SUBJECT, 7, *RELATION, 8, *OBJECT, 9, *CLOSE, END]
    allowed = [END in world.allowed(sequence[:length]) for length in range(len(sequence) + 1)]
    assert allowed == [True, *[False] * (len(sequence) - 2), True, True]
    assert world.allowed([END, PAD]) == {PAD, END}


def test_wide_and_deep_worlds_step_like_narrow_ones() -> None:
    draw = np.random.default_rng(1)
    nodes = [draw.integers(2, 300, size=draw.integers(1, 5)).tolist() for _ in range(3_000)]
    markers = Ragged.from_rows([[300, 301], [300, 302], [300, 303], [300, 304], [END]])
    tokens = WorldTokens(Ragged.from_rows(nodes), Ragged.from_rows([[5]]), markers)
    tables = [pa.table({"id": list(map(str, range(size))), "name": [""] * size}) for size in (len(nodes), 1)]
    world = World.build(linearization("fully_expanded", "spaces"), tokens, *tables, vocabulary=310, pad=PAD)
    automaton = Automaton(world)
    prefixes = [[300, 301, *nodes[row][:length]] for row in range(40) for length in range(len(nodes[row]) + 1)]
    for prefix in prefixes:
        state = automaton.start[None]
        for token in prefix:
            state = automaton.step(state, torch.tensor([token]))
        assert set(automaton.allowed(state)[0].nonzero().flatten().tolist()) == world.allowed(prefix)
