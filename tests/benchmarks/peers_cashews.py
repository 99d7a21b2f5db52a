"""cashews, and the near cache that it calls client side."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from .peers import HITS_AND_STORES, NEAR_HITS, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS

_EXPIRY = EXPIRY_MS / 1000


class Cashews:
    """Bytes go through it unchanged, so that the serializer is the one of every side.

    It is told not to suppress errors: it would give None for a value that it failed to read. A
    caller waits for one of its connections as long as redis-py's callers do.
    """

    name = "cashews"
    operations = HITS_AND_STORES

    async def open(self, server: Target) -> None:
        self._cache: Any = import_module("cashews").Cache()
        patience = {"wait_for_connection_timeout": 120}
        self._cache.setup(server.url, pickle_type="null", suppress=False, **patience)
        await self._cache.init()

    async def close(self) -> None:
        await self._cache.close()

    async def store(self, key: str, value: object) -> object:
        await self._cache.set(key, encode(value), expire=_EXPIRY)
        return value

    async def retrieve(self, key: str) -> object:
        payload = await self._cache.get(key)
        return None if payload is None else decode(payload)

    async def remove(self, key: str) -> object:
        return await self._cache.delete(key)

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        payloads = await self._cache.get_many(*keys)
        return {key: decode(payload) for key, payload in zip(keys, payloads, strict=True)}

    async def fill(self, values: Mapping[str, object]) -> object:
        payloads = {key: encode(value) for key, value in values.items()}
        return await self._cache.set_many(payloads, expire=_EXPIRY)


class CashewsNear(Cashews):
    """It holds the value itself and gives a shallow copy of it: nothing is decoded at a hit."""

    name = "cashews, client side"
    operations = NEAR_HITS

    async def open(self, server: Target) -> None:
        self._cache = import_module("cashews").Cache()
        self._cache.setup(server.url, client_side=True, pickle_type="json", suppress=False)
        await self._cache.init()

    async def retrieve(self, key: str) -> object:
        return await self._cache.get(key)

    async def fill(self, values: Mapping[str, object]) -> object:
        return await self._cache.set_many(values, expire=_EXPIRY)
