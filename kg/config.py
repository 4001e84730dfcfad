"""Options of the knowledge-graph stage: pure data, no behaviour.

The descriptions are the form that Prefect's UI shows and the table that
``docs/configuration.md`` prints; units and defaults belong in them.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from kg.rdf.config import RdfConfig
from kg.stage import Settings

__all__ = ["GraphConfig"]

_LANGUAGE = r"^[a-z][a-z0-9-]{1,19}$"
LiteralDatatype = Literal[
    "time",
    "quantity",
    "globe-coordinate",
    "monolingualtext",
    "string",
    "external-id",
    "url",
    "commonsMedia",
    "geo-shape",
    "math",
    "musical-notation",
    "tabular-data",
]


class GraphConfig(Settings):
    """Which part of a Wikidata dump, or of any RDF, becomes the knowledge graph."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset(
        {"dump", "entities_file", "max_bad_lines", "max_corrupt_members", "slice_mb", "workers"}
    )

    dump: str = Field(
        default="data/sample/wikidata.json.gz",
        description="Wikidata JSON dump, N-Triples or Turtle, plain or packed (.gz, .bz2, .zst): a file, a folder or "
        "glob of parts, or an fsspec URL. Or a SPARQL endpoint: sparql+https://host/path.",
    )
    relations: list[str] = Field(
        default=[],
        description="Ids of the relations to keep (P17, P36, …). Empty: all relations with a kept datatype.",
    )
    relations_file: str | None = Field(
        default=None,
        description="Text file with one relation id at the start of each line; added to 'relations'.",
    )
    entities: Literal["wikipedia", "labelled", "any"] = Field(
        default="wikipedia",
        description="Keep the entities with an article in the language's Wikipedia, all that have an article or a "
        "label in one of the languages, or all whatsoever (named by any label, else by the id).",
    )
    entities_file: str | None = Field(
        default=None,
        description="Text file with one entity id at the start of each line: only these are kept, as far as the other "
        "filters let them pass. Ids of items that were merged into others do not count.",
    )
    classes: list[str] = Field(
        default=[],
        description="Keep only entities that are an instance of one of these classes or of a subclass of one (Q5, …). "
        "Empty: of any class.",
    )
    min_degree: int = Field(
        default=0,
        ge=0,
        description="Drop entities with fewer triples than this, as subject or object, until all that are left have "
        "as many.",
    )
    language: str = Field(
        default="en", description="Language of names, labels, descriptions and aliases.", pattern=_LANGUAGE
    )
    fallback_languages: list[Annotated[str, Field(pattern=_LANGUAGE)]] = Field(
        default=["mul"],
        description="Where the language has no label or description, that of the first of these is taken. "
        "'mul' is what holds in all languages.",
    )
    wiki: str | None = Field(
        default=None,
        description="Site whose articles count and name the entities. Empty: the language and 'wiki', such as enwiki.",
        pattern=r"^[a-z0-9_]{2,40}$",
    )
    drop_classes: list[str] = Field(
        default=["Q4167410", "Q13406463", "Q17442446", "Q4167836"],
        description="Entities whose best-ranked 'instance of' (P31) is one of these are dropped: "
        "disambiguation pages, lists, internal items, categories.",
    )
    literals: list[LiteralDatatype] = Field(
        default=["time", "quantity", "globe-coordinate"],
        description="Datatypes of literal values to keep as nodes beside the entities, of time, quantity, "
        "globe-coordinate, monolingualtext, string, external-id, url, commonsMedia, geo-shape, math, musical-notation, "
        "tabular-data. Empty: entities only.",
    )
    qualifiers: bool = Field(
        default=False,
        description="Keep the qualifiers of the statements, as a column of triples.parquet; where several "
        "statements are one triple, those of the first.",
    )
    max_bad_lines: int = Field(
        default=1000,
        ge=0,
        description="Undecodable lines are set aside and counted; with more than this many the stage fails.",
    )
    max_corrupt_members: int = Field(
        default=2,
        ge=0,
        description="Parts of a packed file that cannot be unpacked, and lines of more than 256 MiB, are skipped and "
        "counted; with more than this many the stage fails. It always fails where a file ends within such a part.",
    )
    slice_mb: float = Field(
        default=128,
        gt=0,
        description="Size of the slices in which the dump is read, in MiB of the stored file. The graph does not "
        "depend on it.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Processes that read slices, or threads or workers by 'runner'. Empty: one per core. The graph "
        "does not depend on it.",
    )

    rdf: RdfConfig = Field(default=RdfConfig(), description="How RDF is understood; a JSON dump does not use it.")

    @field_validator("relations")
    @classmethod
    def _relation_ids(cls, value: list[str]) -> list[str]:
        return [_checked_id(relation, "P", "a Wikidata property id such as P17") for relation in value]

    @field_validator("drop_classes", "classes")
    @classmethod
    def _class_ids(cls, value: list[str]) -> list[str]:
        return [_checked_id(item, "Q", "a Wikidata item id such as Q4167410") for item in value]

    @property
    def site(self) -> str:
        """The site whose articles count."""
        return self.wiki or self.language.replace("-", "_") + "wiki"

    @property
    def languages(self) -> list[str]:
        """The language and its fallbacks, in order."""
        return list(dict.fromkeys([self.language, *self.fallback_languages]))


def _checked_id(identifier: str, letter: str, kind: str) -> str:
    """Refuse what looks like a mistyped Wikidata id; ids of other vocabularies may look like anything else."""
    likely = re.fullmatch(r"\W*[PpQq]?0*([1-9]\d{0,8})\W*", identifier)
    if likely and not re.fullmatch(rf"{letter}[1-9]\d{{0,8}}", identifier):
        raise ValueError(f"{identifier!r} is not {kind}; did you mean {letter}{likely[1]}?")
    if not identifier.strip():
        raise ValueError(f"{identifier!r} is not {kind}")
    return identifier
