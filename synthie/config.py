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
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from kg.config import GraphConfig
from kg.sampling.config import SamplingConfig
from kg.stage import Settings
from synthie.errors import ConfigError

__all__ = [
    "DatasetConfig",
    "EvaluationConfig",
    "ExtractorConfig",
    "GenerationConfig",
    "GraphConfig",
    "LocalServerConfig",
    "PredictionConfig",
    "QualityConfig",
    "RunConfig",
    "RunnerConfig",
    "SamplingConfig",
    "describe_options",
    "load_config",
]


class LocalServerConfig(Settings):
    """The built-in OpenAI-compatible server, used when no endpoint is configured."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset(
        {"latency_s", "rate_429", "rate_500", "requests_per_second"}
    )

    unfaithful: float = Field(
        default=0.04,
        ge=0,
        le=1,
        description="Share of texts with a dropped, swapped, invented or changed fact, for the checks to catch.",
    )
    truncated: float = Field(default=0.0, ge=0, le=1, description="Share of texts cut off with finish_reason 'length'.")
    latency_s: float = Field(default=0.0, ge=0, le=60, description="Mean seconds before a response.")
    rate_429: float = Field(
        default=0.0, ge=0, lt=1, description="Share of calls answered with status 429 and Retry-After."
    )
    rate_500: float = Field(default=0.0, ge=0, lt=1, description="Share of calls answered with status 500.")
    requests_per_second: float | None = Field(
        default=None, gt=0, description="Calls per second above which the answer is 429. Empty: no limit."
    )


class GenerationConfig(Settings):
    """Which LLM writes the texts, with which prompt, how hard it is driven."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_env",
            "concurrency",
            "headers",
            "max_attempts",
            "requests_per_minute",
            "timeout_s",
            "tokens_per_minute",
        }
    )

    base_url: str | None = Field(
        default=None,
        description="Base URL of an OpenAI-compatible endpoint, such as https://api.openai.com/v1. "
        "Empty: the built-in server, started and stopped by the run.",
    )
    model: str = Field(default="synthie-rules", description="Model name, as the endpoint knows it.")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="Environment variable that holds the key. The key itself is never stored."
    )
    headers: dict[str, str] = Field(
        default={}, description="Further HTTP headers. Values may name a variable: ${AZURE_KEY}."
    )
    query: dict[str, str] = Field(default={}, description="Further URL query parameters (Azure: api-version).")
    prompt: str = Field(
        default="few-shot/1", description="Prompt template under prompts/, as name/version, or a path to a YAML file."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="Sampling temperature. Empty: the prompt's own."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Most tokens in a response. Empty: the prompt's own."
    )
    extra_body: dict[str, Any] = Field(
        default={},
        description="Further fields of the request body, passed on as they are; null takes a field away "
        "({max_tokens: null, max_completion_tokens: 2000}).",
    )
    input_usd_per_million: float | None = Field(
        default=None,
        ge=0,
        description="USD per million input tokens. Empty: the price table; needed for models it lacks.",
    )
    output_usd_per_million: float | None = Field(
        default=None,
        ge=0,
        description="USD per million output tokens. Empty: the price table; needed for models it lacks.",
    )
    concurrency: int = Field(default=32, ge=1, le=2_000, description="Most calls in flight.")
    max_attempts: int = Field(
        default=8, ge=1, le=50, description="Tries of one call before it counts as failed; waits for 429 do not count."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds until one try is given up.")
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Limit on requests per minute. Empty: only what the endpoint enforces."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Limit on tokens per minute. Empty: only what the endpoint enforces."
    )
    max_failed_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the texts that may fail for good without failing the stage; running again asks for them.",
    )
    local: LocalServerConfig = Field(default=LocalServerConfig(), description="Switches of the built-in server.")

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_request_intact(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        fixed = sorted({"messages", "model", "n", "stream"} & extra_body.keys())
        if fixed:
            raise ValueError(f"extra_body must not set {', '.join(fixed)}: one text is asked for in one piece")
        return extra_body


class QualityConfig(Settings):
    """What a text must fulfil to enter the data set."""

    min_words: int = Field(default=3, ge=1, description="Fewest words in a text.")
    max_words_per_triplet: int = Field(
        default=60, ge=5, description="Most words in a text, for each triplet it states."
    )
    check_entities: bool = Field(
        default=True, description="Every subject and object must be stated, and those of one triplet in connection."
    )
    check_extra: bool = Field(
        default=True, description="No name, number or date may be stated that the triplets do not give."
    )
    near_duplicate: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Texts whose word shingles have at least this Jaccard similarity are near-duplicates.",
    )


class DatasetConfig(Settings):
    """How the accepted samples are published."""

    name: str = Field(default="synthie-sample", description="Name of the data set on its card.")
    licence: str = Field(default="cc0-1.0", description="Licence identifier for the card's metadata.")


class ExtractorConfig(Settings):
    """The sequence-to-sequence model that learns text → triplets, and its training."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"device"})

    preset: Literal["demo", "synthie-base-fe", "synthie-base-sc", "synthie-large-fe", "genie-base-fe"] = Field(
        default="demo",
        description="Training preset: demo trains a small model from nothing on a CPU in minutes; the others are the "
        "paper's settings.",
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
        default=None, ge=1, description="Sequences per device and step. Empty: the preset's."
    )
    gradient_accumulation: int | None = Field(
        default=None, ge=1, description="Batches per optimiser step. Empty: the preset's."
    )
    learning_rate: float | None = Field(default=None, gt=0, description="Peak learning rate. Empty: the preset's.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train. auto: on a GPU if there is one."
    )


class PredictionConfig(Settings):
    """How the trained extractor decodes the evaluated split."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"device"})

    split: Literal["validation", "test"] = Field(default="test", description="Split to predict.")
    max_records: int | None = Field(default=500, ge=1, description="Most records to predict. Empty: all.")
    beams: int | None = Field(
        default=None, ge=1, le=100, description="Beams of the search; 1 is greedy. Empty: the preset's."
    )
    batch_size: int = Field(default=32, ge=1, description="Texts decoded together.")
    max_new_tokens: int = Field(default=256, ge=8, description="Longest output, in tokens.")
    length_penalty: float | None = Field(
        default=None, description="Exponent of the length in a beam's score. Empty: the preset's."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to decode. auto: on a GPU if there is one."
    )


class EvaluationConfig(Settings):
    """What the report computes."""

    bootstrap: int = Field(default=50, ge=2, description="Bootstrap resamples for the confidence intervals.")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="Confidence of the intervals.")


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
    dataset: DatasetConfig = DatasetConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    prediction: PredictionConfig = PredictionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runner: RunnerConfig = RunnerConfig()


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
        annotation, path = field.annotation, f"{section}{name}"
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            sections.append(describe_options(annotation, f"{path}."))
        else:
            default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            rows.append(f"| `{path}` | `{default}` | {meaning} |")
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
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
