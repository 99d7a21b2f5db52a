"""A single server, or the master that Sentinel names, with its invalidation channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.health_log import HealthLog
from async_redis_cache._common.log_events import (
    CIRCUIT,
    INVALIDATION_CHANNEL,
    LOGIN,
    SENTINEL,
    SERVER,
)
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import Connector, SupportsConnect
from async_redis_cache._connection.push import PushChannel
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import PING

from .circuit_breaker import CircuitBreakers
from .node import Node, keepalive_policy
from .reauthentication import Reauthentication, SupportsReauthenticate
from .sentinel import MasterConnector, Sentinels
from .tracking import InvalidationListener, TrackingChannel

__all__ = ["Standalone"]

_SENTINEL_HEARTBEAT: Final = 1.0


class Standalone:
    """The only server, or the only master, of a cache.

    Args:
        endpoint: address of the server, or of the Sentinels.
        options: of the cache.
        counters: of the cache.
        breakers: of the cache.
        health_log: logs changes of state.
        listener: receives invalidations, if there is a near cache.
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
        has_sentinels = endpoint.topology == "sentinel"
        self._sentinels: Sentinels | None = None
        if has_sentinels:
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
            on_timeout=self._check_idle,
            has_sentinels=has_sentinels,
            on_demoted=None if has_sentinels else self._on_demoted,
        )
        self._tracking: TrackingChannel | None = None
        if listener is not None:
            self._tracking = TrackingChannel(
                self._connector(endpoint, options, protocol=3),
                listener,
                prefix=options.key_prefix.encode(),
                policy=keepalive_policy(options, options.heartbeat_seconds),
                health=health_log.condition(INVALIDATION_CHANNEL),
            )
        self._reauthentication = Reauthentication(
            endpoint.login_source, self._connections, health_log.condition(LOGIN)
        )
        for channel in self._channels():
            channel.start()

    def __repr__(self) -> str:
        return repr(self._node)

    @property
    def master(self) -> Address | None:
        """The address of the master that Sentinel names; None without Sentinel, or before it is known."""
        return None if self._sentinels is None else self._sentinels.master

    @property
    def executor(self) -> Executor:
        """Runs commands on the server."""
        return self._node.batcher

    @property
    def executors(self) -> Sequence[Executor]:
        """One executor for each server that has keys: a single one."""
        return (self.executor,)

    async def moves(self, deadline: float) -> int:
        """Return 0: keys do not move between servers."""
        return 0

    def is_circuit_open(self, key: bytes) -> bool:
        """Whether the circuit of the server is open."""
        return self._node.is_circuit_open()

    async def connect(self, budget: float, opening: Command = PING) -> None:
        """Connect, log in and run one command: one attempt, within so many seconds.

        Raises:
            CacheUnsupported: the server, or the user, lacks something that an option needs.
            CacheError: the attempt failed otherwise.
        """
        await self.executor.execute(opening, (), 0, budget=budget, retries=0)
        if self._tracking is not None:
            failure = await self._tracking.first_attempt()
            if failure is not None:
                raise failure._replace(server=self._name).error()

    def has_unread(self) -> bool:
        """Whether invalidations have arrived that have not been applied yet."""
        return self._tracking is not None and self._tracking.has_unread()

    def stop(self) -> None:
        """Fail every request and close every connection and channel."""
        self._reauthentication.stop()
        self._node.stop()
        for channel in self._channels():
            channel.stop()

    async def stopped(self) -> None:
        """Wait until all of them are closed."""
        await self._node.stopped()
        for channel in self._channels():
            await channel.stopped()

    def abandon(self) -> None:
        """Close every connection although the event loop is closed."""
        self._reauthentication.stop()
        self._node.abandon()
        for channel in self._channels():
            channel.abandon()

    def _channels(self) -> list[PushChannel]:
        channels = [] if self._sentinels is None else self._sentinels.channels
        return channels if self._tracking is None else [*channels, self._tracking]

    def _connections(self) -> Iterator[SupportsReauthenticate]:
        """The connections that the login of the cache is for."""
        yield self._node.pool
        if self._tracking is not None:
            yield self._tracking
        if self._sentinels is not None:
            yield from self._sentinels.with_login_of_cache()

    def _check_idle(self) -> None:
        # A request has timed out: what cut off its connection may have cut off idle ones too.
        self._node.pool.check_idle()

    def _on_master_changed(self, master: Address) -> None:
        self._health_log.master_changed(name_of(master))
        self._drop_other_addresses(master)

    def _on_demoted(self) -> None:
        self._node.batcher.drain()
        if self._tracking is not None:
            self._tracking.drop_other_addresses(None)

    def _drop_other_addresses(self, address: Address | None) -> None:
        self._node.pool.drop_other_addresses(address)
        if self._tracking is not None:
            self._tracking.drop_other_addresses(address)

    def _connector(
        self, endpoint: Endpoint, options: Options, *, protocol: int = 2
    ) -> SupportsConnect:
        if self._sentinels is None:
            return Connector(endpoint, options, protocol=protocol)
        return MasterConnector(self._sentinels, endpoint, options, protocol=protocol)
