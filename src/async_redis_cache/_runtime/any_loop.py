"""Calls from any event loop into a private one, and back.

A call is appended to the inbox of the portal, and its caller awaits a future of its own event loop. What has ended is
collected in a mailbox for each event loop, whose owner is woken once for all of it. A call costs neither a task nor a
`concurrent.futures.Future`.

Loaders go the other way: a load runs on the private event loop, and its loader on the event loop of its caller.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from math import inf
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.errors import CacheError, CacheStateError
from async_redis_cache._common.failures import TIMED_OUT, Failure
from async_redis_cache._common.outcomes import CallerLeftError, CapturedError, capture
from async_redis_cache._common.tasks import OwnedTasks

from .portal import Portal
from .portal_queue import PortalCall
from .stepping import give_up, raised
from .waker import Waker, waker_of

__all__ = ["AnyLoopCall", "Bridge", "LoopMailbox", "call_on_caller_loop", "mailbox"]

T = TypeVar("T")

_RECHECK_SECONDS: Final = 0.25
_WAKES_BEFORE_WAKER: Final = 32


class Delivery(Protocol):
    """An item of a mailbox."""

    def arrive(self) -> None:
        """Called on the event loop of the mailbox."""
        ...


class Bridge(NamedTuple):
    """The way to the private event loop.

    Attributes:
        portal: runs it.
        patience: seconds that a call may take without its loads, even if the private event loop is blocked.
    """

    portal: Portal
    patience: float


class LoopMailbox:
    """What other threads have for one event loop: calls that have ended, and loaders to run.

    Args:
        loop: the event loop.
    """

    __slots__ = (
        "__weakref__",
        "_due",
        "_ready",
        "_timer",
        "_waker",
        "_wakes",
        "_woken",
        "loop",
        "tasks",
        "waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.tasks = OwnedTasks()
        """The loaders that run on this event loop."""
        self.waiting: dict[AnyLoopCall, None] = {}
        """The calls that this event loop waits for."""
        self._ready: deque[Delivery] = deque()
        self._woken = False
        self._wakes = 0
        self._waker: Waker | None = None
        """None at first: an event loop with few calls needs no file descriptor."""
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None

    def put(self, item: Delivery) -> bool:
        """Append an item, in any thread; return False if the event loop is closed. It is woken once for all items."""
        self._ready.append(item)
        if self._woken:
            return True
        self._woken = True
        waker = self._waker
        if waker is not None and not self.loop.is_closed():
            waker.wake()
            return True
        try:
            self.loop.call_soon_threadsafe(self._deliver, context=Context())
        except RuntimeError:
            # The event loop is closed: nothing waits for its items.
            self._ready.clear()
            return False
        return True

    def expect(self, call: AnyLoopCall) -> None:
        """Note that a call is awaited, and set the timer for its deadline."""
        self.waiting[call] = None
        if call.deadline < self._due:
            self._set_timer(call.deadline)

    def _deliver(self) -> None:
        # Cleared before the items are counted: a thread that appends later wakes the event loop again. What arrives may
        # send further calls, so this does not continue until there are no more items.
        self._woken = False
        self._wakes += 1
        if self._wakes == _WAKES_BEFORE_WAKER:
            self._waker = waker_of(self.loop, self._deliver)
        ready = self._ready
        try:
            for _ in range(len(ready)):
                ready.popleft().arrive()
        except BaseException:
            # Raised by a task, such as SystemExit.
            self.loop.call_soon(self._deliver, context=Context())
            raise

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_later(
            due - MonotonicClock.time(), self._expire, context=Context()
        )

    def _expire(self) -> None:
        """Give up the calls that are overdue. Those that have ended are delivered first."""
        self._due, self._timer = inf, None
        try:
            self._deliver()
        finally:
            self._give_up_overdue()

    def _give_up_overdue(self) -> None:
        now, due = MonotonicClock.time(), inf
        for call in self.waiting:
            if call.deadline <= now:
                # Not here: its task may send further calls.
                self.loop.call_soon(call.expire, context=Context())
            else:
                due = min(due, call.deadline)
        if due < inf:
            self._set_timer(due)


def _no_mailbox() -> LoopMailbox | None:
    return None


class _Local(threading.local):
    # A weak reference: an event loop that is closed is not kept. One with calls keeps its mailbox by the timer.
    mailbox: Callable[[], LoopMailbox | None] = staticmethod(_no_mailbox)


_LOCAL: Final = _Local()


def mailbox() -> LoopMailbox:
    """Return the mailbox of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _LOCAL.mailbox()
    if found is None or found.loop is not loop:
        found = LoopMailbox(loop)
        _LOCAL.mailbox = weakref.ref(found)
    return found


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
        "_is_left",
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
        self._is_left = False

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
        self._is_left = True
        if portal.is_in_this_process():
            portal.post(self._cancel)

    def begin(self, running: set[PortalCall]) -> None:
        """Start the call, unless its caller was cancelled. This and all that follows is called on the private event loop."""
        if self._is_left:
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
                if self._is_left:
                    awaited.cancel()
        except StopIteration as stop:
            self.result = stop.value
            self._end()
        except BaseException as error:  # noqa: BLE001  it is raised again on the caller's event loop
            self.error = error
            self._end()

    def _cancel(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()


class _OnCallerLoop:
    """A coroutine function that is called on the event loop of a caller, and awaited on the private one."""

    __slots__ = ("_box", "_context", "_function", "_is_cancelled", "_outcome", "_portal", "_task")

    def __init__(
        self, bridge: Bridge, box: LoopMailbox, function: Callable[[], Awaitable[Any]]
    ) -> None:
        self._portal = bridge.portal
        self._box = box
        self._function = function
        # That of the load: the caller's, with the load that its requests belong to.
        self._context = copy_context()
        self._outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False

    async def run(self) -> Any:
        """Await the result. A cancellation is passed on, and the end of the function awaited, as if it ran here.

        Raises:
            CallerLeftError: the event loop of the caller has ended.
            BaseException: raised by the function.
        """
        outcome = self._outcome
        has_loop_ended = not self._box.put(self)
        was_idle = False
        while not (has_loop_ended or outcome.done()):
            try:
                await asyncio.wait((outcome,), timeout=_RECHECK_SECONDS)
            except asyncio.CancelledError:
                self._is_cancelled = True
                has_loop_ended = not self._box.put(_Cancellation(self))
                continue
            # An event loop that does not run twice in a row is not waited for: it may never run again.
            loop = self._box.loop
            is_idle = not loop.is_running()
            has_loop_ended = loop.is_closed() or (was_idle and is_idle)
            was_idle = is_idle
        if outcome.done():
            result = outcome.result()
        else:
            self._box.put(_Cancellation(self))
            result = CapturedError(CallerLeftError())
        if isinstance(result, CapturedError):
            if self._is_cancelled and result.kind is CallerLeftError:
                raise asyncio.CancelledError
            raise result.error()
        return result

    def arrive(self) -> None:
        """Start the task. Runs on the event loop of the caller."""
        if self._is_cancelled:
            self._end_with(CapturedError(CallerLeftError()))
        else:
            task = self._box.tasks.spawn(_captured(self._function), self._context)
            self._task = task
            task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel the task. Runs on the event loop of the caller."""
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        outcome: Any
        try:
            outcome = task.result()
        except asyncio.CancelledError as cancelled:
            # Cancelled by `cancel`, or from outside, as `asyncio.run` does at its end; or raised by the loader.
            is_left = task.cancelling() > 0
            outcome = CapturedError(CallerLeftError() if is_left else cancelled)
        self._end_with(outcome)

    def _end_with(self, outcome: Any) -> None:
        if self._portal.is_in_this_process():
            self._portal.post(self._set_outcome, outcome)

    def _set_outcome(self, outcome: Any) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)


class _Cancellation:
    __slots__ = ("_cancelled",)

    def __init__(self, cancelled: _OnCallerLoop) -> None:
        self._cancelled = cancelled

    def arrive(self) -> None:
        self._cancelled.cancel()


async def _captured(function: Callable[[], Awaitable[T]]) -> T | CapturedError:
    return await capture(function())


async def call_on_caller_loop(
    bridge: Bridge, box: LoopMailbox, function: Callable[[], Awaitable[T]]
) -> T:
    """Call a coroutine function on the event loop of a mailbox; awaited on the private event loop.

    Raises:
        CallerLeftError: the event loop of the caller has ended.
        BaseException: raised by the function.
    """
    result: T = await _OnCallerLoop(bridge, box, function).run()
    return result
