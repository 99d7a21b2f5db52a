"""One server: its requests, its connections and its circuit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.failures import LOST, Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import SupportsConnect
from async_redis_cache._connection.pool import ConnectionPool
from async_redis_cache._connection.push import KeepalivePolicy
from async_redis_cache._protocol.commands import PING

from .batcher import Batcher, Router
from .circuit_breaker import CircuitBreaker, CircuitBreakers
from .demotion import Demotion
from .request import RequestQueue

__all__ = ["Node", "keepalive_policy"]

_VALUES_PER_KEY: Final = 2
"""Maximum length of the reply for one key, in values of `max_value_size`: another process may have stored the value
under a higher limit."""
_OVERHEAD_BYTES: Final = 128 * 1024
"""Maximum length of what is stored with a value: its header, with up to 64 KiB of tags, and its envelope."""
_AGE_SPREAD: Final = 0.1
"""Fraction by which the age of connections is reduced at random."""
_CHECK_SHARE: Final = 0.25
"""Fraction of `command_timeout` to wait for an idle connection that may have been cut off."""
_CHECK_SECONDS: Final = 0.25
"""Maximum of that time."""
_PROBE_SECONDS: Final = 0.4
"""Maximum time for a probe: short enough to notice within a second that the server responds again."""


class Node:
    """One server.

    Args:
        connector: connects to it.
        options: of the cache.
        counters: of the cache.
        health: logs when the server is down and up.
        breakers: of the cache.
        circuit_health: logs when the circuit is opened and closed.
        on_lost: called when the server cannot be reached or does not reply.
        on_timeout: called when a request has timed out without any reply: its connection may have been cut off silently.
        has_sentinels: whether another connection may lead to another server.
        on_demoted: closes all connections to a server that is no longer a master, where there is no Sentinel.
        router: finds the node of a request, in a cluster.
    """

    def __init__(
        self,
        connector: SupportsConnect,
        options: Options,
        counters: CacheStats,
        *,
        health: Condition,
        breakers: CircuitBreakers,
        circuit_health: Condition,
        on_lost: Callable[[], None] = lambda: None,
        on_timeout: Callable[[], None] = lambda: None,
        has_sentinels: bool = False,
        on_demoted: Callable[[], None] | None = None,
        router: Router | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._probe_budget = min(options.command_seconds, _PROBE_SECONDS)
        self._breaker = CircuitBreaker(self._probe, breakers, circuit_health)
        self.batcher = Batcher(
            counters,
            on_answer=self._breaker.succeeded,
            on_failure=self._breaker.failed,
            on_silence=on_lost,
            on_timeout=on_timeout,
            budget=options.command_seconds,
            retries=options.retries,
            queue=RequestQueue(options.max_waiting_calls, options.max_waiting_bytes),
            backoff=RetryBackoff(loop.time, random.random),
            has_sentinels=has_sentinels,
            demotion=on_demoted and Demotion(loop.time, options.command_seconds, on_demoted),
            router=router,
            server=health.server,
        )
        self.pool = ConnectionPool(
            connector,
            max_connections=options.max_connections,
            lifetime=_lifetime_of(options),
            counters=counters,
            backoff=RetryBackoff(loop.time, random.random),
            on_available=self.batcher.flush_soon,
            on_unreachable=self._unreachable,
            health=health,
            max_bytes_per_key=_VALUES_PER_KEY * options.max_value_size + _OVERHEAD_BYTES,
            check_budget=min(options.command_seconds * _CHECK_SHARE, _CHECK_SECONDS),
        )
        self.batcher.use_pool(self.pool)

    def __repr__(self) -> str:
        return f"{self.batcher!r} {self.pool!r}"

    def is_circuit_open(self) -> bool:
        """Whether the circuit is open: the server has not responded to several requests."""
        return self._breaker.is_open

    def retire(self) -> None:
        """Use the server no longer. Its requests fail, so that the router sends them to other nodes."""
        self._breaker.stop()
        self.pool.drop_other_addresses(None)
        self.batcher.on_unreachable(LOST)
        self.pool.stop()

    def stop(self) -> None:
        """Fail every request and close every connection."""
        self._breaker.stop()
        self.batcher.close()
        self.pool.stop()

    async def stopped(self) -> None:
        """Wait until all connections are closed."""
        await self.pool.stopped()

    def abandon(self) -> None:
        """Close every connection although the event loop is closed."""
        self._breaker.stop()
        self.pool.abandon()

    def _probe(self) -> asyncio.Future[Any]:
        return self.batcher.execute(PING, (), 16, budget=self._probe_budget, retries=0)

    def _unreachable(self, failure: Failure) -> None:
        self._on_lost()
        self.batcher.on_unreachable(failure)


def keepalive_policy(options: Options, heartbeat: float) -> KeepalivePolicy:
    """Return the policy of a push channel with this heartbeat, in seconds."""
    return KeepalivePolicy(
        heartbeat, options.connect_seconds, _lifetime_of(options), random.random, time.monotonic
    )


def _lifetime_of(options: Options) -> Callable[[], float]:
    """Return a function that gives the lifetime of a new connection in seconds.

    It is random, so that connections that were made together are not replaced together.
    """
    age = options.connection_age_seconds
    return lambda: age * (1 - _AGE_SPREAD * random.random())  # noqa: S311  no secret
