"""Every option of a run: pydantic models, pure data.

A run is described by one `RunConfig`, read from a YAML file by `load_config`
or assembled by Prefect's form. The defaults describe the demo: the bundled
sample, the built-in server, the extractor that trains on a CPU in minutes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from kg.config import GraphConfig
from kg.sampling.config import SamplingConfig
from kg.stage import Settings
from synthie.errors import ConfigError
from synthie.judging.config import JudgeConfig, JudgeModelConfig
from synthie.texts.config import BatchConfig, EndpointConfig, GenerationConfig, LocalServerConfig

__all__ = [
    "BatchConfig",
    "DatasetConfig",
    "EndpointConfig",
    "EvaluationConfig",
    "ExtractorConfig",
    "GenerationConfig",
    "GraphConfig",
    "JudgeConfig",
    "JudgeModelConfig",
    "LocalServerConfig",
    "PredictionConfig",
    "QualityConfig",
    "RunConfig",
    "RunnerConfig",
    "SamplingConfig",
    "describe_options",
    "load_config",
]


Check = Literal[
    "empty",
    "refusal",
    "markup",
    "truncated",
    "length",
    "language",
    "demonstration",
    "missing",
    "unlinked",
    "negated",
    "relation",
    "extra_link",
    "extra_name",
    "extra_number",
    "duplicate",
    "near_duplicate",
]
Action = Literal["reject", "repair", "flag"]


class QualityConfig(Settings):
    """What a text must fulfil to enter the data set."""

    action: Action = Field(
        default="reject",
        description="What becomes of a text with a fault, while there are 'generation.tries' left. reject: another is "
        "asked for, if at all, without a word about it; repair: it goes back to its writer with its faults, to be "
        "written anew; flag: it is accepted all the same, the faults beside it.",
    )
    actions: dict[Check, Action] = Field(
        default={},
        description="The same for single checks, such as {missing: repair, near_duplicate: flag}. A text with several "
        "faults is rejected if one of them says so, else repaired if one says so.",
    )

    min_words: int = Field(default=3, ge=1, description="Fewest words in a text.")
    max_words_per_triplet: int = Field(
        default=60, ge=5, description="Most words in a text, for each triplet it states."
    )
    check_entities: bool = Field(
        default=True,
        description="Every subject and object must be stated, those of one triplet in connection, not in the negative "
        "and not with the words of a rival relation.",
    )
    check_extra: bool = Field(
        default=True,
        description="No name, number or date may be stated that the triplets do not give, and no connection between "
        "nodes that they do not connect.",
    )
    near_duplicate: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Texts whose word shingles have at least this Jaccard similarity are near-duplicates.",
    )

    @property
    def repairs(self) -> bool:
        """Some faults are for the writer to mend."""
        return "repair" in (self.action, *self.actions.values())


class DatasetConfig(Settings):
    """How the accepted samples are published."""

    # What the earlier data set holds is an input of the stage, wherever it lies.
    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"continue_from"})

    name: str = Field(default="synthie-sample", description="Name of the data set on its card.")
    licence: str = Field(default="cc0-1.0", description="Licence identifier for the card's metadata.")
    judged_faulty: Literal["drop", "flag"] = Field(
        default="drop",
        description="What becomes of accepted texts that a deciding judge finds faulty: they are left out, or kept "
        "with the faults in the column 'faults'. A person's verdict goes before the judge's.",
    )
    withheld_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description='Share of the training records that get an entity "not in the world", of those that keep a '
        "triplet: all facts of the entity leave the label and go into the column 'withheld', while the text still "
        "states them.",
    )
    withheld_test: bool = Field(
        default=False,
        description="Publish the test records with an entity withheld as a split of their own, test_withheld.",
    )
    continue_from: str | None = Field(
        default=None,
        description="Folder of a data set made from the same graph before, to which the records of this run are "
        "added: its files stay as they are. Draw the sets with sampling.continue_from, so that they differ.",
    )


class ExtractorConfig(Settings):
    """The sequence-to-sequence model that learns text → triplets, and its training."""

    # How a training runs here; its results are the same but for rounding.
    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"device", "trackers", "compile", "gradient_checkpointing"})

    preset: Literal[
        "demo", "synthie-base-fe", "synthie-base-sc", "synthie-large-fe", "synthie-large-sc", "genie-base-fe"
    ] = Field(
        default="demo",
        description="Training preset: demo trains a small model from nothing on a CPU in minutes; the others are the "
        "paper's settings (fe: fully expanded, sc: subject-collapsed). genie is for a data set imported from REBEL.",
    )
    linearization: Literal["fully_expanded", "subject_collapsed"] | None = Field(
        default=None, description="How triplets are written as a target sequence. Empty: the preset's."
    )
    base_model: str | None = Field(
        default=None,
        description="Hub name or folder of the model to start from, such as google/flan-t5-base. Empty: the preset's.",
    )
    steps: int | None = Field(default=None, ge=1, description="Optimiser steps. Empty: the preset's.")
    batch_size: int | None = Field(
        default=None, ge=1, description="Sequences per device and forward pass. Empty: the preset's."
    )
    gradient_accumulation: int | None = Field(
        default=None, ge=1, description="Batches per optimiser step, over all devices. Empty: the preset's."
    )
    learning_rate: float | None = Field(default=None, gt=0, description="Peak learning rate. Empty: the preset's.")
    max_source_tokens: int | None = Field(
        default=None,
        ge=8,
        description="Most tokens in a text: training leaves longer ones out and counts them, prediction cuts them. "
        "Empty: the preset's.",
    )
    max_target_tokens: int | None = Field(
        default=None,
        ge=8,
        description="Most tokens in a target sequence; training leaves longer ones out and counts them. "
        "Empty: the preset's.",
    )
    triplet_order: Literal["mention", "statement"] | None = Field(
        default=None,
        description="Order of triplets in a target. mention: the paper's, by the first mention of the subject, then "
        "of the object. statement: as the text states them, which a small model learns sooner. Empty: the preset's.",
    )
    swapped_copies: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Copies of each training record with entities exchanged for others that stand in the same place of "
        "the same relation, which teaches a small model to copy. Empty: the preset's.",
    )
    precision: Literal["auto", "float32", "bf16"] | None = Field(
        default=None,
        description="Numbers that are multiplied; weights stay float32. auto: bf16 on a GPU that has it, else float32. "
        "Empty: the preset's.",
    )
    validate_every: int | None = Field(
        default=None, ge=1, description="Optimiser steps between two validations. Empty: the preset's."
    )
    validation_f1_records: int | None = Field(
        default=None,
        ge=0,
        description="Most validation records on which each validation also measures F1, by greedy constrained "
        "decoding. 0: loss only. Empty: the preset's.",
    )
    best_by: Literal["loss", "f1"] | None = Field(
        default=None, description="By what the best weights are told. Empty: the preset's."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Validations in a row without a new best after which training ends early. Empty: the preset's.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute the activations of each layer again for the gradients instead of keeping them: less "
        "memory, about a third more time.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the model with torch.compile, which takes minutes at first: for long runs on a GPU.",
    )
    trackers: list[str] | None = Field(
        default=None,
        description="Trackers that follow the training, by accelerate's names, such as [tensorboard, wandb]; what they "
        "write to disk is in the extractor's logs/. Empty: TensorBoard if it is installed. []: none.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train. auto: on a GPU if there is one."
    )


class DecodingRules(Settings):
    """What triplets of constrained outputs must obey beyond having names of the world."""

    max_triplets: int | None = Field(
        default=None, ge=1, description="Most triplets of a constrained output. Empty: as many as it has tokens for."
    )
    no_repeats: bool = Field(default=False, description="Let a constrained output state no triplet twice.")
    fitting_types: bool = Field(
        default=False,
        description="Let a constrained output join only what fits: relations that the graph has with a class of the "
        "subject, and objects of a class that it has with the relation.",
    )

    @property
    def any(self) -> bool:
        """Whether a rule holds."""
        return bool(self.max_triplets or self.no_repeats or self.fitting_types)


class PredictionConfig(DecodingRules):
    """How the trained extractor decodes the evaluated split."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"device"})

    split: Literal["validation", "test", "test_unseen_entities", "test_unseen_combinations", "test_withheld"] = Field(
        default="test", description="Split to predict. The last three are there where sampling or data set made them."
    )
    max_records: int | None = Field(default=500, ge=1, description="Most records to predict. Empty: all.")
    beams: int | None = Field(
        default=None, ge=1, le=100, description="Beams of the search; 1 is greedy. Empty: the preset's."
    )
    batch_size: int = Field(default=32, ge=1, description="Texts decoded together.")
    max_new_tokens: int = Field(default=256, ge=8, description="Longest output, in tokens.")
    length_penalty: float | None = Field(
        default=None, description="Exponent of the length in a beam's score. Empty: the preset's."
    )
    meant: Literal["lowest", "most_linked"] = Field(
        default="lowest",
        description="Which of several entities with the same written name is meant: the one with the lowest number, or "
        "the one with the most triples in the graph.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to decode. auto: on a GPU if there is one."
    )


