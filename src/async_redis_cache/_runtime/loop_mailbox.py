"""What other threads have for an event loop: calls that have ended, and loaders to run.

The event loop is woken once for all of it. A call costs neither a task nor a `concurrent.futures.Future`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from math import inf
from typing import Final, Protocol

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.tasks import OwnedTasks

from .waker import Waker, waker_of

__all__ = ["LoopMailbox", "mailbox"]

_WAKES_BEFORE_WAKER: Final = 32


class Delivery(Protocol):
    """An item of a mailbox."""

    def arrive(self) -> None:
        """Called on the event loop of the mailbox."""
        ...


class AwaitedCall(Protocol):
    """A call that an event loop waits for."""

    deadline: float
    """When the call is given up, by the monotonic clock."""

    def expire(self) -> None:
        """Called on the event loop after the deadline."""
        ...


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
        self.waiting: dict[AwaitedCall, None] = {}
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

    def expect(self, call: AwaitedCall) -> None:
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
