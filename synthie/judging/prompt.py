"""Versioned prompts for the judge: YAML files that say how a text and its triplets become a question.

``prompts/judges/<name>/<version>.yaml`` holds a system message, a Jinja2 template for the user message,
demonstrations and decoding parameters. The template sees ``text`` (on one line), ``triplets`` (one numbered line
each, or ``(none)``), ``facts`` (each with ``subject``, ``relation``, ``object``) and ``names`` (each with ``name``
and ``aliases``: the other names under which the text may speak of it). Every user message ends with the text and
the triplets in one fixed form, which loading checks; the built-in server knows the question by it:

    Text: …

    Facts:
    1. subject | relation | object

A demonstration is an earlier exchange, its answer in the form that `synthie.judging.answers` reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synthie.errors import ConfigError
from synthie.llm.conversation import Conversation, Exchange
from synthie.llm.prompts import Fact, format_triplets, prompt_names

__all__ = ["JudgePrompt", "judge_prompt_names", "load_judge_prompt"]

_SEES = "text, triplets, facts (subject, relation, object), names (name, aliases)"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Demonstration(_Model):
    """A judged text."""

    text: str = Field(min_length=1)
    names: dict[str, list[str]] = {}
    triplets: list[tuple[str, str, str]]
    verdicts: list[Literal["stated", "contradicted", "absent"]]
    extra: list[tuple[str, str, str]] = []

    @model_validator(mode="after")
    def _judges_each(self) -> _Demonstration:
        if len(self.verdicts) != len(self.triplets):
            raise ValueError(f"{len(self.triplets)} triplets have {len(self.verdicts)} verdicts")
        return self

    @property
    def answer(self) -> str:
        verdicts = {str(number): verdict for number, verdict in enumerate(self.verdicts, 1)}
        return json.dumps({"verdicts": verdicts, "extra": self.extra}, ensure_ascii=False)


class JudgePrompt(_Model):
    """A judge's prompt file, validated.

    Attributes:
        system: the system message; empty for none.
        user: Jinja2 template of the user message.
        demonstrations: texts with the judgements that are right.
        temperature, max_tokens: decoding parameters, unless the run sets its own.
        notes: for people.
        name: ``name/version``, or the stem of a file given by path.
    """

    system: str = ""
    user: str
    demonstrations: list[_Demonstration] = []
    temperature: float = Field(default=0.2, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1)
    notes: str = ""
    name: str = Field(default="", exclude=True)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that decides about the judgements; notes do not."""
        content = self.model_dump(mode="json", exclude={"notes"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def messages(self, text: str, facts: Sequence[Fact], names: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
        """The chat messages that ask for a judgement.

        Args:
            text: the text to judge.
            facts: its triplets.
            names: name of a thing -> other names that the text may use.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        return self._conversation.messages(_values(text, facts, names), (), 0)

    @cached_property
    def _conversation(self) -> Conversation:
        exchanges = []
        for shown in self.demonstrations:
            facts = [Fact(*triplet) for triplet in shown.triplets]
            exchanges.append(Exchange(_values(shown.text, facts, shown.names), [], {}, shown.answer))
        what = f"The user template of the judge's prompt {self.name!r}"
        return Conversation(self.user, exchanges, system=self.system, axes={}, size=None, what=what, sees=_SEES)


def load_judge_prompt(name: str, folder: Path | None = None) -> JudgePrompt:
    """Load and check a judge's prompt.

    Args:
        name: ``name/version`` under ``folder``, or the path of a YAML file.
        folder: where the prompts are; None for those that come with the project.

    Raises:
        ConfigError: there is no such prompt, or it is not valid.
    """
    folder = folder or _bundled()
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else folder / f"{name}.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"There is no judge's prompt {name!r} ({path}: {error.strerror}). Prompts in {folder}: "
            f"{', '.join(judge_prompt_names(folder)) or 'none'}. Name one of them in judge.llm.prompt, or give the "
            "path of a file that ends in .yaml."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The judge's prompt {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"The judge's prompt {path} must be a mapping with at least the field 'user'.")
    try:
        prompt = JudgePrompt.model_validate({**data, "name": path.stem if is_path else name})
    except ValidationError as error:
        faults = " ".join(
            f"'{'.'.join(map(str, item['loc']))}': {item['msg'].removeprefix('Value error, ')}."
            for item in error.errors()
        )
        raise ConfigError(f"The judge's prompt {path} is not valid. {faults}") from None
    _check_ending(prompt)
    return prompt


def judge_prompt_names(folder: Path | None = None) -> list[str]:
    """All judge's prompts, as ``name/version``."""
    return prompt_names(folder or _bundled())


def _values(text: str, facts: Sequence[Fact], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "text": " ".join(text.split()),
        "triplets": format_triplets(facts) or "(none)",
        "facts": facts,
        "names": [{"name": name, "aliases": aliases} for name, aliases in names.items()],
    }


def _check_ending(prompt: JudgePrompt) -> None:
    facts = [Fact("Subject A", "relation", "Object B"), Fact("Object B", "relation", "Object C")]
    for asked, block in ((facts, format_triplets(facts)), ([], "(none)")):
        message = prompt.messages("Some text.", asked, {"Subject A": ["A"]})[-1]["content"]
        if not message.endswith(f"\nText: Some text.\n\nFacts:\n{block}"):
            raise ConfigError(
                f"The user template of the judge's prompt {prompt.name!r} must end with the text and the triplets: "
                "'Text: {{ text }}', an empty line, 'Facts:' and {{ triplets }}, each on a line of its own."
            )


def _bundled() -> Path:
    """The judges in the checkout's prompts folder, or in the copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_resources" / "prompts"
    return (installed if installed.is_dir() else package.parent / "prompts") / "judges"
