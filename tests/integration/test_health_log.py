"""One log record per change of state, not per failure."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache._common.health_log import HealthLog, Record
from async_redis_cache._common.log_events import CIRCUIT, EVENTS, SERVER
from harness import Server, StartProxy, StartServer, await_until
from harness.apis import Api, configured
from harness.near import near_options, trusted
from harness.stalls import outlasting_stalls

if TYPE_CHECKING:
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures", "near_fixtures"]
pytestmark = pytest.mark.depends_on("api")

DEADLINE = 100
NOWHERE = "redis://127.0.0.1:1"


async def fail(cache: AsyncRedisCache, times: int = 5) -> None:
    """So many reads at once, and so many one after the other, all in vain."""
    reads = [cache.retrieve(None, f"key{number}") for number in range(times)]
    ends = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(end, CacheError) for end in ends)
    for _ in range(times):
        with pytest.raises(CacheError):
            await cache.retrieve(None, "key")


async def answers(cache: AsyncRedisCache) -> bool:
    """Whether the server is there."""
    try:
        await cache.ping(None)
    except CacheError:
        return False
    return True


async def until_it_answers(cache: AsyncRedisCache) -> None:
    async with asyncio.timeout(60):
        while not await answers(cache):
            pass


@given(st.lists(st.booleans()))
def test_failures_and_successes_alternate(ends: list[bool]) -> None:
    """Any number of failures is logged once, and so is any number of successes afterwards."""
    records: list[Record] = []
    health_log = HealthLog("here", records.append)
    health_log.begin()
    for is_well in ends:
        # Each part asks for it anew: what is known of a server outlives who has met it.
        condition = health_log.condition(SERVER)
        if is_well:
            condition.up()
        else:
            condition.down("TIMEOUT")
    changes = [two for one, two in zip([True, *ends], ends, strict=False) if one != two]
    assert [record.event for record in records] == [
        SERVER.up if is_well else SERVER.down for is_well in changes
    ]


def test_servers_and_subjects_are_logged_separately() -> None:
    """Each server of several has its own condition, and each subject."""
    records: list[Record] = []
    health_log = HealthLog("all", records.append)
    health_log.begin()
    for condition in (
        health_log.condition(SERVER, "one"),
        health_log.condition(SERVER, "two"),
        health_log.condition(CIRCUIT),
    ):
        condition.down("TIMEOUT")
    assert [(record.event.name, record.server) for record in records] == [
        ("server_down", "one"),
        ("server_down", "two"),
        ("circuit_opened", "all"),
    ]


def test_filter_that_raises_fails_no_call() -> None:
    """What an application puts into the log's way cannot break the cache."""

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError

    logger = logging.getLogger("async_redis_cache")
    logger.addFilter(refuse)
    try:
        health_log = HealthLog("here")
        health_log.begin()
        health_log.condition(SERVER).down("TIMEOUT")
    finally:
        logger.removeFilter(refuse)


def test_caches_are_logged_by_name() -> None:
    """No two events have the same name or the same text."""
    assert len({event.name for event in EVENTS}) == len({event.text for event in EVENTS})
    assert len({event.name for event in EVENTS}) == len(EVENTS)


async def test_server_down_and_up_are_logged(
    private_server: StartServer, api: Api, logged: LogRecorder
) -> None:
    """Ten calls fail: one warning. The server is back: one record that says so."""
    server = private_server()
    async with configured(server.url, api, retries=0) as cache:
        await cache.store(None, "key", 1)
        assert logged.events == []
        for turn in (1, 2):
            server.stop()
            await fail(cache)
            server.start()
            await until_it_answers(cache)
            assert logged.events == ["server_down", "server_up"] * turn
    lost, found, *_ = logged.records
    place = f"{server.host}:{server.port}"
    assert (lost.levelname, lost.getMessage()) == (
        "WARNING",
        (
            f"[{place}] no connection to {place}: CONNECT_FAILED; calls that need it fail. "
            "Check the server, the network and the login"
        ),
    )
    assert (found.levelname, found.getMessage()) == (
        "INFO",
        f"[{place}] connected to {place} again",
    )


