"""What the clients of `generation.py` share: the job they are given and the report they make of it.

A client is started as ``python with_….py JOB.json``, by an interpreter that has its libraries, and writes its report
where the job says. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "sk-benchmark"


@dataclass(frozen=True)
class Job:
    """What a client shall do.

    Attributes:
        base_url: of the endpoint.
        folder: where the client keeps what it keeps from one run to the next.
        report: where the report goes.
        system: system prompt of all questions.
        questions: file with one user message a line, as a JSON string.
        concurrency: calls in flight.
        max_tokens: of every request.
        options: further settings of the client.
    """

    base_url: str
    folder: str
    report: str
    system: str
    questions: str
    concurrency: int
    max_tokens: int
    options: dict[str, Any]
    model: str = "gpt-4o-mini"

    def users(self) -> list[str]:
        return [json.loads(line) for line in Path(self.questions).read_text(encoding="utf-8").splitlines()]

    def body(self, user: str) -> dict[str, Any]:
        """The request body, the same as ours."""
        return {
            "model": self.model,
            "messages": [{"role": "system", "content": self.system}, {"role": "user", "content": user}],
            "max_tokens": self.max_tokens,
            "seed": 0,
            "temperature": 1.0,
        }


class Meter:
    """CPU seconds since it was made, of this process and the children it has waited for."""

    def __init__(self) -> None:
        self._begun = self._seconds()

    @property
    def seconds(self) -> float:
        return self._seconds() - self._begun

    @staticmethod
    def _seconds() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)


def read_job() -> Job:
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


def megabytes(name: str) -> float:
    """Resident memory of this process: "VmRSS" now, "VmHWM" at most so far (ru_maxrss would know the parent's)."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise OSError(f"Linux's /proc/self/status does not tell {name} here.")
    return int(match[1]) * 1024 / 1e6


def forget_peak() -> None:
    """Let "VmHWM" begin anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def report(job: Job, meter: Meter, answers: Iterable[Any], **more: Any) -> None:
    """Write the report: CPU, peak memory of the largest process, rows with a text, rows with something else."""
    good = bad = 0
    for text in answers:
        is_text = isinstance(text, str) and bool(text.strip()) and not text.startswith("ERROR")
        good, bad = good + is_text, bad + (not is_text)
    largest = max(megabytes("VmHWM"), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)
    told = {"cpu_s": meter.seconds, "megabytes": largest, "texts": good, "bad": bad, **more}
    Path(job.report).write_text(json.dumps(told))
