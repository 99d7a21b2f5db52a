"""In common failures, only the library's own logger has records; asyncio's has none."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import CacheError, CoalescingLoader
from harness import await_until
from harness.apis import Api, configured
from harness.near import near_options, trusted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Server, StartProxy, StartServer

pytest_plugins = ["near_fixtures"]
pytestmark = pytest.mark.depends_on("api")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Only the library's log has records, from WARNING on; whatever is collected afterwards included."""
    caplog.set_level(logging.WARNING)
    yield
    gc.collect()
    assert {record.name for record in caplog.get_records("call")} <= {"async_redis_cache"}


async def ends(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("fail_open", ["loading", "always", "never"])
async def test_server_that_stops_and_returns(
    private_server: StartServer, api: Api, fail_open: str
) -> None:
    """A server stops under calls of all kinds, with a near cache, and comes back."""
    server = private_server()
    options = near_options("p:", command_timeout=100, fail_open=fail_open)
    async with configured(server.url, api, **options) as cache:
        await trusted(cache)
        with suppress(CacheError):  # On a busy machine, the short deadline may end it.
            await cache.retrieve_or_load(None, "a", lambda: 1, tags=["t"])
        server.stop()
        for _ in range(3):
            await ends(
                *(cache.store(None, str(number), number) for number in range(10)),
                *(cache.retrieve(None, str(number)) for number in range(10)),
                cache.retrieve_or_load(None, "a", lambda: 1, tags=["t"]),
                cache.retrieve_or_load_many(None, ["a", "b"], lambda keys: dict.fromkeys(keys, 1)),
                cache.refresh(None, "a", lambda: 2),
                cache.remove_many(None, ["a", "b"]),
                cache.invalidate_tags(None, "t"),
                cache.clear(None),
            )
        server.start()
        while cache.stats().pending_invalidations or cache.stats().open_circuits:
            with suppress(CacheError):
                await cache.ping(None)
        await trusted(cache)


async def test_network_that_is_cut(server: Server, proxy: StartProxy, api: Api) -> None:
    """Connections that are reset, silenced and cut while calls are under way, until the close."""
    network = proxy(server)
    options = near_options("p:", command_timeout=100, connect_timeout=200)
    cache = configured(network.url, api, **options)
    while not cache.is_open():
        with suppress(CacheError):  # On a busy machine an attempt may take longer.
            await cache.open(None)
    async with cache:
        await trusted(cache)
        for harm in (network.cut, network.black_hole, network.cut):
            calls = [cache.retrieve_or_load(None, str(number), lambda: 1) for number in range(20)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0)
            harm()
            await ends(*tasks)
            network.heal()
        network.black_hole()
        await ends(cache.store(None, "key", 1))


async def test_background_load_that_fails(server: Server, api: Api) -> None:
    """A loader that is called ahead of time, for no caller, raises: once, and again."""
    failed: list[int] = []

    def load() -> int:
        if failed:
            failed.append(1)
            raise OSError("s3cret")
        failed.append(0)
        return 1

    async with configured(server.url, api) as cache:
        for _ in range(3):
            with suppress(OSError):
                await cache.retrieve_or_load(None, "key", load, 60_000, refresh_at=1e-9)
        await await_until(lambda: len(failed) > 1)


async def test_loaders_that_fail_without_callers(server: Server) -> None:
    """Loaders of one key and of many fail when the callers that they were called for have left."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def load_all(keys: list[str]) -> dict[str, int]:
        started.set()
        try:
            await go_on.wait()
        finally:
            raise OSError("s3cret")

    async with configured(server.url) as cache:
        coalescing = CoalescingLoader(load_all)
        calls = [
            asyncio.create_task(cache.retrieve_or_load(None, str(number), coalescing))
            for number in range(10)
        ]
        many = asyncio.create_task(cache.retrieve_or_load_many(None, ["x", "y"], load_all))
        await started.wait()
        for call in (*calls, many):
            call.cancel()
        await ends(*calls, many)
        go_on.set()


@pytest.mark.parametrize("required", [True, False])
async def test_open_that_is_refused(private_server: StartServer, api: Api, required: bool) -> None:
    """A login, a permission and a command that are refused, at `open`."""
    server = private_server(
        password="right",
        acl={"ann": "on >secret ~* +@all -client|tracking", "bob": "on >secret ~* -@all"},
        config={"rename-command": "EVAL EVAL-renamed"},
    )
    for user, options in (
        ("ann", near_options("p:")),
        ("bob", {}),
        ("carol", {}),
        ("ann", {"max_size": 10}),
    ):
        url = server.login_url(user, "secret")
        cache = configured(url, api, require_connection=required, **options)
        with pytest.raises(CacheError):
            await cache.open(None)


async def test_close_under_calls(server: Server, proxy: StartProxy, api: Api) -> None:
    """A close while calls wait for a server that does not answer."""
    network = proxy(server)
    cache = configured(network.url, api, command_timeout=1_000, connect_timeout=2_000)
    await cache.open(None)
    network.black_hole("to_client")
    tasks = [
        asyncio.ensure_future(cache.retrieve_or_load(None, str(number), lambda: 1))
        for number in range(10)
    ]
    await await_until(lambda: network.counts["MGET"] > 0)
    await cache.close(None)
    await ends(*tasks)
