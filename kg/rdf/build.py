"""A graph from RDF: N-Triples as they are, Turtle and SPARQL endpoints by way of N-Triples.

`build_rdf` plans slices, has them read (`kg.rdf.slices`), joins the units
(`kg.rdf.join`) and adds up the counts. A slice that was finished before a crash
is not read again. A source whose first statements are about Wikidata's entities
is read as Wikidata's: its entities are the items, its relations the direct
properties; in all other sources every IRI may be an entity and every predicate
without another meaning is a relation.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from kg.config import GraphConfig
from kg.dump import Slice, SliceReader, check_faults, plan_slices
from kg.errors import ConfigError, InputError
from kg.parallel import SOURCE_FOLDER, Mapper, parts_folder
from kg.rdf.config import WIKIDATA_ENTITY
from kg.rdf.join import Source, join_units
from kg.rdf.slices import SliceTask, no_statement, read_slice, too_many_bad_lines
from kg.rdf.sparql import fetch
from kg.rdf.turtle import write_ntriples
from kg.rdf.units import SliceReport, quarantine_path, read_report
from kg.stage import Progress

__all__ = ["build_rdf", "plan_tasks"]

log = logging.getLogger(__name__)

_CONVERTED = Path(SOURCE_FOLDER, "source.nt")
_PARTS_FORM = 2  # to be raised when other code would write other parts for the same options
_HEAD_LINES = 1000  # that tell whether a source is about Wikidata's entities
_ABOUT_ITEM = re.compile(rb"<%b|\S+\s+<http://schema\.org/about>\s+<%b" % ((re.escape(WIKIDATA_ENTITY.encode()),) * 2))
_MENDS = {
    "no_article": "Set 'kg.entities' to 'labelled' or 'any', or 'kg.language' to a language whose wiki has the "
    "articles.",
    "no_label": "Set 'kg.language' to a language that the source has labels in, 'kg.rdf.labels' to the predicates of "
    "its labels, or 'kg.entities' to 'any'.",
    "not_a_relation": "Set 'kg.rdf.relation_namespaces' to where its relations are.",
    "relation_not_selected": "Extend 'kg.relations' or 'kg.relations_file', or leave both empty to keep all relations.",
    "dropped_class": "Shorten 'kg.drop_classes'.",
    "not_in_classes": "Extend 'kg.classes', or leave it empty.",
    "not_listed": "Extend the list in 'kg.entities_file'.",
    "low_degree": "Lower 'kg.min_degree'.",
    "datatype_not_kept": "Extend 'kg.literals'.",
    "other_language": "Set 'kg.language' to the language of the texts.",
    "object_not_kept": "Use a source that describes the objects too, or set 'kg.entities' to 'any'.",
    "blank_node": "Give the blank nodes IRIs.",
}
_USUAL = frozenset({"other_language", "datatype_not_kept", "not_a_relation", "blank_node"})
_OTHER_MEND = "Use a source with statements between IRIs."


def build_rdf(
    config: GraphConfig, kind: str, relations: list[str], folder: Path, *, mapper: Mapper, progress: Progress
) -> dict[str, Any]:
    """Build the graph of an RDF source; the work of a stage.

    Args:
        config: which part of the source to keep.
        kind: what ``config.dump`` is: "ntriples", "turtle" or "sparql".
        relations: ids of the relations to keep; empty for all.
        folder: the stage's folder; its files are described in `kg.tables`. The parts stay until the caller calls
            `kg.parallel.remove_parts`.
        mapper: runs the slices.
        progress: called with the stored bytes of the finished slices.

    Returns:
        The manifest's counts. Statements read are those that became triples, labels, descriptions, aliases, types and
        articles and those that were dropped, by reason.

    Raises:
        ConfigError: the list of entities is unusable.
        InputError: the source cannot be read, has too many lines that are no statement, or nothing of it is left.
    """
    listed = _listed(config.entities_file)
    source = _ntriples(config, kind, folder / _CONVERTED, progress)
    tasks = plan_tasks(config, relations, folder, source)
    reports = _read(config, tasks, mapper, progress)
    _write_quarantine(config, tasks, reports, folder / "quarantine.jsonl")
    lines, bad = sum(report.lines for report in reports), sum(report.undecodable for report in reports)
    if lines == bad:
        raise no_statement(config.dump, lines, _bad_lines(tasks, reports)[-1]) if lines else _empty(config.dump)
    joined = join_units(
        Source(
            config=config,
            relations=tuple(relations),
            wikidata=tasks[0].wikidata,
            entities=_entities(config, reports),
            listed=listed,
            folder=tasks[0].folder,
            units=[(report.number, unit) for report in reports for unit in range(report.units)],
        ),
        folder,
    )
    counts = _counts(relations, lines, bad, reports, joined)
    if not joined["triples"]:
        raise _nothing_left(config.dump, counts["statements"])
    _warn_of_missing(config.dump, relations, joined["seen"])
    return counts


def plan_tasks(config: GraphConfig, relations: Sequence[str], folder: Path, source: str) -> list[SliceTask]:
    """The slices of N-Triples to read into a folder of their own in ``folder``; one for other slices is removed."""
    slices = plan_slices(source, max(1, int(config.slice_mb * (1 << 20))))
    wikidata = not config.rdf.relation_namespaces and _is_wikidata(slices[0])
    parts = parts_folder(folder, _PARTS_FORM, config.fingerprinted(), list(relations), slices)
    return [SliceTask(config, tuple(relations), wikidata, part, parts) for part in slices]


def _ntriples(config: GraphConfig, kind: str, target: Path, progress: Progress) -> str:
    """Where the source's N-Triples are: in ``target`` if they had to be made."""
    if kind == "ntriples":
        return config.dump
    target.parent.mkdir(exist_ok=True)
    if kind == "turtle":
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            with unfinished.open("wb") as file:
                write_ntriples(config.dump, file)
            unfinished.rename(target)
    else:
        fetch(config.dump, config.rdf, target, progress)
    if not target.stat().st_size:
        raise _empty(config.dump)
    return str(target)


