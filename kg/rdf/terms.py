"""RDF's terms as the graph writes them: IRIs as short ids, literals as named values.

`Prefixes` shortens IRIs so that no two get one id and every id leads back to its
IRI: what would be ambiguous stays whole, in angle brackets if need be. `literal`
gives typed literals the normal forms of `kg.literals`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.literals import coordinate_text, date_text, plain_text, quantity_text
from kg.rdf.arrays import flags, mask, scalar, spans, strings
from kg.rdf.config import _LITERAL_KINDS, WIKIDATA_DIRECT, WIKIDATA_ENTITY, RdfConfig
from kg.rdf.ntriples import unescaped

__all__ = [
    "Literal",
    "Prefixes",
    "article_hosts",
    "article_title",
    "literal",
    "literal_datatype",
    "local_name",
    "readable_texts",
]

_XSD = "http://www.w3.org/2001/XMLSchema#"
_SIGNED = ("Integer", "Long", "Int", "Short", "Byte")
_NUMBERS = (
    *("decimal", "double", "float", *(name.lower() for name in _SIGNED), *(f"unsigned{name}" for name in _SIGNED[1:])),
    *("positiveInteger", "negativeInteger", "nonNegativeInteger", "nonPositiveInteger"),
)
# Datatype -> Wikibase's name for such values, by which 'kg.literals' chooses.
_DATATYPES = (
    dict.fromkeys((_XSD + name for name in ("date", "dateTime", "dateTimeStamp", "gYear", "gYearMonth")), "time")
    | dict.fromkeys((_XSD + name for name in _NUMBERS), "quantity")
    | {
        "http://www.opengis.net/ont/geosparql#wktLiteral": "globe-coordinate",
        _XSD + "string": "string",
        _XSD + "normalizedString": "string",
        _XSD + "token": "string",
        _XSD + "anyURI": "url",
        "http://www.w3.org/1998/Math/MathML": "math",
    }
)
_KINDS = {"time": "date", "quantity": "quantity", "globe-coordinate": "coordinate"}  # all others: string
_YEAR, _MONTH, _DAY = 9, 10, 11  # Wikibase's precisions
_DATE = re.compile(r"([+-]?)(\d{4,16})(?:-(\d\d)(?:-(\d\d))?)?(T[\d:.]+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_PLAIN_NUMBER = re.compile(r"\+?(-?[1-9]\d*(?:\.\d+)?)", re.ASCII)
_POINT = re.compile(r"(?:<[^<>]*/Q2>\s*)?Point\s*\(\s*(\S+)\s+(\S+)\s*\)", re.IGNORECASE)
_PROJECT = re.compile(r"(.+?)(wiki|wiktionary|wikivoyage|wikiquote|wikisource|wikinews|wikibooks|wikiversity)")
_HOSTS = {"commonswiki": "commons.wikimedia.org", "specieswiki": "species.wikimedia.org"}
# White space that `plain_text` would change: all but single spaces inside.
_ODD_SPACE = r"[\x00-\x1f\x7f]|  |^ | $|[\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


class Literal(NamedTuple):
    """A literal as a node: its id, name, kind, and value (compact JSON of the lexical form)."""

    id: str
    name: str
    kind: str
    value: str


class Prefixes:
    """Shortens IRIs to ids and leads back.

    Nodes and relations have ids of their own: Wikidata's P36 is a direct
    property as a relation, and the entity that describes it as a node.
    """

    def __init__(self, config: RdfConfig) -> None:
        self._nodes = _Shortener(config, of_relations=False)
        self._relations = _Shortener(config, of_relations=True)

    def node_ids(self, iris: pa.Array) -> pa.Array:
        """The ids of nodes with these IRIs: strings, as many."""
        return self._nodes.shorten(iris)

    def node_id(self, iri: str) -> str:
        """The id of the node with this IRI.

        >>> Prefixes(RdfConfig()).node_id("http://dbpedia.org/resource/Berlin")
        'dbr:Berlin'
        """
        return self._nodes.shorten(pa.array([iri]))[0].as_py()

    def relation_id(self, iri: str) -> str:
        """The id of the relation with this IRI.

        >>> Prefixes(RdfConfig()).relation_id("http://www.wikidata.org/prop/direct/P36")
        'P36'
        """
        return self._relations.shorten(pa.array([iri]))[0].as_py()

    def node_iri(self, identifier: str) -> str:
        """The IRI of a node: the inverse of `node_id`."""
        return self._nodes.expand(identifier)

    def relation_iri(self, identifier: str) -> str:
        """The IRI of a relation: the inverse of `relation_id`."""
        return self._relations.expand(identifier)

    def relation_ids(self, iris: pa.Array) -> pa.Array:
        """The ids of relations with these IRIs: strings, as many."""
        return self._relations.shorten(iris)

    def describing_ids(self, relation_iris: Sequence[str]) -> list[tuple[str, int]]:
        """The node ids under which relations' labels may stand, each with the place of the relation.

        They are the relation's own, and that of the entity that describes a property of Wikidata.
        """
        found = list(enumerate(relation_iris))
        for place, iri in enumerate(relation_iris):
            if iri.startswith(WIKIDATA_DIRECT):
                found.append((place, WIKIDATA_ENTITY + iri.removeprefix(WIKIDATA_DIRECT)))
        ids = self.node_ids(pa.array([iri for _, iri in found], pa.string())).to_pylist()
        return [(name, place) for name, (place, _) in zip(ids, found, strict=True)]


class _Shortener:
    """The prefixes for one kind of ids; of namespaces that share a prefix, that kind's own holds."""

    def __init__(self, config: RdfConfig, of_relations: bool) -> None:
        by_prefix: dict[str, str] = {}
        for namespace, prefix in sorted(config.prefixes.items()):
            if prefix not in by_prefix or config.names_relations(namespace) == of_relations:
                by_prefix[prefix] = namespace
        self._namespaces = by_prefix
        # An IRI is shortened by the longest of all namespaces, or not at all.
        self._all = sorted(config.prefixes, key=lambda namespace: (-len(namespace), namespace))
        self._prefix_of = {namespace: prefix for prefix, namespace in by_prefix.items()}
        heads = [re.escape(prefix[:-1]) for prefix in by_prefix if prefix]
        self._taken = f"^(?:{'|'.join([*heads, *_LITERAL_KINDS])}):"

    def shorten(self, iris: pa.Array) -> pa.Array:
        ids = iris
        waiting, whole = np.ones((2, len(iris)), dtype=bool)
        for namespace in self._all:
            found = waiting & flags(pc.starts_with(iris, namespace))
            if not found.any():
                continue
            waiting &= ~found
            prefix = self._prefix_of.get(namespace)
            if prefix is None:
                continue
            rest = pc.utf8_slice_codeunits(iris.filter(mask(found)), len(namespace))
            _, starts, ends = spans(rest)
            plain = ends > starts
            if not prefix:  # a local name with a colon or bracket would read like an IRI
                for odd in ":<":
                    plain &= ~flags(pc.match_substring(rest, odd))
            found[found] = plain
            whole &= ~found
            ids = pc.replace_with_mask(ids, mask(found), _joined(prefix, rest.filter(mask(plain))))
            if not waiting.any():
                break
        # A whole IRI that reads like a short one goes into brackets.
        rest = iris.filter(mask(whole))
        ambiguous = pc.match_substring_regex(rest, self._taken)
        whole[whole] = flags(ambiguous)
        return pc.replace_with_mask(ids, mask(whole), _joined("<", rest.filter(ambiguous), ">")) if whole.any() else ids

    def expand(self, identifier: str) -> str:
        if identifier.startswith("<"):
            return identifier[1:-1]
        head, colon, rest = identifier.partition(":")
        if not colon:
            return self._namespaces.get("", "") + identifier
        return self._namespaces[head + ":"] + rest if head + ":" in self._namespaces else identifier


