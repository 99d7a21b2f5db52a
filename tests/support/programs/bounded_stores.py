"""One of many processes that store into one bounded cache, and count after every call.

Usage: crowding.py <url> <url> <bound> <seed> <seconds>; the second URL is that of who may look what
there is. Prints how many calls it made, and the most keys that it has ever seen on the server, the
index included.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

from async_redis_cache import AsyncRedisCache
from harness.clients import connect

LEAST_CALLS = 80


async def _crowd(url: str, looking: str, bound: int, seed: int, seconds: float) -> None:
    chance = random.Random(seed)
    calls = most = 0
    options: dict[str, Any] = {"max_size": bound, "key_prefix": "p:", "command_timeout": 20_000}
    with connect(looking) as raw:
        async with AsyncRedisCache.from_url(url, **options) as cache:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.readline()
            end = time.monotonic() + seconds

            async def call() -> None:
                nonlocal calls, most
                key = f"{chance.randrange(bound * 3)}"
                timeout = chance.randint(30_000, 90_000)
                kind = chance.random()
                if kind < 0.6:
                    await cache.store(None, key, seed, timeout)
                elif kind < 0.8:
                    many = [f"{chance.randrange(bound * 3)}" for _ in range(bound // 3)]
                    await cache.store_many(None, dict.fromkeys(many, seed), timeout)
                elif kind < 0.9:
                    await cache.touch(None, key, timeout)
                else:
                    await cache.remove(None, key)
                calls += 1
                most = max(most, raw.dbsize())

            # A machine that stalls leaves time for few calls.
            while time.monotonic() < end or calls < LEAST_CALLS:
                await asyncio.gather(*(call() for _ in range(5)))
    sys.stdout.write(f"{calls} {most}\n")


url, looking, bound, seed, seconds = sys.argv[1:]
asyncio.run(_crowd(url, looking, int(bound), int(seed), float(seconds)))
