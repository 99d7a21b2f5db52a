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
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.outcomes import CallerLeftError, CapturedError, capture
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.load_source import LoadResult, LoadSpec, StoredValue
from async_redis_cache._engine.reads import IsReadable
from async_redis_cache._protocol.command import StoreItem
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


class _Freshness:
    """The freshness checks of an engine, called on the private event loop."""

    def __init__(self, engine: Engine) -> None:
        freshness = engine.freshness
        self.known_now = freshness.known_now
        self.now = partial(LoopCall, freshness.now)
        self.tags_are_current = partial(LoopCall, freshness.tags_are_current)
        self._payload = freshness.payload

    def payload(self, data: bytes | None, since: float) -> LoopCall:
        """See `Freshness`."""
        return LoopCall(self._payload, data, since)


class _Reads:
    """The reads of an engine, called on the private event loop."""

    def __init__(self, engine: Engine) -> None:
        self.fetch = partial(LoopCall, engine.reads.fetch)
        self.fetch_with_source = partial(LoopCall, engine.reads.fetch_with_source)
        self.fetch_many = partial(LoopCall, engine.reads.fetch_many)


class _Writes:
    """The writes of an engine, called on the private event loop. One that times out before it starts fails there."""

    def __init__(self, engine: Engine) -> None:
        self._writes = engine.writes

    def store(self, key: bytes, data: bytes, ttl: int) -> LoopCall:
        """See `Writes`."""
        writes = self._writes
        return LoopWrite(writes.store, key, data, ttl, unsent=partial(writes.failed, (key,)))

    def store_many(self, entries: Sequence[StoreItem], tags: Collection[bytes] = ()) -> LoopCall:
        """See `Writes`."""
        writes = self._writes
        unsent = partial(writes.failed, [key for key, _, _ in entries])
        return LoopWrite(writes.store_many, entries, tags, unsent=unsent)

    def invalidate_tags(self, tags: Collection[bytes]) -> LoopCall:
        """See `Writes`."""
        writes = self._writes
        unsent = partial(writes.invalidate_tags_failed, tags)
        return LoopWrite(writes.invalidate_tags, tags, unsent=unsent)

    def failed(
        self, keys: Collection[bytes], failure: CacheError, *, is_raised: bool = True
    ) -> None:
        """See `Writes`."""
        current().portal.post(partial(self._writes.failed, keys, failure, is_raised=is_raised))


class _AtomicWrites:
    """The atomic writes of an engine, called on the private event loop."""

    def __init__(self, engine: Engine) -> None:
        self.add = partial(LoopWrite, engine.atomic.add)
        self.increment = partial(LoopWrite, engine.atomic.increment)


class _Locks:
    """The locks of an engine, called on the private event loop."""

    def __init__(self, engine: Engine) -> None:
        self.acquire = partial(LoopWrite, engine.locks.acquire)
        self.keep = partial(_call_on_loop, engine.locks.keep)
        self.begin_release = partial(_call_on_loop, engine.locks.begin_release)
        self.released = partial(LoopCall, engine.locks.released)
        self.wait = partial(LoopCall, engine.locks.wait)


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
        task = partial(_in_task, copy_context())
        outcome = await LoopLoad(spec.hard_timeout, task, load, key, spec, patience)
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        loaded: LoadResult | StoredValue | None = outcome
        return loaded

    def refresh_in_background(self, key: bytes, spec: LoadSpec) -> None:
        """See `SingleFlight`."""
        _call_on_loop(copy_context().run, self._single_flight.refresh_in_background, key, spec)


class CallerEngine:
    """The engine for calling threads, which makes each call on the private event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.loop = MonotonicClock
        self.freshness = _Freshness(engine)
        self.reads = _Reads(engine)
        self.writes = _Writes(engine)
        self.atomic = _AtomicWrites(engine)
        self.locks = _Locks(engine)
        self.single_flight = _SingleFlight(engine)
        self.strict = engine.strict
        self.fails_open = engine.fails_open
        # Called in the calling thread: these only read state, count and log.
        self.open_circuits_of = engine.open_circuits_of
        self.check_circuit = engine.check_circuit
        self.continue_without_server = engine.continue_without_server
        self.failed_open = engine.failed_open
        self.circuit_open = engine.circuit_open
        self.contains = partial(LoopCall, engine.contains)
        self.ping = partial(LoopCall, engine.ping)
        self.touch = partial(LoopWrite, engine.touch)
        self.next_keys = partial(LoopCall, engine.next_keys)

    def __repr__(self) -> str:
        return repr(self._engine)

    @property
    def has_near(self) -> bool:
        """See `Engine`."""
        return self._engine.has_near

    def without_near(self) -> CallerEngine:
        """See `Engine`."""
        return CallerEngine(self._engine.without_near())

    @property
    def master(self) -> Any:
        """See `Engine`."""
        return self._engine.master

    def time_to_live(
        self, key: bytes, since: float | None = None, is_readable: IsReadable | None = None
    ) -> LoopCall:
        """See `Engine`."""
        return LoopCall(self._engine.time_to_live, key, since, is_readable)

    def clear(self, prefix: bytes, seconds: float | None = None) -> LoopCall:
        """See `Engine`."""
        return LoopLongWrite(seconds or 0.0, self._engine.clear, prefix, seconds)

    def get_and_delete(self, key: bytes) -> LoopCall:
        """See `Engine`."""
        return self._removal(self._engine.get_and_delete, key, [key])

    def delete_counted(self, keys: Sequence[bytes]) -> LoopCall:
        """See `Engine`."""
        return self._removal(self._engine.delete_counted, keys, keys)

    def delete(self, keys: Sequence[bytes]) -> LoopCall:
        """See `Engine`."""
        return self._removal(self._engine.delete, keys, keys)

    def _removal(
        self, function: Callable[[Any], Awaitable[Any]], what: Any, keys: Sequence[bytes]
    ) -> LoopCall:
        unsent = partial(self._engine.writes.failed, keys)
        return LoopWrite(function, what, unsent=unsent)

    def call_on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """See `Engine`."""
        _call_on_loop(function, *args)

    def load_engine(self) -> LoadEngine:
        """See `Engine`."""
        return LoadEngine(self._engine, current())

    async def gather_outcomes(self, awaitables: Iterable[Awaitable[T]]) -> list[T | CapturedError]:
        """See `Engine`."""
        return await Gathered([capture(awaitable) for awaitable in awaitables])


def _call_on_loop(function: Callable[..., object], *args: Any) -> None:
    if local.thread.serves:
        function(*args)
    else:
        current().portal.post(function, *args)


def _in_task(
    context: Context, function: Callable[..., Awaitable[T]], *args: Any
) -> asyncio.Task[T | CapturedError]:
    """Run a coroutine function in a task. Exceptions are returned, since asyncio raises some out of its event loop."""
    return asyncio.get_running_loop().create_task(capture(function(*args)), context=context)


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
