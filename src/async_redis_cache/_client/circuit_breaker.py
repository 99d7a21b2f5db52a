"""A server that does not answer is left alone, until it does again.

Without this each call that goes on without the server would first wait for it: for as long as a call
may take, which is most of what a caller has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.stats import CacheStats

__all__ = ["CircuitBreaker", "CircuitBreakers"]

_FAILURES: Final = 3
"""In a row, after which it opens."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two probes."""


class CircuitBreakers:
    """What those of all servers have in common.

    Args:
        counters: where it is counted how many are open.
        random: numbers from 0 to 1.
    """

    def __init__(self, counters: CacheStats, random: Callable[[], float]) -> None:
        self.counters = counters
        self.random = random
        self.enabled = False
        """Whether there are calls that go on without the server. Before there are, none opens."""
        counters.open_circuits = 0


class CircuitBreaker:
    """That of one server: closed while it answers, open from some failures in a row to the next answer.

    Args:
        probe: asks the server for a sign of life.
        breakers: all of them.
        told: where it is told when it opens and closes.
    """

    def __init__(
        self, probe: Callable[[], asyncio.Future[Any]], breakers: CircuitBreakers, health: Condition
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._send_probe = probe
        self._breakers = breakers
        self._health = health
        self._failures = 0
        self.is_open = False
        """Whether the server is to be left alone."""
        self._is_over = False
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random=breakers.random)
        self._next: asyncio.TimerHandle | None = None

    def succeeded(self) -> None:
        """The server has answered."""
        self._failures = 0
        if self.is_open:
            self._close()
            self._health.up()

    def failed(self, code: str) -> None:
        """It has not, and a call has ended in this."""
        self._failures += self._breakers.enabled
        if self._failures >= _FAILURES and not (self.is_open or self._is_over):
            self.is_open = True
            self._breakers.counters.open_circuits += 1
            self._health.down(code)
            self._backoff.reset()
            self._probe_later()

    def stop(self) -> None:
        """Be closed from now on, and probe no more."""
        self._is_over = True
        if self.is_open:
            self._close()

    def _close(self) -> None:
        self.is_open = False
        self._breakers.counters.open_circuits -= 1
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _probe_later(self) -> None:
        pause = self._backoff.next_pause()
        self._next = self._loop.call_later(pause, self._probe, context=Context())

    def _probe(self) -> None:
        self._next = None
        try:
            self._send_probe().add_done_callback(self._probed)
        except CacheError:
            # So many calls wait that there is no room for one more.
            self._probe_later()

    def _probed(self, probe: asyncio.Future[Any]) -> None:
        if probe.cancelled() or probe.exception() is not None:
            # Others may have found it back meanwhile, and lost it again: that has its own probes.
            if self.is_open and self._next is None:
                self._probe_later()
        else:
            self.succeeded()
