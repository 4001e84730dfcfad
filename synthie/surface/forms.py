"""The forms in which a text may state a node, and where a text states them.

`surface_forms` lists them, `compile_forms` folds them for hashing, `find_forms`
finds those of a whole set in one pass over a text's tokens.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from synthie.literal_forms import literal_forms
from synthie.surface.english import DEMONYMS, LINKING_WORDS, ROMAN_NUMERALS, STATE_CODES
from synthie.surface.tokens import COMMON_KEYS, POSSESSIVE, Tokens, fold_all
from synthie.surface.variants import find_derived, find_gist, find_joined, find_loose, find_misspelt, find_parts

__all__ = [
    "DISAMBIGUATOR",
    "Forms",
    "Matches",
    "Node",
    "Phrase",
    "compile_forms",
    "find_forms",
    "surface_forms",
    "usable_aliases",
]

_YEAR_DIGITS = 4
_LONGEST_PLACE = 4  # words of a place in front of a longer name
_LONG_NUMBER = re.compile(r"[-−]?\d[\d,]*\d(?:\.\d+)?|[-−]?\d\.\d+")
DISAMBIGUATOR = re.compile(r"\s*\([^()]*\)\s*\Z")
_OPTIONAL_PARTS = (
    DISAMBIGUATOR,
    re.compile(r"\AThe\s+", re.IGNORECASE),
    re.compile(r",?\s+(?:Inc|Ltd|LLC|plc|PLC|GmbH|AG|Corp|Co|S\.A|SA|Limited|Corporation|Company)\.?\Z"),
    re.compile(r",\s.*\Z"),
    re.compile(r"\s(?:music|languages?|people|cuisine|architecture|sauce)\Z"),
)
_CLUB = r"(?:[A-Z]?\.?F\.?C|S\.?C|C\.?F)\b\.?"
_CLUB_PARTS = re.compile(rf"\A(?:\d+\.\s)?{_CLUB}\s|\s(?:{_CLUB}|Club)\Z")
_RANK = re.compile(r"\A\d+\.\s")
_ROMAN = re.compile(rf"(?<=\s)(?:{'|'.join(sorted(ROMAN_NUMERALS, key=len, reverse=True))})\b")
_PEOPLES = re.compile(
    rf"(?:{'|'.join(sorted({people for words in DEMONYMS.values() for people in words}, key=len, reverse=True))})\s"
)
_STATE = re.compile(rf"(?:\A|(?<=, ))(?:{'|'.join(STATE_CODES)})\Z")
_MIDDLE_INITIALS = re.compile(r"(?<=[^\W\d_]{2})\s(?:[A-Z]\.?\s)+(?=[^\W\d_]{2})")
_HEAD_OF_TAIL = re.compile(r"(.+?) (?:of|in) (?:the )?(.+)")
_CAPITALS = re.compile(r"\b(?:([IVX]+)|([A-Z])\w*)\b")
_SEASON = re.compile(r"(\d{4}(?:[–/-]\d{2,4})?) (.+)")
_UNSAFE_ALIAS = re.compile(r"the \S+|\D")  # "the States" would be found in "the state"
_USABLE_ALIAS = re.compile(r"(?=.*[A-Za-z]{2})[A-Za-z\u00c0-\u024f0-9 .,'’&–-]{2,60}")  # Latin script, no brackets
_LIST = re.compile(r"[,;/]| and | or ")
_AREAS = ("County", "Province", "District", "Region", "University", "City", "State", "Island", "Kingdom")
_MARKS = str.maketrans(dict.fromkeys("°′″'\";/-", " ") | {"\u00a0": " "})


class Node(Protocol):
    """A graph node as the checks see it; `kg.catalogue.Node` is one."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def aliases(self) -> Sequence[str]: ...
    @property
    def kind(self) -> str: ...


def surface_forms(node: Node) -> list[str]:
    """The forms in which a text may state a node, its name first.

    An entity's name and label stand with and without their disambiguator ("Paris (mythology)", "Austin, Texas"),
    article, middle initials or legal form, beside its aliases and, for a country or region, its demonyms.
    A literal stands in every form of `literal_forms`.
    """
    if node.kind != "entity":
        forms = literal_forms(node.name, node.kind)
        if node.kind == "quantity" and (match := _LONG_NUMBER.match(node.name)):
            forms.append(match[0])
        return forms
    forms = []
    for text in dict.fromkeys((node.name.replace("_", " "), node.label)):
        forms += _entity_forms(text)
    forms += (alias for alias in node.aliases if not _UNSAFE_ALIAS.fullmatch(alias))
    return list(dict.fromkeys(forms))


