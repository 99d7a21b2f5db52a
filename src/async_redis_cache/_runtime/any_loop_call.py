"""Calls from any event loop into a private one.

A call is appended to the inbox of the portal, and its caller awaits a waiter of its own event loop, which the mailbox of
that event loop resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, NamedTuple

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.failures import TIMED_OUT, Failure

from .loop_mailbox import mailbox
from .portal import Portal
from .portal_queue import PortalCall
from .stepping import give_up, raised

__all__ = ["AnyLoopCall", "Bridge"]


class Bridge(NamedTuple):
    """The way to the private event loop.

    Attributes:
        portal: runs it.
        patience: seconds that a call may take without its loads, even if the private event loop is blocked.
    """

    portal: Portal
    patience: float


class _Waiter:
    """What a task yields to wait for a call: of a future, what tasks use.

    A future would resume the task one iteration of the event loop later.

    Args:
        loop: the event loop of the task.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_resume")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._resume: Callable[[Any], object] | None = None
        """Steps the task; None once it is resumed."""
        self._context: Context | None = None
        self._cancelled: asyncio.CancelledError | None = None
        self._asyncio_future_blocking = False

    def __iter__(self) -> Generator[_Waiter, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the task."""
        return self._loop

    def add_done_callback(
        self, resume: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Set what resumes the task, and the context of that."""
        self._resume, self._context = resume, context

    def done(self) -> bool:
        """Return whether the task is resumed."""
        return self._resume is None

    def resume(self) -> None:
        """Resume the task, unless that was cancelled."""
        resume, self._resume = self._resume, None
        if resume is None:
            return
        # Not `or`: a context without variables is false.
        context = Context() if self._context is None else self._context
        try:
            context.run(resume, self)
        finally:
            # The frames of the task refer to this one: no reference back from here, nor from the callers of this.
            del self, resume, context

    def cancel(self, msg: Any = None) -> bool:
        """Resume the task with CancelledError; return False if it is resumed already."""
        resume, self._resume = self._resume, None
        if resume is None:
            return False
        self._cancelled = asyncio.CancelledError(*(() if msg is None else (msg,)))
        self._loop.call_soon(resume, self, context=self._context)
        return True

    def result(self) -> None:
        """Return nothing to a task that is resumed.

        Raises:
            asyncio.CancelledError: the task was cancelled.
        """
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                # The traceback refers to this frame: no reference back.
                del cancelled


class AnyLoopCall(PortalCall):
    """A call of the engine on the private event loop, to be awaited once, on any event loop.

    Args:
        bridge: the way to the private event loop.
        function: returns a coroutine that awaits only futures of the event loop, or such a future.
        args: its arguments.

    Attributes:
        deadline: when the call is given up, by the monotonic clock; 0 for the deadline of all calls, from when it is
            awaited on.
        timeout_failure: the error of a call that times out after it has started.
        unsent: called on the private event loop with the error, if the call times out before it has started.
    """

    __slots__ = (
        "_awaited",
        "_bridge",
        "_must_cancel",
        "_waiter",
        "deadline",
        "has_expired",
        "timeout_failure",
        "unsent",
    )

    def __init__(self, bridge: Bridge, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.function = function
        self.args = args
        self.coroutine = None
        self.result = None
        self.error = None
        self.deadline = 0.0
        self.timeout_failure: Failure = TIMED_OUT
        self.unsent: Callable[[CacheError], None] | None = None
        self.has_expired = False
        self._bridge = bridge
        self._awaited: Any = None
        self._must_cancel = False
        """Whether the caller was cancelled, and the call was not yet. It is cancelled once, as a task is: it may have to
        await something all the same."""

    def __await__(self) -> Generator[Any, Any, Any]:
        box = self.queue = mailbox()  # type: ignore[assignment]
        waiter = self._waiter = _Waiter(box.loop)
        if not self.deadline:
            self.deadline = MonotonicClock.time() + self._bridge.patience
        box.expect(self)
        try:
            self._bridge.portal.send(self)
            yield from waiter
        except BaseException:
            # Cancelled: so is the call.
            box.waiting.pop(self, None)
            self._leave()
            raise
        if self.has_expired:
            raise give_up(self._bridge.portal, self)
        error = self.error
        if error is None:
            return self.result
        if isinstance(error, asyncio.CancelledError):
            error = CacheStateError("NOT_OPENED", "the cache was closed")
        try:
            raise raised(self, error)
        finally:
            # The traceback refers to this frame: no reference back.
            del error

    def arrive(self) -> None:
        """Wake the caller: the call has ended."""
        waiter = self._waiter
        self.queue.waiting.pop(self, None)  # type: ignore[attr-defined]
        del self
        waiter.resume()

    def expire(self) -> None:
        """Wake the caller: the call is overdue."""
        waiter = self._waiter
        self.queue.waiting.pop(self, None)  # type: ignore[attr-defined]
        self.has_expired = self.has_expired or not waiter.done()
        del self
        waiter.resume()

    def _leave(self) -> None:
        portal = self._bridge.portal
        self._must_cancel = True
        if portal.is_in_this_process():
            portal.post(self._cancel)

    def begin(self, running: set[PortalCall]) -> None:
        """Start the call, unless its caller was cancelled. This and all that follows is called on the private event loop."""
        if self._must_cancel:
            return
        self.running = running
        running.add(self)
        try:
            awaited: Any = self.function(*self.args)
            if getattr(awaited, "_asyncio_future_blocking", None) is not None:
                self._awaited = awaited
                awaited.add_done_callback(self._on_done)
                return
            self.coroutine = awaited
        except BaseException as error:  # noqa: BLE001  it is raised again on the caller's event loop
            self.error = error
            self._end()
        else:
            self.advance()

    def advance(self, _: object = None) -> None:
        """Step the coroutine until it awaits a future, whose callback steps it again."""
        try:
            awaited = self._awaited = self.coroutine.send(None)  # type: ignore[union-attr]
            if awaited is None:
                asyncio.get_running_loop().call_soon(self.advance)
            else:
                awaited._asyncio_future_blocking = False  # noqa: SLF001
                awaited.add_done_callback(self.advance)
                if self._must_cancel:
                    self._cancel()
        except StopIteration as stop:
            self.result = stop.value
            self._end()
        except BaseException as error:  # noqa: BLE001  it is raised again on the caller's event loop
            self.error = error
            self._end()

    def _cancel(self) -> None:
        if self._must_cancel and self._awaited is not None and self._awaited.cancel():
            self._must_cancel = False
