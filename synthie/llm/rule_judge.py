"""The built-in server as a judge: does a text state given facts, and what does it state beyond them?

It reads with the phrasings that the rule-made texts are written with (`synthie.llm.lexicon`): names in the text are
replaced by marks, and each phrasing of a relation becomes a pattern over marks and words. So it reads what
`synthie.llm.verbalise` writes, changed facts included, and little else; a person's or a real model's free wording is
mostly "absent" to it. Which subject a predicate belongs to is only checked to be near. It shares no code with the
quality checks.

A question is known by how it ends: ``Text: …``, an empty line, ``Facts:`` and one triplet a line or ``(none)``. Lines
``- name: also alias; alias`` before that are names that the text may use instead. The answer is the JSON that
`synthie.judging.answers` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random

from synthie.literal_forms import literal_forms
from synthie.llm.facts import LITERAL_KINDS, Fact, object_kind, parse_triplets
from synthie.llm.lexicon import agree, lexicon, mid_sentence, undisambiguated

__all__ = ["JudgeQuestion", "judge", "parse_question"]

_QUESTION = re.compile(r"(?:.*\n)?Text: ([^\n]+)\n\nFacts:\n(.+)", re.DOTALL)
_ALSO = re.compile(r"^- (.+?): also (.+)$", re.MULTILINE)

_MARK = "⟦[^⟧]*⟧"
_ARTICLE = re.compile(rf"\b(?:[Tt]he|[Aa]n?|[Oo]ne of the) (?={_MARK})")
_LIST = re.compile(rf"{_MARK}(?:, {_MARK})*,? (?:and|as well as) (?:(?:the|an?) )?{_MARK}")
_APPOSED = re.compile(rf"({_MARK}), (?=an? )")
_SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z⟦])")
_BACK = re.compile(r"(?:It|They|Its|Their|The [a-zA-Z -]+?) ")
_MONTHS = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_UNKNOWN = re.compile(
    rf"\d{{1,2}} {_MONTHS} \d+(?: BCE?)?|{_MONTHS} \d{{1,2}}, \d+|{_MONTHS} \d+"
    r"|\d+(?:st|nd|rd|th) (?:century|millennium)|-?\d[\d.,]*\d|\d"
    r"|[A-ZÀ-ÖØ-Þ][\w'’.-]*(?: (?:(?:of|the|de|von|van|and) (?=[A-Z]))*[A-ZÀ-ÖØ-Þ][\w'’.-]*)*"
)
_COPULAS = frozenset({"is", "was", "are", "were"})
_PREPOSITIONS = "(?:in|on|at|by|for|with|to|from|as|into|of)"
_ADDED = f"(?:(?:{_PREPOSITIONS} )?{_MARK},? )*?"  # "was born in A on …"
_OTHERS = {"is": "(?:is|are)", "was": "(?:was|were)", "has": "(?:has|have)", "its": "(?:its|their)"}
_SLOT = re.compile(r"\{([^}]*)\}|\[([^|\]]*)\|([^\]]*)\]")
_REFERRING = r"[Ii]t|[Tt]hey|[Tt]he [a-z][a-zA-Z -]*?"
_BARE_NOUN = r"(?:an? |the )?(?P<noun>[a-z][\w-]*(?: [a-z][\w-]*){0,2}?)(?=[,.]| and )"
_NOUN = (
    r"(?:an?|one of the) (?P<noun>[a-z][\w-]*(?: [a-z][\w-]*){0,2}?)(?=[,.]| and | who | which | in | by | [a-z]+ed )"
)


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """What is to be judged.

    Attributes:
        text: the text.
        facts: what it should state.
        names: name -> other names that the text may use.
    """

    text: str
    facts: list[Fact]
    names: dict[str, list[str]]


def parse_question(message: str) -> JudgeQuestion | None:
    """The question in a user message, None if it is none for a judge.

    >>> parse_question("Text: Ulm is in Germany.\\n\\nFacts:\\n1. Ulm | country | Germany").facts
    [Fact(subject='Ulm', relation='country', object='Germany')]
    """
    match = _QUESTION.fullmatch(message.strip())
    if match is None:
        return None
    facts = parse_triplets(match[2])
    if not facts and match[2].strip() != "(none)":
        return None
    names = {name: aliases.split("; ") for name, aliases in _ALSO.findall(message[: match.start(1)])}
    return JudgeQuestion(match[1], facts, names)


def judge(question: JudgeQuestion, noise: float, random: Random) -> str:
    """The judgement as JSON.

    Args:
        question: text and facts.
        noise: share of the verdicts to turn on purpose, and of the texts about which to tell a fact too many.
        random: decides which.
    """
    reading = _Reading(question)
    verdicts = [reading.verdict(fact) for fact in question.facts]
    extras = reading.extras()
    for number, verdict in enumerate(verdicts):
        if random.random() < noise:
            verdicts[number] = "absent" if verdict == "stated" else "stated"
    if random.random() < noise:
        extras = extras[1:] if extras else [["something", "is said of", "something else"]]
    told = {str(number): verdict for number, verdict in enumerate(verdicts, 1)}
    return json.dumps({"verdicts": told, "extra": extras}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Told:
    """One place where a phrasing of a relation fits."""

    marks: frozenset[int]  # of the object; empty where it is a common noun that no fact has
    noun: str
    subjects: frozenset[int]  # whom it can be about
    is_specific: bool  # its words belong to this relation alone


class _Sentence:
    """A sentence with marks for names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.marks = _marks_in(text)


