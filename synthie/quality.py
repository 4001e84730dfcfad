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

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

from synthie.config import Action, Check, QualityConfig
from synthie.records import Mention, Triplet
from synthie.surface.cues import LearnedCues, Retold, TripletCues, find_cues, stable_hash
from synthie.surface.english import (
    CHATTER,
    CHATTER_OPENING,
    MARKUP,
    MONTHS,
    NEGATION_SOFTENERS,
    looks_inflected,
)
from synthie.surface.forms import Forms, Matches, Node, compile_forms, find_forms
from synthie.surface.language import foreign_word, is_acronym, long_sentences
from synthie.surface.names import CLASS, COMMON, LONGEST_NAME, LONGEST_NOUN, PROPER, NameIndex
from synthie.surface.relations import RelationCues
from synthie.surface.repeats import Repeat, find_repeats
from synthie.surface.tokens import (
    COMMON_KEYS,
    NEGATION_KEYS,
    NEUTRAL_KEYS,
    NUMBER_KEYS,
    POSSESSIVE,
    REFERRING_KEYS,
    REMARK_KEYS,
    Tokens,
    fold_all,
    quote,
)
from synthie.surface.variants import is_derived, is_misspelt

__all__ = ["CHECKS", "Graph", "QualityGate", "Reason", "Verdict"]

CHECKS: tuple[Check, ...] = get_args(Check)
_CACHED_NODES = 1 << 12  # a date's forms take 10 kB and more
_FAR_TOO_LONG = 4  # times the words that a text may have: how well it states the triplets is not looked at any more
_SENTENCE_END = re.compile(r"""[.!?…]["'”’»)\]]*\s*\Z""")


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


