"""Exceptions of loaders, passed to the callers of a load as data.

A load runs in a task, and independent callers share it. The task must not raise the loader's exception: asyncio
propagates SystemExit and KeyboardInterrupt out of the event loop, a CancelledError would look like a cancellation of
the callers, and an exception object that several callers raise collects the tracebacks and contexts of all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Final, TypeVar

from .errors import CacheLoadError

__all__ = [
    "CallerLeftError",
    "CapturedError",
    "capture",
    "gather_outcomes",
    "load_cancelled",
    "outcome_of",
    "raise_first",
]

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")

_FIELDS: Final = (MemberDescriptorType, GetSetDescriptorType)
"""The descriptors of attributes in C structures or slots, such as `OSError.errno` and `ImportError.name`."""


class CallerLeftError(Exception):
    """A load ended because the calling thread, which ran its loader, was interrupted or ended by the loader."""


class CapturedError:
    """An exception of a loader, which any number of callers can raise.

    Args:
        error: the exception. A CancelledError of the loader becomes the cause of a LOAD_CANCELLED.
    """

    __slots__ = ("_error", "_is_raised")

    def __init__(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            cause, error = error, load_cancelled()
            error.__cause__ = cause
        self._error = error
        self._is_raised = False

    def __repr__(self) -> str:
        return f"<CapturedError {type(self._error).__name__}>"

    @property
    def kind(self) -> type[BaseException]:
        """The type of the exception."""
        return type(self._error)

    def error(self) -> BaseException:
        """The exception for one more caller: the original for the first, and an equal copy for every other.

        An exception that cannot be copied is shared. Otherwise, nothing that one caller's frames add to the exception
        is kept here or visible to another caller.
        """
        error = self._error
        try:
            copy = _copy_of(error)
        except Exception:  # noqa: BLE001  its type is foreign code
            return error
        if self._is_raised:
            return copy
        self._is_raised, self._error = True, copy
        return error


def load_cancelled() -> CacheLoadError:
    """Create the error for callers that were not cancelled themselves."""
    problem = "the loader was cancelled, or raised CancelledError"
    return CacheLoadError("LOAD_CANCELLED", problem)


def outcome_of(task: asyncio.Task[T]) -> T | CapturedError:
    """The result or the exception of a task that has ended."""
    if task.cancelled():
        return CapturedError(asyncio.CancelledError())
    error = task.exception()
    return task.result() if error is None else CapturedError(error)


async def capture(awaitable: Awaitable[T]) -> T | CapturedError:
    """Await and return the result or the exception. A cancellation of the current task is raised."""
    try:
        return await awaitable
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  see the docstring of the module
        return CapturedError(error)


async def gather_outcomes(awaitables: Iterable[Awaitable[T]]) -> list[T | CapturedError]:
    """Await each in a task of its own, and return the results and exceptions when all have ended."""
    awaitables = list(awaitables)
    try:
        return await asyncio.gather(*map(capture, awaitables))
    finally:
        for awaitable in awaitables:
            # Its task may have been cancelled before it started the coroutine.
            if isinstance(awaitable, Coroutine):
                awaitable.close()


def raise_first(outcomes: Iterable[T | CapturedError]) -> list[T]:
    """Return the results, or raise the first exception if there is one."""
    results: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        results.append(outcome)
    return results


def _copy_of(error: E) -> E:
    """Copy an exception without `__init__`, whose arguments are often not in `args`."""
    kind = type(error)
    copy: E = kind.__new__(kind, *error.args)
    if type(copy) is not kind or copy is error:
        raise TypeError
    for parent in kind.__mro__:
        for name, field in vars(parent).items():
            if isinstance(field, _FIELDS) and name not in {"__dict__", "__weakref__"}:
                # The attribute is not set, or only `__new__` can set it.
                with suppress(AttributeError, TypeError):
                    field.__set__(copy, field.__get__(error, kind))
    if hasattr(error, "__dict__"):
        vars(copy).update(vars(error))
    return copy
