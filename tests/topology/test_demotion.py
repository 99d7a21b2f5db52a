"""A single server that refuses writes as READONLY: its name may now resolve to another master."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import CacheOutcomeUnknown, CacheServerError
from async_redis_cache._client import demotion
from async_redis_cache._client.demotion import Demotion
from harness import await_until
from harness.apis import APIS, Api, configured
from harness.choices import by_host_and_port

if TYPE_CHECKING:
    from harness import Proxy, Server, StartProxy, StartServer

pytestmark = [pytest.mark.depends_on("api"), by_host_and_port]

OPTIONS: dict[str, Any] = {"key_prefix": "demoted:", "command_timeout": 5_000}
REFUSED_OR_LATE = (CacheServerError, CacheOutcomeUnknown)
"""On a busy machine, a change may be under way when its deadline comes, or wait for its reply for too long."""


@pytest.fixture
def former(private_server: StartServer) -> Server:
    """The master that is demoted."""
    return private_server()


@pytest.fixture
def successor(private_server: StartServer) -> Server:
    """The master to which the name leads then."""
    return private_server()


@pytest.fixture
def name(former: Server, proxy: StartProxy) -> Proxy:
    """Leads to a server; connections that there are go on to where it led before."""
    return proxy(former)


def fail_over(former: Server, successor: Server, name: Proxy) -> None:
    """Let the name lead to the successor, which has newer values than the former master."""
    former.client().replicaof("127.0.0.1", 1)  # No server listens there.
    raw = successor.client()
    for number in range(20):
        raw.set(f"demoted:{number}", '"new"')
    name.server = successor


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_change_succeeds_when_the_name_leads_to_another_master(
    former: Server, successor: Server, name: Proxy, api: Api, *, near: bool
) -> None:
    """36. The first READONLY ends the use of all connections; the write succeeds, and no old value is read any more."""
    options = OPTIONS | {"max_connections": 4, "near_cache_enabled": near}
    async with configured(name.url, api, **options) as cache:
        keys = [str(number) for number in range(20)]
        await cache.store_many(None, dict.fromkeys(keys, "old"))
        if api == "async":
            await asyncio.gather(*(cache.retrieve(None, key) for key in keys))
        for key in keys:
            assert await cache.retrieve(None, key) == "old"
        fail_over(former, successor, name)
        await cache.store(None, "changed", 1)
        for key in keys:
            assert await cache.retrieve(None, key) == "new"
        assert successor.client().exists("demoted:changed")
        if near:
            await await_until(lambda: cache.stats().near_connected)


async def test_changes_in_flight_are_made_once(
    former: Server, successor: Server, name: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """36. Increments are in flight at the first READONLY: each is executed once, by the new master."""
    monkeypatch.setattr(demotion, "_DRAIN_SECONDS", 60)
    async with configured(name.url, **OPTIONS | {"max_connections": 2}) as cache:
        numbers = cache.namespace("number")
        name.delay(0.01)
        while cache.stats().connects < 2:
            await asyncio.gather(*(numbers.incr(f"{key}") for key in range(2)))
        fail_over(former, successor, name)
        changes = [numbers.incr(f"changed{key}") for key in range(2)]
        assert await asyncio.gather(*changes) == [1, 1]
        raw = successor.client()
        assert [raw.exists(f"demoted:number:changed{key}") for key in range(2)] == [1, 1]


async def test_change_is_retried_until_the_name_leads_to_a_master(
    former: Server, successor: Server, name: Proxy
) -> None:
    """36. If the name is changed later than the master, a write waits for it, within its deadline."""
    async with configured(name.url, **OPTIONS) as cache:
        await cache.store(None, "key", 1)
        former.client().replicaof("127.0.0.1", 1)
        storing = asyncio.create_task(cache.store(None, "key", 2))
        opened = name.opened
        await await_until(lambda: name.opened > opened)
        name.server = successor
        assert await storing == 2
        assert successor.client().exists("demoted:key")


async def test_read_only_replica_is_no_reconnect_storm(former: Server, name: Proxy) -> None:
    """36. Connections to a server that stays read-only are renewed after growing pauses."""
    # Changes are tried again after 0.1, 0.3 and 0.7 s: none is under way when the deadline comes.
    options = OPTIONS | {"command_timeout": 1_200}
    async with configured(name.url, **options) as cache:
        await cache.store(None, "kept", 1)
        former.client().replicaof("127.0.0.1", 1)
        with pytest.raises(REFUSED_OR_LATE):
            await cache.store(None, "key", 1)
        opened = name.opened
        for number in range(200):
            with pytest.raises(REFUSED_OR_LATE):
                await cache.store(None, f"key{number}", 1)
            assert await cache.retrieve(None, "kept") == 1
        assert name.opened - opened < 20
        former.client().replicaof("NO", "ONE")
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await cache.store(None, "key", 2) == 2


def test_demotion_drops_connections_after_growing_pauses() -> None:
    """At once, then after pauses that double to 5 s; calls are retried while the patience lasts."""
    now, left = 0.0, list[float]()
    demotion = Demotion(lambda: now, 1.0, lambda: left.append(now))
    verdicts = dict[float, bool]()
    for tenth in range(201):
        now = tenth / 10
        verdicts[now] = demotion.refused()
    gaps = [after - before for before, after in itertools.pairwise(left)]
    assert left[0] == 0.0
    assert gaps == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], abs=0.11)
    assert all(verdict for moment, verdict in verdicts.items() if moment < 1.0)
    assert [moment for moment, verdict in verdicts.items() if verdict and moment >= 1.0] == left[4:]


def test_demotion_begins_anew_when_a_change_was_accepted() -> None:
    """The next refusal is another demotion, and ends the connections at once."""
    now, left = 0.0, list[float]()
    demotion = Demotion(lambda: now, 1.0, lambda: left.append(now))
    assert demotion.refused()
    demotion.is_over = True
    now = 0.05
    assert demotion.refused()
    assert left == [0.0, 0.05]
