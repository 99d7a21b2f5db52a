"""Calls a function that may block for long, in a thread that can be abandoned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

__all__ = ["BlockingCall", "ExitError", "TooManyCallsError"]

T = TypeVar("T")

_MOST_CALLS: Final = 8
"""Calls under way at a time. A function that never returns would otherwise occupy one more thread for each attempt."""


class TooManyCallsError(Exception):
    """All calls that may be under way at a time are, and none of them returns."""


class ExitError(Exception):
    """A function raised what an event loop must not: the type with this name, such as SystemExit or StopIteration."""


class BlockingCall(Generic[T]):
    """A function, called in daemon threads, which neither a closing event loop nor the exiting interpreter waits for.

    Callers on one event loop or on several share the call under way.

    Args:
        function: may block, and raise anything.
        name: of the threads.
        patience: seconds after which a call is taken to hang, and is not shared any more.
    """

    def __init__(self, function: Callable[[], T], name: str, patience: float) -> None:
        self._function = function
        self._name = name
        self._patience = patience
        self._lock = threading.Lock()
        self._latest: Future[T] | None = None
        self._began = 0.0
        self._running = 0

    async def __call__(self) -> T:
        """Return what the function returns. A cancelled caller abandons the call, and cancels it for no other.

        Raises:
            TooManyCallsError: the function does not return.
            ExitError: the function raised no `Exception`, or StopIteration.
            Exception: any other that the function raises; RuntimeError, if no thread can be started.
        """
        return await asyncio.wrap_future(self._shared())

    def _shared(self) -> Future[T]:
        with self._lock:
            now = time.monotonic()
            latest = self._latest
            if latest is not None and not latest.done() and now < self._began + self._patience:
                return latest
            if self._running >= _MOST_CALLS:
                raise TooManyCallsError
            call = self._latest = Future[T]()
            self._began = now
            # Otherwise a cancelled caller would cancel it for the others.
            call.set_running_or_notify_cancel()
            thread = threading.Thread(target=self._run, args=(call,), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._latest = None
                raise
            self._running += 1
        return call

    def _run(self, call: Future[T]) -> None:
        try:
            result = self._function()
        except BaseException as error:  # noqa: BLE001  raised to the callers
            self._end()
            is_harmless = isinstance(error, Exception) and not isinstance(error, StopIteration)
            call.set_exception(error if is_harmless else ExitError(type(error).__name__))
        else:
            self._end()
            call.set_result(result)

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
