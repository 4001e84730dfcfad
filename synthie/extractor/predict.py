"""Using a trained extractor: texts in, triplets out, and the prediction stage over a split of the data set.

Constrained decoding can only write names of the world, so every triplet has ids. Unconstrained decoding, kept
for comparison, writes what the model likes; its names are looked up afterwards. Texts are decoded in batches of
similar length. torch and transformers are imported when an extractor is opened, not before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kg.stage import Manifest, Progress, no_progress, read_manifest, run_stage
from synthie.config import PredictionConfig
from synthie.errors import InputError
from synthie.extractor.examples import split_files
from synthie.extractor.linearization import END, MARKER
from synthie.extractor.runtime import from_pretrained, pick_device, prepare_runtime, require_libraries
from synthie.extractor.world import World
from synthie.records import PREDICTION_SCHEMA, Prediction

if TYPE_CHECKING:
    import torch

    from synthie.extractor.constraint import Automaton

__all__ = ["Extractor", "predict_split"]

_MODES = ("constrained", "unconstrained")
_PARTS = ".parts"  # hidden, so no part of the stage's outputs
_PART_RECORDS = 512  # records predicted between two writes; what a crash can lose


class Extractor:
    """A model with its tokenizer and world, ready to read texts; made by `open`."""

    def __init__(self, model: Any, tokenizer: Any, world: World, automaton: Automaton, device: torch.device) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._world, self._automaton = world, automaton

    @classmethod
    def open(cls, folder: Path, *, device: str = "auto") -> Extractor:
        """Open what the training stage wrote.

        Args:
            folder: the extractor's folder.
            device: auto, cpu or cuda.

        Raises:
            ConfigError: a library of the extra ``train`` is missing, or there is no GPU where one is asked for.
            InputError: the folder holds no trained extractor.
        """
        require_libraries()
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from synthie.extractor.constraint import Automaton

        prepare_runtime()
        world = World.open(folder)
        chosen = pick_device(device)
        model = from_pretrained(AutoModelForSeq2SeqLM, str(folder)).to(chosen).eval()
        tokenizer = from_pretrained(AutoTokenizer, str(folder))
        return cls(model, tokenizer, world, Automaton(world, chosen), chosen)

    def extract(
        self,
        texts: list[str],
        *,
        beams: int | None = None,
        batch_size: int = 32,
        max_new_tokens: int = 256,
        length_penalty: float | None = None,
        constrained: bool = True,
    ) -> list[Prediction]:
        """Find the triplets that each text states.

        Args:
            texts: the texts; what exceeds the length that the model was trained on is cut off.
            beams: beams of the search, 1 is greedy; None: what the extractor was trained for.
            batch_size: texts decoded together.
            max_new_tokens: longest output, in tokens; a triplet that is cut there is dropped.
            length_penalty: exponent of the length in a beam's score; None: what the extractor was trained for.
            constrained: write only names of the world. If not, names that the world does not have get the id "".

        Returns:
            one prediction a text, in the order of ``texts``.
        """
        if not texts:
            return []
        defaults = self._model.generation_config
        beams = defaults.num_beams if beams is None else beams
        length_penalty = defaults.length_penalty if length_penalty is None else length_penalty
        encoded = self._tokenizer(texts, truncation=True, verbose=False)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: -len(encoded[row]))
        outputs: dict[int, tuple[list[int], float]] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            sequences, scores = self._generate(
                [encoded[row] for row in rows], beams, max_new_tokens, length_penalty, constrained
            )
            outputs |= zip(rows, zip(sequences, scores, strict=True), strict=True)
        return self._read([outputs[row] for row in range(len(texts))], constrained)

    def _generate(
        self, encoded: list[list[int]], beams: int, max_new_tokens: int, length_penalty: float, constrained: bool
    ) -> tuple[list[list[int]], list[float]]:
        """The best sequence of each text, without start and padding, and its score."""
        import torch

        from synthie.extractor.constraint import TrieConstraint

        batch = self._tokenizer.pad({"input_ids": encoded}, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            sequences = self._model.generate(
                **batch,
                logits_processor=[TrieConstraint(self._automaton, beams)] if constrained else [],
                num_beams=beams,
                length_penalty=length_penalty,
                max_new_tokens=max_new_tokens,
                do_sample=False,
            )
            written = sequences[:, 1:]
            end = (written == self._world.markers[END][0]).cumsum(1)
            real = (end == 0) | ((end == 1) & (written == self._world.markers[END][0]))
            logits = self._model(**batch, decoder_input_ids=sequences[:, :-1]).logits
            chances = logits.gather(-1, written[..., None]).squeeze(-1) - logits.logsumexp(-1)
            lengths = real.sum(1)
            scores = (chances * real).sum(1) / lengths**length_penalty
        rows = [row[:length] for row, length in zip(written.tolist(), lengths.tolist(), strict=True)]
        return rows, scores.tolist()

    def _read(self, outputs: list[tuple[list[int], float]], constrained: bool) -> list[Prediction]:
        """Predictions from (sequence, score)."""
        end = self._world.markers[END][0]
        texts = [
            " ".join(MARKER.sub(r" \1 ", self._tokenizer.decode([token for token in sequence if token != end])).split())
            for sequence, _ in outputs
        ]
        if constrained:
            found = [self._world.triplets(self._world.parse(sequence)) for sequence, _ in outputs]
        else:
            found = self._world.resolve([self._world.form.read(text) for text in texts])
        return [
            Prediction(triplets, score, text) for triplets, (_, score), text in zip(found, outputs, texts, strict=True)
        ]


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
        model = Extractor.open(extractor, device=config.device)
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
