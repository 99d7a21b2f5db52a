"""Log records of sentinels and clusters: lost connections and new masters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import await_until
from harness.clusters import Cluster
from harness.sentinels import Sentinels

if TYPE_CHECKING:
    from harness import Flavour, Server
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures"]
pytestmark = pytest.mark.depends_on()


def name_of(server: Server) -> str:
    """What the log calls it."""
    return f"{server.host}:{server.port}"


async def test_failover_is_logged_once(flavour: Flavour, logged: LogRecorder) -> None:
    """The master dies and another takes over: one record names it; nothing is logged twice."""
    with Sentinels(flavour, down_after=500) as sentinels:
        async with AsyncRedisCache.from_url(sentinels.uri, command_timeout=3_000) as cache:
            await cache.store(None, "key", 1)
            assert logged.events == []
            old = await asyncio.to_thread(sentinels.kill_master)
            await await_until(lambda: logged.count("master_changed"))
            async with asyncio.timeout(60):
                while True:
                    try:
                        await cache.store(None, "key", 2)
                        break
                    except CacheError:
                        continue
            new = await asyncio.to_thread(sentinels.new_master, old)
        moves = [r for r in logged.records if r.__dict__["cache_event"] == "master_changed"]
    assert [(r.levelname, r.__dict__["cache_server"]) for r in moves] == [("WARNING", name_of(new))]
    assert logged.count("server_down") == logged.count("server_up") <= 1


async def test_lost_sentinel_is_logged(flavour: Flavour, logged: LogRecorder) -> None:
    """A sentinel dies: one record names it, and another says that it is back."""
    with Sentinels(flavour) as sentinels:
        async with AsyncRedisCache.from_url(sentinels.uri) as cache:
            await cache.store(None, "key", 1)
            gone = sentinels.sentinels[1]
            gone.kill()
            await await_until(lambda: logged.count("sentinel_down"))
            gone.start()
            await await_until(lambda: logged.count("sentinel_up"))
    assert logged.events == ["sentinel_down", "sentinel_up"]
    assert {r.__dict__["cache_server"] for r in logged.records} == {name_of(gone)}


@pytest.mark.parametrize("near", [False, True])
async def test_node_of_a_cluster_is_logged_by_address(
    flavour: Flavour, logged: LogRecorder, *, near: bool
) -> None:
    """A node dies and its replica takes over: the one that is lost is named, and the new master; that is all."""
    with Cluster(flavour, replicas=1, node_timeout=1_000) as cluster:
        options: dict[str, Any] = {"max_size": 0, "key_prefix": "c:", "near_cache_enabled": near}
        # A busy machine must not be taken for nodes that are lost.
        patience: dict[str, Any] = {"command_timeout": 2_000, "near_cache_heartbeat": 10_000}
        async with AsyncRedisCache.from_url(cluster.uri, **patience, **options) as cache:
            old = cluster.node_of("c:key")
            await cache.store(None, "key", 1)
            assert logged.events == []
            await asyncio.to_thread(old.kill)
            async with asyncio.timeout(60):
                while logged.count("master_changed") == 0:
                    try:
                        await cache.store(None, "key", 2)
                    except CacheError:
                        continue
            new = await asyncio.to_thread(cluster.new_master, "c:key", old)
    places = {
        event: [
            r.__dict__["cache_server"] for r in logged.records if r.__dict__["cache_event"] == event
        ]
        for event in (
            "server_down",
            "invalidation_channel_down",
            "master_changed",
            "node_removed",
            "server_up",
        )
    }
    assert places == {
        "server_down": [name_of(old)],
        "invalidation_channel_down": [name_of(old)] if near else [],
        "master_changed": [name_of(new)],
        "node_removed": [name_of(old)],
        "server_up": [],
    }
