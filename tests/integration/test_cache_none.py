"""`cache_none` of a namespace: None is a value, stored, found and told from absence."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CoalescingLoader,
    Load,
    RedisCache,
)

if TYPE_CHECKING:
    from harness import Client, Server

MINUTE = 60_000
SERIALIZERS: dict[str, dict[str, Any]] = {
    "json": {},
    "msgpack": {"serializer": "msgpack"},
    "pickle": {"serializer": "pickle", "signing_key": "a secret of some length"},
    "compressed": {"compression": "zlib", "compression_threshold": 0},
    "near": {"near_cache_enabled": True},
    "bounded": {"max_size": 10},
    "any_loop": {"any_loop": True},
}


@dataclass
class Product:
    name: str


class Struct(msgspec.Struct):
    name: str


class Loads:
    """A loader of None that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


def opened(server: Server, **options: Any) -> AsyncRedisCache:
    """A cache of this server, to be entered."""
    return AsyncRedisCache.from_url(server.url, **options)


@pytest.mark.parametrize("options", SERIALIZERS.values(), ids=SERIALIZERS)
async def test_stored_none_is_a_value(server: Server, options: dict[str, Any]) -> None:
    """Each method that reads finds it, and `get` and `get_many` tell it from absence."""
    async with opened(server, **options) as cache:
        products = cache.namespace("product", type=Product, cache_none=True)
        await products.set("none", None)
        await products.set_many({"many": None, "one": Product("kettle")})
        for _ in range(2):
            assert await products.get("none", "absent") is None
            assert await products.get("missing", "absent") == "absent"
        found = await products.get_many(["none", "many", "one", "missing"])
        assert found == {"none": None, "many": None, "one": Product("kettle")}
        entry = await products.get_entry("none")
        assert (entry.value, entry.status) == (None, "near" if cache.stats().near_hits else "hit")
        assert await products.contains("none")
        assert await products.touch("none", 30)
        assert await products.delete("none")
        assert not await products.contains("none")
        assert await products.add("none", None)
        assert not await products.add("none", Product("kettle"))


@pytest.mark.parametrize("options", SERIALIZERS.values(), ids=SERIALIZERS)
async def test_loaded_none_is_not_loaded_again(server: Server, options: dict[str, Any]) -> None:
    """By no loading method, in this process or in another; the methods return None and count hits."""
    async with opened(server, **options) as cache, opened(server, **options) as other:
        load = Loads()
        for each in (cache, other):
            products = each.namespace("product", type=Product, cache_none=True)
            for _ in range(2):
                assert await products.get_or_load("7", load) is None
            entry = await products.get_or_load_entry("7", load)
            assert entry.value is None
            assert entry.status in {"hit", "near"}
            assert await products.get("7", "absent") is None
        assert load.count == 1
        assert cache.namespace("product").stats().hits == 3
        assert cache.stats().misses == 1


async def test_none_has_the_ttl_of_values(server: Server, raw: Client) -> None:
    """A loaded None has the TTL of the namespace; with `missing_timeout` it has that."""
    async with opened(server) as cache:
        products = cache.namespace("product", ttl=1000, cache_none=True)
        await products.get_or_load("7", Loads())
        assert raw.pttl("product:7") > 900_000
        await products.get_or_load("8", Loads(), missing_timeout=MINUTE)
        assert raw.pttl("product:8") <= MINUTE


@pytest.mark.parametrize("kind", [None, Product, Struct, int | str, dict[str, Product]])
async def test_none_is_a_value_of_every_type(server: Server, kind: Any) -> None:
    """The type of the namespace applies to the other values."""
    async with opened(server) as cache:
        products = cache.namespace("product", type=kind, cache_none=True)
        load = Loads()
        for _ in range(2):
            assert await products.get_or_load("7", load) is None
        assert load.count == 1
        assert await products.get("7", "absent") is None
        assert cache.stats().unreadable == 0


