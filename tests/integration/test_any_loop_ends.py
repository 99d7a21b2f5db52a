"""What remains of event loops that end, and of processes that are forked, while calls of an any-loop cache are in flight."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Server, StartServer
from harness.waiting import wait_until

pytestmark = pytest.mark.depends_on()

CHILDREN = 8
WAYS: dict[str, Callable[[AsyncRedisCache], Any]] = {
    "retrieve": lambda cache: cache.retrieve(None, "key"),
    "store": lambda cache: cache.store(None, "key", "stored"),
    "load": lambda cache: cache.retrieve_or_load(None, "absent", lambda: "loaded"),
}


@pytest.fixture
def server(private_server: StartServer) -> Server:
    """A server that the test may freeze."""
    return private_server()


@pytest.fixture
def cache(server: Server) -> Iterator[AsyncRedisCache]:
    """An open cache."""
    cache = AsyncRedisCache.from_url(server.url, any_loop=True, command_timeout=5000)
    asyncio.run(cache.open(None))
    asyncio.run(cache.store(None, "key", "value"))
    yield cache
    asyncio.run(cache.close(None))


def engine_of(cache: AsyncRedisCache) -> Any:
    return cache._lifecycle.engine()


def forked(function: Callable[[], int]) -> int:
    """Fork a child that exits with what the function returns."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def running(cache: AsyncRedisCache) -> set[Any]:
    core: Any = cache._lifecycle
    calls: set[Any] = core.core.portal._running
    return calls


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["cancelled", "closed"])
def test_loop_that_ends_in_mid_call_leaves_nothing(
    end: str, way: str, server: Server, cache: AsyncRedisCache
) -> None:
    """Neither the event loop nor calls, loads or leases remain, and no warning; the next event loop is served."""
    gone: list[weakref.ref[Any]] = []

    async def leave() -> None:
        tasks = [asyncio.ensure_future(WAYS[way](cache)) for _ in range(3)]
        while not running(cache):  # noqa: ASYNC110  the calls run on another event loop
            await asyncio.sleep(0.001)
        assert not any(task.done() for task in tasks)

    def run() -> None:
        loop = asyncio.new_event_loop()
        gone.append(weakref.ref(loop))
        # "Task was destroyed but it is pending" is to be expected of such an end.
        loop.set_exception_handler(lambda _loop, _context: None)
        loop.run_until_complete(leave())
        if end == "cancelled":
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    server.freeze()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    server.thaw()
    wait_until(lambda: not running(cache))
    wait_until(lambda: not engine_of(cache).single_flight._running)
    gc.collect()
    assert [ref() for ref in gone] == [None]
    with server.client() as raw:
        # A lease is held in the key itself.
        wait_until(lambda: not raw.exists("absent"))
    assert asyncio.run(cache.retrieve_or_load(None, "absent", lambda: "loaded")) == "loaded"
    assert asyncio.run(cache.retrieve(None, "key")) in {"value", "stored"}


async def is_right(cache: AsyncRedisCache, number: int) -> bool:
    """Store, retrieve and load; return whether the values are those of this process and number."""
    key = f"{os.getpid()} {number}"
    await cache.store(None, key, key)
    found = await asyncio.gather(
        cache.retrieve(None, key), cache.retrieve_or_load(None, f"{key} loaded", lambda: key)
    )
    return set(found) == {key}


@pytest.mark.not_with("watched", reason="the first call of a child waits for a thread to start")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_while_calls_are_in_flight(cache: AsyncRedisCache) -> None:
    """Parent and children get right values, though other event loops of the parent call during every fork."""
    over = threading.Event()
    right: set[bool] = set()
    served = [0, 0]

    def run(number: int) -> None:
        async def calls() -> None:
            while not over.is_set():
                numbers = range(10 * number, 10 * number + 10)
                right.update(await asyncio.gather(*(is_right(cache, n) for n in numbers)))
                served[number] += 1

        asyncio.run(calls())

    def in_child() -> int:
        found = [asyncio.run(is_right(cache, number)) for number in range(3)]
        asyncio.run(cache.close(None))
        return found.count(False)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    children: list[int] = []
    for _ in range(CHILDREN):
        before = list(served)
        wait_until(lambda before=before: all(map(int.__gt__, served, before)))  # type: ignore[misc]
        children.append(forked(in_child))
    codes = [ended(child) for child in children]
    over.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * CHILDREN
    assert right == {True}


