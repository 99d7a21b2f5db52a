"""Runs a coroutine in the calling thread, and the engine calls that it awaits on the event loop of a portal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.failures import TIMED_OUT, UNKNOWN, Failure
from async_redis_cache._common.outcomes import CapturedError

from .portal import Portal
from .portal_queue import PortalCall, PortalQueue, PortalRefusedError, Work, local

__all__ = [
    "Gathered",
    "LoopCall",
    "LoopLoad",
    "LoopLongWrite",
    "LoopWrite",
    "current",
    "drive",
    "give_up",
    "raised",
]

T = TypeVar("T")


class TimedCall(Protocol):
    """A call with what `give_up` needs of it."""

    timeout_failure: Failure
    """The error of a call that times out after it has started."""
    unsent: Callable[[CacheError], None] | None
    """Called on the event loop with the error, if the call times out before it has started."""


class LoopCall(PortalCall):
    """A call of the engine on the event loop, to be awaited by a coroutine that `drive` runs."""

    __slots__ = ()

    timeout_failure: Failure = TIMED_OUT
    """The error of a call that times out after it has started."""
    unsent: Callable[[CacheError], None] | None = None
    """Called on the event loop with the error, if the call times out before it has started."""
    extra_seconds = 0.0
    """Seconds that the call may take in addition to the deadline of all calls."""

    def __await__(self) -> Generator[LoopCall, Any, Any]:
        return (yield self)


class LoopWrite(LoopCall):
    """A call that may have changed data on the server when it times out."""

    timeout_failure = UNKNOWN

    def __init__(
        self,
        unsent: Callable[[CacheError], None] | None,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
    ) -> None:
        super().__init__(function, *args)
        self.unsent = unsent


class LoopLoad(LoopCall):
    """A load, whose loader has a time limit of its own."""

    def __init__(
        self, extra_seconds: float, function: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        super().__init__(function, *args)
        self.extra_seconds = extra_seconds


class LoopLongWrite(LoopLoad):
    """A write that may take longer than other calls."""

    timeout_failure = UNKNOWN


class Gathered:
    """Coroutines that run concurrently until all have ended."""

    __slots__ = ("coroutines",)

    def __init__(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> None:
        self.coroutines = coroutines

    def __await__(self) -> Generator[Gathered, Any, list[Any]]:
        results: list[Any] = yield self
        return results


class _Stepped:
    """A running coroutine, and the callback for its end."""

    __slots__ = ("coroutine", "ended")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.coroutine = coroutine
        self.ended = ended


def drive(portal: Portal, coroutine: Coroutine[Any, Any, T], patience: float) -> T:
    """Run the coroutine of a method of `CallerCache` in this thread, and return its result.

    Args:
        portal: the portal with the engine.
        coroutine: the coroutine; not closed if it has not started.
        patience: seconds that it may wait for the event loop, without its loads.

    Raises:
        PortalRefusedError: IN_EVENT_LOOP on the thread of a portal.
        CacheStateError: NOT_OPENED, if the portal is closed.
        CacheTimeout: the event loop did not reply in time; nothing was changed.
        CacheOutcomeUnknown: the same for a write that may have been sent.
    """
    thread = local.thread
    if thread.serves:
        portal.refuse_in_event_loop()
    queue = PortalQueue(thread, portal, patience)
    # Nested if a serializer calls a cache.
    before, thread.queue = thread.queue, queue
    try:
        result: T = _stepped_through(portal, coroutine, queue)
        queue.close()
    except BaseException:
        # An interrupt may have come at any point.
        queue.leave()
        coroutine.close()
        raise
    finally:
        thread.queue = before
    return result


def current() -> PortalQueue:
    """Return the queue of the call that this thread is making."""
    queue = local.thread.queue
    if queue is None:
        raise RuntimeError("the engine of a private event loop can only be called by `drive`")
    return queue


def _stepped_through(
    portal: Portal, coroutine: Coroutine[Any, Any, Any], queue: PortalQueue
) -> Any:
    """Run a coroutine. One that awaits single calls and no load, as most do, needs no `_Driver`."""
    try:
        awaited = coroutine.send(None)
        while type(awaited) is LoopCall or type(awaited) is LoopWrite:
            awaited.queue = queue
            portal.send(awaited)
            item = queue.wait()
            while item is not None and item is not awaited:
                item.run()
                item = queue.wait()
            if item is None:
                awaited = coroutine.throw(give_up(portal, awaited))
            elif awaited.error is not None:
                awaited = coroutine.throw(raised(awaited, awaited.error))
            else:
                awaited = coroutine.send(awaited.result)
    except StopIteration as stop:
        return stop.value
    return _Driver(portal, queue).run(coroutine, awaited)


def raised(call: PortalCall, error: BaseException) -> BaseException:
    """The exception of a call, to which the call keeps no reference."""
    call.error = None
    return (
        CacheStateError(error.code, error.problem)
        if isinstance(error, PortalRefusedError)
        else error
    )


def give_up(portal: Portal, call: TimedCall) -> CacheError:
    """Give up a call that has timed out, and return its error."""
    has_started = portal.withdraw(cast("PortalCall", call))
    error = (call.timeout_failure if has_started else TIMED_OUT).error()
    if call.unsent is not None and not has_started:
        portal.post(call.unsent, error)
    return error


class _Driver:
    """Runs a coroutine that awaits several calls at once, or a load.

    Args:
        portal: the portal with the engine.
        queue: the queue of the calling thread.
    """

    __slots__ = (
        "_error",
        "_extra_seconds",
        "_has_ended",
        "_in_flight",
        "_portal",
        "_queue",
        "_result",
        "_stepped",
    )

    def __init__(self, portal: Portal, queue: PortalQueue) -> None:
        self._portal = portal
        self._queue = queue
        self._extra_seconds = 0.0
        """Seconds that its loads may take."""
        self._in_flight: dict[Work, tuple[_Stepped, LoopCall]] = {}
        """The calls in flight, with the coroutines that await them."""
        self._stepped: list[_Stepped] = []
        self._has_ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any], awaited: LoopCall | Gathered) -> Any:
        """Run a coroutine to its end and return its result.

        Args:
            coroutine: the coroutine, which has started.
            awaited: what it is awaiting.
        """
        stepped = _Stepped(coroutine, self._end)
        self._stepped.append(stepped)
        try:
            self._begin_awaited(stepped, awaited)
            while not self._has_ended:
                item = self._queue.wait()
                if item is None:
                    self._expire()
                elif item in self._in_flight:
                    self._resume(*self._in_flight.pop(item))
                else:
                    item.run()
        finally:
            # Not all have ended if there was an interrupt, or if work for a load raised an exception here.
            for stepped in reversed(self._stepped):
                stepped.coroutine.close()
            # They refer to this driver.
            self._stepped.clear()
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # The traceback refers to this frame: no reference back.
            del error

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._has_ended, self._result, self._error = True, result, error

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        stepped = _Stepped(coroutine, ended)
        self._stepped.append(stepped)
        self._step(stepped, None, None)

    def _step(self, stepped: _Stepped, result: Any, error: BaseException | None) -> None:
        end: tuple[Any, BaseException | None] | None = None
        try:
            if error is None:
                awaited = stepped.coroutine.send(result)
            else:
                awaited = stepped.coroutine.throw(error)
        except StopIteration as stop:
            end = stop.value, None
        except BaseException as raised:  # noqa: BLE001  it is raised again when all have ended
            end = None, raised
        else:
            self._begin_awaited(stepped, awaited)
        try:
            if end is not None:
                # Not in the except clause: the exception would be the context of those of later steps.
                stepped.ended(*end)
        finally:
            # The traceback refers to this frame.
            del error, end

    def _begin_awaited(self, stepped: _Stepped, awaited: LoopCall | Gathered) -> None:
        if isinstance(awaited, Gathered):
            self._begin_gathered(stepped, awaited)
            return
        if awaited.extra_seconds > self._extra_seconds:
            self._queue.remaining += awaited.extra_seconds - self._extra_seconds
            self._extra_seconds = awaited.extra_seconds
        awaited.queue = self._queue
        self._portal.send(awaited)
        self._in_flight[awaited] = stepped, awaited

    def _begin_gathered(self, stepped: _Stepped, gathered: Gathered) -> None:
        running = len(gathered.coroutines)
        results: list[Any] = [None] * running

        def ended(index: int, result: Any, error: BaseException | None) -> None:
            nonlocal running
            results[index] = result if error is None else CapturedError(error)
            running -= 1
            if not running:
                self._step(stepped, results, None)

        if not running:
            self._step(stepped, results, None)
        for index, coroutine in enumerate(gathered.coroutines):
            self._begin(coroutine, partial(ended, index))

    def _resume(self, stepped: _Stepped, call: LoopCall) -> None:
        error = None if call.error is None else raised(call, call.error)
        try:
            self._step(stepped, call.result, error)
        finally:
            # The traceback refers to this frame.
            del error

    def _expire(self) -> None:
        """Give up all calls in flight."""
        for call in tuple(self._in_flight):
            stepped, loop_call = self._in_flight.pop(call)
            self._step(stepped, None, give_up(self._portal, loop_call))
