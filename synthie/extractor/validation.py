"""Validation while training: loss per target token, and F1 of what the model writes under the constraint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from synthie.extractor.constraint import Automaton, TrieConstraint
from synthie.extractor.examples import Examples
from synthie.extractor.presets import Preset
from synthie.extractor.seq2seq import Seq2Seq
from synthie.extractor.world import World

__all__ = ["Validator"]

_BATCHES = 4  # times the batch size of training, for there are no gradients to keep


class Validator:
    """Measures a model on records spread evenly over the validation split; the processes share the batches.

    Args:
        settings: how many records to measure on.
        network: the model.
        examples: the validation split.
        world: what may be written.
        accelerator: device and processes.
    """

    def __init__(
        self, settings: Preset, network: Seq2Seq, examples: Examples, world: World, accelerator: Accelerator
    ) -> None:
        self._network, self._examples, self._world, self._accelerator = network, examples, world, accelerator
        self._batch_size, self._longest = _BATCHES * settings.batch_size, settings.max_target_tokens
        self._for_loss = spread(len(examples), settings.validation_records)
        self._for_f1 = spread(len(examples), settings.validation_f1_records)
        self._automaton = Automaton(world, accelerator.device) if len(self._for_f1) else None

    @torch.no_grad()
    def loss(self, forward: torch.nn.Module) -> float:
        """Loss per target token; ``forward`` is left in training mode."""
        forward.eval()
        total = torch.zeros((), device=self._accelerator.device)
        for rows in self._batches(self._for_loss):
            total += self._network.loss(forward, self._examples.take(rows))
        forward.train()
        tokens = int(self._examples.targets.lengths[self._for_loss].sum())
        return float(self._accelerator.reduce(total)) / tokens

    @torch.no_grad()
    def f1(self) -> float | None:
        """Micro F1 of greedy constrained decoding, a triplet being right or wrong as a whole; None if not asked for.

        Both what is written and the target are read by the world, so triplets that it cannot write do not count.
        """
        if self._automaton is None:
            return None
        model = self._network.model
        model.eval()
        counts = torch.zeros(3, dtype=torch.int64, device=self._accelerator.device)
        with self._accelerator.autocast():
            for rows in self._batches(self._for_f1):
                batch = self._examples.take(rows)
                outputs = self._network.write(batch.sources, TrieConstraint(self._automaton), self._longest)
                for number, output in enumerate(outputs):
                    written, gold = set(self._world.parse(output)), set(self._world.parse(batch.targets[number]))
                    counts += torch.tensor([len(written & gold), len(written), len(gold)], device=counts.device)
        model.train()
        right, written, gold = self._accelerator.reduce(counts).tolist()
        return 2 * right / (written + gold) if right else 0.0

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Those of this process, of similar length."""
        ordered = rows[np.argsort(self._examples.targets.lengths[rows], kind="stable")]
        batches = np.split(ordered, range(self._batch_size, len(ordered), self._batch_size))
        return iter(batches[self._accelerator.process_index :: self._accelerator.num_processes])


def spread(size: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` numbers below ``size``, evenly spread; all of them if there are no more.

    >>> spread(10, 4).tolist()
    [0, 2, 5, 7]
    """
    wanted = min(size, wanted)
    return np.arange(wanted) * size // max(wanted, 1)
