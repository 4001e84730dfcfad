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
import hashlib
import json
import logging
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.graph import KnowledgeGraph
from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage, write_atomic
from synthie.config import GenerationConfig, QualityConfig
from synthie.errors import ConfigError, IncompleteError, InputError
from synthie.llm import local
from synthie.llm.client import Client, ClientStatistics, Endpoint, Request, RequestFailedError, StoppedError
from synthie.llm.journal import KEY_BYTES, Journal, Record
from synthie.llm.limits import Limiter
from synthie.llm.pricing import PICODOLLARS, Ledger, Price, input_token_bound, price_of, to_picodollars
from synthie.llm.prompts import Fact, Prompt, Relation, load_prompt
from synthie.quality import QualityGate, Reason, Verdict
from synthie.records import SAMPLE_SCHEMA, Mention, Triplet

__all__ = ["Estimate", "estimate_cost", "generate_texts"]

log = logging.getLogger(__name__)

_READ_ROWS = 1_000
_PART_ROWS = 10_000  # triplet sets behind one pair of Parquet parts
_ESTIMATE_ROWS = 1_000
_PROGRESS_S = 0.5
_GRACE_S = 5.0  # after Ctrl-C: how long calls in flight may still arrive
_CHECKED_PER_REPORT = 500
_SKIPS_PER_TURN = 200  # stored rows passed over before the event loop gets a turn
_CHARACTERS_PER_TOKEN = (4.8, 3.2)  # of English prompts with names: most, fewest
_OUTPUT_TOKENS_PER_TRIPLET = (8, 40)  # fewest, most


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
    questions = _Questions(config, load_prompt(config.prompt), _TripletSets(graph, sets), seed=0)
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
        triplet_sets = _TripletSets(graph, sets)
        questions = _Questions(config, prompt, triplet_sets, seed=seed)
        with Journal(folder / "journal") as journal:
            bill = _Bill(folder / "cost.json", _estimate(questions, price), journal, max_usd)
            asking = _Asking(config, questions, journal, folder / "failures.jsonl", progress)
            try:
                asking.run(price, Ledger(to_picodollars(max_usd), journal.spent))
            finally:
                bill.write(asking)
            asking.check_failures(config.max_failed_share)
            compiler = _Compiler(folder, triplet_sets, QualityGate(quality, triplet_sets.graph), journal)
            origin = {
                "model": config.model,
                "endpoint": config.base_url or "built-in",
                "prompt": prompt.name,
                "prompt_hash": prompt.hash,
            }
            counts = compiler.run(asking.keys, origin, progress)
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
            "endpoint": _identity(config),
        },
        seed=seed,
        work=work,
        keep=("journal", "cost.json"),
    )


# --- Questions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TripletSet:
    id: int
    split: str
    triplets: list[Triplet]


class _TripletSets:
    """The sets of a run, read in batches, with names from the graph."""

    def __init__(self, graph: Path, sets: Path) -> None:
        self.graph = KnowledgeGraph.open(graph)
        self._path = sets / "sets.parquet"
        try:
            self.count: int = pq.read_metadata(self._path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"Cannot read {self._path}: {str(error).rstrip('.')}. Run the sampling stage again."
            ) from error
        self.node = lru_cache(1 << 16)(self._node)
        self.relation = lru_cache(None)(self._relation)

    def batches(self, rows: int) -> Iterator[list[_TripletSet]]:
        """All sets in order, ``rows`` at a time."""
        try:
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(batch_size=rows, columns=["id", "split", "triplets"]):
                    yield [self._triplet_set(row) for row in batch.to_pylist()]
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"Cannot read {self._path}: {str(error).rstrip('.')}. Run the sampling stage again."
            ) from error
        except KeyError as error:
            raise InputError(
                f"{self._path} does not fit the graph in {self.graph.folder}: {error.args[0]}. "
                "Run the sampling stage again."
            ) from error

    def _triplet_set(self, row: dict[str, Any]) -> _TripletSet:
        triplets = [
            Triplet(
                self.node(triplet["subject"])[0],
                self.relation(triplet["relation"])[0],
                self.node(triplet["object"])[0],
            )
            for triplet in row["triplets"]
        ]
        return _TripletSet(row["id"], row["split"], triplets)

    def _node(self, uri: str) -> tuple[Mention, str]:
        """A node, and its name as prompts show it: spaces for underscores, no id that only makes it unique."""
        node = self.graph.node(uri)
        spoken = node.name.removesuffix(f"_({uri})").replace("_", " ") if node.kind == "entity" else node.name
        return Mention(node.name, uri), spoken

    def _relation(self, uri: str) -> tuple[Mention, Relation]:
        relation = self.graph.relation(uri)
        return Mention(relation.label, uri), Relation(relation.label, relation.description or "")


