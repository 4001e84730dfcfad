"""One endpoint among those that share the work: its connections, limiter and price, and whether anybody answers there.

`Lane.post` makes one try of one request and says what came of it: an answer, or a trouble that concerns this request.
It raises what dooms every request. `Health` is told the same and decides whether requests should go elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from synthie.errors import EndpointError
from synthie.llm.endpoint import Endpoint
from synthie.llm.limits import Limiter, Ticket
from synthie.llm.pricing import Price, Usage
from synthie.llm.protocol import (
    Answer,
    FailedAnswerError,
    MalformedError,
    decode_answer,
    decode_models,
    rate_limits,
    retry_after,
)
from synthie.llm.refusals import (
    authentication_error,
    line_of,
    meaning_of,
    not_found_error,
    proxy_error,
    quota_error,
    reason_of,
    told_of,
    unexpected_error,
)

__all__ = ["Health", "Lane", "Reply", "Request", "SetAsideError", "Trouble"]

_CONNECT_S = 10.0
_KEEP_ALIVE_S = 4.0  # common servers close idle connections after 5 s; a request sent at that moment would be lost
_ERRORS_IN_A_ROW = 3  # that set a lane aside


@dataclass(frozen=True, slots=True)
class Request:
    """One request body and the bounds that budget and limits reckon with.

    Attributes:
        body: the JSON, exactly as sent.
        input_bound, output_bound: numbers of tokens that the call cannot exceed.
        model: name of the model that the body asks for; "" where any endpoint will do.
    """

    body: bytes
    input_bound: int
    output_bound: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with its bill.

    Attributes:
        answer: what the model said.
        usage: tokens as billed; the request's bounds where the endpoint does not say.
        cost: picodollars.
        latency_s: seconds of the try.
    """

    answer: Answer
    usage: Usage
    cost: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """A try without an answer.

    Attributes:
        kind: its class in the statistics; "refused" if the request will not succeed.
        reason: in words, without secrets.
        status: HTTP status, None if there was no response.
        retry_after: seconds that the endpoint asks to wait.
        is_unreachable: no connection could be made.
        is_its_own: for "refused": the reason lies in this text alone, not in how it was asked.
        may_be_billed: the request was sent and may have been answered.
    """

    kind: str
    reason: str
    status: int | None = None
    retry_after: float | None = None
    is_unreachable: bool = False
    is_its_own: bool = False
    may_be_billed: bool = False


class SetAsideError(Exception):
    """The lane was set aside while a request waited for its turn there."""


class Health:
    """Whether somebody answers at an endpoint; a state machine that is told what came of tries and probes.

    A lane is set aside when no connection can be made, or after `_ERRORS_IN_A_ROW` timeouts, broken connections and
    server errors without an answer in between. A probe that succeeds puts it on trial: one request at a time, until
    one is answered.

    Attributes:
        was_reached: something has answered at some time.
        is_aside: requests should go elsewhere.
        is_unreachable: it is set aside because no connection can be made; requests would be in vain.
        is_on_trial: it is back, but has not yet proved itself.
        setbacks: failures of probes and trials since the last answer.
        reason: why it was set aside.
    """

    __slots__ = ("_errors", "is_aside", "is_on_trial", "is_unreachable", "reason", "setbacks", "was_reached")

    def __init__(self) -> None:
        self.was_reached = self.is_aside = self.is_unreachable = self.is_on_trial = False
        self.setbacks = 0
        self.reason = ""
        self._errors = 0

    @property
    def is_doubtful(self) -> bool:
        return self.is_aside or self.is_on_trial

    def answered(self) -> None:
        """A request was answered or refused, by any status below 500."""
        self.was_reached = True
        self.is_aside = self.is_unreachable = self.is_on_trial = False
        self.setbacks = self._errors = 0

    def erred(self, reason: str) -> None:
        """A request timed out, its connection broke off, or it met a server error."""
        self.was_reached = True
        self._errors += 1
        if self.is_on_trial or self._errors >= _ERRORS_IN_A_ROW:
            self._set_aside(reason, is_unreachable=self.is_unreachable)

    def unreachable(self, reason: str) -> None:
        """No connection could be made."""
        self._set_aside(reason, is_unreachable=True)

    def probed(self, is_back: bool) -> None:
        """A probe was answered, or not."""
        if not is_back:
            self.setbacks += 1
        elif self.is_aside:
            self.is_aside = self.is_unreachable = False
            self.is_on_trial = True

    def _set_aside(self, reason: str, *, is_unreachable: bool) -> None:
        self.setbacks += self.is_on_trial
        self.is_aside, self.is_on_trial, self.is_unreachable = True, False, is_unreachable
        self.reason = reason


