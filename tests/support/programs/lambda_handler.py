"""A handler with an event loop for each invocation, and a cache at module level that outlives these.

Each line of standard input is an event in JSON, or "store <value>"; for each the program prints what the handler returns.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from async_redis_cache import AsyncRedisCache

cache = AsyncRedisCache.from_url(
    sys.argv[1],
    any_loop=True,
    key_prefix=sys.argv[2],
    command_timeout=5000,
    near_cache_enabled=sys.argv[3] == "near",
    near_cache_heartbeat=50,
)
origin = 0


async def load() -> int:
    """Read the origin, which has another value each time."""
    global origin  # noqa: PLW0603  a database's
    await asyncio.sleep(0)
    origin += 1
    return origin


async def respond(event: dict[str, Any]) -> dict[str, Any]:
    """Return what the cache has for the key of the event."""
    if not cache.is_open():
        await cache.open(None)
    key = event["key"]
    read, loaded = await asyncio.gather(
        cache.retrieve(None, key), cache.retrieve_or_load(None, f"loaded {key}", load)
    )
    stats = cache.stats()
    return {"read": read, "loaded": loaded, "connects": stats.connects, "near": stats.near_hits}


def handler(event: dict[str, Any], _: object = None) -> dict[str, Any]:
    """Handle an event, as the platform calls it."""
    return asyncio.run(respond(event))


for line in sys.stdin:
    print(json.dumps(handler(json.loads(line))), flush=True)  # noqa: T201
