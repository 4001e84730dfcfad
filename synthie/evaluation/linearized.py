"""Reading the linearized strings of the original's prediction files the way its code reads them.

Fully expanded: the string is split at the markers, empty parts are dropped, and what is left is taken three by
three. Subject-collapsed: it is split at the end marker first; of each piece the first part is the subject, the rest
is taken two by two. What is left over at an end is dropped. Well-formed strings read as everybody would; malformed
ones must be misread in the same way, or scores differ in the last digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from synthie.evaluation.triplets import Key

__all__ = ["FORMS", "Form", "guess_form", "read_linearized"]

Form = Literal["fully_expanded", "fully_expanded_et", "subject_collapsed"]
FORMS: tuple[Form, ...] = get_args(Form)
_PARTS = re.compile(r"\[s\]|\[r\]|\[o\]")
_END: dict[Form, str] = {"fully_expanded": "[e]", "fully_expanded_et": "[et]", "subject_collapsed": "[e]"}


def guess_form(targets: Iterable[str]) -> Form:
    """The form in which gold targets are written; both read alike where no subject is collapsed.

    >>> guess_form(["[s] Ulm [r] country [o] Germany [r] located in [o] Swabia [e]"])
    'subject_collapsed'
    """
    for target in targets:
        if "[et]" in target:
            return "fully_expanded_et"
        if any(piece.count("[r]") > 1 for piece in target.split("[e]")):
            return "subject_collapsed"
    return "fully_expanded"


def read_linearized(text: str, form: Form) -> list[Key]:
    """The triplets of names, each once, in order.

    >>> read_linearized("[s] Ulm [r] country [o] Germany [e] [s] Ulm [r] loc", "fully_expanded")
    [('Ulm', 'country', 'Germany')]
    """
    pieces = text.split(_END[form])
    if form == "subject_collapsed":
        triplets = []
        for subject, *rest in filter(None, map(_parts, pieces)):
            triplets += [(subject, relation, target) for relation, target in zip(rest[::2], rest[1::2], strict=False)]
    else:
        parts = [part for piece in pieces for part in _parts(piece)]
        triplets = list(zip(parts[::3], parts[1::3], parts[2::3], strict=False))
    return list(dict.fromkeys(triplets))


def _parts(piece: str) -> list[str]:
    return [part.strip() for part in _PARTS.split(piece) if part.strip()]
