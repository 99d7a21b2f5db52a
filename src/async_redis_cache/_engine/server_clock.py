"""What time it is on the server, without asking each time.

The wall clocks of two hosts may be an hour apart; the server's is the one that all can ask. It is asked
at most once a second, and only by those who read what may be stale; between, the monotonic clock goes
on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from contextvars import Context
from typing import Final

from async_redis_cache._common.durations import SECOND
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.failures import TIMED_OUT
from async_redis_cache._protocol.command import Executor
from async_redis_cache._protocol.commands import TIME

__all__ = ["ServerClock"]

_OFTEN: Final = 1.0
"""Seconds after which it is asked again, while nobody waits for the answer."""
_TOO_OLD: Final = 10.0
"""Seconds after which who wants to know waits for the answer."""
_DRIFT: Final = 0.01
"""How much more uncertain each second makes it: far more than clocks drift, so that a good sample is
replaced by one that is nearly as good soon."""


class ServerClock:
    """The server's clock, as far as it is known here.

    Args:
        batcher: asks the server.
        clock: seconds, monotonic.
    """

    def __init__(self, batcher: Executor, clock: Callable[[], float]) -> None:
        self._batcher = batcher
        self._clock = clock
        self._ahead = 0.0
        """Seconds that the server's clock is ahead of ours."""
        self._uncertainty = math.inf
        self._sampled = -math.inf
        self._query: asyncio.Future[float] | None = None

    async def now(self, budget: float | None = None) -> int:
        """Milliseconds since the epoch.

        Args:
            budget: seconds to wait for the server at the most, where that has to be asked.

        Raises:
            CacheError: the server has not said for too long, and does not now.
        """
        age = self._clock() - self._sampled
        if age > _TOO_OLD:
            sample = self._sample()
            await asyncio.wait((sample,), timeout=budget)
            if not sample.done():
                raise TIMED_OUT.error()
            sample.result()
        elif age > _OFTEN:
            # Where it cannot be asked, what is known will do for a while.
            with contextlib.suppress(CacheError):
                self._sample()
        return int((self._clock() + self._ahead) * SECOND)

    def known(self) -> int | None:
        """Milliseconds since the epoch, where that is known well enough to ask nobody."""
        now = self._clock()
        return None if now - self._sampled > _OFTEN else int((now + self._ahead) * SECOND)

    def _sample(self) -> asyncio.Future[float]:
        if self._query is None:
            asked_at = self._clock()
            self._query = self._batcher.execute(TIME, (), 16)
            self._query.add_done_callback(
                lambda asked: self._record_sample(asked, asked_at), context=Context()
            )
        return self._query

    def _record_sample(self, asked: asyncio.Future[float], asked_at: float) -> None:
        self._query = None
        if asked.cancelled() or asked.exception() is not None:
            return
        answered_at = self._clock()
        uncertainty = (answered_at - asked_at) / 2
        ahead = asked.result() - (asked_at + answered_at) / 2
        known = self._uncertainty + _DRIFT * (answered_at - self._sampled)
        # The better of the two, unless they contradict each other: then the clock was set.
        if uncertainty <= known or abs(ahead - self._ahead) > uncertainty + known:
            self._ahead, self._uncertainty = ahead, uncertainty
        else:
            self._uncertainty = known
        self._sampled = answered_at
