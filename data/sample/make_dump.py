"""Expand the sample's tables into a miniature Wikidata dump.

``tables/relations.tsv`` lists the relations; every other ``tables/*.tsv`` lists
entities, one a line, and their statements, one column a relation. A person
edits the tables; this script turns them into ``wikidata.json.gz`` in the format
of the official JSON dump: ``[``, one document a line with a trailing comma,
``]``. README.md beside this file describes how cells are written.

The same tables always give the same bytes. All mistakes are reported together,
each with its file, line, column and cell. Only the standard library is needed:

    python data/sample/make_dump.py            # write wikidata.json.gz
    python data/sample/make_dump.py --check    # is it up to date? exit code 1 if not
"""

from __future__ import annotations

import argparse
import calendar
import gzip
import hashlib
import io
import json
import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

__all__ = ["Sample", "TablesError", "dump_bytes", "dump_text", "read_tables"]

HERE = Path(__file__).resolve().parent
RELATION_COLUMNS = ["id", "label", "datatype", "unit", "description", "aliases"]
ENTITY_COLUMNS = ["id", "label", "description", "aliases", "title"]
# Columns that may stand among the relations: labels and article titles in other
# languages, and the language of the label itself where it is not English.
LANGUAGE_COLUMNS = {"de": "dewiki", "fr": "frwiki"}
LABEL_LANGUAGE = "language"
DATATYPES = {
    "wikibase-item": "wikibase-entityid",
    "time": "time",
    "quantity": "quantity",
    "globe-coordinate": "globecoordinate",
    "external-id": "string",
    "string": "string",
    "monolingualtext": "monolingualtext",
}
RANKS = ("preferred", "deprecated")
ENTITY_URL = "http://www.wikidata.org/entity/"
GREGORIAN, JULIAN, EARTH, ENGLISH_WIKIPEDIA = "Q1985727", "Q1985786", "Q2", "Q328"
FIRST_GREGORIAN_DAY = (1582, 10, 15)
# The official dump is a row of gzip members, each beginning on a line; so is this one.
DOCUMENTS_PER_MEMBER = 250


class TablesError(Exception):
    """The tables hold mistakes; the message names every one of them, a line each."""


class _CellError(Exception):
    """One value is wrong; the place is added by the caller."""


@dataclass(frozen=True)
class Relation:
    """One line of ``relations.tsv``; ``unit`` is the label of an entity or empty."""

    id: str
    label: str
    datatype: str
    unit: str
    description: str
    aliases: list[str]


@dataclass(frozen=True)
class Snak:
    """A property with a value in Wikidata's JSON, or with ``value`` None for somevalue and novalue."""

    relation: Relation
    snaktype: str
    value: Any


@dataclass(frozen=True)
class Statement:
    snak: Snak
    rank: str
    qualifiers: list[Snak]


@dataclass
class Entity:
    """One line of an entity table; ``title`` is None without an English article."""

    id: str
    label: str
    description: str
    aliases: list[str]
    title: str | None
    language: str
    other_languages: dict[str, str]
    statements: list[Statement] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """All tables: relations and entities, each sorted by numeric id."""

    relations: list[Relation]
    entities: list[Entity]

    def counts(self) -> dict[str, int]:
        """Numbers that describe the sample, each under a name that says what was counted."""
        statements = [statement for entity in self.entities for statement in entity.statements]
        edges = [
            (entity.id, statement.snak.value["id"])
            for entity in self.entities
            for statement in entity.statements
            if statement.snak.snaktype == "value" and statement.snak.relation.datatype == "wikibase-item"
        ]
        return {
            "entities": len(self.entities),
            "entities with an English article": sum(entity.title is not None for entity in self.entities),
            "properties": len(self.relations),
            "relations used in statements": len({statement.snak.relation.id for statement in statements}),
            "relations between entities used": len(
                {
                    statement.snak.relation.id
                    for statement in statements
                    if statement.snak.relation.datatype == "wikibase-item"
                }
            ),
            "statements": len(statements),
            "entity-to-entity statements": len(edges),
            "preferred statements": sum(statement.rank == "preferred" for statement in statements),
            "deprecated statements": sum(statement.rank == "deprecated" for statement in statements),
            "statements with qualifiers": sum(bool(statement.qualifiers) for statement in statements),
            "statements without a value": sum(statement.snak.snaktype != "value" for statement in statements),
            "connected components": _components([entity.id for entity in self.entities], edges),
        }


