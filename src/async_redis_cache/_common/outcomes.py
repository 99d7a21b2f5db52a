"""Exceptions of loaders, carried to the callers of a load as data.

A load is shared by callers that know nothing of each other, and it runs in a task. An exception cannot be
left to that task: asyncio raises SystemExit and KeyboardInterrupt out of the event loop, a CancelledError
would cancel callers that nothing has cancelled, and one exception object raised by several callers would
collect the tracebacks and contexts of all of them.
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
"""What the fields of a class are that has them in C or in slots: `OSError.errno`, `ImportError.name`."""


class CallerLeftError(Exception):
    """A load has ended because the thread that ran its loader was interrupted, or its loader ended that thread."""


class CapturedError:
    """An exception of a loader, for any number of callers.

    Args:
        error: the exception. A loader's own CancelledError becomes LOAD_CANCELLED, with that as its
            cause.
    """

    __slots__ = ("_error", "_is_given")

    def __init__(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            cause, error = error, load_cancelled()
            error.__cause__ = cause
        self._error = error
        self._is_given = False

    def __repr__(self) -> str:
        return f"<Raised {type(self._error).__name__}>"

    @property
    def kind(self) -> type[BaseException]:
        """The type of the exception."""
        return type(self._error)

    def error(self) -> BaseException:
        """The exception for one more caller: itself for the first, an equal copy for each other.

        One that cannot be copied is shared. Otherwise nothing of what a caller's frames add to its
        exception is held here, or seen by another.
        """
        error = self._error
        try:
            copy = _copy_of(error)
        except Exception:  # noqa: BLE001  its type may do anything
            return error
        if self._is_given:
            return copy
        self._is_given, self._error = True, copy
        return error


def load_cancelled() -> CacheLoadError:
    """A new error for callers that nothing has cancelled."""
    problem = "the loader was cancelled, or raised CancelledError"
    return CacheLoadError("LOAD_CANCELLED", problem)


def outcome_of(task: asyncio.Task[T]) -> T | CapturedError:
    """What a task that has ended gave or raised."""
    if task.cancelled():
        return CapturedError(asyncio.CancelledError())
    error = task.exception()
    return task.result() if error is None else CapturedError(error)


async def capture(awaitable: Awaitable[T]) -> T | CapturedError:
    """The result, or what was raised; a cancellation of this task passes."""
    try:
        return await awaitable
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  see the module
        return CapturedError(error)


async def gather_outcomes(awaitables: Iterable[Awaitable[T]]) -> list[T | CapturedError]:
    """What each gives or raises, each awaited in a task of its own, when all have ended."""
    awaited = list(awaitables)
    try:
        return await asyncio.gather(*map(capture, awaited))
    finally:
        for one in awaited:
            # Its task may have been cancelled before it began.
            if isinstance(one, Coroutine):
                one.close()


def raise_first(outcomes: Iterable[T | CapturedError]) -> list[T]:
    """The results, where nothing was raised; otherwise the first error is raised."""
    results: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        results.append(outcome)
    return results


def _copy_of(error: E) -> E:
    """A copy that `__init__` has not seen: what an exception was made of is often not in its `args`."""
    kind = type(error)
    copy: E = kind.__new__(kind, *error.args)
    if type(copy) is not kind or copy is error:
        raise TypeError
    for parent in kind.__mro__:
        for name, field in vars(parent).items():
            if isinstance(field, _FIELDS) and name not in {"__dict__", "__weakref__"}:
                # A field that is not set, or that only `__new__` sets.
                with suppress(AttributeError, TypeError):
                    field.__set__(copy, field.__get__(error, kind))
    if hasattr(error, "__dict__"):
        vars(copy).update(vars(error))
    return copy
