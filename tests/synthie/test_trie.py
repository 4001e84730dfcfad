"""The trie finds what was put in, whatever shares prefixes with what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthie.errors import InputError
from synthie.extractor.ragged import Ragged
from synthie.extractor.trie import NO_NODE, Trie

steady = settings(deadline=None)
VOCABULARY = 6
sequences = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=5), max_size=30)
rooted = st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, VOCABULARY - 1), max_size=4)), max_size=30)


def build(items: list[tuple[int, list[int]]], roots: int = 3) -> Trie:
    groups = np.array([root for root, _ in items], dtype=np.int64)
    rows = Ragged.from_rows([row for _, row in items])
    return Trie.build(rows, vocabulary=VOCABULARY, groups=groups, roots=roots)


@steady
@given(rooted)
def test_every_sequence_leads_to_the_numbers_of_all_its_copies_in_its_tree(items: list[tuple[int, list[int]]]) -> None:
    trie = build(items)
    for root, row in items:
        node = trie.find(row, root)
        assert trie.terminal[node]
        assert trie.at(node).tolist() == [number for number, item in enumerate(items) if item == (root, row)]


@steady
@given(rooted, st.integers(0, 2), st.lists(st.integers(0, VOCABULARY - 1), max_size=5))
def test_the_children_of_a_prefix_are_the_tokens_that_follow_it(
    items: list[tuple[int, list[int]]], root: int, prefix: list[int]
) -> None:
    trie = build(items)
    rows = [row for group, row in items if group == root and row[: len(prefix)] == prefix]
    node = trie.find(prefix, root)
    if prefix and not rows:
        assert node == NO_NODE
        return
    following = {row[len(prefix)] for row in rows if len(row) > len(prefix)}
    assert trie.children(node).tolist() == sorted(following)
    assert bool(trie.terminal[node]) == (prefix in rows)
    assert (trie.at(node).size > 0) == (prefix in rows)


@steady
@given(rooted)
def test_edges_are_sorted_and_numbered_like_their_child_nodes(items: list[tuple[int, list[int]]]) -> None:
    trie = build(items)
    assert (np.diff(trie.keys) > 0).all()
    assert trie.nodes == trie.roots + len(trie.keys)
    for edge, key in enumerate(trie.keys.tolist()):
        parent, token = divmod(key, VOCABULARY)
        assert trie.child(parent, token) == trie.roots + edge > parent


@steady
@given(sequences)
def test_one_tree_without_values_numbers_its_sequences(rows: list[list[int]]) -> None:
    trie = Trie.build(Ragged.from_rows(rows), vocabulary=VOCABULARY)
    assert sorted(trie.values.tolist()) == list(range(len(rows)))


def test_a_name_may_be_the_beginning_of_another() -> None:
    trie = Trie.build(Ragged.from_rows([[1, 2], [1, 2, 3]]), vocabulary=VOCABULARY)
    shorter = trie.find([1, 2])
    assert trie.at(shorter).tolist() == [0]
    assert trie.children(shorter).tolist() == [3]


def test_a_saved_trie_opens_equal_and_memory_mapped(tmp_path: Path) -> None:
    trie = build([(0, [1, 2]), (1, [1]), (2, []), (0, [1, 2])])
    trie.save(tmp_path)
    opened = Trie.open(tmp_path)
    assert (opened.vocabulary, opened.roots, opened.nodes) == (VOCABULARY, 3, trie.nodes)
    for name in ("keys", "offsets", "terminal", "ends", "value_offsets", "values"):
        assert isinstance(getattr(opened, name), np.memmap)
        assert np.array_equal(getattr(opened, name), getattr(trie, name))


def test_a_folder_without_a_trie_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no usable trie"):
        Trie.open(tmp_path)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="vocabulary has 6 tokens"):
        Trie.build(Ragged.from_rows([[1, 6]]), vocabulary=VOCABULARY)


@steady
@given(sequences, st.data())
def test_ragged_rows_survive_taking_joining_and_padding(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.from_rows(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    taken = ragged.take(chosen)
    assert [taken[row].tolist() for row in range(len(taken))] == [rows[row] for row in chosen]
    width = max((len(rows[row]) for row in chosen), default=0)
    assert ragged.padded(chosen, -1).tolist() == [rows[row] + [-1] * (width - len(rows[row])) for row in chosen]
    first = len(rows) // 2
    joined = ragged.join(np.array([first, len(rows) - first]))
    for part, members in ((joined[0], rows[:first]), (joined[1], rows[first:])):
        assert part.tolist() == [token for row in members for token in row]