class Reason(NamedTuple):
    """One fault: the check that found it, and where and what it is."""

    check: Check
    detail: str


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
        if len(tokens.keys) > _FAR_TOO_LONG * self._most_words(len(triplets)):
            reasons = [*self._form_faults(text, tokens, bytearray(len(tokens.keys)), len(triplets), finish_reason)]
            if (action := self.action(reasons)) != "flag":
                return Verdict(False, action == "repair", reasons, {})
        named = [node for triplet in triplets for node in (triplet.subject, triplet.object)]
        forms = {node.uri: self._node_forms(node.uri) for node in (*named, *([topic] if topic else []))}
        matches = find_forms(tokens, forms, self._is_name)
        reasons = [*self._form_faults(text, tokens, matches.covered, len(triplets), finish_reason)]
        reasons += self._copied(tokens, matches.covered)
        if self._config.check_entities:
            reasons += _missing(triplets, matches.places)
            reasons += _unlinked(tokens, triplets, matches)
            reasons += _negated(tokens, triplets, matches)
            reasons += self._retold(tokens, triplets, matches)
            if topic and not matches.places[topic.uri]:
                reasons.append(Reason("missing", f"The topic '{topic.surfaceform}' ({topic.uri}) is not named."))
        if self._config.check_extra:
            reasons += _overlinked(tokens, triplets, matches)
            reasons += self._extra(tokens, forms, matches.covered, triplets)
        starts = {uri: tokens.starts[places[0]] if places else -1 for uri, places in matches.places.items()}
        worst = self.action(reasons)
        accepted = worst in (None, "flag")
        cues = []
        if accepted and self._learns:
            cues = [self.cues(triplet, _cue_words(tokens, triplet, matches)) for triplet in triplets]
        return Verdict(accepted, worst == "repair", reasons, starts, cues)

    def action(self, reasons: Iterable[Reason]) -> Action | None:
        """What becomes of a text with these faults; None where there are none."""
        config = self._config
        found = {config.actions.get(reason.check, config.action) for reason in reasons}
        return next((action for action in get_args(Action) if action in found), None)

    def cues(self, triplet: Triplet, words: Iterable[str] = ()) -> TripletCues:
        """A triplet and the folded words that may tell it, as `LearnedCues` takes them."""
        return TripletCues(
            self._relation_numbers[triplet.predicate.uri],
            self._node_class(triplet.subject.uri),
            self._node_class(triplet.object.uri),
            tuple(dict.fromkeys([stable_hash(word) for word in words])),
        )

    def learned_cues(self) -> LearnedCues:
        """What learns from the cues of all accepted texts, and finds those that tell another relation."""
        return LearnedCues(len(self._relation_numbers))

    def retold(self, text: str, triplets: Sequence[Triplet], retold: Retold) -> Reason:
        """What is wrong with an accepted text, in words, from what `LearnedCues.judge` found."""
        tokens = Tokens(text)
        named = [node for triplet in triplets for node in (triplet.subject, triplet.object)]
        matches = find_forms(tokens, {node.uri: self._node_forms(node.uri) for node in named}, self._is_name)
        relation, rival = (
            self._graph.relation(self._graph.relation_ids[number]).label for number in (retold.relation, retold.rival)
        )
        number, triplet, place = next(
            (number, triplet, place)
            for number, triplet in enumerate(triplets, start=1)
            if self._relation_numbers[triplet.predicate.uri] == retold.relation
            for place in _cue_places(tokens, triplet, matches)
            if stable_hash(tokens.keys[place]) == retold.word
        )
        how = f"{tokens.span(place, place + 1)} is how the texts tell of '{rival}', not of '{relation}'."
        return Reason("relation", f"{_triplet(number, triplet)}: {how}")

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

    def _class_of_node(self, uri: str) -> int:
        """The same number for nodes of one kind; free texts and entities of no type are each a kind of their own."""
        node = self._graph.node(uri)
        kind = node.types[0] if node.types else uri
        return stable_hash(kind if node.kind in ("entity", "string") else node.kind)

    def _is_name(self, phrase: tuple[str, ...]) -> bool:
        return self.names.find([phrase], PROPER)[0] >= 0

    def _compile_node(self, uri: str) -> Forms:
        return compile_forms(self._graph.node(uri))

    def _compile_relation(self, uri: str) -> frozenset[str]:
        relation = self._graph.relation(uri)
        return frozenset(key for text in (relation.label, *relation.aliases) for key in fold_all(text))

    def _form_faults(
        self, text: str, tokens: Tokens, covered: bytearray, size: int, finish_reason: str | None
    ) -> Iterator[Reason]:
        """Faults of the text as such, whatever it states."""
        if not tokens.keys:
            yield Reason("empty", "The text holds no word.")
            return
        if match := CHATTER_OPENING.match(text) or CHATTER.search(text):
            yield Reason("refusal", f"{quote(text, *match.span())} speaks about the task instead of doing it.")
        if match := MARKUP.search(text):
            yield Reason("markup", f"{quote(text, *match.span())} is markup, not prose.")
        if finish_reason == "length":
            yield Reason("truncated", "The model stopped at the token limit (finish_reason 'length').")
        elif not _SENTENCE_END.search(text):
            yield Reason("truncated", f"The text ends without a full stop: '…{text.rstrip()[-30:]}'.")
        if foreign := foreign_word(tokens, covered):
            yield Reason("language", f"{foreign} shows that the text is not English.")
        words, most = len(tokens.keys), self._most_words(size)
        if words < self._config.min_words:
            yield Reason("length", f"The text has {words} words; at least {self._config.min_words} are asked for.")
        elif words > most:
            what = f"{size} triplets" if size else "a text without triplets"
            yield Reason("length", f"The text has {words} words; {what} may have at most {most}.")

    def _most_words(self, triplets: int) -> int:
        return self._config.max_words_per_triplet * max(1, triplets)

    def _copied(self, tokens: Tokens, covered: bytearray) -> Iterator[Reason]:
        """Sentences of the prompt's demonstrations that name what is not in the set."""
        if not self._demonstrated:
            return
        for keys, start in long_sentences(tokens):
            end = start + len(keys)
            if keys in self._demonstrated and any(
                not covered[i] and not tokens.is_lower(i) and tokens.keys[i] not in COMMON_KEYS
                for i in range(start, end)
            ):
                yield Reason("demonstration", f"{tokens.span(start, end)} is copied from a demonstration.")

    def _retold(self, tokens: Tokens, triplets: Sequence[Triplet], matches: Matches) -> Iterator[Reason]:
        """Triplets of which the text tells another relation: "directed by" where the set has a screenwriter."""
        relations = frozenset(triplet.predicate.uri for triplet in triplets)
        if not any(self._cues.may_rival(uri) for uri in relations):
            return
        free = ["" if covered else key for key, covered in zip(tokens.keys, matches.covered, strict=True)]
        for number, triplet in enumerate(triplets, start=1):
            uri = triplet.predicate.uri
            if not self._cues.may_rival(uri) or self._cues.tells(tokens.keys, uri):
                continue
            told = {tokens.sentences[i] for i in matches.places[triplet.object.uri]}
            for i, label in self._cues.rivals(free, uri, relations):
                if tokens.sentences[i] in told:
                    detail = f"{tokens.span(i, i + 1)} tells of '{label}', and no word of the triplet's relation."
                    yield Reason("relation", f"{_triplet(number, triplet)}: {detail}")
                    break

    def _extra(
        self,
        tokens: Tokens,
        forms: dict[str, Forms],
        covered: bytearray,
        triplets: Sequence[Triplet],
    ) -> list[Reason]:
        """Names and numbers that no form of the set accounts for; where there are no triplets, numbers in words too."""
        licensed = set().union(*(form.licensed for form in forms.values()))
        licensed.update(*(self._relation_keys(triplet.predicate.uri) for triplet in triplets))
        numbers, foreign, familiar, nouns = [], [], [], []
        for i, (key, word) in enumerate(zip(tokens.keys, tokens.words, strict=True)):
            if covered[i]:
                continue
            if word[0].isdigit() or (not triplets and key in NUMBER_KEYS):
                if key not in licensed:
                    numbers.append(i)
            elif key in COMMON_KEYS:
                if word[:2].isupper() and key not in licensed and is_acronym(tokens, i):
                    foreign.append(i)
                elif word[0].isupper() and key != "the" and (tokens.is_capital(i + 1) or not tokens.opens_sentence(i)):
                    familiar.append(i)
            elif word[0].isupper():
                if key in licensed:
                    familiar.append(i)
                elif self._opens_plainly(tokens, i, covered) or (not triplets and _opens_remark(tokens, i)):
                    nouns.append(i)
                elif key not in NEUTRAL_KEYS and not is_derived(key, licensed):
                    foreign.append(i)
            elif key not in licensed:
                nouns.append(i)
        foreign = [
            i
            for i in foreign
            if not self._lone_word(tokens, i, foreign)
            and (not is_misspelt(tokens.keys[i], licensed) or self._is_name(tokens.keys[i : i + 1]))
        ]
        reasons = [
            Reason("extra_number", f"{tokens.span(i, i + 1)} is a number that no triplet gives.") for i in numbers
        ]
        for start, end in _runs(foreign, tokens):
            what = "a date" if tokens.keys[start] in MONTHS else "a name"
            known = self.names.find_one(tokens.keys[start:end])
            known = f" ({known})" if known else ""
            reasons.append(Reason("extra_name", f"{tokens.span(start, end)} is {what}{known} that no triplet gives."))
        kinds = (COMMON,) if triplets else (COMMON, CLASS)
        for start, end, number in self._graph_names(tokens, familiar, nouns, covered, kinds):
            if any(
                _contains(phrase.keys, tokens.keys[start:end]) for form in forms.values() for phrase in form.phrases
            ):
                continue
            node = self.names.describe(number)
            reasons.append(Reason("extra_name", f"{tokens.span(start, end)} is the name of {node}, in no triplet."))
        return reasons

    def _opens_plainly(self, tokens: Tokens, i: int, covered: bytearray) -> bool:
        """Whether a word is capitalised only because it opens a sentence."""
        word = tokens.words[i]
        if not tokens.opens_sentence(i) or not word[1:].islower():
            return False
        if looks_inflected(word.lower()) and (not tokens.is_capital(i + 1) or covered[i + 1]):
            return True
        return self.names.is_word(tokens.keys[i])

    def _lone_word(self, tokens: Tokens, i: int, foreign: list[int]) -> bool:
        """Whether a single capitalised word is a common noun written large ("the Institute"), not a name."""
        return (
            i - 1 not in foreign
            and i + 1 not in foreign
            and not tokens.words[i].isupper()
            and self.names.is_word(tokens.keys[i])
            and not self.names.find_one(tokens.keys[i : i + 1])
        )

    def _graph_names(
        self, tokens: Tokens, familiar: list[int], nouns: list[int], covered: bytearray, kinds: Sequence[int]
    ) -> list[tuple[int, int, int]]:
        """(first token, last + 1, node number) of names of other nodes that no single word gives away.

        These are names put together from words of the set ("University of Zurich" where the set has the
        University of Bern, and Zurich) and common nouns of the given kinds ("physicist").
        """
        spans = {
            (start, end)
            for i in familiar
            for start in range(max(0, i - LONGEST_NAME + 1), i + 1)
            for end in range(max(i + 1, start + 2), min(len(tokens.keys), start + LONGEST_NAME) + 1)
            if tokens.may_be_name(start, end)
        }
        found = self._longest(tokens, sorted(spans), PROPER)
        spans = {
            (i, end)
            for i in nouns
            for end in range(i + 1, min(len(tokens.keys), i + LONGEST_NOUN) + 1)
            if not any(covered[i:end]) and tokens.joined(i, end)
        }
        return found + [name for kind in kinds for name in self._longest(tokens, sorted(spans), kind)]

    def _longest(self, tokens: Tokens, spans: list[tuple[int, int]], kind: int) -> list[tuple[int, int, int]]:
        if not spans:
            return []
        numbers = self.names.find([tokens.keys[start:end] for start, end in spans], kind)
        found: list[tuple[int, int, int]] = []
        for (start, end), number in sorted(zip(spans, numbers, strict=True), key=lambda x: (x[0][0], -x[0][1])):
            if number >= 0 and (not found or start >= found[-1][1]):
                found.append((start, end, number))
        return found


