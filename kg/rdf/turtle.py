"""Turtle to N-Triples, by rdflib's parser.

Turtle has no lines that stand alone, so a file is read whole; what the parser
finds goes straight to the target instead of into a graph, and literals stay as
they are written.
"""

from __future__ import annotations

import logging
from typing import IO, Any

from rdflib import BNode, Graph, Literal, URIRef
from rdflib.exceptions import ParserError
from rdflib.plugins.parsers.notation3 import BadSyntax, RDFSink, SinkParser

from kg.dump import SliceReader, plan_slices
from kg.errors import InputError

__all__ = ["parse_turtle", "write_ntriples"]

log = logging.getLogger(__name__)

_LARGE = 256 << 20
_WHOLE = 1 << 62  # bytes: every file is one slice
_BASE = "urn:base:"  # what relative IRIs of a file without @base are relative to
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def write_ntriples(source: str, target: IO[bytes]) -> None:
    """Write the statements of all files of a source as N-Triples.

    Args:
        source: a file, a folder, a glob or an fsspec URL of Turtle, packed or not.
        target: where to.

    Raises:
        InputError: a file cannot be read or is not Turtle.
    """
    for part in plan_slices(source, _WHOLE):
        reader = SliceReader(part)
        text = b"".join(block for _, block in reader.blocks())
        if len(text) > _LARGE:
            log.warning(
                "%s has %d MiB of Turtle, which is read whole into memory. For large files, N-Triples are much "
                "faster and need little memory; Apache Jena's 'riot --output=ntriples' rewrites them.",
                part.file,
                len(text) >> 20,
            )
        if reader.faults:
            raise InputError(
                f"{part.file} is corrupt from byte {reader.faults[0].byte} on: {reader.faults[0].reason}. Turtle "
                "cannot be read in part; fetch the file again."
            )
        parse_turtle(text, part.file, target)


def parse_turtle(text: bytes, file: str, target: IO[bytes]) -> None:
    """Write the statements of one text as N-Triples; ``file`` is what messages call it.

    Raises:
        InputError: the text is not Turtle.
    """
    parser = SinkParser(_Sink(target), baseURI=_BASE, turtle=True)
    try:
        parser.startDoc()
        parser.feed(text.decode("utf-8-sig"))
        parser.endDoc()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file} is not Turtle: line {line} is not UTF-8. Write the file again in UTF-8.") from error
    except BadSyntax as error:
        raise InputError(
            f"{file} is not Turtle: line {error.lines + 1}: {error._why}, at {_excerpt(error)!r}. Mend the file."
        ) from error
    except (ParserError, ValueError, IndexError, AssertionError, RecursionError) as error:
        # rdflib raises its own kinds of errors at the end of a text that stops in the middle of a statement.
        reason = " ".join(str(error).split()) or "it ends in the middle of a statement"
        raise InputError(f"{file} is not Turtle: near line {parser.lines + 1}: {reason}. Mend the file.") from error


def _excerpt(error: BadSyntax) -> str:
    return error._str[error._i : error._i + 40].decode("utf-8", "replace").split("\n")[0]


class _Sink(RDFSink):
    """Writes statements as they are found; blank nodes get names that differ between files."""

    def __init__(self, target: IO[bytes]) -> None:
        super().__init__(Graph())
        self._target = target

    def newLiteral(self, s: str, dt: URIRef | None, lang: str | None) -> Literal:  # noqa: N802
        return Literal(s, lang=None if dt else lang, datatype=dt, normalize=False)

    def makeStatement(self, quadruple: Any, why: Any = None) -> None:  # noqa: N802
        formula, predicate, subject, target = quadruple
        terms = (_written(self.normalise(formula, term)) for term in (subject, predicate, target))
        self._target.write(f"{' '.join(terms)} .\n".encode())


def _written(term: Any) -> str:
    if isinstance(term, BNode):
        return f"_:{term}"
    if not isinstance(term, Literal):
        return f"<{term}>"
    text = f'"{str(term).translate(_ESCAPES)}"'
    if term.language:
        return f"{text}@{term.language}"
    return f"{text}^^<{term.datatype}>" if term.datatype else text
