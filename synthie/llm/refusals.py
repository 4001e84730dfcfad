"""What a response without an answer means for the request and for the run, and the words that say it.

`meaning_of` reads status and codes. The functions below it make the errors that end a run; each names the thing and
the mend. Calls and batches share them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

from synthie.errors import AuthenticationError, EndpointError, ModelNotFoundError, QuotaError
from synthie.llm.endpoint import Endpoint
from synthie.llm.protocol import error_of

__all__ = [
    "HOPELESS",
    "Meaning",
    "authentication_error",
    "hopeless_error",
    "line_of",
    "meaning_of",
    "not_found_error",
    "proxy_error",
    "quota_error",
    "reason_of",
    "told_of",
    "unexpected_error",
]

Meaning = Literal["again", "filtered", "too_long", "unfit", "key", "proxy", "credit", "missing", "unexpected"]

HOPELESS = 20  # requests that fail for good one after another before the run is stopped

_FAILS_THE_REQUEST = frozenset({400, 413, 422})
_TRY_AGAIN = frozenset({408, 409, 425, 429})
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_FILTERED = frozenset({"content_filter", "content_policy_violation"})
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})
_LONGEST_REASON = 500  # characters of an endpoint's message that are passed on


def meaning_of(status: int, codes: frozenset[str]) -> Meaning:
    """What a status other than 200, with the ``codes`` of its body, means.

    again: the same request may succeed later. filtered, too_long, unfit: this request will not, others may. The rest
    dooms every request: the key or the proxy's password is refused, there is no credit, the model or the path does
    not exist, or the status is none that such an endpoint gives.
    """
    if codes & _NO_CREDIT or status == 402:
        return "credit"
    if 400 <= status < 500 and codes & _FILTERED:
        return "filtered"
    if 400 <= status < 500 and codes & _TOO_LONG:
        return "too_long"
    if status in (401, 403):
        return "key"
    if status == 404 or "model_not_found" in codes:
        return "missing"
    if status in _TRY_AGAIN or status >= 500:
        return "again"
    if status in _FAILS_THE_REQUEST:
        return "unfit"
    return "proxy" if status == 407 else "unexpected"


def told_of(endpoint: Endpoint, status: int, raw: bytes) -> tuple[str, frozenset[str]]:
    """A status and its body in one line without secrets, for messages; and the codes in the body."""
    message, codes = error_of(raw)
    return line_of(endpoint, status, message), codes


def line_of(endpoint: Endpoint, status: int, message: str) -> str:
    """A status and its message in one line without secrets."""
    shown = " ".join(endpoint.redact(message).split())[:_LONGEST_REASON]
    return f"{status}: {shown}" if shown else str(status)


def reason_of(meaning: Meaning, told: str) -> str:
    """Why a request failed for good, for the failures file."""
    if meaning == "filtered":
        return f"the endpoint's content filter refuses the request ({told})"
    if meaning == "too_long":
        return (
            f"the request and its max_tokens are longer than the model takes ({told}); a shorter prompt, a smaller "
            "generation.max_tokens or a model with a longer context would help"
        )
    return told


def authentication_error(endpoint: Endpoint, told: str) -> AuthenticationError:
    """The endpoint refuses the key."""
    name = endpoint.key_env
    if endpoint.key_block:
        mend = f"Check the key in the block {endpoint.key_block!r}"
    elif endpoint.has_key:
        mend = f"Check the key in the environment variable {name} (or those that generation.headers name)"
    else:
        mend = f"No key was sent: put it in the environment variable {name or 'that generation.api_key_env names'}"
    return AuthenticationError(
        f"{endpoint.base_url} refuses access ({told}). {mend}, then run the same command again; "
        "what is stored is not asked for again."
    )


def proxy_error(endpoint: Endpoint, told: str) -> AuthenticationError:
    """The proxy refuses user or password."""
    return AuthenticationError(
        f"The proxy on the way to {endpoint.base_url} refuses access ({told}). Check user and password in "
        "generation.proxy (or HTTPS_PROXY), or add the host to NO_PROXY, then run the same command again."
    )


def quota_error(endpoint: Endpoint, told: str) -> QuotaError:
    """The account has no credit."""
    return QuotaError(
        f"The account at {endpoint.base_url} has no credit left ({told}). Add credit or raise the "
        "account's limit, then run the same command again; what is stored is not asked for again."
    )


def not_found_error(endpoint: Endpoint, told: str, known: Sequence[str] | None) -> EndpointError:
    """The model or the path does not exist; ``known``: the endpoint's models, None if it does not list them."""
    base_url, model = endpoint.base_url, endpoint.model
    if known is None:
        return ModelNotFoundError(
            f"{base_url} knows no model {model!r}, or there is no {_kind(endpoint)} endpoint at that URL ({told}). "
            "Check generation.model and generation.base_url (it usually ends in /v1)."
        )
    if model in known:
        return EndpointError(f"{endpoint.url} answers {told} although the model {model!r} exists there.")
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.4) or sorted(known)[:10]
    return ModelNotFoundError(
        f"{base_url} knows no model {model!r}. Set generation.model to one that it has, "
        f"such as: {', '.join(near) or '(it lists none)'}."
    )


def unexpected_error(endpoint: Endpoint, told: str) -> EndpointError:
    """A status that no such endpoint gives."""
    return EndpointError(
        f"{endpoint.url} answers {told}. It does not seem to be a {_kind(endpoint)} endpoint; "
        "check generation.base_url (it usually ends in /v1)."
    )


def hopeless_error(url: str, reason: str) -> EndpointError:
    """`HOPELESS` requests in a row failed for good, the last with ``reason``."""
    return EndpointError(
        f"{HOPELESS} requests in a row failed at {url}, the last with: {reason}. Mend what it says; "
        "generation.extra_body can add fields to the request or, set to null, take them away. Then run the "
        "same command again; what is stored is not asked for again."
    )


def _kind(endpoint: Endpoint) -> str:
    return "chat completions" if endpoint.api == "chat" else "Responses API"
