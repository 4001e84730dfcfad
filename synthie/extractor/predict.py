"""Using a trained extractor: texts in, triplets out, and the prediction stage over a split of the data set.

Constrained decoding can only write names of the world, so every triplet has ids. Unconstrained decoding, kept
for comparison, writes what the model likes; its names are looked up afterwards. Texts are decoded in batches of
similar length. torch and transformers are imported when an extractor is opened, not before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage
from synthie.config import DecodingRules, PredictionConfig
from synthie.errors import InputError
from synthie.extractor.examples import split_files
from synthie.extractor.linearization import END, MARKER
from synthie.extractor.reading import read_numbers, score_names
from synthie.extractor.runtime import from_pretrained, pick_device, prepare_runtime, require_libraries
from synthie.extractor.spans import find_spans
from synthie.extractor.world import Meant, World
from synthie.records import PREDICTION_SCHEMA, Prediction, Span, Triplet

if TYPE_CHECKING:
    import torch

    from synthie.extractor.constraint import Automaton

__all__ = ["Extractor", "predict_split"]

_MODES = ("constrained", "unconstrained")
_PARTS = ".parts"  # hidden, so no part of the stage's outputs
_PART_RECORDS = 512  # records predicted between two writes; what a crash can lose
_SCORED_LOGITS = 1 << 24  # logits held at once while outputs are scored: 64 MB


class _Output(NamedTuple):
    """A sequence without start and padding, the log-probability of each of its tokens, and its score."""

    tokens: list[int]
    chances: list[float]
    score: float


class Extractor:
    """A model with its tokenizer and world, ready to read texts; made by `open`."""

    def __init__(self, model: Any, tokenizer: Any, world: World, automaton: Automaton, device: torch.device) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._world, self._automaton = world, automaton

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        world: Path | None = None,
        meant: Meant = "lowest",
        rules: DecodingRules | None = None,
    ) -> Extractor:
        """Open what the training stage wrote.

        Args:
            folder: the extractor's folder.
            device: auto, cpu or cuda.
            world: folder of another world, built for this extractor; None: its own.
            meant: which of several ids with the same tokens is meant (see `World.open`).
            rules: what else must hold of the triplets in constrained decoding; None: nothing.

        Raises:
            ConfigError: a library of the extra ``train`` is missing, or there is no GPU where one is asked for.
            InputError: the folder holds no trained extractor, the other world is not made for it, or the world does
                not know what ``meant`` or ``rules`` need.
        """
        require_libraries()
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from synthie.extractor.constraint import Automaton

        prepare_runtime()
        names = World.open(world or folder, meant=meant)
        if world is not None and not names.is_like(World.open(folder)):
            raise InputError(
                f"The world in {world} is written in other tokens or another form than {folder} was trained with. "
                f"Build it for this extractor: synthie world build … --extractor {folder}"
            )
        chosen = pick_device(device)
        model = from_pretrained(AutoModelForSeq2SeqLM, str(folder)).to(chosen).eval()
        tokenizer = from_pretrained(AutoTokenizer, str(folder))
        return cls(model, tokenizer, names, Automaton(names, chosen, rules), chosen)

    @property
    def beams(self) -> int:
        """Beams of the search that the extractor was trained for."""
        return self._model.generation_config.num_beams

    def extract(
        self,
        texts: Sequence[str],
        *,
        beams: int | None = None,
        batch_size: int = 32,
        max_new_tokens: int = 256,
        length_penalty: float | None = None,
        constrained: bool = True,
        candidates: int = 1,
        spans: bool = True,
    ) -> list[Prediction]:
        """Find the triplets that each text states.

        Texts of similar length are decoded together, so give as many at once as fit in memory.

        Args:
            texts: the texts; what exceeds the length that the model was trained on is cut off.
            beams: beams of the search, 1 is greedy; None: what the extractor was trained for.
            batch_size: texts decoded together.
            max_new_tokens: longest output, in tokens; a triplet that is cut there is dropped.
            length_penalty: exponent of the length in a beam's score; None: what the extractor was trained for.
            constrained: write only names of the world. If not, names that the world does not have get the id "".
            candidates: outputs a text, at most one a beam; all but the best are the prediction's ``alternatives``.
            spans: find where the text mentions subjects and objects.

        Returns:
            one prediction a text, in the order of ``texts``.

        Raises:
            InputError: more candidates than beams.
        """
        if not texts:
            return []
        beams = self.beams if beams is None else beams
        trained_for = self._model.generation_config.length_penalty
        length_penalty = trained_for if length_penalty is None else length_penalty
        if candidates > beams:
            raise InputError(f"{candidates} candidates a text need as many beams, but the search has {beams}.")
        encoded = self._tokenizer(list(texts), truncation=True, verbose=False)
        lengths = [len(tokens) for tokens in encoded["input_ids"]]
        order = sorted(range(len(texts)), key=lambda row: -lengths[row])
        outputs: list[list[_Output]] = [[] for _ in texts]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = [encoded["input_ids"][row] for row in rows]
            found = self._generate(batch, beams, max_new_tokens, length_penalty, constrained, candidates)
            for row, best_first in zip(rows, found, strict=True):
                outputs[row] = best_first
        read = iter(self._read([output for best_first in outputs for output in best_first], constrained))
        predictions = []
        for text, best_first, tokens in zip(texts, outputs, encoded.encodings, strict=True):
            best, *others = (
                replace(
                    prediction,
                    spans=_spans(text, prediction.triplets) if spans else (),
                    truncated=bool(tokens.overflowing),
                )
                for prediction in islice(read, len(best_first))
            )
            predictions.append(replace(best, alternatives=tuple(others)) if others else best)
        return predictions

    def _generate(
        self,
        encoded: list[list[int]],
        beams: int,
        max_new_tokens: int,
        length_penalty: float,
        constrained: bool,
        candidates: int,
    ) -> list[list[_Output]]:
        """The outputs for each text, the best first; the encoder runs once, for search and scores."""
        import torch

        from synthie.extractor.constraint import TrieConstraint
        from synthie.extractor.search import search

        batch = self._tokenizer.pad({"input_ids": encoded}, return_tensors="pt").to(self._device)
        mask = batch["attention_mask"]
        with torch.inference_mode():
            states = self._model.get_encoder()(**batch).last_hidden_state
            sequences = search(
                self._model,
                states,
                mask,
                start=self._model.generation_config.decoder_start_token_id,
                end=self._world.markers[END][0],
                pad=self._world.pad,
                beams=beams,
                candidates=candidates,
                length_penalty=length_penalty,
                max_new_tokens=max_new_tokens,
                processor=partial(TrieConstraint, self._automaton, beams) if constrained else None,
            )
            outputs = self._score(states, mask, sequences, length_penalty)
        pad = self._world.pad
        return [
            # A search that ended with fewer outputs than asked for fills up with padding.
            [output for output in outputs[start : start + candidates] if output.tokens[0] != pad] or [outputs[start]]
            for start in range(0, len(outputs), candidates)
        ]

    def _score(
        self, states: torch.Tensor, mask: torch.Tensor, sequences: torch.Tensor, length_penalty: float
    ) -> list[_Output]:
        """Outputs from sequences [texts * candidates, length], scored by the model alone, whatever was allowed."""
        from synthie.extractor.search import encoder_output

        end = self._world.markers[END][0]
        written = sequences[:, 1:]
        ended = (written == end).cumsum(1)
        real = (ended == 0) | ((ended == 1) & (written == end))
        candidates = len(sequences) // len(states)
        step = max(1, _SCORED_LOGITS // (written.shape[1] * self._model.config.vocab_size))
        outputs = []
        for start in range(0, len(sequences), step):
            rows = slice(start, start + step)
            of_text = range(start, min(start + step, len(sequences)))
            texts = [row // candidates for row in of_text]
            logits = self._model(
                encoder_outputs=encoder_output(states[texts]),
                attention_mask=mask[texts],
                decoder_input_ids=sequences[rows, :-1],
                use_cache=False,
            ).logits.float()
            chances = logits.gather(-1, written[rows, :, None]).squeeze(-1) - logits.logsumexp(-1)
            for tokens, values, length in zip(
                written[rows].tolist(), chances.tolist(), real[rows].sum(1).tolist(), strict=True
            ):
                known = values[:length]
                outputs.append(_Output(tokens[:length], known, sum(known) / length**length_penalty))
        return outputs

    def _read(self, outputs: list[_Output], constrained: bool) -> list[Prediction]:
        """Predictions, without spans, from outputs."""
        end = self._world.markers[END][0]
        texts = [self._decode([token for token in output.tokens if token != end]) for output in outputs]
        if constrained:
            numbers = [read_numbers(self._world, output.tokens, output.chances) for output in outputs]
            found = [self._world.triplets(list(scored)) for scored in numbers]
            scores: list[tuple[float | None, ...]] = [tuple(scored.values()) for scored in numbers]
        else:
            names = [self._world.form.read(text) for text in texts]
            found = self._world.resolve(names)
            by_name = [score_names(self._world, output.tokens, output.chances, self._decode) for output in outputs]
            scores = [tuple(map(scored.get, triplets)) for scored, triplets in zip(by_name, names, strict=True)]
        return [
            Prediction(triplets, output.score, text, of_triplets)
            for triplets, output, text, of_triplets in zip(found, outputs, texts, scores, strict=True)
        ]

    def _decode(self, tokens: Sequence[int]) -> str:
        return " ".join(MARKER.sub(r" \1 ", self._tokenizer.decode(tokens)).split())


def predict_split(
    config: PredictionConfig,
    dataset: Path,
    extractor: Path,
    folder: Path,
    *,
    progress: Progress = no_progress,
) -> Manifest:
    """Predict a split of the data set twice: ``constrained.parquet`` and ``unconstrained.parquet``.

    What is predicted is written every few hundred records, so a run that was interrupted continues from there.

    Args:
        config: what to predict and how.
        dataset: folder of the dataset stage.
        extractor: folder of the training stage.
        folder: where the predictions go.
        progress: told about texts, each mode counting for itself.

    Raises:
        ConfigError: a library of the extra ``train`` is missing.
        InputError: data set or extractor cannot be used.
    """

    def work(folder: Path) -> dict[str, Any]:
        records = list(islice(_records(dataset, config.split), config.max_records))
        if not records:
            raise InputError(f"The {config.split} split of {dataset} is empty; draw more triplet sets.")
        model = Extractor.open(extractor, device=config.device, meant=config.meant, rules=config)
        counts: dict[str, Any] = {"records": len(records)}
        for number, mode in enumerate(_MODES):
            parts = []
            for start in range(0, len(records), _PART_RECORDS):
                part = folder / _PARTS / f"{mode}-{start:09d}.parquet"
                chunk = records[start : start + _PART_RECORDS]
                if not part.exists():
                    predictions = model.extract(
                        [text for _, text in chunk],
                        beams=config.beams,
                        batch_size=config.batch_size,
                        max_new_tokens=config.max_new_tokens,
                        length_penalty=config.length_penalty,
                        constrained=mode == "constrained",
                        spans=False,
                    )
                    _write([identity for identity, _ in chunk], predictions, part)
                progress(number * len(records) + start + len(chunk), len(_MODES) * len(records), "texts", mode=mode)
                parts.append(pq.read_table(part))
            table = pa.concat_tables(parts)
            pq.write_table(table, folder / f"{mode}.parquet")
            counts |= {f"{mode}_triplets": sum(map(len, table["triplets"].to_pylist()))}
        return counts

    manifest = run_stage(
        "predictions",
        folder,
        config=config.fingerprinted(),
        inputs={
            "dataset": read_manifest(dataset).output_hash,
            "extractor": read_manifest(extractor).output_hash,
        },
        seed=None,
        work=work,
    )
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return manifest


def _records(dataset: Path, split: str) -> Iterator[tuple[int, str]]:
    """(id, text) of a split, in order."""
    for file in split_files(dataset, split):
        for batch in pq.ParquetFile(file).iter_batches(columns=["id", "text"]):
            yield from zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)


def _spans(text: str, triplets: tuple[Triplet, ...]) -> tuple[tuple[Span | None, Span | None], ...]:
    known = find_spans(text, (node for triplet in triplets for node in (triplet.subject, triplet.object)))
    return tuple((known[triplet.subject], known[triplet.object]) for triplet in triplets)


def _write(ids: list[int], predictions: list[Prediction], path: Path) -> None:
    rows = [
        {
            "id": identity,
            "triplets": [triplet.to_record() for triplet in prediction.triplets],
            "score": prediction.score,
            "output": prediction.output,
        }
        for identity, prediction in zip(ids, predictions, strict=True)
    ]
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA), temporary)
    temporary.rename(path)
