"""Options of the sampler: pure data, no behaviour."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from kg.stage import Settings

__all__ = ["SamplingConfig"]


class SamplingConfig(Settings):
    """How triplet sets are drawn from the graph."""

    # What the files hold is an input of the stage, wherever they lie.
    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset(
        {"workers", "sizes_from", "relation_target_file", "relation_factors", "entity_factors", "continue_from"}
    )

    n_sets: int = Field(default=20_000, ge=1, description="Number of triplet sets to draw, all splits together.")
    sizes: Literal["poisson", "geometric", "uniform", "like"] = Field(
        default="poisson",
        description="How many triplets the sets have: a Poisson or geometric distribution truncated to "
        "min_size…max_size with the mean mean_size; each size as often; or like the data set in sizes_from. For one "
        "fixed size set min_size, max_size and mean_size to it.",
    )
    min_size: int = Field(default=1, ge=1, le=50, description="Fewest triplets in a set.")
    max_size: int = Field(default=6, ge=1, le=50, description="Most triplets in a set.")
    mean_size: float = Field(
        default=3.34, gt=0, description="Mean number of triplets in a set, where sizes are poisson or geometric."
    )
    sizes_from: str | None = Field(
        default=None,
        description="Data set in the SynthIE form (JSONL, plain or .gz, or Parquet, or a folder of Parquet files) "
        "whose sizes from min_size to max_size are taken, for sizes: like.",
    )

    entity_alpha: float = Field(
        default=12.0,
        ge=0,
        le=24,
        description="Coverage pressure on entities: weights are (1 + count)^-alpha, where counts beyond those that "
        "nearly all entities have reached, by more than one, make no difference. 0 ignores coverage.",
    )
    relation_alpha: float = Field(
        default=3.0,
        ge=0,
        le=8,
        description="Pressure of the relations towards their target: weights are (target / (1 + count))^alpha.",
    )
    relation_target: Literal["uniform", "proportional", "natural"] = Field(
        default="uniform",
        description="How often the relations shall occur: each as often, as often as in the graph, or as the walk "
        "meets them, without any pressure.",
    )
    relation_target_file: str | None = Field(
        default=None,
        description="Text file with a relation id and a share at the start of each line, instead of relation_target. "
        "Relations that it lacks are not drawn.",
    )
    relation_floor: int = Field(
        default=0,
        ge=0,
        description="Sets that each relation shall occur in at least; coverage.json says which cannot, and why.",
    )
    relation_factors: str | None = Field(
        default=None,
        description="Text file with a relation id and a factor at the start of each line: 2 makes it about twice as "
        "frequent, 0 keeps it out.",
    )
    entity_factors: str | None = Field(
        default=None, description="The same for entities: lines with an entity id and a factor."
    )

    relation_share: float = Field(
        default=0.45,
        ge=0,
        le=1,
        description="Share of sets that start from a rarely drawn relation; the others start from an entity.",
    )
    round_size: int | None = Field(
        default=None,
        ge=1,
        description="Sets per round; weights are frozen within a round. Empty: a 200th of n_sets, but 500 to 10,000.",
    )
    stay: float = Field(
        default=2.0,
        ge=0,
        le=1e6,
        description="Factor on the weight of the triplets of the entity that was extended last; 1 makes no difference.",
    )
    max_distance: int | None = Field(
        default=None,
        ge=1,
        description="Most steps from the start to any node of a set: 1 makes stars around the start. Empty: no limit.",
    )
    max_per_subject: int | None = Field(
        default=None, ge=1, description="Most triplets of a set with the same subject. Empty: no limit."
    )
    cycles: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description="Factor on the weight of a triplet both ends of which are in the set already. 0 avoids cycles.",
    )
    hub_degree: float | None = Field(
        default=8.0,
        ge=0,
        description="An entity that is the object of more triplets than this seldom leads on to its subjects: two "
        "persons are not coherent for sharing a country. Empty: it always does.",
    )
    inverses: bool = Field(
        default=False,
        description="Allow a triplet and its inverse, such as 'capital' and 'capital of', in one set. Pairs of inverse "
        "relations are found in the graph.",
    )
    exclude_relations: list[str] = Field(default=[], description="Ids of relations that no set shall have.")
    exclude_types: list[str] = Field(
        default=[], description="Ids of classes: entities that are an instance of one occur in no set."
    )

    validation_share: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the sets in the validation split, test sets of unseen things aside.",
    )
    test_share: float = Field(default=0.05, ge=0, lt=1, description="Share of the sets in the test split, likewise.")
    held_out: Literal["sets", "triplets", "entities"] = Field(
        default="sets",
        description="What of validation and test is new to training: the sets; also each of their triplets; or also "
        "the entity each set starts from and all its others but hubs. The last two are drawn first, and training "
        "keeps away from them.",
    )
    unseen_entities_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the sets in a split of their own, test_unseen_entities: the entity each starts from and "
        "all its others but hubs occur in no other split. They are drawn first, and all others keep away from them.",
    )
    unseen_combinations_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the combinations of two relations or more that training shall not have. Their sets are "
        "a split of their own, test_unseen_combinations; each of their relations occurs in training in other company.",
    )
    negative_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the sets that have no triplet but a topic: for texts that state nothing of the graph.",
    )
    continue_from: str | None = Field(
        default=None,
        description="Folder of sets drawn from the same graph before: n_sets more are drawn, different from those, to "
        "improve the coverage of all together.",
    )

    workers: int | None = Field(
        default=None, ge=1, description="Threads that draw. Empty: one per core. The sets do not depend on it."
    )

    @model_validator(mode="after")
    def _consistent(self) -> SamplingConfig:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size ({self.min_size}) is greater than max_size ({self.max_size})")
        if self.sizes in ("poisson", "geometric") and not self.min_size <= self.mean_size <= self.max_size:
            raise ValueError(
                f"mean_size ({self.mean_size}) does not lie between min_size ({self.min_size}) "
                f"and max_size ({self.max_size})"
            )
        if (self.sizes == "like") != (self.sizes_from is not None):
            raise ValueError("sizes: like and sizes_from belong together; set both or neither")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on")
        if self.held_out == "entities" and self.unseen_entities_share:
            raise ValueError("with held_out: entities the test split is one of unseen entities; unset the share")
        return self
