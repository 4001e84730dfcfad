"""From a `Corpus` to everything that the report tells, as JSON-ready data.

``modes`` holds one entry a system (for a run: constrained and unconstrained).
Figures with intervals come from `synthie.evaluation.resampling`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from synthie.config import EvaluationConfig
from synthie.evaluation.confidence import calibration, precision_recall
from synthie.evaluation.corpus import Corpus, Predicted, Training, is_known
from synthie.evaluation.errors import ERRORS, ErrorPairs, find_errors, find_related
from synthie.evaluation.resampling import Judged, System, compare
from synthie.evaluation.scores import (
    Counts,
    count_by_record,
    count_by_triplet,
    count_exact,
    count_false_alarms,
    count_items,
    frequency_bucket,
)
from synthie.evaluation.triplets import Ints, TripletSets, parts

__all__ = ["analyse"]

_EXAMPLES = 3
_SEEN_ENTITIES = ("neither", "one", "both")


def analyse(config: EvaluationConfig, corpus: Corpus, seed: int) -> dict[str, Any]:
    """The content of ``metrics.json`` but for what only a run knows: its training curve and its stages."""
    gold = corpus.gold
    return {
        "data": {
            "name": corpus.name,
            "split": corpus.split,
            "records": gold.records,
            "records_in_split": corpus.records_in_split,
            "negatives": gold.records - len(np.unique(gold.record)),
            "gold_triplets": len(gold),
            "relations": len(np.unique(gold.relation)),
            "training_records": corpus.training.records if corpus.training else None,
            "models": corpus.models,
        },
        "settings": {
            "resamples": config.bootstrap,
            "confidence": config.confidence,
            "seed": seed,
            "significance": config.significance,
        },
        "modes": {name: _system(config, corpus, predicted, seed) for name, predicted in corpus.systems.items()},
        "comparisons": _comparisons(config, corpus, seed),
        "training": None,
        "throughput": [],
    }


def _system(config: EvaluationConfig, corpus: Corpus, system: Predicted, seed: int) -> dict[str, Any]:
    gold, predicted = corpus.gold, system.sets

    def judged(counts: Counts) -> Judged:
        return Judged(counts, resamples=config.bootstrap, confidence=config.confidence, seed=seed)

    def parts_alone(kind: str) -> dict[str, Any]:
        return judged(count_by_record(parts(gold, kind), parts(predicted, kind))).only()

    by_record = count_by_record(gold, predicted)
    by_relation = count_by_triplet(gold, predicted, gold.relation, predicted.relation)
    by_size = count_by_record(gold, predicted, np.bincount(gold.record, minlength=gold.records))
    exact = count_exact(gold, predicted)
    relations = judged(by_relation)
    alarms = judged(count_false_alarms(gold, predicted)).groups()
    return {
        "predicted_triplets": len(predicted),
        "unknown": int(_unknown(predicted).sum()),
        "micro": judged(by_record).only(),
        "macro": relations.mean() | {"relations": len(by_relation.groups)},
        "exact": judged(exact).only()["precision"],
        "false_alarms": alarms[0]["precision"] if alarms else None,
        "entities": parts_alone("nodes"),
        "relations": parts_alone("relations"),
        "pairs": parts_alone("pairs"),
        "related": _related(corpus, predicted, by_record, judged),
        "by_size": [
            {"triplets": size} | figures
            for size, figures in zip(by_size.groups.tolist(), judged(by_size).groups(), strict=True)
            if size  # the scores of records without gold triplets are 0 whatever is predicted: see false_alarms
        ],
        **_by_training(corpus.training, gold, predicted, judged),
        "errors": _errors(corpus, predicted),
        "confidence": _confidence(system, by_record.pairs, exact.pairs[:, 0]),
        "by_relation": _relation_table(corpus, by_relation.groups, relations),
    }


def _by_training(training: Training | None, gold: TripletSets, predicted: TripletSets, judged: Any) -> dict[str, Any]:
    """Figures by what training has: how often the relation, and whether the pair, the triplet, the entities."""
    if training is None:
        return {"by_frequency": [], "by_pair": [], "by_triplet": [], "by_entities": []}

    def split(of: Any) -> Any:
        counts = count_by_triplet(gold, predicted, of(gold), of(predicted))
        return zip(counts.groups.tolist(), judged(counts).groups(), strict=True)

    def pair(sets: TripletSets) -> Ints:
        return sets.subject * len(sets.nodes) + sets.object

    def fact(sets: TripletSets) -> Ints:
        return pair(sets) * len(sets.relations) + sets.relation

    def entities(sets: TripletSets) -> Ints:
        seen = [np.isin(nodes, training.nodes) for nodes in (sets.subject, sets.object)]
        return seen[0].astype(np.int64) + seen[1]

    buckets = frequency_bucket(training.frequency)
    return {
        "by_frequency": [
            {"from": int(2 ** (bucket - 1)) if bucket else 0, "to": int(2**bucket) - 1} | figures
            for bucket, figures in split(lambda sets: buckets[sets.relation])
        ],
        "by_pair": [
            {"pair": "seen" if seen else "unseen"} | figures
            for seen, figures in split(lambda sets: np.isin(pair(sets), training.pairs).astype(np.int64))
        ],
        "by_triplet": [
            {"triplet": "seen" if seen else "unseen"} | figures
            for seen, figures in split(lambda sets: np.isin(fact(sets), training.facts).astype(np.int64))
        ],
        "by_entities": [{"seen": _SEEN_ENTITIES[seen]} | figures for seen, figures in split(entities)],
    }


def _related(corpus: Corpus, predicted: TripletSets, by_record: Counts, judged: Any) -> dict[str, Any] | None:
    """Micro scores if a relation above or below the right one counts as right; None without such links."""
    if corpus.ancestors is None:
        return None
    found = find_related(corpus.gold, predicted, corpus.ancestors)
    pairs = by_record.pairs.copy()
    pairs[:, 0] += np.bincount(predicted.record[found], minlength=len(pairs))
    return judged(count_items(pairs)).only() | {"credited": len(found)}


def _confidence(system: Predicted, by_record: Ints, exact: Ints) -> dict[str, Any] | None:
    if system.scores is None:
        return None
    chance = np.exp(np.minimum(system.scores, 0.0))
    return {
        "calibration": calibration(chance, by_record, exact),
        "curve": precision_recall(system.scores, by_record),
    }


def _comparisons(config: EvaluationConfig, corpus: Corpus, seed: int) -> list[dict[str, Any]]:
    if len(corpus.systems) < 2 or not config.significance or not corpus.gold.records:
        return []
    gold = corpus.gold
    systems = {
        name: System(
            by_record=count_by_record(gold, system.sets).pairs,
            by_relation=count_by_triplet(gold, system.sets, gold.relation, system.sets.relation),
            exact=count_exact(gold, system.sets).pairs[:, 0],
        )
        for name, system in corpus.systems.items()
    }
    return compare(systems, resamples=config.significance, confidence=config.confidence, seed=seed)


def _unknown(sets: TripletSets) -> np.ndarray:
    """bool[t]: triplets with a part that the graph does not have."""
    nodes = np.array([not is_known(name) for name in sets.nodes], bool)
    relations = np.array([not is_known(name) for name in sets.relations], bool)
    return nodes[sets.subject] | relations[sets.relation] | nodes[sets.object]


def _relation_table(corpus: Corpus, relations: Ints, judged: Judged) -> list[dict[str, Any]]:
    """One row a relation in gold or prediction, by training records, most frequent first."""
    training = corpus.training
    rows = [
        {
            "id": key if is_known(key := corpus.gold.relations[relation]) else "",
            "label": corpus.label(key),
            "training_records": int(training.frequency[relation]) if training else None,
            "training_triplets": int(training.triplets[relation]) if training else None,
            **figures,
        }
        for relation, figures in zip(relations.tolist(), judged.groups(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-(row["training_records"] or 0), -row["gold"], row["label"]))


def _errors(corpus: Corpus, predicted: TripletSets) -> dict[str, Any]:
    """For each kind of error how many there are, and examples from different records."""
    found = find_errors(corpus.gold, predicted)
    return {kind: {"count": len(found[kind]), "examples": _examples(corpus, predicted, found[kind])} for kind in ERRORS}


def _examples(corpus: Corpus, predicted: TripletSets, pairs: ErrorPairs) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = []
    shown: set[int] = set()
    for in_gold, in_predicted in zip(pairs.gold.tolist(), pairs.predicted.tolist(), strict=True):
        record = int(corpus.gold.record[in_gold] if in_gold >= 0 else predicted.record[in_predicted])
        if record in shown:
            continue
        shown.add(record)
        examples.append(
            {
                "id": corpus.ids[record],
                "text": corpus.texts[record],
                "gold": _readable(corpus, corpus.gold, in_gold),
                "predicted": _readable(corpus, predicted, in_predicted),
            }
        )
        if len(examples) == _EXAMPLES:
            break
    return examples


def _readable(corpus: Corpus, sets: TripletSets, row: int) -> list[str] | None:
    return [corpus.label(part) for part in sets.key(row)] if row >= 0 else None
