"""The command ``synthie status``: a run as the person on call needs to see it, from any terminal."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthie.commands.command import DEFAULT_RUN, RunFolder
from synthie.errors import ConfigError
from synthie.money import usd

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["duration", "show_status", "status_text"]

_REFRESH_S = 2.0
_QUIET_S = 15.0  # without news that is due every two seconds
_STYLES = {
    "running": "bold cyan",
    "finished": "green",
    "stopped": "bold yellow",
    "damaged": "bold red",
    "elsewhere": "yellow",
    "not started": "dim",
}


def show_status(
    run: RunFolder = DEFAULT_RUN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show how far a run is, what it has spent and whether it is alive; also while it runs.

    Examples: synthie status · synthie status --run data/runs/wikidata --watch
    """
    from rich.console import Console

    from synthie.texts.status import RunWatch

    if as_json and watch:
        raise ConfigError("Choose one of --json and --watch.")
    run_watch = RunWatch(run)
    seen = run_watch.look()
    if as_json:
        typer.echo(json.dumps(seen, indent=2, ensure_ascii=False))
    elif watch:
        _watch(run_watch)
    else:
        Console(highlight=False).print(status_text(seen), soft_wrap=True)


def status_text(seen: dict[str, Any]) -> Text:
    """What `synthie.texts.status.status` has found, for a person."""
    from rich.text import Text

    text = Text(f"Run {seen['run']}\n", end="")
    for stage in seen["stages"]:
        text.append(f"  {stage['name']:<12}")
        text.append(f"{stage['state']:<12}", _STYLES[stage["state"]])
        text.append(f"{_stage_details(stage)}\n")
    asking = [(stage, seen[stage["name"]]) for stage in seen["stages"] if seen.get(stage["name"]) is not None]
    for stage, asked in asking:
        text.append("\n")
        for line in _asking_lines(stage, asked):
            text.append(f"{line}\n")
    if len(asking) > 1:
        text.append(f"\nSpent in all: {usd(seen['spent_usd'])}\n")
    text.rstrip()
    return text


def duration(seconds: float) -> str:
    """A length of time in its two largest units: 45 s, 3 min 20 s, 2 h 05 min, 3 d 4 h.

    >>> duration(0.4), duration(45), duration(200), duration(7500), duration(273_600)
    ('0.4 s', '45 s', '3 min 20 s', '2 h 05 min', '3 d 4 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def _watch(run_watch: Any) -> None:
    from rich.live import Live

    try:
        with Live(status_text(run_watch.look()), auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_S)
                live.update(status_text(run_watch.look()), refresh=True)
    except KeyboardInterrupt:
        return


def _stage_details(stage: dict[str, Any]) -> str:
    if stage["state"] == "finished":
        return f"{_local(stage['finished'])}, took {duration(stage['seconds'])}"
    if stage["state"] == "damaged":
        return stage["problem"]
    if "pid" not in stage:
        return ""
    owner = f"pid {stage['pid']} on {stage['host']}"
    if stage["state"] == "running":
        age = datetime.now().timestamp() - datetime.fromisoformat(stage["since"]).timestamp()
        return f"{owner} for {duration(max(0.0, age))}"
    if stage["state"] == "elsewhere":
        return f"{owner} began it {_local(stage['since'])}; only there one can see whether it still runs"
    return f"not finished; {owner} began it {_local(stage['since'])} and no longer works on it"


def _asking_lines(stage: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """How far texts or judge are."""
    progress, title = asked["progress"], stage["name"].capitalize()
    # Before a process tells of itself, the news is that of an earlier one.
    running = stage["state"] == "running" and progress is not None and progress["pid"] == stage["pid"]
    lines = []
    if progress is None or stage["state"] == "not started":
        lines.append(f"{title}: {asked['rows']:,} responses stored")
        lines.append(f"  spent     {usd(asked['spent_usd'])}")
    else:
        lines.append(f"{title}: {_how_far(progress, running)}")
        lines.append(_spent(progress, asked["spent_usd"], running))
        flight = f" · in flight {progress['in_flight']:,} of at most {progress['limit']:,}" if running else ""
        lines.append(f"  calls     answered {progress['answered']:,} · failed {progress['failed']:,}{flight}")
        lines.append(f"  tokens    {progress['input_tokens']:,} in · {progress['output_tokens']:,} out")
        errors = sorted(progress["errors"].items(), key=lambda item: -item[1])
        lines.append("  errors    " + (" · ".join(f"{kind} {count:,}" for kind, count in errors) or "none"))
    if asked["failures"]:
        told = "could not be had" if stage["name"] == "texts" else "got no judgement"
        reasons = f"{stage['name']}/failures.jsonl has the reasons"
        lines.append(f"  failures  {asked['failures']:,} texts {told}: {reasons}")
    if asked["events"]:
        lines += ["  events", *(f"    {_event(event)}" for event in asked["events"])]
    lines += [f"  problem   {problem}" for problem in asked["problems"]]
    remark = _remark(stage["state"], running, asked)
    return [*lines, remark] if remark else lines


def _how_far(progress: dict[str, Any], running: bool) -> str:
    done, total = progress["done"], progress["total"]
    share = f" ({done / total:.1%})" if total else ""
    line = f"{done:,} of {total:,} texts{share}"
    if not running:
        return line
    left = f" · {duration(progress['eta_s'])} left" if progress["eta_s"] is not None else ""
    return f"{line} · {progress['rate_per_s']:,.1f} a second{left}"


def _spent(progress: dict[str, Any], spent: float, running: bool) -> str:
    line = f"  spent     {usd(spent)}"
    if progress["max_usd"] is not None:
        line += f" of at most {usd(progress['max_usd'])}"
    if running and progress["projected_usd"] is not None:
        line += f" · likely {usd(progress['projected_usd'])} in all"
    return line


def _remark(state: str, running: bool, asked: dict[str, Any]) -> str | None:
    news_s = asked["news_s"]
    if state == "not started" and asked["rows"]:
        return (
            "The stage has not been run. A pilot or trial has asked for these texts; those that the stage needs are "
            "not asked for again."
        )
    if state == "stopped":
        last = "" if news_s is None else f" It last told something {duration(news_s)} ago."
        return (
            f"The process is gone or has given up, and the stage is not finished.{last} Start the same command "
            "again to go on: all paid responses are stored and are not asked for again."
        )
    if running and news_s > _QUIET_S:
        return (
            f"The process is alive, but its last news is {duration(news_s)} old: it reads what was answered, or it "
            f"hangs (py-spy dump --pid {asked['progress']['pid']} shows where)."
        )
    return None


def _event(event: dict[str, Any]) -> str:
    details = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("time", "event"))
    return f"{_local(event['time'])}  {event['event']}  {details}".rstrip()


def _local(moment: Any) -> str:
    """An ISO 8601 time as the clock on the wall has it."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return str(moment)
