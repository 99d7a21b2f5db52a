"""Changes by any client and command invalidate the local entry, and the new value is returned."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Client, StartServer
from harness.apis import APIS, Api, configured
from harness.near_waiting import PREFIX, cached_locally, seen

if TYPE_CHECKING:
    # At run time pytest itself must be the first to import it.
    from harness import Server
    from near_fixtures import OpenNearCache

pytest_plugins = ["near_fixtures"]

KEY = f"{PREFIX}key"
OTHER = f"{PREFIX}other"

PROGRAMS: dict[str, Callable[[Client], Any]] = {
    "SET": lambda raw: raw.set(KEY, b"2"),
    "SET PX": lambda raw: raw.set(KEY, b"2", px=50_000),
    "MSET": lambda raw: raw.mset({KEY: b"2", OTHER: b"3"}),
    "SETRANGE": lambda raw: raw.setrange(KEY, 0, b"7"),
    "INCR": lambda raw: raw.incr(KEY),
    "DEL": lambda raw: raw.delete(KEY),
    "UNLINK": lambda raw: raw.unlink(KEY),
    "GETDEL": lambda raw: raw.getdel(KEY),
    "RENAME away": lambda raw: raw.rename(KEY, "elsewhere"),
    "RENAME over": lambda raw: raw.set("source", b"2") and raw.rename("source", KEY),
    "COPY": lambda raw: raw.set("source", b"2") and raw.copy("source", KEY, replace=True),
    "MOVE": lambda raw: raw.move(KEY, 3),
    "PEXPIRE": lambda raw: raw.pexpire(KEY, 30),
    "EXPIREAT": lambda raw: raw.expireat(KEY, 1),
    "MULTI": lambda raw: raw.pipeline(transaction=True).set(KEY, b"2").set(OTHER, b"3").execute(),
    "script that stores": lambda raw: raw.eval("redis.call('SET', KEYS[1], '2')", 1, KEY),
    "script that removes": lambda raw: raw.eval("redis.call('DEL', KEYS[1])", 1, KEY),
    "FLUSHDB": lambda raw: raw.flushdb(),
    "FLUSHDB ASYNC": lambda raw: raw.flushdb(asynchronous=True),
    "FLUSHALL": lambda raw: raw.flushall(),
}

CACHES: dict[str, Callable[[AsyncRedisCache], Coroutine[Any, Any, object]]] = {
    "store": lambda cache: cache.store(None, "key", 2),
    "store_many": lambda cache: cache.store_many(None, {"key": 2, "other": 3}),
    "store None": lambda cache: cache.store(None, "key", None),
    "store_many None": lambda cache: cache.store_many(None, {"key": None}),
    "remove": lambda cache: cache.remove(None, "key"),
    "remove_many": lambda cache: cache.remove_many(None, ["other", "key"]),
    "touch": lambda cache: cache.touch(None, "key", 30),
    "clear": lambda cache: cache.clear(None),
}


def on_server(raw: Client) -> Any:
    """The value that the key has there."""
    data = raw.get(KEY)
    return None if data is None else json.loads(data)


@pytest.mark.parametrize("change", PROGRAMS)
@pytest.mark.parametrize("bound", [0, 1000], ids=["unbounded", "bounded"])
@pytest.mark.depends_on("server")
async def test_change_of_another_program_invalidates(
    near_cache: OpenNearCache, raw: Client, change: str, bound: int
) -> None:
    """Any command of any client that changes, removes or expires the key."""
    cache = await near_cache(max_size=bound)
    await cache.store(None, "key", 1)
    await cached_locally(cache, "key")
    PROGRAMS[change](raw)
    if "EXPIRE" in change:
        await seen(cache, "key", None)
    else:
        await seen(cache, "key", on_server(raw))
    assert cache.stats().near_invalidations + cache.stats().near_flushes > 0


@pytest.mark.parametrize("other", APIS)
@pytest.mark.parametrize("change", CACHES)
@pytest.mark.depends_on
async def test_change_of_another_cache_invalidates(
    server: Server, near_cache: OpenNearCache, raw: Client, change: str, other: Api
) -> None:
    """Any operation of another cache, with either API, with or without a near cache."""
    cache = await near_cache()
    for near in (True, False):
        await cache.store(None, "key", 1)
        await cached_locally(cache, "key")
        options = {"key_prefix": PREFIX, "near_cache_enabled": near}
        async with configured(server.url, other, **options) as elsewhere:
            await CACHES[change](elsewhere)
            if change == "touch":
                await seen(cache, "key", None)
            else:
                await seen(cache, "key", on_server(raw))


async def test_expiry(near_cache: OpenNearCache) -> None:
    """A value that has expired on the server is not returned, whichever side notices first."""
    cache = await near_cache()
    # On a busy machine a short TTL is over before the values are near.
    ttl = 30
    while cache.stats().near_entries < 2:
        ttl *= 2
        await cache.store_many(None, {"key": 1, "other": 2}, ttl)
        await cache.retrieve_many(None, ["key", "other"])
    await seen(cache, "key", None)
    await seen(cache, "other", None)
    assert cache.stats().near_entries == 0


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl"])
@pytest.mark.depends_on("server")
async def test_eviction_by_the_server(
    private_server: StartServer, near_cache: OpenNearCache, policy: str
) -> None:
    """A server without memory evicts keys and invalidates them: they are not returned."""
    server = private_server(config={"maxmemory-policy": policy})
    cache = await near_cache(server.url, max_size=0)
    with server.client() as raw:
        keys = [f"key{number}" for number in range(20)]
        await cache.store_many(None, dict.fromkeys(keys, 1), 50_000)
        await cached_locally(cache, *keys)
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 500_000)
        number = 0
        while raw.exists(*(f"{PREFIX}{key}" for key in keys)):
            raw.set(f"filler{number}", b"x" * 10_000, px=60_000)
            number += 1
            assert number < 20_000
    for key in keys:
        await seen(cache, key, None)


async def test_eviction_by_the_bound(near_cache: OpenNearCache) -> None:
    """A value that another cache drives out of `max_size` is not given either."""
    cache, other = await near_cache(max_size=5), await near_cache(max_size=5)
    await cache.store(None, "key", 1, 1_000)
    await cached_locally(cache, "key")
    for number in range(5):
        await other.store(None, f"other{number}", number)
    await seen(cache, "key", None)
