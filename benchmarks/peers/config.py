"""The settings of our engine for a job."""

from __future__ import annotations

import os

from client import KEY, Job

from synthie.config import GenerationConfig


def generation(job: Job) -> GenerationConfig:
    os.environ["OPENAI_API_KEY"] = KEY
    return GenerationConfig(
        base_url=job.base_url,
        model=job.model,
        concurrency=job.concurrency,
        max_tokens=job.max_tokens,
        max_attempts=job.options["retries"],
        prompt=job.options["prompt"],
        **job.options.get("generation", {}),
    )
