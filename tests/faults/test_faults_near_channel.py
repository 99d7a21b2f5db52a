"""The invalidation channel is cut, silent or corrupt: no stale entry is returned for long."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import Client, Direction, Proxy, Server, StartProxy, StartServer, await_until
from harness.figures import in_time, report
from harness.loop_lag import Guard, MachineLag, measured
from harness.near import (
    HEARTBEAT_SECONDS,
    all_news_is_in,
    comes_back,
    link_through,
    near_options,
    trusted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.depends_on()

KEYS = [f"key{number}" for number in range(20)]
PREFIX = "near:"
LOSS_SECONDS = 0.050


class Watchers:
    """One task for each key that asks for it all the time, and notes when it last saw it old."""

    def __init__(self, cache: AsyncRedisCache) -> None:
        self.last_seen_old = 0.0
        self.errors = 0
        self._cache = cache
        self._old: object = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await trusted(self._cache)
        found = await self._cache.retrieve_many(None, KEYS)
        self._old = found[KEYS[0]]
        assert found == dict.fromkeys(KEYS, self._old)
        hits = self._cache.stats().near_hits
        self._tasks = [asyncio.create_task(self._watch(key)) for key in KEYS]
        await await_until(lambda: self._cache.stats().near_hits > hits + 2 * len(KEYS))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, key: str) -> None:
        while True:
            # Of a call only the beginning counts: a call that begins later must be told better.
            began = time.monotonic()
            try:
                if await self._cache.retrieve(None, key) == self._old:
                    self.last_seen_old = max(self.last_seen_old, began)
            except CacheError:
                self.errors += 1
            await asyncio.sleep(0.001)


def write_all(raw: Client, value: bytes) -> float:
    """Write all keys, as another program does, and return when that was acknowledged."""
    raw.mset({PREFIX + key: value for key in KEYS})
    return time.monotonic()


@pytest.fixture
def network(server: Server, proxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The way of the link alone."""
    network = proxy(server)
    link_through(network.port, monkeypatch)
    return network


@pytest.fixture
async def cache(network: Proxy, server: Server, raw: Client) -> AsyncIterator[AsyncRedisCache]:
    write_all(raw, b'"first"')
    async with AsyncRedisCache.from_url(server.url, **near_options(PREFIX)) as cache:
        yield cache


@pytest.mark.parametrize("direction", [None, "to_client", "to_server"])
async def test_silent_channel_empties_the_near_cache(
    cache: AsyncRedisCache, network: Proxy, raw: Client, direction: Direction | None
) -> None:
    """20. The channel is black-holed: the last stale hit is within two heartbeats; then it reconnects."""
    async with Watchers(cache) as watchers:
        flushes = cache.stats().near_flushes
        silent_at = time.monotonic()
        network.black_hole(direction)
        guard = Guard(2 * HEARTBEAT_SECONDS)
        write_all(raw, b'"second"')
        await await_until(lambda: cache.stats().near_flushes > flushes)
        await await_until(lambda: guard.fired)
        flushed_at = time.monotonic()
        await await_until(lambda: time.monotonic() > flushed_at + HEARTBEAT_SECONDS)
    seconds = max(0.0, watchers.last_seen_old - silent_at)
    report(
        20,
        f"silent {direction or 'both ways'}: last stale hit after {seconds * 1000:.0f} ms, "
        f"with a heartbeat of {HEARTBEAT_SECONDS * 1000:.0f} ms",
        seconds,
    )
    assert watchers.last_seen_old <= flushed_at
    assert in_time(seconds, 2 * HEARTBEAT_SECONDS)
    assert await cache.retrieve(None, KEYS[0]) == "second"
    assert not cache.stats().near_connected
    network.heal()
    await comes_back(cache, raw, PREFIX)


def _reset(network: Proxy, raw: Client) -> None:
    network.cut("rst")


def _end(network: Proxy, raw: Client) -> None:
    network.cut("fin")


