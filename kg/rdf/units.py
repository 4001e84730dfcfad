"""What readers of slices and the join of their units agree on.

A unit is a stretch of a slice, written as Arrow tables with numbers of its own
for ids, literals and texts. Rows are in the order of the file:

    ids            id: IRIs in short form, by their number in the unit
    predicates     iri: by their number in the unit
    links          subject, predicate, object (numbers): statements about two IRIs
    literals       id, name, kind, value, datatype: by their number in the unit
    values         subject, predicate, literal (numbers): statements with a literal
    texts          subject, role, rank (of the language), order (of the predicate), text, copies: labels and the like
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa

from kg.dump import Fault
from kg.rdf.config import WIKIDATA_DIRECT, RdfConfig
from kg.rdf.terms import Prefixes

__all__ = [
    "ALIAS",
    "ALIASES",
    "ARTICLES",
    "ARTICLES_OF",
    "DESCRIPTION",
    "DESCRIPTIONS",
    "LABEL",
    "LABELS",
    "LINKS",
    "OTHER_LANGUAGES",
    "RELATION",
    "SCHEMAS",
    "SUBCLASS",
    "TEXTS",
    "TITLE",
    "TYPE",
    "UNSELECTED",
    "Roles",
    "SliceReport",
    "quarantine_path",
    "read_report",
    "read_unit",
    "unit_path",
    "write_unit",
]

# What a predicate means; several bits may be set.
RELATION, UNSELECTED, TYPE, SUBCLASS, LABELS, DESCRIPTIONS, ALIASES, ARTICLES, ARTICLES_OF = (
    1 << bit for bit in range(9)
)
TEXTS = LABELS | DESCRIPTIONS | ALIASES
LINKS = RELATION | TYPE | SUBCLASS

# Roles of the texts. Of ranks, 0 … are the wanted languages, then texts without one, then all other languages.
TITLE, LABEL, DESCRIPTION, ALIAS = range(4)
OTHER_LANGUAGES = 1000
_INT = pa.int32()
SCHEMAS = {
    "ids": pa.schema([("id", pa.string())]),
    "predicates": pa.schema([("iri", pa.string())]),
    "links": pa.schema([("subject", _INT), ("predicate", _INT), ("object", _INT)]),
    "literals": pa.schema([(name, pa.string()) for name in ("id", "name", "kind", "value", "datatype")]),
    "values": pa.schema([("subject", _INT), ("predicate", _INT), ("literal", _INT)]),
    "texts": pa.schema(
        [
            ("subject", _INT),
            ("role", pa.int8()),
            ("rank", _INT),
            ("order", _INT),
            ("text", pa.string()),
            ("copies", _INT),
        ]
    ),
}


class SliceReport(msgspec.Struct):
    """What is written when a slice is finished.

    Attributes:
        number: of the slice.
        units: how many there are.
        lines, undecodable: lines with a statement, or what should be one; those that are none.
        articles: statements about articles, of any wiki.
        dropped: statements that are in no unit, by reason.
        sizes: bytes of each of its files.
        raw_bytes, first_member, next_member, faults: see `kg.dump.SliceReader`.
    """

    number: int
    units: int = 0
    lines: int = 0
    undecodable: int = 0
    articles: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    raw_bytes: int = 0
    first_member: int | None = None
    next_member: int | None = None
    faults: list[Fault] = msgspec.field(default_factory=list)


def read_report(folder: Path, number: int) -> SliceReport | None:
    """The report of a finished slice; None if it is not finished or a file of it is gone or has another size."""
    try:
        report = msgspec.json.decode((folder / f"{number:06}.json").read_bytes(), type=SliceReport)
        whole = all((folder / name).stat().st_size == size for name, size in report.sizes.items())
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return report if whole else None


def read_unit(folder: Path, unit: tuple[int, int], name: str, columns: list[str] | None = None) -> pa.Table:
    """One table of a unit, which is (number of the slice, number in the slice)."""
    with pa.memory_map(str(unit_path(folder, unit, name))) as file:
        names = SCHEMAS[name].names
        chosen = None if columns is None else [names.index(column) for column in columns]
        table = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=chosen)).read_all()
    return table.combine_chunks()


def write_unit(folder: Path, unit: tuple[int, int], name: str, table: pa.Table) -> Path:
    """Write one table of a unit and return its path.

    Parquet files would be a quarter smaller, but take half as long again to write and a worker 18 MB more.
    """
    path = unit_path(folder, unit, name)
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1), use_threads=False)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    return path


def quarantine_path(folder: Path, number: int) -> Path:
    """Where a slice's lines that are no statement are kept."""
    return folder / f"{number:06}.quarantine.jsonl"


def unit_path(folder: Path, unit: tuple[int, int], name: str) -> Path:
    """Where one table of a unit is."""
    return folder / f"{unit[0]:06}-{unit[1]:03}-{name}.arrow"


class Roles:
    """What predicates mean.

    Args:
        rdf: the options.
        relations: ids of the relations to keep; empty for all.
        wikidata: whether the source is about Wikidata's entities, whose relations are the direct properties.
    """

    def __init__(self, rdf: RdfConfig, relations: tuple[str, ...], wikidata: bool) -> None:
        prefixes = Prefixes(rdf)
        self._selected = frozenset(prefixes.relation_iri(name) for name in relations)
        self._namespaces = tuple(rdf.relation_namespaces) or ((WIKIDATA_DIRECT,) if wikidata else ())
        self._meanings: dict[str, int] = {}
        self._order: dict[str, int] = {}
        lists = (
            (LABELS, rdf.labels),
            (DESCRIPTIONS, rdf.descriptions),
            (ALIASES, rdf.aliases),
            (ARTICLES, rdf.articles),
            (ARTICLES_OF, rdf.articles_of),
            (TYPE, [iri for iri in rdf.types if not wikidata or iri.startswith(WIKIDATA_DIRECT)]),
            (SUBCLASS, rdf.subclasses),
        )
        for role, iris in lists:
            for place, iri in enumerate(iris):
                self._meanings[iri] = self._meanings.get(iri, 0) | role
                self._order.setdefault(iri, place)

    def role(self, iri: str) -> int:
        """The bits of a predicate's meanings; 0 for none."""
        role = self._meanings.get(iri, 0)
        direct = iri.startswith(WIKIDATA_DIRECT)
        if role & ~SUBCLASS and not (direct and role & TYPE):
            return role
        if self._namespaces and not iri.startswith(self._namespaces):
            return role
        if self._selected and iri not in self._selected:
            return role | UNSELECTED
        return role | RELATION

    def order(self, iri: str) -> int:
        """The place of a predicate in the list of the options that names it, else 0."""
        return self._order.get(iri, 0)