def _cue_words(tokens: Tokens, triplet: Triplet, matches: Matches) -> list[str]:
    return [tokens.keys[i] for i in _cue_places(tokens, triplet, matches)]


def _cue_places(tokens: Tokens, triplet: Triplet, matches: Matches) -> list[int]:
    places = matches.places
    return find_cues(tokens, matches.covered, places[triplet.subject.uri], places[triplet.object.uri])


def _opens_remark(tokens: Tokens, i: int) -> bool:
    """Whether a word opens a sentence that tells an opinion, a feeling or a question: "Maybe", "Please"."""
    return tokens.opens_sentence(i) and tokens.keys[i] in REMARK_KEYS


def _missing(triplets: Sequence[Triplet], places: dict[str, list[int]]) -> Iterator[Reason]:
    told = set()
    for number, triplet in enumerate(triplets, start=1):
        for role, mention in (("subject", triplet.subject), ("object", triplet.object)):
            if not places[mention.uri] and mention.uri not in told:
                told.add(mention.uri)
                where = f"the {role} '{mention.surfaceform}' ({mention.uri})"
                yield Reason("missing", f"{_triplet(number, triplet)}: {where} is not stated.")


def _unlinked(tokens: Tokens, triplets: Sequence[Triplet], matches: Matches) -> Iterator[Reason]:
    """Triplets whose subject and object the text names, but never in one sentence, nor with words that refer back."""
    sentences = tokens.sentences
    if not sentences or not sentences[-1]:
        return
    referring: set[int] | None = None
    for number, triplet in enumerate(triplets, start=1):
        subjects = {sentences[i] for i in matches.places[triplet.subject.uri]}
        objects = {sentences[i] for i in matches.places[triplet.object.uri]}
        if not subjects or not objects or not subjects.isdisjoint(objects):
            continue
        if referring is None:
            referring = {sentences[i] for i in range(len(sentences)) if _refers(tokens, i, matches.covered)}
        if not any(max(pair) in referring for pair in product(subjects, objects)):
            yield Reason("unlinked", f"{_triplet(number, triplet)}: no sentence tells of both.")


