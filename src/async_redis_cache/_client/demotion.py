"""A master that was demoted: its host name may resolve to another master by now.

Open connections do not follow a change of the name. Without Sentinel, READONLY is the only sign of it. Then all
connections are closed, and new ones resolve the name again. A server that is a read-only replica for good replies with
READONLY to every write. So connections are closed only after growing pauses, and requests are retried only for
`command_timeout` after the first READONLY.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.failures import Failure

from .request import Request

__all__ = ["DEMOTED", "Demotion"]

DEMOTED: Final = "READONLY"
_NO_MASTER: Final = {DEMOTED, "MASTERDOWN"}
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two times that all connections are closed."""
_NO_RETRY_SHARE: Final = 0.25
"""Fraction of `command_timeout` before the deadline of a request in which it is not retried."""


class Demotion:
    """Decides, for one server, when READONLY closes its connections and which requests are retried.

    Args:
        clock: seconds; that of the requests' deadlines.
        command_timeout: seconds.
        drop_connections: closes all connections.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        command_timeout: float,
        drop_connections: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._timeout = command_timeout
        self._drop_connections = drop_connections
        self._first = -math.inf
        self._last = -math.inf
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._next_drop = -math.inf
        self.is_over = True
        """Whether the server has accepted a write since the last READONLY."""

    def review(
        self, refused: list[tuple[Request, Failure]], *, has_writes: bool
    ) -> list[tuple[Request, Failure]]:
        """Return the refused requests of a pipeline, with those that READONLY refused marked as retryable or not.

        Args:
            refused: the requests that the server has refused, and why.
            has_writes: whether writes of the pipeline were executed or refused.
        """
        if not refused:
            self.is_over = self.is_over or has_writes
        elif any(failure.code in _NO_MASTER for _, failure in refused):
            # Shortly before a deadline no attempt is begun: if that passed meanwhile, the outcome would be unknown.
            retry_until = (
                self._clock() + self._timeout * _NO_RETRY_SHARE if self.refused() else math.inf
            )
            return [
                (request, failure._replace(retryable=retry_until < request.deadline))
                if failure.code == DEMOTED
                else (request, failure)
                for request, failure in refused
            ]
        return refused

    def refused(self) -> bool:
        """Record a refusal, close all connections unless that was done just now, and return whether to retry."""
        now = self._clock()
        if self.is_over or now - self._last > self._timeout + _LONGEST_PAUSE:
            self.is_over = False
            self._first = self._next_drop = now
            self._backoff.reset()
        self._last = now
        if now < self._next_drop:
            return now - self._first < self._timeout
        self._next_drop = now + self._backoff.next_pause()
        self._drop_connections()
        return True
