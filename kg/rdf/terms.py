"""RDF's terms as the graph writes them: IRIs as short ids, literals as named values.

`Prefixes` shortens IRIs so that no two get one id and every id leads back to its
IRI: what would be ambiguous stays whole, in angle brackets if need be.
`LiteralForm` gives typed literals the normal forms of `kg.literals`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from urllib.parse import unquote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.arrays import flags, spans, strings, strings_of
from kg.literals import coordinate_text, date_text, plain_text, quantity_text
from kg.rdf.config import _LITERAL_KINDS, WIKIDATA_DIRECT, WIKIDATA_ENTITY, RdfConfig
from kg.rdf.kernels import match_namespaces, write_joined
from kg.rdf.ntriples import gather, unescaped

__all__ = [
    "LiteralForm",
    "Prefixes",
    "article_hosts",
    "article_title",
    "article_titles",
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
_PLAIN_NUMBER = re.compile(r"(?:\+(?!-))?(-?[1-9]\d*(?:\.\d+)?)", re.ASCII)
_POINT = re.compile(r"(?:<[^<>]*/Q2>\s*)?Point\s*\(\s*(\S+)\s+(\S+)\s*\)", re.IGNORECASE)
_PROJECT = re.compile(r"(.+?)(wiki|wiktionary|wikivoyage|wikiquote|wikisource|wikinews|wikibooks|wikiversity)")
_HOSTS = {"commonswiki": "commons.wikimedia.org", "specieswiki": "species.wikimedia.org"}
# White space that `plain_text` would change: all but single spaces inside.
_ODD_SPACE = r"[\x00-\x1f\x7f]|  |^ | $|[\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


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
        ordered = sorted(config.prefixes, key=lambda namespace: (-len(namespace), namespace))
        prefix_of = {namespace: prefix for prefix, namespace in by_prefix.items()}
        prefixes = [prefix_of.get(namespace) for namespace in ordered]
        self._matched = _pooled(ordered)
        self._lengths = np.array([*map(len, map(str.encode, ordered)), 0, 0], np.int32)
        self._bare = np.array([prefix == "" for prefix in prefixes], np.bool_)
        self._known = np.array([prefix is not None for prefix in prefixes], np.bool_)
        # What stands before the ids of each namespace, before whole IRIs, and before those in brackets.
        self._heads = _pooled([*(prefix or "" for prefix in prefixes), "", "<"])
        heads = [re.escape(prefix[:-1]) for prefix in by_prefix if prefix]
        self._taken = f"^(?:{'|'.join([*heads, *_LITERAL_KINDS])}):"

    def shorten(self, iris: pa.Array) -> pa.Array:
        data, starts, ends = spans(iris)
        which = np.empty(len(starts), np.int32)
        match_namespaces(data, starts, ends, *self._matched, self._bare, which)
        whole = (which < 0) | ~self._known[which]
        bracketed = len(self._known) + 1
        which[whole] = bracketed - 1
        # A whole IRI that reads like a short one goes into brackets.
        ambiguous = pc.match_substring_regex(gather(data, starts[whole], ends[whole]), self._taken)
        which[np.flatnonzero(whole)[flags(ambiguous)]] = bracketed
        starts = starts + self._lengths[which]
        heads, bounds = self._heads
        offsets = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(np.diff(bounds)[which] + (ends - starts) + (which == bracketed), out=offsets[1:])
        pool = np.empty(int(offsets[-1]), np.uint8)
        write_joined(data, starts, ends, heads, bounds, which, offsets, pool)
        return strings_of(offsets, pool)

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


class LiteralForm:
    """What the values with one language or datatype ("@en", "^^<iri>" or "" for neither) have in common.

    Attributes:
        kind: of the nodes.
        datatype: see `literal_datatype`; "" if unknown.

    >>> date = LiteralForm("^^<http://www.w3.org/2001/XMLSchema#dateTime>")
    >>> date.kind, date.name("1879-03-14T00:00:00Z")
    ('date', '14 March 1879')
    >>> LiteralForm("^^<http://www.opengis.net/ont/geosparql#wktLiteral>").name("Point(13.38333 52.51667)")
    '52°31′0″N 13°23′0″E'
    """

    def __init__(self, qualifier: str) -> None:
        self.datatype = literal_datatype(qualifier) or ""
        self.kind = _KINDS.get(self.datatype, "string")
        self._name = _NAMES.get(self.datatype, plain_text)
        rest = {"language": qualifier[1:].lower()} if qualifier.startswith("@") else {"datatype": qualifier[3:-1]}
        self._rest = "," + msgspec.json.encode(rest).decode()[1:] if qualifier else "}"

    def name(self, text: str) -> str:
        """The name of a literal; a value without precision is as exact as its datatype.

        Raises:
            ValueError: the text is none of the datatype's.
        """
        return self._name(text)

    def value(self, text: str) -> str:
        """Compact JSON of the lexical form."""
        return f'{{"value":{_encode(text).decode()}{self._rest}'


def readable_texts(raw: pa.Array) -> pa.Array:
    """Texts without escapes and odd white space; "" for what holds nothing else."""
    odd = pc.or_(pc.match_substring(raw, "\\"), pc.match_substring_regex(raw, _ODD_SPACE))
    return _mended(raw, odd, raw, lambda text: _spaced(unescaped(text)))


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


def article_titles(paths: pa.Array) -> pa.Array:
    """The titles of articles as `article_title` gives them."""
    titles = pc.replace_substring(paths, "_", " ")
    odd = pc.or_(pc.match_substring(paths, "%"), pc.match_substring_regex(titles, _ODD_SPACE))
    return _mended(titles, odd, paths, article_title)


def _mended(texts: pa.Array, odd: pa.Array, raw: pa.Array, mend: Callable[[str], str]) -> pa.Array:
    """The texts, the odd ones made anew."""
    if not pc.any(odd).as_py():
        return texts
    return pc.replace_with_mask(texts, odd, strings([mend(text) for text in raw.filter(odd).to_pylist()]))


def _date_name(text: str) -> str:
    match = _DATE.fullmatch(text.strip())
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
    text = text.strip()
    if len(text) > 100:
        raise ValueError("not a decimal number")
    if plain := _PLAIN_NUMBER.fullmatch(text):
        return plain[1]  # nearly all; five times as fast
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("not a decimal number")
    return quantity_text({"amount": format(Decimal(text), "f")})


def _point_name(text: str) -> str:
    match = _POINT.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a point on the globe")
    longitude, latitude = float(match[1]), float(match[2])
    return coordinate_text({"latitude": latitude, "longitude": longitude, "precision": None})


def _spaced(text: str) -> str:
    try:
        return plain_text(text)
    except ValueError:
        return ""


def _pooled(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of texts, and int64[texts + 1]: their bounds."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)])


_NAMES = {"time": _date_name, "quantity": _number_name, "globe-coordinate": _point_name}  # all others: plain_text
_encode = msgspec.json.Encoder().encode
