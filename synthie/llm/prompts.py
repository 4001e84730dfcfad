"""Versioned prompts: YAML files that say how a triplet set becomes chat messages.

``prompts/<name>/<version>.yaml`` holds a system message, a Jinja2 template for
the user message, demonstrations and decoding parameters. A demonstration is
rendered as an earlier exchange: its triplets through the same user template,
its text as the assistant's answer. The user message ends with the triplets,
one a line, as `format_triplets` writes them; loading a prompt checks that.

The template sees ``triplets`` (those lines), ``facts`` (each with ``subject``,
``relation``, ``object``), ``relations`` (each different relation once, with
``label`` and ``description``) and, where the prompt has ``axes``, ``style``:
one value of each, drawn for every set. With ``demonstrations_per_request`` a set
is shown only the demonstrations that are nearest to it.

``repair`` is the message that sends a rejected text back to its writer. Its template
sees ``faults`` and ``question``, the message that asked for the text, and ends with it.

A part of its own, ``negatives``, asks for texts that mention an entity and state
nothing about it. Its template sees ``topic``, the entity's name, and ends with
``Topic: {{ topic }}``; axes and demonstrations are its own. docs/prompts.md
describes the files.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from synthie.errors import ConfigError
from synthie.llm.conversation import Conversation, Exchange, Template, said

__all__ = ["Fact", "Prompt", "Relation", "format_topic", "format_triplets", "load_prompt", "prompt_names"]

_SHOWN_CHARACTERS = 80
_AXIS = re.compile(r"[a-z][a-z0-9_]*")
_REPAIR = """\
The text is not right:
{% for fault in faults %}
- {{ fault }}
{%- endfor %}

