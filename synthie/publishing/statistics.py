"""``statistics.json``: what is in the data set, split by split, and what the splits share.

The shards are read once, batch by batch, train first; only digests and counts stay in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthie.errors import InputError
from synthie.publishing.content import Content, Distinct, sums
from synthie.publishing.rows import part_tables
from synthie.publishing.shards import Shard, read_shards
from synthie.records import WITHHELD

__all__ = ["gate_figures", "merge_gate_figures", "split_statistics"]

_COLUMNS = ["text", "triplets", "withheld", "entities", "relations", "topic", "faults"]
_SUMS = ("input_tokens", "cached_input_tokens", "output_tokens", "usd")
_QUANTILES = (0, 0.25, 0.5, 0.75, 1)
_SAME_SETS = ("test", WITHHELD)  # the one holds records of the other with shorter labels


def split_statistics(
    folder: Path, shards: Sequence[Shard], sets: Mapping[str, int], *, of_others: bool = False
) -> dict[str, Any]:
    """Figures of the records in ``folder``.

    Args:
        shards: what to read; train comes first.
        sets: of each split, the triplet sets that were drawn for it.
        of_others: the records are not drawn by us, so their splits may share sets; it is only counted.

    Returns:
        ``splits``: records, negatives, triplets, distinct entities … of each; ``records_per_relation``: minimum,
        quartiles, maximum; ``relations``: relation -> records of each split with it; ``leakage``: of each split what
        train has too.

    Raises:
        InputError: two splits share a triplet set, or a split lacks what its name promises.
    """
    tallies: dict[str, _Tally] = {}
    train = None
    for split in dict.fromkeys(shard.split for shard in shards):
        tally = tallies[split] = _Tally(split, train if split != "train" else None)
        for batch in read_shards(folder, (shard for shard in shards if shard.split == split), _COLUMNS):
            tally.add(batch)
        train = tally if split == "train" else train
    if not of_others:
        _require_disjoint(tallies)
        _require_unseen(tallies)
    totals = sum((tally.relations for tally in tallies.values()), Counter[str]())
    return {
        "splits": {split: tally.figures() | {"sets": sets[split]} for split, tally in tallies.items()},
        "records_per_relation": _quantiles(list(totals.values())),
        "relations": {
            relation: {split: tally.relations[relation] for split, tally in tallies.items()}
            for relation in sorted(totals, key=lambda relation: (-totals[relation], relation))
        },
        "leakage": {split: tally.leakage() for split, tally in tallies.items() if tally.train is not None},
    }


class _Tally:
    """The counts of one split.

    Args:
        split: its name.
        train: that of train, which is complete; None for train itself or where there is none.
    """

    def __init__(self, split: str, train: _Tally | None) -> None:
        self.split, self.train = split, train
        self.counts: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        self.relations: Counter[str] = Counter()
        self.sets, self.triplets, self.combinations = Distinct(), Distinct(), Distinct()
        self.entities, self.literals, self.predicates = Distinct(), Distinct(), Distinct()

    def add(self, batch: pa.RecordBatch) -> None:
        content = Content.of(batch)
        entities = content.nodes[content.is_entity.T.ravel()]
        self.sets.add(content.sets)
        self.triplets.add(content.triplets)
        self.combinations.add(content.combinations[content.sizes > 0])
        self.entities.add(entities)
        self.literals.add(content.nodes[~content.is_entity.T.ravel()])
        self.predicates.add(content.relations)
        labels = pc.fill_null(pc.list_value_length(batch["triplets"]), 0).to_numpy()
        withheld = pc.fill_null(pc.list_value_length(batch["withheld"]), 0).to_numpy()
        mentions = pc.struct_field(pc.list_flatten(batch["entities"]), "mention_start_index")
        self.sizes.update(labels.tolist())
        self.relations.update(pc.struct_field(pc.list_flatten(batch["relations"]), "uri").to_pylist())
        self.counts.update(
            records=len(batch),
            negatives=len(batch) - batch["topic"].null_count,
            triplets=int(labels.sum()),
            withheld_records=int(np.count_nonzero(withheld)),
            withheld_triplets=int(withheld.sum()),
            flagged=int(np.count_nonzero(pc.fill_null(pc.list_value_length(batch["faults"]), 0).to_numpy())),
            words=int(pc.sum(pc.count_substring_regex(batch["text"], r"\S+"), min_count=0).as_py()),
            mentions=len(mentions),
            mentions_not_found=int(pc.sum(pc.less(mentions, 0), min_count=0).as_py()),
        )
        if self.train is not None:
            self._compare(content, self.train)

    def _compare(self, content: Content, train: _Tally) -> None:
        """Count records by what train has of them."""
        k, rows = len(content.sizes), content.rows
        known = sums(train.triplets.has(content.triplets).astype(np.int64), rows, k)
        unseen_nodes = ~train.entities.has(content.nodes).reshape(2, -1).T & content.is_entity
        unseen = sums(unseen_nodes.sum(axis=1), rows, k)
        stated = content.sizes > 0
        self.counts.update(
            compared=int(np.count_nonzero(stated)),
            of_seen_triplets=int(np.count_nonzero(stated & (known == content.sizes))),
            without_seen_triplet=int(np.count_nonzero(stated & (known == 0))),
            with_unseen_entity=int(np.count_nonzero(unseen)),
            of_unseen_combination=int(np.count_nonzero(stated & ~train.combinations.has(content.combinations))),
        )

    def figures(self) -> dict[str, Any]:
        counts, records = self.counts, max(self.counts["records"], 1)
        names = ("records", "negatives", "triplets", "withheld_records", "withheld_triplets", "flagged", "words")
        return {
            **{name: counts[name] for name in names},
            "entities": len(self.entities),
            "literals": len(self.literals),
            "relations": len(+self.relations),
            "relation_combinations": len(self.combinations),
            "triplets_per_record": round(counts["triplets"] / records, 4),
            "words_per_record": round(counts["words"] / records, 4),
            "mentions": counts["mentions"],
            "mentions_not_found": counts["mentions_not_found"],
            "records_by_size": {str(size): self.sizes[size] for size in sorted(self.sizes)},
            "records_per_relation": _quantiles(list(self.relations.values())),
        }

    def leakage(self) -> dict[str, float]:
        """What train has too: a number of sets, shares of the different things, shares of the records."""
        assert self.train is not None
        train, compared = self.train, self.counts["compared"]
        return {
            "shared_sets": self.sets.count_in(train.sets),
            "triplets_in_train": _share(self.triplets.count_in(train.triplets), len(self.triplets)),
            "entities_in_train": _share(self.entities.count_in(train.entities), len(self.entities)),
            "relations_in_train": _share(self.predicates.count_in(train.predicates), len(self.predicates)),
            "combinations_in_train": _share(self.combinations.count_in(train.combinations), len(self.combinations)),
            "records_of_seen_triplets": _share(self.counts["of_seen_triplets"], compared),
            "records_without_seen_triplet": _share(self.counts["without_seen_triplet"], compared),
            "records_with_unseen_entity": _share(self.counts["with_unseen_entity"], compared),
            "records_of_unseen_combination": _share(self.counts["of_unseen_combination"], compared),
        }


def _require_disjoint(tallies: Mapping[str, _Tally]) -> None:
    for first, second in combinations(tallies, 2):
        shared = tallies[second].sets.count_in(tallies[first].sets)
        if shared and (first, second) != _SAME_SETS:
            raise InputError(
                f"The splits {first} and {second} share {shared:,} triplet sets, so the evaluation would test what was "
                "trained on. The sets folder is damaged or was edited, or dataset.continue_from names data whose sets "
                "these do not continue; sample again, with sampling.continue_from where dataset.continue_from is set."
            )


def _require_unseen(tallies: Mapping[str, _Tally]) -> None:
    promised = {"test_unseen_entities": "with_unseen_entity", "test_unseen_combinations": "of_unseen_combination"}
    for split, count in promised.items():
        counts = tallies[split].counts if split in tallies and tallies[split].train is not None else Counter()
        missing = counts["compared"] - counts[count]
        if missing:
            raise InputError(
                f"{missing:,} of {counts['compared']:,} records of {split} have nothing that train lacks: the earlier "
                "data that dataset.continue_from names, or other sets, trained on it. Sample again, from the same "
                "settings as the earlier sets."
            )


def gate_figures(texts: Path) -> dict[str, Any]:
    """How many texts were checked, accepted and rejected, why, and what they took."""
    totals: Counter[str] = Counter()
    usd = 0.0
    splits: dict[str, Any] = {}
    for name, count in (("samples", "accepted"), ("rejected", "rejected")):
        for table in part_tables(texts / name, ["split", "reasons", *_SUMS]):
            totals[count] += len(table)
            for column in _SUMS[:-1]:
                totals[column] += pc.sum(table[column], min_count=0).as_py()
            usd += pc.sum(table["usd"], min_count=0).as_py()
            for split, reasons in zip(table["split"].to_pylist(), table["reasons"].to_pylist(), strict=True):
                entry = splits.setdefault(
                    split, {"accepted": 0, "rejected": 0, "reasons": Counter(), "flags": Counter()}
                )
                entry[count] += 1
                checks = {reason["check"] for reason in reasons or ()}
                entry["reasons" if count == "rejected" else "flags"].update(checks)
    return _gate_figures(splits, {name: totals[name] for name in _SUMS[:-1]} | {"usd": usd})


def merge_gate_figures(figures: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Those of several texts folders together."""
    splits: dict[str, Any] = {}
    tokens: Counter[str] = Counter()
    for one in figures:
        tokens.update({name: one["tokens"][short] for name, short in zip(_SUMS, _SHORT, strict=True)})
        for split, entry in one["splits"].items():
            known = splits.setdefault(split, {"accepted": 0, "rejected": 0, "reasons": Counter(), "flags": Counter()})
            for name, value in entry.items():
                known[name] += Counter(value) if isinstance(value, dict) else value
    return _gate_figures(splits, tokens)


_SHORT = ("input", "cached", "output", "usd")


def _gate_figures(splits: dict[str, Any], sums_: Mapping[str, Any]) -> dict[str, Any]:
    def total(name: str) -> Any:
        start: Any = Counter() if name in ("reasons", "flags") else 0
        return sum((entry[name] for entry in splits.values()), start)

    tokens = {short: sums_[name] for name, short in zip(_SUMS, _SHORT, strict=True)}
    return {
        "checked": total("accepted") + total("rejected"),
        "accepted": total("accepted"),
        "rejected": total("rejected"),
        "reasons": _by_frequency(total("reasons")),
        "flags": _by_frequency(total("flags")),
        "splits": {
            split: entry | {name: _by_frequency(entry[name]) for name in ("reasons", "flags")}
            for split, entry in splits.items()
        },
        "tokens": tokens | {"usd": round(tokens["usd"], 6)},
    }


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _quantiles(counts: list[int]) -> list[float]:
    """Minimum, quartiles and maximum; zeros of nothing."""
    return [round(float(value), 1) for value in np.quantile(counts or [0], _QUANTILES)]


def _share(part: int, whole: int) -> float:
    """0 of nothing."""
    return round(part / whole, 4) if whole else 0.0
