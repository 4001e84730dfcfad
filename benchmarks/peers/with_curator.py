"""bespokelabs-curator: its own store, limiter and retries; only concurrency is set, and limits that do not limit."""

from __future__ import annotations

import os

import litellm.litellm_core_utils.default_encoding  # noqa: F401 - points tiktoken to the encoding it would fetch
from bespokelabs import curator
from client import KEY, Meter, read_job, report

os.environ["OPENAI_API_KEY"] = KEY
job = read_job()


class Writer(curator.LLM):
    def prompt(self, row):
        return row["user"]

    def parse(self, row, response):
        return {"text": response}


meter = Meter()
writer = Writer(
    model_name=job.model,
    backend="openai",
    system_prompt=job.system,
    generation_params={"max_tokens": job.max_tokens, "temperature": 1.0, "seed": 0},
    backend_params={
        "base_url": job.base_url,
        "max_concurrent_requests": job.concurrency,
        "max_requests_per_minute": 10**7,
        "max_tokens_per_minute": 10**10,
        "max_retries": job.options["retries"],
        "require_all_responses": False,
    },
)
answered = writer([{"user": user} for user in job.users()], working_dir=job.folder)
report(job, meter, answered.dataset["text"])
