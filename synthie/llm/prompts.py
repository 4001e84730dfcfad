"""Versioned prompts: YAML files that say how a triplet set becomes chat messages.

``prompts/<name>/<version>.yaml`` holds a system message, a Jinja2 template for
the user message, demonstrations and decoding parameters. A demonstration is
rendered as an earlier exchange: its triplets through the same user template,
its text as the assistant's answer. The user message ends with the triplets,
one a line, as `format_triplets` writes them; loading a prompt checks that.

The template sees ``triplets`` (those lines), ``facts`` (each with ``subject``,
``relation``, ``object``) and ``relations`` (each different relation once, with
``label`` and ``description``).
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

__all__ = ["Fact", "Prompt", "Relation", "format_triplets", "load_prompt"]

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
        f"{number}. {' | '.join(_SPACES.sub(' ', part.replace('|', '/')).strip() for part in fact)}"
        for number, fact in enumerate(facts, 1)
    )


class _Demonstration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    triplets: list[tuple[str, str, str]] = Field(min_length=1)
    text: str = Field(min_length=1)


class Prompt(BaseModel):
    """A prompt file's content, validated.

    Attributes:
        system: the system message; empty for none.
        user: Jinja2 template of the user message.
        demonstrations: triplets with the text that states them.
        definitions: descriptions of the relations in the demonstrations, by label.
        temperature, max_tokens: decoding parameters, unless the run sets its own.
        notes: for people.
        name: ``name/version``, or the stem of a file given by path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = ""
    user: str
    demonstrations: list[_Demonstration] = []
    definitions: dict[str, str] = {}
    temperature: float = Field(default=1.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    notes: str = ""
    name: str = Field(default="", exclude=True)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that reaches the endpoint or decides about it; notes do not."""
        content = self.model_dump(mode="json", exclude={"notes"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def messages(self, facts: Sequence[Fact], relations: Sequence[Relation]) -> list[dict[str, str]]:
        """The chat messages that ask for a text on ``facts``.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        return [*self._opening, {"role": "user", "content": self._user_message(facts, relations)}]

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        try:
            return environment.from_string(self.user)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"The user template of the prompt {self.name!r} is not valid Jinja2: {error.message} "
                f"(line {error.lineno} of the template). Correct it in the prompt's YAML file."
            ) from error

    @cached_property
    def _opening(self) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system.strip()}] if self.system.strip() else []
        for demonstration in self.demonstrations:
            facts = [Fact(*triplet) for triplet in demonstration.triplets]
            labels = dict.fromkeys(fact.relation for fact in facts)
            relations = [Relation(label, self.definitions.get(label, "")) for label in labels]
            messages.append({"role": "user", "content": self._user_message(facts, relations)})
            messages.append({"role": "assistant", "content": demonstration.text.strip()})
        return messages

    def _user_message(self, facts: Sequence[Fact], relations: Sequence[Relation]) -> str:
        try:
            return self._template.render(triplets=format_triplets(facts), facts=facts, relations=relations).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(
                f"The user template of the prompt {self.name!r} cannot be rendered: {error}. It may use triplets, "
                "facts (subject, relation, object) and relations (label, description)."
            ) from error


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
