"""Three callers of one cold key, each cancelled at a moment of its own, and the expected outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from async_redis_cache._client.batcher import Batcher
from harness.choices import LOOP
from harness.loading_pauses import soon
from harness.virtual_time import turns

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache
    from async_redis_cache._engine.engine import Engine
    from harness.loading_pauses import Stops

PREFIX = "leave:"


class Moment(IntEnum):
    """When a caller is cancelled: before, during or after the load, in the order in which these come."""

    UNBEGUN = 0
    """Before its first step."""
    READING = 1
    """While it looks whether the key has a value."""
    ASKING = 2
    """While the right to load is asked for."""
    LOADING = 3
    ARRIVING = 4
    """In the same turn of the event loop in which the result arrives."""
    ANSWERED = 5
    """When it has its answer."""
    NEVER = 6


# Where tasks are eager, each begins where it is made.
MOMENTS = [moment for moment in Moment if moment > Moment.UNBEGUN or "eager" not in LOOP]

PROCESSES = {"one process": (0, 0, 0), "the first alone": (0, 1, 1), "the last alone": (0, 0, 1)}
"""In which process each caller is."""


class Promise(NamedTuple):
    """What becomes of the key."""

    loads: int
    cancelled: int
    kept: bool

    @classmethod
    def of(cls, moments: tuple[Moment, ...], processes: tuple[int, ...]) -> Promise:
        """As the module says it; the first process that still wants the right gets it."""
        longest: dict[int, Moment] = {}
        for moment, process in zip(moments, processes, strict=True):
            longest[process] = max(moment, longest.get(process, Moment.UNBEGUN))
        wanting = [process for process, moment in sorted(longest.items()) if moment > Moment.ASKING]
        if not wanting:
            return cls(0, 0, kept=False)
        holder, *others = wanting
        if longest[holder] > Moment.LOADING:
            return cls(1, 0, kept=True)
        if any(longest[other] > Moment.LOADING for other in others):
            return cls(2, 1, kept=True)
        return cls(1, 1, kept=False)


class Origin:
    """What is loaded from: slow, and it counts."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.may_end = asyncio.Event()

    async def load(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number


class Callers:
    """Three callers, and the way that all of them go; each leaves it at a moment of its own.

    Args:
        caches: of both processes.
        stops: of these.
        processes: in which each caller is.
        moments: when each is cancelled.
        again: whether who is cancelled is so several times.
    """

    def __init__(
        self,
        key: str,
        caches: tuple[AsyncRedisCache, AsyncRedisCache],
        stops: list[Stops],
        processes: tuple[int, ...],
        moments: tuple[Moment, ...],
        *,
        again: bool,
    ) -> None:
        self.origin = Origin()
        self._key = key
        self._stops = stops
        self._processes = processes
        self._moments = moments
        self._again = again
        self._loop = asyncio.get_running_loop()
        self.tasks = [self._loop.create_task(self._call(caches[process])) for process in processes]

    async def _call(self, cache: AsyncRedisCache) -> Any:
        # With eager tasks too, who leaves before he has begun has asked nobody.
        await asyncio.sleep(0)
        return await cache.retrieve_or_load(None, self._key, self.origin.load)

    async def go(self) -> None:
        """All the way, to its end."""
        promise = Promise.of(self._moments, self._processes)
        for stops in self._stops:
            stops.close()
        await self._leave(Moment.UNBEGUN)
        for process, count in self._beyond(Moment.UNBEGUN).items():
            await self._stops[process].reading.reached(count)
        await self._leave(Moment.READING)
        for stops in self._stops:
            await stops.reading.open()
        for process in self._beyond(Moment.READING):
            await self._stops[process].asking.reached(1)
        await self._leave(Moment.ASKING)
        for stops in self._stops:
            await stops.asking.open()
        await soon(lambda: self.origin.begun == min(1, promise.loads))
        await self._leave(Moment.LOADING)
        await soon(lambda: self.origin.begun == promise.loads)
        await soon(lambda: self.origin.cancelled == promise.cancelled)
        for process in self._beyond(Moment.LOADING):
            self._leave_on_arrival(process)
        self.origin.may_end.set()
        await asyncio.wait(self.tasks)
        await self._leave(Moment.ANSWERED)

    def _beyond(self, moment: Moment) -> Counter[int]:
        """How many callers of each process are there after this moment."""
        pairs = zip(self._moments, self._processes, strict=True)
        return Counter(process for leaving, process in pairs if leaving > moment)

    async def _leave(self, moment: Moment) -> None:
        leaving = self._leaving(moment)
        for task in leaving:
            self._cancel(task)
        # Whatever goes on: who leaves has left.
        await turns(6)
        assert all(task.done() for task in leaving)

    def _leaving(self, moment: Moment, process: int | None = None) -> list[asyncio.Task[Any]]:
        callers = zip(self.tasks, self._moments, self._processes, strict=True)
        return [
            task
            for task, leaving, where in callers
            if leaving == moment and process in {None, where}
        ]

    def _leave_on_arrival(self, process: int) -> None:
        """Called back when a flight has told its result to those who wait, and none of them knows."""
        flights = self._stops[process].engine.single_flight._in_flight
        flight = flights[f"{PREFIX}{self._key}".encode()]

        def arriving(_: object) -> None:
            for task in self._leaving(Moment.ARRIVING, process):
                assert not task.done()
                self._cancel(task)

        flight.task.add_done_callback(arriving)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        if self._again:
            task.cancel()
            self._loop.call_soon(task.cancel)


async def nothing_leaks(engine: Engine) -> None:
    """Wait until no load, no question and no wish for a right is left."""
    loading, batcher = engine.single_flight, engine._batcher
    assert isinstance(batcher, Batcher)
    await soon(lambda: not (loading._running or loading._tasks))
    await soon(lambda: not (batcher._in_flight or batcher._queue))
    assert loading._in_flight == {}