def literal_datatype(qualifier: str) -> str | None:
    """Wikibase's name for the values of a datatype ("^^<iri>"), a language ("@en") or neither (""); None if unknown.

    >>> literal_datatype("^^<http://www.w3.org/2001/XMLSchema#gYear>")
    'time'
    """
    if not qualifier:
        return "string"
    return "monolingualtext" if qualifier.startswith("@") else _DATATYPES.get(qualifier[3:-1])


def literal(text: str, qualifier: str) -> Literal:
    """Name a literal; a value without precision is as exact as its datatype.

    Raises:
        ValueError: the text is none of the datatype's.

    >>> literal("1879-03-14T00:00:00Z", "^^<http://www.w3.org/2001/XMLSchema#dateTime>").name
    '14 March 1879'
    >>> literal("Point(13.38333 52.51667)", "^^<http://www.opengis.net/ont/geosparql#wktLiteral>").id
    'coordinate:52°31′0″N 13°23′0″E'
    """
    datatype = literal_datatype(qualifier) or ""
    if datatype == "time":
        name = _date_name(text.strip())
    elif datatype == "quantity":
        name = _number_name(text.strip())
    elif datatype == "globe-coordinate":
        name = _point_name(text.strip())
    else:
        name = plain_text(text)
    raw = {"value": text}
    if qualifier.startswith("@"):
        raw["language"] = qualifier[1:].lower()
    elif qualifier:
        raw["datatype"] = qualifier[3:-1]
    kind = _KINDS.get(datatype, "string")
    return Literal(f"{kind}:{name}", name, kind, msgspec.json.encode(raw).decode())


