"""Evictions by `options.max_size` are counted, and logged once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from async_redis_cache._protocol.command import UnexpectedReplyError
from async_redis_cache._protocol.size_limit import BoundedStore
from harness.apis import Api, configured

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache
    from harness import Client, Server
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures", "near_fixtures"]

BOUND = 10


def bounded(server: Server, api: Api) -> AsyncRedisCache:
    return configured(server.url, api, max_size=BOUND, key_prefix="p:")


async def test_store_counts_evictions(server: Server, api: Api, logged: LogRecorder) -> None:
    """Each value evicted by a store is counted; the first eviction is logged, and no other."""
    async with bounded(server, api) as cache:
        await cache.store_many(None, {str(number): number for number in range(BOUND)})
        await cache.store(None, "0", "again")
        assert (cache.stats().evictions, logged.events) == (0, [])
        for number in range(3):
            await cache.store(None, f"more{number}", number)
        await cache.store_many(None, {f"many{number}": number for number in range(4)})
        assert cache.stats().evictions == 7
    assert logged.events == ["evictions_started"]
    (record,) = logged.records
    assert (record.levelname, record.__dict__["cache_name"]) == ("WARNING", "p:")
    assert "options.max_size is reached" in record.getMessage()


async def test_load_counts_evictions(server: Server, api: Api, logged: LogRecorder) -> None:
    """A load that is published evicts too."""
    async with bounded(server, api) as cache:
        await cache.store_many(None, {str(number): number for number in range(BOUND)})
        for number in range(3):
            assert await cache.retrieve_or_load(None, f"loaded{number}", lambda: 1) == 1
        assert cache.stats().evictions == 3
    assert logged.events == ["evictions_started"]


async def test_merged_stores_count_each_eviction_once(server: Server) -> None:
    """Stores that share a script count what it evicted once, not once for each of them."""
    async with configured(server.url, max_size=BOUND, key_prefix="p:") as cache:
        await asyncio.gather(*(cache.store(None, str(number), 1) for number in range(5 * BOUND)))
        assert cache.stats().evictions == 4 * BOUND


async def test_expired_values_are_no_evictions(
    server: Server, raw: Client, logged: LogRecorder
) -> None:
    """What expired, or was removed by others, made room by itself."""
    async with configured(server.url, max_size=BOUND, key_prefix="p:") as cache:
        await cache.store_many(None, {str(number): number for number in range(BOUND)})
        raw.unlink(*(f"p:{number}" for number in range(BOUND)))
        await cache.store_many(None, {f"more{number}": number for number in range(BOUND)})
        assert cache.stats().evictions == 0
    assert logged.events == []


@pytest.mark.parametrize("reply", [None, b"1", -1, True, [1]])
def test_store_refuses_reply_that_is_no_count(reply: object) -> None:
    """A reply that cannot be a count of evictions is not one to this script."""
    counts: list[int] = []
    with pytest.raises(UnexpectedReplyError):
        BoundedStore(b"index", BOUND, counts.append).parse_replies([()], [reply])
    assert counts == []
