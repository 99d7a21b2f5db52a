"""Jobs of Celery whose coroutines share a global cache, opened when a worker imports this: `celery -A celery_jobs worker`.

`celery_jobs.py <calls>` sends jobs and prints, for each, the process that ran it and what it found.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any

from async_redis_cache import AsyncRedisCache

KEYS = 8

celery: Any = importlib.import_module("celery")
app = celery.Celery(
    "jobs", broker=os.environ["APP_BROKER_URL"], backend=os.environ["APP_BROKER_URL"]
)
app.conf.broker_connection_retry_on_startup = False
cache = AsyncRedisCache.from_url(os.environ["APP_CACHE_URL"], any_loop=True, command_timeout=5000)
if __name__ != "__main__":
    # In the main process, which forks those that run the jobs.
    asyncio.run(cache.open(None))


async def found(number: int) -> list[Any]:
    """Store and retrieve a value of this process, and load one that all processes share."""

    async def load() -> str:
        await asyncio.sleep(0)
        return f"value of {number}"

    mine = f"{os.getpid()} {number}"
    await cache.store(None, mine, mine)
    shared, own = await asyncio.gather(
        cache.retrieve_or_load(None, str(number), load), cache.retrieve(None, mine)
    )
    return [shared == f"value of {number}" and own == mine, cache.stats().loads]


@app.task(name="jobs.look")  # type: ignore[untyped-decorator]
def look(number: int) -> list[Any]:
    """A job, as Celery runs it: a function, here with an event loop for its duration."""
    return [os.getpid(), *asyncio.run(found(number))]


if __name__ == "__main__":
    jobs = [look.delay(number % KEYS) for number in range(int(sys.argv[1]))]
    print(json.dumps([job.get(timeout=60) for job in jobs]))  # noqa: T201
