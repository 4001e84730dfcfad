"""A run's journal and batches, for tests of the Batch API; light enough to be started as a process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthie.config import BatchConfig
from synthie.llm.batch import BatchLine, batches_under_way, run_batches
from synthie.llm.client import Request, RequestFailedError
from synthie.llm.endpoint import Endpoint
from synthie.llm.journal import KEY_BYTES, Journal
from synthie.llm.pricing import Ledger, Price, Usage, input_token_bound
from synthie.llm.protocol import Api, encode_body

MODEL = "synthie-rules"
PRICE = Price(input=1_000, cached_input=500, output=4_000).discounted(0.5)
MAX_TOKENS = 100
PLENTY = 10**15


def key_of(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=KEY_BYTES).digest()


def line_of(number: int, *, model: str = MODEL, prompt: str | None = None, api: Api = "chat") -> BatchLine:
    message = {"role": "user", "content": prompt or f'1. Town {number} | country | Peru – {{"ö"}}\\n'}
    body = encode_body(api, model, [message], {"max_tokens": MAX_TOKENS, "temperature": 0.7})
    return BatchLine(key_of(body), Request(body, input_token_bound(body, 1), MAX_TOKENS))


def lines(count: int, **options: Any) -> list[BatchLine]:
    return [line_of(number, **options) for number in range(count)]


def worst_of(asked: list[BatchLine]) -> int:
    return sum(PRICE.worst_cost(line.request.input_bound, line.request.output_bound) for line in asked)


class Stop(BaseException):
    """Ends a run as abruptly as a test can."""


@dataclass
class World:
    """A journal and a folder of batches, as a run has them; `ask` is one run in them."""

    folder: Path
    failures: dict[bytes, tuple[bytes, RequestFailedError]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=lambda: Ledger(0))
    told: list[bytes] = field(default_factory=list)  # keys of the answers of the last run

    @property
    def batches(self) -> Path:
        return self.folder / "batches"

    def ask(
        self,
        endpoint: Endpoint,
        asked: list[BatchLine],
        *,
        limit: int = PLENTY,
        max_attempts: int = 8,
        on_progress: Callable[[], None] = lambda: None,
        **config: Any,
    ) -> None:
        self.events.clear()
        self.failures.clear()
        self.told.clear()
        with Journal(self.folder / "journal") as journal:
            self.ledger = Ledger(limit, journal.spent)
            is_stopped = False
            try:
                run_batches(
                    iter(asked),
                    endpoint=endpoint,
                    price=PRICE,
                    ledger=self.ledger,
                    journal=journal,
                    folder=self.batches,
                    config=BatchConfig(**{"poll_s": 0.05} | config),
                    max_attempts=max_attempts,
                    on_failure=self._note_failure,
                    on_answer=lambda record: self.told.append(record.key),
                    on_event=lambda kind, **details: self.events.append(kind),
                    on_progress=on_progress,
                )
            except Stop:
                is_stopped = True
                raise
            finally:
                assert is_stopped or self.ledger.spent == journal.spent

    def _note_failure(self, key: bytes, body: bytes, error: RequestFailedError) -> None:
        self.failures[key] = body, error

    def records(self, asked: list[BatchLine]) -> list[Any]:
        with Journal(self.folder / "journal") as journal:
            return [journal.get(line.key) for line in asked]

    def check_all_answered_and_paid_once(self, asked: list[BatchLine]) -> None:
        records = self.records(asked)
        assert all(records)
        costs = [PRICE.cost(Usage(one.input_tokens, one.output_tokens, one.cached_input_tokens)) for one in records]
        assert [one.cost for one in records] == costs
        with Journal(self.folder / "journal") as journal:
            assert len(journal) == len({line.key for line in asked})
            assert journal.spent == sum(one.cost for one in {one.key: one for one in records}.values())
        assert (self.ledger.reserved, self.failures) == (0, {})
        assert batches_under_way(self.batches) == 0
