"""`retrieve_entry`: fresh, near, missing or damaged, with age and TTL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheEntry, CacheTimeout
from harness import Client, Server, StartProxy, await_until
from harness.apis import configured
from harness.loading import PREFIX
from harness.loop_lag import GRACE_SECONDS, Guard

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")


async def test_entries(one: AsyncRedisCache, other: AsyncRedisCache) -> None:
    """Status, age and TTL of loaded and of stored values."""
    entry = await one.retrieve_or_load_entry(None, "key", lambda: "a", 60_000)
    assert entry == CacheEntry("a", "loaded", 0, 60_000)
    for find in (
        other.retrieve_entry(None, "key"),
        other.retrieve_or_load_entry(None, "key", lambda: "b"),
    ):
        entry = await find
        assert (entry.value, entry.status in {"hit", "near"}) == ("a", True)
        assert entry.age is not None
        assert entry.remaining is not None
        assert 0 <= entry.age < 10_000
        assert entry.age + entry.remaining == 60_000
    await one.store(None, "plain", 1, 60_000)
    plain = await one.retrieve_entry(None, "plain")
    assert (plain.value, plain.age) == (1, None)
    assert plain.remaining is not None
    assert 50_000 < plain.remaining <= 60_000
    nothing = CacheEntry[str](None, "missing", None, None)
    assert await one.retrieve_entry(None, "nothing") == nothing
    assert await one.touch(None, "key", 90_000) is True
    left = await other.time_to_live(None, "key")
    assert left is not None
    assert 80_000 < left <= 90_000


async def test_reading_an_entry_does_not_load_it(server: Server) -> None:
    """`retrieve_entry` begins no load, however the cache is configured, and changes nothing."""
    options = {"key_prefix": PREFIX, "loading_refresh_at": 0.001, "loading_stale_timeout": 60_000}
    async with configured(server.url, **options) as cache:
        await cache.retrieve_or_load(None, "key", lambda: 1, 400)
        async with asyncio.timeout(60):
            while (entry := await cache.retrieve_entry(None, "key")).status == "hit":
                assert entry.value == 1
                await asyncio.sleep(0.01)
        assert entry == CacheEntry(None, "missing", None, None)
        assert await cache.retrieve_or_load(None, "key", lambda: 2, 400) == 1
        await await_until(lambda: cache.stats().refreshes == 1)
        assert cache.stats().unreadable == 0


async def test_reading_an_entry_keeps_the_deadline(server: Server, proxy: StartProxy) -> None:
    """To read a value and to ask how long it stays is one call, with one deadline."""
    network = proxy(server)
    options = {"key_prefix": PREFIX, "command_timeout": 200, "retries": 0}
    # Stored by a cache with the default deadlines: on a busy machine, a short one may end the store.
    async with configured(server.url, key_prefix=PREFIX) as setting_up:
        await setting_up.store(None, "key", 1)
    async with configured(network.url, **options) as cache:
        network.delay(0.150, direction="to_client")
        # Two replies take longer than the deadline, each of them less.
        guard = Guard(0.2 + GRACE_SECONDS)
        with pytest.raises(CacheTimeout):
            await cache.retrieve_entry(None, "key")
        assert not guard.fired
        guard.cancel()


async def test_entry_says_whether_it_is_near(server: Server) -> None:
    """An entry that this process held says so."""
    async with configured(server.url, key_prefix=PREFIX, near_cache_enabled=True) as cache:
        await cache.retrieve_or_load(None, "key", lambda: 1, 60_000)
        while (entry := await cache.retrieve_entry(None, "key")).status != "near":
            assert entry.status == "hit"
            await asyncio.sleep(0.005)
        assert entry.value == 1


async def test_missing_is_remembered(one: AsyncRedisCache, other: AsyncRedisCache) -> None:
    """That there is none is known for so long; a value that is stored is seen at once."""
    loads = 0

    def none() -> Any:
        nonlocal loads
        loads += 1

    for each in (one, other, one):
        entry = await each.retrieve_or_load_entry(None, "key", none, missing_timeout=60_000)
        assert (entry.value, entry.status) == (None, "missing")
        assert entry.remaining is not None
        assert 0 < entry.remaining <= 60_000
    assert loads == 1
    assert (await other.retrieve_entry(None, "key")).status == "missing"
    assert await other.retrieve(None, "key") is None
    assert await other.contains(None, "key") is False
    assert await other.time_to_live(None, "key") is None
    assert await other.touch(None, "key", 60_000) is False
    await other.store(None, "key", 1)
    assert await one.retrieve_or_load(None, "key", none, missing_timeout=60_000) == 1
    assert loads == 1
    async with asyncio.timeout(60):
        while loads < 3:
            assert await one.retrieve_or_load(None, "brief", none, missing_timeout=100) is None


@pytest.mark.parametrize("damaged", [b"\xc1\x02", b"\xc1\x02v", b"\xc1\x02x" + bytes(99)])
async def test_a_damaged_record_is_no_value(
    one: AsyncRedisCache, raw: Client, damaged: bytes
) -> None:
    """It is not returned but counted, and a load replaces it."""
    raw.set(f"{PREFIX}key", damaged)
    assert await one.retrieve(None, "key") is None
    assert one.stats().unreadable >= 1
    assert await one.contains(None, "key") is False
    assert await one.time_to_live(None, "key") is None
    unreadable = one.stats().unreadable
    assert await one.retrieve_or_load(None, "key", lambda: 1) == 1
    assert one.stats().unreadable > unreadable
    assert await one.retrieve(None, "key") == 1
