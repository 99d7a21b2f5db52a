"""`Lock` and `SyncLock`: mutual exclusion among the processes that use a cache."""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, cast

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.durations import HOUR, SECOND, ttl_milliseconds
from async_redis_cache._common.errors import (
    CacheError,
    CacheInputError,
    CacheLockError,
    CacheOutcomeUnknown,
)
from async_redis_cache._engine.locks import LockHold

__all__ = ["Lock", "LockRequest", "SyncLock"]

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.050
"""Seconds between two requests for a lock that another process holds."""
_LOCAL_PAUSE: Final = 0.5
"""The same if this process holds it, whose release ends the pause."""


class LockRequest(NamedTuple):
    """The arguments of `lock`.

    Attributes:
        view: the asynchronous view of the namespace.
        key: of the namespace.
        ttl: milliseconds.
        wait: seconds.
        trace_id: for errors.
    """

    view: Any
    key: str
    ttl: int
    wait: float
    trace_id: str | None

    @classmethod
    def of(
        cls,
        view: Any,
        key: str,
        ttl: float | timedelta,
        wait: float | timedelta,
        trace_id: str | None,
    ) -> LockRequest:
        """Check the durations.

        Raises:
            CacheInputError: BAD_TIMEOUT.
        """
        milliseconds = ttl_milliseconds(ttl)
        if not isinstance(milliseconds, int) or milliseconds > HOUR:
            raise CacheInputError("BAD_TIMEOUT", "`ttl` of a lock must be at most an hour")
        seconds = wait / timedelta(seconds=1) if isinstance(wait, timedelta) else wait
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, (int, float))  # type: ignore[redundant-expr]  # pyright: ignore[reportUnnecessaryIsInstance]
            or not 0 <= seconds < math.inf
        ):
            problem = "`wait` must be a number of seconds, 0 or more, or a timedelta"
            raise CacheInputError("BAD_TIMEOUT", problem)
        return cls(view, key, milliseconds, seconds, trace_id)


class _Pauses:
    """The pauses between the requests of one caller for a lock."""

    def __init__(self, request: LockRequest) -> None:
        self._request = request
        self._until = MonotonicClock.time() + request.wait
        self._pause = _FIRST_PAUSE

    def next(self, held_for: float) -> tuple[float, float]:
        """Return the seconds until the next request, and those if another caller in this process holds the lock.

        Args:
            held_for: seconds for which another holds the lock, unless it renews or releases it.

        Raises:
            CacheLockError: LOCK_TIMEOUT.
        """
        remaining = self._until - MonotonicClock.time()
        if remaining <= 0:
            problem = f"the lock was held by another for {self._request.wait:g} seconds"
            raise CacheLockError("LOCK_TIMEOUT", problem).traced(self._request.trace_id)
        pause = self._pause * (0.5 + random.random())  # noqa: S311
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        return min(remaining, pause, held_for), min(remaining, _LOCAL_PAUSE, held_for)


