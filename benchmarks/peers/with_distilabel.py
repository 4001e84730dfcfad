"""distilabel: a pipeline of one step with its cache; its generator asks in batches of the concurrency."""

from __future__ import annotations

from client import KEY, Meter, read_job, report
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def main() -> None:
    job = read_job()
    meter = Meter()
    rows = [{"instruction": user} for user in job.users()]
    with Pipeline("texts", cache_dir=job.folder) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=job.concurrency)
        llm = OpenAILLM(
            model=job.model,
            base_url=job.base_url,
            api_key=KEY,
            max_retries=job.options["retries"],
            generation_kwargs={"max_new_tokens": job.max_tokens, "temperature": 1.0},
        )
        write = TextGeneration(llm=llm, system_prompt=job.system, input_batch_size=job.concurrency)
        load >> write
    distiset = pipeline.run(use_cache=True)
    report(job, meter, distiset["default"]["train"]["generation"])


if __name__ == "__main__":
    main()
