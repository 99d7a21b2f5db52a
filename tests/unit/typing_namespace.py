"""What type checkers see of namespaces: checked by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from async_redis_cache import (
    FOREVER,
    AsyncRedisCache,
    CachedCoroutine,
    CachedFunction,
    CacheEntry,
    CacheStats,
    Forever,
    Lock,
    Namespace,
    RedisCache,
    SyncNamespace,
)
from async_redis_cache import django as django_cache
from async_redis_cache import sqlalchemy as sqlalchemy_cache


@dataclass
class Product:
    name: str


async def load() -> Product:
    raise NotImplementedError


async def load_maybe() -> Product | None:
    raise NotImplementedError


async def load_many(keys: list[str]) -> dict[str, Product]:
    raise NotImplementedError


async def as_in_the_readme(product: Product) -> None:
    async with AsyncRedisCache.from_url("redis://localhost") as cache:
        products = cache.namespace("product", type=Product, ttl=timedelta(minutes=5))
        await products.set("7", product)
        assert_type(await products.get("7"), Product | None)
        assert_type(await products.get_or_load("7", load), Product)

        @products.cached("{product_id}")
        async def product_of(product_id: int) -> Product:
            raise NotImplementedError(product_id)

        assert_type(await product_of(7), Product)


async def awaited(cache: AsyncRedisCache) -> None:
    products = cache.namespace("product", type=Product, ttl=5, tags=("a",), jitter=0.1, near=False)
    assert_type(products, Namespace[Product])
    assert_type(cache.namespace("any", serializer="raw", ttl=FOREVER), Namespace[Any])
    assert_type(await products.get("7", 0), Product | int)
    assert_type(await products.get_or_load("7", load, condition=bool), Product)
    cache.namespace("any", condition=lambda result: result.name != "")
    async with products.lock("7", timedelta(seconds=5), wait=0) as lock:
        assert_type(lock, Lock)
        assert_type(lock.fencing_number, int)
    optional = cache.namespace("optional", type=Product, cache_none=True)
    assert_type(optional, Namespace[Product | None])
    assert_type(await optional.get_many(["7"]), dict[str, Product | None])
    await optional.set("7", None)
    assert_type(await products.get_or_load("7", load_maybe), Product | None)
    assert_type(await products.get_or_load("7", dict, 1.5), Product)
    assert_type(await products.get_or_load_many(["7"], load_many), dict[str, Product])
    assert_type(await products.get_many(["7"]), dict[str, Product])
    assert_type(await products.get_entry("7"), CacheEntry[Product])
    assert_type(await products.get_or_load_entry("7", load), CacheEntry[Product])
    assert_type(await products.refresh("7", load), Product)
    assert_type(await products.delete("7"), bool)
    assert_type(await products.delete_many(["7"]), int)
    assert_type(await products.ttl("7"), float | Forever | None)
    assert_type(await products.touch("7", 1), bool)
    assert_type(await products.contains("7"), bool)
    assert_type(await products.clear(), int)
    assert_type(products.scan(), AsyncIterator[str])
    assert_type(products.stats(), CacheStats)
    await products.set("7", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await products.set_many({"7": Product("a")}, ttl=timedelta(seconds=1), tags=("b",))


def blocking(cache: RedisCache) -> None:
    products = cache.namespace("product", type=Product, ttl=5)
    assert_type(products, SyncNamespace[Product])
    assert_type(products.get("7"), Product | None)
    assert_type(products.get("7", 0), Product | int)
    assert_type(products.get_or_load("7", lambda: Product("a")), Product)
    assert_type(products.get_many(["7"]), dict[str, Product])
    assert_type(products.scan(), Iterator[str])

    @products.cached("{product_id}")
    def product_of(product_id: int) -> Product:
        raise NotImplementedError(product_id)

    assert_type(product_of(7), Product)
    assert_type(products.get_or_load("7", load), Product)
    assert_type(products.get_or_load_many(["7"], load_many), dict[str, Product])
    assert_type(products.get_entry("7"), CacheEntry[Product])
    assert_type(products.get_or_load_entry("7", load), CacheEntry[Product])
    assert_type(products.refresh("7", load_maybe), Product | None)
    assert_type(products.add("7", Product("a"), 1.5), bool)
    assert_type(products.incr("7"), int)
    assert_type(products.ttl("7"), float | Forever | None)
    assert_type(products.clear(), int)
    assert_type(products.stats(), CacheStats)
    products.set("7", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Repository:
    """A user's class, with a namespace as a parameter and a cached method."""

    cache = AsyncRedisCache.from_url("redis://localhost", any_loop=True, timeout=timedelta(hours=1))
    prices = cache.namespace("price", "eu", type=int, ttl=FOREVER, long_keys="hash", refresh_at=0.8)

    def __init__(self, products: Namespace[Product]) -> None:
        self.products = products

    async def product(self, product_id: int) -> Product:
        assert_type(self.products.name, str)
        return await self.products.get_or_load(str(product_id), load, timedelta(minutes=1))

    @prices.cached("{self.products.name}:{product_id}", ttl=0.5, tags=("price",))
    async def price(self, product_id: int) -> int:
        raise NotImplementedError(product_id)


async def cached_functions(repository: Repository, products: Namespace[list[Product]]) -> None:
    @products.cached(ttl=timedelta(seconds=1), stale_timeout=timedelta(hours=1), long_keys="hash")
    async def of_kind(kind: str, *, most: int = 10) -> list[Product]:
        raise NotImplementedError(kind, most)

    assert_type(await of_kind("pot", most=1), list[Product])
    assert_type(await of_kind.refresh("pot"), list[Product])
    assert_type(await of_kind.uncached("pot"), list[Product])
    assert_type(of_kind.key("pot"), str)
    assert_type(of_kind.stats(), CacheStats)
    await of_kind.invalidate("pot")
    await of_kind(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await of_kind.refresh("pot", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(await repository.price(7), int)
    assert_type(await repository.price.refresh(7), int)
    price: CachedCoroutine[[int], int] = repository.price
    assert_type(price.key(7), str)
    assert_type(await products.get("7", default=()), list[Product] | tuple[()])


def mistakes(cache: AsyncRedisCache, blocking: RedisCache) -> None:
    cache.namespace("a", ttl="1h")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    cache.namespace("a", stale_timeot=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    cache.namespace("a", long_keys="cut")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    @cache.namespace("a").cached()  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def plain(number: int) -> int:
        return number

    @blocking.namespace("a").cached()
    def also_plain(number: int) -> int:
        return number

    function: CachedFunction[[int], int] = also_plain
    assert_type(function(7), int)


async def on_any_loop() -> None:
    cache = AsyncRedisCache.from_url("redis://localhost", any_loop=True)
    twin = cache.as_sync()
    assert_type(cache.namespace("n", type=int), Namespace[int])
    assert_type(twin.namespace("n", type=int), SyncNamespace[int])
    assert_type(twin.as_async().namespace("n", type=list[int]), Namespace[list[int]])
    assert_type(await cache.namespace("n", type=list[int]).get("a"), list[int] | None)


def transactions(
    products: Namespace[Product],
    blocking: SyncNamespace[Product],
    session: Session,
    async_session: AsyncSession,
) -> None:
    sqlalchemy_cache.bind(products, async_session).delete("7")
    sqlalchemy_cache.bind(blocking, session).delete_many(["7"])
    django_cache.bind(blocking).invalidate_tags("all")
    django_cache.bind(products)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
