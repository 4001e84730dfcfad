"""Filters: from the page's address to the rows that they leave, and how many each further choice would.

All is computed on the index's arrays; only a search reads texts, of the rows that the other filters leave.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthie.browse.index import CATEGORIES, Index, Library, Names
from synthie.browse.verdicts import HandVerdict
from synthie.errors import InputError

__all__ = ["SORTS", "Filters", "Selection", "select", "style_values", "whole_number"]

SORTS = {"id": "id", "words": "words", "triplets": "triplets", "cost": "usd", "reasons": "faults"}
VERDICTS = ("accepted", "rejected")
_OF_VERDICTS = ("verdict", "hand", "reason", "judge")
HANDS = ("judged", "open", "accept", "reject", "against")
_MOST = 10**9
_LONGEST_SEARCH = 200


@dataclass(frozen=True)
class Filters:
    """What the reader wants to see; fields are the names of the address's parameters.

    Attributes:
        relation: ids that a text's triplets must all have.
        verdict: of the checks: "accepted", "rejected", or "" for both.
        hand: "judged" or "open" (not judged), "accept", "reject", "against" (other than the checks), or "".
        reason: check that a text has failed.
        judge: "faulty" for the texts that a judge finds faulty, or "".
        words, triplets: (least, most).
        prompt, model, split: exact.
        style: one "axis: value" of the style.
        search: words that the text contains, in any case; "#12" is the set with this id.
        sample: so many of what is left are drawn; 0 for all.
        seed: of the draw.
        sort: one of `SORTS`, with "-" in front for the greatest first.
    """

    relation: tuple[str, ...] = ()
    verdict: str = ""
    hand: str = ""
    reason: str = ""
    judge: str = ""
    words: tuple[int, int] = (0, _MOST)
    triplets: tuple[int, int] = (0, _MOST)
    prompt: str = ""
    model: str = ""
    split: str = ""
    style: str = ""
    search: str = ""
    sample: int = 0
    seed: int = 0
    sort: str = "id"

    @classmethod
    def from_query(cls, query: Any) -> Filters:
        """Build from the parameters of an address (a multi-mapping as Starlette's).

        Raises:
            InputError: a value is none of those that the parameter may have.
        """

        def choice(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
            value = query.get(name, "")
            if value and value.removeprefix("-" if name == "sort" else "") not in known:
                raise InputError(f"{name} is {value!r}; choose one of {', '.join(known)}.")
            return value

        return cls(
            relation=tuple(dict.fromkeys(filter(None, query.getlist("relation")))),
            verdict=choice("verdict", VERDICTS),
            hand=choice("hand", HANDS),
            reason=query.get("reason", ""),
            judge=choice("judge", ("faulty",)),
            words=(whole_number(query, "min_words", 0), whole_number(query, "max_words", _MOST)),
            triplets=(whole_number(query, "min_triplets", 0), whole_number(query, "max_triplets", _MOST)),
            prompt=query.get("prompt", ""),
            model=query.get("model", ""),
            split=query.get("split", ""),
            style=query.get("style", ""),
            search=query.get("search", "").strip()[:_LONGEST_SEARCH],
            sample=whole_number(query, "sample", 0),
            seed=whole_number(query, "seed", 0),
            sort=choice("sort", SORTS) or "id",
        )


@dataclass(frozen=True)
class Selection:
    """What the filters leave.

    Attributes:
        rows: row numbers, in the order to show them.
        matched: bool, an item a row of the index; as ``rows``, but before a sample is drawn.
        population: the same without the filters that look at verdicts, for rates of acceptance.
        facets: filter -> value -> how many rows would be left if the filter had this value, all others as they are.
    """

    rows: np.ndarray
    matched: np.ndarray
    population: np.ndarray
    facets: dict[str, dict[str, int]]


def select(
    library: Library,
    index: Index,
    filters: Filters,
    hand: Mapping[str, HandVerdict],
    faulty: Collection[str] = (),
) -> Selection:
    """Apply the filters.

    Args:
        library, index: the records.
        filters: what the reader wants to see.
        hand: request key -> the verdict given by hand.
        faulty: request keys of the texts that a judge finds faulty.

    Raises:
        StaleRowsError: a file has changed while its texts were searched.
    """
    names = library.names
    masks = _masks(index, names, filters, hand, faulty)
    if filters.search and not filters.search.startswith("#"):
        # Each facet leaves a filter out, so that the search must cover what any of them may show.
        wide = _all(masks, index.rows, *_OF_VERDICTS)
        for left_out in masks:
            wide = wide | _all(masks, index.rows, left_out)
        masks["search"] = library.texts_with(index, filters.search, wide)
    matched = _all(masks, index.rows)
    facets: dict[str, dict[str, int]] = {}
    for name, count in _FACETS.items():
        # Relations are added one to the other, so that theirs count what is left with the ones that are chosen.
        rows = matched if name == "relation" else _all(masks, index.rows, name)
        facets[name] = {value: number for value, number in count(index, names, rows).items() if number}
    facets["hand"] = _hand_facet(index, hand, _all(masks, index.rows, "hand"))
    facets["judge"] = {"faulty": int(np.count_nonzero(_marked(index, faulty) & _all(masks, index.rows, "judge")))}
    population = _all(masks, index.rows, *_OF_VERDICTS)
    return Selection(_ordered(index, matched, filters), matched, population, facets)


def whole_number(query: Any, name: str, default: int) -> int:
    """A parameter of an address.

    Raises:
        InputError: it is none.
    """
    value = query.get(name) or str(default)
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise InputError(f"{name} is {value!r}, which is no whole number.")
    return int(value)


def style_values(style: str) -> list[str]:
    """The "axis: value" of a record's style."""
    return [value for value in style.split(", ") if value]


def _masks(
    index: Index, names: Names, filters: Filters, hand: Mapping[str, HandVerdict], faulty: Collection[str]
) -> dict[str, np.ndarray]:
    """Filter -> bool, an item a row, for those that are set."""
    columns, masks = index.columns, {}
    if filters.relation:
        numbers = [names.relations.number(uri) for uri in filters.relation]
        masks["relation"] = np.logical_and.reduce([index.relations.having(number) for number in numbers])
    if filters.verdict:
        masks["verdict"] = columns["accepted"] == (filters.verdict == "accepted")
    if filters.hand:
        masks["hand"] = _by_hand(index, hand)[filters.hand]
    if filters.reason:
        masks["reason"] = index.checks.having(names.checks.number(filters.reason))
    if filters.judge:
        masks["judge"] = _marked(index, faulty)
    for name in ("words", "triplets"):
        values, (least, most) = columns[name], getattr(filters, name)
        if (least, most) != (0, _MOST):
            masks[name] = (values >= least) & (values <= most)
    for name in ("prompt", "model", "split"):
        if value := getattr(filters, name):
            masks[name] = columns[name] == names.categories[name].number(value)
    if filters.style:
        styles = enumerate(names.categories["style"].names)
        having = [code for code, style in styles if filters.style in style_values(style)]
        masks["style"] = np.isin(columns["style"], having)
    if filters.search.startswith("#"):
        wanted = filters.search[1:]
        masks["search"] = columns["id"] == (int(wanted) if wanted.isascii() and wanted.isdigit() else -1)
    return masks


def _all(masks: Mapping[str, np.ndarray], rows: int, *left_out: str) -> np.ndarray:
    chosen = [mask for name, mask in masks.items() if name not in left_out]
    return np.logical_and.reduce(chosen) if chosen else np.ones(rows, bool)


def _by_hand(index: Index, hand: Mapping[str, HandVerdict]) -> dict[str, np.ndarray]:
    accept, reject = (
        _marked(index, [key for key, verdict in hand.items() if verdict.verdict == word])
        for word in ("accept", "reject")
    )
    accepted = index.columns["accepted"]
    return {
        "judged": accept | reject,
        "open": ~(accept | reject),
        "accept": accept,
        "reject": reject,
        "against": (accept & ~accepted) | (reject & accepted),
    }


def _marked(index: Index, keys: Collection[str]) -> np.ndarray:
    mask = np.zeros(index.rows, bool)
    mask[index.find(keys)] = True
    return mask


def _hand_facet(index: Index, hand: Mapping[str, HandVerdict], rows: np.ndarray) -> dict[str, int]:
    return {name: int(np.count_nonzero(mask & rows)) for name, mask in _by_hand(index, hand).items()}


def _count_category(name: str) -> Callable[[Index, Names, np.ndarray], dict[str, int]]:
    def count(index: Index, names: Names, rows: np.ndarray) -> dict[str, int]:
        known = names.categories[name].names
        counts = np.bincount(index.columns[name][rows], minlength=len(known))
        return {value: int(number) for value, number in zip(known, counts, strict=True) if value}

    return count


def _count_styles(index: Index, names: Names, rows: np.ndarray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for style, number in _count_category("style")(index, names, rows).items():
        for value in style_values(style):
            counts[value] = counts.get(value, 0) + number
    return counts


def _count_verdicts(index: Index, names: Names, rows: np.ndarray) -> dict[str, int]:
    accepted = int(np.count_nonzero(index.columns["accepted"] & rows))
    return {"accepted": accepted, "rejected": int(np.count_nonzero(rows)) - accepted}


def _count_relations(index: Index, names: Names, rows: np.ndarray) -> dict[str, int]:
    known = names.relations.names
    return dict(zip(known, index.relations.counts(rows, len(known)).tolist(), strict=True))


def _count_checks(index: Index, names: Names, rows: np.ndarray) -> dict[str, int]:
    known = names.checks.names
    return dict(zip(known, index.checks.counts(rows, len(known)).tolist(), strict=True))


_FACETS: dict[str, Callable[[Index, Names, np.ndarray], dict[str, int]]] = {
    "verdict": _count_verdicts,
    "reason": _count_checks,
    "relation": _count_relations,
    "style": _count_styles,
    **{name: _count_category(name) for name in CATEGORIES if name != "style"},
}


def _ordered(index: Index, matched: np.ndarray, filters: Filters) -> np.ndarray:
    rows = np.flatnonzero(matched)
    if filters.sample:
        rows = np.random.default_rng(filters.seed).permutation(rows)[: filters.sample]
        if filters.sort == "id":
            return rows  # as drawn
    return rows[_order(index, rows, filters.sort)]


def _order(index: Index, rows: np.ndarray, sort: str) -> np.ndarray:
    name = SORTS[sort.removeprefix("-")]
    values = (index.checks.sizes if name == "faults" else index.columns[name])[rows]
    if sort.startswith("-"):
        values = -values.astype(np.float64)
    return np.lexsort((index.columns["id"][rows], values))
