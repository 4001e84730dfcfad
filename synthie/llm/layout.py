"""The files of a journal's folder: which of them count.

``000001-000007-1a2b3c4d.parquet`` is the archive of the segments 1 to 7, with
the checksum of its footer (see `synthie.llm.archive`); segments with higher
numbers, ``000008.journal`` and so on, follow it. An archive comes into being by one rename: from then on it stands
for its segments and for every earlier archive, which are stale wherever a crash
has kept them from being removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from synthie.errors import StorageError
from synthie.llm.segments import sync_folder

__all__ = ["Layout", "archive_path", "read_layout", "remove_stale", "segment_path"]

_ARCHIVE_NAME = re.compile(r"000001-(\d{6,})-([0-9a-f]{8})\.parquet")
_TEMPORARY = ".*.parquet.tmp"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files that count, and those that do not.

    Attributes:
        archive: the archive, if there is one.
        checksum: of the archive's footer.
        archived: number of the last segment in the archive; 0 without one.
        segments: the segments ``archived + 1``, ``archived + 2`` and so on.
        stale: files that the archive stands for, and unfinished archives.
    """

    archive: Path | None
    checksum: int
    archived: int
    segments: list[Path]
    stale: list[Path]


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.journal"


def archive_path(folder: Path, last: int, checksum: int) -> Path:
    return folder / f"000001-{last:06d}-{checksum:08x}.parquet"


def read_layout(folder: Path) -> Layout:
    """Sort out the files of a journal.

    Raises:
        StorageError: a segment is missing.
    """
    # The segments first: of those that a compaction removes meanwhile, the archive is there already.
    numbered = sorted(folder.glob("*.journal"))
    names = (_ARCHIVE_NAME.fullmatch(path.name) for path in folder.iterdir())
    archives = sorted((int(name[1]), int(name[2], 16), folder / name[0]) for name in names if name)
    archived, checksum, archive = archives.pop() if archives else (0, 0, None)
    stale = [*(path for _, _, path in archives), *folder.glob(_TEMPORARY)]
    segments: list[Path] = []
    for path in numbered:
        if path.stem.isdecimal() and int(path.stem) <= archived:
            stale.append(path)
            continue
        expected = segment_path(folder, archived + len(segments) + 1)
        if path != expected:
            raise StorageError(
                f"The journal lacks the segment {expected.name} but has {path.name}. Put the missing file back from "
                "a copy, or rename the later ones so that the numbers have no gap."
            )
        segments.append(path)
    return Layout(archive, checksum, archived, segments, stale)


def remove_stale(layout: Layout) -> None:
    """Finish what a compaction has left to do; for the folder's only writer."""
    if layout.stale:
        sync_folder(layout.stale[0].parent)  # the new archive's name first: a power cut must not leave neither
    for path in layout.stale:
        path.unlink(missing_ok=True)
