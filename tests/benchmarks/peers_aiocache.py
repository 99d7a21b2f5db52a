"""aiocache."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import redis.asyncio

from .peers import HITS_AND_STORES, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS


class _Serializer:
    """What aiocache asks of one; no encoding, so that it hands over bytes."""

    encoding = None
    dumps = staticmethod(encode)

    @staticmethod
    def loads(payload: bytes | None) -> object:
        return None if payload is None else decode(payload)


class Aiocache:
    """With the pool that redis-py is measured with: its own raises at more than 100 callers."""

    name = "aiocache"
    operations = HITS_AND_STORES

    async def open(self, server: Target) -> None:
        self._cache: Any = import_module("aiocache").RedisCache(
            serializer=_Serializer(),
            endpoint=server.host,
            port=server.port,
            connection_pool_class=redis.asyncio.BlockingConnectionPool,
            connection_pool_kwargs={"timeout": 120},
            pool_max_size=50,
        )

    async def close(self) -> None:
        await self._cache.close()

    async def store(self, key: str, value: object) -> object:
        await self._cache.set(key, value, ttl=EXPIRY_MS / 1000)
        return value

    async def retrieve(self, key: str) -> object:
        return await self._cache.get(key)

    async def remove(self, key: str) -> object:
        return await self._cache.delete(key)

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        return dict(zip(keys, await self._cache.multi_get(keys), strict=True))

    async def fill(self, values: Mapping[str, object]) -> object:
        return await self._cache.multi_set(values.items(), ttl=EXPIRY_MS / 1000)
