"""From the bytes of a dump to its lines.

A Wikidata dump is a JSON array with one document a line, plain or compressed.
`Dump` reads it as a stream from a path or an fsspec URL, recognises the
compression by the first bytes (never by the file's name) and yields each
document's line with its offset in the decompressed stream. Brackets and commas
may be there or not; what may not happen is that a truncated or corrupt stream
passes for a whole one, so every end is checked.
"""

from __future__ import annotations

import bz2
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import zstandard
from isal import igzip_lib, isal_zlib

from kg.errors import InputError
from kg.stage import file_digest

__all__ = ["Dump", "dump_digest"]

_READ_BYTES = 1 << 18  # of the stored file; JSON inflates about 15-fold, so one block stays at a few MiB
_LINE_LIMIT = 1 << 28  # the longest lines of Wikidata's dumps have a few MiB
_ZSTD_WINDOW = 1 << 31  # archives packed with --long have windows above the library's default limit
_SPACE = b" \t\r\n\x0b\x0c"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FRAME = b"[]," + _SPACE + _BYTE_ORDER_MARK  # what may stand around a document in its line


class _Format(NamedTuple):
    """A compression: name, first bytes, and a maker of objects with ``decompress``, ``eof`` and ``unused_data``."""

    name: str
    signatures: tuple[bytes, ...]
    decompressor: Callable[[], Any]


_SIGNATURE_BYTES = 4
_ZSTD_SIGNATURES = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))
_FORMATS = (
    _Format("gzip", (b"\x1f\x8b",), lambda: isal_zlib.decompressobj(wbits=31)),
    _Format("bzip2", (b"BZh",), bz2.BZ2Decompressor),
    _Format("zstd", _ZSTD_SIGNATURES, lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()),
)
_DECOMPRESSION_ERRORS: tuple[Any, ...] = (
    igzip_lib.IsalError,
    zstandard.ZstdError,
    OSError,
    EOFError,
    ValueError,
)

# First bytes of what is handed in by mistake -> what to call it.
_IMPOSTORS = {
    b"\xfd7zXZ": "an xz archive; unpack it, or pack it with gzip, bzip2 or zstd",
    b"PK\x03\x04": "a zip archive; unpack it, or pack it with gzip, bzip2 or zstd",
    b"7z\xbc\xaf": "a 7z archive; unpack it, or pack it with gzip, bzip2 or zstd",
    b"\x1f\x8b": "a gzip stream inside another compressed stream; unpack it once",
    b"BZh": "a bzip2 stream inside another compressed stream; unpack it once",
    b"\x28\xb5\x2f\xfd": "a zstd stream inside another compressed stream; unpack it once",
    b"PAR1": "a Parquet file; give the JSON dump",
    b"<http": "an RDF file in N-Triples; give the JSON dump",
    b"<": "an HTML or XML page, perhaps a download that failed; fetch the JSON dump again",
    b"@prefix": "an RDF file in Turtle; give the JSON dump",
    b"@base": "an RDF file in Turtle; give the JSON dump",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file it points to",
}


