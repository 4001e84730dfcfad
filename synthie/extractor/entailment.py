"""Textual entailment with a local model: does a text entail a sentence, contradict it, or neither?

Any transformers model for sequence classification whose labels name entailment and contradiction will do, such as
those trained on MNLI. torch and transformers are imported when a model is opened, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synthie.errors import ConfigError
from synthie.extractor.runtime import from_pretrained, pick_device, prepare_runtime, require_libraries

if TYPE_CHECKING:
    import torch

__all__ = ["LABELS", "EntailmentModel"]

LABELS = ("entailment", "neutral", "contradiction")


class EntailmentModel:
    """A model with its tokenizer; made by `open`."""

    def __init__(self, model: Any, tokenizer: Any, labels: list[str], device: torch.device) -> None:
        self._model, self._tokenizer, self._labels, self._device = model, tokenizer, labels, device

    @classmethod
    def open(cls, source: str, *, device: str = "auto") -> EntailmentModel:
        """Open a model.

        Args:
            source: folder or hub name.
            device: auto, cpu or cuda.

        Raises:
            ConfigError: a library of the extra ``train`` is missing, there is no GPU where one is asked for, or the
                model cannot be loaded or has no such labels.
        """
        require_libraries()
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        prepare_runtime()
        labels = _labels(source, from_pretrained(AutoConfig, source).id2label)
        chosen = pick_device(device)
        model = from_pretrained(AutoModelForSequenceClassification, source).to(chosen).eval()
        return cls(model, from_pretrained(AutoTokenizer, source), labels, chosen)

    def classify(self, pairs: list[tuple[str, str]], *, batch_size: int = 32) -> list[str]:
        """One of `LABELS` for each (premise, hypothesis), in their order; a long premise is cut off."""
        import torch

        order = sorted(range(len(pairs)), key=lambda place: -sum(map(len, pairs[place])))
        found = [""] * len(pairs)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = self._tokenizer(
                [pairs[place][0] for place in places],
                [pairs[place][1] for place in places],
                truncation="only_first",
                padding=True,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                chosen = self._model(**batch).logits.argmax(-1).tolist()
            for place, label in zip(places, chosen, strict=True):
                found[place] = self._labels[label]
        return found


def _labels(source: str, named: dict[int, str]) -> list[str]:
    """For each output of the model what it means; "neutral" where it names neither of the other two."""
    labels = ["neutral"] * len(named)
    for number, name in named.items():
        for label in ("entailment", "contradiction"):
            if str(name).lower().startswith(label[:6]):
                labels[int(number)] = label
    if labels.count("entailment") != 1 or labels.count("contradiction") != 1:
        raise ConfigError(
            f"The model {source!r} does not say which of its outputs are entailment and contradiction; its labels are "
            f"{', '.join(map(str, named.values()))}. Name a model of natural language inference in judge.nli, or set "
            "'id2label' in its config.json."
        )
    return labels
