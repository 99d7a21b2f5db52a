"""Idle connections that a middlebox dropped silently: one call pays for it, not one per connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache._client.node import Node
from async_redis_cache._connection import connector
from async_redis_cache._connection.pool import ConnectionPool
from harness import await_until
from harness.apis import APIS, Api, configured
from harness.batcher_requests import read
from harness.clusters import Cluster
from harness.fake_connection import Wires
from harness.virtual_time import VirtualTimeLoop, in_virtual_time, turns

if TYPE_CHECKING:
    from harness import Client, Flavour, Server, StartProxy

pytestmark = pytest.mark.depends_on("api")

CONNECTIONS = 6
OPTIONS: dict[str, Any] = {
    "key_prefix": "idle:",
    "command_timeout": 3_000,
    "connect_timeout": 5_000,
    "max_connections": 2 * CONNECTIONS,
}
CALLS: dict[str, Callable[[AsyncRedisCache, int], Awaitable[Any]]] = {
    "retrieve": lambda cache, number: cache.retrieve(None, f"key{number}"),
    "store": lambda cache, number: cache.store(None, f"key{number}", number),
}


async def open_connections(cache: AsyncRedisCache) -> None:
    """Let so many connections be needed at once, and then be idle."""
    while cache.stats().connects < CONNECTIONS:
        calls: list[asyncio.Future[Any]] = []
        for number in range(CONNECTIONS):
            calls.append(asyncio.ensure_future(asyncio.to_thread(lambda: None)))
            calls.append(asyncio.ensure_future(cache.retrieve(None, f"key{number}")))
            await asyncio.sleep(0.001)
        await asyncio.gather(*calls)


@pytest.mark.parametrize("call", CALLS)
async def test_one_call_pays_for_connections_cut_in_silence(
    server: Server, proxy: StartProxy, call: str
) -> None:
    """37. All idle connections are cut silently: at most one call gets no reply, and the next ones do not wait."""
    network = proxy(server)
    async with configured(network.url, **OPTIONS) as cache:
        network.delay(0.01)
        await open_connections(cache)
        network.heal()
        network.cut_silently()
        failures = 0
        for number in range(2 * CONNECTIONS):
            try:
                await CALLS[call](cache, number)
            except CacheError:
                failures += 1
        assert failures <= 1
        await await_until(lambda: "0 waiting" in repr(cache))


@pytest.mark.parametrize("api", APIS)
async def test_calls_go_on_while_all_allowed_connections_are_checked(
    server: Server, proxy: StartProxy, api: Api
) -> None:
    """37. With `max_connections` open, a call waits for the check of idle connections, and succeeds by its deadline."""
    network = proxy(server)
    options = OPTIONS | {"max_connections": 1}
    async with configured(network.url, api, **options) as cache:
        await cache.store(None, "key", 1)
        network.cut_silently()
        with contextlib.suppress(CacheError):
            await cache.retrieve(None, "key")
        assert await cache.retrieve(None, "key") == 1


async def test_living_connections_survive_a_check(server: Server, proxy: StartProxy) -> None:
    """37. An idle connection that replies to the PING is used again; no new one is opened."""
    network = proxy(server)
    async with configured(network.url, **OPTIONS | {"command_timeout": 20_000}) as cache:
        network.delay(0.01)
        await open_connections(cache)
        network.heal()
        single: Any = cache._lifecycle.ready().engine._servers
        transport: ConnectionPool = single._node.pool
        await await_until(lambda: f"{CONNECTIONS} idle" in repr(transport))
        connects = cache.stats().connects
        transport.check_idle()
        assert "0 idle" in repr(transport)
        await await_until(lambda: f"{connects} idle" in repr(transport))
        assert cache.stats().connects == connects


async def test_connection_that_ends_while_it_is_opened_is_replaced(
    server: Server, raw: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a connection may arrive after redis-py has checked it, and before the pool has taken it over."""
    checked: list[Any] = []

    async def checked_too_early(connection: Any) -> bool:
        checked.append(connection)
        if len(checked) == 1:
            raw.client_kill_filter(_type="normal", skipme=True)
            await await_until(connection._reader.at_eof)
        return False

    async with configured(server.url, max_connections=1) as cache:
        raw.client_kill_filter(_type="normal", skipme=True)
        monkeypatch.setattr(connector, "can_read", checked_too_early)
        assert await cache.store(None, "key", 1) == 1
        assert len(checked) == 2


async def test_attempt_cancelled_before_its_first_step_is_repeated(server: Server) -> None:
    """A connection that is given up before the attempt to open it has begun, as after a failover, is opened anew."""
    async with configured(server.url, **OPTIONS) as cache:
        single: Any = cache._lifecycle.ready().engine._servers
        pool: ConnectionPool = single._node.pool
        pool.drop_other_addresses(None)
        await await_until(lambda: "0 open" in repr(pool))
        pool._start_connecting()
        pool.drop_other_addresses(None)
        assert await cache.retrieve(None, "key") is None


@in_virtual_time
async def test_unanswered_call_has_the_idle_connections_checked() -> None:
    """Once for all calls that expire together; not for a call that only waited."""
    wires = Wires(budget=1.0)
    calls = [read(wires, b"a"), read(wires, b"b")]
    await turns()
    wires.pool.exchanges[0].received_bytes = 0
    cast_loop: Any = wires.loop
    assert isinstance(cast_loop, VirtualTimeLoop)
    cast_loop.pass_time(1.0)
    await turns()
    assert [type(call.exception()).__name__ for call in calls] == ["CacheTimeout"] * 2
    assert wires.pool.checks == 1


async def test_unanswered_call_to_one_node_has_all_nodes_checked(
    flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """37. In a cluster, after a call without a reply the idle connections to all nodes are checked."""
    with Cluster(flavour, node_timeout=60_000) as cluster:
        async with AsyncRedisCache.from_url(cluster.uri, command_timeout=300, max_size=0) as cache:
            servers: Any = cache._lifecycle.ready().engine._servers
            nodes: list[Node] = [*servers._cluster_nodes.nodes()]
            checked: list[Node] = []
            for node in nodes:
                monkeypatch.setattr(node.pool, "check_idle", partial(checked.append, node))
            frozen = cluster.node_of("key")
            frozen.freeze()
            try:
                with pytest.raises(CacheError):
                    await cache.retrieve(None, "key")
            finally:
                frozen.thaw()
            assert len(nodes) >= len(cluster.masters())
            assert {*checked} == {*nodes}
