"""The engine as callers outside of its event loop see it: what takes time is a call on the private event loop.

Each member of `Engine` that the API uses is declared here, once for all kinds of callers. What a call is depends on the
caller: see `calling_thread` and `any_loop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.outcomes import CapturedError, capture
from async_redis_cache._engine.reads import IsReadable
from async_redis_cache._protocol.command import StoreItem
from async_redis_cache._protocol.record import Record

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = ["CallingEngine", "Calls", "in_task"]

T = TypeVar("T")

Function = Callable[..., Awaitable[Any]]


class Calls(Protocol):
    """Makes the calls of one kind of callers."""

    @property
    def read(self) -> Callable[..., Awaitable[Any]]:
        """Takes a function of the engine and its arguments; what it returns is to be awaited once."""
        ...

    @property
    def write(self) -> Callable[..., Awaitable[Any]]:
        """As `read`, for what may have changed data on the server when it times out.

        It takes first what to call with the error, on the private event loop, if it times out before it has started.
        """
        ...

    def read_since(self, since: float, function: Function, /, *args: Any) -> Awaitable[Any]:
        """As `read`, for a step of an operation that has begun at this time of the monotonic clock."""
        ...

    def long_write(self, seconds: float, function: Function, /, *args: Any) -> Awaitable[Any]:
        """As `write`, for what may take some seconds more than other calls."""
        ...

    def post(self, function: Callable[..., object], /, *args: Any) -> None:
        """Call a function on the private event loop without waiting."""
        ...

    def in_caller(self, is_readable: IsReadable, /) -> IsReadable:
        """Return a check for the private event loop to await, which runs where the caller does."""
        ...


class _Freshness:
    """The freshness checks of an engine."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self._freshness = engine.freshness
        self._read_since = calls.read_since
        self.known_now = engine.freshness.known_now

    def now(self, since: float) -> Awaitable[Any]:
        """See `Freshness`."""
        return self._read_since(since, self._freshness.now, since)

    def tags_are_current(self, record: Record, since: float) -> Awaitable[Any]:
        """See `Freshness`."""
        return self._read_since(since, self._freshness.tags_are_current, record, since)

    def payload(self, data: bytes | None, since: float) -> Awaitable[Any]:
        """See `Freshness`."""
        return self._read_since(since, self._freshness.payload, data, since)


class _Reads:
    """The reads of an engine."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self.fetch = partial(calls.read, engine.reads.fetch)
        self.fetch_with_source = partial(calls.read, engine.reads.fetch_with_source)
        self.fetch_many = partial(calls.read, engine.reads.fetch_many)


class _Writes:
    """The writes of an engine. One that times out before it starts fails on the private event loop."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self._writes = engine.writes
        self._write = calls.write
        self._post = calls.post

    def store(self, key: bytes, data: bytes, ttl: int) -> Awaitable[Any]:
        """See `Writes`."""
        writes = self._writes
        return self._write(partial(writes.failed, (key,)), writes.store, key, data, ttl)

    def store_many(
        self, entries: Sequence[StoreItem], tags: Collection[bytes] = ()
    ) -> Awaitable[Any]:
        """See `Writes`."""
        unsent = partial(self._writes.failed, [key for key, _, _ in entries])
        return self._write(unsent, self._writes.store_many, entries, tags)

    def invalidate_tags(self, tags: Collection[bytes]) -> Awaitable[Any]:
        """See `Writes`."""
        unsent = partial(self._writes.invalidate_tags_failed, tags)
        return self._write(unsent, self._writes.invalidate_tags, tags)

    def failed(
        self, keys: Collection[bytes], failure: CacheError, *, is_raised: bool = True
    ) -> None:
        """See `Writes`."""
        self._post(partial(self._writes.failed, keys, failure, is_raised=is_raised))


