"""The near cache with both APIs on both servers: local hits where possible, never stale."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from harness import Client, Server, StartProxy, StartServer, await_until
from harness.apis import Api, configured
from harness.near_waiting import PREFIX, cached_locally, seen, trusted

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache

    # At run time pytest itself must be the first to import it.
    from near_fixtures import OpenNearCache

pytest_plugins = ["near_fixtures", "program_fixtures"]
pytestmark = pytest.mark.depends_on("api")

WAYS: dict[str, dict[str, Any]] = {
    "bounded": {"max_size": 10},
    "unbounded": {"max_size": 0},
    "bounded, no prefix": {"key_prefix": ""},
    "unbounded, no prefix": {"max_size": 0, "key_prefix": ""},
    "odd prefix": {"key_prefix": "sh*p [é]:"},
    "compressed": {"compression": "zlib", "compression_threshold": 0},
    "signed": {"signing_key": "sixteen letters."},
    "msgpack": {"serializer": "msgpack"},
    "pickle": {"serializer": "pickle", "signing_key": "sixteen letters."},
}


TICK_SECONDS = 0.005
"""The server counts lives in whole milliseconds, and lets the last one pass."""


@dataclass
class User:
    """What a handler would rather have than a dict."""

    name: str


async def test_a_hit_needs_no_round_trip(near_cache: OpenNearCache) -> None:
    """Local entries are returned without the server, for one key or many, to any task."""
    cache = await near_cache()
    await cache.store_many(None, {"a": 1, "b": [2]})
    await cached_locally(cache, "a", "b")
    before = cache.stats()
    for _ in range(100):
        assert await cache.retrieve(None, "a") == 1
    assert await cache.retrieve_many(None, ["a", "b"]) == {"a": 1, "b": [2]}
    assert await asyncio.gather(*(cache.retrieve(None, "b") for _ in range(50))) == [[2]] * 50
    after = cache.stats()
    assert after.round_trips == before.round_trips
    assert after.near_hits == before.near_hits + 152
    assert (after.hits, after.near_misses) == (before.hits + 152, before.near_misses)
    assert after.near_connected
    assert after.near_entries == 2
    assert after.near_bytes > 0


async def test_misses_are_not_cached_locally(near_cache: OpenNearCache, raw: Client) -> None:
    """A miss is not cached locally: a value is seen as soon as it is stored."""
    cache = await near_cache()
    for _ in range(3):
        trips = cache.stats().round_trips
        assert await cache.retrieve(None, "key") is None
        assert cache.stats().round_trips == trips + 1
    raw.set(f"{PREFIX}key", b"1")
    assert await cache.retrieve(None, "key") == 1


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_store(near_cache: OpenNearCache, way: str) -> None:
    """Whatever the options make of a value, near or not, the same comes back."""
    cache = await near_cache(**WAYS[way])
    value = {"name": "Ann", "tags": ["x" * 2_000, None, 1.5]}
    await cache.store(None, "key", value)
    await cached_locally(cache, "key")
    trips = cache.stats().round_trips
    assert await cache.retrieve(None, "key") == value
    assert cache.stats().round_trips == trips
    await cache.store(None, "key", "another")
    assert await cache.retrieve(None, "key") == "another"
    assert cache.stats().unreadable == 0


async def test_near_values_as_types(near_cache: OpenNearCache) -> None:
    """A near value is validated like any other; one that does not fit is a miss each time."""
    cache = await near_cache()
    await cache.store(None, "ann", User("Ann"))
    await cached_locally(cache, "ann")
    trips, unreadable = cache.stats().round_trips, cache.stats().unreadable
    assert await cache.retrieve(None, "ann", type=User) == User("Ann")
    assert await cache.retrieve(None, "ann", type=int) is None
    assert await cache.retrieve_many(None, ["ann"], type=User) == {"ann": User("Ann")}
    assert cache.stats().round_trips == trips
    assert cache.stats().unreadable == unreadable + 1


async def test_every_caller_gets_an_object_of_its_own(near_cache: OpenNearCache) -> None:
    """Changing a returned object does not change the local entry."""
    cache = await near_cache()
    await cache.store(None, "key", {"list": [1]})
    await cached_locally(cache, "key")
    for _ in range(3):
        found = await cache.retrieve(None, "key")
        assert found == {"list": [1]}
        found["list"].append(2)
        (many,) = (await cache.retrieve_many(None, ["key"])).values()
        assert many == {"list": [1]}
        many.clear()


async def test_retrieve_many_requests_only_local_misses(
    server: Server, proxy: StartProxy, near_cache: OpenNearCache
) -> None:
    """Local entries are not requested; the result has the order of the keys."""
    network = proxy(server)
    cache = await near_cache(network.url, max_size=0)
    keys = [f"key{number}" for number in range(10)]
    await cache.store_many(None, {key: key for key in keys})
    await cached_locally(cache, *keys[::2])
    await cache.store(None, keys[2], "new")
    wanted = ["missing", *keys]
    network.forget()
    hits = cache.stats().near_hits
    found = await cache.retrieve_many(None, wanted)
    assert list(found) == keys
    assert found[keys[2]] == "new"
    (asked,) = [command for command in network.commands if command.name == "MGET"]
    far = ["missing", keys[1], keys[2], *keys[3::2]]
    assert list(asked.arguments) == [f"{PREFIX}{key}".encode() for key in far]
    assert cache.stats().near_hits == hits + 4


async def test_own_changes_are_read_at_once(near_cache: OpenNearCache) -> None:
    """After any awaited change, its caller reads the new value."""
    cache = await near_cache()
    for turn in range(30):
        await cache.store(None, "key", [turn])
        assert await cache.retrieve(None, "key") == [turn]
        await cached_locally(cache, "key")
        await cache.store_many(None, {"key": turn, "other": turn})
        assert await cache.retrieve_many(None, ["key", "other"]) == {"key": turn, "other": turn}
        await cached_locally(cache, "key", "other")
        assert await cache.remove(None, "key") == turn
        assert await cache.retrieve(None, "key") is None
        assert await cache.remove_many(None, ["key", "other"]) == 1
        assert await cache.retrieve(None, "other") is None
        for gone in ({"key": None}, None):
            await cache.store(None, "key", turn)
            await cached_locally(cache, "key")
            if gone is None:
                await cache.store(None, "key", None)
            else:
                await cache.store_many(None, gone)
            assert await cache.retrieve(None, "key") is None
        await cache.store(None, "key", turn)
        await cached_locally(cache, "key")
        assert await cache.clear(None) == 1
        assert await cache.retrieve(None, "key") is None


async def last_given(cache: AsyncRedisCache) -> float:
    """When the last read began that still returned the value."""
    given = 0.0
    while True:
        asked = time.monotonic()
        if await cache.retrieve(None, "key") is None:
            return given
        given = asked


async def test_touch_does_not_extend_a_local_entry(near_cache: OpenNearCache) -> None:
    """A shorter TTL set by touch applies to the local entry, too."""
    cache = await near_cache()
    await cache.store(None, "key", 1, 60_000)
    await cached_locally(cache, "key")
    assert await cache.touch(None, "key", 100)
    touched = time.monotonic()
    assert await last_given(cache) < touched + 0.1 + TICK_SECONDS


async def test_local_entry_expires_while_the_server_is_late(
    private_server: StartServer, near_cache: OpenNearCache
) -> None:
    """A server that does not remove expired keys sends no invalidation: local entries expire by themselves."""
    server = private_server()
    with server.client() as raw:
        raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    cache = await near_cache(server.url, max_size=0)
    stored, hits = 0.0, cache.stats().near_hits
    while (
        cache.stats().near_hits == hits
    ):  # Where the machine stalls for longer than it lives, once more.
        await cache.store(None, "key", 1, 300)
        stored = time.monotonic()
        found: object = 1
        while found is not None and cache.stats().near_hits == hits:
            found = await cache.retrieve(None, "key")
            await asyncio.sleep(0)
    assert await last_given(cache) < stored + 0.3 + TICK_SECONDS
    assert await cache.contains(None, "key") is False


async def test_the_longest_stay(near_cache: OpenNearCache, raw: Client) -> None:
    """`near_cache.timeout` is when the server is asked again, though the value never expires."""
    raw.set(f"{PREFIX}key", b"1")
    cache = await near_cache(near_cache_timeout=100)
    await cached_locally(cache, "key")
    trips = cache.stats().round_trips
    while cache.stats().round_trips == trips:
        assert await cache.retrieve(None, "key") == 1
    assert cache.stats().near_invalidations == 0


async def test_bounds(near_cache: OpenNearCache) -> None:
    """Local entries never exceed the bounds, and keys that are requested again are cached."""
    cache = await near_cache(near_cache_max_size=10, max_size=0)
    values = {f"key{number}": "x" * 100 for number in range(50)}
    await cache.store_many(None, values)
    await cached_locally(cache, "key0")
    for key, value in values.items():
        for _ in range(2):
            assert await cache.retrieve(None, key) == value
            assert cache.stats().near_entries <= 10
    assert cache.stats().near_evictions >= 30
    small = await near_cache(near_cache_max_bytes=5_000, max_size=0)
    assert await small.retrieve_many(None, list(values)) == values
    assert 0 < small.stats().near_bytes <= 5_000


async def test_prefixes_do_not_disturb_each_other(near_cache: OpenNearCache, raw: Client) -> None:
    """Caches of several prefixes in one process: each gets the invalidations of its own keys only."""
    prefixes = ["", "a:", "a:b:", "b:"]
    caches = {prefix: await near_cache(key_prefix=prefix, max_size=0) for prefix in prefixes}
    for prefix, cache in caches.items():
        await cache.store(None, "key", prefix)
    for cache in caches.values():
        await cached_locally(cache, "key")
    for changed in prefixes:
        before = {prefix: cache.stats() for prefix, cache in caches.items()}
        raw.set(f"{changed}key", b'"new"')
        for prefix, cache in caches.items():
            if changed.startswith(prefix):
                told = before[prefix].near_invalidations + 1
                await await_until(lambda c=cache, t=told: c.stats().near_invalidations == t)  # type: ignore[misc]
            else:
                assert cache.stats().near_invalidations == before[prefix].near_invalidations
        await seen(caches[changed], "key", "new")
        await cached_locally(caches[changed], "key")
    assert await caches[""].retrieve(None, "a:b:key") == "new"


async def test_closed_and_opened_again(server: Server, raw: Client, api: Api) -> None:
    """A closed cache holds nothing; opened again it knows what has changed meanwhile."""
    cache = configured(server.url, api, near_cache_enabled=True, key_prefix=PREFIX)
    for turn in range(3):
        async with cache:
            raw.set(f"{PREFIX}key", str(turn))
            await seen(cache, "key", turn)
            await cached_locally(cache, "key")
        stats = cache.stats()
        assert (stats.near_connected, stats.near_entries, stats.near_bytes) == (False, 0, 0)
        raw.set(f"{PREFIX}key", b'"meanwhile"')
        async with cache:
            assert cache.stats().near_connected
            assert await cache.retrieve(None, "key") == "meanwhile"


@pytest.mark.no_leaks
async def test_closed_cache_leaves_no_channel(server: Server, proxy: StartProxy, api: Api) -> None:
    """Neither connection, task nor descriptor, from one close or many."""
    network = proxy(server)
    cache = configured(network.url, api, near_cache_enabled=True)
    for turn in range(1, 4):
        async with cache:
            await cache.store(None, "key", 1)
            await cached_locally(cache, "key")
            assert network.open_now == 2
        await await_until(lambda: network.open_now == 0)
        assert network.opened == 2 * turn


async def test_near_cache_connects_when_the_server_starts_later(
    private_server: StartServer, near_cache: OpenNearCache
) -> None:
    """With `require_connection` false the cache works without local entries at first, and with them once connected."""
    server = private_server()
    server.stop()
    cache = await near_cache(server.url, require_connection=False)
    assert not cache.stats().near_connected
    server.start()
    await cache.store(None, "key", 1)
    assert await cache.retrieve(None, "key") == 1
    await trusted(cache)
    await cached_locally(cache, "key")
    with server.client() as other:
        other.set(f"{PREFIX}key", b"2")
    await seen(cache, "key", 2)
