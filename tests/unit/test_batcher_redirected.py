"""Requests that belong to another server: redirections and their deadlines."""

from __future__ import annotations

import asyncio

import pytest

from async_redis_cache import CacheServerError, CacheStateError, CacheTimeout
from async_redis_cache._client.batcher import Batcher
from async_redis_cache._client.request import Request
from async_redis_cache._common.failures import Failure
from harness.batcher_requests import busy, read
from harness.fake_connection import Wires
from harness.virtual_time import in_virtual_time, turns

MOVED = "MOVED 1 10.0.0.2:7002"


class TwoServers:
    """A call that one of them refuses is passed on to the other, if it knows the place."""

    def __init__(self, known: str = "10.0.0.2") -> None:
        self.one = Wires(router=self)
        self.other = Wires(router=self)
        self.refused_at: list[tuple[str, int] | None] = []
        self.hops: list[int] = []
        self._known = known

    def follow_redirect(self, sender: Batcher, request: Request, failure: Failure) -> bool:
        self.refused_at.append(failure.address)
        request.redirects += 1
        self.hops.append(request.redirects)
        if failure.address is None or failure.address[0] != self._known:
            return False
        to = self.other if sender is self.one.batcher else self.one
        to.batcher.enqueue(request)
        return True

    def owner_of(self, request: Request) -> Batcher:
        return self.other.batcher


@in_virtual_time
async def test_redirected_call_follows_the_redirection() -> None:
    """Only that one, and it costs no retry; the others of its exchange have their answers."""
    servers = TwoServers()
    moved = read(servers.one, b"a")
    servers.one.wire.answer(MOVED)
    await turns()
    assert servers.refused_at == [("10.0.0.2", 7002)]
    assert servers.other.wire.commands == [(b"MGET", b"a")]
    stayed = read(servers.one, b"b")
    servers.one.wire.answer([b"2"])
    servers.other.wire.answer([b"1"])
    assert [await moved, await stayed] == [b"1", b"2"]
    assert (servers.one.counters.retries, servers.other.counters.retries) == (0, 0)


@in_virtual_time
async def test_redirection_to_an_unknown_address_raises() -> None:
    """An address that cannot be used, or none at all."""
    servers = TwoServers(known="10.0.0.3")
    for reply in (MOVED, "ERR"):
        refused = read(servers.one, b"a")
        servers.one.wire.answer(reply)
        with pytest.raises(CacheServerError):
            await refused
    assert servers.refused_at == [("10.0.0.2", 7002)]
    assert servers.other.pool.exchanges == []


@in_virtual_time
async def test_waiting_keeps_the_number_of_redirections() -> None:
    """While a slot moves, with its keys on two nodes: where a call has been by then is not held against it."""
    servers = TwoServers()
    call = read(servers.one, b"a")
    servers.one.wire.answer(MOVED)
    await turns()
    servers.other.wire.answer(MOVED)
    await turns()
    servers.one.wire.answer("TRYAGAIN Multiple keys request during rehashing of slot")
    await turns()
    servers.other.wire.answer(MOVED)
    await turns()
    assert servers.hops == [1, 2, 1]
    servers.one.wire.answer([b"1"])
    assert await call == b"1"
    assert servers.one.counters.retries == 0


@in_virtual_time
async def test_cancelled_call_is_not_redirected() -> None:
    """A call without waiters is not sent to another server."""
    servers = TwoServers()
    gone = read(servers.one, b"a")
    gone.cancel()
    servers.one.wire.answer(MOVED)
    await turns()
    assert servers.refused_at == []
    assert servers.other.pool.exchanges == []


@in_virtual_time
async def test_redirected_call_keeps_its_deadline() -> None:
    """Counted from the request to the first server."""
    servers = TwoServers()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    moved = read(servers.one, b"a")
    await asyncio.sleep(0.9)
    servers.one.wire.answer(MOVED)
    with pytest.raises(CacheTimeout):
        await moved
    assert loop.time() - begun == pytest.approx(1.0)


@in_virtual_time
async def test_failing_router_costs_no_more_than_the_deadline() -> None:
    """Whatever the router does, no call waits for ever."""

    class Broken(TwoServers):
        def follow_redirect(self, sender: Batcher, request: Request, failure: Failure) -> bool:
            raise LookupError

    servers = Broken()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    asked = [read(servers.one, b"a"), read(servers.one, b"b")]
    with pytest.raises(LookupError):
        servers.one.wire.answer(MOVED)
    for one in asked:
        with pytest.raises(CacheTimeout):
            await one
    assert loop.time() - begun == pytest.approx(1.0)


@in_virtual_time
async def test_removed_server_takes_no_calls() -> None:
    """A call that is sent there raises that the cache was closed."""
    servers = TwoServers()
    moved = read(servers.one, b"a")
    servers.other.batcher.close()
    servers.one.wire.answer(MOVED)
    with pytest.raises(CacheStateError) as caught:
        await moved
    assert caught.value.code == "NOT_OPENED"


@in_virtual_time
async def test_retried_call_starts_at_the_owner() -> None:
    """After a lost connection too: the slot may have moved meanwhile."""
    servers = TwoServers()
    await busy(servers.one)
    call = read(servers.one, b"a")
    servers.one.wire.answer([None])
    await turns()
    servers.one.wire.lose()
    await turns()
    assert servers.one.pool.exchanges == []
    servers.other.wire.answer([b"1"])
    assert await call == b"1"
    assert servers.one.counters.retries == 1
