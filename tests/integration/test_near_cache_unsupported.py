"""A server or user that does not support tracking: a typed error names the option, and nothing is cached locally."""

from __future__ import annotations

import asyncio
import time

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CacheUnsupported
from harness import StartProxy, StartServer, await_until
from harness.apis import Api, configured
from harness.near_waiting import PREFIX, cached_locally, seen, trusted
from harness.scripted_server import ScriptedServer

pytest_plugins = ["near_fixtures", "program_fixtures"]

HELLO = b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"
UNABLE: dict[str, dict[str, bytes]] = {
    "no HELLO": {"HELLO": b"-ERR unknown command 'HELLO'\r\n"},
    "RESP2 alone": {"HELLO": b"-NOPROTO unsupported protocol version\r\n"},
    "no TRACKING": {"HELLO": HELLO, "CLIENT": b"-ERR Unknown subcommand 'TRACKING'\r\n"},
    "no RESP3 after all": {"HELLO": HELLO, "CLIENT": b"-ERR Client tracking needs RESP3\r\n"},
    "not allowed": {"HELLO": HELLO, "CLIENT": b"-NOPERM no permissions to run 'client'\r\n"},
}
NOT_ALLOWED = {"not TRACKING": "-client|tracking", "not CLIENT": "-client"}


async def refusal(cache: AsyncRedisCache) -> None:
    """Open is refused, once and again, with the option's name; the cache stays closed."""
    for _ in range(2):
        with pytest.raises(CacheUnsupported) as caught:
            await cache.open("t")
        assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "t")
        assert "near_cache.enabled" in str(caught.value)
        assert "secret" not in f"{caught.value!r} {caught.value}"
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert not cache.is_open()
    stats = cache.stats()
    assert (stats.near_connected, stats.near_entries, stats.errors) == (False, 0, 2)


@pytest.mark.no_leaks
@pytest.mark.parametrize("required", [True, False], ids=["required", "not required"])
async def test_a_fake_server(api: Api, required: bool) -> None:
    """`fake://` has no tracking; nothing of it is left either."""
    options = {"near_cache_enabled": True, "require_connection": required}
    await refusal(configured("fake://", api, **options))
    async with configured("fake://", api) as cache:
        await cache.store(None, "key", 1)
        assert cache.stats().near_connected is False


@pytest.mark.parametrize("required", [True, False], ids=["required", "not required"])
@pytest.mark.parametrize("what", UNABLE)
async def test_an_old_server(what: str, required: bool) -> None:
    """Servers before Redis 6, and what else refuses RESP3 or tracking: no connection is left."""
    async with ScriptedServer(**UNABLE[what]) as server:
        options = {"near_cache_enabled": True, "require_connection": required}
        await refusal(configured(server.url, **options))
        await await_until(lambda: server.open_now == 0)
        connections = server.connections
        async with configured(server.url) as plain:
            await plain.ping(None)
        assert server.connections == connections + 1


@pytest.mark.no_leaks
@pytest.mark.parametrize("required", [True, False], ids=["required", "not required"])
@pytest.mark.parametrize("rules", NOT_ALLOWED.values(), ids=list(NOT_ALLOWED))
@pytest.mark.depends_on("server")
async def test_user_without_permission_raises(
    private_server: StartServer, proxy: StartProxy, api: Api, rules: str, required: bool
) -> None:
    """Without CLIENT TRACKING in the user's rules the near cache is refused, and only that is."""
    network = proxy(private_server(acl={"ann": f"on >secret ~* +@all {rules}"}))
    url = network.login_url("ann", "secret")
    options = {"near_cache_enabled": True, "require_connection": required}
    await refusal(configured(url, api, **options))
    await await_until(lambda: network.open_now == 0)
    async with configured(url, api) as cache:
        await cache.store(None, "key", 1)


async def test_what_a_user_must_be_allowed(private_server: StartServer, api: Api) -> None:
    """The least that it takes beside what a plain cache needs: PTTL and CLIENT TRACKING."""
    rules = "on >secret ~near:* +set +mget +ping +pttl +client|tracking"
    server = private_server(acl={"ann": rules})
    options = {"near_cache_enabled": True, "key_prefix": PREFIX, "max_size": 0}
    async with configured(server.login_url("ann", "secret"), api, **options) as cache:
        await cache.store(None, "key", 1)
        await cached_locally(cache, "key")


@pytest.mark.parametrize("answers", [{}, {"HELLO": HELLO}], ids=["HELLO", "TRACKING"])
async def test_silent_server_raises(answers: dict[str, bytes]) -> None:
    """Silence at any step of arming the link ends open by `connect_timeout`, typed."""
    async with ScriptedServer(**answers) as server:
        options = {"near_cache_enabled": True, "connect_timeout": 200}
        # The server says nothing for ever: open ends by itself or not at all.
        with pytest.raises(CacheError) as caught:
            await configured(server.url, **options).open(None)
        assert caught.value.code in {"TIMEOUT", "CONNECT_FAILED", "CONNECTION_LOST"}
        await await_until(lambda: server.open_now == 0)
        async with configured(server.url, require_connection=False, **options) as cache:
            await cache.ping(None)
            assert not cache.stats().near_connected
        await await_until(lambda: server.open_now == 0)


async def test_server_that_starts_later_without_support_is_logged(
    private_server: StartServer, proxy: StartProxy, api: Api
) -> None:
    """If support could not be checked at open, the cache serves from the server, never stale, until tracking works."""
    server = private_server(acl={"ann": "on >secret ~* +@all -client|tracking"})
    network = proxy(server)
    server.stop()
    options = {"near_cache_enabled": True, "require_connection": False, "key_prefix": PREFIX}
    async with configured(network.login_url("ann", "secret"), api, **options) as cache:
        server.start()
        await cache.store(None, "key", 0)
        with server.client() as raw:
            begun, refused = time.monotonic(), network.counts["CLIENT"]
            turn = 0
            while network.counts["CLIENT"] < refused + 6:
                turn += 1
                raw.set(f"{PREFIX}key", str(turn))
                assert await cache.retrieve(None, "key") == turn
                await asyncio.sleep(0)
            # It goes on asking, and not so often that it would be a burden.
            assert time.monotonic() - begun > 0.2
            stats = cache.stats()
            assert (stats.near_connected, stats.near_entries, stats.near_hits) == (False, 0, 0)
            raw.execute_command("ACL", "SETUSER", "ann", "+client|tracking")
            await trusted(cache)
            await cached_locally(cache, "key")
            raw.set(f"{PREFIX}key", b'"new"')
            await seen(cache, "key", "new")
