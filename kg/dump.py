"""From the bytes of a dump to slices, and from a slice to blocks of whole lines.

A dump holds one document or statement a line, in one file or many, plain or
compressed (recognised by the first bytes, never by the name). `plan_slices` cuts
the stored bytes into ranges; `SliceReader` inflates the members that begin in
its range and hands out the lines that begin in them, each exactly once over all
slices, wherever members and slices happen to be cut: a slice leaves everything up
to its first line feed to the slice before it and reads on beyond its end until
its last line is complete. What may not happen is that a truncated or corrupt file
passes for a whole one: every gap is recorded as a `Fault`, every wrong end raised.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from kg.errors import InputError
from kg.lines import LINE_LIMIT, LineCutter
from kg.members import (
    TEXT_BYTES,
    Compression,
    MemberError,
    compression_of,
    find_member,
    following_member,
    is_lone_bzip2,
    lone_bzip2_texts,
)
from kg.source import Stored, dump_digest, is_url, list_files

__all__ = ["Fault", "Slice", "SliceReader", "check_faults", "dump_digest", "file_kind", "plan_slices"]

log = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 16  # of text, to tell what a file holds
_PARALLEL_BYTES = 1 << 20  # a smaller bzip2 file is read before threads have started
_SPACE = b" \t\r\n\x0b\x0c"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK = _SPACE + _BYTE_ORDER_MARK
_FRAME = b"[]," + _BLANK  # what may stand around a document in its line

# First bytes of what is handed in by mistake -> what to call it.
_IMPOSTORS = {
    b"\xfd7zXZ": "an xz archive; unpack it, or pack it with gzip, bzip2 or zstd",
    b"PK\x03\x04": "a zip archive; unpack it, or pack it with gzip, bzip2 or zstd",
    b"7z\xbc\xaf": "a 7z archive; unpack it, or pack it with gzip, bzip2 or zstd",
    b"\x1f\x8b": "a gzip stream inside another compressed stream; unpack it once",
    b"BZh": "a bzip2 stream inside another compressed stream; unpack it once",
    b"\x28\xb5\x2f\xfd": "a zstd stream inside another compressed stream; unpack it once",
    b"PAR1": "a Parquet file; give the JSON dump",
    b"<": "an HTML or XML page, perhaps a download that failed; fetch the JSON dump again",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file it points to",
}
_IRI = rb"<[A-Za-z][A-Za-z0-9+.-]*:[^<>\s]*>"
_STATEMENT = re.compile(rb"(?:%b|_:\S+)[ \t]*%b[ \t]*[<\"_].*\.[ \t]*(?:#.*)?" % (_IRI, _IRI))
# A directive, or a subject and a predicate; a name with a prefix cannot come before the directive that declares it.
_TURTLE = re.compile(
    rb"@(?:prefix|base)\b|(?:prefix|base)[ \t]|(?:<>|<[^<>\s]*[:#/][^<>\s]*>|_:\S+)\s*(?:a\s|%b)" % _IRI, re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Slice:
    """A range of the stored bytes of one file.

    Attributes:
        file: path or fsspec URL.
        number: 0 … n-1 over all files of a source, in order.
        start, end: stored bytes; the end of a file's last slice is the size of the file.
    """

    file: str
    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A stretch of a dump that could not be read and was left out.

    Attributes:
        file: as in `Slice`.
        byte: stored offset where the broken member begins (in a plain file, the line).
        offset: in the decompressed stream of the slice, where text is missing.
        reason: what is wrong there.
    """

    file: str
    byte: int
    offset: int
    reason: str


