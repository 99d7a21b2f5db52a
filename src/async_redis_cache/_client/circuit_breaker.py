"""Circuit breaker: loads do not wait for a server that has stopped responding.

With a closed circuit, each load would first wait for the server until `command_timeout`, which may be most of the
time that its caller has.
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
"""Consecutive failures that open a circuit."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two probes."""


class CircuitBreakers:
    """What the circuit breakers of all servers of a cache share.

    Args:
        counters: `open_circuits` is the number of open circuits.
        random: returns numbers from 0 to 1.
    """

    def __init__(self, counters: CacheStats, random: Callable[[], float]) -> None:
        self.counters = counters
        self.random = random
        self.enabled = False
        """Whether failures are counted: since the first call that can continue without the server."""
        counters.open_circuits = 0


class CircuitBreaker:
    """The circuit breaker of one server. The circuit is open from the third consecutive failure to the next reply.

    Args:
        probe: sends a PING to the server.
        breakers: of the cache.
        health: logs when the circuit is opened and closed.
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
        """Whether loads are to skip the server."""
        self._stopped = False
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random=breakers.random)
        self._next: asyncio.TimerHandle | None = None

    def succeeded(self) -> None:
        """Close the circuit: the server has replied."""
        self._failures = 0
        if self.is_open:
            self._close()
            self._health.up()

    def failed(self, code: str) -> None:
        """Count a request that failed with this error code because the server did not reply."""
        self._failures += self._breakers.enabled
        if self._failures >= _FAILURES and not (self.is_open or self._stopped):
            self.is_open = True
            self._breakers.counters.open_circuits += 1
            self._health.down(code)
            self._backoff.reset()
            self._probe_later()

    def stop(self) -> None:
        """Close the circuit for good, and send no more probes."""
        self._stopped = True
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
            self._send_probe().add_done_callback(self._on_probed)
        except CacheError:
            # The queue is full.
            self._probe_later()

    def _on_probed(self, probe: asyncio.Future[Any]) -> None:
        if probe.cancelled() or probe.exception() is not None:
            # Meanwhile another reply may have closed the circuit and failures opened it again, which started
            # probes of its own.
            if self.is_open and self._next is None:
                self._probe_later()
        else:
            self.succeeded()
