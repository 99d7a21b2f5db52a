"""`options.credential_provider` is asked for every connection, and its failures never stop a load."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from pip_services4_components.config import ConfigParams
from redis.credentials import CredentialProvider

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheLoginError,
    CacheTimeout,
    CacheUnavailable,
)
from harness import await_until
from harness.apis import APIS, Api, configured, new_cache
from harness.figures import report
from harness.near import trusted
from harness.rotation import FIRST, USER, Rotation, accepted, load_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from harness import Server, StartProxy, StartServer


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs ask alike."""
    chosen: Api = request.param
    return chosen


@pytest.fixture
def rotation() -> Rotation:
    """The login that the server accepts."""
    return Rotation()


@pytest.fixture
def guarded(private_server: StartServer, rotation: Rotation) -> Server:
    """A server that requires it."""
    server = private_server(acl=rotation.acl, password="of the administrator")
    rotation.servers = [server.client()]
    return server


def every_kind(login: Callable[[], tuple[str, str]]) -> dict[str, Any]:
    """Everything that may be a provider."""

    class Blocking(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return login()

    class Asynchronous(CredentialProvider):
        def get_credentials(self) -> NoReturn:
            raise NotImplementedError

        async def get_credentials_async(self) -> tuple[str, str]:
            await asyncio.sleep(0)
            return login()

    class Called:
        async def __call__(self) -> tuple[str, str]:
            return login()

    return {
        "function": login,
        "coroutine function": Called().__call__,
        "function that returns a coroutine": lambda: Called()(),  # noqa: PLW0108  a function that is no coroutine function
        "callable object": Called(),
        "provider of redis-py": Blocking(),
        "asynchronous provider of redis-py": Asynchronous(),
    }


def events_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The events of the cache's log records."""
    events = (vars(record).get("cache_event") for record in caplog.records)
    return [event for event in events if event]


@pytest.mark.parametrize("kind", every_kind(Rotation()))
async def test_provider_is_asked_for_each_connection(
    guarded: Server, rotation: Rotation, api: Api, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every kind, and once for each connection."""
    provider = every_kind(rotation)[kind]
    async with configured(guarded.login_url("", ""), api, credential_provider=provider) as cache:
        for number in range(4):
            await cache.store(None, "key", number)
            assert rotation.calls == cache.stats().connects
            rotation.rotate()
            await await_until(lambda: "0 open" in repr(cache))
    assert not [record for record in caplog.records if record.name.startswith("redis")]


async def test_provider_of_a_cache_that_is_configured_from_a_file(
    guarded: Server, rotation: Rotation, api: Api
) -> None:
    """The keyword of the class lasts over configurations; the option precedes it."""
    cache = new_cache(api, credential_provider=rotation)
    config = ConfigParams.from_tuples("uri", guarded.login_url("", ""))
    for _ in range(2):
        cache.configure(config)
        async with cache:
            await cache.store(None, "key", 1)
    assert rotation.calls == cache.stats().connects
    config["options.credential_provider"] = lambda: (USER, "another")
    cache.configure(config)
    with pytest.raises(CacheLoginError):
        await cache.open(None)
    with pytest.raises(CacheConfigError, match="must be a function"):
        new_cache(api, credential_provider=FIRST)


async def test_provider_is_not_asked_for_an_embedded_server(api: Api) -> None:
    """It requires no login."""
    rotation = Rotation()
    async with configured("embedded://", api, credential_provider=rotation) as cache:
        await cache.store(None, "key", 1)
    assert rotation.calls == 0


async def test_provider_serves_every_loop(guarded: Server, rotation: Rotation) -> None:
    """With `any_loop`, coroutine functions run on the private event loop."""
    loops: set[asyncio.AbstractEventLoop] = set()

    async def login() -> tuple[str, str]:
        loops.add(asyncio.get_running_loop())
        return rotation()

    url = guarded.login_url("", "")
    cache = AsyncRedisCache.from_url(url, any_loop=True, credential_provider=login)
    async with cache:
        assert await asyncio.to_thread(asyncio.run, cache.store(None, "key", 1)) == 1
    assert len(loops) == 1
    assert asyncio.get_running_loop() not in loops


async def test_push_connection_asks_the_provider(
    guarded: Server, rotation: Rotation, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """The invalidation channel comes back with the new password."""
    caplog.set_level(logging.INFO)
    options = {"credential_provider": rotation, "near_cache.enabled": True}
    async with configured(guarded.login_url("", ""), api, **options) as cache:
        await trusted(cache)
        rotation.rotate()
        await await_until(lambda: events_in(caplog)[-1:] == ["invalidation_channel_up"])
        await trusted(cache)


async def test_connections_share_a_call_of_a_blocking_provider(
    guarded: Server, rotation: Rotation
) -> None:
    """Two connections that are opened at a time share one; a coroutine that it returns is awaited once."""
    answer = threading.Event()
    calls = 0

    async def login() -> tuple[str, str]:
        return rotation()

    def slow() -> Awaitable[tuple[str, str]]:
        nonlocal calls
        calls += 1
        answer.wait()
        return login()

    options: dict[str, Any] = {"credential_provider": slow, "near_cache_enabled": True}
    cache = AsyncRedisCache.from_url(guarded.login_url("", ""), **options)
    opening = asyncio.create_task(cache.open(None))
    await await_until(lambda: calls)
    # Both have asked by now, or will ask later.
    await asyncio.sleep(0.01)
    assert calls == 1
    answer.set()
    await opening
    await trusted(cache)
    assert rotation.calls == 2
    await cache.close(None)


async def test_blocking_provider_does_not_block_the_loop(
    guarded: Server, rotation: Rotation
) -> None:
    """A function runs in a thread, while the event loop serves other tasks."""
    answer = threading.Event()

    def slow() -> tuple[str, str]:
        answer.wait()
        return rotation()

    url = guarded.login_url("", "")
    cache = AsyncRedisCache.from_url(url, credential_provider=slow)
    opening = asyncio.create_task(cache.open(None))
    await asyncio.sleep(0.01)
    assert not opening.done()
    answer.set()
    await opening
    await cache.close(None)


async def test_loads_succeed_while_the_password_rotates(
    guarded: Server, rotation: Rotation, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """39. The password rotates and connections are closed under load: no load fails."""
    caplog.set_level(logging.WARNING)
    url = guarded.login_url("", "")
    async with configured(url, api, credential_provider=rotation) as cache:
        done = asyncio.Event()
        loading = asyncio.gather(*(load_until(done, cache) for _ in range(4)))
        await rotation.rotate_repeatedly(10, cache)
        done.set()
        loads = sum(await loading)
        await accepted(cache)
        await cache.store(None, "key", 9)
        assert await cache.retrieve(None, "key") == 9
        assert cache.stats().connects > rotation.rotations
    assert loads > 0
    assert not any(secret in caplog.text for secret in ("s3cret", USER))
    report(39, f"{loads} loads during {rotation.rotations} rotations, 0 failed")


async def test_provider_is_asked_again_if_its_login_has_just_ended(
    guarded: Server, rotation: Rotation, api: Api
) -> None:
    """A login that is replaced between the answer and the connection costs no call."""
    answers = [FIRST]

    def late() -> tuple[str, str]:
        return USER, answers.pop(0) if answers else rotation.password

    rotation.rotate()
    async with configured(guarded.login_url("", ""), api, credential_provider=late) as cache:
        assert await cache.store(None, "key", 1) == 1
    assert not answers


async def test_no_log_or_repr_contains_a_secret(
    guarded: Server, rotation: Rotation, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those of the library nor those of redis-py and asyncio, at the lowest level, while logins fail."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    url, fails = guarded.login_url("", ""), False

    async def provider() -> tuple[str, str]:
        if fails:
            raise ValueError(f"no token for {rotation()}")
        return rotation()

    try:
        async with AsyncRedisCache.from_url(url, credential_provider=provider) as cache:
            await cache.store(None, "key", 1)
            opened = cache._lifecycle.opened
            assert opened is not None
            shown = [repr(cache), repr(opened), repr(cache._lifecycle.settings.options)]
            shown += [repr(opened.endpoint), repr(opened.endpoint.login_source)]
            fails = True
            rotation.rotate()
            while not cache.stats().open_circuits:
                await cache.retrieve_or_load(None, "another", lambda: 7)
            with pytest.raises(CacheUnavailable) as caught:
                await cache.retrieve(None, "key")
            error = caught.value
            shown += [repr(error), repr(vars(error)), *traceback.format_exception(error)]
            shown += [repr(error.__cause__), repr(error.__context__)]
    finally:
        asyncio.get_running_loop().set_debug(False)
    said = "\n".join([*shown, caplog.text])
    assert "NO_CREDENTIALS" in said
    assert "s3cret" not in said
    assert "no token" not in said


@pytest.mark.parametrize("problem", ["raised ValueError", "returned neither", "did not return"])
async def test_provider_without_a_login(
    guarded: Server,
    proxy: StartProxy,
    rotation: Rotation,
    *,
    api: Api,
    problem: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that raises, returns nothing or hangs: NO_CREDENTIALS, loads go on, one record, nothing is sent."""
    network = proxy(guarded)
    works, released = True, threading.Event()

    def provider() -> Any:
        if works:
            return rotation()
        if problem == "did not return":
            released.wait()
        if problem == "returned neither":
            return None
        raise ValueError(FIRST)

    try:
        options: dict[str, Any] = {"connect_timeout": 200, "require_connection": False}
        async with configured(
            network.login_url("", ""), api, credential_provider=provider, **options
        ) as cache:
            await cache.store(None, "key", 1)
            works = False
            network.forget()
            rotation.rotate()
            for number in range(30):
                assert await cache.retrieve_or_load(None, f"key-{number}", lambda: 7) == 7
            assert network.counts["AUTH"] == 0
            await await_until(lambda: cache.stats().open_circuits == 1)
            assert events_in(caplog).count("server_down") == 1
            assert "NO_CREDENTIALS" in caplog.text
            works = True
            released.set()
            await await_until(lambda: cache.stats().open_circuits == 0)
        works = False
        released.clear()
        limit: dict[str, Any] = {"connect_timeout": 100} if problem == "did not return" else {}
        cache = configured(network.login_url("", ""), api, credential_provider=provider, **limit)
        with pytest.raises((CacheUnavailable, CacheTimeout)) as caught:
            await cache.open(None)
        # On a busy machine, the time limit of `open` passes before that of the provider is noticed.
        if problem != "did not return" or caught.value.code != "TIMEOUT":
            assert caught.value.code == "NO_CREDENTIALS"
            assert problem in str(caught.value)
        assert (
            FIRST not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        )
    finally:
        released.set()


async def test_hanging_provider_occupies_few_threads(guarded: Server) -> None:
    """A function that never returns occupies at most eight threads, however often it is asked."""
    released = threading.Event()
    options: dict[str, Any] = {"credential_provider": released.wait, "connect_timeout": 10}
    url = guarded.login_url("", "")
    try:
        async with AsyncRedisCache.from_url(url, require_connection=False, **options) as cache:
            failure = ""
            while "does not return" not in failure:
                with pytest.raises(CacheUnavailable) as caught:
                    await cache.retrieve(None, "key")
                failure = str(caught.value)
                named = [thread.name for thread in threading.enumerate()]
                assert named.count("credential provider") <= 8
    finally:
        released.set()


async def test_wrong_login_of_a_provider(guarded: Server, api: Api) -> None:
    """BAD_CREDENTIALS from `open`, as for a login in the configuration."""
    cache = configured(
        guarded.login_url("", ""), api, credential_provider=lambda: (USER, "another")
    )
    with pytest.raises(CacheLoginError) as caught:
        await cache.open(None)
    assert caught.value.code == "BAD_CREDENTIALS"


async def test_provider_replaces_the_login(api: Api) -> None:
    """One in the URI as well is refused, and so is what cannot be a provider; no message quotes it."""
    with pytest.raises(CacheConfigError, match="credential_provider replaces the login"):
        await configured("redis://:pw@host", api, credential_provider=lambda: "x").open(None)
    with pytest.raises(CacheConfigError, match="must be a function") as caught:
        configured("redis://host", api, credential_provider=FIRST)
    assert FIRST not in str(caught.value)


async def test_password_of_the_default_user(private_server: StartServer, api: Api) -> None:
    """A password alone, or as a tuple of one, or with an empty user, logs in the default user."""
    server = private_server(password=FIRST)
    answers: list[Any] = [FIRST, (FIRST,), ("", FIRST), [FIRST]]
    for answer in answers:
        options = {"credential_provider": lambda answer=answer: answer, "near_cache.enabled": True}
        async with configured(server.login_url("", ""), api, **options) as cache:
            await cache.store(None, "key", 1)
