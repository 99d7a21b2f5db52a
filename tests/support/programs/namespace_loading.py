"""A process that loads two values of the namespace `n`: one that is missing, and one that is stored and stale.

Usage: namespace_loading.py <url> <missing key> <stale key> <options.max_size>. Says when its loaders run, and ends them when
it reads a line. Prints what its callers get.
"""

from __future__ import annotations

import asyncio
import sys

from async_redis_cache import AsyncRedisCache


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _load(url: str, missing: str, stale: str, max_size: int) -> None:
    async with AsyncRedisCache.from_url(url, max_size=max_size, command_timeout=20_000) as cache:
        numbers = cache.namespace("n", stale_timeout=3_600_000)
        may_end = asyncio.Event()

        async def load() -> int:
            _say("loading")
            await may_end.wait()
            return 2

        # So that the load finds a stale value, and its lease is in the header of that.
        await numbers.get_or_load(stale, lambda: 1, 0.001)
        await asyncio.sleep(0.01)
        loads = [
            asyncio.create_task(numbers.get_or_load(missing, load)),
            asyncio.create_task(numbers.get_or_load(stale, load, soft_timeout=60_000)),
        ]
        await asyncio.to_thread(sys.stdin.readline)
        may_end.set()
        _say(f"loaded {await asyncio.gather(*loads)}")
        _say(f"found {await numbers.get_many([missing, stale])}")


asyncio.run(_load(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
