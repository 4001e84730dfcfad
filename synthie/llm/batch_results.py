"""What came back of a batch: each line's answer into the journal, its cost into the ledger, its failure to its class.

Reading the same results twice is harmless: what the journal has is passed over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from synthie.errors import EndpointError
from synthie.llm.batch_files import Line, StoredBatch
from synthie.llm.client import RequestFailedError
from synthie.llm.endpoint import Endpoint
from synthie.llm.journal import Journal, Record
from synthie.llm.pricing import PICODOLLARS, Ledger, Usage
from synthie.llm.protocol import FailedAnswerError, MalformedError, decode_answer
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

__all__ = ["Collector", "Outcome"]

log = logging.getLogger(__name__)

_LINES_PER_TICK = 1_000
_MISSING = "the results of the batch do not mention it"


@dataclass(slots=True)
class Outcome:
    """What came of the lines of a batch.

    Attributes:
        answered: lines whose answers the journal has now.
        failed: key -> why, of the lines that failed for good.
        unfit: those of them that were refused for how they were asked.
        again: key -> number of the next try, of lines that another try may mend.
        settled: picodollars of reservations that are settled.
        presumed: picodollars of lines that were billed although they brought nothing that can be read.
        doom: why every other line would fail, too.
    """

    answered: int = 0
    failed: dict[bytes, RequestFailedError] = field(default_factory=dict)
    unfit: int = 0
    again: dict[bytes, int] = field(default_factory=dict)
    settled: int = 0
    presumed: int = 0
    doom: EndpointError | None = None


class Collector:
    """Takes the results of batches in.

    Args:
        endpoint: where they come from.
        journal: where answers go.
        ledger: where each line's reservation is replaced by its cost.
        max_attempts: tries of a line.
        models: the endpoint's models, for messages; None if it does not list them.
        on_progress: called now and then.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        journal: Journal,
        ledger: Ledger,
        *,
        max_attempts: int,
        models: Callable[[], list[str] | None],
        on_progress: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._ledger = ledger
        self._max_attempts = max_attempts
        self._models = models
        self._on_progress = on_progress

    def collect(self, batch: StoredBatch, files: Iterable[Path], on_answer: Callable[[Record], None]) -> Outcome:
        """Take in what ``files`` hold of a batch; ``on_answer`` is told of what the journal has been given."""
        outcome = Outcome()
        open_lines = {line.key: line for line in batch.lines() if line.key not in self._journal}
        for count, result in enumerate(_results(files)):
            if count % _LINES_PER_TICK == 0:
                self._on_progress()
            line = open_lines.pop(result.key, None)
            if line is not None:
                self._take(result, line, batch, outcome, on_answer)
        for line in open_lines.values():
            self._try_again(line, _MISSING, None, outcome)
        return outcome

    def _take(
        self,
        result: _Result,
        line: Line,
        batch: StoredBatch,
        outcome: Outcome,
        on_answer: Callable[[Record], None],
    ) -> None:
        reply = result.response
        if reply is None or not reply.status_code:
            self._try_again(line, self._endpoint.redact(result.told), None, outcome)
        elif reply.status_code != 200:
            told, codes = told_of(self._endpoint, reply.status_code, bytes(reply.body))
            self._judge(line, reply.status_code, codes, told, outcome)
        else:
            record = self._answer(bytes(reply.body), line, batch, outcome)
            if record is not None:
                on_answer(record)

    def _answer(self, body: bytes, line: Line, batch: StoredBatch, outcome: Outcome) -> Record | None:
        """Store the answer in a response with status 200; None if there is none."""
        worst = batch.worst_cost(line)
        try:
            answer = decode_answer(batch.state.api, body)
        except FailedAnswerError as error:
            outcome.presumed += worst
            told = line_of(self._endpoint, error.status, str(error))
            self._judge(line, error.status, error.codes, told, outcome)
            return None
        except MalformedError as error:
            outcome.presumed += worst
            self._try_again(line, self._endpoint.redact(str(error)), None, outcome)
            return None
        usage = answer.usage
        if usage is None:
            usage = Usage(line.input_bound, min(line.output_bound, len(answer.text.encode()) + 1))
        cost = batch.price.cost(usage)
        if cost > worst:
            log.warning(
                "A line of a batch cost %.6f USD although %.6f USD was the most expected: the endpoint counts tokens "
                "that the request does not show. Lower max_usd if the budget must hold exactly.",
                cost / PICODOLLARS,
                worst / PICODOLLARS,
            )
        record = Record(
            key=line.key,
            cost=cost,
            text=answer.text,
            finish_reason=answer.finish_reason,
            model=answer.model,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            attempts=line.attempt,
            time=round(time.time(), 3),
            endpoint=self._endpoint.base_url,
        )
        self._journal.append(record)
        self._ledger.settle(worst, cost)
        outcome.settled += worst
        outcome.answered += 1
        return record

    def _judge(self, line: Line, status: int, codes: frozenset[str], told: str, outcome: Outcome) -> None:
        """Note what a status other than 200 means for the line, or for all."""
        match meaning := meaning_of(status, codes):
            case "again":
                self._try_again(line, told, status, outcome)
            case "filtered" | "too_long" | "unfit":
                outcome.unfit += meaning != "filtered"
                reason = reason_of(meaning, told)
                outcome.failed[line.key] = RequestFailedError(reason, status, line.attempt, permanent=True)
            case "key":
                outcome.doom = authentication_error(self._endpoint, told)
            case "proxy":
                outcome.doom = proxy_error(self._endpoint, told)
            case "credit":
                outcome.doom = quota_error(self._endpoint, told)
            case "missing":
                outcome.doom = outcome.doom or not_found_error(self._endpoint, told, self._models())
            case "unexpected":
                outcome.doom = unexpected_error(self._endpoint, told)

    def _try_again(self, line: Line, reason: str, status: int | None, outcome: Outcome) -> None:
        if line.attempt < self._max_attempts:
            outcome.again[line.key] = line.attempt + 1
        else:
            reason = f"{line.attempt} tries failed, the last with {reason}"
            outcome.failed[line.key] = RequestFailedError(reason, status, line.attempt)


class _Reply(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Result(msgspec.Struct):
    """A line of a file of results."""

    custom_id: str
    response: _Reply | None = None
    error: Any = None

    @property
    def key(self) -> bytes:
        """The request's key; empty if the name is none that we gave."""
        try:
            return bytes.fromhex(self.custom_id)
        except ValueError:
            return b""

    @property
    def told(self) -> str:
        """What the line says instead of a response."""
        if isinstance(self.error, dict):
            return ": ".join(str(self.error[name]) for name in ("code", "message") if self.error.get(name))
        return str(self.error or _MISSING)


_decode = msgspec.json.Decoder(_Result).decode


def _results(files: Iterable[Path]) -> Iterator[_Result]:
    for path in files:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield _decode(raw)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    if raw.strip():
                        log.warning("%s, line %d is no result (%s); its request is repeated", path, number, error)
