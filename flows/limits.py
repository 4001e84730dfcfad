"""One limit on the rate of requests for all runs on all machines: a global concurrency limit of the Prefect server.

The server counts slots, one a request, and frees them with time (slot decay). Prefect's own `rate_limit` waits in a
thread that outlives the run that it waits for; here waiting ends when the run does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from synthie.errors import ConfigError, EndpointError

__all__ = ["GlobalLimit"]

log = logging.getLogger(__name__)

_AGAIN_S = 0.1  # until a limit is asked again that is not as it was
_PAUSE_S = 5.0  # between two tries while the server is away or the limit stands at 0
_AWAY_S = 300.0  # how long the server may be away


class GlobalLimit:
    """A `synthie.llm.limits.Gate` over one of Prefect's global concurrency limits; a context manager.

    Slots are taken as many at a time as requests are asked for, up to half of the limit's. Of 10 slots that decay by
    10 a second, two runs together got 95% of the rate in halves, 85% in wholes, 75% in single slots: whenever the
    server refuses somebody, it forgets what has decayed since it last gave some.

    Args:
        name: of the limit. One that is switched off lets everything pass.

    Calling it raises

        ConfigError: there is no such limit, or its slots do not decay.
        EndpointError: the Prefect server has not answered for five minutes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._client: SyncPrefectClient = get_client(sync_client=True)
        self._most = 0  # slots to take in one call; 0 before the limit was read
        self._turn = asyncio.Lock()
        self._away_since: float | None = None

    def __enter__(self) -> GlobalLimit:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    async def __call__(self, n: int) -> None:
        """Wait until ``n`` more requests may start."""
        async with self._turn:  # who asks beside another of the same run is refused for nothing
            while n > 0:
                # A thread may use the client whatever the event loop, and is done in a moment: waiting is done here.
                slots, seconds = await asyncio.to_thread(self._ask, n)
                n -= slots
                if not slots:
                    await asyncio.sleep(seconds)

    def _ask(self, wanted: int) -> tuple[int, float]:
        """Ask the server once; returns the slots it gave, or none and the seconds to wait before asking again."""
        try:
            slots = min(wanted, self._most or self._read())
            if slots == 0:
                return 0, _PAUSE_S
            given = self._client.increment_concurrency_slots([self._name], slots, "rate_limit").json()
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.LOCKED:
                self._away_since = None
                return 0, float(error.response.headers["Retry-After"])
            if error.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:  # the limit has been changed
                self._most = 0
                return 0, _AGAIN_S
            return 0, self._note_absence(error)
        except httpx.TransportError as error:
            return 0, self._note_absence(error)
        self._away_since = None
        if not given:  # the limit has been deleted
            self._most = 0
            return 0, _AGAIN_S
        return slots, 0.0

    def _read(self) -> int:
        """Look the limit up; returns the slots to take in one call, 0 if it lets nobody pass at present."""
        try:
            limit = self._client.read_global_concurrency_limit_by_name(self._name)
        except ObjectNotFound as error:
            raise ConfigError(
                f"There is no Prefect global concurrency limit {self._name!r} (generation.global_limit). For 10 "
                f"requests a second run: .venv/bin/prefect gcl create {self._name} --limit 10 "
                "--slot-decay-per-second 10"
            ) from error
        if not limit.slot_decay_per_second > 0:
            raise ConfigError(
                f"The slots of the Prefect global concurrency limit {self._name!r} (generation.global_limit) do not "
                "decay, so it cannot limit a rate. For 10 requests a second run: .venv/bin/prefect gcl update "
                f"{self._name} --slot-decay-per-second 10"
            )
        self._most = (limit.limit + 1) // 2
        return self._most

    def _note_absence(self, error: httpx.HTTPError) -> float:
        """Returns the seconds to wait until the server may be back."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("the Prefect server gives no slots of %r (%s); waiting for it", self._name, error)
        if now - self._away_since > _AWAY_S:
            raise EndpointError(
                f"The Prefect server, which keeps the limit {self._name!r} (generation.global_limit), has not "
                f"answered for {_AWAY_S / 60:.0f} minutes ({error}). All that was answered is stored; run the same "
                "again once it is back."
            ) from error
        return _PAUSE_S
