"""Options of the knowledge-graph stages: pure data, no behaviour.

The descriptions are the form that Prefect's UI shows and the table that
``docs/configuration.md`` prints; units and defaults belong in them.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kg.stage import Settings

__all__ = ["GraphConfig", "SamplingConfig"]

LiteralDatatype = Literal["time", "quantity", "globe-coordinate", "monolingualtext", "string"]


class GraphConfig(Settings):
    """Which part of a Wikidata dump becomes the knowledge graph."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"dump"})

    dump: str = Field(
        default="data/sample/wikidata.json.gz",
        description="Wikidata JSON dump (.json, .json.gz, .json.bz2 or .json.zst): a path or an fsspec URL.",
    )
    relations: list[str] = Field(
        default=[],
        description="Ids of the relations to keep (P17, P36, …). Empty: all relations with a kept datatype.",
    )
    relations_file: str | None = Field(
        default=None,
        description="Text file with one relation id at the start of each line; added to 'relations'.",
    )
    entities: Literal["wikipedia", "labelled"] = Field(
        default="wikipedia",
        description="Keep the entities with an article in the language's Wikipedia, or all that have a label.",
    )
    language: str = Field(
        default="en", description="Language of names, labels, descriptions and aliases.", pattern=r"^[a-z-]{2,15}$"
    )
    drop_classes: list[str] = Field(
        default=["Q4167410", "Q13406463", "Q17442446", "Q4167836"],
        description="Entities whose best-ranked 'instance of' (P31) is one of these are dropped: "
        "disambiguation pages, lists, internal items, categories.",
    )
    literals: list[LiteralDatatype] = Field(
        default=["time", "quantity", "globe-coordinate"],
        description="Datatypes of literal values to keep as nodes beside the entities.",
    )
    max_bad_lines: int = Field(
        default=1000,
        ge=0,
        description="Undecodable lines are set aside and counted; with more than this many the stage fails.",
    )

    @field_validator("relations")
    @classmethod
    def _relation_ids(cls, value: list[str]) -> list[str]:
        return [_checked_id(relation, "P", "a Wikidata property id such as P17") for relation in value]

    @field_validator("drop_classes")
    @classmethod
    def _class_ids(cls, value: list[str]) -> list[str]:
        return [_checked_id(item, "Q", "a Wikidata item id such as Q4167410") for item in value]


def _checked_id(identifier: str, letter: str, kind: str) -> str:
    if re.fullmatch(rf"{letter}[1-9]\d{{0,8}}", identifier):
        return identifier
    likely = re.fullmatch(r"\W*[PpQq]?0*([1-9]\d{0,8})\W*", identifier)
    raise ValueError(f"{identifier!r} is not {kind}" + (f"; did you mean {letter}{likely[1]}?" if likely else ""))


class SamplingConfig(Settings):
    """How triplet sets are drawn from the graph."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"workers"})

    n_sets: int = Field(default=20_000, ge=1, description="Number of triplet sets to draw, all splits together.")
    min_size: int = Field(default=1, ge=1, le=50, description="Fewest triplets in a set.")
    max_size: int = Field(default=6, ge=1, le=50, description="Most triplets in a set.")
    mean_size: float = Field(
        default=3.34,
        gt=0,
        description="Mean number of triplets in a set. Sizes follow a Poisson distribution truncated to "
        "min_size…max_size, its rate chosen to give this mean.",
    )
    alpha: float = Field(
        default=1.0,
        ge=0,
        le=4,
        description="Coverage pressure: weights are (1 + count)^-alpha. 0 ignores coverage.",
    )
    relation_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of sets that start from a rarely drawn relation; the others start from an entity.",
    )
    round_size: int = Field(default=1_000, ge=1, description="Sets per round; weights are frozen within a round.")
    stay: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="Probability that the next triplet extends the entity extended last instead of any visited one.",
    )
    validation_share: float = Field(default=0.05, ge=0, lt=1, description="Share of the sets in the validation split.")
    test_share: float = Field(default=0.05, ge=0, lt=1, description="Share of the sets in the test split.")

    workers: int | None = Field(
        default=None, ge=1, description="Threads that draw. Empty: one per core. The sets do not depend on it."
    )

    @model_validator(mode="after")
    def _consistent(self) -> SamplingConfig:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size ({self.min_size}) is greater than max_size ({self.max_size})")
        if not self.min_size <= self.mean_size <= self.max_size:
            raise ValueError(
                f"mean_size ({self.mean_size}) does not lie between min_size ({self.min_size}) "
                f"and max_size ({self.max_size})"
            )
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on")
        return self