def readable_texts(raw: pa.Array) -> pa.Array:
    """Texts without escapes and odd white space; "" for what holds nothing else."""
    odd = pc.or_(pc.match_substring(raw, "\\"), pc.match_substring_regex(raw, _ODD_SPACE))
    if not pc.any(odd).as_py():
        return raw
    mended = [_spaced(unescaped(text)) for text in raw.filter(odd).to_pylist()]
    return pc.replace_with_mask(raw, odd, strings(mended))


def local_name(identifier: str) -> str:
    """The last part of an id, for what has no other name.

    >>> local_name("https://example.org/people#Ada_Lovelace")
    'Ada_Lovelace'
    """
    return re.split(r"[/#:]", identifier.strip("<>/#:"))[-1] or identifier


@lru_cache(maxsize=8)
def article_hosts(site: str) -> Sequence[bytes]:
    """What the IRIs of a wiki's articles begin with.

    >>> article_hosts("zh_yuewiki")[0]
    b'https://zh-yue.wikipedia.org/wiki/'
    """
    match = _PROJECT.fullmatch(site)
    host = _HOSTS.get(site) or site
    if site not in _HOSTS and match:
        project = "wikipedia" if match[2] == "wiki" else match[2]
        host = f"{match[1].replace('_', '-')}.{project}.org"
    return tuple(f"{scheme}://{host}/wiki/".encode() for scheme in ("https", "http"))


def article_title(path: str) -> str:
    """The title of an article from what follows the wiki's address; "" if there is none.

    >>> article_title("S%C3%A3o_Paulo")
    'São Paulo'
    """
    return _spaced(unquote(path).replace("_", " "))


def _date_name(text: str) -> str:
    match = _DATE.fullmatch(text)
    if match is None or (match[5] and not match[4]):
        raise ValueError("not a date")
    sign, year, month, day = match[1] or "+", match[2], match[3] or "00", match[4] or "00"
    precision = _DAY if match[4] else _MONTH if match[3] else _YEAR
    if (precision >= _MONTH and month == "00") or (precision == _DAY and day == "00"):
        raise ValueError("not a date")
    number = int(f"{sign}{year}")
    if number <= 0:
        sign, year = "-", str(1 - number)  # in XML Schema 1.1 the year 0 is 1 BC
    return date_text({"time": f"{sign}{year}-{month}-{day}T00:00:00Z", "precision": precision})


def _number_name(text: str) -> str:
    if _NUMBER.fullmatch(text) is None or len(text) > 100:
        raise ValueError("not a decimal number")
    if plain := _PLAIN_NUMBER.fullmatch(text):
        return plain[1]  # nearly all; five times as fast
    return quantity_text({"amount": format(Decimal(text), "f")})


def _point_name(text: str) -> str:
    match = _POINT.fullmatch(text)
    if match is None:
        raise ValueError("not a point on the globe")
    longitude, latitude = float(match[1]), float(match[2])
    return coordinate_text({"latitude": latitude, "longitude": longitude, "precision": None})


def _joined(before: str, array: pa.Array, behind: str = "") -> pa.Array:
    if not before and not behind:
        return array
    return pc.binary_join_element_wise(scalar(before), array, scalar(behind), scalar(""))


def _spaced(text: str) -> str:
    try:
        return plain_text(text)
    except ValueError:
        return ""
