"""Unreachable servers and unreadable values are logged once, not per call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import CacheError, CacheInputError, RedisCache, cached
from async_redis_cache._common.health_log import HealthLog, Record
from async_redis_cache._common.log_events import UNREADABLE
from harness.apis import Api, configured

if TYPE_CHECKING:
    from harness import Client, Server, StartServer
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures", "near_fixtures"]
pytestmark = pytest.mark.depends_on("api")


async def test_fail_open_is_logged_once_per_outage(
    private_server: StartServer, api: Api, logged: LogRecorder
) -> None:
    """Calls that return what an empty cache would are one record, and one more in the next outage."""
    server = private_server()
    options = {"fail_open": "always", "command_timeout": 100, "name": "products"}
    async with configured(server.url, api, **options) as cache:
        for outage in (1, 2):
            server.stop()
            for number in range(10):
                assert await cache.retrieve(None, f"s3cret{number}") is None
            assert logged.count("failed_open") == outage
            server.start()
            while logged.count("server_up", "circuit_closed") < logged.count(
                "server_down", "circuit_opened"
            ):
                with suppress(CacheError):
                    await cache.ping(None)
    record = next(one for one in logged.records if one.__dict__["cache_event"] == "failed_open")
    assert "options.fail_open is always" in record.getMessage()
    assert record.__dict__["cache_name"] == "products"
    assert not any("s3cret" in repr(vars(one)) for one in logged.records)


async def test_unreadable_value_is_logged_once(
    server: Server, raw: Client, api: Api, logged: LogRecorder
) -> None:
    """Values that cannot be read are counted, and one record says what made the first unreadable."""
    async with configured(server.url, api, key_prefix="p:") as cache:
        for number in range(5):
            raw.set(f"p:{number}", b"{s3cret")
            assert await cache.retrieve(None, str(number)) is None
        assert cache.stats().unreadable == 5
    (record,) = logged.records
    assert record.__dict__["cache_event"] == "unreadable_values"
    assert record.__dict__["cache_code"] == "DecodeError"
    assert "s3cret" not in repr(vars(record))


async def test_loaded_value_of_another_type_is_not_unreadable(
    server: Server, api: Api, logged: LogRecorder
) -> None:
    """A loader result of another type raises: no stored value is unreadable."""
    async with configured(server.url, api) as cache:
        with pytest.raises(CacheInputError):
            await cache.retrieve_or_load(None, "key", lambda: "text", type=int)
        assert cache.stats().unreadable == 0
    assert logged.events == []


def test_once_logs_once_from_many_threads() -> None:
    """Threads that meet the same thing at the same time log it once."""
    records: list[Record] = []
    health_log = HealthLog("here", records.append)
    health_log.begin()
    start = threading.Barrier(8)

    def meet(_: int) -> None:
        start.wait()
        for number in range(50):
            health_log.once(UNREADABLE, str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(meet, range(8)))
    assert sorted(record.subject for record in records) == sorted(map(str, range(50)))


prices: list[int] = []


def price_once(name: str) -> int:
    """A price while there is one; then the origin fails."""
    if prices:
        return prices.pop()
    raise OSError("s3cret")


def test_cached_function_of_background_failure_is_named(
    server: Server, logged: LogRecorder
) -> None:
    """A background load that fails is logged with the cached function and its exception's type."""
    prices[:] = [1]
    # A failed refresh is retried when its lease has expired.
    options: dict[str, Any] = {"name": "products", "loading_lease_timeout": 200}
    with RedisCache.from_url(server.url, **options) as cache:
        price = cached(cache, refresh_at=1e-9)(price_once)
        while not logged.count("refresh_failed"):
            assert price("s3cret") == 1
        failures = cache.stats().load_failures
        while cache.stats().load_failures == failures:
            assert price("s3cret") == 1
    (record,) = logged.records
    assert record.__dict__["cache_subject"] == f"{__name__}.price_once"
    assert record.__dict__["cache_code"] == "OSError"
    assert "s3cret" not in repr(vars(record))
