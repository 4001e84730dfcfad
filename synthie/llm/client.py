"""A client of the OpenAI chat completions protocol that is hard to stop and cheap to run.

`Client.complete` sends one request body, as often as it takes: a place from the
limiter, a reservation from the ledger, the call, the settlement. What comes of
a try is one of four things:

* a completion;
* try again: 429 (as often as the endpoint likes), 408, 409, 5xx, timeouts and
  broken connections (``max_attempts`` times), after Retry-After or a random
  exponential pause;
* this request fails for good (`RequestFailedError`): 400, 413, 422;
* all requests would fail (`EndpointError` and its kin): wrong key, unknown
  model, no credit left, nobody there. The caller should stop the run.

Secrets live in the `Endpoint` only and are blotted out of everything that is raised.
"""

from __future__ import annotations

import asyncio
import difflib
import email.utils
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from synthie.errors import AuthenticationError, BudgetError, EndpointError, ModelNotFoundError, QuotaError
from synthie.llm.endpoint import Endpoint
from synthie.llm.limits import Limiter
from synthie.llm.pricing import PICODOLLARS, Ledger, Price, Usage

__all__ = [
    "Client",
    "ClientStatistics",
    "Completion",
    "Request",
    "RequestFailedError",
    "StoppedError",
]

log = logging.getLogger(__name__)

_FAILS_THE_REQUEST = frozenset({400, 413, 422})
_TRY_AGAIN = frozenset({408, 409, 425})
_FIRST_TRIES = 4  # tries of a request while nothing has ever answered at the URL
_HOPELESS = 20  # requests that fail for good one after another before the run is stopped
_LONGEST_PAUSE_S = 30.0
_CONNECT_S = 10.0
_SPREAD_S = 0.25  # reaches 95 to 97% of a limit of 100 or 300 calls a second
_NOTABLE_WAIT_S = 60.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class RequestFailedError(Exception):
    """This request will not succeed; others may.

    Attributes:
        status: HTTP status of the last try, or None if there was no response.
        attempts: tries made.
    """

    def __init__(self, reason: str, status: int | None, attempts: int) -> None:
        super().__init__(reason)
        self.status = status
        self.attempts = attempts


