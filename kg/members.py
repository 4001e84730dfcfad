"""From stored bytes to text, member after member: gzip members, bzip2 streams, zstd frames.

A compressed dump may be many members after one another, and each can be
inflated alone. So a reader may start anywhere: `find_member` looks for the
signature of a member and takes it for one only if its beginning inflates.
`following_member` applies the same measure to a member reached from the one
before it; hence all readers of a file agree on what its members are. Text comes
in pieces that depend on the member alone, of bounded size whatever the input.
"""

from __future__ import annotations

import bz2
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import zstandard
from isal import igzip_lib

from kg.source import Stored

__all__ = [
    "TEXT_BYTES",
    "Compression",
    "Member",
    "MemberError",
    "compression_of",
    "find_member",
    "following_member",
    "is_lone_bzip2",
    "lone_bzip2_texts",
]

# The largest piece of text. What is cut from such pieces arrives at 0.95 of the speed of inflating alone; from pieces
# of 1 MiB, which leave the processor's cache, at 0.86.
TEXT_BYTES = 1 << 18
_STORED_BYTES = 1 << 16  # handed to a decompressor at once
_VERIFIED_BYTES = 1 << 16  # of text: a member that inflates so far is one
_LONE_BYTES = 1 << 25  # a bzip2 file without a second stream in so many bytes is taken to have none
_ZSTD_WINDOW = 1 << 31  # archives packed with --long have windows above the library's default limit
_BZIP2_FOOTER = 0x177245385090
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_SKIPPABLE_HEADER = 8


class _Decompressor(Protocol):
    """What a decompressor of the standard library looks like."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Compression(NamedTuple):
    """A format: its name, its first bytes, the pattern and length of a member's signature, its decompressor."""

    name: str
    magic: re.Pattern[bytes]
    signature: re.Pattern[bytes]
    signature_bytes: int
    decompressor: Callable[[], _Decompressor]


