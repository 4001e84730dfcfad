"""Versioned prompts: YAML files that say how a triplet set becomes chat messages.

``prompts/<name>/<version>.yaml`` holds a system message, a Jinja2 template for
the user message, demonstrations and decoding parameters. A demonstration is
rendered as an earlier exchange: its triplets through the same user template,
its text as the assistant's answer. The user message ends with the triplets,
one a line, as `format_triplets` writes them; loading a prompt checks that.

The template sees ``triplets`` (those lines), ``facts`` (each with ``subject``,
``relation``, ``object``) and ``relations`` (each different relation once, with
``label`` and ``description``).

A part of its own, ``negatives``, asks for texts that mention an entity and state
nothing about it. Its template sees ``topic``, the entity's name, and ends with
``Topic: {{ topic }}``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthie.errors import ConfigError

__all__ = ["Fact", "Prompt", "Relation", "format_topic", "format_triplets", "load_prompt"]

_SPACES = re.compile(r"\s+")


class Fact(NamedTuple):
    """One triplet in names for reading, with spaces."""

    subject: str
    relation: str
    object: str


class Relation(NamedTuple):
    """A relation as prompts show it."""

    label: str
    description: str


def format_triplets(facts: Sequence[Fact]) -> str:
    """The lines that end a user message: ``1. subject | relation | object``.

    A ``|`` inside a name becomes ``/``, any run of white space one space.

    >>> print(format_triplets([Fact("Albert Einstein", "place of birth", "Ulm")]))
    1. Albert Einstein | place of birth | Ulm
    """
    return "\n".join(
        f"{number}. {' | '.join(_one_line(part.replace('|', '/')) for part in fact)}"
        for number, fact in enumerate(facts, 1)
    )


def format_topic(name: str) -> str:
    """The line that ends a user message about a text without triplets.

    >>> format_topic("Mercury (planet)")
    'Topic: Mercury (planet)'
    """
    return f"Topic: {_one_line(name)}"


def _one_line(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


class _Demonstration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    triplets: list[tuple[str, str, str]] = Field(min_length=1)
    text: str = Field(min_length=1)


class _Remark(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str = Field(min_length=1)
    text: str = Field(min_length=1)


class _Negatives(BaseModel):
    """How to ask for a text that states no triplet.

    Attributes:
        system: the system message; empty for none.
        user: Jinja2 template of the user message.
        demonstrations: topics with a text that mentions them and states nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = ""
    user: str
    demonstrations: list[_Remark] = []


