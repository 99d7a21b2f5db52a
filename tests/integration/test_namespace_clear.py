"""`clear` of a namespace, where a load holds no lease, and where invalidations are late."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheOutcomeUnknown,
    CacheTimeout,
    RedisCache,
)
from harness import await_until
from harness.near import all_news_is_in, link_through, near_of, trusted

if TYPE_CHECKING:
    from harness import Client, Server, StartProxy


async def test_no_caller_joins_a_load_without_a_lease(server: Server, proxy: StartProxy) -> None:
    """A load that began while the server was unreachable holds no lease: a caller after `clear` loads again."""
    through = proxy(server)
    begun, may_end = [0], asyncio.Event()

    async def load() -> int:
        begun[0] += 1
        number = begun[0]
        await may_end.wait()
        return number

    async with AsyncRedisCache.from_url(through.url) as cache:
        cleared, kept = cache.namespace("n"), cache.namespace("m")
        through.refuse()
        through.cut()
        before = [asyncio.create_task(space.get_or_load("a", load)) for space in (cleared, kept)]
        await await_until(lambda: begun[0] == 2)
        through.heal()
        async with asyncio.timeout(20):
            while True:
                try:
                    await cleared.clear()
                    break
                except CacheError:
                    await asyncio.sleep(0.01)
        after = [asyncio.create_task(space.get_or_load("a", load)) for space in (cleared, kept)]
        await await_until(lambda: begun[0] == 3)
        may_end.set()
        # The other namespace shares the load in flight.
        first, other, second, joined = await asyncio.gather(*before, *after)
        assert (first, second, joined) == (3 - other, 3, other)


async def test_near_cache_is_cleared_before_the_server_says_so(
    server: Server, raw: Client, proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `clear` returns, `get` returns nothing, even if the invalidations of the server have not arrived."""
    through = proxy(server)
    link_through(through.port, monkeypatch)
    async with AsyncRedisCache.from_url(
        server.url, near_cache_enabled=True, near_cache_heartbeat=5_000
    ) as cache:
        await trusted(cache)
        spaces = [cache.namespace(name) for name in ("n", "m")]
        for space in spaces:
            await space.set("a", 1)
        await all_news_is_in(cache, raw, "")
        near = near_of(cache)
        async with asyncio.timeout(20):
            while len(near._entries) < 2:
                await asyncio.gather(*(space.get("a") for space in spaces))
        through.black_hole("to_client")
        cleared, kept = spaces
        assert await cleared.clear() == 1
        hits = cache.stats().near_hits
        assert await cleared.get("a") is None
        assert await kept.get("a") == 1
        assert cache.stats().near_hits == hits + 1


async def test_reads_pay_nothing_for_namespaces(server: Server) -> None:
    """A `get`, a `get_many` and a hit of `get_or_load` take one round trip each, after a `clear` too."""
    async with AsyncRedisCache.from_url(server.url, command_timeout=10_000) as cache:
        numbers = cache.namespace("n")
        await numbers.clear()
        await numbers.set("a", 1)
        await numbers.get_or_load("b", lambda: 1)
        before = cache.stats().round_trips
        await numbers.get("a")
        await numbers.get_many(["a", "b"])
        await numbers.get_or_load("b", lambda: 2)
        assert cache.stats().round_trips == before + 3


@pytest.mark.parametrize("kind", ["async", "any_loop", "sync"])
async def test_clear_of_a_large_server_takes_a_timeout(
    server: Server, proxy: StartProxy, kind: str
) -> None:
    """Without a timeout, `clear` ends after `options.command_timeout`; with one it may take as long as that."""
    through = proxy(server)
    options: dict[str, Any] = {"command_timeout": 200, "key_prefix": "shop:"}
    blocking = RedisCache.from_url(through.url, **options)
    cache = AsyncRedisCache.from_url(through.url, any_loop=kind == "any_loop", **options)
    if kind == "sync":
        cache = blocking.as_async()
    async with cache:
        api: Any = blocking if kind == "sync" else cache
        space = api.namespace("n")

        async def call(method: Any, *args: Any, **kwargs: Any) -> Any:
            if kind == "sync":
                return await asyncio.to_thread(method, *args, **kwargs)
            return await method(*args, **kwargs)

        with server.client() as raw:
            raw.mset({f"shop:n:{number}": "1" for number in range(3_000)})
        # Several round trips, each of which takes less than the timeout.
        through.delay(0.03)
        with pytest.raises((CacheTimeout, CacheOutcomeUnknown)):
            await call(space.clear)
        assert await call(space.clear, timeout=timedelta(seconds=30)) > 0
        with server.client() as raw:
            assert raw.keys("shop:n:*") == []
            raw.mset({f"shop:n:{number}": "1" for number in range(3_000)})
        with pytest.raises((CacheTimeout, CacheOutcomeUnknown)):
            await call(api.clear, None)
        assert await call(api.clear, None, 30_000) > 0
        with server.client() as raw:
            assert raw.keys("shop:*") == []
