"""From a block of a Wikidata JSON dump to what the graph keeps of its documents.

`WikidataReader.lines` finds the lines that need decoding, `WikidataReader.read`
turns one into an `Entity`, a `Property`, a `Redirect` or an `Ignored` document.
What the rules drop costs little: a line without the sitelink that makes an
article is recognised by searching its bytes for that key, and what the decoder
need not build it skips. Every statement of a kept entity is either returned or
counted under the first of these reasons that holds: relation_not_selected,
datatype_not_kept, deprecated, not_best_rank, novalue or somevalue,
other_language, unreadable_value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec
import stringzilla
from isal import isal_zlib

from kg.config import GraphConfig
from kg.wikidata.wikibase import (
    BadLineError,
    LiteralValue,
    QualifiedStatement,
    Snak,
    best,
    datatype_of,
    document_decoder,
    given,
    item_number,
    item_of,
    literal_of,
    property_number,
    property_of,
    spaced,
)

__all__ = ["Entity", "Ignored", "LiteralClaim", "Property", "Qualifier", "Redirect", "WikidataReader"]

_SPACE = b" \t\r\n\x0b\x0c"
_FRAME = b"[]," + _SPACE + b"\xef\xbb\xbf"  # what may stand around a document in its line
_INSTANCE_OF, _SUBCLASS_OF, _SUBPROPERTY_OF = "P31", "P279", "P1647"
_ANY_LANGUAGE = "mul"  # labels that hold in all languages, since 2024
# How the lines of items begin and end in the official dump. Lines of any other form are decoded to the end.
_ITEM_HEAD = re.compile(rb'\{"(?:type":"item",")?id":"Q([1-9]\d{0,8})"(?!,"redirect)')
_ITEM_TAILS = (b"}", b"},")
# The conversion to an SI unit: by it, items that serve as units are found among those without an article.
_UNIT_PROPERTY = "P2370"
_NO_STRINGS = frozenset(("time", "quantity", "globe-coordinate", "monolingualtext"))  # all others are strings
_NOWHERE = 1 << 62

LiteralClaim = tuple[int, bool, LiteralValue]
"""A statement whose object is a literal: number of the property, whether preferred, the literal."""

Qualifier = tuple[int, int, str, str, int]
"""Number of the property; number of the item or 0; else kind, "" for a string whose datatype only the property's
document tells; text, and number of the unit's item."""


class Entity(msgspec.Struct, gc=False):
    """A kept item.

    Attributes:
        number: of its Q id.
        checksum: CRC-32 of its line.
        title: its article, or "".
        types, superclasses: numbers of Q ids.
        items: statements whose object is an item, three numbers each: property, object, 1 if preferred else 0.
        literals: statements whose object is a literal.
        item_qualifiers, literal_qualifiers: those of each of these statements; empty if they are not wanted.
    """

    number: int
    revision: int
    checksum: int
    title: str
    label: str
    description: str
    aliases: list[str]
    types: list[int]
    superclasses: list[int]
    items: list[int]
    literals: list[LiteralClaim]
    item_qualifiers: list[list[Qualifier]]
    literal_qualifiers: list[list[Qualifier]]


class Property(msgspec.Struct, gc=False):
    """The document of a property: number of its P id, CRC-32 of its line, label or "" if the languages have none …"""

    number: int
    revision: int
    checksum: int
    label: str
    description: str
    aliases: list[str]
    datatype: str
    parents: list[int]  # numbers of the P ids that it is a subproperty of


class Redirect(msgspec.Struct, gc=False):
    """An item that was merged into another one."""

    source: int
    target: int


class Ignored(msgspec.Struct, gc=False):
    """A document that the graph does not keep; what is known of an item serves for units and classes.

    ``reason``: not_listed, no_article, no_label, dropped_class (items); lexeme, mediainfo, other_kind.
    """

    reason: str
    number: int = 0
    revision: int = 0
    label: str = ""
    superclasses: list[int] = []