def _kill(network: Proxy, raw: Client) -> None:
    for client in raw.client_list():
        if "B" in client["flags"]:  # Tracking, in broadcast mode.
            raw.client_kill_filter(_id=client["id"])


def _flush(network: Proxy, raw: Client) -> None:
    raw.flushall()


def _flush_database(network: Proxy, raw: Client) -> None:
    raw.flushdb()


@pytest.mark.parametrize("lose", [_reset, _end, _kill, _flush, _flush_database])
async def test_lost_channel_empties_the_near_cache(
    cache: AsyncRedisCache, network: Proxy, raw: Client, lose: Callable[[Proxy, Client], None]
) -> None:
    """20. The channel is reset or killed, or the server flushed: the last stale hit is within 50 ms."""

    async def last_seen_old(lag: MachineLag) -> float:
        write_all(raw, b'"first"')
        await all_news_is_in(cache, raw, PREFIX)
        async with Watchers(cache) as watchers:
            flushes = cache.stats().near_flushes
            await asyncio.to_thread(lose, network, raw)
            lost_at = time.monotonic()
            await asyncio.to_thread(write_all, raw, b'"second"')
            await await_until(lambda: cache.stats().near_flushes > flushes)
            flushed_at = time.monotonic()
            await await_until(lambda: time.monotonic() > flushed_at + 2 * LOSS_SECONDS)
        assert watchers.last_seen_old <= flushed_at
        seconds = watchers.last_seen_old - lost_at
        return max(0.0, seconds - lag.excuse(lost_at, watchers.last_seen_old))

    seconds, _ = await measured(last_seen_old, lambda seconds: seconds <= LOSS_SECONDS)
    report(20, f"{lose.__name__.strip('_')}: last stale hit after {seconds * 1000:.1f} ms", seconds)
    assert in_time(seconds, LOSS_SECONDS)
    await comes_back(cache, raw, PREFIX)


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_restarted_empty_server_is_noticed(private_server: StartServer, how: str) -> None:
    """7 and 20. After a restart with loss of data, no method returns older data for longer than 50 ms."""
    server = private_server()

    async def last_seen_old(lag: MachineLag) -> float:
        with server.client() as raw:
            write_all(raw, b'"first"')
        async with (
            AsyncRedisCache.from_url(server.url, **near_options(PREFIX)) as cache,
            Watchers(cache) as watchers,
        ):
            await asyncio.to_thread(server.stop if how == "restart" else server.kill)
            ended_at = time.monotonic()
            await asyncio.to_thread(server.start)
            await trusted(cache)
            await await_until(lambda: time.monotonic() > ended_at + 4 * LOSS_SECONDS)
            assert await cache.retrieve(None, KEYS[0]) is None
            with server.client() as raw:
                await comes_back(cache, raw, PREFIX)
        seconds = watchers.last_seen_old - ended_at
        return max(0.0, seconds - lag.excuse(ended_at, watchers.last_seen_old))

    seconds, _ = await measured(last_seen_old, lambda seconds: seconds <= LOSS_SECONDS)
    report(7, f"{how}: last old value after {seconds * 1000:.1f} ms", seconds)
    assert in_time(seconds, LOSS_SECONDS)


async def test_late_first_reply_does_not_fail_open(
    server: Server, proxy: StartProxy, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel whose first reply is older than two heartbeats is asked again: `open` has until `connect_timeout`."""
    network = proxy(server)
    link_through(network.port, monkeypatch)
    network.delay(3 * HEARTBEAT_SECONDS, direction="to_client")
    cache = AsyncRedisCache.from_url(server.url, **near_options(key_prefix))
    opening = asyncio.create_task(cache.open(None))
    await await_until(
        lambda: any(command.arguments[:1] == (b"TRACKING",) for command in network.commands)
    )
    network.delay(0, direction="to_client")
    await opening
    async with cache:
        await trusted(cache)
