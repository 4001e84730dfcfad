"""The main figures of a coverage report as small tables of text, for a terminal or Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["ReportTable", "drawn_at_most", "headline", "report_table"]

_RELATIONS = 5  # that are in most sets
_BELOW_FLOOR = 10
_SIZES = 10  # columns; larger sizes share the last one


class ReportTable(NamedTuple):
    """A table; the first ``texts`` columns hold text, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1

    def markdown(self) -> str:
        """The table below its title, a heading of the third level; no rows: the title as a sentence."""
        if not self.rows:
            return f"{self.title}."
        rule = ["---"] * self.texts + ["---:"] * (len(self.header) - self.texts)
        lines = ([cell.replace("|", "\\|") for cell in line] for line in (self.header, rule, *self.rows))
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def report_table(report: dict[str, Any]) -> list[ReportTable]:
    """The main figures of a report of `kg.sampling.report.coverage_report`, most important first."""
    tables = [_coverage("Covered of what may be drawn", report["coverage"])]
    cumulative = report["cumulative"]
    if cumulative is not None:
        tables.append(_coverage(f"Together with earlier runs, {cumulative['sets']:,} sets", cumulative["coverage"]))
    tables += [_spread(report), _relations(report)]
    if report["floor"] is not None:
        tables.append(_floor(report["floor"]))
    return [
        *tables,
        _sizes(report["set_size"]),
        _shapes(report["shapes"]),
        _overlap(report["overlap"]),
        _splits(report),
    ]


def headline(report: dict[str, Any]) -> str:
    """How many sets there are, in a sentence."""
    said = f"{report['sets']:,} sets of {report['set_size']['mean']:.2f} triplets on average"
    if report["negatives"]:
        said += f", and {report['negatives']:,} without triplets"
    equal = f"{report['duplicates']:,} repeat an earlier one" if report["duplicates"] else "no two are equal"
    return f"{said}; {equal}."


def drawn_at_most(bound: dict[str, Any]) -> str:
    """What a report's ``bound_without_repeats`` allows."""
    uses = bound["uses_of_a_triplet"]
    return "no triplet twice" if uses == 1 else f"each triplet ≤ {uses:,} times"


def _coverage(title: str, coverage: dict[str, Any]) -> ReportTable:
    rows = [
        [
            what,
            *(f"{found[key]:,}" for key in ("covered", "reachable")),
            _percent(found["share"]),
            f"{found['total']:,}",
        ]
        for what, found in coverage.items()
    ]
    return ReportTable(title, ["", "covered", "reachable", "share", "in the graph"], rows)


def _spread(report: dict[str, Any]) -> ReportTable:
    header = ["sets per", "min", "Q1", "median", "Q3", "max", "max/median", "of all sets", "entropy", "Gini"]
    lines = [
        ("relation", report["sets_per_relation"]),
        ("… most even", report["bound"]),
        (f"… {drawn_at_most(report['bound_without_repeats'])}", report["bound_without_repeats"]),
        ("entity", report["sets_per_entity"]),
    ]
    if report["cumulative"] is not None:
        lines.insert(3, ("… with earlier runs", report["cumulative"]["sets_per_relation"]))
    rows = [
        [
            what,
            *(_amount(found[key]) for key in ("min", "q1", "median", "q3", "max")),
            _number(found["max_over_median"]),
            _percent(found["max_share"]),
            *(f"{found[key]:.3f}" for key in ("normalised_entropy", "gini")),
        ]
        for what, found in lines
    ]
    distance = report["bound"]["distance"]
    said = "" if distance is None else f" (max/median of relations: {distance:,g} times the most even)"
    return ReportTable(f"Sets per relation and entity{said}", header, rows)


def _relations(report: dict[str, Any]) -> ReportTable:
    total = max(sum(row["triplets_in_graph"] for row in report["relations"]), 1)
    rows = [
        [
            row["id"],
            row["label"],
            f"{row['sets']:,}",
            _percent(row["share_of_sets"]),
            f"{row['triplets_in_graph']:,}",
            _percent(row["triplets_in_graph"] / total),
        ]
        for row in report["relations"][:_RELATIONS]
    ]
    header = ["relation", "label", "sets", "of all sets", "triplets in the graph", "of all triplets"]
    return ReportTable("Relations in most sets", header, rows, texts=2)


