"""From any thread into a private event loop and back, at the price of one loop_call.

Callers append what they want done; only the first of those that come together wakes the loop, which
takes all in one turn; each caller sleeps on a lock of its own thread. A call costs no task and no
`concurrent.futures.Future`: what is called awaits nothing but futures of the loop, so its coroutine
can be stepped by their callbacks. All of it runs in an empty context: what is shared, as connections and
timers are, holds nothing of the caller that has begun it.
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

from async_redis_cache._common.outcomes import CapturedError, capture
from async_redis_cache._common.tasks import OwnedTasks

from .portal_queue import PortalCall, PortalCallback, PortalQueue, PortalRefusedError, local

__all__ = ["Portal", "PortalRefusedError"]

P = ParamSpec("P")
T = TypeVar("T")

_LAST_TURNS: Final = 100


class Portal:
    """A thread with an event loop of its own: uvloop's where that is installed.

    The thread is a daemon, so a portal that nobody closed does not keep the interpreter alive.

    Args:
        ending: what the loop runs last of all.
        name: of the cache, for the name of the thread.
    """

    def __init__(
        self, ending: Callable[[], Coroutine[Any, Any, object]], *, name: str = ""
    ) -> None:
        self._inbox: deque[PortalCall | PortalCallback] = deque()
        self._begun: set[PortalCall] = set()
        self._tasks = OwnedTasks()
        self._woken = False
        self._closed = False
        self._ended = False
        self._ending = ending
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._serve, name=f"RedisCache {name}".rstrip(), daemon=True
        )

    @property
    def is_closed(self) -> bool:
        """Whether it takes no calls any more: it was closed, or something has ended its loop."""
        return self._closed

    @staticmethod
    def refuse_inside() -> None:
        """Refuse to wait on a thread that others wait for: two could wait for each other.

        Raises:
            RefusedError: IN_EVENT_LOOP.
        """
        if local.thread.serves:
            problem = "called on the private loop of a cache, which must not wait"
            raise PortalRefusedError("IN_EVENT_LOOP", problem)

    def start(self) -> None:
        """Start the thread, and wait for its loop.

        Raises:
            RefusedError: NOT_OPENED, when there is none to be had: the interpreter is ending, or
                the process has no descriptors left.
        """
        try:
            self._thread.start()
        except RuntimeError:
            raise PortalRefusedError("NOT_OPENED", "no thread can be started any more") from None
        self._started.wait()
        if self._ended:
            raise PortalRefusedError("NOT_OPENED", "no event loop can be made")

    def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function that awaits nothing but futures of its loop; wait for it.

        An interrupt (Ctrl-C) ends the waiting; what was begun goes on without its caller.

        Raises:
            RefusedError: IN_EVENT_LOOP on a portal's thread; NOT_OPENED when it is closed.
        """
        self.refuse_inside()
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
        """Have this begun on the loop, or refused. A call is put on its queue when it has ended."""
        try:
            self._inbox.append(item)
            if not self._woken:
                self._woken = True
                self._wake()
            if self._closed:
                self._turn_away()
        except BaseException:
            self.look_after()
            raise

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have this called on the loop, where it is not closed, and go on: at once on its own thread."""
        if threading.get_ident() == self._thread.ident:
            function(*args)
        else:
            self.send(PortalCallback(function, args))

    def give_up(self, portal_call: PortalCall) -> bool:
        """Begin it no more; whether it had begun, and goes on."""
        try:
            self._inbox.remove(portal_call)
        except ValueError:
            return True
        return False

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `call`, in a task with the caller's context: for what needs one, as time limits and threads do."""
        context = copy_context()

        async def in_task() -> T:
            # What a task raises may be raised out of its loop, and end it: SystemExit.
            outcome = await self._tasks.spawn(capture(function(*args, **kwargs)), context)
            if isinstance(outcome, CapturedError):
                raise outcome.error()
            return outcome

        return self.call(in_task)

    def close(self, patience: float | None = None) -> bool:
        """End the loop and its thread. Calls that have not begun are refused.

        May be called again, as after an interrupt, to wait for the end.

        Args:
            patience: seconds to wait; None for as long as it takes.

        Returns:
            Whether the loop has ended. A thread that waits for others, which loaders have begun, may be left.
        """
        self._closed = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set, context=Context())
        if self._thread.is_alive() and threading.get_ident() != self._thread.ident:
            self._thread.join(patience)
        return self._ended or not self._thread.is_alive()

    def _serve(self) -> None:
        local.thread.serves = True
        try:
            with asyncio.Runner(loop_factory=_new_event_loop) as runner:
                try:
                    self._run(runner)
                finally:
                    # Before the loop waits for the threads of its executor, which may hang.
                    self._end()
        except OSError:
            # No descriptor for the loop: who starts us is told.
            pass
        finally:
            self._end()
            if isinstance(self._loop, asyncio.BaseEventLoop) and not self._loop.is_closed():
                # It cannot close itself where a loader has closed what it polls.
                asyncio.BaseEventLoop.close(self._loop)

    def _end(self) -> None:
        self._closed = self._ended = True
        self._started.set()
        while self._begun:
            self._begun.pop().refuse()
        self._turn_away()

    def _run(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._live())
        except BaseException:
            # Of a callback, such as SystemExit: it ends the loop, and must leave nothing open.
            self._closed = True
            with contextlib.suppress(Exception):
                runner.run(self._ending())
            raise

    async def _live(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._started.set()
        # Looked at after the loop is there to see: who closes looks for it after saying so.
        if self._closed:
            return
        await self._stop.wait()
        # What still runs has lost its caller to an interrupt.
        self._tasks.cancel()
        # Nobody is left to be told; its own calls have been.
        with contextlib.suppress(Exception):
            await self._ending()
        # A closed cache has failed all its calls; some need a few turns to say so.
        for _ in range(_LAST_TURNS):
            if not self._begun:
                break
            await asyncio.sleep(0)

    def _receive(self) -> None:
        # Cleared before the inbox is read: whoever appends later wakes the loop again.
        self._woken = False
        inbox, begun = self._inbox, self._begun
        while inbox:
            inbox.popleft().begin(begun)

    def look_after(self) -> None:
        """Wake the loop, which an interrupt may have kept from hearing of what came.

        Raises:
            RefusedError: NOT_OPENED in a child process, which has not inherited the loop's thread.
        """
        if self._pid != os.getpid():
            raise PortalRefusedError("NOT_OPENED", "the process was forked during the call")
        self._wake()
        if self._closed:
            self._turn_away()

    def _wake(self) -> None:
        if self._loop is not None:
            try:  # noqa: SIM105  `suppress` costs more
                self._loop.call_soon_threadsafe(self._receive, context=Context())
            except RuntimeError:
                # A closed loop takes nothing; then the inbox is turned away.
                pass

    def _turn_away(self) -> None:
        """Refuse what came too late; not while the loop may still come for it."""
        if self._ended:
            with contextlib.suppress(IndexError):
                while True:
                    self._inbox.popleft().refuse()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415  an extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
