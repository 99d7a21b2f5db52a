"""valkey-glide by both of its APIs: clients whose core is written in Rust."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from .peers import HITS_AND_STORES, NEAR_HITS, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS, Operation


def _configuration(glide: Any, server: Target, **options: Any) -> Any:
    return glide.GlideClientConfiguration([glide.NodeAddress(server.host, server.port)], **options)


def _expiry(glide: Any) -> Any:
    return glide.ExpirySet(glide.ExpiryType.MILLSEC, EXPIRY_MS)


class Glide:
    """`GlideClient` with its defaults, or with the near cache that the server invalidates.

    That cache holds replies, so the value is decoded at every hit.
    """

    def __init__(self, *, near: bool = False) -> None:
        self.name = "valkey-glide, client side" if near else "valkey-glide"
        self.operations: frozenset[Operation] = NEAR_HITS if near else HITS_AND_STORES
        self._is_near = near

    async def open(self, server: Target) -> None:
        glide: Any = import_module("glide")
        near: Any = None
        if self._is_near:
            bounds = {"max_cache_kb": 10_000, "entry_ttl_ms": EXPIRY_MS}
            near = import_module("glide_shared").ClientSideCache.create(
                **bounds, server_assisted=True
            )
        self._expiry = _expiry(glide)
        configuration = _configuration(glide, server, client_side_cache=near)
        self._client: Any = await glide.GlideClient.create(configuration)

    async def close(self) -> None:
        await self._client.close()

    async def store(self, key: str, value: object) -> object:
        await self._client.set(key, encode(value), expiry=self._expiry)
        return value

    async def retrieve(self, key: str) -> object:
        payload = await self._client.get(key)
        return None if payload is None else decode(payload)

    async def remove(self, key: str) -> object:
        payload = await self._client.getdel(key)
        return None if payload is None else decode(payload)

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        payloads = await self._client.mget(list(keys))
        return {key: decode(payload) for key, payload in zip(keys, payloads, strict=True)}

    async def fill(self, values: Mapping[str, object]) -> object:
        return await self._client.mset({key: encode(value) for key, value in values.items()})


class GlideInThreads:
    """The synchronous client, one shared by all threads."""

    name = "valkey-glide"
    operations = HITS_AND_STORES

    def open(self, server: Target) -> None:
        glide: Any = import_module("glide_sync")
        self._expiry = _expiry(glide)
        self._client: Any = glide.GlideClient.create(_configuration(glide, server))

    def close(self) -> None:
        self._client.close()

    def store(self, key: str, value: object) -> object:
        self._client.set(key, encode(value), expiry=self._expiry)
        return value

    def retrieve(self, key: str) -> object:
        payload = self._client.get(key)
        return None if payload is None else decode(payload)

    def remove(self, key: str) -> object:
        payload = self._client.getdel(key)
        return None if payload is None else decode(payload)

    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        payloads = self._client.mget(list(keys))
        return {key: decode(payload) for key, payload in zip(keys, payloads, strict=True)}

    def fill(self, values: Mapping[str, object]) -> None:
        self._client.mset({key: encode(value) for key, value in values.items()})
