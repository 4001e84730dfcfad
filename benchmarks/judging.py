"""How often a judge is right, on texts that people wrote: its sensitivity and specificity.

Reads WebNLG texts whose triplets are mapped to Wikidata ids (as `benchmarks/quality.py` does), and has a judge read
each with its own set, and with sets and texts corrupted in known ways. A triplet of the original set is stated; one
that was added, or whose object, number or relation was changed, is not. What a text states beyond its set is known
where a triplet was dropped from the set. With the figures that it prints, the estimates of a run can be corrected:
judge.sensitivity and judge.specificity.

    python benchmarks/judging.py [--texts N] [--base-url URL --model NAME] [--folder FOLDER]
    python benchmarks/judging.py --nli FOLDER_OR_NAME

Without --base-url the built-in server judges. Its rules read what its own rules have written (--own-words: the same
sets, worded by them); what it makes of people's sentences shows that it is a stand-in for tests, not a judge.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quality import SOURCE, Entry, NamesGraph, World, added, dropped, exchanged, read_webnlg, relabelled, renumbered
from quality import swapped as other_object

from kg.stage import no_progress
from synthie.config import JudgeConfig, JudgeModelConfig
from synthie.intervals import Share, clustered
from synthie.judging.judgements import read_judgements
from synthie.judging.llm import LlmJudge
from synthie.judging.local import judge_by_entailment
from synthie.judging.prompt import load_judge_prompt
from synthie.judging.sampled import SampledTexts, Text
from synthie.llm.facts import Fact
from synthie.llm.verbalise import verbalise
from synthie.texts.questions import TripletSet

CORRUPTIONS = (added, other_object, relabelled, renumbered, exchanged, dropped)


class Case(NamedTuple):
    """A text with a set, and what is known of them."""

    kind: str
    entry: Entry
    truth: list[bool | None]  # of each triplet: stated, not stated, not known
    says_more: bool | None  # the text states a fact beyond the set; None: not known


class Given(SampledTexts):
    """Texts that are at hand."""

    def __init__(self, graph: NamesGraph, cases: list[Case]) -> None:
        self.graph = graph  # type: ignore[assignment]
        self.node = lru_cache(None)(self._node)
        self.negatives = 0
        self.count = len(cases)
        self._texts = [
            Text(number, "test", list(case.entry.triplets), text=case.entry.text, request_key=str(number))
            for number, case in enumerate(cases)
        ]

    def batches(self, rows: int, chosen: np.ndarray | None = None) -> Iterator[list[tuple[int, TripletSet]]]:
        for first in range(0, self.count, rows):
            places = range(first, min(first + rows, self.count))
            yield [(place, self._texts[place]) for place in places if chosen is None or chosen[place]]


def make_cases(entries: list[Entry], world: World, texts: int, seed: int) -> list[Case]:
    """``texts`` faithful pairs, and each of them corrupted in each way that applies."""
    draw = random.Random(seed)
    sets = {entry.text: set(entry.triplets) for entry in entries}
    cases = []
    for entry in draw.sample(entries, min(texts, len(entries))):
        cases.append(Case("faithful", entry, [True] * len(entry.triplets), False))
        for corrupt in CORRUPTIONS:
            changed = corrupt(entry, world, draw)
            if changed is not None:
                cases.append(_case(corrupt.__name__, entry, changed, sets))
    return cases


def _case(kind: str, entry: Entry, changed: Entry, sets: dict[str, set[Any]]) -> Case:
    if kind == "dropped":
        return Case(kind, changed, [True] * len(changed.triplets), True)
    if kind == "renumbered":
        lost = set(re.findall(r"\d+", entry.text)) - set(re.findall(r"\d+", changed.text))
        known = [None if lost & set(re.findall(r"\d+", t.object.surfaceform)) else True for t in entry.triplets]
        truth: list[bool | None] = [False if known.count(None) == 1 and one is None else one for one in known]
        return Case(kind, changed, truth, None)
    if kind == "exchanged":
        theirs = {node for triplet in sets[changed.text] for node in (triplet.subject.uri, triplet.object.uri)}
        apart = [not {t.subject.uri, t.object.uri} <= theirs for t in changed.triplets]
        return Case(kind, changed, [False if is_apart else None for is_apart in apart], None)
    return Case(kind, changed, [triplet in entry.triplets for triplet in changed.triplets], None)


def in_own_words(graph: NamesGraph, entries: list[Entry]) -> list[Entry]:
    """The sets with texts of the built-in server."""
    node = Given(graph, []).node
    return [
        replace(
            entry,
            text=verbalise(
                [Fact(node(t.subject.uri)[1], t.predicate.surfaceform, node(t.object.uri)[1]) for t in entry.triplets],
                random.Random(number),
            ),
        )
        for number, entry in enumerate(entries)
    ]


def judged(cases: list[Case], graph: NamesGraph, config: JudgeConfig, folder: Path, max_usd: float) -> dict[int, Any]:
    """Row of judgement by number of the case."""
    texts = Given(graph, cases)
    if config.judges == ["nli"]:
        judge_by_entailment(config, texts, folder, no_progress)
    else:
        prompt = load_judge_prompt(config.llm.prompt)
        judge = LlmJudge(config.llm, prompt, texts, folder, seed=0, max_usd=max_usd)
        judge.judge(no_progress, None, None)
    return {row["id"]: row for table in read_judgements(folder) for row in table.to_pylist()}


def measure(cases: list[Case], rows: dict[int, Any]) -> None:
    """Print the shares."""
    told = [(case, rows[number]) for number, case in enumerate(cases) if rows[number]["problem"] is None]
    print(f"{len(cases):,} texts asked about, {len(cases) - len(told):,} not judged\n")
    print(f"{'':34}{'triplets':>10}{'share':>9}   95% interval")
    _print("sensitivity: stated, told so", _right(told, True))
    _print("specificity: not stated, told so", _right(told, False))
    for kind in dict.fromkeys(case.kind for case in cases):
        some = [pair for pair in told if pair[0].kind == kind]
        for truth, what in ((True, "stated"), (False, "not stated")):
            _print(f"  {kind}: {what}", _right(some, truth))
    if all(row["extras"] is None for _, row in told):
        return
    print("\ntexts")
    for truth, what in ((True, "more than the set, told so"), (False, "faithful, nothing more told")):
        hits = [bool(row["extras"]) == truth for case, row in told if case.says_more is truth]
        _print(what, (np.array(hits, int), np.ones(len(hits), int)))


def _right(told: list[tuple[Case, Any]], truth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of each text the triplets with that truth of which the judge says so, and all with that truth."""
    hits, trials = [], []
    for case, row in told:
        verdicts = [
            t["verdict"] == "stated" for t, known in zip(row["triplets"], case.truth, strict=True) if known is truth
        ]
        hits.append(sum(verdict == truth for verdict in verdicts))
        trials.append(len(verdicts))
    return np.array(hits, int), np.array(trials, int)


