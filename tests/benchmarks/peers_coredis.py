"""coredis, and its tracking cache."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from .peers import HITS_AND_STORES, NEAR_HITS, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS, Operation


class Coredis:
    """`coredis.Redis` with its defaults, or with the near cache that the server invalidates.

    That cache holds replies, so the value is decoded at every hit.
    """

    def __init__(self, *, near: bool = False) -> None:
        self.name = "coredis, tracking cache" if near else "coredis"
        self.operations: frozenset[Operation] = NEAR_HITS if near else HITS_AND_STORES
        self._is_near = near

    async def open(self, server: Target) -> None:
        near = import_module("coredis.patterns.cache").LRUCache() if self._is_near else None
        client = import_module("coredis").Redis(host=server.host, port=server.port, cache=near)
        self._client: Any = await client.__aenter__()

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)

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
        return {key: decode(payload) for key, payload in zip(keys, payloads, strict=True)}

    async def fill(self, values: Mapping[str, object]) -> object:
        return await self._client.mset({key: encode(value) for key, value in values.items()})
