"""An `AsyncRedisCache` with `any_loop=True`: one cache, awaited from any event loop of any thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheLoadError,
    CacheOutcomeUnknown,
    CacheStateError,
    CacheTimeout,
    RedisCache,
    cached,
)
from async_redis_cache._runtime.loop_mailbox import mailbox
from harness import Server
from harness.blocked_loop import block_after_next_store
from harness.leaks import open_descriptors
from harness.programs import PrivateLoop
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ROOT = Path(__file__).resolve().parents[2]
CALLER: ContextVar[str] = ContextVar("CALLER", default="none")
LONG = 15


@pytest.fixture
def cache(any_server: Server, key_prefix: str) -> Iterator[AsyncRedisCache]:
    """A cache that was opened on an event loop that has ended, and is closed on a third."""
    cache = AsyncRedisCache.from_url(any_server.url, any_loop=True, key_prefix=key_prefix)
    asyncio.run(cache.open(None))
    yield cache
    asyncio.run(cache.close(None))
    assert not cache.is_open()


@pytest.fixture
def run(private_loop: PrivateLoop) -> Run:
    """As asyncio.run, on a new event loop of either kind."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        if private_loop == "asyncio":
            return asyncio.run(work)
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)

    return run


def portal_of(cache: AsyncRedisCache) -> Any:
    core: Any = cache._lifecycle
    return core.core.portal


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110  most conditions are of other threads
            await asyncio.sleep(0.001)


def test_a_loop_for_each_call(cache: AsyncRedisCache, run: Run) -> None:
    """100 calls, each on an event loop of its own, leave neither descriptors nor threads."""

    async def call(number: int) -> Any:
        await cache.store(None, "key", number)
        loaded = await cache.retrieve_or_load(None, f"loaded{number}", lambda: number)
        assert len(asyncio.all_tasks()) == 1
        return await cache.retrieve(None, "key"), loaded

    assert run(call(-1)) == (-1, -1)
    # What other tests have left to the collector.
    gc.collect()
    before = len(open_descriptors()), threading.active_count()
    assert [run(call(number)) for number in range(100)] == [(n, n) for n in range(100)]
    wait_until(lambda: (len(open_descriptors()), threading.active_count()) == before)
    assert not portal_of(cache)._running


def test_all_methods(cache: AsyncRedisCache, run: Run) -> None:
    """Each method does from any loop what it does on the cache's own."""

    async def calls() -> None:
        loop = asyncio.get_running_loop()

        async def load() -> int:
            assert asyncio.get_running_loop() is loop
            return 7

        async def load_many(keys: list[str]) -> dict[str, int]:
            assert asyncio.get_running_loop() is loop
            return dict.fromkeys(keys, 7)

        await cache.ping(None)
        assert await cache.store(None, "a", 1, tags=["tag"]) == 1
        assert await cache.retrieve(None, "a", type=int) == 1
        assert await cache.contains(None, "a")
        assert await cache.touch(None, "a", 5000)
        remaining = await cache.time_to_live(None, "a")
        assert remaining is not None
        assert 0 < remaining <= 5000
        await cache.invalidate_tags(None, "tag")
        assert await cache.retrieve(None, "a") is None
        await cache.store_many(None, {"a": 1, "b": 2})
        assert await cache.retrieve_many(None, ["a", "b", "c"]) == {"a": 1, "b": 2}
        assert await cache.remove(None, "a") == 1
        assert await cache.add(None, "a", 3)
        assert not await cache.add(None, "a", 4)
        assert await cache.incr(None, "count") == 1
        assert await cache.remove_many(None, ["a", "b", "count"]) == 3
        assert await cache.retrieve_or_load_many(None, ["d", "e"], load_many) == {"d": 7, "e": 7}
        assert await cache.retrieve_or_load(None, "f", load) == 7
        assert (await cache.retrieve_or_load_entry(None, "g", load)).status == "loaded"
        assert (await cache.retrieve_entry(None, "g")).value == 7
        assert await cache.refresh(None, "f", load) == 7
        assert await cache.clear(None) == 4

        @cached(cache)
        async def double(number: int) -> int:
            return 2 * number

        assert await double(4) == await double(4) == 8
        assert cache.stats().loads == 6

    run(calls())