def plan_slices(source: str, slice_bytes: int) -> list[Slice]:
    """Cut the files of a source into slices of about ``slice_bytes`` stored bytes (0.75 to 1.5 times as many).

    A file that cannot be read from the middle is one slice: a bzip2 file of a
    single stream, a file on a web server that answers no range requests.

    Raises:
        InputError: the source is missing or unreadable, or a file is empty, of another kind than a dump or than
            the first file.
    """
    slices: list[Slice] = []
    kinds: dict[str, str] = {}
    bzip2, lone = "", False
    for name in list_files(source):
        with Stored(name) as stored:
            size = stored.size
            if (kind := _kind(stored)) is not None:
                kinds.setdefault(kind, name)
            compression = compression_of(stored)
            whole = size <= slice_bytes
            if compression is not None and compression.name == "bzip2":
                bzip2 = bzip2 or name
                if not whole and is_lone_bzip2(stored):
                    whole = lone = True
        count = 1 if whole or not _answers_ranges(name, size) else max(1, round(size / slice_bytes))
        bounds = [size * cut // count for cut in range(count + 1)]
        for start, end in pairwise(bounds):
            slices.append(Slice(name, len(slices), start, end))
    if len(kinds) > 1:
        found = " and ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise InputError(f"The files of {source} are of different kinds: {found}. Set 'kg.dump' to files of one kind.")
    if bzip2:
        log.warning(
            "%s is packed with bzip2, which takes about 40 times as long to read as gzip%s. Wikimedia offers the same "
            "dumps packed with gzip.",
            bzip2,
            ", and as a single stream it cannot be shared out to workers" if lone else "",
        )
    return slices


def file_kind(source: str) -> str:
    """What the first file of a source holds: ``"json"``, ``"ntriples"`` or ``"turtle"``, by its text.

    It is ``"json"`` where the text does not tell (it is blank, say).

    Raises:
        InputError: the file is missing, unreadable, empty or none of these.
    """
    with Stored(list_files(source)[0]) as stored:
        return _kind(stored) or "json"


def check_faults(source: str, limit: int, count: int, faults: Sequence[Fault]) -> None:
    """Warn of the faults of one more slice.

    Args:
        source: as configured.
        limit: most faults that are allowed.
        count: faults so far, those of the slice among them.
        faults: those of the slice.

    Raises:
        InputError: there are too many, and the slice has one.
    """
    if faults and count > limit:
        raise InputError(
            f"{source} has more than {limit} parts that cannot be unpacked; one begins at byte {faults[-1].byte} of "
            f"{faults[-1].file}: {faults[-1].reason}. Fetch the file again, or raise 'kg.max_corrupt_members' to do "
            "without these parts."
        )
    for fault in faults:
        log.warning("%s: skipped what cannot be unpacked from byte %d on: %s", fault.file, fault.byte, fault.reason)


class SliceReader:
    """Reads one slice once; memory is bounded by the longest line.

    Args:
        part: the slice.
        margin: so many line feeds stand behind each block, which belong to no line.

    Attributes:
        position: stored bytes of the slice consumed so far.
        raw_bytes: text bytes that belong to the slice, whoever hands them out; the sum over a file's slices is the
            size of its text. Final, like all that follows, once `blocks` is exhausted.
        faults: what was left out.
        first_member: stored offset of the first member read (of a plain file: the start); None if none begins in
            the slice.
        next_member: stored offset of the member behind the slice's last; None at the end of the file. Nothing was
            missed between two slices if this is the ``first_member`` of the next slice that has one.
        opened: whether this is a file's first slice and its text begins with ``[``.
        ended: last byte of the slice's text that is no white space, or ``b""``. A JSON array was opened and not
            closed if a slice of the file is ``opened`` and the last of the file's ``ended`` that is not empty is
            not ``b"]"``.
    """

    def __init__(self, part: Slice, margin: int = 0) -> None:
        self.part = part
        self.position = 0
        self.raw_bytes = 0
        self.faults: list[Fault] = []
        self.first_member: int | None = None
        self.next_member: int | None = None
        self.opened = False
        self.ended = b""
        self._beyond = False  # reading what belongs to the next slice
        self._member = 0
        self._compression: Compression | None = None
        self._lines = LineCutter(part.start > 0, self._report_long_line, b"\n" * margin)

    def blocks(self) -> Generator[tuple[int, bytes], None, None]:
        """Yield (offset in the slice's decompressed stream, block): whole lines as they stand, mostly 0.5 to 0.75 MiB.

        Every line ends with a line feed, except one that ends the file without.
        Offset 0 is the first byte of text of the slice's first member.

        Raises:
            InputError: the file is unreadable, or truncated or corrupt without a whole member behind the fault.
        """
        lines = self._lines
        with Stored(self.part.file, self.part.start, self.part.end) as stored:
            for text in self._texts(stored):
                if text is None:
                    lines.gap()
                elif not self._beyond:
                    self._look(text)
                    lines.feed(text)
                elif lines.feed_first_line(text):
                    break
                self._advance(stored.position)
                yield from lines.taken()
            else:
                self._check_last_line(lines.finish())
        lines.flush()
        yield from lines.taken()
        self._advance(self.part.end)

    def _texts(self, stored: Stored, *, parallel: bool = True) -> Iterator[bytes | None]:
        """Pieces of text from the slice's first member on to the end of the file; None where text is missing."""
        self._compression = compression = compression_of(stored)
        if compression is None:
            yield from self._plain_texts(stored)
        elif parallel and _is_read_in_parallel(self.part, stored, compression):
            self.first_member = 0
            try:
                yield from lone_bzip2_texts(stored)
            except MemberError as error:
                raise self._no_more(stored, error) from error
        else:
            yield from self._member_texts(stored, compression)
        if not self._beyond:
            self.raw_bytes = self._lines.offset

    def _plain_texts(self, stored: Stored) -> Iterator[bytes]:
        at = self.first_member = self.part.start
        while at < stored.size and not (self._beyond and self._lines.idle):
            text = stored.read(at, TEXT_BYTES if self._beyond else min(TEXT_BYTES, self.part.end - at))
            yield text
            at += len(text)
            if at == self.part.end < stored.size:
                self._pass_end(at)

    def _member_texts(self, stored: Stored, compression: Compression) -> Iterator[bytes | None]:
        at, end = self.part.start, self.part.end
        member = None
        if at > 0 and (member := find_member(stored, compression, at, end)) is None:
            return
        while True:
            try:
                member = member or following_member(stored, compression, at)
                if member is None:
                    return
                if member.start < end:
                    self._member = member.start
                    if self.first_member is None:
                        self.first_member = member.start
                elif not self._beyond:
                    self._pass_end(member.start)
                    if self._lines.idle:
                        return
                yield from member.texts()
                at, member = member.end, None
            except MemberError as error:
                yield None
                if self._beyond:  # a later slice meets the same fault and records it
                    return
                member = find_member(stored, compression, error.byte + 1, stored.size)
                if member is None:
                    raise self._no_more(stored, error) from error
                self.faults.append(Fault(self.part.file, error.byte, self._lines.offset, error.reason))

    def _advance(self, byte: int) -> None:
        self.position = max(self.position, min(byte, self.part.end) - self.part.start)

    def _pass_end(self, next_member: int) -> None:
        self._beyond = True
        self.next_member = next_member
        self.raw_bytes = self._lines.offset

    def _look(self, text: bytes) -> None:
        """Note the first and the last byte of the slice's text, white space aside."""
        if not self.ended and self.part.start == 0:
            self.opened = text.lstrip(_BLANK).startswith(b"[")
        if bare := text[-64:].strip(_BLANK) or text.strip(_BLANK):
            self.ended = bare[-1:]

    def _check_last_line(self, line: bytes) -> None:
        content = line.strip(_FRAME)
        if content.startswith(b"{") and not _is_json(content):
            raise InputError(
                f"{self.part.file} is truncated: it ends in the middle of the document at "
                f"{self._where(self._lines.offset - len(line))}. Fetch the file again."
            )

    def _report_long_line(self, offset: int) -> None:
        byte = self.part.start + offset if self._compression is None else self._member
        self.faults.append(Fault(self.part.file, byte, offset, f"a line of more than {LINE_LIMIT >> 20} MiB"))

    def _where(self, offset: int) -> str:
        if self._compression is None:
            return f"byte {self.part.start + offset} of the file"
        since = f" that begins at byte {self.first_member} of the file" if self.first_member else ""
        return f"offset {offset} of the decompressed stream{since}"

    def _no_more(self, stored: Stored, error: MemberError) -> InputError:
        where = self._where(self._lines.offset)
        if error.cut:
            return InputError(
                f"{stored.name} is truncated: {error.reason}, at byte {stored.size} of the file ({where}). "
                "Fetch the file again."
            )
        return InputError(
            f"{stored.name} is corrupt: it cannot be decompressed after byte {error.byte} "
            f"of the file ({where}): {error.reason}. No whole member follows. Fetch the file again."
        )


def _is_read_in_parallel(part: Slice, stored: Stored, compression: Compression) -> bool:
    return (
        compression.name == "bzip2"
        and part.start == 0
        and part.end == stored.size >= _PARALLEL_BYTES
        and not is_url(part.file)
        and is_lone_bzip2(stored)
    )


def _kind(stored: Stored) -> str | None:
    """See `file_kind`; None if the text does not tell."""
    if not stored.size:
        raise InputError(f"{stored.name} is empty (0 bytes). Fetch or write the dump again.")
    head = _head(stored)
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith(b"#")]
    if not lines:
        return None
    if _TURTLE.match(head, head.index(lines[0])):
        return "ntriples" if _STATEMENT.fullmatch(lines[0].strip()) else "turtle"
    for signature, kind in _IMPOSTORS.items():
        if head.startswith(signature):
            raise _no_dump(stored, head, f"so it looks like {kind}")
    # The first line may be spoilt, or the end of one; such lines are for the reader to set aside.
    if any(line.startswith((b"{", b"[", b",", b"]")) for line in lines):
        return "json"
    if any(_STATEMENT.fullmatch(line.strip()) for line in lines):
        return "ntriples"
    if len(lines) == 1:
        return None
    raise _no_dump(stored, head, "and no line begins like a document. Set 'kg.dump' to a file of that kind")


def _head(stored: Stored) -> bytes:
    """The first 64 KiB or more of a file's text, white space before it removed; less if there is less."""
    reader = SliceReader(Slice(stored.name, 0, 0, stored.size))
    head = b""
    for text in reader._texts(stored, parallel=False):
        head = (head + (text or b"")).lstrip(_BLANK)
        if len(head) >= _HEAD_BYTES:
            break
    return head


def _no_dump(stored: Stored, head: bytes, found: str) -> InputError:
    return InputError(
        f"{stored.name} is not a Wikidata JSON dump, nor RDF in N-Triples or Turtle: at offset 0 it begins with "
        f"{head[:40].decode('utf-8', 'backslashreplace')!r}, {found}."
    )


def _answers_ranges(name: str, size: int) -> bool:
    """Whether a file can be read from its middle; a web server need not allow that."""
    if not name.startswith(("http://", "https://")):
        return True
    try:
        with Stored(name, 1, size) as stored:
            return len(stored.read(size // 2, 1)) == 1
    except InputError:
        return False


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True
