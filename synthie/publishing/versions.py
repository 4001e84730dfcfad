"""The data set's version, and what changed from one to the next.

A version is ``major.minor``. New shards beside unchanged ones make a new minor version. A change to records that were
published before (another prompt, dropped verdicts, other settings) makes a new major version. What alters no record,
such as the licence or new estimates, makes none. What was there before is known from the data set that is continued,
or from ``versions.json``, which stays in the folder whatever else is made anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kg.stage import write_atomic
from synthie.errors import InputError
from synthie.publishing.shards import Shard

__all__ = ["VERSIONS", "next_versions", "read_versions", "write_versions"]

VERSIONS = "versions.json"


def read_versions(folder: Path, statistics: Mapping[str, Any] | None) -> tuple[list[dict[str, Any]], list[Shard]]:
    """The history of the data set in ``folder``, and the shards of its last version; both empty if it is new.

    Args:
        statistics: of the data set that is continued, if any.

    Raises:
        InputError: ``versions.json`` is damaged.
    """
    path = folder / VERSIONS
    try:
        known: Mapping[str, Any] = json.loads(path.read_bytes())
        return list(known["versions"]), [Shard(**shard) for shard in known["shards"]]
    except FileNotFoundError:
        known = statistics or {"versions": [], "shards": []}
        return list(known["versions"]), [Shard(**shard) for shard in known["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}). Delete it to begin again with version 1.0.") from error


def next_versions(
    history: Sequence[dict[str, Any]], before: Sequence[Shard], now: Sequence[Shard], told: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The history with this build.

    Args:
        history, before: of `read_versions`.
        now: the shards of this build.
        told: what the entry of a new version says besides ``version``, ``change`` and ``records``.
    """
    records = Counter[str]()
    for shard in now:
        records[shard.split] += shard.records
    if not history:
        return [{"version": "1.0", "change": "first version", **told, "records": dict(records)}]
    if set(before) == set(now):
        return list(history)
    major, minor = map(int, history[-1]["version"].split("."))
    if set(before) < set(now):
        added = sum(shard.records for shard in set(now) - set(before))
        version, change = f"{major}.{minor + 1}", f"{added:,} records added"
    else:
        version, change = f"{major + 1}.0", "records of the version before changed"
    return [*history, {"version": version, "change": change, **told, "records": dict(records)}]


def write_versions(folder: Path, versions: Sequence[dict[str, Any]], shards: Sequence[Shard]) -> None:
    """Leave the history for the next build in ``folder``."""
    content = {"versions": list(versions), "shards": [shard.to_json() for shard in shards]}
    write_atomic(folder / VERSIONS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