class Dump:
    """A dump file, read as a stream; memory is bounded by the longest line.

    Attributes:
        path: where the dump is, as configured.
        size: bytes of the stored file, or None before reading or if the storage does not tell.
        position: bytes of the stored file read so far.
        start: the first bytes of the decompressed stream, for messages.
        closed: False if, as far as read, a JSON array was opened and not closed: a dump that somebody cut.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size: int | None = None
        self.position = 0
        self.start = b""
        self.closed = True

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the decompressed stream, line) for every line that is more than a bracket.

        White space, commas and brackets around the document are removed; the
        offset is that of the first byte that is left.

        Raises:
            InputError: the file is missing, unreadable, empty, truncated, corrupt or of another kind.
        """
        opened: bool | None = None
        for offset, line, ended in self._raw_lines():
            bare = line.strip(_SPACE)
            if not bare:
                continue
            if opened is None:
                bare = bare.removeprefix(_BYTE_ORDER_MARK)
                opened = bare.startswith(b"[")
            self.closed = not opened or bare.endswith(b"]")
            content = line.strip(_FRAME)
            if not content:
                continue
            if not ended and content.startswith(b"{") and not _is_json(content):
                raise InputError(
                    f"{self.path} is truncated: it ends in the middle of the document at offset {offset} of the "
                    "decompressed stream. Fetch the file again."
                )
            yield offset + len(line) - len(line.lstrip(_FRAME)), content

    def _raw_lines(self) -> Iterator[tuple[int, bytes, bool]]:
        """Every line with its offset, and whether a line feed ends it."""
        offset, rest = 0, b""
        for block in self._blocks():
            if not self.start:
                self._check_start(block)
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield offset, line, True
                offset += len(line) + 1
            if len(rest) > _LINE_LIMIT:
                raise InputError(
                    f"{self.path} has a line of more than {_LINE_LIMIT >> 20} MiB at offset {offset} of the "
                    "decompressed stream. A Wikidata JSON dump has one document a line; rewrite the file in that form."
                )
        yield offset, rest, False

    def _check_start(self, block: bytes) -> None:
        self.start = block.removeprefix(_BYTE_ORDER_MARK).lstrip(_SPACE)[:80]
        for signature, kind in _IMPOSTORS.items():
            if self.start.startswith(signature):
                raise InputError(
                    f"{self.path} is not a Wikidata JSON dump: at offset 0 it begins with "
                    f"{self.start[:40].decode('utf-8', 'backslashreplace')!r}, so it looks like {kind}."
                )

    def _blocks(self) -> Iterator[bytes]:
        """The decompressed stream in blocks, none of them empty."""
        with self._opened() as file:
            data = self._read(file)
            if not data:
                raise InputError(f"{self.path} is empty (0 bytes). Fetch or write the dump again.")
            compression = next((kind for kind in _FORMATS if data.startswith(kind.signatures)), None)
            if compression is not None:
                yield from self._decompressed(file, data, compression)
                return
            while data:
                yield data
                data = self._read(file)

    def _decompressed(self, file: IO[bytes], data: bytes, compression: _Format) -> Iterator[bytes]:
        """Decompress member after member; ``data`` is what has been read already."""
        produced = 0
        while data := self._next_member(file, data, compression, produced):
            decompressor = compression.decompressor()
            while not decompressor.eof:
                if not data:
                    raise InputError(
                        f"{self.path} is truncated: its {compression.name} stream ends in the middle, at byte "
                        f"{self.position} of the file (offset {produced} of the decompressed stream). "
                        "Fetch the file again."
                    )
                try:
                    block = decompressor.decompress(data)
                except _DECOMPRESSION_ERRORS as error:
                    raise self._corrupt(compression, produced, self.position - len(data), str(error)) from error
                if block:
                    yield block
                produced += len(block)
                data = b"" if decompressor.eof else self._read(file)
            data = decompressor.unused_data

    def _next_member(self, file: IO[bytes], data: bytes, compression: _Format, produced: int) -> bytes:
        """The data from the next member on; empty at the end of the file. Members may be padded with zero bytes."""
        data = data.lstrip(b"\0")
        while len(data) < _SIGNATURE_BYTES and (more := self._read(file)):
            data = (data + more).lstrip(b"\0")
        if data and not data.startswith(compression.signatures):
            found = f"{data[:_SIGNATURE_BYTES].hex(' ')} stands where the next member should begin"
            raise self._corrupt(compression, produced, self.position - len(data), found)
        return data

    def _corrupt(self, compression: _Format, produced: int, position: int, found: str) -> InputError:
        return InputError(
            f"{self.path} is corrupt: its {compression.name} stream cannot be decompressed after byte {position} of "
            f"the file (offset {produced} of the decompressed stream): {found}. Fetch the file again."
        )

    def _read(self, file: IO[bytes]) -> bytes:
        # fsspec's file systems raise errors of their many own libraries; whatever it is, the dump cannot be read.
        try:
            data = file.read(_READ_BYTES)
        except Exception as error:
            raise InputError(
                f"Cannot read {self.path} after byte {self.position}: {_reason(error)}. "
                "Check the disk or the connection and run again."
            ) from error
        self.position += len(data)
        return data

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        self.position = 0
        if not _is_url(self.path):
            try:
                self.size = Path(self.path).stat().st_size
                file = Path(self.path).open("rb")  # noqa: SIM115
            except OSError as error:
                raise _cannot_open(self.path, error) from error
        else:
            filesystem, name = _filesystem(self.path)
            try:
                self.size = filesystem.info(name).get("size")
                file = filesystem.open(name, "rb")
            except Exception as error:
                raise _cannot_open(self.path, error) from error
        with file:
            yield file


def dump_digest(path: str) -> str:
    """Digest of a dump for the stage's fingerprint.

    A local file is digested by content (`kg.stage.file_digest`), a remote one by
    what its storage tells without reading it: size, entity tag and times.

    Raises:
        InputError: the file does not exist or cannot be reached.
    """
    if not _is_url(path):
        if Path(path).is_dir():
            raise _cannot_open(path, IsADirectoryError(21, "Is a directory"))
        try:
            return file_digest(Path(path))
        except InputError as error:
            raise _cannot_open(path, error.__cause__ or error) from error
    filesystem, name = _filesystem(path)
    try:
        information = filesystem.info(name)
    except Exception as error:
        raise _cannot_open(path, error) from error
    known = {
        key: str(information[key])
        for key in ("size", "ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "created")
        if information.get(key) is not None
    }
    return "info-sha256:" + hashlib.sha256(json.dumps([path, known], sort_keys=True).encode()).hexdigest()


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _is_url(path: str) -> bool:
    return "://" in path


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except Exception as error:
        raise _cannot_open(url, error) from error


def _cannot_open(path: str, error: BaseException) -> InputError:
    return InputError(
        f"Cannot open the dump {path}: {_reason(error)}. Set 'kg.dump' to an existing Wikidata JSON dump: "
        "a path or a URL that fsspec can read."
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ").rstrip(".")
