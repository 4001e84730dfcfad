"""The LLM judge: each text and its numbered triplets go to a model, which says of each triplet whether it is stated.

It is the engine of the texts stage that asks, with other questions: the journal keeps every answer, the limiter, the
budget and the failures file are the same. An answer that cannot be read is asked for again with another seed, one
that was cut off with more tokens; after the last try the text counts as not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from kg.stage import Progress
from synthie.errors import ConfigError, IncompleteError, SynthieError
from synthie.judging.answers import read_answer
from synthie.judging.config import JudgeModelConfig
from synthie.judging.judgements import part_path, row_of, write_part
from synthie.judging.prompt import JudgePrompt
from synthie.judging.sampled import SampledTexts, Text
from synthie.llm.endpoint import Secrets
from synthie.llm.journal import Journal
from synthie.llm.limits import Gate
from synthie.llm.prompts import Fact, Prompt
from synthie.texts.asking import Asking
from synthie.texts.bill import Bill
from synthie.texts.estimate import check_model, estimate
from synthie.texts.questions import FIRST_TRY, Questions, TripletSet, Try
from synthie.texts.roster import Roster

__all__ = ["JudgeQuestions", "LlmJudge", "check_judge", "in_words_of_the_judge"]

_READ_ROWS = 1_000
_PART_ROWS = 10_000  # texts behind one file of judgements


class JudgeQuestions(Questions):
    """The request body for each text to judge.

    Args:
        config: the judge's model.
        prompt: how to ask.
        texts: what to ask about.
        seed: sent along.
    """

    def __init__(self, config: JudgeModelConfig, prompt: JudgePrompt, texts: SampledTexts, *, seed: int) -> None:
        # Of a prompt the base class itself reads what it has in common with a judge's: the decoding parameters.
        super().__init__(config, cast(Prompt, prompt), texts, seed=seed)
        self.texts = texts
        self._judge_prompt = prompt

    def messages(self, triplet_set: TripletSet, which: Try = FIRST_TRY) -> list[dict[str, str]]:
        """The chat messages that ask for a judgement; the same for every try."""
        assert isinstance(triplet_set, Text)
        node = self.texts.node
        facts = [
            Fact(node(t.subject.uri)[1], t.predicate.surfaceform, node(t.object.uri)[1]) for t in triplet_set.triplets
        ]
        return self._judge_prompt.messages(triplet_set.text, facts, self.texts.names_in(triplet_set))


class LlmJudge:
    """Asks for judgements and reads them.

    Args:
        config: the judge's model.
        prompt: how to ask.
        texts: what to ask about.
        folder: of the stage; the journal is in it.
        seed: of the run.
        max_usd: what all judging in ``folder`` together may cost, in US dollars.
    """

    def __init__(
        self,
        config: JudgeModelConfig,
        prompt: JudgePrompt,
        texts: SampledTexts,
        folder: Path,
        *,
        seed: int,
        max_usd: float,
    ) -> None:
        self._config = config
        self._texts = texts
        self._folder = folder
        self._max_usd = max_usd
        self._questions = JudgeQuestions(config, prompt, texts, seed=seed)

    def judge(self, progress: Progress, secrets: Secrets | None, gate: Gate | None) -> None:
        """Write the judgements' parts; the arguments are those of `synthie.generate.generate_texts`.

        Raises:
            BudgetError, EndpointError, ConfigError, StorageError: all that was answered until then is stored.
            IncompleteError: more than ``max_failed_share`` of the texts have no answer, or the time is over.
        """
        roster = Roster(self._texts.count, self._config)
        with Journal(self._folder / "journal") as journal:
            bill = Bill(self._folder / "cost.json", estimate(self._questions, journal), journal, self._max_usd)
            with Asking(
                self._questions,
                roster,
                journal,
                folder=self._folder,
                max_usd=self._max_usd,
                progress=progress,
                secrets=secrets,
                gate=gate,
            ) as asking:
                try:
                    self._ask(asking, roster, journal)
                finally:
                    bill.write(asking)
            self._check_missing(roster)
            for number, batch in enumerate(self._texts.texts(_PART_ROWS)):
                rows = [self._row(roster, journal, position, text) for position, text in batch]
                write_part(rows, part_path(self._folder, "llm", number))

    def _ask(self, asking: Asking, roster: Roster, journal: Journal) -> None:
        while True:
            asking.run()
            self._read(roster, journal)
            if not roster.advance():
                return

    def _read(self, roster: Roster, journal: Journal) -> None:
        """Tell the roster whose answers can be read."""
        for batch in self._texts.texts(_READ_ROWS, roster.pending):
            for position, text in batch:
                record = journal.get(roster.key(position))
                assert record is not None, "texts without an answer are not pending any more"
                is_read = read_answer(record.text, len(text.triplets)) is not None
                roster.judge(position, is_read, truncated=record.finish_reason == "length")

    def _row(self, roster: Roster, journal: Journal, position: int, text: Text) -> dict[str, Any]:
        opinion, model = None, self._questions.model(text)
        problem: str | None = "no answer"
        if not roster.given_up[position] and (record := journal.get(roster.key(position))):
            opinion = read_answer(record.text, len(text.triplets))
            problem = None if opinion else f"unreadable: {' '.join(record.text.split())[:200]!r}"
        return row_of(text, "llm", model, opinion, problem)

    def _check_missing(self, roster: Roster) -> None:
        if roster.failed > self._config.max_failed_share * self._texts.count:
            raise IncompleteError(
                f"About {roster.failed} of {self._texts.count} texts the judge gave no answer; the reasons are in "
                f"{self._folder / 'failures.jsonl'}. All other answers are stored. Run again to ask for the missing "
                "ones only (those that the endpoint refused for good, with judge.llm.retry_failed), or set "
                "judge.llm.max_failed_share to go on without them."
            )


def check_judge(config: JudgeModelConfig, texts: SampledTexts) -> None:
    """Refuse a judge that cannot judge, before anybody is asked.

    Raises:
        ConfigError: see `synthie.texts.estimate.check_model`; or the built-in server is to judge texts that it has not
            written.
    """
    check_model(config)
    if config.is_built_in:
        for batch in texts.texts(_READ_ROWS):
            for _, text in batch:
                if text.endpoint != "built-in":
                    raise ConfigError(
                        f"judge.llm.base_url is empty, which means the built-in server, but the texts come from "
                        f"{text.endpoint}: its rules can read only what its own rules have written. Name an endpoint "
                        "in judge.llm.base_url and a model in judge.llm.model."
                    )
                return


@contextmanager
def in_words_of_the_judge() -> Iterator[None]:
    """Make errors of the engine speak of the judge's options."""
    try:
        yield
    except SynthieError as error:
        told = JudgeModelConfig.worded(str(error))
        if told == str(error):
            raise
        raise type(error)(told) from error