def test_threads_with_a_loop_each(cache: AsyncRedisCache, run: Run) -> None:
    """Several threads, each with an event loop, share a cache at the same time."""

    async def calls(name: str) -> bool:
        async def call(number: int) -> bool:
            await cache.store(None, f"{name}-{number}", [name, number])
            return bool(await cache.retrieve(None, f"{name}-{number}") == [name, number])

        return all([all(await asyncio.gather(*map(call, range(50)))) for _ in range(5)])

    with ThreadPoolExecutor(6) as threads:
        works = [threads.submit(run, calls(str(name))) for name in range(6)]
        assert all(work.result(LONG) for work in works)
    assert cache.stats().errors == 0


def test_loops_join_one_load(cache: AsyncRedisCache, run: Run) -> None:
    """Callers on several event loops share one load, whose loader runs on one of these with its caller's context."""
    calls: list[tuple[str, int]] = []

    async def load() -> str:
        calls.append((CALLER.get(), threading.get_ident()))
        await until(lambda: waiting_for_load(cache) == 4)
        return "value"

    async def call(name: str) -> Any:
        CALLER.set(f"{name} {threading.get_ident()}")
        return await cache.retrieve_or_load(None, "key", load)

    with ThreadPoolExecutor(4) as threads:
        works = [threads.submit(run, call(name)) for name in "abcd"]
        assert [work.result(LONG) for work in works] == ["value"] * 4
    ((name, ident),) = calls
    assert name.endswith(f" {ident}")
    assert cache.stats().loads == 1


def waiting_for_load(cache: AsyncRedisCache) -> int:
    engine = cache._lifecycle.engine()
    assert engine is not None
    return sum(len(load.waiting) for load in tuple(engine.single_flight._running))


# The tasks of an event loop that was closed in mid-call.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("end", ["cancelled", "closed", "stopped"])
def test_load_whose_loop_ends_is_repeated(end: str, cache: AsyncRedisCache, run: Run) -> None:
    """If the event loop that runs a loader ends in mid-call, another waiting caller loads."""
    entered, joined = threading.Event(), threading.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    def first() -> None:
        async def leave() -> None:
            loading = asyncio.create_task(cache.retrieve_or_load(None, "key", hang))
            await until(lambda: waiting_for_load(cache) == 2)
            assert not loading.done()

        if end == "cancelled":
            run(leave())
            return
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        if end == "closed":
            loop.close()
        joined.wait(LONG)
        if end == "stopped":
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()

    async def second() -> Any:
        try:
            return await cache.retrieve_or_load(None, "key", lambda: "second")
        finally:
            joined.set()

    with ThreadPoolExecutor(2) as threads:
        leaving = threads.submit(first)
        assert entered.wait(LONG)
        assert threads.submit(run, second()).result(LONG) == "second"
        leaving.result(LONG)
    wait_until(lambda: not portal_of(cache)._running)
    gc.collect()


def test_cancelled_caller_cancels_its_loader(cache: AsyncRedisCache, run: Run) -> None:
    """The cancellation of the only caller reaches the loader; one that others wait for continues."""

    async def calls() -> None:
        entered, ended, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def load() -> str:
            entered.set()
            try:
                await go.wait()
            finally:
                ended.set()
            return "value"

        alone = asyncio.create_task(cache.retrieve_or_load(None, "alone", load))
        # A load counts as such before its loader has started.
        await asyncio.wait_for(entered.wait(), LONG)
        alone.cancel()
        await asyncio.wait_for(ended.wait(), LONG)
        ended.clear()
        entered.clear()
        first = asyncio.create_task(cache.retrieve_or_load(None, "shared", load))
        # A caller that has read before the lease was acquired would wait for that in a load of its own.
        await asyncio.wait_for(entered.wait(), LONG)
        second = asyncio.create_task(cache.retrieve_or_load(None, "shared", load))
        await until(lambda: waiting_for_load(cache) == 2)
        first.cancel()
        await asyncio.wait((first,))
        go.set()
        assert first.cancelled()
        assert await second == "value"
        assert cache.stats().loads == 2

    run(calls())


def test_loader_that_raises(cache: AsyncRedisCache, run: Run) -> None:
    """The exception of a loader reaches its caller; a CancelledError that it raises is LOAD_CANCELLED."""

    async def fail() -> None:
        raise LookupError("no such row")

    cancelled = asyncio.CancelledError("own")

    async def cancel() -> None:
        raise cancelled

    async def calls() -> None:
        with pytest.raises(LookupError, match="no such row"):
            await cache.retrieve_or_load(None, "key", fail)
        with pytest.raises(CacheLoadError, match="cancelled") as caught:
            await cache.retrieve_or_load(None, "key", cancel)
        assert caught.value.__cause__ is cancelled
        with pytest.raises(CacheLoadError, match="itself"):
            await cache.retrieve_or_load(None, "key", again)

    async def again() -> Any:
        return await cache.retrieve_or_load(None, "key", again)

    run(calls())


