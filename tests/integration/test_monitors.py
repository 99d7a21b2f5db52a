"""Loggers and counters of the framework's container."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from pip_services4_components.refer import Descriptor, References
from pip_services4_observability.count import CachedCounters, CounterType
from pip_services4_observability.log import Logger, LogLevel

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache._runtime import monitors as _monitors
from harness import Server, StartServer, await_until
from harness.apis import Api, configured

pytest_plugins = ["near_fixtures"]
pytestmark = pytest.mark.depends_on("api")


class Lines(Logger):
    """The framework's logger, that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[tuple[int, str]] = []
        self.threads: set[int] = set()

    def _write(self, level: Any, context: Any, error: Any, message: Any) -> None:
        self.threads.add(threading.get_ident())
        self.lines.append((level, message))


class Counts(CachedCounters):
    """The framework's counters, that are saved nowhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def _save(self, counters: Any) -> None:
        pass

    def of(self, name: str) -> tuple[float | None, float | None]:
        """What was counted under this name, and its last level."""
        found = {counter.name: counter for counter in self.get_all()}
        counter: Any = found.get(name)
        return (None, None) if counter is None else (counter.count, counter.last)


def references(*components: object) -> References:
    """A container that holds these."""
    tuples: list[object] = []
    for number, component in enumerate(components):
        kind = "counters" if hasattr(component, "increment") else "logger"
        tuples += [Descriptor("test", kind, "memory", f"n{number}", "1.0"), component]
    return References.from_tuples(*tuples)


async def test_loggers_get_messages(private_server: StartServer, api: Api) -> None:
    """Each logger gets the messages of the log, on a thread of its own, in order."""
    server = private_server()
    loggers = [Lines(), Lines()]
    cache = configured(server.url, api, retries=0, name="products")
    cache.set_references(references(*loggers))
    async with cache:
        server.stop()
        for _ in range(10):
            with pytest.raises(CacheError):
                await cache.retrieve(None, "key")
        server.start()
        while len(loggers[1].lines) < 2:
            try:
                await cache.ping(None)
            except CacheError:
                continue
    place = f"{server.host}:{server.port}"
    for logger in loggers:
        assert logger.lines == [
            (
                LogLevel.Warn,
                (
                    f"[products] no connection to {place}: CONNECT_FAILED; calls that need it fail. "
                    "Check the server, the network and the login"
                ),
            ),
            (LogLevel.Info, f"[products] connected to {place} again"),
        ]
        assert threading.get_ident() not in logger.threads


async def test_counts_are_pushed(server: Server, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """From time to time, and at the close: what was counted since, and the levels as they are."""
    monkeypatch.setattr(_monitors, "_INTERVAL", 0.02)
    counts = Counts()
    cache = configured(server.url, api, near_cache_enabled=True, key_prefix="monitors:")
    cache.set_references(references(counts))
    async with cache:
        await cache.store(None, "key", 1)
        for _ in range(3):
            await cache.retrieve(None, "key")
        await await_until(lambda: counts.of("cache.hits") == (3, None))
        await await_until(lambda: counts.of("cache.near_entries") == (None, 1))
        monkeypatch.setattr(_monitors, "_INTERVAL", 1_000)
        await cache.retrieve(None, "other")
    assert counts.of("cache.hits")[0] == 3
    assert counts.of("cache.misses")[0] == 1
    assert counts.get("cache.near_connected", CounterType.LastValue).last == 0
    async with cache:
        await cache.retrieve(None, "key")
    assert counts.of("cache.hits")[0] == 4


async def test_slow_and_broken_monitors_fail_no_call(
    private_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that raises is passed over; one that never returns delays a close, by a bounded time."""
    monkeypatch.setattr(_monitors, "_PATIENCE", 0.05)
    go_on = threading.Event()

    class Broken(Counts):
        def increment(self, name: str, value: float) -> None:
            raise OSError

    class Stuck(Counts):
        def increment(self, name: str, value: float) -> None:
            go_on.wait(300)

    server = private_server()
    counts = Counts()
    cache = configured(server.url)
    cache.set_references(references(Broken(), counts, Stuck()))
    await cache.open(None)
    await cache.store(None, "key", 1)
    async with asyncio.timeout(60):
        await cache.close(None)
    go_on.set()
    await await_until(lambda: counts.of("cache.stores") == (1, None))


async def test_without_them_nothing_is_started(server: Server) -> None:
    """A container without loggers and counters, or none at all, costs neither task nor timer."""
    cache = configured(server.url)
    for found in (None, references()):
        if found is not None:
            cache.set_references(found)
        async with cache:
            monitors: Any = cache._lifecycle._monitors
            assert monitors._timer is monitors._reporting is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # As deserved.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Nobody closed.
def test_closed_loop_leaves_no_task(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A loop closed without closing the cache reports no destroyed tasks."""
    cache = AsyncRedisCache.from_url(server.url)
    cache.set_references(references(Counts(), Lines()))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(cache.open(None))
    loop.run_until_complete(cache.store(None, "key", 1))
    loop.close()

    async def again() -> None:
        async with cache:
            await cache.ping(None)

    asyncio.run(again())
    gc.collect()
    assert caplog.text == ""
