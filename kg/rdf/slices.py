"""From a slice of N-Triples to the parts that a graph is joined from.

`read_slice` scans the slice (`kg.rdf.ntriples`), keeps the statements that the
options may want, and writes them as Arrow tables in units, each with numbers
for ids, literals and texts of its own, so that memory is bounded by the unit.
Every statement is either a row of a unit or counted under the reason why not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.arrays import mask, numbers, spans, strings
from kg.config import GraphConfig
from kg.dump import Slice, SliceReader
from kg.errors import InputError
from kg.memory import system_memory
from kg.rdf.config import WIKIDATA_ENTITY
from kg.rdf.ntriples import (
    BLANK,
    IRI,
    IRREGULAR,
    BadTripleError,
    Rows,
    Scanner,
    Terms,
    gather,
    regular_line,
    starts_with,
    unescaped,
    utf8_stretches,
)
from kg.rdf.terms import LiteralForm, Prefixes, article_hosts, article_titles, literal_datatype, readable_texts
from kg.rdf.units import (
    ALIAS,
    ARTICLES,
    ARTICLES_OF,
    DESCRIPTION,
    DESCRIPTIONS,
    LABEL,
    LABELS,
    LINKS,
    OTHER_LANGUAGES,
    RELATION,
    SCHEMAS,
    TEXTS,
    TITLE,
    Roles,
    SliceReport,
    quarantine_path,
    read_report,
    write_unit,
)
from kg.stage import write_atomic

__all__ = ["SliceTask", "no_statement", "read_slice", "too_many_bad_lines"]

_NO_TEXT = -1  # rank of what is no text
# What a predicate's statements are used as; the numbers up to IRREGULAR are kinds.
_AS_TEXT, _AS_ARTICLE, _AS_LINK, _AS_UNSELECTED, _AS_NOTHING = range(IRREGULAR + 1, IRREGULAR + 6)
_UNKNOWN_VALUE = b"http://www.wikidata.org/.well-known/genid/"
_UNIT_BYTES = 10 << 20
_TERMS = 150_000  # most ids that a unit has if they are as long as Wikidata's
_QUARANTINED_CHARACTERS = 100_000
_HOPELESS_LINES = 100  # if not one of so many lines is a statement, the rest of the slice is not worth reading
_PLAIN_DATATYPES = ("^^<http://www.w3.org/2001/XMLSchema#string>",)


@dataclass(frozen=True, slots=True)
class SliceTask:
    """What `read_slice` needs: the options, the selected relations (empty: all), the slice, where parts go.

    ``wikidata`` is whether the source is about Wikidata's entities.
    """

    config: GraphConfig
    relations: tuple[str, ...]
    wikidata: bool
    part: Slice
    folder: Path


def read_slice(task: SliceTask) -> SliceReport:
    """Read one slice and write its units and report to ``task.folder``; a finished slice is not read again.

    Raises:
        InputError: the file cannot be read, is no N-Triples or has too many lines that are no statement.
        OSError: the folder cannot be written.
    """
    with system_memory():
        return read_report(task.folder, task.part.number) or _SliceIngest(task).run()


class _Numbered:
    """Properties of the entries of a scanner's table, as int32 columns that grow with it; the last row is for none."""

    def __init__(self, terms: Terms, none: tuple[int, ...], describe: Callable[[str], tuple[int, ...]]) -> None:
        self._terms = terms
        self._none = none
        self._describe = describe
        self._known = 0
        self.columns = np.array([none], np.int32).T

    def update(self) -> None:
        """Bring ``columns`` up to date: int32[properties, at least entries + 1]."""
        count = len(self._terms)
        if count == self._known:
            return
        if count >= self.columns.shape[1]:
            grown = np.empty((len(self._none), 2 * count + 2), np.int32)
            grown[:, : self._known] = self.columns[:, : self._known]
            grown[:, -1] = self._none
            self.columns = grown
        for text in self._terms.strings(self._known).to_pylist():
            self.columns[:, self._known] = self._describe(text)
            self._known += 1


