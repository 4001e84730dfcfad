"""The commands ``synthie prompt …``: list the prompts, show what one asks, try it on one set of a run."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthie.commands.command import ConfigOption, RunOption, SetOption
from synthie.errors import ConfigError

if TYPE_CHECKING:
    from synthie.config import QualityConfig, RunConfig
    from synthie.llm.prompts import Prompt
    from synthie.texts.trial import Question, Trial

__all__ = ["prompt_app"]

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4
_WIDTH = 100
_TRIPLETS = (
    ("Marie Curie", "place of birth", "Warsaw"),
    ("Marie Curie", "spouse", "Pierre Curie"),
    ("Pierre Curie", "place of burial", "Panthéon"),
)
_DESCRIPTIONS = {
    "place of birth": "place where a person was born",
    "spouse": "person married to the subject",
    "place of burial": "place where the person is buried",
}
_TOPIC = "Marie Curie"
_CHECKS = {  # check of the quality gate -> option that turns it off
    **dict.fromkeys(("empty", "refusal", "markup", "truncated", "length", "language", "demonstration"), ""),
    **dict.fromkeys(("missing", "unlinked", "negated", "relation"), "check_entities"),
    **dict.fromkeys(("extra_link", "extra_name", "extra_number"), "check_extra"),
}

prompt_app = typer.Typer(help="List, show and try the prompts that ask for texts.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="name/version, or the path of a YAML file.")]
IdOption = Annotated[int | None, typer.Option("--id", metavar="N", help="Id of the set (default: the run's first).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@prompt_app.command("list")
def list_prompts() -> None:
    """Print the prompts that come with synthie, and what each is for.

    Example: synthie prompt list
    """
    from synthie.llm.prompts import load_prompt, prompt_names

    for name in prompt_names():
        prompt = load_prompt(name)
        typer.echo(f"{typer.style(name, bold=True)}  {_demonstrations(prompt)}; hash {prompt.hash[:12]}")
        typer.echo(_wrapped(prompt.notes))


@prompt_app.command("show")
def show(
    name: NameArgument,
    run: RunOption = None,
    number: IdOption = None,
    draw: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="Of the example: what style and demonstrations are drawn by.")
    ] = 0,
    negative: Annotated[bool, typer.Option("--negative", help="Of the example: ask for a text without facts.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the messages that ask for a text: for a set of a run, or for an example of three facts.

    Examples: synthie prompt show styles/1 --draw 7 · synthie prompt show few-shot/2 --run data/runs/demo --id 12
    """
    if run is not None or config is not None or set_:
        if draw or negative:
            raise ConfigError(
                "--draw and --negative are for the example; the sets of a run have their own. Leave them out."
            )
        _, question = _find(name, run, number, config, set_)
        told = _told_of(name, question)
    else:
        if number is not None:
            raise ConfigError("--id names a set of a run. Say which run with --run.")
        told = _example(name, draw, negative)
    if as_json:
        _print_json(told)
    else:
        _print_question(told)


