"""Wait for near caches of either API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from harness.waiting import POLL_SECONDS, await_until

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache

PREFIX = "near:"
"""The default key prefix of the near caches that the fixture opens."""


async def cached_locally(cache: AsyncRedisCache, *keys: str) -> None:
    """Read these keys, which have a value, until each read is a local hit.

    One read may not be enough: a late invalidation of an earlier change removes the new entry.
    """
    async with asyncio.timeout(60):
        for key in keys:
            hits = cache.stats().near_hits
            while cache.stats().near_hits == hits:
                assert await cache.retrieve(None, key) is not None
                await asyncio.sleep(0)


async def seen(cache: AsyncRedisCache, key: str, value: object) -> None:
    """Wait until the cache returns this value for the key, and check that `retrieve_many` agrees."""
    async with asyncio.timeout(60):
        while await cache.retrieve(None, key) != value:  # noqa: ASYNC110  nothing else could tell
            await asyncio.sleep(POLL_SECONDS)
    there = {} if value is None else {key: value}
    assert await cache.retrieve_many(None, [key]) == there


async def trusted(cache: AsyncRedisCache) -> None:
    """Wait until the invalidation channel is connected."""
    await await_until(lambda: cache.stats().near_connected)
