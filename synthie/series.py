"""A series of runs on one graph: each adds sets, texts and records to what the earlier ones have made.

A series is a folder of runs, ``0001``, ``0002`` and so on, beside the graph, ``kg``, which they share. Each run
continues the last one's coverage (`sampling.continue_from`) and data set (`dataset.continue_from`), has a journal of
its own, and may spend ``max_usd`` anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from kg.stage import MANIFEST
from synthie.config import RunConfig
from synthie.errors import StorageError

__all__ = ["next_run"]

_RUN = re.compile(r"\d{4,}")


def next_run(config: RunConfig, until: str) -> RunConfig:
    """The configuration of the run in the series ``config.run`` that is next: the last one if it is unfinished.

    Args:
        config: of the series; ``run`` is its folder.
        until: name of the stage that a finished run has done.

    Raises:
        StorageError: the folder cannot be written.
    """
    series = Path(config.run)
    try:
        (series / "kg").mkdir(parents=True, exist_ok=True)
        numbers = sorted(int(folder.name) for folder in series.iterdir() if _RUN.fullmatch(folder.name))
        number = numbers[-1] if numbers else 1
        if (_folder(series, number) / until / MANIFEST).exists():
            number += 1
        folder = _folder(series, number)
        folder.mkdir(exist_ok=True)
        if not (folder / "kg").exists():
            (folder / "kg").symlink_to("../kg")
    except OSError as error:
        raise StorageError(f"Cannot make a run in {series}: {error.strerror}. Choose another folder.") from error
    return config.model_copy(update={"run": str(folder), **_continued(config, _folder(series, number - 1))})


def _folder(series: Path, number: int) -> Path:
    return series / f"{number:04}"


def _continued(config: RunConfig, earlier: Path) -> dict[str, object]:
    """The sections that name what the earlier run has made."""
    sections: dict[str, object] = {}
    if (earlier / "sets" / MANIFEST).exists():
        sections["sampling"] = config.sampling.model_copy(update={"continue_from": str(earlier / "sets")})
    if (earlier / "dataset" / MANIFEST).exists():
        sections["dataset"] = config.dataset.model_copy(update={"continue_from": str(earlier / "dataset")})
    return sections
