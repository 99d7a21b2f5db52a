"""Slots migrate and masters die under load: no wrong value, and only typed errors."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import await_until
from harness.clusters import Cluster
from harness.figures import in_time, report
from harness.near import near_of, trusted
from harness.run_length import scaled
from harness.slots import key_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Flavour

pytest_plugins = ["cluster_fixtures"]
pytestmark = pytest.mark.xdist_group("faults cluster")

READERS = 30
SLOTS = scaled(150, 2_000)
KEYS = 300
UNBOUNDED: dict[str, Any] = {"max_size": 0}
NODE_TIMEOUT_SECONDS = 1.0


@pytest.mark.parametrize("near", [False, True], ids=["", "near"])
async def test_reads_succeed_while_slots_migrate(cluster: Cluster, *, near: bool) -> None:
    """18. 2,000 slots move under 30 readers: 0 wrong values, 0 false misses, 0 errors."""
    source, target = cluster.masters()[:2]
    slots = cluster.slots(source)[:SLOTS]
    keys = [key_in(slots[number % len(slots)], f":{number}") for number in range(KEYS)]
    wrong: list[object] = []
    reads = 0
    async with AsyncRedisCache.from_url(cluster.uri, near_cache_enabled=near, **UNBOUNDED) as cache:
        await cache.store_many(None, {key: key for key in keys}, 600_000)
        is_moving = True

        async def read(reader: int) -> None:
            nonlocal reads
            turn = reader
            while is_moving:
                turn += 1
                key = keys[turn * 7 % KEYS]
                try:
                    if turn % 5 == 0:
                        found = (await cache.retrieve_many(None, [key, keys[turn % KEYS]]))[key]
                    elif turn % 11 == 0:
                        found = await cache.store(None, key, key, 600_000)
                    else:
                        found = await cache.retrieve(None, key)
                except Exception as error:  # noqa: BLE001  all of them belong into the report
                    wrong.append(repr(error))
                else:
                    reads += 1
                    if found != key:
                        wrong.append((key, found))
                await asyncio.sleep(0)

        readers = [asyncio.create_task(read(number)) for number in range(READERS)]
        began = time.monotonic()
        await asyncio.to_thread(cluster.move, slots, target)
        seconds = time.monotonic() - began
        is_moving = False
        await asyncio.gather(*readers)
        assert await cache.retrieve_many(None, keys) == {key: key for key in keys}
    report(18, f"{SLOTS} slots moved in {seconds:.1f} s, {reads} calls, {len(wrong)} wrong")
    assert wrong == []
    assert reads > READERS


@pytest.mark.parametrize("connections", range(1, 10))
@pytest.mark.depends_on
async def test_calls_succeed_on_a_migrating_slot(cluster: Cluster, connections: int) -> None:
    """18. While a slot moves, with 1 to 9 connections per node: keys on the old node, the new node, or neither."""
    source, target = cluster.masters()[:2]
    slot = cluster.slots(source)[-1]
    here, there, nowhere = (key_in(slot, name) for name in ("here", "there", "nowhere"))
    keys = [here, there, nowhere]
    options: dict[str, Any] = {**UNBOUNDED, "max_connections": connections}
    async with AsyncRedisCache.from_url(cluster.uri, **options) as cache:
        await cache.store_many(None, {here: "here", there: "there"}, tags=("tag",))
        # So many exchanges at once that all connections are made, to both nodes.
        other = key_in(cluster.slots(target)[0])
        await asyncio.gather(
            *(cache.time_to_live(None, key) for key in (here, other) for _ in range(100))
        )
        move = cluster.moving(target, slot)
        move.begin()
        move.take_keys(there)
        for _ in range(connections + 1):
            found = await asyncio.gather(
                *(cache.retrieve(None, key) for key in (here, there, nowhere))
            )
            assert found == ["here", "there", None]
            assert await cache.retrieve_many(None, keys) == {here: "here", there: "there"}
        assert [await cache.contains(None, key) for key in keys] == [True, True, False]
        assert await cache.touch(None, there, 90_000)
        assert await cache.store(None, there, "new") == "new"
        assert await cache.store(None, nowhere, "made") == "made"
        assert await cache.retrieve_many(None, keys) == {
            here: "here",
            there: "new",
            nowhere: "made",
        }
        assert await cache.remove(None, nowhere) == "made"
        loaded = key_in(slot, "loaded")
        asked = (cache.retrieve_or_load(None, loaded, lambda: "loaded") for _ in range(10))
        assert await asyncio.gather(*asked) == ["loaded"] * 10
        assert await cache.retrieve(None, loaded) == "loaded"
        move.take_keys()
        move.end()
        assert await cache.retrieve_many(None, [*keys, loaded]) == {
            here: "here",
            there: "new",
            loaded: "loaded",
        }
        assert cache.stats().errors == 0


async def test_local_entries_of_a_migrating_slot_are_invalidated(cluster: Cluster) -> None:
    """18. Local entries of a moving slot are invalidated by the node that owns the slot when the key changes."""
    source, target = cluster.masters()[:2]
    slot = cluster.slots(source)[-1]
    keys = [key_in(slot, f":{number}") for number in range(20)]
    options: dict[str, Any] = {**UNBOUNDED, "near_cache_enabled": True}
    async with AsyncRedisCache.from_url(cluster.uri, **options) as cache:
        await trusted(cache)
        await cache.store_many(None, dict.fromkeys(keys, "old"))
        while len(near_of(cache)._entries) < len(keys):
            await cache.retrieve_many(None, keys)
        await asyncio.to_thread(cluster.move, [slot], target)
        for key in keys:
            cluster.client(target).set(key, '"new"')
        await await_until(lambda: not near_of(cache)._entries)
        assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, "new")


@pytest.fixture
def with_replicas(flavour: Flavour) -> Iterator[Cluster]:
    """A private cluster of the test."""
    timeout = int(NODE_TIMEOUT_SECONDS * 1000)
    with Cluster(flavour, replicas=1, node_timeout=timeout) as cluster:
        yield cluster


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_calls_succeed_after_a_master_dies(with_replicas: Cluster, way: str) -> None:
    """18. A master dies and its replica is promoted: all keys are served again, with typed errors until then."""
    cluster = with_replicas
    wrong: list[object] = []
    options: dict[str, Any] = {"near_cache_enabled": True, "near_cache_heartbeat": 200}
    async with AsyncRedisCache.from_url(
        cluster.uri, max_size=0, command_timeout=500, **options
    ) as cache:
        await trusted(cache)
        victim = cluster.masters()[0]
        keys = [key_in(cluster.slots(victim)[0], "of the victim"), key_in(0, "a"), key_in(9_000)]
        served: dict[str, float] = {}

        async def call(key: str) -> None:
            turn = 0
            while True:
                turn += 1
                try:
                    await cache.store(None, key, turn)
                    found = await cache.retrieve(None, key)
                    if found not in {turn, None}:
                        wrong.append((key, turn, found))
                    served[key] = time.monotonic()
                except CacheError:
                    pass
                except Exception as error:  # noqa: BLE001  each is a defect
                    wrong.append(repr(error))
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(call(key)) for key in keys]
        await await_until(lambda: served.keys() == set(keys))
        lost_at = time.monotonic()
        if way == "killed":
            victim.kill()
        else:
            victim.freeze()
        await asyncio.to_thread(cluster.new_master, keys[0], victim)
        agreed_at = time.monotonic()
        served.clear()
        await await_until(lambda: served.keys() == set(keys))
        back_at = time.monotonic()
        await trusted(cache)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    report(
        18,
        f"master {way}: new master agreed on after {agreed_at - lost_at:.2f} s, "
        f"all served {back_at - agreed_at:.2f} s later",
    )
    assert wrong == []
    # They agree before each of them serves; the rest is for a look at the slots.
    assert in_time(back_at - agreed_at, 3)
