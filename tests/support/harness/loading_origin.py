"""An origin that counts its loads, and stale values, for the tests of freshness."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache, LoadOptions

LIFE = 150
"""Milliseconds."""
STALE: LoadOptions = {"stale_timeout": 60_000}
AGREEMENT_SECONDS = 0.1
"""Within which all processes agree what time it is on the server, and each with itself."""


class Origin:
    """What is loaded from: it counts, and may be slow or fail."""

    def __init__(self) -> None:
        self.loads = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.failure: Exception | None = None

    async def load(self) -> int:
        self.loads += 1
        number = self.loads
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return number


async def becomes(cache: AsyncRedisCache, value: object, key: str = "key") -> None:
    """Wait until this is what all are given."""
    async with asyncio.timeout(60):
        while True:
            if await cache.retrieve(None, key) == value:
                return
            await asyncio.sleep(0.005)


async def gone(cache: AsyncRedisCache, key: str = "key") -> None:
    """Wait until nobody is given a fresh value any more."""
    await becomes(cache, None, key)
    # To another, or after a better look at the server's clock, it may be fresh a moment longer.
    await asyncio.sleep(AGREEMENT_SECONDS)


async def made_stale(cache: AsyncRedisCache, origin: Origin, key: str = "key") -> None:
    """Load a value that may be given when it is stale, and wait until it is."""
    assert await cache.retrieve_or_load(None, key, origin.load, LIFE, **STALE) == origin.loads
    await gone(cache, key)
