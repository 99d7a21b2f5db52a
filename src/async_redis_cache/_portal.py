"""From any thread into a private event loop and back, at the price of one hop.

Callers append what they want done; only the first of those that come together wakes the loop, which
takes all in one turn; each caller sleeps on a lock of its own thread. A call costs no task and no
`concurrent.futures.Future`: what is called awaits nothing but futures of the loop, so its coroutine
can be stepped by their callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, ParamSpec, TypeVar

from ._raised import Raised, caught

__all__ = ["Portal", "RefusedError"]

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_AGAIN: Final = 0.25
_LAST_TURNS: Final = 100


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
    """Held, for this thread to sleep on. None while it does, so an interrupted one is not reused."""


_local: Final = _Local()


class _Visit:
    """One call: what to run, in a copy of its caller's context, and the thread that waits for it."""

    __slots__ = ("begun", "context", "coroutine", "done", "error", "result", "start")

    def __init__(
        self,
        start: Callable[[], Coroutine[Any, Any, Any]],
        done: threading.Lock,
        begun: set[_Visit],
    ) -> None:
        self.start = start
        self.done = done
        self.begun = begun
        self.context = copy_context()
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Start it; on the loop's thread, as all that follows."""
        self.begun.add(self)
        self.context.run(self.advance)

    def advance(self, _: object = None) -> None:
        """Run the coroutine until it waits for something, and come back when that is there."""
        try:
            if self.coroutine is None:
                self.coroutine = self.start()
            awaited = self.coroutine.send(None)
            # What a task does when its coroutine yields a future; or nothing, as sleep(0) does.
            if awaited is None:
                asyncio.get_running_loop().call_soon(self.advance, context=self.context)
            else:
                awaited._asyncio_future_blocking = False  # noqa: SLF001
                awaited.add_done_callback(self.advance, context=self.context)
        except StopIteration as stop:
            self.result = stop.value
            self._end()
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
            self._end()

    def refuse(self) -> None:
        """End it where it is, since the portal is closed."""
        if self.coroutine is not None:
            self.context.run(self.coroutine.close)
        self.error = RefusedError("NOT_OPENED", "the cache was closed")
        self._end()

    def _end(self) -> None:
        self.begun.discard(self)
        self.done.release()


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
        self._inbox: deque[_Visit] = deque()
        self._begun: set[_Visit] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._woken = False
        self._closed = False
        self._ended = False
        self._ending = ending
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
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
        if _local.serves:
            problem = "called on the private loop of a cache, which must not wait"
            raise RefusedError("IN_EVENT_LOOP", problem)

    def start(self) -> None:
        """Start the thread, and wait for its loop.

        Raises:
            RefusedError: NOT_OPENED, when there is none to be had: the interpreter is ending, or
                the process has no descriptors left.
        """
        try:
            self._thread.start()
        except RuntimeError:
            raise RefusedError("NOT_OPENED", "no thread can be started any more") from None
        self._started.wait()
        if self._ended:
            raise RefusedError("NOT_OPENED", "no event loop can be made")

    def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function that awaits nothing but futures of its loop; wait for it.

        An interrupt (Ctrl-C) ends the waiting; what was begun goes on without its caller.

        Raises:
            RefusedError: IN_EVENT_LOOP on a portal's thread; NOT_OPENED when it is closed.
        """
        self.refuse_inside()
        done = _take_lock()
        visit = _Visit(lambda: function(*args, **kwargs), done, self._begun)
        try:
            self._inbox.append(visit)
            if not self._woken:
                self._woken = True
                self._wake()
            if self._closed:
                self._turn_away()
            # An interrupt can fall between any two steps, here or in another thread; so nobody
            # relies for ever on having been noticed.
            while not done.acquire(timeout=_LOOK_AGAIN):
                self._look_after()
        except BaseException:
            self._look_after()
            raise
        _local.lock = done
        try:
            if visit.error is not None:
                raise visit.error
            return visit.result  # type: ignore[no-any-return]
        finally:
            # The error's traceback holds this frame, which must not hold the error.
            del visit

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `call`, in a task: for what needs one, as time limits and threads do."""

        async def in_task() -> T:
            # What a task raises may be raised out of its loop, and end it: SystemExit.
            task = asyncio.get_running_loop().create_task(caught(function(*args, **kwargs)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            outcome = await task
            if isinstance(outcome, Raised):
                raise outcome.error()
            return outcome

        return self.call(in_task)

    def close(self, patience: float | None = None) -> None:
        """End the loop and its thread. Calls that have not begun are refused.

        May be called again, as after an interrupt, to wait for the end.

        Args:
            patience: seconds to wait; None for as long as it takes.
        """
        self._closed = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set, context=Context())
        if self._thread.is_alive() and threading.get_ident() != self._thread.ident:
            self._thread.join(patience)

    def _serve(self) -> None:
        _local.serves = True
        try:
            with asyncio.Runner(loop_factory=_new_event_loop) as runner:
                self._run(runner)
        except OSError:
            # No descriptor for the loop: who starts us is told.
            pass
        finally:
            self._closed = self._ended = True
            self._started.set()
            for visit in tuple(self._begun):
                visit.refuse()
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
        for task in self._tasks:
            task.cancel()
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
        inbox = self._inbox
        while inbox:
            inbox.popleft().begin()

    def _look_after(self) -> None:
        self._wake()
        if self._closed:
            self._turn_away()

    def _wake(self) -> None:
        # A closed loop takes nothing; then the inbox is turned away.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._receive, context=Context())

    def _turn_away(self) -> None:
        """Refuse what came too late; not while the loop may still come for it."""
        if self._ended:
            with contextlib.suppress(IndexError):
                while True:
                    self._inbox.popleft().refuse()


def _take_lock() -> threading.Lock:
    lock, _local.lock = _local.lock, None
    if lock is None:
        lock = threading.Lock()
        lock.acquire()
    return lock


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415  an extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
