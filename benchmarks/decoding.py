"""What the constraint adds to a step of beam search, beside a prefix tree of dictionaries; and what a world costs.

    python benchmarks/decoding.py [--names 1000 1000000 3000000] [--device cuda] [--steps 64] [--models base small]

Models with random weights: a decoder as large as T5-base with T5's vocabulary, and the demo preset's. Eight texts,
ten beams; every search runs to the same length, with and without constraint, in turns. The names are made up in the
likeness of Wikipedia's titles and tokenised by a tokenizer that is trained on them. A step's overhead is the time in
the constraint as a share of the rest of the step; on a GPU, where work is only queued, that of whole searches, and
the constraint must run while synchronisation with the host is an error.

The baseline is the obvious way: dictionaries in dictionaries behind ``prefix_allowed_tokens_fn``. Building is measured
in a process of its own: seconds, and memory at the peak beyond the names themselves.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import (
    LogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    T5Config,
    T5ForConditionalGeneration,
)

from synthie.extractor.constraint import Automaton, TrieConstraint
from synthie.extractor.linearization import END, linearization
from synthie.extractor.ragged import Ragged
from synthie.extractor.tokenizer import tokenize_world, train_tokenizer
from synthie.extractor.world import World, WorldTokens

TEXTS, BEAMS, SOURCE = 8, 10, 64
MODELS = {
    "base": {"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 2_048, "num_layers": 12, "num_heads": 12},
    "small": {"vocab_size": 3_000, "d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4},
}
FORM = linearization("fully_expanded", "underscores")
RELATIONS = [f"{verb} {noun}" for verb in ("place of", "date of", "has", "part of") for noun in ("birth", "war", "art")]
BASELINE_NAMES = 1_000_000  # beyond, dictionaries take more memory than most machines have
STEPS = (0.0, 0.1, 0.65, 0.9)  # from where on in 0…1 a name has a first, second, third, fourth word
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, nargs="+", default=[1_000, 1_000_000, 3_000_000])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=64, help="tokens of a search")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each kind; the best counts")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--no-baseline", action="store_true")
    args = parser.parse_args()
    hardware = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{hardware}; {TEXTS} texts x {BEAMS} beams, {args.steps} steps", flush=True)
    names = make_names(max(args.names))
    for kind in args.models:
        tokenizer = train_tokenizer(names[:100_000], MODELS[kind]["vocab_size"])
        model = make_model(kind, args.device)
        for count in args.names:
            world, tokens = build_apart(tokenizer, names[:count], MODELS[kind]["vocab_size"])
            ways: dict[str, Callable[[], LogitsProcessor]] = {
                "constraint": partial(TrieConstraint, Automaton(world, args.device), BEAMS)
            }
            if not args.no_baseline and count <= BASELINE_NAMES:
                ways["dictionaries"] = partial(PrefixConstrainedLogitsProcessor, Dictionaries(world, tokens), BEAMS)
            report(f"{kind} {count:>9,}", compare(model, ways, args.steps, args.rounds), args.device)


def make_names(count: int) -> list[str]:
    """Distinct names: one to four words in Zipf's proportions, some with a year or a remark in brackets."""
    draw = np.random.default_rng(SEED)
    consonants = ["b", "br", "c", "ch", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v", "w"]
    syllables = [a + b + c for a in consonants for b in "aeiou" for c in ("", "n", "r", "s", "l")]
    parts = draw.integers(0, len(syllables), (60_000, 3))
    words = pa.array("".join(syllables[part] for part in row[: 1 + row[0] % 3]).capitalize() for row in parts.tolist())
    tails = [
        "",
        "(film)",
        "(village)",
        "(song)",
        "(album)",
        "New_York",
        "County",
        "River",
        *map(str, range(1800, 2020)),
    ]
    tails = pa.array("_" + tail if tail else None for tail in tails)
    found = pa.array([], pa.string())
    while len(found) < count:
        size = int(1.5 * (count - len(found))) + 1_000
        chosen = np.minimum(draw.zipf(1.15, (4, size)), len(words)) - 1
        longer = draw.random(size)
        columns = [pc.take(words, pa.array(row, mask=longer < least)) for row, least in zip(chosen, STEPS, strict=True)]
        tail = pc.take(tails, np.where(draw.random(size) < 0.7, 0, draw.integers(1, len(tails), size)))
        names = pc.binary_join_element_wise(*columns, "_", null_handling="skip")
        names = pc.binary_join_element_wise(names, tail, "", null_handling="skip")
        found = pc.unique(pa.concat_arrays([found, names]))
    return found.to_pylist()[:count]


def make_model(kind: str, device: str) -> Any:
    torch.manual_seed(SEED)
    config = T5Config(**MODELS[kind], decoder_start_token_id=0, feed_forward_proj="gated-gelu")
    return T5ForConditionalGeneration(config).eval().to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def build_apart(tokenizer: Any, names: list[str], vocabulary: int) -> tuple[World, WorldTokens]:
    """Build in a forked process, which tells what it took; the results come back as arrays."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=build, args=(tokenizer, names, vocabulary, sender))
    process.start()
    *cost, world, tokens = receiver.recv()
    process.join()
    tokenizing, building, memory = cost
    print(
        f"world of {len(names):,} names: tokens {tokenizing:.1f} s CPU, trie {building:.1f} s CPU, "
        f"{memory / 2**20:,.0f} MiB more at the peak, {world.trie.nodes:,} trie nodes, "
        f"{world.trie.keys.nbytes / 2**20 + world.trie.offsets.nbytes / 2**20:,.0f} MiB of arrays",
        flush=True,
    )
    return world, tokens


def build(tokenizer: Any, names: list[str], vocabulary: int, sender: Any) -> None:
    nodes = pa.table({"id": pa.array(f"Q{number}" for number in range(len(names))), "name": pa.array(names)})
    relations = pa.table({"id": RELATIONS, "name": RELATIONS})
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.process_time()
    tokens = tokenize_world(tokenizer, FORM, names, RELATIONS)
    tokenized = time.process_time()
    world = World.build(FORM, tokens, nodes, relations, vocabulary=vocabulary, pad=0)
    end = time.process_time()
    sender.send((tokenized - start, end - tokenized, memory("VmHWM") - before, world, tokens))


def memory(entry: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024


class Timed(LogitsProcessor):
    """Counts the seconds in a constraint; on a GPU, forbids it to wait for the device."""

    def __init__(self, constraint: LogitsProcessor) -> None:
        self._constraint = constraint
        self.seconds = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        start = time.process_time()
        with no_synchronisation(scores.is_cuda and isinstance(self._constraint, TrieConstraint)):
            masked = self._constraint(input_ids, scores)
        self.seconds += time.process_time() - start
        return masked


@contextmanager
def no_synchronisation(cuda: bool) -> Any:
    if not cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Dictionaries:
    """``prefix_allowed_tokens_fn`` over dictionaries in dictionaries; the markers are single tokens."""

    def __init__(self, world: World, tokens: WorldTokens) -> None:
        start = time.perf_counter()
        before = memory("VmRSS")
        nodes, relations = nested(tokens.nodes), nested(tokens.relations)
        subject, relation, target, close = (world.markers[marker][0] for marker in ("[s]", "[r]", "[o]", "[e]"))
        # marker -> what may follow it, and what closes that
        self._after = {subject: (nodes, relation), relation: (relations, target), target: (nodes, close)}
        self._boundary = [subject, world.markers[END][0]]
        self._end = world.markers[END][0]
        print(
            f"  as dictionaries: {time.perf_counter() - start:.1f} s, {(memory('VmRSS') - before) / 2**20:,.0f} MiB, "
            "without the tokenizer",
            flush=True,
        )

    def __call__(self, text: int, prefix: torch.Tensor) -> list[int]:
        return self._allowed(prefix.tolist()[1:])

    def _allowed(self, prefix: list[int]) -> list[int]:
        if prefix and prefix[-1] in (0, self._end):
            return [0, self._end]
        place = next((place for place in range(len(prefix) - 1, -1, -1) if prefix[place] in self._after), -1)
        if place < 0 or prefix[-1] == self._after_last():
            return self._boundary
        node, closing = self._after[prefix[place]]
        for token in prefix[place + 1 :]:
            node = node.get(token, {})
        return [closing if token == -1 else token for token in node] or [self._end]

    def _after_last(self) -> int:
        return list(self._after.values())[-1][1]


def nested(names: Ragged) -> dict[int, Any]:
    root: dict[int, Any] = {}
    for row in range(len(names)):
        node = root
        for token in names[row].tolist():
            node = node.setdefault(token, {})
        node[-1] = None
    return root


def compare(
    model: Any, ways: dict[str, Callable[[], LogitsProcessor]], steps: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Way -> seconds of a step, and those of them in the constraint; the best of the rounds, which take turns."""
    texts = torch.randint(3, model.config.vocab_size, (TEXTS, SOURCE), device=model.device)
    found: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        for name, way in {"unconstrained": None, **ways}.items():
            watched = [Timed(way())] if way else []
            seconds = search(model, texts, steps, watched)
            if turn:  # the first is for warming up
                found.setdefault(name, []).append((seconds / steps, sum(each.seconds for each in watched) / steps))
    return {name: min(measured) for name, measured in found.items()}


def search(model: Any, texts: torch.Tensor, steps: int, processors: list[Timed]) -> float:
    start = clock(texts.is_cuda)
    with torch.inference_mode():
        output = model.generate(
            input_ids=texts,
            num_beams=BEAMS,
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            logits_processor=processors,
        )
    assert output.shape[1] == steps + 1
    return clock(texts.is_cuda) - start


def clock(cuda: bool) -> float:
    """Seconds: of this process on the CPU, where others on the machine do not count, else on the wall."""
    if not cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def report(title: str, found: dict[str, tuple[float, float]], device: str) -> None:
    plain = found["unconstrained"][0]
    print(f"{title}  unconstrained {plain * 1e3:8.2f} ms a step")
    overhead = {name: step / plain - 1 for name, (step, _) in found.items()}
    for name, (step, inside) in found.items():
        if name == "unconstrained":
            continue
        if device == "cpu":
            overhead[name] = inside / (step - inside)
        print(
            f"{'':{len(title)}}  {name:13} {step * 1e3:8.2f} ms a step, {inside * 1e3:6.2f} ms of them in it; "
            f"overhead {overhead[name]:.1%}",
            flush=True,
        )
    if "dictionaries" in overhead:
        less = overhead["dictionaries"] / overhead["constraint"]
        print(f"{'':{len(title)}}  {less:.0f} times less overhead than dictionaries", flush=True)


if __name__ == "__main__":
    main()
