"""A coroutine stepped by the thread that waits for it, whose calls of the engine are made on another's loop."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ._caller_queue import CallerQueue, PortalCall, RefusedError, local
from ._errors import CacheError, CacheStateError
from ._failures import TIMED_OUT, UNKNOWN, Failure
from ._portal import Portal
from ._raised import Raised

__all__ = ["Gathered", "LoopCall", "LoopLoad", "LoopWrite", "current", "drive"]

T = TypeVar("T")


class LoopCall:
    """A call of the engine that is made on the private loop.

    Args:
        function: what is called.
        args: what it takes.
    """

    __slots__ = ("args", "function")

    given_up: Failure = TIMED_OUT
    """What it ends in when it is given up after it has begun."""
    unsent: Callable[[CacheError], None] | None = None
    """Called on the loop with the error of one that is given up before it has begun."""
    longest = 0.0
    """Seconds that it may take beyond the deadline of every call."""

    def __init__(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.function = function
        self.args = args

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


class _Drive(threading.local):
    """The call that this thread makes."""

    current: _Driver | None = None


_local: Final = _Drive()


def drive(portal: Portal, coroutine: Coroutine[Any, Any, T], patience: float) -> T:
    """Step a coroutine of `CallerCache` to its end, in this thread; what it gives.

    Args:
        portal: where its engine is.
        coroutine: of a method.
        patience: seconds that it may wait for the loop, loads aside.

    Raises:
        RefusedError: IN_EVENT_LOOP on a portal's thread.
        CacheStateError: NOT_OPENED, when the portal is closed.
        CacheTimeout: the loop has not answered in time, and nothing was sent.
        CacheOutcomeUnknown: the same of a write that may have been sent.
    """
    if local.serves:
        coroutine.close()
        portal.refuse_inside()
    # A serializer may make another call.
    before, _local.current = _local.current, _Driver(portal, patience)
    try:
        result: T = _local.current.run(coroutine)
    finally:
        _local.current = before
    return result


def current() -> _Driver:
    driver = _local.current
    if driver is None:
        raise RuntimeError("the engine of a private loop is called by `drive` alone")
    return driver


class _Driver:
    """Steps one call.

    Args:
        portal: where its engine is.
        patience: seconds that it may wait for the loop, loads aside.
    """

    __slots__ = (
        "_error",
        "_has_ended",
        "_longest",
        "_result",
        "_stepped",
        "_under_way",
        "portal",
        "queue",
    )

    def __init__(self, portal: Portal, patience: float) -> None:
        self.portal = portal
        self.queue = CallerQueue(portal.look_after, patience)
        self._longest = 0.0
        """Seconds that the loads of this call may take."""
        self._under_way: dict[PortalCall, tuple[_Stepped, LoopCall]] = {}
        """Those under way."""
        self._stepped: list[_Stepped] = []
        self._has_ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Step it to its end."""
        try:
            self._run(coroutine)
            while not self._has_ended:
                item = self.queue.wait()
                if item is None:
                    self._expire()
                else:
                    item.done()
        except BaseException:
            # Of an interrupt, or of what a load has had done here.
            self.queue.leave()
            coroutine.close()
            for stepped in reversed(self._stepped):
                stepped.coroutine.close()
            raise
        finally:
            # They hold this driver.
            self._stepped.clear()
        self.queue.close()
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # Its traceback holds this frame, which must not hold it.
            del error

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Step it for as long as it asks for one thing at a time and gets it: most calls, and all the way."""
        submit, queue, result = self.portal.submit, self.queue, None
        try:
            while True:
                awaited = coroutine.send(result)
                if type(awaited) is not LoopCall and type(awaited) is not LoopWrite:
                    return self._begin_awaited(self._stepping(coroutine), awaited)
                portal_call = submit(awaited.function, awaited.args, queue, self._resume)
                while (item := queue.wait()) is not portal_call:
                    if item is None:
                        self._under_way[portal_call] = self._stepping(coroutine), awaited
                        return self._expire()
                    item.done()
                if portal_call.error is not None:
                    self._under_way[portal_call] = self._stepping(coroutine), awaited
                    return self._resume(portal_call)
                result = portal_call.result
        except StopIteration as stop:
            self._end(stop.value, None)
        except Exception as error:  # noqa: BLE001  it is raised again
            self._end(None, error)
        return None

    def _stepping(self, coroutine: Coroutine[Any, Any, Any]) -> _Stepped:
        stepped = _Stepped(coroutine, self._end)
        self._stepped.append(stepped)
        return stepped

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
            self.queue.left += awaited.longest - self._longest
            self._longest = awaited.longest
        portal_call = self.portal.submit(awaited.function, awaited.args, self.queue, self._resume)
        self._under_way[portal_call] = stepped, awaited

    def _begin_gathered(self, stepped: _Stepped, gathered: Gathered) -> None:
        left = len(gathered.coroutines)
        results: list[Any] = [None] * left

        def ended(index: int, result: Any, error: BaseException | None) -> None:
            nonlocal left
            results[index] = result if error is None else Raised(error)
            left -= 1
            if not left:
                self._step(stepped, results, None)

        if not left:
            self._step(stepped, results, None)
        for index, coroutine in enumerate(gathered.coroutines):
            self._begin(coroutine, partial(ended, index))

    def _resume(self, portal_call: PortalCall) -> None:
        known = self._under_way.pop(portal_call, None)
        if known is None:
            return  # It was given up.
        error, portal_call.error = portal_call.error, None
        if isinstance(error, RefusedError):
            error = CacheStateError(error.code, error.problem)
        self._step(known[0], portal_call.result, error)
        del error

    def _expire(self) -> None:
        """Give up what is under way."""
        for portal_call in tuple(self._under_way):
            stepped, loop_call = self._under_way.pop(portal_call)
            has_begun = self.portal.give_up(portal_call)
            error = (loop_call.given_up if has_begun else TIMED_OUT).error()
            if loop_call.unsent is not None and not has_begun:
                self.portal.post(loop_call.unsent, error)
            self._step(stepped, None, error)
