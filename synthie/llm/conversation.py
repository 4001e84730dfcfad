"""How one kind of text is asked for: system message, demonstrations as earlier exchanges, the question.

All that does not depend on the question is rendered once; a request renders its
last message, and draws its style and demonstrations (`synthie.llm.draws`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from synthie.errors import ConfigError
from synthie.llm.draws import Axes, Pool, Value

__all__ = ["Conversation", "Exchange", "Template", "said"]


class Exchange(NamedTuple):
    """A demonstration: what its user message is rendered from, and the answer."""

    values: dict[str, Any]
    labels: list[str]
    style: dict[str, str]  # axis -> name of a value
    text: str


class Conversation:
    """One part of a prompt, ready to ask.

    Args:
        template: Jinja2 template of the user message.
        exchanges: the demonstrations.
        system: the system message; empty for none.
        axes: axis of style -> name of a value -> the value.
        size: how many demonstrations a request shows; None for all.
        what, sees: what the template is and what it may use, for messages to people.

    Raises:
        ConfigError: template, axes and demonstrations do not fit one another.
    """

    def __init__(
        self,
        template: str,
        exchanges: Sequence[Exchange],
        *,
        system: str,
        axes: Mapping[str, Mapping[str, Value]],
        size: int | None,
        what: str,
        sees: str,
    ) -> None:
        self._template = Template(template, what, f"{sees}, style ({', '.join(axes)})" if axes else sees)
        self._template.check_axes(axes)
        self._axes = Axes(axes)
        self._texts = {axis: {name: value.text for name, value in values.items()} for axis, values in axes.items()}
        self._system = [said("system", system.strip())] if system.strip() else []
        self._shown: list[list[dict[str, str]]] = []
        for number, exchange in enumerate(exchanges, 1):
            self._check_style(exchange.style, f"{what} has %s axes, so demonstration {number}")
            asked = self._asked(exchange.values, dict(sorted(exchange.style.items())))
            self._shown.append([said("user", asked), said("assistant", exchange.text.strip())])
        self._opening = [*self._system, *chain.from_iterable(self._shown)]
        self._pool = None
        if size is not None:
            if size > len(exchanges):
                raise ConfigError(
                    f"{what} shall show {size} demonstrations a request ('demonstrations_per_request'), but there are "
                    f"{len(exchanges)}. Add some, or ask for fewer."
                )
            contents = [json.dumps(messages).encode() for messages in self._shown]
            self._pool = Pool([exchange.labels for exchange in exchanges], contents, size)

    def style(self, draw: int) -> dict[str, str]:
        """Axis -> name of the value drawn."""
        return self._axes.draw(draw)

    def messages(self, values: Mapping[str, Any], labels: Iterable[str], draw: int) -> list[dict[str, str]]:
        """The chat messages of one request.

        Args:
            values: what the template sees, apart from the style.
            labels: the relations that demonstrations should show, each once.
            draw: 64-bit number that decides about style and demonstrations.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        asked = said("user", self._asked(values, self._axes.draw(draw)))
        if self._pool is None:
            return [*self._opening, asked]
        messages = [*self._system]
        for index in self._pool.choose(labels, draw):
            messages += self._shown[index]
        messages.append(asked)
        return messages

    def _asked(self, values: Mapping[str, Any], style: Mapping[str, str]) -> str:
        texts = {axis: self._texts[axis][name] for axis, name in style.items()}
        return self._template.render(**values, style=texts)

    def _check_style(self, style: Mapping[str, str], who: str) -> None:
        """Refuse a demonstration that does not name one value of each axis."""
        if style.keys() == self._texts.keys() and all(name in self._texts[axis] for axis, name in style.items()):
            return
        if not self._texts:
            raise ConfigError(f"{who % 'no'} must not have a 'style'.")
        needed = "; ".join(f"{axis}: {', '.join(names)}" for axis, names in self._texts.items())
        raise ConfigError(f"{who % 'these'} needs a 'style' that names one value of each ({needed}); found {style}.")


class Template:
    """A user message's Jinja2 template; ``what`` it is and what it ``sees`` are for messages to people.

    Raises:
        ConfigError: its syntax is wrong.
    """

    def __init__(self, source: str, what: str, sees: str) -> None:
        self._what, self._sees = what, sees
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        try:
            self._tree = environment.parse(source)
            self._template = environment.from_string(self._tree)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"{what} is not valid Jinja2: {error.message} (line {error.lineno} of the template). "
                "Correct it in the prompt's YAML file."
            ) from error

    def render(self, **values: Any) -> str:
        """The message, without white space around it.

        Raises:
            ConfigError: the template cannot be rendered with these values.
        """
        try:
            return self._template.render(**values).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"{self._what} cannot be rendered: {error}. It may use {self._sees}.") from error

    def check_axes(self, axes: Iterable[str]) -> None:
        """Refuse a style without axes, and axes without a use."""
        used = self._used_axes()
        if used != set() and not axes:
            raise ConfigError(
                f"{self._what} uses 'style', but there are no 'axes' beside it. Add them, such as "
                "'axes: {genre: {news report: 2, encyclopaedia article: 1}}', or take 'style' out of the template."
            )
        if unused := [axis for axis in axes if used is not None and axis not in used]:
            raise ConfigError(
                f"{self._what} never uses the axis {unused[0]!r}. "
                f"Put {{{{ style.{unused[0]} }}}} into it, or take the axis out of 'axes'."
            )

    def _used_axes(self) -> set[str] | None:
        """The axes that the template names; None where it goes through all of them (``style.items()``)."""
        named: list[Any] = []
        for attribute in self._tree.find_all(nodes.Getattr):
            if _is_style(attribute.node):
                named.append(attribute.attr)
        for item in self._tree.find_all(nodes.Getitem):
            if _is_style(item.node):
                named.append(item.arg.value if isinstance(item.arg, nodes.Const) else None)
        uses = sum(map(_is_style, self._tree.find_all(nodes.Name)))
        if uses > len(named) or any(name is None or hasattr(dict, name) for name in named):
            return None
        return set(named)


def _is_style(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "style"


def said(role: str, content: str) -> dict[str, str]:
    """A chat message."""
    return {"role": role, "content": content}
