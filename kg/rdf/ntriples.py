"""N-Triples from raw bytes to columns, without Python per line.

`Scanner.rows` finds in a block of whole lines where each statement's subject,
predicate and object lie; predicates, languages and datatypes become numbers in
`Terms` tables on the way, so that a reader decides by arrays which lines it
wants, and only of those are spans interned or copied. Lines that a compiled loop
had better not judge (comments behind statements, escapes in IRIs, errors) are
left to rdflib's parser, one by one, in `regular_line`.

The grammar is W3C's: https://www.w3.org/TR/n-triples/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rdflib.compat import decodeUnicodeEscape
from rdflib.exceptions import ParserError
from rdflib.plugins.parsers.ntriples import W3CNTriplesParser, r_literal, r_nodeid, unquote

from kg.arrays import spans, strings_of
from kg.rdf.kernels import (
    BLANK,
    ESCAPED,
    IRI,
    IRREGULAR,
    LANGUAGE,
    PLAIN,
    TYPED,
    copy_spans,
    find_many,
    intern_many,
    match_prefix,
    new_table,
    refill,
    scan_rows,
)

__all__ = [
    "BLANK",
    "ESCAPED",
    "IRI",
    "IRREGULAR",
    "LANGUAGE",
    "PLAIN",
    "TYPED",
    "BadTripleError",
    "Rows",
    "Scanner",
    "Terms",
    "gather",
    "is_utf8",
    "regular_line",
    "starts_with",
    "unescaped",
    "utf8_stretches",
]

_ROWS = 1 << 15  # rows found at a time; their columns stay in the processor's cache
_GROWTH = 2
_STRING_BYTES = 32  # of a table, beside the string
_PIECE_BYTES = 1 << 28
_NOT_IN_IRIS = re.compile(r'[\x00-\x20<>"\\]')
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadTripleError(ValueError):
    """A line that is no statement; the message is the reason."""


class Rows(NamedTuple):
    """Lines of a block as columns; a row is a line that is neither blank nor a comment.

    ``data`` is the block, uint8. Spans are int32[rows] offsets into it: the subject's and an IRI object's text without
    brackets, a literal's without quotes; ``tail`` is the end of a literal with its language or datatype. An IRI that is
    the subject of rows one after another is one span in all of them. Of an IRREGULAR row, "subject" spans the whole
    line, without its line feed. ``kind`` is uint8; ``predicate`` and ``qualifier`` (language or datatype, -1 for none)
    are int32 numbers in the scanner's tables.
    """

    data: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    predicate: NDArray[np.int32]
    qualifier: NDArray[np.int32]
    subject: NDArray[np.int32]
    subject_end: NDArray[np.int32]
    object: NDArray[np.int32]
    object_end: NDArray[np.int32]
    tail: NDArray[np.int32]


class Terms:
    """Byte strings numbered 0, 1, … in order of appearance; grows as needed.

    Memory: the strings and about 32 bytes each, and up to twice as much until the next growth.
    """

    def __init__(self, capacity: int = 1024, pool_bytes: int = 1 << 16) -> None:
        self._table = new_table(capacity, pool_bytes)

    def __len__(self) -> int:
        return int(self._table.used[0])

    @property
    def used_bytes(self) -> int:
        """Bytes of memory that the strings take, growth aside."""
        return int(self._table.offsets[len(self)]) + _STRING_BYTES * len(self)

    def clear(self) -> None:
        """Forget the strings and keep the memory for others."""
        self._table.slots[:] = 0
        self._table.used[0] = 0

    def intern(self, data: NDArray[np.uint8], starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[np.int32]:
        """int32[k]: the number of each of the spans; new ones are appended."""
        numbers = np.empty(len(starts), np.int32)
        done = 0
        while (done := intern_many(self._table, data, starts, ends, numbers, done)) < len(starts):
            self._grow(int(ends[done] - starts[done]))
        return numbers

    def intern_array(self, strings: pa.Array) -> NDArray[np.int32]:
        """int32[k]: the number of each string of an Arrow array without nulls."""
        data, starts, ends = spans(strings)
        return self.intern(data, starts, ends)

    def find(self, strings: pa.Array) -> NDArray[np.int32]:
        """int32[k]: the number of each string of an Arrow array without nulls; -1 for those not in the table."""
        data, starts, ends = spans(strings)
        numbers = np.empty(len(starts), np.int32)
        find_many(self._table, data, starts, ends, numbers)
        return numbers

    def strings(self, start: int = 0) -> pa.Array:
        """The strings from number ``start`` on, as an Arrow string (or, above 2 GiB, large_string) array."""
        count = len(self)
        offsets, pool = self._table.offsets[start : count + 1], self._table.pool
        begin, end = int(offsets[0]), int(offsets[-1])
        return strings_of(offsets - begin, pool[begin:end].copy())

    def _grow(self, length: int) -> None:
        """Make room for at least one more string of ``length`` bytes."""
        old, count = self._table, len(self)
        used = int(old.offsets[count])
        capacity = len(old.offsets) - 1
        capacity *= _GROWTH if count >= capacity else 1
        pool = len(old.pool) * _GROWTH if used + length > len(old.pool) else len(old.pool)
        self._table = table = new_table(capacity, max(pool, used + length))
        table.offsets[: count + 1] = old.offsets[: count + 1]
        table.pool[:used] = old.pool[:used]
        table.used[0] = count
        refill(table, old.slots)


class Scanner:
    """Turns blocks of N-Triples into `Rows`.

    Attributes:
        predicates: the IRIs of the predicates seen.
        qualifiers: the languages ("@en") and datatypes ("^^<iri>") seen, as written.
    """

    def __init__(self) -> None:
        self.predicates = Terms()
        self.qualifiers = Terms()
        self._columns: list[NDArray[Any]] = [np.empty(_ROWS, np.uint8)] + [np.empty(_ROWS, np.int32) for _ in range(7)]

    def rows(self, block: bytes) -> Iterator[Rows]:
        """The lines of a block, in order; columns are overwritten by the next rows.

        Args:
            block: whole lines in UTF-8, at most 2 GiB; the last need not end in a line feed.
        """
        data = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
        position = 0
        while position < len(data):
            found, following, full = scan_rows(
                data, position, self.predicates._table, self.qualifiers._table, *self._columns
            )
            if found:
                yield Rows(data, *(column[:found] for column in self._columns))
            # A line that finds a table full is scanned again after the table has grown by as much as it may need.
            if full == 1:
                self.predicates._grow(_line_length(block, following))
            elif full == 2:
                self.qualifiers._grow(_line_length(block, following))
            position = following


def is_utf8(block: bytes) -> bool:
    """Whether a block of less than 2 GiB is valid UTF-8."""
    offsets = pa.py_buffer(np.array([0, len(block)], np.int32))
    try:
        pa.StringArray.from_buffers(1, offsets, pa.py_buffer(block)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def utf8_stretches(block: bytes) -> Iterator[tuple[int, int, bool]]:
    """The block in stretches of whole lines, valid UTF-8 but for single lines that are not."""
    for start, end in _pieces(block):
        piece = block if end - start == len(block) else block[start:end]
        if is_utf8(piece):
            yield start, end, True
            continue
        done = 0
        while done < len(piece):
            try:
                piece[done:].decode()
                bad = behind = len(piece)
            except UnicodeDecodeError as error:
                bad = piece.rfind(b"\n", 0, done + error.start) + 1
                behind = piece.find(b"\n", bad) + 1 or len(piece)
            if bad > done:
                yield start + done, start + bad, True
            if behind > bad:
                yield start + bad, start + behind, False
            done = behind


def gather(data: NDArray[np.uint8], starts: NDArray[np.int32], ends: NDArray[np.int32]) -> pa.Array:
    """Copy spans into an Arrow string array; they must be UTF-8."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    pool = np.empty(int(offsets[-1]), np.uint8)
    copy_spans(data, starts, offsets, pool)
    return strings_of(offsets, pool)


