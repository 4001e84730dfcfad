"""Our engine: the texts stage as `synthie generate` runs it, with journal, limiter, ledger and checks."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from client import KEY, Meter, megabytes, read_job, report

from synthie.config import GenerationConfig, QualityConfig
from synthie.errors import SynthieError
from synthie.generate import generate_texts

os.environ["OPENAI_API_KEY"] = KEY
job = read_job()
resident: defaultdict[str, float] = defaultdict(float)
seconds: dict[str, float] = {}


def note(done: int, total: int | None, unit: str, **details: Any) -> None:
    """Memory and CPU seconds of each phase: "texts" while asking, "checked" from then on."""
    unit = "checked" if "checked" in seconds else unit
    resident[unit] = max(resident[unit], megabytes("VmRSS"))
    seconds[unit] = meter.seconds


config = GenerationConfig(
    base_url=job.base_url,
    model=job.model,
    concurrency=job.concurrency,
    max_tokens=job.max_tokens,
    max_attempts=job.options["retries"],
    prompt=job.options["prompt"],
    **job.options.get("generation", {}),
)
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
report(job, meter, (), phase_cpu_s=seconds, phase_megabytes=resident, texts=texts, error=error)
