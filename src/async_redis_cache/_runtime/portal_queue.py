"""What is called on a private loop, and where the thread that has called it waits."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Final, Protocol

__all__ = [
    "PortalCall",
    "PortalCallback",
    "PortalQueue",
    "PortalRefusedError",
    "PrivateLoop",
    "Work",
    "local",
]

_LOOK_AGAIN: Final = 0.25


class PortalRefusedError(Exception):
    """The portal does not take a call: why, as a code and in words."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


class _Thread:
    """What is known of a thread."""

    __slots__ = ("lock", "queue", "serves")

    def __init__(self) -> None:
        self.serves = False
        """Whether it is the thread of a portal."""
        self.queue: PortalQueue | None = None
        """Of the call that it makes."""
        self.lock: threading.Lock | None = None
        """For it to sleep on. None while it does, so an interrupted one is not reused."""


class _Local(threading.local):
    def __init__(self) -> None:
        # In one object: each access to a thread-local costs as much as a call.
        self.thread = _Thread()


local: Final = _Local()


class Work(Protocol):
    """What is put on a queue."""

    def done(self) -> None:
        """It has ended; called by the thread of the queue."""
        ...

    def left(self) -> None:
        """That thread has left its queue, and this is to be done elsewhere."""
        ...


class PrivateLoop(Protocol):
    """What a thread that waits needs of a portal. See `Portal`."""

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have this called on the loop."""
        ...

    def look_after(self) -> None:
        """Wake the loop."""
        ...


class PortalQueue:
    """Where a thread waits for its calls, and for what only it can do for them.

    What the loop puts there the thread takes, one after the other. A thread has a queue for each call that
    it makes; within one it may make another, as a serializer does that asks a cache.

    Args:
        thread: the calling thread, as `local` knows it.
        portal: where its calls are made; looked after from time to time while the thread waits.
        patience: seconds that it may wait, all waiting together. What the thread does in between, such as
            serializing, takes nothing away.
    """

    __slots__ = ("_closed", "_items", "_lock", "_offered", "_thread", "left", "portal")

    def __init__(self, thread: _Thread, portal: PrivateLoop, patience: float = math.inf) -> None:
        self._thread = thread
        self.portal = portal
        self.left = patience
        """Seconds that it may still wait."""
        self._items: list[Work] = []
        self._offered: set[Work] | None = None
        """What was offered, and is not answered yet; None where nothing was."""
        self._closed = False
        lock, thread.lock = thread.lock, None
        if lock is None:
            lock = threading.Lock()
            lock.acquire()
        self._lock = lock

    def put(self, item: Work) -> None:
        """Append an item for its thread; on the loop's thread."""
        self._items.append(item)
        try:  # noqa: SIM105  `suppress` costs more than all else here
            self._lock.release()
        except RuntimeError:
            # It is released already, and what is there is seen without.
            pass

    def offer(self, item: Work) -> bool:
        """Append an item, unless its thread has left; then the item's `left` is not called."""
        if self._closed:
            return False
        if self._offered is None:
            self._offered = set()
        self._offered.add(item)
        self.put(item)
        if self._closed:
            # It leaves now. One of both finds it.
            try:
                self._items.remove(item)
            except ValueError:
                return True
            return False
        return True

    def answered(self, item: Work) -> None:
        """What was offered needs no answer any more; on the loop's thread."""
        if self._offered is not None:
            self._offered.discard(item)

    def wait(self) -> Work | None:
        """What comes next, or None when there is no time left.

        Raises:
            RefusedError: NOT_OPENED in a child process that was forked off during the call.
        """
        items = self._items
        while not items:
            if self.left <= 0:
                return None
            began = monotonic()
            # An interrupt can fall between any two steps, here or in another thread: no thread relies
            # for ever on having been noticed.
            if not self._lock.acquire(True, min(_LOOK_AGAIN, self.left)):
                self.portal.look_after()
            self.left -= monotonic() - began
        return items.pop(0)

    def close(self) -> None:
        """Leave it, having waited to the end."""
        self._closed = True
        self._thread.lock = self._lock
        if self._items or self._offered:
            self.leave()

    def leave(self) -> None:
        """Leave it. What is there, or comes, is done elsewhere."""
        self._closed = True
        items = self._items
        while items:
            # Where the loop takes one back, it is left to it.
            with contextlib.suppress(IndexError):
                items.pop(0).left()
        if self._offered:
            # One that the thread had begun, and that an interrupt has ended, is no item any more.
            for item in tuple(self._offered):
                item.left()


class PortalCall:
    """What is called on the loop for a thread that waits at its queue.

    Args:
        function: gives a coroutine that awaits nothing but futures of the loop, or such a future.
        args: what it takes.
    """

    __slots__ = ("args", "begun", "coroutine", "error", "function", "queue", "result")

    queue: PortalQueue
    """Where this is put when it has ended; set before it is sent."""
    begun: set[PortalCall]
    """Where it is from its beginning to its end; the portal's."""

    def __init__(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.function = function
        self.args = args
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def done(self) -> None:
        """It was given up, and is waited for no more."""

    def left(self) -> None:
        """Its result is wanted no more."""

    def begin(self, begun: set[PortalCall]) -> None:
        """Start it; on the loop's thread, as all that follows."""
        self.begun = begun
        begun.add(self)
        try:
            awaited: Any = self.function(*self.args)
            if getattr(awaited, "_asyncio_future_blocking", None) is not None:
                awaited.add_done_callback(self._answered)
                return
            self.coroutine = awaited
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
            self._end()
        else:
            self.advance()

    def advance(self, _: object = None) -> None:
        """Run the coroutine until it waits for something, and come back when that is there."""
        try:
            awaited = self.coroutine.send(None)  # type: ignore[union-attr]
            # What a task does when its coroutine yields a future; or nothing, as sleep(0) does.
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
        """End it where it is, since the portal is closed."""
        if self.coroutine is not None:
            self.coroutine.close()
        self.error = PortalRefusedError("NOT_OPENED", "the cache was closed")
        self.queue.put(self)

    def outcome(self) -> Any:
        """What it has given.

        Raises:
            BaseException: what it has raised. It is not held here any more.
        """
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            # Its traceback holds this frame, which must not hold it.
            del error

    def _answered(self, future: asyncio.Future[Any]) -> None:
        try:
            self.result = future.result()
        except asyncio.CancelledError:
            # The loop is ending.
            self.error = PortalRefusedError("NOT_OPENED", "the cache was closed")
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
        self._end()

    def _end(self) -> None:
        self.begun.discard(self)
        self.queue.put(self)


class PortalCallback:
    """What is called on the loop for nobody."""

    __slots__ = ("_args", "_function")

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args

    def begin(self, _: set[PortalCall]) -> None:
        """Call it."""
        # What it is about may have been closed meanwhile.
        with contextlib.suppress(Exception):
            self._function(*self._args)

    def refuse(self) -> None:
        """There is nothing to be done any more."""