@pytest.mark.not_with("watched", reason="the first call of a child waits for a thread to start")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_inside_of_a_call(cache: AsyncRedisCache) -> None:
    """A loader may fork: the child calls on an event loop of its own, and the call of the parent goes on."""

    async def load() -> int:
        return ended(forked(lambda: asyncio.run(cache.retrieve(None, "key")) != "value"))

    assert asyncio.run(cache.retrieve_or_load(None, "forked", load)) == 0


def test_cancelled_call_ends_with_its_loop(server: Server, cache: AsyncRedisCache) -> None:
    """A cancelled call whose value waits for its event loop to check it ends once that is closed."""
    loop = asyncio.new_event_loop()
    server.freeze()
    checking = loop.create_task(cache.contains(None, "key"))
    loop.run_until_complete(asyncio.sleep(0))
    wait_until(lambda: running(cache))
    (call,) = running(cache)

    def end() -> None:
        server.thaw()
        wait_until(lambda: call.queue._ready)
        loop.stop()

    # In one iteration of the event loop, its last one: the check arrives, and then the call is cancelled.
    loop.call_soon(end)
    checking.cancel()
    loop.run_forever()
    loop.close()
    assert checking.cancelled()
    wait_until(lambda: not running(cache))


@pytest.mark.parametrize("has_begun", [True, False])
def test_loop_that_is_closed_with_a_loader_leaves_nothing(
    cache: AsyncRedisCache, *, has_begun: bool
) -> None:
    """Of a loader that is pending when its event loop is closed, nothing remains to be destroyed or awaited."""
    loop = asyncio.new_event_loop()
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    async def load() -> None:
        loop.stop()
        await asyncio.sleep(60)

    def create(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        loop.stop()
        return asyncio.Task(coroutine, loop=loop, **options)

    loading = loop.create_task(cache.retrieve_or_load(None, "absent", load))
    if not has_begun:
        loop.set_task_factory(create)
    # Until the loader begins, or has a task.
    loop.run_forever()
    loop.close()
    wait_until(lambda: cache.stats().load_failures == 1)
    gc.collect()
    assert reports == []
    # That of the caller is left to the caller. The private event loop may not have let go of it.
    del loading
    wait_until(lambda: gc.collect() >= 0 and bool(reports))
    assert len(reports) == 1


@pytest.mark.parametrize("has_begun", [True, False])
def test_loop_that_is_closed_with_a_batch_loader_leaves_nothing(
    cache: AsyncRedisCache, *, has_begun: bool
) -> None:
    """Nothing remains of the tasks of a batch either: neither of those that wait for its loader, nor of that of it."""
    loop = asyncio.new_event_loop()
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    async def load(_: list[str]) -> dict[str, str]:
        loop.stop()
        await asyncio.sleep(60)
        return {}

    def create(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if coroutine.__qualname__ == "Batch._load":
            loop.stop()
        return asyncio.Task(coroutine, loop=loop, **options)

    if not has_begun:
        loop.set_task_factory(create)
    loading = loop.create_task(cache.retrieve_or_load_many(None, ["one", "two"], load))
    # Until the loader begins, or has a task.
    loop.run_forever()
    loop.close()
    wait_until(lambda: cache.stats().load_failures == 2)
    gc.collect()
    assert reports == []
    # That of the caller is left to the caller. The private event loop may not have let go of it.
    del loading
    wait_until(lambda: gc.collect() >= 0 and bool(reports))
    assert len(reports) == 1


def test_load_waits_for_the_end_of_a_cancelled_loader(cache: AsyncRedisCache) -> None:
    """A loader may take its time to end when its caller is cancelled; another load of the key waits until then."""
    running = 0
    seen: list[int] = []

    async def calls() -> None:
        entered, may_end = asyncio.Event(), asyncio.Event()

        async def load() -> str:
            nonlocal running
            running += 1
            seen.append(running)
            try:
                if not entered.is_set():
                    entered.set()
                    await asyncio.Event().wait()
            finally:
                await may_end.wait()
                running -= 1
            return "loaded"

        first = asyncio.create_task(cache.retrieve_or_load(None, "absent", load))
        await entered.wait()
        first.cancel()
        await asyncio.wait((first,))
        assert first.cancelled()
        second = asyncio.create_task(cache.retrieve_or_load(None, "absent", load))
        for _ in range(20):
            await cache.ping(None)
        assert not second.done()
        may_end.set()
        assert await second == "loaded"

    asyncio.run(calls())
    assert seen == [1, 1]
