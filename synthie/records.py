"""The records that walk from stage to stage, and their Arrow schemas.

Ids are the truth, names are for reading: a node or relation is always written
with its ``uri`` (its id in the graph) beside its ``surfaceform`` (its name).
The form is SynthIE's, so that tools made for that data read ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

__all__ = [
    "LITERAL",
    "PREDICTION_SCHEMA",
    "REASON",
    "SAMPLE_SCHEMA",
    "SPLITS",
    "TRIPLET",
    "WITHHELD",
    "Mention",
    "Prediction",
    "Span",
    "Triplet",
]

WITHHELD = "test_withheld"  # some texts of test once more, with shorter labels
SPLITS = ("train", "validation", "test", "test_unseen_entities", "test_unseen_combinations", WITHHELD)

LITERAL = re.compile(r"(?:date|quantity|coordinate|string):")  # how the ids of literals begin; entities have others

_NAMED = pa.struct([("surfaceform", pa.string()), ("uri", pa.string())])
_ENTITY = pa.struct([("surfaceform", pa.string()), ("uri", pa.string()), ("mention_start_index", pa.int32())])
TRIPLET = pa.struct([("subject", _NAMED), ("predicate", _NAMED), ("object", _NAMED)])
REASON = pa.struct([("check", pa.string()), ("detail", pa.string())])

SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),  # number of the triplet set
        ("split", pa.string()),
        ("text", pa.string()),
        ("triplets", pa.list_(TRIPLET)),  # by first mention in the text; none in a negative
        ("entities", pa.list_(_ENTITY)),  # mention_start_index in characters, -1 where not found
        ("relations", pa.list_(_NAMED)),
        ("topic", pa.string()),  # of a negative: id of the entity that its text mentions and states nothing about
        ("model", pa.string()),
        ("endpoint", pa.string()),
        ("prompt", pa.string()),  # name/version
        ("prompt_hash", pa.string()),
        ("style", pa.string()),  # "axis: value, …" as drawn for the prompt; empty where it has no styles
        ("tries", pa.int32()),  # texts asked for until this one
        ("repaired", pa.bool_()),  # the prompt held the text before and its faults
        ("request_key", pa.string()),  # key of the response in the journal
        ("input_tokens", pa.int32()),
        ("cached_input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("usd", pa.float64()),
        ("latency_s", pa.float32()),
        ("attempts", pa.int32()),
        ("finish_reason", pa.string()),
        ("verdict", pa.string()),  # accepted | rejected
        ("reasons", pa.list_(REASON)),  # faults; those of an accepted text are only flagged
    ]
)

PREDICTION_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("triplets", pa.list_(TRIPLET)),  # uri is "" where a name is not in the world (unconstrained decoding only)
        ("score", pa.float32()),  # length-normalised log-probability of the best beam
        ("output", pa.string()),  # the decoded sequence, for reading
    ]
)


@dataclass(frozen=True, slots=True)
class Mention:
    """A node or relation: its name and its id in the graph."""

    surfaceform: str
    uri: str


@dataclass(frozen=True, slots=True)
class Triplet:
    """A fact: (subject, predicate, object)."""

    subject: Mention
    predicate: Mention
    object: Mention

    @property
    def key(self) -> tuple[str, str, str]:
        """The ids (subject, relation, object) that decide about equality in evaluation."""
        return self.subject.uri, self.predicate.uri, self.object.uri

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Triplet:
        """Build from the dict form of one element of a record's ``triplets``."""
        return cls(
            *(Mention(record[part]["surfaceform"], record[part]["uri"]) for part in ("subject", "predicate", "object"))
        )

    def to_record(self) -> dict[str, dict[str, str]]:
        """The dict form, as in the Parquet and JSONL files."""
        return {
            part: {"surfaceform": mention.surfaceform, "uri": mention.uri}
            for part, mention in (("subject", self.subject), ("predicate", self.predicate), ("object", self.object))
        }


Span = tuple[int, int]  # [start, end) in characters


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the extractor found in one text.

    Attributes:
        triplets: in the order of the output.
        score: length-normalised log-probability of the output.
        output: the decoded sequence, for reading.
        scores: of each triplet, in (0, 1]: the geometric mean of its tokens' probabilities; None where the output
            does not tell its tokens apart (unconstrained decoding only).
        spans: of each triplet, where the text first mentions subject and object; None where it has no form of the name.
            Empty if they were not looked for.
        truncated: whether the text is longer than what the model reads, so that its end was left out.
        alternatives: the next best outputs for the same text, the best first, if they were asked for.
    """

    triplets: tuple[Triplet, ...]
    score: float
    output: str
    scores: tuple[float | None, ...] = ()
    spans: tuple[tuple[Span | None, Span | None], ...] = ()
    truncated: bool = False
    alternatives: tuple[Prediction, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """The dict form, as in JSONL files and the server's answers: triplets with their scores and spans, score."""
        triplets: list[dict[str, Any]] = [triplet.to_record() for triplet in self.triplets]
        for number, triplet in enumerate(triplets):
            if self.spans:
                triplet["subject"]["span"], triplet["object"]["span"] = self.spans[number]
            if self.scores:
                triplet["score"] = _rounded(self.scores[number])
        record: dict[str, Any] = {"triplets": triplets, "score": _rounded(self.score)}
        if self.truncated:
            record["truncated"] = True
        if self.alternatives:
            record["alternatives"] = [alternative.to_record() for alternative in self.alternatives]
        return record


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
