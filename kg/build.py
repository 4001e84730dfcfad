"""The stage that turns a dump into a knowledge graph.

What the source holds decides who builds it: `kg.wikidata.build` a Wikidata JSON
dump, `kg.rdf.build` any RDF. Both read it in slices, in parallel; finished
slices are kept until the graph stands, so an interrupted build goes on.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from kg.config import GraphConfig
from kg.dump import file_kind
from kg.errors import ConfigError, InputError, StorageError
from kg.parallel import SOURCE_FOLDER, Mapper, in_processes, remove_parts
from kg.rdf.config import SPARQL
from kg.source import dump_digest, is_url, list_files
from kg.stage import Manifest, Progress, file_digest, no_progress, run_stage
from kg.wikidata.build import build_wikidata
from kg.wikidata.ingest import listed_items
from kg.wikidata.wikibase import item_number, property_number

__all__ = ["build_graph", "selected_relations"]


def build_graph(
    config: GraphConfig, folder: Path, *, progress: Progress = no_progress, mapper: Mapper | None = None
) -> Manifest:
    """Build the graph of ``config.dump`` in ``folder``.

    Args:
        config: which part of the dump to keep.
        folder: the stage's folder; its files are described in `kg.tables`.
        progress: called with the bytes of the stored dump read so far.
        mapper: runs the slices; by default as many processes as ``config.workers``. Wherever it runs them, they
            need the dump and ``folder`` under the same paths.

    Raises:
        ConfigError: an id is malformed or a file with ids is unusable.
        InputError: the dump is missing, truncated, corrupt or no dump, has too many undecodable lines or corrupt
            members, or nothing of it passes the filters.
    """
    relations = selected_relations(config)
    settings = config.fingerprinted() | {"relations": relations}
    del settings["relations_file"]  # its ids are among the relations
    kind = "sparql" if config.dump.startswith(SPARQL) else file_kind(config.dump)
    if kind == "json":
        _check_ids(config, relations)
        if config.entities_file is not None:
            listed_items(config.entities_file)
        del settings["rdf"]
    inputs = {"dump": _source_digest(config, kind)}
    if config.entities_file is not None:
        inputs["entities_file"] = file_digest(Path(config.entities_file))
    manifest = run_stage(
        "kg",
        folder,
        config=settings,
        inputs=inputs,
        seed=None,
        work=lambda place: _build(config, kind, relations, place, progress, mapper),
    )
    shutil.rmtree(folder / SOURCE_FOLDER, ignore_errors=True)
    remove_parts(folder)  # not before the manifest is there, or a crash in between would lose the whole ingest
    return manifest


def _source_digest(config: GraphConfig, kind: str) -> str:
    if kind != "sparql":
        return dump_digest(config.dump)
    from kg.rdf.sparql import source_digest

    return source_digest(config)


def selected_relations(config: GraphConfig) -> list[str]:
    """The ids of ``config.relations`` and ``config.relations_file``, sorted; empty for all.

    Raises:
        ConfigError: the file cannot be read, has a malformed id or none at all.
    """
    relations = set(config.relations)
    if config.relations_file is not None:
        relations.update(_read_relations(Path(config.relations_file)))
    return sorted(relations, key=lambda name: (len(name), name))


def _read_relations(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Cannot read the relations file {path}: {reason}. Check 'kg.relations_file'.") from error
    found = []
    for number, line in enumerate(lines, 1):
        word = re.split(r"[\s,;]", line.strip(), maxsplit=1)[0]
        if not word or word.startswith("#"):
            continue
        try:
            GraphConfig(relations=[word])
        except ValueError as error:
            likely = re.search(r"[Pp]?0*([1-9]\d{0,8})\b", word)
            hint = f" Did you mean P{likely[1]}?" if likely else ""
            raise ConfigError(
                f"{path}, line {number}: {word!r} is not a relation id of the form P17.{hint} Each line begins with "
                "one id; blank lines and lines that begin with # are skipped."
            ) from error
        found.append(word)
    if not found:
        raise ConfigError(
            f"The relations file {path} holds no id. Write one on each line, or unset 'kg.relations_file'."
        )
    return found


def _build(
    config: GraphConfig, kind: str, relations: list[str], folder: Path, progress: Progress, mapper: Mapper | None
) -> dict[str, Any]:
    files = [] if kind == "sparql" else [file for file in list_files(config.dump) if not is_url(file)]
    before = _versions(files)
    try:
        if kind == "json":
            counts = build_wikidata(config, relations, folder, mapper=mapper, progress=progress)
        else:
            from kg.rdf.build import build_rdf  # rdflib and the compiled scanner cost a second to load

            counts = build_rdf(
                config, kind, relations, folder, mapper=mapper or in_processes(config.workers), progress=progress
            )
    except (OSError, pa.ArrowException) as error:
        # Arrow's error for what it cannot decode is an OSError without a number.
        if error.errno if isinstance(error, OSError) else "parquet" not in str(error).lower():
            raise
        remove_parts(folder)
        raise StorageError(
            f"What was read of the dump and kept in {folder} is damaged: {' '.join(str(error).split())}. Check the "
            "disk and run the same command again; the dump is then read anew."
        ) from error
    if _versions(files) != before:
        raise InputError(f"{config.dump} was changed while it was read. Run the same command again.")
    return counts


def _versions(files: list[str]) -> list[tuple[int, ...] | None]:
    """What tells whether one of the files was replaced or written to; None for one that is gone."""
    found: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            status = Path(file).stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def _check_ids(config: GraphConfig, relations: list[str]) -> None:
    """Refuse ids that no Wikidata dump has."""
    checks = (
        ("relations", relations, property_number, "P17"),
        ("classes", config.classes, item_number, "Q5"),
        ("drop_classes", config.drop_classes, item_number, "Q4167410"),
    )
    for field, identifiers, number, example in checks:
        for identifier in identifiers:
            try:
                number(identifier)
            except ValueError:
                raise ConfigError(
                    f"{identifier!r} in 'kg.{field}' is no id of Wikidata such as {example}, and {config.dump} is a "
                    "Wikidata JSON dump. Correct the id."
                ) from None
