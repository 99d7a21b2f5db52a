"""What type checkers see of namespaces: checked by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from async_redis_cache import (
    FOREVER,
    AsyncRedisCache,
    CacheEntry,
    CacheStats,
    Forever,
    Namespace,
    RedisCache,
    SyncNamespace,
)


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
