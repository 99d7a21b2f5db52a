"""Caches with `any_loop=True` behind Sentinel and on a cluster, awaited from event loops that come and go."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness.clusters import Cluster
from harness.sentinels import Sentinels
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness import Flavour

pytestmark = pytest.mark.depends_on("server")

THREADS = 4


class Jobs:
    """Threads that run jobs without pause, each on an event loop of its own."""

    def __init__(self, cache: AsyncRedisCache) -> None:
        self._cache = cache
        self.served = [0] * THREADS
        """By thread, the jobs that succeeded."""
        self.wrong: list[object] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self) -> None:
        """Wait until each thread has succeeded ten times more."""
        enough = [count + 10 for count in self.served]
        wait_until(lambda: all(map(int.__ge__, self.served, enough)))

    def _run(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            try:
                asyncio.run(self._job(number, turn))
            except CacheError:
                continue
            except Exception as error:  # noqa: BLE001  the test reports it
                self.wrong.append(error)
            else:
                self.served[number] += 1

    async def _job(self, number: int, turn: int) -> None:
        cache, keys = self._cache, [f"{number}-{key}" for key in range(20)]

        async def load(missing: list[str]) -> dict[str, int]:
            await asyncio.sleep(0)
            return dict.fromkeys(missing, turn)

        await cache.store_many(None, dict.fromkeys(keys, turn), tags=(f"tag{number}",))
        found = await cache.retrieve_many(None, keys)
        # A replica that was promoted may have missed the last values.
        if set(found.values()) - {turn}:
            self.wrong.append((turn, found))
        await cache.invalidate_tags(None, f"tag{number}")
        loaded = await cache.retrieve_or_load_many(None, keys, load)
        if loaded != dict.fromkeys(keys, turn):
            self.wrong.append((turn, loaded))


def opened(url: str, **options: Any) -> AsyncRedisCache:
    cache = AsyncRedisCache.from_url(
        url, any_loop=True, key_prefix="any:", near_cache_enabled=True, **options
    )
    asyncio.run(cache.open(None))
    return cache


def test_failover_of_sentinels(flavour: Flavour) -> None:
    """Jobs succeed again after the master was killed; no value is wrong, local entries included."""
    with Sentinels(flavour, down_after=500) as sentinels:
        cache = opened(sentinels.uri)
        with Jobs(cache) as jobs:
            jobs.more()
            sentinels.new_master(sentinels.kill_master())
            jobs.more()
        asyncio.run(cache.close(None))
    assert jobs.wrong == []


def test_cluster(flavour: Flavour) -> None:
    """Jobs use the keys of all nodes, also while slots move from one node to another."""
    with Cluster(flavour) as cluster:
        cache = opened(cluster.uri)
        with Jobs(cache) as jobs:
            jobs.more()
            source, target, *_ = cluster.masters()
            cluster.move(cluster.slots(source)[:200], target)
            jobs.more()
        stats = cache.stats()
        asyncio.run(cache.close(None))
    assert jobs.wrong == []
    assert stats.connects >= len(cluster.nodes)
