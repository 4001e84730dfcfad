"""The judges that run on this machine: a trained extractor, and a model of textual entailment.

Their parts are written every few hundred texts, so a run that was interrupted goes on from there. torch and
transformers are imported when such a judge is asked, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from kg.stage import Progress
from synthie.judging.config import JudgeConfig, JudgeName
from synthie.judging.judgements import Opinion, part_path, row_of, write_part
from synthie.judging.sampled import SampledTexts, Text
from synthie.llm.facts import Fact
from synthie.llm.verbalise import verbalise
from synthie.records import Triplet

__all__ = ["hypothesis", "judge_by_entailment", "judge_by_extractor"]

_PART_ROWS = 512  # texts between two writes; what a crash can lose


def judge_by_extractor(config: JudgeConfig, texts: SampledTexts, folder: Path, progress: Progress) -> None:
    """Have a trained extractor read the texts: what it finds is stated, what it misses is absent, the rest is extra.

    Raises:
        ConfigError: a library of the extra ``train`` is missing.
        InputError: there is no trained extractor.
    """
    from synthie.extractor.predict import Extractor

    assert config.extractor is not None
    extractor = Extractor.open(Path(config.extractor), device=config.device)

    def judge(texts: list[Text]) -> list[Opinion]:
        found = extractor.extract([text.text for text in texts], batch_size=config.batch_size)
        return [_compared(text, prediction.triplets) for text, prediction in zip(texts, found, strict=True)]

    _judge(judge, "extractor", config.extractor, texts, folder, progress)


def judge_by_entailment(config: JudgeConfig, texts: SampledTexts, folder: Path, progress: Progress) -> None:
    """Ask a model whether each text entails each of its triplets, put as a sentence. What is extra it cannot tell.

    Raises:
        ConfigError: a library of the extra ``train`` is missing, or the model is not of that kind.
    """
    from synthie.extractor.entailment import EntailmentModel

    assert config.nli is not None
    model = EntailmentModel.open(config.nli, device=config.device)
    words = {"entailment": "stated", "contradiction": "contradicted", "neutral": "absent"}

    def judge(judged: list[Text]) -> list[Opinion]:
        pairs = [(text.text, hypothesis(texts, triplet)) for text in judged for triplet in text.triplets]
        labels = iter(model.classify(pairs, batch_size=config.batch_size))
        return [Opinion([words[next(labels)] for _ in text.triplets], None) for text in judged]

    _judge(judge, "nli", config.nli, texts, folder, progress)


def hypothesis(texts: SampledTexts, triplet: Triplet) -> str:
    """A triplet as a plain sentence, in the words that the built-in server has for its relation."""
    subject, target = (texts.node(mention.uri)[1] for mention in (triplet.subject, triplet.object))
    return verbalise([Fact(subject, triplet.predicate.surfaceform, target)], Random(0))


def _judge(
    judge: Callable[[list[Text]], list[Opinion]],
    name: JudgeName,
    model: str,
    texts: SampledTexts,
    folder: Path,
    progress: Progress,
) -> None:
    """Write the parts that are not there yet."""
    done = 0
    for number, batch in enumerate(texts.texts(_PART_ROWS)):
        path = part_path(folder, name, number)
        if not path.exists():
            judged = [text for _, text in batch]
            opinions = judge(judged)
            rows = [row_of(text, name, model, opinion) for text, opinion in zip(judged, opinions, strict=True)]
            write_part(rows, path)
        done += len(batch)
        progress(done, texts.count, "texts", judge=name)


def _compared(text: Text, found: tuple[Triplet, ...]) -> Opinion:
    keys, wanted = {triplet.key for triplet in found}, {triplet.key for triplet in text.triplets}
    extras = [
        " | ".join(part.surfaceform.replace("_", " ") for part in (triplet.subject, triplet.predicate, triplet.object))
        for triplet in found
        if triplet.key not in wanted
    ]
    verdicts = ["stated" if triplet.key in keys else "absent" for triplet in text.triplets]
    return Opinion(verdicts, list(dict.fromkeys(extras)))
