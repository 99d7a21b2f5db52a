"""`type=P | None` and `Optional[P]` validate like `P` in all calls that take a type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import pytest
from pydantic import BaseModel

from async_redis_cache import AsyncRedisCache
from harness import Server
from harness.apis import APIS, Api, configured

pytestmark = pytest.mark.depends_on("api")


@dataclass
class Product:
    name: str


class Model(BaseModel):
    name: str


UNIONS: list[Any] = [
    Product | None,
    Optional[Product],  # noqa: UP045  as users write it
    Model | None,
    Optional[Model],  # noqa: UP045
    list[Product] | None,
]


def cache_of(server: Server, api: Api) -> AsyncRedisCache:
    """Behind this API."""
    return configured(server.url, api, key_prefix="unions:")


@pytest.mark.parametrize("union", UNIONS, ids=str)
@pytest.mark.parametrize("api", APIS)
async def test_union_with_none_gives_the_type(server: Server, api: Api, union: Any) -> None:
    """Loaded, read and read with others; a value of another type is a miss."""
    member = union.__args__[0]
    value: Any = [Product("kettle")] if member == list[Product] else member(name="kettle")
    async with cache_of(server, api) as cache:
        for _ in range(2):
            assert await cache.retrieve_or_load(None, "key", lambda: value, type=union) == value
        assert await cache.retrieve(None, "key", type=union) == value
        assert await cache.retrieve_many(None, ["key"], type=union) == {"key": value}
        await cache.store(None, "key", {"name": 1})
        assert await cache.retrieve(None, "key", type=union) is None
        await cache.remove(None, "key")


@pytest.mark.parametrize("api", APIS)
async def test_load_without_a_type_gives_first_what_it_gives_later(
    server: Server, api: Api
) -> None:
    """Every caller gets what the serializer makes of the stored value, as its type `Any` says."""
    async with cache_of(server, api) as cache:
        for _ in range(2):
            loaded = await cache.retrieve_or_load(None, "plain", lambda: Product("kettle"))
            assert loaded == {"name": "kettle"}
        await cache.remove(None, "plain")
