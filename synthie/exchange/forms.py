"""Forms that records have elsewhere: chat messages for fine-tuning, SynthIE's lines, REBEL's lines.

Each form is a function from one of our records (a row of a shard) to a JSON-ready object.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from synthie.extractor.linearization import linearization

__all__ = ["FORMS", "TARGETS", "Form", "Target", "as_chat", "as_rebel", "as_synthie", "chat_target", "read_chat_target"]

Form = Literal["chat", "synthie", "rebel"]
Target = Literal["json", "fully_expanded", "subject_collapsed"]
FORMS: tuple[Form, ...] = ("chat", "synthie", "rebel")
TARGETS: tuple[Target, ...] = ("json", "fully_expanded", "subject_collapsed")

Record = dict[str, Any]

_PARTS = ("subject", "predicate", "object")
_NONE = "none"  # the answer where a text states no fact; an empty one is refused by fine-tuning services
_TASK = (
    "You extract facts from a text: all that it states and nothing else, as triplets of subject, relation and object "
    "of a knowledge graph, in the order in which the text mentions them. "
)
_ANSWERS = {
    "json": 'Answer with one JSON object a line, {"subject": …, "relation": …, "object": …}, ',
    "fully_expanded": "Answer with one line: for each triplet '[s] subject [r] relation [o] object [e]', ",
    "subject_collapsed": "Answer with one line: for each subject '[s] subject', then for each of its triplets "
    "'[r] relation [o] object', then '[e]', ",
}
_ANNOTATOR = "synthie"


def as_chat(target: Target, system: str | None = None) -> Callable[[Record], Record]:
    """Makes ``{"messages": [system, user, assistant]}``, the form of fine-tuning services.

    Args:
        target: how the assistant writes triplets.
        system: the system message; None for one that describes the task and ``target``.
    """
    told = f"{_TASK}{_ANSWERS[target]}or with '{_NONE}' if it states none." if system is None else system

    def form(record: Record) -> Record:
        return {
            "messages": [
                {"role": "system", "content": told},
                {"role": "user", "content": record["text"]},
                {"role": "assistant", "content": chat_target(record["triplets"], target)},
            ]
        }

    return form


def chat_target(triplets: list[Record], target: Target) -> str:
    """Triplets as the assistant writes them: names, with spaces."""
    names = [(_name(triplet, "subject"), _name(triplet, "predicate"), _name(triplet, "object")) for triplet in triplets]
    if not names:
        return _NONE
    if target == "json":
        return "\n".join(
            json.dumps(dict(zip(("subject", "relation", "object"), name, strict=True)), ensure_ascii=False)
            for name in names
        )
    return linearization(target, "spaces").write(names)


def read_chat_target(content: str, target: Target) -> list[tuple[str, str, str]]:
    """What an assistant wrote: names (subject, relation, object).

    >>> read_chat_target('{"subject": "Ulm", "relation": "country", "object": "Germany"}', "json")
    [('Ulm', 'country', 'Germany')]

    Raises:
        ValueError: a line is not in the form.
    """
    if content.strip() == _NONE:
        return []
    if target != "json":
        return linearization(target, "spaces").read(content)
    lines = [json.loads(line) for line in content.splitlines() if line.strip()]
    return [(line["subject"], line["relation"], line["object"]) for line in lines]


def as_synthie(record: Record) -> Record:
    """SynthIE's line."""
    return {
        "id": record["id"],
        "text": record["text"],
        "triplets": record["triplets"],
        "entities": [{name: entity[name] for name in ("surfaceform", "uri")} for entity in record["entities"]],
        "relations": record["relations"],
    }


def as_rebel(record: Record) -> Record:
    """REBEL's line; ``boundaries`` are [-1, -1] where the mention is not known.

    The end of a mention is that of the name's text where it stands there as it is written, else of the word at its
    start.
    """
    nodes = {entity["uri"]: _rebel_node(entity, record["text"]) for entity in record["entities"]}
    return {
        "docid": str(record["id"]),
        "title": "",
        "uri": "",
        "text": record["text"],
        "entities": list(nodes.values()),
        "triples": [
            {
                "subject": nodes[triplet["subject"]["uri"]],
                "predicate": {
                    "uri": triplet["predicate"]["uri"],
                    "boundaries": None,
                    "surfaceform": triplet["predicate"]["surfaceform"],
                    "annotator": _ANNOTATOR,
                },
                "object": nodes[triplet["object"]["uri"]],
                "sentence_id": 0,
                "dependency_path": None,
                "confidence": None,
                "annotator": _ANNOTATOR,
            }
            for triplet in record["triplets"]
        ],
    }


def _rebel_node(entity: Record, text: str) -> Record:
    start, name = entity["mention_start_index"], entity["surfaceform"].replace("_", " ")
    if start < 0:
        end = -1
    elif text.startswith(name, start):
        end = start + len(name)
    else:
        rest = text[start:].split(maxsplit=1)
        end = start + len(rest[0].rstrip(".,;:!?")) if rest else start
    return {
        "uri": entity["uri"],
        "boundaries": [start, end],
        "surfaceform": text[start:end] if start >= 0 else name,
        "annotator": _ANNOTATOR,
    }


def _name(triplet: Record, part: str) -> str:
    return str(triplet[part]["surfaceform"]).replace("_", " ")
