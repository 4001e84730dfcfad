"""Wikibase's JSON form of documents, as far as the graph needs it.

Decoders that build objects for the wanted languages, the wanted site and the
main values of statements, and skip the rest inside msgspec; and what the parts
of a statement mean: rank, datatype, item, literal. The data model is described
at https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from kg.literals import coordinate_text, date_text, globe_id, plain_text, quantity_text, unit_id

__all__ = [
    "BadLineError",
    "LiteralValue",
    "QualifiedStatement",
    "Snak",
    "Statement",
    "best",
    "datatype_of",
    "document_decoder",
    "given",
    "item_number",
    "item_of",
    "kind_of",
    "literal_of",
    "property_number",
    "property_of",
    "spaced",
]

_KINDS = {"time": "date", "quantity": "quantity", "globe-coordinate": "coordinate"}  # all other literals: string
_DATATYPE_OF_VALUE = {
    "time": "time",
    "quantity": "quantity",
    "globecoordinate": "globe-coordinate",
    "monolingualtext": "monolingualtext",
    "string": "",
}
_GREATEST_NUMBER = 10**9 - 1


class BadLineError(ValueError):
    """A line that is no document of a Wikidata dump; the message is the reason."""


# Documents are trees, so none of these needs the garbage collector's attention (gc=False).
class _Term(msgspec.Struct, gc=False):
    value: str


class _Sitelink(msgspec.Struct, gc=False):
    title: str


class _DataValue(msgspec.Struct, gc=False):
    type: str
    value: msgspec.Raw


class Snak(msgspec.Struct, gc=False):
    """What a statement or qualifier says; ``snaktype`` is value, somevalue or novalue."""

    snaktype: str
    datatype: str | None = None
    datavalue: _DataValue | None = None


class Statement(msgspec.Struct, gc=False):
    """A statement without references."""

    mainsnak: Snak
    rank: Literal["preferred", "normal", "deprecated"]


# PHP writes an empty map as [], hence the unions with list here and below.
class QualifiedStatement(msgspec.Struct, gc=False):
    """A statement with its qualifiers."""

    mainsnak: Snak
    rank: Literal["preferred", "normal", "deprecated"]
    qualifiers: dict[str, list[Snak]] | list[msgspec.Raw] | None = None


class LiteralValue(NamedTuple):
    """A literal as a statement gives it.

    Attributes:
        datatype: "" for a string whose datatype only the property's document tells.
        kind: date, quantity, coordinate, string.
        text: its normal form, without unit.
        unit: number of the item whose label follows the text: a quantity's unit, a position's globe unless it is the
            Earth; or 0.
        value: the datavalue's value as compact JSON.
        language: of a monolingual text, else "".
    """

    datatype: str
    kind: str
    text: str
    unit: int
    value: str
    language: str


class _ItemValue(msgspec.Struct, rename="kebab", gc=False):
    """``{"entity-type": "item", "numeric-id": 64, "id": "Q64"}``; until 2016 without ``id``."""

    entity_type: str = "item"
    id: str | None = None
    numeric_id: int | None = None


_item_value = msgspec.json.Decoder(_ItemValue)
_any_value = msgspec.json.Decoder(Any)


def document_decoder(
    languages: Sequence[str], site: str, *, any_language: bool, qualifiers: bool
) -> msgspec.json.Decoder[Any]:
    """A decoder of documents: items, properties, redirects.

    What it returns has the attributes ``id``, ``type``, ``labels``, ``descriptions``, ``aliases``,
    ``claims``, ``sitelinks``, ``datatype``, ``lastrevid``, ``entity``, ``redirect``; those that are
    maps must be taken through `given`. Terms are structs with a field for each language, in order;
    ``sitelinks`` is a struct with one field, ``claims`` maps P ids to lists of statements.

    Args:
        languages: languages whose terms are wanted.
        site: site whose article is wanted.
        any_language: ``labels`` is a dictionary with those of all languages.
        qualifiers: statements are `QualifiedStatement`, else `Statement`.
    """

    def chosen(keys: Sequence[str], value: Any) -> Any:
        names = {f"of{place}": key for place, key in enumerate(keys)}
        struct = msgspec.defstruct("_Chosen", [(name, value | None, None) for name in names], rename=names, gc=False)
        return struct | list[msgspec.Raw] | None

    statement: Any = QualifiedStatement if qualifiers else Statement
    every_label = dict[str, _Term] | list[msgspec.Raw] | None
    return msgspec.json.Decoder(
        msgspec.defstruct(
            "_Document",
            [
                ("id", str | None, None),
                ("type", str | None, None),
                ("labels", every_label if any_language else chosen(languages, _Term), None),
                ("descriptions", chosen(languages, _Term), None),
                ("aliases", chosen(languages, list[_Term]), None),
                ("claims", dict[str, list[statement]] | list[msgspec.Raw] | None, None),
                ("sitelinks", chosen([site], _Sitelink), None),
                ("datatype", str, ""),
                ("lastrevid", Annotated[int, msgspec.Meta(ge=0, le=1 << 62)], 0),
                ("entity", str | None, None),
                ("redirect", str | None, None),
            ],
            gc=False,
        )
    )


def given(value: Any) -> Any:
    """A map or struct; None for one that is absent or that PHP wrote as [].

    Raises:
        BadLineError: a list with elements.
    """
    if value.__class__ is list:
        if value:
            raise BadLineError("a list with elements where a map is meant")
        return None
    return value


def item_number(item: str) -> int:
    """The number of a Q id.

    >>> item_number("Q64")
    64
    """
    return _id_number(item, "Q")


@lru_cache(maxsize=1 << 15)
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


def best(statements: list[Any]) -> list[Any]:
    """All preferred statements, else all normal ones, never deprecated ones."""
    preferred = [statement for statement in statements if statement.rank == "preferred"]
    return preferred or [statement for statement in statements if statement.rank == "normal"]


def datatype_of(snaks: Collection[Snak]) -> str:
    """The datatype that these snaks of one property share; "" for a string, which several datatypes share.

    Some dumps do not tell it; then the type of the value does.
    """
    for snak in snaks:
        if snak.datatype:
            return snak.datatype
        if snak.datavalue is not None:
            if snak.datavalue.type == "wikibase-entityid":
                return "wikibase-" + _item_value.decode(snak.datavalue.value).entity_type
            return _DATATYPE_OF_VALUE.get(snak.datavalue.type, snak.datavalue.type)
    return ""


def item_of(snak: Snak) -> int | None:
    """The number of the item that a snak with a value names, or None if it names none."""
    value = snak.datavalue
    if value is None or value.type != "wikibase-entityid":
        return None
    try:
        target = _item_value.decode(value.value)
    except msgspec.ValidationError:
        return None
    if target.entity_type != "item":
        return None
    number = target.numeric_id
    if number is not None and 0 < number <= _GREATEST_NUMBER:
        return number
    try:
        return item_number(target.id or "")
    except BadLineError:
        return None


def property_of(snak: Snak) -> int | None:
    """The number of the property that a snak with a value names, or None if it names none."""
    value = snak.datavalue
    if value is None or value.type != "wikibase-entityid":
        return None
    try:
        target = _item_value.decode(value.value)
        return property_number(target.id or f"P{target.numeric_id}") if target.entity_type == "property" else None
    except (msgspec.ValidationError, BadLineError):
        return None


def kind_of(datatype: str) -> str:
    """The kind of node that a literal of a datatype is."""
    return _KINDS.get(datatype, "string")


def literal_of(datatype: str, snak: Snak) -> LiteralValue | None:
    """The literal that a snak of this datatype names; None if it cannot be read."""
    return None if snak.datavalue is None else _literal(datatype, bytes(snak.datavalue.value))


@lru_cache(maxsize=1 << 14)
def _literal(datatype: str, raw: bytes) -> LiteralValue | None:
    value = _any_value.decode(raw)
    language, text, unit = "", "", 0
    try:
        if datatype == "time":
            text = date_text(value)
        elif datatype == "quantity":
            text, unit = quantity_text(value), unit_id(value)
        elif datatype == "globe-coordinate":
            text, unit = coordinate_text(value), globe_id(value)
            text += " on" * (unit > 0)  # a label follows, as of a unit
        elif datatype == "monolingualtext":
            language, text = _monolingual(value)
        else:
            text = plain_text(value)
    except ValueError:
        return None
    return LiteralValue(datatype, kind_of(datatype), text, unit, msgspec.json.encode(value).decode(), language)


def _monolingual(value: Any) -> tuple[str, str]:
    if not (isinstance(value, dict) and isinstance(value.get("language"), str)):
        raise ValueError("not a monolingual text")
    return value["language"], plain_text(value.get("text"))


def spaced(text: str) -> str:
    """The text with white space and control characters made single spaces; "" if nothing else is in it."""
    try:
        return plain_text(text)
    except ValueError:
        return ""
