"""A master that was demoted: its host name may resolve to another master by now.

Open connections do not follow a change of the name. Without Sentinel, READONLY is the only sign of it. Then no open
connection is used any more, and new ones resolve the name again. A server that is a read-only replica for good replies
with READONLY to every write. So connections are renewed only after growing pauses, and requests are retried only for
`command_timeout` after the first READONLY.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.failures import Failure
from async_redis_cache._connection.connection import RedisConnection
from async_redis_cache._connection.pool import ConnectionPool

from .pipeline import Pipeline
from .request import Request

__all__ = ["DEMOTED", "Demotion", "drain"]

DEMOTED: Final = "READONLY"
_NO_MASTER: Final = {DEMOTED, "MASTERDOWN"}
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two times that all connections are renewed."""
_DRAIN_SECONDS: Final = 0.25
"""For how long the former master may take to reply to what it has been sent."""
_NO_RETRY_SHARE: Final = 0.25
"""Fraction of `command_timeout` before the deadline of a request in which it is not retried."""


class Demotion:
    """Decides, for one server, when READONLY ends the use of its connections and which requests are retried.

    Args:
        clock: seconds; that of the requests' deadlines.
        command_timeout: seconds.
        leave_connections: ends the use of all connections.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        command_timeout: float,
        leave_connections: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._timeout = command_timeout
        self._leave_connections = leave_connections
        self._first = -math.inf
        self._last = -math.inf
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._next_leave = -math.inf
        self.is_over = True
        """Whether the server has accepted a write since the last READONLY."""

    def review(
        self, refused: list[tuple[Request, Failure]], *, has_writes: bool, is_draining: bool
    ) -> list[tuple[Request, Failure]]:
        """Return the refused requests of a pipeline, with those that READONLY refused marked as retryable or not.

        Args:
            refused: the requests that the server has refused, and why.
            has_writes: whether writes of the pipeline were executed or refused.
            is_draining: whether it was in flight when the use of its connection ended. It says nothing of newer ones.
        """
        if not refused:
            self.is_over = self.is_over or (has_writes and not is_draining)
        elif any(failure.code in _NO_MASTER for _, failure in refused):
            # Shortly before a deadline no attempt is begun: if that passed meanwhile, the outcome would be unknown.
            is_retried = self._is_recent(self._clock()) if is_draining else self.refused()
            retry_until = (
                self._clock() + self._timeout * _NO_RETRY_SHARE if is_retried else math.inf
            )
            return [
                (request, failure._replace(retryable=retry_until < request.deadline))
                if failure.code == DEMOTED
                else (request, failure)
                for request, failure in refused
            ]
        return refused

    def refused(self) -> bool:
        """Record a refusal, leave all connections unless that was done just now, and return whether to retry."""
        now = self._clock()
        if self.is_over or now - self._last > self._timeout + _LONGEST_PAUSE:
            self.is_over = False
            self._first = self._next_leave = now
            self._backoff.reset()
        self._last = now
        if now < self._next_leave:
            return self._is_recent(now)
        self._next_leave = now + self._backoff.next_pause()
        self._leave_connections()
        return True

    def _is_recent(self, now: float) -> bool:
        return now - self._first < self._timeout


def drain(in_flight: Mapping[Pipeline, RedisConnection], pool: ConnectionPool) -> list[Request]:
    """Use the open connections of a pool no longer: they lead to a former master.

    One with writes in flight is closed when their replies have come, so that their outcome is known, but not later than
    after `_DRAIN_SECONDS`.

    Args:
        in_flight: the pipelines in flight, now and later.
        pool: of their connections and the idle ones.

    Returns:
        The requests to read that are in flight beside writes, to be sent on other connections.
    """
    reads: list[Request] = []
    draining: dict[Pipeline, RedisConnection] = {}
    for pipeline, connection in in_flight.items():
        # The one whose reply has led here waits for no other.
        if connection.is_busy and not pipeline.is_read_only:
            draining[pipeline] = connection
            connection.retires_at = -math.inf
            reads += pipeline.drain()

    def end() -> None:
        for pipeline, connection in draining.items():
            if pipeline in in_flight:
                connection.drop()

    pool.drop_other_addresses(None, kept=frozenset(draining.values()))
    if draining:
        asyncio.get_running_loop().call_later(_DRAIN_SECONDS, end, context=Context())
    return reads
