"""Tokens that a provider streams: open connections log in again before the former token ends."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from harness import await_until
from harness.apis import APIS, Api, configured
from harness.near import near_options, trusted
from harness.scripted_server import ScriptedServer
from harness.token_stream import TokenStream

if TYPE_CHECKING:
    from harness import Client, Server, StartServer
    from harness.resp import Command

RULES = "on >{} ~* &* +@all"
STEADY = near_options("", near_cache_heartbeat=10_000)
"""With a push connection that is not replaced when the machine stalls for the time of a heartbeat."""
FIRST, SECOND = ("first-user", "s3cret-1"), ("second-user", "s3cret-2")


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs log in again alike."""
    chosen: Api = request.param
    return chosen


@pytest.fixture
def server(private_server: StartServer) -> Server:
    """A server that accepts two tokens, each with a user of its own, so that they can be told apart."""
    acl = {user: RULES.format(password) for user, password in (FIRST, SECOND)}
    return private_server(acl=acl, password="of the administrator")


@pytest.fixture
def raw(server: Server) -> Client:
    """As the administrator."""
    return server.client()


def connections_of(raw: Client, user: str) -> set[str]:
    """The ids of the connections that are logged in as this user."""
    return {client["id"] for client in raw.client_list() if client["user"] == user}


def has_none(raw: Client, user: str) -> bool:
    """Whether no connection is logged in as this user."""
    return not connections_of(raw, user)


async def test_idle_connections_log_in_again(server: Server, raw: Client, api: Api) -> None:
    """Idle ones and the push connection stay open, and the near cache keeps its entries."""
    provider = TokenStream(*FIRST)
    options: dict[str, Any] = STEADY | {"credential_provider": provider}
    async with configured(server.login_url("", ""), api, **options) as cache:
        await cache.store(None, "key", 1)
        await trusted(cache)
        assert await cache.retrieve(None, "key") == 1
        before = connections_of(raw, FIRST[0])
        flushes = cache.stats().near_flushes
        await provider.stream(*SECOND)
        await await_until(lambda: connections_of(raw, SECOND[0]) == before)
        raw.execute_command("ACL", "DELUSER", FIRST[0])
        assert await cache.retrieve(None, "key") == 1
        assert (cache.stats().near_flushes, cache.stats().connects) == (flushes, 1)
        invalidations = cache.stats().near_invalidations
        raw.set("key", "2")
        await await_until(lambda: cache.stats().near_invalidations > invalidations)
        assert await cache.retrieve(None, "key") == 2


async def test_no_call_fails_while_tokens_change(server: Server, raw: Client, api: Api) -> None:
    """Under load, plain reads and writes included, the former token is revoked as soon as no connection has it."""
    provider = TokenStream(*FIRST)
    url = server.login_url("", "")
    async with configured(url, api, credential_provider=provider, max_connections=2) as cache:
        done = asyncio.Event()

        async def call() -> int:
            calls = 0
            while not done.is_set():
                assert await cache.store(None, "key", 1) == 1
                assert await cache.retrieve(None, "key") == 1
                calls += 2
                await asyncio.sleep(0)
            return calls

        calling = asyncio.gather(*(call() for _ in range(8)))
        logins = [FIRST, SECOND] * 4
        for (former, _), (user, password) in pairwise(logins):
            raw.execute_command("ACL", "SETUSER", user, "reset", *RULES.format(password).split())
            await provider.stream(user, password)
            await await_until(partial(has_none, raw, former))
            raw.execute_command("ACL", "DELUSER", former)
        done.set()
        assert sum(await calling) > 0


async def test_connection_being_opened_is_replaced(server: Server, raw: Client) -> None:
    """It has logged in with the former token, which the provider had returned before."""
    provider = TokenStream(*FIRST)
    url = server.login_url("", "")
    async with AsyncRedisCache.from_url(url, credential_provider=provider) as cache:
        provider.gate.clear()
        raw.client_kill_filter(_type="normal", skipme=True)
        calling = asyncio.create_task(cache.store(None, "key", 1))
        await await_until(lambda: provider.waiting)
        await provider.stream(*SECOND)
        provider.gate.set()
        await calling
        assert await cache.retrieve(None, "key") == 1
        await await_until(lambda: not connections_of(raw, FIRST[0]))
        assert connections_of(raw, SECOND[0])


async def test_caches_share_a_provider(server: Server, raw: Client, api: Api) -> None:
    """A provider has a single callback, and yet every cache logs in again; a closed one does not matter."""
    provider = TokenStream(*FIRST)
    url = server.login_url("", "")
    async with (
        configured(url, api, credential_provider=provider) as one,
        configured(url, api, credential_provider=provider) as other,
    ):
        async with configured(url, api, credential_provider=provider):
            pass
        await one.store(None, "key", 1)
        await other.store(None, "key", 1)
        await provider.stream(*SECOND)
        await await_until(lambda: len(connections_of(raw, SECOND[0])) == 2)
        assert not connections_of(raw, FIRST[0])


async def test_refused_token_closes_no_connection(
    server: Server, raw: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The connections stay logged in as before, and calls succeed; no record names the token."""
    provider = TokenStream(*FIRST)
    options: dict[str, Any] = STEADY | {"credential_provider": provider}
    async with AsyncRedisCache.from_url(server.login_url("", ""), **options) as cache:
        await trusted(cache)
        await provider.stream("unknown", "s3cret-3")
        await await_until(raw.acl_log)
        assert await cache.store(None, "key", 1) == 1
        assert len(connections_of(raw, FIRST[0])) == 2
    assert "s3cret" not in caplog.text


async def test_token_that_is_not_renewed_is_logged(
    server: Server, raw: Client, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with the type of the exception, until a token is streamed again; no call fails."""
    caplog.set_level(logging.INFO)
    provider = TokenStream(*FIRST)
    async with configured(server.login_url("", ""), api, credential_provider=provider) as cache:
        for _ in range(3):
            await provider.fail(PermissionError("s3cret-1"))
        assert await cache.store(None, "key", 1) == 1
        await provider.stream(*SECOND)
        await await_until(lambda: connections_of(raw, SECOND[0]))
    events = [
        (vars(record)["cache_event"], vars(record)["cache_code"]) for record in caplog.records
    ]
    assert events == [("login_not_renewed", "PermissionError"), ("login_renewed", "")]
    assert "s3cret" not in caplog.text


async def test_connection_whose_login_has_ended_is_replaced() -> None:
    """A server may reply NOAUTH instead of closing it: the call succeeds on a new connection, even a write."""
    accepted = 2

    def store(_: Command) -> bytes:
        nonlocal accepted
        accepted -= 1
        return b"+OK\r\n" if accepted else b"-NOAUTH Authentication required.\r\n"

    logins: list[int] = []

    def provider() -> str:
        logins.append(accepted)
        return "s3cret"

    async with (
        ScriptedServer(AUTH=b"+OK\r\n", SET=store) as server,
        AsyncRedisCache.from_url(server.url, credential_provider=provider) as cache,
    ):
        for value in range(3):
            assert await cache.store(None, "key", value) == value
        assert server.connections == len(logins) == 2
