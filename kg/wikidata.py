"""From a line of a Wikidata JSON dump to what the graph keeps of it.

`WikidataReader.read` turns one line into an `Entity`, a `Property`, a
`Redirect` or an `Ignored` document. Decoding is typed and lazy: the claims stay
raw JSON, property by property, until a rule asks for them, so a document that
the rules drop costs little. Every statement of a kept entity is either returned
or counted in ``Entity.dropped`` under the first of these reasons that holds:
relation_not_selected, deprecated, not_best_rank, novalue or somevalue,
datatype_not_kept, other_language, unreadable_value.

The data model is Wikibase's:
https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from kg.literals import coordinate_text, date_text, plain_text, quantity_text, unit_id

__all__ = [
    "BadLineError",
    "Entity",
    "Ignored",
    "ItemClaim",
    "LiteralClaim",
    "Property",
    "Redirect",
    "WikidataReader",
    "item_number",
    "property_number",
]

_INSTANCE_OF = 31
_ANY_LANGUAGE = "mul"  # labels that hold in all languages, since 2024
_KINDS = {"time": "date", "quantity": "quantity", "globe-coordinate": "coordinate"}  # all other literals: string
_DATATYPE_OF_VALUE = {
    "time": "time",
    "quantity": "quantity",
    "globecoordinate": "globe-coordinate",
    "monolingualtext": "monolingualtext",
    "string": "",
}


class BadLineError(ValueError):
    """A line that is no document of a Wikidata dump; the message is the reason."""


class ItemClaim(NamedTuple):
    """A statement whose object is an item.

    ``property`` and ``object`` are the numbers of the ids.
    """

    property: int
    object: int
    preferred: bool


class LiteralClaim(NamedTuple):
    """A statement whose object is a literal.

    ``datatype`` is "" for a string whose datatype only the property's document
    tells; ``unit`` is the number of the unit's item, 0 where there is none;
    ``text`` is without unit; ``value`` is the datavalue's value as compact JSON.
    """

    property: int
    datatype: str
    kind: str
    text: str
    unit: int
    value: str
    preferred: bool


class Entity(msgspec.Struct, frozen=True):
    """A kept item; ``number`` is that of its Q id, ``title`` its Wikipedia article or ""."""

    number: int
    revision: int
    title: str
    label: str
    description: str
    aliases: list[str]
    types: list[int]
    items: list[ItemClaim]
    literals: list[LiteralClaim]
    datatypes: dict[int, str]  # of the properties used, as far as the statements tell
    statements: int
    dropped: Counter[str]


class Property(msgspec.Struct, frozen=True):
    """The document of a property; ``label`` is "" if the language has none."""

    number: int
    revision: int
    label: str
    description: str
    aliases: list[str]
    datatype: str


class Redirect(msgspec.Struct, frozen=True):
    """An item that was merged into another one."""

    source: int
    target: int


class Ignored(msgspec.Struct, frozen=True):
    """A document that the graph does not keep; its label is kept for items that serve as units.

    ``reason``: no_article, no_label, dropped_class (items); lexeme, mediainfo, other_kind.
    """

    reason: str
    number: int = 0
    revision: int = 0
    label: str = ""


# What is read of a document. PHP writes an empty map as [], hence the unions with list.
_Map = dict[str, msgspec.Raw] | list[msgspec.Raw] | None


class _Document(msgspec.Struct):
    id: str | None = None
    type: str | None = None
    labels: _Map = None
    descriptions: _Map = None
    aliases: _Map = None
    claims: _Map = None
    sitelinks: _Map = None
    datatype: str = ""
    lastrevid: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] = 0
    entity: str | None = None
    redirect: str | None = None


class _Term(msgspec.Struct):
    value: str


class _Sitelink(msgspec.Struct):
    title: str


class _DataValue(msgspec.Struct):
    type: str
    value: msgspec.Raw


class _Snak(msgspec.Struct):
    snaktype: Literal["value", "somevalue", "novalue"]
    datatype: str | None = None
    datavalue: _DataValue | None = None


class _Statement(msgspec.Struct):
    mainsnak: _Snak
    rank: Literal["preferred", "normal", "deprecated"]


class _ItemValue(msgspec.Struct, rename="kebab"):
    """``{"entity-type": "item", "id": "Q64"}``; until 2016 with ``numeric-id`` alone."""

    entity_type: str = "item"
    id: str | None = None
    numeric_id: int | None = None


_document = msgspec.json.Decoder(_Document)
_term = msgspec.json.Decoder(_Term)
_terms = msgspec.json.Decoder(list[_Term])
_sitelink = msgspec.json.Decoder(_Sitelink)
_statements = msgspec.json.Decoder(list[_Statement])
_raw_statements = msgspec.json.Decoder(list[msgspec.Raw])
_item_value = msgspec.json.Decoder(_ItemValue)
_any_value = msgspec.json.Decoder(Any)

_T = TypeVar("_T")


class WikidataReader:
    """Decides what of each document the graph keeps.

    Args:
        language: language of labels, descriptions, aliases and of the Wikipedia that gives titles.
        wikipedia_only: keep only items with an article in that Wikipedia, else all with a label or article.
        drop_classes: Q ids; an item with one of them as best-ranked "instance of" is dropped.
        literals: datatypes of literal values to keep.
        relations: P ids of the relations to keep, or None for all.
    """

    def __init__(
        self,
        *,
        language: str,
        wikipedia_only: bool,
        drop_classes: Collection[str],
        literals: Collection[str],
        relations: Collection[str] | None,
    ) -> None:
        self._language = language
        self._site = language.replace("-", "_") + "wiki"
        self._wikipedia_only = wikipedia_only
        self._drop_classes = frozenset(item_number(item) for item in drop_classes)
        self._literals = frozenset(literals)
        self._relations = None if relations is None else frozenset(property_number(name) for name in relations)

    def read(self, line: bytes) -> tuple[Entity | Property | Redirect | Ignored, Collection[str]]:
        """Decode a line; the second part names the properties that the document makes statements with.

        Raises:
            BadLineError: the line is not a document.
        """
        try:
            document = _document.decode(line)
            claims = _mapping(document.claims)
            return self._classify(document, claims), claims.keys()
        except RecursionError:
            raise BadLineError("nested too deeply") from None
        except (msgspec.MsgspecError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise BadLineError(str(error) or type(error).__name__) from error

    def _classify(self, document: _Document, claims: dict[str, msgspec.Raw]) -> Entity | Property | Redirect | Ignored:
        if document.redirect is not None:
            return self._redirect(document)
        if document.id is None:
            raise BadLineError("neither an 'id' nor a 'redirect'")
        kind = document.type or {"Q": "item", "P": "property", "L": "lexeme", "M": "mediainfo"}.get(document.id[:1], "")
        if kind == "item":
            return self._item(document, item_number(document.id), claims)
        if kind == "property":
            return self._property(document, property_number(document.id))
        return Ignored(kind if kind in ("lexeme", "mediainfo") else "other_kind")

    def _redirect(self, document: _Document) -> Redirect | Ignored:
        source, target = document.entity or document.id or "", document.redirect or ""
        if not source.startswith("Q"):
            return Ignored("other_kind")
        return Redirect(item_number(source), item_number(target))

    def _property(self, document: _Document, number: int) -> Property:
        label = self._label(document)
        return Property(
            number=number,
            revision=document.lastrevid,
            label=label,
            description=self._description(document),
            aliases=self._aliases(document, label),
            datatype=document.datatype,
        )

    def _item(self, document: _Document, number: int, claims: dict[str, msgspec.Raw]) -> Entity | Ignored:
        label = self._label(document)
        title = self._title(document)
        ignored = Ignored("", number, document.lastrevid, label or title)
        if self._wikipedia_only and not title:
            return msgspec.structs.replace(ignored, reason="no_article")
        if not label and not title:
            return msgspec.structs.replace(ignored, reason="no_label")
        types = _types(claims)
        if not self._drop_classes.isdisjoint(types):
            return msgspec.structs.replace(ignored, reason="dropped_class")
        entity = Entity(
            number=number,
            revision=document.lastrevid,
            title=title,
            label=label or title,
            description=self._description(document),
            aliases=self._aliases(document, label or title),
            types=types,
            items=[],
            literals=[],
            datatypes={},
            statements=0,
            dropped=Counter(),
        )
        return self._with_claims(entity, claims)

    def _with_claims(self, entity: Entity, claims: dict[str, msgspec.Raw]) -> Entity:
        dropped, total = entity.dropped, 0
        for name, raw in claims.items():
            number = property_number(name)
            if self._relations is not None and number not in self._relations:
                statements = len(_raw_statements.decode(raw))
                dropped["relation_not_selected"] += statements
                total += statements
                continue
            decoded = _statements.decode(raw)
            total += len(decoded)
            for statement in _best(decoded, dropped):
                reason = self._keep(entity, number, statement)
                if reason:
                    dropped[reason] += 1
        return msgspec.structs.replace(entity, statements=total)

    def _keep(self, entity: Entity, number: int, statement: _Statement) -> str:
        """Add a best-ranked statement to ``entity``; the reason if it is dropped, else ""."""
        snak = statement.mainsnak
        if snak.snaktype != "value":
            return snak.snaktype
        if snak.datavalue is None:
            return "unreadable_value"
        datatype = snak.datatype or _inferred_datatype(snak.datavalue)
        preferred = statement.rank == "preferred"
        if datatype == "wikibase-item":
            target = _item_target(snak.datavalue)
            if target is None:
                return "unreadable_value"
            entity.datatypes[number] = datatype
            entity.items.append(ItemClaim(number, target, preferred))
            return ""
        if (datatype or "string") not in self._literals:
            return "datatype_not_kept"
        value = _any_value.decode(snak.datavalue.value)
        try:
            if datatype == "monolingualtext" and _language(value) not in (self._language, _ANY_LANGUAGE):
                return "other_language"
            text, unit = _literal_text(datatype, value)
        except ValueError:
            return "unreadable_value"
        if datatype:
            entity.datatypes[number] = datatype
        raw = msgspec.json.encode(value).decode()
        entity.literals.append(
            LiteralClaim(number, datatype, _KINDS.get(datatype, "string"), text, unit, raw, preferred)
        )
        return ""

    def _label(self, document: _Document) -> str:
        labels = _mapping(document.labels)
        for language in (self._language, _ANY_LANGUAGE):
            if language in labels and (text := _spaced(_term.decode(labels[language]).value)):
                return text
        return ""

    def _title(self, document: _Document) -> str:
        sitelinks = _mapping(document.sitelinks)
        return _spaced(_sitelink.decode(sitelinks[self._site]).title) if self._site in sitelinks else ""

    def _description(self, document: _Document) -> str:
        descriptions = _mapping(document.descriptions)
        return _spaced(_term.decode(descriptions[self._language]).value) if self._language in descriptions else ""

    def _aliases(self, document: _Document, label: str) -> list[str]:
        aliases = _mapping(document.aliases)
        found: dict[str, None] = {}
        for language in (self._language, _ANY_LANGUAGE):
            if language in aliases:
                found.update((_spaced(term.value), None) for term in _terms.decode(aliases[language]))
        return [alias for alias in found if alias not in ("", label)]


def item_number(item: str) -> int:
    """The number of a Q id.

    >>> item_number("Q64")
    64
    """
    return _id_number(item, "Q")


def property_number(name: str) -> int:
    """The number of a P id.

    >>> property_number("P36")
    36
    """
    return _id_number(name, "P")


def _id_number(name: str, letter: str) -> int:
    digits = name[1:]
    if not (name[:1] == letter and digits.isascii() and digits.isdigit() and digits[0] != "0" and len(digits) < 10):
        raise BadLineError(f"{name[:40]!r} is not an id of the form {letter}1")
    return int(digits)


def _mapping(value: dict[str, _T] | list[_T] | None) -> dict[str, _T]:
    if isinstance(value, dict):
        return value
    if value:
        raise BadLineError("a list with elements where a map is meant")
    return {}


def _types(claims: dict[str, msgspec.Raw]) -> list[int]:
    """The best-ranked classes of an item, without repetition, in the order of the document."""
    raw = claims.get(f"P{_INSTANCE_OF}")
    if raw is None:
        return []
    found: dict[int, None] = {}
    for statement in _best(_statements.decode(raw), Counter()):
        snak = statement.mainsnak
        if snak.snaktype == "value" and snak.datavalue is not None and snak.datavalue.type == "wikibase-entityid":
            target = _item_target(snak.datavalue)
            if target is not None:
                found[target] = None
    return list(found)


def _best(statements: list[_Statement], dropped: Counter[str]) -> list[_Statement]:
    """All preferred statements, else all normal ones; the others are counted in ``dropped``."""
    preferred = [statement for statement in statements if statement.rank == "preferred"]
    normal = [statement for statement in statements if statement.rank == "normal"]
    if len(preferred) + len(normal) < len(statements):
        dropped["deprecated"] += len(statements) - len(preferred) - len(normal)
    if preferred and normal:
        dropped["not_best_rank"] += len(normal)
    return preferred or normal


def _inferred_datatype(value: _DataValue) -> str:
    """The datatype that a value's type tells; "" for a string, which several datatypes share."""
    if value.type == "wikibase-entityid":
        return "wikibase-" + _item_value.decode(value.value).entity_type
    return _DATATYPE_OF_VALUE.get(value.type, value.type)


def _item_target(value: _DataValue) -> int | None:
    if value.type != "wikibase-entityid":
        return None
    target = _item_value.decode(value.value)
    if target.entity_type != "item":
        return None
    try:
        return item_number(target.id or f"Q{target.numeric_id}")
    except BadLineError:
        return None


def _literal_text(datatype: str, value: Any) -> tuple[str, int]:
    """The text of a literal without its unit, and the number of its unit."""
    if datatype == "time":
        return date_text(value), 0
    if datatype == "quantity":
        return quantity_text(value), unit_id(value)
    if datatype == "globe-coordinate":
        return coordinate_text(value), 0
    return plain_text(value["text"] if datatype == "monolingualtext" else value), 0


def _language(value: Any) -> str:
    """The language of a monolingual text."""
    if not (isinstance(value, dict) and isinstance(value.get("text"), str) and isinstance(value.get("language"), str)):
        raise ValueError("not a monolingual text")
    return value["language"]


def _spaced(text: str) -> str:
    try:
        return plain_text(text)
    except ValueError:
        return ""
