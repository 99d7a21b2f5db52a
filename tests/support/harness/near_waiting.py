"""Waiting for near caches behind either API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from harness.waiting import POLL_SECONDS, await_until

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache

PREFIX = "near:"
"""Of the near caches that the fixture opens, where no other is given."""


async def cached_locally(cache: AsyncRedisCache, *keys: str) -> None:
    """Ask for these keys, which have a value, until each is answered from near.

    Once may not do: late news of an earlier change drops what was just put there.
    """
    async with asyncio.timeout(60):
        for key in keys:
            hits = cache.stats().near_hits
            while cache.stats().near_hits == hits:
                assert await cache.retrieve(None, key) is not None
                await asyncio.sleep(0)


async def seen(cache: AsyncRedisCache, key: str, value: object) -> None:
    """Wait until this is what the cache gives, to one key and among many."""
    async with asyncio.timeout(60):
        while await cache.retrieve(None, key) != value:  # noqa: ASYNC110  nothing else could tell
            await asyncio.sleep(POLL_SECONDS)
    there = {} if value is None else {key: value}
    assert await cache.retrieve_many(None, [key]) == there


async def trusted(cache: AsyncRedisCache) -> None:
    """Wait until the link is armed."""
    await await_until(lambda: cache.stats().near_connected)