def _print(what: str, counts: tuple[np.ndarray, np.ndarray]) -> None:
    share: Share = clustered(*counts)
    if share.value is not None:
        print(f"{what:34}{counts[1].sum():10,}{share.value:9.1%}   {share.low:.1%} – {share.high:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=300, help="faithful texts; each is also corrupted in six ways")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the corruptions")
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint of the judge; none: the built-in server")
    parser.add_argument("--model", default=JudgeModelConfig().model)
    parser.add_argument("--prompt", default=JudgeModelConfig().prompt)
    parser.add_argument("--input-usd-per-million", type=float, help="price of a model that the table does not know")
    parser.add_argument("--output-usd-per-million", type=float)
    parser.add_argument("--max-usd", type=float, default=1.0)
    parser.add_argument("--own-words", action="store_true", help="texts of the built-in server instead of people's")
    parser.add_argument("--nli", help="an NLI model instead of an LLM")
    parser.add_argument("--folder", type=Path, help="where answers are kept, so that none is paid twice")
    asked = parser.parse_args()
    default = Path(__file__).resolve().parents[1] / "../shared/data"
    path = Path(os.environ.get("SYNTHIE_SHARED_DATA", default)) / SOURCE
    if not path.exists():
        sys.exit(f"{path} is missing. Set SYNTHIE_SHARED_DATA to the folder that holds {SOURCE}.")
    graph, entries = read_webnlg(path)
    if asked.own_words:
        entries = in_own_words(graph, entries)
    cases = make_cases(entries, World(entries), asked.texts, asked.seed)
    llm = JudgeModelConfig(
        base_url=asked.base_url,
        model=asked.model,
        prompt=asked.prompt,
        input_usd_per_million=asked.input_usd_per_million,
        output_usd_per_million=asked.output_usd_per_million,
    )
    config = JudgeConfig(judges=["nli" if asked.nli else "llm"], nli=asked.nli, llm=llm)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("judgements/*.parquet"):  # made anew from the kept answers
            old.unlink()
        print(f"judge: {asked.nli or asked.model}")
        measure(cases, judged(cases, graph, config, folder, asked.max_usd))


if __name__ == "__main__":
    main()
