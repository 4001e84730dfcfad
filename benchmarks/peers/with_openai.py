"""The openai package's asynchronous client, with as many retries as our engine makes; no store, no limiter, no cost."""

from __future__ import annotations

import asyncio

import openai
from client import KEY, Job, Meter, read_job, report


async def ask(job: Job) -> list[str | None]:
    transport = openai.DefaultAioHttpClient() if job.options.get("aiohttp") else openai.DefaultAsyncHttpxClient()
    texts: list[str | None] = []
    users = iter(job.users())
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=job.base_url, http_client=transport, max_retries=job.options["retries"]
    ) as client:

        async def work() -> None:
            for user in users:
                try:
                    completion = await client.chat.completions.create(**job.body(user))
                except openai.OpenAIError:
                    texts.append(None)
                    continue
                texts.append(completion.choices[0].message.content)

        await asyncio.gather(*(work() for _ in range(job.concurrency)))
    return texts


job = read_job()
meter = Meter()
texts = asyncio.run(ask(job))
report(job, meter, texts)