class _AnyLock:
    """What both kinds of locks have."""

    def __init__(self, request: LockRequest) -> None:
        self._request = request
        self._engine: Any = None
        self._hold: LockHold | None = None
        self._is_entered = False

    def __repr__(self) -> str:
        state = "held" if self.is_held() else "not held"
        return f"<{type(self).__name__} of {self._request.key!r}, {state}>"

    @property
    def key(self) -> str:
        """The key that was passed to `lock`."""
        return self._request.key

    @property
    def fencing_number(self) -> int:
        """A number greater than those of all earlier holders of the lock.

        Pass it along with each write to the resource that the lock is for, and let the resource refuse a number that is
        smaller than one that it has seen: only that keeps a holder that has lost the lock without noticing from writing.

        Raises:
            CacheLockError: NOT_LOCKED, the lock was not acquired yet.
        """
        if self._hold is None:
            error = CacheLockError("NOT_LOCKED", "the lock has not been acquired")
            raise error.traced(self._request.trace_id)
        return self._hold.fencing_number

    def is_held(self) -> bool:
        """Return whether the lock is held, as far as is known here. This sends nothing.

        It is false once the server could not be reached for a renewal until the lock has expired.
        """
        return self._hold is not None and self._hold.is_held()

    def raise_if_lost(self) -> None:
        """Raise an error unless `is_held` returns True. Call it before steps that must not be made twice.

        Raises:
            CacheLockError: LOCK_LOST.
        """
        if not self.is_held():
            raise self._lost()

    def _lost(self) -> CacheLockError:
        problem = "the lock has expired, and another may hold it: it could not be renewed in time, or was removed"
        return CacheLockError("LOCK_LOST", problem).traced(self._request.trace_id)

    def _enter(self) -> _Pauses:
        if self._is_entered:
            raise RuntimeError("a lock is not reentrant: call `lock` again for another one")
        self._is_entered = True
        self._hold = None
        return _Pauses(self._request)

    async def _try(self) -> float:
        """Request the lock once; return 0 if it is held now, otherwise the seconds for which another holds it."""
        request = self._request
        try:
            if self._hold is None:
                opened = request.view._lifecycle.ready()  # noqa: SLF001
                self._engine = opened.engine
                owner = weakref.ref(self)
                wire_key = opened.codec.wire_key(request.key)
                self._hold = LockHold(wire_key, request.ttl, lambda: owner() is not None)
            hold, locks = self._hold, self._engine.locks
            try:
                held_for: int = await locks.acquire(hold)
            except BaseException as error:
                # It may be granted all the same, and nothing would release it.
                if isinstance(error, CacheOutcomeUnknown) or not isinstance(error, Exception):
                    locks.begin_release(hold)
                self._hold = None
                raise
        except CacheError as error:
            request.view._record_error(error, request.trace_id)  # noqa: SLF001
            raise
        if not held_for:
            locks.keep(hold)
        return held_for / SECOND

    async def _wait(self, pause: float, longest: float) -> None:
        """Wait before the next request."""
        await self._engine.locks.wait(self._hold, pause, longest)

    def _is_of_this_process(self) -> bool:
        """Return whether this process has to release the lock, and not the one that it was forked from."""
        self._is_entered = False
        return self._hold is not None and self._hold.is_in_this_process()

    async def _release(self) -> bool:
        """Release the lock; return whether it was held until now."""
        hold, locks = cast("LockHold", self._hold), self._engine.locks
        was_held = hold.is_held()
        locks.begin_release(hold)
        try:
            answer: bool | None = await locks.released(hold)
        except CacheError:
            # The cache was closed.
            answer = None
        return was_held if answer is None else answer


class Lock(_AnyLock):
    """A lock of a `Namespace`, entered with `async with`. `Namespace.lock` creates it."""

    async def __aenter__(self) -> Self:
        # A method of the view, as all other calls: `instrument` creates a span for it.
        await self._request.view._acquire_lock(self._request.trace_id, self)  # noqa: SLF001
        return self

    async def _acquire(self) -> None:
        pauses = self._enter()
        try:
            while held_for := await self._try():
                await self._wait(*pauses.next(held_for))
        except BaseException:
            self._is_entered = False
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_of_this_process() and not await self._release() and exc is None:
            raise self._lost()


class SyncLock(_AnyLock):
    """A lock of a `SyncNamespace`, entered with `with`. `SyncNamespace.lock` creates it.

    Args:
        request: the arguments of `lock`.
        view: the synchronous view of the namespace.
    """

    def __init__(self, request: LockRequest, view: Any) -> None:
        super().__init__(request)
        self._view = view
        self._call: Callable[[Any, Coroutine[Any, Any, Any]], Any] = view._call  # noqa: SLF001

    def __enter__(self) -> Self:
        self._view._acquire_lock(self._request.trace_id, self)  # noqa: SLF001
        return self

    def _acquire(self) -> None:
        pauses = self._enter()
        try:
            while held_for := self._call(self._request.trace_id, self._try()):
                self._call(self._request.trace_id, self._wait(*pauses.next(held_for)))
        except BaseException:
            self._is_entered = False
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_of_this_process():
            return
        try:
            was_held = self._call(self._request.trace_id, self._release())
        except CacheError:
            # The cache was closed, and the lock is not renewed any more.
            was_held = False
        if not was_held and exc is None:
            raise self._lost()


# See the end of `async_redis_cache/__init__.py`.
Lock.__module__ = SyncLock.__module__ = "async_redis_cache"
