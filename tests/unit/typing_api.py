"""What type checkers see of the public API: checked by mypy and pyright, never executed.

`nox -s types` checks it beside the sources, and `nox -s types-installed` as a user's project that has only installed
the wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypedDict, assert_type

from pip_services4_commons.errors import ApplicationException
from pip_services4_components.config import ConfigParams, IConfigurable
from pip_services4_components.context import IContext
from pip_services4_components.refer import IReferenceable, IReferences
from pip_services4_components.run import IOpenable
from pip_services4_logic.cache import ICache
from redis.credentials import UsernamePasswordCredentialProvider

from async_redis_cache import (
    AsyncRedisCache,
    CacheEntry,
    CacheError,
    CacheInputError,
    CacheOptions,
    CacheStats,
    CoalescingLoader,
    IAsyncCache,
    Load,
    LoadOptions,
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


async def login() -> tuple[str, str]:
    raise NotImplementedError


def contracts(asynchronous: AsyncRedisCache, synchronous: RedisCache) -> None:
    """Each API is accepted where its contract is asked for."""
    own: Serializer = OwnSerializer()
    AsyncRedisCache(serializer=own, credential_provider=lambda: ("user", "password"))
    RedisCache(serializer=own, credential_provider=login)
    RedisCache.from_url("redis://host", credential_provider=UsernamePasswordCredentialProvider())
    RedisCache.from_url("redis://host", credential_provider=lambda: "password")

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
    assert_type(product.__name__ + product.__qualname__, str)
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


async def steered(load: Load[Product]) -> Product:
    assert_type(load.stale, Product | None)
    assert_type(load.key, str)
    if load.stale is not None:
        return load.not_modified()
    load.timeout = timedelta(minutes=1)
    load.tags = ("products",)
    return Product(load.key)


async def steered_unparametrised(load: Load) -> Product | None:
    assert_type(load, Load[Any])
    return Product(load.key)


async def row() -> dict[str, str]:
    raise NotImplementedError


async def rows(keys: list[str]) -> dict[str, dict[str, str]]:
    raise NotImplementedError


async def loaders(cache: AsyncRedisCache, plain: RedisCache) -> None:
    """With `type=` the type decides, and a loader that may give None says so."""
    shared = CoalescingLoader(loaded_many)
    assert_type(shared, CoalescingLoader[Product])
    assert_type(await cache.retrieve_or_load(None, "key", steered, type=Product), Product)
    assert_type(
        await cache.retrieve_or_load(None, "key", steered_unparametrised, type=Product),
        Product | None,
    )
    assert_type(await cache.retrieve_or_load(None, "key", row, type=Product), Product)
    assert_type(await cache.retrieve_or_load(None, "key", row, type=list[Product]), list[Product])
    assert_type(await cache.retrieve_or_load(None, "key", loaded, type=Product | None), Any)
    assert_type(await cache.refresh(None, "key", shared, type=Product), Product | None)
    assert_type(plain.retrieve_or_load(None, "key", steered, type=Product), Product)
    assert_type(plain.retrieve_or_load(None, "key", lambda: Product(""), type=Product), Product)
    assert_type(plain.retrieve_or_load(None, "key", row, type=Product), Product)
    assert_type(plain.refresh(None, "key", shared, type=Product), Product | None)
    assert_type(await cache.retrieve(None, "key", type=list[Product]), list[Product] | None)
    assert_type(await cache.retrieve(None, "key", type=Product | None), Any)
    assert_type(
        await cache.retrieve_or_load_many(None, ["key"], rows, type=Product), dict[str, Product]
    )
    assert_type(
        plain.retrieve_or_load_many(None, ["key"], dict.fromkeys, type=Product),
        dict[str, Product],
    )
    # Some options of several calls.
    options: LoadOptions = {"stale_timeout": timedelta(minutes=5), "refresh_at": 0.8}
    assert_type(
        await cache.retrieve_or_load(None, "key", loaded, 1000, type=Product, **options), Product
    )
    assert_type(plain.retrieve_or_load(None, "key", loaded, type=Product, **options), Product)


def entries(entry: CacheEntry[Product]) -> None:
    assert_type(entry.value, Product | None)
    assert_type(entry.status, Literal["hit", "near", "stale", "loaded", "missing"])
    assert_type(entry.age, int | None)
    assert_type(entry.remaining, int | None)


def counters(stats: CacheStats) -> None:
    assert_type(stats.hits, int)
    assert_type(stats.near_connected, bool)
    assert_type(stats.snapshot(), CacheStats)


def errors(error: CacheError, refused: CacheInputError) -> None:
    """Each is a `CacheError`, and one of the framework's, with what these have."""
    assert_type(error.code, str)
    assert_type(error.message, str)
    assert_type(error.trace_id, str | None)
    framework_error: ApplicationException = error
    assert_type(framework_error.status, int)
    value_error: ValueError = refused
    raise value_error


def configuration(references: IReferences, context: IContext) -> None:
    """The framework's classes have types too, without any setting."""
    config = ConfigParams.from_tuples("host", "localhost", "options.timeout", 1000)
    assert_type(config, ConfigParams)
    assert_type(config.get_section("options").get_as_integer("timeout"), int)
    cache = RedisCache()
    configurable: IConfigurable = cache
    referenceable: IReferenceable = cache
    openable: IOpenable = cache
    configurable.configure(config)
    referenceable.set_references(references)
    openable.open(context)
    assert_type(cache.retrieve(context, "key", type=Product), Product | None)
    options: CacheOptions = {"key_prefix": "shop:", "command_timeout": timedelta(seconds=1)}
    assert_type(RedisCache.from_url("redis://host", serializer="msgpack", **options), RedisCache)
