"""The service of the case study. Each class adds one feature to the class before it.

`case_study.py` sends the same requests to each of them. docs/case-study.md shows the classes as they are
here.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Protocol, TypedDict

from async_redis_cache import AsyncRedisCache

CATEGORY_SIZE = 10


class Product(TypedDict):
    """A product, and the number of the price list of its category."""

    number: int
    price_list: int


class Database(Protocol):
    """The origin of the products. Each call is one query."""

    async def find(self, number: int) -> Product: ...

    async def find_many(self, numbers: list[int]) -> list[Product]: ...


def category_of(number: int) -> int:
    return number // CATEGORY_SIZE


def products_of(category: int) -> range:
    return range(category * CATEGORY_SIZE, (category + 1) * CATEGORY_SIZE)


class Shop:
    """A service that returns products. This one queries the database for each request."""

    options: ClassVar[Mapping[str, Any]] = {"max_size": 10_000}

    def __init__(self, database: Database, cache_url: str, ttl: int) -> None:
        self.database = database
        self.cache = AsyncRedisCache.from_url(cache_url, **self.options)
        self.products = self.cache.namespace(
            "product", type=Product, ttl=timedelta(milliseconds=ttl)
        )

    async def product(self, number: int) -> Product:
        return await self.database.find(number)

    async def prices_changed(self, category: int) -> None:
        """Called after the category got a new price list in the database."""


class CacheAside(Shop):
    async def product(self, number: int) -> Product:
        product = await self.products.get(str(number))
        if product is None:
            product = await self.database.find(number)
            await self.products.set(str(number), product)
        return product


class SingleFlight(Shop):
    async def product(self, number: int) -> Product:
        return await self.products.get_or_load(str(number), partial(self.database.find, number))


class RefreshAhead(SingleFlight):
    options: ClassVar = {**SingleFlight.options, "loading_refresh_at": 0.8, "loading_jitter": 0.2}


class StaleWhileRevalidate(RefreshAhead):
    options: ClassVar = {
        **RefreshAhead.options,
        "loading_stale_timeout": 600_000,
        "loading_soft_timeout": 100,
    }


class Tagged(StaleWhileRevalidate):
    async def product(self, number: int) -> Product:
        find, tag = partial(self.database.find, number), f"category:{category_of(number)}"
        return await self.products.get_or_load(str(number), find, tags=(tag,))

    async def prices_changed(self, category: int) -> None:
        await self.products.invalidate_tags(f"category:{category}")


class BatchReload(Tagged):
    async def prices_changed(self, category: int) -> None:
        await super().prices_changed(category)

        async def find(missing: list[str]) -> dict[str, Product]:
            products = await self.database.find_many([int(key) for key in missing])
            return dict(zip(missing, products, strict=True))

        await self.products.get_or_load_many(
            map(str, products_of(category)), find, tags=(f"category:{category}",)
        )


class NearCache(BatchReload):
    options: ClassVar = {**BatchReload.options, "near_cache_enabled": True}


class NeverFailOpen(NearCache):
    options: ClassVar = {**NearCache.options, "fail_open": "never"}


STEPS: Mapping[str, type[Shop]] = {
    "no cache": Shop,
    "cache-aside": CacheAside,
    "single-flight": SingleFlight,
    "refresh-ahead": RefreshAhead,
    "stale-while-revalidate": StaleWhileRevalidate,
    "tag invalidation": Tagged,
    "batch reload": BatchReload,
    "near cache": NearCache,
    'Redis killed, fail_open="never"': NeverFailOpen,
    "Redis killed": NearCache,
}
