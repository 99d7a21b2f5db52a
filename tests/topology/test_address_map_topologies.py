"""Clusters and Sentinels that announce addresses which cannot be reached from here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheUnavailable
from harness.clusters import Cluster
from harness.near import trusted
from harness.sentinels import Sentinels
from harness.slots import key_in
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from harness import Flavour, StartProxy

ANNOUNCED = "127.0.0.2"
OPTIONS: dict[str, Any] = {"max_size": 0, "near_cache_enabled": True, "command_timeout": 5_000}


@pytest.fixture(scope="module")
def hidden(flavour: Flavour) -> Iterator[Cluster]:
    """Three masters that announce the ports 1 to 3 of another address, where no server listens."""
    # The nodes reach each other there: the port of the cluster bus is announced as it is.
    with Cluster(flavour, config={"bind": f"127.0.0.1 {ANNOUNCED}"}) as cluster:
        for number, node in enumerate(cluster.nodes, 1):
            config = cluster.client(node).config_set
            config("cluster-announce-ip", ANNOUNCED)
            config("cluster-announce-port", number)
        expected = {(ANNOUNCED.encode(), number) for number in (1, 2, 3)}
        wait_until(lambda: all(announced_by(cluster, node) == expected for node in cluster.nodes))
        yield cluster


def announced_by(cluster: Cluster, node: Any) -> set[tuple[bytes, int]]:
    """The addresses of the masters, according to this node."""
    slots = cluster.client(node).execute_command("CLUSTER", "SLOTS")
    return {(master[0], master[1]) for _, _, master, *_ in slots}


def address_map(cluster: Cluster) -> dict[str, str]:
    """The announced addresses of the nodes, and where they can be reached."""
    return {
        f"{ANNOUNCED}:{number}": f"localhost:{node.port}"
        for number, node in enumerate(cluster.nodes, 1)
    }


async def test_mapped_cluster_is_used_like_any_other(hidden: Cluster) -> None:
    """Slots, MOVED, ASK and invalidation channels lead to the mapped addresses, which are always allowed."""
    options: dict[str, Any] = OPTIONS | {"address_map": address_map(hidden)}
    options |= {"allowed_hosts": "10.0.0.0/8"}
    source, target = hidden.masters()[:2]
    moved, moving = hidden.slots(source)[:2]
    prefix = {slot: key_in(slot) for slot in (moved, moving)}
    async with AsyncRedisCache.from_url(hidden.uri, **options) as cache:
        await trusted(cache)
        values = {f"key{number}": number for number in range(100)}
        await cache.store_many(None, values, 60_000)
        assert await cache.retrieve_many(None, values) == values
        await asyncio.to_thread(hidden.move, [moved], target)
        assert await cache.store(None, f"{prefix[moved]}1", "moved") == "moved"
        move = hidden.moving(target, moving)
        await asyncio.to_thread(move.begin)
        assert await cache.store(None, f"{prefix[moving]}1", "asked") == "asked"
        assert await cache.remove(None, f"{prefix[moving]}1") == "asked"
        await asyncio.to_thread(move.take_keys)
        await asyncio.to_thread(move.end)
        assert await cache.retrieve(None, f"{prefix[moved]}1") == "moved"
        await trusted(cache)


async def test_error_names_the_announced_address_and_the_mapped_one(hidden: Cluster) -> None:
    """Without a map the announced address is tried; with a wrong one the message names the option."""
    async with AsyncRedisCache.from_url(hidden.uri, max_size=0, retries=0) as cache:
        with pytest.raises(CacheUnavailable, match=rf"connect to {ANNOUNCED}:\d: conn"):
            await cache.retrieve(None, "key")
    wrong = {ANNOUNCED: "localhost"}
    async with AsyncRedisCache.from_url(
        hidden.uri, max_size=0, retries=0, address_map=wrong
    ) as cache:
        with pytest.raises(
            CacheUnavailable, match=rf"{ANNOUNCED}:(\d) at localhost:\1 \(options.address_map\): "
        ):
            await cache.retrieve(None, "key")


async def test_master_named_by_sentinels_is_reached_at_its_mapped_address(
    flavour: Flavour, proxy: StartProxy
) -> None:
    """Before and after a failover, each master is connected to through the proxy that the map names."""
    with Sentinels(flavour) as sentinels:
        ways = {node: proxy(node) for node in sentinels.nodes}
        mapped = {f"127.0.0.1:{node.port}": f"localhost:{way.port}" for node, way in ways.items()}
        options: dict[str, Any] = OPTIONS | {"address_map": mapped, "connect_timeout": 10_000}
        async with AsyncRedisCache.from_url(sentinels.uri, **options) as cache:
            first = sentinels.master()
            await cache.store(None, "key", 1)
            assert ways[first].opened > 0
            second = await asyncio.to_thread(sentinels.fail_over)
            await await_until(lambda: ways[second].opened > 0)
            await cache.store(None, "key", 2)
            assert sentinels.client(second).exists("key")
