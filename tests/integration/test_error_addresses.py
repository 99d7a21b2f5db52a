"""Error messages name the address of the server, and no login, key or value."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness.apis import Api, configured

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from harness import StartProxy, StartServer

pytest_plugins = ["near_fixtures"]
pytestmark = pytest.mark.depends_on("api")

SECRETS = ("carol", "s3cret", "PASSWORD")


async def message_of(call: Awaitable[object]) -> str:
    """What the error says that a call ends in."""
    with pytest.raises(CacheError) as caught:
        await call
    assert not any(secret in f"{caught.value} {caught.value!r}" for secret in SECRETS)
    return f"{caught.value.code} {caught.value.message}"


async def test_message_names_server(
    private_server: StartServer, proxy: StartProxy, api: Api
) -> None:
    """A lost connection, a deadline, an open circuit and a refused login name host and port."""
    server = private_server(acl={"carol": "on >PASSWORD ~* +@all"})
    network = proxy(server)
    place = network.url.removeprefix("redis://").partition("/")[0].rpartition("@")[2]
    url = network.login_url("carol", "PASSWORD")
    # `open` may take its time on a busy machine; the calls end by their own deadline.
    async with configured(url, api, command_timeout=100, fail_open="never") as cache:
        network.black_hole("to_client")
        said = ""
        while place not in said:  # A call that a stall ends before it is sent has met no server.
            said = await message_of(cache.retrieve(None, "s3cret"))
        assert said == f"TIMEOUT {place}: no reply within the deadline of the call"
        said = ""
        while place not in said:
            said = await message_of(cache.store(None, "s3cret", "s3cret"))
        assert said.startswith((f"OUTCOME_UNKNOWN {place}: ", f"TIMEOUT {place}: "))
        said = ""
        while not said.startswith("BREAKER_OPEN"):
            said = await message_of(cache.retrieve_or_load(None, "s3cret", lambda: "s3cret"))
    assert f"BREAKER_OPEN {place}: the circuit is open" in said
    nowhere = configured("redis://carol:PASSWORD@127.0.0.1:1", api)
    said = await message_of(nowhere.open(None))
    assert said.startswith("CONNECT_FAILED could not connect to 127.0.0.1:1: connection refused;")
    refused = configured(server.login_url("carol", "s3cret"), api)
    said = await message_of(refused.open(None))
    assert said == (
        f"BAD_CREDENTIALS {server.host}:{server.port}: the server rejected the login: check user and "
        "password"
    )


async def test_unknown_host_name_is_named(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    """Where name resolution fails, the error says so, with the host and port."""

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = await message_of(configured("redis://carol:PASSWORD@cache.example:6379", api).open(None))
    assert said == "CONNECT_FAILED could not connect to cache.example:6379: name not known"


async def test_missing_database_is_named(private_server: StartServer, api: Api) -> None:
    """A database number that the server does not have is named with the server."""
    server = private_server(password="PASSWORD")
    said = await message_of(
        configured(server.login_url("", "PASSWORD", database=99), api).open(None)
    )
    assert said == f"BAD_OPTION database 99 does not exist on {server.host}:{server.port}"


async def test_overloaded_names_options(private_server: StartServer) -> None:
    """A call that finds no room names the options that bound it."""
    server = private_server()
    options: dict[str, Any] = {"max_waiting_calls": 1, "max_connections": 1}
    async with AsyncRedisCache.from_url(server.url, **options) as cache:
        calls = (cache.retrieve(None, str(number)) for number in range(20))
        ends = await asyncio.gather(*calls, return_exceptions=True)
    overloaded = [end for end in ends if isinstance(end, CacheError) and end.code == "OVERLOADED"]
    assert overloaded
    assert "options.max_waiting_calls" in overloaded[0].message