def test_cancellations(cache: AsyncRedisCache, run: Run) -> None:
    """1,000 calls cancelled at random times disturb no other call, and leave nothing."""
    chance = random.Random(16)

    async def call(number: int) -> None:
        key = f"key{number % 7}"
        await cache.store(None, key, key)
        assert await cache.retrieve(None, key) in {key, None}
        assert await cache.retrieve_or_load(None, f"loaded {key}", lambda: key) == key

    async def calls() -> int:
        cancelled = 0
        for _ in range(20):
            tasks = [asyncio.create_task(call(number)) for number in range(100)]
            for task in chance.sample(tasks, 50):
                await asyncio.sleep(chance.random() * 0.0005)
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            gone = [result for result in results if result is not None]
            assert all(isinstance(result, asyncio.CancelledError) for result in gone)
            cancelled += len(gone)
        await until(lambda: not portal_of(cache)._running)
        assert not mailbox().waiting
        assert not mailbox().tasks
        return cancelled

    assert run(calls()) > 0
    assert cache.stats().connects <= 8


def test_deadline_while_the_private_loop_is_blocked(any_server: Server, key_prefix: str) -> None:
    """Calls end by their deadline although the private event loop is blocked; a write that was not sent is TIMEOUT."""
    cache = AsyncRedisCache.from_url(
        any_server.url, any_loop=True, key_prefix=key_prefix, command_timeout=500
    )
    gate, entered = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        gate.wait(LONG)

    async def calls() -> None:
        await cache.open(None)
        portal_of(cache).post(block)
        await asyncio.to_thread(entered.wait, LONG)
        outcomes = await asyncio.gather(
            cache.retrieve(None, "key"), cache.store(None, "key", 1), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [CacheTimeout] * 2
        gate.set()
        await until(lambda: cache.stats().pending_invalidations == 0)
        stored = False
        while not stored:
            with contextlib.suppress(CacheTimeout, CacheOutcomeUnknown):
                stored = await cache.store(None, "key", 2) == 2
        # Its results have come while this event loop is blocked: they are not overdue.
        found: list[Any] = []
        for _ in range(5):  # Where the server stalls meanwhile, once more.
            reads = [asyncio.ensure_future(cache.retrieve(None, "key")) for _ in range(3)]
            await asyncio.sleep(0)
            time.sleep(0.7)  # noqa: ASYNC251  it is to block
            found = await asyncio.gather(*reads, return_exceptions=True)
            if found == [2, 2, 2]:
                break
        assert found == [2, 2, 2]
        await cache.close(None)

    asyncio.run(calls())


def test_sync_and_async_on_one_core(any_server: Server, key_prefix: str) -> None:
    """`as_async` and `as_sync` share connections, near cache, counters and whether the cache is open."""
    sync = RedisCache.from_url(any_server.url, key_prefix=key_prefix)
    shared = sync.as_async()
    with pytest.raises(CacheStateError, match="not open"):
        asyncio.run(shared.retrieve(None, "key"))
    asyncio.run(shared.open(None))
    assert sync.is_open()
    sync.store(None, "key", 1)
    assert asyncio.run(shared.retrieve(None, "key")) == 1
    again = shared.as_sync()
    assert again.retrieve(None, "key") == 1
    before = sync.stats()
    assert before == shared.stats() == again.stats()
    assert (before.hits, before.connects) == (2, 1)
    sync.close(None)
    assert not shared.is_open()
    with pytest.raises(TypeError, match="any_loop"):
        AsyncRedisCache().as_sync()


def test_sync_and_async_callers_join_one_load(cache: AsyncRedisCache, run: Run) -> None:
    """A thread and a coroutine that load the same key share the load."""
    sync = cache.as_sync()

    async def load() -> str:
        await until(lambda: waiting_for_load(cache) == 2)
        return "value"

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(run, cache.retrieve_or_load(None, "key", load))
        second = threads.submit(sync.retrieve_or_load, None, "key", load)
        assert first.result(LONG) == second.result(LONG) == "value"
    assert cache.stats().loads == 1


def test_cancelled_open_leaves_nothing(any_server: Server, key_prefix: str) -> None:
    """A cancelled `open` ends its thread, and the cache can be opened afterwards."""
    # The thread of a cache that another test has dropped may be ending.
    before = set(threading.enumerate())
    cache = AsyncRedisCache.from_url(any_server.url, any_loop=True, key_prefix=key_prefix)

    async def calls() -> None:
        for delay in (0, 0.0005, 0.001, 0.002, 0.004):
            opening = asyncio.create_task(cache.open(None))
            await asyncio.sleep(delay)
            opening.cancel()
            await asyncio.wait((opening,))
            if opening.cancelled():
                assert not cache.is_open()
            await cache.close(None)
        async with cache:
            assert await cache.store(None, "key", 1) == await cache.retrieve(None, "key")

    asyncio.run(calls())
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("RedisCache")]


