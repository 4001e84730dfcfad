"""Options for graphs from RDF: which predicate means what, how IRIs shorten, what to ask an endpoint.

Pure data, embedded in `kg.config.GraphConfig` as ``rdf``. The defaults read
Wikidata's truthy dump, DBpedia and an ordinary ontology without a change.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from kg.stage import Settings

__all__ = ["SPARQL", "WIKIDATA_DIRECT", "WIKIDATA_ENTITY", "RdfConfig"]

SPARQL = "sparql+"  # what an endpoint's address begins with in the configuration
WIKIDATA_ENTITY = "http://www.wikidata.org/entity/"
WIKIDATA_DIRECT = "http://www.wikidata.org/prop/direct/"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_OWL = "http://www.w3.org/2002/07/owl#"
_SKOS = "http://www.w3.org/2004/02/skos/core#"
_SCHEMA = "http://schema.org/"
_FOAF = "http://xmlns.com/foaf/0.1/"
_TERMS = "http://purl.org/dc/terms/"
_DC = "http://purl.org/dc/elements/1.1/"

_LITERAL_KINDS = ("date", "quantity", "coordinate", "string")  # their names begin the ids of literals
Iri = Annotated[str, Field(pattern=r'^[^:\s<>"\\]+:[^\s<>"\\]*$')]


class RdfConfig(Settings):
    """How to read RDF: what predicates mean, and how IRIs become short ids."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"page_size"})

    labels: list[Iri] = Field(
        default=[f"{_RDFS}label", f"{_SKOS}prefLabel", f"{_SCHEMA}name", f"{_FOAF}name", f"{_TERMS}title"],
        description="Predicates whose object is the subject's label, the most trusted first; labels that differ from "
        "it become aliases.",
    )
    descriptions: list[Iri] = Field(
        default=[f"{_SCHEMA}description", f"{_RDFS}comment", f"{_TERMS}description", f"{_SKOS}definition"],
        description="Predicates whose object describes the subject, the most trusted first.",
    )
    aliases: list[Iri] = Field(
        default=[f"{_SKOS}altLabel"], description="Predicates whose object is another name of the subject."
    )
    types: list[Iri] = Field(
        default=[f"{_RDF}type", f"{WIKIDATA_DIRECT}P31"],
        description="Predicates whose object is a class of the subject. Those of Wikidata are also relations.",
    )
    subclasses: list[Iri] = Field(
        default=[f"{_RDFS}subClassOf", f"{WIKIDATA_DIRECT}P279"],
        description="Predicates from a class to a wider one, for 'kg.classes'. They are also relations.",
    )
    articles: list[Iri] = Field(
        default=[f"{_SCHEMA}about", f"{_FOAF}primaryTopic"],
        description="Predicates from an article of the wiki to the entity that it is about.",
    )
    articles_of: list[Iri] = Field(
        default=[f"{_FOAF}isPrimaryTopicOf"], description="Predicates from an entity to its article in the wiki."
    )
    relation_namespaces: list[Iri] = Field(
        default=[],
        description="Predicates are relations only if their IRI begins with one of these. Empty: all that have no "
        "other meaning here; of Wikidata's entities, its direct properties.",
    )
    prefixes: dict[Iri, str] = Field(
        default={
            WIKIDATA_ENTITY: "",
            WIKIDATA_DIRECT: "",
            "http://dbpedia.org/resource/": "dbr:",
            "http://dbpedia.org/ontology/": "dbo:",
            "http://dbpedia.org/property/": "dbp:",
            _RDF: "rdf:",
            _RDFS: "rdfs:",
            _OWL: "owl:",
            _SKOS: "skos:",
            _SCHEMA: "schema:",
            _FOAF: "foaf:",
            _TERMS: "dcterms:",
            _DC: "dc:",
        },
        description="Namespace → what stands for it in ids, such as dbo: or nothing at all. The longest namespace "
        "wins; other IRIs are ids as they are.",
    )
    sparql_query: str | None = Field(
        default=None,
        description="CONSTRUCT query that chooses a part of an endpoint's data, without LIMIT and OFFSET. End it with "
        "ORDER BY, so that its pages fit together. Empty: all statements about IRIs.",
    )
    sparql_graph: Iri | None = Field(
        default=None, description="Named graph of the endpoint to read. Empty: the endpoint's default graph."
    )
    page_size: int = Field(
        default=1000,
        ge=1,
        description="Subjects (with 'sparql_query': solutions) that are asked of an endpoint at a time.",
    )

    @field_validator("prefixes")
    @classmethod
    def _prefix_form(cls, value: dict[str, str]) -> dict[str, str]:
        for prefix in value.values():
            if prefix and not re.fullmatch(r"[A-Za-z_][\w.-]*:", prefix):
                raise ValueError(f"{prefix!r} is not a prefix: write a word and a colon, such as 'ex:', or nothing")
            if prefix[:-1] in _LITERAL_KINDS:
                raise ValueError(f"{prefix!r} begins the ids of literals; choose another prefix")
        return value

    @model_validator(mode="after")
    def _prefixes_are_reversible(self) -> RdfConfig:
        owners: dict[tuple[str, bool], str] = {}
        for namespace, prefix in self.prefixes.items():
            other = owners.setdefault((prefix, self.names_relations(namespace)), namespace)
            if other != namespace:
                raise ValueError(
                    f"{prefix!r} stands for both {other} and {namespace}, so that ids would be ambiguous; give one of "
                    "them another prefix, or name the one of the relations in relation_namespaces"
                )
        return self

    def names_relations(self, namespace: str) -> bool:
        """Whether a namespace is one of relations, which may share its prefix with one of entities."""
        return namespace == WIKIDATA_DIRECT or namespace in self.relation_namespaces
