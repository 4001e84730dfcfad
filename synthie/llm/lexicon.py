"""The words of the rule-made model: phrasings of relations, articles, number, noun phrases.

Reads ``phrasings.yaml`` once and compiles each phrasing into parts, so that
wording a fact is a walk over a short tuple. Knows single facts and names;
`synthie.llm.verbalise` makes texts of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from synthie.literal_forms import prose_forms

__all__ = [
    "Lexicon",
    "Phrasing",
    "Wording",
    "agree",
    "is_plural",
    "is_plural_class",
    "join",
    "leading",
    "lexicon",
    "mid_sentence",
    "noun_phrase",
    "possessive",
    "sentence",
    "undisambiguated",
    "with_article",
    "with_indefinite",
]

_PHRASINGS = Path(__file__).with_name("phrasings.yaml")
_SLOT = re.compile(r"\{([^}]*)\}|\[([^|\]]*)\|([^\]]*)\]")
_DAY = re.compile(r"\d{1,2} [A-Z][a-z]+ \d")
_DISAMBIGUATOR = re.compile(r"(.*\S) \([^()]+\)")
_CACHED_NAMES = 1 << 14

Choose = Callable[[Sequence[str]], str]  # picks one of several forms
Objects = Callable[[str], str]  # style of the slot ("object", "a object", "the object", "on object") -> text


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One way to word a relation, compiled.

    Attributes:
        text: as written in the data file.
        parts: what `words` walks over: text, or a slot, or the two sides of a choice by number.
        lead: what it begins with: ``subject``, ``possessive`` (the subject's), ``object`` or ``clause``.
        closes: the object ends it, so that a relative clause may follow.
    """

    text: str
    parts: tuple[str | tuple[str, ...], ...]
    lead: str
    closes: bool

    @classmethod
    def compile(cls, text: str, *, possessive_lead: bool = True) -> Phrasing:
        """Split a phrasing at its slots; see the data file for the notation."""
        parts: list[str | tuple[str, ...]] = []
        end = 0
        for match in _SLOT.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            parts.append((match[1],) if match[1] is not None else (match[2], match[3]))
            end = match.end()
        closes = end == len(text) and parts[-1] in (("object",), ("a object",), ("the object",))
        if end < len(text):
            parts.append(text[end:])
        lead = "clause"
        if possessive_lead and text.startswith("{subject}'s "):
            lead = "possessive"
            parts[1] = str(parts[1])[2:]
        elif text.startswith("{subject} "):
            lead = "subject"
        elif parts[0] in (("object",), ("the object",)):
            lead = "object"
        return cls(text, tuple(parts), lead, closes)

    def words(self, subject: str, objects: Objects, *, many: bool, past: bool, label: str = "") -> str:
        """The whole phrasing with its slots filled."""
        return self._fill(0, subject, objects, many, past, label)

    def predicate(self, objects: Objects, *, many: bool, past: bool, label: str = "") -> str:
        """What follows the leading subject: "was born in Ulm"."""
        return self._fill(1, "", objects, many, past, label)[1:]

    def _fill(self, start: int, subject: str, objects: Objects, many: bool, past: bool, label: str) -> str:
        words = []
        for part in self.parts[start:]:
            if isinstance(part, str):
                words.append(part)
            elif len(part) == 2:
                words.append(part[many])
            elif part[0] == "subject":
                words.append(leading(subject) if words and part is not self.parts[-1] else subject)
            elif part[0] == "is":
                words.append("was" if past else "is")
            elif part[0] == "relation":
                words.append(label)
            elif part[0] == "a relation":
                words.append(f"{_indefinite(label)} {label}")
            else:
                name = objects(part[0])
                words.append(leading(name) if words and not many and part is not self.parts[-1] else name)
        return "".join(words)


