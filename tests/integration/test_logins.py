"""Refused logins raise at once: one attempt, and no secret in any message."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_commons.errors import ConfigException, UnauthorizedException

from async_redis_cache import CacheAuthError, CacheError
from harness import Proxy, await_until
from harness.apis import APIS, Api, configured
from harness.figures import report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from async_redis_cache import AsyncRedisCache
    from harness import Client, Server, StartProxy, StartServer

SECRETS = ("s3same-0pen", "w1zard-user", "c0nfidential", "priv4te-key")
PASSWORD, USER, VALUE, KEY = SECRETS


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs refuse alike."""
    chosen: Api = request.param
    return chosen


def everything(error: BaseException) -> str:
    """All that a log, a debugger or a traceback would show of an error, and of all behind it."""
    shown: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None:
            shown += [str(one), repr(one), repr(one.args), repr(vars(one))]
            shown += traceback.format_exception(one)
            pending += [one.__cause__, one.__context__]
    shown.append(repr(pickle.loads(pickle.dumps(error))))
    return "\n".join(shown)


async def refused(cache: AsyncRedisCache, caplog: pytest.LogCaptureFixture) -> CacheAuthError:
    """The error that open raises; checks that neither it nor the log contains a secret."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    try:
        with pytest.raises(CacheAuthError) as caught:
            await cache.open("t")
        gc.collect()
        await asyncio.sleep(0)
    finally:
        asyncio.get_running_loop().set_debug(False)
    assert caught.value.trace_id == "t"
    said = everything(caught.value) + caplog.text + repr(cache)
    for secret in SECRETS:
        assert secret not in said
    assert not cache.is_open()
    return caught.value


@pytest.fixture
def network(private_server: StartServer, proxy: StartProxy) -> Proxy:
    """In front of a server with a login, counting."""
    acl = {
        "off": f"off >{PASSWORD} ~* +@all",
        "nobody": f"on >{PASSWORD} ~* -@all",
        "reader": f"on >{PASSWORD} ~* +@all -select",
    }
    return proxy(private_server(password="the right one", acl=acl))


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("user", ["", "default", USER, "off"])
@pytest.mark.depends_on("server")
async def test_a_wrong_login(
    network: Proxy,
    caplog: pytest.LogCaptureFixture,
    api: Api,
    user: str,
    required: bool,
) -> None:
    """14. A wrong password or user makes one attempt on one connection, with and without `require_connection`."""
    url = network.login_url(user, PASSWORD)
    cache = configured(url, api, require_connection=required, retries=5)
    error = await refused(cache, caplog)
    assert error.code == "BAD_CREDENTIALS"
    assert isinstance(error, ConfigException)
    assert network.opened == 1
    assert network.counts["AUTH"] == 1
    with network.server.client() as raw:
        entries = raw.acl_log()
        assert sum(int(entry["count"]) for entry in entries) == 1
    await await_until(lambda: network.open_now == 0)
    report(14, f"{network.opened} connection, {network.counts['AUTH']} login")


async def test_a_missing_login(network: Proxy, caplog: pytest.LogCaptureFixture, api: Api) -> None:
    """A server that requires a login and gets none: the same error, in one attempt."""
    error = await refused(configured(network.login_url("", ""), api), caplog)
    assert error.code == "BAD_CREDENTIALS"
    assert network.opened == 1
    await await_until(lambda: network.open_now == 0)


async def test_user_without_permissions_raises(
    network: Proxy, caplog: pytest.LogCaptureFixture, api: Api
) -> None:
    """14. A user who can log in but may run no command, or not select the database: NOPERM from `open`."""
    for user, database in (("nobody", 0), ("reader", 1)):
        opened = network.opened
        url = network.login_url(user, PASSWORD, database)
        error = await refused(configured(url, api, require_connection=False), caplog)
        assert error.code == "NOPERM"
        assert isinstance(error, UnauthorizedException)
        assert network.opened == opened + 1
    await await_until(lambda: network.open_now == 0)


@pytest.fixture(params=["bounded", "unbounded"])
async def limited(
    request: pytest.FixtureRequest, private_server: StartServer, proxy: StartProxy, api: Api
) -> AsyncIterator[tuple[AsyncRedisCache, Proxy, Client]]:
    """A cache whose user may touch only some keys, and not remove any."""
    rules = f"on >{PASSWORD} ~shop:* +@all -unlink -getdel -flushall"
    network = proxy(private_server(acl={USER: rules}))
    options: dict[str, Any] = {"max_size": 100 if request.param == "bounded" else 0}
    url = network.login_url(USER, PASSWORD)
    prefix = "shop:" if request.param == "bounded" else ""
    async with configured(url, api, key_prefix=prefix, **options) as cache:
        with network.server.client() as raw:
            yield cache, network, raw


async def test_a_forbidden_command(
    limited: tuple[AsyncRedisCache, Proxy, Client], caplog: pytest.LogCaptureFixture
) -> None:
    """14. A command that the user may not run raises NOPERM without a retry; other calls are unaffected."""
    cache, network, _ = limited
    caplog.set_level(logging.DEBUG)
    await cache.store(None, f"shop:{KEY}", VALUE)
    network.forget()
    before = cache.stats()
    with pytest.raises(CacheError) as caught:
        await cache.remove("t", f"shop:{KEY}")
    assert isinstance(caught.value, CacheAuthError), caught.value.code
    assert caught.value.code == "NOPERM"
    assert sum(network.counts.values()) == 1
    assert cache.stats().retries == before.retries
    said = everything(caught.value) + caplog.text
    assert not any(secret in said for secret in SECRETS)
    assert await cache.retrieve(None, f"shop:{KEY}") == VALUE
    assert network.opened == 1


async def test_forbidden_key_fails_no_other_key(
    private_server: StartServer, proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Of calls that travel together only those for forbidden keys are refused."""
    caplog.set_level(logging.DEBUG)
    network = proxy(private_server(acl={USER: f"on >{PASSWORD} ~shop:* +@all"}))
    url = network.login_url(USER, PASSWORD)
    for retries in (0, 3):
        async with configured(url, max_size=0, retries=retries) as cache:
            await cache.store_many(None, {f"shop:{number}": number for number in range(20)})
            keys = [f"shop:{number}" for number in range(20)]
            keys[5:5] = [KEY]
            answers = await asyncio.gather(
                *(cache.retrieve("t", key) for key in keys),
                *(cache.store("t", key, VALUE) for key in keys),
                return_exceptions=True,
            )
            refusals = [answer for answer in answers if isinstance(answer, BaseException)]
            assert len(refusals) == 2
            assert {answers.index(refusal) for refusal in refusals} == {5, 21 + 5}
            for refusal in refusals:
                assert isinstance(refusal, CacheAuthError)
                assert (refusal.code, refusal.trace_id) == ("NOPERM", "t")
                said = everything(refusal) + caplog.text
                assert not any(secret in said for secret in SECRETS)
    assert network.opened <= 2 * 4


async def test_a_password_that_changes(private_server: StartServer, api: Api) -> None:
    """14. A login that is rejected after `open` raises in each caller, without retries."""
    server: Server = private_server(password="first")
    raw = server.client()
    async with configured(server.url, api) as cache:
        await cache.store(None, "key", 1)
        raw.config_set("requirepass", "second")
        raw.client_kill_filter(_type="normal", skipme=True)
        for _ in range(3):
            before = cache.stats()
            with pytest.raises(CacheAuthError) as caught:
                await cache.retrieve("t", "key")
            assert (caught.value.code, caught.value.trace_id) == ("BAD_CREDENTIALS", "t")
            assert cache.stats().connects == before.connects
        raw.config_set("requirepass", "first")
        value = None
        while value is None:
            with contextlib.suppress(CacheAuthError):
                value = await cache.retrieve(None, "key")
        assert value == 1
