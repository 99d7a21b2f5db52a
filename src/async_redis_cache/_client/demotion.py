"""A server that refuses changes because it is no master: its name may lead to another one by now.

Connections outlive a change of the name, so without sentinels READONLY is the only sign of it. All connections
are dropped then, and new ones look the name up again. A server that really is a read-only replica says the same for
ever: so that is done after growing pauses, and calls are tried again for the first few refusals only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from async_redis_cache._common.backoff import Backoff

__all__ = ["Demotion"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two times that all connections are dropped."""


class Demotion:
    """What is known of one server that has refused changes.

    Args:
        clock: seconds.
        patience: seconds, from the first refusal, in which refused calls are tried again.
        leave: drops all connections.
    """

    def __init__(
        self, clock: Callable[[], float], patience: float, leave: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._patience = patience
        self._leave = leave
        self._first = -math.inf
        self._last = -math.inf
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._leave_at = -math.inf
        self.is_over = True
        """Whether the server has accepted a change since."""

    def refused(self) -> bool:
        """A change was refused: whether it is to be tried again."""
        now = self._clock()
        if self.is_over or now - self._last > self._patience + _LONGEST_PAUSE:
            self.is_over = False
            self._first = self._leave_at = now
            self._backoff.reset()
        self._last = now
        if now < self._leave_at:
            return now - self._first < self._patience
        self._leave_at = now + self._backoff.next_pause()
        self._leave()
        return True