def main() -> int:
    """Write the dump, or with ``--check`` compare it with what the tables give."""
    parser = argparse.ArgumentParser(description="Expand the sample's tables into a miniature Wikidata dump.")
    parser.add_argument(
        "--tables", type=Path, default=HERE / "tables", help="where the tables are (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=HERE / "wikidata.json.gz", help="the dump (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the dump is out of date")
    arguments = parser.parse_args()
    try:
        sample = read_tables(arguments.tables)
    except TablesError as error:
        print(error, file=sys.stderr)
        return 1
    for name, count in sample.counts().items():
        print(f"{count:6,} {name}")
    if arguments.check:
        return _check(sample, arguments.output)
    arguments.output.write_bytes(dump_bytes(sample))
    print(f"{arguments.output}: written")
    return 0


def read_tables(folder: Path) -> Sample:
    """Read all tables of a folder.

    Raises:
        TablesError: the tables hold mistakes; all that were found are named.
    """
    return _Reader(folder).read()


def dump_text(sample: Sample) -> str:
    """The whole dump as text: ``[``, the documents, ``]``."""
    return "".join(_members(sample))


def dump_bytes(sample: Sample) -> bytes:
    """The dump as a row of gzip members without time stamps."""
    buffer = io.BytesIO()
    for member in _members(sample):
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
            file.write(member.encode())
    return buffer.getvalue()


def _check(sample: Sample, path: Path) -> int:
    # The text is compared, not the compressed bytes: builds of zlib differ in how well they compress.
    try:
        current = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, ValueError) as error:
        print(f"{path} cannot be read ({error}). Run this script without --check to write it.", file=sys.stderr)
        return 1
    if current != dump_text(sample):
        print(f"{path} differs from the tables. Run this script without --check to write it anew.", file=sys.stderr)
        return 1
    print(f"{path}: up to date")
    return 0


# --- reading the tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """One line of a table: column name -> cell."""

    file: str
    number: int
    cells: dict[str, str]


class _Reader:
    """Reads the tables in two passes: first who is there, then what is stated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.relations: dict[str, Relation] = {}  # by label
        self.entities: dict[str, Entity] = {}  # by id
        self.by_label: dict[str, list[Entity]] = {}

    def read(self) -> Sample:
        paths = sorted(self.folder.glob("*.tsv"))
        if self.folder / "relations.tsv" not in paths:
            raise TablesError(f"{self.folder} holds no relations.tsv; is it the folder of the tables?")
        for line in self._lines(self.folder / "relations.tsv", RELATION_COLUMNS):
            self._add_relation(line)
        lines: list[tuple[Entity, _Line]] = []
        for path in paths:
            if path.name != "relations.tsv":
                for line in self._lines(path, ENTITY_COLUMNS):
                    entity = self._add_entity(line)
                    if entity is not None:
                        lines.append((entity, line))
        self._check_titles(lines)
        for relation in self.relations.values():
            if relation.unit and relation.unit not in self.by_label:
                self._report("relations.tsv", None, "unit", relation.unit, "no table has an entity with this label")
        for entity, line in lines:
            self._add_statements(entity, line)
        if self.problems:
            found = len(self.problems)
            raise TablesError("\n".join([*self.problems, f"{found} mistake{'s' * (found > 1)} in {self.folder}"]))
        return Sample(
            relations=sorted(self.relations.values(), key=lambda relation: int(relation.id[1:])),
            entities=sorted(self.entities.values(), key=lambda entity: int(entity.id[1:])),
        )

    def _report(self, file: str, number: int | None, column: str | None, cell: str, problem: str) -> None:
        place = ", ".join(
            [f"{file}" + (f":{number}" if number else "")] + ([f"column {column!r}"] if column is not None else [])
        )
        self.problems.append(f"{place}, cell {cell!r}: {problem}")

    def _lines(self, path: Path, required: list[str]) -> Iterator[_Line]:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            self._report(path.name, None, None, "", f"the file is not UTF-8 ({error})")
            return
        header: list[str] | None = None
        for number, raw in enumerate(text.split("\n"), start=1):
            if not raw.strip() or raw.startswith("#"):
                continue
            cells = [cell.strip() for cell in raw.rstrip("\r").split("\t")]
            if header is None:
                header = cells
                if not self._header_is_right(path.name, number, header, required):
                    return
            elif len(cells) > len(header):
                excess = cells[len(header)]
                self._report(path.name, number, None, excess, f"{len(cells)} cells under {len(header)} columns")
            else:
                cells += [""] * (len(header) - len(cells))
                yield _Line(path.name, number, dict(zip(header, cells, strict=True)))
        if header is None:
            self._report(path.name, None, None, "", "the file has no header line")

    def _header_is_right(self, file: str, number: int, header: list[str], required: list[str]) -> bool:
        if header[: len(required)] != required:
            self._report(file, number, None, header[0], f"the header must begin with the columns {', '.join(required)}")
            return False
        right = True
        for column in header:
            if header.count(column) > 1:
                self._report(file, number, column, column, "the column occurs twice")
                right = False
        for column in header[len(required) :]:
            known = required is ENTITY_COLUMNS and (
                column in self.relations or column in LANGUAGE_COLUMNS or column == LABEL_LANGUAGE
            )
            if not known:
                self._report(file, number, column, column, "relations.tsv has no relation with this label")
                right = False
        return right

    def _add_relation(self, line: _Line) -> None:
        cells = line.cells
        relation = Relation(
            cells["id"],
            cells["label"],
            cells["datatype"],
            cells["unit"],
            cells["description"],
            _values(cells["aliases"]),
        )
        if not re.fullmatch(r"P[1-9]\d*", relation.id):
            self._report(line.file, line.number, "id", relation.id, "not a property id such as P17")
        elif any(relation.id == other.id for other in self.relations.values()):
            self._report(line.file, line.number, "id", relation.id, "the id occurs twice")
        elif not relation.label or relation.label in self.relations:
            problem = "the label occurs twice" if relation.label else "the label is missing"
            self._report(line.file, line.number, "label", relation.label, problem)
        elif relation.datatype not in DATATYPES:
            problem = f"the datatype is none of {', '.join(DATATYPES)}"
            self._report(line.file, line.number, "datatype", relation.datatype, problem)
        elif relation.unit and relation.datatype != "quantity":
            self._report(line.file, line.number, "unit", relation.unit, "only a quantity has a unit")
        else:
            self.relations[relation.label] = relation

    def _add_entity(self, line: _Line) -> Entity | None:
        cells = line.cells
        entity = Entity(
            id=cells["id"],
            label=cells["label"],
            description=cells["description"],
            aliases=_values(cells["aliases"]),
            title=None if cells["title"] == "-" else cells["title"] or cells["label"],
            language=cells.get(LABEL_LANGUAGE) or "en",
            other_languages={code: cells[code] for code in LANGUAGE_COLUMNS if cells.get(code)},
        )
        if not re.fullmatch(r"Q[1-9]\d*", entity.id):
            self._report(line.file, line.number, "id", entity.id, "not an entity id such as Q64")
        elif entity.id in self.entities:
            other = self.entities[entity.id].label
            self._report(line.file, line.number, "id", entity.id, f"the id occurs twice (it is also {other!r})")
        elif not entity.label or "; " in entity.label or "[" in entity.label:
            self._report(line.file, line.number, "label", entity.label, "the label is missing or contains '; ' or '['")
        elif not re.fullmatch(r"[a-z]{2,3}", entity.language):
            self._report(line.file, line.number, LABEL_LANGUAGE, entity.language, "not a language code such as mul")
        else:
            self.entities[entity.id] = entity
            self.by_label.setdefault(entity.label, []).append(entity)
            return entity
        return None

    def _check_titles(self, lines: list[tuple[Entity, _Line]]) -> None:
        seen: dict[str, str] = {}
        for entity, line in lines:
            if entity.title is not None and entity.title in seen:
                problem = f"{seen[entity.title]} has the same English article; two entities with one label need titles"
                column = "title" if line.cells["title"] else "label"
                self._report(line.file, line.number, column, entity.title, problem)
            elif entity.title is not None:
                seen[entity.title] = f"{entity.label} ({entity.id})"

    def _add_statements(self, entity: Entity, line: _Line) -> None:
        for column, cell in line.cells.items():
            if column not in self.relations or column in ENTITY_COLUMNS:
                continue
            relation = self.relations[column]
            seen = set()
            for text in _values(cell):
                try:
                    statement = self._statement(relation, text)
                    identity = json.dumps([statement.snak.snaktype, statement.snak.value], sort_keys=True)
                    qualified = (identity, tuple(map(_snak_text, statement.qualifiers)))
                    if qualified in seen:
                        raise _CellError("the value occurs twice in the cell")
                    seen.add(qualified)
                    entity.statements.append(statement)
                except _CellError as error:
                    self._report(line.file, line.number, column, text, str(error))

    def _statement(self, relation: Relation, text: str) -> Statement:
        match = re.fullmatch(r"([^\[\]]+?)\s*(?:\[([^\[\]]*)\])?", text)
        if match is None:
            raise _CellError(
                "not a value followed by its marks in one pair of brackets, such as 'Bonn [end time: 1990]'"
            )
        value, marks = match.groups()
        rank, qualifiers = "normal", []
        for mark in re.split(r", (?=preferred|deprecated|[^,:]+: )", marks) if marks is not None else []:
            name, colon, content = mark.partition(": ")
            if mark in RANKS:
                if rank != "normal":
                    raise _CellError(f"the mark {mark!r} follows another rank")
                rank = mark
            elif colon and name in self.relations:
                qualifiers.append(self._snak(self.relations[name], content))
            else:
                raise _CellError(f"the mark {mark!r} is none of preferred, deprecated, '<relation>: <value>'")
        return Statement(self._snak(relation, value), rank, qualifiers)

    def _snak(self, relation: Relation, text: str) -> Snak:
        if text in ("unknown", "none"):
            return Snak(relation, "somevalue" if text == "unknown" else "novalue", None)
        return Snak(relation, "value", self._value(relation, text))

    def _value(self, relation: Relation, text: str) -> Any:
        if relation.datatype == "wikibase-item":
            entity = self._entity(text)
            return {"entity-type": "item", "numeric-id": int(entity.id[1:]), "id": entity.id}
        if relation.datatype == "time":
            return _time(text)
        if relation.datatype == "quantity":
            return self._quantity(relation, text)
        if relation.datatype == "globe-coordinate":
            return _coordinate(text)
        if relation.datatype == "monolingualtext":
            content, at, language = text.rpartition("@")
            if not at or not re.fullmatch(r"[a-z]{2,3}(-[a-z]+)?", language):
                raise _CellError("not a text with its language, such as 'Deutschland@de'")
            return {"text": content, "language": language}
        return text

    def _entity(self, text: str) -> Entity:
        candidates = self.by_label.get(text, [])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            forms = " or ".join(f"'{text} ({entity.id})'" for entity in candidates)
            raise _CellError(f"several entities have this label; write {forms}")
        match = re.fullmatch(r"(.+) \((Q[1-9]\d*)\)", text)
        entity = self.entities.get(match[2]) if match else None
        if match and entity is not None and entity.label == match[1]:
            return entity
        raise _CellError("no table has an entity with this label")

    def _quantity(self, relation: Relation, text: str) -> dict[str, Any]:
        match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)(?: (.+))?", text)
        if match is None:
            raise _CellError("not a number such as 891.7, optionally followed by a unit")
        unit = match[2] or relation.unit
        amount = Decimal(match[1])
        sign = "" if amount < 0 else "+"
        return {"amount": f"{sign}{amount}", "unit": ENTITY_URL + self._entity(unit).id if unit else "1"}


def _values(cell: str) -> list[str]:
    return [value.strip() for value in cell.split("; ") if value.strip()]


def _time(text: str) -> dict[str, Any]:
    """Wikidata writes an unknown month or day as 00 and a century as its first year (BCE: its longest past one)."""
    if century := re.fullmatch(r"([1-9]\d?)\. century( BCE)?", text):
        year = -100 * int(century[1]) if century[2] else 100 * int(century[1]) - 99
        return _time_value(year, 0, 0, precision=7)
    if decade := re.fullmatch(r"(\d{3}0)s", text):
        return _time_value(int(decade[1]), 0, 0, precision=8)
    date = re.fullmatch(r"(-?\d{4,})(?:-(\d\d)(?:-(\d\d))?)?", text)
    if date is None:
        raise _CellError("not a date such as 1879-03-14, 1879-03, 1879, 1870s, -0044-03-15 or '18. century'")
    year, month, day = int(date[1]), int(date[2] or 0), int(date[3] or 0)
    if year == 0 or (date[2] and not 1 <= month <= 12) or (date[3] and not 1 <= day <= _days(year, month)):
        raise _CellError("there is no such day")
    return _time_value(year, month, day, precision=11 if day else 10 if month else 9)


def _time_value(year: int, month: int, day: int, *, precision: int) -> dict[str, Any]:
    julian = (year, month or 1, day or 1) < FIRST_GREGORIAN_DAY
    return {
        "time": f"{'-' if year < 0 else '+'}{abs(year):04}-{month:02}-{day:02}T00:00:00Z",
        "timezone": 0,
        "before": 0,
        "after": 0,
        "precision": precision,
        "calendarmodel": ENTITY_URL + (JULIAN if julian else GREGORIAN),
    }


def _days(year: int, month: int) -> int:
    if year < FIRST_GREGORIAN_DAY[0]:
        # In the Julian calendar every fourth year has a leap day; before our era those years are -1, -5, -9, …
        year = 2000 if (year + (year < 0)) % 4 == 0 else 2001
    return calendar.monthrange(year, month)[1]


def _coordinate(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(-?\d+(?:\.(\d+))?), (-?\d+(?:\.(\d+))?)", text)
    if match is None:
        raise _CellError("not a latitude and a longitude in degrees, such as '52.5167, 13.3833'")
    latitude, longitude = float(match[1]), float(match[3])
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise _CellError("the latitude must lie in -90…90 and the longitude in -180…180")
    decimals = max(len(match[2] or ""), len(match[4] or ""))
    return {
        "latitude": latitude,
        "longitude": longitude,
        "altitude": None,
        "precision": float(Decimal(1).scaleb(-decimals)),
        "globe": ENTITY_URL + EARTH,
    }


# --- writing the dump -----------------------------------------------------------------------------------------------


def _members(sample: Sample) -> Iterator[str]:
    """The text of the dump in pieces that begin and end with a line."""
    documents = [_item(entity) for entity in sample.entities] + [_property(relation) for relation in sample.relations]
    lines = ["["]
    lines += [json.dumps(document, separators=(",", ":")) + "," for document in documents]
    lines[-1] = lines[-1].removesuffix(",")
    lines.append("]")
    for start in range(0, len(lines), DOCUMENTS_PER_MEMBER):
        yield "\n".join(lines[start : start + DOCUMENTS_PER_MEMBER]) + "\n"


def _item(entity: Entity) -> dict[str, Any]:
    labels = {entity.language: entity.label} | entity.other_languages
    titles = {"enwiki": entity.title} if entity.title is not None else {}
    titles |= {LANGUAGE_COLUMNS[code]: title for code, title in entity.other_languages.items()}
    claims: dict[str, list[dict[str, Any]]] = {}
    occurrences: Counter[str] = Counter()
    for statement in entity.statements:
        identity = f"{entity.id} {_snak_text(statement.snak)}"
        occurrences[identity] += 1
        claim = _claim(entity, statement, f"{identity} {occurrences[identity]}")
        claims.setdefault(statement.snak.relation.id, []).append(claim)
    return {
        "type": "item",
        "id": entity.id,
        "labels": _terms(labels),
        "descriptions": _terms({"en": entity.description} if entity.description else {}),
        "aliases": _aliases(entity.aliases),
        "claims": claims,
        "sitelinks": {site: {"site": site, "title": title, "badges": []} for site, title in titles.items()},
    }


def _property(relation: Relation) -> dict[str, Any]:
    return {
        "type": "property",
        "datatype": relation.datatype,
        "id": relation.id,
        "labels": _terms({"en": relation.label}),
        "descriptions": _terms({"en": relation.description} if relation.description else {}),
        "aliases": _aliases(relation.aliases),
        "claims": {},
    }


def _terms(texts: dict[str, str]) -> dict[str, Any]:
    return {language: {"language": language, "value": text} for language, text in texts.items()}


def _aliases(aliases: list[str]) -> dict[str, Any]:
    return {"en": [{"language": "en", "value": alias} for alias in aliases]} if aliases else {}


def _claim(entity: Entity, statement: Statement, identity: str) -> dict[str, Any]:
    claim: dict[str, Any] = {"mainsnak": _snak_json(statement.snak), "type": "statement"}
    if statement.qualifiers:
        order = list(dict.fromkeys(snak.relation.id for snak in statement.qualifiers))
        claim["qualifiers"] = {
            relation: [
                _snak_json(snak) | {"hash": _sha1(_snak_text(snak))}
                for snak in statement.qualifiers
                if snak.relation.id == relation
            ]
            for relation in order
        }
        claim["qualifiers-order"] = order
    digest = _sha1(identity)
    claim["id"] = f"{entity.id}${uuid.UUID(digest[:32])}"
    claim["rank"] = statement.rank
    # About a third of the statements carry the commonest kind of reference, so that readers meet some.
    if int(digest[-4:], 16) % 3 == 0 and entity.title is not None:
        claim["references"] = [_REFERENCE]
    return claim


def _snak_json(snak: Snak) -> dict[str, Any]:
    relation = snak.relation
    content: dict[str, Any] = {"snaktype": snak.snaktype, "property": relation.id}
    if snak.snaktype == "value":
        content["datavalue"] = {"value": snak.value, "type": DATATYPES[relation.datatype]}
    return content | {"datatype": relation.datatype}


def _snak_text(snak: Snak) -> str:
    return json.dumps([snak.relation.id, snak.snaktype, snak.value], sort_keys=True)


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _components(nodes: list[str], edges: list[tuple[str, str]]) -> int:
    """Number of weakly connected components, by union-find."""
    parent = {node: node for node in nodes}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for subject, object_ in edges:
        parent[root(subject)] = root(object_)
    return len({root(node) for node in nodes})


_IMPORTED_FROM = Relation("P143", "imported from Wikimedia project", "wikibase-item", "", "", [])
_IMPORT = Snak(
    _IMPORTED_FROM,
    "value",
    {"entity-type": "item", "numeric-id": int(ENGLISH_WIKIPEDIA[1:]), "id": ENGLISH_WIKIPEDIA},
)
_REFERENCE = {
    "hash": _sha1(_snak_text(_IMPORT)),
    "snaks": {"P143": [_snak_json(_IMPORT)]},
    "snaks-order": ["P143"],
}


if __name__ == "__main__":
    sys.exit(main())
