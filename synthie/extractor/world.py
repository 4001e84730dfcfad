"""The names that an extractor may write, as token sequences, and the ids they stand for.

A world joins three things: the node and relation names of a graph (Arrow, memory-mapped), the `Trie` that
spells them, and the `Linearization` between them. Together they are the automaton of constrained decoding. A
state is (slot, trie node of the name, trie node of the marker begun): the third part keeps both readings of a
token that may go on with a name or begin the marker after it, until one of them fails. Outputs are resolved
from tokens to numbers, never through strings, so names that the tokenizer cannot decode are found as well.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kg.stage import write_atomic
from synthie.errors import InputError
from synthie.extractor.classes import TypeTable
from synthie.extractor.linearization import BOUNDARY, DONE, END, MARKERS, Linearization, piece_plan
from synthie.extractor.ragged import Ragged
from synthie.extractor.trie import NO_NODE, Trie
from synthie.records import Mention, Triplet

__all__ = ["NIL", "NODES", "RELATIONS", "Meant", "State", "World", "WorldTokens"]

log = logging.getLogger(__name__)

Meant = Literal["lowest", "most_linked"]

# Roots of the trie: nothing can follow; the empty content of a boundary; names; then the exits of slot 0, 1, …, and
# once more those among them that may follow the last triplet.
NIL, _EMPTY, NODES, RELATIONS, _EXITS = range(5)
_CONTENT_ROOTS = {None: _EMPTY, "node": NODES, "relation": RELATIONS}


class State(NamedTuple):
    """Where a prefix stands; impossible if ``name`` and ``marker`` are both `NIL`.

    Attributes:
        slot: number of the slot.
        name: trie node within the slot's content, or `NIL`.
        marker: trie node within a marker that has begun, or `NIL`.
    """

    slot: int
    name: int
    marker: int


@dataclass(frozen=True, slots=True)
class WorldTokens:
    """Token sequences of everything that targets are made of.

    Attributes:
        nodes: row i = name of node i.
        relations: row i = name of relation i.
        markers: the four `MARKERS` and, last, the end of sequence (one token).
    """

    nodes: Ragged
    relations: Ragged
    markers: Ragged

    def write(self, form: Linearization, triplets: NDArray[np.int64], counts: NDArray[np.int64]) -> Ragged:
        """Target sequences of many records; arguments as for `piece_plan`.

        The parts are tokenised alone and joined, so training sees exactly the tokens that decoding allows.
        """
        plan, pieces = piece_plan(form, triplets, counts, nodes=len(self.nodes), relations=len(self.relations))
        return Ragged.concatenate([self.nodes, self.relations, self.markers]).take(plan).join(pieces)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Names, trie and linearization of an extractor.

    Where several ids share one token sequence, one of them is meant: that with the lowest number (entities come
    before literals, and the entity with the lowest id, which is usually the best known, before others), or that
    with the most triples. `candidates` tells them all.

    Attributes:
        form: the linearization.
        markers: marker -> its tokens; `END` -> the end-of-sequence token.
        pad: token that fills up finished sequences.
        trie: names and markers; values are node, relation and slot numbers.
        exits: last trie node of a marker -> number of the slot that it leads to.
        nodes, relations: tables with columns id and name; row = number.
        degrees: int32[nodes], triples of each node; None: not known.
        types: which relations fit which nodes; None: not known.
    """

    form: Linearization
    markers: dict[str, list[int]]
    pad: int
    trie: Trie
    exits: dict[int, int]
    nodes: pa.Table
    relations: pa.Table
    degrees: NDArray[np.int32] | None = None
    types: TypeTable | None = None

    @classmethod
    def build(
        cls,
        form: Linearization,
        tokens: WorldTokens,
        nodes: pa.Table,
        relations: pa.Table,
        *,
        vocabulary: int,
        pad: int,
        degrees: NDArray[np.int32] | None = None,
        types: TypeTable | None = None,
    ) -> World:
        """Build the trie.

        Names without any token and names that contain the end token cannot be written; they are left out, and a
        warning counts them. A name that begins with another name and a complete marker is never read as itself.

        Args:
            form: the linearization.
            tokens: token sequences of the names and markers.
            nodes, relations: tables with (at least) columns id and name.
            vocabulary: number of columns of the model's output.
            pad: token that fills up finished sequences.
            degrees: int32[nodes], triples of each node, if known.
            types: which relations fit which nodes, if known.

        Raises:
            InputError: no name can be written, or the markers' tokens do not tell them apart.
        """
        markers = {marker: tokens.markers[row].tolist() for row, marker in enumerate((*MARKERS, END))}
        _check_markers(markers)
        parts: list[Ragged] = []
        groups: list[NDArray[np.int64]] = []
        values: list[NDArray[np.int64]] = []
        for root, names, kind in ((NODES, tokens.nodes, "node"), (RELATIONS, tokens.relations, "relation")):
            rows = _writable(names, (pad, *markers[END]))
            if not rows.size:
                raise InputError(f"The graph has no {kind} whose name can be written, so nothing can be extracted.")
            if rows.size < len(names):
                log.warning("%d %s names cannot be written and are left out", len(names) - rows.size, kind)
            parts.append(names.take(rows))
            groups.append(np.full(rows.size, root))
            values.append(rows)
        exits = _exits(form, markers, pad)
        parts.append(Ragged.from_rows([[], *(sequence for _, sequence, _ in exits)]))
        groups.append(np.array([_EMPTY, *(root for root, _, _ in exits)]))
        values.append(np.array([0, *(slot for _, _, slot in exits)]))
        trie = Trie.build(
            Ragged.concatenate(parts),
            vocabulary=vocabulary,
            groups=np.concatenate(groups),
            roots=_roots(form),
            values=np.concatenate(values).astype(np.int32),
        )
        tables = nodes.select(["id", "name"]), relations.select(["id", "name"])
        return cls._join(form, markers, pad, trie, *tables, degrees, types)

    @classmethod
    def open(cls, folder: Path, *, meant: Meant = "lowest") -> World:
        """Map the world of an extractor folder: ``linearization.json`` and ``world/``.

        Args:
            folder: an extractor's folder, or that of a world alone.
            meant: of several ids that share one token sequence, the one with the ``lowest`` number or the
                ``most_linked`` one, with the most triples.

        Raises:
            InputError: it is missing or damaged, or does not know the triples that ``meant`` needs.
        """
        path = folder / "linearization.json"
        try:
            data = json.loads(path.read_bytes())
            form = Linearization.model_validate(data["linearization"])
            nodes, relations = (_open_arrow(folder / "world" / f"{name}.arrow") for name in ("nodes", "relations"))
            trie = Trie.open(folder / "world")
            if trie.roots != _roots(form):
                raise ValueError("an earlier version of synthie wrote it")
            degrees, types = folder / "world" / "degrees.npy", folder / "world" / "types"
            world = cls._join(
                form,
                data["markers"],
                data["pad"],
                trie,
                nodes,
                relations,
                np.load(degrees, mmap_mode="r") if degrees.exists() else None,
                TypeTable.open(types) if types.exists() else None,
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{folder} holds no trained extractor and no world ({path.name} or world/ cannot be read: {error}). "
                "Run the training stage first, or again if it was interrupted; a world alone: synthie world build."
            ) from error
        return world if meant == "lowest" else world.preferring_linked()

    def save(self, folder: Path) -> None:
        """Write ``linearization.json`` and ``world/`` into an extractor folder."""
        self.trie.save(folder / "world")
        for name, table in (("nodes", self.nodes), ("relations", self.relations)):
            with (
                pa.OSFile(str(folder / "world" / f"{name}.arrow"), "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as writer,
            ):
                writer.write_table(table)
        if self.degrees is not None:
            np.save(folder / "world" / "degrees.npy", self.degrees)
        if self.types is not None:
            self.types.save(folder / "world" / "types")
        data = {"linearization": self.form.model_dump(mode="json"), "markers": self.markers, "pad": self.pad}
        write_atomic(folder / "linearization.json", json.dumps(data, indent=2) + "\n")

    def is_like(self, other: World) -> bool:
        """Whether both are written in the same form, with the same markers and vocabulary."""
        return (self.form, self.markers, self.pad, self.trie.vocabulary) == (
            other.form,
            other.markers,
            other.pad,
            other.trie.vocabulary,
        )

    def preferring_linked(self) -> World:
        """The same world, in which the most linked of the nodes that share a token sequence is meant.

        Raises:
            InputError: the world does not know the nodes' triples.
        """
        if self.degrees is None:
            raise InputError(
                "Which of several nodes has the most triples is not known in this world. Build it from a graph, or let "
                "the lowest id be meant."
            )
        of_nodes = np.repeat(self.trie.trees[self.trie.ends] == NODES, np.diff(self.trie.value_offsets))
        ranks = np.zeros(len(self.trie.values), np.int64)
        ranks[of_nodes] = -self.degrees[self.trie.values[of_nodes]].astype(np.int64)
        return replace(self, trie=self.trie.ranked(ranks))

    @property
    def start(self) -> State:
        """The state of the empty sequence."""
        return self._enter(list(self.form.slots).index(BOUNDARY))

    @property
    def content_roots(self) -> list[int]:
        """Slot number -> trie node where its content begins."""
        return [_CONTENT_ROOTS[slot.content] for slot in self.form.slots.values()]

    @property
    def exit_roots(self) -> list[int]:
        """Slot number -> trie node where the markers that lead out of it begin."""
        return [_EXITS + slot for slot in range(len(self.form.slots))]

    @property
    def last_exit_roots(self) -> list[int]:
        """The same, for an output that must not begin another triplet."""
        return [root + len(self.form.slots) for root in self.exit_roots]

    @property
    def most_marker_children(self) -> int:
        """Most tokens that may go on with, or begin, a marker."""
        exits = _exits(self.form, self.markers, self.pad)
        nodes = {self.trie.find(tokens[:size], root) for root, tokens, _ in exits for size in range(len(tokens))}
        return max(self.trie.children(node).size for node in nodes)

    def step(self, state: State, token: int) -> State:
        """The state after ``token``. The tensor version in `constraint` computes the same for many beams."""
        name, marker = self._child(state.name, token), self._child(state.marker, token)
        if self.trie.terminal[state.name] and marker == NIL:
            marker = self._child(_EXITS + state.slot, token)
        slot = self.exits.get(marker)
        return State(state.slot, name, marker) if slot is None else self._enter(slot)

    def allowed(self, prefix: Iterable[int]) -> set[int]:
        """The tokens that may follow ``prefix`` (without the decoder's start token); empty if it is impossible."""
        state = self.start
        for token in prefix:
            state = self.step(state, int(token))
        sources = [state.name, state.marker]
        if self.trie.terminal[state.name]:
            sources.append(_EXITS + state.slot)
        return {int(token) for source in sources for token in self.trie.children(source)}

    def parse(self, tokens: Iterable[int]) -> list[tuple[int, int, int]]:
        """The (subject, relation, object) numbers in an output, without repeats, in order.

        Reads up to the first impossible token and drops a triplet that no marker closes: it may have been cut.
        """
        numbers = (tuple(int(self.trie.at(end)[0]) for end in ends) for ends in self.ends(tokens))
        return list(dict.fromkeys(numbers))  # type: ignore[arg-type]

    def candidates(self, tokens: Iterable[int]) -> list[tuple[list[int], list[int], list[int]]]:
        """The same as `parse`, with all numbers that share the tokens of a name; the one that is meant comes first."""
        distinct = dict.fromkeys(self.ends(tokens))
        return [tuple(self.trie.at(end).tolist() for end in ends) for ends in distinct]

    def ends(self, tokens: Iterable[int]) -> Iterator[tuple[int, int, int]]:
        """The trie nodes in which subject, relation and object of each complete triplet end, repeats included."""
        slots = list(self.form.slots)
        found: dict[str, int] = {}
        state, name_end = self.start, NIL
        for token in map(int, tokens):
            if self.trie.terminal[state.name] and self._child(_EXITS + state.slot, token) != NIL:
                name_end = state.name  # a marker may begin here, so the name may end here
            following = self.step(state, token)
            if following.name == NIL and following.marker == NIL:
                return
            if following.slot != state.slot:
                left = slots[state.slot]
                found[left] = name_end
                if left == "object":
                    yield found["subject"], found["relation"], found["object"]
            state = following

    def triplets(self, numbers: Sequence[tuple[int, int, int]]) -> tuple[Triplet, ...]:
        """Numbers as triplets of names and ids."""
        return tuple(
            Triplet(_mention(self.nodes, subject), _mention(self.relations, relation), _mention(self.nodes, target))
            for subject, relation, target in numbers
        )

    def resolve(self, outputs: Sequence[Sequence[tuple[str, str, str]]]) -> list[tuple[Triplet, ...]]:
        """Triplets of written names as triplets of names and ids, by exact match; the id is "" where none matches."""
        wanted_nodes = {name for output in outputs for triplet in output for name in (triplet[0], triplet[2])}
        wanted_relations = {triplet[1] for output in outputs for triplet in output}
        written = self.nodes["name"]
        if self.form.names == "spaces":
            written = pc.replace_substring(written, "_", " ")
        nodes = _lookup(written, self.nodes, wanted_nodes)
        relations = _lookup(self.relations["name"], self.relations, wanted_relations)
        return [
            tuple(Triplet(nodes[subject], relations[relation], nodes[target]) for subject, relation, target in output)
            for output in outputs
        ]

    @classmethod
    def _join(
        cls,
        form: Linearization,
        markers: dict[str, list[int]],
        pad: int,
        trie: Trie,
        nodes: pa.Table,
        relations: pa.Table,
        degrees: NDArray[np.int32] | None,
        types: TypeTable | None,
    ) -> World:
        exits = {trie.find(sequence, root): slot for root, sequence, slot in _exits(form, markers, pad)}
        return cls(form, markers, pad, trie, exits, nodes, relations, degrees, types)

    def _enter(self, slot: int) -> State:
        return State(slot, self.content_roots[slot], NIL)

    def _child(self, node: int, token: int) -> int:
        child = self.trie.child(node, token)
        return NIL if child == NO_NODE else child


def _roots(form: Linearization) -> int:
    return _EXITS + 2 * len(form.slots)


def _exits(form: Linearization, markers: dict[str, list[int]], pad: int) -> list[tuple[int, list[int], int]]:
    """(root, tokens, number of the next slot) of every way out of a slot; a finished sequence may go on for ever."""
    slots = list(form.slots)
    exits = []
    for last in (False, True):
        first = _EXITS + last * len(slots)
        for number, (name, slot) in enumerate(form.slots.items()):
            for marker, target in slot.exits.items():
                goes_on = name in (BOUNDARY, "object") and form.slots[target].content is not None
                if not (last and goes_on):
                    exits.append((first + number, markers[marker], slots.index(target)))
        done = slots.index(DONE)
        exits += [(first + done, [token], done) for token in sorted({pad, *markers[END]})]
    return exits


def _check_markers(markers: dict[str, list[int]]) -> None:
    sequences = [tuple(tokens) for tokens in markers.values()]
    first = {tokens[0] for tokens in sequences if tokens}
    prefixes = {tokens[:size] for tokens in sequences for size in range(len(tokens))}
    later = {token for tokens in sequences for token in tokens[1:]}
    if prefixes & set(sequences) or first & later or len(set(sequences)) < len(sequences):
        raise InputError(
            f"The tokenizer writes the markers as {markers}, which cannot be told apart while decoding. "
            "Use another base model, or add the markers to its tokenizer as tokens of their own."
        )


def _writable(names: Ragged, reserved: tuple[int, ...]) -> NDArray[np.int64]:
    """Rows with at least one token and no reserved one."""
    bad = np.isin(names.values, reserved)
    bad_before = np.concatenate([[0], np.cumsum(bad)])
    clean = bad_before[names.offsets[1:]] == bad_before[names.offsets[:-1]]
    return np.flatnonzero(clean & (names.lengths > 0))


def _open_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _mention(table: pa.Table, row: int) -> Mention:
    return Mention(table["name"][row].as_py(), table["id"][row].as_py())


def _lookup(written: pa.ChunkedArray, table: pa.Table, wanted: set[str]) -> dict[str, Mention]:
    found = {name: Mention(name, "") for name in wanted}
    matches = pc.is_in(written, value_set=pa.array(sorted(wanted), pa.string()))
    rows = np.flatnonzero(matches.to_numpy())
    for row in rows[::-1].tolist():  # the lowest number comes last and stays
        found[written[row].as_py()] = _mention(table, row)
    return found
