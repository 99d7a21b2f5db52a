"""A server that is away: the loader is called, and the service goes on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import CachePermissionError
from harness import StartProxy, StartServer, await_until
from harness.doors import Door, configured

if TYPE_CHECKING:
    from harness import Server

pytest_plugins = ["near_fixtures"]

DEADLINE = 200


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_the_service_goes_on(
    private_server: StartServer, proxy: StartProxy, door: Door, how: str
) -> None:
    """The loader's value is given without an error, within the deadline and the load."""
    server = private_server()
    network = proxy(server)
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return loads

    options = {"command_timeout": DEADLINE, "max_size": 0}
    async with configured(network.url, door, **options) as cache:
        if how == "refused":
            server.stop()
        else:
            network.black_hole()
        begun = time.monotonic()
        assert await cache.retrieve_or_load(None, "key", load) == 1
        assert time.monotonic() - begun < DEADLINE / 1000 + 0.3


async def test_callers_still_share_a_load(private_server: StartServer) -> None:
    """While the server is away, one load serves all who ask; when it is back, it is stored."""
    server = private_server()
    gate = asyncio.Event()

    async def load() -> str:
        await gate.wait()
        return "loaded"

    async with configured(server.url, command_timeout=DEADLINE) as cache:
        server.stop()
        calls = [asyncio.create_task(cache.retrieve_or_load(None, "key", load)) for _ in range(50)]
        await await_until(lambda: cache.stats().loads >= 1)
        gate.set()
        assert await asyncio.gather(*calls) == ["loaded"] * 50
        assert cache.stats().loads == 1
        server.start()
        with server.client() as raw:
            while not raw.exists("key"):
                assert await cache.retrieve_or_load(None, "key", load) == "loaded"
        assert await cache.retrieve(None, "key") == "loaded"


async def test_killed_in_mid_load(private_server: StartServer) -> None:
    """What is loaded when the server dies is given all the same."""
    server = private_server()
    gate = asyncio.Event()

    async def load() -> int:
        await gate.wait()
        return 1

    async with configured(server.url, command_timeout=DEADLINE) as cache:
        call = asyncio.create_task(cache.retrieve_or_load(None, "key", load))
        await await_until(lambda: cache.stats().loads == 1)
        server.kill()
        gate.set()
        assert await call == 1


async def test_what_is_not_allowed_is_said(private_server: StartServer, door: Door) -> None:
    """A user who may not use scripts is an error, and nothing is loaded."""
    server: Server = private_server(acl={"ann": "on >secret ~* +@all -eval"})
    loads: list[int] = []
    async with configured(server.login_url("ann", "secret"), door, max_size=0) as cache:
        with pytest.raises(CachePermissionError):
            await cache.retrieve_or_load(None, "key", lambda: loads.append(1))
    assert loads == []
