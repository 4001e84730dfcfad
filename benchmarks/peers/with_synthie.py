"""Our engine: the texts stage as `synthie generate` runs it, with journal, limiter, ledger and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client import Meter, forget_peak, megabytes, read_job, report
from config import generation

from synthie.config import QualityConfig
from synthie.errors import SynthieError
from synthie.generate import generate_texts

job = read_job()
resident: dict[str, float] = {"imports": megabytes("VmRSS")}
seconds: dict[str, float] = {}


def note(done: int, total: int | None, unit: str, **details: Any) -> None:
    """Peak memory and CPU seconds of each phase: "texts" while asking, "checked" from then on."""
    unit = "checked" if "checked" in seconds else unit
    if unit not in seconds:
        forget_peak()
    resident[unit] = megabytes("VmHWM")
    seconds[unit] = meter.seconds


config = generation(job)
sets = Path(job.options["sets"])
meter = Meter()
texts, error = 0, ""
try:
    manifest = generate_texts(
        config,
        QualityConfig(),
        sets.parent / "kg",
        sets,
        Path(job.folder),
        seed=0,
        max_usd=job.options["max_usd"],
        progress=note,
    )
    texts = manifest.counts["samples"] + manifest.counts["rejected"]
except SynthieError as problem:
    error = type(problem).__name__
note(0, None, "checked")
report(job, meter, (), phase_cpu_s=seconds, phase_megabytes=resident, texts=texts, error=error)