def _empty(dump: str) -> InputError:
    return InputError(f"{dump} holds no statement. Set 'kg.dump' to a source that does.")


def _is_wikidata(first: Slice) -> bool:
    """Whether one of a source's first statements is about an entity of Wikidata."""
    for _, block in SliceReader(first).blocks():
        lines = block.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]
        return any(_ABOUT_ITEM.match(line) for line in lines)
    return False


def _read(config: GraphConfig, tasks: list[SliceTask], mapper: Mapper, progress: Progress) -> list[SliceReport]:
    """Read all slices that are not finished; the reports by number of the slice."""
    reports: dict[int, SliceReport] = {}
    total = sum(task.part.end - task.part.start for task in tasks)
    done = 0

    def take(report: SliceReport) -> None:
        nonlocal done
        reports[report.number] = report
        part = tasks[report.number].part
        done += part.end - part.start
        lines = sum(known.lines for known in reports.values())
        bad = sum(known.undecodable for known in reports.values())
        faults = [fault for known in reports.values() for fault in known.faults]
        progress(done, total, "bytes", statements=lines - bad)
        if lines > bad > config.max_bad_lines:
            raise too_many_bad_lines(config.dump, config.max_bad_lines, _bad_lines(tasks, reports.values())[-1])
        check_faults(config.dump, config.max_corrupt_members, len(faults), report.faults)

    waiting = []
    for task in tasks:
        finished = read_report(task.folder, task.part.number)
        if finished is None:
            waiting.append(task)
        else:
            take(finished)
    if reports:
        log.info("%s: %d of %d slices were read before", config.dump, len(reports), len(tasks))
    with closing(mapper(read_slice, waiting)) as results:
        for report in results:
            take(report)
    ordered = [reports[task.part.number] for task in tasks]
    _check_chain(tasks, ordered)
    return ordered


def _bad_lines(tasks: list[SliceTask], reports: Iterable[SliceReport]) -> list[dict[str, Any]]:
    """What quarantine holds of slices, by offset in each."""
    found = []
    for report in reports:
        lines = quarantine_path(tasks[0].folder, report.number).read_bytes().splitlines()
        found += sorted(map(json.loads, lines), key=itemgetter("offset"))
    return found


def _check_chain(tasks: list[SliceTask], reports: list[SliceReport]) -> None:
    """Every slice must begin with the member at which the one before ended."""
    expected: dict[str, int | None] = {}
    for task, report in zip(tasks, reports, strict=True):
        file = task.part.file
        if report.first_member is None:
            continue
        if file in expected and expected[file] != report.first_member:
            raise InputError(
                f"{file} is corrupt: a member ends before byte {expected[file]}, where none begins; the next one is "
                f"at byte {report.first_member}. Fetch the file again."
            )
        expected[file] = report.next_member


