"""Calls from the private event loop back into that of a caller, as for the loader of a load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Final, TypeVar

from async_redis_cache._common.outcomes import CallerLeftError, CapturedError, capture
from async_redis_cache._common.tasks import abandon

from .loop_mailbox import LoopMailbox
from .portal import Portal

__all__ = ["call_on_caller_loop"]

T = TypeVar("T")

_RECHECK_SECONDS: Final = 0.25


class _OnCallerLoop:
    """A coroutine function that is called on the event loop of a caller, and awaited on the private one."""

    __slots__ = ("_box", "_context", "_function", "_is_cancelled", "_outcome", "_portal", "_task")

    def __init__(
        self, portal: Portal, box: LoopMailbox, function: Callable[[], Awaitable[Any]]
    ) -> None:
        self._portal = portal
        self._box = box
        self._function = function
        # That of the load: the caller's, with the load that its requests belong to.
        self._context = copy_context()
        self._outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False

    async def run(self) -> Any:
        """Await the result. A cancellation is passed on, and the end of the function awaited, as if it ran here.

        Raises:
            CallerLeftError: the event loop of the caller has ended.
            BaseException: raised by the function.
        """
        outcome = self._outcome
        has_loop_ended = not self._box.put(self)
        was_idle = False
        while not (has_loop_ended or outcome.done()):
            try:
                await asyncio.wait((outcome,), timeout=_RECHECK_SECONDS)
            except asyncio.CancelledError:
                self._is_cancelled = True
                has_loop_ended = not self._box.put(_Cancellation(self))
                continue
            # An event loop that does not run twice in a row is not waited for: it may never run again.
            loop = self._box.loop
            is_idle = not loop.is_running()
            has_loop_ended = loop.is_closed() or (was_idle and is_idle)
            was_idle = is_idle
        if outcome.done():
            result = outcome.result()
        else:
            self._box.put(_Cancellation(self))
            if self._box.loop.is_closed():
                self._abandon()
            result = CapturedError(CallerLeftError())
        if isinstance(result, CapturedError):
            if self._is_cancelled and result.kind is CallerLeftError:
                raise asyncio.CancelledError
            raise result.error()
        return result

    def arrive(self) -> None:
        """Start the task. Runs on the event loop of the caller."""
        if self._is_cancelled:
            self._end_with(CapturedError(CallerLeftError()))
        else:
            task = self._box.tasks.spawn(_captured(self._function), self._context)
            self._task = task
            task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel the task. Runs on the event loop of the caller."""
        if self._task is not None:
            self._task.cancel()

    def _abandon(self) -> None:
        """Close what the event loop of the caller has not ended before it was closed."""
        task, self._task = self._task, None
        if task is not None:
            abandon(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        outcome: Any
        try:
            outcome = task.result()
        except asyncio.CancelledError as cancelled:
            # Cancelled by `cancel`, or from outside, as `asyncio.run` does at its end; or raised by the loader.
            is_left = task.cancelling() > 0
            outcome = CapturedError(CallerLeftError() if is_left else cancelled)
        self._end_with(outcome)

    def _end_with(self, outcome: Any) -> None:
        if self._portal.is_in_this_process():
            self._portal.post(self._set_outcome, outcome)

    def _set_outcome(self, outcome: Any) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)


class _Cancellation:
    __slots__ = ("_cancelled",)

    def __init__(self, cancelled: _OnCallerLoop) -> None:
        self._cancelled = cancelled

    def arrive(self) -> None:
        self._cancelled.cancel()


async def _captured(function: Callable[[], Awaitable[T]]) -> T | CapturedError:
    return await capture(function())


async def call_on_caller_loop(
    portal: Portal, box: LoopMailbox, function: Callable[[], Awaitable[T]]
) -> T:
    """Call a coroutine function on the event loop of a mailbox; awaited on the private event loop.

    Raises:
        CallerLeftError: the event loop of the caller has ended.
        BaseException: raised by the function.
    """
    result: T = await _OnCallerLoop(portal, box, function).run()
    return result
