"""The service of the story, and how it grows: each class adds one thing to the one before it.

`case_study.py` sends the same requests to each of them. The page of the story shows the classes as they
stand here.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Protocol, TypedDict

from async_redis_cache import AsyncRedisCache

CATEGORY_SIZE = 10


class Product(TypedDict):
    """A product, and which price list of its category its price is from."""

    number: int
    price_list: int


class Database(Protocol):
    """What has the products. Each call is one query."""

    async def find(self, number: int) -> Product: ...

    async def find_many(self, numbers: list[int]) -> list[Product]: ...


def category_of(number: int) -> int:
    return number // CATEGORY_SIZE


def products_of(category: int) -> range:
    return range(category * CATEGORY_SIZE, (category + 1) * CATEGORY_SIZE)


class Shop:
    """A service that gives products. It asks the database each time."""

    options: ClassVar[Mapping[str, Any]] = {"max_size": 10_000}

    def __init__(self, database: Database, cache_url: str, life: int) -> None:
        self.database = database
        self.cache = AsyncRedisCache.from_url(cache_url, **self.options)
        self.life = life

    async def product(self, number: int) -> Product:
        return await self.database.find(number)

    async def prices_changed(self, category: int) -> None:
        """Called when the category has a new price list in the database."""


class ByHand(Shop):
    async def product(self, number: int) -> Product:
        product = await self.cache.retrieve(None, f"product:{number}", type=Product)
        if product is None:
            product = await self.database.find(number)
            await self.cache.store(None, f"product:{number}", product, self.life)
        return product


class OneLoad(Shop):
    async def product(self, number: int) -> Product:
        find = partial(self.database.find, number)
        return await self.cache.retrieve_or_load(
            None, f"product:{number}", find, self.life, type=Product
        )


class Ahead(OneLoad):
    options: ClassVar = {**OneLoad.options, "loading_refresh_at": 0.8, "loading_jitter": 0.2}


class Stale(Ahead):
    options: ClassVar = {
        **Ahead.options,
        "loading_stale_timeout": 600_000,
        "loading_soft_timeout": 100,
    }


class Tagged(Stale):
    async def product(self, number: int) -> Product:
        find, tag = partial(self.database.find, number), f"category:{category_of(number)}"
        return await self.cache.retrieve_or_load(
            None, f"product:{number}", find, self.life, type=Product, tags=(tag,)
        )

    async def prices_changed(self, category: int) -> None:
        await self.cache.invalidate_tags(None, f"category:{category}")


class Reloaded(Tagged):
    async def prices_changed(self, category: int) -> None:
        await super().prices_changed(category)
        keys = {f"product:{number}": number for number in products_of(category)}

        async def find(missing: list[str]) -> dict[str, Product]:
            products = await self.database.find_many([keys[key] for key in missing])
            return dict(zip(missing, products, strict=True))

        await self.cache.retrieve_or_load_many(
            None, keys, find, self.life, tags=(f"category:{category}",)
        )


class Near(Reloaded):
    options: ClassVar = {**Reloaded.options, "near_cache_enabled": True}


class NeverOpen(Near):
    options: ClassVar = {**Near.options, "fail_open": "never"}


STEPS: Mapping[str, type[Shop]] = {
    "no cache": Shop,
    "a cache by hand": ByHand,
    "one load": OneLoad,
    "refresh ahead": Ahead,
    "stale values": Stale,
    "tags": Tagged,
    "loaded anew at once": Reloaded,
    "near cache": Near,
    'Redis killed, fail_open="never"': NeverOpen,
    "Redis killed": Near,
}
