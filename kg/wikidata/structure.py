r"""The compiled check that a stretch of JSON that nobody reads is whole: `is_whole`.

Qualifiers and references are half of the dump. They hold objects in objects and
lists of objects, so that of 64 bytes at once it can be told whether strings,
brackets, commas and colons stand where they may, and at the end whether all
brackets are closed. What strings say, and numbers, ``true``, ``false`` and ``null``,
are not looked at.
No type hints, as in `kg.wikidata.jsonbytes`; a mask has a bit for each byte of a block, the lowest for the first.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kg.wikidata.jsonbytes import compiled

__all__ = ["is_whole"]

_LANES = 64
_NONE, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64((1 << _LANES) - 1)
_LAST = np.uint64(_LANES - 1)
_SPREADS = tuple(np.uint64(1 << step) for step in range(6))


@intrinsic
def _masks(context: Any, data: Any, place: Any) -> Any:
    r"""Where ``"``, ``\``, ``{``, ``}``, ``[``, ``]``, ``,`` and ``:`` are among the 64 bytes from ``place`` on."""
    wanted = b'"\\{}[],:'

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), _LANES)
        lanes = builder.load(builder.bitcast(builder.gep(arguments[0], [arguments[1]]), vector.as_pointer()), align=1)
        found = [builder.icmp_unsigned("==", lanes, ir.Constant(vector, [byte] * _LANES)) for byte in wanted]
        masks = [builder.bitcast(each, ir.IntType(_LANES)) for each in found]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, len(wanted))(data, types.int64), generate


@intrinsic
def _count(context: Any, word: Any) -> Any:
    """How many bits of a uint64 are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@compiled
def is_whole(data, start, end, braces, brackets):
    """Whether snaks may stand in [start, end), from a brace on, with so many braces and brackets left open behind."""
    inside = escaped = pending = _NONE  # of the block before: within a string, before an escape, in want of a mark
    comma_before = colon_before = brace_before = bracket_before = _NONE  # the last byte of the block before
    closed_before = both_before = string_before = _NONE
    place = start
    while place < end:
        quotes, backslashes, opened, closed, list_opened, list_closed, commas, colons = _masks(data, place)
        known = _ALL if end - place >= _LANES else (_ONE << np.uint64(end - place)) - _ONE
        behind_backslash = backslashes << _ONE | escaped
        if backslashes & behind_backslash & known:
            return False  # too rare to be taken apart
        escaped = backslashes >> _LAST
        quotes &= ~behind_backslash & known
        strings = quotes  # from each first quote on up to before the last
        for step in _SPREADS:
            strings ^= strings << step
        strings ^= inside
        inside = _NONE - (strings >> _LAST)
        outside = ~strings & known
        first, last = quotes & strings, quotes & ~strings
        opened, closed, list_opened, list_closed, commas, colons = (
            opened & outside,
            closed & outside,
            list_opened & outside,
            list_closed & outside,
            commas & outside,
            colons & outside,
        )
        # Behind a comma or brace comes a name and its colon, or another brace; no colon stands elsewhere.
        marks = opened | closed | list_opened | list_closed | commas | colons
        before_name = opened | commas
        starts = before_name << _ONE | pending
        reached = starts + ~marks
        pending = before_name >> _LAST | np.uint64(reached < starts)
        reached &= marks
        wrong = (reached & ~(colons | opened)) | (colons & ~reached)
        behind_comma, behind_brace = commas << _ONE | comma_before, opened << _ONE | brace_before
        behind_bracket, behind_closed = list_opened << _ONE | bracket_before, closed << _ONE | closed_before
        behind_colon, behind_string = colons << _ONE | colon_before, last << _ONE | string_before
        wrong |= behind_brace & ~first
        behind_both = (behind_closed & commas) << _ONE | both_before
        wrong |= behind_comma & ~(first | (opened & behind_both))
        wrong |= behind_colon & marks & ~(opened | list_opened)
        wrong |= behind_bracket & ~opened
        wrong |= list_closed & ~behind_closed
        wrong |= behind_closed & ~(commas | closed | list_closed)
        wrong |= behind_string & ~(commas | colons | closed)
        wrong |= first & ~(behind_brace | behind_comma | behind_colon)
        if wrong & known:
            return False
        comma_before, colon_before, brace_before = commas >> _LAST, colons >> _LAST, opened >> _LAST
        bracket_before = list_opened >> _LAST
        closed_before, both_before = closed >> _LAST, (behind_closed & commas) >> _LAST
        string_before = last >> _LAST
        braces -= _count(opened) - _count(closed)
        brackets -= _count(list_opened) - _count(list_closed)
        place += _LANES
    return braces == 0 and brackets == 0 and not inside
