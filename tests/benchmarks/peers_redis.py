"""redis-py by both of its APIs, with the serializer that this library uses.

The commands are what a careful user would send by hand for the same promise: SET with PX, GETDEL
(`remove` gives the removed value), MGET.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import redis
import redis.asyncio

from .peers import EVERYTHING, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS, REFERENCE


class RedisPy:
    """redis.asyncio with its default settings, but for a pool that waits instead of failing.

    Its own pool raises MaxConnectionsError at 1,000 tasks; the blocking pool gives up on a caller
    after 20 s, which is raised here so that the wait never decides a row.
    """

    name = REFERENCE
    operations = EVERYTHING

    async def open(self, server: Target) -> None:
        pool = redis.asyncio.BlockingConnectionPool(
            max_connections=50, timeout=120, host=server.host, port=server.port
        )
        # Typed as Any: the client's methods are declared as "a value or an awaitable of it".
        self._client: Any = redis.asyncio.Redis.from_pool(pool)
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()

    async def store(self, key: str, value: object) -> object:
        await self._client.set(key, encode(value), px=EXPIRY_MS)
        return value

    async def retrieve(self, key: str) -> object:
        payload = await self._client.get(key)
        return None if payload is None else decode(payload)

    async def remove(self, key: str) -> object:
        payload = await self._client.getdel(key)
        return None if payload is None else decode(payload)

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        payloads = await self._client.mget(keys)
        return {
            key: decode(payload)
            for key, payload in zip(keys, payloads, strict=True)
            if payload is not None
        }

    async def fill(self, values: Mapping[str, object]) -> object:
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, encode(value), px=EXPIRY_MS)
            return await pipeline.execute()


class RedisPyInThreads:
    """redis.Redis with its default settings, one client shared by all threads."""

    name = REFERENCE
    operations = EVERYTHING

    def open(self, server: Target) -> None:
        self._client: Any = redis.Redis(host=server.host, port=server.port)
        self._client.ping()

    def close(self) -> None:
        self._client.close()

    def store(self, key: str, value: object) -> object:
        self._client.set(key, encode(value), px=EXPIRY_MS)
        return value

    def retrieve(self, key: str) -> object:
        payload = self._client.get(key)
        return None if payload is None else decode(payload)

    def remove(self, key: str) -> object:
        payload = self._client.getdel(key)
        return None if payload is None else decode(payload)

    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        payloads = self._client.mget(keys)
        return {
            key: decode(payload)
            for key, payload in zip(keys, payloads, strict=True)
            if payload is not None
        }

    def fill(self, values: Mapping[str, object]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, encode(value), px=EXPIRY_MS)
            pipeline.execute()
