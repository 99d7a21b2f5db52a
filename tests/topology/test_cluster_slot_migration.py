"""Slots that migrate, and a node that hangs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from async_redis_cache import AsyncRedisCache, CacheError, CacheTimeout
from async_redis_cache._client.cluster import Cluster as Client
from harness import await_until
from harness.clusters import Cluster
from harness.loop_lag import Guard
from harness.near import near_of, trusted
from harness.slots import key_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from async_redis_cache._protocol.command import Executor
    from harness import Flavour, Server

pytest_plugins = ["cluster_fixtures"]

OPTIONS: dict[str, Any] = {"max_size": 0, "command_timeout": 10_000}


class After:
    """Asks a server when something has been done first."""

    def __init__(self, asker: Executor, act: Callable[[], object]) -> None:
        self._asker = asker
        self._act = act
        self.max_keys_per_request = asker.max_keys_per_request

    def execute(self, *arguments: Any, **options: Any) -> asyncio.Future[Any]:
        """See `Batcher.ask`."""
        self._act()
        return self._asker.execute(*arguments, **options)


@pytest.mark.not_with("watched", reason="it moves slots in the midst of a call, and blocks for it")
async def test_clear_removes_migrated_keys(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that move from a node that is scanned last to one that has been scanned are removed too."""
    first, *_, last = cluster.masters()
    slot = cluster.slots(last)[0]
    keys = [f"p:{key_in(slot, f':{number}')}" for number in range(20)]
    askers_of: Any = vars(Client)["executors"].fget

    def move() -> None:
        if cluster.node_of(keys[0]) is last:
            cluster.move([slot], first)

    def with_a_move(self: Client) -> Sequence[Executor]:
        *before, scanned_last = askers_of(self)
        return [*before, After(scanned_last, move)]

    async with AsyncRedisCache.from_url(cluster.uri, key_prefix="p:", **OPTIONS) as cache:
        for key in keys:
            cluster.client(last).set(key, "1")
        monkeypatch.setattr(Client, "executors", property(with_a_move))
        assert await cache.clear(None) == len(keys)
    assert cluster.node_of(keys[0]) is first
    assert [cluster.client(node).dbsize() for node in cluster.masters()] == [0, 0, 0]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_keys_migrated_together_follow_one_redirection(
    cluster: Cluster, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Several redirections in one turn refresh the slot map once: each call succeeds."""
    source, target = cluster.masters()[:2]
    slot = cluster.slots(source)[0]
    values = {key_in(slot, f":{number}"): number for number in range(20)}

    async def move_and_read() -> None:
        async with AsyncRedisCache.from_url(cluster.uri, **OPTIONS) as cache:
            await cache.store_many(None, values)
            for place in (target, source):
                cluster.move([slot], place)
                # As long as there is between two looks: now there is nothing to wait for.
                await asyncio.sleep(0.15)
                async with asyncio.timeout(60):
                    assert await cache.retrieve_many(None, [*values]) == values

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(move_and_read())


@pytest.mark.parametrize("retries", [0, 3])
async def test_multi_key_call_during_migration_succeeds(cluster: Cluster, retries: int) -> None:
    """TRYAGAIN: a store that needs the index waits until the slot has moved, by its deadline."""
    source, target = cluster.masters()[:2]
    slot = cluster.slots(source)[0]
    options: dict[str, Any] = {
        "key_prefix": f"{key_in(slot)}:",
        "max_size": 1_000,
        "retries": retries,
    }
    refused = refusals(cluster, target)
    async with AsyncRedisCache.from_url(cluster.uri, command_timeout=20_000, **options) as cache:
        await cache.store(None, "before", 1)
        move = cluster.moving(target, slot)
        move.begin()
        move.take_keys(f"{key_in(slot)}:\0index")
        # As good as moved: the index is there, and a new key neither here nor there.
        storing = asyncio.create_task(cache.store(None, "new", 2))
        await await_until(lambda: refusals(cluster, target) > refused + 6)
        assert not storing.done()
        impatient = AsyncRedisCache.from_url(cluster.uri, command_timeout=500, **options)
        async with impatient:
            began, guard = time.monotonic(), Guard(1.0)
            with pytest.raises(CacheError) as caught:
                await impatient.store(None, "never", 3)
            # The last try may be under way when the time is up.
            assert caught.value.code in {"TRYAGAIN", "OUTCOME_UNKNOWN", "TIMEOUT"}
            assert time.monotonic() - began > 0.4
            assert not guard.fired
            guard.cancel()
        move.take_keys()
        move.end()
        assert await storing == 2
        assert await cache.retrieve_many(None, ["before", "new"]) == {"before": 1, "new": 2}


def refusals(cluster: Cluster, node: Server) -> int:
    """How often a node has said that it has not all of the keys yet."""
    stats: Any = cluster.client(node).info("errorstats")
    return int(stats.get("errorstat_TRYAGAIN", {"count": 0})["count"])


async def test_hanging_master_does_not_block_others(flavour: Flavour) -> None:
    """18. When calls to a node end in TIMEOUT, the topology is refreshed from the other nodes."""
    with Cluster(flavour) as cluster:
        silent, other = cluster.masters()[:2]
        key = key_in(cluster.slots(silent)[0])
        options: dict[str, Any] = {"max_size": 0, "command_timeout": 1_000}
        async with AsyncRedisCache.from_url(cluster.uri, **options) as cache:
            await cache.store(None, key, 1)
            asked = questions(cluster, other)
            silent.freeze()
            with pytest.raises(CacheTimeout):
                await cache.retrieve(None, key)
            # Unasked, that would be done after ten seconds.
            await await_until(lambda: questions(cluster, other) > asked)
            silent.thaw()


def questions(cluster: Cluster, node: Server) -> int:
    """How often a node was asked for the slot map."""
    stats: Any = cluster.client(node).info("commandstats")
    return int(stats["cmdstat_cluster|slots"]["calls"])


async def test_local_entries_of_a_new_node_are_invalidated(flavour: Flavour) -> None:
    """18. A new node owns only a moving slot, so no other node lists it: values read there are not kept locally yet."""
    with Cluster(flavour, spares=1) as cluster:
        joined = cluster.nodes[-1]
        slot = cluster.slots(cluster.masters()[0])[0]
        key = key_in(slot)
        async with AsyncRedisCache.from_url(
            cluster.uri, near_cache_enabled=True, near_cache_heartbeat=100, **OPTIONS
        ) as cache:
            await trusted(cache)
            await cache.store(None, key, "one", 600_000)
            while key.encode() not in near_of(cache)._entries:
                assert await cache.retrieve(None, key) == "one"
            move = cluster.moving(joined, slot)
            move.begin()
            move.take_keys(key)
            # The move itself is news, so it is asked for there.
            await await_until(lambda: key.encode() not in near_of(cache)._entries)
            for _ in range(20):
                assert await cache.retrieve(None, key) == "one"
            # Nor do those who are asked whose the slots are.
            servers: Any = cache._lifecycle.ready().engine._servers
            await servers.moves(asyncio.get_running_loop().time() + 5)
            for _ in range(20):
                assert await cache.retrieve(None, key) == "one"
            cluster.tell(joined, ("ASKING",), ("SET", key, '"two"'))
            await await_until(lambda: key.encode() not in near_of(cache)._entries)
            assert await cache.retrieve(None, key) == "two"
            move.end()
            await trusted(cache)
            while key.encode() not in near_of(cache)._entries:
                assert await cache.retrieve(None, key) == "two"
            cluster.client(joined).set(key, '"three"')
            await await_until(lambda: key.encode() not in near_of(cache)._entries)
            assert await cache.retrieve(None, key) == "three"


async def test_scripts_are_redirected_to_nodes_that_have_forgotten_them(cluster: Cluster) -> None:
    """A load of a migrated key follows ASK with ASKING, also where the new node replies NOSCRIPT."""
    source, target, *_ = cluster.masters()
    slot, known = cluster.slots(source)[0], key_in(cluster.slots(target)[0])
    async with AsyncRedisCache.from_url(cluster.uri, **OPTIONS) as cache:
        # Both nodes have executed the scripts of a load.
        for key in (key_in(slot, ":other"), known):
            assert await cache.retrieve_or_load(None, key, lambda: 1) == 1
        move = cluster.moving(target, slot)
        move.begin()
        # A key that is on neither node is served by the target.
        cluster.client(target).script_flush()
        before = cache.stats()
        assert await cache.retrieve_or_load(None, key_in(slot, ":new"), lambda: 2) == 2
        assert cluster.tell(target, ("ASKING",), ("EXISTS", key_in(slot, ":new")))[-1] == 1
        assert "errorstat_NOSCRIPT" in cluster.client(target).info("errorstats")
        assert cache.stats().retries == before.retries
        move.take_keys()
        move.end()
