"""Three callers of one cold key, each of whom may leave at any moment of the load.

What is promised: who stays is answered. A load belongs to its process: in one process it is one load,
whoever leaves, also the one who began it. It is cancelled when the last of its process has left; where callers
of another process wait for it, they load anew, once, so of callers who have all seen that there is nothing, two
loads are the most. What is cancelled is not published, and the right to load is given back at once. Nobody who
leaves waits for anything.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from harness.apis import configured
from harness.figures import report
from harness.loading_cancellations import (
    MOMENTS,
    PREFIX,
    PROCESSES,
    Callers,
    Moment,
    Promise,
    nothing_leaks,
)
from harness.loading_pauses import Stops, soon
from harness.run_length import scaled
from harness.virtual_time import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from async_redis_cache import AsyncRedisCache
    from harness import Client, Server

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")

LEASE = 60_000
"""Milliseconds: whoever waited for a right that was not given back would be noticed."""


@pytest.fixture
async def caches(
    server: Server, storage: dict[str, Any]
) -> AsyncIterator[tuple[AsyncRedisCache, AsyncRedisCache]]:
    """As in two processes."""
    options = storage | {"key_prefix": PREFIX, "loading_lease_timeout": LEASE}
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(configured(server.url, **options)) for _ in range(2)
        ]
        yield one, two


def is_gone(raw: Client, key: str) -> bool:
    """Whether not even a right to load it is left."""
    return not raw.exists(PREFIX + key)


def never() -> Any:
    """A loader that must not be called."""
    raise AssertionError("it is there")


@pytest.mark.parametrize("storage", ["unbounded", "near"], indirect=True)
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("where", PROCESSES)
async def test_every_combination_of_three_cancelled_callers(
    caches: tuple[AsyncRedisCache, AsyncRedisCache],
    where: str,
    raw: Client,
    monkeypatch: pytest.MonkeyPatch,
    *,
    again: bool,
) -> None:
    """Remaining callers get a result, loads are counted, abandoned results are not stored, and nothing leaks."""
    stops = [Stops(cache, monkeypatch) for cache in caches]
    processes = PROCESSES[where]
    loads = 0
    for number, moments in enumerate(product(MOMENTS, repeat=3)):
        key = f"key{number}"
        callers = Callers(key, caches, stops, processes, moments, again=again)
        promise = Promise.of(moments, processes)
        try:
            await callers.go()
            for task, moment in zip(callers.tasks, moments, strict=True):
                if moment < Moment.ANSWERED:
                    assert task.cancelled()
                else:
                    assert task.result() == promise.loads
            origin = callers.origin
            assert (origin.begun, origin.cancelled) == promise[:2]
            for cache in caches:
                await nothing_leaks(cache._lifecycle.ready().engine)
                if promise.kept:
                    assert await cache.retrieve_or_load(None, key, never) == promise.loads
            if not promise.kept:
                await soon(partial(is_gone, raw, key))
        except (AssertionError, TimeoutError) as error:
            error.add_note(f"leaving: {', '.join(moment.name for moment in moments)}")
            raise
        loads += promise.loads
    stats = [cache.stats() for cache in caches]
    assert sum(one.loads for one in stats) == loads
    assert sum(one.load_failures + one.superseded_loads + one.refreshes for one in stats) == 0
    report(21, f"{where}: {len(MOMENTS) ** 3} combinations of three leaving, {loads} loads")


@pytest.mark.parametrize("where", PROCESSES)
async def test_cancellation_at_any_turn_of_the_loop(
    caches: tuple[AsyncRedisCache, AsyncRedisCache], where: str, raw: Client
) -> None:
    """At random turns of the event loop, so also between the moments that have a name."""
    chance = Random(21)
    runs = scaled(150, 3_000)
    left = 0
    for number in range(runs):
        begun = finished = 0

        async def load() -> int:
            nonlocal begun, finished
            begun += 1
            mine = begun
            await turns(3)
            finished += 1
            return mine

        async def leave(task: asyncio.Task[Any], turn: int) -> None:
            await turns(turn)
            task.cancel()

        key = f"key{number}"
        async with asyncio.timeout(60):
            tasks = [
                asyncio.create_task(caches[process].retrieve_or_load(None, key, load))
                for process in PROCESSES[where]
            ]
            leaving = [task for task in tasks if chance.random() < 0.7]
            await asyncio.gather(*(leave(task, chance.randrange(40)) for task in leaving))
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        answers = {end for end in ended if not isinstance(end, asyncio.CancelledError)}
        assert answers <= set(range(1, begun + 1))
        # Who has not come so far when the last one leaves a load begins another.
        assert begun <= len(tasks)
        assert finished <= 1
        assert all(task in leaving for task in tasks if task.cancelled())
        left += sum(task.cancelled() for task in tasks)
        for cache in caches:
            await nothing_leaks(cache._lifecycle.ready().engine)
            async with asyncio.timeout(60):
                found = await cache.retrieve_or_load(None, key, lambda: 0)
            # Where nobody was answered, a load that had ended may be kept all the same.
            assert {found} == answers or (not answers and found in range(begun + 1))
    report(21, f"{where}: {left} of {3 * runs} callers left at any turn")
    assert left > runs / 4


async def test_cancelled_caller_does_not_wait_for_the_loader(
    caches: tuple[AsyncRedisCache, AsyncRedisCache],
) -> None:
    """A cancelled loader may take its time to end; only the next load of the key waits for it."""
    one, two = caches
    may_end = asyncio.Event()
    begun = 0

    async def tidy() -> int:
        nonlocal begun
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
        return 1

    calls = [asyncio.create_task(one.retrieve_or_load(None, "key", tidy)) for _ in range(3)]
    await soon(lambda: begun == 1)
    for _ in range(3):
        for call in calls:
            call.cancel()
        await turns()
    assert all(call.cancelled() for call in calls)
    nexts = [
        asyncio.create_task(cache.retrieve_or_load(None, "key", lambda: 2)) for cache in (one, two)
    ]
    assert (await asyncio.wait(nexts, timeout=0.05))[0] == set()
    may_end.set()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*nexts) == [2, 2]
    assert begun == 1
    assert one.stats().loads + two.stats().loads == 2
