"""The texts stage: triplet sets → an LLM's texts, each checked, none paid for twice.

Two phases. *Asking*: every set becomes a request body; those whose answer the
journal lacks are sent, a bounded number at a time, and each answer is in the
journal before anything else happens. *Compiling*: the journal's answers, in the
order of the sets, pass the quality gate and become Parquet files. Compiling
depends on the journal only, so changing a check costs no call.

An answer's key is a hash of the endpoint and the exact request body: prompt,
model or parameters changed means a new question, anything else does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage, write_atomic
from synthie.compiling import Compiler
from synthie.config import GenerationConfig, QualityConfig
from synthie.errors import ConfigError, IncompleteError
from synthie.llm import local
from synthie.llm.client import Client, ClientStatistics, Request, RequestFailedError, StoppedError
from synthie.llm.endpoint import Endpoint
from synthie.llm.journal import KEY_BYTES, Journal, Record
from synthie.llm.limits import Limiter
from synthie.llm.pricing import PICODOLLARS, Ledger, Price, price_of, to_picodollars
from synthie.llm.prompts import load_prompt
from synthie.quality import QualityGate
from synthie.questions import Questions, TripletSet, TripletSets, answer_key, count_negatives

__all__ = ["Estimate", "estimate_cost", "generate_texts"]

log = logging.getLogger(__name__)

_READ_ROWS = 1_000
_ESTIMATE_ROWS = 1_000
_PROGRESS_S = 0.5
_GRACE_S = 5.0  # after Ctrl-C: how long calls in flight may still arrive
_SKIPS_PER_TURN = 200  # stored rows passed over before the event loop gets a turn
_CHARACTERS_PER_TOKEN = (4.8, 3.2)  # of English prompts with names: most, fewest
_OUTPUT_TOKENS_PER_TRIPLET = (8, 40)  # fewest, most
_OUTPUT_TOKENS_OF_NEGATIVE = (10, 60)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What generating all texts would take, from a sample of the requests.

    Attributes:
        model: model name.
        rows: texts to ask for.
        input_tokens_low … output_tokens_high: likely range of the tokens of all calls.
        usd_low, usd_high: likely range of the cost in US dollars, without discounts for cached input.
    """

    model: str
    rows: int
    input_tokens_low: int
    input_tokens_high: int
    output_tokens_low: int
    output_tokens_high: int
    usd_low: float
    usd_high: float

    def __str__(self) -> str:
        return (
            f"{self.rows:,} texts by {self.model}: "
            f"{self.input_tokens_low:,} to {self.input_tokens_high:,} input tokens, "
            f"{self.output_tokens_low:,} to {self.output_tokens_high:,} output tokens, "
            f"{self.usd_low:,.2f} to {self.usd_high:,.2f} USD."
        )


def estimate_cost(config: GenerationConfig, graph: Path, sets: Path) -> Estimate:
    """Estimate tokens and cost of generating the texts; asks nobody.

    Raises:
        ConfigError: the prompt does not exist or the model's price is not known.
        InputError: the graph or the sets are not there.
    """
    read_manifest(graph)
    read_manifest(sets)
    questions = Questions(config, load_prompt(config.prompt), TripletSets(graph, sets), seed=0)
    return _estimate(questions, _price(config))


