"""How well the quality checks tell faithful texts from unfaithful ones, on texts that people wrote.

Reads WebNLG texts whose triplets are mapped to Wikidata ids (``webnlg-wikidata/dev.xml.gz`` under
``SYNTHIE_SHARED_DATA`` or ``../shared/data``), lets the checks judge every faithful text, and every
text against a set that was corrupted in one of five ways, and prints the share that passes or is
caught, the reasons for faithful texts that fail, and the speed; the same for relations told in the words of
others, which the checks learn from texts, as "learned" from those of the other half, and "in a run" from those of
the half itself, a tenth of them with a relation replaced; then how the verdicts on machine-written
texts (``wdv/claims.csv.gz``) agree with readers' votes. The checks were developed on one half
of the sets, drawn by a hash; the other half is held back, and no text of it is ever shown.

    python benchmarks/quality.py [--examples N]
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import hashlib
import os
import random
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from synthie.config import QualityConfig
from synthie.quality import QualityGate, Verdict
from synthie.records import Mention, Triplet
from synthie.surface.cues import CueTable, LearnedCues

SOURCE = Path("webnlg-wikidata/dev.xml.gz")
HALVES = ("development", "held back")
RELABELLED = 0.1  # share of the texts of a run that tell another relation
_ITEM = re.compile(r"'id': '(Q\d+)'")
OTHERS = Path("wdv/claims.csv.gz")  # texts with votes, names and descriptions of further Wikidata items
# The XML has names only. These are the aliases that Wikidata gives to nodes and relations that the texts name often.
ALIASES = {
    "Q30": ["US", "USA", "U.S.", "U.S.A.", "America", "the States"],
    "Q145": ["UK", "U.K.", "Great Britain"],
    "Q49297": ["Native Americans", "American Indians"],
    "Q1355": ["Bangalore"],
    "Q11223": ["USAF", "US Air Force"],
    "Q395": ["math", "maths"],
    "Q193955": ["hardcover", "hardback book"],
    "Q11696": ["US President", "President"],
}
RELATION_ALIASES = {
    "P6": ["mayor", "prime minister", "premier", "chancellor", "governor", "president", "leader"],
    "P106": ["profession", "job", "career"],
    "P26": ["wife", "husband", "married to"],
}


@dataclass(frozen=True)
class Entry:
    """A triplet set and one text that people wrote for it."""

    triplets: tuple[Triplet, ...]
    text: str

    @property
    def half(self) -> str:
        """Which half the set belongs to, "development" or "held back"; all texts of one set belong to the same."""
        keys = "\n".join(sorted("|".join(triplet.key) for triplet in self.triplets))
        return HALVES[hashlib.sha256(keys.encode()).digest()[0] % 2]


class NamesGraph:
    """A graph that consists of names, enough for the checks."""

    def __init__(
        self, nodes: dict[str, SimpleNamespace], relations: dict[str, str], aliases: dict[str, list[str]]
    ) -> None:
        self._nodes = nodes
        self._relations = relations
        self._aliases = aliases
        self.node_table = pa.table(
            {
                "id": list(nodes),
                **{key: [getattr(node, key) for node in nodes.values()] for key in ("name", "label", "description")},
                "aliases": pa.array([node.aliases for node in nodes.values()], pa.list_(pa.string())),
                "types": pa.array([[] for _ in nodes], pa.list_(pa.string())),
                "kind": [node.kind for node in nodes.values()],
            }
        )

    def node(self, id: str) -> SimpleNamespace:  # noqa: A002
        return self._nodes[id]

    def relation(self, id: str) -> SimpleNamespace:  # noqa: A002
        return SimpleNamespace(label=self._relations[id], aliases=self._aliases.get(id, []))

    @property
    def relation_ids(self) -> list[str]:
        return list(self._relations)


def read_webnlg(path: Path) -> tuple[NamesGraph, list[Entry]]:
    """The names and the faithful texts of a WebNLG file with Wikidata ids."""
    with gzip.open(path) as file:
        root = ElementTree.parse(file).getroot()
    nodes: dict[str, SimpleNamespace] = {}
    relations: dict[str, str] = {}
    entries = []
    for element in root.iter("entry"):
        triplets = []
        originals = _originals(element)
        for number, mapped in enumerate(element.iter("mtriple")):
            names = [name.strip() for name in (mapped.text or "").split(" | ")]
            ids = [code.strip() for code in (mapped[0].text or "").split(" | ")]
            relations[ids[1]] = names[1]
            mentions = []
            for place in (0, 2):
                titles = {triple[number][place] for triple in originals if number < len(triple)}
                mentions.append(_add_node(nodes, ids[place], names[place], titles))
            triplets.append(Triplet(mentions[0], Mention(names[1], ids[1]), mentions[1]))
        texts = [lex.text for lex in element.iter("lex") if lex.get("comment") == "good" and lex.text]
        entries += [Entry(tuple(triplets), " ".join(text.split())) for text in texts]
    for code, label, description in _other_items(path.parents[1] / OTHERS):
        nodes.setdefault(code, _node(code, label.replace(" ", "_"), label, "entity", [])).description = description
    return NamesGraph(nodes, relations, _relation_aliases(path.parents[1] / OTHERS)), entries


def read_wdv(path: Path) -> tuple[NamesGraph, list[Entry], list[float]]:
    """The names, the machine-written texts, each for one triplet, and the share of readers that found each adequate."""
    nodes: dict[str, SimpleNamespace] = {}
    relations: dict[str, str] = {}
    entries, votes = [], []
    for row in _rows(path):
        subject = Mention(row["entity_label"], row["entity_id"])
        nodes.setdefault(
            subject.uri, _node(subject.uri, row["entity_label"], row["entity_label"], "entity", _names(row, "entity"))
        )
        kind, name = _wdv_value(row)
        code = f"{kind}:{name}"
        if match := _ITEM.search(row["datavalue"]):
            code = match[1]
        nodes.setdefault(code, _node(code, name, name, kind, _names(row, "object") if kind == "entity" else []))
        relations[row["property_id"]] = row["property_label"]
        predicate = Mention(row["property_label"], row["property_id"])
        entries.append(Entry((Triplet(subject, predicate, Mention(name, code)),), row["processed_verbalisation"]))
        votes.append(re.findall(r"\d", row["adequacy"]).count("0") / len(re.findall(r"\d", row["adequacy"])))
    return NamesGraph(nodes, relations, _relation_aliases(path)), entries, votes


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _names(row: dict[str, str], part: str) -> list[str]:
    names = row[f"{part}_alias"]
    return [str(name) for name in ast.literal_eval(names)] if names.startswith("[") else []


def _wdv_value(row: dict[str, str]) -> tuple[str, str]:
    """Kind and canonical name of an object."""
    if row["datatype"] == "time":
        match = re.fullmatch(r"(\d\d)/(\d\d)/(\d{4})", row["object_label"])
        return _literal("-".join(reversed(match.groups()))) if match else ("date", row["object_label"])
    kind = {"wikibase-item": "entity", "quantity": "quantity"}.get(row["datatype"], "string")
    return kind, row["object_label"]


def _relation_aliases(path: Path) -> dict[str, list[str]]:
    """The aliases that Wikidata gives to the relations."""
    return {row["property_id"]: _names(row, "property") for row in _rows(path)} | RELATION_ALIASES


def _other_items(path: Path) -> Iterator[tuple[str, str, str]]:
    """(id, label, description) of items that the texts do not tell of, as a real graph is full of them."""
    for row in _rows(path):
        yield row["entity_id"], row["entity_label"], row["entity_desc"]
        if match := _ITEM.search(row["datavalue"]):
            yield match[1], row["object_label"], row["object_desc"]


def _originals(element: ElementTree.Element) -> list[list[list[str]]]:
    """The DBpedia names of each variant of the set, which are titles of English Wikipedia."""
    return [
        [[re.sub(r'^"|"(@en)?$', "", part.strip()) for part in (triple.text or "").split(" | ")] for triple in variant]
        for variant in element.iter("originaltripleset")
    ]


def _add_node(nodes: dict[str, SimpleNamespace], code: str, name: str, titles: set[str]) -> Mention:
    if code.startswith("##"):
        kind, name = _literal(name.strip('"'))
        code = f"{kind}:{name}"
        nodes.setdefault(code, _node(code, name, name, kind, []))
        return Mention(name, code)
    similar = sorted(title for title in titles if _similar(title, name))
    title = similar[0] if similar else name.replace(" ", "_")
    known = nodes.setdefault(code, _node(code, title, name, "entity", ALIASES.get(code, [])))
    for other in (name, *(title.replace("_", " ") for title in similar)):
        if other not in (known.name.replace("_", " "), known.label, *known.aliases):
            known.aliases.append(other)
    return Mention(title, code)


def _node(code: str, name: str, label: str, kind: str, aliases: list[str]) -> SimpleNamespace:
    return SimpleNamespace(id=code, name=name, label=label, description="", kind=kind, aliases=list(aliases), types=[])


def _similar(title: str, name: str) -> bool:
    """The variants do not always list their triples in the mapped order; a shared word tells that these belong."""
    words = [set(re.findall(r"\w{3,}|\d+", text.replace("_", " ").casefold())) for text in (title, name)]
    return bool(words[0] & words[1]) or not all(words)


def _literal(name: str) -> tuple[str, str]:
    """Kind and canonical name of a literal, as the graph would have it."""
    if match := re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", name):
        day = date(*map(int, match.groups()))
        return "date", f"{day.day} {day:%B %Y}"
    if match := re.fullmatch(r"(-?\d+(?:\.\d+)?)(?: \((.+)\))?", name):
        unit = re.sub(r"(kilogram|second|day|kelvin|re)s\b", r"\1", match[2] or "")
        return "quantity", f"{re.sub(r'[.]0+$', '', match[1])} {unit}".strip()
    return "string", name


# --- Corruptions: each returns the changed set and text, or None where it does not apply ----------------------------


def dropped(entry: Entry, world: World, draw: random.Random) -> Entry | None:
    """The set lacks a triplet: the text says too much."""
    if len(entry.triplets) < 2:
        return None
    gone = draw.randrange(len(entry.triplets))
    return replace(entry, triplets=entry.triplets[:gone] + entry.triplets[gone + 1 :])


def added(entry: Entry, world: World, draw: random.Random) -> Entry | None:
    """The set has one more triplet, about one of its nodes if possible: the text says too little."""
    known = {triplet.key for triplet in entry.triplets}
    near = [triplet for uri in sorted(_nodes(entry)) for triplet in world.about[uri] if triplet.key not in known]
    return replace(entry, triplets=(*entry.triplets, draw.choice(near or world.triplets)))


def swapped(entry: Entry, world: World, draw: random.Random) -> Entry | None:
    """An object is another one of the same relation."""
    place = draw.randrange(len(entry.triplets))
    triplet = entry.triplets[place]
    others = [object_ for object_ in world.objects[triplet.predicate.uri] if object_.uri != triplet.object.uri]
    if not others:
        return None
    changed = replace(triplet, object=draw.choice(others))
    return replace(entry, triplets=(*entry.triplets[:place], changed, *entry.triplets[place + 1 :]))


def relabelled(entry: Entry, world: World, draw: random.Random) -> Entry | None:
    """A relation is another one that links such things: the text tells of a mayor where the set has an architect."""
    place = draw.randrange(len(entry.triplets))
    triplet = entry.triplets[place]
    own = {other.predicate for other in entry.triplets}
    others = [predicate for predicate in world.alike[triplet.predicate.uri] if predicate not in own]
    if not others:
        return None
    changed = replace(triplet, predicate=draw.choice(others))
    return replace(entry, triplets=(*entry.triplets[:place], changed, *entry.triplets[place + 1 :]))


def renumbered(entry: Entry, world: World, draw: random.Random) -> Entry | None:
    """A digit of a number or date in the text differs."""
    literals = [triplet.object for triplet in entry.triplets if triplet.object.uri.startswith(("date:", "quantity:"))]
    numbers = {number for literal in literals for number in re.findall(r"\d+", literal.uri)}
    places = [
        place for number in re.finditer(r"\d+", entry.text) if number[0] in numbers for place in range(*number.span())
    ]
    if not places:
        return None
    place = draw.choice(places)
    digit = draw.choice([digit for digit in "123456789" if digit != entry.text[place]])
    return replace(entry, text=entry.text[:place] + digit + entry.text[place + 1 :])


def exchanged(entry: Entry, world: World, draw: random.Random) -> Entry | None:
    """The text belongs to another set of the same size."""
    others = world.by_size[len(entry.triplets)]
    while True:
        other = draw.choice(others)
        if set(other.triplets) != set(entry.triplets):
            return replace(entry, text=other.text)


CORRUPTIONS: tuple[Callable[[Entry, World, random.Random], Entry | None], ...] = (
    dropped,
    added,
    swapped,
    renumbered,
    exchanged,
    relabelled,
)


class World:
    """All triplets of the texts, by what the corruptions look for."""

    def __init__(self, entries: list[Entry]) -> None:
        self.triplets = list({triplet.key: triplet for entry in entries for triplet in entry.triplets}.values())
        self.about: defaultdict[str, list[Triplet]] = defaultdict(list)
        self.objects: defaultdict[str, list[Mention]] = defaultdict(list)
        self.by_size: defaultdict[int, list[Entry]] = defaultdict(list)
        for triplet in self.triplets:
            self.about[triplet.subject.uri].append(triplet)
            self.objects[triplet.predicate.uri].append(triplet.object)
        self.alike = self._alike()
        for entry in entries:
            self.by_size[len(entry.triplets)].append(entry)

    def _alike(self) -> dict[str, list[Mention]]:
        """Relation id -> the relations that share both a subject and an object with it."""
        subjects: defaultdict[str, set[str]] = defaultdict(set)
        objects: defaultdict[str, set[str]] = defaultdict(set)
        predicates = {triplet.predicate.uri: triplet.predicate for triplet in self.triplets}
        for triplet in self.triplets:
            subjects[triplet.predicate.uri].add(triplet.subject.uri)
            objects[triplet.predicate.uri].add(triplet.object.uri)
        return {
            one: [
                predicate
                for other, predicate in predicates.items()
                if other != one and subjects[one] & subjects[other] and objects[one] & objects[other]
            ]
            for one in predicates
        }


def measure(path: Path, examples: int = 0, seed: int = 0) -> dict[str, dict[str, float]]:
    """For each half the share of faithful texts that pass, of corrupted ones that are caught, and texts per second."""
    graph, entries = read_webnlg(path)
    gate, world = QualityGate(QualityConfig(), graph, learns=True), World(entries)
    gate.check(entries[0].text, entries[0].triplets)  # builds the index
    halves = {half: [entry for entry in entries if entry.half == half] for half in HALVES}
    figures = {half: _measure_half(gate, world, half, halves[half], examples, seed) for half in HALVES}
    for half, other in zip(HALVES, reversed(HALVES), strict=True):
        figures[half] |= _measure_learning(gate, world, halves[half], halves[other], seed)
    return figures


def _measure_half(
    gate: QualityGate, world: World, half: str, entries: list[Entry], examples: int, seed: int
) -> dict[str, float]:
    draw = random.Random(seed)
    examples = examples if half == "development" else 0
    start = time.process_time()
    verdicts = [gate.check(entry.text, entry.triplets) for entry in entries]
    first = time.process_time()
    for entry in entries:
        gate.check(entry.text, entry.triplets)
    figures = {
        "texts": len(entries),
        "texts/s, new nodes": len(entries) / (first - start),
        "texts/s, known nodes": len(entries) / (time.process_time() - first),
        "faithful pass": sum(verdict.accepted for verdict in verdicts) / len(entries),
        "  without free text": _pass_without_free_text(entries, verdicts),
    }
    _show(f"{half}: faithful, rejected", entries, verdicts, False, examples, draw)
    for corrupt in CORRUPTIONS:
        changed = [entry for entry in (corrupt(entry, world, draw) for entry in entries) if entry]
        verdicts = [gate.check(entry.text, entry.triplets) for entry in changed]
        figures[f"{corrupt.__name__} caught"] = sum(not verdict.accepted for verdict in verdicts) / len(changed)
        _show(f"{half}: {corrupt.__name__}, accepted", changed, verdicts, True, examples, draw)
        if corrupt is dropped:
            figures["  with a node"] = _caught_with_a_node(entries, changed, verdicts)
    return figures


def _measure_learning(
    gate: QualityGate, world: World, entries: list[Entry], others: list[Entry], seed: int
) -> dict[str, float]:
    """What learning adds: from faithful texts of other sets, and in a run, from the judged texts themselves."""
    draw = random.Random(seed)
    faithful = [gate.check(entry.text, entry.triplets) for entry in entries]
    changed = [entry for entry in (relabelled(entry, world, draw) for entry in entries) if entry]
    relabels = [gate.check(entry.text, entry.triplets) for entry in changed]
    learned = _learned(gate, world, [gate.check(entry.text, entry.triplets) for entry in others])
    run, is_wrong = [], []
    for entry, verdict in zip(entries, faithful, strict=True):
        wrong = relabelled(entry, world, draw) if draw.random() < RELABELLED else None
        run.append(gate.check(wrong.text, wrong.triplets) if wrong else verdict)
        is_wrong.append(wrong is not None)
    start = time.process_time()
    passes = _pass(_learned(gate, world, run), run, added=True)
    seconds = time.process_time() - start
    return {
        "learned: faithful pass": float(_pass(learned, faithful, added=False).mean()),
        "  relabelled caught": float((~_pass(learned, relabels, added=False)).mean()),
        "in a run: faithful pass": float(passes[~np.array(is_wrong)].mean()),
        "  relabelled are caught": float((~passes[is_wrong]).mean()),
        "texts/s, learning alone": len(run) / seconds,
    }


def _learned(gate: QualityGate, world: World, verdicts: list[Verdict]) -> LearnedCues:
    """What the accepted texts teach; the graph's triplets show which relations link alike nodes."""
    learned = gate.learned_cues()
    learned.add(CueTable.of([[gate.cues(triplet) for triplet in world.triplets]]))
    table = CueTable.of([verdict.cues for verdict in verdicts if verdict.accepted])
    learned.add(table)
    learned.settle(table)
    return learned


