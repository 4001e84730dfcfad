"""What an interrupted run continues from, and the best weights so far.

Each is written beside its place and moved there by a rename, and what it replaces goes only then, so a run killed
at any moment leaves a whole checkpoint and the best weights that belong to it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from synthie.extractor.curve import Curve

__all__ = ["best_weights", "fresh", "keep_weights", "resume", "save_checkpoint"]


def resume(work: Path, accelerator: Accelerator) -> Curve:
    """Load the latest checkpoint, if there is one: weights, optimiser, random streams, curve."""
    checkpoints = sorted((work / "checkpoints").glob("[0-9]*"))
    if not checkpoints:
        return Curve()
    accelerator.load_state(str(checkpoints[-1]))
    return Curve.read(checkpoints[-1] / "curve.json")


def save_checkpoint(work: Path, curve: Curve, best_step: int, accelerator: Accelerator) -> None:
    """Save what `resume` needs; older checkpoints and weights go once the new ones stand."""
    temporary, final = work / "checkpoints" / "new", work / "checkpoints" / f"{curve.step:08d}"
    if accelerator.is_main_process:
        fresh(temporary)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        curve.write(temporary / "curve.json")
        _move(temporary, final)
        for kept in (final, best_weights(work, best_step)):
            for other in set(kept.parent.glob("*")) - {kept}:
                shutil.rmtree(other)


def keep_weights(work: Path, step: int, model: Any, accelerator: Accelerator) -> None:
    """Keep the weights of ``step`` as the best, beside older ones until the next checkpoint."""
    if accelerator.is_main_process:
        temporary = fresh(work / "best" / "new")
        model.save_pretrained(temporary)
        _move(temporary, best_weights(work, step))


def best_weights(work: Path, step: int) -> Path:
    """Folder of the weights that were the best at ``step``."""
    return work / "best" / f"{step:08d}"


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _move(temporary: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