class MemberError(Exception):
    """A stretch of a file is no whole member.

    Attributes:
        byte: stored offset where the member begins, or should.
        reason: what is wrong with it.
        cut: True if the file ends before the member does.
    """

    def __init__(self, byte: int, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.byte = byte
        self.reason = reason
        self.cut = cut


class _ZstdFrame:
    """Inflates one zstd frame block by block.

    The library's own object gives out all that its input holds, at most 128 KiB
    a block but tens of thousands of blocks a call, so the frame is walked here
    (RFC 8878, section 3.1.1) and every call feeds one block at most.
    """

    def __init__(self) -> None:
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self._object = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self._data = b""
        self._at = 0
        self._header = b""
        self._parts = self._walk()
        self._left = next(self._parts)  # bytes of the part of the frame at hand

    def decompress(self, data: bytes, max_length: int) -> bytes:
        del max_length  # a block has at most 128 KiB of text
        if data:
            self._data = self._data[self._at :] + data
            self._at = 0
        part = self._data[self._at : self._at + self._left]
        text: bytes = self._object.decompress(part)
        self._at += len(part)
        self._left -= len(part)
        if len(self._header) < 5:
            self._header += part[:5]
        while not self._left and not self.eof:
            self._next_part()
        self.needs_input = not self.eof and self._at == len(self._data)
        return text

    def _next_part(self) -> None:
        self._left = next(self._parts, -1)
        if self._left < 0:
            self.eof = True
            self.unused_data = self._data[self._at :]
            if not self._object.eof:
                raise ValueError("its headers and its blocks contradict each other")

    def _walk(self) -> Iterator[int]:
        """The length of one part of the frame after another; ``_header`` holds the beginning of what was read last."""
        yield 5
        descriptor = self._header[4]
        single = descriptor >> 5 & 1
        yield 1 - single + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
        last = False
        while not last:
            self._header = b""
            yield 3
            block = int.from_bytes(self._header[:3], "little")
            last = bool(block & 1)
            yield 1 if block >> 1 & 3 == 1 else block >> 3  # a repeated byte is stored once
        if descriptor >> 2 & 1:
            yield 4


_, _BZIP2, _ZSTD = _COMPRESSIONS = (
    Compression(
        "gzip",
        re.compile(rb"\x1f\x8b"),
        re.compile(rb"\x1f\x8b\x08(?=[\x00-\x1f])"),
        4,
        lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
    ),
    Compression(
        "bzip2",
        re.compile(rb"BZh"),
        re.compile(rb"BZh[1-9](?=\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)"),
        10,
        bz2.BZ2Decompressor,
    ),
    Compression(
        "zstd",
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        re.compile(rb"\x28\xb5\x2f\xfd"),
        4,
        _ZstdFrame,
    ),
)
_ERRORS: tuple[Any, ...] = (igzip_lib.IsalError, zstandard.ZstdError, OSError, EOFError, ValueError)


class Member:
    """One member whose beginning inflates.

    Attributes:
        start: stored offset of its first byte.
        end: stored offset behind its last byte, once `texts` is exhausted; ``start`` before.

    Raises:
        MemberError: it does not inflate for 64 KiB of text, nor to its end.
    """

    def __init__(self, stored: Stored, compression: Compression, start: int) -> None:
        self.start = start
        self.end = start
        self._pieces = self._inflate(stored, compression)
        self._head: list[bytes] = []
        size = 0
        for text in self._pieces:
            self._head.append(text)
            size += len(text)
            if size >= _VERIFIED_BYTES:
                break

    def texts(self) -> Iterator[bytes]:
        """Its text in pieces, none of them empty, of at most 256 KiB.

        Raises:
            MemberError: it is corrupt or cut.
        """
        head, self._head = self._head, []
        yield from head
        del head
        yield from self._pieces

    def _inflate(self, stored: Stored, compression: Compression) -> Iterator[bytes]:
        decompressor = compression.decompressor()
        at = self.start
        while not decompressor.eof:
            data = b""
            if decompressor.needs_input:
                data = stored.read(at, _STORED_BYTES)
                if not data:
                    raise MemberError(self.start, f"its {compression.name} stream ends in the middle", cut=True)
                at += len(data)
            try:
                text = decompressor.decompress(data, TEXT_BYTES)
            except _ERRORS as error:
                raise MemberError(self.start, " ".join(str(error).split()) or type(error).__name__) from error
            if text:
                yield text
        self.end = at - len(decompressor.unused_data)


def compression_of(stored: Stored) -> Compression | None:
    """The compression of a file by its first bytes; None if it is plain."""
    head = stored.read(0, 4)
    return next((compression for compression in _COMPRESSIONS if compression.magic.match(head)), None)


def following_member(stored: Stored, compression: Compression, start: int) -> Member | None:
    """The member that begins at ``start`` or behind padding there (zero bytes, skippable frames of zstd).

    Returns:
        None at the end of the file.

    Raises:
        MemberError: anything but a member begins there.
        InputError: the file cannot be read.
    """
    while head := stored.read(start, 10):
        if head.startswith(b"\0"):
            start = _behind_zeros(stored, start)
        elif compression is _ZSTD and _SKIPPABLE.match(head):
            end = start + _SKIPPABLE_HEADER + int.from_bytes(head[4:_SKIPPABLE_HEADER], "little")
            if len(head) < _SKIPPABLE_HEADER or end > stored.size:
                raise MemberError(start, "its zstd stream ends in the middle", cut=True)
            start = end
        elif compression.signature.match(head):
            return Member(stored, compression, start)
        elif compression.magic.match(head) and len(head) < compression.signature_bytes:
            raise MemberError(start, f"its {compression.name} stream ends in the middle", cut=True)
        else:
            raise MemberError(start, f"{head[:4].hex(' ')} stands where a member should begin")
    return None


def find_member(stored: Stored, compression: Compression, start: int, end: int) -> Member | None:
    """The first member that begins in [``start``, ``end``), found by its signature and verified.

    Raises:
        InputError: the file cannot be read.
    """
    overlap = compression.signature_bytes - 1
    while start < end:
        data = stored.read(start, _STORED_BYTES)
        for match in compression.signature.finditer(data):
            if start + match.start() >= end:
                return None
            try:
                return Member(stored, compression, start + match.start())
            except MemberError:
                continue
        if len(data) <= overlap:
            return None
        start += len(data) - overlap
    return None


def is_lone_bzip2(stored: Stored) -> bool:
    """Whether a bzip2 file is one stream only, as far as its first 32 MiB tell: then no slice can begin inside."""
    return find_member(stored, _BZIP2, 1, min(stored.size, _LONE_BYTES)) is None


def lone_bzip2_texts(stored: Stored) -> Iterator[bytes]:
    """Inflate a local bzip2 file of one stream, its blocks in parallel, into pieces of text.

    Raises:
        MemberError: it is corrupt or cut.
    """
    import indexed_bzip2  # 13 MB of native code that few dumps need

    # The library takes a cut between two blocks and garbage behind the stream for the end of the file.
    if not _ends_in_bzip2_footer(stored):
        raise MemberError(0, "its bzip2 stream does not end where the file ends", cut=True)
    try:
        with indexed_bzip2.open(stored.name, parallelization=os.cpu_count() or 1) as file:
            while text := file.read(TEXT_BYTES):
                stored.position = file.tell_compressed() // 8
                yield text
    except (RuntimeError, *_ERRORS) as error:
        raise MemberError(0, " ".join(str(error).split())) from error


def _ends_in_bzip2_footer(stored: Stored) -> bool:
    """Whether the last bits of the file, padding aside, are a footer: 48 bits of magic number and 32 of checksum."""
    end = stored.size
    while end and not (bare := stored.read(max(0, end - _STORED_BYTES), min(end, _STORED_BYTES)).rstrip(b"\0")):
        end = max(0, end - _STORED_BYTES)
    tail = int.from_bytes(bare[-16:], "big")
    return any((tail >> shift) & 0xFFFFFFFFFFFF == _BZIP2_FOOTER for shift in range(40))


def _behind_zeros(stored: Stored, start: int) -> int:
    while data := stored.read(start, _STORED_BYTES):
        if bare := data.lstrip(b"\0"):
            return start + len(data) - len(bare)
        start += len(data)
    return start
