"""The data set that a new one continues: whether it can be, and which new texts repeat one that it has.

The quality gate compares the texts of one run with each other. What a nightly run adds must also differ from what was
published before, so its texts are compared with those of the earlier shards, by the gate's measure and policy.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.stage import Manifest, read_manifest
from synthie.config import Check, QualityConfig
from synthie.errors import ConfigError, InputError
from synthie.publishing.rows import part_tables
from synthie.publishing.shards import Shard, read_shards, shards_of
from synthie.records import WITHHELD
from synthie.surface.repeats import find_repeats

__all__ = ["Earlier", "RepeatPolicy", "Repeats"]

_NEEDED = ("shards", "versions", "splits", "quality", "verdicts", "last_id")


@dataclass(frozen=True)
class Earlier:
    """The data set that is continued.

    Attributes:
        folder: where it is.
        output_hash: digest of its content.
        statistics: its ``statistics.json``.
    """

    folder: Path
    output_hash: str
    statistics: dict[str, Any]

    @classmethod
    def read(cls, path: Path, graph_hash: str, folder: Path) -> Earlier:
        """That in ``path``.

        Args:
            path: as the configuration names it.
            graph_hash: digest of the graph of the new records.
            folder: where the new data set goes.

        Raises:
            ConfigError: it cannot be continued; says why, and what to do.
        """
        if path.resolve() == folder.resolve():
            raise ConfigError(
                f"'dataset.continue_from' is {path}, the folder that this run writes to. Give the new data a run of "
                "their own: --run."
            )
        try:
            manifest = read_manifest(path)
            statistics = json.loads((path / "statistics.json").read_bytes())
        except (InputError, OSError, ValueError) as error:
            meant = f" Did you mean {path / 'dataset'}?" if (path / "dataset").is_dir() else ""
            raise ConfigError(f"'dataset.continue_from' names no finished data set: {error}{meant}") from error
        if fault := _fault(manifest, statistics, graph_hash):
            raise ConfigError(
                f"The data set in {path} cannot be continued: {fault} Correct 'dataset.continue_from', or unset it to "
                "begin anew."
            )
        return cls(path, manifest.output_hash, statistics)

    @cached_property
    def shards(self) -> list[Shard]:
        return shards_of(self.statistics)

    @property
    def spent_usd(self) -> float:
        """What its texts have cost, as far as that is on record."""
        return float(self.statistics.get("spent_usd", 0.0))

    @property
    def is_cost_known(self) -> bool:
        """``spent_usd`` is all; data sets did not always keep it, and the costs of versions may overlap."""
        return "spent_usd" in self.statistics and self.statistics.get("spent_usd_is_all", True)

    def require_new(self, sets: Path) -> None:
        """Refuse sets that do not continue the earlier ones.

        Raises:
            ConfigError: the numbers of some are taken.
        """
        first = pc.min(pq.read_table(sets / "sets.parquet", columns=["id"])["id"]).as_py()
        last = self.statistics["last_id"]
        if first <= last:
            raise ConfigError(
                f"The sets of this run do not continue those of {self.folder}: their numbers begin at {first:,}, and "
                f"{last:,} is taken. Set 'sampling.continue_from' to the sets folder of the earlier run, or unset "
                "'dataset.continue_from'."
            )

    def texts(self) -> Iterator[tuple[int, str]]:
        """(set's number, text) of every record, once."""
        shards = (shard for shard in self.shards if shard.split != WITHHELD)
        yield from _texts(read_shards(self.folder, shards, ["id", "text"]))


def _fault(manifest: Manifest, statistics: Mapping[str, Any], graph_hash: str) -> str | None:
    if manifest.stage != "dataset":
        return f"it is what the stage '{manifest.stage}' has made."
    if "import" in statistics:
        return "its records are imported; only what this program has generated can be."
    if manifest.inputs.get("graph") != graph_hash:
        return "it was made from another graph, or from another state of this one."
    missing = [name for name in _NEEDED if name not in statistics]
    if not missing:
        return None
    return (
        f"its statistics.json lacks '{missing[0]}', so an earlier version of the program has made it. Delete its "
        "manifest.json, and build it again from its texts: synthie dataset --run THAT_RUN."
    )


@dataclass(frozen=True, slots=True)
class RepeatPolicy:
    """What counts as a repetition, and what becomes of it.

    Attributes:
        threshold: least similarity of near-duplicates, see `synthie.surface.repeats.find_repeats`.
        flagged: of the checks ``duplicate`` and ``near_duplicate`` those that a text may fail and stay.
    """

    threshold: float
    flagged: tuple[Check, ...]

    @classmethod
    def of(cls, texts: Manifest) -> RepeatPolicy:
        """That which the texts were checked by."""
        settings = texts.config["quality"]
        known = ("near_duplicate", "action", "actions")
        quality = QualityConfig(**{name: settings[name] for name in known if name in settings})
        checks: tuple[Check, ...] = ("duplicate", "near_duplicate")
        flagged = (check for check in checks if quality.actions.get(check, quality.action) == "flag")
        return cls(quality.near_duplicate, tuple(flagged))

    def settings(self) -> dict[str, Any]:
        """As a part of the stage's configuration."""
        return {"near_duplicate": self.threshold, "flagged_repeats": list(self.flagged)}


@dataclass(slots=True)
class Repeats:
    """New texts that repeat one of the earlier data set, and what has come of them so far.

    Attributes:
        reasons: set's number -> what is said of its text, if it stays.
        flagged: see `RepeatPolicy`.
        left_out, kept: texts.
    """

    reasons: Mapping[int, dict[str, str]] = field(default_factory=dict)
    flagged: tuple[Check, ...] = ()
    left_out: int = 0
    kept: int = 0

    @classmethod
    def find(cls, earlier: Earlier, texts: Path, policy: RepeatPolicy, folder: Path) -> Repeats:
        """Compare the accepted texts in ``texts`` with the earlier ones; temporary files go to ``folder``."""
        ids = array("q")

        def both() -> Iterator[tuple[int, str]]:
            for number, text in chain(earlier.texts(), _texts(part_tables(texts / "samples", ["id", "text"]))):
                ids.append(number)
                yield number, text

        last, reasons = earlier.statistics["last_id"], {}
        for repeat in find_repeats(both(), policy.threshold, folder):
            if repeat.of <= last < ids[repeat.number]:  # the texts stage has seen to those of one run
                check, how = ("duplicate", "The same") if repeat.is_same else ("near_duplicate", "Nearly the same")
                detail = f"{how} text as that of set {repeat.of} of an earlier version."
                reasons[ids[repeat.number]] = {"check": check, "detail": detail}
        return cls(reasons, policy.flagged)

    def sift(self, rows: pa.Table, accepted_by_hand: pa.Array) -> pa.Table:
        """Rows to publish (`DATASET_SCHEMA`), without those that are left out; what a person has accepted stays."""
        if not self.reasons:
            return rows
        by_hand = pc.is_in(rows["request_key"], value_set=accepted_by_hand).to_pylist()
        found = [
            None if hand else self.reasons.get(number)
            for number, hand in zip(rows["id"].to_pylist(), by_hand, strict=True)
        ]
        stays = [reason is None or reason["check"] in self.flagged for reason in found]
        self.left_out += len(stays) - sum(stays)
        self.kept += sum(stays) - found.count(None)
        place = rows.schema.get_field_index("faults")
        faults = [
            [*known, *([reason] if reason else [])]
            for known, reason in zip(rows["faults"].to_pylist(), found, strict=True)
        ]
        column = pa.array(faults, rows.schema.field(place).type)
        return rows.set_column(place, rows.schema.field(place), column).filter(pa.array(stays))


def _texts(tables: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[tuple[int, str]]:
    for table in tables:
        yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