class WikidataReader:
    """Decides what of each document the graph keeps; reads one slice after another, in one thread.

    Args:
        config: the selection.
        relations: P ids of the relations to keep, or None for all.
        listed: the items that may be kept, Qn if bit n & 7 of byte n >> 3 is set, or None for all.

    Attributes:
        skipped: lines that were not decoded, by the reason for which their items are dropped.
        statements: statements of the kept entities.
        dropped_statements, dropped_qualifiers: those that were not returned, by reason.
        datatypes: number of the P id -> datatype that the statements tell.
        seen: P ids that occur in decoded documents, as far as relations are selected.
    """

    def __init__(
        self, config: GraphConfig, relations: Collection[str] | None = None, listed: bytes | None = None
    ) -> None:
        self._languages = config.languages
        self._any_entity = config.entities == "any"
        self._articles_only = config.entities == "wikipedia"
        self._listed = listed
        self._relations = None if relations is None else frozenset(relations)
        self._drop_classes = frozenset(item_number(item) for item in config.drop_classes)
        self._classes = bool(config.classes)
        # "" is a string whose datatype is not told.
        self._literals = frozenset((*config.literals, *([] if _NO_STRINGS.issuperset(config.literals) else [""])))
        self._text_languages = frozenset(("", *self._languages, _ANY_LANGUAGE))
        self._qualified = config.qualifiers
        self._document = document_decoder(
            self._languages, config.site, any_language=self._any_entity, qualifiers=config.qualifiers
        )
        # A line without any of these keys holds nothing that is needed; the first one makes an article.
        self._marks = [f'"{config.site}"'.encode()]
        if "quantity" in config.literals:
            self._marks.append(f'"{_UNIT_PROPERTY}"'.encode())
        if self._classes:
            self._marks.append(f'"{_SUBCLASS_OF}"'.encode())
        self.reset()

    def reset(self) -> None:
        """Begin all counts anew."""
        self.skipped: Counter[str] = Counter()
        self.statements = 0
        self.dropped_statements: Counter[str] = Counter()
        self.dropped_qualifiers: Counter[str] = Counter()
        self.datatypes: dict[int, str] = {}
        self.seen: set[str] = set()

    def lines(self, block: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the block, line) of the documents that must be decoded; the others are counted.

        White space, commas and brackets around a document are removed, the offset
        is that of its first byte. Lines with nothing else are left out.

        Args:
            block: whole lines.
        """
        skim = self._articles_only or self._listed is not None
        marks = [_Search(block, mark) for mark in self._marks]
        start, size = 0, len(block)
        while start < size:
            end = block.find(b"\n", start)
            if end < 0:
                end = size
            if skim and (reason := self._skippable(block, start, end, marks)):
                self.skipped[reason] += 1
            elif block.startswith(b'{"', start) and block.endswith(b"},", start, end):
                yield start, block[start : end - 1]
            else:
                line = block[start:end]
                if content := line.strip(_FRAME):
                    yield start + len(line) - len(line.lstrip(_FRAME)), content
            start = end + 1

    def _skippable(self, block: bytes, start: int, end: int, marks: list[_Search]) -> str:
        """Why the item of a line is dropped without being decoded; "" if the line must be decoded.

        Of a line that is no document only the two ends are looked at: decoding every line would cost several times
        as much as the search.
        """
        head = _ITEM_HEAD.match(block, start, end)
        if head is None or not block.endswith(_ITEM_TAILS, start, end):
            return ""
        article, *others = marks
        for mark in others:
            if mark.next(start) < end:
                return ""
        if self._listed is not None and not self._is_listed(int(head[1])):
            return "not_listed"
        return "no_article" if self._articles_only and article.next(start) >= end else ""

    def _is_listed(self, number: int) -> bool:
        listed = self._listed
        return listed is None or (number >> 3 < len(listed) and listed[number >> 3] >> (number & 7) & 1 == 1)

    def read(self, line: bytes) -> Entity | Property | Redirect | Ignored:
        """Decode a line.

        Raises:
            BadLineError: the line is not a document.
        """
        try:
            document = self._document.decode(line)
            claims = given(document.claims) or {}
            if self._relations is not None:
                self.seen.update(claims)
            return self._classify(document, claims, line)
        except RecursionError:
            raise BadLineError("nested too deeply") from None
        except (msgspec.MsgspecError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise BadLineError(str(error) or type(error).__name__) from error

    def _classify(
        self, document: Any, claims: dict[str, list[Any]], line: bytes
    ) -> Entity | Property | Redirect | Ignored:
        if document.redirect is not None:
            return self._redirect(document)
        if document.id is None:
            raise BadLineError("neither an 'id' nor a 'redirect'")
        kind = document.type or {"Q": "item", "P": "property", "L": "lexeme", "M": "mediainfo"}.get(document.id[:1], "")
        if kind == "item":
            return self._item(document, item_number(document.id), claims, line)
        if kind == "property":
            return self._property(document, property_number(document.id), claims, line)
        return Ignored(kind if kind in ("lexeme", "mediainfo") else "other_kind")

    def _redirect(self, document: Any) -> Redirect | Ignored:
        source, target = document.entity or document.id or "", document.redirect or ""
        if not source.startswith("Q"):
            return Ignored("other_kind")
        return Redirect(item_number(source), item_number(target))

    def _property(self, document: Any, number: int, claims: dict[str, list[Any]], line: bytes) -> Property:
        label, language = self._label(document)
        return Property(
            number=number,
            revision=document.lastrevid,
            checksum=isal_zlib.crc32(line),
            label=label,
            description=self._description(document),
            aliases=self._aliases(document, label, language),
            datatype=document.datatype,
            parents=_named(claims.get(_SUBPROPERTY_OF), property_of),
        )

    def _item(self, document: Any, number: int, claims: dict[str, list[Any]], line: bytes) -> Entity | Ignored:
        label, language = self._label(document)
        title = self._title(document)
        types = _objects(claims.get(_INSTANCE_OF))
        superclasses = _objects(claims.get(_SUBCLASS_OF)) if self._classes else []
        reason = self._refusal(number, label, title, types)
        if reason:
            # Where lines may be skipped, what is known of an item must not depend on the form of its line.
            known = reason not in ("not_listed", "no_article") or _UNIT_PROPERTY in claims
            return Ignored(reason, number, document.lastrevid, (label or title) * known, superclasses)
        label = label or title or document.id
        entity = Entity(
            number=number,
            revision=document.lastrevid,
            checksum=isal_zlib.crc32(line),
            title=title,
            label=label,
            description=self._description(document),
            aliases=self._aliases(document, label, language),
            types=types,
            superclasses=superclasses,
            items=[],
            literals=[],
            item_qualifiers=[],
            literal_qualifiers=[],
        )
        self._add_statements(entity, claims)
        return entity

    def _refusal(self, number: int, label: str, title: str, types: list[int]) -> str:
        """Why an item is not kept, or ""."""
        if not self._is_listed(number):
            return "not_listed"
        if self._articles_only and not title:
            return "no_article"
        if not (label or title or self._any_entity):
            return "no_label"
        return "" if self._drop_classes.isdisjoint(types) else "dropped_class"

    def _add_statements(self, entity: Entity, claims: dict[str, list[Any]]) -> None:
        """Add what is kept of an entity's statements; all others are counted.

        This loop sees every statement, so it looks things up once and calls nothing in vain.
        """
        items, literals = entity.items, entity.literals
        relations, kept_literals, datatypes = self._relations, self._literals, self.datatypes
        total = not_selected = not_kept = 0
        dropped: dict[str, int] = {}
        for name, statements in claims.items():
            count = len(statements)
            total += count
            if relations is not None and name not in relations:
                not_selected += count
                continue
            if not count:
                continue
            datatype = statements[0].mainsnak.datatype
            if datatype is None:
                datatype = datatype_of([statement.mainsnak for statement in statements])
            if datatype != "wikibase-item" and datatype not in kept_literals:
                not_kept += count
                continue
            number = property_number(name)
            if count > 1 or statements[0].rank == "deprecated":
                statements = _best(statements, dropped)
            kept = len(items) + len(literals)
            if datatype == "wikibase-item":
                self._add_items(entity, number, statements, dropped)
            else:
                self._add_literals(entity, number, datatype, statements, dropped)
            if len(items) + len(literals) > kept and datatypes.get(number) != datatype and datatype:
                datatypes[number] = min(datatypes.get(number, datatype), datatype)
        self.statements += total
        counts = self.dropped_statements
        counts["relation_not_selected"] += not_selected
        counts["datatype_not_kept"] += not_kept
        for reason, number in dropped.items():
            counts[reason] += number

    def _add_items(self, entity: Entity, number: int, statements: list[Any], dropped: dict[str, int]) -> None:
        """Add the statements whose object is an item."""
        for statement in statements:
            snak = statement.mainsnak
            target = item_of(snak) if snak.snaktype == "value" else None
            if target is None:
                _count(dropped, _valueless(snak))
                continue
            entity.items += (number, target, statement.rank == "preferred")
            if self._qualified:
                entity.item_qualifiers.append(self._qualifiers(statement))

    def _add_literals(
        self, entity: Entity, number: int, datatype: str, statements: list[Any], dropped: dict[str, int]
    ) -> None:
        """Add the statements whose object is a literal."""
        for statement in statements:
            snak = statement.mainsnak
            literal = literal_of(datatype, snak) if snak.snaktype == "value" else None
            if literal is None:
                _count(dropped, _valueless(snak))
                continue
            if literal.language not in self._text_languages:
                _count(dropped, "other_language")
                continue
            entity.literals.append((number, statement.rank == "preferred", literal))
            if self._qualified:
                entity.literal_qualifiers.append(self._qualifiers(statement))

    def _qualifiers(self, statement: QualifiedStatement) -> list[Qualifier]:
        """The qualifiers of a kept statement; those that are no value of a kept datatype are counted."""
        found: list[Qualifier] = []
        for name, snaks in (given(statement.qualifiers) or {}).items():
            for snak in snaks:
                qualifier = self._qualifier(property_number(name), snak)
                if isinstance(qualifier, str):
                    self.dropped_qualifiers[qualifier] += 1
                else:
                    found.append(qualifier)
        return found

    def _qualifier(self, number: int, snak: Snak) -> Qualifier | str:
        """A qualifier, or why it is dropped."""
        if snak.snaktype != "value":
            return _valueless(snak)
        datatype = datatype_of([snak])
        if datatype == "wikibase-item":
            target = item_of(snak)
            return "unreadable_value" if target is None else (number, target, "entity", "", 0)
        if datatype not in self._literals:
            return "datatype_not_kept"
        literal = literal_of(datatype, snak)
        if literal is None:
            return "unreadable_value"
        if literal.language not in self._text_languages:
            return "other_language"
        return number, 0, literal.kind if datatype else "", literal.text, literal.unit

    def _label(self, document: Any) -> tuple[str, str]:
        """The label in the first language that has one, and that language."""
        labels = given(document.labels)
        if labels is None:
            return "", ""
        if not self._any_entity:
            place, text = _first(labels)
            return text, self._languages[place]
        for language in [*self._languages, *sorted(labels.keys() - set(self._languages))]:
            if language in labels and (text := spaced(labels[language].value)):
                return text, language
        return "", ""

    def _title(self, document: Any) -> str:
        sitelinks = given(document.sitelinks)
        return spaced(sitelinks.of0.title) if sitelinks is not None and sitelinks.of0 is not None else ""

    def _description(self, document: Any) -> str:
        descriptions = given(document.descriptions)
        return "" if descriptions is None else _first(descriptions)[1]

    def _aliases(self, document: Any, label: str, label_language: str) -> list[str]:
        """The aliases in the language, in that of the label, and those for all languages."""
        aliases = given(document.aliases)
        if aliases is None:
            return []
        found: list[str] = []
        for place, terms in enumerate(msgspec.structs.astuple(aliases)):
            if terms and (place == 0 or self._languages[place] in (label_language, _ANY_LANGUAGE)):
                found += [spaced(term.value) for term in terms]
        return [alias for alias in dict.fromkeys(found) if alias not in ("", label)] if found else found


class _Search:
    """Where a mark occurs in a block, asked for one stretch after another."""

    __slots__ = ("_block", "_mark", "_place")

    def __init__(self, block: bytes, mark: bytes) -> None:
        self._block = block
        self._mark = mark
        self._place = -1

    def next(self, start: int) -> int:
        """The first place from ``start`` on, or a place behind every block; ``start`` must not go back."""
        if self._place < start:
            found = stringzilla.find(self._block, self._mark, start)
            self._place = found if found >= 0 else _NOWHERE
        return self._place


def _first(terms: Any) -> tuple[int, str]:
    """The place and text of the first language's term that has a text; 0 and "" if none has."""
    term = terms.of0
    if term is not None and (text := spaced(term.value)):
        return 0, text
    for place, term in enumerate(msgspec.structs.astuple(terms)):
        if term is not None and (text := spaced(term.value)):
            return place, text
    return 0, ""


def _count(counts: dict[str, int], reason: str, number: int = 1) -> None:
    if number:
        counts[reason] = counts.get(reason, 0) + number


def _best(statements: list[Any], dropped: dict[str, int]) -> list[Any]:
    """The best-ranked statements; the others are counted in ``dropped``."""
    deprecated = [statement.rank for statement in statements].count("deprecated")
    found = best(statements)
    _count(dropped, "deprecated", deprecated)
    _count(dropped, "not_best_rank", len(statements) - deprecated - len(found))
    return found


def _objects(statements: list[Any] | None) -> list[int]:
    return _named(statements, item_of)


def _named(statements: list[Any] | None, number_of: Callable[[Snak], int | None]) -> list[int]:
    """The best-ranked items or properties that a property names, without repetition, in the document's order."""
    if not statements:
        return []
    snaks = [statement.mainsnak for statement in best(statements)]
    targets = [number_of(snak) for snak in snaks if snak.snaktype == "value"]
    return list(dict.fromkeys(target for target in targets if target is not None))


def _valueless(snak: Snak) -> str:
    """The reason for which a snak without a value is dropped."""
    return snak.snaktype if snak.snaktype in ("novalue", "somevalue") else "unreadable_value"