Write it anew as a whole, without these faults.
{{ question }}"""


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
    return " ".join(text.split())


class _Model(BaseModel):
    """What all parts of a prompt file have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    LATER: ClassVar[frozenset[str]] = frozenset()  # fields that prompts of the first versions lack

    @model_serializer(mode="wrap")
    def _as_it_was(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later fields that are not set, so that the hashes of older prompts stand."""
        return {name: value for name, value in dump(self).items() if value or name not in self.LATER}


class _Value(_Model):
    """One value of an axis: how often it is drawn, and what the template sees."""

    weight: float = Field(gt=0, allow_inf_nan=False)
    text: str = Field(min_length=1)


class _Demonstration(_Model):
    LATER = frozenset({"style"})

    triplets: list[tuple[str, str, str]] = Field(min_length=1)
    text: str = Field(min_length=1)
    style: dict[str, str] = {}


class _Remark(_Model):
    LATER = frozenset({"style"})

    topic: str = Field(min_length=1)
    text: str = Field(min_length=1)
    style: dict[str, str] = {}


class _Part(_Model):
    """How one kind of text is asked for.

    Attributes:
        system: the system message; empty for none.
        user: Jinja2 template of the user message.
        axes: axis of style -> name of a value -> weight and text. A bare number is the weight of a value whose text
            is its name.
        demonstrations_per_request: how many demonstrations a request shows; None for all.
    """

    LATER = frozenset({"axes", "demonstrations_per_request"})

    system: str = ""
    user: str
    axes: dict[str, dict[str, _Value]] = {}
    demonstrations_per_request: int | None = Field(default=None, ge=1)

    @field_validator("axes", mode="before")
    @classmethod
    def _spell_out(cls, axes: Any) -> Any:
        if not isinstance(axes, dict):
            return axes
        return {
            axis: {name: _spelled_out(name, value) for name, value in values.items()}
            if isinstance(values, dict)
            else values
            for axis, values in axes.items()
        }

    @field_validator("axes")
    @classmethod
    def _can_be_drawn(cls, axes: dict[str, dict[str, _Value]]) -> dict[str, dict[str, _Value]]:
        for axis, values in axes.items():
            if not _AXIS.fullmatch(axis) or hasattr(dict, axis):
                raise ValueError(
                    f"the axis {axis!r} needs a name of small letters, digits and _ that templates can use"
                )
            if not values:
                raise ValueError(f"the axis {axis!r} has no values")
        return axes

    def _asked(self, exchanges: Sequence[Exchange], what: str, sees: str) -> Conversation:
        return Conversation(
            self.user,
            exchanges,
            system=self.system,
            axes=self.axes,
            size=self.demonstrations_per_request,
            what=what,
            sees=sees,
        )


class _Negatives(_Part):
    """How to ask for a text that states no triplet.

    Attributes:
        demonstrations: topics with a text that mentions them and states nothing.
    """

    demonstrations: list[_Remark] = []


class Prompt(_Part):
    """A prompt file's content, validated.

    Attributes:
        demonstrations: triplets with the text that states them.
        definitions: descriptions of the relations in the demonstrations, by label.
        negatives: how to ask for texts without triplets; None: the prompt cannot.
        temperature, max_tokens: decoding parameters, unless the run sets its own.
        repair: Jinja2 template of the message that sends a text back; empty for the usual one.
        notes: for people.
        name: ``name/version``, or the stem of a file given by path.
    """

    LATER = _Part.LATER | {"repair"}

    demonstrations: list[_Demonstration] = []
    definitions: dict[str, str] = {}
    negatives: _Negatives | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    repair: str = ""
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

    def messages(self, facts: Sequence[Fact], relations: Sequence[Relation], draw: int = 0) -> list[dict[str, str]]:
        """The chat messages that ask for a text on ``facts``.

        Args:
            facts: the triplets.
            relations: each of their relations once.
            draw: 64-bit number that decides about style and demonstrations; it differs from set to set.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        return self._conversation.messages(_of_facts(facts, relations), dict.fromkeys(f.relation for f in facts), draw)

    def negative_messages(self, topic: str, draw: int = 0) -> list[dict[str, str]]:
        """The chat messages that ask for a text that mentions ``topic`` and states nothing about it.

        Raises:
            ConfigError: the prompt has no part for that, or its template cannot be rendered.
        """
        return self._negative_conversation.messages({"topic": _one_line(topic)}, (), draw)

    def repair_messages(
        self, asked: Sequence[dict[str, str]], text: str, faults: Sequence[str]
    ) -> list[dict[str, str]]:
        """The chat messages that send an answer back.

        Args:
            asked: the messages that it answered.
            text: the answer.
            faults: what is wrong with it, a sentence each.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        again = self._repair.render(faults=faults, question=asked[-1]["content"])
        return [*asked, said("assistant", text), said("user", again)]

    def style(self, draw: int) -> dict[str, str]:
        """Axis -> name of the value drawn for a set; empty where the prompt has no axes. Templates see its text."""
        return self._conversation.style(draw)

    def negative_style(self, draw: int) -> dict[str, str]:
        """The same for a text without triplets."""
        return self._negative_conversation.style(draw)

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
    def _conversation(self) -> Conversation:
        what = f"The user template of the prompt {self.name!r}"
        sees = "triplets, facts (subject, relation, object), relations (label, description)"
        exchanges = []
        for demonstration in self.demonstrations:
            facts = [Fact(*triplet) for triplet in demonstration.triplets]
            labels = list(dict.fromkeys(fact.relation for fact in facts))
            relations = [Relation(label, self.definitions.get(label, "")) for label in labels]
            values = _of_facts(facts, relations)
            exchanges.append(Exchange(values, labels, demonstration.style, demonstration.text))
        return self._asked(exchanges, what, sees)

    @cached_property
    def _repair(self) -> Template:
        return Template(
            self.repair or _REPAIR, f"The repair template of the prompt {self.name!r}", "faults (a list), question"
        )

    @cached_property
    def _negative_conversation(self) -> Conversation:
        negatives = self.require_negatives()
        exchanges = [
            Exchange({"topic": _one_line(remark.topic)}, [], remark.style, remark.text)
            for remark in negatives.demonstrations
        ]
        return negatives._asked(exchanges, f"The negatives' user template of {self.name!r}", "topic")


def _of_facts(facts: Sequence[Fact], relations: Sequence[Relation]) -> dict[str, Any]:
    return {"triplets": format_triplets(facts), "facts": facts, "relations": relations}


def _spelled_out(name: Any, value: Any) -> Any:
    is_weight = isinstance(value, int | float) and not isinstance(value, bool)
    return {"weight": value, "text": name} if is_weight else value


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
        raise _unknown(name, f"{path}: {error.strerror}", folder) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The prompt {path} is not valid YAML: {' '.join(str(error).split())}. Mend that line: a text with ': ', "
            "'#' or brackets stands in quotation marks or in a block (|)."
        ) from error
    prompt = _validated(data, path, path.stem if is_path else name)
    _check_endings(prompt)
    return prompt


def prompt_names(folder: Path | None = None) -> list[str]:
    """All prompts, as ``name/version``."""
    folder = folder or _bundled()
    return sorted(found.relative_to(folder).with_suffix("").as_posix() for found in folder.glob("*/*.yaml"))


def _bundled() -> Path:
    """The checkout's prompts folder, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_resources" / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def _unknown(name: str, reason: str, folder: Path) -> ConfigError:
    known = prompt_names(folder)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(
        f"There is no prompt {name!r} ({reason}). {hint}Prompts in {folder}: {', '.join(known) or 'none'}. "
        "Name one of them, or give the path of a file that ends in .yaml."
    )


def _validated(data: Any, path: Path, name: str) -> Prompt:
    if not isinstance(data, dict):
        raise ConfigError(f"The prompt {path} must be a mapping with at least the field 'user'.")
    try:
        return Prompt.model_validate({**data, "name": name})
    except ValidationError as error:
        faults = " ".join(_fault(item["type"], item["loc"], item["msg"], item["input"]) for item in error.errors())
        raise ConfigError(f"The prompt {path} is not valid. {faults}") from None


def _fault(kind: str, location: Sequence[str | int], message: str, value: Any) -> str:
    """One sentence on one wrong field: which, why, and how to mend it. Entries of lists count from 1."""
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in location)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _FIELDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"a prompt has {', '.join(_FIELDS)}."
        return f"'{field}' is not a known field; {hint}"
    mend = ""
    if kind == "missing":
        return f"'{field}': Field required."
    if kind in ("string_type", "tuple_type", "too_long") and "triplets" in location:
        mend = " A triplet is [subject, relation, object]; numbers, dates and names with a comma need quotation marks."
    elif kind == "string_type":
        mend = " Put it in quotation marks."
    return f"'{field}': {message.removeprefix('Value error, ')}; found {_shortened(value)}.{mend}"


