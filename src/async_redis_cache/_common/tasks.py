"""The background tasks of one object, which end with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

__all__ = ["OwnedTasks", "abandon", "may_stay_pending"]

T = TypeVar("T")


class OwnedTasks:
    """Strong references to running tasks, as the event loop keeps only weak ones.

    True while a task is running.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def spawn(
        self, coroutine: Coroutine[Any, Any, T], context: Context | None = None
    ) -> asyncio.Task[T]:
        """Run a coroutine as a task.

        Under an eager task factory the task may already be done.

        Args:
            coroutine: what to run.
            context: where it runs; an empty one by default, so that a long-lived object keeps nothing of the
                call during which the task was started.
        """
        task = asyncio.get_running_loop().create_task(
            coroutine, context=Context() if context is None else context
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def abandon(self) -> None:
        """Abandon every task. See `abandon`."""
        for task in tuple(self._tasks):
            abandon(task)

    def cancel(self) -> None:
        """Request the cancellation of every task."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait until no task is running, including those spawned meanwhile. Raises nothing of theirs."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def may_stay_pending(task: asyncio.Task[Any]) -> None:
    """Let asyncio not log that a task was destroyed, if its event loop is closed before the task has ended."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001


def abandon(task: asyncio.Task[Any]) -> None:
    """Close the coroutine of a task whose event loop was closed before the task has ended.

    `asyncio.run` cancels tasks only once: one that starts later, while asynchronous generators and the executor are shut
    down, is left pending.
    """
    may_stay_pending(task)
    coroutine: Any = task.get_coro()
    # Its `finally` clauses may need the event loop.
    with contextlib.suppress(BaseException):
        coroutine.close()
