"""A server that does not answer is left alone, until it does again.

Without this each call that goes on without the server would first wait for it: for as long as a call
may take, which is most of what a caller has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ._counters import CacheStats
from ._errors import CacheError, CacheOutcomeUnknown, CacheTimeout, CacheUnavailable
from ._journal import Condition

__all__ = ["Breaker"]

_FAILURES: Final = 3
"""In a row, after which it opens."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two probes."""
_AWAY: Final = (CacheUnavailable, CacheTimeout, CacheOutcomeUnknown)


class Breaker:
    """Closed while the server answers; open from some failures in a row to the next sign of life.

    Args:
        probe: asks the server for a sign of life.
        counters: where it is seen whether it is open.
        random: numbers from 0 to 1.
        told: where it is told when it opens and closes.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[Any]],
        counters: CacheStats,
        random: Callable[[], float],
        told: Condition,
    ) -> None:
        self._probe = probe
        self._counters = counters
        self._random = random
        self._told = told
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None
        counters.breaker_open = False

    def pass_through(self) -> None:
        """To be called before the server is asked.

        Raises:
            CacheUnavailable: BREAKER_OPEN.
        """
        if self._probing is not None:
            raise CacheUnavailable("BREAKER_OPEN", "the server does not answer, and is left alone")

    def succeeded(self) -> None:
        """The server has answered."""
        self._failures = 0

    def failed(self, error: CacheError) -> None:
        """It has not, or it was not asked."""
        if isinstance(error, _AWAY) and self._probing is None:
            self._failures += 1
            if self._failures >= _FAILURES:
                self._counters.breaker_open = True
                self._told.worse(error.code)
                self._probing = asyncio.get_running_loop().create_task(self._until_it_answers())

    def stop(self) -> None:
        """Probe no more."""
        self._counters.breaker_open = False
        if self._probing is not None:
            self._probing.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        if self._probing is not None:
            await asyncio.wait((self._probing,))

    async def _until_it_answers(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause * (0.5 + self._random() / 2))
            pause = min(_LONGEST_PAUSE, 2 * pause)
            try:
                await self._probe()
            except CacheError:
                continue
            self._failures = 0
            self._counters.breaker_open = False
            self._probing = None
            self._told.better()
            return
