"""One server: the calls that wait for it, and the connections on which they travel."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.endpoint import Address
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
from .request_queue import RequestQueue

__all__ = ["UNKNOWN_ADDRESS", "Node", "keepalive_policy"]

UNKNOWN_ADDRESS: Final[Address] = ("", 0)
_VALUES_A_KEY: Final = 2
"""How many values of `max_value_size` the reply for one key may be as long as: another process may have stored it
by a larger limit."""
_OVERHEAD_BYTES: Final = 128 * 1024
"""Bytes that may stand beside a value: its header, at most 64 KiB of tags, its envelope."""
_SPREAD: Final = 0.1
"""Share of their age by which connections end sooner, by chance."""
_CHECK_SHARE: Final = 0.25
"""Of what a call may take: for so long an idle connection is waited for that may have been cut."""
_CHECK_SECONDS: Final = 0.25
"""The same, at the most."""
_PROBE_SECONDS: Final = 0.4
"""How long a server that was away has to answer a probe: so that it is found back within a second."""


class Node:
    """A server that is asked.

    Args:
        dialer: connects to it.
        options: of the cache.
        counters: of the cache.
        told: where it is told when there is no connection to it, and when there is one again.
        breakers: of the cache.
        alone: where it is told when it is left alone, and when it is asked again. Without that it
            never is left alone.
        heard: told when it has answered.
        lost: told when it cannot be reached, or does not answer.
        unanswered: told when a call got no answer by its deadline: connections may have been cut in silence.
        may_move: whether another connection may lead to another server, as sentinels say.
        demoted: drops all connections to a server that is no master, where no sentinels say who is.
        router: who knows the other servers, where there are some.
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
        may_move: bool = False,
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
            may_move=may_move,
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
            on_available=self.batcher.ready,
            on_unreachable=self._unreachable,
            health=health,
            max_bytes_per_key=_VALUES_A_KEY * options.max_value_size + _OVERHEAD_BYTES,
            check_budget=min(options.command_seconds * _CHECK_SHARE, _CHECK_SECONDS),
        )
        self.batcher.use_pool(self.pool)

    def __repr__(self) -> str:
        return f"{self.batcher!r} {self.pool!r}"

    def is_circuit_open(self) -> bool:
        """Whether it does not answer, and is not to be asked."""
        return self._breaker.is_open

    def retire(self) -> None:
        """What waits for it is asked elsewhere, and so is everything from now on."""
        self._breaker.stop()
        self.pool.drop_other_addresses(UNKNOWN_ADDRESS)
        self.batcher.unreachable(LOST)
        self.pool.stop()

    def stop(self) -> None:
        """End every call, and every connection."""
        self._breaker.stop()
        self.batcher.close()
        self.pool.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        await self.pool.stopped()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._breaker.stop()
        self.pool.abandon()

    def _probe(self) -> asyncio.Future[Any]:
        return self.batcher.execute(PING, (), 16, budget=self._probe_budget, retries=0)

    def _unreachable(self, failure: Failure) -> None:
        self._on_lost()
        self.batcher.unreachable(failure)


def keepalive_policy(options: Options, heartbeat: float) -> KeepalivePolicy:
    """How a link is kept whose heart beats once in so many seconds."""
    timeout = options.connect_seconds
    return KeepalivePolicy(heartbeat, timeout, _lifetime_of(options), random.random, time.monotonic)


def _lifetime_of(options: Options) -> Callable[[], float]:
    """Gives for how many seconds a connection is used: not all end at once that began at once."""
    age = options.connection_age_seconds
    return lambda: age * (1 - _SPREAD * random.random())  # noqa: S311  no secret
