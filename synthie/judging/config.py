"""The options of the judge stage: who reads which texts a second time."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from kg.stage import Settings
from synthie.texts.config import GenerationConfig

__all__ = ["JudgeConfig", "JudgeModelConfig", "JudgeName"]

JudgeName = Literal["llm", "extractor", "nli"]


class JudgeModelConfig(GenerationConfig):
    """Which LLM judges, and how hard it is driven: the options of 'generation', for which read 'judge.llm'."""

    prompt: str = Field(
        default="faithful/1", description="Judge's prompt under prompts/judges/, as name/version, or a path to a file."
    )
    tries: int = Field(
        default=3,
        ge=1,
        le=10,
        description="Times that the judge is asked about a text, each with another seed, until its answer can be read.",
    )
    max_failed_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the texts that may stay without any answer; they count as not judged.",
    )

    @classmethod
    def worded(cls, told: str) -> str:
        return re.sub(rf"\bgeneration\.(?=(?:{'|'.join(cls.model_fields)})\b)", "judge.llm.", told)

    @model_validator(mode="after")
    def _judges_what_there_is(self) -> JudgeModelConfig:
        if self.n_texts is not None or self.alias_share:
            raise ValueError(
                "'n_texts' and 'alias_share' are for writers; how many texts are judged says judge.n_samples"
            )
        return self


class JudgeConfig(Settings):
    """Second opinions on a sample of the texts: which facts they state, and which they state beyond their set."""

    NOT_FINGERPRINTED: ClassVar[frozenset[str]] = frozenset({"batch_size", "device"})

    judges: list[JudgeName] = Field(
        default=[],
        description="Who judges. llm: an LLM, asked about every triplet and for further facts; extractor: a trained "
        "extractor, whose triplets are compared with the set; nli: a model of textual entailment. Empty: nobody.",
    )
    n_samples: int = Field(
        default=500, ge=0, description="Accepted texts to judge, a uniform random sample. 0: all of them."
    )
    n_rejected: int = Field(
        default=100,
        ge=0,
        description="Rejected texts to judge as well, to see what the checks reject wrongly. 0: none.",
    )
    deciding: list[JudgeName] = Field(
        default=[],
        description="Judges whose faults count against a record in the data set. Empty: the first of 'judges'.",
    )
    llm: JudgeModelConfig = Field(
        default=JudgeModelConfig(), description="The LLM that judges; better another one than the writer."
    )
    extractor: str | None = Field(
        default=None,
        description="Folder of a trained extractor, for the judge 'extractor'. One that was trained on texts of "
        "another run than those that it judges says more.",
    )
    nli: str | None = Field(
        default=None,
        description="Folder or hub name of a transformers model for sequence classification with labels for entailment "
        "and contradiction, for the judge 'nli'.",
    )
    batch_size: int = Field(default=32, ge=1, description="Texts that extractor or nli model read together.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where they run. auto: on a GPU if there is one."
    )
    sensitivity: dict[JudgeName, float] = Field(
        default={},
        description="Share of the stated triplets that the judge calls stated, as measured on texts with known truth; "
        "with 'specificity', the estimates are corrected for the judge's errors.",
    )
    specificity: dict[JudgeName, float] = Field(
        default={}, description="Share of the triplets that are not stated that the judge does not call stated."
    )

    @model_validator(mode="after")
    def _can_judge(self) -> JudgeConfig:
        if len(set(self.judges)) < len(self.judges):
            raise ValueError("'judges' names one twice")
        for name in ("extractor", "nli"):
            if name in self.judges and not getattr(self, name):
                raise ValueError(f"the judge '{name}' needs a model; name it in 'judge.{name}'")
        if strangers := [name for name in self.deciding if name not in self.judges]:
            raise ValueError(f"'deciding' names {strangers[0]!r}, which is not among 'judges'")
        if self.sensitivity.keys() != self.specificity.keys():
            raise ValueError("'sensitivity' and 'specificity' belong together; give both of a judge, or none")
        for name, sensitivity in self.sensitivity.items():
            specificity = self.specificity[name]
            if not (0 <= sensitivity <= 1 and 0 <= specificity <= 1 and sensitivity + specificity > 1):
                raise ValueError(
                    f"sensitivity and specificity of '{name}' are shares, and their sum is more than 1: a judge below "
                    "that is worse than a coin"
                )
        return self