async def test_batch_loads_store_none_and_not_what_is_missing(server: Server) -> None:
    """A None in the mapping of a loader is a value; a key that is not in it has none, and is loaded again."""
    async with opened(server) as cache:
        products = cache.namespace("product", cache_none=True)
        loaded: list[list[str]] = []

        async def load(keys: list[str]) -> dict[str, str | None]:
            loaded.append(sorted(keys))
            return {key: None for key in keys if key != "missing"}

        for _ in range(2):
            found = await products.get_or_load_many(["7", "8", "missing"], load)
            assert found == {"7": None, "8": None}
        assert loaded == [["7", "8", "missing"], ["missing"]]
        coalescing = CoalescingLoader(load)
        assert await products.get_or_load("9", coalescing) is None
        assert await products.get_or_load("9", coalescing) is None
        assert len(loaded) == 3


async def test_cached_function_that_returns_none_is_not_called_again(server: Server) -> None:
    """By the decorator of the namespace; `refresh` and `invalidate` call it."""
    async with opened(server) as cache:
        products = cache.namespace("product", cache_none=True)
        calls = 0

        @products.cached("{number}")
        async def find(number: int) -> Product | None:
            nonlocal calls
            calls += 1
            return Product("one") if number == 1 else None

        assert [await find(2), await find(2), await find(1), await find(1)] == [
            None,
            None,
            Product("one"),
            Product("one"),
        ]
        assert calls == 2
        assert await find.refresh(2) is None
        await find.invalidate(2)
        assert await find(2) is None
        assert calls == 4


async def test_stale_none_is_returned_and_can_be_kept(server: Server) -> None:
    """A stale None is a stale value: returned while it is reloaded, and kept by `not_modified`."""
    async with opened(server) as cache:
        products = cache.namespace("product", ttl=0.001, cache_none=True, stale_timeout=MINUTE)
        reloaded = asyncio.Event()

        def load(load: Load[Any]) -> Any:
            if cache.stats().loads > 1:
                load.timeout = MINUTE
                reloaded.set()
                return load.not_modified()
            return None

        await products.get_or_load("7", load)
        async with asyncio.timeout(60):
            while (await products.get_entry("7")).status == "hit":
                pass
            entry = await products.get_or_load_entry("7", load)
            assert (entry.value, entry.status) == (None, "stale")
            await reloaded.wait()
            while (await products.get_or_load_entry("7", load)).status == "stale":
                pass
        assert await products.get("7", "absent") is None


async def test_plain_methods_and_other_namespaces_see_no_value(server: Server, raw: Client) -> None:
    """What is stored is the `null` of the serializer, which is no value elsewhere."""
    async with opened(server) as cache:
        await cache.namespace("product", cache_none=True).set("7", None)
        assert raw.get("product:7") == b"null"
        assert await cache.retrieve(None, "product:7") is None
        assert not await cache.contains(None, "product:7")
        plain = cache.namespace("product")
        assert await plain.get("7", "absent") == "absent"
        assert await plain.get_or_load("7", lambda: "loaded") == "loaded"


async def test_serializer_without_none_is_refused(server: Server) -> None:
    """`raw` stores bytes: there is no None among them."""
    async with opened(server) as cache:
        raw = cache.namespace("raw", serializer="raw", cache_none=True)
        with pytest.raises(CacheConfigError) as caught:
            await raw.get("7")
        assert caught.value.code == "BAD_OPTION"


async def test_without_it_none_is_no_value(server: Server) -> None:
    """The default: `set` removes the key, and None is loaded at each call."""
    async with opened(server) as cache:
        products = cache.namespace("product")
        await products.set("7", "kettle")
        await products.set("7", None)
        assert await products.get("7", "absent") == "absent"
        load = Loads()
        for _ in range(2):
            await products.get_or_load("7", load)
        assert load.count == 2


def test_synchronous_namespace_stores_none(server: Server) -> None:
    """`SyncNamespace` does the same."""
    with RedisCache.from_url(server.url) as cache:
        products = cache.namespace("product", type=Product, cache_none=True)
        loads = 0

        def load() -> None:
            nonlocal loads
            loads += 1

        for _ in range(2):
            assert products.get_or_load("7", load) is None
        assert products.get("7", "absent") is None
        assert products.get_many(["7", "8"]) == {"7": None}
        assert loads == 1

        @products.cached("{number}")
        def find(number: int) -> Product | None:
            nonlocal loads
            loads += number
            return None

        assert (find(1), find(1)) == (None, None)
        assert loads == 2
