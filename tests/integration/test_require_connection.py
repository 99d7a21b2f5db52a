"""`options.require_connection` false: a service can start without its cache."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import CacheError, CacheUnavailable
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Server, StartProxy, StartServer

pytestmark = pytest.mark.depends_on("api")


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs start alike."""
    chosen: Api = request.param
    return chosen


async def test_cache_connects_when_the_server_starts(private_server: StartServer, api: Api) -> None:
    """Open succeeds without a server, calls raise typed errors meanwhile, and succeed afterwards."""
    server = private_server()
    server.stop()
    async with configured(server.url, api, require_connection=False) as cache:
        assert cache.is_open()
        with pytest.raises(CacheUnavailable) as caught:
            await cache.retrieve("t", "key")
        assert (caught.value.code, caught.value.trace_id) == ("CONNECT_FAILED", "t")
        server.start()
        await cache.store(None, "key", 1)
        assert await cache.retrieve(None, "key") == 1
        server.stop()
        with pytest.raises(CacheUnavailable):
            await cache.retrieve(None, "key")
        server.start()
        assert await cache.retrieve(None, "key") is None


LONG = 60_000
"""Milliseconds that open would wait for a connection."""


async def test_open_raises_when_connection_is_required(
    private_server: StartServer, api: Api
) -> None:
    """By default `open` raises at once while the server is unreachable, and the cache stays closed."""
    server = private_server()
    server.stop()
    cache = configured(server.url, api, connect_timeout=LONG)
    begun = time.monotonic()
    with pytest.raises(CacheUnavailable) as caught:
        await cache.open("t")
    assert time.monotonic() - begun < LONG / 1000 / 2
    assert (caught.value.code, caught.value.trace_id) == ("CONNECT_FAILED", "t")
    assert not cache.is_open()
    server.start()
    async with cache:
        await cache.ping(None)


@pytest.mark.parametrize("required", [True, False])
async def test_silent_server_fails_open(
    server: Server, proxy: StartProxy, api: Api, required: bool
) -> None:
    """Open ends by `connect_timeout`, in an error or without a connection."""
    network = proxy(server)
    network.black_hole()
    cache = configured(
        network.url,
        api,
        require_connection=required,
        connect_timeout=200,
        command_timeout=200,
    )
    if required:
        # The network heals only after it: open ends by itself or not at all.
        with pytest.raises((TimeoutError, CacheUnavailable)):
            await cache.open(None)
        assert not cache.is_open()
        network.heal()
    else:
        await cache.open(None)
        with pytest.raises(CacheError):
            await cache.retrieve(None, "key")
        network.heal()
    async with asyncio.timeout(60):
        found = None
        while found is None:
            try:
                await cache.open(None)
                await cache.store(None, "key", 1)
                found = await cache.retrieve(None, "key")
            except CacheError:
                await asyncio.sleep(0.01)
    assert found == 1
    await cache.close(None)


async def test_wrong_configuration_fails_even_so(private_server: StartServer, api: Api) -> None:
    """A wrong login, database or URI is never tolerated: that would not pass by itself."""
    server = private_server(password="right")
    for url, code in (
        (server.login_url("", "wrong"), "BAD_CREDENTIALS"),
        (server.login_url("", "right", database=99), "BAD_OPTION"),
        ("redis://", "BAD_URI"),
    ):
        cache = configured(url, api, require_connection=False)
        with pytest.raises(CacheError) as caught:
            await cache.open(None)
        assert caught.value.code == code
        assert not cache.is_open()


async def test_wrong_login_of_a_later_server_raises(private_server: StartServer, api: Api) -> None:
    """If the login could not be checked at open, each call raises that it is wrong."""
    server = private_server(password="right")
    server.stop()
    async with configured(server.login_url("", "wrong"), api, require_connection=False) as cache:
        server.start()
        for _ in range(2):
            with pytest.raises(CacheError) as caught:
                await cache.retrieve(None, "key")
            assert caught.value.code == "BAD_CREDENTIALS"
