"""Reads that a replica may answer: what is seen, what is not yet, and what when there is none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheConfigError, CacheUnsupported
from harness import Client, Flavour, Server
from harness.clusters import Cluster
from harness.sentinels import Sentinels

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS: dict[str, Any] = {"max_size": 0, "read_from": "replica", "command_timeout": 5_000}


def reads(server: Client) -> int:
    """How many MGETs a server was asked."""
    stats: dict[str, Any] = server.info("commandstats")
    return int(stats.get("cmdstat_mget", {"calls": 0})["calls"])


async def replicated(cache: AsyncRedisCache, expected: dict[str, Any]) -> None:
    """Wait until the replicas have these values."""
    async with asyncio.timeout(10):
        while True:
            if await cache.retrieve_many(None, expected) == expected:
                return
            await asyncio.sleep(0.005)


@pytest.fixture
def sentinels(flavour: Flavour) -> Iterator[Sentinels]:
    with Sentinels(flavour) as sentinels:
        yield sentinels


async def test_behind_sentinels(sentinels: Sentinels) -> None:
    """A replica answers reads and the master the rest; without a replica the master answers all."""
    (replica,) = sentinels.replicas()
    master, other = sentinels.client(sentinels.master()), sentinels.client(replica)
    async with AsyncRedisCache.from_url(sentinels.uri, **OPTIONS) as cache:
        await cache.store(None, "key", 1)
        await replicated(cache, {"key": 1})
        before, seen = reads(master), reads(other)
        for _ in range(10):
            assert await cache.retrieve(None, "key") == 1
        assert (reads(master) - before, reads(other) - seen) == (0, 10)
        # What the master alone knows yet is loaded once all the same.
        other.execute_command("REPLICAOF", "NO", "ONE")
        await cache.store(None, "new", "stored")
        assert await cache.retrieve(None, "new") is None
        assert await cache.retrieve_or_load(None, "new", lambda: "loaded") == "stored"
        replica.kill()
        assert await cache.retrieve(None, "new") == "stored"
        assert cache.stats().errors == 0


async def test_in_a_cluster(flavour: Flavour) -> None:
    """The replicas of all masters answer; when one is gone, its master does."""
    values = {f"key{number}": number for number in range(60)}
    with Cluster(flavour, replicas=1) as cluster:
        masters, replicas = cluster.nodes[:3], cluster.nodes[3:]
        async with AsyncRedisCache.from_url(cluster.uri, **OPTIONS) as cache:
            await cache.store_many(None, values)
            await replicated(cache, values)
            before = sum(reads(cluster.client(node)) for node in masters)
            seen = [reads(cluster.client(node)) for node in replicas]
            assert await cache.retrieve_many(None, values) == values
            assert sum(reads(cluster.client(node)) for node in masters) == before
            asked = [
                reads(cluster.client(node)) - then
                for node, then in zip(replicas, seen, strict=True)
            ]
            assert sum(asked) == len(values)
            assert all(asked)
            replicas[0].kill()
            assert await cache.retrieve_many(None, values) == values
            assert cache.stats().errors == 0


async def test_not_with_what_is_near(server: Server) -> None:
    """What is near is kept by what the master tells, and would be filled with what is older."""
    with pytest.raises(CacheConfigError) as caught:
        AsyncRedisCache.from_url(server.url, read_from="replica", near_cache_enabled=True)
    assert caught.value.code == "BAD_OPTION"


async def test_not_of_a_single_server(server: Server) -> None:
    """Nobody says which its replicas are."""
    with pytest.raises(CacheUnsupported) as caught:
        await AsyncRedisCache.from_url(server.url, read_from="replica").open("t")
    assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "t")
