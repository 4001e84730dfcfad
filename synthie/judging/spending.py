"""One budget for two stages: what the texts and the judging of a run may still cost.

Each counts its own journal against ``max_usd`` less what the other's holds. Journals are opened, not merely read, so
that what was in flight when a process died is counted, and a stage at work is not overlooked: it is a `BusyError`.
"""

from __future__ import annotations

from pathlib import Path

from synthie.llm.journal import Journal

__all__ = ["left_for_judging", "left_for_texts"]


def left_for_texts(max_usd: float, judge: Path) -> float:
    """US dollars that the texts may cost in all, beside the judging in the folder ``judge``.

    Raises:
        BusyError: another process is judging.
    """
    return max(0.0, max_usd - _spent(judge / "journal"))


def left_for_judging(max_usd: float, texts: Path) -> float:
    """US dollars that judging may cost in all, beside the texts in the folder ``texts``.

    Raises:
        BusyError: another process is asking for texts.
    """
    return max(0.0, max_usd - _spent(texts / "journal"))


def _spent(path: Path) -> float:
    if not path.exists():
        return 0.0
    with Journal(path) as journal:
        return journal.spent_usd