class Prompt(BaseModel):
    """A prompt file's content, validated.

    Attributes:
        system: the system message; empty for none.
        user: Jinja2 template of the user message.
        demonstrations: triplets with the text that states them.
        definitions: descriptions of the relations in the demonstrations, by label.
        negatives: how to ask for texts without triplets; None: the prompt cannot.
        temperature, max_tokens: decoding parameters, unless the run sets its own.
        notes: for people.
        name: ``name/version``, or the stem of a file given by path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = ""
    user: str
    demonstrations: list[_Demonstration] = []
    definitions: dict[str, str] = {}
    negatives: _Negatives | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    notes: str = ""
    name: str = Field(default="", exclude=True)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that decides about texts for triplets and their requests; notes do not."""
        return _digest(self.model_dump(mode="json", exclude={"notes", "negatives"}))

    @cached_property
    def negatives_hash(self) -> str:
        """The same for texts without triplets.

        Raises:
            ConfigError: the prompt has no part for them.
        """
        self.require_negatives()
        return _digest(self.model_dump(mode="json", include={"negatives", "temperature", "max_tokens"}))

    def messages(self, facts: Sequence[Fact], relations: Sequence[Relation]) -> list[dict[str, str]]:
        """The chat messages that ask for a text on ``facts``.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        return [*self._opening, _said("user", self._user_message(facts, relations))]

    def negative_messages(self, topic: str) -> list[dict[str, str]]:
        """The chat messages that ask for a text that mentions ``topic`` and states nothing about it.

        Raises:
            ConfigError: the prompt has no part for that, or its template cannot be rendered.
        """
        return [*self._negative_opening, _said("user", self._negative_user_message(topic))]

    def require_negatives(self) -> _Negatives:
        """The part for texts without triplets.

        Raises:
            ConfigError: there is none.
        """
        if self.negatives is None:
            raise ConfigError(
                f"The sets hold negatives (texts without triplets), but the prompt {self.name!r} does not say how to "
                "ask for them. Add 'negatives' to its YAML file, with 'system', 'user' (its last line: "
                "'Topic: {{ topic }}') and 'demonstrations' (each with 'topic' and 'text'), as few-shot/1 has it; or "
                "sample without negatives."
            )
        return self.negatives

    @cached_property
    def _opening(self) -> list[dict[str, str]]:
        messages = _system_message(self.system)
        for demonstration in self.demonstrations:
            facts = [Fact(*triplet) for triplet in demonstration.triplets]
            labels = dict.fromkeys(fact.relation for fact in facts)
            relations = [Relation(label, self.definitions.get(label, "")) for label in labels]
            messages.append(_said("user", self._user_message(facts, relations)))
            messages.append(_said("assistant", demonstration.text.strip()))
        return messages

    @cached_property
    def _negative_opening(self) -> list[dict[str, str]]:
        negatives = self.require_negatives()
        messages = _system_message(negatives.system)
        for demonstration in negatives.demonstrations:
            messages.append(_said("user", self._negative_user_message(demonstration.topic)))
            messages.append(_said("assistant", demonstration.text.strip()))
        return messages

    def _user_message(self, facts: Sequence[Fact], relations: Sequence[Relation]) -> str:
        return self._template.render(triplets=format_triplets(facts), facts=facts, relations=relations)

    def _negative_user_message(self, topic: str) -> str:
        return self._negative_template.render(topic=_one_line(topic))

    @cached_property
    def _template(self) -> _Template:
        what = f"The user template of the prompt {self.name!r}"
        return _Template(
            self.user, what, "triplets, facts (subject, relation, object) and relations (label, description)"
        )

    @cached_property
    def _negative_template(self) -> _Template:
        return _Template(self.require_negatives().user, f"The negatives' user template of {self.name!r}", "topic")


class _Template:
    """A user message's Jinja2 template; ``what`` it is and what it ``sees`` are for messages to people."""

    def __init__(self, source: str, what: str, sees: str) -> None:
        self._what, self._sees = what, sees
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"{what} is not valid Jinja2: {error.message} (line {error.lineno} of the template). "
                "Correct it in the prompt's YAML file."
            ) from error

    def render(self, **values: Any) -> str:
        try:
            return self._template.render(**values).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"{self._what} cannot be rendered: {error}. It may use {self._sees}.") from error


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _system_message(system: str) -> list[dict[str, str]]:
    return [_said("system", system.strip())] if system.strip() else []


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_prompt(name: str, folder: Path | None = None) -> Prompt:
    """Load and check a prompt.

    Args:
        name: ``name/version`` under ``folder``, or the path of a YAML file.
        folder: where the prompts are; None for those that come with the project.

    Raises:
        ConfigError: there is no such prompt (the message lists those that exist), or it is not valid.
    """
    folder = folder or _bundled()
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else folder / f"{name}.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = sorted(found.relative_to(folder).with_suffix("").as_posix() for found in folder.glob("*/*.yaml"))
        raise ConfigError(
            f"There is no prompt {name!r} ({path}: {error.strerror}). "
            f"Prompts in {folder}: {', '.join(known) or 'none'}. "
            "Name one of them, or give the path of a file that ends in .yaml."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The prompt {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    prompt = _validated(data, path, path.stem if is_path else name)
    _check_ending(prompt)
    return prompt


def _bundled() -> Path:
    """The checkout's prompts folder, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_resources" / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def _validated(data: Any, path: Path, name: str) -> Prompt:
    if not isinstance(data, dict):
        raise ConfigError(f"The prompt {path} must be a mapping with at least the field 'user'.")
    try:
        return Prompt.model_validate({**data, "name": name})
    except ValidationError as error:
        faults = "; ".join(f"'{'.'.join(map(str, item['loc']))}': {item['msg']}" for item in error.errors())
        known = ", ".join(field for field in Prompt.model_fields if field != "name")
        raise ConfigError(f"The prompt {path} is not valid: {faults}. Known fields: {known}.") from None


def _check_ending(prompt: Prompt) -> None:
    facts = [Fact("Subject A", "relation", "Object B"), Fact("Object B", "relation", "Object C")]
    message = prompt.messages(facts, [Relation("relation", "what it means")])[-1]["content"]
    if not message.endswith("\n" + format_triplets(facts)) and message != format_triplets(facts):
        raise ConfigError(
            f"The user template of the prompt {prompt.name!r} does not end with the triplets. Put {{{{ triplets }}}} "
            "alone on its last line."
        )
    if prompt.negatives is not None:
        topic = "Subject A"
        if prompt.negative_messages(topic)[-1]["content"].splitlines()[-1:] != [format_topic(topic)]:
            raise ConfigError(
                f"The negatives' user template of {prompt.name!r} does not end with the topic. "
                "Put 'Topic: {{ topic }}' alone on its last line."
            )
