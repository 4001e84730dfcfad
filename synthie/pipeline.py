"""The walk of the data: which stage reads which folder of a run.

A `Run` ties a configuration to a folder and offers every stage as a method
without arguments, so that the command line and the flows call the same code
and neither repeats the wiring. Stages import what they need when they run:
planning a run costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kg.parallel import Mapper
from kg.stage import MANIFEST, Manifest, Progress, find_damage, no_progress
from synthie.config import RunConfig
from synthie.errors import ConfigError, InputError, SynthieError

if TYPE_CHECKING:
    from synthie.llm.endpoint import Secrets
    from synthie.llm.limits import Gate
    from synthie.texts.estimate import Estimate

__all__ = ["STAGES", "Run", "Stage"]


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: name of its folder in the run.
        title: what it does, in a few words.
        work: the `Run` method.
        reads: names of the stages whose folders it reads.
    """

    name: str
    title: str
    work: Callable[[Run, Progress], Manifest]
    reads: tuple[str, ...] = ()

    def run(self, plan: Run, progress: Progress = no_progress) -> Manifest:
        """Do the stage's work.

        Raises:
            InputError: also where the work fails for whatever reason and a file that it reads is damaged.
            SynthieError: as documented by the stage function.
        """
        try:
            return self.work(plan, progress)
        except Exception as error:
            if isinstance(error, SynthieError) and not isinstance(error, (ConfigError, InputError)):
                raise
            # Every library has its own words for a damaged file; the manifests know for sure, and how to mend it.
            finished = (plan.folder / name for name in self.reads if (plan.folder / name / MANIFEST).exists())
            damage = next(filter(None, map(find_damage, finished)), None)
            if damage is None:
                raise
            raise damage from error