def generate_texts(
    config: GenerationConfig,
    quality: QualityConfig,
    graph: Path,
    sets: Path,
    folder: Path,
    *,
    seed: int,
    max_usd: float,
    progress: Progress = no_progress,
) -> Manifest:
    """Turn the triplet sets into checked texts.

    Leaves ``samples/part-*.parquet`` and ``rejected/part-*.parquet`` (`SAMPLE_SCHEMA`), ``failures.jsonl``,
    ``cost.json`` and the journal in ``folder``.

    Args:
        config: which model, which prompt, how hard to drive it.
        quality: what a text must fulfil.
        graph, sets: folders of the earlier stages.
        folder: where the texts go.
        seed: sent along as the request's seed; a new seed asks for new texts.
        max_usd: what all runs in ``folder`` together may cost, in US dollars.
        progress: told the texts at hand, of all, and the cost so far.

    Raises:
        BudgetError: the next call could exceed ``max_usd``.
        ConfigError: the prompt, price, URL or a header is unusable.
        EndpointError: the endpoint cannot be used (see its subclasses).
        IncompleteError: more than ``max_failed_share`` of the texts failed for good.
        StorageError: the disk is full.
    """
    if config.base_url is None and config.model != local.MODEL:
        raise ConfigError(
            f"generation.model is {config.model!r}, but generation.base_url is empty, which means the built-in server "
            f"with its only model {local.MODEL!r}. Set generation.base_url, such as https://api.openai.com/v1."
        )
    prompt, price = load_prompt(config.prompt), _price(config)

    def work(folder: Path) -> dict[str, Any]:
        triplet_sets = TripletSets(graph, sets)
        questions = Questions(config, prompt, triplet_sets, seed=seed)
        with Journal(folder / "journal") as journal:
            bill = _Bill(folder / "cost.json", _estimate(questions, price), journal, max_usd)
            asking = _Asking(config, questions, journal, folder / "failures.jsonl", progress)
            try:
                asking.run(price, Ledger(to_picodollars(max_usd), journal.spent))
            finally:
                bill.write(asking)
            asking.check_failures(config.max_failed_share)
            compiler = Compiler(folder, questions, QualityGate(quality, triplet_sets.graph), journal)
            counts = compiler.run(asking.keys, progress)
            bill.write(asking, counts)
        return counts | {"failed": asking.failed}

    settings = config.fingerprinted() | {"local": None if config.base_url else config.local.fingerprinted()}
    return run_stage(
        "texts",
        folder,
        config={"generation": settings, "quality": quality.fingerprinted()},
        inputs={
            "graph": read_manifest(graph).output_hash,
            "sets": read_manifest(sets).output_hash,
            "prompt": prompt.hash,
            **({"negatives": prompt.negatives_hash} if count_negatives(sets) else {}),
            "endpoint": _identity(config),
        },
        seed=seed,
        work=work,
        keep=("journal", "cost.json"),
    )


# --- Asking ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Question:
    id: int
    key: bytes
    request: Request