async def test_silent_server_is_logged_as_down(
    private_server: StartServer, logged: LogRecorder
) -> None:
    """So is one that accepts connections and never answers."""
    server = private_server()
    options = {"command_timeout": DEADLINE, "connect_timeout": DEADLINE}
    cache = configured(server.url, **options)
    # On a busy machine an attempt may take longer than the deadline; what fails before `open` is not logged.
    while not cache.is_open():
        with suppress(CacheError):
            await cache.open(None)
    async with cache:
        server.freeze()
        while not logged.events:
            assert not await answers(cache)
        server.thaw()
        await until_it_answers(cache)
    # Where the machine stalls for as long as the deadline, it is down once more.
    assert logged.events == ["server_down", "server_up"] * max(1, len(logged.events) // 2)


async def test_lost_connection_is_not_logged_as_server_down(
    server: Server, proxy: StartProxy, logged: LogRecorder
) -> None:
    """A connection that ends and is made again is nothing to tell, nor is one that has its age."""
    network = proxy(server)
    async with configured(network.url, max_connection_age=50) as cache:
        connects = cache.stats().connects
        while cache.stats().connects < connects + 5:
            network.cut()
            await cache.store(None, "key", 1)
    assert logged.events == []


async def test_expired_channel_is_not_logged_as_down(server: Server, logged: LogRecorder) -> None:
    """A channel that reconnects for its age logs nothing."""

    async def expire(heartbeat: float) -> None:
        # At a heartbeat, the age of the channel is looked at.
        milliseconds = int(heartbeat * 1000)
        options = near_options("age:", max_connection_age=50, near_cache_heartbeat=milliseconds)
        logged.records.clear()
        async with configured(server.url, **options) as cache:
            flushes = cache.stats().near_flushes
            await await_until(lambda: cache.stats().near_flushes >= flushes + 3)
            await trusted(cache)
        assert logged.events == []

    await outlasting_stalls(expire, 0.2, 2.0)


async def test_failed_open_raises_and_logs_nothing(logged: LogRecorder, api: Api) -> None:
    """Without a server `open` raises and logs nothing; an `open` that succeeds all the same logs the outage."""
    for _ in range(3):
        with pytest.raises(CacheError):
            await configured(NOWHERE, api).open(None)
    assert logged.events == []
    async with configured(NOWHERE, api, require_connection=False, command_timeout=20) as cache:
        await fail(cache, 2)
    assert logged.events == ["server_down"]


async def test_circuit_and_pending_invalidations_are_logged(
    private_server: StartServer, api: Api, logged: LogRecorder
) -> None:
    """One record when the circuit opens and one when it closes; one when invalidations are pending and one when they are flushed."""
    server = private_server()
    async with configured(server.url, api, retries=0) as cache:
        await cache.store(None, "key", 1)
        server.stop()
        for number in range(5):
            for key in ("key", f"key{number}"):
                with suppress(CacheError):
                    await cache.store(None, key, number)
            assert await cache.retrieve_or_load(None, "key", lambda: 7) == 7
        worse = ["circuit_opened", "invalidations_pending", "server_down"]
        assert sorted(logged.events) == worse
        server.start()
        await await_until(
            lambda: not cache.stats().pending_invalidations and not cache.stats().open_circuits
        )
        await await_until(lambda: len(logged.events) == 6)
    assert sorted(logged.events[3:]) == ["circuit_closed", "invalidations_flushed", "server_up"]


async def test_later_change_flushes_a_pending_invalidation(
    private_server: StartServer, logged: LogRecorder
) -> None:
    """A later change of the pending key that succeeds flushes it, and is logged."""
    server = private_server()
    async with configured(server.url, retries=0) as cache:
        server.stop()
        with pytest.raises(CacheError):
            await cache.store(None, "key", 1)
        server.start()
        while logged.count("invalidations_flushed") == 0:
            with suppress(CacheError):
                await cache.store(None, "key", 2)
    assert (logged.count("invalidations_pending"), logged.count("invalidations_flushed")) == (1, 1)


async def test_invalidation_channel_down_and_up_are_logged(
    private_server: StartServer, api: Api, logged: LogRecorder
) -> None:
    """The channel is down for a while: one record. It is up again: another."""
    server = private_server()
    options = near_options("near:", retries=0, near_cache_heartbeat=10_000)
    async with configured(server.url, api, **options) as cache:
        await trusted(cache)
        server.stop()
        await await_until(lambda: not cache.stats().near_connected)
        await fail(cache, 5)
        server.start()
        await trusted(cache)
        await until_it_answers(cache)
    assert [
        logged.count(name) for name in ("invalidation_channel_down", "invalidation_channel_up")
    ] == [1, 1]
    assert sorted(logged.events[:2]) == ["invalidation_channel_down", "server_down"]


async def test_refused_channel_is_logged(private_server: StartServer, logged: LogRecorder) -> None:
    """A channel that the server keeps refusing is logged once."""
    server = private_server(acl={"shop": "on >secret ~* +@all"})
    url = server.login_url("shop", "secret")
    async with AsyncRedisCache.from_url(
        url, **near_options("near:", near_cache_heartbeat=10_000)
    ) as cache:
        await trusted(cache)
        with server.client() as raw:
            raw.execute_command("ACL", "SETUSER", "shop", "-client|tracking")
            raw.execute_command("CLIENT", "KILL", "USER", "shop")
            await await_until(lambda: logged.count("invalidation_channel_down"))
            refused = raw.info("commandstats")["cmdstat_client|tracking"]["rejected_calls"]
            await await_until(
                lambda: (
                    raw.info("commandstats")["cmdstat_client|tracking"]["rejected_calls"]
                    > refused + 3
                )
            )
        await until_it_answers(cache)
    assert logged.events == ["invalidation_channel_down"]


async def test_no_secret_is_logged(private_server: StartServer, logged: LogRecorder) -> None:
    """No record holds a login, a key or a value; nor a prefix where the cache has a name."""
    secrets = ("alice", "hunter2", "kettle", "shop:", "pin-4111")
    server = private_server(acl={"alice": "on >hunter2 ~* &* +@all"})
    options: dict[str, Any] = near_options(
        "shop:", retries=0, near_cache_heartbeat=10_000, name="products"
    )
    async with configured(server.login_url("alice", "hunter2"), **options) as cache:
        await trusted(cache)
        server.stop()
        for _ in range(4):
            with suppress(CacheError):
                await cache.store(None, "kettle", "pin-4111")
            await cache.retrieve_or_load(None, "kettle", lambda: "pin-4111")
        server.start()
        await await_until(
            lambda: not cache.stats().pending_invalidations and not cache.stats().open_circuits
        )
        await trusted(cache)
        await until_it_answers(cache)
    assert len(set(logged.events)) == 8
    for record in logged.records:
        assert not any(secret in repr(vars(record)) for secret in secrets)


async def test_close_is_not_logged_as_down(server: Server, logged: LogRecorder, api: Api) -> None:
    """Connections that close with the cache are not logged."""
    options = near_options("near:", near_cache_heartbeat=10_000)
    async with configured(server.url, api, **options) as cache:
        await trusted(cache)
        await cache.store(None, "key", 1)
    assert logged.events == []
