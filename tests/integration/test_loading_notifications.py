"""Callers that wait for a load of another process are notified by client-side caching, and poll when that is lost."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._engine.load_lease import LoadLease
from harness import Client, Proxy, Server, StartProxy, await_until
from harness.figures import report
from harness.near import link_through, near_of, near_options, trusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.depends_on()

PREFIX = "woken:"
LEASE_SECONDS = 60
OPTIONS = near_options(
    PREFIX, loading_lease_timeout=LEASE_SECONDS * 1000, near_cache_heartbeat=1_000
)
STEADY: dict[str, Any] = OPTIONS | {"near_cache_heartbeat": 10_000}
"""With a channel that is not lost when the machine stalls for the time of two heartbeats."""


class Load:
    """A load in one cache for which the other waits."""

    def __init__(self, holder: AsyncRedisCache, waiter: AsyncRedisCache) -> None:
        self.may_end = asyncio.Event()
        self._holder = holder
        self._waiter = waiter
        self.failure: Exception | None = None

    async def _load(self) -> int:
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return 1

    async def begin(self, key: str = "key") -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
        """The call that loads, and the one that waits, which has seen that it must."""
        holder = asyncio.create_task(self._holder.retrieve_or_load(None, key, self._load))
        await await_until(lambda: self._holder.stats().loads > 0)
        waiter = asyncio.create_task(self._waiter.retrieve_or_load(None, key, lambda: 2))
        await await_until(lambda: bool(near_of(self._waiter)._watchers))
        return holder, waiter


@pytest.fixture
async def caches(server: Server) -> AsyncIterator[tuple[AsyncRedisCache, AsyncRedisCache]]:
    async with (
        AsyncRedisCache.from_url(server.url, **STEADY) as one,
        AsyncRedisCache.from_url(server.url, **STEADY) as two,
    ):
        await trusted(one)
        await trusted(two)
        yield one, two


async def test_waiting_caller_does_not_poll(
    caches: tuple[AsyncRedisCache, AsyncRedisCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is requested while nothing changes; a published value is returned at once."""
    looks = 0
    look = LoadLease._is_held

    async def counted(right: LoadLease, budget: float) -> bool:
        nonlocal looks
        looks += 1
        return await look(right, budget)

    monkeypatch.setattr(LoadLease, "_is_held", counted)
    load = Load(*caches)
    holder, waiter = await load.begin()
    await await_until(lambda: looks == 1)
    done, _ = await asyncio.wait((waiter,), timeout=0.3)
    assert not done
    assert looks == 1
    load.may_end.set()
    assert await holder == 1
    published = time.monotonic()
    assert await waiter == 1
    report(21, f"who waited was answered {(time.monotonic() - published) * 1000:.1f} ms later")
    assert looks == 2
    assert near_of(caches[1])._watchers == {}


async def test_waiting_caller_is_notified_of_a_failed_load(
    caches: tuple[AsyncRedisCache, AsyncRedisCache],
) -> None:
    """It then loads at once, long before the lease would have expired."""
    load = Load(*caches)
    holder, waiter = await load.begin()
    load.failure = LookupError("none")
    load.may_end.set()
    began = time.monotonic()
    with pytest.raises(LookupError):
        await holder
    assert await waiter == 2
    assert time.monotonic() - began < LEASE_SECONDS / 2


@pytest.mark.parametrize("fault", ["reset", "silence"])
async def test_waiting_caller_polls_when_the_channel_is_lost(
    server: Server, raw: Client, proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Without invalidations it polls, as without a near cache; a silent channel counts as lost."""
    network: Proxy = proxy(server)
    async with AsyncRedisCache.from_url(server.url, **OPTIONS) as one:
        link_through(network.port, monkeypatch)
        async with AsyncRedisCache.from_url(server.url, **OPTIONS) as two:
            await trusted(one)
            await trusted(two)
            load = Load(one, two)
            holder, waiter = await load.begin()
            if fault == "silence":
                network.black_hole()
            else:
                network.refuse()
                network.cut("rst")
            load.may_end.set()
            assert await holder == 1
            published = time.monotonic()
            assert await waiter == 1
            seconds = time.monotonic() - published
    report(21, f"{fault}: answered {seconds * 1000:.0f} ms after the value was there")
    assert seconds < LEASE_SECONDS / 2


async def test_cancelled_caller_is_not_notified(
    caches: tuple[AsyncRedisCache, AsyncRedisCache],
) -> None:
    """A caller that is cancelled while it waits leaves nothing behind."""
    load = Load(*caches)
    holder, waiter = await load.begin()
    waiter.cancel()
    await asyncio.wait((waiter,))
    await await_until(lambda: not near_of(caches[1])._watchers)
    load.may_end.set()
    assert await holder == 1
