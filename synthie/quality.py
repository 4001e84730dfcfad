"""Does a text state exactly the triplets it was written for?

A text and its triplet set go in, a `Verdict` comes out that names every fault:
which triplet is not stated, which span states something else. All checks are
deterministic and look at surfaces only (`synthie.surface`): every subject and
object must be stated in one of its usual forms, in connection, not denied, and
not in the words of another relation; names, numbers and dates that no triplet
gives must not appear, nor connections; and the text must be finished, running
English prose of its own. A text that shall state no triplet must name its topic,
and nothing else of the graph, not even a class.

Text and forms are compared as sequences of folded tokens (case, diacritics,
plural and possessive endings, thousands separators and punctuation removed),
looked up in hash tables: those of the set's own few forms, and a `NameIndex`
of the whole graph that is built when the first text needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, get_args

from synthie.checks.extras import Extras
from synthie.checks.prose import copied, most_words, prose_faults
from synthie.checks.reading import Reading, Reason, triplet_name
from synthie.checks.statements import missing, mistold, negated, overlinked, unlinked
from synthie.config import Action, Check, QualityConfig
from synthie.records import Mention, Triplet
from synthie.surface.cues import LearnedCues, Retold, TripletCues, find_cues, stable_hash
from synthie.surface.forms import Forms, Node, compile_forms, find_forms
from synthie.surface.language import long_sentences
from synthie.surface.names import NameIndex
from synthie.surface.relations import RelationCues
from synthie.surface.repeats import Repeat, find_repeats
from synthie.surface.tokens import COMMON_KEYS, Tokens, fold_all

__all__ = ["CHECKS", "Graph", "QualityGate", "Reason", "Verdict"]

CHECKS: tuple[Check, ...] = get_args(Check)
_CACHED_NODES = 1 << 12  # a date's forms take 10 kB and more
_FAR_TOO_LONG = 4  # times the words that a text may have: how well it states the triplets is not looked at any more


class Relation(Protocol):
    """A relation as the checks see it; `kg.catalogue.Relation` is one."""

    @property
    def label(self) -> str: ...
    @property
    def aliases(self) -> Sequence[str]: ...


class TypedNode(Node, Protocol):
    """A node as the checks see it; `kg.catalogue.Node` is one."""

    @property
    def types(self) -> Sequence[str]: ...


class Graph(Protocol):
    """What the checks ask of a knowledge graph; `kg.catalogue.Catalogue` fulfils it."""

    @property
    def relation_ids(self) -> Sequence[str]: ...
    @property
    def node_table(self) -> Any: ...  # pyarrow.Table with columns id, name, label, description, aliases, types, kind
    def node(self, identifier: str, /) -> TypedNode: ...
    def relation(self, identifier: str, /) -> Relation: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks say about one text.

    Attributes:
        accepted: True if no check found a fault, or only such as are flagged.
        repairable: not accepted, and the text may go back to its writer with its faults.
        reasons: all faults, in the order of the checks.
        mentions: node id -> character where it is first stated, -1 where it is not.
        cues: what an accepted text tells its triplets with, where the gate learns.
    """

    accepted: bool
    repairable: bool
    reasons: list[Reason]
    mentions: dict[str, int]
    cues: list[TripletCues] = field(default_factory=list)