class _Questions:
    """The request body of each set."""

    def __init__(self, config: GenerationConfig, prompt: Prompt, sets: _TripletSets, *, seed: int) -> None:
        self.sets = sets
        self.config = config
        self._prompt = prompt
        fields: dict[str, Any] = {
            "temperature": prompt.temperature if config.temperature is None else config.temperature,
            "max_tokens": config.max_tokens or prompt.max_tokens,
            "seed": seed,
            **config.extra_body,
        }
        self._fields = {name: value for name, value in fields.items() if value is not None}
        limits = [self._fields[name] for name in ("max_completion_tokens", "max_tokens") if name in self._fields]
        if not limits or not all(isinstance(limit, int) and limit > 0 for limit in limits):
            raise ConfigError(
                "The request needs max_tokens or max_completion_tokens, a positive whole number: budget and limits "
                "reckon with it. Set generation.max_tokens, or one of them in generation.extra_body."
            )
        self.output_bound: int = max(limits)

    def messages(self, triplet_set: _TripletSet) -> list[dict[str, str]]:
        facts = [
            Fact(self.sets.node(t.subject.uri)[1], t.predicate.surfaceform, self.sets.node(t.object.uri)[1])
            for t in triplet_set.triplets
        ]
        relations = dict.fromkeys(self.sets.relation(t.predicate.uri)[1] for t in triplet_set.triplets)
        return self._prompt.messages(facts, list(relations))

    def request(self, triplet_set: _TripletSet) -> Request:
        messages = self.messages(triplet_set)
        body = _encoder.encode({"model": self.config.model, "messages": messages, **self._fields})
        return Request(body, input_token_bound(body, len(messages)), self.output_bound)


_encoder = msgspec.json.Encoder(order="deterministic")


def _key(identity: str, body: bytes) -> bytes:
    return hashlib.blake2b(identity.encode() + b"\0" + body, digest_size=KEY_BYTES).digest()


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


