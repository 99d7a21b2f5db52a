"""No call outlives its deadline, and no write is executed after its call has ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache._connection.connection import RedisConnection
from harness import Client, Server, StartProxy, StartServer, await_until, wait_until
from harness.figures import beside_limit, counts, report
from harness.leaks import open_descriptors
from harness.loop_lag import MachineLag, Stopwatch, measured
from harness.run_length import scaled

pytest_plugins = ["fault_fixtures"]
pytestmark = pytest.mark.depends_on()

GRACE_SECONDS = 0.050
MIB = 1024 * 1024

Ask = Callable[[AsyncRedisCache, str], Awaitable[Any]]

KINDS: list[Ask] = [
    lambda cache, key: cache.retrieve(None, key),
    lambda cache, key: cache.store(None, key, key),
    lambda cache, key: cache.retrieve_many(None, [key, f"{key}+"]),
    lambda cache, key: cache.store_many(None, {key: key, f"{key}+": key}),
    lambda cache, key: cache.remove(None, key),
    lambda cache, key: cache.touch(None, key),
    lambda cache, key: cache.contains(None, key),
    lambda cache, key: cache.time_to_live(None, key),
]


async def outcome(call: Awaitable[Any], watch: Stopwatch) -> str:
    """How a call ends: OK, or the code of its error; and when."""
    with watch.timed():
        try:
            await call
        except CacheError as error:
            return error.code
        return "OK"


async def outcomes(cache: AsyncRedisCache, watch: Stopwatch, count: int) -> Counter[str]:
    """The same for calls of all kinds at once."""
    calls = [
        outcome(KINDS[number % len(KINDS)](cache, f"key{number}"), watch) for number in range(count)
    ]
    return Counter(await asyncio.gather(*calls))


async def tried_again(cache: AsyncRedisCache, key: str) -> Any:
    """The first answer that is no error."""
    async with asyncio.timeout(60):
        while True:
            with suppress(CacheError):
                return await cache.retrieve(None, key)


@pytest.mark.not_with("debug", reason="each call takes too much of the loop's time then")
async def test_no_call_outlives_its_deadline(server: Server, proxy: StartProxy) -> None:
    """3. 2,000 calls, with D swept over the duration of a call: none returns after D + 50 ms."""
    network = proxy(server)
    caches = {
        limit: AsyncRedisCache.from_url(network.url, command_timeout=limit)
        for limit in range(1, 81, 2)
    }
    rounds = scaled(2_000, 10_000) // len(caches) // 10
    codes: Counter[str] = Counter()
    late = 0

    async def sweep(watch: Stopwatch, cache: AsyncRedisCache) -> None:
        for _ in range(rounds):
            codes.update(await outcomes(cache, watch, 10))

    async def latest_of_all(lag: MachineLag) -> float:
        nonlocal late
        codes.clear()
        watches = [Stopwatch(lag, limit / 1000) for limit in caches]
        pairs = list(zip(watches, caches.values(), strict=True))
        for first in range(0, len(pairs), 4):
            await asyncio.gather(*(sweep(*pair) for pair in pairs[first : first + 4]))
        late = sum(watch.late for watch in watches)
        return max(watch.latest for watch in watches)

    async with AsyncExitStack() as stack:
        for cache in caches.values():
            await stack.enter_async_context(cache)
        network.delay(0.004, jitter=0.012)  # A call lives for 8 to 32 ms.
        latest, _ = await measured(latest_of_all, lambda latest: latest < GRACE_SECONDS)
    report(3, f"{beside_limit(latest)}, {counts(codes)}", latest)
    assert late == 0
    assert codes.keys() == {"OK", "TIMEOUT", "OUTCOME_UNKNOWN"}


class Stop:
    """A server that stops while a cache with one connection does something."""

    limit = 0.3

    def __init__(self, server: Server, lag: MachineLag) -> None:
        self.server = server
        self.raw: Client = server.client()
        self.raw.ping()
        self.watch = Stopwatch(lag, self.limit)
        self.cache = AsyncRedisCache.from_url(
            server.url,
            max_connections=1,
            max_value_size=16 * MIB,
            command_timeout=int(self.limit * 1000),
            connect_timeout=500,
        )

    async def idle(self) -> list[Awaitable[Any]]:
        """Nothing is under way."""
        self.server.freeze()
        return []

    async def connect(self) -> list[Awaitable[Any]]:
        """The kernel accepts connections; the login is not answered."""
        self.raw.client_kill_filter(_type="normal", skipme=True)
        await await_until(lambda: "<ConnectionPool 0 open" in repr(self.cache))
        self.server.freeze()
        return []

    async def reply(self) -> list[Awaitable[Any]]:
        """Of a reply of 12 MB a part is under way."""
        self.raw.set("big", b'"%s"' % (b"x" * (12 * MIB)))
        before = self._called("mget")
        asked = asyncio.ensure_future(self.cache.retrieve(None, "big"))
        await asyncio.sleep(0)
        # This blocks the loop, so no more is read than the kernel takes.
        wait_until(lambda: self._called("mget") > before)
        self.server.freeze()
        return [asked]

    async def write(self) -> list[Awaitable[Any]]:
        """Of a command of 12 MB a part is under way."""
        stored = asyncio.ensure_future(self.cache.store(None, "big", "x" * (12 * MIB)))
        await asyncio.sleep(0)
        self.server.freeze()
        return [stored]

    def _called(self, command: str) -> int:
        statistics: dict[str, dict[str, int]] = self.raw.info("commandstats")
        return statistics.get(f"cmdstat_{command}", {}).get("calls", 0)


@pytest.mark.parametrize("moment", ["idle", "connect", "reply", "write"])
@pytest.mark.no_leaks
async def test_stopped_server_blocks_no_call(private_server: StartServer, moment: str) -> None:
    """4. While the server is stopped, every call ends by D + 50 ms, and no socket remains a second later."""
    server = private_server(password="secret")
    codes: Counter[str] = Counter()
    late = 0

    async def latest_of_all(lag: MachineLag) -> float:
        nonlocal late
        codes.clear()
        stop = Stop(server, lag)
        before = open_descriptors().keys()
        async with stop.cache as cache:
            stop.raw.set("before", b'"value"')
            freeze: Callable[[], Awaitable[list[Awaitable[Any]]]] = getattr(stop, moment)
            under_way = [outcome(call, stop.watch) for call in await freeze()]
            codes.update(await outcomes(cache, stop.watch, 200))
            codes.update(await asyncio.gather(*under_way))
            # A second; and another, as a change that is owed is tried again now and then, on a
            # connection that is given up as well.
            await await_until(lambda: open_descriptors().keys() == before)
            server.thaw()
            assert await tried_again(cache, "before") == "value"
        late = stop.watch.late
        return stop.watch.latest

    latest, _ = await measured(latest_of_all, lambda latest: latest < GRACE_SECONDS)
    report(4, f"{moment}: {beside_limit(latest)}, {counts(codes)}", latest)
    assert late == 0
    assert codes.keys() <= {"TIMEOUT", "OUTCOME_UNKNOWN"}


class LargeStores:
    """Stores of 4 MB which time out, since the server is stopped in the middle of them.

    Each on a connection that has carried little before: the kernel gives one that has carried
    much a larger window, and whoever has received all of a command executes it.
    """

    def __init__(self, server: Server) -> None:
        self.keys: list[str] = []
        self.codes: Counter[str] = Counter()
        self._server = server
        self._raw = server.client()

    async def run(self, least: int) -> None:
        while len(self.keys) < least:
            async with AsyncExitStack() as stack:
                caches = [await stack.enter_async_context(self._cache()) for _ in range(4)]
                await self._time_out(caches)

    def applied(self) -> int:
        return sum(self._raw.exists(key) for key in self.keys)

    def _cache(self) -> AsyncRedisCache:
        url = self._server.url
        return AsyncRedisCache.from_url(url, max_value_size=8 * MIB, command_timeout=150)

    async def _time_out(self, caches: list[AsyncRedisCache]) -> None:
        stores: list[Awaitable[Any]] = []
        for cache in caches:
            self.keys.append(f"key{len(self.keys)}")
            stores.append(cache.store(None, self.keys[-1], "late" * MIB))
        self._server.freeze()
        for error in await asyncio.gather(*stores, return_exceptions=True):
            assert isinstance(error, CacheError)
            self.codes[error.code] += 1
        self._server.thaw()
        # When the server has noticed the end of those connections, nothing is to come.
        await await_until(lambda: len(self._raw.client_list()) == 1)


@pytest.mark.usefixtures("no_pending_invalidations")
async def test_timed_out_store_is_not_executed_later(
    private_server: StartServer,
) -> None:
    """5. 4 MB stores time out, then the server resumes (SIGCONT): 0 of 30 are executed later."""
    stores = LargeStores(private_server())
    await stores.run(least=scaled(32, 120))
    report(
        5,
        f"{stores.applied()} of {len(stores.keys)} applied later, {counts(stores.codes)}",
        stores.applied(),
    )
    assert stores.applied() == 0
    assert stores.codes.keys() == {"OUTCOME_UNKNOWN"}


@pytest.mark.usefixtures("no_pending_invalidations")
async def test_timed_out_store_is_executed_without_a_reset(
    private_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5, the proof: if the connection is closed gracefully instead of aborted, the store is executed later."""

    def close(wire: Any) -> None:
        wire._handler = None
        wire._transport.close()

    monkeypatch.setattr(RedisConnection, "abort", close)
    stores = LargeStores(private_server())
    await stores.run(least=1)
    assert stores.applied() == len(stores.keys)
