"""Asks a near cache for one key all the time: `near_watching.py <url> <prefix> <heartbeat>`.

Prints "near" when the value comes from near, and whenever it has become another: the value, and
when the last call began that was given the one before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from async_redis_cache import AsyncRedisCache


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(url: str, prefix: str, heartbeat: str) -> None:
    options: dict[str, Any] = {"near_cache_enabled": True, "near_cache_heartbeat": heartbeat}
    async with AsyncRedisCache.from_url(
        url, key_prefix=prefix, command_timeout=20_000, **options
    ) as cache:
        value = None
        last_began = 0.0
        near_again_from = 1
        while True:
            began = time.monotonic()
            found = await cache.retrieve(None, "key")
            if found != value:
                say([found, last_began])
                near_again_from = cache.stats().near_hits + 20
            if cache.stats().near_hits == near_again_from:
                say("near")
            value, last_began = found, began
            await asyncio.sleep(0.001)


asyncio.run(main(*sys.argv[1:]))
