"""Each rule takes away exactly the tokens after which it must be broken, and lets no output break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_constraint import END, PAD, both_forms, make_world, token_sets

from synthie.config import DecodingRules
from synthie.errors import InputError
from synthie.extractor.classes import TypeTable
from synthie.extractor.constraint import Automaton
from synthie.extractor.linearization import Form
from synthie.extractor.rules import name_ranges
from synthie.extractor.world import World

steady = settings(deadline=None, max_examples=15)
Triplet = tuple[int, int, int]
Breaks = Callable[[list[Triplet], Triplet], bool]  # whether a triplet may not follow others
# Without token 2, which begins the markers, a name is read in one way only.
plain_names = st.lists(st.lists(st.sampled_from([7, 8, 9, 10]), min_size=1, max_size=3), min_size=1, max_size=6)


def first_of_equals(names: list[list[int]]) -> list[list[int]]:
    return [names[number] for number in range(len(names)) if names[number] not in names[:number]]


class Definition:
    """The rules by search: an open name must have a way to end that breaks none."""

    def __init__(self, world: World, nodes: list[list[int]], relations: list[list[int]]) -> None:
        self.world, self._names = world, {"subject": nodes, "relation": relations, "object": nodes}

    def allowed(self, prefix: list[int], fits: Callable[[str, list[Triplet], dict[str, int], int], bool]) -> set[int]:
        """``fits`` says whether a name (slot, triplets before, names so far, number) is allowed."""
        slot, written, found = self._place(prefix)
        plain = self.world.allowed(prefix)
        if slot not in self._names:
            return plain
        names = self._names[slot]
        fitting = [name for number, name in enumerate(names) if fits(slot, self.world.parse(prefix), found, number)]
        going_on = {name[len(written)] for name in fitting if name[: len(written)] == written and name != written}
        ending = plain & {2} if written in fitting else set()
        return going_on | ending

    def _place(self, prefix: list[int]) -> tuple[str, list[int], dict[str, int]]:
        """Slot and tokens of the open name, and the names found since the last subject; "" within a marker."""
        slot, written, found = "", list[int](), dict[str, int]()
        opened = {3: "subject", 4: "relation", 5: "object"}
        position = 0
        while position < len(prefix):
            if prefix[position] == 2:
                if slot:
                    found[slot] = self._names[slot].index(written)
                mark = prefix[position + 1] if position + 1 < len(prefix) else None
                slot, written = opened.get(mark, "") if mark else "", []
                position += 2
            else:
                written.append(prefix[position])
                position += 1
        return slot, written, found


def walk(
    world: World,
    rules: DecodingRules,
    definition: Definition,
    data: st.DataObject,
    fits: Callable[..., bool],
    steps: int = 40,
) -> None:
    automaton = Automaton(world, rules=rules)
    state, prefix = automaton.start[None], list[int]()
    for _ in range(steps):
        allowed = set(automaton.allowed(state)[0].nonzero().flatten().tolist())
        assert allowed == (definition.allowed(prefix, fits) or {END})
        token = data.draw(st.sampled_from(sorted(allowed)))
        if token == END:
            return
        prefix.append(token)
        state = automaton.step(state, torch.tensor([token]))


@both_forms
@steady
@given(nodes=plain_names.map(first_of_equals), relations=plain_names.map(first_of_equals), data=st.data())
def test_no_triplet_is_repeated_and_only_repeating_tokens_are_withheld(
    form: Form, nodes: list[list[int]], relations: list[list[int]], data: st.DataObject
) -> None:
    world = make_world(form, nodes, relations)

    def fits(slot: str, before: list[Triplet], found: dict[str, int], number: int) -> bool:
        return slot != "object" or (found["subject"], found["relation"], number) not in before

    walk(world, DecodingRules(no_repeats=True), Definition(world, nodes, relations), data, fits)


@both_forms
@steady
@given(nodes=token_sets, most=st.integers(1, 3), choices=st.lists(st.integers(0, 99), min_size=30, max_size=30))
def test_an_output_ends_after_the_most_triplets(
    form: Form, nodes: list[list[int]], most: int, choices: list[int]
) -> None:
    world = make_world(form, nodes, [[7], [8, 9]])
    automaton, free = Automaton(world, rules=DecodingRules(max_triplets=most)), Automaton(world)
    state, plain, prefix = automaton.start[None], free.start[None], list[int]()
    for choice in choices:
        allowed, unruled = (
            a.allowed(s)[0].nonzero().flatten().tolist() for a, s in ((automaton, state), (free, plain))
        )
        assert allowed
        assert set(allowed) <= set(unruled)
        if sum(1 for _ in world.ends(prefix)) < most - 1:
            assert allowed == unruled
        token = allowed[choice % len(allowed)]
        prefix.append(token)
        state, plain = (a.step(s, torch.tensor([token])) for a, s in ((automaton, state), (free, plain)))
    assert sum(1 for _ in world.ends(prefix)) <= most


@both_forms
@steady
@given(nodes=plain_names.map(first_of_equals), relations=plain_names.map(first_of_equals), data=st.data())
def test_relations_and_objects_have_classes_that_the_graph_has_seen_together(
    form: Form, nodes: list[list[int]], relations: list[list[int]], data: st.DataObject
) -> None:
    classes = [data.draw(st.lists(st.sampled_from("abc"), max_size=2, unique=True)) for _ in nodes]
    numbers = st.tuples(
        st.integers(0, len(nodes) - 1), st.integers(0, len(relations) - 1), st.integers(0, len(nodes) - 1)
    )
    triples = data.draw(st.lists(numbers, min_size=1, max_size=5))
    columns = np.array(triples, np.int32).T
    table = TypeTable.of(pa.array(classes, pa.list_(pa.string())), tuple(columns), len(relations))  # type: ignore[arg-type]

    def fitting(node: int, place: int) -> set[int]:
        seen = {row[1] for row in triples if set(classes[row[place]]) & set(classes[node])}
        return seen or set(range(len(relations)))

    def fits(slot: str, before: list[Triplet], found: dict[str, int], number: int) -> bool:
        if slot == "relation":
            return number in fitting(found["subject"], 0)
        return slot == "subject" or found["relation"] in fitting(number, 2)

    world = replace(make_world(form, nodes, relations), types=table)
    walk(world, DecodingRules(fitting_types=True), Definition(world, nodes, relations), data, fits, steps=25)


def test_where_rules_forbid_every_way_on_the_output_ends() -> None:
    world = make_world("subject_collapsed", [[7]], [[8]])
    automaton = Automaton(world, rules=DecodingRules(no_repeats=True))
    state = automaton.start[None]
    for token in [2, 3, 7, 2, 4, 8, 2, 5, 7, 2, 4, 8, 2, 5]:
        state = automaton.step(state, torch.tensor([token]))
    assert automaton.allowed(state)[0].nonzero().flatten().tolist() == [END]
    assert world.parse([2, 3, 7, 2, 4, 8, 2, 5, 7, 2, 4, 8, 2, 5, END, PAD]) == [(0, 0, 0)]


def test_a_world_without_classes_cannot_keep_to_them() -> None:
    with pytest.raises(InputError, match="does not know"):
        Automaton(make_world("fully_expanded", [[7]], [[8]]), rules=DecodingRules(fitting_types=True))


@steady
@given(nodes=token_sets)
def test_the_names_below_a_node_are_numbered_in_a_row(nodes: list[list[int]]) -> None:
    trie = make_world("fully_expanded", nodes, [[7]]).trie
    first, last = name_ranges(trie)
    paths = sorted({tuple(name) for name in nodes})
    start = int(first[trie.find([], 2)])
    for length in range(4):
        for path in {path[:length] for path in paths}:
            below = [number for number, name in enumerate(paths) if name[: len(path)] == path]
            node = trie.find(path, 2)
            assert (first[node] - start, last[node] - start) == (below[0], below[-1] + 1)
