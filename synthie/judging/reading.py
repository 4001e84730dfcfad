"""What later stages ask of the judge stage's folder: whose text is faulty, and why; what the data are worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kg.stage import MANIFEST, lock_owner, read_manifest
from synthie.errors import InputError
from synthie.judging.judgements import ESTIMATES_FILE, read_judgements

__all__ = ["Fault", "estimates", "faults", "require_current", "require_judges"]


class Fault(NamedTuple):
    """One fault that a judge has found, of the shape of `synthie.quality.Reason`."""

    check: str  # contradicted | absent | extra_fact
    detail: str


def require_current(judge: Path, texts: Path) -> None:
    """Refuse judgements that are not, or not any more, those of the texts; that nobody judges is no fault.

    Args:
        judge, texts: folders of the stages.

    Raises:
        InputError: judging was begun and not finished, or the texts have changed since.
    """
    if not (judge / MANIFEST).exists():
        if lock_owner(judge) is not None:
            raise InputError(f"Judging the texts was begun and not finished: {judge / MANIFEST} is missing. {_MEND}")
        return
    judged = read_manifest(judge).inputs.get("texts")
    if judged is not None and judged != read_manifest(texts).output_hash:
        raise InputError(f"The texts in {texts} have changed since they were judged in {judge}. {_MEND}")


def require_judges(judge: Path, names: Sequence[str]) -> None:
    """Refuse judgements that lack one of the judges in ``names``.

    Raises:
        InputError: it has not judged, or judging is not finished.
    """
    if names and (missing := [name for name in names if name not in read_manifest(judge).config["judges"]]):
        raise InputError(f"judge.judges names '{missing[0]}', but that judge has not judged in {judge}. {_MEND}")


_MEND = (
    "Run 'synthie judge' with its settings again (what is answered is not asked again; earlier settings bring the "
    "earlier judgements back), or let nobody judge: synthie judge --set 'judge.judges=[]' (the answers are kept)."
)


def faults(judge: Path) -> dict[str, list[Fault]]:
    """Request key of each text that a deciding judge finds faulty -> what is wrong with it.

    Texts without a fault, and those that were not judged, are not among them. Empty where there are no judgements.
    """
    told = estimates(judge)
    found: dict[str, list[Fault]] = {}
    if told is None:
        return found
    for table in read_judgements(judge):
        for row in table.to_pylist():
            is_told = row["judge"] in told["deciding"] and row["problem"] is None
            if is_told and (of_text := list(_faults(row))):
                found.setdefault(row["request_key"], []).extend(of_text)
    return found


def estimates(judge: Path) -> dict[str, Any] | None:
    """The content of ``estimates.json``; None where nothing was judged."""
    try:
        return json.loads((judge / ESTIMATES_FILE).read_bytes())
    except FileNotFoundError:
        return None


def _faults(row: dict[str, Any]) -> Iterator[Fault]:
    for number, triplet in enumerate(row["triplets"], 1):
        if triplet["verdict"] != "stated":
            what = "is contradicted" if triplet["verdict"] == "contradicted" else "is not stated"
            detail = f"Triplet {number} ({triplet['words']}) {what}, says the judge '{row['judge']}'."
            yield Fault(triplet["verdict"], detail)
    for extra in row["extras"] or ():
        yield Fault("extra_fact", f"'{extra}' is in no triplet, says the judge '{row['judge']}'.")
