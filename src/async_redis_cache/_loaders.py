"""Calling what a user gives as a loader, whatever kind of callable it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

__all__ = ["Loader", "called"]

Loader = Callable[[], Any]
"""A function without parameters: one that gives a value, or something to await for it."""


async def called(loader: Loader, *, in_thread: bool) -> Any:
    """What the loader gives.

    The result is looked at, not the function: a lambda may hide a coroutine function.

    Args:
        loader: see `Loader`.
        in_thread: call it in a worker thread, where it may block. As many as are needed: loaders
            that wait for other loads must never wait for each other's threads.
    """
    if in_thread and not inspect.iscoroutinefunction(loader):
        # One who is cancelled does not wait for the thread, which goes on to its end.
        result = await anyio.to_thread.run_sync(
            loader, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(math.inf)
        )
    else:
        result = loader()
    if inspect.isawaitable(result):
        return await result
    return result
