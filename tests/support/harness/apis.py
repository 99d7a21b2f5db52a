"""Both APIs of the library behind one interface, so that one test can use either."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Self, cast

from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, RedisCache
from harness.deadlines import LONG

Api = Literal["async", "sync"]
APIS: tuple[Api, ...] = ("async", "sync")

PLAIN = frozenset({"is_open", "configure", "set_references", "stats"})


class _Awaited:
    """`RedisCache` with awaitable methods, which block the loop instead of waiting on it."""

    def __init__(self, blocking: RedisCache) -> None:
        self.blocking = blocking

    def __repr__(self) -> str:
        return repr(self.blocking)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.blocking, name)
        if name in PLAIN:
            return method

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return awaited

    async def __aenter__(self) -> Self:
        self.blocking.__enter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.blocking.close(None)


def awaited(cache: RedisCache) -> AsyncRedisCache:
    """Wrap a synchronous cache for tests that await."""
    return cast("AsyncRedisCache", _Awaited(cache))


def new_cache(api: Api = "async", **arguments: Any) -> AsyncRedisCache:
    """Create a cache of this API, not configured."""
    if api == "async":
        return AsyncRedisCache(**arguments)
    return awaited(RedisCache(**arguments))


def configured(url: str, api: Api = "async", /, **options: object) -> AsyncRedisCache:
    """Create a cache, configured as a container does it and not open."""
    cache = new_cache(api)
    config = ConfigParams.from_tuples("connection.uri", url)
    # The long deadlines are the default where tests run, but not in programs of their own.
    for name, value in {**LONG, **options}.items():
        config[f"options.{name}"] = value
    cache.configure(config)
    return cache


async def until_gone(cache: AsyncRedisCache, *keys: str) -> None:
    """Wait until these keys have expired."""
    async with asyncio.timeout(60):
        for key in keys:
            left: int | None = 0
            while left is not None:
                await asyncio.sleep(left / 1000)
                left = await cache.time_to_live(None, key)