class StoppedError(Exception):
    """The client was told to stop before this request was answered."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request body and the bounds that budget and limits reckon with.

    Attributes:
        body: the JSON, exactly as sent.
        input_bound, output_bound: numbers of tokens that the call cannot exceed.
    """

    body: bytes
    input_bound: int
    output_bound: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A successful answer.

    Attributes:
        text: the text, exactly as it came; empty if the model answered with nothing.
        finish_reason: as the endpoint gave it.
        model: the model that the endpoint says it used.
        usage: tokens as billed; the request's bounds where the endpoint does not say.
        cost: picodollars.
        latency_s: seconds of the successful try.
        attempts: tries made, refusals included.
    """

    text: str
    finish_reason: str | None
    model: str
    usage: Usage
    cost: int
    latency_s: float
    attempts: int


@dataclass(slots=True)
class ClientStatistics:
    """What a client has done: tries sent, tries to be repeated by class, and completions."""

    requests: int = 0
    completions: int = 0
    retries: Counter[str] = field(default_factory=Counter)


class Client:
    """Sends requests to one endpoint. Use as an asynchronous context manager.

    Args:
        endpoint: where to.
        price: what a token costs.
        ledger: the budget.
        limiter: calls in flight and rates.
        max_attempts: tries of one request, refusals (429) not counted.
        timeout_s: seconds until a try is given up.
        backoff_s: upper end of the first random pause; doubles with each try.
        on_presumed: told the picodollars of a try whose bill is not known (it timed out or broke
            off after the request was sent); they are counted at the worst case.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        price: Price,
        ledger: Ledger,
        limiter: Limiter,
        max_attempts: int = 8,
        timeout_s: float = 120.0,
        backoff_s: float = 0.5,
        on_presumed: Callable[[int, str], None] = lambda cost, reason: None,
    ) -> None:
        self.statistics = ClientStatistics()
        self._endpoint = endpoint
        self._price = price
        self._ledger = ledger
        self._limiter = limiter
        self._max_attempts = max_attempts
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._on_presumed = on_presumed
        self._url = endpoint.base_url + "/chat/completions"
        self._random = random.Random()
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        self._reached = False
        self._failures_in_a_row = 0

    async def __aenter__(self) -> Client:
        is_local = urlsplit(self._url).hostname in _LOOPBACK
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the limiter limits
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": "synthie", **self._endpoint.headers},
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(_CONNECT_S, self._timeout_s)),
            trust_env=not is_local,  # HTTPS_PROXY and its kin
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def stop(self) -> None:
        """Send nothing any more. Calls in flight go on; requests that wait raise `StoppedError`."""
        self._stop.set()

    async def complete(self, request: Request) -> Completion:
        """Send ``request`` until it is answered.

        Raises:
            RequestFailedError: this request failed for good.
            EndpointError: no request can succeed: `AuthenticationError`, `ModelNotFoundError`, `QuotaError`, or
                the endpoint cannot be reached or refuses everything.
            BudgetError: the try could exceed the budget.
            StoppedError: `stop` was called.
        """
        attempts = failures = refusals = 0
        while True:
            outcome = await self._try(request)
            attempts += 1
            if isinstance(outcome, _Answer):
                self._failures_in_a_row = 0
                self.statistics.completions += 1
                return outcome.completion(attempts)
            if outcome.kind == "refused":
                self._fail(outcome.reason, outcome.status, attempts)
            self.statistics.retries[outcome.kind] += 1
            if outcome.status == 429:
                refusals += 1
                pause = self._pause(outcome.retry_after, refusals)
            else:
                failures += 1
                self._check_tries(outcome, failures, attempts)
                pause = self._pause(outcome.retry_after, failures)
            await self._sleep(pause)

    async def _try(self, request: Request) -> _Answer | _Trouble:
        ticket = await self._limiter.acquire()
        outcome: _Answer | _Trouble | None = None
        tokens = request.input_bound // 4 + request.output_bound  # a token is about four bytes
        try:
            delay = self._limiter.delay(tokens)
            if delay > 0:
                await self._sleep(delay)
            worst = self._price.worst_cost(request.input_bound, request.output_bound)
            await self._reserve(worst)
            outcome = await self._call(request, worst)
            return outcome
        finally:
            is_answer = isinstance(outcome, _Answer)
            used = outcome.usage.input_tokens + outcome.usage.output_tokens if isinstance(outcome, _Answer) else 0
            is_refusal = isinstance(outcome, _Trouble) and outcome.status == 429
            self._limiter.release(
                ticket, succeeded=is_answer, refused=is_refusal, unused_tokens=tokens - used if is_answer else 0
            )

    async def _call(self, request: Request, worst: int) -> _Answer | _Trouble:
        """Make one try under a reservation of ``worst`` picodollars and settle it."""
        self.statistics.requests += 1
        cost, presumed = 0, ""
        try:
            outcome = await self._post(request)
            if isinstance(outcome, _Answer):
                cost = outcome.cost
                if cost > worst:
                    log.warning(
                        "A call cost %.6f USD although %.6f USD was the most expected: the endpoint counts tokens "
                        "that the request does not show. Lower max_usd if the budget must hold exactly.",
                        cost / PICODOLLARS,
                        worst / PICODOLLARS,
                    )
            elif outcome.may_be_billed:
                cost, presumed = worst, outcome.reason
            return outcome
        except asyncio.CancelledError:
            cost, presumed = worst, "cancelled while in flight"
            raise
        finally:
            self._ledger.settle(worst, cost)
            self._settled.set()
            self._settled = asyncio.Event()
            if presumed and cost:
                self._on_presumed(cost, presumed)

    async def _post(self, request: Request) -> _Answer | _Trouble:
        started = time.perf_counter()
        try:
            async with self._session.post(
                self._url, data=request.body, params=self._endpoint.query, allow_redirects=False
            ) as response:
                raw = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ClientSSLError as error:
            raise EndpointError(
                f"{self._url} offers no certificate that can be trusted: {error}. Check generation.base_url, or add "
                "the endpoint's certificate authority to the system (or name it in SSL_CERT_FILE)."
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return _Trouble("connection", f"cannot connect: {_named(error)}", unreachable=True)
        except TimeoutError:
            return _Trouble("timeout", f"no answer within {self._timeout_s:g} s", may_be_billed=True)
        except (aiohttp.ClientError, OSError) as error:
            return _Trouble("connection", f"the connection broke off: {_named(error)}", may_be_billed=True)
        self._reached = True
        if status == 200:
            return self._answer(raw, request, time.perf_counter() - started)
        return await self._trouble(status, headers, raw)

    def _answer(self, raw: bytes, request: Request, latency_s: float) -> _Answer | _Trouble:
        try:
            response = _decoder.decode(raw)
            choice = response.choices[0]
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
            return _Trouble("malformed", f"the response is not a chat completion: {error}", may_be_billed=True)
        text = _plain(choice.message.content)
        if response.usage is None:
            usage = Usage(request.input_bound, min(request.output_bound, len(text.encode()) + 1))
        else:
            reported = response.usage
            details = reported.prompt_tokens_details
            cached = min(details.cached_tokens or 0, reported.prompt_tokens) if details else 0
            usage = Usage(reported.prompt_tokens, reported.completion_tokens, cached)
        return _Answer(text, choice.finish_reason, response.model or "", usage, self._price.cost(usage), latency_s)

    async def _trouble(self, status: int, headers: Mapping[str, str], raw: bytes) -> _Trouble:
        """What a status other than 200 means for the request; raises if it dooms all requests."""
        message, codes = _error_of(raw)
        message = self._endpoint.redact(message)[:500]
        told = f"{status}: {message}" if message else str(status)
        if status in (401, 403):
            raise self._authentication_error(told)
        if status == 402 or "insufficient_quota" in codes:
            raise QuotaError(
                f"The account at {self._endpoint.base_url} has no credit left ({told}). Add credit or raise the "
                "account's limit, then run the same command again; what is stored is not asked for again."
            )
        if status == 404 or "model_not_found" in codes:
            raise await self._not_found_error(told)
        if status == 429 or status in _TRY_AGAIN or status >= 500:
            return _Trouble(str(status), told, status=status, retry_after=_retry_after(headers))
        if status in _FAILS_THE_REQUEST:
            return _Trouble("refused", told, status=status)
        raise EndpointError(
            f"{self._url} answers {told}. It does not seem to be a chat completions endpoint; "
            "check generation.base_url (it usually ends in /v1)."
        )

    def _authentication_error(self, told: str) -> AuthenticationError:
        name = self._endpoint.key_env
        if self._endpoint.secrets:
            mend = f"Check the key in the environment variable {name} (or those that generation.headers name)"
        else:
            mend = f"No key was sent: put it in the environment variable {name or 'that generation.api_key_env names'}"
        return AuthenticationError(
            f"{self._endpoint.base_url} refuses access ({told}). {mend}, then run the same command again; "
            "what is stored is not asked for again."
        )

    async def _not_found_error(self, told: str) -> EndpointError:
        base_url, model = self._endpoint.base_url, self._endpoint.model
        known = await self._models()
        if known is None:
            return ModelNotFoundError(
                f"{base_url} knows no model {model!r}, or there is no chat completions endpoint at that URL ({told}). "
                "Check generation.model and generation.base_url (it usually ends in /v1)."
            )
        if model in known:
            return EndpointError(f"{self._url} answers {told} although the model {model!r} exists there.")
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.4) or sorted(known)[:10]
        return ModelNotFoundError(
            f"{base_url} knows no model {model!r}. Set generation.model to one that it has, "
            f"such as: {', '.join(near) or '(it lists none)'}."
        )

    async def _models(self) -> list[str] | None:
        """Names of the endpoint's models, or None if it does not list them."""
        try:
            async with self._session.get(self._endpoint.base_url + "/models", params=self._endpoint.query) as response:
                if response.status != 200:
                    return None
                listed = msgspec.json.decode(await response.read(), type=_Models)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None
        return [item.id for item in listed.data]

    async def _reserve(self, worst: int) -> None:
        """Set ``worst`` picodollars aside, waiting for calls in flight to give back what they do not use."""
        while not self._stop.is_set():
            if self._ledger.reserve(worst):
                return
            if not self._ledger.reserved:
                raise BudgetError(_over_budget(self._ledger, worst))
            await self._settled.wait()
        raise StoppedError

    def _check_tries(self, outcome: _Trouble, failures: int, attempts: int) -> None:
        if outcome.unreachable and not self._reached and failures >= min(_FIRST_TRIES, self._max_attempts):
            raise EndpointError(
                f"Nobody answers at {self._url} ({outcome.reason}). Start the server there or correct "
                "generation.base_url, then run the same command again."
            )
        if failures >= self._max_attempts:
            self._fail(f"{failures} tries failed, the last with {outcome.reason}", outcome.status, attempts)

    def _fail(self, reason: str, status: int | None, attempts: int) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _HOPELESS:
            raise EndpointError(
                f"{_HOPELESS} requests in a row failed at {self._url}, the last with: {reason}. Mend what it says; "
                "generation.extra_body can add fields to the request or, set to null, take them away. Then run the "
                "same command again; what is stored is not asked for again."
            )
        raise RequestFailedError(reason, status, attempts)

    def _pause(self, retry_after: float | None, tries: int) -> float:
        longest = min(_LONGEST_PAUSE_S, self._backoff_s * 2.0 ** min(tries - 1, 16))
        pause = self._random.uniform(0.0, longest)
        if retry_after is None:
            return pause
        if retry_after > _NOTABLE_WAIT_S:
            log.warning("%s asks to wait %.0f s before the next try; waiting", self._endpoint.base_url, retry_after)
        return retry_after + min(pause, max(_SPREAD_S, retry_after))  # never early, and not all at the same moment

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise StoppedError


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    finish_reason: str | None
    model: str
    usage: Usage
    cost: int
    latency_s: float

    def completion(self, attempts: int) -> Completion:
        return Completion(self.text, self.finish_reason, self.model, self.usage, self.cost, self.latency_s, attempts)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A try without a completion: ``kind`` is its class in the statistics."""

    kind: str
    reason: str
    status: int | None = None
    retry_after: float | None = None
    unreachable: bool = False
    may_be_billed: bool = False


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Response(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_decoder = msgspec.json.Decoder(_Response)


def _plain(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


def _error_of(raw: bytes) -> tuple[str, frozenset[str]]:
    """The message of an error response, and its ``code`` and ``type``."""
    try:
        data: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return " ".join(raw[:200].decode(errors="replace").split()), frozenset()
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return str(error), frozenset()
    message = error.get("message") or error.get("detail") or ""
    return str(message), frozenset(str(error[name]) for name in ("code", "type") if error.get(name))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date), or None."""
    for name, unit in (("retry-after-ms", 1e-3), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if seconds < float("inf") else None
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _named(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _over_budget(ledger: Ledger, worst: int) -> str:
    return (
        f"The budget is used up: {ledger.spent / PICODOLLARS:.6f} of {ledger.limit / PICODOLLARS:.6f} USD are spent, "
        f"and the next call could cost up to {worst / PICODOLLARS:.6f} USD. Everything paid for is stored. Run again "
        "with a higher max_usd to go on from here; no stored text is asked for or paid again."
    )
