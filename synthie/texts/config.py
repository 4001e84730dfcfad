"""The options of the texts stage: which LLM writes the texts, with which prompt, how hard it is driven."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kg.stage import Settings

__all__ = ["BatchConfig", "EndpointConfig", "GenerationConfig", "LocalServerConfig"]


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
    judge_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Where the server judges: share of its verdicts that are turned, and of texts with a wrong extra.",
    )
    latency_s: float = Field(default=0.0, ge=0, le=60, description="Mean seconds before a response.")
    rate_429: float = Field(
        default=0.0, ge=0, lt=1, description="Share of calls answered with status 429 and Retry-After."
    )
    rate_500: float = Field(default=0.0, ge=0, lt=1, description="Share of calls answered with status 500.")
    requests_per_second: float | None = Field(
        default=None, gt=0, description="Calls per second above which the answer is 429. Empty: no limit."
    )

    def fingerprinted(self) -> dict[str, Any]:
        """Without what is later than the first answers and not used, so that stored answers stand."""
        settings = super().fingerprinted()
        if not self.judge_noise:
            del settings["judge_noise"]
        return settings


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
            "endpoints",  # by what they are: `synthie.texts.questions.endpoint_identity`
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
    alias_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the entities of a set that the prompt calls by one of their aliases, where they have "
        "any, for texts with more surface forms. Entities are drawn for each set.",
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

    @property
    def is_built_in(self) -> bool:
        """No endpoint is named: the built-in server writes the texts."""
        return self.base_url is None and not self.endpoints

    @classmethod
    def worded(cls, told: str) -> str:
        """A message of the engine, which names options of 'generation', with the names that these options have."""
        return told

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
