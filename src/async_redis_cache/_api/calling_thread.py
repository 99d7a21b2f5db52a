"""The asynchronous API, run by a calling thread: the synchronous API is no second implementation.

A coroutine of `AsyncRedisCache` awaits only calls of its engine. So the calling thread can step the coroutine itself: it
makes these calls on the private event loop and waits for them. Keys, serializers and types are handled in the calling
thread, with its context and its thread-locals, and do not block other callers. Each call has a deadline even if the
event loop is blocked.

A load runs on the event loop. Work that belongs to its caller, such as serializing, is done by the calling thread while it
waits for the load: see `LoadEngine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from async_redis_cache._common.errors import CacheStateError
from async_redis_cache._common.outcomes import CallerLeftError, CapturedError, capture
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.load_source import LoadResult, LoadSpec, StoredValue
from async_redis_cache._engine.reads import IsReadable
from async_redis_cache._runtime.lifecycle import Lifecycle, Opened
from async_redis_cache._runtime.portal_queue import PortalQueue, PrivateLoop, local
from async_redis_cache._runtime.stepping import (
    Gathered,
    LoopCall,
    LoopLoad,
    LoopLongWrite,
    LoopWrite,
    current,
)
from async_redis_cache._values.serializers import Serializer

from .engine_calls import CallingEngine, in_task

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = ["NOT_OPEN", "CallerLifecycle"]

T = TypeVar("T")

NOT_OPEN: Final = "the cache is not open: call `cache.open(...)` or use `with`"


class LoadEngine:
    """The engine for a load whose caller is another thread. The load runs on the event loop.

    The calling thread, which waits for the load, runs the serializer and, with `in_thread="caller"`, the loader. Once it
    does not wait any more, a worker thread runs them, with the caller's context.
    """

    def __init__(self, engine: Engine, queue: PortalQueue) -> None:
        self.loop = engine.loop
        self.strict = engine.strict
        self.freshness = engine.freshness
        self.result_not_stored = engine.result_not_stored
        self.threads = engine.threads
        self._queue = queue

    async def run_in_caller(self, function: Callable[[], T]) -> T:
        """Call a function in the caller's thread and return its result."""
        # In the context of this load, to detect a load cycle if the function requests the key of the load.
        call = partial(copy_context().run, function)
        caller_task = _CallerTask(call, self._queue.portal, self.loop.create_future())
        if self._queue.offer(caller_task):
            try:
                outcome = await caller_task.outcome
            finally:
                self._queue.retract(caller_task)
            if isinstance(outcome, CapturedError):
                raise outcome.error()
            if outcome is not _ABANDONED:
                return cast("T", outcome)
            if caller_task.has_started:
                # The thread was interrupted, or its loader ended it: only the caller gets that exception.
                raise CallerLeftError
        return cast("T", await self.threads.run(function))


_ABANDONED: Final = object()


class _CallerTask:
    """Work of a load for the thread of its caller."""

    __slots__ = ("_function", "_portal", "has_started", "outcome")

    def __init__(self, function: Callable[[], Any], portal: PrivateLoop, outcome: Any) -> None:
        self._function = function
        self._portal = portal
        self.outcome = outcome
        self.has_started = False

    def run(self) -> None:
        """Call the function. Runs in the caller's thread."""
        self.has_started = True
        try:
            outcome = self._function()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  it ends the load
            outcome = CapturedError(error)
        self._portal.post(self._set_outcome, outcome)

    def abandon(self) -> None:
        """End the work: the caller waits no more."""
        self._portal.post(self._set_outcome, _ABANDONED)

    def _set_outcome(self, outcome: Any) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _ThreadCalls:
    """The calls of a thread, awaited by a coroutine that the thread steps."""

    read = LoopCall
    write = LoopWrite
    long_write = LoopLongWrite

    @staticmethod
    def read_since(
        _since: float, function: Callable[..., Awaitable[Any]], /, *args: Any
    ) -> LoopCall:
        """See `Calls`. The queue of the thread has one deadline for all steps."""
        return LoopCall(function, *args)

    @staticmethod
    def post(function: Callable[..., object], /, *args: Any) -> None:
        """See `Calls`."""
        if local.thread.serves:
            function(*args)
        else:
            current().portal.post(function, *args)

    @staticmethod
    def in_caller(is_readable: IsReadable, /) -> IsReadable:
        """See `Calls`. A check runs on the private event loop."""
        return is_readable


_CALLS: Final = _ThreadCalls()


class _SingleFlight:
    """The loads of an engine, called on the private event loop."""

    def __init__(self, engine: Engine) -> None:
        self._single_flight = engine.single_flight

    async def load(
        self, key: bytes, spec: LoadSpec, patience: float | None = None
    ) -> LoadResult | StoredValue | None:
        """See `SingleFlight`."""
        # In a task, for the load to have the caller's context.
        load = self._single_flight.load
        task = partial(in_task, copy_context())
        outcome = await LoopLoad(spec.hard_timeout, task, load, key, spec, patience)
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        loaded: LoadResult | StoredValue | None = outcome
        return loaded

    def refresh_in_background(self, key: bytes, spec: LoadSpec) -> None:
        """See `SingleFlight`."""
        refresh = self._single_flight.refresh_in_background
        _CALLS.post(copy_context().run, refresh, key, spec)


class CallerEngine(CallingEngine):
    """The engine for calling threads."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, _CALLS)
        self.single_flight = _SingleFlight(engine)
        self.call_on_loop = _CALLS.post

    def without_near(self) -> CallerEngine:
        """See `Engine`."""
        return CallerEngine(self._engine.without_near())

    def load_engine(self) -> LoadEngine:
        """See `Engine`."""
        return LoadEngine(self._engine, current())

    async def gather_outcomes(self, awaitables: Iterable[Awaitable[T]]) -> list[T | CapturedError]:
        """See `Engine`."""
        return await Gathered([capture(awaitable) for awaitable in awaitables])


class CallerLifecycle(Lifecycle):
    """The lifecycle of a cache on a private event loop, for calling threads."""

    def __init__(self, serializer: Serializer | None, counters: CacheStats) -> None:
        super().__init__(serializer, counters)
        self._wrapped: tuple[Opened, Opened] | None = None
        """The parts of the open cache, and the same with a `CallerEngine`."""

    async def close(self) -> None:
        """Close the cache if it is open."""
        try:
            await super().close()
        finally:
            self._wrapped = None

    def ready(self) -> Opened:
        """Return the parts of the cache, which has to be open, for calling threads.

        Raises:
            CacheStateError: NOT_OPENED.
        """
        opened, wrapped = self._opened, self._wrapped
        if opened is None:
            raise CacheStateError("NOT_OPENED", NOT_OPEN)
        if wrapped is None or wrapped[0] is not opened:
            # It has all members of `Engine` that the API uses.
            engine = cast("Engine", CallerEngine(opened.engine))
            wrapped = self._wrapped = opened, opened._replace(engine=engine)
        return wrapped[1]
