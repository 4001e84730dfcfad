"""Texts from files and pipes to predictions: order, ids, bounded memory, errors with their line, and resumption."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from test_cli import assert_refused, synthie

from synthie.errors import BusyError, InputError
from synthie.extractor.predict import Extractor
from synthie.extractor.spans import find_spans
from synthie.extractor.streaming import TextRecord, extract_all, read_lines, read_text_file, write_file
from synthie.records import Mention, Prediction, Triplet

ULM, BERLIN = Mention("Ulm", "Q3012"), Mention("Berlin", "Q64")
FACT = Triplet(ULM, Mention("country", "P17"), Mention("Germany", "Q183"))


class FakeExtractor:
    """States one fact of each text that has "fact" in it, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def extract(self, texts: list[str], *, batch_size: int) -> list[Prediction]:
        self.asked.append(texts)
        return [Prediction((FACT,) * ("fact" in text), -0.5, text, (0.5,) * ("fact" in text)) for text in texts]


def predict(
    extractor: FakeExtractor, records: Iterable[TextRecord], batch_size: int = 1
) -> Iterator[tuple[TextRecord, Prediction]]:
    return extract_all(cast(Extractor, extractor), records, batch_size=batch_size)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- Reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_text_files_give_a_record_a_line_with_its_number(tmp_path: Path, packed: bool) -> None:
    data = "\ufeffFirst.\r\n\r\n  Łódź  \nlast".encode()
    path = tmp_path / ("texts.txt.gz" if packed else "texts.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert list(read_text_file(path)) == [(1, "First."), (3, "Łódź"), (4, "last")]


def test_json_lines_keep_their_ids_and_those_without_get_their_number(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": "a", "text": "A"}\n\n{"text": " B\\n"}\n{"id": 7, "text": "", "more": 1}\n')
    assert list(read_text_file(path)) == [("a", "A"), (3, " B\n"), (7, "")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": ', "not JSON"),
        (b'["text"]', "expected an object with a text"),
        (b'{"text": 3}', "expected an object with a text"),
        (b'{"id": 1.5, "text": "A"}', "the id 1.5"),
        (b'{"id": true, "text": "A"}', "the id True"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": "\xff"}', "no UTF-8"),
    ],
)
def test_a_bad_line_is_told_with_file_and_line(tmp_path: Path, line: bytes, told: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'{"text": "A"}\n' + line + b"\n")
    records = read_text_file(path)
    assert next(records) == (1, "A")
    with pytest.raises(InputError, match=r"texts\.jsonl, line 2: ") as refused:
        next(records)
    assert told in str(refused.value)


def test_a_broken_or_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt.gz"
    path.write_bytes(gzip.compress(b"A\n" * 100_000)[:-20])
    with pytest.raises(InputError, match=r"texts.txt.gz cannot be read after line \d+"):
        list(read_text_file(path))
    for missing in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            list(read_text_file(missing))


# --- Predicting -----------------------------------------------------------------------------------------------------


def test_only_a_window_of_an_endless_input_is_held() -> None:
    drawn: list[int] = []

    def endless() -> Iterator[TextRecord]:
        while True:
            drawn.append(1)
            yield TextRecord(len(drawn), f"text {len(drawn)}")

    extractor = FakeExtractor()
    pairs = predict(extractor, endless(), batch_size=2)
    seen = [next(pairs) for _ in range(70)]
    assert [record.id for record, _ in seen] == list(range(1, 71))
    assert all(prediction.output == record.text for record, prediction in seen)
    assert [len(texts) for texts in extractor.asked] == [32, 32, 32]
    assert len(drawn) == 96


def test_an_interrupted_file_goes_on_behind_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out" / "triplets.jsonl"
    records = [TextRecord(number, f"{'fact' if number % 2 else 'text'} {number}") for number in range(100)]

    def stop(done: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    first, second = FakeExtractor(), FakeExtractor()
    with pytest.raises(KeyboardInterrupt):
        write_file(path, records, lambda rest: predict(first, rest), identity="x", told=stop)
    assert not path.exists()
    (partial,) = path.parent.iterdir()
    partial.write_bytes(partial.read_bytes()[:-10])  # a crash may cut the last line
    assert write_file(path, records, lambda rest: predict(second, rest), identity="x") == (100, 49, 50)
    assert sum(map(len, second.asked)) == 51
    assert [(line["id"], line["text"]) for line in written(path)] == records
    assert [len(line["triplets"]) for line in written(path)] == [0, 1] * 50
    assert list(path.parent.iterdir()) == [path]


def test_other_options_or_other_texts_are_predicted_anew(tmp_path: Path) -> None:
    path = tmp_path / "triplets.jsonl"
    bad = [b'{"text": "A"}', b'{"text": "B"}', *[b'{"text": "C"}'] * 30, b"{"]
    with pytest.raises(InputError, match="pipe, line 33"):
        write_file(
            path,
            read_lines(bad, "pipe", is_json=True),
            lambda rest: ((record, Prediction((), 0.0, "")) for record in rest),
            identity="x",
        )
    records = [TextRecord(1, "A"), TextRecord(2, "changed"), TextRecord(3, "C")]
    other, same = FakeExtractor(), FakeExtractor()
    assert write_file(path, records, lambda rest: predict(other, rest), identity="y").before == 0
    assert write_file(path, records, lambda rest: predict(same, rest), identity="x") == (3, 1, 0)
    assert same.asked == [["changed", "C"]]
    assert [line["text"] for line in written(path)] == ["A", "changed", "C"]


def test_two_processes_never_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "triplets.jsonl"

    def meanwhile(rest: Iterable[TextRecord]) -> Iterator[tuple[TextRecord, Prediction]]:
        with pytest.raises(BusyError, match=r"triplets\.jsonl"):
            write_file(path, [TextRecord(1, "A")], lambda rest: predict(FakeExtractor(), rest), identity="x")
        return predict(FakeExtractor(), rest)

    assert write_file(path, [TextRecord(1, "A")], meanwhile, identity="x").texts == 1


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    both = synthie("extract", "Text.", "--file", tmp_path / "empty.txt")
    assert_refused(both, "--file", "one of the two")
    assert_refused(synthie("extract", "--file", tmp_path / "empty.txt"), "no text", "empty.txt is empty")
    assert_refused(synthie("extract", "--jsonl", stdin="{"), "standard input, line 1", "not JSON")
    assert_refused(synthie("extract", "Text.", "--device", "tpu"), "--device tpu")


# --- Spans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "uri", "mention"),
    [
        ("He saw Ulm, then ulm.", "Ulm", "Q3012", "Ulm"),
        ("Born in Zürich in 1879.", "Zürich", "Q72", "Zürich"),
        ("It opened on March 14, 1879.", "14 March 1879", "date:14 March 1879", "March 14, 1879"),
        ("It covers 1,234 square kilometres.", "1234 square kilometre", "quantity:1234", "1,234 square kilometres"),
        ("The German poet sang.", "Germany", "Q183", "German"),
        ("Mercury is hot.", "Mercury_(planet)", "Q308", "Mercury"),
        ("The Erasmus University in Rotterdam grew.", "Erasmus_University_Rotterdam", "Q1", "Erasmus University"),
        ("A Javanese dance.", "Java", "Q3757", "Javanese"),
        ("Nothing of the kind.", "Ulm", "Q3012", None),
        ("", "Ulm", "Q3012", None),
    ],
)
def test_a_span_is_where_the_text_first_mentions_a_node(text: str, name: str, uri: str, mention: str | None) -> None:
    node = Mention(name, uri)
    span = find_spans(text, [node])[node]
    if mention is None:
        assert span is None
    else:
        assert span is not None
        assert text[slice(*span)] == mention
        assert span[0] == text.index(mention)


def test_a_name_inside_a_longer_one_is_not_its_mention() -> None:
    station = Mention("Ulm_Hauptbahnhof", "Q800462")
    assert find_spans("From Ulm Hauptbahnhof to Ulm.", [ULM, station]) == {ULM: (25, 28), station: (5, 21)}
    assert find_spans("From Ulm Hauptbahnhof.", [ULM, station, BERLIN]) == {ULM: None, station: (5, 21), BERLIN: None}
