"""The worker threads that call loaders, up to a maximum.

A thread cannot be cancelled. While an origin hangs, each load that times out leaves a thread running, so the
maximum applies to threads and not to loads. When it is reached, loads are refused: waiting for a thread could
mean waiting for a loader that itself waits for this load.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from async_redis_cache._common.errors import CacheOverloaded
from async_redis_cache._common.forks import after_fork_in_child
from async_redis_cache._common.outcomes import CapturedError
from async_redis_cache._common.stats import CacheStats

__all__ = ["LoaderThreads"]


class _Lock:
    """A lock that is held briefly, and replaced in a forked child: a thread that the child lacks may hold it."""

    held = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        cls.held = threading.Lock()


after_fork_in_child(_Lock.renew)


class LoaderThreads:
    """Call loaders in worker threads.

    Args:
        max_threads: maximum number of threads at a time, including those whose load has ended.
        counters: counts the threads that run, and the loads that were refused.
    """

    def __init__(self, max_threads: float, counters: CacheStats) -> None:
        self._max_threads = max_threads
        self._counters = counters

    async def run(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call in a worker thread. If the caller is cancelled, the thread continues.

        Raises:
            CacheOverloaded: TOO_MANY_THREADS.
            BaseException: raised by the call.
        """
        with _Lock.held:
            if self._counters.loader_threads >= self._max_threads:
                self._counters.refused_loads += 1
                raise _too_many(f"{self._max_threads} threads are running loaders of this cache")
            self._counters.loader_threads += 1
        # Removed by the thread that makes the call, or here if no thread does.
        ticket = [None]
        try:
            outcome = await anyio.to_thread.run_sync(
                partial(self._outcome, call, ticket),
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(math.inf),
            )
        except RuntimeError:
            # Errors of the loader are captured, so the process could not start a thread.
            raise _too_many("no thread could be started") from None
        finally:
            self._uncount(ticket)
        if isinstance(outcome, CapturedError):
            raise outcome.error()
        return outcome

    def _outcome(self, call: Callable[[], Any], ticket: list[None]) -> Any:
        """Make the call, in the worker thread; capture its error, as a GeneratorExit would close the awaiting coroutine."""
        own_ticket: list[None] = []
        try:
            own_ticket.append(ticket.pop())
        except IndexError:
            return None
        try:
            return call()
        except BaseException as error:  # noqa: BLE001  raised again in the thread of the loop
            return CapturedError(error)
        finally:
            self._uncount(own_ticket)

    def _uncount(self, ticket: list[None]) -> None:
        with _Lock.held:
            if ticket:
                ticket.pop()
                self._counters.loader_threads -= 1


def _too_many(problem: str) -> CacheOverloaded:
    return CacheOverloaded("TOO_MANY_THREADS", f"the load was refused: {problem}")
