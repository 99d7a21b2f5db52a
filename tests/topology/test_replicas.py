"""Reads from replicas: what they see, and what happens without a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheConfigError, CacheUnsupported
from harness import Client, Flavour, Server, await_until
from harness.clusters import Cluster
from harness.sentinels import Sentinels
from harness.slots import key_in

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.depends_on()

OPTIONS: dict[str, Any] = {"max_size": 0, "read_from": "replica", "command_timeout": 5_000}


def reads(server: Client) -> int:
    """How many MGETs a server was asked."""
    stats: dict[str, Any] = server.info("commandstats")
    return int(stats.get("cmdstat_mget", {"calls": 0})["calls"])


async def replicated(*replicas: Client, keys: int = 1) -> None:
    """Wait until they have so many together."""
    await await_until(lambda: sum(replica.dbsize() for replica in replicas) == keys)


@pytest.fixture
def sentinels(flavour: Flavour) -> Iterator[Sentinels]:
    with Sentinels(flavour) as sentinels:
        yield sentinels


@pytest.mark.depends_on("server")
async def test_behind_sentinels(sentinels: Sentinels) -> None:
    """A replica serves reads and the master everything else; without a replica the master serves all."""
    (replica,) = sentinels.replicas()
    master, other = sentinels.client(sentinels.master()), sentinels.client(replica)
    async with AsyncRedisCache.from_url(sentinels.uri, **OPTIONS) as cache:
        await cache.store(None, "key", 1)
        await replicated(other)
        before, seen = reads(master), reads(other)
        for _ in range(10):
            assert await cache.retrieve(None, "key") == 1
        assert (reads(master) - before, reads(other) - seen) == (0, 10)
        # What the master alone knows yet is found there.
        other.execute_command("REPLICAOF", "NO", "ONE")
        await cache.store(None, "new", "stored")
        assert await cache.retrieve(None, "new") == "stored"
        expected = {"key": 1, "new": "stored"}
        assert await cache.retrieve_many(None, [*expected, "none"]) == expected
        assert (await cache.retrieve_entry(None, "new")).value == "stored"
        assert await cache.retrieve_or_load(None, "new", lambda: "loaded") == "stored"
        replica.kill()
        assert await cache.retrieve(None, "new") == "stored"
        assert cache.stats().errors == 0


async def test_tags_are_the_masters(sentinels: Sentinels) -> None:
    """An invalidated value is not returned, however far a replica lags behind."""
    (replica,) = sentinels.replicas()
    async with AsyncRedisCache.from_url(sentinels.uri, **OPTIONS) as cache:
        await cache.store(None, "key", 1, tags=("tag",))
        await replicated(sentinels.client(replica), keys=2)
        sentinels.client(replica).execute_command("REPLICAOF", "NO", "ONE")
        await cache.invalidate_tags(None, "tag")
        assert await cache.retrieve(None, "key") is None
        assert await cache.retrieve_many(None, ["key"]) == {}
        assert (await cache.retrieve_entry(None, "key")).status == "missing"


async def test_a_replica_that_hangs(sentinels: Sentinels) -> None:
    """The master answers for it, within the same deadline."""
    (replica,) = sentinels.replicas()
    options: dict[str, Any] = {**OPTIONS, "command_timeout": 1_000}
    async with AsyncRedisCache.from_url(sentinels.uri, **options) as cache:
        await cache.store(None, "key", 1)
        await replicated(sentinels.client(replica))
        replica.freeze()
        assert await cache.retrieve(None, "key") == 1
        assert await cache.retrieve_many(None, ["key"]) == {"key": 1}
        assert cache.stats().errors == 0
        replica.thaw()


async def test_a_slot_that_is_moving(flavour: Flavour) -> None:
    """18. A replica may know nothing of it: what has gone already is no miss."""
    with Cluster(flavour, replicas=1) as cluster:
        source, target = cluster.masters()[:2]
        slot = cluster.slots(source)[0]
        values = {key_in(slot, f":{number}"): number for number in range(20)}
        gone = list(values)[::2]
        async with AsyncRedisCache.from_url(cluster.uri, **OPTIONS) as cache:
            await cache.store_many(None, values)
            (replica,) = (cluster.client(node) for node in cluster.replicas(source))
            await replicated(replica, keys=len(values))
            move = cluster.moving(target, slot)
            move.begin()
            move.take_keys(*gone)
            await replicated(replica, keys=len(values) - len(gone))
            for key, value in values.items():
                assert await cache.retrieve(None, key) == value
            assert await cache.retrieve_many(None, values) == values
            move.take_keys()
            move.end()
            assert await cache.retrieve_many(None, values) == values
            assert cache.stats().errors == 0


@pytest.mark.depends_on("server")
async def test_in_a_cluster(flavour: Flavour) -> None:
    """The replicas of all masters answer; when one is gone, its master does."""
    values = {f"key{number}": number for number in range(60)}
    with Cluster(flavour, replicas=1) as cluster:
        masters, replicas = cluster.nodes[:3], cluster.nodes[3:]
        async with AsyncRedisCache.from_url(cluster.uri, **OPTIONS) as cache:
            await cache.store_many(None, values)
            await replicated(*map(cluster.client, replicas), keys=len(values))
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
    """The master invalidates local entries, which replicas would fill with older values."""
    with pytest.raises(CacheConfigError) as caught:
        AsyncRedisCache.from_url(server.url, read_from="replica", near_cache_enabled=True)
    assert caught.value.code == "BAD_OPTION"


async def test_not_of_a_single_server(server: Server) -> None:
    """A standalone server does not list its replicas."""
    with pytest.raises(CacheUnsupported) as caught:
        await AsyncRedisCache.from_url(server.url, read_from="replica").open("t")
    assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "t")
