"""Counters of namespaces and cached functions: each event is counted once, and the cache has the sum."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheInputError, CacheStats, RedisCache, cached
from async_redis_cache._common.stats import COUNTED_BY_PART

if TYPE_CHECKING:
    from harness import Client, Server


def counts(stats: CacheStats, *names: str) -> tuple[int, ...]:
    return tuple(getattr(stats, name) for name in names)


def total(*parts: CacheStats) -> dict[str, int]:
    """The sum of the fields that parts count."""
    return {name: sum(getattr(part, name) for part in parts) for name in COUNTED_BY_PART}


def test_hit_ratio() -> None:
    """The share of hits, fresh or stale, in all keys that were looked up."""
    assert CacheStats().hit_ratio == CacheStats(misses=3).hit_ratio == 0
    assert CacheStats(hits=2, stale_hits=1, misses=1).hit_ratio == 0.75


async def test_namespace_counts_its_calls(server: Server, raw: Client) -> None:
    """A namespace counts what its calls do; those of one name count together, and the cache has the sum of all."""
    async with AsyncRedisCache.from_url(server.url) as cache:
        one, again, other = (cache.namespace(name, type=int) for name in ("one", "one", "other"))
        await one.set("a", 1)
        await again.get("a")
        await one.get_many(["a", "b"])
        await other.get("a")
        raw.set("one:damaged", "{")
        await one.get("damaged")
        with pytest.raises(CacheInputError):
            await one.get("")
        await one.set_many({"b": 1, "c": 1})
        await one.delete("b")
        await one.set("c", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await one.clear()
        names = ("hits", "misses", "stores", "removals", "errors", "unreadable")
        # The damaged value is removed by `clear` too.
        assert counts(one.stats(), *names) == (2, 2, 3, 4, 1, 1)
        assert again.stats() == one.stats()
        assert total(other.stats()) == total(CacheStats(misses=1))
        await cache.store(None, "b", 1)
        await cache.retrieve(None, "b")
        assert total(cache.stats()) == total(
            one.stats(), other.stats(), CacheStats(stores=1, hits=1)
        )


@pytest.mark.parametrize("api", ["async", "any_loop", "sync"])
async def test_namespace_counts_its_loads(server: Server, api: str) -> None:
    """Loads, their failures, background refreshes, and results that are not stored count where they were asked for."""
    blocking = RedisCache.from_url(server.url)
    cache = AsyncRedisCache.from_url(server.url, any_loop=api == "any_loop")
    if api == "sync":
        cache = blocking.as_async()
    async with cache:
        # The methods of a SyncNamespace, in a thread.
        space: Any = cache.namespace("n")
        if api == "sync":
            space = blocking.namespace("n")

        async def call(method: Any, *args: Any, **loading: Any) -> Any:
            if api == "sync":
                return await asyncio.to_thread(method, *args, **loading)
            return await method(*args, **loading)

        def load_many(keys: list[str]) -> dict[str, int]:
            return dict.fromkeys(keys, 1)

        def fail() -> int:
            raise LookupError

        loading, may_end = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow() -> int:
            loop.call_soon_threadsafe(loading.set)
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(20)
            return 1

        await call(space.get_or_load, "a", lambda: 1)
        await call(space.get_or_load_many, ["a", "b", "c"], load_many)
        with pytest.raises(LookupError):
            await call(space.get_or_load, "d", fail)
        await call(space.get_or_load, "e", lambda: {1: object()})
        superseded = asyncio.ensure_future(call(space.get_or_load, "f", slow, in_thread=True))
        await loading.wait()
        await call(space.set, "f", 2)
        may_end.set()
        assert await superseded == 1
        # Due for a refresh at once.
        await call(space.get_or_load, "a", lambda: 2, refresh_at=0.000_001)
        async with asyncio.timeout(20):
            while await call(space.get, "a") != 2:  # noqa: ASYNC110  the load changes it
                await asyncio.sleep(0)
        names = ("loads", "load_failures", "uncacheable_results", "superseded_loads", "refreshes")
        assert counts(space.stats(), *names) == (7, 1, 1, 1, 1)
        assert counts(cache.stats(), *names) == (7, 1, 1, 1, 1)
        await cache.retrieve_or_load(None, "plain", lambda: 1)
        assert counts(cache.stats(), *names) == (8, 1, 1, 1, 1)
        assert space.stats().loads == 7


async def test_cached_function_counts_its_calls(server: Server) -> None:
    """`stats()` of a function counts its calls; its namespace and its cache count them too, and nothing twice."""
    cache = AsyncRedisCache.from_url(server.url)
    numbers = cache.namespace("n", type=int)

    @numbers.cached()
    async def double(number: int) -> int:
        return 2 * number

    @cached(cache)
    async def triple(number: int) -> int:
        return 3 * number

    @cached(lambda: cache)
    async def half(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number // 2

    async with cache:
        for function in (double, triple, half):
            assert await function(4) == await function(4) == await function.refresh(4)
        with pytest.raises(ValueError, match="odd"):
            await half(1)
        await numbers.get("4")
        names = ("hits", "misses", "loads", "load_failures")
        assert counts(double.stats(), *names) == counts(triple.stats(), *names) == (1, 1, 2, 0)
        assert counts(half.stats(), *names) == (1, 2, 3, 1)
        await triple.invalidate(4)
        assert triple.stats().removals == 1
        assert counts(numbers.stats(), *names) == (1, 2, 2, 0)
        assert total(cache.stats()) == total(numbers.stats(), triple.stats(), half.stats())


def test_plain_function_counts_its_calls(server: Server) -> None:
    """The same for plain functions, of a `RedisCache` and a `SyncNamespace`; methods count for all instances."""
    cache = RedisCache.from_url(server.url)

    class Shop:
        @cached(cache, key="{number}")
        def number(self, number: int) -> int:
            return number

    @cache.namespace("n").cached()
    def double(number: int) -> int:
        return 2 * number

    with cache:
        assert Shop().number(1) == Shop().number(1) == 1
        assert double(1) == double(1) == 2
        for function in (Shop.number, Shop().number, double):
            assert counts(function.stats(), "hits", "misses", "loads") == (1, 1, 1)
        assert counts(cache.stats(), "hits", "misses", "loads") == (2, 2, 2)


def test_function_counts_in_each_provided_cache(server: Server) -> None:
    """A function with a provider sums up the caches that the provider has returned."""
    with RedisCache.from_url(server.url) as one, RedisCache.from_url(server.url) as two:
        current = [one]

        @cached(lambda: current[0])
        def double(number: int) -> int:
            return 2 * number

        assert double(1) == 2
        current[0] = two
        assert double(1) == 2
        assert counts(double.stats(), "hits", "misses") == (1, 1)
        assert counts(one.stats(), "hits", "misses") == (0, 1)


async def test_subclass_keeps_its_methods_and_attributes(server: Server) -> None:
    """Namespaces and functions call the methods of a subclass, which find its attributes."""

    class Recording(AsyncRedisCache):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.recorded: list[str] = []

        async def retrieve_or_load(self, context: Any, key: str, *args: Any, **kwargs: Any) -> Any:
            self.recorded.append(key)
            return await super().retrieve_or_load(context, key, *args, **kwargs)

    async with Recording.from_url(server.url) as cache:

        @cached(cache, key="{number}")
        async def double(number: int) -> int:
            return 2 * number

        await double(1)
        await cache.namespace("n").get_or_load("a", lambda: 1)
        assert cache.recorded == ["1", "a"]


async def test_bound_of_parts(server: Server) -> None:
    """Beyond 1000 names the cache counts, so that names from data take no memory."""
    async with AsyncRedisCache.from_url(server.url, command_timeout=30_000) as cache:
        for number in range(1001):
            await cache.namespace(f"tenant{number}").get("a")
        assert cache.stats().misses == 1001
        assert len([*cache._counters.each()]) == 1001