class Run:
    """A configured run; its folder holds one subfolder a stage (``run.kg``, ``run.sets``, …).

    Args:
        config: the options of all stages.
        mapper: runs the slices of a dump and the shares of a round of sets; None for processes and threads of the
            stages' own.
        secrets, gate: see `synthie.generate.generate_texts`.
    """

    def __init__(
        self,
        config: RunConfig,
        mapper: Mapper | None = None,
        secrets: Secrets | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.config = config
        self._mapper = mapper
        self._secrets = secrets
        self._gate = gate
        self.folder = Path(config.run)
        self.kg = self.folder / "kg"
        self.sets = self.folder / "sets"
        self.texts = self.folder / "texts"
        self.judge = self.folder / "judge"
        self.dataset = self.folder / "dataset"
        self.extractor = self.folder / "extractor"
        self.predictions = self.folder / "predictions"
        self.report = self.folder / "report"

    def build_graph(self, progress: Progress = no_progress) -> Manifest:
        """Dump → graph folder. Errors: see `kg.build.build_graph`."""
        from kg.build import build_graph

        return build_graph(self.config.kg, self.kg, progress=progress, mapper=self._mapper)

    def sample_sets(self, progress: Progress = no_progress) -> Manifest:
        """Graph → triplet sets. Errors: see `kg.sampling.stage.sample_sets`."""
        from kg.sampling.stage import sample_sets

        return sample_sets(
            self.config.sampling, self.kg, self.sets, seed=self.config.seed, mapper=self._mapper, progress=progress
        )

    def generate_texts(self, progress: Progress = no_progress) -> Manifest:
        """Triplet sets → checked texts. Errors: see `synthie.generate.generate_texts`."""
        from synthie.generate import generate_texts
        from synthie.spending import purse

        with purse(self.folder, self.config.max_usd, other=self.judge) as max_usd:
            return generate_texts(
                self.config.generation,
                self.config.quality,
                self.kg,
                self.sets,
                self.texts,
                seed=self.config.seed,
                max_usd=max_usd,
                progress=progress,
                secrets=self._secrets,
                gate=self._gate,
            )

    def estimate_cost(self, pilot: int = 0, progress: Progress = no_progress) -> Estimate:
        """What the texts will cost; with ``pilot``, about so many are asked for, kept, and measured.

        Errors: see `synthie.texts.estimate.estimate_cost` and `synthie.generate.ask_pilot`.
        """
        from synthie.generate import ask_pilot
        from synthie.spending import purse
        from synthie.texts.estimate import estimate_cost

        config, seed = self.config.generation, self.config.seed
        if not pilot:
            return estimate_cost(config, self.kg, self.sets, self.texts, seed=seed)
        with purse(self.folder, self.config.max_usd, other=self.judge) as max_usd:
            return ask_pilot(
                config,
                self.kg,
                self.sets,
                self.texts,
                texts=pilot,
                seed=seed,
                max_usd=max_usd,
                progress=progress,
                secrets=self._secrets,
                gate=self._gate,
            )

    def cancel_batches(self, stage: Literal["texts", "judge"] = "texts") -> int:
        """Cancel a stage's batches under way; returns their number.

        Raises:
            BusyError: a run works on the stage; it would ask for what is cancelled anew.
            SynthieError: see `synthie.llm.batch.cancel_batches`.
        """
        from synthie.judging.llm import in_words_of_the_judge
        from synthie.llm.batch import cancel_batches
        from synthie.llm.endpoint import Endpoint
        from synthie.llm.journal import Journal

        folder = self.folder / stage
        if not (folder / "batches").exists():
            return 0
        is_judge = stage == "judge"
        config = self.config.judge.llm if is_judge else self.config.generation
        with in_words_of_the_judge() if is_judge else nullcontext(), Journal(folder / "journal"):
            endpoint = Endpoint.from_config(config, 0 if len(config.endpoints) == 1 else None, self._secrets)
            return cancel_batches(endpoint, folder / "batches")

    def judge_texts(self, progress: Progress = no_progress) -> Manifest:
        """Second opinions on a sample of the texts. Errors: see `synthie.judging.stage.judge_texts`."""
        from synthie.judging.stage import judge_texts
        from synthie.spending import purse

        pays = "llm" in self.config.judge.judges
        with purse(self.folder, self.config.max_usd, other=self.texts) if pays else nullcontext(0.0) as max_usd:
            return judge_texts(
                self.config.judge,
                self.kg,
                self.texts,
                self.judge,
                seed=self.config.seed,
                max_usd=max_usd,
                progress=progress,
                secrets=self._secrets,
                gate=self._gate,
            )

    def build_dataset(self, progress: Progress = no_progress) -> Manifest:
        """Accepted texts → data set with card; judges that are asked for must have judged.

        Errors: see `synthie.dataset.build_dataset`.
        """
        from synthie.dataset import build_dataset
        from synthie.judging.reading import require_judges

        require_judges(self.judge, self.config.judge.judges)
        return build_dataset(
            self.config.dataset,
            self.kg,
            self.sets,
            self.texts,
            self.dataset,
            judge=self.judge,
            seed=self.config.seed,
        )

    def train_extractor(self, progress: Progress = no_progress) -> Manifest:
        """Data set → extractor. Errors: see `synthie.extractor.train.train_extractor`."""
        from synthie.extractor.train import train_extractor

        return train_extractor(
            self.config.extractor, self.kg, self.dataset, self.extractor, seed=self.config.seed, progress=progress
        )

    def predict_split(self, progress: Progress = no_progress) -> Manifest:
        """Extractor → predictions of the evaluated split. Errors: see `synthie.extractor.predict.predict_split`."""
        from synthie.extractor.predict import predict_split

        return predict_split(self.config.prediction, self.dataset, self.extractor, self.predictions, progress=progress)

    def evaluate_predictions(self, progress: Progress = no_progress) -> Manifest:
        """Predictions → report. Errors: see `synthie.evaluate.evaluate_predictions`."""
        from synthie.evaluate import evaluate_predictions

        return evaluate_predictions(
            self.config.evaluation,
            self.dataset,
            self.predictions,
            self.report,
            seed=self.config.seed,
            extractor=self.extractor,
            run=self.folder,
        )


STAGES = (
    Stage("kg", "build the knowledge graph", Run.build_graph),
    Stage("sets", "sample triplet sets", Run.sample_sets, ("kg",)),
    Stage("texts", "generate and check texts", Run.generate_texts, ("kg", "sets")),
    Stage("judge", "judge texts", Run.judge_texts, ("kg", "texts")),
    Stage("dataset", "publish the data set", Run.build_dataset, ("kg", "sets", "texts", "judge")),
    Stage("extractor", "train the extractor", Run.train_extractor, ("kg", "dataset")),
    Stage("predictions", "predict the test split", Run.predict_split, ("dataset", "extractor")),
    Stage("report", "evaluate", Run.evaluate_predictions, ("dataset", "extractor", "predictions")),
)
