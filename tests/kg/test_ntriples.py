"""The scanner: equal to rdflib on statements, unharmed by anything else."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rdflib import Literal, URIRef
from rdflib.plugins.parsers.ntriples import W3CNTriplesParser

from kg.rdf.ntriples import (
    BLANK,
    ESCAPED,
    IRI,
    IRREGULAR,
    PLAIN,
    BadTripleError,
    Scanner,
    Terms,
    gather,
    is_utf8,
    regular_line,
    starts_with,
    unescaped,
)

_FORBIDDEN = "".join(map(chr, range(33))) + '<>"{}|^`\\'
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# rdflib takes no white space in IRIs, be it what Unicode calls so.
_local = _text.map(lambda text: re.sub(r"\s", "", "".join(c for c in text if c not in _FORBIDDEN)))
_iris = st.builds(lambda scheme, local: URIRef(f"{scheme}{local}"), st.sampled_from(["http://e/", "urn:x:"]), _local)
_languages = st.from_regex(r"[a-zA-Z]{1,8}(-[a-zA-Z0-9]{1,8}){0,2}", fullmatch=True)
_gaps = st.sampled_from([" ", "  ", "\t", " \t "])


class _Collector:
    def __init__(self) -> None:
        self.found: list[tuple[object, ...]] = []

    def triple(self, subject: URIRef, predicate: URIRef, target: object) -> None:
        self.found.append((str(subject), str(predicate), _told(target)))


def _told(term: object) -> tuple[str, str]:
    if not isinstance(term, Literal):
        return "iri", str(term)
    if term.language:
        return f"@{term.language.lower()}", str(term)
    return f"^^<{term.datatype}>" if term.datatype else "", str(term)


def by_rdflib(block: bytes) -> list[tuple[object, ...]]:
    collector = _Collector()
    W3CNTriplesParser(collector).parsestring(block)
    return collector.found


def by_scanner(block: bytes) -> list[tuple[object, ...]]:
    """The statements without blank nodes that the scanner finds, irregular lines made regular."""
    scanner = Scanner()
    found: list[tuple[object, ...]] = []
    for rows in scanner.rows(block):
        columns = [column.copy() for column in rows[1:]]
        for kind, predicate, qualifier, start, end, target, target_end, _tail in zip(*columns, strict=True):
            if kind == IRREGULAR:
                line = rows.data[start:end].tobytes()
                found += by_scanner(b"".join(regular_line(part) for part in line.split(b"\r")))
            elif kind & 7 != BLANK:
                text = rows.data[target:target_end].tobytes().decode()
                mark = "" if qualifier < 0 else scanner.qualifiers.strings()[int(qualifier)].as_py()
                mark = mark.lower() if mark.startswith("@") else mark
                value = ("iri", text) if kind == IRI else (mark, unescaped(text) if kind & ESCAPED else text)
                subject = rows.data[start:end].tobytes().decode()
                found.append((subject, scanner.predicates.strings()[int(predicate)].as_py(), value))
    return found


@st.composite
def _escaped(draw: st.DrawFn, text: str) -> str:
    """The text as N-Triples write it, some of its characters by escapes of any form."""
    written = []
    short = {"\t": "t", "\b": "b", "\n": "n", "\r": "r", "\f": "f", '"': '"', "'": "'", "\\": "\\"}
    for character in text:
        if character in '\n\r"\\' or draw(st.integers(0, 5)) == 0:
            number = ord(character)
            forms = [f"\\U{number:08x}"] + ([f"\\u{number:04X}"] if number < 0x10000 else [])
            written.append(draw(st.sampled_from(forms + ([f"\\{short[character]}"] if character in short else []))))
        else:
            written.append(character)
    return "".join(written)


@st.composite
def _lines(draw: st.DrawFn) -> str:
    subject, predicate = draw(_iris), draw(_iris)
    kind = draw(st.sampled_from(["iri", "plain", "language", "typed"]))
    if kind == "iri":
        target = f"<{draw(_iris)}>"
    else:
        target = f'"{draw(_escaped(draw(_text)))}"'
        target += {"plain": "", "language": f"@{draw(_languages)}", "typed": f"^^<{draw(_iris)}>"}[kind]
    end = draw(st.sampled_from([" .", ".", " . ", " .\t# and a comment"]))
    return f"<{subject}>{draw(_gaps)}<{predicate}>{draw(_gaps)}{target}{end}"


@given(st.lists(_lines(), max_size=6), st.sampled_from(["\n", "\r\n", "\n\n", "\n# comment\n"]))
@settings(max_examples=150, deadline=None)
def test_statements_are_read_as_rdflib_reads_them(lines: list[str], end: str) -> None:
    block = "".join(line + end for line in lines).encode()
    assert by_scanner(block) == by_rdflib(block)


@pytest.mark.parametrize(
    "line",
    [
        "<http://e/a> <http://e/p> <http://e/o> .",
        "<http://e/a>\t<http://e/p>\t<http://e/o>\t.\t",
        "  <http://e/a> <http://e/p> <http://e/o> .",
        r'<http://e/\u00E4> <http://e/p> "x"^^<http://e/\U0001F600> .',
        '<http://e/a> <http://e/p> "" .',
        '<http://e/a> <http://e/p> "tab\there"@en-GB . # comment',
        r'<http://e/a> <http://e/p> "ends in a backslash\\" .',
        r'<http://e/a> <http://e/p> "\"quoted\"" .',
        '<http://e/a> <http://e/p> "a"@en-x-y1 .\r',
        r'<a:b> <c:d> "\U0010FFFF\U000F0000\uD7FF\uE000\U0000e000" .',
        "<a:b> <c:d> <e:> .",
    ],
)
def test_every_usual_spelling_is_understood(line: str) -> None:
    assert by_scanner(line.encode()) == by_rdflib(line.encode())
    assert len(by_scanner(line.encode())) == 1


@pytest.mark.parametrize(
    "line",
    [
        "junk",
        "<http://e/a> <http://e/p> .",
        "<http://e/a> <http://e/p> <http://e/o>",
        "<http://e/a> <http://e/p> <http://e/o> . more",
        "<http://e/a><http://e/p> <http://e/o>",
        '"text" <http://e/p> <http://e/o> .',
        "<http://e/a> _:b <http://e/o> .",
        '<http://e/a> <http://e/p> "open .',
        '<http://e/a> <http://e/p> "x"@ .',
        '<http://e/a> <http://e/p> "x"^^"y" .',
        "<no-scheme> <http://e/p> <http://e/o> .",
        "<http://e/a b> <http://e/p> <http://e/o> .",
        r"<http://e/\u0020> <http://e/p> <http://e/o> .",
        r'<http://e/a> <http://e/p> "\U0000dfff" .',
        r'<http://e/a> <http://e/p> "\uD83D" .',
        r'<http://e/a> <http://e/p> "\U00110000" .',
        "<http://e/a> <http://e/p> <http://e/o> <http://e/graph> .",
        "_: <http://e/p> <http://e/o> .",
        "<http://e/a> <http://e/p> <http://e/o",
        "<",
        '<http://e/a> <http://e/p> "\\',
    ],
)
def test_a_line_that_is_no_statement_is_refused_with_a_reason(line: str) -> None:
    with pytest.raises(BadTripleError, match=r"\w"):
        by_scanner(line.encode())


def test_blank_lines_and_comments_are_no_rows() -> None:
    block = b"\n\n# a comment\n<a:b> <c:d> <e:f> .\n#\n\n"
    assert [rows.kind.tolist() for rows in Scanner().rows(block)] == [[IRI]]
    assert regular_line(b"   ") == regular_line(b" # comment") == b""


def test_statements_about_blank_nodes_are_told_apart() -> None:
    block = b'_:a <c:d> <e:f> .\n<a:b> <c:d> _:x-1.y .\n_:a <c:d> "x"@en .\n'
    assert [rows.kind.tolist() for rows in Scanner().rows(block)] == [[BLANK] * 3]
    assert regular_line(b"_:a <c:d> _:b . # comment") == b"_:a <c:d> _:b .\n"


@given(st.binary(max_size=200))
@example(b'<a:b> <c:d> "\\')
@example(b'<a:b> <c:d> "x"^^<')
@example(b"<a:b> <c:d> _:")
@settings(max_examples=300, deadline=None)
def test_garbage_is_read_to_its_end_and_no_further(noise: bytes) -> None:
    check_spans(noise)


@given(st.lists(_lines(), min_size=1, max_size=3), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_statements_are_read_to_their_end_and_no_further(lines: list[str], data: st.DataObject) -> None:
    block = bytearray("\n".join(lines).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(block) - 1))
        block[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not block:
            break
    check_spans(bytes(block))


def check_spans(block: bytes) -> None:
    """Every line is a row or blank or a comment, no span leaves its line, and what rdflib mends is regular."""
    padded = b'"@<>^_:. \n' + block + b"\n" + b'"@<>^_:. '  # what a scan that runs on would run into
    scanner = Scanner()
    lines = block.split(b"\n")
    inner = memoryview(padded)[10 : 10 + len(block) + 1]
    rows = [row for found in scanner.rows(bytes(inner)) for row in zip(*(c.copy() for c in found[1:]), strict=True)]
    assert len(rows) == sum(bool(line) and not line.startswith(b"#") for line in lines)
    for kind, predicate, qualifier, start, end, target, target_end, tail in rows:
        assert 0 <= start <= end <= len(block)
        if kind == IRREGULAR:
            with contextlib.suppress(BadTripleError):
                mended = [regular_line(line) for line in block[start:end].split(b"\r")]
                assert not any(IRREGULAR in rows.kind for rows in Scanner().rows(b"".join(mended)))
        if kind not in (IRREGULAR, BLANK):
            line = block.rfind(b"\n", 0, target) + 1
            assert block[line + 1 :].startswith(block[start:end])  # of this line, or the same above
            assert b"\n" not in block[start:end] + block[line:tail]
            assert start <= end < target <= target_end < tail <= len(block)
            assert 0 <= predicate < len(scanner.predicates)
            assert -1 <= qualifier < len(scanner.qualifiers)


def test_more_rows_than_are_found_at_a_time_and_more_terms_than_a_table_begins_with() -> None:
    count = 40_000
    lines = [f'<http://e/{n}> <http://e/p{n % 3000}> "{n}"^^<http://e/d{n % 2000}> .' for n in range(count)]
    scanner = Scanner()
    predicates: list[int] = []
    kinds: list[int] = []
    for rows in scanner.rows("\n".join(lines).encode()):
        predicates += rows.predicate.tolist()
        kinds += rows.kind.tolist()
    assert len(kinds) == count
    assert predicates == [n % 3000 for n in range(count)]
    assert scanner.predicates.strings().to_pylist() == [f"http://e/p{n}" for n in range(3000)]
    assert len(scanner.qualifiers) == 2000


@given(st.lists(_text, max_size=60))
@settings(deadline=None)
def test_terms_number_strings_in_order_of_appearance_and_find_them_again(texts: list[str]) -> None:
    terms = Terms(capacity=1, pool_bytes=1)
    order = list(dict.fromkeys(texts))
    strings = pa.array(texts, pa.string())
    assert terms.intern_array(strings).tolist() == [order.index(text) for text in texts]
    assert terms.strings().to_pylist() == order
    assert terms.find(strings).tolist() == [order.index(text) for text in texts]
    assert terms.find(pa.array(["\x00nowhere"], pa.string())).tolist() == [-1]
    assert terms.find(strings.slice(1)).tolist() == [order.index(text) for text in texts[1:]]


def test_spans_are_gathered_and_compared_by_their_beginning() -> None:
    data = np.frombuffer("Straße, Weg".encode(), np.uint8)
    starts, ends = np.array([0, 9, 3], np.int32), np.array([7, 12, 3], np.int32)
    assert gather(data, starts, ends).to_pylist() == ["Straße", "Weg", ""]
    assert starts_with(data, starts, ends, b"Str").tolist() == [True, False, False]
    assert [kind & ESCAPED for rows in Scanner().rows(rb'<a:b> <c:d> "\n" .') for kind in rows.kind] == [ESCAPED]
    assert PLAIN & ESCAPED == 0


def test_text_that_is_not_utf8_is_noticed() -> None:
    assert is_utf8("Straße".encode())
    assert not is_utf8(b"Stra\xdfe")
    with pytest.raises(BadTripleError, match="not UTF-8 at byte 13"):
        regular_line(b'<a:b> <c:d> "\xff" .')