class QualityGate:
    """The checks, ready for one graph. Not thread-safe; cheap to build.

    Args:
        config: what a text must fulfil.
        graph: names the nodes and relations.
        demonstrations: the texts of the prompt's demonstrations, which no response may repeat.
        learns: verdicts on accepted texts shall have their cues, for `learned_cues`.
    """

    def __init__(
        self, config: QualityConfig, graph: Graph, demonstrations: Iterable[str] = (), *, learns: bool = False
    ) -> None:
        self._config = config
        self._graph = graph
        self._learns = learns
        self._demonstrated = {keys for text in demonstrations for keys, _ in long_sentences(Tokens(text))}
        self._node_forms = lru_cache(_CACHED_NODES)(self._compile_node)
        self._node_class = lru_cache(_CACHED_NODES)(self._class_of_node)
        self._relation_keys = lru_cache(_CACHED_NODES)(self._compile_relation)

    def check(
        self,
        text: str,
        triplets: Sequence[Triplet],
        finish_reason: str | None = None,
        *,
        topic: Mention | None = None,
    ) -> Verdict:
        """Judge one text against the triplets it should state.

        Args:
            text: the response.
            triplets: the set; every ``uri`` is a node or relation id of the graph.
            finish_reason: why the model stopped, as the endpoint reported it.
            topic: for a text that should state no triplet, the entity that it should name.
        """
        tokens = Tokens(text)
        if len(tokens.keys) > _FAR_TOO_LONG * most_words(self._config, len(triplets)):
            uncovered = bytearray(len(tokens.keys))
            reasons = [*prose_faults(self._config, tokens, uncovered, len(triplets), finish_reason)]
            if (action := self.action(reasons)) != "flag":
                return Verdict(False, action == "repair", reasons, {})
        reading = self._read(tokens, triplets, topic)
        reasons = [*self._faults(reading, finish_reason)]
        starts = {uri: tokens.starts[places[0]] if places else -1 for uri, places in reading.places.items()}
        worst = self.action(reasons)
        accepted = worst in (None, "flag")
        return Verdict(accepted, worst == "repair", reasons, starts, self._told(reading) if accepted else [])

    def action(self, reasons: Iterable[Reason]) -> Action | None:
        """What becomes of a text with these faults; None where there are none."""
        config = self._config
        found = {config.actions.get(reason.check, config.action) for reason in reasons}
        return next((action for action in get_args(Action) if action in found), None) if found else None

    def cues(self, triplet: Triplet, words: Iterable[int] = ()) -> TripletCues:
        """A triplet and the hashes of the words that may tell it, as `LearnedCues` takes them."""
        return TripletCues(
            self._relation_numbers[triplet.predicate.uri],
            self._node_class(triplet.subject.uri),
            self._node_class(triplet.object.uri),
            tuple(dict.fromkeys(words)),
        )

    def learned_cues(self) -> LearnedCues:
        """What learns from the cues of all accepted texts, and finds those that tell another relation."""
        named = (
            (number, stable_hash(key))
            for uri, number in self._relation_numbers.items()
            for key in self._relation_keys(uri)
            if key not in COMMON_KEYS
        )
        return LearnedCues(len(self._relation_numbers), named)

    def retold(self, text: str, triplets: Sequence[Triplet], retold: Retold) -> Reason:
        """What is wrong with an accepted text, in words, from what `LearnedCues.judge` found."""
        reading = self._read(Tokens(text), triplets)
        tokens = reading.tokens
        relation, rival = (
            self._graph.relation(self._graph.relation_ids[number]).label for number in (retold.relation, retold.rival)
        )
        number, triplet, place = next(
            (number, triplet, place)
            for number, triplet in reading.numbered()
            if self._relation_numbers[triplet.predicate.uri] == retold.relation
            for place in find_cues(tokens, reading.covered, *reading.places_of(triplet))
            if stable_hash(tokens.keys[place]) == retold.word
        )
        how = f"{tokens.span(place, place + 1)} is how the texts tell of '{rival}', not of '{relation}'."
        return Reason("relation", f"{triplet_name(number, triplet)}: {how}")

    def near_duplicates(self, texts: Iterable[tuple[int, str]], folder: Path | None = None) -> Iterator[Repeat]:
        """The texts, with labels, that nearly repeat an earlier one; see `synthie.surface.repeats.find_repeats`."""
        return find_repeats(texts, self._config.near_duplicate, folder)

    @cached_property
    def names(self) -> NameIndex:
        """The names of the whole graph; built at first use."""
        return NameIndex(self._graph.node_table)

    @cached_property
    def _cues(self) -> RelationCues:
        relations = ((uri, self._graph.relation(uri)) for uri in self._graph.relation_ids)
        return RelationCues((uri, relation.label, relation.aliases) for uri, relation in relations)

    @cached_property
    def _relation_numbers(self) -> dict[str, int]:
        return {uri: number for number, uri in enumerate(self._graph.relation_ids)}

    def _read(self, tokens: Tokens, triplets: Sequence[Triplet], topic: Mention | None = None) -> Reading:
        named = [node for triplet in triplets for node in (triplet.subject, triplet.object)]
        forms = {node.uri: self._node_forms(node.uri) for node in (*named, *([topic] if topic else []))}
        matches = find_forms(tokens, forms, self._is_name)
        return Reading(tokens, triplets, topic, forms, matches.places, matches.covered)

    def _faults(self, reading: Reading, finish_reason: str | None) -> Iterator[Reason]:
        """All faults, in the order of the checks."""
        config, tokens, covered = self._config, reading.tokens, reading.covered
        yield from prose_faults(config, tokens, covered, len(reading.triplets), finish_reason)
        yield from copied(tokens, covered, self._demonstrated)
        if config.check_entities:
            yield from missing(reading)
            yield from unlinked(reading)
            yield from negated(reading)
            yield from mistold(reading, self._cues)
        if config.check_extra:
            yield from overlinked(reading)
            yield from Extras(reading, self._licensed(reading), self.names).reasons()

    def _licensed(self, reading: Reading) -> set[str]:
        """The keys that the set's nodes and relations give."""
        relations = [self._relation_keys(triplet.predicate.uri) for triplet in reading.triplets]
        return set().union(*relations, *[form.licensed for form in reading.forms.values()])

    def _told(self, reading: Reading) -> list[TripletCues]:
        """What an accepted text tells its triplets with; nothing where the gate does not learn."""
        if not self._learns:
            return []
        hashes = [stable_hash(key) for key in reading.tokens.keys]
        return [
            self.cues(
                triplet,
                [hashes[i] for i in find_cues(reading.tokens, reading.covered, *reading.places_of(triplet))],
            )
            for triplet in reading.triplets
        ]

    def _class_of_node(self, uri: str) -> int:
        """The same number for nodes of one kind; free texts and entities of no type are each a kind of their own."""
        node = self._graph.node(uri)
        kind = node.types[0] if node.types else uri
        return stable_hash(kind if node.kind in ("entity", "string") else node.kind)

    def _is_name(self, phrase: tuple[str, ...]) -> bool:
        return self.names.is_name(phrase)

    def _compile_node(self, uri: str) -> Forms:
        return compile_forms(self._graph.node(uri))

    def _compile_relation(self, uri: str) -> frozenset[str]:
        relation = self._graph.relation(uri)
        return frozenset(key for text in (relation.label, *relation.aliases) for key in fold_all(text))
