"""Waking an event loop from other threads, for less than `call_soon_threadsafe`.

Each call of that allocates a handle, and writes to a socket that asyncio then reads twice, after it has called what there
is to call. Each system call lets the other thread take the GIL, so two threads that wake each other wait for the GIL more
often than for their event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from contextvars import Context

__all__ = ["Waker", "waker_of"]


class Waker:
    """Makes an event loop call a function, each time in an empty context.

    Its file descriptor is closed with the last reference to it, not earlier: another thread may be about to write to it.

    Args:
        loop: the running event loop; it keeps a reference until it is closed, or until `detach`.
        function: what it calls.
    """

    __slots__ = ("_descriptor", "_function")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        self._function = function
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        Context().run(loop.add_reader, self._descriptor, self._on_readable)

    def __del__(self) -> None:
        # Not set if there was no file descriptor left; closed if something has closed all descriptors of the process.
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._descriptor)

    def wake(self) -> None:
        """Wake the event loop, from any thread. Several calls before it runs make it call the function once."""
        try:  # noqa: SIM105  `suppress` costs more
            os.eventfd_write(self._descriptor, 1)
        except OSError:
            # Something has closed all descriptors of the process: calls end by their deadline.
            pass

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the event loop call nothing any more. Called on it."""
        loop.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        try:  # noqa: SIM105
            os.eventfd_read(self._descriptor)
        except OSError:
            # A forked child has the same descriptor, and may have read it.
            pass
        function = self._function
        # The traceback of an exception keeps this frame, and would keep the descriptor open as long.
        del self
        Context().run(function)


def waker_of(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> Waker | None:
    """Return a waker; None where `call_soon_threadsafe` has to be used.

    On Linux only, and for the event loop of asyncio only: that of uvloop has an equally cheap `call_soon_threadsafe`.
    """
    if sys.platform == "linux" and isinstance(loop, asyncio.SelectorEventLoop):
        # No file descriptor may be left.
        with contextlib.suppress(OSError):
            return Waker(loop, function)
    return None
