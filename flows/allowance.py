"""One budget a day for all runs on all machines, kept by the Prefect server.

The Prefect variable ``synthie_usd_per_day`` is the budget; without it there is none. A stage that pays takes what its
run may still cost, or what is left of the day, and gives back at its end what it did not spend. What a run took
and did not give back because it was killed is reckoned anew when it is run again. A stage counts for the day (UTC)
on which it began.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists

from synthie.config import RunConfig
from synthie.errors import BudgetError, ConfigError
from synthie.money import usd
from synthie.texts.status import status

__all__ = ["PER_DAY", "day_allowance"]

PER_DAY = "synthie_usd_per_day"
_LOCK = "synthie-day-budget"


@contextmanager
def day_allowance(config: RunConfig) -> Iterator[RunConfig]:
    """The run with the budget that the day leaves it; what it has spent is noted when the context ends.

    Raises:
        BudgetError: from the stage inside; says so where the day's budget is what ended it.
        ConfigError: the variable holds no amount.
    """
    with get_client(sync_client=True) as client:
        variable = client.read_variable_by_name(PER_DAY)
        if variable is None:
            yield config
            return
        per_day = _amount(variable.value)
        day = _Day(client, Path(config.run).absolute())
        left = day.take(per_day, config.max_usd)
        limited = config.model_copy(update={"max_usd": min(config.max_usd, left)})
        try:
            yield limited
        except BudgetError as error:
            if limited.max_usd == config.max_usd:
                raise
            raise BudgetError(
                f"The budget of the day for all runs ({usd(per_day)}, the Prefect variable {PER_DAY}) is spent. "
                "All that was answered is stored; run the same again tomorrow (UTC), or raise the variable."
            ) from error
        finally:
            day.give_back()


def _amount(value: Any) -> float:
    try:
        amount = float(value)
    except (TypeError, ValueError):
        amount = -1.0
    if not amount >= 0:
        raise ConfigError(
            f"The Prefect variable {PER_DAY} holds {value!r}, which is no amount in US dollars. Correct it: "
            f".venv/bin/prefect variable set {PER_DAY} 20 --overwrite"
        )
    return amount


class _Day:
    """The account of the day in a Prefect variable: a key for each run -> [what it had spent before, its charge]."""

    def __init__(self, client: SyncPrefectClient, run: Path) -> None:
        self._client = client
        self._run = run
        self._key = sha256(str(run).encode()).hexdigest()[:8]
        self._name = f"synthie_spent_{datetime.now(UTC):%Y_%m_%d}"

    def take(self, per_day: float, max_usd: float) -> float:
        """Charge the run with all it may still cost today; returns what it may have spent in all at its end."""
        with self._account() as account:
            spent = _spent(self._run)
            before = account[self._key][0] if self._key in account else spent
            others = sum(charge for key, (_, charge) in account.items() if key != self._key)
            most = max(spent, before + max(0.0, per_day - others))
            account[self._key] = [before, round(max(spent, min(most, max_usd)) - before, 6)]
            return most

    def give_back(self) -> None:
        """Charge the run with what it has spent."""
        with self._account() as account:
            before = account[self._key][0]
            account[self._key] = [before, round(_spent(self._run) - before, 6)]

    @contextmanager
    def _account(self) -> Iterator[dict[str, list[float]]]:
        """The account, locked for all machines; stored when the context ends."""
        with suppress(ObjectAlreadyExists):  # another run makes it at this moment
            self._client.upsert_global_concurrency_limit_by_name(_LOCK, 1)
        with concurrency(_LOCK, strict=True):
            variable = self._client.read_variable_by_name(self._name)
            account: dict[str, Any] = {} if variable is None else dict(variable.value)  # type: ignore[arg-type]
            yield account
            if variable is None:
                self._client.create_variable(VariableCreate(name=self._name, value=account))
            else:
                self._client.update_variable(VariableUpdate(name=self._name, value=account))


def _spent(run: Path) -> float:
    return float(status(run)["spent_usd"])
