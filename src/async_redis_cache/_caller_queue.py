"""What is called on a private loop, and where the thread that has called it waits."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

__all__ = ["CallerQueue", "PortalCall", "PortalCallback", "RefusedError", "Work", "local"]

_LOOK_AGAIN: Final = 0.25


class RefusedError(Exception):
    """The portal does not take a call: why, as a code and in words."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


class _Local(threading.local):
    serves = False
    """Whether this is the thread of a portal."""
    lock: threading.Lock | None = None
    """For this thread to sleep on. None while it does, so an interrupted one is not reused."""


local: Final = _Local()


class Work(Protocol):
    """What is put on a queue."""

    def done(self) -> None:
        """It has ended; called by the thread of the queue."""
        ...

    def left(self) -> None:
        """That thread has left its queue, and this is to be done elsewhere."""
        ...


class CallerQueue:
    """Where a thread waits for its calls, and for what only it can do for them.

    What the loop puts there the thread takes, one after the other. A thread has a queue for each call that
    it makes; within one it may make another, as a serializer does that asks a cache.

    Args:
        look_after: called from time to time while the thread waits.
        patience: seconds that it may wait, all waiting together. What the thread does in between, such as
            serializing, takes nothing away.
    """

    __slots__ = ("_closed", "_items", "_lock", "_look_after", "_offered", "left")

    def __init__(self, look_after: Callable[[], None], patience: float = math.inf) -> None:
        self._look_after = look_after
        self.left = patience
        """Seconds that it may still wait."""
        self._items: deque[Work] = deque()
        self._offered: set[Work] | None = None
        """What was offered, and is not answered yet; None where nothing was."""
        self._closed = False
        lock, local.lock = local.lock, None
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
            began = time.monotonic()
            # An interrupt can fall between any two steps, here or in another thread: no thread relies
            # for ever on having been noticed.
            if not self._lock.acquire(timeout=min(_LOOK_AGAIN, self.left)):
                self._look_after()
            self.left -= time.monotonic() - began
        return items.popleft()

    def close(self) -> None:
        """Leave it, having waited to the end."""
        local.lock = self._lock
        self.leave()

    def leave(self) -> None:
        """Leave it. What is there, or comes, is done elsewhere."""
        self._closed = True
        items = self._items
        while items:
            # Where the loop takes one back, it is left to it.
            with contextlib.suppress(IndexError):
                items.popleft().left()
        if self._offered:
            # One that the thread had begun, and that an interrupt has ended, is no item any more.
            for item in tuple(self._offered):
                item.left()


class PortalCall:
    """What is called on the loop for a thread that waits at its queue.

    Args:
        function: gives a coroutine that awaits nothing but futures of the loop, or such a future.
        args: what it takes.
        queue: where this is put when it has ended.
        begun: where it is while it has not.
    """

    __slots__ = ("args", "begun", "coroutine", "error", "function", "queue", "result", "resume")

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        queue: CallerQueue,
        begun: set[PortalCall],
        resume: Callable[[PortalCall], None],
    ) -> None:
        self.function = function
        self.args = args
        self.queue = queue
        self.begun = begun
        self.resume = resume
        """Called in the thread of the queue when this has ended."""
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def done(self) -> None:
        """See `Work`."""
        self.resume(self)

    def left(self) -> None:
        """Its result is wanted no more."""

    def begin(self) -> None:
        """Start it; on the loop's thread, as all that follows."""
        self.begun.add(self)
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
        self.error = RefusedError("NOT_OPENED", "the cache was closed")
        self._end()

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
            self.error = RefusedError("NOT_OPENED", "the cache was closed")
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

    def begin(self) -> None:
        # What it is about may have been closed meanwhile.
        with contextlib.suppress(Exception):
            self._function(*self._args)

    def refuse(self) -> None:
        """There is nothing to be done any more."""
