"""Triplets → English by rules: the "model" behind the built-in server.

A text is made in three steps. Triplets are grouped into facts (one subject, one
relation, its objects). Subjects are put in an order in which a new one has
mostly just been mentioned. Each subject's facts become sentences: several
predicates joined, a class with what follows it ("a film directed by X"),
relative clauses that go on to the next subject, pronouns where they can mean
only one thing. All choices come from one random stream, so the same triplets
and seed give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from synthie.llm.facts import LITERAL_KINDS, MERE_CLASSES, Fact, entity_classes, object_kind
from synthie.llm.lexicon import (
    Phrasing,
    Wording,
    agree,
    is_plural,
    is_plural_class,
    join,
    leading,
    lexicon,
    mid_sentence,
    noun_phrase,
    possessive,
    sentence,
    undisambiguated,
    with_article,
    with_indefinite,
)

__all__ = ["verbalise"]

_PARTICIPLE = re.compile(r"(is|was|are|were) (\w+ed|born|written|known|laid|held|led|built|set) ")
_SHARED_VERB = re.compile(_PARTICIPLE.pattern + "|died |passed away ")
_IDENTIFYING = ("instance of", "occupation")
_NOT_FRONTED = ("in ", "on ", "at ", "with ", "beside ", "known ", "employed ", "starring ", "featuring ")


def verbalise(facts: Sequence[Fact], random: Random) -> str:
    """Word the facts as a text of one or more sentences that states each of them and nothing else.

    Every name stands in the text at least once: verbatim, without its trailing parentheses, a common noun
    with a small first letter, or a literal in one of `synthie.literal_forms.prose_forms`.
    """
    return _Text(facts, random).compose()


@dataclass(slots=True)
class _Statement:
    """All triplets with one subject and relation; ``mutual`` if the converse of its only triplet is stated with it."""

    subject: str
    wording: Wording
    kind: str
    objects: list[str]
    mutual: bool = False


class _Text:
    """A text in the making."""

    def __init__(self, facts: Sequence[Fact], random: Random) -> None:
        facts = list(dict.fromkeys(facts))
        self.random = random
        self.comma = random.random() < 0.3
        self.classes = entity_classes(facts)
        self.shown = self._display_names(facts)
        self.gone = {
            fact.subject
            for fact in facts
            if fact.relation in ("place of death", "date of death", "place of burial")
            or (fact.relation == "date of birth" and re.search(r"\b1?[0-8]?\d\d$|BC|century", fact.object))
        }
        self.class_names = {fact.subject for fact in facts if lexicon().wording(fact.relation).subject == "noun"}
        self.pending = self._statements(facts)
        self.nouns: dict[str, str] = {}  # subject -> its class, once the text has said it
        self.common_nouns = [mid_sentence(fact.object) for fact in facts if fact.relation in _IDENTIFYING]
        self.recent: list[str] = []  # entities mentioned, the latest last
        self.focus: str | None = None  # grammatical subject of the previous sentence
        self.beside: set[str] = set()  # classes of the other entities in it
        self.beside_same_kind = False  # whether one of those may be of the focus' kind

    def compose(self) -> str:
        sentences: list[str] = []
        while self.pending:
            subject = self._next_subject()
            statements = self.pending.pop(subject)
            while statements:
                sentences.append(sentence(self._clause(subject, statements)))
        return " ".join(sentences)

    # What there is to say

    def _display_names(self, facts: Sequence[Fact]) -> dict[str, str]:
        names = dict.fromkeys(name for fact in facts for name in (fact.subject, fact.object))
        shown: dict[str, str] = {}
        bare = [undisambiguated(name) for name in names]
        for name, short in zip(names, bare, strict=True):
            drop = short != name and bare.count(short) == 1 and short not in names and self.random.random() < 0.85
            shown[name] = short if drop else name
        return shown

    def _statements(self, facts: Sequence[Fact]) -> dict[str, list[_Statement]]:
        stated = set(facts)
        grouped: dict[tuple[str, str], _Statement] = {}
        for fact in facts:
            if fact not in stated:
                continue  # told together with its converse
            wording = lexicon().wording(fact.relation)
            converse = Fact(fact.object, fact.relation, fact.subject)
            mutual = bool(wording.mutual) and converse in stated and converse != fact
            if mutual:
                stated.discard(converse)
            key = (fact.subject, f"{fact.relation}\n{fact.object if mutual else ''}")
            known = grouped.get(key)
            if known is not None and known.kind == object_kind(fact):
                known.objects.append(fact.object)
            else:
                grouped[key] = _Statement(fact.subject, wording, object_kind(fact), [fact.object], mutual)
        pending: dict[str, list[_Statement]] = {}
        for statement in grouped.values():
            pending.setdefault(statement.subject, []).append(statement)
        for statements in pending.values():
            self.random.shuffle(statements)
            if self.random.random() < 0.8:
                statements.sort(key=lambda statement: statement.wording.label not in _IDENTIFYING)
        return pending

    def _next_subject(self) -> str:
        for name in reversed(self.recent):
            if name in self.pending:
                return name
        mentioned = {name for statements in self.pending.values() for item in statements for name in item.objects}
        first = [name for name in self.pending if name not in mentioned] or list(self.pending)
        return self.random.choice(first)

    # One sentence

    def _clause(self, subject: str, statements: list[_Statement]) -> str:
        """Take one or more of ``statements`` and word them as a clause about ``subject``."""
        draw = self.random.random()
        active = [item for item in statements if item.wording.active and not item.mutual]
        if len(active) > 1 and draw < 0.75:
            chosen = active[: 3 if len(active) > 2 and draw < 0.2 else 2]
            for item in chosen:
                statements.remove(item)
            if chosen[0].wording.label in _IDENTIFYING and self.random.random() < 0.75:
                return self._classed(subject, chosen)
            if len(chosen[0].objects) == 1 and _frontable(chosen[0]) and self.random.random() < 0.3:
                return self._fronted(subject, chosen)
            return self._joined(subject, chosen)
        return self._single(subject, statements.pop(0))

    def _single(self, subject: str, item: _Statement) -> str:
        options = item.wording.mutual if item.mutual else item.wording.phrasings
        phrasing = options[0] if self._is_mere_class(item) else self.random.choice(options)
        if phrasing.lead == "subject" and not item.mutual:
            return self._joined(subject, [item], [phrasing])
        if phrasing.lead == "possessive":
            lead, _ = self._lead(subject)
            clause = f"{possessive(lead)}{self._fill(phrasing, item)[len('~') :]}"
            return self._finish(subject, clause, [item], phrasing)
        clause = self._fill(phrasing, item, self._name(subject))
        if phrasing.lead == "object" and item.kind not in LITERAL_KINDS:
            lead = self._objects(item, phrasing.parts[0][0])
            rest = clause[len(lead) + 1 :]
            many = len(item.objects) > 1 or is_plural(item.objects[0])
            clause = f"{lead} {agree(rest)}" if many else f"{leading(lead)} {rest}"
        clause = self._finish(subject, clause, [item], phrasing)
        self.focus = None  # the next sentence must name its subject
        return clause

    def _joined(self, subject: str, items: list[_Statement], phrasings: Sequence[Phrasing] = ()) -> str:
        """The subject with one or more predicates: "X was born in A and died in B"."""
        lead, plural = self._lead(subject)
        phrasings = phrasings or self._matching(items)
        predicates = _merged([self._predicate(*pair, plural) for pair in zip(phrasings, items, strict=True)])
        clause = f"{leading(lead)} {self._coordinated(predicates)}"
        return self._finish(subject, clause, items, phrasings[-1] if len(predicates) == len(items) else None)

    def _fronted(self, subject: str, items: list[_Statement]) -> str:
        """One fact before the subject: "Born in A, X died in B"."""
        first, *rest = items
        front = self._fill(self.random.choice(_frontable(first)), first)
        name, plural = self._name(subject), self._is_plural(subject)
        phrasings = self._matching(rest)
        predicates = _merged([self._predicate(*pair, plural) for pair in zip(phrasings, rest, strict=True)])
        clause = f"{front}, {leading(name)} {self._coordinated(predicates)}"
        return self._finish(subject, clause, items, phrasings[-1] if len(predicates) == len(rest) else None)

    def _classed(self, subject: str, items: list[_Statement]) -> str:
        """The subject's class with the rest around it: "X is a film directed by Y", "X, a city, borders Y"."""
        noun, *rest = items
        singular = not self._is_plural(subject)
        reduced = [item for item in rest if item.wording.reduced]
        if len(reduced) == len(rest) and singular and self.random.random() < 0.7:
            first = noun.wording.active[0]
            lead, plural = self._lead(subject)
            # "in Germany" must stand by the class, or it would belong to what is before it.
            rest.sort(key=lambda item: not item.wording.reduced[0].text.startswith("in "))
            tails = [self.random.choice(item.wording.reduced) for item in rest]
            words = self._fill(tails[0], rest[0])
            for tail, item in zip(tails[1:], rest[1:], strict=True):
                words += f"{' ' if words.startswith('in ') else ' and '}{self._fill(tail, item)}"
            clause = f"{leading(lead)} {self._predicate(first, noun, plural)} {words}"
            clause = self._finish(subject, clause, [noun, *rest], tails[-1])
        elif singular and not self._is_mere_class(noun):
            name, plural = self._name(subject), self._is_plural(subject)
            phrasings = self._matching(rest)
            predicates = _merged([self._predicate(*pair, plural) for pair in zip(phrasings, rest, strict=True)])
            clause = f"{name}, {self._objects(noun, 'a object')}, {self._coordinated(predicates)}"
            clause = self._finish(subject, clause, items, phrasings[-1] if len(predicates) == len(rest) else None)
        else:
            return self._joined(subject, items)
        return clause

    def _finish(self, subject: str, clause: str, items: list[_Statement], last: Phrasing | None) -> str:
        """Remember what the sentence mentions; add a relative clause about its last object where that is clear."""
        self.focus = subject
        self.recent.append(subject)
        self.beside = {
            self.classes.get(name, "any")
            for item in items
            if item.kind not in (*LITERAL_KINDS, "noun")
            for name in item.objects
        }
        self.beside_same_kind = any(
            not item.wording.other_kind and item.kind not in (*LITERAL_KINDS, "noun") for item in items
        )
        for item in items:
            self.recent += item.objects
            if item.wording.label in _IDENTIFYING and len(item.objects) == 1:
                self.nouns.setdefault(subject, mid_sentence(self.shown[item.objects[0]]))
        if last is not None and last.closes and len(items[-1].objects) == 1 and self.random.random() < 0.6:
            return clause + self._relative(items[-1].objects[0])
        return clause

    def _relative(self, name: str) -> str:
        """ ", which lies in A": about the entity just named, if there is a fact and it is clear which pronoun fits."""
        pronoun = {"thing": "which", "person": "who"}.get(self.classes.get(name, "any"))
        statements = self.pending.get(name, [])
        item = next((item for item in statements if item.wording.active and not item.mutual), None)
        if pronoun is None or item is None:
            return ""
        statements.remove(item)
        if not statements:
            del self.pending[name]
        phrasing = item.wording.active[0] if self._is_mere_class(item) else self.random.choice(item.wording.active)
        self.focus = None
        self.recent += item.objects
        if item.wording.label in _IDENTIFYING and len(item.objects) == 1:
            self.nouns.setdefault(name, mid_sentence(self.shown[item.objects[0]]))
        return f", {pronoun} {self._predicate(phrasing, item, self._is_plural(name))}"

    # Words

    def _name(self, subject: str) -> str:
        """The name with its article; "a city" for what only a class is."""
        if subject not in self.class_names:
            return with_article(self.shown[subject])
        noun = mid_sentence(self.shown[subject])
        return noun if is_plural_class(noun) else with_indefinite(noun)

    def _is_plural(self, subject: str) -> bool:
        return is_plural_class(subject) if subject in self.class_names else is_plural(subject)

    def _lead(self, subject: str) -> tuple[str, bool]:
        """The grammatical subject of a sentence and whether it is plural: the name, or what can mean only it."""
        name, plural = self._name(subject), self._is_plural(subject)
        if subject != self.focus or self.random.random() < 0.25:
            return name, plural
        kind = self.classes.get(subject, "any")
        noun = self.nouns.get(subject)
        if (
            noun is not None
            and not plural
            and not self.beside_same_kind
            and self.common_nouns.count(noun) == 1
            and noun not in MERE_CLASSES
            and len(noun.split(" ")) <= 3
            and " of " not in noun
            and self.random.random() < 0.5
        ):
            return f"the {noun}", False
        if kind == "thing" and not self.beside - {"person"}:
            return ("They", True) if plural else ("It", False)
        if kind == "person" and not self.beside - {"thing"} and self.random.random() < 0.35:
            return "They", True
        return name, plural

    def _matching(self, items: list[_Statement]) -> list[Phrasing]:
        """A predicate for each item; those that can share their verb ("was born in A on B") are preferred."""
        first = items[0].wording.active
        chosen = [first[0] if self._is_mere_class(items[0]) else self.random.choice(first)]
        for item in items[1:]:
            start = " ".join(str(chosen[-1].parts[1]).split(" ")[:3])
            same = [phrasing for phrasing in item.wording.active if str(phrasing.parts[1]).startswith(start + " ")]
            chosen.append(self.random.choice(same or item.wording.active))
        return chosen

    def _coordinated(self, predicates: list[str]) -> str:
        copulas = [match[1] if (match := _PARTICIPLE.match(text)) else None for text in predicates]
        if len(predicates) == 2 and copulas[0] and copulas[0] == copulas[1] and self.random.random() < 0.5:
            predicates = [predicates[0], predicates[1].split(" ", 1)[1]]
        if len(predicates) > 1 and any(" and " in text or ", " in text for text in predicates):
            return f"{', '.join(predicates[:-1])}, and {predicates[-1]}"
        return join(predicates, self.comma)

    def _is_mere_class(self, item: _Statement) -> bool:
        return item.wording.label == "instance of" and item.objects[0].lower() in MERE_CLASSES

    def _predicate(self, phrasing: Phrasing, item: _Statement, plural: bool) -> str:
        words = phrasing.predicate(
            lambda style: self._objects(item, style),
            many=len(item.objects) > 1,
            past=item.subject in self.gone,
            label=item.wording.label,
        )
        return agree(words) if plural else words

    def _fill(self, phrasing: Phrasing, item: _Statement, subject: str = "~") -> str:
        return phrasing.words(
            subject,
            lambda style: self._objects(item, style),
            many=len(item.objects) > 1,
            past=item.subject in self.gone,
            label=item.wording.label,
        )

    def _objects(self, item: _Statement, style: str) -> str:
        names = [name if item.kind in LITERAL_KINDS else self.shown[name] for name in item.objects]
        return noun_phrase(names, item.kind, style, self._form, self.comma)

    def _form(self, forms: Sequence[str]) -> str:
        """Mostly the most usual form."""
        return forms[0] if len(forms) == 1 or self.random.random() < 0.6 else self.random.choice(forms)


def _frontable(item: _Statement) -> list[Phrasing]:
    return [phrasing for phrasing in item.wording.reduced if not phrasing.text.startswith(_NOT_FRONTED)]


def _merged(predicates: list[str]) -> list[str]:
    """Say a shared verb once: "was born in A" + "was born on B" -> "was born in A on B"."""
    merged = predicates[:1]
    for predicate in predicates[1:]:
        before, verb = _SHARED_VERB.match(merged[-1]), _SHARED_VERB.match(predicate)
        if before and verb and before[0] == verb[0] and ", " not in merged[-1] and " and " not in merged[-1]:
            merged[-1] += f" {predicate[verb.end() :]}"
        else:
            merged.append(predicate)
    return merged
