"""The project's errors, with those that only generation and training can raise."""

from __future__ import annotations

from kg.errors import BusyError, ConfigError, InputError, StorageError, SynthieError, storage_error

__all__ = [
    "AuthenticationError",
    "BudgetError",
    "BusyError",
    "ConfigError",
    "EndpointError",
    "IncompleteError",
    "InputError",
    "ModelNotFoundError",
    "QuotaError",
    "StorageError",
    "SynthieError",
    "storage_error",
]


class EndpointError(SynthieError):
    """The LLM endpoint cannot be used at all; going on would only repeat the failure."""


class AuthenticationError(EndpointError):
    """The endpoint refuses the key (401 or 403)."""


class ModelNotFoundError(EndpointError):
    """The endpoint does not know the model (404)."""


class QuotaError(EndpointError):
    """The account behind the key has no credit left."""


class BudgetError(SynthieError):
    """The next call could exceed the run's budget; everything paid for is stored."""


class IncompleteError(SynthieError):
    """Some requests failed for good; their reasons are in the failures file, the rest is stored."""
