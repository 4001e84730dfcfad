"""Gold and predictions of any system from files: what a person has lying around, read into one form.

Understood are, by their extension and content:

* Parquet and JSON Lines in the SynthIE form, ours or the original's: ``id``, ``text``, ``triplets`` of
  ``{subject, predicate, object}``, each ``{surfaceform, uri}``; our predictions have a ``score`` too;
* the original's predictions: ``id``, ``input``, ``target``, ``prediction``, linearized; a file or a folder;
* triplet lists: ``id`` and ``triplets``, or ``gold`` and ``predicted``, of ``[subject, relation, object]``;
* REBEL, as published (``docid``, ``text``, ``triples``) and on the Hugging Face hub (``<triplet> … <subj> … <obj>``);
* WebNLG's XML, with or without Wikidata ids; one record a text, with the id ``category/size/eid/lid``.

JSON Lines may be gzipped. Errors name the file, the line and the mend.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from synthie.errors import InputError
from synthie.evaluation.linearized import FORMS, Form, guess_form, read_linearized

__all__ = ["FileRecord", "Item", "Stated", "read_records"]

Item = tuple[str, str]  # id and name; either may be ""
Stated = tuple[Item, Item, Item]

_ID = ("id", "docid")
_TEXT = ("text", "input", "context", "sentence")
_GOLD = ("gold", "target_triplets", "triplets", "triples", "target")
_PREDICTED = ("predicted", "prediction_triplets", "prediction", "triplets", "triples")
_PARTS = (
    ("subject", "head", "sub", "s"),
    ("predicate", "relation", "property", "type", "rel", "r"),
    ("object", "tail", "obj", "o"),
)
_NAME, _URI = ("surfaceform", "name", "label", "title", "text"), ("uri", "id", "wikidata_id")
_WIKIDATA = re.compile(r"[QPL]\d+")
_FORMS_SHOWN = '[["Berlin", "country", "Germany"], …]'


@dataclass(frozen=True)
class FileRecord:
    """One record of a file; a list is None where the file has nothing of the kind.

    ``alike`` says that the file has one list, which serves as either.
    """

    id: Any
    text: str
    gold: list[Stated] | None
    predicted: list[Stated] | None
    score: float | None = None
    alike: bool = False


def read_records(path: Path, form: Form | None = None) -> list[FileRecord]:
    """The records of a file or folder, sorted by id, as the original's code sorts them.

    Args:
        path: see the module's description.
        form: how linearized strings are written; None finds out from the targets.

    Raises:
        InputError: nothing there, not readable, or not of any known form.
    """
    if not path.exists():
        raise InputError(f"{path} is missing. Check the path.")
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path} holds no records. Give a file with at least one.")
    if form is None:
        targets = (row["target"] for _, row in rows if isinstance(row.get("target"), str))
        form = guess_form(targets)
    records: dict[Any, FileRecord] = {}
    for number, (place, row) in enumerate(rows):
        record = _record(row, place, number, form)
        # Distributed inference writes some records twice; the original keeps the last.
        if record.id in records and not isinstance(row.get("prediction"), str | list):
            raise InputError(f"{place}: the id {record.id!r} occurs a second time. Keep one record for each id.")
        records[record.id] = record
    whole = all(isinstance(identity, int) for identity in records)
    return [records[identity] for identity in sorted(records, key=None if whole else str)]


# --- Files ----------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, row) of each record."""
    if path.is_dir():
        files = _folder(path)
        if not files:
            raise InputError(
                f"{path} is a folder without .jsonl, .jsonl.gz or .parquet files. Name a file, or another folder."
            )
        for file in files:
            yield from _rows(file)
        return
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith(".xml"):
        yield from _webnlg(path)
    elif name.endswith((".jsonl", ".json", ".ndjson")):
        yield from _json_lines(path)
    else:
        raise InputError(
            f"{path}: the extension says nothing about the form. Rename it to .jsonl, .jsonl.gz, .json, .parquet or "
            ".xml, whichever it is."
        )


def _folder(path: Path) -> list[Path]:
    """The files of a folder: of a data set the test split, else all."""
    for folder, pattern in ((path / "data", "test-*.parquet"), (path, "test-*.parquet"), (path, "*.parquet")):
        if files := sorted(folder.glob(pattern)):
            return files
    return sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        source = pq.ParquetFile(path)
        columns = [name for name in source.schema_arrow.names if name in {*_ID, *_TEXT, *_GOLD, *_PREDICTED, "score"}]
        number = 0
        for batch in source.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}). Write it again.") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with _open(path) as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                whole = json.load(file)
                rows = whole if isinstance(whole, list) else [whole]
                for number, row in enumerate(rows, 1):
                    yield f"{path}, record {number}", _mapping(row, f"{path}, record {number}")
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _mapping(json.loads(line), f"{path}, line {number}")
    except (OSError, EOFError) as error:
        raise InputError(f"{path} breaks off after line {number} ({error}). Fetch or write it again.") from error
    except ValueError as error:
        place = f"{path}, line {max(number, 1)}" if path.name.removesuffix(".gz").endswith(".jsonl") else str(path)
        raise InputError(f"{place}: not JSON ({error}). Each line must be one JSON object in UTF-8.") from error


def _mapping(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f'{place}: expected a JSON object such as {{"id": 1, "triplets": {_FORMS_SHOWN}}}.')
    return row


