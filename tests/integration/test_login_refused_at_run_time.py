"""A login or a certificate that is refused at run time is handled as an unreachable server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import CacheLoginError
from harness import Certificates, await_until
from harness.apis import APIS, Api, configured
from harness.figures import report

if TYPE_CHECKING:
    from pathlib import Path
    from ssl import SSLContext, SSLObject, SSLSocket

    from harness import Client, StartProxy, StartServer

WINDOW = 1.5
"""Seconds for which attempts are counted."""


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs continue alike."""
    chosen: Api = request.param
    return chosen


def change_password(raw: Client, password: str) -> None:
    """Set the password of the server, and close every other connection."""
    raw.config_set("requirepass", password)
    raw.client_kill_filter(_type="normal", skipme=True)


async def test_loads_succeed_while_the_login_is_refused(
    private_server: StartServer, proxy: StartProxy, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """39. A password rotates under load: no load fails, one record, attempts at the breaker's pace."""
    server = private_server(password="first")
    network = proxy(server)
    caplog.set_level(logging.WARNING)
    loop = asyncio.get_running_loop()
    loads = 0

    async def load_until(end: float) -> None:
        nonlocal loads
        while loop.time() < end:
            assert await cache.retrieve_or_load(None, f"key-{loads}", lambda: 7) == 7
            assert await cache.refresh(None, "key", lambda: 8) == 8
            loads += 1
            await asyncio.sleep(0.01)

    with server.client() as raw:
        async with configured(network.login_url("", "first"), api) as cache:
            await cache.retrieve_or_load(None, "key", lambda: 7)
            change_password(raw, "second")
            network.forget()
            began = loop.time()
            await asyncio.gather(*(load_until(began + WINDOW) for _ in range(4)))
            elapsed = loop.time() - began
            assert cache.stats().open_circuits == 1
            # One at once, then at least half a second apart.
            assert 1 <= network.counts["AUTH"] <= elapsed / 0.5 + 1
            events = [vars(record).get("cache_event") for record in caplog.records]
            assert events.count("server_down") == events.count("circuit_opened") == 1
            report(39, f"{loads} loads, {network.counts['AUTH']} logins in {elapsed:.1f} s")
            raw.config_set("requirepass", "first")
            await await_until(lambda: cache.stats().open_circuits == 0)
            await await_until(lambda: cache.stats().pending_invalidations == 0)
            await cache.store(None, "key", 9)
            assert await cache.retrieve(None, "key") == 9


async def test_plain_calls_raise_while_the_login_is_refused(
    private_server: StartServer, proxy: StartProxy, api: Api
) -> None:
    """Calls that do not load raise the refusal, however many there are, without an attempt for each."""
    server = private_server(password="first")
    network = proxy(server)
    with server.client() as raw:
        async with configured(network.login_url("", "first"), api) as cache:
            await cache.store(None, "key", 1)
            change_password(raw, "second")
            network.forget()
            began = asyncio.get_running_loop().time()
            for _ in range(50):
                with pytest.raises(CacheLoginError):
                    await cache.retrieve(None, "key")
            elapsed = asyncio.get_running_loop().time() - began
            assert network.counts["AUTH"] <= elapsed / 0.5 + 1


async def test_calls_fail_open_while_the_login_is_refused(
    private_server: StartServer, api: Api
) -> None:
    """With `fail_open` `always`, every call returns as from an empty cache."""
    server = private_server(password="first")
    with server.client() as raw:
        async with configured(server.url, api, fail_open="always") as cache:
            await cache.store(None, "key", 1)
            change_password(raw, "second")
            await await_until(lambda: cache.stats().connects == 1)
            assert await cache.store(None, "key", 2) == 2
            assert await cache.retrieve(None, "key") is None


async def test_loads_succeed_while_the_certificate_is_refused(
    private_server: StartServer,
    proxy: StartProxy,
    certificates: Certificates,
    tmp_path: Path,
    api: Api,
) -> None:
    """A certificate that is replaced by an unknown one opens the circuit; the right one closes it."""
    trusted = certificates.server_context()
    presented = trusted

    def choose(ssl_object: SSLObject | SSLSocket, _name: str | None, _context: SSLContext) -> None:
        ssl_object.context = presented

    trusted.sni_callback = choose
    server = private_server()
    network = proxy(server, tls=trusted)
    options = {"tls_ca_file": str(certificates.ca_file)}
    with server.client() as raw:
        async with configured(network.url, api, **options) as cache:
            await cache.store(None, "key", 1)
            presented = Certificates.create(tmp_path, "elsewhere.example").server_context()
            raw.client_kill_filter(_type="normal", skipme=True)
            loads = 0
            while cache.stats().open_circuits == 0:
                assert await cache.retrieve_or_load(None, f"key-{loads}", lambda: 7) == 7
                loads += 1
            # Without an attempt to connect, since the circuit is open.
            assert await cache.retrieve_or_load(None, "key", lambda: 8) == 8
            presented = trusted
            await await_until(lambda: cache.stats().open_circuits == 0)
