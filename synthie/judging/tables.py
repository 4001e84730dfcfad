"""The estimates as tables of text, for a terminal, a card or Markdown."""

from __future__ import annotations

from typing import Any

from kg.sampling.tables import ReportTable

__all__ = ["estimates_page", "estimates_tables", "headline"]

_RELATIONS = 10


def headline(estimates: dict[str, Any]) -> str:
    """The first deciding judge's main figures in a sentence."""
    name = estimates["deciding"][0]
    group = estimates["judges"][name]["gates"]["accepted"]
    judged = f"{group['judged']:,} of {estimates['texts']['accepted']:,} accepted texts were judged"
    said = f"{judged} by the judge '{name}' ({', '.join(estimates['judges'][name]['models'])})"
    if group["unjudged"]:
        said += f", {group['unjudged']:,} more could not be"
    if group["precision"] is None:
        return f"{said}."
    said += f": {_percent(group['precision'])} of the label's triplets are stated"
    if group["recall"] is not None:
        said += f", and {_percent(group['recall'])} of the stated facts are in the label"
    return f"{said}."


def estimates_tables(estimates: dict[str, Any]) -> list[ReportTable]:
    """The main figures first, then where they are worst."""
    tables = [_overview(estimates)]
    for name, judge in estimates["judges"].items():
        if judge["gate_errors"] is not None:
            tables.append(_gate(name, judge["gate_errors"]))
        accepted = judge["gates"]["accepted"]
        if accepted["by_size"]:
            tables.append(_parts(f"By number of triplets, judge {name}", "triplets", accepted["by_size"], _size))
        if accepted["by_style"]:
            tables.append(_parts(f"By style, judge {name}", "style", accepted["by_style"], _style))
        if accepted["worst_relations"]:
            tables.append(_worst(name, accepted["worst_relations"]))
    if estimates["agreement"]:
        tables.append(_agreement(estimates["agreement"]))
    return tables


def estimates_page(estimates: dict[str, Any]) -> str:
    """All of it as Markdown."""
    parts = [headline(estimates), *(table.markdown() for table in estimates_tables(estimates))]
    return "\n\n".join(parts) + "\n"


def _overview(estimates: dict[str, Any]) -> ReportTable:
    header = ["data", "judge", "judged", "not judged", "unsupported", "missing", "faithful texts"]
    rows = []
    for name, judge in estimates["judges"].items():
        for gate, group in judge["gates"].items():
            if not group["judged"] and not group["unjudged"]:
                continue
            rows.append(
                [
                    f"{gate} texts",
                    name,
                    *(f"{group[count]:,}" for count in ("judged", "unjudged")),
                    _percent(group["precision"], rest=True),
                    _percent(group["recall"], rest=True),
                    _percent(group["faithful"]),
                ]
            )
            if "precision_corrected" in group:
                right = group["precision_corrected"]
                told = "error rates do not fit" if right is None else _percent(right, rest=True)
                rows.append([f"{gate} texts, corrected", name, "", "", told, "", ""])
    for known in estimates["published"]:
        shares = (f"{known[share]:.0%}" for share in ("unsupported", "missing"))
        rows.append([f"{known['data']}, as published", "people", "", "", *shares, ""])
    title = "Triplets that their texts do not state, and stated facts that the label lacks (95% intervals)"
    return ReportTable(title, header, rows, 2)


def _gate(name: str, errors: dict[str, Any]) -> ReportTable:
    rows = [
        [gate, *(f"{counts[verdict]:,}" for verdict in ("faithful", "faulty"))]
        for gate, counts in errors["table"].items()
    ]
    rows.append(["of the faithful texts rejected", _percent(errors["faithful_rejected"]), ""])
    rows.append(["of the faulty texts accepted", "", _percent(errors["faulty_accepted"])])
    return ReportTable(f"The quality checks beside the judge {name}", ["texts", "faithful", "faulty"], rows)


def _parts(title: str, what: str, parts: list[dict[str, Any]], name: Any) -> ReportTable:
    rows = [
        [
            name(part),
            f"{part['judged']:,}",
            _percent(part["precision"], rest=True),
            _percent(part["recall"], rest=True),
            _percent(part["faithful"]),
        ]
        for part in parts
    ]
    return ReportTable(title, [what, "judged", "unsupported", "missing", "faithful texts"], rows)


def _size(part: dict[str, Any]) -> str:
    return f"{part['size']}{' or more' if part['or_more'] else ''}"


def _style(part: dict[str, Any]) -> str:
    return f"{part['axis']}: {part['value']}"


def _worst(name: str, relations: list[dict[str, Any]]) -> ReportTable:
    rows = [
        [f"{row['label']} ({row['relation']})", f"{row['triplets']:,}", _percent(row["precision"], rest=True)]
        for row in relations[:_RELATIONS]
    ]
    return ReportTable(f"Relations told worst, judge {name}", ["relation", "triplets", "unsupported"], rows)


def _agreement(pairs: list[dict[str, Any]]) -> ReportTable:
    rows = [
        [
            " and ".join(pair["judges"]),
            f"{pair['triplets']:,}",
            _percent(pair["agreement"]),
            "–" if pair["kappa"] is None else f"{pair['kappa']:.2f}",
        ]
        for pair in pairs
    ]
    return ReportTable("How far the judges agree", ["judges", "triplets", "same verdict", "Cohen's kappa"], rows)


def _percent(share: dict[str, float] | None, *, rest: bool = False) -> str:
    """A share with its interval, or that of the ``rest``."""
    if share is None:
        return "–"
    value, low, high = share["value"], share["low"], share["high"]
    if rest:
        value, low, high = 1 - value, 1 - high, 1 - low
    return f"{value:.1%} ({100 * low:.1f}–{high:.1%})"
