"""This library, by both of its APIs, as a user opens it."""

import sys
from collections.abc import Awaitable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from async_redis_cache import AsyncRedisCache, RedisCache

from .peers import EVERYTHING, AsyncPeer
from .servers import Target
from .workloads import EXPIRY_MS, OURS, PLAIN, Operation


@contextmanager
def without_uvloop() -> Generator[None]:
    """Let a private event loop be asyncio's, although uvloop is installed. What is imported meanwhile stays imported."""
    modules = cast("dict[str, object]", sys.modules)
    hidden = {name: modules.pop(name) for name in ("uvloop",) if name in modules}
    modules["uvloop"] = None
    try:
        yield
    finally:
        del modules["uvloop"]
        modules.update(hidden)


class Ours:
    """`AsyncRedisCache`, where no option says otherwise with JSON and a bound of 1,000 values."""

    def __init__(
        self,
        name: str = OURS,
        *,
        operations: frozenset[Operation] = EVERYTHING,
        **options: Any,
    ) -> None:
        self.name = name
        self.operations = operations
        # As `configure` has it: the published figures are those of a cache with a bound.
        self._options: dict[str, Any] = {"max_size": 1_000, **options}

    async def open(self, server: Target) -> None:
        self._cache = AsyncRedisCache.from_url(server.url, **self._options)
        await self._cache.open(None)

    async def close(self) -> None:
        await self._cache.close(None)

    def store(self, key: str, value: object) -> Awaitable[object]:
        return self._cache.store(None, key, value, EXPIRY_MS)

    def retrieve(self, key: str) -> Awaitable[object]:
        return self._cache.retrieve(None, key)

    def remove(self, key: str) -> Awaitable[object]:
        return self._cache.remove(None, key)

    def retrieve_many(self, keys: Sequence[str]) -> Awaitable[Mapping[str, object]]:
        return self._cache.retrieve_many(None, keys)

    def fill(self, values: Mapping[str, object]) -> Awaitable[object]:
        return self._cache.store_many(None, values, EXPIRY_MS)


class OursNear(Ours):
    """The same with its near cache. The value is decoded at every hit: each caller has its own."""

    def __init__(self, name: str = OURS, **options: Any) -> None:
        super().__init__(name, near_cache_enabled=True, **options)


def near_misses() -> list[AsyncPeer]:
    """A near cache that is too small for its keys, beside none."""
    return [OursNear(near_cache_max_size=100, max_size=0), Ours(PLAIN, max_size=0)]


class OursInThreads:
    """`RedisCache`, one instance shared by all threads.

    Its private loop is uvloop's wherever that is installed; the goals are those of asyncio's own,
    so uvloop is out of sight while the cache is opened, unless it is asked for.
    """

    operations = EVERYTHING

    def __init__(self, name: str = OURS, *, uvloop: bool = False) -> None:
        self.name = name
        self._uvloop = uvloop

    def open(self, server: Target) -> None:
        self._cache = RedisCache.from_url(server.url, max_size=1_000)
        with nullcontext() if self._uvloop else without_uvloop():
            self._cache.open(None)

    def close(self) -> None:
        self._cache.close(None)

    def store(self, key: str, value: object) -> object:
        return self._cache.store(None, key, value, EXPIRY_MS)

    def retrieve(self, key: str) -> object:
        return self._cache.retrieve(None, key)

    def remove(self, key: str) -> object:
        return self._cache.remove(None, key)

    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        return self._cache.retrieve_many(None, keys)

    def fill(self, values: Mapping[str, object]) -> None:
        self._cache.store_many(None, values, EXPIRY_MS)
