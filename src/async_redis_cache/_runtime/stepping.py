"""A coroutine stepped by the thread that waits for it, whose calls of the engine are made on another's loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, TypeVar

from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.failures import TIMED_OUT, UNKNOWN, Failure
from async_redis_cache._common.outcomes import CapturedError

from .portal import Portal
from .portal_queue import PortalCall, PortalQueue, PortalRefusedError, Work, local

__all__ = ["Gathered", "LoopCall", "LoopLoad", "LoopWrite", "current", "drive"]

T = TypeVar("T")


class LoopCall(PortalCall):
    """A call of the engine, for a coroutine to await that `drive` steps."""

    __slots__ = ()

    given_up: Failure = TIMED_OUT
    """What it ends in when it is given up after it has begun."""
    unsent: Callable[[CacheError], None] | None = None
    """Called on the loop with the error of one that is given up before it has begun."""
    longest = 0.0
    """Seconds that it may take beyond the deadline of every call."""

    def __await__(self) -> Generator[LoopCall, Any, Any]:
        return (yield self)


class LoopWrite(LoopCall):
    """A call that may have changed something when it is given up."""

    given_up = UNKNOWN

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        unsent: Callable[[CacheError], None] | None = None,
    ) -> None:
        super().__init__(function, *args)
        self.unsent = unsent


class LoopLoad(LoopCall):
    """A load, whose origin takes its own time."""

    def __init__(self, longest: float, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        super().__init__(function, *args)
        self.longest = longest


class Gathered:
    """Coroutines that are stepped side by side, until all have ended."""

    __slots__ = ("coroutines",)

    def __init__(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> None:
        self.coroutines = coroutines

    def __await__(self) -> Generator[Gathered, Any, list[Any]]:
        results: list[Any] = yield self
        return results


class _Stepped:
    """A coroutine that is stepped, and what waits for it."""

    __slots__ = ("coroutine", "ended")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.coroutine = coroutine
        self.ended = ended


def drive(portal: Portal, coroutine: Coroutine[Any, Any, T], patience: float) -> T:
    """Step a coroutine of `CallerCache` to its end, in this thread; what it gives.

    Args:
        portal: where its engine is.
        coroutine: of a method; not closed where it has not begun.
        patience: seconds that it may wait for the loop, loads aside.

    Raises:
        RefusedError: IN_EVENT_LOOP on a portal's thread.
        CacheStateError: NOT_OPENED, when the portal is closed.
        CacheTimeout: the loop has not answered in time, and nothing was sent.
        CacheOutcomeUnknown: the same of a write that may have been sent.
    """
    thread = local.thread
    if thread.serves:
        portal.refuse_inside()
    queue = PortalQueue(thread, portal, patience)
    # A serializer may make another call.
    before, thread.queue = thread.queue, queue
    try:
        result: T = _stepped_through(portal, coroutine, queue)
        queue.close()
    except BaseException:
        # An interrupt may have left it anywhere.
        queue.leave()
        coroutine.close()
        raise
    finally:
        thread.queue = before
    return result


def current() -> PortalQueue:
    """The queue of the call that this thread makes."""
    queue = local.thread.queue
    if queue is None:
        raise RuntimeError("the engine of a private loop is called by `drive` alone")
    return queue


def _stepped_through(
    portal: Portal, coroutine: Coroutine[Any, Any, Any], queue: PortalQueue
) -> Any:
    """What it gives. Most await one call at a time, and no load: they need no `_Driver`."""
    try:
        awaited = coroutine.send(None)
        while type(awaited) is LoopCall or type(awaited) is LoopWrite:
            awaited.queue = queue
            portal.send(awaited)
            item = queue.wait()
            while item is not None and item is not awaited:
                item.done()
                item = queue.wait()
            if item is None:
                awaited = coroutine.throw(_given_up(portal, awaited))
            elif awaited.error is not None:
                awaited = coroutine.throw(_raised(awaited, awaited.error))
            else:
                awaited = coroutine.send(awaited.result)
    except StopIteration as stop:
        return stop.value
    return _Driver(portal, queue).run(coroutine, awaited)


def _raised(call: LoopCall, error: BaseException) -> BaseException:
    """What a call has raised, which is not held there any more."""
    call.error = None
    return (
        CacheStateError(error.code, error.problem)
        if isinstance(error, PortalRefusedError)
        else error
    )


def _given_up(portal: Portal, call: LoopCall) -> CacheError:
    """Give up a call; what it ends in."""
    has_begun = portal.give_up(call)
    error = (call.given_up if has_begun else TIMED_OUT).error()
    if call.unsent is not None and not has_begun:
        portal.post(call.unsent, error)
    return error


class _Driver:
    """Steps a call of several coroutines, or with a load.

    Args:
        portal: where its engine is.
        queue: where it waits.
    """

    __slots__ = (
        "_error",
        "_has_ended",
        "_in_flight",
        "_longest",
        "_portal",
        "_queue",
        "_result",
        "_stepped",
    )

    def __init__(self, portal: Portal, queue: PortalQueue) -> None:
        self._portal = portal
        self._queue = queue
        self._longest = 0.0
        """Seconds that the loads of this call may take."""
        self._in_flight: dict[Work, tuple[_Stepped, LoopCall]] = {}
        """Those under way."""
        self._stepped: list[_Stepped] = []
        self._has_ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any], awaited: LoopCall | Gathered) -> Any:
        """Step it to its end.

        Args:
            coroutine: that of the call.
            awaited: what it awaits now.
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
                    item.done()
        finally:
            # Those that have not ended, after an interrupt or what a load has had done here.
            for stepped in reversed(self._stepped):
                stepped.coroutine.close()
            # They hold this driver.
            self._stepped.clear()
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # Its traceback holds this frame, which must not hold it.
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
                # Not while that is handled: it would be the context of what a later step raises.
                stepped.ended(*end)
        finally:
            # Their tracebacks hold this frame.
            del error, end

    def _begin_awaited(self, stepped: _Stepped, awaited: LoopCall | Gathered) -> None:
        if isinstance(awaited, Gathered):
            self._begin_gathered(stepped, awaited)
            return
        if awaited.longest > self._longest:
            self._queue.left += awaited.longest - self._longest
            self._longest = awaited.longest
        awaited.queue = self._queue
        self._portal.send(awaited)
        self._in_flight[awaited] = stepped, awaited

    def _begin_gathered(self, stepped: _Stepped, gathered: Gathered) -> None:
        left = len(gathered.coroutines)
        results: list[Any] = [None] * left

        def ended(index: int, result: Any, error: BaseException | None) -> None:
            nonlocal left
            results[index] = result if error is None else CapturedError(error)
            left -= 1
            if not left:
                self._step(stepped, results, None)

        if not left:
            self._step(stepped, results, None)
        for index, coroutine in enumerate(gathered.coroutines):
            self._begin(coroutine, partial(ended, index))

    def _resume(self, stepped: _Stepped, call: LoopCall) -> None:
        error = None if call.error is None else _raised(call, call.error)
        try:
            self._step(stepped, call.result, error)
        finally:
            # Its traceback holds this frame.
            del error

    def _expire(self) -> None:
        """Give up what is under way."""
        for call in tuple(self._in_flight):
            stepped, loop_call = self._in_flight.pop(call)
            self._step(stepped, None, _given_up(self._portal, loop_call))
