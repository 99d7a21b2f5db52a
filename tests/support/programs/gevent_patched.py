"""Share a RedisCache among greenlets, then use an AsyncRedisCache: `gevent_patched.py URL`. Prints what was read."""

from importlib import import_module
from typing import Any

gevent: Any = import_module("gevent")
import_module("gevent.monkey").patch_all()

import asyncio  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from async_redis_cache import AsyncRedisCache, CacheUnsupported, RedisCache  # noqa: E402

URL = sys.argv[1]


def load() -> str:
    """Sleep as a query does, while other greenlets run."""
    time.sleep(0.05)
    return "loaded"


async def use() -> str:
    """Store and retrieve on an event loop of this greenlet."""
    async with AsyncRedisCache.from_url(URL, command_timeout=20_000) as cache:
        await cache.store(None, "gevent:async", "value", None)
        return str(await cache.retrieve(None, "gevent:async"))


async def refused() -> str:
    """The code with which a cache is refused that would run a second event loop."""
    try:
        await AsyncRedisCache.from_url(URL, any_loop=True).open(None)
    except CacheUnsupported as error:
        return str(error.code)
    return ""


with RedisCache.from_url(URL, command_timeout=20_000) as shared:
    shared.store(None, "gevent:key", "value", None)
    reads = [gevent.spawn(shared.retrieve, None, "gevent:key") for _ in range(100)]
    loads = [gevent.spawn(shared.retrieve_or_load, None, "gevent:cold", load) for _ in range(100)]
    gevent.joinall([*reads, *loads], raise_error=True)
    values = {read.value for read in reads} | {done.value for done in loads}
    count = shared.stats().loads
print(*sorted(values), count, asyncio.run(use()), asyncio.run(refused()))  # noqa: T201  read by the test