class _Reading:
    """A text with its names replaced by marks; those that no fact has get negative numbers."""

    def __init__(self, question: JudgeQuestion) -> None:
        self._facts = question.facts
        names = dict.fromkeys(name for fact in question.facts for name in (fact.subject, fact.object))
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._nouns = {self._numbers[fact.object] for fact in question.facts if object_kind(fact) == "noun"}
        self._literals = {self._numbers[fact.object] for fact in question.facts if object_kind(fact) in LITERAL_KINDS}
        self._unknown: list[str] = []
        self._found: dict[str, list[_Told]] = {}
        # Once with common nouns as names, once with the words of phrasings that they may be ("the country of Serbia").
        readings = [self._marked(question, nouns=True)]
        if self._nouns:
            readings.append(self._marked(question, nouns=False))
        self._readings = [[_Sentence(sentence) for sentence in _SENTENCE.split(text)] for text in readings]

    def verdict(self, fact: Fact) -> str:
        """stated, contradicted or absent."""
        subject, target = self._numbers[fact.subject], self._numbers[fact.object]
        told = [one for one in self._told(fact.relation) if subject in one.subjects]
        if any(target in one.marks for one in told):
            return "stated"
        return "contradicted" if any(self._replaces(fact, one) for one in told) else "absent"

    def extras(self) -> list[list[str]]:
        """Facts that the text states beyond those given, as [subject, relation, object]."""
        extras: list[list[str]] = []
        seen: set[int] = set()
        for fact in self._facts:
            if self.verdict(fact) == "contradicted":
                for one in self._told(fact.relation):
                    if self._numbers[fact.subject] in one.subjects and self._replaces(fact, one):
                        extras.append([fact.subject, fact.relation, self._words(one)])
                        seen |= {mark for mark in one.marks if mark < 0}
        for number, name in enumerate(self._unknown, 1):
            if -number not in seen and (extra := self._extra(-number, name)):
                extras.append(extra)
        return [list(extra) for extra in dict.fromkeys(map(tuple, extras))]

    def _extra(self, mark: int, name: str) -> list[str] | None:
        """What is said of a name that no fact has; where there are no facts, a mere mention says nothing."""
        for relation in lexicon().relations:
            for one in self._told(relation):
                if one.is_specific and mark in one.marks and self._fits(mark, relation):
                    return [self._subject(one.subjects - {mark}), relation, name]
        if not self._facts or self._is_subject(mark):
            return None
        sentence = next(sentence for sentence in self._readings[0] if mark in sentence.marks)
        return [self._subject(frozenset(sentence.marks - {mark})), "is mentioned with", name]

    def _is_subject(self, mark: int) -> bool:
        """Whether something is said about a name, which is told as an extra of its own."""
        return any(mark in told.subjects for relation in lexicon().relations for told in self._told(relation))

    def _replaces(self, fact: Fact, told: _Told) -> bool:
        """Whether the text says of the fact's subject that it has another object, which no other fact has."""
        if told.noun:
            return told.noun not in {mid_sentence(f.object) for f in self._facts if f.relation == fact.relation}
        if not told.is_specific or not all(self._fits(mark, fact.relation) for mark in told.marks):
            return False
        others = {self._numbers[f.object] for f in self._facts if f.relation == fact.relation}
        return told.marks.isdisjoint(others) and self._numbers[fact.subject] not in told.marks

    def _fits(self, mark: int, relation: str) -> bool:
        """Whether a mark stands for a date or number just where the relation wants one."""
        if mark > 0:
            is_literal = mark in self._literals
        else:
            is_literal = re.match(rf"-?\d|{_MONTHS} ", self._unknown[-mark - 1]) is not None
        return is_literal == (lexicon().wording(relation).object in LITERAL_KINDS)

    def _told(self, relation: str) -> list[_Told]:
        """The places that speak of a relation."""
        if relation in self._found:
            return self._found[relation]
        found = self._found[relation] = []
        for sentences in self._readings:
            for number, sentence in enumerate(sentences):
                for pattern, is_specific in _patterns(relation):
                    for match in pattern.finditer(sentence.text):
                        groups = match.groupdict()
                        marks = _marks_in(groups.get("object") or "")
                        subjects = self._subjects(sentences, number, groups.get("subject"))
                        subjects -= marks if len(marks) == 1 else set()
                        noun = groups.get("noun") or ""
                        found.append(_Told(frozenset(marks), noun, frozenset(subjects), is_specific))
        return found

    def _subjects(self, sentences: list[_Sentence], number: int, subject: str | None) -> set[int]:
        """Whom a predicate of a sentence can be about: a name in it, or before it if the sentence refers back."""
        if subject is not None and _marks_in(subject):
            return _marks_in(subject)
        sentence = sentences[number]
        subjects = set(sentence.marks)
        opening = re.match(_MARK, sentence.text)
        is_back = _marks_in(opening[0]) <= self._nouns if opening else _BACK.match(sentence.text) is not None
        if subject is not None or is_back:
            subjects |= {mark for earlier in sentences[max(0, number - 2) : number] for mark in earlier.marks}
        return subjects

    def _subject(self, marks: frozenset[int]) -> str:
        names = [name for name, number in self._numbers.items() if number in marks]
        return names[0] if names else next((self._unknown[-mark - 1] for mark in sorted(marks)), "something")

    def _words(self, told: _Told) -> str:
        if told.noun:
            return told.noun
        names = {number: name for name, number in self._numbers.items()}
        return ", ".join(names.get(mark) or self._unknown[-mark - 1] for mark in sorted(told.marks))

    def _marked(self, question: JudgeQuestion, *, nouns: bool) -> str:
        """The text with marks for names; without those for ``nouns``, nor for names that no fact has."""
        forms: dict[str, list[int]] = {}
        for name, number in self._numbers.items():
            if number in self._nouns and not nouns:
                continue
            for form in _forms(name, self._kind(name), question.names.get(name, ())):
                forms.setdefault(form, []).append(number)
        text = re.sub("[⟦⟧]", " ", question.text)
        if forms:
            known = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
            text = re.sub(rf"(?<![\w⟦])(?:{known})(?!\w)", lambda match: _mark(forms[match[0]]), text)
        if nouns:
            parts = enumerate(re.split(f"({_MARK})", text))
            text = "".join(part if part.startswith("⟦") else self._mark_unknown(part, i == 0) for i, part in parts)
        # "X, a poet, a painter and …": a list that X is not in.
        text = _APPOSED.sub(lambda m: m[0] if _marks_in(m[1]) <= self._nouns else f"{m[1]} , ", text)
        text = _ARTICLE.sub("", text)
        return _LIST.sub(lambda match: _mark(sorted(_marks_in(match[0]))), text)

    def _mark_unknown(self, part: str, is_first: bool) -> str:
        """Replace names and numbers; a word of the phrasings that opens a sentence is neither."""

        def mark(match: re.Match[str]) -> str:
            name = match[0].rstrip(".'’,")
            rest = match[0][len(name) :]
            before = part[: match.start()].rstrip()
            opens = before.endswith((".", "!", "?")) if before else is_first
            first, space, others = name.partition(" ")
            lead = ""
            if opens and first.lower() in _vocabulary():
                lead, name = first + space, others
            if not name or (name.lower() in _vocabulary() and not name[0].isdigit() and opens):
                return match[0]
            if name.removesuffix("'s") != name:
                name, rest = name.removesuffix("'s"), "'s" + rest
            self._unknown.append(name)
            return f"{lead}{_mark([-len(self._unknown)])}{rest}"

        return _UNKNOWN.sub(mark, part)

    def _kind(self, name: str) -> str:
        kinds = [object_kind(fact) for fact in self._facts if fact.object == name]
        return next((kind for kind in kinds if kind in LITERAL_KINDS), "any")


