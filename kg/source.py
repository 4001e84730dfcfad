"""From the source in the configuration to the stored bytes of its files.

A source is a file, a folder, a glob or an fsspec URL of one of these.
`list_files` names its files in natural order, `Stored` reads one file at any
offset, and `dump_digest` tells when the content has changed. Whatever a disk or
one of fsspec's many libraries raises becomes an `InputError` here.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from kg.errors import InputError
from kg.stage import file_digest

__all__ = ["Stored", "dump_digest", "is_url", "list_files"]

_WINDOW_BYTES = 1 << 18
_TOLD = ("size", "ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "Last-Modified", "created")


class Stored:
    """The stored bytes of one file, read at any offset; close it or use it as a context manager.

    Args:
        name: path or fsspec URL of a file.
        start, end: the range that will be read. A web server need not answer range requests if it is the whole file.

    Attributes:
        name: as given.
        size: bytes of the file.
        position: stored bytes behind the last that were read.

    Raises:
        InputError: the file cannot be opened, or the storage does not tell its size.
    """

    def __init__(self, name: str, start: int = 0, end: int | None = None) -> None:
        self.name = name
        self.position = start
        self._filesystem: Any = None
        self._forward = False
        self._window, self._window_start = b"", 0
        if is_url(name):
            self._filesystem, self._path = _filesystem(name)
            self.size = _told_size(self._filesystem, self._path, name)
            web = not {"http", "https"}.isdisjoint(_protocols(self._filesystem))
            self._forward = web and start == 0 and (end is None or end >= self.size)
        else:
            try:
                self.size = Path(name).stat().st_size
            except OSError as error:
                raise _cannot_open(name, error) from error
        self._open()

    def read(self, offset: int, length: int) -> bytes:
        """The stored bytes from ``offset`` on: ``length`` of them, fewer only at the end of the file.

        Raises:
            InputError: the disk or the connection fails, or the file ends before its size.
        """
        self.position = min(offset + length, self.size)
        begin = offset - self._window_start
        if begin >= 0 and begin + length <= len(self._window):
            return self._window[begin : begin + length]
        self._window = self._window[begin:] if 0 <= begin <= len(self._window) else b""
        self._window_start = offset
        if len(self._window) < length and offset + len(self._window) < self.size:
            self._fill(max(length, _WINDOW_BYTES))
        return self._window[:length]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Stored:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, length: int) -> None:
        """Read on behind the window until it holds ``length`` bytes or the file ends."""
        parts = [self._window] if self._window else []
        behind = self._window_start + len(self._window)
        wanted = min(self._window_start + length, self.size)
        try:
            self._move(behind)
            while behind < wanted:
                data = self._file.read(wanted - behind)
                if not data:
                    break
                parts.append(data)
                behind = self._at = behind + len(data)
        except Exception as error:
            raise self._unreadable(behind, _reason(error)) from error
        if behind < wanted:
            raise self._unreadable(behind, f"it ends there, though its size is {self.size} bytes")
        self._window = b"".join(parts)

    def _move(self, offset: int) -> None:
        if not self._forward:
            self._file.seek(offset)
            return
        if offset < self._at:
            self.close()
            self._open()
        while self._at < offset and (data := self._file.read(min(_WINDOW_BYTES, offset - self._at))):
            self._at += len(data)

    def _open(self) -> None:
        self._at = self._window_start = 0
        self._window = b""
        try:
            if self._filesystem is None:
                self._file: Any = Path(self.name).open("rb")  # noqa: SIM115
            else:
                # With a block size of 0, fsspec reads a web page as a stream instead of by ranges.
                self._file = self._filesystem.open(self._path, "rb", **({"block_size": 0} if self._forward else {}))
        except Exception as error:
            raise _cannot_open(self.name, error) from error

    def _unreadable(self, byte: int, reason: str) -> InputError:
        return InputError(
            f"Cannot read {self.name} after byte {byte}: {reason}. Check the disk or the connection and run again."
        )


def list_files(source: str) -> list[str]:
    """The files of a source in natural order of their names (part-2 before part-10).

    A folder stands for the files that lie directly in it; hidden ones are left out.

    Raises:
        InputError: nothing is there, or it cannot be reached.
    """
    names = _remote_files(source) if is_url(source) else _local_files(source)
    if not names:
        raise InputError(
            f"There is no dump file in {source}: the folder or glob names no file that is not hidden. "
            "Set 'kg.dump' to where the files of the dump are."
        )
    return sorted(names, key=_natural)


def dump_digest(source: str) -> str:
    """Digest of a source for the stage's fingerprint.

    A local file is digested by content (`kg.stage.file_digest`), a large one also by
    the time of its last change, a remote one by what its storage tells without
    reading it: size, entity tag and times. A folder or glob is digested by the
    relative names and the digests of its files.

    Raises:
        InputError: the source does not exist or cannot be reached.
    """
    names = list_files(source)
    if names == [source]:
        return _file_digest(source)
    paths = [name.split("/") for name in names]
    levels = enumerate(zip(*paths, strict=False))
    shared = next((depth for depth, level in levels if len(set(level)) > 1), len(paths[0]) - 1)
    digests = [["/".join(path[shared:]), _file_digest(name)] for path, name in zip(paths, names, strict=True)]
    return "files-sha256:" + hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def is_url(name: str) -> bool:
    """Whether ``name`` goes through fsspec."""
    return "://" in name


def _local_files(source: str) -> list[str]:
    path = Path(source)
    try:
        if path.is_dir():
            return [str(file) for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        if not path.exists() and glob.has_magic(source):
            return [name for name in glob.glob(source, recursive=True) if Path(name).is_file()]  # noqa: PTH207
        path.stat()
    except OSError as error:
        raise _cannot_open(source, error) from error
    return [source]


def _remote_files(source: str) -> list[str]:
    filesystem, path = _filesystem(source)
    try:
        # A URL may hold a question mark that is no glob, so it is first taken as it stands.
        if filesystem.exists(path) or not glob.has_magic(path):
            if not source.endswith("/") and filesystem.info(path)["type"] != "directory":
                return [source]
            found = filesystem.ls(path, detail=True)
        else:
            found = [filesystem.info(name) for name in filesystem.glob(path)]
        names = [str(entry["name"]) for entry in found if entry["type"] == "file"]
        return [filesystem.unstrip_protocol(name) for name in names if not name.rsplit("/", 1)[-1].startswith(".")]
    except Exception as error:
        raise _cannot_open(source, error) from error


def _natural(name: str) -> tuple[list[str | int], str]:
    pieces = re.split(r"(\d+)", name)
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)], name


def _file_digest(name: str) -> str:
    if not is_url(name):
        try:
            digest = file_digest(Path(name))
        except InputError as error:
            raise _cannot_open(name, error.__cause__ or error) from error
        # Of a large file only samples are digested; a mended copy of the same size has at least another time.
        return digest if digest.startswith("sha256:") else f"{digest}@{Path(name).stat().st_mtime_ns}"
    filesystem, path = _filesystem(name)
    try:
        information = filesystem.info(path)
    except Exception as error:
        raise _cannot_open(name, error) from error
    known = {key: str(information[key]) for key in _TOLD if information.get(key) is not None}
    return "info-sha256:" + hashlib.sha256(json.dumps([name, known], sort_keys=True).encode()).hexdigest()


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except Exception as error:
        raise _cannot_open(url, error) from error


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _told_size(filesystem: Any, path: str, url: str) -> int:
    try:
        size = filesystem.info(path).get("size")
    except Exception as error:
        raise _cannot_open(url, error) from error
    if size is None:
        raise InputError(
            f"Cannot read {url}: its storage does not tell the size of the file, so nobody would notice if it were "
            "cut short. Download the file and set 'kg.dump' to the local copy."
        )
    return int(size)


def _cannot_open(name: str, error: BaseException) -> InputError:
    return InputError(
        f"Cannot open the dump {name}: {_reason(error)}. Set 'kg.dump' to an existing Wikidata JSON dump or RDF file: "
        "a path or a URL that fsspec can read."
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ").rstrip(".")
