"""One node of a cluster is unreachable: only its keys are affected."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import await_until
from harness.clusters import Cluster
from harness.figures import in_time, report
from harness.slots import key_in
from harness.stalls import outlasting_stalls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Flavour, Server
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures"]
pytestmark = pytest.mark.depends_on()

DEADLINES = (0.4, 2.5)
"""Seconds: a short one, and one that the other nodes keep where the machine stalls."""
LONG_MILLISECONDS = 600_000
TASKS = 50


@pytest.fixture(scope="module")
def cluster(flavour: Flavour) -> Iterator[Cluster]:
    """Three masters, of which none will be held to be gone while it is frozen."""
    with Cluster(flavour, node_timeout=60_000) as cluster:
        yield cluster


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Server]:
    """One that a test may freeze."""
    node = cluster.masters()[1]
    yield node
    node.thaw()


def keys_at(cluster: Cluster, node: Server) -> list[str]:
    """As many as there are tasks."""
    return [key_in(slot, ":key") for slot in cluster.slots(node)[:TASKS]]


def new(cluster: Cluster, deadline: float, **options: Any) -> AsyncRedisCache:
    milliseconds = int(deadline * 1000)
    return AsyncRedisCache.from_url(
        cluster.uri, max_size=0, command_timeout=milliseconds, key_prefix="away:", **options
    )


async def load(cache: AsyncRedisCache, key: str, value: str) -> tuple[str, float]:
    """The returned value and the seconds that the call took."""
    begun = time.monotonic()
    return await cache.retrieve_or_load(None, key, lambda: value), time.monotonic() - begun


async def test_load_of_an_unreachable_node_fails_open(
    cluster: Cluster, node: Server, logged: LogRecorder
) -> None:
    """24. The circuit of a node that hangs opens after three calls; the other nodes are used as before."""

    async def attempt(deadline: float) -> None:
        node.thaw()
        logged.records.clear()
        there = keys_at(cluster, node)
        elsewhere = keys_at(cluster, cluster.masters()[0])
        async with new(cluster, deadline) as cache:
            await cache.store_many(
                None, dict.fromkeys([*there, *elsewhere], "old"), LONG_MILLISECONDS
            )
            node.freeze()
            for key in there[:3]:
                assert cache.stats().open_circuits == 0
                given, seconds = await load(cache, key, "new")
                assert given == "new"
                assert in_time(seconds, deadline + 0.3)
            assert cache.stats().open_circuits == 1
            loads = await asyncio.gather(*(load(cache, key, "new") for key in there))
            hits = await asyncio.gather(*(load(cache, key, "new") for key in elsewhere))
            with pytest.raises(CacheError) as caught:
                await cache.retrieve(None, there[0])
            assert cache.stats().open_circuits == 1
            node.thaw()
            await await_until(lambda: cache.stats().open_circuits == 0)
            assert (await load(cache, there[0], "new"))[0] == "old"
        latest = max(seconds for _, seconds in [*loads, *hits])
        report(24, f"a node of a cluster: {latest * 1000:.0f} ms at most while its circuit is open")
        assert {given for given, _ in loads} == {"new"}
        assert {given for given, _ in hits} == {"old"}
        assert in_time(latest, deadline)
        assert caught.value.code == "TIMEOUT"
        places = {(r.__dict__["cache_event"], r.__dict__["cache_server"]) for r in logged.records}
        name = f"{node.host}:{node.port}"
        assert {("circuit_opened", name), ("circuit_closed", name)} <= places
        assert {server for _, server in places} == {name}

    await outlasting_stalls(attempt, *DEADLINES)


async def test_batch_load_of_an_unreachable_node_fails_open(cluster: Cluster, node: Server) -> None:
    """Of many keys those of the node are loaded at once, and the others are returned as stored."""

    async def attempt(deadline: float) -> None:
        node.thaw()
        there = keys_at(cluster, node)
        elsewhere = keys_at(cluster, cluster.masters()[0])
        asked: list[str] = []

        def load_all(keys: list[str]) -> dict[str, str]:
            asked.extend(keys)
            return dict.fromkeys(keys, "new")

        async with (
            new(cluster, deadline) as cache,
            new(cluster, deadline, fail_open="never") as strict,
        ):
            await cache.store_many(
                None, dict.fromkeys([*there, *elsewhere], "old"), LONG_MILLISECONDS
            )
            node.freeze()
            for one in (cache, strict):
                while not one.stats().open_circuits:
                    with contextlib.suppress(CacheError):
                        await one.retrieve_or_load_many(None, there[:3], load_all)
            asked.clear()
            before = cache.stats()
            begun = time.monotonic()
            keys = [key for pair in zip(there, elsewhere, strict=True) for key in pair]
            given = await cache.retrieve_or_load_many(None, keys, load_all)
            alone = await cache.retrieve_or_load_many(None, there, load_all)
            assert in_time(time.monotonic() - begun, deadline)
            after = cache.stats()
            with pytest.raises(CacheError) as caught:
                await strict.retrieve_or_load_many(None, keys, load_all)
        assert given == {**dict.fromkeys(there, "new"), **dict.fromkeys(elsewhere, "old")}
        assert list(given) == keys
        assert alone == dict.fromkeys(there, "new")
        assert sorted(asked) == sorted([*there, *there])
        assert (after.hits - before.hits, after.misses - before.misses) == (TASKS, 2 * TASKS)
        assert caught.value.code == "BREAKER_OPEN"

    await outlasting_stalls(attempt, *DEADLINES)


async def test_operations_on_other_nodes_succeed(cluster: Cluster, node: Server) -> None:
    """With `fail_open` always, its keys are misses at once; the keys of other nodes are returned."""

    async def attempt(deadline: float) -> None:
        node.thaw()
        there, elsewhere = keys_at(cluster, node)[0], keys_at(cluster, cluster.masters()[0])[0]
        async with new(cluster, deadline, fail_open="always") as cache:
            await cache.store_many(
                None, dict.fromkeys([there, elsewhere], "old"), LONG_MILLISECONDS
            )
            node.freeze()
            while not cache.stats().open_circuits:
                assert await cache.retrieve(None, there) is None
            begun = time.monotonic()
            assert await cache.retrieve(None, there) is None
            assert await cache.store(None, there, "new") == "new"
            assert await cache.retrieve(None, elsewhere) == "old"
            assert await cache.store(None, elsewhere, "new") == "new"
            assert await cache.retrieve(None, elsewhere) == "new"
            assert in_time(time.monotonic() - begun, deadline)

    await outlasting_stalls(attempt, *DEADLINES)


async def test_removed_node_is_dropped(flavour: Flavour, logged: LogRecorder) -> None:
    """After its replica has taken over, its log state and probes end, though it never answers again."""
    with Cluster(flavour, replicas=1, node_timeout=1_000) as cluster:
        async with new(cluster, DEADLINES[0]) as cache:
            key = keys_at(cluster, cluster.masters()[0])[0]
            old = cluster.node_of(f"away:{key}")
            await asyncio.to_thread(old.kill)
            async with asyncio.timeout(60):
                while logged.count("master_changed") == 0:
                    await load(cache, key, "new")
            await await_until(lambda: cache.stats().open_circuits == 0)
            assert logged.count("circuit_opened") == logged.count("node_removed") == 1
            assert logged.count("circuit_closed") == logged.count("server_up") == 0
            assert (await load(cache, key, "new"))[0] == "new"
            assert await cache.retrieve(None, key) == "new"
