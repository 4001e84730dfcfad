"""What the judgements of a sample say about the whole data set: ``estimates.json``.

For each judge, and for accepted and rejected texts apart:

* precision: the share of the triplets that their texts state. The rest are false positives of the label.
* recall: of the facts that the texts state, the share that is in the label. The rest are false negatives.
* faithful: the share of the texts that state all of their triplets and nothing else.

Texts that were not judged are counted and in none of these. Every figure has a 95% interval (`intervals`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from synthie.intervals import CONFIDENCE, Share, clustered, corrected, posterior, wilson
from synthie.judging.config import JudgeConfig
from synthie.judging.judgements import VERDICTS

__all__ = ["PUBLISHED", "estimate_quality"]

# Josifoski et al. 2023, "Exploiting Asymmetry for Synthetic Training Data Generation: SynthIE and the Case of
# Information Extraction" (EMNLP), as its readers judged them.
PUBLISHED = [
    {"data": "SynthIE", "unsupported": 0.22, "missing": 0.15},
    {"data": "REBEL", "unsupported": 0.56, "missing": 0.70},
]
_WORST = 30
_FEWEST = 5  # triplets of a relation, from which it is listed
_LARGEST = 10  # triplets of a set; larger ones share the last row


@dataclass(slots=True)
class _Group:
    """Judgements of one judge on accepted or on rejected texts, one entry a judged text."""

    unjudged: int = 0
    keys: list[str] = field(default_factory=list)
    triplets: list[int] = field(default_factory=list)
    stated: list[int] = field(default_factory=list)
    extras: list[int] = field(default_factory=list)  # -1 where the judge cannot tell
    styles: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    relations: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # stated, judged
    labels: dict[str, str] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        if row["problem"] is not None:
            self.unjudged += 1
            return
        verdicts = [triplet["verdict"] for triplet in row["triplets"]]
        self.keys.append(row["request_key"])
        self.triplets.append(len(verdicts))
        self.stated.append(verdicts.count("stated"))
        self.extras.append(-1 if row["extras"] is None else len(row["extras"]))
        self.styles.append(row["style"])
        self.verdicts.update(verdicts)
        for triplet, verdict in zip(row["triplets"], verdicts, strict=True):
            counts = self.relations[triplet["relation"]]
            counts[0] += verdict == "stated"
            counts[1] += 1
            self.labels.setdefault(triplet["relation"], triplet["words"].split(" | ")[1])

    @property
    def faithful(self) -> np.ndarray:
        """bool[judged]: all triplets are stated, and as far as the judge can tell nothing else."""
        return (np.array(self.stated) == np.array(self.triplets)) & (np.array(self.extras) <= 0)


def estimate_quality(config: JudgeConfig, judgements: Iterable[pa.Table], available: dict[str, int]) -> dict[str, Any]:
    """The content of ``estimates.json``.

    Args:
        config: whose word decides, and the judges' error rates.
        judgements: tables with `JUDGEMENT_SCHEMA`.
        available: accepted or rejected -> number of texts from which the judged ones were drawn.
    """
    groups: dict[str, dict[str, _Group]] = {}
    models: dict[str, Counter[str]] = defaultdict(Counter)
    verdicts: dict[str, dict[str, list[bool]]] = defaultdict(dict)  # judge -> text -> stated or not
    for table in judgements:
        for row in table.to_pylist():
            by_gate = groups.setdefault(row["judge"], {gate: _Group() for gate in available})
            by_gate[row["gate"]].add(row)
            models[row["judge"]][row["model"]] += 1
            if row["problem"] is None:
                stated = [triplet["verdict"] == "stated" for triplet in row["triplets"]]
                verdicts[row["judge"]][row["request_key"]] = stated
    judges = [name for name in config.judges if name in groups]
    return {
        "confidence": CONFIDENCE,
        "texts": available,
        "deciding": config.deciding or config.judges[:1],
        "judges": {
            name: {
                "models": sorted(models[name]),
                "gates": {gate: _group(config, name, group) for gate, group in groups[name].items()},
                "gate_errors": _gate_errors(groups[name], available),
            }
            for name in judges
        },
        "agreement": [_agreement(one, other, verdicts[one], verdicts[other]) for one, other in combinations(judges, 2)],
        "published": PUBLISHED,
    }


def _group(config: JudgeConfig, judge: str, group: _Group) -> dict[str, Any]:
    figures = _figures(group, np.ones(len(group.keys), bool))
    if judge in config.sensitivity and figures["precision"] is not None:
        rates = config.sensitivity[judge], config.specificity[judge]
        figures["precision_corrected"] = _as_dict(corrected(Share(**figures["precision"]), *rates))
        figures["sensitivity"], figures["specificity"] = rates
    return {
        "judged": len(group.keys),
        "unjudged": group.unjudged,
        **{verdict: group.verdicts[verdict] for verdict in VERDICTS},
        **figures,
        "by_size": list(_by_size(group)),
        "by_style": list(_by_style(group)),
        "worst_relations": _worst_relations(group),
    }


def _figures(group: _Group, chosen: np.ndarray) -> dict[str, Any]:
    """The main figures of the chosen texts."""
    triplets, stated, extras = (np.array(x, int)[chosen] for x in (group.triplets, group.stated, group.extras))
    told = extras >= 0
    return {
        "triplets": int(triplets.sum()),
        "extras": int(extras[told].sum()) if told.any() else None,
        "precision": _as_dict(clustered(stated, triplets)),
        "recall": _as_dict(clustered(stated[told], (stated + extras)[told])),
        "faithful": _as_dict(wilson(int(group.faithful[chosen].sum()), int(chosen.sum()))),
    }


def _by_size(group: _Group) -> Iterator[dict[str, Any]]:
    sizes = np.minimum(np.array(group.triplets, int), _LARGEST)
    for size in np.unique(sizes):
        chosen = sizes == size
        yield {"size": int(size), "or_more": bool(size == _LARGEST), **_part(group, chosen)}


def _by_style(group: _Group) -> Iterator[dict[str, Any]]:
    """For each value of each axis of style."""
    values: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, style in enumerate(group.styles):
        for pair in filter(None, style.split(", ")):
            axis, _, value = pair.partition(": ")
            values[axis, value].append(index)
    for (axis, value), indices in sorted(values.items()):
        chosen = np.zeros(len(group.keys), bool)
        chosen[indices] = True
        yield {"axis": axis, "value": value, **_part(group, chosen)}


def _part(group: _Group, chosen: np.ndarray) -> dict[str, Any]:
    figures = _figures(group, chosen)
    return {"judged": int(chosen.sum()), **{name: figures[name] for name in ("precision", "recall", "faithful")}}


def _worst_relations(group: _Group) -> list[dict[str, Any]]:
    """The relations that are most certainly told badly first: by the upper end of their intervals."""
    found = [
        (wilson(stated, judged), group.labels[relation], relation, judged)
        for relation, (stated, judged) in group.relations.items()
        if judged >= _FEWEST and stated < judged
    ]
    found.sort(key=lambda one: (one[0].high, one[1]))
    return [
        {"relation": relation, "label": label, "triplets": judged, "precision": _as_dict(precision)}
        for precision, label, relation, judged in found[:_WORST]
    ]


def _gate_errors(groups: dict[str, _Group], available: dict[str, int]) -> dict[str, Any] | None:
    """How the quality checks and the judge agree, text by text; None unless rejected texts were judged as well."""
    if any(not groups[gate].keys for gate in ("accepted", "rejected") if gate in groups) or len(groups) < 2:
        return None
    counts = {gate: (int(group.faithful.sum()), len(group.keys)) for gate, group in groups.items()}
    accepted, rejected = available["accepted"], available["rejected"]

    def share(figure: Callable[..., np.ndarray]) -> dict[str, float | None] | None:
        return _as_dict(posterior([counts["accepted"], counts["rejected"]], figure))

    return {
        "table": {gate: {"faithful": good, "faulty": judged - good} for gate, (good, judged) in counts.items()},
        "faithful_rejected": share(lambda a, r: rejected * r / (rejected * r + accepted * a)),
        "faulty_accepted": share(lambda a, r: accepted * (1 - a) / (accepted * (1 - a) + rejected * (1 - r))),
    }


def _agreement(one: str, other: str, first: dict[str, list[bool]], second: dict[str, list[bool]]) -> dict[str, Any]:
    """How often two judges say the same of a triplet, and Cohen's (1960) kappa."""
    both = [key for key in first if key in second]
    pairs = np.array([pair for key in both for pair in zip(first[key], second[key], strict=True)], bool).reshape(-1, 2)
    same = [sum(a == b for a, b in zip(first[key], second[key], strict=True)) for key in both]
    agreement = clustered(np.array(same, int), np.array([len(first[key]) for key in both], int))
    kappa = None
    if len(pairs):
        by_one, by_other = pairs.mean(axis=0)
        chance = by_one * by_other + (1 - by_one) * (1 - by_other)
        if chance < 1:
            kappa = float(((pairs[:, 0] == pairs[:, 1]).mean() - chance) / (1 - chance))
    return {
        "judges": [one, other],
        "texts": len(both),
        "triplets": len(pairs),
        "agreement": _as_dict(agreement),
        "kappa": kappa,
        "both_stated": int(pairs.all(axis=1).sum()),
        f"only_{one}": int((pairs[:, 0] & ~pairs[:, 1]).sum()),
        f"only_{other}": int((~pairs[:, 0] & pairs[:, 1]).sum()),
        "neither": int((~pairs.any(axis=1)).sum()),
    }


def _as_dict(share: Share) -> dict[str, float | None] | None:
    """None where nothing was counted."""
    return None if share.value is None else share._asdict()
