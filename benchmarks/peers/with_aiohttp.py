"""A bare aiohttp loop: no store, no limiter, no cost, no retries. The baseline of `generation.py`."""

from __future__ import annotations

import asyncio

import aiohttp
from client import KEY, Job, Meter, read_job, report


async def ask(job: Job) -> list[str]:
    texts: list[str] = []
    users = iter(job.users())
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": f"Bearer {KEY}"}
    ) as session:

        async def work() -> None:
            for user in users:
                async with session.post(job.base_url + "/chat/completions", json=job.body(user)) as response:
                    answer = await response.json()
                texts.append(answer["choices"][0]["message"]["content"])

        await asyncio.gather(*(work() for _ in range(job.concurrency)))
    return texts


job = read_job()
meter = Meter()
texts = asyncio.run(ask(job))
report(job, meter, texts)