def _write_quarantine(config: GraphConfig, tasks: list[SliceTask], reports: list[SliceReport], path: Path) -> None:
    """Gather what was set aside, by file and offset in its decompressed stream."""
    with path.open("w", encoding="utf-8") as target:
        base, file = 0, ""
        for task, report in zip(tasks, reports, strict=True):
            if task.part.file != file:
                base, file = 0, task.part.file
            name = config.dump if Path(file) == path.parent / _CONVERTED else file
            records = _bad_lines(tasks, [report]) + [msgspec.to_builtins(fault) for fault in report.faults]
            for record in sorted(records, key=itemgetter("offset")):
                told = record | {"file": name, "offset": base + record["offset"]}
                json.dump(told, target, ensure_ascii=False)
                target.write("\n")
            base += report.raw_bytes


def _entities(config: GraphConfig, reports: list[SliceReport]) -> str:
    """Which entities to keep: those with a label where a source knows no articles."""
    if config.entities != "wikipedia" or any(report.articles for report in reports):
        return config.entities
    log.warning("%s tells of no articles: all entities with a label are kept", config.dump)
    return "labelled"


def _listed(path: str | None) -> pa.Array | None:
    """The ids of the allow-list of entities, or None if there is none."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Cannot read the list of entities {path}: {reason}. Check 'kg.entities_file'.") from error
    # IRIs may have commas in them; Wikidata's ids, which often come from a CSV file, have none.
    words = (match[0] for line in lines if (match := re.match(r"Q\d+(?=[,;])|\S+", line.strip())))
    found = {word for word in words if not word.startswith("#")}
    if not found:
        raise ConfigError(f"The list of entities {path} holds no id. Write one on each line, or unset it.")
    return pa.array(sorted(found), pa.string())


def _counts(
    relations: list[str], lines: int, bad: int, reports: list[SliceReport], joined: dict[str, Any]
) -> dict[str, Any]:
    dropped: Counter[str] = sum((Counter(report.dropped) for report in reports), Counter())
    dropped.update(joined["dropped"])
    uses = ("labels", "descriptions", "aliases", "types", "articles")
    return {
        "lines": lines,
        "undecodable": bad,
        "corrupt_members": sum(len(report.faults) for report in reports),
        "statements": {
            "read": lines - bad,
            "triples": joined["triples"],
            **{use: joined["used"][use] for use in uses},
            "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        },
        "nodes": joined.get("nodes", {"total": 0}),
        "relations": joined.get("relations", 0),
        "relations_without_label": joined.get("relations_without_label", 0),
        "relations_not_found": len(_missing(relations, joined["seen"])),
        "triples": joined["triples"],
    }


def _missing(relations: list[str], seen: dict[str, bool]) -> list[str]:
    return [name for name in relations if name not in seen]


def _warn_of_missing(dump: str, relations: list[str], seen: dict[str, bool]) -> None:
    missing = _missing(relations, seen)
    if missing:
        near = dict.fromkeys(
            found for name in missing[:3] for found in difflib.get_close_matches(name, sorted(seen), n=3)
        )
        log.warning(
            "No statement of %s has the selected relation%s %s%s; the graph is built without.%s",
            dump,
            "s" if len(missing) > 1 else "",
            ", ".join(missing[:20]),
            " and more" if len(missing) > 20 else "",
            f" Near ones that it has: {', '.join(near)}." if near else "",
        )


def _nothing_left(dump: str, statements: dict[str, Any]) -> InputError:
    reasons = sorted(((count, reason) for reason, count in statements["dropped"].items()), reverse=True)
    if not reasons:
        return InputError(f"No triple of {dump} is left: it holds no statement that could be one. {_OTHER_MEND}")
    told = ", ".join(f"{reason.replace('_', ' ')} {count}" for count, reason in reasons)
    # Texts in other languages and other wikis' pages are many in a source of which nothing is amiss.
    decisive = [reason for _, reason in reasons if reason in _MENDS and reason not in _USUAL] or [reasons[0][1]]
    return InputError(
        f"No triple of {dump} passes the filters. Of {statements['read']} statements these were dropped: {told}. "
        f"{_MENDS.get(decisive[0], _OTHER_MEND)}"
    )
