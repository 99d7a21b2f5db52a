"""Malformed or oversized messages on the invalidation channel."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Client, Proxy, Server, StartProxy, await_until
from harness.figures import report
from harness.near import (
    all_news_is_in,
    comes_back,
    hold,
    link_through,
    near_options,
    stale_entries,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.depends_on()

PREFIX = "nonsense:"
MIB = 1024 * 1024
MANY = 60_000

NONSENSE = {
    "no protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an answer to nothing": b"+PONG\r\n",
    "an error": b"-ERR what\r\n",
    "news of nobody": b">2\r\n$10\r\ninvalidate\r\n:1\r\n",
    "news with too much": b">3\r\n$10\r\ninvalidate\r\n*0\r\n*0\r\n",
    "news with too little": b">1\r\n$10\r\ninvalidate\r\n",
    "a negative length": b"*-7\r\n",
    "half of the news": b">2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\nabc\r\n",
    "half of a text": b"$100000\r\nabc",
    "half of a line": b":1",
}


@pytest.fixture
def network(server: Server, proxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The way of the link alone."""
    network = proxy(server)
    link_through(network.port, monkeypatch)
    return network


@pytest.fixture
async def cache(network: Proxy, server: Server) -> AsyncIterator[AsyncRedisCache]:
    async with AsyncRedisCache.from_url(server.url, **near_options(PREFIX)) as cache:
        yield cache


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_malformed_push_closes_the_channel(
    cache: AsyncRedisCache,
    network: Proxy,
    raw: Client,
    nonsense: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A malformed or incomplete message: the channel is closed within two keepalive intervals and reconnected."""
    await hold(cache, raw, PREFIX, {"key": "value"})
    links = network.opened
    # What earlier tests have left is not logged here.
    gc.collect()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        await await_until(lambda: network.inject(nonsense))
        await await_until(lambda: network.opened > links)
        await comes_back(cache, raw, PREFIX)
    events = [vars(record).get("cache_event") for record in caplog.records]
    # One that says so, and none of the loop's. If the machine stalls, the channel is lost again.
    assert set(events) == {"invalidation_channel_down"}
    assert len(events) <= cache.stats().near_flushes


async def test_other_pushes_are_ignored(network: Proxy, raw: Client) -> None:
    """A push of another kind changes nothing: the channel and the local entries stay."""
    # A machine that stalls must not end the channel.
    options = near_options(PREFIX, near_cache_heartbeat=10_000)
    async with AsyncRedisCache.from_url(network.server.url, **options) as cache:
        await hold(cache, raw, PREFIX, {"key": "value"})
        pushes = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n>1\r\n$5\r\nother\r\n"
        await await_until(lambda: network.inject(pushes))
        await all_news_is_in(cache, raw, PREFIX)
        assert await cache.retrieve(None, "key") == "value"
        assert (network.opened, cache.stats().near_flushes) == (1, 0)
        assert stale_entries(cache, raw) == []


async def test_oversized_invalidation_flushes_the_near_cache(server: Server, raw: Client) -> None:
    """One message of some 12 MiB: all local entries are dropped, memory stays bounded, and the channel reconnects.

    Another program changes 60,000 long keys in one turn of the server.
    """
    script = """
        for number = 1, ARGV[2] do
            redis.call("SET", ARGV[1] .. string.rep("x", 190) .. number, "1", "PX", 60000)
        end
        redis.call("SET", ARGV[1] .. "key", '"new"')
    """
    # The server is busy for a while, which must not be what ends the link.
    options = near_options(PREFIX, near_cache_heartbeat=10_000)
    async with AsyncRedisCache.from_url(server.url, **options) as cache:
        await hold(cache, raw, PREFIX, {"key": "old"})
        tracemalloc.start()
        try:
            held, _ = tracemalloc.get_traced_memory()
            await asyncio.to_thread(raw.eval, script, 0, PREFIX, MANY)
            await await_until(lambda: cache.stats().near_flushes > 0)
            await comes_back(cache, raw, PREFIX)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert await cache.retrieve(None, "key") == "new"
        assert stale_entries(cache, raw) == []
        assert cache.stats().near_flushes == 1
        longest = (peak - held) / MIB
        assert longest < 4
        report(20, f"a message of {MANY} keys: at most {longest:.1f} MiB more than before")
