"""Every error that the project raises on purpose.

One small hierarchy, shared by all rooms. The message is a paragraph for the
person who runs the stage: what was expected, what was found, where, and what
to do about it. The command line prints it and exits with ``exit_code``; a flow
fails with it. Errors of libraries are turned into these at the boundary where
the library is called.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["BusyError", "ConfigError", "InputError", "StorageError", "SynthieError", "storage_error"]


class SynthieError(Exception):
    """Base class; ``except SynthieError`` catches whatever a user can mend."""

    exit_code = 1


class ConfigError(SynthieError):
    """A setting is unknown, malformed or contradicts another one."""

    exit_code = 2


class InputError(SynthieError):
    """A file or value handed in cannot be used: missing, truncated, not what it says it is."""


class StorageError(SynthieError):
    """The place where results go refuses them: full, read-only, not a folder."""


class BusyError(SynthieError):
    """Another process is working in the same folder."""


_MENDS = {
    errno.ENOSPC: "The disk is full. Free some space and run the same command again; finished work is kept.",
    errno.EDQUOT: "The disk quota is used up. Free some space and run the same command again; finished work is kept.",
    errno.EACCES: "The folder cannot be written. Give yourself the right to write there or choose another run folder.",
    errno.EPERM: "The folder cannot be written. Give yourself the right to write there or choose another run folder.",
    errno.EROFS: "The file system is read-only. Choose another run folder.",
    errno.EFBIG: "The file would exceed the size limit of the file system or of this process (ulimit -f). Raise the "
    "limit or choose another run folder, and run the same command again; finished work is kept.",
    errno.EIO: "The storage reports a fault. Check it or choose another run folder.",
    errno.ENAMETOOLONG: "The path is too long. Choose another run folder.",
    errno.ENOTDIR: "A part of the path is a file, not a folder. Choose another run folder.",
    errno.EEXIST: "A file stands where a folder is needed. Move it away or choose another run folder.",
}


def storage_error(error: OSError, folder: Path) -> StorageError | None:
    """Turn a failed write under ``folder`` into a `StorageError`, or None if ``error`` is of another kind."""
    mend = _MENDS.get(error.errno or 0)
    if mend is None:
        return None
    # Not error.strerror: Arrow puts a sentence of its own there.
    return StorageError(f"Cannot write {error.filename or folder}: {os.strerror(error.errno or 0)}. {mend}")
