"""Where requests go: URL, headers, query, proxy and certificates of an OpenAI-compatible endpoint, with their secrets.

Secrets come from environment variables or a secret store when the endpoint is made, live here only, and are blotted
out of every text that `Endpoint.redact` is given, also in the escaped forms in which servers and libraries repeat them.
"""

from __future__ import annotations

import base64
import html
import os
import re
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from synthie.config import EndpointConfig, GenerationConfig
from synthie.errors import ConfigError
from synthie.llm.protocol import PATHS, Api

__all__ = ["Endpoint", "Secrets"]

Secrets = Callable[[str], str]  # name of a block to its secret; raises ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_CREDENTIAL = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
_PROXY = re.compile(r"(?P<scheme>https?://)(?:(?P<login>.*)@)?(?P<host>[^@]+)", re.IGNORECASE)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Endpoint:
    """Where requests go and what proves that they may.

    Attributes:
        base_url: URL without ``/chat/completions``.
        model: model name; its requests alone are sent there, with "" those of any model.
        headers: HTTP headers, secrets included.
        query: URL query parameters.
        secrets: values that must never be shown.
        key_env: name of the variable with the key, for messages.
        key_block: name of the block that the key was read from, likewise.
        proxy: URL of the HTTP proxy to go through, password included; None for none.
        ca_file: PEM file with the certificate authorities to trust; None for the system's.
        api: the protocol.
    """

    base_url: str
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    key_env: str = ""
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    api: Api = "chat"
    key_block: str = ""

    @classmethod
    def from_config(
        cls, config: GenerationConfig, number: int | None = None, secrets: Secrets | None = None
    ) -> Endpoint:
        """A configured endpoint, with the key and the variables in headers and proxy filled in.

        Args:
            config: which.
            number: of ``config.endpoints``; None for ``config.base_url``.
            secrets: reads ``config.api_key_block``; None where there is no secret store.

        Raises:
            ConfigError: a URL is malformed, a variable is not set, a credential is written out, the key's block
                cannot be read, or the certificates cannot.
        """
        one = EndpointConfig(base_url=config.base_url or "") if number is None else config.endpoints[number]
        base_url = _checked_url(one.base_url, "generation.base_url" if number is None else _path(number, "base_url"))
        query = config.query | one.query
        _check_query(query)
        found: list[str] = []
        headers = {name: _expand(name, value, found) for name, value in _merged(config.headers, one.headers).items()}
        key_env = one.api_key_env or config.api_key_env
        key_block = ""
        if not any(name.lower() in ("authorization", "api-key") for name in headers):
            key_block = config.api_key_block or "" if secrets and not one.api_key_env else ""
            key = secrets(key_block).strip() if secrets and key_block else _key(config, one, key_env)
            if key:
                headers["Authorization"] = f"Bearer {key}"
                found.append(key)
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(
                    f"The value for the HTTP header {name} holds characters that headers cannot carry, such as line "
                    "breaks or curly quotes. Check the environment variable or block that it comes from."
                )
        endpoint = cls(
            base_url,
            one.model or config.model,
            headers,
            query,
            key_env=key_env,
            proxy=_proxy(config.proxy, found) if config.proxy else _environment_proxy(base_url, found),
            ca_file=config.ca_file,
            api=config.api,
            key_block=key_block,
            secrets=tuple(dict.fromkeys(found)),
        )
        endpoint.ssl_context()  # a file that cannot be read shall be told before anything is paid
        return endpoint

    @staticmethod
    def identity(config: GenerationConfig) -> str:
        """What stands for the configured endpoint in the keys of stored answers: its URL, without credentials.

        Raises:
            ConfigError: the URL is malformed, or a query parameter looks like a credential.
        """
        _check_query(config.query)
        query = "&".join(f"{name}={value}" for name, value in sorted(config.query.items()))
        return f"{_checked_url(config.base_url or '', 'generation.base_url')}?{query}"

    @property
    def has_key(self) -> bool:
        """Whether a header that looks like a key is sent."""
        return any(_CREDENTIAL.search(name) for name in self.headers)

    @property
    def url(self) -> str:
        """Where requests are posted."""
        return self.base_url + PATHS[self.api]

    def ssl_context(self) -> ssl.SSLContext | None:
        """The certificate authorities to trust, None for the system's.

        Raises:
            ConfigError: ``ca_file`` cannot be read or holds no certificate.
        """
        if self.ca_file is None:
            return None
        path = Path(self.ca_file).expanduser()
        try:
            return ssl.create_default_context(cafile=path)
        except ssl.SSLError:
            reason = "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        raise ConfigError(f"Cannot use generation.ca_file {str(path)!r}: {reason}.")

    def redact(self, text: str) -> str:
        """``text`` without any secret, be it plain or escaped as in JSON, Python, HTML or a URL."""
        return self._pattern.sub("***", text) if self._pattern else text

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        secrets = sorted(filter(None, self.secrets), key=len, reverse=True)
        return re.compile("|".join("".join(map(_any_form, secret)) for secret in secrets)) if secrets else None


# --- Secrets --------------------------------------------------------------------------------------------------------


