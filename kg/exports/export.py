"""A graph, or a part of it, as a file for other programs: GraphML, N-Triples, TSV, CSV, Parquet.

Triples are written some thousands at a time, text is put together and escaped
column by column, so time goes with the size of the file and memory does not.
The file has a temporary name until it is complete; OUT ending in .gz is packed.
N-Triples read back (`kg.rdf.build`) give the same entities and triples between them.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.errors import ConfigError, StorageError
from kg.exports.part import Part
from kg.exports.rdf import absolute_iri, graph_language, graph_prefixes, node_terms, relation_terms
from kg.exports.text import (
    csv_lines,
    graphml_edges,
    graphml_head,
    graphml_nodes,
    ntriples_lines,
    ntriples_names,
    ntriples_types,
)
from kg.stage import Progress, no_progress

__all__ = ["FORMATS", "Format", "export_graph"]

Format = Literal["graphml", "ntriples", "tsv", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

_CHUNK = 1 << 16  # triples or nodes that are written in one go
_COLUMNS = ("subject", "relation", "object", "subject_label", "relation_label", "object_label", "rank")
_TABLE = pa.schema([(name, pa.string()) for name in _COLUMNS])

_Write = Callable[[pa.Array], Any]  # of lines


def export_graph(
    part: Part, file_format: Format, target: Path | BinaryIO, progress: Progress = no_progress
) -> dict[str, int]:
    """Write a part of a graph.

    Args:
        part: which nodes and triples.
        target: a path, packed with gzip if it ends in .gz and replaced only when all is written; or a binary file.

    Returns:
        ``nodes`` and ``triples`` that were written; tables of triples (TSV, CSV, Parquet) have no nodes of their own.

    Raises:
        ConfigError: Parquet with .gz.
        StorageError: the file cannot be written.
    """
    if file_format == "parquet" and isinstance(target, Path) and target.suffix == ".gz":
        raise ConfigError(f"Parquet is packed in itself: leave .gz off {target.name}.")
    writer = {
        "graphml": _write_graphml, "ntriples": _write_ntriples, "parquet": _write_parquet,
        "tsv": _write_table, "csv": _write_table,
    }[file_format]  # fmt: skip
    delimiter = {"tsv": "\t", "csv": ","}.get(file_format, "")
    with _opened(target) as file:
        return writer(part, file, progress, delimiter)


def _write_graphml(part: Part, file: BinaryIO, progress: Progress, _: str) -> dict[str, int]:
    graph, nodes = part.graph, 0
    write = _writer(file)
    file.write(graphml_head())
    for numbers in part.node_chunks(_CHUNK):
        rows = graph.node_table.select(["id", "label", "description", "kind"]).take(pa.array(numbers))
        write(graphml_nodes(rows.combine_chunks()))
        nodes += len(numbers)
        progress(nodes, graph.node_count, "nodes")
    triples = 0
    for table in _tables(part, progress):
        write(graphml_edges(table))
        triples += len(table)
    file.write(b"</graph>\n</graphml>\n")
    return {"nodes": nodes, "triples": triples}


def _write_ntriples(part: Part, file: BinaryIO, progress: Progress, _: str) -> dict[str, int]:
    graph, nodes, triples = part.graph, 0, 0
    prefixes, language = graph_prefixes(graph), graph_language(graph)
    write = _writer(file)
    relations = relation_terms(graph, prefixes)
    kept = pa.array(part.relation_numbers())
    for lines in ntriples_names(relations.take(kept), graph.relation_table.take(kept).combine_chunks(), language):
        write(lines)
    for numbers in part.node_chunks(_CHUNK):
        rows = graph.node_table.select(["kind", "label", "description", "aliases", "types"]).take(pa.array(numbers))
        named = pc.equal(rows["kind"], "entity").to_numpy()
        terms = node_terms(graph, prefixes, numbers[named])
        rows = rows.filter(pa.array(named)).combine_chunks()
        for lines in ntriples_names(terms, rows, language):
            write(lines)
        if not len(graph.item_numbers):  # of Wikidata's items the class is a relation like others
            types = rows["types"].combine_chunks()
            iris = {name: absolute_iri(prefixes.node_iri(name)) for name in pc.list_flatten(types).unique().to_pylist()}
            write(ntriples_types(terms, types, iris))
        nodes += len(numbers)
        progress(nodes, graph.node_count, "nodes")
    for done, edges in part.edge_chunks(_CHUNK):
        subjects, objects = part.subjects(edges), graph.out_objects[edges]
        distinct, places = np.unique(np.concatenate([subjects, objects]), return_inverse=True)
        terms = node_terms(graph, prefixes, distinct).take(pa.array(places))
        middle = relations.take(pa.array(graph.out_relations[edges]))
        write(ntriples_lines(terms[: len(edges)], middle, terms[len(edges) :]))
        triples += len(edges)
        progress(done, graph.triple_count, "triples")
    return {"nodes": nodes, "triples": triples}


def _write_table(part: Part, file: BinaryIO, progress: Progress, delimiter: str) -> dict[str, int]:
    write, triples = _writer(file), 0
    file.write((delimiter.join(_COLUMNS) + "\n").encode())
    for table in _tables(part, progress):
        write(csv_lines(table, delimiter))
        triples += len(table)
    return {"triples": triples}


def _write_parquet(part: Part, file: BinaryIO, progress: Progress, _: str) -> dict[str, int]:
    triples = 0
    with pq.ParquetWriter(file, _TABLE, compression="zstd") as writer:
        for table in _tables(part, progress):
            writer.write_table(table)
            triples += len(table)
    return {"triples": triples}


def _tables(part: Part, progress: Progress) -> Iterator[pa.Table]:
    """The triples with their labels, `_TABLE`, a chunk at a time."""
    graph = part.graph
    relations = graph.relation_table.select(["id", "label"]).combine_chunks()
    for done, edges in part.edge_chunks(_CHUNK):
        subjects, objects = part.subjects(edges), graph.out_objects[edges]
        distinct, places = np.unique(np.concatenate([subjects, objects]), return_inverse=True)
        nodes = graph.node_table.select(["id", "label"]).take(pa.array(distinct)).combine_chunks()
        first, last = (nodes.take(pa.array(half)) for half in np.split(places, 2))
        middle = relations.take(pa.array(graph.out_relations[edges]))
        rank = pc.if_else(pa.array(graph.out_preferred[edges]), "preferred", "normal")
        columns = [first["id"], middle["id"], last["id"], first["label"], middle["label"], last["label"], rank]
        yield pa.table(columns, schema=_TABLE).combine_chunks()
        progress(done, graph.triple_count, "triples")


def _writer(file: BinaryIO) -> _Write:
    def write(lines: pa.Array) -> None:
        for chunk in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
            _, offsets, data = chunk.buffers()
            if len(chunk) and data is not None:
                width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
                ends = np.frombuffer(offsets, width)[chunk.offset : chunk.offset + len(chunk) + 1]
                file.write(memoryview(data)[ends[0] : ends[-1]])

    return write


@contextmanager
def _opened(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    """The file to write: complete or not there at all, unless the target is an open file or a device."""
    if not isinstance(target, Path):
        yield target
        return
    in_place = target.exists() and not target.is_file() and not target.is_dir()
    temporary = target if in_place else target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with temporary.open("wb") as plain:
            with _packed(plain) if target.suffix == ".gz" else _kept_open(plain) as file:
                yield file
            plain.flush()
            if not in_place:
                os.fsync(plain.fileno())
        if not in_place:
            temporary.replace(target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(_storage_message(target, error)) from error
    finally:
        if not in_place:
            temporary.unlink(missing_ok=True)


def _packed(file: BinaryIO) -> Any:
    from isal import igzip

    return io.BufferedWriter(igzip.IGzipFile(filename="", mode="wb", fileobj=file, mtime=0), 1 << 20)


@contextmanager
def _kept_open(file: BinaryIO) -> Iterator[BinaryIO]:
    yield file


def _storage_message(target: Path, error: OSError) -> str:
    mends = {
        errno.ENOSPC: "The disk is full: free some space or choose another place.",
        errno.EDQUOT: "The disk quota is used up: free some space or choose another place.",
        errno.EFBIG: "The file would exceed a size limit (ulimit -f): raise it or choose another place.",
        errno.EISDIR: "It is a folder: name a file in it.",
    }
    reason = os.strerror(error.errno or 0) if error.errno else str(error)
    if not target.parent.exists():
        mends[errno.ENOENT] = f"The folder {target.parent} does not exist: make it first."
    mend = mends.get(error.errno or 0, "Choose another place for the exported file.")
    return f"Cannot write {target}: {reason}. {mend} Nothing was left there."