class _Unit:
    """The rows gathered for one unit."""

    def __init__(self) -> None:
        self.ids, self.literals, self.texts = Terms(_TERMS, _TERMS * 48), Terms(), Terms()
        self.clear()

    def clear(self) -> None:
        """Begin the next unit."""
        for terms in (self.ids, self.literals, self.texts):
            terms.clear()
        self.links: list[tuple[np.ndarray, ...]] = []
        self.values: list[tuple[np.ndarray, ...]] = []
        self.text_rows: list[tuple[np.ndarray, ...]] = []
        self.titles: list[tuple[np.ndarray, pa.Array]] = []
        self.bytes = 0

    @property
    def full(self) -> bool:
        terms = self.ids.used_bytes + self.literals.used_bytes + self.texts.used_bytes
        return self.bytes + terms > _UNIT_BYTES


class _SliceIngest:
    """One slice: scan, select, write."""

    def __init__(self, task: SliceTask) -> None:
        self._task = task
        self._report = SliceReport(task.part.number)
        self._dropped: Counter[str] = Counter()
        self._any = task.config.entities == "any"
        self._hosts = article_hosts(task.config.site)
        self._prefixes = Prefixes(task.config.rdf)
        self._scanner = Scanner()
        # Neither function holds this object: in a cycle, its tables would wait for the garbage collector.
        roles = Roles(task.config.rdf, task.relations, task.wikidata)
        self._predicates = _Numbered(
            self._scanner.predicates,
            (0, 0, _AS_NOTHING),
            lambda iri: (role := roles.role(iri), roles.order(iri), _use(role)),
        )
        languages, kept = [*task.config.languages, ""], frozenset(task.config.literals)
        none = (len(languages) - 1, int("string" in kept), int("string" in kept))
        self._qualifiers = _Numbered(
            self._scanner.qualifiers, none, lambda qualifier: _described(qualifier, languages, kept)
        )
        self._unit = _Unit()
        self._quarantine: list[dict[str, Any]] = []

    def run(self) -> SliceReport:
        """Read the slice to its end."""
        task, report = self._task, self._report
        reader = SliceReader(task.part)
        for offset, block in reader.blocks():
            self._take_block(block, offset)
            if self._unit.full:
                self._flush()
        self._flush()
        report.dropped = dict(self._dropped)
        report.raw_bytes, report.faults = reader.raw_bytes, list(reader.faults)
        report.first_member, report.next_member = reader.first_member, reader.next_member
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self._quarantine]
        quarantine = quarantine_path(task.folder, task.part.number)
        write_atomic(quarantine, "".join(lines))
        self._note_size(quarantine)
        write_atomic(task.folder / f"{task.part.number:06}.json", msgspec.json.encode(report))
        return report

    def _take_block(self, block: bytes, offset: int) -> None:
        for start, end, valid in utf8_stretches(block):
            part = block if end - start == len(block) else block[start:end]
            if not valid:
                self._take_line(part.rstrip(b"\n"), offset + start, [])
                continue
            for rows in self._scanner.rows(part):
                regular = self._mended(rows, offset + start)
                self._take(rows)
                for more in self._scanner.rows(regular) if regular else ():
                    self._take(more)

    def _mended(self, rows: Rows, offset: int) -> bytes:
        """The irregular lines that are statements, made regular; the others are set aside."""
        regular: list[bytes] = []
        irregular = np.flatnonzero(rows.kind == IRREGULAR).tolist()
        self._report.lines += len(rows.kind) - len(irregular)
        for row in irregular:  # which may turn out to be blank, or several with carriage returns between them
            place, end = int(rows.subject[row]), int(rows.subject_end[row])
            for line in rows.data[place:end].tobytes().split(b"\r"):
                self._take_line(line, offset + place, regular)
                place += len(line) + 1
        return b"".join(regular)

    def _take_line(self, line: bytes, offset: int, regular: list[bytes]) -> None:
        try:
            statement = regular_line(line)
        except BadTripleError as error:
            self._report.lines += 1
            self._set_aside(line, offset, str(error))
            return
        if statement:
            self._report.lines += 1
            regular.append(statement)

    def _set_aside(self, line: bytes, offset: int, reason: str) -> None:
        text = line[:_QUARANTINED_CHARACTERS].decode("utf-8", "backslashreplace")
        file = self._task.part.file
        self._quarantine.append({"file": file, "offset": offset, "line": text, "reason": reason})
        self._report.undecodable += 1
        bad, limit = self._report.undecodable, self._task.config.max_bad_lines
        if bad <= limit:
            return
        read, hopeless = self._report.lines - bad, bad >= _HOPELESS_LINES
        if hopeless and not read and self._task.part.number == 0:
            raise no_statement(file, bad, self._quarantine[-1])
        if hopeless or read:
            raise too_many_bad_lines(file, limit, self._quarantine[-1])

    def _take(self, rows: Rows) -> None:
        """Sort the statements of a piece by what they are."""
        self._predicates.update()
        self._qualifiers.update()
        kind = rows.kind & 7
        use = np.where(kind < BLANK, self._predicates.columns[2][rows.predicate], kind)
        self._drop("blank_node", use == BLANK)
        self._drop("not_a_relation", use == _AS_NOTHING)
        self._drop("relation_not_selected", use == _AS_UNSELECTED)
        self._take_texts(rows, np.flatnonzero(use == _AS_TEXT))
        self._take_articles(rows, np.flatnonzero(use == _AS_ARTICLE))
        links = np.flatnonzero(use == _AS_LINK)
        iri = kind[links] == IRI
        self._take_links(rows, links[iri])
        self._take_values(rows, links[~iri])

    def _take_texts(self, rows: Rows, places: np.ndarray) -> None:
        ranks = self._qualifiers.columns[0][rows.qualifier[places]]
        readable = (rows.kind[places] != IRI) & (ranks != _NO_TEXT)
        self._drop("unreadable_value", ~readable)
        foreign = readable & (ranks >= OTHER_LANGUAGES)
        if self._any:
            foreign &= self._predicates.columns[0][rows.predicate[places]] & LABELS == 0
        self._drop("other_language", foreign)
        kept = readable & ~foreign
        places, rank = places[kept], ranks[kept]
        if not len(places):
            return
        unit = self._unit
        subject = unit.ids.intern(rows.data, rows.subject[places], rows.subject_end[places])
        text = unit.texts.intern(rows.data, rows.object[places], rows.object_end[places])
        bits = self._predicates.columns[0][rows.predicate[places]]
        roles = np.where(bits & LABELS, LABEL, np.where(bits & DESCRIPTIONS, DESCRIPTION, ALIAS)).astype(np.int32)
        order = self._predicates.columns[1][rows.predicate[places]]
        # An entity's rdfs:label, skos:prefLabel and schema:name mostly stand together and say the same.
        first = np.zeros(len(places), dtype=bool)
        first[0] = True
        for column in (subject, text, roles, rank):
            first[1:] |= column[1:] != column[:-1]
        starts = np.flatnonzero(first)
        copies = np.diff(starts, append=len(places)).astype(np.int32)
        row = subject[starts], roles[starts], rank[starts], np.minimum.reduceat(order, starts), text[starts]
        unit.text_rows.append((*row, copies))
        unit.bytes += 24 * len(starts)

    def _take_articles(self, rows: Rows, told: np.ndarray) -> None:
        self._report.articles += len(told)
        iri = rows.kind[told] == IRI
        self._drop("unreadable_value", ~iri)
        told = told[iri]
        of_page = self._predicates.columns[0][rows.predicate[told]] & ARTICLES > 0
        for bit, places in ((ARTICLES, told[of_page]), (ARTICLES_OF, told[~of_page])):
            page, entity = (rows.subject, rows.subject_end), (rows.object, rows.object_end)
            if bit == ARTICLES_OF:
                page, entity = entity, page
            ours = np.zeros(len(places), dtype=bool)
            for host in self._hosts:
                found = starts_with(rows.data, page[0][places], page[1][places], host)
                ours |= found
                chosen = places[found]
                if len(chosen):
                    subject = self._unit.ids.intern(rows.data, entity[0][chosen], entity[1][chosen])
                    paths = gather(rows.data, page[0][chosen] + np.int32(len(host)), page[1][chosen])
                    self._unit.titles.append((subject, paths))
                    self._unit.bytes += paths.nbytes + subject.nbytes
            self._dropped["other_page"] += int((~ours).sum())

    def _take_links(self, rows: Rows, places: np.ndarray) -> None:
        target, target_end = rows.object[places], rows.object_end[places]
        kept = ~starts_with(rows.data, target, target_end, _UNKNOWN_VALUE)
        self._drop("somevalue", ~kept)
        if self._task.wikidata:
            item = starts_with(rows.data, target, target_end, WIKIDATA_ENTITY.encode())
            self._drop("datatype_not_kept", kept & ~item)
            kept &= item
        places = places[kept]
        if len(places):
            unit = self._unit
            subject = unit.ids.intern(rows.data, rows.subject[places], rows.subject_end[places])
            found = unit.ids.intern(rows.data, target[kept], target_end[kept])
            unit.links.append((subject, rows.predicate[places], found))
            unit.bytes += 12 * len(places)

    def _take_values(self, rows: Rows, told: np.ndarray) -> None:
        related = self._predicates.columns[0][rows.predicate[told]] & RELATION > 0
        self._drop("unreadable_value", ~related)
        told = told[related]
        kept, known = (column[rows.qualifier[told]] > 0 for column in self._qualifiers.columns[1:])
        self._drop("datatype_not_kept", ~known)
        self._drop("other_language", known & ~kept)
        places = told[kept]
        if len(places):
            unit = self._unit
            subject = unit.ids.intern(rows.data, rows.subject[places], rows.subject_end[places])
            found = unit.literals.intern(rows.data, rows.object[places], rows.tail[places])
            unit.values.append((subject, rows.predicate[places], found))
            unit.bytes += 12 * len(places)

    def _drop(self, reason: str, which: np.ndarray) -> None:
        self._dropped[reason] += int(np.count_nonzero(which))

    def _flush(self) -> None:
        """Write the unit and begin the next one."""
        unit = self._unit
        literals, readable = _literals(unit.literals)
        subject, predicate, number = _stacked(unit.values, 3)
        keep = readable[number]
        self._drop("unreadable_value", ~keep)
        self._write("literals", literals)
        self._write("values", [subject[keep], predicate[keep], number[keep]])
        self._write("links", _stacked(unit.links, 3))
        self._write("texts", self._text_columns(unit))
        self._write("ids", [self._prefixes.node_ids(unit.ids.strings())])
        self._write("predicates", [self._scanner.predicates.strings()])
        self._report.units += 1
        unit.clear()

    def _text_columns(self, unit: _Unit) -> list[Any]:
        subject, role, rank, order, text, copies = _stacked(unit.text_rows, 6)
        texts = readable_texts(unit.texts.strings()).take(numbers(text))
        titles = article_titles(pa.concat_arrays([strings([]), *(paths for _, paths in unit.titles)]))
        count = len(titles)
        about = np.concatenate([np.empty(0, np.int32), *(subjects for subjects, _ in unit.titles)])
        nothing = np.zeros(count, np.int32)
        columns = [
            np.concatenate(pair)
            for pair in ((about, subject), (nothing + TITLE, role), (nothing, rank), (nothing, order))
        ]
        columns += [pa.concat_arrays([titles, texts]), np.concatenate([nothing + 1, copies])]
        _, starts, ends = spans(columns[4])
        keep = ends > starts
        self._dropped["unreadable_value"] += int(columns[5][~keep].sum())
        return [column[keep] if isinstance(column, np.ndarray) else column.filter(mask(keep)) for column in columns]

    def _write(self, name: str, columns: list[Any]) -> None:
        schema = SCHEMAS[name]
        arrays = [
            (numbers(column) if isinstance(column, np.ndarray) else column).cast(field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        unit = self._report.number, self._report.units
        self._note_size(write_unit(self._task.folder, unit, name, pa.table(arrays, schema=schema)))

    def _note_size(self, path: Path) -> None:
        self._report.sizes[path.name] = path.stat().st_size


def too_many_bad_lines(file: str, limit: int, last: dict[str, Any]) -> InputError:
    """The error for more than ``limit`` lines that are no statement; ``last`` is the quarantine's record of one."""
    return InputError(
        f"{file} has more than {limit} lines that are no N-Triples; the last one begins with {last['line'][:60]!r}: "
        f"{last['reason']}. Mend or fetch the file again, or raise 'kg.max_bad_lines' to set more of them aside."
    )


def no_statement(name: str, lines: int, last: dict[str, Any]) -> InputError:
    """The error for a source whose first ``lines`` lines are all undecodable; ``last`` as in `too_many_bad_lines`."""
    return InputError(
        f"{name} is not N-Triples: none of its first {lines} lines is a statement; the last one begins with "
        f"{last['line'][:60]!r}: {last['reason']}. Set 'kg.dump' to a file with one statement '<subject> <predicate> "
        "<object> .' a line."
    )


def _use(role: int) -> int:
    if role & TEXTS:
        return _AS_TEXT
    if role & (ARTICLES | ARTICLES_OF):
        return _AS_ARTICLE
    if role & LINKS:
        return _AS_LINK
    return _AS_UNSELECTED if role else _AS_NOTHING


def _described(qualifier: str, languages: list[str], kept: frozenset[str]) -> tuple[int, int, int]:
    """Of a language or datatype: rank as a text's, whether its values are kept, whether it may be kept at all."""
    datatype = literal_datatype(qualifier)
    known = int(datatype in kept)
    if not qualifier.startswith("@"):
        return len(languages) - 1 if qualifier in _PLAIN_DATATYPES else _NO_TEXT, known, known
    language = qualifier[1:].lower()
    if language in languages:
        return languages.index(language), known, known
    return OTHER_LANGUAGES + _language_number(language), 0, known


@lru_cache(maxsize=1 << 12)
def _language_number(language: str) -> int:
    """A number that sorts languages by the first five letters of their tags."""
    number = 0
    for place in range(5):
        letter = language[place : place + 1]
        number = number * 38 + ("-0123456789abcdefghijklmnopqrstuvwxyz".find(letter) + 1 if letter else 0)
    return number


def _stacked(rows: list[tuple[np.ndarray, ...]], columns: int) -> list[np.ndarray]:
    return [np.concatenate([np.empty(0, np.int32), *(row[k] for row in rows)]) for k in range(columns)]


def _literals(terms: Terms) -> tuple[list[pa.Array], np.ndarray]:
    """The columns of the literals' table, and bool[literals]: whether the text is one of its datatype."""
    names: list[str] = []  # columns, no rows, which the garbage collector would search
    values: list[str] = []
    which = np.empty(len(terms), np.int32)
    forms: dict[str, tuple[int, LiteralForm]] = {}
    for number, written in enumerate(terms.strings().to_pylist()):
        end = written.rindex('"')
        text, qualifier = written[:end], written[end + 1 :]
        if qualifier not in forms:
            forms[qualifier] = len(forms), LiteralForm(qualifier)
        which[number], form = forms[qualifier]
        if "\\" in text:
            text = unescaped(text)
        try:
            names.append(form.name(text))
            values.append(form.value(text))
        except ValueError:
            names.append("")
            values.append("")
    name = strings(names)
    _, starts, ends = spans(name)
    kind, datatype = (
        strings([getattr(form, attribute) for _, form in forms.values()]).take(numbers(which))
        for attribute in ("kind", "datatype")
    )
    identifier = pc.binary_join_element_wise(kind, name, strings([":"])[0])
    return [identifier, name, kind, strings(values), datatype], ends > starts
