"""A coroutine stepped by the thread that waits for it, whose calls of the engine are made on another's loop."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ._desk import Desk, RefusedError, Visit, local
from ._errors import CacheError, CacheStateError
from ._failures import TIMED_OUT, UNKNOWN, Failure
from ._portal import Portal
from ._raised import Raised

__all__ = ["Hop", "LoadHop", "Together", "Write", "current", "drive"]

T = TypeVar("T")


class Hop:
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

    def __await__(self) -> Generator[Hop, Any, Any]:
        return (yield self)


class Write(Hop):
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


class LoadHop(Hop):
    """A load, whose origin takes its own time."""

    def __init__(self, longest: float, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        super().__init__(function, *args)
        self.longest = longest


class Together:
    """Coroutines that are stepped side by side, until all have ended."""

    __slots__ = ("coroutines",)

    def __init__(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> None:
        self.coroutines = coroutines

    def __await__(self) -> Generator[Together, Any, list[Any]]:
        results: list[Any] = yield self
        return results


class _Strand:
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
        "_hops",
        "_longest",
        "_result",
        "_strands",
        "desk",
        "portal",
    )

    def __init__(self, portal: Portal, patience: float) -> None:
        self.portal = portal
        self.desk = Desk(portal.look_after, patience)
        self._longest = 0.0
        """Seconds that the loads of this call may take."""
        self._hops: dict[Visit, tuple[_Strand, Hop]] = {}
        """Those under way."""
        self._strands: list[_Strand] = []
        self._has_ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Step it to its end."""
        try:
            self._run(coroutine)
            while not self._has_ended:
                item = self.desk.wait()
                if item is None:
                    self._expire()
                else:
                    item.done()
        except BaseException:
            # Of an interrupt, or of what a load has had done here.
            self.desk.leave()
            coroutine.close()
            for strand in reversed(self._strands):
                strand.coroutine.close()
            raise
        finally:
            # They hold this driver.
            self._strands.clear()
        self.desk.close()
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
        submit, desk, result = self.portal.submit, self.desk, None
        try:
            while True:
                awaited = coroutine.send(result)
                if type(awaited) is not Hop and type(awaited) is not Write:
                    return self._begin_awaited(self._strand(coroutine), awaited)
                visit = submit(awaited.function, awaited.args, desk, self._resume)
                while (item := desk.wait()) is not visit:
                    if item is None:
                        self._hops[visit] = self._strand(coroutine), awaited
                        return self._expire()
                    item.done()
                if visit.error is not None:
                    self._hops[visit] = self._strand(coroutine), awaited
                    return self._resume(visit)
                result = visit.result
        except StopIteration as stop:
            self._end(stop.value, None)
        except Exception as error:  # noqa: BLE001  it is raised again
            self._end(None, error)
        return None

    def _strand(self, coroutine: Coroutine[Any, Any, Any]) -> _Strand:
        strand = _Strand(coroutine, self._end)
        self._strands.append(strand)
        return strand

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._has_ended, self._result, self._error = True, result, error

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        strand = _Strand(coroutine, ended)
        self._strands.append(strand)
        self._step(strand, None, None)

    def _step(self, strand: _Strand, result: Any, error: BaseException | None) -> None:
        end: tuple[Any, BaseException | None] | None = None
        try:
            if error is None:
                awaited = strand.coroutine.send(result)
            else:
                awaited = strand.coroutine.throw(error)
        except StopIteration as stop:
            end = stop.value, None
        except BaseException as raised:  # noqa: BLE001  it is raised again when all have ended
            end = None, raised
        else:
            self._begin_awaited(strand, awaited)
        try:
            if end is not None:
                # Not while that is handled: it would be the context of what a later step raises.
                strand.ended(*end)
        finally:
            # Their tracebacks hold this frame.
            del error, end

    def _begin_awaited(self, strand: _Strand, awaited: Hop | Together) -> None:
        if isinstance(awaited, Together):
            self._begin_together(strand, awaited)
            return
        if awaited.longest > self._longest:
            self.desk.left += awaited.longest - self._longest
            self._longest = awaited.longest
        visit = self.portal.submit(awaited.function, awaited.args, self.desk, self._resume)
        self._hops[visit] = strand, awaited

    def _begin_together(self, strand: _Strand, together: Together) -> None:
        left = len(together.coroutines)
        results: list[Any] = [None] * left

        def ended(index: int, result: Any, error: BaseException | None) -> None:
            nonlocal left
            results[index] = result if error is None else Raised(error)
            left -= 1
            if not left:
                self._step(strand, results, None)

        if not left:
            self._step(strand, results, None)
        for index, coroutine in enumerate(together.coroutines):
            self._begin(coroutine, partial(ended, index))

    def _resume(self, visit: Visit) -> None:
        known = self._hops.pop(visit, None)
        if known is None:
            return  # It was given up.
        error, visit.error = visit.error, None
        if isinstance(error, RefusedError):
            error = CacheStateError(error.code, error.problem)
        self._step(known[0], visit.result, error)
        del error

    def _expire(self) -> None:
        """Give up what is under way."""
        for visit in tuple(self._hops):
            strand, hop = self._hops.pop(visit)
            has_begun = self.portal.give_up(visit)
            error = (hop.given_up if has_begun else TIMED_OUT).error()
            if hop.unsent is not None and not has_begun:
                self.portal.post(hop.unsent, error)
            self._step(strand, None, error)
