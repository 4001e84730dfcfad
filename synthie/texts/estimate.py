"""What generating the texts will cost, told before anything is spent.

A thousand requests, evenly spaced over the sets, are rendered and counted. Input tokens come from the model's
tokenizer where `tiktoken` has it at hand; where the journal holds answers of the same model, of an earlier run or
of a pilot, both directions are measured on them; else they are reckoned from characters and triplets.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kg.stage import read_manifest
from synthie.config import GenerationConfig
from synthie.errors import BusyError, ConfigError
from synthie.llm.journal import Journal, Record
from synthie.llm.pricing import PICODOLLARS, Price, batch_discount_of, price_of
from synthie.llm.prompts import load_prompt
from synthie.money import usd
from synthie.texts.questions import FIRST_TRY, Questions, TripletSet, TripletSets, models_of

__all__ = ["Estimate", "check_model", "estimate", "estimate_cost", "price_at", "sampled"]

_ROWS = 1_000  # requests looked at
_MEASURED_FROM = 10  # answers in the journal from which it is asked
_CHARACTERS_PER_TOKEN = (4.8, 3.2)  # of English prompts with names: most, fewest
_TOKENS_PER_MESSAGE = (3, 8)
_OUTPUT_TOKENS_PER_TRIPLET = (8, 40)
_OUTPUT_TOKENS_OF_NEGATIVE = (10, 60)
_TOKENIZER_S = 5.0
_SIGMAS = 2.0  # width of a measured range: about 95%


@dataclass(frozen=True, slots=True)
class Estimate:
    """What generating all texts would take, from a sample of the requests.

    Attributes:
        model: model name, or several.
        rows: texts to ask for, one try each.
        rows_stored: about how many of them are in the journal already; they cost nothing.
        input_tokens_low … output_tokens_high: likely range of the tokens of the others' calls.
        usd_low, usd_high: likely range of the cost in US dollars, without discounts for cached input.
        basis: where the figures come from: "answers" in the journal, the model's "tokenizer", or "characters".
    """

    model: str
    rows: int
    rows_stored: int
    input_tokens_low: int
    input_tokens_high: int
    output_tokens_low: int
    output_tokens_high: int
    usd_low: float
    usd_high: float
    basis: str

    def __str__(self) -> str:
        stored = f", about {self.rows_stored:,} of them stored already" if self.rows_stored else ""
        return (
            f"{self.rows:,} texts by {self.model}{stored}: "
            f"{self.input_tokens_low:,} to {self.input_tokens_high:,} input tokens, "
            f"{self.output_tokens_low:,} to {self.output_tokens_high:,} output tokens, "
            f"{usd(self.usd_low)} to {usd(self.usd_high)} (by {_BASES[self.basis]})."
        )


_BASES = {
    "answers": "the answers at hand",
    "tokenizer": "the model's tokenizer; output by a rule of thumb",
    "characters": "a rule of thumb; --pilot 20 asks for a few texts and measures",
}


def price_at(config: GenerationConfig, number: int | None = None) -> Price:
    """What a token costs at an endpoint (``number`` in ``config.endpoints``), the discount of batch mode included.

    Raises:
        ConfigError: the price or the discount is not known.
    """
    one = None if number is None else config.endpoints[number]
    model = (one and one.model) or config.model

    def told(name: str) -> float | None:
        own = getattr(one, name, None)
        return getattr(config, name) if own is None else own

    price = price_of(
        model,
        told("input_usd_per_million"),
        told("output_usd_per_million"),
        told("cached_input_usd_per_million"),
    )
    return price.discounted(batch_discount_of(model, config.batch_discount)) if config.mode == "batch" else price


def check_model(config: GenerationConfig) -> None:
    """Refuse a model that nobody serves or whose price is not known.

    Raises:
        ConfigError: says which.
    """
    built_in = GenerationConfig().model
    if config.is_built_in and config.model != built_in:
        raise ConfigError(
            f"generation.model is {config.model!r}, but generation.base_url is empty, which means the built-in server "
            f"with its only model {built_in!r}. Set generation.base_url, such as https://api.openai.com/v1."
        )
    for number in range(len(config.endpoints)) if config.endpoints else [None]:
        price_at(config, number)


def estimate_cost(
    config: GenerationConfig, graph: Path, sets: Path, texts: Path | None = None, *, seed: int = 0
) -> Estimate:
    """Estimate tokens and cost of generating the texts; asks nobody.

    Args:
        config: model, prompt, prices.
        graph, sets: folders of the earlier stages.
        texts: folder of the texts stage, whose answers make the estimate better; None for none.
        seed: of the run.

    Raises:
        ConfigError: the prompt does not exist or the model's price is not known.
        InputError: the graph or the sets are not there.
    """
    read_manifest(graph)
    read_manifest(sets)
    questions = Questions(config, load_prompt(config.prompt), TripletSets(graph, sets), seed=seed)
    if texts is None or not (texts / "journal").exists():
        return estimate(questions)
    try:
        with Journal(texts / "journal") as journal:
            return estimate(questions, journal)
    except BusyError:  # a run writes; what it has stored is not looked at
        return estimate(questions)


def sampled(config: GenerationConfig, count: int, most: int = _ROWS) -> np.ndarray:
    """bool[count]: ``most`` of the sets that will be asked for, evenly spaced; fewer are a part of more."""
    wanted = np.arange(min(config.n_texts or count, count))
    chosen = np.zeros(count, bool)
    chosen[_spaced(_spaced(wanted, _ROWS), most)] = True
    return chosen


def _spaced(positions: np.ndarray, most: int) -> np.ndarray:
    few = min(most, len(positions))
    return positions[np.arange(few) * len(positions) // max(1, few)]


def estimate(questions: Questions, journal: Journal | None = None) -> Estimate:
    """Estimate from a sample of the requests and, where there are enough of them, their answers in ``journal``."""
    config = questions.config
    count = questions.sets.count
    wanted = min(config.n_texts or count, count)
    rows = [
        _Row.of(questions, triplet_set, journal)
        for batch in questions.sets.batches(_ROWS, sampled(config, count))
        for _, triplet_set in batch
    ]
    answered = [row for row in rows if row.answer]
    to_ask = [row for row in rows if not row.answer]
    basis, inputs = _inputs(to_ask, answered, config.model)
    outputs = _outputs(to_ask, answered, questions.output_bound)
    scale = wanted / max(1, len(rows))
    prices = _prices(config)

    def cost(end: int) -> float:
        each = zip(map(prices.__getitem__, (row.model for row in to_ask)), inputs[end], outputs[end], strict=True)
        return sum(price.input * read + price.output * written for price, read, written in each) / PICODOLLARS

    return Estimate(
        model=", ".join(models_of(config)),
        rows=wanted,
        rows_stored=round(scale * len(answered)),
        input_tokens_low=round(scale * sum(inputs[0])),
        input_tokens_high=round(scale * sum(inputs[1])),
        output_tokens_low=round(scale * sum(outputs[0])),
        output_tokens_high=round(scale * sum(outputs[1])),
        usd_low=scale * cost(0),
        usd_high=scale * cost(1),
        basis=basis,
    )


_Range = tuple[list[float], list[float]]  # tokens of each row: few, many


@dataclass(frozen=True, slots=True)
class _Row:
    """What decides about the tokens of one request, and its answer if there is one."""

    model: str
    text: str
    messages: int
    facts: int  # 0 for a negative
    answer: Record | None

    @classmethod
    def of(cls, questions: Questions, triplet_set: TripletSet, journal: Journal | None) -> _Row:
        messages = questions.messages(triplet_set)
        answer = None
        if journal is not None:
            answer = journal.get(questions.find(questions.request(triplet_set).body, FIRST_TRY, journal))
        text = "".join(message["content"] for message in messages)
        return cls(questions.model(triplet_set), text, len(messages), len(triplet_set.triplets), answer)


def _inputs(to_ask: list[_Row], answered: list[_Row], model: str) -> tuple[str, _Range]:
    if not to_ask:
        return "answers", ([], [])
    if len(answered) >= _MEASURED_FROM:
        ratio = _ratio([(row.answer.input_tokens, len(row.text)) for row in answered if row.answer])
        return "answers", _each(to_ask, lambda row, end: ratio[end] * len(row.text))
    count = _tokenizer(model)
    if count is not None:
        return "tokenizer", _each(to_ask, lambda row, end: count(row.text) + _TOKENS_PER_MESSAGE[end] * row.messages)
    return "characters", _each(
        to_ask, lambda row, end: len(row.text) / _CHARACTERS_PER_TOKEN[end] + _TOKENS_PER_MESSAGE[end] * row.messages
    )


def _outputs(to_ask: list[_Row], answered: list[_Row], bound: int) -> _Range:
    if len(answered) >= _MEASURED_FROM:
        ratio = _ratio([(row.answer.output_tokens, max(1, row.facts)) for row in answered if row.answer])
        return _each(to_ask, lambda row, end: min(bound, ratio[end] * max(1, row.facts)))

    def reckoned(row: _Row, end: int) -> float:
        tokens = row.facts * _OUTPUT_TOKENS_PER_TRIPLET[end] if row.facts else _OUTPUT_TOKENS_OF_NEGATIVE[end]
        return min(bound, tokens)

    return _each(to_ask, reckoned)


def _each(rows: list[_Row], tokens: Callable[[_Row, int], float]) -> _Range:
    return [tokens(row, 0) for row in rows], [tokens(row, 1) for row in rows]


def _ratio(pairs: list[tuple[int, int]]) -> tuple[float, float]:
    """Lower and upper end of the sum of the firsts over that of the seconds (ratio estimator, Cochran 1977, ch. 6)."""
    tokens, sizes = np.array(pairs, float).T
    ratio = tokens.sum() / sizes.sum()
    residuals = tokens - ratio * sizes
    error = math.sqrt(float((residuals**2).sum()) / (len(pairs) - 1) / len(pairs)) / sizes.mean()
    return max(0.0, ratio - _SIGMAS * error), ratio + _SIGMAS * error


def _prices(config: GenerationConfig) -> dict[str, Price]:
    """The price of each model; the dearest where its endpoints differ."""
    prices: dict[str, Price] = {}
    for number, one in enumerate(config.endpoints):
        model, price = one.model or config.model, price_at(config, number)
        known = prices.get(model, price)
        prices[model] = max(known, price, key=lambda price: (price.output, price.input))
    return prices or {config.model: price_at(config)}


def _tokenizer(model: str) -> Callable[[str], int] | None:
    """Counts tokens as the model does, or None where that cannot be had here and now.

    `tiktoken` fetches its tables at first use; without a network that may take for ever, so it gets a few seconds.
    """
    try:
        import tiktoken
    except ImportError:
        return None
    found: list[Any] = []

    def load() -> None:
        with contextlib.suppress(Exception):  # an unknown model, or whatever its downloader raises
            found.append(tiktoken.encoding_for_model(model))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(_TOKENIZER_S)
    if not found:
        return None
    encoding = found[0]
    return lambda text: len(encoding.encode(text, disallowed_special=()))