def usable_aliases(node: Node) -> list[str]:
    """The aliases by which a text may name an entity instead of by its name; none for a literal.

    Left out are those that `surface_forms` does not know, those in another script, and those that differ from the name
    or the label in upper and lower case only.
    """
    if node.kind != "entity":
        return []
    names = {node.name.replace("_", " ").casefold(), node.label.casefold()}
    return [
        alias
        for alias in dict.fromkeys(node.aliases)
        if _USABLE_ALIAS.fullmatch(alias) and not _UNSAFE_ALIAS.fullmatch(alias) and alias.casefold() not in names
    ]


def _entity_forms(text: str) -> Iterator[str]:
    yield text
    if match := _ROMAN.search(text):
        yield from (text[: match.start()] + other + text[match.end() :] for other in ROMAN_NUMERALS[match[0]])
    if match := _STATE.search(text):
        yield from (text[: match.start()] + code for code in STATE_CODES[match[0]])
    for pattern in _OPTIONAL_PARTS:
        text = pattern.sub("", text).strip() or text
        yield text
    yield _MIDDLE_INITIALS.sub(" ", text)
    yield from DEMONYMS.get(text, ())
    if " " in (short := _CLUB_PARTS.sub("", text)) and short != text:
        yield from (short, f"{short} Football Club")
    yield _RANK.sub("", text)  # 1. FC Köln
    yield from (part for part in text.split(": ") if ": " in text and " " in part)  # 1634: The Ram Rebellion
    if (match := _PEOPLES.match(text)) and text[match.end() :].islower():
        yield text[match.end() :]  # Sri Lankan rupee
    if "+" in text.rstrip("+"):
        yield text.replace("+", " and ")
    if len(capitals := _CAPITALS.findall(text)) > 2:
        yield "".join(numeral or initial for numeral, initial in capitals)  # USAF, WWII
    if match := _HEAD_OF_TAIL.fullmatch(text):
        yield f"{match[2]} {match[1]}"  # Governor of Texas: Texas Governor
    words = text.split(" ")
    for n in range(1, min(len(words), _LONGEST_PLACE + 1)):
        rest = " ".join(words[n:])
        yield from (f"{people} {rest}" for people in DEMONYMS.get(" ".join(words[:n]), ()))  # United States Army
    if len(words) > 1 and words[-1] in _AREAS:
        yield f"{words[-1]} of {' '.join(words[:-1])}"  # Alba County: county of Alba


class Phrase(NamedTuple):
    keys: tuple[str, ...]
    case: str  # "" any, "initial" capital, "all" capitals
    step: int  # tokens after which another form may begin; not all where parts may be meant for themselves
    dotted: bool  # has full stops of its own: "Am. J. Math."


