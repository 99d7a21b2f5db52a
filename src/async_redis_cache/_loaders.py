"""Calling what a user gives as a loader, whatever kind of callable it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread

from ._raised import Raised
from ._timeouts import Timeout

__all__ = ["NOT_MODIFIED", "Load", "Loader", "called", "run", "takes_load"]

Loader = Callable[..., Any]
"""A function that gives a value, or something to await for it. If it has a parameter that must be
given, it is given a `Load`."""
NOT_MODIFIED: Final[Any] = object()


class Load:
    """One load, as its loader sees and steers it.

    Attributes:
        key: whose value is loaded.
        stale: the value that it will replace; None where there is none.
        timeout: the life of what is loaded, as for `store`; may be set.
        tags: what it bears, as for `store`; may be set.
    """

    def __init__(self, key: str, stale: Any, timeout: Timeout, tags: Iterable[str]) -> None:
        self.key = key
        self.stale = stale
        self.timeout = timeout
        self.tags = tags
        self._cached = True

    def __repr__(self) -> str:
        return f"<Load of {self.key!r}>"

    def not_modified(self) -> Any:
        """To be returned by the loader: the present value is still right, and gets a new life.

        Raises:
            LookupError: there is none.
        """
        if self.stale is None:
            raise LookupError("there is no value that could be still right")
        return NOT_MODIFIED

    def do_not_cache(self) -> None:
        """Give what is loaded to those who wait for it, and do not store it."""
        self._cached = False

    @property
    def cached(self) -> bool:
        """Whether what is loaded will be stored."""
        return self._cached


async def called(loader: Loader, load: Load, *, in_thread: bool) -> Any:
    """What the loader gives.

    The result is looked at, not the function: a lambda may hide a coroutine function.

    Args:
        loader: see `Loader`.
        load: for a loader that takes it.
        in_thread: call it in a worker thread, where it may block. As many as are needed: loaders
            that wait for other loads must never wait for each other's threads.
    """
    return await run(partial(loader, load) if takes_load(loader) else loader, in_thread=in_thread)


async def run(call: Callable[[], Any], *, in_thread: bool) -> Any:
    """What this gives; where that can be awaited, what it is awaited for."""
    if in_thread and not inspect.iscoroutinefunction(call):
        # One who is cancelled does not wait for the thread, which goes on to its end.
        result = await anyio.to_thread.run_sync(
            partial(_outcome, call), abandon_on_cancel=True, limiter=anyio.CapacityLimiter(math.inf)
        )
        if isinstance(result, Raised):
            raise result.error()
    else:
        result = call()
    if inspect.isawaitable(result):
        return await result
    return result


def _outcome(call: Callable[[], Any]) -> Any:
    """What this gives or raises, as data: a GeneratorExit would close the coroutine that awaits it."""
    try:
        return call()
    except BaseException as error:  # noqa: BLE001  it is raised again on the loop's thread
        return Raised(error)


def takes_load(loader: Loader) -> bool:
    """Whether a loader takes a `Load`: whether it has a parameter that must be given."""
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (ValueError, TypeError):
        # Built in, and not telling.
        return False
    return any(
        parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        for parameter in parameters
    )