def starts_with(data: NDArray[np.uint8], starts: NDArray[Any], ends: NDArray[Any], prefix: bytes) -> NDArray[np.bool_]:
    """bool[k]: which spans begin with ``prefix``."""
    return match_prefix(data, starts, ends, np.frombuffer(prefix, np.uint8))


def unescaped(text: str) -> str:
    r"""Resolve the escapes of N-Triples.

    >>> unescaped(r"S\u00E3o Paulo")
    'São Paulo'
    """
    return decodeUnicodeEscape(text)


def regular_line(line: bytes) -> bytes:
    r"""Write any statement that rdflib's parser accepts in the form that `Scanner` reads at once.

    Returns:
        The statement with a line feed; nothing for a blank line or a comment.

    Raises:
        BadTripleError: the line is not a statement.

    >>> regular_line(b"<http://e/\\u00e4>\t<http://e/p> <http://e/o>. # why")
    b'<http://e/\xc3\xa4> <http://e/p> <http://e/o> .\n'
    """
    try:
        text = line.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise BadTripleError(f"not UTF-8 at byte {error.start} of the line") from None
    sink = _Sink()
    parser = _LineParser(sink)  # type: ignore[arg-type]
    parser.line = text
    try:
        parser.parseline()
        return "".join(sink.lines).encode()
    except (ParserError, AttributeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise BadTripleError(reason if len(reason) < 200 else reason[:200] + " …") from None


class _Sink:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def triple(self, subject: Any, predicate: Any, target: Any) -> None:
        self.lines.append(f"{_written(subject)} {_written(predicate)} {_written(target)} .\n")


class _LineParser(W3CNTriplesParser):
    """Leaves blank nodes and the text of literals as written; rdflib would rename the ones and normalise the others."""

    def literal(self) -> Any:
        if not self.peek('"'):
            return False
        match = self.eat(r_literal)
        text, language, datatype = match.groups()
        qualifier = f"@{language}" if language else f"^^{_written(unquote(datatype))}" if datatype else ""
        text = unquote(text)
        if re.search(r"[\ud800-\udfff]", text):
            raise ParserError("an escape for half a character")
        return _Written(f'"{text.translate(_ESCAPES)}"{qualifier}')

    def nodeid(self, bnode_context: Any = None) -> Any:
        return _Written(self.eat(r_nodeid).group()) if self.peek("_") else False


class _Written(str):
    """A term as it stands in N-Triples."""


def _written(term: Any) -> str:
    if isinstance(term, _Written):
        return term
    if _NOT_IN_IRIS.search(term):
        raise ParserError(f"a character that IRIs cannot have in {str(term)!r}")
    return f"<{term}>"


def _line_length(block: bytes, start: int) -> int:
    end = block.find(b"\n", start)
    return (end if end >= 0 else len(block)) - start


def _pieces(block: bytes) -> Iterator[tuple[int, int]]:
    """The block in pieces of whole lines, none larger than 256 MiB unless a line is."""
    start = 0
    while start < len(block):
        end = start + _PIECE_BYTES
        end = len(block) if end >= len(block) else block.find(b"\n", end) + 1 or len(block)
        yield start, end
        start = end