@dataclass(frozen=True, slots=True)
class Wording:
    """How one relation is worded; the fields are those of the data file."""

    label: str
    subject: str
    object: str
    other_kind: bool
    phrasings: tuple[Phrasing, ...]
    active: tuple[Phrasing, ...]  # those that begin with the subject
    reduced: tuple[Phrasing, ...]
    mutual: tuple[Phrasing, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All of the data file, compiled.

    Attributes:
        relations: label -> wording of each listed relation.
        strangers: class -> names of entities that an unfaithful text may bring in.
        inventions: class of the subject -> (relation, object) facts that it may invent.
        digest: SHA-256 of the data file; texts made with another one may differ.
    """

    relations: dict[str, Wording]
    fallback: dict[str, tuple[str, ...]]
    strangers: dict[str, tuple[str, ...]]
    inventions: dict[str, tuple[tuple[str, str], ...]]
    takes_the: re.Pattern[str]
    takes_none: re.Pattern[str]
    plural: re.Pattern[str]
    proper: frozenset[str]
    digest: str

    def wording(self, label: str) -> Wording:
        """How to word the relation called ``label``; by the label's shape if it is not listed."""
        return self.relations.get(label) or _unlisted(label)


@cache
def lexicon() -> Lexicon:
    """The lexicon of the built-in phrasings."""
    content = _PHRASINGS.read_bytes()
    data = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return Lexicon(
        relations={label: _wording(label, entry) for label, entry in data["relations"].items()},
        fallback={shape: tuple(texts) for shape, texts in data["fallback"].items()},
        strangers={kind: tuple(names) for kind, names in data["strangers"].items()},
        inventions={kind: tuple((fact[0], fact[1]) for fact in facts) for kind, facts in data["inventions"].items()},
        takes_the=_any_of(data["names_with_the"]),
        takes_none=_any_of(data["names_without_the"]),
        plural=_any_of(data["plural_names"]),
        proper=frozenset(data["proper_adjectives"].split()),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _wording(label: str, entry: dict[str, Any]) -> Wording:
    phrasings = tuple(map(Phrasing.compile, entry["phrasings"]))
    return Wording(
        label=label,
        subject=entry["subject"],
        object=entry["object"],
        other_kind=entry.get("other_kind", False),
        phrasings=phrasings,
        active=tuple(phrasing for phrasing in phrasings if phrasing.lead == "subject"),
        reduced=tuple(map(Phrasing.compile, entry.get("reduced", ()))),
        mutual=tuple(map(Phrasing.compile, entry.get("mutual", ()))),
    )


@lru_cache(_CACHED_NAMES)
def _unlisted(label: str) -> Wording:
    """A wording by the shape of the label: "based on", "subclass of", "has part(s)", "head of government"."""
    words = label.split(" ")
    shape = "noun"
    if words[0] in ("has", "uses", "contains", "includes"):
        shape = "verb"
    elif len(words) > 1 and words[-1] == "of":
        shape = "of"
    elif len(words) > 1 and (words[-1] in ("by", "on", "in", "from", "at", "to", "with", "after", "for")):
        shape = "participle"
    return _wording(label, {"subject": "any", "object": "any", "phrasings": lexicon().fallback[shape]})


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


# --- Names and nouns -----------------------------------------------------------------------------------------------


def undisambiguated(name: str) -> str:
    """The name without a trailing remark in parentheses: "Mercury (planet)" -> "Mercury"."""
    match = _DISAMBIGUATOR.fullmatch(name)
    return match[1] if match else name


@lru_cache(_CACHED_NAMES)
def with_article(name: str) -> str:
    """The name with "the" if English wants it: "the Danube", "Berlin"."""
    words = lexicon()
    bare = undisambiguated(name)
    if bare.startswith(("The ", "the ")) or not words.takes_the.fullmatch(bare) or words.takes_none.fullmatch(bare):
        return name
    return f"the {name}"


@lru_cache(_CACHED_NAMES)
def is_plural(name: str) -> bool:
    """Whether the name takes a plural verb: "the Alps are"."""
    return lexicon().plural.fullmatch(undisambiguated(name)) is not None


def is_plural_class(noun: str) -> bool:
    """Whether the noun is of the form "states of Germany"."""
    head, of, _ = noun.partition(" of ")
    return bool(of) and head.endswith("s") and not head.endswith("ss")


@lru_cache(_CACHED_NAMES)
def mid_sentence(noun: str) -> str:
    """A common noun as written inside a sentence: "Sovereign state" -> "sovereign state", "French horn" as it is."""
    first = noun.split(" ", 1)[0]
    if not noun[:1].isupper() or any(char.isupper() for char in noun[1:]) or first in lexicon().proper:
        return noun
    return _lowered(noun)


def noun_phrase(names: Iterable[str], kind: str, style: str, choose: Choose, comma: bool) -> str:
    """The objects of a fact as the text of a slot.

    Args:
        names: what to write for each object: display names for entities, the graph's names for literals.
        kind: class of the object in the data file, or a literal's kind.
        style: the slot's name: ``object``, ``a object``, ``the object`` or ``on object``.
        choose: picks one of several forms.
        comma: whether a list has a comma before "and".
    """
    if kind in ("date", "quantity", "coordinate"):
        return join([_literal(name, kind, style, choose) for name in names], comma)
    if kind == "noun":
        names = [mid_sentence(name) for name in names]
    if kind == "currency":
        names = [mid_sentence(name) if " " not in name or name.startswith("Pound ") else name for name in names]
    if style == "a object":
        return join([with_indefinite(name) for name in names], comma)
    if style == "the object":
        return join([name if name.startswith(("The ", "the ")) else f"the {name}" for name in names], comma)
    return join([with_article(name) if kind != "noun" else name for name in names], comma)


def _literal(name: str, kind: str, style: str, choose: Choose) -> str:
    forms = prose_forms(name, kind)
    form = choose(forms)
    if kind != "date":
        return form
    is_period = not form[-1].isdigit() and ("century" in form or "millennium" in form or "s" in form.split(" ")[0])
    the = "the " if is_period and " years" not in form else ""
    if style != "on object":
        return the + form
    return f"{'on' if _DAY.match(name) else 'in'} {the}{form}"


def with_indefinite(noun: str) -> str:
    """A common noun with "a" or "an"; a class named in the plural ("states of Germany") is one of its members."""
    if is_plural_class(noun):
        return f"one of the {_lowered(noun)}"
    return f"{_indefinite(noun)} {noun}"


def _indefinite(noun: str) -> str:
    word = noun.split(" ", 1)[0].split("-", 1)[0]
    if word.isupper() and 1 < len(word) < 5 and "." not in word:
        return "an" if word[0] in "AEFHILMNORSX" else "a"  # letters spelled out: an MP, a DVD
    lower = word.lower()
    if re.match(r"u\.|uni(?!nt|nf|mp)|eu|use|usu|ut[eio]|one\b|once\b|ubi|ura|uk", lower):
        return "a"
    return "an" if lower.startswith((*"aeiouáéíóúäöüåøæ", "hour", "honest", "honour", "heir")) else "a"


def _lowered(noun: str) -> str:
    return noun[:1].lower() + noun[1:]


# --- Sentences -----------------------------------------------------------------------------------------------------

_IRREGULAR = {"is": "are", "was": "were", "has": "have", "does": "do"}


def agree(predicate: str) -> str:
    """Turn a predicate in the third person singular into the plural: "has its seat" -> "have their seat"."""
    verb, space, rest = predicate.partition(" ")
    if verb in _IRREGULAR:
        verb = _IRREGULAR[verb]
    elif verb.endswith("ies"):
        verb = verb[:-3] + "y"
    elif verb.endswith(("ches", "shes", "sses", "xes", "oes")):
        verb = verb[:-2]
    elif verb.endswith("s"):
        verb = verb[:-1]
    return f"{verb}{space}{rest}".replace(" its ", " their ")


def join(items: Sequence[str], comma: bool) -> str:
    """A list in words: "A, B and C"; items that hold "and" or commas are kept apart."""
    if len(items) == 1:
        return items[0]
    if any(" and " in item or ", " in item for item in items):
        return f"{', '.join(items[:-1])}{',' if len(items) > 2 else ''} as well as {items[-1]}"
    return f"{', '.join(items[:-1])}{',' if comma and len(items) > 2 else ''} and {items[-1]}"


def possessive(noun: str) -> str:
    """The genitive: "Ulm's", "the United States'"."""
    return {"It": "Its", "They": "Their"}.get(noun) or (f"{noun}'" if noun.endswith("s") else f"{noun}'s")


def leading(name: str) -> str:
    """A name before its verb: one that holds a comma is closed by another, "Paris, Texas, is"."""
    return f"{name}," if ", " in name and not name.endswith(",") else name


def sentence(clause: str) -> str:
    """A clause with a capital (unless it begins like "iPhone") and a full stop."""
    first = clause.split(" ", 1)[0]
    capital = clause[:1].upper()
    if first[1:] == first[1:].lower() and len(capital) == 1:
        clause = capital + clause[1:]
    return clause if clause.endswith((".", "!", "?")) else f"{clause}."