def _negated(tokens: Tokens, triplets: Sequence[Triplet], matches: Matches) -> Iterator[Reason]:
    """Triplets that a sentence denies: "was not born in"."""
    if NEGATION_KEYS.isdisjoint(tokens.keys):
        return
    for i, key in enumerate(tokens.keys):
        if key not in NEGATION_KEYS or matches.covered[i] or not tokens.is_lower(i):
            continue
        if key == "not" and i + 1 < len(tokens.keys) and tokens.keys[i + 1] in NEGATION_SOFTENERS:
            continue
        sentence = tokens.sentences[i]
        for number, triplet in enumerate(triplets, start=1):
            if any(tokens.sentences[place] == sentence for place in matches.places[triplet.object.uri]):
                span = tokens.span(i, i + 1)
                yield Reason("negated", f"{_triplet(number, triplet)}: {span} denies what its sentence tells.")
                break


def _overlinked(tokens: Tokens, triplets: Sequence[Triplet], matches: Matches) -> Iterator[Reason]:
    """Nodes that one sentence tells of together though no chain of triplets connects them: a fact beyond the set.

    A set whose triplets all hang together, as sampled ones do, has none.
    """
    if len(triplets) < 2:
        return
    parts = _parts([(triplet.subject.uri, triplet.object.uri) for triplet in triplets])
    if len(set(parts.values())) < 2:
        return
    at: dict[int, str] = {}  # the same words may name several nodes
    same = [(uri, at.setdefault(place, uri)) for uri, places in matches.places.items() for place in places]
    parts = _parts([*same, *parts.items()])
    told: dict[int, str] = {}  # sentence -> the first node that it tells of
    names = {mention.uri: mention for triplet in triplets for mention in (triplet.subject, triplet.object)}
    reported = set()
    for place, uri in sorted((place, uri) for uri, places in matches.places.items() for place in places):
        other = told.setdefault(tokens.sentences[place], uri)
        pair = frozenset((parts.get(uri, uri), parts.get(other, other)))
        if len(pair) > 1 and pair not in reported:
            reported.add(pair)
            both = " and ".join(f"'{names[node].surfaceform}' ({node})" for node in (other, uri))
            span = tokens.span(place, place + 1)
            yield Reason("extra_link", f"One sentence tells of {both}, at {span}, which no triplets connect.")