@prompt_app.command("try")
def try_(
    name: NameArgument,
    run: RunOption = None,
    number: IdOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the configured endpoint for one set of a run, and print the answer, what it cost, and what the checks say.

    The answer is kept: generating the texts with the same prompt does not ask for it again.

    Example: synthie prompt try few-shot/2 --run data/runs/demo --id 12
    """
    from synthie.texts.trial import try_question

    settings, question = _find(name, run, number, config, set_)
    told = _told_of(name, question)
    if not as_json:
        _print_question(told)
    trial = try_question(settings, question, Path(settings.run) / "texts")
    if as_json:
        _print_json(told | _answer(trial))
    else:
        _print_trial(trial, settings.quality)


def _find(
    name: str, run: str | None, number: int | None, config: Path | None, set_: list[str] | None
) -> tuple[RunConfig, Question]:
    """A run's settings, with this prompt, and what it asks about a set."""
    from synthie.commands.command import plan_run
    from synthie.texts.trial import find_question

    plan = plan_run(config, [*(set_ or []), f"generation.prompt={json.dumps(name)}"], run)
    return plan.config, find_question(plan.config, plan.kg, plan.sets, number)


def _told_of(name: str, question: Question) -> dict[str, Any]:
    """What there is to say about the question for a set of a run."""
    from synthie.llm.prompts import load_prompt

    is_negative = question.triplet_set.topic is not None
    told = _told(load_prompt(name), question.messages, question.style, negative=is_negative)
    return told | {"set": question.triplet_set.id, "request": question.fields}


def _example(name: str, draw: int, negative: bool) -> dict[str, Any]:
    """The same for the example."""
    from synthie.llm.prompts import Fact, Relation, load_prompt

    prompt = load_prompt(name)
    if negative:
        messages, style = prompt.negative_messages(_TOPIC, draw), prompt.negative_style(draw)
    else:
        relations = [Relation(label, description) for label, description in _DESCRIPTIONS.items()]
        messages = prompt.messages([Fact(*triplet) for triplet in _TRIPLETS], relations, draw)
        style = prompt.style(draw)
    spelled = ", ".join(f"{axis}: {value}" for axis, value in style.items())
    told = _told(prompt, messages, spelled, negative=negative)
    return told | {"request": {"temperature": prompt.temperature, "max_tokens": prompt.max_tokens}}


def _told(prompt: Prompt, messages: list[dict[str, str]], style: str, *, negative: bool) -> dict[str, Any]:
    characters = sum(len(message["content"]) for message in messages)
    return {
        "prompt": prompt.name,
        "hash": prompt.negatives_hash if negative else prompt.hash,
        "style": style,
        "tokens": round(characters / _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE * len(messages)),
        "messages": messages,
    }


def _answer(trial: Trial) -> dict[str, Any]:
    record = trial.record
    return {
        "answer": record.text,
        "finish_reason": record.finish_reason,
        "model": record.model,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "usd": record.cost / 1e12,
        "stored": trial.stored,
        "accepted": trial.verdict.accepted,
        "reasons": [reason._asdict() for reason in trial.verdict.reasons],
    }


def _print_json(told: dict[str, Any]) -> None:
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))


def _print_question(told: dict[str, Any]) -> None:
    fields = [
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in told["request"].items()
    ]
    _print_fields(
        prompt=told["prompt"] + (f", set {told['set']}" if "set" in told else ""),
        hash=told["hash"],
        style=told["style"],
        request=f"{', '.join(fields)}; about {told['tokens']:,} input tokens",
    )
    for message in told["messages"]:
        typer.echo(f"\n{typer.style(message['role'], bold=True)}")
        typer.echo(textwrap.indent(message["content"], "  "))


def _print_trial(trial: Trial, quality: QualityConfig) -> None:
    from synthie.money import usd

    record = trial.record
    kept = {
        "before": "the run's journal had it already, nothing was asked",
        "now": "kept in the run's journal",
        "not": "not kept, nor counted in the run's budget: another process works in the run's folder",
    }
    typer.echo(f"\n{typer.style('answer', bold=True)}")
    typer.echo(textwrap.indent(record.text.strip(), "  ") + "\n")
    _print_fields(
        model=record.model,
        cost=f"{usd(record.cost / 1e12)} for {record.input_tokens:,} input and {record.output_tokens:,} output tokens; "
        f"{kept[trial.stored]}",
        verdict="accepted" if trial.verdict.accepted else "rejected",
    )
    found: dict[str, list[str]] = {}
    for reason in trial.verdict.reasons:
        found.setdefault(reason.check, []).append(reason.detail)
    for check in (*_CHECKS, *(found.keys() - _CHECKS.keys())):
        option = _CHECKS.get(check)
        passed = f"off (quality.{option})" if option and not getattr(quality, option) else "ok"
        typer.echo(f"  {check:13}{' '.join(found.get(check, [])) or passed}")


def _print_fields(**fields: str) -> None:
    for name, value in fields.items():
        if value:
            typer.echo(f"{typer.style(f'{name:9}', bold=True)}{value}")


def _demonstrations(prompt: Prompt) -> str:
    count, shown = len(prompt.demonstrations), prompt.demonstrations_per_request
    if not count:
        return "no demonstrations"
    return f"{count} demonstrations" + (f", {shown} a request" if shown else "")


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, initial_indent="  ", subsequent_indent="  ")