class _Asking:
    """Sends the questions that the journal has no answer to."""

    def __init__(
        self,
        config: GenerationConfig,
        questions: Questions,
        journal: Journal,
        failures: Path,
        progress: Progress,
    ) -> None:
        self.keys = bytearray()  # key of every set, in the order of the sets; complete once `run` has returned
        self.failed = 0  # sets without an answer
        self.stored = 0  # sets whose answer was in the journal already
        self.seconds = 0.0
        self.statistics = ClientStatistics()
        self._config = config
        self._questions = questions
        self._identity = _identity(config)
        self._journal = journal
        self._failures = failures
        self._progress = progress
        self._in_flight: set[bytes] = set()
        self._terminated = False

    @property
    def done(self) -> int:
        """Sets that need no further call."""
        return self.stored + self.statistics.completions + self.failed

    def run(self, price: Price, ledger: Ledger) -> None:
        """Ask until every set has an answer or has failed for good.

        Raises:
            BudgetError, EndpointError, ConfigError, StorageError: all that was answered until then is stored.
            KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, likewise.
        """
        started = time.perf_counter()
        self._failures.write_bytes(b"")
        unanswered = self._unanswered()
        first = next((question for question in unanswered if question), None)
        try:
            if first:  # nobody is troubled, and no server started, where everything is stored
                with _endpoint(self._config) as endpoint:
                    asyncio.run(self._run(endpoint, price, ledger, chain([first], unanswered)))
            keys = (bytes(self.keys[at : at + KEY_BYTES]) for at in range(0, len(self.keys), KEY_BYTES))
            self.failed = sum(key not in self._journal for key in keys)  # equal questions fail together
        except asyncio.CancelledError:
            if self._terminated:
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        finally:
            self.seconds = time.perf_counter() - started
            self._tell()

    def check_failures(self, max_share: float) -> None:
        """Raise `IncompleteError` if too many sets have failed."""
        if self.failed > max_share * self._questions.sets.count:
            raise IncompleteError(
                f"{self.failed} of {self._questions.sets.count} texts could not be had; the reasons are in "
                f"{self._failures}. All others are stored. Run again to ask for the missing ones only, or set "
                "generation.max_failed_share to go on without them."
            )

    async def _run(
        self, endpoint: Endpoint, price: Price, ledger: Ledger, questions: Iterator[_Question | None]
    ) -> None:
        config = self._config
        limiter = Limiter(
            config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
        )
        client = Client(
            endpoint,
            price=price,
            ledger=ledger,
            limiter=limiter,
            max_attempts=config.max_attempts,
            timeout_s=config.timeout_s,
            on_presumed=self._journal.charge,
        )
        self.statistics = client.statistics
        async with client:
            reporter = asyncio.create_task(self._report())
            workers = [
                asyncio.create_task(self._work(client, questions))
                for _ in range(min(config.concurrency, self._questions.sets.count))
            ]
            try:
                with self._stopping_on_sigterm():
                    await _finish(workers, client)
            finally:
                reporter.cancel()

    async def _work(self, client: Client, questions: Iterator[_Question | None]) -> None:
        for question in questions:
            if question is None:
                await asyncio.sleep(0)
                continue
            try:
                completion = await client.complete(question.request)
            except RequestFailedError as error:
                self._note_failure(question, error)
                continue
            except StoppedError:
                return
            finally:
                self._in_flight.discard(question.key)
            self._journal.append(
                Record(
                    key=question.key,
                    cost=completion.cost,
                    text=completion.text,
                    finish_reason=completion.finish_reason,
                    model=completion.model,
                    input_tokens=completion.usage.input_tokens,
                    cached_input_tokens=completion.usage.cached_input_tokens,
                    output_tokens=completion.usage.output_tokens,
                    latency_s=round(completion.latency_s, 6),
                    attempts=completion.attempts,
                    time=round(time.time(), 3),
                )
            )

    def _unanswered(self) -> Iterator[_Question | None]:
        """Questions to ask; None now and then, so that passing over stored ones does not hold up the event loop."""
        skipped = 0
        for batch in self._questions.sets.batches(_READ_ROWS):
            for triplet_set in batch:
                request = self._questions.request(triplet_set)
                key = answer_key(self._identity, request.body)
                self.keys += key
                if key in self._journal or key in self._in_flight:
                    self.stored += 1
                    skipped += 1
                    if skipped % _SKIPS_PER_TURN == 0:
                        yield None
                    continue
                self._in_flight.add(key)
                yield _Question(triplet_set.id, key, request)

    def _note_failure(self, question: _Question, error: RequestFailedError) -> None:
        self.failed += 1
        line = {
            "id": question.id,
            "reason": str(error),
            "status": error.status,
            "attempts": error.attempts,
            "request": json.loads(question.request.body),
        }
        with self._failures.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    async def _report(self) -> None:
        while True:
            self._tell()
            await asyncio.sleep(_PROGRESS_S)

    def _tell(self) -> None:
        self._progress(
            self.done,
            self._questions.sets.count,
            "texts",
            usd=round(self._journal.spent_usd, 6),
            errors=self.statistics.retries.total() + self.failed,
        )

    def _stopping_on_sigterm(self) -> AbstractContextManager[None]:
        """Make SIGTERM stop the asking in good order, unless the host program has its own way with it."""
        is_ours = threading.current_thread() is threading.main_thread() and (
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        return _Sigterm(self) if is_ours else nullcontext()

    def terminate(self) -> None:
        self._terminated = True


class _Sigterm:
    """Cancels the current task on SIGTERM for the length of a ``with`` block."""

    def __init__(self, asking: _Asking) -> None:
        self._asking = asking
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()

    def __enter__(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self._cancel)

    def __exit__(self, *error: Any) -> None:
        self._loop.remove_signal_handler(signal.SIGTERM)

    def _cancel(self) -> None:
        self._asking.terminate()
        if self._task:
            self._task.cancel()


async def _finish(workers: list[asyncio.Task[None]], client: Client) -> None:
    """Wait for all workers. After the first error, and after a cancellation, only calls in flight are awaited."""
    if not workers:
        return
    try:
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        client.stop()
        await asyncio.wait(workers)
    except asyncio.CancelledError:
        client.stop()
        log.warning("interrupted: waiting up to %g s for the calls in flight; all that is answered is stored", _GRACE_S)
        await asyncio.wait(workers, timeout=_GRACE_S)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        raise
    errors = [error for worker in workers if (error := worker.exception()) is not None]
    if errors:
        raise errors[0]


# --- Bill -----------------------------------------------------------------------------------------------------------


class _Bill:
    """Writes ``cost.json``: what was expected, what this run did, what everything has cost so far."""

    def __init__(self, path: Path, estimate: Estimate, journal: Journal, max_usd: float) -> None:
        self._path = path
        self._estimate = estimate
        self._journal = journal
        self._max_usd = max_usd

    def write(self, asking: _Asking, counts: dict[str, Any] | None = None) -> None:
        statistics, seconds = asking.statistics, asking.seconds
        bill: dict[str, Any] = {
            "max_usd": self._max_usd,
            "spent_usd": self._journal.spent_usd,  # all runs in this folder, whatever prompt or model
            "estimate": asdict(self._estimate),
            "this_run": {
                "answered_before": asking.stored,
                "answered": statistics.completions,
                "failed": asking.failed,
                "requests": statistics.requests,
                "retries": dict(sorted(statistics.retries.items())),
                "seconds": round(seconds, 3),
                "texts_per_second": round(statistics.completions / seconds, 1) if seconds else 0.0,
            },
        }
        if counts is not None:
            usd = counts["usd"]
            bill["texts"] = {
                "samples": counts["samples"],
                "rejected": counts["rejected"],
                "input_tokens": counts["input_tokens"],
                "cached_input_tokens": counts["cached_input_tokens"],
                "output_tokens": counts["output_tokens"],
                "usd": usd,
                "usd_per_sample": usd / counts["samples"] if counts["samples"] else None,
            }
        write_atomic(self._path, json.dumps(bill, indent=2) + "\n")


# --- Endpoint and estimate ------------------------------------------------------------------------------------------


def _price(config: GenerationConfig) -> Price:
    return price_of(config.model, config.input_usd_per_million, config.output_usd_per_million)


def _identity(config: GenerationConfig) -> str:
    """What stands for the endpoint in keys."""
    return local.identity(config.local, seed=0) if config.base_url is None else Endpoint.identity(config)


@contextmanager
def _endpoint(config: GenerationConfig) -> Iterator[Endpoint]:
    """The configured endpoint, or the built-in server, running for the length of the ``with`` block."""
    if config.base_url is not None:
        yield Endpoint.from_config(config)
        return
    with local.LocalServer(config.local, seed=0) as server:
        yield Endpoint(server.base_url, config.model)


def _output_tokens(triplet_set: TripletSet) -> tuple[int, int]:
    """Fewest and most tokens that the text is likely to take."""
    if triplet_set.topic:
        return _OUTPUT_TOKENS_OF_NEGATIVE
    fewest, most = _OUTPUT_TOKENS_PER_TRIPLET
    return len(triplet_set.triplets) * fewest, len(triplet_set.triplets) * most


def _estimate(questions: Questions, price: Price) -> Estimate:
    count, sampled, characters, messages, low, high = questions.sets.count, 0, 0, 0, 0, 0
    every = max(1, count // _ESTIMATE_ROWS)
    position = 0
    for batch in questions.sets.batches(_READ_ROWS):
        for triplet_set in batch[-position % every :: every]:
            asked = questions.messages(triplet_set)
            characters += sum(len(message["content"]) for message in asked)
            messages += len(asked)
            fewest, most = _output_tokens(triplet_set)
            low += min(fewest, questions.output_bound)
            high += min(most, questions.output_bound)
            sampled += 1
        position += len(batch)
    scale = count / sampled if sampled else 0.0
    input_low, input_high = (
        round(scale * (characters / per_token + overhead * messages))
        for per_token, overhead in zip(_CHARACTERS_PER_TOKEN, (3, 8), strict=True)
    )
    output_low, output_high = round(scale * low), round(scale * high)
    return Estimate(
        questions.config.model,
        count,
        input_low,
        input_high,
        output_low,
        output_high,
        price.worst_cost(input_low, output_low) / PICODOLLARS,
        price.worst_cost(input_high, output_high) / PICODOLLARS,
    )
