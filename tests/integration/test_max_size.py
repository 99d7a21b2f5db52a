"""`options.max_size`: which values are evicted from a full cache, and how the index stays correct."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheServerError
from harness import await_until
from harness.apis import configured, until_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Client, Server

BOUND = 10
PREFIX = "p:"
INDEX = f"{PREFIX}\x00index"


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    """A cache of at most ten values."""
    async with configured(server.url, max_size=BOUND, key_prefix=PREFIX) as opened:
        yield opened


def values(raw: Client) -> set[str]:
    """The keys of the cache's values that have not expired; the index must know them all."""
    keys = {key for key in raw.keys(f"{PREFIX}*") if key != INDEX.encode()}
    assert keys <= set(raw.zrange(INDEX, 0, -1))
    return {key.decode()[len(PREFIX) :] for key in keys}


async def fill(cache: AsyncRedisCache) -> None:
    """Ten values, "0" to "9", that expire in this order."""
    for number in range(BOUND):
        await cache.store(None, str(number), number, 30_000 + 1_000 * number)


async def test_earliest_expiry_is_evicted_first(cache: AsyncRedisCache, raw: Client) -> None:
    """A full cache takes a new value and gives up the one that would expire soonest."""
    await fill(cache)
    await cache.store(None, "new", 1)
    assert values(raw) == {*"123456789", "new"}
    await cache.store_many(None, {"newer": 1, "newest": 2})
    assert values(raw) == {*"3456789", "new", "newer", "newest"}


async def test_new_value_may_be_evicted_first(cache: AsyncRedisCache, raw: Client) -> None:
    """A value that would expire before all others finds no room in a full cache of longer lives."""
    await fill(cache)
    assert await cache.store(None, "brief", 1, 1_000) == 1
    assert values(raw) == set("0123456789")
    assert await cache.retrieve(None, "brief") is None


async def test_expired_values_are_dropped_first(cache: AsyncRedisCache, raw: Client) -> None:
    """Expired values make room before any other value is evicted."""
    await fill(cache)
    await cache.remove_many(None, ["8", "9"])
    await cache.store_many(None, {"brief": 1, "briefer": 2}, 20)
    await until_gone(cache, "brief", "briefer")
    await cache.store_many(None, {"new": 1, "newer": 2}, 1_000)
    assert values(raw) == {*"01234567", "new", "newer"}


async def test_overwriting_needs_no_room(cache: AsyncRedisCache, raw: Client) -> None:
    """Storing a key again replaces its value and its place in the order, without an eviction."""
    await fill(cache)
    await cache.store(None, "0", "again", 90_000)
    assert values(raw) == set("0123456789")
    await cache.store(None, "new", 1, 80_000)
    assert values(raw) == {*"023456789", "new"}
    assert await cache.retrieve(None, "0") == "again"


async def test_removing_makes_room(cache: AsyncRedisCache, raw: Client) -> None:
    """Each way to remove a value takes it out of the index as well."""
    await fill(cache)
    await cache.remove(None, "5")
    await cache.store(None, "6", None)
    await cache.remove_many(None, ["7", "8"])
    await cache.store_many(None, {"9": None})
    assert raw.zcard(INDEX) == 5
    await cache.store_many(None, dict.fromkeys("abcde", 1), 1_000)
    assert values(raw) == set("01234abcde")
    assert await cache.clear(None) == BOUND
    assert raw.zcard(INDEX) == 0


async def test_touching_moves_a_value_back(cache: AsyncRedisCache, raw: Client) -> None:
    """A touched value leaves when its new expiry says, be it later or sooner."""
    await fill(cache)
    assert await cache.touch(None, "0", 90_000)
    assert await cache.touch(None, "9", 10_000)
    await cache.store_many(None, {"new": 1, "newer": 2})
    assert values(raw) == {*"02345678", "new", "newer"}
    assert raw.pexpiretime(INDEX) >= raw.pexpiretime(f"{PREFIX}0")


async def test_touching_a_missing_key_adds_nothing(cache: AsyncRedisCache, raw: Client) -> None:
    """A missing key is not indexed by touching it, and another program's value neither."""
    raw.set(f"{PREFIX}foreign", "1")
    assert await cache.touch(None, "missing") is False
    assert await cache.touch(None, "foreign", 5_000) is True
    assert raw.exists(INDEX) == 0
    assert 0 < raw.pttl(f"{PREFIX}foreign") <= 5_000


async def test_room_for_one(server: Server, raw: Client) -> None:
    """A cache of one value holds the one that expires last of those stored."""
    async with configured(server.url, max_size=1, key_prefix=PREFIX) as cache:
        for key in "abc":
            await cache.store(None, key, key)
            assert values(raw) == {key}
        await cache.store_many(None, {"x": 1, "y": 2})
        assert len(values(raw)) == 1
        await cache.remove(None, values(raw).pop())
        assert values(raw) == set()


@pytest.mark.parametrize("count", [11, 1_000, 12_000])
async def test_more_at_once_than_fit(cache: AsyncRedisCache, raw: Client, count: int) -> None:
    """Store_many of more than max_size leaves max_size of them."""
    await cache.store_many(None, {f"key{number}": number for number in range(count)})
    assert len(values(raw)) == BOUND
    assert raw.zcard(INDEX) == BOUND
    assert cache.stats().stores == count


