"""The graph of a Wikidata dump as a short program reads it that knows nothing of speed.

Documents are dictionaries, the graph is a dictionary of triples, every rule is
a loop. The texts of literals are those of `kg.literals`, which has its own tests;
everything else is written from what the configuration promises.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kg.config import GraphConfig
from kg.literals import coordinate_text, date_text, plain_text, quantity_text, unit_id

Document = dict[str, Any]
Triple = tuple[str, str, str]

_INFERRED = {
    "wikibase-entityid": "wikibase-item",
    "time": "time",
    "quantity": "quantity",
    "globecoordinate": "globe-coordinate",
    "monolingualtext": "monolingualtext",
}


@dataclass(frozen=True)
class PlainGraph:
    """Node ids, triples with their rank, and the qualifiers of each triple."""

    nodes: set[str]
    triples: dict[Triple, str]
    qualifiers: dict[Triple, list[tuple[str, str]]]


class PlainReading:
    """Reads documents, of which no two of one item have the same revision."""

    def __init__(self, documents: Iterable[Document], config: GraphConfig, listed: Collection[str] | None = None):
        self.config, self.listed = config, listed
        documents = list(documents)
        self.redirects = {each["entity"]: each["redirect"] for each in documents if "redirect" in each}
        items = [each for each in documents if each.get("type") == "item"]
        properties = [each for each in documents if each.get("type") == "property"]
        self.datatypes = {each["id"]: each["datatype"] for each in sorted(properties, key=_revision)}
        self.superclasses = [(each["id"], above) for each in items for above in self._named(each, "P279")]
        self.labels: dict[str, str] = {}
        self.entities: dict[str, Document] = {}
        for each in sorted(items, key=_revision):
            if not self._is_kept(each) and (label := self._label(each) or self._title(each)):
                self.labels[each["id"]] = label
        for each in sorted(filter(self._is_kept, items), key=_revision):
            self.labels[each["id"]] = self._label(each) or self._title(each) or each["id"]
            self.entities[each["id"]] = each
        if config.classes:
            classes = self._with_subclasses(config.classes)
            self.entities = {
                name: each for name, each in self.entities.items() if classes.intersection(self._types(each))
            }

    def graph(self) -> PlainGraph:
        triples: dict[Triple, str] = {}
        qualifiers: dict[Triple, list[tuple[str, str]]] = {}
        for name, document in self.entities.items():
            for relation, target, rank, more in self._statements(document):
                triple = name, relation, target
                if triple not in triples or (rank == "preferred" != triples[triple]):
                    triples[triple], qualifiers[triple] = rank, more
        entities = set(self.entities)
        while True:
            ends = Counter(end for subject, _, target in triples for end in {subject, target})
            low = {name for name in entities if ends[name] < self.config.min_degree}
            if not low:
                break
            entities -= low
            triples = {triple: rank for triple, rank in triples.items() if not low.intersection(triple)}
        literals = {target for _, _, target in triples if ":" in target}
        return PlainGraph(entities | literals, triples, {triple: qualifiers[triple] for triple in triples})

    def _is_kept(self, document: Document) -> bool:
        title, mode = self._title(document), self.config.entities
        if self.listed is not None and document["id"] not in self.listed:
            return False
        if not (title if mode == "wikipedia" else title or self._label(document) or mode == "any"):
            return False
        return not set(self.config.drop_classes).intersection(self._named(document, "P31"))

    def _label(self, document: Document) -> str:
        labels = document.get("labels") or {}
        others = sorted(labels) if self.config.entities == "any" else []
        texts = [_clean(labels[language]["value"]) for language in self.config.languages + others if language in labels]
        return next(filter(None, texts), "")

    def _title(self, document: Document) -> str:
        return _clean((document.get("sitelinks") or {}).get(self.config.site, {}).get("title", ""))

    def _named(self, document: Document, relation: str) -> list[str]:
        snaks = [each["mainsnak"] for each in _best((document.get("claims") or {}).get(relation, []))]
        return [_item(snak) for snak in snaks if snak["snaktype"] == "value"]

    def _types(self, document: Document) -> list[str]:
        return [self._followed(name) for name in self._named(document, "P31")]

    def _followed(self, name: str) -> str:
        for _ in range(5):
            name = self.redirects.get(name, name)
        return name

    def _with_subclasses(self, wanted: Iterable[str]) -> set[str]:
        found = {self._followed(name) for name in wanted}
        while True:
            more = {self._followed(name) for name, above in self.superclasses if self._followed(above) in found}
            if more <= found:
                return found
            found |= more

    def _statements(self, document: Document) -> Iterator[tuple[str, str, str, list[tuple[str, str]]]]:
        for relation, statements in (document.get("claims") or {}).items():
            if self.config.relations and relation not in self.config.relations:
                continue
            for statement in _best(statements):
                target = self._target(statement["mainsnak"])
                if target is None or (target.startswith("Q") and target not in self.entities):
                    continue
                snaks = [snak for each in (statement.get("qualifiers") or {}).values() for snak in each]
                pairs = [(snak["property"], self._target(snak, qualifier=True)) for snak in snaks]
                yield relation, target, statement["rank"], [(name, value) for name, value in pairs if value]

    def _target(self, snak: dict[str, Any], qualifier: bool = False) -> str | None:
        """The id of what a snak says; None if it is dropped."""
        if snak["snaktype"] != "value":
            return None
        kind, value = snak["datavalue"]["type"], snak["datavalue"]["value"]
        untold = _INFERRED.get(kind) or self.datatypes.get(snak["property"], "string")
        datatype = snak.get("datatype", untold)
        if datatype == "wikibase-item":
            return self._followed(_item(snak))
        if datatype not in self.config.literals:
            return None
        try:
            if datatype == "time":
                return "date:" + date_text(value)
            if datatype == "globe-coordinate":
                return "coordinate:" + coordinate_text(value)
            if datatype == "monolingualtext":
                wanted = value["language"] in (*self.config.languages, "mul")
                return "string:" + plain_text(value["text"]) if wanted else None
            if datatype != "quantity":
                return "string:" + plain_text(value)
            text, unit = "quantity:" + quantity_text(value), unit_id(value)
        except ValueError:
            return None
        if unit == 0:
            return text
        name = self._followed(f"Q{unit}")
        if qualifier:
            return f"{text} {self.labels.get(name, name)}"
        return f"{text} {self.labels[name]}" if name in self.labels else None


def _revision(document: Document) -> int:
    return document.get("lastrevid", 0)


def _clean(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()


def _best(statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    preferred = [each for each in statements if each["rank"] == "preferred"]
    return preferred or [each for each in statements if each["rank"] == "normal"]


def _item(snak: dict[str, Any]) -> str:
    return f"Q{snak['datavalue']['value']['numeric-id']}"
