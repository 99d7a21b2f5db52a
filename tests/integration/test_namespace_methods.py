"""Every method of a namespace, of each kind of cache."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from async_redis_cache import AsyncRedisCache, Namespace, RedisCache, SyncNamespace
from harness import Client, Server

KINDS: Final = ("async", "any_loop", "as_async", "sync", "as_sync")
SYNC: Final = ("sync", "as_sync")


@dataclass
class Product:
    name: str


KETTLE, POT, PAN = Product("kettle"), Product("pot"), Product("pan")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """How the cache is made: by its class, for any loop, or as the other class on the core of another cache."""
    chosen: str = request.param
    return chosen


@pytest.fixture
async def cache(server: Server, kind: str) -> AsyncIterator[Any]:
    """An open cache of this kind."""
    if kind in SYNC:
        with (
            RedisCache.from_url(server.url)
            if kind == "sync"
            else AsyncRedisCache.from_url(server.url, any_loop=True).as_sync() as blocking
        ):
            yield blocking
        return
    cache = (
        RedisCache.from_url(server.url).as_async()
        if kind == "as_async"
        else AsyncRedisCache.from_url(server.url, any_loop=kind == "any_loop")
    )
    async with cache:
        yield cache


class Called:
    """A namespace that records which of its methods are called, all of them awaited."""

    def __init__(self, namespace: Any) -> None:
        self.namespace = namespace
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        method = getattr(self.namespace, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call

    async def keys(self) -> list[str]:
        """What `scan` yields, sorted."""
        scan = await self.scan()
        return sorted([key async for key in scan] if hasattr(scan, "__aiter__") else scan)

    async def fencing_number(self, kind: str) -> int:
        """Acquire and release a lock; return its number."""
        lock = await self.lock("7", 5, wait=0)
        if kind in SYNC:
            with lock:
                assert lock.is_held()
        else:
            async with lock:
                assert lock.is_held()
        number: int = lock.fencing_number
        return number

    async def cached_function(self, kind: str) -> Any:
        """A function of a number, and how often it was called; it may be awaited."""
        decorate = await self.cached("f{number}")
        calls: list[int] = []

        def product(number: int) -> Product:
            calls.append(number)
            return Product(str(number))

        async def product_later(number: int) -> Product:
            return product(number)

        function = decorate(product if kind in SYNC else product_later)

        async def call(number: int) -> Any:
            result = function(number)
            return await result if inspect.isawaitable(result) else result

        return call, calls


def pots(keys: list[str]) -> dict[str, Product]:
    return dict.fromkeys(keys, POT)


async def test_every_method(cache: Any, kind: str, raw: Client) -> None:
    """Each method does the same in a namespace of each kind of cache, under the keys of the namespace."""
    products = Called(cache.namespace("product", type=Product, ttl=60, tags=("all",)))
    numbers = Called(cache.namespace("number", type=int, ttl=60))
    other = Called(cache.namespace("products"))
    await other.set("7", "kept")

    await products.set("7", KETTLE)
    assert await products.get("7") == KETTLE
    assert await products.get("8", "none") == "none"
    assert await products.contains("7")
    left = await products.ttl("7")
    assert 50 < left <= 60
    assert await products.touch("7", 30)
    assert 20_000 < raw.pttl("product:7") <= 30_000
    entry = await products.get_entry("7")
    assert (entry.value, entry.status) == (KETTLE, "hit")
    assert await products.delete("7")
    assert not await products.delete("7")

    await products.set_many({"a": KETTLE, "b": POT}, 30)
    assert await products.get_many(["b", "a", "c"]) == {"b": POT, "a": KETTLE}
    assert await products.delete_many(["a", "c"]) == 1

    assert await products.get_or_load("7", lambda: PAN) == PAN
    assert await products.get_or_load("7", lambda: POT) == PAN
    assert await products.get_or_load_many(["7", "8"], pots) == {
        "7": PAN,
        "8": POT,
    }
    assert (await products.get_or_load_entry("9", lambda: PAN)).status == "loaded"
    assert await products.refresh("9", lambda: KETTLE) == KETTLE
    assert await products.get("9") == KETTLE
    call, calls = await products.cached_function(kind)
    assert (await call(1), await call(1), calls) == (Product("1"), Product("1"), [1])
    assert await products.keys() == ["7", "8", "9", "b", "f1"]

    await products.invalidate_tags("all")
    assert await products.get_many(["7", "8", "9", "b", "f1"]) == {}
    assert await numbers.add("a", 1)
    assert not await numbers.add("a", 2)
    assert await numbers.incr("a", 5) == 6
    assert await numbers.decr("a", 2) == 4
    assert await numbers.get("a") == 4
    assert 50_000 < raw.pttl("number:a") <= 60_000

    first = await products.fencing_number(kind)
    assert await products.fencing_number(kind) > first

    before = (await products.stats()).hits
    await products.set("7", KETTLE)
    await products.get("7")
    assert (await products.stats()).hits == before + 1
    assert await products.clear() >= 1
    assert await products.keys() == []
    assert (await other.get("7"), await numbers.get("a")) == ("kept", 4)
    assert cache.stats().hits == sum(
        [(await space.stats()).hits for space in (products, numbers, other)]
    )

    of_class = SyncNamespace if kind in SYNC else Namespace
    methods = {name for name in dir(of_class) if not name.startswith("_")} - {"name"}
    assert methods <= products.names | numbers.names


async def test_clear_holds_against_the_loads_of_each_kind(cache: Any, kind: str) -> None:
    """What a cache of any kind loads while its namespace is cleared is returned and not stored."""
    numbers = cache.namespace("number", type=int)
    begun, may_end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def load() -> int:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(20)
        return 1

    async def load_later() -> int:
        begun.set()
        await may_end.wait()
        return 1

    if kind in SYNC:
        loading = asyncio.ensure_future(asyncio.to_thread(numbers.get_or_load, "a", load))
    else:
        loading = asyncio.ensure_future(numbers.get_or_load("a", load_later))
    await begun.wait()
    await Called(numbers).clear()
    may_end.set()
    assert await loading == 1
    assert await Called(numbers).get("a") is None
