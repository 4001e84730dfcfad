"""The text of exported files, put together column by column: every function gives an array of whole lines.

What a format gives a meaning is escaped: quotation marks, tabs and line breaks
in tables, the five of XML and what its parsers would change, the four of
N-Triples. Characters that XML cannot hold at all become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "csv_lines",
    "graphml_edges",
    "graphml_head",
    "graphml_nodes",
    "joined",
    "ntriples_lines",
    "ntriples_names",
    "ntriples_types",
]

_NODE_KEYS = {"label": "n0", "description": "n1", "kind": "n2"}
_EDGE_KEYS = {"relation": "key", "relation_label": "label", "rank": "rank"}  # networkx takes "key" for the edge's key
_XML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_XML_ATTRIBUTE = _XML | {'"': "&quot;", "\t": "&#9;", "\n": "&#10;"}
_NOT_XML = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"
_NTRIPLES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
_NAMES = {
    "label": "http://www.w3.org/2000/01/rdf-schema#label",
    "description": "http://schema.org/description",
    "aliases": "http://www.w3.org/2004/02/skos/core#altLabel",
}


def csv_lines(table: pa.Table, delimiter: str) -> pa.Array:
    """The rows as lines; a value with a quotation mark, the delimiter or a line break is quoted, as in RFC 4180."""
    columns = []
    for column in table.columns:
        special = pc.match_substring_regex(column, f'["\r\n{delimiter}]')
        if pc.any(special).as_py():
            quoted = joined('"', pc.replace_substring(column, '"', '""'), '"')
            column = pc.if_else(special, quoted, column)
        columns.append(column)
    parts = [part for column in columns for part in (column, delimiter)]
    return joined(*parts[:-1], "\n")


def graphml_head() -> bytes:
    """What stands before the nodes."""
    keys = [("node", identifier, name) for name, identifier in _NODE_KEYS.items()]
    keys += [("edge", f"e{number}", name) for number, name in enumerate(_EDGE_KEYS.values())]
    declared = "".join(
        f'<key id="{identifier}" for="{where}" attr.name="{name}" attr.type="string"/>\n'
        for where, identifier, name in keys
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
        f'{declared}<graph edgedefault="directed">\n'
    ).encode()


def graphml_nodes(nodes: pa.Table) -> pa.Array:
    """Nodes with id, label, description and kind."""
    parts = ['<node id="', _escaped_xml(nodes["id"], _XML_ATTRIBUTE), '">']
    for name, key in _NODE_KEYS.items():
        parts += [f'<data key="{key}">', _escaped_xml(nodes[name], _XML), "</data>"]
    return joined(*parts, "</node>\n")


def graphml_edges(triples: pa.Table) -> pa.Array:
    """Edges with the relation's id, its label and the rank."""
    ends = [_escaped_xml(triples[name], _XML_ATTRIBUTE) for name in ("subject", "object")]
    parts = ['<edge source="', ends[0], '" target="', ends[1], '">']
    for number, name in enumerate(_EDGE_KEYS):
        parts += [f'<data key="e{number}">', _escaped_xml(triples[name], _XML), "</data>"]
    return joined(*parts, "</edge>\n")


def ntriples_lines(subjects: pa.Array, relations: pa.Array, objects: pa.Array) -> pa.Array:
    """Statements of terms."""
    return joined(subjects, " ", relations, " ", objects, " .\n")


def ntriples_names(terms: pa.Array, rows: pa.Table, language: str) -> Iterator[pa.Array]:
    """The labels, descriptions and aliases of the things with these terms, tagged with the language."""
    for column, predicate in _NAMES.items():
        subjects, names = terms, rows[column].combine_chunks()
        if column == "aliases":
            subjects, names = subjects.take(pc.list_parent_indices(names)), pc.list_flatten(names)
        given = pc.not_equal(names, "")
        for special, escape in _NTRIPLES.items():
            names = pc.replace_substring(names, special, escape)
        yield joined(subjects, f' <{predicate}> "', names, f'"@{language} .\n').filter(given)


def ntriples_types(terms: pa.Array, types: pa.ListArray, iris: dict[str, str]) -> pa.Array:
    """The classes of the things with these terms, by the IRI of each class."""
    classes = pc.list_flatten(types).dictionary_encode()
    written = pa.array([f"<{iris[name]}>" for name in classes.dictionary.to_pylist()], pa.large_string())
    return joined(terms.take(pc.list_parent_indices(types)), f" <{_TYPE}> ", written.take(classes.indices), " .\n")


def _escaped_xml(column: pa.Array, escapes: dict[str, str]) -> pa.Array:
    for special, escape in escapes.items():
        column = pc.replace_substring(column, special, escape)
    return pc.replace_substring_regex(column, _NOT_XML, "\ufffd")


def joined(*parts: pa.Array | str) -> pa.Array:
    """large_string[rows]: the parts of each row one after the other; a mere string is the same in all rows."""
    wide = [
        pa.scalar(part, pa.large_string()) if isinstance(part, str) else part.cast(pa.large_string()) for part in parts
    ]
    return pc.binary_join_element_wise(*wide, pa.scalar("", pa.large_string()))