def _forms(name: str, kind: str, aliases: Sequence[str]) -> Iterator[str]:
    """What the text may call it."""
    if kind in LITERAL_KINDS:
        yield from literal_forms(name, kind)
        return
    forms = (name, undisambiguated(name), mid_sentence(name), *aliases)
    yield from {either for form in forms for either in (form, form[:1].upper() + form[1:], form[:1].lower() + form[1:])}


def _mark(numbers: Sequence[int]) -> str:
    return f"⟦{','.join(map(str, numbers))}⟧"


def _marks_in(text: str) -> set[int]:
    return {int(number) for mark in re.findall(r"⟦([^⟧]*)⟧", text) for number in mark.split(",")}


# --- Phrasings as patterns -----------------------------------------------------------------------------------------


@lru_cache(1 << 12)
def _patterns(relation: str) -> list[tuple[re.Pattern[str], bool]]:
    """Patterns of a relation over marked sentences, each with whether its words belong to this relation alone."""
    wording = lexicon().wording(relation)
    sources = [phrasing.text for phrasing in (*wording.phrasings, *wording.reduced, *wording.mutual)]
    sources += lexicon().fallback["noun"]  # "The place of birth of …": the label itself
    patterns = [_pattern(source, relation, f"(?P<object>{_MARK})") for source in dict.fromkeys(sources)]
    if wording.object == "noun":
        nouns = [_pattern(source, relation, _BARE_NOUN) for source in dict.fromkeys(sources)]
        patterns += [(pattern, is_specific) for pattern, is_specific in nouns if is_specific]
        patterns += _APPOSITIONS
    return patterns


