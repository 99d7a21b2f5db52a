"""The server's time, without a request each time.

The wall clocks of two hosts may be an hour apart; the server's clock is the one that all processes can read. It is
sampled at most once a second, and only for reads of values that may be stale; in between, the time that has passed here
is added to the last sample.
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

_SAMPLE_INTERVAL: Final = 1.0
"""Seconds after which the clock is sampled again in the background."""
_MAX_SAMPLE_AGE: Final = 10.0
"""Seconds after which a call waits for a new sample."""
_DRIFT: Final = 0.01
"""Seconds of uncertainty that each second adds to a sample: far more than clocks drift, so that a good sample is soon
replaced by one that is nearly as good."""


class ServerClock:
    """An estimate of the server's clock.

    Args:
        executor: sends the requests.
        clock: returns seconds, which advance as the clock of the server does.
    """

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self._offset = 0.0
        """Seconds by which the server's clock is ahead of `clock`."""
        self._uncertainty = math.inf
        self._sampled = -math.inf
        self._query: asyncio.Future[float] | None = None

    async def now(self, budget: float | None = None) -> int:
        """Return the server's time, in milliseconds since the epoch.

        Args:
            budget: the most seconds to wait for a new sample, where one is needed.

        Raises:
            CacheError: the last sample is too old, and there is no new one.
        """
        age = self._clock() - self._sampled
        if age > _MAX_SAMPLE_AGE:
            sample = self._sample()
            await asyncio.wait((sample,), timeout=budget)
            if not sample.done():
                raise TIMED_OUT.error()
            sample.result()
        elif age > _SAMPLE_INTERVAL:
            # If the request fails, the last sample remains good enough for a while.
            with contextlib.suppress(CacheError):
                self._sample()
        return int((self._clock() + self._offset) * SECOND)

    def known(self) -> int | None:
        """Return the server's time in milliseconds since the epoch; None where a new sample is due."""
        now = self._clock()
        return (
            None if now - self._sampled > _SAMPLE_INTERVAL else int((now + self._offset) * SECOND)
        )

    def _sample(self) -> asyncio.Future[float]:
        if self._query is None:
            sent_at = self._clock()
            self._query = self._executor.execute(TIME, (), 16)
            self._query.add_done_callback(
                lambda query: self._record_sample(query, sent_at), context=Context()
            )
        return self._query

    def _record_sample(self, query: asyncio.Future[float], sent_at: float) -> None:
        self._query = None
        if query.cancelled() or query.exception() is not None:
            return
        received_at = self._clock()
        uncertainty = (received_at - sent_at) / 2
        offset = query.result() - (sent_at + received_at) / 2
        known = self._uncertainty + _DRIFT * (received_at - self._sampled)
        # Keep the better of the two, unless they contradict each other: then the server's clock was set.
        if uncertainty <= known or abs(offset - self._offset) > uncertainty + known:
            self._offset, self._uncertainty = offset, uncertainty
        else:
            self._uncertainty = known
        self._sampled = received_at
