"""fastapi-cache2, by the backend below its decorator."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import redis.asyncio

from .peers import HITS_AND_STORES, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS


class FastapiCache:
    """Its backend takes and gives bytes, over a client of redis-py that the user brings.

    It asks for redis-py below 5 where it is installed with its extra; it runs on 8.
    """

    name = "fastapi-cache2"
    operations = HITS_AND_STORES

    async def open(self, server: Target) -> None:
        pool = redis.asyncio.BlockingConnectionPool(
            max_connections=50, timeout=120, host=server.host, port=server.port
        )
        self._client: Any = redis.asyncio.Redis.from_pool(pool)
        backend = import_module("fastapi_cache.backends.redis")
        self._backend: Any = backend.RedisBackend(self._client)

    async def close(self) -> None:
        await self._client.aclose()

    async def store(self, key: str, value: object) -> object:
        await self._backend.set(key, encode(value), expire=EXPIRY_MS // 1000)
        return value

    async def retrieve(self, key: str) -> object:
        payload = await self._backend.get(key)
        return None if payload is None else decode(payload)

    async def remove(self, key: str) -> object:
        return await self._backend.clear(key=key)

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        raise NotImplementedError("it has no batches")

    async def fill(self, values: Mapping[str, object]) -> object:
        return await self._client.mset({key: encode(value) for key, value in values.items()})