def _parts(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Node id -> id of a node that stands for all those connected with it."""
    root: dict[str, str] = {}

    def find(uri: str) -> str:
        while (parent := root.setdefault(uri, uri)) != uri:
            uri = parent
        return uri

    for one, other in pairs:
        root[find(one)] = find(other)
    return {uri: find(uri) for uri in root}


def _refers(tokens: Tokens, i: int, covered: bytearray) -> bool:
    """Whether a word may stand for something named elsewhere: a pronoun, "the city", a part of a name."""
    key = tokens.keys[i]
    if key in REFERRING_KEYS:
        return True
    if key == "the":
        return tokens.is_lower(i + 1) and (
            "of" not in tokens.keys[i + 2 : i + 4] or POSSESSIVE.search(tokens.words[i + 1]) is not None
        )
    if covered[i]:
        return False
    return tokens.words[i][0].isupper() and key not in COMMON_KEYS


def _triplet(number: int, triplet: Triplet) -> str:
    names = (part.surfaceform.replace("_", " ") for part in (triplet.subject, triplet.predicate, triplet.object))
    return f"Triplet {number} ({' | '.join(names)})"


def _contains(phrase: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(phrase[i : i + len(part)] == part for i in range(len(phrase) - len(part) + 1))


def _runs(positions: list[int], tokens: Tokens) -> Iterator[tuple[int, int]]:
    """Join neighbouring positions to (first, last + 1), across one word such as "of" or "de"."""
    i = 0
    while i < len(positions):
        start = end = positions[i]
        while i + 1 < len(positions) and positions[i + 1] - end <= 2 and tokens.joined(end, positions[i + 1] + 1):
            i += 1
            end = positions[i]
        yield start, end + 1
        i += 1