class EvaluationConfig(Settings):
    """What the report computes."""

    # What the file holds is an input of the stage, wherever it lies.
    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"related_relations"})

    bootstrap: int = Field(default=50, ge=2, description="Bootstrap resamples for the confidence intervals.")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="Confidence of the intervals.")
    significance: int = Field(
        default=1000,
        ge=0,
        description="Resamples of the paired bootstrap that says whether two systems differ. 0: no such test.",
    )
    related_relations: str | None = Field(
        default=None,
        description="Text file with a relation and a parent of it (ids) at the start of each line: the report then "
        "also says what the scores are if a relation above or below the right one counts as right. Empty: the "
        "subproperties (P1647) of the graph, if it comes from a Wikidata dump that has some.",
    )
    weak_factor: float = Field(
        default=4.0,
        ge=1,
        le=1e6,
        description="Largest factor in weak_relations.txt and weak_entities.txt, the tables for "
        "sampling.relation_factors and sampling.entity_factors.",
    )


class RunnerConfig(Settings):
    """Where a flow reads the slices of a dump. The graph does not depend on it; the command line reads them itself."""

    kind: Literal["local", "threads", "processes", "dask", "ray"] = Field(
        default="local",
        description="local: processes of the stage's own, the fastest on one machine. The others make a task run of "
        "each slice: in threads or processes here, or on a Dask or Ray cluster. On this machine there are "
        "'kg.workers' of them.",
    )
    address: str | None = Field(
        default=None,
        description="Address of a running cluster (Dask: tcp://host:8786, Ray: ray://host:10001, or auto on one of its "
        "machines). Empty: a cluster on this machine, for as long as the slices are read.",
    )

    @model_validator(mode="after")
    def _address_of_a_cluster(self) -> RunnerConfig:
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise ValueError(f"'address' is for 'dask' and 'ray'; with kind '{self.kind}' leave it empty")
        return self