@dataclass(frozen=True, slots=True)
class Forms:
    """A node's forms, folded.

    Attributes:
        kind: of the node.
        phrases: all forms, the longest first.
        by_first: first key -> the forms that begin with it, the longest first.
        licensed: all keys of the forms.
        apart: forms whose parts may stand anywhere in the text, as long as it has them all.
    """

    kind: str
    phrases: tuple[Phrase, ...]
    by_first: dict[str, tuple[Phrase, ...]]
    licensed: frozenset[str]
    apart: tuple[tuple[tuple[str, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class Matches:
    places: dict[str, list[int]]  # node id -> first tokens of all its statements
    covered: bytearray  # 1 for each token that belongs to a form of the set


def compile_forms(node: Node) -> Forms:
    phrases: dict[tuple[str, ...], Phrase] = {}
    forms = surface_forms(node)
    named = node.kind in ("entity", "string")
    if not named:  # most of a number's many forms differ in punctuation only
        forms = list(dict.fromkeys([" ".join(form.replace(", ", " ").translate(_MARKS).split()) for form in forms]))
    for form in forms:
        keys = fold_all(form)
        if not keys:
            continue
        case = _case(form, keys) if node.kind == "entity" else ""
        phrase = Phrase(keys, case, _step(node.kind, form, keys), ". " in form)
        known = phrases.get(keys)
        if known is None or (known.case and not phrase.case):
            phrases[keys] = phrase
    licensed = frozenset(key for phrase in phrases for key in phrase)
    if node.kind in ("date", "string"):
        licensed -= COMMON_KEYS
    longest_first = sorted(phrases.values(), key=lambda phrase: -len(phrase.keys))
    by_first: defaultdict[str, list[Phrase]] = defaultdict(list)
    for phrase in longest_first:
        by_first[phrase.keys[0]].append(phrase)
    first = {key: tuple(group) for key, group in by_first.items()}
    return Forms(node.kind, tuple(longest_first), first, licensed, tuple(_apart(node)))


def _step(kind: str, form: str, keys: tuple[str, ...]) -> int:
    """Inside "Austin, Texas" there may be another place meant, and a date's year may be a node of its own."""
    if kind == "entity" and ("," in form or "(" in form):
        return 1
    if kind == "date" and len(keys) > 1 and len(keys[-1]) == _YEAR_DIGITS and keys[-1].isdigit():
        return len(keys) - 1
    return len(keys)


def _apart(node: Node) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Names whose parts people like to pull apart, as tuples of their parts' keys."""
    for text in dict.fromkeys((node.name.replace("_", " "), node.label)):
        if node.kind == "entity":
            yield from _lone_ends(text)
        if node.kind == "string":
            parts = _LIST.split(text)  # bread, almonds and garlic
        elif node.kind == "entity" and (match := _SEASON.fullmatch(text)):
            parts = list(match.groups())  # 2014–15 Serie A
        elif (
            node.kind == "entity"
            and (match := _HEAD_OF_TAIL.fullmatch(text))
            and (" " in match[1] or text.startswith(" in ", len(match[1])))
        ):
            parts = list(match.groups())  # Native Americans in the United States, Brazilians in Japan
        else:
            continue
        keys = tuple(keys for keys in (fold_all(part) for part in parts) if keys)
        if len(keys) > 1:
            yield keys


def _lone_ends(text: str) -> Iterator[tuple[tuple[str, ...], ...]]:
    """A name of three or more words without its first or last: City Council (of Birmingham)."""
    if "," in text or "(" in text:
        return
    keys = fold_all(text)
    if len(keys) > 2 and LINKING_WORDS.isdisjoint((keys[1], keys[-2])):
        if keys[0] not in COMMON_KEYS:
            yield keys[:1], keys[1:]
        if keys[-1] not in COMMON_KEYS:
            yield keys[:-1], keys[-1:]


def _case(form: str, keys: tuple[str, ...]) -> str:
    """Short or common single words are names only where they are written like one: "US", "It", "Will"."""
    if len(keys) > 1 or not form[0].isupper():
        return ""
    if form.isupper() and len(form) <= 3:
        return "all"
    if form.isupper() and len(form) <= 5:
        return "all" if keys[0] in COMMON_KEYS else "initial"  # Nasa
    return "initial" if len(form) <= 3 or keys[0] in COMMON_KEYS else ""


def find_forms(
    tokens: Tokens, forms: Mapping[str, Forms], is_name: Callable[[tuple[str, ...]], bool] = lambda _: False
) -> Matches:
    """Longest forms first, left to right; a word belongs to one form only, except inside composite ones.

    Args:
        tokens: the text.
        forms: node id -> its forms.
        is_name: whether a phrase is a name in the graph, and therefore no misspelt other one.
    """
    by_first: defaultdict[str, list[tuple[list[int], tuple[Phrase, ...]]]] = defaultdict(list)
    places: dict[str, list[int]] = {}
    present = set(tokens.keys)
    for uri, form in forms.items():
        own = places[uri] = []
        for key in form.by_first.keys() & present:
            by_first[key].append((own, form.by_first[key]))
    keys, words, sentences, covered = tokens.keys, tokens.words, tokens.sentences, bytearray(len(tokens.keys))
    after = 0  # where the last form ends that is not composite
    for i, key in enumerate(keys):
        if i < after or key not in by_first:
            continue
        length, step = 0, 0
        found: list[list[int]] = []
        for own, phrases in by_first[key]:
            for phrase in phrases:
                size = len(phrase.keys)
                if size < length:
                    break
                if (
                    keys[i : i + size] == phrase.keys
                    and (not phrase.case or _right_case(words[i], phrase.case))
                    and (phrase.dotted or sentences[i] == sentences[i + size - 1])
                ):
                    if size > length:
                        length, step, found = size, size, []
                    step = min(step, phrase.step)
                    found.append(own)
                    break
        if length:
            for own in found:
                own.append(i)
            covered[i : i + length] = b"\x01" * length
            tokens.join(i, i + length)
            after = i + step
    for uri, form in forms.items():
        if not places[uri]:
            places[uri] += _find_variant(tokens, form, covered, is_name)
    return Matches(places, covered)


def _find_variant(
    tokens: Tokens, form: Forms, covered: bytearray, is_name: Callable[[tuple[str, ...]], bool]
) -> list[int]:
    for parts in form.apart:
        if found := find_parts(tokens, parts, covered):
            return found
    phrases = [phrase.keys for phrase in form.phrases]
    if found := find_joined(tokens, phrases, covered):
        return found
    if form.kind == "string":
        return find_gist(tokens, phrases[0], covered) if phrases else []
    if form.kind != "entity":
        return []
    return (
        find_loose(tokens, phrases, covered)
        or find_derived(tokens, phrases, covered)
        or find_misspelt(tokens, phrases, covered, is_name)
    )


def _right_case(word: str, case: str) -> bool:
    return POSSESSIVE.sub("", word).isupper() if case == "all" else word[0].isupper()
