"""What a run took: seconds, texts and tokens a second, dollars for an accepted text, from the stages' manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kg.stage import Manifest, read_manifest
from synthie.errors import InputError

__all__ = ["run_rows"]

_STAGES = ("kg", "sets", "texts", "judge", "dataset", "extractor", "predictions")


def run_rows(run: Path) -> list[dict[str, Any]]:
    """One row for each finished stage of a run that comes before the report.

    Returns:
        rows with ``stage``, ``seconds`` (of the stage's last run), ``peak_memory_mb`` and, where they make sense,
        ``items`` (of what ``unit`` says), ``items_per_second``, ``tokens_per_second``, ``usd`` and
        ``usd_per_accepted``: the stage's dollars for each text that the checks of the texts accepted. Where several
        stages cost money, a last row ``all`` adds them up.
    """
    rows = []
    for stage in _STAGES:
        if not (run / stage / "manifest.json").exists():
            continue
        manifest = read_manifest(run / stage)
        row: dict[str, Any] = {
            "stage": stage,
            "seconds": manifest.seconds,
            "peak_memory_mb": manifest.peak_memory_mb,
            **dict.fromkeys(
                ("items", "unit", "items_per_second", "tokens", "tokens_per_second", "usd", "usd_per_accepted")
            ),
        }
        rows.append(row | (_texts(run / stage, manifest) if stage == "texts" else _others(run / stage, manifest)))
    accepted = next((row.pop("accepted") for row in rows if row["stage"] == "texts"), None)
    for row in rows:
        row["usd_per_accepted"] = _per_accepted(row["usd"], accepted)
    bills = [row["usd"] for row in rows if row["usd"] is not None]
    if len(bills) > 1:
        usd = sum(bills)
        seconds = sum(row["seconds"] for row in rows)
        memory = max(row["peak_memory_mb"] for row in rows)
        total = {"stage": "all", "seconds": seconds, "peak_memory_mb": memory, "usd": usd}
        rows.append(dict.fromkeys(rows[0]) | total | {"usd_per_accepted": _per_accepted(usd, accepted)})
    return rows


def _texts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Speed is that of the asking in the last run, since answers of earlier runs cost it no time."""
    bill = _json(folder / "cost.json") or {}
    last, counts = bill.get("this_run") or {}, manifest.counts
    texts = counts.get("samples", 0) + counts.get("rejected", 0)
    tokens = counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
    speed = last.get("texts_per_second")
    return {
        "items": texts,
        "unit": "texts",
        "items_per_second": speed,
        "tokens": tokens,
        "tokens_per_second": speed * tokens / texts if speed and texts else None,
        "usd": counts.get("usd"),
        "accepted": counts.get("samples"),
    }


def _judge(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """A text counts once for each judge that read it; the cost is that of all judging in the folder."""
    judged = sum(count for name, count in manifest.counts.items() if name.endswith("_judged"))
    bill = _json(folder / "cost.json") or {}
    return {
        "items": judged,
        "unit": "judgements",
        "items_per_second": _rate(judged, manifest.seconds),
        "usd": bill.get("spent_usd"),
    }


def _others(folder: Path, manifest: Manifest) -> dict[str, Any]:
    counts, stage = manifest.counts, manifest.stage
    if stage == "judge":
        return _judge(folder, manifest)
    if stage == "extractor":
        training = _json(folder / "training.json") or {}
        return {
            "items": counts.get("steps"),
            "unit": "steps",
            "items_per_second": _rate(counts.get("steps"), manifest.seconds),
            "tokens": counts.get("tokens"),
            "tokens_per_second": training.get("tokens_per_second"),
        }
    name, unit, times = {
        "kg": ("triples", "triples", 1),
        "sets": ("sets", "sets", 1),
        "dataset": ("checked", "records", 1),
        "predictions": ("records", "texts", 2),  # both modes read every text
    }.get(stage, ("", None, 1))
    items = times * counts[name] if name in counts else None
    usd = counts.get("usd")
    return {"items": items, "unit": unit, "items_per_second": _rate(items, manifest.seconds), "usd": usd}


def _per_accepted(usd: float | None, accepted: int | None) -> float | None:
    return usd / accepted if usd is not None and accepted else None


def _rate(items: Any, seconds: float) -> float | None:
    return items / seconds if isinstance(items, int) and seconds else None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}). Delete it and run its stage again.") from error