def _estimate(questions: _Questions, price: Price) -> Estimate:
    count, sampled, characters, messages, low, high = questions.sets.count, 0, 0, 0, 0, 0
    every = max(1, count // _ESTIMATE_ROWS)
    position = 0
    for batch in questions.sets.batches(_READ_ROWS):
        for triplet_set in batch[-position % every :: every]:
            asked = questions.messages(triplet_set)
            characters += sum(len(message["content"]) for message in asked)
            messages += len(asked)
            fewest, most = (len(triplet_set.triplets) * tokens for tokens in _OUTPUT_TOKENS_PER_TRIPLET)
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
        questions: _Questions,
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
                key = _key(self._identity, request.body)
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


# --- Compiling ------------------------------------------------------------------------------------------------------


class _Compiler:
    """Turns the journal's answers into the Parquet parts of accepted and rejected samples."""

    def __init__(self, folder: Path, sets: _TripletSets, gate: QualityGate, journal: Journal) -> None:
        self._folder = folder
        self._sets = sets
        self._gate = gate
        self._journal = journal

    def run(self, keys: bytearray, origin: dict[str, str], progress: Progress) -> dict[str, Any]:
        """Check every answer, then find duplicates among the accepted ones, then write; returns the counts."""
        checked = self._folder / ".checked"
        for name in (".checked", "samples", "rejected"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir()
        ids: list[int] = []
        texts: list[str] = []
        parts = 0
        for batch in self._sets.batches(_PART_ROWS):
            rows = self._check(batch, keys, parts * _PART_ROWS, progress)
            accepted = [row for row in rows if row["verdict"] == "accepted"]
            ids += [row["id"] for row in accepted]
            texts += [row["text"] for row in accepted]
            table = pa.Table.from_pylist([row | origin for row in rows], SAMPLE_SCHEMA)
            pq.write_table(table, checked / f"part-{parts:05d}.parquet")
            parts += 1
        repeats = self._repeats(ids, texts)
        counts = _Counts()
        for part in range(parts):
            table = _with_repeats(pq.read_table(checked / f"part-{part:05d}.parquet"), repeats)
            counts.add(table)
            for verdict, name in (("accepted", "samples"), ("rejected", "rejected")):
                chosen = table.filter(pc.field("verdict") == verdict)
                if chosen.num_rows:
                    pq.write_table(chosen, self._folder / name / f"part-{part:05d}.parquet", compression="zstd")
        shutil.rmtree(checked)
        return {"sets": self._sets.count, **asdict(counts)}

    def _check(self, batch: list[_TripletSet], keys: bytearray, first: int, progress: Progress) -> list[dict[str, Any]]:
        """The rows of the sets number ``first`` and following that have an answer."""
        rows = []
        for number, triplet_set in enumerate(batch, first):
            record = self._journal.get(bytes(keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]))
            if record is not None:
                text = record.text.strip()
                verdict = self._gate.check(text, triplet_set.triplets, record.finish_reason)
                rows.append(_row(triplet_set, text, record, verdict))
            if (number + 1) % _CHECKED_PER_REPORT == 0:
                progress(number + 1, self._sets.count, "checked")
        progress(first + len(batch), self._sets.count, "checked")
        return rows

    def _repeats(self, ids: list[int], texts: list[str]) -> dict[int, Reason]:
        """Set id of each text that repeats an earlier one -> the reason to reject it."""
        found = {}
        for number, earlier in enumerate(self._gate.near_duplicates(texts)):
            if earlier is not None:
                is_same = texts[number] == texts[earlier]
                found[ids[number]] = Reason(
                    "duplicate" if is_same else "near_duplicate",
                    f"{'The same text' if is_same else 'Nearly the same text'} as that of set {ids[earlier]}.",
                )
        return found


@dataclass(slots=True)
class _Counts:
    """What the manifest says about the compiled texts."""

    samples: int = 0
    rejected: int = 0
    splits: dict[str, int] = field(default_factory=dict)  # accepted
    reasons: dict[str, int] = field(default_factory=dict)  # rejected texts by check; a text may have several
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    def add(self, table: pa.Table) -> None:
        accepted = table.filter(pc.field("verdict") == "accepted")
        self.samples += accepted.num_rows
        self.rejected += table.num_rows - accepted.num_rows
        self.splits = dict(Counter(self.splits) + Counter(accepted["split"].to_pylist()))
        faults = Counter(check for reasons in table["reasons"].to_pylist() for check in {r["check"] for r in reasons})
        self.reasons = dict(sorted((Counter(self.reasons) + faults).items()))
        self.input_tokens += pc.sum(table["input_tokens"], min_count=0).as_py()
        self.cached_input_tokens += pc.sum(table["cached_input_tokens"], min_count=0).as_py()
        self.output_tokens += pc.sum(table["output_tokens"], min_count=0).as_py()
        self.usd = round(self.usd + pc.sum(table["usd"], min_count=0).as_py(), 12)


def _row(triplet_set: _TripletSet, text: str, record: Record, verdict: Verdict) -> dict[str, Any]:
    triplets = _by_mention(triplet_set.triplets, verdict.mentions)
    nodes = dict.fromkeys(node for triplet in triplets for node in (triplet.subject, triplet.object))
    return {
        "id": triplet_set.id,
        "split": triplet_set.split,
        "text": text,
        "triplets": [triplet.to_record() for triplet in triplets],
        "entities": [
            {
                "surfaceform": node.surfaceform,
                "uri": node.uri,
                "mention_start_index": verdict.mentions.get(node.uri, -1),
            }
            for node in nodes
        ],
        "relations": [
            {"surfaceform": relation.surfaceform, "uri": relation.uri}
            for relation in dict.fromkeys(triplet.predicate for triplet in triplets)
        ],
        "request_key": record.key.hex(),
        "input_tokens": record.input_tokens,
        "cached_input_tokens": record.cached_input_tokens,
        "output_tokens": record.output_tokens,
        "usd": record.cost / PICODOLLARS,
        "latency_s": record.latency_s,
        "attempts": record.attempts,
        "finish_reason": record.finish_reason,
        "verdict": "accepted" if verdict.accepted else "rejected",
        "reasons": [{"check": reason.check, "detail": reason.detail} for reason in verdict.reasons],
    }


def _by_mention(triplets: list[Triplet], mentions: dict[str, int]) -> list[Triplet]:
    """Order by the subject's first mention, its name, then the object's first mention; not found goes last."""

    def place(node: Mention) -> float:
        start = mentions.get(node.uri, -1)
        return start if start >= 0 else float("inf")

    return sorted(triplets, key=lambda t: (place(t.subject), t.subject.surfaceform, place(t.object)))


def _with_repeats(table: pa.Table, repeats: dict[int, Reason]) -> pa.Table:
    """The table with the rows in ``repeats`` rejected."""
    ids = table["id"].to_pylist()
    if not any(row in repeats for row in ids):
        return table
    verdicts = [
        "rejected" if row in repeats else old for row, old in zip(ids, table["verdict"].to_pylist(), strict=True)
    ]
    reasons = [
        [repeats[row]._asdict()] if row in repeats else old
        for row, old in zip(ids, table["reasons"].to_pylist(), strict=True)
    ]
    for name, values in (("verdict", verdicts), ("reasons", reasons)):
        index = SAMPLE_SCHEMA.get_field_index(name)
        table = table.set_column(index, SAMPLE_SCHEMA.field(index), pa.array(values, SAMPLE_SCHEMA.field(index).type))
    return table


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