def _pass(learned: LearnedCues, verdicts: list[Verdict], *, added: bool) -> np.ndarray:
    """bool[texts], whether the checks accept a text and the learned cues do not object."""
    passes = np.array([verdict.accepted for verdict in verdicts])
    table = CueTable.of([verdict.cues for verdict in verdicts if verdict.accepted])
    passes[np.flatnonzero(passes)[[retold.text for retold in learned.judge(table, added=added)]]] = False
    return passes


def compare_with_votes(path: Path) -> dict[str, float]:
    """How the verdicts on machine-written texts agree with what readers voted on their adequacy."""
    graph, entries, votes = read_wdv(path)
    gate = QualityGate(QualityConfig(), graph)
    accepted = np.array([gate.check(entry.text, entry.triplets).accepted for entry in entries])
    shares = np.array(votes)
    better = np.sign(shares[accepted][:, None] - shares[~accepted][None, :])
    return {
        "texts": len(entries),
        "accepted": float(accepted.mean()),
        "accepted of adequate": float(accepted[shares > 0.5].mean()),
        "rejected of inadequate": float((~accepted)[shares <= 0.5].mean()),
        "correlation": float(np.corrcoef(accepted, shares)[0, 1]),
        "area under ROC": float((better.mean() + 1) / 2),
    }