def _webnlg(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """WebNLG's entries: the modified triplets, and a record for each text."""
    try:
        with _open(path) as file:
            for _, entry in ElementTree.iterparse(file):
                if entry.tag != "entry":
                    continue
                # Entries are numbered anew for each category and size.
                identity = f"{entry.get('category')}/{entry.get('size')}/{entry.get('eid')}"
                place = f"{path}, entry {identity}"
                triplets = [_mtriple(element, place) for element in entry.findall("modifiedtripleset/mtriple")]
                for number, text in enumerate(entry.findall("lex"), 1):
                    words = (text.findtext("text") or text.text or "").strip()
                    lid = text.get("lid") or f"Id{number}"
                    yield place, {"id": f"{identity}/{lid}", "text": words, "triplets": triplets}
                entry.clear()
    except (ElementTree.ParseError, OSError, EOFError) as error:
        raise InputError(f"{path} is not readable XML ({error}). Fetch it again.") from error


def _mtriple(element: ElementTree.Element, place: str) -> list[dict[str, str]]:
    names = [part.strip() for part in (element.text or "").strip().split(" | ")]
    codes = [part.strip() for part in (element.findtext("mtriple_code") or "").split(" | ")]
    if len(names) != 3:
        raise InputError(f"{place}: {' | '.join(names)!r} is not 'subject | property | object'. Correct the triplet.")
    ids = codes if len(codes) == 3 else ["", "", ""]
    return [
        {"uri": code if _WIKIDATA.fullmatch(code) else "", "name": name} for code, name in zip(ids, names, strict=True)
    ]


# --- Records --------------------------------------------------------------------------------------------------------


def _record(row: dict[str, Any], place: str, number: int, form: Form) -> FileRecord:
    gold, predicted = _first(row, _GOLD), _first(row, _PREDICTED)
    if gold is None and predicted is None:
        raise InputError(
            f"{place}: there are no triplets. Expected 'triplets' or 'gold' and 'predicted' with {_FORMS_SHOWN}, or "
            f"'target' and 'prediction' with linearized strings; found {', '.join(map(repr, row)) or 'nothing'}."
        )
    alike = gold is predicted
    identity = _first(row, _ID)
    if not isinstance(identity, int | str | None):
        raise InputError(f"{place}: the id {identity!r} is neither a number nor a string. Write one of these.")
    if isinstance(predicted, list) and predicted and all(isinstance(beam, str) for beam in predicted):
        predicted = predicted[0]  # the best beam comes first
    score = row.get("score")
    if not isinstance(score, int | float | None) or isinstance(score, bool):
        raise InputError(f"{place}: the score {score!r} is not a number. Write the log-probability, or leave it out.")
    return FileRecord(
        id=number if identity is None else identity,
        text=str(_first(row, _TEXT) or ""),
        gold=None if gold is None else _stated(gold, place, form),
        predicted=None if predicted is None else _stated(predicted, place, form),
        score=None if score is None else float(score),
        alike=alike,
    )


def _first(row: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _stated(value: Any, place: str, form: Form) -> list[Stated]:
    if isinstance(value, str):
        triplets = _hub_rebel(value) if "<triplet>" in value else read_linearized(value, form)
        if not triplets and value.strip() and "[" not in value and "<triplet>" not in value:
            raise InputError(
                f"{place}: {value[:60]!r} has no markers such as [s], [r], [o], [e]. Write triplets as "
                f"{_FORMS_SHOWN}, or in one of the forms {', '.join(FORMS)}."
            )
        return [(("", s), ("", r), ("", o)) for s, r, o in triplets]
    if not isinstance(value, list):
        raise InputError(f"{place}: expected a list of triplets, {_FORMS_SHOWN}; found {value!r:.60}.")
    return [_triplet(triplet, place) for triplet in value]


def _triplet(triplet: Any, place: str) -> Stated:
    if isinstance(triplet, dict):
        parts = [_first(triplet, names) for names in _PARTS]
    else:
        parts = list(triplet) if isinstance(triplet, list | tuple) else []
    if len(parts) != 3 or any(part is None for part in parts):
        raise InputError(
            f"{place}: {triplet!r:.80} is not a triplet. Write [subject, relation, object] or "
            '{"subject": …, "predicate": …, "object": …}.'
        )
    return cast(Stated, tuple(_item(part, place) for part in parts))


def _item(part: Any, place: str) -> Item:
    if isinstance(part, str):
        return "", part
    if isinstance(part, dict):
        identity, name = _first(part, _URI) or "", _first(part, _NAME) or ""
        if identity or name:
            return str(identity), str(name)
    raise InputError(f"{place}: {part!r:.60} is no name, and has neither 'surfaceform' nor 'uri'. Give one of them.")


def _hub_rebel(text: str) -> list[tuple[str, str, str]]:
    """Triplets of ``<triplet> subject <subj> object <obj> relation …``, where a subject may go on with more pairs.

    >>> _hub_rebel("<triplet> Ulm <subj> Germany <obj> country <subj> Swabia <obj> region")
    [('Ulm', 'country', 'Germany'), ('Ulm', 'region', 'Swabia')]
    """
    triplets = []
    for piece in text.replace("<s>", "").replace("</s>", "").split("<triplet>")[1:]:
        subject, *pairs = piece.split("<subj>")
        for pair in pairs:
            target, _, relation = pair.partition("<obj>")
            if subject.strip() and target.strip() and relation.strip():
                triplets.append((subject.strip(), relation.strip(), target.strip()))
    return list(dict.fromkeys(triplets))
