"""The portal: a thread with a private event loop, and calls into it from other threads.

A caller appends its call to an inbox and sleeps on a lock of its own thread. Only the first of several concurrent
callers wakes the event loop, which takes all calls in one iteration. A call costs neither a task nor a
`concurrent.futures.Future`: its coroutine awaits only futures of the event loop, whose callbacks step it. Calls run in an
empty context, so that shared objects such as connections and timers do not hold the context of a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.outcomes import CapturedError, capture
from async_redis_cache._common.tasks import OwnedTasks

from .gevent_patches import are_threads_patched
from .portal_queue import PortalCall, PortalCallback, PortalQueue, PortalRefusedError, local
from .waker import Waker, waker_of

__all__ = ["Portal", "PortalRefusedError"]

P = ParamSpec("P")
T = TypeVar("T")

_FINAL_ITERATIONS: Final = 100


class Portal:
    """A thread with a private event loop, which is uvloop's if that is installed.

    The thread is a daemon: a portal that is not closed does not keep the interpreter alive.

    Args:
        ending: the coroutine function that the event loop runs last.
        name: the name of the cache, for that of the thread.
    """

    def __init__(
        self, ending: Callable[[], Coroutine[Any, Any, object]], *, name: str = ""
    ) -> None:
        self._inbox: deque[PortalCall | PortalCallback] = deque()
        self._running: set[PortalCall] = set()
        self._tasks = OwnedTasks()
        self._woken = False
        self._closed = False
        self._ended = False
        self._ending = ending
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waker: Waker | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._run_thread, name=f"RedisCache {name}".rstrip(), daemon=True
        )

    @property
    def is_closed(self) -> bool:
        """Whether the portal refuses calls: it was closed, or its event loop has ended."""
        return self._closed

    def is_in_this_process(self) -> bool:
        """Return whether this process runs the portal, and is no fork of that."""
        return self._pid == os.getpid()

    @staticmethod
    def refuse_in_event_loop() -> None:
        """Refuse a blocking call on the thread of any portal, since two portals could wait for each other.

        Raises:
            PortalRefusedError: IN_EVENT_LOOP.
        """
        if local.thread.serves:
            problem = "blocking call on the private event loop of a cache, such as in a coroutine loader: call it on another thread"
            raise PortalRefusedError("IN_EVENT_LOOP", problem)

    def start(self) -> None:
        """Start the thread and wait for its event loop.

        Raises:
            PortalRefusedError: NOT_OPENED, if the interpreter is ending or the process has no file descriptors
                left.
        """
        try:
            self._thread.start()
        except RuntimeError:
            raise PortalRefusedError(
                "NOT_OPENED", "no thread can be started: the interpreter is ending"
            ) from None
        self._started.wait()
        if self._ended:
            raise PortalRefusedError(
                "NOT_OPENED",
                "no event loop can be created: the process has no file descriptors left",
            )

    def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a coroutine function that awaits only futures of the event loop, and wait for its result.

        An interrupt (Ctrl-C) ends the waiting; a call that has started continues without its caller.

        Raises:
            PortalRefusedError: IN_EVENT_LOOP on the thread of a portal; NOT_OPENED if the portal is closed.
        """
        self.refuse_in_event_loop()
        queue = PortalQueue(local.thread, self)
        portal_call = PortalCall(partial(function, **kwargs), *args)
        portal_call.queue = queue
        try:
            self.send(portal_call)
            queue.wait()
        except BaseException:
            queue.leave()
            raise
        queue.close()
        return portal_call.outcome()  # type: ignore[no-any-return]

    def send(self, item: PortalCall | PortalCallback) -> None:
        """Start a call on the event loop, or refuse it. A call that has ended is put on its queue."""
        try:
            self._inbox.append(item)
            if not self._woken:
                self._woken = True
                self._wake()
            if self._closed:
                self._refuse_inbox()
        except BaseException:
            self.ensure_awake()
            raise

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the event loop without waiting; at once on the portal's thread, not at all once it is closed."""
        if threading.get_ident() == self._thread.ident:
            function(*args)
        else:
            self.send(PortalCallback(function, args))

    def withdraw(self, portal_call: PortalCall) -> bool:
        """Remove a call that has not started; return whether it has, and so continues."""
        try:
            self._inbox.remove(portal_call)
        except ValueError:
            return True
        return False

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what `call` does, in a task with the caller's context, which time limits and worker threads need."""
        context = copy_context()

        async def captured() -> T | CapturedError:
            # Called in the task, which may be cancelled before it starts.
            return await capture(function(*args, **kwargs))

        async def in_task() -> T:
            # Captured, since a SystemExit of a task would be raised out of the event loop and end it.
            outcome = await self._tasks.spawn(captured(), context)
            if isinstance(outcome, CapturedError):
                raise outcome.error()
            return outcome

        return self.call(in_task)

    def close(self, patience: float | None = None) -> bool:
        """End the event loop and its thread. Calls that have not started are refused.

        It may be called again, for instance after an interrupt, to wait for the end.

        Args:
            patience: seconds to wait; None for no limit.

        Returns:
            Whether the event loop has ended. Its thread may still be waiting for the threads of loaders.
        """
        self._closed = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set, context=Context())
        if self._thread.is_alive() and threading.get_ident() != self._thread.ident:
            self._thread.join(patience)
        return self._ended or not self._thread.is_alive()

    def _run_thread(self) -> None:
        local.thread.serves = True
        try:
            with asyncio.Runner(loop_factory=_new_event_loop) as runner:
                try:
                    self._run(runner)
                finally:
                    # Before the event loop waits for the threads of its executor, which may hang.
                    self._end()
        except OSError:
            # No file descriptor for the event loop: `start` raises.
            pass
        finally:
            self._end()
            if isinstance(self._loop, asyncio.BaseEventLoop) and not self._loop.is_closed():
                # Its own `close` fails if a loader has closed the file descriptor that it polls.
                asyncio.BaseEventLoop.close(self._loop)

    def _end(self) -> None:
        self._closed = self._ended = True
        waker, self._waker = self._waker, None
        if waker is not None and self._loop is not None:
            waker.detach(self._loop)
        self._started.set()
        while self._running:
            self._running.pop().refuse()
        self._refuse_inbox()

    def _run(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._main())
        except BaseException:
            # Raised by a callback, such as SystemExit: it ends the event loop, and everything has to be closed.
            self._closed = True
            with contextlib.suppress(Exception):
                runner.run(self._ending())
            raise

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._waker = waker_of(loop, self._receive)
        self._loop = loop
        self._started.set()
        # Checked after `_loop` is set: `close` sets `_closed` before it reads `_loop`.
        if self._closed:
            return
        await self._stop.wait()
        # The callers of tasks that still run were interrupted.
        self._tasks.cancel()
        # No caller is waiting for this, and the calls of the cache have failed already.
        with contextlib.suppress(Exception):
            await self._ending()
        # A closed cache has failed all its calls; some need a few iterations to end.
        for _ in range(_FINAL_ITERATIONS):
            if not self._running:
                break
            await asyncio.sleep(0)

    def _receive(self) -> None:
        # Cleared before the inbox is read: a caller that appends later wakes the event loop again.
        self._woken = False
        inbox, running = self._inbox, self._running
        while inbox:
            inbox.popleft().begin(running)

    def ensure_awake(self) -> None:
        """Wake the event loop again, in case an interrupt came between appending a call and waking it.

        Raises:
            PortalRefusedError: NOT_OPENED in a forked child process, where the portal's thread does not exist.
        """
        if not self.is_in_this_process():
            raise PortalRefusedError("NOT_OPENED", "the process was forked during the call")
        self._wake()
        if self._closed:
            self._refuse_inbox()

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            waker.wake()
        elif self._loop is not None:
            try:  # noqa: SIM105  `suppress` costs more
                self._loop.call_soon_threadsafe(self._receive, context=Context())
            except RuntimeError:
                # The event loop is closed, and the inbox is refused.
                pass

    def _refuse_inbox(self) -> None:
        """Refuse the calls in the inbox, once the event loop has ended and cannot take them."""
        if self._ended:
            with contextlib.suppress(IndexError):
                while True:
                    self._inbox.popleft().refuse()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # uvloop waits without the `select` of gevent, so no greenlet would run meanwhile.
    if not are_threads_patched():
        with contextlib.suppress(ImportError):
            import uvloop  # noqa: PLC0415  an extra

            return uvloop.new_event_loop()
    # On Windows, the default loop may have read replies that a check of the socket does not find.
    is_windows = hasattr(asyncio, "ProactorEventLoop")
    loop = asyncio.SelectorEventLoop() if is_windows else asyncio.new_event_loop()
    # No timer stops while a test freezes `time.monotonic`, which asyncio's loops look up at each call.
    loop.time = MonotonicClock.time  # type: ignore[method-assign]
    return loop