def _any_form(character: str) -> str:
    """A regular expression for a character and the forms that it takes in escaped text."""
    code = ord(character)
    in_url = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode())
    in_html = "|".join(map(re.escape, {html.escape(character), f"&#{code};", f"&#x{code:x};", f"&#x{code:X};"}))
    escaped = rf"\\+(?:u(?i:{code:04x})|x(?i:{code:02x}))"
    space = r"|\+" if character == " " else ""
    return rf"(?:\\*{re.escape(character)}|{escaped}|{in_url}|{in_html}{space})"


def _key(config: GenerationConfig, one: EndpointConfig, key_env: str) -> str:
    """The API key in the environment; empty if there is none, since some endpoints need none."""
    key = os.environ.get(key_env, "").strip() if key_env else ""
    if not key and config.api_key_block and not one.api_key_env:
        raise ConfigError(
            f"The key is in the block {config.api_key_block!r} (generation.api_key_block), which flow runs alone can "
            f"read. For this command put it in the environment variable {key_env or 'that api_key_env names'}."
        )
    return key


def _expand(name: str, value: str, secrets: list[str]) -> str:
    """A header's value with ``${VARIABLE}`` replaced; what was put in is added to ``secrets``."""
    if not _VARIABLE.search(value) and _CREDENTIAL.search(name):
        raise ConfigError(
            f"generation.headers holds a credential for {name} in clear. "
            "Put it in an environment variable and write ${THAT_VARIABLE} instead."
        )
    return _filled_in(value, f"generation.headers uses {{}} for {name}", secrets)


def _filled_in(template: str, told: str, secrets: list[str], form: Callable[[str], str] = str) -> str:
    """``template`` with ``${VARIABLE}`` replaced by ``form`` of its value, which is added to ``secrets``."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "").strip()
        if not found:
            raise ConfigError(f"{told.format(match[0])}, but that environment variable is not set.")
        secrets.append(found)
        return form(found)

    return _VARIABLE.sub(value, template)


# --- Proxies --------------------------------------------------------------------------------------------------------


def _proxy(template: str, secrets: list[str]) -> str:
    """The URL of ``generation.proxy``, with variables filled in."""
    told = "generation.proxy uses {}"
    template = template.strip()
    if _VARIABLE.fullmatch(template):
        return _checked_proxy(_filled_in(template, told, secrets), f"generation.proxy ({template})", secrets)
    parts = _PROXY.fullmatch(template)
    if parts is None:
        raise ConfigError("generation.proxy must be an http or https URL, such as http://proxy:3128.")
    login = parts["login"] or ""
    if ":" in login and not _VARIABLE.search(login.partition(":")[2]):
        raise ConfigError(
            "generation.proxy holds a password in clear. "
            "Put it in an environment variable and write http://user:${THAT_VARIABLE}@host:port."
        )
    login = _filled_in(login, told, secrets, lambda value: quote(value, safe=""))
    host = _filled_in(parts["host"], told, [])
    return _checked_proxy(parts["scheme"] + (f"{login}@" if login else "") + host, "generation.proxy", secrets)


def _environment_proxy(base_url: str, secrets: list[str]) -> str | None:
    """The proxy that HTTPS_PROXY and its kin give for the URL."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host in _LOOPBACK or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    kind = parts.scheme if parts.scheme in proxies else "all"
    if kind not in proxies:
        return None
    return _checked_proxy(proxies[kind], f"The environment variable {kind.upper()}_PROXY", secrets)


def _checked_proxy(url: str, where: str, secrets: list[str]) -> str:
    """``url`` if it is that of an HTTP proxy; its password in all its forms is added to ``secrets``."""
    url = url if "://" in url else f"http://{url}"
    parts = _split(url)
    if parts is None:
        raise ConfigError(f"{where} must hold an http or https URL, such as http://proxy:3128.")
    if parts.password:
        user, password = unquote(parts.username or ""), unquote(parts.password)
        secrets += [password, base64.b64encode(f"{user}:{password}".encode("latin-1", "replace")).decode()]
    return url


# --- URLs -----------------------------------------------------------------------------------------------------------


def _path(number: int, name: str) -> str:
    return f"generation.endpoints[{number}].{name}"


def _merged(common: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Headers, whose names do not depend on case: ``own`` take the place of ``common``."""
    names = {name.lower() for name in own}
    return {name: value for name, value in common.items() if name.lower() not in names} | dict(own)


def _check_query(query: Mapping[str, str]) -> None:
    for name in query:
        if _CREDENTIAL.search(name):
            raise ConfigError(
                f"generation.query holds {name!r}, which looks like a credential and would be written into "
                "manifests. Send it in generation.headers, as ${THE_VARIABLE_THAT_HOLDS_IT}."
            )


def _checked_url(base_url: str, where: str) -> str:
    url = base_url.strip().rstrip("/")
    for path in PATHS.values():
        url = url.removesuffix(path)
    parts = _split(url)
    if parts is None:
        found = "something with a password or parameters" if set("@?") & set(base_url) else repr(base_url)
        raise ConfigError(f"{where} must be an http or https URL, such as https://api.openai.com/v1; found {found}.")
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"{where} must not hold a password or query parameters: it is written into manifests. "
            "Use generation.headers with ${VARIABLE} for credentials and generation.query for parameters."
        )
    return url


def _split(url: str) -> SplitResult | None:
    """Parts of an http or https URL, None for anything else."""
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if is_sound else None