class Lane:
    """One endpoint: its session, and one try of one request.

    Args:
        endpoint: where to.
        price: what a token costs there.
        limiter: calls in flight and rates there.
        weight: its share of the work beside other lanes with the same model, as far as its limit allows.

    Attributes:
        endpoint, price, limiter, weight: as given.
        health: whether anybody answers.
        started: tries made.
    """

    def __init__(self, endpoint: Endpoint, *, price: Price, limiter: Limiter, weight: float = 1.0) -> None:
        self.endpoint = endpoint
        self.price = price
        self.limiter = limiter
        self.weight = weight
        self.health = Health()
        self.started = 0
        self._target = URL(endpoint.url).extend_query(endpoint.query)
        self._waits: set[asyncio.Timeout] = set()

    async def open(self, timeout_s: float) -> None:
        """Make the session; a try is given up after ``timeout_s`` seconds."""
        self._timeout_s = timeout_s
        self._connect_s = min(_CONNECT_S, timeout_s)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the limiter limits
                keepalive_timeout=_KEEP_ALIVE_S,
                ssl=self.endpoint.ssl_context() or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": "synthie", **self.endpoint.headers},
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._connect_s),
        )

    async def close(self) -> None:
        await self._session.close()

    @property
    def load(self) -> tuple[float, float]:
        """How busy it is beside others: calls under way and waiting to its limit; then tries so far."""
        limiter = self.limiter
        share = self.weight * max(1, limiter.limit)
        return (limiter.in_flight + limiter.waiting) / share, self.started / self.weight

    async def acquire(self, tokens: int) -> Ticket:
        """Wait for a turn.

        Raises:
            SetAsideError: `drive_away` was called in the meantime.
            StoppedError: the limiter was stopped.
        """
        wait = asyncio.timeout(None)
        try:
            async with wait:
                self._waits.add(wait)
                return await self.limiter.acquire(tokens)
        except TimeoutError:
            raise SetAsideError from None
        finally:
            self._waits.discard(wait)

    def drive_away(self) -> None:
        """Make those who wait for a turn go elsewhere."""
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def is_answering(self) -> bool:
        """Whether anything answers at the endpoint, other than with a server error; nothing is paid for it."""
        timeout = aiohttp.ClientTimeout(total=self._connect_s)
        try:
            async with self._get_models(timeout) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def post(self, request: Request) -> Reply | Trouble:
        """Make one try and note what it tells of the endpoint.

        Raises:
            EndpointError: no request can succeed: `AuthenticationError`, `ModelNotFoundError`, `QuotaError`, or
                something other than such an endpoint answers.
        """
        self.started += 1
        outcome = await self._post(request)
        if isinstance(outcome, EndpointError):
            raise outcome
        if isinstance(outcome, Reply):
            self.health.answered()
        elif outcome.is_unreachable:
            self.health.unreachable(outcome.reason)
        elif outcome.status is None or outcome.status >= 500:
            self.health.erred(outcome.reason)
        else:
            self.health.answered()
        return outcome

    async def _post(self, request: Request) -> Reply | Trouble | EndpointError:
        # Errors of the connection hold headers, so they must not become the cause or context of others.
        started = time.perf_counter()
        try:
            async with self._session.post(
                self._target, data=request.body, proxy=self.endpoint.proxy, allow_redirects=False
            ) as response:
                raw = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ClientHttpProxyError as error:
            return self._proxy_trouble(error.status, error.message)
        except aiohttp.ClientSSLError as error:
            return self._certificate_trouble(error)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Trouble("connection", f"cannot connect: {self._named(error)}", is_unreachable=True)
        except TimeoutError:
            return Trouble("timeout", f"no answer within {self._timeout_s:g} s", may_be_billed=True)
        except (aiohttp.ClientError, OSError) as error:
            return Trouble("connection", f"the connection broke off: {self._named(error)}", may_be_billed=True)
        limits = rate_limits(headers)
        if limits is not None:
            self.limiter.learn(limits)
        if status == 200:
            return await self._reply(raw, headers, request, time.perf_counter() - started)
        told, codes = told_of(self.endpoint, status, raw)
        return await self._trouble(status, codes, told, headers)

    async def _reply(
        self, raw: bytes, headers: Mapping[str, str], request: Request, latency_s: float
    ) -> Reply | Trouble | EndpointError:
        try:
            answer = decode_answer(self.endpoint.api, raw)
        except FailedAnswerError as error:
            told = line_of(self.endpoint, error.status, str(error))
            return await self._trouble(error.status, error.codes, told, headers, may_be_billed=error.status != 429)
        except MalformedError as error:
            return Trouble("malformed", self._shown(str(error)), may_be_billed=True)
        usage = answer.usage
        if usage is None:
            usage = Usage(request.input_bound, min(request.output_bound, len(answer.text.encode()) + 1))
        return Reply(answer, usage, self.price.cost(usage), latency_s)

    async def _trouble(
        self, status: int, codes: frozenset[str], told: str, headers: Mapping[str, str], *, may_be_billed: bool = False
    ) -> Trouble | EndpointError:
        """What a status other than 200 means for the request, or the error if it dooms all requests."""
        match meaning := meaning_of(status, codes):
            case "again":
                pause = retry_after(headers)
                return Trouble(str(status), told, status, retry_after=pause, may_be_billed=may_be_billed)
            case "filtered" | "too_long" | "unfit":
                reason, is_its_own = reason_of(meaning, told), meaning == "filtered"
                return Trouble("refused", reason, status, is_its_own=is_its_own, may_be_billed=may_be_billed)
            case "key":
                return authentication_error(self.endpoint, told)
            case "proxy":
                return proxy_error(self.endpoint, told)
            case "credit":
                return quota_error(self.endpoint, told)
            case "missing":
                return not_found_error(self.endpoint, told, await self._models())
            case "unexpected":
                return unexpected_error(self.endpoint, told)

    def _proxy_trouble(self, status: int, message: str) -> Trouble | EndpointError:
        """The proxy did not make the connection."""
        told = line_of(self.endpoint, status, message)
        if status in (401, 403, 407):
            return proxy_error(self.endpoint, told)
        return Trouble("connection", f"the proxy cannot connect: {told}", is_unreachable=True)

    def _certificate_trouble(self, error: aiohttp.ClientSSLError) -> Trouble | EndpointError:
        told = self._named(error)
        if self.health.was_reached and not isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Trouble("connection", f"cannot connect: {told}", is_unreachable=True)
        return EndpointError(
            f"{self.endpoint.url} offers no certificate that can be trusted: {told}. Check generation.base_url, or "
            "name a file with the endpoint's certificate authority in generation.ca_file."
        )

    async def _models(self) -> list[str] | None:
        """Names of the endpoint's models, or None if it does not list them."""
        try:
            async with self._get_models(self._session.timeout) as response:
                return decode_models(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    def _get_models(self, timeout: aiohttp.ClientTimeout) -> Any:
        url = URL(self.endpoint.base_url + "/models").extend_query(self.endpoint.query)
        return self._session.get(url, proxy=self.endpoint.proxy, timeout=timeout, allow_redirects=False)

    def _named(self, error: BaseException) -> str:
        return self._shown(str(error) or type(error).__name__)

    def _shown(self, text: str) -> str:
        return self.endpoint.redact(text)