class RunConfig(Settings):
    """A whole run: one folder, one seed, one budget, and the options of every stage."""

    run: str = Field(default="data/runs/demo", description="Folder of the run.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    max_usd: float = Field(
        default=5.0, ge=0, description="Hard limit on what the run may cost, in US dollars, over all its restarts."
    )
    kg: GraphConfig = GraphConfig()
    sampling: SamplingConfig = SamplingConfig()
    generation: GenerationConfig = GenerationConfig()
    quality: QualityConfig = QualityConfig()
    judge: JudgeConfig = JudgeConfig()
    dataset: DatasetConfig = DatasetConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    prediction: PredictionConfig = PredictionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runner: RunnerConfig = RunnerConfig()

    @model_validator(mode="after")
    def _repairs_are_tries(self) -> RunConfig:
        if self.quality.repairs and self.generation.tries == 1:
            raise ValueError("'quality' asks for repairs, which are tries: set 'generation.tries' to 2 or more")
        return self


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's configuration.

    Args:
        path: YAML file with any of `RunConfig`'s fields; None for the defaults.
        overrides: ``section.field=value`` strings, values in YAML, applied last.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a field is unknown or invalid;
            the message names file, field and the nearest known field.
    """
    source = str(path) if path else "the command line"
    data = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, RunConfig, source)) from None


def describe_options(model: type[BaseModel] = RunConfig, section: str = "") -> str:
    """All options as Markdown tables, one a section: name, default, meaning (the source of docs/configuration.md)."""
    rows, sections = [], []
    for name, field in model.model_fields.items():
        inner, path = _model_in(field.annotation), f"{section}{name}"
        is_list = get_origin(field.annotation) is list
        if inner is not None:
            sections.append(describe_options(inner, f"{path}[]." if is_list else f"{path}."))
        if inner is None or is_list:
            value = field.get_default(call_default_factory=True)
            default = "(required)" if field.is_required() else f"`{json.dumps(value, ensure_ascii=False)}`"
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            rows.append(f"| `{path}` | {default} | {meaning} |")
    title = f"## {section.removesuffix('.')}" if section else "## the run"
    table = "\n".join(["| option | default | meaning |", "| --- | --- | --- |", *rows])
    return "\n\n".join([title, " ".join((model.__doc__ or "").split()), table, *sections])


def explain_validation(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One paragraph that names each wrong field of ``source`` and the mend."""
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known fields: {', '.join(known)}."
            lines.append(f"'{field}' is not a known field; {hint}")
        else:
            reason = item["msg"].removeprefix("Value error, ")
            lines.append(f"'{field}': {reason}; found {item['input']!r}.")
    return f"The configuration from {source} is not valid. " + " ".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of option names to values; found {type(data).__name__}.")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    name, separator, value = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"{override!r} is not of the form section.field=value, such as sampling.n_sets=1000.")
    *sections, field = name.strip().split(".")
    for section in sections:
        child = data.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{override!r}: '{section}' is a value, not a section.")
        data = child
    try:
        data[field] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML.") from error


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue  # the place in a list of models
        inner = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, one or a list of them; None for a plain value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