async def test_a_large_cache_at_once(server: Server, raw: Client) -> None:
    """Ten thousand values stored by one call are all there, indexed, and removed by one call."""
    many = {f"key{number}": number for number in range(10_000)}
    options = {"max_size": 10_000, "key_prefix": PREFIX, "command_timeout": 20_000}
    async with configured(server.url, **options) as cache:
        await cache.store_many(None, many)
        assert len(values(raw)) == raw.zcard(INDEX) == 10_000
        assert await cache.retrieve_many(None, many) == many
        assert await cache.remove_many(None, many) == 10_000
        assert raw.exists(INDEX) == 0


async def test_pipelined_stores_keep_the_bound(cache: AsyncRedisCache, raw: Client) -> None:
    """Stores, removals and touches of many tasks in one pipeline keep the index correct."""
    await fill(cache)
    await asyncio.gather(
        *(cache.store(None, f"new{number}", 1, 50_000) for number in range(40)),
        *(cache.remove(None, str(number)) for number in range(5)),
        *(cache.touch(None, str(number), 90_000) for number in range(5, 10)),
    )
    assert len(values(raw)) <= BOUND
    assert set(raw.zrange(INDEX, 0, -1)) == {f"{PREFIX}{key}".encode() for key in values(raw)}


async def test_the_index_expires_with_the_last_value(cache: AsyncRedisCache, raw: Client) -> None:
    """Nothing remains of a cache that is no longer used."""
    await cache.store_many(None, {"a": 1, "b": 2}, 20)
    await cache.store(None, "c", 3, 60)
    await cache.touch(None, "a", 40)
    await until_gone(cache, "a", "b", "c")
    await await_until(lambda: raw.keys("*") == [])


async def test_two_caches_have_two_bounds(server: Server, raw: Client) -> None:
    """Caches with different prefixes in one database do not push each other's values out."""
    async with (
        configured(server.url, max_size=3, key_prefix="a:") as small,
        configured(server.url, max_size=7, key_prefix="a:b:") as large,
        configured(server.url, max_size=5) as bare,
    ):
        for cache in (small, large, bare):
            await cache.store_many(None, {f"key{number}": number for number in range(30)})
        assert len(raw.keys("key*")) == 5
        assert len(raw.keys("a:key*")) == 3
        assert len(raw.keys("a:b:key*")) == 7


async def test_the_bound_may_be_changed(server: Server, raw: Client) -> None:
    """With a smaller bound the next store evicts down to it; with none, nothing is evicted."""
    for bound, expected in ((10, 10), (4, 4), (7, 5)):
        async with configured(server.url, max_size=bound, key_prefix=PREFIX) as cache:
            await cache.store(None, f"new{bound}", 1, 300_000)
            if bound == 10:
                await fill(cache)
            assert len(values(raw)) == expected
    async with configured(server.url, max_size=0, key_prefix=PREFIX) as cache:
        await cache.store_many(None, {f"key{number}": number for number in range(100)})
        assert len(raw.keys(f"{PREFIX}key*")) == 100


async def test_lost_index_is_rebuilt(cache: AsyncRedisCache, raw: Client) -> None:
    """Without its index the cache works, and keeps the bound for values stored from then on."""
    await fill(cache)
    raw.delete(INDEX)
    await cache.store_many(None, dict.fromkeys("abcdefghijkl", 1))
    assert raw.zcard(INDEX) == BOUND
    assert await cache.remove(None, "3") == 3
    assert await cache.touch(None, "4") is True
    assert await cache.retrieve(None, "5") == 5


async def test_values_removed_by_others(cache: AsyncRedisCache, raw: Client) -> None:
    """What another program deletes counts until it would have expired: fewer values, never more."""
    await fill(cache)
    raw.delete(*(f"{PREFIX}{number}" for number in range(5, 10)))
    await cache.store_many(None, dict.fromkeys("abcde", 1), 300_000)
    assert values_without_index(raw) == set("abcde")
    await cache.store_many(None, dict.fromkeys("fghijk", 1), 300_000)
    assert len(values_without_index(raw)) == BOUND


def values_without_index(raw: Client) -> set[str]:
    """The keys of the cache's values, whatever the index says."""
    return {key.decode()[len(PREFIX) :] for key in raw.keys(f"{PREFIX}?")}


async def test_an_index_of_wrong_type(cache: AsyncRedisCache, raw: Client) -> None:
    """A value of another program in its place: changes fail and change nothing; reads succeed."""
    await fill(cache)
    raw.set(INDEX, "not an index")
    calls: list[Any] = [
        lambda: cache.store("t", "new", 1),
        lambda: cache.store_many("t", {"new": 1, "0": 2}),
        lambda: cache.remove("t", "0"),
        lambda: cache.remove_many("t", ["0", "1"]),
        lambda: cache.touch("t", "0", 90_000),
    ]
    for call in calls:
        with pytest.raises(CacheServerError) as caught:
            await call()
        assert (caught.value.code, caught.value.trace_id) == ("WRONGTYPE", "t")
    assert values_without_index(raw) == set("0123456789")
    assert await cache.retrieve(None, "0") == 0
    assert raw.pttl(f"{PREFIX}0") <= 30_000