_FIELDS = [
    *(name for name in Prompt.model_fields if name != "name"),
    *("triplets", "text", "topic", "style", "weight"),
]


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _check_endings(prompt: Prompt) -> None:
    facts = [Fact("Subject A", "relation", "Object B"), Fact("Object B", "relation", "Object C")]
    message = prompt.messages(facts, [Relation("relation", "what it means")])[-1]["content"]
    if not message.endswith("\n" + format_triplets(facts)) and message != format_triplets(facts):
        raise ConfigError(
            f"The user template of the prompt {prompt.name!r} does not end with the triplets. Put {{{{ triplets }}}} "
            "alone on its last line."
        )
    if not prompt.repair_messages([said("user", message)], "A text.", ["A fault."])[-1]["content"].endswith(message):
        raise ConfigError(
            f"The repair template of the prompt {prompt.name!r} does not end with the question. Put {{{{ question }}}} "
            "alone on its last line: it is the message that asked for the text."
        )
    if prompt.negatives is not None:
        topic = "Subject A"
        if prompt.negative_messages(topic)[-1]["content"].splitlines()[-1:] != [format_topic(topic)]:
            raise ConfigError(
                f"The negatives' user template of {prompt.name!r} does not end with the topic. "
                "Put 'Topic: {{ topic }}' alone on its last line."
            )
