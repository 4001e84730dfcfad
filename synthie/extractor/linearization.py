"""How a set of triplets is written as one sequence, and read back.

A `Linearization` is data: slots (subject, relation, object, and the boundary
between triplets), the marker that leads out of a slot, and the slot it leads
to. Writing, reading and constrained decoding all follow the same table, so a
new form is a new table. The two forms of SynthIE:

* fully expanded: ``[s] S [r] R [o] O [e]`` for each triplet;
* subject-collapsed: ``[s] S [r] R [o] O [r] R2 [o] O2 [e]`` for each run of triplets with one subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kg.stage import Settings

__all__ = ["BOUNDARY", "DONE", "END", "MARKER", "MARKERS", "Linearization", "Slot", "linearization", "piece_plan"]

BOUNDARY = "boundary"
DONE = "done"
END = "<end>"  # stands for the tokenizer's end-of-sequence token
MARKERS = ("[s]", "[r]", "[o]", "[e]")
MARKER = re.compile("(" + "|".join(map(re.escape, MARKERS)) + ")")

Form = Literal["fully_expanded", "subject_collapsed"]
Names = Literal["underscores", "spaces"]


class Slot(Settings):
    """A place in the sequence.

    Attributes:
        content: what stands there: the name of a node or relation, or nothing.
        exits: marker -> name of the slot that follows it; `END` leads to `DONE`.
    """

    content: Literal["node", "relation"] | None
    exits: dict[str, str]


class Linearization(Settings):
    """A written form of triplet sets.

    Attributes:
        form: its name.
        names: ``underscores`` writes node names as the graph has them (the original's form), ``spaces``
            replaces underscores by spaces: shorter in tokens, and equal to the running text.
        slots: name -> slot; starts in `BOUNDARY`.
    """

    form: Form
    names: Names
    slots: dict[str, Slot]

    @property
    def collapses_subjects(self) -> bool:
        """Whether a subject is written once for a run of triplets."""
        return "relation" in self.slots["object"].exits.values()

    def present(self, name: str) -> str:
        """The written form of a node's name.

        >>> linearization("fully_expanded", "spaces").present("Albert_Einstein")
        'Albert Einstein'
        """
        return name.replace("_", " ") if self.names == "spaces" else name

    def write(self, triplets: Sequence[tuple[str, str, str]]) -> str:
        """The sequence as a string, from names (subject, relation, object); models read it from tokens.

        >>> form = linearization("subject_collapsed", "spaces")
        >>> form.write([("Ulm", "country", "Germany"), ("Ulm", "located in", "Swabia")])
        '[s] Ulm [r] country [o] Germany [r] located in [o] Swabia [e]'
        """
        words: list[str] = []
        for number, (subject, relation, target) in enumerate(triplets):
            if self.collapses_subjects and number and triplets[number - 1][0] == subject:
                words.pop()
            else:
                words += ["[s]", self.present(subject)]
            words += ["[r]", relation, "[o]", self.present(target), "[e]"]
        return " ".join(words)

    def read(self, sequence: str) -> list[tuple[str, str, str]]:
        """The triplets of names in a string that a model wrote freely, in either form.

        Tolerant: parts in the wrong place are skipped, and a triplet whose object no marker closes is
        dropped, since it may have been cut.

        >>> linearization("fully_expanded", "spaces").read("[s] Ulm [r] country [o] Germany [e] [s] Ulm [r] loc")
        [('Ulm', 'country', 'Germany')]
        """
        parts = [part.strip() for part in MARKER.split(sequence)]
        triplets: list[tuple[str, str, str]] = []
        subject = relation = ""
        # parts alternates: text before the first marker, marker, text, marker, text, …
        for position in range(1, len(parts) - 1, 2):
            marker, text = parts[position], parts[position + 1]
            closed = position + 2 < len(parts)
            if marker == "[s]":
                subject, relation = text, ""
            elif marker == "[r]":
                relation = text
            elif marker == "[o]":
                triplet = (subject, relation, text)
                if closed and all(triplet) and triplet not in triplets:
                    triplets.append(triplet)
                relation = ""
            else:
                subject = relation = ""
        return triplets


def linearization(form: Form, names: Names) -> Linearization:
    """The linearization of that form, its names written with underscores or spaces."""
    last = {"[e]": BOUNDARY} if form == "fully_expanded" else {"[r]": "relation", "[e]": BOUNDARY}
    slots = {
        BOUNDARY: Slot(content=None, exits={"[s]": "subject", END: DONE}),
        "subject": Slot(content="node", exits={"[r]": "relation"}),
        "relation": Slot(content="relation", exits={"[o]": "object"}),
        "object": Slot(content="node", exits=last),
        DONE: Slot(content=None, exits={}),
    }
    return Linearization(form=form, names=names, slots=slots)


def piece_plan(
    form: Linearization, triplets: NDArray[np.int64], counts: NDArray[np.int64], *, nodes: int, relations: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which pieces, one after the other, make up the sequences of many records.

    A piece is a number: nodes are 0…nodes-1, relations follow, then the four `MARKERS`, then the end.

    Args:
        form: the linearization.
        triplets: int64[total, 3], (subject, relation, object) numbers of all records, record after record.
        counts: int64[records], triplets in each record.
        nodes: number of nodes.
        relations: number of relations.

    Returns:
        pieces int64[all pieces] and the number of pieces in each record, int64[records].
    """
    mark = {marker: nodes + relations + number for number, marker in enumerate((*MARKERS, END))}
    record = np.repeat(np.arange(len(counts)), counts)
    columns: Iterable[int | NDArray[np.int64]] = (
        mark["[s]"],
        triplets[:, 0],
        mark["[r]"],
        nodes + triplets[:, 1],
        mark["[o]"],
        triplets[:, 2],
        mark["[e]"],
        mark[END],
    )
    table = np.stack([np.broadcast_to(column, len(triplets)) for column in columns], axis=1)
    kept = np.ones(table.shape, np.bool_)
    kept[:, 7] = False
    last = np.cumsum(counts)[counts > 0] - 1
    kept[last, 7] = True
    if form.collapses_subjects:
        repeats = np.flatnonzero((triplets[1:, 0] == triplets[:-1, 0]) & (record[1:] == record[:-1])) + 1
        kept[repeats, 0:2] = False
        kept[repeats - 1, 6] = False
    lengths = np.bincount(record, weights=kept.sum(1), minlength=len(counts)).astype(np.int64)
    pieces = table[kept]
    # A record without triplets is the end alone.
    empty = np.flatnonzero(counts == 0)
    pieces = np.insert(pieces, np.concatenate([[0], np.cumsum(lengths)])[empty], mark[END])
    lengths[empty] = 1
    return pieces, lengths