@pytest.mark.not_with("watched", reason="the first call of a child waits for a thread to start")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers(cache: AsyncRedisCache, run: Run) -> None:
    """Processes that are forked after `open` use the cache, as the workers of Celery do."""
    run(cache.store(None, "key", "value"))

    async def task() -> Any:
        await cache.store(None, f"of {os.getpid()}", 1)
        return await cache.retrieve_or_load(None, "key", lambda: "loaded")

    children: list[int] = []
    for _ in range(3):
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if [run(task()) for _ in range(3)] == ["value"] * 3 else 2
                asyncio.run(cache.close(None))
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert run(cache.retrieve_many(None, [f"of {child}" for child in children])) == {
        f"of {child}": 1 for child in children
    }


def test_django_async_to_sync(cache: AsyncRedisCache) -> None:
    """A coroutine of the cache can be called from threads by `async_to_sync`, as Django's views do."""
    sync = pytest.importorskip("asgiref.sync")

    async def view(number: int) -> Any:
        async def load() -> int:
            return number

        return await cache.retrieve_or_load(None, f"key{number % 3}", load)

    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(sync.async_to_sync(view), range(60)))
    assert all(value % 3 == number % 3 for number, value in enumerate(seen))
    assert cache.stats().loads == 3


def test_background_refresh_ends_with_its_loop(
    any_server: Server, key_prefix: str, run: Run
) -> None:
    """A background refresh runs on the loop of the caller that has begun it, and is dropped when that ends."""
    cache = AsyncRedisCache.from_url(
        any_server.url, any_loop=True, key_prefix=key_prefix, loading_refresh_at=0.0001
    )
    loads: list[str] = []

    async def refresh(name: str, *, waits: bool) -> Any:
        async def load() -> str:
            loads.append(name)
            return name

        await asyncio.sleep(0.05)
        found = await cache.retrieve_or_load(None, "key", load)
        if waits:
            await until(lambda: name in loads)
        return found

    run(cache.open(None))
    assert run(refresh("first", waits=False)) == "first"
    assert run(refresh("second", waits=True)) == "first"
    run(cache.close(None))
    assert loads == ["first", "second"]


def test_write_that_was_sent_is_unknown(any_server: Server, key_prefix: str) -> None:
    """A write that the private loop has taken, and that it does not end in time, is OUTCOME_UNKNOWN."""
    cache = AsyncRedisCache.from_url(
        any_server.url, any_loop=True, key_prefix=key_prefix, command_timeout=500
    )
    gate = threading.Event()

    async def calls() -> None:
        async with cache:
            block_after_next_store(cache._lifecycle.engine(), gate)
            ends: list[BaseException] = []
            while len(ends) < 5 and CacheOutcomeUnknown not in map(type, ends):
                # Where the machine stalls until its deadline, it is not taken, nor sent.
                with pytest.raises(CacheError) as caught:
                    await cache.store(None, "key", 1)
                ends.append(caught.value)
            assert {*map(type, ends[:-1])} <= {CacheTimeout}
            assert type(ends[-1]) is CacheOutcomeUnknown
            gate.set()

    asyncio.run(calls())


def test_engine_has_all_that_the_api_asks_for(cache: AsyncRedisCache) -> None:
    """Whatever the methods of `AsyncRedisCache` ask of an engine, that of any loop has."""
    asked: set[str] = set()
    for module in (
        "async_cache",
        "async_entries",
        "async_loading",
        "atomic",
        "batch_loading",
        "load_request",
        "load_results",
    ):
        text = (ROOT / "src" / "async_redis_cache" / "_api" / f"{module}.py").read_text()
        asked |= set(re.findall(r"\bengine\.((?:\w+\.)?\w+)\b", text))
    assert "reads.fetch" in asked
    for path in asked:
        seen: object = cache._lifecycle.ready().engine
        for name in path.split("."):
            assert hasattr(seen, name), path
            seen = getattr(seen, name)
