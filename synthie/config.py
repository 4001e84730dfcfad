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
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from kg.config import GraphConfig
from kg.sampling.config import SamplingConfig
from kg.stage import Settings
from synthie.errors import ConfigError

__all__ = [
    "BatchConfig",
    "DatasetConfig",
    "EndpointConfig",
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


class EndpointConfig(Settings):
    """One of several endpoints that share the work, such as replicas of one model or different models."""

    base_url: str = Field(description="Base URL of an OpenAI-compatible endpoint, such as http://10.0.0.7:8000/v1.")
    model: str | None = Field(default=None, description="Model name there. Empty: 'generation.model'.")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="Share of the work beside the other endpoints: of the calls among endpoints with the same model, "
        "of the texts among models (there the weights of a model's endpoints count together).",
    )
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the key. Empty: 'generation.api_key_env'."
    )
    headers: dict[str, str] = Field(
        default={}, description="HTTP headers beside 'generation.headers'. Values may name a variable: ${AZURE_KEY}."
    )
    query: dict[str, str] = Field(default={}, description="URL query parameters beside 'generation.query'.")
    concurrency: int | None = Field(
        default=None, ge=1, le=2_000, description="Most calls in flight there. Empty: 'generation.concurrency'."
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Limit on requests per minute there. Empty: 'generation.requests_per_minute'."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Limit on tokens per minute there. Empty: 'generation.tokens_per_minute'."
    )
    input_usd_per_million: float | None = Field(
        default=None, ge=0, description="USD per million input tokens. Empty: 'generation''s, else the price table."
    )
    cached_input_usd_per_million: float | None = Field(
        default=None, ge=0, description="USD per million cached input tokens. Empty: likewise."
    )
    output_usd_per_million: float | None = Field(
        default=None, ge=0, description="USD per million output tokens. Empty: likewise."
    )


class BatchConfig(Settings):
    """How the Batch API is used (generation.mode: batch)."""

    max_requests: int = Field(default=50_000, ge=1, le=50_000, description="Most requests in one batch.")
    poll_s: float = Field(
        default=60.0, gt=0, le=3_600, description="Most seconds between two looks at a batch; it begins with fewer."
    )
    max_batches: int = Field(default=4, ge=1, le=100, description="Most batches under way at one time.")


class GenerationConfig(Settings):
    """Which LLM writes the texts, with which prompt, how hard it is driven."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_block",
            "api_key_env",
            "batch",
            "ca_file",
            "concurrency",
            "endpoints",  # by what they are: `synthie.questions.endpoint_identity`
            "global_limit",
            "headers",
            "max_attempts",
            "mode",
            "proxy",
            "requests_per_minute",
            "retry_failed",
            "run_timeout_s",
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
    endpoints: list[EndpointConfig] = Field(
        default=[],
        description="Several endpoints that share the work, instead of 'base_url'. Those with the same model are taken "
        "for replicas: a text that one of them wrote is not asked of another, also when one is added or taken away.",
    )
    api: Literal["chat", "responses"] = Field(
        default="chat", description="Protocol: chat completions, which every server speaks, or OpenAI's Responses API."
    )
    mode: Literal["live", "batch"] = Field(
        default="live",
        description="live: one call a text, answered at once. batch: the Batch API, answered within a day at a "
        "discount. Both fill the same journal, so a run may change from one to the other.",
    )
    batch: BatchConfig = Field(default=BatchConfig(), description="How the Batch API is used.")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="Environment variable that holds the key. The key itself is never stored."
    )
    api_key_block: str | None = Field(
        default=None,
        description="Name of a Prefect Secret block with the key; for flow runs. Empty: the environment variable.",
    )
    headers: dict[str, str] = Field(
        default={},
        description="Further HTTP headers, such as OpenAI-Organization. Values may name a variable: ${AZURE_KEY}.",
    )
    query: dict[str, str] = Field(default={}, description="Further URL query parameters (Azure: api-version).")
    proxy: str | None = Field(
        default=None,
        description="URL of an HTTP proxy; may name a variable: http://me:${PROXY_PASSWORD}@proxy:3128. "
        "Empty: HTTPS_PROXY and its kin, loopback excepted.",
    )
    ca_file: str | None = Field(
        default=None, description="PEM file with the certificate authorities to trust. Empty: the system's."
    )
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
    n_texts: int | None = Field(
        default=None,
        ge=1,
        description="Exactly this many accepted texts: the sets beyond them are a reserve, asked for only as far as "
        "texts are rejected or fail. Empty: a text for every set.",
    )
    tries: int = Field(
        default=1,
        ge=1,
        le=10,
        description="Texts that a set may be asked for, one after the other, until one is accepted.",
    )
    truncated: Literal["longer", "again", "reject"] = Field(
        default="longer",
        description="A text cut off at max_tokens, while there are 'tries' left: ask for it with twice the tokens, "
        "ask for another as for any rejected text, or let it be.",
    )
    input_usd_per_million: float | None = Field(
        default=None,
        ge=0,
        description="USD per million input tokens. Empty: the price table; needed for models it lacks.",
    )
    cached_input_usd_per_million: float | None = Field(
        default=None,
        ge=0,
        description="USD per million cached input tokens. Empty: the price table; without one there, the input's.",
    )
    output_usd_per_million: float | None = Field(
        default=None,
        ge=0,
        description="USD per million output tokens. Empty: the price table; needed for models it lacks.",
    )
    batch_discount: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the price that the Batch API saves. Empty: the price table; needed for models it lacks.",
    )
    concurrency: int = Field(default=32, ge=1, le=2_000, description="Most calls in flight at one endpoint.")
    max_attempts: int = Field(
        default=8, ge=1, le=50, description="Tries of one call before it counts as failed; waits for 429 do not count."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds until one try is given up.")
    run_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds until the stage stops asking; the same run goes on from there. Empty: no limit.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Limit on requests per minute. Empty: what the endpoint tells or enforces."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Limit on tokens per minute. Empty: what the endpoint tells or enforces."
    )
    global_limit: str | None = Field(
        default=None,
        description="Name of a Prefect global concurrency limit with slot decay that all runs on all machines share, "
        "a slot a request; for flow runs.",
    )
    max_failed_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the texts that may fail for good (with 'n_texts': that may be missing) without failing "
        "the stage.",
    )
    retry_failed: bool = Field(
        default=False,
        description="Ask again also for texts that the endpoint refused for good (400, content filter, too long).",
    )
    local: LocalServerConfig = Field(default=LocalServerConfig(), description="Switches of the built-in server.")

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_request_intact(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        fixed = sorted({"input", "messages", "model", "n", "stream"} & extra_body.keys())
        if fixed:
            raise ValueError(f"extra_body must not set {', '.join(fixed)}: one text is asked for in one piece")
        return extra_body

    @model_validator(mode="after")
    def _one_way_to_name_endpoints(self) -> GenerationConfig:
        if self.endpoints and self.base_url is not None:
            raise ValueError("'endpoints' takes the place of 'base_url'; set one of them")
        if self.mode == "batch" and len(self.endpoints) > 1:
            raise ValueError("the Batch API is used at one endpoint; name it in 'base_url'")
        return self


class QualityConfig(Settings):
    """What a text must fulfil to enter the data set."""

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
