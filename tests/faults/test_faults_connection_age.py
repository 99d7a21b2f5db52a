"""Connections have a maximum age, so that a name which now means another server is followed."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheUnavailable
from harness import Proxy, Server, StartProxy, await_until
from harness.choices import by_host_and_port
from harness.figures import in_time
from harness.near import near_options, trusted

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.depends_on()

AGE = 80
"""Milliseconds."""
NAME = "cache.test"


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Callable[[Proxy], None]:
    """Say which network the name of the server leads to."""
    place: list[Proxy] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host in {NAME, NAME.encode()}:
            host, port = place[-1].host, place[-1].port
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return place.append


@by_host_and_port
async def test_a_name_is_followed_to_another_address(
    server: Server, proxy: StartProxy, means: Callable[[Proxy], None]
) -> None:
    """Even if the old address still replies: after the age, replies and invalidations come from the new one."""
    old, new = proxy(server), proxy(server)
    means(old)
    # Its channel looks at its age at a heartbeat, and is lost after two without a reply.
    options = near_options("age:", max_connection_age=AGE, near_cache_heartbeat=1_000)
    async with AsyncRedisCache.from_url(f"redis://{NAME}:6379", **options) as cache:
        await cache.store(None, "key", 1)
        await trusted(cache)
        assert old.opened >= 2
        means(new)

        async def asked() -> bool:
            assert await cache.store(None, "key", 2) == 2
            return new.opened >= 2

        while not await asked() or old.open_now:
            pass
        old.forget()
        await trusted(cache)
        assert await cache.retrieve(None, "key") == 2
        assert old.commands == []


async def test_no_call_waits_for_an_expired_connection(server: Server, proxy: StartProxy) -> None:
    """Calls that go on all the time meet no error, and no more connections than their age asks for."""
    network = proxy(server)
    async with AsyncRedisCache.from_url(
        network.url, max_connections=1, max_connection_age=AGE
    ) as cache:
        while network.opened < 5:
            assert await cache.store(None, "key", "value") == "value"
            assert await cache.retrieve(None, "key") == "value"
        assert cache.stats().retries == 0
        await await_until(lambda: network.open_now <= 2)


async def test_the_next_connection_is_made_at_once(server: Server, proxy: StartProxy) -> None:
    """A connection closed for its age is no failure, even if it was not used since an outage."""
    network = proxy(server)
    async with AsyncRedisCache.from_url(
        network.url, max_connections=1, max_connection_age=AGE, retries=0
    ) as cache:
        network.refuse()
        network.cut()
        for _ in range(6):
            with pytest.raises(CacheUnavailable):
                await cache.retrieve(None, "key")
        network.heal()
        connects = cache.stats().connects
        leaving = asyncio.create_task(cache.retrieve(None, "key"))
        await asyncio.sleep(0)
        leaving.cancel()
        await await_until(lambda: cache.stats().connects > connects)
        await asyncio.sleep(1.2 * AGE / 1000)
        begun = time.monotonic()
        assert await cache.retrieve(None, "key") is None
        assert in_time(time.monotonic() - begun, 0.1)


async def test_without_an_age_a_connection_lasts(server: Server, proxy: StartProxy) -> None:
    """0 means for as long as it lasts."""
    network = proxy(server)
    async with AsyncRedisCache.from_url(network.url, max_connection_age=0) as cache:
        for number in range(2000):
            await cache.store(None, "key", number)
        assert network.opened == 1
