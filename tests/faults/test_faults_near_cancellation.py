"""Callers that are cancelled while a near cache is on: no request stays open, and nothing stale is kept."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Client, Server, StartProxy, await_until
from harness.figures import report
from harness.near import all_news_is_in, link_through, near_of, near_options, stale_entries
from harness.run_length import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

pytestmark = pytest.mark.depends_on()

CANCELLATIONS = scaled(5_000, 50_000)
CALLERS = 50
KEYS = [f"key{number}" for number in range(200)]


@pytest.fixture
async def cache(
    server: Server, proxy: StartProxy, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AsyncRedisCache]:
    """A cache whose replies are randomly delayed, so that there is time to cancel."""
    link_through(server.port, monkeypatch)
    network = proxy(server)
    options = near_options(key_prefix, near_cache_heartbeat=10_000)
    async with AsyncRedisCache.from_url(network.url, **options) as cache:
        network.delay(0, jitter=0.004, direction="to_client")
        yield cache


class Caller:
    """Asks and writes, leaves at any moment, often twice, and stays now and then."""

    def __init__(self, cache: AsyncRedisCache, seed: int) -> None:
        self.left = 0
        self.stayed = 0
        self._cache = cache
        self._chance = Random(seed)
        self._written = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.left < CANCELLATIONS / CALLERS:
            work = loop.create_task(self._any_work())
            moments = [0.0, *(self._chance.uniform(0, 0.008) for _ in range(2))]
            leaving = [
                loop.call_later(moment, work.cancel)
                for moment in self._chance.sample(moments, self._chance.randrange(3))
            ]
            await asyncio.wait([work])
            for handle in leaving:
                handle.cancel()
            self.left += work.cancelled()
            self.stayed += not work.cancelled()

    def _any_work(self) -> Coroutine[object, object, object]:
        self._written += 1
        key, *keys = self._chance.sample(KEYS, 8)
        kind = self._chance.random()
        if kind < 0.4:
            return self._cache.retrieve(None, key)
        if kind < 0.6:
            return self._cache.retrieve_many(None, keys)
        if kind < 0.8:
            return self._cache.store(None, key, self._written)
        if kind < 0.9:
            return self._cache.store_many(None, dict.fromkeys(keys, self._written))
        return self._cache.remove(None, key)


async def test_cancelled_read_leaves_no_pending_fill(
    cache: AsyncRedisCache, raw: Client, key_prefix: str
) -> None:
    """1. Thousands of readers and writers are cancelled at random: no pending fill remains, no stale entry.

    Meanwhile another program writes the same keys.
    """
    callers = [Caller(cache, seed) for seed in range(CALLERS)]
    chance = Random(1)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(caller.run()) for caller in callers]
        while not all(task.done() for task in running):
            raw.set(key_prefix + chance.choice(KEYS), str(chance.random()))
            await asyncio.sleep(0.002)
    # What was sent before its caller left may be executed yet.
    await await_until(lambda: "<Batcher 0 waiting, 0 in flight>" in repr(cache))
    await all_news_is_in(cache, raw, key_prefix)
    stats = cache.stats()
    report(
        1,
        f"{sum(caller.left for caller in callers):,} cancelled, "
        f"{sum(caller.stayed for caller in callers):,} not cancelled, "
        f"{stats.near_hits:,} near hits, {stats.near_entries} local entries at the end",
    )
    assert near_of(cache)._pending_fills == {}
    assert stale_entries(cache, raw) == []
    assert stats.near_hits > 0
    assert sum(caller.stayed for caller in callers) > 0

    # Every key can be held again: nobody holds the right to keep its answer and is gone.
    await cache.retrieve_many(None, KEYS)
    hits = cache.stats().near_hits
    found = await cache.retrieve_many(None, KEYS)
    assert cache.stats().near_hits - hits == len(found)