def _floor(floor: dict[str, Any]) -> ReportTable:
    title = f"{floor['reached']:,} of {floor['relations']:,} relations are in {floor['sets']:,} or more sets"
    below = floor["below"]
    if below:
        title += "; these are not" + (f" (the first {_BELOW_FLOOR} of {len(below):,})" * (len(below) > _BELOW_FLOOR))
    rows = [
        [row["id"], row["label"], row["reason"], f"{row['sets']:,}", f"{row['triplets_in_graph']:,}"]
        for row in below[:_BELOW_FLOOR]
    ]
    return ReportTable(title, ["relation", "label", "why", "sets", "triplets in the graph"], rows, texts=3)


def _sizes(found: dict[str, Any]) -> ReportTable:
    lines = {"sets": found} if found["asked"] is None else {"asked": found["asked"], "reached": found}
    sizes = sorted({int(size) for line in lines.values() for size in line["histogram"]})
    columns, rest = (sizes, []) if len(sizes) <= _SIZES else (sizes[: _SIZES - 1], sizes[_SIZES - 1 :])
    header = ["triplets", *map(str, columns), *([f"{rest[0]} or more"] if rest else []), "mean"]
    rows = []
    for name, line in lines.items():
        counts = line["histogram"]
        pooled = [sum(counts.get(str(size), 0) for size in rest)] if rest else []
        cells = [f"{count:,}" for count in [*(counts.get(str(size), 0) for size in columns), *pooled]]
        rows.append([name, *cells, f"{line['mean']:.3f}"])
    smaller = found["smaller_than_asked"]
    said = "" if smaller is None else f" ({_percent(smaller)} are smaller than asked)"
    return ReportTable(f"Sizes of the sets{said}", header, rows)


def _shapes(shapes: dict[str, Any]) -> ReportTable:
    shares = {name: share for name, share in shapes["shares"].items() if share or name != "disconnected"}
    header = ["shape", *shares, "subjects per set"]
    row = ["of all sets", *map(_percent, shares.values()), f"{shapes['subjects_per_set']:.2f}"]
    return ReportTable("Shapes of the sets", header, [row])


def _overlap(overlap: dict[str, Any]) -> ReportTable:
    header = ["", "sets per triplet", "in one set only", "most sets", "occurrences that repeat"]
    row = [
        "triplets drawn",
        f"{overlap['sets_per_drawn_triplet']:.2f}",
        _percent(overlap["triplets_in_one_set"]),
        f"{overlap['most_sets_of_a_triplet']:,}",
        _percent(overlap["repeated_occurrences"]),
    ]
    return ReportTable("Overlap of the sets", header, [row])


def _splits(report: dict[str, Any]) -> ReportTable:
    splits, leakage = report["splits"], report["leakage"]
    rows = [
        *_rows(_SPLIT_ROWS, splits, splits),
        *(_rows(_LEAKAGE_ROWS, splits, leakage) if leakage else ()),
    ]
    return ReportTable("Splits", ["", *splits], rows)


def _rows(names: dict[str, str], splits: dict[str, Any], figures: dict[str, Any]) -> Iterator[list[str]]:
    for key, name in names.items():
        found = [figures[split][key] if split in figures else None for split in splits]
        yield [name, *("" if value is None else _cell(key, value) for value in found)]


_SPLIT_ROWS = {
    "sets": "sets",
    "triplets": "triplets",
    "distinct_triplets": "different triplets",
    "entities": "entities",
    "relations": "relations",
    "triplets_per_set": "triplets per set",
}
_LEAKAGE_ROWS = {
    "shared_sets": "sets also in train",
    "triplets_in_train": "triplets also in train",
    "entities_in_train": "entities also in train",
    "sets_of_seen_triplets": "sets with triplets of train only",
    "sets_without_seen_triplet": "sets without a triplet of train",
}


def _cell(key: str, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if key == "triplets_per_set" else _percent(value)


def _amount(value: float) -> str:
    """With one decimal only where it says something.

    >>> _amount(7.25), _amount(523.5), _amount(4270.0)
    ('7.2', '524', '4,270')
    """
    return f"{value:,.1f}" if value < 100 and value % 1 else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
