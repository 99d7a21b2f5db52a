"""Both APIs of the library, so that one test can speak to either."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Self, cast

from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, RedisCache

Api = Literal["async", "sync"]
APIS: tuple[Api, ...] = ("async", "sync")

PLAIN = frozenset({"is_open", "configure", "set_references", "stats"})


class _Awaited:
    """`RedisCache` behind `await`; nothing in here ever waits for the loop."""

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
    """The synchronous cache, for tests that await it."""
    return cast("AsyncRedisCache", _Awaited(cache))


def new_cache(api: Api = "async", **arguments: Any) -> AsyncRedisCache:
    """A cache behind this API, not configured."""
    if api == "async":
        return AsyncRedisCache(**arguments)
    return awaited(RedisCache(**arguments))


def configured(url: str, api: Api = "async", /, **options: object) -> AsyncRedisCache:
    """A cache configured as a container does it, and not yet open."""
    cache = new_cache(api)
    config = ConfigParams.from_tuples("connection.uri", url)
    # A server that has just been started on a busy machine may take longer than the two seconds of the default.
    for name, value in ({"connect_timeout": 20_000} | options).items():
        config[f"options.{name}"] = value
    cache.configure(config)
    return cache


async def until_gone(cache: AsyncRedisCache, *keys: str) -> None:
    """Return when these keys have expired."""
    async with asyncio.timeout(60):
        for key in keys:
            left: int | None = 0
            while left is not None:
                await asyncio.sleep(left / 1000)
                left = await cache.time_to_live(None, key)
