"""What texts and judge cost, as Markdown: while they ask, and the bill."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from flows.wording import duration, table
from synthie.money import usd
from synthie.texts.snapshot import Snapshot

__all__ = ["COSTS", "bill_page", "cost_of_the_run", "cost_so_far"]

COSTS = {"texts": ("cost", "Cost of the texts"), "judge": ("cost-judge", "Cost of judging")}  # key, title

_RELATIONS = 20


def cost_so_far(snapshot: Snapshot) -> str:
    """A snapshot of the stage."""
    rows = [("texts", _share(f"{snapshot.done:,}", f"{snapshot.total:,}", snapshot.done, snapshot.total))]
    rows.append(("spent", _of_budget(snapshot.usd, snapshot.max_usd)))
    if snapshot.projected_usd is not None and snapshot.done < snapshot.total:
        rows.append(("expected in the end", usd(snapshot.projected_usd)))
    if texts := snapshot.done - snapshot.failed:
        rows.append(("cost of a text", usd(snapshot.usd / texts)))
    rows.append(("tokens of this run", f"{snapshot.input_tokens:,} in, {snapshot.output_tokens:,} out"))
    if snapshot.rate_per_s:
        rows.append(("speed", f"{snapshot.rate_per_s:,.3g} texts a second"))
    if snapshot.eta_s:
        rows.append(("time left", duration(snapshot.eta_s)))
    if snapshot.limit:
        rows.append(("calls in flight", f"{snapshot.in_flight:,}, at present up to {snapshot.limit:,}"))
    rows += _errors(snapshot.errors)
    return f"At {datetime.fromtimestamp(snapshot.time, UTC):%H:%M:%S} UTC.\n\n" + table(("figure", "value"), rows)


def cost_of_the_run(seen: dict[str, Any]) -> list[str]:
    """What both have cost, a sentence; none where only one has (`synthie.texts.status.status`)."""
    return [f"The run has spent {usd(seen['spent_usd'])} in all."] if seen["texts"] and seen["judge"] else []


def bill_page(bill: dict[str, Any]) -> str:
    """The content of ``cost.json``; of a run that was stopped it lacks the part on the checked texts."""
    this_run, estimate, texts = bill["this_run"], bill["estimate"], bill.get("texts")
    rows = [
        ("spent, all runs in the folder", _of_budget(bill["spent_usd"], bill["max_usd"])),
        ("estimate before this run", f"{usd(estimate['usd_low'])} to {usd(estimate['usd_high'])}"),
    ]
    if texts:
        cached = f" ({texts['cached_input_tokens']:,} of them cached)" if texts["cached_input_tokens"] else ""
        rows.append(("texts", f"{texts['samples']:,} accepted, {texts['rejected']:,} rejected"))
        if texts["usd_per_sample"] is not None:
            rows.append(("cost of an accepted text", usd(texts["usd_per_sample"])))
        rows.append(("tokens", f"{texts['input_tokens']:,} in{cached}, {texts['output_tokens']:,} out"))
    answers = f"{this_run['answered']:,} answers to {this_run['requests']:,} calls"
    if this_run["answered"]:
        answers += f" in {duration(this_run['seconds'])}, {this_run['texts_per_second']:,.3g} a second"
    rows.append(("this run", answers))
    rows.append(("answered by earlier runs", f"{this_run['answered_before']:,}"))
    rows.append(("failed for good", f"{this_run['failed']:,}"))
    rows += _errors(this_run["retries"])
    if len(endpoints := this_run.get("endpoints", {})) > 1:
        rows += [(f"answers of {url}", f"{count:,}") for url, count in endpoints.items()]
    page = table(("figure", "value"), rows)
    if relations := bill.get("relations"):
        page += f"\n\n### Relations, the dearest first ({min(_RELATIONS, len(relations))} of {len(relations)})\n\n"
        page += table(("relation", "label", "accepted texts", "cost", "cost of a text"), _relation_rows(relations))
    return page


def _relation_rows(relations: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in relations[:_RELATIONS]:
        each = "–" if row["usd_per_sample"] is None else usd(row["usd_per_sample"])
        yield row["relation"], row["label"], f"{row['samples']:,}", usd(row["usd"]), each


def _errors(errors: dict[str, int]) -> list[tuple[str, str]]:
    return [(f"errors: {_kind(kind)}", f"{count:,}") for kind, count in errors.items()]


def _kind(kind: str) -> str:
    try:
        return f"{kind} {HTTPStatus(int(kind)).phrase}"
    except ValueError:
        return kind


def _of_budget(spent: float, budget: float | None) -> str:
    return usd(spent) if budget is None else _share(usd(spent), usd(budget), spent, budget)


def _share(part: str, whole: str, part_size: float, whole_size: float) -> str:
    return f"{part} of {whole}" + (f" ({part_size / whole_size:.1%})" if whole_size else "")