class _AtomicWrites:
    """The atomic writes of an engine."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self.add = partial(calls.write, None, engine.atomic.add)
        self.increment = partial(calls.write, None, engine.atomic.increment)


class _Locks:
    """The locks of an engine."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        locks = engine.locks
        self.acquire = partial(calls.write, None, locks.acquire)
        self.keep = partial(calls.post, locks.keep)
        self.begin_release = partial(calls.post, locks.begin_release)
        self.released = partial(calls.read, locks.released)
        self.wait = partial(calls.read, locks.wait)


class CallingEngine:
    """The engine for callers outside of its event loop, without loads, which each kind of callers adds.

    Args:
        engine: on the private event loop.
        calls: makes the calls.
    """

    loop = MonotonicClock

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self._engine = engine
        self._calls = calls
        self.freshness = _Freshness(engine, calls)
        self.reads = _Reads(engine, calls)
        self.writes = _Writes(engine, calls)
        self.atomic = _AtomicWrites(engine, calls)
        self.locks = _Locks(engine, calls)
        self.threads = engine.threads
        self.strict = engine.strict
        self.fails_open = engine.fails_open
        # Called where the caller is: these only read state, count and log.
        self.open_circuits_of = engine.open_circuits_of
        self.check_circuit = engine.check_circuit
        self.continue_without_server = engine.continue_without_server
        self.failed_open = engine.failed_open
        self.circuit_open = engine.circuit_open
        self.result_not_stored = engine.result_not_stored
        self.ping = partial(calls.read, engine.ping)
        self.next_keys = partial(calls.read, engine.next_keys)

    def __repr__(self) -> str:
        return repr(self._engine)

    @property
    def has_near(self) -> bool:
        """See `Engine`."""
        return self._engine.has_near

    @property
    def master(self) -> Any:
        """See `Engine`."""
        return self._engine.master

    def clear(self, prefix: bytes, seconds: float | None = None) -> Awaitable[Any]:
        """See `Engine`."""
        return self._calls.long_write(seconds or 0.0, self._engine.clear, prefix, seconds)

    def contains(self, key: bytes, is_readable: IsReadable) -> Awaitable[Any]:
        """See `Engine`."""
        is_readable = self._calls.in_caller(is_readable)
        return self._calls.read(self._engine.contains, key, is_readable)

    def touch(self, key: bytes, ttl: int, is_readable: IsReadable) -> Awaitable[Any]:
        """See `Engine`."""
        is_readable = self._calls.in_caller(is_readable)
        return self._calls.write(None, self._engine.touch, key, ttl, is_readable)

    def time_to_live(
        self, key: bytes, since: float | None = None, is_readable: IsReadable | None = None
    ) -> Awaitable[Any]:
        """See `Engine`."""
        if is_readable is not None:
            is_readable = self._calls.in_caller(is_readable)
        begun = self.loop.time() if since is None else since
        return self._calls.read_since(begun, self._engine.time_to_live, key, since, is_readable)

    def get_and_delete(self, key: bytes) -> Awaitable[Any]:
        """See `Engine`."""
        unsent = partial(self._engine.writes.failed, [key])
        return self._calls.write(unsent, self._engine.get_and_delete, key)

    def delete_counted(self, keys: Sequence[bytes]) -> Awaitable[Any]:
        """See `Engine`."""
        unsent = partial(self._engine.writes.failed, keys)
        return self._calls.write(unsent, self._engine.delete_counted, keys)

    def delete(self, keys: Sequence[bytes]) -> Awaitable[Any]:
        """See `Engine`."""
        unsent = partial(self._engine.writes.failed, keys)
        return self._calls.write(unsent, self._engine.delete, keys)


def in_task(
    context: Context, function: Callable[..., Awaitable[T]], *args: Any
) -> asyncio.Task[T | CapturedError]:
    """Call a coroutine function in a task on the private event loop, for a load to have the context of its caller.

    Exceptions are returned, since asyncio raises some out of its event loop.
    """

    async def captured() -> T | CapturedError:
        # Called in the task, which may be cancelled before it starts.
        return await capture(function(*args))

    return asyncio.get_running_loop().create_task(captured(), context=context)
