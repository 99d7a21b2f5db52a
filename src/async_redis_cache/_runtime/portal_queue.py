"""The calls into a private event loop, and the queue at which the calling thread waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from async_redis_cache._common.clock import MonotonicClock

__all__ = [
    "PortalCall",
    "PortalCallback",
    "PortalQueue",
    "PortalRefusedError",
    "PrivateLoop",
    "Work",
    "local",
]

_RECHECK_SECONDS: Final = 0.25


class PortalRefusedError(Exception):
    """A portal refuses a call: an error code and a message for a `CacheStateError`."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


class _Thread:
    """The state of a thread that calls portals or runs one."""

    __slots__ = ("lock", "queue", "serves")

    def __init__(self) -> None:
        self.serves = False
        """Whether the thread runs the event loop of a portal."""
        self.queue: PortalQueue | None = None
        """The queue of the call that the thread is making."""
        self.lock: threading.Lock | None = None
        """The lock that the thread sleeps on. None while it is in use, so that it is not reused after an interrupt."""


class _Local(threading.local):
    def __init__(self) -> None:
        # In one object, since each access to a thread-local costs as much as a call.
        self.thread = _Thread()


local: Final = _Local()


class Work(Protocol):
    """An item of a queue."""

    def run(self) -> None:
        """Do the item's work; called by the thread of the queue."""
        ...

    def abandon(self) -> None:
        """Called if the thread has left its queue: the work has to be done elsewhere."""
        ...


class PrivateLoop(Protocol):
    """The methods of a `Portal` that a queue needs."""

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the event loop without waiting."""
        ...

    def ensure_awake(self) -> None:
        """Wake the event loop again."""
        ...


class PortalQueue:
    """The queue at which a thread waits for its calls, and for the work that these need it to do.

    The event loop puts items, and the thread takes one after the other. Each call of a cache has a queue of its own;
    calls may be nested, as when a serializer calls a cache.

    Args:
        thread: the state of the calling thread.
        portal: the portal that gets the calls; woken again from time to time while the thread waits.
        patience: seconds that the thread may wait in all. Its own work in between, such as serializing, does not
            count.
    """

    __slots__ = ("_closed", "_items", "_lock", "_offered", "_thread", "portal", "remaining")

    def __init__(self, thread: _Thread, portal: PrivateLoop, patience: float = math.inf) -> None:
        self._thread = thread
        self.portal = portal
        self.remaining = patience
        """Seconds that the thread may still wait."""
        self._items: list[Work] = []
        self._offered: set[Work] | None = None
        """The offered items without a result; None before the first offer."""
        self._closed = False
        lock, thread.lock = thread.lock, None
        if lock is None:
            lock = threading.Lock()
            lock.acquire()
        self._lock = lock

    def put(self, item: Work) -> None:
        """Append an item for the thread. Called on the event loop."""
        self._items.append(item)
        try:  # noqa: SIM105  `suppress` costs more than all else here
            self._lock.release()
        except RuntimeError:
            # The lock is released already, and the thread will see all items.
            pass

    def offer(self, item: Work) -> bool:
        """Append an item, and return whether the thread takes it; if not, the item's `abandon` is not called."""
        if self._closed:
            return False
        if self._offered is None:
            self._offered = set()
        self._offered.add(item)
        self.put(item)
        if self._closed:
            # The thread is leaving. Either this or `leave` removes the item.
            try:
                self._items.remove(item)
            except ValueError:
                return True
            return False
        return True

    def retract(self, item: Work) -> None:
        """Forget an offered item, which has a result or needs none. Called on the event loop."""
        if self._offered is not None:
            self._offered.discard(item)

    def wait(self) -> Work | None:
        """Return the next item, or None if the time is over.

        Raises:
            PortalRefusedError: NOT_OPENED in a child process that was forked during the call.
        """
        items = self._items
        while not items:
            if self.remaining <= 0:
                return None
            began = MonotonicClock.time()
            # An interrupt can come between any two steps, here or in another thread, and so a wake-up can get lost:
            # the event loop is woken again every quarter of a second.
            if not self._lock.acquire(True, min(_RECHECK_SECONDS, self.remaining)):
                self.portal.ensure_awake()
            self.remaining -= MonotonicClock.time() - began
        return items.pop(0)

    def close(self) -> None:
        """Leave the queue after the call has ended."""
        self._closed = True
        self._thread.lock = self._lock
        if self._items or self._offered:
            self.leave()

    def leave(self) -> None:
        """Leave the queue early. Work that is queued or still comes is done elsewhere."""
        self._closed = True
        items = self._items
        while items:
            # `offer` may remove the same item at the same time.
            with contextlib.suppress(IndexError):
                items.pop(0).abandon()
        if self._offered:
            # Also the item that the thread was running when an interrupt came, which is not in the queue.
            for item in tuple(self._offered):
                item.abandon()


class PortalCall:
    """A call on the event loop, for whose result a thread waits at its queue.

    Args:
        function: returns a coroutine that awaits only futures of the event loop, or such a future.
        args: its arguments.
    """

    __slots__ = ("args", "coroutine", "error", "function", "queue", "result", "running")

    queue: PortalQueue
    """The queue that gets this call when it has ended; set before it is sent."""
    running: set[PortalCall]
    """The portal's set of running calls."""

    def __init__(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.function = function
        self.args = args
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do nothing: the call has timed out, and its result is discarded."""

    def abandon(self) -> None:
        """Do nothing: the result is discarded."""

    def begin(self, running: set[PortalCall]) -> None:
        """Start the call. This and all that follows is called on the event loop."""
        self.running = running
        running.add(self)
        try:
            awaited: Any = self.function(*self.args)
            if getattr(awaited, "_asyncio_future_blocking", None) is not None:
                awaited.add_done_callback(self._on_done)
                return
            self.coroutine = awaited
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
            self._end()
        else:
            self.advance()

    def advance(self, _: object = None) -> None:
        """Step the coroutine until it awaits a future, whose callback steps it again."""
        try:
            awaited = self.coroutine.send(None)  # type: ignore[union-attr]
            # As a task does: the coroutine yields a future, or None for `asyncio.sleep(0)`.
            if awaited is None:
                asyncio.get_running_loop().call_soon(self.advance)
            else:
                awaited._asyncio_future_blocking = False  # noqa: SLF001
                awaited.add_done_callback(self.advance)
        except StopIteration as stop:
            self.result = stop.value
            self._end()
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
            self._end()

    def refuse(self) -> None:
        """End the call with NOT_OPENED, since the portal is closed."""
        if self.coroutine is not None:
            self.coroutine.close()
        self.error = PortalRefusedError("NOT_OPENED", "the cache was closed")
        self.queue.put(self)

    def outcome(self) -> Any:
        """Return the result.

        Raises:
            BaseException: the exception of the call, to which no reference is kept here.
        """
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            # The traceback refers to this frame: no reference back.
            del error

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        try:
            self.result = future.result()
        except asyncio.CancelledError:
            # The event loop is ending.
            self.error = PortalRefusedError("NOT_OPENED", "the cache was closed")
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
        self._end()

    def _end(self) -> None:
        self.running.discard(self)
        self.queue.put(self)


class PortalCallback:
    """A function called on the event loop for whose result no thread waits."""

    __slots__ = ("_args", "_function")

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args

    def begin(self, _: set[PortalCall]) -> None:
        """Call the function."""
        # It may fail because the cache was closed in the meantime.
        with contextlib.suppress(Exception):
            self._function(*self._args)

    def refuse(self) -> None:
        """Do nothing: the event loop has ended."""
