"""What type checkers see of the public API: checked by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, assert_type

from pip_services4_logic.cache import ICache

from async_redis_cache import (
    AsyncRedisCache,
    CacheEntry,
    CacheStats,
    CoalescingLoader,
    IAsyncCache,
    RedisCache,
    Serializer,
    cached,
)


@dataclass
class Product:
    name: str


class Row(TypedDict):
    name: str


class OwnSerializer:
    def dumps(self, value: Any) -> bytes:
        raise NotImplementedError

    def loads(self, data: bytes) -> Any:
        raise NotImplementedError


async def loaded() -> Product:
    raise NotImplementedError


async def loaded_many(keys: list[str]) -> dict[str, Product]:
    raise NotImplementedError


async def awaited(cache: AsyncRedisCache, product: Product) -> None:
    assert_type(await cache.store(None, "key", product), Product)
    assert_type(await cache.store("trace", "key", 1, timedelta(seconds=1)), int)
    assert_type(await cache.store("trace", "key", "text", timeout=1000), str)
    assert_type(await cache.retrieve(None, "key"), Any)
    assert_type(await cache.retrieve(None, "key", type=Product), Product | None)
    assert_type(await cache.retrieve(None, "key", type=Row), Row | None)
    assert_type(await cache.retrieve(None, "key", type=int), int | None)
    assert_type(await cache.retrieve_or_load(None, "key", loaded), Any)
    assert_type(await cache.retrieve_or_load(None, "key", loaded, type=Product), Product)
    assert_type(await cache.retrieve_or_load(None, "key", lambda: 1, type=int, in_thread=True), int)
    assert_type(await cache.retrieve_or_load(None, "key", dict, type=Product), Product)
    assert_type(
        await cache.retrieve_or_load(None, "key", CoalescingLoader(loaded_many), type=Product),
        Product | None,
    )
    assert_type(await cache.retrieve_entry(None, "key"), CacheEntry[Any])
    assert_type(await cache.retrieve_entry(None, "key", type=Product), CacheEntry[Product])
    assert_type(await cache.retrieve_or_load_entry(None, "key", loaded), CacheEntry[Any])
    assert_type(
        await cache.retrieve_or_load_entry(None, "key", dict, type=Product), CacheEntry[Product]
    )
    assert_type(await cache.refresh(None, "key", loaded, type=Product), Product)
    assert_type(await cache.remove(None, "key"), Any)
    assert_type(await cache.retrieve_many(None, ["key"]), dict[str, Any])
    assert_type(await cache.retrieve_many(None, {"key"}, type=Product), dict[str, Product])
    assert_type(await cache.remove_many(None, ["key"]), int)
    assert_type(await cache.contains(None, "key"), bool)
    assert_type(await cache.touch(None, "key", 1000), bool)
    assert_type(await cache.time_to_live(None, "key"), int | None)
    assert_type(await cache.clear(None), int)
    assert_type(cache.stats(), CacheStats)
    assert_type(cache.is_open(), bool)
    async with AsyncRedisCache.from_url("redis://host", key_prefix="shop:") as opened:
        assert_type(opened, AsyncRedisCache)


def blocking(cache: RedisCache, product: Product) -> None:
    assert_type(cache.store(None, "key", product), Product)
    assert_type(cache.store("trace", "key", 1, timedelta(seconds=1)), int)
    assert_type(cache.retrieve(None, "key"), Any)
    assert_type(cache.retrieve(None, "key", type=Product), Product | None)
    assert_type(cache.retrieve(None, "key", type=Row), Row | None)
    assert_type(cache.retrieve_or_load(None, "key", loaded), Any)
    assert_type(cache.retrieve_or_load(None, "key", lambda: product, type=Product), Product)
    assert_type(cache.retrieve_entry(None, "key", type=Product), CacheEntry[Product])
    assert_type(cache.retrieve_or_load_entry(None, "key", loaded), CacheEntry[Any])
    assert_type(cache.refresh(None, "key", lambda: product, type=Product), Product)
    assert_type(cache.retrieve_or_load_many(None, ["key"], loaded_many), dict[str, Any])
    assert_type(cache.remove(None, "key"), Any)
    assert_type(cache.retrieve_many(None, ["key"]), dict[str, Any])
    assert_type(cache.retrieve_many(None, ["key"], type=Product), dict[str, Product])
    assert_type(cache.remove_many(None, ["key"]), int)
    assert_type(cache.contains(None, "key"), bool)
    assert_type(cache.touch(None, "key", 1000), bool)
    assert_type(cache.time_to_live(None, "key"), int | None)
    assert_type(cache.clear(None), int)
    assert_type(cache.stats(), CacheStats)
    with RedisCache.from_url("redis://host", key_prefix="shop:") as opened:
        assert_type(opened, RedisCache)


def contracts(asynchronous: AsyncRedisCache, synchronous: RedisCache) -> None:
    """Each door is accepted where its contract is asked for."""
    own: Serializer = OwnSerializer()
    AsyncRedisCache(serializer=own)
    RedisCache(serializer=own)

    def takes_async(cache: IAsyncCache) -> IAsyncCache:
        return cache

    def takes_sync(cache: ICache) -> ICache:
        return cache

    takes_async(asynchronous)
    takes_sync(synchronous)
    # Were there no error to ignore, mypy would say so.
    takes_async(synchronous)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    takes_sync(asynchronous)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def decorated(cache: AsyncRedisCache, plain_cache: RedisCache) -> None:
    @cached(cache, timeout=1000, key="product:{number}")
    async def product(number: int, name: str = "") -> Product:
        raise NotImplementedError

    @cached(plain_cache)
    def plain(number: int) -> Product:
        raise NotImplementedError

    @cached(lambda: plain_cache, long_keys="hash")
    def provided(number: int) -> Product:
        raise NotImplementedError

    class Shop:
        @cached(cache, key="{self.name}:{number}")
        async def price(self, number: int) -> float:
            raise NotImplementedError

        @cached(plain_cache)
        def tax(self, number: int) -> float:
            raise NotImplementedError

        @cached(cache)
        @classmethod
        async def make(cls, number: int) -> Product:
            raise NotImplementedError

        @classmethod
        @cached(plain_cache)
        def plain_make(cls, number: int) -> Product:
            raise NotImplementedError

        @cached(cache)
        @staticmethod
        async def find(number: int) -> Product:
            raise NotImplementedError

        @property
        @cached(cache)
        async def size(self) -> int:
            raise NotImplementedError

    assert_type(await product(1, name="a"), Product)
    assert_type(product.key(1), str)
    forget: Callable[[int], Coroutine[Any, Any, None]] = product.invalidate
    await forget(1)
    assert_type(await product.refresh(1), Product)
    assert_type(await product.uncached(1), Product)
    assert_type(plain(1), Product)
    assert_type(plain.refresh(1), Product)
    assert_type(plain.uncached(1), Product)
    assert_type(await Shop().price(1), float)
    assert_type(await Shop().price.refresh(1), float)
    assert_type(await Shop.price(Shop(), 1), float)
    assert_type(Shop().tax(1), float)
    assert_type(provided(1), Product)
    assert_type(await Shop.make(1), Product)
    assert_type(await Shop().make.refresh(1), Product)
    assert_type(Shop.plain_make(1), Product)
    assert_type(await Shop.find(1), Product)
    assert_type(await Shop().find(1), Product)
    assert_type(await Shop().size, int)
    provided("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Shop.make("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await product("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Shop().tax("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