def _pass_without_free_text(entries: list[Entry], verdicts: list[Verdict]) -> float:
    """Share that passes of the sets whose literals are dates and quantities, the kinds that a graph keeps unasked."""
    passes = [
        verdict.accepted
        for entry, verdict in zip(entries, verdicts, strict=True)
        if not any(uri.startswith("string:") for uri in _nodes(entry))
    ]
    return sum(passes) / len(passes)


def _caught_with_a_node(entries: list[Entry], changed: list[Entry], verdicts: list[Verdict]) -> float:
    """Share that is caught of the sets that lost not only a triplet but also a node, which checks of names can see."""
    nodes_of_text: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        nodes_of_text[entry.text] |= _nodes(entry)
    caught = [
        not verdict.accepted
        for entry, verdict in zip(changed, verdicts, strict=True)
        if _nodes(entry) != nodes_of_text[entry.text]
    ]
    return sum(caught) / len(caught)


def _nodes(entry: Entry) -> set[str]:
    return {mention.uri for triplet in entry.triplets for mention in (triplet.subject, triplet.object)}


def _show(
    title: str, entries: list[Entry], verdicts: list[Verdict], accepted: bool, examples: int, draw: random.Random
) -> None:
    wrong = [pair for pair in zip(entries, verdicts, strict=True) if pair[1].accepted == accepted]
    if not accepted:
        print(title, dict(Counter(check for _, verdict in wrong for check in {r.check for r in verdict.reasons})))
    for entry, verdict in random.Random(draw.random()).sample(wrong, min(examples, len(wrong))):
        print(f"\n[{title}] {entry.text}")
        for triplet in entry.triplets:
            print(
                "   ",
                " | ".join((triplet.subject.surfaceform, triplet.predicate.surfaceform, triplet.object.surfaceform)),
            )
        for reason in verdict.reasons:
            print("  -", reason.check, reason.detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=0, help="wrongly judged texts to print of each kind")
    arguments = parser.parse_args()
    default = Path(__file__).resolve().parents[1] / "../shared/data"
    path = Path(os.environ.get("SYNTHIE_SHARED_DATA", default)) / SOURCE
    if not path.exists():
        sys.exit(f"{path} is missing. Set SYNTHIE_SHARED_DATA to the folder that holds {SOURCE}.")
    figures = measure(path, arguments.examples)
    print(f"{'':24}" + "".join(f"{half:>14}" for half in HALVES))
    for name in figures[HALVES[0]]:
        values = (figures[half][name] for half in HALVES)
        print(f"{name:24}" + "".join(f"{value:14.1%}" if value <= 1 else f"{value:14,.0f}" for value in values))
    print("\nmachine-written texts, against readers' votes on their adequacy")
    for name, value in compare_with_votes(path.parents[1] / OTHERS).items():
        print(f"{name:24}" + (f"{value:14.3f}" if value <= 1 else f"{value:14,.0f}"))


if __name__ == "__main__":
    main()
