"""Close and reopen in every order, with calls in flight."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CacheStateError, RedisCache
from async_redis_cache._connection.connection import RedisConnection
from async_redis_cache._engine.engine import Engine
from async_redis_cache._runtime.portal import Portal
from harness import Client, Server, StartProxy, StartServer
from harness.figures import report
from harness.leaks import open_descriptors, tasks_left
from harness.loop_lag import GRACE_SECONDS, Guard
from harness.operations import OPERATIONS
from harness.run_length import scaled
from harness.waiting import await_until, wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = [pytest.mark.depends_on("loop"), pytest.mark.no_leaks]

LIMIT = 2.5


def living(*kinds: type) -> int:
    """How many objects of these kinds there are, once all that can be collected is."""
    gc.collect()
    return sum(isinstance(one, kinds) for one in gc.get_objects())


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


async def turns(number: int) -> None:
    """Let the loop turn so often."""
    for _ in range(number):
        await asyncio.sleep(0)


async def ends_of_calls(cache: AsyncRedisCache) -> list[tuple[object, float]]:
    """Have 20 calls of every kind under way, close, and tell how and when each has ended."""
    ends: list[tuple[object, float]] = []
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def call(number: int) -> None:
        guard = Guard(LIMIT + GRACE_SECONDS)
        try:
            await [*OPERATIONS.values()][number % len(OPERATIONS)](cache)
        except CacheError as error:
            assert not guard.fired
            ends.append((error.code, loop.time() - started))
        finally:
            guard.cancel()

    async with asyncio.TaskGroup() as calls:
        for number in range(20):
            calls.create_task(call(number))
        await turns(3)
        await cache.close(None)
    return ends


@pytest.mark.parametrize("trouble", ["frozen", "black hole", "away"])
async def test_calls_in_flight_end_when_it_closes(
    trouble: str, private_server: StartServer, proxy: StartProxy
) -> None:
    """26. 20 calls in flight, waiting, or without a connection end with a typed error by D; 0 sockets remain."""
    server = private_server()
    way = proxy(server)
    cache = AsyncRedisCache.from_url(
        way.url,
        key_prefix="p:",
        command_timeout=int(LIMIT * 1000),
        connect_timeout=int(LIMIT * 1000),
        require_connection=False,
    )
    if trouble == "away":
        way.refuse()
    elif trouble == "black hole":
        way.black_hole()
    await cache.open(None)
    if trouble == "frozen":
        server.freeze()
    ends = await ends_of_calls(cache)
    latest = max(seconds for _, seconds in ends)
    report(
        26, f"close with 20 calls, {trouble}: last call ended after {latest * 1e3:.0f} ms", latest
    )
    assert len(ends) == 20
    assert {code for code, _ in ends} <= {"NOT_OPENED", "OUTCOME_UNKNOWN"}
    assert not tasks_left()
    await await_until(lambda: way.open_now == 0)


async def test_call_retried_after_close_raises(server: Server, key_prefix: str) -> None:
    """A call that has more to ask when the cache is closed between its steps ends at once."""
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix, max_size=0)
    await cache.open(None)
    await cache.store_many(None, {str(number): number for number in range(3000)})

    async def ping_and_close() -> None:
        # Answered in the same exchange as the first step of clear, and before it.
        await cache.ping(None)
        await cache.close(None)

    closing = asyncio.create_task(ping_and_close())
    with pytest.raises(CacheStateError, match="closed"):
        await asyncio.wait_for(cache.clear(None), 5)
    await closing


async def test_close_twice_and_at_once(server: Server, raw: Client, key_prefix: str) -> None:
    """26. Closing a closed cache, or one that is being closed, does not raise; afterwards it is closed."""
    connected = raw.info("clients")["connected_clients"]
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    await cache.close(None)
    for _ in range(5):
        await cache.open(None)
        await asyncio.gather(*(cache.store(None, f"{number}", 1) for number in range(20)))
        await asyncio.gather(*(cache.close(None) for _ in range(10)))
        assert not cache.is_open()
        await cache.close(None)
    await await_until(lambda: raw.info("clients")["connected_clients"] == connected)


async def test_close_that_is_cancelled_leaves_nothing(
    server: Server, raw: Client, key_prefix: str
) -> None:
    """26. A `close` that is cancelled at any point has closed the cache, which can be opened again."""
    connected = raw.info("clients")["connected_clients"]
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    for moment in range(scaled(12, 30)):
        await cache.open(None)
        calls = [asyncio.create_task(cache.store(None, f"{number}", 1)) for number in range(20)]
        await turns(moment % 3)
        closing = asyncio.create_task(cache.close(None))
        await turns(1 + moment // 3)
        closing.cancel()
        await asyncio.wait([closing, *calls])
        for call in calls:
            if (error := call.exception()) is not None:
                assert isinstance(error, CacheError)
                assert error.code in {"NOT_OPENED", "OUTCOME_UNKNOWN"}
        assert not cache.is_open()
        await await_until(lambda: not tasks_left())
        await await_until(lambda: raw.info("clients")["connected_clients"] == connected)


async def test_close_that_is_cancelled_while_it_ends_a_load_leaves_nothing(
    server: Server, raw: Client, key_prefix: str
) -> None:
    """26. The same while a load is in flight, whose end `close` waits for first."""
    connected = raw.info("clients")["connected_clients"]
    # The next load waits for the lease of the one before.
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix, loading_lease_timeout=500)
    for moment in range(1, 5):
        await cache.open(None)
        loading = asyncio.Event()

        async def load() -> None:
            loading.set()  # noqa: B023  it is awaited in this turn of the loop
            await asyncio.Event().wait()

        call = asyncio.create_task(cache.retrieve_or_load(None, "key", load))
        await loading.wait()
        closing = asyncio.create_task(cache.close(None))
        await turns(moment)
        closing.cancel()
        await asyncio.wait([closing, call])
        assert isinstance(call.exception(), CacheStateError)
        assert not cache.is_open()
        await await_until(lambda: not tasks_left())
        await await_until(lambda: raw.info("clients")["connected_clients"] == connected)


@pytest.mark.parametrize("silent", [False, True], ids=["answering", "black hole"])
async def test_open_that_is_cancelled_leaves_nothing(
    silent: bool, private_server: StartServer, proxy: StartProxy
) -> None:
    """An open cancelled at any turn of the loop leaves no connection, and works the next time."""
    way = proxy(private_server())
    cache = AsyncRedisCache.from_url(way.url)
    for moment in range(scaled(20, 60)):
        if silent:
            way.black_hole()
        opening = asyncio.create_task(cache.open(None))
        if moment < 10:
            await turns(moment)
        else:
            # Its connection is there: being made, logging in, or answering the ping.
            await await_until(lambda: opening.done() or way.open_now > 0)  # noqa: B023
            await turns(moment - 10)
        opening.cancel()
        await asyncio.wait([opening])
        way.heal()
        if opening.cancelled():
            assert not cache.is_open()
            await await_until(lambda: not tasks_left())
            await await_until(lambda: way.open_now == 0)
        await cache.open(None)
        await cache.ping(None)
        await cache.close(None)
    await await_until(lambda: way.open_now == 0)


async def test_embedded_open_that_is_cancelled_leaves_no_server() -> None:
    """A server that was started for a cache whose open is cancelled is ended."""
    before = children()
    for moment in range(scaled(4, 20)):
        cache = AsyncRedisCache.from_url("embedded://")
        opening = asyncio.create_task(cache.open(None))
        await asyncio.wait([opening], timeout=0.001 + 0.03 * moment)
        if opening.done():
            await cache.close(None)
        opening.cancel()
        await asyncio.wait([opening])
        assert not cache.is_open()
    await await_until(lambda: children() <= before)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_use_after_close_is_refused(operation: str, server: Server, key_prefix: str) -> None:
    """26. A closed AsyncRedisCache raises NOT_OPENED with the trace id in every method."""
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    for _ in range(2):
        with pytest.raises(CacheStateError) as caught:
            await OPERATIONS[operation](cache)
        assert (caught.value.code, caught.value.trace_id) == ("NOT_OPENED", "trace")
        async with cache:
            await OPERATIONS[operation](cache)


@pytest.mark.not_with(
    "tls", reason="a thread may read for a moment whom to trust, cancelled or not"
)
async def test_reopening_100_times_leaves_nothing(
    server: Server, raw: Client, key_prefix: str
) -> None:
    """26. After opening, using and closing 100 times, descriptors, tasks and objects are as many as before."""
    connected = raw.info("clients")["connected_clients"]
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    async with cache:
        pass  # A loop may keep what it opens for its first connection.
    objects = living(Engine, RedisConnection)
    descriptors = len(open_descriptors())
    for number in range(100):
        async with cache:
            values = await asyncio.gather(
                cache.store(None, "key", number), *(cache.contains(None, "key") for _ in range(9))
            )
            assert values[0] == number
        assert not tasks_left()
        assert len(open_descriptors()) == descriptors
    assert living(Engine, RedisConnection) == objects
    await await_until(lambda: raw.info("clients")["connected_clients"] == connected)


@pytest.mark.usefixtures("private_loop")
def test_reopening_the_facade_100_times_leaves_nothing(
    server: Server, raw: Client, key_prefix: str
) -> None:
    """26. After opening, using and closing 100 times, descriptors, threads and objects are as many as before."""
    connected = raw.info("clients")["connected_clients"]
    cache = RedisCache.from_url(server.url, key_prefix=key_prefix)
    threads = threading.active_count()
    objects = living(Engine, Portal, RedisConnection)
    descriptors = len(open_descriptors())
    for number in range(100):
        with cache:
            assert cache.store(None, "key", number) == number
            assert cache.is_open()
        cache.close(None)
        assert not cache.is_open()
        # Threads that anyio has lent may take a moment to end.
        wait_until(
            lambda: threading.active_count() <= threads
        )  # Those of others may end meanwhile.
        assert len(open_descriptors()) == descriptors
    assert living(Engine, Portal, RedisConnection) == objects
    wait_until(lambda: raw.info("clients")["connected_clients"] == connected)


@pytest.mark.usefixtures("private_loop")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.depends_on
def test_use_of_the_facade_after_close_is_refused(
    operation: str, server: Server, key_prefix: str
) -> None:
    """26. A closed RedisCache raises NOT_OPENED with the trace id in every method."""
    cache = RedisCache.from_url(server.url, key_prefix=key_prefix)
    for _ in range(2):
        with pytest.raises(CacheStateError) as caught:
            OPERATIONS[operation](cache)
        assert (caught.value.code, caught.value.trace_id) == ("NOT_OPENED", "trace")
        with cache:
            OPERATIONS[operation](cache)


@pytest.mark.usefixtures("private_loop")
def test_facade_that_nobody_closes_goes_with_its_last_reference(
    server: Server, raw: Client, key_prefix: str
) -> None:
    """An open facade that is forgotten is closed: its thread ends, its connection too."""
    connected = raw.info("clients")["connected_clients"]
    threads = threading.active_count()

    def forget_one() -> None:
        cache = RedisCache.from_url(server.url, key_prefix=key_prefix)
        cache.open(None)
        cache.store(None, "key", 1)
        circle: list[Any] = [cache]
        circle.append(circle)  # So it is the collector that finds it.

    for _ in range(5):
        forget_one()
    gc.collect()
    wait_until(lambda: threading.active_count() <= threads)  # Those of others may end meanwhile.
    wait_until(lambda: raw.info("clients")["connected_clients"] == connected)
