"""The worker threads of loaders: as many as may be, and not one more.

A thread cannot be cancelled. While an origin hangs, each load that has ended leaves a thread behind, so what
is counted are threads, and not loads. Beyond the bound a load is refused: to wait for a thread could be to
wait for a loader that itself waits for this load.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from async_redis_cache._common.errors import CacheOverloaded
from async_redis_cache._common.outcomes import CapturedError
from async_redis_cache._common.stats import CacheStats

__all__ = ["LoaderThreads"]


class _Lock:
    """Held for a moment; not to be inherited by a child process from a thread that it does not have."""

    held = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        cls.held = threading.Lock()


os.register_at_fork(after_in_child=_Lock.renew)


class LoaderThreads:
    """Calls loaders in worker threads.

    Args:
        most: threads at once, also those whose load has ended.
        counters: where threads and refusals are counted.
    """

    def __init__(self, most: float, counters: CacheStats) -> None:
        self._most = most
        self._counters = counters

    async def run(self, call: Callable[[], Any]) -> Any:
        """What this gives, called in a worker thread; a cancelled caller leaves the thread to its end.

        Raises:
            CacheOverloaded: TOO_MANY_THREADS.
        """
        with _Lock.held:
            if self._counters.loader_threads >= self._most:
                self._counters.refused_loads += 1
                raise _too_many(f"{self._most} threads run loaders of this cache")
            self._counters.loader_threads += 1
        # Taken by the thread that begins the call, or by this one, if no thread ever does.
        ticket = [None]
        try:
            outcome = await anyio.to_thread.run_sync(
                partial(self._outcome, call, ticket),
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(math.inf),
            )
        except RuntimeError:
            # Not of the loader, which is carried as data: the process can start no thread.
            raise _too_many("no thread can be started") from None
        finally:
            self._leave(ticket)
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        return outcome

    def _outcome(self, call: Callable[[], Any], ticket: list[None]) -> Any:
        """In the thread: what the call gives or raises, as data, for a GeneratorExit would close what awaits it."""
        mine: list[None] = []
        try:
            mine.append(ticket.pop())
        except IndexError:
            return None
        try:
            return call()
        except BaseException as error:  # noqa: BLE001  it is raised again on the loop's thread
            return CapturedError(error)
        finally:
            self._leave(mine)

    def _leave(self, ticket: list[None]) -> None:
        with _Lock.held:
            if ticket:
                ticket.pop()
                self._counters.loader_threads -= 1


def _too_many(problem: str) -> CacheOverloaded:
    return CacheOverloaded("TOO_MANY_THREADS", f"the load is refused: {problem}")
