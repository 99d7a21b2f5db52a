"""Callers that are cancelled at any moment, repeatedly, affect no other call."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Client, Server, StartProxy, await_until
from harness.figures import report
from harness.run_length import scaled

pytestmark = pytest.mark.depends_on()

CANCELLATIONS = scaled(10_000, 50_000)
LEAVERS = 60
OTHERS = 20
STATIC = {f"static{number}": f"value of static{number}" for number in range(50)}

Work = Callable[[], Coroutine[None, None, None]]


@pytest.fixture(params=[0, 1_000_000], ids=["unbounded", "bounded"])
async def cache(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[AsyncRedisCache]:
    cache = AsyncRedisCache.from_url(server.url, max_size=request.param)
    await cache.open(None)
    await cache.store_many(None, STATIC)
    yield cache
    await cache.close(None)


class Callers:
    """What callers do, each time something else, and what they have been told wrongly."""

    def __init__(self, cache: AsyncRedisCache, seed: int) -> None:
        self.wrong: list[object] = []
        self._cache = cache
        self._random = Random(seed)
        self._names = (f"own{number}" for number in itertools.count())

    def any_work(self) -> Work:
        """One of the works, at random."""
        works = [self.read, self.read_many, self.miss, self.change, self.change_many]
        return self._random.choice(works)

    async def read(self) -> None:
        key = self._random.choice(list(STATIC))
        self._compare(await self._cache.retrieve(None, key), STATIC[key])

    async def read_many(self) -> None:
        keys = self._random.sample(list(STATIC), 7)
        found = await self._cache.retrieve_many(None, [*keys, "none"])
        self._compare(found, {key: STATIC[key] for key in keys})

    async def miss(self) -> None:
        self._compare(await self._cache.retrieve(None, next(self._names)), None)

    async def change(self) -> None:
        key = next(self._names)
        self._compare(await self._cache.store(None, key, key), key)
        self._compare(await self._cache.retrieve(None, key), key)
        self._compare(await self._cache.touch(None, key), True)
        self._compare(await self._cache.remove(None, key), key)
        self._compare(await self._cache.contains(None, key), False)

    async def change_many(self) -> None:
        mapping = {key: key for key in itertools.islice(self._names, 5)}
        await self._cache.store_many(None, mapping)
        self._compare(await self._cache.retrieve_many(None, mapping), mapping)
        self._compare(await self._cache.remove_many(None, mapping), len(mapping))

    def _compare(self, found: object, expected: object) -> None:
        if found != expected:
            self.wrong.append((found, expected))


class Leaver:
    """Begins calls and leaves at a random moment, often twice."""

    def __init__(self, callers: Callers, seed: int) -> None:
        self.left = 0
        self.swallowed = 0
        self._callers = callers
        self._random = Random(seed)

    async def run(self, until: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while not until():
            work = loop.create_task(self._callers.any_work()())
            # From before the first step to after the last: a call takes some milliseconds here.
            first = 0.0 if self._random.random() < 0.1 else self._random.expovariate(1 / 0.004)
            leaving = [loop.call_later(first, self._leave, work)]
            if self._random.random() < 0.5:
                second = first + self._random.choice((0.0, 0.0001, 0.001))
                leaving.append(loop.call_later(second, self._leave, work))
            await asyncio.wait([work])
            for handle in leaving:
                handle.cancel()
            if not work.cancelled():
                self.swallowed += work.cancelling()
                work.result()

    def _leave(self, work: asyncio.Task[None]) -> None:
        if not work.done():
            self.left += 1
            work.cancel()


@pytest.mark.no_leaks
async def test_cancelled_callers_affect_no_other(cache: AsyncRedisCache, raw: Client) -> None:
    """1. After 10,000 cancellations: no wrong reply, no leaked connection, none swallowed; all other callers are served."""
    callers = Callers(cache, seed=1)
    leavers = [Leaver(callers, seed) for seed in range(LEAVERS)]

    def enough() -> bool:
        return sum(leaver.left for leaver in leavers) >= CANCELLATIONS

    served = 0

    async def stay() -> None:
        nonlocal served
        while not enough():
            await callers.any_work()()
            served += 1

    async with asyncio.TaskGroup() as group:
        for leaver in leavers:
            group.create_task(leaver.run(enough))
        for _ in range(OTHERS):
            group.create_task(stay())
    left = sum(leaver.left for leaver in leavers)
    stats = cache.stats()
    report(
        1,
        f"{left:,} cancellations, {served:,} calls of other tasks, {stats.errors} errors, "
        f"{stats.connects} connections",
    )
    assert callers.wrong == []
    assert sum(leaver.swallowed for leaver in leavers) == 0
    assert stats.errors == 0
    assert served > 0

    # Exchanges whose callers have all left end on their own, and every connection is idle again.
    await await_until(lambda: "<Batcher 0 waiting, 0 in flight>" in repr(cache))
    # The last connection may still be opening.
    await await_until(lambda: ", connecting" not in repr(cache))
    wires = len(raw.client_list()) - 1
    assert 1 <= wires <= 4
    assert f"<ConnectionPool {wires} open, {wires} idle>" in repr(cache)


async def test_cancelled_call_is_not_sent_from_the_queue(
    server: Server, raw: Client, proxy: StartProxy
) -> None:
    """A store whose only caller has gone while it was waiting never reaches the server."""
    network = proxy(server)
    async with AsyncRedisCache.from_url(network.url, max_size=0, max_connections=1) as cache:
        network.delay(0.05)
        busy = asyncio.ensure_future(cache.retrieve(None, "anything"))
        await asyncio.sleep(0)
        leaver = asyncio.ensure_future(cache.store(None, "left", 1))
        stayer = asyncio.ensure_future(cache.store(None, "stayed", 1))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait([busy, leaver, stayer])
        assert leaver.cancelled()
        assert (raw.get("left"), raw.get("stayed")) == (None, b"1")


async def test_cancelled_caller_cancels_no_other_call(server: Server) -> None:
    """Of ten concurrent readers of a key nine are cancelled, and the tenth gets its reply."""
    async with AsyncRedisCache.from_url(server.url, max_size=0, max_connections=1) as cache:
        await cache.store(None, "key", "value")
        busy = asyncio.ensure_future(cache.retrieve(None, "anything"))
        callers = [asyncio.ensure_future(cache.retrieve(None, "key")) for _ in range(10)]
        await asyncio.sleep(0)
        for leaver in callers[:9]:
            leaver.cancel()
        assert await callers[9] == "value"
        await asyncio.wait([busy, *callers])
        assert all(leaver.cancelled() for leaver in callers[:9])