# "X, a city, …" with a mark, and "is a city" or "X, a city, …" with a noun that no fact has.
_APPOSITIONS = [
    (re.compile(rf"{_MARK} ?, (?P<object>{_MARK}),"), False),
    (re.compile(rf"\b(?:is|was|are|were) {_NOUN}"), True),
    (re.compile(rf"{_MARK} ?, {_NOUN}"), True),
]


def _pattern(source: str, relation: str, target: str) -> tuple[re.Pattern[str], bool]:
    """A phrasing as a pattern; a leading subject may stand elsewhere in the sentence, or be referred to."""
    body = source.removeprefix("{subject} ") if not source.startswith("{subject} and") else source
    pieces: list[str] = []
    end = 0
    words: list[str] = []
    for match in _SLOT.finditer(body):
        pieces += _literal(body[end : match.start()], words, is_verb=end == 0 and body is not source)
        end = match.end()
        pieces.append(_slot(match, relation, target, words))
    pieces += _literal(body[end:], words, is_verb=False)
    pattern = "".join(pieces)
    if pattern[0].isalpha():
        pattern = rf"\b(?i:{pattern[0]}){pattern[1:]}"
    telling = [word for word in words if word not in _COPULAS and not re.fullmatch(_PREPOSITIONS, word)]
    return re.compile(pattern), bool(telling)


def _slot(match: re.Match[str], relation: str, target: str, words: list[str]) -> str:
    name = match[1]
    if name is None:
        words += [*match[2].split(), *match[3].split()]
        return f"(?:{re.escape(match[2])}|{re.escape(match[3])})"
    if name == "subject":
        return rf"(?P<subject>{_MARK}|{_REFERRING}),?"
    if name == "is":
        return "(?:is|was|are|were)"
    if name in ("relation", "a relation"):
        words += relation.split()
        return (r"an? " if name == "a relation" else "") + re.escape(relation)
    return rf"{_ADDED}(?:on|in) {target}" if name == "on object" else rf"{target},?"


def _literal(text: str, words: list[str], *, is_verb: bool) -> list[str]:
    """Words as a pattern: in singular or plural, a participle's copula left out or not, other additions before the
    last preposition ("was born in A on …")."""
    if not text:
        return []
    parts = re.split(r"( )", text)
    found = [part for part in parts if part.strip()]
    words += [word.strip("',") for word in found]
    pieces = []
    for place, part in enumerate(parts):
        if part == " " or not part:
            pieces.append(re.escape(part))
            continue
        piece = _OTHERS.get(part, re.escape(part))
        if is_verb and place == 0:
            plural = agree(part)
            piece = f"(?:{piece}|{re.escape(plural)})" if plural != part and part not in _OTHERS else piece
        pieces.append(piece)
    if is_verb and len(found) > 1 and found[0] in _COPULAS and re.fullmatch(r"\w+(?:ed|en|wn|id|ld|ilt|et)", found[1]):
        pieces[0], pieces[1] = f"(?:{pieces[0]} )?", ""
    last = found[-1] if found else ""
    if len(found) > 1 and text.endswith(" ") and re.fullmatch(_PREPOSITIONS, last):
        pieces[-3 if parts[-1] == "" else -2] = f"{_ADDED}{re.escape(last)}"
    return pieces


@cache
def _vocabulary() -> frozenset[str]:
    """Words that open sentences of the rule-made texts without being names."""
    texts = [phrasing.text for wording in lexicon().relations.values() for phrasing in wording.phrasings]
    texts += [phrasing.text for wording in lexicon().relations.values() for phrasing in wording.reduced]
    texts += [text for shapes in lexicon().fallback.values() for text in shapes]
    words = {word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", re.sub(r"\{[^}]*\}", " ", text))}
    return frozenset(words | {"it", "they", "its", "their", "the", "a", "an", "i"})
