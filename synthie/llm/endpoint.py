"""Where requests go: base URL, headers and query of an OpenAI-compatible endpoint, with the secrets they hold.

Secrets come from environment variables when the endpoint is made, live here only, and are blotted out of every text
that `Endpoint.redact` is given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from synthie.config import GenerationConfig
from synthie.errors import ConfigError

__all__ = ["Endpoint"]

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_CREDENTIAL = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoint:
    """Where requests go and what proves that they may.

    Attributes:
        base_url: URL without ``/chat/completions``.
        model: model name, for messages.
        headers: HTTP headers, secrets included.
        query: URL query parameters.
        secrets: values that must never be shown.
        key_env: name of the variable with the key, for messages.
    """

    base_url: str
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    key_env: str = ""

    @classmethod
    def from_config(cls, config: GenerationConfig) -> Endpoint:
        """The configured endpoint, with the key and the variables in headers taken from the environment.

        Raises:
            ConfigError: the URL is malformed, a variable is not set, or a credential is written out.
        """
        base_url = _checked_url(config.base_url or "")
        secrets: list[str] = []
        headers = {name: _expand(name, value, secrets) for name, value in config.headers.items()}
        key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
        if key and not any(name.lower() in ("authorization", "api-key") for name in headers):
            headers["Authorization"] = f"Bearer {key}"
            secrets.append(key)
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(
                    f"The value for the HTTP header {name} holds characters that headers cannot carry, such as line "
                    "breaks or curly quotes. Check the environment variable that it comes from."
                )
        return cls(base_url, config.model, headers, dict(config.query), tuple(secrets), config.api_key_env)

    @staticmethod
    def identity(config: GenerationConfig) -> str:
        """What stands for the configured endpoint in the keys of stored answers: its URL, without credentials.

        Raises:
            ConfigError: the URL is malformed, or a query parameter looks like a credential.
        """
        for name in config.query:
            if _CREDENTIAL.search(name):
                raise ConfigError(
                    f"generation.query holds {name!r}, which looks like a credential and would be written into "
                    "manifests. Send it in generation.headers, as ${THE_VARIABLE_THAT_HOLDS_IT}."
                )
        query = "&".join(f"{name}={value}" for name, value in sorted(config.query.items()))
        return f"{_checked_url(config.base_url or '')}?{query}"

    def redact(self, text: str) -> str:
        """``text`` without any secret."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def _checked_url(base_url: str) -> str:
    url = base_url.strip().rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_sound = False
    if not is_sound:
        raise ConfigError(
            f"generation.base_url must be an http or https URL, such as https://api.openai.com/v1; found {base_url!r}."
        )
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            "generation.base_url must not hold a password or query parameters: it is written into manifests. "
            "Use generation.headers with ${VARIABLE} for credentials and generation.query for parameters."
        )
    return url


def _expand(name: str, value: str, secrets: list[str]) -> str:
    """A header's value with ``${VARIABLE}`` replaced; what was put in is added to ``secrets``."""
    variables = _VARIABLE.findall(value)
    if not variables and _CREDENTIAL.search(name):
        raise ConfigError(
            f"generation.headers holds a credential for {name} in clear. "
            "Put it in an environment variable and write ${THAT_VARIABLE} instead."
        )
    for variable in variables:
        if not os.environ.get(variable, "").strip():
            raise ConfigError(
                f"generation.headers uses ${{{variable}}} for {name}, but that environment variable is not set."
            )
        secrets.append(os.environ[variable].strip())
    return _VARIABLE.sub(lambda match: os.environ[match[1]].strip(), value)
