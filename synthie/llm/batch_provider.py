"""The Batch API of one endpoint, by the official client: files up and down, batches created, found, looked at.

Each call is repeated where that can help, with pauses; what repeating cannot help becomes one of the project's errors.
A batch is created with a token in its metadata: after a failure that leaves it open whether the batch was created,
it is looked for before it is created again.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from synthie.errors import EndpointError
from synthie.llm.endpoint import Endpoint
from synthie.llm.protocol import PATHS, retry_after
from synthie.llm.refusals import authentication_error, meaning_of, proxy_error, quota_error, told_of

__all__ = ["ENDED", "News", "Provider"]

log = logging.getLogger(__name__)

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})  # statuses after which nothing comes any more

_TRIES = 8
_FIRST_TRIES = 4  # while nothing has ever answered
_SHOWN_ERRORS = 3  # of a batch
_SHOWN = 80  # characters of an answer that is none
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_TIMEOUT_S = 120.0  # without a byte
_CONNECT_S = 10.0
_SILENT_S = 3_600.0  # how long nobody may answer about batches under way
_CLOCKS_DIFFER_S = 3_600.0
_PAGE = 100
_NOT_LET_IN = ("401", "403", "407")  # what a proxy says first when it refuses the password
_TOKEN = "synthie"  # the metadata's field that holds a batch's token
_BLOCK_BYTES = 1 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class News:
    """What the endpoint tells of a batch.

    Attributes:
        id: the endpoint's name of it.
        status: validating, in_progress, finalizing, cancelling, or one of `ENDED`.
        output_file_id, error_file_id: its results, None if there are none yet.
        completed, failed, total: numbers of its lines.
        codes: of the errors for which it failed.
        reason: those errors in words.
    """

    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    completed: int = 0
    failed: int = 0
    total: int = 0
    codes: frozenset[str] = frozenset()
    reason: str = ""


class Provider:
    """An endpoint's files and batches. Use as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        import openai

        self._endpoint = endpoint
        self._openai = openai
        self._heard = time.monotonic()
        self._was_reached = False
        given = {name.lower() for name in endpoint.headers}
        own = [name for name in ("Authorization", "OpenAI-Organization", "OpenAI-Project") if name.lower() not in given]

        def take_out(request: Any) -> None:
            """What the environment says of keys and organisations is in the endpoint already, as far as it counts."""
            for name in own:
                request.headers.pop(name, None)

        self._client = openai.OpenAI(
            base_url=endpoint.base_url,
            api_key="in the headers, if there is one",
            default_headers={"User-Agent": "synthie", **endpoint.headers},
            default_query=dict(endpoint.query),
            max_retries=0,
            timeout=openai.Timeout(_TIMEOUT_S, connect=_CONNECT_S),
            http_client=openai.DefaultHttpxClient(
                proxy=endpoint.proxy,
                verify=endpoint.ssl_context() or True,
                trust_env=False,
                event_hooks={"request": [take_out]},
            ),
        )

    def __enter__(self) -> Provider:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def path(self) -> str:
        """Where a batch's requests go."""
        return "/v1" + PATHS[self._endpoint.api]

    def upload(self, path: Path, name: str) -> str:
        """Upload a file of requests; returns its id."""

        def upload() -> str:
            with path.open("rb") as file:
                uploaded = self._client.files.create(file=(name, file, "application/jsonl"), purpose="batch")
            return self._checked(uploaded, "id").id

        return self._call(upload)

    def create(self, file_id: str, token: str) -> News:
        """Create the batch with ``token``; there will not be two of it."""

        def create() -> News:
            endpoint: Any = self.path
            batch = self._client.batches.create(
                input_file_id=file_id, endpoint=endpoint, completion_window="24h", metadata={_TOKEN: token}
            )
            return self._news(batch)

        return self._call(create, lambda: self.find(token, time.time()))

    def find(self, token: str, since: float) -> News | None:
        """The batch with ``token`` among those created after ``since`` (seconds since the epoch), None if none is."""

        def find() -> News | None:
            older = 0  # in a row; the newest come first, if not everywhere in exact order
            for batch in self._page(self._client.batches.list(limit=_PAGE)):
                if (batch.metadata or {}).get(_TOKEN) == token:
                    return self._news(batch)
                older = older + 1 if batch.created_at < since - _CLOCKS_DIFFER_S else 0
                if older == _PAGE:
                    break
            return None

        return self._call(find)

    def look(self, batch_id: str) -> News | None:
        """How a batch is doing; None if nobody answers for now.

        Raises:
            EndpointError: nobody has answered for long, or the endpoint does not know the batch.
        """
        outcome = self._try(lambda: self._news(self._client.batches.retrieve(batch_id)), self._no_batch(batch_id))
        if isinstance(outcome, News):
            return outcome
        if time.monotonic() - self._heard > _SILENT_S:
            raise self._silence(outcome.reason)
        log.warning("no news of batch %s: %s; looking again later", batch_id, outcome.reason)
        return None

    def download(self, file_id: str, path: Path) -> None:
        """Save a file of results.

        Raises:
            EndpointError: also where the endpoint has it no more.
        """

        def download() -> None:
            with (
                self._client.files.with_streaming_response.content(file_id) as response,
                path.open("wb") as file,
            ):
                for block in response.iter_bytes(_BLOCK_BYTES):
                    file.write(block)
            with path.open("rb") as file:
                start = file.read(_BLOCK_BYTES).lstrip()
            if start and not start.startswith(b"{"):  # such as the page of a proxy
                raise self._odd(start.decode(errors="replace"))

        self._call(
            download,
            missing=lambda told: EndpointError(
                f"{self._endpoint.base_url} has the results {file_id} no more ({told}). Use the key, organisation and "
                f"project that created them; or remove the folder {path.parent}, then its requests are asked, and "
                "paid, again."
            ),
        )

    def cancel(self, batch_id: str) -> bool:
        """Ask for a batch to be cancelled; False if it has ended already.

        Raises:
            EndpointError: also where the endpoint does not know the batch.
        """

        def cancel() -> bool:
            try:
                self._client.batches.cancel(batch_id)
            except (self._openai.ConflictError, self._openai.BadRequestError):
                return False
            return True

        return self._call(cancel, missing=self._no_batch(batch_id))

    def models(self) -> list[str] | None:
        """Names of the endpoint's models, None if it does not list them."""
        try:
            return [model.id for model in self._page(self._client.models.list())]
        except (self._openai.OpenAIError, ValueError):
            return None

    def _call(
        self,
        act: Callable[[], _T],
        look_first: Callable[[], _T | None] = lambda: None,
        missing: Callable[[str], EndpointError] | None = None,
    ) -> _T:
        """Call ``act`` until it succeeds; before a repetition see whether ``look_first`` finds its result."""
        reason = ""
        for tries in range(_TRIES):
            outcome = self._try(act, missing or self._no_batches)
            if not isinstance(outcome, _Trouble):
                return outcome
            reason = outcome.reason
            if not self._was_reached and tries + 1 >= _FIRST_TRIES:
                break
            longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**tries)
            time.sleep(outcome.retry_after + random.uniform(0.5, 1.0) * longest)
            found = look_first()
            if found is not None:
                return found
        raise self._silence(reason)

    def _try(self, act: Callable[[], _T], missing: Callable[[str], EndpointError]) -> _T | _Trouble:
        """Call ``act`` once.

        Raises:
            EndpointError: repeating it is in vain; ``missing`` makes the error for a 404.
        """
        # Errors of the connection hold headers, so they must not become the cause or context of others.
        try:
            result = act()
        except Exception as error:
            outcome = self._judge(error, missing)
            if outcome is None:
                raise
        else:
            self._was_reached, self._heard = True, time.monotonic()
            return result
        if isinstance(outcome, EndpointError):
            raise outcome
        return outcome

    def _judge(self, error: Exception, missing: Callable[[str], EndpointError]) -> _Trouble | EndpointError | None:
        """What a failed call means; None if it was not the endpoint that failed."""
        if isinstance(error, self._openai.APIStatusError):
            self._was_reached = True
            return self._meaning(error, missing)
        if isinstance(error, ValueError):  # not the form of an answer: there is another program, or a proxy
            return _Trouble(self._endpoint.redact(str(error)))
        if not isinstance(error, self._openai.APIConnectionError) and not _is_of_transport(error):
            return None
        causes = list(_causes(error))
        reason = self._endpoint.redact("; ".join(dict.fromkeys(str(cause) or type(cause).__name__ for cause in causes)))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return EndpointError(
                f"{self._endpoint.base_url} offers no certificate that can be trusted: {reason}. Check "
                "generation.base_url, or name a file with the endpoint's certificate authority in generation.ca_file."
            )
        if any(type(cause).__name__ == "ProxyError" and str(cause).startswith(_NOT_LET_IN) for cause in causes):
            return proxy_error(self._endpoint, reason)
        return _Trouble(reason)

    def _meaning(self, error: Any, missing: Callable[[str], EndpointError]) -> _Trouble | EndpointError:
        status, endpoint = error.status_code, self._endpoint
        told, codes = told_of(endpoint, status, error.response.content)
        match meaning_of(status, codes):
            case "again":
                return _Trouble(told, retry_after(error.response.headers) or 0.0)
            case "key":
                return authentication_error(endpoint, told)
            case "proxy":
                return proxy_error(endpoint, told)
            case "credit":
                return quota_error(endpoint, told)
            case "missing" | "unexpected":
                return missing(told)
        if error.param in ("file_id", "input_file_id"):
            return _Trouble(told)  # the file was uploaded just now and is not known everywhere yet
        return EndpointError(f"{endpoint.base_url} does not take the batch ({told}).")

    def _checked(self, answer: Any, *names: str) -> Any:
        """``answer``, whose form the official client does not check, if it has texts under these names."""
        if all(isinstance(getattr(answer, name, None), str) for name in names):
            return answer
        raise self._odd(answer)

    def _page(self, answer: Any) -> Any:
        """``answer`` if it is a page of a list."""
        if isinstance(getattr(answer, "data", None), list):
            return answer
        raise self._odd(answer)

    def _odd(self, answer: Any) -> ValueError:
        return ValueError(f"what answers is no Batch API: {self._endpoint.redact(str(answer))[:_SHOWN]!r}")

    def _no_batches(self, told: str) -> EndpointError:
        return EndpointError(
            f"{self._endpoint.base_url} has no Batch API, as it seems ({told}). Set generation.mode to live, or check "
            "generation.base_url (it usually ends in /v1)."
        )

    def _no_batch(self, batch_id: str) -> Callable[[str], EndpointError]:
        return lambda told: EndpointError(
            f"{self._endpoint.base_url} knows no batch {batch_id} ({told}), which this run has under way. Use the key, "
            "organisation and project that created it; or remove its folder from the run, then its requests are asked, "
            "and paid, again."
        )

    def _silence(self, reason: str) -> EndpointError:
        return EndpointError(
            f"Nobody takes requests at {self._endpoint.base_url} ({reason}). Start the server there or correct "
            "generation.base_url, then run the same command again; batches under way go on in the meantime."
        )

    def _news(self, batch: Any) -> News:
        self._checked(batch, "id", "status")
        errors = (batch.errors.data or []) if batch.errors else []
        counts = batch.request_counts
        said = (
            f"line {error.line}: {error.message}" if error.line else error.message for error in errors[:_SHOWN_ERRORS]
        )
        return News(
            batch.id,
            batch.status,
            batch.output_file_id,
            batch.error_file_id,
            counts.completed if counts else 0,
            counts.failed if counts else 0,
            counts.total if counts else 0,
            frozenset(error.code for error in errors if error.code),
            self._endpoint.redact("; ".join(text for text in said if text)),
        )


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A call that may succeed when it is repeated, ``retry_after`` seconds from now or later."""

    reason: str
    retry_after: float = 0.0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_transport(error: Exception) -> bool:
    """Whether the connection broke off during a download: openai 2 lets errors of httpx through, openai 3 of httpx2."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
