"""One server, or the one that the sentinels call the master; and the links on which they tell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.health_log import (
    CIRCUIT,
    INVALIDATION_CHANNEL,
    SENTINEL,
    SERVER,
    HealthLog,
)
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import Connector, SupportsConnect
from async_redis_cache._connection.push import PushChannel
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import PING

from .circuit_breaker import CircuitBreakers
from .node import Node, keepalive_policy
from .sentinel import Sentinels
from .sentinel_connector import MasterConnector
from .tracking import InvalidationListener, TrackingChannel

__all__ = ["Standalone"]

_SENTINEL_HEARTBEAT: Final = 1.0


class Standalone:
    """A server.

    Args:
        endpoint: where it is, or the sentinels are.
        options: of the cache.
        counters: of the cache.
        breakers: of the cache.
        health_log: records the changes of state.
        listener: told what changes, where somebody wants to know.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        counters: CacheStats,
        breakers: CircuitBreakers,
        health_log: HealthLog,
        *,
        listener: InvalidationListener | None,
    ) -> None:
        self._health_log = health_log
        self._name = endpoint.name
        by_sentinels = endpoint.topology == "sentinel"
        self._sentinels: Sentinels | None = None
        if by_sentinels:
            self._sentinels = Sentinels(
                endpoint,
                options,
                self._on_master_changed,
                keepalive_policy(options, _SENTINEL_HEARTBEAT),
                lambda sentinel: health_log.condition(SENTINEL, name_of(sentinel)),
            )
        self._node = Node(
            self._connector(endpoint, options),
            options,
            counters,
            health=health_log.condition(SERVER),
            breakers=breakers,
            circuit_health=health_log.condition(CIRCUIT),
            may_move=by_sentinels,
            on_timeout=self._check_idle,
            on_demoted=None if by_sentinels else partial(self._drop_other_addresses, None),
        )
        self._tracking: TrackingChannel | None = None
        if listener is not None:
            self._tracking = TrackingChannel(
                self._connector(endpoint, options, protocol=3),
                listener,
                prefix=options.key_prefix.encode(),
                pace=keepalive_policy(options, options.heartbeat_seconds),
                told=health_log.condition(INVALIDATION_CHANNEL),
            )
        for link in self._links():
            link.start()

    def __repr__(self) -> str:
        return repr(self._node)

    @property
    def master(self) -> Address | None:
        """Where the sentinels have led everybody, if there are any."""
        return None if self._sentinels is None else self._sentinels.place

    @property
    def executor(self) -> Executor:
        """Who asks it."""
        return self._node.batcher

    @property
    def executors(self) -> Sequence[Executor]:
        """Who asks each server that has keys."""
        return (self.executor,)

    async def moves(self, deadline: float) -> int:
        """How often keys were seen to have moved from one server to another."""
        return 0

    def is_circuit_open(self, key: bytes) -> bool:
        """See `Node.is_left_alone`."""
        return self._node.is_circuit_open()

    async def connect(self, budget: float, opening: Command = PING) -> None:
        """Connect, log in and ask for a first sign of life: one attempt, within so many seconds.

        Raises:
            CacheUnsupported: the server, or the user, cannot do what an option needs.
            CacheError: whatever else came of the attempt.
        """
        await self.executor.execute(opening, (), 0, budget=budget, retries=0)
        if self._tracking is not None:
            failure = await self._tracking.first()
            if failure is not None:
                raise failure._replace(server=self._name).error()

    def has_unread(self) -> bool:
        """Whether there is news of changes that has come, and has not been passed on."""
        return self._tracking is not None and self._tracking.has_unread()

    def stop(self) -> None:
        """End every call, every connection and every link."""
        self._node.stop()
        for link in self._links():
            link.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        await self._node.stopped()
        for link in self._links():
            await link.stopped()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._node.abandon()
        for link in self._links():
            link.abandon()

    def _links(self) -> list[PushChannel]:
        links = [] if self._sentinels is None else self._sentinels.channels
        return links if self._tracking is None else [*links, self._tracking]

    def _check_idle(self) -> None:
        """A call got no answer: what has cut its connection may have cut others."""
        self._node.pool.check_idle()

    def _on_master_changed(self, place: Address) -> None:
        """The master is now there: what was said to another is not to be relied on."""
        self._health_log.master_changed(name_of(place))
        self._drop_other_addresses(place)

    def _drop_other_addresses(self, place: Address | None) -> None:
        self._node.pool.drop_other_addresses(place)
        if self._tracking is not None:
            self._tracking.drop_other_addresses(place)

    def _connector(
        self, endpoint: Endpoint, options: Options, *, protocol: int = 2
    ) -> SupportsConnect:
        if self._sentinels is None:
            return Connector(endpoint, options, protocol=protocol)
        return MasterConnector(self._sentinels, endpoint, options, protocol=protocol)
